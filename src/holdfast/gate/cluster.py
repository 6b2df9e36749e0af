"""The servers behind the gate: one, or the masters of a cluster, each with a breaker of its own.

Which master has an event is decided by the hash tag of its keys: sixteen thousand slots, each of one master. A process
keeps the map that the nodes themselves gave it, and asks for it anew when something shows that it may be out of date: a
node that says MOVED, a connection that is lost, a master that does not answer. That happens beside the purchases; none
of them waits for it. A map that is out of date does no harm but that the gate is passed by: what an event's gate holds
is bound to the master that it was loaded into (gate.lua).
"""

import asyncio
from binascii import crc_hqx
from contextlib import suppress
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import structlog

from holdfast.clock import monotonic_seconds
from holdfast.gate.wire import ReplyError, Wire, WireError
from holdfast.settings import Settings, each_host

SLOTS = 16384
ASKED_MAX = 16
"""Nodes that are asked for the map at a time."""

PORT = 6379

_SOON_SECONDS = 0.1

_log = structlog.get_logger(__name__)


def slot_of(tag: str) -> int:
    """The slot of a hash tag: CRC-16/XMODEM."""
    return crc_hqx(tag.encode(), 0) % SLOTS


class Node:
    """One server, with its breaker."""

    __slots__ = ("address", "error", "id", "is_away", "retry_at", "wire")

    def __init__(self, address: str, wire: Wire) -> None:
        self.address = address
        self.id = ""
        """The cluster's name for it; empty for a server that is alone."""
        self.wire = wire
        self.is_away = False
        self.error = ""
        """Why, when it is."""
        self.retry_at = 0.0

    def trip(self, retry_seconds: float, error: Exception) -> None:
        """Keeps everybody from it, at least so long."""
        if not self.is_away:
            _log.warning("gate away", node=self.address, error=str(error))
        self.is_away, self.error = True, str(error)
        self.retry_at = monotonic_seconds() + retry_seconds

    def mend(self) -> None:
        """It has answered."""
        if self.is_away and monotonic_seconds() >= self.retry_at:
            _log.info("gate back", node=self.address)
            self.is_away = False


class _View(NamedTuple):
    """How one node sees the cluster. A server that is alone sees none."""

    node: Node
    is_ok: bool
    epoch: int
    slots: list[Any] | None


