"""`holdfast doctor`: whether everything is as it must be, and what mends what is not."""

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption, JsonOption, report
from holdfast.engines.data_folder import settings_of
from holdfast.errors import Mendable

if TYPE_CHECKING:
    from holdfast.doctor.checks import Check

EXIT_BROKEN = 1


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(doctor)


def doctor(
    data: DataOption = DATA_DEFAULT,
    as_json: JsonOption = False,
    repair: Annotated[bool, typer.Option("--repair", help="First load the gate of every event anew.")] = False,
    patience: Annotated[
        float, typer.Option(min=0, max=600, help="For so many seconds what fails is looked at again.")
    ] = 7,
) -> None:
    """Check engines, schema, settings and every invariant: one line each, with what mends it.

    The exit status is 1 if something is not as it must be.
    """
    from holdfast.cli.logs import log_to_standard_error
    from holdfast.doctor.examine import examine

    log_to_standard_error(logging.ERROR)
    settings = settings_of(data)
    if not settings.database_url.get_secret_value():
        raise Mendable("There is no database to look at: set HOLDFAST_DATABASE_URL.")
    found = asyncio.run(examine(settings, patience, repair=repair))
    answer: dict[str, object] = {"ok": found.is_fine, "checks": msgspec.to_builtins(found.checks)}
    if found.repaired is not None:
        answer["repaired"] = found.repaired
    if as_json:
        report(answer, (), as_json=True)
    else:
        _say(found.checks, found.repaired)
    if not found.is_fine:
        raise typer.Exit(EXIT_BROKEN)


def _say(checks: "list[Check]", repaired: int | None) -> None:
    # Colours only where someone looks; typer takes them out anywhere else.
    colours = sys.stdout.isatty()
    if repaired is not None:
        typer.echo(f"{repaired} gate(s) loaded anew")
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = typer.style("OK  ", fg="green") if check.ok else typer.style("FAIL", fg="red", bold=True)
        mend = "" if check.mend is None else f" -> {check.mend}"
        typer.echo(f"{mark}  {check.name:<{width}}  {check.detail}{mend}", color=colours)
