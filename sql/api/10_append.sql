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

CREATE OR REPLACE FUNCTION evtstore.append_streams(appends jsonb)
RETURNS SETOF evtstore.append_result
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_append_streams';
COMMENT ON FUNCTION evtstore.append_streams IS
'Appends to several streams, all or nothing: array of {"stream","events","expected_version"?,"require"?}, one row for each, in order.
With an empty array of events a stream is only checked. A stream may be named twice: the second part is checked against what the
first one leaves. Errors as evtstore.append_events.';

CREATE OR REPLACE FUNCTION evtstore.append_if(
    events jsonb, fail_if_events_match jsonb, after bigint DEFAULT NULL, stream text DEFAULT NULL)
RETURNS SETOF evtstore.append_result ROWS 1
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_append_if';
COMMENT ON FUNCTION evtstore.append_if IS
'Appends unless an event that matches the query exists above the position after (NULL: anywhere), own uncommitted ones included:
the append condition of dcb.events. query: {"items":[{"types":[...],"tags":[...]}]}, items OR, types OR, tags AND; {}: every event.
Without a stream the events have tags only and no version. Errors: ST003 with the first match in DETAIL, ST001 partly known, ST004.';
