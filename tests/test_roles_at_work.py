"""The real services and workers under their own database roles: a whole sale needs nothing beyond the grants."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import httpx
import pytest

from box_office import open_desk, put_on_sale
from holdfast import ids
from holdfast.assemble import WORKERS, build_app, run_workers
from holdfast.auth.accounts import Accounts
from holdfast.auth.passwords import Passwords
from holdfast.auth.tokens import Tokens
from holdfast.engines.database import Connection, open_pool
from holdfast.schema.migrate import migrate
from holdfast.settings import Settings
from house import PASSWORD, asking, tier
from mail_house import Mailbox, mail_server
from service_roles import Logins, logins

CATALOGUE = "name,starts_at,tier,price,capacity\nHarbour,2099-01-01T19:00:00+08:00,Seat,100,5\n"


class Street(NamedTuple):
    """Three services that share nothing but the engines, each under its role."""

    clients: dict[str, httpx.AsyncClient]
    roles: Logins

    async def ask(self, method: str, path: str, who: Mapping[str, str], key: str = "", **request: Any) -> Any:
        """One request to the service whose path it is; its JSON."""
        service = {"users": "auth", "events": "tickets", "organiser": "tickets", "orders": "orders"}[path.split("/")[1]]
        headers = {**who, **({"Idempotency-Key": key} if key else {}), **request.pop("headers", {})}
        reply = await self.clients[service].request(method, path, headers=headers, **request)
        assert reply.is_success, (path, reply.text)
        return reply.json()

    async def join(self, name: str) -> dict[str, str]:
        """Registers and logs in."""
        registration = {"email": f"{name}@house.example", "password": PASSWORD}
        await self.ask("POST", "/users/register", {}, json=registration)
        return await self.log_in(name)

    async def log_in(self, name: str) -> dict[str, str]:
        """The headers of somebody who has logged in."""
        session = await self.ask(
            "POST", "/users/login", {}, json={"email": f"{name}@house.example", "password": PASSWORD}
        )
        session = await self.ask("POST", "/users/refresh", {}, json={"refresh_token": session["refresh_token"]})
        return {"Authorization": f"Bearer {session['access_token']}"}

    async def order(self, order: Any, who: Mapping[str, str]) -> str:
        """The order's status."""
        return str((await self.ask("GET", f"/orders/{order['id']}", who))["status"])


@asynccontextmanager
async def street(roles: Logins, smtp_url: str) -> AsyncIterator[Street]:
    """The services, and all workers beside them; nobody may have been refused anything by the end."""
    async with AsyncExitStack() as stack:
        clients = {}
        for service in ("auth", "tickets", "orders"):
            app = build_app(roles.settings(service), service)
            await app.open()
            stack.push_async_callback(app.close)
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url=f"http://{service}.example")
            clients[service] = await stack.enter_async_context(client)
        stop = asyncio.Event()
        often = dict.fromkeys(("expiry_poll_seconds", "reconcile_seconds", "payments_poll_seconds"), 0.1)
        settings = roles.settings("workers", **often, payment_unknown_seconds=0.1, smtp_url=smtp_url)
        workers = asyncio.create_task(run_workers(settings, frozenset(WORKERS), stop))
        try:
            yield Street(clients, roles)
        finally:
            stop.set()
            await workers


@pytest.fixture
async def roles(settings: Settings) -> AsyncIterator[Logins]:
    async with logins(settings) as made:
        yield made


async def test_a_whole_sale_needs_nothing_beyond_the_grants(roles: Logins) -> None:
    await make_administrator(roles.settings("auth"), "ada@house.example")
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        async with street(roles, f"smtp://127.0.0.1:{port}") as here, roles.connected("owner") as owner:
            await sell(here, owner, mailbox)


async def test_grants_are_renewed_beneath_a_running_sale(roles: Logins) -> None:
    """A release is rolled out by a migration first: nobody who is at work is refused anything meanwhile."""
    settings = roles.settings("orders", gate_url="")
    pool, owners_pool = await open_pool(settings), await open_pool(roles.owner)
    try:
        async with open_desk(settings, pool) as desk:
            event = await put_on_sale(owners_pool, 10_000)
            done = asyncio.Event()

            async def buy() -> int:
                orders = 0
                while not done.is_set():
                    assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
                    orders += 1
                return orders

            buyers = [asyncio.create_task(buy()) for _ in range(4)]
            for _ in range(10):
                await migrate(roles.owner.database_url.get_secret_value(), with_roles=True)
            done.set()
            assert sum(await asyncio.gather(*buyers)) > 10
    finally:
        await pool.close()
        await owners_pool.close()


