"""The gates of all events against PostgreSQL, and their repair."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from holdfast import ids
from holdfast.doctor.checks import Check
from holdfast.engines.database import AWAY, Pool
from holdfast.gate.gate import Gate, GateAway, GateStale
from holdfast.gate.load import SQL, load_gate
from holdfast.gate.reconcile import compare

_REPAIR = "`holdfast doctor --repair` loads it anew; `holdfast work reconcile` does the same within a minute"
_LAPSED_MAX = 1000
_NAMED_MAX = 3


class _Wrong(NamedTuple):
    """What is wrong with one event's gate."""

    event_id: UUID
    what: str


class Gates:
    """Looks at the gates, again and again: what differs only while purchases pass is not the same twice."""

    def __init__(self, pool: Pool, gate: Gate) -> None:
        self._pool = pool
        self._gate = gate
        self._before: dict[UUID, str] = {}

    async def check(self) -> list[Check]:
        """One look."""
        if self._gate.is_absent:
            return [Check("gate", True, "none is configured: PostgreSQL alone decides")]
        try:
            await self._try_functions()
            rows = await self._pool.fetch(SQL["epochs"])
            return [Check("gate", True, "answers, functions loaded"), *await self._against_database(rows)]
        except GateAway:
            mend = "see that it runs and that HOLDFAST_GATE_URL is right; the sale goes on without it, slower"
            return [Check("gate", False, "does not answer", mend)]
        except (*AWAY, asyncpg.PostgresError) as error:
            return [Check("gate against PostgreSQL", False, f"{type(error).__name__}: {error}", "see PostgreSQL first")]

    async def repair(self) -> int:
        """Loads the gate of every event that has one; answers how many. Raises GateAway."""
        loaded = 0
        for row in await self._pool.fetch(SQL["epochs"]):
            try:
                loaded += await load_gate(self._pool, self._gate, row["event_id"])
            except GateStale:
                # Someone else has loaded it later than we began to.
                loaded += 1
        return loaded

    async def _try_functions(self) -> None:
        # An event that cannot be: the answer shows that the functions are there, and changes nothing.
        try:
            await self._gate.lapsed(UUID(int=0), 0, 1)
        except GateStale:
            return

    async def _against_database(self, rows: Sequence[Any]) -> list[Check]:
        differing, leases, not_loaded = [], [], 0
        for row in rows:
            event_id: UUID = row["event_id"]
            state = await self._gate.state(event_id)
            if state is None:
                not_loaded += 1
                continue
            what = await self._difference(event_id, row["epoch"])
            # The first look has nothing to compare with, so it counts until there was a second.
            if what is not None and self._before.get(event_id, what) == what:
                differing.append(_Wrong(event_id, what))
            self._before[event_id] = what or ""
            lapsed = await self._lapsed(event_id, row["epoch"])
            if lapsed:
                leases.append(_Wrong(event_id, f"{lapsed} leases"))
        loaded = len(rows) - not_loaded
        unloaded = f", {not_loaded} not loaded (the next purchase loads it)" if not_loaded else ""
        return [
            _check("gate against PostgreSQL", differing, f"{loaded} agree{unloaded}", _REPAIR),
            _check("leases", leases, "none is overdue", "see that `holdfast work reconcile` runs"),
        ]

    async def _difference(self, event_id: UUID, epoch: int) -> str | None:
        state = await self._gate.state(event_id)
        if state is None:
            return None
        if state.epoch != epoch or not state.is_open:
            return f"epoch {state.epoch} for {epoch}, {'open' if state.is_open else 'being loaded'}"
        difference = await compare(self._pool, self._gate, event_id)
        if difference is None or difference.leases or not any(difference.free.values()):
            # While there are leases their orders are on the way; one that is overdue is a finding of its own.
            return None
        apart = {ids.encode(ids.TIER, tier): count for tier, count in difference.free.items() if count}
        return ", ".join(f"{tier} {count:+d} free" for tier, count in sorted(apart.items()))

    async def _lapsed(self, event_id: UUID, epoch: int) -> int:
        try:
            return len(await self._gate.lapsed(event_id, epoch, _LAPSED_MAX))
        except GateStale:
            return 0


def _check(name: str, wrong: Sequence[_Wrong], fine: str, mend: str) -> Check:
    if not wrong:
        return Check(name, True, fine)
    named = "; ".join(f"{ids.encode(ids.EVENT, one.event_id)}: {one.what}" for one in wrong[:_NAMED_MAX])
    return Check(name, False, f"{len(wrong)} do not agree: {named}", mend)
