-- name: places
-- How far a consumer ($1) has come in partitions ($2 topics, $3 partitions). One that it never read begins with what it
-- had read of the outbox itself.
INSERT INTO outbox.positions AS p (consumer, topic, partition, xid, number)
SELECT $1, a.topic, a.partition, coalesce(o.xid, '0'), coalesce(o.number, 0)
FROM unnest($2::text[], $3::integer[]) AS a (topic, partition)
LEFT JOIN outbox.positions o ON o.consumer = $1 AND o.topic = '' AND o.partition = -1
ORDER BY a.topic, a.partition
ON CONFLICT (consumer, topic, partition) DO UPDATE SET next_offset = p.next_offset
RETURNING p.topic, p.partition, p.next_offset, p.xid::text AS xid, p.number

-- name: move
-- Moves a consumer ($1) on in some partitions ($2, $3) from where it knows itself to be ($4, $5, $6) to the offsets $7,
-- with the events up to ($8, $9) handled. How many were moved: fewer where somebody else has moved them meanwhile.
WITH mine AS MATERIALIZED (
    SELECT p.topic, p.partition, m.next_offset, m.next_xid, m.next_number
    FROM unnest($2::text[], $3::integer[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[])
         AS m (topic, partition, at_offset, xid, number, next_offset, next_xid, next_number)
    JOIN outbox.positions p ON p.consumer = $1 AND p.topic = m.topic AND p.partition = m.partition
    WHERE (p.next_offset, p.xid, p.number) = (m.at_offset, m.xid::xid8, m.number)
    ORDER BY p.topic, p.partition FOR UPDATE OF p
)
UPDATE outbox.positions p SET next_offset = m.next_offset, xid = m.next_xid::xid8, number = m.next_number
FROM mine m WHERE p.consumer = $1 AND p.topic = m.topic AND p.partition = m.partition
