# The janitor: what deletion, truncation and policies took is removed in the background, while others append and read;
# readers of the feed go over the holes; what goes wrong with it, and a kill in the middle, harms nobody.  Feed cases 23
# and 24.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "restart_after_crash = on\nlog_statement = none\n"
	  . "evtstore.poll_interval = 50ms\nevtstore.janitor_interval = 100ms\n");

sub sql { return $node->safe_psql('postgres', shift) }

# Events that are still in the table although no reader of their stream sees them; a policy keeps the last one.
sql(q{
	CREATE FUNCTION left_over() RETURNS bigint LANGUAGE sql AS $$
		SELECT count(*)
		FROM evtstore.events e JOIN evtstore.streams s USING (tenant, stream)
		WHERE e.version < s.truncate_before OR (e.stream LIKE 'cut-%' AND e.version <= s.version - 3)
	$$;
	CREATE FUNCTION add(stream text, n int) RETURNS bigint LANGUAGE sql AS $$
		SELECT version FROM evtstore.append_events(stream, (SELECT jsonb_agg('{"type": "T", "data": 1}'::jsonb) FROM generate_series(1, n)))
	$$;
	SELECT evtstore.set_category_policy('cut', '{"max_count": 3}');
});

# --- under load, with readers ---

# Each appends to a stream that is kept, to some of which a policy keeps three events, and to some that it deletes and
# truncates; some of it is rolled back.
my @children = map {
	my $child = $_;
	start_psql($node, join '', map {
		my $n = $_;
		"SELECT FROM evtstore.append('keep-$child', 'T', '$n');\n"
		  . "SELECT FROM evtstore.append('cut-$child" . ($n % 3) . "', 'T', '$n');\n"
		  . "SELECT FROM evtstore.append('gone-$child', 'T', '$n');\n"
		  . ($n % 10 == 0 ? "SELECT evtstore.delete_stream('gone-$child');\n" : '')
		  . ($n % 10 == 5 ? "SELECT evtstore.truncate_stream('gone-$child', evtstore.stream_version('gone-$child'));\n" : '')
		  . ($n % 10 == 7 ? "BEGIN; SELECT evtstore.delete_stream('keep-$child'), evtstore.delete_stream('gone-$child'); ROLLBACK;\n" : '')
		  . ($n % 10 == 8 ? "BEGIN; SAVEPOINT x; SELECT evtstore.delete_stream('keep-$child'); ROLLBACK TO x;\n"
			  . "SELECT FROM evtstore.append('keep-$child', 'T', '$n'); COMMIT;\n" : '')
	} 1 .. 4000)
} 1 .. 3;
my @readers = (
	EvtFeed::Reader->new($node, 'read_all', holes => 1),
	EvtFeed::Reader->new($node, 'read_all', holes => 1, page => 50),
	EvtFeed::Reader->new($node, 'read_category cut', holes => 1),
	EvtFeed::Reader->new($node, 'read_category keep'));
my $removed_meanwhile = 0;
poll_until(
	'the end of the appenders',
	sub {
		$_->poll foreach @readers;
		my $running = grep { $_->running } @children;
		$removed_meanwhile ||= $running && sql(q{SELECT count(*) FROM evtstore.events WHERE stream LIKE 'gone-%' AND version = 1}) eq '0'
		  && sql(q{SELECT count(*) > 0 FROM evtstore.events WHERE stream LIKE 'gone-%'}) eq 't';
		return !$running;
	});
$_->finish foreach @children;
is(join('', map { $_->errors } @children), '', 'no append and no deletion failed');
ok($removed_meanwhile, 'events were removed while they ran');
$_->catch_up foreach @readers;
# who comes late meets the holes
push @readers, EvtFeed::Reader->new($node, 'read_all', holes => 1), EvtFeed::Reader->new($node, 'read_category gone', holes => 1);
poll_sql($node, 'SELECT left_over()', 0);
$_->catch_up foreach @readers;
is(join('', map { $_->faults } @readers), '', 'each reader got what it had to, in order, once');
is(sql(q{SELECT string_agg(DISTINCT n::text, ' ') FROM (SELECT count(*) AS n FROM evtstore.events WHERE stream LIKE 'cut-%' GROUP BY stream) s}),
	3, 'a policy keeps what it says');
is(sql(q{SELECT count(*), min(version), max(version) FROM evtstore.events WHERE stream = 'keep-1'}), '4400|1|4400',
	'what nobody deleted is all there');
is($readers[3]->count, 3 * 4400, 'and was read');
is(sql(q{SELECT version FROM evtstore.append('gone-1', 'T', '1')}), 4001, 'versions go on');
is(sql(q{SELECT evtstore.head_position() = last_value FROM evtstore_internal.position_seq}), 't', 'nobody holds the head');

# --- the scheduler is killed in the middle of it ---

