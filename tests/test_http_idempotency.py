"""Every answer that an Idempotency-Key can get."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import House, asking, done, locked, open_house, refused, tier


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    # Nothing that is remembered for its cheapness may stand between one request of a test and the next.
    async with open_house(settings, pool, catalogue_seconds=0.001, availability_seconds=0.001) as opened:
        yield opened


async def test_a_key_is_required_and_is_bounded(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "x" * 255, event)
    for path, body in (
        ("/orders/create", asking(event)),
        (f"/orders/{order['id']}/confirm", {"payment_token": "tok_ok"}),
        (f"/orders/{order['id']}/cancel", {}),
    ):
        assert refused(await house.ask("alice", "POST", path, json=body)) == "400 idempotency_key_missing"
        assert refused(await house.ask("alice", "POST", path, json=body, key="")) == "400 idempotency_key_missing"
        assert refused(await house.ask("alice", "POST", path, json=body, key="x" * 256)) == "400 bad_request"
    assert await house.held_and_sold(event) == (1, 0)


async def test_a_retry_of_create_is_the_same_order(house: House) -> None:
    event = await house.event(tiers=[tier(), tier("Seat")])
    order = await house.order("alice", "key", event, 1, 1)
    body = asking(event, 1, 1)
    same = [
        {"json": body},
        {"json": {"lines": body["lines"], "event_id": body["event_id"]}},
        {"json": body, "headers": {"Content-Type": "application/json; charset=utf-8"}},
    ]
    for request in same:
        again = done(await house.ask("alice", "POST", "/orders/create", key="key", **request))
        fixed = order.keys() - {"server_time", "expires_in_seconds"}
        assert {name: again[name] for name in fixed} == {name: order[name] for name in fixed}
    for other in (
        asking(event, 2, 1),
        asking(event, 1),
        {**body, "lines": body["lines"][::-1]},
        asking(await house.event()),
    ):
        reply = await house.ask("alice", "POST", "/orders/create", key="key", json=other)
        assert refused(reply) == "422 idempotency_key_mismatch"
    assert await house.held_and_sold(event) == (2, 0)


async def test_a_key_belongs_to_its_user_and_its_operation(house: House) -> None:
    event = await house.event()
    alices = await house.order("alice", "key", event)
    bobs = await house.order("bob", "key", event, 2)
    assert alices["id"] != bobs["id"]
    assert done(await house.confirm("alice", "key", alices))["status"] == "confirmed"
    assert done(await house.cancel("bob", "key", bobs))["status"] == "cancelled"
    assert done(await house.create("alice", "key", event))["status"] == "confirmed"


async def test_a_retry_of_confirm_and_cancel(house: House) -> None:
    event = await house.event()
    sold, back = [await house.order("alice", key, event) for key in ("sold", "back")]
    paid = done(await house.confirm("alice", "pay", sold))
    again = done(await house.confirm("alice", "pay", sold))
    assert again["tickets"] == paid["tickets"]
    assert refused(await house.confirm("alice", "pay", sold, "tok_late")) == "422 idempotency_key_mismatch"
    assert refused(await house.confirm("alice", "pay", back)) == "422 idempotency_key_mismatch"
    assert done(await house.cancel("alice", "away", back))["status"] == "cancelled"
    assert done(await house.cancel("alice", "away", back))["status"] == "cancelled"
    assert refused(await house.cancel("alice", "away", sold)) == "422 idempotency_key_mismatch"
    assert await house.held_and_sold(event) == (0, 1)
    assert await house.pool.fetchval("SELECT count(*) FROM orders.payments") == 1


async def test_a_retry_is_recognised_before_any_refusal(house: House) -> None:
    event = await house.event(tiers=[tier(capacity=2)], tickets_per_user_max=2)
    order = await house.order("alice", "key", event, 2)
    path = f"/events/{event['id']}"

    async def is_replayed(status: str) -> None:
        again = done(await house.create("alice", "key", event, 2))
        assert (again["id"], again["status"]) == (order["id"], status)
        assert refused(await house.create("alice", "key", event, 1)) == "422 idempotency_key_mismatch"

    assert refused(await house.create("bob", "key", event)) == "409 sold_out"
    await is_replayed("reserved")
    done(await house.ask("olga", "PATCH", path, json={"tickets_per_user_max": 1}))
    await is_replayed("reserved")
    done(await house.ask("olga", "PATCH", f"{path}/tiers/{event['tiers'][0]['id']}", json={"paused": True}))
    await is_replayed("reserved")
    done(
        await house.ask("olga", "PATCH", f"{path}/tiers/{event['tiers'][0]['id']}", json={"sale_ends_at": "2020-01-01"})
    )
    assert refused(await house.create("bob", "key", event)) == "409 sale_closed"
    await is_replayed("reserved")
    done(await house.cancel("alice", "away", order))
    await is_replayed("cancelled")
    done(await house.ask("olga", "POST", f"{path}/cancel"))
    await is_replayed("cancelled")
    assert done(await house.cancel("alice", "away", order))["status"] == "cancelled"


async def test_a_retry_after_the_hold_is_the_order_as_it_is_now(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "key", event)
    await house.expire_holds()
    again = done(await house.create("alice", "key", event))
    assert (again["id"], again["status"], again["expires_in_seconds"]) == (order["id"], "expired", 0)


async def test_a_refused_key_may_succeed_later(house: House) -> None:
    event = await house.event(tiers=[tier(capacity=1)])
    order = await house.order("alice", "key", event)
    assert refused(await house.create("bob", "key", event)) == "409 sold_out"
    assert refused(await house.confirm("bob", "pay", order)) == "404 not_found"
    done(await house.cancel("alice", "away", order))
    await house.relay_to_gate()
    bobs = await house.order("bob", "key", event)
    assert done(await house.confirm("bob", "pay", bobs))["status"] == "confirmed"


async def test_a_key_in_flight_is_409(house: House) -> None:
    event = await house.event()
    async with locked(house.pool, "tickets.stock", "tier_id", event["tiers"][0]["id"]):
        first = asyncio.create_task(house.create("alice", "key", event))
        await house.someone_waits()
        assert refused(await house.create("alice", "key", event)) == "409 idempotency_key_in_flight"
        assert refused(await house.create("alice", "key", event, 2)) == "409 idempotency_key_in_flight"
        assert not first.done()
    order = done(await first, 201)
    assert done(await house.create("alice", "key", event))["id"] == order["id"]
    for act in (house.confirm, house.cancel):
        order = await house.order("alice", f"for {act.__name__}", event)
        async with locked(house.pool, "orders.orders", "id", order["id"]):
            first = asyncio.create_task(act("alice", "key", order))
            await house.someone_waits()
            assert refused(await act("alice", "key", order)) == "409 idempotency_key_in_flight"
        done(await first)
        done(await act("alice", "key", order))
    assert await house.held_and_sold(event) == (1, 1)


async def test_a_key_in_flight_in_another_process_makes_one_order(house: House) -> None:
    event = await house.event()
    async with open_house(house.settings, house.pool) as other:
        async with locked(house.pool, "tickets.stock", "tier_id", event["tiers"][0]["id"]):
            both = [asyncio.create_task(one.create("alice", "key", event)) for one in (house, other)]
            await house.someone_waits()
        replies = [await task for task in both]
    assert sorted(reply.status_code for reply in replies) == [200, 201]
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert await house.held_and_sold(event) == (1, 0)
