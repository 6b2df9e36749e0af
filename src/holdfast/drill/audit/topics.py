"""What stands on a Kafka topic, from an offset to its end: read with no group, so that nobody notices."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from holdfast import clock

_SECONDS_MAX = 10.0
_WAIT_SECONDS = 0.1
_MESSAGES_AT_ONCE = 5000

Offsets = Mapping[int, int]
"""Partition -> offset."""


class Change(NamedTuple):
    """A state change as an event on a topic says it, in the order of its partition."""

    event_id: str
    """The CloudEvent's own; empty where it cannot be read."""
    kind: str
    """Its type without our prefix and the schema's version, such as order.reserved."""
    order: str
    """The order's id, typed; empty where it is about none."""
    version: int
    """Of the order."""
    place: str
    """Topic, partition and offset, for people."""


class TopicAwayError(Exception):
    """Kafka does not answer."""


class TopicReader:
    """Reads one topic at a kafka:// URL."""

    def __init__(self, url: str, topic: str) -> None:
        parts = urlsplit(url)
        self._topic = topic
        self._config: dict[str, Any] = {
            "bootstrap.servers": parts.netloc.rpartition("@")[2],
            "group.id": "holdfast-drill-audit",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
        if parts.username:
            self._config |= {
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": unquote(parts.username),
                "sasl.password": unquote(parts.password or ""),
            }

    async def ends(self) -> dict[int, int]:
        """The offset after the last message of each partition. Raises TopicAwayError."""
        return await asyncio.to_thread(self._within, self._ends)

    async def changes(self, since: Offsets) -> tuple[list[Change], dict[int, int]]:
        """What came after these offsets, partition by partition, and where it ends. Raises TopicAwayError."""
        return await asyncio.to_thread(self._within, lambda consumer: self._read(consumer, since))

    def _within(self, ask: Any) -> Any:
        consumer = Consumer(self._config)
        try:
            return ask(consumer)
        except KafkaException as error:
            raise TopicAwayError(str(error)) from error
        finally:
            consumer.close()

    def _ends(self, consumer: Consumer) -> dict[int, int]:
        found = consumer.list_topics(self._topic, timeout=_SECONDS_MAX).topics[self._topic]
        if found.error is not None:
            raise KafkaException(found.error)
        ends = {}
        for partition in found.partitions:
            _, end = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=_SECONDS_MAX)
            ends[partition] = end
        return ends

    def _read(self, consumer: Consumer, since: Offsets) -> tuple[list[Change], dict[int, int]]:
        ends = self._ends(consumer)
        left = {partition for partition, end in ends.items() if since.get(partition, 0) < end}
        found: list[Change] = []
        consumer.assign([TopicPartition(self._topic, one, since.get(one, 0)) for one in left])
        deadline = clock.monotonic_seconds() + _SECONDS_MAX
        while left:
            # It waits for as many as were asked for, or as long as it may.
            messages = consumer.consume(_MESSAGES_AT_ONCE, timeout=_WAIT_SECONDS)
            if messages:
                deadline = clock.monotonic_seconds() + _SECONDS_MAX
            elif clock.monotonic_seconds() >= deadline:
                raise TopicAwayError(f"partitions {sorted(left)} of {self._topic} do not come to their end")
            for message in messages:
                if message.error() is not None:
                    raise KafkaException(message.error())
                partition, offset = message.partition() or 0, message.offset() or 0
                if partition not in left:
                    continue
                found.append(change_of(message.value() or b"", f"{self._topic}/{partition}/{offset}"))
                if offset + 1 >= ends[partition]:
                    left.discard(partition)
        return found, ends


class _Data(msgspec.Struct, frozen=True):
    order_id: str = ""
    version: int = 0


class _CloudEvent(msgspec.Struct):
    id: str
    type: str
    data: _Data = _Data()


def change_of(value: bytes, place: str) -> Change:
    """What a message's content says."""
    try:
        event = msgspec.json.decode(value, type=_CloudEvent)
    except msgspec.MsgspecError:
        return Change("", "unreadable", "", 0, place)
    kind = event.type.removeprefix("holdfast.").rpartition(".v")[0]
    return Change(event.id, kind, event.data.order_id, event.data.version, place)
