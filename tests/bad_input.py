"""What the tests of bad input share: every route that takes something, and a watch over what it answers and writes."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from holdfast.engines.database import Pool
from holdfast.settings import Settings
from house import PASSWORD, House, open_house, refused, tier

KEY = {"Idempotency-Key": "a key of its own"}
BODY_BYTES_MAX = 16 * 1024
IMPORT_BYTES_MAX = 2 * BODY_BYTES_MAX
LONG = "x" * 10_000


class Taking(NamedTuple):
    """A route that takes a body: who sends it, and a body that is right. {names} are filled with real ids."""

    who: str | None
    path: str
    body: dict[str, Any]
    may_be: tuple[tuple[str, str], ...] = ()
    """Values that look wrong and are not: a pointer and JSON, or a pointer and `*` for any text."""

    @property
    def wants_key(self) -> bool:
        return self.path.startswith("/orders/")


NEW_USER = {"email": "carol@example.com", "password": PASSWORD}
TIER = tier("Floor", sale_starts_at="2098-01-01", sale_ends_at="2098-02-01")
EVENT = {
    "name": "Concert",
    "description": "Loud",
    "venue": {"name": "Hall", "address": "Here"},
    "starts_at": "2099-03-01T19:30:00+08:00",
    "ends_at": "2099-03-01T22:30:00+08:00",
    "time_zone": "Asia/Taipei",
    "url": "https://example.com/concert",
    "hold_seconds": 300,
    "tickets_per_user_max": 4,
    "tiers": [TIER],
}
EVENT_CHANGE = {name: value for name, value in EVENT.items() if name != "tiers"}
NULLABLE_TIER = ((r"/sale_(starts|ends)_at", "null"), (r"/price/currency", "null"))
PRICES = ((r"/price/amount", "0"), (r"/price/amount", "2147483648"), (r"/capacity", "0"))
NULLABLE_EVENT = ((r"/(ends_at|url)", "null"),)
NEW_EVENT_MAY_BE = (
    *NULLABLE_EVENT,
    (r"/(time_zone|hold_seconds|tickets_per_user_max)", "null"),
    (r"/tiers", "[]"),
    (r"/venue", "{}"),
    (r"/description", f'"{LONG}"'),
    *((f"/tiers/0{pointer}", value) for pointer, value in (*NULLABLE_TIER, *PRICES)),
)

TAKING = {
    "POST /users/register": Taking(None, "/users/register", NEW_USER | {"name": "Carol"}, ((r"/name", "null"),)),
    "POST /users/login": Taking(None, "/users/login", NEW_USER),
    "POST /users/refresh": Taking(None, "/users/refresh", {"refresh_token": "x" * 43}),
    "POST /users/logout": Taking(None, "/users/logout", {"refresh_token": "x" * 43}),
    "POST /users/administrator": Taking(None, "/users/administrator", NEW_USER | {"token": "x" * 43}),
    "POST /users/{user_id}/role": Taking("ada", "/users/{user_id}/role", {"role": "organiser"}),
    "POST /events": Taking("olga", "/events", EVENT, NEW_EVENT_MAY_BE),
    "PATCH /events/{event_id}": Taking(
        "olga",
        "/events/{event_id}",
        EVENT_CHANGE,
        (*NULLABLE_EVENT, (r"/venue", "{}"), (r"/description", f'"{LONG}"')),
    ),
    "POST /events/{event_id}/tiers": Taking("olga", "/events/{event_id}/tiers", TIER, (*NULLABLE_TIER, *PRICES)),
    "PATCH /events/{event_id}/tiers/{tier_id}": Taking(
        "olga", "/events/{event_id}/tiers/{tier_id}", TIER | {"paused": True}, (*NULLABLE_TIER, *PRICES)
    ),
    "POST /orders/create": Taking(
        "alice", "/orders/create", {"event_id": "{event_id}", "lines": [{"tier_id": "{tier_id}", "quantity": 1}]}
    ),
    "POST /orders/{order_id}/confirm": Taking("alice", "/orders/{order_id}/confirm", {"payment_token": "tok_ok"}),
    "POST /orders/{order_id}/cancel": Taking("alice", "/orders/{order_id}/cancel", {}),
}
TAKING_NOTHING = {"POST /events/{event_id}/publish", "POST /events/{event_id}/cancel", "POST /livez"}
TAKING_FILES = {"POST /events/import"}


class Ids(NamedTuple):
    """The real ones."""

    user_id: str
    event_id: str
    tier_id: str
    order_id: str


@asynccontextmanager
async def bounded_house(settings: Settings, pool: Pool) -> AsyncIterator[House]:
    """A house that takes small bodies, and as many requests as a test sends."""
    many = {"user_purchases_burst": 100_000, "address_sign_ins_burst": 100_000, "account_failures_burst": 100}
    bytes_max = {"body_bytes_max": BODY_BYTES_MAX, "import_bytes_max": IMPORT_BYTES_MAX}
    async with open_house(settings, pool, **bytes_max, **many) as opened:
        yield opened


async def real_ids(house: House) -> Ids:
    """Makes an event of Olga's and an order of Alice's."""
    event = await house.event(tickets_per_user_max=1000)
    order = await house.order("alice", "key", event)
    return Ids(house.id("bob"), event["id"], event["tiers"][0]["id"], order["id"])


def filled(text: str, real: Ids) -> str:
    """A path or a body with real ids."""
    return re.sub(r"\{(\w+_id)\}", lambda match: str(getattr(real, match[1])), text)


async def send(house: House, name: str, real: Ids, content: str | bytes, **headers: str) -> httpx.Response:
    """One request to a route of TAKING with this body."""
    taking = TAKING[name]
    given = {"Content-Type": "application/json"} | (KEY if taking.wants_key else {}) | headers
    method = name.partition(" ")[0]
    return await house.ask(taking.who, method, filled(taking.path, real), content=content, headers=given)


class Wrongs:
    """Collects every reply that was not as expected, so that one run shows them all; and compares the rows."""

    def __init__(self, house: House, before: dict[str, int]) -> None:
        self._house = house
        self._before = before
        self._found: list[str] = []

    def expect(self, reply: httpx.Response, expected: str, what: object) -> None:
        """`expected` is a pattern of `status code`."""
        answer = f"{reply.status_code} success" if reply.status_code < 400 else refused(reply)
        if not re.fullmatch(expected, answer):
            self._found.append(f"{answer} instead of {expected}: {str(what)[:150]}")

    async def none(self) -> None:
        """There were none, and nothing was written."""
        assert not self._found, "\n".join(self._found)
        assert await self._house.rows() == self._before


async def watching(house: House) -> Wrongs:
    """Begins to watch."""
    return Wrongs(house, await house.rows())
