-- name: seeded
-- How many orders of the past there are. Each step is one transaction, and its events are named by where they end.
SELECT coalesce(max(substring(e.name FROM '^Past orders to ([0-9]+)$')::bigint), 0) FROM tickets.events e

-- name: events
-- The events of a step: orders $1 to below $2, $3 of them to an event. Five million orders are a year, a year ago, and
-- the sales are over.
WITH past AS (
    SELECT n AS number, least(n + $3::bigint, $2::bigint) AS end_number, md5('holdfast past event ' || n)::uuid AS event_id,
           md5('holdfast past tier ' || n)::uuid AS tier_id, now() - interval '400 days' + n * interval '6.3 seconds' AS at
    FROM generate_series($1::bigint, $2::bigint - 1, $3::bigint) AS n
), events AS (
    INSERT INTO tickets.events (id, organiser_id, name, starts_at, time_zone, status, hold_seconds, tickets_per_user_max)
    SELECT p.event_id, '00000000-0000-7000-8000-000000000001', 'Past orders to ' || p.end_number, p.at + interval '1 day',
           'UTC', 'published', 600, 4
    FROM past p
), tiers AS (
    INSERT INTO tickets.tiers (id, event_id, name, position, price_amount, currency)
    SELECT p.tier_id, p.event_id, 'Past', 0, 100000, 'TWD' FROM past p
), gates AS (
    INSERT INTO tickets.gates (event_id, epoch) SELECT p.event_id, 0 FROM past p
)
INSERT INTO tickets.stock (tier_id, event_id, capacity, opens_at, closes_at, state)
SELECT p.tier_id, p.event_id, p.end_number - p.number, p.at, p.at + interval '1 day', 'open' FROM past p

-- name: orders
-- The orders of a step with all that belongs to them: $1, $2, $3 as above; $4 the first order and $5 the first buyer of
-- these steps together, $6 how many buyers they have. One in five is confirmed, the others were cancelled or expired.
-- Ids are UUIDv7 of the moment that the order was made; a payment and a ticket have the id of their order.
WITH numbered AS (
    SELECT n, md5('holdfast past order ' || n) AS hash, $1::bigint + (n - $1::bigint) / $3::bigint * $3::bigint AS event,
           $5::bigint + (n - $4::bigint) % $6::bigint AS buyer, now() - interval '400 days' + n * interval '6.3 seconds' AS at
    FROM generate_series($1::bigint, $2::bigint - 1) AS n
), written AS (
    INSERT INTO orders.orders (id, user_id, event_id, status, version, idempotency_key, fingerprint, tier_ids, quantities,
                               unit_prices, tickets, total_amount, currency, created_at, expires_at, ended_at)
    SELECT (lpad(to_hex((extract(epoch FROM o.at) * 1000)::bigint), 12, '0') || '7' || substr(o.hash, 1, 3) || '9'
            || substr(o.hash, 4, 15))::uuid,
           md5('holdfast past buyer ' || o.buyer)::uuid, md5('holdfast past event ' || o.event)::uuid,
           (ARRAY['confirmed', 'cancelled', 'cancelled', 'expired', 'expired'])[1 + get_byte(decode(o.hash, 'hex'), 15) % 5],
           2, 'past-' || o.n, decode(o.hash, 'hex'), ARRAY[md5('holdfast past tier ' || o.event)::uuid], ARRAY[1],
           ARRAY[100000::bigint], 1, 100000, 'TWD', o.at, o.at + interval '10 minutes', o.at + interval '5 minutes'
    FROM numbered o ORDER BY o.n
    RETURNING id, user_id, event_id, tier_ids[1] AS tier_id, status = 'confirmed' AS is_sold, ended_at
), people AS (
    INSERT INTO orders.user_tickets (event_id, user_id, tickets, tickets_max)
    SELECT w.event_id, w.user_id, count(*) FILTER (WHERE w.is_sold), 4 FROM written w GROUP BY w.event_id, w.user_id
), stock AS (
    UPDATE tickets.stock s SET sold = l.sold
    FROM (SELECT w.tier_id, count(*) FILTER (WHERE w.is_sold) AS sold FROM written w GROUP BY w.tier_id) AS l
    WHERE s.tier_id = l.tier_id
), payments AS (
    INSERT INTO orders.payments (id, order_id, idempotency_key, provider_token, amount, currency, state, created_at, updated_at)
    SELECT w.id, w.id, 'past', 'tok_ok', 100000, 'TWD', 'captured', w.ended_at, w.ended_at FROM written w WHERE w.is_sold
)
INSERT INTO orders.tickets (id, order_id, event_id, tier_id, user_id, issued_at)
SELECT w.id, w.id, w.event_id, w.tier_id, w.user_id, w.ended_at FROM written w WHERE w.is_sold

-- name: settle
-- What autovacuum would otherwise do in the middle of a measured run.
VACUUM (ANALYZE) orders.orders, orders.user_tickets, orders.payments, orders.tickets, tickets.stock, tickets.events
