"""Every setting, with its unit, its default and its limits; read from HOLDFAST_… and frozen at start.

`holdfast up` fills the addresses of its private engines in; elsewhere they are given. A combination that cannot work
is refused at start with the sentence that mends it.
"""

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from holdfast.errors import Mendable

ENV_PREFIX = "HOLDFAST_"

_HOST = r"(?:[^@/,:?\[\]]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}"
KAFKA_URL = re.compile(
    rf"(kafkas?)://(?:([^@:/]+):([^@:/]*)@)?({_HOST}(?:,{_HOST})*)/?(?:\?mechanism=(PLAIN|SCRAM-SHA-256|SCRAM-SHA-512))?"
)
"""Scheme, user, password, hosts, mechanism."""


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    # Engines
    database_url: SecretStr = SecretStr("")
    """postgresql://user:password@host:port/name, or …/name?host=/socket/folder. Several hosts, separated by commas: the
    one among them that is the primary is taken, wherever it has moved to."""
    replica_database_url: SecretStr = SecretStr("")
    """The same for reading: of several hosts, those that are standbys. Empty: the primary answers reads too."""
    gate_url: SecretStr = SecretStr("")
    """valkey://:password@host:port. Empty: sell through PostgreSQL alone. Several hosts, separated by commas, are nodes
    of one cluster, from which the others are learnt."""
    kafka_url: SecretStr = SecretStr("")
    """kafka://host:port,host:port or kafka://user:password@…; kafkas:// for TLS, and ?mechanism=PLAIN where it is not
    SCRAM-SHA-512. Empty: the consumers read the outbox directly."""
    smtp_url: SecretStr = SecretStr("")
    """smtp://user:password@host:port, or smtps://. Empty: nobody is written to."""
    signing_key_file: Path | None = None
    """A JWK set with one private Ed25519 key or more; the first signs, all verify. Made by `holdfast up`. Of a process
    without the auth service the public halves will do, or `jwks_url`."""
    jwks_url: Annotated[tuple[str, ...], NoDecode] = ()
    """Where tickets and orders learn the auth service's keys: http(s)://…/.well-known/jwks.json. Several, separated by
    commas, are asked in turn."""
    database_connections_max: int = Field(default=8, ge=4, le=200)
    """Pooled connections of one process, beside one for each batch writer."""
    database_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    replica_wait_seconds: float = Field(default=0.1, ge=0, le=5)
    """How long a reader of their own writes waits for a replica to catch up before the primary is asked."""
    gate_timeout_seconds: float = Field(default=0.25, gt=0, le=5)
    gate_retry_seconds: float = Field(default=1.0, gt=0, le=60)
    """How long purchases go around a gate that failed before it is tried again."""

    # The house
    house_time_zone: str = "Asia/Taipei"
    """IANA zone of an imported time that has neither an offset nor a zone."""
    house_currency: str = Field(default="TWD", pattern=r"^[A-Z]{3}$")
    public_url: str = "http://127.0.0.1:8000"

    # Door
    server_processes: int = Field(default=1, ge=1, le=64)
    """How many server processes share the global rate of this machine."""
    body_bytes_max: int = Field(default=64 * 1024, ge=1024, le=16 * 1024 * 1024)
    import_bytes_max: int = Field(default=16 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    header_bytes_max: int = Field(default=32 * 1024, ge=4096, le=256 * 1024)
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks, comma-separated, whose X-Forwarded-For is believed."""
    read_seconds_max: float = Field(default=15.0, gt=0, le=600)
    """How long a client may take to send a request's head, and to go on with its body."""
    requests_waiting_max: int = Field(default=5000, ge=1)
    """Requests of one process that may be under way, of whatever kind; one more is told to come back (503)."""
    drain_seconds: int = Field(default=10, ge=1, le=120)
    drain_notice_seconds: float = Field(default=0.0, ge=0, le=60)
    """How long a server that was told to end goes on accepting while /readyz says no, so that a gateway can notice."""

    # Rates: GCRA, so many a second with a burst
    purchases_per_second: float = Field(default=50_000, gt=0)
    """For the whole machine, shared evenly by its server processes."""
    purchases_burst: int = Field(default=50_000, ge=1)
    user_purchases_per_second: float = Field(default=20, gt=0)
    user_purchases_burst: int = Field(default=40, ge=1)
    address_sign_ins_per_second: float = Field(default=200, gt=0)
    """Registrations and log-ins from one address: a campus shares one."""
    address_sign_ins_burst: int = Field(default=1000, ge=1)
    account_failures_burst: int = Field(default=10, ge=1, le=100)
    """Wrong passwords for one account before it must wait."""
    account_failure_seconds: float = Field(default=60, gt=0, le=3600)
    """After that, one more try each so many seconds."""

    # Auth
    access_token_seconds: int = Field(default=900, ge=30, le=3600)
    refresh_token_seconds: int = Field(default=30 * 86400, ge=60)
    token_cache_entries_max: int = Field(default=200_000, ge=100)
    password_threads: int = Field(default=2, ge=1, le=64)
    password_queue_max: int = Field(default=512, ge=1)
    """Password checks that may wait in one process; one more is told to come back (503)."""
    setup_link_seconds: int = Field(default=3600, ge=60)

    # Selling
    hold_seconds_default: int = Field(default=600, ge=1, le=86400)
    tickets_per_user_default: int = Field(default=4, ge=1, le=1000)
    lines_per_order_max: int = Field(default=20, ge=1, le=100)
    purchases_waiting_max: int = Field(default=2000, ge=1)
    """Purchases of one process that may be under way; one more is told to come back (503)."""
    purchase_wait_seconds_max: float = Field(default=1.0, gt=0, le=60)
    """While somebody has waited so long for their turn, whoever comes is told to come back (503)."""
    batch_orders_max: int = Field(default=256, ge=1, le=2000)
    """At most what one call of the gate takes."""
    batch_apart_seconds: float = Field(default=0.0, ge=0, le=1)
    """A batch begins at the earliest so long after the one before it, where that was shorter: each costs the engines
    something, whatever is in it. One that comes to an idle process is not kept waiting."""
    lease_seconds: int = Field(default=30, ge=1, le=30)
    catalogue_seconds: float = Field(default=0.5, gt=0, le=10)
    """How old the tiers, windows and limits that admission looks at may be."""
    sold_out_seconds: float = Field(default=0.1, gt=0, le=5)
    """How long the gate's word that there is not enough is believed before it is asked again."""
    availability_seconds: float = Field(default=0.2, gt=0, le=10)
    """How old a shown availability may be."""
    journal_seconds_max: float = Field(default=10.0, gt=0, le=60)
    """How long a batch whose commit is in doubt is tried again before its buyers are told to retry."""

    warm_seconds: float = Field(default=300, ge=0, le=86400)
    """How long before a sale opens its gate, snapshots and connections are made ready; 0: when somebody comes."""

    # Payments (sandbox)
    sandbox_late_seconds: float = Field(default=3.0, ge=0)
    """How long `tok_late` takes to answer."""
    payment_unknown_seconds: float = Field(default=10.0, gt=0)
    """After so long without a trace at the provider a payment is given up and voided."""

    # Kafka
    kafka_replication: int = Field(default=3, ge=1, le=7)
    """Copies of each topic that is created; a topic that has fewer is refused."""
    kafka_min_insync: int = Field(default=2, ge=1, le=7)
    """Copies that must have an event before it counts as published."""
    kafka_partitions: int = Field(default=16, ge=4, le=256, multiple_of=4)
    """Of each topic of events, all processes alike. Each message to a broker is about one partition: the fewer there
    are, the less it costs, and the more, the more consumers can share the work."""
    consumer_tries_max: int = Field(default=5, ge=1, le=100)
    """How often an event that cannot be handled is tried before it goes to the dead letters."""

    # Statistics and mail
    stats_retention_days: int = Field(default=400, ge=1, le=3650)
    """How long the sales of a minute are kept."""
    stats_poll_seconds: float = Field(default=1.0, gt=0, le=60)
    """How often sales are counted where there is no Kafka: the more at once, the less each costs."""
    mail_from: str = "tickets@localhost"
    """The sender's address, alone or as `Name <address>`."""
    mail_connections_max: int = Field(default=2, ge=1, le=20)
    """Connections of one worker to the mail server."""
    mail_timeout_seconds: float = Field(default=20.0, gt=0, le=120)
    mail_tries_max: int = Field(default=5, ge=1, le=20)
    """How often a letter that the mail server puts off is tried."""
    mail_retry_seconds: float = Field(default=30.0, gt=0, le=3600)
    """The pause after the first try; each later one is four times as long."""
    mail_poll_seconds: float = Field(default=0.5, gt=0, le=60)
    letters_retention_days: int = Field(default=90, ge=1, le=3650)
    """How long it is remembered that somebody was written to."""

    # Workers
    expiry_poll_seconds: float = Field(default=0.5, gt=0, le=10)
    relay_poll_seconds: float = Field(default=0.05, gt=0, le=10)
    publish_poll_seconds: float = Field(default=0.2, gt=0, le=10)
    """How long the relay gathers what it publishes to Kafka, where there is little."""
    payments_poll_seconds: float = Field(default=0.5, gt=0, le=10)
    reconcile_seconds: float = Field(default=5.0, gt=0, le=600)
    idempotency_retention_seconds: int = Field(default=7 * 86400, ge=86400)

    @field_validator("gate_url")
    @classmethod
    def _gate_hosts(cls, value: SecretStr) -> SecretStr:
        for url in each_host(value.get_secret_value()):
            parts = urlsplit(url)
            try:
                if url and not (parts.scheme in ("valkey", "redis") and parts.hostname and parts.port != 0):
                    raise ValueError
            except ValueError as error:
                raise ValueError("write valkey://:password@host:port, several hosts separated by commas") from error
        return value

    @field_validator("trusted_proxies", "jwks_url", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("kafka_url")
    @classmethod
    def _kafka_is_reachable_so(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value() and not KAFKA_URL.fullmatch(value.get_secret_value()):
            raise ValueError("write it as kafka://host:port,host:port, or kafkas://user:password@… for TLS and SASL")
        return value

    @field_validator("jwks_url")
    @classmethod
    def _over_http(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"https?://[^\s/]+(/\S*)?", url) for url in value):
            raise ValueError("is http://host/.well-known/jwks.json, or several of them separated by commas")
        return value

    @field_validator("house_time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is not an IANA time zone; write one such as Asia/Taipei") from error
        return value

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        if self.batch_orders_max > self.purchases_waiting_max:
            raise ValueError("batch_orders_max must not exceed purchases_waiting_max; raise the latter")
        if self.purchases_waiting_max > self.requests_waiting_max:
            raise ValueError("purchases_waiting_max must not exceed requests_waiting_max; raise the latter")
        if self.kafka_min_insync > self.kafka_replication:
            raise ValueError("kafka_min_insync must not exceed kafka_replication; lower it")
        if self.journal_seconds_max >= self.lease_seconds and self.lease_seconds > 1:
            raise ValueError("journal_seconds_max must be below lease_seconds, or a lease ends while its order is made")
        return self


def each_host(url: str) -> list[str]:
    """A URL with several hosts, separated by commas, as a URL for each."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    login, at, hosts = authority.rpartition("@")
    return [f"{scheme}{separator}{login}{at}{host.strip()}{slash}{path}" for host in hosts.split(",")]


def load_settings(**given: object) -> Settings:
    """The settings from the environment, `given` taking precedence. Raises Mendable where they cannot work."""
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ENV_PREFIX + "_".join(str(part) for part in first["loc"]).upper() if first["loc"] else "Settings"
        raise Mendable(f"{name}: {first['msg'].removeprefix('Value error, ')}.") from error
