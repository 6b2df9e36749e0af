"""The drills by name: what is done, for how long, and what is promised meanwhile."""

from collections.abc import Sequence
from typing import NamedTuple

from holdfast.drill.faults import (
    Fault,
    Pick,
    cut_off,
    frozen,
    killed,
    killed_and_restarted,
    primary_replaced,
    relay_in_mid_batch,
    rolled,
    two_primaries,
)
from holdfast.drill.run import Promise
from holdfast.drill.site import Site
from holdfast.errors import Mendable


class Drill(NamedTuple):
    """One drill. `seconds` is how long its fault lasts, `short_seconds` in its short form; `runs` is how often it is
    done if nobody says otherwise: the worst of them counts."""

    name: str
    what: str
    fault: Fault | None
    promise: Promise = Promise()
    seconds: float = 10.0
    short_seconds: float = 2.0
    runs: int = 1


async def _primary(site: Site) -> Sequence[str]:
    return [await site.primary()]


async def _standby(site: Site) -> Sequence[str]:
    return (await site.standbys())[:1]


async def _standbys(site: Site) -> Sequence[str]:
    return await site.standbys()


async def _master(site: Site) -> Sequence[str]:
    return (await site.masters())[:1]


async def _gate(site: Site) -> Sequence[str]:
    return site.names("gate")


async def _broker(site: Site) -> Sequence[str]:
    return site.names("kafka")[:1]


async def _kafka(site: Site) -> Sequence[str]:
    return site.names("kafka")


async def _relays(site: Site) -> Sequence[str]:
    return site.relays()[:1]


async def _gateway(_: Site) -> Sequence[str]:
    return ["gateway"]


def _of(kind: str) -> Pick:
    async def first(site: Site) -> Sequence[str]:
        return site.names(kind)[:1]

    return first


_KEPT = Promise()
"""Whoever tries again gets what they came for."""
_UNNOTICED = Promise(failed_attempts=0)
"""Nobody is refused or kept waiting for an answer that does not come."""
_HARDLY = Promise(interruption_seconds=0.5)
_NEVER_REFUSED = Promise(failed_attempts=0, interruption_seconds=2.0)


def _cut(name: str, what: str, pick: Pick, promise: Promise = _KEPT) -> Drill:
    """Four cuts one after another, each of them shorter than another fault."""
    return Drill(name, what, cut_off(pick), promise, seconds=5.0, short_seconds=1.0)


def _services() -> list[Drill]:
    drills = []
    for kind in ("auth", "tickets", "orders"):
        drills += [
            Drill(f"{kind}-kill", f"kill -9 of one of the {kind} processes, which stays away", killed(_of(kind))),
            Drill(f"{kind}-freeze", f"one of the {kind} processes stands still", frozen(_of(kind))),
            _cut(f"{kind}-cut", f"the gateway's link to one of the {kind} processes", _of(kind)),
        ]  # fmt: skip
    return drills


DRILLS: tuple[Drill, ...] = (
    Drill("steady", "nothing happens", None, _UNNOTICED),
    Drill("rolling-restart", "every service process is restarted in order", rolled, _UNNOTICED),
    *_services(),
    Drill(
        "primary-kill", "kill -9 of PostgreSQL's first process on the primary",
        killed_and_restarted(_primary), Promise(interruption_seconds=5.0), runs=5,
    ),
    Drill(
        "primary-patroni-kill", "kill -9 of the primary and its Patroni, which stay away until another has taken over",
        primary_replaced, Promise(interruption_seconds=30.0), short_seconds=1, runs=5,
    ),
    Drill("primary-freeze", "the primary stands still, its Patroni does not", frozen(_primary)),
    Drill("primary-patroni-freeze", "the primary and its Patroni stand still", frozen(_primary, whole=True)),
    _cut("primary-cut", "the services' link to the primary", _primary),
    Drill(
        "patroni-freeze", "the primary's Patroni stands still until another is primary too", two_primaries,
        Promise(interruption_seconds=30.0), short_seconds=1,
    ),
    Drill("standby-kill", "kill -9 of a standby and its Patroni", killed(_standby, whole=True)),
    Drill("standby-freeze", "a standby stands still", frozen(_standby)),
    _cut("standby-cut", "the services' link to a standby", _standby),
    Drill(
        "standbys-kill", "kill -9 of both standbys: nothing is acknowledged until one is back",
        killed(_standbys, whole=True),
    ),
    Drill(
        "gate-master-kill", "kill -9 of a master of the gate, which stays away", killed(_master),
        _HARDLY, runs=5,
    ),
    Drill(
        "gate-master-restart", "kill -9 of a master of the gate, which comes back empty",
        killed_and_restarted(_master), _HARDLY,
    ),
    Drill("gate-master-freeze", "a master of the gate stands still", frozen(_master), _HARDLY),
    _cut("gate-master-cut", "the links to a master of the gate", _master),
    Drill("gate-kill", "kill -9 of the whole gate", killed(_gate), _NEVER_REFUSED, runs=5),
    Drill("gate-freeze", "the whole gate stands still", frozen(_gate), _NEVER_REFUSED),
    _cut("gate-cut", "the links to the whole gate", _gate, _NEVER_REFUSED),
    Drill("broker-kill", "kill -9 of a Kafka broker", killed(_broker), _UNNOTICED),
    Drill("broker-freeze", "a Kafka broker stands still", frozen(_broker), _UNNOTICED),
    _cut("broker-cut", "the links to a Kafka broker", _broker, _UNNOTICED),
    Drill("kafka-off", "kill -9 of all of Kafka", killed(_kafka), _UNNOTICED, seconds=120, short_seconds=5),
    Drill("relay-kill", "kill -9 of both relays with a batch on its way", relay_in_mid_batch, _UNNOTICED),
    Drill("relay-freeze", "a relay stands still", frozen(_relays), _UNNOTICED),
    Drill("gateway-kill", "kill -9 of the gateway", killed_and_restarted(_gateway)),
    Drill("gateway-freeze", "the gateway stands still", frozen(_gateway)),
    _cut("gateway-cut", "the buyers' link to the gateway", _gateway),
)  # fmt: skip


def choose(names: Sequence[str]) -> list[Drill]:
    """The drills of these names, in their order. Raises Mendable."""
    by_name = {drill.name: drill for drill in DRILLS}
    unknown = next((name for name in names if name not in by_name), None)
    if unknown is not None:
        raise Mendable(f"There is no drill {unknown}: `holdfast drill --list` says which there are.")
    return [by_name[name] for name in names]
