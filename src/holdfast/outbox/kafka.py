"""How Kafka is reached: the clients' configuration from `kafka_url`."""

from urllib.parse import unquote

from holdfast.settings import KAFKA_URL, Settings

Configuration = dict[str, str | int | float | bool]


def gathered(settings: Settings) -> Configuration:
    """For readers: a broker keeps what is new for a moment, as long as the relay does. Asking it once for each event
    costs everyone more than the events do."""
    return {"fetch.min.bytes": 65_536, "fetch.wait.max.ms": max(50, int(settings.publish_poll_seconds * 1000))}


def configuration(settings: Settings) -> Configuration:
    """What every client is given. kafkas:// is TLS; a user and a password mean SASL."""
    url = KAFKA_URL.fullmatch(settings.kafka_url.get_secret_value())
    assert url is not None, "settings are checked at start, and there is a Kafka"
    scheme, user, password, hosts, mechanism = url.groups()
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
    if user is None:
        return given | {"security.protocol": security}
    return given | {
        "security.protocol": f"sasl_{security}",
        "sasl.mechanism": mechanism or "SCRAM-SHA-512",
        "sasl.username": unquote(user),
        "sasl.password": unquote(password),
    }
