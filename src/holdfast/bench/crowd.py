"""Who buys what: buyers with tokens, events on sale, and the requests that the client sends for them."""

import json
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import clock, ids
from holdfast.auth.actors import Actor
from holdfast.auth.tokens import Tokens
from holdfast.engines.database import Pool, load_statements
from holdfast.settings import Settings
from holdfast.tickets.catalogue import open_catalogue
from holdfast.tickets.event_fields.bodies import EventBody, PriceBody, TierBody
from holdfast.tickets.event_rows import HOUSE_ORGANISER

CAPACITY = 100_000_000
"""What does not sell out in any run."""
HOLD_SECONDS = 86_400
"""No hold runs out while the bench runs."""
TICKETS_PER_USER_MAX = 1000

_SQL = load_statements("holdfast.bench", "crowd.sql")
_MINTED_HERE_MAX = 10_000
_MINTED_AT_ONCE = 2_500


class Sale(NamedTuple):
    """An event on sale."""

    event_id: UUID
    tiers: tuple[UUID, ...]

    def order(self, tickets: int = 1) -> str:
        """The body of an order of so many tickets of each tier."""
        lines = [{"tier_id": ids.encode(ids.TIER, tier), "quantity": tickets} for tier in self.tiers]
        return json.dumps({"event_id": ids.encode(ids.EVENT, self.event_id), "lines": lines}, separators=(",", ":"))


class Crowd(NamedTuple):
    """People, and the line that the client has of each: what stands for @1@, @2@ … in its requests."""

    users: list[UUID]
    lines: list[str]

    def part(self, start: int, end: int | None = None) -> "Crowd":
        """Some of them."""
        return Crowd(self.users[start:end], self.lines[start:end])


def strangers(count: int) -> list[UUID]:
    """So many new user ids all over the key space: those of real buyers are as old as their accounts."""
    made = (int.from_bytes(secrets.token_bytes(16), "big") for _ in range(count))
    return [UUID(int=(bits & ~(0xF << 76 | 0x3 << 62)) | 0x7 << 76 | 0x2 << 62) for bits in made]


def mint(settings: Settings, users: Sequence[UUID]) -> Crowd:
    """These people with an access token each. Many are minted on all cores."""
    parts = [users[start : start + _MINTED_AT_ONCE] for start in range(0, len(users), _MINTED_AT_ONCE)]
    if len(users) <= _MINTED_HERE_MAX:
        minted: Iterator[list[str]] = (_mint(settings, part) for part in parts)
        return Crowd(list(users), [token for part in minted for token in part])
    # Spawned, not forked: we have an event loop and connections, which a fork would share.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as cores:
        minted = cores.map(_mint, [settings] * len(parts), parts)
        return Crowd(list(users), [token for part in minted for token in part])


def _mint(settings: Settings, users: Sequence[UUID]) -> list[str]:
    tokens = Tokens(settings)
    return [tokens.issue(user_id, "buyer") for user_id in users]


async def open_sale(
    settings: Settings, pool: Pool, tiers: int = 1, capacity: int = CAPACITY, hold_seconds: int = HOLD_SECONDS
) -> Sale:
    """A published event of the house with so many tiers of that capacity each."""
    catalogue = await open_catalogue(settings, pool)
    house = Actor(HOUSE_ORGANISER, is_administrator=False)
    body = EventBody(
        name="Bench",
        description="Made by `holdfast bench`. No ticket of it admits anyone.",
        starts_at=clock.rfc3339(clock.utc_now() + timedelta(days=365)),
        hold_seconds=hold_seconds,
        tickets_per_user_max=TICKETS_PER_USER_MAX,
        tiers=[
            TierBody(name=f"Tier {number}", price=PriceBody(amount=100_000), capacity=capacity)
            for number in range(1, tiers + 1)
        ],
    )
    made = msgspec.convert(await catalogue.create(house, body), _Made)
    event_id = _decoded(ids.EVENT, made.id)
    await catalogue.publish(house, event_id)
    return Sale(event_id, tuple(_decoded(ids.TIER, tier.id) for tier in made.tiers))


async def end_sales(pool: Pool, sales: Sequence[Sale]) -> None:
    """Ends the sales of a case that is over, so that nothing looks at their gates while the next one is measured."""
    await pool.execute(_SQL["end_sales"], [sale.event_id for sale in sales])


def noop_request(sale: Sale) -> str:
    """The same as a purchase, to a route that does nothing."""
    return _post("/livez", sale.order())


def reserve_request(sale: Sale) -> str:
    """An order of one ticket of each tier."""
    return _post("/orders/create", sale.order())


def confirm_request(order: str) -> str:
    """Pays for an order: `order` stands for its id."""
    return _post(f"/orders/{order}/confirm", '{"payment_token":"tok_ok"}')


def cancel_request(order: str) -> str:
    """Cancels an order."""
    return _post(f"/orders/{order}/cancel", "{}")


def availability_request(sale: Sale) -> str:
    """Looks at what is left."""
    return f"GET /events/{ids.encode(ids.EVENT, sale.event_id)}/tickets HTTP/1.1\n{_HOST}\n"


def history_request() -> str:
    """A user's orders: @2@ is the user."""
    return f"GET /orders/@2@ HTTP/1.1\n{_HOST}Authorization: Bearer @1@\n\n"


def login_request(password: str) -> str:
    """A log-in: @1@ is the address."""
    body = '{"email":"@1@","password":"' + password + '"}'
    return f"POST /users/login HTTP/1.1\n{_HOST}Content-Type: application/json\n\n{body}"


def fresh(request: str) -> str:
    """The request for one run: under the same keys twice it would be a retry of the first."""
    return request.replace(_RUN, secrets.token_hex(6))


_RUN = "@run@"
_HOST = "Host: localhost\nAccept: application/json\n"


def _post(path: str, body: str) -> str:
    """A request of a signed-in buyer. `fresh` gives it keys that no other run uses."""
    head = f"POST {path} HTTP/1.1\n{_HOST}Authorization: Bearer @1@\n"
    return f"{head}Idempotency-Key: {_RUN}-@n@\nContent-Type: application/json\n\n{body}"


class _MadeTier(msgspec.Struct):
    id: str


class _Made(msgspec.Struct):
    id: str
    tiers: list[_MadeTier]


def _decoded(prefix: str, text: str) -> UUID:
    value = ids.decode(prefix, text)
    assert value is not None
    return value
