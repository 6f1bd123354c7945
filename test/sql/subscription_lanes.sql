--
-- Another number of lanes: nothing is lost, comes twice or leaves the order of its key, whatever is out, settled or failed.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET evtstore.test_mode = on;

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

-- what took effect, in order
CREATE TABLE effect (n serial, stream text, version bigint);
SELECT evtstore.create_subscription('s', '{"categories": ["a"]}', lanes => 4);
CREATE TABLE got AS SELECT * FROM evtstore.poll('s', 'c');

-- takes effect with the ack, poll by poll, until nothing comes
CREATE PROCEDURE drain(consumer text, max_count int DEFAULT 100) LANGUAGE plpgsql AS $$
DECLARE
    receipts text[];
BEGIN
    LOOP
        WITH polled AS MATERIALIZED (SELECT * FROM evtstore.poll('s', consumer, max_count)),
             done AS (INSERT INTO effect (stream, version) SELECT stream, version FROM polled ORDER BY position)
        SELECT array_agg(receipt) INTO receipts FROM polled;
        EXIT WHEN receipts IS NULL;
        PERFORM evtstore.ack(receipts);
        COMMIT;
    END LOOP;
END $$;
CREATE FUNCTION faults() RETURNS TABLE (missing bigint, twice bigint, in_disorder bigint) LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM evtstore.events e WHERE stream LIKE 'a-%' AND NOT EXISTS (SELECT FROM effect f WHERE f.stream = e.stream AND f.version = e.version)),
        (SELECT count(*) FROM (SELECT FROM effect GROUP BY stream, version HAVING count(*) > 1) t),
        (SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY stream ORDER BY n) AS before FROM effect) o WHERE before > version) $$;
-- each stream gets n more
CREATE PROCEDURE append(n int) LANGUAGE sql AS $$
    SELECT count(*) FROM generate_series(1, n) i, generate_series(1, 12) s, evtstore.append('a-' || s, 'T', to_jsonb(i)) $$;
CREATE VIEW generations AS SELECT first_lane, lanes, ends IS NULL AS is_newest, cardinality(ends) AS groups FROM evtstore_internal.lane_generation ORDER BY first_lane;

