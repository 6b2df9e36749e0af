"""What a command says: people's lines, or one JSON object on standard output and the rest on standard error."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

DataOption = Annotated[Path, typer.Option("--data", metavar="DIR", help="The data folder of `holdfast up`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as one JSON object on standard output.")]

DATA_DEFAULT = Path(".holdfast")


def report(answer: Mapping[str, object], lines: Sequence[str], *, as_json: bool) -> None:
    """Says what a command found out: `answer` as JSON, or else `lines`."""
    if as_json:
        typer.echo(json.dumps(answer, default=str))
        return
    for line in lines:
        typer.echo(line)
