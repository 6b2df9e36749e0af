"""Orders of the past: they agree with everything, and the same number of them is the same orders."""

import pytest

from holdfast.bench.seed import ORDERS_PER_BUYER, seed, seeded_users
from holdfast.doctor.checks import check_database
from holdfast.engines.database import Pool
from holdfast.errors import Mendable
from holdfast.settings import Settings


def unheard(_: str) -> None:
    """Nobody listens."""


async def test_the_doctor_finds_nothing_wrong_with_them(settings: Settings, pool: Pool) -> None:
    assert await seed(pool, 1_000, unheard) == 1_000
    assert await seed(pool, 3_010, unheard) == 3_010
    assert [check for check in await check_database(settings) if not check.ok] == []
    found = await pool.fetchrow(
        "SELECT count(*) AS orders, count(*) FILTER (WHERE status = 'confirmed') AS confirmed, "
        "count(DISTINCT user_id) AS people, (SELECT sum(sold) FROM tickets.stock) AS sold FROM orders.orders"
    )
    assert found is not None
    assert found["orders"] == 3_010
    assert found["people"] == 3_010 // ORDERS_PER_BUYER
    assert found["confirmed"] == found["sold"]
    assert 450 < found["confirmed"] < 750


async def test_a_buyer_has_five_orders_of_five_events(pool: Pool) -> None:
    await seed(pool, 1_000, unheard)
    [alice] = seeded_users(1, 1_000)
    orders = await pool.fetch(
        "SELECT id, event_id, created_at FROM orders.orders WHERE user_id = $1 ORDER BY id", alice
    )
    assert len(orders) == len({order["event_id"] for order in orders}) == ORDERS_PER_BUYER
    # A UUIDv7 is ordered by time, and says when it was.
    assert [order["created_at"] for order in orders] == sorted(order["created_at"] for order in orders)
    assert all(abs((order["id"].int >> 80) / 1000 - order["created_at"].timestamp()) < 1 for order in orders)


async def test_there_cannot_be_fewer_than_there_are(pool: Pool) -> None:
    await seed(pool, 100, unheard)
    assert await seed(pool, 100, unheard) == 100
    with pytest.raises(Mendable, match="give a new one"):
        await seed(pool, 50, unheard)


def test_buyers_are_the_same_every_time_and_no_more_than_there_are() -> None:
    assert seeded_users(50, 1_000) == seeded_users(50, 1_000)
    assert len(set(seeded_users(50, 1_000))) == 50
    assert len(seeded_users(500, 1_000)) == 1_000 // ORDERS_PER_BUYER
