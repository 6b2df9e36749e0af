"""The hosts that a connection URL names."""

from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_PORT_DEFAULT = 5432


class Host(NamedTuple):
    """Where one PostgreSQL server listens: a name or an address, or the folder of its socket."""

    name: str
    port: int

    def __str__(self) -> str:
        return self.name if self.name.startswith("/") else f"{self.name}:{self.port}"


def hosts_of(url: str) -> list[Host]:
    """The hosts of postgresql://…@host:port,host:port/name, or of its parameters host and port, in their order.

    Empty where the URL names none: the driver's own default holds then. Raises ValueError for a port that is none.
    """
    parts = urlsplit(url)
    names = parts.netloc.rpartition("@")[2]
    ports: list[str] = []
    if not names:
        query = parse_qs(parts.query)
        names, ports = query.get("host", [""])[-1], query.get("port", [""])[-1].split(",")
    if not names:
        return []
    return [
        _host(text, (ports[index : index + 1] or ports[:1] or [""])[0]) for index, text in enumerate(names.split(","))
    ]


def _host(text: str, port: str) -> Host:
    text = unquote(text)
    if text.startswith("/"):
        name = text
    elif text.startswith("["):
        name, _, after = text[1:].partition("]")
        port = after.removeprefix(":") or port
    else:
        name, _, own = text.partition(":")
        port = own or port
    return Host(name, int(port or _PORT_DEFAULT))
