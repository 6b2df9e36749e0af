"""A first honest figure: accepted, committed orders a second, driven over HTTP by wrk against a running `holdfast up`.

    .venv/bin/python bench/reserve.py [--data DIR] [--connections 64] [--seconds 10] [--buyers 2000]

Every guard is on: token verification, rate and per-user limits, idempotency, outbox, fsync. Afterwards each 201 must
have its row in PostgreSQL, or the figure is void and the exit status 1.
"""

import argparse
import asyncio
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from uuid import UUID

import asyncpg

from holdfast import clock, ids
from holdfast.auth.tokens import Tokens
from holdfast.engines.data_folder import running_beside, settings_of
from holdfast.settings import Settings

CAPACITY = 100_000_000


async def open_sale(settings: Settings) -> tuple[UUID, UUID]:
    """An event that cannot sell out in a run: its id and its tier's."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    event_id, tier_id = ids.new_id(), ids.new_id()
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO tickets.events (id, organiser_id, name, starts_at, time_zone, status, hold_seconds, "
            "tickets_per_user_max) VALUES ($1, $2, 'Bench', now() + interval '30 days', 'UTC', 'published', 3600, "
            "1000)",
            event_id,
            ids.new_id(),
        )
        await connection.execute(
            "INSERT INTO tickets.tiers (id, event_id, name, position, price_amount, currency) "
            "VALUES ($1, $2, 'Bench', 0, 100000, 'TWD')",
            tier_id,
            event_id,
        )
        await connection.execute(
            "INSERT INTO tickets.stock (tier_id, event_id, capacity, state) VALUES ($1, $2, $3, 'open')",
            tier_id,
            event_id,
            CAPACITY,
        )
        await connection.execute("INSERT INTO tickets.gates (event_id, epoch) VALUES ($1, 0)", event_id)
    await connection.close()
    return event_id, tier_id


async def count_orders(settings: Settings, event_id: UUID) -> tuple[int, int]:
    """Orders of an event, and what its counter says."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    orders = await connection.fetchval("SELECT count(*) FROM orders.orders WHERE event_id = $1", event_id)
    held = await connection.fetchval("SELECT held + sold FROM tickets.stock WHERE event_id = $1", event_id)
    await connection.execute("UPDATE tickets.stock SET state = 'paused' WHERE event_id = $1", event_id)
    await connection.close()
    return orders, held


def drive(url: str, tokens: Path, body: str, connections: int, seconds: int) -> dict[str, float]:
    """One run of wrk."""
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("wrk is not installed: `apt-get install wrk` (or your system's package of that name).")
    script = str(Path(__file__).with_name("reserve.lua"))
    options = ["-t", "2", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "-s", script]
    done = subprocess.run(
        [wrk, *options, url, "--", str(tokens), body, secrets.token_hex(4)],
        check=True,
        capture_output=True,
        text=True,
    )
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    """Prepares, warms up for two seconds, measures, audits, prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".holdfast"))
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--buyers", type=int, default=2_000)
    asked = parser.parse_args()
    settings = settings_of(asked.data)
    url = running_beside(asked.data).url
    tokens = Tokens(settings)
    event_id, tier_id = asyncio.run(open_sale(settings))
    line = {"tier_id": ids.encode(ids.TIER, tier_id), "quantity": 1}
    body = json.dumps({"event_id": ids.encode(ids.EVENT, event_id), "lines": [line]})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens"
        file.write_text("\n".join(tokens.issue(ids.new_id(), "buyer") for _ in range(asked.buyers)))
        warm = drive(url, file, body, asked.connections, 2)
        began = clock.monotonic_seconds()
        found = drive(url, file, body, asked.connections, asked.seconds)
        took = clock.monotonic_seconds() - began
    orders, held = asyncio.run(count_orders(settings, event_id))
    acknowledged = int(warm["made"] + found["made"])
    # An order whose 201 was still under way when wrk stopped is there without an acknowledgement.
    void = orders != held or not acknowledged <= orders <= acknowledged + 2 * asked.connections
    report = {
        "orders_per_second": round(found["made"] / found["seconds"]),
        **found,
        "acknowledged": acknowledged,
        "rows": orders,
        "void": void,
        "wall_seconds": round(took, 2),
    }
    print(json.dumps(report))
    sys.exit(1 if void else 0)


if __name__ == "__main__":
    main()
