"""The gate forgets, lies, lags and comes back; in the end it agrees with PostgreSQL, and nothing has leaked."""

import asyncio
from uuid import UUID

import pytest

from box_office import Desk, Event, assert_sound, audit, counted, open_desk, order_ids, put_on_sale
from conftest import Engines
from holdfast import ids
from holdfast.clock import utc_now
from holdfast.engines.database import Pool
from holdfast.gate.gate import Ask, Gate, GateAway, GateStale, Want, hold_key, hold_of
from holdfast.gate.load import load_gate
from holdfast.gate.reconcile import Reconcile
from holdfast.settings import Settings


async def loaded(desk: Desk, *capacities: int, **changed: int) -> Event:
    """An event with a loaded gate."""
    event = await put_on_sale(desk.pool, *capacities, **changed)
    assert await load_gate(desk.pool, desk.gate, event.id)
    return event


async def epoch_of(desk: Desk, event: Event) -> int:
    epoch: int = await desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id)
    return epoch


async def wait_for_leases(desk: Desk, event: Event, leases: int) -> None:
    """Waits until so many leases are not settled."""
    async with asyncio.timeout(5):
        while True:
            state = await desk.gate.state(event.id)
            if state is not None and state.leases == leases:
                return
            await asyncio.sleep(0.01)


async def test_a_committed_order_settles_its_lease(desk: Desk) -> None:
    event = await loaded(desk, 10)
    await asyncio.gather(*(desk.buy(ids.new_id(), "key", event, 1) for _ in range(7)))
    await wait_for_leases(desk, event, 0)
    assert await desk.gate_free(event) == (3,)


async def test_a_refusal_of_the_journal_gives_its_lease_back(desk: Desk) -> None:
    event = await loaded(desk, 10)
    alice = ids.new_id()
    await desk.buy(alice, "key", event, 1)
    # The gate knows nothing of Alice's limit any more; PostgreSQL does.
    await desk.pool.execute("UPDATE orders.user_tickets SET tickets = 4, tickets_max = 4")
    assert await desk.try_buy(alice, "another", event, 1) == "user_limit_reached"
    await wait_for_leases(desk, event, 0)
    assert await desk.gate_free(event) == (9,)


async def test_release_is_idempotent_and_leaves_a_tombstone(desk: Desk) -> None:
    event = await loaded(desk, 10)
    epoch, alice = await epoch_of(desk, event), ids.new_id()
    key, hold = hold_key(alice, "key"), hold_of(alice, event.tiers, [3])
    await desk.gate.finish(event.id, epoch, settle=[(key, hold)])
    await desk.gate.finish(event.id, epoch, settle=[(key, hold)])
    assert await desk.gate_free(event) == (7,), "settling twice takes once"
    await desk.gate.finish(event.id, epoch, release=[key])
    await desk.gate.finish(event.id, epoch, release=[key])
    assert await desk.gate_free(event) == (10,), "releasing twice gives back once"
    await desk.gate.finish(event.id, epoch, settle=[(key, hold)])
    assert await desk.gate_free(event) == (10,), "a settle that comes after its release takes nothing"


async def test_a_release_before_its_hold_is_remembered(desk: Desk) -> None:
    event = await loaded(desk, 10)
    epoch, alice = await epoch_of(desk, event), ids.new_id()
    key, hold = hold_key(alice, "key"), hold_of(alice, event.tiers, [3])
    await desk.gate.finish(event.id, epoch, release=[key])
    await desk.gate.finish(event.id, epoch, settle=[(key, hold)])
    assert await desk.gate_free(event) == (10,)


async def test_another_epoch_is_refused(desk: Desk) -> None:
    event = await loaded(desk, 10)
    epoch = await epoch_of(desk, event)
    for other in (epoch - 1, epoch + 1):
        with pytest.raises(GateStale):
            await desk.gate.reserve(event.id, other, [], [], [])
    with pytest.raises(GateStale):
        await desk.gate.load_begin(event.id, epoch - 1)


async def test_a_gate_that_lost_its_memory_is_loaded_while_the_sale_goes_on(desk: Desk) -> None:
    event = await loaded(desk, 100)
    sold = [(await desk.buy(ids.new_id(), "key", event, 1))[0] for _ in range(10)]
    assert await desk.try_confirm(sold[0]) == "confirmed"
    assert await desk.try_cancel(sold[1]) == "cancelled"
    wire = desk.gate.wire
    assert wire is not None
    await wire.call("FLUSHALL")
    outcomes = await asyncio.gather(*(desk.try_buy(ids.new_id(), "key", event, 1) for _ in range(50)))
    assert counted(outcomes) == {"made": 50}
    async with asyncio.timeout(5):
        while await desk.gate.state(event.id) is None:
            await asyncio.sleep(0.01)
    await desk.relay()
    await wait_for_leases(desk, event, 0)
    assert await desk.gate_free(event) == (100 - 9 - 50,)
    # Whatever came before the load is in it, and is not taken a second time when the outbox tells it.
    await desk.pool.execute("UPDATE outbox.consumers SET xid = '0', id = 0 WHERE name = 'gate'")
    await desk.relay()
    assert await desk.gate_free(event) == (100 - 9 - 50,)


