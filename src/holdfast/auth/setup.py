"""The first administrator: a one-time link that only whoever started Holdfast sees."""

import re
import secrets
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

from holdfast.auth.accounts import Accounts, User
from holdfast.engines.database import Pool, load_statements, transaction
from holdfast.errors import refuse
from holdfast.settings import Settings

_STATEMENTS = load_statements("holdfast.auth", "auth.sql")


async def new_setup_link(settings: Settings, pool: Pool) -> str | None:
    """A link in place of all earlier ones, good once and for `setup_link_seconds`; None if there is an administrator.

    The secret is in the fragment, which a browser does not send, so that it comes into no log on the way. Only its hash
    is kept.
    """
    token = secrets.token_urlsafe(32)
    async with transaction(pool) as connection:
        made = await connection.fetchrow(
            _STATEMENTS["new_setup_link"], _hash(token), float(settings.setup_link_seconds)
        )
    return None if made is None else f"{settings.public_url.rstrip('/')}/setup#{token}"


class SetupLinks:
    """What a link can be used for."""

    def __init__(self, pool: Pool, accounts: Accounts) -> None:
        self._pool = pool
        self._accounts = accounts

    async def claim(self, token: str, email: str, password: str) -> User:
        """Uses the link up and makes the administrator, both or neither. Raises setup_link_invalid and Invalid."""
        async with transaction(self._pool) as connection:
            # Asked first, so that nobody can make us hash passwords without a link.
            works = await connection.fetchval(_STATEMENTS["setup_link_works"], _hash(token))
        if not works:
            raise refuse("setup_link_invalid")
        address, encoded = await self._accounts.checked(email, password)
        async with transaction(self._pool) as connection:
            if await connection.fetchval(_STATEMENTS["use_setup_link"], _hash(token)) is None:
                raise refuse("setup_link_invalid")
            return await self._accounts.install_administrator(connection, address, encoded)


class Page(NamedTuple):
    """A page of HTML and the policy that lets its own script and style run, and nothing else."""

    html: str
    content_security_policy: str


def setup_page() -> Page:
    """The page behind the link."""
    html = (files("holdfast.auth") / "setup.html").read_text("utf-8")
    script, style = (_source_hash(html, tag) for tag in ("script", "style"))
    return Page(
        html,
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    )


def _source_hash(html: str, tag: str) -> str:
    sources = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(source.encode()).digest()).decode()}'" for source in sources)


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()
