# Subscriptions where a specification of sessions cannot go: an import and big batches under them, consumers and the server that go
# in the middle of a transaction, other databases, prepared transactions, consumers that are woken.  Feed cases 4, 7, 9, 10, 12, 13, 15
# and 20 for subscriptions, with every kind of filter, and 12, 13 and 20 for queues.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nmax_prepared_transactions = 5\nmax_connections = 40\n");

sub sql { return $node->safe_psql('postgres', shift) }

# the filter, and what it selects as SQL over evtstore.events
my %subscription = (
	every    => [ '{}',                                                                   'true' ],
	category => [ '{"categories": ["item", "live"]}',                                     q{stream ~ '^(item|live)-'} ],
	types    => [ '{"types": ["T1", "T3"]}',                                              q{type IN ('T1', 'T3')} ],
	tags     => [ '{"tags": ["t1"]}',                                                     q{tags @> '{t1}'} ],
	streams  => [ '{"streams": ["item-1", "item-7", "live-2"]}',                          q{stream IN ('item-1', 'item-7', 'live-2')} ],
	query    => [ '{"items": [{"types": ["T1"], "tags": ["t1"]}, {"tags": ["t2"]}]}',     q{(type = 'T1' AND tags @> '{t1}' OR tags @> '{t2}')} ]);

sql(q{
	CREATE TABLE settled (n bigserial, subscription text, position bigint, stream text, PRIMARY KEY (subscription, position));
	-- the effect and the acknowledgement are one transaction; how many events
	CREATE FUNCTION consume(subscription text, consumer text, max_count int) RETURNS bigint LANGUAGE sql AS $$
		WITH d AS MATERIALIZED (SELECT * FROM evtstore.poll(subscription, consumer, max_count, '10 min')),
			s AS (INSERT INTO settled (subscription, position, stream) SELECT $1, position, stream FROM d ORDER BY position)
		SELECT evtstore.ack(ARRAY(SELECT receipt FROM d)) $$;
	-- pages, each in a transaction, until there is nothing and the events are so many
	CREATE TABLE wanted (events bigint);
	INSERT INTO wanted VALUES (1000000000);
	CREATE PROCEDURE follow(consumer text, max_count int, subscriptions text[]) LANGUAGE plpgsql AS $$
	DECLARE
		name text; n bigint; over boolean;
	BEGIN
		LOOP
			SELECT events <= (SELECT count(*) FROM evtstore_internal.event) INTO over FROM wanted;
			n := 0;
			FOREACH name IN ARRAY subscriptions LOOP
				n := n + consume(name, consumer, max_count);
				COMMIT;
			END LOOP;
			EXIT WHEN over AND n = 0;
		END LOOP;
		PERFORM evtstore.leave(s, consumer) FROM unnest(subscriptions) s;
	END $$});
sql("SELECT evtstore.create_subscription('$_', '$subscription{$_}[0]', lanes => 3, options => '{\"max_in_flight\": 10000}')") foreach sort keys %subscription;

# What is left goes to one more consumer; then each event took effect once, those of a stream in their order.
sub check_all
{
	my $what = shift;

	foreach my $name (sort keys %subscription)
	{
		1 while sql("SELECT consume('$name', 'last', 10000)") > 0;
		sql("SELECT evtstore.leave('$name', 'last')");
		is( sql(qq{SELECT coalesce(string_agg(fault, ' '), '') FROM (
				SELECT 'lost ' || position AS fault FROM (SELECT position FROM evtstore.events WHERE $subscription{$name}[1]
					EXCEPT SELECT position FROM settled WHERE subscription = '$name') l
				UNION ALL SELECT 'not selected ' || position FROM (SELECT position FROM settled WHERE subscription = '$name'
					EXCEPT SELECT position FROM evtstore.events WHERE $subscription{$name}[1]) n
				UNION ALL SELECT 'order ' || position FROM (SELECT *, lag(position) OVER (PARTITION BY stream ORDER BY n) AS before
					FROM settled WHERE subscription = '$name' AND stream IS NOT NULL) o WHERE before > position LIMIT 10) f}),
			'', "$what: $name: nothing lost, nothing twice, in order");
	}
	return;
}

sub append
{
	my ($stream, $session) = @_;
	my $query = "SELECT position FROM evtstore.append('$stream', 'T1', '1', tags => '{t1}')";
	return $session ? $session->query_safe($query) : sql($query);
}

# How many events of a subscription a consumer is given, and settles.
sub consume
{
	my ($name, $consumer, $session) = @_;
	my $query = "SELECT consume('$name', '$consumer', 1000)";
	return $session ? $session->query_safe($query) : sql($query);
}

