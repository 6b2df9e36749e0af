"""The catalogue: events and their tiers, as buyers find them and as their organisers make and change them.

    draft -> published -> cancelled        a draft may be cancelled too; a cancelled event stays as it is

An event's row is the lock of everything about it: whoever changes it or its tiers holds that row first, so that what
is judged here (one currency, sale windows in order, states) still holds when it is written. What a buyer's hold can
contradict, the capacity, is judged by the CHECK of the stock's row alone.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from holdfast import ids
from holdfast.auth.actors import Actor
from holdfast.engines.database import Connection, Pool, Reads, transaction
from holdfast.engines.hosts.position import ANYTHING, LATEST
from holdfast.errors import Fault, Invalid, Refusal, refuse
from holdfast.settings import Settings
from holdfast.tickets import event_rows as rows
from holdfast.tickets import search
from holdfast.tickets.event_fields import TIERS_MAX
from holdfast.tickets.event_fields.bodies import (
    EventBody,
    EventChange,
    TierBody,
    TierChange,
    changed_event,
    changed_tier,
    new_event,
    new_tier,
    new_tiers,
    one_currency,
)
from holdfast.tickets.event_rows import SQL
from holdfast.tickets.views import counted, managed_event, managed_tier, public_event, summary

# What a broken constraint means to the caller.
_CONSTRAINTS: dict[str, Callable[[], Refusal]] = {
    "stock_not_oversold": lambda: refuse("capacity_in_use", "More tickets of this tier are held or sold than that."),
    "tiers_name_unique": lambda: Invalid(Fault("/name", "another tier of this event has this name")),
}

_ALL_EVENTS_PAGE = 1_000


class Catalogue:
    """Everything that is asked of or done to events and tiers, except selling."""

    def __init__(self, settings: Settings, pool: Pool, reads: Reads) -> None:
        self.settings = settings
        self.pool = pool
        self._reads = reads

    async def published(
        self, found: search.Search, after: search.Position, limit: int, since: int = ANYTHING
    ) -> dict[str, object]:
        """A page of the published events that a search finds, not before a log position: an EventPage."""
        arguments = (*after, found.from_, found.before, found.words, found.places, limit + 1)
        return _page(await self._reads.fetch(SQL["published"], *arguments, since=since), limit)

    async def of_organiser(
        self, organiser_id: UUID, after: search.Position, limit: int, since: int = LATEST
    ) -> dict[str, object]:
        """A page of an organiser's events, drafts and cancelled ones too: an EventPage."""
        return _page(await self._reads.fetch(SQL["of_organiser"], organiser_id, *after, limit + 1, since=since), limit)

    async def all_events(self) -> list[dict[str, object]]:
        """Every event with its tickets counted, for the command line."""
        found: list[dict[str, object]] = []
        position = search.START
        while True:
            page = await self._reads.fetch(SQL["all_events"], *position, _ALL_EVENTS_PAGE, since=LATEST)
            found += [counted(row) for row in page]
            if len(page) < _ALL_EVENTS_PAGE:
                return found
            position = search.Position(page[-1]["starts_at"], page[-1]["id"])

    async def event(self, event_id: UUID, actor: Actor | None, since: int = ANYTHING) -> dict[str, object]:
        """An event: a ManagedEvent for those who may change it, an Event for everyone else, who sees no draft."""
        if actor is not None:
            return await self._event_for(event_id, actor)
        rows = await self._reads.fetch(SQL["event"], event_id, since=since)
        return _shown(rows[0] if rows else None)

    async def _event_for(self, event_id: UUID, actor: Actor) -> dict[str, object]:
        # Those who may change it look at the primary: the event and its tiers of one moment, and what they are about
        # to change.
        async with transaction(self.pool) as connection:
            row = await connection.fetchrow(SQL["event"], event_id)
            if row is not None and _may_change(actor, row):
                return await _managed(connection, event_id)
        return _shown(row)

    async def create(self, actor: Actor, body: EventBody) -> dict[str, object]:
        """Makes a draft, with the tiers it is given: a ManagedEvent."""
        fields = new_event(body, self.settings)
        tiers = new_tiers(body.tiers, fields.time_zone, self.settings)
        event_id = ids.new_id()
        async with transaction(self.pool) as connection:
            await rows.insert_events(connection, [rows.NewEvent(event_id, actor.user_id, "draft", fields, tiers)])
            return await _managed(connection, event_id)

    async def change(self, actor: Actor, event_id: UUID, change: EventChange) -> dict[str, object]:
        """Changes what is said about an event that was not cancelled: a ManagedEvent."""
        async with self._changing(actor, event_id) as (connection, event):
            _not_cancelled(event)
            await rows.update_event(connection, event_id, changed_event(rows.event_fields_of(event), change))
            await rows.tell_change(connection, event_id, event["status"])
            return await _managed(connection, event_id)

    async def publish(self, actor: Actor, event_id: UUID) -> dict[str, object]:
        """Shows a draft to everyone and opens its tiers' sale; a published event stays as it is: a ManagedEvent."""
        async with self._changing(actor, event_id) as (connection, event):
            _not_cancelled(event)
            if event["status"] == "draft":
                await connection.fetchval(SQL["set_status"], event_id, "published")
                await connection.execute(SQL["lock_stock"], event_id)
                await connection.execute(SQL["open_tiers"], event_id)
                await rows.tell_change(connection, event_id, "published")
            return await _managed(connection, event_id)

    async def cancel(self, actor: Actor, event_id: UUID) -> dict[str, object]:
        """Cancels an event for good; a cancelled one stays as it is: a ManagedEvent."""
        async with self._changing(actor, event_id) as (connection, event):
            if event["status"] != "cancelled":
                await rows.cancel_event(connection, event_id)
            return await _managed(connection, event_id)

    async def add_tier(self, actor: Actor, event_id: UUID, body: TierBody) -> dict[str, object]:
        """Adds a tier, which is on sale at once where its event is published: a ManagedTier."""
        async with self._changing(actor, event_id) as (connection, event):
            _not_cancelled(event)
            fields = new_tier(body, event["time_zone"], self.settings)
            others = await connection.fetch(SQL["tiers"], event_id)
            if len(others) >= TIERS_MAX:
                raise refuse("invalid_state", f"An event has at most {TIERS_MAX} tiers.")
            _same_currency(fields.currency, others)
            state = "open" if event["status"] == "published" else "draft"
            (tier_id,) = await rows.insert_tiers(connection, [(event_id, fields)], state=state, imported=False)
            return await self._tier_changed(connection, event, tier_id)

    async def change_tier(self, actor: Actor, event_id: UUID, tier_id: UUID, change: TierChange) -> dict[str, object]:
        """Changes a tier: a ManagedTier. A new price is for later orders; refuses with capacity_in_use."""
        async with self._changing(actor, event_id) as (connection, event):
            _not_cancelled(event)
            tier, others = _one_of(await connection.fetch(SQL["tiers"], event_id), tier_id)
            fields = changed_tier(rows.tier_fields_of(tier), change, event["time_zone"])
            _same_currency(fields.currency, others)
            state = tier["state"]
            if "paused" in change.model_fields_set:
                on_sale = "open" if event["status"] == "published" else "draft"
                state = "paused" if change.paused else on_sale
            await rows.update_tier(connection, tier_id, fields, state=state, imported=tier["imported"])
            return await self._tier_changed(connection, event, tier_id)

    async def delete_tier(self, actor: Actor, event_id: UUID, tier_id: UUID) -> None:
        """Takes a tier of a draft away; that of a published event can be paused instead."""
        async with self._changing(actor, event_id) as (connection, event):
            tier, _ = _one_of(await connection.fetch(SQL["tiers"], event_id), tier_id)
            if event["status"] != "draft":
                raise refuse("invalid_state", "Only a draft's tiers can be deleted; pause the tier instead.")
            await connection.execute(SQL["delete_tier"], tier["id"])
            await connection.fetchval(SQL["touch_event"], event_id)

    @asynccontextmanager
    async def _changing(self, actor: Actor, event_id: UUID) -> AsyncIterator[tuple[Connection, asyncpg.Record]]:
        """A transaction that holds the event's row. Someone else's event is as unknown as one that is not there."""
        try:
            async with transaction(self.pool) as connection:
                event = await connection.fetchrow(SQL["lock_event"], event_id, actor.is_administrator, actor.user_id)
                if event is None:
                    raise refuse("not_found")
                yield connection, event
        except asyncpg.IntegrityConstraintViolationError as error:
            meaning = _CONSTRAINTS.get(error.constraint_name or "")
            if meaning is None:
                raise
            raise meaning() from error

    async def _tier_changed(self, connection: Connection, event: asyncpg.Record, tier_id: UUID) -> dict[str, object]:
        await connection.fetchval(SQL["touch_event"], event["id"])
        await rows.tell_change(connection, event["id"], event["status"])
        tier, _ = _one_of(await connection.fetch(SQL["tiers"], event["id"]), tier_id)
        return managed_tier(tier, event)


