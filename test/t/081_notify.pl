# The option "notify": whoever listens is told of work by the scheduler, once for many sends, and of nothing that is not news; no
# sender and no appender has a NOTIFY in his transaction; and what waits when the worker is killed is notified of afterwards.
#
# Nobody looks by himself here, unless a section says so: evtstore.poll_interval is an hour.  That nothing comes is shown by what comes
# after it: the scheduler notifies of everything that it owes at once, so whoever has heard the second of two things that were sent after
# the one in question would have heard of that too.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# nobody waits for the standby that is not there but who asks for it, far below
my $node = new_node(
	'main',
	init => { allows_streaming => 1 },
	conf => join "\n", 'log_statement = none', 'evtstore.poll_interval = 1h', 'synchronous_commit = local', "synchronous_standby_names = 'nobody'", '');

sub sql { return $node->safe_psql('postgres', shift) }

my ($listener, %heard);

sub listen_again
{
	$listener = session($node);
	$listener->query_safe("LISTEN $_") foreach qw(work other fence events);
	return;
}

# what has come so far, by channel and payload
sub hear
{
	my $out = $listener->query('SELECT 1');

	$heard{"$1:$2"}++ while $out =~ /Asynchronous notification "([^"]+)" with payload "([^"]*)"/g;
	return;
}

sub count
{
	my $what = shift;

	hear();
	return $heard{$what} // 0;
}

sub heard
{
	my ($what, $title, $seconds) = @_;

	poll_until("$title: a notification $what", sub { return count($what) > 0 }, $seconds);
	pass("$title: heard");
	delete $heard{$what};
	return;
}

# twice: a pass of the scheduler that is under way already may not know of what is asked about
sub fence
{
	foreach (1 .. 2)
	{
		sql(q{SELECT evtstore.send('fence', '1')});
		poll_until('the fence', sub { return count('fence:fence') > 0 });
		delete $heard{'fence:fence'};
	}
	return;
}

sub not_heard
{
	my ($what, $title) = @_;

	fence();
	is(count($what), 0, "$title: nothing is heard");
	delete $heard{$what};
	return;
}

sub drain
{
	my $queue = shift;

	1 while sql("SELECT count(evtstore.ack(receipt)) FROM evtstore.receive('$queue', max_count => 100)") > 0;
	return;
}

# nothing is left of a subscription, and no lane held
sub drain_events
{
	my $subscription = shift;

	1 while sql("SELECT count(evtstore.ack(receipt)) FROM evtstore.poll('$subscription')") > 0;
	return;
}

sql($_) foreach q{SELECT evtstore.create_queue('fence', '{"notify": "fence"}')}, q{SELECT evtstore.create_queue('q', '{"notify": "work"}')},
  q{SELECT evtstore.create_queue('silent')};
listen_again();

# --- a queue ---

sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'a send to a queue that nobody has received from');
not_heard('work:q', 'and no more of it');
sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'another one, though the first was not taken');
drain('q');
not_heard('work:q', 'a queue that is emptied');
sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'a send to one that somebody has received from');
sql(q{BEGIN; SELECT evtstore.send('q', '1'); ROLLBACK});
not_heard('work:q', 'a send that is rolled back');
sql(q{SELECT evtstore.send('silent', '1')});
fence();
is_deeply(\%heard, {}, 'a queue without a channel: nothing is heard');
drain('q');

# many at once
my $since = time;
sql(q{DO $$ BEGIN FOR i IN 1 .. 1000 LOOP PERFORM evtstore.send('q', '1'); COMMIT; END LOOP; END $$});
my $elapsed = time - $since;
fence();
my $n = count('work:q');
cmp_ok($n, '>=', 1, 'a thousand transactions: heard');
cmp_ok($n, '<=', 3 + (time - $since) / 0.1, sprintf 'and ten times a second at most: %d in %.2f s', $n, $elapsed);
delete $heard{'work:q'};
sql(q{SELECT evtstore.send('q', '1') FROM generate_series(1, 1000)});
fence();
$n = count('work:q');
ok($n == 1, "a thousand in one transaction: heard once") or diag "heard $n times";
delete $heard{'work:q'};
drain('q');

# time
sub delayed
{
	my ($queue, $title) = @_;

	my $sent = time;
	sql("SELECT evtstore.send('$queue', '1', delay => '2s')");
	fence();
	is(count("work:$queue"), 0, "$title: nothing is heard before its time") if time - $sent < 1.5;
	heard("work:$queue", "$title: its time has come");
	cmp_ok(time - $sent, '>=', 2, "$title: not before");
	return;
}

