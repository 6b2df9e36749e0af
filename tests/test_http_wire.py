"""Bad bytes on the wire, to one real server process of the whole house: a problem or a closed door, never a 5xx."""

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest

from conftest import Engines
from holdfast.engines.database import open_pool
from house import House, Served, Server, asking, open_house, serving_alone

HEADER_BYTES_MAX = 8 * 1024
BODY_BYTES_MAX = 16 * 1024


class Wire(NamedTuple):
    """A house whose routes are also served by a process of its own, and an event on sale there."""

    house: House
    server: Server
    event: dict[str, Any]

    def create(self, *more: bytes, length: int | None = None, key: str = "key") -> bytes:
        """The head of a right purchase with these header lines too."""
        headers = self.house.headers("alice", key)
        lines = [b"POST /orders/create HTTP/1.1", b"Host: x", b"Content-Type: application/json"]
        lines += [f"{name}: {value}".encode() for name, value in headers.items()]
        if length is not None:
            lines.append(b"Content-Length: %d" % length)
        return b"\r\n".join([*lines, *more, b"", b""])

    @property
    def body(self) -> bytes:
        """The body of a right purchase."""
        return json.dumps(asking(self.event)).encode()


@pytest.fixture(scope="module")
def served(engines: Engines) -> Iterator[Served]:
    """One process for all tests of this file, since its start takes seconds."""
    with serving_alone(
        engines, header_bytes_max=HEADER_BYTES_MAX, body_bytes_max=BODY_BYTES_MAX, user_purchases_burst=1000
    ) as running:
        yield running


@pytest.fixture
async def wire(served: Served) -> AsyncIterator[Wire]:
    pool = await open_pool(served.settings)
    async with open_house(served.settings, pool) as house:
        yield Wire(house, served.server, await house.event(tickets_per_user_max=1000))
    await pool.close()


class Reply(NamedTuple):
    """What came back. `code` is the status with a problem's code, or `closed`."""

    code: str
    headers: dict[str, str]
    body: bytes


