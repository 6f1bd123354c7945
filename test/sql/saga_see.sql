--
-- What people see of sagas: why one is where it is, a drawing of it, how it was, figures. Each statement that why_saga names is run here.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET timezone = 'UTC';

SELECT evtstore.create_queue('pay', '{"retry": {"max_attempts": 0, "initial": "1h", "multiplier": 1, "jitter": 0}}'), evtstore.create_queue('stock'), evtstore.create_queue('release');
CREATE FUNCTION hold(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"held"'::jsonb $$;
CREATE FUNCTION unhold(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT 'null'::jsonb $$;
CREATE FUNCTION refuse(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;

-- ids, times and numbers of messages are different each time
CREATE FUNCTION masked(why text) RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace(regexp_replace(why, '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}', 'ID', 'g'),
		'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00', 'T', 'g'), 'message \d+', 'message N', 'g') $$;
-- the statements in it, in order
CREATE FUNCTION fix(why text, n int) RETURNS text LANGUAGE sql AS $$
	SELECT (array_agg(trim(line) ORDER BY place))[n] FROM regexp_split_to_table(why, E'\n') WITH ORDINALITY AS l(line, place) WHERE line ~ '^ +SELECT .*;$' $$;
CREATE FUNCTION do_fix(id uuid, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	statement text := public.fix(evtstore.why_saga(id), n);
BEGIN
	EXECUTE statement;
	RETURN public.masked(statement);
END $$;
CREATE VIEW state AS
	SELECT s.name, s.status, s.reason, string_agg(format('%s %s %s', t.kind, t.state, t.status), ', ' ORDER BY t.seq) AS steps
	FROM evtstore.sagas s JOIN evtstore.saga_steps t ON t.saga_id = s.id GROUP BY s.id, s.name, s.status, s.reason, s.started_at ORDER BY s.started_at, s.id;

-- how each instance was after each statement, by the views
CREATE TABLE was (id uuid, at timestamptz, steps jsonb);
CREATE FUNCTION now_of(id uuid) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_array(v.seq, v.kind, v.state, v.status, v.attempt, v.undoes, v.error, v.cause, v.reason) ORDER BY v.seq) FROM (
		SELECT 0 AS seq, 'saga' AS kind, NULL AS state, s.status, NULL AS attempt, NULL AS undoes, s.error, s.cause, s.reason FROM evtstore.sagas s WHERE s.id = $1
		UNION ALL SELECT t.seq, t.kind, t.state, t.status, t.attempt, t.undoes, t.error, t.cause, NULL FROM evtstore.saga_steps t WHERE t.saga_id = $1) v $$;
CREATE FUNCTION then_of(id uuid, at timestamptz) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_build_array(v.seq, v.kind, v.state, v.status, v.attempt, v.undoes, v.error, v.cause, v.reason) ORDER BY v.seq) FROM evtstore.saga_at($1, $2) v $$;
CREATE PROCEDURE note() LANGUAGE sql AS $$ INSERT INTO public.was SELECT s.id, (SELECT clock_timestamp()), public.now_of(s.id) FROM evtstore.sagas s $$;

SELECT evtstore.define_saga('order', '{"StartAt": "Reserve", "TimeoutSeconds": 864000, "States": {
	"Reserve": {"Type": "Task", "Resource": "queue:stock", "ResultPath": "$.stock", "TimeoutSeconds": 7200, "Next": "Big",
		"Retry": [{"ErrorEquals": ["Busy"], "IntervalSeconds": 3600, "MaxAttempts": 4}, {"ErrorEquals": ["States.Timeout"], "MaxAttempts": 1}], "Saga": {"Undo": "queue:release"}},
	"Big": {"Type": "Choice", "Choices": [{"Variable": "$.amount", "NumericGreaterThan": 1000, "Next": "Approved"}], "Default": "Hold"},
	"Approved": {"Type": "Task", "Resource": "signal:approved", "TimeoutSeconds": 3600, "ResultPath": null, "Next": "Hold", "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Refused"}]},
	"Refused": {"Type": "Fail", "Error": "Refused", "Cause": "nobody approved"},
	"Hold": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "sql:public.unhold"}, "Next": "Charge"},
	"Charge": {"Type": "Task", "Resource": "queue:pay", "ResultPath": null, "Saga": {"Class": "pivot"}, "Next": "Sleep"},
	"Sleep": {"Type": "Wait", "Seconds": 86400, "Next": "Ship"},
	"Ship": {"Type": "Task", "Resource": "queue:stock", "Saga": {"Class": "retriable"}, "Next": "Sent"},
	"Sent": {"Type": "Succeed"}}}');

