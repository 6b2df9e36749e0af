"""What each service may do in the database, written down by hand: nothing less, and nothing more."""

from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from itertools import product
from typing import NamedTuple

import asyncpg
import pytest

from holdfast.engines.database import Connection
from holdfast.schema.migrate import migrate
from holdfast.settings import Settings
from service_roles import SERVICES, Logins, logins

# kind, name, privilege (of some columns), and whose it is. What is not here is nobody's.
ALLOWED = """
schema    auth                        USAGE                                             auth tickets orders workers
schema    tickets                     USAGE                                             tickets orders workers
schema    orders                      USAGE                                             orders workers
schema    outbox                      USAGE                                             tickets orders workers
schema    stats                       USAGE                                             tickets workers
schema    notify                      USAGE                                             workers
schema    public                      USAGE                                             auth tickets orders workers

table     public.alembic_version      SELECT                                            auth tickets orders workers

table     auth.users                  SELECT                                            auth
table     auth.users                  SELECT(id,email)                                  workers
table     auth.users                  INSERT                                            auth
table     auth.users                  UPDATE(role,password_hash)                        auth
table     auth.refresh_tokens         SELECT                                            auth
table     auth.refresh_tokens         INSERT                                            auth
table     auth.refresh_tokens         UPDATE(used_at,revoked_at)                        auth
table     auth.login_failures         SELECT                                            auth
table     auth.login_failures         INSERT                                            auth
table     auth.login_failures         UPDATE(arrival_at)                                auth
table     auth.setup_links            SELECT                                            auth
table     auth.setup_links            INSERT                                            auth
table     auth.setup_links            UPDATE(used_at)                                   auth
table     auth.setup_links            DELETE                                            auth
function  auth.is_administrator       EXECUTE                                           auth tickets orders
function  auth.house_organiser        EXECUTE                                           tickets
function  auth.forget_failures        EXECUTE                                           workers
function  auth.forget_refresh_tokens  EXECUTE                                           workers

table     tickets.events              SELECT                                            tickets
table     tickets.events              SELECT(id,status,hold_seconds,tickets_per_user_max) orders
table     tickets.events              SELECT(id,status,version,name,venue_name,venue_address) workers
table     tickets.events              SELECT(starts_at,time_zone)                       workers
table     tickets.events              INSERT                                            tickets
table     tickets.events              UPDATE(name,description,venue_name,venue_address,url,starts_at,ends_at) tickets
table     tickets.events              UPDATE(time_zone,status,hold_seconds,tickets_per_user_max) tickets
table     tickets.events              UPDATE(source_digest,version,updated_at)          tickets
table     tickets.tiers               SELECT                                            tickets
table     tickets.tiers               SELECT(id,event_id,name,price_amount,currency)    orders
table     tickets.tiers               SELECT(id,name)                                   workers
table     tickets.tiers               INSERT                                            tickets
table     tickets.tiers               UPDATE(name,price_amount,currency,imported)       tickets
table     tickets.tiers               DELETE                                            tickets
table     tickets.stock               SELECT                                            tickets orders workers
table     tickets.stock               INSERT(tier_id,event_id,capacity,opens_at,closes_at,state) tickets
table     tickets.stock               UPDATE(capacity,opens_at,closes_at,state)         tickets
table     tickets.gates               SELECT                                            tickets orders workers
table     tickets.gates               UPDATE(warm_until)                                workers
table     tickets.gates               INSERT(event_id,epoch)                            tickets
function  tickets.hold                EXECUTE                                           orders
function  tickets.try_hold            EXECUTE                                           orders
function  tickets.lock_stock          EXECUTE                                           tickets orders
function  tickets.move                EXECUTE                                           orders workers
function  tickets.cancelled           EXECUTE                                           orders workers
function  tickets.try_sell_late       EXECUTE                                           orders workers
function  tickets.begin_load          EXECUTE                                           orders workers
function  tickets.end_load            EXECUTE                                           orders workers
function  tickets.give_up_load        EXECUTE                                           orders workers

table     orders.orders               SELECT                                            orders workers
table     orders.orders               INSERT                                            orders
table     orders.orders               UPDATE(status,version,ended_at)                   orders workers
table     orders.orders               DELETE                                            orders
table     orders.user_tickets         SELECT                                            orders workers
table     orders.user_tickets         INSERT                                            orders
table     orders.user_tickets         UPDATE(tickets)                                   orders workers
table     orders.user_tickets         UPDATE(tickets_max)                               orders
table     orders.idempotency_keys     SELECT                                            orders workers
table     orders.idempotency_keys     INSERT                                            orders
table     orders.idempotency_keys     DELETE                                            orders workers
table     orders.payments             SELECT                                            orders workers
table     orders.payments             INSERT                                            orders
table     orders.payments             UPDATE(state,updated_at)                          orders workers
table     orders.tickets              SELECT                                            orders
table     orders.tickets              SELECT(id,order_id,tier_id)                       workers
table     orders.tickets              INSERT                                            orders workers
function  orders.journal              EXECUTE                                           orders
function  orders.begin_payments       EXECUTE                                           orders
function  orders.cancel               EXECUTE                                           orders
function  orders.write_keys           EXECUTE                                           orders
function  orders.expire               EXECUTE                                           workers
function  orders.cancel_of_event      EXECUTE                                           workers
function  orders.confirm              EXECUTE                                           orders workers
function  orders.confirm_late         EXECUTE                                           orders workers
function  orders.end_payment          EXECUTE                                           orders workers
function  orders.end_holds            EXECUTE                                           orders workers
function  orders.lock                 EXECUTE                                           orders workers
function  orders.lock_counters        EXECUTE                                           orders workers
function  orders.wait_like_a_write    EXECUTE                                           orders workers

table     outbox.events               SELECT                                            workers
table     outbox.events               INSERT(kind,subject,version,scope)                tickets orders workers
table     outbox.consumers            SELECT                                            workers
table     outbox.consumers            INSERT                                            workers
table     outbox.consumers            UPDATE(xid,id)                                    workers
table     outbox.consumers            DELETE                                            workers
table     outbox.positions            SELECT                                            workers
table     outbox.positions            INSERT                                            workers
table     outbox.positions            UPDATE(next_offset,xid,number)                    workers
table     outbox.dead_letters         SELECT                                            workers
table     outbox.dead_letters         INSERT                                            workers
table     outbox.dead_letters         UPDATE(reason,tries,wanted_at)                    workers
table     outbox.dead_letters         DELETE                                            workers
function  outbox.prune                EXECUTE                                           workers

table     stats.sales                 SELECT                                            tickets workers
table     stats.sales                 INSERT                                            workers
table     stats.sales                 UPDATE(held,released,sold,sold_late,revenue)      workers
table     stats.sales                 DELETE                                            workers
table     stats.begun_with            SELECT                                            workers
function  stats.record                EXECUTE                                           workers
function  stats.record_outbox         EXECUTE                                           workers

table     notify.letters              SELECT                                            workers
table     notify.letters              INSERT                                            workers
table     notify.letters              UPDATE(due_at,tries,outcome,reply_code,ended_at)  workers
table     notify.letters              DELETE                                            workers
table     notify.announcements        SELECT                                            workers
table     notify.announcements        INSERT                                            workers
table     notify.announcements        UPDATE(after_user)                                workers
table     notify.announcements        DELETE                                            workers
function  notify.record               EXECUTE                                           workers
function  notify.announce             EXECUTE                                           workers

database  this                        CONNECT                                           auth tickets orders workers
"""

