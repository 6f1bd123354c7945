--
-- What operators do about sagas: pause and resume, redrive, migration, and verbs for many at once.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
\pset tuples_only on

SELECT evtstore.create_queue(name) FROM unnest('{a,b,undo}'::text[]) name;
CREATE TABLE did (n serial, what text);
CREATE FUNCTION did(what text) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO did (what) VALUES (what); SELECT to_jsonb(what) $$;
CREATE FUNCTION reserve(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT did('reserve') $$;
CREATE FUNCTION release(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT did('release') $$;
CREATE FUNCTION ship(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT did('ship') $$;
-- the next receipt of a queue, for a consumer
CREATE FUNCTION take(queue text) RETURNS text LANGUAGE sql AS $$ SELECT receipt FROM evtstore.receive(queue, 'c', 1, '10min') $$;
CREATE FUNCTION steps(saga uuid) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', seq, kind, state, status, attempt, error) FROM evtstore.saga_steps WHERE saga_id = saga ORDER BY seq $$;
CREATE FUNCTION answers(saga uuid) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', seq, outcome, coalesce(error, 'done')) FROM evtstore_internal.saga_answer WHERE saga_id = saga ORDER BY number $$;
CREATE FUNCTION status(saga uuid) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', status, reason, error, states) FROM evtstore.sagas WHERE id = saga $$;
-- verbs, as its stream has them
CREATE FUNCTION verbs(saga uuid) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', type, data->>'verb', data->>'status') FROM evtstore.read_stream('saga-' || saga) WHERE data ? 'verb' $$;
CREATE FUNCTION commands() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT d.name || ' ' || (m.headers->>'state') FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id
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
        -- sleep: between two looks
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;

-- paused: the answer is taken, and nothing follows of it
SELECT evtstore.define_saga('order', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "sql:public.release"}, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "queue:a", "ResultPath": "$.charge", "Saga": {"Undo": "queue:undo"}, "Next": "Ship"},
    "Ship": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('order', '{"n": 1}') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.pause_saga(:'id');
SELECT status(:'id');
SELECT evtstore.reply(:'receipt', '"paid"');
-- as it would be without a pause: one answer counts
SELECT evtstore.reply(:'receipt', '"paid"');
SELECT evtstore.fail(:'receipt', 'Broken');
SELECT steps(:'id');
SELECT answers(:'id');
SELECT what FROM did ORDER BY n;
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT output FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT answers(:'id');
SELECT what FROM did ORDER BY n;
SELECT verbs(:'id');
SELECT count(*) FROM evtstore_internal.saga WHERE paused_from IS NOT NULL;

-- a failure keeps what it said: not again, or not before
SELECT evtstore.define_saga('retried', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true,
    "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1}]}}}');
SELECT evtstore.start_saga('retried') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.fail(:'receipt', 'Busy', 'call later', retry_after => '2h');
SELECT steps(:'id');
SELECT commands();
SELECT evtstore.resume_saga(:'id');
SELECT steps(:'id');
SELECT cause FROM evtstore.saga_steps WHERE saga_id = :'id' AND seq = 1;
SELECT next_due > now() + interval '119min' FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.start_saga('retried') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.fail(:'receipt', 'Busy', retryable => false);
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');

-- signals wait, also for a step that an answer leads to
SELECT evtstore.define_saga('signed', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "Next": "S"},
    "S": {"Type": "Task", "Resource": "signal:go", "Next": "T"}, "T": {"Type": "Task", "Resource": "signal:go", "End": true}}}');
SELECT evtstore.start_saga('signed') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.reply(:'receipt');
SELECT evtstore.signal_saga(:'id', 'go', '1', 'd');
SELECT evtstore.signal_saga(:'id', 'go', '1', 'd');
SELECT status(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT steps(:'id');
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.signal_saga(:'id', 'go', '2');
SELECT evtstore.resume_saga(:'id');
SELECT output FROM evtstore.sagas WHERE id = :'id';
SELECT number, name, payload, taken_by FROM evtstore_internal.saga_signal WHERE saga_id = :'id' ORDER BY number;

-- a time that is over meanwhile: its timer comes, and does nothing; the answer that came is worth more than the time
SELECT evtstore.define_saga('timed', '{"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 0.2, "Next": "A"},
    "A": {"Type": "Task", "Resource": "queue:a", "TimeoutSeconds": 3600, "Saga": {"Undo": "none"}, "End": true}}}');
CREATE PROCEDURE let_time_pass(of_saga uuid) LANGUAGE sql AS $$
    UPDATE evtstore_internal.saga_step SET due = now() WHERE saga_id = of_saga AND due IS NOT NULL;
    UPDATE evtstore_internal.saga SET timer_id = NULL, timer_due = NULL WHERE id = of_saga $$;
BEGIN;
SELECT evtstore.start_saga('timed') AS id \gset
SELECT evtstore.pause_saga(:'id');
COMMIT;
CALL until(format('(SELECT timer_id IS NULL FROM evtstore_internal.saga WHERE id = %L)', :'id'));
SELECT status(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT take('a') AS receipt \gset
SELECT evtstore.pause_saga(:'id');
CALL let_time_pass(:'id');
SELECT evtstore.reply(:'receipt', '"in time"');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT evtstore.start_saga('timed') AS id \gset
CALL until(format('(SELECT states = ''{A}'' FROM evtstore.sagas WHERE id = %L)', :'id'));
SELECT evtstore.pause_saga(:'id');
CALL let_time_pass(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT steps(:'id');
-- one whose timer is due, and has not come yet, has none left
SELECT evtstore.start_saga('timed') AS id \gset
CALL until(format('(SELECT states = ''{A}'' FROM evtstore.sagas WHERE id = %L)', :'id'));
SELECT evtstore.pause_saga(:'id');
UPDATE evtstore_internal.saga SET timer_due = now() WHERE id = :'id';
SELECT count(*) FROM evtstore_internal.message WHERE body->>'saga' = :'id';
SELECT evtstore.resume_saga(:'id');
SELECT count(*) FROM evtstore_internal.message WHERE body->>'saga' = :'id';
SELECT evtstore.cancel_saga(:'id');
SELECT count(*) FROM evtstore_internal.message WHERE body->>'saga' = :'id';
-- one whose time is to come is armed as it was
SELECT evtstore.start_saga('order', '{"n": 2}') AS id \gset
SELECT timer_id AS timer FROM evtstore_internal.saga WHERE id = :'id' \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT timer_id = :timer FROM evtstore_internal.saga WHERE id = :'id';

-- compensating, and paused: the undo that is out is answered, the next one waits
SELECT evtstore.reply(take('a'), '"paid"') FROM evtstore.pause_saga(:'id');
TRUNCATE did;
SELECT status(:'id');
-- cancelled while it is paused: what was answered meanwhile is undone
SELECT evtstore.cancel_saga(:'id');
SELECT status(:'id');
SELECT steps(:'id');
SELECT answers(:'id');
SELECT evtstore.pause_saga(:'id');
-- its timer is spent: no other one is armed
UPDATE evtstore_internal.saga SET timer_id = NULL, timer_due = NULL WHERE id = :'id';
SELECT evtstore.reply(take('undo'));
SELECT timer_id FROM evtstore_internal.saga WHERE id = :'id';
SELECT status(:'id');
SELECT what FROM did ORDER BY n;
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT what FROM did ORDER BY n;
SELECT steps(:'id');
SELECT verbs(:'id');

-- the same, and cancelled without compensation while the answer of the undo is held: it is known to be undone
SELECT evtstore.start_saga('order', '{"n": 3}') AS id \gset
SELECT evtstore.reply(take('a')) FROM evtstore.pause_saga(:'id');
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.reply(take('undo'));
SELECT evtstore.cancel_saga(:'id', false);
SELECT status(:'id');
SELECT steps(:'id');

-- the pivot was answered meanwhile: it cannot be cancelled any more
SELECT evtstore.define_saga('pivot', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "sql:public.release"}, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "pivot"}, "Next": "Ship"},
    "Ship": {"Type": "Task", "Resource": "queue:b", "Saga": {"Class": "retriable"}, "End": true}}}');
