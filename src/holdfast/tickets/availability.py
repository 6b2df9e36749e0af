"""Live availability, served from memory: one look-up in PostgreSQL per event and moment, however many watch."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import clock, ids
from holdfast.engines.database import Reads
from holdfast.outbox.events import StockData, TierStock
from holdfast.settings import Settings
from holdfast.tickets.fresh import Fresh
from holdfast.tickets.sale import SQL

_READ_SECONDS_MAX = 1.0


class Price(msgspec.Struct):
    """Minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class TierAvailability(msgspec.Struct):
    """One tier: `available = capacity - held - sold`, all of one moment.

    `sale_state` is on_sale, sold_out, scheduled (opens later), closed, paused or cancelled.
    """

    id: str
    name: str
    price: Price
    capacity: int
    available: int
    held: int
    sold: int
    sale_state: str
    sale_starts_at: str | None
    sale_ends_at: str | None


class Availability(msgspec.Struct):
    """The body of GET /events/{event_id}/tickets."""

    event_id: str
    server_time: str
    data: Sequence[TierAvailability]


class AvailabilitySnapshot(NamedTuple):
    """An encoded answer, and the tag by which a client asks whether anything changed."""

    body: bytes
    etag: bytes
    tiers: tuple[TierAvailability, ...]
    as_of: int
    """A position in the database's log: counters from before it are older."""
    read_at: float
    """When names, prices and states were read, on the monotonic clock."""


def fresh_availability(settings: Settings, reads: Reads) -> Fresh[AvailabilitySnapshot]:
    """The availabilities, at most `availability_seconds` old, and as much older as a replica may be."""

    async def load(event_id: UUID) -> AvailabilitySnapshot | None:
        read_at = clock.monotonic_seconds()
        rows = await reads.fetch(SQL["availability"], event_id)
        if not rows:
            return None
        tiers = tuple(
            TierAvailability(
                id=ids.encode(ids.TIER, row["tier_id"]),
                name=row["name"],
                price=Price(row["price_amount"], row["currency"]),
                capacity=row["capacity"],
                available=row["capacity"] - row["held"] - row["sold"],
                held=row["held"],
                sold=row["sold"],
                sale_state=_sale_state(
                    row["state"],
                    row["capacity"] - row["held"] - row["sold"],
                    has_opened=row["has_opened"],
                    has_closed=row["has_closed"],
                ),
                sale_starts_at=_bound(row["opens_at"]),
                sale_ends_at=_bound(row["closes_at"]),
            )
            for row in rows
            if row["tier_id"] is not None
        )
        return _snapshot(event_id, tiers, log_position(rows[0]["as_of"]), read_at)

    return Fresh(load, seconds=settings.availability_seconds)


class AvailabilityFeed:
    """Puts counters that the relay publishes into the snapshots of the events that somebody watches.

    So a change is seen at once, and a hot event is hardly looked up. What the counters do not tell (names, prices,
    whether a window has opened) is looked up again after a second, and when an event was changed.
    """

    def __init__(self, fresh: Fresh[AvailabilitySnapshot]) -> None:
        self._fresh = fresh

    def on_stock(self, stock: StockData) -> None:
        """Newer counters of an event."""
        event_id = ids.decode(ids.EVENT, stock.event_id)
        last = self._fresh.last(event_id) if event_id is not None else None
        if event_id is None or last is None or log_position(stock.as_of) <= last.as_of:
            return
        if clock.monotonic_seconds() - last.read_at > _READ_SECONDS_MAX:
            return
        counters = {tier.tier_id: tier for tier in stock.tiers}
        if counters.keys() != {tier.id for tier in last.tiers}:
            self._fresh.drop(event_id)
            return
        tiers = tuple(_with_counters(tier, counters[tier.id]) for tier in last.tiers)
        self._fresh.put(event_id, _snapshot(event_id, tiers, log_position(stock.as_of), last.read_at))

    def on_event(self, event: str) -> None:
        """An event was changed or cancelled: it is looked up when somebody asks."""
        event_id = ids.decode(ids.EVENT, event)
        if event_id is not None:
            self._fresh.drop(event_id)


def log_position(text: str) -> int:
    """A pg_lsn as a number."""
    high, _, low = text.partition("/")
    return int(high, 16) << 32 | int(low, 16)


def _with_counters(tier: TierAvailability, stock: TierStock) -> TierAvailability:
    state = tier.sale_state
    if state in ("on_sale", "sold_out"):
        state = "on_sale" if stock.available > 0 else "sold_out"
    counters = {"capacity": stock.capacity, "available": stock.available, "held": stock.held, "sold": stock.sold}
    return msgspec.structs.replace(tier, **counters, sale_state=state)


def _snapshot(event_id: UUID, tiers: tuple[TierAvailability, ...], as_of: int, read_at: float) -> AvailabilitySnapshot:
    event = ids.encode(ids.EVENT, event_id)
    tag = blake2b(event.encode() + msgspec.json.encode(tiers), digest_size=12).hexdigest()
    body = msgspec.json.encode(Availability(event, clock.rfc3339(clock.utc_now()), tiers))
    return AvailabilitySnapshot(body, f'W/"{tag}"'.encode(), tiers, as_of, read_at)


def _sale_state(state: str, available: int, *, has_opened: bool, has_closed: bool) -> str:
    if state in ("cancelled", "paused"):
        return state
    if has_closed:
        return "closed"
    if not has_opened or state == "draft":
        return "scheduled"
    return "on_sale" if available > 0 else "sold_out"


def _bound(moment: datetime) -> str | None:
    # asyncpg gives -infinity and infinity as the first and the last moment that a datetime can say.
    return None if moment.year in (1, 9999) else clock.rfc3339(moment)
