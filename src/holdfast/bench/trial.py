"""One case under way: the no-op beside it, the warm-up, the measured run, the audit, the figures."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from holdfast.bench.audit import audit, until_read
from holdfast.bench.client.load import Load, LoadClient, Outcome
from holdfast.bench.crowd import Crowd, Sale, end_sales, fresh, mint, noop_request, open_sale, strangers
from holdfast.bench.figures import Figure, Latencies
from holdfast.bench.house import House, busy_seconds
from holdfast.bench.ledger import Drive, Ledger
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool, open_pool
from holdfast.gate.gate import Gate
from holdfast.ids import new_id

BUYERS = 5_000
"""Enough that nobody meets a limit of their own at any speed, few enough that the warm-up can begin with everyone."""
BUYERS_MIN = 1_000


_NOOP_SECONDS = 2.0
_WARM_UP_SECONDS = 2.0
_EVERYONE_SECONDS_MAX = 15.0

_T = TypeVar("_T")
Say = Callable[[str], None]


class Options(NamedTuple):
    """What was asked for."""

    seconds: float | None = None
    connections: int = 64
    scale: float = 1.0
    orders: int = 2_000_000

    @property
    def run_seconds(self) -> float:
        """How long a run is measured."""
        return self.seconds or 10.0

    def scaled(self, count: int, least: int = 1) -> int:
        """So many, or fewer where less is wanted."""
        return max(least, int(count * self.scale))


class Pace(NamedTuple):
    """How a run is driven. With a rate it is an open loop, else each connection waits for its answer."""

    connections: int
    seconds: float
    rate: float | None = None
    once: bool = False
    """Every line of the crowd once, and the run is over when there is none left."""
    orders: int | None = None
    """How many first requests at most."""

    @property
    def warm_up_seconds(self) -> float:
        """How long it is driven before it counts."""
        return min(_WARM_UP_SECONDS, self.seconds / 2)

    def in_words(self) -> str:
        """For whoever waits for it."""
        extent = f"{self.seconds:g} s" if self.orders is None else f"{self.orders:,} orders"
        return extent + (f" at {self.rate:g}/s" if self.rate else "") + f" over {self.connections} connections"

    def load(self, url: str, drive: Drive) -> Load:
        """What the client is told."""
        return Load(
            url=url,
            templates=[fresh(template) for template in drive.templates],
            connections=self.connections,
            seconds=self.seconds,
            lines=drive.crowd.lines,
            then=drive.then and fresh(drive.then),
            once=self.once,
            rate=self.rate,
            count=self.orders,
        )


class Ground(NamedTuple):
    """The house that is measured, and the bench's own ways into it."""

    house: House
    client: LoadClient
    client_folder: Path
    pool: Pool
    gate: Gate
    runner: "asyncio.Runner"

    def wait_for(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Awaits something of PostgreSQL or the gate. Nothing of it goes on while a run is measured."""
        return self.runner.run(work)


@contextmanager
def opened(house: House, client: LoadClient, client_folder: Path) -> Iterator[Ground]:
    """A ground on a house that has come up."""
    settings = house.settings
    with asyncio.Runner() as runner:
        pool = runner.run(open_pool(settings, server_settings={}))
        gate = Gate(settings)
        try:
            runner.run(gate.open())
            yield Ground(house, client, client_folder, pool, gate, runner)
        finally:
            runner.run(gate.close())
            pool.terminate()


class Usage:
    """The CPU time of a run: of each kind of process of ours, and what others had of the machine meanwhile."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._began = monotonic_seconds()
        self._busy_before = busy_seconds()
        self._before = house.cpu_seconds()
        self.cpu_seconds: dict[str, float] = {}
        self.others_cores = 0.0

    def end(self, client_seconds: float) -> None:
        """When the run is over."""
        after = self._house.cpu_seconds()
        self.cpu_seconds = {kind: after[kind] - self._before[kind] for kind in after} | {"client": client_seconds}
        others = busy_seconds() - self._busy_before - sum(self.cpu_seconds.values())
        self.others_cores = max(others, 0.0) / (monotonic_seconds() - self._began)


class Trial:
    """One case."""

    def __init__(self, ground: Ground, options: Options, say: Say) -> None:
        self.ground = ground
        self.options = options
        self.say = say
        self.figures: list[Figure] = []
        self._ledger = Ledger()
        self.settings = ground.house.settings
        self.buyers = self.crowd(options.scaled(BUYERS, BUYERS_MIN))

    def open_sale(self, **differing: int) -> Sale:
        """An event that this case has for itself: see crowd.open_sale."""
        sale = self.ground.wait_for(open_sale(self.settings, self.ground.pool, **differing))
        self._ledger.sales.append(sale)
        return sale

    def crowd(self, count: int) -> Crowd:
        """So many people whom no server has seen yet."""
        return mint(self.settings, strangers(count))

    def pace(self, connections: int | None = None, seconds: float | None = None) -> Pace:
        """The closed loop that was asked for."""
        return Pace(connections or self.options.connections, seconds or self.options.run_seconds)

    def run(self, drive: Drive, pace: Pace) -> Outcome:
        """Drives without measuring. What the client is told counts for the audit all the same."""
        outcome = self.ground.client.run(pace.load(self.ground.house.url, drive), self.say)
        self._ledger.note(drive, outcome)
        return outcome

    def warm_up(self, drive: Drive, pace: Pace) -> Outcome:
        """A short run at the same pace. Where it is about orders, each buyer comes once before: a token costs more when
        it is seen for the first time, and that is a case of its own."""
        self.say("warm-up")
        if any(drive.answers.values()) and not pace.once:
            self.run(drive, Pace(pace.connections, _EVERYONE_SECONDS_MAX, once=True))
        return self.run(drive, pace._replace(seconds=pace.warm_up_seconds))

    def measure(
        self,
        case: str,
        drive: Drive,
        pace: Pace,
        before: Callable[[], object] | None = None,
        beside: tuple[Drive, Pace] | None = None,
    ) -> Figure:
        """The figure of one measured run, after `before`, which is a warm-up unless something else is given. Another
        client may drive something of its own `beside` both."""
        noops = [self._noop(pace.connections)]
        house = self.ground.house
        with self._beside(beside):
            (before or (lambda: self.warm_up(drive, pace)))()
            self._rest()
            self.say(f"measuring {case}: {pace.in_words()}")
            crew, usage = house.crew(), Usage(house)
            outcome = self.run(drive, pace)
            usage.end(outcome.cpu_seconds)
        unread, seconds = self._rest()
        if house.crew() != crew:
            self._ledger.findings.append(f"a process ended and was started again while {case} ran")
        noops.append(self._noop(pace.connections))
        figure = _figure(case, drive, pace, outcome, sum(noops) / 2, usage, house.workers)
        figure.outbox_unread, figure.outbox_seconds = unread, None if seconds == float("inf") else round(seconds, 2)
        self.figures.append(figure)
        return figure

    def audit(self) -> None:
        """Judges all figures of the case, and ends its sales."""
        self.say("audit")
        findings = self.ground.wait_for(audit(self.ground.pool, self.ground.gate, self._ledger))
        self.ground.wait_for(end_sales(self.ground.pool, self._ledger.sales))
        for figure in self.figures:
            figure.findings, figure.void = findings, bool(findings)

    @contextmanager
    def _beside(self, other: tuple[Drive, Pace] | None) -> Iterator[None]:
        if other is None:
            yield
            return
        drive, pace = other
        folder = self.ground.client_folder / "aside"
        folder.mkdir(exist_ok=True)
        client = LoadClient(folder)
        with ThreadPoolExecutor(1) as aside:
            under_way = aside.submit(client.run, pace.load(self.ground.house.url, drive), _unheard)
            yield
            self._ledger.note(drive, under_way.result())

    def _rest(self) -> tuple[int, float]:
        return self.ground.wait_for(until_read(self.ground.pool))

    def _noop(self, connections: int) -> float:
        """What a POST of the same size reaches that does nothing."""
        self.say("no-op")
        nowhere = Sale(new_id(), (new_id(),))
        drive = Drive([noop_request(nowhere)], self.buyers, [nowhere], {(0, 200): None})
        outcome = self.run(drive, Pace(connections, min(_NOOP_SECONDS, self.options.run_seconds / 2)))
        return outcome.rate(0, 200)


def _unheard(_: str) -> None:
    """The progress of what runs beside a measured run."""


def _figure(case: str, drive: Drive, pace: Pace, outcome: Outcome, noop: float, usage: Usage, workers: int) -> Figure:
    stage, status = drive.counted
    stages = 2 if drive.then else 1
    rate, answers = outcome.rate(stage, status), max(outcome.statuses(stage)[status], 1)
    latency = Latencies(outcome, stages)
    by_process = {kind: round(seconds * 1e6 / answers, 1) for kind, seconds in usage.cpu_seconds.items()}
    return Figure(
        case=case,
        rate=round(rate, 1),
        noop=round(noop, 1),
        ratio=round(rate / noop, 4) if noop else 0.0,
        p50_ms=latency(50),
        p99_ms=latency(99),
        p999_ms=latency(99.9),
        cpu_us_per_order=round(sum(cost for kind, cost in by_process.items() if kind != "client"), 1),
        void=True,  # until it was audited
        seconds=round(outcome.seconds, 3),
        connections=pace.connections,
        workers=workers,
        statuses={
            f"{stage}:{status}": count
            for stage in range(stages)
            for status, count in sorted(outcome.statuses(stage).items())
        },
        cpu_by_process=by_process,
        latency_ms=latency.curve(),
        outbox_unread=0,
        outbox_seconds=None,
        others_cores=round(usage.others_cores, 2),
        late_max_ms=round(outcome.late_max_ms, 3),
        late_p99_ms=round(outcome.late_p99_ms, 3) if pace.rate else None,
    )
