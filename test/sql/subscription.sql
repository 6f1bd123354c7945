--
-- Subscriptions: definition, polling, settling, leases, failures, seek.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET evtstore.test_mode = on;

-- the SQLSTATE, and for a stale receipt why, without what differs from run to run
CREATE FUNCTION refused(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE command;
    RETURN 'succeeded';
EXCEPTION
    WHEN SQLSTATE 'ST007' THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
        RETURN SQLSTATE || ' ' || (detail::jsonb->>'reason');
    WHEN OTHERS THEN
        RETURN SQLSTATE;
END $$;

-- definition: equal ones are one, other ones are refused, bad ones too
SELECT evtstore.create_subscription('orders', '{"categories": ["order"]}', lanes => 4);
SELECT evtstore.create_subscription('orders', '{"categories": ["order"]}', lanes => 4);
SELECT fails($$SELECT evtstore.create_subscription('orders', '{"categories": ["order"]}', lanes => 5)$$);
SELECT fails($$SELECT evtstore.create_queue('orders')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', '{"category": "order"}')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', NULL)$$);
SELECT fails($$SELECT evtstore.create_subscription('s', lanes => 0)$$);
SELECT fails($$SELECT evtstore.create_subscription('s', lanes => 257)$$);
SELECT fails($$SELECT evtstore.create_subscription('s', start_at => 'now')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', start_position => -1)$$);
SELECT fails($$SELECT evtstore.create_subscription('s', start_at => 'end', start_position => 1)$$);
SELECT fails($$SELECT evtstore.create_subscription('s', on_failure => 'ignore')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', endpoint => 'e')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', options => '{"key": "customerId"}')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', options => '{"key": "${data}"}')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', options => '{"colour": "red"}')$$);
SELECT fails($$SELECT evtstore.poll('nobody')$$);
SELECT fails($$SELECT evtstore.poll('orders', '')$$);
SELECT fails($$SELECT evtstore.poll('orders', max_count => 0)$$);
SELECT fails($$SELECT evtstore.poll('orders', lease => '0')$$);
SELECT * FROM evtstore.poll('orders', 'c');

-- what the filter selects, in order of position; a consumer alone gets every lane
SELECT count(*) FROM generate_series(1, 5) n, generate_series(1, 4) o, evtstore.append('order-' || o, 'Placed', to_jsonb(n), n - 1);
SELECT count(*) FROM evtstore.append('invoice-1', 'Sent', '0');
CREATE TABLE got AS SELECT * FROM evtstore.poll('orders', 'c');
SELECT count(*), count(DISTINCT receipt), bool_and(attempt = 1), bool_and(key = stream), bool_and(message_id IS NULL) FROM got;
SELECT stream, array_agg(version ORDER BY ctid) AS versions FROM got GROUP BY stream ORDER BY stream;
SELECT bool_and(e.position = g.position AND e.id = g.event_id AND e.data = g.body AND e.metadata = g.headers AND e.type = g.type
    AND e.recorded_at = g.recorded_at) FROM got g JOIN evtstore.events e USING (stream, version);
SELECT name, consumer, lanes, in_flight FROM evtstore.consumers;
SELECT name, lanes, position, in_flight, blocked, dead FROM evtstore.subscription_status;
-- in flight: not handed out again, to nobody
SELECT count(*) FROM evtstore.poll('orders', 'c');
SELECT count(*) FROM evtstore.poll('orders', 'd');
SELECT evtstore.leave('orders', 'd');
SELECT count(*) FROM evtstore.poll('orders');

-- one ack moves nothing that an older one holds; in which order they come does not matter
SELECT evtstore.ack(receipt) FROM got WHERE stream = 'order-1' AND version = 3;
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got WHERE stream = 'order-1' AND version = 3;
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE NOT (stream = 'order-1' AND version = 3);
SELECT s.position = (SELECT max(position) FROM got) OR s.position < evtstore.head_position() AS moved, in_flight
FROM evtstore.subscription_status s;
SELECT count(*) FROM evtstore.poll('orders', 'c');
SELECT lane, position, ranges FROM evtstore_internal.checkpoint c
WHERE lane >= 0 AND seq = (SELECT max(seq) FROM evtstore_internal.checkpoint WHERE lane = c.lane) AND ranges <> '{}';