async def sell(here: Street, owner: Connection, mailbox: Mailbox) -> None:
    """A catalogue, orders of every ending, and all that the workers do about them."""
    ada, alice, bob = await here.log_in("ada"), await here.join("alice"), await here.join("bob")
    await here.join("olga")
    olga_id = (await here.ask("GET", "/users/me", await here.log_in("olga")))["id"]
    await here.ask("POST", f"/users/{olga_id}/role", ada, json={"role": "organiser"})
    olga = await here.log_in("olga")

    # The catalogue: made, changed, imported.
    body = {"name": "Concert", "starts_at": "2099-03-01T19:30:00+08:00", "tiers": [tier(), tier("Seats")]}
    event = await here.ask("POST", "/events", olga, json={**body, "tickets_per_user_max": 100})
    room = f"/events/{event['id']}"
    await here.ask("PATCH", room, olga, json={"name": "The Concert"})
    spare = await here.ask("POST", f"{room}/tiers", olga, json=tier("Spare"))
    assert (await here.clients["tickets"].delete(f"{room}/tiers/{spare['id']}", headers=olga)).status_code == 204
    event = await here.ask("POST", f"{room}/publish", olga)
    await here.ask("PATCH", f"{room}/tiers/{event['tiers'][1]['id']}", olga, json={"capacity": 50, "paused": True})
    reports = []
    for _ in range(2):
        headers = {"Content-Type": "text/csv"}
        reports.append(await here.ask("POST", "/events/import", ada, content=CATALOGUE, headers=headers))
    assert [(report["created"], report["unchanged"]) for report in reports] == [(1, 0), (0, 1)]
    assert len((await here.ask("GET", "/events", {}))["data"]) == 2

    # Orders of every ending; the first ones load the gate.
    async def buy(key: str, who: Mapping[str, str] = alice) -> Any:
        return await here.ask("POST", "/orders/create", who, key, json=asking(event))

    paid, slow, lapsed, returned, swept = [await buy(f"key-{n}") for n in range(5)]
    assert (await buy("key-0"))["id"] == paid["id"]
    await gate_is_loaded(owner, event)
    await buy("leased", bob)
    token = {"payment_token": "tok_ok"}
    assert (await here.ask("POST", f"/orders/{paid['id']}/confirm", alice, "pay", json=token))["tickets"]
    token = {"payment_token": "tok_timeout"}
    await here.ask("POST", f"/orders/{slow['id']}/confirm", alice, "slow", json=token)
    await here.ask("POST", f"/orders/{returned['id']}/cancel", alice, "back")
    await owner.execute(
        "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE id = $1", ids.decode(ids.ORDER, lapsed["id"])
    )
    await comes_to_be(lambda: here.order(lapsed, alice), "expired")
    assert (await here.ask("GET", f"/orders/{(await here.ask('GET', '/users/me', alice))['id']}", ada))["data"]
    availability = (await here.ask("GET", f"{room}/tickets", {}))["data"]
    assert availability[0]["capacity"] == 100

    # The event's end, and all that the workers have left to do.
    await here.ask("POST", f"{room}/cancel", olga)
    await comes_to_be(lambda: here.order(swept, alice), "cancelled")
    states = "SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM orders.payments WHERE state <> 'captured'"
    await comes_to_be(lambda: owner.fetchval(states), "voided")
    await comes_to_be(lambda: owner.fetchval("SELECT count(*) FROM outbox.events"), 0)
    # What a consumer is refused ends here.
    assert await owner.fetch("SELECT * FROM outbox.dead_letters") == []
    assert await owner.fetchval("SELECT sum(held) FROM stats.sales") == 6
    sales = await here.ask("GET", f"{room}/sales", olga)
    assert sum(line["held"] for line in sales["totals"]) == 6
    letters = "SELECT count(*) FROM notify.letters WHERE outcome = 'sent'"
    await comes_to_be(lambda: owner.fetchval("SELECT count(*) FROM notify.announcements"), 0)
    await comes_to_be(lambda: owner.fetchval("SELECT count(*) FROM notify.letters WHERE outcome IS NULL"), 0)
    assert await owner.fetchval(letters) == len(mailbox.messages) > 1


async def make_administrator(settings: Settings, email: str) -> None:
    """What `holdfast admin create` does, with the auth service's role."""
    pool = await open_pool(settings)
    passwords = Passwords(settings)
    try:
        await Accounts(settings, pool, Tokens(settings), passwords).create_administrator(email, PASSWORD)
    finally:
        passwords.close()
        await pool.close()


async def gate_is_loaded(owner: Any, event: Any) -> None:
    event_id = ids.decode(ids.EVENT, event["id"])
    statement = "SELECT loaded_in IS NOT NULL FROM tickets.gates WHERE event_id = $1"
    await comes_to_be(lambda: owner.fetchval(statement, event_id), True)


async def comes_to_be(read: Callable[[], Awaitable[object]], expected: object) -> None:
    """Waits until it is read so."""
    last = None
    for _ in range(1500):
        last = await read()
        if last == expected:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"it stayed {last}, and was to become {expected}")
