"""Which master has an event: maps that are out of date, slots and masters that move, loads in the middle of that, and
clusters that are none."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from structlog.testing import capture_logs

from box_office import Desk, Event, assert_sound, audit, open_desk, put_on_sale
from conftest import Engines, free_port
from gate_clusters import (
    PROGRAMS,
    Placed,
    agree,
    kill,
    make_well,
    missed,
    node_in_database,
    on_each_master,
    running_cluster,
    until,
)
from holdfast import ids
from holdfast.doctor.examine import examine
from holdfast.engines.database import Pool
from holdfast.engines.valkey_cluster import ClusterNode, ValkeyCluster
from holdfast.errors import Mendable
from holdfast.gate import consumer as consumer_module
from holdfast.gate.cluster import SLOTS, slot_of
from holdfast.gate.gate import Gate, GateAway, GateStale
from holdfast.gate.load import SQL, load_gate
from holdfast.settings import Settings, each_host, load_settings


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


async def fail_over(master: ClusterNode, replica: ClusterNode) -> None:
    """The replica takes its master's place, with all that it has, as an operator has it done."""
    for _ in range(4):
        assert replica.ask("CLUSTER", "FAILOVER") == "OK"
        with suppress(AssertionError):
            # It is given up after five seconds: the others vote only once in a while.
            await until("it is", lambda: replica.follows() is None and master.follows() is not None, 6)
            return
    raise AssertionError("the replica does not become the master")


async def sells_through(desk: Desk, event: Event, node: ClusterNode) -> None:
    """Buys until it is the gate in that node that decides."""

    async def does() -> bool:
        before = await missed(desk.pool, event)
        assert await desk.try_buy(ids.new_id(), "key", event, 1) == "made"
        return await missed(desk.pool, event) == before and await node_in_database(desk.pool, event) == node.id

    await until("it is sold through that node", does)


async def learns(desk: Desk, event: Event, node: ClusterNode) -> None:
    """Asks the cluster until the one that it asks has heard of the new master too."""

    async def does() -> bool:
        await desk.gate.nodes.learn()
        return desk.gate.node_of(event.id) == node.id

    await until("the map is the new one", does)


async def test_a_master_that_was_replaced_says_so(desk: Desk, cluster: ValkeyCluster, placed: list[Placed]) -> None:
    (event, master), (other, _), _ = placed
    replica = cluster.replica_of(master)
    await sells_through(desk, event, master)
    await fail_over(master, replica)
    # MOVED is the first that this process hears of it.
    await sells_through(desk, event, replica)
    assert not desk.gate.is_away
    assert all(not node.is_away for node in desk.gate.nodes.masters), "a node that says MOVED is well"
    await agree(desk, [event, other])


async def test_a_master_for_the_second_time_is_not_believed_what_it_had(
    settings: Settings, desk: Desk, cluster: ValkeyCluster, placed: list[Placed]
) -> None:
    event, master = placed[0]
    replica = cluster.replica_of(master)
    # Nobody asks for the event meanwhile, so that PostgreSQL names the first master and its epoch still.
    await fail_over(master, replica)
    await asyncio.to_thread(cluster.wait_until_well)
    await fail_over(replica, master)
    await learns(desk, event, master)
    assert await node_in_database(desk.pool, event) == master.id
    state = await desk.gate.state(event.id)
    assert state is not None
    assert not state.is_open
    await agree(desk, [event])


async def test_a_process_with_an_old_map_learns_before_it_loads(
    settings: Settings, desk: Desk, cluster: ValkeyCluster, placed: list[Placed]
) -> None:
    """It must not empty the gate that another has loaded into the new master."""
    event, master = placed[0]
    async with open_desk(settings, desk.pool, gate_url=cluster.url) as other:
        replica = cluster.replica_of(master)
        await fail_over(master, replica)
        await sells_through(desk, event, replica)
        epoch = await desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id)
        assert other.gate.node_of(event.id) == master.id, "the map is of before"
        assert await load_gate(desk.pool, other.gate, event.id, unless_open=True)
        assert other.gate.node_of(event.id) == replica.id
        assert epoch == await desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", event.id)


