"""confirm: payment, then held -> sold, tickets and outbox in one transaction.

No network call stands inside a transaction: the payment row is committed first, the provider is asked, and then the
order is confirmed. What a crash leaves in between is resolved by a worker, with the same two functions.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import structlog

from holdfast import ids
from holdfast.engines.database import AWAY, Pool
from holdfast.errors import Busy, Fault, Invalid, refuse
from holdfast.orders.basket import fingerprint
from holdfast.orders.batch import Batcher
from holdfast.orders.journal import SQL, read_orders
from holdfast.orders.order import ConfirmOrder, Order, confirmed_order
from holdfast.orders.writer import Writer
from holdfast.payments.provider import Answer, Provider
from holdfast.settings import Settings

_EVENT_CANCELLED = "HF002"

_log = structlog.get_logger(__name__)


class PaymentAsked(msgspec.Struct):
    """One confirm on its way."""

    order_id: UUID
    user_id: UUID
    idempotency_key: str
    fingerprint: bytes
    payment_id: UUID
    token: str


class Begun(msgspec.Struct):
    """What became of it: outcome begun, or a refusal's code, replay or mismatch. `row` is what the order is about."""

    outcome: str
    row: Any
    order: Order | None = None
    """There for a replay."""


class Paid(msgspec.Struct):
    """An authorised payment, with an id for each ticket to be issued."""

    payment_id: UUID
    ticket_ids: list[UUID]


class Sold(msgspec.Struct):
    """What became of an authorised payment: outcome confirmed, or why it must be voided.

    With `ended_at` it was confirmed here and now, and the tickets have these ids.
    """

    outcome: str
    ended_at: datetime | None = None
    ticket_ids: Sequence[UUID] = ()


