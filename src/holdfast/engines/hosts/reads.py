"""Single statements that read: from a replica that has come far enough, else from the primary.

Nothing is decided by what is read here. What a user has to see of their own is bounded by a position in the log:

    ANYTHING        what everyone may see, at most some two seconds old
    LATEST          the primary is asked where its log ends, once for all who ask at that moment; a replica that has
                    replayed that far shows whatever was acknowledged to anybody before
    a position      a reply to a write said where the log ended then, and its client brings that along
"""

import asyncio

import asyncpg

from holdfast.engines.hosts.connection import AWAY
from holdfast.engines.hosts.position import ANYTHING, LATEST, LogPosition, show_position
from holdfast.engines.hosts.replicas import Replicas
from holdfast.errors import Busy

_MARK_SECONDS_MAX = 0.5
"""The write is done: its answer does not wait long for something that is only a help."""


class Reads:
    """Reads of one process. Without replicas they all go to the pool."""

    def __init__(
        self,
        pool: "asyncpg.Pool[asyncpg.Record]",
        replicas: Replicas | None = None,
        log_position: LogPosition | None = None,
    ) -> None:
        self.pool = pool
        self._replicas = replicas
        self._log_position = log_position

    async def fetch(self, statement: str, *arguments: object, since: int = ANYTHING) -> list[asyncpg.Record]:
        """The rows, of a moment not before `since`. Raises Busy where no database answers."""
        try:
            if self._replicas is not None and self._replicas.is_any_well:
                if since == LATEST:
                    assert self._log_position is not None
                    since = await self._log_position.now()
                rows = await self._replicas.fetch(since, statement, arguments)
                if rows is not None:
                    return rows
            return await self.pool.fetch(statement, *arguments)
        except AWAY as error:
            raise Busy("The database did not answer in time.") from error

    async def position(self) -> str | None:
        """Where the log ends now, for the reply to a write that was just committed; None where nobody needs to know,
        and where it cannot be told: a reader who brings nothing along sees their own writes all the same."""
        if self._log_position is None:
            return None
        try:
            async with asyncio.timeout(_MARK_SECONDS_MAX):
                return show_position(await self._log_position.now())
        except AWAY:
            return None

    @property
    def has_replicas(self) -> bool:
        """Whether any were given, in whatever state they are."""
        return self._replicas is not None

    async def close(self) -> None:
        """Lets the connections go."""
        if self._replicas is not None:
            await self._replicas.close()
        await self.pool.close()
