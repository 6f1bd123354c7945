# Projections under everything at once: appenders that roll back, use savepoints and overlap, while workers are terminated and
# killed, the server crashes, lanes are changed, projections paused and resumed, and one is switched between sync and async.
#
# At any moment, in one snapshot, the table of a projection is the fold of the events up to its place: those that its checkpoint
# covers, or all that are there where it is sync.  In the end it is the fold of all events.  A log of what was applied has
# each event once, and those of a stream in order of versions; also where handlers fail at random.
#
# EVTSTORE_SECONDS: how long, without start and check; twenty by default.  EVTSTORE_SEED: for the same choices again, as far as the
# scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtTest;
use EvtWire;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds   = $ENV{EVTSTORE_SECONDS} || 20;
my $seed      = $ENV{EVTSTORE_SEED}    || 1 + time % 1_000_000;
my $APPENDERS = 3;
my $PATIENCE  = 60 + $seconds;

diag "EVTSTORE_SEED=$seed EVTSTORE_SECONDS=$seconds";
srand $seed;

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 40', 'restart_after_crash = on', 'evtstore.delivery_workers = 3',
	'evtstore.poll_interval = 200ms', 'evtstore.janitor_interval = 300ms', '');

sub sql { return $node->safe_psql('postgres', shift) }

# --- the projections ---

my %log = map { $_ => "${_}_log" } qw(log lanes flip shaky);
sql("CREATE TABLE $_ (n bigserial, position bigint PRIMARY KEY, stream text, version bigint)") foreach sort values %log;
sql(q{
	CREATE TABLE counts (stream text PRIMARY KEY, n bigint, sum bigint, version bigint);
	CREATE FUNCTION count_up(events evtstore.event[]) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.counts SELECT stream, count(*), sum((data->>'v')::int), max(version) FROM unnest(events) GROUP BY stream
		ON CONFLICT (stream) DO UPDATE SET n = counts.n + EXCLUDED.n, sum = counts.sum + EXCLUDED.sum, version = EXCLUDED.version;
	END $$;
	CREATE FUNCTION stumble(event evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.shaky_log (position, stream, version) VALUES (event.position, event.stream, event.version);
		IF random() < 0.01 THEN RAISE 'a bad moment'; END IF;
	END $$});

sub note { return "INSERT INTO $log{ $_[0] } (position, stream, version) SELECT (\$1).position, (\$1).stream, (\$1).version" }

sql(q{SELECT evtstore.create_projection('counts', '{"*": {"batch": "public.count_up"}}')});
sql(qq{SELECT evtstore.create_projection('log', '{"A": "@{[note('log')]}", "B": "@{[note('log')]}"}')});
sql(qq{SELECT evtstore.create_projection('lanes', '{"*": "@{[note('lanes')]}"}', options => '{"lanes": 4}')});
sql(qq{SELECT evtstore.create_projection('flip', '{"*": "@{[note('flip')]}"}')});
sql(q{SELECT evtstore.create_projection('shaky', '{"*": {"fn": "public.stumble"}}',
	options => '{"lanes": 2, "retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0}}')});

# --- what is so at any moment ---

# the events that a projection has by its place, in the snapshot of the statement
sub has
{
	my ($name) = @_;

	return qq{(SELECT e.*, s.name AS stream FROM evtstore_internal.event e JOIN evtstore_internal.stream s ON s.id = e.stream_id
		WHERE e.position <= (SELECT CASE WHEN d.spec->>'mode' = 'sync' THEN 9223372036854775807
				ELSE (SELECT max(k.position) FROM evtstore_internal.checkpoint k WHERE k.subscription_id = d.id) END
			FROM evtstore_internal.definition d WHERE d.name = '$name'))};
}

my %differs = (
	counts => q{SELECT count(*) FROM (SELECT stream, count(*) AS n, sum((data->>'v')::int) AS sum, max(version) AS version FROM } . has('counts')
	  . q{ e GROUP BY stream) f FULL JOIN counts c USING (stream) WHERE (f.n, f.sum, f.version) IS DISTINCT FROM (c.n, c.sum, c.version)},
	log  => q{SELECT count(*) FROM (SELECT position FROM } . has('log') . q{ e WHERE type IN ('A', 'B')) f FULL JOIN log_log l USING (position) WHERE f.position IS NULL OR l.n IS NULL},
	flip => q{SELECT count(*) FROM } . has('flip') . q{ f FULL JOIN flip_log l USING (position) WHERE f.type IS NULL OR l.n IS NULL});

# --- appenders ---

my $started = time;

sub run_appender
{
	my $number = shift;
	my $client = EvtClient->new($node, 'projection appender');

	srand $seed * 100 + $number;
	while (time < $started + $seconds)
	{
		next unless $client->do('BEGIN');
		my $alive = 1;
		foreach (1 .. 1 + int rand 3)
		{
			my $savepoint = rand() < 0.2;
			my $stream    = 's-' . int rand 12;
			my $events    = join ',', map { sprintf '{"type": "%s", "data": {"v": %d}}', (qw(A B C))[ rand 3 ], rand 100 } 1 .. 1 + rand 4;

			$alive &&= $client->do('SAVEPOINT s') if $savepoint;
			$alive &&= $client->do("SELECT * FROM evtstore.append_events('$stream', '[$events]')");
			$alive &&= $client->do('ROLLBACK TO s') if $savepoint && rand() < 0.5;
			# sleep: an appender that takes its time, so that others overtake it
			$alive &&= $client->do('SELECT pg_sleep(' . rand(0.02) . ')') if rand() < 0.2;
			last unless $alive;
		}
		$client->do(rand() < 0.2 ? 'ROLLBACK' : 'COMMIT') if $alive;
	}
	return;
}

start_child("appender $_", do { my $n = $_; sub { run_appender($n) } }) foreach 1 .. $APPENDERS;

# --- meanwhile ---

my @faults;
my %looked;

# 0 where the server is away
sub try_sql
{
	my @statements = @_;
	my $wire = EvtWire->new($node, 'postgres', 'projection main') or return;
	my $answer;

	foreach my $statement (@statements)
	{
		$answer = $wire->query($statement);
		last unless $answer->{rows};
	}
	$wire->close;
	return $answer->{rows};
}

sub a_worker
{
	my $rows = try_sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'evtstore delivery%'}) // return;

	return @$rows ? $rows->[ rand @$rows ][0] : undef;
}

