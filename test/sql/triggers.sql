--
-- What somebody adds to the event table is served as by an INSERT: triggers of every kind, constraints, columns, indexes.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
CREATE TABLE fired (n serial, what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        INSERT INTO fired (what) VALUES (format('%s %s %s: %s/%s %s', TG_NAME, TG_WHEN, TG_OP, NEW.stream_id, NEW.version, NEW.type));
        RETURN NEW;
    END IF;
    INSERT INTO fired (what) VALUES (format('%s %s %s', TG_NAME, TG_WHEN, TG_OP));
    RETURN NULL;
END $$;

SELECT version FROM evtstore.append('a-1', 'Plain', '{}');

--
-- row and statement triggers, in their order; a batch is one statement
--
CREATE TRIGGER s1 BEFORE INSERT ON evtstore_internal.event FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE TRIGGER r1 BEFORE INSERT ON evtstore_internal.event FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER r2 AFTER INSERT ON evtstore_internal.event FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER r3 AFTER INSERT ON evtstore_internal.event FOR EACH ROW WHEN (NEW.type = 'B') EXECUTE FUNCTION note();
CREATE TRIGGER s2 AFTER INSERT ON evtstore_internal.event FOR EACH STATEMENT EXECUTE FUNCTION note();
SELECT version FROM evtstore.append_events('a-1', '[{"type": "A", "data": 1}, {"type": "B", "data": 2}]');
SELECT what FROM fired ORDER BY n;
TRUNCATE fired RESTART IDENTITY;
-- nothing fires for what is not written
SELECT version FROM evtstore.append_events('a-1', '[]');
BEGIN;
SELECT version FROM evtstore.append('a-1', 'C', '{}');
ROLLBACK;
SELECT what FROM fired;
-- disabled, or for replicas only: not fired
ALTER TABLE evtstore_internal.event DISABLE TRIGGER s1, DISABLE TRIGGER r1;
ALTER TABLE evtstore_internal.event ENABLE REPLICA TRIGGER s2;
SELECT version FROM evtstore.append('a-1', 'B', '{}');
SELECT what FROM fired ORDER BY n;
DROP TRIGGER s1 ON evtstore_internal.event;
DROP TRIGGER r1 ON evtstore_internal.event;
DROP TRIGGER r2 ON evtstore_internal.event;
DROP TRIGGER r3 ON evtstore_internal.event;
DROP TRIGGER s2 ON evtstore_internal.event;
TRUNCATE fired RESTART IDENTITY;

--
-- BEFORE ROW: may change what it likes but not the place in the feed
--
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.type = 'Drop' THEN
        RETURN NULL;
    ELSIF NEW.type = 'Version' THEN
        NEW.version := NEW.version + 1;
    ELSIF NEW.type = 'Position' THEN
        NEW.position := NEW.position + 1;
    ELSIF NEW.type = 'Stream' THEN
        NEW.stream_id := NULL;
    ELSIF NEW.type = 'Stop' THEN
        RAISE EXCEPTION 'not this one' USING ERRCODE = 'P0123';
    ELSIF NEW.type = 'Append' THEN
        PERFORM evtstore.append('a-9', 'Inner', '{}');
    END IF;
    NEW.metadata := NEW.metadata || jsonb_build_object('by', 'trigger', 'pad', repeat('x', 10000));
    RETURN NEW;
END $$;
CREATE TRIGGER change BEFORE INSERT ON evtstore_internal.event FOR EACH ROW EXECUTE FUNCTION change();
SELECT version FROM evtstore.append('a-2', 'T', '{}', metadata => '{"m": 1}');
SELECT version, metadata - 'pad' AS metadata, length(metadata->>'pad') AS pad FROM evtstore.read_stream('a-2');
SELECT fails($$SELECT evtstore.append('a-2', 'Drop', '{}')$$);
SELECT fails($$SELECT evtstore.append_events('a-2', '[{"type": "T", "data": 1}, {"type": "Drop", "data": 1}]')$$);
SELECT fails($$SELECT evtstore.append('a-2', 'Version', '{}')$$);
SELECT fails($$SELECT evtstore.append('a-2', 'Position', '{}')$$);
SELECT fails($$SELECT evtstore.append('a-2', 'Stream', '{}')$$);
SELECT fails($$SELECT evtstore.append('a-2', 'Stop', '{}')$$);
SELECT fails($$SELECT evtstore.append('a-2', 'Append', '{}')$$);
-- each left the transaction usable and the version as it was
SELECT evtstore.stream_version('a-2'), (SELECT version FROM evtstore.append('a-2', 'T', '{}', 1)) AS version;
BEGIN;
SELECT fails($$SELECT evtstore.append('a-2', 'Stop', '{}')$$);
SELECT version FROM evtstore.append('a-2', 'T', '{}', 2);
SAVEPOINT a;
SELECT fails($$SELECT evtstore.append('a-2', 'Drop', '{}')$$) <> 'no error' AS failed;
ROLLBACK TO a;
SELECT version FROM evtstore.append('a-2', 'T', '{}', 3);
COMMIT;
-- what the trigger changed is what a projection and a rule get
CREATE TABLE projected (by text);
SELECT evtstore.create_projection('p', '{"T": "INSERT INTO projected VALUES (($1).metadata->>''by'')"}', 'sync', '{"streams": ["a-3"]}');
SELECT evtstore.create_queue('q'), evtstore.create_rule('r', '{"streams": ["a-3"]}', 'queue:q');
SELECT version FROM evtstore.append('a-3', 'T', '{}');
SELECT by, (SELECT headers->>'by' FROM evtstore.receive('q')) AS sent, (SELECT metadata->>'by' FROM evtstore.read_stream('a-3')) AS stored FROM projected;
SELECT evtstore.drop_projection('p'), evtstore.drop_rule('r'), evtstore.drop_queue('q');
DROP TRIGGER change ON evtstore_internal.event;

--
-- AFTER triggers that append: on the same stream, on another, without end
--
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.type = 'Lead' THEN
        PERFORM evtstore.append('b-1', 'Follow', to_jsonb(NEW.version));
        PERFORM evtstore.append('b-2', 'Follow', to_jsonb(NEW.version));
    ELSIF NEW.type = 'Follow' AND NEW.data = '2' THEN
        PERFORM evtstore.append_events('b-3', '[{"type": "End", "data": 1}, {"type": "End", "data": 2}]');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER follow AFTER INSERT ON evtstore_internal.event FOR EACH ROW EXECUTE FUNCTION follow();
SELECT version FROM evtstore.append_events('b-1', '[{"type": "Lead", "data": 1}, {"type": "Lead", "data": 2}]', 0);
SELECT stream, version, type, data FROM evtstore.events WHERE stream LIKE 'b-%' ORDER BY "position";
SELECT version FROM evtstore.append('b-1', 'T', '{}', 4);
DROP TRIGGER follow ON evtstore_internal.event;

--
-- transition tables
--
CREATE FUNCTION count_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fired (what) SELECT format('%s new rows, types %s', count(*), array_agg(type ORDER BY version)) FROM new_rows;
    RETURN NULL;
END $$;
CREATE TRIGGER count_new AFTER INSERT ON evtstore_internal.event REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_new();
SELECT version FROM evtstore.append_events('c-1', '[{"type": "A", "data": 1}, {"type": "B", "data": 2}]');
SELECT version FROM evtstore.append('c-1', 'C', '{}');
SELECT what FROM fired ORDER BY n;
DROP TRIGGER count_new ON evtstore_internal.event;
TRUNCATE fired RESTART IDENTITY;

--
-- deferred constraint triggers run at commit
--
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(*) FROM evtstore_internal.event WHERE stream_id = NEW.stream_id) > 2 THEN
        RAISE EXCEPTION 'more than two' USING ERRCODE = 'P0124';
    END IF;
    PERFORM evtstore.append('d-9', 'AtCommit', to_jsonb(NEW.version)) WHERE NEW.type = 'Late';
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON evtstore_internal.event DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.type IN ('Checked', 'Late')) EXECUTE FUNCTION at_commit();
BEGIN;
SELECT version FROM evtstore.append('d-1', 'Checked', '{}');
SELECT version FROM evtstore.append('d-1', 'Late', '{}');
COMMIT;
\set VERBOSITY terse
BEGIN;
SELECT version FROM evtstore.append('d-1', 'Checked', '{}');
COMMIT;
\set VERBOSITY default
SELECT stream, version, type FROM evtstore.events WHERE stream LIKE 'd-%' ORDER BY "position";
SELECT count(*) AS holding FROM evtstore.why_behind();
DROP TRIGGER at_commit ON evtstore_internal.event;

