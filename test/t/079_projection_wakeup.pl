# Nobody looks around by himself for a minute here: whatever happens before that was a wake-up.  An append wakes a worker for a
# projection, the worker's commit wakes who waits for it; so do the time when an event that failed is due again, what a person does
# about it, and the end of an appender that held the head.
use strict;
use warnings;

use EvtTest;
use EvtWire;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nevtstore.poll_interval = 60s\nauthentication_timeout = 10min\n");

sub sql { return $node->safe_psql('postgres', shift) }

# In a session of its own, and for less than ten seconds: then a timer of the server wakes who has read something, too
sub comes
{
	my ($name, $position, $what) = @_;
	my ($status, undef, $error) = $node->psql('postgres', "CALL evtstore.wait_for('$name', $position, '8s')");

	return is($status == 0 ? '' : $error, '', $what);
}

sql(q{CREATE TABLE seen (position bigint PRIMARY KEY, n serial);
	CREATE TABLE broken ();
	CREATE FUNCTION note(event evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF event.type = 'Hard' AND to_regclass('public.broken') IS NOT NULL THEN RAISE 'not yet'; END IF;
		IF event.type = 'Slow' THEN PERFORM pg_advisory_xact_lock(17); END IF;
		INSERT INTO public.seen VALUES (event.position);
	END $$;
	SELECT evtstore.create_projection('seen', '{"*": {"fn": "public.note"}}', options => '{"retry": {"max_attempts": 3, "initial": "300ms", "multiplier": 1, "jitter": 0}}')});
comes('seen', 0, 'a new projection gets its workers');
my $last = sql(q{SELECT position FROM evtstore.append('a-1', 'Easy', '1')});
comes('seen', $last, 'an append wakes a worker, and his commit who waits');

# who sleeps when it is applied is woken by that: the handler stands before a lock until then
my $lock = session($node);
$lock->query_safe('SELECT pg_advisory_lock(17)');
$last = sql(q{SELECT position FROM evtstore.append('a-4', 'Slow', '1')});
my $waiter = EvtWire->new($node, 'postgres', 'waiter') // die "no connection\n";
$waiter->put("CALL evtstore.wait_for('seen', $last, '1h')");
poll_sql($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event_type = 'Extension'});
$lock->query_safe('SELECT pg_advisory_unlock(17)');
ok($waiter->ready(8), 'who sleeps is woken when it is applied');
$_->quit foreach $lock;
$waiter->close;

# the head stands before an appender in flight
my $slow = session($node);
$slow->query_safe(q{BEGIN; SELECT FROM evtstore.append('a-2', 'Easy', '1')});
$last = sql(q{SELECT position FROM evtstore.append('a-1', 'Easy', '1')});
is(sql('SELECT count(*) FROM seen'), 2, 'what is above an appender in flight is not applied');
$slow->query_safe('ROLLBACK');
comes('seen', $last, 'his end wakes a worker');
$slow->quit;

# three attempts, 300 ms apart; then a person
$last = sql(q{SELECT position FROM evtstore.append('a-3', 'Hard', '1')});
poll_until('the attempts to be spent', sub { sql(q{SELECT count(*) FROM evtstore.blocked_keys WHERE state = 'blocked'}) == 1 });
pass('an event that failed is tried again when it is due');
sql(q{DROP TABLE broken; SELECT evtstore.unblock_key('seen', 'a-3')});
comes('seen', $last, 'who unblocks a key wakes a worker');

sql(q{SELECT evtstore.pause_projection('seen')});
$last = sql(q{SELECT position FROM evtstore.append('a-1', 'Easy', '1')});
sql(q{SELECT evtstore.resume_projection('seen')});
comes('seen', $last, 'who resumes wakes a worker');
is(sql(q{SELECT count(*) FROM evtstore.events FULL JOIN seen USING (position) WHERE n IS NULL OR type IS NULL}), 0, 'each event once');

done_testing();
