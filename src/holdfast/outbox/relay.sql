-- name: lanes
-- What some lanes have not published, in commit-safe order, with what is told of it. $1, $2: the progress of the one that
-- is furthest behind; $3: the lanes, $4, $5: the progress of each; $6: how many rows of the outbox to look at; $7: how
-- many lanes there are in all; $8: the kinds that make counters new. What is about an order belongs to the lane of the
-- order; the counters of its event belong to the lane of the event, to which the newest row about each event comes
-- along. So does the last row looked at, so that progress is made over rows of other lanes.
WITH place AS MATERIALIZED (
    SELECT l.lane, l.xid::xid8 AS xid, l.id FROM unnest($3::integer[], $4::text[], $5::bigint[]) AS l (lane, xid, id)
), page AS MATERIALIZED (
    SELECT e.* FROM outbox.events e
    WHERE (e.xid, e.id) > ($1::text::xid8, $2) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.id LIMIT $6
), last AS (
    SELECT p.xid, p.id, count(*) OVER () AS looked_at FROM page p ORDER BY p.xid DESC, p.id DESC LIMIT 1
), mine AS (
    SELECT p.*, EXISTS (SELECT 1 FROM place l WHERE l.lane = get_byte(uuid_send(p.subject), 15) % $7
                                                AND (p.xid, p.id) > (l.xid, l.id)) AS is_subject,
           p.kind = ANY ($8::text[])
           AND EXISTS (SELECT 1 FROM place l WHERE l.lane = get_byte(uuid_send(p.scope), 15) % $7
                                               AND (p.xid, p.id) > (l.xid, l.id)) AS is_scope,
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

-- name: advance_lanes
-- Moves lanes ($2, of the names $1) on from where they are known to be ($3, $4) to ($5, $6): one that somebody else has
-- moved stays.
UPDATE outbox.consumers c SET xid = l.next_xid::xid8, id = l.next_id
FROM unnest($2::integer[], $3::text[], $4::bigint[], $5::text[], $6::bigint[]) AS l (lane, xid, id, next_xid, next_id)
WHERE c.name = ($1::text[])[l.lane + 1] AND (c.xid, c.id) = (l.xid::xid8, l.id)

-- name: as_of
-- Read before the counters, so that what was committed before it is in them.
SELECT pg_current_wal_insert_lsn()::text

-- name: stock
SELECT s.event_id, s.tier_id, s.capacity, s.held, s.sold FROM tickets.stock s WHERE s.event_id = ANY ($1::uuid[])
ORDER BY s.event_id, s.tier_id
