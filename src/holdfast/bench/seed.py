"""Orders of the past, by the million: what a house that has sold for a year has in its database.

Everything agrees: counters with orders, tickets and payments with confirmed orders. Each buyer has five orders, of
five events, far apart from each other. The same number of orders is the same orders.
"""

import random
from hashlib import md5
from uuid import UUID

from holdfast.bench.trial import Say
from holdfast.engines.database import Pool, load_statements
from holdfast.errors import Mendable

ORDERS_PER_BUYER = 5
ORDERS_PER_EVENT_MAX = 50_000

_EVENTS_PER_STEP = 5
_STEP_SECONDS_MAX = 600.0
_SQL = load_statements("holdfast.bench", "seed.sql")


async def seed(pool: Pool, orders: int, say: Say) -> int:
    """Adds what is missing to so many orders of the past; answers how many there are.

    Raises Mendable where there are more already.
    """
    there = await _seeded(pool)
    if there > orders:
        raise Mendable(
            f"The data folder has {there:,} orders of the past, and this case wants {orders:,}: "
            "give a new one with --data."
        )
    first, buyers = there, max((orders - there) // ORDERS_PER_BUYER, 1)
    per_event = min(ORDERS_PER_EVENT_MAX, buyers)
    per_step = per_event * _EVENTS_PER_STEP
    while there < orders:
        end = min(there + per_step, orders)
        async with pool.acquire() as connection, connection.transaction():
            # Foreign keys need not be looked up for rows that are made to match: we are this PostgreSQL's superuser.
            await connection.execute("SET LOCAL session_replication_role = replica")
            await connection.execute(_SQL["events"], there, end, per_event)
            await connection.execute(
                _SQL["orders"],
                there,
                end,
                per_event,
                first,
                first // ORDERS_PER_BUYER,
                buyers,
                timeout=_STEP_SECONDS_MAX,
            )
        there = end
        say(f"seeding: {there:,} of {orders:,} orders of the past")
    if there > first:
        say("seeding: settling")
        await pool.execute(_SQL["settle"], timeout=_STEP_SECONDS_MAX)
        await pool.execute("CHECKPOINT", timeout=_STEP_SECONDS_MAX)
    return there


def seeded_users(count: int, orders: int) -> list[UUID]:
    """So many different buyers of so many orders of the past, or all of them; the same ones every time."""
    buyers = max(orders // ORDERS_PER_BUYER, 1)
    numbers = random.Random(0).sample(range(buyers), min(count, buyers))  # noqa: S311
    return [
        UUID(md5(f"holdfast past buyer {number}".encode(), usedforsecurity=False).hexdigest()) for number in numbers
    ]


async def _seeded(pool: Pool) -> int:
    return int(await pool.fetchval(_SQL["seeded"]))
