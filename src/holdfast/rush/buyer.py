"""What one buyer does in a rush: how they behave follows from the seed and their number alone.

Whatever has no definite answer (no answer at all, 5xx, 429, a key in flight) is tried again with the same key, as a
client should; after a definite refusal a new try has a new key. Everyone stays until they have tickets, or until
everything is sold.
"""

import asyncio
import random
from collections.abc import Callable
from enum import StrEnum
from uuid import UUID

import msgspec

from holdfast import ids
from holdfast.rush.http_client import Client, Reply, UnansweredError
from holdfast.rush.ledger import Ledger
from holdfast.rush.stage import HOLD_SECONDS, TICKETS_PER_USER_MAX, Person, Sale

_PAUSE_SECONDS_MIN = 0.05
_PAUSE_SECONDS_MAX = 1.0
_RETRY_AFTER_SECONDS_MAX = 2.0
_NEW_TRY_SECONDS_MAX = 2.0
_WANTS_TWO = 0.15

_NOT_NOW = {"sold_out", "user_limit_reached", "sale_not_open"}
"""Refusals of create after which a buyer comes back."""
_LIVE_PAYMENTS = {"created", "pending"}


class Manner(StrEnum):
    """How a buyer behaves the first time; who comes back just buys."""

    STEADY = "steady"
    DOUBLE_CLICKER = "double-clicker"
    """Sends create twice at once with one key, and confirm too."""
    FICKLE = "fickle"
    """Cancels, and comes back."""
    DREAMER = "dreamer"
    """Lets the hold run out, and comes back."""
    SHORT_OF_MONEY = "short of money"
    """The first payment is declined."""
    LATE_PAYER = "late payer"
    """The payment is answered after some seconds."""
    IMPATIENT = "impatient"
    """Hangs up before the answer, and tries again with the same key."""


_SHARES = {
    Manner.STEADY: 55,
    Manner.DOUBLE_CLICKER: 13,
    Manner.FICKLE: 8,
    Manner.DREAMER: 8,
    Manner.SHORT_OF_MONEY: 6,
    Manner.LATE_PAYER: 3,
    Manner.IMPATIENT: 7,
}


class Crowd:
    """What all buyers of one rush share."""

    def __init__(self, client: Client, ledger: Ledger, sale: Sale, issue_token: Callable[[UUID], str]) -> None:
        self.client = client
        self.ledger = ledger
        self.sale = sale
        self.issue_token = issue_token
        self.sold_through = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Waits so long, or until everything is sold."""
        try:
            async with asyncio.timeout(seconds):
                await self.sold_through.wait()
        except TimeoutError:
            return


class OrderShown(msgspec.Struct):
    """What a buyer looks at in an order."""

    id: str
    status: str
    tickets: list["TicketShown"] = []
    payment: "PaymentShown | None" = None

    @property
    def order_id(self) -> UUID:
        """The id, decoded."""
        order_id = ids.decode(ids.ORDER, self.id)
        if order_id is None:
            raise msgspec.ValidationError(f"{self.id!r} is not the id of an order")
        return order_id

    @property
    def is_being_paid(self) -> bool:
        """Whether a payment's outcome is not known yet."""
        return self.payment is not None and self.payment.status in _LIVE_PAYMENTS


class TicketShown(msgspec.Struct):
    """One admission."""

    id: str


class PaymentShown(msgspec.Struct):
    """An order's latest payment."""

    status: str


class _Problem(msgspec.Struct):
    code: str = ""


class _SenselessError(Exception):
    """An answer that a buyer cannot go on with."""


