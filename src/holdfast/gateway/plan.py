"""What is chosen about a gateway: where it listens, what is behind it, and its limits."""

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from holdfast.door.server import KEEP_ALIVE_SECONDS
from holdfast.errors import Mendable
from holdfast.settings import Settings

UPSTREAM_IDLE_SECONDS = 20
"""How long a connection to a service may rest. A service closes it after KEEP_ALIVE_SECONDS, and nothing may be sent on
one that is being closed."""

assert UPSTREAM_IDLE_SECONDS < KEEP_ALIVE_SECONDS

HEALTH_SECONDS = 0.5
"""How often each process of a service is asked whether it is ready; it is believed at once when it says no. A service
that drains must give notice for longer than this."""


class Address(NamedTuple):
    """A host, by name or number, and a port."""

    host: str
    port: int

    @property
    def is_number(self) -> bool:
        """Whether no name server has to be asked for it."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


class Certificate(NamedTuple):
    """Files in PEM: the certificate with its chain, and its private key."""

    chain: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A gateway. Raises Mendable where it cannot work."""

    listen: Address
    auth: tuple[Address, ...]
    tickets: tuple[Address, ...]
    orders: tuple[Address, ...]
    settings: Settings = field(repr=False)
    """The services' settings: the gateway's own bounds on sizes and times are theirs."""
    admin: Address = field(default=Address("127.0.0.1", 9901))
    certificate: Certificate | None = None
    """Without one the gateway speaks plain HTTP."""
    requests_per_second: int = 50_000
    """Of everyone together, whatever they ask for."""
    address_requests_per_second: int = 5_000
    """Of one network address (of IPv6 the /64): a campus shares one."""
    user_requests_per_second: int = 50
    """Of whoever a token names. The services' own limit of purchases is lower, and tells what remains."""
    burst_seconds: int = 2
    """How many seconds of these three rates may come at once."""
    clients_max: int = 50_000
    """Addresses, and users, whose rates are remembered; the least recently seen is forgotten."""
    connections_max: int = 20_000
    """Open connections of clients; one more is closed at once."""
    memory_bytes_max: int = 512 * 1024 * 1024
    proxies: int = 0
    """How many trusted proxies are in front of this one, each adding an address to X-Forwarded-For."""
    access_log: bool = True

    def __post_init__(self) -> None:
        for name in ("auth", "tickets", "orders"):
            if not getattr(self, name):
                raise Mendable(f"The gateway has no address of the service {name}: give one with --{name} HOST:PORT.")
        if not _is_loopback(self.admin.host):
            raise Mendable("Whoever reaches the gateway's admin port may stop it: give a loopback address for it.")
        counts = ("requests_per_second", "address_requests_per_second", "user_requests_per_second", "burst_seconds")
        for name in (*counts, "clients_max", "connections_max"):
            if getattr(self, name) < 1:
                raise Mendable(f"{name} must be at least 1: raise it.")

    @property
    def try_seconds(self) -> float:
        """How long one try of a request may take: a little longer than a service takes to say that it is busy."""
        return self.settings.database_timeout_seconds + 1

    @property
    def answer_seconds(self) -> float:
        """How long a request may take with all its tries."""
        return 2 * self.try_seconds + 3

    @property
    def header_kilobytes_max(self) -> int:
        """The bound of a request's head, in KiB."""
        return math.ceil(self.settings.header_bytes_max / 1024)


def parse_addresses(text: str, option: str) -> tuple[Address, ...]:
    """`host:port,host:port`, of IPv6 `[::1]:port`. Raises Mendable."""
    return tuple(parse_address(part.strip(), option) for part in text.split(",") if part.strip())


def parse_address(text: str, option: str) -> Address:
    """One of them. Raises Mendable."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not host or (":" in host and not Address(host, 0).is_number) or not port.isdecimal() or int(port) > 65535:
        raise Mendable(f"{text!r} is not HOST:PORT: mend {option}.")
    return Address(host, int(port))


def _is_loopback(host: str) -> bool:
    return Address(host, 0).is_number and ipaddress.ip_address(host).is_loopback
