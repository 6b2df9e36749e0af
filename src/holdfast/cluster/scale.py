"""What other rates of purchases would take, computed from what one costs here. Nothing in here is measured.

Processor time is taken to grow with the purchases, and to be the same for each: batches that grow with the rate make
PostgreSQL and the gate cheaper, larger machines with slower memory make everything dearer, and neither is counted on.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from holdfast.cluster.cost import Costs
from holdfast.outbox.events import LANES
from holdfast.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

RATES = (5_000, 50_000, 500_000)
_PARTITIONS: int = Settings.model_fields["kafka_partitions"].default

_ONE_CORE = ("auth", "tickets", "orders", "relay", "expiry", "payments", "stats", "notify", "reconcile")
"""Components of Python processes, each of which uses one core at most."""
_FEWEST = {"gate": 3, "orders": 3, "tickets": 3, "auth": 3, "relay": 2}
"""So many for the sake of failures alone."""


class Assumptions(NamedTuple):
    """What is not known from one machine."""

    utilisation: float = 0.6
    """Of a core at the rate that is planned for: what is left is for the failure of one of three, and for peaks."""
    database_cores: int = 64
    """Of the machine of a primary, and of each of its standbys."""
    batch_orders: int = 256
    """At most what one transaction of the journal takes (`batch_orders_max`)."""
    lock_seconds: float = 0.001
    """How long a batch has the tier's row: from its update to the flush of the commit at a standby nearby."""
    hours: float = 1.0
    """How long a rush of that rate lasts."""


ASSUMED = Assumptions()


class Ceilings(NamedTuple):
    """The most purchases a second that one thing can take, whatever is added beside it."""

    tier: float
    """One tier: its row in PostgreSQL is locked by one batch after the other."""
    event: float
    """One event: all of its keys are on one master of the gate, which is one thread."""
    primary: float
    """One PostgreSQL primary, with all of its cores."""


class Plan(NamedTuple):
    """What one rate takes."""

    rate: int
    processes: dict[str, int]
    """Of each service and worker that is a Python process."""
    gateway_cores: float
    gate_masters: int
    databases: int
    """Primaries, each with two standbys and an outbox, relays and workers of its own: events are split over them."""
    primary_cores: float
    """Of each primary."""
    partitions: int
    """Of each topic: as many as the dearest consumer needs processes; all databases together."""
    lanes: int
    brokers_cores: float
    log_bytes_per_second: float
    database_bytes: float
    """After a rush of so many hours."""


def ceilings(costs: Costs, given: Assumptions = ASSUMED) -> Ceilings:
    """The ceilings that no number of replicas lifts."""
    micros = _micros(costs)
    return Ceilings(
        given.batch_orders / given.lock_seconds,
        _rate(given.utilisation, micros.get("gate master", 0.0)),
        _rate(given.utilisation * given.database_cores, micros.get("postgres primary", 0.0)),
    )


def plan(costs: Costs, rate: int, given: Assumptions = ASSUMED) -> Plan:
    """What a rate of purchases takes, spread over so many events that no ceiling of one is met."""
    micros = _micros(costs)

    def cores(component: str) -> float:
        return rate * micros.get(component, 0.0) / 1e6 / given.utilisation

    processes = {name: max(math.ceil(cores(name)), _FEWEST.get(name, 1)) for name in _ONE_CORE if name in micros}
    databases = max(1, math.ceil(cores("postgres primary") / given.database_cores))
    return Plan(
        rate,
        processes,
        cores("gateway"),
        max(math.ceil(cores("gate master")), _FEWEST["gate"]),
        databases,
        cores("postgres primary") / databases,
        max(_PARTITIONS, math.ceil(max(cores("stats"), cores("notify")))),
        max(LANES * databases, math.ceil(cores("relay"))),
        cores("kafka"),
        rate * costs.log_bytes_per_purchase,
        rate * costs.database_bytes_per_purchase * given.hours * 3600,
    )


def lines_of(costs: Costs, given: Assumptions = ASSUMED, rates: Sequence[int] = RATES) -> list[str]:
    """The plans side by side, and the ceilings, for people."""
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as shown:
        console.print(_table([plan(costs, rate, given) for rate in rates], given))
    found = ceilings(costs, given)
    return [
        *shown.get().splitlines(),
        f"Ceilings: one tier {found.tier:,.0f}/s, one event {found.event:,.0f}/s, one primary {found.primary:,.0f}/s",
    ]


def _table(plans: Sequence[Plan], given: Assumptions) -> "Table":
    from rich.table import Table

    shown = Table("purchases a second", *(f"{one.rate:,}" for one in plans))
    for column in shown.columns[1:]:
        column.justify = "right"
    for name in plans[0].processes:
        shown.add_row(f"{name} processes", *(f"{one.processes[name]:,}" for one in plans))
    shown.add_row("gateway cores", *(f"{one.gateway_cores:,.0f}" for one in plans))
    shown.add_row("gate masters", *(f"{one.gate_masters:,}" for one in plans))
    shown.add_row("databases (1 + 2 each)", *(f"{one.databases:,}" for one in plans))
    shown.add_row("cores of each primary", *(f"{one.primary_cores:,.0f}" for one in plans))
    shown.add_row("relay lanes", *(f"{one.lanes:,}" for one in plans))
    shown.add_row("partitions of a topic", *(f"{one.partitions:,}" for one in plans))
    shown.add_row("Kafka cores", *(f"{one.brokers_cores:,.0f}" for one in plans))
    shown.add_row("log, all databases", *(f"{one.log_bytes_per_second / 1e6:,.0f} MB/s" for one in plans))
    hours = f"database after {given.hours:g} h"
    shown.add_row(hours, *(f"{one.database_bytes / 1e9:,.0f} GB" for one in plans))
    return shown


def _micros(costs: Costs) -> Mapping[str, float]:
    """By component."""
    return {cost.component: cost.microseconds_per_purchase for cost in costs.components}


def _rate(cores: float, micros: float) -> float:
    return cores * 1e6 / micros if micros else math.inf
