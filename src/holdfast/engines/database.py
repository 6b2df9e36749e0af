"""Connections to PostgreSQL: the pools for everything ordinary. The batch writers hold connections of their own."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeAlias

import asyncpg

from holdfast.engines.hosts.connection import AWAY, Connection
from holdfast.engines.hosts.position import LogPosition
from holdfast.engines.hosts.primary import PrimaryPool
from holdfast.engines.hosts.reads import Reads
from holdfast.engines.hosts.replicas import Replicas
from holdfast.engines.statements import load_statements
from holdfast.errors import Busy
from holdfast.settings import Settings

__all__ = [
    "AWAY",
    "BY_KEY",
    "Connection",
    "Pool",
    "Reads",
    "load_statements",
    "open_pool",
    "open_reads",
    "transaction",
]

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# Everything that a purchase, a worker or a page asks goes by key. A plan that was made while a table was empty would
# scan it from end to end, and is kept while the table grows; so would these ways walk a whole index.
BY_KEY = {"enable_seqscan": "off", "enable_mergejoin": "off", "enable_indexonlyscan": "off"}


async def open_pool(settings: Settings, server_settings: Mapping[str, str] = BY_KEY) -> Pool:
    """A pool of at most `database_connections_max`; its connections are made when they are first needed, to the host
    that is the primary then."""
    return await PrimaryPool(settings, {"application_name": "holdfast", **server_settings})


async def open_reads(settings: Settings) -> Reads:
    """What only reads: from replicas where `replica_database_url` names some.

    Its pool is as large as the other one. A connection that is given back is not put in order, which would take as long
    as a single statement that reads does.
    """
    server_settings = {"application_name": "holdfast reads", **BY_KEY}
    pool = await PrimaryPool(settings, server_settings, _leave_as_it_is)
    watch = pool.primary.watch
    if not settings.replica_database_url.get_secret_value() or watch is None:
        return Reads(pool)
    replicas = Replicas(settings, server_settings, watch)
    await replicas.open()
    return Reads(pool, replicas, LogPosition(pool, settings.database_timeout_seconds))


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
