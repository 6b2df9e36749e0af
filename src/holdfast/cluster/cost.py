"""What a purchase costs in processor time, component by component, while something buys from a running cluster.

A component is some process trees. A tree's time is what its processes have used, and what those of its children had
used that have ended and were waited for: the kernel adds that to their parent's, so that nothing is counted twice or
lost while the root lives. Time that the machine spends beside all components (who buys is among that) is told too.

    before = sample({"gateway": [pid], "orders": [pid, pid]})
    ...
    costs(before, sample(...), purchases=4_500)
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from holdfast import clock
from holdfast.cluster.layout import Layout
from holdfast.cluster.parts.services import WORKERS
from holdfast.cluster.picture import MemberState
from holdfast.engines.hosts.connection import connect_to_primary
from holdfast.engines.statements import load_statements
from holdfast.errors import Mendable

if TYPE_CHECKING:
    from rich.table import Table

_CONNECT_SECONDS = 10.0
_SQL = load_statements("holdfast.cluster", "cluster.sql")
_PROC = Path("/proc")
# Fields of /proc/PID/stat, counted after the command's closing parenthesis.
_PARENT, _STARTED = 1, 19
_TIMES = slice(11, 15)  # utime, stime, cutime, cstime
_IDLE = (3, 4)  # idle and iowait among those of the line `cpu` in /proc/stat
_GUEST = 8  # from here on the times are part of others
_WIDTH = 100
REST = "the rest of the machine"


class Seen(NamedTuple):
    """A root, in a form that no later process can be mistaken for, and the ticks that its tree has used."""

    started: int
    ticks: int


class Sample(NamedTuple):
    """One moment: the roots of each component by pid, and the busy ticks of the whole machine."""

    at_seconds: float
    components: dict[str, dict[int, Seen]]
    machine_ticks: int


class Cost(msgspec.Struct, frozen=True):
    """One component's processor time over the window."""

    component: str
    processes: int
    cpu_seconds: float
    cores: float
    microseconds_per_purchase: float


class Costs(msgspec.Struct, frozen=True):
    """All components, the dearest first, and the window that they were measured in."""

    seconds: float
    purchases: int
    components: tuple[Cost, ...]
    rest: Cost
    """What the machine did beside them."""
    log_bytes_per_purchase: float = 0.0
    """Of PostgreSQL's log; where that was not looked at, 0."""
    database_bytes_per_purchase: float = 0.0
    """By which the database grew, indexes included: tables grow in steps, so this takes a window of many purchases."""

    @property
    def purchases_per_second(self) -> float:
        """The rate at which they were measured."""
        return self.purchases / self.seconds

    @property
    def microseconds_per_purchase(self) -> float:
        """All components together, without the rest of the machine."""
        return sum(cost.microseconds_per_purchase for cost in self.components)


def sample(components: Mapping[str, Sequence[int]]) -> Sample:
    """What the process trees under these roots have used so far. Raises Mendable for a root that has ended."""
    found = _processes()
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, one in found.items():
        children[one.parent].append(pid)
    taken: dict[str, dict[int, Seen]] = {}
    all_roots = {root for roots in components.values() for root in roots}
    for name, roots in components.items():
        taken[name] = {}
        for root in roots:
            if root not in found:
                raise Mendable(f"{name} (pid {root}) has ended: measure again while all members are well.")
            ticks, ahead = 0, [root]
            while ahead:
                pid = ahead.pop()
                ticks += found[pid].ticks
                # A tree in another's is a component's own.
                ahead += [child for child in children[pid] if child not in all_roots]
            taken[name][root] = Seen(found[root].started, ticks)
    return Sample(clock.monotonic_seconds(), taken, _machine_ticks())


def costs(before: Sample, after: Sample, purchases: int) -> Costs:
    """What was used between two samples of the same roots. Raises Mendable where a root is another process by now."""
    if purchases < 1:
        raise Mendable("Nothing was bought in that time: measure while a load runs, such as that of `holdfast drill`.")
    seconds = after.at_seconds - before.at_seconds
    found, all_ticks = [], 0
    for name, roots in before.components.items():
        ticks = 0
        for pid, seen in roots.items():
            then = after.components[name].get(pid)
            if then is None or then.started != seen.started:
                raise Mendable(f"{name} (pid {pid}) was started anew meanwhile: measure again.")
            ticks += then.ticks - seen.ticks
        all_ticks += ticks
        found.append(_cost(name, len(roots), ticks, seconds, purchases))
    found.sort(key=lambda cost: -cost.cpu_seconds)
    rest = max(0, after.machine_ticks - before.machine_ticks - all_ticks)
    return Costs(seconds, purchases, tuple(found), _cost(REST, 0, rest, seconds, purchases))


