"""`holdfast work NAME`: the loops that run beside the servers."""

import asyncio
import signal
from typing import Annotated

import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption
from holdfast.cli.parent import settings_of_process, wait_for_go, when_parent_ends
from holdfast.settings import Settings

ALL = "all"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(work)


def work(
    name: Annotated[str, typer.Argument(metavar="NAME", help="expiry, relay, payments, reconcile, or all.")],
    data: DataOption = DATA_DEFAULT,
    parent_pipe: Annotated[int | None, typer.Option(hidden=True, help="A pipe that ends with the parent.")] = None,
) -> None:
    """Run a worker, or all of them in one process.

    The engines are those of the `holdfast up` that runs on the data folder, or given by HOLDFAST_DATABASE_URL and
    HOLDFAST_GATE_URL.
    """
    import uvloop

    from holdfast.assemble import WORKERS
    from holdfast.cli.logs import log_to_standard_error

    if name not in (*WORKERS, ALL):
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(WORKERS)}, {ALL}.", param_hint="NAME")
    log_to_standard_error()
    if not wait_for_go(parent_pipe):
        return
    names = frozenset(WORKERS) if name == ALL else frozenset({name})
    uvloop.run(_work(settings_of_process(data, parent_pipe), names, parent_pipe))


async def _work(settings: Settings, names: frozenset[str], parent_pipe: int | None) -> None:
    from holdfast.assemble import run_workers

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    when_parent_ends(parent_pipe, stop)
    await run_workers(settings, names, stop)
