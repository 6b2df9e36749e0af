"""Reads the outbox directly: each consumer with its own recorded progress, one owner at a time.

Sequence order is not commit order, so a consumer never asks for `id > last seen`: it reads by (transaction, id), and
only transactions below the snapshot's xmin, among which no row can appear any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from uuid import UUID

import structlog

from holdfast.engines.database import AWAY, Connection, Pool, load_statements
from holdfast.errors import Busy

SQL = load_statements("holdfast.outbox", "outbox.sql")

ROWS_MAX = 1000
PRUNE_MAX = 5000
_OWNER_RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class OutboxRow(NamedTuple):
    """One state change. `scope` is the event (concert) it belongs to; `position` names it for good."""

    position: tuple[str, int]
    kind: str
    subject: UUID
    version: int
    scope: UUID


Handle = Callable[[Sequence[OutboxRow]], Awaitable[int]]
"""Handles rows in order; answers how many of them are done. A row that is not done comes again."""


class Consumer(NamedTuple):
    """A consumer: its name in outbox.consumers, the kinds of rows it acts on, and what it does with them."""

    name: str
    kinds: tuple[str, ...]
    handle: Handle


async def consume(pool: Pool, consumer: Consumer, stop: asyncio.Event, poll_seconds: float) -> None:
    """Runs one consumer until `stop`. Two that run at once take turns: one owns the progress, the other waits."""
    while not stop.is_set():
        try:
            async with pool.acquire() as connection:
                if await connection.fetchval(SQL["lock"], consumer.name):
                    try:
                        await _consume_as_owner(connection, consumer, stop, poll_seconds)  # type: ignore[arg-type]
                    finally:
                        # Ends the session's advisory lock, also when the loop broke off in the middle.
                        if not connection.is_closed():
                            await connection.execute("SELECT pg_advisory_unlock_all()")
        except (*AWAY, Busy) as error:
            _log.warning("consumer waits", consumer=consumer.name, error=type(error).__name__)
        await wait(stop, _OWNER_RETRY_SECONDS)


async def prune(pool: Pool, stop: asyncio.Event, poll_seconds: float) -> None:
    """Deletes what every consumer has passed, until `stop`."""
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


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Waits so long, or until `stop`."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def _consume_as_owner(
    connection: Connection, consumer: Consumer, stop: asyncio.Event, poll_seconds: float
) -> None:
    progress = await connection.fetchrow(SQL["progress"], consumer.name)
    assert progress is not None, f"the migrations know no consumer {consumer.name}"
    position = (progress["xid"], progress["id"])
    while not stop.is_set():
        looked_at, position = await step(connection, consumer, position)
        if looked_at < ROWS_MAX:
            await wait(stop, poll_seconds)


async def step(connection: Connection, consumer: Consumer, position: tuple[str, int]) -> tuple[int, tuple[str, int]]:
    """Handles the next rows and records the progress: how many were looked at (0 if none is done), and where it is."""
    found = await connection.fetch(SQL["rows"], *position, ROWS_MAX, consumer.kinds)
    if not found:
        return 0, position
    rows = [
        OutboxRow((row["xid"], row["id"]), row["kind"], row["subject"], row["version"], row["scope"]) for row in found
    ]
    relevant = [row for row in rows if row.kind in consumer.kinds]
    done = await consumer.handle(relevant) if relevant else 0
    if done == len(relevant):
        reached, looked_at = rows[-1].position, found[0]["looked_at"]
    elif done:
        reached, looked_at = relevant[done - 1].position, 0
    else:
        return 0, position
    await connection.execute(SQL["advance"], consumer.name, *reached)
    return looked_at, reached
