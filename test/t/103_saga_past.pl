# The past of sagas: what saga_at says of a moment is what the views showed then. Random instances of definitions that have between them all that makes a step or
# changes one are driven by two sessions and the workers, while a third one notes what the views show, each time with the version of the
# instance's stream in the same snapshot.
#
# EVTSTORE_SECONDS: how long, twelve by default.  EVTSTORE_SEED: for the same choices again, as far as the scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtDisturb;
use EvtTest;
use Test::More;

my $PATIENCE = 240;

my ($seed, $seconds) = EvtDisturb::choices(12);
my $node = new_node('main', conf => join "\n", 'evtstore.delivery_workers = 2', 'evtstore.poll_interval = 50ms', 'deadlock_timeout = 30ms', '');

sub sql { return $node->safe_psql('postgres', shift) }

# --- what is run ---

sql(q{
	SELECT evtstore.create_queue('steady', '{"retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0}}');
	SELECT evtstore.create_queue('fickle', '{"retry": {"max_attempts": 2, "initial": "20ms", "multiplier": 1, "jitter": 0}}');
	CREATE FUNCTION work(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		IF random() < 0.2 THEN RAISE 'a bad day' USING DETAIL = 'none'; END IF;
		RETURN '1';
	END $$;
	-- what the views show of one, as saga_at has it
	CREATE FUNCTION shown(id uuid) RETURNS jsonb LANGUAGE sql AS $$
		SELECT jsonb_agg(jsonb_build_array(v.seq, v.kind, v.state, v.status, v.attempt, v.undoes, v.error, v.cause, v.reason) ORDER BY v.seq) FROM (
			SELECT 0 AS seq, 'saga' AS kind, NULL AS state, s.status, NULL AS attempt, NULL AS undoes, s.error, s.cause, s.reason FROM evtstore.sagas s WHERE s.id = $1
			UNION ALL SELECT t.seq, t.kind, t.state, t.status, t.attempt, t.undoes, t.error, t.cause, NULL FROM evtstore.saga_steps t WHERE t.saga_id = $1) v $$;
	CREATE FUNCTION folded(id uuid, at timestamptz) RETURNS jsonb LANGUAGE sql AS $$
		SELECT jsonb_agg(jsonb_build_array(v.seq, v.kind, v.state, v.status, v.attempt, v.undoes, v.error, v.cause, v.reason) ORDER BY v.seq) FROM evtstore.saga_at($1, $2) v $$;
	CREATE TABLE seen (id uuid, version bigint, shown jsonb);
	CREATE UNIQUE INDEX ON seen (id, version, md5(shown::text));
	CREATE PROCEDURE look() LANGUAGE plpgsql AS $$
	BEGIN
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
		INSERT INTO public.seen SELECT s.id, v.version, public.shown(s.id) FROM evtstore.sagas s
			CROSS JOIN LATERAL (SELECT max(e.version) AS version FROM evtstore.events e WHERE e.stream = 'saga-' || s.id) v
			WHERE s.ended_at IS NULL OR s.ended_at > clock_timestamp() - interval '5 seconds' ON CONFLICT DO NOTHING;
		COMMIT;
	END $$});

my $retry = q{"Retry": [{"ErrorEquals": ["Busy", "States.Timeout", "P0001"], "IntervalSeconds": 1, "MaxAttempts": 2}]};
my %definitions = (
	inner => qq{{"StartAt": "K", "States": {
		"K": {"Type": "Task", "Resource": "sql:public.work", "Saga": {"Undo": "sql:public.work", "UndoRetry": [{"ErrorEquals": ["Never"]}]}, "Next": "L"},
		"L": {"Type": "Task", "Resource": "queue:steady", "TimeoutSeconds": 2, "Saga": {"Undo": "none"}, "End": true}}}},
	outer => qq{{"StartAt": "Scope", "States": {
		"Scope": {"Type": "Parallel", "Saga": {"Scope": true}, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "M"}], "Next": "M", "Branches": [
			{"StartAt": "Q", "States": {"Q": {"Type": "Task", "Resource": "queue:steady", "TimeoutSeconds": 3, "Saga": {"Undo": "queue:fickle", "UndoTimeoutSeconds": 2}, "End": true}}},
			{"StartAt": "N", "States": {"N": {"Type": "Task", "Resource": "saga:inner", "TimeoutSeconds": 4, "End": true}}}]},
		"M": {"Type": "Task", "Resource": "saga:inner", "End": true}}}},
	line => qq{{"StartAt": "A", "TimeoutSeconds": 20, "States": {
		"A": {"Type": "Task", "Resource": "sql:public.work", $retry, "ResultPath": null, "Saga": {"Undo": "sql:public.work", "UndoRetry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 1}]}, "Next": "B"},
		"B": {"Type": "Task", "Resource": "queue:steady", "TimeoutSeconds": 2, $retry, "ResultPath": null, "Saga": {"Undo": "queue:fickle", "UndoTimeoutSeconds": 2}, "Next": "C",
			"Catch": [{"ErrorEquals": ["Broken"], "ResultPath": null, "Next": "C"}]},
		"C": {"Type": "Choice", "Choices": [{"Variable": "\$.luck", "NumericGreaterThan": 0.5, "Next": "W"}], "Default": "D"},
		"W": {"Type": "Wait", "Seconds": 1, "Next": "D"},
		"D": {"Type": "Task", "Resource": "queue:fickle", "TimeoutSeconds": 2, "ResultPath": null, "Saga": {"Undo": "none"}, "Next": "F"},
		"F": {"Type": "Choice", "Choices": [{"Variable": "\$.luck", "NumericGreaterThan": 0.8, "Next": "Lost"}], "Default": "Won"},
		"Lost": {"Type": "Fail", "Error": "Lost", "Cause": "no luck"}, "Won": {"Type": "Succeed"}}}},
	pivot => qq{{"StartAt": "A", "States": {
		"A": {"Type": "Task", "Resource": "queue:fickle", "TimeoutSeconds": 2, $retry, "ResultPath": null, "Saga": {"Undo": "queue:steady", "UndoTimeoutSeconds": 2}, "Next": "P"},
		"P": {"Type": "Task", "Resource": "queue:steady", "TimeoutSeconds": 2, $retry, "ResultPath": null, "Saga": {"Class": "pivot"}, "Next": "R"},
		"R": {"Type": "Task", "Resource": "queue:fickle", "TimeoutSeconds": 2, $retry, "Saga": {"Class": "retriable"}, "End": true}}}},
	wide => qq{{"StartAt": "S", "Saga": {"OnCompensateFail": "continue"}, "States": {
		"S": {"Type": "Task", "Resource": "signal:go", "TimeoutSeconds": 2, "ResultPath": null, "Saga": {"Undo": "none"}, "Catch": [{"ErrorEquals": ["States.Timeout"], "ResultPath": null, "Next": "Both"}], "Next": "Both"},
		"Both": {"Type": "Parallel", "ResultPath": null, $retry, "Next": "Each", "Branches": [
			{"StartAt": "X", "States": {"X": {"Type": "Task", "Resource": "queue:steady", "TimeoutSeconds": 3, "Saga": {"Undo": "sql:public.work", "UndoRetry": [{"ErrorEquals": ["Never"]}]}, "End": true}}},
			{"StartAt": "Y", "States": {"Y": {"Type": "Task", "Resource": "sql:public.work", "Saga": {"Undo": "queue:steady", "UndoTimeoutSeconds": 2}, "End": true}}}]},
		"Each": {"Type": "Map", "ItemsPath": "\$.items", "MaxConcurrency": 2, "ToleratedFailureCount": 1, "End": true, "ItemProcessor": {"StartAt": "I", "States": {
			"I": {"Type": "Task", "Resource": "queue:steady", "TimeoutSeconds": 3, "Saga": {"Undo": "sql:public.work"}, "End": true}}}}}}},
	stop => qq{{"StartAt": "A", "Saga": {"OnFail": "stop"}, "States": {
		"A": {"Type": "Task", "Resource": "sql:public.work", "ResultPath": null, "Saga": {"Undo": "sql:public.work"}, "Next": "B"},
		"B": {"Type": "Task", "Resource": "queue:fickle", "TimeoutSeconds": 2, $retry, "Saga": {"Undo": "none"}, "End": true}}}});
sql("SELECT evtstore.define_saga('$_', \$d\$$definitions{$_}\$d\$)") foreach sort keys %definitions;

# one thing that somebody does; what is refused is no fault
sql(q{
	CREATE FUNCTION respond(queue text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		command record;
		luck float8;
	BEGIN
		FOR command IN SELECT receipt FROM evtstore.receive(queue, max_count => 1 + (random() * 3)::int, lease => '2s') LOOP
			luck := random();
			IF luck < 0.55 THEN PERFORM evtstore.reply(command.receipt, '{"ok": true}');
			ELSIF luck < 0.7 THEN PERFORM evtstore.fail(command.receipt, 'Busy', 'a bad day', retry_after => '10ms');
			ELSIF luck < 0.78 THEN PERFORM evtstore.fail(command.receipt, 'Broken', 'for good', retryable => false);
			ELSIF luck < 0.82 THEN PERFORM evtstore.reject(command.receipt, 'never');
			ELSIF luck < 0.86 THEN PERFORM evtstore.nack(command.receipt, 'not now');
			ELSE INSERT INTO public.late VALUES (command.receipt);
			END IF;
		END LOOP;
	END $$;
	CREATE TABLE late (receipt text);
	CREATE FUNCTION operate(saga record) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		luck float8 := random();
		step record;
	BEGIN
		SELECT t.seq, t.state INTO step FROM evtstore.saga_steps t WHERE t.saga_id = saga.id AND t.status IN ('waiting', 'failed', 'unknown', 'done') ORDER BY random() LIMIT 1;
		IF saga.status = 'stuck' AND luck < 0.4 THEN PERFORM evtstore.retry_saga(saga.id);
		ELSIF luck < 0.5 THEN PERFORM evtstore.resolve_step(saga.id, step.state, CASE WHEN random() < 0.5 THEN 'done' ELSE 'failed' END);
		ELSIF luck < 0.6 THEN PERFORM evtstore.skip_step(saga.id, step.state, '{"luck": 0.1, "items": [1, 2]}');
		ELSIF luck < 0.7 THEN PERFORM evtstore.mark_undone(saga.id, step.seq, 'by hand');
		ELSIF luck < 0.75 THEN PERFORM evtstore.cancel_saga(saga.id, random() < 0.7);
		ELSIF luck < 0.8 THEN PERFORM evtstore.pause_saga(saga.id);
		ELSIF saga.status = 'paused' THEN PERFORM evtstore.resume_saga(saga.id);
		ELSIF luck < 0.85 THEN PERFORM evtstore.redrive_saga(s.id) FROM evtstore.sagas s WHERE s.status IN ('failed', 'compensated', 'cancelled') AND s.ended_at > clock_timestamp() - interval '3 s' ORDER BY random() LIMIT 1;
		ELSE PERFORM evtstore.signal_saga(saga.id, 'go', '1');
		END IF;
	END $$;
	CREATE FUNCTION act(which text, saga record) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		taken text;
	BEGIN
		CASE which
			WHEN 'start' THEN
				PERFORM evtstore.start_saga((ARRAY['line', 'pivot', 'wide', 'stop', 'outer'])[1 + floor(random() * 5)::int], jsonb_build_object('luck', random(), 'items', '[1, 2, 3, 4]'::jsonb),
					start_at => CASE WHEN random() < 0.1 THEN clock_timestamp() + interval '300ms' END);
			WHEN 'operate' THEN PERFORM public.operate(saga);
			WHEN 'late' THEN
				DELETE FROM public.late WHERE late.receipt = (SELECT l.receipt FROM public.late l ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING late.receipt INTO taken;
				IF FOUND THEN
					PERFORM CASE WHEN random() < 0.7 THEN evtstore.reply(taken, '2') ELSE evtstore.fail(taken, 'Busy') END;
				END IF;
			ELSE PERFORM public.respond(which);
		END CASE;
	-- NULL: of a step, where it has none
	EXCEPTION WHEN null_value_not_allowed OR object_not_in_prerequisite_state OR lock_not_available OR invalid_parameter_value OR deadlock_detected OR sqlstate 'ST007' OR sqlstate 'ST008' THEN
		NULL;
	END $$;
	CREATE TABLE control AS SELECT false AS stop;
	CREATE PROCEDURE drive(seed float8) LANGUAGE plpgsql AS $$
	DECLARE
		saga record;
		luck float8;
		open int;
	BEGIN
		PERFORM setseed(seed);
		WHILE NOT (SELECT c.stop FROM public.control c) LOOP
			SELECT s.id, s.status INTO saga FROM evtstore.sagas s WHERE s.ended_at IS NULL ORDER BY random() LIMIT 1;
			SELECT count(*) INTO open FROM evtstore.sagas s WHERE s.status IN ('running', 'compensating');
			luck := random();
			-- one that has no id yet is refused
			PERFORM public.act(CASE WHEN luck < 0.3 AND open < 40 OR open = 0 THEN 'start' WHEN luck < 0.5 THEN 'steady' WHEN luck < 0.75 THEN 'fickle' WHEN luck < 0.85 THEN 'late' ELSE 'operate' END, saga);
			COMMIT;
			-- sleep: somebody is to look in between
			PERFORM pg_sleep(0.01);
			COMMIT;
		END LOOP;
	END $$});

# --- it runs, and somebody looks on ---

my $ahead = 0;

# s; workers and sessions see it
sub leap
{
	$ahead += shift;
	$node->append_conf('postgresql.conf', "evtstore.clock_offset = '${ahead}s'\n");
	$node->reload;
	return;
}

# of what there can be, what nobody has seen yet
my @wanted = ('saga running', 'saga compensating', 'saga stuck', 'saga paused', 'saga succeeded', 'saga compensated', 'saga cancelled', 'saga failed', 'task waiting', 'task done', 'task failed',
	'task unknown', 'task undone', 'undo waiting', 'undo done', 'undo failed', 'parallel failed', 'parallel undoing', 'map waiting', 'branch pending', 'branch done', 'signal done',
	'child waiting', 'child done');

sub unseen
{
	my %seen = map { $_ => 1 } split /\n/, sql(q{SELECT DISTINCT t->>1 || ' ' || (t->>3) FROM seen, jsonb_array_elements(shown) t});

	return join ', ', grep { !$seen{$_} } @wanted;
}

foreach my $n (1, 2)
{
	my $choice = (($seed * 7 + $n) % 1000) / 1000;
	start_child("driver $n", sub { sql("CALL drive($choice)"); return; });
}
my $end  = time + $seconds;
my $done = eval {
	poll_until(
		'all that there can be',
		sub {
			sql('CALL look()') foreach 1 .. 5;
			leap(1);
			return time >= $end && sql('SELECT count(*) > 400 FROM seen') eq 't' && unseen() eq '';
		},
		$PATIENCE);
	1;
};
is($done ? '' : unseen() || 'too little of it', '', 'there was all that there can be');
sql('UPDATE control SET stop = true');
is(finish_children('driver', $PATIENCE), '', 'both drivers came to their end');
# what waits for a time, and what was left to a worker
leap(10);
sql('CALL look()') foreach 1 .. 5;

# --- how it was ---

is(sql(q{SELECT count(*) FROM (SELECT id, version FROM seen GROUP BY 1, 2 HAVING count(*) > 1) x}), 0, 'the views showed nothing that changed without an event');

# in the middle between two events, and a moment ago; where another event came between in the order of positions it is that version that belongs to the moment
sql(q{
	CREATE TABLE moment AS SELECT s.id, s.version, s.shown, e.recorded_at + (coalesce(n.recorded_at, clock_timestamp()) - e.recorded_at) / 2 AS at
		FROM seen s JOIN evtstore.events e ON e.stream = 'saga-' || s.id AND e.version = s.version
		LEFT JOIN evtstore.events n ON n.stream = e.stream AND n.version = s.version + 1;
	ALTER TABLE moment ADD belongs bigint;
	UPDATE moment SET belongs = (SELECT max(version) FROM evtstore.read_stream('saga-' || id, as_of => at))});
my ($all, $same) = split /\|/, sql('SELECT count(*), count(*) FILTER (WHERE belongs = version) FROM moment');
cmp_ok($all, '>', 300, 'many moments were noted');
cmp_ok($same / ($all || 1), '>', 0.9, 'nearly all of them can be named');
is(sql(q{SELECT id || ' ' || version || ': ' || shown || ' but ' || coalesce(folded(id, at)::text, 'nothing') FROM moment
	WHERE belongs = version AND folded(id, at) IS DISTINCT FROM shown ORDER BY id, version LIMIT 3}), '', 'saga_at is what the views showed then');
is(sql(q{SELECT count(*) FROM (SELECT at FROM moment ORDER BY random() LIMIT 20) m CROSS JOIN LATERAL evtstore.sagas_at(m.at) a
	CROSS JOIN LATERAL evtstore.saga_at(a.id, m.at) s WHERE s.seq = 0 AND (a.status, a.error, a.reason) IS DISTINCT FROM (s.status, s.error, s.reason)}), 0, 'sagas_at has all of them so');

# as it is, now that nobody moves it
is(sql(q{SELECT evtstore.pause('steady'), evtstore.pause('fickle')}), '|', 'nobody gets anything');
poll_until('rest', sub {
	# a worker may be at one in between
	return sql(q{SELECT count(*) FROM evtstore.sagas s WHERE shown(s.id) IS DISTINCT FROM folded(s.id, clock_timestamp())}) == 0;
});
is(sql(q{SELECT count(*) FROM evtstore.sagas s WHERE evtstore.why_saga(s.id) IS NULL OR evtstore.explain_saga(s.id) IS NULL}), 0, 'each can be told and drawn');
done_testing();
