"""One drill from beginning to end: buyers come, something is done to the cluster, they go on, everything comes to rest,
the small event is sold to its last ticket, and the audit judges."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult

import msgspec

from holdfast import clock
from holdfast.auth.tokens import Tokens
from holdfast.drill.audit.database import AWAY, look
from holdfast.drill.audit.judge import Verdict
from holdfast.drill.audit.settle import Auditor
from holdfast.drill.buyers.figures import Figures, figures
from holdfast.drill.buyers.load import Load, Pace
from holdfast.drill.buyers.record import Mark, Record
from holdfast.drill.buyers.stage import Stage, end_sales, set_stage
from holdfast.engines.database import Pool, open_pool
from holdfast.errors import Mendable
from holdfast.rush.http_client import Client, UnansweredError
from holdfast.settings import Settings

_CONNECTIONS_MAX = 4000
_ANSWER_SECONDS_MAX = 8.0
_NOT_DONE = "not carried out to its end: "
_CALM_LOOK_SECONDS = 0.1
_INVITED_SECONDS = 20.0
"""For so long beyond the time before and after the fault there are buyers with tokens; the others get theirs then."""
_CALM_SECONDS_MAX = 90.0
"""Buyers come for at most so long after the fault is over, if it does not become calm before."""


class Target(NamedTuple):
    """What is bought from: the gateway, and the engines behind it for the audit."""

    url: SplitResult
    settings: Settings
    """Of the engines, reached as the audit may, and with the signing key."""
    has_statistics: bool


class Timing(NamedTuple):
    """How long the parts of a drill take, in seconds."""

    before: float = 10.0
    """Buyers come so long before the fault."""
    after: float = 10.0
    """So long nothing may fail until the buyers stop coming."""
    rest_max: float = 60.0
    """So long may it take until everything has come to rest."""
    purchase_max: float = 60.0
    """So long does a buyer try."""


class Promise(NamedTuple):
    """What a drill must not exceed, beside the audit's counters, which must be 0. None: whatever it is."""

    interruption_seconds: float | None = None
    failed_purchases: int | None = 0
    failed_attempts: int | None = None
    rest_seconds: float | None = 60.0


