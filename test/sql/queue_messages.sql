--
-- What a message may say and what becomes of it: dedup_id, deliver_at, expires_in, fairness, settle, status, purge, and what a
-- retry policy and a dead letter queue make of a failure.  The clock is moved with evtstore.clock_offset, so that nothing waits.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE FUNCTION fails_shown(query text) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(fails(query), '(q\d+\.\d+)\.\d{9,}', '\1.E', 'g') $$;
CREATE TABLE noted (n int GENERATED ALWAYS AS IDENTITY, id bigint, receipt text);
CREATE FUNCTION take(queue text, max_count int DEFAULT 1, lease interval DEFAULT '30s') RETURNS SETOF evtstore.delivery LANGUAGE plpgsql AS $$
DECLARE d evtstore.delivery;
BEGIN
    FOR d IN SELECT * FROM evtstore.receive(queue, max_count => max_count, lease => lease) LOOP
        INSERT INTO noted (id, receipt) VALUES (d.message_id, d.receipt);
        RETURN NEXT d;
    END LOOP;
END $$;
CREATE FUNCTION receipt_of(message_id bigint) RETURNS text LANGUAGE sql AS $$
    SELECT receipt FROM noted WHERE id = message_id ORDER BY n DESC LIMIT 1 $$;

--
-- dedup_id
--
SELECT evtstore.create_queue('mail', '{"dedup_window": "1 hour"}');
SELECT evtstore.send('mail', '"first"', dedup_id => 'order-1') AS id \gset
SELECT evtstore.send('mail', '"again"', dedup_id => 'order-1') = :id AS the_first_one;
SELECT evtstore.send('mail', '"other"', dedup_id => 'order-2') = :id AS the_first_one;
SELECT body FROM take('mail', 10) ORDER BY message_id;
SELECT evtstore.ack(array_agg(receipt)) FROM noted;
-- remembered when it is settled, too
SELECT evtstore.send('mail', '"again"', dedup_id => 'order-1') = :id AS the_first_one;
-- a rollback takes it back
BEGIN;
SELECT evtstore.send('mail', '"rolled back"', dedup_id => 'order-3') > 0 AS sent;
ROLLBACK;
SELECT evtstore.send('mail', '"third"', dedup_id => 'order-3') > :id AS sent;
-- in one call too; what has no dedup_id is never a duplicate
SELECT message_id - :id AS id, duplicate FROM evtstore.send_messages('mail', '[
    {"body": 1, "dedup_id": "a"}, {"body": 2, "dedup_id": "a"}, {"body": 3}, {"body": 3}, {"body": 4, "dedup_id": "order-1"}]');
SELECT body FROM take('mail', 10) ORDER BY message_id;
SELECT evtstore.ack(array_agg(receipt_of(id))) FROM (SELECT DISTINCT id FROM noted WHERE id > :id + 1) n;
-- the window is over
SET evtstore.clock_offset = '61min';
SELECT evtstore.send('mail', '"much later"', dedup_id => 'order-1') > :id AS sent;
SELECT evtstore.send('mail', '"again"', dedup_id => 'order-1') > :id AS the_later_one;
RESET evtstore.clock_offset;
-- tenants do not meet
SET evtstore.tenant = 'acme';
SELECT evtstore.send('mail', '"of acme"', dedup_id => 'order-2') > :id AS sent;
RESET evtstore.tenant;
SELECT queue_id IS NOT NULL AS known, tenant, dedup_id FROM evtstore_internal.message_dedup ORDER BY tenant, dedup_id;
SELECT evtstore.purge_queue('mail');
SELECT evtstore.send('mail', '1', dedup_id => 'order-2') = :id + 1 AS a_purge_forgets_no_id;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evtstore.send('mail', '1', dedup_id => 'order-9') > 0 AS sent;
COMMIT;
SELECT fails($$SELECT evtstore.send('mail', '1', dedup_id => '')$$);
SELECT fails($$SELECT evtstore.send('mail', '1', dedup_id => repeat('x', 1025))$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"dedup_window": "0s"}')$$);
SELECT evtstore.drop_queue('mail');
SELECT count(*) FROM evtstore_internal.message_dedup;