async def measure(components: Mapping[str, Sequence[int]], database_url: str, seconds: float) -> Costs:
    """Samples twice, so many seconds apart, and counts what was bought meanwhile."""
    connection = await connect_to_primary(database_url, timeout=_CONNECT_SECONDS)
    try:
        began = await connection.fetchrow(_SQL["moment"])
        before = sample(components)
        await asyncio.sleep(seconds)
        after = sample(components)
        ended = await connection.fetchrow(_SQL["moment"])
        assert began is not None
        assert ended is not None
        purchases = await connection.fetchval(_SQL["bought"], began["at"], ended["at"])
    finally:
        await connection.close()
    return msgspec.structs.replace(
        costs(before, after, purchases),
        log_bytes_per_purchase=(ended["wal"] - began["wal"]) / purchases,
        database_bytes_per_purchase=(ended["size"] - began["size"]) / purchases,
    )


def components_of(members: Sequence[MemberState], layout: Layout) -> dict[str, list[int]]:
    """The roots of a cluster's components: members of one kind and role together, workers by what they work at.

    A PostgreSQL need not run under its Patroni, and is found by what it notes in its folder.
    """
    found: defaultdict[str, list[int]] = defaultdict(list)
    for member in members:
        if member.pid is None:
            raise Mendable(f"{member.name} is {member.state}: measure while all members are well.")
        if member.kind == "postgres":
            found["patroni"].append(member.pid)
            found[f"postgres {member.role}"].append(_postmaster(layout.folder(member.name) / "data", member.name))
        elif member.kind == "gate":
            found[f"gate {member.role}"].append(member.pid)
        elif member.kind == "worker":
            found[WORKERS[member.name]].append(member.pid)
        else:
            found[member.kind].append(member.pid)
    return dict(found)


def _postmaster(data: Path, name: str) -> int:
    try:
        return int((data / "postmaster.pid").read_text("utf-8", "replace").split("\n", 1)[0])
    except (OSError, ValueError) as error:
        raise Mendable(f"{name} runs no PostgreSQL: measure while all members are well.") from error


def lines_of(found: Costs) -> list[str]:
    """All of it for people, as a table."""
    from rich.console import Console

    console = Console(width=_WIDTH)
    with console.capture() as shown:
        console.print(_table(found))
    log, size = found.log_bytes_per_purchase, found.database_bytes_per_purchase
    return [*shown.get().splitlines(), f"A purchase: {log:,.0f} bytes of the log, {size:,.0f} bytes of the database"]


def _table(found: Costs) -> "Table":
    from rich.table import Table

    rate = f"{found.purchases:,} purchases in {found.seconds:.1f} s, {found.purchases_per_second:,.0f} a second"
    shown = Table("component", "processes", "CPU s", "cores", "µs a purchase", title=rate, title_justify="left")
    for column in shown.columns[1:]:
        column.justify = "right"
    for cost in found.components:
        shown.add_row(*_row(cost))
    shown.add_section()
    cpu = sum(cost.cpu_seconds for cost in found.components)
    cores = f"{cpu / found.seconds:.2f}"
    shown.add_row("all components", "", f"{cpu:.2f}", cores, f"{found.microseconds_per_purchase:,.0f}", style="bold")
    shown.add_row(*_row(found.rest), style="dim")
    return shown


class _Found(NamedTuple):
    """A process: its parent, when it started, and the ticks of itself and of its children that have ended."""

    parent: int
    started: int
    ticks: int


def _processes() -> dict[int, _Found]:
    found = {}
    for entry in os.listdir(_PROC):
        if not entry.isdecimal():
            continue
        try:
            text = (_PROC / entry / "stat").read_text("utf-8", "replace")
        except OSError:
            continue
        # The command stands in parentheses and may hold any byte, so look for the last one.
        fields = text.rpartition(") ")[2].split()
        ticks = sum(map(int, fields[_TIMES]))
        found[int(entry)] = _Found(int(fields[_PARENT]), int(fields[_STARTED]), ticks)
    return found


def _machine_ticks() -> int:
    fields = (_PROC / "stat").read_text("ascii").split("\n", 1)[0].split()[1:]
    return sum(int(field) for place, field in enumerate(fields[:_GUEST]) if place not in _IDLE)


def _cost(name: str, count: int, ticks: int, seconds: float, purchases: int) -> Cost:
    cpu_seconds = ticks / os.sysconf("SC_CLK_TCK")
    return Cost(name, count, cpu_seconds, cpu_seconds / seconds, cpu_seconds / purchases * 1e6)


def _row(cost: Cost) -> tuple[str, str, str, str, str]:
    count = str(cost.processes) if cost.processes else ""
    micros = f"{cost.microseconds_per_purchase:,.0f}"
    return cost.component, count, f"{cost.cpu_seconds:.2f}", f"{cost.cores:.2f}", micros
