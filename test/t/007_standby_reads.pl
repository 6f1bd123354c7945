# Reading on a hot standby: the feed as far as the ledger has come over, never past something that is in flight on the
# primary; writing is refused; promoted, it goes on above all that anybody was shown.  Feed case 22.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf    = "log_statement = none\nmax_connections = 30\nevtstore.poll_interval = 200ms\n";
my $primary = new_node('primary', conf => $conf, init => { allows_streaming => 1 });
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_conninfo = '" . $primary->connstr . "'\n");
$standby->start;

sub on_primary { return $primary->safe_psql('postgres', shift) }
sub on_standby { return $standby->safe_psql('postgres', shift) }

sub append
{
	my ($stream, $session) = @_;
	my $query = "SELECT position FROM evtstore.append('$stream', 'T', '1', tags => ARRAY['$stream', 'every'])";
	return $session ? $session->query_safe($query) : on_primary($query);
}

# Until the standby has a ledger row for it.
sub wait_ledger
{
	my $position = shift;
	return poll_sql($standby, "SELECT coalesce(max(position), 0) >= $position FROM evtstore_internal.head");
}

sub feed
{
	my ($read) = @_;
	return on_standby("SELECT coalesce(string_agg(stream || '/' || version, ' ' ORDER BY position), '') FROM "
		. ($read // 'evtstore.read_all()'));
}

is(feed(), '', 'an empty store');
is(on_standby('SELECT evtstore.head_position()'), 0, 'with head 0');
is(on_standby(q{SELECT evtstore.stream_version('a-1')}), 0, 'and no stream');

# --- an appender in flight on the primary ---

wait_ledger(append('a-1'));
# something new for the ledger, so that it is written while the appender is in flight
my $below = append('z-1');
my $slow  = session($primary);
$slow->query_safe('BEGIN');
my $held  = append('a-2', $slow);
my $above = append('a-3');
wait_ledger($below);
$primary->wait_for_catchup($standby, 'replay');
is(on_standby('SELECT count(*) FROM evtstore.events'), 3, 'the standby has the event above it');
is(feed(), 'a-1/1 z-1/1', 'its feed waits');
is(feed(q{evtstore.read_category('a')}), 'a-1/1', 'that of a category too');
is(feed(q{evtstore.read_query('{"items": [{"tags": ["every"]}]}')}), 'a-1/1 z-1/1', 'that of a query too');
is(feed(q{evtstore.read_stream('a-3')}), 'a-3/1', 'streams can be read');
is(on_standby(q{SELECT evtstore.stream_version('a-3')}), 1, 'and their versions');
is(on_standby("SELECT stream FROM evtstore.get_event((SELECT id FROM evtstore.events WHERE position = $above))"), 'a-3',
	'and events by id');
is(on_standby('SELECT evtstore.head_position()'), $held - 1, 'the head is that of the ledger');
is(on_standby('SELECT count(*) FROM evtstore.why_behind()'), 0, 'nobody appends here');
is(on_standby(q{SELECT count(*) FROM evtstore.streams}), 3, 'views can be read');
is(on_standby('SELECT count(*) > 0 FROM evtstore.health()'), 't', 'health can be asked for');
$slow->query_safe('COMMIT');
wait_ledger($above);
is(feed(), 'a-1/1 z-1/1 a-2/1 a-3/1', 'decided, all of it is read');
is(feed(q{evtstore.read_category('a', NULL, 2)}), 'a-1/1 a-2/1', 'by pages too');

# --- writing ---

is(sqlstate($standby, q{SELECT evtstore.append('a-1', 'T', '1')}), '25006', 'append is refused');
is(sqlstate($standby, q{SELECT evtstore.append_events('a-1', '[]')}), '25006', 'an empty one too');
is(sqlstate($standby, q{SELECT evtstore.append_if('[]', '{}')}), '25006', 'and a condition alone');
is(sqlstate($standby, q{SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync')}), '25006',
	'definitions are refused');
is(sqlstate($standby, 'CALL evtstore.wait_for_head(1)'), '25006', 'nobody can wait for the head');
on_primary(q{
	CREATE TABLE settled (subscription text, position bigint, PRIMARY KEY (subscription, position));
	SELECT evtstore.create_subscription('every', lanes => 2), evtstore.create_subscription('tagged', '{"tags": ["every"]}')});
$primary->wait_for_catchup($standby, 'replay');
is(sqlstate($standby, q{SELECT * FROM evtstore.poll('every', 'c')}), '25006', 'nor poll');

# --- a reader follows while many append ---

my @children = map {
	my $child = $_;
	start_psql($primary, join '', map { $_ % 4 ? "SELECT FROM evtstore.append('c-$child', 'T', '$_');\n"
		: "BEGIN; SELECT FROM evtstore.append('d-$child', 'T', '$_'); ROLLBACK;\n" } 1 .. 3000)
} 1 .. 2;
my $reader = EvtFeed::Reader->new($standby, 'read_all', page => 100_000);
poll_until('the end of the appenders', sub { $reader->poll; return !grep { $_->running } @children });
$_->finish foreach @children;
wait_ledger(last_position($primary));
$reader->catch_up;
cmp_ok($reader->count, '>', 4000, 'the reader on the standby read on');
is($reader->faults, '', 'nothing lost, nothing twice, in order');

# --- promotion with an appender in flight ---

# what a consumer settles is committed with its effect
sub consume
{
	my ($node, $subscription, $max) = @_;
	return $node->safe_psql('postgres', "WITH d AS MATERIALIZED (SELECT * FROM evtstore.poll('$subscription', 'c', $max)),
		s AS (INSERT INTO settled SELECT '$subscription', position FROM d) SELECT count(evtstore.ack(receipt)) FROM d");
}

$slow->query_safe('BEGIN');
$held = append('a-2', $slow);
$above = append('a-3');
cmp_ok(consume($primary, 'every', 700), '>', 0, 'consumers settle a part');
1 while consume($primary, 'tagged', 1000);
$primary->wait_for_catchup($standby, 'replay');
$primary->stop('immediate');
eval { $slow->quit };
$standby->promote;
poll_sql($standby, 'SELECT NOT pg_is_in_recovery()');
is(on_standby("SELECT count(*) FROM evtstore.events WHERE position = $held"), 0, 'what was in flight is gone');
is(on_standby("SELECT count(*) FROM evtstore.read_all($held)"), 1, 'what was above it can be read at once');
is(on_standby(qq{SELECT string_agg(stream, ' ') FROM evtstore.read_query('{"items": [{"types": ["T"], "tags": ["every"]}]}', $held - 1)}), 'a-3', 'by query too');
is(sqlstate($standby, q{SELECT evtstore.append_if('[{"type": "T", "data": 1}]', '{"items": [{"tags": ["a-3"]}]}')}), 'ST003', 'conditions see it');
is(sqlstate($standby, qq{SELECT evtstore.append_if('[]', '{"items": [{"tags": ["a-2"]}]}', $held - 1)}), '00000', 'and nothing of what is gone');
my $first = on_standby(q{SELECT position FROM evtstore.append('a-1', 'T', '1', expected_version => 1)});
cmp_ok($first, '>', $above + 100_000, 'positions leap: what the old primary may have shown is never given out again');
$reader->catch_up;
is($reader->faults, '', 'the reader goes on');
is(consume($standby, 'tagged', 1000), 1, 'a subscription goes on where its checkpoints are, over what is gone');
1 while consume($standby, 'every', 1000);
is(on_standby(q{SELECT count(*) FROM evtstore.events e FULL JOIN (SELECT * FROM settled WHERE subscription = 'every') s USING (position)
	WHERE e.id IS NULL OR s.subscription IS NULL}), 0, 'each event took effect once, and none that is gone');
is(store_faults($standby), '', 'the store is whole');
is(on_standby('SELECT evtstore.head_position() = last_value FROM evtstore_internal.position_seq'), 't',
	'nobody holds the head');

done_testing();
