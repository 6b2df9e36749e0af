"""Events as they are shown: the shapes of the replies, and the rows turned into them."""

import asyncpg
from pydantic import BaseModel

from holdfast import clock, ids


class Price(BaseModel):
    """Minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class Venue(BaseModel):
    """Where an event takes place."""

    name: str
    address: str


class EventSummary(BaseModel):
    """An event as lists show it. `time_zone` is an IANA zone, or an offset where only that is known."""

    id: str
    name: str
    venue: Venue
    starts_at: str
    ends_at: str | None
    time_zone: str
    url: str | None
    status: str
    hold_seconds: int
    tickets_per_user_max: int
    version: int
    created_at: str
    updated_at: str


class Event(EventSummary):
    """An event as everyone may see it."""

    description: str


class ManagedTier(BaseModel):
    """A tier as its organiser sees it. `state` is draft, open, paused or cancelled."""

    id: str
    event_id: str
    name: str
    price: Price
    capacity: int
    held: int
    sold: int
    sale_starts_at: str | None
    sale_ends_at: str | None
    state: str
    paused: bool


class ManagedEvent(Event):
    """An event as its organiser sees it."""

    organiser_id: str
    tiers: list[ManagedTier]


class ImportRemark(BaseModel):
    """One thing that was not taken, or not as it stands: where (either or both) and why."""

    reason: str
    line: int | None = None
    pointer: str | None = None


class ImportReport(BaseModel):
    """What an import came to, in events: `taken` is the sum of the three after it."""

    taken: int
    created: int
    updated: int
    unchanged: int
    refused: list[ImportRemark]
    notes: list[ImportRemark]


class EventPage(BaseModel):
    """A page of events; `next_cursor` is null on the last one."""

    data: list[EventSummary]
    next_cursor: str | None


def summary(row: asyncpg.Record) -> dict[str, object]:
    """An EventSummary."""
    return {
        "id": ids.encode(ids.EVENT, row["id"]),
        "name": row["name"],
        "venue": {"name": row["venue_name"], "address": row["venue_address"]},
        "starts_at": clock.rfc3339(row["starts_at"]),
        "ends_at": None if row["ends_at"] is None else clock.rfc3339(row["ends_at"]),
        "time_zone": row["time_zone"],
        "url": row["url"],
        "status": row["status"],
        "hold_seconds": row["hold_seconds"],
        "tickets_per_user_max": row["tickets_per_user_max"],
        "version": row["version"],
        "created_at": clock.rfc3339(row["created_at"]),
        "updated_at": clock.rfc3339(row["updated_at"]),
    }


def public_event(row: asyncpg.Record) -> dict[str, object]:
    """An Event."""
    return summary(row) | {"description": row["description"]}


def counted(row: asyncpg.Record) -> dict[str, object]:
    """An event as the command line lists it: with all its tickets."""
    return {
        "id": ids.encode(ids.EVENT, row["id"]),
        "name": row["name"],
        "venue": row["venue_name"],
        "starts_at": clock.rfc3339(row["starts_at"]),
        "time_zone": row["time_zone"],
        "status": row["status"],
        "tiers": row["tiers"],
        "capacity": row["capacity"],
        "held": row["held"],
        "sold": row["sold"],
    }


def managed_event(row: asyncpg.Record, tiers: list[asyncpg.Record]) -> dict[str, object]:
    """A ManagedEvent."""
    return public_event(row) | {
        "organiser_id": ids.encode(ids.USER, row["organiser_id"]),
        "tiers": [managed_tier(tier, row) for tier in tiers],
    }


def managed_tier(tier: asyncpg.Record, event: asyncpg.Record) -> dict[str, object]:
    """A ManagedTier."""
    return {
        "id": ids.encode(ids.TIER, tier["id"]),
        "event_id": ids.encode(ids.EVENT, event["id"]),
        "name": tier["name"],
        "price": {"amount": tier["price_amount"], "currency": tier["currency"]},
        "capacity": tier["capacity"],
        "held": tier["held"],
        "sold": tier["sold"],
        "sale_starts_at": None if tier["opens_at"] is None else clock.rfc3339(tier["opens_at"]),
        "sale_ends_at": None if tier["closes_at"] is None else clock.rfc3339(tier["closes_at"]),
        "state": tier["state"],
        "paused": tier["state"] == "paused",
    }
