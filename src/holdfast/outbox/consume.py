"""What a consumer is, whichever way the outbox's rows come to it.

A consumer is written once and works over both transports: it reads the outbox directly (`outbox/direct.py`), or the
topics that the relay fills from it (`outbox/kafka_consumer.py`). There are two forms of it:

* `Recorder`: its effect is in PostgreSQL. It gets the connection on which its progress is recorded, in one transaction
  with what it writes: each row takes effect exactly once, wherever a process is killed.

      async def record(rows: Sequence[OutboxRow], connection: Connection) -> None: ...
      Recorder("stats", ("order.reserved", "order.confirmed"), record)

* `Consumer`: its effect is elsewhere (the gate, a mail, a provider), or in transactions of its own. A row may come
  twice, so the effect goes by a key, or carries a name that stays the same (`row.event_id`).

      async def handle(rows: Sequence[OutboxRow]) -> int: ...
      Consumer("notify", ("order.confirmed",), handle)

What both may rely on: only rows of `kinds` come, at most ROWS_MAX at once; those of one subject come in the order they
were written, while rows of different subjects may come in any order and in two processes at once (each row in one of
them). Rows are thin over both transports: the state is read by the subject. It may have gone further by then, so what
a row says is its kind and version.

What a consumer says when it cannot:

* what it needs is away: `handle` answers how many rows are done; the rest comes again, as often as it takes. The
  errors of an absent database (AWAY) and Busy mean the same, for `record` too.
* any other exception: the rows are handed over one by one, the one that raises `tries_max` times, and then it goes to
  the dead letters (`outbox/dead_letters.py`) with the reason, and the next one comes. A dead letter that is handed over
  again, by `holdfast events redrive`, comes after newer rows of its subject.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

import structlog

from holdfast.engines.database import AWAY, Connection
from holdfast.errors import Busy

ROWS_MAX = 1000
TRIES_MAX = 5
_PAUSE_SECONDS = 0.1
_PAUSE_SECONDS_MAX = 2.0

_log = structlog.get_logger(__name__)


class OutboxRow(NamedTuple):
    """One state change. `scope` is the event (concert) it belongs to; `position` names it for good."""

    position: tuple[str, int]
    """(transaction, number): the order in which rows are read. The transaction is an xid8 as text."""
    kind: str
    subject: UUID
    version: int
    scope: UUID
    occurred_at: datetime
    """PostgreSQL's clock when the row was written, in UTC."""

    @property
    def event_id(self) -> str:
        """The name under which others know it: the CloudEvent's id."""
        return f"{self.position[0]}-{self.position[1]}"


Handle = Callable[[Sequence[OutboxRow]], Awaitable[int]]
"""Handles rows in order; answers how many of them are done. A row that is not done comes again."""

Record = Callable[[Sequence[OutboxRow], Connection], Awaitable[None]]
"""Writes the effect of all rows on this connection, which is in a transaction; does not commit."""


class Consumer(NamedTuple):
    """A consumer with an effect elsewhere: its name, the kinds of rows it acts on, and what it does with them."""

    name: str
    kinds: tuple[str, ...]
    handle: Handle


class Recorder(NamedTuple):
    """A consumer whose effect is in PostgreSQL: its name, the kinds of rows it acts on, and what it writes."""

    name: str
    kinds: tuple[str, ...]
    record: Record


AnyConsumer = Consumer | Recorder


class Overtaken(Exception):
    """Another process has moved this consumer's progress: what was under way is not recorded, and begins anew."""


class Reading(Protocol):
    """Some rows under way, and where it is written down how far the consumer has come with them."""

    async def advance(self, connection: Connection, done: int) -> None:
        """Records that the first `done` rows are dealt with, in the caller's transaction. Raises Overtaken."""

    async def bury(self, connection: Connection, index: int, reason: str) -> None:
        """Puts one row with the dead letters, and records that it and those before it are dealt with."""


async def deliver(
    connection: Connection,
    consumer: AnyConsumer,
    rows: Sequence[OutboxRow],
    reading: Reading,
    tries_max: int = TRIES_MAX,
) -> int:
    """Hands rows over and records the progress: how many are dealt with, the rest having to wait.

    Raises what tells that a database is away, and Overtaken.
    """
    try:
        return await _attempt(connection, consumer, rows, reading, 0)
    except (*AWAY, Busy, Overtaken):
        raise
    except Exception as error:
        # One by one shows which of them it is.
        _log.warning("rows not handled", consumer=consumer.name, rows=len(rows), reason=_reason(error))
    for index in range(len(rows)):
        if not await _deliver_alone(connection, consumer, rows[index], reading, index, tries_max):
            return index
    return len(rows)


async def _deliver_alone(
    connection: Connection, consumer: AnyConsumer, row: OutboxRow, reading: Reading, index: int, tries_max: int
) -> bool:
    reason = ""
    for attempt in range(tries_max):
        try:
            return await _attempt(connection, consumer, [row], reading, index) == 1
        except (*AWAY, Busy, Overtaken):
            raise
        except Exception as error:
            reason = _reason(error)
        if attempt < tries_max - 1:
            await asyncio.sleep(min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS * 2**attempt))
    _log.error("dead letter", consumer=consumer.name, event_id=row.event_id, kind=row.kind, reason=reason)
    await reading.bury(connection, index, reason)
    return True


async def _attempt(
    connection: Connection, consumer: AnyConsumer, rows: Sequence[OutboxRow], reading: Reading, before: int
) -> int:
    if isinstance(consumer, Recorder):
        async with connection.transaction():
            await consumer.record(rows, connection)
            await reading.advance(connection, before + len(rows))
        return len(rows)
    done = await consumer.handle(rows)
    if done:
        await reading.advance(connection, before + done)
    return done


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Waits so long, or until `stop`."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
