"""Candidates into PostgreSQL: what is new is made, what was imported before and differs now is changed.

Importing the same again changes nothing: each event remembers a hash of what was imported last. A catalogue that did
change wins over what was changed here meanwhile, but it never takes a ticket away that is held or sold, never brings a
cancelled event back, and never resumes a sale that is paused.
"""

import asyncio
from collections import Counter
from hashlib import sha256
from typing import Literal
from uuid import UUID

import asyncpg
import msgspec

from holdfast import ids
from holdfast.auth.actors import Actor
from holdfast.engines.database import Connection, transaction
from holdfast.tickets import event_rows as rows
from holdfast.tickets.catalogue import Catalogue
from holdfast.tickets.event_fields import TierFields
from holdfast.tickets.event_rows import SQL
from holdfast.tickets.importing import Format
from holdfast.tickets.importing.outcomes import Candidate, Found, House, Remark
from holdfast.tickets.importing.reading import read_catalogue

_CHUNK = 200
_KEY_LENGTH_MAX = 500

Outcome = Literal["created", "updated", "unchanged", "refused"]


class Report(msgspec.Struct):
    """What an import came to. Events are counted; `refused` and `notes` tell line or pointer, and the reason."""

    taken: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: list[Remark] = msgspec.field(default_factory=list)
    notes: list[Remark] = msgspec.field(default_factory=list)


async def import_catalogue(
    catalogue: Catalogue, data: bytes, kind: Format | None, actor: Actor, default_capacity: int | None = None
) -> Report:
    """Imports a catalogue. An administrator's events belong to the house, an organiser's to themselves."""
    settings = catalogue.settings
    house = House(
        time_zone=settings.house_time_zone,
        currency=settings.house_currency,
        hold_seconds=settings.hold_seconds_default,
        tickets_per_user_max=settings.tickets_per_user_default,
        default_capacity=default_capacity,
    )
    found = await asyncio.to_thread(read_catalogue, data, kind, house)
    return await _Writer(catalogue, actor, found).write()


