# What the feed handed out before a crash stays true after it: an event that was read is there, and no position ever names
# two events, although appends with synchronous_commit = off and aborted ones leave nothing on disk.  Feed case 21 and the
# trap of re-issued positions.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Nobody but the tested read may flush: no scheduler that writes its ledger, no other worker, and a WAL writer that sleeps.
my $node = new_node(
	'main',
	conf => join "\n",
	'evtstore.enabled = off', 'autovacuum = off', 'checkpoint_timeout = 1h', 'wal_writer_delay = 10s',
	'wal_writer_flush_after = 0', 'restart_after_crash = on', 'log_statement = none', '');

sub sql { return $node->safe_psql('postgres', shift) }

# --- what is read is on disk by then ---

my $async = session($node);
$async->query_safe('SET synchronous_commit = off');

# An asynchronous append that is not on disk yet.  The first asynchronous commit wakes a WAL writer that sleeps deeply,
# hence the loop.
my $number = 0;

sub append_async
{
	return poll_until(
		'an append that is not flushed',
		sub {
			$number++;
			my $id = sprintf '00000000-0000-7000-8000-%012d', $number;
			# taken before the commit record: behind that other processes may write WAL that nobody has to flush
			$async->query_safe('BEGIN');
			$async->query_safe("SELECT FROM evtstore.append('a-1', 'T', '$number', id => '$id')");
			my $lsn = $async->query_safe('SELECT pg_current_wal_insert_lsn()');
			$async->query_safe('COMMIT');
			my $pending = $async->query_safe("SELECT pg_current_wal_flush_lsn() <= '$lsn'");
			return $pending eq 't' ? [ $id, $lsn ] : undef;
		});
}

my $reader = session($node);
my %reads  = (
	read_all       => 'SELECT count(*) FROM evtstore.read_all()',
	read_backwards => 'SELECT count(*) FROM evtstore.read_all(backwards => true, max_count => 1)',
	read_category  => q{SELECT count(*) FROM evtstore.read_category('a')},
	read_stream    => q{SELECT count(*) FROM evtstore.read_stream('a-1')},
	stream_version => q{SELECT evtstore.stream_version('a-1')},
	get_event      => q{SELECT count(evtstore.get_event('%s'))});
foreach my $read (sort keys %reads)
{
	my ($id, $lsn) = @{ append_async() };
	my $query = sprintf $reads{$read}, $id;

	cmp_ok($reader->query_safe($query), '>', 0, "$read shows an asynchronous commit");
	is($reader->query_safe("SELECT pg_current_wal_flush_lsn() > '$lsn'"), 't', "which is on disk when $read returns");
}
# an asynchronous append of an earlier session, and one whose transaction set it on the way
my $cursor = EvtFeed::Reader->new($node, 'read_all');
$async->query_safe(q{SET synchronous_commit = on});
my $lsn = poll_until(
	'an append that is not flushed',
	sub {
		$async->query_safe(q{BEGIN; SELECT FROM evtstore.append('a-1', 'T', '1'); SET LOCAL synchronous_commit = off});
		my $at = $async->query_safe('SELECT pg_current_wal_insert_lsn()');
		$async->query_safe('COMMIT');
		my $pending = $async->query_safe("SELECT pg_current_wal_flush_lsn() <= '$at'");
		return $pending eq 't' ? $at : undef;
	});
$async->query_safe(q{SET synchronous_commit = off});
$cursor->catch_up;
is($reader->query_safe("SELECT pg_current_wal_flush_lsn() > '$lsn'"), 't',
	'so is one that became asynchronous at its end');

# --- after the crash it is there; positions that somebody saw are never given out again ---