-- receipts that are none
SELECT fails($$SELECT evtstore.ack('s1')$$);
SELECT fails($$SELECT evtstore.ack('s1.0.0000000000000001.5.4')$$);
SELECT fails($$SELECT evtstore.ack('s01.0.0000000000000001.4.5')$$);
SELECT fails($$SELECT evtstore.extend('s1.-2147483648.0000000000000001.4.5', '1s')$$);
SELECT fails($$SELECT evtstore.extend('s1.0.0000000000000000.4.5', '1s')$$);
SELECT fails($$SELECT evtstore.ack('s-1.0.0000000000000001.4.5')$$);
SELECT refused($$SELECT evtstore.extend('s1.255.0000000000000001.4.5', '1s')$$);
SELECT refused($$SELECT evtstore.ack('s1.0.0000000000000001.4.5')$$);
SELECT refused($$SELECT evtstore.extend('s1.0.0000000000000001.4.5', '1s')$$);

-- a rollback gives back what was handed out, and takes back what was settled
SELECT count(*) FROM generate_series(6, 7) n, evtstore.append('order-1', 'Placed', to_jsonb(n), n - 1);
BEGIN;
SELECT version, attempt FROM evtstore.poll('orders', 'c');
ROLLBACK;
TRUNCATE got;
BEGIN;
SAVEPOINT s;
SELECT version, attempt FROM evtstore.poll('orders', 'c');
ROLLBACK TO s;
INSERT INTO got SELECT * FROM evtstore.poll('orders', 'c', 1);
SELECT version, attempt FROM got;
COMMIT;
BEGIN;
SELECT evtstore.ack(receipt) FROM got;
-- sees the checkpoint that is rolled back, and the next call must find the one before
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got;
ROLLBACK;
SELECT evtstore.ack(receipt) FROM got;
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('orders', 'c');
SELECT version, attempt FROM got;
SELECT evtstore.ack(receipt) FROM got;

-- effect and ack in one statement
SELECT count(*) FROM generate_series(8, 9) n, evtstore.append('order-1', 'Placed', to_jsonb(n), n - 1);
SELECT version, evtstore.ack(receipt) FROM evtstore.poll('orders', 'c');
SELECT count(*) FROM evtstore.poll('orders', 'c');

-- leases: extended, run out, taken over; the late ack is stale then, and before it is not
SELECT count(*) FROM evtstore.append('order-1', 'Placed', '10');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('orders', 'c', lease => '30s');
SET evtstore.clock_offset = 60;
SELECT evtstore.ack(receipt) FROM got;
RESET evtstore.clock_offset;
SELECT count(*) FROM evtstore.append('order-1', 'Placed', '11');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('orders', 'c', lease => '30s');
SELECT evtstore.extend(receipt, '5 min') FROM got;
SET evtstore.clock_offset = 120;
SELECT count(*) FROM evtstore.poll('orders', 'd', lease => '10 min');
SELECT evtstore.leave('orders', 'd');
SET evtstore.clock_offset = 400;
CREATE TABLE second AS SELECT * FROM evtstore.poll('orders', 'd', lease => '10 min');
SELECT version, attempt FROM second;
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got;
SELECT refused(format('SELECT evtstore.extend(%L, ''1s'')', receipt)) FROM got;
SELECT evtstore.ack(receipt) FROM second;
RESET evtstore.clock_offset;

-- leave: what is in flight comes again, to others
SELECT evtstore.leave('orders', 'd');
SELECT evtstore.leave('orders', 'nobody');
SELECT count(*) FROM evtstore.append('order-1', 'Placed', '12');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('orders', 'e');
SELECT evtstore.leave('orders', 'e');
SELECT version, attempt, evtstore.ack(receipt) FROM evtstore.poll('orders', 'f');
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got;
SELECT evtstore.leave('orders', 'f');

-- without a name: the lane is free with its last event
SELECT count(*) FROM evtstore.append('order-1', 'Placed', '13');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('orders');
SELECT count(*) FROM evtstore.poll('orders');
SELECT evtstore.ack(receipt) FROM got;
SELECT count(*) FROM evtstore.append('order-1', 'Placed', '14');
SELECT version, evtstore.ack(receipt) FROM evtstore.poll('orders');