--
-- constraints, columns with defaults, generated columns, indexes of somebody's own
--
ALTER TABLE evtstore_internal.event ADD CONSTRAINT small CHECK (octet_length(data::text) < 100),
    ADD COLUMN shard int NOT NULL DEFAULT 7, ADD COLUMN added_at timestamptz DEFAULT clock_timestamp(), ADD COLUMN nothing text,
    ADD COLUMN kind text GENERATED ALWAYS AS (lower(type)) STORED;
CREATE INDEX own_expression ON evtstore_internal.event ((data->>'customer'));
CREATE INDEX own_partial ON evtstore_internal.event (type) WHERE type = 'Rare';
CREATE INDEX own_gin ON evtstore_internal.event USING gin (data jsonb_path_ops);
SELECT version FROM evtstore.append('e-1', 'Rare', '{"customer": "c7"}');
SELECT version FROM evtstore.append_events('e-1', '[{"type": "Usual", "data": {"customer": "c8"}}, {"type": "Usual", "data": {}}]');
SELECT left(fails($$SELECT evtstore.append('e-1', 'T', to_jsonb(repeat('x', 100)))$$), 100);
SELECT e.version, e.shard, e.added_at >= e.recorded_at AS added, e.nothing, e.kind FROM evtstore_internal.event e JOIN evtstore_internal.stream s ON s.id = e.stream_id
WHERE s.name = 'e-1' ORDER BY e.version;
SET enable_seqscan = off;
SELECT count(*) FROM evtstore_internal.event WHERE data->>'customer' = 'c8';
SELECT count(*) FROM evtstore_internal.event WHERE type = 'Rare';
SELECT count(*) FROM evtstore_internal.event WHERE data @> '{"customer": "c7"}';
RESET enable_seqscan;
SELECT version, type, data FROM evtstore.read_stream('e-1');
-- unique ones refuse, in a batch too
CREATE UNIQUE INDEX own_unique ON evtstore_internal.event ((data->>'once')) WHERE data ? 'once';
SELECT version FROM evtstore.append('e-2', 'T', '{"once": "a"}');
SELECT left(fails($$SELECT evtstore.append('e-2', 'T', '{"once": "a"}')$$), 5), left(fails($$SELECT evtstore.append_events('e-2',
    '[{"type": "T", "data": {"once": "b"}}, {"type": "T", "data": {"once": "b"}}]')$$), 5);
