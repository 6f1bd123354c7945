--
-- What a person does: pause and resume, dead letters again or away, blocked keys, consumers that hang; and the inbox.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET evtstore.test_mode = on;

-- pause and resume: what is out can be settled, nothing more is handed out
SELECT evtstore.create_queue('q', '{"retry": {"max_attempts": 1}}');
SELECT evtstore.create_subscription('s', '{"categories": ["order"]}', lanes => 1, on_failure => 'dead_letter', options => '{"retry": {"max_attempts": 1}}');
SELECT evtstore.send('q', '{"n": 1}'), evtstore.send('q', '{"n": 2}');
SELECT count(*) FROM evtstore.append_events('order-1', '[{"type": "A", "data": 1}, {"type": "A", "data": 2}, {"type": "A", "data": 3}]'),
    evtstore.append('order-2', 'A', '4');
CREATE TABLE got AS SELECT * FROM evtstore.receive('q');
SELECT evtstore.pause('q'), evtstore.pause('s'), evtstore.pause('s');
SELECT name, state FROM evtstore.queue_status UNION ALL SELECT name, state FROM evtstore.subscription_status;
SELECT count(*) FROM evtstore.receive('q');
SELECT count(*) FROM evtstore.poll('s', 'c');
SELECT evtstore.ack(receipt) FROM got;
SELECT evtstore.send('q', '{"n": 3}');
SELECT evtstore.resume('q'), evtstore.resume('s');
SELECT body FROM evtstore.receive('q', max_count => 10);
SELECT fails($$SELECT evtstore.pause('nobody')$$);
SELECT fails($$SELECT evtstore.resume(NULL)$$);
-- a paused one is equal to its definition, and dropping it is no matter
SELECT evtstore.create_queue('q2'), evtstore.pause('q2'), evtstore.create_queue('q2'), evtstore.drop_queue('q2');

-- dead letters of a queue: by filter, in part, with a patch, in the order of their key
SELECT evtstore.create_queue('work', '{"retry": {"max_attempts": 1}}');
SELECT evtstore.send('work', jsonb_build_object('n', n), key => CASE WHEN n < 4 THEN 'k' END, headers => '{"h": 1}', priority => n % 2) FROM generate_series(1, 6) n;
DO $$
BEGIN
    WHILE (SELECT ready FROM evtstore.queue_status WHERE name = 'work') > 0 LOOP
        PERFORM evtstore.reject(receipt, 'broken ' || (body->>'n')) FROM evtstore.receive('work', max_count => 10);
    END LOOP;
END $$;
SELECT count(*) FROM evtstore.dead_letters WHERE name = 'work';
SELECT fails($$SELECT evtstore.redrive('nobody')$$);
SELECT fails($$SELECT evtstore.redrive('work', '{"colour": "red"}')$$);
SELECT fails($$SELECT evtstore.redrive('work', '{"from": "yesterday-ish"}')$$);
SELECT fails($$SELECT evtstore.redrive('work', max_count => 0)$$);
SELECT fails($$SELECT evtstore.redrive('work', NULL)$$);
SELECT evtstore.redrive('work', '{"error": "broken 5"}'), evtstore.redrive('work', '{"to": "2000-01-01"}'), evtstore.redrive('work', '{"key": "k"}', max_count => 2, patch => '{"fixed": true}');
SELECT body, headers, key, attempt, evtstore.ack(receipt) FROM evtstore.receive('work', max_count => 10) ORDER BY message_id;
SELECT body, key, attempt, evtstore.ack(receipt) FROM evtstore.receive('work', max_count => 10);
SELECT body, cause FROM evtstore.dead_letters WHERE name = 'work' ORDER BY body->'n';
SELECT evtstore.redrive('work', jsonb_build_object('id', (SELECT id FROM evtstore.dead_letters WHERE body->'n' = '3')), patch => '"other"');
SELECT body, evtstore.ack(receipt) FROM evtstore.receive('work', max_count => 10);
SELECT fails($$SELECT evtstore.discard(0, 'gone')$$);
SELECT fails($$SELECT evtstore.discard(1, NULL)$$);
SELECT evtstore.discard(id, 'nobody needs it') FROM evtstore.dead_letters WHERE name = 'work' AND body->'n' = '4';
SELECT body FROM evtstore.dead_letters WHERE name = 'work';

-- events: the order of their key, and the checkpoint stays where it is
SELECT evtstore.reject(receipt, 'no') FROM evtstore.poll('s', 'c') WHERE stream = 'order-1';
SELECT count(*) FROM evtstore.append('order-1', 'A', '5');
SELECT body FROM evtstore.dead_letters WHERE name = 's' ORDER BY position;
SELECT fails($$SELECT evtstore.redrive('s', patch => '{}')$$);
SELECT position AS before FROM evtstore.subscription_status \gset
SELECT evtstore.redrive('s');
-- the batch that is out is settled first
SELECT count(*) FROM evtstore.poll('s', 'c');
SELECT retrying, waiting, dead FROM evtstore.subscription_status;
SET evtstore.clock_offset = 60;
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('s', 'c');
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('s', 'c');
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('s', 'c');
SELECT retrying, waiting, dead, position >= :before AS forward FROM evtstore.subscription_status;
RESET evtstore.clock_offset;

