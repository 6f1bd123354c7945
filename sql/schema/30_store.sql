-- Streams and events.  Written only by append.c through direct table access (no SPI), read by read.c and the views.
-- Fixed-width columns come first so that the offsets of most columns are known without walking the row.  Names compare
-- bytewise (COLLATE "C"): faster, and no index breaks when the C library changes its sort order.

CREATE SEQUENCE evtstore_internal.position_seq AS bigint CACHE 1;
COMMENT ON SEQUENCE evtstore_internal.position_seq IS
    'positions; allocated while the stream lock is held, so that their order is causal (feed.c); never alter it';
CREATE SEQUENCE evtstore_internal.stream_id_seq AS bigint CACHE 1;

CREATE TABLE evtstore_internal.stream (
    id bigint PRIMARY KEY,
    created_at timestamptz NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    category text COLLATE "C" NOT NULL,
    UNIQUE (tenant, name)
);
COMMENT ON TABLE evtstore_internal.stream IS
    'one row per stream, written once: no append updates it, so that a hot stream does not bloat under a held snapshot';

CREATE TABLE evtstore_internal.event (
    position bigint PRIMARY KEY,
    stream_id bigint,
    version bigint,
    category_hash int NOT NULL,
    schema_version int NOT NULL,
    id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    tags text[] NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL
);
COMMENT ON TABLE evtstore_internal.event IS 'the events; immutable below superuser (guard.c)';
COMMENT ON COLUMN evtstore_internal.event.category_hash IS
    'hash of tenant and category (stream.c, stable over versions and machines); readers recheck the name';
CREATE UNIQUE INDEX event_stream_version_key ON evtstore_internal.event (stream_id, version);
CREATE UNIQUE INDEX event_id_key ON evtstore_internal.event (id, tenant);
CREATE INDEX event_category_idx ON evtstore_internal.event (category_hash, position);

-- The ledger of clock and head, written by the scheduler (one row a second at most and only when the head moved).
-- REPEATABLE READ readers and hot standbys take their head from it: it covers what committed before it.  position_at begins
-- its search at a row; which rows there are does not change its answer (ledger.c), so all but the newest may go.
CREATE TABLE evtstore_internal.head (
    position bigint PRIMARY KEY,
    recorded_at timestamptz NOT NULL
);
COMMENT ON TABLE evtstore_internal.head IS 'ledger of stable heads: at recorded_at every position up to this one was decided';
CREATE INDEX head_recorded_at_idx ON evtstore_internal.head (recorded_at);

-- Written by position_at where an appender in flight could still commit below the moment asked for: what is above position
-- does not belong to any moment up to recorded_at, for ever.
CREATE TABLE evtstore_internal.closing (
    recorded_at timestamptz PRIMARY KEY,
    position bigint NOT NULL
);
COMMENT ON TABLE evtstore_internal.closing IS
    'ledger of answers that had to be settled: no moment up to recorded_at reaches above position (ledger.c)';

-- Who this store is.  A row is written by the first definition; a copy of the database finds a row that names another
-- place and delivers to nobody until evtstore.resume_delivery() (identity.c).
CREATE TABLE evtstore_internal.identity (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    system_identifier text NOT NULL,
    database_oid text NOT NULL,
    extension_oid text NOT NULL,
    location text NOT NULL,
    recorded_at timestamptz NOT NULL
);
COMMENT ON TABLE evtstore_internal.identity IS 'the place that this store delivers from; text, because a dump carries it elsewhere';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.position_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.stream_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.stream', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.event', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.head', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.closing', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.identity', '');
