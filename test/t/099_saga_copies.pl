# Sagas in the middle of what they do, in a copy: dump and restore, and a standby that is promoted.  One waits for an answer, one for a time, one
# is being undone, one is stuck, one has ended.  In the restored copy nothing moves by itself until resume_delivery(), and then they go on to their
# ends, each effect once; those of the original do too.  Section "A kill at each line" of docs/architecture-sagas.md, its last line.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', init => { allows_streaming => 1 });

# take: the command of a saga is handed out; serve: what it asks for, and the answer
$primary->safe_psql('postgres', q{
	SELECT evtstore.create_queue('work');
	CREATE TABLE effect (n bigserial, key text, what text);
	CREATE TABLE weather AS SELECT false AS calm;
	CREATE FUNCTION book(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO public.effect (key, what) VALUES (i->>'key', 'Book'); SELECT '1'::jsonb $$;
	CREATE FUNCTION unbook(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		IF i->'input'->>'key' = 'stuck' AND NOT (SELECT calm FROM public.weather) THEN RAISE 'not today'; END IF;
		INSERT INTO public.effect (key, what) VALUES (i->'input'->>'key', 'undo Book');
		RETURN NULL;
	END $$;
	CREATE TABLE command (receipt text, key text, what text);
	CREATE FUNCTION take() RETURNS text LANGUAGE sql AS $$
		TRUNCATE command;
		INSERT INTO command SELECT receipt, business_key, CASE WHEN (headers->>'undo')::boolean THEN 'undo ' ELSE '' END || (headers->>'state')
			FROM evtstore.receive('work', 'c', 10, '1h') JOIN evtstore.sagas ON id = (headers->>'saga_id')::uuid;
		SELECT string_agg(format('%s: %s', key, what), ', ' ORDER BY key) FROM command $$;
	CREATE FUNCTION serve(which text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO effect (key, what) SELECT key, what FROM command WHERE key ~ which;
		RETURN (SELECT string_agg(evtstore.reply(receipt, '1'), ', ') FROM command WHERE key ~ which);
	END $$;
	SELECT evtstore.define_saga('trip', '{"StartAt": "Book", "States": {
		"Book": {"Type": "Task", "Resource": "sql:public.book", "Parameters": {"key.$": "$$.Execution.Name"}, "ResultPath": null, "Next": "Pay",
			"Saga": {"Undo": "sql:public.unbook", "UndoRetry": [{"ErrorEquals": ["Never"]}]}},
		"Pay": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 90000, "ResultPath": null, "Next": "Nap",
			"Saga": {"Undo": "queue:work", "UndoTimeoutSeconds": 90000}},
		"Nap": {"Type": "Wait", "Seconds": 3600, "Next": "Pack"},
		"Pack": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 90000, "End": true, "Saga": {"Undo": "none"}}}}');
	SELECT evtstore.start_saga('trip', business_key => key) FROM unnest('{answer,time,undo,stuck,held}'::text[]) key});
is($primary->safe_psql('postgres', 'SELECT take()'), 'answer: Pay, held: Pay, stuck: Pay, time: Pay, undo: Pay', 'five that wait for Pay');
$primary->safe_psql('postgres', q{SELECT serve('time|undo'); SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM command WHERE key = 'stuck';
	SELECT evtstore.cancel_saga(id) FROM evtstore.sagas WHERE business_key = 'undo'});
# as who has one and is not heard of: the copy gives it to somebody else
my $held = $primary->safe_psql('postgres', q{SELECT receipt FROM command WHERE key = 'held'});
$primary->safe_psql('postgres', q{SELECT evtstore.release(ARRAY[receipt]) FROM command WHERE key = 'answer'});

my $states = q{SELECT string_agg(format('%s %s', business_key, status), ', ' ORDER BY business_key) FROM evtstore.sagas};
my $middle = 'answer running, held running, stuck stuck, time running, undo compensating';
is($primary->safe_psql('postgres', $states), $middle, 'they are in the middle of it');

# s; workers and sessions see it
sub leap
{
	my ($node, $ahead) = @_;

	$node->append_conf('postgresql.conf', "evtstore.clock_offset = '${ahead}s'\n");
	$node->reload;
	return;
}

