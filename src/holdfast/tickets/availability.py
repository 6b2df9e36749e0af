"""Live availability, served from memory: one look-up in PostgreSQL per event and moment, however many watch."""

from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import clock, ids
from holdfast.engines.database import Reads
from holdfast.settings import Settings
from holdfast.tickets.fresh import Fresh
from holdfast.tickets.sale import SQL


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
    data: list[TierAvailability]


class AvailabilitySnapshot(NamedTuple):
    """An encoded answer, and the tag by which a client asks whether anything changed."""

    body: bytes
    etag: bytes


def fresh_availability(settings: Settings, reads: Reads) -> Fresh[AvailabilitySnapshot]:
    """The availabilities, at most `availability_seconds` old, and as much older as a replica may be."""

    async def load(event_id: UUID) -> AvailabilitySnapshot | None:
        rows = await reads.fetch(SQL["availability"], event_id)
        if not rows:
            return None
        tiers = [
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
        ]
        event = ids.encode(ids.EVENT, event_id)
        tag = blake2b(event.encode() + msgspec.json.encode(tiers), digest_size=12).hexdigest()
        body = msgspec.json.encode(Availability(event, clock.rfc3339(clock.utc_now()), tiers))
        return AvailabilitySnapshot(body, f'W/"{tag}"'.encode())

    return Fresh(load, seconds=settings.availability_seconds)


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
