"""What the auth service does by itself: it forgets."""

import asyncio

import structlog

from holdfast.engines.database import AWAY, Pool, load_statements
from holdfast.outbox.consume import wait
from holdfast.settings import Settings

_STATEMENTS = load_statements("holdfast.auth", "auth.sql")
_TOKENS_MAX = 5000
_PAUSE_SECONDS = 600

_log = structlog.get_logger(__name__)


async def forget_sessions(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    """Deletes the failures and refresh tokens that no longer mean anything, until `stop`. Safe to run twice."""
    while not stop.is_set():
        try:
            await pool.execute(_STATEMENTS["forget_failures"])
            while await _forget_refresh_tokens(pool, settings.refresh_token_seconds) == _TOKENS_MAX:
                await asyncio.sleep(0)
        except AWAY as error:
            _log.warning("old sessions stay", error=type(error).__name__)
        await wait(stop, _PAUSE_SECONDS)


async def _forget_refresh_tokens(pool: Pool, lifetime_seconds: int) -> int:
    return int(await pool.fetchval(_STATEMENTS["forget_refresh_tokens"], float(lifetime_seconds), _TOKENS_MAX))