SELECT evtstore.start_saga('pivot') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.reply(:'receipt');
SELECT evtstore.cancel_saga(:'id');
SELECT status(:'id');
SELECT answers(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
-- stuck, and paused: a late success waits as well
SELECT take('b') AS receipt \gset
SELECT evtstore.fail(:'receipt', 'Broken', retryable => false);
SELECT status(:'id');
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.reply(:'receipt', '"late"');
SELECT status(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
-- a pivot of which nobody knows, and its failure
SELECT evtstore.start_saga('pivot') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.fail(:'receipt', 'Declined');
SELECT status(:'id');
SELECT evtstore.cancel_saga(:'id');
SELECT status(:'id');
SELECT steps(:'id');

-- commands that their queue gives up, and answers of several at once
SELECT evtstore.define_saga('both', '{"StartAt": "B", "States": {"B": {"Type": "Parallel", "End": true, "Branches": [
    {"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true}}},
    {"StartAt": "Y", "States": {"Y": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Z"}], "End": true},
                                "Z": {"Type": "Pass", "Result": "given up", "End": true}}}]}}}');
SELECT evtstore.start_saga('both') AS id \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.reply(take('a'), '"x"');
SELECT evtstore.reject(take('a'), 'cannot');
CALL until(format('(SELECT count(*) = 2 FROM evtstore_internal.saga_answer WHERE saga_id = %L)', :'id'));
SELECT answers(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT output FROM evtstore.sagas WHERE id = :'id';

-- what is not to be
SELECT evtstore.start_saga('order', '{"n": 4}') AS id \gset
SELECT evtstore.resume_saga(:'id');
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.retry_saga(:'id');
SELECT evtstore.skip_step(:'id', 'Charge', '1');
SELECT evtstore.resolve_step(:'id', 'Charge', 'done');
SELECT evtstore.mark_undone(:'id', 1, 'me');
SELECT evtstore.drop_saga('order');
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT evtstore.pause_saga('00000000-0000-0000-0000-000000000000');
SELECT evtstore.pause_saga(NULL);

-- redriven: where nothing was undone it goes on where it stopped, with the key that the step had
TRUNCATE did;
CREATE TABLE broken (is_broken boolean);
INSERT INTO broken VALUES (true);
CREATE FUNCTION mayfail(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT is_broken FROM broken) THEN RAISE EXCEPTION 'broken'; END IF;
    RETURN did(format('mended %s', $1));
END $$;
SELECT evtstore.define_saga('stops', '{"StartAt": "Reserve", "Saga": {"OnFail": "stop"}, "TimeoutSeconds": 3600, "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "sql:public.release"}, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo"}, "Next": "Mend",
               "Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 0.01, "MaxAttempts": 1}]},
    "Mend": {"Type": "Task", "Resource": "sql:public.mayfail", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('stops', '{}', 'k') AS id \gset
SELECT evtstore.redrive_saga(:'id');
SELECT evtstore.fail(take('a'), 'Broken', retryable => false);
SELECT status(:'id');
UPDATE evtstore_internal.saga SET deadline = now() WHERE id = :'id';
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id');
SELECT ended_at FROM evtstore.sagas WHERE id = :'id';
SELECT deadline > now() + interval '50min' FROM evtstore_internal.saga WHERE id = :'id';
SELECT headers->>'idempotency_key' = :'id' || '/2' AS same_key, headers->>'attempt' AS attempt, receipt FROM evtstore.receive('a', 'c', 1, '10min') \gset
SELECT :'same_key', :'attempt';
-- its key is taken: another one with it was to be refused
\set VERBOSITY terse
SELECT evtstore.start_saga('stops', '{}', 'k') IS NOT NULL AS started;
SELECT evtstore.reply(:'receipt', '5');
SELECT status(:'id');
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id');
-- it ended again, and its key is free; then it is another's
SELECT evtstore.start_saga('stops', '{}', 'k') AS other \gset
UPDATE broken SET is_broken = false;
SELECT evtstore.redrive_saga(:'id');
SELECT evtstore.cancel_saga(:'other');
\set VERBOSITY default
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id');
SELECT steps(:'id');
SELECT verbs(:'id');
SELECT what FROM did ORDER BY n;
SELECT evtstore.redrive_saga(:'id');
UPDATE broken SET is_broken = true;
DELETE FROM evtstore_internal.message m USING evtstore_internal.definition d WHERE d.id = m.queue_id AND d.name = 'a';

-- what an earlier attempt was answered since is known: it is not done again
SELECT evtstore.start_saga('stops') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(:'receipt', 'Broken', retryable => false);
SELECT evtstore.reply(:'receipt', '6');
SELECT status(:'id');
UPDATE broken SET is_broken = false;
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id'), output FROM evtstore.sagas WHERE id = :'id';

-- the same of an attempt before the last one
SELECT evtstore.start_saga('stops') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(:'receipt', 'Busy');
CREATE TABLE taken (receipt text);
CREATE FUNCTION take_it() RETURNS boolean LANGUAGE sql AS $$ INSERT INTO taken SELECT r FROM take('a') r WHERE r IS NOT NULL RETURNING true $$;
CALL until('take_it()');
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM taken;
SELECT evtstore.reply(:'receipt', '7');
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id'), output FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');

-- branches and items that are done are kept, and those that had begun go on where they stopped
TRUNCATE did;
UPDATE broken SET is_broken = true;
SELECT evtstore.define_saga('wide', '{"StartAt": "M", "Saga": {"OnFail": "stop"}, "States": {
    "M": {"Type": "Map", "MaxConcurrency": 2, "ItemsPath": "$", "End": true, "ItemProcessor": {"StartAt": "R", "States": {
        "R": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "none"}, "Next": "C"},
        "C": {"Type": "Choice", "Choices": [{"Variable": "$", "NumericEquals": 2, "Next": "F"}], "Default": "Q"},
        "Q": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true},
        "F": {"Type": "Task", "Resource": "sql:public.mayfail", "Saga": {"Undo": "none"}, "End": true}}}}}}');
