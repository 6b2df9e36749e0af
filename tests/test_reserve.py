"""Reserving: the gate decides first, PostgreSQL decides last."""

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID

import pytest

from box_office import Event, assert_sound, audit, put_on_sale
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.errors import Refusal
from holdfast.gate.gate import Gate
from holdfast.gate.load import load_gate
from holdfast.orders.order import Order
from holdfast.orders.reserve import Reserve
from holdfast.settings import Settings
from holdfast.tickets.sale import fresh_sales


class Desk(NamedTuple):
    """Everything a purchase passes."""

    pool: Pool
    gate: Gate
    reserve: Reserve

    async def buy(self, user: UUID, key: str, event: Event, *quantities: int) -> tuple[Order, bool]:
        """One purchase."""
        return await self.reserve.reserve(user, key, event.ask(*quantities))

    async def try_buy(self, user: UUID, key: str, event: Event, *quantities: int) -> str:
        """One purchase: `made`, `again` or the code of its refusal."""
        try:
            _, is_new = await self.buy(user, key, event, *quantities)
        except Refusal as refusal:
            return refusal.code
        return "made" if is_new else "again"


@pytest.fixture
async def desk(settings: Settings, pool: Pool) -> AsyncIterator[Desk]:
    """A desk with a gate."""
    gate = Gate(settings)
    await gate.open()
    reserve = Reserve(settings, pool, gate, fresh_sales(settings, pool))
    yield Desk(pool, gate, reserve)
    await reserve.drain()
    await gate.close()


async def test_an_order_holds_its_tickets(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 10, 5)
    alice = ids.new_id()
    order, is_new = await desk.buy(alice, "key", event, 2, 1)
    assert is_new
    assert order.status == "reserved"
    assert order.total.amount == 3 * 120_000
    found = await audit(desk.pool, event)
    assert (found.held, found.sold) == (3, 0)
    assert_sound(found)


async def test_a_crowd_gets_exactly_what_there_is(desk: Desk) -> None:
    event = await put_on_sale(desk.pool, 100)
    await load_gate(desk.pool, desk.gate, event.id)
    outcomes = await asyncio.gather(*(desk.try_buy(ids.new_id(), "key", event, 1) for _ in range(1000)))
    assert outcomes.count("made") == 100
    assert outcomes.count("sold_out") == 900
    found = await audit(desk.pool, event)
    assert found.held == 100
    assert_sound(found)


async def test_without_the_gate_postgresql_alone_never_oversells(settings: Settings, pool: Pool) -> None:
    without = settings.model_copy(update={"gate_url": type(settings.gate_url)("")})
    gate = Gate(without)
    await gate.open()
    reserve = Reserve(without, pool, gate, fresh_sales(without, pool))
    desk = Desk(pool, gate, reserve)
    event = await put_on_sale(pool, 100)
    outcomes = await asyncio.gather(*(desk.try_buy(ids.new_id(), "key", event, 1) for _ in range(500)))
    await reserve.drain()
    assert outcomes.count("made") == 100
    assert outcomes.count("sold_out") == 400
    assert_sound(await audit(pool, event))