sql(q{SELECT evtstore.create_queue('fresh', '{"notify": "work"}')});
delayed('fresh', 'a delay in a queue that nobody has received from');
delayed('q', 'a delay');
drain('q');
sql(q{SELECT evtstore.send('q', '1', delay => '300ms'), evtstore.send('q', '2', delay => '900ms')});
heard('work:q', 'the first of two delays');
drain('q');
heard('work:q', 'the second one');
drain('q');

# its time comes, and the scheduler looks, before the sender commits
my $late = session($node);
$late->query_safe('BEGIN');
$late->query_safe(q{SELECT evtstore.send('q', '1', delay => '100ms')});
my $due = sql(q{SELECT clock_timestamp() + '150ms'});
poll_sql($node, "SELECT clock_timestamp() > '$due'");
sql(q{SELECT evtstore.send('q', '2')});
heard('work:q', 'a send after that time');
drain('q');
not_heard('work:q', 'what is not committed');
$late->query_safe('COMMIT');
heard('work:q', 'a delay that is over when its sender commits');
$late->quit;
drain('q');

# what comes back
sub receipt { return sql(q{SELECT receipt FROM evtstore.receive('q')}) }

sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'a send');
sql(q{BEGIN; SELECT receipt FROM evtstore.receive('q'); ROLLBACK});
heard('work:q', 'a receive that is rolled back');
my $receipt = receipt();
not_heard('work:q', 'a receive');
sql("SELECT evtstore.release(ARRAY['$receipt'])");
heard('work:q', 'a release');
$receipt = receipt();
sql("SELECT evtstore.nack('$receipt', 'no', '500ms')");
heard('work:q', 'a failure, when it is due again');
drain('q');

# of one key the next is ready when the one before is settled
sql(q{SELECT evtstore.send('q', '1', key => 'k'), evtstore.send('q', '2', key => 'k')});
heard('work:q', 'two of a key');
$receipt = receipt();
is(receipt(), '', 'the second waits');
not_heard('work:q', 'while the first is out');
sql("SELECT evtstore.ack('$receipt')");
heard('work:q', 'the second of the key');
drain('q');

# limits
sql(q{SELECT evtstore.alter_queue('q', '{"max_in_flight": 1}')});
sql(q{SELECT evtstore.send_batch('q', '{1,2}')});
heard('work:q', 'two, of which one may be out');
$receipt = receipt();
is(receipt(), '', 'the other one has to wait');
not_heard('work:q', 'no room');
sql("SELECT evtstore.ack('$receipt')");
heard('work:q', 'room');
drain('q');
sql(q{SELECT evtstore.alter_queue('q', '{"max_in_flight": null, "rate": 1}')});
sql(q{SELECT evtstore.send_batch('q', '{1,2,3}')});
# so that what the sender and alter_queue told is over
fence();
delete $heard{'work:q'};
drain('q');
heard('work:q', 'whom the rate turned away');
sql(q{SELECT evtstore.alter_queue('q', '{"rate": null}')});
drain('q');

# a person's commands
sql(q{SELECT evtstore.pause('q')});
fence();
delete $heard{'work:q'};
sql(q{SELECT evtstore.send('q', '1')});
not_heard('work:q', 'a send to a queue that is paused');
sql(q{SELECT evtstore.resume('q')});
heard('work:q', 'resume');
sql(q{SELECT evtstore.alter_queue('q', '{"notify": "other"}')});
heard('other:q', 'another channel');
sql(q{SELECT evtstore.send('q', '1')});
heard('other:q', 'a send');
is(count('work:q'), 0, 'and not on the old one');
sql(q{SELECT evtstore.alter_queue('q', '{"notify": null}')});
sql(q{SELECT evtstore.send('q', '1')});
fence();
is(count('other:q'), 0, 'no channel any more: nothing is heard');
sql(q{SELECT evtstore.alter_queue('q', '{"notify": "work"}')});
heard('work:q', 'a channel for a queue that has something');

# nobody's open transaction holds up the others
my $other = session($node);
$other->query_safe('BEGIN');
$other->query_safe(q{SELECT evtstore.drop_queue('fresh')});
sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'while another queue is being dropped');
$other->query_safe('COMMIT');
fence();
is(sql(q{SELECT count(*) FROM evtstore.queue_status WHERE name = 'fresh'}), 0, 'a queue with a channel can be dropped');
drain('q');

