-- Sales per tier and minute, and the letters that tell buyers of their orders.
-- Rollout: pre. The release before writes the outbox rows that are read here, and knows nothing of these tables. From this
-- revision on, rows stay in the outbox until the consumer `stats` has passed them: its worker has to come soon after.

CREATE SCHEMA stats;
CREATE SCHEMA notify;

----------------------------------------------------------------------------------------------------------------- stats

CREATE TABLE stats.sales (
    event_id  uuid NOT NULL,
    minute    timestamptz NOT NULL,
    tier_id   uuid NOT NULL,
    currency  text NOT NULL,
    held      bigint NOT NULL,
    released  bigint NOT NULL,
    sold      bigint NOT NULL,
    sold_late bigint NOT NULL,
    revenue   bigint NOT NULL,
    PRIMARY KEY (event_id, minute, tier_id, currency),
    CONSTRAINT sales_late_are_sold CHECK (sold_late <= sold)
) WITH (fillfactor = 50);
-- Minutes are begun in the order of time: a summary for each range of blocks finds the old ones.
CREATE INDEX sales_age ON stats.sales USING brin (minute);
COMMENT ON TABLE stats.sales IS
    'What became of tickets in each minute: held by an order, released (cancelled or expired), sold. Over all minutes, '
    'held - released - (sold - sold_late) is what is held now, and sold what is sold.';
COMMENT ON COLUMN stats.sales.currency IS 'The orders'' own: a tier''s may be changed, and money of two is never added up.';
COMMENT ON COLUMN stats.sales.sold_late IS
    'Of sold: by a payment that came after the hold had ended, whose tickets were released before.';
COMMENT ON COLUMN stats.sales.revenue IS 'Minor units.';

-- What happened before this revision is counted at once from the orders themselves, in one snapshot; the consumer leaves
-- out what is visible in it. Where there were no orders there is no such row.
CREATE TABLE stats.begun_with (snapshot pg_snapshot NOT NULL);
COMMENT ON TABLE stats.begun_with IS 'The snapshot in which the orders of the release before were counted.';

WITH begun AS (
    INSERT INTO stats.begun_with SELECT pg_current_snapshot() WHERE EXISTS (SELECT FROM orders.orders)
), lines AS (
    SELECT o.event_id, o.currency, l.tier_id, l.quantity, l.quantity * l.unit_price AS amount, o.status,
           o.created_at, o.expires_at, o.ended_at, o.status = 'confirmed' AND o.version > 2 AS is_late
    FROM orders.orders o, unnest(o.tier_ids, o.quantities, o.unit_prices) AS l (tier_id, quantity, unit_price)
), moves AS (
    SELECT l.event_id, l.created_at AS at, l.tier_id, l.currency, l.quantity AS held, 0 AS released, 0 AS sold,
           0 AS sold_late, 0 AS revenue
    FROM lines l
    UNION ALL
    -- When a hold ended that was paid for late is no longer known; about when it was over.
    SELECT l.event_id, CASE WHEN l.is_late THEN l.expires_at ELSE l.ended_at END, l.tier_id, l.currency, 0, l.quantity,
           0, 0, 0
    FROM lines l WHERE l.status IN ('cancelled', 'expired') OR l.is_late
    UNION ALL
    SELECT l.event_id, l.ended_at, l.tier_id, l.currency, 0, 0, l.quantity,
           CASE WHEN l.is_late THEN l.quantity ELSE 0 END, l.amount
    FROM lines l WHERE l.status IN ('confirmed', 'refunded')
)
INSERT INTO stats.sales (event_id, minute, tier_id, currency, held, released, sold, sold_late, revenue)
SELECT m.event_id, date_bin('1 minute', m.at, 'epoch'), m.tier_id, m.currency, sum(m.held), sum(m.released), sum(m.sold),
       sum(m.sold_late), sum(m.revenue)
FROM moves m GROUP BY 1, 2, 3, 4;

