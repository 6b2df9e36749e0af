"""Self-clocking micro-batches: group commit in the application.

One batch is under way; the next forms while it runs. There is no timer, so an idle system answers at once and a busy
one batches more.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Generic, TypeVar

import structlog

from holdfast.errors import Busy

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

_log = structlog.get_logger(__name__)


class Batcher(Generic[Ask, Answer]):
    """Collects asks and runs them together, at most `size_max` at a time and `waiting_max` in all.

    `run` answers each ask of its batch, in order; an exception among the answers goes to that ask alone. A batch is a
    task of its own that nothing cancels: not a client that leaves, not a deadline. When it has not answered after
    `seconds_max`, its buyers are told to retry, and everyone is turned away until it ends.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[Ask]], Coroutine[None, None, Sequence[Answer | BaseException]]],
        *,
        size_max: int,
        waiting_max: int,
        seconds_max: float,
    ) -> None:
        self.name = name
        self._run = run
        self._size_max = size_max
        self._waiting_max = waiting_max
        self._seconds_max = seconds_max
        self._queue: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self._under_way: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None
        self._stalled = False

    def submit(self, ask: Ask) -> "asyncio.Future[Answer]":
        """The answer to come. Raises Busy, before any work, when the queue is full."""
        if self._stalled or len(self._queue) + len(self._under_way) >= self._waiting_max:
            raise Busy("Too many are waiting.")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((ask, future))
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name=f"batch {self.name}")
        return future

    @property
    def waiting(self) -> int:
        """Asks that are queued or under way."""
        return len(self._queue) + len(self._under_way)

    async def drain(self) -> None:
        """Waits until everything submitted is answered."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        try:
            while self._queue:
                self._under_way, self._queue = self._queue[: self._size_max], self._queue[self._size_max :]
                coroutine = self._run([ask for ask, _ in self._under_way])
                batch = asyncio.get_running_loop().create_task(coroutine, name=f"batch {self.name}")
                done, _ = await asyncio.wait([batch], timeout=self._seconds_max)
                if not done:
                    self._abandon_waiters()
                    await asyncio.wait([batch])
                    self._stalled = False
                self._answer(batch)
                self._under_way = []
        finally:
            self._task = None

    def _abandon_waiters(self) -> None:
        _log.warning("batch stalled", batch=self.name, waiting=self.waiting)
        self._stalled = True
        for _, future in self._under_way + self._queue:
            if not future.done():
                future.set_exception(Busy("The outcome is not known yet: try again with the same key."))
        self._queue = []

    def _answer(self, batch: "asyncio.Future[Sequence[Answer | BaseException]]") -> None:
        error = batch.exception()
        answers: Sequence[Answer | BaseException] = batch.result() if error is None else [error] * len(self._under_way)
        if error is not None and not isinstance(error, Busy):
            _log.error("batch failed", batch=self.name, exc_info=error)
        for (_, future), answer in zip(self._under_way, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
