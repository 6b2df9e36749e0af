"""Rate limits in the memory of one process: GCRA over a bounded table of keys."""

from collections import OrderedDict
from collections.abc import Hashable

from holdfast.clock import monotonic_seconds


class Rate:
    """So many a second with a burst, for each key; the least recently seen keys are forgotten beyond `keys_max`.

    A forgotten key starts afresh, so the table bounds memory and never refuses anyone for its own sake.
    """

    def __init__(self, per_second: float, burst: int, keys_max: int = 100_000) -> None:
        self.per_second = per_second
        self.burst = burst
        self._interval = 1.0 / per_second
        self._tolerance = self._interval * burst
        self._keys_max = keys_max
        self._arrival_times: OrderedDict[Hashable, float] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Takes one: 0.0 when it may pass, else the seconds until the next one may."""
        now = monotonic_seconds()
        times = self._arrival_times
        arrival = max(times.get(key, now), now) + self._interval
        wait = arrival - now - self._tolerance
        if wait > 1e-9:
            return wait
        times[key] = arrival
        times.move_to_end(key)
        if len(times) > self._keys_max:
            times.popitem(last=False)
        return 0.0

    def remaining(self, key: Hashable) -> int:
        """How many more may pass at once."""
        now = monotonic_seconds()
        ahead = max(self._arrival_times.get(key, now) - now, 0.0)
        return max(int((self._tolerance - ahead) / self._interval + 1e-9), 0)
