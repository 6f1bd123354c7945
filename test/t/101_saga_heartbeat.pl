# Signs of life: a Task with HeartbeatSeconds fails where who has its command is not heard of, by receive or extend, for that long; while nobody has the command
# its time does not run.  The clock leaps, and margins are hundreds of seconds of it, so that a slow machine changes nothing.
use strict;
use warnings;

use EvtTest;
use Test::More;

my $node = new_node('main', conf => "evtstore.poll_interval = '20ms'\nrestart_after_crash = on\n");
my $ahead = 0;

sub sql { return $node->safe_psql('postgres', shift) }

sql(q{SELECT evtstore.create_queue('work', '{"notify": "work"}');
	CREATE TABLE command (receipt text, saga uuid, what text);
	CREATE FUNCTION take(lease interval DEFAULT '10h') RETURNS text LANGUAGE sql AS $$
		TRUNCATE command;
		INSERT INTO command SELECT receipt, (headers->>'saga_id')::uuid, format('%s attempt %s heartbeat %s', headers->>'state', headers->>'attempt', headers->>'heartbeat')
			FROM evtstore.receive('work', 'c', 10, lease);
		SELECT string_agg(what, ', ' ORDER BY what) FROM command $$;
	CREATE VIEW steps AS SELECT s.business_key, s.status AS saga, string_agg(concat_ws(' ', t.state, t.attempt, t.status, t.error), ', ' ORDER BY t.seq) AS steps
		FROM evtstore.sagas s JOIN evtstore.saga_steps t ON t.saga_id = s.id GROUP BY s.id, s.business_key, s.status;
	SELECT evtstore.define_saga('beat', '{"StartAt": "A", "States": {
		"A": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 100000, "HeartbeatSeconds": 1000, "End": true,
			"Retry": [{"ErrorEquals": ["States.HeartbeatTimeout"], "IntervalSeconds": 0.001, "MaxAttempts": 1}],
			"Catch": [{"ErrorEquals": ["States.Timeout"], "ResultPath": "$.why", "Next": "Caught"}], "Saga": {"Undo": "none"}},
		"Caught": {"Type": "Pass", "End": true}}}');
	SELECT evtstore.define_saga('given', '{"StartAt": "A", "States": {
		"A": {"Type": "Task", "Resource": "queue:work", "TimeoutSeconds": 5000, "HeartbeatSecondsPath": "$.beat", "End": true}}}')});

# s; workers and sessions see it.  Where somebody waits for a beat, until a worker has looked at that
sub leap
{
	$ahead += shift;
	$node->append_conf('postgresql.conf', "evtstore.clock_offset = '${ahead}s'\n");
	$node->reload;
	poll_sql($node, "SELECT current_setting('evtstore.clock_offset')::interval = '${ahead}s'");
	poll_sql($node, "SELECT count(*) = 0 FROM evtstore_internal.saga_step WHERE status = 'waiting' AND due <= now() + '${ahead}s'");
	return;
}

sub steps { return sql("SELECT steps FROM steps WHERE business_key = '$_[0]'") }

# s from now until the step is looked at, in hundreds
sub due { return sql("SELECT round(extract(epoch FROM due - (clock_timestamp() + '${ahead}s')) / 100) FROM evtstore.saga_steps t JOIN evtstore.sagas s ON s.id = t.saga_id WHERE business_key = '$_[0]' AND t.status = 'waiting'") }

# --- while nobody has it ---

sql(q{SELECT evtstore.start_saga('beat', business_key => 'a')});
is(due('a'), 10, 'the first look is a heartbeat away');
leap(5000);
is(steps('a'), 'A 1 waiting', 'a command that nobody has waits as long as it likes');
is(sql('SELECT take()'), 'A attempt 1 heartbeat 1000', 'the command says what is expected');

# --- signs of life ---

my $rows = 'SELECT (SELECT ctid FROM evtstore_internal.saga), (SELECT ctid FROM evtstore_internal.saga_step), (SELECT count(*) FROM evtstore_internal.message)';
my $before = sql($rows);
leap(600);
is(sql(q{SELECT evtstore.extend(receipt, '10h') FROM command}), 't', 'who has it is there');
is(sql($rows), $before, 'and that writes no row');
leap(600);
is(steps('a'), 'A 1 waiting', 'he is given a heartbeat from then on');
is(due('a'), 4, 'of which some is over');
is(sql(q{SELECT evtstore.extend(receipt, '10h') FROM command}), 't', 'he is there again');
leap(600);
is(steps('a'), 'A 1 waiting', 'and again');
is(sql(q{SELECT string_agg(type, ' ' ORDER BY position) FROM evtstore.events WHERE category = 'saga'}), 'SagaStarted', 'looks are no news');

# --- none ---

