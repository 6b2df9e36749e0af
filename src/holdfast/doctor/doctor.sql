-- name: server
SELECT current_setting('server_version_num')::integer AS version_number, current_setting('server_version') AS version,
       current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes

-- name: guards
-- Which of the constraints ($1) and unique indexes ($2) that guard the sale are not there, or not valid.
SELECT name FROM unnest($1::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conname = name AND c.convalidated)
UNION ALL
SELECT name FROM unnest($2::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT 1 FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
                  WHERE c.relname = name AND i.indisunique AND i.indisvalid)

-- name: tiers
-- Tiers whose counters are not what their orders' lines add up to, or that have more taken than there is.
WITH lines AS (
    SELECT l.tier_id,
           coalesce(sum(l.quantity) FILTER (WHERE o.status = 'reserved'), 0) AS held,
           coalesce(sum(l.quantity) FILTER (WHERE o.status = 'confirmed'), 0) AS sold
    FROM orders.orders o, unnest(o.tier_ids, o.quantities) AS l (tier_id, quantity)
    WHERE o.status IN ('reserved', 'confirmed') GROUP BY l.tier_id
)
SELECT tier_id, s.event_id, s.capacity, s.held, s.sold, coalesce(l.held, 0) AS real_held, coalesce(l.sold, 0) AS real_sold
FROM tickets.stock s FULL JOIN lines l USING (tier_id)
WHERE s.tier_id IS NULL OR s.held <> coalesce(l.held, 0) OR s.sold <> coalesce(l.sold, 0)
   OR greatest(s.held, coalesce(l.held, 0)) + greatest(s.sold, coalesce(l.sold, 0)) > s.capacity
ORDER BY tier_id

-- name: users
-- People whose counter is not what their orders add up to, or is beyond the limit they bought under.
WITH people AS (
    SELECT o.event_id, o.user_id, sum(o.tickets) AS tickets FROM orders.orders o
    WHERE o.status IN ('reserved', 'confirmed') GROUP BY o.event_id, o.user_id
)
SELECT event_id, user_id, coalesce(c.tickets, 0) AS tickets, coalesce(p.tickets, 0) AS real_tickets
FROM orders.user_tickets c FULL JOIN people p USING (event_id, user_id)
WHERE coalesce(c.tickets, 0) <> coalesce(p.tickets, 0) OR p.tickets > c.tickets_max
ORDER BY event_id, user_id

-- name: issued
-- Orders whose tickets are not their lines: one for each place of a confirmed order, none for any other.
WITH issued AS (
    SELECT t.order_id, t.tier_id, count(*) AS tickets FROM orders.tickets t GROUP BY t.order_id, t.tier_id
), ordered AS (
    SELECT o.id AS order_id, l.tier_id, sum(l.quantity) AS tickets
    FROM orders.orders o, unnest(o.tier_ids, o.quantities) AS l (tier_id, quantity)
    WHERE o.status IN ('confirmed', 'refunded') GROUP BY o.id, l.tier_id
)
SELECT DISTINCT order_id FROM issued i FULL JOIN ordered r USING (order_id, tier_id)
WHERE coalesce(i.tickets, 0) <> coalesce(r.tickets, 0)
ORDER BY order_id

-- name: money
-- Orders that were confirmed without a payment that stands, or that have one without being confirmed.
SELECT o.id AS order_id, o.status FROM orders.orders o
LEFT JOIN orders.payments p ON p.order_id = o.id AND p.state IN ('authorised', 'captured')
WHERE (o.status = 'confirmed') <> (p.id IS NOT NULL) AND o.status <> 'refunded'
ORDER BY o.id

-- name: overdue
-- Holds whose time has been over for more than $1 seconds.
SELECT count(*) AS orders, coalesce(sum(o.tickets), 0) AS tickets FROM orders.orders o
WHERE o.status = 'reserved' AND o.expires_at < clock_timestamp() - make_interval(secs => $1)

-- name: outbox
-- How much each consumer has not read, and how old the oldest of it is.
SELECT c.name, count(e.id) AS unread,
       coalesce(extract(epoch FROM clock_timestamp() - min(e.occurred_at)), 0)::float8 AS age_seconds
FROM outbox.consumers c LEFT JOIN outbox.events e ON (e.xid, e.id) > (c.xid, c.id)
GROUP BY c.name ORDER BY c.name

-- name: dead_letters
-- What consumers could not handle.
SELECT d.consumer, count(*) AS letters, min(d.reason) AS reason FROM outbox.dead_letters d
GROUP BY d.consumer ORDER BY d.consumer

-- name: payments
-- Payments that have been without an end for more than $1 seconds.
SELECT count(*) FROM orders.payments p
WHERE p.state IN ('created', 'pending', 'authorised', 'voiding')
  AND p.updated_at < clock_timestamp() - make_interval(secs => $1)
