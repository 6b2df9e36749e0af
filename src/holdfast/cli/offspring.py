"""What `up` has its nursery bear: servers and workers. Importing this is what takes the time."""

import asyncio
import os
import signal
from collections.abc import Sequence

import structlog
import uvloop

from holdfast.assemble import WORKERS, build_app, run_workers
from holdfast.cli.logs import log_to_standard_error
from holdfast.cli.nursery import Kinds
from holdfast.door.server import serve
from holdfast.settings import Settings, load_settings

ALL_WORKERS = frozenset(WORKERS)

_log = structlog.get_logger(__name__)


def be_server(descriptors: Sequence[int]) -> None:
    """A server process of all services, on an inherited listening socket."""
    parent_pipe, listener = descriptors
    log_to_standard_error()
    settings = load_settings()
    # The address is the listener's own.
    serve(build_app(settings, "all"), settings, host="", port=0, fd=listener, parent_pipe=parent_pipe)


def be_worker(descriptors: Sequence[int]) -> None:
    """A process with all workers."""
    (parent_pipe,) = descriptors
    log_to_standard_error()
    uvloop.run(work_until_told(load_settings(), ALL_WORKERS, parent_pipe))


KINDS: Kinds = {"server": be_server, "worker": be_worker}


async def work_until_told(settings: Settings, names: frozenset[str], parent_pipe: int | None = None) -> None:
    """Runs workers until SIGINT, SIGTERM or the end of the pipe; then each finishes its step, within `drain_seconds` or
    not at all. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    was_told = False

    def be_told(number: int) -> None:
        nonlocal was_told
        if was_told:
            os._exit(128 + number)
        was_told = True
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, be_told, number)
    if parent_pipe is not None:
        loop.add_reader(parent_pipe, _when_readable, parent_pipe, stop)
    watching = asyncio.create_task(_end_in_time(stop, settings.drain_seconds))
    try:
        await run_workers(settings, names, stop)
    finally:
        watching.cancel()


async def _end_in_time(stop: asyncio.Event, seconds: float) -> None:
    await stop.wait()
    await asyncio.sleep(seconds)
    _log.error("a worker's step has not ended in time", drain_seconds=seconds)
    # Every step may be cut off anywhere; an exception would wait for its end.
    os._exit(1)


def _when_readable(parent_pipe: int, stop: asyncio.Event) -> None:
    # Nothing is ever written: it is readable when the parent, which alone could, has ended.
    if not os.read(parent_pipe, 1):
        asyncio.get_running_loop().remove_reader(parent_pipe)
        stop.set()
