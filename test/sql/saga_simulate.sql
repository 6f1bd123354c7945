-- A saga simulated: answers by script, a clock that leaps, and nothing that stays.
\pset null '-'
CREATE SCHEMA shop;
CREATE TABLE shop.log (n serial, what text);
SELECT evtstore.create_queue('stock'), evtstore.create_queue('unstock'), evtstore.create_queue('pay'), evtstore.create_queue('ship');
CREATE FUNCTION shop.book(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.log (what) VALUES ('book ' || $1::text);
    -- what is outside of the saga, at the real time, and gone with the rest
    PERFORM evtstore.send('pay', '{"from": "a function"}'), evtstore.append('order-1', 'Booked', '{}'), evtstore.start_saga('other');
    NOTIFY booked;
    IF $1->>'order' = 'bad' THEN RAISE check_violation USING MESSAGE = 'it is bad'; END IF;
    RETURN jsonb_build_object('late', clock_timestamp() > now() + interval '1 hour', 'rows', (SELECT count(*) FROM shop.log));
END $$;
SELECT evtstore.define_saga('other', '{"StartAt": "S", "States": {"S": {"Type": "Wait", "Seconds": 0, "Next": "T"}, "T": {"Type": "Task", "Resource": "queue:ship", "End": true}}}');
SELECT evtstore.define_saga('order', '{"StartAt": "Reserve", "TimeoutSeconds": 1000000, "States": {
    "Reserve": {"Type": "Task", "Resource": "queue:stock", "TimeoutSeconds": 30, "ResultPath": "$.stock", "Saga": {"Undo": "queue:unstock", "UndoInput": {"id.$": "$.output.id"}}, "Next": "Cool"},
    "Cool": {"Type": "Wait", "Seconds": 3600, "Next": "Charge"},
    "Charge": {"Type": "Task", "Resource": "queue:pay", "TimeoutSeconds": 60, "ResultPath": "$.paid", "Saga": {"Undo": "none"},
        "Retry": [{"ErrorEquals": ["Busy", "States.Timeout"], "IntervalSeconds": 10, "BackoffRate": 2, "MaxAttempts": 3}], "Next": "Book"},
    "Book": {"Type": "Task", "Resource": "sql:shop.book", "ResultPath": "$.booked", "Saga": {"Undo": "none"}, "Next": "Approve"},
    "Approve": {"Type": "Task", "Resource": "signal:approved", "TimeoutSeconds": 86400, "ResultPath": "$.by", "Saga": {"Undo": "none"},
        "Catch": [{"ErrorEquals": ["States.Timeout"], "ResultPath": null, "Next": "Nobody"}], "Next": "Done"},
    "Nobody": {"Type": "Fail", "Error": "NotApproved"},
    "Done": {"Type": "Succeed"}}}');
-- the parts that fit on a line
CREATE FUNCTION short(r jsonb) RETURNS TABLE (status text, error text, cause text, duration text, undone text, waiting text, stopped text) LANGUAGE sql AS
    $$ SELECT r->>'status', r->>'error', r->>'cause', r->>'duration', r->>'undone', r->>'waiting', r->>'stopped' $$;
CREATE FUNCTION steps(r jsonb) RETURNS TABLE (seq int, state text, kind text, status text, attempt int, at float8, until float8, error text) LANGUAGE sql AS
    $$ SELECT s.seq, s.state, s.kind, s.status, s.attempt, s.at, s.until, s.error
       FROM jsonb_to_recordset(r->'steps') s (seq int, state text, kind text, status text, attempt int, at float8, until float8, error text) $$;
CREATE FUNCTION commands(r jsonb) RETURNS TABLE (at float8, state text, queue text, attempt int, undo boolean, key text, forward text, body jsonb) LANGUAGE sql AS
    $$ SELECT * FROM jsonb_to_recordset(r->'commands') c (at float8, state text, queue text, attempt int, undo boolean, key text, forward text, body jsonb) $$;

