"""The load client: compiles load.c, runs it and reads what it has written down.

What it sends and how its open and closed loops work stands at the top of load.c, which includes load_input.h.
"""

import math
import re
import shutil
import subprocess
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from holdfast.errors import Mendable

UNSENT, BROKEN, TIMED_OUT = 0, -1, -2
"""What the log says in place of a status where no answer came."""

_SOURCE = Path(__file__).with_name("load.c")
_FLAGS = ("-O2", "-std=c11")
_PLACEHOLDER = re.compile("@([0-9A-Za-z]+)@")
_EMPTY_LINE = re.compile("\r?\n\r?\n")
_KNOWN = frozenset("123456789n")
_GRACE_SECONDS = 60
"""What the client may take for its start and its end, above its own bounds, before it is ended."""


class Load(msgspec.Struct, frozen=True):
    """What to drive: requests made of templates, with lines, for a time."""

    url: str
    templates: list[str]
    """Requests without Content-Length, with @1@ to @9@ and @n@ to fill in; request i uses template i mod count."""
    connections: int
    seconds: float
    lines: list[str] | Path | None = None
    """Tab-separated fields for @1@ to @9@; request i uses line i mod count."""
    then: str | None = None
    """A request that follows each 2xx answer on its connection, with @id@ for that answer's id."""
    once: bool = False
    """Whether it ends when each line has been used once."""
    rate: float | None = None
    """Requests a second whatever the server does (open loop); None asks again on each answer (closed loop)."""
    drain_seconds: float = 10.0
    timeout_seconds: float = 10.0
    count: int | None = None
    """How many first requests at most."""


class _Totals(msgspec.Struct):
    """The client's own JSON object: at its end, and once a second what there is of it."""

    seconds: float
    sent: int
    broken: int
    timed_out: int
    in_window: dict[str, int]
    late_p99_us: int
    late_max_us: int
    connections: int
    cpu_seconds: float


class Outcome:
    """What came of one run: its totals, and the log's lines, one for each request. Needs the log while it is asked."""

    def __init__(self, totals: bytes, log: Path, timeout_seconds: float) -> None:
        told = msgspec.json.decode(totals, type=_Totals)
        self.seconds = told.seconds
        """The window: shorter than asked for where the requests ran out."""
        self.cpu_seconds = told.cpu_seconds
        self.late_p99_ms = told.late_p99_us / 1000
        self.late_max_ms = told.late_max_us / 1000
        """How late the client itself was, in the open loop: sent after intended though a connection was free. The
        maximum counts in both loops how long it stood still because the machine did not let it run."""
        self.connections = told.connections
        """Opened, the ones after others broke included."""
        self.log = log
        self._in_window = told.in_window
        self._timeout_us = math.ceil(timeout_seconds * 1_000_000)
        self._stages, self._statuses, self._latencies = _columns(log)
        self._sorted: dict[int, array[int]] = {}
        self._counts: dict[int, Counter[int]] = {}
        counts = self.statuses(0) + self.statuses(1)
        self.unsent, self.broken, self.timed_out = counts[UNSENT], counts[BROKEN], counts[TIMED_OUT]
        self.sent = counts.total() - self.unsent

    def rate(self, stage: int = 0, status: int = 201) -> float:
        """Answers with that status that came within the window, per second of it."""
        return self._in_window.get(f"{stage}:{status}", 0) / self.seconds if self.seconds > 0 else 0.0

    def statuses(self, stage: int = 0) -> Counter[int]:
        """How often each status came, the ones without an answer included; answers of the drain too."""
        if stage not in self._counts:
            self._counts[stage] = Counter(
                status for of, status in zip(self._stages, self._statuses, strict=True) if of == stage
            )
        return self._counts[stage]

    def latencies(self, stage: int = 0, *statuses: int) -> "array[int]":
        """Microseconds in the order of the log; of these statuses, or of all requests where none is named.

        What had no answer counts with the time-out, or longer where it waited longer.
        """
        return array(
            "q",
            (
                latency if status > UNSENT else max(latency, self._timeout_us)
                for of, status, latency in zip(self._stages, self._statuses, self._latencies, strict=True)
                if of == stage and (not statuses or status in statuses)
            ),
        )

    def percentile_ms(self, percent: float, stage: int = 0) -> float:
        """The latency that so many percent of all requests did not exceed: exact, by nearest rank; 0.0 of none."""
        if stage not in self._sorted:
            self._sorted[stage] = array("q", sorted(self.latencies(stage)))
        found = self._sorted[stage]
        if not found:
            return 0.0
        # Rounded first, or 99.9 percent of a thousand would be a hair more than 999.
        rank = math.ceil(round(percent / 100 * len(found), 6))
        return found[min(max(rank, 1), len(found)) - 1] / 1000

    def ids(self, stage: int = 0, status: int = 201) -> list[tuple[int, str]]:
        """Of each answer with this status: the index of the line it was asked with, and its id ("-": it had none)."""
        wanted = [str(stage), str(status)]
        return [(int(row[4]), row[5]) for row in _rows(self.log) if row[:2] == wanted]


