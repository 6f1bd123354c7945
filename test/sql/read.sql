--
-- read_stream, read_category, read_all, get_event, stream_version, head_position and the views.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- an empty store
SELECT evtstore.head_position(), evtstore.stream_version('a-1'), evtstore.get_event('00000000-0000-7000-8000-000000000001');
SELECT count(*) FROM evtstore.read_all();
SELECT count(*) FROM evtstore.read_all(backwards => true);
SELECT count(*) FROM evtstore.read_category('a');
SELECT count(*) FROM evtstore.read_stream('a-1');
SELECT count(*) FROM evtstore.events;
SELECT count(*) FROM evtstore.streams;
SELECT count(*) FROM evtstore.why_behind();

-- the very first event of a store can be read at once
SELECT "position" FROM evtstore.append('a-1', 'First', '1');
SELECT "position", stream FROM evtstore.read_all();
SELECT evtstore.head_position();

-- positions 2 to 10; 5 and 8 are holes that a rollback left
SELECT "position" FROM evtstore.append('b-1', 'T', '2');
SELECT first_position, "position" FROM evtstore.append_events('a-1', '[{"type": "T", "data": 3}, {"type": "T", "data": 4}]');
BEGIN;
SELECT "position" FROM evtstore.append('a-2', 'T', '5');
ROLLBACK;
SELECT "position" FROM evtstore.append('a-2', 'T', '6');
SELECT "position" FROM evtstore.append('b-1', 'T', '7');
BEGIN;
SELECT "position" FROM evtstore.append('b-2', 'T', '8');
ROLLBACK;
SELECT "position" FROM evtstore.append('a-1', 'T', '9');
SELECT "position" FROM evtstore.append('b-2', 'T', '10', id => '00000000-0000-7000-8000-000000000010');
CREATE FUNCTION positions(read text) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    result bigint[];
BEGIN
    EXECUTE 'SELECT array_agg(to_jsonb(r) -> ''position'' ORDER BY n) FROM ROWS FROM (' || read || ') WITH ORDINALITY r (' ||
        '"position", tenant, stream, version, id, type, schema_version, data, metadata, tags, occurred_at, recorded_at, n)' INTO result;
    RETURN coalesce(result, '{}');
END $$;

--
-- from where, how many, which way
--
SELECT positions('evtstore.read_all()'), positions('evtstore.read_all(0)'), positions('evtstore.read_all(NULL, NULL, NULL)');
SELECT positions('evtstore.read_all(4)'), positions('evtstore.read_all(5)'), positions('evtstore.read_all(4, 2)'), positions('evtstore.read_all(4, 0)');
SELECT positions('evtstore.read_all(9)'), positions('evtstore.read_all(10)'), positions('evtstore.read_all(max_count => 1)');
SELECT positions('evtstore.read_all(backwards => true)'), positions('evtstore.read_all(7, backwards => true)'), positions('evtstore.read_all(8, 2, true)');
SELECT positions('evtstore.read_all(1, backwards => true)'), positions('evtstore.read_all(0, 5, true)'), positions('evtstore.read_all(1000, 2, true)');
SELECT positions('evtstore.read_category(''a'')'), positions('evtstore.read_category(''a'', 3)'), positions('evtstore.read_category(''a'', 3, 1)');
SELECT positions('evtstore.read_category(''b'', backwards => true)'), positions('evtstore.read_category(''b'', 10, 1, true)'), positions('evtstore.read_category(''b'', 2, 1, true)');
SELECT positions('evtstore.read_category(''c'')'), positions('evtstore.read_category(''b'', 10)');
SELECT positions('evtstore.read_stream(''a-1'')'), positions('evtstore.read_stream(''a-1'', 2)'), positions('evtstore.read_stream(''a-1'', 2, 1)');
SELECT positions('evtstore.read_stream(''a-1'', backwards => true)'), positions('evtstore.read_stream(''a-1'', 3, 1, true)'), positions('evtstore.read_stream(''a-1'', 1, backwards => true)');
SELECT positions('evtstore.read_stream(''a-1'', 4)'), positions('evtstore.read_stream(''a-1'', 100, 2, true)'), positions('evtstore.read_stream(''a-3'')');
SELECT positions('evtstore.read_stream(''a-1'', 9223372036854775807)'), positions('evtstore.read_stream(''a-1'', 0, 9223372036854775807)');
-- a page at a time, as a cursor reader does
DO $$
DECLARE
    cursor_at bigint := 0;
    page bigint[];
