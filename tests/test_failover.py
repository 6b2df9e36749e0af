"""The primary moves: killed or frozen in the middle of a sale, while purchases come in through the door."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from box_office import Event, assert_sound, audit
from conftest import Engines
from holdfast import ids
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool, open_pool
from holdfast.engines.hosts.primary import Primary, primary_of
from holdfast.settings import Settings
from house import House, done, open_house, refused
from postgres_trio import Trio, run_on, until

BUYERS = 8


class Stream:
    """Buyers who buy one ticket after another and pay for it, and try again with the same key when told to."""

    def __init__(self, house: House, event: dict[str, Any]) -> None:
        self._house = house
        self.event = event
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self.statuses: Counter[int] = Counter()
        self.made: dict[str, str] = {}
        """Orders that were acknowledged, and the last status that was told of each."""
        self.done_at: list[float] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._buy(number)) for number in range(BUYERS)]

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def goes_on(self, purchases: int = 10) -> float:
        """Waits for so many more purchases; answers when the first of them was done."""
        before = len(self.done_at)
        async with asyncio.timeout(60):
            while len(self.done_at) < before + purchases:
                await asyncio.sleep(0.01)
        return self.done_at[before]

    async def _buy(self, number: int) -> None:
        who = "alice" if number % 2 else "bob"
        for turn in itertools.count():
            if self._stopping:
                return
            key = f"{number}-{turn}"
            order = await self._insist(lambda key=key: self._house.create(who, key, self.event))
            self.made[order["id"]] = order["status"]
            paid = await self._insist(lambda key=key, order=order: self._house.confirm(who, key, order))
            self.made[order["id"]] = paid["status"]
            self.done_at.append(monotonic_seconds())

    async def _insist(self, ask: Any) -> dict[str, Any]:
        async with asyncio.timeout(90):
            while True:
                reply = await ask()
                self.statuses[reply.status_code] += 1
                if reply.status_code in (200, 201):
                    return done(reply, reply.status_code)
                assert refused(reply) in ("503 busy", "409 idempotency_key_in_flight"), reply.text
                await asyncio.sleep(0.05)


@asynccontextmanager
async def a_sale(trio: Trio, engines: Engines, **changed: object) -> AsyncIterator[tuple[House, Stream, Event]]:
    """A house on the trio with a stream of purchases; audited at the end, on whoever is the primary then."""
    async with trio.database() as name:
        given: dict[str, Any] = {
            **trio.settings_urls(name),
            "gate_url": engines.valkey.url,
            "signing_key_file": engines.signing_key_file,
            "user_purchases_per_second": 100_000,
            "user_purchases_burst": 100_000,
            **changed,
        }
        settings = Settings(**given)
        pool = await open_pool(settings)
        try:
            async with open_house(settings, pool) as house:
                tier = {"name": "Standing", "price": {"amount": 1, "currency": "TWD"}, "capacity": 100_000}
                event = await house.event(tickets_per_user_max=1000, tiers=[tier])
                stream = Stream(house, event)
                yield house, stream, Event(_uuid(event["id"], ids.EVENT), (_uuid(event["tiers"][0]["id"], ids.TIER),))
                await stream.stop()
            await nothing_lost(trio.url(name, trio.primary.name), pool, stream, event)
        finally:
            pool.terminate()


def _uuid(text: str, prefix: str) -> Any:
    return ids.decode(prefix, text)


async def nothing_lost(url: str, pool: Pool, stream: Stream, event: dict[str, Any]) -> None:
    """Everything that was acknowledged is on the primary, in the state that was told."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT id, status FROM orders.orders")
    await connection.close()
    found = {ids.encode(ids.ORDER, row["id"]): row["status"] for row in rows}
    assert {order: found.get(order) for order in stream.made} == stream.made
    assert set(stream.made.values()) == {"confirmed"}
    assert set(stream.statuses) <= {200, 201, 409, 503}
    audited = await audit(pool, Event(_uuid(event["id"], ids.EVENT), ()))
    assert_sound(audited)
    assert audited.held + audited.sold == len(found)


async def backends(trio: Trio, name: str, database: str) -> int:
    """How many of our connections a server has, but for those that only look."""
    return int(
        await run_on(
            trio.url("postgres", name),
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'holdfast%' "
            "AND application_name <> 'holdfast watch'",
        )
    )


def database_of(house: House) -> str:
    return house.settings.database_url.get_secret_value().rpartition("/")[2]


