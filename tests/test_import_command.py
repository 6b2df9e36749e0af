"""`holdfast events` from the command line, beside running engines."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from holdfast.engines.database import Pool
from holdfast.settings import Settings
from ticket_house import CATALOGUES


class Shell(NamedTuple):
    """Runs the command against this test's database."""

    settings: Settings
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command `holdfast events …`, run in an empty folder."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        environment["HOLDFAST_DATABASE_URL"] = self.settings.database_url.get_secret_value()
        command = [sys.executable, "-m", "holdfast.cli.main", "events", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        """The one JSON object that it prints."""
        done = self.run(*arguments, "--json")
        assert done.returncode == status, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@pytest.fixture
def shell(settings: Settings, tmp_path: Path) -> Shell:
    return Shell(settings, tmp_path)


def test_import_and_list(shell: Shell) -> None:
    page = str(CATALOGUES / "concert.html")
    first = shell.json("import", page)
    assert (first["taken"], first["created"]) == (1, 1)
    assert first["refused"][1] == {"line": 15, "pointer": "/offers/2/price", "reason": first["refused"][1]["reason"]}
    assert shell.json("import", page)["unchanged"] == 1
    (event,) = shell.json("list")["data"]
    assert (event["name"], event["status"]) == ("The Tidal Lanterns & Friends", "published")
    assert (event["tiers"], event["capacity"], event["held"], event["sold"]) == (2, 650, 0, 0)
    shown = shell.run("import", page).stdout.splitlines()
    assert shown[0] == "1 events taken: 0 created, 0 updated, 1 unchanged; 2 things refused."
    assert shown[2].startswith("refused: line 15 /offers/2/price: price is")
    assert "The Tidal Lanterns & Friends" in shell.run("list").stdout


def test_the_format_is_sniffed(shell: Shell) -> None:
    for name in ("festival.jsonld", "summer.csv", "concert.html"):
        copy = shell.folder / "catalogue"
        copy.write_bytes((CATALOGUES / name).read_bytes())
        assert shell.json("import", str(copy))["created"] > 0, name


def test_exit_status_1_when_nothing_is_taken(shell: Shell) -> None:
    (shell.folder / "x.csv").write_text("name,starts_at,price\nConcert,2027-03-01,100\n")
    answer = shell.json("import", "x.csv", status=1)
    assert answer["refused"] == [{"line": 1, "reason": "the header has no column capacity"}]
    assert shell.json("import", "x.csv", "--default-capacity", "5")["created"] == 1


@pytest.mark.parametrize("name", ["missing.csv", ".", "big.csv"])
def test_a_file_that_cannot_be_read(shell: Shell, name: str) -> None:
    with (shell.folder / "big.csv").open("wb") as big:
        big.truncate(16 * 1024 * 1024 + 1)
    done = shell.run("import", name)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(name)
    assert done.stderr.count("\n") == 1
    assert list(shell.json("import", name, status=2)) == ["error"]


def test_without_an_up(shell: Shell) -> None:
    gone = shell.settings.model_copy(
        update={"database_url": type(shell.settings.database_url)("postgresql:///x?host=/gone")}
    )
    done = Shell(gone, shell.folder).run("list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "holdfast up" in done.stderr
    assert "Traceback" not in done.stderr


async def test_dead_letters_are_told_and_asked_back(shell: Shell, pool: Pool) -> None:
    assert "There are no dead letters." in (await asyncio.to_thread(shell.run, "redrive")).stdout
    for consumer, letters in (("notify", 2), ("stats", 1)):
        await pool.executemany(
            "INSERT INTO outbox.dead_letters (consumer, event_id, content, reason) VALUES ($1, $2, '', 'no seat')",
            [(consumer, str(number)) for number in range(letters)],
        )
    wanted = "SELECT count(wanted_at) FROM outbox.dead_letters"
    shown = (await asyncio.to_thread(shell.run, "redrive", "--dry-run")).stdout
    assert "notify: 2 dead letters, the reason of one: no seat" in shown
    assert await pool.fetchval(wanted) == 0
    answer = await asyncio.to_thread(shell.json, "redrive", "--consumer", "stats")
    assert answer["data"] == [{"consumer": "stats", "letters": 1, "wanted": 1, "reason": "no seat"}]
    assert await pool.fetchval(wanted) == 1
    assert (await asyncio.to_thread(shell.run, "redrive")).returncode == 0
    assert await pool.fetchval(wanted) == 3
