"""Three brokers: one may be killed in the middle of everything, and nothing is lost, doubled or out of order."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from box_office import put_on_sale
from holdfast.engines.database import Connection, Pool
from holdfast.engines.kafka_server import KafkaServers
from holdfast.outbox.consume import OutboxRow, Recorder
from holdfast.outbox.events import ORDERS
from holdfast.outbox.kafka_consumer import consume_log
from holdfast.settings import Settings
from kafka_house import drop_topics, events_in, is_published, relaying, running, until, write_orders
from test_kafka_relay import LIFE, each, versions_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three(kafka_servers: KafkaServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServers]:
    """Three running brokers. (The one broker of the other tests says whether any can run here.)"""
    servers = KafkaServers(tmp_path_factory.mktemp("kafka3"), brokers=3)
    servers.start()
    yield servers
    servers.stop(hurry=True)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_one_broker_of_three_goes_and_comes_back(
    three: KafkaServers, settings: Settings, pool: Pool, fault: str
) -> None:
    kafka = settings.model_copy(update={"kafka_url": type(settings.kafka_url)(three.url)})
    await asyncio.to_thread(drop_topics, kafka)
    await pool.execute("CREATE TABLE book (event_id text)")

    async def record(rows: Sequence[OutboxRow], connection: Connection) -> None:
        await connection.executemany("INSERT INTO book VALUES ($1)", [(row.event_id,) for row in rows])

    event = await put_on_sale(pool, 100)
    orders = []

    async def sell(times: int) -> None:
        for _ in range(times):
            orders.extend(await write_orders(pool, event, 20, *LIFE))
            await asyncio.sleep(0.05)

    async def all_recorded() -> bool:
        return bool(await pool.fetchval("SELECT count(*) FROM book") >= 3 * len(orders))

    recorder = Recorder("stats", LIFE, record)
    async with relaying(kafka), running(lambda stop: consume_log(kafka, pool, recorder, stop)):
        await sell(5)
        await until(all_recorded, 60)
        victim = three.brokers[1]
        await asyncio.to_thread(victim.kill if fault == "kill" else victim.freeze)
        await sell(20)
        await until(lambda: is_published(pool), 90)
        await asyncio.to_thread(victim.start if fault == "kill" else victim.thaw)
        await sell(5)
        await until(lambda: is_published(pool), 90)
        await until(all_recorded, 90)
    mine = set(orders)
    found = [one for one in await asyncio.to_thread(events_in, kafka, ORDERS) if one["subject"] in mine]
    assert versions_of(found) == each(orders)
    counted = await pool.fetchrow("SELECT count(*) AS rows, count(DISTINCT event_id) AS events FROM book")
    assert counted is not None
    assert tuple(counted) == (3 * len(orders), 3 * len(orders))
