"""Reads from two replicas: what goes there, what a user sees of their own, and what happens when replicas are away."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from conftest import Engines
from holdfast import ids
from holdfast.auth import position as positions
from holdfast.door import exchange
from holdfast.engines.database import Pool, open_pool
from holdfast.engines.hosts.position import ANYTHING, parse_position, show_position
from holdfast.engines.hosts.watch import Watch
from holdfast.settings import Settings
from house import PASSWORD, House, done, open_house, refused
from postgres_trio import Trio, run_on, until


@pytest.fixture
async def spread(trio: Trio, engines: Engines) -> AsyncIterator[Settings]:
    """Settings of a process that reads from replicas, on a fresh database."""
    async with trio.database() as name:
        yield Settings(
            **trio.settings_urls(name),  # type: ignore[arg-type]
            gate_url=engines.valkey.url,  # type: ignore[arg-type]
            signing_key_file=engines.signing_key_file,
        )


@pytest.fixture
async def own_pool(spread: Settings) -> AsyncIterator[Pool]:
    """The test's own connections to the primary."""
    alone = spread.model_copy(update={"replica_database_url": type(spread.replica_database_url)("")})
    pool = await open_pool(alone)
    yield pool
    await pool.close()


@pytest.fixture
async def house(spread: Settings, own_pool: Pool, trio: Trio) -> AsyncIterator[House]:
    """A house whose replicas were found to be well."""
    async with open_house(spread, own_pool) as house:
        await reads_come(trio, house)
        yield house


async def asked(trio: Trio, house: House, *names: str) -> set[str]:
    """The tables that the house's reads asked these servers for, as each connection's last statement tells."""
    database = house.settings.database_url.get_secret_value().rpartition("/")[2]
    found = set()
    for name in names:
        texts = await run_on(
            trio.url("postgres", name),
            "SELECT coalesce(array_agg(query), '{}') FROM pg_stat_activity "
            f"WHERE datname = '{database}' AND application_name = 'holdfast reads' "
            # But for a sale's snapshot, which decides what an order costs.
            "AND query NOT LIKE '%tickets.gates%'",
        )
        tables = ("orders.orders", "tickets.events", "tickets.tiers", "auth.users")
        found |= {table for table in tables if any(table in text for text in texts)}
    return found


async def reads_come(trio: Trio, house: House) -> None:
    """Waits until listings are read from a replica."""
    async with asyncio.timeout(30):
        while not await asked(trio, house, *trio.standbys):
            done(await house.ask(None, "GET", "/events"))
            await asyncio.sleep(0.02)


async def paths(house: House) -> list[tuple[str | None, str]]:
    """Everything that is read from replicas, and who reads it."""
    event = await house.event()
    order = await house.order("alice", "a", event)
    return [
        ("alice", f"/orders/{house.id('alice')}"),
        ("alice", f"/orders/{order['id']}"),
        (None, "/events"),
        (None, f"/events/{event['id']}"),
        (None, f"/events/{event['id']}/tickets"),
        ("olga", "/organiser/events"),
        ("alice", "/users/me"),
    ]


async def test_what_only_reads_asks_a_replica(house: House, trio: Trio) -> None:
    for who, path in await paths(house):
        await trio.caught_up(*trio.standbys)
        done(await house.ask(who, "GET", path))
        assert await asked(trio, house, trio.primary.name) == set(), path


async def test_control_without_replicas_the_primary_is_asked(spread: Settings, own_pool: Pool, trio: Trio) -> None:
    async with open_house(spread, own_pool, replica_database_url="") as house:
        for who, path in (await paths(house))[:2]:
            done(await house.ask(who, "GET", path))
        assert "orders.orders" in await asked(trio, house, trio.primary.name)
        assert await asked(trio, house, *trio.standbys) == set()
        reply = await house.create("bob", "b", await house.event())
        assert "holdfast-position" not in reply.headers


async def test_a_write_says_where_the_log_ended(house: House, trio: Trio) -> None:
    event = await house.event()
    replies = [await house.create("alice", "a", event)]
    order = done(replies[0], 201)
    replies.append(await house.confirm("alice", "pay", order))
    other = await house.order("alice", "b", event)
    replies.append(await house.cancel("alice", "away", other))
    replies.append(await house.ask("olga", "PATCH", f"/events/{event['id']}", json={"name": "Matinée"}))
    marks = [parse_position(reply.headers["holdfast-position"]) for reply in replies]
    assert marks == sorted(marks)
    written = await run_on(trio.url("postgres", trio.primary.name), "SELECT pg_current_wal_flush_lsn()::text")
    assert 0 < marks[-1] <= parse_position(written)
    assert "holdfast-position" not in (await house.ask("alice", "GET", "/users/me")).headers
    assert "holdfast-position" not in (await house.create("alice", "c", event, 99)).headers


