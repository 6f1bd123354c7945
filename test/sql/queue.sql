--
-- Queues: definition, send, receive, ack, nack, reject, release, extend, keys, priority, delay, retry, dead letters, tenants.
-- The clock is moved with evtstore.clock_offset, so that nothing waits.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- what a consumer does with one message: receipt of the next one, '' when nothing is ready
CREATE FUNCTION next_receipt(queue text) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce((SELECT receipt FROM evtstore.receive(queue)), '') $$;

-- the same for several, kept for those who settle them below
CREATE TABLE noted (n int GENERATED ALWAYS AS IDENTITY, id bigint, receipt text, key text, body jsonb);
CREATE FUNCTION take(queue text, max_count int DEFAULT 1, consumer text DEFAULT NULL) RETURNS SETOF evtstore.delivery LANGUAGE plpgsql AS $$
DECLARE d evtstore.delivery;
BEGIN
    FOR d IN SELECT * FROM evtstore.receive(queue, consumer, max_count) LOOP
        INSERT INTO noted (id, receipt, key, body) VALUES (d.message_id, d.receipt, d.key, d.body);
        RETURN NEXT d;
    END LOOP;
END $$;
CREATE FUNCTION receipt_of(message_id bigint) RETURNS text LANGUAGE sql AS $$
    SELECT receipt FROM noted WHERE id = message_id ORDER BY n DESC LIMIT 1 $$;
CREATE VIEW held AS
    SELECT DISTINCT ON (id) receipt, key, body FROM noted JOIN evtstore_internal.in_flight() ON message_id = id ORDER BY id, n DESC;
-- the epoch of a receipt is another one in each run
CREATE FUNCTION shown(t text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(t, '(q\d+\.\d+)\.\d{9,}', '\1.E', 'g') $$;

CREATE VIEW status AS
    SELECT name, ready, delayed, in_flight, dead FROM evtstore.queue_status ORDER BY name;

--
-- definition
--
SELECT evtstore.create_queue('jobs', '{"retry": {"max_attempts": 3, "initial": "1s", "jitter": 0}}');
-- equal by meaning: nothing happens
SELECT evtstore.create_queue('jobs', '{"retry": {"jitter": 0.0, "initial": "1000 milliseconds", "max_attempts": 3}}');
SELECT name, kind, spec FROM evtstore_internal.definition;
SELECT fails($$SELECT evtstore.create_queue('jobs')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retries": 3}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retry": {"attempts": 3}}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retry": 3}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retry": {"max_attempts": -1}}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retry": {"multiplier": 0.5}}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retry": {"jitter": 2}}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retry": {"initial": "-1s"}}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"retry": {"max_delay": "soon"}}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '[]')$$);
SELECT fails($$SELECT evtstore.create_queue('other', NULL)$$);
SELECT fails($$SELECT evtstore.create_queue('', '{}')$$);
SELECT fails($$SELECT evtstore.create_queue(NULL, '{}')$$);
SELECT fails($$SELECT evtstore.create_queue(repeat('x', 256), '{}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"endpoint": "nowhere"}')$$);
SELECT fails($$SELECT evtstore.alter_queue('other', '{}')$$);
SELECT fails($$SELECT evtstore.alter_queue('jobs', '{"retries": null}')$$);
SELECT fails($$SELECT evtstore.alter_queue('jobs', '{"retry": {"attempts": null}}')$$);
SELECT fails($$SELECT evtstore.alter_queue('jobs', '{"retry": {"max_attempts": "3"}}')$$);
SELECT fails($$SELECT evtstore.alter_queue('jobs', NULL)$$);
-- a channel for NOTIFY
SELECT fails($$SELECT evtstore.create_queue('other', '{"notify": ""}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"notify": true}')$$);
SELECT fails($$SELECT evtstore.create_queue('other', '{"notify": null}')$$);
SELECT fails(format($$SELECT evtstore.create_queue('other', '{"notify": "%s"}')$$, repeat('ü', 32)));
SELECT fails($$SELECT evtstore.alter_queue('jobs', '{"notify": ""}')$$);
SELECT evtstore.create_queue('told', jsonb_build_object('notify', repeat('ü', 31) || '"'));
SELECT evtstore.create_queue('told', jsonb_build_object('notify', repeat('ü', 31) || '"'));
SELECT fails($$SELECT evtstore.create_queue('told', '{"notify": "mail"}')$$);
SELECT evtstore.alter_queue('told', '{"notify": "mail"}');
SELECT evtstore.create_queue('told', '{"notify": "mail"}');
SELECT evtstore.alter_queue('told', '{"notify": null}');
SELECT evtstore.create_queue('told');
SELECT evtstore.drop_queue('told');