# --- a subscription ---

sql(q{SELECT evtstore.create_subscription('s', '{"categories": ["order"], "types": ["Placed"]}', lanes => 2,
	options => '{"notify": "events", "retry": {"initial": "500ms"}}')});
fence();
is(count('events:s'), 0, 'a new subscription has nothing');
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
heard('events:s', 'an event');
not_heard('events:s', 'and no more of it');
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
heard('events:s', 'another one, though the first was not taken');
sql(q{SELECT evtstore.append('order-1', 'Paid', '1')});
not_heard('events:s', 'an event of another type');
sql(q{SELECT evtstore.append('mail-1', 'Placed', '1')});
not_heard('events:s', 'an event of another category');
$other->query_safe('BEGIN');
$other->query_safe(q{SELECT evtstore.append('order-2', 'Seen', '1')});
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
not_heard('events:s', 'an event above one that is in flight');
$other->query_safe('ROLLBACK');
heard('events:s', 'the end of an appender in flight');
drain_events('s');
fence();
delete $heard{'events:s'};
sql(q{DO $$ BEGIN FOR i IN 1 .. 300 LOOP PERFORM evtstore.append('order-1', 'Placed', '1'); COMMIT; END LOOP; END $$});
$since = time;
fence();
$n = count('events:s');
cmp_ok($n, '>=', 1, 'many events: heard');
cmp_ok($n, '<', 150, "and not of each: $n");
drain_events('s');
fence();
delete $heard{'events:s'};
not_heard('events:s', 'a subscription that is read to the end');

sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
heard('events:s', 'an event');
$receipt = sql(q{SELECT receipt FROM evtstore.poll('s', 'a')});
fence();
delete $heard{'events:s'};
sql("SELECT evtstore.nack('$receipt', 'no')");
heard('events:s', 'an event that is due again');
$receipt = sql(q{SELECT receipt FROM evtstore.poll('s', 'a')});
isnt($receipt, '', 'and is there');
fence();
delete $heard{'events:s'};
sql(q{SELECT evtstore.leave('s', 'a')});
heard('events:s', 'a consumer that leaves with what he was handed');
drain_events('s');
fence();
delete $heard{'events:s'};
sql(q{SELECT evtstore.seek('s', to_position => 0)});
heard('events:s', 'seek');
sql(q{SELECT evtstore.alter_subscription('s', '{"rate": 1}')});
fence();
delete $heard{'events:s'};
drain_events('s');
heard('events:s', 'whom the rate of a subscription turned away');
sql(q{SELECT evtstore.alter_subscription('s', '{"rate": null}')});
drain_events('s');
fence();
delete $heard{'events:s'};
sql(q{SELECT evtstore.pause('s')});
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
not_heard('events:s', 'a subscription that is paused');
sql(q{SELECT evtstore.resume('s')});
heard('events:s', 'resume of a subscription');

# one that somebody sets elsewhere and has not committed
$other->query_safe('BEGIN');
$other->query_safe(q{SELECT evtstore.seek('s', to_position => 0)});
sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'while a subscription is locked');
$other->query_safe('COMMIT');
heard('events:s', 'its seek');
drain('q');
drain_events('s');

# a lease that ends, of which nobody tells: found at the poll
$node->append_conf('postgresql.conf', 'evtstore.poll_interval = 200ms');
$node->reload;
sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'a send');
is(sql(q{SELECT count(*) FROM evtstore.receive('q', lease => '1s')}), 1, 'a consumer that goes');
heard('work:q', 'the end of his lease');
sql(q{SELECT evtstore.append('order-1', 'Placed', '1')});
heard('events:s', 'an event');
is(sql(q{SELECT count(*) FROM evtstore.poll('s', lease => '1s')}), 1, 'a consumer of events that goes');
delete $heard{'events:s'};
heard('events:s', 'the end of his lease');

# and polls say nothing of what is known: a second of them, with what is left of both
fence();
%heard = ();
my $until = time + 1;
poll_until('a second of polls', sub { hear(); return time > $until });
is_deeply(\%heard, {}, 'a backlog that is known, over several polls: nothing is heard');
$node->append_conf('postgresql.conf', 'evtstore.poll_interval = 1h');
$node->reload;

# --- switched off, and on ---

