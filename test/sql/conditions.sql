--
-- Append conditions where they meet other parts: triggers on events, handlers that append, savepoints, isolation levels,
-- and the limits of tags and queries.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- one event with a condition: 'written', or the code and the position that stood against it
CREATE FUNCTION try(type text, tags text[], query jsonb, after bigint DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    details text;
BEGIN
    PERFORM evtstore.append_if(jsonb_build_array(jsonb_build_object('type', type, 'data', '{}'::jsonb, 'tags', to_jsonb(tags))), query, after);
    RETURN 'written';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS details = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || CASE SQLSTATE WHEN 'ST003' THEN ' ' || (details::jsonb->>'position') ELSE '' END;
END $$;
CREATE FUNCTION items(VARIADIC items text[]) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('items', jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
        'types', CASE WHEN i NOT LIKE '/%' THEN jsonb_build_array(split_part(i, '/', 1)) END,
        'tags', CASE WHEN i LIKE '%/_%' THEN jsonb_build_array(split_part(i, '/', 2)) END)))) FROM unnest(items) i $$;
-- the locks of tags and types that this transaction holds (lock.h: ES_LOCK_TAG, ES_LOCK_TYPE)
CREATE FUNCTION tag_locks() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = (x'e506'::int - 65536) $$;
CREATE FUNCTION type_locks() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = (x'e507'::int - 65536) $$;
SELECT items('A/x', 'B/', '/y');

--
-- a BEFORE trigger may change what an event says, and nothing by which conditions find it: its locks are taken by then
--
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE NEW.type
        WHEN 'Typed' THEN NEW.type := 'Retyped';
        WHEN 'Tagged' THEN NEW.tags := NEW.tags || '{more}';
        WHEN 'Bare' THEN NEW.tags := '{}';
        WHEN 'Moved' THEN NEW.tenant := 'acme';
        WHEN 'Sorted' THEN NEW.category_hash := 7;
        WHEN 'Lost' THEN NEW.category_hash := NULL;
        WHEN 'Same' THEN NEW.tags := ARRAY(SELECT unnest(NEW.tags)); NEW.type := 'Sa' || 'me';
        ELSE NEW.data := '"changed"'; NEW.metadata := '{"by": "trigger"}'; NEW.schema_version := 2;
    END CASE;
    RETURN NEW;
END $$;
CREATE TRIGGER change BEFORE INSERT ON evtstore_internal.event FOR EACH ROW EXECUTE FUNCTION change();
SELECT type, try(type, '{given}', items('/none')) FROM unnest('{Typed,Tagged,Bare,Moved,Sorted,Lost,Same,Extra}'::text[]) type;
SELECT type, left(fails(format($$SELECT evtstore.append('t-1', %L, '{}', tags => '{given}')$$, type)), 5) FROM unnest('{Typed,Tagged,Bare,Moved,Sorted,Lost}'::text[]) type;
SELECT fails($$SELECT evtstore.append_events('t-1', '[{"type": "Extra", "data": 1}, {"type": "Typed", "data": 2}]')$$);
SELECT stream, type, tags, data, metadata, schema_version FROM evtstore.read_all();
SELECT (SELECT count(*) FROM evtstore_internal.event_tag) = (SELECT count(*) FROM evtstore.events e, LATERAL (SELECT DISTINCT unnest(e.tags)) t) AS postings;
DROP TRIGGER change ON evtstore_internal.event;