-- blocked keys: again, or without the event
SELECT evtstore.create_subscription('b', '{"categories": ["cart"]}', lanes => 1, options => '{"retry": {"max_attempts": 1}}');
SELECT count(*) FROM evtstore.append_events('cart-1', '[{"type": "A", "data": 1}, {"type": "A", "data": 2}, {"type": "A", "data": 3}]');
SELECT evtstore.nack(receipt, 'stuck') FROM evtstore.poll('b', 'c') WHERE body = '1';
SELECT name, key, state, error FROM evtstore.blocked_keys;
SELECT count(*) FROM evtstore.poll('b', 'c');
SELECT fails($$SELECT evtstore.unblock_key('b', 'cart-2')$$);
SELECT fails($$SELECT evtstore.unblock_key('nobody', 'cart-1')$$);
SELECT evtstore.unblock_key('b', 'cart-1');
SELECT body, attempt, evtstore.nack(receipt, 'stuck again') FROM evtstore.poll('b', 'c');
SELECT name, key, state, error FROM evtstore.blocked_keys;
SELECT fails($$SELECT evtstore.skip_event('b', '00000000-0000-7000-8000-000000000000', 'none')$$);
SELECT evtstore.skip_event('b', (SELECT id FROM evtstore.events WHERE stream = 'cart-1' AND version = 1), 'cannot be done');
SELECT body, cause, first_error, last_error FROM evtstore.dead_letters WHERE name = 'b';
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('b', 'c');
SELECT blocked, retrying, waiting, dead FROM evtstore.subscription_status WHERE name = 'b';
-- one that waits can be skipped too
SELECT count(*) FROM evtstore.append_events('cart-1', '[{"type": "A", "data": 4}, {"type": "A", "data": 5}, {"type": "A", "data": 6}]');
SELECT evtstore.nack(receipt, 'stuck') FROM evtstore.poll('b', 'c') WHERE body = '4';
SELECT evtstore.skip_event('b', (SELECT id FROM evtstore.events WHERE stream = 'cart-1' AND version = 5), 'not this one');
SELECT evtstore.unblock_key('b', 'cart-1');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('b', 'c');
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('b', 'c');
SELECT blocked, retrying, waiting, dead FROM evtstore.subscription_status WHERE name = 'b';

-- a consumer that hangs
SELECT count(*) FROM evtstore.append('cart-1', 'A', '7');
SELECT body FROM evtstore.poll('b', 'c', lease => '1 hour');
SELECT count(*) FROM evtstore.poll('b', 'd');
SELECT fails($$SELECT evtstore.evict_consumer('b', 'e')$$);
SELECT evtstore.evict_consumer('b', 'c');
-- of a queue: what it holds is ready again, and its attempt counts
SELECT evtstore.create_queue('evicted');
SELECT evtstore.send('evicted', '1') > 0 AS sent;
SELECT attempt FROM evtstore.receive('evicted', 'gone');
SELECT fails($$SELECT evtstore.evict_consumer('evicted', 'other')$$);
SELECT evtstore.evict_consumer('evicted', 'gone');
SELECT attempt FROM evtstore.receive('evicted', 'here');
SELECT evtstore.drop_queue('evicted');
SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.poll('b', 'd');
SELECT name, consumer FROM evtstore.consumers WHERE name = 'b';

-- what waits for a person, and that its fix fixes it
SELECT evtstore.create_queue('stuck queue');
SELECT evtstore.create_subscription('stuck', '{"categories": ["stuck"]}', lanes => 1, options => '{"retry": {"max_attempts": 1}}');
SELECT version FROM evtstore.append('stuck-it''s', 'A', '1');
SELECT count(evtstore.nack(receipt, 'no printer')) FROM evtstore.poll('stuck');
SELECT count(evtstore.send('stuck queue', '1')) FROM generate_series(1, 2);
SELECT count(evtstore.reject(receipt, 'no paper')) FROM evtstore.receive('stuck queue', max_count => 2);
SELECT evtstore.pause('stuck queue');
SELECT kind, name, key, since IS NOT NULL AS since, cause, blocked_by IS NOT NULL AS blocked_by, fix FROM evtstore.stuck WHERE name LIKE 'stuck%' ORDER BY 1, 2, 5;
SET evtstore.tenant = 'other';
SELECT kind, name FROM evtstore.stuck WHERE name LIKE 'stuck%';
RESET evtstore.tenant;
CREATE TABLE fixes AS SELECT fix FROM evtstore.stuck WHERE name LIKE 'stuck%';
DO $$ DECLARE f text; BEGIN FOR f IN SELECT fix FROM fixes LOOP EXECUTE f; END LOOP; END $$;
SELECT kind, name FROM evtstore.stuck WHERE name LIKE 'stuck%';
SELECT count(*) FROM evtstore.receive('stuck queue', max_count => 9);
SELECT attempt FROM evtstore.poll('stuck');
DROP TABLE fixes;
SELECT evtstore.drop_queue('stuck queue'), evtstore.drop_subscription('stuck');

-- the inbox: once for each consumer, tenant and id, whatever its type; gone with a rollback
SELECT evtstore.once('mail', 'm-1'), evtstore.once('mail', 'm-1'), evtstore.once('ship', 'm-1');
SELECT evtstore.once('mail', '0190a6b2-0000-7000-8000-00000000000A'::uuid), evtstore.once('mail', '0190a6b2-0000-7000-8000-00000000000A'), evtstore.once('mail', '0190a6b2-0000-7000-8000-00000000000a');
BEGIN;
SELECT evtstore.once('mail', 'm-2');
ROLLBACK;
SELECT evtstore.once('mail', 'm-2');
SET evtstore.tenant = 'a';
SELECT evtstore.once('mail', 'm-1');
RESET evtstore.tenant;
SELECT fails($$SELECT evtstore.once('', 'm')$$);
SELECT fails($$SELECT evtstore.once('mail', NULL::uuid)$$);
SELECT fails($$SELECT evtstore.once('mail', '')$$);
SELECT evtstore_internal.trim_inbox(10);
SET evtstore.clock_offset = '8d';
SELECT evtstore_internal.trim_inbox(3), evtstore_internal.trim_inbox(10);
RESET evtstore.clock_offset;
SELECT evtstore.once('mail', 'm-1');
