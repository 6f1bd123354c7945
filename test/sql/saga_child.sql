--
-- Sagas within sagas, scopes, and branches that are undone at once.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
\pset tuples_only on

CREATE SCHEMA shop;
CREATE TABLE shop.did (n int GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION shop.hold(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO shop.did (what) VALUES ('hold ' || coalesce(i->>'w', '?')); SELECT i $$;
CREATE FUNCTION shop.drop(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO shop.did (what) VALUES ('drop ' || coalesce(i->'input'->>'w', '?')); SELECT i $$;
CREATE FUNCTION shop.break(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken' USING ERRCODE = 'XX001'; END $$;
CREATE FUNCTION shop.did() RETURNS text LANGUAGE plpgsql AS $$
DECLARE r text;
BEGIN
	SELECT string_agg(what, ', ' ORDER BY n) INTO r FROM shop.did;
	DELETE FROM shop.did;
	RETURN r;
END $$;
SELECT evtstore.create_queue(name) FROM unnest('{a,b,undo}'::text[]) name;
CREATE FUNCTION take(queue text) RETURNS text LANGUAGE sql AS $$ SELECT receipt FROM evtstore.receive(queue, 'c', 1, '10min') $$;
-- a saga and its children, by the name and, of several, the order in which they began
CREATE FUNCTION sagas() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', name, status, states, reason, error) FROM evtstore.sagas ORDER BY name DESC, started_at, status $$;
CREATE FUNCTION steps(saga text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', t.seq, t.kind, t.state, t.status, t.error) FROM evtstore.saga_steps t JOIN evtstore.sagas s ON s.id = t.saga_id WHERE s.name = saga
	ORDER BY s.started_at, t.seq $$;
CREATE FUNCTION forget() RETURNS void LANGUAGE sql AS $$
	TRUNCATE evtstore_internal.saga, evtstore_internal.saga_step, evtstore_internal.saga_key, evtstore_internal.saga_answer;
	TRUNCATE shop.did RESTART IDENTITY $$;
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

SELECT evtstore.define_saga('inner', '{"StartAt": "In", "States": {
	"In": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "in"}, "Saga": {"Undo": "sql:shop.drop"}, "Next": "Wait"},
	"Wait": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo"}, "End": true}}}');
SELECT evtstore.define_saga('outer', '{"StartAt": "Out", "States": {
	"Out": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "out"}, "ResultPath": null, "Saga": {"Undo": "sql:shop.drop"}, "Next": "Child"},
	"Child": {"Type": "Task", "Resource": "saga:inner", "ResultPath": "$.child", "Next": "After"},
	"After": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true}}}');

\echo a child has what its parent gives it, and gives it what it made
SELECT evtstore.start_saga('outer', '{"order": 1}', business_key => 'k') AS id \gset
SELECT sagas();
SELECT waiting_for = 'saga ' || (SELECT id FROM evtstore.sagas WHERE parent_id = :'id') AS waits_for_it FROM evtstore.sagas WHERE id = :'id';
SELECT input FROM evtstore.sagas WHERE parent_id = :'id';
SELECT evtstore.reply(take('a'), '"made"');
SELECT sagas();
SELECT evtstore.reply(take('b'));
SELECT sagas();
SELECT steps('outer');
SELECT data->>'parent' = :'id' AS names_its_parent FROM evtstore.sagas s, evtstore.read_stream('saga-' || s.id) WHERE parent_id = :'id' AND type = 'SagaStarted';
SELECT forget();

\echo a failure behind it takes it back, in its place
SELECT evtstore.start_saga('outer') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.fail(take('b'), 'SoldOut', retryable => false);
SELECT sagas();
SELECT evtstore.reply(take('undo'));
SELECT sagas();
SELECT shop.did();
SELECT steps('outer');
SELECT steps('inner');
SELECT forget();