-- Counts a batch of state changes of orders, each exactly once: whoever calls it commits in the same transaction how far
-- it has come. An order's lines never change, so they are read where they stand. A confirmation of a version beyond the
-- second is a late payment's, whose hold was released before. Rows are locked in the order of their keys.
CREATE FUNCTION stats.record(
    p_xids xid8[], p_kinds text[], p_orders uuid[], p_versions integer[], p_moments timestamptz[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stats.sales AS s (event_id, minute, tier_id, currency, held, released, sold, sold_late, revenue)
    SELECT o.event_id, date_bin('1 minute', a.moment, 'epoch'), l.tier_id, o.currency,
           coalesce(sum(l.quantity) FILTER (WHERE a.kind = 'order.reserved'), 0),
           coalesce(sum(l.quantity) FILTER (WHERE a.kind IN ('order.cancelled', 'order.expired')), 0),
           coalesce(sum(l.quantity) FILTER (WHERE a.kind = 'order.confirmed'), 0),
           coalesce(sum(l.quantity) FILTER (WHERE a.kind = 'order.confirmed' AND a.version > 2), 0),
           coalesce(sum(l.quantity * l.unit_price) FILTER (WHERE a.kind = 'order.confirmed'), 0)
    FROM unnest(p_xids, p_kinds, p_orders, p_versions, p_moments) AS a (xid, kind, order_id, version, moment)
    JOIN orders.orders o ON o.id = a.order_id,
    LATERAL unnest(o.tier_ids, o.quantities, o.unit_prices) AS l (tier_id, quantity, unit_price)
    WHERE a.kind IN ('order.reserved', 'order.cancelled', 'order.expired', 'order.confirmed')
      AND NOT EXISTS (SELECT FROM stats.begun_with b WHERE pg_visible_in_snapshot(a.xid, b.snapshot))
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (event_id, minute, tier_id, currency) DO UPDATE
    SET held = s.held + excluded.held, released = s.released + excluded.released, sold = s.sold + excluded.sold,
        sold_late = s.sold_late + excluded.sold_late, revenue = s.revenue + excluded.revenue;
END $$;

-- Counts what stands in the outbox after the place that the consumer `stats` has come to, at most p_limit rows, and notes
-- how far it has come: how many rows were looked at. The rows need not leave PostgreSQL for that. Only rows below the
-- snapshot's xmin, among which none can appear any more. Whoever else is at it, or reads as this consumer, goes first.
CREATE FUNCTION stats.record_outbox(p_limit integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    at outbox.consumers;
    page record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('holdfast consumer stats', 0)) THEN
        RETURN 0;
    END IF;
    SELECT c.* INTO at FROM outbox.consumers c WHERE c.name = 'stats' FOR UPDATE;
    SELECT array_agg(e.xid) AS xids, array_agg(e.id) AS ids, array_agg(e.kind) AS kinds, array_agg(e.subject) AS subjects,
           array_agg(e.version) AS versions, array_agg(e.occurred_at) AS moments, count(*)::integer AS looked_at
    INTO page FROM (
        SELECT e.* FROM outbox.events e
        WHERE (e.xid, e.id) > (at.xid, at.id) AND e.xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY e.xid, e.id LIMIT p_limit
    ) AS e;
    IF page.looked_at > 0 THEN
        PERFORM stats.record(page.xids, page.kinds, page.subjects, page.versions, page.moments);
        UPDATE outbox.consumers c SET xid = page.xids[page.looked_at], id = page.ids[page.looked_at]
        WHERE c.name = 'stats';
    END IF;
    RETURN page.looked_at;
END $$;

-- Nothing may be deleted that has not been counted.
INSERT INTO outbox.consumers (name) VALUES ('stats');

---------------------------------------------------------------------------------------------------------------- notify

CREATE TABLE notify.letters (
    order_id    uuid NOT NULL,
    kind        text NOT NULL CONSTRAINT letters_kind_known CHECK (kind IN ('order.confirmed', 'event.cancelled')),
    origin      text NOT NULL,
    occurred_at timestamptz NOT NULL,
    due_at      timestamptz DEFAULT clock_timestamp(),
    tries       integer NOT NULL DEFAULT 0,
    outcome     text CONSTRAINT letters_outcome_known CHECK (outcome IN ('sent', 'refused', 'given_up', 'dropped')),
    reply_code  integer,
    ended_at    timestamptz,
    PRIMARY KEY (order_id, kind),
    CONSTRAINT letters_end_once CHECK ((outcome IS NULL) = (due_at IS NOT NULL) AND (outcome IS NULL) = (ended_at IS NULL))
) WITH (fillfactor = 70);
CREATE INDEX letters_due ON notify.letters (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX letters_age ON notify.letters USING brin (ended_at);
COMMENT ON TABLE notify.letters IS
    'Who is to be written to, and was: one letter per order and occasion. Addresses and texts are not in here.';
COMMENT ON COLUMN notify.letters.origin IS 'The id of the outbox event that asked for it: its Message-ID is made of this.';
COMMENT ON COLUMN notify.letters.due_at IS 'When it is to be tried next: of one that is being sent, when it is tried again.';
COMMENT ON COLUMN notify.letters.reply_code IS 'What the mail server answered to the last try, if it refused.';

CREATE TABLE notify.announcements (
    event_id    uuid PRIMARY KEY,
    origin      text NOT NULL,
    occurred_at timestamptz NOT NULL,
    after_user  uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
);
COMMENT ON TABLE notify.announcements IS
    'Cancelled events whose buyers are still being written to, in the order of their ids, and how far that has come.';

-- Notes the letters that a batch of state changes asks for. Each only once, however often it comes; but one that failed is
-- due again when what asked for it is handed over again.
CREATE FUNCTION notify.record(
    p_origins text[], p_kinds text[], p_subjects uuid[], p_events uuid[], p_moments timestamptz[]
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO notify.letters (order_id, kind, origin, occurred_at)
    SELECT DISTINCT ON (a.subject) a.subject, a.kind, a.origin, a.moment
    FROM unnest(p_origins, p_kinds, p_subjects, p_moments) AS a (origin, kind, subject, moment)
    WHERE a.kind = 'order.confirmed' ORDER BY a.subject, a.moment
    ON CONFLICT (order_id, kind) DO UPDATE
    SET due_at = clock_timestamp(), tries = 0, outcome = NULL, reply_code = NULL, ended_at = NULL
    WHERE letters.outcome IN ('refused', 'given_up');
    INSERT INTO notify.announcements (event_id, origin, occurred_at)
    SELECT DISTINCT ON (a.event_id) a.event_id, a.origin, a.moment
    FROM unnest(p_origins, p_kinds, p_events, p_moments) AS a (origin, kind, event_id, moment)
    WHERE a.kind = 'event.cancelled' ORDER BY a.event_id, a.moment
    ON CONFLICT DO NOTHING
$$;

-- Writes letters to the next p_limit people with tickets of a cancelled event: to those who have bought, and to those
-- whose holds its cancelling has ended or will end. Answers how many people it looked at; 0 when there is nothing to do.
-- Two may run: each takes another event.
CREATE FUNCTION notify.announce(p_limit integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    under_way notify.announcements;
    users uuid[];
BEGIN
    SELECT a.* INTO under_way FROM notify.announcements a LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT array_agg(c.user_id ORDER BY c.user_id) INTO users FROM (
        SELECT c.user_id FROM orders.user_tickets c WHERE c.event_id = under_way.event_id AND c.user_id > under_way.after_user
        ORDER BY c.user_id LIMIT p_limit
    ) AS c;
    IF users IS NULL THEN
        DELETE FROM notify.announcements a WHERE a.event_id = under_way.event_id;
        RETURN 1;
    END IF;
    INSERT INTO notify.letters (order_id, kind, origin, occurred_at)
    SELECT o.id, 'event.cancelled', under_way.origin, under_way.occurred_at
    FROM unnest(users) AS u (id) JOIN orders.orders o ON o.user_id = u.id
    WHERE o.event_id = under_way.event_id
      AND (o.status IN ('reserved', 'confirmed') OR o.status = 'cancelled' AND o.ended_at >= under_way.occurred_at)
    ON CONFLICT (order_id, kind) DO UPDATE
    SET due_at = clock_timestamp(), tries = 0, outcome = NULL, reply_code = NULL, ended_at = NULL
    WHERE letters.outcome IN ('refused', 'given_up');
    UPDATE notify.announcements a SET after_user = users[cardinality(users)] WHERE a.event_id = under_way.event_id;
    RETURN cardinality(users);
END $$;
