-- name: sale
-- What admission looks at: one row per tier of an event that was published, or one row without a tier.
SELECT e.status, e.hold_seconds, e.tickets_per_user_max, coalesce(g.epoch, 0) AS epoch,
       t.id AS tier_id, t.name, t.price_amount, t.currency,
       extract(epoch FROM s.opens_at)::float8 AS opens_at, extract(epoch FROM s.closes_at)::float8 AS closes_at, s.state,
       extract(epoch FROM clock_timestamp())::float8 AS now
FROM tickets.events e
LEFT JOIN tickets.gates g ON g.event_id = e.id
LEFT JOIN tickets.tiers t ON t.event_id = e.id
LEFT JOIN tickets.stock s ON s.tier_id = t.id
WHERE e.id = $1 AND e.status <> 'draft'

-- name: availability
-- Every tier of an event with its counters, in one snapshot: available = capacity - held - sold.
SELECT e.status, t.id AS tier_id, t.name, t.price_amount, t.currency, s.capacity, s.held, s.sold, s.state,
       s.opens_at, s.closes_at, s.opens_at <= clock_timestamp() AS has_opened, s.closes_at <= clock_timestamp() AS has_closed,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text AS as_of
FROM tickets.events e LEFT JOIN (tickets.tiers t JOIN tickets.stock s ON s.tier_id = t.id) ON t.event_id = e.id
WHERE e.id = $1 AND e.status <> 'draft' ORDER BY t.position, t.id
