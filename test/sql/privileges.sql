--
-- Who may do what: the three roles, PUBLIC, pg_write_all_data, the extension itself.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET client_min_messages = warning;

CREATE ROLE regress_reader LOGIN;
CREATE ROLE regress_writer LOGIN;
CREATE ROLE regress_admin LOGIN;
CREATE ROLE regress_nobody LOGIN;
CREATE ROLE regress_all_data LOGIN;
GRANT evtstore_reader TO regress_reader;
GRANT evtstore_writer TO regress_writer;
GRANT evtstore_admin TO regress_admin;
GRANT pg_read_all_data, pg_write_all_data TO regress_all_data;
SELECT rolname, rolcanlogin, rolsuper, rolinherit FROM pg_roles WHERE rolname ~ '^evtstore_' ORDER BY rolname;
SELECT pg_has_role('evtstore_admin', 'evtstore_reader', 'USAGE') AS admin_reads, pg_has_role('evtstore_admin', 'evtstore_writer', 'USAGE') AS admin_writes,
       pg_has_role('evtstore_writer', 'evtstore_reader', 'MEMBER') AS writer_reads;

SELECT version FROM evtstore.append('order-1', 'OrderPlaced', '{}');

--
-- what each may do with each function and view; a line per object, so that a new one shows
--
CREATE FUNCTION who(check_for text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text := ''; role name; may boolean;
BEGIN
    FOREACH role IN ARRAY ARRAY['regress_reader', 'regress_writer', 'regress_admin', 'regress_nobody', 'regress_all_data']::name[] LOOP
        EXECUTE format(check_for, quote_literal(role)) INTO may;
        IF may THEN
            result := result || ' ' || replace(role, 'regress_', '');
        END IF;
    END LOOP;
    RETURN coalesce(nullif(result, ''), ' -');
END $$;
SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS function,
       who(format('SELECT has_function_privilege(%%s, %s, ''EXECUTE'')', p.oid)) AS may
FROM pg_proc p WHERE p.pronamespace = 'evtstore'::regnamespace
ORDER BY p.proname, pg_get_function_identity_arguments(p.oid);
SELECT p.proname AS internal_function, who(format('SELECT has_function_privilege(%%s, %s, ''EXECUTE'')', p.oid)) AS may
FROM pg_proc p WHERE p.pronamespace = 'evtstore_internal'::regnamespace
ORDER BY p.proname;
SELECT c.relname AS view, who(format('SELECT has_table_privilege(%%s, %s, ''SELECT'')', c.oid)) AS may_select,
       who(format('SELECT has_table_privilege(%%s, %s, ''INSERT,UPDATE,DELETE,TRUNCATE'')', c.oid)) AS may_write
FROM pg_class c WHERE c.relnamespace = 'evtstore'::regnamespace AND c.relkind = 'v' ORDER BY c.relname;
-- tables and sequences are granted to nobody
SELECT c.relname, a.grantee::regrole, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'evtstore_internal'::regnamespace AND c.relkind IN ('r', 'S', 'v') AND a.grantee <> c.relowner;
SELECT who('SELECT has_schema_privilege(%s, ''evtstore'', ''USAGE'')') AS use_evtstore, who('SELECT has_schema_privilege(%s, ''evtstore'', ''CREATE'')') AS create_in_evtstore,
       who('SELECT has_schema_privilege(%s, ''evtstore_internal'', ''USAGE'')') AS use_internal;
-- none of ours is SECURITY DEFINER without a pinned search_path
SELECT p.proname FROM pg_proc p WHERE p.pronamespace IN ('evtstore'::regnamespace, 'evtstore_internal'::regnamespace)
    AND p.prosecdef AND NOT coalesce(p.proconfig::text ~ 'search_path=', false);

--
-- the roles at work
--
-- as a role, what comes of a statement
CREATE FUNCTION outcome(role name, command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    BEGIN
        EXECUTE command;
        RESET ROLE;
        RETURN 'may';
    EXCEPTION WHEN OTHERS THEN
        RESET ROLE;
        RETURN CASE SQLSTATE WHEN '42501' THEN '-' ELSE SQLSTATE END;
    END;
END $$;
SELECT outcome('regress_reader', command) AS reader, outcome('regress_writer', command) AS writer, outcome('regress_admin', command) AS admin,
       outcome('regress_nobody', command) AS nobody, outcome('regress_all_data', command) AS all_data, command
FROM (VALUES
    (1, $$SELECT evtstore.append('order-2', 'T', '{}')$$),
    (2, $$SELECT evtstore.append_events('order-2', '[{"type": "T", "data": 1}]')$$),
    (3, $$SELECT * FROM evtstore.read_all()$$),
    (4, $$SELECT * FROM evtstore.read_stream('order-1')$$),
    (5, $$SELECT * FROM evtstore.read_category('order')$$),
    (6, $$SELECT evtstore.stream_version('order-1')$$),
    (7, $$SELECT * FROM evtstore.events$$),
    (8, $$SELECT * FROM evtstore.streams$$),
    (9, $$SELECT * FROM evtstore.why_behind()$$),
    (10, $$SELECT * FROM evtstore.health()$$),
    (11, $$SELECT * FROM evtstore.projection_status$$),
    (12, $$SELECT evtstore.create_projection('p-' || current_user, '{"T": "SELECT 1"}', 'sync')$$),
    (13, $$SELECT * FROM evtstore_internal.event$$),
    (14, $$INSERT INTO evtstore_internal.event SELECT * FROM evtstore_internal.event$$),
    (15, $$UPDATE evtstore_internal.event SET data = '{}'$$),
    (16, $$UPDATE evtstore_internal.event SET data = '{}' WHERE false$$),
    (17, $$DELETE FROM evtstore_internal.event$$),
    (18, $$TRUNCATE evtstore_internal.event$$),
    (19, $$DELETE FROM evtstore_internal.stream$$),
    (20, $$UPDATE evtstore_internal.stream SET name = 'x'$$),
    (21, $$SELECT currval('evtstore_internal.position_seq')$$),
    (22, $$SELECT last_value FROM evtstore_internal.position_seq$$),
    (23, $$SET evtstore.allow_drop = on$$),
    (24, $$SET evtstore.allowed_networks = '0.0.0.0/0'$$),
    (25, $$SET evtstore.enabled = off$$),
    (26, $$SET evtstore.test_mode = on$$),
    (27, $$SET LOCAL evtstore.actor = 'acme'$$),
    (28, $$ALTER TABLE evtstore_internal.event DISABLE TRIGGER ALL$$),
    (29, $$DROP EXTENSION evtstore$$),
    (30, $$DROP SCHEMA evtstore_internal CASCADE$$)
    ) v (n, command) ORDER BY n;
-- what was meant to stay is there; the writer's appends are too
SELECT stream, version, type FROM evtstore.events ORDER BY "position";

-- immutable is said so
SET ROLE regress_all_data;
DO $$
BEGIN
    DELETE FROM evtstore_internal.event;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING '%', SQLERRM;
END $$;
RESET ROLE;

-- a writer that works in its own transaction, with triggers and rules that it may not look at
SELECT evtstore.create_queue('q');
SELECT evtstore.create_rule('r', '{"categories": ["ruled"]}', 'queue:q');
SET ROLE regress_writer;
SELECT version FROM evtstore.append('ruled-1', 'T', '{"a": 1}');
SELECT body, stream FROM evtstore.receive('q');
RESET ROLE;

-- who sees which query in why_behind()
BEGIN;
SELECT version FROM evtstore.append('order-3', 'T', '{}');
SET LOCAL SESSION AUTHORIZATION regress_reader;
SELECT count(*) AS appenders, bool_or(query IS NOT NULL) AS query FROM evtstore.why_behind();
SET LOCAL SESSION AUTHORIZATION regress_admin;
SELECT count(*) AS appenders, bool_or(query IS NOT NULL) AS query FROM evtstore.why_behind();
ROLLBACK;

--
-- the store cannot be dropped by accident, not even by a superuser
--
\set VERBOSITY terse
DROP EXTENSION evtstore;
DROP EXTENSION evtstore CASCADE;
DROP SCHEMA evtstore_internal CASCADE;
DROP SCHEMA evtstore CASCADE;
DROP TABLE evtstore_internal.event;
BEGIN;
SELECT version FROM evtstore.append('order-3', 'T', '{}');
\set VERBOSITY sqlstate
DROP EXTENSION evtstore CASCADE;
ROLLBACK;
\set VERBOSITY default
SELECT count(*) FROM evtstore.events;
-- a superuser may do what no application can
BEGIN;
UPDATE evtstore_internal.event SET metadata = '{"corrected": true}' WHERE version = 1;
DELETE FROM evtstore_internal.event WHERE type = 'T';
SELECT stream, version, metadata FROM evtstore.events;
TRUNCATE evtstore_internal.event;
ROLLBACK;
-- with the setting, or without events, it goes
BEGIN;
SET LOCAL evtstore.allow_drop = on;
DROP EXTENSION evtstore;
SELECT count(*) FROM pg_namespace WHERE nspname ~ '^evtstore';
ROLLBACK;
SELECT count(*) FROM evtstore.events;
SET evtstore.allow_drop = on;
DROP EXTENSION evtstore;
RESET evtstore.allow_drop;
CREATE EXTENSION evtstore;
SELECT count(*) FROM evtstore.events;
-- the same session goes on in the new store, from the first position
SELECT version, "position" FROM evtstore.append('order-1', 'OrderPlaced', '{}');
SELECT stream, version, "position" FROM evtstore.read_all();
BEGIN;
TRUNCATE evtstore_internal.event;
DROP EXTENSION evtstore;
ROLLBACK;
SELECT evtstore.stream_version('order-1');

DROP ROLE regress_reader, regress_writer, regress_admin, regress_nobody, regress_all_data;
-- the roles of the cluster stay; other databases may use them
SELECT rolname FROM pg_roles WHERE rolname ~ '^evtstore_' ORDER BY rolname;
