"""HTTP/1.1 as uvicorn speaks it, with bounds on what a client may make us keep, and problem+json for bad HTTP."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from holdfast import ids
from holdfast.door.problems import CONTENT_TYPE, problem_body
from holdfast.errors import refuse
from holdfast.settings import Settings


class _HeadTooLargeError(Exception):
    pass


class DoorProtocol(HttpToolsProtocol):
    """One connection. `settings` is set by `door_protocol`.

    A request's head is bounded in bytes and in time, and its body must keep coming. Clocks run only for a request that
    did not arrive whole in one piece, so that the common one pays nothing.
    """

    settings: Settings

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_open = False
        self._body_open = False
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        head_was_open = self._head_open
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
            if self._body_open or not self._answer_due():
                self._start_clock()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_open = True
        self._head_bytes = 0
        self._unparsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._body_open = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_open = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser refuses, or to what a callback of ours raised."""
        self._refuse("headers_too_large" if self._head_bytes > self.settings.header_bytes_max else "bad_request")

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


def door_protocol(settings: Settings) -> type[DoorProtocol]:
    """The protocol class for these settings: uvicorn makes one object of it for each connection."""
    return type("DoorProtocol", (DoorProtocol,), {"settings": settings})
