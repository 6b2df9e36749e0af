"""Brings a database to the schema of this release: `holdfast migrate`.

Alembic orders the revisions and writes one script (its offline mode); asyncpg, the only driver here, runs it in one
transaction under an advisory lock, so that two that migrate at once do not meet. Then the services' database roles,
where there are any, get their grants.
"""

import io
import re
from pathlib import Path

import asyncpg

from holdfast.engines.hosts.connection import connect_to_primary
from holdfast.errors import Mendable
from holdfast.schema.roles import create_roles, grant

_FOLDER = Path(__file__).parent
_CONNECT_SECONDS = 60.0
_LOCK = 0x686F6C64  # "hold"


def known_revisions() -> list[str]:
    """The revisions of this release, oldest first, read from the files' names (without importing Alembic)."""
    names = sorted(path.name for path in (_FOLDER / "versions").glob("m[0-9]*_*.py"))
    return [match[1] for name in names if (match := re.match(r"m(\d+)_", name))]


async def current_revision(connection: "asyncpg.Connection[asyncpg.Record]") -> str | None:
    """The revision a database is at; None for an empty one."""
    if await connection.fetchval("SELECT to_regclass('public.alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM public.alembic_version")
    return revision


async def migrate(database_url: str, *, with_roles: bool = False) -> list[str]:
    """Runs what is missing; answers the revisions it ran. `with_roles` makes the services' roles that are missing.

    Raises Mendable for a database of a newer release, and for roles that cannot be made or be given their grants.
    """
    connection = await connect_to_primary(database_url, timeout=_CONNECT_SECONDS)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        current = await current_revision(connection)
        known = known_revisions()
        if current is not None and current not in known:
            raise Mendable(
                f"The database has schema {current} of a newer Holdfast; this one knows {known[-1]} at most: "
                "install that release, or use another data folder."
            )
        missing = known if current is None else known[known.index(current) + 1 :]
        if missing:
            await connection.execute(_script(current))
        if with_roles:
            await create_roles(connection)
        await grant(connection)
        return missing
    finally:
        await connection.close()


def _script(current: str | None) -> str:
    from alembic import command
    from alembic.config import Config

    output = io.StringIO()
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(_FOLDER))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, f"{current or 'base'}:head", sql=True)
    return output.getvalue()
