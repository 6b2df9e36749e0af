"""What real catalogues say about their events, and what is read from it: JSON-LD in its many shapes, saved pages."""

from datetime import UTC, datetime
from typing import Any

import pytest

from catalogue_reading import EVENT, one, read, refusal
from ticket_house import CATALOGUES


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
