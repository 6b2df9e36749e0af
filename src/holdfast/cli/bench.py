"""`holdfast bench`: how fast it is, measured on a house of its own and audited."""

import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from holdfast.cli.output import JsonOption, report
from holdfast.cli.up import WORKERS_DEFAULT

if TYPE_CHECKING:
    from holdfast.bench.figures import Figure
    from holdfast.bench.house import Build
    from holdfast.bench.run import Places

EXIT_VOID = 1

_COLUMNS = ("case", "rate /s", "no-op /s", "ratio", "p50 ms", "p99 ms", "p99.9 ms", "CPU µs", "")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(bench)


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Which cases.", show_default="most")
    ] = None,
    as_json: JsonOption = False,
    show_list: Annotated[bool, typer.Option("--list", help="Say which cases there are.")] = False,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.2, max=60, help="How long a run is measured.", show_default="10; open loop 60"),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=1024, help="How many connections the client has.")] = 64,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="How many server processes.", show_default=f"{WORKERS_DEFAULT}; of a cluster 2 of each"
        ),
    ] = None,
    on_cluster: Annotated[
        bool, typer.Option("--cluster", help="Measure a `holdfast cluster` through its gateway.")
    ] = False,
    scale: Annotated[
        float, typer.Option(min=0.01, max=1, help="Less of everything that is counted, for a quick look.")
    ] = 1.0,
    orders: Annotated[int, typer.Option(min=1000, max=5_000_000, help="How many orders `memory` makes.")] = 2_000_000,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the report and the plots go.")] = Path(
        "bench-results"
    ),
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the data folders go.", show_default="a temporary folder")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the temporary folder there.")] = False,
) -> None:
    """Measure how fast Holdfast is on this machine: engines, server and client together.

    It starts a Holdfast of its own and drives it over HTTP with a compiled client. Each figure stands beside that of a
    POST that does nothing, and is void unless PostgreSQL has everything that the client was told.

    The exit status is 1 if a figure is void.
    """
    from holdfast.bench.cases import all_cases
    from holdfast.bench.run import choose, run_bench
    from holdfast.bench.trial import Options
    from holdfast.cli.logs import log_to_standard_error

    log_to_standard_error(logging.ERROR)
    cases = all_cases(workers or WORKERS_DEFAULT)
    if show_list:
        for case in cases:
            typer.echo(f"{case.name:<16}{case.what}" + ("" if case.is_standard else " (only when named)"))
        return
    chosen = choose(cases, names or [])
    options = Options(seconds, connections, scale, orders)
    _end_in_order_on_sigterm()
    with _folders(data, out, keep=keep) as places:
        found = run_bench(chosen, options, workers, places, _say, _tell, _build(on_cluster=on_cluster))
    files = [found.file, *_plots(found.figures, out)]
    lines = [*_table(found.figures), "", *(f"{file}" for file in files)]
    if sys.stdout.isatty() and not as_json:
        _show(found.figures)
        lines = lines[-len(files) :]
    report(found.as_json(), lines, as_json=as_json)
    if not found.is_sound:
        raise typer.Exit(EXIT_VOID)


def _build(*, on_cluster: bool) -> "Build":
    if on_cluster:
        from holdfast.cluster.measured import ClusterHouse

        return ClusterHouse
    from holdfast.bench.house import OneMachine

    return OneMachine


def _tell(figure: "Figure") -> None:
    _say(f"  {_in_a_line(figure)}")


@contextmanager
def _folders(data: Path | None, out: Path, *, keep: bool) -> "Iterator[Places]":
    from holdfast.bench.run import Places

    out.mkdir(parents=True, exist_ok=True)
    # Beside the report, not where temporary files go: that is in memory on many systems, where fsync costs nothing.
    temporary = Path(tempfile.mkdtemp(prefix="running-", dir=out)).absolute()
    try:
        places = Places(data or temporary / "data", temporary / "client", out)
        for folder in (places.data, places.client):
            folder.mkdir(parents=True, exist_ok=True)
        yield places
    finally:
        if keep and data is None:
            _say(f"kept: {temporary}")
        else:
            shutil.rmtree(temporary, ignore_errors=True)


def _end_in_order_on_sigterm() -> None:
    def end(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _plots(figures: "list[Figure]", out: Path) -> list[Path]:
    try:
        from holdfast.bench.plots import draw
    except ImportError:
        _say("No plots: matplotlib is not installed (`pip install holdfast[bench]`, or `make setup-dev`).")
        return []
    return draw(figures, out)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _in_a_line(figure: "Figure") -> str:
    cells = zip(_COLUMNS, _row(figure), strict=True)
    return "  ".join(f"{name} {cell}".strip() for name, cell in cells if cell)


def _row(figure: "Figure") -> list[str]:
    remarks = [f"VOID: {'; '.join(figure.findings)}"] if figure.void else []
    if figure.share is not None:
        remarks.append(f"{figure.share:.0%} of alone")
    if figure.memory:
        grown = max(figure.memory.items(), key=lambda item: item[1]["growth"])
        remarks.append(f"{grown[0]} {grown[1]['growth']:+.1%} memory")
    return [
        figure.case,
        f"{figure.rate:,.0f}",
        f"{figure.noop:,.0f}",
        f"{figure.ratio:.3f}",
        f"{figure.p50_ms:.1f}",
        f"{figure.p99_ms:.1f}",
        f"{figure.p999_ms:.1f}",
        f"{figure.cpu_us_per_order:.0f}",
        ", ".join(remarks),
    ]


def _table(figures: "list[Figure]") -> list[str]:
    rows = [list(_COLUMNS), *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return [
        "  ".join(
            cell.ljust(width) if column in (0, len(widths) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _show(figures: "list[Figure]") -> None:
    """The table as a terminal can have it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if column in (0, len(_COLUMNS) - 1) else "right")
    for figure in figures:
        table.add_row(*_row(figure), style="red" if figure.void else None)
    Console().print(table)
