--
-- append: every argument and every error; what is stored; savepoints, exception blocks, DO blocks; tenants.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET timezone = 'UTC';
SET datestyle = 'ISO';

--
-- the result, and what is stored
--
SELECT * FROM evtstore.append('order-1', 'OrderPlaced', '{"total": 10}');
SELECT * FROM evtstore.append('order-1', 'OrderPaid', '{}');
-- called once, whatever is taken from the row
SELECT (evtstore.append('order-1', 'OrderShipped', '{}')).*;
SELECT stream, version FROM evtstore.append('order-1', 'OrderClosed', '{}');
SELECT version, type FROM evtstore.read_stream('order-1');

-- every argument
SELECT * FROM evtstore.append(stream => 'order-2', type => 'OrderPlaced', data => '{"total": 20}', expected_version => 0,
    metadata => '{"user": "u1"}', tags => '{customer:7,region:eu}', id => '00000000-0000-7000-8000-000000000001',
    schema_version => 3, occurred_at => '2001-02-03 04:05:06.789+00', require => NULL);
SELECT "position", tenant, stream, version, id, type, schema_version, data, metadata, tags, occurred_at,
       recorded_at > now() - interval '1 minute' AND recorded_at <= clock_timestamp() AS recorded_now
FROM evtstore.read_stream('order-2');
-- and the defaults; NULL for one that has a default is the default
SELECT (evtstore.append('order-3', 'OrderPlaced', '{}')).version,
       (evtstore.append('order-3', 'OrderPlaced', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL)).version;
SELECT version, schema_version, metadata, tags, occurred_at = recorded_at AS same_time, tenant
FROM evtstore.read_stream('order-3');

-- ids are UUIDv7, growing, and tell the time
SELECT count(*) AS events, count(DISTINCT id) AS ids,
       bool_and(substr(id::text, 15, 1) = '7') AS version_7, bool_and(substr(id::text, 20, 1) IN ('8', '9', 'a', 'b')) AS variant,
       bool_and(abs(('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint
                    - extract(epoch FROM recorded_at) * 1000) < 1000) AS has_time
FROM evtstore.events WHERE id <> '00000000-0000-7000-8000-000000000001';
SELECT bool_and(id > previous) AS growing
FROM (SELECT id, lag(id) OVER (ORDER BY "position") AS previous FROM evtstore.events
      WHERE id <> '00000000-0000-7000-8000-000000000001') e;

--
-- bad arguments: one clear error each, nothing written
--
SELECT count(*) AS events_before FROM evtstore.events \gset
SELECT fails($$SELECT evtstore.append(NULL, 'T', '{}')$$);
SELECT fails($$SELECT evtstore.append('', 'T', '{}')$$);
SELECT fails($$SELECT evtstore.append(repeat('s', 1025), 'T', '{}')$$);
SELECT fails($$SELECT evtstore.append('s-1', NULL, '{}')$$);
SELECT fails($$SELECT evtstore.append('s-1', '', '{}')$$);
SELECT fails($$SELECT evtstore.append('s-1', repeat('t', 513), '{}')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', NULL)$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', expected_version => -1)$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', expected_version => -9223372036854775808)$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', metadata => '[]')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', metadata => '"text"')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', metadata => 'null')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', tags => '{a,NULL}')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', tags => '{a,""}')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', tags => '{{a,b},{c,d}}')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', tags => ARRAY[repeat('g', 513)])$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', schema_version => 0)$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', schema_version => -2147483648)$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', require => 'maybe')$$);
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}', require => '')$$);
-- what jsonb refuses by itself
SELECT left(fails($$SELECT evtstore.append('s-1', 'T', '{"a": "\u0000"}')$$), 5) AS escape,
       left(fails($$SELECT evtstore.append('s-1', 'T', '{a: 1}')$$), 5) AS syntax;
-- and the server, where no set may stand
SELECT left(fails($$SELECT CASE WHEN true THEN evtstore.append('s-1', 'T', '{}') END$$), 5) AS in_case,
       left(fails($$SELECT 1 WHERE evtstore.append('s-1', 'T', '{}') IS NULL$$), 5) AS in_where;
-- read-only transactions
BEGIN READ ONLY;
SELECT fails($$SELECT evtstore.append('s-1', 'T', '{}')$$);
COMMIT;
SELECT count(*) - :events_before AS written, evtstore.stream_version('s-1') FROM evtstore.events;