# the time of every Nap is over, and what is left is done
sub finish
{
	my ($node, $what) = @_;

	leap($node, 20_000);
	poll_sql($node, q{SELECT count(*) = 1 FROM evtstore.saga_steps t JOIN evtstore.sagas ON id = saga_id WHERE business_key = 'time' AND state = 'Pack' AND t.status = 'waiting'});
	pass("$what: one that waits for a time goes on");
	$node->safe_psql('postgres', q{UPDATE weather SET calm = true; SELECT evtstore.retry_saga(id) FROM evtstore.stuck_sagas});
	# those that had not paid nap now, by the clock that has leapt
	foreach my $left (q{states = '{Nap}'}, 'ended_at IS NOT NULL')
	{
		poll_until("$what: $left", sub {
			$node->safe_psql('postgres', 'SELECT take(); SELECT serve()');
			return $node->safe_psql('postgres', "SELECT bool_and(ended_at IS NOT NULL OR $left) FROM evtstore.sagas") eq 't';
		});
		leap($node, 30_000);
	}
	is($node->safe_psql('postgres', $states), 'answer succeeded, held succeeded, stuck compensated, time succeeded, undo cancelled', "$what: they come to their ends");
	is($node->safe_psql('postgres', q{SELECT string_agg(format('%s: %s', key, what), E'\n' ORDER BY key) FROM (SELECT key, string_agg(what, ' ' ORDER BY n) AS what FROM effect GROUP BY 1) e}),
		"answer: Book Pay Pack\nheld: Book Pay Pack\nstuck: Book undo Book\ntime: Book Pay Pack\nundo: Book Pay undo Pay undo Book", "$what: each effect once");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM evtstore_internal.message}), 0, "$what: no message and no timer is left");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM evtstore_internal.saga_key}), 0, "$what: no key is taken");
	is($node->safe_psql('postgres', q{SELECT evtstore.start_saga('trip', business_key => 'time') IS NOT NULL}), 't', "$what: and a new one can begin");
	return;
}

# --- dump and restore ---

my $dump = "$PostgreSQL::Test::Utils::tmp_check/sagas.dump";
$primary->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $primary->connstr('postgres') ], 'pg_dump');
my $copy = new_node('copy', extension => 0, conf => "evtstore.poll_interval = '20ms'\n");
$copy->command_ok([ 'pg_restore', '--exit-on-error', '-d', $copy->connstr('postgres'), $dump ], 'pg_restore');
leap($copy, 7200);
$copy->wait_for_log(qr/nothing is delivered from database "postgres"/);
is($copy->safe_psql('postgres', $states), $middle, 'the copy has them as they were');
is($copy->safe_psql('postgres', q{SELECT evtstore.reply('} . $held . q{', '1')}), 'accepted', 'an answer to a command of the original is one to that of the copy');
$copy->safe_psql('postgres', q{INSERT INTO effect (key, what) VALUES ('held', 'Pay')});
is($copy->safe_psql('postgres', q{SELECT string_agg(format('%s %s', business_key, states), ', ' ORDER BY business_key) FROM evtstore.sagas WHERE business_key IN ('held', 'time')}),
	'held {Nap}, time {Nap}', 'who calls goes on, and what waits for a time waits');
is($copy->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore delivery%'}), 0, 'no worker is there');
$copy->safe_psql('postgres', 'SELECT evtstore.resume_delivery()');
finish($copy, 'restored');
$copy->stop;

# --- a standby, promoted ---

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
# what comes while it streams
$primary->safe_psql('postgres', q{SELECT evtstore.reply('} . $held . q{', '1'); INSERT INTO effect (key, what) VALUES ('held', 'Pay')});
$primary->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', $states), $middle, 'the standby shows them');
is(sqlstate($standby, q{SELECT evtstore.retry_saga(id) FROM evtstore.stuck_sagas}), '25006', 'and changes none');
$primary->stop;
$standby->promote;
finish($standby, 'promoted');
$standby->stop;

# --- the original ---

$primary->start;
finish($primary, 'the original');
done_testing();
