"""A catalogue as CSV: a header row, then one row for each tier. Rows with the same id, or else of the same name, start
and venue, are one event.

    name*            the event's                       tier             its name; empty: the event's
    starts_at*       2026-12-31T19:30, with or         price*           1200, 1,200.00, NT$1,200, free
                     without an offset                 currency         ISO 4217; empty: the house's
    ends_at          likewise; a date includes it      capacity*        tickets of this tier
    time_zone        IANA; empty: the offset's, or     sale_starts_at   as starts_at
                     the house's                       sale_ends_at     as ends_at; empty: the event's end
    venue, address   texts                             status           scheduled, cancelled, postponed
    description      text                              id               what your catalogue knows the event by; the
    url              http or https                                      url, or name, start and venue, where it is empty

Columns with * must be there (capacity need not, with a default capacity); others are looked over. In a file with ids
only an event's first row must say what belongs to the event. Comma, semicolon or tab, whichever the header has most of.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import NamedTuple

from holdfast.tickets.event_fields import CAPACITY_MAX, TIERS_MAX, EventFields, TierFields
from holdfast.tickets.event_fields.moments import Moment, checked_zone, end_of_day, read_moment
from holdfast.tickets.event_fields.texts import (
    ADDRESS_LENGTH_MAX,
    DESCRIPTION_LENGTH_MAX,
    NAME_LENGTH_MAX,
    web_address,
)
from holdfast.tickets.importing.jsonld_event import read_standing
from holdfast.tickets.importing.outcomes import Candidate, Found, House, Place, Standing, Untakable, key_of_content
from holdfast.tickets.importing.prices import read_count, read_price
from holdfast.tickets.importing.texts import cut, plain_line, plain_lines

COLUMNS = (
    "id", "name", "description", "venue", "address", "url", "starts_at", "ends_at", "time_zone", "status",
    "tier", "price", "currency", "capacity", "sale_starts_at", "sale_ends_at",
)  # fmt: skip
_REQUIRED = ("name", "starts_at", "price", "capacity")
_DELIMITERS = ",;\t"
# A row goes on over so many lines at most: a quote that nobody closed must not swallow the file.
_ROW_LINES_MAX = 200
_ROWS_MAX = 100_000

Row = dict[str, str]


class _Rows(NamedTuple):
    """One event's rows with their lines."""

    lines: list[int]
    rows: list[Row]


def read_csv(text: str, house: House, found: Found) -> None:
    """Adds the events of a CSV file to what was found."""
    records = _records(text, found)
    header = next(records, None)
    if header is None:
        found.refuse(Place(1), "the file is empty")
        return
    columns = [_column(cell) for cell in header[1]]
    if not _usable(columns, header[0], house, found):
        return
    groups = _grouped(islice(records, _ROWS_MAX), columns, found)
    if not groups and not found.refused:
        found.refuse(Place(header[0]), "there is no row below the header")
    for group in groups:
        _read_event(group, house, found)
    if (rest := next(records, None)) is not None:
        found.refuse(Place(rest[0]), f"the file has more than {_ROWS_MAX} rows: from here on it was not read")