-- what an alter refuses
SELECT fails($$SELECT evtstore.alter_subscription('s', '{"lanes": 0}')$$);
SELECT fails($$SELECT evtstore.alter_subscription('s', '{"lanes": 257}')$$);
SELECT fails($$SELECT evtstore.alter_subscription('s', '{"lanes": "4"}')$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fails($$SELECT evtstore.alter_subscription('s', '{"lanes": 5}')$$);
ROLLBACK;

-- more lanes while all is handed out and the half of it is settled: receipts hold, nothing comes again, what follows waits
CALL append(3);
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c');
SELECT count(*) FROM got;
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE version = 2;
INSERT INTO effect (stream, version) SELECT stream, version FROM got WHERE version = 2;
SELECT evtstore.alter_subscription('s', '{"lanes": 8}');
SELECT name, lanes, closing_lanes, in_flight FROM evtstore.subscription_status;
SELECT * FROM generations;
CALL append(1);
SELECT count(*) FROM evtstore.poll('s', 'c');
SELECT count(*) FROM evtstore.poll('s', 'd');
SELECT evtstore.leave('s', 'd');
SELECT bool_and(evtstore.extend(receipt, '1 min')) FROM got WHERE version = 3;
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE version IN (1, 3);
SELECT DISTINCT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got WHERE version = 1;
TRUNCATE effect;
INSERT INTO effect (stream, version) SELECT stream, version FROM got ORDER BY position;
CALL drain('c');
SELECT * FROM faults();
SELECT evtstore.leave('s', 'c');
SELECT name, lanes, closing_lanes, in_flight FROM evtstore.subscription_status;
-- the same definition is the same
SELECT evtstore.create_subscription('s', '{"categories": ["a"]}', lanes => 8);
SELECT fails($$SELECT evtstore.create_subscription('s', '{"categories": ["a"]}', lanes => 4)$$);

-- fewer lanes, of which none divides the other: one poll closes the old ones and hands out what the new ones have
CALL append(2);
SELECT evtstore.alter_subscription('s', '{"lanes": 3}');
SELECT * FROM generations;
CALL drain('c', 5);
SELECT * FROM faults();
CALL append(1);
SELECT evtstore.alter_subscription('s', '{"lanes": 5}');
SELECT count(*) AS at_once FROM evtstore.poll('s', 'c', 1);
SELECT evtstore.leave('s', 'c');
CALL drain('c');
SELECT * FROM faults();

-- rolled back; polled in the transaction that changes; a lane that somebody took there and lost
CALL append(1);
BEGIN;
SELECT evtstore.alter_subscription('s', '{"lanes": 2}');
SELECT count(*) FROM evtstore.poll('s', 'c');
ROLLBACK;
SELECT lanes FROM evtstore.subscription_status;
BEGIN;
SELECT evtstore.alter_subscription('s', '{"lanes": 2}');
SAVEPOINT before_poll;
SELECT count(*) FROM evtstore.poll('s', 'c');
ROLLBACK TO before_poll;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c');
COMMIT;
SELECT evtstore.leave('s', 'c');
CALL drain('c');
SELECT * FROM faults();

-- a second and a third one before the first was met; back again
CALL append(1);
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c', 5);
SELECT evtstore.alter_subscription('s', '{"lanes": 7}');
SELECT evtstore.alter_subscription('s', '{"lanes": 4}');
SELECT count(*) FROM generations WHERE NOT is_newest;
SELECT evtstore.alter_subscription('s', '{"lanes": 2}');
SELECT count(*) FROM generations WHERE NOT is_newest;
SELECT evtstore.alter_subscription('s', '{"lanes": 6}');
CALL append(1);
INSERT INTO effect (stream, version) SELECT stream, version FROM got ORDER BY position;
SELECT evtstore.ack(array_agg(receipt)) FROM got;
-- some lanes of the second generation have begun
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c', 3);
SELECT evtstore.alter_subscription('s', '{"lanes": null}');
SELECT lanes FROM evtstore.subscription_status;
CALL append(1);
INSERT INTO effect (stream, version) SELECT stream, version FROM got ORDER BY position;
SELECT evtstore.ack(array_agg(receipt)) FROM got;
CALL drain('c', 4);
SELECT * FROM faults();
SELECT evtstore.leave('s', 'c');

-- a consumer that holds lanes and has nothing of them keeps none open; one that has something does, until its lease is over
SELECT count(*) FROM evtstore.poll('s', 'gone', lease => '10 min');
CALL append(1);
SELECT evtstore.alter_subscription('s', '{"lanes": 3}');
CALL drain('c');
SELECT closing_lanes FROM evtstore.subscription_status;
SELECT missing < 12 AS shares, twice, in_disorder FROM faults();
SELECT evtstore.leave('s', 'c');
SELECT evtstore.leave('s', 'gone');
CALL drain('c');
SELECT * FROM faults();
SELECT evtstore.leave('s', 'c');
CALL append(1);
SELECT count(*) FROM evtstore.poll('s', 'gone', lease => '10 min');
SELECT evtstore.alter_subscription('s', '{"lanes": 4}');
CALL append(1);
CALL drain('c');
SELECT missing FROM faults();
SET evtstore.clock_offset = 700;
CALL drain('c');
RESET evtstore.clock_offset;
SELECT * FROM faults();
SELECT evtstore.leave('s', 'c');
SELECT evtstore.leave('s', 'gone');

-- keys that wait go on waiting in their new lane; what failed comes again there, once, and what is out of it is waited for
SELECT evtstore.alter_subscription('s', '{"retry": {"max_attempts": 3, "initial": "1 min", "multiplier": 1, "jitter": 0}}');
CALL append(2);
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c');
SELECT evtstore.nack(receipt, 'a bad day') FROM got WHERE (stream, version) IN (SELECT stream, min(version) FROM got WHERE stream IN ('a-3', 'a-7') GROUP BY stream);
INSERT INTO effect (stream, version) SELECT stream, version FROM got WHERE stream NOT IN ('a-3', 'a-7') ORDER BY position;
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE stream NOT IN ('a-3', 'a-7');
SELECT retrying, waiting FROM evtstore.subscription_status;
SELECT evtstore.alter_subscription('s', '{"lanes": 6}');
CALL append(1);
CALL drain('c');
SELECT missing, twice, in_disorder FROM faults();
SELECT retrying, waiting FROM evtstore.subscription_status;
SET evtstore.clock_offset = 70;
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c', 1, '10 min');
SELECT attempt FROM got;
SELECT evtstore.alter_subscription('s', '{"lanes": 12}');
-- it is out, and its lane is at its end: neither it nor what follows in its group comes
INSERT INTO effect (stream, version) SELECT stream, version FROM evtstore.poll('s', 'd') p, evtstore.ack(p.receipt);
INSERT INTO effect (stream, version) SELECT stream, version FROM evtstore.poll('s', 'c') p, evtstore.ack(p.receipt);
SELECT count(*) FROM got JOIN effect USING (stream, version);
INSERT INTO effect (stream, version) SELECT stream, version FROM got;
SELECT evtstore.ack(receipt) FROM got;
SELECT evtstore.leave('s', 'c');
CALL drain('d');
SELECT * FROM faults();
RESET evtstore.clock_offset;
SELECT evtstore.leave('s', 'd');

-- what operators do to a key, before and after its lane is another
CALL append(2);
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c');
SELECT evtstore.reject(receipt, 'never') FROM got WHERE (stream, version) IN (SELECT 'a-2', min(version) FROM got WHERE stream = 'a-2');
SELECT evtstore.nack(receipt, 'later') FROM got WHERE (stream, version) IN (SELECT 'a-4', min(version) FROM got WHERE stream = 'a-4');
SELECT evtstore.release(array_agg(receipt)) FROM got WHERE stream NOT IN ('a-2', 'a-4') OR stream = 'a-2' AND version > (SELECT min(version) FROM got WHERE stream = 'a-2');
SELECT evtstore.alter_subscription('s', '{"lanes": 8}');
SELECT evtstore.redrive('s');
SELECT evtstore.skip_event('s', event_id, 'not needed') FROM got WHERE (stream, version) IN (SELECT 'a-4', min(version) FROM got WHERE stream = 'a-4');
INSERT INTO effect (stream, version) SELECT stream, min(version) FROM got WHERE stream = 'a-4' GROUP BY stream;
CALL drain('c');
SELECT * FROM faults();
SELECT count(*) FROM evtstore_internal.failed_event;

-- with another filter at once; set elsewhere in the middle
CALL append(1);
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c', 3);
SELECT evtstore.alter_subscription('s', '{"lanes": 2, "filter": {"categories": ["a"], "types": ["T"]}}');
SELECT DISTINCT refused(format('SELECT evtstore.ack(%L)', receipt)) FROM got;
CALL drain('c');
SELECT * FROM faults();
SELECT count(*) FROM evtstore.append('a-1', 'T', '"more"');
SELECT count(*) FROM evtstore.poll('s', 'c', 1);
SELECT evtstore.alter_subscription('s', '{"lanes": 3}');
SELECT evtstore.seek('s', 0);
SELECT lanes, is_newest FROM generations;
TRUNCATE effect;
CALL drain('c');
SELECT * FROM faults();

-- too many at a time
SELECT evtstore.alter_subscription('s', '{"lanes": 256}');
CALL append(1);
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c');
SELECT count(*) FROM got;
SELECT evtstore.alter_subscription('s', '{"lanes": 200}');
INSERT INTO effect (stream, version) SELECT stream, version FROM got ORDER BY position;
SELECT evtstore.ack(array_agg(receipt)) FROM got;
CALL append(1);
SELECT count(*) FROM evtstore.poll('s', 'c', 1);
SELECT fails($$SELECT evtstore.alter_subscription('s', '{"lanes": 201}')$$);
SELECT evtstore.leave('s', 'c');
CALL drain('c');
SELECT * FROM faults();
SELECT evtstore.alter_subscription('s', '{"lanes": 201}');
SELECT evtstore.drop_subscription('s');
SELECT count(*) FROM evtstore_internal.lane_generation;
SELECT count(*) FROM evtstore_internal.checkpoint;

-- whatever follows whatever, with few events of a lane at a time: polls of some, acks, failures, changes that nobody met
SELECT evtstore.create_subscription('s', '{"categories": ["b"]}', lanes => 4, options => '{"max_in_flight": 2, "retry": {"max_attempts": 0, "initial": "0", "jitter": 0}}');
TRUNCATE effect;
TRUNCATE got;
CREATE PROCEDURE walk(steps int) LANGUAGE plpgsql AS $$
DECLARE
    what float8;
    one record;
BEGIN
    FOR i IN 1..steps LOOP
        what := random();
        IF what < 0.3 THEN
            PERFORM evtstore.append('b-' || trunc(random() * 9), 'T', to_jsonb(i)) FROM generate_series(1, 3);
        ELSIF what < 0.5 THEN
            PERFORM evtstore.alter_subscription('s', jsonb_build_object('lanes', 1 + trunc(random() * 6)));
        ELSIF what < 0.75 THEN
            INSERT INTO got SELECT * FROM evtstore.poll('s', 'c', 1 + trunc(random() * 6)::int, '1 hour');
        ELSE
            -- those that are out, each key in order
            FOR one IN SELECT DISTINCT ON (stream) receipt, stream, version FROM got ORDER BY stream, position LIMIT 3 LOOP
                IF random() < 0.15 THEN
                    PERFORM evtstore.nack(one.receipt, 'a bad day', '0');
                    -- with it the later ones of its key are withdrawn
                    DELETE FROM got WHERE stream = one.stream;
                ELSE
                    PERFORM evtstore.ack(one.receipt);
                    INSERT INTO effect (stream, version) VALUES (one.stream, one.version);
                    DELETE FROM got WHERE receipt = one.receipt;
                END IF;
                COMMIT;
            END LOOP;
        END IF;
        COMMIT;
    END LOOP;
END $$;
CREATE FUNCTION faults_of_walk() RETURNS TABLE (missing bigint, twice bigint, in_disorder bigint) LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM evtstore.events e WHERE stream LIKE 'b-%' AND NOT EXISTS (SELECT FROM effect f WHERE f.stream = e.stream AND f.version = e.version)),
        (SELECT count(*) FROM (SELECT FROM effect GROUP BY stream, version HAVING count(*) > 1) t),
        (SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY stream ORDER BY n) AS before FROM effect) o WHERE before > version) $$;