--
-- deliver_at, expires_in
--
SELECT evtstore.create_queue('jobs', '{"retry": {"max_attempts": 3, "schedule": ["10s", "60s"]}}');
SELECT evtstore.send('jobs', '"at nine"', deliver_at => now() + interval '9 hours') AS id \gset
SELECT evtstore.send('jobs', '"past"', deliver_at => now() - interval '9 hours') > 0 AS sent;
SELECT evtstore.send('jobs', '"short"', expires_in => '10s') > 0 AS sent;
SELECT state, attempt FROM evtstore.message_status('jobs', :id);
SELECT body FROM take('jobs', 1);
SELECT evtstore.ack(receipt) FROM noted ORDER BY n DESC LIMIT 1;
SET evtstore.clock_offset = '20s';
SELECT body FROM take('jobs', 10);
SELECT body, cause, attempts, last_error FROM evtstore.dead_letters WHERE name = 'jobs';
SET evtstore.clock_offset = '32401s';
SELECT body, attempt FROM take('jobs', 10, '1 day');
SELECT state, attempt, last_error FROM evtstore.message_status('jobs', :id);
RESET evtstore.clock_offset;
SELECT fails($$SELECT evtstore.send('jobs', '1', deliver_at => 'infinity')$$);
SELECT fails($$SELECT evtstore.send('jobs', '1', delay => '1s', deliver_at => now())$$);
SELECT fails($$SELECT evtstore.send('jobs', '1', expires_in => '0s')$$);
SELECT fails($$SELECT evtstore.send('jobs', '1', expires_in => '-1s')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', NULL)$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', '{"body": 1}')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', '[1]')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', '[{"body": 1}, {"key": "k"}]')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', '[{"body": 1, "kee": "k"}]')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', '[{"body": 1, "headers": []}]')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', '[{"body": 1, "delay": "1s", "deliver_at": "2030-01-01"}]')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('jobs', '[{"body": 1, "deliver_at": "soon"}]')$$);
SELECT fails($$SELECT * FROM evtstore.send_messages('none', '[{"body": 1}]')$$);
SELECT count(*) FROM evtstore.send_messages('jobs', '[]');
SELECT evtstore.purge_queue('jobs');

--
-- the retry policy: a schedule, an age, errors
--
SELECT evtstore.send('jobs', '"s"') AS id \gset
SELECT attempt FROM take('jobs');
SELECT evtstore.nack(receipt_of(:id), 'one');
SELECT count(*) FROM take('jobs');
SELECT state, attempt, last_error FROM evtstore.message_status('jobs', :id);
SET evtstore.clock_offset = '10s';
SELECT attempt FROM take('jobs');
SELECT evtstore.nack(receipt_of(:id), 'two');
SET evtstore.clock_offset = '60s';
SELECT count(*) FROM take('jobs');
SET evtstore.clock_offset = '71s';
SELECT attempt FROM take('jobs');
SELECT state, attempt, last_error FROM evtstore.message_status('jobs', :id);
SELECT evtstore.nack(receipt_of(:id), 'three');
SELECT state, attempt, last_error FROM evtstore.message_status('jobs', :id);
SELECT cause, attempts, first_error, last_error FROM evtstore.dead_letters WHERE message_id = :id;
RESET evtstore.clock_offset;

SELECT evtstore.alter_queue('jobs', '{"retry": {"schedule": null, "max_attempts": 0, "max_age": "1 minute", "initial": "1s", "jitter": 0,
    "give_up_on": ["HTTP 4", "no such"]}}');
SELECT evtstore.send('jobs', '"old"') AS id \gset
SELECT attempt FROM take('jobs');
SELECT evtstore.nack(receipt_of(:id), 'HTTP 503');
SET evtstore.clock_offset = '61s';
SELECT attempt FROM take('jobs');
SELECT evtstore.nack(receipt_of(:id), 'HTTP 503');
RESET evtstore.clock_offset;
SELECT evtstore.send('jobs', '"bad"') AS other \gset
SELECT attempt FROM take('jobs');
SELECT evtstore.nack(receipt_of(:other), 'HTTP 404: no such page');
SELECT cause, attempts, last_error FROM evtstore.dead_letters WHERE message_id IN (:id, :other) ORDER BY message_id;
SELECT evtstore.alter_queue('jobs', '{"retry": {"give_up_on": null, "retry_on": ["timeout"]}}');
SELECT evtstore.send('jobs', '"r"') AS id \gset
SELECT attempt FROM take('jobs');
-- a rollback says no error: it is not given up
SELECT evtstore.nack(receipt_of(:id), 'timeout of the gateway', '0s');
BEGIN;
SELECT attempt FROM evtstore.receive('jobs');
ROLLBACK;
SELECT attempt FROM take('jobs');
SELECT evtstore.nack(receipt_of(:id), 'no route');
SELECT cause, attempts, last_error FROM evtstore.dead_letters WHERE message_id = :id;
SELECT fails($$SELECT evtstore.create_queue('x', '{"retry": {"schedule": []}}')$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"retry": {"schedule": ["1s", "soon"]}}')$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"retry": {"schedule": ["1s", 2]}}')$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"retry": {"schedule": ["-1s"]}}')$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"retry": {"schedule": ["1s"], "initial": "1s"}}')$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"retry": {"retry_on": "timeout"}}')$$);

