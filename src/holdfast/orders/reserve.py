"""The path of an order: gate, then journal, each a self-clocking micro-batch.

A retry is recognised before any business refusal: whatever admission or the gate would refuse is first looked up by
its key, in a batch of its own: among the orders, and among the gate's leases, where another process's show that are
still being written.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from itertools import compress
from typing import TypeAlias
from uuid import UUID

from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool
from holdfast.errors import Busy, Fault, Invalid, in_flight, refuse
from holdfast.gate.gate import Gate, GateAway, GateStale
from holdfast.orders.basket import Basket, Offer, offer_of
from holdfast.orders.batch import Batcher, Reply
from holdfast.orders.journal import Reservation, Written, find_earlier, write_orders
from holdfast.orders.leases import Leases
from holdfast.orders.writer import Writer
from holdfast.settings import Settings
from holdfast.tickets.fresh import Fresh
from holdfast.tickets.sale import Sale

_Step: TypeAlias = Written | BaseException | Batcher[Reservation, Written]
"""What a batch does with one reservation: answers it, or sends it on."""

_OFFERS_MAX = 4096


class Reserve:
    """Makes orders. One instance per process."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        gate: Gate,
        sales: Fresh[Sale],
        mark: Callable[[], Awaitable[str | None]] | None = None,
    ) -> None:
        self._mark = mark
        """Where the log ends now, asked once for a batch; None where no reader needs to know."""
        self._gate = gate
        self._sales = sales
        self._offers: dict[Basket, Offer] = {}
        self._sold_out: dict[Offer, float] = {}
        """What the gate said a moment ago, and until when it is believed."""
        self._sold_out_seconds = settings.sold_out_seconds
        self._lines_max = settings.lines_per_order_max
        self._writer = Writer(settings)
        self._reader = Writer(settings)
        self._waiting_max = settings.purchases_waiting_max
        size_max, seconds_max = settings.batch_orders_max, settings.database_timeout_seconds

        def batches(
            name: str, run: Callable[[list[Reservation]], Awaitable[Sequence[_Step]]]
        ) -> Batcher[Reservation, Written]:
            # Counted all together, in `_submit`.
            return Batcher(
                name,
                run,
                size_max=size_max,
                waiting_max=self._waiting_max,
                seconds_max=seconds_max,
                wait_seconds_max=settings.purchase_wait_seconds_max,
                apart_seconds=settings.batch_apart_seconds,
            )

        self._purchases = batches("purchases", self._buy)
        self._lookup_batches = batches("lookup", self._look_up)
        self._leases = Leases(pool, gate, sales, is_gate_busy=lambda: self._purchases.waiting > 0)

    async def reserve(self, user_id: UUID, idempotency_key: str, basket: Basket) -> Written:
        """Makes an order, finds the one that its key made, or refuses it. Raises a Refusal too."""
        sale = await self._sales.get(basket.event_id)
        return await self._submit(user_id, idempotency_key, basket, sale)

    def begin(self, user_id: UUID, idempotency_key: str, basket: Basket) -> Reply[Written] | None:
        """The same, without a turn of the event loop; None while no fresh snapshot of the sale is at hand."""
        fresh, sale = self._sales.peek(basket.event_id)
        return self._submit(user_id, idempotency_key, basket, sale) if fresh else None

    async def rehearse(self) -> None:
        """Has connections and statements ready."""
        for batches in (self._purchases, self._lookup_batches):
            await batches.rehearse()

    async def get_ready(self, event_id: UUID) -> None:
        """Has an event's snapshot at hand, and its gate loaded. Raises Busy and GateAway."""
        if not self._gate.is_absent and await self._sales.get(event_id) is not None:
            await self._leases.get_ready(event_id)
        await self._sales.get(event_id)

    def _submit(self, user_id: UUID, idempotency_key: str, basket: Basket, sale: Sale | None) -> Reply[Written]:
        if len(basket.tier_ids) > self._lines_max:
            raise Invalid(Fault("/lines", f"An order has at most {self._lines_max} lines."))
        if sale is None:
            raise refuse("not_found", "There is no such event.")
        offer = self._offer(basket, sale)
        refusal = offer.refusal() or self._known_refusal(offer)
        reservation = Reservation(user_id, idempotency_key, offer, refusal)
        first = self._purchases if reservation.refusal is None else self._lookup_batches
        if self._purchases.waiting + self._lookup_batches.waiting >= self._waiting_max:
            raise Busy("Too many are waiting.")
        return first.submit(reservation)

    def _offer(self, basket: Basket, sale: Sale) -> Offer:
        offer = self._offers.get(basket)
        if offer is None or offer.sale is not sale:
            if len(self._offers) >= _OFFERS_MAX:
                self._offers.clear()
            offer = self._offers[basket] = offer_of(basket, sale)
        return offer

    async def drain(self) -> None:
        """Answers what is under way, settles it in the gate, and lets the connections go."""
        for batches in (self._purchases, self._lookup_batches):
            await batches.drain()
        await self._leases.drain()
        await self._writer.close()
        await self._reader.close()

    def _known_refusal(self, offer: Offer) -> str | None:
        until = self._sold_out.get(offer)
        if until is None:
            return None
        if monotonic_seconds() < until:
            return "sold_out"
        del self._sold_out[offer]
        return None

    async def _buy(self, batch: list[Reservation]) -> Sequence[_Step]:
        """Gate, then journal. What the gate refuses goes on to the look-up that comes before a refusal.

        Both in one batch: while it is under way the server reads and answers the others, in two groups that take turns.
        With a batch for each there are three groups, each with less to share the costs of a batch.
        """
        await self._pass_gate(batch)
        passed = [one for one in batch if one.refusal is None]
        # A batch of nothing, which is a rehearsal, is written too.
        written = iter(await self._write(passed) if passed or not batch else ())
        return [next(written) if one.refusal is None else self._lookup_batches for one in batch]

    async def _pass_gate(self, batch: list[Reservation]) -> None:
        """Marks each reservation: leased, refused, or neither, when the gate was away."""
        by_event = _by_event(batch)
        if len(by_event) == 1:
            await self._pass_gate_of(*next(iter(by_event.items())))
        else:
            await asyncio.gather(*(self._pass_gate_of(event_id, some) for event_id, some in by_event.items()))

    async def _pass_gate_of(self, event_id: UUID, batch: list[Reservation]) -> None:
        settled = self._leases.take_settled(event_id)
        wants: dict[Offer, int] = {}
        asks = [[(one.hold_key, wants.setdefault(one.offer, len(wants))) for one in some] for some in (settled, batch)]
        try:
            outcomes = await self._gate.reserve(
                event_id, batch[-1].offer.sale.epoch, [offer.want for offer in wants], *asks
            )
        except GateAway:
            self._leases.settle(settled)
            return
        except GateStale:
            self._leases.settle_anew(event_id, settled)
            return
        for reservation, outcome in zip(batch, outcomes, strict=True):
            if outcome == "held":
                reservation.leased = reservation.took_lease = True
            elif outcome == "replay":
                reservation.leased = True
            elif outcome == "unknown":
                self._leases.load_later(event_id)
            else:
                reservation.refusal = outcome
                if outcome == "sold_out":
                    self._remember_sold_out(reservation.offer)

    def _remember_sold_out(self, offer: Offer) -> None:
        if len(self._sold_out) >= _OFFERS_MAX:
            self._sold_out.clear()
        self._sold_out[offer] = monotonic_seconds() + self._sold_out_seconds

    async def _write(self, batch: list[Reservation]) -> Sequence[Written]:
        answers = await write_orders(self._writer, batch)
        settled, given_back = [], []
        for reservation, written in zip(batch, answers, strict=True):
            if not reservation.leased:
                continue
            if written.is_reserved:
                # New, or made by the same click through another process: the lease is the order's either way.
                settled.append(reservation)
            elif reservation.took_lease:
                given_back.append(reservation)
        self._leases.settle(settled)
        self._leases.give_back(given_back)
        if self._mark is not None:
            position = await self._mark()
            for written in answers:
                written.position = position
        return answers

    async def _look_up(self, batch: list[Reservation]) -> Sequence[_Step]:
        leased, earlier = await asyncio.gather(self._leased(batch), find_earlier(self._reader, batch))
        answers = []
        for reservation in batch:
            found = earlier.get((reservation.user_id, reservation.idempotency_key))
            assert reservation.refusal is not None
            if found:
                answers.append(found.answer(reservation))
            elif reservation.hold_key in leased:
                answers.append(Written(refusal=in_flight()))
            else:
                answers.append(Written(refusal=refuse(reservation.refusal)))
        return answers

    async def _leased(self, batch: list[Reservation]) -> set[str]:
        """The hold keys of these that the gate has; none while it is away."""
        found: set[str] = set()
        for event_id, some in _by_event(batch).items():
            keys = [reservation.hold_key for reservation in some]
            with contextlib.suppress(GateAway):
                found.update(compress(keys, await self._gate.has(event_id, keys)))
        return found


def _by_event(batch: list[Reservation]) -> dict[UUID, list[Reservation]]:
    found: defaultdict[UUID, list[Reservation]] = defaultdict(list)
    for reservation in batch:
        found[reservation.offer.basket.event_id].append(reservation)
    return found