-- a command: in the queue behind others, with somebody, in backoff, tried again
SELECT evtstore.send('stock', '1') > 0, evtstore.send('stock', '2') > 0;
SELECT evtstore.start_saga('order', '{"amount": 5000}', business_key => 'o-1') AS id \gset
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT count(evtstore.ack(receipt)) FROM evtstore.receive('stock', max_count => 2);
SELECT receipt FROM evtstore.receive('stock', lease => '1h') \gset
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.fail(:'receipt', 'Busy', 'a bad day', retry_after => '0s');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
SET evtstore.clock_offset = '90min';
SELECT evtstore.pause('stock');
SELECT masked(evtstore.why_saga(:'id'));
SELECT do_fix(:'id', 1);
SELECT evtstore.fail(receipt, 'States.Timeout') FROM evtstore.receive('stock');
SET evtstore.clock_offset = '100min';
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.reply(receipt, '{"id": 1}') FROM evtstore.receive('stock');
CALL note();
-- a signal
SELECT masked(evtstore.why_saga(:'id'));
SELECT do_fix(:'id', 1);
CALL note();
-- the pivot
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.nack(receipt, 'the till is jammed') FROM evtstore.receive('pay');
SELECT masked(evtstore.why_saga(:'id'));
SET evtstore.clock_offset = '3h';
SELECT receipt FROM evtstore.receive('pay') \gset
SELECT evtstore.cancel_saga(:'id');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
SELECT do_fix(:'id', 3);
CALL note();
SELECT * FROM state;
SELECT receipt FROM evtstore.receive('pay') \gset
SELECT evtstore.cancel_saga(:'id');
SELECT do_fix(:'id', 1);
CALL note();
-- a time
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.skip_step(:'id', 'Sleep', '{"skipped": true}');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.fail(receipt, 'Lost', 'no van', retryable => false) FROM evtstore.receive('stock');
CALL note();
-- behind the pivot
SELECT masked(evtstore.why_saga(:'id'));
SELECT id = :'id', name, reason FROM evtstore.stuck_sagas;
SELECT kind, name, key = :'id', cause FROM evtstore.stuck;
SELECT do_fix(:'id', 3);
SELECT evtstore.fail(receipt, 'Lost', 'no van', retryable => false) FROM evtstore.receive('stock');
SELECT do_fix(:'id', 1);
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
RESET evtstore.clock_offset;

-- the pivot was not done: what was done before is undone, and one of the undos fails
SELECT evtstore.define_saga('back', '{"StartAt": "Hold", "States": {
	"Hold": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "sql:public.unhold"}, "Next": "Keep"},
	"Keep": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "sql:public.refuse", "UndoRetry": [{"ErrorEquals": ["Never"]}]}, "Next": "Take"},
	"Take": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "queue:release"}, "Next": "Charge"},
	"Charge": {"Type": "Task", "Resource": "queue:pay", "Saga": {"Class": "pivot"}, "End": true}}}');
SELECT evtstore.start_saga('back', '{}') AS id \gset
SELECT count(*) FROM evtstore.receive('pay');
SELECT evtstore.cancel_saga(:'id');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT do_fix(:'id', 2);
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.reply(receipt) FROM evtstore.receive('release');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
SELECT do_fix(:'id', 2);
SELECT do_fix(:'id', 1);
CALL note();
SELECT masked(evtstore.why_saga(:'id'));

-- it is given up
SELECT evtstore.start_saga('back', '{}') AS id \gset
SELECT evtstore.fail(receipt, 'Declined', retryable => false) FROM evtstore.receive('pay');
SELECT evtstore.reply(receipt) FROM evtstore.receive('release');
CALL note();
SELECT do_fix(:'id', 3);
CALL note();
SELECT masked(evtstore.why_saga(:'id'));

-- Parallel and Map: what waits is in them; a branch that fails takes the rest with it
SELECT evtstore.define_saga('wide', '{"StartAt": "Both", "States": {
	"Both": {"Type": "Parallel", "ResultPath": null, "Next": "Each", "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": null, "Next": "Each"}], "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:pay", "TimeoutSeconds": 60, "Saga": {"Undo": "none"}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "signal:b", "Saga": {"Undo": "none"}, "End": true}}}]},
	"Each": {"Type": "Map", "ItemsPath": "$.items", "MaxConcurrency": 2, "ToleratedFailureCount": 1, "Next": "Total",
		"ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Task", "Resource": "queue:stock", "Saga": {"Undo": "sql:public.unhold"}, "End": true}}}},
	"Total": {"Type": "Pass", "Next": "Over"}, "Over": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('wide', '{"items": [1, 2, 3, 4]}') AS id \gset
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM evtstore.receive('pay');
CALL note();
SELECT evtstore.reply(receipt, '1') FROM evtstore.receive('stock');
CALL note();
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM evtstore.receive('stock');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
SELECT evtstore.reply(receipt, '1') FROM evtstore.receive('stock', max_count => 2);
CALL note();
SELECT evtstore.explain_saga(:'id');
-- more than can be told
SELECT evtstore.define_saga('many', '{"StartAt": "Each", "States": {"Each": {"Type": "Map", "End": true,
	"ItemProcessor": {"StartAt": "I", "States": {"I": {"Type": "Task", "Resource": "signal:i", "Saga": {"Undo": "none"}, "End": true}}}}}}');
