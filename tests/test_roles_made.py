"""The services' database roles are made all or none, by two databases at once too, and have no powers of their own."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from conftest import TEMPLATE, Engines
from holdfast.errors import Mendable
from holdfast.schema.migrate import migrate
from holdfast.schema.roles import ROLES
from running_up import command
from service_roles import drop_roles

EXIST = "SELECT rolname FROM pg_roles WHERE rolname LIKE 'holdfast\\_%' ORDER BY 1"
MAY_SELL = "SELECT has_function_privilege('holdfast_orders', 'tickets.hold(uuid[], integer[])', 'EXECUTE')"


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the database's owner; the groups are gone afterwards."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await drop_roles(connection, *ROLES)
    await connection.close()


async def test_two_databases_may_make_them_at_once(
    engines: Engines, database_url: str, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    other = f"test_{secrets.token_hex(6)}"
    await owner.execute(f"CREATE DATABASE {other} TEMPLATE {TEMPLATE}")
    urls = [database_url, engines.postgres.url(other)]
    try:
        await asyncio.gather(*(migrate(url, with_roles=True) for url in urls * 4))
        assert [row[0] for row in await owner.fetch(EXIST)] == sorted(ROLES)
        for url in urls:
            connection = await asyncpg.connect(url)
            assert await connection.fetchval(MAY_SELL)
            await connection.close()
    finally:
        await owner.execute(f"DROP DATABASE {other} WITH (FORCE)")


async def test_without_roles_the_owner_has_it_all(
    database_url: str, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await migrate(database_url)
    assert await owner.fetch(EXIST) == []


async def test_half_a_set_is_refused(database_url: str, owner: "asyncpg.Connection[asyncpg.Record]") -> None:
    await owner.execute("CREATE ROLE holdfast_tickets; CREATE ROLE holdfast_workers")
    with pytest.raises(Mendable, match="holdfast_auth, holdfast_orders are missing: make them with"):
        await migrate(database_url)
    await migrate(database_url, with_roles=True)
    assert await owner.fetchval(MAY_SELL)


@pytest.mark.parametrize(
    ("power", "said"),
    [
        ("ALTER ROLE holdfast_auth LOGIN", "holdfast_auth may log in"),
        ("ALTER ROLE holdfast_orders SUPERUSER", "holdfast_orders is a superuser"),
        ("GRANT holdfast_auth TO holdfast_orders", "holdfast_orders is a member of another role"),
    ],
)
async def test_powers_besides_are_refused(
    database_url: str, owner: "asyncpg.Connection[asyncpg.Record]", power: str, said: str
) -> None:
    await migrate(database_url, with_roles=True)
    await owner.execute(power)
    with pytest.raises(Mendable, match=said):
        await migrate(database_url)


async def test_a_place_to_make_objects_in_is_refused(
    database_url: str, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await owner.execute("CREATE SCHEMA another; GRANT CREATE ON SCHEMA another TO PUBLIC")
    with pytest.raises(Mendable, match="REVOKE CREATE ON SCHEMA another FROM PUBLIC"):
        await migrate(database_url, with_roles=True)
    assert not await owner.fetchval(MAY_SELL)


async def test_the_command_makes_them_and_says_who_may_not(
    database_url: str, owner: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    home = tmp_path / "home"
    name, password = f"olga_{secrets.token_hex(4)}", secrets.token_hex(8)
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
    await owner.execute(f"GRANT SELECT ON public.alembic_version TO {name}")
    at = urlsplit(database_url)
    hers = at._replace(netloc=f"{name}:{password}@{at.netloc.rpartition('@')[2]}").geturl()

    def run(url: str) -> tuple[int, dict[str, object]]:
        done = command("migrate", "--create-roles", "--json", home=home, HOLDFAST_DATABASE_URL=url)
        return done.returncode, json.loads(done.stdout)

    try:
        status, answer = await asyncio.to_thread(run, hers)
        assert (status, await owner.fetch(EXIST)) == (2, [])
        assert "one with CREATEROLE" in str(answer["error"])
        status, answer = await asyncio.to_thread(run, database_url)
        assert (status, answer["ran"], await owner.fetchval(MAY_SELL)) == (0, [], True)
    finally:
        await drop_roles(owner, name)