--
-- in the handler of a sync projection: the condition sees the event that it is called for, and refuses the whole append
--
SELECT evtstore.create_projection('reserve', mode => 'sync', handlers => $${
    "Booked": "SELECT evtstore.append_if(jsonb_build_array(jsonb_build_object('type', 'Reserved', 'data', ($1).version, 'tags', ($1).tags)), jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', jsonb_build_array('Reserved'), 'tags', ($1).tags))))",
    "Echoed": "SELECT evtstore.append_if('[{\"type\": \"Echo\", \"data\": 1}]', jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', ($1).tags))))"
}$$);
SELECT version FROM evtstore.append('b-1', 'Booked', '{}', tags => '{seat-1}');
SELECT type, tags FROM evtstore.read_query(items('/seat-1'));
SELECT regexp_replace(fails($$SELECT evtstore.append('b-2', 'Booked', '{}', tags => '{seat-1}')$$), '(position"?:? ?"?)\d+|[0-9a-f-]{36}', '\1N', 'g');
SELECT evtstore.stream_version('b-2');
SELECT version FROM evtstore.append('b-2', 'Booked', '{}', tags => '{seat-2}');
-- its own event is one that matches
SELECT left(fails($$SELECT evtstore.append('b-3', 'Echoed', '{}', tags => '{echo}')$$), 5);
-- under a condition of its own, in a batch: the second one meets what the handler of the first wrote
SELECT left(fails($$SELECT evtstore.append_if('[{"type": "Booked", "data": 1, "tags": ["seat-3"]}, {"type": "Booked", "data": 2, "tags": ["seat-3"]}]', items('/seat-3'))$$), 5);
SELECT count(*) FROM evtstore.append_if('[{"type": "Booked", "data": 1, "tags": ["seat-3"]}, {"type": "Booked", "data": 2, "tags": ["seat-4"]}]', items('/seat-3', '/seat-4'));
SELECT string_agg(type || tags::text, ' ' ORDER BY position) FROM evtstore.events WHERE tags && '{seat-3,seat-4}';
SELECT evtstore.drop_projection('reserve');

--
-- savepoints: what was rolled back forbids nothing and is locked by nobody; what was released stays
--
BEGIN;
SAVEPOINT a;
SELECT try('S', '{s}', items('/s')), try('S', '{s}', items('/s')) LIKE 'ST003%' AS again, tag_locks();
ROLLBACK TO a;
SELECT tag_locks(), try('S', '{s}', items('S/'));
RELEASE a;
SELECT try('S', '{s}', items('/s')) LIKE 'ST003%' AS tag, try('S', '{s}', items('S/')) LIKE 'ST003%' AS type;
SAVEPOINT b;
SELECT try('S', '{s}', items('Other/')), type_locks();
ROLLBACK TO b;
SELECT type_locks();
COMMIT;
-- many of them, with more types than are announced one by one, rolled back, released and nested
BEGIN;
DO $$
BEGIN
    FOR i IN 1 .. 60 LOOP
        BEGIN
            PERFORM evtstore.append('many-' || i % 5, 'Many' || i, '{}', tags => ARRAY['n' || i]);
            BEGIN
                PERFORM evtstore.append_if(format('[{"type": "Inner%s", "data": 1}]', i)::jsonb, items('Inner' || i || '/'));
                IF i % 2 = 0 THEN RAISE SQLSTATE 'P0002'; END IF;
            EXCEPTION WHEN SQLSTATE 'P0002' THEN NULL;
            END;
            IF i % 3 = 0 THEN RAISE SQLSTATE 'P0001'; END IF;
        EXCEPTION WHEN SQLSTATE 'P0001' THEN NULL;
        END;
    END LOOP;
END $$;
SELECT count(*) FILTER (WHERE type LIKE 'Many%') AS many, count(*) FILTER (WHERE type LIKE 'Inner%') AS inner FROM evtstore.events;
-- a condition finds what is left of it, and only that
SELECT count(*) FILTER (WHERE try('P', '{}', items('Many' || i || '/')) LIKE 'ST003%') AS many, count(*) FILTER (WHERE try('P', '{}', items('Inner' || i || '/')) LIKE 'ST003%') AS inner
FROM generate_series(1, 60) i;
COMMIT;
-- afterwards nobody looks for conditions any more: an append locks no type
BEGIN;
SELECT (SELECT count(*) FROM evtstore.append('s-1', 'S', '{}')), type_locks();
COMMIT;

--
-- isolation levels: conditions look at what is committed, not at the snapshot (more in append_condition.spec)
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT try('L', '{rr}', items('/rr')), try('L', '{rr}', items('/rr')) LIKE 'ST003%' AS own, try('L', '{rr2}', items('L/')) LIKE 'ST003%' AS own_type, try('L', '{}', '{}') LIKE 'ST003%' AS everything;
-- its head is that of its snapshot: never above what it may not see
SELECT evtstore.head_position() <= (SELECT max(position) FROM evtstore.events) AS head, (SELECT count(*) FROM evtstore.read_query(items('/rr'))) AS read;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT try('L', '{ser}', items('/ser')), try('L', '{ser}', items('/ser')) LIKE 'ST003%' AS own;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT fails($$SELECT evtstore.append_if('[]', '{}')$$);
COMMIT;
SELECT (SELECT count(*) FROM evtstore.read_query(items('/rr'))) AS rr, (SELECT count(*) FROM evtstore.read_query(items('/ser'))) AS ser;

