"""The whole house behind its door: every service on real engines, and its cast.

Alice and Bob buy, Olga organises, Mallory organises too and attacks, Ada administrates. As a program this file is one
server process of the house, which `serving` starts for the tests that need bytes on a wire.
"""

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx
from pydantic import SecretStr

from box_office import consume_all
from holdfast import ids
from holdfast.assemble import build_app
from holdfast.auth.tokens import Role, Tokens
from holdfast.door.server import serve
from holdfast.engines.database import Pool
from holdfast.errors import KINDS
from holdfast.gate.consumer import gate_consumer
from holdfast.gate.gate import Gate
from holdfast.settings import Settings

if TYPE_CHECKING:
    from conftest import Engines

CAST: dict[str, Role] = {
    "alice": "buyer",
    "bob": "buyer",
    "olga": "organiser",
    "mallory": "organiser",
    "ada": "admin",
}
PASSWORD = "correct horse battery"


class House(NamedTuple):
    """All services in one process, a client, and the cast. `pool` is the test's own, to look behind the door."""

    settings: Settings
    pool: Pool
    tokens: Tokens
    client: httpx.AsyncClient
    users: dict[str, UUID]

    def headers(self, who: str | None, key: str | None = None) -> dict[str, str]:
        """The headers of one of the cast, or of a stranger, with an Idempotency-Key."""
        headers = {} if who is None else {"Authorization": f"Bearer {self.tokens.issue(self.users[who], CAST[who])}"}
        return headers if key is None else headers | {"Idempotency-Key": key}

    def id(self, who: str) -> str:
        """The typed id of one of the cast."""
        return ids.encode(ids.USER, self.users[who])

    async def ask(
        self, who: str | None, method: str, path: str, *, key: str | None = None, **request: Any
    ) -> httpx.Response:
        """One request."""
        headers = self.headers(who, key) | dict(request.pop("headers", {}))
        return await self.client.request(method, path, headers=headers, **request)

    async def event(self, who: str = "olga", *, published: bool = True, **fields: Any) -> dict[str, Any]:
        """A new event made through the routes, with one tier of 100 tickets unless `fields` say otherwise."""
        body = {"name": "Concert", "starts_at": "2099-03-01T19:30:00+08:00", "tiers": [tier()]} | fields
        event = done(await self.ask(who, "POST", "/events", json=body), 201)
        if published:
            event = done(await self.ask(who, "POST", f"/events/{event['id']}/publish"))
        return event

    async def create(self, who: str, key: str, event: dict[str, Any], *quantities: int) -> httpx.Response:
        """The reply to one purchase: so many tickets of each tier."""
        return await self.ask(who, "POST", "/orders/create", key=key, json=asking(event, *quantities))

    async def order(self, who: str, key: str, event: dict[str, Any], *quantities: int) -> dict[str, Any]:
        """A new order."""
        return done(await self.create(who, key, event, *quantities), 201)

    async def confirm(self, who: str, key: str, order: dict[str, Any], payment_token: str = "tok_ok") -> httpx.Response:
        """The reply to a payment."""
        path = f"/orders/{order['id']}/confirm"
        return await self.ask(who, "POST", path, key=key, json={"payment_token": payment_token})

    async def cancel(self, who: str, key: str, order: dict[str, Any]) -> httpx.Response:
        """The reply to a cancel."""
        return await self.ask(who, "POST", f"/orders/{order['id']}/cancel", key=key)

    async def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        tables = await self.pool.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
            "WHERE schemaname IN ('auth', 'tickets', 'orders', 'outbox')"
        )
        counts = " UNION ALL ".join(f"SELECT '{row['name']}' AS name, count(*) FROM {row['name']}" for row in tables)
        return {row["name"]: row["count"] for row in await self.pool.fetch(counts)}

    async def held_and_sold(self, event: dict[str, Any]) -> tuple[int, int]:
        """The counters of an event, as PostgreSQL has them."""
        row = await self.pool.fetchrow(
            "SELECT sum(held)::int AS held, sum(sold)::int AS sold FROM tickets.stock WHERE event_id = $1",
            ids.decode(ids.EVENT, event["id"]),
        )
        assert row is not None
        return row["held"], row["sold"]

    async def someone_waits(self) -> None:
        """Waits until one of the house's writers waits for a lock in PostgreSQL."""
        for _ in range(1000):
            waiting = await self.pool.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'holdfast journal' AND wait_event_type = 'Lock'"
            )
            if waiting:
                return
            await asyncio.sleep(0.005)
        raise AssertionError("nobody waits for a lock")

    async def relay_to_gate(self) -> None:
        """Lets the gate hear of what was cancelled, expired or sold without it."""
        async with self._gate() as gate:
            await consume_all(self.pool, gate_consumer(self.pool, gate))

    async def gate_is_loaded(self, event: dict[str, Any]) -> None:
        """Waits until the gate has taken an event in, which the first purchase of it asks for."""
        event_id = ids.decode(ids.EVENT, event["id"])
        assert event_id is not None
        async with self._gate() as gate:
            for _ in range(1000):
                state = await gate.state(event_id)
                if state is not None and state.is_open:
                    return
                await asyncio.sleep(0.005)
        raise AssertionError("the gate does not load")

    async def expire_holds(self) -> None:
        """Lets the time of every hold be over; no worker has run yet."""
        await self.pool.execute("UPDATE orders.orders SET expires_at = clock_timestamp() WHERE status = 'reserved'")

    @asynccontextmanager
    async def _gate(self) -> AsyncIterator[Gate]:
        gate = Gate(self.settings)
        await gate.open()
        try:
            yield gate
        finally:
            await gate.close()