\echo one that fails has undone what it did, and its error is the error of the step
SELECT evtstore.start_saga('outer') AS id \gset
SELECT evtstore.fail(take('a'), 'NoRoom', 'full', retryable => false);
SELECT sagas();
SELECT steps('outer');
SELECT cause FROM evtstore.sagas WHERE id = :'id';
SELECT shop.did();
SELECT forget();

\echo all at once: a child that waits for nobody
SELECT evtstore.define_saga('quick', '{"StartAt": "In", "States": {
	"In": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w.$": "$.w"}, "Saga": {"Undo": "sql:shop.drop"}, "End": true}}}');
SELECT evtstore.define_saga('all', '{"StartAt": "Each", "States": {
	"Each": {"Type": "Map", "ItemProcessor": {"StartAt": "Quick", "States": {"Quick": {"Type": "Task", "Resource": "saga:quick", "End": true}}}, "Next": "Last"},
	"Last": {"Type": "Task", "Resource": "sql:shop.break", "End": true}}}');
SELECT evtstore.start_saga('all', '[{"w": 1}, {"w": 2}, {"w": 3}]') AS id \gset
SELECT sagas();
SELECT shop.did();
SELECT forget();

\echo Retry starts another one when the first is undone; Catch follows
SELECT evtstore.define_saga('again', '{"StartAt": "Child", "States": {
	"Child": {"Type": "Task", "Resource": "saga:inner", "Retry": [{"ErrorEquals": ["NoRoom"], "IntervalSeconds": 0.05, "MaxAttempts": 1}],
		"Catch": [{"ErrorEquals": ["NoRoom"], "Next": "Caught"}], "End": true},
	"Caught": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('again') AS id \gset
SELECT evtstore.fail(take('a'), 'NoRoom', retryable => false);
CALL until($$(SELECT count(*) = 2 FROM evtstore.sagas WHERE name = 'inner')$$);
SELECT sagas();
SELECT evtstore.fail(take('a'), 'NoRoom', retryable => false);
SELECT sagas();
SELECT steps('again');
SELECT shop.did();
SELECT forget();

\echo its time is over: it is undone before the step has failed
SELECT evtstore.define_saga('timed', '{"StartAt": "Child", "States": {
	"Child": {"Type": "Task", "Resource": "saga:inner", "TimeoutSeconds": 0.2, "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Caught"}], "End": true},
	"Caught": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('timed') AS id \gset
SELECT take('a') AS receipt \gset
CALL until($$(SELECT status <> 'running' FROM evtstore.sagas WHERE name = 'inner')$$);
SELECT sagas();
-- what somebody has may have happened
SELECT evtstore.reply(take('undo'));
SELECT sagas();
SELECT evtstore.reply(:'receipt');
SELECT sagas();
SELECT shop.did();
SELECT forget();

\echo cancelling the parent takes it back while it waits; without compensation it is left as it is
SELECT evtstore.start_saga('outer') AS id \gset
SELECT evtstore.cancel_saga(:'id');
SELECT sagas();
SELECT steps('outer');
SELECT shop.did();
SELECT forget();
SELECT evtstore.start_saga('outer') AS id \gset
SELECT evtstore.cancel_saga(:'id', false);
SELECT sagas();
SELECT shop.did();
SELECT forget();
-- cancelling the child is a failure of the step
SELECT evtstore.start_saga('outer') AS id \gset
SELECT evtstore.cancel_saga(id) FROM evtstore.sagas WHERE parent_id = :'id';
SELECT sagas();
SELECT cause FROM evtstore.sagas WHERE id = :'id';
SELECT forget();

\echo one in a branch is taken back when another branch fails
SELECT evtstore.define_saga('both', '{"StartAt": "Both", "States": {
	"Both": {"Type": "Parallel", "Branches": [
		{"StartAt": "Child", "States": {"Child": {"Type": "Task", "Resource": "saga:inner", "End": true}}},
		{"StartAt": "Other", "States": {"Other": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true}}}],
		"Catch": [{"ErrorEquals": ["Bad"], "Next": "Caught"}], "End": true},
	"Caught": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('both') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(take('b'), 'Bad', retryable => false);
