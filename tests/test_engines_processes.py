"""Processes that outlived who started them: ours are ended, a stranger with the same pid never is."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.engines.processes import end, endings, identify, is_alive, running_in, send

IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that waits."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_until_it_ends(sleeper: "subprocess.Popen[bytes]") -> None:
    known = identify(sleeper.pid)
    assert known is not None
    assert is_alive(known)
    assert end([known]) == []
    assert sleeper.wait() == -signal.SIGTERM
    assert not is_alive(known)


def test_a_zombie_has_ended(sleeper: "subprocess.Popen[bytes]") -> None:
    known = identify(sleeper.pid)
    assert known is not None
    end([known])
    assert not is_alive(known)
    assert identify(sleeper.pid) is None


def test_a_stranger_with_the_pid_is_not_touched(sleeper: "subprocess.Popen[bytes]") -> None:
    stranger = identify(sleeper.pid)
    assert stranger is not None
    ours = stranger._replace(started_ticks=stranger.started_ticks - 1)
    assert not is_alive(ours)
    assert not send(ours, signal.SIGKILL)
    assert end([ours]) == []
    assert sleeper.poll() is None
    # The control: the same call does end the process it means.
    assert send(stranger, signal.SIGKILL)
    assert sleeper.wait() == -signal.SIGKILL


def test_one_that_does_not_listen_is_killed() -> None:
    deaf = subprocess.Popen([sys.executable, "-c", IGNORES_SIGTERM], stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    known = identify(deaf.pid)
    assert known is not None
    assert end([known], endings(0.1)) == []
    assert deaf.wait() == -signal.SIGKILL
    deaf.stdout.close()


def test_an_engine_is_known_by_its_program_and_its_folder(tmp_path: Path) -> None:
    engine = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    try:
        program = Path(f"/proc/{engine.pid}/exe").resolve().name
        assert [process.pid for process in running_in(tmp_path, program)] == [engine.pid]
        assert running_in(tmp_path, "postgres") == []
        assert running_in(tmp_path.parent, program) == []
    finally:
        engine.kill()
        engine.wait()