--
-- a queue of dead letters
--
SELECT evtstore.create_queue('failed');
SELECT fails($$SELECT evtstore.create_queue('x', '{"dead_letter_queue": "none"}')$$);
SELECT fails($$SELECT evtstore.alter_queue('failed', '{"dead_letter_queue": "failed"}')$$);
SELECT evtstore.create_queue('orders', '{"retry": {"max_attempts": 1}, "dead_letter_queue": "failed"}');
SELECT fails($$SELECT evtstore.alter_queue('failed', '{"dead_letter_queue": "orders"}')$$);
SELECT fails($$SELECT evtstore.drop_queue('failed')$$);
SET evtstore.tenant = 'acme';
SELECT evtstore.send('orders', '{"o": 1}', key => 'k', headers => '{"h": 1}', priority => 3) AS id \gset
SELECT evtstore.send('orders', '{"o": 2}', key => 'k') AS next \gset
RESET evtstore.tenant;
SELECT body FROM take('orders', 10);
SELECT evtstore.nack(receipt_of(:id), 'out of stock');
SELECT count(*) FROM evtstore.dead_letters WHERE name = 'orders';
SELECT body, key, attempt, headers - 'dead_letter' AS headers, (headers->'dead_letter') - '{message_id,failed_at,enqueued_at}'::text[] AS why,
    (headers->'dead_letter'->>'message_id')::bigint = :id AS it FROM take('failed', 10);
SELECT tenant, -rank AS priority FROM evtstore_internal.message WHERE body = '{"o": 1}';
-- its key is free
SELECT body FROM take('orders', 10);
SELECT evtstore.reject(receipt_of(:next), 'not ours');
SELECT body, headers->'dead_letter'->>'cause' AS cause, headers->'dead_letter'->>'last_error' AS error FROM take('failed', 10);
SELECT evtstore.drop_queue('orders');
SELECT evtstore.drop_queue('failed');

--
-- fairness: values take turns, and the order within one stays
--
SELECT evtstore.create_queue('fair', '{"fair_by": "${body.customer}"}');
SELECT count(evtstore.send('fair', jsonb_build_object('customer', 'big', 'n', n))) FROM generate_series(1, 20) n;
SELECT count(evtstore.send('fair', jsonb_build_object('customer', 'small', 'n', n))) FROM generate_series(1, 2) n;
SELECT count(evtstore.send('fair', jsonb_build_object('n', n))) FROM generate_series(1, 2) n;
SELECT body->>'customer' AS customer, count(*) FROM take('fair', 9) GROUP BY 1 ORDER BY 1;
SELECT body->>'customer' AS customer, string_agg(body->>'n', ' ' ORDER BY message_id) FROM take('fair', 30) GROUP BY 1;
SELECT count(DISTINCT share) FROM evtstore_internal.message;
SELECT evtstore.purge_queue('fair');
SELECT evtstore.alter_queue('fair', '{"fair_by": "${headers.region}"}');
SELECT count(evtstore.send('fair', '1', headers => jsonb_build_object('region', n % 3), key => 'k')) FROM generate_series(1, 6) n;
-- a key is one over all of them, and its next one is found in whatever share it is
SELECT count(*) FROM take('fair', 10);
SELECT evtstore.ack(receipt) FROM noted ORDER BY n DESC LIMIT 1;
SELECT headers FROM take('fair', 10);
SELECT evtstore.ack(receipt) FROM noted ORDER BY n DESC LIMIT 1;
SELECT headers FROM take('fair', 10);
SELECT evtstore.purge_queue('fair');
-- also in the transaction that settled the one before, with a tenant
SET evtstore.tenant = 'acme';
SELECT count(evtstore.send('fair', '1', headers => jsonb_build_object('region', n), key => 'k')) FROM generate_series(1, 2) n;
BEGIN;
SELECT headers, evtstore.ack(receipt) FROM evtstore.receive('fair');
SELECT headers, evtstore.ack(receipt) FROM evtstore.receive('fair');
COMMIT;
RESET evtstore.tenant;
SELECT fails($$SELECT evtstore.create_queue('x', '{"fair_by": "customer"}')$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"fair_by": "${body}"}')$$);
SELECT fails($$SELECT evtstore.create_queue('x', '{"fair_by": "${stream}"}')$$);
SELECT evtstore.drop_queue('fair');