sub kill_worker
{
	my $pid = a_worker() // return 0;

	return 0 unless kill 'KILL', $pid;
	poll_until('the server after a worker was killed', sub { my $wire = EvtWire->new($node, 'postgres', 'projection main'); $wire && $wire->close; $wire });
	return 1;
}

sub look
{
	my @names = sort keys %differs;
	my $name  = $names[ rand @names ];
	my $rows  = try_sql($differs{$name}) // return 0;

	push @faults, "$name differs in $rows->[0][0] rows" if $rows->[0][0] != 0;
	$looked{$name}++;
	return 1;
}

my %ways = (
	look      => [ 0.1, \&look ],
	switch    => [ 0.7, sub { my $to = rand() < 0.5 ? 'sync' : 'async'; my $rows = try_sql("SELECT evtstore.switch_projection('flip', '$to')"); $rows ? 1 : 0 } ],
	lanes     => [ 0.7, sub { try_sql(sprintf q{SELECT evtstore.alter_projection('%s', '{"lanes": %d}')}, (qw(lanes shaky))[ rand 2 ], 1 + rand 6) ? 1 : 0 } ],
	pause     => [ 0.7, sub { my $name = (qw(counts log lanes shaky))[ rand 4 ]; try_sql("SELECT evtstore.pause_projection('$name')", "SELECT evtstore.resume_projection('$name')") ? 1 : 0 } ],
	terminate => [ 0.7, sub { my $pid = a_worker() // return 0; try_sql("SELECT pg_terminate_backend($pid)") ? 1 : 0 } ],
	kill      => [ 5, \&kill_worker ],
	crash     => [ 6, sub { crash($node); 1 } ]);
# seconds until each happens again, on average
my %next = map { $_ => $started + rand(2 * $ways{$_}[0]) } sort keys %ways;
my %disturbed;
# even the shortest run has one of each
$next{$_} = $started + $seconds * (0.2 + rand 0.5) foreach grep { $ways{$_}[0] > $seconds / 3 } sort keys %ways;
while (time < $started + $seconds)
{
	foreach my $way (grep { time > $next{$_} } sort keys %ways)
	{
		$next{$way} = time + rand 2 * $ways{$way}[0];
		$disturbed{$way}++ if $ways{$way}[1]->();
	}
	select undef, undef, undef, 0.02;    # sleep: until the next of them is due
}

# --- the end ---

is(finish_children('appender', $PATIENCE), '', 'all appenders came to their end');
sql("SELECT evtstore.resume_projection('$_')") foreach qw(counts log lanes shaky);
my $last = sql('SELECT evtstore.head_position()');
foreach my $name (qw(counts log lanes flip shaky))
{
	is(($node->psql('postgres', "CALL evtstore.wait_for('$name', $last, '${PATIENCE}s')"))[0], 0, "$name has all events");
}
is(join("\n", @faults), '', 'at any moment the tables were the folds up to their places');
is(sql($differs{$_}), 0, "$_ is the fold of all events") foreach sort keys %differs;
foreach my $name (qw(lanes shaky))
{
	is(sql("SELECT count(*) FROM evtstore_internal.event FULL JOIN $log{$name} l USING (position) WHERE type IS NULL OR n IS NULL"), 0, "$name applied each event once");
}
foreach my $name (sort keys %log)
{
	is(sql("SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY stream ORDER BY n) AS before FROM $log{$name}) o WHERE before > version"),
		0, "$name applied those of each stream in order");
}
is(sql(q{SELECT string_agg(name || ' ' || state, ', ') FROM evtstore.projection_status WHERE state <> 'active' OR failed_event IS NOT NULL}), '', 'nothing is left aside');

# --- was it worth it? ---

diag sql('SELECT count(*) FROM evtstore.events'), ' events, ', join ' ', map { "$_: $disturbed{$_}" } sort keys %disturbed;
cmp_ok($disturbed{$_} // 0, '>', 0, "there was: $_") foreach sort keys %ways;
cmp_ok($looked{$_} // 0, '>', 0, "looked at $_") foreach sort keys %differs;
done_testing();
