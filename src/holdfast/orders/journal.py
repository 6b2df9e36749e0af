"""The journal: a batch of new orders, committed in PostgreSQL by one statement."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from holdfast import clock, ids
from holdfast.engines.database import Pool, load_statements
from holdfast.errors import Busy, Refusal, refuse
from holdfast.orders.order import Order, order_of_row, order_view
from holdfast.orders.writer import Writer
from holdfast.tickets.sale import Sale

SQL = load_statements("holdfast.orders", "orders.sql")

# What the optimistic statement raises when one order of the batch cannot be: the batch is then decided one by one.
_CONTESTED = (asyncpg.CheckViolationError, asyncpg.NumericValueOutOfRangeError)
_NOT_ON_SALE = "HF001"


class Reservation(msgspec.Struct):
    """One order on its way: what was asked, under which key, and whether the gate gave a lease."""

    user_id: UUID
    event_id: UUID
    idempotency_key: str
    fingerprint: bytes
    tier_ids: list[UUID]
    quantities: list[int]
    unit_prices: list[int]
    tickets: int
    total_amount: int
    currency: str
    sale: Sale
    id: UUID = msgspec.field(default_factory=ids.new_id)
    refusal: str | None = None
    """A business refusal found before the journal; it stands unless the key turns out to be a retry."""
    leased: bool = False
    took_lease: bool = False
    """The lease was made for this very request, and has to be given back when it makes no order."""


class Written(msgspec.Struct):
    """What the journal did with one reservation: made it, found the order that its key made before, or refused it."""

    order: Order | None = None
    is_new: bool = False
    refusal: Refusal | None = None


async def write_orders(writer: Writer, batch: Sequence[Reservation]) -> list[Written]:
    """Commits a batch; one answer each, in order. Raises Busy when the outcome stays unknown."""
    try:
        row = (await writer.fetch(SQL["reserve"], False, *_columns(batch)))[0]
        refused: dict[UUID, str] = {}
    except (*_CONTESTED, asyncpg.PostgresError) as error:
        if not isinstance(error, _CONTESTED) and error.sqlstate != _NOT_ON_SALE:
            raise
        row = (await writer.fetch(SQL["reserve"], True, *_columns(batch)))[0]
        decided = zip(row["made"], row["outcomes"], strict=True)
        refused = {order_id: outcome for order_id, outcome in decided if outcome != "held"}
    made = set(row["made"])
    retried = [reservation for reservation in batch if reservation.id not in made]
    earlier = await find_earlier(writer, retried) if retried else {}
    now = clock.utc_now()
    seconds = {reservation.sale.hold_seconds for reservation in batch}
    ends = {hold_seconds: row["made_at"] + timedelta(seconds=hold_seconds) for hold_seconds in seconds}
    answers = []
    for reservation in batch:
        if reservation.id in refused:
            answers.append(Written(refusal=refuse(refused[reservation.id])))
        elif reservation.id in made:
            expires_at = ends[reservation.sale.hold_seconds]
            answers.append(Written(order=_view(reservation, row["made_at"], expires_at, now), is_new=True))
        else:
            found = earlier.get((reservation.user_id, reservation.idempotency_key))
            answers.append(found.answer(reservation) if found else Written(refusal=Busy("Try again.")))
    return answers


class Earlier(msgspec.Struct):
    """An order that a key made before."""

    order: Order
    order_id: UUID
    fingerprint: bytes

    def answer(self, reservation: Reservation) -> Written:
        """The same order for the same request. The order may be this reservation's own, of a commit in doubt."""
        if self.fingerprint != reservation.fingerprint:
            return Written(refusal=refuse("idempotency_key_mismatch"))
        return Written(order=self.order, is_new=self.order_id == reservation.id)


async def find_earlier(writer: Writer, batch: Sequence[Reservation]) -> dict[tuple[UUID, str], Earlier]:
    """The orders that these reservations' keys made before, in their present state."""
    users = [reservation.user_id for reservation in batch]
    found = await writer.fetch(SQL["keyed"], users, [reservation.idempotency_key for reservation in batch])
    if not found:
        return {}
    orders = await read_orders(writer, [row["id"] for row in found])
    return {
        (row["user_id"], row["idempotency_key"]): Earlier(orders[row["id"]], row["id"], row["fingerprint"])
        for row in found
    }


async def read_orders(reader: "Writer | Pool", order_ids: Sequence[UUID]) -> dict[UUID, Order]:
    """Orders by id, as their owners see them."""
    return {row["id"]: order_of_row(row) for row in await reader.fetch(SQL["orders"], list(order_ids))}


def _columns(batch: Sequence[Reservation]) -> list[list[Any]]:
    """The batch as the arrays that orders.reserve takes; an order's lines are a slice of the last three."""
    line_from, line_to = [], []
    tiers: list[UUID] = []
    quantities: list[int] = []
    prices: list[int] = []
    for reservation in batch:
        line_from.append(len(tiers) + 1)
        tiers += reservation.tier_ids
        quantities += reservation.quantities
        prices += reservation.unit_prices
        line_to.append(len(tiers))
    return [
        [reservation.id for reservation in batch],
        [reservation.user_id for reservation in batch],
        [reservation.event_id for reservation in batch],
        [reservation.idempotency_key for reservation in batch],
        [reservation.fingerprint for reservation in batch],
        line_from,
        line_to,
        [reservation.tickets for reservation in batch],
        [reservation.total_amount for reservation in batch],
        [reservation.currency for reservation in batch],
        [reservation.sale.hold_seconds for reservation in batch],
        [reservation.sale.tickets_per_user_max for reservation in batch],
        [reservation.leased for reservation in batch],
        tiers,
        quantities,
        prices,
    ]


def _view(reservation: Reservation, made_at: datetime, expires_at: datetime, now: datetime) -> Order:
    return order_view(
        reservation.id,
        reservation.user_id,
        reservation.event_id,
        "reserved",
        reservation.tier_ids,
        reservation.quantities,
        reservation.unit_prices,
        reservation.total_amount,
        reservation.currency,
        made_at,
        expires_at,
        now,
    )