SELECT evtstore.start_saga('wide', '[1, 5, 2, 3, 4]') AS id \gset
SELECT evtstore.reply(take('b'), '"one"');
SELECT status(:'id');
SELECT steps(:'id');
UPDATE broken SET is_broken = false;
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id');
SELECT steps(:'id');
-- the key of the first attempt; then the items that had not begun
SELECT body, headers->>'attempt', split_part(headers->>'idempotency_key', '/', 2), evtstore.reply(receipt, body) FROM evtstore.receive('b', max_count => 2);
SELECT body, headers->>'attempt', evtstore.reply(receipt, body) FROM evtstore.receive('b', max_count => 2);
SELECT status(:'id'), output FROM evtstore.sagas WHERE id = :'id';
SELECT count(*) FROM did WHERE what = 'reserve';
SELECT evtstore.define_saga('deep', '{"StartAt": "O", "Saga": {"OnFail": "stop"}, "States": {
    "O": {"Type": "Parallel", "End": true, "Branches": [
        {"StartAt": "P", "States": {"P": {"Type": "Parallel", "Next": "W", "Branches": [
            {"StartAt": "P1", "States": {"P1": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true}}},
            {"StartAt": "P2", "States": {"P2": {"Type": "Task", "Resource": "signal:go", "End": true}}}]},
            "W": {"Type": "Wait", "Seconds": 3600, "End": true}}},
        {"StartAt": "Q1", "States": {"Q1": {"Type": "Pass", "Result": 1, "Next": "Q2"}, "Q2": {"Type": "Wait", "Seconds": 0, "End": true}}},
        {"StartAt": "S", "States": {"S": {"Type": "Wait", "Seconds": 3600, "End": true}}}]}}}');
