"""The worker `notify` in the process of a test, and buyers with addresses."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from box_office import Desk, Event, consume_all
from holdfast import ids
from holdfast.notify import post as posting
from holdfast.notify.post import Post
from holdfast.notify.record import notify_consumer
from holdfast.notify.sender import send_some
from holdfast.orders.order import Order
from holdfast.settings import Settings

LETTERS = "SELECT outcome, count(*)::int FROM notify.letters GROUP BY outcome"


class Office:
    """The worker `notify` in this process, one step at a time, and a sale whose buyers have addresses."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self.desk = desk
        self.pool = desk.pool
        self.settings = settings

    async def buyer(self, email: str) -> UUID:
        """Somebody with this address."""
        user = ids.new_id()
        await self.pool.execute(
            "INSERT INTO auth.users (id, email, email_key, name, role) VALUES ($1, $2, $2, 'Click here!', 'buyer')",
            user,
            email,
        )
        return user

    async def bought(self, email: str, event: Event, *quantities: int) -> Order:
        """An order of theirs, confirmed."""
        order = await self.held(email, event, *quantities)
        assert await self.desk.try_confirm(order) == "confirmed"
        return order

    async def held(self, email: str, event: Event, *quantities: int) -> Order:
        """An order of theirs."""
        return (await self.desk.buy(await self.buyer(email), "key", event, *(quantities or (1,))))[0]

    async def cancel_event(self, event: Event) -> None:
        """Cancels it as its organiser would."""
        await self.pool.execute("UPDATE tickets.events SET status = 'cancelled' WHERE id = $1", event.id)
        await self.pool.execute("UPDATE tickets.stock SET state = 'cancelled' WHERE event_id = $1", event.id)
        await self.pool.execute(
            "INSERT INTO outbox.events (kind, subject, version, scope) VALUES ('event.cancelled', $1, 2, $1)", event.id
        )

    async def note(self) -> None:
        """Notes which letters are to be written."""
        await consume_all(self.pool, notify_consumer())
        while await self.pool.fetchval("SELECT notify.announce(1)"):
            pass

    async def send(self, port: int) -> None:
        """Sends everything that is due."""
        post = Post(posting.mail_server(self.at(port)))
        try:
            while await send_some(self.settings, self.pool, post):
                pass
        finally:
            await post.close()

    async def outcomes(self) -> dict[str | None, int]:
        """How many letters have come to what; None: they wait."""
        return {row["outcome"]: row["count"] for row in await self.pool.fetch(LETTERS)}

    def at(self, port: int, **changed: object) -> Settings:
        """Settings with the mail server at this port."""
        url = f"smtp://127.0.0.1:{port}"
        return Settings(**{**self.settings.model_dump(), "smtp_url": url, **changed})


async def eventually(found: Any, seconds: float = 30) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(seconds):
        while not await found():
            await asyncio.sleep(0.02)


def worker(settings: Settings, port: int, log: Path, **changed: str) -> "subprocess.Popen[bytes]":
    """`holdfast work notify` as a process of its own."""
    given = {
        "HOLDFAST_DATABASE_URL": settings.database_url.get_secret_value(),
        "HOLDFAST_SMTP_URL": f"smtp://127.0.0.1:{port}",
        "HOLDFAST_MAIL_FROM": settings.mail_from,
        # How long what a dead worker had claimed is left alone is ten times this.
        "HOLDFAST_MAIL_TIMEOUT_SECONDS": "0.3",
        **changed,
    }
    program = "from holdfast.cli.main import run; run()"
    with log.open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-c", program, "work", "notify", "--data", str(log.parent / "none")],
            env=os.environ | given,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