SELECT evtstore.start_saga('many', '[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]') AS id \gset
SELECT masked(evtstore.why_saga(:'id'));
-- a saga within one, in a scope; then what it did cannot be undone
SELECT evtstore.define_saga('inner', '{"StartAt": "Keep", "States": {
	"Keep": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Undo": "sql:public.refuse", "UndoRetry": [{"ErrorEquals": ["Never"]}]}, "Next": "Pay"},
	"Pay": {"Type": "Task", "Resource": "queue:pay", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.define_saga('outer', '{"StartAt": "Scope", "States": {
	"Scope": {"Type": "Parallel", "Saga": {"Scope": true}, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Lost"}], "Next": "Won", "Branches": [
		{"StartAt": "Hold", "States": {"Hold": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Undo": "queue:release"}, "Next": "Inner"},
			"Inner": {"Type": "Task", "Resource": "saga:inner", "TimeoutSeconds": 3600, "End": true}}}]},
	"Won": {"Type": "Succeed"}, "Lost": {"Type": "Fail", "Error": "Lost"}}}');
SELECT evtstore.start_saga('outer') AS id \gset
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
SELECT masked(evtstore.why_saga(s.id)) FROM evtstore.sagas s WHERE s.parent_id = :'id';
SELECT evtstore.fail(receipt, 'Declined', 'no money', retryable => false) FROM evtstore.receive('pay');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT do_fix(s.id, 1) FROM evtstore.sagas s WHERE s.parent_id = :'id';
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
SELECT evtstore.fail(receipt, 'Jammed', retryable => false) FROM evtstore.receive('release');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT do_fix(:'id', 2);
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.fail(receipt, 'Jammed', retryable => false) FROM evtstore.receive('release');
SELECT do_fix(:'id', 1);
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
-- behind the pivot, in two branches at once, while a third one waits
SELECT evtstore.define_saga('three', '{"StartAt": "Charge", "States": {
	"Charge": {"Type": "Task", "Resource": "sql:public.hold", "Saga": {"Class": "pivot"}, "Next": "All"},
	"All": {"Type": "Parallel", "End": true, "Branches": [
		{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "queue:pay", "Saga": {"Class": "retriable"}, "End": true}}},
		{"StartAt": "B", "States": {"B": {"Type": "Task", "Resource": "sql:public.refuse", "Saga": {"Class": "retriable"}, "End": true}}},
		{"StartAt": "C", "States": {"C": {"Type": "Task", "Resource": "queue:stock", "Saga": {"Class": "retriable"}, "End": true}}}]}}}');
