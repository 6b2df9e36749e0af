"""`holdfast admin`: what whoever holds the machine makes: an administrator, the keys that sign tokens."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from holdfast import ids
from holdfast.cli.output import DATA_DEFAULT, DataOption, JsonOption, report
from holdfast.engines.data_folder import settings_of
from holdfast.errors import Mendable, Refusal
from holdfast.settings import Settings

PASSWORD_BYTES_MAX = 4096


def register(app: typer.Typer) -> None:
    """Adds the group."""
    group = typer.Typer(no_args_is_help=True, help="Administrators.", rich_markup_mode=app.rich_markup_mode)
    group.callback()(_admin)
    group.command()(create)
    group.command("signing-keys")(signing_keys)
    app.add_typer(group, name="admin")


def _admin() -> None:
    """Administrators."""


def create(
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="The address to log in with.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input.")
    ] = False,
    data: DataOption = DATA_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Make an administrator, or make one of an account that has this address.

    Asks for the password in a terminal; elsewhere it comes by --password-stdin.
    """
    settings = settings_of(data)
    password = _read_password() if password_stdin else _ask_password()
    answer = asyncio.run(_create(settings, email, password))
    report(answer, [f"{answer['email']} is an administrator."], as_json=as_json)


def signing_keys(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to keep it; for the auth service alone.")],
    as_json: JsonOption = False,
) -> None:
    """Make a file with a new key that signs tokens, for HOLDFAST_SIGNING_KEY_FILE. One that is there is left alone.

    `holdfast up` and `holdfast cluster` make their own.
    """
    from holdfast.auth.signing_keys import create_signing_keys

    made = not file.exists()
    if made:
        try:
            create_signing_keys(file)
        except OSError as error:
            raise Mendable(f"{file} cannot be written ({error.strerror}): name a file in a folder of yours.") from error
    report({"file": str(file), "made": made}, [f"{'Made' if made else 'Left alone'}: {file}"], as_json=as_json)


def _read_password() -> str:
    line = sys.stdin.buffer.readline(PASSWORD_BYTES_MAX + 1)
    try:
        password = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise Mendable("The password on standard input is not UTF-8: write it in that.") from error
    if not password:
        raise Mendable("There is no password on standard input: write one line with it.")
    return password


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise Mendable("There is no terminal to ask for the password: give it with --password-stdin.")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return password


async def _create(settings: Settings, email: str, password: str) -> dict[str, str]:
    from holdfast.auth.service import open_auth
    from holdfast.engines.database import open_pool

    pool = await open_pool(settings)
    try:
        auth = open_auth(settings, pool)
        try:
            user = await auth.accounts.create_administrator(email, password)
        finally:
            auth.close()
    except Refusal as refusal:
        raise Mendable(f"No administrator was made: {(refusal.detail or refusal.kind.title).rstrip('.')}.") from refusal
    finally:
        await pool.close()
    return {"id": ids.encode(ids.USER, user.id), "email": user.email, "role": user.role}
