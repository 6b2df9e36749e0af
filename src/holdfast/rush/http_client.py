"""A small keep-alive HTTP/1.1 client: it costs so little that what it measures is the server."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple, Protocol
from urllib.parse import SplitResult

import httptools

from holdfast.clock import monotonic_seconds

CONNECT_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 15.0
BODY_BYTES_MAX = 16 * 1024 * 1024


class UnansweredError(Exception):
    """No answer came: the connection was refused, broke, or stayed silent. What the server did is unknown."""


class Reply(NamedTuple):
    """An answer, and how long it took from the moment the request was sent."""

    status: int
    retry_after_seconds: float | None
    body: bytes
    seconds: float


class Client:
    """At most `connections_max` connections to one server. A request waits for a free one, in order of arrival, and
    then at most `answer_seconds_max` for its answer."""

    def __init__(self, url: SplitResult, connections_max: int, answer_seconds_max: float = ANSWER_SECONDS_MAX) -> None:
        assert url.hostname is not None
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._is_encrypted = url.scheme == "https"
        self._prefix = url.path.rstrip("/")
        self._host_field = url.netloc.rpartition("@")[2]
        self._answer_seconds_max = answer_seconds_max
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[_Connection] = []

    async def open(self, connections: int) -> None:
        """Makes so many connections in advance. Raises UnansweredError."""
        self._idle += await asyncio.gather(*(self._connect() for _ in range(connections)))

    async def close(self) -> None:
        """Closes every idle connection."""
        while self._idle:
            self._idle.pop().abort()

    async def request(self, method: str, path: str, fields: Iterable[str] = (), body: bytes = b"") -> Reply:
        """The answer to one request. `fields` are header lines. Raises UnansweredError."""
        message = self._message(method, path, fields, body)
        async with self._free:
            connection = await self._connection()
            try:
                reply = await connection.ask(message, self._answer_seconds_max)
            except BaseException:
                connection.abort()
                raise
            if connection.is_usable:
                self._idle.append(connection)
            return reply

    async def send_and_leave(
        self, method: str, path: str, fields: Iterable[str], body: bytes, after_seconds: float
    ) -> None:
        """Sends a request and hangs up soon after, whether or not it was answered. Raises UnansweredError."""
        message = self._message(method, path, fields, body)
        async with self._free:
            connection = await self._connection()
            try:
                async with asyncio.timeout(after_seconds):
                    await connection.ask(message, self._answer_seconds_max)
            except TimeoutError:
                pass
            finally:
                connection.abort()

    def _message(self, method: str, path: str, fields: Iterable[str], body: bytes) -> bytes:
        head = [f"{method} {self._prefix}{path} HTTP/1.1", f"Host: {self._host_field}", *fields]
        if body:
            head += ("Content-Type: application/json", f"Content-Length: {len(body)}")
        elif method == "POST":
            head.append("Content-Length: 0")
        return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body

    async def _connection(self) -> "_Connection":
        while self._idle:
            # The one that was used last: the server has had the least time to close it.
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        return await self._connect()

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                _, connection = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._is_encrypted or None
                )
        except (OSError, TimeoutError) as error:
            raise UnansweredError(f"{type(error).__name__}: {error}") from error
        return connection


class _Parser(Protocol):
    def feed_data(self, data: bytes) -> None: ...
    def get_status_code(self) -> int: ...
    def should_keep_alive(self) -> bool: ...


class _Connection(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser: _Parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.WriteTransport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._sent_at = 0.0
        self._retry_after: float | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0

    @property
    def is_usable(self) -> bool:
        """Whether another request may be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, message: bytes, seconds_max: float) -> Reply:
        """Sends a request and waits for its answer. Raises UnansweredError."""
        assert self._waiter is None
        assert self._transport is not None
        waiter: asyncio.Future[Reply] = self._loop.create_future()
        self._waiter = waiter
        self._retry_after, self._body, self._body_bytes = None, [], 0
        self._sent_at = monotonic_seconds()
        self._transport.write(message)
        silence = self._loop.call_later(seconds_max, self._give_up, "no answer in time")
        try:
            return await waiter
        finally:
            silence.cancel()
            self._waiter = None

    def abort(self) -> None:
        """Closes at once."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._give_up(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._give_up(str(exc or "the connection was closed"))

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 11 and name.lower() == b"retry-after" and value.isdigit():
            self._retry_after = float(value)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > BODY_BYTES_MAX:
            self._give_up("the answer is too large")
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        if self._waiter is not None and not self._waiter.done():
            seconds = monotonic_seconds() - self._sent_at
            self._waiter.set_result(Reply(status, self._retry_after, b"".join(self._body), seconds))

    def _give_up(self, reason: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(UnansweredError(reason))
        self.abort()
