-- name: record
-- Notes the letters that a batch of state changes asks for: $1 their ids, $2 kinds, $3 subjects, $4 events, $5 moments.
SELECT notify.record($1::text[], $2::text[], $3::uuid[], $4::uuid[], $5::timestamptz[])

-- name: announce
-- Notes letters to the next $1 people of a cancelled event: how many people were looked at.
SELECT notify.announce($1)

-- name: claim
-- Letters that are due, at most $1, for the sender alone until $2 seconds from now. Each try is counted before it is made.
WITH due AS (
    SELECT l.order_id, l.kind FROM notify.letters l WHERE l.due_at <= now()
    ORDER BY l.due_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE notify.letters l SET due_at = now() + make_interval(secs => $2), tries = l.tries + 1
FROM due d WHERE l.order_id = d.order_id AND l.kind = d.kind
RETURNING l.order_id, l.kind, l.origin, l.occurred_at, l.tries

-- name: contents
-- What the letters about some orders say, in the order of $1. A column of something that is gone is NULL.
SELECT o.id AS order_id, o.version, o.event_id, e.version AS event_version, o.status, o.total_amount, o.currency,
       o.quantities, o.unit_prices, t.tiers, p.ticket_ids, p.ticket_tiers, e.name, e.venue_name, e.venue_address,
       e.starts_at, e.time_zone, e.status AS event_status, u.email
FROM unnest($1::uuid[]) WITH ORDINALITY AS a (id, ordinal)
LEFT JOIN orders.orders o ON o.id = a.id
LEFT JOIN tickets.events e ON e.id = o.event_id
LEFT JOIN auth.users u ON u.id = o.user_id
LEFT JOIN LATERAL (SELECT array_agg(coalesce(n.name, '') ORDER BY l.ordinal) AS tiers
                   FROM unnest(o.tier_ids) WITH ORDINALITY AS l (id, ordinal)
                   LEFT JOIN tickets.tiers n ON n.id = l.id) t ON true
LEFT JOIN LATERAL (SELECT array_agg(i.id ORDER BY i.id) AS ticket_ids,
                          array_agg(coalesce(n.name, '') ORDER BY i.id) AS ticket_tiers
                   FROM orders.tickets i LEFT JOIN tickets.tiers n ON n.id = i.tier_id WHERE i.order_id = o.id) p ON true
ORDER BY a.ordinal

-- name: ended
-- Nothing more is to be done about the letter $1, $2: its outcome $3, and what the mail server answered $4.
UPDATE notify.letters l SET outcome = $3, reply_code = $4, ended_at = clock_timestamp(), due_at = NULL
WHERE l.order_id = $1 AND l.kind = $2 AND l.due_at IS NOT NULL

-- name: put_off
-- The letter $1, $2 is tried again in $3 seconds; the mail server answered $4.
UPDATE notify.letters l SET due_at = now() + make_interval(secs => $3), reply_code = $4
WHERE l.order_id = $1 AND l.kind = $2 AND l.due_at IS NOT NULL

-- name: give_back
-- The letters $1, $2 were claimed and not tried: they are due as before.
UPDATE notify.letters l SET due_at = now(), tries = l.tries - 1
FROM unnest($1::uuid[], $2::text[]) AS a (order_id, kind)
WHERE l.order_id = a.order_id AND l.kind = a.kind AND l.due_at IS NOT NULL

-- name: forget
-- Letters that ended more than $1 days ago, at most $2.
DELETE FROM notify.letters l USING (
    SELECT order_id, kind FROM notify.letters WHERE ended_at < now() - make_interval(days => $1) LIMIT $2) AS old
WHERE l.order_id = old.order_id AND l.kind = old.kind
