"""What a consumer cannot handle: tried a bounded number of times, put aside, handed over again when somebody asks."""

import asyncio
from collections.abc import Sequence

import pytest

from box_office import consume_all, put_on_sale
from holdfast import ids
from holdfast.engines.database import Connection, Pool
from holdfast.outbox.consume import Consumer, OutboxRow, Recorder
from holdfast.outbox.dead_letters import count_letters, hand_over_wanted, want_letters
from holdfast.outbox.kafka_consumer import consume_log
from holdfast.settings import Settings
from kafka_house import read_all, relaying, running, until, write_orders

KIND = "order.reserved"


class Picky:
    """A recorder and a consumer that cannot handle some orders, until they can."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.refuses: set[object] = set()
        self.tries = 0
        self.told: list[OutboxRow] = []
        self.recorder = Recorder("stats", (KIND,), self.record)
        self.consumer = Consumer("notify", (KIND,), self.handle)

    async def record(self, rows: Sequence[OutboxRow], connection: Connection) -> None:
        for row in rows:
            await connection.execute("INSERT INTO noted VALUES ($1)", row.subject)
            self._look_at(row)

    async def handle(self, rows: Sequence[OutboxRow]) -> int:
        for row in rows:
            self._look_at(row)
            self.told.append(row)
        return len(rows)

    async def noted(self) -> list[str]:
        """The orders that are written down."""
        return [ids.encode(ids.ORDER, row[0]) for row in await self.pool.fetch("SELECT subject FROM noted")]

    def _look_at(self, row: OutboxRow) -> None:
        if ids.encode(ids.ORDER, row.subject) in self.refuses:
            self.tries += 1
            raise LookupError("there is no such seat")


@pytest.fixture
async def picky(pool: Pool) -> Picky:
    await pool.execute("CREATE TABLE noted (subject uuid)")
    return Picky(pool)


async def test_read_directly_the_rest_goes_on_and_the_letter_takes_effect_once(pool: Pool, picky: Picky) -> None:
    event = await put_on_sale(pool, 100)
    orders = await write_orders(pool, event, 20)
    picky.refuses = {orders[7], orders[11]}
    await consume_all(pool, picky.recorder)
    assert sorted(await picky.noted()) == sorted(set(orders) - picky.refuses)
    assert picky.tries == 1 + 5 + 5, "in the batch, and then alone as often as it is tried"
    (letters,) = await count_letters(pool, None)
    assert letters == ("stats", 2, 0, "LookupError: there is no such seat")

    await want_letters(pool, "notify")
    assert (await count_letters(pool, "stats"))[0].wanted == 0, "another consumer's"
    await want_letters(pool, "stats")
    async with running(lambda stop: hand_over_wanted(pool, picky.recorder, stop, 0.02)):
        await until(lambda: has(pool, wanted=0))
        assert (await count_letters(pool, None))[0].letters == 2, "it is still not to be handled"
        picky.refuses.clear()
        await want_letters(pool, None)
        await until(lambda: has(pool, letters=0))
    assert sorted(await picky.noted()) == sorted(orders)


async def test_what_needs_something_that_is_away_is_no_dead_letter(pool: Pool) -> None:
    event = await put_on_sale(pool, 100)
    await write_orders(pool, event, 3)
    away = True

    async def handle(rows: Sequence[OutboxRow]) -> int:
        if away:
            raise ConnectionRefusedError
        return len(rows)

    consumer = Consumer("notify", (KIND,), handle)
    for _ in range(10):
        with pytest.raises(ConnectionRefusedError):
            await consume_all(pool, consumer)
    away = False
    await consume_all(pool, consumer)
    assert await count_letters(pool, None) == []


async def test_through_kafka_a_copy_is_published_and_the_letter_takes_effect_once(
    kafka: Settings, pool: Pool, picky: Picky
) -> None:
    event = await put_on_sale(pool, 100)
    orders = await write_orders(pool, event, 30)
    picky.refuses = {orders[3]}
    async with (
        relaying(kafka),
        running(
            lambda stop: consume_log(kafka, pool, picky.recorder, stop),
            lambda stop: consume_log(kafka, pool, picky.consumer, stop),
            lambda stop: hand_over_wanted(pool, picky.recorder, stop, 0.05),
            lambda stop: hand_over_wanted(pool, picky.consumer, stop, 0.05),
        ),
    ):
        await until(lambda: has(pool, letters=2))
        picky.refuses.clear()
        await want_letters(pool, None)
        await until(lambda: has(pool, letters=0))

        async def all_told() -> bool:
            return len(picky.told) >= 30 and len(await picky.noted()) >= 30

        await until(all_told)
    assert sorted(await picky.noted()) == sorted(orders)
    assert {row.event_id for row in picky.told} == {
        f"{row['xid']}-{row['id']}" for row in await pool.fetch("SELECT xid::text, id FROM outbox.events")
    }
    copies = await asyncio.to_thread(read_all, kafka, "holdfast.dead-letters")
    assert {copy["headers"]["consumer"] for copy in copies} == {"stats", "notify"}
    assert {copy["key"].decode() for copy in copies} == {orders[3]}


async def has(pool: Pool, letters: int | None = None, wanted: int | None = None) -> bool:
    """Whether there are so many dead letters, and so many of them wanted."""
    found = await pool.fetchrow("SELECT count(*) AS letters, count(wanted_at) AS wanted FROM outbox.dead_letters")
    assert found is not None
    return letters in (None, found["letters"]) and wanted in (None, found["wanted"])
