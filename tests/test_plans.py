"""What a purchase or a page asks of PostgreSQL is found by key, whatever was known when it was planned."""

import asyncio

import pytest

from box_office import Desk, Event, open_desk, order_ids, put_on_sale
from holdfast import ids
from holdfast.engines.database import Pool, open_reads
from holdfast.orders import writer
from holdfast.orders.history import History
from holdfast.orders.journal import SQL
from holdfast.settings import Settings

TIMES = 8
"""PostgreSQL plans a statement anew five times before it keeps a plan."""

WALKED = """
SELECT relname || ' from end to end' FROM pg_stat_user_tables
WHERE schemaname IN ('orders', 'tickets') AND relname NOT IN ('stock', 'events', 'tiers', 'gates') AND seq_scan > 0
UNION ALL
SELECT indexrelname || ' for another purpose' FROM pg_stat_user_indexes
WHERE indexrelname IN ('orders_overdue', 'payments_unresolved', 'idempotency_keys_age') AND idx_scan > 0
UNION ALL
SELECT indexrelname || ' from end to end' FROM pg_stat_user_indexes WHERE schemaname = 'orders' AND idx_tup_read > 1000
"""
OTHERS = """
SET LOCAL session_replication_role = replica;
INSERT INTO orders.user_tickets (event_id, user_id, tickets, tickets_max)
SELECT gen_random_uuid(), gen_random_uuid(), 0, 1 FROM generate_series(1, 20000);
INSERT INTO orders.payments (id, order_id, idempotency_key, provider_token, amount, currency, state)
SELECT gen_random_uuid(), gen_random_uuid(), '', '', 1, 'TWD', 'captured' FROM generate_series(1, 20000);
INSERT INTO orders.tickets (id, order_id, event_id, tier_id, user_id)
SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid()
FROM generate_series(1, 20000)
"""


async def walked(settings: Settings, pool: Pool) -> set[str]:
    """Which tables and indexes were walked by some purchases, payments, cancels and pages that began on an empty
    database."""
    async with open_desk(settings, pool, gate_url="") as desk:
        event = await put_on_sale(pool, 100, tickets_per_user_max=100)
        # Half of the others are there when the plans are made, without statistics; half come when they are kept.
        await pool.execute(OTHERS)
        for _ in range(TIMES):
            await buy_pay_and_cancel(desk, event)
        await pool.execute(OTHERS)
        await pool.execute("SELECT pg_stat_reset()")
        for _ in range(TIMES):
            await buy_pay_and_cancel(desk, event)
    # A connection tells its counts at the latest when it ends, as the desk's have by now.
    async with asyncio.timeout(10):
        while not await pool.fetchval("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'payments'"):
            await asyncio.sleep(0.05)
    return {row[0] for row in await pool.fetch(WALKED)}


async def buy_pay_and_cancel(desk: Desk, event: Event) -> None:
    alice = ids.new_id()
    paid, _ = await desk.buy(alice, "paid", event, 1)
    assert await desk.try_confirm(paid) == "confirmed"
    gone, _ = await desk.buy(alice, "gone", event, 1)
    assert await desk.try_cancel(gone) == "cancelled"
    assert await desk.try_buy(alice, "gone", event, 1) == "again"
    reads = await open_reads(desk.settings)
    page = await History(reads).page(order_ids(paid)[1], 10, None)
    await reads.close()
    assert [order.status for order in page.data] == ["cancelled", "confirmed"]


async def test_everything_goes_by_key(settings: Settings, pool: Pool) -> None:
    assert await walked(settings, pool) == set()


async def test_control_without_the_writers_settings_tables_are_walked(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "BY_KEY", {})
    assert await walked(settings, pool)


async def test_history_is_a_range_of_its_index(settings: Settings) -> None:
    reads = await open_reads(settings)
    plan = "\n".join(row[0] for row in await reads.fetch("EXPLAIN " + SQL["history"], ids.new_id(), None, 21))
    await reads.close()
    assert "Index Scan using orders_history on orders o" in plan
    assert "Index Cond: ((user_id = " in plan
    assert "payments_order" in plan
    assert "tickets_order" in plan
    assert "Seq Scan" not in plan
    assert "Sort Key: o" not in plan, "the index gives the order"
