"""The buyers: an open loop of purchases at a steady rate, each by a person of their own, through the gateway.

A purchase begins at its intended moment, whether or not the ones before it have ended, and its latency counts from
there. What has no definite answer is asked again with the same key, after growing pauses, until its time is over.
"""

import asyncio
import random
import secrets
from collections.abc import Callable, Coroutine
from typing import NamedTuple
from uuid import UUID

import msgspec

from holdfast import clock, ids
from holdfast.drill.buyers.record import UNANSWERED, Attempt, Errand, Manner, Purchase, Record, Step
from holdfast.rush.http_client import Client, Reply, UnansweredError

_PAUSE_SECONDS_MIN = 0.1
_PAUSE_SECONDS_MAX = 6.0
_BROWSERS, _READERS, _LOG_INS = 10, 10, 150
"""One in so many buyers looks at what is left, at their order once it is paid for, and logs in."""
_AGAIN = frozenset({UNANSWERED, 202, 429, 500, 502, 503, 504})
"""Nothing definite was said, or to come back later."""


class Booth(NamedTuple):
    """A sale as the buyers know it."""

    event_id: UUID
    body: bytes
    """The order that everyone places."""
    share: float
    """Of all purchases, in relation to the others' shares."""
    cancelling: float = 0.0
    """How many of its buyers cancel, of 1."""
    abandoning: float = 0.0
    """How many of its buyers let their hold run out, of 1."""
    sells_out: bool = False
    """Whether sold_out is a right answer."""


class Pace(NamedTuple):
    """How the buyers come, and how long each tries."""

    rate: float = 300.0
    """Purchases a second."""
    purchase_seconds_max: float = 60.0
    """After so long a purchase has failed."""


class _Ticket(msgspec.Struct):
    id: str


class _Shown(msgspec.Struct):
    """What a buyer reads of an answer: an order, or a problem."""

    id: str = ""
    status: str | int = ""
    code: str = ""
    tickets: list[_Ticket] = []


_read = msgspec.json.Decoder(_Shown).decode