SELECT evtstore.start_saga('deep') AS id \gset
SELECT evtstore.reply(take('b'), '"p1"');
CALL until(format('(SELECT count(*) = 1 FROM evtstore.saga_steps WHERE saga_id = %L AND state = ''Q2'' AND status = ''done'')', :'id'));
SELECT evtstore.cancel_saga(:'id', false);
SELECT steps(:'id');
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id');
SELECT evtstore.signal_saga(:'id', 'go', '2');
SELECT evtstore.skip_step(:'id', 'W', '"w"');
SELECT evtstore.skip_step(:'id', 'S', '"s"');
SELECT status(:'id'), output FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
-- nothing had begun
SELECT evtstore.start_saga('deep', start_at => 'infinity') AS id \gset
SELECT evtstore.cancel_saga(:'id', false);
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status, array_remove(states, 'Q2') FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.cancel_saga(:'id', false);

-- where it was undone, another one begins in its place, once; what comes late for the first one is undone there
SELECT evtstore.start_saga('order', '{"n": 5}', 'k5') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(:'receipt', 'Broken', retryable => false);
SELECT status(:'id');
SELECT evtstore.redrive_saga(:'id') AS new \gset
SELECT status(:'new'), name, version, business_key, input FROM evtstore.sagas WHERE id = :'new';
SELECT status(:'id'), redriven_as = :'new' FROM evtstore.sagas WHERE id = :'id';
SELECT headers->>'idempotency_key' = :'new' || '/2' AS own_key FROM evtstore.receive('a', 'c', 1, '10min');
SELECT evtstore.reply(:'receipt');
SELECT status(:'id');
SELECT status(:'new');
SELECT evtstore.reply(take('undo'));
SELECT status(:'id');
\set VERBOSITY terse
SELECT evtstore.redrive_saga(:'id');
\set VERBOSITY default
SELECT data->>'verb', data->>'redrive_of' = :'id' FROM evtstore.read_stream('saga-' || :'new');
SELECT type, data->>'verb', data->>'redriven_as' = :'new' FROM evtstore.read_stream('saga-' || :'id') WHERE data ? 'verb';
SELECT evtstore.cancel_saga(:'new');

-- what is not sound: something is left that would be done twice; it would fail again at once
SELECT evtstore.define_saga('left', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "sql:public.release"}, "Next": "Tell"},
    "Tell": {"Type": "Task", "Resource": "sql:public.ship", "Next": "Ask"},
    "Ask": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo", "UndoUnknown": false}, "End": true}}}');
SELECT evtstore.start_saga('left') AS id \gset
SELECT take('a') IS NOT NULL;
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.redrive_saga(:'id');
SELECT status(:'id');
SELECT evtstore.define_saga('fails', '{"StartAt": "C", "States": {"C": {"Type": "Choice", "Choices": [{"Variable": "$.x", "IsPresent": true, "Next": "F"}], "Default": "F"},
    "F": {"Type": "Fail", "Error": "Enough", "Cause": "it is"}}}');
SELECT evtstore.start_saga('fails') AS id \gset
SELECT evtstore.redrive_saga(:'id');
SELECT evtstore.redrive_saga('00000000-0000-0000-0000-000000000000');

-- migrated: what waits goes on by the other version, and what was done is undone by it
SELECT evtstore.define_saga('moved', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "sql:public.release"}, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "Next": "Ship"},
    "Ship": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Undo": "none"}, "End": true}}}');
CREATE FUNCTION put_back(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT did('put back') $$;
SELECT evtstore.define_saga('moved', '{"StartAt": "Hold", "States": {
    "Hold": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "sql:public.put_back"}, "Next": "Pay"},
    "Pay": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "Next": "Sign"},
    "Sign": {"Type": "Task", "Resource": "signal:signed", "End": true}}}');
-- each lacks something: not there, of another kind, without an Undo
SELECT evtstore.define_saga('moved', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "none"}, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Undo": "none"}, "Next": "Wait"},
    "Wait": {"Type": "Wait", "Seconds": 1, "End": true}}}');