$node->append_conf('postgresql.conf', 'evtstore.enabled = off');
$node->reload;
poll_sql($node, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'evtstore scheduler%'});
# a scheduler that came up for the setting before knew nothing
hear();
%heard = ();
sql(q{SELECT evtstore.send('q', '1')});
hear();
is_deeply(\%heard, {}, 'evtstore.enabled is off: nothing is heard');
$node->append_conf('postgresql.conf', 'evtstore.enabled = on');
$node->reload;
heard('work:q', 'on again');
heard('events:s', 'also what was told before');

# --- senders and appenders take no part in the lock of NOTIFY ---

# somebody commits a NOTIFY, and waits for a standby that is not there: he has the lock
fence();
%heard = ();
my $holder = session($node);
# one that writes nothing waits for nobody
$holder->query_safe('CREATE TABLE written (n int)');
$holder->query_safe('SET synchronous_commit = on');
$holder->query_until(qr/holds/, "\\echo holds\nBEGIN;\nINSERT INTO written VALUES (1);\nNOTIFY elsewhere;\nCOMMIT;\n");
poll_sql($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
is(sqlstate($node, q{SET lock_timeout = '200ms'; NOTIFY elsewhere}), '55P03', 'the lock of NOTIFY is held');
is(sqlstate($node, q{SET lock_timeout = '10s'; SELECT evtstore.send('q', '1')}), '00000', 'a send does not wait for it');
is(sqlstate($node, q{SET lock_timeout = '10s'; SELECT evtstore.append('order-1', 'Placed', '1')}), '00000', 'nor does an append');
poll_until('the scheduler to give up', sub { return $node->log_contains(qr/notifying listeners in database "postgres" failed: .*lock timeout/) });
is(sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type LIKE 'evtstore scheduler%'
	AND l.locktype <> 'virtualxid' AND l.granted AND l.locktype = 'advisory'}), 0, 'meanwhile it holds nothing of ours');

# killed with both waiting, and nobody told of them; the server stays down until the configuration keeps the next scheduler away
$node->append_conf('postgresql.conf', 'restart_after_crash = off');
$node->reload;
poll_sql($node, q{SELECT setting = 'off' FROM pg_settings WHERE name = 'restart_after_crash'});
kill9(worker_pid($node, 'scheduler'));
poll_until('the end of the server', sub { return !-e $node->data_dir . '/postmaster.pid' });
eval { $_->quit } foreach $holder, $listener, $other;
$node->append_conf('postgresql.conf', join "\n", "synchronous_standby_names = ''", 'restart_after_crash = on', 'evtstore.enabled = off', '');
$node->{_pid} = undef;
$node->start;
listen_again();
%heard = ();
$node->append_conf('postgresql.conf', 'evtstore.enabled = on');
$node->reload;
heard('work:q', 'what waited when the worker was killed');
heard('events:s', 'also of the subscription');

# the scheduler alone: the listener is still there
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore scheduler%'});
heard('work:q', 'another scheduler, which knows nothing');

# --- the scheduler holds up no DROP EXTENSION, and is there again for the next store ---

drain('q');
sql(q{SELECT evtstore.drop_subscription('s')});
fence();
%heard = ();
sql(q{SELECT evtstore.send('q', '1')});
heard('work:q', 'without the subscription');
is(sqlstate($node, q{SET evtstore.allow_drop = on; DROP EXTENSION evtstore CASCADE}), '00000', 'DROP EXTENSION');
sql(q{CREATE EXTENSION evtstore});
sql(q{SELECT evtstore.create_queue('fence', '{"notify": "fence"}')});
fence();
sql(q{SELECT evtstore.create_queue('q', '{"notify": "work"}'), evtstore.send('q', '1')});
heard('work:q', 'a new store');

# --- a copy notifies nobody, until it is the one that delivers ---

sql(q{UPDATE evtstore_internal.identity SET location = 'elsewhere'});
$node->restart;
listen_again();
%heard = ();
poll_until('the scheduler to see that it is a copy', sub { return $node->log_contains(qr/its event store is a copy/) });
sql(q{SELECT evtstore.send('q', '1')});
$until = time + 1;
poll_until('a second in which a scheduler could notify', sub { hear(); return time > $until });
is_deeply(\%heard, {}, 'a copy: nothing is heard');
sql(q{SELECT evtstore.resume_delivery()});
heard('work:q', 'the one that delivers now');
$listener->quit;

done_testing();
