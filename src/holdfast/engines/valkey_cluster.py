"""A Valkey or Redis cluster on loopback ports of one machine: three masters with a replica each, made without tools.

It keeps nothing on disk but who is who (nodes.conf): a node that comes back finds its place again, as a replica if
another has taken its slots meanwhile. A master that comes back sooner than that is empty, and so becomes its replica;
the gate is then loaded from PostgreSQL again.
"""

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hiredis

from holdfast import clock
from holdfast.engines import processes
from holdfast.engines.launch import last_line, launch
from holdfast.engines.processes import Process
from holdfast.engines.valkey_server import binary
from holdfast.errors import Mendable

SLOTS = 16384
NODE_TIMEOUT_MS = 1000
START_SECONDS_MAX = 60.0
ANSWER_SECONDS_MAX = 2.0

_BUS_OFFSET = 10_000
_PORT_MAX = 65535


class ClusterNode:
    """One node: started, ended, and asked; the process is anybody's to kill or to freeze."""

    def __init__(
        self, name: str, folder: Path, port: int, password: str, *, program: Path, announced_port: int, timeout_ms: int
    ) -> None:
        self.name = name
        self.folder = folder
        self.port = port
        self.announced_port = announced_port
        """Where others are told to find it: a proxy's port, or its own."""
        self.log = folder / "valkey.log"
        self._password = password
        self._program = program
        self._timeout_ms = timeout_ms
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the node and waits until it answers. It is what it was in its cluster, unless others took over."""
        self._child = child = launch(self.prepare(), self.folder, self.log)
        deadline = clock.monotonic_seconds() + START_SECONDS_MAX
        while clock.monotonic_seconds() < deadline and child.poll() is None:
            if self.answers():
                return
            time.sleep(0.01)
        self.stop()
        raise Mendable(f"The gate's node {self.name} did not start: {last_line(self.log)} (more in {self.log}).")

    def prepare(self) -> list[str]:
        """Makes the folder ready, with nothing running in it: the command that runs the node there."""
        self.stop()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self.folder / "valkey.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("".join(f"{line}\n" for line in self._configuration()))
        return [str(self._program), configuration.name]

    def stop(self) -> None:
        """Ends the node, a frozen one too."""
        running = processes.running_in(self.folder.resolve(), self._program.resolve().name)
        processes.end(running, ((processes.KILL, 5.0),))
        if child := self._child:
            child.wait()
            self._child = None

    @property
    def process(self) -> Process | None:
        """The running process; None where it has ended."""
        if self._child is not None:
            self._child.poll()  # takes note of its end, which would leave a zombie otherwise
        return next(iter(processes.running_in(self.folder.resolve(), self._program.resolve().name)), None)

    @property
    def pid(self) -> int | None:
        """The process id; None where it has ended."""
        running = self.process
        return None if running is None else running.pid

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.ask("PING") == "PONG")
        except OSError:
            return False

    def ask(self, *command: str | int) -> Any:
        """The reply to one command. Raises OSError where it does not answer, hiredis.ReplyError where it refuses."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS_MAX) as connection:
            reader = hiredis.Reader(encoding="utf-8")
            _exchange(connection, reader, "AUTH", self._password)
            return _exchange(connection, reader, *command)

    @property
    def id(self) -> str:
        """The cluster's name for it."""
        return str(self.ask("CLUSTER", "MYID"))

    @property
    def bus_port(self) -> int:
        """Where the nodes speak with each other."""
        return self.port + _BUS_OFFSET if self.port + _BUS_OFFSET <= _PORT_MAX else self.port - _BUS_OFFSET

    def sees(self) -> dict[str, str]:
        """What it says of the cluster: the fields of CLUSTER INFO."""
        return dict(line.split(":", 1) for line in self.ask("CLUSTER", "INFO").splitlines())

    def follows(self) -> str | None:
        """The id of the master that it is a replica of; None where it is a master."""
        myself = next(line.split() for line in self.ask("CLUSTER", "NODES").splitlines() if "myself" in line)
        return None if myself[3] == "-" else myself[3]

    def is_well(self) -> bool:
        """Whether it says that the cluster is well, and, being a replica, has its master's content."""
        replication = dict(line.split(":", 1) for line in self.ask("INFO", "replication").splitlines() if ":" in line)
        is_linked = replication["role"] == "master" or replication["master_link_status"] == "up"
        return is_linked and self.sees()["cluster_state"] == "ok"

    def _configuration(self) -> Sequence[str]:
        return (
            "bind 127.0.0.1",
            f"port {self.port}",
            # Not ten thousand above, where the system takes ports from for others.
            f"cluster-port {self.bus_port}",
            f"requirepass {self._password}",
            f"masterauth {self._password}",
            "protected-mode yes",
            'save ""',
            "appendonly no",
            "maxmemory-policy noeviction",
            "set-proc-title no",
            "always-show-logo no",
            "cluster-enabled yes",
            "cluster-config-file nodes.conf",
            f"cluster-node-timeout {self._timeout_ms}",
            "cluster-announce-ip 127.0.0.1",
            f"cluster-announce-port {self.announced_port}",
            f"cluster-announce-bus-port {self.bus_port}",
            # An event whose master and replica are both away is sold through PostgreSQL; the others go on.
            "cluster-require-full-coverage no",
            # A replica may take over however old what it has is: the gate loads anew whatever it finds there.
            "cluster-replica-validity-factor 0",
            # A replica of another master is not moved to where one is missing: roles stay where they are looked for.
            "cluster-migration-barrier 10",
            "repl-diskless-sync yes",
            "repl-diskless-sync-delay 0",
            "repl-diskless-load disabled",
            "repl-timeout 10",
        )