SELECT version FROM evtstore.append('e-2', 'T', '{"once": "b"}', 1);
-- a dropped column, and a default added in the same transaction as the append
ALTER TABLE evtstore_internal.event DROP COLUMN nothing, DROP COLUMN shard;
BEGIN;
ALTER TABLE evtstore_internal.event ADD COLUMN late int DEFAULT 5;
SELECT version FROM evtstore.append('e-3', 'T', '{}');
COMMIT;
SELECT version FROM evtstore.append('e-3', 'T', '{}');
SELECT e.version, e.late, e.kind FROM evtstore_internal.event e JOIN evtstore_internal.stream s ON s.id = e.stream_id WHERE s.name = 'e-3' ORDER BY e.version;
-- back to the plain table
DROP INDEX evtstore_internal.own_expression, evtstore_internal.own_partial, evtstore_internal.own_gin, evtstore_internal.own_unique;
SELECT version FROM evtstore.append('e-4', 'T', '{}');

-- on streams too
CREATE TRIGGER new_stream AFTER INSERT ON evtstore_internal.stream FOR EACH STATEMENT EXECUTE FUNCTION note();
SELECT version FROM evtstore.append('f-1', 'T', '{}');
SELECT version FROM evtstore.append('f-1', 'T', '{}');
SELECT what FROM fired ORDER BY n;
DROP TRIGGER new_stream ON evtstore_internal.stream;

SELECT count(*) AS broken FROM (
    SELECT version, row_number() OVER (PARTITION BY tenant, stream ORDER BY "position") AS expected FROM evtstore.events) e
WHERE version IS DISTINCT FROM expected;
