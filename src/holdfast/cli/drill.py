"""`holdfast drill`: parts of a cluster of its own are killed, frozen and cut off while buyers come."""

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.output import JsonOption, report

if TYPE_CHECKING:
    from holdfast.drill.run import Outcome

EXIT_BROKEN = 1


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(drill)


def drill(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Which drills.", show_default="all")
    ] = None,
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Report as a table for docs/drills.md.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Say which drills there are.")] = False,
    runs: Annotated[
        int | None, typer.Option(min=1, max=100, help="How often each is done.", show_default="1; with a limit 5")
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="Shorter faults, and less time before and after.")] = False,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, max=600, help="How long a fault lasts.", show_default="each its own")
    ] = None,
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Purchases a second.")] = 300,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the report and the records go.")] = Path(
        "drill-results"
    ),
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The cluster's data folder.", show_default="a temporary one")
    ] = None,
) -> None:
    """Kill, freeze and cut off parts of a cluster while 300 people a second buy through its gateway.

    It starts a cluster of its own. Every request and answer goes to a record; afterwards an audit compares that with
    PostgreSQL, the gate, Kafka and the statistics. Buyers try again with the same key, for up to a minute.

    The exit status is 1 if a promise was broken.
    """
    import uvloop

    from holdfast.cli.logs import log_to_standard_error
    from holdfast.drill.drills import DRILLS, choose
    from holdfast.drill.report import as_json as all_of
    from holdfast.drill.report import in_a_line, markdown
    from holdfast.drill.rounds import Rounds, run_all

    log_to_standard_error(logging.ERROR)
    if show_list:
        for one in DRILLS:
            typer.echo(f"{one.name:<24}{one.what}")
        return
    chosen = choose(names) if names else list(DRILLS)
    out.mkdir(parents=True, exist_ok=True)

    def told(outcome: "Outcome") -> None:
        for line in (in_a_line(outcome), *(f"  {sentence}" for sentence in outcome.broken)):
            _say(line)

    with _folder(data, out) as folder:
        rounds = Rounds(chosen, runs, rate, seconds, is_short=short)
        try:
            outcomes = uvloop.run(run_all(folder, rounds, out, _say, told))
        except asyncio.CancelledError:
            raise typer.Exit(128 + signal.SIGTERM) from None
    lines = markdown(outcomes) if as_markdown else _table(outcomes)
    report(all_of(outcomes), lines, as_json=as_json)
    if not all(outcome.is_kept for outcome in outcomes):
        raise typer.Exit(EXIT_BROKEN)


@contextmanager
def _folder(data: Path | None, out: Path) -> Iterator[Path]:
    if data is not None:
        yield data
        return
    # Beside the report, not where temporary files go: that is in memory on many systems, where fsync costs nothing.
    folder = Path(tempfile.mkdtemp(prefix="cluster-", dir=out)).absolute()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _table(outcomes: "Sequence[Outcome]") -> list[str]:
    from holdfast.drill.report import COLUMNS, rows

    found = rows(outcomes)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if number else "left")
        for row in found:
            table.add_row(*row.cells, style=None if row.is_kept else "red")
        Console().print(table)
        return []
    cells = [list(COLUMNS), *([*row.cells] for row in found)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