-- the longest that are taken
SELECT version FROM evtstore.append(repeat('s', 1024), repeat('t', 512), '{}', tags => ARRAY[repeat('g', 512), 'g2']);
SELECT length(stream) AS stream, length(type) AS type, length(tags[1]) AS tag FROM evtstore.read_stream(repeat('s', 1024));
-- a multi-byte name is counted in bytes
SELECT fails($$SELECT evtstore.append(repeat('ü', 513), 'T', '{}')$$) ~ 'stream is too long: 1026 bytes, at most 1024';

--
-- expected_version and require
--
CREATE FUNCTION try_append(stream text, expected bigint, require text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; detail text; r evtstore.append_result;
BEGIN
    r := evtstore.append(stream, 'Tried', '{}', expected_version => expected, require => require);
    RETURN 'version ' || r.version;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
    RETURN state || ' ' || detail;
END $$;
SELECT try_append('new-1', NULL), try_append('new-2', 0), try_append('new-3', 1), try_append('new-4', 9223372036854775807);
SELECT try_append('new-1', NULL), try_append('new-2', 0), try_append('new-2', 2), try_append('new-2', 1);
SELECT try_append('new-5', NULL, 'exists'), try_append('new-5', 0, 'exists'), try_append('new-5', 1, 'exists');
SELECT try_append('new-1', NULL, 'exists'), try_append('new-1', 3, 'exists'), try_append('new-1', 0, 'exists');
SELECT try_append('new-5', NULL, 'deleted'), try_append('new-1', NULL, 'deleted'), try_append('new-1', 4, 'deleted');
SELECT evtstore.stream_version('new-' || n) AS version FROM generate_series(1, 5) n;
-- the error in full; DETAIL is JSON for programs, also with a name that needs escaping
SELECT fails($$SELECT evtstore.append('new-1', 'T', '{}', expected_version => 0)$$);
SELECT fails($$SELECT evtstore.append('new-5', 'T', '{}', require => 'exists')$$);
SELECT fails($$SELECT evtstore.append('new-1', 'T', '{}', require => 'deleted')$$);
SELECT (regexp_match(fails($$SELECT evtstore.append(E'a"b\\c\nd', 'T', '{}', expected_version => 1)$$), 'DETAIL (.*)\n'))[1]::jsonb;

SET evtstore.require_expected_version = on;
SELECT fails($$SELECT evtstore.append('new-1', 'T', '{}')$$);
SELECT fails($$SELECT evtstore.append('new-1', 'T', '{}', require => 'exists')$$);
SELECT try_append('new-1', 4);
RESET evtstore.require_expected_version;

--
-- metadata from settings; a key that the caller gives wins
--
SET evtstore.correlation_id = 'c-1';
SET evtstore.causation_id = 'ca"use';
SET evtstore.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
SET evtstore.actor = 'alice';
SELECT 1 FROM evtstore.append('meta-1', 'T', '{}');
SELECT 1 FROM evtstore.append('meta-1', 'T', '{}', metadata => '{"actor": "bob", "correlation_id": null, "other": [1]}');
SELECT 1 FROM evtstore.append('meta-1', 'T', '{}', metadata => NULL);
SELECT metadata FROM evtstore.read_stream('meta-1');
RESET evtstore.correlation_id;
RESET evtstore.causation_id;
RESET evtstore.traceparent;
SELECT 1 FROM evtstore.append('meta-1', 'T', '{}');
RESET evtstore.actor;
SELECT 1 FROM evtstore.append('meta-1', 'T', '{}');
SELECT metadata FROM evtstore.read_stream('meta-1', 3);

--
-- data goes in and comes out as it is
--
SELECT count(*) FROM unnest(ARRAY[
    '{"n": 9007199254740993}', '{"n": 1e400}', '{"n": 0.10}', '{"n": -0.00000000000000000000000000001}', '1', '"text"', 'null', 'true',
    '[]', '{}', '[1, [2, {"a": null}]]', '{"": {"ü": "ß😀\n\u0001"}}']::jsonb[]) WITH ORDINALITY d(data, n),
    evtstore.append('data-1', 'T', d.data);
SELECT version, CASE WHEN length(data::text) < 100 THEN data::text ELSE length(data::text) || ' characters' END AS data
FROM evtstore.read_stream('data-1');
SELECT data->>'n' = '1' || repeat('0', 400) AS digits_kept FROM evtstore.read_stream('data-1', 1, 1);

-- big ones are TOASTed, compressible or not; as is metadata
CREATE TABLE big AS SELECT jsonb_build_object('t', repeat('x', 1000000)) AS same,
    jsonb_build_object('t', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 31250) n)) AS mixed;
