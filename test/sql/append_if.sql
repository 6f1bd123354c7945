--
-- append_if: append conditions over types and tags (dcb.events), as one session sees them.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE FUNCTION try(events jsonb, query jsonb, after bigint DEFAULT NULL, stream text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    r evtstore.append_result;
    details text;
BEGIN
    SELECT * INTO r FROM evtstore.append_if(events, query, after, stream);
    RETURN format('%s %s %s-%s at %s-%s', CASE WHEN r.duplicate THEN 'duplicate' ELSE 'written' END, coalesce(r.stream, '-'),
                  r.first_version, r.version, r.first_position, r.position);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS details = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || CASE SQLSTATE WHEN 'ST003' THEN ' ' || (details::jsonb->>'position') ELSE '' END;
END $$;
CREATE FUNCTION e(type text, VARIADIC tags text[] DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_array(jsonb_build_object('type', type, 'data', '{}'::jsonb, 'tags', to_jsonb(tags))) $$;

-- without a stream: tags only, no version
SELECT * FROM evtstore.append_if('[{"type": "A", "data": {}, "tags": ["x", "y"], "id": "00000000-0000-7000-8000-0000000000aa"}]',
    '{"items": [{"types": ["A"], "tags": ["x"]}]}');
SELECT position, stream, version, type, tags FROM evtstore.read_all();
SELECT fails($$SELECT evtstore.append_if(e('A', 'x'), '{"items": [{"types": ["A"], "tags": ["x"]}]}')$$);
-- with one: as an append to it, and the condition beside it
SELECT * FROM evtstore.append_if(e('B', 'y', 'z') || e('C'), '{"items": [{"types": ["B"]}]}', stream => 's-1');
SELECT * FROM evtstore.append('s-1', 'D', '{}', tags => '{x,x,z}');
SELECT stream, version, type FROM evtstore.read_all();

--
-- what matches: 1 A{x,y}  2 B{y,z} 3 C{} 4 D{x,x,z}.  Each event is appended in a savepoint that is rolled back.
--
CREATE FUNCTION matches(query jsonb, after bigint DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text := 'none';
    details text;
BEGIN
    PERFORM evtstore.append_if('[{"type": "Probe", "data": {}}]', query, after);
    RAISE EXCEPTION SQLSTATE 'P0001';
EXCEPTION
    WHEN SQLSTATE 'ST003' THEN
        GET STACKED DIAGNOSTICS details = PG_EXCEPTION_DETAIL;
        RETURN 'first at ' || (details::jsonb->>'position');
    WHEN SQLSTATE 'P0001' THEN RETURN 'none';
END $$;
SELECT query, matches(query::jsonb) AS anywhere, matches(query::jsonb, 1) AS "after 1", matches(query::jsonb, 2) AS "after 2", matches(query::jsonb, 4) AS "after 4"
FROM (VALUES ('{"items": [{"tags": ["x"]}]}'), ('{"items": [{"tags": ["y"]}]}'), ('{"items": [{"tags": ["x", "y"]}]}'), ('{"items": [{"tags": ["y", "z"]}]}'),
             ('{"items": [{"tags": ["z", "x"]}]}'), ('{"items": [{"tags": ["x", "y", "z"]}]}'), ('{"items": [{"tags": ["X"]}]}'), ('{"items": [{"tags": ["x", "x"]}]}'),
             ('{"items": [{"types": ["A"]}]}'), ('{"items": [{"types": ["C", "D"]}]}'), ('{"items": [{"types": ["a"]}]}'), ('{"items": [{"types": ["D", "B", "B"]}]}'),
             ('{"items": [{"types": ["A", "B"], "tags": ["y"]}]}'), ('{"items": [{"types": ["B"], "tags": ["x"]}]}'), ('{"items": [{"types": ["D", "A"], "tags": ["x"]}]}'),
             ('{"items": [{"types": ["D"], "tags": ["x", "z"]}]}'), ('{"items": [{"types": ["B", "D"], "tags": ["z", "y"]}]}'),
             ('{"items": [{"types": ["N"]}, {"tags": ["n"]}, {"types": ["D"], "tags": ["z"]}]}'), ('{"items": [{"types": ["C"]}, {"tags": ["x"]}]}'),
             ('{"items": []}'), ('{}'), ('{"items": [{"types": [], "tags": ["y"]}]}')) v (query);

-- own uncommitted events count, those of a savepoint that was rolled back do not
BEGIN;
SELECT try(e('A', 'own'), '{"items": [{"tags": ["own"]}]}');
SELECT try(e('A', 'own'), '{"items": [{"tags": ["own"]}]}');
SAVEPOINT s;
SELECT try(e('A', 'inner'), '{"items": [{"types": ["A"], "tags": ["inner"]}]}');
ROLLBACK TO s;
SELECT try(e('A', 'inner'), '{"items": [{"types": ["A"], "tags": ["inner"]}]}');
ROLLBACK;
SELECT try(e('A', 'own'), '{"items": [{"tags": ["own"]}]}');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT try(e('A', 'rr'), '{"items": [{"tags": ["rr"]}]}'), try(e('A', 'rr'), '{"items": [{"tags": ["rr"]}]}');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT try(e('A', 'ser'), '{"items": [{"tags": ["ser"]}]}'), try(e('A', 'ser'), '{"items": [{"types": ["A"]}]}');
COMMIT;

--
-- retries by event id: as for streams
--
CREATE FUNCTION batch(VARIADIC n int[]) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_agg(jsonb_build_object('type', 'R', 'data', m, 'tags', '["r"]'::jsonb, 'id', format('00000000-0000-7000-8000-%s', lpad(m::text, 12, '0'))) ORDER BY o)
    FROM unnest(n) WITH ORDINALITY u(m, o) $$;
SELECT try(batch(1, 2, 3), '{"items": [{"tags": ["r"]}]}') LIKE 'written - -%' AS first;
SELECT n, regexp_replace(try(batch(VARIADIC n), '{"items": [{"tags": ["r"]}]}'), ' at.*', '') AS condition_fails,
       regexp_replace(try(batch(VARIADIC n), '{"items": [{"tags": ["none"]}]}'), ' at.*', '') AS condition_holds,
       regexp_replace(try(batch(VARIADIC n), '{"items": [{"tags": ["r"]}]}', stream => 'r-1'), ' at.*', '') AS in_a_stream
FROM (VALUES ('{1,2,3}'::int[]), ('{1,2}'), ('{2,3}'), ('{1,2,3,4}'), ('{2,1}'), ('{4,1}'), ('{1,1}'), ('{1,3}')) v (n);
SELECT count(*) FROM evtstore.events WHERE type = 'R';
SELECT try('[{"type": "R", "data": 1, "tags": ["other"], "id": "00000000-0000-7000-8000-000000000001"}]', '{"items": [{"tags": ["r"]}]}');
SELECT try('[{"type": "Q", "data": 1, "id": "00000000-0000-7000-8000-000000000009"}]', '{"items": [{"tags": ["q"]}]}', stream => 'q-1') LIKE 'written%' AS first,
       try('[{"type": "Q", "data": 1, "id": "00000000-0000-7000-8000-000000000009"}]', '{"items": [{"tags": ["q"]}]}') AS without_its_stream,
       try('[{"type": "Q", "data": 1, "id": "00000000-0000-7000-8000-000000000009"}]', '{"items": [{"types": ["Q"]}]}', stream => 'q-1') LIKE 'duplicate q-1 1-1%' AS again;

-- nothing to append: the condition alone
SELECT * FROM evtstore.append_if('[]', '{"items": [{"tags": ["free"]}]}');
SELECT * FROM evtstore.append_if('[]', '{"items": [{"tags": ["free"]}]}', stream => 's-1');
SELECT fails($$SELECT evtstore.append_if('[]', '{"items": [{"tags": ["x"]}]}')$$);

--
-- tenants: a condition is about the tenant's own events, '' being one
--
SET evtstore.tenant = 'acme';
SELECT try(e('A', 'x'), '{"items": [{"tags": ["x"]}]}') LIKE 'written%' AS tags, try(e('T1'), '{"items": [{"types": ["D"]}]}') LIKE 'written%' AS types,
       matches('{}'), matches('{"items": [{"types": ["A"]}]}'), matches('{"items": [{"types": ["C"]}]}'), matches('{"items": [{"types": ["A"], "tags": ["x"]}]}');
SET evtstore.tenant = 'other';
SELECT matches('{}'), matches('{"items": [{"types": ["A", "T1"]}]}'), matches('{"items": [{"tags": ["x"]}]}');
RESET evtstore.tenant;
SELECT matches('{"items": [{"types": ["T1"]}]}');

--
-- very many tags and streams in one transaction: locks are exchanged for a few
--
SELECT position - first_position FROM evtstore.append_if(
    (SELECT jsonb_agg(jsonb_build_object('type', 'Many', 'data', i, 'tags', jsonb_build_array('many-' || i, 'many'))) FROM generate_series(1, 20000) i),
    '{"items": [{"tags": ["many"]}]}');
BEGIN;
SELECT max(position) > 0 FROM generate_series(1, 6000) i, evtstore.append('lots-' || i, 'Lot', '{}', tags => ARRAY['lot-' || i]);
SELECT count(*) > 500 AS some_locks, count(*) FILTER (WHERE objsubid = -6911) < 3000 AS few_stream_locks, count(*) < 4000 AS few_locks FROM pg_locks WHERE pid = pg_backend_pid();
COMMIT;
SELECT matches('{"items": [{"tags": ["many-777"]}]}') <> 'none', matches('{"items": [{"tags": ["lot-5999"]}]}') <> 'none',
       matches('{"items": [{"types": ["Many"], "tags": ["lot-5999"]}]}');
-- a condition with more items than are locked one by one
SELECT matches((SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('tags', jsonb_build_array('absent-' || i)))) FROM generate_series(1, 1000) i)),
       matches((SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('tags', jsonb_build_array('many-' || i, 'many')))) FROM generate_series(19900, 21000) i)) <> 'none';

--
-- bad input
--
SELECT fails(format($$SELECT evtstore.append_if(%s)$$, arguments)) AS error, arguments
FROM (VALUES ($$NULL, '{}'$$), ($$e('A'), NULL$$), ($$'{}', '{}'$$), ($$e('A'), '[]'$$), ($$e('A'), '3'$$), ($$e('A'), '{"item": []}'$$), ($$e('A'), '{"items": {}}'$$),
             ($$e('A'), '{"items": [{}]}'$$), ($$e('A'), '{"items": [{"types": []}]}'$$), ($$e('A'), '{"items": ["x"]}'$$), ($$e('A'), '{"items": [{"types": "A"}]}'$$),
             ($$e('A'), '{"items": [{"tags": [1]}]}'$$), ($$e('A'), '{"items": [{"tags": [""]}]}'$$), ($$e('A'), '{"items": [{"tags": ["a"]}, {"types": ["A"], "categories": []}]}'$$),
             ($$e('A'), '{}', -1$$), ($$e('A'), '{}', NULL, ''$$), ($$e(NULL), '{}'$$)) v (arguments);
SELECT regexp_replace(fails($$SELECT evtstore.append_if(e('A'), '{}', 9223372036854775807)$$), 'the last is \d+', 'the last is N');
