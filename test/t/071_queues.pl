# Queues under everything at once: senders with keys, priorities and delays that roll back, use savepoints and overlap;
# consumers that settle in one transaction with the receive or later, one by one, that roll back, nack, release, let their lease
# run out or are never heard of again; while sessions are terminated, backends killed and the whole server crashes.
#
# A sender writes what it sent into a table, and a consumer its effect, in the transaction that acknowledges.  So at the end
# the two are the same: nothing is lost, nothing took effect twice, nothing that was rolled back did; and in the order of
# effects the messages of each key are in the order of sending.  One queue has a limit of messages in flight, which is looked at
# all the while.
#
# EVTSTORE_SECONDS: how long, without start and check; twenty by default.  EVTSTORE_SEED: for the same choices again, as
# far as the scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtDisturb;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $PATIENCE = 90;
my $LIMIT    = 10;
my $dir      = $PostgreSQL::Test::Utils::tmp_check;
my %queue    = (plain => 2, keyed => 3, limited => 2);    # consumers of each
my %STALE    = (ST007 => 1);

my ($seed, $seconds) = EvtDisturb::choices(20);

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 40', 'deadlock_timeout = 30ms', 'restart_after_crash = on', '');

$node->safe_psql('postgres', q{
	CREATE TABLE sent (queue text, id bigint, key text, PRIMARY KEY (queue, id));
	CREATE TABLE effect (n bigserial, queue text, id bigint, key text, attempt int, PRIMARY KEY (queue, id))});
my $retry = '"retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0}';
$node->safe_psql('postgres', "SELECT evtstore.create_queue('$_', '{$retry}')") foreach qw(plain keyed);
$node->safe_psql('postgres', "SELECT evtstore.create_queue('limited', '{$retry, \"max_in_flight\": $LIMIT}')");

my $disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	clients => [ 'queue sender', 'queue consumer' ],
	every   => { terminate => 0.7, kill => 6, crash => 7 });

sub run_sender
{
	my $number = shift;
	my $client = EvtClient->new($node, 'queue sender');

	srand $seed * 100 + $number;
	until ($disturb->is_over)
	{
		next unless $client->do('BEGIN');
		my $alive = 1;
		foreach (1 .. 1 + rand 3)
		{
			my $queue     = (qw(plain keyed keyed limited))[ rand 4 ];
			my $key       = $queue eq 'keyed' || rand() < 0.3 ? "'k" . int(rand 6) . q{'} : 'NULL';
			my $delay     = rand() < 0.2 ? int(rand 200) . 'ms' : '0';
			my $priority  = int(rand 3) - 1;
			my $savepoint = rand() < 0.2;
			my $n         = rand() < 0.2 ? 1 + int rand 40 : 1;

			$alive &&= $client->do('SAVEPOINT s') if $savepoint;
			$alive &&= $client->do("INSERT INTO sent SELECT '$queue', id, $key FROM unnest(evtstore.send_batch('$queue',
				array_fill('{\"from\": $number}'::jsonb, ARRAY[$n]), keys => array_fill($key\::text, ARRAY[$n]), delay => '$delay', priority => $priority)) id");
			$alive &&= $client->do('ROLLBACK TO s') if $savepoint && rand() < 0.5;
			# sleep: a sender that takes its time, so that others overtake it
			$alive &&= $client->do('SELECT pg_sleep(' . rand(0.03) . ')') if rand() < 0.2;
			last unless $alive;
		}
		$client->do(rand() < 0.2 ? 'ROLLBACK' : 'COMMIT') if $alive;
	}
	return;
}

