"""The offers of one schema.org Event as tiers.

An Offer, a list of them, an AggregateOffer around them, or an AggregateOffer with a lowPrice alone. Offers that are
sold out (or sold only in a shop) become tiers without tickets.
"""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from holdfast.tickets.event_fields import TIERS_MAX, TierFields
from holdfast.tickets.event_fields.moments import end_of_day, read_moment
from holdfast.tickets.event_fields.texts import NAME_LENGTH_MAX
from holdfast.tickets.importing.jsonld import Document, Node, is_true, local_name, nodes_of, only, prop, text_of
from holdfast.tickets.importing.outcomes import Found, House, Place, Untakable
from holdfast.tickets.importing.prices import PriceRead, read_count, read_price
from holdfast.tickets.importing.texts import plain_line
from holdfast.tickets.importing.tiers import share_capacity, with_names_of_their_own

_NOT_FOR_SALE = frozenset({"SoldOut", "OutOfStock", "Discontinued", "InStoreOnly"})


class Sale(NamedTuple):
    """What an offer inherits from its event: a name, a zone, and when nobody needs a ticket any more."""

    name: str
    zone: str
    closes_at: datetime


class _Offer(NamedTuple):
    """An offer and the currency that stands around it."""

    place: Place
    node: Node
    currency: str | None


class _Tier(NamedTuple):
    """An offer read; None tickets where it does not say how many."""

    name: str
    price: PriceRead
    tickets: int | None
    opens_at: datetime | None
    closes_at: datetime


def read_tiers(
    document: Document, event: Node, place: Place, sale: Sale, house: House, found: Found
) -> list[TierFields]:
    """The tiers of an event; offers that cannot be taken are reported. Raises Untakable when none is left."""
    is_free = is_true(prop(event, "isAccessibleForFree")[1])
    offers = _offers(document, event, place, found)
    tiers: list[_Tier] = []
    for offer in offers[:TIERS_MAX]:
        try:
            tiers.append(_tier(document, offer, sale, is_free=is_free))
        except Untakable as error:
            found.refuse(error.place, error.reason)
    for offer in offers[TIERS_MAX:]:
        found.refuse(offer.place, f"is one offer too many: an event has at most {TIERS_MAX}")
    if not offers and is_free:
        tiers = [_Tier(sale.name, PriceRead(0, None), None, None, sale.closes_at)]
    if not tiers:
        raise Untakable(place, "none of its offers can be taken" if offers else "has no offers")
    return _settled(tiers, _total(document, event, place), place, house)


def _offers(document: Document, event: Node, place: Place, found: Found) -> list[_Offer]:
    """The offers one by one, those inside an AggregateOffer too."""
    key, value = prop(event, "offers")
    offers: list[_Offer] = []
    for here, item in nodes_of(value, place.at(key)):
        if not isinstance(item, dict):
            found.refuse(here, "is not an offer that can be read")
            continue
        node = document.resolved(item)
        currency = text_of(prop(node, "priceCurrency")[1])
        inner_key, inner = prop(node, "offers")
        below = [
            _Offer(there, document.resolved(each), currency)
            for there, each in nodes_of(inner, here.at(inner_key))
            if isinstance(each, dict)
        ]
        offers += below or [_Offer(here, node, None)]
    return offers


def _tier(document: Document, offer: _Offer, sale: Sale, *, is_free: bool) -> _Tier:
    opens_at, closes_at = _window(offer, sale)
    sold_out = local_name(prop(offer.node, "availability")[1]) in _NOT_FOR_SALE
    return _Tier(
        name=_name(offer) or sale.name,
        price=_price(document, offer, is_free=is_free),
        tickets=0 if sold_out else _count(document, offer.node, "inventoryLevel", offer.place),
        opens_at=opens_at,
        closes_at=closes_at,
    )


def _name(offer: _Offer) -> str:
    key, value = prop(offer.node, "name")
    try:
        name = plain_line(text_of(value) or "")
    except ValueError as error:
        raise Untakable(offer.place.at(key), f"name {error}") from error
    if len(name) > NAME_LENGTH_MAX:
        raise Untakable(offer.place.at(key), f"name has more than {NAME_LENGTH_MAX} characters")
    return name


