"""The life of an order: reserved -> confirmed | cancelled | expired, expired -> confirmed for a late payment alone."""

import asyncio

import asyncpg
import pytest

from box_office import Desk, assert_sound, audit, consume_all, counted, open_desk, order_ids, put_on_sale
from holdfast import ids
from holdfast.engines.database import Pool, Reads
from holdfast.gate.load import load_gate
from holdfast.orders.history import History
from holdfast.orders.journal import SQL
from holdfast.orders.workers import payments_consumer
from holdfast.payments.provider import Answer, Sandbox
from holdfast.settings import Settings


async def expire_now(pool: Pool) -> None:
    """Lets every hold's time be over, and runs expiry."""
    await pool.execute("UPDATE orders.orders SET expires_at = clock_timestamp() WHERE status = 'reserved'")
    await pool.fetchval(SQL["expire"], 1000)


async def test_paying_confirms_and_issues_one_ticket_for_each_place(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 10, 10)
    order, _ = await desk.buy(ids.new_id(), "key", event, 2, 1)
    order_id, _ = order_ids(order)
    assert await desk.try_confirm(order) == "confirmed"
    shown = await History(Reads(desk.pool)).order(order_id)
    assert shown.tickets is not None
    assert sorted(ticket.tier_id for ticket in shown.tickets) == sorted(
        ids.encode(ids.TIER, tier) for tier in (event.tiers[0], event.tiers[0], event.tiers[1])
    )
    await desk.relay()
    assert await desk.pool.fetchval("SELECT state FROM orders.payments") == "captured"
    found = await audit(desk.pool, event)
    assert (found.held, found.sold) == (0, 3)
    assert_sound(found)


async def test_a_declined_payment_leaves_the_hold_and_the_key_free(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 1)
    order, _ = await desk.buy(ids.new_id(), "key", event, 1)
    assert await desk.try_confirm(order, "pay", "tok_declined") == "payment_declined"
    assert await desk.try_confirm(order, "pay", "tok_ok") == "confirmed"


async def test_a_retried_confirm_gives_the_same_answer(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 1)
    order, _ = await desk.buy(ids.new_id(), "key", event, 1)
    assert [await desk.try_confirm(order, "pay") for _ in range(2)] == ["confirmed", "confirmed"]
    assert await desk.try_confirm(order, "pay", "tok_late") == "idempotency_key_mismatch"
    assert await desk.try_confirm(order, "another") == "invalid_state"
    assert await desk.pool.fetchval("SELECT count(*) FROM orders.payments") == 1


async def test_a_cancelled_order_gives_its_tickets_back_once(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 4)
    await load_gate(desk.pool, desk.gate, event.id)
    order, _ = await desk.buy(ids.new_id(), "key", event, 3)
    assert await desk.gate_free(event) == (1,)
    assert [await desk.try_cancel(order) for _ in range(2)] == ["cancelled", "cancelled"]
    assert await desk.try_cancel(order, "another") == "invalid_state"
    assert await desk.try_confirm(order) == "invalid_state"
    await desk.relay()
    await desk.relay()
    assert await desk.gate_free(event) == (4,)
    assert_sound(await audit(desk.pool, event))


async def test_a_retried_create_finds_its_order_in_whatever_state(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 1)
    alice = ids.new_id()
    order, _ = await desk.buy(alice, "key", event, 1)
    assert (await desk.buy(alice, "key", event, 1))[0].id == order.id
    assert await desk.try_cancel(order) == "cancelled"
    again, is_new = await desk.buy(alice, "key", event, 1)
    assert (again.id, again.status, is_new) == (order.id, "cancelled", False)
    async with asyncio.timeout(5):
        # The gate may refuse a ticket for a moment: the cancelled one is on its way back.
        while await desk.try_buy(ids.new_id(), "key", event, 1) != "made":
            await desk.relay()
    # Sold out by now, and still a retry is a retry and another body another request.
    assert await desk.try_buy(alice, "key", event, 1) == "again"
    assert await desk.try_buy(alice, "key", event, 2) == "idempotency_key_mismatch"
    assert await desk.try_buy(alice, "new key", event, 1) == "sold_out"


