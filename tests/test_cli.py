"""The command line's frame: help for every command, one sentence and status 2 for what cannot be."""

import json
from pathlib import Path

import pytest

from holdfast import __version__
from holdfast.assemble import ROLES, WORKERS
from holdfast.cli.main import COMMANDS
from holdfast.cli.serve import Role
from holdfast.cli.work import Worker
from running_up import command


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home where no `up` runs."""
    return tmp_path / "home"


def test_the_version(home: Path) -> None:
    done = command("--version", home=home)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"holdfast {__version__}\n", "")


def test_the_help_names_every_command(home: Path) -> None:
    done = command("--help", home=home)
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(home: Path, name: str) -> None:
    done = command(name, "--help", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["up", "--port", "70000"], ["up", "--workers", "0"], ["serve", "everything"], ["work", "nothing"]],
)
def test_a_usage_error(home: Path, arguments: list[str]) -> None:
    done = command(*arguments, home=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error:" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["migrate"], ["serve", "all", "--port", "0"], ["work", "all"], ["admin", "create", "olga@example.org"]],
)
def test_no_up_runs(home: Path, arguments: list[str]) -> None:
    done = command(*arguments, "--data", str(home / "data"), home=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("No `holdfast up` runs on")
    assert len(done.stderr.splitlines()) == 1


def test_every_worker_and_role_has_a_command() -> None:
    assert {worker.value for worker in Worker} == {*WORKERS, "all"}
    assert {role.value for role in Role} == {*ROLES, "all"}


def test_a_refusal_as_json(home: Path) -> None:
    done = command("migrate", "--json", "--data", str(home / "data"), home=home)
    assert done.returncode == 2
    assert json.loads(done.stdout) == {"error": done.stderr.rstrip("\n")}
