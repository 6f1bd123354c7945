# Subscriptions under everything at once, checked in the manner of Jepsen's Kafka workload: appenders that roll back, use
# savepoints and overlap; consumers that come and go, with names and without, that settle in one transaction with the poll or
# later, one by one, in any order, that roll back, nack, release, leave, let their lease run out or are never heard of again;
# while sessions are terminated, backends killed and the whole server crashes, and somebody changes the numbers of lanes.
#
# Each consumer's effect is a row written in the transaction that acknowledges: what was promised to take effect exactly
# once.  So nothing may be missing or there twice, and in the order of effects the events of each key are in the order of
# positions.  Events of rolled back transactions must not be there, and none may have been skipped.
#
# EVTSTORE_SECONDS: how long, without start and check; forty by default.  EVTSTORE_SEED: for the same choices again, as
# far as the scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtDisturb;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($seed, $seconds) = EvtDisturb::choices(40);
my $APPENDERS = 3;
my $STREAMS   = 15;
# what a long run leaves behind, few lanes may have to work off alone
my $PATIENCE  = 90 + 2 * $seconds;
# out of the way of the results: tmp_check is kept when the test fails
my $dir = $PostgreSQL::Test::Utils::tmp_check;

# filter, key of an event, how many lanes, how many consumers, whether they have names, options
my %subscription = (
	all      => { filter => '{}',                                    key => 'stream', lanes => 8, consumers => 3, named => 1 },
	field    => { filter => '{"categories": ["even"]}',              key => 'field',  lanes => 3, consumers => 2, named => 0, options => '{"key": "${data.field}"}' },
	two      => { filter => '{"categories": ["even", "odd"]}',       key => 'stream', lanes => 2, consumers => 2, named => 1 },
	types    => { filter => '{"types": ["A", "C"]}',                 key => 'stream', lanes => 4, consumers => 2, named => 1 });

# what a subscription's filter selects, as SQL over evtstore.events
my %selects = (all => 'true', field => q{stream LIKE 'even-%'}, two => 'stream IS NOT NULL', types => q{type IN ('A', 'C')});

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 40', 'deadlock_timeout = 30ms', 'restart_after_crash = on',
	'evtstore.poll_interval = 200ms', 'evtstore.janitor_interval = 300ms', '');

$node->safe_psql('postgres', q{
	CREATE TABLE effect (n bigserial, subscription text, position bigint, key text, consumer text, attempt int, PRIMARY KEY (subscription, position))});
foreach my $name (sort keys %subscription)
{
	my $options = $subscription{$name}{options} // '{}';
	# failures come again at once and never end
	$options =~ s/\{/{"retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0},/;
	$options =~ s/,\}$/}/;
	$node->safe_psql('postgres',
		"SELECT evtstore.create_subscription('$name', '$subscription{$name}{filter}', lanes => $subscription{$name}{lanes}, options => '$options')");
}

my $disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	clients => [ 'subscription appender', 'subscription consumer' ],
	ways    => { lanes => \&change_lanes },
	every   => { lanes => 0.3, terminate => 0.7, kill => 7, crash => 8 });

sub run_appender
{
	my $number = shift;
	my $client = EvtClient->new($node, 'subscription appender');

	srand $seed * 100 + $number;
	until ($disturb->is_over)
	{
		my $appends = 1 + int rand 3;
		next unless $client->do('BEGIN');
		my $alive = 1;
		foreach (1 .. $appends)
		{
			my $stream    = int rand $STREAMS;
			my $category  = $stream % 2 ? 'odd' : 'even';
			my $type      = (qw(A B C))[ rand 3 ];
			my $field     = int rand 6;
			my $savepoint = rand() < 0.2;
			my $events    = join ',', map { qq({"type": "$type", "data": {"field": "f$field"}}) } 1 .. 1 + rand 3;

			$alive &&= $client->do('SAVEPOINT s') if $savepoint;
			$alive &&= $client->do("SELECT * FROM evtstore.append_events('$category-$stream', '[$events]')");
			$alive &&= $client->do('ROLLBACK TO s') if $savepoint && rand() < 0.5;
			# sleep: an appender that takes its time, so that others overtake it
			$alive &&= $client->do('SELECT pg_sleep(' . rand(0.03) . ')') if rand() < 0.2;
			last unless $alive;
		}
		$client->do(rand() < 0.2 ? 'ROLLBACK' : 'COMMIT') if $alive;
	}
	return;
}