SELECT evtstore.alter_queue('jobs', '{"retry": {"initial": null, "max_delay": "1min"}}');
SELECT spec FROM evtstore_internal.definition WHERE name = 'jobs';
SELECT evtstore.alter_queue('jobs', '{"retry": null}');
SELECT spec FROM evtstore_internal.definition WHERE name = 'jobs';
SELECT evtstore.alter_queue('jobs', '{"retry": {"max_attempts": 3, "initial": "10s", "max_delay": "30s", "jitter": 0}}');
SELECT fails($$SELECT evtstore.drop_queue('other')$$);
SELECT * FROM status;

--
-- send
--
SELECT evtstore.send('jobs', '{"n": 1}');
SELECT evtstore.send('jobs', '"two"', headers => '{"h": 2}');
SELECT evtstore.send_batch('jobs', ARRAY['{"n": 3}', 'null']::jsonb[]);
SELECT evtstore.send_batch('jobs', '{}');
SELECT fails($$SELECT evtstore.send('other', '{}')$$);
SELECT fails($$SELECT evtstore.send(NULL, '{}')$$);
SELECT fails($$SELECT evtstore.send('', '{}')$$);
SELECT fails($$SELECT evtstore.send('jobs', NULL)$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', headers => NULL)$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', headers => '[1]')$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', key => '')$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', key => repeat('k', 1025))$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', delay => '-1s')$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', delay => NULL)$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', delay => '296530 years')$$);
SELECT fails($$SELECT evtstore.send('jobs', '{}', priority => NULL)$$);
SELECT fails($$SELECT evtstore.send_batch('other', '{}')$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', NULL)$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1', NULL]::jsonb[])$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY[['1'], ['2']]::jsonb[])$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1', '2']::jsonb[], keys => ARRAY['a'])$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1']::jsonb[], keys => '{}')$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1', '2']::jsonb[], keys => ARRAY['a', ''])$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1', '2']::jsonb[], headers => ARRAY['{}']::jsonb[])$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1', '2']::jsonb[], headers => ARRAY['{}', NULL]::jsonb[])$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1']::jsonb[], headers => ARRAY['7']::jsonb[])$$);
SELECT fails($$SELECT evtstore.send_batch('jobs', ARRAY['1']::jsonb[], delay => '-1s')$$);
BEGIN READ ONLY;
SELECT evtstore.send('jobs', '{}');
ROLLBACK;
SELECT * FROM status;

--
-- receive and ack
--
SELECT shown(receipt), attempt, key, message_id, body, headers, enqueued_at <= now() AS enqueued, position, stream, version, event_id,
    type, schema_version, tags, recorded_at
FROM take('jobs', consumer => 'c1');
SELECT * FROM status;
SELECT message_id, body, headers FROM take('jobs', consumer => 'c2', max_count => 2);
SELECT message_id, lost FROM evtstore_internal.in_flight() ORDER BY message_id;
SELECT evtstore.ack(receipt_of(1));
SELECT shown(fails($$SELECT evtstore.ack(receipt_of(1))$$));
SELECT fails($$SELECT evtstore.ack('q1.2.1')$$);
SELECT fails($$SELECT evtstore.ack(NULL::text)$$);
SELECT fails($$SELECT evtstore.ack(NULL::text[])$$);
SELECT fails($$SELECT evtstore.ack(ARRAY['q1.2.1', NULL])$$);
-- one stale receipt, and nothing is acknowledged
SELECT shown(fails($$SELECT evtstore.ack(ARRAY[receipt_of(2), receipt_of(1), receipt_of(3), 'q1.77.1', 'q1.77.1'])$$));
-- twice in one call counts once; an untyped array literal is an array
SELECT evtstore.ack(format('{%s,%s,%1$s}', receipt_of(3), receipt_of(2)));
SELECT evtstore.ack('{}'), evtstore.ack(ARRAY[]::text[]);
SELECT fails($$SELECT evtstore.ack('{q1.3.1')$$);
SELECT * FROM status;

