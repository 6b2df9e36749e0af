"""One connection to a Valkey or Redis server, as thin as a call of the gate can be: a write, and a reply in its turn.

hiredis speaks the protocol. A full client costs several times what the gate's function does, since it hands each call
to threads of its own; docs/decisions/0012 has the figures.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote

import hiredis


class WireError(Exception):
    """The server cannot be reached, or did not answer in time: what became of the call is not known."""


class ReplyError(Exception):
    """The server answered with an error."""


class Wire:
    """Calls go out as they come and are answered in that order. The connection is made when it is first needed, and
    anew after it was lost, of which `when_lost` hears at once."""

    def __init__(self, url: SplitResult, timeout_seconds: float, when_lost: Callable[[], None] | None = None) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._when_lost = when_lost
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None

    async def call(self, *command: str | bytes | int) -> Any:
        """The reply: a text, a number, None, or a list of such. Raises WireError and ReplyError."""
        line = self._line
        if line is None or line.is_lost:
            line = await self._open()
        return await self._ask(line, command)

    async def close(self) -> None:
        """Ends the connection. A call makes it anew."""
        self.lose()

    def lose(self) -> None:
        """The same; whoever waits for a reply gets none."""
        line, self._line = self._line, None
        if line is not None:
            line.lose()

    async def _open(self) -> "_Line":
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        finally:
            if self._opening is opening and opening.done():
                self._opening = None

    async def _connect(self) -> "_Line":
        loop = asyncio.get_running_loop()
        host, port = self._url.hostname or "", self._url.port or 6379
        try:
            async with asyncio.timeout(self._timeout_seconds):
                _, line = await loop.create_connection(partial(_Line, self._note_loss), host, port)
        except (OSError, TimeoutError) as error:
            raise WireError(f"no connection: {error}") from error
        try:
            if self._url.password is not None:
                user = (self._url.username,) if self._url.username else ()
                await self._ask(line, ("AUTH", *user, unquote(self._url.password)))
            await self._ask(line, ("CLIENT", "SETNAME", "holdfast"))
        except BaseException:
            line.lose()
            raise
        self._line = line
        return line

    def _note_loss(self, line: "_Line") -> None:
        # One that is still being opened, or that was closed on purpose, is no news.
        if line is self._line and self._when_lost is not None:
            self._when_lost()

    async def _ask(self, line: "_Line", command: tuple[str | bytes | int, ...]) -> Any:
        loop = asyncio.get_running_loop()
        reply = line.ask(command, loop)
        # Replies come in the order of the calls, so that one which does not come ends the connection for all.
        late = loop.call_later(self._timeout_seconds, line.lose)
        try:
            return await reply
        finally:
            late.cancel()


class _Line(asyncio.Protocol):
    def __init__(self, note_loss: "Callable[[_Line], None]") -> None:
        self.is_lost = False
        self._note_loss = note_loss
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(encoding="utf-8", replyError=ReplyError)
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def ask(self, command: tuple[str | bytes | int, ...], loop: asyncio.AbstractEventLoop) -> "asyncio.Future[Any]":
        """Sends a command; its reply to come."""
        if self.is_lost or self._transport is None:
            raise WireError("the connection is lost")
        reply: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(reply)
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub wants a tuple of one
        return reply

    def lose(self) -> None:
        """Gives the connection up."""
        was_lost, self.is_lost = self.is_lost, True
        if self._transport is not None:
            self._transport.abort()
        while self._waiting:
            reply = self._waiting.popleft()
            if not reply.done():
                reply.set_exception(WireError("no answer"))
        if not was_lost:
            self._note_loss(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not False:
                self._answer(answer)
        except (hiredis.ProtocolError, UnicodeDecodeError):
            self.lose()

    def connection_lost(self, _: Exception | None) -> None:
        self.lose()

    def _answer(self, answer: Any) -> None:
        if not self._waiting:
            # Nothing was asked: this is no server of ours.
            self.lose()
            return
        reply = self._waiting.popleft()
        if reply.done():
            return
        if isinstance(answer, ReplyError):
            reply.set_exception(answer)
        else:
            reply.set_result(answer)
