"""The topics: made with the copies that were asked for, and refused where they would lose events."""

import asyncio

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from structlog.testing import capture_logs

from conftest import free_port
from holdfast.errors import Mendable
from holdfast.outbox import relay as relay_module
from holdfast.outbox import topics
from holdfast.outbox.events import INVENTORY, ORDERS
from holdfast.outbox.kafka import configuration
from holdfast.outbox.relay import relay
from holdfast.outbox.topics import ensure_topics, topics_of
from holdfast.settings import Settings, load_settings
from kafka_house import drop_topics, running, until


async def test_missing_topics_are_made_and_good_ones_are_left(kafka: Settings) -> None:
    await asyncio.to_thread(ensure_topics, kafka)
    await asyncio.to_thread(ensure_topics, kafka)
    client = AdminClient(configuration(kafka))
    known = client.list_topics(timeout=10).topics
    assert {name: len(known[name].partitions) for name in topics_of(kafka)} == topics_of(kafka)
    assert len(known[ORDERS].partitions) == len(known[INVENTORY].partitions) == 16


@pytest.mark.parametrize(
    ("wanted", "partitions", "config", "sentence"),
    [
        ({"kafka_replication": 2}, 16, {}, "too little replication, 1 copies instead of 2: give it more"),
        ({}, 8, {}, "has 8 partitions and must have 16: say so in HOLDFAST_KAFKA_PARTITIONS"),
        ({"kafka_partitions": 4}, 16, {}, "has 16 partitions and must have 4: say so"),
        ({"kafka_replication": 1, "kafka_min_insync": 2}, 16, {}, "min.insync.replicas 1 instead of 2: raise it"),
        ({}, 16, {"unclean.leader.election.enable": "true"}, "may lose events: set it to false"),
    ],
)
async def test_a_topic_that_would_lose_events_is_refused_with_the_sentence_that_mends_it(
    kafka: Settings, wanted: dict[str, int], partitions: int, config: dict[str, str], sentence: str
) -> None:
    def make_by_hand() -> None:
        made = [
            NewTopic(name, num_partitions=partitions if number > 1 else 1, replication_factor=1, config=config)
            for name, number in topics_of(kafka).items()
        ]
        client = AdminClient(configuration(kafka))
        for topic in client.create_topics(made).values():
            topic.result()

    await asyncio.to_thread(make_by_hand)
    with pytest.raises(Mendable, match=sentence):
        await asyncio.to_thread(ensure_topics, kafka.model_copy(update=wanted))


async def test_more_copies_than_brokers_are_refused(kafka: Settings) -> None:
    with pytest.raises(Mendable, match="cannot have 3 copies: start as many brokers"):
        await asyncio.to_thread(ensure_topics, kafka.model_copy(update={"kafka_replication": 3}))


async def test_a_relay_publishes_nothing_to_it_says_so_and_goes_on_when_it_is_mended(
    kafka: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "_TOPICS_RETRY_SECONDS", 0.1)

    def make_by_hand() -> None:
        client = AdminClient(configuration(kafka))
        client.create_topics([NewTopic(ORDERS, num_partitions=4)])[ORDERS].result()

    await asyncio.to_thread(make_by_hand)
    with capture_logs() as said:
        async with running(lambda stop: relay(kafka, stop)):
            await until(lambda: _true([one for one in said if "has 4 partitions" in str(one.get("reason"))]))
            await asyncio.to_thread(drop_topics, kafka)
            await until(lambda: _true(_is_made(kafka)))


async def _true(found: object) -> object:
    return found


def _is_made(settings: Settings) -> bool:
    client = AdminClient(configuration(settings))
    known = client.list_topics(timeout=10).topics
    return ORDERS in known and len(known[ORDERS].partitions) == 16


async def test_no_kafka_is_no_crash(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "_ANSWER_SECONDS_MAX", 0.2)
    url = type(settings.kafka_url)(f"kafka://127.0.0.1:{free_port()}")
    nowhere = settings.model_copy(update={"kafka_url": url})
    with pytest.raises(KafkaException):
        await asyncio.to_thread(ensure_topics, nowhere)
    with capture_logs() as said:
        async with running(lambda stop: relay(nowhere, stop)):
            await until(lambda: _true([one for one in said if one["event"] == "relay waits for Kafka"]))


@pytest.mark.parametrize(
    "url", ["localhost:9092", "kafka://", "kafka://host", "http://host:1", "kafka://h:1?mechanism=X"]
)
def test_an_address_that_cannot_work_is_refused_at_start(url: str) -> None:
    with pytest.raises(Mendable, match="HOLDFAST_KAFKA_URL: write it as kafka://host:port"):
        load_settings(kafka_url=url)


def test_an_address_becomes_the_clients_configuration() -> None:
    plain = configuration(load_settings(kafka_url="kafka://a:9092,[::1]:9093"))
    assert (plain["bootstrap.servers"], plain["security.protocol"]) == ("a:9092,[::1]:9093", "plaintext")
    safe = configuration(load_settings(kafka_url="kafkas://me:p%40ss@a:9092?mechanism=PLAIN"))
    assert safe["security.protocol"] == "sasl_ssl"
    assert (safe["sasl.username"], safe["sasl.password"], safe["sasl.mechanism"]) == ("me", "p@ss", "PLAIN")
