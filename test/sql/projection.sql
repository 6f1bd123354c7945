--
-- Sync projections: SQL and function handlers, "*", filters, history, refusals, owners, definitions and their errors.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE TABLE orders (id text PRIMARY KEY, total numeric, paid boolean DEFAULT false, version bigint);

--
-- one SQL statement per type, in the append's transaction
--
SELECT evtstore.create_projection('orders', mode => 'sync', handlers => '{
    "OrderPlaced": "INSERT INTO orders (id, total, version) VALUES (($1).stream, (($1).data->>''total'')::numeric, ($1).version)",
    "OrderPaid": "UPDATE orders SET paid = true, version = ($1).version WHERE id = ($1).stream",
    "OrderDropped": "DELETE FROM orders WHERE id = ($1).stream"}');
SELECT version FROM evtstore.append('order-1', 'OrderPlaced', '{"total": 10}');
SELECT version FROM evtstore.append_events('order-2', '[{"type": "OrderPlaced", "data": {"total": 20}}, {"type": "OrderPaid", "data": {}}]');
SELECT version FROM evtstore.append('order-1', 'OrderSeen', '{}');
SELECT * FROM orders ORDER BY id;
-- a rollback takes both
BEGIN;
SELECT version FROM evtstore.append('order-3', 'OrderPlaced', '{"total": 30}');
SAVEPOINT a;
SELECT version FROM evtstore.append('order-1', 'OrderDropped', '{}');
SELECT count(*) FROM orders;
ROLLBACK TO a;
SELECT count(*) FROM orders;
ROLLBACK;
SELECT * FROM orders ORDER BY id;
-- a duplicate is not applied again
SELECT version, duplicate FROM evtstore.append('order-4', 'OrderPlaced', '{"total": 40}', id => '00000000-0000-7000-8000-000000000001');
SELECT version, duplicate FROM evtstore.append('order-4', 'OrderPlaced', '{"total": 40}', id => '00000000-0000-7000-8000-000000000001');
SELECT count(*) FROM orders;
SELECT name, mode, state, "position" = evtstore.head_position() AS up_to_date, lag_events, lag_seconds, last_error FROM evtstore.projection_status;

--
-- an error in a handler refuses the append, with its own code and the place in the context
--
ALTER TABLE orders ADD CHECK (total >= 0);
SELECT fails($$SELECT evtstore.append('order-5', 'OrderPlaced', '{"total": -1}')$$) ~ '^23514.*CONTEXT projection "orders" at position \d+ of type "OrderPlaced"' AS refused;
SELECT regexp_replace(fails($$SELECT evtstore.append('order-1', 'OrderPlaced', '{"total": 1}')$$), 'position \d+', 'position N');
SELECT regexp_replace(fails($$SELECT evtstore.append('order-5', 'OrderPlaced', '{"total": "much"}')$$), 'position \d+', 'position N');
-- of a batch, none
SELECT left(fails($$SELECT evtstore.append_events('order-5', '[{"type": "OrderPlaced", "data": {"total": 5}}, {"type": "OrderPlaced", "data": {"total": 5}}]')$$), 5);
SELECT evtstore.stream_version('order-5'), count(*) FROM orders WHERE id = 'order-5';
-- the transaction goes on behind an exception block, with the right version
DO $$
BEGIN
    PERFORM evtstore.append('order-5', 'OrderPlaced', '{"total": 5}');
    BEGIN
        PERFORM evtstore.append('order-5', 'OrderPlaced', '{"total": 6}', 1);
    EXCEPTION WHEN unique_violation THEN
        NULL;
    END;
    PERFORM evtstore.append('order-5', 'OrderPaid', '{}', 1);
END $$;
SELECT * FROM orders WHERE id = 'order-5';

