"""Sales per tier and minute: counted from the outbox, each state change exactly once, and they add up to the stock."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

import holdfast.schema
from box_office import Desk, Event, assert_sound, audit, consume_all, open_desk, put_on_sale
from holdfast import ids
from holdfast.engines.database import Connection, Pool
from holdfast.orders.journal import SQL as ORDERS
from holdfast.orders.order import Order
from holdfast.outbox.consume import Consumer, OutboxRow, Recorder
from holdfast.outbox.dead_letters import hand_over_wanted, want_letters
from holdfast.outbox.direct import SQL as OUTBOX
from holdfast.outbox.direct import consume
from holdfast.settings import Settings
from holdfast.stats.record import count_sales, forget_sales, stats_consumer
from holdfast.stats.sales import SQL

PRICE = 120_000
ADDS_UP = """
SELECT s.tier_id, s.held, s.sold,
       coalesce(sum(c.held - c.released - c.sold + c.sold_late), 0)::int AS counted_held,
       coalesce(sum(c.sold), 0)::int AS counted_sold, coalesce(sum(c.revenue), 0)::bigint AS revenue
FROM tickets.stock s LEFT JOIN stats.sales c USING (event_id, tier_id)
WHERE s.event_id = $1 GROUP BY s.tier_id, s.held, s.sold
"""
UNREAD = """
SELECT count(*) FROM outbox.events e, outbox.consumers c WHERE c.name = 'stats' AND (e.xid, e.id) > (c.xid, c.id)
"""
EVENT_CANCELLED = """
WITH one AS (UPDATE tickets.events SET status = 'cancelled' WHERE id = $1),
other AS (UPDATE tickets.stock SET state = 'cancelled' WHERE event_id = $1)
INSERT INTO outbox.events (kind, subject, version, scope) VALUES ('event.cancelled', $1, 2, $1)
"""


async def differences(pool: Pool, *events: Event) -> list[str]:
    """Where what was counted is not what PostgreSQL's counters say."""
    found = []
    for event in events:
        for row in await pool.fetch(ADDS_UP, event.id):
            if (row["counted_held"], row["counted_sold"]) != (row["held"], row["sold"]):
                found.append(str(dict(row)))
            if row["revenue"] != row["sold"] * PRICE:
                found.append(f"revenue: {dict(row)}")
    return found


async def expire_now(pool: Pool, orders: Sequence[Order] | None = None) -> None:
    """Lets the time of these holds be over, or of all, and runs expiry."""
    given = None if orders is None else [ids.decode(ids.ORDER, order.id) for order in orders]
    await pool.execute(
        "UPDATE orders.orders SET expires_at = clock_timestamp() "
        "WHERE status = 'reserved' AND ($1::uuid[] IS NULL OR id = ANY ($1))",
        given,
    )
    await pool.fetchval(ORDERS["expire"], 1000)


async def live(desk: Desk, event: Event, number: int, chance: random.Random) -> None:
    """One buyer's way through a sale: whichever it is."""
    made, _ = await desk.buy(ids.new_id(), f"key {number}", event, chance.randint(0, 2), chance.randint(1, 2))
    match chance.choice(["keep", "pay", "pay", "decline", "cancel", "expire", "pay late"]):
        case "pay":
            await desk.try_confirm(made)
        case "decline":
            await desk.try_confirm(made, token="tok_declined")
        case "cancel":
            await desk.try_cancel(made)
        case "expire":
            await expire_now(desk.pool, [made])
        case "pay late":
            paying = asyncio.create_task(desk.try_confirm(made, token="tok_ok"))
            await expire_now(desk.pool, [made])
            await paying


async def test_everything_that_can_become_of_an_order_adds_up(desk: Desk) -> None:
    chance = random.Random(20261122)
    one, other = await put_on_sale(desk.pool, 500, 500), await put_on_sale(desk.pool, 500, 500)
    counting = asyncio.create_task(_count_until(desk.pool, stop := asyncio.Event()))
    await asyncio.gather(*(live(desk, chance.choice((one, other)), number, chance) for number in range(150)))
    await desk.pool.execute(EVENT_CANCELLED, other.id)
    await desk.relay()
    stop.set()
    await counting
    await consume_all(desk.pool, stats_consumer())
    assert await differences(desk.pool, one, other) == []
    for event in (one, other):
        assert_sound(await audit(desk.pool, event))
    assert await desk.pool.fetchval("SELECT count(*) FROM stats.sales") > 0


