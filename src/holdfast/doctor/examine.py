"""The examination: everything is looked at, and what fails is looked at again for some seconds."""

import asyncio
from typing import NamedTuple

from holdfast.clock import monotonic_seconds
from holdfast.doctor.checks import Check, check_database, check_settings
from holdfast.doctor.gates import Gates
from holdfast.doctor.replicas import check_replicas
from holdfast.engines.database import AWAY, open_pool
from holdfast.errors import Mendable
from holdfast.gate.gate import Gate, GateAway
from holdfast.settings import Settings

_LOOK_SECONDS = 0.7


class Examination(NamedTuple):
    """What was found, and how many gates were loaded anew (None where that was not asked for)."""

    checks: list[Check]
    repaired: int | None

    @property
    def is_fine(self) -> bool:
        """Whether every check is OK."""
        return all(check.ok for check in self.checks)


async def examine(settings: Settings, patience_seconds: float, *, repair: bool) -> Examination:
    """Looks at everything. A check that fails counts only if it does so at every look within `patience_seconds`.

    Raises Mendable where the gate is to be repaired and cannot be.
    """
    pool = await open_pool(settings, server_settings={})
    gate = Gate(settings)
    try:
        await gate.open()
        gates = Gates(pool, gate)
        repaired = await _repair(gates) if repair else None
        return Examination(await _look_until_fine(settings, gates, patience_seconds), repaired)
    finally:
        await gate.close()
        pool.terminate()


async def _repair(gates: Gates) -> int:
    try:
        return await gates.repair()
    except (GateAway, *AWAY) as error:
        raise Mendable(
            f"The gate cannot be loaded ({type(error).__name__}): see that both engines run (`holdfast doctor`)."
        ) from error


async def _look_until_fine(settings: Settings, gates: Gates, patience_seconds: float) -> list[Check]:
    deadline = monotonic_seconds() + patience_seconds
    found: dict[str, Check] = {}
    while True:
        looked = [*check_settings(settings), *await check_database(settings), *await check_replicas(settings)]
        for check in [*looked, *await gates.check()]:
            # What was right once has only been in motion. What cannot be looked at this time stays as it was.
            if check.name not in found or not found[check.name].ok:
                found[check.name] = check
        if all(check.ok for check in found.values()) or monotonic_seconds() >= deadline:
            return list(found.values())
        await asyncio.sleep(_LOOK_SECONDS)
