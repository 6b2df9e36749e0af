"""Who is turned away before any work is done: full queues (503) and rates (429)."""

import asyncio
import re

import pytest

from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import PASSWORD, done, locked, open_house, refused, tier


async def test_a_full_queue_is_busy_and_writes_nothing(settings: Settings, pool: Pool) -> None:
    async with open_house(settings, pool, purchases_waiting_max=1, batch_orders_max=1) as house:
        event = await house.event(tiers=[tier(capacity=2)])
        before = await house.rows()
        async with locked(pool, "tickets.stock", "tier_id", event["tiers"][0]["id"]):
            first = asyncio.create_task(house.create("alice", "key", event))
            await house.someone_waits()
            turned_away = await house.create("bob", "key", event)
            assert refused(turned_away) == "503 busy"
            assert int(turned_away.headers["retry-after"]) >= 1
            assert await house.rows() == before
        done(await first, 201)
        done(await house.create("bob", "key", event), 201)
        assert await house.held_and_sold(event) == (2, 0)


async def test_who_is_turned_away_keeps_no_ticket_from_others(settings: Settings, pool: Pool) -> None:
    async with open_house(settings, pool, purchases_waiting_max=1, batch_orders_max=1) as house:
        event = await house.event(tiers=[tier(capacity=3)])
        await house.order("olga", "key", event)
        await house.gate_is_loaded(event)
        await house.relay_to_gate()
        async with locked(pool, "tickets.stock", "tier_id", event["tiers"][0]["id"]):
            first = asyncio.create_task(house.create("alice", "key", event))
            await house.someone_waits()
            assert refused(await house.create("bob", "key", event)) == "503 busy"
        done(await first, 201)
        done(await house.create("mallory", "key", event), 201)


@pytest.mark.parametrize("what", ["confirm", "cancel"])
async def test_a_full_queue_is_busy_for_what_ends_an_order_too(settings: Settings, pool: Pool, what: str) -> None:
    async with open_house(settings, pool, purchases_waiting_max=1, batch_orders_max=1) as house:
        act = house.confirm if what == "confirm" else house.cancel
        order = await house.order("alice", "key", await house.event())
        before = await house.rows()
        async with locked(pool, "orders.orders", "id", order["id"]):
            first = asyncio.create_task(act("alice", "one", order))
            await house.someone_waits()
            assert refused(await act("alice", "two", order)) == "503 busy"
            assert await house.rows() == before
        done(await first)
        assert refused(await act("alice", "two", order)) == "409 invalid_state"


@pytest.mark.parametrize("whose", ["user", "all"])
async def test_too_many_attempts_are_429(settings: Settings, pool: Pool, whose: str) -> None:
    limit = {"user_purchases_burst": 2, "user_purchases_per_second": 0.01}
    if whose == "all":
        limit = {"purchases_burst": 2, "purchases_per_second": 0.01}
    async with open_house(settings, pool, **limit) as house:
        event = await house.event()
        order = await house.order("alice", "key", event)
        assert refused(await house.confirm("alice", "pay", order, "tok_declined")) == "402 payment_declined"
        before = await house.rows()
        for reply in (
            await house.create("alice", "another", event),
            await house.confirm("alice", "pay", order),
            await house.cancel("alice", "away", order),
            await house.ask("alice", "POST", "/orders/create", content=b"{"),
        ):
            assert refused(reply) == "429 rate_limited"
            assert 1 <= int(reply.headers["retry-after"]) <= 200
            assert reply.headers["ratelimit-policy"] == ('"user";q=2;w=200' if whose == "user" else '"all";q=2;w=200')
            assert re.fullmatch(rf'"{whose}";r=0;t=\d+', reply.headers["ratelimit"])
        assert await house.rows() == before
        expected = 201 if whose == "user" else 429
        assert (await house.create("bob", "key", event)).status_code == expected, "Bob is somebody else"
        done(await house.ask("alice", "GET", f"/orders/{order['id']}"))


async def test_too_many_sign_ins_are_429(settings: Settings, pool: Pool) -> None:
    async with open_house(
        settings, pool, address_sign_ins_burst=2, address_sign_ins_per_second=0.01, account_failures_burst=1
    ) as house:
        body = {"email": "carol@example.com", "password": PASSWORD}
        assert refused(await house.client.post("/users/login", json=body)) == "401 credentials_invalid"
        assert refused(await house.client.post("/users/login", json=body)) == "429 rate_limited"
        limited = await house.client.post("/users/register", json=body)
        assert refused(limited) == "429 rate_limited"
        assert limited.headers["ratelimit-policy"].startswith('"sign-in";q=2')
