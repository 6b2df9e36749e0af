"""One connection to one PostgreSQL server, which notices that the other side is gone."""

import asyncio
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from holdfast.engines.hosts.address import Host, hosts_of

if TYPE_CHECKING:
    _Connection = asyncpg.Connection[asyncpg.Record]
else:
    _Connection = asyncpg.Connection

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Wanted: TypeAlias = Literal["any", "primary"]

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

SILENCE_SECONDS = 5
"""How long a host may leave what was sent to it unacknowledged before its connections end.

This is about hosts and cables that are gone, of which nobody says so. The kernel of a host whose PostgreSQL is merely
frozen goes on acknowledging: that is for the watch to find out, by another host's having become the primary.
"""

# The same the other way round: what a client that is gone has locked, its server lets go.
_SERVER_SETTINGS = {
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": str(SILENCE_SECONDS - 2),
    "tcp_user_timeout": str(SILENCE_SECONDS * 1000),
}
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # After two quiet seconds the other side is asked each second: one that waits for an answer notices too.
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", None), 2),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None), 1),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None), SILENCE_SECONDS - 2),
    (socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None), SILENCE_SECONDS * 1000),
)


class HostConnection(_Connection):
    """A connection that ends when its host has been silent for SILENCE_SECONDS, however patient its query is."""

    generation = 0
    """Of which primary it is; see Watch."""
    opened_at = 0.0

    def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        found = transport.get_extra_info("socket")
        if found is not None and found.family in (socket.AF_INET, socket.AF_INET6):
            for level, option, value in _SOCKET_OPTIONS:
                if option is not None:
                    found.setsockopt(level, option, value)


async def connect(
    url: str,
    host: Host | None,
    *,
    timeout: float,  # noqa: ASYNC109  # asyncpg's own, which tidies up behind itself
    server_settings: Mapping[str, str],
    wanted: Wanted = "primary",
    command_timeout: float | None = None,
    connection_class: type[HostConnection] = HostConnection,
) -> HostConnection:
    """A connection to one host of the URL; None takes the URL as it is. Raises one of AWAY where it is not as wanted.

    Whether it is the primary, PostgreSQL says by itself when a connection begins: that takes no question.
    """
    return await asyncpg.connect(
        url,
        host=None if host is None else host.name,
        port=None if host is None else host.port,
        timeout=timeout,
        command_timeout=command_timeout,
        server_settings={**_SERVER_SETTINGS, **server_settings},
        target_session_attrs=SessionAttribute(wanted),
        connection_class=connection_class,
    )


async def connect_to_primary(
    url: str,
    *,
    timeout: float,  # noqa: ASYNC109
    server_settings: Mapping[str, str] | None = None,
    command_timeout: float | None = None,
) -> HostConnection:
    """A connection to whichever host of the URL is the primary, for those who need one once.

    All are asked at the same time, so that one that is dead or cut off costs nothing. Where none is the primary, raises
    what the first said that failed for another reason than being a replica.
    """
    hosts = hosts_of(url)
    pending = {
        asyncio.create_task(
            connect(url, host, timeout=timeout, server_settings=server_settings or {}, command_timeout=command_timeout)
        )
        for host in (hosts if len(hosts) > 1 else [None])
    }
    tries, errors = set(pending), []
    chosen: asyncio.Task[HostConnection] | None = None
    try:
        while pending and chosen is None:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            chosen = next((one for one in done if one.exception() is None), None)
            errors += [error for one in done if (error := one.exception()) is not None]
    finally:
        for one in tries - {chosen}:
            one.cancel()
        for connected in await asyncio.gather(*(tries - {chosen}), return_exceptions=True):
            if isinstance(connected, HostConnection):
                connected.terminate()
    if chosen is None:
        raise next((error for error in errors if not is_of_a_replica(error)), errors[0])
    return chosen.result()


def is_of_a_replica(error: BaseException) -> bool:
    """Whether a host was reached and let us in, and is not the primary."""
    return isinstance(error, asyncpg.TargetServerAttributeNotMatched)
