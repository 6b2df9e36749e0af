-- name: progress
SELECT xid::text AS xid, id FROM outbox.consumers WHERE name = $1

-- name: enter
-- A new reader: it begins with what is there; where lanes of a relay read until now, with what they have not published.
INSERT INTO outbox.consumers (name, xid, id)
SELECT $1, coalesce(l.xid, '0'), coalesce(l.id, 0)
FROM (SELECT 1) AS one LEFT JOIN (
    SELECT c.xid, c.id FROM outbox.consumers c WHERE c.name LIKE 'relay-_' ORDER BY c.xid, c.id LIMIT 1
) AS l ON true
ON CONFLICT DO NOTHING

-- name: readers
-- Who reads the outbox, in the hands of whoever changes that.
SELECT c.name FROM outbox.consumers c, pg_advisory_xact_lock(hashtextextended('holdfast readers', 0)) ORDER BY c.name

-- name: remember_origins
-- What these consumers ($1), who will read a log from now on, have read of the outbox itself.
INSERT INTO outbox.positions (consumer, topic, partition, xid, number)
SELECT c.name, '', -1, c.xid, c.id FROM outbox.consumers c WHERE c.name = ANY ($1::text[])
ON CONFLICT (consumer, topic, partition) DO UPDATE SET xid = excluded.xid, number = excluded.number

-- name: begin_with_origins
-- Where they read a log before: what they have read of the outbox since is not new to them either.
UPDATE outbox.positions p SET xid = o.xid, number = o.number
FROM outbox.positions o
WHERE o.consumer = p.consumer AND o.partition = -1 AND p.partition >= 0 AND p.consumer = ANY ($1::text[])
  AND (p.xid, p.number) < (o.xid, o.number)

-- name: enter_in_place
-- New readers ($1) begin where the first of those is who leave ($2).
INSERT INTO outbox.consumers (name, xid, id)
SELECT n, coalesce(l.xid, '0'), coalesce(l.id, 0)
FROM unnest($1::text[]) AS n LEFT JOIN (
    SELECT c.xid, c.id FROM outbox.consumers c WHERE c.name = ANY ($2::text[]) ORDER BY c.xid, c.id LIMIT 1
) AS l ON true
ON CONFLICT DO NOTHING

-- name: leave
DELETE FROM outbox.consumers WHERE name = ANY ($1::text[])

-- name: advance
-- Moves a reader ($1) on to ($2, $3) from where it knows itself to be ($4, $5): nothing is moved where somebody else has.
UPDATE outbox.consumers SET xid = $2::text::xid8, id = $3 WHERE name = $1 AND (xid, id) = ($4::text::xid8, $5)

-- name: prune
-- Deletes rows after the position $1, $2 that every reader has passed, at most $3: the position it came to.
SELECT xid::text AS xid, id, deleted FROM outbox.prune($1::text::xid8, $2, $3)

-- name: lock
SELECT pg_try_advisory_lock(hashtextextended('holdfast consumer ' || $1, 0))

-- name: end_silent
-- Ends the sessions with locks of these names ($1) in which nothing has begun or ended for $2 seconds. No time limit of
-- the session's own does that: one whose client stopped reading in the middle of an answer heeds none, except this.
SELECT a.pid, pg_terminate_backend(a.pid) FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.state_change < clock_timestamp() - make_interval(secs => $2)
      AND EXISTS (
          SELECT 1 FROM pg_locks l JOIN unnest($1::text[]) AS n (name)
          ON l.classid::bigint << 32 | l.objid::bigint = hashtextextended('holdfast consumer ' || n.name, 0)
          WHERE l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
      )

-- name: rows
-- What a consumer has not seen, in commit-safe order: below the snapshot's xmin no row can appear any more.
-- $1, $2: its progress; $3: how many rows to look at; $4: the kinds it acts on. The last row looked at always comes
-- along, so that progress is made over rows of other kinds too.
WITH page AS MATERIALIZED (
    SELECT e.xid, e.id, e.kind, e.subject, e.version, e.scope, e.occurred_at FROM outbox.events e
    WHERE (e.xid, e.id) > ($1::text::xid8, $2) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY e.xid, e.id LIMIT $3
), last AS (
    SELECT p.xid, p.id, count(*) OVER () AS looked_at FROM page p ORDER BY p.xid DESC, p.id DESC LIMIT 1
)
SELECT p.xid::text AS xid, p.id, p.kind, p.subject, p.version, p.scope, p.occurred_at, l.looked_at
FROM page p, last l WHERE p.kind = ANY ($4::text[]) OR (p.xid, p.id) = (l.xid, l.id)
ORDER BY p.xid, p.id
