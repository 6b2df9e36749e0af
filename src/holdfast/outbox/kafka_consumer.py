"""Runs a consumer on the topics that the relay fills.

How far it has come stands in PostgreSQL (outbox.positions): offset and last event of each partition, moved in the
transaction of the effect, and only from where this process knows itself to be. So a process that has lost a partition
without knowing it records nothing, and an event that is published twice takes effect once: the first time that each
event stands in a partition, it stands in order (`outbox/relay.py`), and the second time it is not newer than the last.
Kafka's group only shares the partitions out.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition
from confluent_kafka import Consumer as KafkaReader
from confluent_kafka import Message as KafkaMessage

from holdfast.engines.database import AWAY, Connection, Pool, load_statements
from holdfast.errors import Busy
from holdfast.outbox.consume import AnyConsumer, OutboxRow, Overtaken, deliver, wait
from holdfast.outbox.dead_letters import bury, bury_unread
from holdfast.outbox.events import DEAD_LETTERS, TOPICS, Message, decode
from holdfast.outbox.kafka import configuration, gathered
from holdfast.outbox.publisher import Publisher
from holdfast.settings import Settings

SQL = load_statements("holdfast.outbox", "positions.sql")

MESSAGES_MAX = 500
_POLL_SECONDS = 0.5
_MORE_SECONDS = 0.01
_RETRY_SECONDS = 0.5
_AGAIN_SECONDS = 1.0
_ASSIGN_SECONDS_MAX = 10.0

_log = structlog.get_logger(__name__)

Partition = tuple[str, int]


class Place(NamedTuple):
    """How far a consumer has come in one partition: the next offset, and the last event that it has handled."""

    next_offset: int
    mark: tuple[int, int]


async def consume_log(settings: Settings, pool: Pool, consumer: AnyConsumer, stop: asyncio.Event) -> None:
    """Runs one consumer until `stop`. Those that run at once share the partitions."""
    while not stop.is_set():
        reader = _Reader(settings, pool, consumer, stop)
        try:
            await reader.run()
        except (*AWAY, Busy, Overtaken) as error:
            _log.warning("consumer waits", consumer=consumer.name, error=type(error).__name__)
        except KafkaException as error:
            _log.warning("consumer waits for Kafka", consumer=consumer.name, error=str(error.args[0]))
        finally:
            await reader.close()
        await wait(stop, _AGAIN_SECONDS)


class _Reader:
    """One member of the consumer's group. What it has read and not yet handled stays with it while it holds the
    partition, so it never has to read again."""

    def __init__(self, settings: Settings, pool: Pool, consumer: AnyConsumer, stop: asyncio.Event) -> None:
        self.consumer = consumer
        self.places: dict[Partition, Place] = {}
        self._pool = pool
        self._stop = stop
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._pending: list[KafkaMessage] = []
        self._publisher: Publisher | None = None
        self._kafka = KafkaReader(
            configuration(settings)
            | {
                "group.id": f"holdfast-{consumer.name}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": 6_000,
                # A consumer that waits for its database is still there.
                "max.poll.interval.ms": 900_000,
                "queued.max.messages.kbytes": 16_384,
                **gathered(settings),
            }
        )

    async def run(self) -> None:
        """Reads and hands over, until told to stop."""
        topics = sorted({TOPICS[kind] for kind in self.consumer.kinds if kind in TOPICS})
        self._kafka.subscribe(topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        while not self._stop.is_set():
            # Partitions may have gone in the very call that brought something of them.
            self._pending = self._unread(await asyncio.to_thread(self._read))
            while self._pending and not self._stop.is_set():
                if not await self._try_to_work_off():
                    await wait(self._stop, _RETRY_SECONDS)
                    self._pending = self._unread(self._pending + await asyncio.to_thread(self._stay_alive))

    async def close(self) -> None:
        """Leaves the group, so that others get the partitions at once."""
        if self._publisher is not None:
            await asyncio.to_thread(self._publisher.discard)
        await asyncio.to_thread(self._kafka.close)

    async def publish_dead_letter(self, message: KafkaMessage, reason: str) -> None:
        """Puts a copy on the topic of the dead letters, for whoever watches that."""
        if self._publisher is None:
            self._publisher = Publisher(self._settings, self._stop)
        origin = f"{message.topic()}/{message.partition()}/{message.offset()}"
        headers = [("consumer", self.consumer.name), ("reason", reason), ("origin", origin)]
        copy = Message(DEAD_LETTERS, 0, message.key() or b"", message.value() or b"")
        try:
            await self._publisher.publish([copy], headers=headers)
        except BaseException:
            publisher, self._publisher = self._publisher, None
            await asyncio.to_thread(publisher.discard)
            raise

    def _read(self) -> list[KafkaMessage]:
        """Some messages as soon as there is one; none after a while."""
        first = self._kafka.poll(_POLL_SECONDS)
        if first is None:
            return []
        return _sound([first, *self._kafka.consume(MESSAGES_MAX - 1, _MORE_SECONDS)])

    def _stay_alive(self) -> list[KafkaMessage]:
        """Says that we are there, and hears of partitions that come and go, while what was read must wait."""
        self._kafka.pause(self._kafka.assignment())
        try:
            return _sound(self._kafka.consume(MESSAGES_MAX, 0.0))
        finally:
            self._kafka.resume(self._kafka.assignment())

    async def _try_to_work_off(self) -> bool:
        try:
            return await self._work_off()
        except Overtaken:
            _log.info("another process has a partition", consumer=self.consumer.name)
        except (*AWAY, Busy) as error:
            _log.warning("consumer waits", consumer=self.consumer.name, error=type(error).__name__)
        # Whether the last transaction was committed, and where others have come to, PostgreSQL knows.
        before = dict(self.places)
        await self._look_up(list(before))
        if any(self.places[one].next_offset < place.next_offset for one, place in before.items() if one in self.places):
            raise Overtaken("a primary was lost with the last of the progress: what came since is read again")
        return False

    async def _work_off(self) -> bool:
        """Hands over what was read; False where some of it must wait."""
        while self._pending:
            page = _Page(self, self._pending)
            async with self._pool.acquire() as connection:
                if page.rows:
                    tries_max = self._settings.consumer_tries_max
                    if await deliver(connection, self.consumer, page.rows, page, tries_max) < len(page.rows):  # type: ignore[arg-type]
                        self._pending = self._unread(self._pending)
                        return False
                else:
                    await page.advance(connection, 0)  # type: ignore[arg-type]
                if page.unreadable is not None:
                    await self._bury_unread(connection, page.unreadable, page.reason)  # type: ignore[arg-type]
            self._pending = self._unread(self._pending)
        return True

    async def _bury_unread(self, connection: Connection, message: KafkaMessage, reason: str) -> None:
        name = f"{message.topic()}/{message.partition()}/{message.offset()}"
        _log.error("dead letter", consumer=self.consumer.name, event_id=name, reason=reason)
        await self.publish_dead_letter(message, reason)
        partition, place = _at(message), self.places[_at(message)]
        moved = {partition: Place(_offset(message) + 1, place.mark)}
        async with connection.transaction():
            await bury_unread(connection, self.consumer.name, name, message.value() or b"", reason)
            await self.move(connection, moved)
        self.places |= moved

    async def move(self, connection: Connection, moved: dict[Partition, Place]) -> None:
        """Records new places. Raises Overtaken where one is not where we know it to be."""
        before = [self.places[partition] for partition in moved]
        after = list(moved.values())
        answer = await connection.execute(
            SQL["move"],
            self.consumer.name,
            [topic for topic, _ in moved],
            [partition for _, partition in moved],
            *_columns(before),
            *_columns(after),
        )
        if answer != f"UPDATE {len(moved)}":
            # Those that were moved are right all the same, where no effect has to be taken back with them.
            raise Overtaken

    def _unread(self, messages: Sequence[KafkaMessage]) -> list[KafkaMessage]:
        places = self.places
        return [one for one in messages if _at(one) in places and _offset(one) >= places[_at(one)].next_offset]

    async def _look_up(self, partitions: Sequence[Partition]) -> None:
        rows = await self._pool.fetch(
            SQL["places"], self.consumer.name, [topic for topic, _ in partitions], [number for _, number in partitions]
        )
        for row in rows:
            mark = (int(row["xid"]), row["number"])
            self.places[row["topic"], row["partition"]] = Place(row["next_offset"], mark)
        self._pending = self._unread(self._pending)

    def _assigned(self, kafka: KafkaReader, partitions: list[TopicPartition]) -> None:
        """Called in the thread that reads: each partition begins where PostgreSQL says."""
        mine = [(one.topic, one.partition) for one in partitions]
        asyncio.run_coroutine_threadsafe(self._look_up(mine), self._loop).result(_ASSIGN_SECONDS_MAX)
        for one in partitions:
            one.offset = self.places[one.topic, one.partition].next_offset or OFFSET_BEGINNING
        kafka.assign(partitions)
        _log.info("partitions taken", consumer=self.consumer.name, partitions=len(partitions))

    def _revoked(self, _: KafkaReader, partitions: list[TopicPartition]) -> None:
        for one in partitions:
            self.places.pop((one.topic, one.partition), None)
        self._pending = self._unread(self._pending)


class _Page:
    """Messages up to the first that cannot be read: the rows among them that are wanted and new."""

    def __init__(self, reader: _Reader, messages: Sequence[KafkaMessage]) -> None:
        self._reader = reader
        self._messages: list[KafkaMessage] = []
        self._ends: list[int] = []
        self.rows: list[OutboxRow] = []
        self.unreadable: KafkaMessage | None = None
        self.reason = ""
        marks = {partition: place.mark for partition, place in reader.places.items()}
        for message in messages:
            try:
                row = decode(message.value(), reader.consumer.kinds)
            except ValueError as error:
                self.unreadable, self.reason = message, str(error)
                return
            self._messages.append(message)
            if row is None or _mark(row) <= marks[_at(message)]:
                continue
            marks[_at(message)] = _mark(row)
            self.rows.append(row)
            self._ends.append(len(self._messages))

    async def advance(self, connection: Connection, done: int) -> None:
        """Moves on in every partition: with the last row, over the messages of other kinds after it too."""
        end = len(self._messages) if done == len(self.rows) else self._ends[done - 1]
        marks = {_at(self._messages[at - 1]): _mark(row) for row, at in zip(self.rows[:done], self._ends, strict=False)}
        moved = {
            _at(message): Place(_offset(message) + 1, marks.get(_at(message), self._reader.places[_at(message)].mark))
            for message in self._messages[:end]
            if _offset(message) >= self._reader.places[_at(message)].next_offset
        }
        if moved:
            await self._reader.move(connection, moved)
            self._reader.places |= moved

    async def bury(self, connection: Connection, index: int, reason: str) -> None:
        """A dead letter: a copy for whoever watches, then, in one transaction with the progress, the letter itself."""
        await self._reader.publish_dead_letter(self._messages[self._ends[index] - 1], reason)
        async with connection.transaction():
            await bury(connection, self._reader.consumer.name, self.rows[index], reason)
            await self.advance(connection, index + 1)


def _columns(places: Sequence[Place]) -> tuple[list[int], list[str], list[int]]:
    return (
        [place.next_offset for place in places],
        [str(place.mark[0]) for place in places],
        [place.mark[1] for place in places],
    )


def _sound(messages: Sequence[KafkaMessage]) -> list[KafkaMessage]:
    for message in messages:
        if (error := message.error()) is not None:
            raise KafkaException(error)
    return list(messages)


def _at(message: KafkaMessage) -> Partition:
    topic, partition = message.topic(), message.partition()
    assert topic is not None
    assert partition is not None
    return topic, partition


def _offset(message: KafkaMessage) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


def _mark(row: OutboxRow) -> tuple[int, int]:
    return int(row.position[0]), row.position[1]
