-- How far the consumers of a log have come; what could not be handled.
-- Rollout: pre.

CREATE TABLE outbox.positions (
    consumer    text,
    topic       text,
    partition   integer,
    next_offset bigint NOT NULL DEFAULT 0,
    xid         xid8 NOT NULL DEFAULT '0',
    number      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON TABLE outbox.positions IS
    'How far a consumer has come in each partition of a log, written in the transaction of its effect. What is at or '
    'before (xid, number) in a partition was handled already, however often it is published: the first time that each '
    'event stands in a partition, it stands in order.';
COMMENT ON COLUMN outbox.positions.partition IS
    '-1: what the consumer had read of the outbox itself before it read a log; a partition begins with that.';

CREATE TABLE outbox.dead_letters (
    consumer    text,
    event_id    text,
    xid         xid8,
    number      bigint,
    kind        text,
    subject     uuid,
    version     integer,
    scope       uuid,
    occurred_at timestamptz,
    content     bytea,
    reason      text NOT NULL,
    tries       integer NOT NULL DEFAULT 1,
    buried_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    wanted_at   timestamptz,
    PRIMARY KEY (consumer, event_id),
    CONSTRAINT dead_letters_row_or_content CHECK (content IS NOT NULL OR xid IS NOT NULL AND number IS NOT NULL
        AND kind IS NOT NULL AND subject IS NOT NULL AND version IS NOT NULL AND scope IS NOT NULL
        AND occurred_at IS NOT NULL)
);
COMMENT ON TABLE outbox.dead_letters IS
    'What a consumer could not handle, written in the transaction in which it was passed over: either it is here, or it '
    'took effect. It goes when it is handled after all.';
COMMENT ON COLUMN outbox.dead_letters.content IS 'What stood in the log where it could not be read; no row then.';
COMMENT ON COLUMN outbox.dead_letters.wanted_at IS 'Since when it is to be handed over again; NULL: nobody asked for it.';
CREATE INDEX dead_letters_wanted ON outbox.dead_letters (consumer) WHERE wanted_at IS NOT NULL;
