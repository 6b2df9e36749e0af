"""What `up` says: a checklist with times, then where to go. Coloured in a terminal, plain lines otherwise."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, TextIO

from holdfast import clock

if TYPE_CHECKING:
    from rich.console import Console


class Checklist:
    """Writes to standard output, or to standard error where that is kept for JSON."""

    def __init__(self, *, to_error: bool) -> None:
        self._stream = sys.stderr if to_error else sys.stdout
        self._console = _console(self._stream) if self._stream.isatty() else None

    def say(self, text: str, style: str | None = None) -> None:
        """One line. That nobody reads any more stops nothing."""
        with suppress(OSError, ValueError):
            if self._console is None:
                self._stream.write(f"{text}\n")
                self._stream.flush()
            else:
                # As text, not as markup: a path or a log line may hold brackets.
                self._console.print(text, style=style, markup=False)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """One item of the list, ticked with its time when it is done. What is put into the list is said beside it."""
        began = clock.monotonic_seconds()
        remarks: list[str] = []
        with self._console.status(name) if self._console else nullcontext():
            yield remarks
        self.tick(name, clock.monotonic_seconds() - began, *remarks)

    def tick(self, name: str, seconds: float, *remarks: str) -> None:
        """One item that is done, with its time."""
        remark = f"  ({', '.join(remarks)})" if remarks else ""
        self.say(f"{'✓' if self._console else 'ok'}  {name:<34} {seconds:6.2f} s{remark}", "green")


def _console(stream: TextIO) -> "Console":
    # Imported only where there is a terminal: it costs a tenth of a second.
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=True)
