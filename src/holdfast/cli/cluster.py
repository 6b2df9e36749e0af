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
    group.command("cost")(cost)
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
    import logging

    from holdfast.cli.cluster_run import ClusterRun
    from holdfast.cli.logs import log_to_standard_error
    from holdfast.cluster.wishes import Wishes

    log_to_standard_error(logging.WARNING)
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


def cost(
    data: ClusterDataOption = CLUSTER_DATA_DEFAULT,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to measure.")] = 20.0,
    as_json: JsonOption = False,
) -> None:
    """Measure what a purchase costs each member in processor time while something buys, and compute what more takes."""
    import asyncio

    import msgspec

    from holdfast.cluster import scale
    from holdfast.cluster.cost import Costs, components_of, lines_of, measure
    from holdfast.cluster.note import layout_of, running_note
    from holdfast.cluster.picture import Observer
    from holdfast.engines.data_folder import DataFolder, Shape

    folder = DataFolder(data, Shape.CLUSTER)
    note = running_note(folder)
    layout, database_url = layout_of(folder, note), folder.running().settings["database_url"]

    async def look() -> Costs:
        observer = Observer(layout, database_url, folder.passwords("gate")["gate"])
        try:
            members = (await observer.look(note)).members
        finally:
            await observer.close()
        return await measure(components_of(members, layout), database_url, seconds)

    found = asyncio.run(look())
    lines = [] if as_json else ["Measured:", *lines_of(found), "", "Computed from it:", *scale.lines_of(found)]
    report(msgspec.to_builtins(found), lines, as_json=as_json)


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