--
-- settle
--
SELECT evtstore.create_queue('work', '{"retry": {"initial": "1s", "jitter": 0}}');
SELECT min(id) AS id FROM unnest(evtstore.send_batch('work', ARRAY['1', '2', '3', '4', '5']::jsonb[])) id \gset
SELECT count(*) FROM take('work', 4);
SELECT row_number() OVER () AS n, outcome, reason FROM evtstore.settle(jsonb_build_array(
    jsonb_build_object('receipt', receipt_of(:id + 2), 'do', 'reject', 'reason', 'no'),
    jsonb_build_object('receipt', receipt_of(:id), 'do', 'ack'),
    jsonb_build_object('receipt', receipt_of(:id), 'do', 'ack'),
    jsonb_build_object('receipt', receipt_of(:id + 1), 'do', 'nack', 'reason', 'busy', 'delay', '1 hour'),
    jsonb_build_object('receipt', regexp_replace(receipt_of(:id + 3), '\d+$', '17'), 'do', 'ack'),
    jsonb_build_object('receipt', receipt_of(:id + 3), 'do', 'release')));
SELECT n, s.* FROM generate_series(0, 4) n LEFT JOIN LATERAL evtstore.message_status('work', :id + n) s ON true ORDER BY n;
SELECT body FROM take('work', 10);
SELECT fails($$SELECT * FROM evtstore.settle(NULL)$$);
SELECT fails($$SELECT * FROM evtstore.settle('{}')$$);
SELECT fails($$SELECT * FROM evtstore.settle('[{"receipt": "q1.2.3"}]')$$);
SELECT fails($$SELECT * FROM evtstore.settle('[{"do": "ack"}]')$$);
SELECT fails($$SELECT * FROM evtstore.settle('[{"receipt": "q1.2.3", "do": "fail"}]')$$);
SELECT fails($$SELECT * FROM evtstore.settle('[{"receipt": "x", "do": "ack"}]')$$);
SELECT fails($$SELECT * FROM evtstore.settle('[{"receipt": "q1.2.3", "do": "ack", "reason": "r"}]')$$);
SELECT fails($$SELECT * FROM evtstore.settle('[{"receipt": "q1.2.3", "do": "reject", "delay": "1s"}]')$$);
SELECT count(*) FROM evtstore.settle('[]');
-- nothing is settled where one is malformed
SELECT fails_shown(format($$SELECT * FROM evtstore.settle('[{"receipt": "%s", "do": "ack"}, {"receipt": "q1.2.3", "do": "eat"}]')$$, receipt_of(:id + 3)));
SELECT state FROM evtstore.message_status('work', :id + 3);

-- events too, with the messages of the same batch
SELECT evtstore.create_subscription('sub', '{"categories": ["pot"]}', lanes => 2);
SELECT version FROM evtstore.append_events('pot-1', '[{"type": "A", "data": 1}, {"type": "A", "data": 2}, {"type": "A", "data": 3}]');
SELECT version FROM evtstore.append_events('pot-2', '[{"type": "A", "data": 4}]');
CREATE TABLE polled AS SELECT * FROM evtstore.poll('sub', 'c');
SELECT p.body, s.outcome, s.reason FROM polled p JOIN evtstore.settle((
    SELECT jsonb_agg(jsonb_build_object('receipt', receipt, 'do', CASE body WHEN '2' THEN 'nack' ELSE 'ack' END) ORDER BY body DESC) FROM polled)
    || jsonb_build_array(jsonb_build_object('receipt', receipt_of(:id + 3), 'do', 'ack'))) s USING (receipt) ORDER BY p.body;
SELECT count(*) FROM evtstore.message_status('work', :id + 3);
SELECT key, attempt FROM evtstore.blocked_keys;
SELECT evtstore.drop_subscription('sub');

