"""What an event and its tiers may be: texts, moments and the bodies that give them. Nothing here does I/O.

EventFields, TierFields    what is written to PostgreSQL, already valid
bodies                     the JSON of the organiser's routes, turned into these
texts, moments             the rules of each kind of value, shared with the import of catalogues
"""

from datetime import datetime

import msgspec

TIERS_MAX = 100
PRICE_AMOUNT_MAX = 1_000_000_000_000
CAPACITY_MAX = 100_000_000
HOLD_SECONDS_MAX = 86_400
TICKETS_PER_USER_MAX = 1_000


class EventFields(msgspec.Struct, frozen=True, kw_only=True):
    """What an organiser says about an event. Moments are aware and in UTC; `time_zone` is where it takes place."""

    name: str
    description: str = ""
    venue_name: str = ""
    venue_address: str = ""
    url: str | None = None
    starts_at: datetime
    ends_at: datetime | None = None
    time_zone: str
    hold_seconds: int
    tickets_per_user_max: int


class TierFields(msgspec.Struct, frozen=True, kw_only=True):
    """What an organiser says about a tier. The price is in minor units; no bound on the sale is None."""

    name: str
    price_amount: int
    currency: str
    capacity: int
    opens_at: datetime | None = None
    closes_at: datetime | None = None