-- malformed receipts
SELECT r, left(fails(format('SELECT evtstore.ack(%L)', r)), 40) AS error
FROM unnest(ARRAY['', 'q', 'q1', 'q1.2', 'q1.2.', 'q1.2.3 ', ' q1.2.3', 'q01.2.3', 'q1.2.3.4', 'q+1.2.3', 'Q1.2.3', 'q1.2.-0', 'x1.2.3',
    'q99999999999.2.3', 'q1.99999999999999999999.3', 'q1.2.4294967297']) r;
SELECT fails($$SELECT evtstore.nack('nonsense')$$);
SELECT left(fails($$SELECT evtstore.reject(repeat('long', 100))$$), 140);

-- arguments of receive
SELECT fails($$SELECT evtstore.receive('other')$$);
SELECT fails($$SELECT evtstore.receive(NULL)$$);
SELECT fails($$SELECT evtstore.receive('jobs', consumer => '')$$);
SELECT fails($$SELECT evtstore.receive('jobs', consumer => 'evtstore:1')$$);
SELECT fails($$SELECT evtstore.receive('jobs', max_count => 0)$$);
SELECT fails($$SELECT evtstore.receive('jobs', max_count => 1001)$$);
SELECT fails($$SELECT evtstore.receive('jobs', max_count => NULL)$$);
SELECT fails($$SELECT evtstore.receive('jobs', lease => '0')$$);
SELECT fails($$SELECT evtstore.receive('jobs', lease => '-1s')$$);
SELECT fails($$SELECT evtstore.receive('jobs', lease => NULL)$$);
SELECT fails($$SELECT evtstore.receive('jobs', lease => '296530 years')$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evtstore.receive('jobs');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT evtstore.receive('jobs');
ROLLBACK;
BEGIN READ ONLY;
SELECT evtstore.receive('jobs');
ROLLBACK;

-- a rollback gives a message back, a rolled-back savepoint too, and counts the attempt
BEGIN;
SELECT shown(receipt), attempt FROM take('jobs');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT shown(receipt), attempt FROM take('jobs');
SELECT evtstore.ack(receipt_of(4));
ROLLBACK TO s;
SELECT shown(receipt), attempt FROM take('jobs');
COMMIT;
-- claimed, settled and sent in one transaction
BEGIN;
SELECT evtstore.ack(receipt_of(4));
SELECT evtstore.send('jobs', '"own"') > 0 AS sent;
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('jobs');
COMMIT;
SELECT * FROM status;

-- expanded to columns it runs once
SELECT evtstore.send_batch('jobs', ARRAY['1', '2', '3']::jsonb[]) IS NOT NULL AS sent;
SELECT (r).message_id - min((r).message_id) OVER () AS nth, (r).body FROM (SELECT evtstore.receive('jobs', max_count => 2) AS r) s;
SELECT (evtstore.receive('jobs', max_count => 10)).body;
-- claims and releases write nothing
SET evtstore.clock_offset = '31s';
SELECT count(*) FROM take('jobs', 10);
CREATE VIEW written AS
    SELECT n_tup_ins + n_tup_upd + n_tup_del AS n FROM pg_stat_xact_all_tables WHERE relid = 'evtstore_internal.message'::regclass;
BEGIN;
SELECT n FROM written \gset
SELECT evtstore.release(array_agg(receipt)) FROM held;
COMMIT;
BEGIN;
SELECT count(*) FROM take('jobs', 10);
SELECT n - :n AS written FROM written;
COMMIT;
SELECT evtstore.ack(array_agg(receipt)) FROM held;
SET evtstore.clock_offset = 0;

-- a body that is stored out of line
SELECT evtstore.send('jobs', jsonb_build_object('t', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i))) IS NOT NULL AS sent;
SELECT md5(body->>'t') = md5((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i)) AS same, evtstore.ack(receipt)
FROM evtstore.receive('jobs');

