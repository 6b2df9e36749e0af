-- name: lane
-- What a lane has not published, in commit-safe order, with what is told of it. $1, $2: its progress; $3: how many rows
-- of the outbox to look at; $4: the lane; $5: how many lanes; $6: the kinds that make counters new. What is about an
-- order belongs to the lane of the order; the counters of its event belong to the lane of the event, to which the newest
-- row about each event comes along. So does the last row looked at, so that progress is made over rows of other lanes.
WITH page AS MATERIALIZED (
    SELECT e.* FROM outbox.events e
    WHERE (e.xid, e.id) > ($1::text::xid8, $2) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.id LIMIT $3
), last AS (
    SELECT p.xid, p.id, count(*) OVER () AS looked_at FROM page p ORDER BY p.xid DESC, p.id DESC LIMIT 1
), mine AS (
    SELECT p.*, get_byte(uuid_send(p.subject), 15) % $5 = $4 AS is_subject,
           get_byte(uuid_send(p.scope), 15) % $5 = $4 AND p.kind = ANY ($6::text[]) AS is_scope,
           (p.xid, p.id) = (l.xid, l.id) AS is_last, l.looked_at
    FROM page p, last l
), newest AS (
    SELECT DISTINCT ON (m.scope) m.xid, m.id FROM mine m WHERE m.is_scope ORDER BY m.scope, m.xid DESC, m.id DESC
)
SELECT m.xid::text AS xid, m.id, m.kind, m.subject, m.version, m.scope, m.occurred_at, m.is_subject,
       n.id IS NOT NULL AS is_newest, m.looked_at, o.user_id, o.tier_ids, o.quantities, o.unit_prices, o.total_amount,
       o.currency, o.created_at, o.expires_at, e.status, e.name, e.starts_at, e.time_zone
FROM mine m
LEFT JOIN newest n ON (n.xid, n.id) = (m.xid, m.id)
LEFT JOIN orders.orders o ON o.id = m.subject AND m.is_subject AND m.kind NOT LIKE 'event.%'
LEFT JOIN tickets.events e ON e.id = m.subject AND m.is_subject AND m.kind LIKE 'event.%'
WHERE m.is_subject OR m.is_last OR n.id IS NOT NULL
ORDER BY m.xid, m.id

-- name: as_of
-- Read before the counters, so that what was committed before it is in them.
SELECT pg_current_wal_insert_lsn()::text

-- name: stock
SELECT s.event_id, s.tier_id, s.capacity, s.held, s.sold FROM tickets.stock s WHERE s.event_id = ANY ($1::uuid[])
ORDER BY s.event_id, s.tier_id
