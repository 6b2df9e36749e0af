"""The logs of a running `up`: their warnings are shown, and none grows without end."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

LOG_BYTES_MAX = 16 * 1024 * 1024
"""Of one log, and as much again of what it held before."""
LINES_SHOWN_MAX = 10
"""Of one log at a time; more are counted."""

_POLL_SECONDS = 0.5
_READ_BYTES_MAX = 1024 * 1024
_SHOWN = {"warning", "error", "critical"}


class LogWatch:
    """The logs of one folder. Every writer appends, so a log can be cut while it is written to."""

    def __init__(self, folder: Path, say: Callable[[str], None], quiet: frozenset[str] = frozenset()) -> None:
        """`quiet` names the logs, without .log, that are only kept from growing."""
        self._folder = folder
        self._quiet = quiet
        self._say = say
        self._read: dict[Path, int] = {}

    def start(self) -> None:
        """Puts long logs aside; what the others hold was shown before."""
        for log in self._logs():
            _bound(log)
            self._read[log] = log.stat().st_size

    async def run(self) -> None:
        """Watches until it is cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            self.look()

    def look(self) -> None:
        """Shows the warnings since the last look, and puts aside what has become long."""
        for log in self._logs():
            shown = [] if log.stem in self._quiet else [line for line in self._new_lines(log) if line]
            for line in shown[:LINES_SHOWN_MAX]:
                self._say(f"{log.stem}: {line}")
            if len(shown) > LINES_SHOWN_MAX:
                self._say(f"{log.stem}: {len(shown) - LINES_SHOWN_MAX} more in {log}")
            if _bound(log):
                self._read[log] = 0

    def _logs(self) -> list[Path]:
        return sorted(self._folder.glob("*.log"))

    def _new_lines(self, log: Path) -> list[str | None]:
        with log.open("rb") as file:
            file.seek(self._read.get(log, 0))
            whole = file.read(_READ_BYTES_MAX).rpartition(b"\n")[0:2]
        text = b"".join(whole)
        self._read[log] = self._read.get(log, 0) + len(text)
        return [_warning(line) for line in text.decode("utf-8", "replace").splitlines()]


def _warning(line: str) -> str | None:
    """What is to be shown of a line of our own log; None for one that is no warning, or another program's."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or entry.get("level") not in _SHOWN:
        return None
    # The last line of a traceback says which error it was; the rest stands in the log.
    reason = str(entry.get("exception", "")).strip().rpartition("\n")[2]
    return f"{entry['level']}: {entry.get('event', '')}" + (f" ({reason})" if reason else "")


def _bound(log: Path) -> bool:
    if log.stat().st_size <= LOG_BYTES_MAX:
        return False
    shutil.copyfile(log, log.with_suffix(".log.1"))
    os.truncate(log, 0)
    return True
