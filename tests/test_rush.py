"""`holdfast rush` beside a running `up`: what it reports, and with which status it ends."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from holdfast.engines.data_folder import settings_of
from running_up import Up, command

# Whoever pays gets no ticket: the acknowledgement says so much, and the audit has to see it.
_EMBEZZLE = """
CREATE FUNCTION orders.embezzle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER embezzle BEFORE INSERT ON orders.tickets FOR EACH ROW EXECUTE FUNCTION orders.embezzle()
"""
_UNDO = "DROP TRIGGER embezzle ON orders.tickets; DROP FUNCTION orders.embezzle()"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One `up` for the rushes of this file."""
    running = Up(tmp_path_factory.mktemp("rush") / "home", "--no-demo")
    try:
        yield running.wait_ready()
    finally:
        running.stop()


def rush(up: Up, *options: str) -> "subprocess.CompletedProcess[str]":
    """One rush beside it."""
    return command("rush", "--data", str(up.data), *options, home=up.home)


def reported(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Its report, which is all of standard output."""
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    return answer


async def execute(up: Up, statements: str) -> None:
    """Statements in the database of this `up`."""
    connection = await asyncpg.connect(settings_of(up.data).database_url.get_secret_value())
    await connection.execute(statements)
    await connection.close()


def test_a_crowd_buys_exactly_what_there_is(up: Up) -> None:
    done = rush(up, "--buyers", "200", "--tickets", "50", "--seed", "7", "--json")
    answer = reported(done)
    assert (answer["capacity"], answer["sold"]) == (50, 50)
    assert [answer[name] for name in ("oversold", "lost_acks", "duplicate_orders", "leaked")] == [0, 0, 0, 0]
    assert (answer["errors"], answer["server_errors"], answer["unexpected"]) == (0, 0, {})
    assert answer["attempts"] > 200
    assert answer["accepted"] >= answer["confirmed"] >= 25
    assert answer["sold_out"] >= 150 - 50
    assert 0 < answer["p50_ms"] <= answer["p99_ms"]
    assert answer["seed"] == 7
    assert done.returncode == 0


def test_fewer_buyers_than_tickets_leave_the_rest_unsold(up: Up) -> None:
    done = rush(up, "--buyers", "20", "--tickets", "100")
    lines = done.stdout.splitlines()
    assert lines[-1] == "OK"
    assert "leaked            0" in lines
    assert any(line.startswith("sold ") and line.endswith("of 100") for line in lines)
    assert "20 buyers on 100 tickets, seed " in done.stderr
    assert done.returncode == 0


async def test_control_lost_tickets_are_seen_and_end_it_with_1(up: Up) -> None:
    await execute(up, _EMBEZZLE)
    try:
        done = rush(up, "--buyers", "10", "--tickets", "5", "--rest-seconds", "1", "--json")
    finally:
        await execute(up, _UNDO)
    answer = reported(done)
    assert answer["lost_acks"] == answer["confirmed"] > 0
    assert answer["leaked"] == answer["sold"] > 0
    assert any("was confirmed with" in finding for finding in answer["findings"])
    assert done.returncode == 1


@pytest.mark.parametrize(
    "options",
    [["--url", "http://127.0.0.1:1"], ["--url", "gopher://somewhere"], ["--url", "http://[broken"], ["--buyers", "0"]],
    ids=["nobody answers", "not http", "not a URL", "no buyers"],
)
def test_what_it_cannot_use_ends_it_with_2(up: Up, options: list[str]) -> None:
    done = rush(up, *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_an_up_it_says_what_to_do(tmp_path: Path) -> None:
    done = command("rush", "--data", str(tmp_path / "none"), "--json", home=tmp_path / "home")
    assert done.returncode == 2
    assert "No `holdfast up` runs on" in json.loads(done.stdout)["error"]
