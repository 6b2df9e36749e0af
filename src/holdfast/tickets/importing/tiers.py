"""From the offers of an event to its tiers: how many tickets each has, and a name of its own."""

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from holdfast.currencies import major_units
from holdfast.tickets.event_fields import CAPACITY_MAX, TierFields
from holdfast.tickets.event_fields.texts import NAME_LENGTH_MAX


def share_capacity(stated: Sequence[int | None], total: int | None, default: int | None) -> list[int]:
    """How many tickets each tier has. Raises ValueError with the reason.

    `total` is how many the event has in all. Tiers that state nothing share what the others leave of it evenly, the
    first ones getting the rest: a guess that never sells more than there is. Without a total each gets `default`.
    """
    known = sum(count for count in stated if count is not None)
    silent = sum(count is None for count in stated)
    if total is not None and known > total:
        raise ValueError(f"its tiers have {known} tickets, and the whole event only {total}")
    if any(count is not None and count > CAPACITY_MAX for count in (*stated, total)):
        raise ValueError(f"has more than {CAPACITY_MAX} tickets")
    if not silent:
        return [count for count in stated if count is not None]
    if total is None and default is None:
        raise ValueError(
            "says nowhere how many tickets there are (inventoryLevel, maximumAttendeeCapacity); "
            "give a default capacity to take it"
        )
    each, rest = divmod(total - known, silent) if total is not None else (default or 0, 0)
    shares = iter([each + 1] * rest + [each] * (silent - rest))
    return [next(shares) if count is None else count for count in stated]


def with_names_of_their_own(tiers: Sequence[TierFields]) -> list[TierFields]:
    """The tiers, those that share a name told apart by their prices, or else by a number."""
    by_price = _renamed(tiers, lambda tier, _: f"{major_units(tier.price_amount, tier.currency)} {tier.currency}")
    return _renamed(by_price, lambda _, count: str(count), keep_first=True)


def _renamed(
    tiers: Sequence[TierFields], suffix: Callable[[TierFields, int], str], *, keep_first: bool = False
) -> list[TierFields]:
    names = Counter(tier.name for tier in tiers)
    taken = set(names)
    seen: Counter[str] = Counter()
    answer = []
    for tier in tiers:
        seen[tier.name] += 1
        name = tier.name
        if names[name] > 1 and not (keep_first and seen[name] == 1):
            count = seen[name]
            name = _with_suffix(tier.name, suffix(tier, count))
            while keep_first and name in taken:
                count += 1
                name = _with_suffix(tier.name, suffix(tier, count))
            taken.add(name)
        answer.append(msgspec.structs.replace(tier, name=name))
    return answer


def _with_suffix(name: str, suffix: str) -> str:
    return f"{name[: NAME_LENGTH_MAX - len(suffix) - 3]} ({suffix})"