my %STALE = (ST007 => 1);

sub run_consumer
{
	my ($name, $number) = @_;
	my $client   = EvtClient->new($node, 'subscription consumer');
	my $spec     = $subscription{$name};
	my $consumer = $spec->{named} ? "'$name-$number'" : 'NULL';
	my $idle     = 0;

	srand $seed * 1000 + 10 * ord($name) + $number;
	# until somebody says that all is done
	until (-e "$dir/stop")
	{
		my $max   = 1 + int rand 12;
		my $lease = (qw(200ms 1s 5s))[ rand 3 ];
		my $poll  = "evtstore.poll('$name', $consumer, $max, '$lease')";
		my $key   = $spec->{key} eq 'stream' ? 'stream' : q{body->>'field'};
		my $calm  = $disturb->is_over;    # towards the end nothing is thrown away any more
		my $way   = rand;

		if ($way < 0.4)
		{
			# all in one transaction
			next unless $client->do('BEGIN');
			my $rows = $client->do(qq{WITH polled AS MATERIALIZED (SELECT * FROM $poll),
				done AS (INSERT INTO effect (subscription, position, key, consumer, attempt)
					SELECT '$name', position, $key, '$number', attempt FROM polled ORDER BY position RETURNING 1)
				SELECT coalesce(array_agg(receipt), '{}') FROM polled}) // next;
			$client->do("SELECT evtstore.ack('$rows->[0][0]'::text[])") // next;
			$client->do(!$calm && rand() < 0.2 ? 'ROLLBACK' : 'COMMIT');
			next;
		}

		my $rows = $client->do("SELECT receipt, position, $key, attempt, key FROM $poll") // next;
		next unless @$rows;
		fault("$name: not in order: " . join ' ', map { $_->[1] } @$rows)
		  if $spec->{lanes} > 0 && grep { $rows->[$_][1] == $rows->[ $_ - 1 ][1] } 1 .. $#$rows;
		fault("$name: key $_->[4] for $_->[2]") foreach grep { ($_->[4] // '') ne ($_->[2] // '') } @$rows;

		if ($way < 0.5 && !$calm)
		{
			# given up, in one of several ways
			my $how = rand;
			if    ($how < 0.4) { }                                                     # forgotten: the lease runs out
			elsif ($how < 0.6) { $client->do("SELECT evtstore.leave('$name', $consumer)") if $spec->{named} }
			elsif ($how < 0.8) { $client->do('SELECT evtstore.release(ARRAY[' . join(',', map { "'$_->[0]'" } @$rows) . '])', %STALE) }
			else               { $client->{wire}->close if $client->{wire} }
			next;
		}
		# one transaction for each; where keys allow it, in another order
		my @order = @$rows;
		if (rand() < 0.3)
		{
			my %of_key;
			push @{ $of_key{ $_->[2] // $_->[1] } }, $_ foreach @order;
			@order = map { @$_ } map { $of_key{$_} } sort { rand() <=> 0.5 } keys %of_key;
		}
		# who does not get through with an event leaves the later ones of its key alone
		my %left;
		foreach my $event (@order)
		{
			my ($receipt, $position, $its_key, $attempt) = @$event;
			my $back = !$calm && rand() < 0.1;

			next if $left{ $its_key // $position };
			$left{ $its_key // $position } = 1;
			if (!$calm && rand() < 0.05)
			{
				$client->do("SELECT evtstore.nack('$receipt', 'a bad day')", %STALE);
				next;
			}
			$client->do('BEGIN') // last;
			# the effect first: the receipt decides whether it counts
			$client->do("INSERT INTO effect (subscription, position, key, consumer, attempt) VALUES ('$name', $position, "
				  . (defined $its_key ? "'$its_key'" : 'NULL') . ", '$number', $attempt)", 23505 => 1) // next;
			$client->do("SELECT evtstore.ack('$receipt')", %STALE) // next;
			$client->do($back ? 'ROLLBACK' : 'COMMIT') // last;
			$left{ $its_key // $position } = $back;
		}
	}
	return;
}

sub fault
{
	append_to_file("$dir/faults", shift() . "\n");
	return;
}

start_child("appender $_", do { my $n = $_; sub { run_appender($n) } }) foreach 1 .. $APPENDERS;
foreach my $name (sort keys %subscription)
{
	start_child("consumer $name $_", do { my $n = $_; sub { run_consumer($name, $n) } }) foreach 1 .. $subscription{$name}{consumers};
}

# --- meanwhile ---

# whatever is handed out, settled or set aside meanwhile
sub change_lanes
{
	my @names = sort keys %subscription;
	my $name  = $names[ rand @names ];
	my $lanes = 1 + int rand 12;

	return defined $disturb->ask("SELECT evtstore.alter_subscription('$name', '{\"lanes\": $lanes}')");
}

$disturb->run;

# --- the end ---

is(finish_children('appender', $PATIENCE), '', 'all appenders came to their end');
foreach my $name (sort keys %subscription)
{
	my $done = eval {
		poll_until("all events of $name",
			sub { $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM evtstore.events WHERE $selects{$name}) = (SELECT count(*) FROM effect WHERE subscription = '$name')") eq 't' },
			$PATIENCE);
		1;
	};
	ok($done, "$name: every event took effect");
}
append_to_file("$dir/stop", '');
is(finish_children('consumer', $PATIENCE), '', 'all consumers came to their end');
is(-e "$dir/faults" ? slurp_file("$dir/faults") : '', '', 'each poll was in order');

foreach my $name (sort keys %subscription)
{
	is( $node->safe_psql('postgres', "SELECT count(*) FROM effect f LEFT JOIN evtstore.events e ON e.position = f.position AND $selects{$name}
			WHERE f.subscription = '$name' AND e.position IS NULL"),
		0, "$name: no effect of an event that is not there, or that the filter does not select");
	is( $node->safe_psql('postgres', "SELECT count(*) FROM (SELECT position, lag(position) OVER (PARTITION BY key ORDER BY n) AS before FROM effect
			WHERE subscription = '$name') o WHERE before > position"),
		0, "$name: the events of each key in order");
	is( $node->safe_psql('postgres', "SELECT blocked + retrying + waiting FROM evtstore.subscription_status WHERE name = '$name'"),
		0, "$name: nothing is left aside");
	is($node->safe_psql('postgres', "SELECT count(*) FROM evtstore.poll('$name', 'auditor', 1000)"), 0, "$name: nothing is left to do");
}
# whoever polls finds out which lanes came to their end
poll_until('the janitor left one checkpoint of each present lane', sub {
	$node->safe_psql('postgres', "SELECT count(*) FROM evtstore.poll('$_', 'auditor', 1000)") foreach sort keys %subscription;
	$node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM evtstore_internal.lane_generation) = ' . keys(%subscription) . q{ AND
		(SELECT count(*) FROM evtstore_internal.checkpoint) <= (SELECT sum(lanes + 1) FROM evtstore.subscription_status)}) eq 't';
}, $PATIENCE);
pass('the janitor left one checkpoint of each present lane');

# --- was it worth it? ---

diag $node->safe_psql('postgres', q{SELECT (SELECT count(*) FROM evtstore.events) || ' events, ' || string_agg(subscription || ': ' || n || ' (attempts up to ' || a || ')', ', ')
	FROM (SELECT subscription, count(*) AS n, max(attempt) AS a FROM effect GROUP BY 1) s}), ' ', $disturb->summary;
$disturb->check;
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM effect WHERE attempt > 1'), '>', 0, 'events came again');
done_testing();
