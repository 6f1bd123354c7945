--
-- import_events: columns, versions, ids, batches, what an error leaves.  Crashes, and other stores as the source, are in
-- test/t/011_import.pl.  A procedure that commits cannot be called by fails(): the SQLSTATE is printed after each error.
--
\set QUIET on
\set VERBOSITY default
\pset format unaligned
\pset null '(null)'
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- the required columns; types are cast
CREATE TABLE src (position int PRIMARY KEY, stream varchar(20), type char(4), data json);
INSERT INTO src VALUES (-5, 'a-1', 'T', '1'), (2, 'b-1', 'T', '{"n": 9007199254740993}'), (3, 'a-1', 'Long', 'null'), (7, 'a-1', 'T', '[]');
CALL evtstore.import_events('SELECT * FROM src', source => 'plain');
SELECT position, stream, version, type, schema_version, data, metadata, tags, occurred_at = recorded_at AS now FROM evtstore.events ORDER BY position;
SELECT tenant, source, position, imported, skipped, updated_at >= started_at AS times FROM evtstore.import_status;
-- again: nothing is new; then it goes on behind what it has
CALL evtstore.import_events('SELECT * FROM src', source => 'plain');
INSERT INTO src VALUES (8, 'b-1', 'T', '8'), (1, 'b-1', 'T', '"too late"');
CALL evtstore.import_events('SELECT * FROM src', source => 'plain');
SELECT stream, version, data FROM evtstore.events WHERE position > 4;
SELECT position, imported, skipped FROM evtstore.import_status;
-- without a source its name is a hash of the query, whose end does not count
CALL evtstore.import_events('SELECT 1::smallint AS position, ''c-1'' AS stream, ''T'' AS type, ''{}''::text AS data -- all');
CALL evtstore.import_events(E'SELECT 1::smallint AS position, ''c-1'' AS stream, ''T'' AS type, ''{}''::text AS data -- all;\n ; ');
CALL evtstore.import_events(query => 'VALUES (1)', batch => 7); \echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM evtstore.events WHERE stream = 'c-1';
-- an empty source is no error
CALL evtstore.import_events('SELECT * FROM src WHERE false', source => 'empty');
SELECT count(*) FROM evtstore.import_status WHERE source = 'empty';

-- every column
CREATE TABLE every (position bigint, stream text, type text, data jsonb, version int, id uuid, metadata json, tags varchar[],
                    schema_version smallint, occurred_at timestamptz);
INSERT INTO every VALUES
    (1, 'e-1', 'T', '{"a": 1.50}', 0, '00000000-0000-4000-8000-000000000001', '{"by": "me"}', '{x,y}', 3, '2001-02-03 04:05:06.789012Z'),
    (2, 'e-1', 'T', '2', 1, NULL, NULL, NULL, NULL, NULL),
    (3, 'e-1', 'T', '3', 2, '00000000-0000-4000-8000-000000000003', 'null', '{}', 1, 'infinity');
SET evtstore.actor = 'importer';
CALL evtstore.import_events('SELECT * FROM every', source => 'every');
RESET evtstore.actor;
SELECT version, data, CASE version WHEN 2 THEN NULL ELSE substr(id::text, 36) END AS id, metadata, tags, schema_version, occurred_at = recorded_at AS now, CASE version WHEN 2 THEN NULL ELSE occurred_at END AS occurred_at,
       recorded_at > now() - interval '1 h' AS recorded FROM evtstore.read_stream('e-1');
SELECT substr(id::text, 15, 1) AS made FROM evtstore.read_stream('e-1') WHERE version = 2;

