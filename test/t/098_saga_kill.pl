# What a crash leaves of sagas, at the lines where they are written: a debugger stops a backend in the middle of a start, an answer, a
# failure, an undo or a cancellation, or a worker in that of a timeout, and then it is killed, or the server is stopped at once.
# Section "A kill at each line" of docs/architecture-sagas.md.
#
# Before the commit record nothing of it is there: the instance is where it was, its command comes again, and the same call works afterwards.
# With the record all of it is.  Whatever happened, the instance goes on to its end, and each effect is there once, or undone once.
use strict;
use warnings;

use EvtGdb;
use EvtTest;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nrestart_after_crash = on\nevtstore.delivery_workers = 1\nevtstore.poll_interval = 200ms\n");
EvtGdb::require_gdb($node);

sub sql { return $node->safe_psql('postgres', shift) }

# where the commit record is not written yet; and where it is on disk and nobody was told
my ($RECORD, $TELL) = qw(XactLogCommitRecord ProcArrayEndTransaction);

# Book is done here, Pay and Pack by participants.  take: the next command of queue work; serve: what it asks for, and the answer
sql(q{
	SELECT evtstore.create_queue('work', '{"retry": {"max_attempts": 0}}');
	CREATE TABLE effect (n bigserial, saga uuid, what text);
	CREATE TABLE command (receipt text, id bigint, saga uuid, what text);
	CREATE FUNCTION book(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO public.effect (saga, what) VALUES ((i->>'saga')::uuid, 'Book'); SELECT '1'::jsonb $$;
	CREATE FUNCTION unbook(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO public.effect (saga, what) VALUES ((i->'input'->>'saga')::uuid, 'undo Book'); SELECT '1'::jsonb $$;
	CREATE FUNCTION take() RETURNS text LANGUAGE sql AS $$
		TRUNCATE command;
		INSERT INTO command SELECT receipt, message_id, (headers->>'saga_id')::uuid, CASE WHEN (headers->>'undo')::boolean THEN 'undo ' ELSE '' END || (headers->>'state')
			FROM evtstore.receive('work', 'c', lease => '1h');
		SELECT what FROM command $$;
	CREATE FUNCTION serve() RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO effect (saga, what) SELECT saga, what FROM command;
		RETURN (SELECT evtstore.reply(receipt, '1') FROM command);
	END $$;
	SELECT evtstore.define_saga('trip', '{"StartAt": "Book", "States": {
		"Book": {"Type": "Task", "Resource": "sql:public.book", "Parameters": {"saga.$": "$$.Execution.Id"}, "ResultPath": null, "Next": "Pay",
			"Saga": {"Undo": "sql:public.unbook"}},
		"Pay": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 100, "Next": "Pack", "ResultPath": null,
			"Retry": [{"ErrorEquals": ["Busy", "States.Timeout"], "IntervalSeconds": 50, "MaxAttempts": 1}], "Saga": {"Undo": "queue:work"}},
		"Pack": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 1000, "End": true, "Saga": {"Undo": "none"}}}}');
	SELECT evtstore.define_saga('asks', '{"StartAt": "Ask", "States": {
		"Ask": {"Type": "Task", "Resource": "signal:go", "Next": "Pack"},
		"Pack": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 1000, "End": true, "Saga": {"Undo": "none"}}}}');
	SELECT evtstore.define_saga('pays', '{"StartAt": "Pay", "States": {
		"Pay": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 1000, "End": true, "Saga": {"Undo": "queue:work"}}}}');
	SELECT evtstore.define_saga('tour', '{"StartAt": "Book", "States": {
		"Book": {"Type": "Task", "Resource": "sql:public.book", "Parameters": {"saga.$": "$$.Execution.Id"}, "ResultPath": null, "Next": "Child",
			"Saga": {"Undo": "sql:public.unbook"}},
		"Child": {"Type": "Task", "Resource": "saga:pays", "ResultPath": null, "Next": "Pack"},
		"Pack": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 1000, "End": true, "Saga": {"Undo": "none"}}}}');
	SELECT evtstore.define_saga('lax', v.spec || '{"Saga": {"OnCompensateFail": "continue"}}') FROM evtstore_internal.saga_version v JOIN evtstore_internal.definition d ON d.id = v.definition_id WHERE d.name = 'trip'});

# all that there is of sagas, but for the time of its clock and who has what
sub rows
{
	return sql(q{
		WITH t(t, r) AS (
			SELECT 'saga', s::text FROM evtstore_internal.saga s UNION ALL
			SELECT 'key', k::text FROM evtstore_internal.saga_key k UNION ALL
			SELECT 'step', s::text FROM evtstore_internal.saga_step s UNION ALL
			SELECT 'answer', a::text FROM evtstore_internal.saga_answer a UNION ALL
			SELECT 'signal', g::text FROM evtstore_internal.saga_signal g UNION ALL
			SELECT 'message', format('%s %s %s', queue_id, id, body) FROM evtstore_internal.message UNION ALL
			SELECT 'event', e::text FROM evtstore.events e UNION ALL
			SELECT 'effect', e::text FROM effect e)
		SELECT string_agg(t || ' ' || r, E'\n' ORDER BY t, r) FROM t});
}

