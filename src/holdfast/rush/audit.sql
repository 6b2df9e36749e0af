-- name: orders
-- Every order of the event, counted from its lines and from nothing else.
SELECT o.id, o.user_id, o.idempotency_key, o.status, o.tier_ids, o.quantities,
       o.status = 'reserved' AND o.expires_at < clock_timestamp() - interval '3 seconds' AS is_overdue
FROM orders.orders o WHERE o.event_id = $1

-- name: issued
-- Every ticket of the event.
SELECT t.id, t.order_id, t.tier_id FROM orders.tickets t WHERE t.event_id = $1

-- name: stock
SELECT s.tier_id, s.capacity, s.held, s.sold FROM tickets.stock s WHERE s.event_id = $1

-- name: user_tickets
SELECT c.user_id, c.tickets FROM orders.user_tickets c WHERE c.event_id = $1

-- name: unread
-- State changes of the event that a consumer has not read yet.
SELECT count(*) FROM outbox.events e
WHERE e.scope = $1 AND (e.xid, e.id) > (SELECT c.xid, c.id FROM outbox.consumers c ORDER BY c.xid, c.id LIMIT 1)

-- name: open_payments
-- Payments of the event that have not come to an end.
SELECT count(*) FROM orders.payments p JOIN orders.orders o ON o.id = p.order_id
WHERE o.event_id = $1 AND p.state IN ('created', 'pending', 'authorised', 'voiding')

-- name: epoch
SELECT g.epoch FROM tickets.gates g WHERE g.event_id = $1
