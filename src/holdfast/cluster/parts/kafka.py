"""The Kafka brokers: members around engines/kafka_server.py."""

import asyncio
from collections.abc import Sequence

from holdfast.cluster.layout import Layout
from holdfast.cluster.member import Member, Recipe
from holdfast.engines.kafka_server import KafkaBroker, KafkaServers, Seat
from holdfast.engines.launch import leash

HEAP_MEGABYTES = 256


def kafka_members(layout: Layout) -> list[Member]:
    """The brokers."""
    seats = [
        Seat(n, layout.port(name), layout.port(f"kafka-controller-{n}"), layout.reached_port(name))
        for n, name in enumerate(layout.kafka, start=1)
    ]
    servers = KafkaServers(layout.path / "members", seats=seats, heap_megabytes=HEAP_MEGABYTES)
    return [_member(layout, name, broker) for name, broker in zip(layout.kafka, servers.brokers, strict=True)]


def kafka_url(layout: Layout) -> str:
    """What HOLDFAST_KAFKA_URL takes."""
    return f"kafka://{layout.hosts(layout.kafka)}"


def _member(layout: Layout, name: str, broker: KafkaBroker) -> Member:
    def command() -> Sequence[str]:
        return [*leash("TERM"), *broker.prepare()]

    async def is_ready() -> bool:
        return await asyncio.to_thread(broker.knows_of) == len(layout.kafka)

    recipe = Recipe(
        name, "kafka", layout.port(name), broker.folder, layout.log(name), command, is_ready, program="java",
        # Without a quorum of controllers none ends by itself, and what it has written is safe.
        stop_seconds=3.0,
    )  # fmt: skip
    return Member(recipe)
