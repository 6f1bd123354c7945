# Projections under everything at once: appenders that roll back, use savepoints, overlap and have old snapshots, while workers are terminated and
# killed, the server crashes, lanes are changed, projections paused and resumed, one is switched between sync and async, and all of them
# are rebuilt, with the handlers that they have or with new ones; some rebuilds are cancelled.
#
# At any moment, in one snapshot, the table of a projection is the fold of the events up to its place: those that its checkpoint
# covers, or all that are there where it is sync.  In the end it is the fold of all events.  A log of what was applied has
# each event once, and those of a stream in order of versions; also where handlers fail at random.
#
# Whoever took his snapshot some time before he comes to a table, and finds the one that a rebuild put there, sees what that had
# applied by then: the fold up to some position, and no less than the projection had up to the head when the rebuild began.
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
	'max_worker_processes = 16', 'evtstore.rebuild_workers = 2', 'evtstore.poll_interval = 200ms', 'evtstore.janitor_interval = 300ms', '');

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

sub entry { return "INSERT INTO $log{ $_[0] } (position, stream, version) SELECT (\$1).position, (\$1).stream, (\$1).version" }

# the same handlers, in two ways: to replace the one by the other is a rebuild
my %versions = (
	counts => [ map { "SELECT evtstore.create_projection('counts', '{$_}', tables => '{counts}')" } '"*": {"batch": "public.count_up"}',
		'"A": {"batch": "public.count_up"}, "*": {"batch": "public.count_up"}' ],
	log => [ map { qq{SELECT evtstore.create_projection('log', '{"A": "@{[entry('log')]}", "B": "@{[entry('log')]}$_"}')} } '', ' WHERE true' ]);
sql($versions{$_}[0]) foreach sort keys %versions;
sql(qq{SELECT evtstore.create_projection('lanes', '{"*": "@{[entry('lanes')]}"}', options => '{"lanes": 4}')});
sql(qq{SELECT evtstore.create_projection('flip', '{"*": "@{[entry('flip')]}"}')});
sql(q{SELECT evtstore.create_projection('shaky', '{"*": {"fn": "public.stumble"}}', tables => '{shaky_log}',
	options => '{"lanes": 2, "retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0}}')});

# --- what is so at any moment ---

# its place by what is written down, in the snapshot of the statement
sub noted
{
	my ($name) = @_;

	return qq{(SELECT CASE WHEN d.spec->>'mode' = 'sync' THEN 9223372036854775807
			ELSE (SELECT max(k.position) FROM evtstore_internal.checkpoint k WHERE k.subscription_id = d.id) END
		FROM evtstore_internal.definition d WHERE d.kind = 'projection' AND d.name = '$name')};
}

# its place by what is in the table: the last event of it
my %seen = (
	counts => q{(SELECT coalesce(max(e.position), 0) FROM counts c JOIN evtstore_internal.stream s ON s.name = c.stream
		JOIN evtstore_internal.event e ON e.stream_id = s.id AND e.version = c.version)},
	map { $_ => "(SELECT coalesce(max(position), 0) FROM $log{$_})" } qw(log flip));

# how many rows of the table are not those of the fold up to a place
my %wants = (log => q{type IN ('A', 'B')}, flip => 'true');

sub differs
{
	my ($name, $place) = @_;
	my $events = "(SELECT e.*, s.name AS stream FROM evtstore_internal.event e JOIN evtstore_internal.stream s ON s.id = e.stream_id WHERE e.position <= $place)";

	return qq{SELECT count(*) FROM (SELECT position FROM $events e WHERE $wants{$name}) f FULL JOIN $log{$name} l USING (position)
		WHERE f.position IS NULL OR l.n IS NULL} if $wants{$name};
	return qq{SELECT count(*) FROM (SELECT stream, count(*) AS n, sum((data->>'v')::int) AS sum, max(version) AS version FROM $events e
		GROUP BY stream) f FULL JOIN $name c USING (stream) WHERE (f.n, f.sum, f.version) IS DISTINCT FROM (c.n, c.sum, c.version)};
}

# --- appenders ---

my $started = time;

