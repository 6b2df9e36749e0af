"""The connections of a rush: kept alive, bounded, and honest about answers that never came."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from holdfast import ids
from holdfast.rush.buyer import Buyer, Crowd, Manner
from holdfast.rush.http_client import Client, UnansweredError
from holdfast.rush.ledger import Ledger
from holdfast.rush.stage import Person, Sale

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(talk: Talk, connections_max: int = 4) -> AsyncIterator[tuple[Client, list[int]]]:
    """A server that talks like this on each connection, a client of it, and the connections that were made."""
    made: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(1)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = Client(urlsplit(f"http://127.0.0.1:{port}/base/"), connections_max)
    try:
        yield client, made
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes each request's first line and body."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        body = head.partition(b"\r\n")[0] + b"|" + await reader.readexactly(length)
        writer.write(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def test_a_connection_is_used_again() -> None:
    async with served(answers) as (client, made):
        replies = [await client.request("POST", "/x", ["A: b"], b"{}") for _ in range(3)]
        assert [reply.body for reply in replies] == [b"POST /base/x HTTP/1.1|{}"] * 3
        assert (replies[0].status, replies[0].retry_after_seconds) == (429, 3.0)
        assert len(made) == 1


async def test_requests_share_no_more_connections_than_allowed() -> None:
    async with served(answers, connections_max=2) as (client, made):
        await asyncio.gather(*(client.request("GET", "/x") for _ in range(20)))
        assert len(made) == 2


async def test_a_chunked_answer_behind_an_interim_one_comes_whole() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        await reader.read()

    async with served(talk) as (client, _):
        reply = await client.request("GET", "/")
        assert (reply.status, reply.body) == (200, b"abc")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"no HTTP\r\n\r\n"])
async def test_a_broken_answer_is_none(said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)

    async with served(talk) as (client, made):
        for _ in range(2):
            with pytest.raises(UnansweredError):
                await client.request("GET", "/")
        assert len(made) == 2, "a broken connection is not used again"


async def test_a_server_that_is_not_there_gives_no_answer() -> None:
    async with served(answers) as (client, _):
        pass
    with pytest.raises(UnansweredError):
        await client.request("GET", "/")


async def test_who_hangs_up_leaves_the_connection_closed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with served(talk, connections_max=1) as (client, made):
        for _ in range(2):
            await client.send_and_leave("POST", "/", (), b"{}", 0.01)
        assert len(made) == 2


def test_the_seed_decides_how_each_buyer_behaves() -> None:
    sale = Sale(ids.new_id(), "evt", {ids.new_id(): 1})
    crowd = Crowd(Client(urlsplit("http://nowhere"), 1), Ledger(), sale, str)
    person = Person(ids.new_id(), "token")

    def manners(seed: int) -> list[Manner]:
        return [Buyer(crowd, person, number, seed).manner for number in range(300)]

    assert manners(1) == manners(1)
    assert manners(1) != manners(2)
    assert set(manners(1)) == set(Manner)
