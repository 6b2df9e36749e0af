"""Every guard has a negative control: the same attack with the guard off must do harm, or the test proves nothing."""

import asyncio

import asyncpg
import pytest

from box_office import Audit, Desk, Event, audit, counted, open_desk, order_ids, put_on_sale
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.gate.load import load_gate
from holdfast.orders.basket import basket_of, offer_of
from holdfast.orders.journal import SQL, Reservation, _columns
from holdfast.settings import Settings

# A try_hold that believes whoever calls it: what is still refused then, the CHECK alone refuses.
_TRUSTING = """
CREATE OR REPLACE FUNCTION tickets.try_hold(p_tiers uuid[], p_quantities integer[]) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM tickets.move(p_tiers, p_quantities, array_fill(0, ARRAY[cardinality(p_tiers)]));
    RETURN 'held';
END $$
"""


async def rush(desk: Desk, event: Event, buyers: int) -> dict[str, int]:
    """So many buyers at once; the outcomes counted, whatever they are."""

    async def buy() -> str:
        try:
            return await desk.try_buy(ids.new_id(), "key", event, 1)
        except asyncpg.PostgresError as error:
            return type(error).__name__

    return counted(await asyncio.gather(*(buy() for _ in range(buyers))))


async def rush_without_gate(settings: Settings, pool: Pool, *, buyers: int, capacity: int) -> Audit:
    """Two processes' worth of buyers on PostgreSQL alone."""
    event = await put_on_sale(pool, capacity)
    async with open_desk(settings, pool, gate_url="") as one, open_desk(settings, pool, gate_url="") as other:
        await asyncio.gather(rush(one, event, buyers // 2), rush(other, event, buyers // 2))
    return await audit(pool, event)


async def test_the_check_refuses_an_oversale_that_everything_else_lets_pass(settings: Settings, pool: Pool) -> None:
    await pool.execute(_TRUSTING)
    found = await rush_without_gate(settings, pool, buyers=100, capacity=20)
    assert found.oversold == 0
    assert found.held <= 20


async def test_control_without_the_check_the_same_rush_oversells(settings: Settings, pool: Pool) -> None:
    await pool.execute(_TRUSTING)
    await pool.execute("ALTER TABLE tickets.stock DROP CONSTRAINT stock_not_oversold")
    found = await rush_without_gate(settings, pool, buyers=100, capacity=20)
    assert found.oversold == 80


async def test_the_gate_turns_buyers_away_before_postgresql_sees_them(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool, catalogue_seconds=10) as desk:
        event = await put_on_sale(pool, 10)
        await load_gate(pool, desk.gate, event.id)
        # Admission goes on believing that the sale is open; PostgreSQL would refuse each order as paused.
        await desk.sales.get(event.id)
        await pool.execute("UPDATE tickets.stock SET state = 'paused'")
        outcomes = await rush(desk, event, 50)
    assert set(outcomes) == {"sale_not_open", "sold_out"}
    assert outcomes["sold_out"] >= 20, "PostgreSQL has tickets left: only the gate can have said so"


async def test_control_a_gate_that_lies_does_not_oversell(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 10)
    await load_gate(desk.pool, desk.gate, event.id)
    epoch = await desk.pool.fetchval("SELECT epoch FROM tickets.gates")
    await desk.gate.load_begin(event.id, epoch)
    await desk.gate.load_open(event.id, epoch, [(event.tiers[0].hex, 1000)])
    assert await rush(desk, event, 100) == {"made": 10, "sold_out": 90}
    found = await audit(desk.pool, event)
    assert (found.held, found.oversold) == (10, 0)


def reservation(event: Event, desk: Desk, key: str) -> Reservation:
    """An order of Alice's as it comes to the journal."""
    sale = desk.sales.peek(event.id)[1]
    assert sale is not None
    return Reservation(_ALICE, key, offer_of(basket_of(event.ask(1)), sale), id=ids.new_id())


_ALICE = ids.new_id()


async def race_one_key(desk: Desk, event: Event) -> int:
    """The same purchase through eight processes at once, without any of their other guards; how many orders it made."""
    await desk.sales.get(event.id)

    async def write() -> None:
        connection = await asyncpg.connect(desk.settings.database_url.get_secret_value())
        try:
            await connection.fetch(SQL["journal"], False, *_columns([reservation(event, desk, "one key")]))
        finally:
            await connection.close()

    await asyncio.gather(*(write() for _ in range(8)))
    count: int = await desk.pool.fetchval("SELECT count(*) FROM orders.orders")
    return count


async def test_the_unique_key_makes_one_order_of_eight_tries(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 100, tickets_per_user_max=100)
    assert await race_one_key(desk, event) == 1


async def test_control_without_the_unique_key_there_are_duplicates(desk: Desk) -> None:
    # The same function with its conflict clause, and no constraint that could ever conflict.
    definition: str = await desk.pool.fetchval("SELECT pg_get_functiondef('orders.journal'::regproc)")
    await desk.pool.execute(definition.replace("ON CONFLICT ON CONSTRAINT orders_key_unique DO NOTHING", ""))
    await desk.pool.execute("ALTER TABLE orders.orders DROP CONSTRAINT orders_key_unique")
    event = await put_on_sale(desk.pool, 100, tickets_per_user_max=100)
    assert await race_one_key(desk, event) == 8
    assert (await audit(desk.pool, event)).duplicates == 7


async def race_the_limit(settings: Settings, pool: Pool) -> Audit:
    """One user, ten orders through two processes that have no gate, at a limit of three."""
    event = await put_on_sale(pool, 100, tickets_per_user_max=3)
    alice = ids.new_id()
    async with open_desk(settings, pool, gate_url="") as one, open_desk(settings, pool, gate_url="") as other:

        async def buy(number: int) -> None:
            await (one, other)[number % 2].try_buy(alice, f"key {number}", event, 1)

        await asyncio.gather(*(buy(number) for number in range(10)))
    return await audit(pool, event)


async def test_the_limits_check_holds_for_the_person_without_the_gate(settings: Settings, pool: Pool) -> None:
    found = await race_the_limit(settings, pool)
    assert (found.held, found.users_over_limit) == (3, 0)


async def test_control_without_the_limits_check_one_person_gets_more(settings: Settings, pool: Pool) -> None:
    await pool.execute("ALTER TABLE orders.user_tickets DROP CONSTRAINT user_tickets_within_limit")
    found = await race_the_limit(settings, pool)
    assert (found.held, found.users_over_limit) == (10, 1)


async def test_one_bad_order_in_a_batch_fails_alone(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool, gate_url="") as desk:
        event = await put_on_sale(pool, 5, 100)
        orders = [(3, 0), (0, 1), (3, 0), (0, 1), (2, 0), (1, 1)]
        outcomes = await asyncio.gather(*(desk.try_buy(ids.new_id(), "key", event, *order) for order in orders))
    assert outcomes == ["made", "made", "sold_out", "made", "made", "sold_out"]
    assert (await audit(pool, event)).held == 7


async def test_opposite_lines_do_not_deadlock(settings: Settings, pool: Pool) -> None:
    event = await put_on_sale(pool, 10_000, 10_000)
    backwards = Event(event.id, event.tiers[::-1])
    async with open_desk(settings, pool, gate_url="") as one, open_desk(settings, pool, gate_url="") as other:
        outcomes = await asyncio.gather(
            *(one.try_buy(ids.new_id(), "key", event, 1, 1) for _ in range(200)),
            *(other.try_buy(ids.new_id(), "key", backwards, 1, 1) for _ in range(200)),
        )
    assert counted(outcomes) == {"made": 400}
    deadlocks = await pool.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0


@pytest.mark.parametrize(
    ("column", "value"), [("opens_at", "now() + interval '1 hour'"), ("closes_at", "now() - interval '1 hour'")]
)
async def test_postgresql_decides_the_sale_window_last(desk: Desk, column: str, value: str) -> None:
    event = await put_on_sale(desk.pool, 10)
    alice = ids.new_id()
    order, _ = await desk.buy(alice, "first", event, 1)
    # Admission still believes what it has read; only PostgreSQL knows better.
    await desk.pool.execute(f"UPDATE tickets.stock SET {column} = {value}")
    code = {"opens_at": "sale_not_open", "closes_at": "sale_closed"}[column]
    assert await desk.try_buy(alice, "second", event, 1) == code
    desk.sales.drop(event.id)
    assert await desk.try_buy(alice, "second", event, 1) == code
    assert (await desk.buy(alice, "first", event, 1))[0].id == order.id, "a retry is recognised first"


async def test_a_batch_with_overdue_holds_keeps_the_lock_order(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 100)
    alice, bob = ids.new_id(), ids.new_id()
    orders = [(await desk.buy(user, "key", event, 1))[0] for user in (alice, bob)]
    overdue = order_ids(orders[0])[0]
    await desk.pool.execute("UPDATE orders.orders SET expires_at = clock_timestamp() WHERE id = $1", overdue)
    async with desk.pool.acquire() as blocker, blocker.transaction():
        await blocker.execute("SELECT 1 FROM tickets.stock WHERE event_id = $1 FOR UPDATE", event.id)
        # Two cancels in one batch, of which one meets an overdue hold, wait for the tier; Bob buys the other way round.
        cancelling = asyncio.gather(*(desk.try_cancel(order) for order in orders))
        await wait_for_locks(desk.pool, 1)
        buying = asyncio.create_task(desk.try_buy(bob, "another", event, 1))
        await wait_for_locks(desk.pool, 2)
    assert sorted(await cancelling) == ["cancelled", "invalid_state"]
    assert await buying == "made"
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await desk.pool.fetchval(deadlocks) == 0
    assert (await audit(desk.pool, event)).counters_wrong == 0


async def wait_for_locks(pool: Pool, count: int) -> None:
    """Waits until so many backends wait for a lock in this database."""
    async with asyncio.timeout(10):
        while await pool.fetchval(_WAITING) < count:
            await asyncio.sleep(0.01)


_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
