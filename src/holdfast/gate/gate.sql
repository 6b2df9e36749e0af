-- name: next_epoch
-- Begins a load: the epoch that the gate will have. NULL where the event has no gate (it is a draft).
SELECT tickets.begin_load($1)

-- name: loaded
-- Ends a load: the snapshot that the gate's content was read in, and the node that has it. Outbox rows visible in it are
-- already in the gate.
SELECT tickets.end_load($1, $2, $3::text::pg_snapshot, $4)

-- name: given_up
-- Declares the gate's content of an epoch void, wherever it is.
SELECT tickets.give_up_load($1, $2)

-- name: snapshot
SELECT pg_current_snapshot()::text

-- name: free
-- What is neither held nor sold of each tier of an event. A cancelled event has no gate to pass.
SELECT tier_id, capacity - held - sold AS free FROM tickets.stock WHERE event_id = $1 AND state <> 'cancelled'

-- name: users
-- Tickets held and bought per user of an event.
SELECT user_id, tickets FROM orders.user_tickets WHERE event_id = $1 AND tickets > 0

-- name: holds
-- The active holds of an event.
SELECT user_id, idempotency_key, tier_ids, quantities FROM orders.orders WHERE event_id = $1 AND status = 'reserved'

-- name: by_key
-- The orders behind some hold keys: $1 users, $2 idempotency keys.
SELECT o.user_id, o.idempotency_key, o.status FROM unnest($1::uuid[], $2::text[]) AS k (user_id, idempotency_key)
JOIN orders.orders o USING (user_id, idempotency_key)

-- name: epochs
-- Every event with a gate that may still sell or hold something.
SELECT g.event_id, g.epoch, g.node, g.loaded_in IS NOT NULL AS loaded FROM tickets.gates g
JOIN tickets.events e ON e.id = g.event_id
WHERE e.status = 'published'
  AND EXISTS (SELECT 1 FROM tickets.stock s WHERE s.event_id = g.event_id AND (s.closes_at > clock_timestamp() OR s.held > 0))

-- name: gate
-- An event's gate, as PostgreSQL knows it.
SELECT epoch, node, loaded_in IS NOT NULL AS loaded FROM tickets.gates WHERE event_id = $1

-- name: lock
SELECT pg_try_advisory_lock(hashtextextended($1, 0))

-- name: unlock
SELECT pg_advisory_unlock(hashtextextended($1, 0))

-- name: changes
-- What the gate has to hear of some outbox rows ($1 transactions, $2 subjects, $3 scopes): their orders, and whether the gate's present
-- content was read in a snapshot that had them already.
SELECT o.user_id, o.idempotency_key, o.tier_ids, o.quantities, g.epoch, g.loaded_in IS NOT NULL AS loaded,
       coalesce(pg_visible_in_snapshot(r.xid::xid8, g.loaded_in), false) AS included
FROM unnest($1::text[], $2::uuid[], $3::uuid[]) WITH ORDINALITY AS r (xid, subject, scope, ordinal)
LEFT JOIN orders.orders o ON o.id = r.subject
LEFT JOIN tickets.gates g ON g.event_id = r.scope
ORDER BY r.ordinal
