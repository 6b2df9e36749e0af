"""Reads from replicas. A replica that is dead, frozen or far behind is left alone until it is well again.

What a connection's server has replayed is asked on that very connection, since behind one address there may be several
servers.
"""

import asyncio
import itertools
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from holdfast.clock import monotonic_seconds
from holdfast.engines.hosts.address import Host, hosts_of
from holdfast.engines.hosts.connection import AWAY, HostConnection, connect
from holdfast.engines.hosts.watch import SQL, Watch
from holdfast.settings import Settings

if TYPE_CHECKING:
    _Pool = asyncpg.Pool[asyncpg.Record]
else:
    _Pool = asyncpg.Pool

ANSWER_SECONDS_MAX = 1.0
"""A replica that takes longer is left alone for a while, and the primary asked instead."""
_LOOK_SECONDS = 0.5
_WAIT_SECONDS = (0.001, 0.002, 0.004, 0.008)
_QUERIES_MAX = 50_000
_IDLE_SECONDS_MAX = 120.0

_log = structlog.get_logger(__name__)


class Behind(Exception):
    """The replica has not come so far yet."""


class ReplicaConnection(HostConnection):
    """A connection to a replica, and what is known of how far its server has come."""

    replayed = 0


class Replicas:
    """The replicas of one URL, which take turns."""

    def __init__(self, settings: Settings, server_settings: Mapping[str, str], watch: Watch) -> None:
        url = settings.replica_database_url.get_secret_value()
        hosts: list[Host | None] = list(hosts_of(url)) or [None]
        self._all = [_Replica(url, host, settings, server_settings, watch) for host in hosts]
        self._wait_seconds = settings.replica_wait_seconds
        self._watch = watch
        self._turns = itertools.count(random.randrange(len(hosts)))  # noqa: S311  # not everyone begins with the same

    @property
    def is_any_well(self) -> bool:
        """Whether there is one that can be asked."""
        return any(one.is_well for one in self._all)

    async def open(self) -> None:
        """Begins to look after them. None is asked before it was found to be well."""
        self._watch.start()
        for one in self._all:
            await one.open()

    async def close(self) -> None:
        """Lets them go."""
        for one in self._all:
            await one.close()

    async def fetch(self, position: int, statement: str, arguments: tuple[object, ...]) -> list[asyncpg.Record] | None:
        """The rows from a replica that has come as far as this position, waiting shortly for it; None where none has,
        and where none could answer: the primary is to be asked then."""
        deadline = monotonic_seconds() + self._wait_seconds
        turn = next(self._turns)
        for offset in range(len(self._all)):
            replica = self._all[(turn + offset) % len(self._all)]
            if not replica.is_well:
                continue
            try:
                return await replica.fetch(position, deadline, statement, arguments)
            except Behind:
                # Waiting for a second one as well would take its reader twice as long.
                return None
            except (*AWAY, asyncpg.PostgresError) as error:
                replica.leave_alone(error)
        return None


class _Replica:
    """One address of replicas."""

    def __init__(
        self, url: str, host: Host | None, settings: Settings, server_settings: Mapping[str, str], watch: Watch
    ) -> None:
        self._url = url
        self._host = host
        self._connections_max = settings.database_connections_max
        self._connect_seconds = settings.database_timeout_seconds
        self._server_settings = server_settings
        self._watch = watch
        self._pool: _Pool | None = None
        self._looking: asyncio.Task[None] | None = None
        self.is_well = False

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(
            min_size=0,
            max_size=self._connections_max,
            max_queries=_QUERIES_MAX,
            max_inactive_connection_lifetime=_IDLE_SECONDS_MAX,
            connect=self._connect,
            reset=_leave_as_it_is,
            connection_class=ReplicaConnection,
            record_class=asyncpg.Record,
        )
        self._look_until_well()

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        if self._pool is not None:
            self._pool.terminate()

    def leave_alone(self, error: Exception) -> None:
        """It failed a reader: nobody else is to suffer from it."""
        if self.is_well:
            _log.warning("replica is left alone", host=str(self._host), error=type(error).__name__)
            self.is_well = False
            self._look_until_well()

    async def fetch(
        self, position: int, deadline: float, statement: str, arguments: tuple[object, ...]
    ) -> list[asyncpg.Record]:
        """The rows. Raises Behind, one of AWAY, or whatever else PostgreSQL says."""
        assert self._pool is not None
        for pause in itertools.chain(_WAIT_SECONDS, itertools.repeat(_WAIT_SECONDS[-1])):
            connection: Any
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                connection = await self._pool.acquire()
            try:
                async with asyncio.timeout(ANSWER_SECONDS_MAX):
                    if await self._has_come(connection, position):
                        return list(await connection.fetch(statement, *arguments))
            except BaseException:
                # Not given back: a frozen server would never confirm that the query was cancelled.
                connection.terminate()
                raise
            finally:
                await self._pool.release(connection)
            if monotonic_seconds() + pause >= deadline:
                raise Behind
            await asyncio.sleep(pause)
        raise AssertionError

    async def _has_come(self, proxy: Any, position: int) -> bool:
        connection: ReplicaConnection = proxy._con
        floor = self._watch.floor
        if connection.replayed < max(position, floor):
            replayed = await connection.fetchval(SQL["replayed"])
            if replayed is None:
                # Promoted. Should it be a former primary by now, nobody must hear of what it alone believes.
                raise ConnectionError("this is no replica any more")
            connection.replayed = replayed
            if replayed < floor:
                raise ConnectionError("the replica lags")
        return connection.replayed >= position

    async def _connect(self, *_: object, **__: object) -> HostConnection:
        return await connect(
            self._url,
            self._host,
            timeout=self._connect_seconds,
            server_settings=self._server_settings,
            wanted="any",
            connection_class=ReplicaConnection,
        )

    def _look_until_well(self) -> None:
        self._looking = asyncio.create_task(self._look(), name=f"look after {self._host}")

    async def _look(self) -> None:
        """Asks until it answers, is a replica, and does not lag; then it may be read from."""
        while not self.is_well:
            try:
                connection = await self._connect()
                try:
                    async with asyncio.timeout(ANSWER_SECONDS_MAX):
                        replayed = await connection.fetchval(SQL["replayed"])
                    self.is_well = replayed is not None and replayed >= self._watch.floor
                finally:
                    connection.terminate()
            except (*AWAY, asyncpg.PostgresError):
                self.is_well = False
            if not self.is_well:
                await asyncio.sleep(_LOOK_SECONDS)
        _log.info("replica is read from", host=str(self._host))


async def _leave_as_it_is(_: object) -> None:
    return
