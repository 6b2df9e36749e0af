"""The auditor of the drills sees every kind of damage, and nothing where there is none."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

import pytest

from box_office import Desk, Event, order_ids, put_on_sale
from holdfast import ids
from holdfast.drill.audit.gate import GateAwayError, GateReader, slot_of
from holdfast.drill.audit.judge import COUNTERS, Verdict
from holdfast.drill.audit.settle import Auditor
from holdfast.drill.buyers.record import Manner, Purchase
from holdfast.gate.gate import hold_of
from holdfast.gate.load import load_gate
from holdfast.orders.order import Order

CAPACITY = 5


class Scene(NamedTuple):
    """Alice has two tickets, Bob cancelled one, Carol holds one; two are left."""

    desk: Desk
    event: Event
    purchases: list[Purchase]

    async def verdict(self) -> Verdict:
        """What the audit says now."""
        auditor = Auditor(self.desk.settings, [self.event.id], [], has_statistics=False)
        await auditor.begin()
        return (await auditor.until_sound(self.purchases, 0)).verdict

    async def execute(self, *statements: str) -> None:
        """Damage, written into the database."""
        for statement in statements:
            await self.desk.pool.execute(statement)

    async def buy(self, key: str, quantity: int, manner: Manner) -> Order:
        """A purchase, and its acknowledgement in the record."""
        user = ids.new_id()
        order, _ = await self.desk.buy(user, key, self.event, quantity)
        purchase = Purchase(
            number=len(self.purchases), intended_at=0, sale=0, user_id=user, key=key, manner=manner,
            orders=[order_ids(order)[0]],
        )  # fmt: skip
        self.purchases.append(purchase)
        return order


@pytest.fixture
async def scene(desk: Desk) -> Scene:
    event = await put_on_sale(desk.pool, CAPACITY, tickets_per_user_max=4)
    await load_gate(desk.pool, desk.gate, event.id)
    scene = Scene(desk, event, [])
    assert await desk.try_confirm(await scene.buy("alice", 2, "buy")) == "confirmed"
    assert await desk.try_cancel(await scene.buy("bob", 1, "cancel")) == "cancelled"
    await scene.buy("carol", 1, "abandon")
    alice, bob, _ = scene.purchases
    alice.is_confirmed, bob.is_cancelled = True, True
    alice.tickets = [row["id"] for row in await desk.pool.fetch("SELECT id FROM orders.tickets")]
    await desk.relay()
    # As pruning does when everyone has read everything.
    await scene.execute("DELETE FROM outbox.events")
    return scene


async def test_where_all_is_well_it_finds_nothing(scene: Scene) -> None:
    found = await scene.verdict()
    assert found.findings == []
    assert found.is_sound
    assert found.orders == 3


async def test_what_fails_for_its_buyer_may_have_made_an_order(scene: Scene) -> None:
    scene.purchases[2].orders.clear()
    scene.purchases[2].failed = "no definite answer to create"
    assert (await scene.verdict()).is_sound


async def lose_an_order(scene: Scene) -> None:
    await scene.execute(
        "DELETE FROM orders.tickets", "DELETE FROM orders.payments", "DELETE FROM orders.orders WHERE version = 2",
        "DELETE FROM orders.user_tickets WHERE user_id NOT IN (SELECT user_id FROM orders.orders)",
        "UPDATE tickets.stock SET sold = 0", "UPDATE tickets.gates SET epoch = 99",
    )  # fmt: skip


async def undo_the_confirm(scene: Scene) -> None:
    await scene.execute(
        "DELETE FROM orders.tickets", "UPDATE orders.payments SET state = 'voided'",
        "UPDATE orders.orders SET status = 'reserved' WHERE status = 'confirmed'",
        "UPDATE tickets.stock SET sold = 0, held = 3",
    )  # fmt: skip


async def undo_the_cancel(scene: Scene) -> None:
    await scene.execute("UPDATE orders.orders SET status = 'expired' WHERE status = 'cancelled'")


async def exchange_a_ticket(scene: Scene) -> None:
    await scene.execute(
        "UPDATE orders.tickets SET id = gen_random_uuid() "
        "WHERE id = (SELECT id FROM orders.tickets ORDER BY id LIMIT 1)"
    )


async def take_a_ticket_away(scene: Scene) -> None:
    scene.purchases[0].tickets.clear()
    await scene.execute("DELETE FROM orders.tickets WHERE id = (SELECT id FROM orders.tickets ORDER BY id LIMIT 1)")


async def give_the_order_to_another(scene: Scene) -> None:
    scene.purchases[2].key = "another"


async def oversell(scene: Scene) -> None:
    await scene.execute(
        "ALTER TABLE tickets.stock DROP CONSTRAINT stock_not_oversold",
        "UPDATE tickets.stock SET capacity = 2", "UPDATE tickets.gates SET epoch = 99",
    )  # fmt: skip


async def oversell_behind_the_counters(scene: Scene) -> None:
    await scene.execute(
        "UPDATE tickets.stock SET capacity = 2, held = 1, sold = 1", "UPDATE tickets.gates SET epoch = 99"
    )


async def buy_twice(scene: Scene) -> None:
    alice = scene.purchases[0]
    await scene.desk.buy(alice.user_id, "again", scene.event, 1)
    await scene.desk.relay()
    await scene.execute("DELETE FROM outbox.events")


async def answer_one_key_twice(scene: Scene) -> None:
    scene.purchases[0].orders.append(scene.purchases[1].orders[0])
    scene.purchases[0].is_confirmed = False
    scene.purchases[0].user_id, scene.purchases[0].key = scene.purchases[1].user_id, scene.purchases[1].key


async def buy_for_nobody(scene: Scene) -> None:
    scene.purchases.pop()


async def refuse_what_was_made(scene: Scene) -> None:
    scene.purchases[2].orders.clear()
    scene.purchases[2].refused = "sold_out"


async def pay_twice(scene: Scene) -> None:
    await scene.execute(
        "DROP INDEX orders.payments_one_live",
        "INSERT INTO orders.payments (id, order_id, idempotency_key, provider_token, amount, currency, state) "
        "SELECT gen_random_uuid(), order_id, 'again', 'tok_ok', amount, currency, 'captured' FROM orders.payments",
    )


async def issue_one_too_many(scene: Scene) -> None:
    await scene.execute(
        "INSERT INTO orders.tickets (id, order_id, event_id, tier_id, user_id) "
        "SELECT gen_random_uuid(), order_id, event_id, tier_id, user_id FROM orders.tickets LIMIT 1"
    )


async def hold_for_nobody(scene: Scene) -> None:
    await scene.execute("UPDATE tickets.stock SET held = held + 1", "UPDATE tickets.gates SET epoch = 99")


async def count_a_person_wrong(scene: Scene) -> None:
    await scene.execute("UPDATE orders.user_tickets SET tickets = 1 WHERE tickets = 2")


async def forget_to_expire(scene: Scene) -> None:
    await scene.execute("UPDATE orders.orders SET expires_at = now() - interval '1 minute' WHERE status = 'reserved'")


async def leave_the_outbox_unread(scene: Scene) -> None:
    await scene.execute(
        "INSERT INTO outbox.events (kind, subject, version, scope) "
        "SELECT 'order.reserved', id, 1, event_id FROM orders.orders LIMIT 1"
    )


async def bury_a_state_change(scene: Scene) -> None:
    await scene.execute(
        "INSERT INTO outbox.dead_letters (consumer, event_id, content, reason) VALUES ('stats', 'x', '', 'no JSON')"
    )


async def leave_a_payment_open(scene: Scene) -> None:
    await scene.execute("UPDATE orders.payments SET state = 'authorised'")


async def lose_a_ticket_in_the_gate(scene: Scene) -> None:
    epoch = await scene.desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", scene.event.id)
    hold = hold_of(scene.purchases[1].user_id, [scene.event.tiers[0]], [1])
    await scene.desk.gate.finish(scene.event.id, epoch, settle=[("nobody:x", hold)])


async def give_a_ticket_too_many_in_the_gate(scene: Scene) -> None:
    epoch = await scene.desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", scene.event.id)
    carol = scene.purchases[2]
    await scene.desk.gate.finish(scene.event.id, epoch, release=[f"{carol.user_id.hex}:{carol.key}"])


@pytest.mark.parametrize(
    ("damage", "counters"),
    [
        (lose_an_order, {"lost_acks"}),
        (undo_the_confirm, {"lost_acks"}),
        (undo_the_cancel, {"lost_acks"}),
        (exchange_a_ticket, {"lost_acks"}),
        (take_a_ticket_away, {"lost_acks"}),
        (give_the_order_to_another, {"lost_acks"}),
        (oversell, {"oversold"}),
        (oversell_behind_the_counters, {"oversold", "leaked"}),
        (buy_twice, {"duplicates"}),
        (answer_one_key_twice, {"duplicates", "lost_acks"}),
        (buy_for_nobody, {"duplicates"}),
        (refuse_what_was_made, {"duplicates"}),
        (pay_twice, {"duplicates"}),
        (issue_one_too_many, {"duplicates"}),
        (hold_for_nobody, {"leaked"}),
        (count_a_person_wrong, {"leaked"}),
        (forget_to_expire, {"leaked"}),
        (leave_the_outbox_unread, {"leaked"}),
        (bury_a_state_change, {"events_lost"}),
        (leave_a_payment_open, {"leaked"}),
        (lose_a_ticket_in_the_gate, {"leaked"}),
        (give_a_ticket_too_many_in_the_gate, {"leaked"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_it_sees(scene: Scene, damage: Callable[[Scene], Awaitable[None]], counters: set[str]) -> None:
    await damage(scene)
    found = await scene.verdict()
    seen = {name for name in COUNTERS if getattr(found, name)}
    assert seen == counters, found.findings
    assert not found.is_sound
    assert found.findings


async def test_a_gate_that_is_away_is_said() -> None:
    with pytest.raises(GateAwayError):
        await GateReader("valkey://:secret@127.0.0.1:1").found([ids.new_id()])
    assert GateReader("").is_absent


def test_the_slot_of_a_key() -> None:
    """The cluster specification's CRC16 (XMODEM), bit by bit."""
    for event_id in (UUID(int=0), ids.new_id()):
        crc = 0
        for byte in event_id.hex.encode():
            crc ^= byte << 8
            for _ in range(8):
                crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
        assert slot_of(event_id) == crc % 16384
