"""Imported events in the house: at once on sale, the same again changes nothing, and a catalogue that changed wins."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast import ids
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from holdfast.tickets.event_rows import HOUSE_ORGANISER, ensure_house_organiser
from ticket_house import CATALOGUES, TicketHouse, ticket_house, tier

MEDIA_TYPES = {".html": "text/html", ".jsonld": "application/ld+json", ".json": "application/json", ".csv": "text/csv"}
COUNTS = ("created", "updated", "unchanged")


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[TicketHouse]:
    async with ticket_house(settings, pool) as opened:
        yield opened


def offer(name: str = "Floor", price: Any = 800, count: Any = 100, **more: Any) -> dict[str, Any]:
    return {"@type": "Offer", "name": name, "price": price, "priceCurrency": "TWD", "inventoryLevel": count, **more}


def concert(*offers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "@type": "MusicEvent",
        "url": "https://x.example/concert",
        "name": "Concert",
        "startDate": "2027-03-01T19:30:00+08:00",
        "offers": list(offers or (offer(),)),
        **more,
    }


async def take(house: TicketHouse, *events: dict[str, Any], who: str = "ada") -> dict[str, Any]:
    """Imports events: what became of them, and how many remarks there are."""
    report = await house.import_(json.dumps(events), "application/json", who)
    assert report["taken"] == sum(report[each] for each in COUNTS)
    return {each: report[each] for each in COUNTS if report[each]} | {
        each: [remark["reason"] for remark in report[each]] for each in ("refused", "notes") if report[each]
    }


async def rows(house: TicketHouse) -> list[list[tuple[Any, ...]]]:
    """Everything that an import can write."""
    tables = ("tickets.events", "tickets.tiers", "tickets.stock", "tickets.gates", "outbox.events")
    return [[tuple(row) for row in await house.pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")] for table in tables]


async def managed(house: TicketHouse, name: str = "Concert") -> dict[str, Any]:
    event_id = await house.pool.fetchval("SELECT id FROM tickets.events WHERE name = $1", name)
    event: dict[str, Any] = (await house.ask("ada", "GET", f"/events/{ids.encode(ids.EVENT, event_id)}")).json()
    return event


@pytest.mark.parametrize("name", ["concert.html", "festival.jsonld", "events-api.json", "summer.csv"])
async def test_importing_a_real_catalogue_twice_changes_nothing(house: TicketHouse, name: str) -> None:
    path = CATALOGUES / name
    first = await house.import_(path.read_bytes(), MEDIA_TYPES[path.suffix])
    assert first["created"] == first["taken"] > 0
    before = await rows(house)
    second = await house.import_(path.read_bytes(), MEDIA_TYPES[path.suffix])
    assert second == first | {"created": 0, "unchanged": first["created"]}
    assert await rows(house) == before
    assert len(await house.listed()) == first["taken"]


async def test_an_imported_event_is_the_houses_and_on_sale(house: TicketHouse) -> None:
    assert await take(house, concert()) == {"created": 1}
    event = await managed(house)
    assert event["organiser_id"] == ids.encode(ids.USER, HOUSE_ORGANISER)
    assert (event["status"], event["time_zone"], event["version"]) == ("published", "+08:00", 1)
    assert await house.states(event["id"]) == ["open"]
    assert await house.told(event["id"]) == ["event.changed 1"]
    assert await house.pool.fetchval("SELECT count(*) FROM tickets.gates") == 1
    await house.hold(event["tiers"][0]["id"], 100)


async def test_the_house_organiser_cannot_be_taken(house: TicketHouse) -> None:
    async with house.pool.acquire() as connection:
        assert await ensure_house_organiser(connection) == await ensure_house_organiser(connection)  # type: ignore[arg-type]
    row = await house.pool.fetchrow(
        "SELECT role, password_hash, email_key FROM auth.users WHERE id = $1", HOUSE_ORGANISER
    )
    assert row is not None
    assert tuple(row) == ("organiser", None, "(house)")


async def test_a_catalogue_that_changed_wins(house: TicketHouse) -> None:
    await take(house, concert(offer(), offer("Balcony", 1200, 10)))
    event = await managed(house)
    await house.ask("ada", "PATCH", f"/events/{event['id']}", json={"hold_seconds": 42, "description": "by hand"})
    # What was changed by hand stays as long as the catalogue says the same.
    assert await take(house, concert(offer(), offer("Balcony", 1200, 10))) == {"unchanged": 1}
    assert (await managed(house))["description"] == "by hand"
    changed = concert(offer(price=900, count=50), offer("Gallery", 300, 7), startDate="2027-03-02T19:30:00+08:00")
    assert await take(house, changed) == {"updated": 1}
    after = await managed(house)
    assert after["id"] == event["id"]
    assert (after["starts_at"], after["hold_seconds"]) == ("2027-03-02T11:30:00.000Z", 42)
    assert [(each["name"], each["price"]["amount"], each["capacity"], each["state"]) for each in after["tiers"]] == [
        ("Floor", 90_000, 50, "open"),
        ("Balcony", 120_000, 10, "paused"),
        ("Gallery", 30_000, 7, "open"),
    ]
    assert (await house.told(event["id"]))[-1] == f"event.changed {after['version']}"


async def test_a_tier_that_was_added_by_hand_stays_on_sale(house: TicketHouse) -> None:
    await take(house, concert())
    event = await managed(house)
    await house.ask("ada", "POST", f"/events/{event['id']}/tiers", json=tier("By hand"))
    assert await take(house, concert(offer(price=1))) == {"updated": 1}
    assert [each["state"] for each in (await managed(house))["tiers"]] == ["open", "open"]


async def test_an_import_never_takes_a_ticket_that_is_in_use(house: TicketHouse) -> None:
    await take(house, concert())
    tier_id = (await managed(house))["tiers"][0]["id"]
    await house.hold(tier_id, 60)
    keeps = "'Floor' keeps 60 tickets, since so many are held or sold"
    assert await take(house, concert(offer(count=10))) == {"updated": 1, "notes": [keeps]}
    before = await rows(house)
    assert await take(house, concert(offer(count=10))) == {"unchanged": 1, "notes": [keeps]}
    assert await rows(house) == before
    # Once they are back, the same catalogue takes its way.
    await house.pool.execute("SELECT tickets.move($1, $2, '{0}')", [ids.decode(ids.TIER, tier_id)], [-55])
    assert await take(house, concert(offer(count=10))) == {"updated": 1}
    assert (await managed(house))["tiers"][0]["capacity"] == 10


async def test_sold_out_elsewhere_ends_the_sale_here(house: TicketHouse) -> None:
    await take(house, concert())
    tier_id = (await managed(house))["tiers"][0]["id"]
    await house.hold(tier_id, 3)
    await take(house, concert(offer(availability="https://schema.org/SoldOut")))
    assert (await managed(house))["tiers"][0]["capacity"] == 3


async def test_a_cancelled_event_cancels_ours_for_good(house: TicketHouse) -> None:
    off = {"@type": "Event", "url": "https://x.example/concert", "name": "Concert", "eventStatus": "EventCancelled"}
    assert await take(house, off) == {"refused": ["the event is cancelled"]}
    await take(house, concert())
    event = await managed(house)
    assert await take(house, off) == {"updated": 1}
    assert (await managed(house))["status"] == "cancelled"
    assert await house.states(event["id"]) == ["cancelled"]
    assert (await house.told(event["id"]))[-1] == "event.cancelled 2"
    assert await take(house, off) == {"unchanged": 1}
    assert await take(house, concert()) == {
        "unchanged": 1,
        "notes": ["the event was cancelled here and stays so"],
    }


async def test_a_postponed_event_is_paused_until_someone_resumes_it(house: TicketHouse) -> None:
    late = concert(eventStatus="EventPostponed")
    assert await take(house, late) == {"refused": ["the event is postponed"]}
    await take(house, concert())
    event = await managed(house)
    assert await take(house, late) == {"updated": 1}
    assert await house.states(event["id"]) == ["paused"]
    assert await take(house, late) == {"unchanged": 1}
    moved = concert(eventStatus="EventRescheduled", startDate="2027-06-01T19:30:00+08:00")
    assert await take(house, moved) == {"updated": 1, "notes": ["the sale of 'Floor' is paused and stays so"]}
    assert (await managed(house))["starts_at"] == "2027-06-01T11:30:00.000Z"


async def test_performances_that_share_an_address(house: TicketHouse) -> None:
    run = [concert(startDate=f"2027-03-0{day}T19:30:00+08:00") for day in (1, 2, 3)]
    assert await take(house, run[0]) == {"created": 1}
    # The one that was known alone is found again among the others.
    assert await take(house, *run) == {"created": 2, "unchanged": 1}
    assert await take(house, *reversed(run)) == {"unchanged": 3}
    assert await take(house, run[1]) == {"unchanged": 1}
    assert len(await house.listed()) == 3


async def test_an_address_that_tells_of_another_event_now(house: TicketHouse) -> None:
    await take(house, concert(name="Fest 2027"))
    following = concert(name="Fest 2028", startDate="2028-03-01T19:30:00+08:00")
    assert await take(house, following) == {"created": 1}
    assert await take(house, following) == {"unchanged": 1}
    assert await house.listed() == ["Fest 2027", "Fest 2028"]


async def test_an_event_that_has_begun_is_not_moved(house: TicketHouse) -> None:
    await take(house, concert(startDate="2020-03-01T19:30:00+08:00"))
    assert await take(house, concert()) == {"created": 1}


async def test_an_event_over_is_shown_but_not_sold(house: TicketHouse) -> None:
    await take(house, concert(startDate="2020-03-01T19:30:00+08:00"))
    assert (await managed(house))["tiers"][0]["sale_ends_at"] == "2020-03-01T11:30:00.000Z"


async def test_an_organisers_import_is_their_own(house: TicketHouse) -> None:
    await take(house, concert())
    await take(house, concert(), who="olga")
    off = concert(eventStatus="EventCancelled")
    assert await take(house, off, who="mallory") == {"refused": ["the event is cancelled"]}
    assert await take(house, concert(name="Hijacked"), who="mallory") == {"created": 1}
    assert sorted(await house.listed()) == ["Concert", "Concert", "Hijacked"]
    mine = (await house.ask("olga", "GET", "/organiser/events")).json()["data"]
    assert [event["name"] for event in mine] == ["Concert"]


async def test_one_currency_per_event(house: TicketHouse) -> None:
    await take(house, concert(offer(), offer("Balcony")))
    euro = concert(offer(priceCurrency="EUR"))
    before = await rows(house)
    assert await take(house, euro) == {"refused": ["the event has tiers in TWD already"]}
    assert await rows(house) == before


async def test_two_imports_at_once_make_each_event_once(house: TicketHouse, settings: Settings) -> None:
    from holdfast.auth.actors import Actor
    from holdfast.tickets.importing.writer import import_catalogue

    data = json.dumps([concert(url=f"https://x.example/{n}", name=f"E{n}") for n in range(300)]).encode()
    ada = Actor(house.users["ada"], is_administrator=True)
    reports = await asyncio.gather(*(import_catalogue(house.catalogue, data, "json", ada) for _ in range(3)))
    assert sum(report.created for report in reports) == 300
    assert sum(report.unchanged for report in reports) == 600
    assert await house.pool.fetchval("SELECT count(*) FROM tickets.events") == 300


async def test_importing_while_the_tickets_are_bought(house: TicketHouse) -> None:
    await take(house, concert(offer("A"), offer("B")))
    tiers = [ids.decode(ids.TIER, each["id"]) for each in (await managed(house))["tiers"]]
    done = asyncio.Event()

    async def buy() -> int:
        bought = 0
        while not done.is_set():
            await house.pool.execute("SELECT tickets.hold($1, '{1,1}')", list(reversed(tiers)))
            await house.pool.execute("SELECT tickets.move($1, '{-1,-1}', '{0,0}')", tiers)
            bought += 1
        return bought

    buyers = [asyncio.create_task(buy()) for _ in range(4)]
    for count in (10, 50, 20, 100):
        assert "updated" in await take(house, concert(offer("A", count=count), offer("B", count=count)))
    done.set()
    assert sum(await asyncio.gather(*buyers)) > 0


async def test_two_thousand_events_take_seconds(house: TicketHouse) -> None:
    events = [concert(offer("A"), offer("B"), url=f"https://x.example/{n}", name=f"E{n}") for n in range(2_000)]
    for expected in ({"created": 2_000}, {"unchanged": 2_000}):
        began = monotonic_seconds()
        assert await take(house, *events) == expected
        assert monotonic_seconds() - began < 20


@pytest.mark.parametrize(
    ("headers", "content", "query", "answer"),
    [
        ({}, b"[]", "", (415, "unsupported_media_type")),
        ({"Content-Type": "application/pdf"}, b"[]", "", (415, "unsupported_media_type")),
        ({"Content-Type": "text/csv"}, b"a", "?default_capacity=-1", (422, "validation")),
        ({"Content-Type": "text/csv"}, b"x" * (16 * 1024 * 1024 + 1), "", (413, "too_large")),
    ],
)
async def test_what_is_no_import(
    house: TicketHouse, headers: dict[str, str], content: bytes, query: str, answer: tuple[int, str]
) -> None:
    reply = await house.ask("ada", "POST", f"/events/import{query}", content=content, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == answer


async def test_a_default_capacity(house: TicketHouse) -> None:
    reply = await house.ask(
        "ada",
        "POST",
        "/events/import?default_capacity=12",
        content="name;starts_at;price\nConcert;2027-03-01;NT$100\n",
        headers={"Content-Type": "text/csv; charset=utf-8"},
    )
    assert reply.json()["created"] == 1
    assert (await managed(house))["tiers"][0]["capacity"] == 12


async def test_nothing_taken_is_still_a_report(house: TicketHouse) -> None:
    assert await house.import_("{", "application/json") == {
        "taken": 0,
        "created": 0,
        "updated": 0,
        "unchanged": 0,
        "refused": [{"reason": "is not JSON: Expecting property name enclosed in double quotes, column 2", "line": 1}],
        "notes": [],
    }
