-- Instances of sagas: what one transaction does. Time and workers are in 097_sagas.pl.
\pset null '-'
CREATE SCHEMA shop;
CREATE TABLE shop.log (n serial, what text, doc jsonb);
CREATE FUNCTION shop.note(what text, doc jsonb) RETURNS void LANGUAGE sql AS $$ INSERT INTO shop.log (what, doc) VALUES (what, doc) $$;
CREATE FUNCTION shop.reserve(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM shop.note('reserve', $1); RETURN '{"id": 7}'; END $$;
CREATE FUNCTION shop.release(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM shop.note('release', $1); RETURN NULL; END $$;
CREATE FUNCTION shop.charge(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM shop.note('charge', $1);
    IF ($1->>'amount')::numeric > 100 THEN RAISE check_violation USING MESSAGE = 'too much'; END IF;
    RETURN '{"paid": true}';
END $$;
CREATE FUNCTION shop.ship(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM shop.note('ship', $1); RETURN '"on its way"'; END $$;
CREATE FUNCTION shop.refuse(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
SELECT evtstore.create_queue('pay'), evtstore.create_queue('undo', '{"retry": {"max_attempts": 1}}');
CREATE VIEW steps AS
    SELECT s.name, t.seq, t.state, t.kind, t.status, t.attempt, t.undoes, t.error, t.output FROM evtstore.saga_steps t JOIN evtstore.sagas s ON s.id = t.saga_id
    ORDER BY s.started_at, s.id, t.seq;

-- functions only: all of it in one transaction
SELECT evtstore.define_saga('order', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:shop.reserve", "ResultPath": "$.stock", "Next": "Charge",
                "Saga": {"Undo": "sql:shop.release", "UndoInput": {"id.$": "$.output.id"}}},
    "Charge": {"Type": "Task", "Resource": "sql:shop.charge", "ResultPath": "$.charge", "Next": "Ship", "Saga": {"Class": "pivot"}},
    "Ship": {"Type": "Task", "Resource": "sql:shop.ship", "Saga": {"Class": "retriable"}, "End": true}}}');
SELECT evtstore.start_saga('order', '{"amount": 12.50}') IS NOT NULL AS started;
SELECT evtstore.start_saga('order', '{"amount": 1250}') IS NOT NULL AS started;
SELECT name, version, status, states, error, cause, output FROM evtstore.sagas ORDER BY started_at;
SELECT * FROM steps;
-- what failed left nothing; the undo has what it asked for
SELECT what, doc FROM shop.log ORDER BY n;
-- each is one event, in a stream of its own
SELECT type, version, data FROM evtstore.events WHERE category = 'saga' ORDER BY position;
-- and a rollback leaves nothing
BEGIN;
SELECT evtstore.start_saga('order', '{"amount": 1}') IS NOT NULL AS started;
ROLLBACK;
SELECT count(*) FROM evtstore.sagas;
SELECT count(*) FROM evtstore.events WHERE category = 'saga';

-- commands: what a worker gets, and how it answers
SELECT evtstore.define_saga('pay', '{"StartAt": "Reserve", "States": {
    "Reserve": {"Type": "Task", "Resource": "sql:shop.reserve", "ResultPath": "$.stock", "Next": "Charge", "Saga": {"Undo": "sql:shop.release"}},
    "Charge": {"Type": "Task", "Resource": "queue:pay", "Parameters": {"cents.$": "$.amount"}, "ResultPath": "$.charge", "Next": "Ship",
               "Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 3600, "MaxAttempts": 2}],
               "Catch": [{"ErrorEquals": ["Declined"], "ResultPath": "$.why", "Next": "Manual"}], "Saga": {"Undo": "queue:undo"}},
    "Manual": {"Type": "Pass", "Result": "by hand", "End": true},
    "Ship": {"Type": "Task", "Resource": "sql:shop.ship", "End": true}}}');
SELECT evtstore.start_saga('pay', '{"amount": 5}', business_key => 'o-1') AS id \gset
SELECT status, states, next_due > now() + interval '59 minutes' AS in_an_hour FROM evtstore.sagas WHERE id = :'id';
SELECT receipt, body, headers - '{saga_id,idempotency_key,deadline}'::text[] AS headers,
       headers->>'idempotency_key' = :'id' || '/2' AND headers->>'saga_id' = :'id' AS ids FROM evtstore.receive('pay') \gset
SELECT :'body' AS body, :'headers' AS headers, :'ids' AS ids;
\set VERBOSITY terse
SELECT evtstore.start_saga('pay', '{}', business_key => 'o-1') IS NOT NULL;
SELECT evtstore.ack(:'receipt');
\set VERBOSITY default
SELECT evtstore.reply(:'receipt', '{"ok": 1}');
SELECT evtstore.reply(:'receipt', '{"ok": 1}');
SELECT evtstore.fail(:'receipt', 'Busy');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
SELECT seq, outcome, error, output FROM evtstore_internal.saga_answer ORDER BY number;
-- its key is free again
SELECT evtstore.start_saga('pay', '{"amount": 6}', business_key => 'o-1') AS id \gset
-- a failure that is tried again in an hour, and whose command is delayed meanwhile
SELECT receipt FROM evtstore.receive('pay') \gset
SELECT evtstore.fail(:'receipt', 'Busy', 'call me tomorrow');
SELECT ready, delayed FROM evtstore.queue_status WHERE name = 'pay';
SELECT seq, state, status, attempt, error FROM evtstore.saga_steps WHERE saga_id = :'id' ORDER BY seq;
-- a person ends it: the command is taken back, what was done is undone
SELECT evtstore.cancel_saga(:'id');
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT ready, delayed, in_flight FROM evtstore.queue_status WHERE name IN ('pay', 'evtstore:sagas') ORDER BY name;
SELECT seq, state, kind, status, undoes FROM evtstore.saga_steps WHERE saga_id = :'id' ORDER BY seq;
-- answers in a batch, each with what became of it
SELECT evtstore.start_saga('pay', '{"amount": 61}') AS id \gset
SELECT evtstore.start_saga('pay', '{"amount": 62}') AS id2 \gset
SELECT array_agg(receipt ORDER BY message_id) AS receipts FROM evtstore.receive('pay', max_count => 2) \gset
SELECT outcome, reason FROM evtstore.settle(jsonb_build_array(
    jsonb_build_object('receipt', (:'receipts'::text[])[1], 'do', 'reply', 'output', 1),
    jsonb_build_object('receipt', (:'receipts'::text[])[2], 'do', 'fail', 'error', 'Declined', 'cause', 'no'),
    jsonb_build_object('receipt', (:'receipts'::text[])[1], 'do', 'reply')));
SELECT input->'amount' AS amount, status, output FROM evtstore.sagas WHERE id IN (:'id', :'id2') ORDER BY input->'amount';
SELECT evtstore.settle(jsonb_build_array(jsonb_build_object('receipt', (:'receipts'::text[])[1], 'do', 'fail')));
SELECT evtstore.settle(jsonb_build_array(jsonb_build_object('receipt', (:'receipts'::text[])[1], 'do', 'reply', 'error', 'E')));
SELECT evtstore.settle(jsonb_build_array(jsonb_build_object('receipt', (:'receipts'::text[])[1], 'do', 'ack', 'output', 1)));
-- caught
SELECT evtstore.start_saga('pay', '{"amount": 7}') AS id \gset
SELECT evtstore.fail(receipt, 'Declined', 'no credit') FROM evtstore.receive('pay');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
-- not to be tried again, and nobody catches it: undone; a step that came first is undone last
SELECT evtstore.start_saga('pay', '{"amount": 8}') AS id \gset
SELECT evtstore.fail(receipt, 'Busy', NULL, retryable => false) FROM evtstore.receive('pay');
SELECT status, error FROM evtstore.sagas WHERE id = :'id';

-- an idempotency key of the start
SELECT evtstore.start_saga('order', '{"amount": 1}', idempotency_key => 'k') = evtstore.start_saga('order', '{"amount": 2}', idempotency_key => 'k') AS same;

-- Parallel and Map
CREATE FUNCTION shop.times(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF $1 = '13' THEN RAISE EXCEPTION 'unlucky'; END IF;
    PERFORM shop.note('item', $1);
    RETURN to_jsonb(($1#>>'{}')::int * 10);
END $$;
CREATE FUNCTION shop.untimes(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM shop.note('untimes', $1->'output'); RETURN NULL; END $$;
SELECT evtstore.define_saga('wide', '{"StartAt": "Both", "States": {
    "Both": {"Type": "Parallel", "ResultPath": "$.both", "Next": "Each", "Branches": [
        {"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:pay", "Saga": {"Undo": "none"}, "End": true}}},
        {"StartAt": "B", "States": {"B": {"Type": "Pass", "Result": "b", "End": true}}}]},
    "Each": {"Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 2, "ResultPath": "$.each", "End": true,
        "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Task", "Resource": "sql:shop.times", "Saga": {"Undo": "sql:shop.untimes"}, "End": true}}}}}}');