FOUND = """
WITH roles AS (
    SELECT * FROM unnest($1::text[], $2::text[]) AS r (role, service)
), rooms AS (
    SELECT n.oid, n.nspname FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
), tables AS (
    SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind
    FROM pg_class c JOIN rooms n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
), of_tables AS (
    SELECT unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']
        || CASE WHEN current_setting('server_version_num')::int >= 170000 THEN ARRAY['MAINTAIN'] END) AS privilege
), of_columns AS (
    SELECT unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) AS privilege
)
SELECT 'schema' AS kind, n.nspname AS name, p.privilege, r.service
FROM roles r, rooms n, unnest(ARRAY['USAGE', 'CREATE']) AS p (privilege)
WHERE has_schema_privilege(r.role, n.oid, p.privilege)
UNION ALL
SELECT 'table', t.name, p.privilege, r.service FROM roles r, tables t, of_tables p
WHERE t.relkind <> 'S' AND has_table_privilege(r.role, t.oid, p.privilege)
UNION ALL
SELECT 'table', t.name, p.privilege || '(' || a.attname || ')', r.service
FROM roles r, tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped, of_columns p
WHERE t.relkind <> 'S' AND has_column_privilege(r.role, t.oid, a.attnum, p.privilege)
  AND NOT has_table_privilege(r.role, t.oid, p.privilege)
UNION ALL
SELECT 'sequence', t.name, p.privilege, r.service
FROM roles r, tables t, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS p (privilege)
WHERE t.relkind = 'S' AND has_sequence_privilege(r.role, t.oid, p.privilege)
UNION ALL
SELECT 'function', n.nspname || '.' || f.proname, 'EXECUTE', r.service
FROM roles r, pg_proc f JOIN rooms n ON n.oid = f.pronamespace
WHERE has_function_privilege(r.role, f.oid, 'EXECUTE')
UNION ALL
SELECT 'database', 'this', p.privilege, r.service
FROM roles r, unnest(ARRAY['CONNECT', 'CREATE', 'TEMPORARY']) AS p (privilege)
WHERE has_database_privilege(r.role, current_database(), p.privilege)
"""

