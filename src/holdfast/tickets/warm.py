"""Warm-up: whatever the first purchase of a sale would have to wait for is there before it comes.

Every server process looks by itself for events whose sale is about to open, or that `holdfast events warm` named, and
gets ready for them, again and again until they have opened: a gate that is emptied meanwhile, or a connection that
breaks, is mended before anybody comes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias
from uuid import UUID

import asyncpg
import structlog

from holdfast import ids
from holdfast.engines.database import AWAY, Pool, load_statements
from holdfast.errors import Busy, Mendable
from holdfast.settings import Settings

SQL = load_statements("holdfast.tickets", "warm.sql")

EVENTS_MAX = 50
"""For how many events a process gets ready at a time; those that open first come first."""
LOOK_SECONDS = 1.0

GetReady: TypeAlias = Callable[[Sequence[UUID]], Awaitable[None]]
"""Gets a service of this process ready for these events; doing so again costs little."""

_log = structlog.get_logger(__name__)


async def keep_warm(settings: Settings, pool: Pool, services: Sequence[GetReady], stop: asyncio.Event) -> None:
    """Keeps these services ready for what is about to open, until `stop`."""
    before: set[UUID] = set()
    while not stop.is_set():
        try:
            rows = await pool.fetch(SQL["warm"], settings.warm_seconds, EVENTS_MAX)
            events = [row["event_id"] for row in rows]
            if new := set(events) - before:
                _log.info("getting ready", events=[ids.encode(ids.EVENT, event_id) for event_id in sorted(new)])
            before = set(events)
            if events:
                for get_ready in services:
                    await get_ready(events)
        except (*AWAY, Busy, asyncpg.PostgresError) as error:
            # Nothing depends on it: what is not ready is made so by the first who comes.
            _log.warning("not ready", error=str(error) or type(error).__name__)
        try:
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue


async def ask_to_warm(pool: Pool, event_ids: Sequence[UUID], seconds: float) -> None:
    """Has every server process get ready for these events, and keep so for a while. Raises Mendable for the first that
    has no sale to get ready for."""
    statuses = {row["id"]: row["status"] for row in await pool.fetch(SQL["statuses"], event_ids)}
    for event_id in event_ids:
        status, name = statuses.get(event_id), ids.encode(ids.EVENT, event_id)
        if status is None:
            raise Mendable(f"There is no event {name}: `holdfast events list` names them.")
        if status == "draft":
            raise Mendable(f"{name} is a draft, which nobody can buy: publish it first.")
        if status != "published":
            raise Mendable(f"{name} is {status}: leave it out.")
    await pool.execute(SQL["keep_warm"], event_ids, seconds)
