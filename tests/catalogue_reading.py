"""Reading catalogues in tests: documents, texts or bytes, and what is found in them."""

import json
from typing import Any

from holdfast.tickets.event_fields import TierFields
from holdfast.tickets.importing import Format
from holdfast.tickets.importing.outcomes import Candidate, Found, House
from holdfast.tickets.importing.reading import read_catalogue

HOUSE = House(time_zone="Asia/Taipei", currency="TWD", hold_seconds=600, tickets_per_user_max=4)
OFFER = {"@type": "Offer", "price": "800", "priceCurrency": "TWD", "inventoryLevel": 100}
EVENT = {"@type": "Event", "name": "Concert", "startDate": "2027-03-01T19:30:00+08:00", "offers": OFFER}
HEADER = "name,starts_at,price,capacity"


def read(content: Any, kind: Format | None = None, house: House = HOUSE) -> Found:
    """What is found in a document, a text or bytes."""
    if isinstance(content, dict | list):
        content = json.dumps(content)
    return read_catalogue(content.encode() if isinstance(content, str) else content, kind, house)


def one(content: Any, **given: Any) -> Candidate:
    """The one event of a catalogue in which nothing is refused."""
    found = read(content, **given)
    assert found.refused == []
    (candidate,) = found.candidates
    return candidate


def tiers(**changes: Any) -> tuple[TierFields, ...]:
    """The tiers of an event that is taken."""
    return one(EVENT | changes).tiers


def refusal(content: Any) -> tuple[str | None, str]:
    """Pointer and reason of the one thing refused, in a catalogue of which nothing is taken."""
    found = read(content)
    assert found.candidates == []
    (remark,) = found.refused
    return remark.pointer, remark.reason
