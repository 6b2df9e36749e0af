"""Loads an event's gate from PostgreSQL, while the sale goes on.

The new epoch closes the gate to everyone first, so that whatever was done to the old content belongs to a transaction
that the snapshot sees. Purchases go through PostgreSQL alone until the gate is open; their outbox rows bring them in.
"""

from uuid import UUID

import structlog

from holdfast.engines.database import Connection, Pool, load_statements
from holdfast.gate.gate import Gate, Keyed, hold_key, hold_of

SQL = load_statements("holdfast.gate", "gate.sql")
_PART = 5000

_log = structlog.get_logger(__name__)


async def load_gate(pool: Pool, gate: Gate, event_id: UUID, *, unless_open: bool = False) -> bool:
    """Loads one event's gate. False when another process is at it, or the event has none.

    With `unless_open` a gate that somebody has loaded just now is left as it is. Raises GateAway or GateStale (a newer
    load overtook this one); whoever finds the gate closed loads it again.
    """
    lock = f"holdfast gate {event_id}"
    async with pool.acquire() as connection:
        if not await connection.fetchval(SQL["lock"], lock):
            return False
        try:
            if unless_open and await _is_open(connection, gate, event_id):  # type: ignore[arg-type]
                return True
            epoch = await connection.fetchval(SQL["next_epoch"], event_id)
            if epoch is None:
                return False
            await gate.load_begin(event_id, epoch)
            snapshot = await _fill(connection, gate, event_id, epoch)  # type: ignore[arg-type]
            await connection.execute(SQL["loaded"], event_id, epoch, snapshot)
        finally:
            await connection.execute(SQL["unlock"], lock)
    _log.info("gate loaded", event_id=str(event_id), epoch=epoch)
    return True


async def _is_open(connection: Connection, gate: Gate, event_id: UUID) -> bool:
    state = await gate.state(event_id)
    return state is not None and state.is_open and state.epoch == await connection.fetchval(SQL["epoch"], event_id)


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
