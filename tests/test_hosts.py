"""Addresses of several hosts, and connections that are dropped together."""

import asyncio
import socket
from collections.abc import AsyncIterator

import asyncpg
import pytest

from holdfast.engines.database import Pool, open_pool
from holdfast.engines.hosts import connection as connections
from holdfast.engines.hosts.address import Host, hosts_of
from holdfast.engines.hosts.connection import connect
from holdfast.engines.hosts.position import LogPosition
from holdfast.engines.hosts.primary import PrimaryPool, primary_of
from holdfast.settings import Settings
from postgres_trio import Trio


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@a.example:5433/x", [Host("a.example", 5433)]),
        ("postgresql://a,b:1,c/x", [Host("a", 5432), Host("b", 1), Host("c", 5432)]),
        ("postgresql://u:p%40@[::1]:5,[fe80::2]/x", [Host("::1", 5), Host("fe80::2", 5432)]),
        ("postgresql:///x?host=/var/run/a%20b", [Host("/var/run/a b", 5432)]),
        ("postgresql://u@/x?host=a,/s,b:3&port=1,2,9", [Host("a", 1), Host("/s", 2), Host("b", 3)]),
        ("postgresql:///x", []),
    ],
)
def test_the_hosts_of_a_url(url: str, hosts: list[Host]) -> None:
    assert hosts_of(url) == hosts


def test_a_port_that_is_none() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        hosts_of("postgresql://a:nonsense/x")


@pytest.fixture
async def watched(trio: Trio) -> AsyncIterator[Settings]:
    """Settings with all three hosts."""
    async with trio.database() as name:
        yield Settings(database_url=trio.url(name))  # type: ignore[arg-type]


async def pids(pool: Pool, count: int) -> set[int]:
    """The processes of so many connections that are used at the same time."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pool.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.1)")) for _ in range(count)]
    return {task.result() for task in tasks}


async def test_a_server_that_turns_out_to_be_read_only_is_left_by_everyone(settings: Settings) -> None:
    pool, other = await open_pool(settings), await open_pool(settings)
    writer = await primary_of(settings).connect({"application_name": "writer"})
    before = await pids(pool, 3) | await pids(other, 3)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with pool.acquire() as connection, connection.transaction(readonly=True):
            await connection.execute("CREATE TABLE nothing ()")
    assert writer.is_closed()
    after = await pids(pool, 3) | await pids(other, 3)
    assert not before & after
    await pool.close()
    await other.close()


async def test_one_lost_connection_ends_the_idle_ones_beside_it(settings: Settings, pool: Pool) -> None:
    used = await open_pool(settings)
    before = await pids(used, 3)
    with pytest.raises(asyncpg.PostgresError):
        await used.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")
    assert not before & await pids(used, 3)
    await used.close()


async def test_an_ordinary_refusal_ends_none(settings: Settings) -> None:
    used = await open_pool(settings)
    before = await pids(used, 3)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await used.fetchval("SELECT 1 / 0")
    assert await pids(used, 3) == before
    await used.close()


async def test_the_watch_ends_with_the_last_connection(watched: Settings) -> None:
    pool = await open_pool(watched)
    writer = await primary_of(watched).connect({})
    assert await pool.fetchval("SELECT NOT pg_is_in_recovery()")
    await pool.close()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert sum(name.startswith("watch ") for name in names) == 3
    writer.terminate()
    primary_of(watched).rest()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("watch ")]


async def test_connections_notice_a_host_that_is_gone(trio: Trio) -> None:
    connection = await connect(trio.url("postgres", trio.primary.name), None, timeout=10, server_settings={})
    sock = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == connections.SILENCE_SECONDS * 1000
    connection.terminate()


async def test_a_standby_is_not_taken(trio: Trio) -> None:
    url = trio.url("postgres", *trio.standbys)
    settings = Settings(database_url=url, database_timeout_seconds=1)  # type: ignore[arg-type]
    pool = await open_pool(settings)
    with pytest.raises(ConnectionError, match="is the primary"):
        await pool.fetchval("SELECT 1")
    await pool.close()


class Asked(PrimaryPool):
    """A pool that answers when it is let."""

    def __init__(self) -> None:
        self.questions: list[asyncio.Future[int]] = []

    async def fetchval(self, *_: object, **__: object) -> int:
        self.questions.append(asyncio.get_running_loop().create_future())
        return await self.questions[-1]

    def __del__(self) -> None:
        return


async def test_the_log_is_asked_once_for_all_who_wait_and_never_for_one_who_came_later() -> None:
    pool = Asked()
    position = LogPosition(pool, 10)
    first = [asyncio.create_task(position.now()) for _ in range(3)]
    await _turns()
    late = [asyncio.create_task(position.now()) for _ in range(3)]
    await _turns()
    assert len(pool.questions) == 1
    pool.questions[0].set_result(1)
    await _turns()
    assert [task.result() for task in first] == [1, 1, 1]
    assert len(pool.questions) == 2
    later_still = asyncio.create_task(position.now())
    await _turns()
    pool.questions[1].set_result(2)
    assert await asyncio.gather(*late) == [2, 2, 2]
    await _turns()
    pool.questions[2].set_result(3)
    assert await later_still == 3


async def test_an_answer_that_fails_is_told_to_those_who_waited_for_it() -> None:
    pool = Asked()
    position = LogPosition(pool, 10)
    asking = asyncio.create_task(position.now())
    await _turns()
    pool.questions[0].set_exception(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        await asking
    again = asyncio.create_task(position.now())
    await _turns()
    pool.questions[1].set_result(7)
    assert await again == 7


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
