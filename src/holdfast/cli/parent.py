"""A child of `up`, and the pipe that ties it to it.

The supervisor holds the writing end. Its first byte says that the engines are ready, so that a child can spend the
time until then on its imports; its end says that the supervisor is gone.
"""

import asyncio
import os
from pathlib import Path

from holdfast.engines.data_folder import settings_of
from holdfast.settings import Settings, load_settings

GO = b"g"


def wait_for_go(parent_pipe: int | None) -> bool:
    """Waits until the supervisor says go; False where it has gone instead. True at once for a process of its own."""
    return parent_pipe is None or os.read(parent_pipe, 1) == GO


def when_parent_ends(parent_pipe: int | None, stop: asyncio.Event) -> None:
    """Sets `stop` when the supervisor is gone."""
    if parent_pipe is None:
        return
    loop = asyncio.get_running_loop()

    def spoke() -> None:
        if not os.read(parent_pipe, 4096):
            loop.remove_reader(parent_pipe)
            stop.set()

    loop.add_reader(parent_pipe, spoke)


def settings_of_process(data: Path, parent_pipe: int | None) -> Settings:
    """A child has its settings from its supervisor by the environment; any other process from the data folder too."""
    return settings_of(data) if parent_pipe is None else load_settings()