-- it goes through: what the script says nothing of succeeds with null; a function is really called
SELECT evtstore.simulate_saga('order', '{"order": "o"}', '{"Reserve": {"output": {"id": 7}}, "Approve": {"signal": {"who": "me"}, "after": 5}}') AS r \gset
SELECT jsonb_pretty(:'r'::jsonb - 'steps' - 'commands');
SELECT * FROM steps(:'r');
SELECT * FROM commands(:'r');
-- nothing of it stays, and nobody is told
SELECT (SELECT count(*) FROM shop.log) AS log, (SELECT count(*) FROM evtstore.sagas) AS sagas, (SELECT count(*) FROM evtstore.events) AS events,
    (SELECT count(*) FROM evtstore_internal.message) AS messages, (SELECT count(*) FROM evtstore_internal.saga_step) AS steps;
SELECT name, ready, delayed, in_flight FROM evtstore.queue_status ORDER BY name;
SELECT count(*) FROM evtstore.receive('pay');
-- the same again is the same again
SELECT evtstore.simulate_saga('order', '{"order": "o"}', '{"Reserve": {"output": {"id": 7}}, "Approve": {"signal": {"who": "me"}, "after": 5}}') = :'r' AS same;

-- retries, by a list of answers; what was done is undone
SELECT evtstore.simulate_saga('order', '{}', '{"Reserve": {"output": {"id": 7}, "after": 1.5},
    "Charge": ["timeout", {"error": "Busy", "after": 2}, {"error": "Busy", "retry_after": 100}, {"error": "Declined", "cause": "poor"}],
    "Reserve.undo": [{"error": "Oops"}, {"output": "released", "after": 3}]}') AS r \gset
SELECT * FROM short(:'r');
SELECT * FROM steps(:'r');
SELECT * FROM commands(:'r');
-- the last answer is for all that follow; not retryable is not tried again
SELECT * FROM short(evtstore.simulate_saga('order', '{}', '{"Charge": [{"error": "Busy"}]}'));
SELECT * FROM steps(evtstore.simulate_saga('order', '{}', '{"Charge": {"error": "Busy", "retryable": false}, "Reserve": {"output": {"id": 1}}}'));
-- its time is over: somebody has it, or nobody ever had; an undo that needs what nobody knows then is what simulations are for
SELECT c.forward, s.* FROM evtstore.simulate_saga('order', '{}', '{"Reserve": "timeout"}') r, steps(r) s LEFT JOIN commands(r) c ON c.undo AND s.kind = 'undo';
SELECT * FROM steps(evtstore.simulate_saga('order', '{}', '{"Reserve": "unseen"}'));
-- an answer that comes when it has been given up and undone: it is known to be done, and undone again
SELECT evtstore.define_saga('hold', '[{"name": "Hold", "do": "queue:stock", "undo": "queue:unstock"}]');
SELECT evtstore.simulate_saga('hold', '{}', '{"Hold": {"output": {"id": 3}, "after": 4000}}') AS r \gset
SELECT * FROM short(:'r');
SELECT * FROM steps(:'r');
SELECT at, state, undo, forward FROM commands(:'r');
-- nobody approves; nothing was reserved for real
SELECT * FROM short(evtstore.simulate_saga('order', '{}', '{"Reserve": {"output": {"id": 7}}, "Approve": "timeout"}'));
SELECT * FROM short(evtstore.simulate_saga('order', '{}', '{"Reserve": {"output": {"id": 7}}}'));
-- a signal that comes too late
SELECT * FROM short(evtstore.simulate_saga('order', '{}', '{"Reserve": {"output": {"id": 7}}, "Approve": {"signal": 1, "after": 90000}}'));
-- an error of a function, and one that stands for it; what is wrong in the definition is the saga's failure
SELECT * FROM short(evtstore.simulate_saga('order', '{"order": "bad"}', '{"Reserve": {"output": {"id": 7}}}'));
SELECT * FROM short(evtstore.simulate_saga('order', '{"order": "bad"}', '{"Reserve": {"output": {"id": 7}}, "Book": {"output": {"fine": true}}, "Approve": {"signal": 1}}'));
SELECT * FROM short(evtstore.simulate_saga('order', '{"order": "good"}', '{"Reserve": {"output": {"id": 7}}, "Book": {"error": "23514 check_violation", "cause": "by script"}}'));
SELECT evtstore.define_saga('wrong', '{"StartAt": "B", "States": {"B": {"Type": "Pass", "InputPath": "$.no.such", "End": true}}}');
SELECT * FROM short(evtstore.simulate_saga('wrong', '{}', '{}'));