# crashes right after the reader read, and looks; what: who appended before, none of it flushed
sub crash_and_look
{
	my ($what, $way) = @_;

	append_async();
	$cursor->catch_up;
	# seen as decided by readers of the head only: an append that was rolled back, longer than what the sequence keeps in reserve
	$async->query_safe(q{BEGIN; SELECT FROM evtstore.append_events('a-2', (SELECT jsonb_agg('{"type": "T", "data": 1}'::jsonb) FROM generate_series(1, 500))); ROLLBACK});
	my $head = $reader->query_safe('SELECT evtstore.head_position()');
	cmp_ok($head, '>', $cursor->{at} + 400, "$what: the head has passed what was rolled back");
	$way->();
	is($cursor->faults, '', "$what: every event that was read is there, at its position");
	is(store_faults($node), '', "$what: the store is whole");
	cmp_ok(sql('SELECT evtstore.head_position()'), '<=', $head + 2_000_000,
		"$what: the head can be asked for before anything is appended");
	is(sql("SELECT count(*) FROM evtstore.read_all($head)"), 0, "$what: nothing above it yet");
	is(sqlstate($node, "SELECT evtstore.append_if('[]', '{\"items\": [{\"types\": [\"None\"]}]}', after => $head)"), '00000',
		"$what: a condition above it is not taken for one of the future");
	my $first = sql(q{SELECT position FROM evtstore.append('a-2', 'T', '1')});
	cmp_ok($first, '>', $head, "$what: the first position afterwards is one that nobody saw");
	is(sql("SELECT count(*) FROM evtstore.read_all($head)"), 1, "$what: so whoever had read up to the head finds it");
	$cursor->catch_up;
	is($cursor->faults, '', "$what: readers go on");
	return ($head, $first);
}

sub reconnect
{
	eval { $_->quit } foreach $async, $reader;
	$async  = session($node);
	$reader = session($node);
	$async->query_safe('SET synchronous_commit = off');
	return;
}

crash_and_look('immediate stop', sub { crash($node); reconnect() });
crash_and_look(
	'appender killed',
	sub {
		my $victim = session($node);
		my $pid    = $victim->query_safe('SELECT pg_backend_pid()');
		$victim->query_safe(q{BEGIN; SELECT FROM evtstore.append('b-1', 'T', '1')});
		kill9($pid);
		poll_sql($node, 'SELECT true');
		eval { $victim->quit };
		reconnect();
	});

# --- an orderly stop leaves no gap worth speaking of ---

my $last = last_position($node);
$node->restart;
reconnect();
is(sql(q{SELECT position FROM evtstore.append('a-2', 'T', '1')}), $last + 1, 'after an orderly stop positions go on');

# --- crashes while many append asynchronously and somebody reads ---

foreach my $round (1 .. 2)
{
	my @children = map {
		my $child = $_;
		start_psql(
			$node,
			join('',
				map { "SELECT position FROM evtstore.append('c$child-$round', 'T', '$_');\n" . ($_ % 5 ? ''
					: "BEGIN; SELECT FROM evtstore.append('c$child-$round', 'T', '$_'); ROLLBACK;\n") } 1 .. 5000),
			options => '-c synchronous_commit=' . ($child % 2 ? 'off' : 'on'))
	} 1 .. 3;
	my @readers = ($cursor, map { EvtFeed::Reader->new($node, "read_category c$_", at => 0) } 1 .. 3);
	my $count   = $cursor->count;

	poll_until(
		'300 more events read',
		sub {
			$_->poll foreach @readers;
			return $cursor->count > $count + 300;
		});
	$node->stop('immediate');
	$_->finish foreach @children;
	$node->start;
	is($_->faults, '', "round $round: what $_->{call} gave is there, at its position") foreach @readers;
	is(store_faults($node), '', "round $round: the store is whole");
	my ($highest) = sort { $b <=> $a } map { $_->lines } @children;
	cmp_ok(sql(q{SELECT position FROM evtstore.append('a-2', 'T', '1')}), '>', $highest,
		"round $round: no position that an appender saw comes again");
	$_->catch_up foreach @readers;
	is($_->faults, '', "round $round: $_->{call} goes on") foreach @readers;
}
eval { $_->quit } foreach $async, $reader;

done_testing();
