"""Warm-up: the first buyer of a sale waits for nothing that could have been there before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest

from box_office import Event, open_desk, put_on_sale
from gate_clusters import missed, until
from holdfast import ids
from holdfast.clock import utc_now
from holdfast.engines.database import Pool
from holdfast.orders.warm import orders_ready
from holdfast.settings import Settings
from holdfast.tickets import warm as warm_module
from holdfast.tickets.warm import EVENTS_MAX, SQL, ask_to_warm
from house import House, open_house
from running_up import command


class Open(NamedTuple):
    """The backends of a house's connections, and how often a gate was loaded."""

    connections: set[int]
    epoch: int


async def look(house: House, event: Event) -> Open:
    """What is open now."""
    rows = await house.pool.fetch("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")
    epoch = await house.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id)
    return Open({row["pid"] for row in rows}, epoch)


async def opens_in(pool: Pool, seconds: float, **changed: int) -> Event:
    """An event whose sale opens in so many seconds."""
    event = await put_on_sale(pool, 100, **changed)
    opens_at = utc_now() + timedelta(seconds=seconds)
    await pool.execute("UPDATE tickets.stock SET opens_at = $2 WHERE event_id = $1", event.id, opens_at)
    return event


async def warm_events(pool: Pool, seconds: float = 300) -> list[UUID]:
    return [row["event_id"] for row in await pool.fetch(SQL["warm"], seconds, EVENTS_MAX)]


async def gate_open(house: House, event: Event) -> bool:
    async with house._gate() as gate:
        state = await gate.state(event.id)
    return state is not None and state.is_open


async def first_purchase(house: House, event: Event) -> tuple[int, bool, bool]:
    """What the first purchase needed: connections, a load, and to go around the gate."""
    body = {
        "event_id": ids.encode(ids.EVENT, event.id),
        "lines": [{"tier_id": ids.encode(ids.TIER, event.tiers[0]), "quantity": 1}],
    }
    before = await look(house, event)
    answer = await house.ask("alice", "POST", "/orders/create", key="key", json=body)
    assert answer.status_code == 201, answer.text
    around = await missed(house.pool, event)
    if around:
        await until("the gate is loaded", lambda: gate_open(house, event))
    after = await look(house, event)
    return len(after.connections - before.connections), after.epoch > before.epoch, around > 0


async def test_the_first_purchase_after_warm_up_waits_for_nothing(settings: Settings, pool: Pool) -> None:
    async with open_house(settings, pool, catalogue_seconds=0.05) as house:
        event = await opens_in(pool, 200)
        await until("the gate is loaded before the sale opens", lambda: gate_open(house, event))
        await pool.execute("UPDATE tickets.stock SET opens_at = clock_timestamp()")
        # What admission knows is no older than this.
        await asyncio.sleep(2 * house.settings.catalogue_seconds)
        assert await first_purchase(house, event) == (0, False, False)


async def test_without_warm_up_it_waits_for_all_of_it(settings: Settings, pool: Pool) -> None:
    """The control."""
    async with open_house(settings, pool, warm_seconds=0) as house:
        event = await opens_in(pool, 0)
        connections, loaded, around = await first_purchase(house, event)
    assert connections >= 2
    assert loaded
    assert around


async def test_what_opens_soon_or_was_asked_for_is_warmed(pool: Pool) -> None:
    soon, sooner = await opens_in(pool, 200), await opens_in(pool, 100)
    later, running = await opens_in(pool, 400), await put_on_sale(pool, 10)
    draft, paused = await opens_in(pool, 50), await opens_in(pool, 50)
    await pool.execute("UPDATE tickets.events SET status = 'draft' WHERE id = $1", draft.id)
    await pool.execute("UPDATE tickets.stock SET state = 'paused' WHERE event_id = $1", paused.id)
    assert await warm_events(pool) == [sooner.id, soon.id]
    assert await warm_events(pool, 0) == []
    await ask_to_warm(pool, [running.id, later.id], 60)
    assert await warm_events(pool) == [*sorted((running.id, later.id)), sooner.id, soon.id]
    await pool.execute("UPDATE tickets.gates SET warm_until = now() - interval '1 second'")
    assert await warm_events(pool) == [sooner.id, soon.id], "it ends"
    for _ in range(EVENTS_MAX):
        await opens_in(pool, 10)
    assert len(await warm_events(pool)) == EVENTS_MAX, "no more than that at a time"
    assert sooner.id not in await warm_events(pool), "the next ones first"


