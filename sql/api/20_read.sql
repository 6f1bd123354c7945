CREATE OR REPLACE FUNCTION evtstore_internal.read_support(internal) RETURNS internal
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_read_support';
COMMENT ON FUNCTION evtstore_internal.read_support IS 'tells the planner how many rows a read function returns';

CREATE OR REPLACE FUNCTION evtstore.read_stream(
    stream text, after_version bigint DEFAULT NULL, max_count bigint DEFAULT NULL, backwards boolean DEFAULT false,
    as_of timestamptz DEFAULT NULL)
RETURNS SETOF evtstore.event
LANGUAGE C VOLATILE PARALLEL UNSAFE SUPPORT evtstore_internal.read_support
AS 'MODULE_PATHNAME', 'evtstore_read_stream';
COMMENT ON FUNCTION evtstore.read_stream IS
'Events of one stream in order of version, the caller''s own uncommitted ones included. after_version is exclusive; backwards reads
strictly below it, from the end where NULL. An unknown stream has no events. as_of: what the stream had at a past moment, without
uncommitted events, the same for ever. Errors: 22023 a moment to come, ST012 events of that time are gone.';

CREATE OR REPLACE FUNCTION evtstore.read_category(
    category text, after_position bigint DEFAULT NULL, max_count bigint DEFAULT NULL, backwards boolean DEFAULT false)
RETURNS SETOF evtstore.event
LANGUAGE C VOLATILE PARALLEL UNSAFE SUPPORT evtstore_internal.read_support
AS 'MODULE_PATHNAME', 'evtstore_read_category';
COMMENT ON FUNCTION evtstore.read_category IS
'Events of all streams of a category (the text before the first ''-'' of a stream''s name) in order of position, never past the head.
An appender in flight holds it back only if it writes to this category, or to one of those that share its bit (1 of 64).';

CREATE OR REPLACE FUNCTION evtstore.read_all(
    after_position bigint DEFAULT NULL, max_count bigint DEFAULT NULL, backwards boolean DEFAULT false)
RETURNS SETOF evtstore.event
LANGUAGE C VOLATILE PARALLEL UNSAFE SUPPORT evtstore_internal.read_support
AS 'MODULE_PATHNAME', 'evtstore_read_all';
COMMENT ON FUNCTION evtstore.read_all IS
'Events of the store in order of position, never past the head: a position once passed is never filled later.';

CREATE OR REPLACE FUNCTION evtstore.read_query(
    query jsonb, after_position bigint DEFAULT NULL, max_count bigint DEFAULT NULL, backwards boolean DEFAULT false)
RETURNS SETOF evtstore.event
LANGUAGE C VOLATILE PARALLEL UNSAFE SUPPORT evtstore_internal.read_support
AS 'MODULE_PATHNAME', 'evtstore_read_query';
COMMENT ON FUNCTION evtstore.read_query IS
'Events that match {"items":[{"types":[...],"tags":[...]}]} (items OR, types OR, tags AND; {}: every event) in order of position, never
past the head: what append_if checks. Confined to the tenant of evtstore.tenant, also where that is empty.';

CREATE OR REPLACE FUNCTION evtstore.get_event(id uuid)
RETURNS evtstore.event
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_get_event';
COMMENT ON FUNCTION evtstore.get_event IS 'The event with this id; NULL when there is none.';

CREATE OR REPLACE FUNCTION evtstore.stream_version(stream text)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_stream_version';
COMMENT ON FUNCTION evtstore.stream_version IS 'The version of the last event of the stream, 0 for an unknown one.';
