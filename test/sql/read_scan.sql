--
-- A read function in FROM is a node of the plan that hands out a row at a time, of one moment.  Everywhere else it is called.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

SELECT count(*) FROM generate_series(1, 20) n, evtstore.append('s-' || n % 2, 'T' || n % 3, jsonb_build_object('n', n));
-- one that is stored out of line, as it comes
SELECT count(*) FROM evtstore.append('big-1', 'Big', to_jsonb((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n)));

--
-- where the node stands, and what it says of itself
--
EXPLAIN (COSTS OFF) SELECT * FROM evtstore.read_all() LIMIT 3;
EXPLAIN (COSTS OFF, VERBOSE) SELECT type FROM evtstore.read_all(3, 5) WHERE version > 2;
EXPLAIN (COSTS OFF, VERBOSE) SELECT count(*) FROM evtstore.read_stream('s-1', backwards => true);
EXPLAIN (COSTS OFF) SELECT r FROM evtstore.read_category('s', max_count => 1) r;
EXPLAIN (COSTS OFF) SELECT s.stream, r.version FROM evtstore_internal.stream t, LATERAL (SELECT t.name AS stream) s, evtstore.read_stream(t.name) r;
EXPLAIN (COSTS OFF) SELECT * FROM evtstore.read_all() WITH ORDINALITY;
EXPLAIN (COSTS OFF) SELECT * FROM ROWS FROM (evtstore.read_all(), generate_series(1, 2)) x;
EXPLAIN (COSTS OFF) SELECT evtstore.read_all();
-- the order of the index spares a sort, where the direction is known
EXPLAIN (COSTS OFF) SELECT * FROM evtstore.read_all() ORDER BY position LIMIT 1;
EXPLAIN (COSTS OFF) SELECT * FROM evtstore.read_all(backwards => true) ORDER BY position DESC;
EXPLAIN (COSTS OFF) SELECT * FROM evtstore.read_stream('s-1') ORDER BY version;
EXPLAIN (COSTS OFF) SELECT * FROM evtstore.read_all() ORDER BY position DESC;
-- rows are estimated by max_count
CREATE FUNCTION plan_rows(query text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || query INTO plan;
    RETURN plan #>> '{0,Plan,Plan Rows}';
END $$;
SELECT plan_rows('SELECT * FROM evtstore.read_all(max_count => 7)'), plan_rows('SELECT * FROM evtstore.read_stream(''s-1'', max_count => 0)');

--
-- columns, whole rows, quals, joins
--
SELECT position, stream, version, type, data FROM evtstore.read_all(3, 4);
SELECT r FROM (SELECT r.position, r.stream FROM evtstore.read_all(3, 2) r) r;
SELECT (r).stream, (r).version, r IS NULL AS isnull, to_jsonb(r)->'data' AS data FROM evtstore.read_all(3, 1) r;
SELECT position FROM evtstore.read_all() WHERE type = 'T0' AND version > 5;
SELECT count(*) FROM evtstore.read_all() WHERE false;
SELECT count(*), count(r), sum(length(data::text)) FROM evtstore.read_all() r;
SELECT length(r.data #>> '{}'), length((r).data #>> '{}'), length(to_jsonb(r) ->> 'data') FROM evtstore.read_stream('big-1') r;
SELECT a.position, b.position FROM evtstore.read_stream('s-0') a JOIN evtstore.read_stream('s-1') b USING (version) WHERE version < 4;
SELECT n, r.position FROM generate_series(0, 2) n LEFT JOIN LATERAL evtstore.read_stream('s-' || n, max_count => 2) r ON true;
SELECT n, r.position FROM generate_series(0, 2) n LEFT JOIN LATERAL evtstore.read_stream('s-' || n, max_count => n) r ON r.version = n;
SELECT n, (SELECT string_agg(position::text, ',') FROM evtstore.read_all(n * 10, 3, n = 2)) FROM generate_series(0, 2) n;
SELECT n, (SELECT count(*) FROM evtstore.read_all() WHERE version = n) FROM generate_series(1, 3) n;
SELECT position FROM evtstore.read_all((SELECT max(position) - 2 FROM evtstore.events));
SELECT n, (SELECT count(*) FROM evtstore.read_all((SELECT max(position) - n FROM evtstore.events WHERE position > n))) FROM generate_series(1, 2) n;
SELECT position FROM evtstore.read_stream('s-0', max_count => 2) UNION ALL SELECT position FROM evtstore.read_all(19, 1) ORDER BY 1;
CREATE VIEW pages AS SELECT position, stream, coalesce(type, 'none') AS type FROM evtstore.read_all(5);
SELECT * FROM pages LIMIT 2;
SELECT n, p.type, p.stream FROM generate_series(5, 7) n LEFT JOIN pages p ON p.position = n ORDER BY n;
SELECT x.name, r.version FROM generate_series(0, 1) n LEFT JOIN LATERAL (SELECT coalesce('s-' || n, 'x') AS name WHERE n > 0) x ON true
    LEFT JOIN LATERAL evtstore.read_stream(coalesce(x.name, 'none'), max_count => 1) r ON true ORDER BY n;
CREATE TABLE copied AS SELECT * FROM evtstore.read_all(max_count => 4);
INSERT INTO copied SELECT (r).* FROM evtstore.read_all(19) r;
SELECT count(*), sum(length(data::text)) FROM copied;
DROP TABLE copied;
DROP VIEW pages;
COPY (SELECT position, stream FROM evtstore.read_all(3, 2)) TO STDOUT;
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT count(*), bool_and(a.id = b.id) FROM evtstore.read_all() a JOIN evtstore.read_all() b USING (position);
RESET ALL;
-- an inner side that is walked again, and not kept
SET enable_material = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_memoize = off;
SELECT count(*), count(b.position), count(DISTINCT b.position) FROM evtstore.read_all() a LEFT JOIN evtstore.read_all(max_count => 5) b ON a.position = b.position + 1;
RESET ALL;
-- in a list, and stopped early
SELECT (r).position FROM (SELECT evtstore.read_all() r LIMIT 2) x;
SELECT n, (evtstore.read_stream('s-' || n, max_count => 1)).version FROM generate_series(0, 2) n;

--
-- prepared, with constants and without
--
PREPARE page(bigint, bigint, boolean) AS SELECT position FROM evtstore.read_all($1, $2, $3);
EXECUTE page(3, 2, false);
SET plan_cache_mode = force_generic_plan;
EXPLAIN (COSTS OFF) EXECUTE page(3, 2, false);
EXECUTE page(3, 2, false);
EXECUTE page(3, 2, true);
EXECUTE page(NULL, 1, NULL);
PREPARE newest(boolean) AS SELECT position FROM evtstore.read_all(backwards => $1) ORDER BY position DESC LIMIT 1;
EXPLAIN (COSTS OFF) EXECUTE newest(true);
EXECUTE newest(true);
EXECUTE newest(false);
SELECT fails('EXECUTE page(-1, 2, true)');
EXECUTE page(3, 1, false);
RESET plan_cache_mode;

--
-- cursors: forward, back, held, over savepoints; the moment is that of the first row
--
BEGIN;
DECLARE c CURSOR FOR SELECT position FROM evtstore.read_all();
DECLARE s SCROLL CURSOR FOR SELECT position FROM evtstore.read_all();
DECLARE own CURSOR FOR SELECT version FROM evtstore.read_stream('s-0', 9);
FETCH 2 FROM c;
SELECT version FROM evtstore.append('s-0', 'Own', '1');
FETCH 1 FROM own;
SELECT version FROM evtstore.append('s-0', 'Own', '2');
FETCH 2 FROM own;
FETCH 2 FROM own;
FETCH 3 FROM s;
MOVE BACKWARD 2 FROM s;
FETCH 2 FROM s;
FETCH LAST FROM s;
FETCH ABSOLUTE 2 FROM s;
SAVEPOINT a;
FETCH 2 FROM c;
DECLARE inside CURSOR FOR SELECT position FROM evtstore.read_all();
FETCH 1 FROM inside;
ROLLBACK TO a;
FETCH 2 FROM c;
DECLARE later CURSOR FOR SELECT position FROM evtstore.read_all(backwards => true);
SAVEPOINT b;
FETCH 1 FROM later;
ROLLBACK TO b;
FETCH 2 FROM later;
SELECT fails('FETCH BACKWARD 1 FROM c');
CLOSE s;
COMMIT;
BEGIN;
DECLARE held CURSOR WITH HOLD FOR SELECT position, length(data::text) FROM evtstore.read_all(19);
FETCH 1 FROM held;
DECLARE untouched SCROLL CURSOR WITH HOLD FOR SELECT position FROM evtstore.read_all(max_count => 2);
COMMIT;
FETCH ALL FROM held;
FETCH ALL FROM untouched;
FETCH FIRST FROM untouched;
CLOSE ALL;

--
-- PL/pgSQL: what the body appends is not of the moment; errors in the middle; commits in the middle
--
DO $$
DECLARE
    r record;
    n int := 0;
BEGIN
    FOR r IN SELECT * FROM evtstore.read_stream('s-1') LOOP
        PERFORM evtstore.append('s-1', 'Again', r.data);
        n := n + 1;
    END LOOP;
    RAISE NOTICE '% events, now %', n, evtstore.stream_version('s-1');
    BEGIN
        FOR r IN SELECT position, 1 / (position - 3) AS broken FROM evtstore.read_all() LOOP
            n := n + 1;
        END LOOP;
    EXCEPTION WHEN division_by_zero THEN
        RAISE NOTICE 'broken after %', n;
    END;
    FOR r IN SELECT * FROM evtstore.read_all() LOOP
        EXIT WHEN r.position = 5;
    END LOOP;
    RAISE NOTICE 'stopped at %', r.position;
END $$;
CREATE PROCEDURE in_steps() LANGUAGE plpgsql AS $$
DECLARE
    r record;
    seen text := '';
BEGIN
    FOR r IN SELECT position, length(data::text) AS len FROM evtstore.read_all() WHERE position < 5 OR type = 'Big' LOOP
        seen := seen || ' ' || r.position || ':' || r.len;
        COMMIT;
    END LOOP;
    RAISE NOTICE '%', seen;
END $$;
CALL in_steps();
SELECT fails('SELECT 1 / (position - 3) FROM evtstore.read_all()');
SELECT fails('SELECT (r).position, 1 / ((r).position - 3) FROM (SELECT evtstore.read_all() r) x');
-- a SQL function that hands out a row at a time
CREATE FUNCTION lazily() RETURNS SETOF bigint LANGUAGE sql VOLATILE AS 'SELECT position FROM evtstore.read_all()';
SELECT lazily() LIMIT 2;

--
-- who may: as the executor asks for a call
--
CREATE ROLE reads_nobody;
CREATE VIEW through AS SELECT position FROM evtstore.read_all();
GRANT SELECT ON through TO reads_nobody;
GRANT USAGE ON SCHEMA evtstore TO reads_nobody;
CREATE FUNCTION as_owner() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT max(position) FROM evtstore.read_all(max_count => 2)';
PREPARE kept AS SELECT count(*) FROM evtstore.read_all(max_count => 2);
EXECUTE kept;
SET ROLE reads_nobody;
SELECT fails('SELECT count(*) FROM evtstore.read_all()');
SELECT fails('EXPLAIN SELECT count(*) FROM evtstore.read_all()');
SELECT fails('SELECT count(*) FROM through');
SELECT fails('EXECUTE kept');
SELECT as_owner();
RESET ROLE;
DROP VIEW through;
DROP FUNCTION as_owner, lazily;
DROP OWNED BY reads_nobody;
DROP ROLE reads_nobody;

-- the tenant is that of the moment
SELECT count(*) FROM evtstore.append('s-1', 'T', '1');
BEGIN;
SET LOCAL evtstore.tenant = 'acme';
SELECT count(*) FROM evtstore.append_events('s-1', '[{"type": "T", "data": 1}, {"type": "T", "data": 2}]');
DECLARE c CURSOR FOR SELECT tenant, version FROM evtstore.read_stream('s-1');
FETCH 1 FROM c;
SET LOCAL evtstore.tenant = '';
FETCH ALL FROM c;
ROLLBACK;

--
-- what was altered must be called; what was made anew is planned anew
--
ALTER FUNCTION evtstore.read_all(bigint, bigint, boolean) SET evtstore.tenant = 'nobody';
EXPLAIN (COSTS OFF) EXECUTE kept;
EXECUTE kept;
ALTER FUNCTION evtstore.read_all(bigint, bigint, boolean) RESET ALL;
EXECUTE kept;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM evtstore.read_all();
MOVE 1 FROM c;
SET LOCAL evtstore.allow_drop = on;
SELECT left(fails('DROP EXTENSION evtstore'), 5);
ROLLBACK;