sub run_appender
{
	my $number = shift;
	my $client = EvtClient->new($node, 'projection appender');

	srand $seed * 100 + $number;
	while (time < $started + $seconds)
	{
		next unless $client->do(rand() < 0.1 ? 'BEGIN ISOLATION LEVEL REPEATABLE READ' : 'BEGIN');
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
my ($refused, $across) = (0, 0);

# the rows of the last statement; undef where it was refused, or the server is away
sub try_sql
{
	my @statements = @_;
	my $wire = EvtWire->new($node, 'postgres', 'projection main') or return undef;
	my $answer;

	foreach my $statement (@statements)
	{
		$answer = $wire->query($statement);
		last if defined $answer->{sqlstate};
	}
	$wire->close;
	return $answer->{rows} if !$answer->{lost} && !defined $answer->{sqlstate};
	return undef if $answer->{lost} || $answer->{sqlstate} =~ /^57P0/;
	# while one is rebuilt, or there is nothing to cancel
	if ($answer->{sqlstate} eq '55000') { $refused++ }
	else { push @faults, "$answer->{sqlstate} $answer->{message} in $statements[0]" }
	return undef;
}

sub a_worker
{
	my $kind = shift;
	my $rows = try_sql("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'evtstore $kind%'") // return undef;

	return @$rows ? $rows->[ rand @$rows ][0] : undef;
}

sub terminate_worker
{
	my $pid = a_worker(shift) // return 0;

	return defined try_sql("SELECT pg_terminate_backend($pid)");
}

sub kill_worker
{
	my $pid = a_worker(shift) // return 0;

	return 0 unless kill 'KILL', $pid;
	poll_until('the server after a worker was killed', sub { my $wire = EvtWire->new($node, 'postgres', 'projection main'); $wire && $wire->close; $wire });
	return 1;
}

sub look
{
	my $name = (sort keys %seen)[ rand keys %seen ];
	my $rows = try_sql(differs($name, noted($name))) // return 0;

	push @faults, "$name differs in $rows->[0][0] rows" if $rows->[0][0] != 0;
	$looked{$name}++;
	return 1;
}

# --- rebuilds ---

my @all = qw(counts log lanes flip shaky);
# of each projection: the file that its table had last, how often that was another one, and its place when its last rebuild began; not above
# the head: a sync one has what is above, but a rebuild has it only in the end
my (%file, %ended, %floor);

# Was its last rebuild ended?  The place of the projection by now.
sub look_at_file
{
	my ($name) = @_;
	my $rows = try_sql(sprintf q{SELECT pg_relation_filenode('%s'), least(%s, evtstore.head_position())}, $log{$name} // $name, $seen{$name} // 0) // return undef;
	my ($file, $place) = @{ $rows->[0] };

	$ended{$name}++ if defined $file{$name} && $file{$name} != $file;
	$file{$name} = $file;
	return $place;
}

sub begin_rebuild
{
	my ($name, $call) = @_;
	my $place = look_at_file($name) // return 0;

	try_sql($call) // return 0;
	$floor{$name} = $place;
	return 1;
}

# in place: not where somebody looks
sub rebuild
{
	my $name = $all[ rand @all ];
	my $options = !$seen{$name} && rand() < 0.2 ? q{, '{"in_place": true}'} : '';

	return begin_rebuild($name, "SELECT evtstore.rebuild_projection('$name'$options)");
}

sub change_version
{
	my $name = (sort keys %versions)[ rand keys %versions ];

	return begin_rebuild($name, $versions{$name}[ rand 2 ]);
}

# one that is under way, or that has just been begun
sub cancel
{
	my $rows = try_sql(q{SELECT name FROM evtstore_internal.definition WHERE kind = 'rebuild' ORDER BY name}) // return 0;
	my $name = @$rows ? $rows->[ rand @$rows ][0] : $all[ rand @all ];

	return 0 unless @$rows || begin_rebuild($name, "SELECT evtstore.rebuild_projection('$name')");
	return defined try_sql("SELECT evtstore.cancel_rebuild('$name')");
}

# --- snapshots that are older than the look ---

my @snapshots;

# for a table that is being rebuilt, if there is one
sub take_snapshot
{
	my $rows = try_sql(q{SELECT name FROM evtstore_internal.definition WHERE kind = 'rebuild' AND name IN ('} . join("', '", sort keys %seen) . q{') ORDER BY name}) // return 0;
	my @names = @$rows ? map { $_->[0] } @$rows : sort keys %seen;
	my $name = $names[ rand @names ];
	my $wire = EvtWire->new($node, 'postgres', 'projection snapshot') or return 0;
	my $floor = $floor{$name} // 0;

	$wire->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	return 0 unless $wire->query('SELECT 1')->{rows};
	push @snapshots, { name => $name, wire => $wire, floor => $floor, due => time + rand 1.5 };
	return 1;
}

sub look_by_snapshot
{
	my ($name, $wire, $floor) = @{ $_[0] }{qw(name wire floor)};
	my $table  = $log{$name} // $name;
	my $answer = $wire->query(sprintf q{SELECT (%s), %s, pg_relation_filenode('%s') <> relfilenode FROM pg_class WHERE oid = '%s'::regclass},
		differs($name, $seen{$name}), $seen{$name}, $table, $table);

	$wire->close;
	return if $answer->{lost} || ($answer->{sqlstate} // '') =~ /^57P0/;
	return push @faults, "$answer->{sqlstate} $answer->{message} by an older snapshot" if defined $answer->{sqlstate};
	my ($rows, $place, $is_new) = @{ $answer->{rows}[0] };
	push @faults, "$name differs in $rows rows from the fold up to $place by an older snapshot" if $rows != 0;
	push @faults, "$name is at $place by an older snapshot, and was at $floor before" if $place < $floor;
	$looked{"$name by an older snapshot"}++;
	$across++ if $is_new eq 't';
	return;
}

my %ways = (
	look              => [ 0.1, \&look ],
	switch            => [ 0.7, sub { my $to = rand() < 0.5 ? 'sync' : 'async'; defined try_sql("SELECT evtstore.switch_projection('flip', '$to')") } ],
	lanes             => [ 0.7, sub { defined try_sql(sprintf q{SELECT evtstore.alter_projection('%s', '{"lanes": %d}')}, (qw(lanes shaky))[ rand 2 ], 1 + rand 6) } ],
	pause             => [ 0.7, sub { my $name = (qw(counts log lanes shaky))[ rand 4 ]; defined try_sql("SELECT evtstore.pause_projection('$name')", "SELECT evtstore.resume_projection('$name')") } ],
	terminate         => [ 0.7, sub { terminate_worker('delivery') } ],
	kill              => [ 7, sub { kill_worker('delivery') } ],
	crash             => [ 8, sub { crash($node); 1 } ],
	rebuild           => [ 0.4, \&rebuild ],
	version           => [ 1.5, \&change_version ],
	cancel            => [ 1.5, \&cancel ],
	snapshot          => [ 0.2, \&take_snapshot ],
	terminate_rebuild => [ 1.5, sub { terminate_worker('rebuild') } ],
	kill_rebuild      => [ 7, sub { kill_worker('rebuild') } ]);
# seconds until each happens again, on average
my %next = map { $_ => $started + rand(2 * $ways{$_}[0]) } sort keys %ways;
my %disturbed;
# even the shortest run has one of each
$next{$_} = $started + $seconds * (0.2 + rand 0.5) foreach grep { $ways{$_}[0] > $seconds / 3 } sort keys %ways;
while (time < $started + $seconds)
{
	foreach my $way (grep { time > $next{$_} } sort keys %ways)
	{
		my $happened = $ways{$way}[1]->();

		# what could not be done now is done soon
		$next{$way} = time + ($happened ? rand 2 * $ways{$way}[0] : 0.1);
		$disturbed{$way}++ if $happened;
	}
	look_by_snapshot($_) foreach grep { time > $_->{due} } @snapshots;
	@snapshots = grep { $_->{wire}{socket} } @snapshots;
	select undef, undef, undef, 0.02;    # sleep: until the next of them is due
}

# --- the end ---

is(finish_children('appender', $PATIENCE), '', 'all appenders came to their end');
look_by_snapshot($_) foreach @snapshots;

sub no_rebuild { poll_until('the rebuilds to end', sub { sql(q{SELECT count(*) FROM evtstore_internal.definition WHERE kind = 'rebuild'}) == 0 }, $PATIENCE); return }

no_rebuild();
look_at_file($_) foreach @all;
sql("SELECT evtstore.resume_projection('$_')") foreach qw(counts log lanes shaky);
my $last = sql('SELECT evtstore.head_position()');
foreach my $name (@all)
{
	is(($node->psql('postgres', "CALL evtstore.wait_for('$name', $last, '${PATIENCE}s')"))[0], 0, "$name has all events");
}
is(join("\n", @faults), '', 'at any moment the tables were the folds up to their places');

sub check
{
	my ($when) = @_;

	is(sql(differs($_, 9223372036854775807)), 0, "$_ is the fold of all events$when") foreach sort keys %seen;
	foreach my $name (qw(lanes shaky))
	{
		is(sql("SELECT count(*) FROM evtstore_internal.event FULL JOIN $log{$name} l USING (position) WHERE type IS NULL OR n IS NULL"), 0, "$name applied each event once$when");
	}
	foreach my $name (sort keys %log)
	{
		is(sql("SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY stream ORDER BY n) AS before FROM $log{$name}) o WHERE before > version"),
			0, "$name applied those of each stream in order$when");
	}
	is(sql(q{SELECT string_agg(name || ' ' || state, ', ') FROM evtstore.projection_status WHERE state <> 'active' OR failed_event IS NOT NULL OR last_error IS NOT NULL}),
		'', "nothing is left aside$when");
	is(sql(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'evtstore_rebuild'::regnamespace}), 0, "no shadow is left$when");
	is(sql(q{SELECT count(*) FROM evtstore_internal.checkpoint WHERE subscription_id NOT IN (SELECT id FROM evtstore_internal.definition)}), 0, "no place is left$when");
	return;
}

check('');

# each once more, on a store that rests
my %is = map { my $table = $log{$_} // $_; $_ => "SELECT md5(string_agg((to_jsonb(t) - 'n')::text, ',' ORDER BY " . ($log{$_} ? 'position' : 'stream') . ")) FROM $table t" } @all;
$is{counts} =~ s/ - 'n'//;
my %before = map { $_ => sql($is{$_}) } @all;
my %was = %ended;
sql("SELECT evtstore.rebuild_projection('$_')") foreach @all;
no_rebuild();
look_at_file($_) foreach @all;
is(join(' ', map { $ended{$_} - ($was{$_} // 0) } @all), '1 1 1 1 1', 'each was rebuilt once more');
is(sql($is{$_}), $before{$_}, "$_ is then what it was") foreach @all;
check(', rebuilt');

# --- after a crash, before anybody appends: positions may have been handed out that nobody knows of ---

sql(q{SELECT evtstore.switch_projection('flip', 'async')});
foreach my $mode (qw(sync async))
{
	crash($node);
	sql("SELECT evtstore.switch_projection('flip', '$mode')");
	crash($node);
	sql(q{SELECT evtstore.rebuild_projection('flip')});
	no_rebuild();
	sql(q{SELECT evtstore.append('s-1', 'C', '{"v": 1}')});
	is(($node->psql('postgres', "CALL evtstore.wait_for('flip', evtstore.head_position(), '${PATIENCE}s')"))[0], 0, "switched to $mode after a crash, flip goes on");
	is(sql(differs('flip', 9223372036854775807)), 0, 'and has all events');
}

# --- was it worth it? ---

diag sql('SELECT count(*) FROM evtstore.events'), ' events, ', join(' ', map { "$_: $disturbed{$_}" } sort keys %disturbed), ", refused: $refused";
diag 'rebuilds that ended: ', join(' ', map { "$_: $was{$_}" } sort keys %was), ", looks by a snapshot from before the end: $across";
cmp_ok($disturbed{$_} // 0, '>', 0, "there was: $_") foreach sort keys %ways;
cmp_ok($looked{$_} // 0, '>', 0, "looked at $_") foreach map { ($_, "$_ by an older snapshot") } sort keys %seen;
cmp_ok(scalar(keys %was), '>', 0, 'a rebuild ended meanwhile');
cmp_ok($across, '>', 0, 'and somebody looked with a snapshot from before that');
done_testing();
