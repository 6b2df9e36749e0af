"""A gate on a cluster for tests: six real nodes, events on each of its masters, and what may happen to a node."""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from box_office import Desk, Event, put_on_sale
from conftest import free_port
from holdfast.engines.database import Pool
from holdfast.engines.valkey_cluster import ClusterNode, ValkeyCluster
from holdfast.gate.gate import GateAway
from holdfast.gate.reconcile import Reconcile

PASSWORD = "open-sesame"
FAILOVER_SECONDS_MAX = 20
PROGRAMS = ("valkey", "redis")
FREE = "SELECT capacity - held - sold FROM tickets.stock WHERE event_id = $1"


def program(name: str) -> Path | None:
    """The server's program; None for the wheel's. Skips where Redis is not installed, except in CI."""
    if name == "valkey":
        return None
    found = shutil.which("redis-server")
    if found is None:
        assert not os.environ.get("CI"), "CI has redis-server"
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    return Path(found)


@contextmanager
def running_cluster(folder: Path, name: str) -> Iterator[ValkeyCluster]:
    """A cluster of that program."""
    cluster = ValkeyCluster(folder, [free_port() for _ in range(6)], PASSWORD, program=program(name))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def kill(node: ClusterNode) -> None:
    """Ends it as a crash does."""
    assert node.pid is not None
    os.kill(node.pid, signal.SIGKILL)


def freeze(node: ClusterNode) -> None:
    """It stands still, and its connections stay."""
    assert node.pid is not None
    os.kill(node.pid, signal.SIGSTOP)


def thaw(node: ClusterNode) -> None:
    """It goes on, as if no time had passed."""
    if node.pid is not None:
        os.kill(node.pid, signal.SIGCONT)


def make_well(cluster: ValkeyCluster) -> None:
    """Every node is there again, and has its place."""
    for node in cluster.nodes:
        thaw(node)
        if node.pid is None:
            node.start()
    cluster.wait_until_well()


class Placed(NamedTuple):
    """An event and the master that has its slot."""

    event: Event
    master: ClusterNode


async def on_each_master(pool: Pool, cluster: ValkeyCluster, capacity: int = 1000) -> list[Placed]:
    """An event for each of the masters."""
    found: dict[str, Placed] = {}
    while len(found) < len(cluster.nodes) // 2:
        event = await put_on_sale(pool, capacity, tickets_per_user_max=1000)
        master = cluster.master_of(event.id.hex)
        found.setdefault(master.name, Placed(event, master))
    return list(found.values())


async def until(what: str, is_so: Callable[[], Any], seconds: float = FAILOVER_SECONDS_MAX) -> None:
    """Waits for it; `is_so` may be a coroutine function, and may raise that a node does not answer."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                with suppress(OSError, GateAway):
                    answer = is_so()
                    if await answer if asyncio.iscoroutine(answer) else answer:
                        return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"after {seconds} s it is not so: {what}") from None


async def missed(pool: Pool, event: Event) -> int:
    """How many orders of an event went around the gate."""
    count: int = await pool.fetchval(
        "SELECT count(*) FROM outbox.events WHERE kind = 'gate.missed' AND scope = $1", event.id
    )
    return count


async def node_in_database(pool: Pool, event: Event) -> str:
    """The node that PostgreSQL believes to have the event's gate."""
    node: str = await pool.fetchval("SELECT node FROM tickets.gates WHERE event_id = $1", event.id)
    return node


async def agree(desk: Desk, events: Sequence[Event]) -> None:
    """Waits until every gate is open and has free what PostgreSQL has free, by the house's own means of repair."""
    reconcile = Reconcile(desk.pool, desk.gate)

    async def do_they() -> bool:
        await desk.relay()
        with suppress(GateAway):
            await reconcile.run()
        for event in events:
            state = await desk.gate.state(event.id)
            free = await desk.pool.fetchval(
                "SELECT capacity - held - sold FROM tickets.stock WHERE event_id = $1", event.id
            )
            if state is None or not state.is_open or state.leases or state.free != {event.tiers[0]: free}:
                return False
        return True

    await until("gates and PostgreSQL agree", do_they, 30)