OURS = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT n.nspname || '.' || f.proname FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

# Functions that run as their owner with a path of names that others could have a say in, or that anyone may call.
LOOSE = """
SELECT f.oid::regprocedure::text FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND (
    f.prosecdef AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (f.proconfig), false)
    OR EXISTS (SELECT 1 FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a WHERE a.grantee = 0))
"""


class Privilege(NamedTuple):
    """One privilege of one service."""

    kind: str
    name: str
    privilege: str
    service: str


def allowed() -> Iterator[Privilege]:
    """The table above, one privilege at a time."""
    for line in ALLOWED.split("\n"):
        if line:
            kind, name, privilege, *services = line.split()
            action, _, columns = privilege.rstrip(")").partition("(")
            each = [f"{action}({column})" for column in columns.split(",")] if columns else [action]
            for one, service in product(each, services):
                yield Privilege(kind, name, one, service)


async def found(connection: Connection, roles: Logins) -> set[Privilege]:
    """Every privilege that the services have, for whatever reason."""
    names = [roles.names[service] for service in SERVICES]
    return {Privilege(*row) for row in await connection.fetch(FOUND, names, SERVICES)}


async def unnamed(connection: Connection) -> set[str]:
    """Tables and functions that grants.sql says nothing about."""
    words = (files("holdfast.schema") / "grants.sql").read_text("utf-8").replace(",", " ").replace(";", " ").split()
    return {row[0] for row in await connection.fetch(OURS)} - set(words)


@pytest.fixture
async def roles(settings: Settings) -> AsyncIterator[Logins]:
    async with logins(settings) as made:
        yield made


async def test_each_service_has_its_grants_and_no_others(roles: Logins) -> None:
    expected = list(allowed())
    assert len(expected) == len(set(expected)), "a privilege is written down twice"
    async with roles.connected("owner") as owner:
        assert await found(owner, roles) == set(expected)
        assert await owner.fetch(LOOSE) == []
        assert not await unnamed(owner)

        # What was given or taken by hand is put in order again.
        await owner.execute(
            "GRANT DELETE ON auth.users TO holdfast_orders; REVOKE SELECT ON auth.users FROM holdfast_auth"
        )
        await migrate(roles.owner.database_url.get_secret_value())
        assert await found(owner, roles) == set(expected)


SURPLUS = {
    "GRANT SELECT ON auth.users TO holdfast_orders": Privilege("table", "auth.users", "SELECT", "orders"),
    "GRANT SELECT (password_hash) ON auth.users TO holdfast_workers": Privilege(
        "table", "auth.users", "SELECT(password_hash)", "workers"
    ),
    "GRANT UPDATE (sold) ON tickets.stock TO PUBLIC": Privilege("table", "tickets.stock", "UPDATE(sold)", "tickets"),
    "GRANT TRUNCATE ON orders.orders TO holdfast_orders": Privilege("table", "orders.orders", "TRUNCATE", "orders"),
    "GRANT CREATE ON SCHEMA public TO PUBLIC": Privilege("schema", "public", "CREATE", "auth"),
    "GRANT EXECUTE ON FUNCTION tickets.hold TO PUBLIC": Privilege("function", "tickets.hold", "EXECUTE", "workers"),
    "GRANT USAGE ON SEQUENCE outbox.events_id_seq TO holdfast_tickets": Privilege(
        "sequence", "outbox.events_id_seq", "USAGE", "tickets"
    ),
    "GRANT holdfast_auth TO holdfast_orders": Privilege("table", "auth.users", "SELECT", "orders"),
    "DO $$ BEGIN EXECUTE 'GRANT TEMPORARY ON DATABASE ' || current_database() || ' TO PUBLIC'; END $$": Privilege(
        "database", "this", "TEMPORARY", "orders"
    ),
}


async def test_the_control_a_grant_too_many_is_found(roles: Logins) -> None:
    async with roles.connected("owner") as owner:
        for grant, what in SURPLUS.items():
            transaction = owner.transaction()
            await transaction.start()
            await owner.execute(grant)
            assert what in await found(owner, roles) - set(allowed())
            await transaction.rollback()


async def test_the_control_what_nobody_thought_of_is_found(roles: Logins) -> None:
    async with roles.connected("owner") as owner:
        await owner.execute("""
            CREATE TABLE orders.surprise ();
            CREATE FUNCTION tickets.surprise() RETURNS void LANGUAGE sql SECURITY DEFINER AS '';
            GRANT EXECUTE ON FUNCTION orders.lock TO PUBLIC;
        """)
        assert await unnamed(owner) == {"orders.surprise", "tickets.surprise"}
        assert {row[0] for row in await owner.fetch(LOOSE)} == {"tickets.surprise()", "orders.lock(uuid[])"}
        # Even so, nobody gets in: a new function is not PUBLIC's.
        assert await found(owner, roles) - {p for p in await found(owner, roles) if p.name == "orders.lock"} == {
            p for p in allowed() if p.name != "orders.lock"
        }


