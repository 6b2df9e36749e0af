"""A commit whose answer is lost: the same statement is run again, and the outcome is one order, known to its buyer."""

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from box_office import Desk, Event, assert_sound, audit, open_desk, put_on_sale
from holdfast import ids
from holdfast.drill.cuts.proxy import Link
from holdfast.engines.database import Pool
from holdfast.orders.order import Order
from holdfast.settings import Settings


def through(url: str, port: int) -> str:
    """The same database through a link on this port."""
    parts = urlsplit(url)
    return f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{port}{parts.path}?sslmode=disable"


def socket_of(url: str) -> Path:
    """PostgreSQL's socket."""
    return Path(parse_qs(urlsplit(url).query)["host"][0]) / ".s.PGSQL.5432"


async def cut(desk: Desk, link: Link, operation: str) -> str:
    """One operation whose committed answer is lost; its outcome."""
    event = await put_on_sale(desk.pool, 10)
    user = ids.new_id()
    # Prepares the statements, so that the next use of each is one message that executes.
    warm, _ = await desk.buy(user, "warm", event, 1)
    await (desk.try_confirm(warm, "warm") if operation == "confirm" else desk.try_cancel(warm, "warm"))
    order = None if operation == "create" else (await desk.buy(user, "key", event, 1))[0]
    link.answers_to_drop = 1
    if operation == "create":
        made, is_new = await desk.buy(user, "key", event, 1)
        outcome = f"{made.status}, new: {is_new}"
    else:
        assert order is not None
        outcome = await (desk.try_confirm(order) if operation == "confirm" else desk.try_cancel(order))
    assert link.answers_dropped == 1, "the answer was not lost, so nothing was tested"
    found = await audit(desk.pool, event)
    assert_sound(found)
    assert await desk.pool.fetchval("SELECT count(*) FROM orders.orders") == 2
    return outcome


@pytest.mark.parametrize(
    ("operation", "outcome"),
    [("create", "reserved, new: True"), ("confirm", "confirmed"), ("cancel", "cancelled")],
)
async def test_an_answer_lost_after_the_commit(settings: Settings, pool: Pool, operation: str, outcome: str) -> None:
    url = settings.database_url.get_secret_value()
    link = Link(socket_of(url))
    port = await link.open()
    try:
        async with open_desk(settings, pool, database_url=through(url, port)) as desk:
            assert await cut(desk, link, operation) == outcome
    finally:
        await link.close()


async def test_a_standby_wait_that_was_cancelled_is_not_taken_for_success(settings: Settings, pool: Pool) -> None:
    admin = pool
    async with open_desk(settings, pool) as desk:
        event = await put_on_sale(pool, 1000)
        await desk.buy(ids.new_id(), "warm", event, 1)
        await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'a_standby_that_does_not_exist'")
        await admin.execute("SELECT pg_reload_conf()")
        try:
            buying = await buy_until_one_waits(desk, event)
            first = await cancel_the_wait(admin)
            # PostgreSQL reported success with a warning. The order is there, and nobody may be told so yet.
            again = await waiting_backend(admin)
            assert again == first
            assert not buying.done()
        finally:
            await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await admin.execute("SELECT pg_reload_conf()")
        order, is_new = await buying
        assert (order.status, is_new) == ("reserved", True)
        found = await audit(pool, event)
        assert_sound(found)
        assert found.held == await pool.fetchval("SELECT count(*) FROM orders.orders")


async def buy_until_one_waits(desk: Desk, event: Event) -> "asyncio.Task[tuple[Order, bool]]":
    """The first purchase that waits for the standby: a new configuration takes a moment to reach every process."""
    for _ in range(500):
        buying = asyncio.create_task(desk.buy(ids.new_id(), "key", event, 1))
        while not buying.done():
            if await desk.pool.fetchval(_WAITS_FOR_STANDBY) is not None:
                return buying
            await asyncio.sleep(0.01)
    raise AssertionError("no commit waits for the standby")


async def cancel_the_wait(pool: Pool) -> int:
    """Cancels the wait of the one commit that waits for a standby, as an impatient operator would."""
    pid = await waiting_backend(pool)
    xact = await pool.fetchval("SELECT query_start FROM pg_stat_activity WHERE pid = $1", pid)
    await pool.execute("SELECT pg_cancel_backend($1)", pid)
    async with asyncio.timeout(10):
        while await pool.fetchval("SELECT query_start FROM pg_stat_activity WHERE pid = $1", pid) == xact:
            await asyncio.sleep(0.01)
    return pid


async def waiting_backend(pool: Pool) -> int:
    """The process that waits for a standby."""
    async with asyncio.timeout(10):
        while True:
            pid: int | None = await pool.fetchval(_WAITS_FOR_STANDBY)
            if pid is not None:
                return pid
            await asyncio.sleep(0.01)


# The journal's alone: a gate that is being loaded commits too, and waits as well.
_WAITS_FOR_STANDBY = (
    "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = current_database() "
    "AND application_name = 'holdfast journal'"
)
