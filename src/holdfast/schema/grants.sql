-- What each service may do in the database, and nothing else. `holdfast migrate` runs this after the revisions, in one
-- transaction, where the four roles exist; running it again changes nothing.
--
-- Every table and function of ours is named here once at least. A function that only its owner calls, or other functions
-- that run as their owner, stands at the end.

---------------------------------------------------------------------------------------------- everything is taken back

REVOKE ALL ON SCHEMA auth, tickets, orders, outbox, stats, notify
    FROM PUBLIC, holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;
REVOKE ALL ON ALL TABLES IN SCHEMA auth, tickets, orders, outbox, stats, notify
    FROM PUBLIC, holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA auth, tickets, orders, outbox, stats, notify
    FROM PUBLIC, holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;
REVOKE ALL ON ALL ROUTINES IN SCHEMA auth, tickets, orders, outbox, stats, notify
    FROM PUBLIC, holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;

-- Of the schema public only the revision is ours, which everyone may look at before they start. Nobody but its owner makes
-- anything there, nor temporary tables anywhere.
REVOKE ALL ON public.alembic_version
    FROM PUBLIC, holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;
GRANT SELECT ON public.alembic_version TO holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;
REVOKE CREATE ON SCHEMA public
    FROM PUBLIC, holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;
DO $$
BEGIN
    EXECUTE format('REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC, holdfast_auth, holdfast_tickets, '
                   'holdfast_orders, holdfast_workers', current_database());
END $$;

------------------------------------------------------------------------------------------------------------------ auth

GRANT USAGE ON SCHEMA auth TO holdfast_auth, holdfast_tickets, holdfast_orders, holdfast_workers;

GRANT SELECT, INSERT, UPDATE (role, password_hash) ON auth.users TO holdfast_auth;
GRANT SELECT, INSERT, UPDATE (used_at, revoked_at) ON auth.refresh_tokens TO holdfast_auth;
GRANT SELECT, INSERT, UPDATE (arrival_at) ON auth.login_failures TO holdfast_auth;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at) ON auth.setup_links TO holdfast_auth;

GRANT EXECUTE ON FUNCTION auth.is_administrator TO holdfast_auth, holdfast_tickets, holdfast_orders;
GRANT EXECUTE ON FUNCTION auth.house_organiser TO holdfast_tickets;
GRANT EXECUTE ON FUNCTION auth.forget_failures, auth.forget_refresh_tokens TO holdfast_workers;

--------------------------------------------------------------------------------------------------------------- tickets

GRANT USAGE ON SCHEMA tickets TO holdfast_tickets, holdfast_orders, holdfast_workers;

GRANT SELECT, INSERT,
      UPDATE (name, description, venue_name, venue_address, url, starts_at, ends_at, time_zone, status, hold_seconds,
              tickets_per_user_max, source_digest, version, updated_at)
      ON tickets.events TO holdfast_tickets;
GRANT SELECT, INSERT, DELETE, UPDATE (name, price_amount, currency, imported) ON tickets.tiers TO holdfast_tickets;
-- What is held and sold is moved by the functions below alone.
GRANT SELECT, INSERT (tier_id, event_id, capacity, opens_at, closes_at, state),
      UPDATE (capacity, opens_at, closes_at, state) ON tickets.stock TO holdfast_tickets;
GRANT SELECT, INSERT (event_id, epoch) ON tickets.gates TO holdfast_tickets;

-- The sale as admission sees it; the gate's content and epoch.
GRANT SELECT (id, status, hold_seconds, tickets_per_user_max) ON tickets.events TO holdfast_orders;
GRANT SELECT (id, event_id, name, price_amount, currency) ON tickets.tiers TO holdfast_orders;
GRANT SELECT (id, status) ON tickets.events TO holdfast_workers;
GRANT SELECT ON tickets.stock, tickets.gates TO holdfast_orders, holdfast_workers;
GRANT UPDATE (warm_until) ON tickets.gates TO holdfast_workers;

GRANT EXECUTE ON FUNCTION tickets.hold, tickets.try_hold TO holdfast_orders;
GRANT EXECUTE ON FUNCTION tickets.lock_stock TO holdfast_tickets, holdfast_orders;
GRANT EXECUTE ON FUNCTION tickets.move, tickets.cancelled, tickets.try_sell_late, tickets.begin_load, tickets.end_load,
      tickets.give_up_load TO holdfast_orders, holdfast_workers;

---------------------------------------------------------------------------------------------------------------- orders

GRANT USAGE ON SCHEMA orders TO holdfast_orders, holdfast_workers;

GRANT SELECT, INSERT, DELETE, UPDATE (status, version, ended_at) ON orders.orders TO holdfast_orders;
GRANT SELECT, INSERT, UPDATE (tickets, tickets_max) ON orders.user_tickets TO holdfast_orders;
GRANT SELECT, INSERT, DELETE ON orders.idempotency_keys TO holdfast_orders;
GRANT SELECT, INSERT, UPDATE (state, updated_at) ON orders.payments TO holdfast_orders;
GRANT SELECT, INSERT ON orders.tickets TO holdfast_orders;