SELECT version FROM big, evtstore.append('big-1', 'T', same, metadata => mixed);
SELECT version FROM big, evtstore.append('big-1', 'T', mixed);
SELECT e.version, e.data = CASE e.version WHEN 1 THEN same ELSE mixed END AS data_kept, e.metadata = '{}' AS no_metadata,
       length(e.data->>'t') AS length
FROM big, evtstore.read_stream('big-1') e;
-- arguments out of a row whose values are TOASTed, and arrays that PL/pgSQL keeps expanded
CREATE TABLE args (stream text, type text, data jsonb, tags text[]);
ALTER TABLE args ALTER stream SET STORAGE EXTERNAL, ALTER type SET STORAGE EXTERNAL, ALTER data SET STORAGE EXTERNAL,
    ALTER tags SET STORAGE EXTERNAL;
INSERT INTO args SELECT 'toasted-' || repeat('s', 1000), repeat('t', 512), jsonb_build_object('d', repeat('d', 5000)),
    (SELECT array_agg(repeat('g', 400) || n) FROM generate_series(1, 10) n);
SELECT version FROM args, evtstore.append(stream, type, data, tags => tags);
SELECT e.stream = a.stream AS stream, e.type = a.type AS type, e.data = a.data AS data, e.tags = a.tags AS tags
FROM args a, evtstore.read_stream(a.stream) e;
DO $$
DECLARE
    t text[] := '{}';
BEGIN
    FOR n IN 1..100 LOOP
        t := t || ('tag' || n);
    END LOOP;
    t[1] := 'first';
    PERFORM evtstore.append('expanded-1', 'T', '{}', tags => t);
    t[1] := 'changed later';
END $$;
SELECT cardinality(tags) AS tags, tags[1], tags[100] FROM evtstore.read_stream('expanded-1');
-- other lower bounds are kept as they are
SELECT 1 FROM evtstore.append('expanded-1', 'T', '{}', tags => '[0:1]={a,b}');
SELECT tags FROM evtstore.read_stream('expanded-1', 1);

-- occurred_at: any time there is
SELECT 1 FROM evtstore.append('time-1', 'T', '{}', occurred_at => 'infinity');
SELECT 1 FROM evtstore.append('time-1', 'T', '{}', occurred_at => '-infinity');
SELECT 1 FROM evtstore.append('time-1', 'T', '{}', occurred_at => '4000-01-01 BC');
SELECT occurred_at FROM evtstore.read_stream('time-1');

--
-- within transactions
--
-- own appends count; several streams; versions go on after each savepoint as if what was rolled back had never been
BEGIN;
SELECT try_append('tx-1', 0), try_append('tx-1', 1), try_append('tx-2', 0);
SAVEPOINT a;
SELECT try_append('tx-1', 2), try_append('tx-3', 0);
SAVEPOINT b;
SELECT try_append('tx-1', 3), try_append('tx-3', 1), try_append('tx-4', 0);
ROLLBACK TO b;
SELECT try_append('tx-1', 3), try_append('tx-3', 1), try_append('tx-4', 1), try_append('tx-4', 0);
ROLLBACK TO a;
SELECT try_append('tx-1', 4), try_append('tx-1', 2), try_append('tx-3', 1), try_append('tx-3', 0), try_append('tx-4', 0);
RELEASE a;
SELECT try_append('tx-1', 3), try_append('tx-3', 1), try_append('tx-4', 1);
COMMIT;
SELECT stream, version FROM evtstore.streams WHERE stream LIKE 'tx-%' ORDER BY stream;
SELECT stream, array_agg(version ORDER BY "position") AS versions FROM evtstore.events WHERE stream LIKE 'tx-%'
GROUP BY stream ORDER BY stream;
-- a stream that a rollback took back is new again, in the same session
BEGIN;
SELECT try_append('tx-5', 0), try_append('tx-5', 1);
ROLLBACK;
SELECT evtstore.stream_version('tx-5'), try_append('tx-5', 1), try_append('tx-5', 0), try_append('tx-5', 1);
-- of a stream that was there before, only what came since
SELECT try_append('tx-7', 0);
BEGIN;
SELECT try_append('tx-7', 1);
SAVEPOINT a;
SELECT try_append('tx-7', 2), try_append('tx-7', 3);
ROLLBACK TO a;
SELECT try_append('tx-7', 4), try_append('tx-7', 2);
SAVEPOINT b;
SELECT try_append('tx-7', 3);
RELEASE b;
SELECT try_append('tx-7', 4);
ROLLBACK;
SELECT try_append('tx-7', 5), try_append('tx-7', 1), evtstore.stream_version('tx-7');
-- an error in the middle of a statement takes all of it back
SELECT fails($$SELECT evtstore.append('tx-6', 'T', to_jsonb(1 / (3 - n))) FROM generate_series(1, 3) n$$);
SELECT evtstore.stream_version('tx-6');

