-- Semantic locks of sagas: who works on something has it until he has ended, others wait in the order in which they came, and who would wait for himself
-- is told. Races are in specs/saga_lock.spec.
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset null '-'

SELECT evtstore.create_queue('work');
CREATE FUNCTION hold(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"held"'::jsonb $$;
CREATE TABLE command (n serial, receipt text, key text, state text);
-- the commands that are there
CREATE FUNCTION take() RETURNS text LANGUAGE sql AS $$
	WITH new AS (INSERT INTO command (receipt, key, state)
		SELECT receipt, business_key, CASE WHEN (headers->>'undo')::boolean THEN 'undo ' ELSE '' END || (headers->>'state')
		FROM evtstore.receive('work', max_count => 100, lease => '1h') JOIN evtstore.sagas ON id = (headers->>'saga_id')::uuid RETURNING key, state)
	SELECT string_agg(key || ' ' || state, ', ' ORDER BY key, state) FROM new $$;
CREATE FUNCTION answer(whose text, which text) RETURNS text LANGUAGE sql AS $$ SELECT evtstore.reply(receipt, '1') FROM command WHERE key = whose AND state = which ORDER BY n DESC LIMIT 1 $$;
-- with a deadline
CREATE PROCEDURE until(condition text) LANGUAGE plpgsql AS $$
DECLARE
	deadline timestamptz := clock_timestamp() + '60s';
	holds boolean;
BEGIN
	LOOP
		EXECUTE 'SELECT ' || condition INTO holds;
		EXIT WHEN holds;
		IF clock_timestamp() > deadline THEN RAISE 'waited in vain: %', condition; END IF;
		PERFORM pg_sleep(0.02);  -- sleep: between two looks
		COMMIT;
	END LOOP;
END $$;
-- takes until that was taken
CREATE PROCEDURE take_until(what text) LANGUAGE plpgsql AS $$
BEGIN
	CALL until(format('take() = %L', what));
END $$;
CREATE VIEW locks AS SELECT resource, string_agg(format('%s%s', business_key, CASE WHEN waiting THEN ' waits in ' || state ELSE '' END), ', ' ORDER BY behind DESC, state) AS who
	FROM evtstore.saga_locks GROUP BY resource ORDER BY resource;
CREATE FUNCTION steps(key text) RETURNS text LANGUAGE sql AS $$
	SELECT s.status || ': ' || string_agg(concat_ws(' ', CASE WHEN t.undoes > 0 THEN 'undo' END, t.state, t.status, t.error), ', ' ORDER BY t.seq)
	FROM evtstore.sagas s JOIN evtstore.saga_steps t ON t.saga_id = s.id WHERE business_key = key GROUP BY s.id, s.status $$;
CREATE FUNCTION cancel(key text, compensate boolean) RETURNS void LANGUAGE sql AS $$ SELECT evtstore.cancel_saga(id, compensate) FROM evtstore.sagas WHERE business_key = key $$;

SELECT evtstore.define_saga('sell', '{"StartAt": "Reserve", "States": {
	"Reserve": {"Type": "Task", "Resource": "queue:work", "Parameters": {"n": 1}, "ResultPath": null, "Saga": {"Undo": "queue:work", "Lock": "$.sku"}, "Next": "Pay"},
	"Pay": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none"}, "End": true}}}') > 0,
	evtstore.define_saga('count', '{"StartAt": "Count", "States": {
	"Count": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Undo": "none", "Lock": "$.sku"}, "Next": "Rest"},
	"Rest": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none"}, "End": true}}}') > 0;

-- the first has it until it has ended; the others wait in order, whatever definition they are of; a number is its text
SELECT count(evtstore.start_saga('sell', '{"sku": 7}', business_key => key)) FROM unnest('{a,b}'::text[]) key;
SELECT count(evtstore.start_saga('count', '{"sku": "7"}', business_key => 'c'));
SELECT count(evtstore.start_saga('sell', '{"sku": "8"}', business_key => 'other'));
SELECT * FROM locks;
SELECT business_key, states, waiting_for ~ '^lock 7$' AS waits FROM evtstore.sagas ORDER BY business_key;
SELECT take();
SELECT answer('a', 'Reserve'), answer('other', 'Reserve');
SELECT take();
SELECT * FROM locks;
SELECT answer('a', 'Pay'), answer('other', 'Pay');
-- b has it in the same transaction, and is told
SELECT * FROM locks;
CALL take_until('b Reserve');
SELECT steps('a'), steps('b'), steps('c');
-- while it is undone it is still b's
SELECT answer('b', 'Reserve');
SELECT take();
SELECT evtstore.fail(receipt, 'Broke', retryable => false) FROM command WHERE key = 'b' AND state = 'Pay';
SELECT take();
SELECT * FROM locks;
SELECT answer('b', 'undo Reserve');
CALL take_until('c Rest');
SELECT steps('b'), steps('c');
SELECT answer('c', 'Rest');
SELECT * FROM locks;
-- what was waited for is no news of its own
SELECT type FROM evtstore.events WHERE stream = (SELECT 'saga-' || id FROM evtstore.sagas WHERE business_key = 'c') ORDER BY version;

-- another tenant's is another
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SET evtstore.tenant = 'one';
SELECT count(evtstore.start_saga('count', '{"sku": 7}', business_key => 'one'));
SET evtstore.tenant = 'two';
SELECT count(evtstore.start_saga('count', '{"sku": 7}', business_key => 'two'));
SELECT * FROM locks;
RESET evtstore.tenant;
SELECT resource, tenant, waiting FROM evtstore.saga_locks ORDER BY tenant;
SELECT cancel(key, false) FROM unnest('{one,two}'::text[]) key;
SELECT count(*) FROM evtstore.saga_locks;

-- what somebody has he has, in each of his steps; where several wait all are told at once
SELECT evtstore.define_saga('twice', '{"StartAt": "First", "States": {
	"First": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "none", "Lock": "$.sku"}, "Next": "Both"},
	"Both": {"Type": "Parallel", "End": true, "Branches": [
		{"StartAt": "L", "States": {"L": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none", "Lock": "$.sku"}, "End": true}}},
		{"StartAt": "R", "States": {"R": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none", "Lock": "$.sku"}, "End": true}}}]}}}') > 0,
	evtstore.define_saga('both', '{"StartAt": "Both2", "States": {
	"Both2": {"Type": "Parallel", "End": true, "Branches": [
		{"StartAt": "L2", "States": {"L2": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none", "Lock": "$.sku"}, "End": true}}},
		{"StartAt": "R2", "States": {"R2": {"Type": "Task", "Resource": "signal:go", "Saga": {"Undo": "none", "Lock": "$.sku"}, "Next": "R3"},
			"R3": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Undo": "none", "Lock": "States.Format(''{}'', ''x'')"}, "End": true}}}]}}}') > 0;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT count(evtstore.start_saga('twice', '{"sku": "x"}', business_key => 'twice')), count(evtstore.start_saga('both', '{"sku": "x"}', business_key => 'both'));
SELECT * FROM locks;
SELECT take();
-- a signal that comes before is kept
SELECT evtstore.signal_saga(id, 'go', '"went"') FROM evtstore.sagas WHERE business_key = 'both';
SELECT steps('both');
SELECT answer('twice', 'L'), answer('twice', 'R');
CALL take_until('both L2');
SELECT * FROM locks;
CALL until($$(steps('both') LIKE '%R3 done')$$);
SELECT answer('both', 'L2');
SELECT steps('both');
SELECT count(*) FROM evtstore.saga_locks;

-- who waits and is cancelled waits no more; who has it and is cancelled gives it on
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT count(evtstore.start_saga('sell', '{"sku": 7}', business_key => key)) FROM unnest('{a,b,c}'::text[]) key;
SELECT cancel('b', true);
SELECT * FROM locks;
SELECT cancel('a', false);
SELECT * FROM locks;
CALL until($$(take() = 'c Reserve')$$);
SELECT cancel('c', false);
SELECT count(*) FROM evtstore.saga_locks;
SELECT steps('a'), steps('b'), steps('c');

-- the time of a step counts while it waits; a retry comes last again
SELECT evtstore.define_saga('brief', '{"StartAt": "Wait", "States": {
	"Wait": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 0.2, "Saga": {"Undo": "none", "Lock": "$.sku"}, "End": true,
		"Catch": [{"ErrorEquals": ["States.Timeout"], "ResultPath": "$.why", "Next": "Late"}]},
	"Late": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none"}, "End": true}}}') > 0;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT count(evtstore.start_saga('sell', '{"sku": 7}', business_key => 'a')), count(evtstore.start_saga('brief', '{"sku": 7}', business_key => 'brief'));
CALL until($$(steps('brief') LIKE '%Late waiting')$$);
SELECT steps('brief');
SELECT cause FROM evtstore.saga_steps WHERE state = 'Wait';
SELECT * FROM locks;
SELECT cancel(key, false) FROM unnest('{a,brief}'::text[]) key;

-- two that would wait for each other: who closes the circle fails, and others go on when he has ended
SELECT evtstore.define_saga('pair', '{"StartAt": "One", "States": {
	"One": {"Type": "Task", "Resource": "queue:work", "ResultPath": null, "Saga": {"Undo": "none", "Lock": "$.one"}, "Next": "Two"},
	"Two": {"Type": "Task", "Resource": "queue:work", "ResultPath": null, "Saga": {"Undo": "none", "Lock": "$.two"}, "End": true,
		"Retry": [{"ErrorEquals": ["evtstore.LockDeadlock"], "IntervalSeconds": 0.1, "MaxAttempts": 1}]}}}') > 0;
SELECT count(*) FROM (SELECT take()) t;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT count(evtstore.start_saga('pair', v.input::jsonb, business_key => key)) FROM (VALUES ('a', '{"one": "x", "two": "y"}'), ('b', '{"one": "y", "two": "z"}'), ('c', '{"one": "z", "two": "x"}')) v (key, input);
SELECT take();
SELECT answer('a', 'One'), answer('b', 'One');
SELECT * FROM locks;
SELECT answer('c', 'One');
CALL until($$(SELECT ended_at IS NOT NULL FROM evtstore.sagas WHERE business_key = 'c')$$);
SELECT steps('c');
SELECT error, cause FROM evtstore.sagas WHERE business_key = 'c';
CALL take_until('b Two');
SELECT * FROM locks;
SELECT answer('b', 'Two');
CALL take_until('a Two');
SELECT answer('a', 'Two');
SELECT count(*) FROM evtstore.saga_locks;

-- who is in front of the queue counts, too: b would wait for c, which waits behind b
SELECT evtstore.define_saga('fork', '{"StartAt": "Own", "States": {
	"Own": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "none", "Lock": "$.own"}, "Next": "Fork"},
	"Fork": {"Type": "Parallel", "End": true, "Branches": [
		{"StartAt": "Now", "States": {"Now": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none", "Lock": "$.now"}, "End": true}}},
		{"StartAt": "Nap", "States": {"Nap": {"Type": "Task", "Resource": "signal:up", "ResultPath": null, "Next": "Then"},
			"Then": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none", "Lock": "$.then"}, "End": true}}}]}}}') > 0;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT count(evtstore.start_saga('count', '{"sku": "r"}', business_key => 'a')),
	count(evtstore.start_saga('fork', '{"own": "s", "now": "r", "then": "t"}', business_key => 'b')),
	count(evtstore.start_saga('fork', '{"own": "t", "now": "r", "then": "u"}', business_key => 'c'));
SELECT * FROM locks;
SELECT evtstore.signal_saga(id, 'up', '1') FROM evtstore.sagas WHERE business_key = 'b';
SELECT steps('b');
SELECT * FROM locks;
SELECT cancel(key, false) FROM unnest('{a,c}'::text[]) key;
SELECT count(*) FROM evtstore.saga_locks;

-- a child has what it has for itself: its parent waits for it, and so does who waits for the parent
SELECT evtstore.define_saga('child', '{"StartAt": "C", "States": {"C": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "none", "Lock": "$.sku"}, "End": true}}}') > 0,
	evtstore.define_saga('parent', '{"StartAt": "P", "States": {
	"P": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "none", "Lock": "$.own"}, "Next": "Q"},
	"Q": {"Type": "Task", "Resource": "saga:child", "Saga": {"Undo": "none"}, "End": true}}}') > 0;
SELECT count(*) FROM (SELECT take()) t;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT count(evtstore.start_saga('parent', '{"own": "p", "sku": "p"}', business_key => 'self'));
SELECT steps('self');
SELECT count(evtstore.start_saga('pair', '{"one": "x", "two": "p"}', business_key => 'a')), count(evtstore.start_saga('parent', '{"own": "p", "sku": "x"}', business_key => 'p'));
SELECT resource, count(*), count(*) FILTER (WHERE waiting) AS waiting FROM evtstore.saga_locks GROUP BY resource ORDER BY resource;
SELECT take();
SELECT answer('a', 'One');
CALL until($$(SELECT ended_at IS NOT NULL FROM evtstore.sagas WHERE business_key = 'a')$$);
SELECT steps('a');
CALL until($$(SELECT count(*) = 1 FROM evtstore.receive('work', lease => '1h'))$$);
SELECT cancel('p', false);
CALL until($$(SELECT count(*) = 0 FROM evtstore.saga_locks)$$);

-- it is given to a saga that is stuck, in another branch, behind its pivot
SELECT count(*) FROM (SELECT take()) t;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT evtstore.define_saga('beside', '{"StartAt": "Pivot", "States": {
	"Pivot": {"Type": "Task", "Resource": "queue:work", "ResultPath": null, "Saga": {"Class": "pivot"}, "Next": "Both"},
	"Both": {"Type": "Parallel", "End": true, "Branches": [
		{"StartAt": "Ask", "States": {"Ask": {"Type": "Task", "Resource": "signal:go", "Saga": {"Class": "retriable", "Lock": "$.sku"}, "End": true}}},
		{"StartAt": "Ship", "States": {"Ship": {"Type": "Task", "Resource": "queue:work", "Saga": {"Class": "retriable"}, "End": true}}}]}}}') > 0;
SELECT count(evtstore.start_saga(definition, '{"sku": 1}', business_key => key)) FROM (VALUES ('count', 'a'), ('beside', 'b')) v (definition, key);
SELECT take();
SELECT answer('b', 'Pivot');
SELECT take();
SELECT evtstore.fail(receipt, 'Broke', retryable => false) FROM command WHERE key = 'b' AND state = 'Ship';
SELECT status, reason, waiting_for FROM evtstore.sagas WHERE business_key = 'b';
SELECT answer('a', 'Rest');
CALL until($$(SELECT count(*) = 0 FROM evtstore_internal.message WHERE body->>'lock' IS NOT NULL)$$);
SELECT evtstore.signal_saga(id, 'go', '1') FROM evtstore.sagas WHERE business_key = 'b';
SELECT steps('b');
SELECT cancel('b', false);
SELECT count(*) FROM evtstore.saga_locks;

-- what is no name of anything
SELECT count(*) FROM (SELECT take()) t;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
SELECT count(evtstore.start_saga('sell', v.input, business_key => n::text)) FROM (VALUES (1, '{}'::jsonb), (2, '{"sku": null}'), (3, '{"sku": ["x"]}'), (4, '{"sku": ""}'), (5, jsonb_build_object('sku', repeat('x', 256)))) v (n, input);
SELECT business_key, status, error, left(cause, 60) FROM evtstore.sagas ORDER BY business_key;
SELECT count(evtstore.start_saga('count', jsonb_build_object('sku', repeat('x', 255)), business_key => 'long'));
SELECT steps('long');
SELECT cancel('long', false);

-- who does not see what others have just done leaves it to a worker
SELECT count(*) FROM (SELECT take()) t;
TRUNCATE command, evtstore_internal.saga, evtstore_internal.saga_step;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(evtstore.start_saga('count', '{"sku": 1}', business_key => 'rr'));
SELECT steps('rr');
COMMIT;
CALL take_until('rr Rest');
SELECT * FROM locks;
SELECT cancel('rr', false);
SELECT count(*) FROM evtstore.saga_locks;
