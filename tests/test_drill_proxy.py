"""The links that drills cut: what passes, what is kept, what is broken off."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from holdfast.drill.cuts.links import Links
from holdfast.drill.cuts.proxy import Cut, Link
from holdfast.errors import Mendable


class Line(NamedTuple):
    """A link to a server that answers each line with itself, and a connection through it."""

    link: Link
    port: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heard: list[bytes]
    """What came to the server."""

    async def ask(self, text: bytes, seconds: float = 5) -> bytes:
        """The answer to a line."""
        self.writer.write(text + b"\n")
        return await asyncio.wait_for(self.reader.readline(), seconds)


@asynccontextmanager
async def echo() -> AsyncIterator[Line]:
    """The stage of these tests."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                heard.append(line)
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    link = Link(server.sockets[0].getsockname()[:2])
    port = await link.open()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Line(link, port, reader, writer, heard)
    finally:
        writer.close()
        await link.close()
        server.close()
        await server.wait_closed()


async def until(holds: list[bytes], count: int) -> None:
    """Waits until so many lines were heard."""
    async with asyncio.timeout(10):
        while len(holds) < count:
            await asyncio.sleep(0.005)


async def test_a_whole_link_passes_everything() -> None:
    async with echo() as line:
        big = b"x" * 60_000
        for text in (b"one", big, b"two"):
            assert await line.ask(text) == text + b"\n"


async def test_a_delay_takes_its_time_both_ways() -> None:
    async with echo() as line:
        await line.ask(b"warm")
        line.link.apply(Cut.DELAY, 0.1)
        began = asyncio.get_running_loop().time()
        assert await line.ask(b"one") == b"one\n"
        assert asyncio.get_running_loop().time() - began >= 0.2


async def test_a_black_hole_keeps_what_passes_until_it_is_gone() -> None:
    async with echo() as line:
        await line.ask(b"warm")
        line.link.apply(Cut.BLACKHOLE)
        with pytest.raises(TimeoutError):
            await line.ask(b"one", 0.2)
        assert line.heard == [b"warm\n"]
        line.link.apply(Cut.NONE)
        assert await asyncio.wait_for(line.reader.readline(), 5) == b"one\n"


async def test_one_way_lets_requests_through_and_no_answer() -> None:
    async with echo() as line:
        await line.ask(b"warm")
        line.link.apply(Cut.ONE_WAY)
        with pytest.raises(TimeoutError):
            await line.ask(b"one", 0.2)
        await until(line.heard, 2)
        line.link.apply(Cut.NONE)
        assert await asyncio.wait_for(line.reader.readline(), 5) == b"one\n"


async def test_a_reset_breaks_off_what_is_there_and_what_comes() -> None:
    async with echo() as line:
        await line.ask(b"warm")
        line.link.apply(Cut.RESET)
        with pytest.raises(ConnectionResetError):
            await line.reader.readline()
        reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        assert line.heard == [b"warm\n"]


async def test_an_answer_is_dropped_after_its_request_has_passed() -> None:
    async with echo() as line:
        line.link.answers_to_drop, line.link.drop_when = 1, b"this"
        assert await line.ask(b"other") == b"other\n"
        assert await line.ask(b"this") == b""
        assert line.heard == [b"other\n", b"this\n"]
        assert line.link.answers_dropped == 1


async def test_an_end_that_hangs_up_is_told_to_the_other() -> None:
    async with echo() as line:
        await line.ask(b"warm")
        line.writer.close()
        async with asyncio.timeout(10):
            while line.link._ends:
                await asyncio.sleep(0.005)


async def test_nothing_behind_a_link_is_a_reset() -> None:
    async with echo() as line:
        pass
    link = Link(("127.0.0.1", line.port))
    port = await link.open()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionError):
            await reader.readexactly(1)
        writer.close()
    finally:
        await link.close()


async def test_links_live_in_a_process_of_their_own() -> None:
    async with echo() as line, Links() as links:
        port = await links.open("echo", line.port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"one\n")
            assert await asyncio.wait_for(reader.readline(), 10) == b"one\n"
            await links.apply("echo", Cut.RESET)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        finally:
            writer.close()
        with pytest.raises(Mendable, match="cannot be opened"):
            await links.open("taken", line.port, port)
