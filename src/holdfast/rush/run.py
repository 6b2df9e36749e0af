"""One rush from beginning to end: the stage is set, the crowd buys, everything comes to rest, the audit judges."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import SplitResult

from holdfast.auth.tokens import Tokens
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import AWAY, Pool, open_pool
from holdfast.errors import Mendable, Refusal
from holdfast.gate.gate import Gate
from holdfast.rush.audit import Verdict, facts_at_rest, judge
from holdfast.rush.buyer import Buyer, Crowd
from holdfast.rush.http_client import Client, UnansweredError
from holdfast.rush.ledger import Ledger
from holdfast.rush.stage import Person, Sale, availability, invite, open_sale, until_shown
from holdfast.rush.view import Moment, View
from holdfast.settings import Settings

_WATCH_SECONDS = 0.2


class Plan(NamedTuple):
    """What was asked for."""

    url: SplitResult
    buyers: int
    tickets: int
    seconds_max: float
    rest_seconds_max: float
    connections_max: int
    seed: int


class Result(NamedTuple):
    """What came of it."""

    plan: Plan
    sale: Sale
    seconds: float
    rest_seconds: float
    ledger: Ledger
    verdict: Verdict

    def as_json(self) -> dict[str, object]:
        """The report as one object."""
        ledger, verdict = self.ledger, self.verdict
        return {
            "attempts": ledger.attempts,
            "accepted": len(ledger.orders),
            "confirmed": ledger.confirmations,
            "sold_out": ledger.refusals["sold_out"],
            "errors": ledger.errors,
            "p50_ms": ledger.latency.percentile_ms(50),
            "p99_ms": ledger.latency.percentile_ms(99),
            "capacity": verdict.capacity,
            "sold": verdict.sold,
            "oversold": verdict.oversold,
            "lost_acks": verdict.lost_acks,
            "duplicate_orders": verdict.duplicate_orders,
            "leaked": verdict.leaked,
            "buyers": self.plan.buyers,
            "seconds": round(self.seconds, 3),
            "rest_seconds": round(self.rest_seconds, 3),
            "seed": self.plan.seed,
            "event_id": self.sale.shown_id,
            "cancelled": ledger.cancellations,
            "user_limit_reached": ledger.refusals["user_limit_reached"],
            "busy": ledger.busy,
            "in_flight": ledger.in_flight,
            "rate_limited": ledger.rate_limited,
            "connection_errors": ledger.connection_errors,
            "server_errors": ledger.server_errors,
            "unexpected": dict(ledger.unexpected),
            "at_rest": verdict.is_at_rest,
            "findings": verdict.findings,
        }


async def run_rush(settings: Settings, plan: Plan, view: View) -> Result:
    """One rush. Raises Mendable where it cannot begin, or cannot be audited."""
    async with _opened(settings, plan) as (pool, gate, client):
        people, sale = await _set_stage(settings, plan, pool, client)
        view.say(f"{plan.buyers:,} buyers on {sale.capacity:,} tickets, seed {plan.seed}")
        ledger = Ledger()
        crowd = Crowd(client, ledger, sale, lambda user_id: Tokens(settings).issue(user_id, "buyer"))
        began = monotonic_seconds()
        await _let_in(crowd, plan, people, view)
        ended = monotonic_seconds()
        view.say(f"over after {ended - began:.1f} s; waiting for everything to come to rest")
        facts = await facts_at_rest(pool, gate, sale, plan.rest_seconds_max)
        return Result(plan, sale, ended - began, monotonic_seconds() - ended, ledger, judge(facts, ledger, sale))


@asynccontextmanager
async def _opened(settings: Settings, plan: Plan) -> AsyncIterator[tuple[Pool, Gate, Client]]:
    client = Client(plan.url, plan.connections_max)
    pool = await open_pool(settings, server_settings={})
    gate = Gate(settings)
    try:
        await gate.open()
        yield pool, gate, client
    finally:
        await client.close()
        await gate.close()
        # Not close(): a connection that broke in the middle must not keep us.
        pool.terminate()


async def _set_stage(settings: Settings, plan: Plan, pool: Pool, client: Client) -> tuple[list[Person], Sale]:
    where = f"{plan.url.scheme}://{plan.url.netloc}"
    try:
        await client.open(min(plan.connections_max, plan.buyers))
        people = await invite(settings, pool, client, plan.buyers)
        sale = await open_sale(settings, pool, plan.tickets)
        await until_shown(client, sale)
    except UnansweredError as error:
        raise Mendable(f"Nothing answers at {where} ({error}): start `holdfast up`, or give its --url.") from error
    except (*AWAY, Refusal) as error:
        raise Mendable(f"The database does not answer ({type(error).__name__}): see `holdfast doctor`.") from error
    return people, sale


async def _let_in(crowd: Crowd, plan: Plan, people: list[Person], view: View) -> None:
    """Everyone at once, until each has left or the time is over."""
    buyers = [Buyer(crowd, person, number, plan.seed) for number, person in enumerate(people)]
    with view:
        watching = asyncio.create_task(_watch(crowd, plan, view))
        buying = [asyncio.create_task(buyer.run()) for buyer in buyers]
        _, late = await asyncio.wait(buying, timeout=plan.seconds_max)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
    for task in buying:
        if not task.cancelled():
            task.result()


async def _watch(crowd: Crowd, plan: Plan, view: View) -> None:
    """Looks at the sale as everyone can, shows it, and says when everything is sold."""
    client = Client(plan.url, 1)
    began = monotonic_seconds()
    ledger = crowd.ledger
    sold = held = 0
    try:
        while True:
            tiers = await availability(client, crowd.sale)
            if tiers:
                sold, held = sum(tier.sold for tier in tiers), sum(tier.held for tier in tiers)
            if sold >= crowd.sale.capacity:
                crowd.sold_through.set()
            view.show(
                Moment(
                    seconds=monotonic_seconds() - began,
                    capacity=crowd.sale.capacity,
                    sold=sold,
                    held=held,
                    accepted=len(ledger.orders),
                    refused=ledger.refusals.total(),
                    tried_again=ledger.tried_again,
                    p50_ms=ledger.latency.percentile_ms(50),
                    p99_ms=ledger.latency.percentile_ms(99),
                )
            )
            await asyncio.sleep(_WATCH_SECONDS)
    finally:
        await client.close()
