"""A link between two parts over TCP that can be slowed, broken, or made to swallow what passes in one way or both.

What a link swallows is kept and passed on once it is whole again, as TCP itself would have sent it again. So a cut is
noticed by those whose own time-outs are over, and by nobody else.
"""

import asyncio
import socket
import struct
from collections import deque
from enum import Enum
from pathlib import Path
from typing import TypeAlias

Upstream: TypeAlias = "tuple[str, int] | Path"
"""A host and port, or a Unix socket."""

_NO_LINGER = struct.pack("ii", 1, 0)
_KEPT_BYTES_MAX = 256 * 1024
_BACKLOG = 4096
"""As many as the servers behind let wait: a storm of new connections is not to be dropped here."""


class Cut(Enum):
    """What a link does to what passes."""

    NONE = "none"
    DELAY = "delay"
    """Both ways take longer."""
    RESET = "reset"
    """Connections are broken off, those that are there and those that are made."""
    BLACKHOLE = "blackhole"
    """Nothing passes, and nobody is told."""
    ONE_WAY = "one way"
    """Requests pass, answers do not."""


class Link:
    """Listens on a loopback port and passes everything on to an upstream. Belongs to one event loop."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self.cut = Cut.NONE
        self.delay_seconds = 0.0
        self.answers_to_drop = 0
        """So many answers are still to be dropped, each with its connection, once its request has passed."""
        self.answers_dropped = 0
        self.drop_when = b""
        """Only answers to requests that contain this are dropped."""

    async def open(self, port: int = 0) -> int:
        """Begins to listen: the port."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _End(self, None), "127.0.0.1", port, backlog=_BACKLOG
        )
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def close(self) -> None:
        """Ends every connection and listens no more."""
        if self._server is not None:
            self._server.close()
        for task in self._connecting:
            task.cancel()
        for end in list(self._ends):
            end.abort()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    def apply(self, cut: Cut, delay_seconds: float = 0.2) -> None:
        """From now on the link does this to everything that passes."""
        self.cut = cut
        self.delay_seconds = delay_seconds if cut is Cut.DELAY else 0.0
        for end in list(self._ends):
            if cut is Cut.RESET:
                end.reset()
            elif end.is_client and end.peer is None:
                self._connect_soon(end)
            else:
                end.pass_on()

    def holds(self, end: "_End") -> bool:
        """Whether what this end sends does not pass now."""
        return self.cut is Cut.BLACKHOLE or (self.cut is Cut.ONE_WAY and not end.is_client)

    # What the ends call

    def joined(self, end: "_End") -> None:
        """A connection was made."""
        self._ends.add(end)
        if self.cut is Cut.RESET:
            end.reset()
        elif end.is_client:
            self._connect_soon(end)

    def left(self, end: "_End") -> None:
        """A connection ended."""
        self._ends.discard(end)

    def drops(self, end: "_End", data: bytes) -> bool:
        """Whether this answer is one to be dropped."""
        if end.is_client:
            end.is_armed = end.is_armed or bool(self.answers_to_drop and self.drop_when in data)
            return False
        if not self.answers_to_drop or end.peer is None or not end.peer.is_armed:
            return False
        self.answers_to_drop -= 1
        self.answers_dropped += 1
        return True

    def _connect_soon(self, client: "_End") -> None:
        """Nothing is asked of the upstream before the client's first words could come to it."""
        if not client.is_connecting and not self.holds(client):
            client.is_connecting = True
            task = asyncio.create_task(self._connect(client))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, client: "_End") -> None:
        loop = asyncio.get_running_loop()
        try:
            if isinstance(self._upstream, Path):
                await loop.create_unix_connection(lambda: _End(self, client), str(self._upstream))
            else:
                await loop.create_connection(lambda: _End(self, client), *self._upstream)
        except OSError:
            client.reset()


class _End(asyncio.Protocol):
    """One end of a connection through a link: the client's, or the upstream's, which knows its client."""

    def __init__(self, link: Link, client: "_End | None") -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._transport: asyncio.Transport | None = None
        # (when it may pass, what); b"" is the end of the stream.
        self._kept: deque[tuple[float, bytes]] = deque()
        self._kept_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.is_client = client is None
        self.is_armed = False
        self.is_connecting = False
        self.peer = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if self.peer is not None:
            self.peer.peer = self
        self._link.joined(self)
        if self.peer is not None:
            self.peer.pass_on()

    def data_received(self, data: bytes) -> None:
        if self._link.drops(self, data):
            self.abort()
            return
        self._keep(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._link.left(self)
        self._keep(b"")

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer._transport is not None:
            self.peer._transport.resume_reading()

    def pass_on(self) -> None:
        """Sends what was kept and may pass by now."""
        peer = self.peer
        if peer is None or self._link.holds(self):
            return
        while self._kept:
            due, data = self._kept[0]
            if due > self._loop.time():
                self._timer = self._timer or self._loop.call_at(due, self._due)
                return
            self._kept.popleft()
            self._kept_bytes -= len(data)
            if peer._transport is None:
                continue
            if data:
                peer._transport.write(data)
            else:
                peer._transport.close()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self) -> None:
        """Closes both sides at once."""
        for end in (self, self.peer):
            if end is not None and end._transport is not None:
                end._transport.abort()

    def reset(self) -> None:
        """Closes both sides with a reset."""
        for end in (self, self.peer):
            if end is not None and end._transport is not None:
                connection = end._transport.get_extra_info("socket")
                if connection is not None and connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                end._transport.abort()

    def _keep(self, data: bytes) -> None:
        peer = self.peer
        is_free = not self._kept and not self._link.delay_seconds and not self._link.holds(self)
        if data and is_free and peer is not None and peer._transport is not None:
            peer._transport.write(data)
            return
        self._kept.append((self._loop.time() + self._link.delay_seconds, data))
        self._kept_bytes += len(data)
        if self._kept_bytes > _KEPT_BYTES_MAX and self._transport is not None:
            # As much as the buffers of a real connection would hold; then its writer has to wait.
            self._transport.pause_reading()
        self.pass_on()

    def _due(self) -> None:
        self._timer = None
        self.pass_on()
