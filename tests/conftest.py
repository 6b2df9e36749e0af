"""The engines of the tests: a real PostgreSQL and a real Valkey, started once, and a fresh database for each test."""

import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from box_office import Desk, open_desk
from holdfast.auth.signing_keys import create_signing_keys
from holdfast.engines.database import Pool, open_pool
from holdfast.engines.postgres_server import PostgresServer
from holdfast.engines.valkey_server import ValkeyServer
from holdfast.schema.migrate import migrate
from holdfast.settings import Settings
from postgres_trio import Trio, running_trio

pytest_plugins = ("kafka_house",)

TEMPLATE = "template_holdfast"


class Engines(NamedTuple):
    """The running engines of this test session."""

    postgres: PostgresServer
    valkey: ValkeyServer
    signing_key_file: Path


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    """PostgreSQL with a migrated template database, and Valkey."""
    import asyncio

    folder = tmp_path_factory.mktemp("engines")
    folder.chmod(0o700)
    postgres = PostgresServer(folder / "postgres", folder, folder / "postgres.log", secrets.token_urlsafe(16))
    postgres.create()
    postgres.start()
    valkey = ValkeyServer(folder / "valkey", free_port(), secrets.token_urlsafe(16))
    valkey.start()
    signing_key_file = folder / "signing-keys.json"
    create_signing_keys(signing_key_file)

    async def make_template() -> None:
        connection = await asyncpg.connect(postgres.url("postgres"))
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        await connection.close()
        await migrate(postgres.url(TEMPLATE))

    try:
        asyncio.run(make_template())
        yield Engines(postgres, valkey, signing_key_file)
    finally:
        postgres.stop()
        valkey.stop()


@pytest.fixture(scope="session")
def running_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """A primary and two standbys, for the whole session."""
    with running_trio(tmp_path_factory.mktemp("trio")) as trio:
        yield trio


@pytest.fixture
async def trio(running_three: Trio) -> AsyncIterator[Trio]:
    """A primary and two standbys, all of them well."""
    yield running_three
    await running_three.heal()


@pytest.fixture
async def database_url(engines: Engines) -> AsyncIterator[str]:
    """The URL of a fresh, migrated database, dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(engines.postgres.url("postgres"))
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield engines.postgres.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def settings(engines: Engines, database_url: str) -> Settings:
    """Settings for the fresh database and the session's Valkey."""
    return Settings(
        database_url=database_url,  # type: ignore[arg-type]
        gate_url=engines.valkey.url,  # type: ignore[arg-type]
        signing_key_file=engines.signing_key_file,
    )


@pytest.fixture
async def pool(settings: Settings) -> AsyncIterator[Pool]:
    """A pool on the fresh database."""
    opened = await open_pool(settings)
    yield opened
    await opened.close()


@pytest.fixture
async def desk(settings: Settings, pool: Pool) -> AsyncIterator[Desk]:
    """One process's order service, with a gate."""
    async with open_desk(settings, pool) as opened:
        yield opened
