"""The path of an order: gate, then journal, each a self-clocking micro-batch.

A retry is recognised before any business refusal: whatever admission or the gate would refuse is first looked up by
its key, in a batch of its own.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import TypeAlias
from uuid import UUID

import msgspec
import structlog

from holdfast import ids
from holdfast.engines.database import AWAY, Pool
from holdfast.errors import Busy, Fault, Invalid, refuse
from holdfast.gate.gate import Ask, Gate, GateAway, GateStale, Keyed, hold_key, hold_of
from holdfast.gate.load import load_gate
from holdfast.gate.reconcile import follow_orders
from holdfast.orders.batch import Batcher
from holdfast.orders.journal import Reservation, Written, find_earlier, write_orders
from holdfast.orders.order import CreateOrder, Order
from holdfast.orders.writer import Writer
from holdfast.settings import Settings
from holdfast.tickets.fresh import Fresh
from holdfast.tickets.sale import Sale

_Step: TypeAlias = Written | BaseException | Batcher[Reservation, Written]
"""What a batch does with one reservation: answers it, or sends it on."""

_log = structlog.get_logger(__name__)

_SETTLED_WAITING_MAX = 100_000


class Reserve:
    """Makes orders. One instance per process."""

    def __init__(self, settings: Settings, pool: Pool, gate: Gate, sales: Fresh[Sale]) -> None:
        self._pool = pool
        self._gate = gate
        self._sales = sales
        self._lines_max = settings.lines_per_order_max
        self._writer = Writer(settings)
        self._reader = Writer(settings)
        self._waiting_max = settings.purchases_waiting_max
        size_max, seconds_max = settings.batch_orders_max, settings.database_timeout_seconds

        def batches(
            name: str, run: Callable[[list[Reservation]], Awaitable[Sequence[_Step]]]
        ) -> Batcher[Reservation, Written]:
            # Counted all together, in `reserve`.
            return Batcher(name, run, size_max=size_max, waiting_max=self._waiting_max, seconds_max=seconds_max)

        self._gate_batches = batches("gate", self._pass_gate)
        self._journal_batches = batches("journal", self._write)
        self._lookup_batches = batches("lookup", self._look_up)
        self._settled: defaultdict[UUID, list[Keyed]] = defaultdict(list)
        self._outdated: defaultdict[UUID, list[Keyed]] = defaultdict(list)
        """Settled for a content of the gate that is not there any more."""
        self._given_back: defaultdict[UUID, list[str]] = defaultdict(list)
        self._finishing: asyncio.Task[None] | None = None
        self._loading: dict[UUID, asyncio.Task[None]] = {}

    async def reserve(self, user_id: UUID, idempotency_key: str, asked: CreateOrder) -> tuple[Order, bool]:
        """The order and whether it is new. Raises a Refusal."""
        reservation = await self._admit(user_id, idempotency_key, asked)
        first = self._gate_batches if reservation.refusal is None else self._lookup_batches
        if self._waiting >= self._waiting_max or self._journal_batches.is_stalled:
            # Before the gate: a lease that nobody follows up would keep a ticket from the others for a while.
            raise Busy("Too many are waiting.")
        written = await first.submit(reservation)
        if written.refusal is not None:
            raise written.refusal
        assert written.order is not None
        return written.order, written.is_new

    @property
    def _waiting(self) -> int:
        return self._gate_batches.waiting + self._journal_batches.waiting + self._lookup_batches.waiting

    async def drain(self) -> None:
        """Answers what is under way, settles it in the gate, and lets the connections go."""
        for batches in (self._gate_batches, self._journal_batches, self._lookup_batches):
            await batches.drain()
        if self._finishing is not None:
            await asyncio.wait([self._finishing])
        for task in list(self._loading.values()):
            await asyncio.wait([task])
        await self._writer.close()
        await self._reader.close()

    # Admission

    async def _admit(self, user_id: UUID, idempotency_key: str, asked: CreateOrder) -> Reservation:
        event_id = ids.decode(ids.EVENT, asked.event_id)
        if event_id is None:
            raise Invalid(Fault("/event_id", "This is not the id of an event."))
        tier_ids = self._tier_ids(asked)
        fresh, sale = self._sales.peek(event_id)
        if not fresh:
            sale = await self._sales.get(event_id)
        if sale is None:
            raise refuse("not_found", "There is no such event.")
        return _reservation(user_id, event_id, idempotency_key, asked, tier_ids, sale)

    def _tier_ids(self, asked: CreateOrder) -> list[UUID]:
        if len(asked.lines) > self._lines_max:
            raise Invalid(Fault("/lines", f"An order has at most {self._lines_max} lines."))
        tier_ids: list[UUID] = []
        for index, line in enumerate(asked.lines):
            tier_id = ids.decode(ids.TIER, line.tier_id)
            if tier_id is None:
                raise Invalid(Fault(f"/lines/{index}/tier_id", "This is not the id of a tier."))
            if tier_id in tier_ids:
                raise Invalid(Fault(f"/lines/{index}/tier_id", "This tier stands in the order already."))
            tier_ids.append(tier_id)
        return tier_ids

    # Gate

    async def _pass_gate(self, batch: list[Reservation]) -> Sequence[_Step]:
        """Marks each reservation (leased, refused, or neither: the gate was away) and sends it on to the journal, or to
        the look-up that comes before a refusal."""
        by_event: defaultdict[UUID, list[Reservation]] = defaultdict(list)
        for reservation in batch:
            by_event[reservation.event_id].append(reservation)
        if len(by_event) == 1:
            await self._pass_gate_of(*next(iter(by_event.items())))
        else:
            await asyncio.gather(*(self._pass_gate_of(event_id, some) for event_id, some in by_event.items()))
        return [self._journal_batches if one.refusal is None else self._lookup_batches for one in batch]

    async def _pass_gate_of(self, event_id: UUID, batch: list[Reservation]) -> None:
        settled = self._settled.pop(event_id, [])
        try:
            outcomes = await self._gate.reserve(event_id, batch[-1].sale.epoch, settled, [_ask(one) for one in batch])
        except GateAway:
            self._settle_later(event_id, settled)
            return
        except GateStale:
            self._outdated[event_id] += settled
            self._load_later(event_id)
            return
        for reservation, outcome in zip(batch, outcomes, strict=True):
            if outcome in ("held", "replay"):
                reservation.leased = True
                reservation.took_lease = outcome == "held"
            elif outcome == "unknown":
                self._load_later(event_id)
            else:
                reservation.refusal = outcome

    # Journal

    async def _write(self, batch: list[Reservation]) -> Sequence[_Step]:
        answers = await write_orders(self._writer, batch)
        for reservation, written in zip(batch, answers, strict=True):
            if not reservation.leased:
                continue
            key = hold_key(reservation.user_id, reservation.idempotency_key)
            if written.order is not None and written.order.status == "reserved":
                # New, or made by the same click through another process: the lease is the order's either way.
                hold = hold_of(reservation.user_id, reservation.tier_ids, reservation.quantities)
                self._settle_later(reservation.event_id, [(key, hold)])
            elif reservation.took_lease:
                self._given_back[reservation.event_id].append(key)
        if self._settled or self._given_back:
            self._finish_soon()
        return answers

    async def _look_up(self, batch: list[Reservation]) -> Sequence[_Step]:
        earlier = await find_earlier(self._reader, batch)
        answers = []
        for reservation in batch:
            found = earlier.get((reservation.user_id, reservation.idempotency_key))
            assert reservation.refusal is not None
            answers.append(found.answer(reservation) if found else Written(refusal=refuse(reservation.refusal)))
        return answers

    # After the answer: settle leases, give back those that made no order, load a gate that has forgotten

    def _settle_later(self, event_id: UUID, settled: list[Keyed]) -> None:
        # What is dropped here is found by its lease, or by reconcile.
        if settled and sum(map(len, self._settled.values())) < _SETTLED_WAITING_MAX:
            self._settled[event_id] += settled

    def _finish_soon(self) -> None:
        if self._finishing is None:
            self._finishing = asyncio.create_task(self._finish(), name="gate finish")

    async def _finish(self) -> None:
        """Sends what no batch of the gate has taken along. What fails is settled by its lease's end."""
        try:
            while self._gate_batches.waiting and not self._given_back:
                # A busy gate takes the settled ones along with its next batch.
                await asyncio.sleep(0.01)
            for event_id in {*self._settled, *self._given_back}:
                settled, given_back = self._settled.pop(event_id, []), self._given_back.pop(event_id, [])
                await self._finish_of(event_id, settled, given_back)
        finally:
            self._finishing = None

    async def _finish_of(self, event_id: UUID, settled: list[Keyed], given_back: list[str]) -> None:
        try:
            sale = await self._sales.get(event_id)
            if sale is not None and (settled or given_back):
                # No tombstones: the same key may hold tickets for another request of its buyer at any moment.
                await self._gate.finish(
                    event_id, sale.epoch, settle=settled, release=given_back, leave_tombstones=False
                )
        except GateStale:
            self._outdated[event_id] += settled
            self._load_later(event_id)
        except (GateAway, Busy, *AWAY) as error:
            _log.info("gate not told", event_id=str(event_id), error=type(error).__name__, orders=len(settled))

    def _load_later(self, event_id: UUID) -> None:
        self._sales.drop(event_id)
        if event_id not in self._loading:
            self._loading[event_id] = asyncio.create_task(self._load(event_id), name="gate load")

    async def _load(self, event_id: UUID) -> None:
        try:
            sale = await self._sales.get(event_id)
            state = await self._gate.state(event_id)
            if sale is not None and (state is None or state.epoch < sale.epoch or not state.is_open):
                await load_gate(self._pool, self._gate, event_id, unless_open=True)
            self._sales.drop(event_id)
            await self._catch_up(event_id)
        except (GateAway, GateStale, Busy, *AWAY) as error:
            _log.warning("gate not loaded", event_id=str(event_id), error=type(error).__name__)
        finally:
            self._loading.pop(event_id, None)

    async def _catch_up(self, event_id: UUID) -> None:
        """What was committed beside a load may be in its content or not, and may have ended since: PostgreSQL knows."""
        outdated = self._outdated.pop(event_id, [])
        sale = await self._sales.get(event_id)
        if outdated and sale is not None:
            await follow_orders(self._pool, self._gate, event_id, sale.epoch, outdated, leave_tombstones=False)


