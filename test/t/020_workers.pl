# The life of the workers: who starts whom and when, how a sleeping worker hears of work, what stops one and what brings it
# back, and that nothing is lost on the way.
use strict;
use warnings;

use EvtTest;
use IO::Select;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;

# no poll comes to the rescue: whoever sleeps here is woken or stays asleep
my $node = new_node('main', extension => 0, conf => "evtstore.poll_interval = '10min'\nrestart_after_crash = on\n");

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# How many workers of a kind a database has.
sub workers
{
	my ($kind, $database) = @_;
	return sql(
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evtstore $kind' AND datname IS NOT DISTINCT FROM "
		  . (defined $database ? "'$database'" : 'NULL'));
}

sub wait_workers
{
	my ($kind, $n, $database) = @_;
	$database //= 'postgres';
	return poll_until("$n x $kind in $database", sub { workers($kind, $database) == $n });
}

sub wait_got
{
	my $n = shift;
	return poll_sql($node, "SELECT count(*) FROM shop.got WHERE (d).body->>'n' = '$n'", '1');
}

# --- who is there without the extension, and with it ---

poll_until('the launcher', sub { workers('launcher') == 1 });
ok(1, 'the launcher runs in a cluster without the extension');
poll_until('the look at every database', sub { workers('scheduler', 'postgres') == 0 });
is(workers('scheduler', 'template1'), 0, 'no session in a template');

sql('BEGIN; CREATE EXTENSION evtstore; ROLLBACK');
sql('CREATE EXTENSION evtstore');
wait_workers('scheduler', 1);
ok(1, 'CREATE EXTENSION brings a scheduler');
is(workers('delivery worker', 'postgres'), 0, 'no delivery worker without a queue to deliver');