TRUNCATE shop.log;
SELECT evtstore.start_saga('wide', '{"items": [1, 2, 3]}') AS id \gset
SELECT evtstore.reply(receipt, '"a"') FROM evtstore.receive('pay');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.start_saga('wide', '{"items": []}') AS id \gset
SELECT evtstore.reply(receipt, '"a"') FROM evtstore.receive('pay');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
TRUNCATE shop.log;
SELECT evtstore.start_saga('wide', '{"items": [1, 2, 3, 13, 4]}') AS id \gset
SELECT evtstore.reply(receipt, '"a"') FROM evtstore.receive('pay');
SELECT status, error, cause FROM evtstore.sagas WHERE id = :'id';
-- the last to end is undone first
SELECT what, doc FROM shop.log ORDER BY n;
SELECT evtstore.start_saga('wide', '{"items": 5}') AS id \gset
SELECT evtstore.reply(receipt, '"a"') FROM evtstore.receive('pay');
SELECT status, error, cause FROM evtstore.sagas WHERE id = :'id';

-- signals: early ones wait, and one that comes twice counts once
SELECT evtstore.define_saga('sign', '{"StartAt": "One", "States": {
    "One": {"Type": "Task", "Resource": "signal:approved", "ResultPath": "$.one", "Next": "Tell"},
    "Tell": {"Type": "Task", "Resource": "event:Approved", "Parameters": {"stream.$": "States.Format(''order-{}'', $.id)", "data.$": "$.one"},
             "ResultPath": "$.event", "Saga": {"Undo": "none"}, "Next": "Two"},
    "Two": {"Type": "Task", "Resource": "signal:approved", "ResultPath": "$.two", "End": true}}}');
