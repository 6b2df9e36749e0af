"""Counts sales: the outbox consumer `stats`, and the forgetting of old minutes."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog
from asyncpg import PostgresError

from holdfast.engines.database import AWAY, Connection, Pool
from holdfast.outbox.consume import ROWS_MAX, OutboxRow, Recorder, wait
from holdfast.outbox.direct import step_alone
from holdfast.settings import Settings
from holdfast.stats.sales import SQL

_KINDS = ("order.reserved", "order.cancelled", "order.expired", "order.confirmed")
_ROWS_MAX = 5000
_PAUSE_SECONDS = 3600

_log = structlog.get_logger(__name__)


def stats_consumer() -> Recorder:
    """Counts each state change of an order once: in the transaction in which it is noted that it was counted."""

    async def record(rows: Sequence[OutboxRow], connection: Connection) -> None:
        await connection.execute(
            SQL["record"],
            [row.position[0] for row in rows],
            [row.kind for row in rows],
            [row.subject for row in rows],
            [row.version for row in rows],
            [row.occurred_at for row in rows],
        )

    return Recorder("stats", _KINDS, record)


async def count_sales(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    """Does the same where there is no Kafka, until `stop`: the rows are in PostgreSQL already, and need not leave it.

    That is half as much work, on the machine on which the sale runs. Any number may run: they take turns.
    """
    while not stop.is_set():
        looked_at = 0
        try:
            looked_at = await pool.fetchval(SQL["record_outbox"], ROWS_MAX)
        except AWAY as error:
            _log.warning("sales are not counted", error=type(error).__name__)
        except PostgresError as error:
            # One of them cannot be counted: the way of all consumers finds it, and goes on without it.
            _log.error("sales cannot be counted", error=type(error).__name__)
            with suppress(*AWAY):
                looked_at = await step_alone(pool, stats_consumer(), settings.consumer_tries_max)
        if looked_at < ROWS_MAX:
            await wait(stop, settings.stats_poll_seconds)


async def forget_sales(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    """Deletes minutes past their retention, until `stop`. Any number may run."""
    while not stop.is_set():
        try:
            while await _deleted(pool, settings.stats_retention_days) == _ROWS_MAX:
                await asyncio.sleep(0)
        except AWAY as error:
            _log.warning("old sales stay", error=type(error).__name__)
        await wait(stop, _PAUSE_SECONDS)


async def _deleted(pool: Pool, days: int) -> int:
    return int((await pool.execute(SQL["forget"], days, _ROWS_MAX)).split()[-1])
