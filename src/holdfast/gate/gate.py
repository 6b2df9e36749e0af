"""The gate, seen from Python: one Valkey function call for a whole micro-batch of one event.

The gate is a fast filter, not the truth. Whatever it cannot answer in time goes through PostgreSQL alone: a circuit
breaker for each server keeps one that is away from costing every purchase its time-out. Servers that are away are tried
beside the purchases (cluster.py).
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from holdfast.gate.cluster import SLOTS, Node, Nodes, slot_of
from holdfast.gate.wire import ReplyError, Wire, WireError
from holdfast.settings import Settings

Hold: TypeAlias = list[str | int]
"""[user, tier, quantity, tier, quantity, …]; ids are UUIDs in hex."""
Keyed: TypeAlias = tuple[str, Hold]
"""(hold key, hold)"""
Want: TypeAlias = list[str | int]
"""[the limit per user, tier, quantity, tier, quantity, …]"""
Ask: TypeAlias = tuple[str, int]
"""(hold key, which of the call's wants)"""

CALL_MAX = 2000
"""Orders or holds in one call: what a Lua function can unpack, with room to spare."""

_LIBRARY = (files("holdfast.gate") / "gate.lua").read_text("utf-8")
_FAILED = (WireError, ReplyError)
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
"""How a node says that it does not have an event's slot, or not alone. The node itself is well."""
_encode = msgspec.json.encode


class GateAway(Exception):
    """The gate did not answer in time, or the breaker is open: go on through PostgreSQL."""


class GateStale(Exception):
    """The gate is empty, being loaded, or of another epoch than the caller's."""


class GateState(NamedTuple):
    """What the gate holds of one event."""

    epoch: int
    is_open: bool
    free: dict[UUID, int]
    holds: int
    leases: int


def hold_key(user_id: UUID, idempotency_key: str) -> str:
    """The key under which the gate knows an order's hold: it is the same for every retry of the order."""
    return f"{user_id.hex}:{idempotency_key}"


def parse_hold_key(key: str) -> tuple[UUID, str]:
    """The user and the idempotency key of a hold key."""
    user, _, idempotency_key = key.partition(":")
    return UUID(user), idempotency_key


def hold_of(user_id: UUID, tier_ids: Sequence[UUID], quantities: Sequence[int]) -> Hold:
    """An order's hold, as the gate keeps it."""
    hold: Hold = [user_id.hex]
    for tier_id, quantity in zip(tier_ids, quantities, strict=True):
        hold += (tier_id.hex, quantity)
    return hold


class Gate:
    """One process's connections to the gate."""

    def __init__(self, settings: Settings) -> None:
        self._nodes = Nodes(settings) if settings.gate_url.get_secret_value() else None
        self._lease_ms = str(settings.lease_seconds * 1000)

    async def open(self) -> None:
        """Learns which servers there are, and loads the functions into each, if it can."""
        nodes = self._nodes
        if nodes is None:
            return
        await nodes.learn()
        await asyncio.gather(*(self._try_functions(node) for node in nodes.masters))
        if nodes.is_away:
            nodes.learn_soon()

    async def close(self) -> None:
        """Closes the connections."""
        if self._nodes is not None:
            await self._nodes.close()

    @property
    def is_absent(self) -> bool:
        """Whether this deployment has no gate at all."""
        return self._nodes is None

    @property
    def is_away(self) -> bool:
        """Whether nobody can be asked about any event."""
        return self._nodes is None or self._nodes.is_away

    @property
    def nodes(self) -> Nodes:
        """The servers behind it. There must be some."""
        assert self._nodes is not None, "this deployment has no gate"
        return self._nodes

    @property
    def wire(self) -> Wire:
        """The wire to the one server that is alone."""
        (node,) = self.nodes.masters
        return node.wire

    def node_of(self, event_id: UUID) -> str:
        """The name of the node that an event is looked for in; empty where there is one server. Raises GateAway."""
        return self._node(event_id).id

    async def reserve(
        self, event_id: UUID, epoch: int, wants: Sequence[Want], settled: Sequence[Ask], asks: Sequence[Ask]
    ) -> list[str]:
        """Settles what was committed, and takes a lease for each ask: its outcome, in the same order. At most CALL_MAX
        of each.

        Raises GateAway or GateStale; then nothing is known of the asks' leases, which end by themselves.
        """
        payload = _encode({"wants": wants, "settle": settled, "orders": asks})
        return await self._call("holdfast_reserve", event_id, str(epoch), self._lease_ms, payload)

    async def finish(
        self,
        event_id: UUID,
        epoch: int,
        *,
        settle: Sequence[Keyed] = (),
        release: Sequence[str] = (),
        forget: Sequence[str] = (),
        leave_tombstones: bool = True,
    ) -> None:
        """Settles, releases and forgets holds by their keys. Each is idempotent. Raises GateAway or GateStale."""
        for start in range(0, max(len(settle), len(release), len(forget)), CALL_MAX):
            part = slice(start, start + CALL_MAX)
            payload = _encode({"settle": settle[part], "release": release[part], "forget": forget[part]})
            await self._call("holdfast_finish", event_id, str(epoch), "1" if leave_tombstones else "0", payload)

    async def has(self, event_id: UUID, keys: Sequence[str]) -> list[bool]:
        """Whether the gate has a lease or a hold under each of these keys, whatever state it is in. Raises GateAway."""
        return [bool(hold) for hold in await self._ask(self._node(event_id), "HMGET", _place(event_id)[1][2], *keys)]

    async def load_begin(self, event_id: UUID, epoch: int) -> str:
        """Empties the gate and closes it to everyone of an older epoch. The node that the load goes to: should another
        take its place meanwhile, the rest of the load is stale."""
        node = self._node(event_id)
        await self._call("holdfast_load_begin", event_id, str(epoch))
        return node.id

    async def load_add(
        self, event_id: UUID, epoch: int, users: Sequence[tuple[str, int]], holds: Sequence[Keyed]
    ) -> None:
        """Adds a part of the users' totals and of the active holds."""
        await self._call("holdfast_load_add", event_id, str(epoch), _encode({"users": users, "holds": holds}))

    async def load_open(self, event_id: UUID, epoch: int, free: Sequence[tuple[str, int]]) -> None:
        """Sets what is free of each tier and opens the gate."""
        await self._call("holdfast_load_open", event_id, str(epoch), _encode(free))

    async def lapsed(self, event_id: UUID, epoch: int, limit: int) -> list[Keyed]:
        """Holds whose lease is over and whose order was not settled: PostgreSQL has to be asked."""
        found = await self._call("holdfast_lapsed", event_id, str(epoch), str(limit))
        return [(key, msgspec.json.decode(hold, type=list[str | int])) for key, hold in _pairs(found) if hold]

    async def state(self, event_id: UUID) -> GateState | None:
        """What the gate holds of an event; None when nothing. What was loaded into another master is not open."""
        epoch, state, holds, leases, *pairs = await self._call("holdfast_state", event_id)
        if not epoch:
            return None
        free = {UUID(tier): int(count) for tier, count in _pairs(pairs)}
        return GateState(int(epoch), state == "open", free, int(holds), int(leases))

    async def holds(self, event_id: UUID) -> dict[str, Hold]:
        """Every hold of an event: for reconciling, not for the path of an order."""
        flat = await self._ask(self._node(event_id), "HGETALL", _place(event_id)[1][2])
        return {key: msgspec.json.decode(hold, type=list[str | int]) for key, hold in _pairs(flat)}

    async def ailments(self) -> list[str]:
        """What is wrong with the servers: those that do not answer or lack the functions, slots that nobody serves."""
        nodes = self.nodes
        await nodes.learn()
        found = [f"{node.address}: {node.error}" for node in nodes.masters if node.is_away]
        for node in nodes.masters:
            try:
                if not node.is_away and not await node.wire.call("FUNCTION", "LIST", "LIBRARYNAME", "holdfast_gate"):
                    found.append(f"{node.address}: has no functions")
            except _FAILED as error:
                found.append(f"{node.address}: {error}")
        if not nodes.is_well:
            found.append("the cluster says that it is down")
        if nodes.masters and nodes.unserved:
            found.append(f"{nodes.unserved} of {SLOTS} slots have no master")
        return found or ([] if nodes.masters else ["no node of the cluster answers"])

    async def _call(self, function: str, event_id: UUID, *arguments: str | bytes) -> list[str]:
        slot, keys = _place(event_id)
        if self._nodes is None:
            raise GateAway
        answer: list[str] = await self._ask(self._nodes.by_slot[slot], "FCALL", function, 5, *keys, *arguments)
        if answer[0] == "stale":
            raise GateStale
        return answer[1:]

    async def _ask(self, node: Node, *command: str | bytes | int) -> Any:
        if node.is_away:
            self.nodes.watch()
            raise GateAway
        try:
            return await node.wire.call(*command)
        except _FAILED as error:
            return await self._ask_again(node, command, error)

    async def _ask_again(self, node: Node, command: tuple[str | bytes | int, ...], error: Exception) -> Any:
        """What can be done at once where a call failed; the rest is left to others than its caller."""
        if str(error).startswith(_ELSEWHERE):
            self.nodes.learn_soon()
            raise GateAway from error
        try:
            # A server that was restarted has lost its functions along with everything else.
            if "Function not found" not in str(error):
                raise error
            await _load_functions(node)
            return await node.wire.call(*command)
        except _FAILED as failure:
            self.nodes.trip(node, failure)
            raise GateAway from failure

    def _node(self, event_id: UUID) -> Node:
        if self._nodes is None:
            raise GateAway
        return self._nodes.by_slot[_place(event_id)[0]]

    async def _try_functions(self, node: Node) -> None:
        if not node.is_away:
            try:
                await _load_functions(node)
            except _FAILED as error:
                self.nodes.trip(node, error)


async def _load_functions(node: Node) -> None:
    await node.wire.call("FUNCTION", "LOAD", "REPLACE", _LIBRARY)


@lru_cache(maxsize=1024)
def _place(event_id: UUID) -> tuple[int, tuple[str, str, str, str, str]]:
    """The slot of an event, and its keys."""
    tag = "{" + event_id.hex + "}"
    keys = (f"{tag}:gate", f"{tag}:users", f"{tag}:holds", f"{tag}:leases", f"{tag}:tombstones")
    return slot_of(event_id.hex), keys


def _pairs(flat: list[str]) -> Iterable[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)
