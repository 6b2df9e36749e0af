-- Sales per tier and minute, and when an order was told of.
-- Rollout: pre.

SELECT 1;