async def test_two_processes_load_a_gate_once(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool) as one, open_desk(settings, pool) as other:
        event = await opens_in(pool, 100)
        ready = [orders_ready(desk.reserve, desk.confirm, desk.cancel) for desk in (one, other)]
        for _ in range(3):
            await asyncio.gather(*(get_ready([event.id]) for get_ready in ready))
        assert await pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id) == 1
        wire = one.gate.wire
        await wire.call("FLUSHALL")
        await asyncio.gather(*(get_ready([event.id]) for get_ready in ready))
        assert await one.gate_free(event) == (100,), "what is lost before the sale is there again"


async def test_a_rehearsal_changes_nothing_and_hinders_nobody(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool) as desk:
        event = await put_on_sale(pool, 1000)
        get_ready = orders_ready(desk.reserve, desk.confirm, desk.cancel)
        await get_ready([event.id])
        assert await pool.fetchval("SELECT count(*) FROM orders.orders") == 0
        assert await pool.fetchval("SELECT count(*) FROM outbox.events") == 0

        async def buy() -> str:
            order, _ = await desk.buy(ids.new_id(), "key", event, 1)
            return await desk.try_confirm(order)

        *outcomes, _ = await asyncio.gather(*(buy() for _ in range(100)), *(get_ready([event.id]) for _ in range(20)))
        assert [outcome for outcome in outcomes if outcome is not None] == ["confirmed"] * 100


@asynccontextmanager
async def away(pool: Pool) -> AsyncIterator[None]:
    """The list of what is to be warmed cannot be read."""
    await pool.execute("ALTER TABLE tickets.stock RENAME TO stock_elsewhere")
    yield
    await pool.execute("ALTER TABLE tickets.stock_elsewhere RENAME TO stock")


async def test_the_loop_outlives_what_goes_wrong(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_module, "LOOK_SECONDS", 0.05)
    async with away(pool), open_house(settings, pool, gate_url="valkey://127.0.0.1:1"):
        await asyncio.sleep(0.2)
    async with open_house(settings, pool) as house:
        async with away(pool):
            await asyncio.sleep(0.2)
        event = await opens_in(pool, 100)
        await until("it goes on", lambda: gate_open(house, event))


async def test_the_command_warms_what_it_names(settings: Settings, pool: Pool, tmp_path: Path) -> None:
    event, draft = await put_on_sale(pool, 10), await put_on_sale(pool, 10)
    await pool.execute("UPDATE tickets.events SET status = 'draft' WHERE id = $1", draft.id)
    environment = {
        "HOLDFAST_DATABASE_URL": settings.database_url.get_secret_value(),
        "HOLDFAST_GATE_URL": settings.gate_url.get_secret_value(),
    }
    home = tmp_path / "home"
    name, draft_name, nobody = (ids.encode(ids.EVENT, one) for one in (event.id, draft.id, ids.new_id()))

    async def run(*arguments: str, **changed: str) -> tuple[int, str]:
        done = await asyncio.to_thread(command, "events", "warm", *arguments, home=home, **environment | changed)
        return done.returncode, done.stdout + done.stderr

    assert await run(name, name, "--seconds", "60") == (
        0,
        f"{name}  gate loaded; the servers keep ready for 60 s\n",
    )
    assert await warm_events(pool) == [event.id]
    assert await pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id) == 1
    assert await run(name, "--json") == (0, f'{{"data": [{{"id": "{name}", "gate": "loaded"}}]}}\n')
    assert await pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id) == 1, "once"
    status, said = await run(name, HOLDFAST_GATE_URL="valkey://127.0.0.1:1")
    assert (status, "gate away (PostgreSQL sells alone)" in said) == (0, True)
    refusals = {
        draft_name: "is a draft, which nobody can buy: publish it first.",
        nobody: "There is no event",
        "concert": "'concert' is not an event's id (evt_…)",
    }
    for reason, (status, said) in zip(
        refusals.values(), await asyncio.gather(*(run(name, argument) for argument in refusals)), strict=True
    ):
        assert (status, reason in said) == (2, True), said
    await pool.execute("UPDATE tickets.events SET status = 'cancelled' WHERE id = $1", event.id)
    status, said = await run(name)
    assert (status, "is cancelled: leave it out." in said) == (2, True)
