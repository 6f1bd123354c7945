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