SELECT sagas();
SELECT steps('both');
SELECT evtstore.reply(take('undo'));
SELECT sagas();
SELECT steps('both');
SELECT shop.did();
SELECT forget();

\echo a pivot within: it is one for the parent, and what has passed it is not taken back
SELECT evtstore.define_saga('paying', '{"StartAt": "Hold", "States": {
	"Hold": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "h"}, "Saga": {"Undo": "sql:shop.drop"}, "Next": "Pay"},
	"Pay": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "pivot"}, "Next": "Tell"},
	"Tell": {"Type": "Task", "Resource": "queue:b", "Saga": {"Class": "retriable"}, "End": true}}}');
\set VERBOSITY terse
SELECT evtstore.define_saga('bad', '{"StartAt": "Child", "States": {"Child": {"Type": "Task", "Resource": "saga:paying", "Next": "After"}, "After": {"Type": "Task", "Resource": "queue:b", "End": true}}}');
\set VERBOSITY default
SELECT evtstore.define_saga('payer', '{"StartAt": "Out", "States": {
	"Out": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "out"}, "Saga": {"Undo": "sql:shop.drop"}, "Next": "Child"},
	"Child": {"Type": "Task", "Resource": "saga:paying", "Saga": {"Class": "pivot"}, "End": true}}}');
SELECT evtstore.start_saga('payer') AS id \gset
SELECT take('a') AS receipt \gset
-- somebody has the payment: nobody knows
SELECT evtstore.cancel_saga(:'id');
SELECT sagas();
SELECT evtstore.reply(:'receipt');
SELECT sagas();
SELECT evtstore.reply(take('b'));
SELECT sagas();
SELECT shop.did();
SELECT forget();
SELECT evtstore.start_saga('payer') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.fail(:'receipt', 'Declined', retryable => false);
SELECT sagas();
SELECT shop.did();
SELECT forget();

\echo three of them: the last one to begin is the first to be undone, and each tells the one above
SELECT evtstore.define_saga('top', '{"StartAt": "Top", "States": {
	"Top": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "top"}, "Saga": {"Undo": "sql:shop.drop"}, "Next": "Child"},
	"Child": {"Type": "Task", "Resource": "saga:outer", "End": true}}}');
SELECT evtstore.start_saga('top') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.fail(take('b'), 'SoldOut', retryable => false);
SELECT evtstore.reply(take('undo'));
SELECT sagas();
SELECT shop.did();
SELECT forget();

\echo an undo that is a saga
SELECT evtstore.define_saga('undoer', '{"StartAt": "U", "States": {"U": {"Type": "Task", "Resource": "queue:undo", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.define_saga('undone', '{"StartAt": "Do", "States": {
	"Do": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "do"}, "Saga": {"Undo": "saga:undoer"}, "Next": "Break"},
	"Break": {"Type": "Task", "Resource": "sql:shop.break", "End": true}}}');
SELECT evtstore.start_saga('undone') AS id \gset
SELECT sagas();
SELECT body FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id WHERE d.name = 'undo';
SELECT evtstore.reply(take('undo'));
SELECT sagas();
SELECT steps('undone');
SELECT forget();

\echo a saga that starts itself for ever, and one that is gone
SELECT evtstore.define_saga('self', '{"StartAt": "Self", "States": {"Self": {"Type": "Task", "Resource": "saga:self", "End": true}}}');
SELECT evtstore.start_saga('self') AS id \gset
SELECT count(*), min(status), min(error) FROM evtstore.sagas;
SELECT cause FROM evtstore.sagas WHERE id = :'id';
SELECT forget();
SELECT evtstore.define_saga('gone', '[{"name": "Gone", "do": "queue:a", "undo": "none"}]');
SELECT evtstore.define_saga('misses', '[{"name": "Child", "do": "saga:gone"}]');
SELECT evtstore.drop_saga('gone');
SELECT evtstore.start_saga('misses') AS id \gset
SELECT status, error, cause FROM evtstore.sagas;
SELECT forget();

