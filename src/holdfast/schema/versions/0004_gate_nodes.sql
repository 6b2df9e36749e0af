-- A gate knows which node it was loaded into, and until when it is kept warm.
-- Rollout: pre.

SELECT 1;