TRUNCATE did;
SELECT evtstore.start_saga('moved', '{"n": 1}', version => 1) AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.migrate_saga(:'id', 3);
SELECT evtstore.migrate_saga(:'id', 3, '{"Charge": "Wait"}');
SELECT evtstore.migrate_saga(:'id', 2, '{"Reserve": "Sign", "Charge": "Pay"}');
SELECT evtstore.migrate_saga(:'id', 2, '{"Charge": "Charge", "Other": "Pay", "Ship": 7}');
SELECT evtstore.migrate_saga(:'id', 2, '["Charge"]');
SELECT evtstore.migrate_saga(:'id', 1);
SELECT evtstore.migrate_saga(:'id', 4);
SELECT evtstore.migrate_saga(:'id', 0);
SELECT version, status(:'id') FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.migrate_saga(:'id', 2, '{"Reserve": "Hold", "Charge": "Pay"}');
SELECT version, status(:'id') FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT data->'version' AS version, data->'from_version' AS from_version, data->'map' AS map, data->>'verb' AS verb FROM evtstore.read_stream('saga-' || :'id') WHERE data ? 'verb';
-- the command that is out is answered; what follows is of the new version
SELECT evtstore.reply(:'receipt', '"paid"');
SELECT status(:'id');
SELECT evtstore.cancel_saga(:'id');
SELECT status(:'id');
SELECT what FROM did ORDER BY n;
SELECT evtstore.migrate_saga(:'id', 1, '{"Hold": "Reserve"}');
-- paused, and with an answer that was held
SELECT evtstore.start_saga('moved', version => 1) AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.reply(:'receipt');
SELECT evtstore.migrate_saga(:'id', 2, '{"Reserve": "Hold", "Charge": "Pay"}');
SELECT status(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
-- a failed attempt that may be done yet, and would have to be undone
SELECT evtstore.define_saga('late', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo"},
    "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "W"}], "Next": "W"}, "W": {"Type": "Wait", "Seconds": 3600, "End": true}}}');
SELECT evtstore.define_saga('late', '{"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 3600, "End": true}}}');
SELECT evtstore.start_saga('late', version => 1) AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(:'receipt', 'Broken');
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.cancel_saga(:'id');
-- stuck, and the other version is mended
SELECT evtstore.define_saga('bad', '{"StartAt": "P", "States": {"P": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Class": "pivot"}, "Next": "A"},
    "A": {"Type": "Task", "Resource": "sql:public.mayfail", "Saga": {"Class": "retriable"}, "End": true}}}');
SELECT evtstore.define_saga('bad', '{"StartAt": "P", "States": {"P": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Class": "pivot"}, "Next": "B"},
    "B": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Class": "retriable"}, "End": true}}}');
UPDATE broken SET is_broken = true;
SELECT evtstore.start_saga('bad', version => 1) AS id \gset
SELECT status(:'id');
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.migrate_saga(:'id', 2, '{"A": "B"}');
SELECT status(:'id');
SELECT evtstore.retry_saga(:'id');
SELECT status(:'id');
-- an undo that failed for good, and another one
SELECT evtstore.define_saga('mend', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "sql:public.ship", "Next": "F",
    "Saga": {"Undo": "sql:public.mayfail", "UndoRetry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 0}]}}, "F": {"Type": "Fail", "Error": "E"}}}');
SELECT evtstore.define_saga('mend', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "sql:public.ship", "Next": "F", "Saga": {"Undo": "sql:public.put_back"}},
    "F": {"Type": "Fail", "Error": "E"}}}');
SELECT evtstore.start_saga('mend', version => 1) AS id \gset
SELECT status(:'id');
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.retry_saga(:'id');
SELECT status(:'id');
-- branches: the same ones, and each state in its own
SELECT evtstore.define_saga('branches', '{"StartAt": "P", "States": {"P": {"Type": "Parallel", "End": true, "Branches": [
    {"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "signal:x", "End": true}}}, {"StartAt": "Y", "States": {"Y": {"Type": "Task", "Resource": "signal:y", "End": true}}}]}}}');
SELECT evtstore.define_saga('branches', '{"StartAt": "P", "States": {"P": {"Type": "Parallel", "End": true, "Branches": [
    {"StartAt": "Y", "States": {"Y": {"Type": "Task", "Resource": "signal:y", "End": true}}}, {"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "signal:x", "End": true}}}]}}}');
SELECT evtstore.define_saga('branches', '{"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "signal:x", "Next": "P"}, "P": {"Type": "Parallel", "End": true, "Branches": [
    {"StartAt": "Y", "States": {"Y": {"Type": "Task", "Resource": "signal:y", "End": true}}}]}}}');
SELECT evtstore.define_saga('branches', '{"StartAt": "P", "States": {"P": {"Type": "Parallel", "Next": "N", "Branches": [
    {"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "signal:x", "End": true}}}, {"StartAt": "Y", "States": {"Y": {"Type": "Task", "Resource": "signal:yes", "End": true}}}]},
    "N": {"Type": "Pass", "Result": "joined", "End": true}}}');
SELECT evtstore.start_saga('branches', version => 1) AS id \gset
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.migrate_saga(:'id', 3);
SELECT evtstore.migrate_saga(:'id', 4);
SELECT evtstore.signal_saga(:'id', 'x', '1');
SELECT evtstore.signal_saga(:'id', 'yes', '1');
SELECT status(:'id'), output FROM evtstore.sagas WHERE id = :'id';
-- what was done is not the pivot of the other, nor the other way round
SELECT evtstore.define_saga('class', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "sql:public.ship", "Next": "W"}, "W": {"Type": "Wait", "Seconds": 3600, "End": true}}}');
SELECT evtstore.define_saga('class', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Class": "pivot"}, "Next": "W"},
    "W": {"Type": "Wait", "Seconds": 3600, "End": true}}}');
SELECT evtstore.start_saga('class', version => 1) AS id \gset
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.cancel_saga(:'id');

