"""Waiting for a process to end, and how long to wait before it is started again."""

import asyncio
import os

from holdfast import clock
from holdfast.engines.processes import Process, is_alive

_CALM_SECONDS = 30.0
_DELAY_SECONDS_MAX = 5.0


class Backoff:
    """How long to wait before something that has ended is started again: not at all, then longer and longer."""

    def __init__(self) -> None:
        self.tries = 0
        self._last = clock.monotonic_seconds()

    async def wait(self) -> None:
        """Waits as long as this next try has to."""
        now = clock.monotonic_seconds()
        self.tries = 1 if now - self._last > _CALM_SECONDS else self.tries + 1
        self._last = now
        await asyncio.sleep(min(_DELAY_SECONDS_MAX, 0.1 * 2**self.tries) if self.tries > 1 else 0)


async def ended(process: Process | None) -> None:
    """Returns when this process has ended, whoever started it."""
    if process is None:
        return
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(handle, over.set)
    try:
        if is_alive(process):
            await over.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
