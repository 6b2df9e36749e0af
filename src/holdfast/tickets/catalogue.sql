-- The catalogue: events with their tiers. An event's row is locked before its tiers' stock, and the stock in the one
-- order that everyone keeps (tickets.lock_stock).

-- name: published
-- One page of published events after ($1, $2), starting from $3 on and before $4; every pattern of $5 fits the event and
-- every one of $6 its venue.
SELECT e.id, e.name, e.venue_name, e.venue_address, e.url, e.starts_at, e.ends_at, e.time_zone, e.status,
       e.hold_seconds, e.tickets_per_user_max, e.version, e.created_at, e.updated_at
FROM tickets.events e
WHERE e.status = 'published' AND (e.starts_at, e.id) > ($1, $2) AND e.starts_at >= $3 AND e.starts_at < $4
  AND e.search_text LIKE ALL (ARRAY(SELECT lower(p) FROM unnest($5::text[]) AS p))
  AND lower(e.venue_name || ' ' || e.venue_address) LIKE ALL (ARRAY(SELECT lower(p) FROM unnest($6::text[]) AS p))
ORDER BY e.starts_at, e.id LIMIT $7

-- name: of_organiser
-- One page of an organiser's events, drafts too, after ($2, $3).
SELECT e.id, e.organiser_id, e.name, e.venue_name, e.venue_address, e.url, e.starts_at, e.ends_at, e.time_zone, e.status,
       e.hold_seconds, e.tickets_per_user_max, e.version, e.created_at, e.updated_at
FROM tickets.events e
WHERE e.organiser_id = $1 AND (e.starts_at, e.id) > ($2, $3)
ORDER BY e.starts_at, e.id LIMIT $4

-- name: all_events
-- One page of all events after ($1, $2), with their tickets counted, for the command line.
SELECT e.id, e.name, e.venue_name, e.starts_at, e.time_zone, e.status, t.tiers, t.capacity, t.held, t.sold
FROM tickets.events e CROSS JOIN LATERAL (
    SELECT count(*) AS tiers, coalesce(sum(s.capacity), 0)::bigint AS capacity, coalesce(sum(s.held), 0)::bigint AS held,
           coalesce(sum(s.sold), 0)::bigint AS sold
    FROM tickets.stock s WHERE s.event_id = e.id
) AS t
WHERE (e.starts_at, e.id) > ($1, $2)
ORDER BY e.starts_at, e.id LIMIT $3

-- name: event
-- One event with everything about it.
SELECT e.* FROM tickets.events e WHERE e.id = $1

-- name: lock_event
-- The event, if this organiser may change it ($2: an administrator may change every one), locked until the end.
SELECT e.* FROM tickets.events e WHERE e.id = $1 AND ($2 OR e.organiser_id = $3) FOR NO KEY UPDATE

-- name: tiers
-- The tiers of an event with their stock, in their order; bounds of the sale that there are not are NULL.
SELECT t.id, t.name, t.position, t.price_amount, t.currency, t.imported, s.capacity, s.held, s.sold, s.state,
       CASE WHEN isfinite(s.opens_at) THEN s.opens_at END AS opens_at,
       CASE WHEN isfinite(s.closes_at) THEN s.closes_at END AS closes_at
FROM tickets.tiers t JOIN tickets.stock s ON s.tier_id = t.id
WHERE t.event_id = $1 ORDER BY t.position, t.id

-- name: insert_events
-- New events, given as arrays. One whose source_key is there already is left out; answers those that were made.
INSERT INTO tickets.events (id, organiser_id, status, source_key, source_digest, name, description, venue_name,
                            venue_address, url, starts_at, ends_at, time_zone, hold_seconds, tickets_per_user_max)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[],
                     $9::text[], $10::text[], $11::timestamptz[], $12::timestamptz[], $13::text[], $14::integer[],
                     $15::integer[])
ON CONFLICT ON CONSTRAINT events_source_unique DO NOTHING RETURNING id

