"""What is measured: a Holdfast started for the bench alone, at its defaults, every guard on."""

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.engines.data_folder import DataFolder
from holdfast.engines.launch import last_line
from holdfast.engines.processes import Process, running_in
from holdfast.errors import Mendable
from holdfast.settings import ENV_PREFIX, Settings, load_settings

ACCESS_TOKEN_SECONDS = 3600
"""As long as a token may be: none is to run out in the middle of a run."""

_STOP_SECONDS_MAX = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_USER_TIME, _WAITED_SYSTEM_TIME = 11, 14  # of /proc/PID/stat after the command: utime, stime, cutime, cstime


class House(ABC):
    """One run of a command on a data folder. Entered when it has come up, left when everything in it has ended."""

    command: str
    """`holdfast` with this starts it."""

    def __init__(self, folder: DataFolder, *options: str) -> None:
        self.folder = folder
        self._options = ("--data", str(folder.path), "--port", "0", "--no-demo", "--json", *options)
        self._errors = folder.path.with_name(f"{folder.path.name}-{self.command}.log")
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many server processes make orders."""

    @abstractmethod
    def processes(self) -> dict[str, list[Process]]:
        """Everything that works on an order, by what it is."""

    @abstractmethod
    def crew(self) -> list[Process]:
        """Those of them that live as long as the house: while something is measured none may come or go."""

    def __enter__(self) -> Self:
        with self._errors.open("a") as errors:
            # In a session of its own: Ctrl-C is ours alone, and it is then told to end in order.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "holdfast.cli.main", self.command, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=_environment(),
                start_new_session=True,
            )
        try:
            self.url = self._wait_ready(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def settings(self) -> Settings:
        """What its servers run with."""
        given = self.folder.running().settings
        return load_settings(**given, access_token_seconds=ACCESS_TOKEN_SECONDS)

    def cpu_seconds(self) -> dict[str, float]:
        """The CPU time that each kind of process has used since it started, children that have ended included."""
        return {kind: sum(map(_cpu_seconds, processes)) for kind, processes in self.processes().items()}

    def private_kib(self) -> dict[str, int]:
        """The private memory (RssAnon) of each process; PostgreSQL's together, since its backends come and go."""
        found: dict[str, int] = {}
        for kind, processes in self.processes().items():
            if kind == "postgres":
                found[kind] = sum(map(_private_kib, processes))
                continue
            for number, process in enumerate(processes, start=1):
                found[kind if len(processes) == 1 else f"{kind}-{number}"] = _private_kib(process)
        return found

    def _wait_ready(self, process: "subprocess.Popen[str]") -> str:
        assert process.stdout is not None
        # It gives up by itself when it does not come up in time, so this line always comes, or its end does.
        line = process.stdout.readline()
        answer: Mapping[str, object] = json.loads(line) if line else {}
        if "url" not in answer:
            process.wait()
            reason = answer.get("error") or last_line(self._errors) or "it left no word"
            raise Mendable(f"`holdfast {self.command}` did not come up for the bench: {reason}")
        return str(answer["url"])

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        process.terminate()
        try:
            process.wait(_STOP_SECONDS_MAX)
        except BaseException as error:
            # A second signal hurries it; whoever pressed Ctrl-C twice does not wait a minute.
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS_MAX)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            assert process.stdout is not None
            process.stdout.close()


class OneMachine(House):
    """`holdfast up`."""

    command = "up"

    def __init__(self, data: Path, workers: int | None) -> None:
        super().__init__(DataFolder(data), *(() if workers is None else ("--workers", str(workers))))

    @property
    def workers(self) -> int:
        """How many server processes it has."""
        return int(self.folder.running().settings["server_processes"])

    def processes(self) -> dict[str, list[Process]]:
        """server, worker, postgres, valkey."""
        children = self.folder.running().children
        return {
            "server": children[: self.workers],
            "worker": children[self.workers :],
            "postgres": running_in(self.folder.cluster, "postgres"),
            "valkey": running_in(self.folder.valkey, "valkey-server"),
        }

    def crew(self) -> list[Process]:
        """All but PostgreSQL's, whose backends come and go."""
        processes = self.processes()
        return [*processes["server"], *processes["worker"], *processes["valkey"]]


Build = Callable[[Path, int | None], House]
"""What house is measured on a folder, with so many server processes, or as many as it takes by itself."""


def busy_seconds() -> float:
    """The CPU time that the whole machine has been busy for, since it started."""
    user, nice, system, _idle, _waiting, *others = (
        int(ticks) for ticks in (_PROC / "stat").read_text("ascii").partition("\n")[0].split()[1:9]
    )
    return (user + nice + system + sum(others)) / _TICKS


def _environment() -> dict[str, str]:
    """Ours without settings: what is measured is Holdfast at its defaults, with engines of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return kept | {f"{ENV_PREFIX}ACCESS_TOKEN_SECONDS": str(ACCESS_TOKEN_SECONDS)}


def _cpu_seconds(process: Process) -> float:
    """Its own time and that of the children it has waited for; 0 where it has ended, and its parent counts it."""
    try:
        fields = (_PROC / str(process.pid) / "stat").read_text("utf-8", "replace").rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[_USER_TIME : _WAITED_SYSTEM_TIME + 1])) / _TICKS


def _private_kib(process: Process) -> int:
    try:
        lines = (_PROC / str(process.pid) / "status").read_text("utf-8", "replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
