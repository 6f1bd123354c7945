--
-- Sagas that are stuck go on where they stopped, with the key that the step had: after a late success by themselves, else when somebody says
-- so.  And sagas that have ended, and are answered.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

SELECT evtstore.create_queue('work');
CREATE TABLE command (n serial, receipt text, what text);
CREATE FUNCTION hold(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"held"'::jsonb $$;
CREATE FUNCTION drop_it(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"dropped"'::jsonb $$;

-- the commands that are there; the key as the number that it ends in
CREATE FUNCTION take() RETURNS SETOF text LANGUAGE sql AS $$
	INSERT INTO command (receipt, what)
		SELECT receipt, format('%s attempt %s key %s', headers->>'state', headers->>'attempt', split_part(headers->>'idempotency_key', '/', 2))
		FROM evtstore.receive('work', max_count => 10, lease => '1h') RETURNING what $$;
CREATE VIEW steps AS
	SELECT s.name, s.status, s.reason, string_agg(format('%s %s %s', t.kind, t.state, t.status), ', ' ORDER BY t.seq) AS steps
	FROM evtstore.sagas s JOIN evtstore.saga_steps t ON t.saga_id = s.id GROUP BY s.id, s.name, s.status, s.reason, s.started_at ORDER BY s.started_at;

-- behind the pivot: a late success of what failed lets it go on, and does nothing again
SELECT evtstore.define_saga('behind', '{"StartAt": "Charge", "States": {
	"Charge": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Class": "pivot"}, "Next": "Ship"},
	"Ship": {"Type": "Task", "Resource": "queue:work", "Saga": {"Class": "retriable"}, "Next": "Tell"},
	"Tell": {"Type": "Task", "Resource": "queue:work", "Saga": {"Class": "retriable"}, "End": true}}}');
SELECT evtstore.start_saga('behind') AS id \gset
SELECT take();
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command WHERE n = 1;
SELECT * FROM steps;
SELECT evtstore.reply(receipt) FROM command WHERE n = 1;
SELECT * FROM steps;
SELECT take();
-- the first attempt's, while somebody has the second one; that one's is a duplicate then
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command WHERE n = 2;
SELECT evtstore.retry_saga(:'id');
SELECT take();
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command WHERE n = 3;
SELECT evtstore.reply(receipt) FROM command WHERE n = 2;
SELECT evtstore.reply(receipt) FROM command WHERE n = 3;
SELECT * FROM steps;

-- what came of the pivot is of no use: it is not the pivot that is done again
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step;
SELECT evtstore.define_saga('useless', '{"StartAt": "Charge", "States": {
	"Charge": {"Type": "Task", "Resource": "sql:public.hold", "ResultSelector": {"no.$": "$.such.field"}, "Saga": {"Class": "pivot"}, "End": true}}}');
SELECT evtstore.start_saga('useless') AS id \gset
SELECT evtstore.retry_saga(:'id');
SELECT * FROM steps;

-- a pivot that somebody has: a cancellation finds it unknown, twice; then it is sent again
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step;
SELECT evtstore.define_saga('unknown', '{"StartAt": "Hold", "States": {
	"Hold": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "sql:public.drop_it"}, "Next": "Charge"},
	"Charge": {"Type": "Task", "Resource": "queue:work", "Saga": {"Class": "pivot"}, "End": true}}}');
SELECT evtstore.start_saga('unknown', business_key => 'b') AS id \gset
SELECT take();
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.cancel_saga(:'id');
SELECT * FROM steps;
SELECT evtstore.retry_saga(:'id');
SELECT take();
SELECT evtstore.reply(receipt) FROM command WHERE n = 2;
SELECT evtstore.reply(receipt) FROM command WHERE n = 1;
SELECT * FROM steps;

-- one that has ended, and undoes what was done late, ends again; the business key may be another one's by then
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step;
SELECT evtstore.define_saga('late', '{"StartAt": "Pay", "States": {
	"Pay": {"Type": "Task", "Resource": "queue:work", "Saga": {"Undo": "queue:work"}, "End": true}}}');
