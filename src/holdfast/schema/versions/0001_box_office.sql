-- The box office: users, events with their stock, orders with their payments and tickets, the outbox.
-- Rollout: pre.

CREATE SCHEMA auth;
CREATE SCHEMA tickets;
CREATE SCHEMA orders;
CREATE SCHEMA outbox;

------------------------------------------------------------------------------------------------------------------ auth

CREATE TABLE auth.users (
    id            uuid PRIMARY KEY,
    email         text NOT NULL,
    email_key     text NOT NULL CONSTRAINT users_email_unique UNIQUE,
    name          text,
    role          text NOT NULL CONSTRAINT users_role_known CHECK (role IN ('buyer', 'organiser', 'admin')),
    password_hash text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN auth.users.email_key IS 'The address normalised (NFKC, case folded): what is unique and looked up.';
COMMENT ON COLUMN auth.users.password_hash IS 'argon2id, encoded; NULL cannot log in (the house organiser).';

CREATE TABLE auth.refresh_tokens (
    token_hash bytea PRIMARY KEY,
    family_id  uuid NOT NULL,
    user_id    uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    issued_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    revoked_at timestamptz
);
CREATE INDEX refresh_tokens_family ON auth.refresh_tokens (family_id);
CREATE INDEX refresh_tokens_user ON auth.refresh_tokens (user_id);
CREATE INDEX refresh_tokens_expiry ON auth.refresh_tokens (expires_at);
COMMENT ON TABLE auth.refresh_tokens IS
    'Rotating: using one marks it used and issues the next of its family; a used one shown again revokes the family.';

CREATE TABLE auth.login_failures (
    account_key bytea PRIMARY KEY,
    arrival_at  timestamptz NOT NULL
);
COMMENT ON TABLE auth.login_failures IS
    'GCRA over wrong passwords per account (keyed by a hash of the normalised address, known or not).';

CREATE TABLE auth.setup_links (
    token_hash bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    used_at    timestamptz
);
COMMENT ON TABLE auth.setup_links IS 'One-time links with which the first administrator is made.';

--------------------------------------------------------------------------------------------------------------- tickets

CREATE TABLE tickets.events (
    id                   uuid PRIMARY KEY,
    organiser_id         uuid NOT NULL,
    name                 text NOT NULL,
    description          text NOT NULL DEFAULT '',
    venue_name           text NOT NULL DEFAULT '',
    venue_address        text NOT NULL DEFAULT '',
    url                  text,
    starts_at            timestamptz NOT NULL,
    ends_at              timestamptz,
    time_zone            text NOT NULL,
    status               text NOT NULL CONSTRAINT events_status_known CHECK (status IN ('draft', 'published', 'cancelled')),
    hold_seconds         integer NOT NULL CONSTRAINT events_hold_seconds_range CHECK (hold_seconds BETWEEN 1 AND 86400),
    tickets_per_user_max integer NOT NULL CONSTRAINT events_user_max_range CHECK (tickets_per_user_max BETWEEN 1 AND 1000),
    source_key           text CONSTRAINT events_source_unique UNIQUE,
    source_digest        bytea,
    version              integer NOT NULL DEFAULT 1,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    search_text          text NOT NULL GENERATED ALWAYS AS
                         (lower(name || ' ' || description || ' ' || venue_name || ' ' || venue_address)) STORED
);
CREATE INDEX events_published ON tickets.events (starts_at, id) WHERE status = 'published';
CREATE INDEX events_organiser ON tickets.events (organiser_id, starts_at, id);
COMMENT ON COLUMN tickets.events.source_key IS 'Where an imported event came from: importing it again finds it by this.';
COMMENT ON COLUMN tickets.events.source_digest IS
    'A hash of what was imported last: the same again changes nothing, whatever was changed here meanwhile.';
COMMENT ON COLUMN tickets.events.time_zone IS 'IANA zone, or a fixed offset such as +02:00 where only that is known.';

CREATE TABLE tickets.tiers (
    id           uuid PRIMARY KEY,
    event_id     uuid NOT NULL REFERENCES tickets.events ON DELETE CASCADE,
    name         text NOT NULL,
    position     integer NOT NULL,
    price_amount bigint NOT NULL CONSTRAINT tiers_price_not_negative CHECK (price_amount BETWEEN 0 AND 1000000000000),
    currency     text NOT NULL CONSTRAINT tiers_currency_known CHECK (currency ~ '^[A-Z]{3}$'),
    imported     boolean NOT NULL DEFAULT false,
    CONSTRAINT tiers_name_unique UNIQUE (event_id, name)
);
COMMENT ON COLUMN tickets.tiers.price_amount IS 'Minor units of the currency.';
COMMENT ON COLUMN tickets.tiers.imported IS 'Came from a catalogue: its sale is paused when that no longer lists it.';

-- What decides a sale stands in this one narrow row per tier, and moves only through the functions below.
CREATE TABLE tickets.stock (
    tier_id   uuid PRIMARY KEY REFERENCES tickets.tiers ON DELETE CASCADE,
    event_id  uuid NOT NULL,
    capacity  integer NOT NULL CONSTRAINT stock_capacity_range CHECK (capacity BETWEEN 0 AND 100000000),
    held      integer NOT NULL DEFAULT 0 CONSTRAINT stock_held_not_negative CHECK (held >= 0),
    sold      integer NOT NULL DEFAULT 0 CONSTRAINT stock_sold_not_negative CHECK (sold >= 0),
    opens_at  timestamptz NOT NULL DEFAULT '-infinity',
    closes_at timestamptz NOT NULL DEFAULT 'infinity',
    state     text NOT NULL DEFAULT 'draft'
              CONSTRAINT stock_state_known CHECK (state IN ('draft', 'open', 'paused', 'cancelled')),
    CONSTRAINT stock_not_oversold CHECK (held + sold <= capacity)
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX stock_event ON tickets.stock (event_id);

CREATE TABLE tickets.gates (
    event_id  uuid PRIMARY KEY REFERENCES tickets.events ON DELETE CASCADE,
    epoch     bigint NOT NULL,
    loaded_in pg_snapshot
);
COMMENT ON TABLE tickets.gates IS
    'The gate''s epoch per event, and the snapshot its present content was loaded in; NULL while it is being loaded.';

-- Holds tickets: raises check_violation (stock_not_oversold) when there are too few, HF001 when a tier is not on sale.
CREATE FUNCTION tickets.hold(p_tiers uuid[], p_quantities integer[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    line record;
BEGIN
    -- One row at a time in the order of the ids: the order in which everyone locks them.
    FOR line IN
        SELECT l.tier_id, sum(l.quantity)::integer AS quantity
        FROM unnest(p_tiers, p_quantities) AS l (tier_id, quantity) GROUP BY l.tier_id ORDER BY l.tier_id
    LOOP
        UPDATE tickets.stock s SET held = s.held + line.quantity
        WHERE s.tier_id = line.tier_id AND s.state = 'open'
          AND s.opens_at <= clock_timestamp() AND clock_timestamp() < s.closes_at;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'a tier is not on sale' USING ERRCODE = 'HF001';
        END IF;
    END LOOP;
END $$;

-- Locks the tiers' rows in the one order that everyone keeps.
CREATE FUNCTION tickets.lock_stock(p_tiers uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM tickets.stock s WHERE s.tier_id = ANY (p_tiers) ORDER BY s.tier_id FOR NO KEY UPDATE;
END $$;

-- Holds one order's tickets if all of them are there; answers held, sold_out, sale_not_open, sale_closed,
-- event_cancelled or not_found. The rows were locked by lock_stock.
CREATE FUNCTION tickets.try_hold(p_tiers uuid[], p_quantities integer[]) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer text;
BEGIN
    SELECT CASE
        WHEN count(s.tier_id) < count(*) THEN 'not_found'
        WHEN bool_or(s.state = 'cancelled') THEN 'event_cancelled'
        WHEN bool_or(s.closes_at <= clock_timestamp()) THEN 'sale_closed'
        WHEN bool_or(s.state <> 'open' OR s.opens_at > clock_timestamp()) THEN 'sale_not_open'
        WHEN bool_or(s.held + s.sold + l.quantity > s.capacity) THEN 'sold_out'
        ELSE 'held' END
    INTO answer
    FROM unnest(p_tiers, p_quantities) AS l (tier_id, quantity) LEFT JOIN tickets.stock s USING (tier_id);
    IF answer = 'held' THEN
        UPDATE tickets.stock s SET held = s.held + l.quantity
        FROM unnest(p_tiers, p_quantities) AS l (tier_id, quantity) WHERE s.tier_id = l.tier_id;
    END IF;
    RETURN answer;
END $$;

-- Moves the counters of tiers: release (-n, 0), sell (-n, +n), sell late (0, +n). Raises HF002 where something is to be
-- sold of a cancelled event.
CREATE FUNCTION tickets.move(p_tiers uuid[], p_held integer[], p_sold integer[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    line record;
BEGIN
    FOR line IN
        SELECT l.tier_id, sum(l.held)::integer AS held, sum(l.sold)::integer AS sold
        FROM unnest(p_tiers, p_held, p_sold) AS l (tier_id, held, sold) GROUP BY l.tier_id ORDER BY l.tier_id
    LOOP
        UPDATE tickets.stock s SET held = s.held + line.held, sold = s.sold + line.sold
        WHERE s.tier_id = line.tier_id AND (line.sold = 0 OR s.state <> 'cancelled');
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the event was cancelled' USING ERRCODE = 'HF002';
        END IF;
    END LOOP;
END $$;

-- Which of these tiers belong to a cancelled event. Locks them, so that the answer holds until commit.
CREATE FUNCTION tickets.cancelled(p_tiers uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer uuid[];
BEGIN
    PERFORM tickets.lock_stock(p_tiers);
    SELECT coalesce(array_agg(s.tier_id), '{}') INTO answer
    FROM tickets.stock s WHERE s.tier_id = ANY (p_tiers) AND s.state = 'cancelled';
    RETURN answer;
END $$;

-- Takes tickets for a payment that came after its hold had ended; answers sold, sold_out, event_cancelled or not_found.
CREATE FUNCTION tickets.try_sell_late(p_tiers uuid[], p_quantities integer[]) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer text;
BEGIN
    PERFORM tickets.lock_stock(p_tiers);
    SELECT CASE
        WHEN count(s.tier_id) < count(*) THEN 'not_found'
        WHEN bool_or(s.state = 'cancelled') THEN 'event_cancelled'
        WHEN bool_or(s.held + s.sold + l.quantity > s.capacity) THEN 'sold_out'
        ELSE 'sold' END
    INTO answer
    FROM unnest(p_tiers, p_quantities) AS l (tier_id, quantity) LEFT JOIN tickets.stock s USING (tier_id);
    IF answer = 'sold' THEN
        PERFORM tickets.move(p_tiers, array_fill(0, ARRAY[cardinality(p_tiers)]), p_quantities);
    END IF;
    RETURN answer;
END $$;

---------------------------------------------------------------------------------------------------------------- outbox

CREATE TABLE outbox.events (
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id          bigint GENERATED ALWAYS AS IDENTITY,
    kind        text NOT NULL,
    subject     uuid NOT NULL,
    version     integer NOT NULL,
    scope       uuid NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (xid, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE outbox.events IS
    'One row per state change, written in its transaction. Read in the order (xid, id) and only below the snapshot''s '
    'xmin, since the order of a sequence is not the order of commits.';
COMMENT ON COLUMN outbox.events.kind IS
    'order.reserved | confirmed | cancelled | expired, payment.authorised | voiding, event.changed | cancelled, and '
    'gate.missed: an order took tickets without a lease of the gate, which has to hear of it.';
COMMENT ON COLUMN outbox.events.scope IS 'The event (concert) that the change belongs to: the gate''s hash tag.';

CREATE TABLE outbox.consumers (
    name text PRIMARY KEY,
    xid  xid8 NOT NULL DEFAULT '0',
    id   bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE outbox.consumers IS 'How far each consumer has come. Rows that all have passed are deleted.';

-- Deletes rows after a position that every consumer has passed, at most p_limit; answers the position it came to. What
-- lies before the given position was deleted earlier, and is not looked at again: dead rows are not free. Only the index
-- finds the range quickly, whatever the statistics of a table that is emptied all the time may say.
CREATE FUNCTION outbox.prune(p_xid xid8, p_id bigint, p_limit integer, OUT xid xid8, OUT id bigint, OUT deleted integer)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_variable
DECLARE
    passed record;
    last record;
BEGIN
    SELECT c.xid, c.id INTO passed FROM outbox.consumers c ORDER BY c.xid, c.id LIMIT 1;
    SELECT e.xid, e.id INTO last FROM outbox.events e
    WHERE (e.xid, e.id) > (p_xid, p_id) AND (e.xid, e.id) <= (passed.xid, passed.id)
    ORDER BY e.xid, e.id OFFSET p_limit - 1 LIMIT 1;
    IF last.xid IS NULL THEN
        last := passed;
    END IF;
    DELETE FROM outbox.events e WHERE (e.xid, e.id) > (p_xid, p_id) AND (e.xid, e.id) <= (last.xid, last.id);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    xid := last.xid;
    id := last.id;
END $$;

INSERT INTO outbox.consumers (name) VALUES ('gate'), ('payments'), ('cancellations');

---------------------------------------------------------------------------------------------------------------- orders

CREATE TABLE orders.orders (
    id              uuid PRIMARY KEY,
    user_id         uuid NOT NULL,
    event_id        uuid NOT NULL,
    status          text NOT NULL DEFAULT 'reserved' CONSTRAINT orders_status_known
                    CHECK (status IN ('reserved', 'confirmed', 'cancelled', 'expired', 'refunded')),
    version         integer NOT NULL DEFAULT 1,
    idempotency_key text NOT NULL,
    fingerprint     bytea NOT NULL,
    tier_ids        uuid[] NOT NULL,
    quantities      integer[] NOT NULL,
    unit_prices     bigint[] NOT NULL,
    tickets         integer NOT NULL CONSTRAINT orders_tickets_positive CHECK (tickets > 0),
    total_amount    bigint NOT NULL CONSTRAINT orders_total_not_negative CHECK (total_amount >= 0),
    currency        text NOT NULL,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    CONSTRAINT orders_key_unique UNIQUE (user_id, idempotency_key),
    CONSTRAINT orders_lines_match
        CHECK (cardinality(tier_ids) = cardinality(quantities) AND cardinality(tier_ids) = cardinality(unit_prices))
);
CREATE INDEX orders_history ON orders.orders (user_id, id DESC);
CREATE INDEX orders_overdue ON orders.orders (expires_at) WHERE status = 'reserved';
COMMENT ON TABLE orders.orders IS
    'reserved -> confirmed | cancelled | expired; expired -> confirmed (late payment only); confirmed -> refunded.';
COMMENT ON COLUMN orders.orders.tier_ids IS 'The lines, as three arrays of one length: tier, quantity, unit price.';
COMMENT ON COLUMN orders.orders.ended_at IS 'When it was confirmed, cancelled or expired (the latest of these).';

CREATE TABLE orders.user_tickets (
    event_id    uuid NOT NULL,
    user_id     uuid NOT NULL,
    tickets     integer NOT NULL CONSTRAINT user_tickets_not_negative CHECK (tickets >= 0),
    tickets_max integer NOT NULL,
    CONSTRAINT user_tickets_within_limit CHECK (tickets <= tickets_max),
    PRIMARY KEY (event_id, user_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE orders.user_tickets IS
    'Tickets held and bought per person and event. tickets_max is the limit when they last bought: a limit lowered '
    'later refuses more, and lets what they have stand.';

CREATE TABLE orders.idempotency_keys (
    user_id     uuid NOT NULL,
    operation   text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,
    order_id    uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, operation, key)
);
CREATE INDEX idempotency_keys_age ON orders.idempotency_keys (created_at);
COMMENT ON TABLE orders.idempotency_keys IS
    'Keys of confirm and cancel that succeeded or are pending (create keeps its key in the order); refusals leave none.';

CREATE TABLE orders.payments (
    id              uuid PRIMARY KEY,
    order_id        uuid NOT NULL REFERENCES orders.orders,
    idempotency_key text NOT NULL,
    provider_token  text NOT NULL,
    amount          bigint NOT NULL,
    currency        text NOT NULL,
    state           text NOT NULL DEFAULT 'created' CONSTRAINT payments_state_known
                    CHECK (state IN ('created', 'pending', 'authorised', 'captured', 'declined', 'voiding', 'voided')),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX payments_one_live ON orders.payments (order_id)
    WHERE state IN ('created', 'pending', 'authorised', 'captured');
CREATE INDEX payments_order ON orders.payments (order_id);
CREATE INDEX payments_unresolved ON orders.payments (created_at) WHERE state IN ('created', 'pending');
COMMENT ON TABLE orders.payments IS
    'created -> authorised | declined | pending; pending -> authorised | declined | voiding; authorised -> captured; '
    'created | pending -> voiding -> voided when the order is gone. The provider knows a payment by its id.';

CREATE TABLE orders.tickets (
    id        uuid PRIMARY KEY,
    order_id  uuid NOT NULL REFERENCES orders.orders,
    event_id  uuid NOT NULL,
    tier_id   uuid NOT NULL,
    user_id   uuid NOT NULL,
    issued_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX tickets_order ON orders.tickets (order_id);

-- Makes the answer to a retry as durable as the first one would have been: a transaction that wrote nothing waits for no
-- standby at its commit, so this writes a little into the WAL and nothing anywhere else.
CREATE FUNCTION orders.wait_like_a_write() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_logical_emit_message(true, 'holdfast', 'retry');
$$;

-- Writes a batch of orders: the journal. Lock order: idempotency keys, (event, user) counters, tiers, each sorted.
-- Optimistic (p_careful false): all that are new succeed, or the first broken constraint raises and nothing stays.
-- Careful: decided one by one under the row locks; `outcomes` tells each one's fate, in the order of `made`.
-- An order that is not in `made` met its own key: it is a retry, to be read afterwards in a snapshot of its own.
CREATE FUNCTION orders.reserve(
    p_careful boolean,
    p_ids uuid[], p_users uuid[], p_events uuid[], p_keys text[], p_fingerprints bytea[],
    p_line_from integer[], p_line_to integer[], p_tickets integer[], p_totals bigint[], p_currencies text[],
    p_hold_seconds integer[], p_user_max integer[], p_leased boolean[],
    p_tiers uuid[], p_quantities integer[], p_prices bigint[],
    OUT made_at timestamptz, OUT made uuid[], OUT outcomes text[]
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asked record;
    outcome text;
    kept uuid[];
BEGIN
    made_at := clock_timestamp();
    WITH written AS (
        INSERT INTO orders.orders (id, user_id, event_id, idempotency_key, fingerprint, tier_ids, quantities,
                                   unit_prices, tickets, total_amount, currency, created_at, expires_at)
        SELECT a.id, a.user_id, a.event_id, a.key, a.fingerprint, p_tiers[a.line_from:a.line_to],
               p_quantities[a.line_from:a.line_to], p_prices[a.line_from:a.line_to], a.tickets, a.total, a.currency,
               made_at, made_at + make_interval(secs => a.hold_seconds)
        FROM unnest(p_ids, p_users, p_events, p_keys, p_fingerprints, p_line_from, p_line_to, p_tickets, p_totals,
                    p_currencies, p_hold_seconds)
             AS a (id, user_id, event_id, key, fingerprint, line_from, line_to, tickets, total, currency, hold_seconds)
        ORDER BY a.user_id, a.key
        ON CONFLICT ON CONSTRAINT orders_key_unique DO NOTHING
        RETURNING id
    )
    SELECT coalesce(array_agg(w.id), '{}') INTO made FROM written w;
    IF cardinality(made) < cardinality(p_ids) THEN
        PERFORM orders.wait_like_a_write();
    END IF;
    IF made = '{}' THEN
        outcomes := '{}';
        RETURN;
    END IF;

    IF NOT p_careful THEN
        WITH fresh AS (
            SELECT a.id, a.user_id, a.event_id, a.tickets, a.user_max, a.leased
            FROM unnest(p_ids, p_users, p_events, p_tickets, p_user_max, p_leased)
                 AS a (id, user_id, event_id, tickets, user_max, leased)
            WHERE a.id = ANY (made)
        ), counted AS (
            INSERT INTO orders.user_tickets AS c (event_id, user_id, tickets, tickets_max)
            SELECT f.event_id, f.user_id, sum(f.tickets), max(f.user_max) FROM fresh f
            GROUP BY f.event_id, f.user_id ORDER BY f.event_id, f.user_id
            ON CONFLICT (event_id, user_id)
            DO UPDATE SET tickets = c.tickets + excluded.tickets, tickets_max = excluded.tickets_max
        )
        INSERT INTO outbox.events (kind, subject, version, scope)
        SELECT 'order.reserved', f.id, 1, f.event_id FROM fresh f
        UNION ALL SELECT 'gate.missed', f.id, 1, f.event_id FROM fresh f WHERE NOT f.leased;
        IF cardinality(made) = cardinality(p_ids) THEN
            PERFORM tickets.hold(p_tiers, p_quantities);
        ELSE
            PERFORM tickets.hold(array_agg(l.tier_id), array_agg(l.quantity))
            FROM orders.orders o, unnest(o.tier_ids, o.quantities) AS l (tier_id, quantity) WHERE o.id = ANY (made);
        END IF;
        RETURN;
    END IF;

    INSERT INTO orders.user_tickets (event_id, user_id, tickets, tickets_max)
    SELECT DISTINCT a.event_id, a.user_id, 0, 1 FROM unnest(p_ids, p_users, p_events) AS a (id, user_id, event_id)
    WHERE a.id = ANY (made) ORDER BY a.event_id, a.user_id
    ON CONFLICT DO NOTHING;
    PERFORM orders.lock_counters(made);
    PERFORM tickets.lock_stock(p_tiers);
    kept := made;
    made := '{}';
    outcomes := '{}';
    FOR asked IN
        SELECT a.* FROM unnest(p_ids, p_users, p_events, p_line_from, p_line_to, p_tickets, p_user_max, p_leased)
             WITH ORDINALITY
             AS a (id, user_id, event_id, line_from, line_to, tickets, user_max, leased, ordinal)
        WHERE a.id = ANY (kept) ORDER BY a.ordinal
    LOOP
        outcome := 'user_limit_reached';
        UPDATE orders.user_tickets c SET tickets = c.tickets + asked.tickets, tickets_max = asked.user_max
        WHERE c.event_id = asked.event_id AND c.user_id = asked.user_id AND c.tickets + asked.tickets <= asked.user_max;
        IF FOUND THEN
            outcome := tickets.try_hold(p_tiers[asked.line_from:asked.line_to], p_quantities[asked.line_from:asked.line_to]);
            IF outcome <> 'held' THEN
                UPDATE orders.user_tickets c SET tickets = c.tickets - asked.tickets
                WHERE c.event_id = asked.event_id AND c.user_id = asked.user_id;
            END IF;
        END IF;
        IF outcome = 'held' THEN
            INSERT INTO outbox.events (kind, subject, version, scope)
            SELECT k.kind, asked.id, 1, asked.event_id FROM (VALUES ('order.reserved'), ('gate.missed')) AS k (kind)
            WHERE k.kind = 'order.reserved' OR NOT asked.leased;
        ELSE
            DELETE FROM orders.orders o WHERE o.id = asked.id;
        END IF;
        made := made || asked.id;
        outcomes := outcomes || outcome;
    END LOOP;
END $$;

-- Locks the counters of these orders' users, in the one order that everyone keeps.
CREATE FUNCTION orders.lock_counters(p_orders uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM orders.user_tickets c
    WHERE (c.event_id, c.user_id) IN (SELECT o.event_id, o.user_id FROM orders.orders o WHERE o.id = ANY (p_orders))
    ORDER BY c.event_id, c.user_id FOR NO KEY UPDATE;
END $$;

-- Ends the holds of orders that the caller has locked and marked: of the expired and the cancelled the tickets go back
-- to the tiers and to their users' limits, of the sold they are sold. All counters first, then all tiers, each once.
CREATE FUNCTION orders.end_holds(p_expired uuid[], p_cancelled uuid[], p_sold uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given_back uuid[] := coalesce(p_expired, '{}') || coalesce(p_cancelled, '{}');
BEGIN
    INSERT INTO outbox.events (kind, subject, version, scope)
    SELECT CASE WHEN o.id = ANY (p_expired) THEN 'order.expired' ELSE 'order.cancelled' END, o.id, o.version, o.event_id
    FROM orders.orders o WHERE o.id = ANY (given_back);
    IF given_back <> '{}' THEN
        PERFORM orders.lock_counters(given_back);
        UPDATE orders.user_tickets c SET tickets = c.tickets - l.tickets
        FROM (SELECT o.event_id, o.user_id, sum(o.tickets)::integer AS tickets FROM orders.orders o
              WHERE o.id = ANY (given_back) GROUP BY o.event_id, o.user_id) AS l
        WHERE c.event_id = l.event_id AND c.user_id = l.user_id;
    END IF;
    PERFORM tickets.move(array_agg(l.tier_id), array_agg(-l.quantity),
                         array_agg(CASE WHEN o.id = ANY (p_sold) THEN l.quantity ELSE 0 END))
    FROM orders.orders o, unnest(o.tier_ids, o.quantities) AS l (tier_id, quantity)
    WHERE o.id = ANY (given_back || coalesce(p_sold, '{}'))
    HAVING count(*) > 0;
END $$;

-- Expires at most p_limit holds whose time is over; answers how many. Two may run: each skips what the other has locked.
CREATE FUNCTION orders.expire(p_limit integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- In a variable: compared with a volatile function, the index on expires_at could not be used.
    now_is timestamptz := clock_timestamp();
    overdue uuid[];
BEGIN
    SELECT array_agg(l.id) INTO overdue FROM (
        SELECT o.id FROM orders.orders o WHERE o.status = 'reserved' AND o.expires_at <= now_is
        ORDER BY o.expires_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    ) AS l;
    UPDATE orders.orders o SET status = 'expired', version = o.version + 1, ended_at = clock_timestamp()
    WHERE o.id = ANY (overdue);
    PERFORM orders.end_holds(overdue, NULL, NULL);
    RETURN coalesce(cardinality(overdue), 0);
END $$;

-- Cancels at most p_limit reserved orders of a cancelled event; answers how many.
CREATE FUNCTION orders.cancel_of_event(p_event uuid, p_limit integer) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reserved uuid[];
BEGIN
    SELECT array_agg(l.id) INTO reserved FROM (
        SELECT o.id FROM orders.orders o WHERE o.status = 'reserved' AND o.event_id = p_event
        LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    ) AS l;
    UPDATE orders.orders o SET status = 'cancelled', version = o.version + 1, ended_at = clock_timestamp()
    WHERE o.id = ANY (reserved);
    PERFORM orders.end_holds(NULL, reserved, NULL);
    RETURN coalesce(cardinality(reserved), 0);
END $$;

-- Writes the keys of a batch, sorted; answers the ordinals of those that were new.
CREATE FUNCTION orders.write_keys(
    p_operation text, p_orders uuid[], p_users uuid[], p_keys text[], p_fingerprints bytea[]
) RETURNS integer[] LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer integer[];
BEGIN
    WITH asked AS (
        SELECT * FROM unnest(p_orders, p_users, p_keys, p_fingerprints) WITH ORDINALITY
                      AS a (order_id, user_id, key, fingerprint, ordinal)
    ), written AS (
        INSERT INTO orders.idempotency_keys AS k (user_id, operation, key, fingerprint, order_id)
        SELECT a.user_id, p_operation, a.key, a.fingerprint, a.order_id FROM asked a ORDER BY a.user_id, a.key
        ON CONFLICT DO NOTHING RETURNING k.user_id, k.key
    )
    SELECT coalesce(array_agg(l.ordinal), '{}') INTO answer FROM (
        SELECT DISTINCT ON (a.user_id, a.key) a.ordinal::integer AS ordinal FROM asked a JOIN written w USING (user_id, key)
        ORDER BY a.user_id, a.key, a.ordinal
    ) AS l;
    IF cardinality(answer) < cardinality(p_orders) THEN
        PERFORM orders.wait_like_a_write();
    END IF;
    RETURN answer;
END $$;

-- Cancels a batch of orders for their owners. Outcomes: cancelled, replay, mismatch, not_found, hold_expired,
-- invalid_state. An overdue hold is expired on the spot. Refusals leave no key.
CREATE FUNCTION orders.cancel(p_orders uuid[], p_users uuid[], p_keys text[], p_fingerprints bytea[])
RETURNS TABLE (ordinal integer, outcome text) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    fresh integer[];
    won integer[];
    cancelled uuid[];
    expired uuid[];
BEGIN
    fresh := orders.write_keys('cancel', p_orders, p_users, p_keys, p_fingerprints);
    PERFORM 1 FROM orders.orders o WHERE o.id = ANY (p_orders) ORDER BY o.id FOR NO KEY UPDATE;
    WITH asked AS (
        SELECT DISTINCT ON (a.order_id) a.order_id, a.user_id, a.ordinal::integer AS ordinal
        FROM unnest(p_orders, p_users) WITH ORDINALITY AS a (order_id, user_id, ordinal)
        JOIN orders.orders o ON o.id = a.order_id AND o.user_id = a.user_id
        WHERE a.ordinal = ANY (fresh) ORDER BY a.order_id, a.ordinal
    ), ended AS (
        UPDATE orders.orders o SET version = o.version + 1, ended_at = clock_timestamp(),
               status = CASE WHEN o.expires_at <= clock_timestamp() THEN 'expired' ELSE 'cancelled' END
        FROM asked a WHERE o.id = a.order_id AND o.status = 'reserved'
        RETURNING o.id, o.status, a.ordinal
    )
    SELECT array_agg(e.ordinal) FILTER (WHERE e.status = 'cancelled'),
           array_agg(e.id) FILTER (WHERE e.status = 'cancelled'), array_agg(e.id) FILTER (WHERE e.status = 'expired')
    INTO won, cancelled, expired FROM ended e;
    DELETE FROM orders.idempotency_keys k USING unnest(p_users, p_keys) WITH ORDINALITY AS a (user_id, key, ordinal)
    WHERE k.user_id = a.user_id AND k.operation = 'cancel' AND k.key = a.key
      AND a.ordinal = ANY (fresh) AND NOT a.ordinal = ANY (coalesce(won, '{}'));
    PERFORM orders.end_holds(expired, cancelled, NULL);
    RETURN QUERY
    SELECT a.ordinal::integer, CASE
        WHEN a.ordinal = ANY (won) THEN 'cancelled'
        WHEN NOT a.ordinal = ANY (fresh) AND k.fingerprint IS DISTINCT FROM a.fingerprint THEN 'mismatch'
        WHEN NOT a.ordinal = ANY (fresh) THEN 'replay'
        WHEN o.id IS NULL THEN 'not_found'
        WHEN o.status = 'expired' THEN 'hold_expired'
        ELSE 'invalid_state' END
    FROM unnest(p_orders, p_users, p_keys, p_fingerprints) WITH ORDINALITY
         AS a (order_id, user_id, key, fingerprint, ordinal)
    LEFT JOIN orders.orders o ON o.id = a.order_id AND o.user_id = a.user_id
    LEFT JOIN orders.idempotency_keys k ON k.user_id = a.user_id AND k.operation = 'cancel' AND k.key = a.key;
END $$;

-- The first half of confirm: one payment row for each order that can be paid. Outcomes: begun, replay, mismatch,
-- not_found, hold_expired, invalid_state, payment_pending. Refusals leave no key. A payment id that exists already is
-- the caller's own, from a try whose commit was in doubt: begun.
CREATE FUNCTION orders.begin_payments(
    p_orders uuid[], p_users uuid[], p_keys text[], p_fingerprints bytea[], p_payments uuid[], p_tokens text[]
) RETURNS TABLE (ordinal integer, outcome text, tickets integer, amount bigint, currency text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    fresh integer[];
    begun uuid[];
BEGIN
    fresh := orders.write_keys('confirm', p_orders, p_users, p_keys, p_fingerprints);
    PERFORM 1 FROM orders.orders o WHERE o.id = ANY (p_orders) ORDER BY o.id FOR NO KEY UPDATE;
    WITH written AS (
        INSERT INTO orders.payments AS p (id, order_id, idempotency_key, provider_token, amount, currency)
        SELECT a.payment_id, o.id, a.key, a.token, o.total_amount, o.currency
        FROM unnest(p_orders, p_users, p_keys, p_payments, p_tokens) WITH ORDINALITY
             AS a (order_id, user_id, key, payment_id, token, ordinal)
        JOIN orders.orders o ON o.id = a.order_id AND o.user_id = a.user_id
        WHERE a.ordinal = ANY (fresh) AND o.status = 'reserved' AND o.expires_at > clock_timestamp()
        ORDER BY o.id, a.ordinal
        ON CONFLICT DO NOTHING RETURNING p.id
    )
    SELECT coalesce(array_agg(w.id), '{}') INTO begun FROM written w;
    DELETE FROM orders.idempotency_keys k
    USING unnest(p_users, p_keys, p_payments) WITH ORDINALITY AS a (user_id, key, payment_id, ordinal)
    WHERE k.user_id = a.user_id AND k.operation = 'confirm' AND k.key = a.key
      AND a.ordinal = ANY (fresh) AND NOT a.payment_id = ANY (begun);
    RETURN QUERY
    SELECT a.ordinal::integer, CASE
        WHEN a.payment_id = ANY (begun) THEN 'begun'
        WHEN EXISTS (SELECT 1 FROM orders.payments p WHERE p.id = a.payment_id) THEN 'begun'
        WHEN NOT a.ordinal = ANY (fresh) AND k.fingerprint IS DISTINCT FROM a.fingerprint THEN 'mismatch'
        WHEN NOT a.ordinal = ANY (fresh) THEN 'replay'
        WHEN o.id IS NULL THEN 'not_found'
        WHEN o.status = 'expired' OR o.status = 'reserved' AND o.expires_at <= clock_timestamp() THEN 'hold_expired'
        WHEN o.status = 'reserved' THEN 'payment_pending'
        ELSE 'invalid_state' END,
        o.tickets, o.total_amount, o.currency
    FROM unnest(p_orders, p_users, p_keys, p_fingerprints, p_payments) WITH ORDINALITY
         AS a (order_id, user_id, key, fingerprint, payment_id, ordinal)
    LEFT JOIN orders.orders o ON o.id = a.order_id AND o.user_id = a.user_id
    LEFT JOIN orders.idempotency_keys k ON k.user_id = a.user_id AND k.operation = 'confirm' AND k.key = a.key;
END $$;

-- The second half of confirm, for authorised payments: held -> sold, tickets issued. Outcomes: confirmed, late (the
-- hold had ended: confirm_late decides), cancelled, event_cancelled (only when careful; else HF002 raises), voided (the
-- payment was given up meanwhile), not_found. Running it again after a lost commit answers the same.
CREATE FUNCTION orders.confirm(
    p_careful boolean, p_payments uuid[], p_ticket_from integer[], p_ticket_to integer[], p_tickets uuid[]
) RETURNS TABLE (ordinal integer, outcome text) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    ids uuid[];
    gone uuid[] := '{}';
    paid uuid[];
    expired uuid[];
BEGIN
    SELECT array_agg(p.order_id) INTO ids FROM orders.payments p WHERE p.id = ANY (p_payments);
    PERFORM 1 FROM orders.orders o WHERE o.id = ANY (ids) ORDER BY o.id FOR NO KEY UPDATE;
    IF p_careful THEN
        PERFORM orders.lock_counters(ids);
        SELECT coalesce(array_agg(DISTINCT o.id), '{}') INTO gone
        FROM orders.orders o WHERE o.id = ANY (ids) AND o.tier_ids && tickets.cancelled(
            (SELECT array_agg(DISTINCT t.tier_id) FROM orders.orders l, unnest(l.tier_ids) AS t (tier_id)
             WHERE l.id = ANY (ids)));
    END IF;
    WITH ended AS (
        UPDATE orders.orders o SET status = 'expired', version = o.version + 1, ended_at = clock_timestamp()
        WHERE o.id = ANY (ids) AND o.status = 'reserved' AND o.expires_at <= clock_timestamp() RETURNING o.id
    )
    SELECT array_agg(e.id) INTO expired FROM ended e;
    WITH sold AS (
        UPDATE orders.orders o SET status = 'confirmed', version = o.version + 1, ended_at = clock_timestamp()
        FROM orders.payments p
        WHERE p.id = ANY (p_payments) AND p.order_id = o.id AND p.state IN ('created', 'pending')
          AND o.status = 'reserved' AND NOT o.id = ANY (gone) AND NOT o.id = ANY (coalesce(expired, '{}'))
        RETURNING o.id, o.event_id, o.version, p.id AS payment_id
    ), authorised AS (
        UPDATE orders.payments p SET state = 'authorised', updated_at = clock_timestamp()
        FROM sold s WHERE p.id = s.payment_id
    ), told AS (
        INSERT INTO outbox.events (kind, subject, version, scope)
        SELECT 'order.confirmed', s.id, s.version, s.event_id FROM sold s
        UNION ALL SELECT 'payment.authorised', s.payment_id, s.version, s.event_id FROM sold s
    )
    SELECT coalesce(array_agg(s.id), '{}') INTO paid FROM sold s;
    INSERT INTO orders.tickets (id, order_id, event_id, tier_id, user_id)
    SELECT i.id, o.id, o.event_id, t.tier_id, o.user_id
    FROM unnest(p_payments, p_ticket_from, p_ticket_to) AS a (payment_id, ticket_from, ticket_to)
    JOIN orders.payments p ON p.id = a.payment_id
    JOIN orders.orders o ON o.id = p.order_id AND o.id = ANY (paid),
    LATERAL (SELECT l.tier_id, row_number() OVER (ORDER BY l.ordinal, n) AS seat
             FROM unnest(o.tier_ids, o.quantities) WITH ORDINALITY AS l (tier_id, quantity, ordinal),
                  generate_series(1, l.quantity) AS n) AS t,
    LATERAL (SELECT p_tickets[a.ticket_from + t.seat::integer - 1] AS id) AS i;
    IF cardinality(paid) < cardinality(p_payments) THEN
        PERFORM orders.wait_like_a_write();
    END IF;
    PERFORM orders.end_holds(expired, NULL, paid);
    RETURN QUERY
    SELECT a.ordinal::integer, CASE
        WHEN o.id IS NULL THEN 'not_found'
        WHEN p.state IN ('authorised', 'captured') THEN 'confirmed'
        WHEN p.state NOT IN ('created', 'pending') THEN 'voided'
        WHEN o.id = ANY (gone) THEN 'event_cancelled'
        WHEN o.status = 'expired' THEN 'late'
        ELSE 'cancelled' END
    FROM unnest(p_payments) WITH ORDINALITY AS a (payment_id, ordinal)
    LEFT JOIN orders.payments p ON p.id = a.payment_id
    LEFT JOIN orders.orders o ON o.id = p.order_id;
END $$;

-- A payment that came after its hold had ended takes the tickets again if there are any. Outcomes: confirmed, sold_out,
-- user_limit_reached, event_cancelled, cancelled (not expired), voided, not_found.
CREATE FUNCTION orders.confirm_late(p_payment uuid, p_tickets uuid[]) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    late orders.orders;
    payment orders.payments;
    outcome text;
BEGIN
    SELECT p.* INTO payment FROM orders.payments p WHERE p.id = p_payment;
    SELECT o.* INTO late FROM orders.orders o WHERE o.id = payment.order_id FOR NO KEY UPDATE;
    SELECT p.* INTO payment FROM orders.payments p WHERE p.id = p_payment FOR NO KEY UPDATE;
    IF late.id IS NULL THEN
        RETURN 'not_found';
    ELSIF payment.state IN ('authorised', 'captured') THEN
        RETURN 'confirmed';
    ELSIF payment.state NOT IN ('created', 'pending') THEN
        RETURN 'voided';
    ELSIF late.status <> 'expired' THEN
        RETURN 'cancelled';
    END IF;
    UPDATE orders.user_tickets c SET tickets = c.tickets + late.tickets
    WHERE c.event_id = late.event_id AND c.user_id = late.user_id AND c.tickets + late.tickets <= c.tickets_max;
    IF NOT FOUND THEN
        RETURN 'user_limit_reached';
    END IF;
    outcome := tickets.try_sell_late(late.tier_ids, late.quantities);
    IF outcome <> 'sold' THEN
        UPDATE orders.user_tickets c SET tickets = c.tickets - late.tickets
        WHERE c.event_id = late.event_id AND c.user_id = late.user_id;
        RETURN outcome;
    END IF;
    UPDATE orders.orders o SET status = 'confirmed', version = o.version + 1, ended_at = clock_timestamp()
    WHERE o.id = late.id RETURNING o.* INTO late;
    UPDATE orders.payments p SET state = 'authorised', updated_at = clock_timestamp() WHERE p.id = p_payment;
    INSERT INTO orders.tickets (id, order_id, event_id, tier_id, user_id)
    SELECT p_tickets[t.seat], late.id, late.event_id, t.tier_id, late.user_id
    FROM (SELECT l.tier_id, row_number() OVER (ORDER BY l.ordinal, n) AS seat
          FROM unnest(late.tier_ids, late.quantities) WITH ORDINALITY AS l (tier_id, quantity, ordinal),
               generate_series(1, l.quantity) AS n) AS t;
    INSERT INTO outbox.events (kind, subject, version, scope) VALUES
        ('gate.missed', late.id, late.version, late.event_id),
        ('order.confirmed', late.id, late.version, late.event_id),
        ('payment.authorised', p_payment, late.version, late.event_id);
    RETURN 'confirmed';
END $$;

-- Ends a payment that did not lead to tickets: declined, or voiding (the provider is told through the outbox). Its key
-- may be used again. Answers false when the payment was no longer open.
CREATE FUNCTION orders.end_payment(p_payment uuid, p_state text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ended record;
BEGIN
    UPDATE orders.payments p SET state = p_state, updated_at = clock_timestamp()
    FROM orders.orders o
    WHERE p.id = p_payment AND o.id = p.order_id AND p.state IN ('created', 'pending')
    RETURNING p.id, p.idempotency_key, o.user_id, o.event_id INTO ended;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM orders.idempotency_keys k
    WHERE k.user_id = ended.user_id AND k.operation = 'confirm' AND k.key = ended.idempotency_key;
    IF p_state = 'voiding' THEN
        INSERT INTO outbox.events (kind, subject, version, scope) VALUES ('payment.voiding', ended.id, 1, ended.event_id);
    END IF;
    RETURN true;
END $$;
