"""What a server or a worker looks at before it starts: a database that cannot serve is refused with one sentence."""

import asyncio

import asyncpg
import structlog

from holdfast.clock import monotonic_seconds, unix_seconds
from holdfast.engines.database import AWAY
from holdfast.engines.hosts.address import hosts_of
from holdfast.engines.hosts.connection import HostConnection, connect_to_primary
from holdfast.errors import Mendable
from holdfast.schema.migrate import current_revision, known_revisions
from holdfast.settings import Settings

VERSION_MIN = 15
CLOCK_SECONDS_MAX = 5.0
"""PostgreSQL's clock decides about sales and holds, so that a wrong one here only says wrong times, and early no's."""
_CHOOSING_SECONDS = 5.0
"""How long hosts that are all replicas may take to choose a primary."""
_AGAIN_SECONDS = 0.25

_log = structlog.get_logger(__name__)


async def check_database(settings: Settings) -> None:
    """Raises Mendable where this database cannot serve this release. A clock that is wrong is told in the log alone."""
    _check_replica_url(settings.replica_database_url.get_secret_value())
    connection = await connect_or_explain(settings)
    try:
        version = connection.get_server_version()
        if version.major < VERSION_MIN:
            raise Mendable(
                f"PostgreSQL {version.major} is too old: use {VERSION_MIN} or newer, and give its address in "
                "HOLDFAST_DATABASE_URL."
            )
        await _check_schema(connection)
        await _check_clock(connection)
    except AWAY as error:
        raise Mendable(f"PostgreSQL went away while it was looked at ({_said(error)}): see its log.") from error
    finally:
        connection.terminate()


async def connect_or_explain(settings: Settings) -> HostConnection:
    """A connection to the primary. Raises Mendable with what is wrong."""
    url = settings.database_url.get_secret_value()
    try:
        named = ", ".join(map(str, hosts_of(url))) or "its default address"
    except ValueError as error:
        raise Mendable(f"HOLDFAST_DATABASE_URL cannot be read ({error}): write postgresql://host:port/name.") from error
    deadline = monotonic_seconds() + _CHOOSING_SECONDS
    while True:
        try:
            return await connect_to_primary(
                url, timeout=settings.database_timeout_seconds, command_timeout=settings.database_timeout_seconds
            )
        except asyncpg.TargetServerAttributeNotMatched as error:
            if "," not in named or monotonic_seconds() >= deadline:
                raise Mendable(
                    f"HOLDFAST_DATABASE_URL names a replica and no primary ({named}): give the primary's address too."
                ) from error
            await asyncio.sleep(_AGAIN_SECONDS)
        except asyncpg.PostgresError as error:
            raise Mendable(
                f"PostgreSQL at {named} does not let us in ({_said(error)}): put HOLDFAST_DATABASE_URL right."
            ) from error
        except (*AWAY, ValueError) as error:
            raise Mendable(
                f"PostgreSQL does not answer at {named} ({_said(error)}): see that it runs and that "
                "HOLDFAST_DATABASE_URL is right."
            ) from error


def _check_replica_url(url: str) -> None:
    """Whether its hosts answer is no condition: while none does, the primary is read from."""
    try:
        hosts_of(url)
        is_one = not url or url.partition("://")[0] in ("postgresql", "postgres")
    except ValueError:
        is_one = False
    if not is_one:
        raise Mendable(
            "HOLDFAST_REPLICA_DATABASE_URL cannot be read: write postgresql://host:port/name, or leave it out."
        )


async def _check_schema(connection: HostConnection) -> None:
    known = known_revisions()
    try:
        current = await current_revision(connection)
    except asyncpg.InsufficientPrivilegeError:
        # A role that may not see the revision finds out by what it misses.
        return
    if current is None or (current in known and current != known[-1]):
        raise Mendable(
            f"The database has schema {current or 'none'}, and this release needs {known[-1]}: run `holdfast migrate`."
        )


async def _check_clock(connection: HostConnection) -> None:
    before = unix_seconds()
    theirs: float = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = unix_seconds()
    ahead = (before + after) / 2 - theirs
    if abs(ahead) > CLOCK_SECONDS_MAX + (after - before) / 2:
        _log.warning(
            f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} PostgreSQL's, which "
            "decides when sales open and holds end: set it right, or the times that are shown are wrong"
        )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
