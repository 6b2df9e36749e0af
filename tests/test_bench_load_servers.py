"""The load client, against servers that do not do what they should: they break off, talk nonsense, are silent."""

import asyncio

import pytest
from msgspec.structs import replace

from holdfast.bench.client.load import BROKEN, TIMED_OUT, Load, LoadClient
from small_servers import GET, POST, accept, answer, drive, rows, served


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> LoadClient:
    return LoadClient(tmp_path_factory.mktemp("load"))


async def test_a_connection_that_breaks_costs_its_request(client: LoadClient) -> None:
    async def sometimes(head: str, body: str) -> bytes | None:
        return None if body.startswith('{"n": "1') else answer()

    async with served(sometimes) as server:
        load = Load(url=server.url, templates=[POST], connections=4, seconds=30, lines=["a"], count=25)
        outcome = await drive(client, load)
    assert sorted(server.numbers()) == list(range(25))
    assert outcome.statuses() == {201: 14, BROKEN: 11}  # 1, and 10 to 19
    assert len(rows(outcome)) == 25


async def test_a_server_that_goes_away_costs_every_request_from_then(client: LoadClient) -> None:
    async with served(accept) as server:
        load = Load(url=server.url, templates=[POST], connections=4, seconds=1, rate=200, lines=["a"])
        running = asyncio.create_task(drive(client, load))
        while len(server.heads) < 20:
            await asyncio.sleep(0.01)
    outcome = await running
    assert outcome.statuses().keys() == {201, BROKEN}
    assert outcome.sent == len(rows(outcome)) == 200
    assert outcome.statuses()[201] >= 16


async def test_a_closed_loop_rests_when_the_server_is_gone(client: LoadClient) -> None:
    async with served(accept) as server:
        running = asyncio.create_task(
            drive(client, Load(url=server.url, templates=[POST], connections=4, seconds=0.7, lines=["a"]))
        )
        while len(server.heads) < 20:
            await asyncio.sleep(0.01)
    outcome = await running
    assert 4 <= outcome.broken <= 4 * 8  # a few attempts, not as many as it can make


async def test_a_server_may_end_the_connection(client: LoadClient) -> None:
    async def once_each(head: str, body: str) -> bytes:
        return answer(201, '{"id":"ord_1"}', "connection: Close")

    async with served(once_each) as server:
        outcome = await drive(client, Load(url=server.url, templates=[GET], connections=3, seconds=30, count=30))
    assert outcome.statuses() == {201: 30}
    assert outcome.connections == 30


async def test_what_was_not_asked_for_ends_the_connection(client: LoadClient) -> None:
    async def too_much(head: str, body: str) -> bytes:
        return answer() + answer(500, '{"id":"ord_2"}')

    async with served(too_much) as server:
        outcome = await drive(client, Load(url=server.url, templates=[GET], connections=2, seconds=30, count=20))
    assert outcome.statuses() == {201: 20}
    assert {name for _, name in outcome.ids()} == {"ord_1"}
    assert outcome.connections == 20


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 20x Fine\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 Fine\r\nX: " + b"y" * 20_000,
        b"\0" * 9_000,
    ],
)
async def test_nonsense_is_a_broken_connection(client: LoadClient, said: bytes) -> None:
    async def nonsense(head: str, body: str) -> bytes:
        return said

    async with served(nonsense) as server:
        outcome = await drive(client, Load(url=server.url, templates=[GET], connections=1, seconds=30, count=2))
    assert outcome.statuses() == {BROKEN: 2}


async def test_an_answer_may_come_in_pieces(client: LoadClient) -> None:
    async def bit_by_bit(head: str, body: str) -> bytes:
        for byte in answer(201, '{"id":"ord_7"}')[:-1]:
            server.connections[-1].write(bytes([byte]))
            await asyncio.sleep(0)
        return b"}"

    async with served(bit_by_bit) as server:
        outcome = await drive(client, Load(url=server.url, templates=[GET], connections=1, seconds=30, count=5))
    assert outcome.ids() == [(0, "ord_7")] * 5


async def test_bodies_may_be_large(client: LoadClient) -> None:
    sizes = iter([100, 8_100, 8_192, 100_000, 3_000_000])

    async def large(head: str, body: str) -> bytes:
        return answer(200, '{"id":"ord_1","rest":"' + "x" * next(sizes) + '"}')

    template = "POST / HTTP/1.1\n\n" + "y" * 3_000_000  # more than a socket takes at once
    async with served(large) as server:
        outcome = await drive(client, Load(url=server.url, templates=[template], connections=1, seconds=30, count=5))
    assert outcome.ids(status=200) == [(0, "ord_1")] * 5
    assert [len(body) for body in server.bodies] == [3_000_000] * 5
    assert outcome.connections == 1


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_may_have_no_body(client: LoadClient, status: int) -> None:
    async def empty(head: str, body: str) -> bytes:
        return f"HTTP/1.1 {status} Nothing\r\nETag: x\r\n\r\n".encode()

    async with served(empty) as server:
        outcome = await drive(client, Load(url=server.url, templates=[GET], connections=1, seconds=30, count=5))
    assert outcome.statuses() == {status: 5}


async def test_an_answer_that_does_not_come_is_timed_out(client: LoadClient) -> None:
    async def not_always(head: str, body: str) -> bytes:
        if '"1"' in body:
            await asyncio.sleep(5)
        return answer()

    async with served(not_always) as server:
        load = Load(url=server.url, templates=[POST], connections=1, seconds=30, lines=["a"], count=4)
        outcome = await drive(client, replace(load, timeout_seconds=0.2))
    assert outcome.statuses() == {201: 3, TIMED_OUT: 1}
    assert outcome.percentile_ms(100) >= 200
    assert outcome.connections == 2


async def test_what_is_under_way_at_the_end_is_awaited(client: LoadClient) -> None:
    async def slowly(head: str, body: str) -> bytes:
        await asyncio.sleep(0.5)
        return answer()

    async with served(slowly) as server:
        outcome = await drive(client, Load(url=server.url, templates=[GET], connections=3, seconds=0.2))
    assert outcome.statuses() == {201: 3}
    assert (outcome.rate(), outcome.seconds) == (0.0, 0.2)  # they came after the window
