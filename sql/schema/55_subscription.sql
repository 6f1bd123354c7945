-- Subscriptions (subscription.c, poll.c, subscription_settle.c): what is settled, and what failed.  Who holds a lane is in
-- shared memory.
CREATE TABLE evtstore_internal.checkpoint (
    subscription_id int,
    lane int,
    seq bigint,
    position bigint NOT NULL,
    ranges bigint[] NOT NULL,
    PRIMARY KEY (subscription_id, lane, seq)
);
COMMENT ON TABLE evtstore_internal.checkpoint IS
    'what is settled in each lane; inserted and never updated, the row with the highest seq counts, the janitor removes the others';
COMMENT ON COLUMN evtstore_internal.checkpoint.lane IS 'its number, see lane_generation; -1: where the lanes begin that have no row of their own yet';
COMMENT ON COLUMN evtstore_internal.checkpoint.position IS 'everything at or below it is settled';
COMMENT ON COLUMN evtstore_internal.checkpoint.ranges IS
    'settled above it: from, to, from, to, ... in ascending order; each range without its beginning and with its end';

CREATE TABLE evtstore_internal.lane_generation (
    subscription_id int,
    first_lane int,
    lanes int NOT NULL,
    ends bigint[],
    PRIMARY KEY (subscription_id, first_lane)
);
COMMENT ON TABLE evtstore_internal.lane_generation IS
    'which lanes a subscription has: those of its present number of lanes, and those of former ones that are not emptied yet';
COMMENT ON COLUMN evtstore_internal.lane_generation.first_lane IS 'numbers go on over the generations; the key with hash h is in first_lane + h % lanes';
COMMENT ON COLUMN evtstore_internal.lane_generation.ends IS
    'an event above ends[1 + h % (length of ends)] belongs to the next generation; NULL: the newest one';

CREATE TABLE evtstore_internal.failed_event (
    subscription_id int,
    position bigint,
    epoch bigint,
    next_attempt_at timestamptz,
    failed_at timestamptz NOT NULL,
    attempt int NOT NULL DEFAULT 0,
    state text NOT NULL,
    key text COLLATE "C",
    tenant text COLLATE "C" NOT NULL,
    first_error text,
    last_error text,
    history jsonb,
    first_failed_at timestamptz,
    PRIMARY KEY (subscription_id, position)
);
COMMENT ON TABLE evtstore_internal.failed_event IS
    'events that failed and those that wait behind one of their key; settled for the checkpoint, removed when they are done';
COMMENT ON COLUMN evtstore_internal.failed_event.state IS
    'retry: handed out again from next_attempt_at on; blocked: a person decides; waiting: behind an older one of its key';
COMMENT ON COLUMN evtstore_internal.failed_event.tenant IS 'of the event: keys of two tenants have nothing to do with each other';
COMMENT ON COLUMN evtstore_internal.failed_event.epoch IS 'of the hold that it was handed out in and not settled since; NULL: none';
COMMENT ON COLUMN evtstore_internal.failed_event.first_failed_at IS 'what max_age of the retry policy counts from; NULL: it waits only';
COMMENT ON COLUMN evtstore_internal.failed_event.history IS 'failed attempts, the last 20: [{"attempt","at","error"}]; NULL: none';
-- the oldest one of each key that waits; without a key, each: by when they are due, the blocked ones behind them
CREATE INDEX failed_event_due_idx ON evtstore_internal.failed_event (subscription_id, next_attempt_at, position) WHERE state <> 'waiting';
CREATE INDEX failed_event_key_idx ON evtstore_internal.failed_event (subscription_id, tenant, key, position) WHERE key IS NOT NULL;

-- Keys that were given up (on_failure dead_letter_key): their later events are dead letters too, until one is redriven.
CREATE TABLE evtstore_internal.dead_key (
    subscription_id int,
    since timestamptz NOT NULL,
    tenant text COLLATE "C",
    key text COLLATE "C",
    error text NOT NULL,
    PRIMARY KEY (subscription_id, tenant, key)
);
COMMENT ON TABLE evtstore_internal.dead_key IS 'keys of subscriptions whose later events follow one that was given up to the dead letters';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.dead_key', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.lane_generation', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.failed_event', '');
