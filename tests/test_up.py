"""`holdfast up`: ready when it says so, beside it the other commands, and nothing left when it stops."""

import asyncio
import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from conftest import Engines
from holdfast.engines.processes import Process, is_alive
from running_up import Up, command, secrets_of, wait_until

SENTENCE = re.compile(r"^[^\n]+: [^\n]+\.\n$")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up`, for all that do not end it."""
    running = Up(tmp_path_factory.mktemp("up") / "home").wait_ready()
    yield running
    running.stop()


def test_it_is_ready_when_it_says_so(up: Up) -> None:
    assert up.is_ready()
    assert up.answer["ready"] is True
    assert up.answer["seconds"] > 0
    assert up.answer["setup_link"].startswith(f"{up.url}/setup")


def test_the_demo_buyer_may_log_in(up: Up) -> None:
    body = json.dumps({"email": up.answer["demo_email"], "password": up.answer["demo_password"]}).encode()
    request = urllib.request.Request(f"{up.url}/users/login", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["token_type"] == "Bearer"


def test_the_demo_event_is_on_sale(up: Up) -> None:
    with urllib.request.urlopen(f"{up.url}/events", timeout=10) as answer:
        (event,) = json.load(answer)["data"]
    with urllib.request.urlopen(f"{up.url}/events/{event['id']}/tickets", timeout=10) as answer:
        tiers = json.load(answer)["data"]
    assert tiers
    assert all(tier["available"] == tier["capacity"] for tier in tiers)


def test_a_second_up_on_the_same_folder(up: Up) -> None:
    done = command("up", "--data", str(up.data), "--port", "0", home=up.home)
    assert (done.returncode, done.stdout) == (2, "")
    assert SENTENCE.match(done.stderr)
    assert "Another `holdfast up` runs on" in done.stderr
    assert up.is_ready()


def test_its_port_is_in_use(up: Up) -> None:
    port = up.url.rpartition(":")[2]
    data = up.home.with_name("other")
    done = command("up", "--data", str(data), "--port", port, "--json", home=up.home)
    assert done.returncode == 2
    assert SENTENCE.match(done.stderr)
    assert f"Port {port} on 127.0.0.1 is in use" in json.loads(done.stdout)["error"]
    assert not data.exists()


def test_migrate_beside_it(up: Up) -> None:
    done = command("migrate", "--data", str(up.data), "--json", home=up.home)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ran"] == []


def test_an_administrator_by_the_command_line(up: Up) -> None:
    arguments = ("admin", "create", "olga@example.org", "--password-stdin", "--data", str(up.data), "--json")
    done = command(*arguments, home=up.home, stdin="a long enough password\n")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["email"], answer["role"]) == ("olga@example.org", "admin")
    refused = command(*arguments, home=up.home, stdin="short\n")
    assert refused.returncode == 2
    assert SENTENCE.match(refused.stderr)


def test_nothing_secret_is_logged_or_listed(up: Up) -> None:
    hidden = [value.encode() for name, value in secrets_of(up).items() if name.endswith("_password")]
    hidden.append(up.answer["setup_link"].rpartition("#")[2].encode())
    assert len(hidden) == 4
    shown = [log.read_bytes() for log in (up.data / "logs").iterdir()]
    shown += [Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in up.everything()]
    shown.append(up.errors.read_bytes())
    assert not [secret for secret in hidden for text in shown if secret in text]


def test_nothing_is_left_outside_the_folder(up: Up) -> None:
    assert list(up.home.iterdir()) == []
    assert list(up.home.with_name("tmp").iterdir()) == []
    assert {part.name for part in up.home.parent.iterdir()} <= {"home", "tmp", "data", "errors.txt"}


def test_the_folder_is_for_its_owner_alone(up: Up) -> None:
    assert up.data.stat().st_mode & 0o777 == 0o700
    for part in up.data.iterdir():
        assert part.stat().st_mode & 0o077 == 0, part


@pytest.mark.parametrize("which", ["a server", "the worker", "Valkey", "PostgreSQL"])
def test_what_is_killed_is_started_again(up: Up, which: str) -> None:
    before = up.folder.running().children
    victim = {
        "a server": before[0].pid,
        "the worker": before[-1].pid,
        "Valkey": next(process.pid for process in up.engines() if "valkey" in _command_line(process)),
        "PostgreSQL": up.postmaster(),
    }[which]
    os.kill(victim, signal.SIGKILL)
    if which in ("a server", "the worker"):
        wait_until(lambda: up.folder.running().children != before)
    elif which == "PostgreSQL":
        wait_until(lambda: _selects(up, "SELECT 1"))
        assert up.postmaster() != victim
    else:
        wait_until(lambda: any("valkey" in _command_line(one) and one.pid != victim for one in up.engines()))
    wait_until(up.is_ready)
    assert "starting it again" in up.errors.read_text()


def _command_line(process: Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_text()
    except OSError:
        return ""


def _selects(up: Up, statement: str) -> bool:
    return _fetch(up, statement) is not None


def _fetch(up: Up, statement: str) -> object:
    async def fetch() -> object:
        connection = await asyncpg.connect(up.folder.running().settings["database_url"], timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    try:
        return asyncio.run(fetch())
    except (OSError, asyncpg.PostgresError):
        return None


def test_killed_and_begun_again(tmp_path: Path) -> None:
    first = Up(tmp_path / "home").wait_ready()
    engines, children = {first.postmaster()}, first.folder.running().children
    keys = first.folder.signing_key_file.read_bytes()
    first.kill()
    assert first.engines()

    second = Up(tmp_path / "home").wait_ready()
    try:
        assert {second.postmaster()} == engines
        assert second.folder.signing_key_file.read_bytes() == keys
        assert not [child for child in children if is_alive(child)]
        assert second.answer["demo_password"] == first.answer["demo_password"]
        assert second.is_ready()
    finally:
        running = second.everything()
        assert second.stop(signal.SIGTERM) == 0
    first.stop()
    assert running
    assert not [process for process in running if is_alive(process)]
    assert second.everything() == []


def test_ctrl_c_while_it_starts(tmp_path: Path) -> None:
    up = Up(tmp_path / "home")
    wait_until(lambda: bool(up.engines()))
    assert up.stop() == 0
    assert up.everything() == []
    assert up.answer == {}


def test_a_database_of_a_newer_release(tmp_path: Path) -> None:
    up = Up(tmp_path / "home", "--no-demo").wait_ready()
    assert up.answer["demo_password"] is None
    assert _fetch(up, "UPDATE alembic_version SET version_num = '9999' RETURNING version_num") == "9999"
    assert up.stop() == 0
    done = command("up", "--data", str(up.data), "--port", "0", home=up.home)
    assert done.returncode == 2
    assert "schema 9999 of a newer Holdfast" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert up.everything() == []


def test_engines_that_are_given(tmp_path: Path, engines: Engines, database_url: str) -> None:
    given = {"HOLDFAST_DATABASE_URL": database_url, "HOLDFAST_GATE_URL": engines.valkey.url}
    up = Up(tmp_path / "home", "--workers", "1", environment=given).wait_ready()
    try:
        assert up.is_ready()
        assert up.engines() == []
        assert list(up.folder.cluster.parent.iterdir()) == []
    finally:
        assert up.stop() == 0
    assert engines.valkey.answers()


@pytest.mark.parametrize(
    ("options", "environment", "sentence"),
    [
        (["--host", "0.0.0.0"], {}, "The demo is only for this machine"),
        (["--host", "no such host"], {}, "is not an address of this machine"),
        (["--host", "192.0.2.1", "--no-demo"], {}, "192.0.2.1 is not an address of this machine"),
        ([], {"HOLDFAST_HOLD_SECONDS_DEFAULT": "soon"}, "HOLDFAST_HOLD_SECONDS_DEFAULT"),
        ([], {"HOLDFAST_DATABASE_URL": "postgresql://127.0.0.1:9/none"}, "The database of HOLDFAST_DATABASE_URL"),
    ],
)
def test_what_cannot_be(tmp_path: Path, options: list[str], environment: dict[str, str], sentence: str) -> None:
    data = tmp_path / "data"
    done = command("up", "--data", str(data), "--port", "0", *options, home=tmp_path / "home", **environment)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert data.exists() == ("HOLDFAST_DATABASE_URL" in environment)


def test_a_foreign_folder_is_refused_undamaged(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "thesis.tex").write_text("mine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = command("up", "--data", str(data), "--port", str(port), home=tmp_path / "home")
    assert done.returncode == 2
    assert SENTENCE.match(done.stderr)
    assert [part.name for part in data.iterdir()] == ["thesis.tex"]