-- released: no attempt is spent; a part of a batch, and all of it
SELECT count(*) FROM generate_series(15, 17) n, evtstore.append('order-1', 'Placed', to_jsonb(n), n - 1);
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('orders', 'c');
SELECT evtstore.release(array_agg(receipt)) FROM got;
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('orders', 'c');
SELECT version, attempt FROM got;
SELECT evtstore.ack(receipt) FROM got WHERE version = 15;
SELECT evtstore.release(array_agg(receipt)) FROM got WHERE version = 16;
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got WHERE version = 17;
SELECT version, attempt, evtstore.ack(receipt) FROM evtstore.poll('orders', 'c');
SELECT version, attempt, evtstore.ack(receipt) FROM evtstore.poll('orders', 'c');
SELECT count(*) FROM evtstore.poll('orders', 'c');
SELECT evtstore.drop_subscription('orders');
SELECT count(*) FROM evtstore_internal.checkpoint;

-- failures: the key waits, others do not; the later ones of the key follow in order
SELECT evtstore.create_subscription('keys', lanes => 1, start_at => 'end',
    options => '{"key": "${data.customer}", "retry": {"max_attempts": 2, "initial": "1 min", "jitter": 0}}');
SELECT count(*) FROM generate_series(1, 6) n, evtstore.append('sale-' || n, 'Sold', jsonb_build_object('customer', CASE n % 2 WHEN 0 THEN 'even' ELSE 'odd' END, 'n', n));
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('keys', 'c');
SELECT key, body->'n' AS n FROM got ORDER BY position;
SELECT evtstore.nack(receipt, 'no stock') FROM got WHERE body->'n' = '1';
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got WHERE body->'n' = '3';
SELECT evtstore.ack(receipt) FROM got WHERE key = 'even' ORDER BY position;
SELECT count(*) FROM evtstore.append('sale-7', 'Sold', '{"customer": "odd", "n": 7}') a, evtstore.append('sale-8', 'Sold', '{"customer": "even", "n": 8}') b;
SELECT body->'n' AS n, attempt, evtstore.ack(receipt) FROM evtstore.poll('keys', 'c');
SELECT name, key, attempt, error, state FROM evtstore.blocked_keys;
SELECT name, in_flight, blocked, retrying, waiting, dead FROM evtstore.subscription_status;
SET evtstore.clock_offset = 70;
SELECT body->'n' AS n, attempt, evtstore.nack(receipt, 'no stock again') FROM evtstore.poll('keys', 'c', lease => '5s');
SET evtstore.clock_offset = 300;
SELECT count(*) FROM evtstore.poll('keys', 'c');
SELECT name, key, attempt, error, state FROM evtstore.blocked_keys;
RESET evtstore.clock_offset;
SELECT evtstore.drop_subscription('keys');

-- dead letters instead: the next one of the key comes; nack with a delay of one's own, reject at once
SELECT evtstore.create_subscription('dead', '{"types": ["Sold"]}', lanes => 1, on_failure => 'dead_letter',
    options => '{"key": "${data.customer}", "retry": {"max_attempts": 1}}');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('dead', 'c');
SELECT evtstore.nack(receipt, 'broken') FROM got WHERE body->'n' = '1';
SELECT evtstore.reject(receipt, 'never') FROM got WHERE body->'n' = '2';
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE body->'n' NOT IN ('1', '2');
SELECT kind, name, key, type, attempts, first_error, last_error, cause, body, jsonb_path_query_array(history, '$[*].error') FROM evtstore.dead_letters;
SELECT count(*) FROM evtstore.poll('dead', 'c');

-- seek: everything again from there, and nothing that was handed out holds
SELECT evtstore.seek('dead', to_position => 0);
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('dead', 'c', 3);
SELECT body->'n' AS n FROM got;
SELECT evtstore.seek('dead', to_position => (SELECT position FROM evtstore.events WHERE data->'n' = '8'));
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got LIMIT 1;
SELECT body->'n' AS n, evtstore.ack(receipt) FROM evtstore.poll('dead', 'c');
SELECT fails($$SELECT evtstore.seek('dead')$$);
SELECT refused($$SELECT evtstore.seek('dead', to_position => 1000000000)$$);
SELECT fails($$SELECT evtstore.seek('dead', to_position => -1)$$);

