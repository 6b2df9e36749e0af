"""The JSON bodies of the organiser's routes, and how they become fields.

Pydantic checks each value by itself; what takes two values or a zone to judge is checked here and refused with the
same JSON pointers.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from holdfast.currencies import known_currency
from holdfast.errors import Fault, Invalid
from holdfast.settings import Settings
from holdfast.tickets.event_fields import (
    CAPACITY_MAX,
    HOLD_SECONDS_MAX,
    PRICE_AMOUNT_MAX,
    TICKETS_PER_USER_MAX,
    TIERS_MAX,
    EventFields,
    TierFields,
)
from holdfast.tickets.event_fields.moments import checked_zone, end_of_day, read_moment
from holdfast.tickets.event_fields.texts import (
    ADDRESS_LENGTH_MAX,
    DESCRIPTION_LENGTH_MAX,
    NAME_LENGTH_MAX,
    URL_LENGTH_MAX,
    one_line,
    some_lines,
    web_address,
)

Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_LENGTH_MAX),
    AfterValidator(one_line),
]
VenueName = Annotated[str, StringConstraints(max_length=NAME_LENGTH_MAX), AfterValidator(one_line)]
Address = Annotated[str, StringConstraints(max_length=ADDRESS_LENGTH_MAX), AfterValidator(one_line)]
Description = Annotated[str, StringConstraints(max_length=DESCRIPTION_LENGTH_MAX), AfterValidator(some_lines)]
Url = Annotated[str, StringConstraints(max_length=URL_LENGTH_MAX), AfterValidator(web_address)]
Zone = Annotated[str, StringConstraints(max_length=64), AfterValidator(checked_zone)]
MomentText = Annotated[
    str,
    StringConstraints(max_length=64),
    Field(description="RFC 3339; without an offset the event's zone is meant.", examples=["2026-12-31T19:30:00+08:00"]),
]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$"), AfterValidator(known_currency)]
Capacity = Annotated[int, Field(ge=0, le=CAPACITY_MAX)]
HoldSeconds = Annotated[int, Field(ge=1, le=HOLD_SECONDS_MAX)]
TicketsPerUser = Annotated[int, Field(ge=1, le=TICKETS_PER_USER_MAX)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PriceBody(_Body):
    """Minor units; the house's currency where none is given."""

    amount: int = Field(ge=0, le=PRICE_AMOUNT_MAX)
    currency: Currency | None = None


class VenueBody(_Body):
    """Where an event takes place."""

    name: VenueName = ""
    address: Address = ""


class TierBody(_Body):
    """A new tier. No sale window: on sale from the event's publication until it is paused."""

    name: Name
    price: PriceBody
    capacity: Capacity
    sale_starts_at: MomentText | None = None
    sale_ends_at: MomentText | None = None


class TierChange(_Body):
    """What changes of a tier; null takes a bound of the sale away."""

    name: Name = ""
    price: PriceBody = PriceBody(amount=0)
    capacity: Capacity = 0
    sale_starts_at: MomentText | None = None
    sale_ends_at: MomentText | None = None
    paused: bool = False


class EventBody(_Body):
    """A new event, a draft until it is published. Without `time_zone` it takes place in the house's."""

    name: Name
    description: Description = ""
    venue: VenueBody = VenueBody()
    starts_at: MomentText
    ends_at: MomentText | None = None
    time_zone: Zone | None = None
    url: Url | None = None
    hold_seconds: HoldSeconds | None = None
    tickets_per_user_max: TicketsPerUser | None = None
    tiers: list[TierBody] = Field(default=[], max_length=TIERS_MAX)


class EventChange(_Body):
    """What changes of an event; what is not there stays. A new `time_zone` alone moves no moment."""

    name: Name = ""
    description: Description = ""
    venue: VenueBody = VenueBody()
    starts_at: MomentText = ""
    ends_at: MomentText | None = None
    time_zone: Zone = ""
    url: Url | None = None
    hold_seconds: HoldSeconds = 1
    tickets_per_user_max: TicketsPerUser = 1


def new_event(body: EventBody, settings: Settings) -> EventFields:
    """The fields of a new event. Raises Invalid."""
    zone = body.time_zone or settings.house_time_zone
    fields = EventFields(
        name=body.name,
        description=body.description,
        venue_name=body.venue.name,
        venue_address=body.venue.address,
        url=body.url,
        starts_at=_moment(body.starts_at, zone, "/starts_at"),
        ends_at=_end(body.ends_at, zone, "/ends_at"),
        time_zone=zone,
        hold_seconds=body.hold_seconds or settings.hold_seconds_default,
        tickets_per_user_max=body.tickets_per_user_max or settings.tickets_per_user_default,
    )
    return _in_order(fields)


