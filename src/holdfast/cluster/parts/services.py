"""The project's own processes, `holdfast serve ROLE` and `holdfast work NAME`: each with the database role and the
addresses that it needs, and no others."""

import os
import sys
from collections.abc import Mapping, Sequence

from holdfast.cluster.asking import answers
from holdfast.cluster.layout import HOST, SERVICES, Layout
from holdfast.cluster.member import Member, Recipe
from holdfast.engines.launch import leash
from holdfast.settings import ENV_PREFIX

WORKERS = {"relay-1": "relay", "relay-2": "relay", "expiry": "expiry", "payments": "payments", "stats": "stats",
           "notify": "notify", "reconcile": "reconcile"}  # fmt: skip
"""Each worker's process, and what it works at. `notify` is there where an SMTP server is given."""
AWAITING_KAFKA = ("relay", "stats", "notify")

Environment = Mapping[str, str]
"""Settings of a process by name, as HOLDFAST_… has them without the prefix, in lower case."""


def service_members(layout: Layout, settings_of: Mapping[str, Environment], grace_seconds: float) -> list[Member]:
    """Every process of the three services."""
    return [
        _member(layout, name, role, layout.port(name), settings_of[role], grace_seconds)
        for role in SERVICES
        for name in layout.service(role)
    ]


def worker_members(layout: Layout, settings: Environment) -> list[Member]:
    """The workers' processes."""
    names = [name for name, work in WORKERS.items() if work != "notify" or settings.get("smtp_url")]
    return [_member(layout, name, "worker", None, settings, 10.0) for name in names]


def _member(
    layout: Layout, name: str, kind: str, port: int | None, settings: Environment, grace_seconds: float
) -> Member:
    folder = layout.folder(name)

    def command() -> Sequence[str]:
        what = ["work", WORKERS[name]] if port is None else ["serve", kind, "--host", HOST, "--port", str(port)]
        # An empty data folder: the settings are all in the environment.
        program = [sys.executable, "-P", "-m", "holdfast.cli.main"]
        return [*leash("TERM"), *program, *what, "--data", str(folder / "none")]

    async def is_ready() -> bool:
        return port is None or await answers(port, "/readyz")

    recipe = Recipe(
        name, kind, port, folder, layout.log(name), command, is_ready, environment=_environment(settings),
        stop_seconds=grace_seconds,
    )  # fmt: skip
    return Member(recipe)


def _environment(settings: Environment) -> dict[str, str]:
    """What was set for all, except addresses of other engines, and then what is this process's own."""
    addresses = {f"{ENV_PREFIX}{name}" for name in ("DATABASE_URL", "REPLICA_DATABASE_URL", "GATE_URL", "KAFKA_URL")}
    kept = {name: value for name, value in os.environ.items() if name.startswith(ENV_PREFIX) and name not in addresses}
    if "PYTHONPATH" in os.environ:
        kept["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return kept | {ENV_PREFIX + name.upper(): value for name, value in settings.items()}
