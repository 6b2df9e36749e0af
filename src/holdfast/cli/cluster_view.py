"""How a cluster is shown: a table that moves in a terminal; elsewhere a line for each change."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.cluster.picture import MemberState, Picture

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("member", "role", "state", "pid", "port", "up", "restarts", "lag")
_RIGHT = {"pid", "port", "up", "restarts", "lag"}


class ClusterView:
    """Shows one picture after the other."""

    def __init__(self) -> None:
        self._live = None
        self._before: dict[str, MemberState] = {}
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(), auto_refresh=False, transient=True)
            self._live.start()

    def show(self, picture: Picture) -> None:
        """The cluster as it is now."""
        if self._live is not None:
            self._live.update(_table(picture), refresh=True)
        else:
            for line in self._changes(picture):
                sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """One line beside the table."""
        if self._live is not None:
            self._live.console.print(text, style="yellow", markup=False)
        else:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _changes(self, picture: Picture) -> list[str]:
        said = []
        for member in picture.members:
            before = self._before.get(member.name)
            self._before[member.name] = member
            if before is None:
                continue
            if member.state != before.state:
                said.append(f"{member.name} is {member.state}")
            elif member.role != before.role and member.kind in ("postgres", "gate"):
                said.append(f"{member.name} is now {member.role}")
        return said


def lines_of(picture: Picture) -> Sequence[str]:
    """The table as plain lines."""
    rows = [_COLUMNS, *(_row(member) for member in picture.members)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for cell, width, name in zip(row, widths, _COLUMNS, strict=True)
        ).rstrip()
        for row in rows
    ]
    return [*lines, "", _summary(picture)]


def _table(picture: Picture) -> "Table":
    from rich.table import Table

    # At the top: the end of a table that is longer than the terminal is not shown.
    table = Table(title=_summary(picture), box=None, header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=True)
    kind = None
    for member in picture.members:
        if kind not in (None, member.kind):
            table.add_section()
        kind = member.kind
        style = None if member.state == "well" else "bold red"
        table.add_row(
            *_row(member), style="bold green" if member.role in ("primary", "master") and not style else style
        )
    return table


def _row(member: MemberState) -> tuple[str, ...]:
    return (
        member.name, member.role, member.state, str(member.pid or ""), str(member.port or ""),
        _duration(member.uptime_seconds), str(member.restarts), member.lag,
    )  # fmt: skip


def _summary(picture: Picture) -> str:
    well = sum(member.state == "well" for member in picture.members)
    rate = "?" if picture.orders_per_second is None else f"{picture.orders_per_second:,.0f}"
    age = "?" if picture.outbox_age_seconds is None else f"{picture.outbox_age_seconds:.1f} s"
    return f"{well} of {len(picture.members)} members are well · {rate} orders/s · outbox {age} old"


def _duration(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
