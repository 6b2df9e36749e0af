"""The journal: a batch of new orders, committed in PostgreSQL by one statement."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from holdfast import clock, ids
from holdfast.engines.database import Pool, load_statements
from holdfast.errors import Busy, Refusal, refuse
from holdfast.gate.gate import hold_key
from holdfast.orders.basket import Offer
from holdfast.orders.order import Order, order_of_row, seconds_left
from holdfast.orders.writer import Writer

SQL = load_statements("holdfast.orders", "orders.sql")

# What the optimistic statement raises when one order of the batch cannot be: the batch is then decided one by one.
_CONTESTED = (asyncpg.CheckViolationError, asyncpg.NumericValueOutOfRangeError)
_NOT_ON_SALE = "HF001"
_GAP = "?"
_NO_ID = UUID(int=0)
_encode = msgspec.json.Encoder().encode


class Reservation(msgspec.Struct, eq=False):
    """One order on its way: whose, under which key, of what, and whether the gate gave a lease."""

    user_id: UUID
    idempotency_key: str
    offer: Offer
    refusal: str | None = None
    """A business refusal found before the journal; it stands unless the key turns out to be a retry."""
    id: UUID = _NO_ID
    """The order's, from the time that it is written."""
    hold_key: str = ""
    leased: bool = False
    took_lease: bool = False
    """The lease was made for this very request, and has to be given back when it makes no order."""

    def __post_init__(self) -> None:
        self.hold_key = hold_key(self.user_id, self.idempotency_key)


class Written(msgspec.Struct):
    """What the journal did with one reservation: made it, found the order that its key made before, or refused it."""

    body: bytes = b""
    """The order as its owner sees it, in JSON."""
    is_new: bool = False
    is_reserved: bool = False
    """Whether the order holds its tickets."""
    refusal: Refusal | None = None
    position: str | None = None
    """Where the log ended after the commit, where readers need to know."""


async def write_orders(writer: Writer, batch: Sequence[Reservation]) -> list[Written]:
    """Commits a batch; one answer each, in order. Raises Busy when the outcome stays unknown."""
    for reservation in batch:
        reservation.id = ids.new_id()
    try:
        row = (await writer.fetch(SQL["journal"], False, *_columns(batch)))[0]
    except (*_CONTESTED, asyncpg.PostgresError) as error:
        if not isinstance(error, _CONTESTED) and error.sqlstate != _NOT_ON_SALE:
            raise
        row = (await writer.fetch(SQL["journal"], True, *_columns(batch)))[0]
    made_at: datetime = row["made_at"]
    outcomes = row["outcomes"] or ["held"] * len(batch)
    retried = [one for one, outcome in zip(batch, outcomes, strict=True) if outcome == "retry"]
    earlier = await find_earlier(writer, retried) if retried else {}
    forms: dict[Offer, tuple[bytes, bytes, bytes]] = {}
    answers = []
    for reservation, outcome in zip(batch, outcomes, strict=True):
        if outcome == "held":
            form = forms.get(reservation.offer) or forms.setdefault(
                reservation.offer, _form(reservation.offer, made_at)
            )
            answers.append(Written(_filled(form, reservation), is_new=True, is_reserved=True))
        elif outcome == "retry":
            found = earlier.get((reservation.user_id, reservation.idempotency_key))
            answers.append(found.answer(reservation) if found else Written(refusal=Busy("Try again.")))
        else:
            answers.append(Written(refusal=refuse(outcome)))
    return answers


class Earlier(msgspec.Struct):
    """An order that a key made before."""

    order: Order
    order_id: UUID
    fingerprint: bytes

    def answer(self, reservation: Reservation) -> Written:
        """The same order for the same request. The order may be this reservation's own, of a commit in doubt."""
        if self.fingerprint != reservation.offer.basket.fingerprint:
            return Written(refusal=refuse("idempotency_key_mismatch"))
        return Written(_encode(self.order), self.order_id == reservation.id, self.order.status == "reserved")


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
    """The batch as the arrays that orders.journal takes: the orders, then the offers that they are of, each once, then
    the offers' lines, of which each has a slice."""
    numbers: dict[Offer, int] = {}
    numbered = [numbers.setdefault(reservation.offer, len(numbers) + 1) for reservation in batch]
    offers = list(numbers)
    baskets = [offer.basket for offer in offers]
    line_to = list(accumulate(len(basket.tier_ids) for basket in baskets))
    return [
        [reservation.id for reservation in batch],
        [reservation.user_id for reservation in batch],
        [reservation.idempotency_key for reservation in batch],
        [reservation.leased for reservation in batch],
        numbered,
        [basket.event_id for basket in baskets],
        [basket.fingerprint for basket in baskets],
        [to - len(basket.tier_ids) + 1 for basket, to in zip(baskets, line_to, strict=True)],
        line_to,
        [basket.tickets for basket in baskets],
        [offer.total_amount for offer in offers],
        [offer.currency for offer in offers],
        [offer.sale.hold_seconds for offer in offers],
        [offer.sale.tickets_per_user_max for offer in offers],
        [tier_id for basket in baskets for tier_id in basket.tier_ids],
        [quantity for basket in baskets for quantity in basket.quantities],
        [price for offer in offers for price in offer.unit_prices],
    ]


def _form(offer: Offer, made_at: datetime) -> tuple[bytes, bytes, bytes]:
    """What the new orders of one offer in one batch have in common, as JSON around the order's id and its user's."""
    now, expires_at = clock.utc_now(), made_at + timedelta(seconds=offer.sale.hold_seconds)
    order = Order(
        id=_GAP,
        user_id=_GAP,
        event_id=offer.shown_event_id,
        status="reserved",
        lines=offer.lines,
        total=offer.total,
        created_at=clock.rfc3339(made_at),
        expires_at=clock.rfc3339(expires_at),
        expires_in_seconds=seconds_left(expires_at, now),
        server_time=clock.rfc3339(now),
    )
    before, between, after = _encode(order).split(_GAP.encode(), 2)
    return before, between, after


def _filled(form: tuple[bytes, bytes, bytes], reservation: Reservation) -> bytes:
    before, between, after = form
    order_id, user_id = ids.encode(ids.ORDER, reservation.id), ids.encode(ids.USER, reservation.user_id)
    return b"".join((before, order_id.encode(), between, user_id.encode(), after))
