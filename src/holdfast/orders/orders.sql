-- name: journal
-- Writes a batch of new orders. See orders.journal in the schema.
SELECT made_at, outcomes FROM orders.journal($1::boolean, $2::uuid[], $3::uuid[], $4::text[], $5::boolean[],
    $6::integer[], $7::uuid[], $8::bytea[], $9::integer[], $10::integer[], $11::integer[], $12::bigint[], $13::text[],
    $14::integer[], $15::integer[], $16::uuid[], $17::integer[], $18::bigint[])

-- name: keyed
-- The orders that were made under some keys: $1 users, $2 idempotency keys.
SELECT o.id, o.user_id, o.idempotency_key, o.fingerprint
FROM unnest($1::uuid[], $2::text[]) AS k (user_id, idempotency_key) JOIN orders.orders o USING (user_id, idempotency_key)

-- name: orders
-- Orders by id, with their latest payment and their tickets. A hold past its time counts as gone before expiry has run.
SELECT o.id, o.user_id, o.event_id, o.tier_ids, o.quantities, o.unit_prices, o.total_amount, o.currency, o.created_at,
       o.expires_at, o.ended_at, p.id AS payment_id, p.state AS payment_state, t.ticket_ids, t.ticket_tiers,
       CASE WHEN o.status = 'reserved' AND o.expires_at <= clock_timestamp() THEN 'expired' ELSE o.status END AS status
FROM orders.orders o
LEFT JOIN LATERAL (SELECT p.id, p.state FROM orders.payments p WHERE p.order_id = o.id ORDER BY p.id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT array_agg(t.id ORDER BY t.id) AS ticket_ids, array_agg(t.tier_id ORDER BY t.id) AS ticket_tiers
                   FROM orders.tickets t WHERE t.order_id = o.id AND o.status IN ('confirmed', 'refunded')) t ON true
WHERE o.id = ANY ($1::uuid[])

-- name: history
-- A user's orders as the statement above has them, newest first: $1 user, $2 the last id of the page before, $3 how many.
SELECT o.id, o.user_id, o.event_id, o.tier_ids, o.quantities, o.unit_prices, o.total_amount, o.currency, o.created_at,
       o.expires_at, o.ended_at, p.id AS payment_id, p.state AS payment_state, t.ticket_ids, t.ticket_tiers,
       CASE WHEN o.status = 'reserved' AND o.expires_at <= clock_timestamp() THEN 'expired' ELSE o.status END AS status
FROM (SELECT o.* FROM orders.orders o
      WHERE o.user_id = $1 AND o.id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
      ORDER BY o.id DESC LIMIT $3) o
LEFT JOIN LATERAL (SELECT p.id, p.state FROM orders.payments p WHERE p.order_id = o.id ORDER BY p.id DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (SELECT array_agg(t.id ORDER BY t.id) AS ticket_ids, array_agg(t.tier_id ORDER BY t.id) AS ticket_tiers
                   FROM orders.tickets t WHERE t.order_id = o.id AND o.status IN ('confirmed', 'refunded')) t ON true
ORDER BY o.id DESC

-- name: cancel
SELECT ordinal, outcome FROM orders.cancel($1::uuid[], $2::uuid[], $3::text[], $4::bytea[])

-- name: begin_payments
SELECT ordinal, outcome, tickets, amount, currency, event_id, tier_ids, quantities, unit_prices, created_at, expires_at
FROM orders.begin_payments($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::uuid[], $6::text[])

-- name: confirm
SELECT ordinal, outcome, ended_at FROM orders.confirm($1::boolean, $2::uuid[], $3::integer[], $4::integer[], $5::uuid[])

-- name: confirm_late
SELECT orders.confirm_late($1, $2::uuid[]) AS outcome

-- name: end_payments
-- Ends payments without tickets: $1 payments, $2 their states.
SELECT orders.end_payment(e.payment_id, e.state) FROM unnest($1::uuid[], $2::text[]) AS e (payment_id, state)

-- name: payment_pending
-- The provider did not answer in time: a worker will ask it.
UPDATE orders.payments SET state = 'pending', updated_at = clock_timestamp() WHERE id = $1 AND state = 'created'

-- name: expire
SELECT orders.expire($1)

-- name: cancel_of_event
SELECT orders.cancel_of_event($1, $2)

-- name: unresolved_payments
-- Payments whose outcome is not known after $1 seconds, those first that were asked about the longest ago.
SELECT p.id, p.provider_token, p.amount, p.currency, p.created_at, o.tickets,
       extract(epoch FROM clock_timestamp() - p.created_at)::float8 AS age_seconds
FROM orders.payments p JOIN orders.orders o ON o.id = p.order_id
WHERE p.state IN ('created', 'pending') AND p.created_at < now() - make_interval(secs => $1)
ORDER BY p.updated_at LIMIT $2

-- name: payments_asked
-- The provider was asked about these and has not decided: others have their turn first.
UPDATE orders.payments SET updated_at = clock_timestamp() WHERE id = ANY ($1::uuid[]) AND state IN ('created', 'pending')

-- name: payments_settled
-- What the provider was told: $1 payments, $2 their states before, $3 after.
UPDATE orders.payments p SET state = $3, updated_at = clock_timestamp() WHERE p.id = ANY ($1::uuid[]) AND p.state = $2

-- name: forget_keys
-- Idempotency keys older than $1 seconds, at most $2.
DELETE FROM orders.idempotency_keys k USING (
    SELECT user_id, operation, key FROM orders.idempotency_keys
    WHERE created_at < now() - make_interval(secs => $1) LIMIT $2) AS old
WHERE (k.user_id, k.operation, k.key) = (old.user_id, old.operation, old.key)