\echo scopes: undone before Catch goes on, while another branch goes on too
SELECT evtstore.define_saga('scope', '{"StartAt": "Before", "States": {
	"Before": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "before"}, "ResultPath": null, "Saga": {"Undo": "sql:shop.drop"}, "Next": "Both"},
	"Both": {"Type": "Parallel", "Branches": [
		{"StartAt": "Scope", "States": {
			"Scope": {"Type": "Parallel", "Saga": {"Scope": true}, "Branches": [
				{"StartAt": "A1", "States": {
					"A1": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "a1"}, "Saga": {"Undo": "sql:shop.drop"}, "Next": "A2"},
					"A2": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo"}, "Next": "A3"},
					"A3": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none"}, "End": true}}}],
				"Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}], "End": true},
			"Caught": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "caught"}, "Saga": {"Undo": "sql:shop.drop"}, "End": true}}},
		{"StartAt": "Other", "States": {"Other": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true}}}],
		"End": true}}}');
SELECT evtstore.start_saga('scope') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.fail(take('a'), 'Bad', retryable => false);
SELECT status, states FROM evtstore.sagas;
SELECT steps('scope');
SELECT evtstore.reply(take('undo'));
SELECT status, states FROM evtstore.sagas;
SELECT shop.did();
SELECT evtstore.reply(take('b'));
SELECT status FROM evtstore.sagas;
SELECT steps('scope');
SELECT forget();

\echo an undo of a scope that fails for good: the saga is stuck, and its other branch goes on
SELECT evtstore.start_saga('scope') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.fail(take('a'), 'Bad', retryable => false);
SELECT evtstore.fail(take('undo'), 'Cannot', retryable => false);
SELECT status, reason, states FROM evtstore.sagas;
SELECT evtstore.reply(take('b'));
SELECT status, reason, states FROM evtstore.sagas;
SELECT evtstore.retry_saga(:'id');
SELECT status, reason, states FROM evtstore.sagas;
SELECT evtstore.reply(take('undo'));
SELECT status, reason FROM evtstore.sagas;
SELECT shop.did();
SELECT forget();
-- by a person
SELECT evtstore.start_saga('scope') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.fail(take('a'), 'Bad', retryable => false);
SELECT evtstore.fail(take('undo'), 'Cannot', retryable => false);
SELECT evtstore.mark_undone(:'id', seq, 'by hand') FROM evtstore.saga_steps WHERE state = 'A2' AND kind = 'task';
SELECT status, reason, states FROM evtstore.sagas;
-- and the saga is cancelled
SELECT evtstore.cancel_saga(:'id');
SELECT status FROM evtstore.sagas;
SELECT shop.did();
SELECT forget();

\echo a late success in a scope that is undone is undone, even where the saga has succeeded
SELECT evtstore.define_saga('late', '{"StartAt": "Scope", "States": {
	"Scope": {"Type": "Parallel", "Saga": {"Scope": true}, "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo", "UndoUnknown": false}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true}}}],
		"Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": null, "Next": "Caught"}], "End": true},
	"Caught": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('late', '"in"') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(take('b'), 'Bad', retryable => false);
SELECT status, output FROM evtstore.sagas;
SELECT evtstore.reply(:'receipt');
SELECT status, output, ended_at IS NULL AS open FROM evtstore.sagas;
SELECT evtstore.reply(take('undo'));
SELECT status, output, ended_at IS NULL AS open FROM evtstore.sagas;
SELECT steps('late');
SELECT type FROM evtstore.read_stream('saga-' || :'id');
SELECT forget();

