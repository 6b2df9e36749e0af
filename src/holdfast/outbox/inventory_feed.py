"""Tells one process what has become of the events' stock, as the relay publishes it.

Each process reads all partitions for itself, from where they end when it starts, and keeps no progress: what it missed
is looked up in PostgreSQL by whoever needs it, as if there were no feed.
"""

import asyncio
from collections.abc import Callable

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from holdfast.outbox.consume import wait
from holdfast.outbox.events import EVENT_KINDS, INVENTORY, StockData, decode, decode_stock
from holdfast.outbox.kafka import configuration, gathered
from holdfast.settings import Settings

_MESSAGES_MAX = 500
_POLL_SECONDS = 0.5
_MORE_SECONDS = 0.005
_AGAIN_SECONDS = 2.0

_log = structlog.get_logger(__name__)

OnStock = Callable[[StockData], None]
"""Is told the counters of an event."""


async def follow_inventory(
    settings: Settings, on_stock: OnStock, on_event: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Calls `on_stock` with the newest counters of each event, and `on_event` with the id of an event that was changed
    or cancelled, until `stop`. Kafka may be away; nothing is called then."""
    said = False
    while not stop.is_set():
        feed = _Feed(settings)
        try:
            while not stop.is_set():
                _tell(await asyncio.to_thread(feed.read), on_stock, on_event)
                said = False
        except KafkaException as error:
            if not said:
                _log.warning("availability is not fed by Kafka", error=str(error.args[0]))
            said = True
        finally:
            await asyncio.to_thread(feed.close)
        await wait(stop, _AGAIN_SECONDS)


def _tell(messages: list[KafkaMessage], on_stock: OnStock, on_event: Callable[[str], None]) -> None:
    newest: dict[str, StockData] = {}
    for message in messages:
        if (error := message.error()) is not None:
            raise KafkaException(error)
        stock = decode_stock(message.value())
        if stock is not None:
            newest[stock.event_id] = stock
        elif is_about_event(message.value()):
            on_event((message.key() or b"").decode())
    for stock in newest.values():
        on_stock(stock)


def is_about_event(content: bytes | None) -> bool:
    """Whether a message tells of a changed or cancelled event. What cannot be read is the business of consumers."""
    try:
        return decode(content, EVENT_KINDS) is not None
    except ValueError:
        return False


class _Feed:
    """A reader without a group."""

    def __init__(self, settings: Settings) -> None:
        self._kafka = Consumer(
            configuration(settings)
            | {
                "group.id": "holdfast-feed",  # the client wants one; nothing is committed under it
                "enable.auto.commit": False,
                "auto.offset.reset": "latest",
                "queued.max.messages.kbytes": 4096,
                **gathered(settings),
            }
        )
        partitions = range(settings.kafka_partitions)
        self._kafka.assign([TopicPartition(INVENTORY, partition, OFFSET_END) for partition in partitions])

    def read(self) -> list[KafkaMessage]:
        """Some messages as soon as there is one; none after a while."""
        first = self._kafka.poll(_POLL_SECONDS)
        return [] if first is None else [first, *self._kafka.consume(_MESSAGES_MAX, _MORE_SECONDS)]

    def close(self) -> None:
        """Ends the connections."""
        self._kafka.close()