-- an event that takes its consumers with it is known after two rollbacks, and then goes alone
SELECT evtstore.create_subscription('poison', '{"types": ["Sold"]}', lanes => 1, on_failure => 'dead_letter', options => '{"retry": {"max_attempts": 5}}');
BEGIN; SELECT count(*) FROM evtstore.poll('poison', 'c'); ROLLBACK;
BEGIN; SELECT count(*) FROM evtstore.poll('poison', 'c'); ROLLBACK;
DO $$
DECLARE
    d evtstore.delivery;
BEGIN
    FOR i IN 1..40 LOOP
        BEGIN
            SELECT * INTO d FROM evtstore.poll('poison', 'c');
            -- none comes with the one that is set aside
            CONTINUE WHEN d.receipt IS NULL;
            IF d.body->'n' = '4' THEN
                RAISE EXCEPTION 'poison';
            END IF;
            PERFORM evtstore.ack(d.receipt);
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT body->'n' AS n, attempts, last_error FROM evtstore.dead_letters WHERE name = 'poison';
SELECT count(*) FROM evtstore.poll('poison', 'c');

-- one that failed before and takes its consumers with it: its attempts count too; lost together, then each goes alone
SELECT evtstore.create_subscription('again', '{"categories": ["again"]}', lanes => 1, options => '{"retry": {"max_attempts": 4, "initial": "0s", "jitter": 0}}');
SELECT count(*) FROM generate_series(1, 2) n, LATERAL evtstore.append('again-' || n, 'A', to_jsonb(n)) a;
SELECT evtstore.nack(receipt, 'no') FROM evtstore.poll('again', 'c');
SELECT count(*) FROM evtstore.append('again-3', 'A', '3');
BEGIN; SELECT body, attempt FROM evtstore.poll('again', 'c'); ROLLBACK;
BEGIN; SELECT body, attempt FROM evtstore.poll('again', 'c'); ROLLBACK;
-- a savepoint too; the attempts are spent then, and stay spent where this is rolled back
BEGIN; SAVEPOINT s; SELECT body, attempt FROM evtstore.poll('again', 'c'); ROLLBACK TO s;
SELECT body, attempt FROM evtstore.poll('again', 'c'); SELECT key, attempt, state FROM evtstore.blocked_keys WHERE name = 'again' ORDER BY key; ROLLBACK;
SELECT body, attempt FROM evtstore.poll('again', 'c');
SELECT key, attempt, error, state FROM evtstore.blocked_keys WHERE name = 'again' ORDER BY key;
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('again', 'c');
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('again', 'c');
-- a person's word begins anew, also where nobody has a name and nothing else is handed out
SELECT evtstore.leave('again', 'c'), evtstore.unblock_key('again', 'again-1');
BEGIN; SELECT body, attempt FROM evtstore.poll('again'); ROLLBACK;
BEGIN; SELECT body, attempt FROM evtstore.poll('again'); ROLLBACK;
BEGIN; SELECT body, attempt FROM evtstore.poll('again'); ROLLBACK;
BEGIN; SELECT body, attempt FROM evtstore.poll('again'); ROLLBACK;
SELECT body, attempt FROM evtstore.poll('again');
SELECT key, attempt, state FROM evtstore.blocked_keys WHERE name = 'again';
SELECT evtstore.unblock_key('again', 'again-1');
SELECT body, attempt, evtstore.nack(receipt, 'no') FROM evtstore.poll('again');
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('again', 'c');