class Nodes:
    """The servers of one process's gate."""

    def __init__(self, settings: Settings) -> None:
        urls = [urlsplit(url) for url in each_host(settings.gate_url.get_secret_value())]
        self._url = urls[0]
        self._timeout_seconds = settings.gate_timeout_seconds
        self._retry_seconds = settings.gate_retry_seconds
        self._nobody = Node("nobody", Wire(self._url, 0))
        self._nobody.is_away = True
        self._known: dict[str, Node] = {}
        self._seeds = [self._node(url.hostname or "", url.port or PORT) for url in urls]
        self.is_cluster = len(urls) > 1
        """Several hosts are a cluster's. Whether one is a node of a cluster it says itself."""
        self.masters: list[Node] = [] if self.is_cluster else self._seeds[:]
        self.by_slot: list[Node] = [self._nobody if self.is_cluster else self._seeds[0]] * SLOTS
        self._is_wanted = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._learning: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        """Whether no master can be asked."""
        return all(node.is_away for node in self.masters)

    @property
    def unserved(self) -> int:
        """How many slots no master serves."""
        return self.by_slot.count(self._nobody)

    def trip(self, node: Node, error: Exception) -> None:
        """A master has failed: nobody asks it until it answers here, or another has taken its place."""
        node.trip(self._retry_seconds, error)
        self.learn_soon()

    def learn_soon(self) -> None:
        """The map may be out of date: it is asked for, beside whatever goes on."""
        self._is_wanted.set()
        self.watch()

    def watch(self) -> None:
        """Sees to it that what is away is looked for."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="gate nodes")

    async def learn(self) -> None:
        """Asks the nodes for the map, and which of them answer. Whoever else wants that meanwhile shares it."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn(), name="gate map")
        await asyncio.shield(self._learning)

    async def close(self) -> None:
        """Ends the connections."""
        tasks = [task for task in (self._watching, self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._known.values():
            await node.wire.close()

    async def _watch(self) -> None:
        """Looks while anything is amiss, which all the time otherwise nobody does."""
        try:
            while self._is_wanted.is_set() or self._is_amiss():
                self._is_wanted.clear()
                await self.learn()
                await asyncio.sleep(_SOON_SECONDS)
                if self._is_amiss():
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._is_wanted.wait(), self._retry_seconds)
        finally:
            self._watching = None

    def _is_amiss(self) -> bool:
        return not self.masters or any(node.is_away for node in self.masters) or bool(self.unserved)

    async def _learn(self) -> None:
        asked = list(dict.fromkeys(chain(self.masters, self._seeds, self._known.values())))[:ASKED_MAX]
        views = [view for view in await asyncio.gather(*map(self._view_of, asked)) if view is not None]
        # A node that was cut off or asleep tells of former times: failovers are counted.
        best = max(views, key=lambda view: (view.is_ok, view.epoch), default=None)
        if best is not None and best.slots is not None:
            self._adopt(best, best.slots)
        elif best is not None and self.is_cluster:
            _log.warning("gate_url has several hosts, but they are not one cluster", node=best.node.address)
        for node in self._known.values():
            if node not in self.masters:
                # Replicas are there to be asked for the map, and for nothing else.
                await node.wire.close()

    async def _view_of(self, node: Node) -> _View | None:
        """None where it does not answer, for which a master is kept away from."""
        try:
            said = _fields(await node.wire.call("CLUSTER", "INFO"))
            slots = await node.wire.call("CLUSTER", "SLOTS")
        except (WireError, ReplyError) as error:
            if "cluster support disabled" not in str(error):
                if node in self.masters:
                    node.trip(self._retry_seconds, error)
                elif not self.masters:
                    _log.warning("gate node does not answer", node=node.address, error=str(error))
                return None
            said, slots = {}, None
        node.mend()
        return _View(node, said.get("cluster_state") == "ok", int(said.get("cluster_current_epoch", 0)), slots)

    def _adopt(self, view: _View, slots: list[Any]) -> None:
        """Takes over a node's map. A slot that no master serves has nobody, who is always away."""
        by_slot, masters, told = [self._nobody] * SLOTS, [], set(self._seeds)
        for first, last, *addresses in slots:
            nodes = [self._node(_host(view, host), port) for host, port, *_ in addresses]
            for node, address in zip(nodes, addresses, strict=True):
                node.id = address[2]
            by_slot[first : last + 1] = [nodes[0]] * (last + 1 - first)
            masters.append(nodes[0])
            told.update(nodes)
        before, self.masters, self.by_slot = self.masters, list(dict.fromkeys(masters)), by_slot
        self.is_cluster = True
        for node in set(self.masters) - set(before):
            node.is_away = False
        if set(before) != set(self.masters):
            _log.info("gate masters", nodes=[node.address for node in self.masters], unserved=self.unserved)
        for node in set(self._known.values()) - told:
            # Nobody is told to wait for it: what it is being asked has no answer any more.
            node.wire.lose()
            del self._known[node.address]

    def _node(self, host: str, port: int) -> Node:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        node = self._known.get(address)
        if node is None:
            # User and password are the same everywhere.
            login, at, _ = self._url.netloc.rpartition("@")
            url = self._url._replace(netloc=f"{login}{at}{address}")
            node = self._known[address] = Node(address, Wire(url, self._timeout_seconds, self._note_loss))
        return node

    def _note_loss(self) -> None:
        # A server that is alone is asked again by the next purchase; of a cluster another may have taken its place.
        if self.is_cluster:
            self.learn_soon()


def _host(view: _View, told: str | None) -> str:
    # What a node does not know by name is the node itself, as it was reached.
    return told if told and told != "?" else view.node.address.rpartition(":")[0].strip("[]")


def _fields(text: str) -> dict[str, str]:
    """The lines `name:value` of an INFO."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
