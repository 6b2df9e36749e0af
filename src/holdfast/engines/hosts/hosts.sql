-- name: sight
-- What a host is, and how far it has come: a primary with what it has made safe on its disk, which is at least whatever
-- it has acknowledged; a replica with what it has replayed. Positions in bytes since the beginning of the log.
SELECT NOT r.is_replica AS is_primary,
       CASE WHEN r.is_replica THEN 0
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer END AS timeline,
       (coalesce(CASE WHEN r.is_replica THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, '0/0')
        - '0/0'::pg_lsn)::bigint AS position
FROM pg_is_in_recovery() AS r (is_replica)

-- name: position
-- How far the primary's log reaches. Fails on a replica.
SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint

-- name: replayed
-- How far a replica has replayed the log; null where the server is none, or none any more.
SELECT CASE WHEN pg_is_in_recovery()
            THEN (coalesce(pg_last_wal_replay_lsn(), '0/0'::pg_lsn) - '0/0'::pg_lsn)::bigint END
