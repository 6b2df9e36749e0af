-- What a service may do with the tables of another goes through functions.
-- Rollout: pre.

SELECT 1;
