# wait_for_work: who sleeps is woken by whatever makes work, of a queue or of a subscription, and by nothing that does not; holds
# nobody while he sleeps; and of many who sleep as many are woken as there are messages.
#
# Nobody looks by himself here: evtstore.poll_interval is an hour.  So whoever is woken was woken by somebody, but for timers of the
# server, which wake who sleeps also when they are over: that of the login, and that of counters that a statement left behind, ten
# seconds after it.  Hence a new session for each wait.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 60', 'evtstore.poll_interval = 1h', 'evtstore.enabled = off',
	'evtstore.test_mode = on', 'authentication_timeout = 10min', '');
my $TIMEOUT = 120;

sub sql { return $node->safe_psql('postgres', shift) }

my ($waiter, $other) = map { session($node) } 1 .. 2;

sub asleep
{
	my $n = shift // 1;
	return poll_sql($node, "SELECT count(*) = $n FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_work%' AND wait_event_type = 'Extension'");
}

# lets a session wait, until it sleeps; a new one, or the same as before
sub begin_wait
{
	my ($session, $names, $n, $same) = @_;
	my $connect = $same ? '' : "\\connect postgres\n";

	$session->query_until(qr/waits/, "$connect\\echo waits\nCALL evtstore.wait_for_work('{$names}', '${TIMEOUT}s');\n\\echo awake\n");
	asleep($n);
	return;
}

# it has been woken long before its time was up
sub woken
{
	my ($what, $session) = @_;
	my $since = time;

	$session->query_until(qr/awake/, '');

	# a lease that ends would wake after thirty seconds
	cmp_ok(time - $since, '<', 20, "$what: woken") or die "nobody is woken\n";
	is($session->{stderr}, '', "$what: without an error");
	return;
}

# still asleep after something that makes no work: whoever looked meanwhile sleeps again
sub not_woken
{
	my $what = shift;

	asleep(1);
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_work%' AND state = 'active'}), 1, "$what wakes nobody");
	return;
}

# nothing is left in a queue that this has received from
sub drain
{
	my $queue = shift;

	1 while sql("SELECT count(evtstore.ack(receipt)) FROM evtstore.receive('$queue', max_count => 100)") > 0;
	return;
}

sql($_) foreach q{SELECT evtstore.create_queue('q', '{"retry": {"initial": "0s"}}')}, q{SELECT evtstore.create_queue('limited', '{"max_in_flight": 1}')},
  q{SELECT evtstore.create_queue('slow', '{"rate": 1}')};
drain($_) foreach qw(q limited slow);

# --- a queue ---

begin_wait($waiter, 'q');
is(sql(q{SELECT backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_work%'}), 't',
	'a sleeper has no snapshot');
is(sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.query LIKE 'CALL%wait_for_work%' AND l.locktype <> 'virtualxid'}),
	0, 'and no lock');
sql(q{BEGIN; SELECT evtstore.send('q', '1'); ROLLBACK});
not_woken('a send that is rolled back');
sql(q{SELECT evtstore.send('limited', '1')});
not_woken('a send to another queue');
drain('limited');
sql(q{SELECT evtstore.send('q', '1')});
woken('a send', $waiter);

# what is there already is no reason to sleep
$waiter->query_until(qr/awake/, "CALL evtstore.wait_for_work('{q}', '${TIMEOUT}s');\n\\echo awake\n");
is($waiter->{stderr}, '', 'work that is there');

# what somebody else has is none, until he gives it back, fails, or goes
sub held
{
	my ($what, @does) = @_;

	drain('q');
	sql(q{SELECT evtstore.send('q', '1')});
	$other->query_safe('BEGIN') if $what =~ /rolled back|savepoint|terminated/;
	$other->query_safe('SAVEPOINT s') if $what =~ /savepoint/;
	$other->query_safe($what =~ /rolled back|savepoint|terminated/ ? q{SELECT receipt FROM evtstore.receive('q')}
		: q{TRUNCATE r; INSERT INTO r SELECT receipt FROM evtstore.receive('q')});
	begin_wait($waiter, 'q');
	$_->() foreach @does;
	woken($what, $waiter);
	return;
}

$other->query_safe(q{CREATE TEMP TABLE r (receipt text)});
held('a receive that is rolled back',    sub { $other->query_safe('ROLLBACK') });
held('a receive in a savepoint',         sub { $other->query_safe('ROLLBACK TO s') }, sub { $other->query_safe('COMMIT') });
held('a message that is released',       sub { $other->query_safe('SELECT evtstore.release(array_agg(receipt)) FROM r') });
held('a message that failed',            sub { $other->query_safe(q{SELECT evtstore.nack(receipt, 'no') FROM r}) });
my $pid = $other->query_safe('SELECT pg_backend_pid()');
held('a consumer that is terminated', sub { sql("SELECT pg_terminate_backend($pid)") });
eval { $other->quit };
$other = session($node);

