"""The audit of a rush sees every kind of damage, and nothing where there is none."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from box_office import Desk, Event, order_ids, put_on_sale
from holdfast import ids
from holdfast.gate.gate import hold_of
from holdfast.gate.load import load_gate
from holdfast.orders.order import Order
from holdfast.rush.audit import Verdict, facts_at_rest, judge
from holdfast.rush.ledger import Latency, Ledger
from holdfast.rush.stage import Sale

CAPACITY = 3
ALICE, BOB = ids.new_id(), ids.new_id()


class Scene(NamedTuple):
    """Alice has two tickets, Bob held one and cancelled; one is left and nobody wants it."""

    desk: Desk
    event: Event
    ledger: Ledger
    order: Order

    async def verdict(self) -> Verdict:
        """What the audit says now."""
        sale = Sale(self.event.id, ids.encode(ids.EVENT, self.event.id), {self.event.tiers[0]: CAPACITY})
        return judge(await facts_at_rest(self.desk.pool, self.desk.gate, sale, 0), self.ledger, sale)

    async def execute(self, statement: str) -> None:
        """Damage, written into the database."""
        await self.desk.pool.execute(statement)


@pytest.fixture
async def scene(desk: Desk) -> Scene:
    event = await put_on_sale(desk.pool, CAPACITY, tickets_per_user_max=2)
    await load_gate(desk.pool, desk.gate, event.id)
    ledger = Ledger()
    order, _ = await desk.buy(ALICE, "alice", event, 2)
    bobs, _ = await desk.buy(BOB, "bob", event, 1)
    assert await desk.try_confirm(order) == "confirmed"
    assert await desk.try_cancel(bobs) == "cancelled"
    ledger.accepted(order_ids(order)[0], ALICE, "alice", {event.tiers[0]: 2})
    ledger.accepted(order_ids(bobs)[0], BOB, "bob", {event.tiers[0]: 1})
    issued = await desk.pool.fetch("SELECT id FROM orders.tickets")
    ledger.confirmed(order_ids(order)[0], [row["id"] for row in issued])
    ledger.cancelled(order_ids(bobs)[0])
    await desk.relay()
    return Scene(desk, event, ledger, order)


async def test_where_all_is_well_it_finds_nothing(scene: Scene) -> None:
    found = await scene.verdict()
    assert found.findings == []
    assert found.is_sound
    assert (found.capacity, found.sold, found.is_at_rest) == (3, 2, True)


async def oversell(scene: Scene) -> None:
    await scene.execute("ALTER TABLE tickets.stock DROP CONSTRAINT stock_not_oversold")
    await scene.execute("UPDATE tickets.stock SET sold = 4")
    await scene.execute("UPDATE orders.orders SET quantities = '{4}', tickets = 4 WHERE status = 'confirmed'")


async def lose_the_order(scene: Scene) -> None:
    for table in ("orders.tickets", "orders.payments"):
        await scene.execute(f"DELETE FROM {table}")
    await scene.execute("DELETE FROM orders.orders WHERE status = 'confirmed'")


async def undo_the_confirm(scene: Scene) -> None:
    await scene.execute("UPDATE orders.orders SET status = 'expired' WHERE status = 'confirmed'")


async def undo_the_cancel(scene: Scene) -> None:
    await scene.execute("UPDATE orders.orders SET status = 'expired' WHERE status = 'cancelled'")


async def exchange_a_ticket(scene: Scene) -> None:
    await scene.execute(
        "UPDATE orders.tickets SET id = gen_random_uuid() "
        "WHERE id = (SELECT id FROM orders.tickets ORDER BY id LIMIT 1)"
    )


async def buy_twice(scene: Scene) -> None:
    await scene.execute(
        "INSERT INTO orders.orders SELECT gen_random_uuid(), user_id, event_id, status, version, 'again', fingerprint, "
        "tier_ids, quantities, unit_prices, tickets, total_amount, currency, created_at, expires_at, ended_at "
        "FROM orders.orders WHERE status = 'confirmed'"
    )


async def share_a_key(scene: Scene) -> None:
    await scene.execute("ALTER TABLE orders.orders DROP CONSTRAINT orders_key_unique")
    await scene.execute(
        "INSERT INTO orders.orders SELECT gen_random_uuid(), user_id, event_id, status, version, idempotency_key, "
        "fingerprint, tier_ids, quantities, unit_prices, tickets, total_amount, currency, created_at, expires_at, "
        "ended_at FROM orders.orders WHERE status = 'cancelled'"
    )


async def answer_one_key_twice(scene: Scene) -> None:
    scene.ledger.accepted(ids.new_id(), ALICE, "alice", {scene.event.tiers[0]: 2})


async def hold_for_nobody(scene: Scene) -> None:
    await scene.execute("UPDATE tickets.stock SET held = 1")


async def count_a_person_wrong(scene: Scene) -> None:
    await scene.execute(f"UPDATE orders.user_tickets SET tickets = 1 WHERE user_id = '{BOB}'")


async def forget_to_expire(scene: Scene) -> None:
    await scene.desk.buy(ids.new_id(), "dreamer", scene.event, 1)
    await scene.execute("UPDATE orders.orders SET expires_at = now() - interval '1 minute' WHERE status = 'reserved'")


async def lose_a_ticket_in_the_gate(scene: Scene) -> None:
    epoch = await scene.desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", scene.event.id)
    hold = hold_of(BOB, [scene.event.tiers[0]], [1])
    await scene.desk.gate.finish(scene.event.id, epoch, settle=[("nobody:x", hold)])


async def leave_someone_without(scene: Scene) -> None:
    scene.ledger.without_tickets = 2


@pytest.mark.parametrize(
    ("damage", "counters"),
    [
        (oversell, {"oversold", "lost_acks", "duplicate_orders", "leaked"}),
        (lose_the_order, {"lost_acks", "leaked"}),
        (undo_the_confirm, {"lost_acks", "leaked"}),
        (undo_the_cancel, {"lost_acks"}),
        (exchange_a_ticket, {"lost_acks"}),
        (buy_twice, {"oversold", "duplicate_orders", "leaked"}),
        (share_a_key, {"duplicate_orders"}),
        (answer_one_key_twice, {"duplicate_orders", "lost_acks"}),
        (hold_for_nobody, {"leaked"}),
        (count_a_person_wrong, {"leaked"}),
        (forget_to_expire, {"leaked"}),
        (lose_a_ticket_in_the_gate, {"leaked"}),
        (leave_someone_without, {"leaked"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_it_sees(scene: Scene, damage: Callable[[Scene], Awaitable[None]], counters: set[str]) -> None:
    await damage(scene)
    found = await scene.verdict()
    seen = {name for name in ("oversold", "lost_acks", "duplicate_orders", "leaked") if getattr(found, name)}
    assert seen == counters, found.findings
    assert not found.is_sound
    assert found.findings


async def test_an_unread_outbox_is_not_at_rest(scene: Scene) -> None:
    await scene.desk.buy(ids.new_id(), "one more", scene.event, 1)
    found = await scene.verdict()
    assert not found.is_at_rest
    assert found.findings[-1].startswith("not at rest")


def test_percentiles() -> None:
    latency = Latency()
    assert latency.percentile_ms(50) == 0
    for tenths in range(1, 1001):
        latency.add(tenths / 10_000 + 1e-9)
    assert latency.percentile_ms(50) == 50.0
    assert latency.percentile_ms(99) == 99.0
    assert latency.percentile_ms(100) == 100.0
