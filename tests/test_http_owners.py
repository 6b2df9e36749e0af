"""Owner rules: every route of the OpenAPI document for every kind of caller.

No token is 401, a role too small is 403, and what is someone else's is 404, as if it were not there. A new route must
state its rule here, or the test fails.
"""

import json
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest

from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import PASSWORD, House, asking, done, open_house, refused, tier

CALLERS = ("nobody", "alice", "bob", "olga", "mallory", "ada", "dora")
"""Alice's are the orders, Olga's the events. Ada administrates; Dora did until today, and her token still says so."""

Rule = dict[str, str]


def rule(*answers: str) -> Rule:
    """The answers to CALLERS, in order; `ok` is a success."""
    return dict(zip(CALLERS, answers, strict=True))


ANYONE = rule(*["ok"] * 7)
SIGNED_IN = rule("401", *["ok"] * 6)
ADMINISTRATORS = rule("401", "403", "403", "403", "403", "ok", "403")
ORGANISERS = rule("401", "403", "403", "ok", "ok", "ok", "403")
ITS_ORGANISER = rule("401", "403", "403", "ok", "404", "ok", "403")
WHO_MAY_SEE_THE_DRAFT = rule("404", "404", "404", "ok", "404", "ok", "404")
ITS_BUYER = rule("401", "ok", "404", "404", "404", "404", "404")
ITS_BUYER_OR_ADMINISTRATORS = rule("401", "ok", "404", "404", "404", "ok", "404")


class Route(NamedTuple):
    """One operation, what it is asked, and who may. {braces} are filled with what was made for this one request."""

    operation: str
    rule: Rule
    path: str
    body: dict[str, Any] | None = None


CREDENTIALS = {"email": "{email}", "password": PASSWORD}
ROUTES = [
    Route("POST /users/register", ANYONE, "/users/register", CREDENTIALS | {"email": "new-{email}"}),
    Route("POST /users/login", ANYONE, "/users/login", CREDENTIALS),
    Route("POST /users/refresh", ANYONE, "/users/refresh", {"refresh_token": "{refresh_token}"}),
    Route("POST /users/logout", ANYONE, "/users/logout", {"refresh_token": "{refresh_token}"}),
    # Who has the link may, whoever they are; nobody has one here.
    Route("POST /users/administrator", rule(*["410"] * 7), "/users/administrator", CREDENTIALS | {"token": "guess"}),
    Route("GET /users/me", SIGNED_IN, "/users/me"),
    Route("POST /users/{user_id}/role", ADMINISTRATORS, "/users/{carol}/role", {"role": "organiser"}),
    Route("GET /.well-known/jwks.json", ANYONE, "/.well-known/jwks.json"),
    Route("GET /setup", ANYONE, "/setup"),
    Route("GET /livez", ANYONE, "/livez"),
    Route("POST /livez", ANYONE, "/livez"),
    Route("GET /readyz", ANYONE, "/readyz"),
    Route("GET /events", ANYONE, "/events"),
    Route("GET /events/{event_id}", ANYONE, "/events/{event}"),
    Route("GET /events/{event_id}", WHO_MAY_SEE_THE_DRAFT, "/events/{draft}"),
    Route("GET /events/{event_id}/tickets", ANYONE, "/events/{event}/tickets"),
    Route("GET /events/{event_id}/sales", ITS_ORGANISER, "/events/{event}/sales"),
    Route("GET /events/{event_id}/sales", ITS_ORGANISER, "/events/{draft}/sales"),
    Route("GET /organiser/events", ORGANISERS, "/organiser/events"),
    Route("POST /events", ORGANISERS, "/events", {"name": "Mine", "starts_at": "2099-01-01"}),
    Route("POST /events/import", ORGANISERS, "/events/import", {"@graph": []}),
    Route("PATCH /events/{event_id}", ITS_ORGANISER, "/events/{event}", {"name": "Mine"}),
    Route("PATCH /events/{event_id}", ITS_ORGANISER, "/events/{draft}", {"name": "Mine"}),
    Route("POST /events/{event_id}/publish", ITS_ORGANISER, "/events/{draft}/publish"),
    Route("POST /events/{event_id}/cancel", ITS_ORGANISER, "/events/{event}/cancel"),
    Route("POST /events/{event_id}/tiers", ITS_ORGANISER, "/events/{event}/tiers", tier("Mine")),
    Route(
        "PATCH /events/{event_id}/tiers/{tier_id}",
        ITS_ORGANISER,
        "/events/{event}/tiers/{tier}",
        {"price": {"amount": 1}},
    ),
    Route("DELETE /events/{event_id}/tiers/{tier_id}", ITS_ORGANISER, "/events/{draft}/tiers/{draft_tier}"),
    Route("POST /orders/create", SIGNED_IN, "/orders/create", {"asking": "{event}"}),
    # An administrator sees everyone's orders, and neither pays for them nor gives them back.
    Route("POST /orders/{order_id}/confirm", ITS_BUYER, "/orders/{order}/confirm", {"payment_token": "tok_ok"}),
    Route("POST /orders/{order_id}/cancel", ITS_BUYER, "/orders/{order}/cancel", {}),
    Route("GET /orders/{id}", ITS_BUYER_OR_ADMINISTRATORS, "/orders/{order}"),
    Route("GET /orders/{id}", ITS_BUYER_OR_ADMINISTRATORS, "/orders/{alice}"),
]