--
-- lease
--
SELECT evtstore.send('jobs', '"leased"') AS id \gset
SELECT next_receipt('jobs') AS first \gset
-- a snapshot of before may not show the row that a failure writes
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evtstore.nack(:'first');
ROLLBACK;
SET evtstore.clock_offset = '20s';
SELECT next_receipt('jobs');
-- extended: it ends 30 seconds from now
SELECT evtstore.extend(:'first', '30s');
SET evtstore.clock_offset = '40s';
SELECT next_receipt('jobs');
SELECT * FROM status;
-- over, and nobody else took it: the late ack is right
SET evtstore.clock_offset = '61s';
SELECT * FROM status;
BEGIN;
SELECT evtstore.ack(:'first');
ROLLBACK;
-- over, and somebody took it
SELECT receipt AS second, attempt FROM evtstore.receive('jobs') \gset
SELECT :attempt AS attempt;
SELECT replace(fails(format('SELECT evtstore.ack(%L)', :'first')), :'first', 'FIRST');
SELECT replace(fails(format('SELECT evtstore.extend(%L, ''1s'')', :'first')), :'first', 'FIRST');
SELECT fails(format('SELECT evtstore.extend(%L, ''0'')', :'second'));
SELECT fails(format('SELECT evtstore.extend(%L, NULL)', :'second'));
SELECT fails(format('SELECT evtstore.extend(%L, ''-1s'')', :'second'));
-- attempts that are lost count: a lease that ran out, and a rollback
SELECT evtstore.create_queue('late', '{"retry": {"max_attempts": 2, "initial": "1s", "jitter": 0}}');
SELECT evtstore.send('late', '1') > 0 AS sent;
SELECT next_receipt('late') AS late \gset
SET evtstore.clock_offset = '100s';
BEGIN;
SELECT next_receipt('late') <> '' AS taken_over;
ROLLBACK;
SELECT ready, dead FROM status WHERE name = 'late';
SELECT attempt, evtstore.nack(receipt) FROM evtstore.receive('late');
SELECT ready, dead FROM status WHERE name = 'late';
SELECT evtstore.drop_queue('late');
SET evtstore.clock_offset = '61s';
-- released: no attempt spent, at once, the receipt is stale
SELECT evtstore.release(ARRAY[:'second']);
SELECT replace(fails(format('SELECT evtstore.nack(%L)', :'second')), :'second', 'SECOND');
SELECT replace(fails(format('SELECT evtstore.release(ARRAY[%L])', :'second')), :'second', 'SECOND');
SELECT fails($$SELECT evtstore.release(NULL)$$);
SELECT receipt AS third, attempt FROM evtstore.receive('jobs') \gset
SELECT :attempt AS attempt;
-- its last attempt runs out: it goes to the dead letters, and the late ack is refused
SELECT evtstore.release(ARRAY[:'third']);
SELECT attempt, receipt AS r2 FROM evtstore.receive('jobs') \gset
SET evtstore.clock_offset = '120s';
SELECT attempt, receipt AS r3 FROM evtstore.receive('jobs') \gset
SELECT :attempt AS attempt;
SET evtstore.clock_offset = '180s';
SELECT next_receipt('jobs');
SELECT replace(fails(format('SELECT evtstore.ack(%L)', :'r3')), :'r3', 'R3');
SELECT name, key, body, attempts, cause, first_error, last_error, message_id = :id AS same_message,
    (SELECT json_agg(h - 'at') FROM jsonb_array_elements(history) h) AS history
FROM evtstore.dead_letters;
SELECT * FROM status;
SET evtstore.clock_offset = 0;
DELETE FROM evtstore_internal.message;

--
-- nack, retry policy, reject: 5 attempts, 10 s doubling up to 30 s, no jitter
--
SELECT evtstore.create_queue('retried', '{"retry": {"max_attempts": 5, "initial": "10s", "max_delay": "30s", "jitter": 0}}');
SELECT evtstore.send('retried', '{"a": 1}', headers => '{"h": 1}') AS id \gset
SELECT evtstore.nack(next_receipt('retried'), 'first failure');
SELECT extract(epoch FROM deliver_at - (history->0->>'at')::timestamptz) AS delay FROM evtstore_internal.message;
SELECT * FROM status;
SELECT next_receipt('retried');
SET evtstore.clock_offset = '11s';
SELECT evtstore.nack(next_receipt('retried'));
SELECT extract(epoch FROM deliver_at - (history->-1->>'at')::timestamptz) AS delay FROM evtstore_internal.message;
SET evtstore.clock_offset = '21s';
SELECT next_receipt('retried');
SET evtstore.clock_offset = '32s';
SELECT evtstore.nack(next_receipt('retried'), 'third');
SELECT extract(epoch FROM deliver_at - (history->-1->>'at')::timestamptz) AS delay FROM evtstore_internal.message;
SET evtstore.clock_offset = '63s';
-- a delay that is given wins
SELECT evtstore.nack(next_receipt('retried'), 'fourth', '0');
SELECT deliver_at FROM evtstore_internal.message;
SELECT receipt AS last, attempt FROM evtstore.receive('retried') \gset
SELECT :attempt AS attempt;
SELECT fails(format('SELECT evtstore.nack(%L, NULL, ''-1s'')', :'last'));
SELECT fails(format('SELECT evtstore.nack(NULL)'));
SELECT evtstore.nack(:'last', repeat('é', 3000), '1s');
SELECT replace(fails(format('SELECT evtstore.nack(%L)', :'last')), :'last', 'LAST');
SELECT name, kind, body, headers, attempts, cause, first_error, length(last_error), message_id = :id AS same_message,
    (SELECT json_agg(jsonb_set(h, '{error}', to_jsonb(left(h->>'error', 20))) - 'at') FROM jsonb_array_elements(history) h) AS history
