"""`holdfast up`: everything on one machine, by one command."""

import os
from typing import Annotated

import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption, JsonOption

WORKERS_DEFAULT = max(1, (os.cpu_count() or 1) // 2)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(up)


def up(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes any.")] = 8000,
    data: DataOption = DATA_DEFAULT,
    demo: Annotated[
        bool, typer.Option(help="Put a demo event on sale at the first start; only on the loopback address.")
    ] = True,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="How many server processes.", show_default="one for every two cores")
    ] = max(1, (os.cpu_count() or 1) // 2),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    as_json: JsonOption = False,
) -> None:
    """Start everything on this machine: engines, schema, servers, workers. Ctrl-C stops it.

    Everything is kept in the data folder. An engine that is given by HOLDFAST_DATABASE_URL or HOLDFAST_GATE_URL is
    used instead of a private one.
    """
    from holdfast.cli.house import Wishes, keep_house

    keep_house(context.obj, data, Wishes(host, port, demo, workers, as_json))