class LoadClient:
    """The compiled client. `folder` keeps it and what it is given; it is the caller's to delete."""

    def __init__(self, folder: Path) -> None:
        """Compiles it. Raises Mendable where that cannot be done."""
        self._folder = folder
        self._program = folder / "load"
        self._runs = 0
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise Mendable(
                "The bench compiles its load client and there is no C compiler: install gcc "
                "(`apt-get install build-essential`, or your system's package of that kind)."
            )
        done = subprocess.run(  # noqa: S603
            [compiler, *_FLAGS, "-o", str(self._program), str(_SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            said = next((line for line in done.stderr.splitlines() if "error" in line), "it does not say why").strip()
            raise Mendable(
                f"{compiler} cannot compile the load client ({said}): install gcc and the C library's headers "
                "(`apt-get install build-essential`, or your system's package of that kind)."
            )

    def run(self, load: Load, progress: Callable[[str], None]) -> Outcome:
        """One run, with the client's line a second given to `progress`.

        Raises Mendable with the client's own sentence, or RuntimeError where it ended without one.
        """
        self._runs += 1
        log = self._folder / f"{self._runs}.log"
        process = subprocess.Popen(  # noqa: S603
            [str(self._program), *self._arguments(load, log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # Its own bounds end it; this one is for a client that does not hold them.
        seconds_max = load.seconds + load.drain_seconds + load.timeout_seconds + _GRACE_SECONDS
        watchdog = threading.Timer(seconds_max, process.kill)
        watchdog.start()
        try:
            said = _follow(process, progress)
            totals = process.communicate()[0]
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()
        if process.returncode == 2:
            raise Mendable(said)
        if process.returncode != 0:
            raise RuntimeError(f"The load client ended with {process.returncode}: {said}")
        return Outcome(totals, log, load.timeout_seconds)

    def _arguments(self, load: Load, log: Path) -> Iterator[str]:
        where = urlsplit(load.url)
        yield from ("--host", where.hostname or "", "--port", str(where.port or 80))
        yield from ("--connections", str(load.connections), "--seconds", str(load.seconds))
        for number, template in enumerate(load.templates):
            yield from ("--template", self._written(f"template-{number}", _request(template, where.netloc, _KNOWN)))
        if load.then is not None:
            yield from ("--then", self._written("then", _request(load.then, where.netloc, _KNOWN | {"id"})))
        if isinstance(load.lines, Path):
            yield from ("--lines", str(load.lines))
        elif load.lines is not None:
            yield from ("--lines", self._written("lines", _joined(load.lines)))
        if load.once:
            yield "--once"
        for option, value in (("--rate", load.rate), ("--count", load.count)):
            if value is not None:
                yield from (option, str(value))
        yield from ("--drain-seconds", str(load.drain_seconds), "--timeout-seconds", str(load.timeout_seconds))
        yield from ("--log", str(log))

    def _written(self, name: str, text: str) -> str:
        file = self._folder / f"{self._runs}.{name}"
        file.write_bytes(text.encode())
        return str(file)


def _request(template: str, host: str, placeholders: Set[str]) -> str:
    """The template as the client takes it: with CRLF, Host and Content-Length. Raises Mendable."""
    head, empty_line, body = _EMPTY_LINE.sub("\0", template, count=1).partition("\0")
    first, *headers = head.splitlines()
    if not empty_line or not re.fullmatch("(?!HEAD )[A-Z]+ [^ ]+ HTTP/1.1", first):
        raise Mendable(
            f"{first!r} begins no request: give a request line such as 'GET / HTTP/1.1', headers, a blank line."
        )
    names = {header.partition(":")[0].lower() for header in headers}
    if names & {"content-length", "transfer-encoding"}:
        raise Mendable(f"{first!r} says how long its body is: leave that header out, it is added.")
    if unknown := set(_PLACEHOLDER.findall(template)) - placeholders:
        raise Mendable(
            f"{first!r} has @{min(unknown)}@: only {', '.join(f'@{known}@' for known in sorted(placeholders))}."
        )
    if "host" not in names:
        headers.append(f"Host: {host}")
    if body or first.startswith("POST "):
        headers.append("Content-Length: @length@")
    return "\r\n".join([first, *headers, "", body])


def _follow(process: "subprocess.Popen[bytes]", progress: Callable[[str], None]) -> str:
    """Tells how far it is, a line a second; what else the client says."""
    assert process.stderr is not None
    said, before = "", 0
    for line in process.stderr:
        if not line.startswith(b"{"):
            said += line.decode(errors="replace")
            continue
        totals = msgspec.json.decode(line, type=_Totals)
        answers = sum(totals.in_window.values())
        counts = [f"{key.partition(':')[2]}: {count:,}" for key, count in totals.in_window.items()]
        if lost := totals.broken + totals.timed_out:
            counts.append(f"no answer: {lost:,}")
        progress(f"  {totals.seconds:.0f} s  {answers - before:,}/s  {'  '.join(counts)}")
        before = answers
    return said.strip()


def _joined(lines: Sequence[str]) -> str:
    assert not any("\n" in line for line in lines), "a line is one line"
    return "".join(f"{line}\n" for line in lines)


def _rows(log: Path) -> Iterator[list[str]]:
    with log.open(encoding="ascii") as written:
        for line in written:
            yield line.rstrip("\n").split("\t")


def _columns(log: Path) -> "tuple[array[int], array[int], array[int]]":
    """Stage, status and microseconds of each request: what all figures are made of, in little memory."""
    stages, statuses, latencies = array("b"), array("h"), array("q")
    for row in _rows(log):
        stages.append(int(row[0]))
        statuses.append(int(row[1]))
        latencies.append(int(row[2]))
    return stages, statuses, latencies
