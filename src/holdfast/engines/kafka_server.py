"""Kafka brokers on loopback ports, in KRaft mode: each is broker and controller, and keeps its log in its folder.

    servers = KafkaServers(folder, brokers=3)
    servers.start()                     # all of them, until each knows of the others
    settings = Settings(kafka_url=servers.url, ...)
    servers.brokers[1].kill()           # kill -9; `start()` brings it back with its log
    servers.stop(hurry=True)

One machine and no password: it is the real program for tests and `holdfast cluster`, not a set-up for a network.
"""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from holdfast import clock
from holdfast.engines import processes
from holdfast.engines.kafka_jars import jars, java
from holdfast.engines.launch import clean_environment, last_line, launch
from holdfast.engines.private_engines import free_port
from holdfast.engines.processes import Process
from holdfast.errors import Mendable

START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 10.0

# Any 16 bytes in base 64; brokers of another one are refused by each other.
_CLUSTER_ID = "aG9sZGZhc3QtbG9jYWwtMQ"

_JAVA = ("-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.awt.headless=true")


class Seat(NamedTuple):
    """Where one broker listens: clients, other controllers, and the port that clients are told (a proxy's, say)."""

    node: int
    port: int
    controller_port: int
    told_port: int


class KafkaBroker:
    """One broker of a cluster. Its process works in its folder, by which it is found again."""

    def __init__(self, folder: Path, seat: Seat, seats: Sequence[Seat], heap_megabytes: int) -> None:
        self.folder = folder.resolve()
        self.seat = seat
        self.log = self.folder / "kafka.log"
        self._seats = seats
        self._heap = f"-Xmx{heap_megabytes}m"
        self._child: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Starts the process, formatting its folder the first time; does not wait until it answers."""
        self._child = launch(self.prepare(), self.folder, self.log)

    def prepare(self) -> list[str]:
        """Makes the folder ready, with nothing running in it: the command that runs the broker there."""
        self.stop(hurry=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "server.properties").write_text(self._properties())
        with as_file(files("holdfast.engines") / "kafka" / "log4j2.properties") as logging:
            (self.folder / "log4j2.properties").write_bytes(logging.read_bytes())
        command = [java(), *_JAVA, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", f"{jars()}/*"]
        if not (self.folder / "data" / "meta.properties").exists():
            self._format([*command, "-Xmx64m"])
        return [*command, self._heap, "kafka.Kafka", "server.properties"]

    def start(self) -> None:
        """Starts the process and waits until the broker answers."""
        self.launch()
        self.wait(START_SECONDS_MAX)

    def wait(self, seconds: float, brokers_min: int = 1) -> None:
        """Waits until the broker answers and knows of so many. Raises Mendable with the log's last line."""
        deadline = clock.monotonic_seconds() + seconds
        while clock.monotonic_seconds() < deadline and (self._child is None or self._child.poll() is None):
            if self.knows_of() >= brokers_min:
                return
            time.sleep(0.05)
        raise Mendable(f"Kafka did not start: {last_line(self.log)} (more in {self.log}).")

    def knows_of(self) -> int:
        """How many brokers this one says there are; 0 where it does not answer."""
        client = AdminClient(
            {"bootstrap.servers": f"127.0.0.1:{self.seat.port}", "log_level": 0, "socket.timeout.ms": 2000}
        )
        with suppress(KafkaException):
            return len(client.describe_cluster(request_timeout=2).result().nodes)
        return 0

    def stop(self, *, hurry: bool = False) -> None:
        """Ends the process; in a hurry by kill -9, which its log survives."""
        endings = ((processes.KILL, STOP_SECONDS_MAX),) if hurry else processes.endings(STOP_SECONDS_MAX)
        processes.end(processes.running_in(self.folder, "java"), endings)
        if child := self._child:
            child.wait()
            self._child = None

    def kill(self) -> None:
        """kill -9."""
        self.stop(hurry=True)

    def freeze(self) -> None:
        """SIGSTOP: connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    @property
    def process(self) -> Process | None:
        """The running broker of this folder, whoever started it; None where none runs."""
        if self._child is not None:
            self._child.poll()  # takes note of its end, which would leave a zombie otherwise
        return next(iter(processes.running_in(self.folder, "java")), None)

    def _signal(self, number: int) -> None:
        process = self.process
        assert process is not None, "the broker does not run"
        processes.send(process, number)

    def _format(self, command: Sequence[str]) -> None:
        ended = subprocess.run(  # noqa: S603
            [*command, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", "server.properties"],
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            last = (ended.stderr + ended.stdout).strip().splitlines()[-1:]
            raise Mendable(f"Kafka's folder {self.folder} could not be made: {''.join(last)}")

    def _properties(self) -> str:
        copies = min(3, len(self._seats))
        voters = ",".join(f"{seat.node}@127.0.0.1:{seat.controller_port}" for seat in self._seats)
        return _lines(
            {
                "process.roles": "broker,controller",
                "node.id": self.seat.node,
                "controller.quorum.voters": voters,
                "listeners": f"CLIENT://127.0.0.1:{self.seat.port},CONTROLLER://127.0.0.1:{self.seat.controller_port}",
                "advertised.listeners": f"CLIENT://127.0.0.1:{self.seat.told_port}",
                "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "inter.broker.listener.name": "CLIENT",
                "controller.listener.names": "CONTROLLER",
                "log.dirs": "data",
                "auto.create.topics.enable": "false",
                "unclean.leader.election.enable": "false",
                "default.replication.factor": copies,
                "min.insync.replicas": max(1, copies - 1),
                "offsets.topic.replication.factor": copies,
                "offsets.topic.num.partitions": 4,
                "transaction.state.log.replication.factor": copies,
                "transaction.state.log.min.isr": max(1, copies - 1),
                "transaction.state.log.num.partitions": 4,
                # One that is gone or frozen is left out after so long: until then acks=all waits for it.
                "broker.heartbeat.interval.ms": 1000,
                "broker.session.timeout.ms": 6000,
                "replica.lag.time.max.ms": 6000,
                # Small, since some of them share a machine with everything else.
                "group.initial.rebalance.delay.ms": 0,
                "num.network.threads": 2,
                "num.io.threads": 4,
                "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
                "log.cleaner.io.buffer.size": 65536,
            }
        )


class KafkaServers:
    """Some brokers that make one cluster. Data, ports and logs of each are in a folder of its own below `folder`.

    `seats` gives the ports, where they must stay the same or a proxy stands before the clients' ones.
    """

    def __init__(
        self, folder: Path, brokers: int = 3, seats: Sequence[Seat] | None = None, heap_megabytes: int = 256
    ) -> None:
        seats = seats or [_seat(node) for node in range(1, brokers + 1)]
        self.brokers = [KafkaBroker(folder / f"kafka-{seat.node}", seat, seats, heap_megabytes) for seat in seats]

    def start(self) -> None:
        """Starts all and waits until each knows of all. On failure none is left."""
        try:
            with ThreadPoolExecutor() as pool:
                for _ in pool.map(KafkaBroker.launch, self.brokers):
                    pass
            for broker in self.brokers:
                broker.wait(START_SECONDS_MAX, len(self.brokers))
        except BaseException:
            self.stop(hurry=True)
            raise

    def stop(self, *, hurry: bool = False) -> None:
        """Ends all. Without a quorum of controllers none ends by itself, so only the first is asked politely."""
        for index, broker in enumerate(self.brokers):
            broker.stop(hurry=hurry or index > 0)

    @property
    def url(self) -> str:
        """What HOLDFAST_KAFKA_URL takes."""
        return "kafka://" + ",".join(f"127.0.0.1:{broker.seat.told_port}" for broker in self.brokers)


def _seat(node: int) -> Seat:
    port, controller_port = free_port(), free_port()
    return Seat(node, port, controller_port, port)


def _lines(properties: Mapping[str, object]) -> str:
    return "".join(f"{name}={value}\n" for name, value in properties.items())
