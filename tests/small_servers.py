"""Small servers for the load client: each does with a request what its test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from holdfast.bench.client.load import Load, LoadClient, Outcome

POST = 'POST /orders/create HTTP/1.1\nAuthorization: Bearer @1@\nIdempotency-Key: @n@\n\n{"n": "@n@", "who": "@1@"}'
GET = "GET /things?n=@n@ HTTP/1.1\n\n"

React = Callable[[str, str], Awaitable[bytes | None]]
"""What a server does with the head and the body of a request: bytes to answer, or None to close the connection."""


def answer(status: int = 201, body: str = '{"id":"ord_1"}', *headers: str) -> bytes:
    """An answer in one piece."""
    return "\r\n".join([f"HTTP/1.1 {status} Said", *headers, f"Content-Length: {len(body)}", "", body]).encode()


async def accept(head: str, body: str) -> bytes:
    """201, whatever is asked."""
    return answer()


class Server:
    """What a server of these tests has seen."""

    def __init__(self) -> None:
        self.url = ""
        self.heads: list[str] = []
        self.bodies: list[str] = []
        self.connections: list[asyncio.StreamWriter] = []

    def numbers(self) -> list[int]:
        """The @n@ of each request, as it came."""
        return [int(body.split('"')[3]) for body in self.bodies]


@asynccontextmanager
async def served(react: React) -> AsyncIterator[Server]:
    """A server that reacts like this to each request."""
    seen = Server()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections.append(writer)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
                body = (await reader.readexactly(length)).decode()
                seen.heads.append(head)
                seen.bodies.append(body)
                said = await react(head, body)
                if said is None:
                    return
                writer.write(said)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 24)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        server.close()
        for writer in seen.connections:
            writer.close()
        await server.wait_closed()


async def drive(client: LoadClient, load: Load) -> Outcome:
    """One run, beside the server's loop."""
    return await asyncio.to_thread(client.run, load, lambda line: None)


def rows(outcome: Outcome) -> list[list[str]]:
    """The log, as it stands."""
    return [line.split("\t") for line in outcome.log.read_text().splitlines()]
