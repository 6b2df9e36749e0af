"""Processes of ours that outlived the one that started them: told from strangers, watched, ended.

A pid alone says nothing: after a reboot, or some minutes of forking, it may be anyone's. A process is known here by
its pid together with when it started in which boot, or by a working folder that only an engine of ours has.
"""

import os
import select
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from holdfast import clock

_PROC = Path("/proc")
_STATE, _STARTED = 0, 19  # fields of /proc/PID/stat, counted after the command's closing parenthesis

KILL = signal.SIGKILL
_KILL_SECONDS = 5.0


def endings(seconds: float) -> tuple[tuple[int, float], ...]:
    """What a process is sent, and how many seconds it then has: first a request, after `seconds` no longer one."""
    return (signal.SIGTERM, seconds), (KILL, _KILL_SECONDS)


ENDINGS = endings(10.0)


class Process(NamedTuple):
    """One process, in a form that no later process can be mistaken for."""

    pid: int
    started_ticks: int
    boot_id: str


def identify(pid: int) -> Process | None:
    """The process that has this pid now; None where it has ended."""
    fields = _stat(pid)
    if not fields or fields[_STATE] in "ZX":
        return None
    return Process(pid, int(fields[_STARTED]), _boot_id())


def is_alive(process: Process) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid) == process


def is_frozen(process: Process) -> bool:
    """Whether this very process was stopped where it is (SIGSTOP)."""
    fields = _stat(process.pid)
    return bool(fields) and fields[_STATE] in "Tt" and is_alive(process)


def age_seconds(process: Process) -> float:
    """How long ago it was started."""
    up = float((_PROC / "uptime").read_text("ascii").split()[0])
    return max(0.0, up - process.started_ticks / os.sysconf("SC_CLK_TCK"))


def running_in(folder: Path, program: str) -> list[Process]:
    """Every process of that program whose working folder is `folder`."""
    return [
        process
        for entry in os.listdir(_PROC)
        if entry.isdecimal() and _is_at(int(entry), folder, program) and (process := identify(int(entry)))
    ]


def program_of(process: Process) -> str | None:
    """The path of the program that a process runs; None where it has ended or was replaced on disk."""
    try:
        path = os.readlink(_PROC / str(process.pid) / "exe")
    except OSError:
        return None
    return None if path.endswith(_DELETED) else path


def send(process: Process, number: int) -> bool:
    """Signals this very process; False where it has ended. Another that has its pid by now is not touched."""
    handle = _open(process)
    if handle is None:
        return False
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_for_end(processes: Iterable[Process], seconds: float) -> list[Process]:
    """Waits until all have ended; answers those that still run after that time."""
    deadline = clock.monotonic_seconds() + seconds
    left = []
    for process in processes:
        handle = _open(process)
        if handle is None:
            continue
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(max(0.0, deadline - clock.monotonic_seconds()) * 1000):
                left.append(process)
        finally:
            os.close(handle)
    return left


def end(processes: Iterable[Process], endings: Sequence[tuple[int, float]] = ENDINGS) -> list[Process]:
    """Ends them all, harder each time; answers those that withstood."""
    left = list(processes)
    for number, seconds in endings:
        if not left:
            break
        for process in left:
            send(process, number)
        left = wait_for_end(left, seconds)
    return left


_DELETED = " (deleted)"


def _is_at(pid: int, folder: Path, program: str) -> bool:
    with suppress(OSError):
        base = _PROC / str(pid)
        executable = os.readlink(base / "exe").removesuffix(_DELETED)
        return os.path.basename(executable) == program and os.readlink(base / "cwd") == str(folder)
    return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command; none where the process has ended."""
    try:
        # The command stands in parentheses and may hold any byte, so look for the last one.
        return (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(") ")[2].split()
    except OSError:
        return []


def _open(process: Process) -> int | None:
    """A pidfd of this very process. It is checked after opening: from then on the handle cannot change hands."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return None
    if is_alive(process):
        return handle
    os.close(handle)
    return None


@cache
def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
