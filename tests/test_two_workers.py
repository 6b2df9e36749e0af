"""Two of the same worker at once: each hold ends exactly once."""

import asyncio

import asyncpg
import pytest

from box_office import Desk, Event, assert_sound, audit, open_desk, put_on_sale
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.orders import workers
from holdfast.settings import Settings

ORDERS = 60

# The same function without the guards: it neither skips nor locks what another one has in hand.
WITHOUT_GUARD = "SELECT replace(pg_get_functiondef('orders.expire'::regproc), 'FOR NO KEY UPDATE SKIP LOCKED', '')"

ENDED = "SELECT count(*) AS rows, count(DISTINCT subject) AS orders FROM outbox.events WHERE kind = 'order.expired'"


async def overdue(desk: Desk, orders: int = ORDERS) -> Event:
    """An event with so many holds of a ticket each, whose time is over; and one more that lasts."""
    event = await put_on_sale(desk.pool, orders + 10)
    await asyncio.gather(*(desk.buy(ids.new_id(), "key", event, 1) for _ in range(orders + 1)))
    await desk.pool.execute(
        "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE id IN "
        "(SELECT id FROM orders.orders WHERE event_id = $1 ORDER BY id LIMIT $2)",
        event.id,
        orders,
    )
    return event


async def two_at_once(pool: Pool) -> list[object]:
    """The second begins while the first has done its work and not committed it. How many each has expired."""
    async with pool.acquire() as one, pool.acquire() as other:
        transaction = one.transaction()
        await transaction.start()
        first = await one.fetchval("SELECT orders.expire(500)")
        second = asyncio.create_task(other.fetchval("SELECT orders.expire(500)"))
        # It ends by itself, or waits for the first.
        await asyncio.wait([second], timeout=0.5)
        await transaction.commit()
        return [first, *await asyncio.gather(second, return_exceptions=True)]


async def test_the_second_skips_what_the_first_has_in_hand(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool, gate_url="") as desk:
        event = await overdue(desk)
        assert await two_at_once(pool) == [ORDERS, 0]
        found = await audit(pool, event)
        assert_sound(found)
        assert found.held == 1


async def test_the_control_without_the_guard_the_second_ends_them_again(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool, gate_url="") as desk:
        await overdue(desk)
        without: str = await pool.fetchval(WITHOUT_GUARD)
        assert "SKIP LOCKED" not in without
        await pool.execute(without)
        first, second = await two_at_once(pool)
        # Only a CHECK of the counters, which cannot tell whose tickets they are, is left to refuse it here.
        assert first == ORDERS
        assert isinstance(second, asyncpg.CheckViolationError)


async def test_loops_side_by_side_end_each_hold_once(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_ORDERS_MAX", 7)
    async with open_desk(settings, pool, gate_url="") as desk:
        event = await overdue(desk)
        stop = asyncio.Event()
        loops = [asyncio.create_task(workers.expire_holds(pool, stop, 0.001)) for _ in range(3)]
        try:
            async with asyncio.timeout(60):
                while (await audit(pool, event)).held > 1:
                    await asyncio.sleep(0.02)
        finally:
            stop.set()
            await asyncio.gather(*loops)
        assert_sound(await audit(pool, event))
        assert dict(await pool.fetchrow(ENDED) or {}) == {"rows": ORDERS, "orders": ORDERS}