-- what waits is set aside ten for each that may be handed out, and comes in order when its key goes on
SELECT evtstore.create_subscription('bound', '{"categories": ["bound"]}', lanes => 1, options => '{"retry": {"max_attempts": 1}}');
SELECT count(*) FROM evtstore.append_events('bound-1', (SELECT jsonb_agg(jsonb_build_object('type', 'A', 'data', n)) FROM generate_series(1, 26) n));
SELECT count(*) FROM evtstore.append('bound-2', 'A', '"other"');
SELECT evtstore.nack(receipt, 'no') FROM evtstore.poll('bound', 'c', 1);
SELECT count(*) FROM evtstore.poll('bound', 'c', 1);
SELECT waiting FROM evtstore.subscription_status WHERE name = 'bound';
SELECT body FROM evtstore.poll('bound', 'c', 2);
SELECT waiting FROM evtstore.subscription_status WHERE name = 'bound';
SELECT evtstore.leave('bound', 'c');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('bound', 'c', 1);
SELECT evtstore.unblock_key('bound', 'bound-1');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('bound', 'c', 10);
SELECT array_agg(body), evtstore.ack(array_agg(receipt)) FROM evtstore.poll('bound', 'c', 10);
-- the first of a batch fails: those behind it are back, and one that is acknowledged then is not
CREATE TABLE batch AS SELECT * FROM evtstore.poll('bound', 'c', 10);
SELECT evtstore.ack(array_agg(receipt)) FROM batch WHERE body IN ('13', '14');
SELECT evtstore.nack(receipt, 'no') FROM batch WHERE body = '12';
SELECT body, substring(fails(format('SELECT evtstore.ack(%L)', receipt)), 'key_blocked|settled') AS why FROM batch WHERE body IN ('14', '15');
SELECT evtstore.unblock_key('bound', 'bound-1');
SELECT array_agg(body), evtstore.ack(array_agg(receipt)) FROM evtstore.poll('bound', 'c', 10);
SELECT array_agg(body), evtstore.ack(array_agg(receipt)) FROM evtstore.poll('bound', 'c', 20);
SELECT waiting, retrying FROM evtstore.subscription_status WHERE name = 'bound';
-- one whose lease runs out while a later one of its key waits for its time comes before it
SELECT evtstore.create_subscription('late', '{"categories": ["late"]}', lanes => 1);
SELECT count(*) FROM evtstore.append_events('late-1', '[{"type": "A", "data": 1}, {"type": "A", "data": 2}, {"type": "A", "data": 3}]');
SELECT evtstore.nack(receipt, 'later', '1 hour') FROM evtstore.poll('late', 'c', lease => '5s') WHERE body = '2';
SET evtstore.clock_offset = 60;
SELECT count(*) FROM evtstore.poll('late', 'c');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('late', 'c');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('late', 'c');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('late', 'c');
RESET evtstore.clock_offset;
DROP TABLE batch;

-- a query; streams; a start in the middle; the isolation level
SELECT evtstore.create_subscription('query', '{"items": [{"types": ["Paid"]}, {"tags": ["vip"]}]}', lanes => 1);
SELECT count(*) FROM evtstore.append('sale-20', 'Paid', '1') a, evtstore.append('sale-21', 'Sold', '2', tags => '{vip}') b, evtstore.append('sale-22', 'Sold', '3') c;
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('query', 'c');
SELECT evtstore.create_subscription('streams', '{"streams": ["sale-22", "order-1"], "types": ["Placed", "Sold"]}', lanes => 2,
    start_position => (SELECT position FROM evtstore.events WHERE stream = 'order-1' AND version = 16));
SELECT stream, version FROM evtstore.poll('streams', 'c');
SELECT evtstore.create_subscription('two', '{"categories": ["invoice", "sale"]}', lanes => 3);
SELECT array_agg(stream ORDER BY position) FROM evtstore.poll('two', 'c');
SELECT evtstore.create_subscription('tags only', '{"tags": ["seat:1"]}');
SELECT version FROM evtstore.append_if('[{"type": "Booked", "data": 1, "tags": ["seat:1"]}, {"type": "Booked", "data": 2, "tags": ["seat:1"]}]', '{"items": [{"tags": ["seat:1"]}]}');
SELECT key, stream, version, body, evtstore.ack(receipt) FROM evtstore.poll('tags only', 'c');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fails($$SELECT evtstore.poll('two', 'c')$$);
SELECT fails($$SELECT evtstore.seek('two', 0)$$);
SELECT fails($$SELECT evtstore.drop_subscription('two')$$);
ROLLBACK;

