"""Self-clocking micro-batches: group commit in the application.

One batch is under way; the next forms while it runs. There is no timer, so an idle system answers at once and a busy
one batches more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Generic, TypeAlias, TypeVar

import structlog

from holdfast.clock import monotonic_seconds
from holdfast.errors import Busy

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

_STANDING_SECONDS = 1.0
"""So long may there be more in the queue than one batch takes; then it is kept short."""
_SHORT_SECONDS = 0.1
"""How long an ask may have to wait then, unless the next batch can have it."""

_log = structlog.get_logger(__name__)


class Reply(Generic[Answer]):
    """The answer to come of one ask, for one who waits: a future whose callback is called on the spot, since a turn of
    the event loop for each of thousands of answers is too much."""

    __slots__ = ("_answer", "_callback", "_error", "done")

    def __init__(self) -> None:
        self.done = False
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._callback: Callable[[Reply[Answer]], None] | None = None

    def when_done(self, callback: "Callable[[Reply[Answer]], None]") -> None:
        """Has it called once with this reply: when it is done, or now if it is."""
        assert self._callback is None, "a reply has one who waits"
        if self.done:
            callback(self)
        else:
            self._callback = callback

    def settle(self, answer: "Answer | BaseException") -> None:
        """Gives the answer, or the exception, unless there is one already."""
        if self.done:
            return
        self.done = True
        if isinstance(answer, BaseException):
            self._error = answer
        else:
            self._answer = answer
        if self._callback is not None:
            self._callback(self)

    def result(self) -> Answer:
        """The answer. Raises the exception."""
        assert self.done
        if self._error is not None:
            raise self._error
        return self._answer  # type: ignore[return-value]  # None only where that is an answer

    def __await__(self) -> Generator[object, None, Answer]:
        if not self.done:
            woken = asyncio.get_running_loop().create_future()
            self.when_done(lambda _: None if woken.done() else woken.set_result(None))
            yield from woken
        return self.result()


class Batcher(Generic[Ask, Answer]):
    """Collects asks and runs them together, at most `size_max` at a time and `waiting_max` in all.

    Who would have to wait for more than `wait_seconds_max`, as things go, is turned away before any work, and for much
    less where the queue stays long. So a burst is served, and in a flood whoever is let in is served soon, while the
    others hear at once that they are to come again.

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
        wait_seconds_max: float | None = None,
        apart_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.is_stalled = False
        self._run = run
        self._size_max = size_max
        self._waiting_max = waiting_max
        self._seconds_max = seconds_max
        self._wait_seconds_max = wait_seconds_max
        self._apart_seconds = apart_seconds
        self._batch_seconds = 0.0
        """How long the last batch took."""
        self._began = 0.0
        """When the batch began that is under way."""
        self._long_since: float | None = None
        """Since when each batch has left some of the queue behind."""
        self._queue: list[_Asked[Ask, Answer]] = []
        self._under_way: list[_Asked[Ask, Answer]] = []
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None

    def submit(self, ask: Ask) -> Reply[Answer]:
        """The answer to come. Raises Busy, before any work, when too many wait, or for too long."""
        if self.is_stalled or self._waiting >= self._waiting_max or self._is_wait_long():
            raise Busy("Too many are waiting.")
        reply: Reply[Answer] = Reply()
        self._accept(ask, reply)
        return reply

    async def rehearse(self) -> None:
        """Runs a batch of nothing, unless one is under way: its connection is open then, its statements are known."""
        if self._task is None:
            self._start()
            await self.drain()

    @property
    def waiting(self) -> int:
        """Asks that are queued or under way."""
        return self._waiting

    async def drain(self) -> None:
        """Waits until everything submitted is answered."""
        while self._task is not None:
            await asyncio.wait([self._task])

    def _accept(self, ask: Ask, reply: Reply[Answer]) -> None:
        self._waiting += 1
        self._queue.append((ask, reply))
        if self._task is None:
            self._start()

    def _start(self) -> None:
        self._began = monotonic_seconds()
        self._task = asyncio.create_task(self._work(), name=f"batch {self.name}")

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._under_way, self._queue = self._queue[: self._size_max], self._queue[self._size_max :]
                self._began = monotonic_seconds()
                if not self._queue:
                    self._long_since = None
                elif self._long_since is None:
                    self._long_since = self._began
                late = loop.call_later(self._seconds_max, self._abandon_waiters)
                answers = await self._answers()
                late.cancel()
                self._batch_seconds = monotonic_seconds() - self._began
                self.is_stalled = False
                answered = self._pass_on(answers)
                self._under_way = []
                if self._queue:
                    # The next batch goes out first: the answers are written while it is under way.
                    loop.call_soon(_settle, answered)
                else:
                    _settle(answered)
                rest = self._began + self._apart_seconds - monotonic_seconds()
                if rest > 0:
                    await asyncio.sleep(rest)
                if not self._queue:
                    return
        finally:
            self._task = None

    def _is_wait_long(self) -> bool:
        """Whether one who comes now would have to wait too long, if each batch takes as long as the last one."""
        if self._wait_seconds_max is None or self._task is None:
            return False
        now = monotonic_seconds()
        batches = 1 + len(self._queue) // self._size_max
        seconds = batches * max(self._batch_seconds, now - self._began)
        if batches > 1 and self._long_since is not None and now - self._long_since > _STANDING_SECONDS:
            return seconds > min(_SHORT_SECONDS, self._wait_seconds_max)
        return seconds > self._wait_seconds_max

    async def _answers(self) -> "Sequence[_Step[Answer, Ask]]":
        try:
            return await self._run([ask for ask, _ in self._under_way])
        except Exception as error:
            if not isinstance(error, Busy):
                _log.error("batch failed", batch=self.name, exc_info=error)
            return [error] * len(self._under_way)

    def _abandon_waiters(self) -> None:
        _log.warning("batch stalled", batch=self.name, waiting=self.waiting)
        self.is_stalled = True
        abandoned = self._under_way + self._queue
        self._waiting -= len(self._queue)
        self._queue = []
        for _, reply in abandoned:
            reply.settle(Busy("The outcome is not known yet: try again with the same key."))

    def _pass_on(self, answers: "Sequence[_Step[Answer, Ask]]") -> list[tuple[Reply[Answer], Answer | BaseException]]:
        """Sends asks on to the batchers that they were answered with; returns the others with their answers."""
        self._waiting -= len(answers)
        answered = []
        for (ask, reply), answer in zip(self._under_way, answers, strict=True):
            if isinstance(answer, Batcher):
                # Also for a buyer who has left: what was begun for them is brought to its end.
                answer._accept(ask, reply)
            else:
                answered.append((reply, answer))
        return answered


_Asked: TypeAlias = tuple[Ask, Reply[Answer]]
_Step: TypeAlias = Answer | BaseException | Batcher[Ask, Answer]


def _settle(answered: Sequence[tuple[Reply[Answer], Answer | BaseException]]) -> None:
    for reply, answer in answered:
        reply.settle(answer)
