-- name: activity
-- Orders that were ever written here, and how old the oldest state change is that some consumer has not seen.
SELECT (SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'orders.orders'::regclass) AS orders,
       (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(o.occurred_at)), 0)::float8
        FROM outbox.consumers c CROSS JOIN LATERAL (
            SELECT e.occurred_at FROM outbox.events e WHERE (e.xid, e.id) > (c.xid, c.id) ORDER BY e.xid, e.id LIMIT 1
        ) AS o) AS outbox_age_seconds

-- name: moment
-- The time, where the log ends and how large the database is, both in bytes.
SELECT clock_timestamp() AS at, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal,
       pg_database_size(current_database()) AS size

-- name: bought
-- Purchases that were confirmed from $1 to before $2. Walks the orders from end to end: not for a rush.
SELECT count(*) FROM orders.orders WHERE status = 'confirmed' AND ended_at >= $1 AND ended_at < $2