-- name: insert_tiers
-- New tiers, given as arrays, each with its stock. Those without a position come after the ones that are there.
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::integer[], $7::timestamptz[],
                         $8::timestamptz[], $9::text[], $10::boolean[]) WITH ORDINALITY
        AS g (id, event_id, name, price_amount, currency, capacity, opens_at, closes_at, state, imported, ordinal)
), last AS (
    SELECT t.event_id, max(t.position) AS position FROM tickets.tiers t
    WHERE t.event_id = ANY ($2::uuid[]) GROUP BY t.event_id
), made AS (
    INSERT INTO tickets.tiers (id, event_id, name, position, price_amount, currency, imported)
    SELECT g.id, g.event_id, g.name, coalesce(l.position, 0) + g.ordinal, g.price_amount, g.currency, g.imported
    FROM given g LEFT JOIN last l USING (event_id)
)
INSERT INTO tickets.stock (tier_id, event_id, capacity, opens_at, closes_at, state)
SELECT g.id, g.event_id, g.capacity, coalesce(g.opens_at, '-infinity'), coalesce(g.closes_at, 'infinity'), g.state
FROM given g

-- name: update_event
-- Writes an event's fields; answers its new version.
UPDATE tickets.events e
SET name = $2, description = $3, venue_name = $4, venue_address = $5, url = $6, starts_at = $7, ends_at = $8,
    time_zone = $9, hold_seconds = $10, tickets_per_user_max = $11, version = e.version + 1,
    updated_at = clock_timestamp()
WHERE e.id = $1 RETURNING e.version

-- name: set_status
-- Publishes or cancels an event; answers its new version.
UPDATE tickets.events e SET status = $2, version = e.version + 1, updated_at = clock_timestamp()
WHERE e.id = $1 RETURNING e.version

-- name: touch_event
-- Gives an event whose tiers changed its new version.
UPDATE tickets.events e SET version = e.version + 1, updated_at = clock_timestamp() WHERE e.id = $1 RETURNING e.version

-- name: lock_stock
-- Locks the stock of an event's tiers.
SELECT tickets.lock_stock(ARRAY(SELECT s.tier_id FROM tickets.stock s WHERE s.event_id = $1))

-- name: open_tiers
-- Puts the tiers of an event on sale that its publication had to wait for.
UPDATE tickets.stock s SET state = 'open' WHERE s.event_id = $1 AND s.state = 'draft'

-- name: cancel_tiers
-- Ends the sale of an event for good.
UPDATE tickets.stock s SET state = 'cancelled' WHERE s.event_id = $1

-- name: update_tier
-- Writes what is shown of a tier.
UPDATE tickets.tiers t SET name = $2, price_amount = $3, currency = $4, imported = $5 WHERE t.id = $1

-- name: update_stock
-- Writes what decides a tier's sale. The CHECK refuses a capacity below what is held and sold.
UPDATE tickets.stock s
SET capacity = $2, opens_at = coalesce($3, '-infinity'::timestamptz), closes_at = coalesce($4, 'infinity'::timestamptz),
    state = $5
WHERE s.tier_id = $1

-- name: pause_tiers
-- Pauses the sale of these tiers.
UPDATE tickets.stock s SET state = 'paused' WHERE s.tier_id = ANY ($1::uuid[]) AND s.state = 'open'

-- name: delete_tier
-- Takes a tier of a draft away; its stock goes with it.
DELETE FROM tickets.tiers t WHERE t.id = $1

-- name: open_gates
-- Makes sure that the gate can be loaded with these events.
INSERT INTO tickets.gates (event_id, epoch) SELECT g, 0 FROM unnest($1::uuid[]) AS g ON CONFLICT DO NOTHING

-- name: tell
-- One outbox row for each of these events, of its present version.
INSERT INTO outbox.events (kind, subject, version, scope)
SELECT $1, e.id, e.version, e.id FROM tickets.events e WHERE e.id = ANY ($2::uuid[])

-- name: house_organiser
-- The organiser of imported events, whom the auth service's function makes where there is none yet.
SELECT auth.house_organiser()

-- name: lock_import
-- One import at a time writes the events of an organiser.
SELECT pg_advisory_xact_lock(hashtextextended('holdfast import ' || $1::text, 0))

-- name: imported
-- The events that an organiser imported under these keys.
SELECT e.id, e.source_key, e.source_digest, e.name, e.starts_at, e.starts_at <= clock_timestamp() AS has_begun
FROM tickets.events e
WHERE e.source_key = ANY ($1::text[])

-- name: set_digest
-- Remembers what was imported; NULL where it could not be written in full, so that the next import tries again.
UPDATE tickets.events e SET source_digest = $2 WHERE e.id = $1
