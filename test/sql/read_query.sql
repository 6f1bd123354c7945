--
-- read_query against a plain filter over all events: every query, direction, start and limit gives what the filter gives.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- 400 events of 5 types with up to 3 of 6 tags, "hot" on nearly all and "rare" on a few; some in streams, some without, some rolled back
SELECT setseed(0.25);
DO $$
DECLARE
    tags text[];
BEGIN
    FOR i IN 1 .. 400 LOOP
        SELECT array_agg(DISTINCT t) INTO tags FROM unnest(ARRAY[(ARRAY['a', 'b', 'c'])[1 + (random() * 4)::int], (ARRAY['d', 'e', 'f'])[1 + (random() * 4)::int],
            CASE WHEN random() < 0.9 THEN 'hot' END, CASE WHEN random() < 0.02 THEN 'rare' END]) t WHERE t IS NOT NULL;
        BEGIN
            IF random() < 0.5 THEN
                PERFORM evtstore.append('s-' || i % 7, 'T' || (random() * 4)::int, to_jsonb(i), tags => coalesce(tags, '{}'));
            ELSE
                PERFORM evtstore.append_if(jsonb_build_array(jsonb_build_object('type', 'T' || (random() * 4)::int, 'data', i, 'tags', coalesce(to_jsonb(tags), '[]'))),
                                           '{"items": [{"tags": ["never"]}]}');
            END IF;
            IF random() < 0.1 THEN RAISE EXCEPTION SQLSTATE 'P0001'; END IF;
        EXCEPTION WHEN SQLSTATE 'P0001' THEN NULL;
        END;
    END LOOP;
END $$;

CREATE FUNCTION item(i int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT CASE i WHEN 0 THEN '{"types": ["T1"]}' WHEN 1 THEN '{"tags": ["hot"]}' WHEN 2 THEN '{"tags": ["rare", "hot"]}' WHEN 3 THEN '{"tags": ["a", "d"]}'
        WHEN 4 THEN '{"types": ["T0", "T3"], "tags": ["b"]}' WHEN 5 THEN '{"types": ["T2"], "tags": ["hot", "c", "f"]}' WHEN 6 THEN '{"tags": ["none"]}'
        WHEN 7 THEN '{"types": ["T4", "T4", "None"], "tags": ["rare"]}' WHEN 8 THEN '{"tags": ["hot", "a", "rare"]}' WHEN 9 THEN '{"types": ["None"]}' END::jsonb $$;
CREATE FUNCTION filtered(query jsonb, after bigint, backwards boolean) RETURNS SETOF bigint LANGUAGE sql AS $$
    SELECT e.position FROM evtstore.events e
    WHERE (NOT query ? 'items' OR query->'items' = '[]' OR EXISTS (
            SELECT FROM jsonb_array_elements(query->'items') i
            WHERE (NOT i ? 'types' OR i->'types' ? e.type)
              AND (NOT i ? 'tags' OR e.tags @> ARRAY(SELECT jsonb_array_elements_text(i->'tags')))))
      AND (after IS NULL OR CASE WHEN backwards THEN e.position < after ELSE e.position > after END)
    ORDER BY CASE WHEN backwards THEN -e.position ELSE e.position END $$;
-- all single items, all pairs, every event; from the ends and from the middle; both ways; three limits
WITH queries AS (
    SELECT jsonb_build_object('items', jsonb_build_array(item(i))) AS query FROM generate_series(0, 9) i
    UNION ALL SELECT jsonb_build_object('items', jsonb_build_array(item(i), item(j))) FROM generate_series(0, 9) i, generate_series(0, 9) j WHERE i <> j
    UNION ALL VALUES ('{}'::jsonb), ('{"items": []}')),
cases AS (
    SELECT * FROM queries, (VALUES (NULL::bigint), (0), (1), (200), (100000)) a (after), (VALUES (false), (true)) b (backwards), (VALUES (NULL::bigint), (0), (1), (17)) m (max_count)),
results AS (
    SELECT *, ARRAY(SELECT r.position FROM evtstore.read_query(query, after, max_count, backwards) r) AS got,
           (ARRAY(SELECT f FROM filtered(query, after, backwards) f))[1:coalesce(max_count, 1000000)] AS wanted
    FROM cases)
SELECT count(*) AS cases, sum(cardinality(got)) > 50000 AS many, count(*) FILTER (WHERE got IS DISTINCT FROM wanted) AS different FROM results;

-- whole events
SELECT count(*) AS same FROM evtstore.read_query('{"items": [{"tags": ["hot"]}, {"types": ["T1", "T2"]}]}') q JOIN evtstore.read_all() a ON a = q;

-- tenants: each its own, '' too
SET evtstore.tenant = 'acme';
SELECT count(*) FROM evtstore.append_if('[{"type": "T1", "data": 1, "tags": ["hot"]}, {"type": "T2", "data": 2}]', '{}');
SELECT (SELECT count(*) FROM evtstore.read_query('{}')), (SELECT count(*) FROM evtstore.read_query('{"items": [{"types": ["T1"]}]}')),
       (SELECT count(*) FROM evtstore.read_query('{"items": [{"tags": ["hot"]}]}')), (SELECT count(*) FROM evtstore.read_query('{"items": [{"types": ["T2"], "tags": ["hot"]}]}'));
RESET evtstore.tenant;
SELECT count(*) FROM evtstore.read_query('{}') WHERE tenant <> '';

-- never past the head, not even the caller's own
BEGIN;
SELECT count(*) FROM evtstore.append('s-1', 'Own', '{}', tags => '{own}');
SELECT count(*) FROM evtstore.read_query('{"items": [{"types": ["Own"]}]}');
COMMIT;
SELECT count(*) FROM evtstore.read_query('{"items": [{"types": ["Own"], "tags": ["own"]}]}');

SELECT fails(format($$SELECT evtstore.read_query(%s)$$, arguments)) AS error, arguments
FROM (VALUES ('NULL'), ($$'[]'$$), ($$'{"items": [{}]}'$$), ($$'{"item": []}'$$), ($$'{}', -1$$), ($$'{}', NULL, -1$$)) v (arguments);
