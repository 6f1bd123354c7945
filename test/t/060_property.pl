# Random appends of every kind against a model: by many clients at once, with rollbacks, savepoints, cancels, lost replies and
# retries, under all isolation levels, synchronous and not; while sessions are terminated, backends killed and the whole server
# crashes; while readers follow.  EvtLoad.pm does it and writes down what was sent, answered and read, outside of the database;
# EvtModel.pm says what that must have led to.  Feed cases 1 to 8, 14 to 17 and 21, and all that was not thought of.
#
# EVTSTORE_SECONDS: how long, without start and check; a minute by default.  EVTSTORE_SEED: for the same choices again, as far as
# the scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtLoad qw(run_client run_reader now readers read_records);
use EvtModel;
use EvtTest;
use EvtWire;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{EVTSTORE_SECONDS} || 60;
my $seed    = $ENV{EVTSTORE_SEED}    || 1 + time % 1_000_000;
my $CLIENTS = 6;
my @CURSORS = ([qw(all category tag items)], [qw(snapshot twin type every)]);
# out of the way of the results: tmp_check is kept when the test fails
my $dir = $PostgreSQL::Test::Utils::tmp_check;

diag "EVTSTORE_SEED=$seed EVTSTORE_SECONDS=$seconds";
srand $seed;

# A WAL writer that sleeps: what asynchronous commits leave in memory stays there until a crash or whoever has to flush it.
my $node = new_node(
	'main',
	conf => join "\n",
	'log_statement = none', 'max_connections = 40', 'deadlock_timeout = 30ms', 'wal_writer_delay = 10s', 'wal_writer_flush_after = 0',
	'restart_after_crash = on', 'evtstore.poll_interval = 200ms', '');

# the scheduler writes the ledger after a crash too when it knows that this is no restore: with a definition it does
$node->safe_psql('postgres', q{SELECT evtstore.create_queue('any')});

my $started = now();

foreach my $number (0 .. $CLIENTS - 1)
{
	start_child("client $number",
		sub { run_client($node, number => $number, seed => $seed, started => $started, until => $started + $seconds, file => "$dir/client_$number") });
}
foreach my $number (0 .. $#CURSORS)
{
	start_child("reader $number",
		sub { run_reader($node, number => $number, seed => $seed, cursors => $CURSORS[$number], stop => "$dir/stop", file => "$dir/reader_$number") });
}

# --- meanwhile ---

my (@crashes, %disturbed);
my $wire;

# A backend of a client or reader; undef while the server is not there.
sub a_backend
{
	$wire = EvtWire->new($node, 'postgres', 'property main') unless $wire && $wire->{socket};
	return undef unless $wire;
	my $answer = $wire->query(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'property client' ORDER BY pid});
	return undef unless $answer->{rows} && @{ $answer->{rows} };
	return $answer->{rows}[ rand @{ $answer->{rows} } ][0];
}

# the letter that the system gives: T stopped, Z ended and not yet asked for; empty where there is no such process
sub process_state
{
	my $pid = shift;

	open my $stat, '<', "/proc/$pid/stat" or return '';
	my $line = <$stat> // '';
	return $line =~ /\) (\w) [^)]*\z/ ? $1 : '';
}

# kill -9 of a backend: the server takes everybody down and recovers.
sub kill_backend
{
	my $pid  = a_backend() // return 0;
	my $from = now();
	my $state;

	# A process that has ended, and that the server has not heard of yet, can be sent signals too, and nothing comes of it.
	# One that was stopped is there to be killed.
	return 0 unless kill 'STOP', $pid;
	poll_until('the backend that was stopped', sub { ($state = process_state($pid)) =~ /^[TZX]?$/ });
	return 0 if $state ne 'T';
	kill 'KILL', $pid;
	$wire->take;
	$wire->close;
	poll_until('the server after a backend was killed', sub { $wire = EvtWire->new($node, 'postgres', 'property main') });
	push @crashes, [ $from, now() ];
	return 1;
}

sub crash_server
{
	my $from = now();

	$wire->close if $wire;
	$wire = undef;
	crash($node);
	push @crashes, [ $from, now() ];
	return 1;
}

