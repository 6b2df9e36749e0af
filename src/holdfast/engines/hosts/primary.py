"""Connections to the primary, wherever it is: all of a process's end when it has moved, and new ones go to the new one.

With one host and no replica this adds nothing to a connection. Otherwise a watch runs for as long as this process has
a connection to the primary, or wants one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import asyncpg

from holdfast.clock import monotonic_seconds
from holdfast.engines.hosts.address import hosts_of
from holdfast.engines.hosts.connection import AWAY, HostConnection, connect
from holdfast.engines.hosts.watch import Watch
from holdfast.settings import Settings

if TYPE_CHECKING:
    _Pool = asyncpg.Pool[asyncpg.Record]
    _PoolAcquireContext = asyncpg.pool.PoolAcquireContext[asyncpg.Record]
else:
    _Pool = asyncpg.Pool
    _PoolAcquireContext = asyncpg.pool.PoolAcquireContext

PATIENCE_SECONDS = 1.0
"""How long a primary may be away before those who want a connection are turned away at once."""
_RELEASE_SECONDS = 1.0
_QUERIES_MAX = 50_000
_IDLE_SECONDS_MAX = 120.0


class Primary:
    """The way to the primary of one database. One per process: everyone learns of a move at once."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.database_url.get_secret_value()
        self._timeout_seconds = settings.database_timeout_seconds
        self._connections: WeakSet[HostConnection] = WeakSet()
        self._pools: WeakSet[PrimaryPool] = WeakSet()
        self._connecting: dict[asyncio.Task[HostConnection], int] = {}
        hosts = hosts_of(self._url)
        is_watched = len(hosts) > 1 or bool(settings.replica_database_url.get_secret_value())
        self.watch = Watch(self._url, list(hosts) or [None], self._end_former) if is_watched else None

    async def connect(
        self, server_settings: Mapping[str, str], *, command_timeout: float | None = None
    ) -> HostConnection:
        """A connection to the primary. Raises one of AWAY."""
        if self.watch is None:
            return self._keep(await self._open(None, server_settings, command_timeout), 0)
        while True:
            # At the start nothing is known yet, and a host may be slow to let the first one in.
            host = await self.watch.find(self._timeout_seconds if self.watch.is_new else PATIENCE_SECONDS)
            generation = self.watch.generation
            opening = asyncio.create_task(self._open(host, server_settings, command_timeout))
            self._connecting[opening] = generation
            try:
                await asyncio.wait([opening])
            finally:
                del self._connecting[opening]
                opening.cancel()
            # A host that was frozen may take long to let anyone in; whoever waits for it is sent on when it is another.
            if opening.cancelled():
                continue
            if opening.exception() is not None:
                self.watch.poke()
            connection = self._keep(opening.result(), generation)
            if generation == self.watch.generation:
                return connection
            connection.terminate()

    def join(self, pool: "PrimaryPool") -> None:
        """Idle connections of this pool are dropped when one has failed."""
        self._pools.add(pool)

    def rest(self) -> None:
        """Ends the watch where nobody has a connection any more; the next one who wants one begins it again."""
        if self.watch is not None and not self._connecting and all(one.is_closed() for one in self._connections):
            self.watch.stop()

    async def failed(self, connection: HostConnection, error: BaseException) -> None:
        """A use of this connection ended with one of AWAY: those beside it are not trusted either."""
        if self.watch is not None:
            self.watch.poke()
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            # The server itself says that it is none: nothing that is connected to it may go on.
            for one in list(self._connections):
                if one.opened_at <= connection.opened_at:
                    one.terminate()
            connection.terminate()
        for pool in list(self._pools):
            await pool.expire_before(connection.opened_at)

    def _keep(self, connection: HostConnection, generation: int) -> HostConnection:
        connection.generation = generation
        connection.opened_at = monotonic_seconds()
        self._connections.add(connection)
        return connection

    async def _open(
        self, host: Any, server_settings: Mapping[str, str], command_timeout: float | None
    ) -> HostConnection:
        return await connect(
            self._url,
            host,
            timeout=self._timeout_seconds,
            command_timeout=command_timeout,
            server_settings=server_settings,
        )

    def _end_former(self) -> None:
        """There is another primary, or none: whatever still goes to the former one ends here and now."""
        assert self.watch is not None
        for opening, generation in list(self._connecting.items()):
            if generation != self.watch.generation:
                opening.cancel()
        for connection in list(self._connections):
            if connection.generation != self.watch.generation:
                connection.terminate()


_primaries: "WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[tuple[str, str], Primary]]" = (
    WeakKeyDictionary()
)


def primary_of(settings: Settings) -> Primary:
    """The one Primary of these URLs in the running event loop."""
    known = _primaries.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
    urls = (settings.database_url.get_secret_value(), settings.replica_database_url.get_secret_value())
    primary = known.get(urls)
    if primary is None:
        primary = known[urls] = Primary(settings)
    return primary


class PrimaryPool(_Pool):
    """A pool whose connections go to the primary, and which learns from each one's failure."""

    def __init__(
        self,
        settings: Settings,
        server_settings: Mapping[str, str],
        reset: Callable[[object], Awaitable[None]] | None = None,
    ) -> None:
        self.primary = primary_of(settings)
        self._expired_at = 0.0
        # A frozen host keeps every connection for its time-out; those who wait behind it must not wait for ever.
        is_watched = self.primary.watch is not None
        self._patience = settings.database_timeout_seconds + PATIENCE_SECONDS if is_watched else None

        async def connect_to_it(*_: object, **__: object) -> HostConnection:
            return await self.primary.connect(server_settings, command_timeout=settings.database_timeout_seconds)

        super().__init__(
            min_size=0,
            max_size=settings.database_connections_max,
            max_queries=_QUERIES_MAX,
            max_inactive_connection_lifetime=_IDLE_SECONDS_MAX,
            connect=connect_to_it,
            reset=reset,
            loop=None,
            connection_class=HostConnection,
            record_class=asyncpg.Record,
        )
        self.primary.join(self)

    def acquire(self, *, timeout: float | None = None) -> "_Borrowed":  # asyncpg's own
        """A connection for a while."""
        return _Borrowed(self, self._patience if timeout is None else timeout)

    async def close(self) -> None:
        """Waits for those who have a connection, then closes all."""
        await super().close()
        self.primary.rest()

    def terminate(self) -> None:
        """Closes all at once."""
        super().terminate()
        self.primary.rest()

    async def expire_before(self, moment: float) -> None:
        """Connections that are idle now are not used again, unless that was seen to after `moment` already."""
        if self._expired_at <= moment:
            self._expired_at = monotonic_seconds()
            await self.expire_connections()


class _Borrowed(_PoolAcquireContext):
    """A pooled connection for the length of a block."""

    __slots__ = ("_used",)
    pool: PrimaryPool
    _used: HostConnection

    async def __aenter__(self) -> "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]":
        proxy = await super().__aenter__()
        self._used = proxy._con  # type: ignore[attr-defined]
        return proxy

    async def __aexit__(self, *exc: object) -> None:
        error = exc[1] if exc else None
        if error is None:
            await super().__aexit__()
            return
        if isinstance(error, AWAY):
            await self.pool.primary.failed(self._used, error)
        connection, self.connection, self.done = self.connection, None, True
        assert connection is not None
        try:
            # A query that was cut short is being cancelled; a server that is frozen never says so.
            await self.pool.release(connection, timeout=_RELEASE_SECONDS)
        except AWAY:
            # The connection is gone. What went wrong before is what its user hears of.
            return