class ValkeyCluster:
    """Six nodes, gate-1 to gate-6: the first three begin as masters, each with the third after it as its replica.

    `ports` are the nodes' own, `announced_ports` what they tell clients and each other (proxies in front of them).
    `program` is valkey-server or redis-server >= 7.0; the wheel's where none is named.
    """

    def __init__(
        self,
        folder: Path,
        ports: Sequence[int],
        password: str,
        *,
        announced_ports: Sequence[int] = (),
        program: Path | None = None,
        node_timeout_ms: int = NODE_TIMEOUT_MS,
    ) -> None:
        assert len(ports) in range(6, 100, 2), "as many replicas as masters, of which there are three or more"
        self.folder = folder
        self.password = password
        self.nodes = [
            ClusterNode(
                f"gate-{number}",
                folder / f"gate-{number}",
                port,
                password,
                program=program or binary(),
                announced_port=announced,
                timeout_ms=node_timeout_ms,
            )
            for number, (port, announced) in enumerate(zip(ports, announced_ports or ports, strict=True), start=1)
        ]

    @property
    def url(self) -> str:
        """What HOLDFAST_GATE_URL says: every node, as clients are to find it."""
        return f"valkey://:{self.password}@" + ",".join(f"127.0.0.1:{node.announced_port}" for node in self.nodes)

    def start(self) -> None:
        """Starts every node, makes a cluster of them where they are none yet, and waits until all agree that it is."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for node in self.nodes:
            node.start()
        self.form()

    def form(self) -> None:
        """Makes a cluster of the nodes, which all answer, where they are none yet; waits until all agree that it is."""
        if all(node.sees()["cluster_known_nodes"] == "1" for node in self.nodes):
            self._create()
        self.wait_until_well()

    def stop(self) -> None:
        """Ends every node."""
        for node in self.nodes:
            node.stop()

    def wait_until_well(self, seconds: float = START_SECONDS_MAX) -> None:
        """Waits until every node says that the cluster is well, and every replica has its master's content."""
        _wait_for("the gate's cluster is well", seconds, lambda: all(node.is_well() for node in self.nodes))

    def master_of(self, tag: str) -> ClusterNode:
        """The node that has a hash tag's slot now, as the first sees it that answers."""
        for node in self.nodes:
            try:
                slot = node.ask("CLUSTER", "KEYSLOT", tag)
                ports = [told[0][1] for first, last, *told in node.ask("CLUSTER", "SLOTS") if first <= slot <= last]
            except OSError:
                continue
            if ports:
                return next(one for one in self.nodes if one.announced_port == ports[0])
        raise Mendable("No node of the gate's cluster answers: see their logs.")

    def replica_of(self, master: ClusterNode) -> ClusterNode:
        """A node that follows this one."""
        followed = master.id
        return next(node for node in self.nodes if node is not master and node.follows() == followed)

    def _create(self) -> None:
        half = len(self.nodes) // 2
        masters, replicas = self.nodes[:half], self.nodes[half:]
        for number, master in enumerate(masters):
            master.ask("CLUSTER", "ADDSLOTSRANGE", SLOTS * number // half, SLOTS * (number + 1) // half - 1)
            # To each its own, so that there is no collision to be settled.
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.announced_port, node.bus_port)
        everyone = str(len(self.nodes))
        _wait_for(
            "the gate's nodes have met",
            START_SECONDS_MAX,
            lambda: all(node.sees()["cluster_known_nodes"] == everyone for node in self.nodes),
        )
        for master, replica in zip(masters, replicas, strict=True):
            _follow(replica, master.id)


def _exchange(connection: socket.socket, reader: "hiredis.Reader", *command: str | int) -> Any:
    connection.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub wants a tuple of one
    while (reply := reader.gets()) is False:
        if not (part := connection.recv(65536)):
            raise ConnectionResetError("the node has ended the connection")
        reader.feed(part)
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply


def _follow(replica: ClusterNode, master_id: str) -> None:
    def does() -> bool:
        try:
            return bool(replica.ask("CLUSTER", "REPLICATE", master_id) == "OK")
        except hiredis.ReplyError:
            # It has heard of the master, and not yet from it.
            return False

    _wait_for(f"{replica.name} follows its master", START_SECONDS_MAX, does)


def _wait_for(what: str, seconds: float, is_so: Callable[[], bool]) -> None:
    deadline = clock.monotonic_seconds() + seconds
    while not is_so():
        if clock.monotonic_seconds() >= deadline:
            raise Mendable(f"After {seconds:.0f} s it is not so that {what}: see the nodes' logs.")
        time.sleep(0.02)
