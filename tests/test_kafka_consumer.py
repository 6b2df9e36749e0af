"""Consumers over Kafka: each event takes effect once, whatever is published twice and whoever loses a partition."""

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from box_office import Desk, counted, open_desk, put_on_sale
from holdfast import ids
from holdfast.engines.database import Connection, Pool
from holdfast.gate.consumer import gate_consumer
from holdfast.outbox import kafka_consumer
from holdfast.outbox.consume import OutboxRow, Recorder
from holdfast.outbox.events import ORDERS
from holdfast.outbox.kafka_consumer import consume_log
from holdfast.settings import Settings
from kafka_house import is_published, put, read_all, relaying, running, until, write_orders
from running_up import environment_of

KINDS = ("order.reserved", "order.confirmed")


class Book:
    """A recorder that writes each row down, and can be held up."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.is_at_it = asyncio.Event()
        self.recorder = Recorder("stats", KINDS, self.record)

    async def record(self, rows: Sequence[OutboxRow], connection: Connection) -> None:
        await connection.executemany(
            "INSERT INTO book (event_id, subject, version) VALUES ($1, $2, $3)",
            [(row.event_id, row.subject, row.version) for row in rows],
        )
        self.is_at_it.set()
        await self.goes_on.wait()

    def has(self, lines: int) -> Callable[[], Awaitable[bool]]:
        """Whether so many lines are written."""

        async def holds() -> bool:
            found: int = await self._pool.fetchval("SELECT count(*) FROM book")
            return found >= lines

        return holds

    async def doubled(self) -> int:
        """Events that are written more than once."""
        found: int = await self._pool.fetchval("SELECT count(*) - count(DISTINCT event_id) FROM book")
        return found

    async def disordered(self) -> int:
        """Events written after one of a later version of the same order."""
        found: int = await self._pool.fetchval(
            "SELECT count(*) FROM book a JOIN book b USING (subject) WHERE a.line > b.line AND a.version < b.version"
        )
        return found


@pytest.fixture
async def book(pool: Pool) -> Book:
    await pool.execute("CREATE TABLE book (line bigserial, event_id text, subject uuid, version integer)")
    return Book(pool)


async def publish_again(settings: Settings, pool: Pool) -> None:
    """What a relay does that was killed before it recorded its progress."""
    await pool.execute("UPDATE outbox.consumers SET xid = '0', id = 0 WHERE name LIKE 'relay-%'")
    async with relaying(settings):
        await until(lambda: is_published(pool))


async def test_what_is_published_twice_takes_effect_once(kafka: Settings, pool: Pool, book: Book) -> None:
    event = await put_on_sale(pool, 100)
    async with running(lambda stop: consume_log(kafka, pool, book.recorder, stop)):
        await write_orders(pool, event, 60, *KINDS)
        async with relaying(kafka):
            await until(book.has(120))
        await publish_again(kafka, pool)
        await write_orders(pool, event, 20, *KINDS)
        await publish_again(kafka, pool)
        await until(book.has(160))
    assert len(await asyncio.to_thread(read_all, kafka, ORDERS)) == 120 + 120 + 160
    assert (await book.doubled(), await book.disordered()) == (0, 0)
    assert await pool.fetchval("SELECT count(*) FROM book") == 160


async def test_control_without_the_mark_it_takes_effect_twice(
    kafka: Settings, pool: Pool, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(kafka_consumer, "_mark", lambda _: (0, next(numbers)))
    event = await put_on_sale(pool, 100)
    async with running(lambda stop: consume_log(kafka, pool, book.recorder, stop)):
        await write_orders(pool, event, 10, *KINDS)
        async with relaying(kafka):
            await until(book.has(20))
        await publish_again(kafka, pool)
        await until(book.has(40))
    assert await book.doubled() == 20


async def lose_partitions_in_mid_batch(settings: Settings, pool: Pool, book: Book) -> None:
    """A consumer is held up in its transaction; meanwhile somebody else records the same messages as handled."""
    event = await put_on_sale(pool, 100)
    await write_orders(pool, event, 30)
    async with relaying(settings):
        await until(lambda: is_published(pool))
    book.goes_on.clear()
    async with running(lambda stop: consume_log(settings, pool, book.recorder, stop)):
        await book.is_at_it.wait()
        await pool.execute(
            "UPDATE outbox.positions p SET next_offset = 1000, xid = e.xid, number = e.id FROM "
            "(SELECT xid, id FROM outbox.events ORDER BY xid DESC, id DESC LIMIT 1) e"
        )
        book.is_at_it.clear()
        book.goes_on.set()
        await asyncio.sleep(1)


async def test_who_has_lost_a_partition_in_mid_batch_records_nothing(kafka: Settings, pool: Pool, book: Book) -> None:
    await lose_partitions_in_mid_batch(kafka, pool, book)
    assert await pool.fetchval("SELECT count(*) FROM book") == 0


async def test_control_without_the_comparison_both_record_it(
    kafka: Settings, pool: Pool, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = "WHERE (p.next_offset, p.xid, p.number) = (m.at_offset, m.xid::xid8, m.number)"
    move = kafka_consumer.SQL["move"]
    assert guard in move
    monkeypatch.setitem(kafka_consumer.SQL, "move", move.replace(guard, ""))
    await lose_partitions_in_mid_batch(kafka, pool, book)
    assert await pool.fetchval("SELECT count(*) FROM book") > 0


async def test_what_was_lost_with_a_primary_is_read_again(kafka: Settings, pool: Pool, book: Book) -> None:
    event = await put_on_sale(pool, 1000)
    await write_orders(pool, event, 100)
    async with relaying(kafka), running(lambda stop: consume_log(kafka, pool, book.recorder, stop)):
        await until(book.has(100))
        # As on a standby that is promoted without what was recorded last.
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("DELETE FROM book")
            await connection.execute("UPDATE outbox.positions SET next_offset = 0, xid = '0', number = 0")
        await write_orders(pool, event, 100)
        await until(book.has(200))
        assert await book.doubled() == 0
        assert await book.disordered() == 0


async def test_a_second_process_takes_its_share_in_mid_batch(kafka: Settings, pool: Pool, book: Book) -> None:
    event = await put_on_sale(pool, 100)
    other = Book(pool)
    async with (
        relaying(kafka),
        running(
            lambda stop: consume_log(kafka, pool, book.recorder, stop),
            lambda stop: _later(book, lambda: consume_log(kafka, pool, other.recorder, stop)),
        ),
    ):
        for _ in range(8):
            await write_orders(pool, event, 25, *KINDS)
            await asyncio.sleep(0.1)
        await until(book.has(400))
    assert await pool.fetchval("SELECT count(*) FROM book") == 400
    assert (await book.doubled(), await book.disordered()) == (0, 0)


@pytest.mark.slow
async def test_a_consumer_is_killed_in_mid_batch_again_and_again(
    kafka: Settings, pool: Pool, book: Book, tmp_path: Path
) -> None:
    event = await put_on_sale(pool, 100)
    await write_orders(pool, event, 700, *KINDS)
    environment = environment_of(tmp_path / "home") | {
        "HOLDFAST_DATABASE_URL": kafka.database_url.get_secret_value(),
        "HOLDFAST_KAFKA_URL": kafka.kafka_url.get_secret_value(),
    }
    async with relaying(kafka):
        await until(lambda: is_published(pool))
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kafka_reader.py"))], env=environment, stdout=subprocess.PIPE
        ) as reader:
            try:
                assert reader.stdout is not None
                assert await asyncio.to_thread(reader.stdout.readline), "it reads nothing"
            finally:
                reader.kill()
    async with running(lambda stop: consume_log(kafka, pool, book.recorder, stop)):
        await until(book.has(1400))
    assert await pool.fetchval("SELECT count(*) FROM book") == 1400
    assert await book.doubled() == 0


async def _later(book: Book, loop: Callable[[], Awaitable[None]]) -> None:
    await book.is_at_it.wait()
    await loop()


async def test_the_gate_hears_of_orders_through_kafka(kafka: Settings, pool: Pool) -> None:
    async with open_desk(kafka, pool) as desk:
        event = await put_on_sale(pool, 10)
        alice, bob = ids.new_id(), ids.new_id()
        first, _ = await desk.buy(alice, "k", event, 3)
        second, _ = await desk.buy(bob, "k", event, 2)
        assert await desk.try_confirm(second) == "confirmed"
        assert await desk.try_cancel(first) == "cancelled"
        await desk.reserve.drain()
        consumer = gate_consumer(pool, desk.gate)
        async with relaying(kafka), running(lambda stop: consume_log(kafka, pool, consumer, stop)):
            await until(lambda: _free(desk, event, 8))
    assert counted([first.status, second.status]) == {"reserved": 2}


async def _free(desk: Desk, event: object, tickets: int) -> bool:
    return await desk.gate_free(event) == (tickets,)  # type: ignore[arg-type]


async def test_what_cannot_be_read_goes_to_the_dead_letters_and_the_rest_flows_on(
    kafka: Settings, pool: Pool, book: Book
) -> None:
    event = await put_on_sale(pool, 100)
    async with relaying(kafka), running(lambda stop: consume_log(kafka, pool, book.recorder, stop)):
        await write_orders(pool, event, 16)
        await until(book.has(16))
        partition = 5
        broken = (
            b"not json",
            b"\xff\xfe",
            b'{"type": "holdfast.order.reserved.v2", "data": {}}',
            b'{"type": "holdfast.order.reserved.v1", "data": {"event_id": "evt_1"}}',
            b'{"type": "com.example.thing"}',
            b"",
        )
        await asyncio.to_thread(put, kafka, ORDERS, partition, *broken)
        await asyncio.to_thread(put, kafka, ORDERS, partition, b'{"type": "holdfast.order.refunded.v1", "data": {}}')
        await write_orders(pool, event, 160)
        await until(book.has(176))
        await until(lambda: _letters(pool, len(broken)))
    letters = await pool.fetch("SELECT * FROM outbox.dead_letters ORDER BY event_id")
    assert [letter["content"] for letter in letters] == list(broken)
    assert "version 2 of order.reserved is not known here" in letters[2]["reason"]
    copies = await asyncio.to_thread(read_all, kafka, "holdfast.dead-letters")
    assert [copy["value"] or b"" for copy in copies] == list(broken)
    assert copies[2]["headers"]["consumer"] == "stats"
    assert "version 2" in copies[2]["headers"]["reason"]
    assert copies[2]["headers"]["origin"].startswith("holdfast.orders/5/")
    assert await book.doubled() == 0


async def _letters(pool: Pool, count: int) -> bool:
    return bool(await pool.fetchval("SELECT count(*) FROM outbox.dead_letters") == count)
