"""What real catalogues say, and what is read from them: JSON-LD in its many shapes, saved pages, CSV."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from holdfast.tickets.event_fields import TierFields
from holdfast.tickets.importing import Format
from holdfast.tickets.importing.outcomes import Candidate, Found, House
from holdfast.tickets.importing.reading import read_catalogue
from ticket_house import CATALOGUES

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


def test_a_saved_concert_page() -> None:
    found = read((CATALOGUES / "concert.html").read_bytes())
    (event,) = found.candidates
    assert event.fields is not None
    assert event.name == "The Tidal Lanterns & Friends"
    assert event.fields.description == "Two sets, one storm.\nDoors\nat 19:00 – bring a coat."
    assert event.fields.venue_address == "Uferweg 4, Berlin, 10243, DE"
    assert (event.starts_at, event.fields.time_zone) == (datetime(2027, 5, 14, 18, tzinfo=UTC), "+02:00")
    # A tier that is sold out elsewhere has no tickets here.
    assert [(tier.name, tier.price_amount, tier.capacity) for tier in event.tiers] == [
        ("Standing", 3250, 650),
        ("Balcony", 4800, 0),
    ]
    assert [(remark.line, remark.pointer) for remark in found.refused] == [(13, None), (15, "/offers/2/price")]


def test_a_festivals_graph() -> None:
    found = read((CATALOGUES / "festival.jsonld").read_bytes())
    assert [(event.name, event.standing, len(event.tiers)) for event in found.candidates] == [
        ("Harbourfest 2027", "scheduled", 2),
        ("Opening night", "scheduled", 1),
        ("Closing night", "cancelled", 0),
    ]
    festival = found.candidates[0].fields
    assert festival is not None
    assert festival.venue_name == "Pier 2 Arts Center"
    # Its last day is included.
    assert festival.ends_at == datetime(2027, 7, 4, 16, tzinfo=UTC)
    assert [(remark.pointer, remark.reason) for remark in found.refused] == [("/@graph/2/subEvent/2", "has no offers")]


def test_the_array_of_an_events_api() -> None:
    found = read((CATALOGUES / "events-api.json").read_bytes())
    assert [(event.name, [tier.capacity for tier in event.tiers]) for event in found.candidates] == [
        ("Dragons v. Eagles", [5001, 5000]),
        ("Hamlet", [320]),
        ("Hamlet", [320]),
        ("Museum late", [100, 40]),
    ]
    assert [remark.pointer for remark in found.refused] == ["/3/startDate"]
    assert [tier.name for tier in found.candidates[3].tiers] == ["Museum late (20.00 USD)", "Museum late (35.00 USD)"]


def test_a_csv_with_chinese_names() -> None:
    found = read((CATALOGUES / "summer.csv").read_bytes())
    assert [(event.name, [(tier.name, tier.price_amount) for tier in event.tiers]) for event in found.candidates] == [
        ("海風之夜，夏季場", [("搖滾區", 320_000), ("看台", 160_000)]),
        ("爵士早午餐", [("爵士早午餐", 0)]),
    ]
    assert [remark.line for remark in found.refused] == [7, 8, 9]
    assert [remark.line for remark in found.notes] == [1]


@pytest.mark.parametrize(
    "wrapped",
    [
        EVENT,
        [EVENT],
        {"@graph": [{"@type": "Organization"}, EVENT]},
        {"@type": "ItemList", "itemListElement": [{"@type": "ListItem", "position": 1, "item": EVENT}]},
        {"@type": "WebPage", "mainEntity": EVENT},
        {"@type": "Place", "event": [EVENT]},
        {"@type": "EventSeries", "name": "Tour", "subEvent": [EVENT]},
        EVENT | {"@type": "MusicEvent"},
        EVENT | {"@type": ["Thing", "schema:TheaterEvent"]},
        EVENT | {"@type": "https://schema.org/Festival"},
        EVENT | {"superEvent": {"@type": "Event", "name": "Not this one"}},
        [EVENT, EVENT],
        {
            "@type": "http://schema.org/Event",
            "http://schema.org/name": [{"@value": "Concert", "@language": "en"}],
            "http://schema.org/startDate": [{"@type": "http://schema.org/Date", "@value": "2027-03-01T11:30Z"}],
            "http://schema.org/offers": [{"https://schema.org/price": [{"@value": 800}], "priceCurrency": "TWD"}],
            "http://schema.org/maximumAttendeeCapacity": [{"@value": 100}],
        },
    ],
)
def test_an_event_is_found_in_every_wrapping(wrapped: Any) -> None:
    event = one(wrapped)
    assert (event.name, event.starts_at) == ("Concert", datetime(2027, 3, 1, 11, 30, tzinfo=UTC))
    assert [(tier.name, tier.price_amount, tier.capacity) for tier in event.tiers] == [("Concert", 80_000, 100)]


@pytest.mark.parametrize(
    ("start", "at", "zone"),
    [
        ("2027-03-01T19:30:00+08:00", "2027-03-01T11:30:00", "+08:00"),
        ("2027-03-01T19:30:00.123456789-03:30", "2027-03-01T23:00:00.123456", "-03:30"),
        ("2027-03-01T19:30+0100", "2027-03-01T18:30:00", "+01:00"),
        ("2027-03-01T19:30Z", "2027-03-01T19:30:00", "UTC"),
        ("2027-03-01 19:30", "2027-03-01T11:30:00", "Asia/Taipei"),
        ("2027-03-01", "2027-02-28T16:00:00", "Asia/Taipei"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00", "UTC"),
    ],
)
def test_a_start_keeps_its_offset(start: str, at: str, zone: str) -> None:
    event = one(EVENT | {"startDate": start})
    assert event.fields is not None
    assert (event.fields.starts_at, event.fields.time_zone) == (datetime.fromisoformat(at).replace(tzinfo=UTC), zone)


@pytest.mark.parametrize(
    "start",
    ["2027-02-29", "2027-03-01T24:00", "2027-03-01T19:30:60Z", "2027-03", "01.03.2027", "2027-03-01T19:30+19:00",
     "1969-12-31T23:00Z", "9999-12-31T23:59-12:00", "0000-01-01", "２０２７-03-01", 1_800_000_000, None, {}, [], True],
)  # fmt: skip
def test_what_is_no_start(start: Any) -> None:
    assert "startDate" in refusal(EVENT | {"startDate": start})[1]


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


@pytest.mark.parametrize(
    ("status", "standing"),
    [
        ("https://schema.org/EventScheduled", "scheduled"),
        ("EventRescheduled", "scheduled"),
        (["schema:EventRescheduled", "schema:EventMovedOnline"], "scheduled"),
        ({"@id": "http://schema.org/EventPostponed"}, "postponed"),
        ("EventCancelled", "cancelled"),
        ("Canceled", "cancelled"),
        (["EventPostponed", "EventCancelled"], "cancelled"),
    ],
)
def test_what_became_of_an_event(status: Any, standing: str) -> None:
    event = one(EVENT | {"eventStatus": status})
    assert event.standing == standing
    assert bool(event.tiers) == (standing == "scheduled")


def test_a_cancelled_event_needs_no_more_than_a_name() -> None:
    event = one({"@type": "Event", "@id": "https://x.example/1", "name": "Off", "eventStatus": "EventCancelled"})
    assert (event.standing, event.starts_at, event.key) == ("cancelled", None, "id:https://x.example/1")
    assert "unknown" in refusal(EVENT | {"eventStatus": "EventInDoubt"})[1]


@pytest.mark.parametrize(
    ("location", "venue"),
    [
        ("Hall", ("Hall", "")),
        ({"@type": "Place", "name": "Hall", "address": "Street 1"}, ("Hall", "Street 1")),
        ({"@type": "Place", "address": {"streetAddress": "1", "addressCountry": {"name": "DE"}}}, ("", "1, DE")),
        ({"@type": "VirtualLocation", "url": "https://x.example"}, ("Online", "")),
        ([{"@type": "VirtualLocation"}, {"@type": "Place", "name": "Hall"}], ("Hall", "")),
        ({"@id": "#nowhere"}, ("", "")),
        (None, ("", "")),
        (["A", "B"], ("A", "")),
        ({"name": "x" * 300}, ("x" * 199 + "…", "")),
    ],
)
def test_where_it_takes_place(location: Any, venue: tuple[str, str]) -> None:
    fields = one(EVENT | {"location": location}).fields
    assert fields is not None
    assert (fields.venue_name, fields.venue_address) == venue


@pytest.mark.parametrize(
    ("identity", "key"),
    [
        ({"@id": "https://x.example/#e", "url": "https://x.example/"}, "id:https://x.example/#e"),
        ({"@id": "#event", "url": "https://x.example/"}, "url:https://x.example/"),
        ({"@id": "_:b0", "identifier": "881"}, "identifier:881"),
        ({"identifier": {"@type": "PropertyValue", "value": 881}}, "identifier:881"),
        ({"@id": "https://x.example/\ud800", "identifier": "1"}, "identifier:1"),
    ],
)
def test_what_an_event_is_known_by(identity: dict[str, Any], key: str) -> None:
    assert one(EVENT | identity).key == key


def test_one_event_told_twice() -> None:
    known = EVENT | {"url": "https://x.example/"}
    found = read([known, known | {"name": "Otherwise"}])
    assert [event.name for event in found.candidates] == ["Concert"]
    assert [(remark.pointer, "says otherwise" in remark.reason) for remark in found.refused] == [("/1", True)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Rock &amp; Roll", "Rock & Roll"),
        ("<b>Loud</b> &lt;i&gt;night&lt;/i&gt;", "Loud night"),
        ("3 < 5\n  & 7 > 6", "3 < 5 & 7 > 6"),
        ({"@value": "Named", "@language": "en"}, "Named"),
    ],
)
def test_names_as_people_read_them(name: Any, expected: str) -> None:
    assert one(EVENT | {"name": name}).name == expected


@pytest.mark.parametrize("name", ["", "  ", None, "<br>", "x" * 201, "nul\0", "\ud800", {}, True])
def test_what_is_no_name(name: Any) -> None:
    assert "name" in refusal(EVENT | {"name": name})[1]


def test_a_long_description_is_cut() -> None:
    fields = one(EVENT | {"description": "x" * 30_000}).fields
    assert fields is not None
    assert len(fields.description) == 20_000


def test_an_end_before_the_start_is_left_out() -> None:
    found = read(EVENT | {"endDate": "2027-02-01"})
    assert found.candidates[0].fields is not None
    assert found.candidates[0].fields.ends_at is None
    assert [remark.pointer for remark in found.notes] == ["/endDate"]


def test_offers_in_two_currencies() -> None:
    assert "currencies" in refusal(EVENT | {"offers": [OFFER, OFFER | {"priceCurrency": "EUR"}]})[1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not JSON"),
        (b"[1, NaN]", "is not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b"[" + b"9" * 5_000 + b"]", "is not JSON"),
        (b'{"name": "\xff"}', "not in UTF-8"),
        (b'{"@type": "Organization"}', "no schema.org Event"),
        (b"<html></html>", "no script"),
        (b'<script type="application/ld+json">{}</script>', "no schema.org Event"),
        (b"", "empty"),
        (b"\xef\xbb\xbf\r\n", "empty"),
        (b"name;price\n", "no column starts_at, capacity"),
        (b"name;starts_at;price;capacity\n;;;\n", "no row"),
        (b'{"@type": "Event", "subEvent": 1}', "no schema.org Event"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "more than 1000000 objects"),
        (b"name,starts_at,price,capacity\n" + b"E,2027-03-01,1,\n" * 10_001, "after 10000 refusals"),
        (b"name,name,starts_at,price,capacity\n", "more than one column name"),
    ],
)
def test_a_file_that_is_no_catalogue(content: bytes, reason: str) -> None:
    found = read(content)
    assert found.candidates == []
    assert reason in found.refused[-1].reason


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_csv_as_spreadsheets_write_it(delimiter: str, encoding: str, line_end: str) -> None:
    lines = [
        ["Name", " Starts at", "Price", "CAPACITY"],
        ["音樂會", "2027-03-01T19:30", '"800.00"', "100"],
        [],
        [""] * 4,
    ]
    text = line_end.join(delimiter.join(cells) for cells in lines)
    event = one(text.encode(encoding), kind="csv")
    assert (event.name, event.tiers[0].price_amount, event.tiers[0].currency) == ("音樂會", 80_000, "TWD")


def test_a_file_has_so_many_rows() -> None:
    found = read(f"{HEADER}\n" + "E,2027-03-01,1,1\n" + "\n".join(f"E{n},2027-03-01,1,1" for n in range(100_001)))
    assert len(found.candidates) == 50_000
    assert [remark.reason for remark in found.refused] == ["after 50000 events the rest was not read"]


def test_rows_with_an_id_are_one_event() -> None:
    text = (
        "id,name,starts_at,tier,price,currency,capacity\n"
        "7,Concert,2027-03-01,A,10,EUR,5\n"
        "7,,,B,20,EUR,6\n"
        "7,Concert,2027-03-02,C,20,EUR,6\n"
        "7,,,A,20,EUR,6\n"
        "7,,,D,20,USD,6\n"
        "8,Concert,2027-03-01,A,10,EUR,5\n"
    )
    found = read(text)
    assert [(event.key, [tier.name for tier in event.tiers]) for event in found.candidates] == [
        ("id:7", ["A", "B"]),
        ("id:8", ["A"]),
    ]
    assert [remark.line for remark in found.refused] == [4, 5, 6]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",2027-03-01,1,1", "name"),
        ("x,,1,1", "starts_at"),
        ("x,2027-03-01,,1", "price"),
        ("x,2027-03-01,1,", "capacity"),
        ("x,2027-03-01,1,-1", "capacity"),
        ("x,2027-03-01,1,999999999", "capacity"),
        ("x,2027-03-01,1,1,1", "cells"),
        ('x,2027-03-01,"1,1', "quoted"),
        ("x\0,2027-03-01,1,1", "name"),
        ("x,2027-03-01", "price"),
    ],
)
def test_a_bad_row_is_told_by_its_line(row: str, reason: str) -> None:
    found = read(f"{HEADER}\nGood,2027-03-01,1,1\n{row}\nLast,2027-03-01,1,1\n")
    assert [event.name for event in found.candidates] == ["Good", "Last"]
    assert [remark.line for remark in found.refused] == [3]
    assert reason in found.refused[0].reason


def test_a_row_in_another_encoding_is_told_by_its_line() -> None:
    found = read(f"{HEADER}\nGood,2027-03-01,1,1\n".encode() + "壞,2027-03-01,1,1\n".encode("big5"))
    assert [event.name for event in found.candidates] == ["Good"]
    assert [(remark.line, "Unicode" in remark.reason) for remark in found.refused] == [(3, True)]


def test_a_csv_zone_and_offset() -> None:
    text = f"{HEADER},time_zone,status\nA,2027-07-01T19:30,1,1,Europe/Berlin,\nB,2027-07-01T19:30Z,1,1,Europe/Berlin,\n"
    berlin, utc = read(text).candidates
    assert berlin.starts_at == datetime(2027, 7, 1, 17, 30, tzinfo=UTC)
    assert utc.starts_at == datetime(2027, 7, 1, 19, 30, tzinfo=UTC)
    assert [event.fields.time_zone for event in (berlin, utc) if event.fields] == ["Europe/Berlin", "Europe/Berlin"]
