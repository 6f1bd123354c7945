--
-- Async rules: workers send and call, wait_for() waits for them; failures, redrive, pause, alter; names; tenants.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
\pset tuples_only on

-- what is ready, in order, taken and acknowledged
CREATE FUNCTION take(queue text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    d evtstore.delivery; result text[] := '{}';
BEGIN
    LOOP
        SELECT * INTO d FROM evtstore.receive(queue);
        EXIT WHEN d.receipt IS NULL;
        result := result || format('%s@%s %s', d.stream, d.version, d.body);
        PERFORM evtstore.ack(d.receipt);
    END LOOP;
    RETURN result;
END $$;
CREATE FUNCTION state(rule text) RETURNS TABLE (state text, "position" bigint, last_error text, failed text) LANGUAGE sql AS $$
    SELECT s.state, s."position", s.last_error, (SELECT e.stream || '@' || e.version FROM evtstore.read_all() e WHERE e.id = s.failed_event)
    FROM evtstore.rule_status s WHERE s.name = rule $$;
-- one attempt: else a test would wait for the next one.  create_rule has no such option
CREATE PROCEDURE once_only(rule text) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE evtstore_internal.definition SET spec = spec || '{"retry": {"max_attempts": 1}}' WHERE kind = 'rule' AND name = rule;
    PERFORM evtstore.alter_rule(rule, '{}');
END $$;

SELECT evtstore.create_queue('orders'), evtstore.create_queue('region-eu');
SELECT version FROM evtstore.append('order-1', 'Placed', '"before"');
SELECT evtstore.create_rule('orders', '{"categories": ["order"], "types": ["Placed", "Paid"]}', 'queue:orders', mode => 'async');
SELECT version FROM evtstore.append_events('order-1', '[{"type": "Placed", "data": 9007199254740993}, {"type": "Seen", "data": 2}, {"type": "Paid", "data": 1e400}]');
SELECT version FROM evtstore.append_events('invoice-1', '[{"type": "Placed", "data": 4}]');
SELECT version FROM evtstore.append_events('order-2', '[{"type": "Paid", "data": 5}]');
CALL evtstore.wait_for('orders', 6);
SELECT key, left(body::text, 20), headers, stream, version, type, "position" FROM evtstore.receive('orders', max_count => 10);
SELECT * FROM state('orders');
SELECT mode, target, lag_events FROM evtstore.rule_status;
SELECT purge_queue IS NOT NULL FROM evtstore.purge_queue('orders');
-- the same once more is nothing
SELECT evtstore.create_rule('orders', '{"categories": ["order"], "types": ["Placed", "Paid"]}', 'queue:orders', NULL, 'async');
SELECT fails($$SELECT evtstore.create_rule('orders', '{"categories": ["order"], "types": ["Placed", "Paid"]}', 'queue:orders')$$);

-- altered: for what is taken after it
SELECT evtstore.alter_rule('orders', '{"filter": {}, "target": "queue:region-${data.region}", "transform": {"body": ["${stream}", "${data.n}"]}}');
SELECT version FROM evtstore.append_events('order-3', '[{"type": "Any", "data": {"region": "eu", "n": 0.10}}]');
CALL evtstore.wait_for('orders', 7);
SELECT take('region-eu'), take('orders');

--
-- an event that fails: its stream waits, others go on
--
CALL once_only('orders');
-- in one transaction: a worker gets all of them together
BEGIN;
SELECT version FROM evtstore.append_events('order-4', '[{"type": "A", "data": {"region": "eu", "n": 1}}, {"type": "A", "data": {"region": "mars", "n": 2}}, {"type": "A", "data": {"region": "eu", "n": 3}}]');
SELECT version FROM evtstore.append_events('order-5', '[{"type": "A", "data": {"region": "eu", "n": 4}}]');
COMMIT;
CALL evtstore.wait_for('orders', 11);
SELECT take('region-eu');
SELECT state, last_error, failed FROM state('orders');
SELECT kind, name, key, state, error FROM evtstore.blocked_keys;
SELECT kind, name, key, cause, fix FROM evtstore.stuck;
-- what was the matter is mended, and the fix run
SELECT evtstore.create_queue('region-mars');
SELECT fix FROM evtstore.stuck \gexec
CALL evtstore.wait_for('orders', 11);
SELECT take('region-mars'), take('region-eu');
SELECT state, last_error, failed FROM state('orders');
SELECT count(*) FROM evtstore.stuck;
-- skipped: a dead letter, which can come again, though a queue has the rule's name
SELECT version FROM evtstore.append_events('order-4', '[{"type": "A", "data": {"region": "moon", "n": 5}}, {"type": "A", "data": {"region": "eu", "n": 6}}]');
CALL evtstore.wait_for('orders', 13);
SELECT evtstore.skip_event('orders', (SELECT id FROM evtstore.read_stream('order-4') WHERE version = 4), 'no shop there');
CALL evtstore.wait_for('orders', 13);
SELECT take('region-eu');
SELECT kind, name, key, cause, last_error, body FROM evtstore.dead_letters;
SELECT kind, name, cause, fix FROM evtstore.stuck;
SELECT state, last_error, failed FROM state('orders');
SELECT evtstore.create_queue('region-moon');
SELECT evtstore.redrive('orders');
SELECT fix FROM evtstore.stuck \gexec
CALL evtstore.wait_for('orders', 13);
SELECT take('region-moon');
SELECT count(*) FROM evtstore.dead_letters;
SELECT fails($$SELECT evtstore.redrive('rule:orders', patch => '{}')$$);

--
-- paused and resumed
--
SELECT evtstore.pause('rule:orders');
SELECT version FROM evtstore.append_events('order-6', '[{"type": "A", "data": {"region": "eu", "n": 7}}]');
CALL evtstore.wait_for('rule:orders', 14);
SELECT state FROM evtstore.rule_status;
SELECT kind, name, cause, fix FROM evtstore.stuck;
-- the queue of that name is another matter
SELECT evtstore.pause('orders');
SELECT kind, name, cause, fix FROM evtstore.stuck ORDER BY kind;
SELECT evtstore.resume('orders');
SELECT evtstore.resume('rule:orders');
CALL evtstore.wait_for('rule:orders', 14);
SELECT take('region-eu'), (SELECT state FROM evtstore.rule_status);
SELECT evtstore.create_rule('sync', '{"types": ["Never"]}', 'queue:orders');
SELECT fails($$SELECT evtstore.pause('sync')$$);
SELECT fails($$CALL evtstore.wait_for('sync', 1)$$) ~ '^55000';
SELECT state, lag_events, "position" = evtstore.head_position() FROM evtstore.rule_status WHERE name = 'sync';

--
-- nobody else consumes them
--
SELECT evtstore.create_rule('lonely', '{"types": ["Never"]}', 'queue:orders', mode => 'async');
SELECT fails($$SELECT evtstore.poll('lonely')$$);
SELECT left(fails($$SELECT evtstore.seek('lonely', 1)$$), 5), left(fails($$SELECT evtstore.alter_subscription('lonely', '{}')$$), 5), left(fails($$SELECT evtstore.drop_subscription('lonely')$$), 5),
       left(fails($$SELECT evtstore.leave('lonely', 'c')$$), 5);
SELECT count(*) FROM evtstore.subscription_status;
SELECT fails($$SELECT evtstore.skip_event('lonely', '00000000-0000-7000-8000-000000000001', 'x')$$);
SELECT fails($$SELECT evtstore.unblock_key('nobody', 'x')$$);
-- what else has the name is meant first
SELECT evtstore.create_subscription('lonely');
SELECT count(*) FROM evtstore.poll('lonely', max_count => 2);
SELECT evtstore.drop_subscription('lonely');
SELECT evtstore.create_projection('lonely', '{"Never": "SELECT 1"}', 'sync');
SELECT fails($$SELECT evtstore.redrive('lonely')$$);
SELECT evtstore.redrive('rule:lonely');
SELECT evtstore.drop_projection('lonely');
SELECT evtstore.create_subscription('rule:lonely');
SELECT count(*) FROM evtstore.poll('rule:lonely', max_count => 2);
SELECT evtstore.drop_subscription('rule:lonely');

--
-- functions: effect and acknowledgement commit together, as the rule's owner
--
CREATE TABLE done (n serial, who text, attempt int, stream text, version bigint, body jsonb, tenant text, CHECK (body <> '"never"'));
CREATE FUNCTION note(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.done (who, attempt, stream, version, body, tenant) VALUES (current_user, d.attempt, d.stream, d.version, d.body, current_setting('evtstore.tenant'));
    PERFORM 1 / (d.body->>'v')::int;
    IF d.body->>'append' IS NOT NULL THEN PERFORM evtstore.append('answer-1', 'Answered', jsonb_build_object('to', d.stream)); END IF;
END $$;
CREATE ROLE rule_async_owner;
GRANT evtstore_admin TO rule_async_owner;
GRANT INSERT ON done TO rule_async_owner;
GRANT USAGE ON SEQUENCE done_n_seq TO rule_async_owner;
SET ROLE rule_async_owner;
SELECT evtstore.create_rule('done', '{"types": ["Do"]}', 'sql:public.note', mode => 'async');
RESET ROLE;
CALL once_only('done');
SELECT evtstore.alter_rule('orders', '{"filter": {"categories": ["order"]}}');
BEGIN;
SELECT version FROM evtstore.append_events('do-1', '[{"type": "Do", "data": {"v": 1}}, {"type": "Do", "data": {"v": 0}}, {"type": "Do", "data": {"v": 2}}, {"type": "Don''t", "data": 1}]');
SELECT version FROM evtstore.append_events('do-2', '[{"type": "Do", "data": {"v": 3, "append": true}}]');
COMMIT;
CALL evtstore.wait_for('done', 19);
SELECT who, attempt, stream, version, body FROM done ORDER BY n;
SELECT state, last_error, failed FROM state('done');
SELECT version, data, metadata ->> 'causation_id' = (SELECT id::text FROM evtstore.read_stream('do-2')), metadata ->> 'causation_depth' FROM evtstore.read_stream('answer-1');
CREATE OR REPLACE FUNCTION note(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.done (who, attempt, stream, version, body) VALUES (current_user, d.attempt, d.stream, d.version, '"mended"') $$;
SELECT evtstore.unblock_key('done', 'do-1');
CALL evtstore.wait_for('done', 19);
SELECT attempt, stream, version, body FROM done ORDER BY n;
-- what its effects deferred to the commit is the event's error, not the turn's
CREATE TABLE parent (id text PRIMARY KEY);
CREATE TABLE child (id text REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION defer(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.child VALUES (d.stream) $$;
SELECT evtstore.create_rule('deferred', '{"types": ["Defer"]}', 'sql:public.defer', mode => 'async');
CALL once_only('deferred');
INSERT INTO parent VALUES ('do-4');
BEGIN;
SELECT version FROM evtstore.append('do-3', 'Defer', '1');
SELECT version FROM evtstore.append('do-4', 'Defer', '1');
COMMIT;
CALL evtstore.wait_for('deferred', 22);
SELECT id FROM child;
INSERT INTO parent VALUES ('do-3');
SELECT evtstore.unblock_key('deferred', 'do-3');
CALL evtstore.wait_for('deferred', 22);
SELECT id FROM child;
SELECT state, last_error FROM state('deferred');

--
-- who alters or drops one waits for the worker that is at it: nothing is done by the old rule behind the new one
--
CREATE FUNCTION slow(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_xact_lock(17) $$;
SELECT evtstore.create_rule('slow', '{"types": ["Slow"]}', 'sql:public.slow', mode => 'async');
SELECT pg_advisory_lock(17);
SELECT version FROM evtstore.append('slow-1', 'Slow', '1');
DO $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '60 s';
BEGIN
    WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 17 AND objsubid = 1 AND NOT granted
                          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) LOOP
        IF clock_timestamp() > deadline THEN RAISE 'no worker came'; END IF;
        PERFORM pg_sleep(0.01);    -- sleep: between two looks
    END LOOP;
END $$;
SET lock_timeout = '200ms';
SELECT left(fails($$SELECT evtstore.alter_rule('slow', '{"filter": {}}')$$), 5), left(fails($$SELECT evtstore.drop_rule('slow')$$), 5);
RESET lock_timeout;
SELECT pg_advisory_unlock(17);
SELECT evtstore.alter_rule('slow', '{"transform": {"body": 1}}');
CALL evtstore.wait_for('slow', 23);
SELECT evtstore.drop_rule('slow');

--
-- tenants: of each event its own
--
CREATE OR REPLACE FUNCTION note(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.done (stream, tenant) VALUES (d.stream, current_setting('evtstore.tenant')) $$;
TRUNCATE done;
SELECT evtstore.create_queue('tenants');
SELECT evtstore.create_rule('tenants', '{"types": ["Do"], "categories": ["do"]}', 'queue:tenants', '{"body": "${tenant}"}', 'async');
SELECT version FROM evtstore.append('do-5', 'Do', '1');
SET evtstore.tenant = 'acme';
SELECT version FROM evtstore.append('do-5', 'Do', '1');
SET evtstore.tenant = 'bolt';
SELECT version FROM evtstore.append('do-5', 'Do', '1');
SELECT name FROM evtstore.rule_status WHERE name = 'tenants';
RESET evtstore.tenant;
CALL evtstore.wait_for('done', 26);
CALL evtstore.wait_for('tenants', 26);
SELECT stream, tenant FROM done ORDER BY n;
SET evtstore.tenant = 'acme';
SELECT take('tenants');
RESET evtstore.tenant;
SELECT unnest(take('tenants')) ORDER BY 1;

-- with an endpoint, and none of that name: it waits
UPDATE evtstore_internal.definition SET spec = spec || '{"target": "endpoint:there"}' WHERE kind = 'rule' AND name = 'tenants';
SELECT evtstore.alter_rule('done', '{}');
SELECT version FROM evtstore.append('do-5', 'Do', '1');
CALL evtstore.wait_for('done', 27);
CALL evtstore.wait_for('tenants', 27, '50ms');

--
-- dropped: its place and what failed are forgotten
--
CALL once_only('orders');
SELECT version FROM evtstore.append('order-9', 'A', '{"region": "sun"}');
CALL evtstore.wait_for('orders', 28);
BEGIN;
SELECT evtstore.drop_rule('orders');
ROLLBACK;
SELECT count(*) FROM evtstore.blocked_keys WHERE name = 'orders';
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fails($$SELECT evtstore.drop_rule('orders')$$);
COMMIT;
SELECT evtstore.drop_rule(name) FROM evtstore.rule_status;
SELECT (SELECT count(*) FROM evtstore.blocked_keys), (SELECT count(*) FROM evtstore.dead_letters), (SELECT count(*) FROM evtstore_internal.checkpoint), (SELECT count(*) FROM evtstore_internal.failed_event);
-- a rule that is rolled back leaves nothing, one that is made again begins at the end
BEGIN;
SELECT evtstore.create_rule('again', '{}', 'queue:tenants', mode => 'async');
ROLLBACK;
SELECT count(*) FROM evtstore_internal.checkpoint;
SELECT evtstore.create_rule('again', '{}', 'queue:tenants', mode => 'async');
CALL evtstore.wait_for('again', 28);
SELECT version FROM evtstore.append('last-1', 'T', '"last"');
CALL evtstore.wait_for('again', 29);
SELECT take('tenants');
SELECT evtstore.drop_rule('again');
DROP OWNED BY rule_async_owner;
DROP ROLE rule_async_owner;
