"""An order on the wire and in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from holdfast import clock, ids

QUANTITY_MAX = 1000


class LineAsked(msgspec.Struct, forbid_unknown_fields=True):
    """One line of POST /orders/create."""

    tier_id: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]


class CreateOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /orders/create."""

    event_id: str
    lines: Annotated[list[LineAsked], msgspec.Meta(min_length=1, max_length=100)]


class ConfirmOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /orders/{order_id}/confirm."""

    payment_token: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class CancelOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /orders/{order_id}/cancel: nothing, or {}."""


class Money(msgspec.Struct):
    """Minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class Line(msgspec.Struct):
    """One line of an order."""

    tier_id: str
    quantity: int
    price: Money


class Ticket(msgspec.Struct):
    """One admission."""

    id: str
    tier_id: str


class PaymentView(msgspec.Struct):
    """The latest payment of an order."""

    id: str
    status: str


class Order(msgspec.Struct, omit_defaults=True):
    """An order as its owner sees it. Times are RFC 3339 UTC; `expires_in_seconds` counts from `server_time`."""

    id: str
    user_id: str
    event_id: str
    status: str
    lines: list[Line]
    total: Money
    created_at: str
    expires_at: str
    expires_in_seconds: int
    server_time: str
    ended_at: str | None = None
    payment: PaymentView | None = None
    tickets: list[Ticket] | None = None


class OrderPage(msgspec.Struct):
    """A user's orders, newest first."""

    data: list[Order]
    next_cursor: str | None


def order_of_row(row: Any) -> Order:
    """The wire form of a row of the statement `orders` in orders.sql."""
    order = _order(row, row["id"], row["user_id"], row["status"], row["total_amount"])
    if row["ended_at"] is not None:
        order.ended_at = clock.rfc3339(row["ended_at"])
    if row["payment_id"] is not None:
        order.payment = PaymentView(ids.encode(ids.PAYMENT, row["payment_id"]), row["payment_state"])
    if row["ticket_ids"]:
        order.tickets = [
            Ticket(ids.encode(ids.TICKET, ticket_id), ids.encode(ids.TIER, tier_id))
            for ticket_id, tier_id in zip(row["ticket_ids"], row["ticket_tiers"], strict=True)
        ]
    return order


def confirmed_order(
    row: Any, order_id: UUID, user_id: UUID, payment_id: UUID, ticket_ids: Sequence[UUID], ended_at: datetime
) -> Order:
    """The wire form of an order that was confirmed a moment ago: a row of the statement `begin_payments`, and the ids
    of its tickets in the order of its lines."""
    order = _order(row, order_id, user_id, "confirmed", row["amount"])
    order.ended_at = clock.rfc3339(ended_at)
    order.payment = PaymentView(ids.encode(ids.PAYMENT, payment_id), "authorised")
    tiers = (line.tier_id for line in order.lines for _ in range(line.quantity))
    order.tickets = [
        Ticket(ids.encode(ids.TICKET, ticket_id), tier) for ticket_id, tier in zip(ticket_ids, tiers, strict=True)
    ]
    return order


def _order(row: Any, order_id: UUID, user_id: UUID, status: str, total_amount: int) -> Order:
    now, currency = clock.utc_now(), row["currency"]
    return Order(
        id=ids.encode(ids.ORDER, order_id),
        user_id=ids.encode(ids.USER, user_id),
        event_id=ids.encode(ids.EVENT, row["event_id"]),
        status=status,
        lines=[
            Line(ids.encode(ids.TIER, tier_id), quantity, Money(price, currency))
            for tier_id, quantity, price in zip(row["tier_ids"], row["quantities"], row["unit_prices"], strict=True)
        ],
        total=Money(total_amount, currency),
        created_at=clock.rfc3339(row["created_at"]),
        expires_at=clock.rfc3339(row["expires_at"]),
        expires_in_seconds=seconds_left(row["expires_at"], now) if status == "reserved" else 0,
        server_time=clock.rfc3339(now),
    )


def seconds_left(expires_at: datetime, now: datetime) -> int:
    """The countdown of a reserved order, in whole seconds."""
    return max(0, round((expires_at - now).total_seconds()))