def _price(document: Document, offer: _Offer, *, is_free: bool) -> PriceRead:
    prices = set()
    for node, key, value, place in _stated_prices(document, offer):
        currency = text_of(prop(node, "priceCurrency")[1]) or text_of(prop(offer.node, "priceCurrency")[1])
        try:
            prices.add(read_price(value, currency or offer.currency))
        except ValueError as error:
            raise Untakable(place.at(key), f"{key} {error}") from error
    if len(prices) > 1:
        raise Untakable(offer.place, "has several prices, and which one is asked for is not certain")
    if not prices and not is_free:
        raise Untakable(offer.place, "has no price")
    return prices.pop() if prices else PriceRead(0, None)


def _stated_prices(document: Document, offer: _Offer) -> list[tuple[Node, str, object, Place]]:
    key, value = prop(offer.node, "price")
    value = only(value)
    if value is not None:
        return [(offer.node, key, value, offer.place)]
    low_key, low = prop(offer.node, "lowPrice")
    if low is not None:
        high = prop(offer.node, "highPrice")[1]
        if high is not None and not _same_number(low, high):
            raise Untakable(offer.place, "has a range of prices (lowPrice to highPrice), not the offers one by one")
        return [(offer.node, low_key, low, offer.place)]
    key, value = prop(offer.node, "priceSpecification")
    specified = []
    for place, item in nodes_of(value, offer.place.at(key)):
        node = document.resolved(item) if isinstance(item, dict) else {}
        inner_key, inner = prop(node, "price")
        if inner is not None:
            specified.append((node, inner_key, inner, place))
    return specified


def _same_number(one: object, other: object) -> bool:
    try:
        return Decimal(text_of(one) or "") == Decimal(text_of(other) or "")
    except ArithmeticError:
        return one == other


def _window(offer: _Offer, sale: Sale) -> tuple[datetime | None, datetime]:
    """When the offer holds: valid and available, and over when the event is where it does not say."""
    starts = [_moment(offer, name, sale.zone, is_end=False) for name in ("validFrom", "availabilityStarts")]
    ends = [_moment(offer, name, sale.zone, is_end=True) for name in ("validThrough", "availabilityEnds")]
    opens_at = max((each for each in starts if each is not None), default=None)
    closes_at = min((each for each in ends if each is not None), default=sale.closes_at)
    if opens_at is not None and closes_at <= opens_at:
        raise Untakable(offer.place, "would close before it opens")
    return opens_at, closes_at


def _moment(offer: _Offer, name: str, zone: str, *, is_end: bool) -> datetime | None:
    key, value = prop(offer.node, name)
    text = text_of(value)
    if text is None:
        return None
    try:
        moment = read_moment(text, zone)
    except ValueError as error:
        raise Untakable(offer.place.at(key), f"{name} {error}") from error
    return end_of_day(moment, zone) if is_end and moment.is_date else moment.at


def _total(document: Document, event: Node, place: Place) -> int | None:
    """How many tickets the event has in all, if it or its place says so."""
    for name in ("remainingAttendeeCapacity", "maximumAttendeeCapacity"):
        count = _count(document, event, name, place)
        if count is not None:
            return count
    key, location = prop(event, "location")
    location = only(location)
    node = document.resolved(location) if isinstance(location, dict) else {}
    return _count(document, node, "maximumAttendeeCapacity", place.at(key))


def _count(document: Document, node: Node, name: str, place: Place) -> int | None:
    key, value = prop(node, name)
    value = only(value)
    if isinstance(value, dict):
        value = only(prop(document.resolved(value), "value")[1])
    if value is None:
        return None
    try:
        return read_count(value)
    except ValueError as error:
        raise Untakable(place.at(key), f"{name} {error}") from error


def _settled(tiers: list[_Tier], total: int | None, place: Place, house: House) -> list[TierFields]:
    """With a capacity, a currency and a name for each."""
    currencies = {tier.price.currency for tier in tiers if tier.price.currency is not None}
    if len(currencies) > 1:
        raise Untakable(place, f"has offers in several currencies ({', '.join(sorted(currencies))})")
    currency = currencies.pop() if currencies else house.currency
    try:
        capacities = share_capacity([tier.tickets for tier in tiers], total, house.default_capacity)
    except ValueError as error:
        raise Untakable(place, str(error)) from error
    return with_names_of_their_own(
        [
            TierFields(
                name=tier.name,
                price_amount=tier.price.amount,
                currency=currency,
                capacity=capacity,
                opens_at=tier.opens_at,
                closes_at=tier.closes_at,
            )
            for tier, capacity in zip(tiers, capacities, strict=True)
        ]
    )
