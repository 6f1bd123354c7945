--
-- append_events: the array of events, its errors, empty arrays, big batches.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET timezone = 'UTC';
SET datestyle = 'ISO';

SELECT * FROM evtstore.append_events('order-1', '[{"type": "OrderPlaced", "data": {"total": 10}}, {"type": "OrderPaid", "data": null}]');
SELECT * FROM evtstore.append_events('order-1', '[{"type": "OrderShipped", "data": []}]', 2);
SELECT (evtstore.append_events('order-1', '[{"type": "A", "data": 1}, {"type": "B", "data": 2}, {"type": "C", "data": 3}]')).*;
SELECT version, type, data FROM evtstore.read_stream('order-1');
-- every key
SELECT * FROM evtstore.append_events(stream => 'order-2', expected_version => 0, require => NULL, events => '[
    {"type": "OrderPlaced", "data": {"n": 9007199254740993}, "metadata": {"user": "u1"}, "tags": ["customer:7", "region:eu"],
     "id": "00000000-0000-7000-8000-000000000001", "schema_version": 3, "occurred_at": "2001-02-03T04:05:06.789Z"},
    {"type": "OrderPaid", "data": {"n": 1e400}, "metadata": {}, "tags": [], "schema_version": 2147483647}]');
SELECT version, id = '00000000-0000-7000-8000-000000000001' AS own_id, type, schema_version,
       CASE WHEN length(data::text) < 100 THEN data::text ELSE length(data::text) || ' characters' END AS data,
       metadata, tags, nullif(occurred_at, recorded_at) AS occurred_at
FROM evtstore.read_stream('order-2');
SELECT count(DISTINCT recorded_at) AS times FROM evtstore.read_stream('order-2');

--
-- bad arguments: nothing is written, whichever element is bad
--
SELECT fails($$SELECT evtstore.append_events(NULL, '[]')$$);
SELECT fails($$SELECT evtstore.append_events('', '[]')$$);
SELECT left(fails($$SELECT evtstore.append_events(repeat('s', 1025), '[]')$$), 60);
SELECT fails($$SELECT evtstore.append_events('s-1', NULL)$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '{"type": "T", "data": 1}')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '"text"')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', 'null')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[1]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1}, null]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1}, [{"type": "T", "data": 1}]]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T"}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1}, {"data": 1}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": 1, "data": 1}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": null, "data": 1}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "", "data": 1}]')$$);
SELECT left(fails($$SELECT evtstore.append_events('s-1', jsonb_build_array(jsonb_build_object('type', repeat('t', 513), 'data', 1)))$$), 60);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "metadata": 1}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "metadata": null}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "metadata": [1]}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "tags": "a"}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "tags": {"a": 1}}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "tags": ["a", 1]}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "tags": ["a", null]}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "tags": [""]}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "id": 7}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "id": null}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "schema_version": "1"}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "schema_version": 0}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "occurred_at": 1}]')$$);
-- whatever the server calls it
SELECT left(f, 5) AS sqlstate, f ~ 'element 2 of events' AS element, f ~ key AS key
FROM (VALUES ('id', '"7"'), ('schema_version', '1.5'), ('schema_version', '3000000000'), ('schema_version', '1e400'),
             ('occurred_at', '"yesterday or so"'), ('occurred_at', '"2001-02-30"')) v (key, value),
    fails(format($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1}, {"type": "T", "data": 1, "%s": %s}]')$$, key, value)) f;
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1}, {"type": "T", "data": 1, "payload": 1}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1, "Type": "T"}]')$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[]', -1)$$);
SELECT fails($$SELECT evtstore.append_events('s-1', '[]', require => 'gone')$$);
SELECT evtstore.stream_version('s-1'), count(*) AS streams FROM evtstore.streams;
BEGIN READ ONLY;
SELECT fails($$SELECT evtstore.append_events('s-1', '[{"type": "T", "data": 1}]')$$);
COMMIT;