--
-- functions; "*" gets what no other handler takes; all of the event is there
--
CREATE SCHEMA shop;
CREATE TABLE shop.log (id serial, who text, e evtstore.event);
CREATE FUNCTION shop.on_event(e evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.log (who, e) VALUES ('any', e);
END $$;
CREATE FUNCTION shop.on_paid(evtstore.event) RETURNS int LANGUAGE sql AS
    $$ INSERT INTO shop.log (who, e) VALUES ('paid', $1) RETURNING id $$;
CREATE FUNCTION shop."odd Name"(evtstore.event) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO shop.log (who, e) VALUES ('odd', $1) $$;
SELECT evtstore.create_projection('log', '{"*": {"fn": "shop.on_event"}, "OrderPaid": {"fn": "shop.on_paid"}, "odd": {"fn": "shop.\"odd Name\""}}',
    'sync', '{"categories": ["log"]}');
SELECT version FROM evtstore.append_events('log-1', '[{"type": "OrderPaid", "data": 1, "tags": ["a"], "schema_version": 2, "metadata": {"m": 1}},
    {"type": "Other", "data": 2}, {"type": "odd", "data": 3}, {"type": "*", "data": 4}]');
SELECT version FROM evtstore.append('order-6', 'Other', '{}');
SELECT l.who, (l.e).version, (l.e).type, l.e = e.* AS same_as_event
FROM shop.log l JOIN evtstore.read_stream('log-1') e ON (l.e).id = e.id ORDER BY l.id;
SELECT evtstore.drop_projection('log');
SELECT version FROM evtstore.append('log-1', 'Other', '{}');
SELECT count(*) FROM shop.log;

--
-- a store with history: what is there is applied first, in order, once; then what comes
--
CREATE TABLE history (n serial, "position" bigint, stream text, version bigint);
SELECT evtstore.create_projection('history', '{"*": "INSERT INTO history (\"position\", stream, version) VALUES (($1).\"position\", ($1).stream, ($1).version)"}', 'sync');
SELECT count(*), bool_and(h."position" = e."position" AND h.stream = e.stream AND h.version = e.version) AS same
FROM history h FULL JOIN (SELECT *, row_number() OVER (ORDER BY "position") AS n FROM evtstore.events) e USING (n);
SELECT version FROM evtstore.append('order-7', 'Other', '{}');
SELECT count(*) = (SELECT count(*) FROM evtstore.events) AS complete FROM history;
-- the same definition again is nothing, so nothing is applied twice
SELECT evtstore.create_projection('history', '{"*": "INSERT INTO history (\"position\", stream, version) VALUES (($1).\"position\", ($1).stream, ($1).version)"}', 'sync', '{}', '{}', '{}');
SELECT count(*) = (SELECT count(*) FROM evtstore.events) AS complete FROM history;
SELECT evtstore.drop_projection('history');
-- own events of the same transaction: those before it are history, those after it are applied as they come
TRUNCATE history;
BEGIN;
SELECT version FROM evtstore.append('own-1', 'Before', '{}');
SELECT evtstore.create_projection('own', '{"*": "INSERT INTO history (stream, version) VALUES (($1).stream, ($1).version)"}', 'sync', '{"streams": ["own-1"]}');
SELECT version FROM evtstore.append('own-1', 'After', '{}');
COMMIT;
SELECT stream, version FROM history ORDER BY n;
-- rolled back, it is gone at once; dropped and made again in one transaction, it starts again
BEGIN;
SELECT evtstore.drop_projection('own');
SELECT version FROM evtstore.append('own-1', 'Without', '{}');
ROLLBACK;
SELECT version FROM evtstore.append('own-1', 'With', '{}');
BEGIN;
SELECT evtstore.create_projection('never', '{"*": "INSERT INTO nowhere VALUES (1)"}', 'sync') FROM (SELECT 1 WHERE false) none;
SELECT evtstore.drop_projection('own');
TRUNCATE history;
SELECT evtstore.create_projection('own', '{"*": "INSERT INTO history (stream, version) VALUES (($1).stream, ($1).version)"}', 'sync', '{"streams": ["own-1"]}');
COMMIT;
SELECT version FROM evtstore.append('own-1', 'With', '{}');
SELECT stream, version FROM history ORDER BY n;
SELECT evtstore.drop_projection('own');
-- a handler that cannot take the history: nothing is made
SELECT regexp_replace(fails($$SELECT evtstore.create_projection('bad', '{"OrderPlaced": "INSERT INTO orders (id) VALUES (($1).stream)"}', 'sync')$$), 'position \d+', 'position N');
SELECT count(*) FROM evtstore.projection_status WHERE name = 'bad';

--
-- filters: all parts must match, any item of each, but all of the tags
--
CREATE TABLE hits (projection text, n int);
SELECT evtstore.create_projection('f-' || f.n, jsonb_build_object('*', format('INSERT INTO hits VALUES (%L, (($1).data #>> ''{}'')::int)', f.n)), 'sync', f.filter)
FROM (VALUES (1, '{"categories": ["fa", "fb"]}'::jsonb), (2, '{"types": ["T1", "T2"], "categories": ["fa"]}'), (3, '{"tags": ["x", "y"]}'),
             (4, '{"streams": ["fa-1", "fc"]}'), (5, '{"categories": ["fa"], "types": ["T1"], "tags": ["x"], "streams": ["fa-2"]}'),
             (6, '{"tags": ["é"]}')) f (n, filter);
SELECT count(*) FROM (VALUES (1, 'fa-1', 'T1', '{x}'::text[]), (2, 'fa-2', 'T1', '{y,x,z}'), (3, 'fa-2', 'T3', '{}'), (4, 'fb-1', 'T2', '{x,y}'), (5, 'fc', 'T1', '{é}'),
             (6, 'f-1', 'T1', '{X,Y}'), (7, 'fa', 'T2', '{xy}')) e (n, stream, type, tags), evtstore.append(e.stream, e.type, to_jsonb(e.n), tags => e.tags);
SELECT projection, array_agg(n ORDER BY n) AS events FROM hits GROUP BY projection ORDER BY projection;
SELECT evtstore.drop_projection(name) FROM evtstore.projection_status WHERE name LIKE 'f-%' ORDER BY name;

--
-- handlers that append: the inner events have their handlers run first; versions follow
--
CREATE TABLE seen (n serial, stream text, version bigint, type text);
SELECT evtstore.create_projection('seen', '{"*": "INSERT INTO seen (stream, version, type) VALUES (($1).stream, ($1).version, ($1).type)"}', 'sync', '{"categories": ["nest"]}');
SELECT evtstore.create_projection('nest', '{"Start": "SELECT evtstore.append(''nest-'' || (($1).data->>''to''), ''Next'', ''{}''), evtstore.append(($1).stream, ''Self'', ''{}'')",
    "Next": "SELECT evtstore.append(''nest-9'', ''Last'', ''{}'')"}', 'sync', '{"categories": ["nest"]}');
SELECT version FROM evtstore.append_events('nest-1', '[{"type": "Start", "data": {"to": 2}}, {"type": "Start", "data": {"to": 3}}]', 0);
SELECT stream, version, type FROM seen ORDER BY n;
SELECT stream, array_agg(type ORDER BY version) AS types, array_agg(version ORDER BY "position") AS versions FROM evtstore.events WHERE stream LIKE 'nest-%' GROUP BY stream ORDER BY stream;
SELECT evtstore.append('nest-1', 'Start', '{"to": 1}', expected_version => evtstore.stream_version('nest-1')) IS NOT NULL AS appended;
-- one that never ends is stopped by the server's own limit, and leaves nothing
SELECT evtstore.create_projection('loop', '{"Loop": "SELECT evtstore.append(($1).stream, ''Loop'', ''{}'')"}', 'sync');
SET max_stack_depth = '200kB';
SELECT left(fails($$SELECT evtstore.append('loop-1', 'Loop', '{}')$$), 5);
RESET max_stack_depth;
SELECT evtstore.stream_version('loop-1');
SELECT evtstore.drop_projection('loop');
SELECT evtstore.drop_projection('nest');
-- a handler that drops and makes projections while it runs
CREATE FUNCTION shop.change(evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM evtstore.drop_projection('seen');
    PERFORM evtstore.drop_projection('change');
    PERFORM evtstore.create_projection('change 2', '{"Again": "INSERT INTO seen (type) VALUES (''change 2'')"}', 'sync', '{"categories": ["change"]}');
END $$;
SELECT evtstore.create_projection('change', '{"Change": {"fn": "shop.change"}, "Again": "INSERT INTO seen (type) VALUES (''change'')"}', 'sync', '{"categories": ["change"]}');
TRUNCATE seen;
SELECT version FROM evtstore.append_events('change-1', '[{"type": "Change", "data": 1}, {"type": "Again", "data": 1}]');
SELECT version FROM evtstore.append('change-1', 'Again', '{}');
SELECT type, count(*) FROM seen GROUP BY type ORDER BY type;
SELECT name FROM evtstore.projection_status ORDER BY name;
SELECT evtstore.drop_projection('change 2');

--
-- cached plans: they follow what becomes of the table
--
SELECT version FROM evtstore.append('order-10', 'OrderPlaced', '{"total": 1}');
ALTER TABLE orders ADD COLUMN note text DEFAULT 'new';
ALTER TABLE orders ALTER COLUMN total TYPE bigint;
SELECT version FROM evtstore.append('order-11', 'OrderPlaced', '{"total": 1}');
ALTER TABLE orders RENAME TO old_orders;
SELECT regexp_replace(fails($$SELECT evtstore.append('order-12', 'OrderPlaced', '{"total": 1}')$$), 'position \d+', 'position N');
CREATE TABLE orders (LIKE old_orders INCLUDING ALL);
SELECT version FROM evtstore.append('order-13', 'OrderPlaced', '{"total": 1}');
SELECT id, note FROM orders;
DROP TABLE orders;
SELECT regexp_replace(fails($$SELECT evtstore.append('order-14', 'OrderPaid', '{}')$$), 'position \d+', 'position N');
-- types without a handler do not care
SELECT version FROM evtstore.append('order-14', 'OrderSeen', '{}');
ALTER TABLE old_orders RENAME TO orders;
SELECT version FROM evtstore.append('order-14', 'OrderPlaced', '{"total": 1}');
CREATE OR REPLACE FUNCTION shop.on_paid(evtstore.event) RETURNS int LANGUAGE sql AS
    $$ INSERT INTO shop.log (who, e) VALUES ('replaced', $1) RETURNING id $$;
SELECT evtstore.create_projection('replaced', '{"Replaced": {"fn": "shop.on_paid"}}', 'sync');
SELECT version FROM evtstore.append('r-1', 'Replaced', '{}');
DROP FUNCTION shop.on_paid(evtstore.event);
SELECT fails($$SELECT evtstore.append('r-1', 'Replaced', '{}')$$) ~ '^42883 .*CONTEXT projection "replaced" at' AS handler_is_gone;
SELECT evtstore.drop_projection('replaced');
SELECT who, count(*) FROM shop.log GROUP BY who ORDER BY who;

--
-- the owner runs it, under the search_path of its creation
--
CREATE ROLE regress_projection_owner;
CREATE ROLE regress_projection_appender;
GRANT evtstore_admin TO regress_projection_owner;
GRANT evtstore_writer TO regress_projection_appender;
CREATE SCHEMA owned AUTHORIZATION regress_projection_owner;
SET SESSION AUTHORIZATION regress_projection_owner;
SET search_path = owned, public;
CREATE TABLE audit (n serial, who text, login text, path text, stream text);
SELECT evtstore.create_projection('audit', '{"*": "INSERT INTO audit (who, login, path, stream) VALUES (current_user, session_user, current_setting(''search_path''), ($1).stream)"}',
    'sync', '{"categories": ["audit"]}');
RESET search_path;
SET SESSION AUTHORIZATION regress_projection_appender;
SET search_path = pg_temp;
SELECT version FROM evtstore.append('audit-1', 'T', '{}');
SELECT current_user, current_setting('search_path') AS path;
RESET search_path;
SELECT fails($$SELECT * FROM owned.audit$$);
-- nothing of the handler's doing stays with the appender's session
RESET SESSION AUTHORIZATION;
CREATE FUNCTION owned.become(evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE ($1).data->>'run';
END $$;
SET SESSION AUTHORIZATION regress_projection_owner;
SELECT evtstore.create_projection('become', '{"Run": {"fn": "owned.become"}}', 'sync', '{"categories": ["audit"]}');
RESET SESSION AUTHORIZATION;
SELECT left(fails(format($$SELECT evtstore.append('audit-2', 'Run', jsonb_build_object('run', %L))$$, run)), 5) AS sqlstate, run
FROM (VALUES ('SET ROLE regress_projection_appender'), ('SET SESSION AUTHORIZATION DEFAULT'), ('RESET ROLE'), ('CREATE TEMP TABLE mine (a int)'),
             ('DECLARE c CURSOR WITH HOLD FOR SELECT 1'), ('ALTER ROLE regress_projection_owner SUPERUSER'), ('COMMIT'),
             ('SELECT 1')) v (run);
SELECT session_user = current_user AS myself, evtstore.stream_version('audit-2');
SELECT n, who, login = session_user AS logged_in, path, stream FROM owned.audit ORDER BY n;
-- a projection whose owner is gone says so
SELECT evtstore.drop_projection('become');
DROP OWNED BY regress_projection_owner CASCADE;
ALTER ROLE regress_projection_owner RENAME TO regress_projection_renamed;
SELECT left(fails($$SELECT evtstore.append('audit-1', 'T', '{}')$$), 62);
SELECT evtstore.drop_projection('audit');
DROP ROLE regress_projection_renamed, regress_projection_appender;

--
-- definitions: what is wrong with them, all of it
--
SELECT fails($$SELECT evtstore.create_projection(NULL, '{"*": "SELECT 1"}', 'sync')$$);
SELECT fails($$SELECT evtstore.create_projection('', '{"*": "SELECT 1"}', 'sync')$$);
SELECT left(fails($$SELECT evtstore.create_projection(repeat('n', 256), '{"*": "SELECT 1"}', 'sync')$$), 5);
SELECT fails($$SELECT evtstore.create_projection('p', NULL, 'sync')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{}', 'sync')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '[]', 'sync')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '"SELECT 1"', 'sync')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', NULL)$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'often')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', NULL)$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '[]')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '{"category": ["a"]}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '{"categories": "a"}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '{"types": ["a", 1]}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '{}', NULL)$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '{}', '{}', NULL)$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '{}', '{}', '{"fast": true}')$$);
-- every faulty handler is named
SELECT fails($$SELECT evtstore.create_projection('p', '{"A": "SELECT 1; SELECT 2", "B": "SELEKT", "C": "INSERT INTO nowhere VALUES (1)", "D": "SELECT ($1).amount",
    "E": {"fn": "unqualified"}, "F": {"fn": "shop.missing"}, "G": {"function": "shop.on_event"}, "H": {}, "I": 1, "J": null, "K": ["SELECT 1"], "L": "",
    "M": "SELECT $2", "N": {"fn": 1}, "O": {"fn": "shop.on_event", "batch": true}, "good": "SELECT 1", "P": {"fn": "shop.change(x)"}}', 'sync')$$);
SELECT count(*) FROM evtstore.projection_status WHERE name = 'p';
-- another definition of the name
SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', 'sync');
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 2"}', 'sync', '{"types": ["T"]}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', 'async')$$);
SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', 'sync');
-- other tables are noted
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', 'sync', tables => '{nowhere}')$$);
CREATE TABLE kept (id int);
SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', 'sync', tables => '{kept}');
SELECT spec->>'tables' AS tables FROM evtstore_internal.definition WHERE name = 'p';
-- queues and projections share one namespace of names
SELECT evtstore.create_queue('q');
SELECT fails($$SELECT evtstore.create_projection('q', '{"T": "SELECT 1"}', 'sync')$$);
SELECT fails($$SELECT evtstore.create_queue('p')$$);
SELECT fails($$SELECT evtstore.drop_projection('q')$$);
SELECT fails($$SELECT evtstore.drop_projection('unknown')$$);
SELECT fails($$SELECT evtstore.drop_projection(NULL)$$);
SELECT evtstore.drop_projection('p');
SELECT fails($$SELECT evtstore.drop_projection('p')$$);
BEGIN READ ONLY;
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', 'sync')$$);
SELECT fails($$SELECT evtstore.drop_projection('orders')$$);
COMMIT;

-- tenants: a projection sees the events of all, and who they belong to
CREATE TABLE tenants (tenant text, stream text);
SELECT evtstore.create_projection('tenants', '{"*": "INSERT INTO tenants VALUES (($1).tenant, ($1).stream)"}', 'sync', '{"categories": ["ten"]}');
SET evtstore.tenant = 'acme';
SELECT version FROM evtstore.append('ten-1', 'T', '{}');
RESET evtstore.tenant;
SELECT version FROM evtstore.append('ten-1', 'T', '{}');
SELECT * FROM tenants;
SELECT name FROM evtstore.projection_status ORDER BY name;
