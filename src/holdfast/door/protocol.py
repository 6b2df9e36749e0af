"""HTTP/1.1 as uvicorn speaks it, with a short way for the hot routes, bounds on what a client may make us keep, and
problem+json for bad HTTP."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from holdfast import ids
from holdfast.door.entry import Entry, busy, declares_more
from holdfast.door.exchange import Answer, Handler, Request, fields_of
from holdfast.door.problems import CONTENT_TYPE, problem_body
from holdfast.errors import refuse
from holdfast.settings import Settings


class _HeadTooLargeError(Exception):
    pass


class HotCycle:
    """One request of a hot route and its answer, where uvicorn would have a cycle of its own: no scope is made, no
    task is started before one is needed, and the answer is one write."""

    __slots__ = (
        "_fields", "_handler", "_path_id", "_protocol", "_query_string", "body", "disconnected", "has_begun",
        "is_too_large", "keep_alive", "response_complete",
    )  # fmt: skip

    message_event = asyncio.Event()
    """What uvicorn sets when the connection is lost. Nobody waits for it."""

    def __init__(
        self, protocol: "DoorProtocol", handler: Handler, path_id: str, query_string: bytes, *, keep_alive: bool
    ) -> None:
        self._protocol = protocol
        self._handler = handler
        self._path_id = path_id
        self._query_string = query_string
        self._fields = fields_of(protocol.headers)
        self.keep_alive = keep_alive
        self.body: bytes | bytearray = b""
        self.is_too_large = declares_more(self._fields, protocol.settings.body_bytes_max)
        self.has_begun = False
        self.disconnected = False
        self.response_complete = False

    @property
    def is_to_be_continued(self) -> bool:
        """Whether the client waits for a word before it sends the body."""
        return _expects_continue(self._fields)

    @property
    def response_started(self) -> bool:
        """Whether something was written: all of it, then."""
        return self.response_complete

    def take(self, part: bytes) -> None:
        """A part of the body. What comes after the answer was begun is not looked at."""
        if self.has_begun:
            return
        if not self.body:
            self.body = part
        elif isinstance(self.body, bytes):
            self.body = bytearray(self.body + part)
        else:
            self.body += part
        self.is_too_large = len(self.body) > self._protocol.settings.body_bytes_max

    def begin(self) -> "asyncio.Task[Answer] | None":
        """Has it answered. Returns the task that it takes, if any."""
        self.has_begun = True
        request = Request(
            self._fields,
            self._query_string,
            self._path_id,
            bytes(self.body),
            self._protocol.settings.body_bytes_max,
            is_too_large=self.is_too_large,
        )
        return self._protocol.entry.start(self._handler, request, self._say)

    def _say(self, answer: Answer) -> None:
        self._protocol.entry.leave()
        self.response_complete = True
        if not self.disconnected:
            self._protocol.say(answer, keep_alive=self.keep_alive)


class DoorProtocol(HttpToolsProtocol):
    """One connection. `settings` and `hot` are set by `door_protocol`.

    A request of a hot route that is all that is going on here takes the short way; any other one takes uvicorn's. A
    request's head is bounded in bytes and in time, and its body must keep coming. Clocks run only for a request that
    did not arrive whole in one piece, so that the common one pays nothing.
    """

    settings: Settings
    hot: "Callable[[], Entry | None]"
    is_ending = False
    """Whether this process is about to end: every answer then is the last one on its connection."""

    @classmethod
    def give_notice(cls) -> None:
        """This process is about to end."""
        cls.is_ending = True
        entry = cls.hot()
        if entry is not None:
            entry.ready = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hot_entry = self.hot()
        self._head_open = False
        self._body_open = False
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._was_heard = False
        self._clock: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._idle_clock: asyncio.TimerHandle | None = None

    @property
    def entry(self) -> Entry:
        """Where hot routes are answered."""
        assert self._hot_entry is not None
        return self._hot_entry

    def say(self, answer: Answer, *, keep_alive: bool) -> None:
        """Writes the answer to the one request that is under way, all at once."""
        if self.transport.is_closing():
            return
        status, head, body = answer
        keep_alive = keep_alive and not self.is_ending
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((STATUS_LINE[status], _joined(self.server_state), head, end, body)))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        if self._idle_clock is not None:
            self._idle_clock.cancel()
        cycle: Any = self.cycle
        if isinstance(cycle, HotCycle) and not cycle.has_begun:
            cycle.has_begun = True
            self.entry.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        head_was_open = self._head_open
        self._was_heard = False
        super().data_received(data)
        if self.transport.is_closing():
            self._stop_clock()
        elif self._head_open:
            # The parser keeps an unfinished field to itself, so its bytes are counted as they come in.
            self._unparsed_bytes += len(data) if head_was_open else 0
            if self._unparsed_bytes > self.settings.header_bytes_max:
                self._refuse("headers_too_large")
            elif self._clock is None:
                self._start_clock()
        else:
            self._stop_clock()
            if self._body_open or not (self._was_heard or self._answer_due()):
                self._start_clock()

    def on_message_begin(self) -> None:
        # uvicorn's part is done when it turns out to be needed.
        self.url = b""
        self.headers = []
        self._head_open = True
        self._head_bytes = 0
        self._unparsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._body_open = True
        cycle = self._hot_cycle()
        if cycle is None:
            self._go_uvicorns_way()
        elif not self.entry.admit():
            cycle.has_begun = cycle.response_complete = True
            self.cycle = cycle  # type: ignore[assignment]
            self.say(busy(), keep_alive=cycle.keep_alive)
        else:
            self.cycle = cycle  # type: ignore[assignment]
            if cycle.is_too_large:
                self._begin(cycle)
            elif cycle.is_to_be_continued:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if not isinstance(cycle, HotCycle):
            super().on_body(body)
            return
        cycle.take(body)
        if cycle.is_too_large and not cycle.has_begun:
            self._begin(cycle)

    def on_message_complete(self) -> None:
        self._body_open = False
        self._was_heard = True
        cycle: Any = self.cycle
        if not isinstance(cycle, HotCycle):
            super().on_message_complete()
        elif not cycle.has_begun:
            self._begin(cycle)

    def on_response_complete(self) -> None:
        """An answer was written: what was pipelined has its turn, or the connection rests."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        # One clock that looks now and then, since one for each pause between two requests would cost more.
        self._idle_since = self.loop.time()
        if self._idle_clock is None:
            self._idle_clock = self.loop.call_later(self.timeout_keep_alive, self._end_idle)

    def shutdown(self) -> None:
        """No new connections are taken: this one ends too, after the request that is under way or on its way."""
        if not self._head_open or self._answer_due():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser refuses, or to what a callback of ours raised."""
        self._refuse("headers_too_large" if self._head_bytes > self.settings.header_bytes_max else "bad_request")

    def _hot_cycle(self) -> HotCycle | None:
        """A cycle for the request whose head has come, if it is of a hot route, plain, and alone on its connection."""
        entry, parser, url = self._hot_entry, self.parser, self.url
        if entry is None or self._answer_due() or self.flow.write_paused or self.root_path:
            return None
        if parser.get_http_version() != "1.1" or parser.should_upgrade() or b"%" in url or b"#" in url:
            return None
        path, _, query_string = url.partition(b"?")
        found = entry.find(parser.get_method().decode("ascii"), path.decode("latin-1"))
        if found is None:
            return None
        return HotCycle(self, *found, query_string, keep_alive=parser.should_keep_alive())

    def _go_uvicorns_way(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers += headers
        self.expect_100_continue = _expects_continue(fields_of(headers))
        super().on_headers_complete()
        if self.is_ending and not self.pipeline:
            self.cycle.keep_alive = False

    def _begin(self, cycle: HotCycle) -> None:
        task = cycle.begin()
        if task is not None:
            # A server that ends waits for these.
            self.tasks.add(task)  # type: ignore[arg-type]  # nobody looks at their results
            task.add_done_callback(self.tasks.discard)

    def _end_idle(self) -> None:
        self._idle_clock = None
        if self._answer_due() or self._head_open or self._body_open:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_clock = self.loop.call_later(left, self._end_idle)
        else:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is not offered here, and a client that asks for one is no reason for a line in the log."""

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.settings.header_bytes_max:
            raise _HeadTooLargeError

    def _refuse(self, code: str) -> None:
        """Answers and closes; closes without a word where another request's answer is still due on this connection,
        since ours would be taken for that one."""
        self._stop_clock()
        if not self._answer_due() or self._fails_its_own_request():
            self.transport.write(self._problem(code))
        self.transport.close()

    def _answer_due(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _fails_its_own_request(self) -> bool:
        return self._body_open and not self.cycle.response_started and not self.pipeline

    def _problem(self, code: str) -> bytes:
        refusal = refuse(code)
        request_id = ids.new_request_id()
        body = problem_body(refusal, request_id)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", CONTENT_TYPE),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = [STATUS_LINE[refusal.kind.status], *(name + b": " + value + b"\r\n" for name, value in headers)]
        return b"".join([*lines, b"\r\n", body])

    def _start_clock(self) -> None:
        self._clock = self.loop.call_later(self.settings.read_seconds_max, self._too_slow)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_slow(self) -> None:
        if self.flow.read_paused:
            # It is we who do not read.
            self._start_clock()
        else:
            self.transport.close()


def door_protocol(settings: Settings, hot: Callable[[], Entry | None]) -> type[DoorProtocol]:
    """The protocol class for these settings: uvicorn makes one object of it for each connection."""
    return type("DoorProtocol", (DoorProtocol,), {"settings": settings, "hot": staticmethod(hot)})


def _expects_continue(fields: Mapping[bytes, bytes]) -> bool:
    return fields.get(b"expect", b"").lower() == b"100-continue"


_default_head: tuple[object, bytes] = (None, b"")


def _joined(server_state: ServerState) -> bytes:
    """uvicorn's own headers (the date), which it makes anew once a second."""
    global _default_head
    headers = server_state.default_headers
    if _default_head[0] is not headers:
        _default_head = (headers, b"".join(b"%b: %b\r\n" % header for header in headers))
    return _default_head[1]
