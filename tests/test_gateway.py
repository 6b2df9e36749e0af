"""The gateway in front of the services themselves: each route to its owner, a whole sale, and processes that come and
go under load."""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from gated_house import GatedHouse, gated_house
from holdfast import ids
from holdfast.clock import monotonic_seconds
from holdfast.rush.http_client import Client, UnansweredError
from house import PASSWORD, asking, done, refused, tier
from running_up import wait_until

if TYPE_CHECKING:
    from conftest import Engines


@pytest.fixture(scope="module")
def house(engines: "Engines", tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatedHouse]:
    with gated_house(engines, tmp_path_factory.mktemp("split")) as opened:
        yield opened


@pytest.fixture
def client(house: GatedHouse) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.gateway.url, timeout=60) as opened:
        yield opened


def _direct(house: GatedHouse, role: str, path: str, method: str = "GET", **request: Any) -> httpx.Response:
    return httpx.request(method, f"http://127.0.0.1:{house.of(role)[0].port}{path}", timeout=60, **request)


def _event(house: GatedHouse, client: httpx.Client, capacity: int = 100, **fields: Any) -> dict[str, Any]:
    body = {"name": "Concert", "starts_at": "2099-03-01T19:30:00+08:00", "tiers": [tier(capacity=capacity)], **fields}
    olga = house.headers("olga")
    event = done(client.post("/events", json=body, headers=olga), 201)
    return done(client.post(f"/events/{event['id']}/publish", headers=olga))


# Routes


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, bool(operation.get("security"))


def test_every_route_goes_to_its_owner(house: GatedHouse, client: httpx.Client) -> None:
    """Every operation of the whole document, asked without a token: the log tells who answered."""
    document = done(client.get("/openapi.json"))
    owned = {role: set(done(_direct(house, role, "/openapi.json"))["paths"]) for role in ("tickets", "orders")}
    process_paths = owned["tickets"] & owned["orders"]
    asked: dict[str, tuple[str, str]] = {}
    for method, path, secured in _operations(document):
        reply = client.request(method, re.sub(r"\{\w+\}", "x", path), json={} if method != "GET" else None)
        assert (reply.status_code == 401) == secured, (method, path, reply.text)
        owner = next((role for role, paths in owned.items() if path in paths), "auth")
        asked[reply.headers["x-request-id"]] = f"{method} {path}", "orders" if path in process_paths else owner
    client.get("/the-last-one")
    wait_until(lambda: "/the-last-one" in house.gateway.log.read_text())
    answered = {line["request_id"]: line for line in house.gateway.lines() if line["request_id"] in asked}
    assert {name: (what, answered[name]["service"]) for name, (what, _) in asked.items()} == {
        name: (what, owner) for name, (what, owner) in asked.items()
    }
    # Those that want a token were refused before they came so far.
    at_the_edge = [line for line in answered.values() if line["why"].startswith("jwt_authn")]
    assert all(line["process"] is None for line in at_the_edge)
    assert len(at_the_edge) == sum(secured for _, _, secured in _operations(document))


def test_what_is_refused_sounds_the_same_with_and_without(house: GatedHouse, client: httpx.Client) -> None:
    expired = "Bearer x.y.z"
    for role, method, path, headers in (
        ("orders", "POST", "/orders/create", {}),
        ("orders", "POST", "/orders/create", {"Authorization": expired}),
        ("orders", "GET", f"/orders/{ids.encode(ids.USER, ids.new_id())}", {"Authorization": "Basic x"}),
        ("orders", "GET", f"/orders/{ids.encode(ids.ORDER, ids.new_id())}", house.headers("alice")),
        ("orders", "PUT", "/orders/create", {}),
        ("tickets", "GET", "/organiser/events", {}),
        ("tickets", "GET", f"/events/{ids.encode(ids.EVENT, ids.new_id())}", {"Authorization": expired}),
        ("tickets", "GET", "/events/x/y/z", {}),
        ("tickets", "PUT", "/events", {}),
        ("auth", "GET", "/users/me", {}),
        ("auth", "GET", "/users", {}),
        ("auth", "GET", "/nothing", {}),
    ):
        told = []
        for reply in (
            client.request(method, path, headers=headers),
            _direct(house, role, path, method, headers=headers),
        ):
            refused(reply)
            kept = {name: reply.headers.get(name) for name in ("www-authenticate", "allow", "x-content-type-options")}
            told.append((reply.status_code, {**reply.json(), "request_id": ""}, kept))
        assert told[0] == told[1], (method, path)


