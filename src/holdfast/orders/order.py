"""An order on the wire and in PostgreSQL."""

from datetime import datetime
from typing import Annotated, Any

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
    now = clock.utc_now()
    lines = [
        Line(ids.encode(ids.TIER, tier_id), quantity, Money(price, row["currency"]))
        for tier_id, quantity, price in zip(row["tier_ids"], row["quantities"], row["unit_prices"], strict=True)
    ]
    order = Order(
        id=ids.encode(ids.ORDER, row["id"]),
        user_id=ids.encode(ids.USER, row["user_id"]),
        event_id=ids.encode(ids.EVENT, row["event_id"]),
        status=row["status"],
        lines=lines,
        total=Money(row["total_amount"], row["currency"]),
        created_at=clock.rfc3339(row["created_at"]),
        expires_at=clock.rfc3339(row["expires_at"]),
        expires_in_seconds=seconds_left(row["expires_at"], now) if row["status"] == "reserved" else 0,
        server_time=clock.rfc3339(now),
    )
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


def seconds_left(expires_at: datetime, now: datetime) -> int:
    """The countdown of a reserved order, in whole seconds."""
    return max(0, round((expires_at - now).total_seconds()))
