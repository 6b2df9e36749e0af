"""What a new house starts with: the organiser of its own events and, to try it out, an event on sale and a buyer."""

import secrets
from datetime import timedelta
from uuid import UUID

import msgspec

from holdfast import clock, ids
from holdfast.auth import setup
from holdfast.auth.accounts import Accounts
from holdfast.auth.actors import Actor
from holdfast.auth.addresses import parse_address
from holdfast.auth.passwords import Passwords
from holdfast.auth.tokens import Tokens
from holdfast.engines.database import open_pool
from holdfast.settings import Settings
from holdfast.tickets.catalogue import open_catalogue
from holdfast.tickets.event_fields.bodies import EventBody, PriceBody, TierBody, VenueBody
from holdfast.tickets.event_rows import HOUSE_ORGANISER


class FirstRun(msgspec.Struct):
    """What was made; all None without a demo."""

    demo_email: str | None = None
    demo_password: str | None = None
    event_id: str | None = None


async def prepare_first_run(settings: Settings, demo: bool) -> FirstRun:
    """Makes the house organiser and, for a demo, a buyer with a random password and an event that is on sale."""
    pool = await open_pool(settings)
    try:
        catalogue = await open_catalogue(settings, pool)
        if not demo:
            return FirstRun()
        passwords = Passwords(settings)
        try:
            accounts = Accounts(settings, pool, Tokens(settings), passwords)
            address = parse_address(f"demo-{secrets.token_hex(3)}@holdfast.example")
            password = secrets.token_urlsafe(12)
            assert address is not None
            await accounts.register(address, password, "Demo")
        finally:
            passwords.close()
        house = Actor(HOUSE_ORGANISER, is_administrator=False)
        event = await catalogue.create(house, _demo_event())
        event_id = ids.decode(ids.EVENT, str(event["id"]))
        assert isinstance(event_id, UUID)
        await catalogue.publish(house, event_id)
        return FirstRun(address.shown, password, str(event["id"]))
    finally:
        await pool.close()


async def new_setup_link(settings: Settings) -> str | None:
    """The one-time link with which the first administrator is made; None when there is one."""
    pool = await open_pool(settings)
    try:
        return await setup.new_setup_link(settings, pool)
    finally:
        await pool.close()


def _demo_event() -> EventBody:
    starts_at = (clock.utc_now() + timedelta(days=30)).replace(hour=11, minute=30, second=0, microsecond=0)
    return EventBody(
        name="海風之夜 Night of the Sea Wind",
        description="An evening by the harbour, to try Holdfast with. No ticket of it admits anyone.",
        venue=VenueBody(name="高雄流行音樂中心 Kaohsiung Music Center", address="高雄市鹽埕區真愛路1號"),
        starts_at=clock.rfc3339(starts_at),
        ends_at=clock.rfc3339(starts_at + timedelta(hours=3)),
        time_zone="Asia/Taipei",
        tiers=[
            TierBody(name="搖滾區 Standing", price=PriceBody(amount=320_000, currency="TWD"), capacity=2_000),
            TierBody(name="看台 A Seats A", price=PriceBody(amount=240_000, currency="TWD"), capacity=3_000),
            TierBody(name="看台 B Seats B", price=PriceBody(amount=160_000, currency="TWD"), capacity=5_000),
        ],
    )
