"""The buyers of a drill: on time, with one key for all tries, and honest about what they were told."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from holdfast import ids
from holdfast.drill.buyers.figures import Figures, figures
from holdfast.drill.buyers.load import Booth, Load, Pace
from holdfast.drill.buyers.record import Attempt, Manner, Mark, Purchase, Record
from holdfast.rush.http_client import Client

Answer = tuple[int, dict[str, object]]
Answers = Callable[[str, str, int], Awaitable[Answer | None]]
"""(path, key, how often this key was seen) -> the answer; None: hang up."""


class Stall(NamedTuple):
    """A server that answers as it is told, and buyers in front of it."""

    load: Load
    record: Record
    seen: Counter[tuple[str, str]]
    """(path, key) -> how often."""

    async def buy(self, manner: Manner = "buy", sale: int = 0) -> Purchase:
        """One purchase to its end."""
        purchase = self.load.purchase(sale, manner)
        await self.load.begin(purchase)
        await self.load.rest()
        return purchase


def made(status: str = "reserved", order: str | None = None) -> dict[str, object]:
    """An order as the servers show it."""
    tickets = [{"id": ids.encode(ids.TICKET, ids.new_id()), "tier_id": "t"}] if status == "confirmed" else []
    return {"id": order or ids.encode(ids.ORDER, ids.new_id()), "status": status, "tickets": tickets}


async def well(path: str, key: str, number: int) -> Answer | None:
    """A server at which everything works."""
    if path.endswith("/create"):
        return 201, made()
    if path.startswith("/orders/ord_"):
        status = {"confirm": "confirmed", "cancel": "cancelled"}.get(path.rpartition("/")[2], "confirmed")
        return 200, made(status, path.split("/")[2])
    return 200, {}


@asynccontextmanager
async def stall(
    folder: Path, answers: Answers, seconds_max: float = 10, rate: float = 100, answer_seconds: float = 5
) -> AsyncIterator[Stall]:
    """The stage of these tests."""
    seen: Counter[tuple[str, str]] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                await reader.readexactly(int(fields.get("content-length", 0)))
                path, key = head.split()[1], fields.get("idempotency-key", "")
                seen[path, key] += 1
                answer = await answers(path, key, seen[path, key])
                if answer is None:
                    return
                body = json.dumps(answer[1]).encode()
                later = "Retry-After: 0\r\n" if answer[0] == 503 else ""
                writer.write(f"HTTP/1.1 {answer[0]} -\r\n{later}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client(urlsplit(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 100, answer_seconds)
    booths = [Booth(ids.new_id(), b"{}", 1.0), Booth(ids.new_id(), b"{}", 0.0, sells_out=True)]
    try:
        with Record(folder / "record.jsonl") as record:
            yield Stall(Load(client, record, booths, str, Pace(rate, seconds_max)), record, seen)
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(("manner", "steps"), [("buy", 2), ("cancel", 2), ("abandon", 1)])
async def test_each_manner_takes_its_steps(tmp_path: Path, manner: Manner, steps: int) -> None:
    async with stall(tmp_path, well) as here:
        purchase = await here.buy(manner)
        assert (purchase.is_confirmed, purchase.is_cancelled) == (manner == "buy", manner == "cancel")
        assert len(purchase.orders) == 1
        assert len(purchase.tickets) == (manner == "buy")
        assert purchase.failed == purchase.refused == ""
        bought = [one for one in here.record.attempts if one.step != "read"]
        assert [one.status for one in bought] == [201, 200][:steps]


@pytest.mark.parametrize(
    "first", [(503, {"code": "busy"}), (500, {}), (409, {"code": "idempotency_key_in_flight"}), None]
)
async def test_what_is_not_definite_is_asked_again_with_the_same_key(tmp_path: Path, first: Answer | None) -> None:
    async def once(path: str, key: str, number: int) -> Answer | None:
        return first if number == 1 and path.endswith("/create") else await well(path, key, number)

    async with stall(tmp_path, once) as here:
        purchase = await here.buy()
        assert purchase.is_confirmed
        assert here.seen["/orders/create", purchase.key] == 2
        assert [one.number for one in here.record.attempts if one.step == "create"] == [1, 2]


async def test_a_pending_payment_is_asked_for_again(tmp_path: Path) -> None:
    async def pending(path: str, key: str, number: int) -> Answer | None:
        return (202, made()) if number == 1 and path.endswith("/confirm") else await well(path, key, number)

    async with stall(tmp_path, pending) as here:
        assert (await here.buy()).is_confirmed


async def test_silence_is_no_answer(tmp_path: Path) -> None:
    async def silent_once(path: str, key: str, number: int) -> Answer | None:
        if number == 1:
            await asyncio.sleep(60)
        return await well(path, key, number)

    async with stall(tmp_path, silent_once, answer_seconds=0.2) as here:
        assert (await here.buy("abandon")).orders
        assert [(one.status, one.said) for one in here.record.attempts] == [(0, "no answer in time"), (201, "")]


async def test_a_purchase_fails_when_its_time_is_over(tmp_path: Path) -> None:
    async def busy(path: str, key: str, number: int) -> Answer | None:
        return 503, {"code": "busy"}

    async with stall(tmp_path, busy, seconds_max=0.5) as here:
        purchase = await here.buy()
        assert purchase.failed == "no definite answer to create (busy)"
        assert here.seen["/orders/create", purchase.key] > 1


@pytest.mark.parametrize(("sale", "failed"), [(0, "refused: sold_out"), (1, "")])
async def test_sold_out_is_right_only_where_it_can_be(tmp_path: Path, sale: int, failed: str) -> None:
    async def sold_out(path: str, key: str, number: int) -> Answer | None:
        return 409, {"code": "sold_out"}

    async with stall(tmp_path, sold_out) as here:
        purchase = await here.buy(sale=sale)
        assert (purchase.refused, purchase.failed) == ("sold_out", failed)


async def test_two_orders_under_one_key_are_both_noted(tmp_path: Path) -> None:
    async def another(path: str, key: str, number: int) -> Answer | None:
        return (200, made("confirmed")) if path.endswith("/confirm") else await well(path, key, number)

    async with stall(tmp_path, another) as here:
        assert len((await here.buy()).orders) == 2


async def test_a_confirm_that_does_not_confirm_has_failed(tmp_path: Path) -> None:
    async def cancelled(path: str, key: str, number: int) -> Answer | None:
        return (200, made("cancelled")) if path.endswith("/confirm") else await well(path, key, number)

    async with stall(tmp_path, cancelled) as here:
        assert (await here.buy()).failed == "after confirm the order is cancelled"


async def test_buyers_come_on_time_though_nobody_is_served(tmp_path: Path) -> None:
    """An open loop: the latency of those who waited counts from when they came, not from when they were heard."""
    open_again = asyncio.Event()

    async def later(path: str, key: str, number: int) -> Answer | None:
        await open_again.wait()
        return await well(path, key, number)

    async with stall(tmp_path, later) as here:
        stop = asyncio.Event()
        coming = asyncio.create_task(here.load.run(stop))
        async with asyncio.timeout(30):
            while len(here.record.purchases) < 60:
                await asyncio.sleep(0.01)
        open_again.set()
        stop.set()
        await coming
        purchases = here.record.purchases
        assert all(one.failed == "" for one in purchases)
        assert purchases[59].intended_at == pytest.approx(purchases[0].intended_at + 0.59)
        first = purchases[0].latency_seconds
        assert first is not None
        assert first >= 0.59
        assert len({one.user_id for one in purchases}) == len({one.key for one in purchases}) == len(purchases)


async def test_a_reader_who_sees_the_past_is_noted(tmp_path: Path) -> None:
    async def lagging(path: str, key: str, number: int) -> Answer | None:
        is_read = path.startswith("/orders/ord_") and path.count("/") == 2
        return (200, made("reserved")) if is_read else await well(path, key, number)

    async with stall(tmp_path, lagging) as here:
        assert (await here.buy()).is_confirmed
        assert [(one.step, one.is_stale) for one in here.record.errands] == [("read", True)]


def judged(folder: Path, answered: list[float], marks: list[float], ended_at: float) -> Figures:
    """The figures of a record with successes at these moments, each 0.1 s after it was asked for."""
    record = Record(folder / "none")
    for number, at in enumerate(answered):
        user = ids.new_id()
        record.purchases.append(
            Purchase(
                number=number, intended_at=at - 0.1, sale=0, user_id=user, key="key", manner="abandon",
                ended_at=at, reserved_at=at,
            )
        )  # fmt: skip
        record.attempts.append(Attempt(number, "create", 1, at - 0.1, at, 201, "", "ord"))
    record.marks += [Mark(at, "something") for at in marks]
    return figures(record, [0], 0, ended_at)


def test_an_interruption_is_the_longest_time_without_success(tmp_path: Path) -> None:
    steady = [number / 10 for number in range(1, 101)]
    assert judged(tmp_path, steady, [], 10).interruption_seconds == pytest.approx(0.1)
    gap = [at for at in steady if not 4 < at < 7]
    found = judged(tmp_path, gap, [4.05, 8], 10)
    assert found.interruption_seconds == pytest.approx(3.0)
    assert found.resumed_seconds == pytest.approx(7.1 - 4.05, abs=0.11)
    assert found.before.purchases + found.during.purchases + found.after.purchases == len(gap)
    assert judged(tmp_path, [1.0], [], 10).interruption_seconds == pytest.approx(9.0), "it never came back"
    assert judged(tmp_path, [], [], 10).interruption_seconds == 10


def test_who_needed_a_second_try_was_disturbed(tmp_path: Path) -> None:
    record = Record(tmp_path / "none")
    for number in range(3):
        record.purchases.append(
            Purchase(
                number=number, intended_at=number, sale=0, user_id=ids.new_id(), key="key", manner="buy",
                ended_at=number + (2.5 if number == 1 else 0.1),
            )
        )  # fmt: skip
    record.attempts.append(Attempt(0, "create", 1, 0, 0.1, 503, "busy", ""))
    found = figures(record, [0], 0, 3)
    assert (found.disturbed_seconds, found.slow_purchases, found.failed_attempts) == (1, 1, 1)
    assert found.statuses == {"create 503 busy": 1}
