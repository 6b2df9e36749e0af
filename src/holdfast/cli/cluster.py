"""`holdfast cluster`: the scaled-out shape on the loopback address of one machine, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.output import JsonOption, report
from holdfast.errors import Mendable

ClusterDataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="The data folder of the cluster.")]
CLUSTER_DATA_DEFAULT = Path(".holdfast-cluster")
_STOP_SECONDS_MAX = 120.0
_SAMPLE_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Adds the command and those below it."""
    group = typer.Typer(invoke_without_command=True, no_args_is_help=False)
    group.callback()(cluster)
    group.command("status")(status)
    group.command("stop")(stop)
    app.add_typer(group, name="cluster")


def cluster(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0 takes any.")] = 8000,
    data: ClusterDataOption = CLUSTER_DATA_DEFAULT,
    services: Annotated[int, typer.Option(min=1, max=9, help="How many processes of each service.")] = 2,
    demo: Annotated[bool, typer.Option(help="Put a demo event on sale at the first start.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Start the whole scaled-out shape on this machine, without Docker; Ctrl-C stops it.

    PostgreSQL with two standbys under Patroni and etcd, a gate of six Valkey nodes, three Kafka brokers, the three
    services, the workers, and Envoy in front of them. Everything is kept in the data folder.
    """
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from holdfast.cli.cluster_run import ClusterRun
    from holdfast.cluster.wishes import Wishes

    asyncio.run(ClusterRun(data, Wishes(port, services), demo=demo, as_json=as_json).run())


def status(data: ClusterDataOption = CLUSTER_DATA_DEFAULT, as_json: JsonOption = False) -> None:
    """Show every member of the cluster that runs on the data folder. The exit status is 1 if one is not well."""
    import asyncio

    import msgspec

    from holdfast.cli.cluster_view import lines_of
    from holdfast.cluster.note import layout_of, running_note
    from holdfast.cluster.picture import Observer, Picture
    from holdfast.engines.data_folder import DataFolder, Shape

    folder = DataFolder(data, Shape.CLUSTER)
    note = running_note(folder)

    async def look() -> Picture:
        running = folder.running()
        observer = Observer(layout_of(folder, note), running.settings["database_url"], folder.passwords("gate")["gate"])
        try:
            await observer.look(note)
            await asyncio.sleep(_SAMPLE_SECONDS)
            return await observer.look(running_note(folder))
        finally:
            await observer.close()

    picture = asyncio.run(look())
    answer = {"well": picture.is_well, "url": folder.running().url, **msgspec.to_builtins(picture)}
    report(answer, lines_of(picture), as_json=as_json)
    if not picture.is_well:
        raise typer.Exit(1)


def stop(data: ClusterDataOption = CLUSTER_DATA_DEFAULT, as_json: JsonOption = False) -> None:
    """Stop the cluster that runs on the data folder, and wait until it has ended."""
    import signal

    from holdfast.cluster.note import running_note
    from holdfast.engines import processes
    from holdfast.engines.data_folder import DataFolder, Shape

    folder = DataFolder(data, Shape.CLUSTER)
    running_note(folder)
    supervisor = folder.running().supervisor
    assert supervisor is not None
    processes.send(supervisor, signal.SIGTERM)
    if processes.wait_for_end([supervisor], _STOP_SECONDS_MAX):
        raise Mendable(f"It has not stopped within {_STOP_SECONDS_MAX:.0f} seconds: see the logs in {folder.logs}.")
    report({"stopped": True}, ["Stopped"], as_json=as_json)