-- verbs for many: in order of id, each with what became of it
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.saga_key, evtstore_internal.saga_answer, evtstore_internal.saga_signal;
SELECT evtstore.purge_queue(name) IS NOT NULL FROM unnest('{a,b,undo}'::text[]) name;
SELECT max(position) AS before FROM evtstore.events \gset
SELECT count(evtstore.start_saga('pivot', to_jsonb(i))) FROM generate_series(1, 5) i;
SELECT count(*) FROM evtstore.receive('a', max_count => 2);
SELECT evtstore.reply(receipt) FROM evtstore.receive('a', max_count => 1);
CREATE FUNCTION shown(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'SELECT concat_ws('' '', coalesce(s.input::text, ''?''), r.result, r.reason) FROM evtstore.' || query ||
        ' WITH ORDINALITY r (id, result, reason, n) LEFT JOIN evtstore.sagas s USING (id) ORDER BY n';
END $$;
SELECT input, status, states FROM evtstore.sagas ORDER BY id;
SELECT shown($$pause_saga_where('states @> ''{Charge}'' AND input::int > 1 -- those', 2)$$);
SELECT input, status FROM evtstore.sagas ORDER BY id;
SELECT shown($$resume_saga_where('name = ''pivot''', 10)$$);
SELECT shown($$cancel_saga_where('true', 4)$$);
SELECT input, status, reason FROM evtstore.sagas ORDER BY id;
SELECT shown($$cancel_saga_where('input = ''3''', 3, compensate => false)$$);
SELECT shown($$resolve_step_where('reason = ''pivot_unknown'' AND input = ''1''', 10, 'Charge', 'failed')$$);
SELECT shown($$retry_saga_where('true', 10)$$);
SELECT shown($$skip_step_where('states @> ''{Charge}''', 10, 'Charge', '1')$$);
SELECT shown($$skip_step_where('true', 1, 'Ship', '1')$$);
SELECT input, status, reason FROM evtstore.sagas ORDER BY id;
SELECT evtstore.redrive_saga(id) IS NOT NULL FROM evtstore.sagas WHERE input = '1';
SELECT shown($$redrive_saga_where('true', 10)$$);
SELECT input, status, redriven_as IS NOT NULL AS redriven FROM evtstore.sagas ORDER BY id;
SELECT evtstore.define_saga('pivot', '{"StartAt": "Charge", "States": {"Charge": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "pivot"}, "End": true}}}');
SELECT shown($$migrate_saga_where('name = ''pivot''', 10, 2)$$);
SELECT data->>'verb' AS verb, data->>'role' = session_user AS role, count(*) FROM evtstore.read_all(:before) WHERE data ? 'verb' GROUP BY 1, 2 ORDER BY 1;
-- with the caller's rights; it writes nothing, and is one condition
CREATE ROLE regress_saga_operator IN ROLE evtstore_admin;
CREATE TABLE secret (saga uuid);
SET ROLE regress_saga_operator;
SELECT * FROM evtstore.cancel_saga_where('id IN (SELECT saga FROM secret)', 1);
RESET ROLE;
CREATE FUNCTION leave_trace() RETURNS boolean LANGUAGE sql AS $$ INSERT INTO did (what) VALUES ('trace') RETURNING true $$;
SELECT * FROM evtstore.cancel_saga_where('public.leave_trace()', 1);
\set VERBOSITY terse
SELECT * FROM evtstore.cancel_saga_where('evtstore.pause_saga(id) IS NOT NULL', 1);
SELECT current_setting('transaction_read_only');
SELECT * FROM evtstore.cancel_saga_where('true) UNION SELECT (gen_random_uuid()', 1);
SELECT * FROM evtstore.cancel_saga_where('true; DROP TABLE did', 1);
SELECT * FROM evtstore.cancel_saga_where('true); DROP TABLE did; SELECT (true', 1);
SELECT * FROM evtstore.cancel_saga_where('true) OR (true', 1);
SELECT * FROM evtstore.cancel_saga_where('true ORDER BY 1', 1);
SELECT * FROM evtstore.cancel_saga_where('', 1);
\set VERBOSITY default
SELECT * FROM evtstore.cancel_saga_where('nothing = 1', 1);
SELECT * FROM evtstore.cancel_saga_where('true AND', 1);
SELECT * FROM evtstore.cancel_saga_where('true, false', 1);
SELECT * FROM evtstore.cancel_saga_where('true', 0);
SELECT * FROM evtstore.cancel_saga_where('true', NULL);
SELECT * FROM evtstore.cancel_saga_where(NULL, 1);
SELECT * FROM evtstore.resolve_step_where('true', 1, 'Charge', 'perhaps');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM evtstore.cancel_saga_where('true', 1);
ROLLBACK;
DROP TABLE secret;
DROP ROLE regress_saga_operator;

-- children: the end of one is held for a parent that is paused; one that is paused is taken back as one that is cancelled
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.saga_key, evtstore_internal.saga_answer, evtstore_internal.saga_signal;
SELECT evtstore.purge_queue(name) IS NOT NULL FROM unnest('{a,b,undo}'::text[]) name;
TRUNCATE did;
SELECT evtstore.define_saga('child', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "Saga": {"Undo": "sql:public.release"}, "Next": "Ask"},
    "Ask": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo"}, "End": true}}}');
SELECT evtstore.define_saga('parent', '{"StartAt": "Child", "States": {"Child": {"Type": "Task", "Resource": "saga:child", "Next": "Then"},
    "Then": {"Type": "Task", "Resource": "signal:go", "End": true}}}');
SELECT evtstore.start_saga('parent') AS id \gset
SELECT id AS child FROM evtstore.sagas WHERE parent_id = :'id' \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.reply(take('a'), '1');
SELECT status(:'child'), status(:'id');
SELECT answers(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.pause_saga(:'child');
SELECT evtstore.reply(take('undo'));
SELECT status(:'child'), status(:'id');
SELECT evtstore.resume_saga(:'child');
SELECT status(:'child'), status(:'id');
SELECT what FROM did ORDER BY n;
SELECT evtstore.redrive_saga(:'child');
TRUNCATE did;
SELECT evtstore.start_saga('parent') AS id \gset
SELECT id AS child FROM evtstore.sagas WHERE parent_id = :'id' \gset
SELECT evtstore.pause_saga(:'child');
SELECT evtstore.reply(take('a'), '1');
SELECT evtstore.cancel_saga(:'id');
SELECT status(:'child'), status(:'id');
SELECT evtstore.reply(take('undo'));
SELECT status(:'child'), status(:'id');
SELECT what FROM did ORDER BY n;
-- one that was left as it was
SELECT evtstore.start_saga('parent') AS id \gset
SELECT evtstore.cancel_saga(:'id', false);
SELECT evtstore.redrive_saga(:'id');
-- one that failed has told so, and another takes its place
SELECT evtstore.define_saga('parent', '{"StartAt": "Child", "Saga": {"OnFail": "stop"}, "States": {"Child": {"Type": "Task", "Resource": "saga:child", "Next": "Then"},
    "Then": {"Type": "Task", "Resource": "signal:go", "End": true}}}');
