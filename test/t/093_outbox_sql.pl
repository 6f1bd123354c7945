# A subscription with a function of the database for an endpoint: effect and place commit together, so that each event has its effect
# exactly once, in the order of its key, whoever is killed; and an event that fails holds up its key and no other.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtDisturb;
use EvtTest;
use EvtWire;
use PostgreSQL::Test::Utils;
use Test::More;

my $KEYS = 40;

my ($seed, $seconds) = EvtDisturb::choices(6);
# no lease runs out here: whatever was held is given back
my $node = new_node('main', conf => "restart_after_crash = on\nevtstore.worker_lease = '1h'\nevtstore.delivery_workers = 3\nevtstore.poll_interval = '1s'\n");

sub sql
{
	return $node->safe_psql('postgres', shift);
}

# every event has its effect
sub wait_effects
{
	return poll_sql($node, q{SELECT count(*) FROM evtstore.events e LEFT JOIN shop.effect f ON f.key = e.stream AND f.n = e.version WHERE f.key IS NULL}, 0);
}

# effects in the order in which they were made: a key is one worker's at a time, so seq goes up within it
sql(q{
	CREATE SCHEMA shop;
	CREATE TABLE shop.effect (seq bigserial, key text, n int, attempt int, PRIMARY KEY (key, n));
	CREATE TABLE shop.refused (key text, n int);
	CREATE FUNCTION shop.take(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO shop.effect (key, n, attempt) VALUES (d.key, d.version, d.attempt);
		IF EXISTS (SELECT FROM shop.refused r WHERE r.key = d.key AND r.n = d.version) THEN
			RAISE EXCEPTION 'not that one';
		END IF;
		-- now and then one fails once
		IF d.attempt = 1 AND hashtext(d.event_id::text) % 37 = 0 THEN
			RAISE EXCEPTION 'not now';
		END IF;
	END $$;
	SELECT evtstore.create_endpoint('shop', 'sql:shop.take');
	SELECT evtstore.create_subscription('orders', '{"categories": ["order"]}', endpoint => 'shop', lanes => 6,
		options => '{"retry": {"initial": "20ms", "max_delay": "20ms", "jitter": 0, "max_attempts": 3}}');
});

my $disturb;

sub run_appender
{
	my $client = EvtClient->new($node, 'outbox appender');

	until ($disturb->is_over)
	{
		my $streams = join ', ', map { sprintf "'order-%02d'", rand $KEYS } 1 .. 5;
		$client->do("SELECT evtstore.append(s, 'Placed', '{}') FROM (SELECT DISTINCT unnest(ARRAY[$streams]) ORDER BY 1) d(s)");
		select undef, undef, undef, rand 0.02;    # sleep: so that workers keep up
	}
	return;
}

sub a_worker
{
	return $disturb->ask(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'evtstore delivery worker' ORDER BY random() LIMIT 1});
}

$disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	ways    => {
		worker_killed => sub {
			my $pid = a_worker() // return 0;
			return 0 unless kill 'KILL', $pid;
			poll_until('the server after a worker was killed', sub { defined $disturb->ask('SELECT 1') });
			return 1;
		},
		worker_terminated => sub { my $pid = a_worker() // return 0; return defined $disturb->ask("SELECT pg_terminate_backend($pid)") },
		lanes => sub { return defined $disturb->ask(sprintf q{SELECT evtstore.alter_subscription('orders', '{"lanes": %d}')}, 2 + rand 6) },
	},
	every => { worker_killed => 1.5, worker_terminated => 1, crash => 4, lanes => 2 });

start_child("appender $_", do { my $n = $_; sub { srand $seed * 100 + $n; run_appender() } }) foreach 1 .. 3;
$disturb->run;
is(finish_children('appender', 90), '', 'all appenders came to their end');
wait_effects();
poll_sql($node, q{SELECT in_flight + blocked + retrying + waiting FROM evtstore.subscription_status WHERE name = 'orders'}, 0);
diag $disturb->summary;
$disturb->check;

my $events = sql(q{SELECT count(*) FROM evtstore.events WHERE category = 'order'});
diag "$events events";
cmp_ok($events, '>', 100, 'there were events');
is(sql('SELECT count(*) FROM shop.effect'), $events, 'each had its effect, once');
is(sql(q{SELECT count(*) FROM (SELECT n, lag(n, 1, 0) OVER (PARTITION BY key ORDER BY seq) AS before FROM shop.effect) x WHERE n <> before + 1}),
	0, 'in the order of its key');
cmp_ok(sql('SELECT count(*) FROM shop.effect WHERE attempt > 1'), '>', 0, 'those that failed at first, too');
is(sql('SELECT count(*) FROM evtstore.dead_letters'), 0, 'nothing was given up');

# --- one that fails for good ---

sql(q{INSERT INTO shop.refused VALUES ('order-a', 3);
	DO $$ BEGIN
		FOR n IN 1 .. 5 LOOP
			PERFORM evtstore.append('order-a', 'Placed', '{}'), evtstore.append('order-b', 'Placed', '{}');
		END LOOP;
	END $$});
poll_sql($node, q{SELECT key, state, attempt, error FROM evtstore.blocked_keys}, 'order-a|blocked|3|P0001: not that one');
poll_sql($node, q{SELECT count(*) FROM shop.effect WHERE key = 'order-b'}, 5);
is(sql(q{SELECT string_agg(n::text, ',' ORDER BY seq) FROM shop.effect WHERE key = 'order-a'}), '1,2',
	'an event that fails for good blocks its key, and leaves nothing of its effect');
is(sql(q{SELECT string_agg(n::text, ',' ORDER BY seq) FROM shop.effect WHERE key = 'order-b'}), '1,2,3,4,5', 'and no other');
sql('TRUNCATE shop.refused');
sql(q{SELECT evtstore.unblock_key('orders', 'order-a')});
wait_effects();
is(sql(q{SELECT string_agg(n::text, ',' ORDER BY seq) FROM shop.effect WHERE key = 'order-a'}), '1,2,3,4,5', 'until a person sets it going again');

# where the key is given up with it, nothing of it is called any more
sql(q{INSERT INTO shop.refused VALUES ('order-c', 2); SELECT evtstore.alter_subscription('orders', '{"on_failure": "dead_letter_key"}');
	DO $$ BEGIN
		FOR n IN 1 .. 4 LOOP
			PERFORM evtstore.append('order-c', 'Placed', '{}');
		END LOOP;
	END $$});
poll_sql($node, q{SELECT string_agg(version::text, ',' ORDER BY position) FROM evtstore.dead_letters WHERE name = 'orders'}, '2,3,4');
is(sql(q{SELECT string_agg(n::text, ',' ORDER BY seq) FROM shop.effect WHERE key = 'order-c'}), '1', 'dead_letter_key: the rest of the key follows');

$node->stop;
done_testing();