SELECT evtstore.start_saga('late', business_key => 'b') AS id \gset
SELECT take();
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command WHERE n = 1;
SELECT evtstore.start_saga('late', business_key => 'b', start_at => 'infinity') IS NOT NULL AS another;
SELECT evtstore.reply(receipt) FROM command WHERE n = 1;
SELECT take();
SELECT evtstore.reply(receipt) FROM command WHERE n = 2;
SELECT * FROM steps;
SELECT count(*) FROM evtstore_internal.saga_key WHERE key = 'b' AND saga_id <> :'id';

--
-- Pivots of which nobody knows, and what people do about them
--
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.message;
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
-- who has the command of a saga
CREATE FUNCTION receipt(saga uuid, attempt int DEFAULT 1) RETURNS text LANGUAGE sql AS $$
	SELECT c.receipt FROM command c JOIN evtstore.saga_steps t ON t.message_id = split_part(c.receipt, '.', 2)::bigint WHERE t.saga_id = saga AND t.attempt = receipt.attempt $$;
CREATE FUNCTION define(name text, more text, on_fail text) RETURNS int LANGUAGE sql AS $$
	SELECT evtstore.define_saga(name, format('{"StartAt": "Hold", "Saga": {"OnFail": "%s"}, "States": {
		"Hold": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "sql:public.drop_it"}, "Next": "Charge"},
		"Charge": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 3, "Saga": {"Class": "pivot"}%s, "Next": "Ship"},
		"Ship": {"Type": "Task", "Resource": "queue:work", "Saga": {"Class": "retriable"}, "End": true}}}', on_fail, more)::jsonb) $$;
\set catch ', "Catch": [{"ErrorEquals": ["Broken", "States.TaskFailed"], "Next": "Ship"}]'
SELECT define('plain', '', 'compensate'), define('stops', '', 'stop'), define('caught', :'catch', 'compensate'), define('caught, stops', :'catch', 'stop');

-- where its time is over: a late failure is what one in time would have been, and so is what a person says.  What is to stop is not undone, and what is caught goes on
SELECT evtstore.start_saga('plain') AS plain, evtstore.start_saga('stops') AS stops, evtstore.start_saga('caught') AS caught, evtstore.start_saga('caught, stops') AS caught_stops \gset
SELECT evtstore.start_saga('stops') AS said, evtstore.start_saga('caught') AS said_caught, evtstore.start_saga('stops') AS cancelled, evtstore.start_saga('caught') AS cancelled_caught \gset
SELECT count(*) FROM take();
CALL until('(SELECT count(*) = 8 FROM evtstore.stuck_sagas WHERE reason = ''pivot_unknown'')');
SELECT evtstore.fail(receipt(id), 'Broken') FROM unnest(ARRAY[:'plain', :'stops', :'caught', :'caught_stops']::uuid[]) id;
SELECT evtstore.resolve_step(id, 'Charge', 'failed') FROM unnest(ARRAY[:'said', :'said_caught']::uuid[]) id;
-- a person wanted it undone, whatever the definition says; one answers, the other one is resolved
SELECT evtstore.cancel_saga(id) FROM unnest(ARRAY[:'cancelled', :'cancelled_caught']::uuid[]) id;
SELECT evtstore.fail(receipt(:'cancelled'), 'Broken');
SELECT evtstore.resolve_step(:'cancelled_caught', 'Charge', 'failed');
SELECT * FROM steps;

-- two attempts of which nobody knows: neither was done, when a person says so
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.message;
SELECT evtstore.start_saga('caught') AS id \gset
SELECT take();
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.retry_saga(:'id');
SELECT take();
SELECT evtstore.cancel_saga(:'id');
\set VERBOSITY terse
-- it is not to be undone, as long as nobody knows
SELECT evtstore.mark_undone(:'id', 1, 'by hand');
SELECT evtstore.resolve_step(:'id', 'Charge', 'failed');
SELECT * FROM steps;

-- who skips a pivot, or signals one before its turn, has passed it: what fails behind it undoes nothing, and cannot be said to be undone
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.message;
SELECT evtstore.define_saga('asked', '{"StartAt": "Hold", "States": {
	"Hold": {"Type": "Task", "Resource": "queue:work", "ResultPath": null, "Saga": {"Undo": "sql:public.drop_it"}, "Next": "Allowed"},
	"Allowed": {"Type": "Task", "Resource": "signal:yes", "Saga": {"Class": "pivot"}, "Next": "Ship"},
	"Ship": {"Type": "Task", "Resource": "queue:work", "Saga": {"Class": "retriable"}, "Next": "Tell"},
	"Tell": {"Type": "Task", "Resource": "signal:told", "Saga": {"Class": "retriable"}, "Next": "Wait"},
	"Wait": {"Type": "Wait", "Seconds": 0.1, "OutputPath": "$.no.such", "End": true}}}');
