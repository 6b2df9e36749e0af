"""Sends the letters that are due, and notes what became of each.

    due -> claimed (for a while, and counted as a try) -> sent
                                                       -> refused     for good (a reply of 500 or more): a dead letter
                                                       -> due later   put off; after so many tries a dead letter
                                                       -> dropped     there is no more reason, or nobody, to write to

No network call is made in a transaction. Whoever dies between handing a letter in and noting it leaves it claimed, and
it is handed in again, under the same Message-ID: a letter comes at least once.
"""

import asyncio
from collections.abc import Sequence
from email.message import EmailMessage

import structlog
from asyncpg import Record

from holdfast import ids
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import AWAY, Pool
from holdfast.notify.letters import Letter, message_of
from holdfast.notify.post import MailServer, Post, PostAway, PutOff, Refused
from holdfast.notify.record import CONSUMER, SQL
from holdfast.outbox.consume import OutboxRow, wait
from holdfast.outbox.dead_letters import bury
from holdfast.settings import Settings

LETTERS_MAX = 10
_CLAIM_TIMEOUTS = 10
"""For how many time-outs of the mail server a claim lasts; after half of it no other letter of the claim is begun."""
_AWAY_SECONDS = 1.0
_AWAY_SECONDS_MAX = 30.0
_PAUSE_GROWS = 4

_log = structlog.get_logger(__name__)


async def send_letters(settings: Settings, pool: Pool, server: MailServer, stop: asyncio.Event) -> None:
    """Sends what is due over one connection, until `stop`. Any number may run."""
    post = Post(server)
    pause = _AWAY_SECONDS
    try:
        while not stop.is_set():
            try:
                sent = await send_some(settings, pool, post, stop)
                pause = _AWAY_SECONDS
            except PostAway as away:
                _log.warning("mail server away", error=str(away))
                await wait(stop, pause)
                pause = min(pause * 2, _AWAY_SECONDS_MAX)
                continue
            except AWAY as error:
                _log.warning("letters wait", error=type(error).__name__)
                sent = 0
            if not sent:
                await post.close()
                await wait(stop, settings.mail_poll_seconds)
    finally:
        await post.close()


async def send_some(settings: Settings, pool: Pool, post: Post, stop: asyncio.Event | None = None) -> int:
    """Sends some of what is due: how many letters were taken up. Raises PostAway; what was not tried stays due."""
    claim_seconds = _CLAIM_TIMEOUTS * settings.mail_timeout_seconds
    began = monotonic_seconds()
    rows = await pool.fetch(SQL["claim"], LETTERS_MAX, claim_seconds)
    letters = sorted((Letter(*row) for row in rows), key=lambda letter: letter.occurred_at)
    if not letters:
        return 0
    contents = await pool.fetch(SQL["contents"], [letter.order_id for letter in letters])
    for index, (letter, content) in enumerate(zip(letters, contents, strict=True)):
        if monotonic_seconds() - began > claim_seconds / 2 or (stop is not None and stop.is_set()):
            await _give_back(pool, letters[index:])
            break
        try:
            await _send(settings, pool, post, letter, content)
        except PostAway:
            await _give_back(pool, letters[index:])
            raise
    return len(letters)


async def _send(settings: Settings, pool: Pool, post: Post, letter: Letter, content: Record) -> None:
    if content["event_id"] is None:
        await _ended(pool, letter, "dropped")
        return
    if letter.tries > settings.mail_tries_max:
        # Whoever tried it last did not live to say what came of it.
        await _failed(pool, letter, content, "given_up", None)
        return
    try:
        message = _message(letter, content, post)
        if message is None:
            await _ended(pool, letter, "dropped")
            return
        await post.hand_in(message)
    except PutOff as put_off:
        if letter.tries == settings.mail_tries_max:
            await _failed(pool, letter, content, "given_up", put_off.code)
            return
        pause = settings.mail_retry_seconds * _PAUSE_GROWS ** (letter.tries - 1)
        await pool.execute(SQL["put_off"], letter.order_id, letter.kind, pause, put_off.code)
        _log.info("letter put off", **_facts(letter), reply_code=put_off.code, seconds=pause)
    except Refused as refused:
        await _failed(pool, letter, content, "refused", refused.code)
    else:
        await _ended(pool, letter, "sent")


def _message(letter: Letter, content: Record, post: Post) -> EmailMessage | None:
    try:
        return message_of(letter, content, post.sender)
    except ValueError as error:
        # What it says may hold the address.
        raise Refused(None) from error


async def _ended(pool: Pool, letter: Letter, outcome: str) -> None:
    await pool.execute(SQL["ended"], letter.order_id, letter.kind, outcome, None)
    _log.debug("letter ended", **_facts(letter), outcome=outcome)


async def _failed(pool: Pool, letter: Letter, content: Record, outcome: str, code: int | None) -> None:
    """What asked for the letter goes to the dead letters, from where `holdfast events redrive` brings it again."""
    async with pool.acquire() as connection, connection.transaction():
        if await connection.execute(SQL["ended"], letter.order_id, letter.kind, outcome, code) != "UPDATE 1":
            # Another had claimed it meanwhile, and said what came of it.
            return
        reason = f"letter {outcome}" + ("" if code is None else f": the mail server replied {code}")
        await bury(connection, CONSUMER, _asked_by(letter, content), reason)  # type: ignore[arg-type]
    _log.warning("letter not sent", **_facts(letter), outcome=outcome, reply_code=code)


def _asked_by(letter: Letter, content: Record) -> OutboxRow:
    transaction, _, number = letter.origin.partition("-")
    of_order = letter.kind == "order.confirmed"
    return OutboxRow(
        (transaction, int(number)),
        letter.kind,
        letter.order_id if of_order else content["event_id"],
        content["version" if of_order else "event_version"],
        content["event_id"],
        letter.occurred_at,
    )


async def _give_back(pool: Pool, letters: Sequence[Letter]) -> None:
    await pool.execute(SQL["give_back"], [letter.order_id for letter in letters], [letter.kind for letter in letters])


def _facts(letter: Letter) -> dict[str, object]:
    return {"order_id": ids.encode(ids.ORDER, letter.order_id), "kind": letter.kind, "tries": letter.tries}
