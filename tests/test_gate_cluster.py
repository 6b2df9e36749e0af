"""The gate on a cluster of three masters and three replicas: what happens to one master is no business of the others,
and no replica is believed that took its master's place."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from box_office import Desk, Event, assert_sound, audit, counted, open_desk
from gate_clusters import (
    PROGRAMS,
    Placed,
    agree,
    freeze,
    kill,
    make_well,
    missed,
    node_in_database,
    on_each_master,
    running_cluster,
    thaw,
    until,
)
from holdfast import ids
from holdfast.clock import monotonic_seconds
from holdfast.engines.database import Pool
from holdfast.engines.valkey_cluster import ValkeyCluster
from holdfast.gate import gate as gate_module
from holdfast.gate.gate import GateStale, hold_key, hold_of
from holdfast.gate.load import load_gate
from holdfast.settings import Settings

INTERRUPTION_SECONDS_MAX = 0.5


@pytest.fixture(scope="module", params=[PROGRAMS[0], pytest.param(PROGRAMS[1], marks=pytest.mark.slow)])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    with running_cluster(tmp_path_factory.mktemp("gate"), request.param) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: ValkeyCluster) -> Iterator[ValkeyCluster]:
    yield running
    make_well(running)


@pytest.fixture
async def desk(settings: Settings, pool: Pool, cluster: ValkeyCluster) -> AsyncIterator[Desk]:
    async with open_desk(settings, pool, gate_url=cluster.url, gate_retry_seconds=0.2) as opened:
        yield opened


@pytest.fixture
async def placed(desk: Desk, cluster: ValkeyCluster) -> list[Placed]:
    """An event on each master, its gate loaded."""
    found = await on_each_master(desk.pool, cluster)
    for event, _ in found:
        assert await load_gate(desk.pool, desk.gate, event.id)
    return found


class Stream:
    """Buyers who come one after the other to each of some events, and never stop because of an answer."""

    def __init__(self) -> None:
        self.made = 0
        self.slowest = 0.0
        self.usual = 0.0
        """The slowest until something happened."""
        self.others: list[str] = []

    async def buy(self, desk: Desk, event: Event, stop: asyncio.Event) -> None:
        while not stop.is_set():
            began = monotonic_seconds()
            outcome = await desk.try_buy(ids.new_id(), "key", event, 1)
            self.slowest = max(self.slowest, monotonic_seconds() - began)
            if outcome == "made":
                self.made += 1
            else:
                self.others.append(outcome)
            await asyncio.sleep(0.005)

    @property
    def interruption(self) -> float:
        """How much longer than usual the slowest took; the machine may be busy with other things too."""
        return self.slowest - 2 * self.usual

    def note_usual(self) -> bool:
        """Something is about to happen. False while too few have bought to say what is usual."""
        self.usual, self.slowest = max(self.usual, self.slowest), 0.0
        return self.made > 20


@asynccontextmanager
async def buyers(desk: Desk, *events: Event) -> AsyncIterator[list[Stream]]:
    """A stream of purchases for each event."""
    stop, streams = asyncio.Event(), [Stream() for _ in events]
    async with asyncio.TaskGroup() as group:
        for stream, event in zip(streams, events, strict=True):
            group.create_task(stream.buy(desk, event, stop))
        try:
            yield streams
        finally:
            stop.set()


async def test_each_event_is_sold_through_its_own_master(desk: Desk, placed: list[Placed]) -> None:
    outcomes = await asyncio.gather(
        *(desk.try_buy(ids.new_id(), "key", event, 1) for event, _ in placed for _ in range(20))
    )
    assert counted(outcomes) == {"made": 60}
    for event, master in placed:
        assert await missed(desk.pool, event) == 0
        assert master.ask("EXISTS", f"{{{event.id.hex}}}:gate") == 1
        assert await node_in_database(desk.pool, event) == master.id
        assert_sound(await audit(desk.pool, event))
    await agree(desk, [event for event, _ in placed])


async def test_one_node_of_the_cluster_is_enough_to_find_it(
    settings: Settings, pool: Pool, cluster: ValkeyCluster
) -> None:
    replica = cluster.replica_of(cluster.master_of("x"))
    url = f"valkey://:{cluster.password}@127.0.0.1:{replica.port}"
    async with open_desk(settings, pool, gate_url=url) as desk:
        for event, _ in await on_each_master(pool, cluster):
            assert await load_gate(pool, desk.gate, event.id)
            assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
            assert await missed(pool, event) == 0


async def test_functions_that_are_missing_are_loaded_where_they_are_missing(desk: Desk, placed: list[Placed]) -> None:
    for _, master in placed:
        master.ask("FUNCTION", "FLUSH")
    assert len(await desk.gate.ailments()) == 3
    for event, _ in placed:
        assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
        assert await missed(desk.pool, event) == 0
    assert await desk.gate.ailments() == []


async def test_a_master_is_killed_under_purchases(desk: Desk, cluster: ValkeyCluster, placed: list[Placed]) -> None:
    (first, master), *others = placed
    replica = cluster.replica_of(master)
    async with buyers(desk, *(event for event, _ in placed)) as streams:
        await until("all of them sell", lambda: all(stream.note_usual() for stream in streams))
        kill(master)
        await until("the replica has the gate", lambda: replica.follows() is None)
        promoted = replica.id

        async def is_loaded_there() -> bool:
            return await node_in_database(desk.pool, first) == promoted

        await until("the gate is loaded into it", is_loaded_there)
        around = await missed(desk.pool, first)
        assert around > 0, "PostgreSQL decided meanwhile"
        before = streams[0].made
        await until("it sells through the new master", lambda: streams[0].made > before + 20)
    for stream in streams:
        assert stream.others == []
        assert stream.interruption < INTERRUPTION_SECONDS_MAX
    for event, _ in others:
        assert await missed(desk.pool, event) == 0, "nobody else noticed"
    await agree(desk, [event for event, _ in placed])
    assert_sound(await audit(desk.pool, first))


@pytest.mark.slow
async def test_a_master_is_frozen_under_purchases(desk: Desk, cluster: ValkeyCluster, placed: list[Placed]) -> None:
    (first, master), *others = placed
    replica = cluster.replica_of(master)
    async with buyers(desk, *(event for event, _ in placed)) as streams:
        await until("all of them sell", lambda: all(stream.note_usual() for stream in streams))
        freeze(master)
        await until("the replica has its place", lambda: replica.follows() is None)
        before = streams[0].made
        await until("it is sold on", lambda: streams[0].made > before + 50)
        thaw(master)
        await until("the former master follows", lambda: master.follows() is not None)
        before = streams[0].made
        await until("it is still sold", lambda: streams[0].made > before + 50)
    for stream in streams:
        assert stream.others == []
        assert stream.interruption < 2 * INTERRUPTION_SECONDS_MAX, "one time-out, and none after it"
    for event, _ in others:
        assert await missed(desk.pool, event) == 0
    await agree(desk, [event for event, _ in placed])
    assert_sound(await audit(desk.pool, first))


async def test_a_master_that_restarts_is_empty_and_is_loaded_again(
    desk: Desk, cluster: ValkeyCluster, placed: list[Placed]
) -> None:
    """It is back before anybody could take its place, and its replica copies the emptiness."""
    event, master = placed[0]
    for number in range(10):
        assert await desk.try_buy(ids.new_id(), f"key {number}", event, 1) == "made"
    await desk.reserve.drain()
    kill(master)
    await asyncio.to_thread(master.start)

    async def sells() -> bool:
        assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
        state = await desk.gate.state(event.id)
        return state is not None and state.is_open

    await until("it sells again", sells)
    await agree(desk, [event])


@pytest.mark.slow
async def test_the_whole_gate_goes_and_comes_back(desk: Desk, cluster: ValkeyCluster, placed: list[Placed]) -> None:
    events = [event for event, _ in placed]
    async with buyers(desk, *events) as streams:
        await until("all of them sell", lambda: all(stream.note_usual() for stream in streams))
        for node in cluster.nodes:
            kill(node)
        before = sum(stream.made for stream in streams)
        await until("PostgreSQL sells alone", lambda: sum(stream.made for stream in streams) > before + 100)
        await asyncio.to_thread(make_well, cluster)
        await until("the gate is back", lambda: not desk.gate.is_away)
        before = sum(stream.made for stream in streams)
        await until("it sells", lambda: sum(stream.made for stream in streams) > before + 100)
    for stream in streams:
        assert stream.others == []
        assert stream.interruption < INTERRUPTION_SECONDS_MAX
    await agree(desk, events)
    for event in events:
        assert_sound(await audit(desk.pool, event))


async def lose_a_write(desk: Desk, cluster: ValkeyCluster, placed: Placed) -> str:
    """A replica is promoted that has not heard of the last order; answers its id."""
    event, master = placed
    replica = cluster.replica_of(master)
    freeze(replica)
    # What lies in its socket already it would still read. It asks for no more while it stands still.
    master.ask("CLIENT", "KILL", "TYPE", "replica")
    await desk.buy(ids.new_id(), "lost", event, 7)
    await desk.reserve.drain()
    assert await desk.gate_free(event) == (993,)
    kill(master)
    thaw(replica)
    await until("the replica is promoted", lambda: replica.follows() is None)
    assert replica.ask("HGET", f"{{{event.id.hex}}}:gate", f"free:{event.tiers[0].hex}") == "1000"
    promoted = replica.id

    async def is_known() -> bool:
        return desk.gate.node_of(event.id) == promoted and not desk.gate.is_away

    await until("its place is known", is_known)
    return promoted


async def test_a_promoted_replica_that_lost_a_write_is_not_believed(
    desk: Desk, cluster: ValkeyCluster, placed: list[Placed]
) -> None:
    event = placed[0].event
    promoted = await lose_a_write(desk, cluster, placed[0])
    state = await desk.gate.state(event.id)
    assert state is not None
    assert not state.is_open
    epoch = await desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id)
    assert state.epoch == epoch, "its content names the very epoch that PostgreSQL does"
    key, hold = hold_key(ids.new_id(), "key"), hold_of(ids.new_id(), event.tiers, [1])
    with pytest.raises(GateStale):
        await desk.gate.finish(event.id, epoch, settle=[(key, hold)])
    with pytest.raises(GateStale):
        await desk.gate.reserve(event.id, epoch, [[4, event.tiers[0].hex, 1]], [], [(key, 0)])
    assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
    await agree(desk, [event])
    assert await desk.gate_free(event) == (992,)
    assert await node_in_database(desk.pool, event) == promoted


async def test_without_the_reign_it_would_be_believed(
    desk: Desk, cluster: ValkeyCluster, placed: list[Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same with the guard off has the gate sell seven tickets that are not there."""
    unguarded = gate_module._LIBRARY.replace("bound_to and bound_to ~= reign()", "false")
    assert unguarded != gate_module._LIBRARY
    monkeypatch.setattr(gate_module, "_LIBRARY", unguarded)
    for node in {node.master for node in placed}:
        node.ask("FUNCTION", "LOAD", "REPLACE", unguarded)
    event = placed[0].event
    await lose_a_write(desk, cluster, placed[0])
    state = await desk.gate.state(event.id)
    assert state is not None
    assert state.is_open
    assert state.free == {event.tiers[0]: 1000}
    assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
    assert await missed(desk.pool, event) == 0