@asynccontextmanager
async def open_house(settings: Settings, pool: Pool, **changed: object) -> AsyncIterator[House]:
    """A house on this database, with these settings changed."""
    settings = Settings(**{**settings.model_dump(), **changed})
    app = build_app(settings, "all")
    await app.open()
    try:
        users = await _seat(pool)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://house.example") as client:
            yield House(settings, pool, Tokens(settings), client, users)
    finally:
        await app.close()


async def _seat(pool: Pool) -> dict[str, UUID]:
    """The cast, who may be in this database already."""
    for name, role in CAST.items():
        await pool.execute(
            "INSERT INTO auth.users (id, email, email_key, role) VALUES ($1, $2, $2, $3) ON CONFLICT DO NOTHING",
            ids.new_id(),
            f"{name}@house.example",
            role,
        )
    rows = await pool.fetch("SELECT split_part(email, '@', 1) AS name, id FROM auth.users")
    return {row["name"]: row["id"] for row in rows}


@asynccontextmanager
async def locked(pool: Pool, table: str, id_column: str, typed_id: str) -> AsyncIterator[None]:
    """Holds one row's lock, so that whoever needs it waits."""
    prefix = typed_id.partition("_")[0]
    async with pool.acquire() as connection, connection.transaction():
        statement = f"SELECT 1 FROM {table} WHERE {id_column} = $1 FOR UPDATE"
        assert await connection.fetchval(statement, ids.decode(prefix, typed_id)) == 1
        yield


def tier(name: str = "Standing", amount: int = 80_000, capacity: int = 100, **more: Any) -> dict[str, Any]:
    """A tier's body."""
    return {"name": name, "price": {"amount": amount, "currency": "TWD"}, "capacity": capacity, **more}


def asking(event: dict[str, Any], *quantities: int) -> dict[str, Any]:
    """The body of an order: so many tickets of each tier."""
    lines = [
        {"tier_id": tier["id"], "quantity": quantity}
        for tier, quantity in zip(event["tiers"], quantities or (1,), strict=False)
        if quantity
    ]
    return {"event_id": event["id"], "lines": lines}


def done(reply: httpx.Response, status: int = 200) -> dict[str, Any]:
    """The JSON object of a success, which is checked to be one."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    body: dict[str, Any] = reply.json()
    return body


def refused(reply: httpx.Response) -> str:
    """The status and code of a problem, which is checked to be a well-formed one."""
    assert reply.headers["content-type"] == "application/problem+json", (reply.status_code, reply.text[:500])
    problem = reply.json()
    kind = KINDS[problem["code"]]
    assert problem["type"] == f"urn:holdfast:problem:{problem['code']}"
    assert (problem["status"], problem["title"]) == (reply.status_code, kind.title)
    assert reply.status_code == kind.status
    assert problem["request_id"] == reply.headers["x-request-id"]
    assert reply.headers["cache-control"] == "no-store"
    assert set(problem) <= {"type", "title", "status", "code", "request_id", "detail", "errors"}
    assert ("errors" in problem) == (problem["code"] == "validation")
    assert all(set(fault) == {"pointer", "detail"} for fault in problem.get("errors", []))
    assert ("www-authenticate" in reply.headers) == (reply.status_code == 401)
    assert ("retry-after" in reply.headers) or reply.status_code not in (429, 503)
    assert ("allow" in reply.headers) == (reply.status_code == 405)
    assert len(reply.content) < 8192
    return f"{problem['status']} {problem['code']}"


class Server(NamedTuple):
    """A server process of the house."""

    port: int

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@contextmanager
def serving(settings: Settings) -> Iterator[Server]:
    """A server process with these settings, ready once this begins; it must end well and have nothing to regret."""
    parent_reads, parent_writes = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener, TemporaryFile() as log:
        urls = {name: given.get_secret_value() for name, given in settings if isinstance(given, SecretStr)}
        given = {
            "settings": settings.model_dump(mode="json") | urls,
            "fd": listener.fileno(),
            "parent_pipe": parent_reads,
        }
        keep = (parent_reads, listener.fileno())
        with subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=keep
        ) as process:
            os.close(parent_reads)
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(given).encode())
                process.stdin.close()
                port = listener.getsockname()[1]
                httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=60).raise_for_status()
                yield Server(port)
            finally:
                os.close(parent_writes)
                status = process.wait(30)
                log.seek(0)
                said = log.read().decode()
                assert (status, "Traceback" in said, "unexpected error" in said) == (0, False, False), said


class Served(NamedTuple):
    """A server process and its settings."""

    settings: Settings
    server: Server


@contextmanager
def serving_alone(engines: "Engines", **changed: object) -> Iterator[Served]:
    """A server process with a database of its own, for the tests of a whole file."""
    name = f"served_{secrets.token_hex(6)}"

    async def run(statement: str) -> None:
        connection = await asyncpg.connect(engines.postgres.url("postgres"))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run(f"CREATE DATABASE {name} TEMPLATE template_holdfast"))
    given: dict[str, Any] = {
        "database_url": engines.postgres.url(name),
        "gate_url": engines.valkey.url,
        "signing_key_file": engines.signing_key_file,
        **changed,
    }
    settings = Settings(**given)
    with serving(settings) as server:
        yield Served(settings, server)
    asyncio.run(run(f"DROP DATABASE {name} WITH (FORCE)"))


def _main() -> None:
    given = json.load(sys.stdin)
    settings = Settings(**given["settings"])
    serve(
        build_app(settings, "all"),
        settings,
        host="127.0.0.1",
        port=0,
        fd=given["fd"],
        parent_pipe=given["parent_pipe"],
    )


if __name__ == "__main__":
    _main()
