-- What workers would do, done by a client: nobody else does it here.
\pset null '-'
SET client_min_messages = warning;
SELECT current_database() AS db \gset
-- before anything is there to be served: who is asked to leave starts nobody
ALTER DATABASE :"db" SET evtstore.enabled = off;
SET evtstore.enabled = off;
CREATE SCHEMA shop;
CREATE TABLE shop.log (n bigserial, what text, who text, doc jsonb);
GRANT USAGE ON SCHEMA shop TO PUBLIC;
CREATE FUNCTION shop.note(what text, doc jsonb) RETURNS void LANGUAGE sql SECURITY DEFINER AS
    $$ INSERT INTO shop.log (what, who, doc) VALUES (what, session_user, doc) $$;
CREATE FUNCTION shop.got(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF d.body->>'bad' = 'always' OR (d.body->>'bad' = 'once' AND d.attempt = 1) THEN RAISE 'no good'; END IF;
    PERFORM shop.note('got ' || coalesce(d.type, 'message') || ' as ' || current_user, d.body);
    IF d.body->>'again' IS NOT NULL THEN PERFORM evtstore.send('work', '{"more": 1}'); END IF;
    IF d.body->>'append' IS NOT NULL THEN PERFORM evtstore.append('order-9', 'Placed', '{"by": "handler"}'); END IF;
    IF d.body->>'nested' IS NOT NULL THEN PERFORM evtstore.run_pending(); END IF;
END $$;
CREATE FUNCTION shop.step(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM shop.note('step', $1); RETURN '{"ok": true}'; END $$;
CREATE TABLE shop.placed (stream text, version bigint, tenant text);
CREATE FUNCTION log() RETURNS TABLE (what text, doc jsonb) LANGUAGE sql AS $$ WITH d AS (DELETE FROM shop.log RETURNING *) SELECT what, doc FROM d ORDER BY n $$;

-- nothing is there, in a store in which nothing was ever defined and in one that has nothing to do
SELECT evtstore.run_pending();
SELECT evtstore.create_endpoint('function', 'sql:shop.got');
SELECT evtstore.create_queue('work', '{"endpoint": "function", "retry": {"max_attempts": 3, "initial": "0", "jitter": 0}}');
SELECT evtstore.run_pending();

-- each kind: an async projection, an async rule with a queue, a subscription and a queue with a function
SELECT evtstore.create_projection('placed', '{"Placed": "INSERT INTO shop.placed VALUES (($1).stream, ($1).version, pg_catalog.current_setting(''evtstore.tenant''))"}', 'async');
SELECT evtstore.create_rule('paid', '{"types": ["Paid"]}', 'queue:work', mode => 'async');
SELECT evtstore.create_subscription('shipped', '{"types": ["Shipped"]}', 'function');
SELECT version FROM evtstore.append_events('order-1', '[{"type": "Placed", "data": {"o": 1}}, {"type": "Paid", "data": {"o": 1}}, {"type": "Shipped", "data": {"o": 1}},
    {"type": "Placed", "data": {"o": 2}}]');
SELECT evtstore.send('work', '{"plain": 1}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT * FROM shop.placed;
SELECT * FROM log();
SELECT evtstore.run_pending();
SELECT name, ready, delayed, in_flight FROM evtstore.queue_status ORDER BY name;
SELECT name, lag_events, in_flight FROM evtstore.subscription_status ORDER BY name;
SELECT name, lag_events FROM evtstore.projection_status;

-- so many of them, and the rest later; what a function sends is there in the same call
SELECT evtstore.send('work', jsonb_build_object('n', n)) IS NOT NULL AS sent FROM generate_series(1, 3) n;
SELECT evtstore.run_pending(2);
SELECT evtstore.send('work', '{"again": 1}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT * FROM log();
-- more than fits into a batch of any kind
SELECT count(evtstore.send('work', jsonb_build_object('n', n))) FROM generate_series(1, 130) n;
SELECT evtstore.run_pending();
SELECT count(DISTINCT doc) FROM log();

-- events that the call appended itself are for the next one, also where it is the caller's transaction that did
SELECT evtstore.send('work', '{"append": 1}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT * FROM shop.placed WHERE stream = 'order-9';
SELECT evtstore.run_pending();
SELECT * FROM shop.placed WHERE stream = 'order-9';
-- a long way through events that nobody wants
SELECT count(*) FROM (SELECT evtstore.append_events('noise-' || n, (SELECT jsonb_agg('{"type": "Noise", "data": {}}'::jsonb) FROM generate_series(1, 500))) FROM generate_series(1, 12) n) a;
SELECT version FROM evtstore.append('order-3', 'Placed', '{}');
SELECT evtstore.run_pending();
SELECT * FROM shop.placed WHERE stream = 'order-3';

-- failures are attempts, by the same policy; what fails is not tried again for ever in one call
TRUNCATE shop.log;
SELECT evtstore.send('work', '{"bad": "once"}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT evtstore.run_pending();
SELECT * FROM log();
SELECT evtstore.send('work', '{"bad": "always"}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT evtstore.run_pending();
SELECT evtstore.run_pending();
SELECT evtstore.run_pending();
SELECT name, attempts, last_error, cause FROM evtstore.dead_letters;
SELECT version FROM evtstore.append('order-4', 'Shipped', '{"bad": "always"}');
SELECT version FROM evtstore.append('order-4', 'Shipped', '{"behind": "it"}');
SELECT evtstore.run_pending();
SELECT name, key, attempt, error FROM evtstore.blocked_keys;
SELECT evtstore.skip_event('shipped', id, 'no good') FROM evtstore.read_stream('order-4') WHERE version = 1;
SELECT evtstore.run_pending();
-- of a projection nobody knows which event fails, before each is tried by itself
CREATE FUNCTION shop.check_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.version = 2 THEN RAISE 'not that one'; END IF; RETURN NEW; END $$;
CREATE TRIGGER check_it BEFORE INSERT ON shop.placed FOR EACH ROW EXECUTE FUNCTION shop.check_it();
SELECT version FROM evtstore.append_events('order-6', '[{"type": "Placed", "data": {}}, {"type": "Placed", "data": {}}, {"type": "Placed", "data": {}}]');
SELECT evtstore.run_pending();
SELECT stream, version FROM shop.placed WHERE stream = 'order-6';
DROP TRIGGER check_it ON shop.placed;
SET evtstore.clock_offset = '1h';
SELECT evtstore.run_pending();
SET evtstore.clock_offset = 0;
SELECT stream, version FROM shop.placed WHERE stream = 'order-6';
-- a turn that cannot be taken is told of, and leaves nothing; the others are taken
SELECT evtstore.create_queue('broken', '{"endpoint": "function", "retry": {"initial": "1h", "jitter": 0}}');
CREATE FUNCTION shop.cannot() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the disk is full'; END $$;
CREATE TRIGGER cannot BEFORE UPDATE ON evtstore_internal.message FOR EACH ROW EXECUTE FUNCTION shop.cannot();
SELECT evtstore.send('broken', '{"n": 1}') IS NOT NULL AND evtstore.send('broken', '{"bad": "always"}') IS NOT NULL AND evtstore.send('work', '{"n": 2}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT * FROM log();
DROP TRIGGER cannot ON evtstore_internal.message;
SELECT evtstore.run_pending();
SELECT name, ready, delayed, in_flight FROM evtstore.queue_status ORDER BY name;
SELECT evtstore.purge_queue('broken');

-- sagas: a time that has not come, one that has, and the arrival of what was left while somebody had it
SELECT * FROM log();
SELECT evtstore.create_queue('pay');
SELECT evtstore.define_saga('order', '{"StartAt": "Cool", "States": {
    "Cool": {"Type": "Wait", "Seconds": 3600, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "queue:pay", "TimeoutSeconds": 60, "Retry": [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 5, "MaxAttempts": 1}], "ResultPath": "$.paid",
        "Next": "Ship"},
    "Ship": {"Type": "Task", "Resource": "sql:shop.step", "End": true}}}');
SELECT evtstore.start_saga('order', '{"n": 1}', business_key => 'a') IS NOT NULL AS started;
SELECT evtstore.run_pending();
SET evtstore.clock_offset = '3601s';
SELECT evtstore.run_pending();
SELECT status, states FROM evtstore.sagas;
SELECT receipt FROM evtstore.receive('pay') \gset
SET evtstore.clock_offset = '3662s';
SELECT evtstore.run_pending();
SELECT t.seq, t.state, t.status, t.attempt FROM evtstore.saga_steps t ORDER BY seq;
SET evtstore.clock_offset = '3668s';
SELECT evtstore.reply(receipt, '{"ok": 1}') FROM evtstore.receive('pay');
SELECT status, output FROM evtstore.sagas;
SELECT evtstore.run_pending();
SET evtstore.clock_offset = 0;

-- a rollback leaves nothing of it, neither of what was done nor of who has what
TRUNCATE shop.log;
SELECT evtstore.send('work', jsonb_build_object('n', n)) IS NOT NULL AS sent FROM generate_series(1, 2) n;
SELECT evtstore.start_saga('order', '{"n": 2}', start_at => now()) IS NOT NULL AS started;
SET evtstore.clock_offset = '3601s';
BEGIN;
SELECT evtstore.run_pending();
SELECT count(*) FROM shop.log;
SELECT states FROM evtstore.sagas WHERE status = 'running';
ROLLBACK;
SELECT count(*) FROM shop.log;
SELECT name, ready, in_flight FROM evtstore.queue_status WHERE name IN ('work', 'evtstore:sagas') ORDER BY name;
SELECT states FROM evtstore.sagas WHERE status = 'running';
-- and a savepoint neither
BEGIN;
SAVEPOINT s;
SELECT evtstore.run_pending();
ROLLBACK TO s;
SELECT count(*) FROM shop.log;
-- in the same transaction it is all there again
SELECT evtstore.run_pending();
COMMIT;
SELECT count(*) FROM shop.log;
SELECT states FROM evtstore.sagas WHERE status = 'running';
SET evtstore.clock_offset = 0;

-- as workers do: whatever tenant or cause the caller has
TRUNCATE shop.log;
SET evtstore.tenant = 'blue';
SELECT version FROM evtstore.append('order-5', 'Placed', '{}');
SELECT evtstore.send('work', '{"append": "blue"}') IS NOT NULL AS sent;
SET evtstore.tenant = 'red';
SET evtstore.correlation_id = 'mine';
SELECT evtstore.run_pending();
SHOW evtstore.tenant;
SHOW evtstore.correlation_id;
RESET evtstore.tenant;
RESET evtstore.correlation_id;
SELECT * FROM shop.placed WHERE stream = 'order-5';
SELECT metadata->>'correlation_id' AS correlation_id FROM evtstore.read_stream('order-9', 1);
SELECT evtstore.run_pending();

-- who may, and where
\set VERBOSITY terse
CREATE ROLE regress_pending_writer IN ROLE evtstore_writer;
CREATE ROLE regress_pending_admin IN ROLE evtstore_admin;
TRUNCATE shop.log;
SELECT evtstore.send('work', '{"n": 9}') IS NOT NULL AS sent;
SET ROLE regress_pending_writer;
SELECT evtstore.run_pending();
SET ROLE regress_pending_admin;
-- functions run as their owner
SELECT evtstore.run_pending();
RESET ROLE;
SELECT what = 'got message as ' || session_user AS as_owner FROM shop.log;
SELECT evtstore.run_pending(0);
SELECT evtstore.run_pending(-1);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evtstore.run_pending();
ROLLBACK;
BEGIN READ ONLY;
SELECT evtstore.run_pending();
ROLLBACK;
-- not by what it runs: that fails there
SELECT evtstore.send('broken', '{"nested": 1}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT delayed FROM evtstore.queue_status WHERE name = 'broken';
SELECT history->0->>'error' AS error FROM evtstore_internal.message;
-- after an error it is not running any more
SELECT evtstore.run_pending();
-- what has an endpoint outside is left alone
SELECT evtstore.create_endpoint('out', 'https://example.com/');
SELECT evtstore.create_queue('outbox', '{"endpoint": "out"}');
SELECT evtstore.send('outbox', '{}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
-- and what is paused
SELECT evtstore.pause('work');
SELECT evtstore.send('work', '{"n": 10}') IS NOT NULL AS sent;
SELECT evtstore.run_pending();
SELECT evtstore.resume('work');
SELECT evtstore.run_pending();
-- in a copy nothing is delivered
UPDATE evtstore_internal.identity SET database_oid = 1;
SELECT evtstore.run_pending();
DROP ROLE regress_pending_writer, regress_pending_admin;
