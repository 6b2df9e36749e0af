"""Loads an event's gate from PostgreSQL, while the sale goes on.

The new epoch closes the gate to everyone first, so that whatever was done to the old content belongs to a transaction
that the snapshot sees. Purchases go through PostgreSQL alone until the gate is open; their outbox rows bring them in.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import structlog

from holdfast.engines.database import Connection, Pool, load_statements
from holdfast.gate.gate import Gate, Keyed, hold_key, hold_of

SQL = load_statements("holdfast.gate", "gate.sql")
_PART = 5000
_LOSE_WHEN_SILENT = "SET idle_session_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s'"

_log = structlog.get_logger(__name__)


async def load_gate(pool: Pool, gate: Gate, event_id: UUID, *, unless_open: bool = False) -> bool:
    """Loads one event's gate. False when another process is at it, or the event has none.

    With `unless_open` a gate that somebody has loaded just now is left as it is. Raises GateAway or GateStale (a newer
    load overtook this one, or another node took the place of the one that it went to); whoever finds the gate closed
    loads it again.
    """
    async with _alone(pool, event_id) as connection:
        if connection is None:
            return False
        known = await connection.fetchrow(SQL["gate"], event_id)
        if known is None:
            return False
        if known["node"] and known["node"] != gate.node_of(event_id):
            # Either the node is gone that had it, or we have not heard yet who took its place: then the gate that
            # somebody has loaded there would be given up for one in a node that nobody else asks any more.
            await gate.nodes.learn()
        # Asked in any case: as long as the gate is away its epoch stays what it is.
        state = await gate.state(event_id)
        is_open = state is not None and state.is_open and state.epoch == known["epoch"]
        if unless_open and known["loaded"] and is_open:
            return True
        epoch = await connection.fetchval(SQL["next_epoch"], event_id)
        node = await gate.load_begin(event_id, epoch)
        snapshot = await _fill(connection, gate, event_id, epoch)
        await connection.execute(SQL["loaded"], event_id, epoch, snapshot, node)
    _log.info("gate loaded", event_id=str(event_id), epoch=epoch, node=node)
    return True


async def give_up(pool: Pool, event_id: UUID, epoch: int) -> None:
    """Declares void what a gate that cannot be told anything holds of an event. Whoever reaches it finds it stale, and
    loads it again."""
    async with _alone(pool, event_id) as connection:
        if connection is not None:
            await connection.execute(SQL["given_up"], event_id, epoch)
            _log.warning("gate given up", event_id=str(event_id), epoch=epoch)


@asynccontextmanager
async def _alone(pool: Pool, event_id: UUID) -> "AsyncIterator[Connection | None]":
    """A connection to be used for an event's gate by one process at a time; None while another is at it."""
    lock = f"holdfast gate {event_id}"
    async with pool.acquire() as connection:
        if not await connection.fetchval(SQL["lock"], lock):
            yield None
            return
        # Whoever is frozen or gone with the lock loses it: the others must be able to load.
        await connection.execute(_LOSE_WHEN_SILENT)
        try:
            yield connection  # type: ignore[misc]  # a pool's proxy has a connection's methods
        finally:
            # The pool puts the connection's settings in order.
            await connection.execute(SQL["unlock"], lock)


async def _fill(connection: Connection, gate: Gate, event_id: UUID, epoch: int) -> str:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        snapshot: str = await connection.fetchval(SQL["snapshot"])
        users: list[tuple[str, int]] = []
        async for row in connection.cursor(SQL["users"], event_id, prefetch=_PART):
            users.append((row["user_id"].hex, row["tickets"]))
            if len(users) >= _PART:
                await gate.load_add(event_id, epoch, users, [])
                users = []
        holds: list[Keyed] = []
        async for row in connection.cursor(SQL["holds"], event_id, prefetch=_PART):
            key = hold_key(row["user_id"], row["idempotency_key"])
            holds.append((key, hold_of(row["user_id"], row["tier_ids"], row["quantities"])))
            if len(holds) >= _PART:
                await gate.load_add(event_id, epoch, [], holds)
                holds = []
        await gate.load_add(event_id, epoch, users, holds)
        free = [(row["tier_id"].hex, row["free"]) for row in await connection.fetch(SQL["free"], event_id)]
        await gate.load_open(event_id, epoch, free)
    return snapshot