BEGIN
    LOOP
        SELECT array_agg("position" ORDER BY "position") INTO page FROM evtstore.read_all(cursor_at, 3);
        EXIT WHEN page IS NULL;
        RAISE NOTICE '%', page;
        cursor_at := page[cardinality(page)];
    END LOOP;
END $$;

SELECT stream, version, type, data FROM evtstore.get_event('00000000-0000-7000-8000-000000000010');
SELECT (evtstore.get_event(id)).version = version AS found FROM evtstore.events WHERE "position" = 4;
SELECT evtstore.get_event('00000000-0000-7000-8000-000000000011') IS NULL AS none;
SELECT evtstore.stream_version('a-1'), evtstore.stream_version('a-2'), evtstore.stream_version('b-1'), evtstore.stream_version('x');
SELECT evtstore.head_position();

--
-- bad arguments
--
SELECT fails($$SELECT evtstore.read_all(-1)$$);
SELECT fails($$SELECT evtstore.read_all(max_count => -1)$$);
SELECT fails($$SELECT evtstore.read_category(NULL)$$);
SELECT fails($$SELECT evtstore.read_category('')$$);
SELECT fails($$SELECT evtstore.read_category('a-1')$$);
SELECT left(fails($$SELECT evtstore.read_category(repeat('c', 1025))$$), 60);
SELECT fails($$SELECT evtstore.read_category('a', -1)$$);
SELECT fails($$SELECT evtstore.read_category('a', max_count => -1)$$);
SELECT fails($$SELECT evtstore.read_stream(NULL)$$);
SELECT fails($$SELECT evtstore.read_stream('')$$);
SELECT left(fails($$SELECT evtstore.read_stream(repeat('s', 1025))$$), 60);
SELECT fails($$SELECT evtstore.read_stream('a-1', -1)$$);
SELECT fails($$SELECT evtstore.read_stream('a-1', max_count => -1)$$);
SELECT fails($$SELECT evtstore.get_event(NULL)$$);
SELECT fails($$SELECT evtstore.stream_version(NULL)$$);
SELECT fails($$SELECT evtstore.stream_version('')$$);
SELECT fails($$CALL evtstore.wait_for_head(NULL)$$);
SELECT fails($$CALL evtstore.wait_for_head(1, NULL)$$);
SELECT fails($$CALL evtstore.wait_for_head(1, '-1s')$$);

--
-- what a transaction sees of its own: by stream and id, not in the feed
--
BEGIN;
SELECT "position" FROM evtstore.append('a-1', 'Own', '11', id => '00000000-0000-7000-8000-000000000011');
SELECT evtstore.stream_version('a-1'), positions('evtstore.read_stream(''a-1'')'), (evtstore.get_event('00000000-0000-7000-8000-000000000011')).type;
SELECT positions('evtstore.read_all(9)'), positions('evtstore.read_category(''a'', 9)'), evtstore.head_position();
-- another category of one's own is held back too: the order of positions is the order of reading
SELECT "position" FROM evtstore.append('b-1', 'Own', '12');
SELECT positions('evtstore.read_all(9)'), positions('evtstore.read_category(''b'', 9)'), positions('evtstore.read_category(''c'', 9)');
SELECT max("position") AS raw FROM evtstore.events;
SELECT pid = pg_backend_pid() AS me, usename = session_user AS usename, application_name, floor, state, query ~ 'why_behind' AS query,
       xact_start = now() AS xact_start