SELECT evtstore.start_saga('plain') AS skipped, evtstore.start_saga('asked') AS asked \gset
SELECT count(*) FROM take();
SELECT evtstore.skip_step(:'skipped', 'Charge', '1'), evtstore.reply(receipt(:'skipped')), evtstore.signal_saga(:'asked', 'yes', '1'), evtstore.reply(receipt(:'asked'));
TRUNCATE command RESTART IDENTITY;
SELECT count(*) FROM take();
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command ORDER BY n;
SELECT * FROM steps;
SELECT evtstore.mark_undone(:'asked', 1, 'by hand');

-- what it is stuck at may be a signal, or a Wait whose output is of no use: tried again they are that
SELECT evtstore.skip_step(:'asked', 'Ship', '1');
SELECT evtstore.resolve_step(:'asked', 'Tell', 'failed');
SELECT evtstore.retry_saga(:'asked');
SELECT evtstore.signal_saga(:'asked', 'told', '1');
CALL until(format('(SELECT status = ''stuck'' FROM evtstore.sagas WHERE id = %L)', :'asked'));
SELECT evtstore.retry_saga(:'asked');
SELECT evtstore.skip_step(:'asked', 'Wait', '1');
SELECT * FROM steps WHERE name = 'asked';

-- an entry has one undo, with one key, whichever of its attempts is known to be done
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.message;
SELECT evtstore.define_saga('twice', '{"StartAt": "Pay", "States": {
	"Pay": {"Type": "Task", "Resource": "queue:work", "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 1, "IntervalSeconds": 0.01}], "End": true,
		"Saga": {"Undo": "queue:work", "UndoRetry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 0}]}}}}');
SELECT evtstore.start_saga('twice') AS id \gset
SELECT take();
SELECT evtstore.fail(receipt, 'Busy') FROM command WHERE n = 1;
CALL until('EXISTS (SELECT FROM take())');
SELECT evtstore.cancel_saga(:'id');
SELECT take();
SELECT evtstore.reply(receipt) FROM command WHERE n = 1;
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command WHERE n = 3;
SELECT evtstore.retry_saga(:'id');
SELECT take();
SELECT evtstore.reply(receipt) FROM command WHERE n = 4;
SELECT * FROM steps;

-- beside where it is stuck it goes on, with signals too
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.message;
SELECT evtstore.define_saga('beside', '{"StartAt": "Charge", "States": {
	"Charge": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Class": "pivot"}, "Next": "Both"},
	"Both": {"Type": "Parallel", "End": true, "Branches": [
		{"StartAt": "Hear", "States": {"Hear": {"Type": "Task", "Resource": "signal:go", "Saga": {"Class": "retriable"}, "End": true}}},
		{"StartAt": "Ship", "States": {"Ship": {"Type": "Task", "Resource": "queue:work", "Saga": {"Class": "retriable"}, "End": true}}}]}}}');
SELECT evtstore.start_saga('beside') AS id \gset
SELECT take();
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command;
SELECT evtstore.signal_saga(:'id', 'go', '1');
SELECT * FROM steps;

-- two branches that are undone: what comes before them waits for both
TRUNCATE command RESTART IDENTITY;
TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.message;
SELECT evtstore.define_saga('both', '{"StartAt": "Hold", "States": {
	"Hold": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Undo": "sql:public.drop_it"}, "Next": "Both"},
	"Both": {"Type": "Parallel", "Next": "Lost", "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Undo": "queue:work"}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Undo": "queue:work"}, "End": true}}}]},
	"Lost": {"Type": "Fail", "Error": "Lost"}}}');
SELECT evtstore.start_saga('both') AS id \gset
SELECT count(*) FROM take();
SELECT evtstore.reply(receipt) FROM command WHERE n = 1;
SELECT * FROM steps;
SELECT evtstore.reply(receipt) FROM command WHERE n = 2;
SELECT * FROM steps;
