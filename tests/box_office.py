"""A stage for tests of the sale: events written straight into PostgreSQL, and an auditor that trusts only SQL."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.errors import Refusal
from holdfast.gate.consumer import gate_consumer
from holdfast.gate.gate import Gate
from holdfast.orders.basket import Basket, basket_of
from holdfast.orders.cancel import Cancel
from holdfast.orders.confirm import Confirm
from holdfast.orders.order import ConfirmOrder, CreateOrder, LineAsked, Order
from holdfast.orders.reserve import Reserve
from holdfast.orders.workers import cancellations_consumer, payments_consumer
from holdfast.outbox.consume import AnyConsumer, Overtaken
from holdfast.outbox.direct import SQL, progress_of, step
from holdfast.payments.provider import Provider, Sandbox
from holdfast.settings import Settings
from holdfast.stats.record import stats_consumer
from holdfast.tickets.fresh import Fresh
from holdfast.tickets.sale import Sale, fresh_sales


class Event(NamedTuple):
    """An event on sale and its tiers."""

    id: UUID
    tiers: tuple[UUID, ...]

    def ask(self, *quantities: int) -> CreateOrder:
        """An order of so many tickets of each tier."""
        lines = [
            LineAsked(ids.encode(ids.TIER, tier), quantity)
            for tier, quantity in zip(self.tiers, quantities, strict=False)
            if quantity
        ]
        return CreateOrder(ids.encode(ids.EVENT, self.id), lines)


class Desk(NamedTuple):
    """One process's order service with everything a purchase passes."""

    settings: Settings
    pool: Pool
    gate: Gate
    sales: Fresh[Sale]
    reserve: Reserve
    confirm: Confirm
    cancel: Cancel
    provider: Provider

    async def buy(self, user: UUID, key: str, event: Event, *quantities: int) -> tuple[Order, bool]:
        """One purchase: the order, and whether it is new."""
        written = await self.reserve.reserve(user, key, _basket(event, quantities))
        if written.refusal is not None:
            raise written.refusal
        return msgspec.json.decode(written.body, type=Order), written.is_new

    async def try_buy(self, user: UUID, key: str, event: Event, *quantities: int) -> str:
        """One purchase: `made`, `again` or the code of its refusal."""
        try:
            _, is_new = await self.buy(user, key, event, *quantities)
        except Refusal as refusal:
            return refusal.code
        return "made" if is_new else "again"

    async def try_confirm(self, order: Order, key: str = "pay", token: str = "tok_ok") -> str:
        """One payment: the order's status afterwards, or the code of its refusal."""
        order_id, user_id = order_ids(order)
        try:
            return (await self.confirm.confirm(order_id, user_id, key, ConfirmOrder(token))).status
        except Refusal as refusal:
            return refusal.code

    async def try_cancel(self, order: Order, key: str = "away") -> str:
        """One cancel: the order's status afterwards, or the code of its refusal."""
        order_id, user_id = order_ids(order)
        try:
            return (await self.cancel.cancel(order_id, user_id, key)).status
        except Refusal as refusal:
            return refusal.code

    async def relay(self) -> None:
        """Lets every consumer read the outbox to its end."""
        for consumer in (
            gate_consumer(self.pool, self.gate),
            payments_consumer(self.pool, self.provider),
            cancellations_consumer(self.pool),
            stats_consumer(),
        ):
            await consume_all(self.pool, consumer)

    async def gate_free(self, event: Event) -> tuple[int, ...]:
        """What the gate believes to be free of each tier."""
        state = await self.gate.state(event.id)
        assert state is not None
        return tuple(state.free[tier] for tier in event.tiers)


@lru_cache
def _basket(event: Event, quantities: tuple[int, ...]) -> Basket:
    """The same one for the same request, as the door has it."""
    return basket_of(event.ask(*quantities))


@asynccontextmanager
async def open_desk(
    settings: Settings, pool: Pool, provider: Provider | None = None, **changed: object
) -> AsyncIterator[Desk]:
    """A desk with these settings changed."""
    settings = Settings(**{**settings.model_dump(), **changed})
    gate = Gate(settings)
    await gate.open()
    sales = fresh_sales(settings, pool)
    reserve = Reserve(settings, pool, gate, sales)
    provider = provider or Sandbox(settings)
    confirm = Confirm(settings, pool, provider)
    cancel = Cancel(settings)
    try:
        yield Desk(settings, pool, gate, sales, reserve, confirm, cancel, provider)
    finally:
        for drain in (reserve.drain, confirm.drain, cancel.drain, gate.close):
            await drain()


