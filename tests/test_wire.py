"""The wire to the gate: replies in their turn, a connection that breaks, a server that is slow or talks nonsense."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest

from conftest import Engines, free_port
from holdfast.gate.wire import ReplyError, Wire, WireError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def wire_to(serve: Serve, timeout_seconds: float = 0.2) -> AsyncIterator[Wire]:
    """A wire to a server that answers as `serve` does, which ends a connection by returning."""
    served: list[asyncio.Task[None]] = []

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire = Wire(urlsplit(f"valkey://127.0.0.1:{port}"), timeout_seconds)
    try:
        yield wire
    finally:
        await wire.close()
        server.close()
        await asyncio.gather(*served)


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the name that each connection gives itself."""
    await reader.readuntil(b"holdfast\r\n")
    writer.write(b"+OK\r\n")


async def test_a_real_server_answers_each_call_in_its_turn(engines: Engines) -> None:
    wire = Wire(urlsplit(engines.valkey.url), 2)
    replies = await asyncio.gather(*(wire.call("ECHO", f"{number} 票") for number in range(200)))
    assert replies == [f"{number} 票" for number in range(200)]
    assert await wire.call("LRANGE", "nothing", 0, -1) == []
    assert await wire.call("GET", "nothing") is None
    with pytest.raises(ReplyError, match="unknown command"):
        await wire.call("BREW")
    assert await wire.call("PING") == "PONG", "an error is an answer, and the connection goes on"
    await wire.close()


async def test_a_wrong_password_and_no_server_are_errors(engines: Engines) -> None:
    url = urlsplit(engines.valkey.url)
    wrong = Wire(urlsplit(f"valkey://:wrong@127.0.0.1:{url.port}"), 2)
    with pytest.raises(ReplyError, match="WRONGPASS"):
        await wrong.call("PING")
    nobody = Wire(urlsplit(f"valkey://127.0.0.1:{free_port()}"), 2)
    with pytest.raises(WireError, match="no connection"):
        await nobody.call("PING")


async def test_a_connection_that_broke_is_made_anew() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await greet(reader, writer)
        await reader.readuntil(b"PING\r\n")
        if connections > 1:
            writer.write(b"+PONG\r\n")
            await reader.read()

    async with wire_to(serve) as wire:
        with pytest.raises(WireError):
            await wire.call("PING")
        assert await wire.call("PING") == "PONG"
    assert connections == 2


async def test_a_late_reply_is_nobody_elses() -> None:
    """The control is the first call: its reply comes, but too late, and must not answer the second."""
    late = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        asked = await reader.readuntil(b"\r\nx\r\n")
        if b"first" in asked:
            await late.wait()
        writer.write(b"+first\r\n" if b"first" in asked else b"+second\r\n")
        await reader.read()

    async with wire_to(serve) as wire:
        with pytest.raises(WireError, match="no answer"):
            await wire.call("first", "x")
        late.set()
        assert await wire.call("second", "x") == "second"


@pytest.mark.parametrize(
    "nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$3\r\n\xff\xfe\xfd\r\n", b"+1\r\n+2\r\n+3\r\n"]
)
async def test_nonsense_ends_the_connection(nonsense: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await reader.readuntil(b"PING\r\n")
        writer.write(nonsense)
        await reader.read()

    async with wire_to(serve) as wire:
        answers = [await answer(wire), await answer(wire)]
    # A right reply, and two that nobody asked for, which must not answer the next call.
    assert answers == (["1", "1"] if nonsense.startswith(b"+1") else ["WireError", "WireError"])


async def answer(wire: Wire) -> str:
    try:
        return str(await wire.call("PING"))
    except WireError:
        return "WireError"
