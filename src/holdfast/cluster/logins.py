"""Who may log in to the cluster's database: its owner, and a role for each service, member of that service's group."""

import asyncio

import asyncpg

from holdfast import clock
from holdfast.cluster.layout import HOST, Layout
from holdfast.cluster.parts.postgres import SUPERUSER
from holdfast.engines.postgres_server import DATABASE, ROLE
from holdfast.errors import Mendable
from holdfast.schema.migrate import migrate

GROUPS = ("auth", "tickets", "orders", "workers")
_LOGIN_SECONDS_MAX = 30.0
_REPLAY_SECONDS_MAX = 30.0
_SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('quorum', 'sync')"
_BEHIND = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NULL OR replay_lsn < $1::text::pg_lsn"


class Logins:
    """The roles and the URLs by which they log in. Passwords are letters and digits."""

    def __init__(self, layout: Layout, passwords: dict[str, str]) -> None:
        self._layout = layout
        self._passwords = passwords

    @property
    def owner_url(self) -> str:
        """Of the owner of the database, at the primary."""
        return self._at_primary(ROLE, self._passwords["owner"])

    def url(self, group: str) -> str:
        """Of a service, at the primary."""
        return self._at_primary(_login(group), self._passwords[group])

    def replica_url(self, group: str) -> str:
        """Of a service, at any standby."""
        return _url(_login(group), self._passwords[group], self._layout.hosts(self._layout.postgres))

    async def prepare(self, primary: str) -> list[str]:
        """Makes owner, database, schema, groups and logins as far as they are missing, at the node that is the primary;
        returns when every standby has them too, with the revisions that it ran.

        Passwords are set each time: they are those of the data folder.
        """
        at = f"{HOST}:{self._layout.port(primary)}"
        superuser = _url(SUPERUSER, self._passwords["superuser"], at, "postgres")
        connection = await asyncpg.connect(superuser, timeout=_LOGIN_SECONDS_MAX)
        try:
            await until_synchronous(connection)
            await _log_in_as(connection, ROLE, self._passwords["owner"], "CREATEROLE")
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
            ran = await migrate(_url(ROLE, self._passwords["owner"], at), with_roles=True)
            for group in GROUPS:
                await _log_in_as(connection, _login(group), self._passwords[group])
                await connection.execute(f"GRANT holdfast_{group} TO {_login(group)}")
            await _until_replayed(connection)
        finally:
            await connection.close()
        return ran

    def _at_primary(self, role: str, password: str) -> str:
        hosts = self._layout.hosts(self._layout.postgres)
        return _url(role, password, hosts) + "?target_session_attrs=read-write"


def _url(role: str, password: str, hosts: str, database: str = DATABASE) -> str:
    return f"postgresql://{role}:{password}@{hosts}/{database}"


def _login(group: str) -> str:
    return f"{group}_service"


async def _log_in_as(
    connection: "asyncpg.Connection[asyncpg.Record]", role: str, password: str, power: str = ""
) -> None:
    exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
    await connection.execute(f"{'ALTER' if exists else 'CREATE'} ROLE {role} LOGIN {power} PASSWORD '{password}'")


async def until_synchronous(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Waits until commits wait for a standby. Raises Mendable where that does not come.

    The strict rule begins to hold when Patroni has met the first standby of a new cluster: until then a primary that
    was just made acknowledges what it alone has. Nothing is sold before.
    """
    deadline = clock.monotonic_seconds() + _REPLAY_SECONDS_MAX
    while not await connection.fetchval(_SYNCHRONOUS):
        if clock.monotonic_seconds() > deadline:
            raise Mendable("No standby of PostgreSQL is synchronous: see the logs of postgres-1 to postgres-3.")
        await asyncio.sleep(0.1)


async def _until_replayed(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Waits until the standbys that are there show what has been done: who logs in to one of them must be known."""
    position = await connection.fetchval("SELECT pg_current_wal_lsn()::text")
    deadline = clock.monotonic_seconds() + _REPLAY_SECONDS_MAX
    while await connection.fetchval(_BEHIND, position) and clock.monotonic_seconds() < deadline:
        await asyncio.sleep(0.05)