leap(600);
poll_sql($node, q{SELECT steps LIKE '%A 2 waiting' FROM steps WHERE business_key = 'a'});
is(steps('a'), 'A 1 unknown States.HeartbeatTimeout, A 2 waiting', 'who is silent has lost it, and it may have happened');
is(sql(q{SELECT evtstore.extend(receipt, '10h') FROM command}), 'f', 'he is told to stop');
is(sql(q{SELECT evtstore.reply(receipt, '7') FROM command}), 'accepted', 'but what he has done counts');
is(steps('a'), 'A 1 done, A 2 withdrawn', 'and nobody does it again');

# --- a lease that is over ---

sql(q{SELECT evtstore.start_saga('beat', business_key => 'b')});
is(sql(q{SELECT take('100s')}), 'A attempt 1 heartbeat 1000', 'one with a short lease');
leap(600);
is(steps('b'), 'A 1 waiting', 'the lease is over, and he may come back');
my $old = sql('SELECT receipt FROM command');
is(sql(q{SELECT take('100s')}), 'A attempt 1 heartbeat 1000', 'somebody else has it');
leap(600);
# who tells listeners that it is there again has looked at the lease
poll_sql($node, q{SELECT in_flight = 0 FROM evtstore.queue_status WHERE name = 'work'});
is(steps('b'), 'A 1 waiting', 'and is given his own time');
like(($node->psql('postgres', "SELECT evtstore.extend('$old', '1h')"))[2], qr/is stale/, 'who has lost it to another is told so');
leap(600);
poll_sql($node, q{SELECT steps LIKE '%A 2 waiting' FROM steps WHERE business_key = 'b'});
is(steps('b'), 'A 1 unknown States.HeartbeatTimeout, A 2 waiting', 'that is over, too, though nobody has it now');

# --- given back ---

is(sql('SELECT take()'), 'A attempt 2 heartbeat 1000', 'the second attempt');
sql(q{SELECT evtstore.release(ARRAY[receipt]) FROM command});
leap(1500);
is(steps('b'), 'A 1 unknown States.HeartbeatTimeout, A 2 waiting', 'who gave it back is not waited for');
is(sql('SELECT take()'), 'A attempt 2 heartbeat 1000', 'it is there for others');
sql(q{SELECT evtstore.nack(receipt, 'not me', '0s') FROM command});
leap(1500);
is(steps('b'), 'A 1 unknown States.HeartbeatTimeout, A 2 waiting', 'nor who said that he cannot');
is(sql('SELECT take()'), 'A attempt 2 heartbeat 1000', 'there it is again');
leap(1500);
poll_sql($node, q{SELECT saga = 'succeeded' FROM steps WHERE business_key = 'b'});
is(steps('b'), 'A 1 unknown States.HeartbeatTimeout, A 2 unknown States.HeartbeatTimeout', 'retries are spent');
is(sql(q{SELECT output->'why'->>'Error' FROM evtstore.sagas WHERE business_key = 'b'}), 'States.HeartbeatTimeout', 'and a Catch of States.Timeout has it');

# --- a crash ---

sql(q{SELECT evtstore.start_saga('beat', business_key => 'c')});
is(sql('SELECT take()'), 'A attempt 1 heartbeat 1000', 'one that somebody has');
$node->stop('immediate');
$node->start;
leap(1500);
is(steps('c'), 'A 1 waiting', 'after a crash nobody knows who had it: its time begins with who has it next');
is(sql('SELECT take()'), 'A attempt 1 heartbeat 1000', 'him');
leap(1500);
poll_sql($node, q{SELECT steps LIKE '%A 2 waiting' FROM steps WHERE business_key = 'c'});
is(sql('SELECT take()'), 'A attempt 2 heartbeat 1000', 'the next attempt');
foreach (1 .. 130)
{
	leap(800);
	last if sql('SELECT evtstore.extend(receipt, interval \'10h\') FROM command') eq 'f';
}
is(steps('c'), 'A 1 unknown States.HeartbeatTimeout, A 2 unknown States.Timeout', 'TimeoutSeconds ends who is only alive');

# --- from the input ---

sql(q{SELECT evtstore.start_saga('given', jsonb_build_object('beat', n), business_key => 'n' || n) FROM unnest('{0,9000,1000}'::int[]) n});
is(sql('SELECT take()'), 'A attempt 1 heartbeat , A attempt 1 heartbeat , A attempt 1 heartbeat 1000', '0 is none, nor what is longer than the timeout');
leap(2000);
poll_sql($node, q{SELECT steps LIKE '%Timeout' FROM steps WHERE business_key = 'n1000'});
is(join(' | ', map { steps($_) } qw(n0 n9000 n1000)), 'A 1 waiting | A 1 waiting | A 1 unknown States.HeartbeatTimeout', 'and they do what they say');
sql(q{SELECT evtstore.start_saga('given', '{"beat": "often"}', business_key => 'bad')});
is(steps('bad'), 'A 1 failed States.Runtime', 'what is no number is refused');

done_testing();
