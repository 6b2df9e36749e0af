"""The database roles of the services, and their grants: what each may do, and nothing else.

    holdfast_auth  holdfast_tickets  holdfast_orders  holdfast_workers

They are groups that nobody logs in as. An operator makes the roles that log in, with passwords of their own, members of
one group each; a process gets one of them in its HOLDFAST_DATABASE_URL. A database whose server has none of the four
belongs to its owner alone, as on one machine.
"""

from importlib.resources import files
from typing import TypeAlias

import asyncpg

from holdfast.errors import Mendable

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ROLES = ("holdfast_auth", "holdfast_tickets", "holdfast_orders", "holdfast_workers")

_GRANTS = (files("holdfast.schema") / "grants.sql").read_text("utf-8")
_STATE_OF_GRANTS = "HF003"

# Roles belong to the whole server: another database of it may be migrated at the same moment.
_CREATE = """
DO $$
BEGIN
    CREATE ROLE {role} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$
"""

# What a group may not have, since its members would have it too.
_POWERS = """
SELECT r.rolname || ' ' || p.power FROM pg_roles r CROSS JOIN LATERAL (VALUES
    (r.rolsuper, 'is a superuser'), (r.rolcreaterole, 'may create roles'), (r.rolcreatedb, 'may create databases'),
    (r.rolreplication, 'may replicate'), (r.rolbypassrls, 'goes past row security'), (r.rolcanlogin, 'may log in'),
    (EXISTS (SELECT 1 FROM pg_auth_members m WHERE m.member = r.oid), 'is a member of another role')
) AS p (has, power)
WHERE r.rolname = ANY ($1) AND p.has ORDER BY 1
"""


async def create_roles(connection: Connection) -> None:
    """Makes the groups that are missing, all or none. Raises Mendable where that is not allowed."""
    try:
        async with connection.transaction():
            for role in ROLES:
                await connection.execute(_CREATE.format(role=role))
    except asyncpg.InsufficientPrivilegeError as error:
        raise Mendable(
            f"This role may not create others: run `holdfast migrate --create-roles` as one with CREATEROLE, or have "
            f"{', '.join(ROLES)} made by whoever may (CREATE ROLE … NOLOGIN)."
        ) from error


async def grant(connection: Connection) -> bool:
    """Gives each group exactly its grants; False where there are no groups.

    Raises Mendable for half a set of groups, for groups that have powers besides, and where a service could still make
    objects.
    """
    rows = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY ($1)", ROLES)
    missing = sorted(set(ROLES) - {row["rolname"] for row in rows})
    if len(missing) == len(ROLES):
        return False
    if missing:
        raise Mendable(
            f"Of the services' database roles {', '.join(missing)} are missing: make them with "
            "`holdfast migrate --create-roles`, or drop the others."
        )
    powers = await connection.fetch(_POWERS, ROLES)
    if powers:
        raise Mendable(f"{powers[0][0]}, which would be every service's of that role: take that away from it first.")
    try:
        async with connection.transaction():
            await connection.execute(_GRANTS)
    except asyncpg.PostgresError as error:
        if error.sqlstate != _STATE_OF_GRANTS:
            raise
        raise Mendable(str(error)) from error
    return True
