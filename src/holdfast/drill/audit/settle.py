"""Looks at everything until it has come to rest and agrees, or its time is over."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from holdfast import clock
from holdfast.drill.audit.database import AWAY, DatabaseFound, look
from holdfast.drill.audit.gate import GateAwayError, GateFound, GateReader
from holdfast.drill.audit.judge import Facts, Verdict, judge
from holdfast.drill.audit.topics import Change, Offsets, TopicAwayError, TopicReader
from holdfast.drill.buyers.record import Purchase
from holdfast.errors import Mendable
from holdfast.settings import Settings

_LOOK_SECONDS = 0.5
_BEGIN_SECONDS_MAX = 30.0
_TOPIC = "holdfast.orders"


class Auditor:
    """Looks at some events by itself, at the addresses that the servers have too. There is no rest before every hold of
    the `waning` ones has ended."""

    def __init__(
        self, settings: Settings, events: Sequence[UUID], waning: Sequence[UUID], *, has_statistics: bool
    ) -> None:
        self._database_url = settings.database_url.get_secret_value()
        self._gate = GateReader(settings.gate_url.get_secret_value())
        kafka_url = settings.kafka_url.get_secret_value()
        self._topic = TopicReader(kafka_url, _TOPIC) if kafka_url else None
        self._has_statistics = has_statistics
        self._events = events
        self._waning = frozenset(waning)
        self._since: Offsets = {}
        self._changes: list[Change] = []

    async def begin(self) -> None:
        """Takes note of where the topic ends before the first purchase. Raises Mendable where it cannot be read."""
        deadline = clock.monotonic_seconds() + _BEGIN_SECONDS_MAX
        while self._topic is not None:
            try:
                self._since = await self._topic.ends()
                return
            except TopicAwayError as error:
                # A relay that has just been started makes the topics first.
                if clock.monotonic_seconds() >= deadline:
                    raise Mendable(f"The topic {_TOPIC} cannot be read ({error}): is a relay running?") from error
            await asyncio.sleep(_LOOK_SECONDS)

    async def until_sound(self, purchases: Sequence[Purchase], seconds_max: float) -> "Settled":
        """The first verdict that finds nothing, or the last one before the time is over.

        Raises Mendable where PostgreSQL cannot be audited in that time.
        """
        began = clock.monotonic_seconds()
        reason = waited_for = ""
        while True:
            verdict = None
            try:
                facts = await self._look()
                verdict = judge(facts, purchases)
                is_over = verdict.is_sound and not self._is_under_way(facts.database)
            except AWAY as error:
                is_over, reason = False, f"{type(error).__name__}: {error}"
            seconds = clock.monotonic_seconds() - began
            if verdict is not None and (is_over or seconds >= seconds_max):
                return Settled(verdict, seconds, waited_for)
            if seconds >= seconds_max:
                raise Mendable(f"The database cannot be audited ({reason}).")
            if verdict is not None:
                waited_for = verdict.findings[0] if verdict.findings else "holds that are to run out"
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_under_way(self, database: DatabaseFound) -> bool:
        """Whether a hold is still to end by itself: that is no damage, but not at rest either."""
        return any(order.status == "reserved" and order.event_id in self._waning for order in database.orders.values())

    async def _look(self) -> Facts:
        # PostgreSQL first: what it has not said yet cannot be elsewhere. What has moved since is under way, and is
        # looked at again.
        database = await look(self._database_url, self._events, has_statistics=self._has_statistics)
        away: list[str] = []
        gates: dict[UUID, GateFound | None] | None = None
        changes: list[Change] | None = None
        if not self._gate.is_absent:
            try:
                gates = await self._gate.found(self._events)
            except GateAwayError as error:
                away.append(f"the gate ({error})")
        if self._topic is not None and not database.unread:
            try:
                new, self._since = await self._topic.changes(self._since)
                self._changes += new
                changes = self._changes
            except TopicAwayError as error:
                away.append(f"Kafka ({error})")
        return Facts(self._events, database, gates, changes, tuple(away))


class Settled(NamedTuple):
    """A verdict, and how long everything took to come to it."""

    verdict: Verdict
    seconds: float
    waited_for: str
    """What was there last that was not at rest; empty where it was so at the first look."""
