"""Which events a list shows: words, dates, places, and the cursor that goes on where a page ended."""

import re
import unicodedata
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from holdfast.errors import Fault, Invalid
from holdfast.tickets.event_fields.moments import LAST, end_of_day, read_moment
from holdfast.tickets.event_fields.texts import one_line

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
TEXT_LENGTH_MAX = 200
WORDS_MAX = 10
CURSOR_LENGTH = 32

_CURSOR = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Position(NamedTuple):
    """The place of an event in every list: `ORDER BY starts_at, id`."""

    starts_at: datetime
    event_id: UUID


START = Position(_EPOCH - timedelta(days=1), UUID(int=0))


class Search(NamedTuple):
    """What is searched for: LIKE patterns that must all fit, and from (inclusive) and before (exclusive)."""

    words: list[str]
    places: list[str]
    from_: datetime
    before: datetime


def read_search(q: str | None, place: str | None, from_: str | None, to: str | None, zone: str) -> Search:
    """The search of these parameters. A date alone is meant in `zone`, and `to` includes it. Raises Invalid."""
    return Search(
        words=_patterns(q, "q"),
        places=_patterns(place, "place"),
        from_=START.starts_at if not from_ else _bound(from_, zone, "from", is_end=False),
        before=LAST if not to else _bound(to, zone, "to", is_end=True),
    )


def read_cursor(cursor: str | None) -> Position:
    """Where the page before ended. Raises Invalid for what is no cursor of ours."""
    if cursor is None:
        return START
    if _CURSOR.fullmatch(cursor) is not None:
        raw = urlsafe_b64decode(cursor)
        microseconds = int.from_bytes(raw[:8])
        if microseconds < (LAST - _EPOCH) // _MICROSECOND:
            return Position(_EPOCH + microseconds * _MICROSECOND, UUID(bytes=raw[8:]))
    raise Invalid(Fault("cursor", "must be the next_cursor of the page before"))


def write_cursor(position: Position) -> str:
    """The cursor of a page that ends here."""
    microseconds = (position.starts_at - _EPOCH) // _MICROSECOND
    return urlsafe_b64encode(microseconds.to_bytes(8) + position.event_id.bytes).decode()


def _patterns(text: str | None, parameter: str) -> list[str]:
    if not text:
        return []
    if len(text) > TEXT_LENGTH_MAX:
        raise Invalid(Fault(parameter, f"must have at most {TEXT_LENGTH_MAX} characters"))
    try:
        words = one_line(" ".join(unicodedata.normalize("NFC", text).split())).split()
    except ValueError as error:
        raise Invalid(Fault(parameter, str(error))) from error
    if len(words) > WORDS_MAX:
        raise Invalid(Fault(parameter, f"must have at most {WORDS_MAX} words"))
    return ["%" + re.sub(r"([\\%_])", r"\\\1", word) + "%" for word in words]


def _bound(text: str, zone: str, parameter: str, *, is_end: bool) -> datetime:
    try:
        # An unescaped + in a query is a space.
        moment = read_moment(re.sub(r"(T[\d:.]+) (\d{2}:?\d{2})$", r"\1+\2", text), zone)
    except ValueError as error:
        raise Invalid(Fault(parameter, str(error))) from error
    if not is_end:
        return moment.at
    return end_of_day(moment, zone) if moment.is_date else moment.at + _MICROSECOND
