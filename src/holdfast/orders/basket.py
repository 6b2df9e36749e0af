"""What a purchase asks for, worked out once for all who ask for the same: in a rush almost everyone does."""

from hashlib import blake2b
from uuid import UUID

import msgspec

from holdfast import ids
from holdfast.errors import Fault, Invalid, refuse
from holdfast.gate.gate import Want
from holdfast.orders.order import CreateOrder, Line, Money
from holdfast.tickets.sale import Sale


class Basket(msgspec.Struct, frozen=True, eq=False):
    """One event and how many of which tiers. Compared and hashed by identity."""

    event_id: UUID
    tier_ids: tuple[UUID, ...]
    quantities: tuple[int, ...]
    tickets: int
    fingerprint: bytes


class Offer(msgspec.Struct, frozen=True, eq=False):
    """A basket at the prices and limits of one snapshot of its sale. Compared and hashed by identity."""

    basket: Basket
    sale: Sale
    unit_prices: tuple[int, ...]
    total_amount: int
    currency: str
    is_beyond_limit: bool
    """More tickets than one person may have."""
    shown_event_id: str
    lines: list[Line]
    total: Money
    want: Want

    def refusal(self) -> str | None:
        """The code under which nobody may buy this now, or None."""
        return self.sale.refusal(self.basket.tier_ids) or ("user_limit_reached" if self.is_beyond_limit else None)


def basket_of(asked: CreateOrder) -> Basket:
    """The basket that a body asks for. Raises Invalid for ids that are none, and for a tier that stands there twice."""
    event_id = ids.decode(ids.EVENT, asked.event_id)
    if event_id is None:
        raise Invalid(Fault("/event_id", "This is not the id of an event."))
    tier_ids: list[UUID] = []
    for index, line in enumerate(asked.lines):
        tier_id = ids.decode(ids.TIER, line.tier_id)
        if tier_id is None:
            raise Invalid(Fault(f"/lines/{index}/tier_id", "This is not the id of a tier."))
        if tier_id in tier_ids:
            raise Invalid(Fault(f"/lines/{index}/tier_id", "This tier stands in the order already."))
        tier_ids.append(tier_id)
    quantities = tuple(line.quantity for line in asked.lines)
    return Basket(event_id, tuple(tier_ids), quantities, sum(quantities), fingerprint("create", asked))


def offer_of(basket: Basket, sale: Sale) -> Offer:
    """The basket in this sale. Raises not_found for a tier of another event, and Invalid for two currencies."""
    tiers = []
    for index, tier_id in enumerate(basket.tier_ids):
        tier = sale.tiers.get(tier_id)
        if tier is None:
            raise refuse("not_found", f"The event has no such tier (/lines/{index}/tier_id).")
        tiers.append(tier)
    currency = tiers[0].currency
    if any(tier.currency != currency for tier in tiers):
        raise Invalid(Fault("/lines", "The tiers of one order must have one currency."))
    prices = tuple(tier.price_amount for tier in tiers)
    bought = list(zip(basket.tier_ids, basket.quantities, strict=True))
    total = sum(price * quantity for price, quantity in zip(prices, basket.quantities, strict=True))
    return Offer(
        basket=basket,
        sale=sale,
        unit_prices=prices,
        total_amount=total,
        currency=currency,
        is_beyond_limit=basket.tickets > sale.tickets_per_user_max,
        shown_event_id=ids.encode(ids.EVENT, basket.event_id),
        lines=[
            Line(ids.encode(ids.TIER, tier_id), quantity, Money(price, currency))
            for (tier_id, quantity), price in zip(bought, prices, strict=True)
        ],
        total=Money(total, currency),
        want=[sale.tickets_per_user_max, *(part for tier_id, quantity in bought for part in (tier_id.hex, quantity))],
    )


def fingerprint(operation: str, decoded: msgspec.Struct, *path: UUID) -> bytes:
    """What makes a request the same one again: its operation, the ids of its path and its decoded body."""
    digest = blake2b(operation.encode(), digest_size=16)
    for part in path:
        digest.update(part.bytes)
    digest.update(msgspec.json.encode(decoded))
    return digest.digest()