sub run_consumer
{
	my ($queue, $number) = @_;
	my $client = EvtClient->new($node, 'queue consumer');

	srand $seed * 1000 + 10 * ord($queue) + $number;
	# until somebody says that all is done
	until (-e "$dir/stop")
	{
		my $max     = 1 + int rand 12;
		my $lease   = (qw(200ms 1s 5s))[ rand 3 ];
		my $receive = "evtstore.receive('$queue', 'c$number', $max, '$lease')";
		my $calm    = $disturb->is_over;    # towards the end nothing is thrown away any more
		my $way     = rand;

		if ($way < 0.4)
		{
			# all in one transaction
			next unless $client->do('BEGIN');
			my $rows = $client->do(qq{WITH r AS MATERIALIZED (SELECT * FROM $receive),
				done AS (INSERT INTO effect (queue, id, key, attempt) SELECT '$queue', message_id, key, attempt FROM r RETURNING 1)
				SELECT coalesce(array_agg(receipt), '{}') FROM r}) // next;
			$client->do("SELECT evtstore.ack('$rows->[0][0]'::text[])") // next;
			$client->do(!$calm && rand() < 0.2 ? 'ROLLBACK' : 'COMMIT');
			next;
		}
		my $rows = $client->do("SELECT receipt, message_id, key, attempt FROM $receive") // next;
		next unless @$rows;
		my %of_key;
		$of_key{ $_->[2] }++ foreach grep { defined $_->[2] } @$rows;
		append_to_file("$dir/faults", "$queue: two of a key: @{[ %of_key ]}\n") if grep { $_ > 1 } values %of_key;
		if ($way < 0.5 && !$calm)
		{
			# given up: forgotten, so that the lease runs out; released; or the session ends
			my $how = rand;
			if    ($how < 0.4) { }
			elsif ($how < 0.8) { $client->do('SELECT evtstore.release(ARRAY[' . join(',', map { "'$_->[0]'" } @$rows) . '])', %STALE) }
			else               { $client->{wire}->close if $client->{wire} }
			next;
		}
		foreach my $message (sort { rand() <=> 0.5 } @$rows)
		{
			my ($receipt, $id, $key, $attempt) = @$message;

			if (!$calm && rand() < 0.1)
			{
				$client->do("SELECT evtstore.nack('$receipt', 'a bad day'" . (rand() < 0.5 ? q{, '0'} : '') . ')', %STALE);
				next;
			}
			$client->do('BEGIN') // last;
			# the effect first: the receipt decides whether it counts
			$client->do("INSERT INTO effect (queue, id, key, attempt) VALUES ('$queue', $id, " . (defined $key ? "'$key'" : 'NULL') . ", $attempt)",
				23505 => 1) // next;
			$client->do("SELECT evtstore.ack('$receipt')", %STALE) // next;
			$client->do(!$calm && rand() < 0.1 ? 'ROLLBACK' : 'COMMIT') // last;
		}
	}
	return;
}

start_child("sender $_", do { my $n = $_; sub { run_sender($n) } }) foreach 1 .. 3;
foreach my $name (sort keys %queue)
{
	start_child("consumer $name $_", do { my $n = $_; sub { run_consumer($name, $n) } }) foreach 1 .. $queue{$name};
}

# --- meanwhile ---

my $too_many;
$disturb->run(sub {
	my $in_flight = $disturb->ask(q{SELECT count(*) FROM evtstore_internal.in_flight() JOIN evtstore_internal.definition d ON d.id = queue_id WHERE d.name = 'limited'});
	$too_many = $in_flight if defined $in_flight && $in_flight > $LIMIT;
});

# --- the end ---

is(finish_children('sender', $PATIENCE), '', 'all senders came to their end');
my $done = eval {
	poll_until('all messages', sub { $node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM sent) <= (SELECT count(*) FROM effect)') eq 't' }, $PATIENCE);
	1;
};
ok($done, 'every message took effect');
append_to_file("$dir/stop", '');
is(finish_children('consumer', $PATIENCE), '', 'all consumers came to their end');
is(-e "$dir/faults" ? slurp_file("$dir/faults") : '', '', 'never two of a key at once');
is($too_many, undef, 'never more in flight than the limit');
is($node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT queue, id, key FROM effect EXCEPT SELECT queue, id, key FROM sent) s'), 0, 'nothing that was not sent');
is($node->safe_psql('postgres', 'SELECT string_agg(s::text, $$ $$) FROM (SELECT queue, id, key FROM sent EXCEPT SELECT queue, id, key FROM effect) s'), '', 'nothing is lost');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT id, lag(id) OVER (PARTITION BY queue, key ORDER BY n) AS before FROM effect
		WHERE key IS NOT NULL) o WHERE before > id'),
	0, 'the messages of each key in order');
is($node->safe_psql('postgres', 'SELECT sum(ready + delayed + in_flight + dead) FROM evtstore.queue_status'), 0, 'the queues are empty');
is($node->safe_psql('postgres', 'SELECT count(*) FROM evtstore_internal.in_flight()'), 0, 'and nobody holds anything');

# --- was it worth it? ---

diag $node->safe_psql('postgres', q{SELECT string_agg(queue || ': ' || n || ' (attempts up to ' || a || ')', ', ')
	FROM (SELECT queue, count(*) AS n, max(attempt) AS a FROM effect GROUP BY 1) s}), ' ', $disturb->summary;
$disturb->check;
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM effect WHERE attempt > 1'), '>', 0, 'messages came again');
done_testing();
