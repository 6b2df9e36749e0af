"""What the gateway does when a process behind it dies, drains, hangs or says no: nobody notices, where that is safe."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from holdfast import ids
from holdfast.auth.signing_keys import create_signing_keys
from holdfast.settings import Settings
from house import refused
from running_gateway import Asked, Change, Double, Doubles, Reply, doubled

pytestmark = pytest.mark.asyncio(loop_scope="module")

# One try is given up after 1.3 s, and all of them after 5.6 s.
PATIENCE = 0.3
BUSY = 503, {"content-type": "application/problem+json", "retry-after": "1"}, b'{"code":"busy","by":"the service"}'


@asynccontextmanager
async def behind(folder: Path, change: Change | None = None) -> AsyncIterator[Doubles]:
    """A gateway with short patience."""
    create_signing_keys(folder / "keys.json")
    settings = Settings(signing_key_file=folder / "keys.json", database_timeout_seconds=PATIENCE)
    async with doubled(settings, folder, change) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doubles]:
    async with behind(tmp_path_factory.mktemp("faults")) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def house(shared: Doubles) -> Doubles:
    """The shared one, with everybody well."""
    for service, some in shared.processes.items():
        for process in some:
            process.asked.clear()
            process.is_ready = True
            process.answer = process.say_name
        await shared.until_healthy(service, 2)
        for _ in range(1000):
            if not shared.gateway.ejected(service):
                break
            await asyncio.sleep(0.02)
    return shared


def fails_once(house: Doubles, service: str, failure: Reply | None) -> None:
    """Whoever is asked first fails, and all others answer."""
    failed = False
    for process in house.processes[service]:

        async def answer(asked: Asked, process: Double = process) -> Reply | None:
            nonlocal failed
            if failed:
                return await process.say_name(asked)
            failed = True
            return failure

        process.answer = answer


async def hangs(_: Asked) -> Reply | None:
    await asyncio.sleep(30)
    return None


# Unsafe to repeat: it may have been done.
ONCE = [("POST", "/users/register"), ("POST", "/users/login"), ("POST", "/users/refresh"), ("POST", "/events"),
        ("PATCH", "/events/x"), ("DELETE", "/events/x/tiers/y"), ("POST", "/users/x/role")]  # fmt: skip
AGAIN = [("POST", "/orders/create"), ("POST", "/orders/x/confirm"), ("POST", "/orders/x/cancel"), ("GET", "/orders/x"),
         ("GET", "/events"), ("GET", "/events/x/tickets"), ("GET", "/users/me")]  # fmt: skip


def _service(path: str) -> str:
    return {"users": "auth", "events": "tickets", "orders": "orders"}[path.split("/")[1]]


async def _ask_often(house: Doubles, method: str, path: str, times: int) -> list[httpx.Response]:
    return await asyncio.gather(*(_ask(house, method, path) for _ in range(times)))


async def _ask(house: Doubles, method: str, path: str) -> httpx.Response:
    return await house.client.request(method, path, headers=house.headers())


@pytest.mark.parametrize(("method", "path"), AGAIN)
@pytest.mark.parametrize("failure", [None, BUSY])
async def test_what_may_be_repeated_is(house: Doubles, method: str, path: str, failure: Reply | None) -> None:
    fails_once(house, _service(path), failure)
    assert (await _ask(house, method, path)).status_code == 200
    # By another process than the one that failed.
    asked = [len(process.asked) for process in house.processes[_service(path)]]
    assert asked == [1, 1]


@pytest.mark.parametrize(("method", "path"), ONCE)
@pytest.mark.parametrize("failure", [None, BUSY])
async def test_what_may_not_be_repeated_is_not(house: Doubles, method: str, path: str, failure: Reply | None) -> None:
    fails_once(house, _service(path), failure)
    reply = await _ask(house, method, path)
    if failure is None:
        assert refused(reply) == "503 busy"
    else:
        # The service's own words, as they are.
        assert (reply.status_code, reply.json()["by"]) == (503, "the service")
    assert len(house.asked(_service(path))) == 1


async def test_a_process_that_is_gone_is_noticed_by_nobody(house: Doubles) -> None:
    users = [ids.new_id() for _ in range(24)]
    assert {(await house.buy(user)).json()["by"] for user in users} == {"orders 1", "orders 2"}
    await house.processes["orders"][0].stop()
    try:
        replies = await asyncio.gather(*(house.buy(user) for user in users))
        signed_in = await _ask_often(house, "POST", "/users/login", 8)
        assert {reply.status_code for reply in [*replies, *signed_in]} == {200}
        await house.until_healthy("orders", 1)
    finally:
        await house.processes["orders"][0].start()


async def test_a_sign_in_goes_where_somebody_listens(house: Doubles) -> None:
    await house.processes["auth"][0].stop()
    try:
        replies = await _ask_often(house, "POST", "/users/login", 16)
        assert {reply.status_code for reply in replies} == {200}
    finally:
        await house.processes["auth"][0].start()


def _without_retries(document: dict[str, Any]) -> None:
    for route in _routes(document):
        del route["route"]["retry_policy"]


def _routes(document: dict[str, Any]) -> list[dict[str, Any]]:
    (listener,) = document["static_resources"]["listeners"]
    connections = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes: list[dict[str, Any]] = connections["route_config"]["virtual_hosts"][0]["routes"]
    return routes


async def test_the_control_without_retries_it_is_noticed(tmp_path: Path) -> None:
    async with behind(tmp_path, _without_retries) as house:
        users = [ids.new_id() for _ in range(24)]
        for user in users:
            await house.buy(user)
        await house.processes["orders"][0].stop()
        replies = await asyncio.gather(*(house.buy(user) for user in users))
        assert "503 busy" in {refused(reply) for reply in replies if reply.status_code != 200}


async def test_a_process_that_drains_is_asked_no_more(house: Doubles) -> None:
    draining = house.processes["orders"][0]
    draining.is_ready = False
    await house.until_healthy("orders", 1)
    draining.asked.clear()
    replies = await asyncio.gather(*(house.buy() for _ in range(24)))
    assert {reply.json()["by"] for reply in replies} == {"orders 2"}
    assert not draining.asked


async def test_when_nobody_is_well_everybody_is_tried(house: Doubles) -> None:
    for process in house.processes["orders"]:
        process.is_ready = False
    await house.until_healthy("orders", 0)
    assert (await house.buy()).status_code == 200


async def test_silence_is_not_waited_for(house: Doubles) -> None:
    silent = house.processes["tickets"][0]
    silent.answer = hangs
    replies = await asyncio.gather(*(house.client.get("/events") for _ in range(8)))
    assert {reply.json()["by"] for reply in replies} == {"tickets 2"}
    assert silent.asked


@pytest.mark.slow
async def test_patience_ends(house: Doubles) -> None:
    house.answer("orders", hangs)
    assert refused(await house.buy()) == "503 busy"
    assert 2 <= len(house.asked("orders")) <= 3


async def test_tries_are_bounded(house: Doubles) -> None:
    async def is_busy(_: Asked) -> Reply:
        return BUSY

    house.answer("orders", is_busy)
    reply = await house.buy()
    assert (reply.status_code, reply.json()["by"], reply.headers["retry-after"]) == (503, "the service", "1")
    assert len(house.asked("orders")) == 3


@pytest.mark.slow
async def test_one_that_always_fails_is_put_aside(house: Doubles) -> None:
    """Though it says that it is ready."""

    async def is_broken(_: Asked) -> Reply:
        return BUSY

    broken = house.processes["tickets"][0]
    broken.answer = is_broken
    while not house.gateway.ejected("tickets"):
        await _ask_often(house, "GET", "/events", 40)
    broken.asked.clear()
    assert {reply.json()["by"] for reply in await _ask_often(house, "GET", "/events", 16)} == {"tickets 2"}
    assert not broken.asked


@pytest.mark.slow
async def test_never_all_are_put_aside(house: Doubles) -> None:
    async def is_broken(_: Asked) -> Reply:
        return BUSY

    house.answer("tickets", is_broken)
    while not house.gateway.ejected("tickets"):
        await _ask_often(house, "POST", "/events", 40)
    before = len(house.asked("tickets"))
    await _ask_often(house, "POST", "/events", 60)
    assert house.gateway.ejected("tickets") <= 1
    assert len(house.asked("tickets")) == before + 60


async def test_more_than_fits_is_turned_away(tmp_path: Path) -> None:
    def one_at_a_time(document: dict[str, Any]) -> None:
        for cluster in document["static_resources"]["clusters"]:
            (bounds,) = cluster["circuit_breakers"]["thresholds"]
            bounds |= {"max_connections": 1, "max_pending_requests": 1}

    async with behind(tmp_path, one_at_a_time) as house:
        begun = asyncio.Event()
        go_on = asyncio.Event()

        async def waits(asked: Asked) -> Reply:
            begun.set()
            await go_on.wait()
            return 200, {}, b"{}"

        house.answer("auth", waits)
        first = asyncio.create_task(_ask(house, "POST", "/users/login"))
        await begun.wait()
        more = [asyncio.create_task(_ask(house, "POST", "/users/login")) for _ in range(6)]
        turned_away = [await next(asyncio.as_completed(more)) for _ in range(1)]
        go_on.set()
        replies = Counter(reply.status_code for reply in await asyncio.gather(first, *more))
        assert refused(turned_away[0]) == "503 busy"
        assert replies[200] >= 2
        assert replies[503] >= 4
