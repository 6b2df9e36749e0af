"""A running gateway for the tests, and doubles of the services' processes that fail in front of it as they are told."""

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx

from conftest import free_port
from holdfast import ids
from holdfast.auth.tokens import Tokens
from holdfast.gateway import Address, Plan, configuration, envoy_command
from holdfast.settings import Settings

READY_SECONDS_MAX = 30


class Gateway:
    """An Envoy on a plan."""

    def __init__(self, plan: Plan, log: Path, process: "subprocess.Popen[bytes]") -> None:
        self.plan = plan
        self.log = log
        self.process = process
        scheme = "http" if plan.certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{plan.listen.port}"
        self.admin = f"http://127.0.0.1:{plan.admin.port}"

    def metric(self, name: str) -> int:
        """One counter or gauge, 0 where it does not exist yet."""
        text = httpx.get(f"{self.admin}/stats", params={"filter": f"^{re.escape(name)}$"}).text
        return int(text.rpartition(": ")[2]) if text.strip() else 0

    def healthy(self, service: str) -> int:
        """How many processes of a service are sent requests."""
        return self.metric(f"cluster.{service}.membership_healthy")

    def ejected(self, service: str) -> int:
        """How many processes of a service are put aside."""
        return self.metric(f"cluster.{service}.outlier_detection.ejections_active")

    def lines(self) -> list[dict[str, Any]]:
        """The access log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


Change = Callable[[dict[str, Any]], None]


@contextmanager
def running(plan: Plan, folder: Path, change: Change | None = None) -> Iterator[Gateway]:
    """A gateway on this plan, ready once this begins. `change` is for negative controls: it takes a guard away."""
    written = folder / "gateway.json"
    document = configuration(plan)
    if change is not None:
        change(document)
    written.write_text(json.dumps(document))
    log = folder / "gateway.log"
    with log.open("wb") as output, subprocess.Popen(envoy_command(written), stdout=output, stderr=output) as process:
        try:
            gateway = Gateway(plan, log, process)
            _wait_ready(gateway)
            yield gateway
        finally:
            process.terminate()
            process.wait(10)


def _wait_ready(gateway: Gateway) -> None:
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        assert gateway.process.poll() is None, gateway.log.read_text()
        try:
            if httpx.get(f"{gateway.admin}/ready").text.strip() == "LIVE":
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"the gateway is not ready: {gateway.log.read_text()}")


def plan_of(settings: Settings, services: "dict[str, Sequence[Address]]", **changed: Any) -> Plan:
    """A plan on free loopback ports, for these services' processes."""
    here = {"listen": Address("127.0.0.1", free_port()), "admin": Address("127.0.0.1", free_port())}
    known: dict[str, Any] = {name: tuple(addresses) for name, addresses in services.items()}
    return Plan(**{**here, **known, "settings": settings, **changed})


class Asked(NamedTuple):
    """A request that has reached a double."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Reply = tuple[int, dict[str, str], bytes]
Answer = Callable[[Asked], Awaitable[Reply | None]]


class Double:
    """One process of a service that answers as it is told. `answer` returning None breaks the connection off."""

    def __init__(self, service: str, number: int, keys: dict[str, Any] | None) -> None:
        self.name = f"{service} {number}"
        self.keys = keys
        self.is_ready = True
        self.asked: list[Asked] = []
        self.answer: Answer = self.say_name
        self.connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address("127.0.0.1", self._port)

    async def start(self) -> None:
        """Listens, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Is gone, as after kill -9: connections break off, new ones are refused."""
        if self._server is not None:
            self._server.close()
        for writer in list(self.connections):
            writer.transport.abort()
        self._server = None

    async def say_name(self, asked: Asked) -> Reply:
        """Who it is."""
        return (
            200,
            {"content-type": "application/json", "x-request-id": "req_1"},
            json.dumps({"by": self.name}).encode(),
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while (asked := await _read(reader)) is not None:
                reply = await self._reply(asked)
                if reply is None:
                    writer.transport.abort()
                    return
                status, headers, body = reply
                lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def _reply(self, asked: Asked) -> Reply | None:
        if asked.headers.get("user-agent", "").startswith("Envoy/HC"):
            return (200 if self.is_ready else 503), {}, b""
        if asked.path == "/.well-known/jwks.json" and "x-request-id" not in asked.headers:
            return (200 if self.keys else 500), {"content-type": "application/json"}, json.dumps(self.keys).encode()
        self.asked.append(asked)
        return await self.answer(asked)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    body = b""
    if "chunked" in headers.get("transfer-encoding", ""):
        while (size := int(await reader.readline(), 16)) or await reader.readline() is None:
            body += (await reader.readexactly(size + 2))[:-2]
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, body)


class Doubles(NamedTuple):
    """Two processes of each service, all doubles, behind a running gateway."""

    gateway: Gateway
    client: httpx.AsyncClient
    tokens: Tokens
    processes: dict[str, list[Double]]

    def headers(self, user_id: UUID | None = None) -> dict[str, str]:
        """The headers of a user's purchase, with a new key; of anyone's where none is given."""
        token = self.tokens.issue(user_id or ids.new_id(), "buyer")
        return {"Authorization": f"Bearer {token}", "Idempotency-Key": ids.new_id().hex}

    async def buy(self, user_id: UUID | None = None) -> httpx.Response:
        """A purchase."""
        return await self.client.post("/orders/create", json={}, headers=self.headers(user_id))

    def asked(self, service: str) -> list[Asked]:
        """What has reached a service."""
        return [asked for process in self.processes[service] for asked in process.asked]

    def answer(self, service: str, answer: Answer) -> None:
        """Has all processes of a service answer so."""
        for process in self.processes[service]:
            process.answer = answer

    async def until_healthy(self, service: str, number: int) -> None:
        """Waits until so many of its processes are sent requests."""
        for _ in range(1000):
            if self.gateway.healthy(service) == number:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{service}: {self.gateway.healthy(service)} are healthy, not {number}")


def _change(document: dict[str, Any], change: Change | None) -> None:
    for cluster in document["static_resources"]["clusters"]:
        # On a machine that is short of time the doubles are slow to say that they are well; when they are not, they
        # say so, or are gone.
        cluster["health_checks"][0]["timeout"] = "30s"
    if change is not None:
        change(document)


@asynccontextmanager
async def doubled(
    settings: Settings, folder: Path, change: Change | None = None, *, keys_are_known: bool = True, **changed: Any
) -> AsyncIterator[Doubles]:
    """A gateway in front of doubles."""
    tokens = Tokens(settings)
    names = ("auth", "tickets", "orders")
    keys = tokens.jwks() if keys_are_known else None
    processes = {name: [Double(name, number, keys) for number in (1, 2)] for name in names}
    every = [process for some in processes.values() for process in some]
    for process in every:
        await process.start()
    plan = plan_of(settings, {name: [one.address for one in some] for name, some in processes.items()}, **changed)
    # Envoy asks the doubles before it is ready, and they answer in this event loop.
    opened = running(plan, folder, lambda document: _change(document, change))
    gateway = await asyncio.to_thread(opened.__enter__)
    try:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
            yield Doubles(gateway, client, tokens, processes)
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)
        for process in every:
            await process.stop()
