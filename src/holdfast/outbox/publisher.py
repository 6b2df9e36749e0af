"""Gives messages to Kafka, and waits until it has them all. One owner's: a lane has one of its own.

What one publisher has sent stands in each partition in order and without a gap: the producer is idempotent, and a
message is never given up (no time-out), so that none that comes after it can overtake it. Whoever stops waiting throws
the publisher away, and the next one begins with what is not recorded as published.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from threading import Event

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from holdfast.clock import monotonic_seconds
from holdfast.errors import Busy
from holdfast.outbox.events import CONTENT_TYPE, Message
from holdfast.outbox.kafka import configuration
from holdfast.settings import Settings

Headers = Sequence[tuple[str, str | bytes | None]]

_HEADERS: Headers = [("content-type", CONTENT_TYPE)]
_POLL_SECONDS = 0.1
_ALIVE_SECONDS = 0.5
_WAITING_SECONDS = 10.0

_log = structlog.get_logger(__name__)


class Publisher:
    """One idempotent producer, for one batch at a time."""

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        self._stop = stop
        self._partitions = settings.kafka_partitions
        self._producer = Producer(
            configuration(settings)
            | {
                "enable.idempotence": True,
                "enable.gapless.guarantee": True,
                "acks": "all",
                "message.timeout.ms": 0,
                "linger.ms": 2,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 100_000,
                "retry.backoff.max.ms": 1000,
            }
        )
        self._abandoned = Event()

    async def publish(
        self,
        messages: Sequence[Message],
        still_mine: Callable[[], Awaitable[object]] | None = None,
        headers: Headers = (),
    ) -> None:
        """Returns when Kafka has all of them, however long it takes.

        Raises KafkaException where it refuses one, and Busy where we are to stop before it has them. `still_mine` is
        called again and again meanwhile; what it raises ends the waiting too.
        """
        began = said = monotonic_seconds()
        publishing = asyncio.create_task(asyncio.to_thread(self._publish, messages, headers))
        try:
            while not (await asyncio.wait({publishing}, timeout=_ALIVE_SECONDS))[0]:
                if self._stop.is_set():
                    raise Busy("Kafka did not take all events before the end.")
                if still_mine is not None:
                    await still_mine()
                if monotonic_seconds() - said > _WAITING_SECONDS:
                    said = monotonic_seconds()
                    _log.warning("Kafka does not answer", waits=len(messages), seconds=round(said - began))
            await publishing
        except BaseException:
            self._abandoned.set()
            await asyncio.wait({publishing})
            publishing.cancelled() or publishing.exception()
            raise

    def discard(self) -> None:
        """Throws away what was not sent yet. The publisher is of no use afterwards."""
        self._abandoned.set()
        self._producer.purge()
        self._producer.flush(0)

    def _publish(self, messages: Sequence[Message], headers: Headers) -> None:
        failed: list[KafkaError] = []
        waiting = 0

        def delivered(error: KafkaError | None, _: object) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None:
                failed.append(error)

        all_headers = [*_HEADERS, *headers]
        for topic, slot, key, value in messages:
            partition = slot % self._partitions
            while not failed and not self._abandoned.is_set():
                try:
                    self._producer.produce(
                        topic, value, key, partition=partition, on_delivery=delivered, headers=all_headers
                    )
                except BufferError:
                    self._producer.poll(_POLL_SECONDS)
                    continue
                waiting += 1
                break
        while waiting and not failed and not self._abandoned.is_set():
            self._producer.poll(_POLL_SECONDS)
        if failed:
            raise KafkaException(failed[0])
