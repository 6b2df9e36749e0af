"""The logs of `up`: their warnings are seen, and none grows without end."""

import json
from pathlib import Path

import pytest

from holdfast.cli import log_watch
from holdfast.cli.log_watch import LINES_SHOWN_MAX, LogWatch


def line(level: str, event: str, **more: str) -> str:
    return json.dumps({"level": level, "event": event} | more) + "\n"


@pytest.fixture
def said() -> list[str]:
    """What the terminal shows."""
    return []


@pytest.fixture
def watch(tmp_path: Path, said: list[str]) -> LogWatch:
    """A watch over a folder with one log, whose content of before has been seen."""
    (tmp_path / "worker.log").write_text(line("error", "of yesterday"))
    made = LogWatch(tmp_path, said.append)
    made.start()
    return made


def append(folder: Path, text: str) -> None:
    with (folder / "worker.log").open("a") as log:
        log.write(text)


def test_warnings_are_shown_once_and_the_rest_is_not(tmp_path: Path, watch: LogWatch, said: list[str]) -> None:
    append(tmp_path, line("info", "calm") + line("warning", "relay waits") + "no JSON\n[1]\n")
    append(tmp_path, line("error", "unexpected", exception="Traceback …\nValueError: seven"))
    watch.look()
    watch.look()
    assert said == ["worker: warning: relay waits", "worker: error: unexpected (ValueError: seven)"]


def test_half_a_line_is_waited_for(tmp_path: Path, watch: LogWatch, said: list[str]) -> None:
    whole = line("warning", "relay waits")
    append(tmp_path, whole[:20])
    watch.look()
    assert said == []
    append(tmp_path, whole[20:])
    watch.look()
    assert said == ["worker: warning: relay waits"]


def test_a_flood_is_counted(tmp_path: Path, watch: LogWatch, said: list[str]) -> None:
    append(tmp_path, line("warning", "relay waits") * (LINES_SHOWN_MAX + 7))
    watch.look()
    assert len(said) == LINES_SHOWN_MAX + 1
    assert said[-1] == f"worker: 7 more in {tmp_path / 'worker.log'}"


def test_a_long_log_is_put_aside(
    tmp_path: Path, watch: LogWatch, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "LOG_BYTES_MAX", 100)
    with (tmp_path / "worker.log").open("a") as writer:
        writer.write(line("warning", "before") * 3)
        writer.flush()
        watch.look()
        writer.write(line("warning", "after"))
    watch.look()
    assert said[-1] == "worker: warning: after"
    assert (tmp_path / "worker.log").read_text() == line("warning", "after")
    assert (tmp_path / "worker.log.1").read_text().endswith(line("warning", "before"))
