"""The verdict: what there is, held against what the buyers were told. It decides nothing that the servers decide."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import ids
from holdfast.drill.audit.database import DatabaseFound, OrderFound
from holdfast.drill.audit.gate import GateFound
from holdfast.drill.audit.topics import Change
from holdfast.drill.buyers.record import Purchase

COUNTERS = ("lost_acks", "oversold", "duplicates", "leaked", "events_lost", "events_doubled", "events_disordered")
"""What is 0 when every promise was kept."""

_FINDINGS_MAX = 40
_STATE_CHANGES = ("order.reserved", "order.confirmed", "order.cancelled", "order.expired")
_LATE_VERSION = 3
"""Of a confirmed order whose hold had ended before: a payment that came late."""


class Facts(NamedTuple):
    """Everything that was found, in about one moment."""

    events: Sequence[UUID]
    database: DatabaseFound
    gates: dict[UUID, GateFound | None] | None
    """None where this deployment has no gate, or it is away."""
    changes: list[Change] | None
    """None where this deployment has no Kafka, or it is away."""
    away: tuple[str, ...] = ()
    """What should be there and does not answer."""


class Verdict(msgspec.Struct, kw_only=True):
    """Every counter is 0 when every promise was kept."""

    lost_acks: int = 0
    """Acknowledgements that are not true: of an order, of its being paid for with these tickets, or cancelled."""
    oversold: int = 0
    """Tickets held or sold beyond a tier's capacity, by its counters or by its orders."""
    duplicates: int = 0
    """Orders beyond one for a purchase, payments beyond one for an order, and tickets beyond what was ordered."""
    leaked: int = 0
    """What holds tickets for nobody: overdue holds, and counters or gates that are not what the orders add up to."""
    events_lost: int = 0
    """State changes that are not on the topic, or not in the statistics."""
    events_doubled: int = 0
    """State changes that are on the topic under two ids, and what the statistics have too much."""
    events_disordered: int = 0
    """State changes of an order that came before one of a lower version."""
    repeated: int = 0
    """Messages that stand on the topic again under the same id: allowed, since readers know them by it."""
    orders: int = 0
    findings: list[str] = []
    """What is behind the counters, in sentences."""

    @property
    def is_sound(self) -> bool:
        """Whether every promise was kept."""
        return not any(getattr(self, counter) for counter in COUNTERS)


def judge(facts: Facts, purchases: Sequence[Purchase]) -> Verdict:
    """The verdict over what there is and what the buyers were told."""
    verdict = Verdict(orders=len(facts.database.orders))
    court = _Court(verdict)
    _acknowledgements(court, facts.database, purchases)
    _duplicates(court, facts.database, purchases)
    _counters(court, facts.database)
    _gates(court, facts)
    _sales(court, facts.database)
    _changes(court, facts)
    for what in facts.away:
        court.find("leaked", 1, f"cannot be audited: {what}")
    return verdict


