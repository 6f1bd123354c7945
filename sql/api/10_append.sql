CREATE OR REPLACE FUNCTION evtstore.append(
    stream text, type text, data jsonb, expected_version bigint DEFAULT NULL, metadata jsonb DEFAULT '{}',
    tags text[] DEFAULT '{}', id uuid DEFAULT NULL, schema_version int DEFAULT NULL,
    occurred_at timestamptz DEFAULT NULL, require text DEFAULT NULL)
RETURNS SETOF evtstore.append_result ROWS 1
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_append';
COMMENT ON FUNCTION evtstore.append IS
'Appends one event to a stream. expected_version: NULL any, n exactly n, 0 must not exist; require: ''exists'' or ''deleted''.
Errors: ST001 wrong version, ST004 same id with other content, 22004/22023 bad input.';

CREATE OR REPLACE FUNCTION evtstore.append_events(
    stream text, events jsonb, expected_version bigint DEFAULT NULL, require text DEFAULT NULL)
RETURNS SETOF evtstore.append_result ROWS 1
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_append_events';
COMMENT ON FUNCTION evtstore.append_events IS
'Appends a batch to one stream, all or nothing. events: array of {"type","data","metadata"?,"tags"?,"id"?,"schema_version"?,"occurred_at"?}.
An empty array writes nothing and returns the current version. Errors as evtstore.append; an unknown key is 22023.';
