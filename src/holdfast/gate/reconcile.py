"""Holds the gate against PostgreSQL, and mends it by hold key; it never sets a count.

Leases that are over are settled or given back as PostgreSQL says. Where a gate differs from PostgreSQL twice in a row
with nothing in between that could explain it, its holds are compared key by key; what remains is loaded anew.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from holdfast.engines.database import Pool
from holdfast.gate.gate import Gate, GateAway, GateStale, Hold, Keyed, hold_key, hold_of, parse_hold_key
from holdfast.gate.load import SQL, load_gate

_LEASES_MAX = 1000

_log = structlog.get_logger(__name__)


class Difference(NamedTuple):
    """How one event's gate differs from PostgreSQL: tier -> free in the gate minus free in PostgreSQL.

    While there are leases nothing follows from it: their orders are on the way.
    """

    event_id: UUID
    free: dict[UUID, int]
    leases: int


class Reconcile:
    """Looks at every gate in turn. One instance per worker."""

    def __init__(self, pool: Pool, gate: Gate) -> None:
        self._pool = pool
        self._gate = gate
        self._suspected: dict[UUID, tuple[int, Difference]] = {}

    async def run(self) -> None:
        """One round over every gate that may still sell or hold something. Raises GateAway, after the last, when some
        could not be looked at."""
        away = 0
        for row in await self._pool.fetch(SQL["epochs"]):
            event_id, epoch = row["event_id"], row["epoch"]
            try:
                await self._end_leases(event_id, epoch)
                await self._compare(event_id, epoch)
            except GateStale:
                continue
            except GateAway:
                away += 1
        if away:
            raise GateAway(f"{away} gates")

    async def _end_leases(self, event_id: UUID, epoch: int) -> None:
        if not await self._is_loaded(event_id, epoch):
            return
        while lapsed := await self._gate.lapsed(event_id, epoch, _LEASES_MAX):
            # Without tombstones: a commit that is still in doubt may yet settle its hold.
            await follow_orders(self._pool, self._gate, event_id, epoch, lapsed, leave_tombstones=False)

    async def _is_loaded(self, event_id: UUID, epoch: int) -> bool:
        """A gate that nobody has loaded is left alone; one of an older epoch, or half loaded, is loaded again."""
        state = await self._gate.state(event_id)
        if state is None:
            return False
        if state.epoch == epoch and state.is_open:
            return True
        await load_gate(self._pool, self._gate, event_id)
        return False

    async def _compare(self, event_id: UUID, epoch: int) -> None:
        difference = await compare(self._pool, self._gate, event_id)
        if difference is None or difference.leases or not any(difference.free.values()):
            self._suspected.pop(event_id, None)
            return
        times, before = self._suspected.get(event_id, (0, difference))
        if before != difference:
            times = 0
        self._suspected[event_id] = (times + 1, difference)
        if times == 1:
            _log.warning("gate differs", event_id=str(event_id), free=_readable(difference))
            await self._mend_by_key(event_id, epoch)
        elif times >= 2:
            _log.warning("gate is loaded anew", event_id=str(event_id), free=_readable(difference))
            await load_gate(self._pool, self._gate, event_id)

    async def _mend_by_key(self, event_id: UUID, epoch: int) -> None:
        rows = await self._pool.fetch(SQL["holds"], event_id)
        in_orders: dict[str, Hold] = {}
        for row in rows:
            key = hold_key(row["user_id"], row["idempotency_key"])
            in_orders[key] = hold_of(row["user_id"], row["tier_ids"], row["quantities"])
        in_gate = await self._gate.holds(event_id)
        missing = [(key, hold) for key, hold in in_orders.items() if key not in in_gate]
        surplus = [(key, hold) for key, hold in in_gate.items() if key not in in_orders]
        if missing:
            await self._gate.finish(event_id, epoch, settle=missing)
        if surplus:
            await follow_orders(self._pool, self._gate, event_id, epoch, surplus, leave_tombstones=True)


async def follow_orders(
    pool: Pool, gate: Gate, event_id: UUID, epoch: int, holds: Sequence[Keyed], *, leave_tombstones: bool
) -> None:
    """Settles, forgets or releases holds as their orders say by now. Raises GateAway and GateStale."""
    keys = [parse_hold_key(key) for key, _ in holds]
    rows = await pool.fetch(SQL["by_key"], [user for user, _ in keys], [key for _, key in keys])
    status = {hold_key(row["user_id"], row["idempotency_key"]): row["status"] for row in rows}
    await gate.finish(
        event_id,
        epoch,
        settle=[held for held in holds if status.get(held[0]) == "reserved"],
        forget=[key for key, _ in holds if status.get(key) == "confirmed"],
        release=[key for key, _ in holds if status.get(key) not in ("reserved", "confirmed")],
        leave_tombstones=leave_tombstones,
    )


async def compare(pool: Pool, gate: Gate, event_id: UUID) -> Difference | None:
    """How a gate differs from PostgreSQL at about this moment; None where it is not loaded. Raises GateAway."""
    state = await gate.state(event_id)
    if state is None or not state.is_open:
        return None
    rows = await pool.fetch(SQL["free"], event_id)
    free = {row["tier_id"]: state.free.get(row["tier_id"], 0) - row["free"] for row in rows}
    return Difference(event_id, free, state.leases)


def _readable(difference: Difference) -> dict[str, int]:
    return {str(tier): count for tier, count in difference.free.items() if count}
