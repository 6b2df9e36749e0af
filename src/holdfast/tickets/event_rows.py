"""Events and tiers as rows: the writes that the organiser's routes and the import of catalogues share.

Each runs in the caller's transaction, and the caller has locked the event's row (or has just made it).
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from holdfast import ids
from holdfast.engines.database import Connection, load_statements
from holdfast.tickets.event_fields import EventFields, TierFields

SQL = load_statements("holdfast.tickets", "catalogue.sql")

HOUSE_ORGANISER = UUID("00000000-0000-7000-8000-000000000001")
"""The user that imported events belong to."""

_FIELDS = EventFields.__struct_fields__


class NewEvent(NamedTuple):
    """An event to be written. An imported one says where it came from."""

    event_id: UUID
    organiser_id: UUID
    status: str
    fields: EventFields
    tiers: Sequence[TierFields]
    source_key: str | None = None
    source_digest: bytes | None = None


async def ensure_house_organiser(connection: Connection) -> UUID:
    """The house organiser's user id; makes the user where there is none yet."""
    organiser_id: UUID = await connection.fetchval(SQL["house_organiser"])
    assert organiser_id == HOUSE_ORGANISER
    return organiser_id


async def insert_events(connection: Connection, events: Sequence[NewEvent]) -> set[UUID]:
    """Writes events, all of one status and origin, with their tiers; answers those that were new.

    The others' source_key was there already.
    """
    columns = [
        [event.event_id for event in events],
        [event.organiser_id for event in events],
        [event.status for event in events],
        [event.source_key for event in events],
        [event.source_digest for event in events],
        *([getattr(event.fields, name) for event in events] for name in _FIELDS),
    ]
    made = {row["id"] for row in await connection.fetch(SQL["insert_events"], *columns)}
    fresh = [event for event in events if event.event_id in made]
    await insert_tiers(
        connection,
        [(event.event_id, tier) for event in fresh for tier in event.tiers],
        state="open" if events[0].status == "published" else "draft",
        imported=events[0].source_key is not None,
    )
    published = [event.event_id for event in fresh if event.status == "published"]
    if published:
        await connection.execute(SQL["open_gates"], published)
        await connection.execute(SQL["tell"], "event.changed", published)
    return made


async def insert_tiers(
    connection: Connection, tiers: Sequence[tuple[UUID, TierFields]], *, state: str, imported: bool
) -> list[UUID]:
    """Writes new tiers of the events that they are given with; answers their ids."""
    if not tiers:
        return []
    tier_ids = [ids.new_id() for _ in tiers]
    await connection.execute(
        SQL["insert_tiers"],
        tier_ids,
        [event_id for event_id, _ in tiers],
        [tier.name for _, tier in tiers],
        [tier.price_amount for _, tier in tiers],
        [tier.currency for _, tier in tiers],
        [tier.capacity for _, tier in tiers],
        [tier.opens_at for _, tier in tiers],
        [tier.closes_at for _, tier in tiers],
        [state] * len(tiers),
        [imported] * len(tiers),
    )
    return tier_ids


async def update_event(connection: Connection, event_id: UUID, fields: EventFields) -> None:
    """Writes an event's fields and gives it a new version."""
    await connection.fetchval(SQL["update_event"], event_id, *msgspec.structs.astuple(fields))


async def update_tier(connection: Connection, tier_id: UUID, fields: TierFields, *, state: str, imported: bool) -> None:
    """Writes a tier. Raises CheckViolationError (stock_not_oversold) for a capacity below what is held and sold."""
    await connection.execute(SQL["update_tier"], tier_id, fields.name, fields.price_amount, fields.currency, imported)
    await connection.execute(SQL["update_stock"], tier_id, fields.capacity, fields.opens_at, fields.closes_at, state)


async def tell_change(connection: Connection, event_id: UUID, status: str) -> None:
    """Tells the gate and the caches of a change, where they know the event: a draft is nobody's business yet."""
    if status != "draft":
        await connection.execute(SQL["open_gates"], [event_id])
        await connection.execute(SQL["tell"], "event.changed", [event_id])


async def cancel_event(connection: Connection, event_id: UUID) -> None:
    """Ends the event and its sale. Its reserved orders are cancelled by the consumer of `event.cancelled`."""
    await connection.fetchval(SQL["set_status"], event_id, "cancelled")
    await connection.execute(SQL["lock_stock"], event_id)
    await connection.execute(SQL["cancel_tiers"], event_id)
    await tell_change(connection, event_id, "cancelled")
    await connection.execute(SQL["tell"], "event.cancelled", [event_id])


def event_fields_of(row: asyncpg.Record) -> EventFields:
    """The fields of an event's row."""
    return EventFields(**{name: row[name] for name in _FIELDS})


def tier_fields_of(row: asyncpg.Record) -> TierFields:
    """The fields of a tier's row."""
    return TierFields(**{name: row[name] for name in TierFields.__struct_fields__})