-- The workers end what the service began; they make no orders, payments or keys.
GRANT SELECT, UPDATE (status, version, ended_at) ON orders.orders TO holdfast_workers;
GRANT SELECT, UPDATE (tickets) ON orders.user_tickets TO holdfast_workers;
GRANT SELECT, DELETE ON orders.idempotency_keys TO holdfast_workers;
GRANT SELECT, UPDATE (state, updated_at) ON orders.payments TO holdfast_workers;
GRANT INSERT ON orders.tickets TO holdfast_workers;

GRANT EXECUTE ON FUNCTION orders.journal, orders.begin_payments, orders.cancel, orders.write_keys TO holdfast_orders;
GRANT EXECUTE ON FUNCTION orders.expire, orders.cancel_of_event TO holdfast_workers;
GRANT EXECUTE ON FUNCTION orders.confirm, orders.confirm_late, orders.end_payment, orders.end_holds, orders.lock,
      orders.lock_counters, orders.wait_like_a_write TO holdfast_orders, holdfast_workers;

---------------------------------------------------------------------------------------------------------------- outbox

GRANT USAGE ON SCHEMA outbox TO holdfast_tickets, holdfast_orders, holdfast_workers;

-- Which transaction a row is of, and its number, are PostgreSQL's to say.
GRANT INSERT (kind, subject, version, scope) ON outbox.events TO holdfast_tickets, holdfast_orders, holdfast_workers;
GRANT SELECT ON outbox.events TO holdfast_workers;
GRANT SELECT, INSERT, DELETE, UPDATE (xid, id) ON outbox.consumers TO holdfast_workers;
GRANT SELECT, INSERT, UPDATE (next_offset, xid, number) ON outbox.positions TO holdfast_workers;
GRANT SELECT, INSERT, DELETE, UPDATE (reason, tries, wanted_at) ON outbox.dead_letters TO holdfast_workers;
GRANT EXECUTE ON FUNCTION outbox.prune TO holdfast_workers;

----------------------------------------------------------------------------------------------------- stats and notify

GRANT USAGE ON SCHEMA stats TO holdfast_tickets, holdfast_workers;
GRANT SELECT ON stats.sales TO holdfast_tickets;
GRANT SELECT, INSERT, DELETE, UPDATE (held, released, sold, sold_late, revenue) ON stats.sales TO holdfast_workers;
GRANT SELECT ON stats.begun_with TO holdfast_workers;
GRANT EXECUTE ON FUNCTION stats.record, stats.record_outbox TO holdfast_workers;

-- A letter says what was bought, and goes to its buyer's address.
GRANT USAGE ON SCHEMA notify TO holdfast_workers;
GRANT SELECT, INSERT, DELETE, UPDATE (due_at, tries, outcome, reply_code, ended_at) ON notify.letters TO holdfast_workers;
GRANT SELECT, INSERT, DELETE, UPDATE (after_user) ON notify.announcements TO holdfast_workers;
GRANT EXECUTE ON FUNCTION notify.record, notify.announce TO holdfast_workers;
GRANT SELECT (id, email) ON auth.users TO holdfast_workers;
GRANT SELECT (name, venue_name, venue_address, starts_at, time_zone, version) ON tickets.events TO holdfast_workers;
GRANT SELECT (id, name) ON tickets.tiers TO holdfast_workers;
GRANT SELECT (id, order_id, tier_id) ON orders.tickets TO holdfast_workers;

------------------------------------------------------------------------------------------------------------- nobody's

-- tickets.hold calls the first as its owner. The second is for servers of a release before that had no roles.
REVOKE ALL ON FUNCTION tickets.hold_one, orders.reserve FROM PUBLIC;

----------------------------------------------------------------------------------------------------- is it so, really?

-- Who does not own a schema or the database takes nothing back there, and PostgreSQL only warns of it.
DO $$
DECLARE
    place text;
BEGIN
    SELECT format('CREATE ON SCHEMA %I', n.nspname) INTO place
    FROM pg_namespace n, unnest(ARRAY['holdfast_auth', 'holdfast_tickets', 'holdfast_orders', 'holdfast_workers']) AS r (name)
    WHERE n.nspname NOT LIKE 'pg\_%' AND has_schema_privilege(r.name, n.oid, 'CREATE') LIMIT 1;
    IF NOT FOUND THEN
        SELECT format('%s ON DATABASE %I', p.name, current_database()) INTO place
        FROM unnest(ARRAY['holdfast_auth', 'holdfast_tickets', 'holdfast_orders', 'holdfast_workers']) AS r (name),
             unnest(ARRAY['CREATE', 'TEMPORARY']) AS p (name)
        WHERE has_database_privilege(r.name, current_database(), p.name) LIMIT 1;
    END IF;
    IF place IS NOT NULL THEN
        RAISE EXCEPTION 'The services'' roles could make objects in the database: have its owner run REVOKE % FROM PUBLIC.',
            place USING ERRCODE = 'HF003';
    END IF;
END $$;