class Outcome(msgspec.Struct, kw_only=True):
    """What came of one drill."""

    drill: str
    rate: float
    figures: Figures
    verdict: Verdict
    rest_seconds: float
    """From the last buyer's answer until everything had come to rest and agreed."""
    waited_for: str
    """What came to rest last."""
    marks: list[Mark]
    broken: list[str]
    """The promises that were not kept, in sentences."""

    @property
    def is_kept(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken


Act = Callable[[Callable[[str], None]], Awaitable[None]]
"""What is done to the cluster; it is given a function that notes in the record what was done now."""


async def run_drill(
    target: Target, name: str, act: Act | None, promise: Promise, rate: float, timing: Timing, file: Path
) -> Outcome:
    """One drill; its record goes to `file`. Raises Mendable where it cannot begin, or cannot be audited."""
    async with _pooled(target) as pool:
        stage = await set_stage(target.settings, pool)
    auditor = Auditor(target.settings, stage.events, [stage.waning], has_statistics=target.has_statistics)
    await auditor.begin()
    client = Client(target.url, _CONNECTIONS_MAX, _ANSWER_SECONDS_MAX)
    tokens = Tokens(target.settings)
    try:
        log_in = await _account(client)
        with Record(file) as record:
            pace = Pace(rate, timing.purchase_max)
            load = Load(client, record, stage.booths, lambda user: tokens.issue(user, "buyer"), pace, log_in)
            load.invite(int(rate * (timing.before + timing.after + _INVITED_SECONDS)))
            found = await _under_load(load, record, stage, act, timing)
            settled = await auditor.until_sound(record.purchases, timing.rest_max)
            unsold = await _sell_out(target, stage, load, record)
            last = await auditor.until_sound(record.purchases, timing.rest_max)
    finally:
        await client.close()
    async with _pooled(target) as pool:
        await end_sales(pool, stage.events)
    verdict = last.verdict
    if unsold:
        verdict.leaked += 1
        verdict.findings.append(f"leaked: {unsold}")
    broken = _broken(promise, found, verdict, settled.seconds, record.marks)
    return Outcome(
        drill=name,
        rate=rate,
        figures=found,
        verdict=verdict,
        rest_seconds=round(settled.seconds, 2),
        waited_for=settled.waited_for,
        marks=record.marks,
        broken=broken,
    )


async def _under_load(load: Load, record: Record, stage: Stage, act: Act | None, timing: Timing) -> Figures:
    """Buyers come until the fault is over and it has been calm for a while."""
    for sale in range(len(stage.booths)):
        # The first to come to an event finds nothing warm: that is another story.
        load.begin(load.purchase(sale))
    await load.rest()
    began_at = record.now()
    stop = asyncio.Event()
    coming = asyncio.create_task(load.run(stop))
    try:
        await asyncio.sleep(timing.before)
        if act is not None:
            try:
                await act(record.mark)
            except (TimeoutError, Mendable) as error:
                # What was to come after the fault did not: that is a finding, and the buyers go on.
                record.mark(f"{_NOT_DONE}{type(error).__name__} {error}".strip())
        await _until_calm(record, timing.after)
    finally:
        ended_at = record.now()
        stop.set()
        await coming
    return figures(record, range(stage.main), began_at, ended_at)


async def _until_calm(record: Record, seconds: float) -> None:
    """Waits until nothing has failed for so long; not for ever."""
    now = clock.monotonic_seconds()
    deadline, calm_since = now + _CALM_SECONDS_MAX, now
    seen = len(record.attempts)
    while (now := clock.monotonic_seconds()) < min(deadline, calm_since + seconds):
        await asyncio.sleep(_CALM_LOOK_SECONDS)
        new, seen = record.attempts[seen:], len(record.attempts)
        if any(one.status == 0 or one.status == 429 or one.status >= 500 for one in new):
            calm_since = clock.monotonic_seconds()


async def _sell_out(target: Target, stage: Stage, load: Load, record: Record) -> str:
    """Sells the small event to its last ticket, one buyer after another: what is wrong with that."""
    try:
        event = stage.booths[stage.small].event_id
        found = await look(target.settings.database_url.get_secret_value(), [event], has_statistics=False)
    except AWAY as error:
        raise Mendable(f"The database cannot be audited ({type(error).__name__}: {error}).") from error
    free = sum(stock.capacity - stock.held - stock.sold for stock in found.stock.values())
    for number in range(free + 1):
        purchase = load.purchase(stage.small)
        await load.begin(purchase)
        if number < free and not purchase.is_confirmed:
            why = purchase.failed or purchase.refused
            return f"the small event cannot be sold to its end: {free - number} tickets are left, and one more is {why}"
        if number == free and purchase.refused != "sold_out":
            return "the small event was sold out, and a buyer was not told so"
    return ""


def _broken(
    promise: Promise, found: Figures, verdict: Verdict, rest_seconds: float, marks: Sequence[Mark]
) -> list[str]:
    broken = [*verdict.findings, *(mark.what for mark in marks if mark.what.startswith(_NOT_DONE))]
    limits: list[tuple[str, float, float | None]] = [
        ("seconds of interruption", found.interruption_seconds, promise.interruption_seconds),
        ("failed purchases", found.failed_purchases, promise.failed_purchases),
        ("failed attempts", found.failed_attempts, promise.failed_attempts),
        ("failed errands", found.failed_errands, promise.failed_purchases),
        ("stale reads", found.stale_reads, 0),
        ("seconds until rest", rest_seconds, promise.rest_seconds),
    ]
    broken += [
        f"{what}: {count:g}, promised at most {most:g}"
        for what, count, most in limits
        if most is not None and count > most
    ]
    return broken


@asynccontextmanager
async def _pooled(target: Target) -> AsyncIterator[Pool]:
    """A pool for a moment: one that looks after its servers during a drill would only be one more that asks."""
    try:
        pool = await open_pool(target.settings, server_settings={})
        try:
            yield pool
        finally:
            # Not close(): a connection that broke in the middle must not keep us.
            pool.terminate()
    except AWAY as error:
        what = f"The database does not answer ({type(error).__name__})"
        raise Mendable(f"{what}: a drill begins when everything runs.") from error


async def _account(client: Client) -> bytes:
    """An account of which buyers log in: the body of a log-in."""
    address = f"drill-{clock.unix_milliseconds()}@holdfast.example"
    body = msgspec.json.encode({"email": address, "password": f"correct horse {clock.unix_milliseconds()}"})
    try:
        reply = await client.request("POST", "/users/register", (), body)
    except UnansweredError as error:
        raise Mendable(f"The gateway does not answer ({error}): a drill begins when everything runs.") from error
    if reply.status != 201:
        said = reply.body[:200].decode("utf-8", "replace")
        raise Mendable(f"The gateway does not register buyers ({reply.status}: {said}).")
    return body