async def test_the_primary_is_killed_in_the_middle_of_a_sale(
    trio: Trio, engines: Engines, record_property: Any
) -> None:
    old, (new, other) = trio.primary, trio.standbys
    async with a_sale(trio, engines) as (house, stream, _):
        stream.start()
        await stream.goes_on(30)
        killed_at = monotonic_seconds()
        old.kill()
        await trio.promote(new)
        promoted_at = monotonic_seconds()
        await trio.follow(other)
        await trio.require(other)
        back_at = await stream.goes_on()
        record_property("seconds after promotion", round(back_at - promoted_at, 3))
        assert back_at - killed_at < 10
        await stream.goes_on(30)
        assert await backends(trio, new, database_of(house)) > 0
        shown = await house.ask("alice", "GET", f"/orders/{house.id('alice')}")
        assert done(shown)["data"][0]["status"] in ("reserved", "confirmed")


async def test_a_frozen_primary_is_left_and_never_believed_again(trio: Trio, engines: Engines) -> None:
    old, (new, other) = trio.primary, trio.standbys
    async with a_sale(trio, engines) as (house, stream, _):
        stream.start()
        await stream.goes_on(30)
        old.freeze()
        await trio.promote(new)
        await trio.follow(other)
        await trio.require(other)
        await stream.goes_on(30)
        old.thaw()
        # It still takes itself for the primary, and lets everyone in. Nobody comes.
        assert await run_on(trio.url("postgres", old.name), "SELECT NOT pg_is_in_recovery()")
        orders = await run_on(trio.url(database_of(house), old.name), "SELECT count(*) FROM orders.orders")
        await stream.goes_on(60)
        assert await run_on(trio.url(database_of(house), old.name), "SELECT count(*) FROM orders.orders") == orders
        async with asyncio.timeout(30):
            while await backends(trio, old.name, database_of(house)):
                # Those that wait for a standby which has left them; nobody waits for their answer.
                await run_on(
                    trio.url("postgres", old.name),
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
                )
                await asyncio.sleep(0.05)


async def test_control_without_the_watch_a_frozen_primary_holds_everyone(
    trio: Trio, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, (new, other) = trio.primary, trio.standbys
    monkeypatch.setattr(Primary, "_end_former", lambda _: None)
    async with a_sale(trio, engines, database_timeout_seconds=1) as (house, stream, _):
        event = stream.event
        await house.order("alice", "warm", event)
        old.freeze()
        assert refused(await house.create("alice", "key", event)) == "503 busy"
        await trio.promote(new)
        await trio.follow(other)
        watch = primary_of(house.settings).watch
        assert watch is not None
        await until(lambda: str(watch.primary) == trio.nodes[new].host)
        assert refused(await house.create("alice", "key", event)) == "503 busy"
        old.kill()
        await trio.require(other)
        async with asyncio.timeout(30):
            while (await house.create("alice", "key", event)).status_code not in (200, 201):
                await asyncio.sleep(0.05)
        stream.start()
        await stream.goes_on()


async def test_both_standbys_gone_and_one_comes_back(trio: Trio, engines: Engines) -> None:
    async with a_sale(trio, engines, database_timeout_seconds=1) as (house, stream, event):
        await house.order("alice", "warm", stream.event)
        for name in trio.standbys:
            trio.nodes[name].freeze()
        assert refused(await house.create("alice", "key", stream.event)) == "503 busy"
        # Nobody was told of an order, and nobody is told of one while no standby has it.
        assert refused(await house.create("alice", "key", stream.event)) == "503 busy"
        trio.nodes[trio.standbys[0]].thaw()
        async with asyncio.timeout(60):
            while (reply := await house.create("alice", "key", stream.event)).status_code == 503:
                await asyncio.sleep(0.05)
        order = reply.json()
        again = done(await house.create("alice", "key", stream.event), 200)
        assert again["id"] == order["id"]
        found = await audit(house.pool, event)
        assert (found.held, found.duplicates) == (2, 0)
        stream.made[order["id"]] = done(await house.confirm("alice", "pay", order))["status"]


async def test_nobody_is_the_primary(trio: Trio, engines: Engines) -> None:
    old, (new, other) = trio.primary, trio.standbys
    async with a_sale(trio, engines) as (house, stream, _event):
        await house.order("alice", "warm", stream.event)
        old.kill()
        began = monotonic_seconds()
        assert refused(await house.ask("olga", "POST", f"/events/{stream.event['id']}/publish")) == "503 busy"
        assert refused(await house.ask("alice", "GET", "/users/me")) == "503 busy"
        assert refused(await house.ask(None, "POST", "/users/login", json=_CREDENTIALS)) == "503 busy"
        assert monotonic_seconds() - began < 5
        # What everyone may see is still shown.
        assert stream.event["id"] in (await house.ask(None, "GET", "/events")).text
        await trio.promote(new)
        await trio.follow(other)
        await trio.require(other)
        stream.start()
        await stream.goes_on()


_CREDENTIALS = {"email": "alice@house.example", "password": "whatever this is"}
