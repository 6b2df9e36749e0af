"""What the buyers of a drill come for: events on every master of the gate, one whose holds run out, and one that
sells out.
"""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import clock, ids
from holdfast.auth.actors import Actor
from holdfast.drill.audit.gate import GateAwayError, GateReader, slot_of
from holdfast.drill.buyers.load import Booth
from holdfast.engines.database import Pool
from holdfast.errors import Mendable
from holdfast.settings import Settings
from holdfast.tickets.catalogue import open_catalogue
from holdfast.tickets.event_fields.bodies import EventBody, PriceBody, TierBody
from holdfast.tickets.event_rows import HOUSE_ORGANISER

SMALL_CAPACITY = 50
"""Of the event that sells out."""

_CAPACITY = 10_000_000
_SMALL_SHARE, _WANING_SHARE = 0.04, 0.05
_CANCELLING = 0.08
_HOLD_SECONDS, _WANING_SECONDS = 300, 3
_EVENTS_MIN, _EVENTS_MAX = 3, 40


class Stage(NamedTuple):
    """The sales of one run. The last two are the waning one and the small one."""

    booths: list[Booth]
    masters: dict[UUID, str]
    """Event -> the master that had it, host:port, when the run began."""
    main: int
    """How many of the booths are those that almost everybody comes to."""

    @property
    def events(self) -> list[UUID]:
        """Every event."""
        return [booth.event_id for booth in self.booths]

    @property
    def waning(self) -> UUID:
        """The event whose holds run out."""
        return self.booths[-2].event_id

    @property
    def small(self) -> int:
        """Which booth sells out."""
        return len(self.booths) - 1


async def set_stage(settings: Settings, pool: Pool) -> Stage:
    """New events of the house, at least one on each master of the gate. Raises Mendable."""
    gate = GateReader(settings.gate_url.get_secret_value())
    try:
        nodes = [] if gate.is_absent else await gate.masters()
    except GateAwayError as error:
        raise Mendable(f"The gate does not answer ({error}): a drill begins when everything runs.") from error
    masters: dict[UUID, str] = {}
    booths: list[Booth] = []
    missing = {f"{node.host}:{node.port}" for node in nodes}
    while len(booths) < _EVENTS_MIN or missing:
        if len(booths) >= _EVENTS_MAX:
            raise Mendable(f"No event comes to the gate's masters {sorted(missing)}: see the cluster's slots.")
        booth = await _open_booth(settings, pool, _CAPACITY, _HOLD_SECONDS)
        slot = slot_of(booth.event_id)
        master = next((f"{node.host}:{node.port}" for node in nodes if node.first <= slot <= node.last), "")
        masters[booth.event_id] = master
        missing.discard(master)
        booths.append(booth)
    share = (1 - _SMALL_SHARE - _WANING_SHARE) / len(booths)
    waning = await _open_booth(settings, pool, _CAPACITY, _WANING_SECONDS)
    small = await _open_booth(settings, pool, SMALL_CAPACITY, _HOLD_SECONDS)
    return Stage(
        [
            *(booth._replace(share=share, cancelling=_CANCELLING) for booth in booths),
            waning._replace(share=_WANING_SHARE, abandoning=1.0),
            small._replace(share=_SMALL_SHARE, cancelling=0.3, sells_out=True),
        ],
        masters,
        len(booths),
    )


async def end_sales(pool: Pool, events: Sequence[UUID]) -> None:
    """Takes the events off sale, so that nothing looks at their gates during the drills to come."""
    await pool.execute("UPDATE tickets.events SET status = 'cancelled' WHERE id = ANY ($1::uuid[])", list(events))


async def _open_booth(settings: Settings, pool: Pool, capacity: int, hold_seconds: int) -> Booth:
    catalogue = await open_catalogue(settings, pool)
    house = Actor(HOUSE_ORGANISER, is_administrator=False)
    body = EventBody(
        name="Drill",
        description="Made by `holdfast drill`. No ticket of it admits anyone.",
        # Far away, so that it stands behind what people look for.
        starts_at=clock.rfc3339(clock.utc_now() + timedelta(days=3650)),
        hold_seconds=hold_seconds,
        tickets_per_user_max=4,
        tiers=[TierBody(name="Standing", price=PriceBody(amount=100_000), capacity=capacity)],
    )
    made = msgspec.convert(await catalogue.create(house, body), _Made)
    event_id = ids.decode(ids.EVENT, made.id)
    assert event_id is not None
    await catalogue.publish(house, event_id)
    order = {"event_id": made.id, "lines": [{"tier_id": made.tiers[0].id, "quantity": 1}]}
    return Booth(event_id, json.dumps(order, separators=(",", ":")).encode(), share=0)


class _MadeTier(msgspec.Struct):
    id: str


class _Made(msgspec.Struct):
    id: str
    tiers: list[_MadeTier]