def changed_event(now: EventFields, change: EventChange) -> EventFields:
    """The fields after a change. Raises Invalid."""
    given = change.model_fields_set
    plain = {"name", "description", "url", "time_zone", "hold_seconds", "tickets_per_user_max"} & given
    changes: dict[str, object] = {name: getattr(change, name) for name in plain}
    if "venue" in given:
        changes |= {f"venue_{name}": getattr(change.venue, name) for name in change.venue.model_fields_set}
    zone = change.time_zone or now.time_zone
    if "starts_at" in given:
        changes["starts_at"] = _moment(change.starts_at, zone, "/starts_at")
    if "ends_at" in given:
        changes["ends_at"] = _end(change.ends_at, zone, "/ends_at")
    return _in_order(msgspec.structs.replace(now, **changes))


def new_tiers(bodies: Sequence[TierBody], zone: str, settings: Settings) -> list[TierFields]:
    """The fields of an event's tiers, of one currency and with names of their own. Raises Invalid."""
    tiers = [new_tier(body, zone, settings, pointer=f"/tiers/{index}") for index, body in enumerate(bodies)]
    names: set[str] = set()
    for index, tier in enumerate(tiers):
        if tier.name in names:
            raise Invalid(Fault(f"/tiers/{index}/name", "another tier of this event has this name"))
        names.add(tier.name)
        if tier.currency != tiers[0].currency:
            raise Invalid(one_currency(tiers[0].currency, f"/tiers/{index}"))
    return tiers


def new_tier(body: TierBody, zone: str, settings: Settings, *, pointer: str = "") -> TierFields:
    """The fields of a new tier. Raises Invalid."""
    fields = TierFields(
        name=body.name,
        price_amount=body.price.amount,
        currency=body.price.currency or settings.house_currency,
        capacity=body.capacity,
        opens_at=_optional_moment(body.sale_starts_at, zone, f"{pointer}/sale_starts_at"),
        closes_at=_end(body.sale_ends_at, zone, f"{pointer}/sale_ends_at"),
    )
    return _window_in_order(fields, pointer)


def changed_tier(now: TierFields, change: TierChange, zone: str) -> TierFields:
    """The fields after a change; a price without a currency keeps the tier's. Raises Invalid."""
    given = change.model_fields_set
    changes: dict[str, object] = {name: getattr(change, name) for name in {"name", "capacity"} & given}
    if "price" in given:
        changes |= {"price_amount": change.price.amount, "currency": change.price.currency or now.currency}
    if "sale_starts_at" in given:
        changes["opens_at"] = _optional_moment(change.sale_starts_at, zone, "/sale_starts_at")
    if "sale_ends_at" in given:
        changes["closes_at"] = _end(change.sale_ends_at, zone, "/sale_ends_at")
    return _window_in_order(msgspec.structs.replace(now, **changes), "")


def one_currency(currency: str, pointer: str = "") -> Fault:
    """What is wrong with a tier of another currency than its event's."""
    return Fault(f"{pointer}/price/currency", f"all tiers of this event are in {currency}")


def _in_order(fields: EventFields) -> EventFields:
    if fields.ends_at is not None and fields.ends_at < fields.starts_at:
        raise Invalid(Fault("/ends_at", "must not be before starts_at"))
    return fields


def _window_in_order(fields: TierFields, pointer: str) -> TierFields:
    if fields.opens_at is not None and fields.closes_at is not None and fields.closes_at <= fields.opens_at:
        raise Invalid(Fault(f"{pointer}/sale_ends_at", "must be after sale_starts_at"))
    return fields


def _optional_moment(text: str | None, zone: str, pointer: str) -> datetime | None:
    return None if text is None else _moment(text, zone, pointer)


def _moment(text: str, zone: str, pointer: str) -> datetime:
    try:
        return read_moment(text, zone).at
    except ValueError as error:
        raise Invalid(Fault(pointer, str(error))) from error


def _end(text: str | None, zone: str, pointer: str) -> datetime | None:
    if text is None:
        return None
    try:
        moment = read_moment(text, zone)
    except ValueError as error:
        raise Invalid(Fault(pointer, str(error))) from error
    # Until a day means until that day is over.
    return end_of_day(moment, zone) if moment.is_date else moment.at
