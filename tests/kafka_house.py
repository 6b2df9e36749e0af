"""A real Kafka for the tests: one broker, started once, with topics of their own for each test."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from box_office import Event
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.engines.kafka_jars import missing_tool
from holdfast.engines.kafka_server import KafkaServers
from holdfast.outbox.kafka import configuration
from holdfast.outbox.relay import relay
from holdfast.outbox.topics import ensure_topics, topics_of
from holdfast.settings import Settings


@pytest.fixture(scope="session")
def kafka_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServers]:
    """One running broker."""
    sentence = missing_tool()
    if sentence is not None:
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    servers = KafkaServers(tmp_path_factory.mktemp("kafka"), brokers=1)
    servers.start()
    yield servers
    servers.stop(hurry=True)


@pytest.fixture
async def kafka(kafka_servers: KafkaServers, settings: Settings) -> Settings:
    """Settings with a Kafka whose topics are not made yet."""
    with_kafka = settings.model_copy(
        update={
            "kafka_url": type(settings.kafka_url)(kafka_servers.url),
            "kafka_replication": 1,
            "kafka_min_insync": 1,
            "relay_poll_seconds": 0.01,
            "consumer_tries_max": 2,
        }
    )
    await asyncio.to_thread(drop_topics, with_kafka)
    return with_kafka


def drop_topics(settings: Settings) -> None:
    """Deletes what an earlier test has left."""
    client = AdminClient(configuration(settings))
    known = [name for name in client.list_topics(timeout=10).topics if name in topics_of(settings)]
    if known:
        for gone in client.delete_topics(known, operation_timeout=10).values():
            gone.result()
    while set(client.list_topics(timeout=10).topics) & set(topics_of(settings)):
        pass


@asynccontextmanager
async def running(*loops: Callable[[asyncio.Event], Awaitable[None]]) -> AsyncIterator[asyncio.Event]:
    """Some loops under way; they are told to stop at the end, and what they raise is raised."""
    stop = asyncio.Event()
    tasks = [asyncio.ensure_future(loop(stop)) for loop in loops]
    try:
        yield stop
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)


@asynccontextmanager
async def relaying(settings: Settings) -> AsyncIterator[None]:
    """A relay under way."""
    await asyncio.to_thread(ensure_topics, settings)
    async with running(lambda stop: relay(settings, stop)):
        yield


async def until(true: Callable[[], Awaitable[object]], seconds: float = 30) -> None:
    """Waits for something to become true."""
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.02)


async def write_orders(pool: Pool, event: Event, count: int, *kinds: str) -> list[str]:
    """So many orders with one outbox row of each kind (versions 1, 2, …), each row in a transaction of its own order:
    the ids of the orders."""
    made = [ids.new_id() for _ in range(count)]
    user = ids.new_id()
    await pool.execute(
        "INSERT INTO orders.orders (id, user_id, event_id, idempotency_key, fingerprint, tier_ids, quantities, "
        "unit_prices, tickets, total_amount, currency, created_at, expires_at) "
        "SELECT o, $2, $3, o::text, '', ARRAY[$4::uuid], ARRAY[2], ARRAY[100::bigint], 2, 200, 'TWD', now(), "
        "now() + interval '1 hour' FROM unnest($1::uuid[]) AS o",
        made,
        user,
        event.id,
        event.tiers[0],
    )
    for version, kind in enumerate(kinds or ("order.reserved",), start=1):
        await pool.execute(
            "INSERT INTO outbox.events (kind, subject, version, scope) "
            "SELECT $1, o, $2, $3 FROM unnest($4::uuid[]) AS o",
            kind,
            version,
            event.id,
            made,
        )
    return [ids.encode(ids.ORDER, order_id) for order_id in made]


async def is_published(pool: Pool) -> bool:
    """Whether every lane has published all there is."""
    row = await pool.fetchrow(
        "SELECT (SELECT count(*) FROM outbox.consumers c WHERE c.name LIKE 'relay-%') AS lanes, "
        "(SELECT count(*) FROM outbox.consumers c, outbox.events e "
        " WHERE c.name LIKE 'relay-%' AND (e.xid, e.id) > (c.xid, c.id)) AS unread"
    )
    assert row is not None
    return bool(row["lanes"] == 4 and row["unread"] == 0)


def read_all(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """Everything that stands in a topic, partition by partition, each in its order; undecodable things as they are."""
    client = Consumer(configuration(settings) | {"group.id": "tests", "auto.offset.reset": "earliest"})
    partitions = [TopicPartition(topic, number, 0) for number in range(topics_of(settings)[topic])]
    ends = {one.partition: client.get_watermark_offsets(one, timeout=10)[1] for one in partitions}
    client.assign(partitions)
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in ends}
    left = sum(ends.values())
    while left:
        message = client.poll(10)
        assert message is not None, f"{left} messages of {topic} do not come"
        assert message.error() is None, message.error()
        left -= 1
        headers = {name: value.decode() for name, value in list(message.headers() or []) if isinstance(value, bytes)}
        found[message.partition() or 0].append(
            {"partition": message.partition(), "key": message.key(), "value": message.value(), "headers": headers}
        )
    client.close()
    return [message for number in sorted(found) for message in found[number]]


def events_in(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """The CloudEvents of a topic, partition by partition."""
    return [msgspec.json.decode(message["value"], type=dict[str, Any]) for message in read_all(settings, topic)]


def put(settings: Settings, topic: str, partition: int, *values: bytes) -> None:
    """Writes something into a partition, as anybody might."""
    client = Producer(configuration(settings))
    for value in values:
        client.produce(topic, value, b"key", partition=partition)
    assert client.flush(10) == 0