SELECT evtstore.purge_queue('a') IS NOT NULL;
SELECT evtstore.start_saga('parent') AS id \gset
SELECT evtstore.fail(take('a'), 'Broken', retryable => false);
SELECT status(:'id');
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT status(:'id'), count(*) FROM evtstore.sagas WHERE parent_id = :'id';
-- a Parallel or Map in which something was done is needed, too, and a child is a child
SELECT evtstore.define_saga('within', '{"StartAt": "P", "States": {"P": {"Type": "Parallel", "Next": "C", "Branches": [
    {"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "sql:public.reserve", "Saga": {"Undo": "sql:public.release"}, "End": true}}}]},
    "C": {"Type": "Task", "Resource": "saga:child", "End": true}}}');
SELECT evtstore.define_saga('within', '{"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "sql:public.reserve", "Saga": {"Undo": "sql:public.release"}, "Next": "C"},
    "C": {"Type": "Task", "Resource": "saga:child", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('within', version => 1) AS id \gset
SELECT evtstore.migrate_saga(:'id', 2);

-- an instance of a reactor: events and timers wait; nothing of it is redriven or migrated
CREATE PROCEDURE handled(reactor text) LANGUAGE plpgsql AS $$
BEGIN
    CALL evtstore.wait_for('reactor:' || reactor, evtstore.head_position(), '60 s');
END $$;
CREATE FUNCTION collect(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('state', jsonb_build_object('seen', coalesce(state->'seen', '[]') || jsonb_build_array(event->'type')))
        || CASE event->>'type' WHEN 'Began' THEN '{"timers": [{"name": "soon", "after": "1 hour"}]}'::jsonb ELSE '{}' END $$;
SELECT evtstore.define_reactor('collect', '[{"types": ["Began"], "correlate": "$.data.key", "starts": true}, {"types": ["Went"], "correlate": "$.data.key"}]', 'public.collect');
SELECT version FROM evtstore.append('x-1', 'Began', '{"key": "k"}');
CALL handled('collect');
SELECT id FROM evtstore.sagas WHERE name = 'collect' \gset
SELECT evtstore.pause_saga(:'id');
SELECT version FROM evtstore.append('x-1', 'Went', '{"key": "k"}');
CALL handled('collect');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.skip_step(:'id', 'Went', '1');
SELECT evtstore.resume_saga(:'id');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.pause_saga(:'id');
CALL let_time_pass(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.redrive_saga(:'id');

-- a step that events answer: also while it is paused, and by no version that does not know of them
SELECT evtstore.define_saga('told', '{"StartAt": "A", "Saga": {"Correlation": "$.data.key"}, "States": {
    "A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none", "ReplyEvents": ["Told"], "Correlate": "$.key"}, "End": true}}}');
SELECT evtstore.define_saga('told', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('told', '{"key": "k"}', version => 1) AS id \gset
SELECT evtstore.migrate_saga(:'id', 2);
SELECT evtstore.pause_saga(:'id');
SELECT version FROM evtstore.append('y-1', 'Told', '{"key": "k"}');
CALL until(format('(SELECT count(*) = 1 FROM evtstore_internal.saga_answer WHERE saga_id = %L)', :'id'));
SELECT answers(:'id'), status(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT answers(:'id'), status(:'id');

-- a semantic lock that is given to one that is paused: it has it, and goes on when it is resumed; one that gave its locks back is not redriven
SELECT evtstore.define_saga('locked', '{"StartAt": "A", "Saga": {"OnFail": "stop"}, "States": {
    "A": {"Type": "Task", "Resource": "sql:public.ship", "ResultPath": null, "Saga": {"Undo": "none", "Lock": "$.what"}, "Next": "B"},
    "B": {"Type": "Task", "Resource": "signal:go", "End": true}}}');
SELECT evtstore.start_saga('locked', '{"what": "x"}') AS first \gset
SELECT evtstore.start_saga('locked', '{"what": "x"}') AS id \gset
SELECT evtstore.pause_saga(:'id');
SELECT evtstore.cancel_saga(:'first');
CALL until(format('(SELECT count(*) = 0 FROM evtstore_internal.message WHERE body->>''lock'' IS NOT NULL AND body->>''saga'' = %L)', :'id'));
SELECT status(:'id');
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT evtstore.redrive_saga(:'first');

-- a pivot that was answered when its saga had been cancelled: redriven, it is behind it, and nothing is undone any more
SELECT evtstore.purge_queue(name) IS NOT NULL FROM unnest('{a,b,undo}'::text[]) name;
SELECT evtstore.start_saga('order_pivot') IS NULL FROM evtstore.define_saga('order_pivot', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:public.reserve", "ResultPath": null, "Saga": {"Undo": "sql:public.release"}, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "pivot"}, "Next": "Ship"},
    "Ship": {"Type": "Task", "Resource": "queue:b", "Saga": {"Class": "retriable"}, "End": true}}}');
SELECT id FROM evtstore.sagas WHERE name = 'order_pivot' \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.cancel_saga(:'id', false);
SELECT evtstore.reply(:'receipt', '1');
SELECT evtstore.redrive_saga(:'id') = :'id'::uuid;
SELECT evtstore.fail(take('b'), 'Broken', retryable => false);
SELECT status(:'id');
SELECT steps(:'id');

-- a child whose pivot was answered while it was paused, or before, is not taken back: it stays paused, and goes on when it is resumed
SELECT evtstore.define_saga('of_pivot', '{"StartAt": "Child", "States": {"Child": {"Type": "Task", "Resource": "saga:order_pivot",
    "Saga": {"Undo": "sql:public.release"}, "Next": "Then"}, "Then": {"Type": "Task", "Resource": "signal:go", "End": true}}}');
