--
-- on_failure dead_letter_key: with an event that is given up its key is, and its later events follow, in order, until somebody says
-- otherwise.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE VIEW letters AS SELECT body, cause, attempts, last_error FROM evtstore.dead_letters WHERE name = 's' ORDER BY id;
CREATE VIEW keys AS SELECT key, state, error FROM evtstore.blocked_keys WHERE name = 's' ORDER BY key, state;
CREATE TABLE got (receipt text, body jsonb);
CREATE FUNCTION take(max_count int DEFAULT 100) RETURNS SETOF jsonb LANGUAGE sql AS $$
    TRUNCATE got;
    INSERT INTO got SELECT receipt, body FROM evtstore.poll('s', 'c', max_count);
    SELECT body FROM got ORDER BY body $$;
CREATE FUNCTION says(what text, VARIADIC n int[]) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(concat_ws(' ', outcome, reason), ', ') FROM evtstore.settle((
        SELECT jsonb_agg(jsonb_build_object('receipt', receipt, 'do', what) || CASE WHEN what = 'ack' THEN '{}' ELSE '{"reason": "no"}' END::jsonb ORDER BY body)
        FROM got WHERE body::int = ANY (n))) $$;

SELECT evtstore.create_subscription('s', '{"categories": ["a"]}', lanes => 2, on_failure => 'dead_letter_key',
    options => '{"retry": {"max_attempts": 2, "initial": "0s"}}');
SELECT version FROM evtstore.append_events('a-1', '[{"type": "T", "data": 1}, {"type": "T", "data": 2}, {"type": "T", "data": 3}]');
SELECT version FROM evtstore.append('a-2', 'T', '11');

-- the first failure: the key waits, as ever
SELECT take();
SELECT says('nack', 1), says('ack', 11);
TABLE letters;
TABLE keys;
SELECT take();
-- the second one is the last: what was handed out with it, waits behind it, or comes later, follows it
SELECT says('nack', 1);
TABLE letters;
TABLE keys;
SELECT version FROM evtstore.append('a-1', 'T', '4');
SELECT version FROM evtstore.append('a-2', 'T', '12');
SELECT take();
SELECT says('ack', 12);
TABLE letters;
SELECT blocked, retrying, waiting, dead FROM evtstore.subscription_status WHERE name = 's';
SELECT kind, name, key, cause, fix FROM evtstore.stuck WHERE name = 's' ORDER BY cause;

-- a redrive brings them back in order, and the key to life
SELECT evtstore.redrive('s', '{"key": "a-1"}');
TABLE keys;
SELECT take();
SELECT says('ack', 1, 2, 3, 4);
SELECT version FROM evtstore.append('a-1', 'T', '5');
SELECT take();
SELECT says('ack', 5);
TABLE letters;
TABLE keys;

-- a reject of one of a batch: those behind it are withdrawn and follow
SELECT version FROM evtstore.append_events('a-3', '[{"type": "T", "data": 21}, {"type": "T", "data": 22}, {"type": "T", "data": 23}]');
SELECT take();
SELECT says('ack', 21), says('reject', 22);
SELECT says('ack', 23);
TABLE letters;
-- unblocked: what comes from now on is handed out, the dead letters stay
SELECT evtstore.unblock_key('s', 'a-3');
SELECT fails($$SELECT evtstore.unblock_key('s', 'a-3')$$);
SELECT version FROM evtstore.append('a-3', 'T', '24');
SELECT take();
SELECT says('ack', 24);
SELECT count(*) FROM letters;

-- a savepoint takes it back
SELECT version FROM evtstore.append_events('a-4', '[{"type": "T", "data": 31}, {"type": "T", "data": 32}]');
SELECT take();
BEGIN;
SAVEPOINT x;
SELECT says('reject', 31);
TABLE keys;
ROLLBACK TO x;
TABLE keys;
SELECT says('ack', 31, 32);
COMMIT;

-- another policy, another place: no key is dead any more
SELECT version FROM evtstore.append_events('a-5', '[{"type": "T", "data": 41}, {"type": "T", "data": 42}]');
SELECT take();
SELECT says('reject', 41);
TABLE keys;
SELECT evtstore.alter_subscription('s', '{"on_failure": "dead_letter"}');
TABLE keys;
SELECT evtstore.alter_subscription('s', '{"on_failure": "dead_letter_key"}');
SELECT version FROM evtstore.append('a-5', 'T', '43');
SELECT take();
SELECT says('reject', 43);
SELECT evtstore.seek('s', to_time => now());
TABLE keys;
SELECT evtstore.drop_subscription('s');
SELECT count(*) FROM evtstore_internal.dead_key;
DROP VIEW letters, keys;
DROP TABLE got;
DROP FUNCTION take, says;