# time
drain('q');
sql(q{SELECT evtstore.send('q', '1', delay => '300ms')});
begin_wait($waiter, 'q');
woken('a delay', $waiter);
drain('q');
sql(q{SELECT count(*) FROM (SELECT evtstore.send('q', '1'), receipt FROM evtstore.receive('q', lease => '300ms')) r});
sql(q{SELECT evtstore.send('q', '1')});
sql(q{SELECT receipt FROM evtstore.receive('q', lease => '300ms')});
begin_wait($waiter, 'q');
woken('a lease that ends', $waiter);
drain('q');
begin_wait($waiter, 'q');
sql(q{SELECT evtstore.send('q', '1', delay => '300ms')});
woken('a delay that begins while he sleeps', $waiter);
drain('q');

# a key: the next one is work when the one before is settled
sql(q{SELECT evtstore.send('q', '1', key => 'k'), evtstore.send('q', '2', key => 'k')});
my $receipt = sql(q{SELECT receipt FROM evtstore.receive('q')});
is(sql(q{SELECT count(*) FROM evtstore.receive('q')}), 0, 'the next one of a key waits');
begin_wait($waiter, 'q');
sql("SELECT evtstore.ack('$receipt')");
woken('the next of a key', $waiter);
drain('q');

# limits
sql(q{SELECT evtstore.send_batch('limited', '{1,2}')});
$receipt = sql(q{SELECT receipt FROM evtstore.receive('limited')});
begin_wait($waiter, 'limited');
sql("SELECT evtstore.ack('$receipt')");
woken('room under max_in_flight', $waiter);
drain('limited');
sql(q{SELECT evtstore.send_batch('slow', '{1,2}')});
is(sql(q{SELECT count(*) FROM evtstore.receive('slow', max_count => 2)}), 1, 'the rate');
begin_wait($waiter, 'slow');
woken('the rate', $waiter);
drain('slow');

# pause and resume, purge, redrive
sql(q{SELECT evtstore.pause('q')});
sql(q{SELECT evtstore.send('q', '1')});
begin_wait($waiter, 'q');
sql(q{SELECT evtstore.resume('q')});
woken('resume', $waiter);
sql(q{SELECT evtstore.reject(receipt) FROM evtstore.receive('q')});
begin_wait($waiter, 'q');
is(sql(q{SELECT evtstore.redrive('q')}), 1, 'a dead letter');
woken('redrive', $waiter);
drain('q');

# --- as many as there are messages ---

