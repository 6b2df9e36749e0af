-- name: record
-- Counts a batch of state changes of orders: $1 their transactions, $2 kinds, $3 orders, $4 versions, $5 moments.
SELECT stats.record($1::text[]::xid8[], $2::text[], $3::uuid[], $4::integer[], $5::timestamptz[])

-- name: record_outbox
-- Counts the next $1 rows of the outbox at most: how many there were.
SELECT stats.record_outbox($1)

-- name: may_see
-- Whether $3 organises the event $1, or is an administrator ($2).
SELECT EXISTS (SELECT FROM tickets.events e WHERE e.id = $1 AND ($2 OR e.organiser_id = $3))

-- name: minutes
-- Sales of the event $1 in the minutes from $2 to before $3, after the row $4, $5, $6, at most $7.
SELECT s.minute, s.tier_id, s.currency, s.held, s.released, s.sold, s.sold_late, s.revenue FROM stats.sales s
WHERE s.event_id = $1 AND s.minute >= $2 AND s.minute < $3 AND (s.minute, s.tier_id, s.currency) > ($4, $5, $6)
ORDER BY s.minute, s.tier_id, s.currency LIMIT $7

-- name: totals
-- Sales of each tier of the event $1 in the minutes from $2 to before $3.
SELECT s.tier_id, s.currency, sum(s.held)::bigint AS held, sum(s.released)::bigint AS released,
       sum(s.sold)::bigint AS sold, sum(s.sold_late)::bigint AS sold_late, sum(s.revenue) AS revenue
FROM stats.sales s WHERE s.event_id = $1 AND s.minute >= $2 AND s.minute < $3
GROUP BY s.tier_id, s.currency ORDER BY s.tier_id, s.currency

-- name: forget
-- Minutes older than $1 days, at most $2.
DELETE FROM stats.sales s USING (
    SELECT event_id, minute, tier_id, currency FROM stats.sales
    WHERE minute < now() - make_interval(days => $1) LIMIT $2) AS old
WHERE (s.event_id, s.minute, s.tier_id, s.currency) = (old.event_id, old.minute, old.tier_id, old.currency)
