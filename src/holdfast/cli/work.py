"""`holdfast work NAME`: the loops that run beside the servers."""

from typing import Annotated

import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption

ALL = "all"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(work)


def work(
    name: Annotated[str, typer.Argument(metavar="NAME", help="expiry, relay, payments, reconcile, or all.")],
    data: DataOption = DATA_DEFAULT,
) -> None:
    """Run a worker, or all of them in one process.

    The engines are those of the `holdfast up` that runs on the data folder, or given by HOLDFAST_DATABASE_URL and
    HOLDFAST_GATE_URL.
    """
    import uvloop

    from holdfast.assemble import WORKERS
    from holdfast.cli.logs import log_to_standard_error
    from holdfast.cli.offspring import work_until_told
    from holdfast.engines.data_folder import settings_of

    if name not in (*WORKERS, ALL):
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(WORKERS)}, {ALL}.", param_hint="NAME")
    settings = settings_of(data)
    log_to_standard_error()
    typer.echo(f"Working: {name}", err=True)
    uvloop.run(work_until_told(settings, frozenset(WORKERS) if name == ALL else frozenset({name})))
