"""What makes a figure of the bench void: each lie is told once, and has to be found."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from box_office import Desk, Event, order_ids, put_on_sale
from holdfast import ids
from holdfast.bench.audit import audit
from holdfast.bench.client.load import Outcome
from holdfast.bench.crowd import Crowd, Sale
from holdfast.bench.ledger import Drive, Ledger
from holdfast.orders.order import Order

ALICE, BOB = ids.new_id(), ids.new_id()
PEOPLE = Crowd([ALICE, BOB], ["alice's token", "bob's token"])
TOTALS = msgspec.json.encode(
    dict.fromkeys(("sent", "answered", "unsent", "broken", "timed_out", "late_p99_us", "late_max_us"), 0)
    | {"seconds": 1.0, "in_window": {}, "connections": 1, "cpu_seconds": 0.0}
)
REST_SECONDS = 0.3


class Told:
    """A case under way: an event, a ledger, and the client's log of each run."""

    def __init__(self, desk: Desk, event: Event, folder: Path) -> None:
        self.desk = desk
        self.event = event
        self.ledger = Ledger()
        self.ledger.sales.append(self.sale)
        self._folder = folder

    @property
    def sale(self) -> Sale:
        """The event as the bench knows it."""
        return Sale(self.event.id, self.event.tiers)

    async def buy(self) -> list[Order]:
        """Alice and Bob buy one ticket each."""
        return [(await self.desk.buy(user, "key", self.event, 1))[0] for user in PEOPLE.users]

    def note(self, answers: dict[tuple[int, int], str | None], *log: tuple[int, int, int, str]) -> None:
        """One run of which the client says this: stage, status, line and id of each answer."""
        file = self._folder / "log"
        file.write_text("".join(f"{stage}\t{status}\t100\t0\t{line}\t{named}\n" for stage, status, line, named in log))
        drive = Drive([""], PEOPLE, [self.sale], answers, then="" if any(row[0] for row in log) else None)
        self.ledger.note(drive, Outcome(TOTALS, file, 10.0))

    def bought(self, orders: Sequence[Order]) -> None:
        """The client was told of these orders, Alice's first."""
        self.note({(0, 201): "reserved"}, *((0, 201, line, order.id) for line, order in enumerate(orders)))

    async def findings(self, *, relay: bool = True) -> list[str]:
        """What the audit finds, once the outbox was read."""
        if relay:
            await self.desk.relay()
        return await audit(self.desk.pool, self.desk.gate, self.ledger, REST_SECONDS)


@pytest.fixture
async def told(desk: Desk, tmp_path: Path) -> Told:
    """A case of which nobody was told anything yet."""
    return Told(desk, await put_on_sale(desk.pool, 10), tmp_path)


async def test_nothing_is_found_where_every_promise_was_kept(told: Told) -> None:
    told.bought(await told.buy())
    assert await told.findings() == []


async def test_an_acknowledgement_without_a_row(told: Told) -> None:
    orders = await told.buy()
    told.bought(orders)
    told.note({(0, 201): "reserved"}, (0, 201, 0, ids.encode(ids.ORDER, ids.new_id())))
    assert await told.findings() == ["1 acknowledged orders are not there"]


async def test_a_row_that_is_gone(told: Told) -> None:
    orders = await told.buy()
    told.bought(orders)
    await told.desk.relay()
    await told.desk.pool.execute("DELETE FROM orders.orders WHERE id = $1", order_ids(orders[0])[0])
    findings = await told.findings()
    assert "1 acknowledged orders are not there" in findings
    assert any("has held 2 for 1" in finding for finding in findings)
    assert "1 people's counters are not what their orders add up to" in findings


async def test_a_row_of_someone_else(told: Told) -> None:
    told.bought((await told.buy())[::-1])
    assert await told.findings() == ["2 orders are of another person or event than acknowledged"]


async def test_a_row_that_nobody_was_told_of(told: Told) -> None:
    told.bought((await told.buy())[:1])
    [finding] = await told.findings()
    assert finding.startswith("1 orders were made or moved without an acknowledgement")


async def test_a_row_whose_answer_was_lost_is_allowed_for(told: Told) -> None:
    orders = await told.buy()
    told.note({(0, 201): "reserved"}, (0, 201, 0, orders[0].id), (0, -1, 1, "-"))
    # The missing answer is a finding of its own: a connection must not break.
    assert await told.findings() == ["1 requests without an answer (the connection broke)"]


async def test_an_order_acknowledged_twice(told: Told) -> None:
    orders = await told.buy()
    told.bought(orders)
    told.note({(0, 201): "reserved"}, (0, 201, 0, orders[0].id))
    assert await told.findings() == ["1 orders acknowledged twice as new"]


async def test_answers_that_are_not_the_case_s_own(told: Told) -> None:
    told.note({(0, 201): "reserved"}, (0, 503, 0, "-"), (0, 0, 1, "-"))
    assert await told.findings() == ["1 requests not sent in time", "1 answers 503"]


async def test_counters_that_were_changed(told: Told) -> None:
    told.bought(await told.buy())
    assert await told.findings() == []
    await told.desk.pool.execute("UPDATE tickets.stock SET held = held + 1 WHERE event_id = $1", told.event.id)
    await told.desk.pool.execute("UPDATE orders.user_tickets SET tickets = 0 WHERE user_id = $1", ALICE)
    held, people, gates = await told.findings()
    assert "has held 3 for 2" in held
    assert people == "1 people's counters are not what their orders add up to"
    assert gates.startswith("the gates of 1 events do not have free what PostgreSQL has free")


async def test_an_outbox_that_nobody_reads(told: Told) -> None:
    told.bought(await told.buy())
    findings = await told.findings(relay=False)
    assert findings[0].startswith("the outbox was not read within")


async def test_a_purchase_is_confirmed_with_its_ticket_and_payment(told: Told) -> None:
    orders = await told.buy()
    for order in orders:
        assert await told.desk.try_confirm(order) == "confirmed"
    answers: dict[tuple[int, int], str | None] = {(0, 201): "reserved", (1, 200): "confirmed"}
    told.note(answers, *((stage, 201 - stage, line, order.id) for stage in (0, 1) for line, order in enumerate(orders)))
    assert await told.findings() == []
    await told.desk.pool.execute("DELETE FROM orders.tickets WHERE order_id = $1", order_ids(orders[0])[0])
    assert await told.findings() == ["1 confirmed orders have the wrong tickets, or not one payment"]


async def test_a_confirmation_and_a_cancellation_that_did_not_happen(told: Told) -> None:
    orders = await told.buy()
    told.bought(orders)
    told.note({(0, 200): "confirmed"}, (0, 200, 0, orders[0].id))
    told.note({(0, 200): "cancelled"}, (0, 200, 1, orders[1].id))
    assert sorted(await told.findings()) == [
        "1 orders are reserved, not cancelled",
        "1 orders are reserved, not confirmed",
    ]
