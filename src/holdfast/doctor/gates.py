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
            servers = await self._servers()
            if self._gate.is_away:
                return [servers]
            return [servers, *await self._against_database(await self._pool.fetch(SQL["epochs"]))]
        except (*AWAY, asyncpg.PostgresError) as error:
            return [Check("gate against PostgreSQL", False, f"{type(error).__name__}: {error}", "see PostgreSQL first")]

    async def repair(self) -> int:
        """Loads the gate of every event that has one; answers how many. Raises GateAway, after the last, when a server
        was away."""
        loaded, away = 0, 0
        for row in await self._pool.fetch(SQL["epochs"]):
            try:
                loaded += await load_gate(self._pool, self._gate, row["event_id"])
            except GateStale:
                # Someone else has loaded it later than we began to.
                loaded += 1
            except GateAway:
                away += 1
        if away:
            raise GateAway(f"{away} gates")
        return loaded

    async def _servers(self) -> Check:
        ailments, masters = await self._gate.ailments(), len(self._gate.nodes.masters)
        if not ailments:
            many = f"{masters} masters answer" if self._gate.nodes.is_cluster else "answers"
            return Check("gate", True, f"{many}, functions loaded")
        if self._gate.nodes.is_cluster:
            mend = "see that they run and that HOLDFAST_GATE_URL names nodes of one cluster, each with its password"
        else:
            mend = "see that it runs and that HOLDFAST_GATE_URL is right"
        return Check("gate", False, "; ".join(ailments), f"{mend}; the sale goes on without it, slower")

    async def _against_database(self, rows: Sequence[Any]) -> list[Check]:
        differing: list[_Wrong] = []
        leases: list[_Wrong] = []
        not_loaded, away = 0, 0
        for row in rows:
            try:
                is_loaded = await self._look(row["event_id"], row["epoch"], differing, leases)
            except GateAway:
                # Its master is missing, which is said of the servers.
                away += 1
            else:
                not_loaded += not is_loaded
        loaded = len(rows) - not_loaded - away
        unloaded = f", {not_loaded} not loaded (the next purchase loads it)" if not_loaded else ""
        unloaded += f", {away} away" if away else ""
        return [
            _check("gate against PostgreSQL", differing, f"{loaded} agree{unloaded}", _REPAIR),
            _check("leases", leases, "none is overdue", "see that `holdfast work reconcile` runs"),
        ]

    async def _look(self, event_id: UUID, epoch: int, differing: list[_Wrong], leases: list[_Wrong]) -> bool:
        """Notes what is wrong with one event's gate. False where it is not loaded. Raises GateAway."""
        if await self._gate.state(event_id) is None:
            return False
        what = await self._difference(event_id, epoch)
        # The first look has nothing to compare with, so it counts until there was a second.
        if what is not None and self._before.get(event_id, what) == what:
            differing.append(_Wrong(event_id, what))
        self._before[event_id] = what or ""
        lapsed = await self._lapsed(event_id, epoch)
        if lapsed:
            leases.append(_Wrong(event_id, f"{lapsed} leases"))
        return True

    async def _difference(self, event_id: UUID, epoch: int) -> str | None:
        state = await self._gate.state(event_id)
        if state is None:
            return None
        if state.epoch != epoch or not state.is_open:
            return f"epoch {state.epoch} for {epoch}, {'open' if state.is_open else 'not open'}"
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