async def _count_until(pool: Pool, stop: asyncio.Event) -> None:
    """Counts both ways at once: in PostgreSQL, and as any consumer of the outbox does."""
    settings = Settings(stats_poll_seconds=0.02)
    async with asyncio.TaskGroup() as group:
        group.create_task(count_sales(settings, pool, stop))
        group.create_task(consume(pool, stats_consumer(), stop, 0.01))


async def test_a_late_payment_is_sold_and_was_not_held(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool, sandbox_late_seconds=0.0) as desk:
        event = await put_on_sale(pool, 10)
        order, _ = await desk.buy(ids.new_id(), "key", event, 3)
        order_id = ids.decode(ids.ORDER, order.id)
        payment = ids.new_id()
        user = ids.decode(ids.USER, order.user_id)
        arguments = ([order_id], [user], ["pay"], [b"body"], [payment], ["tok_ok"])
        assert (
            await pool.fetchval("SELECT outcome FROM orders.begin_payments($1,$2,$3,$4,$5,$6)", *arguments) == "begun"
        )
        await expire_now(pool)
        tickets = [ids.new_id() for _ in range(3)]
        assert await pool.fetchval(ORDERS["confirm_late"], payment, tickets) == "confirmed"
        await consume_all(pool, stats_consumer())
        row = await pool.fetchrow(
            "SELECT sum(held)::int, sum(released)::int, sum(sold)::int, sum(sold_late)::int, sum(revenue)::int, "
            "min(currency) FROM stats.sales WHERE event_id = $1",
            event.id,
        )
        assert tuple(row or ()) == (3, 3, 3, 3, 3 * PRICE, "TWD")
        assert await differences(pool, event) == []


async def some_sales(settings: Settings, pool: Pool) -> Event:
    """An event with a purchase, a sale and a cancel, none of which was counted yet."""
    event = await put_on_sale(pool, 100)
    async with open_desk(settings, pool) as desk:
        made = [(await desk.buy(ids.new_id(), "key", event, 2))[0] for _ in range(3)]
        assert [await desk.try_confirm(made[0]), await desk.try_cancel(made[1])] == ["confirmed", "cancelled"]
    return event


class Killed(BaseException):
    """The worker's process, in the middle of something."""


def killed_after_the_effect(consumer: Recorder) -> Recorder:
    """A worker that dies when it has counted and has not yet noted how far it is."""

    async def record(rows: Sequence[OutboxRow], connection: Connection) -> None:
        await consumer.record(rows, connection)
        raise Killed

    return consumer._replace(record=record)


async def test_a_worker_that_dies_between_effect_and_progress_has_counted_nothing(
    settings: Settings, pool: Pool
) -> None:
    event = await some_sales(settings, pool)
    with pytest.raises(Killed):
        await consume_all(pool, killed_after_the_effect(stats_consumer()))
    assert await pool.fetchval("SELECT count(*) FROM stats.sales") == 0
    await consume_all(pool, stats_consumer())
    await consume_all(pool, stats_consumer())
    assert await differences(pool, event) == []


async def test_control_with_progress_apart_from_the_effect_the_same_death_counts_twice(
    settings: Settings, pool: Pool
) -> None:
    event = await some_sales(settings, pool)
    recording = stats_consumer().record

    async def handle(rows: Sequence[OutboxRow]) -> int:
        async with pool.acquire() as connection:
            await recording(rows, connection)  # type: ignore[arg-type]
        raise Killed

    with pytest.raises(Killed):
        await consume_all(pool, Consumer("stats", stats_consumer().kinds, handle))
    await consume_all(pool, stats_consumer())
    assert len(await differences(pool, event)) > 0


async def test_two_workers_count_once(settings: Settings, pool: Pool) -> None:
    event = await put_on_sale(pool, 1000)
    stop = asyncio.Event()
    counting = [asyncio.create_task(_count_until(pool, stop)) for _ in range(2)]
    async with open_desk(settings, pool) as desk:
        orders = await asyncio.gather(*(desk.buy(ids.new_id(), "key", event, 1) for _ in range(100)))
        await asyncio.gather(*(desk.try_confirm(order) for order, _ in orders))
    async with asyncio.timeout(20):
        while await differences(pool, event):
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*counting)
    assert await pool.fetchval("SELECT sum(sold)::int FROM stats.sales") == 100


