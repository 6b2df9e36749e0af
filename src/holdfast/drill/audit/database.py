"""What PostgreSQL has of some events, in one snapshot of the primary."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from holdfast.engines.database import load_statements

_SQL = load_statements("holdfast.drill.audit", "audit.sql")
_CONNECT_SECONDS_MAX = 5.0
_QUERY_SECONDS_MAX = 60.0

AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a database raises that is away, or going away."""


class OrderFound(NamedTuple):
    """One order."""

    user_id: UUID
    event_id: UUID
    status: str
    version: int
    key: str
    lines: dict[UUID, int]
    """Tier -> quantity."""
    total: int
    is_overdue: bool
    """Whether its hold, if it still is one, should have ended by now."""
    issued: frozenset[UUID]
    paid: int
    """Payments that stand."""

    @property
    def tickets(self) -> int:
        """Tickets ordered."""
        return sum(self.lines.values())


class StockFound(NamedTuple):
    """One tier's counters."""

    event_id: UUID
    capacity: int
    held: int
    sold: int


class SalesFound(NamedTuple):
    """One tier's statistics."""

    held: int
    released: int
    sold: int
    revenue: int


class DatabaseFound(NamedTuple):
    """Everything of these events."""

    orders: dict[UUID, OrderFound]
    stock: dict[UUID, StockFound]
    people: dict[tuple[UUID, UUID], int]
    """(event, user) -> tickets counted for them, without those who have none."""
    epochs: dict[UUID, int]
    """Of the gate, per event."""
    unread: int
    """Rows of the outbox that somebody has still to read."""
    dead_letters: int
    open_payments: int
    sales: dict[UUID, SalesFound] | None
    """Per tier; None where this deployment keeps no statistics."""


async def look(database_url: str, events: Sequence[UUID], *, has_statistics: bool) -> DatabaseFound:
    """What there is now. Raises what AWAY lists."""
    connection = await asyncpg.connect(
        database_url,
        timeout=_CONNECT_SECONDS_MAX,
        command_timeout=_QUERY_SECONDS_MAX,
        target_session_attrs=SessionAttribute.primary,
        server_settings={"application_name": "holdfast drill"},
    )
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await _look(connection, list(events), has_statistics=has_statistics)
    finally:
        # Not close(): a connection to a server that hangs must not keep us.
        connection.terminate()


async def _look(connection: Any, events: list[UUID], *, has_statistics: bool) -> DatabaseFound:
    async def rows(statement: str) -> list[Any]:
        found: list[Any] = await connection.fetch(_SQL[statement], events)
        return found

    orders = {
        row["id"]: OrderFound(
            row["user_id"],
            row["event_id"],
            row["status"],
            row["version"],
            row["idempotency_key"],
            dict(zip(row["tier_ids"], row["quantities"], strict=True)),
            row["total_amount"],
            row["is_overdue"],
            frozenset(row["issued"]),
            row["paid"],
        )
        for row in await rows("orders")
    }
    return DatabaseFound(
        orders=orders,
        stock={row["tier_id"]: StockFound(*list(row)[1:]) for row in await rows("stock")},
        people={(row["event_id"], row["user_id"]): row["tickets"] for row in await rows("people")},
        epochs={row["event_id"]: row["epoch"] for row in await rows("epochs")},
        unread=(await rows("unread"))[0][0],
        dead_letters=(await rows("dead_letters"))[0][0],
        open_payments=(await rows("open_payments"))[0][0],
        sales={row["tier_id"]: SalesFound(*list(row)[1:]) for row in await rows("sales")} if has_statistics else None,
    )
