"""What a record says: how much failed, for how long nothing was sold, and how long buyers waited."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from holdfast.drill.buyers.record import Attempt, Errand, Purchase, Record, Step

SLOW_SECONDS = 2.0
"""A buyer who waits longer than this was disturbed."""


class Waiting(msgspec.Struct):
    """How long purchases of one stretch of time took, from their intended moment to their last answer."""

    purchases: int
    p50_ms: float
    p99_ms: float


class Figures(msgspec.Struct, kw_only=True):
    """The figures of one run."""

    purchases: int
    requests: int
    failed_attempts: int
    """Requests without the answer that was wanted: no answer, 5xx, 429, 202. Each was made again with its key."""
    failed_purchases: int
    """Buyers who did not get what they came for."""
    failed_errands: int
    """Looks at availability, reads of an order, and log-ins that failed for good."""
    stale_reads: int
    """Buyers who were shown an order as it was before what they had been told."""
    interruption_seconds: float
    """The longest time in which one of the large sales had no success, creates and confirms each for themselves."""
    resumed_seconds: float
    """From the fault until each of them had a success of a request that was sent after it."""
    disturbed_seconds: float
    """From the first to the last intended moment of a purchase that needed a second try or took over two seconds."""
    slow_purchases: int
    """Purchases that took over two seconds."""
    statuses: dict[str, int]
    """The failed attempts by step and answer."""
    failures: dict[str, int]
    """The failed purchases and errands by reason."""
    before: Waiting
    during: Waiting
    after: Waiting


def figures(record: Record, sales: Sequence[int], began_at: float, ended_at: float) -> Figures:
    """The figures of a record, of which these sales are the large ones; buyers came from `began_at` to `ended_at`."""
    fault_at = record.marks[0].at if record.marks else ended_at
    healed_at = record.marks[-1].at if record.marks else ended_at
    refused = {(one.number, one.refused) for one in record.purchases if one.refused and not one.failed}
    failed = [one for one in record.attempts if _is_failed(one, refused)]
    again = {one.purchase for one in failed if one.step in ("create", "confirm", "cancel")}
    disturbed = [
        one.intended_at
        for one in record.purchases
        if one.number in again or one.failed or (one.latency_seconds or 0) > SLOW_SECONDS
    ]
    failures = Counter(one.failed for one in record.purchases if one.failed)
    failures.update(_reason(one) for one in record.errands if one.failed or one.is_stale)
    successes = _successes(record, set(sales))
    return Figures(
        purchases=len(record.purchases),
        requests=len(record.attempts),
        failed_attempts=len(failed),
        failed_purchases=sum(bool(one.failed) for one in record.purchases),
        failed_errands=sum(bool(one.failed) for one in record.errands),
        stale_reads=sum(one.is_stale for one in record.errands),
        interruption_seconds=round(_longest_gap(successes, ended_at), 3),
        resumed_seconds=round(_resumed(successes, fault_at), 3) if record.marks else 0.0,
        disturbed_seconds=round(max(disturbed) - min(disturbed), 3) if disturbed else 0.0,
        slow_purchases=sum((one.latency_seconds or 0) > SLOW_SECONDS for one in record.purchases),
        statuses=dict(Counter(f"{one.step} {one.status or 'unanswered'} {one.said}".strip() for one in failed)),
        failures=dict(failures),
        before=_waiting(one for one in record.purchases if began_at <= one.intended_at < fault_at),
        during=_waiting(one for one in record.purchases if fault_at <= one.intended_at < healed_at),
        after=_waiting(one for one in record.purchases if one.intended_at >= healed_at),
    )


Successes = dict[tuple[int, Step], list[Attempt]]
"""(sale, step) -> what succeeded, in the order of the answers."""


def _successes(record: Record, sales: set[int]) -> Successes:
    found: Successes = defaultdict(list)
    for one in record.attempts:
        sale = record.purchases[one.purchase].sale
        if one.status in (200, 201) and one.step in ("create", "confirm") and sale in sales:
            found[sale, one.step].append(one)
    return found


def _longest_gap(successes: Successes, ended_at: float) -> float:
    """A sale with no success at all was interrupted all the time."""
    longest = 0.0 if successes else ended_at
    for answered in successes.values():
        # Answers that come after the last buyer are those of the ones who had to wait.
        moments = [one.answered_at for one in answered if one.answered_at <= ended_at]
        moments = [moments[0] if moments else ended_at, *moments, ended_at]
        longest = max(longest, *(after - before for before, after in pairwise(moments)))
    return longest


def _resumed(successes: Successes, fault_at: float) -> float:
    firsts = (
        next((one.answered_at for one in answered if one.sent_at >= fault_at), float("inf"))
        for answered in successes.values()
    )
    return max(firsts, default=float("inf")) - fault_at


def _is_failed(one: Attempt, refused: set[tuple[int, str]]) -> bool:
    return one.status not in (200, 201) and (one.purchase, one.said) not in refused


def _reason(errand: Errand) -> str:
    return errand.failed or f"{errand.step}: stale"


def _waiting(purchases: Iterable[Purchase]) -> Waiting:
    seconds = sorted(one.latency_seconds for one in purchases if one.latency_seconds is not None)
    return Waiting(len(seconds), _percentile_ms(seconds, 50), _percentile_ms(seconds, 99))


def _percentile_ms(seconds: Sequence[float], percent: float) -> float:
    if not seconds:
        return 0.0
    return round(seconds[min(len(seconds) - 1, int(len(seconds) * percent / 100))] * 1000, 1)