async def test_in_postgresql_a_row_is_counted_as_by_any_consumer(settings: Settings, pool: Pool) -> None:
    event = await some_sales(settings, pool)
    async with pool.acquire() as slow:
        # What is not committed is waited for, and what stands behind it too.
        under_way = slow.transaction()
        await under_way.start()
        await _reserve_within(slow, event)  # type: ignore[arg-type]
        async with open_desk(settings, pool) as desk:
            paying = asyncio.create_task(desk.try_buy(ids.new_id(), "key", event, 1))
            while await pool.fetchval(SQL["record_outbox"], 2):
                pass
            assert await pool.fetchval("SELECT sum(held)::int FROM stats.sales") == 6
            await under_way.commit()
            assert await paying == "made"
        for looked_at in (2, 0):
            assert await pool.fetchval(SQL["record_outbox"], 1000) == looked_at
    assert await differences(pool, event) == []


async def test_what_cannot_be_counted_is_a_dead_letter_and_holds_nothing_up(settings: Settings, pool: Pool) -> None:
    event = await some_sales(settings, pool)
    poison = await pool.fetchval("SELECT id FROM orders.orders WHERE status = 'confirmed'")
    await pool.execute("UPDATE orders.orders SET unit_prices = '{9223372036854775807}' WHERE id = $1", poison)
    stop = asyncio.Event()
    quick = settings.model_copy(update={"consumer_tries_max": 1, "stats_poll_seconds": 0.02})
    counting = asyncio.create_task(count_sales(quick, pool, stop))
    async with asyncio.timeout(20):
        while await pool.fetchval(UNREAD):
            await asyncio.sleep(0.02)
    assert await pool.fetchval("SELECT array_agg(subject) FROM outbox.dead_letters") == [poison]
    assert len(await differences(pool, event)) > 0
    await pool.execute("UPDATE orders.orders SET unit_prices = $2 WHERE id = $1", poison, [PRICE])
    await want_letters(pool, "stats")
    handing = asyncio.create_task(hand_over_wanted(pool, stats_consumer(), stop, 0.02))
    async with asyncio.timeout(20):
        while await differences(pool, event):
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(counting, handing)
    assert await pool.fetchval("SELECT count(*) FROM outbox.dead_letters") == 0


