-- What a service may do with the tables of another goes through functions.
-- Rollout: pre. The release before goes on with its own statements, as the owner of everything.

-- A function is called by those whom schema/grants.sql names, and by its owner: those of later revisions too.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA auth, tickets, orders, outbox, stats, notify FROM PUBLIC;

------------------------------------------------------------------------------------------------------------------ auth

-- Whether somebody is an administrator now: all that the other services ask of a user's row.
CREATE FUNCTION auth.is_administrator(p_user uuid) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT 1 FROM auth.users u WHERE u.id = p_user AND u.role = 'admin');
END $$;

-- The organiser of imported events; makes the user where there is none yet. It has no password; its key is none that an
-- address can have, so that nobody can register in its place.
CREATE FUNCTION auth.house_organiser() RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    house CONSTANT uuid := '00000000-0000-7000-8000-000000000001';
BEGIN
    INSERT INTO auth.users (id, email, email_key, name, role)
    VALUES (house, 'house@holdfast.invalid', '(house)', 'House', 'organiser')
    ON CONFLICT (id) DO NOTHING;
    RETURN house;
END $$;

-- Deletes failures that no longer count; answers how many.
CREATE FUNCTION auth.forget_failures() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    deleted integer;
BEGIN
    DELETE FROM auth.login_failures f WHERE f.arrival_at < clock_timestamp();
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

-- Deletes at most p_limit refresh tokens that nothing depends on; answers how many. A token is kept for one more
-- lifetime, p_seconds, after its end, because the mark that its family was revoked may stand on it alone. One that may
-- still be used is never deleted, whatever is asked.
CREATE FUNCTION auth.forget_refresh_tokens(p_seconds double precision, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- In a variable: compared with a volatile function, the index on expires_at could not be used.
    ended_before timestamptz := clock_timestamp() - make_interval(secs => greatest(p_seconds, 0));
    deleted integer;
BEGIN
    DELETE FROM auth.refresh_tokens t WHERE t.token_hash IN (
        SELECT o.token_hash FROM auth.refresh_tokens o WHERE o.expires_at < ended_before ORDER BY o.expires_at LIMIT p_limit
    );
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

--------------------------------------------------------------------------------------------------------------- tickets

-- Begins a load of an event's gate: the epoch that its content will have. NULL where the event has no gate (a draft).
CREATE FUNCTION tickets.begin_load(p_event uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer bigint;
BEGIN
    UPDATE tickets.gates g SET epoch = g.epoch + 1, loaded_in = NULL WHERE g.event_id = p_event
    RETURNING g.epoch INTO answer;
    RETURN answer;
END $$;

-- Ends it, unless a newer load has begun: the snapshot that the content was read in, and the node that has it.
CREATE FUNCTION tickets.end_load(p_event uuid, p_epoch bigint, p_snapshot pg_snapshot, p_node text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tickets.gates g SET loaded_in = p_snapshot, node = p_node WHERE g.event_id = p_event AND g.epoch = p_epoch;
END $$;

-- Declares a gate's content of an epoch void, wherever it is: another epoch begins, which nothing was loaded for. Outbox
-- rows visible by now need not be told to anybody, since whatever is loaded later has them.
CREATE FUNCTION tickets.give_up_load(p_event uuid, p_epoch bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tickets.gates g SET epoch = g.epoch + 1, loaded_in = pg_current_snapshot(), node = ''
    WHERE g.event_id = p_event AND g.epoch = p_epoch;
END $$;

---------------------------------------------------------------------------------------------------------------- outbox

-- It deletes only what all consumers have passed, which nobody may do by hand.
ALTER FUNCTION outbox.prune SECURITY DEFINER;
