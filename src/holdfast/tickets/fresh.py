"""Snapshots of PostgreSQL that every request may share while they are fresh."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar
from uuid import UUID

from holdfast.clock import monotonic_seconds
from holdfast.engines.database import AWAY
from holdfast.errors import Busy

Snapshot = TypeVar("Snapshot")


class Fresh(Generic[Snapshot]):
    """At most one look-up per event at a time, and none while the last one is younger than `seconds`.

    None, for an event that is unknown, is remembered too. At most `events_max` are kept.
    """

    def __init__(
        self, load: Callable[[UUID], Awaitable[Snapshot | None]], *, seconds: float, events_max: int = 10_000
    ) -> None:
        self._load = load
        self._seconds = seconds
        self._events_max = events_max
        self._kept: OrderedDict[UUID, tuple[float, Snapshot | None]] = OrderedDict()
        self._loading: dict[UUID, asyncio.Task[Snapshot | None]] = {}

    def peek(self, event_id: UUID) -> tuple[bool, Snapshot | None]:
        """(True, snapshot) when there is a fresh one, without waiting."""
        kept = self._kept.get(event_id)
        if kept is None:
            return False, None
        left = kept[0] - monotonic_seconds()
        if left <= 0:
            return False, None
        if left < self._seconds / 2 and event_id not in self._loading:
            # Renewed before its time is over, so that nobody has to wait for it.
            self._renew(event_id)
        return True, kept[1]

    async def get(self, event_id: UUID) -> Snapshot | None:
        """A fresh snapshot. Raises Busy when PostgreSQL does not answer."""
        fresh, snapshot = self.peek(event_id)
        if fresh:
            return snapshot
        task = self._loading.get(event_id) or self._renew(event_id)
        return await asyncio.shield(task)

    def last(self, event_id: UUID) -> Snapshot | None:
        """The last snapshot, fresh or not; None where nobody has asked of late."""
        kept = self._kept.get(event_id)
        return kept[1] if kept is not None else None

    def put(self, event_id: UUID, snapshot: Snapshot) -> None:
        """Keeps a snapshot that came by itself. One that is being read counts as older."""
        self._loading.pop(event_id, None)
        self._kept[event_id] = (monotonic_seconds() + self._seconds, snapshot)

    async def get_each(self, event_ids: Iterable[UUID]) -> None:
        """Has a fresh snapshot of each at hand. Raises Busy."""
        for event_id in event_ids:
            await self.get(event_id)

    def drop(self, event_id: UUID) -> None:
        """Forgets a snapshot that is known to be out of date, and one that is being read."""
        self._kept.pop(event_id, None)
        self._loading.pop(event_id, None)

    def _renew(self, event_id: UUID) -> "asyncio.Task[Snapshot | None]":
        task = self._loading[event_id] = asyncio.create_task(self._refresh(event_id))
        # What goes wrong is told to those who wait for it; when nobody does, the next one finds out.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _refresh(self, event_id: UUID) -> Snapshot | None:
        began = monotonic_seconds()
        this = asyncio.current_task()
        try:
            snapshot = await self._load(event_id)
        except AWAY as error:
            raise Busy("The database did not answer in time.") from error
        finally:
            is_current = self._loading.get(event_id) is this
            if is_current:
                del self._loading[event_id]
        kept = self._kept.get(event_id)
        if kept is not None and kept[1] == snapshot:
            # The same object again: what others have worked out of it stays good.
            snapshot = kept[1]
        if is_current:
            self._kept[event_id] = (began + self._seconds, snapshot)
            self._kept.move_to_end(event_id)
            if len(self._kept) > self._events_max:
                self._kept.popitem(last=False)
        return snapshot