class Buyer:
    """One buyer with one wish: one or two tickets."""

    def __init__(self, crowd: Crowd, person: Person, number: int, seed: int) -> None:
        self._crowd = crowd
        self._person = person
        # A seed of its own, so that one buyer's luck does not hang on another's timing.
        self._random = random.Random(f"{seed}:{number}")  # noqa: S311
        self.manner = self._random.choices(list(_SHARES), list(_SHARES.values()))[0]
        self._wanted = TICKETS_PER_USER_MAX if self._random.random() < _WANTS_TWO else 1
        self._tiers = list(crowd.sale.tiers)
        self._random.shuffle(self._tiers)
        self._keys = 0
        self._in_doubt = 0

    async def run(self) -> None:
        """Buys, or leaves when everything is sold. Cancelled when the time is over."""
        try:
            if not await self._buy():
                self._crowd.ledger.without_tickets += 1
        except asyncio.CancelledError:
            self._crowd.ledger.without_tickets += 1
            self._crowd.ledger.errors += self._in_doubt > 0
            raise
        except (_SenselessError, msgspec.MsgspecError) as error:
            self._crowd.ledger.without_tickets += 1
            self._crowd.ledger.errors += 1
            self._crowd.ledger.unexpected[str(error)[:200]] += 1

    async def _buy(self) -> bool:
        manner = self.manner
        seconds = 0.2
        while not self._crowd.sold_through.is_set():
            order = await self._create(manner)
            if order is None:
                await self._crowd.wait(seconds * self._random.uniform(0.5, 1.5))
                seconds = min(seconds * 1.5, _NEW_TRY_SECONDS_MAX)
                continue
            if await self._decide(order, manner):
                return True
            manner = Manner.STEADY
        return False

    async def _decide(self, order: OrderShown, manner: Manner) -> bool:
        """What a buyer does with a hold; whether it became theirs."""
        if manner is Manner.DREAMER:
            await asyncio.sleep(HOLD_SECONDS + self._random.uniform(0.1, 1.0))
            return False
        if manner is Manner.FICKLE:
            await asyncio.sleep(self._random.uniform(0, 0.5))
            return await self._cancel(order)
        if manner is Manner.SHORT_OF_MONEY:
            key = self._new_key()
            await self._pay(order, "tok_declined", key)
            # Half of them use the same key again: a refusal leaves it free.
            key = key if self._random.random() < 0.5 else self._new_key()
            return await self._confirm(order, "tok_ok", key)
        if manner is Manner.LATE_PAYER:
            return await self._confirm(order, "tok_late", self._new_key())
        return await self._confirm(order, "tok_ok", self._new_key(), twice=manner is Manner.DOUBLE_CLICKER)

    # The three requests

    async def _create(self, manner: Manner) -> OrderShown | None:
        """The order, or None after a definite refusal."""
        tier = self._tiers[0]
        quantity = min(self._wanted, self._crowd.sale.tiers[tier])
        if quantity == 0:
            self._tiers.append(self._tiers.pop(0))
            return None
        tier_id = ids.encode(ids.TIER, tier)
        body = msgspec.json.encode(
            {"event_id": self._crowd.sale.shown_id, "lines": [{"tier_id": tier_id, "quantity": quantity}]}
        )
        key = self._new_key()
        if manner is Manner.IMPATIENT:
            await self._hang_up("/orders/create", key, body)
        clicks = 2 if manner is Manner.DOUBLE_CLICKER else 1
        orders = []
        for reply in await self._click(clicks, "/orders/create", key, body):
            if reply.status in (200, 201):
                order = msgspec.json.decode(reply.body, type=OrderShown)
                self._crowd.ledger.accepted(order.order_id, self._person.user_id, key, {tier: quantity})
                orders.append(order)
            else:
                self._refused(reply)
        if not orders:
            # Somewhere else, and with less.
            self._tiers.append(self._tiers.pop(0))
            self._wanted = 1
            return None
        return orders[0]

    def _refused(self, reply: Reply) -> None:
        code = _code(reply)
        if reply.status != 409 or code not in _NOT_NOW:
            raise _SenselessError(f"create: {reply.status} {code}")
        self._crowd.ledger.refusals[code] += 1

    async def _confirm(self, order: OrderShown, token: str, key: str, *, twice: bool = False) -> bool:
        """Pays until the order is confirmed or gone; whether it became theirs."""
        while True:
            await self._pay(order, token, key, clicks=2 if twice else 1)
            settled = await self._settled(order)
            if settled.status != "reserved":
                return settled.status == "confirmed"
            # The hold stands and nobody is paying for it: the payment was given up.
            token, key = "tok_ok", self._new_key()

    async def _pay(self, order: OrderShown, token: str, key: str, *, clicks: int = 1) -> None:
        body = msgspec.json.encode({"payment_token": token})
        for reply in await self._click(clicks, f"/orders/{order.id}/confirm", key, body):
            if reply.status == 200:
                self._note_confirmed(msgspec.json.decode(reply.body, type=OrderShown))
            elif reply.status not in (202, 402, 409, 410):
                raise _SenselessError(f"confirm: {reply.status} {_code(reply)}")

    async def _cancel(self, order: OrderShown) -> bool:
        reply = (await self._click(1, f"/orders/{order.id}/cancel", self._new_key(), b""))[0]
        if reply.status == 200:
            self._crowd.ledger.cancelled(order.order_id)
            return False
        if reply.status != 409:
            raise _SenselessError(f"cancel: {reply.status} {_code(reply)}")
        return (await self._settled(order)).status == "confirmed"

    async def _settled(self, order: OrderShown) -> OrderShown:
        """The order once no payment of it is open."""
        self._in_doubt += 1
        while True:
            reply = await self._ask("GET", f"/orders/{order.id}")
            if reply.status != 200:
                raise _SenselessError(f"order: {reply.status} {_code(reply)}")
            shown = msgspec.json.decode(reply.body, type=OrderShown)
            if shown.status == "confirmed":
                self._note_confirmed(shown)
            if shown.status not in ("reserved", "expired") or not shown.is_being_paid:
                self._in_doubt -= 1
                return shown
            await asyncio.sleep(self._random.uniform(0.2, 0.4))

    def _note_confirmed(self, shown: OrderShown) -> None:
        ticket_ids = [ids.decode(ids.TICKET, ticket.id) for ticket in shown.tickets]
        self._crowd.ledger.confirmed(shown.order_id, [ticket_id for ticket_id in ticket_ids if ticket_id is not None])

    # How a request is made

    async def _click(self, times: int, path: str, key: str, body: bytes) -> list[Reply]:
        """The definite answers to one request that is sent so often at the same moment."""
        return list(await asyncio.gather(*(self._ask("POST", path, key, body) for _ in range(times))))

    async def _ask(self, method: str, path: str, key: str = "", body: bytes = b"") -> Reply:
        """The definite answer. Tries again, with the same key, as long as there is none."""
        ledger = self._crowd.ledger
        is_create = path == "/orders/create"
        pause = _PAUSE_SECONDS_MIN
        self._in_doubt += 1
        while True:
            fields = self._fields(key)
            ledger.attempts += is_create
            asked: float | None = None
            try:
                reply = await self._crowd.client.request(method, path, fields, body)
            except UnansweredError:
                ledger.connection_errors += 1
            else:
                if is_create:
                    ledger.latency.add(reply.seconds)
                if self._is_definite(reply):
                    self._in_doubt -= 1
                    return reply
                asked = reply.retry_after_seconds
            await asyncio.sleep(_pause(self._random, pause, asked))
            pause = min(pause * 2, _PAUSE_SECONDS_MAX)

    async def _hang_up(self, path: str, key: str, body: bytes) -> None:
        self._crowd.ledger.attempts += 1
        try:
            seconds = self._random.uniform(0, 0.02)
            await self._crowd.client.send_and_leave("POST", path, self._fields(key), body, seconds)
        except UnansweredError:
            self._crowd.ledger.connection_errors += 1

    def _is_definite(self, reply: Reply) -> bool:
        ledger = self._crowd.ledger
        if reply.status == 503:
            ledger.busy += 1
        elif reply.status >= 500:
            ledger.server_errors += 1
        elif reply.status == 429:
            ledger.rate_limited += 1
        elif reply.status == 409 and _code(reply) == "idempotency_key_in_flight":
            ledger.in_flight += 1
        elif reply.status == 401 and _code(reply) == "token_expired":
            self._person = self._person._replace(token=self._crowd.issue_token(self._person.user_id))
        else:
            return True
        return False

    def _fields(self, key: str) -> list[str]:
        fields = [f"Authorization: Bearer {self._person.token}"]
        if key:
            fields.append(f"Idempotency-Key: {key}")
        return fields

    def _new_key(self) -> str:
        self._keys += 1
        return f"{self._person.user_id.hex}-{self._keys}"


def _code(reply: Reply) -> str:
    try:
        return msgspec.json.decode(reply.body, type=_Problem).code
    except msgspec.MsgspecError:
        return ""


def _pause(luck: random.Random, seconds: float, asked: float | None) -> float:
    """How long to wait before trying again: at least as long as the server asked for, within reason."""
    least = min(asked or 0.0, _RETRY_AFTER_SECONDS_MAX)
    return least + seconds * luck.uniform(0.5, 1.0)