def read(file: Any) -> Reply:
    """One reply, whose problem is checked to be a well-formed one."""
    status_line = file.readline()
    if status_line == b"HTTP/1.1 100 Continue\r\n":
        assert file.readline() == b"\r\n"
        status_line = file.readline()
    if not status_line:
        return Reply("closed", {}, b"")
    match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", status_line)
    assert match is not None, status_line
    headers = {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").strip().partition(": ")
        assert name.lower() not in headers, f"{name} comes twice"
        headers[name.lower()] = value
    assert not headers.keys() & {"server", "x-evil"}
    body = file.read(int(headers["content-length"]))
    code = match[1].decode()
    if code >= "400":
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["status"] == int(code)
        assert problem["request_id"] == headers["x-request-id"]
        code += " " + problem["code"]
    assert code < "500"
    return Reply(code, headers, body)


def exchange(wire: Wire, *pieces: bytes, replies: int = 1) -> list[Reply]:
    """What comes back for these bytes on a connection of their own."""
    with wire.server.connect() as connection, connection.makefile("rb") as file:
        found = []
        try:
            for piece in pieces:
                connection.sendall(piece)
            found = [read(file) for _ in range(replies)]
        except (ConnectionResetError, BrokenPipeError):
            # It was closed while we still sent.
            found.append(Reply("closed", {}, b""))
        return found


def code(wire: Wire, *pieces: bytes) -> str:
    """The code of the one reply to these bytes."""
    return exchange(wire, *pieces)[0].code


def chunked(*chunks: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


async def test_bodies(wire: Wire) -> None:
    event, body = wire.event, wire.body
    before = await wire.house.rows()
    in_chunks = wire.create(b"Transfer-Encoding: chunked")
    cases = {
        "a large one in chunks": (in_chunks, chunked(*[b"[" * 1000] * 100)),
        "a large one in one chunk": (in_chunks, chunked(b" " * (BODY_BYTES_MAX + 1))),
        "a large one": (wire.create(length=BODY_BYTES_MAX + 1), b" " * (BODY_BYTES_MAX + 1)),
    }
    for name, pieces in cases.items():
        assert code(wire, *pieces) == "413 too_large", name
    assert code(wire, wire.create(length=10**12)) == "413 too_large", "before a byte of it has come"
    for more in (b"Content-Length: 99999999999999999999999", b"Content-Length: -1", b"Content-Length: x"):
        assert code(wire, wire.create(more), body) == "400 bad_request", more
    assert code(wire, in_chunks, b"zz\r\nx") == "400 bad_request"
    assert code(wire, wire.create(length=2), b"{}") == "422 validation"
    # Smuggling: two lengths, or a length beside chunks.
    for more in (
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, identity",
        b"Transfer-Encoding: x",
    ):
        assert code(wire, wire.create(more), chunked(body)) == "400 bad_request", more
    assert await wire.house.rows() == before
    assert code(wire, in_chunks, chunked(*(body[at : at + 1] for at in range(len(body))))) == "201"
    assert code(wire, wire.create(length=len(body)), body) == "200"
    assert await wire.house.held_and_sold(event) == (1, 0)


async def test_a_body_that_never_ends_well_makes_no_order(wire: Wire) -> None:
    before = await wire.house.rows()
    for head, part in (
        (wire.create(length=len(wire.body) + 1), wire.body),
        (wire.create(b"Transfer-Encoding: chunked"), b"%x\r\n%b\r\n" % (len(wire.body), wire.body)),
    ):
        with wire.server.connect() as connection:
            connection.sendall(head + part)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                assert read(file).code in ("closed", "400 bad_request")
    assert code(wire, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") == "200"
    assert await wire.house.rows() == before


async def test_heads(wire: Wire) -> None:
    before = await wire.house.rows()
    body = wire.body
    for more in (
        b"X: " + b"x" * HEADER_BYTES_MAX,
        b"X" * HEADER_BYTES_MAX + b": x",
        b"\r\n".join(b"X%d: x" % number for number in range(2_000)),
        b"Idempotency-Key: " + b"x" * 100_000,
    ):
        assert code(wire, wire.create(more, length=len(body)), body) in ("431 headers_too_large", "closed")
    for more, expected in (
        (b"Idempotency-Key: other", "400 bad_request"),
        (b"Idempotency-Key: ", "400 bad_request"),
        (b"Authorization: Bearer x", "401 token_invalid"),
        (b"Content-Type: application/json", "415 unsupported_media_type"),
        (b"Content-Encoding: gzip", "415 unsupported_media_type"),
        (b"X: a\x00b", "400 bad_request"),
        (b"X\x00: b", "400 bad_request"),
        (b"no colon", "400 bad_request"),
        (b"X : space", "400 bad_request"),
    ):
        assert code(wire, wire.create(more, length=len(body)), body) == expected, more
    key = wire.create(length=len(body)).replace(b"Idempotency-Key: key", b"Idempotency-Key: %b")
    for value in (b"\x80", b"\xff\xfe", "鑰".encode(), b"a\tb", b"x" * 256, b"a\x7fb", b"a\x00b"):
        assert code(wire, key % value, body) == "400 bad_request", value
    for value in (b"", b"   "):
        assert code(wire, key % value, body) == "400 idempotency_key_missing", value
    assert await wire.house.rows() == before


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/orders/%00", "401 token_missing"),
        (b"/orders/%FF", "401 token_missing"),
        (b"/orders/a%2Fb", "404 not_found"),
        (b"/orders/%2e%2e", "401 token_missing"),
        (b"/events/%00", "404 not_found"),
        (b"/events/%FF/tickets", "404 not_found"),
        (b"/events/%ED%A0%80/tickets", "404 not_found"),
        (b"/events/%0d%0aX-Evil:%201/tickets", "404 not_found"),
        (b"/events/%", "404 not_found"),
        (b"/events/%zz/tickets", "404 not_found"),
        (b"/events/" + b"x" * 5_000, "404 not_found"),
        (b"/events/" + b"x" * 9_000, "431 headers_too_large"),
        (b"/events/\xff", "4.. .*"),
        (b"/%2F", "404 not_found"),
        (b"//events", "404 not_found"),
        (b"/events/", "404 not_found"),
        (b"/events//tickets", "404 not_found"),
        (b"/../../etc/passwd", "404 not_found"),
        (b"/EVENTS", "404 not_found"),
        (b"/events?limit=%00", "422 validation"),
        (b"/events?q=%FF", "200"),
        (b"/events?q=\xff", "4.. .*|200"),
        (b"/events?" + b"&" * 3_000, "200"),
        (b"/orders/create?" + b"a=1&" * 100, "405 method_not_allowed"),
        (b"http://evil.example/events", "200|404 not_found"),
        (b"*", "400 bad_request|404 not_found"),
        (b"events", "400 bad_request"),
    ],
)
async def test_targets(wire: Wire, target: bytes, expected: str) -> None:
    found = code(wire, b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
    assert re.fullmatch(expected, found), found


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\r\n\r\n\r\nnonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET  /livez HTTP/1.1\r\n\r\n",
        b"BREW /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\x00T /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_what_is_not_http(wire: Wire, bytes_: bytes) -> None:
    # The parser forgives a missing version and a space too many.
    assert code(wire, bytes_) in ("400 bad_request", "405 method_not_allowed", "closed", "200")


async def test_a_connection_goes_on_after_a_refusal(wire: Wire) -> None:
    body = wire.body
    large = b" " * (BODY_BYTES_MAX - 1)
    unsigned = b"POST /orders/create HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(large)
    right = wire.create(length=len(body), key="goes on")
    one, two, three = exchange(wire, unsigned, large, right, body, right, body, replies=3)
    assert [one.code, two.code, three.code] == ["401 token_missing", "201", "200"]
    assert json.loads(two.body)["id"] == json.loads(three.body)["id"]
    one, two = exchange(
        wire,
        wire.create(b"Expect: 100-continue", length=len(body), key="goes on")
        + body
        + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        replies=2,
    )
    assert [one.code, two.code] == ["200", "200"]