NOBODY_MAY = (
    "CREATE TABLE public.mine ()",
    "CREATE TABLE orders.mine ()",
    "CREATE TEMPORARY TABLE mine ()",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION public.mine() RETURNS void LANGUAGE sql AS ''",
    "CREATE FUNCTION tickets.hold(uuid) RETURNS void LANGUAGE sql AS ''",
    "CREATE EXTENSION hstore",
    "CREATE ROLE mallory",
    "CREATE DATABASE mine",
    "ALTER TABLE orders.orders ADD COLUMN mine text",
    "ALTER TABLE tickets.stock DROP CONSTRAINT stock_not_oversold",
    "ALTER FUNCTION tickets.move SECURITY INVOKER",
    "ALTER TABLE auth.users DISABLE TRIGGER ALL",
    "CREATE INDEX mine ON orders.orders (status)",
    "CREATE TRIGGER mine BEFORE INSERT ON auth.users EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "DROP TABLE orders.tickets",
    "DROP SCHEMA outbox CASCADE",
    "TRUNCATE orders.orders",
    "TRUNCATE outbox.events",
    "DELETE FROM outbox.events",
    "DELETE FROM tickets.events",
    "DELETE FROM auth.users",
    "UPDATE tickets.stock SET held = 0",
    "UPDATE tickets.stock SET capacity = 10, sold = 0",
    "UPDATE tickets.gates SET epoch = 0",
    "UPDATE orders.orders SET total_amount = 0",
    "UPDATE orders.orders SET user_id = gen_random_uuid()",
    "UPDATE outbox.events SET kind = 'order.cancelled'",
    "INSERT INTO outbox.events (xid) VALUES ('1')",
    "INSERT INTO outbox.events (id) OVERRIDING SYSTEM VALUE VALUES (1)",
    "UPDATE public.alembic_version SET version_num = '0001'",
    "SELECT tickets.hold_one(gen_random_uuid(), 1)",
    "SET ROLE holdfast",
    "SET SESSION AUTHORIZATION holdfast",
    "SET session_replication_role = replica",
    "ALTER SYSTEM SET fsync = off",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('postgresql.conf')",
)

NOT_IN_A_TRANSACTION = ("CREATE DATABASE", "ALTER SYSTEM")

ONLY_MAY = {
    "SELECT password_hash FROM auth.users": "auth",
    "SELECT name FROM auth.users": "auth",
    "UPDATE auth.users SET role = 'admin'": "auth",
    "SELECT token_hash FROM auth.refresh_tokens": "auth",
    "SELECT organiser_id FROM tickets.events": "tickets",
    "UPDATE tickets.stock SET capacity = capacity": "tickets",
    "SELECT auth.house_organiser()": "tickets",
    "SELECT tickets.hold('{}', '{}')": "orders",
    "INSERT INTO orders.user_tickets VALUES (gen_random_uuid(), gen_random_uuid(), 0, 1)": "orders",
    "SELECT kind FROM outbox.events": "workers",
    "UPDATE outbox.consumers SET id = id": "workers",
    "SELECT outbox.prune('0', 0, 1)": "workers",
    "SELECT orders.expire(1)": "workers",
}


async def test_what_nobody_may_is_refused_by_the_engine(roles: Logins) -> None:
    for service in SERVICES:
        # Groups, and each other: nobody becomes what they are not.
        others = [f"SET ROLE {roles.names[other]}" for other in SERVICES if other != service]
        async with roles.connected(service) as connection:
            for statement in (*NOBODY_MAY, *others):
                assert await attempt(connection, statement) == "42501", (service, statement)
            grant = f"GRANT SELECT ON auth.setup_links TO {roles.names[service]}"
            # PostgreSQL lets a grantee without the option of granting off with a warning.
            assert await attempt(connection, grant) == ("00000" if service == "auth" else "42501")


async def test_what_one_may_is_refused_to_the_others(roles: Logins) -> None:
    for service in SERVICES:
        async with roles.connected(service) as connection:
            for statement, only in ONLY_MAY.items():
                expected = "00000" if service == only else "42501"
                assert await attempt(connection, statement) == expected, (service, statement)


async def attempt(connection: Connection, statement: str) -> str:
    """The SQLSTATE that a statement ends with; nothing of it stays."""
    transaction = connection.transaction()
    if not statement.startswith(NOT_IN_A_TRANSACTION):
        await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    finally:
        if connection.is_in_transaction():
            await transaction.rollback()
    return "00000"