sql(q{
	CREATE SCHEMA shop;
	CREATE TABLE shop.got (at timestamptz DEFAULT clock_timestamp(), pid int DEFAULT pg_backend_pid(), d evtstore.delivery);
	CREATE FUNCTION shop.take(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF d.body ? 'lock' THEN
			PERFORM pg_advisory_xact_lock(42);
		END IF;
		IF d.body ? 'fail' AND d.attempt = 1 THEN
			RAISE EXCEPTION 'not now';
		END IF;
		INSERT INTO shop.got (d) VALUES (d);
	END $$;
	SELECT evtstore.create_endpoint('shop', 'sql:shop.take');
	SELECT evtstore.create_queue('orders', '{"endpoint": "shop", "retry": {"initial": "300ms", "jitter": 0}}');
});

# --- wake-ups, with the poll out of reach ---

sql(q{SELECT evtstore.send('orders', '{"n": 1}')});
wait_got(1);
ok(1, 'a first message brings delivery workers and is delivered');
wait_workers('delivery worker', 2);
sql(q{SELECT evtstore.send('orders', '{"n": 2}')});
wait_got(2);
ok(1, 'a message wakes a sleeping worker');

sql(q{SELECT evtstore.send('orders', '{"n": 3}', delay => '700ms')});
wait_got(3);
cmp_ok(sql(q{SELECT extract(epoch FROM at - (d).enqueued_at) FROM shop.got WHERE (d).body->>'n' = '3'}),
	'>=', 0.7, 'a delayed message is delivered, and not before its time');

sql(q{SELECT evtstore.send('orders', '{"n": 4, "fail": 1}')});
wait_got(4);
is(sql(q{SELECT (d).attempt FROM shop.got WHERE (d).body->>'n' = '4'}), 2, 'a failed message comes back by its retry policy');

sql(q{SELECT evtstore.create_queue('later', '{"endpoint": "shop"}'); SELECT evtstore.send('later', '{"n": 5}')});
wait_got(5);
ok(1, 'a new queue is served by workers that run');

sql(q{BEGIN; SAVEPOINT s; SELECT evtstore.send('orders', '{"n": 6}'); ROLLBACK TO s; SELECT evtstore.send('orders', '{"n": 7}'); COMMIT});
wait_got(7);
is(sql(q{SELECT count(*) FROM shop.got WHERE (d).body->>'n' = '6'}), 0, 'what was rolled back is not delivered');

poll_sql($node, q{SELECT bool_and(state = 'idle' AND xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL)
	FROM pg_stat_activity WHERE backend_type LIKE 'evtstore %'});
ok(1, 'sleeping workers hold no transaction and no snapshot');
like(sql(q{SELECT string_agg(application_name, ',') FROM pg_stat_activity WHERE backend_type = 'evtstore delivery worker'}),
	qr{evtstore delivery worker postgres/(?:orders|later)}, 'the application name shows database and queue');
is(sql(q{SELECT count(*) FROM evtstore.workers WHERE kind = 'evtstore delivery worker' AND state IN ('idle', 'busy')}), 2,
	'evtstore.workers shows them');
cmp_ok(sql(q{SELECT sum(deliveries) FROM evtstore.workers}), '>=', 6, 'and counts their deliveries');

is(sql(q{SELECT string_agg(check_name, ',' ORDER BY check_name) FROM evtstore.health() WHERE NOT ok}), '', 'all is well: health()');

# --- a worker that is asked to end ---

my $locker = session($node);
$locker->query_safe('SELECT pg_advisory_lock(42)');
sql(q{SELECT evtstore.send('orders', '{"n": 8, "lock": 1}')});
my $stuck = poll_until('a worker in its handler', sub {
	return sql(q{SELECT a.pid FROM pg_stat_activity a JOIN pg_locks l USING (pid)
		WHERE a.backend_type = 'evtstore delivery worker' AND l.locktype = 'advisory' AND NOT l.granted});
});
my $since = time;
sql("SELECT pg_terminate_backend($stuck)");
poll_until('the end of a worker that is stuck in SQL', sub { !kill 0, $stuck });
cmp_ok(time - $since, '<=', 15, 'a worker stuck in a handler ends all the same');
$locker->query_safe('SELECT pg_advisory_unlock(42)');
wait_got(8);
is(sql(q{SELECT count(*) FROM shop.got WHERE (d).body->>'n' = '8'}), 1, 'its message is delivered by another, once');
wait_workers('delivery worker', 2);
ok(1, 'the scheduler replaces it');

foreach my $kind ('scheduler', 'launcher')
{
	my $pid = worker_pid($node, $kind);
	sql("SELECT pg_terminate_backend($pid)");
	poll_until("another $kind", sub { my $now = worker_pid($node, $kind); return $now && $now != $pid });
	ok(1, "the $kind comes back when it was terminated");
}
sql(q{SELECT evtstore.send('orders', '{"n": 9}', delay => '100ms')});
wait_got(9);
wait_workers('delivery worker', 2);
ok(1, 'delivery goes on, with as many workers as before');

# --- switched off and on ---

sql('ALTER DATABASE postgres SET evtstore.enabled = off');
wait_workers('scheduler', 0);
wait_workers('delivery worker', 0);
ok(1, 'ALTER DATABASE ... SET evtstore.enabled = off ends the workers');
sql(q{SELECT evtstore.send('orders', '{"n": 10}')});
is(sql(q{SELECT ok::text || ': ' || detail FROM evtstore.health() WHERE check_name = 'enabled'}),
	'false: evtstore.enabled is off', 'health() says so');
$node->reload;
is(workers('scheduler', 'postgres') + workers('delivery worker', 'postgres'), 0, 'a reload changes nothing about it');
sql('ALTER DATABASE postgres RESET evtstore.enabled');
wait_got(10);
ok(1, 'on again: what was sent meanwhile is delivered');

$node->append_conf('postgresql.conf', "evtstore.enabled = off\n");
$node->reload;
wait_workers('scheduler', 0);
wait_workers('delivery worker', 0);
ok(1, 'evtstore.enabled = off for the cluster, by a reload');
sql(q{SELECT evtstore.send('orders', '{"n": 11}')});
$node->append_conf('postgresql.conf', "evtstore.enabled = on\n");
$node->reload;
wait_got(11);
ok(1, 'and on again');

# --- killed ---

# a receiver that takes what comes and never answers: the message stays in flight
my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $!";
my $port   = $silent->sockport;
sql(qq{SELECT evtstore.create_endpoint('silent', 'http://127.0.0.1:$port/', '{"timeout": "5min"}')});
sql(q{SELECT evtstore.create_queue('calls', '{"endpoint": "silent"}'); SELECT evtstore.send('calls', '{"n": 12}')});
my $connection = accept_call();
my $busy = worker_pid($node, 'relay');
is(sql(q{SELECT in_flight FROM evtstore.endpoint_status WHERE name = 'silent'}), 1, 'a relay worker has the request out');
is(sql("SELECT xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE pid = $busy"),
	't', 'no transaction is open during I/O');
is(sql(q{SELECT in_flight FROM evtstore.queue_status WHERE name = 'calls'}), 1, 'only a lease is held');

kill9($busy);
$node->poll_query_until('postgres', 'SELECT true') or die 'the server did not come back';
close $connection;
# the lease lasts longer than five minutes: it went with shared memory
$connection = accept_call();
ok(1, 'kill -9 of a relay worker: its lease is given back at once when the server is up again');
is(sql(q{SELECT in_flight FROM evtstore.queue_status WHERE name = 'calls'}), 1, 'and one holds it again');

kill9(worker_pid($node, 'scheduler'));
$node->poll_query_until('postgres', 'SELECT true') or die 'the server did not come back';
close $connection;
$connection = accept_call();
ok(1, 'kill -9 of the scheduler: the same');

$since = time;
$node->stop('fast');
cmp_ok(time - $since, '<=', 20, 'a fast stop does not wait for the receiver');
close $connection;
$node->start;
$connection = accept_call();
ok(1, 'what the stop interrupted is delivered after the start');
crash($node);
close $connection;
$connection = accept_call();
ok(1, 'and after an immediate stop');
close $connection;
close $silent;
sql(q{SELECT evtstore.drop_queue('calls'); SELECT evtstore.drop_endpoint('silent')});

sub accept_call
{
	my $select = IO::Select->new($silent);
	$select->can_read($PostgreSQL::Test::Utils::timeout_default) or die 'no delivery arrived';
	my $call = $silent->accept or die "accept: $!";
	return $call;
}

# --- DROP EXTENSION under way ---

sql(q{SELECT evtstore.append('cart-1', 'Opened', '{}')});
wait_workers('delivery worker', 2);
is(sqlstate($node, 'DROP EXTENSION evtstore CASCADE'), '2BP01', 'DROP EXTENSION is refused while there are events');
is(sqlstate($node, 'DROP OWNED BY CURRENT_USER CASCADE') ne '00000', 1, 'so is DROP OWNED');
wait_workers('delivery worker', 2);
ok(1, 'the workers are back');
sql(q{SELECT evtstore.send('orders', '{"n": 13}')});
wait_got(13);

my $dropper = session($node);
$dropper->query_safe('SET client_min_messages = warning; BEGIN; SET LOCAL evtstore.allow_drop = on; DROP EXTENSION evtstore CASCADE');
is(workers('scheduler', 'postgres') + workers('delivery worker', 'postgres'), 0, 'nobody is there while the extension is dropped');
$dropper->query_safe('ROLLBACK');
sql(q{SELECT evtstore.send('orders', '{"n": 14}')});
wait_got(14);
ok(1, 'rolled back: they come back');

sql('BEGIN; SET LOCAL evtstore.allow_drop = on; DROP EXTENSION evtstore CASCADE; COMMIT');
wait_workers('scheduler', 0);
is(sql('SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()'
	. " AND backend_type LIKE 'evtstore%'"), 0, 'committed: they do not');
sql('CREATE EXTENSION evtstore');
wait_workers('scheduler', 1);
ok(1, 'CREATE EXTENSION again brings a scheduler again');
is(sql(q{SELECT evtstore.head_position()}), 0, 'of an empty store');
is(sqlstate($node, 'BEGIN; DROP EXTENSION evtstore; CREATE EXTENSION evtstore; COMMIT'), '00000', 'dropped and made in one transaction');
wait_workers('scheduler', 1);

# --- worker slots of the server ---

$node->append_conf('postgresql.conf', "max_worker_processes = 3\n");
$node->restart;
wait_workers('scheduler', 1);
my $log = -s $node->logfile;
sql(q{
	CREATE OR REPLACE FUNCTION shop.ignore(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ SELECT $$;
	SELECT evtstore.create_endpoint('shop', 'sql:shop.ignore');
	SELECT evtstore.create_queue('orders', '{"endpoint": "shop"}');
	SELECT evtstore.send('orders', '{}');
});
$node->wait_for_log(qr/no worker slot is left for 2 of 2 evtstore delivery workers of database "postgres"/, $log);
ok(1, 'a server without a free worker slot: the log says so');
is(sql(q{SELECT ok FROM evtstore.health() WHERE check_name = 'worker_slots'}), 'f', 'health() says so');

# many databases are looked at without using up the slots
$node->append_conf('postgresql.conf', "max_worker_processes = 6\n");
sql("CREATE DATABASE empty$_") foreach 1 .. 12;
$log = -s $node->logfile;
$node->restart;
wait_workers('delivery worker', 2);
poll_until('the look at every database', sub {
	return sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evtstore scheduler'}) == 1;
});
unlike(slurp_file($node->logfile, $log), qr/no worker slot is left/, 'a cluster of many databases, and a few worker slots');

$node->stop;
done_testing();
