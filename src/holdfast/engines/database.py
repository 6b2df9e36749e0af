"""Connections to PostgreSQL: the pool for everything ordinary. The batch writers hold connections of their own."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TypeAlias

import asyncpg

from holdfast.errors import Busy
from holdfast.settings import Settings

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# What a lost, refused or overloaded database raises; a caller may try again.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # What a connection says whose server crashed in the middle of an exchange.
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
)

# Everything that a purchase, a worker or a page asks goes by key. A plan that was made while a table was empty would
# scan it from end to end, and is kept while the table grows; so would these ways walk a whole index.
BY_KEY = {"enable_seqscan": "off", "enable_mergejoin": "off", "enable_indexonlyscan": "off"}


async def open_pool(settings: Settings, server_settings: Mapping[str, str] = BY_KEY) -> Pool:
    """A pool of at most `database_connections_max`; its connections are made when they are first needed."""
    return await _open(settings, {"application_name": "holdfast", **server_settings})


async def open_reading_pool(settings: Settings) -> Pool:
    """A pool for single statements that read: a connection that is given back need not be put in order, which takes as
    long as such a statement does. As large as the other one."""
    return await _open(settings, {"application_name": "holdfast reads", **BY_KEY}, _leave_as_it_is)


async def _open(
    settings: Settings,
    server_settings: Mapping[str, str],
    reset: Callable[[object], Awaitable[None]] | None = None,
) -> Pool:
    return await asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=settings.database_connections_max,
        command_timeout=settings.database_timeout_seconds,
        timeout=settings.database_timeout_seconds,
        server_settings=dict(server_settings),
        reset=reset,
    )


async def _leave_as_it_is(_: object) -> None:
    return


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncIterator[Connection]:
    """One transaction on a pooled connection. A database that is away is answered as busy (503)."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            yield connection  # type: ignore[misc]  # a pool's proxy has a connection's methods
    except AWAY as error:
        raise Busy("The database did not answer in time.") from error


def load_statements(package: str, name: str) -> dict[str, str]:
    """The named statements of a .sql file: each begins with a line `-- name: …`, its description under it."""
    statements: dict[str, str] = {}
    for block in (files(package) / name).read_text("utf-8").split("-- name:")[1:]:
        title, _, body = block.partition("\n")
        statements[title.strip()] = body.strip()
    return statements