-- stuck, and still waiting
SELECT evtstore.define_saga('stuck', '[{"name": "A", "do": "queue:pay", "pivot": true}, {"name": "B", "do": "signal:go"}, {"name": "C", "do": "queue:ship"}]');
SELECT * FROM short(evtstore.simulate_saga('stuck', '{}', '{}'));
SELECT r->>'status' AS status, r->>'reason' AS reason, r->>'error' AS error FROM evtstore.simulate_saga('stuck', '{}', '{"B": {"signal": 1}, "C": {"error": "Lost", "retryable": false}}') r;
SELECT r->>'status' AS status, r->>'reason' AS reason, r->>'error' AS error FROM evtstore.simulate_saga('stuck', '{}', '{"A": "timeout"}') r;
-- a late answer lets it go on
SELECT * FROM short(evtstore.simulate_saga('stuck', '{}', '{"A": {"output": 1, "after": 7200}, "B": {"signal": 1}}'));

-- branches and items, with a list of answers in the order in which they are asked; a loop that asks until it is content
SELECT evtstore.define_saga('both', '{"StartAt": "Both", "States": {
    "Both": {"Type": "Parallel", "Next": "Each", "ResultPath": "$.both", "Branches": [
        {"StartAt": "L", "States": {"L": {"Type": "Task", "Resource": "queue:pay", "Saga": {"Undo": "queue:unstock"}, "End": true}}},
        {"StartAt": "R", "States": {"R": {"Type": "Task", "Resource": "queue:ship", "Saga": {"Undo": "sql:shop.book"}, "End": true}}}]},
    "Each": {"Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 2, "ResultPath": "$.each", "Next": "Poll",
        "ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Task", "Resource": "queue:stock", "Saga": {"Undo": "queue:unstock"}, "End": true}}}},
    "Poll": {"Type": "Task", "Resource": "queue:pay", "ResultPath": "$.poll", "Saga": {"Undo": "none"}, "Next": "Ready"},
    "Ready": {"Type": "Choice", "Choices": [{"Variable": "$.poll", "StringEquals": "ready", "Next": "End"}], "Default": "Again"},
    "Again": {"Type": "Wait", "Seconds": 60, "Next": "Poll"},
    "End": {"Type": "Succeed", "OutputPath": "$.each"}}}');
SELECT r->>'status' AS status, r->'output' AS output, r->>'duration' AS duration FROM evtstore.simulate_saga('both', '{"items": [1, 2, 3]}',
    '{"L": {"output": "l", "after": 5}, "R": {"output": "r"}, "I": [{"output": "first", "after": 3}, {"output": "second", "after": 1}, {"output": "third", "after": 1}],
      "Poll": [{"output": "no"}, {"output": "no"}, {"output": "ready"}]}') r;
SELECT * FROM short(evtstore.simulate_saga('both', '{"items": [1, 2, 3]}', '{"L": {"output": "l"}, "R": {"output": "r"}, "R.undo": {"output": null}, "I": [{"output": 1}, {"output": 2}, {"error": "Broken"}]}'));
SELECT * FROM short(evtstore.simulate_saga('both', '{"items": []}', '{"Poll": {"error": "Lost"}}'));
-- without end
SELECT * FROM short(evtstore.simulate_saga('both', '{"items": []}', '{"Poll": {"output": "never"}}'));
SELECT evtstore.define_saga('long', '{"StartAt": "A", "States": {"A": {"Type": "Wait", "Seconds": 99999999, "Next": "A2"}, "A2": {"Type": "Choice", "Choices": [{"Variable": "$.never", "IsPresent": true, "Next": "End"}], "Default": "A"}, "End": {"Type": "Succeed"}}}');
SELECT * FROM short(evtstore.simulate_saga('long', '{}', '{}'));

