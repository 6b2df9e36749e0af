"""Positions in PostgreSQL's log: what a reader has to see, and how far a server has come.

Inside they are bytes since the beginning of the log, outside they are PostgreSQL's own texts, such as 16/B374D848.
"""

import asyncio
import re

import asyncpg

from holdfast.engines.hosts.primary import PrimaryPool
from holdfast.engines.hosts.watch import SQL

ANYTHING = 0
"""For a reader who may see what was true a moment ago."""
LATEST = -1
"""For a reader who has to see whatever was acknowledged before they asked."""

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", re.ASCII)


def parse_position(text: str) -> int:
    """The position of a text. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a log position")
    return (int(match[1], 16) << 32) + int(match[2], 16)


def show_position(position: int) -> str:
    """The text of a position."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


class LogPosition:
    """How far the primary's log reaches, asked once for all who want to know at the same time.

    One question is under way and the next one waits for it, so that nobody gets an answer to a question that was put
    before they came. Whatever was acknowledged to anybody by then lies before it: an acknowledged commit is on the
    primary's disk.
    """

    def __init__(self, pool: PrimaryPool, seconds_max: float) -> None:
        self._pool = pool
        self._seconds_max = seconds_max
        self._under_way: asyncio.Task[int] | None = None
        self._next: asyncio.Task[int] | None = None

    async def now(self) -> int:
        """The position. Raises one of AWAY."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask_after(self._under_way), name="log position")
            # What goes wrong is told to those who wait; whoever came and left does not mind.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._next)

    async def _ask_after(self, before: "asyncio.Task[int] | None") -> int:
        if before is not None:
            await asyncio.wait([before])
        self._under_way, self._next = self._next, None
        try:
            async with asyncio.timeout(self._seconds_max):
                found: int = await self._pool.fetchval(SQL["position"])
        except asyncpg.ObjectNotInPrerequisiteStateError as error:
            raise ConnectionError("this host is not the primary any more") from error
        finally:
            if self._under_way is asyncio.current_task():
                self._under_way = None
        return found