--
-- expectations
--
SELECT fails($$SELECT evtstore.append_events('order-1', '[{"type": "T", "data": 1}]', 5)$$);
SELECT fails($$SELECT evtstore.append_events('order-9', '[{"type": "T", "data": 1}]', require => 'exists')$$);
SELECT fails($$SELECT evtstore.append_events('order-1', '[{"type": "T", "data": 1}]', require => 'deleted')$$);
SELECT version FROM evtstore.append_events('order-1', '[{"type": "T", "data": 1}]', 6, 'exists');
SET evtstore.require_expected_version = on;
SELECT fails($$SELECT evtstore.append_events('order-1', '[]')$$);
SELECT version FROM evtstore.append_events('order-1', '[]', 7);
RESET evtstore.require_expected_version;

--
-- an empty array checks and writes nothing
--
SELECT * FROM evtstore.append_events('order-1', '[]');
SELECT * FROM evtstore.append_events('order-9', '[]');
SELECT * FROM evtstore.append_events('order-9', '[]', 0);
SELECT fails($$SELECT evtstore.append_events('order-9', '[]', 1)$$);
SELECT fails($$SELECT evtstore.append_events('order-9', '[]', require => 'exists')$$);
SELECT * FROM evtstore.append_events('order-1', '[]', 7, 'exists');
SELECT count(*) FROM evtstore_internal.stream WHERE name = 'order-9';

--
-- metadata from settings, for each event
--
SET evtstore.actor = 'alice';
SELECT version FROM evtstore.append_events('meta-1',
    '[{"type": "T", "data": 1}, {"type": "T", "data": 1, "metadata": {"actor": "bob"}}, {"type": "T", "data": 1, "metadata": {"a": 1}}]');
RESET evtstore.actor;
SELECT version, metadata FROM evtstore.read_stream('meta-1');

--
-- big batches: one stream, positions in order of the array
--
SELECT first_version, version, "position" - first_position AS distance, duplicate FROM evtstore.append_events('big-1',
    (SELECT jsonb_agg(jsonb_build_object('type', 'T', 'data', n, 'tags', jsonb_build_array('n:' || n)) ORDER BY n) FROM generate_series(1, 20000) n));
SELECT count(*), bool_and(data = to_jsonb(version)) AS in_order, bool_and(tags[1] = 'n:' || version) AS tagged,
       max("position") - min("position") AS distance
FROM evtstore.read_stream('big-1');
-- with TOASTed elements
SELECT version FROM evtstore.append_events('big-2',
    (SELECT jsonb_agg(jsonb_build_object('type', 'T', 'data', repeat(md5(n::text), 10000)) ORDER BY n) FROM generate_series(1, 5) n));
SELECT version, length(data #>> '{}') AS length, data #>> '{}' = repeat(md5(version::text), 10000) AS kept FROM evtstore.read_stream('big-2');
-- the last element is bad: none is written
SELECT fails($$SELECT evtstore.append_events('big-3',
    (SELECT jsonb_agg(CASE n WHEN 1000 THEN '{"type": "T"}' ELSE jsonb_build_object('type', 'T', 'data', n) END ORDER BY n)
     FROM generate_series(1, 1000) n))$$);
SELECT evtstore.stream_version('big-3');
-- some with ids of their own, in between: order and versions are those of the array
SELECT version FROM evtstore.append_events('big-4',
    (SELECT jsonb_agg(jsonb_build_object('type', 'T', 'data', n) || CASE WHEN n % 7 = 0
        THEN jsonb_build_object('id', format('00000000-0000-4000-8000-%s', lpad(n::text, 12, '0'))) ELSE '{}' END ORDER BY n) FROM generate_series(1, 300) n));
SELECT count(*), bool_and(data = to_jsonb(version)) AS in_order, count(*) FILTER (WHERE id::text LIKE '00000000-%') AS with_ids FROM evtstore.read_stream('big-4');
