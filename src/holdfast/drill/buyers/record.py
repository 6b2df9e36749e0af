"""What the buyers asked and were told: every request and answer, in memory for the audit and in a file for people.

It is the buyers' side of the audit, so it believes answers alone and never looks into an engine. Times are seconds
since the record began.
"""

from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeAlias
from uuid import UUID

import msgspec

from holdfast import clock

Step: TypeAlias = Literal["create", "confirm", "cancel", "browse", "read", "log in"]
Manner: TypeAlias = Literal["buy", "cancel", "abandon"]
"""How a purchase ends if all goes well: paid for, cancelled, or left to run out."""

UNANSWERED = 0
"""The status of a request that no answer came to: what the servers did is unknown."""


class Attempt(NamedTuple):
    """One request and its answer."""

    purchase: int
    step: Step
    number: int
    """1 for the first time that the step was asked for."""
    sent_at: float
    answered_at: float
    status: int
    said: str
    """The problem's code, or why no answer came; empty where the step was done."""
    order: str
    """The order's id, where the answer has one."""


class Purchase(msgspec.Struct, kw_only=True):
    """One buyer's one purchase."""

    number: int
    intended_at: float
    """When it was to begin: what is late counts from here."""
    sale: int
    """Which of the record's sales."""
    user_id: UUID
    key: str
    """The Idempotency-Key of its create; those of confirm and cancel are made from it."""
    manner: Manner
    orders: list[UUID] = []
    """The orders that were acknowledged under its key: one, or there are two for one purchase."""
    tickets: list[UUID] = []
    """Those that the confirmed order was shown with."""
    is_confirmed: bool = False
    is_cancelled: bool = False
    reserved_at: float | None = None
    """When the order was acknowledged."""
    ended_at: float | None = None
    """When its last answer came; None while it is under way."""
    refused: str = ""
    """The code of the definite refusal that ended it."""
    failed: str = ""
    """Why it failed; empty where its buyer has what they came for, or was rightly told that it is sold out."""

    @property
    def latency_seconds(self) -> float | None:
        """How long the buyer waited for the whole purchase; None where they did not get what they came for."""
        if self.failed or self.refused or self.ended_at is None:
            return None
        return self.ended_at - self.intended_at


class Errand(NamedTuple):
    """What a buyer does beside buying: looks at what is left, at the order just paid for, or logs in."""

    step: Step
    failed: str
    is_stale: bool
    """Whether a buyer was shown an order that was older than what they had been told."""


class Mark(NamedTuple):
    """Something that was done to the cluster."""

    at: float
    what: str


class Record:
    """One run's record. Entered before the first request, left after the last."""

    def __init__(self, file: Path) -> None:
        self.purchases: list[Purchase] = []
        self.attempts: list[Attempt] = []
        self.errands: list[Errand] = []
        self.marks: list[Mark] = []
        self._path = file
        self._began = clock.monotonic_seconds()

    def __enter__(self) -> Self:
        self._file = self._path.open("wb", buffering=1 << 16)
        self._began = clock.monotonic_seconds()
        self._write({"began": clock.rfc3339(clock.utc_now())})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for purchase in self.purchases:
            self._write({"purchase": purchase})
        self._file.close()

    def now(self) -> float:
        """Seconds since the record began."""
        return clock.monotonic_seconds() - self._began

    def moment(self, at: float) -> float:
        """That moment of this record, on the monotonic clock."""
        return self._began + at

    def attempt(self, made: Attempt) -> None:
        """A request was answered, or will not be."""
        self.attempts.append(made)
        self._write(made._asdict())

    def mark(self, what: str) -> None:
        """Something was done to the cluster now."""
        self.marks.append(Mark(self.now(), what))
        self._write({"at": round(self.marks[-1].at, 4), "mark": what})

    def _write(self, line: object) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
