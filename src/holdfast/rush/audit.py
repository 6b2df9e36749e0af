"""Holds PostgreSQL and the gate against what the buyers were told, after everything has come to rest.

The auditor shares no statement and no decision with what it judges: it counts orders, lines and tickets by itself and
believes no counter.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from holdfast.clock import monotonic_seconds
from holdfast.engines.database import AWAY, Pool, load_statements
from holdfast.errors import Mendable
from holdfast.gate.gate import Gate, GateAway, GateState
from holdfast.rush.ledger import Ledger
from holdfast.rush.stage import TICKETS_PER_USER_MAX, Sale

_SQL = load_statements("holdfast.rush", "audit.sql")
_LOOK_SECONDS = 0.25
_DATABASE_SECONDS_MAX = 60.0


class OrderFound(NamedTuple):
    """One order as PostgreSQL has it, with the tickets that were issued for it."""

    user_id: UUID
    idempotency_key: str
    status: str
    lines: dict[UUID, int]
    issued: dict[UUID, UUID]
    """Ticket -> tier."""
    is_overdue: bool

    @property
    def quantity(self) -> int:
        """Tickets ordered."""
        return sum(self.lines.values())

    @property
    def issued_by_tier(self) -> dict[UUID, int]:
        """Tickets issued, per tier."""
        return dict(Counter(self.issued.values()))


class TierFound(NamedTuple):
    """One tier's counters as PostgreSQL has them."""

    capacity: int
    held: int
    sold: int


class Facts(NamedTuple):
    """One event in one snapshot, and its gate at about the same moment."""

    orders: dict[UUID, OrderFound]
    tiers: dict[UUID, TierFound]
    user_tickets: dict[UUID, int]
    unread: int
    """Outbox rows that a consumer has not read."""
    open_payments: int
    epoch: int | None
    gate: GateState | None
    """None where the gate has nothing of the event, or is away."""

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is under way any more that could still change something."""
        reserved = any(order.status == "reserved" for order in self.orders.values())
        gate_rests = self.gate is None or (self.gate.holds == self.gate.leases == 0 and not any(self.gate_surplus))
        return not (reserved or self.unread or self.open_payments) and gate_rests

    @property
    def gate_surplus(self) -> list[int]:
        """Free in the gate minus free in PostgreSQL, per tier. A gate that is not open yet says nothing."""
        if self.gate is None or not self.gate.is_open or self.gate.epoch != self.epoch:
            return []
        free = self.gate.free
        return [free.get(tier, 0) - (found.capacity - found.held - found.sold) for tier, found in self.tiers.items()]


class Verdict(msgspec.Struct):
    """What the audit found. The last four counters are 0 when every promise was kept."""

    capacity: int
    sold: int
    """Tickets of confirmed orders, counted from their lines."""
    oversold: int
    """Tickets held or sold beyond a tier's capacity."""
    lost_acks: int
    """Orders of which an acknowledgement is not true: made, confirmed with these tickets, or cancelled."""
    duplicate_orders: int
    """Orders beyond one for each key, confirmed orders beyond one for each wish, people beyond their limit."""
    leaked: int
    """Tickets that are neither sold nor to be had: by a counter, the gate or a hold, or unsold though wanted."""
    is_at_rest: bool
    """Whether outbox, payments, holds and gate came to rest within the time."""
    findings: list[str]
    """What is behind the counters, in sentences."""

    @property
    def is_sound(self) -> bool:
        """Whether every counter that must be 0 is 0."""
        return not (self.oversold or self.lost_acks or self.duplicate_orders or self.leaked)


async def facts_at_rest(pool: Pool, gate: Gate, sale: Sale, rest_seconds_max: float) -> Facts:
    """What there is once nothing is under way, or after that time. Raises Mendable when PostgreSQL stays away."""
    deadline = monotonic_seconds() + rest_seconds_max
    away_deadline = monotonic_seconds() + max(rest_seconds_max, _DATABASE_SECONDS_MAX)
    while True:
        try:
            facts = await _look(pool, gate, sale)
        except (*AWAY, asyncpg.PostgresError) as error:
            if monotonic_seconds() >= away_deadline:
                raise Mendable(f"The database cannot be audited ({type(error).__name__}: {error}).") from error
        else:
            if facts.is_at_rest or monotonic_seconds() >= deadline:
                return facts
        await asyncio.sleep(_LOOK_SECONDS)


async def _look(pool: Pool, gate: Gate, sale: Sale) -> Facts:
    event_id = sale.event_id
    async with (
        pool.acquire(timeout=5) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):

        async def rows(statement: str) -> list[Any]:
            return await connection.fetch(_SQL[statement], event_id, timeout=_DATABASE_SECONDS_MAX)

        issued: dict[UUID, dict[UUID, UUID]] = {}
        for row in await rows("issued"):
            issued.setdefault(row["order_id"], {})[row["id"]] = row["tier_id"]
        orders = {
            row["id"]: OrderFound(
                row["user_id"],
                row["idempotency_key"],
                row["status"],
                dict(zip(row["tier_ids"], row["quantities"], strict=True)),
                issued.pop(row["id"], {}),
                row["is_overdue"],
            )
            for row in await rows("orders")
        }
        tiers = {row["tier_id"]: TierFound(row["capacity"], row["held"], row["sold"]) for row in await rows("stock")}
        user_tickets = {row["user_id"]: row["tickets"] for row in await rows("user_tickets")}
        unread = (await rows("unread"))[0][0]
        open_payments = (await rows("open_payments"))[0][0]
        epochs = await rows("epoch")
    # The gate last: what PostgreSQL has not said yet cannot be in it.
    state = await _state(gate, event_id)
    epoch = epochs[0][0] if epochs else None
    return Facts(orders, tiers, user_tickets, unread, open_payments, epoch, state)


