"""What a purchase costs each component: processor time of whole process trees, none of it twice and none of it lost."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from box_office import open_desk, put_on_sale
from holdfast import ids
from holdfast.cluster import cost
from holdfast.cluster.cost import REST, Costs, Sample, Seen, components_of, costs, lines_of, measure, sample
from holdfast.cluster.layout import Layout
from holdfast.cluster.picture import MemberState
from holdfast.engines.database import Pool
from holdfast.errors import Mendable
from holdfast.settings import Settings

# Burns half a second of processor time each time it is told to: by itself, or by a child that then ends, or by one that
# lives on; says when it is done.
BURNING = """
import os, subprocess, sys, time
BURN = "import time\\nwhile time.process_time() < 0.5: pass"
for line in sys.stdin:
    if line == "self\\n":
        end = time.process_time() + 0.5
        while time.process_time() < end: pass
    elif line == "child\\n":
        subprocess.run([sys.executable, "-c", BURN])
    elif line == "living\\n":
        child = subprocess.Popen([sys.executable, "-c", BURN + "\\nprint(flush=True)\\nimport sys; sys.stdin.read()"],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
    print(os.getpid(), flush=True)
"""


class Burner:
    """A process that uses processor time when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid

    def burn(self, *ways: str) -> None:
        """Half a second for each way, done by the end of this call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for way in ways:
            self._process.stdin.write(f"{way}\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline()


@contextmanager
def burner() -> Iterator[Burner]:
    with subprocess.Popen(
        [sys.executable, "-c", BURNING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Burner(process)


def used(found: Costs) -> dict[str, float]:
    """Processor seconds by component."""
    return {cost.component: cost.cpu_seconds for cost in found.components}


def test_the_time_of_a_tree_is_its_own_and_that_of_children_alive_and_ended() -> None:
    with burner() as busy, burner() as idle:
        components = {"busy": [busy.pid], "idle": [idle.pid]}
        before = sample(components)
        busy.burn("self", "child", "living")
        found = costs(before, sample(components), purchases=1000)
    # The start of two interpreters is in it too.
    assert 1.45 < used(found)["busy"] < 3
    assert used(found)["idle"] < 0.1
    assert [cost.component for cost in found.components] == ["busy", "idle"]
    dearest = found.components[0]
    assert dearest.microseconds_per_purchase == pytest.approx(dearest.cpu_seconds * 1000)
    assert dearest.cores == pytest.approx(dearest.cpu_seconds / found.seconds)


def test_what_a_child_used_before_the_window_is_not_in_it() -> None:
    with burner() as busy:
        busy.burn("child", "living", "self")
        before = sample({"busy": [busy.pid]})
        found = costs(before, sample({"busy": [busy.pid]}), purchases=1)
    assert used(found)["busy"] < 0.1


def test_a_component_within_another_is_its_own() -> None:
    with burner() as inner:
        parts = {"outer": [_parent_of(inner.pid)], "inner": [inner.pid]}
        before = sample(parts)
        inner.burn("self")
        found = used(costs(before, sample(parts), purchases=1))
    assert found["inner"] > 0.4
    assert found["outer"] < 0.4


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def test_several_roots_are_one_component_and_the_rest_of_the_machine_is_told() -> None:
    with burner() as one, burner() as other, burner() as stranger:
        before = sample({"both": [one.pid, other.pid]})
        for each in (one, other, stranger):
            each.burn("self")
        found = costs(before, sample({"both": [one.pid, other.pid]}), purchases=10)
    assert used(found)["both"] > 0.9
    assert found.components[0].processes == 2
    assert found.rest.component == REST
    assert found.rest.cpu_seconds > 0.4
    text = "\n".join(lines_of(found))
    assert "10 purchases" in text
    assert "all components" in text
    assert REST in text


def test_what_cannot_be_measured_says_why() -> None:
    with burner() as one:
        before = sample({"one": [one.pid]})
    with pytest.raises(Mendable, match="has ended"):
        sample({"one": [one.pid]})
    another = Sample(before.at_seconds + 1, {"one": {one.pid: Seen(0, 0)}}, before.machine_ticks)
    with pytest.raises(Mendable, match="was started anew"):
        costs(before, another, purchases=1)
    with pytest.raises(Mendable, match="Nothing was bought"):
        costs(before, before, purchases=0)


async def test_purchases_of_the_window_alone_are_counted(
    settings: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = await put_on_sale(pool, 100)
    async with open_desk(settings, pool) as desk:

        async def buy(count: float) -> None:
            for _ in range(int(count)):
                order, _ = await desk.buy(ids.new_id(), "key", event, 2)
                assert await desk.try_confirm(order) == "confirmed"
            # A hold is no purchase.
            await desk.buy(ids.new_id(), "key", event, 1)

        await buy(3)
        # In the window something is bought instead of waiting.
        monkeypatch.setattr(cost, "asyncio", SimpleNamespace(sleep=buy))
        with burner() as one:
            found = await measure({"one": [one.pid]}, settings.database_url.get_secret_value(), 2)
        await buy(1)
    assert found.purchases == 2
    assert found.log_bytes_per_purchase > 1000
    assert "bytes of the log" in lines_of(found)[-1]


def test_members_of_one_kind_and_role_are_one_component(tmp_path: Path) -> None:
    layout = Layout(tmp_path, 12_000, 8000)
    for number in (1, 2):
        data = layout.folder(f"postgres-{number}") / "data"
        data.mkdir(parents=True)
        (data / "postmaster.pid").write_text(f"{1000 + number}\n{data}\n")

    def member(name: str, kind: str, role: str, pid: int | None) -> MemberState:
        return MemberState(name, kind, role, "well" if pid else "down", pid, None, 1, 0)

    members = [
        member("postgres-1", "postgres", "primary", 1),
        member("postgres-2", "postgres", "standby", 2),
        member("gate-1", "gate", "master", 3),
        member("gate-2", "gate", "replica", 4),
        member("orders-1", "orders", "", 5),
        member("orders-2", "orders", "", 6),
        member("relay-1", "worker", "worker", 7),
        member("stats", "worker", "worker", 8),
    ]
    assert components_of(members, layout) == {
        "patroni": [1, 2],
        "postgres primary": [1001],
        "postgres standby": [1002],
        "gate master": [3],
        "gate replica": [4],
        "orders": [5, 6],
        "relay": [7],
        "stats": [8],
    }
    with pytest.raises(Mendable, match="orders-3 is down"):
        components_of([*members, member("orders-3", "orders", "", None)], layout)