SELECT evtstore.start_saga('sign', '{"id": 17}', 'k17') AS id \gset
SELECT evtstore.signal_saga_by_key('sign', 'k17', 'other', '0');
SELECT evtstore.signal_saga_by_key('sign', 'k17', 'approved', '{"by": "me"}', 'd1');
SELECT evtstore.signal_saga(:'id', 'approved', '{"by": "me"}', 'd1');
SELECT status, states, waiting_for FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.signal_saga(:'id', 'approved', '{"by": "you"}');
SELECT status, output->'one' AS one, output->'two' AS two FROM evtstore.sagas WHERE id = :'id';
SELECT stream, version, data FROM evtstore.events WHERE type = 'Approved';

-- stuck: behind the pivot nothing is undone
CREATE TABLE shop.broken (is_broken boolean);
INSERT INTO shop.broken VALUES (true);
CREATE FUNCTION shop.mayfail(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT is_broken FROM shop.broken) THEN RAISE EXCEPTION 'broken'; END IF;
    PERFORM shop.note('mended', $1);
    RETURN '"mended"';
END $$;
SELECT evtstore.define_saga('stuck', '{"StartAt": "Pivot", "States": {
    "Pivot": {"Type": "Task", "Resource": "sql:shop.ship", "Saga": {"Class": "pivot"}, "Next": "Then"},
    "Then": {"Type": "Task", "Resource": "sql:shop.mayfail", "Saga": {"Class": "retriable"}, "End": true}}}');
