"""PostgreSQL, one primary and two standbys, each under its Patroni.

A commit waits for any one of the standbys (quorum), and with no standby left it waits until there is one: never are
writes acknowledged that one machine alone has. So whoever Patroni may promote has every acknowledged write.
"""

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from holdfast.cluster.asking import ask
from holdfast.cluster.layout import HOST, Layout
from holdfast.cluster.member import Member, Recipe
from holdfast.cluster.parts.etcd import patroni_section
from holdfast.engines import processes
from holdfast.engines.launch import leash
from holdfast.engines.postgres_server import INITDB_OPTIONS, PARAMETERS, PROGRAM, binaries
from holdfast.engines.processes import Process
from holdfast.engines.unprivileged import unprivileged_prefix

SCOPE = "holdfast"
SUPERUSER = "postgres"
REPLICATOR = "replicator"
_API_USER = "patroni"

# Fast shutdown writes a checkpoint; immediate leaves the rest to crash recovery, and loses nothing either.
_ENDINGS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (processes.KILL, 5.0))

# Times in seconds. ttl, loop_wait and retry_timeout are Patroni's least or near it: ttl is how long a primary whose
# Patroni is gone is waited for, so it is most of the interruption then.
_RULES: Mapping[str, object] = {
    "ttl": 20,
    "loop_wait": 1,
    "retry_timeout": 5,
    # A killed primary is not waited for: a standby has everything that was acknowledged.
    "primary_start_timeout": 0,
    "primary_stop_timeout": 10,
    "synchronous_mode": "quorum",
    "synchronous_node_count": 1,
    # With no standby left commits wait. Without this the primary would go on alone, and what it acknowledged would be
    # lost with it.
    "synchronous_mode_strict": True,
    # Which standby has every acknowledged write follows from the quorum; a standby that is also this many bytes behind
    # in what was not acknowledged may be promoted all the same.
    "maximum_lag_on_failover": 128 * 1024 * 1024,
    # With etcd away the primary goes on as long as every other member tells it that it sees no other.
    "failsafe_mode": True,
}

_OF_A_CLUSTER: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "wal_level": "replica",
    "hot_standby": "on",
    "wal_log_hints": "on",  # for pg_rewind
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "wal_keep_size": "256MB",
    "max_slot_wal_keep_size": "8GB",  # what is kept for a standby that stays away
    "wal_retrieve_retry_interval": "500ms",  # a standby looks for the new primary so often; commits wait for it
    "wal_receiver_status_interval": "1s",
    "wal_receiver_timeout": "10s",
    "wal_sender_timeout": "10s",
    "hot_standby_feedback": "on",  # the standbys' readers are not cancelled
    "checkpoint_completion_target": "0.5",
    "unix_socket_directories": "",
}


# What holds while Patroni names no standbys: right after a cluster was made, and after a primary that crashed before it
# had met one has come back. Patroni then takes the setting out, in spite of the strict rule, and what is acknowledged
# in that second would be on one machine alone. It stands in the file that Patroni's own settings come after.
BASE = "synchronous_standby_names = 'ANY 1 (*)'\n"
_BASE_FILE = "base.conf"
# Patroni's own bookkeeping, such as the roles of a cluster that it has just made, waits for nobody.
_PATRONI_OPTIONS = "-c synchronous_commit=local"


class Passwords(NamedTuple):
    """Of the superuser, of replication, of Patroni's own interface, and of Patroni in etcd."""

    superuser: str
    replication: str
    interface: str
    etcd: str


class NodeState(NamedTuple):
    """What Patroni says of its PostgreSQL."""

    role: str
    """primary, replica, or another of Patroni's words; '' where nobody says."""
    state: str
    timeline: int
    position: int
    """Bytes of the log written (primary) or received (standby)."""
    is_counted: bool
    """Whether commits wait for it: only such a standby can take over from a primary that is gone."""


class PostgresMember(Member):
    """A Patroni and the PostgreSQL that it runs. To kill or freeze it means PostgreSQL alone unless `whole`."""

    def __init__(self, recipe: Recipe, data: Path) -> None:
        super().__init__(recipe)
        self.data = data

    def server(self) -> list[Process]:
        """The processes of PostgreSQL, the first of them (the postmaster) first."""
        found = processes.running_in(self.data, PROGRAM)
        try:
            postmaster = int((self.data / "postmaster.pid").read_text("utf-8", "replace").split("\n", 1)[0])
        except (OSError, ValueError):
            postmaster = 0
        return sorted(found, key=lambda process: process.pid != postmaster)

    def running(self, *, whole: bool = True) -> list[Process]:
        """PostgreSQL's processes and, with `whole`, Patroni first."""
        return (super().running() if whole else []) + self.server()

    def kill(self, *, whole: bool = False) -> None:
        """Ends the postmaster by SIGKILL, upon which its processes end themselves; with `whole` all of them, and first
        Patroni, which has to be held down if it is to stay away."""
        for process in self.running(whole=True) if whole else self.server()[:1]:
            processes.send(process, processes.KILL)

    def freeze(self, *, whole: bool = False) -> None:
        """Stops PostgreSQL where it is, all of its processes; with `whole` its Patroni too."""
        for process in self.running(whole=whole):
            processes.send(process, signal.SIGSTOP)

    def end(self) -> None:
        """Asks Patroni to stop PostgreSQL and itself, and ends what is left."""
        super().end()
        self.end_leftovers()

    def end_leftovers(self) -> None:
        """Ends PostgreSQL if it runs without its Patroni."""
        left = self.server()
        for process in left:
            processes.send(process, signal.SIGCONT)
        processes.end(left[:1], _ENDINGS)
        processes.end(processes.running_in(self.data, PROGRAM), _ENDINGS[1:])