def test_a_body_too_large_sounds_the_same(house: GatedHouse, client: httpx.Client) -> None:
    content = b"x" * (house.settings.body_bytes_max + 1)
    headers = house.headers("alice", "key") | {"Content-Type": "application/json"}
    told = [
        {**reply.json(), "request_id": ""}
        for reply in (
            client.post("/orders/create", content=content, headers=headers),
            _direct(house, "orders", "/orders/create", "POST", content=content, headers=headers),
        )
    ]
    assert told[0] == told[1]


# A sale


def test_the_eight_endpoints(house: GatedHouse, client: httpx.Client) -> None:
    credentials = {"email": "carol@example.com", "password": PASSWORD}
    carol = done(client.post("/users/register", json=credentials), 201)
    token = done(client.post("/users/login", json=credentials))["access_token"]
    event = _event(house, client)
    assert event["id"] in {listed["id"] for listed in done(client.get("/events", params={"limit": 100}))["data"]}
    headers = {"Authorization": f"Bearer {token}"}
    order = done(client.post("/orders/create", json=asking(event, 2), headers=headers | {"Idempotency-Key": "a"}), 201)
    again = done(client.post("/orders/create", json=asking(event, 2), headers=headers | {"Idempotency-Key": "a"}))
    assert again["id"] == order["id"]
    path = f"/orders/{order['id']}"
    paid = client.post(f"{path}/confirm", json={"payment_token": "tok_ok"}, headers=headers | {"Idempotency-Key": "b"})
    assert done(paid)["status"] == "confirmed"
    other = done(client.post("/orders/create", json=asking(event, 1), headers=headers | {"Idempotency-Key": "c"}), 201)
    cancelled = client.post(f"/orders/{other['id']}/cancel", headers=headers | {"Idempotency-Key": "d"})
    assert done(cancelled)["status"] == "cancelled"
    assert len(done(client.get(f"/orders/{carol['id']}", headers=headers))["data"]) == 2
    wait_until(lambda: done(client.get(f"/events/{event['id']}/tickets"))["data"][0]["sold"] == 2)


def test_a_whole_catalogue_is_taken(house: GatedHouse, client: httpx.Client) -> None:
    """More than a body of another route may have."""
    events = [
        {
            "@type": "Event", "name": f"Concert {number}", "startDate": "2099-03-01T19:30:00+08:00",
            "description": "x" * 900,
            "offers": [{"@type": "Offer", "name": "Standing", "price": "800", "priceCurrency": "TWD"}],
        }
        for number in range(100)
    ]  # fmt: skip
    content = json.dumps({"@graph": events})
    assert len(content) > house.settings.body_bytes_max
    headers = house.headers("olga") | {"Content-Type": "application/ld+json"}
    done(client.post("/events/import", content=content, params={"default_capacity": 10}, headers=headers))


def test_sign_ins_count_for_the_clients_address(house: GatedHouse, client: httpx.Client) -> None:
    """The service believes the gateway, and what it says of its limit is the client's own."""
    reply = client.post("/users/login", json={"email": "nobody@example.com", "password": PASSWORD})
    assert refused(reply) == "401 credentials_invalid"
    assert client.post("/users/login", json={"email": "nobody@example.com", "password": PASSWORD}).status_code == 401


# Processes that end