# --- cases 9 and 20: an import, big batches, a subscription that begins anew, an appender in flight ---

sql(q{
	CREATE TABLE history AS SELECT n AS position, 'item-' || n % 50 AS stream, 'T' || n % 5 AS type, to_jsonb(n) AS data,
		ARRAY['t' || n % 3] AS tags FROM generate_series(1, 12000) n;
	ALTER TABLE history ADD PRIMARY KEY (position)});
my $slow = session($node);
$slow->query_safe('BEGIN');
append('live-2', $slow);
my @children = (
	start_psql($node, "CALL evtstore.import_events('SELECT * FROM history', batch => 700, source => 'history');\n"),
	start_psql($node, "SELECT version FROM evtstore.append_events('live-1', (SELECT jsonb_agg(jsonb_build_object('type', 'T1', 'data', n, 'tags', jsonb_build_array('t' || n % 3)))
		FROM generate_series(1, 6000) n));\nSELECT version FROM evtstore.append('live-2', 'T3', '1');\n"));
my @names  = sort keys %subscription;
my $list   = "'{" . join(',', @names) . "}'";
my @consuming = (
	start_psql($node, "CALL follow('c1', 300, $list);\n"),
	start_psql($node, "CALL follow('c2', 5000, $list);\n"));
poll_sql($node, 'SELECT count(*) > 2000 FROM evtstore_internal.event');
is(sql(q{SELECT count(*) FROM settled WHERE subscription = 'every'}), 0, 'the appender in flight holds what comes after it');
$slow->query_safe('COMMIT');
$slow->quit;
poll_sql($node, q{SELECT count(*) > 1000 FROM settled WHERE subscription = 'every'});
# rebuilt meanwhile: what was consumed is forgotten with its effects
sql(q{BEGIN; SELECT evtstore.seek('every', 0), evtstore.seek('tags', 0); DELETE FROM settled WHERE subscription IN ('every', 'tags'); COMMIT});
$_->finish foreach @children;
sql('UPDATE wanted SET events = 18002');
$_->finish foreach @consuming;
is(join('', map { $_->errors =~ /(ERROR.*)/g } @children, @consuming), '', 'nobody failed');
is(sql('SELECT count(*) FROM evtstore_internal.event'), 18_002, 'all of it is here');
check_all('import');

# ten thousand receipts at a time
sql(q{SELECT evtstore.seek('every', 0); DELETE FROM settled WHERE subscription = 'every'});
is(sql(q{SELECT consume('every', 'one', 10000)}), 10_000, 'a batch of ten thousand is settled by one call');
is(sql(q{SELECT consume('every', 'one', 10000)}), 8_002, 'and the rest');
is(sql(q{SELECT consume('every', 'one', 10000)}), 0, 'of what there is');
sql(q{SELECT evtstore.leave('every', 'one')});
sql(q{SELECT evtstore.create_queue('work')});
is(sql(q{SELECT cardinality(evtstore.send_batch('work', (SELECT array_agg(to_jsonb(n)) FROM generate_series(1, 20000) n)))}), 20_000, 'a big batch of messages');
my @taken = split /\n/, sql('SELECT evtstore.ack(ARRAY(SELECT receipt FROM evtstore.receive(\'work\', max_count => 1000)));' x 21);
is(join(' ', @taken), join(' ', (1000) x 20, 0), 'is handed out, and settled, each message once');

# --- case 10: a consumer goes while a hole exists; what it had polled, settled or held comes to the next one ---

