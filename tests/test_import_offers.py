"""Offers as tiers: prices, numbers and sale windows that are certain are taken, all others refused."""

from datetime import UTC, datetime
from typing import Any

import pytest

from catalogue_reading import EVENT, OFFER, one, read, refusal, tiers
from holdfast.tickets.importing.outcomes import House


@pytest.mark.parametrize(
    ("offer", "amount"),
    [
        ({"price": 800}, 80_000),
        ({"price": 800.5}, 80_050),
        ({"price": "800.50"}, 80_050),
        ({"price": "1,200"}, 120_000),
        ({"price": "1,200.00"}, 120_000),
        ({"price": "1.200,00"}, 120_000),
        ({"price": "12,50"}, 1_250),
        ({"price": "1 200"}, 120_000),
        ({"price": "1\u00a0200,50"}, 120_050),
        ({"price": "NT$1,200"}, 120_000),
        ({"price": "1200 TWD"}, 120_000),
        ({"price": "１２００元"}, 120_000),
        ({"price": "$800"}, 80_000),
        ({"price": "Free", "priceCurrency": None}, 0),
        ({"price": 0, "priceCurrency": None}, 0),
        ({"price": "NT$1,200", "priceCurrency": None}, 120_000),
        ({"price": None, "priceSpecification": {"price": "5", "priceCurrency": "TWD"}}, 500),
        ({"price": None, "lowPrice": 800}, 80_000),
        ({"price": None, "lowPrice": "800", "highPrice": 800.0}, 80_000),
    ],
)
def test_a_price(offer: dict[str, Any], amount: int) -> None:
    (tier,) = tiers(offers=OFFER | offer)
    assert (tier.price_amount, tier.currency) == (amount, "TWD")


@pytest.mark.parametrize(
    ("currency", "price", "amount"),
    [
        ("JPY", "1200", 1200),
        ("JPY", "1200.00", 1200),
        ("KWD", "1.200", 1200),
        ("USD", "US$0.99", 99),
        ("eur", "€5", 500),
    ],
)
def test_minor_units_are_the_currencys(currency: str, price: str, amount: int) -> None:
    (tier,) = tiers(offers=OFFER | {"price": price, "priceCurrency": currency})
    assert (tier.price_amount, tier.currency) == (amount, currency.upper())


@pytest.mark.parametrize(
    "offer",
    [
        {"price": "1.200"},
        {"price": "1,200", "priceCurrency": "KWD"},
        {"price": "12.345"},
        {"price": 12.345},
        {"price": "1200.50", "priceCurrency": "JPY"},
        {"price": "-5"},
        {"price": -5},
        {"price": "10-20"},
        {"price": "from 10"},
        {"price": "1,20,0"},
        {"price": "1200,000"},
        {"price": "€12"},
        {"price": "$12", "priceCurrency": None},
        {"price": 12, "priceCurrency": None},
        {"price": 12, "priceCurrency": "NTD"},
        {"price": True},
        {"price": [1, 2]},
        {"price": "9" * 65},
        {"price": 10**30},
        {"price": 10**11},
        {"price": None},
        {"price": None, "lowPrice": 800, "highPrice": 1200},
        {"price": None, "priceSpecification": [{"price": 5}, {"price": 6}]},
        {"validFrom": "2027-02-01", "validThrough": "2027-01-01"},
        {"validFrom": "soon"},
        {"inventoryLevel": "plenty"},
        {"inventoryLevel": -1},
        {"inventoryLevel": 1.5},
        {"name": "x" * 201},
        {"name": "nul\0"},
    ],
)
def test_an_offer_that_is_not_certain_is_refused(offer: dict[str, Any]) -> None:
    found = read(EVENT | {"offers": [OFFER | {"name": "Good"}, OFFER | {"name": "Bad"} | offer]})
    assert [tier.name for tier in found.candidates[0].tiers] == ["Good"]
    (remark,) = found.refused
    assert (remark.pointer or "").startswith("/offers/1")
    alone = read(EVENT | {"offers": OFFER | offer})
    assert alone.candidates == []
    assert alone.refused[-1].reason == "none of its offers can be taken"


def test_sale_windows() -> None:
    (tier,) = tiers(
        offers=OFFER
        | {"validFrom": "2027-01-01", "availabilityStarts": "2027-01-02T10:00", "validThrough": "2027-02-01"}
    )
    # In the zone of the event; both must hold; a last day is included.
    assert tier.opens_at == datetime(2027, 1, 2, 2, tzinfo=UTC)
    assert tier.closes_at == datetime(2027, 2, 1, 16, tzinfo=UTC)
    assert tiers()[0].closes_at == datetime(2027, 3, 1, 11, 30, tzinfo=UTC)
    assert tiers(endDate="2027-03-01T22:00+08:00")[0].closes_at == datetime(2027, 3, 1, 14, tzinfo=UTC)
    assert tiers(startDate="2027-03-01")[0].closes_at == datetime(2027, 3, 1, 16, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stated", "event", "expected"),
    [
        ([100, 50], {}, [100, 50]),
        ([{"@type": "QuantitativeValue", "value": "1,000"}], {}, [1000]),
        ([None], {"maximumAttendeeCapacity": 500}, [500]),
        ([None], {"maximumAttendeeCapacity": 500, "remainingAttendeeCapacity": 7}, [7]),
        ([None, 400], {"maximumAttendeeCapacity": 500}, [100, 400]),
        ([None, None, None], {"maximumAttendeeCapacity": 500}, [167, 167, 166]),
        ([None, None], {"location": {"@type": "Place", "maximumAttendeeCapacity": 10}}, [5, 5]),
        ([0], {}, [0]),
    ],
)
def test_how_many_tickets(stated: list[Any], event: dict[str, Any], expected: list[int]) -> None:
    offers = [OFFER | {"name": f"T{index}", "inventoryLevel": level} for index, level in enumerate(stated)]
    assert [tier.capacity for tier in tiers(offers=offers, **event)] == expected


def test_a_number_of_tickets_is_never_made_up() -> None:
    silent = EVENT | {"offers": OFFER | {"inventoryLevel": None}}
    assert "default capacity" in refusal(silent)[1]
    house = House(time_zone="UTC", currency="TWD", hold_seconds=1, tickets_per_user_max=1, default_capacity=40)
    assert one(silent, house=house).tiers[0].capacity == 40
    assert "only 50" in refusal(EVENT | {"maximumAttendeeCapacity": 50})[1]
    assert "more than" in refusal(EVENT | {"offers": OFFER | {"inventoryLevel": 10**9}})[1]


def test_free_events() -> None:
    (tier,) = tiers(offers=None, isAccessibleForFree="https://schema.org/True", maximumAttendeeCapacity=30)
    assert (tier.name, tier.price_amount, tier.currency, tier.capacity) == ("Concert", 0, "TWD", 30)
    assert tiers(isAccessibleForFree=True)[0].price_amount == 80_000
    (tier,) = tiers(isAccessibleForFree=True, offers={"@type": "Offer", "inventoryLevel": 5})
    assert (tier.price_amount, tier.capacity) == (0, 5)


def test_offers_in_two_currencies() -> None:
    assert "currencies" in refusal(EVENT | {"offers": [OFFER, OFFER | {"priceCurrency": "EUR"}]})[1]
