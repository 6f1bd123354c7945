--
-- DROP EXTENSION in a transaction that also received or polled: rolled back, everything is as it was; committed, nothing is left.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET client_min_messages = warning;
SET evtstore.allow_drop = on;

CREATE TABLE held (who text, receipt text);
CREATE FUNCTION received(who text, queue text) RETURNS SETOF text LANGUAGE sql AS $$
    WITH r AS (SELECT * FROM evtstore.receive(queue)), i AS (INSERT INTO held SELECT who, receipt FROM r)
    SELECT format('%s gets message %s, attempt %s', who, body, attempt) FROM r $$;
CREATE FUNCTION polled(who text, subscription text) RETURNS SETOF text LANGUAGE sql AS $$
    WITH r AS (SELECT * FROM evtstore.poll(subscription, max_count => 1)), i AS (INSERT INTO held SELECT who, receipt FROM r)
    SELECT format('%s gets event %s, attempt %s', who, body, attempt) FROM r $$;

SELECT evtstore.create_queue('work');
SELECT count(evtstore.send('work', to_jsonb(i))) FROM generate_series(1, 4) i;
SELECT evtstore.create_subscription('orders', lanes => 64);
SELECT count(*) FROM generate_series(1, 4) i, evtstore.append('order-' || i, 'Placed', to_jsonb(i));
SELECT received('other', 'work');
SELECT polled('other', 'orders');

-- what it received is in use until its transaction is over; then it is ready, and what others hold is theirs
BEGIN;
SELECT received('dropper', 'work');
SELECT left(fails('DROP EXTENSION evtstore'), 5);
ROLLBACK;
SELECT received('next', 'work');
-- not so for a poll
BEGIN;
SELECT polled('dropper', 'orders');
DROP EXTENSION evtstore;
ROLLBACK;
SELECT polled('next', 'orders');
-- nor where the receive was rolled back before, or nothing was
BEGIN;
SAVEPOINT s;
SELECT received('dropper', 'work');
ROLLBACK TO s;
DROP EXTENSION evtstore;
ROLLBACK;
SELECT received('third', 'work');
BEGIN;
SELECT evtstore.release(array_agg(receipt)) FROM held WHERE who = 'third';
DROP EXTENSION evtstore;
CREATE EXTENSION evtstore;
SELECT evtstore.create_queue('work');
SELECT received('dropper', 'work');
SELECT evtstore.send('work', '0');
SELECT received('dropper', 'work');
ROLLBACK;
SELECT received('fourth', 'work');
SELECT received('fifth', 'work');
-- the drop alone is rolled back
BEGIN;
SELECT polled('sixth', 'orders');
SAVEPOINT s;
DROP EXTENSION evtstore;
ROLLBACK TO s;
COMMIT;
SELECT polled('seventh', 'orders');
-- everybody who was handed something may settle it, once
SELECT who, evtstore.ack(receipt) FROM held ORDER BY who COLLATE "C", receipt LIKE 'q%';
SELECT ready, in_flight FROM evtstore.queue_status;

-- committed: a new store begins anew, with other ones under the same numbers
SELECT evtstore.append('order-9', 'Placed', '9') IS NOT NULL AS appended;
SELECT evtstore.send('work', '9') > 0 AS sent;
BEGIN;
SELECT polled('dropper', 'orders');
DROP EXTENSION evtstore;
CREATE EXTENSION evtstore;
SELECT evtstore.create_queue('work');
SELECT evtstore.create_subscription('orders', lanes => 64);
SELECT evtstore.send('work', '1') > 0 AS sent;
SELECT received('dropper', 'work');
SELECT evtstore.append('order-1', 'Placed', '1') IS NOT NULL AS appended;
COMMIT;
SELECT received('next', 'work');
SELECT polled('next', 'orders');
SELECT polled('after', 'orders');
SELECT ready, in_flight FROM evtstore.queue_status;