SELECT evtstore.start_saga('stuck') AS id \gset
SELECT status, reason, error, cause FROM evtstore.sagas WHERE id = :'id';
SELECT name, reason, fix = format('SELECT evtstore.retry_saga(%L)', :'id') AS fix FROM evtstore.stuck_sagas;
SELECT kind, name, key = :'id' AS id, since IS NOT NULL AS since, cause, fix = format('SELECT evtstore.retry_saga(%L)', :'id') AS fix FROM evtstore.stuck WHERE kind = 'saga';
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.retry_saga(:'id');
SELECT status, reason FROM evtstore.sagas WHERE id = :'id';
UPDATE shop.broken SET is_broken = false;
SELECT evtstore.retry_saga(:'id');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
SELECT seq, state, status, attempt FROM evtstore.saga_steps WHERE saga_id = :'id' ORDER BY seq;
UPDATE shop.broken SET is_broken = true;
SELECT evtstore.start_saga('stuck') AS id \gset
SELECT evtstore.skip_step(:'id', 'Pivot', '1');
SELECT evtstore.skip_step(:'id', 'Then', '"skipped"');
SELECT status, output FROM evtstore.sagas WHERE id = :'id';
-- an undo that fails
SELECT evtstore.define_saga('undo', '{"StartAt": "A", "States": {
    "A": {"Type": "Task", "Resource": "sql:shop.reserve", "Saga": {"Undo": "sql:shop.mayfail", "UndoRetry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 0}]}, "Next": "B"},
    "B": {"Type": "Fail", "Error": "Enough", "Cause": "it is"}}}');
SELECT evtstore.start_saga('undo') AS id \gset
SELECT status, reason, error, cause FROM evtstore.sagas WHERE id = :'id';
SELECT seq, state, kind, status, attempt, error FROM evtstore.saga_steps WHERE saga_id = :'id' ORDER BY seq;
SELECT evtstore.mark_undone(:'id', 2, 'I did it');
SELECT evtstore.mark_undone(:'id', 1, 'I did it');
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT data->>'verb' AS verb, data->>'note' AS note, data->>'status' AS status FROM evtstore.read_stream('saga-' || :'id') WHERE data ? 'verb';
SELECT evtstore.start_saga('undo') AS id \gset
UPDATE shop.broken SET is_broken = false;
SELECT evtstore.retry_saga(:'id');
SELECT status FROM evtstore.sagas WHERE id = :'id';
-- a pivot of which nobody knows is for a person
SELECT evtstore.define_saga('unknown', '{"StartAt": "A", "States": {
    "A": {"Type": "Task", "Resource": "sql:shop.reserve", "Saga": {"Undo": "sql:shop.release"}, "Next": "P"},
    "P": {"Type": "Task", "Resource": "queue:pay", "Saga": {"Class": "pivot"}, "End": true}}}');
SELECT evtstore.start_saga('unknown') AS id \gset
SELECT evtstore.resolve_step(:'id', 'P', 'perhaps');
SELECT evtstore.resolve_step(:'id', 'P', 'failed');
SELECT status, error, cause FROM evtstore.sagas WHERE id = :'id';

-- what goes in a circle
SELECT evtstore.define_saga('circle', '{"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"},
    "B": {"Type": "Choice", "Choices": [{"Variable": "$.x", "IsPresent": true, "Next": "C"}], "Default": "A"}, "C": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('circle') AS id \gset
SELECT status, error, cause FROM evtstore.sagas WHERE id = :'id';

-- a rule starts one for each event, in the append's transaction or by a worker
SELECT evtstore.create_rule('begin', '{"types": ["OrderPlaced"]}', 'saga:order', '{"body": {"amount": "${data.total}", "order": "${stream}"}}');
SELECT version FROM evtstore.append('shop-1', 'OrderPlaced', '{"total": 3}', id => '0190b1a2-0000-7000-8000-000000000001');
SELECT duplicate FROM evtstore.append('shop-1', 'OrderPlaced', '{"total": 3}', id => '0190b1a2-0000-7000-8000-000000000001');
SELECT status, input FROM evtstore.sagas WHERE input ? 'order';
SELECT evtstore.create_rule('computed', '{}', 'saga:${data.saga}');
SELECT evtstore.create_rule('nowhere', '{}', 'saga:nowhere');
SELECT evtstore.drop_saga('order');
SELECT evtstore.drop_rule('begin');

-- bad input
SELECT evtstore.start_saga('nowhere');
SELECT evtstore.start_saga('order', version => 0);
SELECT evtstore.start_saga('order', version => 7);
SELECT evtstore.start_saga('order', NULL);
SELECT evtstore.reply('x');
SELECT evtstore.reply('q1.1.1');
SELECT evtstore.send('pay', '{}') IS NOT NULL AS sent;
SELECT evtstore.reply(receipt) FROM evtstore.receive('pay');
SELECT evtstore.cancel_saga('00000000-0000-0000-0000-000000000000');
SELECT evtstore.signal_saga('00000000-0000-0000-0000-000000000000', 'x', '1');
SELECT evtstore.signal_saga_by_key('order', 'none', 'x', '1');
SELECT evtstore.retry_saga(:'id');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evtstore.start_saga('order', '{"amount": 1}') IS NOT NULL AS started;
SELECT evtstore.cancel_saga(:'id');
ROLLBACK;
-- its own queue is nobody's
SELECT evtstore.send('evtstore:sagas', '{}');
SELECT evtstore.receive('evtstore:sagas');
SELECT evtstore.purge_queue('evtstore:sagas');
SELECT evtstore.drop_queue('evtstore:sagas');
SELECT evtstore.create_queue('evtstore:mine');
