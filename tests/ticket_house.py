"""The ticket service behind the door, with its cast: Olga and Mallory organise, Alice buys, Ada administrates."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx

from holdfast import ids
from holdfast.auth.service import open_auth
from holdfast.auth.tokens import Role, Tokens
from holdfast.door.api import build_api
from holdfast.engines.database import Pool
from holdfast.settings import Settings
from holdfast.tickets.catalogue import Catalogue, open_catalogue
from holdfast.tickets.routes import ticket_routes

CATALOGUES = Path(__file__).parent / "catalogues"
CAST: dict[str, Role] = {"alice": "buyer", "olga": "organiser", "mallory": "organiser", "ada": "admin"}


class TicketHouse(NamedTuple):
    """The service, a client of it, and the cast."""

    pool: Pool
    catalogue: Catalogue
    tokens: Tokens
    client: httpx.AsyncClient
    users: dict[str, UUID]

    async def ask(self, who: str | None, method: str, path: str, **request: Any) -> httpx.Response:
        """One request of one of the cast, or of a stranger."""
        headers = dict(request.pop("headers", {}))
        if who is not None:
            headers["Authorization"] = f"Bearer {self.tokens.issue(self.users[who], CAST[who])}"
        return await self.client.request(method, path, headers=headers, **request)

    async def event(self, who: str = "olga", *, published: bool = True, **fields: Any) -> dict[str, Any]:
        """A new event with one tier of 100 tickets, unless `fields` say otherwise."""
        body = {"name": "Concert", "starts_at": "2027-03-01T19:30:00+08:00", "tiers": [tier()]} | fields
        made = await self.ask(who, "POST", "/events", json=body)
        assert made.status_code == 201, made.text
        event: dict[str, Any] = made.json()
        if published:
            made = await self.ask(who, "POST", f"/events/{event['id']}/publish")
            assert made.status_code == 200, made.text
            event = made.json()
        return event

    async def import_(self, content: bytes | str, media_type: str, who: str = "ada") -> dict[str, Any]:
        """The report of an import."""
        reply = await self.ask(who, "POST", "/events/import", content=content, headers={"Content-Type": media_type})
        assert reply.status_code == 200, reply.text
        report: dict[str, Any] = reply.json()
        return report

    async def listed(self, **parameters: Any) -> list[str]:
        """The names of the events that a list shows."""
        reply = await self.ask(None, "GET", "/events", params=parameters)
        assert reply.status_code == 200, reply.text
        return [event["name"] for event in reply.json()["data"]]

    async def hold(self, tier_id: str, quantity: int) -> None:
        """Holds tickets as an order does."""
        await self.pool.execute("SELECT tickets.hold($1, $2)", [ids.decode(ids.TIER, tier_id)], [quantity])

    async def told(self, event_id: str) -> list[str]:
        """The outbox rows of an event, `kind version`, in their order."""
        rows = await self.pool.fetch(
            "SELECT kind, version FROM outbox.events WHERE scope = $1 ORDER BY xid, id", ids.decode(ids.EVENT, event_id)
        )
        return [f"{row['kind']} {row['version']}" for row in rows]

    async def states(self, event_id: str) -> list[str]:
        """The states of an event's tiers, in their order."""
        rows = await self.pool.fetch(
            "SELECT s.state FROM tickets.stock s JOIN tickets.tiers t ON t.id = s.tier_id "
            "WHERE s.event_id = $1 ORDER BY t.position",
            ids.decode(ids.EVENT, event_id),
        )
        return [row["state"] for row in rows]


@asynccontextmanager
async def ticket_house(settings: Settings, pool: Pool) -> AsyncIterator[TicketHouse]:
    """A ticket service on this database."""
    auth = open_auth(settings, pool)
    users = {name: ids.new_id() for name in CAST}
    for name, role in CAST.items():
        await pool.execute(
            "INSERT INTO auth.users (id, email, email_key, role) VALUES ($1, $2, $2, $3)",
            users[name],
            f"{name}@house.example",
            role,
        )
    catalogue = await open_catalogue(settings, pool)
    routes = ticket_routes(catalogue, auth.tokens, auth.accounts.is_administrator)
    transport = httpx.ASGITransport(build_api(settings, [routes]))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://house.example") as client:
            yield TicketHouse(pool, catalogue, auth.tokens, client, users)
    finally:
        auth.close()


def tier(name: str = "Standing", amount: int = 80_000, capacity: int = 100, **more: Any) -> dict[str, Any]:
    """A tier's body."""
    return {"name": name, "price": {"amount": amount, "currency": "TWD"}, "capacity": capacity, **more}