my @many = map { session($node) } 1 .. 20;
foreach my $i (0 .. $#many)
{
	begin_wait($many[$i], 'limited,q', $i + 1);
}
sql(q{SELECT evtstore.send_batch('q', '{1,2,3}')});
# the three are not asleep any more, and the seventeen stay so
asleep(17);
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_work%' AND state = 'active'}), 17, 'three messages wake three of twenty');
drain('q');
# the others go on sleeping until something comes for them
sql(q{SELECT evtstore.send_batch('q', ARRAY(SELECT '1'::jsonb FROM generate_series(1, 17)))});
asleep(0);
foreach (@many)
{
	woken('one of many', $_);
	$_->quit;
}
drain('q');

# --- a subscription ---

sql(q{SELECT evtstore.create_subscription('s', '{"categories": ["order"], "types": ["Placed"]}', lanes => 2, options => '{"retry": {"initial": "0s"}}')});
begin_wait($waiter, 's');
sql(q{SELECT evtstore.append('mail-1', 'Placed', '1')});
not_woken('an event of another category');
sql(q{SELECT evtstore.append('order-1', 'Paid', '1')});
not_woken('an event of another type');
$other->query_safe('BEGIN');
$other->query_safe(q{SELECT evtstore.append('order-2', 'Seen', '1')});
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
not_woken('an event above one that is in flight');
$other->query_safe('ROLLBACK');
woken('the end of an appender in flight', $waiter);
is(sql(q{SELECT count(*) FROM evtstore.poll('s', 'a')}), 1, 'woken means that it can be polled');
begin_wait($waiter, 's');
sql(q{SELECT evtstore.leave('s', 'a')});
woken('a consumer that leaves', $waiter);
$receipt = sql(q{SELECT receipt FROM evtstore.poll('s', 'a')});
sql("SELECT evtstore.ack('$receipt')");
begin_wait($waiter, 's');
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
woken('an event', $waiter);

# one that failed is work when it is due
$receipt = sql(q{SELECT receipt FROM evtstore.poll('s', 'a')});
begin_wait($waiter, 's');
sql("SELECT evtstore.nack('$receipt', 'no', '300ms')");
woken('an event that is due again', $waiter);
$receipt = sql(q{SELECT receipt FROM evtstore.poll('s', 'a')});
begin_wait($waiter, 's');
sql("SELECT evtstore.reject('$receipt', 'no')");
not_woken('a dead letter');
is(sql(q{SELECT evtstore.redrive('s')}), 1, 'a dead letter of a subscription');
woken('its redrive', $waiter);
$receipt = sql(q{SELECT receipt FROM evtstore.poll('s', 'a')});
sql("SELECT evtstore.ack('$receipt')");
begin_wait($waiter, 's');
sql(q{SELECT evtstore.seek('s', to_position => 0)});
woken('seek', $waiter);

# an event in a lane of somebody else, which he does not poll: told once, and not again and again
sql(q{SELECT count(evtstore.ack(receipt)) FROM evtstore.poll('s', 'a')});
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
$waiter->query_until(qr/awake/, "CALL evtstore.wait_for_work('{s}', '${TIMEOUT}s');\n\\echo awake\n");
is(sql(q{SELECT count(*) FROM evtstore.poll('s')}), 0, 'nobody else may have it');
begin_wait($waiter, 's', 1, 'same');
sql(q{SELECT count(evtstore.ack(receipt)) FROM evtstore.poll('s', 'a')});
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
woken('but the next one is told', $waiter);

# lanes that come after others open when those are emptied, which no event says
sql(q{SELECT evtstore.create_subscription('grow', '{"categories": ["grow"]}', lanes => 1)});
sql(q{SELECT evtstore.append('grow-1', 'Placed', '1')});
$receipt = sql(q{SELECT receipt FROM evtstore.poll('grow', 'a', lease => '1h')});
sql(q{SELECT evtstore.alter_subscription('grow', '{"lanes": 2}')});
sql(q{SELECT evtstore.append('grow-1', 'Placed', '2')});
begin_wait($waiter, 'grow');
sql("SELECT evtstore.ack('$receipt')");
woken('lanes that open', $waiter);
is(sql(q{SELECT body FROM evtstore.poll('grow', 'a')}), 2, 'and what is in them');

# --- what is no name, no time, no place to wait ---

sub refused
{
	my ($what, $query, $state) = @_;
	return is(sqlstate($node, $query), $state, $what);
}

refused('an unknown name', q{CALL evtstore.wait_for_work('{nothing}', '1s')}, 'ST008');
refused('no name', q{CALL evtstore.wait_for_work('{}', '1s')}, '22023');
refused('a NULL', q{CALL evtstore.wait_for_work('{q,NULL}', '1s')}, '22004');
refused('no names', q{CALL evtstore.wait_for_work(NULL, '1s')}, '22004');
refused('no timeout', q{CALL evtstore.wait_for_work('{q}', NULL)}, '22004');
refused('a negative timeout', q{CALL evtstore.wait_for_work('{q}', '-1s')}, '22023');
refused('seventeen names', q{CALL evtstore.wait_for_work(array_fill('q'::text, ARRAY[17]), '1s')}, '22023');
refused('in a transaction', q{BEGIN; CALL evtstore.wait_for_work('{q}', '1s')}, '25001');
refused('in a function', q{BEGIN; DO $$ BEGIN CALL evtstore.wait_for_work('{q}', '1s'); END $$}, '25001');
is(sqlstate($node, q{CALL evtstore.wait_for_work('{q}', '10ms')}), '00000', 'the time is over: no error');
is(sqlstate($node, q{DO $$ BEGIN CALL evtstore.wait_for_work('{q}', '10ms'); END $$}), '00000', 'from a DO block');

# --- it can be cancelled, terminated, and lose its queue ---

begin_wait($waiter, 'q');
sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_work%'});
$waiter->query_until(qr/awake/, '');
like($waiter->{stderr}, qr/canceling statement due to user request/, 'a sleeper can be cancelled');
$waiter->{stderr} = '';
begin_wait($waiter, 'q');
begin_wait($other, 'q', 2);
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_work%' ORDER BY backend_start LIMIT 1});
asleep(1);
sql(q{SELECT evtstore.send('q', '1')});
woken('the one who is left', $other);
eval { $waiter->quit };

# a client that is gone is not slept for
{
	$node->append_conf('postgresql.conf', 'evtstore.poll_interval = 200ms');
	$node->reload;
	my $gone = session($node);
	drain('q');
	$gone->query_until(qr/waits/, "\\echo waits\nCALL evtstore.wait_for_work('{q}', '${TIMEOUT}s');\n");
	asleep(1);
	my $since = time;
	kill 'KILL', $gone->{run}{KIDS}[0]{PID};
	asleep(0);
	cmp_ok(time - $since, '<', 20, 'nor does anybody sleep for a client that is gone');
	eval { $gone->quit };
}

# a server that restarts has nobody who waits
crash($node);
my $again = session($node);
drain('q');
begin_wait($again, 'q');
sql(q{SELECT evtstore.send('q', '1')});
woken('after a crash', $again);
$again->quit;

done_testing();
