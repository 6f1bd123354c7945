--
-- Sync rules: which events go to which queue, in the append's transaction.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- all that is ready in a queue, taken and acknowledged
CREATE FUNCTION take(queue text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    d evtstore.delivery; result text[] := '{}';
BEGIN
    LOOP
        SELECT * INTO d FROM evtstore.receive(queue);
        EXIT WHEN d.receipt IS NULL;
        result := result || format('%s/%s %s', d.stream, d.version, d.body);
        PERFORM evtstore.ack(d.receipt);
    END LOOP;
    RETURN result;
END $$;

SELECT evtstore.create_queue('orders');
SELECT evtstore.create_rule('orders', '{"categories": ["order"], "types": ["OrderPlaced", "OrderPaid"]}', 'queue:orders');

-- a message carries the event; the stream is its key
SELECT stream, version FROM evtstore.append('order-1', 'OrderPlaced', '{"n": 9007199254740993}', metadata => '{"m": 1}', tags => '{a,b}',
    id => '00000000-0000-7000-8000-000000000001', schema_version => 3);
SELECT evtstore.append_events('order-1', '[{"type": "OrderSeen", "data": 1}, {"type": "OrderPaid", "data": {}}]') IS NOT NULL AS appended;
SELECT count(*) FROM evtstore.append('invoice-1', 'OrderPlaced', '{}');
SELECT name, ready FROM evtstore.queue_status;
SELECT r.attempt, r.key, r.body, r.headers, r.stream, r.version, r.event_id, r.type, r.schema_version, r.tags,
       r."position" = e."position" AS "position", r.recorded_at = e.recorded_at AS recorded_at
FROM evtstore.receive('orders') r JOIN evtstore.read_stream('order-1') e ON r.event_id = e.id;
-- the next one of the same stream waits for it
SELECT count(*) FROM evtstore.receive('orders');
SELECT name, ready, in_flight FROM evtstore.queue_status;

-- message and event commit together or not at all
BEGIN;
SELECT version FROM evtstore.append('order-2', 'OrderPlaced', '1');
SAVEPOINT a;
SELECT version FROM evtstore.append('order-2', 'OrderPaid', '2');
ROLLBACK TO a;
SELECT version FROM evtstore.append('order-2', 'OrderPaid', '3');
COMMIT;
BEGIN;
SELECT version FROM evtstore.append('order-3', 'OrderPlaced', '4');
ROLLBACK;
SELECT take('orders');
-- a duplicate sends nothing
SELECT version, duplicate FROM evtstore.append('order-1', 'OrderPlaced', '{"n": 9007199254740993}', tags => '{a,b}',
    id => '00000000-0000-7000-8000-000000000001', schema_version => 3);
SELECT take('orders');

--
-- several rules to several queues; each rule that matches sends
--
SELECT evtstore.create_queue('all'), evtstore.create_queue('tagged');
SELECT evtstore.create_rule('all', '{}', 'queue:all'), evtstore.create_rule('tagged', '{"tags": ["x", "y"]}', 'queue:tagged'),
       evtstore.create_rule('also tagged', '{"streams": ["order-4"]}', 'queue:tagged');
SELECT evtstore.append_events('order-4', '[{"type": "OrderPlaced", "data": 1}, {"type": "T", "data": 2, "tags": ["y", "x"]}, {"type": "T", "data": 3, "tags": ["x"]}]') IS NOT NULL AS appended;
SELECT version FROM evtstore.append('other-1', 'T', '4', tags => '{x,y,z}');
SELECT take('orders'), take('all'), take('tagged');
-- two rules to one queue: its messages are in the order of the stream, whichever rule sent them
SELECT evtstore.create_queue('ab'), evtstore.create_rule('a', '{"types": ["A"]}', 'queue:ab'), evtstore.create_rule('b', '{"types": ["B"]}', 'queue:ab');
SELECT evtstore.append_events('order-6', '[{"type": "B", "data": 1}, {"type": "A", "data": 2}, {"type": "B", "data": 3}]') IS NOT NULL AS appended;
SELECT take('ab');

-- a sync projection that refuses the append leaves no message; what its handlers append is sent too
SELECT evtstore.create_projection('refuse', '{"Refuse": "SELECT 1 / 0", "Chain": "SELECT evtstore.append(''chain-2'', ''T'', ''\"inner\"'')"}', 'sync');
SELECT left(fails($$SELECT evtstore.append('order-5', 'Refuse', '{}')$$), 5);
SELECT left(fails($$SELECT evtstore.append_events('order-5', '[{"type": "OrderPlaced", "data": 1}, {"type": "Refuse", "data": 2}]')$$), 5);
SELECT version FROM evtstore.append('chain-1', 'Chain', '"outer"');
SELECT take('orders'), take('all');
-- in the order of the stream, also where a handler appends to it
SELECT evtstore.create_projection('twice', '{"First": "SELECT evtstore.append(($1).stream, ''B'', ''\"inner\"'')"}', 'sync');
SELECT evtstore.alter_rule('a', '{"filter": {"types": ["First"]}}');
SELECT version FROM evtstore.append('chain-3', 'First', '"outer"');
SELECT take('ab');

-- a rule applies to what is appended after it; drop and roll back
BEGIN;
SELECT evtstore.drop_rule('all');
SELECT version FROM evtstore.append('other-2', 'T', '"not sent"');
SELECT evtstore.create_rule('all', '{"categories": ["other"]}', 'queue:all');
SELECT version FROM evtstore.append('other-2', 'T', '"sent"');
COMMIT;
SELECT take('all');
SELECT evtstore.alter_rule('all', '{"filter": {"types": ["U"]}}');
SELECT count(*) FROM evtstore.append('other-2', 'T', '"not sent"');
SELECT count(*) FROM evtstore.append('other-2', 'U', '"sent"');
SELECT evtstore.alter_rule('all', '{"target": "queue:tagged"}');
SELECT count(*) FROM evtstore.append('other-2', 'U', '"sent there"');
SELECT take('all'), take('tagged');
SELECT evtstore.drop_rule('all');
SELECT count(*) FROM evtstore.append('other-2', 'U', '"not sent"');
SELECT take('all'), take('tagged');

--
-- definitions
--
SELECT evtstore.create_rule('orders', '{"types": ["OrderPlaced", "OrderPaid"], "categories": ["order"]}', 'queue:orders', NULL, 'sync');
SELECT fails($$SELECT evtstore.create_rule('orders', '{"categories": ["order"]}', 'queue:orders')$$);
SELECT fails($$SELECT evtstore.create_rule('orders', '{"categories": ["order"], "types": ["OrderPlaced", "OrderPaid"]}', 'queue:all')$$);
SELECT fails($$SELECT evtstore.create_rule(NULL, '{}', 'queue:all')$$);
SELECT fails($$SELECT evtstore.create_rule('', '{}', 'queue:all')$$);
SELECT fails($$SELECT evtstore.create_rule('r', NULL, 'queue:all')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '[]', 'queue:all')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{"type": ["T"]}', 'queue:all')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{"types": "T"}', 'queue:all')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{}', NULL)$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{}', '')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{}', 'all')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{}', 'queue:')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{}', 'queue:unknown')$$);
SELECT fails($$SELECT evtstore.create_rule('r', '{}', 'queue:all', mode => 'often')$$) ~ '^22023' AS other;
SELECT fails($$SELECT evtstore.create_rule('r', '{}', 'queue:all', mode => NULL)$$);
SELECT fails($$SELECT evtstore.alter_rule('unknown', '{}')$$);
SELECT fails($$SELECT evtstore.alter_rule('orders', NULL)$$);
SELECT fails($$SELECT evtstore.alter_rule('orders', '{"target": "queue:unknown"}')$$);
SELECT fails($$SELECT evtstore.alter_rule('orders', '{"mode": "sync"}')$$);
SELECT fails($$SELECT evtstore.drop_rule('unknown')$$);
SELECT fails($$SELECT evtstore.drop_rule(NULL)$$);
-- a queue that rules send to stays
SELECT left(fails($$SELECT evtstore.drop_queue('orders')$$), 5);
SELECT evtstore.drop_rule('orders');
SELECT evtstore.drop_queue('orders');
SELECT version FROM evtstore.append('order-1', 'OrderPaid', '{}');
BEGIN READ ONLY;
SELECT fails($$SELECT evtstore.create_rule('r', '{}', 'queue:all')$$);
COMMIT;
