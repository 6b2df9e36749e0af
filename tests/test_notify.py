"""Letters to buyers: at least once, under a name that stays the same, and nobody's trouble but their own."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from box_office import Desk, Event, consume_all, open_desk, put_on_sale
from conftest import free_port
from holdfast import ids
from holdfast.engines.database import Pool, open_pool
from holdfast.errors import Mendable
from holdfast.notify import post as posting
from holdfast.notify.post import Post, PostAway
from holdfast.notify.record import SQL, announce_cancellations, forget_letters, notify_consumer
from holdfast.notify.sender import LETTERS_MAX, send_letters, send_some
from holdfast.orders.journal import SQL as ORDERS
from holdfast.orders.order import Order
from holdfast.outbox.dead_letters import count_letters, hand_over_wanted, want_letters
from holdfast.settings import Settings
from mail_house import PASSWORD, Mailbox, mail_server
from service_roles import logins

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


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def port(mailbox: Mailbox) -> Iterator[int]:
    with mail_server(mailbox) as opened:
        yield opened


@pytest.fixture
async def office(settings: Settings, pool: Pool) -> AsyncIterator[Office]:
    changed = settings.model_copy(update={"mail_from": "Holdfast <box@tickets.example>", "mail_timeout_seconds": 5.0})
    async with open_desk(changed, pool, gate_url="") as desk:
        yield Office(desk, changed)


async def eventually(found: Any, seconds: float = 30) -> None:
    """Waits until it is so."""
    async with asyncio.timeout(seconds):
        while not await found():
            await asyncio.sleep(0.02)


# What they say


async def test_a_confirmed_order_is_told_in_two_languages(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100, 100, price=160_050)
    await office.pool.execute(
        "UPDATE tickets.events SET name = '夏日 Concert', starts_at = '2026-11-22T11:30:00Z', venue_name = 'Hall', "
        "venue_address = '台北市' WHERE id = $1",
        event.id,
    )
    await office.pool.execute("UPDATE tickets.tiers SET name = 'Tier ' || position WHERE event_id = $1", event.id)
    order = await office.bought("alice@example.com", event, 2, 1)
    await office.note()
    await office.send(port)
    (message,) = mailbox.messages
    assert mailbox.recipients == ["alice@example.com"]
    assert message["From"] == "Holdfast <box@tickets.example>"
    assert message["Subject"] == "訂單成立 Order confirmed: 夏日 Concert"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Content-Language"] == "zh-Hant, en"
    row = await office.pool.fetchrow("SELECT * FROM outbox.events WHERE kind = 'order.confirmed'")
    assert row is not None
    assert message["Message-ID"] == f"<{row['xid']}-{row['id']}.{order.id}@tickets.example>"
    assert message["Date"].datetime == row["occurred_at"].replace(microsecond=0)
    text = message.get_content()
    for part in (
        f"訂單編號：{order.id}",
        "時間：2026年11月22日（日）19:30（Asia/Taipei）",
        "地點：Hall, 台北市",
        "合計：TWD 4,801.50",
        f"Order: {order.id}",
        "Time: Sunday, 22 November 2026, 19:30 (Asia/Taipei)",
        "Total: TWD 4,801.50",
    ):
        assert part in text
    tickets = await office.pool.fetch("SELECT id FROM orders.tickets")
    assert len(tickets) == 3
    assert all(text.count(ids.encode(ids.TICKET, row["id"])) == 2 for row in tickets)
    assert sorted(line for line in text.splitlines() if "TWD 1,600.50" in line) == [
        f"  {count} × {tier}, TWD 1,600.50 each" for count, tier in ((1, "Tier 1"), (2, "Tier 0"))
    ] + [f"  Tier {tier} × {count} 張，每張 TWD 1,600.50" for tier, count in ((0, 2), (1, 1))]
    assert "Click here" not in text, "a name is whatever a stranger typed"
    assert max(map(len, text.splitlines())) <= 120


async def test_a_free_order_of_an_event_with_a_fixed_offset(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100, price=0)
    await office.pool.execute(
        "UPDATE tickets.events SET time_zone = '-03:30', starts_at = '2026-11-22T00:00:00Z' WHERE id = $1", event.id
    )
    await office.bought("alice@example.com", event)
    await office.note()
    await office.send(port)
    text = mailbox.messages[0].get_content()
    assert "Saturday, 21 November 2026, 20:30 (-03:30)" in text
    assert "Total: free" in text
    assert "每張 免費" in text
    assert "Place" not in text


@pytest.mark.parametrize("holds_ended_first", [False, True])
async def test_a_cancelled_event_is_told_to_those_who_had_tickets_of_it(
    office: Office, mailbox: Mailbox, port: int, holds_ended_first: bool
) -> None:
    event, other = await put_on_sale(office.pool, 100), await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.held("bob@example.com", event)
    await office.bought("of-another@example.com", other)
    assert await office.desk.try_cancel(await office.held("changed-their-mind@example.com", event)) == "cancelled"
    expired = await office.held("too-late@example.com", event)
    await office.pool.execute(
        "UPDATE orders.orders SET expires_at = clock_timestamp() WHERE id = $1", ids.decode(ids.ORDER, expired.id)
    )
    await office.pool.fetchval(ORDERS["expire"], 10)
    await office.note()
    await office.send(port)
    mailbox.messages.clear()
    await office.cancel_event(event)
    if holds_ended_first:
        await office.desk.relay()
    await office.note()
    await office.send(port)
    assert sorted(message["To"] for message in mailbox.messages) == ["alice@example.com", "bob@example.com"]
    assert {message["Subject"] for message in mailbox.messages} == {"活動取消 Event cancelled: Concert"}
    assert "proof of purchase" in mailbox.to("alice@example.com")[0].get_content()
    assert "you are not charged" in mailbox.to("bob@example.com")[0].get_content()
    assert await office.pool.fetchval("SELECT count(*) FROM notify.announcements") == 0


async def test_nobody_reads_that_their_order_is_confirmed_after_its_event_was_cancelled(
    office: Office, mailbox: Mailbox, port: int
) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.cancel_event(event)
    await office.note()
    await office.send(port)
    assert [message["Subject"] for message in mailbox.messages] == ["活動取消 Event cancelled: Concert"]
    assert await office.outcomes() == {"dropped": 1, "sent": 1}


async def test_a_hold_that_ran_out_before_the_letter_was_written_is_nobodys_news(
    office: Office, mailbox: Mailbox, port: int
) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.held("alice@example.com", event)
    await office.cancel_event(event)
    await office.note()
    await office.pool.execute("UPDATE orders.orders SET expires_at = clock_timestamp()")
    await office.pool.fetchval(ORDERS["expire"], 10)
    await office.send(port)
    assert (mailbox.messages, await office.outcomes()) == ([], {"dropped": 1})


# How often they come


async def test_what_is_read_twice_is_written_once(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    for _ in range(2):
        await office.note()
        await office.pool.execute("UPDATE outbox.consumers SET xid = '0', id = 0 WHERE name = 'notify'")
    await office.send(port)
    await office.note()
    await office.send(port)
    assert len(mailbox.messages) == 1


async def test_two_senders_share_what_is_due(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 1000)
    for number in range(3 * LETTERS_MAX):
        await office.bought(f"{number}@example.com", event)
    await office.note()
    await asyncio.gather(*(office.send(port) for _ in range(3)))
    assert len(mailbox.messages) == 3 * LETTERS_MAX
    assert len({message["Message-ID"] for message in mailbox.messages}) == 3 * LETTERS_MAX
    assert await office.outcomes() == {"sent": 3 * LETTERS_MAX}


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


async def test_killed_after_a_letter_was_taken_and_before_that_was_noted(
    office: Office, mailbox: Mailbox, tmp_path: Path
) -> None:
    event = await put_on_sale(office.pool, 100)
    order = await office.bought("alice@example.com", event)
    await office.bought("bob@example.com", event)
    log = tmp_path / "worker.log"
    killed: list[int] = []

    class Killing(Mailbox):
        """Takes the first letter, and kills whoever brought it before saying so."""

        async def handle_DATA(self, *arguments: Any) -> str:
            reply = str(await super().handle_DATA(*arguments))
            if not killed:
                killed.append(process.pid)
                process.send_signal(signal.SIGKILL)
                process.wait(20)
            return reply

    killing = Killing()
    with mail_server(killing) as port:
        process = worker(office.settings, port, log)
        await asyncio.to_thread(killing.came.wait, 60)
        assert await asyncio.to_thread(process.wait, 60) == -signal.SIGKILL
        process = worker(office.settings, port, log)
        try:

            async def all_sent() -> bool:
                return await office.outcomes() == {"sent": 2}

            await eventually(all_sent, 90)
        finally:
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0, log.read_text()
    to_alice = killing.to("alice@example.com")
    # Whichever came first came twice; of both there is one text under one name.
    assert sorted(len(killing.to(f"{name}@example.com")) for name in ("alice", "bob")) == [1, 2]
    assert {message["Message-ID"].partition(".")[2] for message in to_alice} == {f"{order.id}@tickets.example>"}
    assert len({message.as_bytes() for message in killing.messages}) == 2


async def test_a_server_that_is_away_is_waited_for(office: Office, mailbox: Mailbox) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.note()
    port = free_port()
    stop = asyncio.Event()
    settings = office.at(port, mail_poll_seconds=0.05)
    with capture_logs() as logs:
        sending = asyncio.create_task(send_letters(settings, office.pool, posting.mail_server(settings), stop))

        async def noticed() -> bool:
            return len([line for line in logs if line["event"] == "mail server away"]) >= 2

        await eventually(noticed)
        assert await office.outcomes() == {None: 1}
        assert await office.pool.fetchval("SELECT tries FROM notify.letters") == 0
        with mail_server(mailbox, port=port):

            async def sent() -> bool:
                return await office.outcomes() == {"sent": 1}

            await eventually(sent)
            stop.set()
            await sending
    assert len(mailbox.messages) == 1


async def test_a_server_that_goes_in_the_middle_of_a_letter(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.note()
    mailbox.reply_to_data = "421 closing"
    with pytest.raises(PostAway, match="reply 421"):
        await office.send(port)
    assert await office.pool.fetchval("SELECT tries FROM notify.letters WHERE due_at <= now()") == 0
    mailbox.reply_to_data = "250 taken"
    await office.send(port)
    assert len(mailbox.messages) == 1


# Who is not reached


async def test_an_address_that_is_refused_holds_nobody_up(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    order = await office.bought("nobody@example.com", event)
    await office.bought("alice@example.com", event)
    mailbox.replies["nobody@example.com"] = "550 nobody@example.com is unknown here"
    await office.note()
    with capture_logs() as logs:
        await office.send(port)
    assert mailbox.recipients == ["alice@example.com"]
    assert await office.outcomes() == {"refused": 1, "sent": 1}
    (said,) = (line for line in logs if line["event"] == "letter not sent")
    assert (said["order_id"], said["reply_code"], said["outcome"]) == (order.id, 550, "refused")
    assert "example.com" not in str(logs)
    (buried,) = await count_letters(office.pool, "notify")
    assert (buried.letters, buried.reason) == (1, "letter refused: the mail server replied 550")
    assert "example.com" not in str([dict(row) for row in await office.pool.fetch("SELECT * FROM outbox.dead_letters")])


async def test_what_was_refused_is_sent_when_it_is_asked_for_again(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    for name in ("alice", "bob", "carol"):
        await office.bought(f"{name}@example.com", event)
    await office.note()
    await office.send(port)
    await office.cancel_event(event)
    mailbox.replies = {f"{name}@example.com": "554 no" for name in ("alice", "bob")}
    await office.note()
    await office.send(port)
    assert await office.outcomes() == {"sent": 4, "refused": 2}
    mailbox.replies.clear()
    await want_letters(office.pool, "notify")
    stop = asyncio.Event()
    handing = asyncio.create_task(hand_over_wanted(office.pool, notify_consumer(), stop, 0.02))

    async def handed_over() -> bool:
        return not await count_letters(office.pool, "notify")

    await eventually(handed_over)
    stop.set()
    await handing
    await office.note()
    await office.send(port)
    told = [message["To"] for message in mailbox.messages if "cancelled" in message["Subject"]]
    assert sorted(told) == [f"{name}@example.com" for name in ("alice", "bob", "carol")]
    assert await office.outcomes() == {"sent": 6}


async def test_a_letter_that_is_put_off_is_tried_again_later_and_not_for_ever(
    office: Office, mailbox: Mailbox, port: int
) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("busy@example.com", event)
    await office.bought("alice@example.com", event)
    mailbox.replies["busy@example.com"] = "450 come back later"
    await office.note()
    pauses = []
    for _ in range(office.settings.mail_tries_max - 1):
        await office.send(port)
        pauses.append(await office.pool.fetchval("SELECT due_at - now() FROM notify.letters WHERE due_at IS NOT NULL"))
        await office.pool.execute("UPDATE notify.letters SET due_at = now() WHERE due_at IS NOT NULL")
    assert [round(pause / timedelta(seconds=30)) for pause in pauses] == [1, 4, 16, 64]
    await office.send(port)
    assert await office.outcomes() == {"given_up": 1, "sent": 1}
    assert (await count_letters(office.pool, "notify"))[0].reason == "letter given_up: the mail server replied 450"


async def test_a_letter_that_kills_whoever_tries_it_is_given_up(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.note()
    await office.pool.execute("UPDATE notify.letters SET tries = $1", office.settings.mail_tries_max)
    await office.send(port)
    assert (mailbox.messages, await office.outcomes()) == ([], {"given_up": 1})


async def test_an_address_that_no_header_can_hold_is_refused(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com\r\nBcc: everyone@example.com", event)
    await office.note()
    with capture_logs() as logs:
        await office.send(port)
    assert (mailbox.messages, await office.outcomes()) == ([], {"refused": 1})
    assert "example.com" not in str(logs)


@pytest.mark.parametrize("ascii_only", [False, True])
async def test_an_address_beyond_ascii_is_for_servers_that_know_them(
    office: Office, mailbox: Mailbox, ascii_only: bool
) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("愛麗絲@example.com", event)
    await office.bought("alice@example.com", event)
    await office.note()
    with mail_server(mailbox, ascii_only=ascii_only) as port:
        await office.send(port)
    assert await office.outcomes() == ({"refused": 1, "sent": 1} if ascii_only else {"sent": 2})


async def test_the_workers_own_role_is_enough(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    for name in ("alice", "bob"):
        await office.bought(f"{name}@example.com", event)
    mailbox.replies["bob@example.com"] = "550 no"
    async with logins(office.settings) as roles:
        pool = await open_pool(roles.settings("workers"))
        try:
            at_work = Office(office.desk._replace(pool=pool), office.settings)
            await at_work.note()
            await at_work.send(port)
            await office.cancel_event(event)
            await at_work.note()
            await at_work.send(port)
            await want_letters(pool, "notify")
            assert (await count_letters(pool, "notify"))[0].wanted == 2
            await pool.execute(SQL["forget"], 1, 10)
        finally:
            await pool.close()
    assert len(mailbox.to("alice@example.com")) == 2


async def test_somebody_who_is_gone_is_not_written_to(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.pool.execute("DELETE FROM auth.users")
    await office.note()
    await office.send(port)
    assert await office.outcomes() == {"dropped": 1}


# The mail server


async def test_a_password_that_is_wrong_is_nobodys_letters_fault(office: Office, mailbox: Mailbox) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.note()
    with mail_server(mailbox, with_password=True) as port:
        for password, expected in (("wrong", {None: 1}), (PASSWORD, {"sent": 1})):
            settings = office.at(port, smtp_url=f"smtp://holdfast:{password}@127.0.0.1:{port}")
            post = Post(posting.mail_server(settings))
            if password == "wrong":
                with pytest.raises(PostAway, match="SMTPAuthenticationError 535"):
                    await send_some(settings, office.pool, post)
            else:
                await send_some(settings, office.pool, post)
            await post.close()
            assert await office.outcomes() == expected
            assert await office.pool.fetchval("SELECT max(tries) FROM notify.letters WHERE due_at IS NOT NULL") in (
                None,
                0,
            )


async def test_a_password_goes_over_no_network_in_the_clear(office: Office, mailbox: Mailbox) -> None:
    event = await put_on_sale(office.pool, 100)
    await office.bought("alice@example.com", event)
    await office.note()
    with mail_server(mailbox, with_password=True) as port:
        # Another way to write the same address, of which we do not know that it is this machine.
        settings = office.at(port, smtp_url=f"smtp://holdfast:{PASSWORD}@127.1:{port}")
        with pytest.raises(PostAway):
            await send_some(settings, office.pool, Post(posting.mail_server(settings)))
    assert mailbox.passwords == []
    assert await office.outcomes() == {None: 1}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"smtp_url": ""}, "set it to write to buyers"),
        ({"smtp_url": "mail.example.com:25"}, "must be smtp://"),
        ({"smtp_url": "http://mail.example.com"}, "must be smtp://"),
        ({"smtp_url": "smtp://mail.example.com:many"}, "is no address"),
        ({"smtp_url": "smtp://mail.example.com/inbox"}, "must be smtp://"),
        ({"smtp_url": "smtp://user@mail.example.com"}, "a user without a password"),
        ({"smtp_url": "smtp://mail.example.com", "mail_from": "tickets"}, "HOLDFAST_MAIL_FROM is no sender"),
        ({"smtp_url": "smtp://mail.example.com", "mail_from": "A <b@example.com"}, "HOLDFAST_MAIL_FROM is no sender"),
    ],
)
def test_what_is_no_mail_server_is_refused(changed: dict[str, str], says: str) -> None:
    with pytest.raises(Mendable, match=says):
        posting.mail_server(Settings(**changed))  # type: ignore[arg-type]


def test_what_is_a_mail_server() -> None:
    def at(url: str) -> posting.MailServer:
        return posting.mail_server(Settings(smtp_url=url, mail_from='"Box Office" <box@example.com>'))  # type: ignore[arg-type]

    found = at("smtps://us%40er:p%2Fw@mail.example.com")
    assert (found.host, found.port, found.username, found.password, found.tls, found.is_here) == (
        "mail.example.com",
        465,
        "us@er",
        "p/w",
        True,
        False,
    )
    assert str(found.sender) == "Box Office <box@example.com>"
    assert [(at(url).port, at(url).is_here) for url in ("smtp://localhost", "smtp://[::1]:2525")] == [
        (25, True),
        (2525, True),
    ]


def test_the_worker_says_what_it_lacks(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    process = worker(settings, 1, log, HOLDFAST_SMTP_URL="")
    assert process.wait(60) == 2
    assert log.read_text().splitlines()[-1].startswith("HOLDFAST_SMTP_URL must be smtp://")
    assert "Traceback" not in log.read_text()


# What is done beside


async def test_many_buyers_are_written_to_page_by_page(office: Office) -> None:
    event = await put_on_sale(office.pool, 1000)
    for number in range(25):
        await office.bought(f"{number}@example.com", event)
    await office.cancel_event(event)
    await consume_all(office.pool, notify_consumer())
    pages = []
    while looked_at := await office.pool.fetchval("SELECT notify.announce(10)"):
        pages.append(looked_at)
    assert pages == [10, 10, 5, 1]
    count = "SELECT count(*) FROM notify.letters WHERE kind = 'event.cancelled'"
    assert await office.pool.fetchval(count) == 25


async def test_announcing_goes_on_by_itself(office: Office) -> None:
    event = await put_on_sale(office.pool, 1000)
    await office.bought("alice@example.com", event)
    stop = asyncio.Event()
    settings = office.settings.model_copy(update={"mail_poll_seconds": 0.02})
    announcing = [asyncio.create_task(announce_cancellations(settings, office.pool, stop)) for _ in range(2)]
    await office.cancel_event(event)
    await consume_all(office.pool, notify_consumer())

    async def noted() -> bool:
        return bool(await office.pool.fetchval("SELECT count(*) FROM notify.letters WHERE kind = 'event.cancelled'"))

    await eventually(noted)
    stop.set()
    await asyncio.gather(*announcing)


async def test_old_letters_are_forgotten_and_others_stay(office: Office, mailbox: Mailbox, port: int) -> None:
    event = await put_on_sale(office.pool, 100)
    for name in ("alice", "bob", "carol"):
        await office.bought(f"{name}@example.com", event)
    await office.note()
    await office.send(port)
    await office.bought("dave@example.com", event)
    await office.note()
    await office.pool.execute(
        "UPDATE notify.letters SET ended_at = now() - interval '91 days' WHERE order_id = "
        "(SELECT order_id FROM notify.letters WHERE outcome = 'sent' LIMIT 1)"
    )
    stop = asyncio.Event()
    forgetting = asyncio.create_task(forget_letters(office.settings, office.pool, stop))

    async def forgotten() -> bool:
        return await office.outcomes() == {"sent": 2, None: 1}

    await eventually(forgotten)
    stop.set()
    await forgetting