class _Writer:
    """One import into the events of one organiser."""

    def __init__(self, catalogue: Catalogue, actor: Actor, found: Found) -> None:
        self._pool = catalogue.pool
        self._owner = rows.HOUSE_ORGANISER if actor.is_administrator else actor.user_id
        self._found = found
        self._counts: Counter[Outcome] = Counter()
        self._performances = Counter(candidate.key for candidate in found.candidates)

    async def write(self) -> Report:
        candidates = self._found.candidates
        if candidates and self._owner == rows.HOUSE_ORGANISER:
            async with transaction(self._pool) as connection:
                await rows.ensure_house_organiser(connection)
        for start in range(0, len(candidates), _CHUNK):
            for event_id, candidate in await self._create(candidates[start : start + _CHUNK]):
                async with transaction(self._pool) as connection:
                    self._counts[await self._update(connection, event_id, candidate)] += 1
        created, updated, unchanged = (self._counts[each] for each in ("created", "updated", "unchanged"))
        taken = created + updated + unchanged
        return Report(taken, created, updated, unchanged, self._found.refused, self._found.notes)

    async def _create(self, candidates: list[Candidate]) -> list[tuple[UUID, Candidate]]:
        """Makes the events that are not there yet; answers those that are and were told otherwise."""
        known: list[tuple[UUID, Candidate]] = []
        new: list[rows.NewEvent] = []
        async with transaction(self._pool) as connection:
            await connection.execute(SQL["lock_import"], str(self._owner))
            keys = [key for candidate in candidates for key in self._keys(candidate)]
            imported = {row["source_key"]: row for row in await connection.fetch(SQL["imported"], keys)}
            for candidate in candidates:
                event = self._recognised(candidate, imported)
                if event is not None and event["source_digest"] == candidate.digest():
                    self._counts["unchanged"] += 1
                elif event is not None:
                    known.append((event["id"], candidate))
                elif candidate.fields is None:
                    self._found.refused.append(_remark(candidate, f"the event is {candidate.standing}"))
                else:
                    new.append(self._new(candidate, imported))
            if new:
                self._counts["created"] += len(await rows.insert_events(connection, new))
        return known

    def _new(self, candidate: Candidate, imported: dict[str, asyncpg.Record]) -> rows.NewEvent:
        assert candidate.fields is not None
        plain, of_performance = self._keys(candidate)
        key = of_performance if plain in imported or self._performances[candidate.key] > 1 else plain
        return rows.NewEvent(
            ids.new_id(), self._owner, "published", candidate.fields, candidate.tiers, key, candidate.digest()
        )

    def _keys(self, candidate: Candidate) -> tuple[str, str]:
        """The key of the event in this organiser's catalogue, and the one of this performance of it.

        Many catalogues give all performances of a run one address; the second key tells them apart.
        """
        key = candidate.key if len(candidate.key) <= _KEY_LENGTH_MAX else sha256(candidate.key.encode()).hexdigest()
        plain = f"{ids.encode(ids.USER, self._owner)} {key}"
        return plain, f"{plain} @{candidate.starts_at.isoformat() if candidate.starts_at else ''}"

    def _recognised(self, candidate: Candidate, imported: dict[str, asyncpg.Record]) -> asyncpg.Record | None:
        """The event that this candidate is, if it was imported before."""
        plain, of_performance = self._keys(candidate)
        if of_performance in imported:
            return imported[of_performance]
        found = imported.get(plain)
        return found if found is not None and self._is_the_same(candidate, found) else None

    def _is_the_same(self, candidate: Candidate, event: asyncpg.Record) -> bool:
        """Whether an event of the same key is the same one: its start stayed, or it is the only one and was moved.

        One that has begun is not moved any more: the same address then tells of the next performance.
        """
        if candidate.starts_at in (event["starts_at"], None):
            return True
        is_only = self._performances[candidate.key] == 1
        return is_only and bool(event["name"] == candidate.name) and not event["has_begun"]

    async def _update(self, connection: Connection, event_id: UUID, candidate: Candidate) -> Outcome:
        event = await connection.fetchrow(SQL["lock_event"], event_id, True, self._owner)
        assert event is not None
        if event["source_digest"] == candidate.digest():
            return "unchanged"
        if event["status"] == "cancelled":
            if candidate.standing == "scheduled":
                self._found.notes.append(_remark(candidate, "the event was cancelled here and stays so"))
            return "unchanged"
        if candidate.standing == "cancelled":
            await rows.cancel_event(connection, event_id)
        elif candidate.standing == "postponed":
            await self._pause(connection, event_id, await connection.fetch(SQL["tiers"], event_id))
            await connection.fetchval(SQL["touch_event"], event_id)
            await rows.tell_change(connection, event_id, event["status"])
        else:
            return await self._rewrite(connection, event, candidate)
        await connection.execute(SQL["set_digest"], event_id, candidate.digest())
        return "updated"

    async def _rewrite(self, connection: Connection, event: asyncpg.Record, candidate: Candidate) -> Outcome:
        """Writes what the catalogue says now. The stock is locked first, so that what is held and sold stands still."""
        assert candidate.fields is not None
        event_id = event["id"]
        await connection.execute(SQL["lock_stock"], event_id)
        there = {tier["name"]: tier for tier in await connection.fetch(SQL["tiers"], event_id)}
        names = {tier.name for tier in candidate.tiers}
        left = [tier for name, tier in there.items() if name not in names]
        if any(tier["currency"] != candidate.tiers[0].currency for tier in left):
            self._found.refused.append(_remark(candidate, f"the event has tiers in {left[0]['currency']} already"))
            return "refused"
        kept = {name: event[name] for name in ("hold_seconds", "tickets_per_user_max")}
        fields = msgspec.structs.replace(candidate.fields, **kept)
        tiers = [self._that_fits(tier, there.get(tier.name), candidate) for tier in candidate.tiers]
        # Where less than all could be written, the next import tries again.
        digest = candidate.digest() if tiers == list(candidate.tiers) else None
        await connection.execute(SQL["set_digest"], event_id, digest)
        stale = [tier for tier in left if tier["imported"] and tier["state"] == "open"]
        is_as_it_was = rows.event_fields_of(event) == fields and not stale
        if is_as_it_was and all(tier.name in there and tier == rows.tier_fields_of(there[tier.name]) for tier in tiers):
            return "unchanged"
        await self._pause(connection, event_id, stale)
        for tier in tiers:
            if tier.name in there:
                row = there[tier.name]
                await rows.update_tier(connection, row["id"], tier, state=row["state"], imported=True)
        added = [(event_id, tier) for tier in tiers if tier.name not in there]
        await rows.insert_tiers(connection, added, state="open", imported=True)
        await rows.update_event(connection, event_id, fields)
        await rows.tell_change(connection, event_id, event["status"])
        return "updated"

    def _that_fits(self, tier: TierFields, row: asyncpg.Record | None, candidate: Candidate) -> TierFields:
        """The tier with no fewer tickets than are held or sold."""
        if row is None:
            return tier
        if row["state"] == "paused":
            self._found.notes.append(_remark(candidate, f"the sale of {tier.name!r} is paused and stays so"))
        in_use = row["held"] + row["sold"]
        if tier.capacity >= in_use:
            return tier
        reason = f"{tier.name!r} keeps {in_use} tickets, since so many are held or sold"
        self._found.notes.append(_remark(candidate, reason))
        return msgspec.structs.replace(tier, capacity=in_use)

    async def _pause(self, connection: Connection, event_id: UUID, tiers: list[asyncpg.Record]) -> None:
        await connection.execute(SQL["lock_stock"], event_id)
        await connection.execute(SQL["pause_tiers"], [tier["id"] for tier in tiers])


def _remark(candidate: Candidate, reason: str) -> Remark:
    return Remark(reason, candidate.place.line, candidate.place.pointer)
