"""The two engines that `holdfast up` runs itself, in its data folder: started, adopted, watched over and stopped."""

import asyncio
import socket
from dataclasses import dataclass

import asyncpg

from holdfast.engines.data_folder import DataFolder
from holdfast.engines.postgres_server import DATABASE, PostgresServer, socket_fits
from holdfast.engines.valkey_server import ValkeyServer

_LOGIN_SECONDS_MAX = 5.0


@dataclass(frozen=True)
class PrivateEngines:
    """The engines of one data folder. One that is None is given by its URL, and is no business of ours."""

    postgres: PostgresServer | None
    valkey: ValkeyServer | None

    def settle_ports(self) -> None:
        """Keeps the former ports unless someone else has them by now. The URLs hold from here on."""
        for server in (self.postgres, self.valkey):
            if server is not None and server.port is not None and server.process is None and not _is_free(server.port):
                server.port = free_port()

    async def start_valkey(self) -> bool:
        """Adopts or starts Valkey; answers whether it was adopted."""
        if self.valkey is None or await asyncio.to_thread(self.valkey.adopt):
            return True
        await asyncio.to_thread(self.valkey.start)
        return False

    async def start_postgres(self) -> bool:
        """Adopts, or makes and starts, PostgreSQL with its database; answers whether it was adopted."""
        if self.postgres is None or await self._adopt_postgres(self.postgres):
            return True
        await asyncio.to_thread(_start_anew, self.postgres)
        await _make_database(self.postgres)
        return False

    def stop(self, *, hurry: bool = False) -> None:
        """Stops both: the gate first, since what it knows is in the database too."""
        if self.valkey is not None:
            self.valkey.stop()
        if self.postgres is not None:
            self.postgres.stop(hurry=hurry)

    async def _adopt_postgres(self, postgres: PostgresServer) -> bool:
        if not await asyncio.to_thread(postgres.adopt):
            return False
        try:
            await _make_database(postgres)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True


def private_engines(folder: DataFolder, *, with_postgres: bool, with_valkey: bool) -> PrivateEngines:
    """The engines of this folder, at the addresses they had before."""
    secrets, before = folder.secrets(), folder.running()
    postgres, valkey = None, None
    if with_postgres:
        port = None if socket_fits(folder.sockets) else before.postgres_port or free_port()
        log = folder.logs / "postgres.log"
        postgres = PostgresServer(folder.cluster, folder.sockets, log, secrets.postgres_password, port)
    if with_valkey:
        port = before.valkey_port or free_port()
        valkey = ValkeyServer(folder.valkey, port, secrets.valkey_password, folder.logs / "valkey.log")
    return PrivateEngines(postgres, valkey)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As a server would: connections that are still fading away do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _start_anew(postgres: PostgresServer) -> None:
    postgres.stop()
    if not postgres.data.exists():
        postgres.create()
    postgres.start()


async def _make_database(postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres.url("postgres"), timeout=_LOGIN_SECONDS_MAX)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE}")
    finally:
        await connection.close()
