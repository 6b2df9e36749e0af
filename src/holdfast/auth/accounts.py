"""Accounts: who may log in, as what, and for how long."""

import math
import secrets
from collections import Counter
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec
import structlog

from holdfast import ids
from holdfast.auth.addresses import Address, parse_address
from holdfast.auth.passwords import Passwords, password_fault
from holdfast.auth.tokens import Role, Tokens
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import AWAY, Connection, Pool, Reads, load_statements, transaction
from holdfast.engines.hosts.position import LATEST
from holdfast.errors import Busy, Fault, Invalid, Refusal, refuse
from holdfast.settings import Settings

_STATEMENTS = load_statements("holdfast.auth", "auth.sql")

_log = structlog.get_logger(__name__)


class User(msgspec.Struct, frozen=True):
    """A user as it may be shown to itself and to administrators."""

    id: UUID
    email: str
    name: str | None
    role: Role
    created_at: datetime


class Session(msgspec.Struct, frozen=True):
    """What a log-in or a refresh gives."""

    access_token: str
    expires_in: int
    """Seconds."""
    refresh_token: str


class Accounts:
    """The users and their sessions. Every method may raise Busy when PostgreSQL is away."""

    def __init__(
        self, settings: Settings, pool: Pool, tokens: Tokens, passwords: Passwords, reads: Reads | None = None
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._reads = reads or Reads(pool)
        self._tokens = tokens
        self._passwords = passwords
        # How many refreshes of each token are under way in this process.
        self._refreshing: Counter[bytes] = Counter()

    async def register(self, email: Address, password: str, name: str | None = None) -> User:
        """A new buyer. Raises email_taken."""
        if (await self._row("is_taken", email.key))[0]:
            raise refuse("email_taken")
        encoded = await self._hash(password)
        row = await self._row("register", ids.new_id(), email.shown, email.key, name, encoded)
        if row is None:
            raise refuse("email_taken")
        return _user(row)

    async def log_in(self, email: Address, password: str) -> Session:
        """A new session. Raises credentials_invalid, the same and after as long for an unknown user as for a wrong
        password; and rate_limited after too many failures for this address, known or not."""
        # Looked at before waiting, so that a flood on one account does not fill the queue; and again afterwards, so
        # that at most as many guesses as there are threads can be under way beyond the limit. Only failures count.
        await self._look_up(email)
        async with self._passwords.turn():
            row = await self._look_up(email)
            encoded: str | None = row["password_hash"]
            if not await self._passwords.check(encoded, password) or encoded is None:
                await self._count_failure(email)
                raise refuse("credentials_invalid")
            if self._passwords.is_outdated(encoded):
                renewed = await self._passwords.hash(password)
                await self._row("renew_password_hash", row["id"], encoded, renewed)
                encoded = renewed
        return await self._begin_session(row["id"], encoded)

    async def refresh(self, refresh_token: str) -> Session:
        """The next access and refresh token; the one shown is used up. Raises refresh_token_invalid; one that was used
        before ends the whole session, since one of the two who have it is a thief. Uses at the same time are a double
        click: one of them wins, the others are only refused."""
        came_at = monotonic_seconds()
        following = secrets.token_urlsafe(32)
        key = _hash(refresh_token)
        overlaps = self._refreshing[key] > 0
        self._refreshing[key] += 1
        try:
            row = await self._use_refresh_token(key, following, came_at, overlaps)
        finally:
            self._refreshing[key] -= 1
            if self._refreshing[key] <= 0:
                self._refreshing.pop(key, None)
        if row is None or row["user_id"] is None:
            raise refuse("refresh_token_invalid")
        return self._session(row["user_id"], row["role"], following)

    async def log_out(self, refresh_token: str) -> None:
        """Ends the token's session. An unknown token has none, which is as good."""
        await self._row("log_out", _hash(refresh_token))

    async def user(self, user_id: UUID, since: int = LATEST) -> User | None:
        """The user, if there is one, not before a log position."""
        rows = await self._reads.fetch(_STATEMENTS["user"], user_id, since=since)
        return _user(rows[0]) if rows else None

    async def is_administrator(self, user_id: UUID) -> bool:
        """Whether the database, now, says so."""
        return bool((await self._row("is_administrator", user_id))[0])

    async def change_role(self, user_id: UUID, role: Role) -> User:
        """Gives a user another role. Raises not_found, and invalid_state for the last administrator.

        A token keeps the role it was issued with until it expires, except that an administrator's is checked against
        the database on every use.
        """
        async with transaction(self._pool) as connection:
            administrators = [row["id"] for row in await connection.fetch(_STATEMENTS["lock_administrators"])]
            if role != "admin" and administrators == [user_id]:
                raise refuse("invalid_state", "This is the last administrator: make another one first.")
            row = await connection.fetchrow(_STATEMENTS["change_role"], user_id, role)
        if row is None:
            raise refuse("not_found")
        return _user(row)

    async def create_administrator(self, email: str, password: str) -> User:
        """An administrator with this address and password, for an operator who holds the machine.

        An account that has the address already becomes an administrator's and gets this password, and its sessions
        end: whoever registered it before does not come along. Raises Invalid. Links to set up the first one end.
        """
        address, encoded = await self.checked(email, password)
        async with transaction(self._pool) as connection:
            return await self.install_administrator(connection, address, encoded)

    async def checked(self, email: str, password: str) -> tuple[Address, str]:
        """The address, and the hash of the password. Raises Invalid."""
        address = parse_address(email)
        if address is None:
            raise Invalid(Fault("/email", "This is not an e-mail address."))
        fault = password_fault(password)
        if fault is not None:
            raise Invalid(Fault("/password", fault))
        return address, await self._hash(password)

    async def install_administrator(self, connection: Connection, email: Address, encoded: str) -> User:
        """Within the caller's transaction: what `create_administrator` does once the password is hashed."""
        row: Any = await connection.fetchrow(
            _STATEMENTS["make_administrator"], ids.new_id(), email.shown, email.key, encoded
        )
        await connection.execute(_STATEMENTS["revoke_sessions"], row["id"])
        await connection.execute(_STATEMENTS["end_setup_links"])
        return _user(row)

    async def _use_refresh_token(self, key: bytes, following: str, came_at: float, overlaps: bool) -> Any:
        lifetime = float(self._settings.refresh_token_seconds)
        async with transaction(self._pool) as connection:
            waited = monotonic_seconds() - came_at
            row = await connection.fetchrow(_STATEMENTS["refresh"], key, _hash(following), lifetime, waited)
            if row is not None and row["reused"] and not overlaps:
                await connection.execute(_STATEMENTS["revoke_family"], row["family_id"])
                _log.warning("a used refresh token was shown again", family_id=str(row["family_id"]))
        return row

    async def _look_up(self, email: Address) -> Any:
        row = await self._row("log_in", email.key, _hash(email.key))
        interval = self._settings.account_failure_seconds
        wait = max(row["ahead_seconds"], 0.0) + interval - interval * self._settings.account_failures_burst
        if wait > 0:
            seconds = str(math.ceil(wait))
            raise Refusal(
                "rate_limited", "Too many wrong passwords for this account.", headers={"Retry-After": seconds}
            )
        return row

    async def _count_failure(self, email: Address) -> None:
        await self._row("count_failure", _hash(email.key), self._settings.account_failure_seconds)

    async def _begin_session(self, user_id: UUID, encoded: str) -> Session:
        refresh_token = secrets.token_urlsafe(32)
        lifetime = float(self._settings.refresh_token_seconds)
        row = await self._row("begin_session", user_id, encoded, _hash(refresh_token), ids.new_id(), lifetime)
        if row is None:
            # The password was changed while it was being checked.
            raise refuse("credentials_invalid")
        return self._session(user_id, row["role"], refresh_token)

    def _session(self, user_id: UUID, role: Role, refresh_token: str) -> Session:
        return Session(self._tokens.issue(user_id, role), self._tokens.lifetime_seconds, refresh_token)

    async def _hash(self, password: str) -> str:
        async with self._passwords.turn():
            return await self._passwords.hash(password)

    async def _row(self, statement: str, *arguments: object) -> Any:
        try:
            return await self._pool.fetchrow(_STATEMENTS[statement], *arguments)
        except AWAY as error:
            raise Busy("The database did not answer in time.") from error


def _hash(text: str) -> bytes:
    """What is stored of a secret or an address. A refresh token is too random to be guessed from it."""
    return sha256(text.encode()).digest()


def _user(row: Any) -> User:
    return User(row["id"], row["email"], row["name"], row["role"], row["created_at"])