FROM evtstore.why_behind();
ROLLBACK;
SELECT evtstore.stream_version('a-1'), positions('evtstore.read_stream(''a-1'', 3)'), evtstore.get_event('00000000-0000-7000-8000-000000000011') IS NULL AS gone;
SELECT positions('evtstore.read_all(9)'), evtstore.head_position(), (SELECT count(*) FROM evtstore.why_behind()) AS appenders;
-- a hole at the end holds nobody
CALL evtstore.wait_for_head(12, '0');
SELECT fails($$CALL evtstore.wait_for_head(12)$$);
\set VERBOSITY terse
CALL evtstore.wait_for_head(13, '0');
BEGIN;
CALL evtstore.wait_for_head(1);
ROLLBACK;
\set VERBOSITY default

-- a reader that calls in the middle of the statement that appends reads what is decided
SELECT r.version, positions('evtstore.read_stream(''a-3'')') FROM evtstore.append('a-3', 'T', '13') r;
SELECT positions('evtstore.read_all(10)');

--
-- views
--
SELECT "position", tenant, stream, version, type, schema_version, data, metadata, tags FROM evtstore.events ORDER BY "position";
SELECT tenant, stream, category, version, created_at <= last_recorded_at AS times FROM evtstore.streams ORDER BY stream;
SELECT count(*) FROM evtstore.events WHERE stream = 'a-1' AND version > 2;

--
-- results stay right when there are many, and big ones, in one call
--
SELECT count(*) FROM generate_series(1, 3000) n, evtstore.append('many-' || n % 7, 'T', jsonb_build_object('n', n, 'pad', repeat('x', n)));
SELECT count(*), bool_and("position" > previous) AS in_order, bool_and(length(data->>'pad') = (data->>'n')::int) AS kept
FROM (SELECT *, lag("position", 1, 0::bigint) OVER (ORDER BY ordinality) AS previous
      FROM evtstore.read_category('many') WITH ORDINALITY) e;
SELECT count(*), bool_and("position" < previous) AS in_order
FROM (SELECT *, lag("position", 1, 1000000::bigint) OVER (ORDER BY ordinality) AS previous
      FROM evtstore.read_all(backwards => true) WITH ORDINALITY) e;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT stream, version FROM evtstore.read_category('many', max_count => 5);
FETCH 2 FROM c;
FETCH LAST FROM c;
FETCH PRIOR FROM c;
COMMIT;

-- tenants
SET evtstore.tenant = 'acme';
SELECT count(*) FROM evtstore.append('a-1', 'Theirs', '1', id => '00000000-0000-7000-8000-000000000010');
SELECT tenant, stream, version, type FROM evtstore.read_all();
SELECT tenant, stream, version, type FROM evtstore.read_category('a');
SELECT tenant, stream, version, type FROM evtstore.read_stream('a-1');
SELECT tenant, type FROM evtstore.get_event('00000000-0000-7000-8000-000000000010');
SELECT evtstore.stream_version('a-1'), evtstore.stream_version('b-1');
SELECT count(*) FROM evtstore.read_all(backwards => true, max_count => 10);
RESET evtstore.tenant;
SELECT tenant, type FROM evtstore.read_stream('a-1') WHERE type = 'Theirs';
SELECT count(*) FROM evtstore.read_category('a');
SELECT tenant, count(*) FROM evtstore.read_all() GROUP BY tenant ORDER BY tenant;

--
-- inside REPEATABLE READ the snapshot decides, for the whole transaction
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evtstore.stream_version('a-3');
SELECT version FROM evtstore.append('a-3', 'T', '14', 1);
SELECT evtstore.stream_version('a-3'), (SELECT count(*) FROM evtstore.read_stream('a-3')) AS events;
ROLLBACK;
BEGIN READ ONLY;
SELECT evtstore.stream_version('a-3'), (SELECT count(*) FROM evtstore.read_all(10, 1)) AS events, evtstore.head_position() > 10 AS head;
COMMIT;
