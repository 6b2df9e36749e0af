"""What is done to the members of a cluster while buyers come: killed, frozen, cut off, or rolled."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeAlias

from holdfast.drill.cuts.proxy import Cut
from holdfast.drill.site import Site

_CUTS = (Cut.DELAY, Cut.RESET, Cut.BLACKHOLE, Cut.ONE_WAY)
_BETWEEN_CUTS_SECONDS = 0.5
_OTHER_PRIMARY_SECONDS_MAX = 60.0


class Scene(NamedTuple):
    """Where a drill acts: the cluster, how long its fault lasts, and the record that hears of it."""

    site: Site
    seconds: float
    mark: Callable[[str], None]


Pick: TypeAlias = Callable[[Site], Awaitable[Sequence[str]]]
"""Chooses the members that a fault is about, by their names, when it is to happen."""
Fault: TypeAlias = Callable[[Scene], Awaitable[None]]


def killed(pick: Pick, *, whole: bool = False) -> Fault:
    """kill -9, and not started again before the fault's time is over."""

    async def act(scene: Scene) -> None:
        names = await pick(scene.site)
        scene.mark(f"kill -9 {' '.join(names)}")
        for name in names:
            scene.site.hold_down(name)
        for name in names:
            scene.site.kill(name, whole=whole)
        await asyncio.sleep(scene.seconds)
        await _come_back(scene, names)

    return act


def killed_and_restarted(pick: Pick) -> Fault:
    """kill -9, and started again at once by whoever watches it."""

    async def act(scene: Scene) -> None:
        names = await pick(scene.site)
        scene.mark(f"kill -9 {' '.join(names)}")
        for name in names:
            scene.site.kill(name)
        await asyncio.sleep(scene.seconds)
        await scene.site.until_whole()
        scene.mark("whole again")

    return act


def frozen(pick: Pick, *, whole: bool = False) -> Fault:
    """SIGSTOP, and SIGCONT when the fault's time is over."""

    async def act(scene: Scene) -> None:
        names = await pick(scene.site)
        scene.mark(f"freeze {' '.join(names)}")
        for name in names:
            scene.site.freeze(name, whole=whole)
        try:
            await asyncio.sleep(scene.seconds)
        finally:
            for name in names:
                scene.site.thaw(name)
        scene.mark(f"thaw {' '.join(names)}")

    return act


def cut_off(pick: Pick) -> Fault:
    """Each kind of cut in turn, each for the fault's time, of the links by which others reach these members."""

    async def act(scene: Scene) -> None:
        for cut in _CUTS:
            names = await pick(scene.site)
            scene.mark(f"{cut.value} before {' '.join(names)}")
            for name in names:
                await scene.site.cut(name, cut)
            try:
                await asyncio.sleep(scene.seconds)
            finally:
                for name in names:
                    await scene.site.cut(name, Cut.NONE)
            scene.mark(f"links to {' '.join(names)} whole")
            await asyncio.sleep(_BETWEEN_CUTS_SECONDS)

    return act


async def primary_replaced(scene: Scene) -> None:
    """The primary is killed with its Patroni, and comes back only when there is another."""
    name = await scene.site.primary()
    scene.mark(f"kill -9 {name} and its Patroni")
    scene.site.hold_down(name)
    scene.site.kill(name, whole=True)
    await _another_primary(scene, name)
    await asyncio.sleep(scene.seconds)
    await _come_back(scene, [name])


async def two_primaries(scene: Scene) -> None:
    """The primary's Patroni stands still until another node has been promoted. PostgreSQL goes on beside it and still
    takes itself for the primary: whoever is connected to it must find out, and nothing that it says may be believed."""
    name = await scene.site.primary()
    scene.mark(f"freeze the Patroni of {name}")
    scene.site.freeze_patroni(name)
    try:
        await _another_primary(scene, name)
        await asyncio.sleep(scene.seconds)
    finally:
        scene.site.thaw(name)
    scene.mark(f"thaw the Patroni of {name}")


async def relay_in_mid_batch(scene: Scene) -> None:
    """Kafka stands still with a batch on its way, both relays are killed, and Kafka goes on: what was on its way may be
    written, and those who publish it again cannot know."""
    brokers, relays = scene.site.names("kafka"), scene.site.relays()
    for name in brokers:
        scene.site.freeze(name)
    try:
        await asyncio.sleep(0.5)
        scene.mark(f"kill -9 {' '.join(relays)} with a batch on its way")
        for name in relays:
            scene.site.kill(name)
        await asyncio.sleep(0.2)
    finally:
        for name in brokers:
            scene.site.thaw(name)
    scene.mark("Kafka goes on")
    await asyncio.sleep(scene.seconds)


async def rolled(scene: Scene) -> None:
    """Every process of the three services is ended in order and started again, one after another."""
    scene.mark("rolling restart of every service")
    for name in scene.site.services():
        await scene.site.restart(name)
    scene.mark("all restarted")


async def _another_primary(scene: Scene, name: str) -> None:
    async with asyncio.timeout(_OTHER_PRIMARY_SECONDS_MAX):
        while (found := await scene.site.find_primary()) in (name, None):
            await asyncio.sleep(0.1)
    scene.mark(f"{found} is primary")


async def _come_back(scene: Scene, names: Sequence[str]) -> None:
    for name in names:
        scene.site.release(name)
    scene.mark(f"{' '.join(names)} may run again")
    await scene.site.until_ready(names)
    scene.mark("back")
