"""The server process: what it believes, what it bounds, how it answers what is not HTTP, and how it ends."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from conftest import free_port

PROGRAM = Path(__file__).parent / "door_process.py"


class Server:
    """A running server process."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def says(self, line: str) -> None:
        """Waits for a line of its output."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == line

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A raw connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as opened:
            yield opened


@contextmanager
def serving(
    *, inherited: bool = True, source: str = "127.0.0.1", stuck_in: str | None = None, **settings: Any
) -> Iterator[Server]:
    """A server process with these settings; on an inherited listening socket, so that it can be reached at once."""
    parent_reads, parent_writes = os.pipe()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port = free_port()
    given = {"settings": settings, "port": port, "fd": None, "parent_pipe": parent_reads, "stuck_in": stuck_in}
    if inherited:
        listener.bind((source, port))
        listener.listen(128)
        given["fd"] = listener.fileno()
    command = [sys.executable, str(PROGRAM), json.dumps(given)]
    keep = (parent_reads, listener.fileno())
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=keep) as process:
        os.close(parent_reads)
        try:
            server = Server(process, port)
            server.says("startup")
            yield server
        finally:
            listener.close()
            os.close(parent_writes)
            process.wait(15)


def _exchange(connection: socket.socket, request: bytes) -> tuple[int, dict[str, str], bytes]:
    connection.sendall(request)
    return _reply(connection)


def _reply(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers = {}
    while (line := file.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    return status, headers, file.read(int(headers["content-length"]))


def _code(reply: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    status, headers, body = reply
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    problem = json.loads(body)
    assert problem["request_id"] == headers["x-request-id"]
    return status, problem["code"]


def _is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(header_bytes_max=8192, read_seconds_max=60) as running:
        yield running


def test_it_answers_without_saying_what_it_is(server: Server) -> None:
    reply = httpx.post(server.url + "/here?x=1", content=b"12345")
    assert reply.json() == {"path": "/here", "client": "127.0.0.1", "scheme": "http", "body": 5}
    assert "server" not in reply.headers
    assert "date" in reply.headers


def test_a_forwarded_address_is_not_believed(server: Server) -> None:
    for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Proto"):
        reply = httpx.get(server.url, headers={name: "for=203.0.113.9" if name == "Forwarded" else "203.0.113.9"})
        assert reply.json()["client"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client"),
    [
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.0/8", "203.0.113.9", "203.0.113.9"),
        # Mallory writes the first one; the proxy adds what it saw.
        ("127.0.0.1", "198.51.100.66, 203.0.113.9", "203.0.113.9"),
        # The negative control: the same header, from somewhere that is no proxy.
        ("192.0.2.1", "203.0.113.9", "127.0.0.1"),
        ("192.0.2.0/24,10.0.0.1", "127.0.0.1, 203.0.113.9", "127.0.0.1"),
    ],
)
def test_a_forwarded_address_is_believed_from_a_proxy_alone(proxies: str, forwarded: str, client: str) -> None:
    with serving(trusted_proxies=proxies) as server:
        assert httpx.get(server.url, headers={"X-Forwarded-For": forwarded}).json()["client"] == client


@pytest.mark.parametrize(
    "request_head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT house.example:443 HTTP/1.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_problem(server: Server, request_head: bytes) -> None:
    with server.connection() as connection:
        assert _code(_exchange(connection, request_head)) == (400, "bad_request")
        assert _is_closed(connection)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: x\r\n" % number for number in range(1500)) + b"\r\n",
    ],
)
@pytest.mark.parametrize("piece", [100_000, 1000, 37])
def test_a_head_that_is_too_large_is_refused(server: Server, request_head: bytes, piece: int) -> None:
    with server.connection() as connection:
        try:
            for begin in range(0, len(request_head), piece):
                connection.sendall(request_head[begin : begin + piece])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has heard enough
        assert _code(_reply(connection)) == (431, "headers_too_large")


def test_a_head_that_never_ends_is_cut_off(server: Server) -> None:
    with server.connection() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nA: ")
        sent = 0
        # Far more than the buffers between us hold, since a busy machine may let the server read late.
        while sent < 50_000_000 and not select.select([connection], [], [], 0)[0]:
            try:
                sent += connection.send(b"x" * 1000)
            except (BrokenPipeError, ConnectionResetError):
                break
        assert _code(_reply(connection)) == (431, "headers_too_large")
        assert sent < 50_000_000


def test_a_fitting_head_is_taken_in_pieces_and_after_a_large_body(server: Server) -> None:
    """The bytes of a body are not counted as those of the head that follows in the same piece."""
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 7000 + b"\r\nContent-Length: 60000\r\n\r\n" + b"b" * 60000
    with server.connection() as connection:
        connection.sendall(head + head)
        assert [json.loads(_reply_in_order(connection)[2])["body"] for _ in range(2)] == [60000, 60000]


def _reply_in_order(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One of several replies on a connection, read no further than its end."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(lines[0].split()[1]), headers, body


def test_a_refusal_is_never_taken_for_another_requests_answer() -> None:
    """The first request is under way when nonsense follows it: a 400 now would be read as the first one's answer."""
    with serving() as server, server.connection() as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        server.says("slow")
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert _is_closed(connection)


def test_an_upgrade_is_not_offered(server: Server) -> None:
    for protocol in (b"websocket", b"h2c"):
        with server.connection() as connection:
            request = b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: " + protocol + b"\r\n\r\n"
            assert _exchange(connection, request)[0] == 200


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"\r\n",
        b"GET / HTTP/1.1\r\nHost:",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n",
    ],
)
def test_who_does_not_go_on_is_hung_up_on(beginning: bytes) -> None:
    with serving(read_seconds_max=0.4) as server, server.connection() as connection:
        begun = monotonic()
        connection.sendall(beginning)
        while connection.recv(65536):
            pass
        assert 0.3 < monotonic() - begun < 5


def test_a_dripping_head_is_hung_up_on() -> None:
    with serving(read_seconds_max=0.5) as server, server.connection() as connection:
        begun = monotonic()
        connection.sendall(b"GET / HTTP/1.1\r\n")
        while not select.select([connection], [], [], 0.1)[0]:
            connection.sendall(b"A: b\r\n")
        assert _is_closed(connection)
        assert 0.4 < monotonic() - begun < 5


def test_a_slow_answer_is_waited_for() -> None:
    """The clock is the client's, not ours; and a connection is kept between requests."""
    with serving(read_seconds_max=0.2) as server, httpx.Client() as client:
        assert client.get(server.url + "/slow").status_code == 200
        assert client.post(server.url + "/slow", content=b"x" * 500_000).json()["body"] == 500_000


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_under_way_finish(signal_number: int) -> None:
    with serving() as server, server.connection() as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        server.says("slow")
        server.process.send_signal(signal_number)
        assert _reply(connection)[0] == 200
        server.says("shutdown")
        server.process.wait(15)


def test_the_parents_end_is_its_end() -> None:
    with serving() as server, server.connection() as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        server.says("slow")
    assert server.process.returncode == 0


def test_it_opens_its_own_port_too() -> None:
    with serving(inherited=False) as server:
        # It says that it starts before it listens.
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(transport=transport) as client:
            assert client.get(server.url).status_code == 200
