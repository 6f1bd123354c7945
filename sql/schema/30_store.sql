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
    -- the name first: the views look for it without a tenant, or with one that the planner does not know
    UNIQUE (name, tenant)
);
COMMENT ON TABLE evtstore_internal.stream IS
    'one row per stream, written once: no append updates it, so that a hot stream does not bloat under a held snapshot';

CREATE INDEX stream_category_idx ON evtstore_internal.stream (category, id);

CREATE TABLE evtstore_internal.event (
    position bigint PRIMARY KEY,
    stream_id bigint,
    version bigint,
    category_hash int,
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
    'hash of tenant and category (stream.c, stable over versions and machines); readers recheck the name; NULL without a stream';
-- events without a stream (append_if) are in neither of the two partial ones
CREATE UNIQUE INDEX event_stream_version_key ON evtstore_internal.event (stream_id, version) WHERE stream_id IS NOT NULL;
CREATE UNIQUE INDEX event_id_key ON evtstore_internal.event (id, tenant);
CREATE INDEX event_category_idx ON evtstore_internal.event (category_hash, position) WHERE category_hash IS NOT NULL;
CREATE INDEX event_type_idx ON evtstore_internal.event (type, position);

-- The postings of tags (tag.c, search.c): hashes, so that rows and entries are short; who finds a position looks at the event.
CREATE TABLE evtstore_internal.event_tag (
    tag_hash bigint,
    position bigint,
    pair_hash bigint NOT NULL,
    PRIMARY KEY (tag_hash, position)
);
COMMENT ON TABLE evtstore_internal.event_tag IS 'one row per event and tag; written with the event, removed with it';
COMMENT ON COLUMN evtstore_internal.event_tag.tag_hash IS 'hash of tenant and tag; events of a tenant have one of the tenant alone as well';
COMMENT ON COLUMN evtstore_internal.event_tag.pair_hash IS 'hash of tenant, tag and type of the event';
CREATE INDEX event_tag_pair_idx ON evtstore_internal.event_tag (pair_hash, position);

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
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.event_tag', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.head', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.closing', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.identity', '');