\echo branches are undone at once, each in reverse, and no more of them than were done at once
SELECT evtstore.define_saga('wide', '{"StartAt": "Each", "States": {
	"Each": {"Type": "Map", "MaxConcurrency": 2, "ItemProcessor": {"StartAt": "One", "States": {
		"One": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w.$": "$"}, "Saga": {"Undo": "queue:undo", "UndoInput": {"one.$": "$.input.w"}}, "Next": "Two"},
		"Two": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w.$": "$.w"}, "Saga": {"Undo": "queue:undo", "UndoInput": {"two.$": "$.input.w"}}, "End": true}}},
		"Next": "Break"},
	"Break": {"Type": "Task", "Resource": "sql:shop.break", "End": true}}}');
CREATE FUNCTION undos() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT m.body::text FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id WHERE d.name = 'undo' ORDER BY m.id $$;
SELECT evtstore.start_saga('wide', '["x", "y", "z"]') AS id \gset
SELECT shop.did();
SELECT undos();
SELECT evtstore.reply(take('undo'));
SELECT undos();
SELECT take('undo') AS y, take('undo') AS z \gset
SELECT evtstore.reply(:'z');
SELECT undos();
-- one fails for good: the others come through
SELECT evtstore.fail(:'y', 'Cannot', retryable => false);
SELECT status, reason FROM evtstore.sagas;
SELECT evtstore.reply(take('undo'));
SELECT evtstore.reply(take('undo'));
SELECT undos();
SELECT status, reason FROM evtstore.sagas;
SELECT evtstore.retry_saga(:'id');
SELECT undos();
SELECT evtstore.reply(take('undo'));
SELECT undos();
SELECT evtstore.reply(take('undo'));
SELECT status, reason FROM evtstore.sagas;
SELECT steps('wide');
SELECT forget();

\echo behind the pivot: two branches are stuck, each where it failed, and what is done is not done again
SELECT evtstore.define_saga('behind', '{"StartAt": "Pay", "States": {
	"Pay": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "pay"}, "ResultPath": null, "Saga": {"Class": "pivot"}, "Next": "Both"},
	"Both": {"Type": "Parallel", "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "retriable"}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Class": "retriable"}, "End": true}}},
		{"StartAt": "C", "States": {"C": {"Type": "Task", "Resource": "queue:undo", "Saga": {"Class": "retriable"}, "Next": "C2"},
			"C2": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "c2"}, "Saga": {"Class": "retriable"}, "End": true}}}],
		"End": true}}}');
SELECT evtstore.start_saga('behind') AS id \gset
SELECT evtstore.fail(take('a'), 'Bad', retryable => false);
SELECT take('b') AS b \gset
SELECT evtstore.fail(:'b', 'Bad', retryable => false);
SELECT status, reason, states FROM evtstore.sagas;
SELECT evtstore.reply(take('undo'));
SELECT status, reason, states FROM evtstore.sagas;
-- one by its late success, the other by a person
SELECT evtstore.reply(:'b');
SELECT status, reason FROM evtstore.sagas;
SELECT evtstore.retry_saga(:'id');
SELECT status, reason, states FROM evtstore.sagas;
SELECT evtstore.reply(take('a'));
SELECT status FROM evtstore.sagas;
SELECT steps('behind');
SELECT forget();

\echo one whose effect becomes known when its scope is undone, and whose undo fails for good, is not forgotten
SELECT evtstore.start_saga('late', '"in"') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(take('b'), 'Bad', retryable => false);
SELECT evtstore.reply(:'receipt');
SELECT evtstore.fail(take('undo'), 'Cannot', retryable => false);
SELECT status, reason FROM evtstore.sagas;
SELECT evtstore.retry_saga(:'id');
SELECT status, reason, states FROM evtstore.sagas;
SELECT evtstore.fail(take('undo'), 'Cannot', retryable => false);
SELECT evtstore.mark_undone(:'id', seq, 'by hand') FROM evtstore.saga_steps WHERE state = 'A' AND kind = 'task';
SELECT status, reason FROM evtstore.sagas;
SELECT steps('late');
SELECT forget();
-- and not where the saga was stuck behind its pivot meanwhile
SELECT evtstore.define_saga('later', '{"StartAt": "Scope", "States": {
	"Scope": {"Type": "Parallel", "Saga": {"Scope": true}, "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo", "UndoUnknown": false}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true}}}],
		"Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": null, "Next": "Pay"}], "Next": "Pay"},
	"Pay": {"Type": "Task", "Resource": "sql:shop.hold", "ResultPath": null, "Saga": {"Class": "pivot"}, "Next": "Ship"},
	"Ship": {"Type": "Task", "Resource": "queue:b", "Saga": {"Class": "retriable"}, "End": true}}}');