--
-- limits
--
-- a tag of 512 bytes, one byte more, in characters of two bytes; one that is the beginning of another
SELECT try('T', ARRAY[repeat('x', 512)], items('/' || repeat('x', 512))), try('T', ARRAY[repeat('x', 511)], items('/' || repeat('x', 511))),
       try('T', ARRAY[repeat('x', 512)], items('/' || repeat('x', 512))) LIKE 'ST003%' AS again, try('T', ARRAY[repeat('é', 256)], items('/' || repeat('é', 256)));
SELECT regexp_replace(fails(format($$SELECT evtstore.append_if('[{"type": "T", "data": 1, "tags": ["%s"]}]', '{}', 0)$$, repeat('x', 513))), 'x{9,}', 'x..', 'g');
SELECT regexp_replace(fails(format($$SELECT evtstore.append_if('[{"type": "T", "data": 1}]', '{"items": [{"tags": ["%s"]}]}')$$, repeat('é', 257))), 'é{9,}', 'é..', 'g');
SELECT regexp_replace(fails(format($$SELECT evtstore.read_query('{"items": [{"types": ["%s"]}]}')$$, repeat('x', 513))), 'x{9,}', 'x..', 'g');
SELECT try(repeat('T', 512), '{long}', items(repeat('T', 512) || '/long')), try(repeat('T', 512), '{long}', items(repeat('T', 512) || '/')) LIKE 'ST003%' AS again;
-- a thousand tags on one event: found by each, locked together
BEGIN;
SELECT try('K', ARRAY(SELECT 'k' || i FROM generate_series(1, 1000) i), items('/k1', '/k1000')), tag_locks() <= 2 AS few_locks;
COMMIT;
SELECT count(*) FILTER (WHERE try('P', '{}', items('K/k' || i)) LIKE 'ST003%') FROM generate_series(1, 1000) i;
SELECT count(*) FROM evtstore.read_query((SELECT jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', '["K"]'::jsonb, 'tags', jsonb_agg('k' || i)))) FROM generate_series(1, 1000) i));
SELECT count(*) FROM evtstore.read_query((SELECT jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', jsonb_agg('k' || i)))) FROM generate_series(1, 1001) i));
SELECT cardinality(tags) FROM evtstore.read_query(items('/k500'));
-- a thousand items and a thousand types: an event that several select comes once, in order
SELECT count(*), count(DISTINCT position), string_agg(DISTINCT type, ' ') FROM evtstore.read_query((SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('tags', jsonb_build_array('k' || i)))) FROM generate_series(1, 1000) i));
SELECT count(*) FROM evtstore.read_query((SELECT jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', jsonb_agg('Many' || i)))) FROM generate_series(1, 1000) i));
SELECT try('P', '{}', (SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('types', jsonb_build_array('Absent' || i), 'tags', jsonb_build_array('k' || i)))) FROM generate_series(1, 1000) i)) AS none,
       try('P', '{}', (SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('types', jsonb_build_array('Absent' || i)) ORDER BY i) || '[{"types": ["K"]}]') FROM generate_series(1, 999) i)) LIKE 'ST003%' AS last,
       try('P', '{}', (SELECT jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', jsonb_agg('Absent' || i)))) FROM generate_series(1, 1000) i)) AS types;
-- up to 256 items, each counted for each of its types, lock their tags one by one; a query with more locks as one on everything does
CREATE FUNCTION absent(n int, types jsonb DEFAULT '[]') RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('types', types, 'tags', jsonb_build_array('absent' || i)))) FROM generate_series(1, n) i $$;
BEGIN;
SELECT try('P', '{}', absent(256)), tag_locks(), type_locks();
COMMIT;
BEGIN;
SELECT try('P', '{}', absent(128, '["A", "B"]')), tag_locks(), type_locks();
COMMIT;
BEGIN;
SELECT try('P', '{}', absent(257)), tag_locks(), type_locks();
COMMIT;
BEGIN;
SELECT try('P', '{}', (SELECT jsonb_build_object('items', jsonb_agg(jsonb_build_object('tags', jsonb_build_array('absent' || i)))) FROM generate_series(1, 1000) i)), tag_locks(), type_locks();
COMMIT;
