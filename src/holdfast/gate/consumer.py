"""Tells the gate what PostgreSQL has decided: the outbox consumer `gate`.

Cancelled and expired orders give their tickets back, confirmed ones are forgotten, and orders that were made while the
gate was away are brought in. All of it goes by hold key and may come twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec
import structlog

from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool
from holdfast.gate.gate import Gate, GateAway, GateStale, Keyed, hold_key, hold_of
from holdfast.gate.load import SQL, give_up, load_gate
from holdfast.outbox.consume import Consumer, OutboxRow

PATIENCE_SECONDS = 5.0
"""Longer than a replica takes to be promoted."""

_PAUSE_SECONDS = 0.1
_SAY_SECONDS = 5.0
"""A gate that cannot be told for so long is spoken of, again and again."""
_VERSION_ENDED = 2
"""An order is made at version 1 and ends at 2; only a late payment takes it further."""

_KINDS = ("gate.missed", "order.cancelled", "order.expired", "order.confirmed", "event.changed")


_log = structlog.get_logger(__name__)


class Told(msgspec.Struct):
    """What one event's gate is told in one call."""

    epoch: int
    settle: list[Keyed] = []
    release: list[str] = []
    forget: list[str] = []


def gate_consumer(pool: Pool, gate: Gate) -> Consumer:
    """The consumer that keeps the gates' holds in step with the orders."""
    teller = _Teller(pool, gate)

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
                if not await teller.tell(told):
                    return 0
                return index if await teller.load(row.scope, change["epoch"]) else 0
            _add(told[row.scope], row, change)
        return len(rows) if await teller.tell(told) else 0

    return Consumer("gate", _KINDS, handle)


class _Teller:
    """Tells gates what they have to hear. One that cannot be told keeps the others waiting only for a while."""

    def __init__(self, pool: Pool, gate: Gate) -> None:
        self._pool = pool
        self._gate = gate
        self._away: dict[UUID, tuple[float, float]] = {}
        """Since when a gate could not be told, and when that was tried last."""
        self._kept_waiting: dict[UUID, tuple[float, float]] = {}
        """Since when rows of a gate wait, and when that was said last."""

    async def tell(self, told: dict[UUID, Told]) -> bool:
        """False when a gate could not be told. Then all of it comes again, to the others too, whom it does no harm."""
        answers = [await self._tell(event_id, one) for event_id, one in told.items()]
        if not all(answers):
            await asyncio.sleep(_PAUSE_SECONDS)
        return all(answers)

    async def load(self, event_id: UUID, epoch: int) -> bool:
        """False when another process is at it, or the gate is away: the rows come again."""
        try:
            if await load_gate(self._pool, self._gate, event_id):
                self._kept_waiting.pop(event_id, None)
                return True
            self._say(event_id, "another process loads it")
        except GateStale:
            self._say(event_id, "a load was overtaken")
        except GateAway:
            self._say(event_id, "its gate is away")
            await self._lose_patience(event_id, epoch)
        await asyncio.sleep(_PAUSE_SECONDS)
        return False

    async def _tell(self, event_id: UUID, told: Told) -> bool:
        try:
            await self._gate.finish(event_id, told.epoch, settle=told.settle, release=told.release, forget=told.forget)
        except GateStale:
            # A replica that was promoted, or a server that has forgotten. Somebody may have loaded it by now.
            with suppress(GateAway, GateStale):
                await load_gate(self._pool, self._gate, event_id, unless_open=True)
            self._say(event_id, "its gate has other content")
            return False
        except GateAway:
            self._say(event_id, "its gate is away")
            await self._lose_patience(event_id, told.epoch)
            return False
        self._away.pop(event_id, None)
        self._kept_waiting.pop(event_id, None)
        return True

    def _say(self, event_id: UUID, why: str) -> None:
        now = monotonic_seconds()
        since, said = self._kept_waiting.setdefault(event_id, (now, now))
        if now - said >= _SAY_SECONDS:
            self._kept_waiting[event_id] = since, now
            _log.warning("a gate is behind", event_id=str(event_id), why=why, seconds=round(now - since))

    async def _lose_patience(self, event_id: UUID, epoch: int) -> None:
        """A gate that stays away is given up: it will have to be loaded again, which brings it all of this."""
        now = monotonic_seconds()
        since, last = self._away.get(event_id, (now, now))
        if now - last > PATIENCE_SECONDS:
            since = now
        self._away[event_id] = since, now
        if now - since >= PATIENCE_SECONDS:
            await give_up(self._pool, event_id, epoch)


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
