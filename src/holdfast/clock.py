"""The only module that reads time.

Decisions about a sale or a hold are PostgreSQL's (`clock_timestamp()`); what is read here decides nothing but early,
cheap refusals, time-outs and what a reply says the server's time is.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache


def utc_now() -> datetime:
    """The wall clock, as an aware datetime in UTC."""
    return datetime.now(UTC)


def unix_seconds() -> float:
    """The wall clock, in seconds since the epoch."""
    return time.time()


def unix_milliseconds() -> int:
    """The wall clock, in whole milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def monotonic_seconds() -> float:
    """A clock that never goes back, in seconds from an unknown start: for durations and time-outs only."""
    return time.monotonic()


@lru_cache(maxsize=1024)  # the orders of a batch share their moments
def rfc3339(moment: datetime) -> str:
    """An aware datetime as RFC 3339 in UTC with milliseconds: `2026-11-22T05:06:07.890Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"
