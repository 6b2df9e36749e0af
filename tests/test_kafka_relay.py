"""The relay: what is in the outbox comes to Kafka, in order, whatever happens to a relay or to Kafka."""

import asyncio
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from box_office import put_on_sale
from holdfast import ids
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool
from holdfast.engines.kafka_server import KafkaServers
from holdfast.outbox.consume import Consumer, OutboxRow
from holdfast.outbox.events import INVENTORY, ORDERS, schema
from holdfast.outbox.inventory_feed import follow_inventory
from holdfast.outbox.kafka_consumer import consume_log
from holdfast.outbox.relay import SQL, relay
from holdfast.settings import Settings
from kafka_house import events_in, is_published, read_all, relaying, running, until, write_orders

LIFE = ("order.reserved", "gate.missed", "order.confirmed")


async def test_every_change_is_published_once_in_order_by_a_type_with_a_schema(kafka: Settings, pool: Pool) -> None:
    event = await put_on_sale(pool, 100)
    orders = await write_orders(pool, event, 40, *LIFE)
    tell = "INSERT INTO outbox.events (kind, subject, version, scope) VALUES ($1, $2, 1, $2)"
    await pool.execute(tell, "event.changed", event.id)
    await pool.execute("UPDATE tickets.events SET status = 'cancelled' WHERE id = $1", event.id)
    await pool.execute(tell, "event.cancelled", event.id)
    await pool.execute(tell, "payment.authorised", event.id)
    async with relaying(kafka):
        await until(lambda: is_published(pool))
    found = await asyncio.to_thread(events_in, kafka, ORDERS)
    assert versions_of(found) == each(orders)
    assert len({one["id"] for one in found}) == 120
    inventory = await asyncio.to_thread(events_in, kafka, INVENTORY)
    types = [one["type"] for one in inventory]
    assert types.count("holdfast.event.changed.v1") == 1
    assert types.count("holdfast.event.cancelled.v1") == 1
    assert types.count("holdfast.stock.changed.v1") >= 1
    assert not [one for one in types if "payment" in one], "money does not go through Kafka"
    for one in [*found, *inventory]:
        assert_valid(one)
    for message in await asyncio.to_thread(read_all, kafka, ORDERS):
        order_id = ids.decode(ids.ORDER, message["key"].decode())
        assert order_id is not None
        assert message["partition"] == order_id.bytes[15] % kafka.kafka_partitions
        assert message["headers"]["content-type"].startswith("application/cloudevents+json")


async def test_two_relays_share_the_work_and_keep_the_order(kafka: Settings, pool: Pool) -> None:
    event = await put_on_sale(pool, 100)
    async with relaying(kafka), running(lambda stop: relay(kafka, stop)):
        orders = []
        for _ in range(5):
            orders += await write_orders(pool, event, 50, *LIFE)
        await until(lambda: is_published(pool))
    found = await asyncio.to_thread(events_in, kafka, ORDERS)
    assert versions_of(found) == each(orders)


async def test_what_lanes_publish_is_found_by_key(pool: Pool) -> None:
    async with pool.acquire() as connection:
        statement = await connection.prepare(SQL["lanes"])
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        plan = str(await statement.explain("0", 0, [0, 1], ["0", "0"], [0, 0], 4000, 4, ["order.reserved"]))
    assert "'Index Name': 'events_pkey'" in plan
    assert "'Index Name': 'orders_pkey'" in plan
    assert "Seq Scan" not in plan


@pytest.mark.slow
async def test_kafka_away_is_waited_for_and_the_rest_goes_on(
    kafka: Settings, kafka_servers: KafkaServers, pool: Pool, capfd: pytest.CaptureFixture[str]
) -> None:
    event = await put_on_sale(pool, 100)
    orders = await write_orders(pool, event, 10, *LIFE)
    async with relaying(kafka):
        await until(lambda: is_published(pool))
        await asyncio.to_thread(kafka_servers.brokers[0].kill)
        orders += await write_orders(pool, event, 50, *LIFE)
        await asyncio.sleep(1)
        assert not await is_published(pool)
        await asyncio.to_thread(kafka_servers.brokers[0].start)
        await until(lambda: is_published(pool), 60)
    found = await asyncio.to_thread(events_in, kafka, ORDERS)
    assert versions_of(found) == each(orders)


@pytest.mark.parametrize("fault", ["frozen", pytest.param("killed", marks=pytest.mark.slow)])
async def test_everything_ends_in_time_while_kafka_is_away(
    kafka: Settings, kafka_servers: KafkaServers, pool: Pool, fault: str
) -> None:
    event = await put_on_sale(pool, 100)
    broker = kafka_servers.brokers[0]

    async def handle(rows: Sequence[OutboxRow]) -> int:
        return len(rows)

    try:
        async with (
            relaying(kafka),
            running(
                lambda stop: consume_log(kafka, pool, Consumer("notify", ("order.reserved",), handle), stop),
                lambda stop: follow_inventory(kafka, lambda _: None, lambda _: None, stop),
            ),
        ):
            await write_orders(pool, event, 10)
            await until(lambda: is_published(pool))
            await asyncio.to_thread(broker.freeze if fault == "frozen" else broker.kill)
            await write_orders(pool, event, 10)
            await asyncio.sleep(0.5)
            began = monotonic_seconds()
        assert monotonic_seconds() - began < 10
    finally:
        await asyncio.to_thread(broker.thaw if fault == "frozen" else broker.start)


def each(orders: list[str]) -> dict[str, list[int]]:
    """Every order with the three events of its life, in order."""
    return {order: [1, 2, 3] for order in orders}


def versions_of(found: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The versions of each order, in the order in which they first stand in its partition."""
    versions: dict[str, list[int]] = {}
    for one in found:
        mine = versions.setdefault(one["subject"], [])
        # An order is made, and its gate told of it, at the same version; the rows are told apart by their sequence.
        number = {"order.reserved": 1, "gate.missed": 2}.get(one["type"][len("holdfast.") : -len(".v1")], 3)
        if number not in mine:
            mine.append(number)
    return versions


def assert_valid(event: dict[str, Any]) -> None:
    """The envelope is a CloudEvent, and the data is what the type's schema says."""
    assert event["specversion"] == "1.0"
    assert event["source"] == "urn:holdfast:outbox"
    assert event["datacontenttype"] == "application/json"
    kind = event["type"].removeprefix("holdfast.").removesuffix(".v1")
    document = schema(kind)
    assert event["dataschema"] == document["$id"]
    jsonschema.Draft202012Validator.check_schema(document)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(document, format_checker=checker).validate(event["data"])