async def test_purchases_during_a_load_go_around_it_and_come_in_afterwards(desk: Desk) -> None:
    event = await loaded(desk, 50)

    async def reload() -> None:
        for _ in range(10):
            await load_gate(desk.pool, desk.gate, event.id)
            desk.sales.drop(event.id)

    async def buy_and_cancel(number: int) -> str:
        order, _ = await desk.buy(ids.new_id(), "key", event, 1)
        return await desk.try_cancel(order) if number % 3 == 0 else await desk.try_confirm(order)

    outcomes, _ = await asyncio.gather(asyncio.gather(*(buy_and_cancel(n) for n in range(45))), reload())
    assert counted(outcomes) == {"cancelled": 15, "confirmed": 30}
    reconcile = Reconcile(desk.pool, desk.gate)
    async with asyncio.timeout(20):
        while await desk.gate_free(event) != (20,):
            await desk.relay()
            await reconcile.run()
    assert_sound(await audit(desk.pool, event))


async def test_a_lease_without_an_order_ends_and_one_with_an_order_is_settled(settings: Settings, pool: Pool) -> None:
    async with open_desk(settings, pool, lease_seconds=1, journal_seconds_max=0.5) as desk:
        event = await loaded(desk, 10)
        epoch = await epoch_of(desk, event)
        alice, bob = ids.new_id(), ids.new_id()
        await desk.gate.reserve(
            event.id,
            epoch,
            [[4, event.tiers[0].hex, 2]],
            [],
            [(hold_key(user, "key"), 0) for user in (alice, bob)],
        )
        # Bob's order was committed, and whoever should have settled its lease has died.
        async with open_desk(settings, pool, gate_url="") as without:
            await without.buy(bob, "key", event, 2)
        assert await desk.gate_free(event) == (6,)
        reconcile = Reconcile(pool, desk.gate)
        async with asyncio.timeout(10):
            while await desk.gate_free(event) != (8,):
                await reconcile.run()
                await asyncio.sleep(0.05)
        await wait_for_leases(desk, event, 0)


@pytest.mark.parametrize("damage", ["surplus", "missing", "count"])
async def test_reconcile_mends_a_gate_that_differs(desk: Desk, damage: str) -> None:
    event = await loaded(desk, 10)
    order, _ = await desk.buy(ids.new_id(), "key", event, 2)
    await wait_for_leases(desk, event, 0)
    epoch = await epoch_of(desk, event)
    _, user_id = order_ids(order)
    mallory = ids.new_id()
    wire = desk.gate.wire
    assert wire is not None
    if damage == "surplus":
        await desk.gate.finish(event.id, epoch, settle=[(hold_key(mallory, "x"), hold_of(mallory, event.tiers, [1]))])
    elif damage == "missing":
        await desk.gate.finish(event.id, epoch, release=[hold_key(user_id, "key")], leave_tombstones=False)
    else:
        await wire.call("HSET", f"{{{event.id.hex}}}:gate", f"free:{event.tiers[0].hex}", 3)
    assert await desk.gate_free(event) != (8,)
    reconcile = Reconcile(desk.pool, desk.gate)
    for _ in range(4):
        await reconcile.run()
    assert await desk.gate_free(event) == (8,)


async def test_an_order_made_around_the_gate_is_brought_in(settings: Settings, pool: Pool, desk: Desk) -> None:
    event = await loaded(desk, 10)
    async with open_desk(settings, pool, gate_url="") as without:
        first, _ = await without.buy(ids.new_id(), "key", event, 2)
        second, _ = await without.buy(ids.new_id(), "key", event, 3)
        assert await without.try_cancel(second) == "cancelled"
        assert await without.try_confirm(first) == "confirmed"
    assert await desk.gate_free(event) == (10,)
    await desk.relay()
    assert await desk.gate_free(event) == (8,)


async def test_a_changed_capacity_reaches_the_gate(desk: Desk) -> None:
    event = await loaded(desk, 1)
    assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
    assert await desk.try_buy(ids.new_id(), "key", event, 1) == "sold_out"
    async with desk.pool.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE tickets.stock SET capacity = 3")
        await connection.execute(
            "INSERT INTO outbox.events (kind, subject, version, scope) VALUES ('event.changed', $1, 2, $1)", event.id
        )
    await desk.relay()
    desk.sales.drop(event.id)
    assert await desk.try_buy(ids.new_id(), "key", event, 2) == "made"


