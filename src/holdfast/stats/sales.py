"""Sales as their organiser reads them: a page of minutes and the totals of a span of time.

What is read may be some moments old: it follows the sale through the outbox.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from asyncpg import Record
from pydantic import BaseModel

from holdfast import clock, ids
from holdfast.auth.actors import Actor
from holdfast.engines.database import Reads, load_statements
from holdfast.engines.hosts.position import LATEST
from holdfast.errors import Fault, Invalid, refuse

SQL = load_statements("holdfast.stats", "stats.sql")

DAYS_DEFAULT = 1
DAYS_MAX = 31
LIMIT_DEFAULT = 500
LIMIT_MAX = 2000
MOMENT_LENGTH_MAX = 64
CURSOR_LENGTH = 32

_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)([Zz]|[+ -]\d{2}:\d{2})", re.ASCII)
_CURSOR = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)
_CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 1, 1, tzinfo=UTC)
_MINUTE = timedelta(minutes=1)


class Amount(BaseModel):
    """Minor units of an ISO 4217 currency."""

    amount: int
    currency: str


class TierSales(BaseModel):
    """Tickets of a tier that were held by orders, released again (cancelled or expired) and sold in a time.

    `sold_late` of the sold were paid for after their hold had ended, so that they had been released before. A tier
    whose currency was changed comes once for each.
    """

    tier_id: str
    held: int
    released: int
    sold: int
    sold_late: int
    revenue: Amount


class MinuteSales(TierSales):
    """The sales of a tier in one minute, which is named by its beginning. There is none where nothing happened."""

    minute: str


class Sales(BaseModel):
    """The minutes that begin from `from` to before `to`, a page of them at a time, and the totals of all of them."""

    event_id: str
    totals: list[TierSales]
    data: list[MinuteSales]
    next_cursor: str | None


class Span(NamedTuple):
    """From (inclusive) and before (exclusive)."""

    from_: datetime
    before: datetime


class Position(NamedTuple):
    """The place of a row among an event's."""

    minute: datetime
    tier_id: UUID
    currency: str


_START = Position(_EPOCH - timedelta(days=1), UUID(int=0), "")


class SalesReader:
    """Reads what was counted. Raises Busy."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def page(
        self, actor: Actor, event_id: UUID, span: Span, after: Position | None, limit: int
    ) -> dict[str, object]:
        """A page of an event's Sales. Raises not_found for an event that is not the actor's."""
        # Somebody who has just made an event finds it; what was counted is behind the sale in any case.
        who = (actor.is_administrator, actor.user_id)
        if not (await self._reads.fetch(SQL["may_see"], event_id, *who, since=LATEST))[0][0]:
            raise refuse("not_found")
        totals = await self._reads.fetch(SQL["totals"], event_id, *span)
        rows = await self._reads.fetch(SQL["minutes"], event_id, *span, *(after or _START), limit + 1)
        page, following = rows[:limit], None
        if len(rows) > limit:
            last = page[-1]
            following = write_cursor(Position(last["minute"], last["tier_id"], last["currency"]))
        return {
            "event_id": ids.encode(ids.EVENT, event_id),
            "totals": [_tier_sales(row) for row in totals],
            "data": [{"minute": clock.rfc3339(row["minute"])} | _tier_sales(row) for row in page],
            "next_cursor": following,
        }


def read_span(from_: str | None, to: str | None) -> Span:
    """The span of two RFC 3339 times; until now, and of one day, where they are not given. Raises Invalid."""
    before = clock.utc_now() if to is None else _read_moment(to, "to")
    start = before - timedelta(days=DAYS_DEFAULT) if from_ is None else _read_moment(from_, "from")
    if start > before:
        raise Invalid(Fault("from", "must not be after `to`"))
    if before - start > timedelta(days=DAYS_MAX):
        raise Invalid(Fault("from", f"must be at most {DAYS_MAX} days before `to`"))
    return Span(start, before)


def read_cursor(cursor: str | None) -> Position | None:
    """Where the page before ended. Raises Invalid for what is no cursor of ours."""
    if cursor is None:
        return None
    if _CURSOR.fullmatch(cursor) is not None:
        raw = urlsafe_b64decode(cursor)
        minutes, currency = int.from_bytes(raw[:5]), raw[21:].decode("latin-1")
        if minutes < (_LAST - _EPOCH) // _MINUTE and _CURRENCY.fullmatch(currency):
            return Position(_EPOCH + minutes * _MINUTE, UUID(bytes=raw[5:21]), currency)
    raise Invalid(Fault("cursor", "must be the next_cursor of the page before"))


def write_cursor(position: Position) -> str:
    """The cursor of a page that ends here."""
    minutes = (position.minute - _EPOCH) // _MINUTE
    return urlsafe_b64encode(minutes.to_bytes(5) + position.tier_id.bytes + position.currency.encode()).decode()


def _read_moment(text: str, parameter: str) -> datetime:
    match = _MOMENT.fullmatch(text)
    if match is not None:
        day, time, offset = match.groups()
        try:
            # An unescaped + in a query is a space.
            moment = datetime.fromisoformat(f"{day}T{time}{offset.replace(' ', '+').upper()}").astimezone(UTC)
        except (ValueError, OverflowError):
            pass
        else:
            # So far from the ends of time that a day more or less can still be written.
            if _EPOCH <= moment < _LAST:
                return moment
    raise Invalid(
        Fault(parameter, "must be an RFC 3339 time of the years 1970 to 9998, such as 2026-12-31T19:30:00+08:00")
    )


def _tier_sales(row: Record) -> dict[str, object]:
    counts = {name: row[name] for name in ("held", "released", "sold", "sold_late")}
    revenue = {"amount": int(row["revenue"]), "currency": row["currency"]}
    return {"tier_id": ids.encode(ids.TIER, row["tier_id"]), **counts, "revenue": revenue}