async def test_a_currency_that_changes_is_counted_apart(settings: Settings, pool: Pool) -> None:
    event = await put_on_sale(pool, 100)
    for currency in ("TWD", "EUR"):
        await pool.execute("UPDATE tickets.tiers SET currency = $2 WHERE event_id = $1", event.id, currency)
        async with open_desk(settings, pool) as desk:
            order, _ = await desk.buy(ids.new_id(), "key", event, 1)
            assert await desk.try_confirm(order) == "confirmed"
    await consume_all(pool, stats_consumer())
    rows = await pool.fetch("SELECT currency, sum(revenue)::int FROM stats.sales GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [("EUR", PRICE), ("TWD", PRICE)]


async def test_what_the_release_before_sold_is_counted_too_and_once(settings: Settings, pool: Pool) -> None:
    """The revision runs in the middle of a sale: one part of the outbox it has counted, the rest it has not seen."""
    event = await some_sales(settings, pool)
    await pool.execute("DROP SCHEMA stats CASCADE; DROP SCHEMA notify CASCADE")
    await pool.execute("DELETE FROM outbox.consumers WHERE name = 'stats'")
    revision = Path(holdfast.schema.__file__).parent / "versions" / "0006_statistics.sql"
    async with pool.acquire() as slow, open_desk(settings, pool) as desk:
        # A purchase that has been written and not committed when the revision runs.
        under_way = slow.transaction()
        await under_way.start()
        await _reserve_within(slow, event)  # type: ignore[arg-type]
        await pool.execute(revision.read_text("utf-8"))
        await under_way.commit()
        assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
        await expire_now(pool)
        assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
    assert await differences(pool, event) != []
    await consume_all(pool, stats_consumer())
    assert await differences(pool, event) == []
    # What it began with is kept for as long as its outbox rows may come.
    assert await pool.fetchval("SELECT count(*) FROM stats.begun_with") == 1


async def _reserve_within(connection: Connection, event: Event) -> None:
    order = ids.new_id()
    await connection.execute(
        "INSERT INTO orders.orders (id, user_id, event_id, idempotency_key, fingerprint, tier_ids, quantities, "
        "unit_prices, tickets, total_amount, currency, created_at, expires_at) "
        "VALUES ($1, $2, $3, 'slow', '', $4, '{2}', $5, 2, 1, 'TWD', now(), now() + interval '1 hour')",
        order,
        user := ids.new_id(),
        event.id,
        list(event.tiers),
        [PRICE],
    )
    await connection.execute("INSERT INTO orders.user_tickets VALUES ($1, $2, 2, 4)", event.id, user)
    await connection.execute("SELECT tickets.hold($1, '{2}')", list(event.tiers))
    await connection.execute(
        "INSERT INTO outbox.events (kind, subject, version, scope) VALUES ('order.reserved', $1, 1, $2)",
        order,
        event.id,
    )


async def test_on_an_empty_database_nothing_is_left_out(pool: Pool) -> None:
    assert await pool.fetchval("SELECT count(*) FROM stats.begun_with") == 0


async def test_old_minutes_are_forgotten_and_others_stay(settings: Settings, pool: Pool) -> None:
    event, tier = ids.new_id(), ids.new_id()
    for days in (0, 399, 401, 500):
        await pool.execute(
            "INSERT INTO stats.sales VALUES ($1, now() - make_interval(days => $3), $2, 'TWD', 1, 0, 0, 0, 0)",
            event,
            tier,
            days,
        )
    stop = asyncio.Event()
    forgetting = asyncio.create_task(forget_sales(settings, pool, stop))
    async with asyncio.timeout(10):
        while await pool.fetchval("SELECT count(*) FROM stats.sales") > 2:
            await asyncio.sleep(0.02)
    stop.set()
    await forgetting
    assert await pool.fetchval("SELECT min(minute) > now() - interval '400 days' FROM stats.sales")


async def test_a_batch_locks_minutes_in_one_order(pool: Pool) -> None:
    """Lanes of a log count at once: were the order of rows that of the batch, two could wait for each other."""
    events = sorted([await put_on_sale(pool, 10) for _ in range(2)])
    orders = []
    for event in events:
        async with pool.acquire() as connection:
            await _reserve_within(connection, event)  # type: ignore[arg-type]
        orders.append(await pool.fetchval("SELECT id FROM orders.orders WHERE event_id = $1", event.id))
    rows = await pool.fetch("SELECT xid::text, id, occurred_at FROM outbox.events ORDER BY id")
    batch = [
        OutboxRow((row["xid"], row["id"]), "order.reserved", order, 1, event.id, row["occurred_at"])
        for row, order, event in zip(rows, orders, events, strict=True)
    ]
    recording = stats_consumer().record

    async def count(rows: Sequence[OutboxRow]) -> None:
        for _ in range(50):
            async with pool.acquire() as connection, connection.transaction():
                await recording(rows, connection)  # type: ignore[arg-type]

    await asyncio.gather(*(count(batch[::step]) for step in (1, -1, 1, -1)))
    assert await pool.fetchval("SELECT sum(held)::int FROM stats.sales") == 2 * 2 * 200


async def test_the_outbox_keeps_what_was_not_counted(settings: Settings, pool: Pool) -> None:
    await some_sales(settings, pool)
    await pool.execute(
        "UPDATE outbox.consumers SET xid = pg_snapshot_xmax(pg_current_snapshot()) WHERE name <> 'stats'"
    )
    row = await pool.fetchrow(OUTBOX["prune"], "0", 0, 5000)
    assert row is not None
    assert row["deleted"] == 0
    await consume_all(pool, stats_consumer())
    row = await pool.fetchrow(OUTBOX["prune"], "0", 0, 5000)
    assert row is not None
    assert row["deleted"] > 0


async def test_what_is_counted_cannot_contradict_itself(pool: Pool) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="sales_late_are_sold"):
        await pool.execute(
            "INSERT INTO stats.sales VALUES ($1, now(), $1, 'TWD', 0, 0, 1, 2, 0)",
            ids.new_id(),
        )