-- tenants
SET evtstore.tenant = 'a';
SELECT fails($$SELECT evtstore.poll('two', 'c')$$);
SELECT evtstore.create_subscription('of a', lanes => 1);
SELECT count(*) FROM evtstore.append('sale-1', 'Sold', '"of a"');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('of a', 'c');
TRUNCATE got;
SELECT count(*) FROM evtstore.append('sale-1', 'Sold', '"of a too"');
INSERT INTO got SELECT * FROM evtstore.poll('of a', 'c');
SELECT name FROM evtstore.subscription_status;
SET evtstore.tenant = 'b';
SELECT fails($$SELECT evtstore.poll('of a', 'c')$$);
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got;
SELECT name FROM evtstore.subscription_status;
RESET evtstore.tenant;
SELECT evtstore.ack(receipt) FROM got;

-- alter: the filter from now on, the failure policy
SELECT evtstore.alter_subscription('of a', '{"on_failure": "dead_letter", "retry": {"max_attempts": 3}, "max_in_flight": 1}');
SELECT fails($$SELECT evtstore.alter_subscription('of a', '{"lanes": 0}')$$);
SELECT fails($$SELECT evtstore.alter_subscription('of a', '{"on_failure": "ignore"}')$$);
SELECT fails($$SELECT evtstore.alter_subscription('nobody', '{}')$$);
-- a channel for NOTIFY
SELECT fails($$SELECT evtstore.create_subscription('told', options => '{"notify": ""}')$$);
SELECT fails($$SELECT evtstore.create_subscription('told', options => '{"notify": 1}')$$);
SELECT fails(format($$SELECT evtstore.create_subscription('told', options => '{"notify": "%s"}')$$, repeat('x', 64)));
SELECT evtstore.create_subscription('told', options => jsonb_build_object('notify', repeat('x', 62) || '"'));
SELECT evtstore.create_subscription('told', options => jsonb_build_object('notify', repeat('x', 62) || '"'));
SELECT fails($$SELECT evtstore.create_subscription('told', options => '{"notify": "orders"}')$$);
SELECT fails($$SELECT evtstore.alter_subscription('told', '{"notify": ""}')$$);
SELECT evtstore.alter_subscription('told', '{"notify": "orders"}');
SELECT evtstore.create_subscription('told', options => '{"notify": "orders"}');
SELECT evtstore.alter_subscription('told', '{"notify": null}');
SELECT evtstore.create_subscription('told');
SELECT evtstore.drop_subscription('told');
SET evtstore.tenant = 'a';
SELECT count(*) FROM evtstore.append_events('sale-1', '[{"type": "Sold", "data": 3}, {"type": "Sold", "data": 4}]');
SELECT body FROM evtstore.poll('of a', 'c');
SELECT body FROM evtstore.poll('of a', 'c');

-- of a key the oldest one stands in front, in whatever order they failed and came back
RESET evtstore.tenant;
SELECT count(*) FROM evtstore.append_events('front-1', '[{"type": "T", "data": 1}, {"type": "T", "data": 2}, {"type": "T", "data": 3}]') a,
    evtstore.append('front-2', 'T', '4') b;
