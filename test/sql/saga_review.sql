--
-- Sagas where somebody is late, twice, wrong or gone: answers to what has ended, compensation that was not to be, commands that are taken back, savepoints.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
\pset tuples_only on

SELECT evtstore.create_queue(name) FROM unnest('{a,b,c,undo,own}'::text[]) name;
-- the next receipt of a queue, for a consumer
CREATE FUNCTION take(queue text) RETURNS text LANGUAGE sql AS $$ SELECT receipt FROM evtstore.receive(queue, 'c', 1, '10min') $$;
CREATE FUNCTION steps(saga uuid) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', kind, state, status, attempt) FROM evtstore.saga_steps WHERE saga_id = saga ORDER BY seq $$;
-- commands that are in queues
CREATE FUNCTION commands() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT d.name || ' ' || m.body FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id
    WHERE d.name NOT LIKE 'evtstore:%' ORDER BY m.id $$;
-- until it is so, for a minute at most
CREATE PROCEDURE until(condition text) LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + '1min'; is_so boolean;
BEGIN
    LOOP
        EXECUTE 'SELECT ' || condition INTO is_so;
        COMMIT;
        EXIT WHEN is_so;
        IF clock_timestamp() > deadline THEN RAISE EXCEPTION 'not within a minute: %', condition; END IF;
        PERFORM pg_sleep(0.05);  -- sleep: between two looks
    END LOOP;
END $$;

-- answers to an instance that has ended change nothing, say nothing, and leave a key that is another's by now
SELECT evtstore.define_saga('one', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('one', business_key => 'key') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.reply(:'receipt'), evtstore.reply(:'receipt'), evtstore.fail(:'receipt', 'E');
SELECT evtstore.start_saga('one', business_key => 'key') AS second \gset
SELECT evtstore.reply(:'receipt');
\set VERBOSITY sqlstate
SELECT evtstore.start_saga('one', business_key => 'key');
\set VERBOSITY default
SELECT type FROM evtstore.read_stream('saga-' || :'id');

-- a receipt is good for its own queue: made up for the message of another it is of nothing that is there, and changes nothing
SELECT evtstore.send('own', '1') IS NOT NULL;
SELECT take('own') AS own \gset
SELECT id AS message FROM evtstore_internal.message WHERE event_id = :'second' \gset
\set VERBOSITY sqlstate
SELECT evtstore.reply(regexp_replace(:'own', '\.\d+\.', '.' || :'message' || '.'));
\set VERBOSITY default
SELECT evtstore.ack(:'own');
-- one that has been given back is good, and the command is not delivered again
SELECT take('a') AS receipt \gset
SELECT evtstore.nack(:'receipt', 'not now', '0s');
SELECT evtstore.reply(:'receipt');
SELECT commands();

-- rows know their commands also where items end at once beside them: they are taken back
SELECT evtstore.define_saga('map', '{"StartAt": "M", "States": {"M": {"Type": "Map", "ItemProcessor": {"StartAt": "C", "States": {
    "C": {"Type": "Choice", "Choices": [{"Variable": "$", "StringEquals": "a", "Next": "A"}, {"Variable": "$", "StringEquals": "b", "Next": "B"}], "Default": "P"},
    "A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true},
    "B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true},
    "P": {"Type": "Pass", "End": true}}}, "End": true}}}');
SELECT evtstore.start_saga('map', '["a", "p", "b"]') AS id \gset
SELECT commands();
SELECT evtstore.fail(take('b'), 'E');
SELECT commands();
SELECT steps(:'id');

-- cancelled without compensation: nothing is undone any more, whoever answers later; an undo that waits is taken back
SELECT evtstore.define_saga('two', '{"StartAt": "A", "States": {
    "A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo"}, "Next": "B"},
    "B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "queue:undo"}, "End": true}}}');
SELECT evtstore.start_saga('two') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT take('b') AS receipt \gset
SELECT evtstore.cancel_saga(:'id', false);
SELECT evtstore.reply(:'receipt');
SELECT commands();
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT evtstore.start_saga('two') AS id \gset
SELECT evtstore.reply(take('a')), evtstore.fail(take('b'), 'E');
SELECT commands();
SELECT take('undo') AS receipt \gset
SELECT evtstore.cancel_saga(:'id', false);
SELECT evtstore.reply(:'receipt');
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT commands();

-- the same where it was to stop
SELECT evtstore.define_saga('stop', '{"Saga": {"OnFail": "stop"}, "StartAt": "P", "States": {"P": {"Type": "Parallel", "Branches": [
    {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo"}, "End": true}}},
    {"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "queue:undo"}, "End": true}}}], "End": true}}}');
SELECT evtstore.start_saga('stop') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(take('b'), 'E');
SELECT evtstore.reply(:'receipt');
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT commands();

-- attempts at one entry are one effect, and undone once
SELECT evtstore.define_saga('again', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "TimeoutSeconds": 3, "Saga": {"Undo": "queue:undo"},
    "Retry": [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 1, "MaxAttempts": 1}], "Next": "F"}, "F": {"Type": "Fail", "Error": "E"}}}');
