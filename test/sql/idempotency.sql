--
-- Idempotent retries by event id: the matrix of the reference, for append and append_events.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- event n: an id, a type and data of its own
CREATE FUNCTION event(n int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('type', 'T' || n, 'data', n, 'id', format('00000000-0000-7000-8000-%s', lpad(n::text, 12, '0'))) $$;
CREATE FUNCTION batch(VARIADIC n int[]) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_agg(event(m) ORDER BY o) FROM unnest(n) WITH ORDINALITY u(m, o) $$;
-- appends and says how it went, in a word
CREATE FUNCTION try(stream text, events jsonb, expected bigint DEFAULT NULL, require text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r evtstore.append_result;
BEGIN
    SELECT * INTO r FROM evtstore.append_events(stream, events, expected, require);
    RETURN format('%s %s-%s at %s-%s', CASE WHEN r.duplicate THEN 'duplicate' ELSE 'written' END,
                  r.first_version, r.version, r.first_position, r.position);
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

-- one event
SELECT * FROM evtstore.append('one-1', 'T', '{"a": 1}', id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}', metadata => '{"m": 1}');
SELECT * FROM evtstore.append('one-1', 'T', '{"a": 1}', id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}', metadata => '{"m": 2}');
SELECT * FROM evtstore.append('one-1', 'T', '{"a": 1}', 0, id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}');
SELECT * FROM evtstore.append('one-1', 'T', '{"a": 1.0}', id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}', require => 'exists');
-- the answer stays when the stream has gone on
SELECT version FROM evtstore.append('one-1', 'U', '{}');
SELECT * FROM evtstore.append('one-1', 'T', '{"a": 1}', 0, id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}');
SELECT version, type, metadata FROM evtstore.read_stream('one-1');
-- expected at another version than it was written at
SELECT fails($$SELECT evtstore.append('one-1', 'T', '{"a": 1}', 1, id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}')$$);
SELECT fails($$SELECT evtstore.append('one-1', 'T', '{"a": 1}', 2, id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}')$$);

-- the same id with other content: stream, type, schema_version, data, tags; occurred_at and metadata are not content
SELECT fails($$SELECT evtstore.append('one-2', 'T', '{"a": 1}', id => '00000000-0000-7000-8000-000000000100', tags => '{x,y}')$$);
SELECT left(fails(format($$SELECT evtstore.append('one-1', %s, id => '00000000-0000-7000-8000-000000000100')$$, arguments)), 8) AS result, arguments
FROM (VALUES ($$'T', '{"a": 1}', tags => '{x,y}'$$),
             ($$'T', '{"a": 1}', tags => '{x,y}', occurred_at => '2001-01-01'$$),
             ($$'T', '{"a": 1}', tags => '{x,y}', metadata => '{}'$$),
             ($$'T', '{"a": 1}', tags => '{x,y}', schema_version => 1$$),
             ($$'t', '{"a": 1}', tags => '{x,y}'$$),
             ($$'T', '{"a": 2}', tags => '{x,y}'$$),
             ($$'T', '{"a": 1, "b": null}', tags => '{x,y}'$$),
             ($$'T', '{"a": 1}', tags => '{y,x}'$$),
             ($$'T', '{"a": 1}', tags => '{x}'$$),
             ($$'T', '{"a": 1}'$$),
             ($$'T', '{"a": 1}', tags => '{x,y}', schema_version => 2$$)) v (arguments);
SELECT evtstore.stream_version('one-1'), evtstore.stream_version('one-2');

--
-- batches of three, written at versions 1 to 3 of a stream that goes on to 5
--
SELECT try('b-1', batch(1, 2, 3), 0), try('b-1', batch(4, 5), 3);
-- identical, a prefix, the middle, all that is known in order: under each expectation
SELECT events.n, try('b-1', batch(VARIADIC n), 0) AS "0", try('b-1', batch(VARIADIC n)) AS "any", try('b-1', batch(VARIADIC n), require => 'exists') AS "exists",
       try('b-1', batch(VARIADIC n), 1) AS "1", try('b-1', batch(VARIADIC n), 3) AS "3", try('b-1', batch(VARIADIC n), 5) AS "5"
FROM (VALUES ('{1,2,3}'::int[]), ('{1,2}'), ('{1}'), ('{2,3}'), ('{4,5}'), ('{1,2,3,4,5}'), ('{2,3,4}')) events (n);
-- a prefix and more, partly known, out of order, with others between
SELECT events.n, try('b-1', batch(VARIADIC n), 0) AS "0", try('b-1', batch(VARIADIC n)) AS "any", try('b-1', batch(VARIADIC n), require => 'exists') AS "exists",
       try('b-1', batch(VARIADIC n), 1) AS "1", try('b-1', batch(VARIADIC n), 3) AS "3", try('b-1', batch(VARIADIC n), 5) AS "5"
FROM (VALUES ('{1,2,3,9}'::int[]), ('{1,2,3,4,5,9}'), ('{9,1,2,3}'), ('{1,3}'), ('{2,1}'), ('{3,2,1}'), ('{5,9}'), ('{1,9,2}')) events (n);
-- twice in one batch
SELECT events.n, try('b-1', batch(VARIADIC n), 0) AS "0", try('b-1', batch(VARIADIC n)) AS "any", try('b-2', batch(VARIADIC n)) AS "new stream"
FROM (VALUES ('{1,1}'::int[]), ('{8,8}'), ('{8,9,8}')) events (n);
SELECT fails($$SELECT evtstore.append_events('b-2', batch(8, 9, 8))$$);
-- without ids nothing repeats; a batch with some ids is known only if all of it is
SELECT try('b-1', '[{"type": "T1", "data": 1}]'), try('b-1', batch(1) || '[{"type": "T2", "data": 2}]', 0), try('b-1', batch(1) || '[{"type": "T2", "data": 2}]');
SELECT fails($$SELECT evtstore.append_events('b-1', batch(1, 9))$$);
SELECT fails($$SELECT evtstore.append_events('b-1', batch(1, 9), 0)$$);
-- ids of several streams in one batch
SELECT fails($$SELECT evtstore.append_events('b-3', batch(1))$$);
SELECT try('b-3', batch(20, 21)), try('b-3', batch(20, 1)), try('b-3', batch(20, 21));
-- an empty batch
SELECT try('b-1', '[]'), try('b-1', '[]', 6), try('b-1', '[]', 5), try('b-9', '[]', 0);
SELECT stream, version FROM evtstore.streams ORDER BY stream;

--
-- in a transaction: its own uncommitted events are known; what a rollback took back is not
--
BEGIN;
SELECT try('c-1', batch(30, 31), 0), try('c-1', batch(30, 31), 0), try('c-1', batch(30));
SAVEPOINT a;
SELECT try('c-1', batch(32), 2), try('c-1', batch(32), 2);
ROLLBACK TO a;
SELECT try('c-1', batch(32), 3), try('c-1', batch(32), 2), try('c-1', batch(32), 2);
ROLLBACK;
SELECT try('c-1', batch(32), 2), try('c-1', batch(31, 30), 0), try('c-1', batch(31, 30)), try('c-1', batch(30, 31));
SELECT version, data FROM evtstore.read_stream('c-1');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT try('c-1', batch(31, 30), 0), try('c-1', batch(33), 2), try('c-1', batch(33), 2);
COMMIT;

--
-- ids belong to their tenant
--
SET evtstore.tenant = 'acme';
SELECT try('b-1', batch(1, 2, 3), 0), try('b-1', batch(1, 2, 3), 0), try('b-1', batch(1, 2, 3, 4), 0), try('b-2', batch(1));
RESET evtstore.tenant;
SELECT tenant, count(*), count(DISTINCT id) FROM evtstore.events GROUP BY tenant ORDER BY tenant;

-- nothing was written twice
SELECT tenant, id, count(*) FROM evtstore.events GROUP BY tenant, id HAVING count(*) > 1;