class Load:
    """One run of buyers. `token_of` gives a person's access token; `log_in` is the body with which one may log in."""

    def __init__(
        self,
        client: Client,
        record: Record,
        booths: list[Booth],
        token_of: Callable[[UUID], str],
        pace: Pace,
        log_in: bytes = b"",
    ) -> None:
        self._client = client
        self._record = record
        self._booths = booths
        self._token_of = token_of
        self._invited: list[UUID] = []
        self._tokens: dict[UUID, str] = {}
        self._pace = pace
        self._log_in = log_in
        self._dice = random.Random(0)  # noqa: S311  # who comes for what is the same in every run
        self._key = secrets.token_hex(6)
        self._under_way: set[asyncio.Task[None]] = set()
        self._defect: BaseException | None = None

    def invite(self, count: int) -> None:
        """Gives so many people their tokens in advance: signing takes a quarter of what a purchase costs here."""
        self._invited = [_somebody() for _ in range(count)]
        self._tokens = {user_id: self._token_of(user_id) for user_id in self._invited}

    async def run(self, stop: asyncio.Event) -> None:
        """Buyers come until `stop`; it ends when the last of them has what they came for, or has given up."""
        first, began_at = len(self._record.purchases), self._record.now()
        while not stop.is_set():
            number = len(self._record.purchases)
            intended_at = began_at + (number - first) / self._pace.rate
            wait = intended_at - self._record.now()
            if wait > 0:
                await asyncio.sleep(wait)
            purchase = self._roll(number, intended_at)
            self.begin(purchase)
            if number % _BROWSERS == 0:
                path = f"/events/{ids.encode(ids.EVENT, self._booths[purchase.sale].event_id)}/tickets"
                self._run(self._errand(purchase, "browse", "GET", path, []))
            if number % _LOG_INS == 1 and self._log_in:
                self._run(self._errand(purchase, "log in", "POST", "/users/login", [], self._log_in))
        await self.rest()

    async def rest(self) -> None:
        """Waits for everyone who has begun."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        if self._defect is not None:
            raise self._defect

    def begin(self, purchase: Purchase) -> "asyncio.Task[None]":
        """Lets one purchase begin now."""
        self._record.purchases.append(purchase)
        return self._run(self._buy(purchase))

    def purchase(self, sale: int, manner: Manner = "buy", intended_at: float | None = None) -> Purchase:
        """A purchase by somebody new."""
        number = len(self._record.purchases)
        return Purchase(
            number=number,
            intended_at=self._record.now() if intended_at is None else intended_at,
            sale=sale,
            user_id=self._invited.pop() if self._invited else _somebody(),
            key=f"{self._key}-{number}",
            manner=manner,
        )

    def _run(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._defect = task.exception()

    def _roll(self, number: int, intended_at: float) -> Purchase:
        shares = [booth.share for booth in self._booths]
        sale = self._dice.choices(range(len(shares)), shares)[0]
        booth = self._booths[sale]
        fate = self._dice.random()
        manner: Manner = "buy"
        if fate < booth.abandoning:
            manner = "abandon"
        elif fate < booth.abandoning + booth.cancelling:
            manner = "cancel"
        return self.purchase(sale, manner, intended_at)

    async def _buy(self, purchase: Purchase) -> None:
        booth = self._booths[purchase.sale]
        token = self._tokens.pop(purchase.user_id, "") or self._token_of(purchase.user_id)
        fields = [f"Authorization: Bearer {token}"]
        deadline = self._record.moment(purchase.intended_at) + self._pace.purchase_seconds_max
        try:
            shown = await self._step(purchase, "create", "/orders/create", fields, booth.body, deadline)
            if shown is None:
                return
            if purchase.manner == "buy":
                body = b'{"payment_token":"tok_ok"}'
                await self._step(purchase, "confirm", f"/orders/{shown.id}/confirm", fields, body, deadline)
            elif purchase.manner == "cancel":
                await self._step(purchase, "cancel", f"/orders/{shown.id}/cancel", fields, b"{}", deadline)
        finally:
            purchase.ended_at = self._record.now()
            if purchase.refused and not (purchase.refused == "sold_out" and booth.sells_out):
                purchase.failed = purchase.failed or f"refused: {purchase.refused}"

        if purchase.is_confirmed and purchase.number % _READERS == 0:
            self._run(self._errand(purchase, "read", "GET", f"/orders/{shown.id}", fields))

    async def _errand(
        self, purchase: Purchase, step: Step, method: str, path: str, fields: list[str], body: bytes = b""
    ) -> None:
        """Asks until there is an answer, for as long as a purchase may take."""
        deadline = clock.monotonic_seconds() + self._pace.purchase_seconds_max
        number = 0
        while True:
            number += 1
            status, shown, retry_after = await self._ask(purchase, step, number, method, path, fields, body)
            is_stale = step == "read" and (status == 404 or (status == 200 and shown.status != "confirmed"))
            pause = _pause(number, retry_after)
            if status not in _AGAIN or clock.monotonic_seconds() + pause >= deadline:
                failed = "" if status == 200 else f"{step}: {shown.code or status}"
                self._record.errands.append(Errand(step, failed, is_stale))
                return
            await asyncio.sleep(pause)

    async def _step(
        self, purchase: Purchase, step: Step, path: str, fields: list[str], body: bytes, deadline: float
    ) -> _Shown | None:
        """Asks until something definite is said: what it was, or None where the purchase is over."""
        fields = [*fields, f"Idempotency-Key: {purchase.key}{'' if step == 'create' else '-' + step}"]
        number = 0
        while True:
            number += 1
            status, shown, retry_after = await self._ask(purchase, step, number, "POST", path, fields, body)
            if self._is_done(purchase, step, status, shown):
                return shown
            if purchase.refused:
                return None
            pause = _pause(number, retry_after)
            if clock.monotonic_seconds() + pause >= deadline:
                purchase.failed = f"no definite answer to {step} ({shown.code or status})"
                return None
            await asyncio.sleep(pause)

    async def _ask(
        self, purchase: Purchase, step: Step, number: int, method: str, path: str, fields: list[str], body: bytes
    ) -> tuple[int, _Shown, float | None]:
        sent_at = self._record.now()
        status, shown, retry_after = UNANSWERED, _Shown(code="cut off"), None
        try:
            reply = await self._client.request(method, path, fields, body)
            status, shown, retry_after = reply.status, _shown(reply), reply.retry_after_seconds
        except UnansweredError as error:
            shown = _Shown(code=str(error))
        finally:
            self._record.attempt(
                Attempt(
                    purchase.number,
                    step,
                    number,
                    round(sent_at, 4),
                    round(self._record.now(), 4),
                    status,
                    shown.code,
                    shown.id,
                )
            )
        return status, shown, retry_after

    def _is_done(self, purchase: Purchase, step: Step, status: int, shown: _Shown) -> bool:
        """Notes what was said; whether the step is done."""
        if status in (200, 201):
            self._acknowledge(purchase, step, shown)
            return True
        if status not in _AGAIN and shown.code != "idempotency_key_in_flight":
            purchase.refused = shown.code or f"status {status}"
        return False

    def _acknowledge(self, purchase: Purchase, step: Step, shown: _Shown) -> None:
        order_id = ids.decode(ids.ORDER, shown.id)
        if order_id is None:
            purchase.failed = f"{step} was answered without an order"
        elif order_id not in purchase.orders:
            purchase.orders.append(order_id)
        if step == "create":
            purchase.reserved_at = self._record.now()
        elif step == "confirm":
            purchase.is_confirmed = shown.status == "confirmed"
            tickets = (ids.decode(ids.TICKET, ticket.id) for ticket in shown.tickets)
            purchase.tickets = [ticket for ticket in tickets if ticket is not None]
        else:
            purchase.is_cancelled = shown.status == "cancelled"
        if (step == "confirm" and not purchase.is_confirmed) or (step == "cancel" and not purchase.is_cancelled):
            purchase.failed = f"after {step} the order is {shown.status}"


def _pause(number: int, retry_after: float | None) -> float:
    """How long to wait after try `number`: not before the servers want to be asked again, and not all at once."""
    pause = min(_PAUSE_SECONDS_MAX, _PAUSE_SECONDS_MIN * 2.0**number)
    return max(retry_after or 0.0, pause) * (1 + random.random() / 2)  # noqa: S311


def _shown(reply: Reply) -> _Shown:
    try:
        return _read(reply.body)
    except msgspec.MsgspecError:
        return _Shown(code=f"status {reply.status}")


def _somebody() -> UUID:
    """A new person all over the key space: real buyers' ids are as old as their accounts."""
    bits = int.from_bytes(secrets.token_bytes(16), "big")
    return UUID(int=(bits & ~(0xF << 76 | 0x3 << 62)) | 0x7 << 76 | 0x2 << 62)
