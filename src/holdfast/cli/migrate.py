"""`holdfast migrate`: brings the database to this release's schema."""

import asyncio
import os
from typing import Annotated

import typer

from holdfast.cli.output import DATA_DEFAULT, DataOption, JsonOption, report
from holdfast.engines.data_folder import settings_of
from holdfast.errors import Mendable


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command()(migrate)


def migrate(
    create_roles: Annotated[
        bool, typer.Option("--create-roles", help="Make the database roles of the services where they are missing.")
    ] = False,
    data: DataOption = DATA_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Bring the database to this release's schema. Running it again changes nothing.

    The database is that of the `holdfast up` that runs on the data folder, or given by HOLDFAST_DATABASE_URL. Run it as
    the owner of the database.

    Services that run apart have database roles of their own: holdfast_auth, holdfast_tickets, holdfast_orders and
    holdfast_workers. --create-roles makes them, which takes a role with CREATEROLE, and wherever they exist they are
    given their grants. Nobody logs in as one of them. Make a role that does for each service, such as

    CREATE ROLE holdfast_orders_login LOGIN PASSWORD '…' IN ROLE holdfast_orders;

    and put it into the HOLDFAST_DATABASE_URL of `holdfast serve orders`. Every worker has one of holdfast_workers.
    """
    database_url = settings_of(data).database_url.get_secret_value()
    ran, known = asyncio.run(migrate_database(database_url, with_roles=create_roles))
    done = f"Ran {', '.join(ran)}." if ran else "Nothing to do."
    report({"revision": known, "ran": ran}, [f"{done} The schema is {known}."], as_json=as_json)


async def migrate_database(database_url: str, *, with_roles: bool = False) -> tuple[list[str], str]:
    """Migrates; answers the revisions it ran and the one it is at now. Raises Mendable where the database is away."""
    import asyncpg

    from holdfast.engines.hosts.connection import is_of_a_replica
    from holdfast.schema.migrate import known_revisions
    from holdfast.schema.migrate import migrate as run

    try:
        return await run(database_url, with_roles=with_roles), known_revisions()[-1]
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if is_of_a_replica(error):
            raise Mendable(
                "The database is a replica, which cannot be migrated: give the primary's address in "
                "HOLDFAST_DATABASE_URL."
            ) from error
        given = "HOLDFAST_DATABASE_URL" if os.environ.get("HOLDFAST_DATABASE_URL") else "the data folder"
        reason = f"{type(error).__name__}: {error}"
        raise Mendable(
            f"The database of {given} cannot be migrated ({reason}): see that it runs and is ours."
        ) from error
