-- A gate knows which node it was loaded into, and until when it is kept warm.
-- Rollout: pre.

ALTER TABLE tickets.gates ADD COLUMN node text NOT NULL DEFAULT '', ADD COLUMN warm_until timestamptz;
COMMENT ON COLUMN tickets.gates.node IS
    'The cluster''s name for the node that the present content was loaded into; empty where there is one server, or none.';
COMMENT ON COLUMN tickets.gates.warm_until IS 'Until then every server process keeps ready for its sale; NULL: not asked for.';

-- What is to be kept warm is looked for every second, in every server process.
CREATE INDEX gates_warm ON tickets.gates (warm_until) WHERE warm_until IS NOT NULL;
CREATE INDEX stock_opens ON tickets.stock (opens_at);
