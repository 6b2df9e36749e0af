"""What reading a catalogue comes to: candidates, and remarks about what could not be taken as it is."""

from datetime import datetime
from hashlib import sha256
from typing import Literal

import msgspec

from holdfast.tickets.event_fields import EventFields, TierFields

EVENTS_MAX = 50_000
REFUSALS_MAX = 10_000
"""Beyond so many the rest of a catalogue is not read."""

POINTER_LENGTH_MAX = 300

Standing = Literal["scheduled", "cancelled", "postponed"]


class Place(msgspec.Struct, frozen=True):
    """Where something stands in a file: a line, a JSON pointer, or both (a script tag's line and a pointer into it)."""

    line: int | None = None
    pointer: str | None = None

    def at(self, *steps: str | int) -> "Place":
        """A place below this one."""
        below = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
        pointer = (self.pointer or "") + below
        # Keys may be as long as the file; what is kept for each of its events may not.
        return Place(self.line, pointer if len(pointer) <= POINTER_LENGTH_MAX else pointer[:POINTER_LENGTH_MAX] + "…")


class Remark(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that was not taken, or not as it stands, and why."""

    reason: str
    line: int | None = None
    pointer: str | None = None


class Untakable(Exception):
    """Something at a place cannot be taken, for a reason."""

    def __init__(self, place: Place, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(reason)


class TooMany(Exception):
    """The rest is not read, since there is more than a catalogue has: how much of what."""


class House(msgspec.Struct, frozen=True, kw_only=True):
    """What the house adds where a catalogue is silent."""

    time_zone: str
    currency: str
    hold_seconds: int
    tickets_per_user_max: int
    default_capacity: int | None = None


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a catalogue. `key` says which it is, to know it again; it has fields if it is to be on sale."""

    place: Place
    key: str
    name: str
    starts_at: datetime | None
    standing: Standing = "scheduled"
    fields: EventFields | None = None
    tiers: tuple[TierFields, ...] = ()

    def digest(self) -> bytes:
        """A hash of all that is said about the event, wherever in the file it stands."""
        content = (self.key, self.name, self.starts_at, self.standing, self.fields, self.tiers)
        return sha256(msgspec.json.encode(content)).digest()


class Found(msgspec.Struct):
    """Everything that reading a catalogue came to."""

    candidates: list[Candidate] = msgspec.field(default_factory=list)
    refused: list[Remark] = msgspec.field(default_factory=list)
    notes: list[Remark] = msgspec.field(default_factory=list)

    def take(self, candidate: Candidate) -> None:
        """Keeps an event. Raises TooMany."""
        if len(self.candidates) >= EVENTS_MAX:
            raise TooMany(f"{EVENTS_MAX} events")
        self.candidates.append(candidate)

    def refuse(self, place: Place, reason: str) -> None:
        """Reports what cannot be taken. Raises TooMany."""
        self.refused.append(Remark(reason, place.line, place.pointer))
        if len(self.refused) >= REFUSALS_MAX:
            raise TooMany(f"{REFUSALS_MAX} refusals")

    def note(self, place: Place, reason: str) -> None:
        """Reports what was taken otherwise than it stands."""
        if len(self.notes) < REFUSALS_MAX:
            self.notes.append(Remark(reason, place.line, place.pointer))


def key_of_content(name: str, starts_at: datetime | None, venue: str) -> str:
    """The key of an event whose catalogue gives it none."""
    content = "\0".join([name, starts_at.isoformat() if starts_at else "", venue])
    return "sha256:" + sha256(content.encode()).hexdigest()
