"""cancel: one conditional UPDATE picks the winner; the tickets go back in the same transaction."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from holdfast.errors import refuse
from holdfast.orders.basket import fingerprint
from holdfast.orders.batch import Batcher
from holdfast.orders.journal import SQL, read_orders
from holdfast.orders.order import CancelOrder, Order
from holdfast.orders.writer import Writer
from holdfast.settings import Settings


class CancelAsked(msgspec.Struct):
    """One cancel on its way."""

    order_id: UUID
    user_id: UUID
    idempotency_key: str
    fingerprint: bytes


class Cancel:
    """Cancels orders. One instance per process."""

    def __init__(self, settings: Settings) -> None:
        self._writer = Writer(settings)
        self._batches: Batcher[CancelAsked, Order] = Batcher(
            "cancel",
            self._cancel,
            size_max=settings.batch_orders_max,
            waiting_max=settings.purchases_waiting_max,
            seconds_max=settings.database_timeout_seconds,
            wait_seconds_max=settings.purchase_wait_seconds_max,
        )

    async def cancel(self, order_id: UUID, user_id: UUID, idempotency_key: str) -> Order:
        """The cancelled order. Raises a Refusal."""
        asked = CancelAsked(order_id, user_id, idempotency_key, fingerprint("cancel", CancelOrder(), order_id))
        return await self._batches.submit(asked)

    async def rehearse(self) -> None:
        """Has connection and statements ready."""
        await self._batches.rehearse()

    async def drain(self) -> None:
        """Answers what is under way and lets the connection go."""
        await self._batches.drain()
        await self._writer.close()

    async def _cancel(self, batch: list[CancelAsked]) -> Sequence[Order | BaseException]:
        rows = await self._writer.fetch(
            SQL["cancel"],
            [asked.order_id for asked in batch],
            [asked.user_id for asked in batch],
            [asked.idempotency_key for asked in batch],
            [asked.fingerprint for asked in batch],
        )
        outcomes = {row["ordinal"]: row["outcome"] for row in rows}
        orders = await read_orders(self._writer, [asked.order_id for asked in batch])
        return [_answer(outcomes[ordinal], orders.get(asked.order_id)) for ordinal, asked in enumerate(batch, start=1)]


def _answer(outcome: str, order: Order | None) -> Order | BaseException:
    if outcome in ("cancelled", "replay"):
        return order if order is not None else refuse("not_found")
    if outcome == "mismatch":
        return refuse("idempotency_key_mismatch")
    if outcome == "hold_expired":
        return refuse("invalid_state", "The hold has expired; its tickets have gone back.")
    if outcome == "invalid_state" and order is not None:
        return refuse("invalid_state", f"The order is {order.status}.")
    return refuse(outcome)
