"""Whatever bytes arrive, reading them ends with candidates that are valid and remarks, and never raises."""

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.tickets.event_fields import CAPACITY_MAX, PRICE_AMOUNT_MAX
from holdfast.tickets.event_fields.moments import FIRST, LAST, read_moment
from holdfast.tickets.importing import Format
from holdfast.tickets.importing.csv_rows import COLUMNS
from holdfast.tickets.importing.outcomes import Found, House
from holdfast.tickets.importing.prices import read_price
from holdfast.tickets.importing.reading import read_catalogue

HOUSE = House(time_zone="Asia/Taipei", currency="TWD", hold_seconds=600, tickets_per_user_max=4)

WORDS = [
    "Event", "schema:MusicEvent", "EventCancelled", "EventPostponed", "Offer", "AggregateOffer", "Place", "#a",
    "2027-03-01T19:30:00+08:00", "2027-03-01", "9999-12-31T23:59:59-15:59", "TWD", "KWD", "1,200.00", "1.200", "NT$5",
    "free", "VirtualLocation", "https://x.example", "http://[", "<script>", "-->", "SoldOut", "\0", "\ud800", "", "true"
]  # fmt: skip
KEYS = [
    "@type", "@id", "@graph", "@value", "@list", "name", "startDate", "endDate", "eventStatus", "location", "address",
    "offers", "price", "lowPrice", "highPrice", "priceCurrency", "priceSpecification", "validFrom", "validThrough",
    "inventoryLevel", "value", "maximumAttendeeCapacity", "isAccessibleForFree", "subEvent", "superEvent", "url",
    "identifier", "description", "availability", "schema:name", "https://schema.org/offers",
]  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-5, 2_000)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(max_size=20)
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner),
    max_leaves=30,
)
events = st.fixed_dictionaries(
    {
        "@type": st.just("Event"),
        "name": st.just("E") | documents,
        "startDate": st.sampled_from(WORDS[8:11]) | documents,
    },
    optional={key: documents for key in KEYS if key not in ("@type", "name", "startDate")}
    | {"offers": st.fixed_dictionaries({"price": scalars}, optional=dict.fromkeys(KEYS[13:21], scalars))},
)
cells = st.sampled_from([word for word in WORDS if word != "\ud800"]) | st.text(max_size=10)


def check(found: Found) -> None:
    """What a candidate promises to those who write it."""
    for event in found.candidates:
        assert 1 <= len(event.name) <= 200
        assert (event.fields is not None and bool(event.tiers)) == (event.standing == "scheduled")
        for tier in event.tiers:
            assert 0 <= tier.price_amount <= PRICE_AMOUNT_MAX
            assert 0 <= tier.capacity <= CAPACITY_MAX
            assert tier.opens_at is None or tier.closes_at is None or tier.opens_at < tier.closes_at
        assert len({tier.name for tier in event.tiers}) == len(event.tiers)
        assert len({tier.currency for tier in event.tiers}) <= 1
        if event.fields is not None:
            assert FIRST <= event.fields.starts_at < LAST
            text = "".join(
                [event.key, event.name, event.fields.description, event.fields.venue_name, event.fields.venue_address]
            )
            assert "\0" not in text + "".join(tier.name for tier in event.tiers)
            text.encode()
        event.digest()


def read(data: bytes, kind: Format | None) -> Found:
    found = read_catalogue(data, kind, HOUSE)
    check(found)
    return found


@settings(max_examples=6000, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([None, "json", "html", "csv"]))
def test_arbitrary_bytes(data: bytes, kind: Format | None) -> None:
    read(data, kind)


@settings(max_examples=6000, deadline=None)
@given(documents | events | st.lists(events, max_size=3))
def test_arbitrary_documents(document: Any) -> None:
    found = read(json.dumps(document).encode(), "json")
    # Nothing passes in silence.
    assert found.candidates or found.refused


@settings(max_examples=6000, deadline=None)
@given(st.lists(events | st.text(max_size=20), max_size=3), st.text(max_size=10), st.integers(0, 400))
def test_arbitrary_pages(scripts: list[Any], between: str, cut: int) -> None:
    page = between.join(f'<script type="application/ld+json">{json.dumps(each)}</script>' for each in scripts)
    read(page.encode("utf-8", "surrogatepass"), "html")
    read(page[:-cut].encode("utf-8", "surrogatepass"), "html")


@settings(max_examples=6000, deadline=None)
@given(
    st.lists(st.sampled_from(COLUMNS), unique=True, max_size=16),
    st.lists(st.lists(cells, max_size=17), max_size=5),
    st.sampled_from(",;\t"),
    st.booleans(),
)
def test_arbitrary_tables(columns: list[str], rows: list[list[str]], delimiter: str, is_complete: bool) -> None:
    header = list(COLUMNS) if is_complete else columns
    text = "\n".join(delimiter.join(row) for row in [header, *rows])
    read(text.encode("utf-8", "surrogatepass"), "csv")


@settings(max_examples=6000, deadline=None)
@given(
    st.text(max_size=40) | st.from_regex(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)?", fullmatch=True)
)
def test_a_moment_is_sane_or_refused(text: str) -> None:
    try:
        moment = read_moment(text, "America/New_York")
    except ValueError:
        return
    assert FIRST <= moment.at < LAST
    assert moment.at.tzinfo is UTC


@settings(max_examples=6000, deadline=None)
@given(st.datetimes(datetime(1971, 1, 1), datetime(9998, 12, 30)))  # noqa: DTZ001
def test_a_moment_that_is_written_is_read_again(naive: datetime) -> None:
    moment = naive.replace(tzinfo=UTC)
    assert read_moment(moment.isoformat(), "Asia/Taipei").at == moment


@settings(max_examples=6000, deadline=None)
@given(
    scalars | st.text("0123456789.,' $€", max_size=12), st.none() | st.sampled_from(["TWD", "JPY", "KWD", "EUR", "x"])
)
def test_a_price_is_sane_or_refused(value: Any, currency: str | None) -> None:
    try:
        price = read_price(value, currency)
    except ValueError:
        return
    assert 0 <= price.amount <= PRICE_AMOUNT_MAX
    assert price.currency is not None or price.amount == 0
