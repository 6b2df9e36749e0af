"""Letters that cannot be brought are nobody's trouble but their own; the mail server, and who may use it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from box_office import open_desk, put_on_sale
from holdfast.engines.database import Pool, open_pool
from holdfast.errors import Mendable
from holdfast.notify import post as posting
from holdfast.notify.post import Post, PostAway
from holdfast.notify.record import SQL, notify_consumer
from holdfast.notify.sender import send_some
from holdfast.outbox.dead_letters import count_letters, hand_over_wanted, want_letters
from holdfast.settings import Settings
from letter_office import Office, eventually, worker
from mail_house import PASSWORD, Mailbox, mail_server
from service_roles import logins


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
