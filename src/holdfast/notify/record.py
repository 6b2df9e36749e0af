"""Notes who is to be written to: the outbox consumer `notify`, and the buyers of cancelled events one after another."""

import asyncio
from collections.abc import Sequence

import structlog

from holdfast.engines.database import AWAY, Connection, Pool, load_statements
from holdfast.outbox.consume import OutboxRow, Recorder, wait
from holdfast.settings import Settings

SQL = load_statements("holdfast.notify", "notify.sql")

CONSUMER = "notify"
_KINDS = ("order.confirmed", "event.cancelled")
_USERS_MAX = 1000
_ROWS_MAX = 5000
_FORGET_SECONDS = 3600

_log = structlog.get_logger(__name__)


def notify_consumer() -> Recorder:
    """Notes a letter for each confirmed order, and each cancelled event for `announce_cancellations`.

    Nothing is sent here: a mail server that is slow or away must not hold up what is read.
    """

    async def record(rows: Sequence[OutboxRow], connection: Connection) -> None:
        await connection.execute(
            SQL["record"],
            [row.event_id for row in rows],
            [row.kind for row in rows],
            [row.subject for row in rows],
            [row.scope for row in rows],
            [row.occurred_at for row in rows],
        )

    return Recorder(CONSUMER, _KINDS, record)


async def announce_cancellations(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    """Notes letters to the buyers of cancelled events, until `stop`. Any number may run."""
    while not stop.is_set():
        looked_at = 0
        try:
            looked_at = await pool.fetchval(SQL["announce"], _USERS_MAX)
        except AWAY as error:
            _log.warning("announcements wait", error=type(error).__name__)
        if not looked_at:
            await wait(stop, settings.mail_poll_seconds)


async def forget_letters(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    """Deletes letters past their retention, until `stop`. Any number may run."""
    while not stop.is_set():
        try:
            while await _deleted(pool, settings.letters_retention_days) == _ROWS_MAX:
                await asyncio.sleep(0)
        except AWAY as error:
            _log.warning("old letters stay", error=type(error).__name__)
        await wait(stop, _FORGET_SECONDS)


async def _deleted(pool: Pool, days: int) -> int:
    return int((await pool.execute(SQL["forget"], days, _ROWS_MAX)).split()[-1])