async def test_a_hold_past_its_time_counts_as_gone_before_expiry_has_run(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 1)
    alice = ids.new_id()
    order, _ = await desk.buy(alice, "key", event, 1)
    await desk.pool.execute("UPDATE orders.orders SET expires_at = clock_timestamp()")
    assert (await History(Reads(desk.pool)).page(alice, 10, None)).data[0].status == "expired"
    assert await desk.try_confirm(order) == "hold_expired"
    assert await desk.try_cancel(order) == "invalid_state"
    found = await audit(desk.pool, event)
    assert found.held == 0, "the cancel that met an overdue hold expired it on the spot"
    assert_sound(found)


async def test_expiry_gives_tickets_and_limit_back(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 5, tickets_per_user_max=2)
    await load_gate(desk.pool, desk.gate, event.id)
    alice = ids.new_id()
    assert await desk.try_buy(alice, "one", event, 2) == "made"
    assert await desk.try_buy(alice, "two", event, 1) == "user_limit_reached"
    await expire_now(desk.pool)
    await desk.relay()
    assert await desk.gate_free(event) == (5,)
    assert await desk.try_buy(alice, "three", event, 2) == "made"
    assert_sound(await audit(desk.pool, event))


@pytest.mark.parametrize("gate_url", [None, ""], ids=["gate", "no gate"])
async def test_the_limit_holds_for_the_person_across_orders(
    settings: Settings, pool: Pool, gate_url: str | None
) -> None:
    url = settings.gate_url.get_secret_value() if gate_url is None else gate_url
    async with open_desk(settings, pool, gate_url=url) as desk:
        event = await put_on_sale(pool, 100, tickets_per_user_max=3)
        alice = ids.new_id()
        outcomes = await asyncio.gather(*(desk.try_buy(alice, f"key {n}", event, 1) for n in range(10)))
    assert counted(outcomes) == {"made": 3, "user_limit_reached": 7}
    assert_sound(await audit(pool, event))


async def test_confirm_cancel_and_expiry_race_to_one_end(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 60, tickets_per_user_max=1)
    orders = [(await desk.buy(ids.new_id(), "key", event, 1))[0] for _ in range(60)]

    async def expire() -> None:
        for _ in range(5):
            await expire_now(desk.pool)

    async def confirm_or_cancel(number: int) -> tuple[str, str]:
        return await asyncio.gather(desk.try_confirm(orders[number]), desk.try_cancel(orders[number]))

    expiring = asyncio.create_task(expire())
    ends = await asyncio.gather(*(confirm_or_cancel(number) for number in range(60)))
    await expiring
    for order, end in zip(orders, ends, strict=True):
        status = await desk.pool.fetchval("SELECT status FROM orders.orders WHERE id = $1", order_ids(order)[0])
        assert (end[0] == "confirmed") == (status == "confirmed")
        assert (end[1] == "cancelled") == (status == "cancelled")
    await desk.relay()
    found = await audit(desk.pool, event)
    assert_sound(found)
    statement = "SELECT count(*) FROM orders.payments WHERE state IN ('created', 'pending', 'authorised', 'voiding')"
    assert await desk.pool.fetchval(statement) == 0


