-- Confirm and cancel find their orders by id alone. A condition on the status let the planner walk the whole partial
-- index of reserved orders, whose size it had last seen when it was empty. Confirm also answers all that its order is
-- told with.
-- Rollout: pre. The columns that the release before asks for are all still there.

-- Cancels a batch of orders for their owners. Outcomes: cancelled, replay, mismatch, not_found, hold_expired,
-- invalid_state. An overdue hold is expired on the spot. Refusals leave no key.
CREATE OR REPLACE FUNCTION orders.cancel(p_orders uuid[], p_users uuid[], p_keys text[], p_fingerprints bytea[])
RETURNS TABLE (ordinal integer, outcome text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    fresh integer[];
    reserved uuid[];
    overdue uuid[];
    won integer[];
    cancelled uuid[];
    expired uuid[];
BEGIN
    fresh := orders.write_keys('cancel', p_orders, p_users, p_keys, p_fingerprints);
    SELECT array_agg(l.id), array_agg(l.id) FILTER (WHERE l.expires_at <= clock_timestamp()) INTO reserved, overdue
    FROM orders.lock(p_orders) AS l WHERE l.status = 'reserved';
    WITH asked AS MATERIALIZED (
        SELECT DISTINCT ON (a.order_id) a.order_id, a.ordinal::integer AS ordinal
        FROM unnest(p_orders, p_users) WITH ORDINALITY AS a (order_id, user_id, ordinal)
        JOIN orders.orders o ON o.id = a.order_id AND o.user_id = a.user_id
        WHERE a.ordinal = ANY (fresh) AND a.order_id = ANY (reserved) ORDER BY a.order_id, a.ordinal
    ), ended AS (
        UPDATE orders.orders o SET version = o.version + 1, ended_at = clock_timestamp(),
               status = CASE WHEN o.id = ANY (overdue) THEN 'expired' ELSE 'cancelled' END
        FROM asked a WHERE o.id = a.order_id
        RETURNING o.id, o.status, a.ordinal
    )
    SELECT array_agg(e.ordinal) FILTER (WHERE e.status = 'cancelled'),
           array_agg(e.id) FILTER (WHERE e.status = 'cancelled'), array_agg(e.id) FILTER (WHERE e.status = 'expired')
    INTO won, cancelled, expired FROM ended e;
    PERFORM orders.end_holds(expired, cancelled, NULL);
    IF cardinality(won) = cardinality(p_orders) THEN
        RETURN QUERY SELECT n, 'cancelled'::text FROM generate_series(1, cardinality(won)) AS n;
        RETURN;
    END IF;
    DELETE FROM orders.idempotency_keys k USING unnest(p_users, p_keys) WITH ORDINALITY AS a (user_id, key, ordinal)
    WHERE k.user_id = a.user_id AND k.operation = 'cancel' AND k.key = a.key
      AND a.ordinal = ANY (fresh) AND NOT a.ordinal = ANY (coalesce(won, '{}'));
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

-- Locks orders in the order of their ids, and answers what decides over them. Nothing is known of one before.
CREATE FUNCTION orders.lock(p_orders uuid[]) RETURNS TABLE (id uuid, status text, expires_at timestamptz)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT o.id, o.status, o.expires_at FROM orders.orders o
                 WHERE o.id = ANY (p_orders) ORDER BY o.id FOR NO KEY UPDATE;
END $$;

-- The first half of confirm: one payment row for each order that can be paid. Outcomes: begun, replay, mismatch,
-- not_found, hold_expired, invalid_state, payment_pending. Refusals leave no key. A payment id that exists already is
-- the caller's own, from a try whose commit was in doubt: begun. With it comes what the order is about.
DROP FUNCTION orders.begin_payments;
CREATE FUNCTION orders.begin_payments(
    p_orders uuid[], p_users uuid[], p_keys text[], p_fingerprints bytea[], p_payments uuid[], p_tokens text[]
) RETURNS TABLE (
    ordinal integer, outcome text, tickets integer, amount bigint, currency text,
    event_id uuid, tier_ids uuid[], quantities integer[], unit_prices bigint[], created_at timestamptz,
    expires_at timestamptz
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    fresh integer[];
    payable uuid[];
    begun uuid[];
BEGIN
    fresh := orders.write_keys('confirm', p_orders, p_users, p_keys, p_fingerprints);
    SELECT array_agg(l.id) INTO payable FROM orders.lock(p_orders) AS l
    WHERE l.status = 'reserved' AND l.expires_at > clock_timestamp();
    WITH written AS (
        INSERT INTO orders.payments AS p (id, order_id, idempotency_key, provider_token, amount, currency)
        SELECT a.payment_id, o.id, a.key, a.token, o.total_amount, o.currency
        FROM unnest(p_orders, p_users, p_keys, p_payments, p_tokens) WITH ORDINALITY
             AS a (order_id, user_id, key, payment_id, token, ordinal)
        JOIN orders.orders o ON o.id = a.order_id AND o.user_id = a.user_id
        WHERE a.ordinal = ANY (fresh) AND a.order_id = ANY (payable)
        ORDER BY o.id, a.ordinal
        ON CONFLICT DO NOTHING RETURNING p.id
    )
    SELECT coalesce(array_agg(w.id), '{}') INTO begun FROM written w;
    IF cardinality(begun) < cardinality(p_orders) THEN
        DELETE FROM orders.idempotency_keys k
        USING unnest(p_users, p_keys, p_payments) WITH ORDINALITY AS a (user_id, key, payment_id, ordinal)
        WHERE k.user_id = a.user_id AND k.operation = 'confirm' AND k.key = a.key
          AND a.ordinal = ANY (fresh) AND NOT a.payment_id = ANY (begun);
    END IF;
    RETURN QUERY
    SELECT a.ordinal::integer, CASE
        WHEN a.payment_id = ANY (begun) THEN 'begun'
        WHEN (SELECT true FROM orders.payments p WHERE p.id = a.payment_id) THEN 'begun'
        WHEN NOT a.ordinal = ANY (fresh) AND (SELECT k.fingerprint FROM orders.idempotency_keys k WHERE
             k.user_id = a.user_id AND k.operation = 'confirm' AND k.key = a.key) IS DISTINCT FROM a.fingerprint
             THEN 'mismatch'
        WHEN NOT a.ordinal = ANY (fresh) THEN 'replay'
        WHEN o.id IS NULL THEN 'not_found'
        WHEN o.status = 'expired' OR o.status = 'reserved' AND o.expires_at <= clock_timestamp() THEN 'hold_expired'
        WHEN o.status = 'reserved' THEN 'payment_pending'
        ELSE 'invalid_state' END,
        o.tickets, o.total_amount, o.currency, o.event_id, o.tier_ids, o.quantities, o.unit_prices, o.created_at,
        o.expires_at
    FROM unnest(p_orders, p_users, p_keys, p_fingerprints, p_payments) WITH ORDINALITY
         AS a (order_id, user_id, key, fingerprint, payment_id, ordinal)
    LEFT JOIN orders.orders o ON o.id = a.order_id AND o.user_id = a.user_id;
END $$;

-- The second half of confirm, for authorised payments: held -> sold, tickets issued. Outcomes: confirmed, late (the
-- hold had ended: confirm_late decides), cancelled, event_cancelled (only when careful; else HF002 raises), voided (the
-- payment was given up meanwhile), not_found. Running it again after a lost commit answers the same. ended_at is given for
-- what this very call has confirmed, whose tickets therefore have the given ids; NULL where another did.
DROP FUNCTION orders.confirm;
CREATE FUNCTION orders.confirm(
    p_careful boolean, p_payments uuid[], p_ticket_from integer[], p_ticket_to integer[], p_tickets uuid[]
) RETURNS TABLE (ordinal integer, outcome text, ended_at timestamptz)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    ids uuid[];
    gone uuid[] := '{}';
    payable uuid[];
    overdue uuid[];
    paid uuid[];
    now_is timestamptz;
BEGIN
    SELECT array_agg(p.order_id) INTO ids FROM unnest(p_payments) AS a (id) JOIN orders.payments p ON p.id = a.id;
    SELECT array_agg(l.id) FILTER (WHERE l.expires_at > clock_timestamp()),
           array_agg(l.id) FILTER (WHERE l.expires_at <= clock_timestamp())
    INTO payable, overdue FROM orders.lock(ids) AS l WHERE l.status = 'reserved';
    now_is := clock_timestamp();
    IF p_careful THEN
        PERFORM orders.lock_counters(ids);
        SELECT coalesce(array_agg(DISTINCT o.id), '{}') INTO gone
        FROM orders.orders o WHERE o.id = ANY (ids) AND o.tier_ids && tickets.cancelled(
            (SELECT array_agg(DISTINCT t.tier_id) FROM orders.orders l, unnest(l.tier_ids) AS t (tier_id)
             WHERE l.id = ANY (ids)));
    END IF;
    IF overdue <> '{}' THEN
        UPDATE orders.orders o SET status = 'expired', version = o.version + 1, ended_at = now_is
        WHERE o.id = ANY (overdue);
    END IF;
    WITH asked AS MATERIALIZED (
        SELECT p.id, p.order_id, p.state FROM unnest(p_payments) AS a (id) JOIN orders.payments p ON p.id = a.id
    ), sold AS (
        UPDATE orders.orders o SET status = 'confirmed', version = o.version + 1, ended_at = now_is
        FROM asked p
        WHERE p.order_id = o.id AND p.state IN ('created', 'pending') AND p.order_id = ANY (payable)
          AND NOT p.order_id = ANY (gone)
        RETURNING o.id, o.event_id, o.user_id, o.version, o.tier_ids, o.quantities, p.id AS payment_id
    ), authorised AS (
        UPDATE orders.payments p SET state = 'authorised', updated_at = now_is
        FROM sold s WHERE p.id = s.payment_id
    ), told AS (
        INSERT INTO outbox.events (kind, subject, version, scope)
        SELECT 'order.confirmed', s.id, s.version, s.event_id FROM sold s
        UNION ALL SELECT 'payment.authorised', s.payment_id, s.version, s.event_id FROM sold s
    ), issued AS (
        INSERT INTO orders.tickets (id, order_id, event_id, tier_id, user_id)
        SELECT p_tickets[a.ticket_from + t.seat::integer - 1], s.id, s.event_id, t.tier_id, s.user_id
        FROM unnest(p_payments, p_ticket_from) AS a (payment_id, ticket_from) JOIN sold s USING (payment_id),
        LATERAL (SELECT l.tier_id, row_number() OVER (ORDER BY l.ordinal, n) AS seat
                 FROM unnest(s.tier_ids, s.quantities) WITH ORDINALITY AS l (tier_id, quantity, ordinal),
                      generate_series(1, l.quantity) AS n) AS t
    )
    SELECT coalesce(array_agg(s.id), '{}') INTO paid FROM sold s;
    PERFORM orders.end_holds(overdue, NULL, paid);
    IF cardinality(paid) = cardinality(p_payments) THEN
        RETURN QUERY SELECT n, 'confirmed'::text, now_is FROM generate_series(1, cardinality(paid)) AS n;
        RETURN;
    END IF;
    PERFORM orders.wait_like_a_write();
    RETURN QUERY
    SELECT a.ordinal::integer, CASE
        WHEN o.id IS NULL THEN 'not_found'
        WHEN p.state IN ('authorised', 'captured') THEN 'confirmed'
        WHEN p.state NOT IN ('created', 'pending') THEN 'voided'
        WHEN o.id = ANY (gone) THEN 'event_cancelled'
        WHEN o.status = 'expired' THEN 'late'
        ELSE 'cancelled' END, CASE WHEN o.id = ANY (paid) THEN now_is END
    FROM unnest(p_payments) WITH ORDINALITY AS a (payment_id, ordinal)
    LEFT JOIN orders.payments p ON p.id = a.payment_id
    LEFT JOIN orders.orders o ON o.id = p.order_id;
END $$;

-- Ends the holds of orders that the caller has locked and marked: of the expired and the cancelled the tickets go back
-- to the tiers and to their users' limits, of the sold they are sold. All counters first, then all tiers, each once.
CREATE OR REPLACE FUNCTION orders.end_holds(p_expired uuid[], p_cancelled uuid[], p_sold uuid[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    given_back uuid[] := coalesce(p_expired, '{}') || coalesce(p_cancelled, '{}');
    ended uuid[] := given_back || coalesce(p_sold, '{}');
BEGIN
    IF ended = '{}' THEN
        RETURN;
    END IF;
    IF given_back <> '{}' THEN
        INSERT INTO outbox.events (kind, subject, version, scope)
        SELECT CASE WHEN o.id = ANY (p_expired) THEN 'order.expired' ELSE 'order.cancelled' END, o.id, o.version,
               o.event_id
        FROM unnest(given_back) AS g (id) JOIN orders.orders o ON o.id = g.id;
        PERFORM orders.lock_counters(given_back);
        UPDATE orders.user_tickets c SET tickets = c.tickets - l.tickets
        FROM (SELECT o.event_id, o.user_id, sum(o.tickets)::integer AS tickets
              FROM unnest(given_back) AS g (id) JOIN orders.orders o ON o.id = g.id GROUP BY o.event_id, o.user_id) AS l
        WHERE c.event_id = l.event_id AND c.user_id = l.user_id;
    END IF;
    PERFORM tickets.move(array_agg(m.tier_id), array_agg(-m.quantity), array_agg(m.sold)) FROM (
        SELECT l.tier_id, sum(l.quantity)::integer AS quantity,
               sum(CASE WHEN o.id = ANY (p_sold) THEN l.quantity ELSE 0 END)::integer AS sold
        FROM unnest(ended) AS g (id) JOIN orders.orders o ON o.id = g.id,
             unnest(o.tier_ids, o.quantities) AS l (tier_id, quantity)
        GROUP BY l.tier_id
    ) AS m;
END $$;

-- Written in the order of time and read once in ten minutes: a summary for each range of blocks is enough.
DROP INDEX orders.idempotency_keys_age;
CREATE INDEX idempotency_keys_age ON orders.idempotency_keys USING brin (created_at);

-- An order's latest payment is its end: without the id in it, the planner may look for that from the end of all payments.
DROP INDEX orders.payments_order;
CREATE INDEX payments_order ON orders.payments (order_id, id);

-- Locks the counters of these orders' users, in the one order that everyone keeps: of a lateral subquery that locks, the
-- rows are taken as the outer ones come.
CREATE OR REPLACE FUNCTION orders.lock_counters(p_orders uuid[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM (
        SELECT DISTINCT o.event_id, o.user_id FROM unnest(p_orders) AS g (id) JOIN orders.orders o ON o.id = g.id
        ORDER BY o.event_id, o.user_id
    ) AS w, LATERAL (
        SELECT 1 FROM orders.user_tickets c
        WHERE c.event_id = w.event_id AND c.user_id = w.user_id FOR NO KEY UPDATE
    ) AS locked;
END $$;

-- What runs with its caller's rights and names everything with its schema needs no search_path of its own. Setting one
-- took longer than the rest of some of these.
ALTER FUNCTION orders.write_keys RESET search_path;
ALTER FUNCTION orders.wait_like_a_write RESET search_path;
ALTER FUNCTION orders.expire RESET search_path;
ALTER FUNCTION orders.cancel_of_event RESET search_path;
ALTER FUNCTION orders.confirm_late RESET search_path;
ALTER FUNCTION orders.end_payment RESET search_path;