SELECT evtstore.start_saga('again') AS id \gset
SELECT take('a') IS NOT NULL;
CALL until(format('(SELECT status = ''unknown'' FROM evtstore.saga_steps WHERE saga_id = %L AND attempt = 1)', :'id'));
CREATE TABLE taken (receipt text);
CREATE FUNCTION take_it() RETURNS boolean LANGUAGE sql AS $$ INSERT INTO taken SELECT take('a') WHERE true RETURNING receipt IS NOT NULL $$;
CALL until('take_it()');
SELECT evtstore.reply(receipt) FROM taken WHERE receipt IS NOT NULL;
SELECT evtstore.reply(take('undo'));
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT commands();

-- a stuck pivot goes on with its own success only
SELECT evtstore.define_saga('pivot', '{"StartAt": "A", "States": {
    "A": {"Type": "Task", "Resource": "queue:a", "TimeoutSeconds": 1, "Saga": {"Undo": "queue:undo"}, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "P"}], "Next": "P"},
    "P": {"Type": "Task", "Resource": "queue:b", "TimeoutSeconds": 3, "Saga": {"Class": "pivot"}, "End": true}}}');
SELECT evtstore.start_saga('pivot') AS id \gset
SELECT take('a') AS a \gset
TRUNCATE taken;
CREATE FUNCTION take_b() RETURNS boolean LANGUAGE sql AS $$ INSERT INTO taken SELECT take('b') WHERE true RETURNING receipt IS NOT NULL $$;
CALL until('take_b()');
CALL until(format('(SELECT status = ''stuck'' FROM evtstore.sagas WHERE id = %L)', :'id'));
SELECT evtstore.reply(:'a');
SELECT status, reason FROM evtstore.stuck_sagas JOIN evtstore.sagas USING (id, reason) WHERE id = :'id';
SELECT evtstore.reply(receipt) FROM taken WHERE receipt IS NOT NULL;
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');

-- the time of an instance begins when it does
SELECT evtstore.define_saga('late', '{"TimeoutSeconds": 60, "StartAt": "A", "States": {"A": {"Type": "Pass", "End": true}}}');
SELECT evtstore.start_saga('late', start_at => '2100-01-01 00:00:00+00') AS id \gset
SELECT deadline = '2100-01-01 00:01:00+00' FROM evtstore_internal.saga WHERE id = :'id';

-- times of $$ are times; a Wait has its InputPath
SELECT evtstore.define_saga('wait', '{"StartAt": "W", "States": {"W": {"Type": "Wait", "TimestampPath": "$$.Execution.StartTime", "Next": "V"},
    "V": {"Type": "Wait", "InputPath": "$.a", "Seconds": 0, "End": true}}}');
SELECT evtstore.start_saga('wait', '{"a": 1, "b": 2}') AS id \gset
CALL until(format('(SELECT ended_at IS NOT NULL FROM evtstore.sagas WHERE id = %L)', :'id'));
SELECT status, output FROM evtstore.sagas WHERE id = :'id';

-- an error that is the transaction's goes up, and who catches it goes on
CREATE FUNCTION conflict(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$;
CREATE FUNCTION catch(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM evtstore.start_saga('conflict');
    RETURN '"not reached"';
EXCEPTION WHEN serialization_failure THEN
    RETURN to_jsonb(SQLERRM);
END $$;
SELECT evtstore.define_saga('conflict', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "sql:public.conflict", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.define_saga('catch', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "sql:public.catch", "Saga": {"Undo": "none"}, "End": true}}}');
BEGIN;
SELECT evtstore.start_saga('catch') AS id \gset
SAVEPOINT s;
SELECT evtstore.start_saga('conflict');
ROLLBACK TO s;
SELECT catch('1');
COMMIT;
SELECT status, output FROM evtstore.sagas WHERE id = :'id';

-- the queue of sagas is nobody's target, and is not paused
\set VERBOSITY terse
SELECT evtstore.create_queue('dead', '{"dead_letter_queue": "evtstore:sagas"}');
SELECT evtstore.create_rule('r', '{}', 'queue:evtstore:sagas');
SELECT evtstore.pause('evtstore:sagas');
\set VERBOSITY default
SELECT evtstore.define_saga('own', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:evtstore:sagas", "End": true}}}');
-- nor is it one that is computed: the append is refused
SELECT evtstore.create_rule('r', '{"types": ["Foreign"]}', 'queue:${data.queue}');
SELECT version FROM evtstore.append('x', 'Foreign', '{"queue": "evtstore:sagas"}');
SELECT evtstore.start_saga('wait', '{"a": 1}') AS id \gset
CALL until(format('(SELECT ended_at IS NOT NULL FROM evtstore.sagas WHERE id = %L)', :'id'));
