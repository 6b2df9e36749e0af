-- name: activity
-- Orders that were ever written here, and how old the oldest state change is that some consumer has not seen.
SELECT (SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'orders.orders'::regclass) AS orders,
       (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(o.occurred_at)), 0)::float8
        FROM outbox.consumers c CROSS JOIN LATERAL (
            SELECT e.occurred_at FROM outbox.events e WHERE (e.xid, e.id) > (c.xid, c.id) ORDER BY e.xid, e.id LIMIT 1
        ) AS o) AS outbox_age_seconds