FROM evtstore.dead_letters WHERE name = 'retried';
-- jitter takes away up to its share
SELECT evtstore.alter_queue('retried', '{"retry": {"jitter": 0.5, "initial": "10s", "max_attempts": 0}}');
SELECT evtstore.send('retried', 'null') > 0 AS sent;
CREATE TEMP TABLE delays AS SELECT NULL::float8 AS delay WHERE false;
DO $$
BEGIN
    FOR i IN 1..30 LOOP
        PERFORM evtstore.nack(receipt, format('failure %s', i)) FROM evtstore.receive('retried');
        INSERT INTO delays SELECT extract(epoch FROM deliver_at - (history->-1->>'at')::timestamptz) FROM evtstore_internal.message;
        COMMIT;
        PERFORM set_config('evtstore.clock_offset', 100 + 100 * i || 's', false);
    END LOOP;
END $$;
SELECT count(*), min(delay) >= 5 AS at_least_half, max(delay) <= 10 AS at_most_all, count(DISTINCT delay) > 20 AS differ FROM delays;
-- no end of attempts, and a history that does not grow for ever
SELECT jsonb_array_length(history), history->0->>'error' AS oldest, history->-1->>'error' AS newest, first_error
FROM evtstore_internal.message;
SELECT evtstore.reject(next_receipt('retried'), 'cannot work');
SELECT attempts, cause, first_error, last_error, jsonb_array_length(history) FROM evtstore.dead_letters WHERE cause = 'rejected';
SELECT evtstore.send('retried', 'null') > 0 AS sent;
SELECT evtstore.reject(next_receipt('retried'));
SELECT attempts, cause, first_error, last_error FROM evtstore.dead_letters ORDER BY id DESC LIMIT 1;
-- defaults: 10 attempts, about 1 s
SELECT evtstore.create_queue('defaults');
SELECT evtstore.send('defaults', '1') > 0 AS sent;
SELECT evtstore.nack(next_receipt('defaults'), 'x');
SELECT extract(epoch FROM deliver_at - (history->0->>'at')::timestamptz) BETWEEN 0.49 AND 1 AS half_to_one_second
FROM evtstore_internal.message;
DO $$
BEGIN
    PERFORM set_config('evtstore.clock_offset', '4000s', false);
    FOR i IN 2..9 LOOP
        PERFORM evtstore.nack(receipt, 'x', '0') FROM evtstore.receive('defaults');
        COMMIT;
    END LOOP;
END $$;
SELECT attempt FROM evtstore_internal.message;
SELECT evtstore.nack(next_receipt('defaults'), 'x', '0');
SELECT * FROM status;
SET evtstore.clock_offset = 0;

--
-- order: priority first, then order of sending
--
SELECT evtstore.create_queue('ordered');
SELECT evtstore.send('ordered', '"low"', priority => -1), evtstore.send('ordered', '"normal 1"'), evtstore.send('ordered', '"high"', priority => 7),
    evtstore.send('ordered', '"normal 2"') \gset ignored_
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('ordered', max_count => 10);
-- delay
SELECT evtstore.send('ordered', '"later"', delay => '60s') > 0 AS sent;
SELECT evtstore.send_batch('ordered', ARRAY['"much later"']::jsonb[], delay => '1 day', priority => 1) IS NOT NULL AS sent;
SELECT evtstore.send('ordered', '"now"') > 0 AS sent;
SELECT * FROM status WHERE name = 'ordered';
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('ordered', max_count => 10);
SET evtstore.clock_offset = '61s';
SELECT body FROM evtstore.receive('ordered', max_count => 10);
SET evtstore.clock_offset = '90000s';
SELECT body FROM evtstore.receive('ordered', max_count => 10);
SET evtstore.clock_offset = 0;

