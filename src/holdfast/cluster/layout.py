"""Where everything of a cluster is: the names of its members, their folders, their ports, and the links by which the
services reach the engines.

All ports lie in one block below those that the system gives to outgoing connections, so that none is taken by chance
while the member that listens on it is down.
"""

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
SERVICES = ("auth", "tickets", "orders")
SERVICES_EACH_MAX = 9
POSTGRES_NODES = 3
GATE_NODES = 6
KAFKA_NODES = 3

_BLOCK = 200
_LINK = 100  # the link to what listens on a port listens so many above it
_PORTS_FROM = 12_000
_BUS = 10_000  # the gate's nodes speak with each other so far above their ports
_TRIES = 50
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_ETCD, _ETCD_PEER, _GATEWAY_ADMIN = 0, 1, 9
_OFFSETS = {
    "postgres": 10,
    "patroni": 15,
    "gate": 20,
    "kafka": 40,
    "kafka-controller": 45,
    "auth": 60,
    "tickets": 70,
    "orders": 80,
}
_LINKED = ("postgres", "gate", "kafka", *SERVICES)
_LINK_TO_ETCD = 100


class Link(NamedTuple):
    """A port that is to pass everything on to another one, so that what goes by it can be delayed or cut."""

    name: str
    """The member behind it; `etcd-1` is the way of postgres-1's Patroni to etcd."""
    port: int
    target_port: int


@dataclass(frozen=True)
class Layout:
    """The places of one cluster. Names are those of the members, such as `postgres-1`."""

    path: Path
    port_base: int
    gateway_port: int
    services_each: int = 2
    proxied: bool = False
    """Whether services and gateway go by links, which somebody else provides; members talk among themselves directly,
    but a replica of the gate follows its master by the master's link."""

    def port(self, name: str) -> int:
        """The port a member listens on; `patroni-1`, `kafka-controller-1`, `etcd-peer` and `gateway-admin` are members'
        other ports."""
        fixed = {"etcd": _ETCD, "etcd-peer": _ETCD_PEER, "gateway-admin": _GATEWAY_ADMIN}
        if name == "gateway":
            return self.gateway_port
        if name in fixed:
            return self.port_base + fixed[name]
        kind, _, number = name.rpartition("-")
        return self.port_base + _OFFSETS[kind] + int(number)

    def reached_port(self, name: str) -> int:
        """The port by which others reach a member: its own, or its link's."""
        return self.port(name) + (_LINK if self.proxied and name.rpartition("-")[0] in _LINKED else 0)

    def etcd_port_of(self, postgres: str) -> int:
        """The port by which this node's Patroni reaches etcd."""
        number = int(postgres.rpartition("-")[2])
        return self.port_base + _LINK_TO_ETCD + number if self.proxied else self.port("etcd")

    def links(self) -> list[Link]:
        """Every link that has to be there before the cluster starts; none where it is not proxied."""
        if not self.proxied:
            return []
        names = [*self.postgres, *self.gate, *self.kafka, *(one for role in SERVICES for one in self.service(role))]
        links = [Link(name, self.reached_port(name), self.port(name)) for name in names]
        to_etcd = [(f"etcd-{n}", self.etcd_port_of(name)) for n, name in enumerate(self.postgres, start=1)]
        return links + [Link(name, port, self.port("etcd")) for name, port in to_etcd]

    @property
    def postgres(self) -> list[str]:
        """The names of the database's nodes."""
        return _numbered("postgres", POSTGRES_NODES)

    @property
    def gate(self) -> list[str]:
        """The names of the gate's nodes."""
        return _numbered("gate", GATE_NODES)

    @property
    def kafka(self) -> list[str]:
        """The names of the brokers."""
        return _numbered("kafka", KAFKA_NODES)

    def service(self, role: str) -> list[str]:
        """The names of a service's processes."""
        return _numbered(role, self.services_each)

    def folder(self, name: str) -> Path:
        """What a member keeps, and where it works."""
        return self.path / "members" / name

    def log(self, name: str) -> Path:
        """What a member says."""
        return self.path / "logs" / f"{name}.log"

    def hosts(self, names: list[str]) -> str:
        """These members as a URL lists its hosts."""
        return ",".join(f"{HOST}:{self.reached_port(name)}" for name in names)

    def taken_ports(self) -> list[int]:
        """The ports of this layout that another program listens on."""
        own = [self.port_base + offset for offset in (_ETCD, _ETCD_PEER, _GATEWAY_ADMIN)]
        counts = dict.fromkeys(SERVICES, self.services_each) | {"gate": GATE_NODES}
        own += [
            self.port_base + offset + number
            for kind, offset in _OFFSETS.items()
            for number in range(1, counts.get(kind, 3) + 1)
        ]
        own += [self.port(name) + _BUS for name in self.gate]
        return [port for port in own if not _is_free(port)]


def free_port_base() -> int:
    """The first port of a block that nobody listens in, chosen at random."""
    last = min(int(_RANGE.read_text("ascii").split()[0]), 65_000) - _BUS - _BLOCK
    blocks = max(1, (last - _PORTS_FROM) // _BLOCK)
    base = _PORTS_FROM
    for _ in range(_TRIES):
        base = _PORTS_FROM + _BLOCK * secrets.randbelow(blocks)
        if all(_is_free(port) for port in range(base, base + _BLOCK)):
            break
    return base


def _numbered(kind: str, count: int) -> list[str]:
    return [f"{kind}-{number}" for number in range(1, count + 1)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As a server would: connections that are still fading away do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
