-- name: bury
-- Puts an event with the dead letters of a consumer; one that was there, and failed again, stays.
INSERT INTO outbox.dead_letters (consumer, event_id, xid, number, kind, subject, version, scope, occurred_at, content, reason)
VALUES ($1, $2, $3::text::xid8, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (consumer, event_id) DO UPDATE SET reason = excluded.reason, wanted_at = NULL

-- name: count
-- How many dead letters there are, for each consumer, and how many of them are on their way back to it.
SELECT consumer, count(*)::int AS letters, count(wanted_at)::int AS wanted, min(reason) AS reason
FROM outbox.dead_letters WHERE $1::text IS NULL OR consumer = $1 GROUP BY consumer ORDER BY consumer

-- name: want
-- Asks for the dead letters of one consumer, or of all, to be handed over again.
UPDATE outbox.dead_letters SET wanted_at = clock_timestamp() WHERE $1::text IS NULL OR consumer = $1

-- name: wanted
-- The next dead letter that a consumer shall have again. Whoever takes it has it for a minute.
UPDATE outbox.dead_letters d SET wanted_at = clock_timestamp() + interval '1 minute'
WHERE (d.consumer, d.event_id) = (
    SELECT w.consumer, w.event_id FROM outbox.dead_letters w
    WHERE w.consumer = $1 AND w.wanted_at <= clock_timestamp()
    ORDER BY w.xid, w.number, w.event_id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING d.event_id, d.xid::text AS xid, d.number, d.kind, d.subject, d.version, d.scope, d.occurred_at, d.content

-- name: handled
DELETE FROM outbox.dead_letters WHERE consumer = $1 AND event_id = $2

-- name: failed_again
UPDATE outbox.dead_letters SET wanted_at = NULL, reason = $3, tries = tries + 1 WHERE consumer = $1 AND event_id = $2
