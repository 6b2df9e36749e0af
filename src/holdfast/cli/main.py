"""The command line: `holdfast COMMAND`.

A command lives in the module of `holdfast.cli` that COMMANDS names, and is added by that module's
`register(app: typer.Typer) -> None`. Only the module of the command that was asked for is imported, and even Typer
not before `up` has launched its nursery: a start is to be fast.
"""

import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

from holdfast import __version__
from holdfast.cli.nursery_launch import launch_nursery
from holdfast.errors import Mendable

if TYPE_CHECKING:
    import typer

COMMANDS = {
    "up": "up",
    "cluster": "cluster",
    "serve": "serve",
    "work": "work",
    "migrate": "migrate",
    "admin": "admin",
    "events": "events",
    "rush": "rush",
    "doctor": "doctor",
    "bench": "bench",
    "drill": "drill",
    "gateway": "gateway",
}
"""Each command, or group of commands, and the module that registers it. One line adds a command."""

EXIT_MENDABLE = 2


def run() -> None:
    """Runs the command of sys.argv; ends the process with its status."""
    arguments = sys.argv[1:]
    # First of all, so that the servers' long imports go on beside our own.
    launched = launch_nursery() if arguments[:1] == ["up"] and "--help" not in arguments else None
    try:
        build_app(arguments)(obj=launched)
    except Mendable as error:
        _refuse(str(error), as_json="--json" in arguments)
        sys.exit(EXIT_MENDABLE)
    except BrokenPipeError:
        # Whoever read our output has gone; the flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        if launched is not None:
            launched.kill()


def build_app(arguments: list[str]) -> "typer.Typer":
    """The app with the command that `arguments` name; with all of them where they name none, for the help."""
    import typer

    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if sys.stdout.isatty() else None,
    )

    def show_version(asked: bool) -> None:
        if asked:
            typer.echo(f"holdfast {__version__}")
            raise typer.Exit

    @app.callback()
    def options(
        version: Annotated[bool, typer.Option("--version", is_eager=True, callback=show_version)] = False,
    ) -> None:
        """Sells tickets when everyone comes at once."""

    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    names = [asked] if asked in COMMANDS else list(COMMANDS)
    for module in dict.fromkeys(COMMANDS[name] for name in names):
        import_module(f"holdfast.cli.{module}").register(app)
    return app


def _refuse(sentence: str, *, as_json: bool) -> None:
    sys.stderr.write(f"{sentence}\n")
    if as_json:
        sys.stdout.write(json.dumps({"error": sentence}) + "\n")


if __name__ == "__main__":
    run()
