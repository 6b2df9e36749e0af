"""Moments as people and catalogues write them: RFC 3339 and its ISO 8601 relatives, with or without an offset."""

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

# PostgreSQL knows more years than Python does; a moment in between could be written and never read again.
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 1, 1, tzinfo=UTC)

_MOMENT = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[Tt ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,20}))?)?\s?([Zz]|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})?", re.ASCII)
_OFFSET_MINUTES_MAX = 15 * 60 + 59


class Moment(NamedTuple):
    """A moment in UTC; the zone that the text itself stated (`+02:00`, `UTC`), if any; whether it was only a date."""

    at: datetime
    stated_zone: str | None
    is_date: bool


def read_moment(text: str, zone_name: str) -> Moment:
    """A moment, `zone_name` being meant where the text has no offset. Raises ValueError with the reason.

    A date alone is its first moment. An hour that the clocks skip is refused; of one that they repeat the first is
    meant. Fractions finer than a microsecond are cut.
    """
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise ValueError("must be a date or a time such as 2026-12-31T19:30:00+08:00")
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    try:
        naive = datetime(  # noqa: DTZ001  # its zone comes next
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
        )
    except ValueError as error:
        raise ValueError(f"is no moment: {error}") from error
    stated = None if offset is None else "UTC" if offset in "Zz" else _canonical_offset(offset)
    return Moment(_at(naive, zone_of(stated or zone_name)), stated, hour is None)


def end_of_day(moment: Moment, zone_name: str) -> datetime:
    """The moment at which the day of a date alone is over, in UTC."""
    zone = zone_of(moment.stated_zone or zone_name)
    following = moment.at.astimezone(zone).date() + timedelta(days=1)
    return _first_moment(following, zone)


def checked_zone(name: str) -> str:
    """An IANA zone's name, or an offset as ±hh:mm. Raises ValueError for anything else."""
    zone_of(name)
    return _canonical_offset(name) if _OFFSET.fullmatch(name) else name


def zone_of(name: str) -> tzinfo:
    """The zone of a name that `checked_zone` takes."""
    match = _OFFSET.fullmatch(name)
    if match is not None:
        minutes = int(match[2]) * 60 + int(match[3] or 0)
        if minutes > _OFFSET_MINUTES_MAX or int(match[3] or 0) > 59:
            raise ValueError("has an offset that no place on earth has")
        return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes))
    if name not in _known_zones():
        raise ValueError("must be an IANA time zone such as Asia/Taipei, or an offset such as +08:00")
    return ZoneInfo(name)


@cache
def _known_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _canonical_offset(offset: str) -> str:
    match = _OFFSET.fullmatch(offset)
    assert match is not None
    return f"{match[1]}{match[2]}:{match[3] or '00'}"


def _at(naive: datetime, zone: tzinfo) -> datetime:
    try:
        moment = naive.replace(tzinfo=zone).astimezone(UTC)
        exists = moment.astimezone(zone).replace(tzinfo=None) == naive
    except OverflowError:
        raise ValueError("must be of the years 1970 to 9998") from None
    if not FIRST <= moment < LAST:
        raise ValueError("must be of the years 1970 to 9998")
    if not exists:
        raise ValueError("is a time that the clocks of its zone skip")
    return moment


def _first_moment(day: date, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
