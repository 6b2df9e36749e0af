"""From one shape to the other and back: who reads the outbox, what is pruned, and that nothing takes effect twice."""

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from box_office import consume_all, put_on_sale
from holdfast import clock, ids
from holdfast.assemble import transport
from holdfast.engines.database import Connection, Pool, Reads
from holdfast.outbox.consume import OutboxRow, Recorder
from holdfast.outbox.direct import settle_readers
from holdfast.outbox.events import LANE_NAMES
from holdfast.outbox.kafka_consumer import consume_log
from holdfast.settings import Settings
from holdfast.tickets import availability
from holdfast.tickets.availability import AvailabilityFeed, fresh_availability, log_position
from kafka_house import is_published, relaying, running, until, write_orders

KIND = "order.reserved"


async def readers_of(pool: Pool) -> list[str]:
    return [row["name"] for row in await pool.fetch("SELECT name FROM outbox.consumers ORDER BY name")]


async def test_the_readers_are_those_of_the_configuration(settings: Settings, kafka: Settings, pool: Pool) -> None:
    direct, published = transport.readers(settings), transport.readers(kafka)
    assert set(LANE_NAMES) <= set(published)
    assert {"payments", "cancellations"} <= set(direct) & set(published), "money does not depend on Kafka"
    assert "gate" in direct
    assert "gate" not in published
    for names in (published, published, direct, direct):
        await settle_readers(pool, names, transport.THROUGH_LOG)
        assert await readers_of(pool) == sorted(names)


async def test_what_was_read_directly_is_not_read_again_from_kafka_nor_on_the_way_back(
    settings: Settings, kafka: Settings, pool: Pool
) -> None:
    await pool.execute("CREATE TABLE book (event_id text)")

    async def record(rows: Sequence[OutboxRow], connection: Connection) -> None:
        await connection.executemany("INSERT INTO book VALUES ($1)", [(row.event_id,) for row in rows])

    stats = Recorder("stats", (KIND,), record)
    others = ("payments", "cancellations")
    event = await put_on_sale(pool, 100)
    await settle_readers(pool, (*others, "stats"))

    async def recorded(lines: int) -> bool:
        return bool(await pool.fetchval("SELECT count(*) FROM book") >= lines)

    total = 0
    for _ in range(2):
        total += 30
        await write_orders(pool, event, 30)
        await consume_all(pool, stats)
        # Published too, since the outbox still has them; the consumer knows them already.
        await settle_readers(pool, (*others, *LANE_NAMES), ("stats",))
        async with relaying(kafka), running(lambda stop: consume_log(kafka, pool, stats, stop)):
            total += 20
            await write_orders(pool, event, 20)
            await until(partial(recorded, total))
            await until(lambda: is_published(pool))
        await settle_readers(pool, (*others, "stats"))
    assert await pool.fetchval("SELECT count(*) FROM book") == total
    assert await pool.fetchval("SELECT count(DISTINCT event_id) FROM book") == total


async def test_availability_is_renewed_by_what_is_published(
    kafka: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.outbox.inventory_feed import follow_inventory

    # Nothing is looked up again but by the feed.
    monkeypatch.setattr(availability, "_READ_SECONDS_MAX", 3600)
    patient = kafka.model_copy(update={"availability_seconds": 3600.0})
    fresh = fresh_availability(patient, Reads(pool))
    feed = AvailabilityFeed(fresh)
    event = await put_on_sale(pool, 10)
    other = await put_on_sale(pool, 10)

    async def shown() -> tuple[int, str]:
        snapshot = await fresh.get(event.id)
        assert snapshot is not None
        return snapshot.tiers[0].available, snapshot.tiers[0].sale_state

    async def is_fed() -> bool:
        await pool.execute("UPDATE tickets.stock SET held = (held + 1) % 10 WHERE event_id = $1", event.id)
        await write_orders(pool, event, 1)
        held: int = await pool.fetchval("SELECT held FROM tickets.stock WHERE event_id = $1", event.id)
        await asyncio.sleep(0.1)
        return (await shown())[0] == 10 - held

    async def is_sold_out() -> bool:
        return await shown() == (0, "sold_out")

    async def is_renamed() -> bool:
        snapshot = await fresh.get(event.id)
        return snapshot is not None and snapshot.tiers[0].name == "Balcony"

    assert await shown() == (10, "on_sale")
    async with (
        relaying(patient),
        running(lambda stop: follow_inventory(patient, feed.on_stock, feed.on_event, stop)),
    ):
        # Nothing tells that the feed is there but what it brings.
        await until(is_fed)
        await pool.execute("UPDATE tickets.stock SET held = 4, sold = 6 WHERE event_id = $1", event.id)
        await write_orders(pool, event, 1)
        await write_orders(pool, other, 1)
        await until(is_sold_out)
        assert fresh.last(other.id) is None, "nobody watches it"
        await pool.execute("UPDATE tickets.tiers SET name = 'Balcony' WHERE event_id = $1", event.id)
        tell = "INSERT INTO outbox.events (kind, subject, version, scope) VALUES ('event.changed', $1, 2, $1)"
        await pool.execute(tell, event.id)
        await until(is_renamed)


async def test_counters_that_are_older_or_whose_rest_is_old_are_not_shown(settings: Settings, pool: Pool) -> None:
    from holdfast.outbox.events import StockData, TierStock

    fresh = fresh_availability(settings.model_copy(update={"availability_seconds": 10.0}), Reads(pool))
    feed = AvailabilityFeed(fresh)
    event = await put_on_sale(pool, 10)
    first = await fresh.get(event.id)
    assert first is not None
    tier = TierStock(ids.encode(ids.TIER, event.tiers[0]), 10, 9, 0, 1)
    old = StockData(ids.encode(ids.EVENT, event.id), "0/1", [tier])
    feed.on_stock(old)
    assert fresh.last(event.id) is first
    new = StockData(old.event_id, "FFFFFFFF/0", [tier])
    feed.on_stock(StockData(ids.encode(ids.EVENT, ids.new_id()), "FFFFFFFF/0", []))
    feed.on_stock(new)
    last = fresh.last(event.id)
    assert last is not None
    assert (last.tiers[0].available, last.as_of) == (1, log_position("FFFFFFFF/0"))
    assert last.etag != first.etag
    fresh.put(event.id, first._replace(read_at=clock.monotonic_seconds() - 2))
    feed.on_stock(new)
    kept = fresh.last(event.id)
    assert kept is not None
    assert kept.tiers[0].available == 10, "names and states are looked up again first"
    feed.on_stock(StockData(old.event_id, "FFFFFFFF/1", []))
    assert fresh.last(event.id) is not None
    fresh.put(event.id, first._replace(read_at=clock.monotonic_seconds()))
    feed.on_stock(StockData(old.event_id, "FFFFFFFF/1", []))
    assert fresh.last(event.id) is None, "a tier came or went"
