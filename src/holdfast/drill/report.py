"""The table of the drills: for people, for programs, and for docs/drills.md."""

from collections.abc import Sequence

import msgspec

from holdfast.drill.audit.judge import COUNTERS
from holdfast.drill.run import Outcome

COLUMNS = (
    "drill", "requests", "failed", "purchases", "failed", "interruption s", "lost acks", "oversold", "duplicates",
    "leaked", "events lost", "doubled", "disordered", "p50 ms", "p99 ms", "rest s",
)  # fmt: skip
"""`failed` stands behind what failed: requests that were made again, and purchases for good. p50 and p99 are before,
during and after the fault."""


class Row(msgspec.Struct):
    """All runs of one drill: the sums of what is counted, and the worst of what is measured."""

    drill: str
    runs: int
    cells: list[str]
    is_kept: bool


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each drill, in the order in which they were run first."""
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.drill, []).append(outcome)
    return [_row(name, runs) for name, runs in by_name.items()]


def markdown(outcomes: Sequence[Outcome]) -> list[str]:
    """The table as Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    return lines + [f"| {' | '.join(row.cells)} |" for row in rows(outcomes)]


def as_json(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Everything as one object."""
    is_kept = all(outcome.is_kept for outcome in outcomes)
    return {"kept": is_kept, "drills": msgspec.to_builtins(list(outcomes))}


def in_a_line(outcome: Outcome) -> str:
    """One outcome, as it is said when it is there."""
    found, verdict = outcome.figures, outcome.verdict
    counted = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name in COUNTERS if (count := int(getattr(verdict, name)))
    )
    p99 = " / ".join(f"{part.p99_ms:.0f}" for part in (found.before, found.during, found.after))
    return (
        f"{outcome.drill}: {found.purchases:,} purchases, {found.failed_purchases:,} failed; "
        f"{found.failed_attempts:,} of {found.requests:,} requests made again; "
        f"interruption {found.interruption_seconds:.2f} s; p99 {p99} ms; "
        f"at rest after {outcome.rest_seconds:.1f} s ({outcome.waited_for or 'at once'}); {counted or 'nothing lost'}"
    )


def _row(name: str, runs: Sequence[Outcome]) -> Row:
    found = [outcome.figures for outcome in runs]
    cells = [
        name if len(runs) == 1 else f"{name} ×{len(runs)}",
        f"{sum(one.requests for one in found):,}",
        f"{sum(one.failed_attempts for one in found):,}",
        f"{sum(one.purchases for one in found):,}",
        f"{sum(one.failed_purchases for one in found):,}",
        f"{max(one.interruption_seconds for one in found):.2f}",
        *(f"{sum(getattr(outcome.verdict, counter) for outcome in runs):,}" for counter in COUNTERS),
        _three([max(getattr(one, part).p50_ms for one in found) for part in ("before", "during", "after")]),
        _three([max(getattr(one, part).p99_ms for one in found) for part in ("before", "during", "after")]),
        f"{max(outcome.rest_seconds for outcome in runs):.1f}",
    ]
    return Row(name, len(runs), cells, all(outcome.is_kept for outcome in runs))


def _three(milliseconds: Sequence[float]) -> str:
    return " / ".join(f"{one:.0f}" for one in milliseconds)
