"""One look at everything: settings, engines, schema, and the invariants in one snapshot of PostgreSQL."""

import ipaddress
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from holdfast.auth.signing_keys import load_signing_keys
from holdfast.engines.database import AWAY, Connection, load_statements
from holdfast.engines.hosts.connection import connect_to_primary, is_of_a_replica
from holdfast.errors import Mendable
from holdfast.schema.migrate import current_revision, known_revisions
from holdfast.settings import Settings

POSTGRESQL_MIN = 150000
OVERDUE_SECONDS = 3.0
"""Expiry comes by more than once a second."""
UNREAD_SECONDS = 5.0
PAYMENT_SLACK_SECONDS = 10.0
_QUERY_SECONDS_MAX = 120.0
_NAMED_MAX = 3

SQL = load_statements("holdfast.doctor", "doctor.sql")

_CONSTRAINTS = [
    "stock_not_oversold",
    "stock_held_not_negative",
    "stock_sold_not_negative",
    "user_tickets_not_negative",
    "user_tickets_within_limit",
    "orders_key_unique",
]
_UNIQUE_INDEXES = ["payments_one_live", "idempotency_keys_pkey"]

_REPORT = "stop its sale (pause its tiers), keep the database as it is, and report it as a defect of Holdfast"


class Check(msgspec.Struct, frozen=True):
    """One line of the report."""

    name: str
    ok: bool
    detail: str
    mend: str | None = None
    """What mends it, where it is not OK."""


def check_settings(settings: Settings) -> list[Check]:
    """What can be said without an engine."""
    return [_signing_keys(settings), _proxies(settings)]


async def check_database(settings: Settings) -> list[Check]:
    """PostgreSQL, its schema, and every invariant in it; only as far as can be looked."""
    url = settings.database_url.get_secret_value()
    try:
        connection = await connect_to_primary(
            url, timeout=settings.database_timeout_seconds, command_timeout=_QUERY_SECONDS_MAX
        )
    except (*AWAY, asyncpg.PostgresError, ValueError) as error:
        if is_of_a_replica(error):
            return [
                Check("PostgreSQL", False, "this is a replica", "give the primary's address in HOLDFAST_DATABASE_URL")
            ]
        reason = f"{type(error).__name__}: {error}"
        return [Check("PostgreSQL", False, reason, "see that it runs and that HOLDFAST_DATABASE_URL is right")]
    try:
        found = [_server(await connection.fetchrow(SQL["server"])), await _schema(connection)]
        if not found[-1].ok:
            return found
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return found + await _invariants(settings, connection)
    except (*AWAY, asyncpg.PostgresError) as error:
        return [Check("PostgreSQL", False, f"{type(error).__name__}: {error}", "see its log")]
    finally:
        connection.terminate()


