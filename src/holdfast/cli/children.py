"""The processes that `up` runs from its own program: the servers and the worker."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast import clock
from holdfast.cli.parent import GO
from holdfast.engines.processes import Process, identify, is_alive

_CALM_SECONDS = 30.0
_DELAY_SECONDS_MAX = 5.0


class Child:
    """One process of `holdfast …` that is started again whenever it ends."""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path, *inherited: int
    ) -> None:
        self.name = name
        self.log = log
        self.process: Process | None = None
        self._arguments = arguments
        self._environment = environment
        self._inherited = inherited
        self._popen: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None

    def spawn(self) -> None:
        """Starts the process, which makes its imports and then waits for `go`."""
        self._close_pipe()
        reading, self._pipe = os.pipe()
        output = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # -P: what lies in the folder that `up` was started in is none of our modules.
        command = [sys.executable, "-P", "-m", "holdfast.cli.main", *self._arguments, "--parent-pipe", str(reading)]
        try:
            self._popen = subprocess.Popen(  # noqa: S603
                command,
                env=self._environment,
                pass_fds=(reading, *self._inherited),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends them in order
            )
        finally:
            os.close(reading)
            os.close(output)
        self.process = identify(self._popen.pid)

    def go(self) -> None:
        """Tells it that the engines are ready."""
        if self._pipe is not None:
            try:
                os.write(self._pipe, GO)
            except BrokenPipeError:
                return  # It has ended already, which its watcher sees by itself.

    def status(self) -> int | None:
        """The exit status, once it has ended; negative for a signal."""
        return None if self._popen is None else self._popen.wait()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


class Backoff:
    """How long to wait before something that has ended is started again: not at all, then longer and longer."""

    def __init__(self) -> None:
        self.tries = 0
        self._last = clock.monotonic_seconds()

    async def wait(self) -> None:
        """Waits as long as this next try has to."""
        now = clock.monotonic_seconds()
        self.tries = 1 if now - self._last > _CALM_SECONDS else self.tries + 1
        self._last = now
        await asyncio.sleep(min(_DELAY_SECONDS_MAX, 0.1 * 2**self.tries) if self.tries > 1 else 0)


async def ended(process: Process | None) -> None:
    """Returns when this process has ended, whoever started it."""
    if process is None:
        return
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(handle, over.set)
    try:
        if is_alive(process):
            await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def how_it_ended(status: int | None) -> str:
    """An exit status in words."""
    if status is not None and status < 0:
        return f"was ended by signal {-status}"
    return f"ended with status {status}"
