# Dump and restore into a younger cluster: same events, same versions, appends go on, the feed is complete, and the restore
# by itself runs no handler, sends no message and delivers nothing.  Feed case 22, and the trap of the first event after the
# setval that a dump ends with.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = "log_statement = none\nmax_prepared_transactions = 5\n";
my $old  = new_node('old',     conf => $conf);
my $new  = new_node('younger', conf => $conf, extension => 0);

sub sql
{
	my ($node, $sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# --- a store with a past: tenants, rolled-back holes, big data, read models, messages, a crash's leap ---

sql($old, q{
	CREATE TABLE seen (n serial, id uuid, stream text, version bigint);
	CREATE TABLE fired (n serial, what text);
	CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO fired (what) VALUES (NEW.type); RETURN NULL; END $$;
	CREATE FUNCTION deliver(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ INSERT INTO fired (what) VALUES ('delivered') $$;
	SELECT evtstore.create_projection('seen', '{"*": "INSERT INTO seen (id, stream, version) VALUES (($1).id, ($1).stream, ($1).version)"}', 'sync');
	SELECT evtstore.create_endpoint('e', 'sql:public.deliver');
	SELECT evtstore.create_queue('kept');
	SELECT evtstore.create_queue('pushed', '{"endpoint": "e"}');
	SELECT evtstore.create_subscription('lanes', '{"categories": ["a"]}', lanes => 3);
	SELECT evtstore.create_rule('kept', '{"categories": ["a"]}', 'queue:kept');
	SELECT evtstore.define_saga('kept', '[{"do": "queue:kept", "undo": "none"}]'), evtstore.define_saga('kept', '[{"do": "queue:kept", "pivot": true}]');
	-- consumers settle every second event, in ranges above the checkpoints; one fails, one is given up, the rest is out
	CREATE TABLE settled (subscription text, position bigint, PRIMARY KEY (subscription, position));
	CREATE FUNCTION consume(subscription text, rest boolean) RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		d evtstore.delivery; n bigint := 0;
	BEGIN
		FOR d IN SELECT * FROM evtstore.poll(subscription, 'c', 40) LOOP
			n := n + 1;
			CONTINUE WHEN n % 2 = 0 AND NOT rest;
			INSERT INTO settled VALUES (subscription, d.position);
			PERFORM evtstore.ack(d.receipt);
		END LOOP;
		-- the last one: no later one of its key is out
		IF NOT rest THEN
			PERFORM evtstore.nack(d.receipt, 'not today');
		END IF;
		RETURN n;
	END $$;
	SELECT evtstore.create_subscription('follow', lanes => 3, options => '{"retry": {"max_attempts": 0, "initial": "0", "jitter": 0}}');
	SELECT evtstore.create_subscription('tagged', '{"tags": ["t2"]}', lanes => 2, on_failure => 'dead_letter', options => '{"retry": {"max_attempts": 1}}');
	SELECT count(*) FROM generate_series(1, 300) n, evtstore.append('a-' || n % 7, 'T' || n % 3, jsonb_build_object('n', n), tags => ARRAY['t' || n % 5],
		metadata => '{"m": 1}', occurred_at => '2001-01-01'::timestamptz + n * interval '1 h', schema_version => n % 3 + 1);
	SELECT FROM evtstore.append('big-1', 'Big', jsonb_build_object('n', 9007199254740993, 'pad', repeat('x', 100000), 'ü', E'a\tb"c'));
	BEGIN; SELECT FROM evtstore.append_events('a-1', (SELECT jsonb_agg('{"type": "T", "data": 1}'::jsonb) FROM generate_series(1, 100))); ROLLBACK;
	SELECT FROM evtstore.append('b-1', 'T', '1', id => '00000000-0000-7000-8000-000000000001');
	SELECT consume('follow', false), consume('tagged', false);
	SET evtstore.tenant = 'acme';
	SELECT FROM evtstore.append('a-1', 'T', '1', id => '00000000-0000-7000-8000-000000000001');
});
crash($old);
sql($old, q{SELECT FROM evtstore.append('a-1', 'T', '"after the crash"')});
# a subscription whose lanes were changed twice, with events that are out, settled and set aside
sql($old, q{
	CREATE TABLE effect (n serial, position bigint, stream text);
	CREATE TABLE got AS SELECT * FROM evtstore.poll('lanes', 'c', 100);
	INSERT INTO effect (position, stream) SELECT position, stream FROM got WHERE stream IN ('a-1', 'a-4');
	SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE stream IN ('a-1', 'a-4');
	SELECT evtstore.nack(receipt, 'a bad day', '0') FROM got WHERE stream = 'a-2' LIMIT 1;
	SELECT evtstore.alter_subscription('lanes', '{"lanes": 5}');
	SELECT evtstore.alter_subscription('lanes', '{"lanes": 4}');
});
# numbers of transactions far above those of the younger cluster
sql($old, 'DO $$ BEGIN FOR n IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
# the ledger has caught up; messages are waiting
poll_sql($old, 'SELECT max(position) = evtstore.head_position() FROM evtstore_internal.head');
# an appender in flight: its position is below one that is committed
my $in_flight = session($old);
$in_flight->query_safe('BEGIN');
my $undecided = $in_flight->query_safe(q{SELECT position FROM evtstore.append('a-9', 'T', '"never restored"')});
sql($old, q{SELECT FROM evtstore.append('b-1', 'T', '"above it"')});

my %facts = (
	events  => q{SELECT md5(string_agg(e::text, E'\n' ORDER BY position)) FROM evtstore.events e},
	streams => q{SELECT md5(string_agg(s::text, E'\n' ORDER BY tenant, stream)) FROM evtstore.streams s},
	count   => 'SELECT count(*), max(position) FROM evtstore.events',
	tags    => q{SELECT count(*), md5(string_agg(t::text, E'\n' ORDER BY tag_hash, position)) FROM evtstore_internal.event_tag t},
	query   => q{SELECT count(*), max(position) FROM evtstore.read_query('{"items": [{"types": ["T1"], "tags": ["t2"]}, {"types": ["Big"]}]}')},
	seen    => 'SELECT count(*), md5(string_agg(s::text, E\'\n\' ORDER BY n)) FROM seen s',
	queues  => 'SELECT name, ready, delayed, in_flight, dead FROM evtstore.queue_status ORDER BY name',
	lanes   => q{SELECT string_agg(g::text, ' ' ORDER BY first_lane) FROM evtstore_internal.lane_generation g},
	aside   => 'SELECT retrying, waiting, closing_lanes FROM evtstore.subscription_status',
	status  => 'SELECT name, mode, state FROM evtstore.projection_status',
	consumed => 'SELECT name, position, blocked, retrying, waiting, dead FROM evtstore.subscription_status WHERE name <> \'lanes\' ORDER BY name',
	sagas   => q{SELECT d.name, d.spec, v.version, v.hash, evtstore.explain_definition(d.name, v.version)
		FROM evtstore_internal.definition d JOIN evtstore_internal.saga_version v ON v.definition_id = d.id ORDER BY v.version},
	fired   => 'SELECT count(*) FROM fired');
my $receipt = sql($old, q{SELECT receipt FROM evtstore.poll('follow', 'd') ORDER BY position DESC LIMIT 1});
my %before = map { $_ => sql($old, $facts{$_}) } keys %facts;
my $last   = last_position($old);
like($before{count}, qr/^305\|/, 'the old store has its events');
like($before{sagas}, qr/^kept\|\{"version": 2\}\|1\|.*^kept\|\{"version": 2\}\|2\|/ms, 'and sagas their versions');
like($before{consumed}, qr/^follow\|\d+\|0\|1\|\d+\|0\ntagged\|\d+\|0\|0\|0\|1$/, 'of which consumers settled some');

# dump: files of the ways to dump
my $dir = PostgreSQL::Test::Utils::tempdir;
my @connection = ('-d', $old->connstr('postgres'));
$old->command_ok([ 'pg_dump', @connection, '-f', "$dir/plain.sql" ],                      'plain dump');
$old->command_ok([ 'pg_dump', @connection, '-Fc', '-f', "$dir/custom.dump" ],             'custom dump');
$old->command_ok([ 'pg_dump', @connection, '-s', '-f', "$dir/schema.sql" ],               'dump of the schema');
$old->command_ok([ 'pg_dump', @connection, '--data-only', '-f', "$dir/data.sql" ],        'dump of the data');
$in_flight->query_safe('COMMIT');
$in_flight->quit;
$old->stop;

# --- what holds after each way to restore ---

sub check_restored
{
	my ($what, $database) = @_;

	foreach my $fact (sort keys %facts)
	{
		is(sql($new, $facts{$fact}, $database), $before{$fact}, "$what: same $fact");
	}
	is(store_faults($new, $database), '', "$what: the store is whole");

	# what is left of the subscription comes once, in order
	sql($new, q{DO $$
		DECLARE
			receipts text[];
		BEGIN
			LOOP
				WITH polled AS MATERIALIZED (SELECT * FROM evtstore.poll('lanes', 'd', 50)),
					done AS (INSERT INTO effect (position, stream) SELECT position, stream FROM polled)
				SELECT array_agg(receipt) INTO receipts FROM polled;
				EXIT WHEN receipts IS NULL;
				PERFORM evtstore.ack(receipts);
			END LOOP;
		END $$}, $database);
	is(sql($new, q{SELECT count(*), count(DISTINCT position) FROM effect}, $database), '301|301', "$what: the subscription goes on with what is left");
	is(sql($new, 'SELECT count(*) FROM (SELECT position < lag(position) OVER (PARTITION BY stream ORDER BY n) AS o FROM effect) p WHERE o', $database), 0,
		"$what: in order");

	# complete before anybody appends
	is(sql($new, 'SELECT count(*), max(position) FROM evtstore.read_all()', $database), $before{count},
		"$what: the feed is complete at once");
	is(sql($new, q{SELECT count(*) FROM evtstore.read_category('a')}, $database), 301,
		"$what: so is that of a category");
	cmp_ok(sql($new, 'SELECT evtstore.head_position()', $database), '>=', (split /\|/, $before{count})[1],
		"$what: the head covers it");
	is(sql($new, "SELECT count(*) FROM evtstore.read_all() WHERE position = $undecided", $database), 0,
		"$what: what was in flight is not there");

	# subscriptions go on from their checkpoints: the rest comes, each event once, and receipts of the old cluster are worth nothing
	is(sqlstate($new, "SELECT evtstore.ack('$receipt')", $database), 'ST007', "$what: a receipt of the old cluster is stale");
	foreach my $subscription (qw(follow tagged))
	{
		1 while sql($new, "SELECT consume('$subscription', true)", $database) > 0;
	}
	is(sql($new, q{SELECT count(*) FROM settled WHERE subscription = 'follow'}, $database), 305, "$what: every event took effect, once");
	is(sql($new, q{SELECT count(*) FROM settled WHERE subscription = 'tagged'}, $database), 59, "$what: every one with a tag, but the dead letter");
	is(sql($new, 'SELECT name, dead FROM evtstore.subscription_status WHERE in_flight + blocked + retrying + waiting = 0 AND name <> \'lanes\' ORDER BY name', $database),
		"follow|0\ntagged|1", "$what: nothing is left aside");

	# the first append, with somebody who holds the head below it
	my $slow = session($new, $database);
	$slow->query_safe('BEGIN');
	my $first = $slow->query_safe(q{SELECT position FROM evtstore.append('a-1', 'T', '"slow"', expected_version => 44)});
	cmp_ok($first, '>', $last, "$what: positions go on above the dump's");
	sql($new, q{SELECT FROM evtstore.append('b-1', 'T', '"fast"', expected_version => 2)}, $database);
	is(sql($new, "SELECT count(*) FROM evtstore.read_all($last)", $database), 0,
		"$what: the feed waits for the first append");
	$slow->query_safe('COMMIT');
	$slow->quit;
	is(sql($new, qq{SELECT string_agg(data #>> '{}', ' ' ORDER BY position) FROM evtstore.read_all($last)}, $database),
		'slow fast', "$what: and gives both");
	is(sql($new, q{SELECT version FROM evtstore.append('new-1', 'T', '1', expected_version => 0)}, $database), 1,
		"$what: new streams can be made");
	is(sqlstate($new, q{SELECT evtstore.append('a-1', 'T', '1', expected_version => 44)}, $database), 'ST001',
		"$what: versions are checked");
	is(sql($new,
		q{SELECT version, duplicate FROM evtstore.append('b-1', 'T', '1', id => '00000000-0000-7000-8000-000000000001')},
		$database), '1|t', "$what: ids are known");
	is(sqlstate($new, q{SELECT evtstore.append_if('[{"type": "T", "data": 1}]', '{"items": [{"types": ["T1"], "tags": ["t2"]}]}')}, $database), 'ST003',
		"$what: conditions know the old events");
	is(sql($new, 'SELECT count(*) FROM seen', $database), 308, "$what: the projection goes on");
	is(sql($new, q{SELECT ready FROM evtstore.queue_status WHERE name = 'kept'}, $database), (split /\|/,
		(grep { /^kept/ } split /\n/, $before{queues})[0])[1] + 1, "$what: so does the rule");
	is(sql($new, 'SELECT count(*) FROM fired', $database), 0, "$what: nothing was delivered");
	is(store_faults($new, $database), '', "$what: the store is whole afterwards");
	return;
}

# --- plain, as a whole ---

sql($new, 'CREATE DATABASE plain');
$new->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $new->connstr('plain'), '-f', "$dir/plain.sql" ],
	'plain restore');
check_restored('plain', 'plain');

# --- in parallel, in parts; somebody asks for the head between CREATE EXTENSION and the data ---

sql($new, 'CREATE DATABASE custom');
my @restore = ('pg_restore', '--exit-on-error', '-d', $new->connstr('custom'));
$new->command_ok([ @restore, '--section=pre-data', "$dir/custom.dump" ], 'restore of the definitions');
is(sql($new, 'SELECT evtstore.head_position(), count(*) FROM evtstore.read_all()', 'custom'), '0|0',
	'the store is looked at when it is empty');
$new->command_ok([ @restore, '--section=data', '-j', '2', "$dir/custom.dump" ], 'restore of the data');
$new->command_ok([ @restore, '--section=post-data', "$dir/custom.dump" ], 'restore of the rest');
check_restored('custom', 'custom');

# --- schema and data apart ---

sql($new, 'CREATE DATABASE parts');
$new->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $new->connstr('parts'), '-f', "$dir/schema.sql" ],
	'restore of the schema');
is(sql($new, 'SELECT evtstore.head_position()', 'parts'), 0, 'the store is looked at when it is empty');
$new->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $new->connstr('parts'), '-f', "$dir/data.sql" ],
	'restore of the data');
check_restored('parts', 'parts');

# --- a template copy in the same cluster ---

sql($new, 'CREATE DATABASE copied TEMPLATE plain');
is(sql($new, $facts{events}, 'copied'), sql($new, $facts{events}, 'plain'), 'a template copy has the same events');
is(sql($new, 'SELECT count(*) = (SELECT count(*) FROM evtstore.events) FROM evtstore.read_all()', 'copied'), 't',
	'its feed is complete');
sql($new, q{SELECT FROM evtstore.append('a-1', 'T', '"copy"')}, 'copied');
is(sql($new, q{SELECT count(*) FROM evtstore.read_all() WHERE data = '"copy"'}, 'copied'), 1, 'and goes on');
is(sql($new, q{SELECT count(*) FROM evtstore.read_all() WHERE data = '"copy"'}, 'plain'), 0, 'apart from the original');

# --- an empty store ---

sql($new, 'CREATE DATABASE source');
sql($new, 'CREATE EXTENSION evtstore', 'source');
$new->command_ok([ 'pg_dump', '-d', $new->connstr('source'), '-f', "$dir/empty.sql" ], 'dump of an empty store');
sql($new, 'CREATE DATABASE empty');
$new->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $new->connstr('empty'), '-f', "$dir/empty.sql" ],
	'restore of an empty store');
is(sql($new, q{SELECT position FROM evtstore.append('a-1', 'T', '1')}, 'empty'), 1,
	'its first event has the first position');
is(sql($new, 'SELECT count(*) FROM evtstore.read_all()', 'empty'), 1, 'and can be read at once');

done_testing();
