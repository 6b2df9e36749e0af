"""Events and tiers over HTTP: who may do what, what each step does to the sale, and what is refused."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from ticket_house import TicketHouse, ticket_house, tier


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[TicketHouse]:
    async with ticket_house(settings, pool) as opened:
        yield opened


def code(reply: httpx.Response) -> str:
    return f"{reply.status_code} {reply.json()['code']}"


def pointers(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 422, reply.text
    return [error["pointer"] for error in reply.json()["errors"]]


async def test_an_event_from_draft_to_cancelled(house: TicketHouse) -> None:
    event = await house.event(
        published=False,
        description="Two\nlines",
        venue={"name": "高雄流行音樂中心", "address": "真愛路1號"},
        ends_at="2027-03-01T22:00",
        time_zone="Asia/Tokyo",
        url="https://house.example/e",
        tiers=[tier("A"), tier("B", sale_starts_at="2027-01-01", sale_ends_at="2027-02-28")],
    )
    assert (event["status"], event["version"], event["hold_seconds"]) == ("draft", 1, 600)
    assert (event["starts_at"], event["ends_at"]) == ("2027-03-01T11:30:00.000Z", "2027-03-01T13:00:00.000Z")
    # A day is meant in the event's zone, and the sale's last day is included.
    assert event["tiers"][1]["sale_starts_at"] == "2026-12-31T15:00:00.000Z"
    assert event["tiers"][1]["sale_ends_at"] == "2027-02-28T15:00:00.000Z"
    assert await house.states(event["id"]) == ["draft", "draft"]
    assert await house.told(event["id"]) == []
    path = f"/events/{event['id']}"
    assert code(await house.ask(None, "GET", path)) == "404 not_found"
    assert await house.listed() == []

    assert (await house.ask("olga", "POST", f"{path}/publish")).json()["status"] == "published"
    again = (await house.ask("olga", "POST", f"{path}/publish")).json()
    assert (again["status"], again["version"]) == ("published", 2)
    assert await house.states(event["id"]) == ["open", "open"]
    assert await house.told(event["id"]) == ["event.changed 2"]
    assert await house.pool.fetchval("SELECT count(*) FROM tickets.gates") == 1
    seen = (await house.ask(None, "GET", path)).json()
    assert seen["venue"] == {"name": "高雄流行音樂中心", "address": "真愛路1號"}
    assert "tiers" not in seen
    assert "organiser_id" not in seen

    assert (await house.ask("olga", "POST", f"{path}/cancel")).json()["status"] == "cancelled"
    assert (await house.ask("olga", "POST", f"{path}/cancel")).json()["version"] == 3
    assert await house.states(event["id"]) == ["cancelled", "cancelled"]
    assert await house.told(event["id"]) == ["event.changed 2", "event.changed 3", "event.cancelled 3"]
    assert (await house.ask("alice", "GET", path)).json()["status"] == "cancelled"
    assert await house.listed() == []
    for method, below, body in (
        ("POST", "/publish", None),
        ("PATCH", "", {"name": "Back"}),
        ("POST", "/tiers", tier("C")),
        ("PATCH", f"/tiers/{event['tiers'][0]['id']}", {"paused": True}),
    ):
        assert code(await house.ask("olga", method, path + below, json=body)) == "409 event_cancelled"


async def test_tiers_are_added_changed_paused_and_deleted(house: TicketHouse) -> None:
    event = await house.event(published=False)
    path = f"/events/{event['id']}"
    first = event["tiers"][0]["id"]
    added = await house.ask("olga", "POST", f"{path}/tiers", json=tier("Balcony", capacity=5))
    assert (added.status_code, added.json()["state"]) == (201, "draft")
    second = added.json()["id"]
    assert (await house.ask("olga", "PATCH", f"{path}/tiers/{first}", json={"paused": True})).json()["paused"]
    assert (await house.ask("olga", "DELETE", f"{path}/tiers/{second}")).status_code == 204
    assert code(await house.ask("olga", "DELETE", f"{path}/tiers/{second}")) == "404 not_found"
    await house.ask("olga", "POST", f"{path}/publish")
    # What was paused as a draft waits for its organiser.
    assert await house.states(event["id"]) == ["paused"]
    changed = await house.ask(
        "olga",
        "PATCH",
        f"{path}/tiers/{first}",
        json={"paused": False, "name": "Floor", "price": {"amount": 1}, "capacity": 7, "sale_starts_at": "2027-02-01"},
    )
    assert changed.json() | {"id": "", "event_id": ""} == {
        "id": "",
        "event_id": "",
        "name": "Floor",
        "price": {"amount": 1, "currency": "TWD"},
        "capacity": 7,
        "held": 0,
        "sold": 0,
        "sale_starts_at": "2027-01-31T16:00:00.000Z",
        "sale_ends_at": None,
        "state": "open",
        "paused": False,
    }
    cleared = await house.ask("olga", "PATCH", f"{path}/tiers/{first}", json={"sale_starts_at": None})
    assert cleared.json()["sale_starts_at"] is None
    assert cleared.json()["capacity"] == 7
    assert code(await house.ask("olga", "DELETE", f"{path}/tiers/{first}")) == "409 invalid_state"
    late = await house.ask("olga", "POST", f"{path}/tiers", json=tier("Late"))
    assert late.json()["state"] == "open"
    versions = [int(told.split()[1]) for told in await house.told(event["id"])]
    assert versions == sorted(set(versions))


async def test_an_events_change_keeps_what_is_not_given(house: TicketHouse) -> None:
    event = await house.event(venue={"name": "Hall", "address": "Here"}, ends_at="2027-03-02", description="x")
    path = f"/events/{event['id']}"
    changed = (
        await house.ask(
            "olga",
            "PATCH",
            path,
            json={"venue": {"name": "Arena"}, "tickets_per_user_max": 9, "starts_at": "2027-03-01T18:00"},
        )
    ).json()
    assert changed["venue"] == {"name": "Arena", "address": "Here"}
    assert (changed["tickets_per_user_max"], changed["description"]) == (9, "x")
    assert changed["starts_at"] == "2027-03-01T10:00:00.000Z"
    assert changed["version"] == event["version"] + 1
    moved = (await house.ask("olga", "PATCH", path, json={"time_zone": "Europe/Berlin", "ends_at": None})).json()
    assert (moved["starts_at"], moved["time_zone"], moved["ends_at"]) == (changed["starts_at"], "Europe/Berlin", None)
    assert pointers(await house.ask("olga", "PATCH", path, json={"ends_at": "2027-02-01"})) == ["/ends_at"]


ORGANISERS_ROUTES = [
    ("GET", "/organiser/events", None),
    ("POST", "/events", {"name": "New", "starts_at": "2027-03-01"}),
    ("POST", "/events/import", None),
    ("PATCH", "/events/{event}", {"name": "Mine"}),
    ("POST", "/events/{event}/publish", None),
    ("POST", "/events/{event}/cancel", None),
    ("POST", "/events/{event}/tiers", tier("Mine")),
    ("PATCH", "/events/{event}/tiers/{tier}", {"price": {"amount": 1}}),
    ("DELETE", "/events/{event}/tiers/{tier}", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ORGANISERS_ROUTES)
async def test_every_organisers_route_has_an_owner_rule(
    house: TicketHouse, method: str, path: str, body: dict[str, Any] | None
) -> None:
    event = await house.event(published=False)
    path = path.format(event=event["id"], tier=event["tiers"][0]["id"])
    assert code(await house.ask(None, method, path, json=body)) == "401 token_missing"
    assert code(await house.ask("alice", method, path, json=body)) == "403 forbidden"
    if event["id"] in path:
        assert code(await house.ask("mallory", method, path, json=body)) == "404 not_found"
        assert (await house.ask("olga", "GET", f"/events/{event['id']}")).json() == event
    headers = {} if body is not None or method == "GET" else {"Content-Type": "application/json"}
    # An administrator whose role was taken away keeps a token that still says otherwise.
    await house.pool.execute("UPDATE auth.users SET role = 'buyer' WHERE id = $1", house.users["ada"])
    assert code(await house.ask("ada", method, path, json=body)) == "403 forbidden"
    await house.pool.execute("UPDATE auth.users SET role = 'admin' WHERE id = $1", house.users["ada"])
    content = {"content": b"[]"} if path.endswith("import") else {"json": body}
    allowed = await house.ask("ada", method, path, headers=headers, **content)
    assert allowed.status_code in (200, 201, 204), allowed.text


async def test_who_sees_a_draft(house: TicketHouse) -> None:
    event = await house.event(published=False)
    path = f"/events/{event['id']}"
    for who, status in (("olga", 200), ("ada", 200), ("mallory", 404), ("alice", 404), (None, 404)):
        assert (await house.ask(who, "GET", path)).status_code == status, who
    assert (await house.ask(None, "GET", path, headers={"Authorization": "Bearer x"})).status_code == 401
    mine = await house.ask("olga", "GET", "/organiser/events")
    assert [each["id"] for each in mine.json()["data"]] == [event["id"]]
    assert (await house.ask("mallory", "GET", "/organiser/events")).json() == {"data": [], "next_cursor": None}


async def test_another_events_tier_is_unknown(house: TicketHouse) -> None:
    olgas, mallorys = await house.event(), await house.event("mallory")
    path = f"/events/{mallorys['id']}/tiers/{olgas['tiers'][0]['id']}"
    assert code(await house.ask("mallory", "PATCH", path, json={"capacity": 1})) == "404 not_found"


@pytest.mark.parametrize(
    "event_id",
    ["x", "evt_", ids.encode(ids.EVENT, ids.new_id()), "tier_" + "0" * 26, "%00", "import"],
    ids=["x", "prefix", "nobody's", "a tier's", "NUL", "import"],
)
async def test_an_unknown_event_is_not_found(house: TicketHouse, event_id: str) -> None:
    assert code(await house.ask("olga", "GET", f"/events/{event_id}")) == "404 not_found"
    assert code(await house.ask("olga", "PATCH", f"/events/{event_id}", json={"name": "x"})) == "404 not_found"
    assert code(await house.ask("olga", "POST", f"/events/{event_id}/publish")) == "404 not_found"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "   "}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": 7}, "/name"),
        ({"name": None}, "/name"),
        ({"description": "x" * 20_001}, "/description"),
        ({"venue": {"name": "x", "seats": 1}}, "/venue/seats"),
        ({"starts_at": "2027-02-30"}, "/starts_at"),
        ({"starts_at": "tomorrow"}, "/starts_at"),
        ({"starts_at": "1969-12-31T23:59:59Z"}, "/starts_at"),
        ({"starts_at": "9999-12-31T23:59:59-12:00"}, "/starts_at"),
        ({"starts_at": 1_800_000_000}, "/starts_at"),
        ({"starts_at": "2027-03-28T02:30", "time_zone": "Europe/Berlin"}, "/starts_at"),
        ({"ends_at": "2020-01-01"}, "/ends_at"),
        ({"time_zone": "Mars/Olympus"}, "/time_zone"),
        ({"time_zone": "../../etc/passwd"}, "/time_zone"),
        ({"time_zone": "+25:00"}, "/time_zone"),
        ({"url": "javascript:alert(1)"}, "/url"),
        ({"url": "http://[bad"}, "/url"),
        ({"hold_seconds": 0}, "/hold_seconds"),
        ({"hold_seconds": 86_401}, "/hold_seconds"),
        ({"tickets_per_user_max": 1_001}, "/tickets_per_user_max"),
        ({"surprise": 1}, "/surprise"),
        ({"status": "published"}, "/status"),
        ({"tiers": [tier(capacity=-1)]}, "/tiers/0/capacity"),
        ({"tiers": [tier(capacity=2**63)]}, "/tiers/0/capacity"),
        ({"tiers": [tier() | {"capacity": 1.5}]}, "/tiers/0/capacity"),
        ({"tiers": [tier(capacity=True)]}, "/tiers/0/capacity"),
        ({"tiers": [tier(amount=-1)]}, "/tiers/0/price/amount"),
        ({"tiers": [tier(amount=10**12 + 1)]}, "/tiers/0/price/amount"),
        ({"tiers": [tier() | {"price": {"amount": 1, "currency": "XYZ"}}]}, "/tiers/0/price/currency"),
        ({"tiers": [tier("A"), tier("A")]}, "/tiers/1/name"),
        ({"tiers": [tier("A"), tier("B") | {"price": {"amount": 1, "currency": "EUR"}}]}, "/tiers/1/price/currency"),
        ({"tiers": [tier(sale_starts_at="2027-01-02", sale_ends_at="2027-01-01")]}, "/tiers/0/sale_ends_at"),
        ({"tiers": [tier(f"{n}") for n in range(101)]}, "/tiers"),
    ],
)
async def test_what_an_event_cannot_be(house: TicketHouse, changes: dict[str, Any], pointer: str) -> None:
    body = {"name": "Concert", "starts_at": "2027-03-01T19:30:00+08:00"} | changes
    assert pointers(await house.ask("olga", "POST", "/events", json=body)) == [pointer]
    assert await house.pool.fetchval("SELECT count(*) FROM tickets.events") == 0


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"name": "Floor"}, "422 validation"),
        ({"price": {"amount": 1, "currency": "EUR"}}, "422 validation"),
        ({"paused": 1}, "422 validation"),
        ({"capacity": None}, "422 validation"),
        ({"state": "open"}, "422 validation"),
    ],
)
async def test_what_a_tier_cannot_become(house: TicketHouse, change: dict[str, Any], answer: str) -> None:
    event = await house.event(tiers=[tier("Standing"), tier("Floor")])
    path = f"/events/{event['id']}/tiers/{event['tiers'][0]['id']}"
    assert code(await house.ask("olga", "PATCH", path, json=change)) == answer
    assert (await house.ask("olga", "GET", f"/events/{event['id']}")).json() == event


async def test_a_tier_that_is_alone_may_change_its_currency(house: TicketHouse) -> None:
    event = await house.event()
    path = f"/events/{event['id']}/tiers/{event['tiers'][0]['id']}"
    changed = await house.ask("olga", "PATCH", path, json={"price": {"amount": 5, "currency": "EUR"}})
    assert changed.json()["price"] == {"amount": 5, "currency": "EUR"}
    other = await house.ask("olga", "POST", f"/events/{event['id']}/tiers", json=tier("Balcony"))
    assert pointers(other) == ["/price/currency"]
