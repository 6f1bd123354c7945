# Readers under REPEATABLE READ and SERIALIZABLE: their head is the newest of the ledger that their snapshot sees.  It stays
# what it is for the whole transaction, covers what was decided before, and never something in flight.  The scheduler keeps
# the ledger, a row a second at most, none while nothing happens.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nevtstore.poll_interval = 200ms\n");

sub sql { return $node->safe_psql('postgres', shift) }

sub append
{
	my ($stream, $session) = @_;
	my $query = "SELECT position FROM evtstore.append('$stream', 'T', '1')";
	return $session ? $session->query_safe($query) : sql($query);
}

# What a transaction of that isolation level sees.
sub seen
{
	my ($level, $read) = @_;
	$read //= 'evtstore.read_all()';
	return sql("BEGIN ISOLATION LEVEL $level; SELECT coalesce(string_agg(stream || '/' || version, ' ' ORDER BY position), '') FROM $read; COMMIT");
}

sub wait_ledger
{
	my $position = shift;
	return poll_sql($node, "SELECT coalesce(max(position), 0) >= $position FROM evtstore_internal.head");
}

is(seen('REPEATABLE READ'), '', 'nothing in an empty store');
is(sql('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT evtstore.head_position(); COMMIT'), 0, 'and its head is 0');

# --- an appender in flight below one that committed ---

wait_ledger(append('a-1'));
# something new for the ledger, so that it is written while the appender is in flight
my $below = append('z-1');
my $slow  = session($node);
$slow->query_safe('BEGIN');
my $held  = append('a-2', $slow);
my $above = append('a-3');
wait_ledger($below);
is(sql('SELECT max(position) FROM evtstore_internal.head'), $below, 'the ledger does not pass an appender in flight');
is(seen('REPEATABLE READ'), 'a-1/1 z-1/1', 'what is held back is not read');
is(seen('SERIALIZABLE'),    'a-1/1 z-1/1', 'under SERIALIZABLE neither');
my $reader = session($node);
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($reader->query_safe(q{SELECT string_agg(stream, ' ' ORDER BY position) FROM evtstore.read_all()}), 'a-1 z-1',
	'a long transaction reads');
$slow->query_safe('COMMIT');
wait_ledger($above);
is($reader->query_safe(q{SELECT string_agg(stream, ' ' ORDER BY position) FROM evtstore.read_all()}), 'a-1 z-1',
	'and reads the same later');
is($reader->query_safe('SELECT evtstore.head_position()'), $held - 1, 'its head stays');
is($reader->query_safe(q{SELECT count(*) FROM evtstore.read_category('a')}), 1, 'so does that of a category');
is($reader->query_safe(q{SELECT evtstore.stream_version('a-1')}), 1, 'it reads streams');
is($reader->query_safe(q{SELECT version FROM evtstore.append('a-1', 'T', '1', expected_version => 1)}), 2,
	'and appends');
is($reader->query_safe(q{SELECT count(*) FROM evtstore.read_stream('a-1')}), 2, 'what it reads by stream has its own');
is($reader->query_safe('SELECT count(*) FROM evtstore.read_all()'), 2, 'the feed has not');
$reader->query_safe('COMMIT');
is(seen('REPEATABLE READ'), 'a-1/1 z-1/1 a-2/1 a-3/1', 'a new transaction reads up to the ledger');
is(seen('SERIALIZABLE', q{evtstore.read_category('a', NULL, 2)}), 'a-1/1 a-2/1', 'a page of a category');
wait_ledger(append('b-1'));
is(seen('REPEATABLE READ', q{evtstore.read_category('a')}), 'a-1/1 a-2/1 a-3/1 a-1/2', 'and what comes later, later');

# a rollback is decided as well: the ledger passes the hole
$slow->query_safe('BEGIN');
my $hole = append('a-2', $slow);
$slow->query_safe('ROLLBACK');
$slow->quit;
wait_ledger($hole);
is(sql('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT evtstore.head_position(); COMMIT'), $hole, 'a hole is passed');

# --- nothing is written while nothing happens ---

my $rows = sql('SELECT count(*) FROM evtstore_internal.head');
my $passes = sql(q{SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'});
# some passes of the scheduler later: each is a transaction, and so are our looks
poll_sql($node, "SELECT xact_commit > $passes + 40 FROM pg_stat_database WHERE datname = 'postgres'");
is(sql('SELECT count(*) FROM evtstore_internal.head'), $rows, 'the ledger of an idle store does not grow');

# --- a reader that polls in transactions of its own while others append ---

my @children = map {
	my $child = $_;
	start_psql(
		$node,
		join '',
		map {
				$_ % 3
			  ? "SELECT FROM evtstore.append('c-$child', 'T', '$_');\n"
			  : "BEGIN; SELECT FROM evtstore.append('d-$child', 'T', '$_'); SELECT count(*) FROM generate_series(1, 10000); "
			  . ($_ % 2 ? 'COMMIT' : 'ROLLBACK') . ";\n"
		} 1 .. 4000)
} 1 .. 3;
my @readers = (
	EvtFeed::Reader->new($node, 'read_all', before => 'SET default_transaction_isolation = \'repeatable read\';',
		page => 100_000),
	EvtFeed::Reader->new($node, 'read_category c', before => 'SET default_transaction_isolation = \'serializable\';',
		page => 100_000));
my $ledger = sql('SELECT count(*) FROM evtstore_internal.head');
poll_until(
	'some rows of the ledger',
	sub {
		$_->poll foreach @readers;
		# the children may be done before that many seconds are over, and an idle store writes no row
		append('e-1');
		return sql('SELECT count(*) FROM evtstore_internal.head') >= $ledger + 4 && !grep { $_->running } @children;
	});
$_->finish foreach @children;
wait_ledger(last_position($node));
foreach my $reader (@readers)
{
	$reader->catch_up;
	cmp_ok($reader->count, '>', 3000, "$reader->{call} read on");
	is($reader->faults, '', "$reader->{call}: nothing lost, nothing twice, in order");
}
my $seconds = sql('SELECT ceil(extract(epoch FROM max(recorded_at) - min(recorded_at))) + 1 FROM evtstore_internal.head');
cmp_ok(sql('SELECT count(*) FROM evtstore_internal.head'), '<=', $seconds, 'the ledger has a row a second at most');
eval { $reader->quit };

done_testing();
