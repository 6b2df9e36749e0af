"""The private engines: made, adopted after a crash of who started them, and never confused by what lies about."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from holdfast.engines.data_folder import DataFolder, Running
from holdfast.engines.postgres_server import PostgresServer, socket_fits
from holdfast.engines.private_engines import PrivateEngines, free_port, private_engines
from holdfast.engines.processes import running_in
from holdfast.engines.valkey_server import ValkeyServer
from holdfast.errors import Mendable


class Machine:
    """One data folder with its engines; `again` is what the next `up` makes of it."""

    def __init__(self, path: Path) -> None:
        self.folder = DataFolder(path)
        self.folder.open()
        self.made: list[PrivateEngines] = []

    def again(self) -> PrivateEngines:
        engines = private_engines(self.folder, with_postgres=True, with_valkey=True)
        engines.settle_ports()
        postgres, valkey = engines.postgres, engines.valkey
        assert postgres is not None
        assert valkey is not None
        self.folder.note(Running(postgres_port=postgres.port, valkey_port=valkey.port))
        self.made.append(engines)
        return engines

    def close(self) -> None:
        # All of them: who started an engine has to take note of its end.
        for engines in self.made:
            engines.stop(hurry=True)
        self.folder.close()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """An empty data folder, whose engines are ended afterwards."""
    made = Machine(tmp_path / "data")
    yield made
    made.close()


def parts(engines: PrivateEngines) -> tuple[PostgresServer, ValkeyServer]:
    assert engines.postgres is not None
    assert engines.valkey is not None
    return engines.postgres, engines.valkey


async def start(engines: PrivateEngines) -> bool:
    valkey, postgres = await asyncio.gather(engines.start_valkey(), engines.start_postgres())
    assert valkey == postgres
    return postgres


async def execute(postgres: PostgresServer, statement: str) -> object:
    connection = await asyncpg.connect(postgres.url())
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_engines_left_behind_are_adopted(machine: Machine) -> None:
    first = machine.again()
    assert not await start(first)
    second = machine.again()
    assert await start(second)
    assert [one.process for one in parts(first)] == [one.process for one in parts(second)]
    assert second.valkey is not None
    assert second.valkey.answers()
    second.stop()
    assert [one.process for one in parts(second)] == [None, None]
    assert running_in(machine.folder.cluster, "postgres") == []


async def test_no_password_can_be_seen_in_the_list_of_processes(machine: Machine) -> None:
    engines = machine.again()
    await start(engines)
    secrets = machine.folder.secrets()
    running = running_in(machine.folder.cluster, "postgres") + running_in(machine.folder.valkey, "valkey-server")
    assert len(running) > 2
    for process in running:
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
        assert secrets.postgres_password.encode() not in shown
        assert secrets.valkey_password.encode() not in shown


async def test_both_engines_ask_for_the_password(machine: Machine) -> None:
    engines = machine.again()
    await start(engines)
    postgres, valkey = parts(engines)
    mallory = PostgresServer(postgres.data, postgres.socket_folder, postgres.log, "guess", postgres.port)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await execute(mallory, "SELECT 1")
    assert not ValkeyServer(valkey.folder, valkey.port, "guess").answers()
    assert await execute(postgres, "SELECT 1") == 1
    assert valkey.answers()


async def test_what_was_committed_survives_a_killed_postmaster(machine: Machine) -> None:
    engines = machine.again()
    await start(engines)
    postgres, _ = parts(engines)
    await execute(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert postgres.process is not None
    os.kill(postgres.process.pid, signal.SIGKILL)
    await asyncio.to_thread(postgres.start)
    assert await execute(postgres, "SELECT answer FROM kept") == 42


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has nothing to do with us."""
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


async def test_a_pid_file_that_names_a_stranger(
    machine: Machine, stranger: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = machine.again()
    await start(engines)
    engines.stop()
    postgres, _ = parts(engines)
    # As a power cut leaves it, when the pid has come to be another's since.
    (postgres.data / "postmaster.pid").write_text(f"{stranger.pid}\n{postgres.data}\n1\n5432\n\n\n\nready\n")
    (postgres.socket_folder / ".s.PGSQL.5432.lock").write_text(f"{stranger.pid}\n{postgres.data}\n1\n5432\n\n")
    assert postgres.process is None
    # The control: PostgreSQL alone believes the file.
    with monkeypatch.context() as unguarded:
        unguarded.setattr(PostgresServer, "_end_leftovers", lambda self: None)
        with pytest.raises(Mendable, match="already exists"):
            postgres.start()
    assert not await start(machine.again())
    assert stranger.poll() is None


async def test_a_first_start_that_was_cut_off_is_made_again(machine: Machine) -> None:
    unfinished = machine.folder.cluster.with_name("cluster.new")
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    assert not await start(machine.again())
    assert not unfinished.exists()
    assert not (machine.folder.sockets / "postgres-password").exists()


async def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    machine = Machine(tmp_path / ("long" * 30) / "data")
    try:
        assert not socket_fits(machine.folder.sockets)
        engines = machine.again()
        await start(engines)
        postgres, _ = parts(engines)
        assert postgres.port is not None
        assert await execute(postgres, "SELECT 1") == 1
        assert await start(machine.again())
    finally:
        machine.close()


async def test_a_path_with_signs_that_mean_something(tmp_path: Path) -> None:
    machine = Machine(tmp_path / """o'clock "%41 票#?&""")
    try:
        engines = machine.again()
        await start(engines)
        assert await execute(parts(engines)[0], "SELECT 1") == 1
    finally:
        machine.close()


async def test_a_port_that_someone_else_has_by_now(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken: int = stranger.getsockname()[1]
        machine.folder.note(Running(valkey_port=taken))
        engines = machine.again()
        assert parts(engines)[1].port != taken
        await start(engines)


def test_a_port_that_is_free_is_kept(machine: Machine) -> None:
    port = free_port()
    machine.folder.note(Running(valkey_port=port))
    assert parts(machine.again())[1].port == port
