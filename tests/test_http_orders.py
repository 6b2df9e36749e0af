"""The eight endpoints on the wire: their shapes, their status codes, and every answer an Idempotency-Key can get."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import PASSWORD, House, asking, done, open_house, refused, tier

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ORDER_FIELDS = {
    "id",
    "user_id",
    "event_id",
    "status",
    "lines",
    "total",
    "created_at",
    "expires_at",
    "expires_in_seconds",
    "server_time",
}


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    # Nothing that is remembered for its cheapness may stand between one request of a test and the next.
    async with open_house(settings, pool, catalogue_seconds=0.001, availability_seconds=0.001) as opened:
        yield opened


# The shapes


async def test_the_eight_endpoints_from_registering_to_giving_back(house: House) -> None:
    event = await house.event(tiers=[tier("Seat", 120_000, 10), tier("Standing", 80_000, 5)], tickets_per_user_max=6)
    client = house.client
    user = done(
        await client.post("/users/register", json={"email": "Carol@example.com", "password": PASSWORD, "name": "卡蘿"}),
        201,
    )
    assert user["id"].startswith("usr_")
    assert (user["email"], user["name"], user["role"]) == ("Carol@example.com", "卡蘿", "buyer")
    session = done(await client.post("/users/login", json={"email": "carol@example.com", "password": PASSWORD}))
    assert set(session) >= {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (session["token_type"], session["expires_in"]) == ("Bearer", 900)
    signed = {"Authorization": f"Bearer {session['access_token']}"}

    events = done(await client.get("/events"))
    assert set(events) == {"data", "next_cursor"}
    assert events["data"][0].items() >= {"id": event["id"], "name": "Concert", "time_zone": "Asia/Taipei"}.items()
    assert events["data"][0]["starts_at"] == "2099-03-01T11:30:00.000Z"
    tickets = done(await client.get(f"/events/{event['id']}/tickets"))
    assert tickets["event_id"] == event["id"]
    assert MOMENT.fullmatch(tickets["server_time"])
    first = tickets["data"][0]
    assert first.items() >= {"name": "Seat", "capacity": 10, "available": 10, "held": 0, "sold": 0}.items()
    assert (first["price"], first["sale_state"]) == ({"amount": 120_000, "currency": "TWD"}, "on_sale")

    body = asking(event, 2, 1)
    reply = await client.post("/orders/create", json=body, headers=signed | {"Idempotency-Key": "first"})
    order = done(reply, 201)
    assert set(order) == ORDER_FIELDS
    assert order["id"].startswith("ord_")
    assert (order["user_id"], order["event_id"], order["status"]) == (user["id"], event["id"], "reserved")
    assert order["total"] == {"amount": 320_000, "currency": "TWD"}
    assert [(line["tier_id"], line["quantity"]) for line in order["lines"]] == [
        (line["tier_id"], line["quantity"]) for line in body["lines"]
    ]
    assert all(MOMENT.fullmatch(order[name]) for name in ("created_at", "expires_at", "server_time"))
    assert 598 <= order["expires_in_seconds"] <= 600
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["ratelimit-policy"] == '"user";q=40;w=2'
    assert re.fullmatch(r'"user";r=\d+', reply.headers["ratelimit"])
    left = [(one["available"], one["held"], one["sold"]) for one in await tiers_of(house, event)]
    assert left == [(8, 2, 0), (4, 1, 0)]

    path = f"/orders/{order['id']}"
    keyed = signed | {"Idempotency-Key": "pay"}
    paid = done(await client.post(f"{path}/confirm", json={"payment_token": "tok_ok"}, headers=keyed))
    assert (paid["status"], paid["expires_in_seconds"]) == ("confirmed", 0)
    assert [ticket["tier_id"] for ticket in paid["tickets"]] == [first["id"]] * 2 + [tickets["data"][1]["id"]]
    assert len({ticket["id"] for ticket in paid["tickets"]}) == 3
    assert all(ticket["id"].startswith("tkt_") for ticket in paid["tickets"])
    left = [(one["available"], one["held"], one["sold"]) for one in await tiers_of(house, event)]
    assert left == [(8, 0, 2), (4, 0, 1)]

    keyed = signed | {"Idempotency-Key": "second"}
    second = done(await client.post("/orders/create", json=asking(event, 1), headers=keyed), 201)
    assert done(await client.post(f"/orders/{second['id']}/cancel", headers=keyed))["status"] == "cancelled"
    history = done(await client.get(f"/orders/{user['id']}", headers=signed))
    assert set(history) == {"data", "next_cursor"}
    assert [(one["id"], one["status"]) for one in history["data"]] == [
        (second["id"], "cancelled"),
        (order["id"], "confirmed"),
    ]
    assert history["next_cursor"] is None
    seen = done(await client.get(path, headers=signed))
    assert seen["tickets"] == paid["tickets"] == history["data"][1]["tickets"]


async def tiers_of(house: House, event: dict[str, Any]) -> list[dict[str, Any]]:
    """The tiers of an event as buyers see them now."""
    tiers: list[dict[str, Any]] = done(await house.ask(None, "GET", f"/events/{event['id']}/tickets"))["data"]
    return tiers


async def test_a_confirm_that_is_pending_is_202(house: House) -> None:
    event = await house.event()
    for number, token in enumerate(("tok_timeout", "tok_late")):
        order = await house.order("alice", f"key {number}", event)
        pending = await house.confirm("alice", f"pay {number}", order, token)
        assert done(pending, 202)["status"] == "reserved"
        assert done(await house.confirm("alice", f"pay {number}", order, token), 202)["id"] == order["id"]
        assert refused(await house.confirm("alice", f"another {number}", order)) == "409 payment_pending"
    assert await house.held_and_sold(event) == (2, 0)


async def test_a_declined_confirm_is_402_and_may_be_tried_again(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "key", event)
    assert refused(await house.confirm("alice", "pay", order, "tok_declined")) == "402 payment_declined"
    assert done(await house.confirm("alice", "pay", order))["status"] == "confirmed"


@pytest.mark.parametrize("body", [None, b"", b"{}", b" {} "])
async def test_a_cancel_needs_no_body(house: House, body: bytes | None) -> None:
    order = await house.order("alice", "key", await house.event())
    headers = {"Content-Type": "application/json"} if body else {}
    reply = await house.ask("alice", "POST", f"/orders/{order['id']}/cancel", key="away", content=body, headers=headers)
    assert done(reply)["status"] == "cancelled"
    assert done(await house.cancel("alice", "away", order))["status"] == "cancelled", "the same with or without a body"


# Refusals of a sale


async def test_sold_out(house: House) -> None:
    event = await house.event(tiers=[tier(capacity=2), tier("Seat", capacity=5)])
    await house.order("alice", "key", event, 2)
    assert refused(await house.create("bob", "key", event, 1)) == "409 sold_out"
    assert refused(await house.create("bob", "key", event, 1, 1)) == "409 sold_out"
    assert await house.held_and_sold(event) == (2, 0), "an order is held whole or not at all"
    assert [one["sale_state"] for one in await tiers_of(house, event)] == ["sold_out", "on_sale"]


async def test_the_limit_of_a_person(house: House) -> None:
    event = await house.event(tickets_per_user_max=3)
    assert refused(await house.create("alice", "four", event, 4)) == "409 user_limit_reached"
    await house.order("alice", "two", event, 2)
    assert refused(await house.create("alice", "and two", event, 2)) == "409 user_limit_reached"
    await house.order("alice", "and one", event, 1)
    await house.order("bob", "two", event, 2)
    assert await house.held_and_sold(event) == (5, 0)


async def test_the_sales_window(house: House) -> None:
    early = await house.event(tiers=[tier(sale_starts_at="2098-01-01")])
    late = await house.event(tiers=[tier(sale_ends_at="2020-01-01")])
    mixed = await house.event(tiers=[tier(), tier("Early", sale_starts_at="2098-01-01")])
    assert refused(await house.create("alice", "key", early)) == "409 sale_not_open"
    assert refused(await house.create("alice", "key", late)) == "409 sale_closed"
    assert refused(await house.create("alice", "key", mixed, 1, 1)) == "409 sale_not_open"
    states = [(await tiers_of(house, event))[0]["sale_state"] for event in (early, late)]
    assert states == ["scheduled", "closed"]
    paused = await house.event()
    path = f"/events/{paused['id']}/tiers/{paused['tiers'][0]['id']}"
    done(await house.ask("olga", "PATCH", path, json={"paused": True}))
    assert refused(await house.create("alice", "key", paused)) == "409 sale_not_open"
    done(await house.ask("olga", "PATCH", path, json={"paused": False}))
    await house.order("alice", "key", paused)


async def test_a_cancelled_event_and_a_draft(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "key", event)
    done(await house.ask("olga", "POST", f"/events/{event['id']}/cancel"))
    assert refused(await house.create("bob", "key", event)) == "409 event_cancelled"
    assert refused(await house.confirm("alice", "pay", order)) == "409 event_cancelled"
    draft = await house.event(published=False)
    assert refused(await house.create("alice", "key", draft)) == "404 not_found"
    assert refused(await house.ask(None, "GET", f"/events/{draft['id']}/tickets")) == "404 not_found"


async def test_a_hold_that_has_expired_is_410(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "key", event)
    await house.expire_holds()
    assert refused(await house.confirm("alice", "pay", order)) == "410 hold_expired"
    assert refused(await house.cancel("alice", "away", order)) == "409 invalid_state"
    seen = done(await house.ask("alice", "GET", f"/orders/{order['id']}"))
    assert (seen["status"], seen["expires_in_seconds"]) == ("expired", 0), "before the worker has run"
    await house.pool.fetchval("SELECT orders.expire(100)")
    assert refused(await house.confirm("alice", "pay", order)) == "410 hold_expired"


async def test_what_has_ended_cannot_end_again(house: House) -> None:
    event = await house.event()
    sold, given_back = [await house.order("alice", key, event) for key in ("sold", "back")]
    done(await house.confirm("alice", "pay", sold))
    done(await house.cancel("alice", "away", given_back))
    assert refused(await house.cancel("alice", "other", sold)) == "409 invalid_state"
    assert refused(await house.confirm("alice", "other", sold)) == "409 invalid_state"
    assert refused(await house.cancel("alice", "other", given_back)) == "409 invalid_state"
    assert refused(await house.confirm("alice", "other", given_back)) == "409 invalid_state"
    assert await house.held_and_sold(event) == (0, 1)


async def test_two_currencies_do_not_make_one_order(house: House) -> None:
    event = await house.event(tiers=[tier(), tier("Seat")])
    # No route makes such an event; what an operator does to the rows must not make an order of two sums.
    second = ids.decode(ids.TIER, event["tiers"][1]["id"])
    await house.pool.execute("UPDATE tickets.tiers SET currency = 'EUR' WHERE id = $1", second)
    assert refused(await house.create("alice", "key", event, 1, 1)) == "422 validation"
    await house.order("alice", "key", event, 0, 1)


# What stands before the sale


async def test_no_token_is_401(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "key", event)
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/orders/create", {"json": asking(event)}),
        ("POST", f"/orders/{order['id']}/confirm", {"json": {"payment_token": "tok_ok"}}),
        ("POST", f"/orders/{order['id']}/cancel", {}),
        ("GET", f"/orders/{order['id']}", {}),
        ("GET", f"/orders/{house.id('alice')}", {}),
    ]
    for method, path, request in requests:
        reply = await house.ask(None, method, path, key="key", **request)
        assert refused(reply) == "401 token_missing"
        assert reply.headers["www-authenticate"] == "Bearer"
        reply = await house.ask(None, method, path, key="key", headers={"Authorization": "Bearer x.y.z"}, **request)
        assert refused(reply) == "401 token_invalid"
        assert reply.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_someone_elses_order_is_404(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "key", event)
    before = await house.rows()
    for who in ("bob", "olga", "mallory"):
        assert refused(await house.confirm(who, "pay", order)) == "404 not_found"
        assert refused(await house.cancel(who, "away", order)) == "404 not_found"
        assert refused(await house.ask(who, "GET", f"/orders/{order['id']}")) == "404 not_found"
        assert refused(await house.ask(who, "GET", f"/orders/{house.id('alice')}")) == "404 not_found"
    assert await house.rows() == before
    assert done(await house.ask("ada", "GET", f"/orders/{order['id']}"))["id"] == order["id"]
    assert done(await house.ask("ada", "GET", f"/orders/{house.id('alice')}"))["data"][0]["id"] == order["id"]


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/orders/create", "POST"),
        ("/orders/ord_00000000000000000000000000/confirm", "POST"),
        ("/orders/ord_00000000000000000000000000/cancel", "POST"),
        ("/orders/ord_00000000000000000000000000", "GET"),
        ("/events/evt_00000000000000000000000000/tickets", "GET"),
        ("/events", "GET, POST"),
        ("/events/import", "POST"),
        ("/events/evt_00000000000000000000000000", "GET, PATCH"),
        ("/users/register", "POST"),
        ("/openapi.json", "GET"),
        ("/livez", "GET, POST"),
    ],
)
async def test_a_wrong_method_is_405_with_allow(house: House, path: str, allow: str) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"} - set(allow.split(", ")):
        reply = await house.client.request(method, path)
        if path == "/events/import" and method in ("GET", "PATCH"):
            continue  # an event of that id, which does not exist
        assert refused(reply) == "405 method_not_allowed", method
        assert set(allow.split(", ")) <= set(reply.headers["allow"].split(", "))


async def test_a_body_that_is_no_json_of_the_right_size(house: House) -> None:
    event = await house.event()
    order = await house.order("alice", "key", event)
    before = await house.rows()
    for path in ("/orders/create", f"/orders/{order['id']}/confirm", f"/orders/{order['id']}/cancel"):
        for content, content_type, expected in (
            (b"{}", "text/plain", "415 unsupported_media_type"),
            (b"{}", "application/json; charset=utf-16", "415 unsupported_media_type"),
            (b"{}", "", "415 unsupported_media_type"),
            (b"{", "application/json", "400 broken_json"),
            (b"{} {}", "application/json", "400 broken_json"),
            (b" " * 65_537, "application/json", "413 too_large"),
        ):
            reply = await house.ask(
                "alice", "POST", path, key="other", content=content, headers={"Content-Type": content_type}
            )
            assert refused(reply) == expected, (path, content[:10], content_type)
    assert await house.rows() == before


# Reading


async def test_orders_are_listed_newest_first_in_pages(house: House) -> None:
    event = await house.event(tickets_per_user_max=10)
    path = f"/orders/{house.id('alice')}"
    assert done(await house.ask("alice", "GET", path)) == {"data": [], "next_cursor": None}
    made = [(await house.order("alice", f"key {number}", event))["id"] for number in range(5)]
    await house.order("bob", "key", event)
    newest = made[::-1]
    for limit in (1, 2, 4, 5, 100):
        seen: list[str] = []
        query: dict[str, str] = {"limit": str(limit)}
        while True:
            page = done(await house.ask("alice", "GET", path, params=query))
            assert 0 < len(page["data"]) <= limit
            seen += [order["id"] for order in page["data"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert seen == newest
    first = done(await house.ask("alice", "GET", path, params={"limit": 2}))
    await house.order("alice", "meanwhile", event)
    rest = done(await house.ask("alice", "GET", path, params={"cursor": first["next_cursor"]}))
    assert [order["id"] for order in rest["data"]] == newest[2:], "a new order does not move a page"


async def test_availability_is_not_sent_again_when_nothing_has_changed(house: House) -> None:
    event = await house.event()
    path = f"/events/{event['id']}/tickets"

    async def asked(value: str | None) -> httpx.Response:
        return await house.client.get(path, headers={} if value is None else {"If-None-Match": value})

    first = await asked(None)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "no-cache"
    for value in (tag, tag.removeprefix("W/"), f'"x", {tag}', f'"x",{tag} , "y"', "*"):
        reply = await asked(value)
        assert (reply.status_code, reply.content) == (304, b""), value
        assert reply.headers["etag"] == tag
        assert "content-type" not in reply.headers
    for value in ('"x"', "x", "", tag[:-2] + '"', "W/", "**"):
        assert (await asked(value)).status_code == 200, value
    await house.order("alice", "key", event)
    changed = await asked(tag)
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
