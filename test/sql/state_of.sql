--
-- Reducers, state_of, snapshots: folds now, at a version, at a moment; what a snapshot may stand for; errors.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE SCHEMA shop;
CREATE FUNCTION shop.apply(state jsonb, e evtstore.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE e.type WHEN 'Added' THEN jsonb_set(state, '{total}', to_jsonb((state->>'total')::numeric + (e.data->>'price')::numeric))
                       WHEN 'Bad' THEN to_jsonb(1 / (e.data->>'divisor')::int)
                       WHEN 'Null' THEN NULL
                       ELSE state || jsonb_build_object('last', e.type, 'version', e.version) END;
END $$;

SELECT evtstore.create_reducer('cart', 'shop.apply', '{"total": 0}');
-- equal: nothing; another: no
SELECT evtstore.create_reducer('cart', fn => 'shop.apply', initial => '{"total": 0}', options => '{}');
SELECT fails($$SELECT evtstore.create_reducer('cart', 'shop.apply', '{"total": 1}')$$);

SELECT evtstore.state_of('cart-1', 'cart') AS unknown_stream;
SELECT version FROM evtstore.append('cart-1', 'Opened', '{}');
SELECT clock_timestamp() AS opened \gset
SELECT version FROM evtstore.append_events('cart-1', '[{"type":"Added","data":{"price":5}},{"type":"Added","data":{"price":7}}]');
SELECT clock_timestamp() AS added \gset
SELECT version FROM evtstore.append('cart-1', 'Paid', '{}');
SELECT evtstore.state_of('cart-1', 'cart');
SELECT evtstore.state_of('cart-1', 'cart', :'opened') AS opened, evtstore.state_of('cart-1', 'cart', as_of => :'added') AS added;
SELECT evtstore.state_of('cart-1', 'cart', as_of => '2020-01-01') AS before_it, evtstore.state_of('cart-1', 'cart', as_of_version => 0) AS version_0,
       evtstore.state_of('cart-1', 'cart', as_of_version => 2) AS version_2, evtstore.state_of('cart-1', 'cart', as_of_version => 4) AS version_4;
-- what this transaction appended counts now, and not in the past
BEGIN;
SELECT version FROM evtstore.append('cart-1', 'Added', '{"price": 100}');
SELECT evtstore.state_of('cart-1', 'cart')->'total' AS now, evtstore.state_of('cart-1', 'cart', clock_timestamp())->'total' AS past,
       evtstore.state_of('cart-1', 'cart', as_of_version => 5)->'total' AS version_5;
ROLLBACK;
SELECT evtstore.state_of('cart-1', 'cart')->'total' AS total;
-- another tenant has no such stream
SET evtstore.tenant = 'acme';
SELECT evtstore.state_of('cart-1', 'cart');
RESET evtstore.tenant;

--
-- the built-in folds, also as functions
--
SELECT evtstore.create_reducer('doc', 'evtstore.merge_data');
SELECT evtstore.create_reducer('patch', 'evtstore.merge_patch');
SELECT version FROM evtstore.append_events('doc-1', '[
    {"type":"T","data":{"a":1,"b":{"x":1,"y":2},"n":12345678901234567890.123456789}},
    {"type":"T","data":{"b":{"y":3,"z":null},"c":null}},
    {"type":"T","data":{}},
    {"type":"T","data":{"a":null,"b":{"x":null},"d":{"deep":{"er":[1,{"null":null}]}}}}]');
SELECT evtstore.state_of('doc-1', 'doc'), evtstore.state_of('doc-1', 'patch');
CREATE FUNCTION fold(stream text, fn regproc, state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    e evtstore.event;
BEGIN
    FOR e IN SELECT * FROM evtstore.read_stream(stream) LOOP
        EXECUTE format('SELECT %s($1, $2)', fn) INTO state USING state, e;
    END LOOP;
    RETURN state;
END $$;
SELECT fold('doc-1', 'evtstore.merge_data', '{}') = evtstore.state_of('doc-1', 'doc') AS same,
       fold('doc-1', 'evtstore.merge_patch', '{}') = evtstore.state_of('doc-1', 'patch') AS same_patch;
-- || it is, whatever the data
SELECT version FROM evtstore.append_events('doc-2', '[{"type":"T","data":1},{"type":"T","data":[2]},{"type":"T","data":{"a":3}},{"type":"T","data":null}]');
SELECT evtstore.state_of('doc-2', 'doc'), ('{}'::jsonb || '1' || '[2]' || '{"a":3}' || 'null') = evtstore.state_of('doc-2', 'doc') AS same,
       evtstore.state_of('doc-2', 'patch') AS patch;
-- the examples of RFC 7396
SELECT string_agg(evtstore.merge_patch(t.original::jsonb, ROW(1, '', 's', 1, gen_random_uuid(), 'T', 1, t.patch::jsonb, '{}', '{}', now(), now())::evtstore.event)::text
       || CASE WHEN evtstore.merge_patch(t.original::jsonb, ROW(1, '', 's', 1, gen_random_uuid(), 'T', 1, t.patch::jsonb, '{}', '{}', now(), now())::evtstore.event)
               = t.result::jsonb THEN '' ELSE ' WRONG' END, E'\n')
FROM (VALUES ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'), ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'), ('{"a":"b"}', '{"a":null}', '{}'),
             ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'), ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'), ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
             ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'), ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
             ('["a","b"]', '["c","d"]', '["c","d"]'), ('{"a":"b"}', '["c"]', '["c"]'), ('{"a":"foo"}', 'null', 'null'), ('{"a":"foo"}', '"bar"', '"bar"'),
             ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'), ('[1,2]', '{"a":"b","c":null}', '{"a":"b"}'), ('{}', '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}')
     ) t(original, patch, result);