def _signing_keys(settings: Settings) -> Check:
    name, file = "signing keys", settings.signing_key_file
    try:
        keys = load_signing_keys(file)
        assert file is not None
        is_private = not stat.S_IMODE(file.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    except (Mendable, OSError) as error:
        return Check(name, False, str(error), "give HOLDFAST_SIGNING_KEY_FILE a JWK set that can be read")
    if not is_private:
        return Check(name, False, f"others on this machine may read {file}", f"chmod 600 {file}")
    return Check(name, True, f"{len(keys)} in {file}")


def _proxies(settings: Settings) -> Check:
    name, mend = "trusted proxies", "list addresses or networks of your own proxies in HOLDFAST_TRUSTED_PROXIES"
    networks = []
    for text in settings.trusted_proxies:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            return Check(name, False, f"{text!r} is neither an address nor a network", mend)
    if any(network.prefixlen == 0 for network in networks):
        return Check(name, False, "everyone is trusted to say where they come from", mend)
    return Check(name, True, ", ".join(map(str, networks)) or "none")


def _server(row: Any) -> Check:
    name = "PostgreSQL"
    if row["version_number"] < POSTGRESQL_MIN:
        return Check(name, False, f"version {row['version']}", "use PostgreSQL 15 or newer")
    careless = [
        f"{setting} = {row[setting]}"
        for setting, good in (
            ("fsync", ("on",)),
            ("full_page_writes", ("on",)),
            # local is enough on one machine and loses orders with a standby; off loses them anywhere.
            ("synchronous_commit", ("on", "remote_apply")),
        )
        if row[setting] not in good
    ]
    if careless:
        return Check(name, False, ", ".join(careless), "set them to on: an acknowledged order must be on disk")
    return Check(name, True, f"version {row['version']}, fsync and synchronous_commit on")


async def _schema(connection: Connection) -> Check:
    current, newest = await current_revision(connection), known_revisions()[-1]
    if current == newest:
        return Check("schema", True, newest)
    if current is not None and current not in known_revisions():
        return Check("schema", False, f"{current}, of a newer release", "install that release")
    return Check("schema", False, f"{current or 'none'}, and this release needs {newest}", "run `holdfast migrate`")


async def _invariants(settings: Settings, connection: Connection) -> list[Check]:
    async def rows(statement: str, *arguments: object) -> Sequence[Any]:
        return await connection.fetch(SQL[statement], *arguments)

    overdue = (await rows("overdue", OVERDUE_SECONDS))[0]
    slack = settings.payment_unknown_seconds + PAYMENT_SLACK_SECONDS
    open_payments = (await rows("payments", slack))[0][0]
    return [
        _none(
            "guards",
            [row["name"] for row in await rows("guards", _CONSTRAINTS, _UNIQUE_INDEXES)],
            "every constraint that guards the sale is in force",
            "constraints are missing or not valid",
            "put them back as the migrations make them (ALTER TABLE … ADD CONSTRAINT)",
        ),
        *_tiers(await rows("tiers")),
        _none(
            "people's counters",
            [f"{row['user_id']} {row['tickets']} for {row['real_tickets']}" for row in await rows("users")],
            "agree with the orders, within the limits",
            "people's counters do not agree with their orders or exceed the limit",
            _REPORT,
        ),
        _none(
            "issued tickets",
            [row["order_id"] for row in await rows("issued")],
            "one for each place of a confirmed order",
            "orders have other tickets than their lines say",
            _REPORT,
        ),
        _none(
            "money",
            [f"{row['order_id']} {row['status']}" for row in await rows("money")],
            "every confirmed order is paid for, and no other",
            "orders and payments do not agree",
            _REPORT,
        ),
        Check("overdue holds", True, "none")
        if not overdue["orders"]
        else Check(
            "overdue holds",
            False,
            f"{overdue['orders']} orders with {overdue['tickets']} tickets should have expired",
            "see that `holdfast work expiry` runs",
        ),
        *map(_consumer, await rows("outbox")),
        _none(
            "dead letters",
            [f"{row['letters']} of {row['consumer']}: {row['reason']}" for row in await rows("dead_letters")],
            "none",
            "consumers could not handle something",
            "mend what the reason says, then run `holdfast events redrive`",
        ),
        Check("payments", True, "none is left open")
        if not open_payments
        else Check(
            "payments",
            False,
            f"{open_payments} have been open for more than {slack:.0f} s",
            "see that `holdfast work payments` and `holdfast work relay` run and the provider answers",
        ),
    ]


def _tiers(rows: Sequence[Any]) -> list[Check]:
    oversold = [row for row in rows if _taken(row) > (row["capacity"] or 0)]
    wrong = [row for row in rows if (row["held"], row["sold"]) != (row["real_held"], row["real_sold"])]

    def in_words(row: Any) -> str:
        return (
            f"{row['tier_id']} held {row['held']} for {row['real_held']}, "
            f"sold {row['sold']} for {row['real_sold']}, of {row['capacity']}"
        )

    return [
        _none(
            "oversold",
            oversold,
            "no tier has more taken than there is",
            "tiers have more taken than there is",
            _REPORT,
            in_words,
        ),
        _none(
            "stock counters",
            wrong,
            "agree with the orders",
            "tiers' counters do not agree with their orders",
            _REPORT,
            in_words,
        ),
    ]


def _taken(row: Any) -> int:
    counters = (row["held"] or 0) + (row["sold"] or 0)
    return max(counters, int(row["real_held"] + row["real_sold"]))


def _consumer(row: Any) -> Check:
    name, unread, age = f"outbox: {row['name']}", row["unread"], row["age_seconds"]
    worker = row["name"] if row["name"] in ("stats", "notify") else "relay"
    if unread and age > UNREAD_SECONDS:
        return Check(
            name,
            False,
            f"{unread} unread, the oldest for {age:.0f} s",
            f"see that `holdfast work {worker}` runs and what its log says; an open transaction holds it up too",
        )
    return Check(name, True, f"{unread} unread")


def _none(
    name: str,
    found: Iterable[str | UUID | Any],
    fine: str,
    broken: str,
    mend: str,
    in_words: Callable[[Any], str] = str,
) -> Check:
    """A check that holds where nothing was found; else the first few are named."""
    some = list(found)
    if not some:
        return Check(name, True, fine)
    named = "; ".join(in_words(one) for one in some[:_NAMED_MAX])
    more = f" and {len(some) - _NAMED_MAX} more" if len(some) > _NAMED_MAX else ""
    return Check(name, False, f"{len(some)} {broken}: {named}{more}", mend)
