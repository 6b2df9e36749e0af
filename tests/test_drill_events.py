"""The auditor of the drills sees what is wrong on the topic and in the statistics."""

from typing import NamedTuple
from uuid import UUID

import pytest

from holdfast import ids
from holdfast.drill.audit.database import DatabaseFound, OrderFound, SalesFound, StockFound
from holdfast.drill.audit.judge import COUNTERS, Facts, Verdict, judge
from holdfast.drill.audit.topics import Change, change_of
from holdfast.drill.buyers.record import Purchase

EVENT, TIER = ids.new_id(), ids.new_id()
PRICE = 1000


class Scene(NamedTuple):
    """Alice's order was paid for, Bob's cancelled, Carol's paid for after its hold had ended, and Dave's is held."""

    orders: dict[UUID, OrderFound]
    changes: list[Change]

    def verdict(self, sales: SalesFound | None = None) -> Verdict:
        """What the audit says of it, with these statistics or the right ones."""
        database = DatabaseFound(
            orders=self.orders,
            stock={TIER: StockFound(EVENT, 100, 1, 2)},
            people={(EVENT, one.user_id): 1 for one in self.orders.values() if one.status != "cancelled"},
            epochs={},
            unread=0,
            dead_letters=0,
            open_payments=0,
            sales={TIER: sales or SalesFound(4, 2, 2, 2 * PRICE)},
        )
        purchases = [
            Purchase(number=0, intended_at=0, sale=0, user_id=one.user_id, key=one.key, manner="buy", orders=[order])
            for order, one in self.orders.items()
        ]
        return judge(Facts([EVENT], database, None, self.changes), purchases)

    def place(self, kind: str, version: int) -> int:
        """Where the topic says this."""
        return next(n for n, one in enumerate(self.changes) if (one.kind, one.version) == (f"order.{kind}", version))


@pytest.fixture
def scene() -> Scene:
    scene = Scene({}, [])
    for key, kinds in {
        "alice": ["reserved", "confirmed"],
        "bob": ["reserved", "cancelled"],
        "carol": ["reserved", "expired", "confirmed"],
        "dave": ["reserved"],
    }.items():
        order, tickets = ids.new_id(), frozenset({ids.new_id()} if "confirmed" in kinds else ())
        paid = len(tickets)
        scene.orders[order] = OrderFound(
            ids.new_id(), EVENT, kinds[-1], len(kinds), key, {TIER: 1}, PRICE, False, tickets, paid
        )
        for version, kind in enumerate(kinds, start=1):
            number = len(scene.changes)
            scene.changes.append(
                Change(f"7-{number}", f"order.{kind}", ids.encode(ids.ORDER, order), version, f"0/{number}")
            )
    return scene


def seen(verdict: Verdict) -> set[str]:
    """Which counters are not 0."""
    return {name for name in COUNTERS if getattr(verdict, name)}


def test_where_all_is_well_it_finds_nothing(scene: Scene) -> None:
    found = scene.verdict()
    assert found.findings == []
    assert (seen(found), found.repeated) == (set(), 0)


def test_the_same_message_again_is_allowed(scene: Scene) -> None:
    scene.changes.append(scene.changes[0])
    found = scene.verdict()
    assert (seen(found), found.repeated) == (set(), 1)


def test_a_message_of_another_kind_is_no_state_change(scene: Scene) -> None:
    scene.changes.append(Change("7-99", "gate.missed", scene.changes[0].order, 1, "0/99"))
    assert seen(scene.verdict()) == set()


@pytest.mark.parametrize(("kind", "version"), [("reserved", 1), ("cancelled", 2), ("expired", 2), ("confirmed", 3)])
def test_a_lost_event(scene: Scene, kind: str, version: int) -> None:
    del scene.changes[scene.place(kind, version)]
    found = scene.verdict()
    assert (seen(found), found.events_lost) == ({"events_lost"}, 1)


def test_one_change_under_two_ids(scene: Scene) -> None:
    scene.changes.append(scene.changes[scene.place("confirmed", 2)]._replace(event_id="8-1"))
    assert seen(scene.verdict()) == {"events_doubled"}


def test_a_change_that_did_not_happen(scene: Scene) -> None:
    scene.changes.append(scene.changes[-1]._replace(event_id="8-1", kind="order.cancelled", version=2))
    assert seen(scene.verdict()) == {"events_doubled"}


def test_changes_out_of_order(scene: Scene) -> None:
    first = scene.place("reserved", 1)
    scene.changes[first], scene.changes[first + 1] = scene.changes[first + 1], scene.changes[first]
    assert seen(scene.verdict()) == {"events_disordered"}


def test_what_cannot_be_read(scene: Scene) -> None:
    scene.changes.append(change_of(b"no JSON", "0/99"))
    assert seen(scene.verdict()) == {"events_lost"}


@pytest.mark.parametrize(
    ("sales", "counters"),
    [
        (SalesFound(3, 2, 2, 2 * PRICE), {"events_lost"}),
        (SalesFound(4, 1, 2, 2 * PRICE), {"events_lost"}),
        (SalesFound(4, 2, 3, 3 * PRICE), {"events_doubled"}),
        (SalesFound(4, 2, 2, PRICE), {"events_lost"}),
    ],
)
def test_statistics_that_are_not_what_the_orders_add_up_to(scene: Scene, sales: SalesFound, counters: set[str]) -> None:
    assert seen(scene.verdict(sales)) == counters


def test_a_cloud_event_is_read_as_it_stands() -> None:
    content = b'{"id":"7-1","type":"holdfast.order.reserved.v1","data":{"order_id":"ord_x","version":1,"more":[]}}'
    assert change_of(content, "here") == Change("7-1", "order.reserved", "ord_x", 1, "here")
    assert change_of(b'{"id":"7-2","type":"holdfast.stock.changed.v1","data":{}}', "here").order == ""
