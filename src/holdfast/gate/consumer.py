"""Tells the gate what PostgreSQL has decided: the outbox consumer `gate`.

Cancelled and expired orders give their tickets back, confirmed ones are forgotten, and orders that were made while the
gate was away are brought in. All of it goes by hold key and may come twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from holdfast.engines.database import Pool
from holdfast.gate.gate import Gate, GateAway, GateStale, Keyed, hold_key, hold_of
from holdfast.gate.load import SQL, load_gate
from holdfast.outbox.consume import Consumer, OutboxRow

_VERSION_ENDED = 2
"""An order is made at version 1 and ends at 2; only a late payment takes it further."""

_KINDS = ("gate.missed", "order.cancelled", "order.expired", "order.confirmed", "event.changed")


class Told(msgspec.Struct):
    """What one event's gate is told in one call."""

    epoch: int
    settle: list[Keyed] = []
    release: list[str] = []
    forget: list[str] = []


def gate_consumer(pool: Pool, gate: Gate) -> Consumer:
    """The consumer that keeps the gate's holds in step with the orders."""

    async def handle(rows: Sequence[OutboxRow]) -> int:
        if gate.is_absent:
            return len(rows)
        changes = await pool.fetch(
            SQL["changes"],
            [row.position[0] for row in rows],
            [row.subject for row in rows],
            [row.scope for row in rows],
        )
        told: defaultdict[UUID, Told] = defaultdict(lambda: Told(0))
        for index, (row, change) in enumerate(zip(rows, changes, strict=True)):
            if not change["epoch"] or change["included"]:
                # A gate that was never loaded will be loaded with this in it; one loaded since has it already.
                continue
            if not change["loaded"] or row.kind == "event.changed":
                # What stands before is told first; this row and the rest are read again beside the new content.
                return index if await _tell(pool, gate, told) and await _load(pool, gate, row.scope) else 0
            _add(told[row.scope], row, change)
        return len(rows) if await _tell(pool, gate, told) else 0

    return Consumer("gate", _KINDS, handle)


def _add(told: Told, row: OutboxRow, change: Any) -> None:
    told.epoch = change["epoch"]
    key = hold_key(change["user_id"], change["idempotency_key"])
    if row.version > _VERSION_ENDED:
        # It took its tickets anew, for a late payment, under a key of its own: the first was released when it expired.
        key += f"\x01{row.version}"
    if row.kind == "gate.missed":
        told.settle.append((key, hold_of(change["user_id"], change["tier_ids"], change["quantities"])))
    elif row.kind == "order.confirmed":
        told.forget.append(key)
    else:
        told.release.append(key)


async def _tell(pool: Pool, gate: Gate, told: dict[UUID, Told]) -> bool:
    """False when a gate could not be told; then all of it comes again."""
    for event_id, one in told.items():
        try:
            await gate.finish(event_id, one.epoch, settle=one.settle, release=one.release, forget=one.forget)
        except GateAway:
            await asyncio.sleep(0.1)
            return False
        except GateStale:
            await _load(pool, gate, event_id)
            return False
    return True


async def _load(pool: Pool, gate: Gate, event_id: UUID) -> bool:
    """False when another process is at it, or the gate is away: the rows come again."""
    try:
        return await load_gate(pool, gate, event_id)
    except (GateAway, GateStale):
        return False
