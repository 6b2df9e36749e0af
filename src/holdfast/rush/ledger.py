"""What the servers told the buyers: every acknowledgement, by order, and the numbers of the rush.

It is the buyers' side of the audit, so it believes answers alone and never looks into an engine.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

TENTHS_PER_MS = 10


class Acknowledged(msgspec.Struct):
    """One order as its buyer knows it."""

    user_id: UUID
    idempotency_key: str
    lines: dict[UUID, int]
    """Tier -> quantity."""
    is_confirmed: bool = False
    is_cancelled: bool = False
    ticket_ids: tuple[UUID, ...] = ()


class Latency:
    """How long answers took, to a tenth of a millisecond, in bounded memory."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Counts one answer."""
        self._counts[int(seconds * 1000 * TENTHS_PER_MS)] += 1

    def percentile_ms(self, percent: float) -> float:
        """The time under which so many percent of the answers came; 0.0 before the first one."""
        left = self._counts.total() * percent / 100
        for tenths in sorted(self._counts):
            left -= self._counts[tenths]
            if left <= 0:
                return tenths / TENTHS_PER_MS
        return 0.0


class Ledger:
    """One rush's acknowledgements and numbers."""

    def __init__(self) -> None:
        self.orders: dict[UUID, Acknowledged] = {}
        self.latency = Latency()
        """Of the create attempts that were answered."""
        self.attempts = 0
        """Create requests sent."""
        self.refusals: Counter[str] = Counter()
        """Definite refusals of create, by code."""
        self.busy = 0
        """Requests turned away with 503; each was tried again with its key."""
        self.in_flight = 0
        """Requests whose key was still being answered; each was tried again."""
        self.rate_limited = 0
        self.connection_errors = 0
        """Requests that no answer came to; each was tried again with its key."""
        self.server_errors = 0
        """Answers of 5xx other than 503; each was tried again with its key."""
        self.errors = 0
        """Purchases that ended without a definite answer, or with one that makes no sense."""
        self.unexpected: Counter[str] = Counter()
        """What made no sense."""
        self.key_conflicts = 0
        """Keys under which two orders were acknowledged."""
        self.without_tickets = 0
        """Buyers who left with nothing."""
        self._by_key: dict[tuple[UUID, str], UUID] = {}

    def accepted(self, order_id: UUID, user_id: UUID, key: str, lines: Mapping[UUID, int]) -> None:
        """An order was acknowledged: 201, or 200 on a retry."""
        if self._by_key.setdefault((user_id, key), order_id) != order_id:
            self.key_conflicts += 1
        self.orders.setdefault(order_id, Acknowledged(user_id, key, dict(lines)))

    def confirmed(self, order_id: UUID, ticket_ids: Sequence[UUID]) -> None:
        """An order was shown as confirmed, with these tickets."""
        order = self.orders[order_id]
        order.is_confirmed = True
        order.ticket_ids = tuple(sorted(ticket_ids))

    def cancelled(self, order_id: UUID) -> None:
        """A cancel was acknowledged."""
        self.orders[order_id].is_cancelled = True

    @property
    def tried_again(self) -> int:
        """Requests that had no definite answer."""
        return self.busy + self.in_flight + self.rate_limited + self.connection_errors + self.server_errors

    @property
    def confirmations(self) -> int:
        """Orders shown as confirmed."""
        return sum(order.is_confirmed for order in self.orders.values())

    @property
    def cancellations(self) -> int:
        """Cancels acknowledged."""
        return sum(order.is_cancelled for order in self.orders.values())
