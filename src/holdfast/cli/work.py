"""`holdfast work NAME`: the loops that run beside the servers."""

from enum import StrEnum
from typing import Annotated

import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption


class Worker(StrEnum):
    """The loops that can run in a process of their own."""

    EXPIRY = "expiry"
    RELAY = "relay"
    PAYMENTS = "payments"
    NOTIFY = "notify"
    STATS = "stats"
    RECONCILE = "reconcile"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(work)


def work(
    name: Annotated[Worker, typer.Argument(help="The worker to run, or all of them.")],
    data: DataOption = DATA_DEFAULT,
) -> None:
    """Run a worker, or all of them in one process.

    The engines are those of the `holdfast up` that runs on the data folder, or given by HOLDFAST_DATABASE_URL and
    HOLDFAST_GATE_URL.
    """
    from holdfast.engines.data_folder import settings_of

    settings = settings_of(data)

    import uvloop

    from holdfast.assemble import check_database
    from holdfast.cli.logs import log_to_standard_error
    from holdfast.cli.offspring import ALL_WORKERS, work_until_told

    log_to_standard_error()
    uvloop.run(check_database(settings))
    typer.echo(f"Working: {name.value}", err=True)
    uvloop.run(work_until_told(settings, ALL_WORKERS if name is Worker.ALL else frozenset({name.value})))
