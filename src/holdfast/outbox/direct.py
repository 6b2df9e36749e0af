"""Reads the outbox directly: each consumer with its own recorded progress, one owner at a time.

Sequence order is not commit order, so a consumer never asks for `id > last seen`: it reads by (transaction, id), and
only transactions below the snapshot's xmin, among which no row can appear any more.
"""

import asyncio
from collections.abc import Collection, Sequence

import structlog

from holdfast.engines.database import AWAY, Connection, Pool, load_statements
from holdfast.errors import Busy
from holdfast.outbox.consume import ROWS_MAX, TRIES_MAX, AnyConsumer, OutboxRow, Overtaken, deliver, wait
from holdfast.outbox.dead_letters import bury

SQL = load_statements("holdfast.outbox", "outbox.sql")

PRUNE_MAX = 5000
_OWNER_RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)

Position = tuple[str, int]


async def consume(
    pool: Pool, consumer: AnyConsumer, stop: asyncio.Event, poll_seconds: float, tries_max: int = TRIES_MAX
) -> None:
    """Runs one consumer until `stop`. Two that run at once take turns: one owns the progress, the other waits."""
    while not stop.is_set():
        try:
            async with pool.acquire() as connection:
                if await connection.fetchval(SQL["lock"], consumer.name):
                    try:
                        await _consume_as_owner(connection, consumer, stop, poll_seconds, tries_max)  # type: ignore[arg-type]
                    finally:
                        # Ends the session's advisory lock, also when the loop broke off in the middle.
                        if not connection.is_closed():
                            await connection.execute("SELECT pg_advisory_unlock_all()")
        except (*AWAY, Busy, Overtaken) as error:
            _log.warning("consumer waits", consumer=consumer.name, error=type(error).__name__)
        await wait(stop, _OWNER_RETRY_SECONDS)


async def step_alone(pool: Pool, consumer: AnyConsumer, tries_max: int = TRIES_MAX) -> int:
    """One step of a consumer, unless another process is at it: how many rows were looked at."""
    async with pool.acquire() as connection:
        if not await connection.fetchval(SQL["lock"], consumer.name):
            return 0
        try:
            position = await progress_of(connection, consumer.name)  # type: ignore[arg-type]
            return (await step(connection, consumer, position, tries_max))[0]  # type: ignore[arg-type]
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock_all()")


async def prune(pool: Pool, stop: asyncio.Event, poll_seconds: float) -> None:
    """Deletes what every reader has passed, until `stop`."""
    position = ("0", 0)
    while not stop.is_set():
        deleted = 0
        try:
            row = await pool.fetchrow(SQL["prune"], *position, PRUNE_MAX)
            assert row is not None
            position, deleted = (row["xid"], row["id"]), row["deleted"]
        except AWAY as error:
            _log.warning("outbox not pruned", error=type(error).__name__)
        if deleted < PRUNE_MAX:
            await wait(stop, max(poll_seconds, 0.2))


async def settle_readers(pool: Pool, readers: Collection[str], log_readers: Collection[str] = ()) -> None:
    """Makes `readers` those who read the outbox, and whom pruning waits for; `log_readers` read a log instead.

    Whoever is new begins where the first of those is who leave. A consumer that changes from the outbox to a log knows
    what it has read already. For the way back the outbox and the log have to be read to their ends first.
    """
    async with pool.acquire() as connection, connection.transaction():
        known = {row["name"] for row in await connection.fetch(SQL["readers"])}
        entering, leaving = sorted(set(readers) - known), sorted(known - set(readers))
        if leaving:
            turning = sorted(set(leaving) & set(log_readers))
            await connection.execute(SQL["remember_origins"], turning)
            await connection.execute(SQL["begin_with_origins"], turning)
        if entering:
            await connection.execute(SQL["enter_in_place"], entering, leaving)
        if leaving:
            await connection.execute(SQL["leave"], leaving)
    if entering or leaving:
        _log.info("readers of the outbox", entering=entering, leaving=leaving)


async def progress_of(connection: Connection, reader: str) -> Position:
    """How far a reader of the outbox has come; a new one is written down, and begins with what is there."""
    row = await connection.fetchrow(SQL["progress"], reader)
    if row is None:
        await connection.execute(SQL["enter"], reader)
        row = await connection.fetchrow(SQL["progress"], reader)
    assert row is not None
    return row["xid"], row["id"]


async def _consume_as_owner(
    connection: Connection, consumer: AnyConsumer, stop: asyncio.Event, poll_seconds: float, tries_max: int
) -> None:
    position = await progress_of(connection, consumer.name)
    while not stop.is_set():
        looked_at, position = await step(connection, consumer, position, tries_max)
        if looked_at < ROWS_MAX:
            await wait(stop, poll_seconds)


async def step(
    connection: Connection, consumer: AnyConsumer, position: Position, tries_max: int = TRIES_MAX
) -> tuple[int, Position]:
    """Handles the next rows and records the progress: how many were looked at (0 if none is done), and where it is."""
    found = await connection.fetch(SQL["rows"], *position, ROWS_MAX, consumer.kinds)
    if not found:
        return 0, position
    rows = [
        OutboxRow(
            (row["xid"], row["id"]), row["kind"], row["subject"], row["version"], row["scope"], row["occurred_at"]
        )
        for row in found
    ]
    relevant = [row for row in rows if row.kind in consumer.kinds]
    page = _Page(consumer.name, relevant, rows[-1].position, position)
    if not relevant:
        await page.advance(connection, 0)
        return found[0]["looked_at"], page.reached
    done = await deliver(connection, consumer, relevant, page, tries_max)
    return found[0]["looked_at"] if done == len(relevant) else 0, page.reached


class _Page:
    """The rows of one look, and the progress in outbox.consumers."""

    def __init__(self, name: str, rows: Sequence[OutboxRow], end: Position, reached: Position) -> None:
        self._name = name
        self._rows = rows
        self._end = end
        self.reached = reached

    async def advance(self, connection: Connection, done: int) -> None:
        """Records the progress: with the last row, that of the rows of other kinds after it too."""
        reached = self._end if done == len(self._rows) else self._rows[done - 1].position
        if await connection.execute(SQL["advance"], self._name, *reached, *self.reached) != "UPDATE 1":
            raise Overtaken
        self.reached = reached

    async def bury(self, connection: Connection, index: int, reason: str) -> None:
        """A dead letter, in one transaction with the progress."""
        async with connection.transaction():
            await bury(connection, self._name, self._rows[index], reason)
            await self.advance(connection, index + 1)
