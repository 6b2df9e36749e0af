"""Every statement of every .sql file is somebody's, who may run it: PostgreSQL checks that when it explains one."""

from collections.abc import AsyncIterator
from fnmatch import fnmatch
from pathlib import Path

import asyncpg
import pytest

import holdfast
from holdfast.engines.database import Connection, load_statements
from holdfast.settings import Settings
from service_roles import SERVICES, Logins, logins

# package, file: who runs which of its statements. A pattern of an earlier line goes before a later one's.
RUNS: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {
    ("holdfast.auth", "auth.sql"): {
        "is_administrator": ("auth", "tickets", "orders"),
        "forget_*": ("workers",),
        "*": ("auth",),
    },
    ("holdfast.tickets", "catalogue.sql"): {"*": ("tickets",)},
    ("holdfast.tickets", "sale.sql"): {"sale": ("orders",), "availability": ("tickets",)},
    ("holdfast.tickets", "warm.sql"): {"keep_warm": ("workers",), "*": ("tickets", "orders", "workers")},
    ("holdfast.gate", "gate.sql"): {"*": ("orders", "workers")},
    ("holdfast.orders", "orders.sql"): {
        "expire": ("workers",),
        "cancel_of_event": ("workers",),
        "unresolved_payments": ("workers",),
        "payments_asked": ("workers",),
        "payments_settled": ("workers",),
        "forget_keys": ("workers",),
        "confirm": ("orders", "workers"),
        "confirm_late": ("orders", "workers"),
        "end_payments": ("orders", "workers"),
        "*": ("orders",),
    },
    ("holdfast.outbox", "outbox.sql"): {"*": ("workers",)},
    ("holdfast.outbox", "relay.sql"): {"*": ("workers",)},
    ("holdfast.outbox", "positions.sql"): {"*": ("workers",)},
    ("holdfast.outbox", "dead_letters.sql"): {"*": ("workers",)},
    ("holdfast.stats", "stats.sql"): {"record*": ("workers",), "forget": ("workers",), "*": ("tickets",)},
    ("holdfast.notify", "notify.sql"): {"*": ("workers",)},
    ("holdfast.engines.hosts", "hosts.sql"): {"*": SERVICES},
}

THE_OWNERS = {"bench", "cluster", "doctor", "drill", "rush", "schema"}
"""Rooms that look at everything, or make it."""


@pytest.fixture
async def roles(settings: Settings) -> AsyncIterator[Logins]:
    async with logins(settings) as made:
        yield made


async def test_everyone_may_do_what_their_code_does(roles: Logins) -> None:
    for service in SERVICES:
        async with roles.connected(service) as connection:
            for (package, file), patterns in RUNS.items():
                for name, statement in load_statements(package, file).items():
                    if service in services_of(name, patterns):
                        assert await explain(connection, statement) == "00000", (service, package, name)


async def test_the_control_a_missing_grant_is_found(roles: Logins) -> None:
    async with roles.connected("owner") as owner, roles.connected("workers") as connection:
        prune = load_statements("holdfast.outbox", "outbox.sql")["prune"]
        contents = load_statements("holdfast.notify", "notify.sql")["contents"]
        assert (await explain(connection, prune), await explain(connection, contents)) == ("00000", "00000")
        await owner.execute("REVOKE EXECUTE ON FUNCTION outbox.prune FROM holdfast_workers")
        await owner.execute("REVOKE SELECT (email) ON auth.users FROM holdfast_workers")
        assert (await explain(connection, prune), await explain(connection, contents)) == ("42501", "42501")


def test_every_file_of_statements_is_somebodys() -> None:
    folder = Path(holdfast.__file__).parent
    found = {(file.parent.relative_to(folder.parent).as_posix().replace("/", "."), file.name) for file in
             folder.rglob("*.sql") if file.relative_to(folder).parts[0] not in THE_OWNERS}  # fmt: skip
    assert found == RUNS.keys()


def services_of(name: str, patterns: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Who runs a statement."""
    return next(services for pattern, services in patterns.items() if fnmatch(name, pattern))


async def explain(connection: Connection, statement: str) -> str:
    """The SQLSTATE of getting ready to run a statement, without running it."""
    try:
        await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    return "00000"
