"""Which host is the primary, found out by asking all of them, each for itself, about once a second.

No connection tells that another host was made the primary while its own is frozen: the frozen one's kernel keeps it
alive, and a batch that is on it has no time-out, since a commit is never cancelled. So the hosts are asked. One that
says that it is the primary of a later timeline is believed, and from then on nobody uses an older one: not the
connections that there are, which end at once, nor ever again one that wakes up and still takes itself for the primary.

That is safe. An acknowledgement from the old primary means that a standby has the commit too, and only a standby that
has every acknowledged commit is promoted. A batch that was cut off without one is run again on the new primary, where
it finds its orders if they had come along, and makes them if not. What the old one has beyond that was never
acknowledged, and is thrown away when it comes back as a replica.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import asyncpg
import structlog

from holdfast.clock import monotonic_seconds
from holdfast.engines.hosts.address import Host
from holdfast.engines.hosts.connection import AWAY, connect
from holdfast.engines.statements import load_statements

SQL = load_statements("holdfast.engines.hosts", "hosts.sql")

LOOK_SECONDS = 1.0
SEEK_SECONDS = 0.1
"""The pace while no primary answers."""
ANSWER_SECONDS_MAX = 5.0
"""Patient, since a machine that is overloaded is slow and not dead: the other hosts are asked meanwhile anyway."""
_FLOOR_SECONDS = 2.0

_log = structlog.get_logger(__name__)


class Sight(NamedTuple):
    """What a host said of itself. `position` is where its log ends, or how far it has replayed it, in bytes."""

    is_primary: bool
    timeline: int
    position: int


class NoPrimary(ConnectionError):
    """None of the hosts is the primary at this moment."""


class Watch:
    """Looks at the hosts of one URL for as long as it is wanted. `on_move` is called when there is another primary."""

    def __init__(self, url: str, hosts: list[Host | None], on_move: Callable[[], None]) -> None:
        self._url = url
        self._hosts = hosts
        self._on_move = on_move
        self._tasks: list[asyncio.Task[None]] = []
        self._known = asyncio.Event()
        self._poked = asyncio.Event()
        self._answered_at = 0.0
        self._silent: set[Host | None] = set()
        self._former: set[Host | None] = set()
        self.is_new = True
        """It has not seen a primary since it began to look."""
        self._lost_at = 0.0
        self._positions: deque[tuple[float, int]] = deque(maxlen=8)
        self.primary: Host | None = None
        self.timeline = 0
        self.generation = 0
        """Counts the primaries that there were; a connection of an earlier one is of no use."""

    def start(self) -> None:
        """Looks, unless it does so already."""
        if not self._tasks:
            self._lost_at = monotonic_seconds()
            self.is_new = True
            self._tasks = [asyncio.create_task(self._look_at(host), name=f"watch {host}") for host in self._hosts]

    def stop(self) -> None:
        """Looks no more. What it knows of the timeline stays known."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._known.clear()

    def poke(self) -> None:
        """Something went wrong with a connection: all hosts are asked now."""
        self._poked.set()
        self._poked.clear()

    @property
    def floor(self) -> int:
        """Where the primary's log ended some two seconds ago: a replica that has not come so far lags."""
        before = monotonic_seconds() - _FLOOR_SECONDS
        return max((position for at, position in self._positions if at <= before), default=0)

    async def find(self, patience_seconds: float) -> Host | None:
        """The primary, waiting for it until it has been away for so long. Raises NoPrimary."""
        self.start()
        if not self._known.is_set():
            try:
                async with asyncio.timeout_at(self._loop_time(self._lost_at + patience_seconds)):
                    await self._known.wait()
            except TimeoutError:
                raise NoPrimary(f"none of {', '.join(map(str, self._hosts))} is the primary") from None
        return self.primary

    async def _look_at(self, host: Host | None) -> None:
        while True:
            try:
                await self._follow(host)
            except (*AWAY, asyncpg.PostgresError) as error:
                if host not in self._silent:
                    self._silent.add(host)
                    _log.warning("host does not answer", host=str(host), error=type(error).__name__)
            await self._pause()

    async def _follow(self, host: Host | None) -> None:
        connection = await connect(
            self._url,
            host,
            timeout=ANSWER_SECONDS_MAX,
            command_timeout=ANSWER_SECONDS_MAX,
            server_settings={"application_name": "holdfast watch"},
            wanted="any",
        )
        try:
            while True:
                row = await connection.fetchrow(SQL["sight"])
                assert row is not None
                if host in self._silent:
                    self._silent.remove(host)
                    _log.info("host answers again", host=str(host))
                self._saw(host, Sight(row["is_primary"], row["timeline"], row["position"]))
                await self._pause()
        finally:
            connection.terminate()

    async def _pause(self) -> None:
        is_quiet = self._known.is_set() and monotonic_seconds() - self._answered_at < 1.5 * LOOK_SECONDS
        try:
            async with asyncio.timeout(LOOK_SECONDS if is_quiet else SEEK_SECONDS):
                await self._poked.wait()
        except TimeoutError:
            return

    def _saw(self, host: Host | None, sight: Sight) -> None:
        is_the_one = self._known.is_set() and host == self.primary
        if not sight.is_primary:
            self._former.discard(host)
            if is_the_one:
                _log.warning("the primary was made a replica", host=str(host))
                self._lose()
                self._turn()
            return
        if sight.timeline > self.timeline or (sight.timeline == self.timeline and not self._known.is_set()):
            _log.info("primary", host=str(host), timeline=sight.timeline)
            has_moved = (host, sight.timeline) != (self.primary, self.timeline)
            self.primary, self.timeline = host, sight.timeline
            self._known.set()
            self.is_new = False
            if has_moved:
                # What the old one had beyond this was never acknowledged, and no replica will ever come so far.
                self._positions = deque(((at, min(one, sight.position)) for at, one in self._positions), maxlen=8)
                self._turn()
        elif not is_the_one:
            # Frozen or cut off while another took its place: it will be told, or comes back as a replica.
            if host not in self._former:
                self._former.add(host)
                _log.warning("a former primary takes itself for the primary", host=str(host), timeline=sight.timeline)
            return
        self._answered_at = monotonic_seconds()
        self._positions.append((self._answered_at, sight.position))

    def _lose(self) -> None:
        self._known.clear()
        self._lost_at = monotonic_seconds()

    def _turn(self) -> None:
        self.generation += 1
        self._on_move()

    @staticmethod
    def _loop_time(monotonic: float) -> float:
        return asyncio.get_running_loop().time() + monotonic - monotonic_seconds()