@pytest.fixture
async def house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    async with open_house(settings, pool) as opened:
        opened.users["dora"] = ids.new_id()
        await pool.execute(
            "INSERT INTO auth.users (id, email, email_key, role) VALUES ($1, 'dora', 'dora', 'buyer')",
            opened.users["dora"],
        )
        yield opened


async def made_for(house: House, text: str, number: int) -> dict[str, str]:
    """Fresh ids of what the braces in `text` name."""
    email = f"{number}@example.com"
    made = {"email": email, "alice": house.id("alice")}
    if "{draft" in text:
        draft = await house.event(published=False)
        made |= {"draft": draft["id"], "draft_tier": draft["tiers"][0]["id"]}
    if re.search(r"\{(event|tier|order)\}", text):
        event = await house.event()
        made |= {"event": event["id"], "tier": event["tiers"][0]["id"]}
        if "{order}" in text:
            made["order"] = (await house.order("alice", f"key {number}", event))["id"]
    if re.search(r"\{(carol|refresh_token|email)\}", text):
        credentials = {"email": email, "password": PASSWORD}
        made["carol"] = done(await house.client.post("/users/register", json=credentials), 201)["id"]
        if "{refresh_token}" in text:
            made["refresh_token"] = done(await house.client.post("/users/login", json=credentials))["refresh_token"]
    return made


async def ask(house: House, route: Route, caller: str, number: int) -> httpx.Response:
    """One caller's request, on things that were made for it; a refusal must change nothing."""
    text = json.dumps(route.body)
    made = await made_for(house, route.path + text, number)
    path, text = (re.sub(r"\{(\w+)\}", lambda match: made[match[1]], part) for part in (route.path, text))
    body = json.loads(text)
    if body is not None and "asking" in body:
        body = asking({"id": made["event"], "tiers": [{"id": made["tier"]}]})
    headers = {"Idempotency-Key": f"key of {number}"}
    if caller == "dora":
        headers["Authorization"] = f"Bearer {house.tokens.issue(house.users['dora'], 'admin')}"
    elif caller != "nobody":
        headers |= house.headers(caller)
    before = await house.rows()
    reply = await house.client.request(route.operation.partition(" ")[0], path, json=body, headers=headers)
    if reply.status_code >= 400:
        assert await house.rows() == before, (route.operation, caller)
    return reply


async def test_every_route_of_the_document_states_its_rule(house: House) -> None:
    document = done(await house.client.get("/openapi.json"))
    operations = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert operations == {route.operation for route in ROUTES}
    # What the document says of tokens is what happens.
    for route in ROUTES:
        method, path = route.operation.split(" ")
        secured = bool(document["paths"][path][method.lower()].get("security"))
        assert secured == (route.rule["nobody"] == "401"), route.operation


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.operation.partition(' ')[0]} {route.path}")
async def test_every_route_keeps_its_rule(house: House, route: Route) -> None:
    found = {}
    for number, caller in enumerate(CALLERS):
        reply = await ask(house, route, caller, number)
        if reply.status_code >= 400:
            found[caller] = refused(reply)[:3]
        else:
            found[caller] = "ok" if reply.status_code in (200, 201, 204) else str(reply.status_code)
    assert found == route.rule


async def test_mallory_does_not_reach_what_is_olgas_through_what_is_her_own(house: House) -> None:
    olgas, mallorys = await house.event(), await house.event("mallory")
    tier_id = olgas["tiers"][0]["id"]
    for method, body in (("PATCH", {"capacity": 1}), ("DELETE", None)):
        reply = await house.ask("mallory", method, f"/events/{mallorys['id']}/tiers/{tier_id}", json=body)
        assert refused(reply) == "404 not_found"
    mixed = {"event_id": mallorys["id"], "lines": [{"tier_id": tier_id, "quantity": 1}]}
    assert refused(await house.ask("mallory", "POST", "/orders/create", key="key", json=mixed)) == "404 not_found"
    assert await house.held_and_sold(olgas) == (0, 0)


async def test_an_unknown_order_and_someone_elses_answer_alike(house: House) -> None:
    theirs = await house.order("alice", "key", await house.event())
    unknown = {"id": ids.encode(ids.ORDER, ids.new_id())}
    for order in (theirs, unknown):
        replies = [
            await house.ask("mallory", "GET", f"/orders/{order['id']}"),
            await house.confirm("mallory", "pay", order),
            await house.cancel("mallory", "away", order),
            await house.ask("mallory", "GET", f"/orders/{house.id('alice')}"),
            await house.ask("mallory", "GET", f"/orders/{ids.encode(ids.USER, ids.new_id())}"),
        ]
        bodies = [{**reply.json(), "request_id": ""} for reply in replies]
        assert [refused(reply) for reply in replies] == ["404 not_found"] * 5
        assert all(body == bodies[0] for body in bodies)
