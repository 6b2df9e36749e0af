"""The command line: `holdfast COMMAND`.

A command lives in the module of `holdfast.cli` that COMMANDS names, and is added by that module's
`register(app: typer.Typer) -> None`. Only the module of the command that was asked for is imported, so that `up` and
its children start fast.
"""

import json
import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.errors import Mendable

COMMANDS = {
    "up": "up",
    "serve": "serve",
    "work": "work",
    "migrate": "migrate",
    "admin": "admin",
}
"""Each command, or group of commands, and the module that registers it. One line adds a command."""

EXIT_MENDABLE = 2


def run() -> None:
    """Runs the command of sys.argv; ends the process with its status."""
    arguments = sys.argv[1:]
    try:
        build_app(arguments)()
    except Mendable as error:
        _refuse(str(error), as_json="--json" in arguments)
        sys.exit(EXIT_MENDABLE)
    except BrokenPipeError:
        # Whoever read our output has gone; the flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def build_app(arguments: list[str]) -> typer.Typer:
    """The app with the command that `arguments` name; with all of them where they name none, for the help."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
        help="Sells tickets when everyone comes at once.",
    )
    app.callback()(_global_options)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    names = [asked] if asked in COMMANDS else list(COMMANDS)
    for module in dict.fromkeys(COMMANDS[name] for name in names):
        import_module(f"holdfast.cli.{module}").register(app)
    return app


def _global_options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


def _refuse(sentence: str, *, as_json: bool) -> None:
    typer.echo(sentence, err=True)
    if as_json:
        typer.echo(json.dumps({"error": sentence}))


if __name__ == "__main__":
    run()