foreach my $way (qw(transaction batch))
{
	my $consumer = session($node);
	my $pid      = $consumer->query_safe('SELECT pg_backend_pid()');
	my $hole     = session($node);

	append('live-3');
	$hole->query_safe('BEGIN');
	append('live-4', $hole);
	append('live-5');
	$consumer->query_safe('BEGIN') if $way eq 'transaction';
	foreach my $name (@names)
	{
		# settled, not committed; or out
		if ($way eq 'transaction') { consume($name, 'gone', $consumer) }
		else                       { $consumer->query_safe("SELECT count(*) FROM evtstore.poll('$name', 'gone', lease => '1 hour')") }
	}
	sql("SELECT pg_terminate_backend($pid)");
	poll_sql($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
	eval { $consumer->quit };
	is(consume('every', 'next'), 0, "$way: its lanes are its own as long as their lease") if $way eq 'batch';
	sql("SELECT evtstore.leave('$_', 'gone')") foreach @names;
	is(consume('every', 'next'), 1, "$way: the next one gets what is below the hole");
	is(consume('every', 'next'), 0, "$way: and nothing above it");
	$hole->query_safe($way eq 'batch' ? 'COMMIT' : 'ROLLBACK');
	is(consume('every', 'next'), $way eq 'batch' ? 2 : 1, "$way: until it is decided");
	sql(q{SELECT evtstore.leave('every', 'next')});
	check_all("consumer terminated, $way");
	$hole->quit;
}

# the server is restarted, and goes down, with a hole below what is out
foreach my $way ('restart', 'crash')
{
	my $hole = session($node);
	append('live-3');
	$hole->query_safe('BEGIN');
	append('live-4', $hole);
	append('live-5');
	my $receipt = sql(q{SELECT receipt FROM evtstore.poll('every', 'before', lease => '1 hour')});
	$way eq 'crash' ? crash($node) : $node->restart;
	eval { $hole->quit };
	is(sqlstate($node, "SELECT evtstore.ack('$receipt')"), 'ST007', "$way: a receipt of before is stale");
	is(consume('every', 'after'), 2, "$way: what was out comes again, over the hole");
	sql(q{SELECT evtstore.leave('every', 'after')});
	check_all($way);
}

# --- case 12: other databases of the cluster ---

sql('CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION evtstore; SELECT evtstore.create_subscription('every'), evtstore.create_queue('work')});
my $other = session($node, 'other');
$other->query_safe('BEGIN');
$other->query_safe(q{SELECT FROM evtstore.append('live-1', 'T1', '1', tags => '{t1}'), evtstore.send('work', '1')});
$other->query_safe(q{SELECT count(*) FROM evtstore.poll('every', 'c1'), evtstore.receive('work')});

# An event and a message are handed out at once, to everybody that they are for.
sub nobody_waits
{
	my $what = shift;

	append('live-2');
	is(consume($_, 'c1'), 1, "$what: $_ does not wait") foreach grep { $_ ne 'query' } @names;
	is(consume('query', 'c1'), 1, "$what: query does not wait");
	is(sql(q{SELECT evtstore.send('work', '1') IS NOT NULL; SELECT count(evtstore.ack(receipt)) FROM evtstore.receive('work')}), "t\n1",
		"$what: a message does not");
	return;
}
nobody_waits('an appender in another database');
$other->query_safe('ROLLBACK');
$other->quit;

# --- case 13: PREPARE TRANSACTION ---

my %refused = (
	poll    => q{SELECT * FROM evtstore.poll('every', 'c1')},
	ack     => q{SELECT consume('every', 'c1', 10)},
	send    => q{SELECT evtstore.send('work', '1')},
	receive => q{SELECT * FROM evtstore.receive('work')});
sql(q{SELECT evtstore.send('work', '2')});
append('live-2');
is(sqlstate($node, "BEGIN; $refused{$_}; PREPARE TRANSACTION '$_'"), '0A000', "$_: cannot be prepared") foreach sort keys %refused;
is(sql('SELECT count(*) FROM pg_prepared_xacts'), 0, 'none is') or BAIL_OUT('a prepared transaction would hold up all that follows');
is(sql(q{SELECT body FROM evtstore.poll('every', 'c1')}), 1, 'what they took is given back');
sql(q{SELECT evtstore.leave('every', 'c1')});
is(sql(q{SELECT body, evtstore.ack(receipt) FROM evtstore.receive('work')}), '2|1', 'a message too, and what they sent is not there');
sql(q{SELECT evtstore.leave(s, 'c1') FROM unnest(} . "$list\::text[]) s");
check_all('prepared');
# one of somebody else that nobody ever ends
sql(q{CREATE TABLE foreign_work (a int); BEGIN; INSERT INTO foreign_work VALUES (1); SELECT pg_advisory_xact_lock(1); PREPARE TRANSACTION 'orphan'});
nobody_waits('an orphaned prepared transaction');
crash($node);
nobody_waits('one of before a crash');
sql(q{ROLLBACK PREPARED 'orphan'});

# --- case 15: being woken means that the event is handed out ---

my $waiter = session($node);
$slow = session($node);
foreach my $end (qw(COMMIT ROLLBACK))
{
	$slow->query_safe('BEGIN');
	append('live-1', $slow);
	my $position = append('live-2');
	$waiter->query_until(qr/waits/, "\\echo waits\nCALL evtstore.wait_for_head($position, '30s');\n"
		  . join('', map { "SELECT consume('$_', 'c1', 1000);\n" } @names) . "\\echo awake\n");
	poll_sql($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CALL%wait_for_head%' AND wait_event_type = 'Extension'});
	$slow->query_safe($end);
	$waiter->query_until(qr/awake/, '');
	is(sql("SELECT count(*) FROM settled WHERE position = $position"), scalar @names, "woken by $end: all consumers are given it at once");
}
$waiter->quit;
$slow->quit;
check_all('at the end');

done_testing();