-- exception blocks: what the block wrote is gone, what came before and after stays
DO $$
BEGIN
    PERFORM evtstore.append('block-1', 'Before', '{}');
    FOR n IN 1..3 LOOP
        BEGIN
            PERFORM evtstore.append('block-1', 'Inside', to_jsonb(n));
            PERFORM evtstore.append('block-' || n + 1, 'Inside', to_jsonb(n));
            IF n <> 2 THEN
                RAISE EXCEPTION 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
    PERFORM evtstore.append('block-1', 'After', '{}', expected_version => 2);
    PERFORM evtstore.append('block-2', 'After', '{}', expected_version => 0);
END $$;
SELECT stream, version, type, data FROM evtstore.events WHERE stream LIKE 'block-%' ORDER BY "position";

-- a DO block that commits: each part by itself
DO $$
BEGIN
    FOR n IN 1..6 LOOP
        PERFORM evtstore.append('do-1', 'T', to_jsonb(n));
        IF n % 3 = 0 THEN
            ROLLBACK;
        ELSIF n % 2 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
    PERFORM evtstore.append('do-1', 'T', '"last"', expected_version => 3);
END $$;
SELECT version, data FROM evtstore.read_stream('do-1');

-- in one statement: rows that a query appends are in the order of its calls; a cursor that is not read to its end stops there
SELECT count(*) AS calls, bool_and(version = n) AS in_order
FROM (SELECT n, (evtstore.append('many-1', 'T', to_jsonb(n))).version FROM generate_series(1, 1000) n) r;
BEGIN;
DECLARE c CURSOR FOR SELECT (evtstore.append('many-2', 'T', to_jsonb(n))).version FROM generate_series(1, 1000) n;
FETCH 3 FROM c;
CLOSE c;
COMMIT;
SELECT evtstore.stream_version('many-2');
SELECT (evtstore.append('many-2', 'T', to_jsonb(n))).version FROM generate_series(1, 1000) n LIMIT 2;
SELECT evtstore.stream_version('many-2');
PREPARE appending(text, bigint) AS SELECT version FROM evtstore.append($1, 'T', '{}', $2);
EXECUTE appending('many-2', 5);
EXECUTE appending('many-2', 6);
EXECUTE appending('many-3', 0);
DEALLOCATE appending;

--
-- tenants: streams, versions and ids are theirs alone
--
SET evtstore.tenant = 'acme';
SELECT * FROM evtstore.append('order-1', 'OrderPlaced', '{}', expected_version => 0, id => '00000000-0000-7000-8000-000000000001') \gset
SELECT :'stream' AS stream, :version AS version, :'duplicate' AS duplicate;
SELECT tenant, stream, version, type FROM evtstore.events;
SELECT tenant, stream, version FROM evtstore.streams;
SET evtstore.tenant = 'globex';
SELECT evtstore.stream_version('order-1'), try_append('order-1', 1), try_append('order-1', 0);
SELECT tenant, stream, version, type FROM evtstore.events;
RESET evtstore.tenant;
SELECT tenant, stream, version FROM evtstore.streams WHERE stream = 'order-1' ORDER BY tenant;
-- within a transaction the setting of the moment counts
BEGIN;
SET LOCAL evtstore.tenant = 'acme';
SELECT try_append('order-1', 1);
SET LOCAL evtstore.tenant = 'globex';
SELECT try_append('order-1', 1);
COMMIT;
SELECT tenant, stream, version FROM evtstore.streams WHERE stream = 'order-1' ORDER BY tenant;
SELECT left(fails($$SET evtstore.tenant = $$ || quote_literal(repeat('t', 256))), 5) AS too_long;

-- all in all: versions have no gap, nothing is there twice
SELECT count(*) AS broken FROM (
    SELECT tenant, stream, version, row_number() OVER (PARTITION BY tenant, stream ORDER BY "position") AS expected FROM evtstore.events) e
WHERE version IS DISTINCT FROM expected;
