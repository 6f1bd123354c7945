--
-- Tenants: evtstore.tenant confines every read and write; two tenants with equal stream names never meet.  What a session without
-- a tenant sees is said in docs/concepts.md.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE FUNCTION outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE command INTO result;
    RETURN coalesce(result, '(nothing)');
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

-- three owners, the same names, ids, types and tags: '' asks for none
CREATE FUNCTION fill(tenant text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    versions text;
BEGIN
    PERFORM set_config('evtstore.tenant', tenant, true);
    SELECT string_agg(format('%s %s', stream, version), ', ') INTO versions FROM (
        SELECT stream, version FROM evtstore.append('order-1', 'Placed', to_jsonb(tenant), 0, tags => '{t}', id => '00000000-0000-7000-8000-000000000001')
        UNION ALL
        SELECT stream, version FROM evtstore.append_events('order-1', jsonb_build_array(jsonb_build_object('type', 'Paid', 'data', tenant)), 1)
        UNION ALL
        SELECT stream, version FROM evtstore.append_streams(format('[{"stream": "order-2", "expected_version": 0, "events": [{"type": "Placed", "data": %s}]},
            {"stream": "order-1", "expected_version": 2, "events": []}]', to_jsonb(tenant))::jsonb)
        UNION ALL
        SELECT stream, version FROM evtstore.append_if(jsonb_build_array(jsonb_build_object('type', 'Free', 'data', tenant, 'tags', '["t2"]'::jsonb)),
            '{"items": [{"tags": ["t2"]}, {"types": ["Free"]}]}')
        UNION ALL
        SELECT stream, version FROM evtstore.append_if(jsonb_build_array(jsonb_build_object('type', 'Shipped', 'data', tenant)),
            '{"items": [{"types": ["Shipped"]}]}', stream => 'order-2')) a;
    RETURN versions;
END $$;
SELECT tenant, fill(tenant) FROM unnest('{acme,globex,"",a,ac}'::text[]) tenant;

-- every read, as each of them: whose events it shows, and how many
CREATE FUNCTION shows(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text := '';
    owner text;
    seen text;
BEGIN
    FOREACH owner IN ARRAY '{acme,globex,a,unknown,""}'::text[] LOOP
        PERFORM set_config('evtstore.tenant', owner, true);
        EXECUTE 'SELECT string_agg(format(''%s:%s'', s, n), '' '' ORDER BY s) FROM (SELECT tenant AS s, count(*) AS n FROM ' || call || ' GROUP BY 1) x' INTO seen;
        result := result || format('%s%s sees %s', CASE WHEN result <> '' THEN '; ' ELSE '' END, coalesce(nullif(owner, ''), '(none)'), coalesce(seen, 'nothing'));
    END LOOP;
    RETURN result;
END $$;
SELECT call, shows('evtstore.' || call) FROM (VALUES
    ($$read_stream('order-1')$$), ($$read_stream('order-1', backwards => true)$$), ($$read_category('order')$$), ($$read_category('order', backwards => true)$$),
    ($$read_all()$$), ($$read_all(backwards => true)$$), ($$read_query('{}')$$), ($$read_query('{}', backwards => true)$$),
    ($$read_query('{"items": [{"types": ["Placed"]}]}')$$), ($$read_query('{"items": [{"tags": ["t2"]}]}')$$),
    ($$read_query('{"items": [{"types": ["Free", "Placed"], "tags": ["t2"]}, {"tags": ["t"]}]}')$$),
    ($$get_event('00000000-0000-7000-8000-000000000001')$$), ($$events$$), ($$streams$$)) v (call);
SELECT set_config('evtstore.tenant', 'acme', false) AS now;
SELECT data, evtstore.stream_version('order-1'), evtstore.stream_version('order-2'), evtstore.stream_version('order-3') FROM evtstore.get_event('00000000-0000-7000-8000-000000000001');
SELECT stream, version, data FROM evtstore.read_all() WHERE stream IS NOT NULL ORDER BY stream, version;
-- the head is one for the whole store: it tells that others write, not what
SELECT evtstore.head_position() = (SELECT max(position) FROM evtstore_internal.event) AS head_of_all;

-- every write is checked against the own streams, ids, tags and types alone
SELECT outcome(call), call FROM (VALUES
    ($$SELECT version FROM evtstore.append('order-1', 'T', '1', 0)$$), ($$SELECT version FROM evtstore.append('order-1', 'T', '1', 2)$$),
    ($$SELECT duplicate FROM evtstore.append('order-1', 'Placed', '"acme"', 0, tags => '{t}', id => '00000000-0000-7000-8000-000000000001')$$),
    ($$SELECT version FROM evtstore.append('order-1', 'Placed', '"globex"', tags => '{t}', id => '00000000-0000-7000-8000-000000000001')$$),
    ($$SELECT version FROM evtstore.append_if('[{"type": "T", "data": 1}]', '{"items": [{"types": ["Free"]}]}')$$),
    ($$SELECT version FROM evtstore.append('order-3', 'T', '1', require => 'exists')$$)) v (call);
SET evtstore.tenant = 'unknown';
SELECT outcome(call), call FROM (VALUES
    ($$SELECT version FROM evtstore.append('order-1', 'T', '1', require => 'exists')$$), ($$SELECT version FROM evtstore.append_events('order-1', '[]')$$),
    ($$SELECT position IS NULL FROM evtstore.append_if('[]', '{}')$$), ($$SELECT position IS NULL FROM evtstore.append_if('[]', '{"items": [{"types": ["Placed", "Free"]}, {"tags": ["t"]}]}')$$)) v (call);

-- a change within a transaction and within a savepoint is followed at once; names are remembered for each
BEGIN;
SET LOCAL evtstore.tenant = 'acme';
SELECT version FROM evtstore.append('order-1', 'T', '1', 3);
SAVEPOINT s;
SET LOCAL evtstore.tenant = 'globex';
SELECT version FROM evtstore.append('order-1', 'T', '1', 2);
SELECT data FROM evtstore.read_stream('order-1', max_count => 1);
ROLLBACK TO s;
SELECT current_setting('evtstore.tenant') AS tenant, evtstore.stream_version('order-1');
SELECT version FROM evtstore.append('order-1', 'T', '1', 4);
COMMIT;
SELECT current_setting('evtstore.tenant') AS tenant;
SET evtstore.tenant = 'globex';
SELECT evtstore.stream_version('order-1');

-- definer functions, prepared statements and cursors take the tenant of the moment in which they run, and no owner's rights get round it
PREPARE mine AS SELECT count(*) FROM evtstore.read_all();
EXECUTE mine;
SET evtstore.tenant = 'unknown';
EXECUTE mine;
CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM evtstore.events';
SELECT peek();
DEALLOCATE mine;

-- projections and rules are of the store: they serve all tenants, and are handed the tenant with the event
RESET evtstore.tenant;
CREATE TABLE model (tenant text, setting text, stream text, n bigint);
SELECT evtstore.create_projection('model', '{"Counted": "INSERT INTO model VALUES (($1).tenant, current_setting(''evtstore.tenant''), ($1).stream, ($1).version)"}', 'sync');
SELECT evtstore.create_queue('work'), evtstore.create_rule('work', '{"types": ["Counted"]}', 'queue:work');
SET evtstore.tenant = 'acme';
SELECT version FROM evtstore.append('count-1', 'Counted', '1');
SET evtstore.tenant = 'globex';
SELECT version FROM evtstore.append('count-1', 'Counted', '1');
SELECT tenant, setting, stream, n FROM model ORDER BY tenant;
-- messages are their tenant's
SELECT count(*) AS mine, (SELECT ready FROM evtstore.queue_status WHERE name = 'work') AS ready FROM evtstore.receive('work', max_count => 10);
SET evtstore.tenant = 'unknown';
SELECT count(*) AS mine, (SELECT ready FROM evtstore.queue_status WHERE name = 'work') AS ready FROM evtstore.receive('work', max_count => 10);

-- how a role is pinned (docs/concepts.md): a default for honest clients, functions for the others
RESET evtstore.tenant;
CREATE ROLE tenants_acme LOGIN IN ROLE evtstore_reader, evtstore_writer;
ALTER ROLE tenants_acme SET evtstore.tenant = 'acme';
SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'tenants_acme'::regrole;
\c - tenants_acme
SELECT current_setting('evtstore.tenant') AS tenant, count(*) AS events, count(DISTINCT tenant) AS tenants FROM evtstore.read_all();
SET evtstore.tenant = 'globex';
SELECT count(DISTINCT tenant) AS tenants, min(tenant) AS tenant FROM evtstore.read_all();
\c - postgres
CREATE ROLE tenants_owner IN ROLE evtstore_reader, evtstore_writer;
CREATE ROLE tenants_stranger LOGIN;
CREATE SCHEMA acme AUTHORIZATION tenants_owner;
SET ROLE tenants_owner;
CREATE FUNCTION acme.read(after bigint) RETURNS SETOF evtstore.event LANGUAGE sql SECURITY DEFINER SET evtstore.tenant = 'acme' SET search_path = pg_catalog, pg_temp
    AS 'SELECT * FROM evtstore.read_all($1)';
CREATE FUNCTION acme.append(stream text, type text, data jsonb) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET evtstore.tenant = 'acme' SET search_path = pg_catalog, pg_temp
    AS 'SELECT version FROM evtstore.append($1, $2, $3)';
GRANT USAGE ON SCHEMA acme TO tenants_stranger;
\c - tenants_stranger
SET evtstore.tenant = 'globex';
SELECT acme.append('pinned-1', 'T', '1');
SELECT count(DISTINCT tenant) AS tenants, min(tenant) AS tenant FROM acme.read(NULL);
SELECT evtstore.read_all();
\c - postgres
SELECT tenant, stream FROM evtstore.events WHERE stream = 'pinned-1';
DROP SCHEMA acme CASCADE;
DROP ROLE tenants_acme, tenants_owner, tenants_stranger;
