"""How a server process and a worker end: they say so first, finish what is under way, and are gone in time."""

import signal
import socket
import subprocess
import sys
from time import monotonic

import httpx
import pytest

from running_up import wait_until
from test_door_server import Server, _is_closed, _reply, serving


def _is_refused(server: Server) -> bool:
    """Whether a new connection is: of a server that opened its own port, which nobody else keeps open."""
    try:
        with server.connection():
            return False
    except ConnectionError:
        return True


def _get(server: Server) -> dict[str, str]:
    """The headers of an answer on a new connection."""
    with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=60) as client:
        return dict(client.get(server.url).headers)


def _ask(connection: socket.socket) -> dict[str, str]:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    status, headers, _ = _reply(connection)
    assert status == 200
    return headers


def test_it_gives_notice_and_goes_on_accepting() -> None:
    with serving(inherited=False, drain_notice_seconds=4) as server:
        assert "connection" not in _get(server)
        with server.connection() as resting:
            assert "connection" not in _ask(resting)
            server.process.send_signal(signal.SIGTERM)
            begun = monotonic()
            # A signal is not noticed before it is delivered. Each answer is the last one on its connection then.
            wait_until(lambda: _get(server).get("connection") == "close")
            assert monotonic() - begun < 3.5
            # What rests is closed too, but only when the notice is over.
            assert _is_closed(resting)
            assert monotonic() - begun > 3.5
        assert _is_refused(server)
        server.says("shutdown")


def test_the_control_without_notice_nobody_is_let_in() -> None:
    with serving(inherited=False) as server:
        _get(server)
        with server.connection() as busy:
            busy.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            server.says("slow")
            server.process.send_signal(signal.SIGTERM)
            # It has not ended yet when nobody is let in any more.
            wait_until(lambda: _is_refused(server))
            assert _reply(busy)[0] == 200


def test_a_request_on_its_way_is_waited_for() -> None:
    with serving() as server, server.connection() as connection, server.connection() as resting:
        _ask(connection)
        _ask(resting)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        # The server has read it once it has answered what came after it.
        _ask(resting)
        server.process.send_signal(signal.SIGTERM)
        assert _is_closed(resting)
        connection.sendall(b"Host: x\r\n\r\n")
        status, headers, _ = _reply(connection)
        assert (status, headers["connection"]) == (200, "close")


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(signal_number: int) -> None:
    with serving(drain_notice_seconds=60, drain_seconds=60) as server:
        # A server that has not begun yet just ends.
        _get(server)
        server.process.send_signal(signal_number)
        # Two at once would be one.
        wait_until(lambda: "connection" in _get(server))
        server.process.send_signal(signal_number)
        assert server.process.wait(15) == 128 + signal_number


def test_it_ends_in_time_though_its_app_does_not() -> None:
    with serving(drain_seconds=1, stuck_in="shutdown") as server:
        begun = monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.says("shutdown")
        assert server.process.wait(15) == 1
        assert 0.9 < monotonic() - begun < 10


@pytest.mark.slow
def test_it_ends_in_time_though_a_client_holds_on() -> None:
    with serving(drain_seconds=1, read_seconds_max=60) as server, server.connection() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        _get(server)
        server.process.send_signal(signal.SIGTERM)
        server.says("shutdown")
        assert _is_closed(connection)


WORKER = """
import asyncio, sys
from holdfast.cli import offspring
from holdfast.cli.logs import log_to_standard_error
from holdfast.settings import Settings

async def work(settings, names, stop):
    print("begun", flush=True)
    await stop.wait()
    print("told", flush=True)
    await asyncio.sleep({seconds})
    print("done", flush=True)

log_to_standard_error()
offspring.run_workers = work
asyncio.run(offspring.work_until_told(Settings(drain_seconds=1), frozenset()))
"""


@pytest.mark.parametrize(
    ("seconds", "signals", "status", "said"),
    [
        (0, 1, 0, "done"),
        pytest.param(60, 1, 1, "", marks=pytest.mark.slow),
        pytest.param(60, 2, 143, "", marks=pytest.mark.slow),
    ],
)
def test_a_worker_finishes_its_step_in_time(seconds: float, signals: int, status: int, said: str) -> None:
    command = [sys.executable, "-c", WORKER.format(seconds=seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        for number in range(signals):
            worker.send_signal(signal.SIGTERM)
            if number == 0:
                assert worker.stdout.readline() == "told\n"
        assert worker.wait(30) == status
        assert worker.stdout.read().strip() == said
