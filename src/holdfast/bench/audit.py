"""Holds PostgreSQL and the gate against what the client was told. A figure with a finding is void.

The auditor shares no statement and no decision with what it judges. It wants to see, for the events of a case:

1. every acknowledged order, of the right person and event, in the state that was promised;
2. no other order, except as many as there were requests whose outcome the client does not know;
3. counters of tiers and people that agree with the orders, and confirmed orders with tickets and one payment;
4. an outbox that everyone has read, and then a gate that has free what PostgreSQL has free.
"""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID

from holdfast.bench.ledger import Ledger
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool, load_statements
from holdfast.gate.gate import Gate, GateAway

DRAIN_SECONDS_MAX = 60.0

_SQL = load_statements("holdfast.bench", "audit.sql")
_QUERY_SECONDS_MAX = 300.0
_LOOK_SECONDS = 0.1
_ROWS_AT_ONCE = 10_000

_FITS = {
    "made": ("reserved", "expired"),
    "reserved": ("reserved",),
    "confirmed": ("confirmed",),
    "cancelled": ("cancelled",),
}
"""What a promise allows an order to be."""
_FURTHER = ("confirmed", "cancelled")
"""What a request of unknown outcome may have made of an order."""


async def until_read(pool: Pool, seconds_max: float = DRAIN_SECONDS_MAX) -> tuple[int, float]:
    """Waits until every consumer has read the outbox: how much was unread at first, and how long it took; infinity
    where it did not come to that."""
    began = monotonic_seconds()
    first = unread = await _unread(pool)
    while unread:
        if monotonic_seconds() - began >= seconds_max:
            return first, float("inf")
        await asyncio.sleep(_LOOK_SECONDS)
        unread = await _unread(pool)
    return first, monotonic_seconds() - began


async def audit(pool: Pool, gate: Gate, ledger: Ledger, seconds_max: float = DRAIN_SECONDS_MAX) -> list[str]:
    """What does not agree, in sentences; nothing where every promise was kept."""
    findings = list(ledger.findings)
    events = [sale.event_id for sale in ledger.sales]
    if not events:
        return findings
    _, seconds = await until_read(pool, seconds_max)
    if seconds == float("inf"):
        findings.append(f"the outbox was not read within {seconds_max:.0f} s: {await _unread(pool):,} rows are left")
    findings += await _orders(pool, events, ledger)
    tiers = await pool.fetch(_SQL["tiers"], events, timeout=_QUERY_SECONDS_MAX)
    findings += _tiers(tiers)
    people = await pool.fetchval(_SQL["people"], events, timeout=_QUERY_SECONDS_MAX)
    if people:
        findings.append(f"{people:,} people's counters are not what their orders add up to")
    unpaid = await pool.fetchval(_SQL["unpaid"], events, timeout=_QUERY_SECONDS_MAX)
    if unpaid:
        findings.append(f"{unpaid:,} confirmed orders have the wrong tickets, or not one payment")
    return findings + await _gates(pool, gate, events, seconds_max)


async def _unread(pool: Pool) -> int:
    return int(await pool.fetchval(_SQL["unread"], timeout=_QUERY_SECONDS_MAX))


async def _orders(pool: Pool, events: list[UUID], ledger: Ledger) -> list[str]:
    """The rows against the acknowledgements, a part of the rows at a time: there may be millions."""
    seen = surplus = 0
    wrong: Counter[str] = Counter()
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        rows = connection.cursor(_SQL["orders"], events, prefetch=_ROWS_AT_ONCE, timeout=_QUERY_SECONDS_MAX)
        async for row in rows:
            promised = ledger.orders.get(row["id"])
            if promised is None:
                surplus += 1
                continue
            seen += 1
            made, promise = promised
            if (row["event_id"], row["user_id"]) != made:
                wrong["of another person or event than acknowledged"] += 1
            elif row["status"] in _FITS[promise]:
                continue
            elif row["status"] in _FURTHER and promise not in _FURTHER:
                surplus += 1
            else:
                wrong[f"{row['status']}, not {promise}"] += 1
    findings = [f"{count:,} orders are {what}" for what, count in wrong.items()]
    if lost := len(ledger.orders) - seen:
        findings.append(f"{lost:,} acknowledged orders are not there")
    if surplus > ledger.unknown:
        findings.append(
            f"{surplus:,} orders were made or moved without an acknowledgement, "
            f"and only {ledger.unknown:,} requests have an unknown outcome"
        )
    return findings


def _tiers(rows: list[Any]) -> list[str]:
    wrong = [row for row in rows if (row["held"], row["sold"]) != (row["real_held"], row["real_sold"])]
    oversold = [
        row for row in rows if max(row["held"] + row["sold"], row["real_held"] + row["real_sold"]) > row["capacity"]
    ]
    findings = [
        f"tier {row['tier_id']} has held {row['held']:,} for {row['real_held']:,} "
        f"and sold {row['sold']:,} for {row['real_sold']:,}"
        for row in wrong
    ]
    return findings + [f"tier {row['tier_id']} is oversold" for row in oversold]


async def _gates(pool: Pool, gate: Gate, events: list[UUID], seconds_max: float) -> list[str]:
    """Looks until each gate agrees, or for that long: what was read from the outbox is on its way into the gate."""
    deadline = monotonic_seconds() + seconds_max
    differing = events
    while True:
        differing = [event_id for event_id in differing if not await _agrees(pool, gate, event_id)]
        if not differing:
            return []
        if monotonic_seconds() >= deadline:
            return [f"the gates of {len(differing)} events do not have free what PostgreSQL has free: {differing[0]}"]
        await asyncio.sleep(_LOOK_SECONDS)


async def _agrees(pool: Pool, gate: Gate, event_id: UUID) -> bool:
    try:
        state = await gate.state(event_id)
    except GateAway:
        return False
    if state is None:
        # Nobody has bought anything yet, so nobody has loaded it.
        return not await pool.fetchval(_SQL["is_touched"], event_id)
    rows = await pool.fetch(_SQL["free"], event_id)
    return state.is_open and state.free == {row["tier_id"]: row["free"] for row in rows}
