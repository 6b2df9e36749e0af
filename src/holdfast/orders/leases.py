"""What happens to the gate's leases after the answer: those that became orders are settled, those that made none are
given back, and a gate that has forgotten is loaded.

Nothing here keeps a buyer waiting, and whatever is lost here is found by its lease's end.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from holdfast.engines.database import AWAY, Pool
from holdfast.errors import Busy
from holdfast.gate.gate import CALL_MAX, Gate, GateAway, GateStale, Keyed, hold_of
from holdfast.gate.load import load_gate
from holdfast.gate.reconcile import follow_orders
from holdfast.orders.journal import Reservation
from holdfast.tickets.fresh import Fresh
from holdfast.tickets.sale import Sale

_WAITING_MAX = 100_000
_BUSY_SECONDS = 0.01

_log = structlog.get_logger(__name__)


class Leases:
    """The leases of one process. While `is_gate_busy` the settled ones travel with the next batch of purchases."""

    def __init__(self, pool: Pool, gate: Gate, sales: Fresh[Sale], *, is_gate_busy: Callable[[], bool]) -> None:
        self._pool = pool
        self._gate = gate
        self._sales = sales
        self._is_gate_busy = is_gate_busy
        self._settled: defaultdict[UUID, list[Reservation]] = defaultdict(list)
        self._waiting = 0
        self._given_back: defaultdict[UUID, list[str]] = defaultdict(list)
        self._outdated: defaultdict[UUID, list[Keyed]] = defaultdict(list)
        """Settled for a content of the gate that is not there any more."""
        self._finishing: asyncio.Task[None] | None = None
        self._loading: dict[UUID, asyncio.Task[None]] = {}

    def settle(self, reservations: Sequence[Reservation]) -> None:
        """These became orders. What is too much is dropped: it is found by its lease's end, or by reconcile."""
        if not reservations or self._waiting >= _WAITING_MAX:
            return
        self._waiting += len(reservations)
        for reservation in reservations:
            self._settled[reservation.offer.basket.event_id].append(reservation)
        self._finish_soon()

    def take_settled(self, event_id: UUID) -> list[Reservation]:
        """The settled ones of an event, at most what a call of the gate takes: the caller tells the gate."""
        settled = self._settled.pop(event_id, [])
        if len(settled) > CALL_MAX:
            self._settled[event_id] = settled[CALL_MAX:]
            settled = settled[:CALL_MAX]
        self._waiting -= len(settled)
        return settled

    def give_back(self, reservations: Sequence[Reservation]) -> None:
        """These made no order."""
        for reservation in reservations:
            self._given_back[reservation.offer.basket.event_id].append(reservation.hold_key)
        if reservations:
            self._finish_soon()

    def settle_anew(self, event_id: UUID, settled: Sequence[Reservation]) -> None:
        """The gate's content was replaced, or is about to be: what was settled is looked up once it is loaded."""
        self._outdated[event_id] += _keyed(settled)
        self.load_later(event_id)

    def load_later(self, event_id: UUID) -> None:
        """The gate does not know what it should: it is loaded, unless another process has done so by then."""
        self._sales.drop(event_id)
        if event_id not in self._loading:
            self._loading[event_id] = asyncio.create_task(self._load(event_id), name="gate load")

    async def get_ready(self, event_id: UUID) -> None:
        """Loads the gate unless it is open, in this process or another. Raises GateAway."""
        state = await self._gate.state(event_id)
        if state is None or not state.is_open:
            self.load_later(event_id)
            await asyncio.wait([self._loading[event_id]])

    async def drain(self) -> None:
        """Tells the gate what it has not been told, and waits for loads under way."""
        if self._finishing is not None:
            await asyncio.wait([self._finishing])
        for task in list(self._loading.values()):
            await asyncio.wait([task])

    def _finish_soon(self) -> None:
        if self._finishing is None:
            self._finishing = asyncio.create_task(self._finish(), name="gate finish")

    async def _finish(self) -> None:
        try:
            while self._is_gate_busy() and not self._given_back:
                await asyncio.sleep(_BUSY_SECONDS)
            for event_id in {*self._settled, *self._given_back}:
                while settled := self.take_settled(event_id):
                    await self._finish_of(event_id, settled, [])
                await self._finish_of(event_id, [], self._given_back.pop(event_id, []))
        finally:
            self._finishing = None

    async def _finish_of(self, event_id: UUID, settled: Sequence[Reservation], given_back: Sequence[str]) -> None:
        try:
            sale = await self._sales.get(event_id)
            if sale is not None and (settled or given_back):
                # No tombstones: the same key may hold tickets for another request of its buyer at any moment.
                await self._gate.finish(
                    event_id, sale.epoch, settle=_keyed(settled), release=given_back, leave_tombstones=False
                )
        except GateStale:
            self.settle_anew(event_id, settled)
        except (GateAway, Busy, *AWAY) as error:
            _log.info("gate not told", event_id=str(event_id), error=type(error).__name__, orders=len(settled))

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


def _keyed(reservations: Sequence[Reservation]) -> list[Keyed]:
    return [
        (one.hold_key, hold_of(one.user_id, one.offer.basket.tier_ids, one.offer.basket.quantities))
        for one in reservations
    ]