--
-- rate: a second's worth at once, then as time goes by; max_in_flight: over all consumers
--
SELECT evtstore.create_queue('paced', '{"rate": 2}');
SELECT evtstore.send_batch('paced', array_fill('1'::jsonb, ARRAY[5])) IS NOT NULL AS sent;
SELECT count(evtstore.ack(receipt)) FROM evtstore.receive('paced', max_count => 10);
SET evtstore.clock_offset = '1s';
SELECT count(evtstore.ack(receipt)) FROM evtstore.receive('paced', max_count => 10);
SELECT evtstore.alter_queue('paced', '{"rate": null, "max_in_flight": 2}');
SELECT evtstore.send_batch('paced', array_fill('1'::jsonb, ARRAY[5])) IS NOT NULL AS sent;
SELECT count(*) FROM evtstore.receive('paced', max_count => 10);
SELECT count(*) FROM evtstore.receive('paced', max_count => 10);
SET evtstore.clock_offset = '60s';
SELECT count(*) FROM evtstore.receive('paced', max_count => 10);
SELECT fails($$SELECT evtstore.alter_queue('paced', '{"rate": 0}')$$);
SELECT evtstore.drop_queue('paced');
SET evtstore.clock_offset = 0;

--
-- keys: one at a time, in order of sending, whatever their priority
--
SELECT evtstore.create_queue('keyed', '{"retry": {"max_attempts": 2, "initial": "10s", "jitter": 0}}');
SELECT evtstore.send_batch('keyed', ARRAY['"a1"', '"a2"', '"b1"', '"-"', '"b2"', '"a3"']::jsonb[],
    keys => ARRAY['a', 'a', 'b', NULL, 'b', 'a']) IS NOT NULL AS sent;
SELECT evtstore.send('keyed', '"a4, urgent"', key => 'a', priority => 100) > 0 AS sent;
SELECT key, body FROM take('keyed', 10);
SELECT key, body FROM take('keyed', 10);
SELECT evtstore.ack(receipt) FROM held WHERE key = 'b';
SELECT key, body FROM take('keyed', 10);
-- a nack keeps the key's order: the next one waits for the backoff
SELECT evtstore.nack(receipt, 'not now') FROM held WHERE key = 'a';
SELECT key, body FROM take('keyed', 10);
SET evtstore.clock_offset = '11s';
SELECT key, body, attempt FROM take('keyed', 10);
-- a release does, too
SELECT evtstore.release(array_agg(receipt)) FROM held WHERE key = 'a';
SELECT key, body, attempt FROM take('keyed', 10);
-- a dead letter frees its key
SELECT evtstore.nack(receipt, 'never') FROM held WHERE key = 'a';
SELECT key, body FROM take('keyed', 10);
SELECT evtstore.reject(receipt) FROM held WHERE key = 'a';
SELECT key, body, attempt FROM take('keyed', 10);
-- so does one whose last lease ran out, in the same claim
SET evtstore.clock_offset = '60s';
SELECT key, body, attempt FROM take('keyed', 10) ORDER BY message_id;
SET evtstore.clock_offset = '120s';
SELECT key, body, attempt FROM take('keyed', 10);
SELECT body, attempts, cause FROM evtstore.dead_letters WHERE name = 'keyed' ORDER BY message_id;
SET evtstore.clock_offset = 0;
-- within one transaction an own ack frees the key for itself
BEGIN;
SELECT evtstore.ack(array_agg(receipt)) FROM held WHERE key = 'a';
SELECT evtstore.send_batch('keyed', ARRAY['"x1"', '"x2"']::jsonb[], keys => ARRAY['x', 'x']) IS NOT NULL AS sent;
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('keyed');
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('keyed');
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('keyed');
COMMIT;
SELECT * FROM status WHERE name = 'keyed';
-- senders hold the lock of their key to the end of the transaction; very many keys share one lock
BEGIN;
SELECT evtstore.send('keyed', '1') > 0 AND evtstore.send('keyed', '2', key => 'a') > 0 AND evtstore.send('keyed', '3', key => 'a') > 0 AS sent;
SELECT to_hex(objsubid & 65535) AS space, mode, count(*) FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() GROUP BY 1, 2 ORDER BY 1, 2;
SELECT array_length(evtstore.send_batch('keyed', array_agg(to_jsonb(i)), keys => array_agg(i::text)), 1) FROM generate_series(1, 20000) i;
SELECT to_hex(objsubid & 65535) AS space, mode, count(*) FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() GROUP BY 1, 2 ORDER BY 1, 2;
ROLLBACK;
BEGIN;
SELECT count(evtstore.send('keyed', to_jsonb(i), key => i::text)) FROM generate_series(1, 300) i;
SELECT to_hex(objsubid & 65535) AS space, mode, count(*) FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid() GROUP BY 1, 2 ORDER BY 1, 2;
ROLLBACK;