SELECT setseed(0.5);
CALL walk(600);
SELECT evtstore.leave('s', 'c');
CALL drain('d', 5);
SELECT * FROM faults_of_walk();
SELECT count(*) FROM evtstore_internal.failed_event;

-- a transaction that closes a lane goes on through the empty generation behind it; rolled back, nobody else has seen that
SELECT evtstore.create_subscription('chain', '{"categories": ["chain"]}', lanes => 1);
SELECT count(*) FROM evtstore.append('chain-1', 'T', '1');
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('chain', 'c');
SELECT evtstore.alter_subscription('chain', '{"lanes": 2}');
-- the second generation is known, so that the next change does not undo it
BEGIN;
SELECT evtstore.ack(receipt) FROM got;
SELECT count(*) FROM evtstore.poll('chain', 'c');
ROLLBACK;
SELECT evtstore.alter_subscription('chain', '{"lanes": 3}');
SELECT count(*) FROM evtstore_internal.lane_generation g JOIN evtstore_internal.definition d ON d.id = g.subscription_id WHERE d.name = 'chain';
SELECT count(*) FROM evtstore.append('chain-1', 'T', '2');
BEGIN;
SELECT evtstore.ack(receipt) FROM got;
SELECT body FROM evtstore.poll('chain', 'c');
ROLLBACK;
SELECT count(*) FROM evtstore.poll('chain');
SELECT evtstore.ack(receipt) FROM got;
SELECT body, evtstore.ack(receipt) FROM evtstore.poll('chain');