def _reservation(
    user_id: UUID, event_id: UUID, idempotency_key: str, asked: CreateOrder, tier_ids: list[UUID], sale: Sale
) -> Reservation:
    quantities = [line.quantity for line in asked.lines]
    tiers = []
    for index, tier_id in enumerate(tier_ids):
        tier = sale.tiers.get(tier_id)
        if tier is None:
            raise refuse("not_found", f"The event has no such tier (/lines/{index}/tier_id).")
        tiers.append(tier)
    if len({tier.currency for tier in tiers}) > 1:
        raise Invalid(Fault("/lines", "The tiers of one order must have one currency."))
    prices = [tier.price_amount for tier in tiers]
    tickets = sum(quantities)
    refusal = sale.refusal(tier_ids)
    if refusal is None and tickets > sale.tickets_per_user_max:
        refusal = "user_limit_reached"
    return Reservation(
        user_id=user_id,
        event_id=event_id,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint("create", asked),
        tier_ids=tier_ids,
        quantities=quantities,
        unit_prices=prices,
        tickets=tickets,
        total_amount=sum(price * quantity for price, quantity in zip(prices, quantities, strict=True)),
        currency=tiers[0].currency,
        sale=sale,
        refusal=refusal,
    )


def fingerprint(operation: str, decoded: msgspec.Struct, *path: UUID) -> bytes:
    """What makes a request the same one again: its operation, the ids of its path and its decoded body."""
    digest = blake2b(operation.encode(), digest_size=16)
    for part in path:
        digest.update(part.bytes)
    digest.update(msgspec.json.encode(decoded))
    return digest.digest()


def _ask(reservation: Reservation) -> Ask:
    ask: Ask = [
        hold_key(reservation.user_id, reservation.idempotency_key),
        reservation.sale.tickets_per_user_max,
        reservation.user_id.hex,
    ]
    for tier_id, quantity in zip(reservation.tier_ids, reservation.quantities, strict=True):
        ask += (tier_id.hex, quantity)
    return ask
