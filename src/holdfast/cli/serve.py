"""`holdfast serve ROLE`: one server process."""

import asyncio
from enum import StrEnum
from typing import Annotated

import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption


class Role(StrEnum):
    """Which of the services a process offers."""

    AUTH = "auth"
    TICKETS = "tickets"
    ORDERS = "orders"
    ALL = "all"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(serve)


def serve(
    role: Annotated[Role, typer.Argument(help="The service to offer, or all of them.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes any.")] = 8000,
    data: DataOption = DATA_DEFAULT,
) -> None:
    """Serve one of the services, or all, in one process. Any number of each may run.

    The engines are those of the `holdfast up` that runs on the data folder, or given by HOLDFAST_DATABASE_URL and
    HOLDFAST_GATE_URL, which orders alone needs. The private keys in HOLDFAST_SIGNING_KEY_FILE are for auth alone: the
    others learn the public ones from HOLDFAST_JWKS_URL, or from a file with nothing but those. Each service may have a
    database role of its own: see `holdfast migrate --help`.
    """
    from holdfast.cli.listening import http_url, listen, port_of, reachable_host
    from holdfast.engines.data_folder import settings_of

    settings = settings_of(data)
    listener = listen(host, port)

    from holdfast.assemble import build_app, check_database
    from holdfast.cli.logs import log_to_standard_error
    from holdfast.door.server import serve as serve_app

    log_to_standard_error()
    asyncio.run(check_database(settings))
    typer.echo(f"Serving {role.value} on {http_url(reachable_host(listener), port_of(listener))}", err=True)
    app = build_app(settings, role.value)
    try:
        serve_app(app, settings, host=host, port=port, fd=listener.detach())
    except SystemExit as ended:
        # uvicorn's way of saying that the app did not open.
        if app.refusal is not None:
            raise app.refusal from ended
        raise
