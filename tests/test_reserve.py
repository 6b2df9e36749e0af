"""Reserving: the gate decides first, PostgreSQL decides last."""

import asyncio

from box_office import Desk, assert_sound, audit, open_desk, put_on_sale
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.gate.load import load_gate
from holdfast.settings import Settings


async def test_an_order_holds_its_tickets(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 10, 5)
    alice = ids.new_id()
    order, is_new = await desk.buy(alice, "key", event, 2, 1)
    assert is_new
    assert order.status == "reserved"
    assert order.total.amount == 3 * 120_000
    found = await audit(desk.pool, event)
    assert (found.held, found.sold) == (3, 0)
    assert_sound(found)


async def test_a_crowd_gets_exactly_what_there_is(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 100)
    await load_gate(desk.pool, desk.gate, event.id)
    outcomes = await asyncio.gather(*(desk.try_buy(ids.new_id(), "key", event, 1) for _ in range(1000)))
    assert outcomes.count("made") == 100
    assert outcomes.count("sold_out") == 900
    found = await audit(desk.pool, event)
    assert found.held == 100
    assert_sound(found)


async def test_without_the_gate_postgresql_alone_never_oversells(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool, gate_url="") as desk:
        event = await put_on_sale(pool, 100)
        outcomes = await asyncio.gather(*(desk.try_buy(ids.new_id(), "key", event, 1) for _ in range(500)))
    assert outcomes.count("made") == 100
    assert outcomes.count("sold_out") == 400
    assert_sound(await audit(pool, event))


async def test_a_retry_elsewhere_is_not_refused_while_the_first_is_still_written(
    desk: Desk, settings: Settings
) -> None:
    event = await put_on_sale(desk.pool, 1)
    await load_gate(desk.pool, desk.gate, event.id)
    alice = ids.new_id()
    async with open_desk(settings, desk.pool, sold_out_seconds=5, catalogue_seconds=10) as elsewhere:
        async with desk.pool.acquire() as other, other.transaction():
            await other.execute("SELECT 1 FROM tickets.stock WHERE event_id = $1 FOR UPDATE", event.id)
            first = asyncio.create_task(desk.try_buy(alice, "key", event, 1))
            while not await desk.gate.holds(event.id):
                await asyncio.sleep(0.01)
            # The other process knows now that all are taken, and need not ask the gate about the next.
            assert await elsewhere.try_buy(ids.new_id(), "key", event, 1) == "sold_out"
            assert await elsewhere.try_buy(alice, "key", event, 1) == "idempotency_key_in_flight"
            assert await elsewhere.try_buy(alice, "another key", event, 1) == "sold_out"
        assert await first == "made"
        assert await elsewhere.try_buy(alice, "key", event, 1) == "again"
    assert_sound(await audit(desk.pool, event))