async def _state(gate: Gate, event_id: UUID) -> GateState | None:
    try:
        return await gate.state(event_id)
    except GateAway:
        return None


def judge(facts: Facts, ledger: Ledger, sale: Sale) -> Verdict:
    """The verdict over what there is and what the buyers were told."""
    findings: list[str] = []
    held, sold = _lines(facts, "reserved"), _lines(facts, "confirmed")
    verdict = Verdict(
        capacity=sale.capacity,
        sold=sold.total(),
        oversold=_oversold(facts, sale, held + sold, findings),
        lost_acks=_lost(facts, ledger, findings),
        duplicate_orders=_duplicates(facts, ledger, findings),
        leaked=_leaked(facts, held, sold, findings) + _unsold(sale, ledger, sold.total(), findings),
        is_at_rest=facts.is_at_rest,
        findings=findings,
    )
    if not facts.is_at_rest:
        findings.append(
            f"not at rest: {held.total()} tickets held, {facts.unread} outbox rows unread, "
            f"{facts.open_payments} payments open, gate {_in_words(facts.gate)}"
        )
    return verdict


def _lines(facts: Facts, status: str) -> Counter[UUID]:
    """Tickets per tier of the orders in this state."""
    counted: Counter[UUID] = Counter()
    for order in facts.orders.values():
        if order.status == status:
            counted.update(order.lines)
    return counted


def _oversold(facts: Facts, sale: Sale, ordered: Counter[UUID], findings: list[str]) -> int:
    issued = Counter(tier for order in facts.orders.values() for tier in order.issued.values())
    beyond = 0
    for tier, capacity in sale.tiers.items():
        found = facts.tiers.get(tier, TierFound(0, 0, 0))
        taken = max(ordered[tier], issued[tier], found.held + found.sold)
        if taken > capacity:
            beyond += taken - capacity
            findings.append(f"tier {tier} of {capacity} tickets has {taken} taken")
    return beyond


def _lost(facts: Facts, ledger: Ledger, findings: list[str]) -> int:
    lost = 0
    for order_id, told in ledger.orders.items():
        found = facts.orders.get(order_id)
        if found is None:
            reason = "is not there"
        elif (found.user_id, found.idempotency_key, found.lines) != (told.user_id, told.idempotency_key, told.lines):
            reason = "is another one"
        elif told.is_cancelled and found.status != "cancelled":
            reason = f"was cancelled and is {found.status}"
        elif told.is_confirmed and found.status != "confirmed":
            reason = f"was confirmed and is {found.status}"
        elif told.is_confirmed and (tuple(sorted(found.issued)), found.issued_by_tier) != (
            told.ticket_ids,
            told.lines,
        ):
            reason = f"was confirmed with {len(told.ticket_ids)} tickets and has others"
        else:
            continue
        lost += 1
        findings.append(f"acknowledged order {order_id} {reason}")
    return lost


def _duplicates(facts: Facts, ledger: Ledger, findings: list[str]) -> int:
    keys = Counter((order.user_id, order.idempotency_key) for order in facts.orders.values())
    bought = Counter(order.user_id for order in facts.orders.values() if order.status == "confirmed")
    tickets: Counter[UUID] = Counter()
    for order in facts.orders.values():
        if order.status in ("reserved", "confirmed"):
            tickets[order.user_id] += order.quantity
    found = {
        "orders share a key with another": keys.total() - len(keys),
        "keys were answered with two orders": ledger.key_conflicts,
        "orders were confirmed for a wish that had one already": bought.total() - len(bought),
        "people have more tickets than the limit": sum(has > TICKETS_PER_USER_MAX for has in tickets.values()),
    }
    findings += [f"{count} {what}" for what, count in found.items() if count]
    return sum(found.values())


def _leaked(facts: Facts, held: Counter[UUID], sold: Counter[UUID], findings: list[str]) -> int:
    people: Counter[UUID] = Counter()
    for order in facts.orders.values():
        if order.status in ("reserved", "confirmed"):
            people[order.user_id] += order.quantity
    found = {
        "the counter of held tickets is off": _sum_apart((tier.held, held[id_]) for id_, tier in facts.tiers.items()),
        "the counter of sold tickets is off": _sum_apart((tier.sold, sold[id_]) for id_, tier in facts.tiers.items()),
        "people's counters are off": _sum_apart(
            (facts.user_tickets.get(user, 0), people[user]) for user in {*people, *facts.user_tickets}
        ),
        "issued tickets are off": _sum_apart(
            (len(order.issued), order.quantity if order.status == "confirmed" else 0) for order in facts.orders.values()
        ),
        "the gate is off": sum(map(abs, facts.gate_surplus)),
        "holds are overdue": sum(order.quantity for order in facts.orders.values() if order.is_overdue),
    }
    findings += [f"{what} by {count} tickets" for what, count in found.items() if count]
    return sum(found.values())


def _unsold(sale: Sale, ledger: Ledger, sold: int, findings: list[str]) -> int:
    unsold = min(max(sale.capacity - sold, 0), ledger.without_tickets)
    if unsold:
        findings.append(f"{unsold} tickets are unsold though {ledger.without_tickets} buyers left without any")
    return unsold


def _sum_apart(pairs: Iterable[tuple[int, int]]) -> int:
    return sum(abs(one - other) for one, other in pairs)


def _in_words(gate: GateState | None) -> str:
    return "not loaded" if gate is None else f"has {gate.holds} holds and {gate.leases} leases"