--
-- versions: a source counts from 0 or from 1, and each event must follow
--
CREATE TABLE v (position bigint PRIMARY KEY, stream text, version bigint, type text DEFAULT 'T', data jsonb DEFAULT '{}');
INSERT INTO v VALUES (1, 'v-1', 1), (2, 'v-2', 1), (3, 'v-1', 2);
CALL evtstore.import_events('SELECT * FROM v', source => 'one');
-- what was counted from 1 does not count from 0 later: not a gap, not a repetition
INSERT INTO v VALUES (4, 'v-3', 0);
CALL evtstore.import_events('SELECT * FROM v', source => 'one'); \echo :LAST_ERROR_SQLSTATE
UPDATE v SET stream = 'v-1', version = 2 WHERE position = 4;
CALL evtstore.import_events('SELECT * FROM v', source => 'one'); \echo :LAST_ERROR_SQLSTATE
UPDATE v SET version = 4 WHERE position = 4;
CALL evtstore.import_events('SELECT * FROM v', source => 'one'); \echo :LAST_ERROR_SQLSTATE
UPDATE v SET version = 3 WHERE position = 4;
CALL evtstore.import_events('SELECT * FROM v', source => 'one');
SELECT stream, version FROM evtstore.events WHERE stream LIKE 'v-%' ORDER BY position;
-- from 0, over batches
TRUNCATE v;
INSERT INTO v SELECT i, 'z-' || i % 3, i / 3 FROM generate_series(0, 8) i;
CALL evtstore.import_events('SELECT * FROM v', batch => 2, source => 'zero');
SELECT stream, array_agg(version ORDER BY position) FROM evtstore.events WHERE stream LIKE 'z-%' GROUP BY stream ORDER BY stream;
INSERT INTO v VALUES (10, 'z-0', 4);
CALL evtstore.import_events('SELECT * FROM v', source => 'zero'); \echo :LAST_ERROR_SQLSTATE
-- the beginning of a stream is missing in the source: refused, or numbered anew
TRUNCATE v;
INSERT INTO v VALUES (1, 'h-1', 7), (2, 'h-1', 8);
CALL evtstore.import_events('SELECT * FROM v', source => 'hole'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, type, data FROM v', source => 'hole');
-- a stream that goes on here was not left as the source has it
SELECT version FROM evtstore.append('h-1', 'T', '"here"');
INSERT INTO v VALUES (3, 'h-1', 3);
CALL evtstore.import_events('SELECT * FROM v', source => 'hole2'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, type, data FROM v', source => 'hole');
SELECT version, data FROM evtstore.read_stream('h-1');

--
-- ids: a UUID is kept, of another text a UUIDv5 is made whose text is kept in the metadata
--
CREATE TABLE i (position bigint PRIMARY KEY, id text, stream text DEFAULT 'i-1', type text DEFAULT 'T', data jsonb DEFAULT '{}', metadata jsonb);
INSERT INTO i VALUES (1, '00000000-0000-4000-8000-00000000AbCd'), (2, 'evt-1'), (3, '6512bd43d9caa6e02c990b0a82652dca'), (4, NULL);
UPDATE i SET metadata = '{"a": 1, "imported_id": "of long ago"}' WHERE position = 2;
CALL evtstore.import_events('SELECT * FROM i', source => 'ids');
SELECT version, CASE version WHEN 4 THEN NULL ELSE id END AS id, metadata FROM evtstore.read_stream('i-1');
-- numbers are texts too
CALL evtstore.import_events('SELECT position, position AS id, ''i-2'' AS stream, type, data FROM i', source => 'numbers');
SELECT array_agg(metadata ->> 'imported_id' ORDER BY version) AS ids, count(DISTINCT id) FROM evtstore.read_stream('i-2');
-- the same event again, from wherever: skipped and counted; what is new goes in
INSERT INTO i VALUES (5, 'evt-5');
CALL evtstore.import_events('SELECT * FROM i WHERE position <> 4 AND id ~ ''-4000-|-5''', source => 'ids again');
-- the texts of another source are other ids
SELECT version, metadata FROM evtstore.read_stream('i-1', 4);
SELECT position, imported, skipped FROM evtstore.import_status WHERE source = 'ids again';
-- the same event twice in the source, one after the other and further on
INSERT INTO i VALUES (6, 'twice', 'i-3'), (7, 'twice', 'i-3'), (8, 'between', 'i-4'), (9, 'twice', 'i-3'), (10, 'after', 'i-3');
CALL evtstore.import_events('SELECT * FROM i WHERE position BETWEEN 6 AND 10', source => 'twice');
SELECT stream, version, metadata ->> 'imported_id' AS id FROM evtstore.events WHERE stream IN ('i-3', 'i-4') ORDER BY position;
-- the same id with other content, next to it, further on, in another stream
INSERT INTO i VALUES (11, 'c1', 'i-5', 'T'), (12, 'c1', 'i-5', 'U');
CALL evtstore.import_events('SELECT * FROM i WHERE position BETWEEN 11 AND 19', source => 'c'); \echo :LAST_ERROR_SQLSTATE
UPDATE i SET type = 'T', stream = 'i-6' WHERE position = 12;
CALL evtstore.import_events('SELECT * FROM i WHERE position BETWEEN 11 AND 19', source => 'c', batch => 1); \echo :LAST_ERROR_SQLSTATE
-- what came before is there, and it goes on from there
SELECT position, imported FROM evtstore.import_status WHERE source = 'c';
UPDATE i SET id = 'c2' WHERE position = 12;
CALL evtstore.import_events('SELECT * FROM i WHERE position BETWEEN 11 AND 19', source => 'c');
SELECT stream, version FROM evtstore.events WHERE stream IN ('i-5', 'i-6') ORDER BY position;

--
-- sync projections fold what is imported, rules leave it alone
--
CREATE TABLE folded (stream text, version bigint);
SELECT evtstore.create_projection('folded', '{"*": "INSERT INTO folded VALUES (($1).stream, ($1).version)"}', 'sync', '{"categories": ["p"]}');
SELECT evtstore.create_queue('q');
SELECT evtstore.create_rule('r', '{}', 'queue:q');
CREATE TABLE p (position bigint PRIMARY KEY, stream text, type text DEFAULT 'T', data jsonb DEFAULT '{}');
INSERT INTO p SELECT n, 'p-' || n % 2 FROM generate_series(1, 5) n;
CALL evtstore.import_events('SELECT * FROM p', source => 'p');
SELECT * FROM folded;
SELECT ready FROM evtstore.queue_status WHERE name = 'q';
-- ordinary appends after it are acted upon, also after an import that failed
SELECT version FROM evtstore.append('p-1', 'T', '{}');
INSERT INTO p VALUES (6, 'p-1', 'Bad');
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = 'RF001'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON folded FOR EACH ROW WHEN (NEW.version = 5) EXECUTE FUNCTION refuse();
\set VERBOSITY terse
CALL evtstore.import_events('SELECT * FROM p', source => 'p'); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
SELECT position, imported FROM evtstore.import_status WHERE source = 'p';
DROP TRIGGER refuse ON folded;
SELECT version FROM evtstore.append('p-0', 'T', '{}');
SELECT ready FROM evtstore.queue_status WHERE name = 'q';
SELECT evtstore.drop_rule('r'), evtstore.drop_projection('folded');

--
-- tenants
--
SET evtstore.tenant = 'acme';
CALL evtstore.import_events('SELECT * FROM p', source => 'p');
SELECT DISTINCT tenant FROM evtstore.read_all();
SELECT tenant, source, position FROM evtstore.import_status;
RESET evtstore.tenant;
SELECT count(*) FROM evtstore.import_status WHERE source = 'p';

--
-- batches: each a transaction
--
TRUNCATE p;
INSERT INTO p SELECT n, 'batch-1' FROM generate_series(1, 10) n;
CALL evtstore.import_events('SELECT * FROM p', batch => 4, source => 'batches');
SELECT array_agg(n) FROM (SELECT count(*) AS n FROM evtstore_internal.event e JOIN evtstore_internal.stream s ON s.id = e.stream_id
    WHERE s.name = 'batch-1' GROUP BY e.xmin::text ORDER BY min(e.position)) x;
-- more streams than one transaction should lock
TRUNCATE p;
INSERT INTO p SELECT n, 'many-' || n % 1200 FROM generate_series(1, 2400) n;
CALL evtstore.import_events('SELECT * FROM p', source => 'many');
SELECT count(*), count(DISTINCT stream), max(version), bool_and(data = '{}') FROM evtstore.events WHERE stream LIKE 'many-%';
SELECT max(streams) AS streams FROM (SELECT count(DISTINCT e.stream_id) AS streams FROM evtstore_internal.event e
    JOIN evtstore_internal.stream s ON s.id = e.stream_id WHERE s.category = 'many' GROUP BY e.xmin::text) x;
SELECT bool_and(position > before) AS order_kept FROM (SELECT e.position, lag(e.position) OVER (ORDER BY p.position) AS before
    FROM p JOIN evtstore.events e ON e.stream = p.stream AND e.version = 1 + (p.position - 1) / 1200 WHERE p.stream <> 'many-0') x;
-- big values, compressed and out of line in the source
CREATE TABLE big (position bigint PRIMARY KEY, stream text, type text, data jsonb);
INSERT INTO big SELECT n, 'big-1', 'T', to_jsonb(array(SELECT md5(i::text) FROM generate_series(1, 500) i)) FROM generate_series(1, 20) n;
CALL evtstore.import_events('SELECT * FROM big', batch => 7, source => 'big');
SELECT count(*) FROM evtstore.read_stream('big-1') e JOIN big b ON b.position = e.version AND b.data = e.data;
-- a position that stands twice, at the border of a batch too
TRUNCATE p;
ALTER TABLE p DROP CONSTRAINT p_pkey, ALTER position DROP NOT NULL;
INSERT INTO p VALUES (1, 'd-1'), (2, 'd-1'), (2, 'd-2');
CALL evtstore.import_events('SELECT * FROM p', source => 'd'); \echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM evtstore.import_status WHERE source = 'd';
CALL evtstore.import_events('SELECT * FROM p', batch => 2, source => 'd'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT * FROM p', batch => 1, source => 'd'); \echo :LAST_ERROR_SQLSTATE
SELECT position, imported FROM evtstore.import_status WHERE source = 'd';
INSERT INTO p VALUES (NULL, 'd-3');
CALL evtstore.import_events('SELECT * FROM p', source => 'd'); \echo :LAST_ERROR_SQLSTATE
-- the store itself may be the source
SET evtstore.tenant = 'copy';
CALL evtstore.import_events($$SELECT e.position, s.name AS stream, e.version, e.type, e.data, e.metadata, e.id FROM evtstore_internal.event e
    JOIN evtstore_internal.stream s ON s.id = e.stream_id WHERE e.tenant = '' AND s.category IN ('a', 'e', 'big')$$, batch => 3, source => 'self');
SELECT count(*) FROM evtstore.read_all();
RESET evtstore.tenant;

--
-- bad arguments
--
CALL evtstore.import_events(NULL); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events(' ; '); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT', batch => NULL); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT', batch => 0); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT', batch => 1000001); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT', source => ''); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
CALL evtstore.import_events('SELECT', source => repeat('s', 256)); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
CALL evtstore.import_events('SELECT'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT 1; SELECT 2'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('DELETE FROM src RETURNING *'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT * INTO other FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('COMMIT'); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
CALL evtstore.import_events('WITH d AS (DELETE FROM src RETURNING *) SELECT * FROM d'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('nonsense'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT * FROM src WHERE position = $1'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT * FROM no_such_table'); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
-- columns
CALL evtstore.import_events('SELECT *, 1 AS extra FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, type FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT stream, type, data FROM src'); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
CALL evtstore.import_events('SELECT position, type, data FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, data FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, type FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position::numeric, stream, type, data FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, type, position AS data FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, 1.5 AS version FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, 1 AS metadata FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, ''x'' AS tags FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, ''1'' AS schema_version FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, ''now'' AS occurred_at FROM src'); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
CALL evtstore.import_events('SELECT *, now()::timestamp AS occurred_at FROM src'); \echo :LAST_ERROR_SQLSTATE
-- values; CONTEXT says where
CREATE VIEW one AS SELECT 17 AS position, 'x-1'::text AS stream, 'T'::text AS type, '1'::jsonb AS data;
CALL evtstore.import_events('SELECT position, NULL AS stream, type, data FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, NULL AS type, data FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, type, NULL::jsonb AS data FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, '''' AS stream, type, data FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, '''' AS type, data FROM one'); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
CALL evtstore.import_events('SELECT position, repeat(''s'', 1025) AS stream, type, data FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, stream, repeat(''s'', 513) AS type, data FROM one'); \echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
CALL evtstore.import_events('SELECT position, stream, type, ''{"a":'' AS data FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, NULL::int AS version FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, '''' AS id FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, ''[]''::jsonb AS metadata FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, ARRAY[''a'', NULL] AS tags FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, ARRAY[ARRAY[''a'']] AS tags FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, 0 AS schema_version FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, 3000000000 AS schema_version FROM one'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT *, -9223372036854775808 AS version FROM one'); \echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM evtstore.events WHERE stream = 'x-1';

--
-- where it may be called
--
BEGIN;
CALL evtstore.import_events('SELECT * FROM one'); \echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT left(fails($$CALL evtstore.import_events('SELECT * FROM one')$$), 5);
SET default_transaction_read_only = on;
CALL evtstore.import_events('SELECT * FROM one'); \echo :LAST_ERROR_SQLSTATE
RESET default_transaction_read_only;
-- a procedure may call it, in any isolation level
SET default_transaction_isolation = 'repeatable read';
DO $$ BEGIN
    CALL evtstore.import_events('SELECT * FROM one', source => 'do');
    INSERT INTO p VALUES (100, 'after');
    CALL evtstore.import_events('SELECT position + 1 AS position, stream, type, data FROM one', source => 'do');
END $$;
SET default_transaction_isolation = 'serializable';
CALL evtstore.import_events('SELECT position + 2 AS position, stream, type, data FROM one', source => 'do');
RESET default_transaction_isolation;
SELECT count(*) FROM evtstore.events WHERE stream = 'x-1';

--
-- rights: evtstore_admin calls it; the query runs as the caller
--
CREATE ROLE import_admin IN ROLE evtstore_admin;
CREATE ROLE import_writer IN ROLE evtstore_writer;
SET ROLE import_writer;
CALL evtstore.import_events('SELECT 1'); \echo :LAST_ERROR_SQLSTATE
SET ROLE import_admin;
CALL evtstore.import_events('SELECT * FROM src'); \echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT position, name AS stream, name AS type, ''1'' AS data FROM evtstore_internal.stream, generate_series(1, 1) position');
\echo :LAST_ERROR_SQLSTATE
CALL evtstore.import_events('SELECT 1 AS position, ''user-1'' AS stream, current_user AS type, to_jsonb(session_user) AS data');
SELECT type, data FROM evtstore.read_stream('user-1');
SELECT count(*) > 5 AS sees FROM evtstore.import_status;
RESET ROLE;
DROP ROLE import_admin, import_writer;
