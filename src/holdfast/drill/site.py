"""The cluster as the drills see it: its members by name, what can be done to them, and when it is whole again."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from typing import Self
from urllib.parse import SplitResult, urlsplit

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from holdfast import clock
from holdfast.cluster.cluster import Cluster
from holdfast.cluster.layout import HOST, SERVICES
from holdfast.cluster.member import Member
from holdfast.cluster.parts.postgres import PostgresMember, node_state
from holdfast.drill.audit.gate import GateReader
from holdfast.drill.cuts.links import Links
from holdfast.drill.cuts.proxy import Cut
from holdfast.engines import processes
from holdfast.errors import Mendable

_WHOLE_SECONDS_MAX = 120.0
_SAY_SECONDS = 5.0
_LOOK_SECONDS = 0.25
_KAFKA_SECONDS_MAX = 2.0
_GATEWAY = "gateway"


class Site:
    """A cluster with its links. Entered before the cluster is started: its members go by the links from the first."""

    def __init__(self, cluster: Cluster, say: Callable[[str], None] = lambda line: None) -> None:
        self.cluster = cluster
        self._say = say
        self._links = Links()
        self._gateway_port = 0

    async def __aenter__(self) -> Self:
        await self._links.__aenter__()
        layout = self.cluster.layout
        for place in layout.links():
            await self._links.open(place.name, place.target_port, place.port)
        self._gateway_port = await self._links.open(_GATEWAY, layout.gateway_port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._links.__aexit__()

    @property
    def url(self) -> SplitResult:
        """Where the buyers come in: the link to the gateway."""
        return urlsplit(f"http://{HOST}:{self._gateway_port}")

    def names(self, kind: str) -> list[str]:
        """The members of a kind."""
        return [member.name for member in self.cluster.kind(kind)]

    def services(self) -> list[tuple[str, ...]]:
        """The processes of the three services, one of each service at a time."""
        return list(zip(*(self.names(role) for role in SERVICES), strict=True))

    def relays(self) -> list[str]:
        """The workers that publish the outbox."""
        return [name for name in self.names("worker") if name.startswith("relay")]

    async def primary(self) -> str:
        """PostgreSQL's primary. Raises Mendable where there is none for a minute."""
        return (await self.cluster.primary()).name

    async def find_primary(self) -> str | None:
        """The primary that there is now; None where there is none."""
        for number, name in enumerate(self.cluster.layout.postgres, start=1):
            try:
                if (await node_state(self.cluster.layout.port(f"patroni-{number}"))).role == "primary":
                    return name
            except (OSError, TimeoutError):
                continue
        return None

    async def standbys(self) -> list[str]:
        """The other nodes of PostgreSQL."""
        return [member.name for member in await self.cluster.standbys()]

    async def masters(self) -> list[str]:
        """The gate's masters, in the order of their slots."""
        layout = self.cluster.layout
        by_port = {layout.reached_port(name): name for name in layout.gate}
        found = await GateReader(self.cluster.settings.gate_url.get_secret_value()).masters()
        return [by_port[node.port] for node in sorted(found, key=lambda node: node.first)]

    def kill(self, name: str, *, whole: bool = False) -> None:
        """kill -9; of a database `whole` its Patroni too."""
        member = self.cluster.member(name)
        if isinstance(member, PostgresMember):
            member.kill(whole=whole)
        else:
            member.kill()

    def freeze(self, name: str, *, whole: bool = False) -> None:
        """SIGSTOP; of a database `whole` its Patroni too."""
        member = self.cluster.member(name)
        if isinstance(member, PostgresMember):
            member.freeze(whole=whole)
        else:
            member.freeze()

    def freeze_patroni(self, name: str) -> None:
        """SIGSTOP of a database's Patroni alone."""
        for process in Member.running(self.cluster.member(name)):
            processes.send(process, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.cluster.member(name).thaw()

    def hold_down(self, name: str) -> None:
        """It is not started again when it ends, until it is released."""
        self.cluster.hold_down(name)

    def release(self, name: str) -> None:
        """It may run again."""
        self.cluster.release(name)

    async def cut(self, name: str, cut: Cut) -> None:
        """Does this to everything that goes to a member by its link."""
        await self._links.apply(name, cut)

    async def restart(self, name: str) -> None:
        """Ends a member in order, and waits until it is ready again."""
        member = self.cluster.member(name)
        starts = member.starts
        await member.stop()
        async with asyncio.timeout(_WHOLE_SECONDS_MAX):
            while member.starts == starts:
                await asyncio.sleep(_LOOK_SECONDS)
        await member.until_ready()

    async def until_ready(self, names: Sequence[str]) -> None:
        """Waits until these members can be used."""
        await asyncio.gather(*(self.cluster.member(name).until_ready() for name in names))

    async def until_whole(self) -> None:
        """Waits until every member is ready, both standbys follow, every master of the gate has a replica, and every
        partition is on all brokers. Raises Mendable where that does not come to be."""
        await self.until_ready(list(self.cluster.members))
        began, said = clock.monotonic_seconds(), ""
        while missing := await self._missing():
            seconds = clock.monotonic_seconds() - began
            if seconds >= _WHOLE_SECONDS_MAX:
                raise Mendable(f"The cluster does not become whole: {missing} (see {self.cluster.folder.logs}).")
            if seconds >= _SAY_SECONDS and missing != said:
                said = missing
                self._say(f"waiting: {missing}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _missing(self) -> str:
        numbers = range(1, len(self.cluster.postgres) + 1)
        try:
            states = [await node_state(self.cluster.layout.port(f"patroni-{number}")) for number in numbers]
            wells = await asyncio.gather(*(asyncio.to_thread(node.is_well) for node in self.cluster.gate.nodes))
            masters = [node for node in self.cluster.gate.nodes if await asyncio.to_thread(node.follows) is None]
            behind = await asyncio.to_thread(self._partitions_behind)
        except (OSError, TimeoutError, KafkaException) as error:
            return f"a member does not answer ({error})"
        if sorted(state.role for state in states) != ["primary", "replica", "replica"]:
            return "PostgreSQL has not one primary and two standbys"
        if any(not state.is_counted for state in states if state.role == "replica"):
            return "the primary does not wait for a standby yet"
        if not all(wells) or len(masters) * 2 != len(wells):
            return "the gate is not three masters with a replica each"
        return f"{behind} partitions are not on every broker" if behind else ""

    def _partitions_behind(self) -> int:
        brokers = self.cluster.layout.hosts(self.cluster.layout.kafka)
        # Without a logger of its own it would write about every broker that is away.
        found = AdminClient({"bootstrap.servers": brokers, "log_level": 0}).list_topics(timeout=_KAFKA_SECONDS_MAX)
        partitions = [one for topic in found.topics.values() for one in topic.partitions.values()]
        return sum(len(one.isrs) < len(one.replicas) for one in partitions)
