"""Micro-batches clock themselves, are bounded, and a commit in one is never cancelled."""

import asyncio
import time
from functools import partial

import pytest

from holdfast.errors import Busy, refuse
from holdfast.orders.batch import Batcher


class Bench:
    """A batch function that waits until it is let go, and writes down what it was given."""

    def __init__(
        self,
        *,
        size_max: int = 4,
        waiting_max: int = 8,
        seconds_max: float = 5.0,
        wait_seconds_max: float | None = None,
        takes_seconds: float = 0.0,
        apart_seconds: float = 0.0,
    ) -> None:
        self.batches: list[list[int]] = []
        self.cancelled = False
        self.go = asyncio.Event()
        self.go.set()
        self.batcher: Batcher[int, int] = Batcher(
            "bench",
            self.run,
            size_max=size_max,
            waiting_max=waiting_max,
            seconds_max=seconds_max,
            wait_seconds_max=wait_seconds_max,
            apart_seconds=apart_seconds,
        )
        self.takes_seconds = takes_seconds

    async def run(self, batch: list[int]) -> list[int | BaseException]:
        self.batches.append(batch)
        try:
            await self.go.wait()
            await asyncio.sleep(self.takes_seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return [refuse("sold_out") if ask < 0 else ask * 10 for ask in batch]


async def test_an_idle_one_answers_at_once_and_a_busy_one_batches() -> None:
    bench = Bench()
    answers = await asyncio.gather(*(bench.batcher.submit(ask) for ask in range(6)))
    assert answers == [0, 10, 20, 30, 40, 50]
    assert bench.batches == [[0, 1, 2, 3], [4, 5]]
    assert bench.batcher.waiting == 0


async def test_batches_begin_apart_and_one_that_finds_it_idle_does_not_wait() -> None:
    bench = Bench(size_max=100, apart_seconds=0.3)
    began = time.monotonic()
    assert await bench.batcher.submit(1) == 10
    assert time.monotonic() - began < 0.2, "the first is not kept waiting"
    assert [*await asyncio.gather(bench.batcher.submit(2), bench.batcher.submit(3))] == [20, 30]
    assert time.monotonic() - began >= 0.3
    assert bench.batches == [[1], [2, 3]]
    await bench.batcher.drain()
    await asyncio.sleep(0.35)
    began = time.monotonic()
    assert await bench.batcher.submit(4) == 40
    assert time.monotonic() - began < 0.2


async def test_one_bad_ask_fails_alone() -> None:
    bench = Bench()
    answers = await asyncio.gather(*(bench.batcher.submit(ask) for ask in (1, -1, 2)), return_exceptions=True)
    assert [answers[0], answers[2]] == [10, 20]
    assert "sold_out" in str(answers[1])


async def test_a_full_queue_turns_away_before_any_work() -> None:
    bench = Bench()
    bench.go.clear()
    waiting = [bench.batcher.submit(ask) for ask in range(8)]
    with pytest.raises(Busy):
        bench.batcher.submit(8)
    bench.go.set()
    assert await asyncio.gather(*waiting) == [ask * 10 for ask in range(8)]
    assert await bench.batcher.submit(9) == 90


async def test_while_somebody_waits_too_long_others_are_turned_away() -> None:
    bench = Bench(waiting_max=100, wait_seconds_max=0.2)
    bench.go.clear()
    waiting = [bench.batcher.submit(1)]
    await asyncio.sleep(0)
    waiting.append(bench.batcher.submit(2))
    await asyncio.sleep(0.25)
    with pytest.raises(Busy):
        bench.batcher.submit(3)
    bench.go.set()
    assert await asyncio.gather(*waiting) == [10, 20]
    assert await bench.batcher.submit(4) == 40
    await asyncio.sleep(0.25)
    assert await asyncio.gather(*(bench.batcher.submit(ask) for ask in range(9))) == [ask * 10 for ask in range(9)]


async def test_in_a_flood_whoever_is_let_in_is_served_soon_and_a_burst_is_served_whole() -> None:
    bench = Bench(size_max=10, waiting_max=10_000, wait_seconds_max=1.0, takes_seconds=0.01)
    loop, turned_away = asyncio.get_running_loop(), 0
    waits: list[tuple[float, float]] = []

    def note(came: float, _: object) -> None:
        waits.append((came, loop.time() - came))

    burst = [bench.batcher.submit(ask) for ask in range(500)]
    assert len(await asyncio.gather(*burst)) == 500
    # Three times as many as can be served, for four seconds.
    begun, sent = loop.time(), 0
    while (now := loop.time()) < begun + 4:
        while sent < (now - begun) * 3000:
            sent += 1
            try:
                reply = bench.batcher.submit(sent)
            except Busy:
                turned_away += 1
                continue
            reply.when_done(partial(note, loop.time()))
        await asyncio.sleep(0.005)
    await bench.batcher.drain()
    late = [seconds for came, seconds in waits if came > begun + 3]
    assert late, "it goes on serving"
    assert max(late) < 0.5
    assert turned_away > sent / 3
    assert await bench.batcher.submit(1) == 10, "and all are welcome afterwards"


async def test_a_buyer_who_leaves_does_not_cancel_the_batch() -> None:
    bench = Bench()
    bench.go.clear()
    leaving, staying = asyncio.ensure_future(bench.batcher.submit(1)), bench.batcher.submit(2)
    await asyncio.sleep(0)
    leaving.cancel()
    bench.go.set()
    assert await staying == 20
    assert bench.batches == [[1, 2]]
    assert not bench.cancelled


async def test_a_deadline_abandons_the_waiter_and_never_the_batch() -> None:
    bench = Bench(seconds_max=0.05)
    bench.go.clear()
    under_way, queued = bench.batcher.submit(1), None
    await asyncio.sleep(0)
    queued = bench.batcher.submit(2)
    for future in (under_way, queued):
        with pytest.raises(Busy, match="same key"):
            await future
    with pytest.raises(Busy):
        bench.batcher.submit(3)
    bench.go.set()
    await bench.batcher.drain()
    assert not bench.cancelled
    assert bench.batches == [[1]], "what was queued was turned away and is not run behind its buyer's back"
    assert await bench.batcher.submit(4) == 40


async def test_drain_waits_for_what_is_under_way() -> None:
    bench = Bench()
    bench.go.clear()
    waiting = [bench.batcher.submit(ask) for ask in range(6)]
    draining = asyncio.create_task(bench.batcher.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    bench.go.set()
    await draining
    assert all(reply.done for reply in waiting)
