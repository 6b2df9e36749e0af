"""kill -9 in the middle of a rush: of servers, of Valkey, of PostgreSQL, of the worker. Everything still adds up."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.engines.processes import Process, is_alive, running_in, send
from running_up import Up, environment_of, wait_until

SERVERS = 2


def servers(up: Up) -> list[Process]:
    """The server processes, which `up` starts before its worker."""
    return up.folder.running().children[:SERVERS]


def worker(up: Up) -> list[Process]:
    return up.folder.running().children[SERVERS:]


def valkey(up: Up) -> list[Process]:
    return running_in(up.folder.valkey, "valkey-server")


def postgres(up: Up) -> list[Process]:
    return running_in(up.folder.cluster, "postgres")


@pytest.mark.slow
@pytest.mark.parametrize(
    "victims",
    [[servers], [valkey], [postgres], [worker], [servers, valkey, postgres, worker, postgres]],
    ids=["servers", "valkey", "postgres", "worker", "one after the other"],
)
def test_a_rush_survives(tmp_path: Path, victims: list[Callable[[Up], list[Process]]]) -> None:
    up = Up(tmp_path / "home", "--no-demo", "--workers", str(SERVERS)).wait_ready()
    seen = tmp_path / "seen.txt"
    try:
        with seen.open("w") as errors:
            crowd = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", "rush", "--data", str(up.data), "--json",
                 "--buyers", "1500", "--tickets", "1000"],
                stdout=subprocess.PIPE, stderr=errors, text=True, cwd=tmp_path, env=environment_of(up.home),
            )  # fmt: skip
        wait_until(lambda: " held " in seen.read_text() or crowd.poll() is not None, 60)
        for victim in victims:
            killed = victim(up)
            assert killed
            for process in killed:
                send(process, signal.SIGKILL)
            wait_until(lambda gone=killed: not any(map(is_alive, gone)))  # type: ignore[misc]
            wait_until(lambda again=victim: any(map(is_alive, again(up))) and up.is_ready())  # type: ignore[misc]
        output, _ = crowd.communicate(timeout=240)
    finally:
        up.stop()
    answer = json.loads(output)
    assert answer["findings"] == [], answer
    assert (answer["sold"], answer["at_rest"]) == (1000, True)
    assert [answer[name] for name in ("oversold", "lost_acks", "duplicate_orders", "leaked")] == [0, 0, 0, 0]
    assert answer["errors"] == 0
    assert crowd.returncode == os.EX_OK
