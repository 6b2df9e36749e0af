"""What is seen of a rush while it runs: a table that moves in a terminal, a line a second anywhere else.

It goes to standard error, so that standard output is the report's alone.
"""

import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from holdfast import clock

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_LINE_SECONDS = 1.0


class Moment(NamedTuple):
    """A rush at one moment."""

    seconds: float
    capacity: int
    sold: int
    held: int
    accepted: int
    refused: int
    tried_again: int
    p50_ms: float
    p99_ms: float


class View(Protocol):
    """Where a rush is shown. Entered when it begins, left when it ends."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def say(self, text: str) -> None:
        """One line beside the moving part."""

    def show(self, moment: Moment) -> None:
        """The rush as it is now."""


def open_view() -> View:
    """The view that suits standard error."""
    return LiveView() if sys.stderr.isatty() else PlainView()


class PlainView:
    """Lines, at most one a second while the rush runs."""

    def __init__(self) -> None:
        self._shown_at = clock.monotonic_seconds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, text: str) -> None:
        """One line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def show(self, moment: Moment) -> None:
        """One line, unless there was one within the last second."""
        now = clock.monotonic_seconds()
        if now - self._shown_at < _LINE_SECONDS:
            return
        self._shown_at = now
        self.say(
            f"{moment.seconds:5.1f} s  sold {moment.sold:,} of {moment.capacity:,}  held {moment.held:,}  "
            f"refused {moment.refused:,}  tried again {moment.tried_again:,}  "
            f"p50 {moment.p50_ms:.1f} ms  p99 {moment.p99_ms:.1f} ms"
        )


class LiveView:
    """A table that is drawn anew in place."""

    def __init__(self) -> None:
        # Imported only where there is a terminal: it costs a tenth of a second.
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.live import Live

        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line above the table."""
        self._console.print(text, markup=False)

    def show(self, moment: Moment) -> None:
        """The table anew."""
        if self._live is not None:
            self._live.update(_table(moment), refresh=True)


def _table(moment: Moment) -> "Table":
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("sold", f"[bold green]{moment.sold:,}[/] of {moment.capacity:,}")
    table.add_row("", ProgressBar(total=max(moment.capacity, 1), completed=moment.sold, width=40))
    table.add_row("held", f"[yellow]{moment.held:,}[/]")
    table.add_row("refused", f"{moment.refused:,}")
    table.add_row("tried again", f"{moment.tried_again:,}")
    table.add_row("orders accepted", f"{moment.accepted:,}")
    table.add_row("latency", f"p50 {moment.p50_ms:.1f} ms   p99 {moment.p99_ms:.1f} ms")
    table.add_row("elapsed", f"{moment.seconds:.1f} s")
    return table