SELECT evtstore.start_saga('three') AS id \gset
CALL note();
SELECT evtstore.fail(receipt, 'Jammed', 'again', retryable => false) FROM evtstore.receive('pay');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT evtstore.explain_saga(:'id');
SELECT do_fix(:'id', 1);
CALL note();
SELECT do_fix(:'id', 2);
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
-- a semantic lock, and signs of life
SELECT evtstore.define_saga('keep', '{"StartAt": "A", "States": {
	"A": {"Type": "Task", "Resource": "queue:pay", "HeartbeatSeconds": 600, "TimeoutSeconds": 7200, "Saga": {"Lock": "States.Format(''sku-{}'', $.sku)", "Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('keep', '{"sku": 7}') AS first \gset
SELECT evtstore.start_saga('keep', '{"sku": 7}') AS second \gset
SELECT evtstore.start_saga('keep', '{"sku": 7}') AS id \gset
CALL note();
SELECT masked(evtstore.why_saga(:'first'));
SELECT masked(evtstore.why_saga(:'id'));
SELECT masked(fix(evtstore.why_saga(:'id'), 1)) LIKE '%why_saga(''ID'')%' AS tells, fix(evtstore.why_saga(:'id'), 1) LIKE '%' || :'first' || '%' AS of_the_first;
SELECT evtstore.cancel_saga(:'id');
SELECT evtstore.cancel_saga(:'second');
SELECT evtstore.cancel_saga(:'first');
CALL note();
-- by another version, with other names of its states; paused
SELECT evtstore.define_saga('go', '{"StartAt": "Hold", "States": {
	"Hold": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "sql:public.unhold"}, "Next": "Wait"},
	"Wait": {"Type": "Task", "Resource": "signal:go", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.start_saga('go') AS id \gset
CALL note();
SELECT evtstore.define_saga('go', '{"StartAt": "Keep", "States": {
	"Keep": {"Type": "Task", "Resource": "sql:public.hold", "ResultPath": null, "Saga": {"Undo": "sql:public.unhold"}, "Next": "Rest"},
	"Rest": {"Type": "Task", "Resource": "signal:go", "Saga": {"Undo": "none"}, "End": true}}}');
SELECT evtstore.migrate_saga(:'id', 2, '{"Hold": "Keep", "Wait": "Rest"}');
CALL note();
SELECT evtstore.pause_saga(:'id');
CALL note();
SELECT masked(evtstore.why_saga(:'id'));
SELECT do_fix(:'id', 1);
CALL note();
SELECT do_fix(:'id', 1);
CALL note();
-- not begun yet
SELECT evtstore.start_saga('many', '[]', start_at => clock_timestamp() + interval '1 day') AS id \gset
SELECT masked(evtstore.why_saga(:'id'));
CALL note();

-- how they were is how the views showed them, after each of these statements
SELECT count(*) > 40 AS many, count(*) FILTER (WHERE then_of(w.id, w.at) IS DISTINCT FROM w.steps) AS wrong, count(DISTINCT w.steps) > 20 AS different FROM was w;
SELECT w.at, w.id, w.steps, then_of(w.id, w.at) FROM was w WHERE then_of(w.id, w.at) IS DISTINCT FROM w.steps;
SELECT count(*) FROM evtstore.sagas s WHERE now_of(s.id) IS DISTINCT FROM then_of(s.id, clock_timestamp());
-- and all of them together
SELECT w.status, count(*) = (SELECT count(*) FROM (SELECT DISTINCT ON (x.id) x.steps FROM was x WHERE x.at <= m.at ORDER BY x.id, x.at DESC) y WHERE y.steps->0->>3 = w.status) AS same
FROM (SELECT percentile_disc(0.7) WITHIN GROUP (ORDER BY at) AS at FROM was) m CROSS JOIN LATERAL evtstore.sagas_at(m.at) w GROUP BY m.at, w.status ORDER BY 1;
SELECT count(*) FROM evtstore.sagas_at(clock_timestamp()) a FULL JOIN evtstore.sagas s USING (id)
WHERE (a.name, a.version, a.status) IS DISTINCT FROM (s.name, s.version, s.status) OR a.business_key IS DISTINCT FROM s.business_key OR a.reason IS DISTINCT FROM s.reason;
SELECT seq, kind, state, status, attempt, undoes, error, cause, reason FROM evtstore.saga_at((SELECT id FROM evtstore.sagas WHERE name = 'back' ORDER BY started_at LIMIT 1), clock_timestamp()) ORDER BY seq;
-- before it started
SELECT count(*) FROM evtstore.saga_at(:'id', (SELECT min(at) FROM was));

-- without events, unknown, to come, without a moment
\set VERBOSITY terse
SELECT evtstore.define_saga('silent', '{"Saga": {"Events": false}, "StartAt": "P", "States": {"P": {"Type": "Succeed"}}}');
SELECT evtstore.start_saga('silent') AS silent \gset
CREATE FUNCTION told(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN public.masked(format('%s %s | %s | %s', SQLSTATE, SQLERRM, detail, hint));
END $$;
SELECT told(format('SELECT evtstore.saga_at(%L, clock_timestamp())', :'silent'));
SELECT told($$SELECT evtstore.saga_at('00000000-0000-0000-0000-000000000000', clock_timestamp())$$);
SELECT told($$SELECT evtstore.saga_at(NULL, clock_timestamp())$$);
SELECT told($$SELECT evtstore.saga_at('00000000-0000-0000-0000-000000000000', NULL)$$);
SELECT told($$SELECT evtstore.saga_at('00000000-0000-0000-0000-000000000000', 'infinity')$$);
SELECT told($$SELECT evtstore.why_saga('00000000-0000-0000-0000-000000000000')$$);
SELECT told($$SELECT evtstore.explain_saga('00000000-0000-0000-0000-000000000000')$$);
SELECT told($$SELECT evtstore.why_saga(NULL)$$);
SELECT told($$SELECT evtstore.sagas_at('infinity')$$);
-- events that somebody took away
SELECT evtstore.truncate_stream('saga-' || (SELECT id FROM evtstore.sagas WHERE name = 'order'), 3);
SELECT evtstore.append('other', 'Happened', '{}') IS NOT NULL;
SELECT told(format('SELECT count(*) FROM evtstore.saga_at(%L, clock_timestamp())', (SELECT id FROM evtstore.sagas WHERE name = 'order')));

-- figures
SELECT name, version, running, compensating, paused, stuck, succeeded, compensated, failed, cancelled, failure_rate, p50 > '0', p95 >= p50, retries, undos FROM evtstore.saga_stats ORDER BY name;
SELECT name, state, attempts, waiting, done, failed, unknown, withdrawn, undone, skipped, retries, undos, failure_rate, p95 >= p50 FROM evtstore.saga_state_stats ORDER BY name, state;

-- another tenant sees none of it
SET evtstore.tenant = 'acme';
SELECT told(format('SELECT evtstore.why_saga(%L)', :'id'));
SELECT told(format('SELECT evtstore.explain_saga(%L)', :'id'));
SELECT told(format('SELECT evtstore.saga_at(%L, clock_timestamp())', :'id'));
SELECT (SELECT count(*) FROM evtstore.sagas_at(clock_timestamp())), (SELECT count(*) FROM evtstore.saga_stats), (SELECT count(*) FROM evtstore.saga_state_stats);
SELECT evtstore.start_saga('many', '[1]') AS acme \gset
SELECT count(*) FROM evtstore.saga_at(:'acme', clock_timestamp());
RESET evtstore.tenant;
SELECT count(*) FROM evtstore.saga_at(:'acme', clock_timestamp());
SELECT count(*) FROM evtstore.sagas_at(clock_timestamp()) WHERE tenant = 'acme';

-- who looks for those that are open or stuck, or for a status, does not read those that have ended; and a usual transition is still HOT
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id, reason FROM evtstore.stuck_sagas;
EXPLAIN (COSTS OFF) SELECT id FROM evtstore.sagas WHERE status = 'running';
EXPLAIN (COSTS OFF) SELECT id FROM evtstore.sagas WHERE ended_at IS NULL;
RESET enable_seqscan;
SELECT evtstore.define_saga('hot', '{"StartAt": "A", "States": {
	"A": {"Type": "Task", "Resource": "signal:a", "Next": "B"}, "B": {"Type": "Task", "Resource": "signal:a", "Next": "C"}, "C": {"Type": "Task", "Resource": "signal:a", "End": true}}}');
SELECT pg_stat_force_next_flush();
SELECT n_tup_upd AS updated, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relname = 'saga' \gset
SELECT evtstore.start_saga('hot') AS id \gset
SELECT evtstore.signal_saga(:'id', 'a', '1');
SELECT evtstore.signal_saga(:'id', 'a', '2');
SELECT evtstore.signal_saga(:'id', 'a', '3');
SELECT pg_stat_force_next_flush();
SELECT n_tup_upd - :updated AS updated, n_tup_hot_upd - :hot AS hot FROM pg_stat_user_tables WHERE relname = 'saga';

-- an instance of a reactor that cannot take an event
CREATE FUNCTION react(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF event->'data' ? 'bad' THEN RAISE 'cannot'; END IF;
	RETURN '{"timers": [{"name": "remind", "after": "1h"}]}';
END $$;
SELECT evtstore.define_reactor('watch', '[{"types": ["Placed"], "correlate": "$.data.order", "starts": true}]', 'public.react', '{"retry": {"max_attempts": 1}}');
SELECT evtstore.append('order-1', 'Placed', data::jsonb) IS NOT NULL FROM unnest('{"{\"order\": 1}","{\"order\": 1, \"bad\": true}","{\"order\": 1}"}'::text[]) data;
SELECT max(position) AS position FROM evtstore.events WHERE stream = 'order-1' \gset
CALL evtstore.wait_for('reactor:watch', :position, '60s');
SELECT id FROM evtstore.sagas WHERE name = 'watch' \gset
SELECT masked(evtstore.why_saga(:'id'));
SELECT told(format('SELECT evtstore.explain_saga(%L)', :'id'));
SELECT now_of(:'id') = then_of(:'id', clock_timestamp()) AS same;
SELECT do_fix(:'id', 1);
SELECT masked(evtstore.why_saga(:'id'));
SELECT now_of(:'id') = then_of(:'id', clock_timestamp()) AS same;
