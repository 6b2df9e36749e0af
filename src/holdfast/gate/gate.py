"""The gate, seen from Python: one Valkey function call for a whole micro-batch of one event.

The gate is a fast filter, not the truth. Whatever it cannot answer in time goes through PostgreSQL alone: a circuit
breaker keeps a gate that is away from costing every purchase its time-out.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from holdfast.clock import monotonic_seconds
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
    """One process's connection to the gate."""

    def __init__(self, settings: Settings) -> None:
        url = urlsplit(settings.gate_url.get_secret_value())
        self.wire = Wire(url, settings.gate_timeout_seconds) if url.hostname else None
        self._retry_seconds = settings.gate_retry_seconds
        self._lease_ms = str(settings.lease_seconds * 1000)
        self._closed_until = 0.0 if self.wire else float("inf")

    async def open(self) -> None:
        """Loads the functions if it can."""
        if self.wire is not None:
            try:
                await self._load_functions(self.wire)
            except _FAILED:
                self._trip()

    async def close(self) -> None:
        """Closes the connection."""
        if self.wire is not None:
            await self.wire.close()

    @property
    def is_absent(self) -> bool:
        """Whether this deployment has no gate at all."""
        return self.wire is None

    @property
    def is_away(self) -> bool:
        """Whether the breaker is open."""
        return monotonic_seconds() < self._closed_until

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

    async def load_begin(self, event_id: UUID, epoch: int) -> None:
        """Empties the gate and closes it to everyone of an older epoch."""
        await self._call("holdfast_load_begin", event_id, str(epoch))

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
        return [
            (key, msgspec.json.decode(hold, type=list[str | int]))
            for key, hold in zip(found[::2], found[1::2], strict=True)
            if hold
        ]

    async def state(self, event_id: UUID) -> GateState | None:
        """What the gate holds of an event; None when nothing."""
        gate, _, holds, leases, _ = _keys(event_id)
        fields = _pairs(await self._ask("HGETALL", gate))
        if not fields:
            return None
        free = {UUID(name[5:]): int(count) for name, count in fields.items() if name.startswith("free:")}
        return GateState(
            epoch=int(fields.get("epoch", 0)),
            is_open=fields.get("state") == "open",
            free=free,
            holds=await self._ask("HLEN", holds),
            leases=await self._ask("ZCARD", leases),
        )

    async def holds(self, event_id: UUID) -> dict[str, Hold]:
        """Every hold of an event: for reconciling, not for the path of an order."""
        fields = _pairs(await self._ask("HGETALL", _keys(event_id)[2]))
        return {key: msgspec.json.decode(hold, type=list[str | int]) for key, hold in fields.items()}

    async def _call(self, function: str, event_id: UUID, *arguments: str | bytes) -> list[str]:
        keys = _keys(event_id)
        answer: list[str] = await self._ask("FCALL", function, len(keys), *keys, *arguments)
        if answer[0] == "stale":
            raise GateStale
        return answer[1:]

    async def _ask(self, *command: str | bytes | int) -> Any:
        wire = self.wire
        if wire is None or self.is_away:
            raise GateAway
        try:
            try:
                return await wire.call(*command)
            except ReplyError as error:
                # A server that was restarted has lost its functions along with everything else.
                if "Function not found" not in str(error):
                    raise
                await self._load_functions(wire)
                return await wire.call(*command)
        except _FAILED as error:
            self._trip()
            raise GateAway from error

    async def _load_functions(self, wire: Wire) -> None:
        await wire.call("FUNCTION", "LOAD", "REPLACE", _LIBRARY)

    def _trip(self) -> None:
        self._closed_until = monotonic_seconds() + self._retry_seconds


@lru_cache(maxsize=1024)
def _keys(event_id: UUID) -> tuple[str, str, str, str, str]:
    tag = "{" + event_id.hex + "}"
    return f"{tag}:gate", f"{tag}:users", f"{tag}:holds", f"{tag}:leases", f"{tag}:tombstones"


def _pairs(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
