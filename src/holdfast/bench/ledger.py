"""What the client was told about the orders of one case, over all of its runs, measured or not."""

from collections import Counter
from typing import NamedTuple
from uuid import UUID

from holdfast import ids
from holdfast.bench.client.load import Outcome
from holdfast.bench.crowd import Crowd, Sale

_NO_ANSWER = {-1: "broke", -2: "timed out"}
_UNSENT = 0


class Drive(NamedTuple):
    """What the client sends, and which answers are right."""

    templates: list[str]
    """Request i is made from template i mod count, and is about sale i mod count."""
    crowd: Crowd
    sales: list[Sale]
    answers: dict[tuple[int, int], str | None]
    """(stage, status) of the right answers -> what such an answer promises of its order: made (its hold may end),
    reserved, confirmed, cancelled, or nothing. The last one is what the case's rate counts."""
    then: str | None = None

    @property
    def counted(self) -> tuple[int, int]:
        """The stage and status that the rate counts."""
        return list(self.answers)[-1]


class Made(NamedTuple):
    """Whose order it is, and of which event."""

    event_id: UUID
    user_id: UUID


class Ledger:
    """The promises. `orders` has every order that was acknowledged, with what was said of it last."""

    def __init__(self) -> None:
        self.sales: list[Sale] = []
        self.orders: dict[UUID, tuple[Made, str]] = {}
        self.unknown = 0
        """Requests whose outcome the client does not know: each may have made or moved an order."""
        self.findings: list[str] = []

    def note(self, drive: Drive, outcome: Outcome) -> None:
        """Takes in what one run was told."""
        for (stage, status), promise in drive.answers.items():
            if promise is not None:
                self._promise(drive, outcome.ids(stage, status), promise)
        for stage in range(2 if drive.then else 1):
            statuses = outcome.statuses(stage)
            if any(drive.answers.values()):
                self.unknown += sum(statuses[status] for status in _NO_ANSWER)
            self._unexpected(drive, stage, statuses)

    def _promise(self, drive: Drive, acknowledged: list[tuple[int, str]], promise: str) -> None:
        # The client goes through templates and lines in step, so that a line tells the sale: see Crowd and Drive.
        made_of = [
            Made(drive.sales[line % len(drive.sales)].event_id, user_id)
            for line, user_id in enumerate(drive.crowd.users)
        ]
        twice = unreadable = unheard = 0
        for line, text in acknowledged:
            order_id = ids.decode(ids.ORDER, text)
            if order_id is None:
                unreadable += 1
                continue
            if promise in ("made", "reserved"):
                twice += order_id in self.orders
                self.orders[order_id] = made_of[line], promise
            elif order_id in self.orders:
                self.orders[order_id] = self.orders[order_id][0], promise
            else:
                unheard += 1
        self._find(unreadable, "answers without an order's id")
        self._find(twice, "orders acknowledged twice as new")
        self._find(unheard, f"orders {promise} that nobody had made")

    def _unexpected(self, drive: Drive, stage: int, statuses: Counter[int]) -> None:
        for status, count in sorted(statuses.items()):
            if (stage, status) in drive.answers:
                continue
            if status == _UNSENT:
                self._find(count, "requests not sent in time")
            elif status in _NO_ANSWER:
                self._find(count, f"requests without an answer (the connection {_NO_ANSWER[status]})")
            else:
                self._find(count, f"answers {status}")

    def _find(self, count: int, what: str) -> None:
        if count:
            self.findings.append(f"{count:,} {what}")