def postgres_members(layout: Layout, passwords: Passwords) -> list[PostgresMember]:
    """The three nodes."""
    return [_member(layout, name, number, passwords) for number, name in enumerate(layout.postgres, start=1)]


def _member(layout: Layout, name: str, number: int, passwords: Passwords) -> PostgresMember:
    folder = layout.folder(name)
    interface = layout.port(f"patroni-{number}")

    def command() -> Sequence[str]:
        # JSON is YAML. It holds passwords.
        file = folder / "patroni.json"
        file.touch(mode=0o600)
        (folder / _BASE_FILE).write_text(BASE)
        file.write_text(json.dumps(patroni_configuration(layout, name, number, passwords), indent=1))
        return [*unprivileged_prefix(), *leash("TERM"), sys.executable, "-P", "-m", "patroni", str(file)]

    async def is_ready() -> bool:
        return (await node_state(interface)).state in ("running", "streaming")

    home = {"HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PGOPTIONS": _PATRONI_OPTIONS}
    recipe = Recipe(
        name, "postgres", layout.port(name), folder, layout.log(name), command, is_ready, environment=home,
        stop_seconds=30.0,
    )  # fmt: skip
    return PostgresMember(recipe, folder / "data")


def patroni_configuration(layout: Layout, name: str, number: int, passwords: Passwords) -> dict[str, object]:
    """What Patroni reads: the rules of the whole cluster, which count when it is made, and what is this node's own."""
    folder = layout.folder(name)
    interface = f"{HOST}:{layout.port(f'patroni-{number}')}"
    return {
        "scope": SCOPE,
        "name": name,
        "log": {"level": "INFO", "deduplicate_heartbeat_logs": True},
        "restapi": {
            "listen": interface,
            "connect_address": interface,
            "authentication": {"username": _API_USER, "password": passwords.interface},
        },
        "etcd3": patroni_section(layout, name, passwords.etcd),
        "bootstrap": {
            "dcs": rules(),
            "initdb": [{option: value} for option, value in INITDB_OPTIONS.items()] + ["data-checksums"],
        },
        "postgresql": {
            "listen": f"{HOST}:{layout.port(name)}",
            "connect_address": f"{HOST}:{layout.port(name)}",
            "data_dir": str(folder / "data"),
            "bin_dir": str(binaries()),
            "custom_conf": str(folder / _BASE_FILE),
            "pgpass": str(folder / "pgpass"),
            "use_unix_socket": False,
            "authentication": {
                "superuser": {"username": SUPERUSER, "password": passwords.superuser},
                "replication": {"username": REPLICATOR, "password": passwords.replication},
            },
            "pg_hba": [
                f"host all all {HOST}/32 scram-sha-256",
                f"host replication {REPLICATOR} {HOST}/32 scram-sha-256",
            ],
            "basebackup": [{"checkpoint": "fast"}],
        },
        "watchdog": {"mode": "off"},
    }


def rules() -> dict[str, object]:
    """What holds for all nodes alike. Patroni keeps it in etcd."""
    parameters = {**PARAMETERS, **_OF_A_CLUSTER}
    return {**_RULES, "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": parameters}}


async def apply_rules(layout: Layout, passwords: Passwords) -> None:
    """Has this release's rules kept, so that its tuning reaches clusters that were made before."""
    user = (_API_USER, passwords.interface)
    await ask(layout.port("patroni-1"), "/config", rules(), method="PATCH", user=user)


async def node_state(interface_port: int) -> NodeState:
    """What one Patroni says. Raises OSError or TimeoutError where it says nothing."""
    try:
        said = msgspec.json.decode((await ask(interface_port, "/patroni")).body, type=_Said)
    except msgspec.MsgspecError as error:
        raise OSError("no answer of Patroni's") from error
    position = max(said.xlog.location, said.xlog.received_location, said.xlog.replayed_location)
    is_counted = said.quorum_standby or said.sync_standby
    return NodeState(said.role, said.replication_state or said.state, said.timeline or 0, position, is_counted)


class _Log(msgspec.Struct):
    location: int = 0
    received_location: int = 0
    replayed_location: int = 0


class _Said(msgspec.Struct):
    state: str = ""
    role: str = ""
    timeline: int | None = None
    replication_state: str | None = None
    quorum_standby: bool = False
    sync_standby: bool = False
    xlog: _Log = msgspec.field(default_factory=_Log)