-- ids are the same each time, wherever they stand; events and random delays, too
SELECT evtstore.define_saga('ids', '{"StartAt": "A", "States": {
    "A": {"Type": "Task", "Resource": "event:Told", "Parameters": {"stream.$": "States.Format(''told-{}'', $$.Execution.Id)", "data": {"a": 1}}, "ResultPath": "$.event", "Saga": {"Undo": "none"}, "Next": "B"},
    "B": {"Type": "Task", "Resource": "queue:pay", "Parameters": {"id.$": "$$.Execution.Id"}, "ResultPath": "$.b", "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 100, "JitterStrategy": "FULL"}],
        "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.simulate_saga('ids', '{}', '{"B": [{"error": "Busy"}, {"output": 1}]}') AS r \gset
SELECT (:'r'::jsonb)->'output'->'event'->'version' AS version, (:'r'::jsonb)->'commands'->0->'body' AS body, (:'r'::jsonb)->'duration' BETWEEN '0' AND '100' AS delayed;
SELECT r->'commands' = (:'r'::jsonb)->'commands' AS same_delay FROM evtstore.simulate_saga('ids', '{}', '{"B": [{"error": "Busy"}, {"output": 1}]}') r;
SELECT count(*) FROM evtstore.events;

-- within a transaction that goes on, in a block that catches, in a function of a simulated saga, and in one that holds a real one
BEGIN;
SELECT evtstore.start_saga('order', '{"order": "real"}', business_key => 'real') IS NOT NULL AS started;
SELECT * FROM short(evtstore.simulate_saga('order', '{}', '{"Reserve": "timeout"}'));
DO $$ BEGIN PERFORM evtstore.simulate_saga('order', '{}', '{"Nope": 1}'); EXCEPTION WHEN invalid_parameter_value THEN RAISE NOTICE 'caught: %', SQLERRM; END $$;
SELECT count(*) FROM evtstore.sagas;
COMMIT;
SELECT status, states, next_due < now() + interval '1 minute' AS soon FROM evtstore.sagas;
SELECT name, ready, delayed FROM evtstore.queue_status WHERE ready + delayed > 0 ORDER BY name;
CREATE FUNCTION shop.nested(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT evtstore.simulate_saga('stuck', '{}', '{"B": {"signal": 1}}')->'status' $$;
SELECT evtstore.define_saga('nest', '[{"name": "N", "do": "sql:shop.nested"}, {"name": "M", "do": "queue:ship"}]');
SELECT r->'status' AS status, r->'steps'->0->'output' AS inner, r->'commands'->0->'state' AS asked FROM evtstore.simulate_saga('nest', '{}', '{}') r;
-- real ones have their own time, and their commands go to queues
SELECT body, headers->>'state' AS state, evtstore.reply(receipt, '{"id": 1}') FROM evtstore.receive('stock');
SELECT states FROM evtstore.sagas WHERE status = 'running';

-- a script that does not fit
SELECT evtstore.simulate_saga('order', '{}', '{"Reserv": {"output": 1}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge.undo": {"output": 1}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Cool": {"output": 1}}');
SELECT evtstore.simulate_saga('long', '{}', '{"A": {"output": 1}}');
\set VERBOSITY terse
SELECT evtstore.simulate_saga('order', '{}', '[]');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": []}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": 1}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": "late"}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": {"outptu": 1}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": {"output": 1, "error": "E"}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": {"signal": 1}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": {"cause": "why"}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Charge": {"after": -1}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Approve": {"output": 1}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Approve": {"error": "E"}}');
SELECT evtstore.simulate_saga('order', '{}', '{"Book": "timeout"}');
SELECT evtstore.simulate_saga('order', '{}', '{"Book": {"output": 1, "after": 5}}');
SELECT evtstore.simulate_saga('nothing', '{}', '{}');
SELECT evtstore.simulate_saga('order', NULL, '{}');
CREATE ROLE regress_simulate_writer IN ROLE evtstore_writer;
SET ROLE regress_simulate_writer;
SELECT evtstore.simulate_saga('order', '{}', '{}');
RESET ROLE;
DROP ROLE regress_simulate_writer;
BEGIN READ ONLY;
SELECT evtstore.simulate_saga('order', '{}', '{}');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT status FROM short(evtstore.simulate_saga('order', '{}', '{"Reserve": {"output": {"id": 1}}, "Approve": {"signal": 1}}'));
COMMIT;

-- sagas within sagas: run as well, by a script of their own; or answered for
\set VERBOSITY default
SELECT evtstore.define_saga('inner', '{"StartAt": "In", "States": {
    "In": {"Type": "Task", "Resource": "queue:stock", "Saga": {"Undo": "queue:unstock"}, "Next": "Rest"},
    "Rest": {"Type": "Wait", "Seconds": 100, "Next": "Done"}, "Done": {"Type": "Succeed"}}}');
