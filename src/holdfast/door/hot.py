"""The hot table: the few routes that a rush consists of, in plain ASGI and msgspec.

door -> rates -> idempotency key -> decode -> the order service
"""

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from uuid import UUID

import msgspec

from holdfast import ids
from holdfast.auth.tokens import Identity, KeyUnknown, Verifier
from holdfast.door.exchange import JSON, NO_CACHE, NO_STORE, Answer, Later, Mark, Request, decode, marked
from holdfast.errors import Refusal, in_flight, refuse
from holdfast.orders.basket import Basket, basket_of
from holdfast.orders.batch import Reply
from holdfast.orders.cancel import Cancel
from holdfast.orders.confirm import Confirm
from holdfast.orders.history import History, is_owner, parse_limit
from holdfast.orders.journal import Written
from holdfast.orders.order import CancelOrder, ConfirmOrder, CreateOrder, Order
from holdfast.orders.reserve import Reserve
from holdfast.rates import Rate
from holdfast.settings import Settings
from holdfast.tickets.availability import AvailabilitySnapshot
from holdfast.tickets.fresh import Fresh

_BASKETS_MAX = 1024
_BASKET_BYTES_MAX = 2048

_encode = msgspec.json.Encoder().encode
_create_decoder = msgspec.json.Decoder(CreateOrder)
_confirm_decoder = msgspec.json.Decoder(ConfirmOrder)
_cancel_decoder = msgspec.json.Decoder(CancelOrder)


