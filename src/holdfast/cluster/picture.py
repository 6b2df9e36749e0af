"""What a running cluster looks like: each member's role, state and lag, how much is sold, how old the outbox is.

Everything is asked of the members themselves, so that whoever may read the data folder can look, in another shell too.
"""

import asyncio
from contextlib import suppress

import asyncpg
import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from holdfast import clock
from holdfast.cluster.asking import answers
from holdfast.cluster.layout import HOST, SERVICES, Layout
from holdfast.cluster.note import ClusterNote, MemberNote
from holdfast.cluster.parts.gate import gate_cluster
from holdfast.cluster.parts.postgres import NodeState, node_state
from holdfast.engines import processes
from holdfast.engines.hosts.connection import connect_to_primary
from holdfast.engines.statements import load_statements

_ACTIVITY = load_statements("holdfast.cluster", "cluster.sql")["activity"]
_ASK_SECONDS_MAX = 2.0
_SAYS = (OSError, TimeoutError)


class MemberState(msgspec.Struct, frozen=True):
    """One member as it is now."""

    name: str
    kind: str
    role: str
    """primary, standby; master, replica; leads 12 partitions; '' where there is none to tell."""
    state: str
    """well, or what else it is: down, held down, frozen, not ready, not answering, …"""
    pid: int | None
    port: int | None
    uptime_seconds: int
    restarts: int
    lag: str = ""
    """How far it is behind its primary or master, or how many of its copies are behind; '' where that is nothing."""


class Picture(msgspec.Struct, frozen=True):
    """The whole cluster as it is now."""

    members: tuple[MemberState, ...]
    orders_per_second: float | None
    """Written since the last look; None where that is not known."""
    outbox_age_seconds: float | None

    @property
    def is_well(self) -> bool:
        """Whether every member is."""
        return all(member.state == "well" for member in self.members)


class Observer:
    """Looks at one cluster again and again."""

    def __init__(self, layout: Layout, owner_url: str, gate_password: str) -> None:
        self._layout = layout
        self._owner_url = owner_url
        self._gate = {node.name: node for node in gate_cluster(layout, gate_password).nodes}
        self._kafka: AdminClient | None = None
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._orders: tuple[float, int] | None = None

    async def look(self, note: ClusterNote) -> Picture:
        """Asks everyone at once."""
        nodes, kafka, (orders, age) = await asyncio.gather(
            self._postgres(), asyncio.to_thread(self._brokers), self._activity()
        )
        members = await asyncio.gather(*(self._member(one, nodes, kafka) for one in note.members))
        return Picture(tuple(members), orders, age)

    async def close(self) -> None:
        """Lets the database go."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _member(
        self, one: MemberNote, nodes: dict[str, NodeState], kafka: dict[int, tuple[int, int]]
    ) -> MemberState:
        role, state, lag = "", "well", ""
        process = one.process
        if process is None or not processes.is_alive(process):
            state = "held down" if one.held_down else "down"
        elif processes.is_frozen(process):
            state = "frozen"
        elif one.kind == "postgres":
            role, state, lag = _node(one.name, nodes)
        elif one.kind == "kafka":
            role, state, lag = _broker(kafka.get(int(one.name.rpartition("-")[2])), answered=bool(kafka))
        elif one.kind == "gate":
            role, state, lag = await asyncio.to_thread(self._gate_node, one.name)
        elif one.kind == "etcd":
            state = await self._state(one.port, "/health")
            role = "leader"
        elif one.kind == "gateway":
            state = await self._state(self._layout.port("gateway-admin"), "/ready")
        elif one.kind in SERVICES:
            state = await self._state(one.port, "/readyz")
        else:
            role = "worker"
        is_there = process is not None and state not in ("down", "held down")
        pid, age = (process.pid, processes.age_seconds(process)) if process and is_there else (None, 0.0)
        return MemberState(one.name, one.kind, role, state, pid, one.port, int(age), one.restarts, lag)

    async def _state(self, port: int | None, path: str) -> str:
        try:
            return "well" if port is None or await answers(port, path) else "not ready"
        except _SAYS:
            return "not answering"

    async def _postgres(self) -> dict[str, NodeState]:
        async def one(number: int) -> NodeState | None:
            with suppress(*_SAYS):
                return await node_state(self._layout.port(f"patroni-{number}"))
            return None

        names = self._layout.postgres
        states = await asyncio.gather(*(one(number) for number in range(1, len(names) + 1)))
        return {name: state for name, state in zip(names, states, strict=True) if state is not None}

    def _brokers(self) -> dict[int, tuple[int, int]]:
        """Of each broker that is there: the partitions it leads, and those of them that have too few copies."""
        if self._kafka is None:
            hosts = ",".join(f"{HOST}:{self._layout.port(name)}" for name in self._layout.kafka)
            self._kafka = AdminClient({"bootstrap.servers": hosts, "log_level": 0})
        try:
            known = self._kafka.list_topics(timeout=_ASK_SECONDS_MAX)
        except KafkaException:
            return {}
        counts = {broker: [0, 0] for broker in known.brokers}
        for topic in known.topics.values():
            for partition in topic.partitions.values():
                if partition.leader in counts:
                    counts[partition.leader][0] += 1
                    counts[partition.leader][1] += len(partition.isrs) < len(partition.replicas)
        return {broker: (leads, behind) for broker, (leads, behind) in counts.items()}

    def _gate_node(self, name: str) -> tuple[str, str, str]:
        try:
            said = self._gate[name].ask("INFO", "replication")
            well = self._gate[name].sees()["cluster_state"] == "ok"
        except _SAYS:
            return "", "not answering", ""
        told = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
        if told["role"] == "master":
            return "master", "well" if well else "cluster not whole", ""
        linked = told["master_link_status"] == "up"
        return "replica", "well" if well and linked else "not following", ""

    async def _activity(self) -> tuple[float | None, float | None]:
        try:
            async with asyncio.timeout(_ASK_SECONDS_MAX):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await connect_to_primary(self._owner_url, timeout=_ASK_SECONDS_MAX)
                row = await self._connection.fetchrow(_ACTIVITY)
        except (*_SAYS, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self.close()
            return None, None
        assert row is not None
        now, before = clock.monotonic_seconds(), self._orders
        self._orders = now, int(row["orders"] or 0)
        rate = None
        if before is not None and now > before[0]:
            rate = max(0.0, (self._orders[1] - before[1]) / (now - before[0]))
        return rate, float(row["outbox_age_seconds"] or 0)


def _node(name: str, nodes: dict[str, NodeState]) -> tuple[str, str, str]:
    state = nodes.get(name)
    if state is None:
        return "", "not answering", ""
    if state.role == "primary":
        return "primary", "well" if state.state == "running" else state.state, ""
    primary = next((one for one in nodes.values() if one.role == "primary"), None)
    behind = primary.position - state.position if primary is not None else 0
    lag = f"{behind / 1024:,.0f} KiB" if behind > 0 else ""
    return "standby", "well" if state.state == "streaming" else state.state, lag


def _broker(counts: tuple[int, int] | None, *, answered: bool) -> tuple[str, str, str]:
    if counts is None:
        return "", "left out" if answered else "not answering", ""
    leads, behind = counts
    return f"leads {leads}", "well", f"{behind} short of copies" if behind else ""
