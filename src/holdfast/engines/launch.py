"""How an engine is started: in a session of its own, with a clean environment, its output in one log file."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from holdfast.errors import Mendable

_KEPT = ("PATH", "LD_LIBRARY_PATH")


def clean_environment() -> dict[str, str]:
    """What an engine may know of our environment: no PG…, no locale that may not exist here, no secrets."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}


def leash(signal_name: str) -> tuple[str, ...]:
    """The command prefix under which a program is sent that signal as soon as the thread that started it has ended,
    however that came. Behind a prefix that changes its user, since that would take the leash off."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Mendable("setpriv is missing, by which nothing outlives `holdfast cluster`: install util-linux.")
    return setpriv, "--pdeathsig", signal_name


def launch(
    command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Starts a server that works in `folder`, with a clean environment and what is given beyond it. Without a leash
    it outlives us when we are killed; Ctrl-C does not reach it."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env=clean_environment() | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        os.close(output)


def last_line(log: Path) -> str:
    """The last line of a log, for the sentence about a server that did not start."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
