"""The loops that look after orders: holds that end, payments whose outcome is not known, what the outbox asks for."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog

from holdfast.engines.database import AWAY, Pool
from holdfast.errors import Busy
from holdfast.orders.confirm import Confirm
from holdfast.orders.journal import SQL
from holdfast.outbox.consume import Consumer, OutboxRow, wait
from holdfast.payments.provider import Answer, Provider
from holdfast.settings import Settings

_ORDERS_MAX = 500
_PAYMENTS_MAX = 200
_KEYS_MAX = 5000
_IN_FLIGHT_SECONDS = 2.0
"""A payment younger than this is still being asked for by the process that began it."""

_log = structlog.get_logger(__name__)


async def expire_holds(pool: Pool, stop: asyncio.Event, poll_seconds: float) -> None:
    """Ends holds whose time is over, until `stop`. Any number may run."""
    while not stop.is_set():
        expired = 0
        try:
            expired = await pool.fetchval(SQL["expire"], _ORDERS_MAX)
        except AWAY as error:
            _log.warning("expiry waits", error=type(error).__name__)
        if expired:
            _log.info("holds expired", orders=expired)
        if expired < _ORDERS_MAX:
            await wait(stop, poll_seconds)


async def resolve_payments(
    settings: Settings, pool: Pool, provider: Provider, confirm: Confirm, stop: asyncio.Event
) -> None:
    """Asks the provider about payments whose outcome is not known, until `stop`. Any number may run."""
    while not stop.is_set():
        try:
            undecided: list[UUID] = []
            for row in await pool.fetch(SQL["unresolved_payments"], _IN_FLIGHT_SECONDS, _PAYMENTS_MAX):
                answer = await _ask(provider, row["id"], row["provider_token"])
                is_young = row["age_seconds"] < settings.payment_unknown_seconds
                if answer is Answer.PENDING or (answer is Answer.UNKNOWN and is_young):
                    undecided.append(row["id"])
                    continue
                sold = await confirm.settle(row["id"], row["tickets"], answer)
                _log.info("payment resolved", payment_id=str(row["id"]), outcome=sold.outcome)
            if undecided:
                await pool.execute(SQL["payments_asked"], undecided)
        except (*AWAY, Busy) as error:
            _log.warning("payments wait", error=type(error).__name__)
        await wait(stop, settings.payments_poll_seconds)


async def forget_keys(settings: Settings, pool: Pool, stop: asyncio.Event) -> None:
    """Deletes idempotency keys of confirm and cancel past their retention, until `stop`."""
    while not stop.is_set():
        try:
            while await _deleted(pool, settings.idempotency_retention_seconds) == _KEYS_MAX:
                await asyncio.sleep(0)
        except AWAY as error:
            _log.warning("old keys stay", error=type(error).__name__)
        await wait(stop, 600)


def payments_consumer(pool: Pool, provider: Provider) -> Consumer:
    """Captures what was authorised and voids what led to no tickets, at the provider."""

    async def handle(rows: Sequence[OutboxRow]) -> int:
        captured = [row.subject for row in rows if row.kind == "payment.authorised"]
        voided = [row.subject for row in rows if row.kind == "payment.voiding"]
        try:
            for payment_id in captured:
                await provider.capture(payment_id)
            for payment_id in voided:
                await provider.void(payment_id)
        except (OSError, TimeoutError) as error:
            _log.warning("provider away", error=type(error).__name__)
            return 0
        await _settled(pool, captured, "authorised", "captured")
        await _settled(pool, voided, "voiding", "voided")
        return len(rows)

    return Consumer("payments", ("payment.authorised", "payment.voiding"), handle)


def cancellations_consumer(pool: Pool) -> Consumer:
    """Cancels the reserved orders of a cancelled event. One that is just being paid for ends by itself."""

    async def handle(rows: Sequence[OutboxRow]) -> int:
        for row in rows:
            while await pool.fetchval(SQL["cancel_of_event"], row.scope, _ORDERS_MAX):
                await asyncio.sleep(0)
        return len(rows)

    return Consumer("cancellations", ("event.cancelled",), handle)


async def _ask(provider: Provider, payment_id: UUID, token: str) -> Answer:
    try:
        return await provider.look_up(payment_id, token)
    except (OSError, TimeoutError):
        return Answer.PENDING


async def _settled(pool: Pool, payment_ids: list[UUID], before: str, after: str) -> None:
    if payment_ids:
        await pool.execute(SQL["payments_settled"], payment_ids, before, after)


async def _deleted(pool: Pool, seconds: int) -> int:
    return int((await pool.execute(SQL["forget_keys"], float(seconds), _KEYS_MAX)).split()[-1])