async def see_own_writes(house: House) -> list[str]:
    """What users do not see of what they have just done: nothing should be there."""
    missed = []
    event = await house.event()
    replies = {"alice": await house.create("alice", "a", event), "bob": await house.create("bob", "b", event)}
    for who, reply in replies.items():
        order, mark = done(reply, 201), {"holdfast-position": reply.headers["holdfast-position"]}
        for path in (f"/orders/{order['id']}", f"/orders/{house.id(who)}"):
            for headers in ({}, mark):
                body = (await house.ask(who, "GET", path, headers=headers)).text
                if order["id"] not in body:
                    missed.append(f"{path} {bool(headers)}")
    done(await house.ask("olga", "PATCH", f"/events/{event['id']}", json={"name": "Matinée"}))
    for who, path in (("olga", "/organiser/events"), ("olga", "/events"), ("alice", f"/events/{event['id']}")):
        if "Matinée" not in (await house.ask(who, "GET", path)).text:
            missed.append(path)
    email = f"{secrets.token_hex(4)}@house.example"
    done(await house.ask(None, "POST", "/users/register", json={"email": email, "password": PASSWORD}), 201)
    session = done(await house.ask(None, "POST", "/users/login", json={"email": email, "password": PASSWORD}))
    token = {"Authorization": f"Bearer {session['access_token']}"}
    if email not in (await house.ask(None, "GET", "/users/me", headers=token)).text:
        missed.append("/users/me")
    return missed


async def test_users_see_their_own_writes_while_every_replica_stands_still(house: House, trio: Trio) -> None:
    await trio.pause(*trio.standbys)
    assert await see_own_writes(house) == []


async def test_control_without_the_positions_they_do_not(
    house: House, trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (positions, exchange):
        monkeypatch.setattr(module, "position_asked", lambda *_, **__: ANYTHING)
    monkeypatch.setattr(Watch, "floor", 0)
    await trio.pause(*trio.standbys)
    assert len(await see_own_writes(house)) == 4 * 2 + 3 + 1


async def test_a_reader_waits_for_the_replica(spread: Settings, own_pool: Pool, trio: Trio) -> None:
    async with open_house(spread, own_pool, replica_wait_seconds=5) as house:
        await reads_come(trio, house)
        event = await house.event()
        await trio.caught_up(*trio.standbys)
        await trio.pause(*trio.standbys)
        order = await house.order("alice", "a", event)
        reading = asyncio.create_task(house.ask("alice", "GET", f"/orders/{order['id']}"))
        async with asyncio.timeout(30):
            while "pg_last_wal_replay_lsn" not in await last_reads(trio, house):
                await asyncio.sleep(0.01)
        assert not reading.done()
        await trio.resume(*trio.standbys)
        assert done(await reading)["id"] == order["id"]
        assert "orders.orders" not in await asked(trio, house, trio.primary.name)


async def last_reads(trio: Trio, house: House) -> str:
    """The last statements of the house's reads on the standbys."""
    database = house.settings.database_url.get_secret_value().rpartition("/")[2]
    found = [
        await run_on(
            trio.url("postgres", name),
            "SELECT coalesce(string_agg(query, ' '), '') FROM pg_stat_activity "
            f"WHERE datname = '{database}' AND application_name = 'holdfast reads'",
        )
        for name in trio.standbys
    ]
    return " ".join(found)


async def test_a_position_of_the_past_is_answered_by_a_replica_as_it_is(
    house: House, trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "floor", 0)
    await trio.pause(*trio.standbys)
    order = await house.order("alice", "a", await house.event())
    past = {"holdfast-position": "0/1"}
    assert refused(await house.ask("alice", "GET", f"/orders/{order['id']}", headers=past)) == "404 not_found"
    future = {"holdfast-position": "FFFFFFFF/0"}
    assert done(await house.ask("alice", "GET", f"/orders/{order['id']}", headers=future))["id"] == order["id"]


@pytest.mark.parametrize("text", ["", "0", "0/", "g/1", "1/123456789", "0/1 ", "1" * 5000])
async def test_what_is_no_position_is_refused(house: House, text: str) -> None:
    for path in (f"/orders/{house.id('alice')}", "/events", "/users/me"):
        reply = await house.ask("alice", "GET", path, headers={"holdfast-position": text})
        assert refused(reply) == "400 bad_request", path


def test_positions_in_texts() -> None:
    for text in ("0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"):
        assert show_position(parse_position(text)) == text
    assert parse_position("1/0") == 1 << 32


async def test_replicas_that_are_gone_are_done_without_and_come_back(house: House, trio: Trio) -> None:
    event = await house.event()
    for name in trio.standbys:
        trio.nodes[name].freeze()
    for _ in range(3):
        for path in ("/events", f"/orders/{house.id('alice')}"):
            done(await house.ask("alice", "GET", path))
    assert "orders.orders" in await asked(trio, house, trio.primary.name)
    for name in trio.standbys:
        trio.nodes[name].thaw()
    order = await house.order("alice", "a", event)

    async def is_back() -> bool:
        done(await house.ask("alice", "GET", f"/orders/{order['id']}"))
        return "orders.orders" in await asked(trio, house, *trio.standbys)

    async with asyncio.timeout(30):
        while not await is_back():
            await asyncio.sleep(0.05)


async def test_a_replica_that_lags_is_left_alone_by_everyone(house: House, trio: Trio) -> None:
    await trio.pause(*trio.standbys)
    event = await house.event(name="Encore")

    async def strangers_see_it() -> bool:
        return "Encore" in (await house.ask(None, "GET", "/events")).text

    async with asyncio.timeout(30):
        while not await strangers_see_it():
            await asyncio.sleep(0.05)
    assert ids.decode(ids.EVENT, event["id"]) is not None


async def test_control_a_lag_that_nobody_minds_is_shown(
    house: House, trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watch, "floor", 0)
    await trio.pause(*trio.standbys)
    await house.event(name="Encore")
    await until(_after(3.0))
    assert "Encore" not in (await house.ask(None, "GET", "/events")).text


def _after(seconds: float) -> Any:
    from holdfast.clock import monotonic_seconds

    end = monotonic_seconds() + seconds
    return lambda: monotonic_seconds() >= end
