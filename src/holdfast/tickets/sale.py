"""What admission knows of an event's sale: a snapshot, good for cheap refusals. PostgreSQL decides."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from holdfast.clock import unix_seconds
from holdfast.engines.database import Pool, load_statements
from holdfast.settings import Settings
from holdfast.tickets.fresh import Fresh

SQL = load_statements("holdfast.tickets", "sale.sql")

_CLOCK_SECONDS_MAX = 2.0


class SaleTier(NamedTuple):
    """One tier on sale; times in seconds since the epoch, infinite where there is no bound."""

    name: str
    price_amount: int
    currency: str
    opens_at: float
    closes_at: float
    state: str

    def refusal(self, now: float) -> str | None:
        """The code under which a purchase is refused at `now`, or None while it is on sale."""
        if self.state == "cancelled":
            return "event_cancelled"
        if now >= self.closes_at:
            return "sale_closed"
        if self.state != "open" or now < self.opens_at:
            return "sale_not_open"
        return None


class Sale(NamedTuple):
    """One published event, as its sale sees it."""

    status: str
    hold_seconds: int
    tickets_per_user_max: int
    epoch: int
    tiers: dict[UUID, SaleTier]
    clock_behind: int = 0
    """Whole seconds that this machine's clock is behind PostgreSQL's, which decides; 0 where they agree."""

    def refusal(self, tier_ids: Sequence[UUID]) -> str | None:
        """The code under which a purchase of these tiers is refused now, or None."""
        if self.status == "cancelled":
            return "event_cancelled"
        now = unix_seconds() + self.clock_behind
        for tier_id in tier_ids:
            code = self.tiers[tier_id].refusal(now)
            if code is not None:
                return code
        return None


def fresh_sales(settings: Settings, pool: Pool) -> Fresh[Sale]:
    """The sales, at most `catalogue_seconds` old.

    From the primary: an order's price, limit and time are taken from here, and the gate is asked under this epoch. From
    a replica that lags a changed price would go on being sold at, and every process would take a gate that was loaded
    anew for a stale one and sell around it.
    """

    async def load(event_id: UUID) -> Sale | None:
        asked_at = unix_seconds()
        rows = await pool.fetch(SQL["sale"], event_id)
        if not rows:
            return None
        behind = _clock_behind(rows[0]["now"], asked_at, unix_seconds())
        tiers = {
            row["tier_id"]: SaleTier(
                row["name"], row["price_amount"], row["currency"], row["opens_at"], row["closes_at"], row["state"]
            )
            for row in rows
            if row["tier_id"] is not None
        }
        first = rows[0]
        limit = first["tickets_per_user_max"]
        return Sale(first["status"], first["hold_seconds"], limit, first["epoch"], tiers, behind)

    return Fresh(load, seconds=settings.catalogue_seconds)


def _clock_behind(theirs: float, asked_at: float, answered_at: float) -> int:
    """How far PostgreSQL's clock is ahead of ours, given what it said at some moment between these two."""
    ahead = theirs - (asked_at + answered_at) / 2
    # A little is left alone, so that the snapshot of a clock that is right stays the same one.
    return round(ahead) if abs(ahead) > _CLOCK_SECONDS_MAX + (answered_at - asked_at) / 2 else 0
