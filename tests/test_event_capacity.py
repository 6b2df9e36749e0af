"""Capacity may grow, and shrink only to what is held and sold, also while others buy: the CHECK decides."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from ticket_house import TicketHouse, ticket_house


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[TicketHouse]:
    async with ticket_house(settings, pool) as opened:
        yield opened


async def shrink(house: TicketHouse, event_id: str, tier_id: str, capacity: int) -> str:
    reply = await house.ask("olga", "PATCH", f"/events/{event_id}/tiers/{tier_id}", json={"capacity": capacity})
    return str(reply.json().get("code", reply.status_code))


async def race(house: TicketHouse) -> tuple[int, int]:
    """Shrinks a tier while a hold of most of it is being committed; answers what is in use, and the capacity."""
    event = await house.event()
    tier_id = event["tiers"][0]["id"]
    key = ids.decode(ids.TIER, tier_id)
    bob = await asyncpg.connect(house.catalogue.settings.database_url.get_secret_value())
    try:
        async with bob.transaction():
            await bob.execute("SELECT tickets.hold($1, $2)", [key], [80])
            shrinking = asyncio.create_task(shrink(house, event["id"], tier_id, 50))
            # It has read 0 held and now waits for the row that Bob's order has.
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%tickets.stock%'"
            )
            while not await house.pool.fetchval(waiting):
                await asyncio.sleep(0)
        await shrinking
    finally:
        await bob.close()
    row = await house.pool.fetchrow("SELECT held + sold AS used, capacity FROM tickets.stock WHERE tier_id = $1", key)
    assert row is not None
    return row["used"], row["capacity"]


async def test_capacity_shrinks_to_what_is_in_use(house: TicketHouse) -> None:
    event = await house.event()
    tier_id = event["tiers"][0]["id"]
    await house.hold(tier_id, 60)
    assert await shrink(house, event["id"], tier_id, 59) == "capacity_in_use"
    assert await shrink(house, event["id"], tier_id, 60) == "200"
    assert await shrink(house, event["id"], tier_id, 1_000) == "200"
    assert await house.told(event["id"]) == ["event.changed 2", "event.changed 3", "event.changed 4"]


async def test_a_hold_that_commits_meanwhile_is_not_undercut(house: TicketHouse) -> None:
    used, capacity = await race(house)
    assert (used, capacity) == (80, 100)


async def test_without_the_check_it_is_undercut(house: TicketHouse) -> None:
    await house.pool.execute("ALTER TABLE tickets.stock DROP CONSTRAINT stock_not_oversold")
    used, capacity = await race(house)
    assert used > capacity


async def test_shrinking_and_buying_at_once_never_oversells(house: TicketHouse) -> None:
    event = await house.event()
    tier_id = event["tiers"][0]["id"]

    async def buy() -> bool:
        try:
            await house.hold(tier_id, 7)
        except asyncpg.CheckViolationError:
            return False
        return True

    bought, _ = await asyncio.gather(
        asyncio.gather(*(buy() for _ in range(20))),
        asyncio.gather(*(shrink(house, event["id"], tier_id, capacity) for capacity in (90, 70, 50, 30, 10))),
    )
    row = await house.pool.fetchrow("SELECT held, capacity FROM tickets.stock")
    assert row is not None
    assert row["held"] == 7 * sum(bought) <= row["capacity"]


async def test_a_price_change_leaves_the_orders_that_were_made(house: TicketHouse) -> None:
    event = await house.event()
    tier_id = event["tiers"][0]["id"]
    await house.pool.execute(
        "INSERT INTO orders.orders (id, user_id, event_id, idempotency_key, fingerprint, tier_ids, quantities,"
        " unit_prices, tickets, total_amount, currency, created_at, expires_at) "
        "VALUES ($1, $1, $2, 'k', '', $3, '{2}', '{80000}', 2, 160000, 'TWD', now(), now())",
        ids.new_id(),
        ids.decode(ids.EVENT, event["id"]),
        [ids.decode(ids.TIER, tier_id)],
    )
    await house.ask("olga", "PATCH", f"/events/{event['id']}/tiers/{tier_id}", json={"price": {"amount": 1}})
    assert await house.pool.fetchval("SELECT total_amount FROM orders.orders") == 160_000
    assert await house.pool.fetchval("SELECT price_amount FROM tickets.tiers") == 1