SELECT evtstore.start_saga('of_pivot') AS id \gset
SELECT id AS child FROM evtstore.sagas WHERE parent_id = :'id' \gset
SELECT evtstore.pause_saga(:'child');
SELECT evtstore.reply(take('a'), '1');
SELECT evtstore.cancel_saga(:'id');
SELECT status(:'child'), status(:'id');
SELECT answers(:'child');
SELECT evtstore.resume_saga(:'child');
SELECT status(:'child');
SELECT evtstore.pause_saga(:'child');
SELECT evtstore.reply(take('b'), '2');
SELECT evtstore.resume_saga(:'child');
SELECT status(:'child'), status(:'id');
SELECT evtstore.start_saga('of_pivot') AS id \gset
SELECT id AS child FROM evtstore.sagas WHERE parent_id = :'id' \gset
SELECT evtstore.reply(take('a'), '1');
SELECT evtstore.pause_saga(:'child');
SELECT evtstore.reply(take('b'), '2');
SELECT evtstore.cancel_saga(:'id');
SELECT status(:'child'), status(:'id');
SELECT evtstore.resume_saga(:'child');
SELECT status(:'child'), status(:'id');

-- a semantic lock that comes when the saga is stuck in another branch
SELECT evtstore.define_saga('two_branches', '{"StartAt": "Charge", "States": {
    "Charge": {"Type": "Task", "Resource": "queue:a", "ResultPath": null, "Saga": {"Class": "pivot"}, "Next": "P"},
    "P": {"Type": "Parallel", "End": true, "Branches": [
        {"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "queue:b", "Saga": {"Class": "retriable"}, "End": true}}},
        {"StartAt": "Y", "States": {"Y": {"Type": "Task", "Resource": "sql:public.ship", "Saga": {"Class": "retriable", "Lock": "$.what"}, "End": true}}}]}}}');
SELECT evtstore.start_saga('locked', '{"what": "y"}') AS first \gset
SELECT evtstore.start_saga('two_branches', '{"what": "y"}') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.fail(take('b'), 'Broken', retryable => false);
SELECT status(:'id');
SELECT evtstore.signal_saga(:'first', 'go', '1');
CALL until(format('(SELECT count(*) = 0 FROM evtstore_internal.message WHERE body->>''lock'' IS NOT NULL AND body->>''saga'' = %L)', :'id'));
SELECT status(:'id');
SELECT steps(:'id');

-- history has the names that states have since a migration
SELECT evtstore.define_saga('renamed', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "Next": "B"},
    "B": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.define_saga('renamed', '{"StartAt": "A2", "States": {"A2": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "Next": "B2"},
    "B2": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('renamed', version => 1) AS id \gset
SELECT evtstore.reply(take('a'));
SELECT clock_timestamp() AS before \gset
SELECT evtstore.migrate_saga(:'id', 2, '{"A": "A2", "B": "B2"}');
SELECT concat_ws(' ', seq, state, status) FROM evtstore.saga_at(:'id', :'before') WHERE seq > 0 ORDER BY seq;
SELECT concat_ws(' ', seq, kind, state, status, attempt, error) FROM evtstore.saga_at(:'id', clock_timestamp()) WHERE seq > 0 ORDER BY seq;
SELECT steps(:'id');

-- a lock that is given to one that is paused until the time of its step is over: its command is not sent, and not twice
SELECT evtstore.define_saga('timed_lock', '{"StartAt": "A", "States": {
    "A": {"Type": "Task", "Resource": "queue:a", "TimeoutSeconds": 0.1, "Saga": {"Undo": "none", "Lock": "$.what"}, "End": true}}}');
SELECT evtstore.start_saga('locked', '{"what": "z"}') AS first \gset
SELECT evtstore.start_saga('timed_lock', '{"what": "z"}') AS id \gset
SELECT evtstore.pause_saga(:'id');
CALL until(format('(SELECT clock_timestamp() > due FROM evtstore.saga_steps WHERE saga_id = %L)', :'id'));
SELECT evtstore.signal_saga(:'first', 'go', '1');
CALL until(format('(SELECT count(*) = 0 FROM evtstore_internal.message WHERE body->>''lock'' IS NOT NULL AND body->>''saga'' = %L)', :'id'));
SELECT evtstore.resume_saga(:'id');
SELECT status(:'id');
SELECT steps(:'id');
SELECT count(*) FROM evtstore_internal.message WHERE event_id = :'id';