async def test_the_breaker_opens_and_closes(engines: Engines, settings: Settings, pool: Pool) -> None:
    wrong = engines.valkey.url.replace(engines.valkey.password, "wrong")
    async with open_desk(settings, pool, gate_url=wrong, gate_retry_seconds=0.2) as desk:
        assert desk.gate.is_away
        with pytest.raises(GateAway):
            await desk.gate.state(ids.new_id())
        event = await put_on_sale(pool, 3)
        outcomes = await asyncio.gather(*(desk.try_buy(ids.new_id(), "key", event, 1) for _ in range(5)))
        assert counted(outcomes) == {"made": 3, "sold_out": 2}
    right = Gate(settings)
    await right.open()
    assert not right.is_away
    await right.close()


async def test_expiry_query_uses_its_index(pool: Pool) -> None:
    statement = (
        "EXPLAIN SELECT o.id FROM orders.orders o WHERE o.status = 'reserved' AND o.expires_at <= $1 "
        "ORDER BY o.expires_at LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED"
    )
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = "\n".join(row[0] for row in await connection.fetch(statement, utc_now()))
    assert "orders_overdue" in plan
    assert "Index Cond: (expires_at" in plan
    body = await pool.fetchval("SELECT pg_get_functiondef('orders.expire'::regproc)")
    assert "<= now_is" in body, "a volatile function in the condition would keep the index from being used"


async def test_a_double_click_through_two_processes_keeps_its_tickets_in_the_gate(
    settings: Settings, pool: Pool
) -> None:
    async with open_desk(settings, pool) as one, open_desk(settings, pool) as other:
        event = await put_on_sale(pool, 1000)
        await load_gate(pool, one.gate, event.id)
        for _ in range(100):
            user = ids.new_id()
            clicks = await asyncio.gather(one.try_buy(user, "key", event, 1), other.try_buy(user, "key", event, 1))
            assert sorted(clicks) == ["again", "made"]
        await one.reserve.drain()
        await other.reserve.drain()
        assert await one.gate_free(event) == (900,)


async def test_a_retry_through_the_gate_of_an_order_made_around_it(settings: Settings, pool: Pool, desk: Desk) -> None:
    event = await loaded(desk, 10)
    alice = ids.new_id()
    async with open_desk(settings, pool, gate_url="") as without:
        assert await without.try_buy(alice, "key", event, 1) == "made"
    assert await desk.try_buy(alice, "key", event, 1) == "again"
    await wait_for_leases(desk, event, 0)
    await desk.relay()
    assert await desk.gate_free(event) == (9,)


async def test_more_holds_than_one_call_takes(desk: Desk) -> None:
    event = await loaded(desk, 10_000)
    epoch = await epoch_of(desk, event)
    users = [ids.new_id() for _ in range(5000)]
    holds = [(hold_key(user, "key"), hold_of(user, event.tiers, [1])) for user in users]
    await desk.gate.finish(event.id, epoch, settle=holds)
    assert await desk.gate_free(event) == (5000,)
    await desk.gate.finish(event.id, epoch, release=[key for key, _ in holds[:4500]])
    assert await desk.gate_free(event) == (9500,)


async def test_one_batch_is_decided_order_by_order(desk: Desk) -> None:
    event = await loaded(desk, 5, 2)
    epoch = await epoch_of(desk, event)
    alice, bob, mallory = ids.new_id(), ids.new_id(), ids.new_id()

    wants: list[Want] = []

    def ask(user: UUID, key: str, *quantities: int) -> Ask:
        wants.append([4, *hold_of(user, event.tiers[: len(quantities)], quantities)[1:]])
        return hold_key(user, key), len(wants) - 1

    asks = [
        ask(alice, "one", 2),
        ask(alice, "one", 2),
        ask(bob, "one", 3, 1),
        ask(alice, "two", 1),
        ask(bob, "two", 1),
        (hold_key(mallory, "x"), len(wants)),
    ]
    wants.append([4, ids.new_id().hex, 1])
    outcomes = await desk.gate.reserve(event.id, epoch, wants, [], asks)
    assert outcomes == ["held", "replay", "held", "sold_out", "sold_out", "unknown"]
    assert await desk.gate_free(event) == (0, 1)
    limited = await desk.gate.reserve(event.id, epoch, [[4, event.tiers[1].hex, 1]], [], [(hold_key(bob, "z"), 0)])
    assert limited == ["user_limit_reached"]
    assert await desk.gate_free(event) == (0, 1)
