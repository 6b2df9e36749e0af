"""The load client, against small servers that answer and stall.

Its figures are worth something only if every request leaves one line whatever its server did, and if the open loop
counts the time that a request had to wait before it could be sent.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from holdfast.bench.client.load import TIMED_OUT, UNSENT, Load, LoadClient, Outcome
from holdfast.errors import Mendable
from small_servers import GET, POST, React, accept, answer, drive, rows, served


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> LoadClient:
    return LoadClient(tmp_path_factory.mktemp("load"))


# What is sent


async def test_each_request_leaves_one_line(client: LoadClient) -> None:
    lines = [f"token-{number}" for number in range(7)]
    async with served(accept) as server:
        load = Load(url=server.url, templates=[POST, POST], connections=5, seconds=30, lines=lines, count=300)
        outcome = await drive(client, load)
    assert sorted(server.numbers()) == list(range(300))
    assert (outcome.sent, outcome.unsent, outcome.broken, outcome.timed_out) == (300, 0, 0, 0)
    assert outcome.statuses() == {201: 300}
    assert len(rows(outcome)) == 300
    assert Counter(outcome.ids()) == Counter((number % 7, "ord_1") for number in range(300))
    assert outcome.connections == len(server.connections) == 5
    assert outcome.seconds < 30  # it ended when its requests had
    assert outcome.rate() == pytest.approx(300 / outcome.seconds)


async def test_a_request_is_filled_in_and_framed(client: LoadClient) -> None:
    async with served(accept) as server:
        load = Load(url=server.url, templates=[POST, GET], connections=1, seconds=30, lines=["al", "bob"], count=4)
        await drive(client, load)
    first, second, third, _ = server.heads
    host = server.url.removeprefix("http://")
    assert first == (
        "POST /orders/create HTTP/1.1\r\nAuthorization: Bearer al\r\nIdempotency-Key: 0\r\n"
        f"Host: {host}\r\nContent-Length: 23\r\n\r\n"
    )
    assert server.bodies == ['{"n": "0", "who": "al"}', "", '{"n": "2", "who": "al"}', ""]
    assert second == f"GET /things?n=1 HTTP/1.1\r\nHost: {host}\r\n\r\n"
    assert "Bearer al" in third


async def test_both_line_endings_mean_the_same(client: LoadClient) -> None:
    async with served(accept) as server:
        for template in (POST, POST.replace("\n", "\r\n")):
            await drive(
                client, Load(url=server.url, templates=[template], connections=1, seconds=9, lines=["a"], count=1)
            )
    assert server.heads[0] == server.heads[1]
    assert server.bodies[0] == server.bodies[1]


async def test_an_address_is_no_placeholder(client: LoadClient) -> None:
    template = 'POST / HTTP/1.1\n\n{"email": "a@b.c", "other": "@d.e", "third": "@@"}'
    async with served(accept) as server:
        await drive(client, Load(url=server.url, templates=[template], connections=1, seconds=9, count=1))
    assert server.bodies == ['{"email": "a@b.c", "other": "@d.e", "third": "@@"}']


async def test_each_line_is_used_once(client: LoadClient, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("a\nb\nc")  # the last one without its end
    async with served(accept) as server:
        load = Load(url=server.url, templates=[POST], connections=2, seconds=30, lines=file, once=True)
        outcome = await drive(client, load)
    assert sorted(line for line, _ in outcome.ids()) == [0, 1, 2]


@pytest.mark.parametrize("rate", [None, 200.0])
async def test_what_follows_an_answer_goes_over_its_connection(client: LoadClient, rate: float | None) -> None:
    async def made_and_confirmed(head: str, body: str) -> bytes:
        if head.startswith("POST /orders/create"):
            return answer(201, f'{{"x": 1, "id": "ord_{body.split(chr(34))[3]}", "lines": [{{"id": "tir_1"}}]}}')
        return answer(200, f'{{"status": "confirmed", "id": "{head.split("/")[2]}"}}')

    then = "POST /orders/@id@/confirm HTTP/1.1\nAuthorization: Bearer @1@\nIdempotency-Key: c@n@\n\n{}"
    async with served(made_and_confirmed) as server:
        load = Load(url=server.url, templates=[POST], then=then, connections=3, seconds=9, lines=list("abcd"), count=40)
        outcome = await drive(client, replace(load, rate=rate))
    expected = {(number % 4, f"ord_{number}") for number in range(40)}
    assert (set(outcome.ids()), set(outcome.ids(1, 200))) == (expected, expected)
    assert (outcome.statuses(), outcome.statuses(1)) == ({201: 40}, {200: 40})
    assert sum("Idempotency-Key: c7\r\n" in head and "Bearer d" in head for head in server.heads) == 1
    assert len(server.connections) <= 3


async def test_what_can_follow_no_answer_is_unsent(client: LoadClient) -> None:
    async def nameless(head: str, body: str) -> bytes:
        return answer(201, '{"id":5}') if '"1"' in body else answer(409, '{"id":"ord_1"}')

    async with served(nameless) as server:
        load = Load(url=server.url, templates=[POST], then="GET /@id@ HTTP/1.1\n\n", connections=1, seconds=9, count=3)
        outcome = await drive(client, replace(load, lines=["a"]))
    assert (outcome.statuses(), outcome.statuses(1)) == ({201: 1, 409: 2}, {UNSENT: 1})
    assert outcome.ids() == [(0, "-")]


# What an open loop is for

STALL_SECONDS = 0.3


def stalls_at(number: int) -> React:
    """A server all of which stands still for a while when this request has come."""

    async def react(head: str, body: str) -> bytes:
        if f'"{number}"' in body:
            time.sleep(STALL_SECONDS)
        return answer()

    return react


async def test_every_request_due_in_a_stall_shows_its_waiting(client: LoadClient) -> None:
    async with served(stalls_at(40)) as server:
        load = Load(url=server.url, templates=[POST], connections=4, seconds=0.8, rate=200, lines=["a"])
        outcome = await drive(client, load)
    log = sorted((int(at), int(latency)) for _, _, latency, at, _, _ in rows(outcome))
    assert [at for at, _ in log] == [number * 5_000 for number in range(160)]  # whatever the server did
    over = 40 * 5_000 + round(STALL_SECONDS * 1_000_000)  # the stall cannot have been over before
    due_meanwhile = [(at, latency) for at, latency in log if 40 * 5_000 <= at < over]
    assert len(due_meanwhile) == 60
    assert all(latency >= over - at - 1 for at, latency in due_meanwhile)


async def test_the_closed_loop_hides_a_stall(client: LoadClient) -> None:
    """The negative control: the same stall is felt by no more requests than there are connections."""
    async with served(stalls_at(40)) as server:
        outcome = await drive(client, Load(url=server.url, templates=[POST], connections=4, seconds=0.8, lines=["a"]))
    felt = [latency for latency in outcome.latencies() if latency >= STALL_SECONDS * 1_000_000]
    assert 1 <= len(felt) <= 4
    assert outcome.sent > 100


async def test_connections_are_opened_as_they_are_needed(client: LoadClient) -> None:
    async def slowly(head: str, body: str) -> bytes:
        await asyncio.sleep(0.1)
        return answer()

    async with served(slowly) as server:
        outcome = await drive(client, Load(url=server.url, templates=[GET], connections=100, seconds=0.5, rate=100))
    assert outcome.statuses() == {201: 50}
    assert 8 <= outcome.connections == len(server.connections) < 50


async def test_what_finds_no_connection_is_unsent(client: LoadClient) -> None:
    async def never(head: str, body: str) -> bytes:
        await asyncio.sleep(5)
        return answer()

    async with served(never) as server:
        load = Load(url=server.url, templates=[GET], connections=2, seconds=0.2, rate=100, drain_seconds=0.2)
        outcome = await drive(client, load)
    assert outcome.statuses() == {TIMED_OUT: 2, UNSENT: 18}
    assert (outcome.sent, outcome.timed_out, outcome.unsent) == (2, 2, 18)
    assert outcome.percentile_ms(50) == 10_000.0  # what was not answered counts with the time-out


async def test_a_client_that_stood_still_says_so(client: LoadClient) -> None:
    """A machine may not let it run; here a signal does not."""
    async with served(accept) as server:
        running = asyncio.create_task(
            drive(client, Load(url=server.url, templates=[POST], connections=4, seconds=0.8, lines=["a"]))
        )
        while len(server.heads) < 20:
            await asyncio.sleep(0.01)
        [process] = [int(entry.name) for entry in Path("/proc").iterdir() if runs(entry, "load")]
        os.kill(process, signal.SIGSTOP)
        await asyncio.sleep(0.3)
        os.kill(process, signal.SIGCONT)
        outcome = await running
    assert outcome.late_max_ms >= 250


def runs(process: Path, program: str) -> bool:
    """Whether this entry of /proc is a child of ours that runs the program."""
    try:
        name, _, state = (process / "stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return False
    return name == program and state.split()[1] == str(os.getpid())


# What it refuses


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"templates": ["GET / HTTP/1.1\nX: @token@\n\n"]}, "@token@"),
        ({"templates": ["GET /@id@ HTTP/1.1\n\n"]}, "@id@"),
        ({"templates": ["GET / HTTP/1.1\n"]}, "begins no request"),
        ({"templates": ["HEAD / HTTP/1.1\n\n"]}, "begins no request"),
        ({"templates": ["POST / HTTP/1.1\ncontent-length: 2\n\n{}"]}, "leave that header out"),
        ({"templates": ["GET /@2@ HTTP/1.1\n\n"], "lines": ["a\tb", "c"]}, "Line 2 of .* has 1 of the 2 fields"),
        ({"templates": ["GET /@1@ HTTP/1.1\n\n"]}, "--lines"),
        ({"lines": []}, "has no lines"),
        ({"lines": Path("/nowhere/lines")}, "cannot be read: No such file"),
        ({"once": True}, "--lines"),
        ({"connections": 0}, "--connections takes a number from 1 to 10000"),
        ({"url": "http://127.0.0.1:1"}, "Connection refused.*is the server there"),
    ],
)
def test_what_cannot_be_driven_is_refused_in_one_sentence(
    client: LoadClient, change: dict[str, Any], sentence: str
) -> None:
    load = Load(url="http://127.0.0.1:1", templates=[GET], connections=1, seconds=1)
    with pytest.raises(Mendable, match=sentence) as refused:
        client.run(replace(load, **change), lambda line: None)
    assert "\n" not in str(refused.value)


async def test_chunked_answers_are_refused(client: LoadClient) -> None:
    async def chunked(head: str, body: str) -> bytes:
        return b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

    async with served(chunked) as server:
        with pytest.raises(Mendable, match="answered 200 without Content-Length"):
            await drive(client, Load(url=server.url, templates=[GET], connections=1, seconds=1))


def test_no_compiler_is_mendable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Mendable, match=r"install gcc .*build-essential"):
        LoadClient(tmp_path)


def test_a_compiler_without_headers_is_mendable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'load.c:1: fatal error: errno.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(Mendable, match=r"errno.h: No such file.*build-essential"):
        LoadClient(tmp_path)


# What it says


async def test_it_tells_how_far_it_is(client: LoadClient) -> None:
    told: list[str] = []
    async with served(accept) as server:
        load = Load(url=server.url, templates=[GET], connections=2, seconds=2.2, rate=1_000)
        await asyncio.to_thread(client.run, load, told.append)
    assert [line.split("/s  ")[0].split()[:2] for line in told] == [["1", "s"], ["2", "s"]]
    assert all("201: " in line for line in told)


def test_figures_are_those_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = [f"0\t201\t{latency}\t0\t{latency % 3}\tord_{latency}" for latency in range(1, 1_001)]
    log.write_text("\n".join([*lines, "1\t200\t7000\t0\t0\tord_1", "1\t-1\t5\t0\t0\t-", "1\t0\t5\t0\t0\t-", ""]))
    totals = (
        b'{"seconds": 2.0, "sent": 1002, "broken": 1, "timed_out": 0, "in_window": {"0:201": 900, "1:200": 1}, '
        b'"late_p99_us": 1500, "late_max_us": 2000, "connections": 3, "cpu_seconds": 0.5}'
    )
    outcome = Outcome(totals, log, timeout_seconds=2)
    assert (outcome.rate(), outcome.rate(1, 200), outcome.rate(1, 409)) == (450.0, 0.5, 0.0)
    assert [outcome.percentile_ms(percent) for percent in (0, 50, 99, 99.9, 100)] == [0.001, 0.5, 0.99, 0.999, 1.0]
    assert list(outcome.latencies(1)) == [7_000, 2_000_000, 2_000_000]
    assert list(outcome.latencies(1, 200)) == [7_000]
    assert outcome.percentile_ms(50, stage=1) == 2_000.0
    assert (outcome.sent, outcome.broken, outcome.unsent, outcome.timed_out) == (1_002, 1, 1, 0)
    assert (outcome.late_p99_ms, outcome.late_max_ms, outcome.connections, outcome.cpu_seconds) == (1.5, 2.0, 3, 0.5)
    assert outcome.ids()[:2] == [(1, "ord_1"), (2, "ord_2")]
    assert outcome.ids(1, 200) == [(0, "ord_1")]
