"""Publishes the outbox to Kafka.

What is about one order or event belongs to one lane, and each lane has one owner at a time, however many relays run:
whoever has its advisory lock. An owner of which nothing is heard any more is frozen or cut off: the relay that wants
its lanes has the server end its session. A relay publishes what is new in all lanes that it owns in one go, since each
look at the outbox and each message to a broker has its price.

Progress is recorded when Kafka has the events; a lane that changes hands begins where it was recorded, so that an event
may be published twice, and each one's first time is in order. That holds with a former owner too who does not know yet
that he is none: what he still sends, he began to send in order after what was there. So nobody waits for a standby to
have the progress: a primary that is promoted without the last of it has the rows published again.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias
from uuid import UUID

import structlog
from confluent_kafka import KafkaException

from holdfast import ids
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import AWAY, BY_KEY, Connection, load_statements, open_pool
from holdfast.errors import Busy, Mendable
from holdfast.outbox.consume import OutboxRow, Overtaken, wait
from holdfast.outbox.direct import SQL as OUTBOX
from holdfast.outbox.direct import progress_of
from holdfast.outbox.events import (
    EVENT_KINDS,
    LANE_NAMES,
    LANES,
    ORDER_STATUSES,
    EventData,
    Message,
    Money,
    OrderData,
    OrderLine,
    StockData,
    TierStock,
    published,
    stock_changed,
)
from holdfast.outbox.publisher import Publisher
from holdfast.outbox.topics import ensure_topics
from holdfast.settings import Settings

SQL = load_statements("holdfast.outbox", "relay.sql")

ROWS_MAX = 4000
"""Rows of the outbox that are looked at in one go."""
_OWNER_RETRY_SECONDS = 1.0
_TOPICS_RETRY_SECONDS = 5.0
_SILENT_SECONDS_MAX = 10
"""After so long without a word an owner is frozen: one that lives says something at each look at the outbox, and twice
a second while it waits for Kafka."""

_MAKE_STOCK_NEW = (*ORDER_STATUSES, *EVENT_KINDS)

_Place: TypeAlias = tuple[int, int]
"""(transaction, number) of the last row of the outbox that a lane has published, or passed over."""

_log = structlog.get_logger(__name__)


async def relay(settings: Settings, stop: asyncio.Event) -> None:
    """Runs until `stop`. Topics that are missing are made; as long as one is refused nothing is published."""
    while not stop.is_set():
        try:
            await asyncio.to_thread(ensure_topics, settings)
            break
        except Mendable as refusal:
            _log.error("relay refuses to publish", reason=str(refusal))
        except KafkaException as error:
            _log.warning("relay waits for Kafka", error=str(error.args[0]))
        await wait(stop, _TOPICS_RETRY_SECONDS)
    pool = await open_pool(settings, BY_KEY | {"synchronous_commit": "off"})
    try:
        while not stop.is_set():
            try:
                async with pool.acquire() as connection:
                    await _Owner(settings, connection, stop).run()  # type: ignore[arg-type]
            except (*AWAY, Busy, Overtaken, KafkaException) as error:
                _log.warning("relay waits", error=type(error).__name__, reason=str(error))
            await wait(stop, _OWNER_RETRY_SECONDS)
    finally:
        await pool.close()


class _Owner:
    """The lanes that one relay owns: those whose locks its connection has."""

    def __init__(self, settings: Settings, connection: Connection, stop: asyncio.Event) -> None:
        self._stop = stop
        self._connection = connection
        self._poll_seconds = settings.publish_poll_seconds
        self._silent_seconds_max = _SILENT_SECONDS_MAX + self._poll_seconds
        self._publisher = Publisher(settings, stop)
        self._places: dict[int, _Place] = {}
        """How far each lane has come."""

    async def run(self) -> None:
        """Publishes until told to stop, or until the connection or the publisher is lost."""
        try:
            look_at = monotonic_seconds()
            while not self._stop.is_set():
                if len(self._places) < LANES and monotonic_seconds() >= look_at:
                    await self._take_free_lanes()
                    look_at = monotonic_seconds() + _OWNER_RETRY_SECONDS
                if not self._places or await self._step() < ROWS_MAX:
                    await wait(self._stop, self._poll_seconds)
        finally:
            await asyncio.to_thread(self._publisher.discard)
            # Ends the session's advisory locks, also when the loop broke off in the middle.
            if not self._connection.is_closed():
                await self._connection.execute("SELECT pg_advisory_unlock_all()")

    async def _take_free_lanes(self) -> None:
        for lane in range(LANES):
            if lane not in self._places and await self._connection.fetchval(OUTBOX["lock"], LANE_NAMES[lane]):
                xid, number = await progress_of(self._connection, LANE_NAMES[lane])
                self._places[lane] = int(xid), number
        if len(self._places) < LANES:
            for ended in await self._connection.fetch(OUTBOX["end_silent"], LANE_NAMES, self._silent_seconds_max):
                _log.warning("relay ends one that has lanes and is silent", backend=ended["pid"])

    async def _step(self) -> int:
        """Publishes what is new in the lanes: how many rows of the outbox were looked at."""
        begin = min(self._places.values())
        found = await self._connection.fetch(
            SQL["lanes"], *_shown(begin), *self._columns(), ROWS_MAX, LANES, _MAKE_STOCK_NEW
        )
        if not found:
            return 0
        messages = _messages(found) + await self._stock_messages(found)
        if messages:
            await self._publisher.publish(messages, self._still_mine)
        await self._advance((int(found[-1]["xid"]), found[-1]["id"]))
        return int(found[-1]["looked_at"])

    async def _advance(self, reached: _Place) -> None:
        before = self._columns()
        self._places = {lane: max(place, reached) for lane, place in self._places.items()}
        answer = await self._connection.execute(SQL["advance_lanes"], LANE_NAMES, *before, *self._columns()[1:])
        if answer != f"UPDATE {len(self._places)}":
            raise Overtaken("a lane is no longer a reader of the outbox, or another has moved it on")

    def _columns(self) -> tuple[list[int], list[str], list[int]]:
        """The lanes, and how far each has come."""
        lanes, places = list(self._places), list(self._places.values())
        return lanes, [str(xid) for xid, _ in places], [number for _, number in places]

    async def _still_mine(self) -> None:
        await self._connection.execute("SELECT 1")

    async def _stock_messages(self, found: Sequence[Any]) -> list[Message]:
        """The counters of the events that were touched, once for each event."""
        touched = {row["scope"]: row for row in found if row["is_newest"]}
        if not touched:
            return []
        as_of = await self._connection.fetchval(SQL["as_of"])
        tiers: dict[UUID, list[TierStock]] = {event_id: [] for event_id in touched}
        for row in await self._connection.fetch(SQL["stock"], list(touched)):
            capacity, held, sold = row["capacity"], row["held"], row["sold"]
            tier = ids.encode(ids.TIER, row["tier_id"])
            tiers[row["event_id"]].append(TierStock(tier, capacity, held, sold, capacity - held - sold))
        return [
            stock_changed(_row_of(row), StockData(ids.encode(ids.EVENT, event_id), as_of, tiers[event_id]))
            for event_id, row in touched.items()
        ]


def _messages(found: Sequence[Any]) -> list[Message]:
    messages = []
    for row in found:
        if not row["is_subject"]:
            continue
        if row["kind"] in ORDER_STATUSES:
            data: OrderData | EventData | None = _order_data(row)
        elif row["kind"] in EVENT_KINDS:
            data = _event_data(row)
        else:
            continue
        if data is None:
            _log.error("not published: what it is about is gone", kind=row["kind"], subject=str(row["subject"]))
        else:
            messages.append(published(_row_of(row), data))
    return messages


def _order_data(row: Any) -> OrderData | None:
    if row["user_id"] is None:
        return None
    lines = zip(row["tier_ids"], row["quantities"], row["unit_prices"], strict=True)
    return OrderData(
        order_id=ids.encode(ids.ORDER, row["subject"]),
        user_id=ids.encode(ids.USER, row["user_id"]),
        event_id=ids.encode(ids.EVENT, row["scope"]),
        status=ORDER_STATUSES[row["kind"]],
        version=row["version"],
        lines=[OrderLine(ids.encode(ids.TIER, tier), quantity, price) for tier, quantity, price in lines],
        total=Money(row["total_amount"], row["currency"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )


def _event_data(row: Any) -> EventData | None:
    if row["status"] is None:
        return None
    event_id = ids.encode(ids.EVENT, row["subject"])
    return EventData(event_id, row["version"], row["status"], row["name"], row["starts_at"], row["time_zone"])


def _row_of(row: Any) -> OutboxRow:
    return OutboxRow(
        (row["xid"], row["id"]), row["kind"], row["subject"], row["version"], row["scope"], row["occurred_at"]
    )


def _shown(place: _Place) -> tuple[str, int]:
    return str(place[0]), place[1]
