"""What other rates would take is arithmetic: each figure is what its definition says."""

import math

import pytest

from holdfast.cluster.cost import REST, Cost, Costs
from holdfast.cluster.scale import Assumptions, ceilings, lines_of, plan

GIVEN = Assumptions(utilisation=0.5, database_cores=10, batch_orders=100, lock_seconds=0.002, hours=2)


def costs(**micros: float) -> Costs:
    """Costs of so many microseconds a purchase; an underscore is a space."""
    found = tuple(Cost(name.replace("_", " "), 1, 1.0, 1.0, each) for name, each in micros.items())
    return Costs(10.0, 1000, found, Cost(REST, 0, 1.0, 1.0, 1.0), 5000.0, 2000.0)


def test_a_process_of_python_is_one_core_half_used() -> None:
    found = plan(costs(orders=300, gateway=100, stats=20), 10_000, GIVEN)
    # 10,000 x 300 µs are 3 cores; half used, 6.
    assert found.processes == {"orders": 6, "stats": 1}
    assert found.gateway_cores == pytest.approx(2)


def test_what_failures_ask_for_is_there_at_any_rate() -> None:
    found = plan(costs(orders=300, relay=10, gate_master=1, postgres_primary=1), 1, GIVEN)
    assert (found.processes, found.gate_masters, found.databases) == ({"orders": 3, "relay": 2}, 3, 1)
    assert (found.partitions, found.lanes) == (16, 4)


def test_events_are_split_over_databases_when_one_primary_is_not_enough() -> None:
    few, many = (plan(costs(postgres_primary=200), rate, GIVEN) for rate in (25_000, 25_001))
    # 25,000 x 200 µs are 5 cores, half used 10: what one primary has.
    assert (few.databases, many.databases) == (1, 2)
    assert few.primary_cores == pytest.approx(10)
    assert many.lanes == 8


def test_the_gate_is_split_by_events_and_consumers_by_partitions() -> None:
    found = plan(costs(gate_master=20, stats=100, notify=400), 50_000, GIVEN)
    assert (found.gate_masters, found.partitions) == (2 + 1, 40)
    assert plan(costs(gate_master=20), 500_000, GIVEN).gate_masters == 20


def test_bytes_are_those_of_the_rate_and_the_hours() -> None:
    found = plan(costs(), 10_000, GIVEN)
    assert (found.log_bytes_per_second, found.database_bytes) == (50e6, 10_000 * 2000 * 7200)


def test_the_ceilings_are_what_one_row_one_thread_and_one_machine_can_do() -> None:
    found = ceilings(costs(gate_master=20, postgres_primary=200), GIVEN)
    assert found == pytest.approx((50_000, 25_000, 25_000))
    assert ceilings(costs(), GIVEN).event == math.inf


def test_people_see_all_rates_side_by_side() -> None:
    text = "\n".join(lines_of(costs(orders=300, gate_master=20, postgres_primary=200), GIVEN))
    for part in ("5,000", "50,000", "500,000", "orders processes", "databases", "one event 25,000/s"):
        assert part in text