class Turnstile:
    """Who may try to buy right now: the global and the per-user rate, and one request at a time for each key."""

    def __init__(self, settings: Settings) -> None:
        shares = settings.server_processes
        self._all = Rate(settings.purchases_per_second / shares, max(settings.purchases_burst // shares, 1), keys_max=1)
        self._user = Rate(settings.user_purchases_per_second, settings.user_purchases_burst)
        self._under_way: set[tuple[UUID, str, str]] = set()
        policy = b"ratelimit-policy: %b\r\n" % _policy("user", self._user).encode()
        self._head = JSON + NO_STORE + policy + b'ratelimit: "user";r=%d\r\n'

    def admit(self, user_id: UUID) -> None:
        """Counts one attempt. Raises rate_limited."""
        wait = self._user.take(user_id)
        if wait:
            raise _rate_limited("user", self._user, wait)
        wait = self._all.take(None)
        if wait:
            raise _rate_limited("all", self._all, wait)

    def head(self, user_id: UUID) -> bytes:
        """What every answer to a user says, with their RateLimit."""
        return self._head % self._user.remaining(user_id)

    def hold(self, user_id: UUID, operation: str, key: str) -> tuple[UUID, str, str]:
        """Holds a key while it is answered, until `let_go`. Raises idempotency_key_in_flight for the second one."""
        held = (user_id, operation, key)
        if held in self._under_way:
            raise in_flight()
        self._under_way.add(held)
        return held

    def let_go(self, held: tuple[UUID, str, str]) -> None:
        """The key was answered."""
        self._under_way.remove(held)

    @contextmanager
    def one_at_a_time(self, user_id: UUID, operation: str, key: str) -> Iterator[None]:
        """Holds a key for as long."""
        held = self.hold(user_id, operation, key)
        try:
            yield
        finally:
            self.let_go(held)


def _policy(name: str, rate: Rate) -> str:
    return f'"{name}";q={rate.burst};w={max(math.ceil(rate.burst / rate.per_second), 1)}'


def _rate_limited(name: str, rate: Rate, wait: float) -> Refusal:
    seconds = str(math.ceil(wait))
    headers = {
        "Retry-After": seconds,
        "RateLimit-Policy": _policy(name, rate),
        "RateLimit": f'"{name}";r=0;t={seconds}',
    }
    return Refusal("rate_limited", headers=headers)


class OrderRoutes:
    """The routes of the order service."""

    def __init__(
        self,
        settings: Settings,
        tokens: Verifier,
        is_administrator: Callable[[UUID], Awaitable[bool]],
        reserve: Reserve,
        confirm: Confirm,
        cancel: Cancel,
        history: History,
        mark: Mark,
    ) -> None:
        self._mark = mark
        self._tokens = tokens
        self._is_administrator = is_administrator
        self._reserve = reserve
        self._confirm = confirm
        self._cancel = cancel
        self._history = history
        self._turnstile = Turnstile(settings)

    def create(self, request: Request) -> Later | Awaitable[Answer]:
        """POST /orders/create"""
        try:
            identity = self._tokens.verify(request.authorization)
        except KeyUnknown:
            return self._create_when_identified(request)
        key = self._admit(identity, request)
        request.check_json()
        basket = _read_basket(request.body())
        held = self._turnstile.hold(identity.user_id, "create", key)
        try:
            reply = self._reserve.begin(identity.user_id, key, basket)
        except BaseException:
            self._turnstile.let_go(held)
            raise
        if reply is None:
            return self._create_when_read(identity, key, basket, held)
        return Later(reply, partial(self._created, identity, held))

    def _created(self, identity: Identity, held: tuple[UUID, str, str], reply: Reply[Written]) -> Answer | Refusal:
        self._turnstile.let_go(held)
        written = reply.result()
        return written.refusal or self._answer_created(written, identity)

    async def _create_when_identified(self, request: Request) -> Answer:
        """The same, where the token's key has to be asked for first."""
        identity = await self._tokens.identify(request.authorization)
        key = self._admit(identity, request)
        request.check_json()
        basket = _read_basket(request.body())
        held = self._turnstile.hold(identity.user_id, "create", key)
        return await self._create_when_read(identity, key, basket, held)

    async def _create_when_read(
        self, identity: Identity, key: str, basket: Basket, held: tuple[UUID, str, str]
    ) -> Answer:
        """The same, where the sale has to be read first."""
        try:
            written = await self._reserve.reserve(identity.user_id, key, basket)
        finally:
            self._turnstile.let_go(held)
        if written.refusal is not None:
            raise written.refusal
        return self._answer_created(written, identity)

    def _answer_created(self, written: Written, identity: Identity) -> Answer:
        head = self._turnstile.head(identity.user_id) + marked(written.position)
        return Answer(201 if written.is_new else 200, head, written.body)

    async def confirm(self, request: Request) -> Answer:
        """POST /orders/{order_id}/confirm"""
        identity = await self._tokens.identify(request.authorization)
        key = self._admit(identity, request)
        request.check_json()
        asked = decode(_confirm_decoder, request.body())
        order_id = _order_id(request.path_id)
        with self._turnstile.one_at_a_time(identity.user_id, "confirm", key):
            order = await self._confirm.confirm(order_id, identity.user_id, key, asked)
        return await self._answer(200 if order.status in ("confirmed", "refunded") else 202, order, identity)

    async def cancel(self, request: Request) -> Answer:
        """POST /orders/{order_id}/cancel"""
        identity = await self._tokens.identify(request.authorization)
        key = self._admit(identity, request)
        body = request.body()
        if body:
            request.check_json()
            decode(_cancel_decoder, body)
        order_id = _order_id(request.path_id)
        with self._turnstile.one_at_a_time(identity.user_id, "cancel", key):
            order = await self._cancel.cancel(order_id, identity.user_id, key)
        return await self._answer(200, order, identity)

    async def read(self, request: Request) -> Answer:
        """GET /orders/{id}: an order, or a user's orders"""
        identity = await self._tokens.identify(request.authorization)
        user_id = ids.decode(ids.USER, request.path_id)
        if user_id is not None:
            asked = request.query("limit", "cursor")
            if user_id != identity.user_id and not await self._sees_all(identity):
                raise refuse("not_found")
            limit = parse_limit(asked.get("limit"))
            page = await self._history.page(user_id, limit, asked.get("cursor"), request.since)
            return Answer(200, JSON + NO_STORE, _encode(page))
        request.query()
        order = await self._history.order(_order_id(request.path_id), request.since)
        if not is_owner(order, identity.user_id) and not await self._sees_all(identity):
            raise refuse("not_found")
        return Answer(200, JSON + NO_STORE, _encode(order))

    def _admit(self, identity: Identity, request: Request) -> str:
        self._turnstile.admit(identity.user_id)
        return request.idempotency_key()

    async def _sees_all(self, identity: Identity) -> bool:
        return identity.role == "admin" and await self._is_administrator(identity.user_id)

    async def _answer(self, status: int, order: Order, identity: Identity) -> Answer:
        head = self._turnstile.head(identity.user_id) + marked(await self._mark())
        return Answer(status, head, _encode(order))


@lru_cache(maxsize=_BASKETS_MAX)
def _read_small_basket(body: bytes) -> Basket:
    return basket_of(decode(_create_decoder, body))


def _read_basket(body: bytes) -> Basket:
    """The basket of a body. Almost everyone's is the same, to the byte, and is read once."""
    if len(body) <= _BASKET_BYTES_MAX:
        return _read_small_basket(body)
    return basket_of(decode(_create_decoder, body))


class TicketRoutes:
    """The hot route of the ticket service."""

    def __init__(self, availability: Fresh[AvailabilitySnapshot]) -> None:
        self._availability = availability

    def tickets(self, request: Request) -> Answer | Awaitable[Answer]:
        """GET /events/{event_id}/tickets"""
        if request.query_string:
            request.query()
        event_id = ids.decode(ids.EVENT, request.path_id)
        if event_id is None:
            raise refuse("not_found")
        fresh, snapshot = self._availability.peek(event_id)
        if fresh:
            return _availability(snapshot, request)
        return self._tickets_when_read(event_id, request)

    async def _tickets_when_read(self, event_id: UUID, request: Request) -> Answer:
        return _availability(await self._availability.get(event_id), request)


def _availability(snapshot: AvailabilitySnapshot | None, request: Request) -> Answer:
    if snapshot is None:
        raise refuse("not_found")
    head = b"%betag: %b\r\n" % (NO_CACHE, snapshot.etag)
    if _is_unchanged(request.if_none_match, snapshot.etag):
        return Answer(304, head, b"")
    return Answer(200, JSON + head, snapshot.body)


def _is_unchanged(asked: bytes | None, etag: bytes) -> bool:
    """Whether If-None-Match (RFC 9110: a list of tags, compared weakly, or *) names this tag."""
    return asked is not None and (asked == etag or asked.strip() == b"*" or etag.removeprefix(b"W/") in asked)


def _order_id(text: str) -> UUID:
    order_id = ids.decode(ids.ORDER, text)
    if order_id is None:
        raise refuse("not_found")
    return order_id
