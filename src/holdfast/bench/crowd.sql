-- name: end_sales
-- Takes events off sale. Their orders stay as they are, and nobody is told: the house is the bench's own.
UPDATE tickets.events SET status = 'cancelled', version = version + 1 WHERE id = ANY ($1::uuid[])