--
-- status and purge
--
SELECT evtstore.send('work', '"k1"', key => 'k') AS id \gset
SELECT evtstore.send('work', '"k2"', key => 'k', priority => 5) AS next \gset
SELECT state FROM evtstore.message_status('work', :id) UNION ALL SELECT state FROM evtstore.message_status('work', :next);
SELECT body FROM take('work', 10);
SELECT state, attempt FROM evtstore.message_status('work', :id);
-- a purge takes from whoever holds it, and what was sent meanwhile stays
BEGIN;
SELECT evtstore.purge_queue('work');
SELECT evtstore.send('work', '"k3"', key => 'k') > 0 AS sent;
COMMIT;
SELECT fails_shown(format('SELECT evtstore.ack(%L)', receipt_of(:id)));
SELECT body FROM take('work', 10);
SELECT name, ready, delayed, in_flight FROM evtstore.queue_status WHERE name = 'work';
-- a rolled-back one does nothing
BEGIN;
SELECT evtstore.purge_queue('work');
ROLLBACK;
SELECT evtstore.ack(receipt) FROM noted ORDER BY n DESC LIMIT 1;
SELECT evtstore.purge_queue('work');
-- room for others at once
SELECT evtstore.alter_queue('work', '{"max_in_flight": 2}');
SELECT count(*) FROM unnest(evtstore.send_batch('work', ARRAY['1', '2', '3']::jsonb[]));
SELECT count(*) FROM take('work', 10, '1 hour');
SELECT evtstore.purge_queue('work');
SELECT count(*) FROM unnest(evtstore.send_batch('work', ARRAY['4', '5', '6']::jsonb[]));
SELECT body FROM take('work', 10);
-- what is gone uses up no rate
SELECT evtstore.create_queue('slow', '{"rate": 1}');
SELECT count(*) FROM unnest(evtstore.send_batch('slow', ARRAY['1', '2', '3']::jsonb[]));
SELECT count(*) FROM take('slow', 10);
SET evtstore.clock_offset = '10s';
SELECT evtstore.purge_queue('slow');
SELECT evtstore.send('slow', '"next"') > 0 AS sent;
SELECT body FROM take('slow', 10);
SELECT evtstore.ack(receipt) FROM noted ORDER BY n DESC LIMIT 1;
-- nor what has to wait for an older one of its key
SELECT evtstore.send('slow', '"k1"', key => 'k') + evtstore.send('slow', '"k2"', key => 'k') + evtstore.send('slow', '"other"') > 0 AS sent;
SET evtstore.clock_offset = '20s';
SELECT body FROM take('slow', 10);
SET evtstore.clock_offset = '30s';
SELECT body FROM take('slow', 10);
RESET evtstore.clock_offset;
SELECT evtstore.drop_queue('slow');
SET evtstore.tenant = 'acme';
SELECT evtstore.purge_queue('work');
SELECT count(*) FROM evtstore.message_status('work', :id);
RESET evtstore.tenant;
SELECT fails($$SELECT evtstore.purge_queue('none')$$);
SELECT fails($$SELECT evtstore.purge_queue(NULL)$$);
SELECT fails($$SELECT * FROM evtstore.message_status('none', 1)$$);
SELECT fails($$SELECT * FROM evtstore.message_status('work', NULL)$$);
SELECT count(*) FROM evtstore.message_status('work', -1);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fails($$SELECT evtstore.purge_queue('work')$$);
ROLLBACK;

--
-- big batches: rows that are written together, wide ones among them, after a batch that was rolled back
--
SELECT evtstore.create_queue('bulk');
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM unnest(evtstore.send_batch('bulk', array_fill('0'::jsonb, ARRAY[300])));
ROLLBACK TO s;
SELECT count(*) AS sent, bool_and(id > before) AS ids_in_order
FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before FROM unnest(evtstore.send_batch('bulk',
        (SELECT array_agg(to_jsonb(n || CASE WHEN n % 100 = 0 THEN repeat(md5(n::text), 10000) ELSE '' END) ORDER BY n) FROM generate_series(1, 500) n)))
        WITH ORDINALITY AS s(id, n)) i;
COMMIT;
SELECT count(*), bool_and((body #>> '{}') = n || CASE WHEN n % 100 = 0 THEN repeat(md5(n::text), 10000) ELSE '' END) AS bodies_in_order
FROM (SELECT body, row_number() OVER (ORDER BY message_id) AS n FROM take('bulk', 1000)) r;
SELECT evtstore.ack(array_agg(receipt_of(id))) IS NOT NULL AS acked FROM (SELECT id FROM noted ORDER BY n DESC LIMIT 500) n;
SELECT count(*) FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id WHERE d.name = 'bulk';

DROP TABLE noted, polled;
DROP FUNCTION take, receipt_of, fails_shown;
