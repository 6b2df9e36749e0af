"""`holdfast up` when it does not go well: killed at any moment of its first start, hurried, or broken."""

import signal
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from running_up import Up, command, wait_until

MOMENTS = [0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.5, 3.0, 4.0, 5.0]
"""Seconds into a start, spread over its steps."""


@pytest.mark.slow
def test_a_first_start_that_is_killed_at_any_moment_can_be_begun_again(tmp_path: Path) -> None:
    for moment in MOMENTS:
        killed = Up(tmp_path / "home")
        time.sleep(moment)  # What is waited for is no event but just this: any moment.
        killed.kill()
        killed.stop()
    up = Up(tmp_path / "home").wait_ready()
    assert up.is_ready()
    running = up.everything()
    assert up.stop() == 0
    assert running
    assert up.everything() == []
    assert {part.name for part in up.data.iterdir()} <= {
        "holdfast.json", "secrets.json", "engines.json", "keys", "postgres", "valkey", "logs",
    }  # fmt: skip


@pytest.mark.slow
def test_a_second_ctrl_c_hurries(tmp_path: Path) -> None:
    up = Up(tmp_path / "home", environment={"HOLDFAST_DRAIN_SECONDS": "60"}).wait_ready()
    address = urlsplit(up.url)
    with socket.create_connection((address.hostname, address.port)) as slow:
        # A request whose body never comes keeps its server for as long as it may drain.
        slow.sendall(
            b"POST /users/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
        wait_until(up.is_ready)
        up.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Stopping" in up.errors.read_text())
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            wait_until_ended(up, 2)
        assert up.stop() == 0
        assert time.monotonic() - began < 15
    assert up.everything() == []


def wait_until_ended(up: Up, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while up.process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def test_a_broken_installation(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("import sys\nsys.modules['holdfast.assemble'] = None\n")
    data = tmp_path / "data"
    home = tmp_path / "home"
    done = command("up", "--no-demo", "--data", str(data), "--port", "0", home=home, PYTHONPATH=str(broken))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("install it again with `make setup`.")
    assert "never retrieved" not in done.stderr
    # What it had started is ended: the next one finds no engine to adopt.
    up = Up(home).wait_ready()
    assert "were running" not in up.errors.read_text()
    assert up.stop() == 0
