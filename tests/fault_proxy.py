"""A TCP proxy that can cut a connection at the worst moment: after the request went through, before its answer does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


class FaultProxy:
    """Forwards to a Unix socket; `cut_answers` lets requests through and drops the next answers and the connection."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._connections: set[asyncio.Task[None]] = set()
        self.cuts_left = 0
        self.cuts = 0
        self.cut_when = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(str(self._upstream))
        armed = asyncio.Event()
        try:
            await asyncio.gather(
                self._requests(reader, upstream_writer, armed), self._answers(upstream_reader, writer, armed)
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            for one in (writer, upstream_writer):
                one.close()

    async def close(self) -> None:
        """Ends every connection."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, armed: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if self.cuts_left and self.cut_when in data:
                armed.set()
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, armed: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if armed.is_set() and self.cuts_left:
                # PostgreSQL has answered, so it has committed; the answer is lost.
                self.cuts_left -= 1
                self.cuts += 1
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def fault_proxy(upstream: Path) -> AsyncIterator[tuple[FaultProxy, int]]:
    """A proxy on a loopback port in front of a Unix socket."""
    proxy = FaultProxy(upstream)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