# each place, with a kill and with a stop by turns
my $turn = 0;
sub how { return $turn++ % 2 ? 'stop' : 'kill' }
sub cut { return EvtGdb::cut($node, how(), @_) }

# what is the case of the last one that was started, and what it and its children did, in order
sub what_is
{
	return sql(q{SELECT status || ': ' || coalesce((SELECT string_agg(what, ' ' ORDER BY n) FROM effect e
			WHERE saga = s.id OR EXISTS (SELECT FROM evtstore.sagas c WHERE c.id = e.saga AND c.parent_id = s.id)), '')
		FROM evtstore.sagas s WHERE parent_id IS NULL ORDER BY started_at DESC LIMIT 1});
}

# and what became of each attempt at Pay
sub attempts
{
	return sql(q{SELECT string_agg(status || ' ' || attempt, ', ' ORDER BY seq) FROM evtstore.saga_steps
		WHERE saga_id = (SELECT id FROM evtstore.sagas ORDER BY started_at DESC LIMIT 1) AND state = 'Pay'});
}

# a new one, at a command
my $n = 0;
sub start
{
	my ($command, $saga) = (@_, 'trip');

	sql('SELECT evtstore.start_saga($$' . $saga . '$$, business_key => $$k' . ++$n . '$$)');
	is(sql('SELECT take()'), 'Pay', 'one that waits for Pay');
	return if $command eq 'Pay';
	sql('SELECT serve()');
	is(sql('SELECT take()'), 'Pack', 'one that waits for Pack');
	return;
}

# what is left to do is done, command by command, and nothing is left
sub finish
{
	my ($at, $end, @commands) = @_;

	foreach my $command (@commands)
	{
		is(sql('SELECT take()'), $command, "$at: $command comes");
		is(sql('SELECT serve()'), 'accepted', "$at: it is answered");
	}
	is(what_is(), $end, "$at: each effect once");
	is(sql('SELECT take()'), '', "$at: no command is left");
	is(sql(q{SELECT (SELECT count(*) FROM evtstore_internal.message) || ' ' || (SELECT count(*) FROM evtstore_internal.saga_key WHERE kind = 'business')}), '0 0', "$at: nor a timer or a key");
	is(sql(q{SELECT count(*) FROM evtstore.sagas s WHERE status IS DISTINCT FROM (SELECT data->>'status' FROM evtstore.events WHERE stream = 'saga-' || s.id ORDER BY version DESC LIMIT 1)}),
		0, "$at: its last event agrees");
	return;
}

# --- a start: the function's effect, the command, steps, timer, the instance, the event ---

my $start = 'SELECT evtstore.start_saga($$trip$$, $${"a": 1}$$, $$key$$, $$once$$)';
my $before = rows();
foreach my $place ('es_saga_take_key', 'es_call_send_all', 'after es_call_send_all', 'after es_steps_write', 'after es_arrival_arm_timer', 'after es_saga_insert', $RECORD)
{
	my $at = cut($place, $start);

	is(rows(), $before, "start, $at: nothing is there");
	is(sql('SELECT take()'), '', "start, $at: and no command comes");
}
my $id = sql($start);
is(sql($start), $id, 'started afterwards, once');
finish('start', 'succeeded: Book Pay Pack', qw(Pay Pack));
my $at = cut($TELL, $start =~ s/once/twice/r);
is(sql($start =~ s/once/twice/r), sql(q{SELECT id FROM evtstore.sagas WHERE business_key = 'key' AND ended_at IS NULL}), "start, $at: it is there, and found by its key");
finish("start, $at", 'succeeded: Book Pay Pack', qw(Pay Pack));

# --- a success: the command is settled, the next one sent ---

start('Pay');
foreach my $place ('es_queue_settle_command', 'after es_queue_settle_command', 'es_call_send_all', 'after es_steps_write', 'es_saga_update', 'after es_saga_update', $RECORD)
{
	$before = rows();
	my $at = cut($place, 'SELECT serve()');

	is(rows(), $before, "reply, $at: it waits as before");
	is(sql('SELECT take()'), 'Pay', "reply, $at: the command comes again");
}
$at = cut($TELL, 'SELECT serve()');
is(sql('SELECT evtstore.reply(receipt, $$2$$) FROM command'), 'duplicate', "reply, $at: it is known");
finish("reply, $at", 'succeeded: Book Pay Pack', 'Pack');

# --- the last one: the instance ends, its timer and its key go ---

