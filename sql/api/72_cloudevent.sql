CREATE OR REPLACE FUNCTION evtstore.to_cloudevent(event evtstore.event)
RETURNS jsonb
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'evtstore_to_cloudevent';
COMMENT ON FUNCTION evtstore.to_cloudevent IS
'The event as a CloudEvent 1.0 in JSON, as deliveries in format structured have it; source is that of the database. What came by
evtstore.append_cloudevent() comes out as it came.';

CREATE OR REPLACE FUNCTION evtstore.append_cloudevent(
    cloudevent jsonb, stream text DEFAULT NULL, expected_version bigint DEFAULT NULL)
RETURNS SETOF evtstore.append_result ROWS 1
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_append_cloudevent';
COMMENT ON FUNCTION evtstore.append_cloudevent IS
'Appends a CloudEvent 1.0 in JSON to the stream, or to that which its subject names. An id that is no uuid becomes one, which source and id decide, so
that the same CloudEvent again is a duplicate. What the event does not say by itself is kept in the metadata, under "cloudevent". Errors as
evtstore.append; 22004 no specversion, id, source, type or subject, 22023.';
