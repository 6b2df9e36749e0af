"""A consumer as a process of its own, which a test kills: it writes down what it reads, slowly."""

import asyncio
import sys
from collections.abc import Sequence

from holdfast.engines.database import Connection, open_pool
from holdfast.outbox.consume import OutboxRow, Recorder
from holdfast.outbox.kafka_consumer import consume_log
from holdfast.settings import load_settings


async def record(rows: Sequence[OutboxRow], connection: Connection) -> None:
    for row in rows:
        await connection.execute("INSERT INTO book (event_id) VALUES ($1)", row.event_id)
    # The middle of the batch: what is written is not committed yet.
    sys.stdout.write("wrote\n")
    sys.stdout.flush()
    await asyncio.sleep(0.2)


async def main() -> None:
    settings = load_settings()
    pool = await open_pool(settings)
    await consume_log(settings, pool, Recorder("stats", ("order.reserved", "order.confirmed"), record), asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main())
