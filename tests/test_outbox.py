"""The outbox: read in commit-safe order, by one owner at a time, and emptied behind its readers."""

import asyncio
from collections.abc import Sequence

import asyncpg

from box_office import consume_all
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.outbox.consume import Consumer, OutboxRow
from holdfast.outbox.direct import SQL, consume, prune, step
from holdfast.settings import Settings

WRITE = "INSERT INTO outbox.events (kind, subject, version, scope) VALUES ($1, $2, 1, $2) RETURNING id"


class Reader:
    """A consumer that writes down what it read, and can refuse."""

    def __init__(self, *kinds: str) -> None:
        self.seen: list[int] = []
        self.done_max = 1000
        self.consumer = Consumer("gate", kinds or ("told",), self.handle)

    async def handle(self, rows: Sequence[OutboxRow]) -> int:
        done = rows[: self.done_max]
        self.seen += [row.position[1] for row in done]
        return len(done)


async def write(pool: Pool, kind: str = "told") -> int:
    number: int = await pool.fetchval(WRITE, kind, ids.new_id())
    return number


async def test_a_row_that_commits_late_is_not_passed_over(pool: Pool) -> None:
    reader = Reader()
    async with pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        first = await slow.fetchval(WRITE, "told", ids.new_id())
        second = await write(pool)
        await consume_all(pool, reader.consumer)
        assert reader.seen == [], "the second is committed, and still waits for the first"
        await transaction.commit()
    await consume_all(pool, reader.consumer)
    assert reader.seen == [first, second]


async def test_control_reading_beyond_the_last_id_seen_loses_it(pool: Pool) -> None:
    async with pool.acquire() as slow:
        transaction = slow.transaction()
        await transaction.start()
        first = await slow.fetchval(WRITE, "told", ids.new_id())
        second = await write(pool)
        seen = [row["id"] for row in await pool.fetch("SELECT id FROM outbox.events WHERE id > 0 ORDER BY id")]
        await transaction.commit()
    seen += [row["id"] for row in await pool.fetch("SELECT id FROM outbox.events WHERE id > $1", max(seen))]
    assert seen == [second]
    assert first not in seen


async def test_what_is_not_done_comes_again_and_other_kinds_are_passed(pool: Pool) -> None:
    reader = Reader()
    numbers = [await write(pool, kind) for kind in ("told", "other", "told", "told", "other")]
    async with pool.acquire() as connection:
        reader.done_max = 2
        _, position = await step(connection, reader.consumer, ("0", 0))  # type: ignore[arg-type]
        assert position[1] == numbers[2]
        _, position = await step(connection, reader.consumer, position)  # type: ignore[arg-type]
        assert position[1] == numbers[4], "the other kind at the end is passed too"
    assert reader.seen == [numbers[0], numbers[2], numbers[3]]


async def test_two_relays_take_turns(settings: Settings, pool: Pool) -> None:
    one, other = Reader(), Reader()
    stop = asyncio.Event()
    first = asyncio.create_task(consume(pool, one.consumer, stop, 0.01))
    await write(pool)
    await seen(one, 1)
    second = asyncio.create_task(consume(pool, other.consumer, stop, 0.01))
    for _ in range(20):
        await write(pool)
    await seen(one, 21)
    assert other.seen == []
    stop.set()
    await asyncio.gather(first, second)


async def seen(reader: Reader, count: int) -> None:
    async with asyncio.timeout(10):
        while len(reader.seen) < count:
            await asyncio.sleep(0.01)


async def test_pruning_deletes_what_all_have_passed_and_nothing_else(pool: Pool) -> None:
    for _ in range(10):
        await write(pool)
    rows = await pool.fetch("SELECT xid::text AS xid, id FROM outbox.events ORDER BY xid, id")
    passed = {"gate": rows[6], "payments": rows[9], "cancellations": rows[8], "stats": rows[7]}
    for name, row in passed.items():
        await pool.execute(SQL["advance"], name, row["xid"], row["id"], "0", 0)
    first = await pool.fetchrow(SQL["prune"], "0", 0, 5)
    assert first is not None
    assert (first["id"], first["deleted"]) == (rows[4]["id"], 5)
    stop = asyncio.Event()
    pruning = asyncio.create_task(prune(pool, stop, 0.01))
    async with asyncio.timeout(10):
        while await pool.fetchval("SELECT count(*) FROM outbox.events") > 3:
            await asyncio.sleep(0.01)
    stop.set()
    await pruning
    assert await pool.fetchval("SELECT min(id) FROM outbox.events") == rows[7]["id"]


async def test_the_range_is_found_by_the_index(pool: Pool) -> None:
    async with pool.acquire() as connection:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        statement = SQL["rows"]
        plan = await explain(connection, statement, "0", 0, 1000, ["told"])  # type: ignore[arg-type]
    assert "Index Scan using events_pkey" in plan
    assert "Index Cond: ((ROW(xid, id) > ROW" in plan


async def explain(connection: "asyncpg.Connection[asyncpg.Record]", statement: str, *arguments: object) -> str:
    return "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}", *arguments))


async def test_progress_moves_from_where_its_reader_knows_it_to_be(pool: Pool) -> None:
    assert await pool.execute(SQL["advance"], "gate", "7", 1, "0", 0) == "UPDATE 1"
    assert await pool.execute(SQL["advance"], "gate", "9", 2, "0", 0) == "UPDATE 0", "another has moved it meanwhile"
    assert await pool.execute(SQL["advance"], "gate", "9", 2, "7", 1) == "UPDATE 1"
