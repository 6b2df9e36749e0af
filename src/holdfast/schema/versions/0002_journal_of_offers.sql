-- The journal takes what is the same for many orders of a batch (the offer: event, lines, prices, limits) only once.
-- Rollout: pre. orders.reserve stays for servers of the release before, and goes with a migration of the next one.

-- Writes a batch of orders: the journal. Lock order: idempotency keys, (event, user) counters, tiers, each sorted.
-- Optimistic (p_careful false): all that are new succeed, or the first broken constraint raises and nothing stays.
-- Careful: decided one by one under the row locks.
-- `outcomes` is NULL where every order was made, the common case; else one for each order: held, or retry (it met its own
-- key, and is to be read afterwards in a snapshot of its own), or why it was refused.
-- It runs with its caller's rights and search_path, and names everything with its schema: setting a search_path of its own
-- would cost as much as two orders.
-- p_offers numbers each order's offer from 1; p_line_from and p_line_to say which of the last three arrays are its lines.
CREATE FUNCTION orders.journal(
    p_careful boolean,
    p_ids uuid[], p_users uuid[], p_keys text[], p_leased boolean[], p_offers integer[],
    p_events uuid[], p_fingerprints bytea[], p_line_from integer[], p_line_to integer[], p_tickets integer[],
    p_totals bigint[], p_currencies text[], p_hold_seconds integer[], p_user_max integer[],
    p_tiers uuid[], p_quantities integer[], p_prices bigint[],
    OUT made_at timestamptz, OUT outcomes text[]
) LANGUAGE plpgsql AS $$
DECLARE
    made uuid[];
    asked record;
    outcome text;
BEGIN
    made_at := clock_timestamp();
    WITH offers AS MATERIALIZED (
        SELECT o.*, p_tiers[o.line_from:o.line_to] AS tier_ids, p_quantities[o.line_from:o.line_to] AS quantities,
               p_prices[o.line_from:o.line_to] AS unit_prices, made_at + make_interval(secs => o.hold_seconds) AS expires_at
        FROM unnest(p_events, p_fingerprints, p_line_from, p_line_to, p_tickets, p_totals, p_currencies, p_hold_seconds)
             WITH ORDINALITY AS o (event_id, fingerprint, line_from, line_to, tickets, total, currency, hold_seconds, offer)
    ), written AS (
        INSERT INTO orders.orders (id, user_id, event_id, idempotency_key, fingerprint, tier_ids, quantities,
                                   unit_prices, tickets, total_amount, currency, created_at, expires_at)
        SELECT a.id, a.user_id, o.event_id, a.key, o.fingerprint, o.tier_ids, o.quantities, o.unit_prices, o.tickets,
               o.total, o.currency, made_at, o.expires_at
        FROM unnest(p_ids, p_users, p_keys, p_offers) AS a (id, user_id, key, offer) JOIN offers o USING (offer)
        ORDER BY a.user_id, a.key
        ON CONFLICT ON CONSTRAINT orders_key_unique DO NOTHING
        RETURNING id
    )
    SELECT coalesce(array_agg(w.id), '{}') INTO made FROM written w;
    IF cardinality(made) < cardinality(p_ids) THEN
        PERFORM orders.wait_like_a_write();
        SELECT array_agg(CASE WHEN a.id = ANY (made) THEN 'held' ELSE 'retry' END ORDER BY a.ordinal) INTO outcomes
        FROM unnest(p_ids) WITH ORDINALITY AS a (id, ordinal);
        IF made = '{}' THEN
            RETURN;
        END IF;
    END IF;

    IF NOT p_careful THEN
        WITH fresh AS (
            SELECT a.id, a.user_id, a.leased, a.offer, o.event_id, o.tickets, o.user_max
            FROM unnest(p_ids, p_users, p_leased, p_offers) AS a (id, user_id, leased, offer)
            JOIN unnest(p_events, p_tickets, p_user_max) WITH ORDINALITY AS o (event_id, tickets, user_max, offer)
                 USING (offer)
            WHERE outcomes IS NULL OR a.id = ANY (made)
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
        IF cardinality(p_events) = 1 AND outcomes IS NULL THEN
            -- Everyone wants the same.
            PERFORM tickets.hold(p_tiers, ARRAY(SELECT q * cardinality(p_ids) FROM unnest(p_quantities) AS q));
            RETURN;
        END IF;
        PERFORM tickets.hold(array_agg(l.tier_id), array_agg((l.quantity * n.orders)::integer))
        FROM (SELECT a.offer, count(*) AS orders FROM unnest(p_ids, p_offers) AS a (id, offer)
              WHERE outcomes IS NULL OR a.id = ANY (made) GROUP BY a.offer) AS n,
             unnest(p_tiers[p_line_from[n.offer]:p_line_to[n.offer]], p_quantities[p_line_from[n.offer]:p_line_to[n.offer]])
             AS l (tier_id, quantity);
        RETURN;
    END IF;

    INSERT INTO orders.user_tickets (event_id, user_id, tickets, tickets_max)
    SELECT DISTINCT p_events[a.offer], a.user_id, 0, 1 FROM unnest(p_ids, p_users, p_offers) AS a (id, user_id, offer)
    WHERE a.id = ANY (made) ORDER BY 1, 2
    ON CONFLICT DO NOTHING;
    PERFORM orders.lock_counters(made);
    PERFORM tickets.lock_stock(p_tiers);
    outcomes := array_fill('retry'::text, ARRAY[cardinality(p_ids)]);
    FOR asked IN
        SELECT a.id, a.user_id, a.leased, a.ordinal, p_events[a.offer] AS event_id, p_tickets[a.offer] AS tickets,
               p_user_max[a.offer] AS user_max, p_line_from[a.offer] AS line_from, p_line_to[a.offer] AS line_to
        FROM unnest(p_ids, p_users, p_leased, p_offers) WITH ORDINALITY AS a (id, user_id, leased, offer, ordinal)
        WHERE a.id = ANY (made) ORDER BY a.ordinal
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
        outcomes[asked.ordinal] := outcome;
    END LOOP;
END $$;

-- Holds tickets: raises check_violation (stock_not_oversold) when there are too few, HF001 when a tier is not on sale.
CREATE OR REPLACE FUNCTION tickets.hold(p_tiers uuid[], p_quantities integer[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    line record;
BEGIN
    IF cardinality(p_tiers) = 1 THEN
        PERFORM tickets.hold_one(p_tiers[1], p_quantities[1]);
        RETURN;
    END IF;
    -- One row at a time in the order of the ids: the order in which everyone locks them.
    FOR line IN
        SELECT l.tier_id, sum(l.quantity)::integer AS quantity
        FROM unnest(p_tiers, p_quantities) AS l (tier_id, quantity) GROUP BY l.tier_id ORDER BY l.tier_id
    LOOP
        PERFORM tickets.hold_one(line.tier_id, line.quantity);
    END LOOP;
END $$;

CREATE FUNCTION tickets.hold_one(p_tier uuid, p_quantity integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE tickets.stock s SET held = s.held + p_quantity
    WHERE s.tier_id = p_tier AND s.state = 'open'
      AND s.opens_at <= clock_timestamp() AND clock_timestamp() < s.closes_at;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a tier is not on sale' USING ERRCODE = 'HF001';
    END IF;
END $$;

-- A session takes so many numbers at once. Within a transaction they still grow, which is all that the outbox's order
-- (xid, id) asks of them.
ALTER SEQUENCE outbox.events_id_seq CACHE 64;