my $reader = EvtFeed::Reader->new($node, 'read_all', holes => 1, page => 100_000);
$reader->catch_up;
sql(q{SELECT add('big-1', 80000)});
sql(q{SELECT evtstore.truncate_stream('big-1', 80000)});
my $scheduler = worker_pid($node, 'scheduler');
poll_until('the first removals', sub { sql(q{SELECT count(*) FROM evtstore.events WHERE stream = 'big-1'}) < 80_000 });
kill9($scheduler);
poll_sql($node, 'SELECT true');
is(sql(q{SELECT string_agg(version::text, ' ') FROM evtstore.read_stream('big-1')}), 80_000, 'killed: readers see what they saw');
is(sql(q{SELECT version FROM evtstore.append('big-1', 'T', '1', expected_version => 80000)}), 80_001, 'and versions go on');
poll_sql($node, 'SELECT left_over()', 0);
is(sql(q{SELECT string_agg(version::text, ' ' ORDER BY version) FROM evtstore.events WHERE stream = 'big-1'}), '80000 80001',
	'its successor removes the rest');
is(sql(q{SELECT count(*) FROM evtstore.events WHERE stream = 'keep-1'}), 4400, 'and nothing else');
$reader->catch_up;
is($reader->faults, '', 'the reader goes over the hole');

# --- nobody waits for it, and it for nobody ---

# an appender in flight keeps neither its own stream from being scavenged nor others; rows of its transaction stay
my $slow = session($node);
$slow->query_safe('BEGIN');
$slow->query_safe(q{SELECT add('cut-hot', 2)});
sql(q{SELECT add('cut-10', 20)});
poll_sql($node, 'SELECT left_over()', 0);
$slow->query_safe('COMMIT');
is(sql(q{SELECT count(*) FROM evtstore.events WHERE stream = 'cut-hot'}), 2, 'what an appender in flight wrote is kept');

# a deletion above a position in flight is not passed over
$slow->query_safe('BEGIN');
$slow->query_safe(q{SELECT evtstore.delete_stream('keep-2')});
sql(q{SELECT evtstore.delete_stream('keep-3')});
my $at = sql('SELECT clock_timestamp()');
poll_sql($node, "SELECT state_change > '$at'::timestamptz + interval '500 ms' FROM pg_stat_activity WHERE pid = " . worker_pid($node, 'scheduler'));
$slow->query_safe('COMMIT');
poll_sql($node, q{SELECT count(*) FROM evtstore.events WHERE stream IN ('keep-2', 'keep-3')}, 0);
pass('both are scavenged');

# somebody creates a projection, or an index: the scheduler does not wait for the table
$slow->query_safe('BEGIN');
$slow->query_safe('LOCK TABLE evtstore_internal.event IN SHARE ROW EXCLUSIVE MODE');
$at = sql('SELECT clock_timestamp()');
poll_sql($node, "SELECT state_change > '$at'::timestamptz + interval '500 ms' FROM pg_stat_activity WHERE pid = " . worker_pid($node, 'scheduler'));
is(sql('SELECT count(*) FROM pg_locks WHERE NOT granted'), 0, 'the scheduler waits for nobody');
$slow->query_safe('COMMIT');

# --- something of the user's forbids it ---

sql(q{SELECT add('held-1', 10)});
sql(q{CREATE TABLE held (position bigint REFERENCES evtstore_internal.event)});
sql(q{INSERT INTO held SELECT position FROM evtstore.events WHERE stream = 'held-1' AND version = 5});
my $pid = worker_pid($node, 'scheduler');
my $log = -s $node->logfile;
sql(q{SELECT evtstore.delete_stream('held-1')});
$node->wait_for_log(qr/LOG:  23503: scavenging: update or delete on table "event" violates foreign key constraint|scavenging: update or delete on table "event" violates foreign key/, $log);
sql(q{SELECT FROM evtstore.append('keep-1', 'T', '1')});
poll_sql($node, 'SELECT max(position) = evtstore.head_position() FROM evtstore_internal.head');
is(worker_pid($node, 'scheduler'), $pid, 'the scheduler goes on with its other duties');
is(sql(q{SELECT count(*) FROM evtstore.events WHERE stream = 'held-1'}), 10, 'nothing was removed');
is(sqlstate($node, 'SELECT evtstore.scavenge()'), '23503', 'who scavenges by hand is told');
sql('DROP TABLE held');
sql("SELECT pg_terminate_backend($pid)");
poll_sql($node, 'SELECT left_over()', 0);
pass('a new one begins anew');

# --- switched off ---

$node->append_conf('postgresql.conf', "evtstore.janitor_interval = 0\n");
$node->reload;
poll_sql($node, 'SHOW evtstore.janitor_interval', 0);
sql(q{SELECT add('off-1', 5)});
# the scheduler has read it, when it does what came later
$pid = worker_pid($node, 'scheduler');
poll_sql($node, 'SELECT max(position) = evtstore.head_position() FROM evtstore_internal.head');
sql(q{SELECT evtstore.delete_stream('off-1')});
poll_sql($node, 'SELECT max(position) = evtstore.head_position() FROM evtstore_internal.head');
sql(q{SELECT FROM evtstore.append('keep-1', 'T', '1')});
poll_sql($node, 'SELECT max(position) = evtstore.head_position() FROM evtstore_internal.head');
is(sql('SELECT left_over()'), 5, 'switched off it removes nothing');
is(sql('SELECT evtstore.scavenge()'), 5, 'and one can do it by hand');

done_testing();