class Money(Sandbox):
    """A provider that remembers what it was told to do, and answers late when a test says so."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.voided: list[object] = []
        self.captured: list[object] = []
        self.answer = Answer.AUTHORISED

    async def authorise(self, payment_id: object, token: str, amount: int, currency: str) -> Answer:
        return self.answer

    async def void(self, payment_id: object) -> None:
        self.voided.append(payment_id)

    async def capture(self, payment_id: object) -> None:
        self.captured.append(payment_id)


@pytest.mark.parametrize("left", [True, False], ids=["tickets left", "sold out"])
async def test_a_late_payment_takes_the_tickets_again_or_is_given_back(
    settings: Settings, pool: Pool, left: bool
) -> None:
    money = Money(settings)
    money.answer = Answer.PENDING
    async with open_desk(settings, pool, money) as desk:
        event = await put_on_sale(pool, 1)
        await load_gate(pool, desk.gate, event.id)
        order, _ = await desk.buy(ids.new_id(), "key", event, 1)
        assert await desk.try_confirm(order) == "reserved"
        assert await desk.try_confirm(order) == "reserved", "a retry while the payment is pending"
        assert await desk.try_confirm(order, "another") == "payment_pending"
        await expire_now(pool)
        await desk.relay()
        if not left:
            assert await desk.try_buy(ids.new_id(), "bob", event, 1) == "made"
        payment = await pool.fetchval("SELECT id FROM orders.payments")
        sold = await desk.confirm.settle(payment, 1, Answer.AUTHORISED)
        assert sold.outcome == ("confirmed" if left else "sold_out")
        again = await desk.confirm.settle(payment, 1, Answer.AUTHORISED)
        assert again.outcome == ("confirmed" if left else "voided")
        await desk.relay()
        assert (money.captured, money.voided) == (([payment], []) if left else ([], [payment]))
        found = await audit(pool, event)
        assert (found.held, found.sold) == ((0, 1) if left else (1, 0))
        assert_sound(found)
        assert await desk.gate_free(event) == (0,)


async def test_a_payment_of_a_cancelled_order_is_given_back(settings: Settings, pool: Pool) -> None:
    money = Money(settings)
    money.answer = Answer.PENDING
    async with open_desk(settings, pool, money) as desk:
        event = await put_on_sale(pool, 1)
        order, _ = await desk.buy(ids.new_id(), "key", event, 1)
        assert await desk.try_confirm(order) == "reserved"
        assert await desk.try_cancel(order) == "cancelled"
        payment = await pool.fetchval("SELECT id FROM orders.payments")
        assert (await desk.confirm.settle(payment, 1, Answer.AUTHORISED)).outcome == "cancelled"
        await desk.relay()
        assert money.voided == [payment]


async def test_a_cancelled_event_sells_and_confirms_no_more(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 5)
    first, _ = await desk.buy(ids.new_id(), "key", event, 1)
    second, _ = await desk.buy(ids.new_id(), "key", event, 1)
    await desk.pool.execute("UPDATE tickets.stock SET state = 'cancelled' WHERE event_id = $1", event.id)
    assert await desk.try_confirm(first) == "event_cancelled"
    await desk.pool.execute(
        "INSERT INTO outbox.events (kind, subject, version, scope) VALUES ('event.cancelled', $1, 2, $1)", event.id
    )
    await desk.relay()
    assert await desk.try_confirm(second) == "invalid_state"
    desk.sales.drop(event.id)
    assert await desk.try_buy(ids.new_id(), "key", event, 1) == "event_cancelled"
    found = await audit(desk.pool, event)
    assert (found.held, found.sold) == (0, 0)
    assert_sound(found)


async def test_at_most_one_payment_of_an_order_is_live(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 1)
    order, _ = await desk.buy(ids.new_id(), "key", event, 1)
    order_id, _ = order_ids(order)
    assert await desk.try_confirm(order) == "confirmed"
    with pytest.raises(asyncpg.UniqueViolationError, match="payments_one_live"):
        await desk.pool.execute(
            "INSERT INTO orders.payments (id, order_id, idempotency_key, provider_token, amount, currency) "
            "VALUES ($1, $2, 'x', 'tok_ok', 1, 'TWD')",
            ids.new_id(),
            order_id,
        )


async def test_a_consumer_that_is_run_twice_captures_once_in_effect(settings: Settings, pool: Pool) -> None:
    money = Money(settings)
    async with open_desk(settings, pool, money) as desk:
        event = await put_on_sale(pool, 1)
        order, _ = await desk.buy(ids.new_id(), "key", event, 1)
        assert await desk.try_confirm(order) == "confirmed"
        await consume_all(pool, payments_consumer(pool, money))
        await pool.execute("UPDATE outbox.consumers SET xid = '0', id = 0")
        await consume_all(pool, payments_consumer(pool, money))
        assert len(set(money.captured)) == 1
        assert await pool.fetchval("SELECT state FROM orders.payments") == "captured"