def _records(text: str, found: Found) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line that it begins in. Badly quoted ones are reported."""
    lines = list(io.StringIO(text, newline=""))
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=re.sub(r'"[^"]*"', "", first).count)
    index = 0
    while index < len(lines):
        if not lines[index].strip(" \t\r\n,;"):
            index += 1
            continue
        reader = csv.reader(
            map(lines.__getitem__, range(index, min(index + _ROW_LINES_MAX, len(lines)))),
            delimiter=delimiter,
            strict=True,
        )
        try:
            cells = next(reader)
        except csv.Error as error:
            found.refuse(Place(index + 1), f"the row is badly quoted: {error}")
            index += 1
            continue
        yield index + 1, cells
        index += reader.line_num


def _column(cell: str) -> str:
    return re.sub(r"[\s-]+", "_", unicodedata.normalize("NFKC", cell).strip().casefold())


def _usable(columns: list[str], line: int, house: House, found: Found) -> bool:
    """Whether the header has what it must; says what is missing and what is not looked at."""
    place = Place(line)
    optional = {"capacity"} if house.default_capacity is not None else set()
    missing = [name for name in _REQUIRED if name not in columns and name not in optional]
    if missing:
        found.refuse(place, f"the header has no column {', '.join(missing)}")
    twice = sorted({name for name in columns if name in COLUMNS and columns.count(name) > 1})
    if twice:
        found.refuse(place, f"the header has more than one column {', '.join(twice)}")
    unknown = [name[:50] for name in columns if name and name not in COLUMNS]
    if unknown and not missing:
        found.note(place, f"these columns are not looked at: {', '.join(unknown[:20])}")
    return not missing and not twice


def _grouped(records: Iterator[tuple[int, list[str]]], columns: list[str], found: Found) -> list[_Rows]:
    """The rows by event, in the order of their first rows."""
    groups: dict[tuple[str, ...], _Rows] = {}
    for line, cells in records:
        if len(cells) > len(columns):
            found.refuse(Place(line), f"the row has {len(cells)} cells, and the header {len(columns)}")
            continue
        row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if name in COLUMNS}
        identity = (
            (row["id"],) if row.get("id") else tuple(row.get(name, "") for name in ("name", "starts_at", "venue"))
        )
        group = groups.setdefault(identity, _Rows([], []))
        group.lines.append(line)
        group.rows.append(row)
    return list(groups.values())


def _read_event(group: _Rows, house: House, found: Found) -> None:
    """Adds one event; its first row that can be read says what it is, and each row is a tier of it."""
    event: Candidate | None = None
    tiers: dict[str, TierFields] = {}
    for line, row in zip(group.lines, group.rows, strict=True):
        place = Place(line)
        try:
            if event is None:
                event = _event(row, place, house)
            else:
                _agrees(row, event, place, house)
            if event.standing == "scheduled":
                tier = _tier(row, event, place, house)
                _add(tier, tiers, place)
        except Untakable as error:
            found.refuse(error.place, error.reason)
    if event is not None and (tiers or event.standing != "scheduled"):
        found.take(
            Candidate(
                place=event.place,
                key=event.key,
                name=event.name,
                starts_at=event.starts_at,
                standing=event.standing,
                fields=event.fields if tiers else None,
                tiers=tuple(tiers.values()),
            )
        )


def _add(tier: TierFields, tiers: dict[str, TierFields], place: Place) -> None:
    first = next(iter(tiers.values()), tier)
    if tier.name in tiers:
        raise Untakable(place, f"the event has a tier {tier.name!r} already")
    if tier.currency != first.currency:
        raise Untakable(place, f"is in {tier.currency}, and the event's first tier in {first.currency}")
    if len(tiers) >= TIERS_MAX:
        raise Untakable(place, f"is one tier too many: an event has at most {TIERS_MAX}")
    tiers[tier.name] = tier


def _event(row: Row, place: Place, house: House) -> Candidate:
    """What a row says about its event."""
    name = _name(row, "name", place)
    if not name:
        raise Untakable(place, "name is empty")
    standing: Standing = read_standing(row["status"], place) if row.get("status") else "scheduled"
    zone = _zone(row, place) or house.time_zone
    start = _moment(row, "starts_at", zone, place)
    if start is None:
        raise Untakable(place, "starts_at is empty")
    zone = _zone(row, place) or start.stated_zone or zone
    ends_at = _end(row, "ends_at", zone, place)
    if ends_at is not None and ends_at < start.at:
        raise Untakable(place, "ends_at is before starts_at")
    venue = cut(_text(row, "venue", place), NAME_LENGTH_MAX)
    url = _url(row, place)
    key = f"id:{row['id']}" if row.get("id") else f"url:{url}" if url else key_of_content(name, start.at, venue)
    if len(key) > NAME_LENGTH_MAX * 10 or not _is_storable(key):
        raise Untakable(place, "id is no text that can be stored")
    fields = EventFields(
        name=name,
        description=cut(_description(row, place), DESCRIPTION_LENGTH_MAX),
        venue_name=venue,
        venue_address=cut(_text(row, "address", place), ADDRESS_LENGTH_MAX),
        url=url,
        starts_at=start.at,
        ends_at=ends_at,
        time_zone=zone,
        hold_seconds=house.hold_seconds,
        tickets_per_user_max=house.tickets_per_user_max,
    )
    return Candidate(place=place, key=key, name=name, starts_at=start.at, standing=standing, fields=fields)


def _agrees(row: Row, event: Candidate, place: Place, house: House) -> None:
    """Rows of one id must not tell of two events."""
    zone = _zone(row, place) or (event.fields.time_zone if event.fields else house.time_zone)
    start = _moment(row, "starts_at", zone, place)
    name = _name(row, "name", place)
    if (name and name != event.name) or (start is not None and start.at != event.starts_at):
        raise Untakable(place, f"has the id of the event in line {event.place.line}, but another name or start")


def _tier(row: Row, event: Candidate, place: Place, house: House) -> TierFields:
    fields = event.fields
    assert fields is not None
    assert event.starts_at is not None
    opens = _moment(row, "sale_starts_at", fields.time_zone, place)
    closes_at = _end(row, "sale_ends_at", fields.time_zone, place) or fields.ends_at or _start_over(row, event, fields)
    if opens is not None and closes_at <= opens.at:
        raise Untakable(place, "the sale would close before it opens")
    try:
        price = read_price(row.get("price", ""), row.get("currency") or house.currency)
    except ValueError as error:
        raise Untakable(place, f"price {error}") from error
    return TierFields(
        name=_name(row, "tier", place) or event.name,
        price_amount=price.amount,
        currency=price.currency or house.currency,
        capacity=_capacity(row, place, house),
        opens_at=opens.at if opens else None,
        closes_at=closes_at,
    )


def _start_over(row: Row, event: Candidate, fields: EventFields) -> datetime:
    """When nobody needs a ticket any more, of an event that says no end: at its start, or after its day."""
    assert event.starts_at is not None
    text = row.get("starts_at", "")
    start = read_moment(text, fields.time_zone) if text else Moment(event.starts_at, None, is_date=False)
    return end_of_day(start, fields.time_zone) if start.is_date else start.at


def _capacity(row: Row, place: Place, house: House) -> int:
    if not row.get("capacity"):
        if house.default_capacity is None:
            raise Untakable(place, "capacity is empty")
        return house.default_capacity
    try:
        capacity = read_count(row["capacity"])
    except ValueError as error:
        raise Untakable(place, f"capacity {error}") from error
    if capacity > CAPACITY_MAX:
        raise Untakable(place, f"capacity is more than {CAPACITY_MAX}")
    return capacity


def _zone(row: Row, place: Place) -> str | None:
    try:
        return checked_zone(row["time_zone"]) if row.get("time_zone") else None
    except ValueError as error:
        raise Untakable(place, f"time_zone {error}") from error


def _moment(row: Row, column: str, zone: str, place: Place) -> Moment | None:
    try:
        return read_moment(row[column], zone) if row.get(column) else None
    except ValueError as error:
        raise Untakable(place, f"{column} {error}") from error


def _end(row: Row, column: str, zone: str, place: Place) -> datetime | None:
    moment = _moment(row, column, zone, place)
    return moment and (end_of_day(moment, zone) if moment.is_date else moment.at)


def _name(row: Row, column: str, place: Place) -> str:
    name = _text(row, column, place)
    if len(name) > NAME_LENGTH_MAX:
        raise Untakable(place, f"{column} has more than {NAME_LENGTH_MAX} characters")
    return name


def _text(row: Row, column: str, place: Place) -> str:
    try:
        return plain_line(row.get(column, ""))
    except ValueError as error:
        raise Untakable(place, f"{column} {error}") from error


def _description(row: Row, place: Place) -> str:
    try:
        return plain_lines(row.get("description", ""))
    except ValueError as error:
        raise Untakable(place, f"description {error}") from error


def _url(row: Row, place: Place) -> str | None:
    try:
        return web_address(row["url"]) if row.get("url") else None
    except ValueError as error:
        raise Untakable(place, f"url {error}") from error


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
