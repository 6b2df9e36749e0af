-- How far the consumers of a log have come; what was handed to one again.
-- Rollout: pre.

SELECT 1;
