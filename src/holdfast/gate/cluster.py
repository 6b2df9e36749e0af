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
from typing import NamedTuple
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
_ALONE = ("cluster support disabled", "unknown command", "NOPERM")
"""How a server says that it is no node of a cluster, or none that would tell us of it."""
_NONSENSE = (AttributeError, KeyError, TypeError, ValueError)
"""What comes of an answer that no node of a cluster gives."""

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


class _Range(NamedTuple):
    """Some slots: the first, the last, and who has them, the master first: host, port and name."""

    first: int
    last: int
    nodes: list[tuple[str, int, str]]


class _View(NamedTuple):
    """How one node sees the cluster. A server that is alone sees none."""

    node: Node
    is_ok: bool
    epoch: int
    ranges: list[_Range] | None


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
        self.is_well = True
        """What the cluster says of itself: not while most of its masters are missing."""
        self._said: set[str] = set()
        """What was complained of since the last map."""
        self._is_closed = False
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
        if self._watching is None and not self._is_closed:
            self._watching = asyncio.create_task(self._watch(), name="gate nodes")

    async def learn(self) -> None:
        """Asks the nodes for the map, and which of them answer. Whoever else wants that meanwhile shares it."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn(), name="gate map")
        await asyncio.shield(self._learning)

    async def close(self) -> None:
        """Ends the connections."""
        self._is_closed = True
        tasks = [task for task in (self._watching, self._learning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for node in self._known.values():
            await node.wire.close()

    async def _watch(self) -> None:
        """Looks while anything is amiss. While all is well nobody does."""
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
        return not self.masters or not self.is_well or any(node.is_away for node in self.masters)

    async def _learn(self) -> None:
        asked = list(dict.fromkeys(chain(self.masters, self._seeds, self._known.values())))[:ASKED_MAX]
        views = [view for view in await asyncio.gather(*map(self._view_of, asked)) if view is not None]
        # A node that was cut off or asleep tells of former times: failovers are counted.
        best = max(views, key=lambda view: (view.is_ok, view.epoch), default=None)
        if best is not None and best.ranges is not None:
            self._adopt(best, best.ranges)
        elif best is not None and self.is_cluster:
            self._complain(best.node, "HOLDFAST_GATE_URL has several hosts, and this is no node of a cluster")
        for node in self._known.values():
            if node not in self.masters:
                # Replicas are there to be asked for the map, and for nothing else.
                await node.wire.close()

    async def _view_of(self, node: Node) -> _View | None:
        """None where it does not answer, for which a master is kept away from."""
        try:
            view = await _ask(node)
        except (WireError, ReplyError, *_NONSENSE) as failure:
            error = WireError("it does not speak as a gate does") if isinstance(failure, _NONSENSE) else failure
            if node in self.masters:
                node.trip(self._retry_seconds, error)
            elif not self.masters:
                self._complain(node, str(error))
            return None
        node.mend()
        return view

    def _adopt(self, view: _View, ranges: list[_Range]) -> None:
        """Takes over a node's map. A slot that no master serves has nobody, who is always away."""
        by_slot, masters, told = [self._nobody] * SLOTS, [], set(self._seeds)
        for first, last, named in ranges:
            nodes = [self._node(host, port) for host, port, _ in named]
            for node, (_, _, name) in zip(nodes, named, strict=True):
                node.id = name
            by_slot[first : last + 1] = [nodes[0]] * (last + 1 - first)
            masters.append(nodes[0])
            told.update(nodes)
        before, self.masters, self.by_slot = set(self.masters), list(dict.fromkeys(masters)), by_slot
        self.is_cluster, self.is_well = True, view.is_ok
        self._said.clear()
        for node in set(self.masters) - before:
            node.is_away = False
        if before != set(self.masters):
            _log.info("gate masters", nodes=[node.address for node in self.masters], unserved=self.unserved)
        for node in set(self._known.values()) - told:
            del self._known[node.address]
            node.wire.lose()

    def _complain(self, node: Node, error: str) -> None:
        """Says once why there is no gate; it is asked for again and again."""
        if error not in self._said:
            self._said.add(error)
            _log.warning("gate away", node=node.address, error=error)

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


async def _ask(node: Node) -> _View:
    """What a node says of itself. Raises WireError, ReplyError and _NONSENSE."""
    try:
        said = _fields(await node.wire.call("CLUSTER", "INFO"))
    except ReplyError as error:
        if not any(sign in str(error) for sign in _ALONE):
            raise
        return _View(node, False, 0, None)
    ranges = [
        _Range(first, last, [(_host(node, host), port, name) for host, port, name, *_ in nodes])
        for first, last, *nodes in await node.wire.call("CLUSTER", "SLOTS")
    ]
    return _View(node, said["cluster_state"] == "ok", int(said["cluster_current_epoch"]), ranges)


def _host(asked: Node, told: str | None) -> str:
    # What a node has no name for is the node itself, as it was reached.
    return told if told and told != "?" else asked.address.rpartition(":")[0].strip("[]")


def _fields(text: str) -> dict[str, str]:
    """The lines `name:value` of an INFO."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
