"""A user's orders, newest first, and one order."""

import base64
from uuid import UUID

from holdfast import ids
from holdfast.engines.database import AWAY, Pool
from holdfast.errors import Busy, Fault, Invalid, refuse
from holdfast.orders.journal import SQL
from holdfast.orders.order import Order, OrderPage, order_of_row

LIMIT_DEFAULT = 20
LIMIT_MAX = 100


class History:
    """Reads orders for their owners."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def order(self, order_id: UUID) -> Order:
        """One order. Raises not_found; whose it is, the caller checks."""
        orders = await self._read([order_id])
        if not orders:
            raise refuse("not_found")
        return orders[0]

    async def page(self, user_id: UUID, limit: int, cursor: str | None) -> OrderPage:
        """One page of a user's orders."""
        after = _decode_cursor(cursor) if cursor is not None else None
        try:
            rows = await self._pool.fetch(SQL["history"], user_id, after, limit + 1)
        except AWAY as error:
            raise Busy("The database did not answer in time.") from error
        found = [row["id"] for row in rows[:limit]]
        more = len(rows) > limit
        return OrderPage(await self._read(found), _encode_cursor(found[-1]) if more else None)

    async def _read(self, order_ids: list[UUID]) -> list[Order]:
        if not order_ids:
            return []
        try:
            rows = await self._pool.fetch(SQL["orders"], order_ids)
        except AWAY as error:
            raise Busy("The database did not answer in time.") from error
        found = {row["id"]: order_of_row(row) for row in rows}
        return [found[order_id] for order_id in order_ids if order_id in found]


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
