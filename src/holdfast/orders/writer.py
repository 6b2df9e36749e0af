"""The connection on which a batch is committed.

Nothing cancels a query here: a COMMIT that is cancelled while it waits for a standby leaves a local-only order, and
asyncpg sends a cancel whenever the awaiting task is cancelled or times out. So there is no time-out on it, and the
batch that awaits it is a task nobody cancels. When the connection is lost the outcome is unknown; running the same
idempotent statement again finds it out.

What ends a wait for a host that is gone or frozen is the connection's own end: by the kernel, when nothing is
acknowledged any more, or by the watch, when another host has become the primary (engines/hosts/watch.py says why that
is safe). Nothing is sent to the old one then, a cancel least of all.
"""

import asyncio
from typing import Any

import asyncpg
import structlog

from holdfast.clock import monotonic_seconds
from holdfast.engines.database import AWAY, BY_KEY
from holdfast.engines.hosts.connection import HostConnection
from holdfast.engines.hosts.primary import Primary, primary_of
from holdfast.errors import Busy
from holdfast.settings import Settings

# Rolled back for no fault of the batch's own: it may simply run again.
_ROLLED_BACK = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.QueryCanceledError)
_BACKOFF_SECONDS = 0.05

_log = structlog.get_logger(__name__)


class Writer:
    """Runs one idempotent statement at a time, again and again until its outcome is known."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._primary: Primary | None = None
        self._seconds_max = settings.journal_seconds_max
        self._connection: HostConnection | None = None
        self._commit_in_doubt = False

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """The rows of a committed statement. Raises Busy when the database stays away; the outcome is then unknown."""
        deadline = monotonic_seconds() + self._seconds_max
        while True:
            try:
                connection = await self._connected()
                self._commit_in_doubt = False
                rows = await connection.fetch(statement, *arguments)
                if not self._commit_in_doubt:
                    return rows
                _log.warning("commit was not confirmed by a standby: running it again")
            except (*AWAY, *_ROLLED_BACK) as error:
                _log.warning("batch runs again", error=type(error).__name__)
                if not isinstance(error, _ROLLED_BACK):
                    await self._drop(error)
            if monotonic_seconds() >= deadline:
                raise Busy("The database is away: try again with the same key.", retry_after_seconds=2)
            await asyncio.sleep(_BACKOFF_SECONDS)

    async def close(self) -> None:
        """Lets the connection go."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        if self._primary is not None:
            self._primary.rest()

    async def _drop(self, error: Exception) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._primary is not None:
            connection.terminate()
            await self._primary.failed(connection, error)

    async def _connected(self) -> HostConnection:
        if self._connection is None or self._connection.is_closed():
            # Not before the event loop runs that this writer belongs to.
            self._primary = primary_of(self._settings)
            connection = await self._primary.connect({"application_name": "holdfast journal", **BY_KEY})
            connection.add_log_listener(self._heard)
            self._connection = connection
        return self._connection

    def _heard(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        # PostgreSQL reports success with only a warning when a wait for synchronous replication was cancelled.
        if message.sqlstate == "01000" and "synchronous replication" in str(message):
            self._commit_in_doubt = True
