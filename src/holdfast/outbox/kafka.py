"""How Kafka is reached: the clients' configuration from `kafka_url`."""

from urllib.parse import unquote, urlsplit

from holdfast.errors import Mendable
from holdfast.settings import Settings

Configuration = dict[str, str | int | float | bool]

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def configuration(settings: Settings) -> Configuration:
    """What every client is given. kafkas:// is TLS; a user and a password mean SASL, `?mechanism=…` which.

    Raises Mendable where the URL cannot work.
    """
    url = settings.kafka_url.get_secret_value()
    try:
        scheme, hosts, _, query, _ = urlsplit(url)
    except ValueError as error:
        raise Mendable(f"HOLDFAST_KAFKA_URL: {error}.") from error
    user, _, hosts = hosts.rpartition("@")
    if scheme not in ("kafka", "kafkas") or not all(_is_address(host) for host in hosts.split(",")):
        raise Mendable("HOLDFAST_KAFKA_URL: write it as kafka://host:port,host:port (kafkas:// for TLS).")
    security = "ssl" if scheme == "kafkas" else "plaintext"
    given: Configuration = {
        "bootstrap.servers": hosts,
        "client.id": "holdfast",
        # What goes wrong is said in our log, by whoever waits for it.
        "log_level": 0,
        "reconnect.backoff.max.ms": 1000,
        "socket.keepalive.enable": True,
        # A broker that is cut off, or frozen, is given up after so long.
        "socket.timeout.ms": 10_000,
        "socket.connection.setup.timeout.ms": 5_000,
        "topic.metadata.refresh.interval.ms": 30_000,
    }
    if not user:
        return given | {"security.protocol": security}
    mechanism = query.removeprefix("mechanism=") or "SCRAM-SHA-512"
    if mechanism not in _MECHANISMS:
        raise Mendable(f"HOLDFAST_KAFKA_URL: the mechanism is one of {', '.join(_MECHANISMS)}.")
    name, _, password = user.partition(":")
    return given | {
        "security.protocol": f"sasl_{security}",
        "sasl.mechanism": mechanism,
        "sasl.username": unquote(name),
        "sasl.password": unquote(password),
    }


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16
