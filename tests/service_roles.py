"""Database roles for the services of one test: the groups, their grants, and one role for each that logs in."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import asyncpg

from holdfast.engines.database import Connection
from holdfast.schema.migrate import migrate
from holdfast.schema.roles import ROLES
from holdfast.settings import Settings

SERVICES = ("auth", "tickets", "orders", "workers")


class Logins(NamedTuple):
    """The roles that log in. A server has roles once, not in each database: their names are this test's own."""

    owner: Settings
    names: dict[str, str]
    urls: dict[str, str]

    def settings(self, service: str, **changed: object) -> Settings:
        """The owner's settings as a process of this service has them."""
        return Settings(**{**self.owner.model_dump(), "database_url": self.urls[service], **changed})

    @asynccontextmanager
    async def connected(self, service: str) -> AsyncIterator[Connection]:
        """A connection of this service's role; of the owner's, for `owner`."""
        url = self.owner.database_url.get_secret_value() if service == "owner" else self.urls[service]
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def logins(settings: Settings) -> AsyncIterator[Logins]:
    """The groups with their grants in this database, and a login of each. All roles are gone afterwards."""
    url = settings.database_url.get_secret_value()
    await migrate(url, with_roles=True)
    names, urls = {}, {}
    connection = await asyncpg.connect(url)
    try:
        for service in SERVICES:
            names[service] = f"{service}_{secrets.token_hex(4)}"
            password = secrets.token_hex(12)
            await connection.execute(
                f"CREATE ROLE {names[service]} LOGIN PASSWORD '{password}' IN ROLE holdfast_{service}"
            )
            at = urlsplit(url)
            host = at.netloc.rpartition("@")[2]
            urls[service] = at._replace(netloc=f"{names[service]}:{password}@{host}").geturl()
        yield Logins(settings, names, urls)
    finally:
        await drop_roles(connection, *names.values(), *ROLES)
        await connection.close()


async def drop_roles(connection: Connection, *roles: str) -> None:
    """Drops roles that have rights in this database alone."""
    for role in roles:
        if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
