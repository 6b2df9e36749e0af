"""The drills one after another on one cluster, which is whole before each of them."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from holdfast.cluster.cluster import Cluster
from holdfast.cluster.wishes import Wishes
from holdfast.drill.drills import Drill
from holdfast.drill.faults import Scene
from holdfast.drill.report import as_json
from holdfast.drill.run import Outcome, Target, Timing, run_drill
from holdfast.drill.site import Site
from holdfast.engines.data_folder import DataFolder, Shape
from holdfast.settings import Settings

REPORT = "drills.json"

_FULL, _SHORT = Timing(before=10, after=10), Timing(before=2, after=1.5)
_SHORT_ALLOWANCE = 3.0
"""A short form is for tests, on machines that do something else too: interruptions may be so many times as long."""
_ACCESS_TOKEN_SECONDS = 3600
"""As long as a token may be: none is to run out during a drill."""


class Rounds(NamedTuple):
    """What is to be done."""

    drills: Sequence[Drill]
    runs: int | None
    """How often each is done; None: as often as the drill says."""
    rate: float
    seconds: float | None
    """How long each fault lasts; None: as long as the drill says."""
    is_short: bool


async def run_all(
    data: Path, rounds: Rounds, out: Path, say: Callable[[str], None], told: Callable[[Outcome], None]
) -> list[Outcome]:
    """All of it; records and the report go to the folder `out`. Raises Mendable."""
    outcomes: list[Outcome] = []
    this = asyncio.current_task()
    assert this is not None
    # As Ctrl-C does: the cluster is ended in order, whoever asks.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    async with AsyncExitStack() as stack:
        site = await open_site(stack, data, say)
        for drill in rounds.drills:
            for number in range(1, (rounds.runs or drill.runs) + 1):
                file = out / f"{drill.name}-{number}.jsonl"
                outcome = await run_one(site, drill, rounds, file)
                outcomes.append(outcome)
                told(outcome)
                (out / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(as_json(outcomes))))
    return outcomes


async def open_site(stack: AsyncExitStack, data: Path, say: Callable[[str], None]) -> Site:
    """A cluster with links, started; it ends with the stack."""
    cluster = Cluster(
        DataFolder(data, Shape.CLUSTER),
        Wishes(proxied=True),
        say,
        lambda what, seconds: say(f"{what}: {seconds:.1f} s"),
    )
    site = await stack.enter_async_context(Site(cluster, say))
    stack.push_async_callback(cluster.stop)
    await cluster.start()
    return site


async def run_one(site: Site, drill: Drill, rounds: Rounds, file: Path) -> Outcome:
    """One drill on a cluster that is whole."""
    await site.until_whole()
    seconds = rounds.seconds or (drill.short_seconds if rounds.is_short else drill.seconds)
    given = site.cluster.settings.model_dump() | {"access_token_seconds": _ACCESS_TOKEN_SECONDS}
    target = Target(site.url, Settings(**given), has_statistics=True)
    act = None if drill.fault is None else partial(_act, site, drill, seconds)
    timing = _SHORT if rounds.is_short else _FULL
    promise = drill.promise
    if rounds.is_short and promise.interruption_seconds is not None:
        promise = promise._replace(interruption_seconds=promise.interruption_seconds * _SHORT_ALLOWANCE)
    return await run_drill(target, drill.name, act, promise, rounds.rate, timing, file)


async def _act(site: Site, drill: Drill, seconds: float, mark: Callable[[str], None]) -> None:
    assert drill.fault is not None
    await drill.fault(Scene(site, seconds, mark))