SELECT evtstore.start_saga('later') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(take('b'), 'Bad', retryable => false);
SELECT evtstore.fail(take('b'), 'Broken', retryable => false);
SELECT evtstore.reply(:'receipt');
SELECT take('undo') AS undo \gset
SELECT evtstore.fail(:'undo', 'Cannot', retryable => false);
SELECT status, reason FROM evtstore.sagas;
SELECT evtstore.retry_saga(:'id');
SELECT evtstore.reply(take('b'));
SELECT status, reason FROM evtstore.sagas;
SELECT evtstore.reply(:'undo');
SELECT status, reason FROM evtstore.sagas;
SELECT steps('later');
SELECT forget();
-- a late undo leaves it stuck where it is
SELECT evtstore.start_saga('later') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(take('b'), 'Bad', retryable => false);
SELECT evtstore.fail(take('b'), 'Broken', retryable => false);
SELECT evtstore.reply(:'receipt');
SELECT take('undo') AS undo \gset
SELECT evtstore.fail(:'undo', 'Cannot', retryable => false);
SELECT evtstore.reply(:'undo');
SELECT status, reason FROM evtstore.sagas;
SELECT evtstore.retry_saga(:'id');
SELECT evtstore.reply(take('b'));
SELECT status FROM evtstore.sagas;
SELECT forget();

\echo the time of a saga that had succeeded is not over while it undoes something late
SELECT evtstore.define_saga('in time', '{"StartAt": "Scope", "TimeoutSeconds": 60, "States": {
	"Scope": {"Type": "Parallel", "Saga": {"Scope": true}, "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "queue:undo", "UndoUnknown": false}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Undo": "none"}, "End": true}}}],
		"Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": null, "Next": "Caught"}], "End": true},
	"Caught": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('in time') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.fail(take('b'), 'Bad', retryable => false);
SELECT evtstore.reply(:'receipt');
SELECT status, timer_due > started_at + '10min' AS is_that_of_the_undo FROM evtstore_internal.saga;
SELECT evtstore.reply(take('undo'));
SELECT status FROM evtstore.sagas;
SELECT forget();

\echo cancelled without compensation in the middle of one: nothing is being undone any more
SELECT evtstore.start_saga('wide', '["x", "y"]') AS id \gset
SELECT evtstore.reply(take('undo'));
SELECT evtstore.cancel_saga(:'id', false);
SELECT steps('wide');
SELECT forget();

\echo a child with an Undo of its own that is given up has ended before that is asked for
SELECT evtstore.define_saga('own', '{"StartAt": "Out", "States": {
	"Out": {"Type": "Task", "Resource": "sql:shop.hold", "Parameters": {"w": "out"}, "ResultPath": null, "Saga": {"Undo": "sql:shop.drop"}, "Next": "Child"},
	"Child": {"Type": "Task", "Resource": "saga:inner", "Parameters": {"w": "child"}, "Saga": {"Undo": "sql:shop.drop"}, "End": true}}}');
