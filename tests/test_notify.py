"""Letters to buyers: at least once, under a name that stays the same."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from box_office import consume_all, open_desk, put_on_sale
from conftest import free_port
from holdfast import ids
from holdfast.engines.database import Pool
from holdfast.notify import post as posting
from holdfast.notify.post import PostAway
from holdfast.notify.record import announce_cancellations, forget_letters, notify_consumer
from holdfast.notify.sender import LETTERS_MAX, send_letters
from holdfast.orders.journal import SQL as ORDERS
from holdfast.settings import Settings
from letter_office import Office, eventually, worker
from mail_house import Mailbox, mail_server


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
