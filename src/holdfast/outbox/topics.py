"""The topics: made where they are missing, refused where they would lose events."""

import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from holdfast import clock
from holdfast.errors import Mendable
from holdfast.outbox.events import DEAD_LETTERS, INVENTORY, ORDERS
from holdfast.outbox.kafka import configuration
from holdfast.settings import Settings

RETENTION_SECONDS = 7 * 86400
_ANSWER_SECONDS_MAX = 10.0


def topics_of(settings: Settings) -> dict[str, int]:
    """Each topic with its number of partitions."""
    return {ORDERS: settings.kafka_partitions, INVENTORY: settings.kafka_partitions, DEAD_LETTERS: 1}


def ensure_topics(settings: Settings) -> None:
    """Makes the missing topics and checks all. Blocks for seconds at most.

    Raises KafkaException where Kafka does not answer, Mendable where a topic must not be published to.
    """
    client = AdminClient(configuration(settings))
    known = client.list_topics(timeout=_ANSWER_SECONDS_MAX).topics
    missing = [
        NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=settings.kafka_replication,
            config={
                "min.insync.replicas": str(settings.kafka_min_insync),
                "retention.ms": str(RETENTION_SECONDS * 1000),
                "unclean.leader.election.enable": "false",
            },
        )
        for name, partitions in topics_of(settings).items()
        if name not in known
    ]
    if missing:
        for name, made in client.create_topics(missing, request_timeout=_ANSWER_SECONDS_MAX).items():
            _made(settings, name, made)
    deadline = clock.monotonic_seconds() + _ANSWER_SECONDS_MAX
    while True:
        try:
            return check_topics(settings, client)
        except KafkaException as error:
            # Brokers hear of new topics one after the other.
            is_new = error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
            if not is_new or clock.monotonic_seconds() > deadline:
                raise
        time.sleep(0.05)


def check_topics(settings: Settings, client: AdminClient) -> None:
    """Refuses topics that have too few copies, may lose events, or have another number of partitions."""
    topics = topics_of(settings)
    known = client.list_topics(timeout=_ANSWER_SECONDS_MAX).topics
    if missing := [name for name in topics if name not in known]:
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"There is no topic {missing[0]}"))
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics]
    answers = client.describe_configs(resources, request_timeout=_ANSWER_SECONDS_MAX)
    configured = {resource.name: answer.result() for resource, answer in answers.items()}
    for name, partitions in topics.items():
        found = known[name].partitions
        if len(found) != partitions:
            raise Mendable(
                f"Topic {name} has {len(found)} partitions and must have {partitions}: "
                "say so in HOLDFAST_KAFKA_PARTITIONS, or delete it and lose what nobody has read."
            )
        copies = min(len(partition.replicas) for partition in found.values())
        if copies < settings.kafka_replication:
            raise Mendable(
                f"Topic {name} has too little replication, {copies} copies instead of {settings.kafka_replication}: "
                "give it more with kafka-reassign-partitions, or lower HOLDFAST_KAFKA_REPLICATION."
            )
        insync = int(configured[name]["min.insync.replicas"].value)
        if insync < settings.kafka_min_insync:
            raise Mendable(
                f"Topic {name} has min.insync.replicas {insync} instead of {settings.kafka_min_insync}: "
                "raise it with kafka-configs, or lower HOLDFAST_KAFKA_MIN_INSYNC."
            )
        if configured[name]["unclean.leader.election.enable"].value == "true":
            raise Mendable(f"Topic {name} has unclean.leader.election.enable, and may lose events: set it to false.")


def _made(settings: Settings, name: str, made: object) -> None:
    try:
        made.result()  # type: ignore[attr-defined]
    except KafkaException as error:
        code = error.args[0].code()
        if code == KafkaError.TOPIC_ALREADY_EXISTS:
            return  # another relay was faster
        if code == KafkaError.INVALID_REPLICATION_FACTOR:
            raise Mendable(
                f"Topic {name} cannot have {settings.kafka_replication} copies: start as many brokers, "
                "or lower HOLDFAST_KAFKA_REPLICATION."
            ) from error
        raise
