# Reactors, and sagas that events answer, under everything at once: appenders of many keys that roll back, use savepoints and overlap; functions that fail
# now and then; somebody who holds instances; participants that answer commands by events and are killed; while sessions are terminated, backends and workers killed and
# the whole server crashes.
#
# In the end each reactor's instances are the fold of its events, key by key in order of position, each event once: those that started one, those that ended one, and none
# of a rolled back transaction. What its function asked for is there once for each event that it handled, in that order. And each saga was answered by an event
# that is there, once.
#
# EVTSTORE_SECONDS: how long, without start and check; twenty by default.  EVTSTORE_SEED: for the same choices again, as far as the scheduling of
# processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtDisturb;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($seed, $seconds) = EvtDisturb::choices(20);
my $APPENDERS = 3;
my $KEYS      = 12;
my $PATIENCE  = 90 + 3 * $seconds;
my $dir       = $PostgreSQL::Test::Utils::tmp_check;

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 40', 'deadlock_timeout = 30ms', 'restart_after_crash = on',
	'evtstore.poll_interval = 200ms', '');

sub sql { return $node->safe_psql('postgres', shift) }

# seen: positions of the events that it handled; what fails has failed a tenth of the time
sql(q{
	SELECT evtstore.create_queue('out'), evtstore.create_queue('work', '{"retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1}}');
	CREATE FUNCTION react(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	DECLARE
		result jsonb; timers int := coalesce(state->'timers', '0')::int;
	BEGIN
		IF random() < 0.1 THEN RAISE EXCEPTION 'a bad day'; END IF;
		IF event->>'type' = 'evtstore.timer' THEN
			RETURN jsonb_build_object('state', state || jsonb_build_object('timers', timers + 1));
		END IF;
		result := jsonb_build_object(
			'state', jsonb_build_object('timers', timers, 'seen', coalesce(state->'seen', '[]') || jsonb_build_array(event->'position')),
			'commands', jsonb_build_array(jsonb_build_object('queue', 'out', 'key', event#>>'{data,k}', 'body', event->'position')),
			'events', jsonb_build_array(jsonb_build_object('stream', 'echo-' || (event#>>'{data,k}'), 'type', 'Echo', 'data', event->'position')),
			'done', event->>'type' = 'Ended');
		IF state = '{}' THEN
			result := result || '{"timers": [{"name": "t", "after": "50 ms"}]}';
		END IF;
		RETURN result;
	END $$;
	SELECT evtstore.define_reactor('fold', '[{"types": ["Begun"], "correlate": "$.data.k", "starts": true}, {"types": ["Added", "Ended"], "correlate": "$.data.k"}]', 'public.react',
		'{"retry": {"max_attempts": 0, "initial": "5 ms", "multiplier": 1}, "lanes": 3}');
	SELECT evtstore.define_saga('asked', '{"StartAt": "Ask", "Saga": {"Correlation": "$.data.id"}, "States": {
		"Ask": {"Type": "Task", "Resource": "queue:work", "Parameters": {"id.$": "$$.Execution.Id"}, "Saga": {"Undo": "none", "ReplyEvents": ["Answered"], "Correlate": "$$.Execution.Id"}, "End": true}}}')});

my $disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	clients => [ 'reactor appender', 'reactor participant', 'reactor holder' ],
	every   => { terminate => 0.7, kill => 7, crash => 8, worker => 6, end => 3 });

# a key's events are in streams of several
sub run_appender
{
	my $number = shift;
	my $client = EvtClient->new($node, 'reactor appender');

	srand $seed * 100 + $number;
	until ($disturb->is_over)
	{
		next unless $client->do('BEGIN');
		my $alive = 1;
		foreach (1 .. 1 + int rand 3)
		{
			my $stream    = 'of-' . int rand 8;
			my $savepoint = rand() < 0.2;
			my $events    = join ',', map { sprintf '{"type": "%s", "data": {"k": %d}}', (qw(Begun Added Added Added Ended Other))[ rand 6 ], rand $KEYS } 1 .. 1 + rand 3;

			$alive &&= $client->do('SAVEPOINT s') if $savepoint;
			$alive &&= $client->do("SELECT * FROM evtstore.append_events('$stream', '[$events]')");
			$alive &&= $client->do('ROLLBACK TO s') if $savepoint && rand() < 0.5;
			$alive &&= $client->do(q{SELECT evtstore.start_saga('asked')}) if rand() < 0.2;
			# sleep: an appender that takes its time, so that others overtake it
			$alive &&= $client->do('SELECT pg_sleep(' . rand(0.03) . ')') if rand() < 0.3;
			last unless $alive;
		}
		$client->do(rand() < 0.2 ? 'ROLLBACK' : 'COMMIT') if $alive;
	}
	return;
}

my %STALE = (ST007 => 1);

# answers by events: with the acknowledgement, without one, or twice
sub run_participant
{
	my $number = shift;
	my $client = EvtClient->new($node, 'reactor participant');

	srand $seed * 1000 + $number;
	until (-e "$dir/stop")
	{
		my $lease = (qw(200ms 5s))[ rand 2 ];
		my $rows = $client->do("SELECT receipt, body->>'id' FROM evtstore.receive('work', max_count => 5, lease => '$lease')") // next;

		foreach my $command (@$rows)
		{
			my ($receipt, $id) = @$command;

			next if !$disturb->is_over && rand() < 0.1;
			$client->do('BEGIN') // last;
			$client->do(qq{SELECT evtstore.append('answer-$number', 'Answered', '{"id": "$id"}')}) // next foreach 1 .. (rand() < 0.1 ? 2 : 1);
			$client->do("SELECT evtstore.ack('$receipt')", %STALE) // next if rand() < 0.5;
			$client->do(!$disturb->is_over && rand() < 0.2 ? 'ROLLBACK' : 'COMMIT') // last;
		}
	}
	return;
}

# instances that somebody has for a while
sub run_holder
{
	my $client = EvtClient->new($node, 'reactor holder');

	srand $seed;
	until ($disturb->is_over)
	{
		$client->do('BEGIN') // next;
		$client->do('SELECT id FROM evtstore_internal.saga WHERE ended_at IS NULL ORDER BY random() LIMIT 2 FOR NO KEY UPDATE') // next;
		# sleep: who holds what others need
		$client->do('SELECT pg_sleep(' . rand(0.1) . ')') // next;
		$client->do('COMMIT') // next;
		# sleep: so that others come to them
		$client->do('SELECT pg_sleep(0.05)');
	}
	return;
}

start_child("appender $_", do { my $n = $_; sub { run_appender($n) } }) foreach 1 .. $APPENDERS;
start_child("participant $_", do { my $n = $_; sub { run_participant($n) } }) foreach 1 .. 2;
start_child('holder', \&run_holder);
$disturb->run;
is(finish_children('appender', 60), '', 'all appenders came to their end');
is(finish_children('holder', 60), '', 'and who held instances');

# all is handled: no event waits, no timer, no answer
poll_until('the reactor to be level', sub { ($disturb->ask(q{SELECT bool_and(lag_events = 0 AND blocked = 0 AND retrying = 0 AND waiting = 0) FROM evtstore_internal.subscription_status WHERE kind = 'reactor'}) // '') eq 't' }, $PATIENCE);
poll_until('all that failed to be done', sub { ($disturb->ask(q{SELECT count(*) FROM evtstore_internal.saga_step WHERE status IN ('waiting', 'pending')}) // 'x') eq '0' }, $PATIENCE);
append_to_file("$dir/stop", '');
is(finish_children('participant', 60), '', 'all participants came to their end');

# the fold of the events, as it has to be: [first position, all positions, is it open]
my (%open, @expected, %handled);
foreach my $line (split /\n/, sql(q{SELECT position, type, data->>'k' FROM evtstore.events WHERE type IN ('Begun', 'Added', 'Ended') ORDER BY position}))
{
	my ($position, $type, $key) = split /\|/, $line;

	push @expected, $open{$key} = { key => $key, seen => [] } if !$open{$key} && $type eq 'Begun';
	next unless $open{$key};
	push @{ $open{$key}{seen} }, $position;
	push @{ $handled{$key} }, $position;
	delete $open{$key} if $type eq 'Ended';
}
$_->{status} = 'running' foreach values %open;
my $expected = join "\n", map { sprintf '%s %s [%s]', $_->{key}, $_->{status} // 'succeeded', join ', ', @{ $_->{seen} } } @expected;
my $found = sql(q{SELECT format('%s %s %s', business_key, status, output->'seen') FROM evtstore.sagas WHERE name = 'fold' ORDER BY (input->'position')::bigint});

cmp_ok(scalar @expected, '>', 20, 'there was something to do: ' . @expected . ' instances');
is($found, $expected, 'each instance is the fold of its events, in order, each once');
my $in_order = join "\n", map { "$_ " . join ' ', @{ $handled{$_} } } sort keys %handled;
is(sql(q{SELECT key || ' ' || string_agg(body::text, ' ' ORDER BY m.id) FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id
	WHERE d.name = 'out' GROUP BY key ORDER BY key COLLATE "C"}), $in_order, 'its commands are there, each once, in that order');
is(sql(q{SELECT split_part(stream, '-', 2) || ' ' || string_agg(data::text, ' ' ORDER BY version) FROM evtstore.events WHERE type = 'Echo' GROUP BY stream ORDER BY stream COLLATE "C"}), $in_order,
	'and its events');
is(sql(q{SELECT count(*) FROM evtstore.sagas WHERE name = 'fold' AND status = 'running' AND (output->'timers')::int <> 1 OR (output->'timers')::int > 1}), 0, 'each timer once');
is(sql(q{SELECT count(*) FROM evtstore.sagas s WHERE status IS DISTINCT FROM (SELECT data->>'status' FROM evtstore.events WHERE stream = 'saga-' || s.id ORDER BY version DESC LIMIT 1)}),
	0, 'the last event of each agrees');

# answers
cmp_ok(sql(q{SELECT count(*) FROM evtstore.sagas WHERE name = 'asked'}), '>', 10, 'sagas waited for events');
is(sql(q{SELECT count(*) FROM evtstore.sagas WHERE name = 'asked' AND status <> 'succeeded'}), 0, 'each was answered');
is(sql(q{SELECT count(*) FROM evtstore.sagas s WHERE name = 'asked' AND NOT EXISTS (SELECT FROM evtstore.events e WHERE e.type = 'Answered' AND e.id = (s.output->>'id')::uuid AND e.data->>'id' = s.id::text)}), 0,
	'by an event that is there, and its own');
is(sql(q{SELECT count(*) FROM evtstore_internal.saga_correlation}), 0, 'nothing waits for an event any more');
is(sql(q{SELECT coalesce(sum(ready + in_flight), 0) FROM evtstore.queue_status WHERE name IN ('work', 'evtstore:sagas')}), 0, 'nor is a command or an arrival left');

diag $disturb->summary;
$disturb->check;
done_testing();
