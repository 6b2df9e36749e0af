"""What a rush needs before it begins: people with accounts and tokens, and an event that they come for."""

import asyncio
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import clock, ids
from holdfast.auth.actors import Actor
from holdfast.auth.addresses import parse_address
from holdfast.auth.passwords import Passwords
from holdfast.auth.tokens import Tokens
from holdfast.engines.database import Pool, load_statements
from holdfast.errors import Mendable
from holdfast.rush.http_client import Client, Reply, UnansweredError
from holdfast.settings import Settings
from holdfast.tickets.catalogue import open_catalogue
from holdfast.tickets.event_fields.bodies import EventBody, PriceBody, TierBody
from holdfast.tickets.event_rows import HOUSE_ORGANISER

HOLD_SECONDS = 5
TICKETS_PER_USER_MAX = 2
REGISTERED_OVER_HTTP = 5
"""So many of the buyers register and log in as people do; the others' accounts are written in bulk."""

_ACCOUNTS_AT_ONCE = 2000
_SHOWN_SECONDS_MAX = 15.0
_SHARES = (("Standing", 0.2), ("Seats A", 0.3), ("Seats B", 0.5))
_AUTH_SQL = load_statements("holdfast.auth", "auth.sql")


class Person(NamedTuple):
    """A buyer who has logged in."""

    user_id: UUID
    token: str


class Sale(NamedTuple):
    """The event that the crowd comes for."""

    event_id: UUID
    shown_id: str
    tiers: dict[UUID, int]
    """Tier -> capacity."""

    @property
    def capacity(self) -> int:
        """The tickets of all tiers."""
        return sum(self.tiers.values())


class Shown(msgspec.Struct):
    """A tier as GET /events/{event_id}/tickets shows it."""

    id: str
    capacity: int
    available: int
    held: int
    sold: int
    sale_state: str


class _Availability(msgspec.Struct):
    data: list[Shown]


async def invite(settings: Settings, pool: Pool, client: Client, count: int) -> list[Person]:
    """So many buyers with accounts of their own, logged in. Raises Mendable."""
    tokens = Tokens(settings)
    passwords = Passwords(settings)
    party, password = secrets.token_hex(4), secrets.token_urlsafe(16)
    try:
        async with passwords.turn():
            encoded = await passwords.hash(password)
    finally:
        passwords.close()
    by_hand = min(count, REGISTERED_OVER_HTTP)
    people = [await _sign_up(client, _email(party, number), password) for number in range(by_hand)]
    user_ids = [ids.new_id() for _ in range(by_hand, count)]
    rows = [
        (user_id, *_address(_email(party, number)), "Rush", encoded)
        for number, user_id in enumerate(user_ids, start=by_hand)
    ]
    for start in range(0, len(rows), _ACCOUNTS_AT_ONCE):
        await pool.executemany(_AUTH_SQL["register"], rows[start : start + _ACCOUNTS_AT_ONCE])
    return people + [Person(user_id, tokens.issue(user_id, "buyer")) for user_id in user_ids]


async def open_sale(settings: Settings, pool: Pool, tickets: int) -> Sale:
    """A published event of the house with so many tickets in up to three tiers."""
    catalogue = await open_catalogue(settings, pool)
    house = Actor(HOUSE_ORGANISER, is_administrator=False)
    now = clock.utc_now()
    body = EventBody(
        name=f"Rush of {now:%Y-%m-%d %H:%M:%S} UTC",
        description="Made by `holdfast rush`. No ticket of it admits anyone.",
        # Far away, so that it stands behind what people look for.
        starts_at=clock.rfc3339(now + timedelta(days=3650)),
        hold_seconds=HOLD_SECONDS,
        tickets_per_user_max=TICKETS_PER_USER_MAX,
        tiers=[
            TierBody(name=name, price=PriceBody(amount=100_000), capacity=capacity)
            for name, capacity in _shared_out(tickets)
        ],
    )
    made = msgspec.convert(await catalogue.create(house, body), _Made)
    event_id = _decoded(ids.EVENT, made.id)
    await catalogue.publish(house, event_id)
    return Sale(event_id, made.id, {_decoded(ids.TIER, tier.id): tier.capacity for tier in made.tiers})


async def until_shown(client: Client, sale: Sale) -> None:
    """Waits until the servers show the sale. Raises Mendable when they do not."""
    deadline = clock.monotonic_seconds() + _SHOWN_SECONDS_MAX
    while clock.monotonic_seconds() < deadline:
        tiers = await availability(client, sale)
        if tiers and all(tier.sale_state == "on_sale" for tier in tiers if tier.capacity):
            return
        await asyncio.sleep(0.05)
    raise Mendable("The servers do not show the event that was just made: give the --url of the `up` of --data.")


async def availability(client: Client, sale: Sale) -> Sequence[Shown]:
    """The tiers as everyone sees them; nothing where the servers do not say."""
    try:
        reply = await client.request("GET", f"/events/{sale.shown_id}/tickets")
        return msgspec.json.decode(reply.body, type=_Availability).data if reply.status == 200 else ()
    except (UnansweredError, msgspec.MsgspecError):
        return ()


class _Id(msgspec.Struct):
    id: str


class _Session(msgspec.Struct):
    access_token: str


class _MadeTier(msgspec.Struct):
    id: str
    capacity: int


class _Made(msgspec.Struct):
    id: str
    tiers: list[_MadeTier]


async def _sign_up(client: Client, email: str, password: str) -> Person:
    body = msgspec.json.encode({"email": email, "password": password})
    registered = _expect(await client.request("POST", "/users/register", (), body), 201)
    logged_in = _expect(await client.request("POST", "/users/login", (), body), 200)
    user_id = _decoded(ids.USER, msgspec.json.decode(registered, type=_Id).id)
    return Person(user_id, msgspec.json.decode(logged_in, type=_Session).access_token)


def _expect(reply: Reply, status: int) -> bytes:
    if reply.status != status:
        said = reply.body[:200].decode("utf-8", "replace")
        raise Mendable(f"The servers do not register buyers ({reply.status}: {said}): see `holdfast doctor`.")
    return reply.body


def _email(party: str, number: int) -> str:
    return f"rush-{party}-{number}@holdfast.example"


def _address(email: str) -> tuple[str, str]:
    address = parse_address(email)
    assert address is not None
    return address.shown, address.key


def _shared_out(tickets: int) -> list[tuple[str, int]]:
    if tickets < len(_SHARES):
        return [(_SHARES[0][0], tickets)]
    shares = [(name, int(tickets * share)) for name, share in _SHARES[:-1]]
    shares = [(name, max(1, share)) for name, share in shares]
    return [*shares, (_SHARES[-1][0], tickets - sum(share for _, share in shares))]


def _decoded(prefix: str, text: str) -> UUID:
    value = ids.decode(prefix, text)
    assert value is not None
    return value