async def test_a_load_whose_master_is_replaced_in_the_middle_is_stale(
    desk: Desk, cluster: ValkeyCluster, placed: list[Placed]
) -> None:
    event, master = placed[0]
    replica = cluster.replica_of(master)
    epoch = await desk.pool.fetchval(SQL["next_epoch"], event.id)
    assert await desk.gate.load_begin(event.id, epoch) == master.id
    await fail_over(master, replica)
    await learns(desk, event, replica)
    state = await desk.gate.state(event.id)
    assert state is not None
    assert (state.epoch, state.is_open) == (epoch, False), "the half of it is here"
    with pytest.raises(GateStale):
        await desk.gate.load_open(event.id, epoch, [(event.tiers[0].hex, 1000)])
    await sells_through(desk, event, replica)
    await agree(desk, [event])


async def test_a_slot_moves_to_another_master(desk: Desk, cluster: ValkeyCluster, placed: list[Placed]) -> None:
    (event, source), (other, target), _ = placed
    slot, tag = slot_of(event.id.hex), f"{{{event.id.hex}}}"
    assert await desk.try_buy(ids.new_id(), "before", event, 1) == "made"
    await desk.reserve.drain()
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    # Some of its keys are here, some there, and some are nowhere yet: nobody can decide but PostgreSQL.
    moved = [key for key in source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10) if key.startswith(tag)]
    assert len(moved) > 1
    half = len(moved) // 2
    migrate(source, target, cluster.password, moved[:half])
    around = await missed(desk.pool, event)
    assert await desk.try_buy(ids.new_id(), "between", event, 1) == "made"
    assert await missed(desk.pool, event) == around + 1
    assert await desk.try_buy(ids.new_id(), "key", other, 1) == "made"
    assert await missed(desk.pool, other) == 0, "the nodes themselves are well"
    migrate(source, target, cluster.password, moved[half:])
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    await sells_through(desk, event, target)
    await agree(desk, [event, other])
    assert_sound(await audit(desk.pool, event))


def migrate(source: ClusterNode, target: ClusterNode, password: str, keys: list[str]) -> None:
    """Moves these keys, as resharding does."""
    answer = source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "AUTH", password, "KEYS", *keys)
    assert answer == "OK"


