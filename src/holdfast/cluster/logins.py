"""Who may log in to the cluster's database: its owner, and a role for each service, member of that service's group."""

from collections.abc import Iterable

import asyncpg

from holdfast.cluster.layout import Layout
from holdfast.cluster.parts.postgres import SUPERUSER
from holdfast.engines.postgres_server import DATABASE, ROLE
from holdfast.schema.migrate import migrate

GROUPS = ("auth", "tickets", "orders", "workers")
_LOGIN_SECONDS_MAX = 30.0


class Logins:
    """The roles and the URLs by which they log in. Passwords are letters and digits."""

    def __init__(self, layout: Layout, passwords: dict[str, str]) -> None:
        self._layout = layout
        self._passwords = passwords

    @property
    def owner_url(self) -> str:
        """Of the owner of the database, at the primary."""
        return self._url(ROLE, self._passwords["owner"], primary=True)

    def url(self, group: str) -> str:
        """Of a service, at the primary."""
        return self._url(_login(group), self._passwords[group], primary=True)

    def replica_url(self, group: str) -> str:
        """Of a service, at any standby."""
        return self._url(_login(group), self._passwords[group], primary=False)

    def superuser_url(self, database: str = "postgres", *, primary: bool = True) -> str:
        """Of the superuser."""
        return self._url(SUPERUSER, self._passwords["superuser"], database, primary=primary, proxied=False)

    async def prepare(self) -> list[str]:
        """Makes owner, database, schema, groups and logins as far as they are missing; answers the revisions it ran.

        Passwords are set each time: they are those of the data folder.
        """
        connection = await asyncpg.connect(self.superuser_url(), timeout=_LOGIN_SECONDS_MAX)
        try:
            await _log_in_as(connection, ROLE, self._passwords["owner"], "CREATEROLE")
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
            ran = await migrate(self._url(ROLE, self._passwords["owner"], primary=True, proxied=False), with_roles=True)
            for group in GROUPS:
                await _log_in_as(connection, _login(group), self._passwords[group])
                await connection.execute(f"GRANT holdfast_{group} TO {_login(group)}")
        finally:
            await connection.close()
        return ran

    def _url(
        self, role: str, password: str, database: str = DATABASE, *, primary: bool, proxied: bool = True
    ) -> str:
        hosts = self._hosts(self._layout.postgres, proxied)
        wanted = "?target_session_attrs=read-write" if primary else ""
        return f"postgresql://{role}:{password}@{hosts}/{database}{wanted}"

    def _hosts(self, names: Iterable[str], proxied: bool) -> str:
        port = self._layout.reached_port if proxied else self._layout.port
        return ",".join(f"127.0.0.1:{port(name)}" for name in names)


def _login(group: str) -> str:
    return f"{group}_service"


async def _log_in_as(
    connection: "asyncpg.Connection[asyncpg.Record]", role: str, password: str, power: str = ""
) -> None:
    exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
    await connection.execute(f"{'ALTER' if exists else 'CREATE'} ROLE {role} LOGIN {power} PASSWORD '{password}'")