SELECT evtstore.create_subscription('front', '{"categories": ["front"]}', lanes => 1, options => '{"retry": {"max_attempts": 0, "jitter": 0}}');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('front', 'c');
SELECT evtstore.nack(receipt, 'later', '1s') FROM got WHERE body = '2';
SELECT evtstore.nack(receipt, 'earlier', '1 hour') FROM got WHERE body = '1';
SELECT evtstore.ack(receipt) FROM got WHERE body = '4';
SET evtstore.clock_offset = 60;
SELECT count(*) FROM evtstore.poll('front', 'c');
SELECT "position" IS NOT NULL AS is_there, state, error FROM evtstore.blocked_keys;
SET evtstore.clock_offset = 4000;
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('front', 'c');
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('front', 'c');
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('front', 'c');
-- a later one failed, and an earlier one is given back: each comes once
SELECT count(*) FROM evtstore.append_events('front-1', '[{"type": "T", "data": 5}, {"type": "T", "data": 6}]') a, evtstore.append('front-2', 'T', '7') b;
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('front', 'c');
SELECT evtstore.nack(receipt, 'later', '0') FROM got WHERE body = '6';
SELECT evtstore.release(ARRAY[receipt]) FROM got WHERE body = '5';
SELECT evtstore.ack(receipt) FROM got WHERE body = '7';
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('front', 'c');
-- what was brought along and withdrawn does not hold the lane
SELECT count(*) FROM evtstore.append_events('front-1', '[{"type": "T", "data": 8}, {"type": "T", "data": 9}, {"type": "T", "data": 10}]');
SELECT evtstore.nack(receipt, 'once', '0') FROM evtstore.poll('front', 'c') WHERE body = '8';
SELECT evtstore.ack(receipt) FROM evtstore.poll('front', 'c');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('front', 'c');
SELECT body FROM got;
SELECT evtstore.nack(receipt, 'again', '0') FROM got WHERE body = '9';
SELECT count(*) FROM evtstore.append('front-3', 'T', '11');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('front', 'c');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('front', 'c');
SELECT count(*) FROM evtstore_internal.failed_event;
-- two tenants, one key
SET evtstore.tenant = 't1';
SELECT count(*) FROM evtstore.append('twin-1', 'Twin', '"t1"');
SET evtstore.tenant = 't2';
SELECT count(*) FROM evtstore.append('twin-1', 'Twin', '"t2"');
RESET evtstore.tenant;
SELECT evtstore.create_subscription('twins', lanes => 2, start_position => (SELECT min("position") FROM evtstore.events WHERE type = 'Twin'));
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('twins', 'c');
SELECT evtstore.nack(receipt, 'of t1', '1 hour') FROM got WHERE body = '"t1"';
SELECT evtstore.ack(receipt) FROM got WHERE body = '"t2"';
-- set elsewhere and polled in one transaction
BEGIN;
SELECT evtstore.seek('front', 0);
SELECT count(*) FROM evtstore.poll('front', 'c');
COMMIT;
SELECT count(*) FROM evtstore.poll('front', 'c');
-- only acks where the snapshot is old; keys that are long
TRUNCATE got;
SELECT evtstore.seek('front', 0);
INSERT INTO got SELECT * FROM evtstore.poll('front', 'c');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT left(refused(format('SELECT evtstore.nack(%L)', receipt)), 5) FROM got WHERE body = '1';
SELECT evtstore.ack(receipt) FROM got WHERE body = '1';
COMMIT;
SELECT evtstore.create_subscription('long', '{"types": ["Long"]}', lanes => 1, options => '{"key": "${data.note}"}');
SELECT count(*) FROM evtstore.append('long-1', 'Long', jsonb_build_object('note', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n)));
SELECT length(key), evtstore.nack(receipt, 'too long') FROM evtstore.poll('long', 'c');
SELECT count(*), max(length(key)) FROM evtstore.blocked_keys WHERE name = 'long';
-- another filter: what is out comes again, chosen by the new one
SELECT evtstore.alter_subscription('front', '{"filter": {"categories": ["front"], "types": ["T"]}}');
SELECT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got WHERE body = '2';
SELECT count(*) FROM evtstore.poll('front', 'c');

-- a rate: so many a second, whoever polls; what did not go out is not spent
RESET evtstore.clock_offset;
SELECT evtstore.create_subscription('rated', '{"categories": ["rated"]}', lanes => 2, options => '{"rate": 0.02}');
SELECT version FROM evtstore.append_events('rated-1', '[{"type": "T", "data": 1}, {"type": "T", "data": 2}, {"type": "T", "data": 3}]');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('rated', 'a');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('rated', 'a');
SET evtstore.clock_offset = '60s';
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('rated', 'a');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('rated', 'a');
SET evtstore.clock_offset = '1h';
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('rated', 'a');
SET evtstore.clock_offset = '2h';
SELECT count(*) FROM evtstore.poll('rated', 'a');
SELECT version FROM evtstore.append('rated-1', 'T', '4');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('rated', 'a');
RESET evtstore.clock_offset;
SELECT fails($$SELECT evtstore.create_subscription('s', options => '{"rate": 0}')$$);
SELECT evtstore.alter_subscription('rated', '{"rate": null}');
SELECT evtstore.drop_subscription('rated');
