"""A server or a worker that cannot serve says so in one sentence before it starts, and ends with status 2."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from conftest import Engines, free_port
from holdfast import clock
from holdfast.assemble import check as checking
from holdfast.assemble import check_database
from holdfast.doctor.checks import check_database as examine_database
from holdfast.doctor.replicas import check_replicas
from holdfast.errors import Mendable
from holdfast.schema.migrate import known_revisions, migrate
from holdfast.settings import Settings
from postgres_trio import Trio, run_on
from running_up import command


def with_url(settings: Settings, url: str) -> Settings:
    """The same settings with another database."""
    return settings.model_copy(update={"database_url": type(settings.database_url)(url), "database_timeout_seconds": 2})


async def refusal(settings: Settings) -> str:
    """The sentence with which this database is refused."""
    with pytest.raises(Mendable) as refused:
        await check_database(settings)
    return str(refused.value)


@contextmanager
def talking_nonsense(answer: bytes) -> Iterator[int]:
    """A server that is no PostgreSQL; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


async def test_what_is_well_is_let_pass(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    await check_database(settings)
    assert "clock" not in capsys.readouterr().out


async def test_nobody_is_there(settings: Settings) -> None:
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    said = await refusal(with_url(settings, f"postgresql://u:secret@{hosts}/x"))
    assert said.startswith(f"PostgreSQL does not answer at {hosts.replace(',', ', ')} (")
    assert said.endswith("see that it runs and that HOLDFAST_DATABASE_URL is right.")
    assert "secret" not in said


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n", b""])
async def test_another_engine(settings: Settings, answer: bytes) -> None:
    with talking_nonsense(answer) as port:
        said = await refusal(with_url(settings, f"postgresql://u:p@127.0.0.1:{port}/x"))
    assert said.startswith(f"PostgreSQL does not answer at 127.0.0.1:{port} (")


async def test_a_wrong_password_and_a_wrong_name(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    password = url.split("@")[0].rpartition(":")[2]
    for wrong in (url.replace(f":{password}@", ":wrong@"), url.replace("/test_", "/nowhere_")):
        said = await refusal(with_url(settings, wrong))
        assert "does not let us in" in said
        assert said.endswith("put HOLDFAST_DATABASE_URL right.")


@pytest.mark.parametrize("url", ["postgresql://u:p@host:nonsense/x", "valkey://127.0.0.1:1/x"])
async def test_no_url(settings: Settings, url: str) -> None:
    assert "HOLDFAST_DATABASE_URL" in await refusal(with_url(settings, url))


@pytest.mark.parametrize("url", ["nonsense", "postgresql://u:p@host:nonsense/x", "valkey://127.0.0.1:1/x"])
async def test_no_url_of_replicas(settings: Settings, url: str) -> None:
    given = settings.model_copy(update={"replica_database_url": type(settings.database_url)(url)})
    assert (await refusal(given)).startswith("HOLDFAST_REPLICA_DATABASE_URL cannot be read: ")


async def test_a_replica_given_as_the_primary(settings: Settings, trio: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_CHOOSING_SECONDS", 0.5)
    first, second = trio.standbys
    for names in ((first,), (first, second)):
        given = with_url(settings, trio.url("template_holdfast", *names))
        assert (await refusal(given)).startswith("HOLDFAST_DATABASE_URL names a replica and no primary (127.0.0.1:")
        (found,) = await examine_database(given)
        assert (found.ok, found.detail) == (False, "this is a replica")
    await check_database(with_url(settings, trio.url("template_holdfast", first, second, trio.primary.name)))


def test_a_replica_cannot_be_migrated(running_three: Trio, tmp_path: Path) -> None:
    done = command(
        "migrate",
        home=tmp_path / "home",
        HOLDFAST_DATABASE_URL=running_three.url("template_holdfast", running_three.standbys[0]),
    )
    assert done.stderr == (
        "The database is a replica, which cannot be migrated: give the primary's address in HOLDFAST_DATABASE_URL.\n"
    )
    assert done.returncode == 2


async def test_the_doctor_looks_at_replicas(settings: Settings, trio: Trio) -> None:
    given = settings.model_copy(
        update={name: type(settings.database_url)(url) for name, url in trio.settings_urls("template_holdfast").items()}
        | {"database_timeout_seconds": 1}
    )

    async def found() -> dict[str, str]:
        hosts = {node.host: name for name, node in trio.nodes.items()}
        return {hosts[check.name.removeprefix("replica ")]: check.detail for check in await check_replicas(given)}

    first, second = trio.standbys
    assert await found() == {trio.primary.name: "is the primary now", first: "keeps up", second: "keeps up"}
    await trio.pause(first)
    trio.nodes[second].freeze()
    await run_on(trio.url("postgres", trio.primary.name), "SELECT pg_switch_wal()")
    told = await found()
    assert "KiB behind the primary" in told[first]
    assert told[second].startswith("TimeoutError")


async def test_a_host_that_is_frozen_does_not_keep_anyone(settings: Settings, trio: Trio) -> None:
    first, second = trio.standbys
    trio.nodes[first].freeze()
    began = clock.monotonic_seconds()
    assert await migrate(trio.url("template_holdfast", first, second, trio.primary.name)) == []
    assert clock.monotonic_seconds() - began < 10


async def test_a_schema_of_another_release(settings: Settings) -> None:
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        known = known_revisions()
        await connection.execute("UPDATE alembic_version SET version_num = $1", known[-2])
        assert (await refusal(settings)).endswith(f"this release needs {known[-1]}: run `holdfast migrate`.")
        await connection.execute("DROP TABLE alembic_version")
        assert (await refusal(settings)).startswith("The database has schema none, ")
        # A newer one: its release promises that this one runs on it.
        await connection.execute("CREATE TABLE alembic_version AS SELECT '9999' AS version_num")
        await check_database(settings)
    finally:
        await connection.close()


@pytest.mark.parametrize(("minutes", "word"), [(5, "ahead of"), (-5, "behind")])
async def test_clocks_that_differ(
    settings: Settings,
    minutes: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checking, "unix_seconds", lambda: clock.unix_seconds() + 60 * minutes)
    await check_database(settings)
    assert f"this machine's clock is 300 s {word} PostgreSQL's" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("serve", "tickets", "--port", "0"), ("work", "expiry")])
def test_the_commands_refuse(engines: Engines, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = command(*arguments, home=tmp_path / "home", HOLDFAST_DATABASE_URL=engines.postgres.url("no_such_database"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("PostgreSQL at ")
    assert "Traceback" not in done.stderr