start('Pack');
foreach my $place ('es_queue_withdraw', 'after es_queue_withdraw', 'after es_saga_drop_key', $RECORD)
{
	$before = rows();
	my $at = cut($place, 'SELECT serve()');

	is(rows(), $before, "end, $at: it waits as before");
	is(sql('SELECT take()'), 'Pack', "end, $at: the command comes again");
}
$at = cut($TELL, 'SELECT serve()');
finish("end, $at", 'succeeded: Book Pay Pack');

# --- a failure that is tried again ---

start('Pay');
my $fail = q{SELECT evtstore.fail(receipt, 'Busy') FROM command};
foreach my $place ('es_call_send_all', 'after es_steps_write', 'es_arrival_arm_timer', $RECORD)
{
	$before = rows();
	my $at = cut($place, $fail);

	is(rows(), $before, "failure, $at: it waits as before");
	is(sql('SELECT take()'), 'Pay', "failure, $at: the command comes again");
}
$at = cut($TELL, $fail);
is(sql($fail), 'late', "failure, $at: it is known");
is(attempts(), 'failed 1, waiting 2', "failure, $at: another attempt waits");

my $ahead = 0;

# workers see it as sessions do
sub leap
{
	$ahead += shift;
	$node->append_conf('postgresql.conf', "evtstore.clock_offset = '${ahead}s'\n");
	$node->reload;
	return;
}

leap(60);
poll_sql($node, q{SELECT ready = 1 FROM evtstore.queue_status WHERE name = 'work'});
finish("failure, $at", 'succeeded: Book Pay Pack', qw(Pay Pack));

# --- a timeout, in a worker: the command is taken back, or is unknown where somebody has it; and is sent again ---

foreach my $place ('es_queue_withdraw', 'after es_queue_withdraw', 'es_steps_write', 'es_saga_update', $RECORD, $TELL)
{
	sql('SELECT evtstore.start_saga($$trip$$, business_key => $$t' . ++$n . '$$)');
	my $at = EvtGdb::cut_process($node, worker_pid($node, 'delivery'), how(), $place, sub { leap(101) });

	poll_until("the timeout after $at", sub { attempts() =~ /^(?:withdrawn|unknown) 1, waiting 2$/ });
	pass("timeout, $at: another attempt waits");
	leap(51);
	poll_sql($node, q{SELECT ready = 1 FROM evtstore.queue_status WHERE name = 'work'});
	finish("timeout, $at", 'succeeded: Book Pay Pack', qw(Pay Pack));
}

# --- two attempts, of which the first may have had the effect as well: it is undone once ---

my $give_up = q{SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command};

sub fail_after_two_attempts
{
	my $saga = shift;

	start('Pay', $saga);
	my $first = sql('SELECT receipt FROM command');
	leap(101);
	poll_until('the timeout', sub { attempts() eq 'unknown 1, waiting 2' });
	leap(51);
	poll_sql($node, q{SELECT ready = 1 FROM evtstore.queue_status WHERE name = 'work'});
	is(sql('SELECT take()'), 'Pay', 'another attempt, while somebody has the first');
	is(sql('SELECT serve()'), 'accepted', 'it is done');
	is(sql('SELECT take()'), 'Pack', 'and what follows fails');
	sql($give_up);
	is(sql("SELECT evtstore.reply('$first')"), 'duplicate', 'the first is a duplicate');
	return;
}

fail_after_two_attempts('trip');
finish('two attempts', 'compensated: Book Pay undo Pay undo Book', 'undo Pay');
# nor is it tried a second time where the undo fails and the saga goes on
fail_after_two_attempts('lax');
is(sql('SELECT take()'), 'undo Pay', 'an undo that fails');
sql($give_up);
finish('an undo that is left', 'compensated: Book Pay undo Book');

# --- a failure for good: the undo of Pay is sent; its answer: Book is undone here, and that is the end ---

my $undone = 'compensated: Book Pay undo Pay undo Book';
start('Pack');
foreach my $place ('es_undo_begin', 'after es_steps_write', 'es_call_send_all', 'es_saga_update', $RECORD)
{
	$before = rows();
	my $at = cut($place, $give_up);

	is(rows(), $before, "giving up, $at: it waits as before");
	is(sql('SELECT take()'), 'Pack', "giving up, $at: the command comes again");
}
$at = cut($TELL, $give_up);
is(sql($give_up), 'late', "giving up, $at: it is known");
is(sql('SELECT take()'), 'undo Pay', "giving up, $at: the undo comes");
foreach my $place ('es_undo_ended', 'es_undo_mark', 'es_undo_leave', 'after es_steps_write', 'es_saga_update', $RECORD)
{
	$before = rows();
	my $at = cut($place, 'SELECT serve()');

	is(rows(), $before, "undo, $at: it waits as before");
	is(sql('SELECT take()'), 'undo Pay', "undo, $at: the command comes again");
}
$at = cut($TELL, 'SELECT serve()');
is(sql('SELECT evtstore.reply(receipt) FROM command'), 'duplicate', "undo, $at: it is known");
finish("undo, $at", $undone);

