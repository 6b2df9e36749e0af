"""The replicas that reads go to: whether each answers and keeps up."""

import asyncio

import asyncpg

from holdfast.clock import monotonic_seconds
from holdfast.doctor.checks import Check
from holdfast.engines.hosts.address import Host, hosts_of
from holdfast.engines.hosts.connection import AWAY, HostConnection, connect, connect_to_primary
from holdfast.engines.hosts.watch import SQL
from holdfast.settings import Settings

LAG_SECONDS_MAX = 2.0
_AGAIN_SECONDS = 0.05


async def check_replicas(settings: Settings) -> list[Check]:
    """One check for each host of replicas; none where there are none, or no primary to hold them against."""
    url, seconds = settings.replica_database_url.get_secret_value(), settings.database_timeout_seconds
    if not url:
        return []
    try:
        primary = await connect_to_primary(
            settings.database_url.get_secret_value(), timeout=seconds, command_timeout=seconds
        )
        try:
            position: int = await primary.fetchval(SQL["position"])
        finally:
            primary.terminate()
        hosts: list[Host | None] = list(hosts_of(url)) or [None]
        return [await _check(settings, host, position) for host in hosts]
    except (*AWAY, asyncpg.PostgresError, ValueError):
        return []


async def _check(settings: Settings, host: Host | None, position: int) -> Check:
    name, seconds = f"replica {host or ''}".strip(), settings.database_timeout_seconds
    try:
        connection = await connect(
            settings.replica_database_url.get_secret_value(),
            host,
            timeout=seconds,
            command_timeout=seconds,
            server_settings={},
            wanted="any",
        )
        try:
            return await _follow(name, connection, position)
        finally:
            connection.terminate()
    except (*AWAY, asyncpg.PostgresError) as error:
        return Check(
            name, False, f"{type(error).__name__}: {error}", "see that it runs: reads go to the others until then"
        )


async def _follow(name: str, connection: HostConnection, position: int) -> Check:
    deadline = monotonic_seconds() + LAG_SECONDS_MAX
    while True:
        replayed: int | None = await connection.fetchval(SQL["replayed"])
        if replayed is None:
            return Check(name, True, "is the primary now")
        if replayed >= position:
            return Check(name, True, "keeps up")
        if monotonic_seconds() >= deadline:
            behind = f"{(position - replayed) / 1024:.0f} KiB behind the primary for {LAG_SECONDS_MAX:.0f} s"
            return Check(name, False, behind, "see its log, and whether its replay is paused")
        await asyncio.sleep(_AGAIN_SECONDS)