SELECT evtstore.define_saga('outer', '[{"name": "Child", "do": "saga:inner", "undo": "saga:inner"}, {"name": "Then", "do": "queue:ship", "undo": "none"}]');
SELECT evtstore.define_saga('outer', '{"StartAt": "Child", "States": {
    "Child": {"Type": "Task", "Resource": "saga:inner", "ResultPath": "$.child", "Next": "Then"},
    "Then": {"Type": "Task", "Resource": "queue:ship", "Saga": {"Undo": "none"}, "End": true}}}');
CREATE FUNCTION children(r jsonb) RETURNS TABLE (parent text, saga text, status text, duration float8, error text, undone jsonb) LANGUAGE sql AS
    $$ SELECT * FROM jsonb_to_recordset(r->'children') c (parent text, saga text, status text, duration float8, error text, undone jsonb) $$;
SELECT evtstore.simulate_saga('outer', '{"n": 1}', '{"Child": {"script": {"In": {"output": "got it", "after": 7}}}}') AS r \gset
SELECT * FROM short(:'r');
SELECT * FROM steps(:'r');
SELECT * FROM children(:'r');
SELECT at, state, queue, key, body FROM commands(:'r');
SELECT :'r'::jsonb->'output' AS output;
-- what it did is undone with the rest; one that fails
SELECT evtstore.simulate_saga('outer', '{"n": 1}', '{"Then": {"error": "Lost"}}') AS r \gset
SELECT * FROM short(:'r');
SELECT * FROM children(:'r');
SELECT at, state, queue, undo FROM commands(:'r');
SELECT evtstore.simulate_saga('outer', '{}', '{"Child": {"script": {"In": {"error": "None"}}}}') AS r \gset
SELECT * FROM short(:'r');
SELECT * FROM children(:'r');
-- nobody runs it
SELECT evtstore.simulate_saga('outer', '{}', '{"Child": {"output": 5}}') AS r \gset
SELECT :'r'::jsonb->'output' AS output, :'r'::jsonb->'children' AS children;
SELECT * FROM short(evtstore.simulate_saga('outer', '{}', '{"Child": {"error": "Bad"}}'));
SELECT count(*) FROM evtstore.sagas WHERE name IN ('inner', 'outer');
\set VERBOSITY terse
SELECT evtstore.simulate_saga('outer', '{}', '{"Child": {"script": {"Nope": 1}}}');
SELECT evtstore.simulate_saga('outer', '{}', '{"Child": {"script": {}, "output": 1}}');
SELECT evtstore.simulate_saga('outer', '{}', '{"Child": "timeout"}');
SELECT evtstore.simulate_saga('outer', '{}', '{"Child": {"output": 1, "after": 5}}');
SELECT evtstore.simulate_saga('outer', '{}', '{"Then": {"script": {}}}');
\set VERBOSITY default
-- a command of another branch is taken back as it would be: who has never been seen has done nothing
SELECT evtstore.define_saga('both', '{"StartAt": "Both", "States": {"Both": {"Type": "Parallel", "End": true, "Branches": [
    {"StartAt": "Here", "States": {"Here": {"Type": "Task", "Resource": "queue:stock", "Saga": {"Undo": "queue:unstock"}, "End": true}}},
    {"StartAt": "There", "States": {"There": {"Type": "Task", "Resource": "queue:pay", "Saga": {"Undo": "none"}, "End": true}}}]}}}');
SELECT state, kind, status FROM steps(evtstore.simulate_saga('both', '{}', '{"Here": "unseen", "There": {"error": "Lost", "retryable": false}}')) WHERE kind IN ('task', 'undo');
SELECT state, kind, status FROM steps(evtstore.simulate_saga('both', '{}', '{"Here": "timeout", "There": {"error": "Lost", "retryable": false}}')) WHERE kind IN ('task', 'undo');
-- who has a command and never answers shows no sign of life; who answers does until then
SELECT evtstore.define_saga('alive', '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:stock", "HeartbeatSeconds": 1, "TimeoutSeconds": 60000, "Saga": {"Undo": "none"}, "End": true}}}');
SELECT status, error, duration, stopped FROM short(evtstore.simulate_saga('alive', '{}', '{"A": "timeout"}'));
SELECT status, error, duration, stopped FROM short(evtstore.simulate_saga('alive', '{}', '{"A": {"after": 50000}}'));
SELECT status, error, duration, stopped FROM short(evtstore.simulate_saga('alive', '{}', '{"A": "unseen"}'));