# --- a late success of what was given up: undone, too ---

start('Pay');
sql($give_up);
is(what_is(), 'compensated: Book undo Book', 'one that is compensated');
foreach my $place ('es_undo_begin', 'after es_steps_write', 'after es_saga_write_answer', $RECORD)
{
	$before = rows();
	my $at = cut($place, 'SELECT serve()');

	is(rows(), $before, "late success, $at: nothing is known of it");
}
is(sql('SELECT serve()'), 'late', 'a late success');
finish('late success', 'compensated: Book undo Book Pay undo Pay', 'undo Pay');

# --- a cancellation: what nobody has is taken back ---

my $cancel = q{SELECT evtstore.cancel_saga(id) FROM evtstore.sagas WHERE ended_at IS NULL};
start('Pay');
sql('SELECT serve()');
foreach my $place ('es_undo_begin', 'es_queue_withdraw_all', 'after es_queue_withdraw_all', 'es_saga_update', $RECORD)
{
	$before = rows();
	my $at = cut($place, $cancel);

	is(rows(), $before, "cancellation, $at: it goes on as before");
}
$at = cut($TELL, $cancel);
finish("cancellation, $at", $undone =~ s/compensated/cancelled/r, 'undo Pay');

# --- a signal: one that somebody waits for, and one that comes early ---

my $signal = q{SELECT evtstore.signal_saga(id, 'go', '1', 'd') FROM evtstore.sagas WHERE ended_at IS NULL};
sql('SELECT evtstore.start_saga($$asks$$, business_key => $$a$$)');
foreach my $place ('es_signal_bring', 'es_move_settle', 'after es_steps_write', 'es_saga_update', $RECORD)
{
	$before = rows();
	my $at = cut($place, $signal);

	is(rows(), $before, "signal, $at: it waits as before");
}
$at = cut($TELL, $signal);
sql($signal);
is(sql('SELECT count(*) FROM evtstore_internal.saga_signal'), 1, "signal, $at: it is known");
finish("signal, $at", 'succeeded: Pack', 'Pack');
sql('SELECT evtstore.start_saga($$asks$$, business_key => $$b$$, start_at => now() + $$1 day$$)');
foreach my $place ('after es_signal_bring', $RECORD)
{
	$before = rows();
	my $at = cut($place, $signal);

	is(rows(), $before, "early signal, $at: nobody knows of it");
}
$at = cut($TELL, $signal);
sql('SELECT evtstore.cancel_saga(id) FROM evtstore.sagas WHERE ended_at IS NULL');
sql('TRUNCATE effect');

# --- a child: it begins with its parent's transition, and its end is the parent's next one ---

my $tour = 'SELECT evtstore.start_saga($$tour$$, business_key => $$tour$$)';
foreach my $place ('es_child_start', 'es_saga_insert', 'after es_child_start', $RECORD)
{
	$before = rows();
	my $at = cut($place, $tour);

	is(rows(), $before, "a child's start, $at: neither of them is there");
}
sql($tour);
is(sql('SELECT take()'), 'Pay', 'what the child asks for');
foreach my $place ('es_child_tell_parent', 'es_move_answer', 'es_call_send_all', 'after es_child_tell_parent', $RECORD)
{
	$before = rows();
	my $at = cut($place, 'SELECT serve()');

	is(rows(), $before, "a child's end, $at: both wait as before");
	is(sql('SELECT take()'), 'Pay', "a child's end, $at: the command comes again");
}
$at = cut($TELL, 'SELECT serve()');
is(sql('SELECT take()'), 'Pack', "a child's end, $at: the parent has gone on");
foreach my $place ('es_child_take_back', 'es_undo_begin', 'after es_child_take_back', $RECORD)
{
	$before = rows();
	my $at = cut($place, $give_up);

	is(rows(), $before, "taking back, $at: the parent waits as before");
	is(sql('SELECT take()'), 'Pack', "taking back, $at: the command comes again");
}
$at = cut($TELL, $give_up);
is(sql('SELECT take()'), 'undo Pay', "taking back, $at: the child is at it");
foreach my $place ('es_child_tell_parent', 'es_undo_ended', 'after es_child_tell_parent', $RECORD)
{
	$before = rows();
	my $at = cut($place, 'SELECT serve()');

	is(rows(), $before, "taken back, $at: both wait as before");
	is(sql('SELECT take()'), 'undo Pay', "taken back, $at: the command comes again");
}
$at = cut($TELL, 'SELECT serve()');
finish("taken back, $at", 'compensated: Book Pay undo Pay undo Book');

done_testing();