sub disturb
{
	my $function = shift;
	my $pid      = a_backend() // return 0;

	$wire->query("SELECT $function($pid)");
	return 1;
}

my %ways = (
	cancel    => [ 1,    sub { disturb('pg_cancel_backend') } ],
	terminate => [ 2,    sub { disturb('pg_terminate_backend') } ],
	kill      => [ 14,   \&kill_backend ],
	crash     => [ 9,    \&crash_server ]);
# seconds until each happens again, on average
my %next = map { $_ => $started + rand(2 * $ways{$_}[0]) } sort keys %ways;
# even the shortest run has a crash or two
$next{$_} = $started + $seconds * (0.3 + rand 0.3) foreach grep { $ways{$_}[0] > $seconds / 3 } sort keys %ways;
while (now() < $started + $seconds)
{
	foreach my $way (grep { now() > $next{$_} } sort keys %ways)
	{
		$next{$way} = now() + rand 2 * $ways{$way}[0];
		$disturbed{$way}++ if $ways{$way}[1]->();
	}
	select undef, undef, undef, 0.02;    # sleep: until the next of them is due
}

# --- the end ---

is(finish_children('client', 90), '', 'all clients came to their end');
poll_sql($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'property client' AND state <> 'idle' AND query LIKE '%append%'});
poll_sql($node, 'SELECT evtstore.head_position() = last_value FROM evtstore_internal.position_seq');
pass('nobody holds the head');
poll_sql($node, q{SELECT coalesce(max(position), 0) >= (SELECT coalesce(max(position), 0) FROM evtstore.events) FROM evtstore_internal.head});
append_to_file("$dir/stop", '');
is(finish_children('reader', 90), '', 'all readers came to their end');

my @stored = map {
	my %event;
	@event{qw(position stream version id type tags data)} = split /\|/;
	$event{tags} = [ split /,/, $event{tags} ];
	($event{stream}, $event{version}) = () unless length $event{stream};
	\%event
} split /\n/, $node->safe_psql('postgres', q{SELECT position, stream, version, id, type, array_to_string(tags, ','), data #>> '{}' FROM evtstore.events ORDER BY position});
my @attempts = map { read_records("$dir/client_$_") } 0 .. $CLIENTS - 1;
my $model    = EvtModel->new(stored => \@stored, attempts => \@attempts, crashes => \@crashes);

my %what = (
	sent         => 'every event is as it was sent, and there once',
	versions     => 'versions without gaps, in the order of positions',
	acknowledged => 'what was acknowledged is there, as the answer said',
	whole        => 'transactions are there as a whole or not at all, refused ones not',
	expectations => 'each append found its stream as it expected',
	conditions   => 'no condition was passed over',
	causes       => 'positions follow cause and effect',
	refusals     => 'every refusal was right',
	positions    => 'no position names two events');
is($model->faults($_), '', $what{$_}) foreach EvtModel::rules();

my %readers = readers();
my %read    = map { $_ => [] } map { @$_ } @CURSORS;
foreach my $line (map { split /\n/, slurp_file("$dir/reader_$_") } 0 .. $#CURSORS)
{
	my ($name, @event) = split / /, $line;
	push @{ $read{$name} }, \@event;
}
is($model->reader_faults($readers{$_}[1], @{ $read{$_} }), '', "reader $_: everything once, in order") foreach map { @$_ } @CURSORS;

# --- was it worth it? ---

my %outcome;
foreach my $attempt (@attempts)
{
	$outcome{ $attempt->{outcome} }++;
	$outcome{ $_->{sqlstate} }++ foreach grep { $_->{sqlstate} } @{ $attempt->{ops} };
	$outcome{duplicate}++ if grep { ($_->{rows}[0][5] // '') eq 't' } @{ $attempt->{ops} };
}
diag join ' ', scalar(@stored), 'events,', (map { "$_ $outcome{$_}" } sort keys %outcome), (map { "$_: $disturbed{$_}" } sort keys %disturbed);
cmp_ok($outcome{$_} // 0, '>', 0, "there were: $_") foreach qw(acked unknown duplicate ST001 ST003);

done_testing();