--
-- snapshots by policy
--
CREATE VIEW kept AS
    SELECT s.name AS stream, k.name, k.version, k.state FROM evtstore_internal.snapshot k JOIN evtstore_internal.stream s ON s.id = k.stream_id
    WHERE k.kind = 1 ORDER BY 1, 2, 3;
SELECT evtstore.alter_reducer('cart', '{"snapshot_every": 3}');
SELECT count(*) FROM kept;
SELECT evtstore.state_of('cart-1', 'cart', as_of_version => 4) IS NOT NULL AS folded, (SELECT count(*) FROM kept);
SELECT evtstore.state_of('cart-1', 'cart');
SELECT * FROM kept;
-- it is what the next fold begins with
UPDATE evtstore_internal.snapshot SET state = '{"total": 1000}';
SELECT evtstore.state_of('cart-1', 'cart') AS from_the_snapshot, evtstore.state_of('cart-1', 'cart', as_of_version => 3) AS below_it;
SELECT version FROM evtstore.append_events('cart-1', '[{"type":"Added","data":{"price":1}},{"type":"Added","data":{"price":1}}]');
SELECT evtstore.state_of('cart-1', 'cart')->'total' AS total, (SELECT count(*) FROM kept) AS too_few_events;
SELECT version FROM evtstore.append('cart-1', 'Added', '{"price": 1}');
SELECT evtstore.state_of('cart-1', 'cart')->'total' AS total, evtstore.state_of('cart-1', 'cart', as_of_version => 5)->'total' AS version_5;
SELECT version FROM kept;
-- rolled back with the events that it stands for
BEGIN;
SAVEPOINT s;
SELECT version FROM evtstore.append_events('cart-1', '[{"type":"Added","data":{"price":1}},{"type":"Added","data":{"price":1}},{"type":"Added","data":{"price":1}}]');
SELECT evtstore.state_of('cart-1', 'cart')->'total' AS total;
SELECT max(version) FROM kept;
ROLLBACK TO s;
SELECT max(version) FROM kept;
COMMIT;
-- a reducer that is not what it was does not use them: its source
CREATE OR REPLACE FUNCTION shop.apply(state jsonb, e evtstore.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE e.type WHEN 'Added' THEN jsonb_set(state, '{total}', to_jsonb((state->>'total')::numeric + 2 * (e.data->>'price')::numeric)) ELSE state END;
END $$;
SELECT evtstore.state_of('cart-1', 'cart');
SELECT * FROM kept;
UPDATE evtstore_internal.snapshot SET state = '{"total": 1000}';
-- its initial state
SELECT evtstore.alter_reducer('cart', '{"initial": {"total": 100}}');
SELECT evtstore.state_of('cart-1', 'cart');
UPDATE evtstore_internal.snapshot SET state = '{"total": 1000}';
-- its function
CREATE FUNCTION shop.count(state jsonb, evtstore.event) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT to_jsonb(coalesce((state->>0)::int, 0) + 1); END;
SELECT evtstore.alter_reducer('cart', '{"fn": "shop.count", "initial": 0}');
SELECT evtstore.state_of('cart-1', 'cart');
SELECT state FROM kept;
-- a body that is no text
UPDATE evtstore_internal.snapshot SET state = '1000';
SELECT evtstore.state_of('cart-1', 'cart');
CREATE OR REPLACE FUNCTION shop.count(state jsonb, evtstore.event) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT to_jsonb(coalesce((state->>0)::int, 0) + 2); END;
SELECT evtstore.state_of('cart-1', 'cart');
-- when a snapshot is made does not matter to what it says
UPDATE evtstore_internal.snapshot SET state = '1000';
SELECT evtstore.alter_reducer('cart', '{"snapshot_every": null}');
SELECT evtstore.state_of('cart-1', 'cart');
SELECT evtstore.drop_reducer('cart');
SELECT count(*) FROM kept;
SELECT evtstore.create_reducer('cart', 'shop.count', '0', '{"snapshot_every": 1}');
SELECT evtstore.state_of('cart-1', 'cart');

--
-- what is gone is not needed where a snapshot stands for it
--
SELECT version FROM evtstore.append('cart-1', 'T', '{}');
SELECT clock_timestamp() AS late \gset
DELETE FROM evtstore_internal.event WHERE position IN (SELECT position FROM evtstore.read_stream('cart-1') WHERE version <= 7);
SELECT evtstore.state_of('cart-1', 'cart'), evtstore.state_of('cart-1', 'cart', :'late') AS late, evtstore.state_of('cart-1', 'cart', as_of_version => 7) AS version_7;
SELECT fails($$SELECT evtstore.state_of('cart-1', 'cart', as_of_version => 6)$$);
SELECT fails(format($$SELECT evtstore.state_of('cart-1', 'cart', %L)$$, :'opened'));
SELECT evtstore.state_of('cart-1', 'cart', '2020-01-01') AS before_it;
SELECT fails($$SELECT evtstore.state_of('cart-1', 'doc')$$);

--
-- snapshots of applications
--
SELECT evtstore.save_snapshot('doc-1', 'mine', 2, '{"v": 2}');
SELECT evtstore.save_snapshot('doc-1', 'mine', 4, '{"v": 4}');
SELECT evtstore.save_snapshot('doc-1', 'mine', 4, '{"v": "four"}');
SELECT * FROM evtstore.load_snapshot('doc-1', 'mine');
SELECT * FROM evtstore.load_snapshot('doc-1', 'mine', 3);
SELECT count(*) FROM evtstore.load_snapshot('doc-1', 'mine', max_version => 1);
SELECT count(*) FROM evtstore.load_snapshot('doc-1', 'other');
SELECT count(*) FROM evtstore.load_snapshot('never', 'mine');
-- a reducer of that name has its own
SELECT evtstore.create_reducer('mine', 'evtstore.merge_data', options => '{"snapshot_every": 1}');
SELECT evtstore.state_of('doc-1', 'mine') = evtstore.state_of('doc-1', 'doc') AS same, (SELECT state FROM evtstore.load_snapshot('doc-1', 'mine'));
SET evtstore.tenant = 'acme';
SELECT count(*) FROM evtstore.load_snapshot('doc-1', 'mine');
RESET evtstore.tenant;
SELECT fails($$SELECT evtstore.save_snapshot('doc-1', 'mine', 5, '1')$$);
SELECT fails($$SELECT evtstore.save_snapshot('doc-1', 'mine', 0, '1')$$);
SELECT fails($$SELECT evtstore.save_snapshot('never', 'mine', 1, '1')$$);
SELECT fails($$SELECT evtstore.save_snapshot('doc-1', 'mine', 1, NULL)$$);
SELECT fails($$SELECT evtstore.load_snapshot('doc-1', 'mine', -1)$$);

--
-- whose rights
--
CREATE ROLE regress_evt_owner; GRANT evtstore_admin TO regress_evt_owner;
CREATE ROLE regress_evt_reader; GRANT evtstore_reader TO regress_evt_reader;
CREATE TABLE shop.price (price int); INSERT INTO shop.price VALUES (11);
GRANT USAGE ON SCHEMA shop TO regress_evt_owner;
GRANT SELECT ON shop.price TO regress_evt_owner;
SET search_path = shop;
CREATE FUNCTION shop.priced(state jsonb, evtstore.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('who', current_user, 'price', (SELECT max(price) FROM price)) $$;
SET ROLE regress_evt_owner;
SELECT evtstore.create_reducer('priced', 'shop.priced');
RESET search_path;
SET ROLE regress_evt_reader;
CREATE TEMP TABLE price AS SELECT 66 AS price;
SELECT evtstore.state_of('doc-1', 'priced');
SELECT evtstore.state_of('doc-1', 'patch')->'b' AS built_in;
SELECT fails($$SELECT evtstore.create_reducer('mine too', 'evtstore.merge_data')$$);
SELECT fails($$SELECT evtstore.save_snapshot('doc-1', 'mine', 1, '1')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION shop.priced FROM PUBLIC;
SET ROLE regress_evt_reader;
SELECT fails($$SELECT evtstore.state_of('doc-1', 'priced')$$);
RESET ROLE;

--
-- errors
--
SELECT version FROM evtstore.append('err-1', 'Opened', '{}');
SELECT version FROM evtstore.append('err-1', 'Bad', '{"divisor": 0}');
CREATE OR REPLACE FUNCTION shop.apply(state jsonb, e evtstore.event) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN CASE e.type WHEN 'Bad' THEN to_jsonb(1 / (e.data->>'divisor')::int) WHEN 'Null' THEN NULL ELSE state END;
END $$;
SELECT evtstore.create_reducer('fails', 'shop.apply');
SELECT fails($$SELECT evtstore.state_of('err-1', 'fails')$$);
SELECT evtstore.state_of('err-1', 'fails', as_of_version => 1);
SELECT version FROM evtstore.append('err-2', 'Null', '{}');
SELECT fails($$SELECT evtstore.state_of('err-2', 'fails')$$);
SELECT fails($$SELECT evtstore.state_of('err-1', 'never')$$);
SELECT fails($$SELECT evtstore.state_of('err-1', 'fails', now(), 1)$$);
SELECT fails($$SELECT evtstore.state_of('err-1', 'fails', as_of_version => -1)$$);
SELECT fails($$SELECT evtstore.state_of('err-1', 'fails', as_of_version => 3)$$);
SELECT evtstore.state_of('never', 'fails', as_of_version => 3);
SELECT left(fails($$SELECT evtstore.state_of('err-1', 'fails', now() + interval '1 day')$$), 5);
SELECT fails($$SELECT evtstore.state_of(NULL, 'fails')$$);
SELECT fails($$SELECT evtstore.create_reducer('x', 'apply')$$);
SELECT fails($$SELECT evtstore.create_reducer('x', 'shop.never')$$);
CREATE FUNCTION shop.wrong(state jsonb, evtstore.event) RETURNS text LANGUAGE sql AS $$ SELECT '' $$;
SELECT fails($$SELECT evtstore.create_reducer('x', 'shop.wrong')$$);
SELECT fails($$SELECT evtstore.create_reducer('x', 'shop.apply', options => '{"snapshot_every": 0}')$$);
SELECT fails($$SELECT evtstore.create_reducer('x', 'shop.apply', options => '{"every": 1}')$$);
SELECT fails($$SELECT evtstore.alter_reducer('fails', '{"function": "shop.apply"}')$$);
SELECT fails($$SELECT evtstore.alter_reducer('fails', '{"fn": null}')$$);
SELECT fails($$SELECT evtstore.alter_reducer('fails', '{"fn": "shop.wrong"}')$$);
SELECT fails($$SELECT evtstore.alter_reducer('never', '{}')$$);
SELECT fails($$SELECT evtstore.drop_reducer('never')$$);
DROP FUNCTION shop.apply;
SELECT fails($$SELECT evtstore.state_of('err-1', 'fails')$$);
DROP OWNED BY regress_evt_owner, regress_evt_reader;
DROP ROLE regress_evt_owner, regress_evt_reader;
