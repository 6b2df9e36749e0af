"""The loops of a worker process, wired to the engines."""

import asyncio
from collections.abc import Coroutine

import structlog

from holdfast.assemble.transport import is_mailed, is_published, open_progress, run_consumer, run_relay
from holdfast.auth.workers import forget_sessions
from holdfast.engines.database import AWAY, Pool, open_pool
from holdfast.gate.consumer import gate_consumer
from holdfast.gate.gate import Gate, GateAway
from holdfast.gate.reconcile import Reconcile
from holdfast.notify.post import MailServer, mail_server
from holdfast.notify.record import announce_cancellations, forget_letters, notify_consumer
from holdfast.notify.sender import send_letters
from holdfast.orders.confirm import Confirm
from holdfast.orders.workers import (
    cancellations_consumer,
    expire_holds,
    forget_keys,
    payments_consumer,
    resolve_payments,
)
from holdfast.outbox.consume import wait
from holdfast.outbox.dead_letters import hand_over_wanted
from holdfast.payments.provider import Provider, Sandbox
from holdfast.settings import Settings
from holdfast.stats.record import count_sales, forget_sales, stats_consumer

WORKERS = ("expiry", "relay", "payments", "stats", "notify", "reconcile")

_USE_THE_GATE = frozenset({"relay", "reconcile"})

_log = structlog.get_logger(__name__)


async def run_workers(settings: Settings, names: frozenset[str], stop: asyncio.Event) -> None:
    """Runs these of WORKERS until `stop`. Each is safe to run twice. Raises Mendable where one is not set up."""
    if len(names) > 1 and not is_mailed(settings):
        # Nobody is written to. Asked for alone, it says what it lacks.
        names -= {"notify"}
    mail = mail_server(settings) if "notify" in names else None
    pool = await open_pool(settings)
    gate = Gate(settings)
    if names & _USE_THE_GATE:
        await gate.open()
    provider = Sandbox(settings)
    confirm = Confirm(settings, pool, provider)
    loops: dict[str, list[Coroutine[object, object, None]]] = {name: [] for name in names}
    if "expiry" in loops:
        loops["expiry"] = [
            expire_holds(pool, stop, settings.expiry_poll_seconds),
            forget_keys(settings, pool, stop),
            forget_sessions(settings, pool, stop),
        ]
    if "relay" in loops:
        loops["relay"] = [_relay(settings, pool, gate, provider, stop)]
    if "payments" in loops:
        loops["payments"] = [resolve_payments(settings, pool, provider, confirm, stop)]
    if "stats" in loops:
        loops["stats"] = [_count(settings, pool, stop), forget_sales(settings, pool, stop)]
    if mail is not None:
        loops["notify"] = _notify(settings, pool, mail, stop)
    if "reconcile" in loops:
        loops["reconcile"] = [_reconcile(settings, pool, gate, stop)]
    try:
        async with asyncio.TaskGroup() as group:
            for some in loops.values():
                for loop in some:
                    group.create_task(loop)
    finally:
        await confirm.drain()
        await gate.close()
        await pool.close()


async def _relay(settings: Settings, pool: Pool, gate: Gate, provider: Provider, stop: asyncio.Event) -> None:
    progress = await open_progress(settings)
    try:
        async with asyncio.TaskGroup() as group:
            for one in (gate_consumer(pool, gate), payments_consumer(pool, provider), cancellations_consumer(pool)):
                group.create_task(run_consumer(settings, progress, one, stop))
            group.create_task(run_relay(settings, pool, stop))
    finally:
        await progress.close()


async def _count(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    if is_published(settings):
        await run_consumer(settings, pool, stats_consumer(), stop)
        return
    async with asyncio.TaskGroup() as group:
        group.create_task(count_sales(settings, pool, stop))
        group.create_task(hand_over_wanted(pool, stats_consumer(), stop))


def _notify(
    settings: Settings, pool: Pool, mail: MailServer, stop: asyncio.Event
) -> list[Coroutine[object, object, None]]:
    return [
        run_consumer(settings, pool, notify_consumer(), stop),
        announce_cancellations(settings, pool, stop),
        forget_letters(settings, pool, stop),
        *(send_letters(settings, pool, mail, stop) for _ in range(settings.mail_connections_max)),
    ]


async def _reconcile(settings: Settings, pool: Pool, gate: Gate, stop: asyncio.Event) -> None:
    reconcile = Reconcile(pool, gate)
    while not stop.is_set():
        try:
            await reconcile.run()
        except (*AWAY, GateAway) as error:
            _log.warning("reconcile waits", error=type(error).__name__)
        await wait(stop, settings.reconcile_seconds)
