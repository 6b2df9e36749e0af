"""A user's orders, newest first, and one order."""

import base64
from uuid import UUID

from holdfast import ids
from holdfast.engines.database import Reads
from holdfast.engines.hosts.position import LATEST
from holdfast.errors import Fault, Invalid, refuse
from holdfast.orders.journal import SQL
from holdfast.orders.order import Order, OrderPage, order_of_row

LIMIT_DEFAULT = 20
LIMIT_MAX = 100


class History:
    """Reads orders for their owners, who see whatever they were told was done. Raises Busy."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def order(self, order_id: UUID, since: int = LATEST) -> Order:
        """One order, not before a log position. Raises not_found; whose it is, the caller checks."""
        rows = await self._reads.fetch(SQL["orders"], [order_id], since=since)
        if not rows:
            raise refuse("not_found")
        return order_of_row(rows[0])

    async def page(self, user_id: UUID, limit: int, cursor: str | None, since: int = LATEST) -> OrderPage:
        """One page of a user's orders, not before a log position."""
        after = _decode_cursor(cursor) if cursor is not None else None
        rows = await self._reads.fetch(SQL["history"], user_id, after, limit + 1, since=since)
        orders = [order_of_row(row) for row in rows[:limit]]
        return OrderPage(orders, _encode_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None)


def parse_limit(text: str | None) -> int:
    """The page size asked for. Raises Invalid."""
    if text is None:
        return LIMIT_DEFAULT
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= LIMIT_MAX):
        raise Invalid(Fault("limit", f"limit is a number from 1 to {LIMIT_MAX}."))
    return int(text)


def _encode_cursor(order_id: UUID) -> str:
    return base64.urlsafe_b64encode(order_id.bytes).decode().rstrip("=")


def _decode_cursor(cursor: str) -> UUID:
    try:
        return UUID(bytes=base64.b64decode(cursor + "==", altchars=b"-_", validate=True))
    except (ValueError, TypeError) as error:
        raise Invalid(Fault("cursor", "This is not a cursor of ours: leave it out to begin anew.")) from error


def is_owner(order: Order, user_id: UUID) -> bool:
    """Whether an order belongs to this user."""
    return order.user_id == ids.encode(ids.USER, user_id)
