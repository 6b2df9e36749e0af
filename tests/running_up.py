"""`holdfast up` as a process of its own, with a home and a temporary folder that are to stay empty."""

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.engines.data_folder import DataFolder
from holdfast.engines.processes import Process, is_alive, running_in

READY_SECONDS_MAX = 90
GRACE_SECONDS_MAX = 60


def command(*arguments: str, home: Path, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs `holdfast …` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "holdfast.cli.main", *arguments],
        capture_output=True, text=True, input=stdin, timeout=READY_SECONDS_MAX, check=False, cwd=home.parent,
        env=environment_of(home) | environment,
    )  # fmt: skip


def environment_of(home: Path) -> dict[str, str]:
    """An environment without settings, whose home and temporary folder are empty."""
    for folder in (home, home.with_name("tmp")):
        folder.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "PYTEST_"))}
    return kept | {"HOME": str(home), "TMPDIR": str(home.with_name("tmp"))}


class Up:
    """One run of `up --json` on a data folder beside `home`."""

    def __init__(self, home: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.data = home.with_name("data")
        self.folder = DataFolder(self.data)
        arguments = ["up", "--json", "--data", str(self.data), "--port", "0", *options]
        self.errors = home.with_name("errors.txt")
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=home.parent,
                env=environment_of(home) | dict(environment or {}),
            )  # fmt: skip
        self.answer: dict[str, Any] = {}

    def wait_ready(self) -> "Up":
        """Waits for its one JSON object."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS_MAX)
        line = self.process.stdout.readline() if readable else b""
        assert line, f"`up` did not come up: {self.errors.read_text()}"
        self.answer = json.loads(line)
        return self

    @property
    def url(self) -> str:
        """Where it serves."""
        return str(self.answer["url"])

    def is_ready(self) -> bool:
        """Whether GET /readyz answers 200."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return int(answer.status) == 200
        except OSError:
            return False

    def engines(self) -> list[Process]:
        """The engine processes of its data folder, backends included."""
        return running_in(self.folder.cluster, "postgres") + running_in(self.folder.valkey, "valkey-server")

    def postmaster(self) -> int:
        """PostgreSQL's first process."""
        return int((self.folder.cluster / "postmaster.pid").read_text().splitlines()[0])

    def everything(self) -> list[Process]:
        """Every process that it runs, engines included."""
        return self.engines() + [child for child in self.folder.running().children if is_alive(child)]

    def kill(self) -> None:
        """Ends the supervisor alone, as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGINT) -> int:
        """Asks it to stop; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(GRACE_SECONDS_MAX)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Looks again and again; fails when it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def secrets_of(up: Up) -> Mapping[str, str]:
    """Everything in the folder's secrets."""
    found: dict[str, str] = json.loads((up.data / "secrets.json").read_text())
    return found
