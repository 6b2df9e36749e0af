-- name: orders
-- Every order of the events, with the tickets that were issued and the payments that are alive.
SELECT o.id, o.user_id, o.event_id, o.status, o.version, o.idempotency_key, o.tier_ids, o.quantities, o.total_amount,
       o.expires_at < clock_timestamp() - interval '5 seconds' AS is_overdue,
       (SELECT coalesce(array_agg(t.id), '{}') FROM orders.tickets t WHERE t.order_id = o.id) AS issued,
       (SELECT count(*) FROM orders.payments p WHERE p.order_id = o.id AND p.state IN ('authorised', 'captured')) AS paid
FROM orders.orders o WHERE o.event_id = ANY ($1::uuid[])

-- name: stock
SELECT s.tier_id, s.event_id, s.capacity, s.held, s.sold FROM tickets.stock s WHERE s.event_id = ANY ($1::uuid[])

-- name: people
-- What is counted for each person, without those who have nothing.
SELECT c.event_id, c.user_id, c.tickets FROM orders.user_tickets c
WHERE c.event_id = ANY ($1::uuid[]) AND c.tickets <> 0

-- name: epochs
SELECT g.event_id, g.epoch FROM tickets.gates g WHERE g.event_id = ANY ($1::uuid[])

-- name: unread
-- State changes of the events that have not gone: a row is deleted when everyone it is for has read it.
SELECT count(*) FROM outbox.events e WHERE e.scope = ANY ($1::uuid[])

-- name: dead_letters
-- State changes of the events that a consumer could not handle.
SELECT count(*) FROM outbox.dead_letters d WHERE d.scope = ANY ($1::uuid[]) OR d.scope IS NULL

-- name: open_payments
-- Payments whose outcome is not known yet, or has not been carried out at the provider.
SELECT count(*) FROM orders.payments p JOIN orders.orders o ON o.id = p.order_id
WHERE o.event_id = ANY ($1::uuid[]) AND p.state IN ('created', 'pending', 'authorised', 'voiding')

-- name: sales
-- The statistics: what was held, released, sold and earned of each tier, all minutes together.
SELECT s.tier_id, sum(s.held)::bigint AS held, sum(s.released)::bigint AS released, sum(s.sold)::bigint AS sold,
       sum(s.revenue)::bigint AS revenue
FROM stats.sales s WHERE s.event_id = ANY ($1::uuid[]) GROUP BY s.tier_id
