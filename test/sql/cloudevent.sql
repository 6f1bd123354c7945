-- CloudEvents in and out: the round trip both ways, ids, data that is not JSON, and what is no CloudEvent.
CREATE FUNCTION pg_temp.attempt(statement text)
RETURNS TABLE (state text, message text, detail text, hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    state := 'ok';
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
    RETURN NEXT;
END
$$;
SET timezone = 'Asia/Kolkata';
SET datestyle = 'German';

-- an event of ours
SELECT count(*) FROM evtstore.append('order-1', 'Placed', '{"n": 9007199254740993, "t": "\"ü\\"}', schema_version => 3,
    id => '0192f0c1-2a5b-7c3d-8e4f-5a6b7c8d9e0f', occurred_at => '2001-02-03 04:05:06.5+02',
    metadata => '{"correlation_id": "c", "traceparent": "00-ab-cd-01", "colour": "red"}');
SELECT jsonb_pretty(evtstore.to_cloudevent(e) - 'source' - 'sequence' - 'recordedtime'), evtstore.to_cloudevent(e) ->> 'source' = '/evtstore/' || current_database() AS source,
    evtstore.to_cloudevent(e) ->> 'sequence' = lpad(e.position::text, 19, '0') AS sequence
FROM evtstore.read_stream('order-1') AS e;
SELECT evtstore.to_cloudevent(NULL) IS NULL AS none;
SELECT * FROM pg_temp.attempt($$SELECT evtstore.to_cloudevent(ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::evtstore.event)$$);
-- one without a stream, with times that RFC 3339 does not have
SELECT count(*) FROM evtstore.append_if('[{"type": "Noted", "data": null, "occurred_at": "infinity", "tags": ["t"]}]', '{"items": [{"tags": ["none"]}]}');
SELECT evtstore.to_cloudevent(e) - '{id,source,sequence,recordedtime}'::text[] AS bare FROM evtstore.read_all() AS e WHERE e.type = 'Noted';

-- another store's event: a copy, the same again is a duplicate, and it comes out as it came
CREATE TABLE theirs (n serial, ce jsonb);
INSERT INTO theirs (ce) VALUES
    ('{"specversion": "1.0", "id": "0192f0c1-2a5b-7c3d-8e4f-5a6b7c8d9e10", "source": "/evtstore/shop", "type": "Paid", "subject": "order-2",
       "time": "2026-01-31T14:00:00.000001Z", "datacontenttype": "application/json", "sequence": "0000000000000000042", "streamversion": 7,
       "schemaversion": 2, "partitionkey": "order-2", "recordedtime": "2026-01-31T14:00:01.000000Z", "correlationid": "c-1", "causationid": "c-0",
       "traceparent": "00-ab-cd-01", "tracestate": "x=1", "data": {"sum": 12.50, "big": 123456789012345678901234567890}}'),
    ('{"specversion": "1.0", "id": "A234-1234-1234", "source": "https://github.com/cloudevents/spec/pull", "type": "com.github.pull_request.opened",
       "subject": "123", "time": "2018-04-05T17:31:00.123456789+02:00", "comexampleextension1": "value", "comexampleothervalue": 5, "yes": true,
       "datacontenttype": "text/xml", "dataschema": "https://example.com/schema", "partitionkey": "elsewhere", "data": "<much wow=\"xml\"/>"}'),
    ('{"specversion": "1.0", "id": "0192F0C1-2A5B-7C3D-8E4F-5A6B7C8D9E11", "source": "urn:x", "type": "T", "subject": "bytes-1",
       "datacontenttype": "image/png", "data_base64": "iVBORw0KGgo="}'),
    ('{"specversion": "1.0", "id": "ü \"\u0001\\ 💥", "source": "urn:y?%20", "type": "T", "subject": "ü-1", "ext": "ü \"💥\" %41\n",
       "correlationid": 5, "schemaversion": "v2", "data": [1, {"a": null}]}'),
    ('{"specversion": "1.0", "id": "1", "source": "urn:y", "type": "T", "subject": "nothing-1", "ext": null}');
SELECT n, (r).stream, (r).version, (r).duplicate FROM theirs, LATERAL evtstore.append_cloudevent(ce) AS r ORDER BY n;
SELECT n, (r).stream, (r).version, (r).duplicate FROM theirs, LATERAL evtstore.append_cloudevent(ce) AS r ORDER BY n;
SELECT stream, id, type, schema_version, data, jsonb_pretty(metadata) AS metadata FROM evtstore.events WHERE metadata ? 'cloudevent' ORDER BY position;
SELECT stream, occurred_at AT TIME ZONE 'UTC' AS occurred_at FROM evtstore.events WHERE stream IN ('order-2', '123') ORDER BY position;
SELECT t.n, evtstore.to_cloudevent(e) @> (t.ce - 'ext') AS as_it_came, ARRAY(SELECT jsonb_object_keys(evtstore.to_cloudevent(e) - ARRAY(SELECT jsonb_object_keys(t.ce)))) AS added
FROM theirs t JOIN evtstore.read_all() e ON e.stream = t.ce ->> 'subject' ORDER BY t.n;
SELECT evtstore.to_cloudevent(e) -> 'ext' FROM evtstore.read_all() e WHERE stream = 'ü-1';
-- back in through another copy: nothing is lost on the second way
SELECT c.n, (r).duplicate
FROM (SELECT t.n, evtstore.to_cloudevent(e) AS ce FROM theirs t JOIN evtstore.read_all() e ON e.stream = t.ce ->> 'subject' OFFSET 0) AS c,
    LATERAL evtstore.append_cloudevent(c.ce) AS r ORDER BY c.n;
-- ours, in again: it is the same event (tags are no part of a CloudEvent)
SELECT (r).duplicate FROM evtstore.read_stream('order-1') AS e, LATERAL evtstore.append_cloudevent(evtstore.to_cloudevent(e)) AS r;

-- another stream than the subject's; the expected version
SELECT stream, version FROM evtstore.append_cloudevent('{"specversion": "1.0", "id": "1", "source": "s", "type": "T", "subject": "a"}', 'inbox-1', 0);
SELECT metadata -> 'cloudevent' FROM evtstore.events WHERE stream = 'inbox-1';
SELECT state FROM pg_temp.attempt($$SELECT evtstore.append_cloudevent('{"specversion": "1.0", "id": "2", "source": "s", "type": "T"}', 'inbox-1', 0)$$);
-- id and source decide: neither a pair that only looks the same, nor another source
SELECT count(*) FROM (VALUES ('a', 'bc'), ('ab', 'c'), ('b', 'bc')) AS v (source, id),
    LATERAL evtstore.append_cloudevent(jsonb_build_object('specversion', '1.0', 'type', 'T', 'id', v.id, 'source', v.source), 'ids-' || v.source);
SELECT count(DISTINCT id) FROM evtstore.read_category('ids');
-- another content under the same id
SELECT state FROM pg_temp.attempt($$SELECT evtstore.append_cloudevent('{"specversion": "1.0", "id": "1", "source": "s", "type": "T", "data": 1}', 'inbox-1')$$);
-- JSON in base64 is JSON
SELECT count(*) FROM evtstore.append_cloudevent(jsonb_build_object('specversion', '1.0', 'id', 'json', 'source', 's', 'type', 'T', 'subject', 'json-1',
    'datacontenttype', 'application/vnd.x+json; charset=utf-8', 'data_base64', encode(convert_to('{"a": "ü"}', 'UTF8'), 'base64')));
SELECT data, metadata FROM evtstore.events WHERE stream = 'json-1';
-- the client's settings are stamped in, as into every event
SET evtstore.actor = 'bob';
SELECT count(*) FROM evtstore.append_cloudevent('{"specversion": "1.0", "id": "actor", "source": "s", "type": "T", "subject": "actor-1"}');
RESET evtstore.actor;
SELECT metadata FROM evtstore.events WHERE stream = 'actor-1';

-- what is none
\set ce '{"specversion": "1.0", "id": "1", "source": "s", "type": "T", "subject": "wrong-1"}'
SELECT c.change, a.state, a.message
FROM unnest(ARRAY['{"specversion": "0.3"}', '{"specversion": null}', '{"id": null}', '{"id": ""}', '{"id": 1}', '{"source": null}', '{"source": []}',
    '{"type": null}', '{"type": ""}', '{"subject": null}', '{"subject": 5}', '{"subject": ""}', '{"time": "yesterday"}', '{"time": "2026-01-31"}',
    '{"time": "2026-01-31T14:00:00"}', '{"time": "2026-13-31T14:00:00Z"}', '{"time": 5}', '{"time": "2026-01-31T14:00:00.Z"}',
    '{"Ext": "x"}', '{"e-x": "x"}', '{"": "x"}', '{"ext": {}}', '{"ext": []}', '{"data_base64": "*"}', '{"data_base64": 5}',
    '{"data_base64": "e30=", "data": {}}', '{"data_base64": "e30", "datacontenttype": "text/plain"}', '{"data_base64": "bm90IGpzb24="}',
    '{"data_base64": "MQAy"}', '{"datacontenttype": ""}', '{"datacontenttype": "a\r\nX: y"}', '{"datacontenttype": 5}']) WITH ORDINALITY AS c (change, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.append_cloudevent(%L)', (:'ce'::jsonb || c.change::jsonb))) AS a
ORDER BY c.n;
SELECT state, message, hint FROM pg_temp.attempt($$SELECT evtstore.append_cloudevent('[]')$$);
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.append_cloudevent(NULL)$$);
SELECT state, message FROM pg_temp.attempt(format('SELECT evtstore.append_cloudevent(%L)',
    (SELECT :'ce'::jsonb || jsonb_object_agg('e' || i, i) FROM generate_series(1, 65) AS i)));
SELECT count(*) AS wrong FROM evtstore.events WHERE stream LIKE 'wrong%';

-- metadata is whatever somebody appends: what is no attribute is left out, and no value ends a header
SELECT count(*) FROM evtstore.append('odd-1', 'T', '5', metadata => '{"cloudevent": {"source": "urn:z", "type": "Other", "specversion": "9", "id": 7, "a b": "x",
    "data": "x", "ext": {}, "ok": 1, "datacontenttype": "a\r\nX: y", "data_base64": true, "subject": ""}}');
SELECT evtstore.to_cloudevent(e) - '{id,sequence,recordedtime,time}'::text[] FROM evtstore.read_all() e WHERE stream = 'odd-1';
SELECT count(*) FROM evtstore.append('odd-2', 'T', '5', metadata => '{"cloudevent": {"id": "x"}}');
SELECT evtstore.to_cloudevent(e) ->> 'id' = e.id::text AS ours FROM evtstore.read_all() e WHERE stream = 'odd-2';
