# Waiting for the head: woken as soon as it moves, by a commit, a rollback, a savepoint, an error, the end of a backend; woken
# means readable.  Whoever waits holds nobody.  Feed case 15, and the trap that rollbacks wake.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('main', conf => "log_statement = none\nmax_prepared_transactions = 5\n");
my ($slow, $slow2, $waiter, $waiter2) = map { session($node) } 1 .. 4;

sub sql { return $node->safe_psql('postgres', shift) }

sub append
{
	my ($stream, $session) = @_;
	my $query = "SELECT position FROM evtstore.append('$stream', 'T', '1')";
	return $session ? $session->query_safe($query) : sql($query);
}

sub asleep
{
	my $n = shift;
	return poll_sql($node,
		"SELECT count(*) = $n FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_head%' AND wait_event_type = 'Extension'");
}

# Lets a session wait for a position, half a minute at most; until it sleeps.
sub begin_wait
{
	my ($session, $position, $n) = @_;

	$session->query_until(qr/waits/, "\\echo waits\nCALL evtstore.wait_for_head($position, '30s');\n\\echo awake\n");
	asleep($n // 1);
	return;
}

# The wait has ended well, long before its time is up, and what was waited for can be read.
sub woken
{
	my ($what, $session, $position, $since) = @_;

	$session->query_until(qr/awake/, '');
	# the next ones would take as long
	cmp_ok(time - $since, '<', 20, "$what: woken at once") or die "nobody is woken\n";
	is($session->{stderr}, '', "$what: without an error");
	is($session->query_safe("SELECT count(*) FROM evtstore.read_all($position - 1) WHERE position = $position"), 1,
		"$what: and it can be read");
	return;
}

sub wakes
{
	my ($what, $appends, $ends, $afterwards) = @_;

	$slow->query_safe($_) foreach @$appends;
	my $position = append('b-1');
	begin_wait($waiter, $position);
	my $since = time;
	$slow->query($_) foreach @$ends;
	woken($what, $waiter, $position, $since);
	$slow->{stderr} = '';
	$slow->query($_) foreach @{ $afterwards // [] };
	return;
}

my $append = q{SELECT FROM evtstore.append('a-1', 'T', '1')};
wakes('commit',             [ 'BEGIN', $append ], ['COMMIT']);
wakes('rollback',           [ 'BEGIN', $append ], ['ROLLBACK']);
wakes('savepoint',          [ 'BEGIN', 'SAVEPOINT x', $append ], ['ROLLBACK TO x'], ['COMMIT']);
wakes('released savepoint', [ 'BEGIN', 'SAVEPOINT x', 'SAVEPOINT y', $append, 'RELEASE y' ], ['ROLLBACK TO x'],
	['COMMIT']);
wakes('error',              [ 'BEGIN', $append ], ['SELECT 1 / 0'], ['ROLLBACK']);
wakes('conflict',           [ 'BEGIN', $append ], [q{SELECT evtstore.append('a-2', 'T', '1', expected_version => 9)}],
	['ROLLBACK']);
wakes('refused prepare',    [ 'BEGIN', $append ], [q{PREPARE TRANSACTION 'p'}]);

# the event waited for is the one that is awaited, or one that is not there yet
$slow->query_safe('BEGIN');
my $position = append('a-1', $slow);
begin_wait($waiter, $position);
my $since = time;
$slow->query_safe('COMMIT');
woken('its own commit', $waiter, $position, $since);
$position = last_position($node) + 1;
begin_wait($waiter, $position);
$since = time;
append('c-1');
woken('an event to come', $waiter, $position, $since);

# --- two that hold, in either order; two that wait ---

foreach my $order ([ $slow, $slow2 ], [ $slow2, $slow ])
{
	$_->query_safe('BEGIN') foreach $slow, $slow2;
	append('a-1', $slow);
	append('a-2', $slow2);
	my $position = append('b-1');
	begin_wait($waiter, $position);
	begin_wait($waiter2, $position, 2);
	$order->[0]->query_safe('ROLLBACK');
	# both look again and go back to sleep
	is(sql('SELECT count(*) FROM evtstore.why_behind()'), 1, 'one of two holders is left');
	asleep(2);
	my $since = time;
	$order->[1]->query_safe('COMMIT');
	woken('last holder, first waiter', $waiter, $position, $since);
	woken('last holder, second waiter', $waiter2, $position, $since);
}

# --- holders that go without a word ---

my $holder = session($node);
$holder->query_safe('BEGIN');
append('a-9', $holder);
$position = append('b-1');
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
begin_wait($waiter, $position);
$since = time;
sql("SELECT pg_terminate_backend($pid)");
woken('terminated backend', $waiter, $position, $since);
eval { $holder->quit };

$holder = session($node);
$holder->query_safe('BEGIN');
append('a-9', $holder);
$position = append('b-1');
begin_wait($waiter, $position);
$since = time;
$holder->quit;
woken('client that is gone', $waiter, $position, $since);

# --- who waits holds nobody: no snapshot, no transaction; and can be stopped ---

$slow->query_safe('BEGIN');
append('a-1', $slow);
$position = append('b-1');
begin_wait($waiter, $position);
is(sql(q{SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_head%'}),
	't', 'a sleeper has no snapshot');
is(sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.query LIKE 'CALL%wait_for_head%' AND l.locktype NOT IN ('virtualxid')}),
	0, 'and no lock');
is(sql(q{SELECT version FROM evtstore.append('c-1', 'T', '1', expected_version => 1)}), 2, 'others append meanwhile');
is(sql('SELECT xact_start IS NOT NULL AND usename = current_user FROM evtstore.why_behind()'), 't',
	'why_behind says who is waited for');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_head%'});
$waiter->query_until(qr/awake/, '');
like($waiter->{stderr}, qr/canceling statement due to user request/, 'a sleeper can be cancelled');
$waiter->{stderr} = '';
begin_wait($waiter2, $position);
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_head%' AND wait_event_type = 'Extension'});
asleep(0);
eval { $waiter2->quit };
ok(1, 'and terminated');

# --- the time is up ---

my ($out, $err) = ('', '');
$node->psql('postgres', "CALL evtstore.wait_for_head($position, '10ms')", stdout => \$out, stderr => \$err,
	extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($err, qr/ERROR:  ST011: the head did not reach position $position in 10 ms/, 'the time is up: ST011');
like($err, qr/^HINT:  .*why_behind/m, 'with a hint');
$slow->query_safe('COMMIT');
is(sqlstate($node, "CALL evtstore.wait_for_head($position, '0')"), '00000', 'nothing to wait for');
is(sqlstate($node, 'BEGIN; CALL evtstore.wait_for_head(1)'), '25001', 'not in a transaction block');
is(sqlstate($node, q{DO $$ BEGIN PERFORM 1; CALL evtstore.wait_for_head(1, '0'); END $$}), '00000',
	'but in a block that may commit');
is(sqlstate($node,
	q{DO $$ BEGIN BEGIN CALL evtstore.wait_for_head(1, '0'); EXCEPTION WHEN division_by_zero THEN NULL; END; END $$}),
	'25001', 'not in one with a savepoint');

$_->quit foreach $slow, $slow2, $waiter;
done_testing();
