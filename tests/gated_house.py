"""The house as separate services: processes of `holdfast serve auth|tickets|orders` behind a gateway, and its cast."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import httpx

from conftest import free_port
from holdfast.auth.tokens import Tokens
from holdfast.gateway import Address
from holdfast.settings import ENV_PREFIX, Settings
from house import CAST, _seat
from running_gateway import Gateway, plan_of, running

if TYPE_CHECKING:
    from conftest import Engines

READY_SECONDS_MAX = 90
NOTICE_SECONDS = 2
DRAIN_SECONDS = 10


class Process:
    """One process of a service, always on the same port."""

    def __init__(self, role: str, settings: Settings, folder: Path) -> None:
        self.role = role
        self.port = free_port()
        self.log = folder / f"{role}-{self.port}.log"
        self._environment = _environment(settings)
        self._folder = folder
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it, and does not wait."""
        command = [sys.executable, "-m", "holdfast.cli.main", "serve", self.role, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def is_ready(self) -> bool:
        """Whether it takes requests."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self) -> None:
        """Waits until it takes requests."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not self.is_ready():
            assert self.child is not None
            assert self.child.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def send(self, number: int) -> None:
        """Signals it."""
        assert self.child is not None
        self.child.send_signal(number)

    def wait(self) -> int:
        """Waits until it has ended."""
        assert self.child is not None
        return self.child.wait(NOTICE_SECONDS + DRAIN_SECONDS + READY_SECONDS_MAX)

    def stop(self) -> None:
        """Kills it, if it still runs."""
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.wait()

    def __str__(self) -> str:
        return f"{self.role} on {self.port}"


class GatedHouse:
    """Services behind a gateway, on real engines."""

    def __init__(self, settings: Settings, gateway: Gateway, processes: list[Process], users: dict[str, UUID]) -> None:
        self.settings = settings
        self.gateway = gateway
        self.processes = processes
        self.users = users
        self.tokens = Tokens(settings)

    def of(self, role: str) -> list[Process]:
        """The processes of a service."""
        return [process for process in self.processes if process.role == role]

    def headers(self, who: str, key: str | None = None) -> dict[str, str]:
        """The headers of one of the cast, with an Idempotency-Key."""
        headers = {"Authorization": f"Bearer {self.tokens.issue(self.users[who], CAST[who])}"}
        return headers if key is None else headers | {"Idempotency-Key": key}

    def wait_healthy(self, role: str, number: int) -> None:
        """Waits until the gateway sends requests to so many processes of a service."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while self.gateway.healthy(role) != number:
            assert time.monotonic() < deadline, f"{self.gateway.healthy(role)} of {role} are healthy, not {number}"
            time.sleep(0.02)

    def restart(self, process: Process) -> int:
        """Ends one process with SIGTERM and starts it anew, as a rolling update does; the exit status."""
        process.send(signal.SIGTERM)
        status = process.wait()
        process.start()
        process.wait_ready()
        self.wait_healthy(process.role, len(self.of(process.role)))
        return status


@contextmanager
def gated_house(
    engines: "Engines", folder: Path, *, auth: int = 1, tickets: int = 1, orders: int = 2, **changed: Any
) -> Iterator[GatedHouse]:
    """So many processes of each service, with a database of their own."""
    name = f"split_{secrets.token_hex(6)}"
    asyncio.run(_administer(engines, f"CREATE DATABASE {name} TEMPLATE template_holdfast"))
    given: dict[str, Any] = {
        "database_url": engines.postgres.url(name),
        "gate_url": engines.valkey.url,
        "signing_key_file": engines.signing_key_file,
        "trusted_proxies": ("127.0.0.1",),
        "drain_notice_seconds": NOTICE_SECONDS,
        "drain_seconds": DRAIN_SECONDS,
        "user_purchases_per_second": 1000,
        "user_purchases_burst": 1000,
        # The tests' own load is no measurement: what it takes on a busy machine must not look like a fault.
        "database_timeout_seconds": 20.0,
        **changed,
    }
    settings = Settings(**given)
    counts = {"auth": auth, "tickets": tickets, "orders": orders}
    processes = [Process(role, settings, folder) for role, count in counts.items() for _ in range(count)]
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(_administer(engines, f"DROP DATABASE {name} WITH (FORCE)")))
        for process in processes:
            process.start()
            stack.callback(process.stop)
        users = asyncio.run(_users(engines.postgres.url(name)))
        for process in processes:
            process.wait_ready()
        addresses: dict[str, Sequence[Address]] = {
            role: [Address("127.0.0.1", process.port) for process in processes if process.role == role]
            for role in counts
        }
        fast: dict[str, Any] = {"address_requests_per_second": 50_000, "user_requests_per_second": 10_000}
        gateway = stack.enter_context(running(plan_of(settings, addresses, **fast), folder))
        yield GatedHouse(settings, gateway, processes, users)


async def _administer(engines: "Engines", statement: str) -> None:
    connection = await asyncpg.connect(engines.postgres.url("postgres"))
    await connection.execute(statement)
    await connection.close()


async def _users(database_url: str) -> dict[str, UUID]:
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        return await _seat(pool)


def _environment(settings: Settings) -> dict[str, str]:
    given = {
        "database_url": settings.database_url.get_secret_value(),
        "gate_url": settings.gate_url.get_secret_value(),
        "signing_key_file": str(settings.signing_key_file),
        "trusted_proxies": ",".join(settings.trusted_proxies),
        **{
            name: str(getattr(settings, name))
            for name in settings.model_fields_set - {"database_url", "gate_url", "signing_key_file", "trusted_proxies"}
        },
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith((ENV_PREFIX, "PYTEST_"))}
    return kept | {ENV_PREFIX + name.upper(): value for name, value in given.items()}
