--
-- Reactors: a function gets the state and an event, and says what follows. Workers bring the events; wait_for() waits for them.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
\pset tuples_only on

-- all that is appended is handled
CREATE PROCEDURE handled(reactor text) LANGUAGE plpgsql AS $$
BEGIN
    CALL evtstore.wait_for('reactor:' || reactor, evtstore.head_position(), '60 s');
END $$;
CREATE VIEW instances AS
    SELECT format('%s %s v%s %s %s %s%s', s.name, s.business_key, s.version, s.status, s.states, s.output, ' ' || s.error) AS instance FROM evtstore.sagas s ORDER BY s.started_at, s.id;
CREATE VIEW steps AS
    SELECT format('%s %s %s %s %s%s', s.business_key, t.seq, t.kind, t.state, t.status, ' ' || t.error) AS step
    FROM evtstore.saga_steps t JOIN evtstore.sagas s ON s.id = t.saga_id ORDER BY s.started_at, s.id, t.seq;
-- what a definition may be
CREATE FUNCTION order_flow(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    seen jsonb := coalesce(state->'seen', '[]') || jsonb_build_array(event->'type');
BEGIN
    CASE event->>'type'
        WHEN 'OrderPlaced' THEN
            RETURN jsonb_build_object('state', jsonb_build_object('seen', seen),
                'commands', jsonb_build_array(jsonb_build_object('queue', 'pay', 'body', event->'data', 'key', event#>>'{data,order}', 'headers', '{"h": 1}'::jsonb)),
                'timers', '[{"name": "pay", "after": "1 hour", "data": [1]}, {"name": "remind", "after": "30 min"}]'::jsonb);
        WHEN 'OrderPaid' THEN
            IF event->'data' ? 'wrong' THEN RAISE EXCEPTION USING ERRCODE = 'P0042', MESSAGE = 'wrong: ' || (event#>>'{data,wrong}'); END IF;
            RETURN jsonb_build_object('state', jsonb_build_object('seen', seen), 'cancel_timers', '["pay", "unknown"]'::jsonb,
                'events', jsonb_build_array(jsonb_build_object('stream', 'shipping-' || (event#>>'{data,order}'), 'type', 'ShippingAsked', 'data', '{"by": "reactor"}'::jsonb)));
        WHEN 'OrderShipped' THEN
            RETURN jsonb_build_object('state', jsonb_build_object('seen', seen), 'done', true, 'output', '{"shipped": true}'::jsonb);
        WHEN 'OrderSeen' THEN
            RETURN NULL;
        WHEN 'evtstore.timer' THEN
            RETURN jsonb_build_object('state', jsonb_build_object('seen', seen || jsonb_build_array(event->'data'->'name', event->'data'->'data')));
        ELSE
            RETURN event->'data';
    END CASE;
END $$;
CREATE FUNCTION not_jsonb(jsonb, jsonb) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
SELECT fails($$SELECT evtstore.define_reactor('r', '{}', 'public.none')$$);
SELECT fails($$SELECT evtstore.define_reactor('r', '[{"types": [], "correlate": "data"}, {"types": ["A", "A", ""], "correlate": "$.data[0]"}, {"correlate": "$.time"}]', 'public.not_jsonb')$$);
SELECT fails($$SELECT evtstore.define_reactor('r', '[{"type": "A"}]', 'public.order_flow')$$);
SELECT fails($$SELECT evtstore.define_reactor('r', '[{"types": ["A"], "correlate": "$.stream"}]', 'public.order_flow', '{"start_at": "soon"}')$$);
SELECT fails($$SELECT evtstore.define_reactor('r', '[{"types": ["A"], "correlate": "$.stream"}]', 'public.order_flow', '{"retry": {"max": 1}}')$$);
SELECT fails($$SELECT evtstore.drop_reactor('r')$$);

SELECT evtstore.create_queue('pay');
SELECT version FROM evtstore.append('order-0', 'OrderPlaced', '{"order": "before"}');
\set routes '[{"types": ["OrderPlaced"], "correlate": "$.data.order", "starts": true}, {"types": ["OrderPaid", "OrderShipped", "OrderSeen", "OrderOdd"], "correlate": "$.data.order"}]'
SELECT evtstore.define_reactor('order', :'routes', 'public.order_flow', '{"retry": {"max_attempts": 2, "initial": "10 ms"}}');
SELECT evtstore.define_reactor('order', :'routes', 'public.order_flow', '{"retry": {"max_attempts": 2, "initial": "0.01 s"}}');

\echo -- from its definition on: one starts, others go to who is there or to nobody; each is done with all that comes of it
SELECT count(*) FROM evtstore.append_events('order-1', '[{"type": "OrderPaid", "data": {"order": "early"}}, {"type": "OrderPlaced", "data": {"order": 1}}, {"type": "OrderPlaced", "data": {"no": 1}},
    {"type": "OrderPlaced", "data": {"order": 2}, "metadata": {"correlation_id": "c-2"}}, {"type": "Other", "data": {"order": 1}}, {"type": "OrderSeen", "data": {"order": 1}}]');
CALL handled('order');
SELECT * FROM instances;
SELECT * FROM steps;
SELECT key, body, headers - '{saga_id,causation_id,correlation_id}'::text[], headers->>'correlation_id' = 'c-2', headers ? 'saga_id' FROM evtstore.receive('pay', max_count => 10, lease => '1 h') ORDER BY key;
SELECT type, data - 'steps' FROM evtstore.read_category('saga') WHERE data->>'business_key' = '1';
SELECT count(*) FROM evtstore.append('payment-1', 'OrderPaid', '{"order": 1}');
CALL handled('order');
SELECT stream, type, data, metadata->'causation_depth', metadata ? 'correlation_id' FROM evtstore.events WHERE type = 'ShippingAsked';
SELECT * FROM instances;
SELECT count(*) FROM evtstore.append('order-1', 'OrderShipped', '{"order": 1}');
CALL handled('order');
SELECT * FROM instances;
-- its key is free: another one
SELECT count(*) FROM evtstore.append_events('order-1', '[{"type": "OrderPaid", "data": {"order": 1}}, {"type": "OrderPlaced", "data": {"order": 1}}]');
CALL handled('order');
SELECT * FROM instances;

\echo -- what fails is tried again, and then waits for a person; so do those behind it, of that key
SELECT count(*) FROM evtstore.append_events('order-1', '[{"type": "OrderPaid", "data": {"order": 1, "wrong": "card"}}, {"type": "OrderSeen", "data": {"order": 1}}, {"type": "OrderPaid", "data": {"order": 2}}]');
CALL handled('order');
CALL eventually($$EXISTS (SELECT FROM evtstore.stuck_sagas)$$);
SELECT * FROM instances;
SELECT name, business_key, reason, error, cause FROM evtstore.stuck_sagas;
SELECT * FROM steps WHERE step LIKE '1 %' AND step NOT LIKE '%OrderPlaced done';
SELECT kind, name, cause FROM evtstore.stuck WHERE kind <> 'feed';
SELECT id FROM evtstore.stuck_sagas \gset
SELECT count(*) FROM evtstore.append('order-1', 'OrderShipped', '{"order": 1}');
CALL handled('order');
BEGIN;
SELECT evtstore.retry_saga(:'id');
SELECT status, error FROM evtstore.sagas WHERE id = :'id';
COMMIT;
CALL eventually($$EXISTS (SELECT FROM evtstore.stuck_sagas)$$);
SELECT fails(format($$SELECT evtstore.resolve_step(%L, 'OrderPaid', 'done')$$, :'id'));
SELECT fails(format($$SELECT evtstore.skip_step(%L, 'OrderSeen', 'null')$$, :'id'));
SELECT evtstore.skip_step(:'id', 'OrderPaid', 'null');
SELECT * FROM instances;
SELECT * FROM steps WHERE step LIKE '1 %';

\echo -- what it returns is looked at, and all that it asked for is undone
SELECT count(*) FROM evtstore.append('order-3', 'OrderPlaced', '{"order": 3}');
CALL handled('order');
SELECT count(evtstore.ack(receipt)) FROM evtstore.receive('pay', max_count => 10);
CREATE PROCEDURE odd(result jsonb) LANGUAGE plpgsql AS $$
DECLARE
    id uuid;
BEGIN
    PERFORM evtstore.append('order-3', 'OrderOdd', jsonb_build_object('order', 3) || result);
    COMMIT;
    CALL eventually('EXISTS (SELECT FROM evtstore.stuck_sagas)');
    SELECT s.id INTO id FROM evtstore.stuck_sagas s;
    RAISE NOTICE '%', (SELECT s.error || ' ' || s.cause FROM evtstore.stuck_sagas s);
    PERFORM evtstore.skip_step(id, 'OrderOdd', 'null');
    COMMIT;
END $$;
\set VERBOSITY terse
-- the function returns the event's data, which has a key too much
CALL odd('{"state": 1}');
CREATE OR REPLACE FUNCTION order_flow(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT (event->'data') - 'order' $$;
CALL odd('{"commands": [{"queue": "pay"}, {"queue": "none"}]}');
CALL odd('{"commands": [{"queue": "evtstore:sagas"}]}');
CALL odd('{"commands": [{"body": 1}]}');
CALL odd('{"commands": [{"queue": "pay", "body": 1}], "events": [{"stream": "odd-1"}]}');
CALL odd('{"commands": {"queue": "pay"}}');
CALL odd('{"events": [{"type": "Odd"}]}');
CALL odd('{"events": [{"type": "Odd", "stream": "odd-1", "expected_version": 4}]}');
CALL odd('{"events": [{"type": "Odd", "stream": "odd-1"}, 1]}');
CALL odd('{"timers": [{"name": "t"}]}');
CALL odd('{"timers": [{"name": "t", "after": "1 h", "at": "2030-01-01"}]}');
CALL odd('{"timers": [{"after": "1 h"}]}');
CALL odd('{"done": 1}');
CALL odd('{"cancel_timers": "t"}');
\set VERBOSITY default
SELECT count(*) FROM evtstore.events WHERE stream = 'odd-1';
SELECT ready FROM evtstore.queue_status WHERE name = 'pay';
SELECT count(*) FROM evtstore.append('order-3', 'OrderOdd', '{"order": 3, "state": "a state", "commands": [{"queue": "pay", "body": 1, "delay": "1 h"}], "timers": [{"name": "t", "at": "2030-01-01 00:00:00Z"}, {"name": "t", "after": "1 h"}]}');
CALL handled('order');
SELECT delayed FROM evtstore.queue_status WHERE name = 'pay';
SELECT * FROM instances WHERE instance LIKE 'order 3%';
SELECT step FROM steps WHERE step LIKE '3 % t %';

\echo -- another definition takes its place, for those that are open; a person ends one
CREATE FUNCTION second(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('state', jsonb_build_object('second', event#>'{data,name}')) $$;
SELECT evtstore.define_reactor('order', '[{"types": ["OrderPlaced"], "correlate": "$.data.order", "starts": true}, {"types": ["OrderNamed"], "correlate": "$.metadata.order"}]', 'public.second');
SELECT count(*) FROM evtstore.append_events('order-3', '[{"type": "OrderNamed", "data": {"name": "n"}, "metadata": {"order": 3}}, {"type": "OrderOdd", "data": {"order": 3, "state": "no more"}}]');
SELECT count(*) FROM evtstore.append('order-4', 'OrderPlaced', '{"order": 4}');
CALL handled('order');
SELECT * FROM instances WHERE instance ~ '^order [34]';
SELECT id FROM evtstore.sagas WHERE business_key = '3' \gset
SELECT evtstore.cancel_saga(:'id');
SELECT * FROM instances WHERE instance ~ '^order [3]';
SELECT step FROM steps WHERE step LIKE '3 % t %';
SELECT fails($$SELECT evtstore.drop_reactor('order')$$);
SELECT fails($$SELECT evtstore.start_saga('order')$$);
SELECT fails($$SELECT evtstore.poll('reactor:order')$$);

\echo -- timers
SELECT evtstore.create_queue('timed');
CREATE FUNCTION timed(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF event->>'type' = 'Begun' THEN
        RETURN '{"state": [], "timers": [{"name": "b", "after": "30 min", "data": {"x": 1}}, {"name": "a", "after": "20 min"}, {"name": "c", "after": "10 min"}, {"name": "d", "after": "9 days"}], "cancel_timers": ["c"]}';
    END IF;
    RETURN jsonb_build_object('state', state || jsonb_build_array(event#>'{data,name}', event#>'{data,data}'),
        'commands', '[{"queue": "timed"}]'::jsonb, 'cancel_timers', '["c"]'::jsonb, 'done', event#>>'{data,name}' = 'b');
END $$;
SELECT evtstore.define_reactor('timed', '[{"types": ["Begun"], "correlate": "$.stream", "starts": true}]', 'public.timed');
SELECT count(*) FROM evtstore.append('timed-1', 'Begun', '{}');
CALL handled('timed');
SELECT * FROM instances WHERE instance LIKE 'timed%';
ALTER SYSTEM SET evtstore.clock_offset = '1 h';
SELECT pg_reload_conf();
CALL eventually($$(SELECT status FROM evtstore.sagas WHERE name = 'timed') = 'succeeded'$$);
SELECT * FROM instances WHERE instance LIKE 'timed%';
SELECT step FROM steps WHERE step LIKE 'timed%';
ALTER SYSTEM RESET evtstore.clock_offset;
SELECT pg_reload_conf();

\echo -- done while others wait: they are for the next one
CREATE TABLE trouble (is_there boolean);
INSERT INTO trouble VALUES (true);
CREATE FUNCTION pair(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF event->>'type' = 'Closed' AND (SELECT is_there FROM trouble) THEN RAISE division_by_zero; END IF;
    RETURN jsonb_build_object('state', coalesce(state->'n', '0')::int + 1, 'done', event->>'type' = 'Closed') #- '{}' || jsonb_build_object('state', jsonb_build_object('n', coalesce(state->'n', '0')::int + 1));
END $$;
SELECT evtstore.define_reactor('pair', '[{"types": ["Opened"], "correlate": "$.stream", "starts": true}, {"types": ["Closed"], "correlate": "$.stream"}]', 'public.pair', '{"retry": {"max_attempts": 1}, "lanes": 2}');
SELECT count(*) FROM evtstore.append_events('pair-1', '[{"type": "Opened", "data": 1}, {"type": "Closed", "data": 2}, {"type": "Closed", "data": 3}, {"type": "Opened", "data": 4}, {"type": "Opened", "data": 5}]');
CALL handled('pair');
SELECT * FROM instances WHERE instance LIKE 'pair%';
UPDATE trouble SET is_there = false;
SELECT id FROM evtstore.stuck_sagas \gset
SELECT evtstore.retry_saga(:'id');
SELECT * FROM instances WHERE instance LIKE 'pair%';
SELECT * FROM steps WHERE step LIKE 'pair%';

\echo -- from the beginning; tenants have keys of their own; paused, and gone
SET evtstore.tenant = 'a';
SELECT version FROM evtstore.append('count-1', 'Counted', '{"k": 1}');
SET evtstore.tenant = 'b';
SELECT version FROM evtstore.append('count-1', 'Counted', '{"k": 1}');
SELECT version FROM evtstore.append('count-1', 'Counted', '{"k": 1}');
RESET evtstore.tenant;
CREATE FUNCTION counting(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('state', jsonb_build_object('n', coalesce(state->'n', '0')::int + 1, 'tenant', current_setting('evtstore.tenant'), 'user', session_user = current_user)) $$;
SELECT evtstore.define_reactor('count', '[{"types": ["Counted"], "correlate": "$.data.k", "starts": true}]', 'public.counting', '{"start_at": "beginning"}');
CALL handled('count');
SELECT tenant, output FROM evtstore.sagas WHERE name = 'count' ORDER BY tenant;
SELECT evtstore.pause('reactor:count');
SELECT kind, name, cause, fix FROM evtstore.stuck WHERE kind <> 'feed';
SELECT version FROM evtstore.append('count-1', 'Counted', '{"k": 1}');
SELECT evtstore.resume('count');
CALL handled('count');
SELECT tenant, output->'n' FROM evtstore.sagas WHERE name = 'count' ORDER BY tenant;
SELECT count(evtstore.cancel_saga(id, false)) FROM evtstore.sagas WHERE name = 'count' AND tenant = '';
SET evtstore.tenant = 'a';
SELECT count(evtstore.cancel_saga(id)) FROM evtstore.sagas WHERE name = 'count';
SET evtstore.tenant = 'b';
SELECT count(evtstore.cancel_saga(id)) FROM evtstore.sagas WHERE name = 'count';
RESET evtstore.tenant;
SELECT evtstore.drop_reactor('count');
SELECT count(*) FROM evtstore_internal.saga s WHERE NOT EXISTS (SELECT FROM evtstore_internal.definition d WHERE d.id = s.definition_id);
