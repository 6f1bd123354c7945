-- What is gone of a stream, and what may go.  State rows are inserted and never updated: one for each delete, undelete and
-- truncation, the newest of a stream is its state, and an older one says how it was at an earlier position.  Their
-- positions are allocated like those of events, with the stream locked (stream_state.c).
CREATE TABLE evtstore_internal.stream_state (
    position bigint PRIMARY KEY,
    stream_id bigint NOT NULL,
    truncate_before bigint NOT NULL CHECK (truncate_before > 0),
    recorded_at timestamptz NOT NULL,
    status text COLLATE "C" NOT NULL CHECK (status IN ('live', 'deleted', 'tombstoned'))
);
COMMENT ON TABLE evtstore_internal.stream_state IS 'deletions, undeletions and truncations of streams; a stream without a row is live and whole';
COMMENT ON COLUMN evtstore_internal.stream_state.truncate_before IS
    'events of a lower version are gone; never lower than in an earlier row of the stream, so that each row by itself allows their removal';
CREATE INDEX stream_state_stream_idx ON evtstore_internal.stream_state (stream_id, position);

-- What streams keep (stream_policy.c).  A stream's own policy wins over its category's, key by key.
CREATE TABLE evtstore_internal.policy (
    tenant text COLLATE "C",
    kind text COLLATE "C" CHECK (kind IN ('category', 'stream')),
    name text COLLATE "C",
    max_age_ms bigint CHECK (max_age_ms > 0),
    max_count bigint CHECK (max_count > 0),
    truncate_before bigint CHECK (truncate_before > 0),
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, name)
);
COMMENT ON TABLE evtstore_internal.policy IS 'what streams and the streams of categories keep; NULL: no limit';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.stream_state', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.policy', '');