async def test_a_shard_that_stays_away_is_given_up_and_holds_up_nobody(
    desk: Desk, cluster: ValkeyCluster, placed: list[Placed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "PATIENCE_SECONDS", 0.3)
    (gone, master), (stays, _), _ = placed
    lost, _ = await desk.buy(ids.new_id(), "key", gone, 2)
    kept, _ = await desk.buy(ids.new_id(), "key", stays, 2)
    await desk.reserve.drain()
    for node in (cluster.replica_of(master), master):
        kill(node)
    for order in (lost, kept):
        assert await desk.try_cancel(order) == "cancelled"
    epoch = await desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", gone.id)
    await desk.relay()
    assert await desk.gate_free(stays) == (1000,)
    assert await desk.pool.fetchval("SELECT epoch FROM tickets.gates WHERE event_id = $1", gone.id) == epoch + 1
    assert await desk.try_buy(ids.new_id(), "key", gone, 3) == "made"
    await asyncio.to_thread(make_well, cluster)
    await until("the shard is back", lambda: not any(node.is_away for node in desk.gate.nodes.masters))
    await sells_through(desk, gone, cluster.master_of(gone.id.hex))
    await agree(desk, [gone, stays])


async def test_the_doctor_names_the_masters_that_are_missing(
    settings: Settings, desk: Desk, cluster: ValkeyCluster, placed: list[Placed]
) -> None:
    given = Settings(**{**settings.model_dump(), "gate_url": cluster.url})

    async def said() -> tuple[bool, str]:
        checks = (await examine(given, 0, repair=False)).checks
        gate = next(check for check in checks if check.name == "gate")
        assert all(check.ok for check in checks if check.name.startswith(("gate against", "leases")))
        return gate.ok, gate.detail

    assert await said() == (True, "3 masters answer, functions loaded")
    master = placed[0].master
    for node in (cluster.replica_of(master), master):
        kill(node)
    is_fine, detail = await said()
    assert not is_fine
    assert f"127.0.0.1:{master.port}" in detail
    assert "no connection" in detail


@asynccontextmanager
async def selling_beside(settings: Settings, pool: Pool, gate_url: str) -> AsyncIterator[tuple[Desk, str]]:
    """A desk whose gate cannot be asked, which sells nevertheless, and what it logs when it opens."""
    with capture_logs() as logs:
        async with open_desk(settings, pool, gate_url=gate_url, gate_retry_seconds=0.2) as desk:
            said = "; ".join(f"{one['event']} {one.get('error', '')}" for one in logs if one["log_level"] == "warning")
            assert desk.gate.is_away
            event = await put_on_sale(pool, 3)
            assert await desk.try_buy(ids.new_id(), "key", event, 2) == "made"
            assert await desk.try_buy(ids.new_id(), "key", event, 2) == "sold_out"
            yield desk, said


async def test_wrong_set_ups_are_said_and_sold_beside(
    settings: Settings, pool: Pool, engines: Engines, cluster: ValkeyCluster
) -> None:
    async with selling_beside(settings, pool, cluster.url.replace(cluster.password, "wrong")) as (desk, said):
        assert "WRONGPASS" in said
        assert "no node of the cluster answers" in await desk.gate.ailments()
    async with selling_beside(settings, pool, f"valkey://127.0.0.1:{free_port()},127.0.0.1:{free_port()}") as (_, said):
        assert "no connection" in said
    alone = f"{engines.valkey.url},127.0.0.1:{engines.valkey.port}"
    async with selling_beside(settings, pool, alone) as (_, said):
        assert "this is no node of a cluster" in said

    for nonsense, reason in ((b"HTTP/1.1 400 Bad Request\r\n\r\n", "no answer"), (b"+OK\r\n", "does not speak as")):
        async with (
            stranger(nonsense) as port,
            selling_beside(settings, pool, f"valkey://127.0.0.1:{port}") as (_, said),
        ):
            assert reason in said


@asynccontextmanager
async def stranger(answer: bytes) -> AsyncIterator[int]:
    """Something that answers the same to everything; its port."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(65536):
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_user_who_may_not_ask_of_clusters_has_one_server(
    settings: Settings, pool: Pool, engines: Engines
) -> None:
    async with open_desk(settings, pool) as owner:
        await owner.gate.wire.call("ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all", "-cluster")
        url = f"valkey://shop:secret@127.0.0.1:{engines.valkey.port}"
        async with open_desk(settings, pool, gate_url=url) as limited:
            event = await put_on_sale(pool, 3)
            assert await load_gate(pool, limited.gate, event.id)
            assert await limited.try_buy(ids.new_id(), "key", event, 1) == "made"
            assert await missed(pool, event) == 0
        await owner.gate.wire.call("ACL", "DELUSER", "shop")


@pytest.mark.slow
async def test_a_cluster_that_comes_later_is_found(settings: Settings, pool: Pool, cluster: ValkeyCluster) -> None:
    for node in cluster.nodes:
        kill(node)
    async with selling_beside(settings, pool, cluster.url) as (desk, _):
        await asyncio.to_thread(make_well, cluster)
        await until("the gate is found", lambda: not desk.gate.is_away)
        placed = (await on_each_master(pool, cluster))[0]
        await sells_through(desk, placed.event, placed.master)


def test_slots_are_those_of_the_server(cluster: ValkeyCluster) -> None:
    for tag in (ids.new_id().hex for _ in range(50)):
        assert slot_of(tag) == cluster.nodes[0].ask("CLUSTER", "KEYSLOT", f"{{{tag}}}:gate") < SLOTS


def test_several_hosts_are_told_apart() -> None:
    assert each_host("valkey://user:p%40ss@a:1,b, [::1]:3") == [
        "valkey://user:p%40ss@a:1",
        "valkey://user:p%40ss@b",
        "valkey://user:p%40ss@[::1]:3",
    ]
    assert each_host("valkey://a") == ["valkey://a"]
    for wrong in ("valkey://", "valkey://a,", "http://a", "valkey://a:port", "a:6379", "valkey://a:99999"):
        with pytest.raises(Mendable, match="HOLDFAST_GATE_URL: write valkey://"):
            load_settings(gate_url=wrong)
    assert load_settings(gate_url="").gate_url.get_secret_value() == ""


async def test_a_gate_that_is_absent_is_away() -> None:
    gate = Gate(Settings(gate_url=""))  # type: ignore[arg-type]
    await gate.open()
    assert gate.is_absent
    assert gate.is_away
    with pytest.raises(GateAway):
        await gate.state(ids.new_id())
    await gate.close()
