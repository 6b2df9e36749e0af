"""The auth service behind the door's frame, for the tests of both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from holdfast.auth.service import Auth, open_auth
from holdfast.door.api import build_api
from holdfast.engines.database import Pool
from holdfast.settings import Settings

PASSWORD = "correct horse battery"


class House(NamedTuple):
    """A running auth service and a client of it."""

    auth: Auth
    client: httpx.AsyncClient

    async def register(self, email: str, password: str = PASSWORD) -> dict[str, Any]:
        """A new buyer."""
        reply = await self.client.post("/users/register", json={"email": email, "password": password})
        assert reply.status_code == 201, reply.text
        user: dict[str, Any] = reply.json()
        return user

    async def log_in(self, email: str, password: str = PASSWORD) -> dict[str, Any]:
        """A new session of a user."""
        reply = await self.client.post("/users/login", json={"email": email, "password": password})
        assert reply.status_code == 200, reply.text
        session: dict[str, Any] = reply.json()
        return session

    async def refresh(self, refresh_token: str) -> httpx.Response:
        """The reply to a refresh."""
        return await self.client.post("/users/refresh", json={"refresh_token": refresh_token})

    async def administrator(self, email: str = "root@house.example") -> dict[str, str]:
        """The headers of a new administrator."""
        await self.auth.accounts.create_administrator(email, PASSWORD)
        return bearer(await self.log_in(email))


@asynccontextmanager
async def auth_house(settings: Settings, pool: Pool, address: str = "198.51.100.7") -> AsyncIterator[House]:
    """An auth service on this database and a client that comes from `address`."""
    auth = open_auth(settings, pool)
    transport = httpx.ASGITransport(build_api(settings, [auth.router]), client=(address, 40000))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://house.example") as client:
            yield House(auth, client)
    finally:
        auth.close()


def bearer(session: dict[str, Any]) -> dict[str, str]:
    """The header that shows a session's access token."""
    return {"Authorization": f"Bearer {session['access_token']}"}


def code(reply: httpx.Response) -> str:
    """The code of a problem, which is checked to be a well-formed one that holds nothing it must not."""
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == reply.status_code
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert PASSWORD not in reply.text
    return str(problem["code"])