class Confirm:
    """Takes payment for orders and confirms them. One instance per process."""

    def __init__(self, settings: Settings, pool: Pool, provider: Provider) -> None:
        self._pool = pool
        self._provider = provider
        self._begin_writer = Writer(settings)
        self._sell_writer = Writer(settings)
        self._late_writer = Writer(settings)
        self._end_writer = Writer(settings)
        size_max, seconds_max = settings.batch_orders_max, settings.database_timeout_seconds
        waiting_max = settings.purchases_waiting_max
        # Whoever comes to the later ones was counted when the payment was begun, and is not refused for a full queue.
        later_max = 4 * waiting_max
        self._begin_batches: Batcher[PaymentAsked, Begun] = Batcher(
            "begin payment",
            self._begin,
            size_max=size_max,
            waiting_max=waiting_max,
            seconds_max=seconds_max,
            wait_seconds_max=settings.purchase_wait_seconds_max,
            apart_seconds=settings.batch_apart_seconds,
        )
        self._sell_batches: Batcher[Paid, Sold] = Batcher(
            "sell",
            self._sell,
            size_max=size_max,
            waiting_max=later_max,
            seconds_max=seconds_max,
            apart_seconds=settings.batch_apart_seconds,
        )
        self._late_batches: Batcher[Paid, Sold] = Batcher(
            "sell late", self._sell_late, size_max=1, waiting_max=later_max, seconds_max=seconds_max
        )
        self._end_batches: Batcher[tuple[UUID, str], None] = Batcher(
            "end payment", self._end, size_max=size_max, waiting_max=later_max, seconds_max=seconds_max
        )

    async def confirm(self, order_id: UUID, user_id: UUID, idempotency_key: str, asked: ConfirmOrder) -> Order:
        """The order: confirmed, or still reserved or expired with a payment that is pending (202). Raises a Refusal."""
        if not self._provider.accepts(asked.payment_token):
            raise Invalid(Fault("/payment_token", "The payment provider does not know such a token."))
        payment = PaymentAsked(
            order_id=order_id,
            user_id=user_id,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint("confirm", asked, order_id),
            payment_id=ids.new_id(),
            token=asked.payment_token,
        )
        begun = await self._begin_batches.submit(payment)
        if begun.outcome == "replay":
            return _replayed(begun.order)
        if begun.outcome == "mismatch":
            raise refuse("idempotency_key_mismatch")
        if begun.outcome != "begun":
            raise refuse(begun.outcome)
        return await self._authorise(payment, begun)

    async def settle(self, payment_id: UUID, tickets: int, answer: Answer) -> Sold:
        """Carries a provider's last word out: confirms the order, or ends the payment. Safe to run twice."""
        if answer is Answer.DECLINED:
            await self.end_payment(payment_id, "declined")
            return Sold("payment_declined")
        if answer is not Answer.AUTHORISED:
            await self.end_payment(payment_id, "voiding")
            return Sold("voided")
        paid = Paid(payment_id, [ids.new_id() for _ in range(tickets)])
        sold = await self._sell_batches.submit(paid)
        if sold.outcome == "late":
            sold = await self._late_batches.submit(paid)
        if sold.outcome not in ("confirmed", "voided"):
            await self.end_payment(payment_id, "voiding")
        return sold

    async def end_payment(self, payment_id: UUID, state: str) -> None:
        """Ends a payment without tickets: declined, or voiding (the provider is told through the outbox)."""
        await self._end_batches.submit((payment_id, state))

    async def rehearse(self) -> None:
        """Has connections and statements ready for payments in time."""
        for batches in (self._begin_batches, self._sell_batches):
            await batches.rehearse()

    async def drain(self) -> None:
        """Answers what is under way and lets the connections go."""
        for batches in (self._begin_batches, self._sell_batches, self._late_batches, self._end_batches):
            await batches.drain()
        for writer in (self._begin_writer, self._sell_writer, self._late_writer, self._end_writer):
            await writer.close()

    async def _authorise(self, payment: PaymentAsked, begun: Begun) -> Order:
        try:
            answer = await self._provider.authorise(
                payment.payment_id, payment.token, begun.row["amount"], begun.row["currency"]
            )
        except (OSError, TimeoutError):
            answer = Answer.PENDING
        if answer in (Answer.PENDING, Answer.UNKNOWN):
            return await self._leave_pending(payment)
        # Should this fail, the worker asks the provider again.
        sold = await self.settle(payment.payment_id, begun.row["tickets"], answer)
        if sold.outcome == "confirmed":
            return await self._confirmed(payment, begun, sold)
        raise _refusal_of_sold(sold)

    async def _confirmed(self, payment: PaymentAsked, begun: Begun, sold: Sold) -> Order:
        if sold.ended_at is not None:
            return confirmed_order(
                begun.row, payment.order_id, payment.user_id, payment.payment_id, sold.ticket_ids, sold.ended_at
            )
        return await self._read(payment)

    async def _leave_pending(self, payment: PaymentAsked) -> Order:
        try:
            await self._pool.execute(SQL["payment_pending"], payment.payment_id)
        except AWAY as error:
            raise _unknown() from error
        return await self._read(payment)

    async def _read(self, payment: PaymentAsked) -> Order:
        try:
            return (await read_orders(self._pool, [payment.order_id]))[payment.order_id]
        except AWAY as error:
            raise _unknown() from error

    async def _begin(self, batch: list[PaymentAsked]) -> Sequence[Begun | BaseException]:
        rows = await self._begin_writer.fetch(
            SQL["begin_payments"],
            [payment.order_id for payment in batch],
            [payment.user_id for payment in batch],
            [payment.idempotency_key for payment in batch],
            [payment.fingerprint for payment in batch],
            [payment.payment_id for payment in batch],
            [payment.token for payment in batch],
        )
        begun = [Begun(row["outcome"], row) for row in sorted(rows, key=lambda row: row["ordinal"])]
        replayed = [payment.order_id for payment, one in zip(batch, begun, strict=True) if one.outcome == "replay"]
        if replayed:
            orders = await read_orders(self._begin_writer, replayed)
            for payment, one in zip(batch, begun, strict=True):
                one.order = orders.get(payment.order_id)
        return begun

    async def _sell(self, batch: list[Paid]) -> Sequence[Sold | BaseException]:
        columns = _paid_columns(batch)
        try:
            rows = await self._sell_writer.fetch(SQL["confirm"], False, *columns)
        except asyncpg.PostgresError as error:
            if error.sqlstate != _EVENT_CANCELLED:
                raise
            rows = await self._sell_writer.fetch(SQL["confirm"], True, *columns)
        found = {row["ordinal"]: row for row in rows}
        return [
            Sold(found[ordinal]["outcome"], found[ordinal]["ended_at"], paid.ticket_ids)
            for ordinal, paid in enumerate(batch, start=1)
        ]

    async def _sell_late(self, batch: list[Paid]) -> Sequence[Sold | BaseException]:
        sold = []
        for paid in batch:
            rows = await self._late_writer.fetch(SQL["confirm_late"], paid.payment_id, paid.ticket_ids)
            sold.append(Sold(rows[0]["outcome"]))
        return sold

    async def _end(self, batch: list[tuple[UUID, str]]) -> Sequence[BaseException | None]:
        await self._end_writer.fetch(
            SQL["end_payments"], [payment_id for payment_id, _ in batch], [state for _, state in batch]
        )
        return [None] * len(batch)


def _unknown() -> Busy:
    return Busy("The outcome is not known yet: try again with the same key.")


def _paid_columns(batch: Sequence[Paid]) -> list[list[UUID] | list[int]]:
    ticket_from, ticket_to = [], []
    ticket_ids: list[UUID] = []
    for paid in batch:
        ticket_from.append(len(ticket_ids) + 1)
        ticket_ids += paid.ticket_ids
        ticket_to.append(len(ticket_ids))
    return [[paid.payment_id for paid in batch], ticket_from, ticket_to, ticket_ids]


def _replayed(order: Order | None) -> Order:
    if order is None:
        raise refuse("not_found")
    if order.status in ("confirmed", "refunded") or (order.payment is not None and order.payment.status != "voiding"):
        return order
    raise refuse("hold_expired" if order.status == "expired" else "invalid_state")


def _refusal_of_sold(sold: Sold) -> Exception:
    if sold.outcome in ("payment_declined", "event_cancelled"):
        return refuse(sold.outcome)
    if sold.outcome == "cancelled":
        return refuse("invalid_state", "The order was cancelled; the payment is given back.")
    if sold.outcome == "voided":
        return refuse("invalid_state", "The payment was given up; try again.")
    return refuse("hold_expired", "The hold has expired and its tickets are gone; the payment is given back.")
