"""kill -9 of any process in the middle of a rush: no acknowledged order is lost, nothing is oversold, nothing leaks."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import free_port
from running_up import Up, command, environment_of, wait_until

BUYERS, TICKETS = 400, 200


class Rush:
    """A rush under way beside a running `up`."""

    def __init__(self, up: Up, *options: str) -> None:
        self.output = up.home.with_name("rush.json")
        with self.output.open("w") as output, up.home.with_name("rush.txt").open("w") as progress:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", "rush", "--json", "--data", str(up.data),
                 "--url", up.url, "--buyers", str(BUYERS), "--tickets", str(TICKETS), *options],
                stdin=subprocess.DEVNULL, stdout=output, stderr=progress, env=environment_of(up.home),
            )  # fmt: skip

    def end(self) -> None:
        """Ends it, if it has not."""
        self.process.kill()
        self.process.wait()

    def result(self) -> dict[str, Any]:
        """Its report, once it has ended."""
        status = self.process.wait(150)
        report: dict[str, Any] = json.loads(self.output.read_text())
        return report | {"status": status}


def orders_of(up: Up) -> int:
    """How many orders there are: the signal that the rush is under way."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, str(up.data)], capture_output=True, text=True, check=False, timeout=30
    )
    return int(done.stdout or 0)


_COUNT = """
import asyncio, asyncpg, sys
from pathlib import Path
from holdfast.engines.data_folder import settings_of

async def count():
    connection = await asyncpg.connect(settings_of(Path(sys.argv[1])).database_url.get_secret_value())
    print(await connection.fetchval("SELECT count(*) FROM orders.orders"))

asyncio.run(count())
"""


def kill(up: Up, victim: str) -> None:
    """kill -9 of one process of this kind; returns when another has taken its place."""
    wait_until(lambda: bool(pids_of(up, victim)), 60)
    before = pids_of(up, victim)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(pids_of(up, victim)) == len(before) and pids_of(up, victim) != before, 60)
    # PostgreSQL has a process before it has recovered, and the servers have one before they serve.
    wait_until(lambda: orders_of(up) > 0 and up.is_ready(), 60)


def pids_of(up: Up, victim: str) -> set[int]:
    """The processes of one kind; of PostgreSQL the first one."""
    if victim == "postgresql":
        try:
            return {up.postmaster()} & {engine.pid for engine in up.engines()}
        except (OSError, ValueError, IndexError):
            return set()
    if victim == "valkey":
        return {engine.pid for engine in up.engines() if "valkey" in name_of(engine.pid)}
    return {child.pid for child in up.folder.running().children if victim in name_of(child.pid)}


def name_of(pid: int) -> str:
    """The name of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def assert_nothing_lost(report: dict[str, Any]) -> None:
    """What must come of every crash."""
    found = {name: report[name] for name in ("oversold", "lost_acks", "duplicate_orders", "leaked", "errors")}
    assert found == dict.fromkeys(found, 0), report
    assert (report["sold"], report["status"]) == (TICKETS, 0), report


def rush_through(tmp_path: Path, victims: list[str]) -> None:
    up = Up(tmp_path / "home", "--no-demo", "--workers", "2").wait_ready()
    rush = Rush(up)
    try:
        wait_until(lambda: orders_of(up) > 20, 60)
        for victim in victims:
            kill(up, victim)
        assert_nothing_lost(rush.result())
        doctor = command("doctor", "--json", "--data", str(up.data), home=up.home)
        assert json.loads(doctor.stdout)["ok"], doctor.stdout
    finally:
        rush.end()
        assert up.stop() == 0
    assert up.everything() == []


@pytest.mark.slow
def test_every_process_is_killed_once_in_the_middle_of_a_rush(tmp_path: Path) -> None:
    rush_through(tmp_path, ["server", "valkey", "worker", "postgresql"])


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["server", "valkey", "worker", "postgresql"])
def test_the_same_process_is_killed_again_and_again(tmp_path: Path, victim: str) -> None:
    rush_through(tmp_path, [victim] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everything_is_killed_and_started_again(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    port = str(free_port())
    up = Up(tmp_path / "home", "--no-demo", "--workers", "2", "--port", port).wait_ready()
    rush = Rush(up)
    try:
        wait_until(lambda: orders_of(up) > 20, 60)
        time.sleep(chance.random())  # Any moment of the rush will do.
        up.kill()
        for process in up.everything():
            # The servers may have ended by themselves: they notice that `up` is gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        up.stop()
        up = Up(tmp_path / "home", "--no-demo", "--workers", "2", "--port", port).wait_ready()
        assert_nothing_lost(rush.result())
    finally:
        rush.end()
        assert up.stop() == 0
