"""Chooses the transport of the outbox's rows: read directly, or through Kafka where `kafka_url` is given."""

import asyncio

import structlog

from holdfast.engines.database import AWAY, BY_KEY, Pool, open_pool
from holdfast.outbox.consume import AnyConsumer, wait
from holdfast.outbox.dead_letters import hand_over_wanted
from holdfast.outbox.direct import consume, prune, settle_readers
from holdfast.outbox.events import LANE_NAMES
from holdfast.settings import Settings

DIRECT = ("payments", "cancellations")
"""Consumers that read the outbox itself in either shape: money and stock do not wait for Kafka."""
THROUGH_LOG = ("gate", "stats", "notify")
"""Consumers that read what is published, where there is a Kafka."""

_log = structlog.get_logger(__name__)


def is_published(settings: Settings) -> bool:
    """Whether there is a Kafka."""
    return bool(settings.kafka_url.get_secret_value())


def readers(settings: Settings) -> tuple[str, ...]:
    """Who reads the outbox in this configuration: pruning waits for them, and for nobody else."""
    if is_published(settings):
        return DIRECT + LANE_NAMES
    return DIRECT + tuple(name for name in THROUGH_LOG if name != "notify" or is_mailed(settings))


def is_mailed(settings: Settings) -> bool:
    """Whether buyers are written to."""
    return bool(settings.smtp_url.get_secret_value())


async def open_progress(settings: Settings) -> Pool:
    """The pool on which a Consumer records how far it has come. Nobody waits for a disk or a standby to have that: what
    is lost of it with a primary is done again, which does no harm.

    Not for a Recorder. A primary that was replaced and does not know it yet would take its effect, and nobody would
    miss it on the new one before the next event comes.
    """
    return await open_pool(settings, BY_KEY | {"synchronous_commit": "off"})


async def run_consumer(settings: Settings, pool: Pool, consumer: AnyConsumer, stop: asyncio.Event) -> None:
    """Runs one consumer over the transport that it has here, and hands it its dead letters, until `stop`. Its progress
    is recorded on `pool`."""
    async with asyncio.TaskGroup() as group:
        group.create_task(hand_over_wanted(pool, consumer, stop))
        if is_published(settings) and consumer.name not in DIRECT:
            # Kafka's client is not loaded where there is no Kafka.
            from holdfast.outbox.kafka_consumer import consume_log

            group.create_task(consume_log(settings, pool, consumer, stop))
        else:
            # Buyers wait for the gate's consumer alone, which Kafka tells where there is one.
            poll_seconds = settings.publish_poll_seconds if is_published(settings) else settings.relay_poll_seconds
            group.create_task(consume(pool, consumer, stop, poll_seconds, settings.consumer_tries_max))


async def run_relay(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    """Sees to the outbox itself until `stop`: who reads it, its publishing, its pruning."""
    while not stop.is_set():
        try:
            await settle_readers(pool, readers(settings), () if not is_published(settings) else THROUGH_LOG)
            break
        except AWAY as error:
            _log.warning("relay waits", error=type(error).__name__)
        await wait(stop, 1.0)
    async with asyncio.TaskGroup() as group:
        group.create_task(prune(pool, stop, max(settings.relay_poll_seconds, settings.publish_poll_seconds)))
        if is_published(settings):
            from holdfast.outbox.relay import relay

            group.create_task(relay(settings, stop))
