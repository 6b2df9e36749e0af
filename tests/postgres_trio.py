"""A primary and two standbys that stream from it: PostgreSQL on three loopback ports, to be frozen and killed.

Commits wait for one of the two standbys (`ANY 1`), as on a real cluster. Who is promoted and who follows whom is done
here by hand; on a real cluster Patroni does it.
"""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import asyncpg

from holdfast.clock import monotonic_seconds
from holdfast.engines.postgres_server import ROLE, PostgresServer, binaries
from holdfast.engines.private_engines import free_port
from holdfast.engines.unprivileged import unprivileged_prefix
from holdfast.schema.migrate import migrate

TEMPLATE = "template_holdfast"
NAMES = ("ann", "ben", "cat")


class Node(NamedTuple):
    """One of the three."""

    name: str
    server: PostgresServer

    @property
    def host(self) -> str:
        """Its address."""
        return f"127.0.0.1:{self.server.port}"

    def freeze(self) -> None:
        """Stops every process of it where it stands; its kernel goes on acknowledging."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9 of all of it."""
        self._signal(signal.SIGKILL)
        self.server.stop(hurry=True)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = self.server.process
        assert postmaster is not None
        children = Path(f"/proc/{postmaster.pid}/task/{postmaster.pid}/children").read_text().split()
        for pid in [postmaster.pid, *map(int, children)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


class Trio:
    """The three of them. The first is the primary at first."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        password = secrets.token_hex(16)
        self.nodes = {
            name: Node(name, PostgresServer(folder / name, folder, folder / f"{name}.log", password, port=free_port()))
            for name in NAMES
        }
        self.primary = self.nodes["ann"]

    @property
    def standbys(self) -> tuple[str, str]:
        """The names of the other two."""
        first, second = (name for name, node in self.nodes.items() if node is not self.primary)
        return first, second

    def start(self) -> None:
        """Makes and starts all three, with a migrated template database."""
        ann = self.primary.server
        ann.create()
        _configure(ann.data, {"max_connections": "100", "shared_buffers": "32MB", "max_wal_senders": "8"})
        # Processes die here, and machines do not: what a kernel was given is kept, and copying three clusters is quick.
        _configure(ann.data, {"fsync": "off", "full_page_writes": "off", "max_wal_size": "128MB"})
        # A short silence, so that a standby whose primary was killed or frozen notices and can follow another one.
        _configure(ann.data, {"wal_receiver_timeout": "2s", "wal_retrieve_retry_interval": "100ms"})
        ann.start()
        for name in ("ben", "cat"):
            self._copy(name)
        asyncio.run(self._prepare())

    def stop(self) -> None:
        """Stops whatever runs."""
        for node in self.nodes.values():
            if node.server.process is not None:
                node.thaw()
            node.server.stop(hurry=True)

    def url(self, database: str, *names: str) -> str:
        """A URL of several hosts: all of them, or those of these names, in that order."""
        hosts = ",".join(self.nodes[name].host for name in names or NAMES)
        return f"postgresql://{ROLE}:{quote(self.primary.server.password)}@{hosts}/{database}"

    def settings_urls(self, database: str) -> dict[str, str]:
        """Both URLs of the settings, each with all hosts."""
        return {"database_url": self.url(database), "replica_database_url": self.url(database)}

    async def promote(self, name: str) -> None:
        """Makes a standby the primary; returns when it is. Nobody follows it yet."""
        await run_on(self.url("postgres", name), "SELECT pg_promote(true, 60)")
        self.primary = self.nodes[name]

    async def follow(self, name: str) -> None:
        """Has a standby follow the present primary, which then waits for it."""
        node = self.nodes[name]
        await run_on(self.url("postgres", name), f"ALTER SYSTEM SET primary_conninfo = '{self._conninfo(name)}'")
        await run_on(self.url("postgres", name), "SELECT pg_reload_conf()")
        await self.wait_for_standbys(name)
        assert node is not self.primary

    async def require(self, *names: str) -> None:
        """Has the primary's commits wait for one of these."""
        wanted = f"ANY 1 ({', '.join(names)})" if names else ""
        await run_on(
            self.url("postgres", self.primary.name), f"ALTER SYSTEM SET synchronous_standby_names = '{wanted}'"
        )
        await run_on(self.url("postgres", self.primary.name), "SELECT pg_reload_conf()")

    async def wait_for_standbys(self, *names: str) -> None:
        """Waits until these stream from the primary."""
        async with asyncio.timeout(60):
            while not await run_on(
                self.url("postgres", self.primary.name),
                f"SELECT count(*) = {len(names)} FROM pg_stat_replication WHERE state = 'streaming' "
                f"AND application_name IN ({', '.join(repr(name) for name in names)})",
            ):
                await asyncio.sleep(0.05)

    async def pause(self, *names: str) -> None:
        """Has standbys receive the log, and replay nothing of it for now."""
        for name in names:
            await run_on(self.url("postgres", name), "SELECT pg_wal_replay_pause()")
        async with asyncio.timeout(30):
            for name in names:
                while await run_on(self.url("postgres", name), "SELECT pg_get_wal_replay_pause_state()") != "paused":
                    await asyncio.sleep(0.01)

    async def resume(self, *names: str) -> None:
        """Has standbys replay again."""
        for name in names:
            await run_on(self.url("postgres", name), "SELECT pg_wal_replay_resume()")

    async def caught_up(self, *names: str) -> None:
        """Waits until these have replayed what the primary has written by now."""
        end = await run_on(self.url("postgres", self.primary.name), "SELECT pg_current_wal_flush_lsn()::text")
        async with asyncio.timeout(30):
            for name in names:
                while not await run_on(self.url("postgres", name), f"SELECT pg_last_wal_replay_lsn() >= '{end}'"):
                    await asyncio.sleep(0.01)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The name of a fresh, migrated database, known to every standby."""
        name = f"test_{secrets.token_hex(6)}"
        await run_on(self.url("postgres", self.primary.name), f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        await self.caught_up(*self.standbys)
        yield name

    async def heal(self) -> None:
        """Makes it a primary with two standbys again, whatever a test has done to it."""
        for name, node in self.nodes.items():
            if node.server.process is not None:
                node.thaw()
            if node is not self.primary and not await self._follows(name):
                node.server.stop(hurry=True)
                shutil.rmtree(node.server.data)
                await asyncio.to_thread(self._copy, name)
        await self.resume(*self.standbys)
        await self.wait_for_standbys(*self.standbys)
        await self.require(*self.standbys)

    async def _follows(self, name: str) -> bool:
        following = f"SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{name}')"
        return bool(await run_on(self.url("postgres", self.primary.name), following))

    def _copy(self, name: str) -> None:
        node = self.nodes[name].server
        command = [
            *unprivileged_prefix(), str(binaries() / "pg_basebackup"), "-D", str(node.data), "-R", "-X", "stream",
            "-c", "fast", "--no-sync", "-d", self._conninfo(name),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        node.data.chmod(0o700)
        node.start()

    def _conninfo(self, name: str) -> str:
        server = self.primary.server
        return (
            f"host=127.0.0.1 port={server.port} user={ROLE} password={server.password} application_name={name} "
            "connect_timeout=5"
        )

    async def _prepare(self) -> None:
        await run_on(self.url("postgres", "ann"), f"CREATE DATABASE {TEMPLATE}")
        await migrate(self.url(TEMPLATE, "ann"))
        await self.wait_for_standbys("ben", "cat")
        await self.require("ben", "cat")
        await self.caught_up("ben", "cat")


def _configure(data: Path, settings: dict[str, str]) -> None:
    """Settings that outlive `start`, which writes the other file anew."""
    with (data / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


async def run_on(url: str, statement: str) -> Any:
    """The first value of one statement, on one server."""
    connection = await asyncpg.connect(url, timeout=20)
    try:
        return await connection.fetchval(statement)
    finally:
        connection.terminate()


@contextmanager
def running_trio(folder: Path) -> Iterator[Trio]:
    """Three running servers."""
    trio = Trio(folder)
    try:
        trio.start()
        yield trio
    finally:
        trio.stop()


async def until(is_so: Callable[[], Any], seconds: float = 30.0) -> None:
    """Waits for it."""
    deadline = monotonic_seconds() + seconds
    while not is_so():
        assert monotonic_seconds() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)
