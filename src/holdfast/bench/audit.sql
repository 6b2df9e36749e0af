-- name: orders
-- Every order of the events.
SELECT o.id, o.event_id, o.user_id, o.status FROM orders.orders o WHERE o.event_id = ANY ($1::uuid[])

-- name: tiers
-- The counters of the events' tiers, and what the lines of their live orders add up to.
SELECT s.tier_id, s.event_id, s.capacity, s.held, s.sold,
       coalesce(r.held, 0)::bigint AS real_held, coalesce(r.sold, 0)::bigint AS real_sold
FROM tickets.stock s
LEFT JOIN (SELECT l.tier_id, sum(l.quantity) FILTER (WHERE o.status = 'reserved') AS held,
                  sum(l.quantity) FILTER (WHERE o.status = 'confirmed') AS sold
           FROM orders.orders o CROSS JOIN LATERAL unnest(o.tier_ids, o.quantities) AS l (tier_id, quantity)
           WHERE o.event_id = ANY ($1::uuid[]) GROUP BY l.tier_id) AS r USING (tier_id)
WHERE s.event_id = ANY ($1::uuid[])

-- name: people
-- How many people's counters are not what their live orders add up to.
SELECT count(*)
FROM (SELECT c.event_id, c.user_id, c.tickets FROM orders.user_tickets c WHERE c.event_id = ANY ($1::uuid[])) AS c
FULL JOIN (SELECT o.event_id, o.user_id, sum(o.tickets) AS tickets FROM orders.orders o
           WHERE o.event_id = ANY ($1::uuid[]) AND o.status IN ('reserved', 'confirmed')
           GROUP BY o.event_id, o.user_id) AS p USING (event_id, user_id)
WHERE coalesce(c.tickets, 0) <> coalesce(p.tickets, 0)

-- name: unpaid
-- How many confirmed orders have other tickets than they should, or not one payment that stands.
SELECT count(*) FROM orders.orders o
WHERE o.event_id = ANY ($1::uuid[]) AND o.status = 'confirmed'
  AND ((SELECT count(*) FROM orders.tickets t WHERE t.order_id = o.id) <> o.tickets
       OR (SELECT count(*) FROM orders.payments p WHERE p.order_id = o.id AND p.state IN ('authorised', 'captured')) <> 1)

-- name: unread
-- State changes, of whatever event, that a consumer has not read yet.
SELECT count(*) FROM outbox.events e
WHERE (e.xid, e.id) > (SELECT c.xid, c.id FROM outbox.consumers c ORDER BY c.xid, c.id LIMIT 1)

-- name: free
SELECT s.tier_id, s.capacity - s.held - s.sold AS free FROM tickets.stock s WHERE s.event_id = $1

-- name: is_touched
-- Whether anyone has ever bought anything of an event.
SELECT EXISTS (SELECT 1 FROM orders.user_tickets c WHERE c.event_id = $1)
