-- name: warm
-- Events that are to be ready for their sale, at most $2: those of which a tier opens within $1 seconds, the next first, and
-- those that were asked for. now() and not clock_timestamp(), which no index can be asked for.
SELECT w.event_id FROM (
    SELECT s.event_id, s.opens_at FROM tickets.stock s
    WHERE s.opens_at > now() AND s.opens_at <= now() + make_interval(secs => $1) AND s.state = 'open'
    UNION ALL
    SELECT g.event_id, '-infinity' FROM tickets.gates g WHERE g.warm_until > now()
) AS w JOIN tickets.events e ON e.id = w.event_id AND e.status = 'published'
GROUP BY w.event_id ORDER BY min(w.opens_at), w.event_id LIMIT $2

-- name: statuses
SELECT id, status FROM tickets.events WHERE id = ANY ($1::uuid[])

-- name: keep_warm
-- Asks every server process to be ready for these events ($1) from now on, for $2 seconds at least.
UPDATE tickets.gates SET warm_until = greatest(warm_until, clock_timestamp() + make_interval(secs => $2))
WHERE event_id = ANY ($1::uuid[])
