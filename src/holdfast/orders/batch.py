"""Self-clocking micro-batches: group commit in the application.

One batch is under way; the next forms while it runs. There is no timer, so an idle system answers at once and a busy
one batches more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from holdfast.errors import Busy

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

_log = structlog.get_logger(__name__)


class Batcher(Generic[Ask, Answer]):
    """Collects asks and runs them together, at most `size_max` at a time and `waiting_max` in all.

    `run` answers each ask of its batch, in order; an exception among the answers goes to that ask alone, and an ask
    that is answered with another batcher goes on to that one. A batch runs in a task of its own that nothing cancels:
    not a client that leaves, not a deadline. When it has not answered after `seconds_max`, its buyers are told to
    retry, and everyone is turned away until it ends.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Ask]], Awaitable[Sequence["Answer | BaseException | Batcher[Ask, Answer]"]]],
        *,
        size_max: int,
        waiting_max: int,
        seconds_max: float,
    ) -> None:
        self.name = name
        self.is_stalled = False
        self._run = run
        self._size_max = size_max
        self._waiting_max = waiting_max
        self._seconds_max = seconds_max
        self._queue: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self._under_way: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, ask: Ask) -> "asyncio.Future[Answer]":
        """The answer to come. Raises Busy, before any work, when the queue is full."""
        if self.is_stalled or self.waiting >= self._waiting_max:
            raise Busy("Too many are waiting.")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._accept(ask, future)
        return future

    @property
    def waiting(self) -> int:
        """Asks that are queued or under way."""
        return len(self._queue) + len(self._under_way)

    async def drain(self) -> None:
        """Waits until everything submitted is answered."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _accept(self, ask: Ask, future: "asyncio.Future[Answer]") -> None:
        self._queue.append((ask, future))
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name=f"batch {self.name}")

    async def _work(self) -> None:
        deadline = asyncio.get_running_loop().call_later
        try:
            while self._queue:
                self._under_way, self._queue = self._queue[: self._size_max], self._queue[self._size_max :]
                late = deadline(self._seconds_max, self._abandon_waiters)
                answers = await self._answers()
                late.cancel()
                self.is_stalled = False
                self._hand_out(answers)
                self._under_way = []
        finally:
            self._task = None

    async def _answers(self) -> Sequence["Answer | BaseException | Batcher[Ask, Answer]"]:
        try:
            return await self._run([ask for ask, _ in self._under_way])
        except Exception as error:
            if not isinstance(error, Busy):
                _log.error("batch failed", batch=self.name, exc_info=error)
            return [error] * len(self._under_way)

    def _abandon_waiters(self) -> None:
        _log.warning("batch stalled", batch=self.name, waiting=self.waiting)
        self.is_stalled = True
        for _, future in self._under_way + self._queue:
            if not future.done():
                future.set_exception(Busy("The outcome is not known yet: try again with the same key."))
        self._queue = []

    def _hand_out(self, answers: Sequence["Answer | BaseException | Batcher[Ask, Answer]"]) -> None:
        for (ask, future), answer in zip(self._under_way, answers, strict=True):
            if isinstance(answer, Batcher):
                # Also for a buyer who has left: what was begun for them is brought to its end.
                answer._accept(ask, future)
            elif future.done():
                continue
            elif isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
