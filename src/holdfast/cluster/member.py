"""A member of the cluster: one process that is started, watched, started again when it ends, and stopped.

It is on a leash: when the supervisor is gone, however that came, it is told to end. What a killed supervisor left all
the same is found by the noted pids and by the folders that engines work in.
"""

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast import clock
from holdfast.engines import processes
from holdfast.engines.launch import last_line, launch
from holdfast.engines.processes import Process
from holdfast.errors import Mendable

READY_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Recipe:
    """What makes a member: how its process is started, when it is ready, how it is asked to end."""

    name: str
    kind: str
    port: int | None
    """The port it listens on; None for a worker."""
    folder: Path
    """It works there."""
    log: Path
    command: Callable[[], Sequence[str]]
    """Asked at each start, in a thread; writes what the process reads."""
    is_ready: Callable[[], Awaitable[bool]]
    """Raises nothing but OSError and TimeoutError, which mean no."""
    program: str = ""
    """The file name of a program that nobody but such a member runs in its folder; '' where it is Python's."""
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_seconds: float = 10.0
    ready_seconds_max: float = 90.0


class Member:
    """One process of the cluster, by its name."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.name = recipe.name
        self.kind = recipe.kind
        self.port = recipe.port
        self.log = recipe.log
        self.process: Process | None = None
        self.started_at = 0.0
        """By the monotonic clock."""
        self.starts = 0
        self.may_run = asyncio.Event()
        """Cleared while it is held down: then it is not started again."""
        self.may_run.set()
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def restarts(self) -> int:
        """How often it was started after the first time."""
        return max(0, self.starts - 1)

    async def begin(self) -> None:
        """Starts the process. The thread of this event loop is what its leash is tied to."""
        self.recipe.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = await asyncio.to_thread(self.recipe.command)
        self._child = launch(command, self.recipe.folder, self.log, self.recipe.environment)
        self.process = processes.identify(self._child.pid)
        self.started_at = clock.monotonic_seconds()
        self.starts += 1

    def bury(self) -> str:
        """Takes note that the process has ended, and says how."""
        status = self._child.wait() if self._child is not None else 1
        self._child = self.process = None
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"

    async def until_ready(self) -> None:
        """Waits until it can be used. Raises Mendable where that takes too long."""
        deadline = clock.monotonic_seconds() + self.recipe.ready_seconds_max
        while clock.monotonic_seconds() < deadline:
            try:
                if self.is_alive and await self.recipe.is_ready():
                    return
            except (OSError, TimeoutError):
                pass
            await asyncio.sleep(READY_POLL_SECONDS)
        seconds = f"{self.recipe.ready_seconds_max:.0f} seconds"
        raise Mendable(f"{self.name} was not ready within {seconds}: {last_line(self.log)} (more in {self.log}).")

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, frozen or not."""
        return self.process is not None and processes.is_alive(self.process)

    def running(self) -> list[Process]:
        """Every process of this member that runs now."""
        return [self.process] if self.process is not None and self.is_alive else []

    def kill(self) -> None:
        """Ends it by SIGKILL. The supervisor starts it again, unless it is held down."""
        self.signal(processes.KILL)

    def freeze(self) -> None:
        """Stops it where it is (SIGSTOP): it holds its connections and answers nothing."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Sends a signal to every process of this member."""
        for process in self.running():
            processes.send(process, number)

    async def stop(self) -> None:
        """Asks it to end, frozen or not, and sees to it that it does."""
        self.thaw()
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """Ends the process, first by asking it."""
        running = [self.process] if self.process is not None else []
        processes.end(running, processes.endings(self.recipe.stop_seconds))

    def end_leftovers(self) -> None:
        """Ends what a killed supervisor left of this member, as far as its folder tells."""
        if self.recipe.program:
            left = processes.running_in(self.recipe.folder, self.recipe.program)
            for process in left:
                processes.send(process, signal.SIGCONT)
            processes.end(left)
