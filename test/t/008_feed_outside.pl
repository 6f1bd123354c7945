# What happens outside of the store, or outside of an ordinary commit, and the feed: other databases, prepared transactions,
# a commit that waits for a standby.  Feed cases 12 and 13, and why a floor is taken back so late.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node(
	'main',
	conf => "log_statement = none\nmax_connections = 30\nmax_prepared_transactions = 5\n",
	init => { allows_streaming => 1 });

sub sql { return $node->safe_psql('postgres', shift) }

sub append
{
	my ($stream, $session) = @_;
	my $query = "SELECT position FROM evtstore.append('$stream', 'T', '1')";
	return $session ? $session->query_safe($query) : sql($query);
}

# Can the last event be read, at once?
sub nobody_waits
{
	my $what = shift;

	is(sql('SELECT count(*) FROM evtstore.read_all(' . (append('b-1') - 1) . ')'), 1, "$what: nobody waits");
	is(sql(q{SELECT count(*) FROM evtstore.read_category('b', } . (append('b-1') - 1) . ')'), 1,
		"$what: in no category");
	is(sql('SELECT count(*) FROM evtstore.why_behind()'), 0, "$what: nobody is named");
	return;
}

# --- case 12: writing transactions in other databases, with a store and without ---

sql('CREATE DATABASE other');
sql('CREATE DATABASE plain');
$node->safe_psql('other', 'CREATE EXTENSION evtstore');
$node->safe_psql('plain', 'CREATE TABLE t (a int)');
my $other = session($node, 'other');
my $plain = session($node, 'plain');
$_->query_safe('BEGIN') foreach $other, $plain;
is(append('a-1', $other), 1, 'each database has its own positions');
$plain->query_safe('INSERT INTO t VALUES (1)');
nobody_waits('writers in other databases');
is($node->safe_psql('other', 'SELECT count(*) FROM evtstore.why_behind()'), 1, 'the other store has its appender');
is($node->safe_psql('other', 'SELECT count(*) FROM evtstore.read_all()'), 0, 'which holds that one');
$_->query_safe('COMMIT') foreach $other, $plain;
is($node->safe_psql('other', 'SELECT count(*) FROM evtstore.read_all()'), 1, 'until it commits');
$_->quit foreach $other, $plain;

# --- case 13: PREPARE TRANSACTION ---

my $session = session($node);

sub prepare
{
	my ($work) = @_;
	my ($name) = ('p' . int rand 1_000_000_000);

	return ($name, sqlstate($node, "BEGIN; $work; PREPARE TRANSACTION '$name'"));
}

my ($name, $state) = prepare(q{SELECT evtstore.append('p-1', 'T', '1')});
is($state, '0A000', 'a transaction that appended cannot be prepared');
is(sql('SELECT count(*) FROM pg_prepared_xacts'), 0, 'it is not');
is(sql(q{SELECT evtstore.stream_version('p-1')}), 0, 'it is rolled back');
nobody_waits('refused');
($name, $state) = prepare(q{SAVEPOINT x; SELECT evtstore.append('p-2', 'T', '1'); RELEASE x});
is($state, '0A000', 'nor one that did in a savepoint');
nobody_waits('refused savepoint');

# prepared transactions of somebody else, left alone for ever
sql('CREATE TABLE t (a int)');
($name, $state) = prepare('INSERT INTO t VALUES (1)');
is($state, '00000', 'others can be prepared');
nobody_waits('an orphaned prepared transaction');
is(append('a-1'), last_position($node), 'appending goes on');
($name, $state) = prepare(q{INSERT INTO t VALUES (2); SAVEPOINT x; SELECT evtstore.append('p-3', 'T', '1'); ROLLBACK TO x});
is($state, '00000', 'as can one whose appends were rolled back');
nobody_waits('it');
is(sql(q{SELECT version FROM evtstore.append('p-3', 'T', '1', expected_version => 0)}), 1, 'it holds no stream either');
crash($node);
is(sql('SELECT count(*) FROM pg_prepared_xacts'), 2, 'they are there after a crash');
nobody_waits('orphans of before the crash');
sql("ROLLBACK PREPARED '$_'") foreach split /\n/, sql('SELECT gid FROM pg_prepared_xacts');
eval { $session->quit };

# --- a commit that is decided but not visible: it waits for a standby that does not answer ---

$session = session($node);
sql(q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
sql('SELECT pg_reload_conf()');
poll_sql($node, q{SELECT current_setting('synchronous_standby_names') = 'nobody'});
my $start;
my $stream;
my $try = 1;
# the checkpointer tells the others of the setting in its own time: until then a commit passes
poll_until(
	'a commit that waits for the standby',
	sub {
		my $is;
		$start  = last_position($node);
		$stream = 'a-' . ++$try;
		$session->query_safe('SELECT 1');
		$session->query_until(qr/sent/, "\\echo sent\nSELECT position FROM evtstore.append('$stream', 'T', '\"waits\"');\n");
		poll_until(
			'the end of the append, or its wait',
			sub {
				$is = sql(q{SELECT CASE WHEN wait_event = 'SyncRep' THEN 'waits' ELSE state END FROM pg_stat_activity
					WHERE query LIKE '%waits%' AND pid <> pg_backend_pid()});
				return $is eq 'waits' || $is eq 'idle';
			});
		return $is eq 'waits';
	});
sql(q{SET synchronous_commit = local; SELECT FROM evtstore.append('a-x', 'T', '"visible"'); SELECT FROM evtstore.append('b-x', 'T', '"visible"')});
is(sql("SELECT count(*) FROM evtstore.events WHERE position > $start"), 2, 'others are visible before it');
is(sql("SELECT count(*) FROM evtstore.read_all($start)"), 0, 'the feed does not pass it');
is(sql("SELECT count(*) FROM evtstore.read_category('a', $start)"), 0, 'nor that of its category');
is(sql("SELECT count(*) FROM evtstore.read_category('b', $start)"), 1, 'another category does');
is(sql('SELECT wait_event FROM evtstore.why_behind()'), 'SyncRep', 'it is named, with what it waits for');
is(sql("SELECT evtstore.stream_version('$stream')"), 0, 'its event is not there yet');
sql('ALTER SYSTEM RESET synchronous_standby_names');
sql('SELECT pg_reload_conf()');
poll_sql($node, 'SELECT count(*) = 0 FROM evtstore.why_behind()');
is(sql(qq{SELECT string_agg(stream, ' ' ORDER BY position) FROM evtstore.read_all($start)}), "$stream a-x b-x",
	'then all of it comes, in order');
$session->quit;

is(store_faults($node), '', 'the store is whole');
done_testing();