--
-- tenants: messages, keys and receipts of one are not those of another
--
SELECT evtstore.create_queue('shared');
SET evtstore.tenant = 'acme';
SELECT evtstore.send('shared', '"acme 1"', key => 'k'), evtstore.send('shared', '"acme 2"', key => 'k') \gset ignored_
SET evtstore.tenant = 'zeta';
SELECT evtstore.send('shared', '"zeta 1"', key => 'k') > 0 AS sent;
SELECT * FROM status WHERE name = 'shared';
SELECT body, receipt AS zeta FROM evtstore.receive('shared', max_count => 10) \gset
SELECT :'body' AS body;
SET evtstore.tenant = 'acme';
SELECT replace(fails(format('SELECT evtstore.ack(%L)', :'zeta')), :'zeta', 'ZETA');
SELECT replace(fails(format('SELECT evtstore.nack(%L)', :'zeta')), :'zeta', 'ZETA');
SELECT replace(fails(format('SELECT evtstore.extend(%L, ''1s'')', :'zeta')), :'zeta', 'ZETA');
SELECT replace(fails(format('SELECT evtstore.release(ARRAY[%L])', :'zeta')), :'zeta', 'ZETA');
SELECT body, evtstore.reject(receipt) FROM evtstore.receive('shared', max_count => 10);
SELECT body FROM evtstore.dead_letters;
SET evtstore.tenant = 'zeta';
SELECT body FROM evtstore.dead_letters;
-- without a tenant all are seen
RESET evtstore.tenant;
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('shared', max_count => 10);
SELECT evtstore.ack(:'zeta');
SELECT * FROM status WHERE name = 'shared';

--
-- roles
--
SET ROLE evtstore_writer;
SELECT evtstore.send('shared', '"by writer"') > 0 AS sent;
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('shared');
SELECT fails($$SELECT evtstore.create_queue('mine')$$);
SELECT fails($$SELECT * FROM evtstore_internal.message$$);
SET ROLE evtstore_reader;
SELECT fails($$SELECT evtstore.send('shared', '1')$$);
SELECT fails($$SELECT evtstore.receive('shared')$$);
SELECT count(*) > 0 AS sees_status FROM evtstore.queue_status;
RESET ROLE;

--
-- drop
--
SELECT evtstore.create_rule('to_shared', '{}', 'queue:shared');
SELECT fails($$SELECT evtstore.drop_queue('shared')$$);
SELECT evtstore.drop_rule('to_shared');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evtstore.drop_queue('shared');
ROLLBACK;
SELECT evtstore.send('shared', '1') > 0 AS sent;
SELECT next_receipt('shared') AS held_receipt \gset
SELECT evtstore.drop_queue('shared');
SELECT evtstore.drop_queue('retried'), evtstore.drop_queue('keyed'), evtstore.drop_queue('defaults'), evtstore.drop_queue('ordered');
SELECT * FROM status;
SELECT count(*) AS messages FROM evtstore_internal.message;
SELECT name, body FROM evtstore.dead_letters;
SELECT replace(fails(format('SELECT evtstore.ack(%L)', :'held_receipt')), :'held_receipt', 'HELD');
SELECT fails($$SELECT evtstore.send('shared', '1')$$);
-- another one of that name knows nothing of it; a rolled-back one is forgotten
BEGIN;
SELECT evtstore.create_queue('shared');
SELECT evtstore.send('shared', '1') > 0 AS sent;
ROLLBACK;
SELECT fails($$SELECT evtstore.send('shared', '1')$$);
SELECT evtstore.create_queue('shared');
SELECT next_receipt('shared');
-- one namespace with projections
SELECT left(fails($$SELECT evtstore.create_projection('shared', '{"*": "SELECT $1"}', 'sync')$$), 60);