async def open_catalogue(settings: Settings, pool: Pool, reads: Reads | None = None) -> Catalogue:
    """The catalogue, once the house organiser, to whom imported events belong, is there. Without `reads` the pool
    answers those too."""
    async with transaction(pool) as connection:
        await rows.ensure_house_organiser(connection)
    return Catalogue(settings, pool, reads or Reads(pool))


def _shown(row: asyncpg.Record | None) -> dict[str, object]:
    if row is None or row["status"] == "draft":
        raise refuse("not_found")
    return public_event(row)


def _page(found: list[asyncpg.Record], limit: int) -> dict[str, object]:
    # One more than the page was asked for, which tells whether there is a next one.
    page = found[:limit]
    following = None
    if len(found) > limit:
        following = search.write_cursor(search.Position(page[-1]["starts_at"], page[-1]["id"]))
    return {"data": [summary(row) for row in page], "next_cursor": following}


async def _managed(connection: Connection, event_id: UUID) -> dict[str, object]:
    event = await connection.fetchrow(SQL["event"], event_id)
    assert event is not None
    return managed_event(event, await connection.fetch(SQL["tiers"], event_id))


def _may_change(actor: Actor, event: asyncpg.Record) -> bool:
    return actor.is_administrator or bool(event["organiser_id"] == actor.user_id)


def _not_cancelled(event: asyncpg.Record) -> None:
    if event["status"] == "cancelled":
        raise refuse("event_cancelled")


def _one_of(tiers: list[asyncpg.Record], tier_id: UUID) -> tuple[asyncpg.Record, list[asyncpg.Record]]:
    tier = next((tier for tier in tiers if tier["id"] == tier_id), None)
    if tier is None:
        raise refuse("not_found")
    return tier, [other for other in tiers if other is not tier]


def _same_currency(currency: str, others: list[asyncpg.Record]) -> None:
    if others and others[0]["currency"] != currency:
        raise Invalid(one_currency(others[0]["currency"]))