class Load:
    """Purchases at a steady pace, each by a buyer of their own: reserved and paid, on connections that are kept."""

    def __init__(self, house: GatedHouse, event: dict[str, Any], per_second: float, *, retries: int = 0) -> None:
        self.refusals: Counter[str] = Counter()
        """What single requests were told instead."""
        self.bought = 0
        self.failed: list[str] = []
        self._house = house
        self._event = event
        self._per_second = per_second
        self._retries = retries
        self._client = Client(urlsplit(house.gateway.url), 256)

    async def run(self, work: Callable[[], None]) -> None:
        """Loads the house for as long as `work` takes, in a thread, and a second longer."""
        over = asyncio.create_task(asyncio.to_thread(work))
        buyers: set[asyncio.Task[None]] = set()
        begun, started = monotonic_seconds(), 0
        end: float | None = None
        while end is None or monotonic_seconds() < end:
            if over.done() and end is None:
                over.result()
                end = monotonic_seconds() + 1
            # Open loop: what is due is begun, however late the others are.
            while started < (monotonic_seconds() - begun) * self._per_second:
                started += 1
                task = asyncio.create_task(self._begin(started))
                buyers.add(task)
                task.add_done_callback(buyers.discard)
            await asyncio.sleep(0.005)
        await asyncio.gather(*buyers)
        await self._client.close()

    async def _begin(self, number: int) -> None:
        await self._buy()
        if number % 10 == 0:
            # What nobody may repeat: a change of the event, and a session that there is not.
            change = {"name": f"Concert {number}"}
            olga = self._house.tokens.issue(self._house.users["olga"], "organiser")
            await self._ask(f"/events/{self._event['id']}", change, olga, "PATCH")
            await self._ask("/users/logout", {"refresh_token": "none"}, olga)

    async def _buy(self) -> None:
        token = self._house.tokens.issue(ids.new_id(), "buyer")
        order = await self._ask("/orders/create", asking(self._event, 1), token)
        if order is None:
            return
        paid = await self._ask(f"/orders/{order['id']}/confirm", {"payment_token": "tok_ok"}, token)
        if paid is not None:
            self.bought += 1

    async def _ask(self, path: str, body: dict[str, Any], token: str, method: str = "POST") -> dict[str, Any] | None:
        fields = (f"Authorization: Bearer {token}", f"Idempotency-Key: {ids.new_id().hex}")
        said = ""
        for _ in range(self._retries + 1):
            try:
                reply = await self._client.request(method, path, fields, json.dumps(body).encode())
            except UnansweredError as error:
                said = f"unanswered: {error}"
            else:
                if reply.status < 300:
                    answer: dict[str, Any] = json.loads(reply.body or b"{}")
                    return answer
                said = f"{reply.status} {reply.body.decode()[:200]}"
            self.refusals[said] += 1
            await asyncio.sleep(0.2)
        self.failed.append(f"{path}: {said}")
        return None


async def test_a_killed_process_costs_no_purchase(house: GatedHouse) -> None:
    """What it was answering is asked of another by the gateway, or of the gateway by its buyer."""
    with httpx.Client(base_url=house.gateway.url, timeout=60) as client:
        event = _event(house, client, 1_000_000)
    load = Load(house, event, 40, retries=8)
    killed = house.of("orders")[0]

    def kill_and_start() -> None:
        killed.send(signal.SIGKILL)
        killed.wait()
        house.wait_healthy("orders", 1)
        killed.start()
        killed.wait_ready()
        house.wait_healthy("orders", 2)

    await load.run(kill_and_start)
    assert not load.failed
    assert load.bought > 40
    _have_sold(house, event, load.bought)


def _have_sold(house: GatedHouse, event: dict[str, Any], tickets: int) -> None:
    """Waits until so many are shown as sold; what is shown may be a moment old."""
    with httpx.Client(base_url=house.gateway.url, timeout=60) as client:
        wait_until(lambda: done(client.get(f"/events/{event['id']}/tickets"))["data"][0]["sold"] == tickets)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rolling_restart_is_noticed_by_nobody(engines: "Engines", tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every process of every service, one after the other, under load and without a client's retry."""
    folder = tmp_path_factory.mktemp("rolling")
    with gated_house(engines, folder, auth=2, tickets=2, orders=2) as house:
        with httpx.Client(base_url=house.gateway.url, timeout=60) as client:
            event = _event(house, client, 10_000_000)
        load = Load(house, event, 100)
        statuses: list[int] = []

        def restart_all() -> None:
            statuses.extend(house.restart(process) for process in house.processes)

        asyncio.run(load.run(restart_all))
        assert not load.failed
        assert load.bought > 500
        assert set(statuses) == {-signal.SIGTERM}
        _have_sold(house, event, load.bought)
        for process in house.processes:
            assert "Traceback" not in process.log.read_text()


async def test_a_process_that_drains_says_so_and_goes_on(house: GatedHouse) -> None:
    process = house.of("orders")[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{process.port}", timeout=60) as client:
        assert "connection" not in client.get("/livez").headers
        process.send(signal.SIGTERM)
        wait_until(lambda: client.get("/readyz").status_code == 503)
        assert refused(client.get("/readyz")) == "503 busy"
        # On new connections too, for as long as it gives notice; each is the last answer on its connection.
        for path in ("/livez", "/openapi.json", "/nothing"):
            assert client.get(path).headers["connection"] == "close"
    assert process.wait() == -signal.SIGTERM
    process.start()
    process.wait_ready()
    house.wait_healthy("orders", 2)