async def consume_all(pool: Pool, consumer: AnyConsumer) -> None:
    """Reads the outbox to its end for one consumer, as its owner would."""
    async with pool.acquire() as connection:
        position = await progress_of(connection, consumer.name)  # type: ignore[arg-type]
        for _ in range(100):
            try:
                looked_at, reached = await step(connection, consumer, position)  # type: ignore[arg-type]
            except Overtaken:
                # Another is at it, beside the test.
                position = await progress_of(connection, consumer.name)  # type: ignore[arg-type]
                continue
            if not looked_at and not await connection.fetch(SQL["rows"], *reached, 1, consumer.kinds):
                return
            if reached == position:
                await asyncio.sleep(0.05)
            position = reached
    raise AssertionError(f"consumer {consumer.name} does not come to the end of the outbox")


def order_ids(order: Order) -> tuple[UUID, UUID]:
    """The order's id and its user's."""
    order_id, user_id = ids.decode(ids.ORDER, order.id), ids.decode(ids.USER, order.user_id)
    assert order_id is not None
    assert user_id is not None
    return order_id, user_id


def counted(outcomes: Sequence[str]) -> dict[str, int]:
    """How often each outcome came."""
    return {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}


async def put_on_sale(
    pool: Pool, *capacities: int, hold_seconds: int = 600, tickets_per_user_max: int = 4, price: int = 120_000
) -> Event:
    """A published event with one tier per capacity."""
    event = Event(ids.new_id(), tuple(ids.new_id() for _ in capacities))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO tickets.events (id, organiser_id, name, starts_at, time_zone, status, hold_seconds, "
            "tickets_per_user_max) VALUES ($1, $2, 'Concert', now() + interval '30 days', 'Asia/Taipei', 'published', "
            "$3, $4)",
            event.id,
            ids.new_id(),
            hold_seconds,
            tickets_per_user_max,
        )
        for position, (tier, capacity) in enumerate(zip(event.tiers, capacities, strict=True)):
            await connection.execute(
                "INSERT INTO tickets.tiers (id, event_id, name, position, price_amount, currency) "
                "VALUES ($1, $2, $3, $4, $5, 'TWD')",
                tier,
                event.id,
                f"Tier {position}",
                position,
                price,
            )
            await connection.execute(
                "INSERT INTO tickets.stock (tier_id, event_id, capacity, state) VALUES ($1, $2, $3, 'open')",
                tier,
                event.id,
                capacity,
            )
        await connection.execute("INSERT INTO tickets.gates (event_id, epoch) VALUES ($1, 0)", event.id)
    return event


class Audit(NamedTuple):
    """What an auditor finds who counts orders instead of believing counters."""

    capacity: int
    held: int
    sold: int
    oversold: int
    counters_wrong: int
    users_over_limit: int
    duplicates: int
    tickets_wrong: int


async def audit(pool: Pool, event: Event) -> Audit:
    """Counts one event's orders, lines and tickets anew."""
    row = await pool.fetchrow(
        """
        WITH lines AS (
            SELECT o.status, o.user_id, l.tier_id, l.quantity FROM orders.orders o,
                   unnest(o.tier_ids, o.quantities) AS l (tier_id, quantity) WHERE o.event_id = $1
        ), tiers AS (
            SELECT s.tier_id, s.capacity, s.held, s.sold,
                   coalesce(sum(l.quantity) FILTER (WHERE l.status = 'reserved'), 0) AS real_held,
                   coalesce(sum(l.quantity) FILTER (WHERE l.status = 'confirmed'), 0) AS real_sold
            FROM tickets.stock s LEFT JOIN lines l USING (tier_id) WHERE s.event_id = $1
            GROUP BY s.tier_id
        ), users AS (
            SELECT c.user_id, c.tickets, c.tickets_max,
                   coalesce((SELECT sum(l.quantity) FROM lines l WHERE l.user_id = c.user_id
                             AND l.status IN ('reserved', 'confirmed')), 0) AS real_tickets
            FROM orders.user_tickets c WHERE c.event_id = $1
        )
        SELECT sum(capacity)::int AS capacity, sum(real_held)::int AS held, sum(real_sold)::int AS sold,
               sum(greatest(real_held + real_sold - capacity, 0))::int AS oversold,
               (count(*) FILTER (WHERE held <> real_held OR sold <> real_sold)
                + (SELECT count(*) FROM users WHERE tickets <> real_tickets))::int AS counters_wrong,
               (SELECT count(*) FROM users WHERE real_tickets > tickets_max)::int AS users_over_limit,
               (SELECT count(*) - count(DISTINCT (user_id, idempotency_key)) FROM orders.orders
                WHERE event_id = $1)::int AS duplicates,
               abs((SELECT count(*) FROM orders.tickets WHERE event_id = $1) - sum(real_sold))::int AS tickets_wrong
        FROM tiers
        """,
        event.id,
    )
    assert row is not None
    return Audit(**dict(row))


def assert_sound(found: Audit) -> None:
    """Every counter that must be 0 is 0."""
    assert found.oversold == 0
    assert found.counters_wrong == 0
    assert found.users_over_limit == 0
    assert found.duplicates == 0
    assert found.tickets_wrong == 0
