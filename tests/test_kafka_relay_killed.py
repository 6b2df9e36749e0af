"""A relay that is killed, or frozen and overtaken, in the middle of its work: every event once, each order in order."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from box_office import Event, put_on_sale
from holdfast.engines.database import AWAY, Connection, Pool
from holdfast.outbox import relay as relay_module
from holdfast.outbox.consume import OutboxRow, Recorder
from holdfast.outbox.direct import SQL as OUTBOX
from holdfast.outbox.events import LANE_NAMES, ORDERS
from holdfast.outbox.kafka_consumer import consume_log
from holdfast.settings import ENV_PREFIX, Settings
from kafka_house import events_in, is_published, relaying, running, until, write_orders
from running_up import environment_of
from test_kafka_relay import each, versions_of

LIFE = ("order.reserved", "gate.missed", "order.confirmed")


class Relay:
    """`holdfast work relay` as a process of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        given = {
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "KAFKA_URL": settings.kafka_url.get_secret_value(),
            "KAFKA_REPLICATION": "1",
            "KAFKA_MIN_INSYNC": "1",
        }
        environment = environment_of(folder / "home") | {ENV_PREFIX + name: value for name, value in given.items()}
        self.log = folder / "relay.txt"
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli.main", "work", "relay", "--data", str(folder / "data")],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder,
            )  # fmt: skip

    def send(self, number: int) -> None:
        """Signals it."""
        os.kill(self.process.pid, number)

    def end(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


async def has_begun(pool: Pool) -> bool:
    """Whether a lane has recorded progress that it had not before."""
    moved: int = await pool.fetchval(
        "WITH seen AS (UPDATE lanes l SET xid = c.xid, id = c.id FROM outbox.consumers c "
        "WHERE c.name = l.name AND (c.xid, c.id) > (l.xid, l.id) RETURNING 1) SELECT count(*) FROM seen"
    )
    return moved > 0


@contextlib.asynccontextmanager
async def selling(pool: Pool, event: Event) -> AsyncIterator[list[str]]:
    """Orders come all the time."""
    await pool.execute(
        "CREATE TABLE lanes AS "
        "SELECT 'relay-' || n AS name, '0'::xid8 AS xid, 0::bigint AS id FROM generate_series(0, 3) n"
    )
    orders: list[str] = []
    ends = asyncio.Event()

    async def sell() -> None:
        while not ends.is_set():
            orders.extend(await write_orders(pool, event, 40, *LIFE))
            await asyncio.sleep(0.02)

    seller = asyncio.create_task(sell())
    try:
        yield orders
    finally:
        ends.set()
        await seller


async def test_a_relay_is_killed_in_mid_batch_again_and_again(kafka: Settings, pool: Pool, tmp_path: Path) -> None:
    event = await put_on_sale(pool, 100)
    async with selling(pool, event) as orders:
        for _ in range(2):
            one = Relay(kafka, tmp_path)
            try:
                await until(lambda: has_begun(pool))
            finally:
                one.end()
    async with relaying(kafka):
        await until(lambda: is_published(pool))
    found = await asyncio.to_thread(events_in, kafka, ORDERS)
    assert versions_of(found) == each(orders)


async def overtake(kafka: Settings, pool: Pool, folder: Path) -> list[str]:
    """A relay is frozen, loses its lanes, and goes on when another has them. The orders that were sold meanwhile."""
    event = await put_on_sale(pool, 100)
    async with selling(pool, event) as orders:
        zombie = Relay(kafka, folder)
        try:
            await until(lambda: has_begun(pool))
            zombie.send(signal.SIGSTOP)
            async with relaying(kafka):
                await has_begun(pool)
                await until(lambda: has_begun(pool))
                zombie.send(signal.SIGCONT)
                await until(lambda: has_begun(pool))
                await asyncio.sleep(0.5)
        finally:
            zombie.end()
    async with relaying(kafka):
        await until(lambda: is_published(pool))
    return orders


async def test_a_frozen_relay_that_was_overtaken_does_no_harm(
    kafka: Settings, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "_SILENT_SECONDS_MAX", 1)
    await pool.execute("CREATE TABLE book (event_id text, subject uuid, kind text)")

    async def record(rows: Sequence[OutboxRow], connection: Connection) -> None:
        await connection.executemany(
            "INSERT INTO book VALUES ($1, $2, $3)", [(row.event_id, row.subject, row.kind) for row in rows]
        )

    recorder = Recorder("stats", LIFE, record)
    async with running(lambda stop: consume_log(kafka, pool, recorder, stop)):
        orders = await overtake(kafka, pool, tmp_path)

        async def all_recorded() -> bool:
            return bool(await pool.fetchval("SELECT count(*) FROM book") >= 3 * len(orders))

        await until(all_recorded)
    assert versions_of(await asyncio.to_thread(events_in, kafka, ORDERS)) == each(orders)
    counted = await pool.fetchrow("SELECT count(*) AS rows, count(DISTINCT event_id) AS events FROM book")
    assert counted is not None
    assert tuple(counted) == (3 * len(orders), 3 * len(orders))


async def hold_lanes(connection: Connection) -> None:
    """Owns all lanes."""
    for name in LANE_NAMES:
        assert await connection.fetchval(OUTBOX["lock"], name)


@pytest.mark.parametrize("reads", [True, False], ids=["idle", "in the middle of an answer"])
async def test_an_owner_of_which_nothing_is_heard_loses_its_lanes(
    kafka: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    assert relay_module._SILENT_SECONDS_MAX <= 10
    monkeypatch.setattr(relay_module, "_SILENT_SECONDS_MAX", 1)
    await write_orders(pool, await put_on_sale(pool, 100), 1, *LIFE)
    silent = await asyncpg.connect(kafka.database_url.get_secret_value())
    await hold_lanes(silent)
    asked = None
    if not reads:
        silent._transport.pause_reading()  # type: ignore[attr-defined]  # nothing public freezes a connection
        asked = asyncio.create_task(silent.fetch("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"))
    async with relaying(kafka):
        await until(lambda: is_published(pool))
    if asked is not None:
        silent._transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(AWAY):
            await asked
    with pytest.raises(AWAY):
        await silent.execute("SELECT 1")


async def test_an_owner_that_says_something_keeps_its_lanes(
    kafka: Settings, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "_SILENT_SECONDS_MAX", 1)
    await write_orders(pool, await put_on_sale(pool, 100), 1, *LIFE)
    alive = await asyncpg.connect(kafka.database_url.get_secret_value())
    try:
        await hold_lanes(alive)
        async with relaying(kafka):
            for _ in range(12):
                await asyncio.sleep(0.25)
                await alive.execute("SELECT 1")
            assert not await is_published(pool)
    finally:
        await alive.close()
