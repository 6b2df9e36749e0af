"""What a consumer could not handle: kept in PostgreSQL until it is asked for, then handed to that consumer alone."""

import asyncio
from typing import Any, NamedTuple

import structlog

from holdfast.engines.database import AWAY, Connection, Pool, load_statements
from holdfast.errors import Busy
from holdfast.outbox.consume import AnyConsumer, OutboxRow, Recorder, wait
from holdfast.outbox.events import decode

SQL = load_statements("holdfast.outbox", "dead_letters.sql")

_LOOK_SECONDS = 2.0
_REASON_MAX = 500

_log = structlog.get_logger(__name__)


class Letters(NamedTuple):
    """The dead letters of one consumer: how many, how many of them are on their way back, and one reason."""

    consumer: str
    letters: int
    wanted: int
    reason: str


async def bury(connection: Connection, consumer: str, row: OutboxRow, reason: str) -> None:
    """Keeps a row that could not be handled, in the caller's transaction."""
    facts = (row.kind, row.subject, row.version, row.scope, row.occurred_at)
    await connection.execute(SQL["bury"], consumer, row.event_id, *row.position, *facts, None, reason[:_REASON_MAX])


async def bury_unread(connection: Connection, consumer: str, event_id: str, content: bytes, reason: str) -> None:
    """Keeps something that could not even be read, in the caller's transaction."""
    nothing = (None,) * 7
    await connection.execute(SQL["bury"], consumer, event_id, *nothing, content, reason[:_REASON_MAX])


async def count_letters(pool: Pool, consumer: str | None) -> list[Letters]:
    """The dead letters there are, of one consumer or of all."""
    return [Letters(**dict(row)) for row in await pool.fetch(SQL["count"], consumer)]


async def want_letters(pool: Pool, consumer: str | None) -> None:
    """Asks for the dead letters of one consumer, or of all, to be handed over again."""
    await pool.execute(SQL["want"], consumer)


async def hand_over_wanted(
    pool: Pool, consumer: AnyConsumer, stop: asyncio.Event, look_seconds: float = _LOOK_SECONDS
) -> None:
    """Hands the dead letters that somebody asked for to their consumer, until `stop`. Any number may run."""
    while not stop.is_set():
        try:
            while not stop.is_set() and await _hand_over_next(pool, consumer):
                pass
        except (*AWAY, Busy) as error:
            _log.warning("dead letters wait", consumer=consumer.name, error=type(error).__name__)
        await wait(stop, look_seconds)


async def _hand_over_next(pool: Pool, consumer: AnyConsumer) -> bool:
    """False where none is wanted, or what the consumer needs is away: then it comes again after a minute."""
    letter = await pool.fetchrow(SQL["wanted"], consumer.name)
    if letter is None:
        return False
    key = (consumer.name, letter["event_id"])
    try:
        row = _row_of(letter)
        if row.kind not in consumer.kinds:
            await pool.execute(SQL["handled"], *key)
        elif isinstance(consumer, Recorder):
            async with pool.acquire() as connection, connection.transaction():
                if await connection.execute(SQL["handled"], *key) == "DELETE 1":
                    await consumer.record([row], connection)  # type: ignore[arg-type]
        elif await consumer.handle([row]):
            await pool.execute(SQL["handled"], *key)
        else:
            return False
    except (*AWAY, Busy):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:_REASON_MAX]
        _log.error("dead letter again", consumer=consumer.name, event_id=letter["event_id"], reason=reason)
        await pool.execute(SQL["failed_again"], *key, reason)
    else:
        _log.info("dead letter handled", consumer=consumer.name, event_id=letter["event_id"])
    return True


def _row_of(letter: Any) -> OutboxRow:
    if letter["content"] is not None:
        row = decode(letter["content"])
        assert row is not None, "every kind is wanted"
        return row
    return OutboxRow(
        (letter["xid"], letter["number"]),
        letter["kind"],
        letter["subject"],
        letter["version"],
        letter["scope"],
        letter["occurred_at"],
    )