SELECT evtstore.start_saga('own') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.cancel_saga(:'id');
SELECT sagas();
SELECT evtstore.why_saga(:'id') ~ format('State "Child" .* waits .*%s', id) AS tells_what_it_waits_for FROM evtstore.sagas WHERE parent_id = :'id';
SELECT shop.did();
SELECT evtstore.reply(take('undo'));
SELECT sagas();
SELECT shop.did();
SELECT steps('own');
SELECT forget();
-- one that goes on behind its pivot: what it did is undone by that
SELECT evtstore.define_saga('own', '{"StartAt": "Both", "States": {"Both": {"Type": "Parallel", "Branches": [
	{"StartAt": "Child", "States": {"Child": {"Type": "Task", "Resource": "saga:paying", "Parameters": {"w": "child"}, "Saga": {"Undo": "sql:shop.drop"}, "End": true}}},
	{"StartAt": "First", "States": {"First": {"Type": "Task", "Resource": "queue:undo", "Saga": {"Undo": "none"}, "End": true}}}], "End": true}}}');
SELECT evtstore.start_saga('own') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.cancel_saga(:'id');
SELECT sagas();
SELECT shop.did();
SELECT evtstore.reply(take('b'));
SELECT sagas();
SELECT shop.did();
SELECT forget();

-- one whose success is under way when it is given up is undone once
CREATE FUNCTION shop.answer(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(evtstore.reply(public.take('a'))) $$;
SELECT evtstore.define_saga('race', '{"StartAt": "Both", "States": {"Both": {"Type": "Parallel", "Branches": [
	{"StartAt": "Child", "States": {"Child": {"Type": "Task", "Resource": "saga:inner", "Parameters": {"w": "child"}, "Saga": {"Undo": "sql:shop.drop"}, "End": true}}},
	{"StartAt": "Go", "States": {
		"Go": {"Type": "Task", "Resource": "signal:go", "Saga": {"Undo": "none"}, "Next": "Answer"},
		"Answer": {"Type": "Task", "Resource": "sql:shop.answer", "Saga": {"Undo": "none"}, "Next": "Break"},
		"Break": {"Type": "Task", "Resource": "sql:shop.break", "Saga": {"Undo": "none"}, "End": true}}}], "End": true}}}');
SELECT evtstore.start_saga('race') AS id \gset
SELECT evtstore.signal_saga(:'id', 'go', '{}');
CALL until($$(SELECT ended_at IS NOT NULL FROM evtstore.sagas WHERE name = 'race')$$);
SELECT sagas();
SELECT shop.did();
SELECT forget();

\echo a pivot that is a child, and of which nobody knows: another one beside it would do it twice
SELECT evtstore.start_saga('payer') AS id \gset
SELECT take('a') AS receipt \gset
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.retry_saga(:'id');
SELECT evtstore.resolve_step(:'id', 'Child', 'failed');
SELECT evtstore.why_saga(:'id') ~ format('It is saga %s', id) AS tells_it, evtstore.why_saga(:'id') ~ 'retry_saga' AS advises_it FROM evtstore.sagas WHERE parent_id = :'id';
SELECT evtstore.retry_saga(id) FROM evtstore.sagas WHERE parent_id = :'id';
SELECT evtstore.reply(take('a'));
SELECT evtstore.reply(take('b'));
SELECT sagas();
SELECT forget();

\echo a child stays while whoever may take it back is open
SELECT evtstore.define_saga('kept', '[{"name": "Kept", "do": "sql:shop.hold", "undo": "sql:shop.drop"}]');
SELECT evtstore.define_saga('keeper', '[{"name": "Child", "do": "saga:kept"}]');
SELECT evtstore.define_saga('above', '[{"name": "Keeper", "do": "saga:keeper"}, {"name": "Wait", "do": "queue:a", "undo": "none"}]');
SELECT evtstore.start_saga('above') AS id \gset
SELECT evtstore.drop_saga('kept');
SELECT evtstore.fail(take('a'), 'Bad', retryable => false);
SELECT sagas();
SELECT evtstore.drop_saga('kept');
SELECT forget();

