"""What the bench reports: one figure for each case, and the machine that it was measured on."""

import os
import platform
import statistics
import tempfile
from pathlib import Path

import msgspec

from holdfast import clock
from holdfast.bench.client.load import Outcome

PERCENTILES = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0)
"""Where the curve of latencies is drawn through."""


_FSYNCS = 101


class Figure(msgspec.Struct, omit_defaults=True):
    """One case, measured. Latency counts from the moment that a request was meant to be sent."""

    case: str
    rate: float
    """Right answers a second: orders made, confirmed, cancelled, refusals, log-ins, pages."""
    noop: float
    """What a POST that does nothing reaches a second: the mean of right before and right after."""
    ratio: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us_per_order: float
    """CPU time of the server, PostgreSQL, Valkey and the worker for each right answer; the client's stands apart."""
    void: bool
    """Whether the audit found that this figure is worth nothing."""
    seconds: float
    connections: int
    workers: int
    statuses: dict[str, int]
    """All answers by stage and status, such as 0:201."""
    cpu_by_process: dict[str, float]
    """Microseconds for each right answer, the client's too."""
    latency_ms: list[tuple[float, float]]
    """Percentile and milliseconds."""
    outbox_unread: int
    """State changes that a consumer had not read when the run was over."""
    outbox_seconds: float | None
    """How long it then took until all were read."""
    others_cores: float
    """How many cores were busy with what is not ours, while it was measured: the noise."""
    late_max_ms: float
    """The longest that the client itself stood still, since the machine did not let it run."""
    late_p99_ms: float | None = None
    """How late the client itself was in sending, in the open loop."""
    share: float | None = None
    """Of the rate of the same case without what was going on beside it."""
    memory: dict[str, dict[str, float]] | None = None
    """Private memory of each process in MiB at a third of the orders and at their end, and what it grew by."""
    findings: list[str] = []


class Latencies:
    """The latencies of a run. Of a purchase in two calls, those of the slower one."""

    def __init__(self, outcome: Outcome, stages: int) -> None:
        self._outcome = outcome
        self._stages = range(stages)

    def __call__(self, percentile: float) -> float:
        """In milliseconds."""
        return round(max(self._outcome.percentile_ms(percentile, stage) for stage in self._stages), 3)

    def curve(self) -> list[tuple[float, float]]:
        """For the plot."""
        return [(percentile, self(percentile)) for percentile in PERCENTILES]


def machine(data: Path) -> dict[str, object]:
    """What the figures were measured on, with the disk that `data` is on."""
    return {
        "cores": os.cpu_count(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(data),
        "fsync_ms": _fsync_ms(data),
    }


def _file_system(folder: Path) -> str | None:
    """The kind of file system: on tmpfs a commit costs nothing, and promises as much."""
    kinds = {}
    for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines():
        _, place, kind, *_ = line.split()
        kinds[Path(place.replace("\\040", " "))] = kind
    folder = folder.resolve()
    return next((kinds[place] for place in (folder, *folder.parents) if place in kinds), None)


def _fsync_ms(folder: Path) -> float:
    """What it takes to write a page to disk for good: the median of some."""
    took = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_FSYNCS):
            began = clock.monotonic_seconds()
            file.write(bytes(8192))
            file.flush()
            os.fdatasync(file.fileno())
            took.append(clock.monotonic_seconds() - began)
    return round(statistics.median(took) * 1000, 3)


def _field(file: str, name: str) -> str | None:
    for line in Path(file).read_text("utf-8", "replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