class _Court:
    """Counts, and keeps the first findings of each kind in words."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def find(self, counter: str, count: int, sentence: str) -> None:
        """So many of a kind; nothing where there are none."""
        if count <= 0:
            return
        setattr(self.verdict, counter, getattr(self.verdict, counter) + count)
        if len(self.verdict.findings) < _FINDINGS_MAX:
            self.verdict.findings.append(f"{counter}: {sentence}")


def _acknowledgements(court: _Court, database: DatabaseFound, purchases: Iterable[Purchase]) -> None:
    for purchase in purchases:
        for order_id in purchase.orders:
            name = ids.encode(ids.ORDER, order_id)
            found = database.orders.get(order_id)
            if found is None:
                court.find("lost_acks", 1, f"{name} was acknowledged and is not there")
            elif (found.user_id, found.key) != (purchase.user_id, purchase.key):
                court.find("lost_acks", 1, f"{name} was acknowledged to another buyer, or under another key")
            elif purchase.is_confirmed and found.status != "confirmed":
                court.find("lost_acks", 1, f"{name} was confirmed and is {found.status}")
            elif purchase.is_confirmed and not found.issued.issuperset(purchase.tickets):
                court.find("lost_acks", 1, f"{name} was shown with tickets that are not there")
            elif purchase.is_cancelled and found.status != "cancelled":
                court.find("lost_acks", 1, f"{name} was cancelled and is {found.status}")


def _duplicates(court: _Court, database: DatabaseFound, purchases: Iterable[Purchase]) -> None:
    orders = Counter(order.user_id for order in database.orders.values())
    for purchase in purchases:
        surplus = max(orders[purchase.user_id], len(purchase.orders)) - 1
        court.find("duplicates", surplus, f"purchase {purchase.number} has {surplus + 1} orders")
        if purchase.refused and not purchase.orders:
            court.find(
                "duplicates", orders[purchase.user_id], f"purchase {purchase.number} was refused and has an order"
            )
    strangers = orders.keys() - {purchase.user_id for purchase in purchases}
    court.find("duplicates", len(strangers), f"{len(strangers)} orders are nobody's purchase")
    for order_id, order in database.orders.items():
        name = ids.encode(ids.ORDER, order_id)
        owed = order.tickets if order.status == "confirmed" else 0
        court.find("duplicates", len(order.issued) - owed, f"{name} has {len(order.issued)} tickets for {owed}")
        court.find("lost_acks", owed - len(order.issued), f"{name} has {len(order.issued)} tickets for {owed}")
        paid = 1 if order.status == "confirmed" else 0
        court.find("duplicates", order.paid - paid, f"{name} is {order.status} and has {order.paid} payments")
        court.find("lost_acks", paid - order.paid, f"{name} is confirmed and has no payment")


def _counters(court: _Court, database: DatabaseFound) -> None:
    held, sold = _lines(database, "reserved"), _lines(database, "confirmed")
    for tier_id, stock in database.stock.items():
        name = ids.encode(ids.TIER, tier_id)
        counted = max(stock.held + stock.sold, held[tier_id] + sold[tier_id])
        court.find("oversold", counted - stock.capacity, f"{name} has {counted} held or sold of {stock.capacity}")
        wrong = abs(stock.held - held[tier_id]) + abs(stock.sold - sold[tier_id])
        court.find(
            "leaked",
            wrong,
            f"{name} counts {stock.held} held and {stock.sold} sold for {held[tier_id]} and {sold[tier_id]}",
        )
    people: Counter[tuple[UUID, UUID]] = Counter()
    for order in database.orders.values():
        if order.status in ("reserved", "confirmed"):
            people[order.event_id, order.user_id] += order.tickets
    wrong = sum(database.people.get(key, 0) != people.get(key, 0) for key in people.keys() | database.people.keys())
    court.find("leaked", wrong, f"{wrong} people's counters are not what their orders add up to")
    overdue = sum(order.is_overdue for order in database.orders.values() if order.status == "reserved")
    court.find("leaked", overdue, f"{overdue} holds are overdue")
    court.find("leaked", database.unread, f"{database.unread} rows of the outbox were not read")
    court.find("events_lost", database.dead_letters, f"{database.dead_letters} dead letters")
    court.find("leaked", database.open_payments, f"{database.open_payments} payments are not carried out")


def _gates(court: _Court, facts: Facts) -> None:
    """A gate that was not loaded, or is of another epoch, is believed by nobody, so it holds nothing back."""
    for event_id, gate in (facts.gates or {}).items():
        if gate is None or not gate.is_open or gate.epoch != facts.database.epochs.get(event_id):
            continue
        name = ids.encode(ids.EVENT, event_id)
        free = {
            tier_id: stock.capacity - stock.held - stock.sold
            for tier_id, stock in facts.database.stock.items()
            if stock.event_id == event_id
        }
        wrong = sum(abs(gate.free.get(tier_id, 0) - count) for tier_id, count in free.items())
        court.find("leaked", wrong, f"the gate of {name} has free {sum(gate.free.values())} for {sum(free.values())}")
        people = {user: tickets for (event, user), tickets in facts.database.people.items() if event == event_id}
        wrong = sum(gate.users.get(user, 0) != people.get(user, 0) for user in people.keys() | gate.users.keys())
        court.find("leaked", wrong, f"the gate of {name} counts {wrong} people wrong")
        court.find("leaked", gate.leases, f"the gate of {name} has {gate.leases} leases under way")


def _sales(court: _Court, database: DatabaseFound) -> None:
    if database.sales is None:
        return
    for tier_id in database.stock:
        found = database.sales.get(tier_id)
        right = _recount(database, tier_id)
        counted = (found.held, found.released, found.sold, found.revenue) if found else (0, 0, 0, 0)
        for what, have, owed in zip(("held", "released", "sold", "revenue"), counted, right, strict=True):
            sentence = f"the statistics of {ids.encode(ids.TIER, tier_id)} say {what} {have}, not {owed}"
            # Money is wrong where tickets are, so it counts once.
            court.find("events_lost", min(1, owed - have) if what == "revenue" else owed - have, sentence)
            court.find("events_doubled", min(1, have - owed) if what == "revenue" else have - owed, sentence)


def _recount(database: DatabaseFound, tier_id: UUID) -> tuple[int, int, int, int]:
    """Held, released, sold and earned in all, from the orders alone; each order here is of one tier."""
    held = released = sold = revenue = 0
    for order in database.orders.values():
        quantity = order.lines.get(tier_id, 0)
        if not quantity:
            continue
        held += quantity
        if order.status in ("cancelled", "expired") or (order.status == "confirmed" and order.version > 2):
            released += quantity
        if order.status == "confirmed":
            sold += quantity
            revenue += order.total
    return held, released, sold, revenue


def _changes(court: _Court, facts: Facts) -> None:
    """Each state change of each order: once by its id, and in the order of the versions where it comes first."""
    if facts.changes is None:
        return
    seen: dict[str, dict[tuple[str, int], str]] = defaultdict(dict)
    highest: Counter[str] = Counter()
    known: set[str] = set()
    for change in facts.changes:
        if not change.event_id:
            court.find("events_lost", 1, f"what stands at {change.place} cannot be read")
            continue
        if change.event_id in known:
            court.verdict.repeated += 1
            continue
        known.add(change.event_id)
        if change.order and change.kind in _STATE_CHANGES:
            first = seen[change.order].setdefault((change.kind, change.version), change.event_id)
            if first != change.event_id:
                court.find("events_doubled", 1, f"{change.order} {change.kind} stands as {first} and {change.event_id}")
            if change.version < highest[change.order]:
                court.find("events_disordered", 1, f"{change.order} {change.kind} comes late, at {change.place}")
            highest[change.order] = max(highest[change.order], change.version)
    for order_id, order in facts.database.orders.items():
        name = ids.encode(ids.ORDER, order_id)
        have, owed = seen.pop(name, {}).keys(), _owed(order)
        for kind, version in owed - have:
            court.find("events_lost", 1, f"{name} {kind} of version {version} is not on the topic")
        for kind, version in have - owed:
            court.find("events_doubled", 1, f"{name} {kind} of version {version} did not happen")


def _owed(order: OrderFound) -> set[tuple[str, int]]:
    """The state changes that this order has been through."""
    owed = {("order.reserved", 1)}
    if order.status != "reserved":
        owed.add((f"order.{order.status}", order.version))
    if order.version == _LATE_VERSION:
        owed.add(("order.expired", 2))
    return owed


def _lines(database: DatabaseFound, status: str) -> Counter[UUID]:
    """Tickets per tier, of the orders in this state."""
    found: Counter[UUID] = Counter()
    for order in database.orders.values():
        if order.status == status:
            found.update(order.lines)
    return found