\echo a lock that a saga has, and a child of its child wants, all in one transition
SELECT evtstore.define_saga('leaf', '{"StartAt": "L", "States": {"L": {"Type": "Task", "Resource": "queue:a", "Saga": {"Undo": "none", "Lock": "$.x"}, "End": true}}}');
SELECT evtstore.define_saga('middle', '{"StartAt": "M", "States": {"M": {"Type": "Task", "Resource": "saga:leaf", "End": true}}}');
SELECT evtstore.define_saga('locks', '{"StartAt": "T", "States": {
	"T": {"Type": "Task", "Resource": "sql:shop.hold", "Saga": {"Undo": "sql:shop.drop", "Lock": "$.x"}, "ResultPath": null, "Next": "C"},
	"C": {"Type": "Task", "Resource": "saga:middle", "End": true}}}');
SELECT evtstore.start_saga('locks', '{"x": "x"}') AS id \gset
SELECT sagas();
SELECT forget();

\echo a lock is given to a branch while another one is stuck behind the pivot
SELECT evtstore.define_saga('holder', '{"StartAt": "H", "States": {"H": {"Type": "Task", "Resource": "queue:undo", "Saga": {"Class": "retriable", "Lock": "$.x"}, "End": true}}}');
SELECT evtstore.define_saga('asks', '{"StartAt": "Pay", "States": {
	"Pay": {"Type": "Task", "Resource": "sql:shop.hold", "ResultPath": null, "Saga": {"Class": "pivot"}, "Next": "Both"},
	"Both": {"Type": "Parallel", "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:a", "Saga": {"Class": "retriable"}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "queue:b", "Saga": {"Class": "retriable", "Lock": "$.x"}, "End": true}}}], "End": true}}}');
SELECT evtstore.start_saga('holder', '{"x": "x"}') AS holder \gset
SELECT evtstore.start_saga('asks', '{"x": "x"}') AS id \gset
SELECT evtstore.fail(take('a'), 'Bad', retryable => false);
SELECT evtstore.reply(take('undo'));
CALL until($$(SELECT EXISTS (SELECT FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id WHERE d.name = 'b'))$$);
SELECT sagas();
SELECT evtstore.reply(take('b'));
SELECT evtstore.retry_saga(:'id');
SELECT evtstore.reply(take('a'));
SELECT sagas();
SELECT forget();

\echo one that somebody cancels without compensation while it is taken back has undone nothing: its parent is stuck, until somebody says that it is undone
SELECT evtstore.start_saga('outer') AS id \gset
SELECT evtstore.reply(take('a'));
SELECT evtstore.fail(take('b'), 'SoldOut', retryable => false);
SELECT evtstore.fail(take('undo'), 'Cannot', retryable => false);
SELECT evtstore.cancel_saga(id, false) FROM evtstore.sagas WHERE parent_id = :'id';
SELECT sagas();
SELECT error FROM evtstore.saga_steps WHERE saga_id = :'id' AND kind = 'undo';
SELECT evtstore.mark_undone(:'id', seq, 'by hand') FROM evtstore.saga_steps WHERE saga_id = :'id' AND kind = 'child';
SELECT sagas();
SELECT shop.did();
SELECT forget();

\echo sagas that are deep within each other: ends, and taking back, do not take more stack the deeper they are
SELECT evtstore.define_saga('deep', '{"StartAt": "Wait", "States": {
	"Wait": {"Type": "Task", "Resource": "queue:a", "ResultPath": null, "Saga": {"Undo": "none"}, "Next": "Again"},
	"Again": {"Type": "Task", "Resource": "saga:deep", "End": true}}}');
SELECT evtstore.start_saga('deep') AS id \gset
DO $$ BEGIN FOR i IN 1..400 LOOP PERFORM evtstore.reply(public.take('a')); COMMIT; END LOOP; END $$;
SELECT status, count(*) FROM evtstore.sagas GROUP BY status;
SET max_stack_depth = '100kB';
BEGIN;
SELECT evtstore.cancel_saga(:'id');
ROLLBACK;
SELECT evtstore.fail(take('a'), 'Bad', retryable => false);
RESET max_stack_depth;
CALL until($$(SELECT count(*) = 0 FROM evtstore.sagas WHERE status = 'running')$$);
SELECT status, count(*) FROM evtstore.sagas GROUP BY status;
