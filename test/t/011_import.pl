#
# Moving in from other stores: the statements of docs/import.md, run against tables of the shapes of message-db, Marten,
# emmett and an export of KurrentDB, with the server killed in between, and with readers and appenders at work meanwhile.
# Feed cases 9 (catch-up while an import runs) and 20 (bulk import, big batches).
#
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use EvtFeed;
use EvtTest;

my $node = new_node('main', conf => "restart_after_crash = on\nlog_statement = none\n");
my %page = statements_of('docs/import.md');

sub sql { return $node->safe_psql('postgres', shift) }

# one that follows everything, one that follows a category; a third one comes when all is over
my @readers = (
	EvtFeed::Reader->new($node, 'read_all', page => 3000),
	EvtFeed::Reader->new($node, 'read_category order', page => 3000));

# the read model of everything, live and imported
sql(q{
	CREATE TABLE folded (id uuid PRIMARY KEY, stream text, version bigint, data jsonb);
	SELECT evtstore.create_projection('folded',
		'{"*": "INSERT INTO folded VALUES (($1).id, ($1).stream, ($1).version, ($1).data)"}', 'sync');
	SELECT evtstore.create_queue('q');
	SELECT evtstore.create_rule('r', '{"categories": ["order"]}', 'queue:q')});

# --- message-db ---

sql(q{
	CREATE SCHEMA message_store;
	CREATE TABLE message_store.messages (
		global_position bigserial PRIMARY KEY, position bigint NOT NULL,
		time timestamp without time zone NOT NULL DEFAULT (now() AT TIME ZONE 'utc'),
		stream_name text NOT NULL, type text NOT NULL, data jsonb, metadata jsonb, id uuid NOT NULL DEFAULT gen_random_uuid());
	INSERT INTO message_store.messages (global_position, position, time, stream_name, type, data, metadata)
		SELECT n * 2 + 2, n / 300, timestamp '2019-01-01' + n * interval '1 min', (ARRAY['order', 'customer', 'item'])[1 + n % 3] || '-' || n % 300,
		       'Type' || n % 7, CASE WHEN n % 50 > 0 THEN jsonb_build_object('n', n, 'text', repeat('x', n % 300)) END,
		       CASE WHEN n % 4 > 0 THEN jsonb_build_object('properties', n) END
		FROM generate_series(0, 29999) n;
	INSERT INTO message_store.messages (global_position, position, stream_name, type) VALUES
		(15101, 0, 'gate-1', 'Gate'), (30201, 0, 'gate-2', 'Gate'), (45301, 0, 'gate-3', 'Gate');
	SELECT setval('message_store.messages_global_position_seq', 60001);
	-- global positions have holes
	DELETE FROM message_store.messages WHERE position = 99 AND global_position % 3 = 0});
my $count = sql('SELECT count(*) FROM message_store.messages');
my ($import) = @{ $page{'From message-db'} };

import_with_kills('message-db', $import, $count, 'gate-1' => 'kill -9', 'gate-2' => 'kill -9', 'gate-3' => 'kill -9');
is(sql(q{
	SELECT count(*) || ' differ' FROM message_store.messages m
	FULL JOIN (SELECT * FROM evtstore.events WHERE stream <> 'order-live') e ON e.stream = m.stream_name AND e.version = m.position + 1
	WHERE (e.type, e.data, e.metadata, e.id, e.occurred_at, e.tags, e.schema_version, e.tenant) IS DISTINCT FROM
	      (m.type, coalesce(m.data, 'null'), coalesce(m.metadata, '{}'), m.id, m.time AT TIME ZONE 'UTC', '{}', 1, '')
	HAVING count(*) > 0}), '', 'message-db: event by event as in the source');
is_in_order('message-db', 'SELECT global_position AS n, id FROM message_store.messages');

# the old store goes on, and two calls at a time bring the rest, each event once
sql(q{
	INSERT INTO message_store.messages (position, stream_name, type, data)
	SELECT n / 10, 'late-' || n % 10, 'Late', to_jsonb(n) FROM generate_series(0, 4999) n});
my @two = map { start_psql($node, small_batches($import)) } 1 .. 2;
poll_readers() while grep { $_->running } @two;
$_->finish foreach @two;
is(join('', map { $_->errors =~ /(ERROR.*)/g } @two), '', 'two calls for one source');
my $came = 0;
$came += $_ foreach map { $_->errors =~ /imported (\d+) events/ } @two;
is($came, 5000, 'they share the work');
is(sql(q{SELECT count(*), max(version) FROM evtstore.events WHERE stream LIKE 'late-%'}), '5000|500', 'each event once');
is(sql(q{SELECT imported, skipped FROM evtstore.import_status}), sql('SELECT count(*) FROM message_store.messages') . '|0',
	'and counted once');

# the same history under another name: everything is known
(my $again = $import) =~ s/source => 'message-db'/source => 'other'/;
sql($again);
is(sql(q{SELECT imported, skipped FROM evtstore.import_status WHERE source = 'other'}),
	'0|' . sql('SELECT count(*) FROM message_store.messages'), 'history that is there already is skipped');

# --- Marten ---

sql(q{
	CREATE TABLE mt_streams (id uuid NOT NULL, type varchar, version bigint, timestamp timestamptz NOT NULL DEFAULT now(),
		snapshot jsonb, snapshot_version int, created timestamptz NOT NULL DEFAULT now(),
		tenant_id varchar NOT NULL DEFAULT '*DEFAULT*', is_archived boolean DEFAULT false, PRIMARY KEY (tenant_id, id));
	CREATE TABLE mt_events (seq_id bigint PRIMARY KEY, id uuid NOT NULL, stream_id uuid, version bigint NOT NULL,
		data jsonb NOT NULL, type varchar(500) NOT NULL, timestamp timestamptz NOT NULL DEFAULT now(),
		tenant_id varchar DEFAULT '*DEFAULT*', mt_dotnet_type varchar, is_archived boolean DEFAULT false);
	CREATE UNIQUE INDEX ON mt_events (tenant_id, stream_id, version);
	INSERT INTO mt_streams (id, type, version, tenant_id)
		SELECT md5('stream' || n)::uuid, CASE WHEN n % 3 > 0 THEN 'quest' END, 100, tenant
		FROM generate_series(0, 199) n, unnest(ARRAY['*DEFAULT*', 'blue']) tenant;
	INSERT INTO mt_streams (id, type, version) SELECT md5('gate' || n)::uuid, 'gate', 1 FROM generate_series(1, 3) n;
	INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, mt_dotnet_type)
		SELECT n * 15000 + 2, gen_random_uuid(), md5('gate' || n)::uuid, 1, '{}', 'members_joined', 'Gate' FROM generate_series(1, 3) n;
	INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp, tenant_id, mt_dotnet_type)
		SELECT n * 3 + 3 + (tenant = 'blue')::int, gen_random_uuid(), md5('stream' || n % 200)::uuid, n / 200 + 1,
		       jsonb_build_object('Day', n, 'Tenant', tenant), 'members_joined', timestamptz '2020-01-01Z' + n * interval '1 s',
		       tenant, 'Quests.MembersJoined, Quests'
		FROM generate_series(0, 19999) n, unnest(ARRAY['*DEFAULT*', 'blue']) tenant WHERE tenant <> 'blue' OR n < 4000});
($import) = @{ $page{'From Marten'} };
my @gates = map { sql("SELECT 'gate-' || md5('gate$_')::uuid") } 1 .. 3;
import_with_kills('marten', $import, 20003, $gates[0] => 'kill -9', $gates[1] => 'cancel', $gates[2] => 'kill -9');
my $compare_marten = q{
	SELECT count(*) || ' differ' FROM (SELECT e.*, coalesce(s.type, 'stream') || '-' || e.stream_id AS stream
		FROM mt_events e JOIN mt_streams s ON s.id = e.stream_id AND s.tenant_id = e.tenant_id WHERE e.tenant_id = '%s') m
	FULL JOIN (SELECT * FROM evtstore.events WHERE tenant = '%s' AND type = 'members_joined') e
		ON e.stream = m.stream AND e.version = m.version
	WHERE (e.type, e.data, e.metadata ->> 'dotnet_type', e.id, e.occurred_at) IS DISTINCT FROM
	      (m.type, m.data, m.mt_dotnet_type, m.id, m.timestamp)
	HAVING count(*) > 0};
is(sql(sprintf $compare_marten, '*DEFAULT*', ''), '', 'marten: event by event as in the source');
is_in_order('marten', q{SELECT seq_id AS n, id FROM mt_events WHERE tenant_id = '*DEFAULT*'});
# --- emmett ---

sql(q{
	CREATE SEQUENCE emt_global_message_position;
	CREATE TABLE emt_messages (stream_position bigint NOT NULL, global_position bigint DEFAULT nextval('emt_global_message_position'),
		transaction_id xid8 NOT NULL, created timestamptz NOT NULL DEFAULT now(), is_archived boolean NOT NULL DEFAULT false,
		message_kind varchar(1) NOT NULL DEFAULT 'E', stream_id text NOT NULL, partition text NOT NULL DEFAULT 'emt:default',
		message_schema_version text NOT NULL, message_id text NOT NULL, message_type text NOT NULL, message_data jsonb NOT NULL,
		message_metadata jsonb NOT NULL, PRIMARY KEY (stream_id, stream_position, partition, is_archived)) PARTITION BY LIST (partition);
	CREATE TABLE emt_messages_default PARTITION OF emt_messages FOR VALUES IN ('emt:default');
	CREATE TABLE emt_messages_other PARTITION OF emt_messages DEFAULT;
	CREATE INDEX ON emt_messages (global_position);
	INSERT INTO emt_messages (global_position, stream_position, transaction_id, created, message_kind, stream_id, partition,
			message_schema_version, message_id, message_type, message_data, message_metadata)
		SELECT n * 10 + CASE WHEN kind = 'C' THEN 1 WHEN partition = 'other' THEN 2 ELSE 3 END, n / 100 + 1, pg_current_xact_id(), timestamptz '2024-05-05Z' + n * interval '1 ms', kind, 'shopping_cart-' || kind || n % 100,
		       partition, '1', CASE WHEN n % 2 = 0 THEN gen_random_uuid()::text ELSE kind || 'msg-' || n END, 'ProductItemAdded',
		       jsonb_build_object('n', n), jsonb_build_object('messageId', n)
		FROM generate_series(0, 19999) n, (VALUES ('E', 'emt:default'), ('C', 'emt:default'), ('E', 'other')) x(kind, partition)
		WHERE kind || partition = 'Eemt:default' OR n < 50;
	INSERT INTO emt_messages (global_position, stream_position, transaction_id, stream_id, message_schema_version, message_id, message_type,
			message_data, message_metadata)
		SELECT n * 50770, 1, pg_current_xact_id(), 'shopping_cart-gate' || n, '1', 'gatemsg-' || n, 'T', '{}', '{}'
		FROM generate_series(1, 3) n});
($import, my $reorder) = @{ $page{'From emmett'} };
import_with_kills('emmett', $import, 20003,
	'shopping_cart-gate1' => 'crash', 'shopping_cart-gate2' => 'terminate', 'shopping_cart-gate3' => 'kill -9');
is(sql(q{
	SELECT count(*) || ' differ' FROM (SELECT * FROM emt_messages WHERE message_kind = 'E' AND partition = 'emt:default') m
	FULL JOIN (SELECT * FROM evtstore.events WHERE stream LIKE 'shopping%') e ON e.stream = m.stream_id AND e.version = m.stream_position
	WHERE (e.type, e.data, e.metadata - 'imported_id', e.occurred_at) IS DISTINCT FROM
	      (m.message_type, m.message_data, m.message_metadata, m.created)
	   OR coalesce(e.metadata ->> 'imported_id', e.id::text) IS DISTINCT FROM m.message_id
	   OR substr(e.id::text, 15, 1) <> CASE WHEN m.message_id LIKE '%msg-%' THEN '5' ELSE '4' END
	HAVING count(*) > 0}), '', 'emmett: event by event as in the source');

# a stream whose order is not that of the global positions, and a message that is there twice
sql(q{
	TRUNCATE emt_messages;
	INSERT INTO emt_messages (global_position, stream_id, stream_position, message_id, transaction_id, message_schema_version, message_type,
		message_data, message_metadata)
	SELECT gp, s, sp, id, '1', '1', 'T', to_jsonb(id), '{}' FROM (VALUES (300001, 'odd-1', 1, 'o1'), (300003, 'odd-1', 2, 'o2'),
		(300002, 'odd-1', 3, 'o3'), (300004, 'odd-2', 1, 'o4'), (300005, 'odd-2', 2, 'o4'), (300006, 'odd-2', 3, 'o5')) x(gp, s, sp, id)});
is(sqlstate($node, $import), '22023', 'emmett: an order that cannot be kept is refused');
sql($reorder);
is(sql(q{SELECT string_agg(stream || ' ' || version || ' ' || (data #>> '{}'), ', ' ORDER BY position) FROM evtstore.events WHERE stream LIKE 'odd-%'}),
	'odd-1 1 o1, odd-1 2 o2, odd-1 3 o3, odd-2 1 o4, odd-2 2 o5', 'emmett: and taken when it is put right');

# --- KurrentDB ---

my ($table, $kurrent) = @{ $page{'From KurrentDB, or anything that exports JSON'} };
sql($table);
sql(q{
	INSERT INTO kurrent_export (event)
	SELECT jsonb_build_object('streamId', CASE WHEN n % 10 = 9 THEN '$ce-account' ELSE 'account-' || n % 9 END, 'revision', (row_number()
		OVER (PARTITION BY n % 10 = 9, n % 9 ORDER BY n)) - 1, 'type', 'Deposited', 'data', jsonb_build_object('n', n), 'metadata', NULL,
		'id', gen_random_uuid(), 'created', timestamptz '2022-02-02Z' + n * interval '1 s')
	FROM generate_series(1, 3000) n});
sql($kurrent);
is(sql(q{
	SELECT count(*) || ' differ' FROM (SELECT * FROM kurrent_export WHERE event ->> 'streamId' LIKE 'account%') k
	FULL JOIN (SELECT * FROM evtstore.events WHERE stream LIKE 'account-%') e ON e.stream = k.event ->> 'streamId'
		AND e.version = (k.event ->> 'revision')::bigint + 1
	WHERE (e.id::text, e.data, e.occurred_at) IS DISTINCT FROM
	      (k.event ->> 'id', k.event -> 'data', (k.event ->> 'created')::timestamptz)
	HAVING count(*) > 0}), '', 'kurrentdb: event by event as in the export');

# --- the page's other statements ---

foreach my $heading ('How it works', 'After it')
{
	isnt(sql($_), '', "$heading: its statement has rows") foreach @{ $page{$heading} };
}

# --- a batch of 100,000 events in one call, under a reader ---

my $child = start_psql($node, q{
	SELECT first_version, version, position - first_position FROM evtstore.append_events('bulk-1', (SELECT jsonb_agg(jsonb_build_object(
		'type', 'Bulk', 'data', jsonb_build_object('n', n, 'pad', repeat('x', 100)), 'id', md5('bulk' || n)::uuid, 'tags', '["bulk"]'::jsonb))
		FROM generate_series(1, 100000) n), expected_version => 0);
	SELECT duplicate, version FROM evtstore.append_events('bulk-1', (SELECT jsonb_agg(jsonb_build_object(
		'type', 'Bulk', 'data', jsonb_build_object('n', n, 'pad', repeat('x', 100)), 'id', md5('bulk' || n)::uuid, 'tags', '["bulk"]'::jsonb))
		FROM generate_series(1, 100000) n), expected_version => 0);});
poll_readers() while $child->running;
$child->finish;
is(join(' ', $child->lines), '1|100000|99999 t|100000', 'append_events with 100,000 events, and its retry') or diag($child->errors);
is(sql(q{SELECT count(*), bool_and(data ->> 'n' = version::text) FROM evtstore.read_stream('bulk-1')}), '100000|t', 'all are there, in order');

# --- the whole store, in the end ---

push @readers, EvtFeed::Reader->new($node, 'read_all', page => 20000);
$_->catch_up foreach @readers;
is($_->faults, '', "$_->{call}: nothing lost, nothing twice, order kept") foreach @readers;
is($readers[0]->count, sql('SELECT count(*) FROM evtstore.events'), 'the reader has the whole store');
is(store_faults($node), '', 'versions without gaps, ids once');
is(sql(q{
	SELECT count(*) || ' differ' FROM evtstore.events e FULL JOIN folded f USING (id)
	WHERE (e.stream, e.version, e.data) IS DISTINCT FROM (f.stream, f.version, f.data)
	HAVING count(*) > 0}), '', 'the sync projection is the fold of all events');
cmp_ok(sql(q{SELECT count(*) FROM evtstore.events WHERE stream = 'order-live'}), '>', 900, 'somebody appended all the time');
is(sql(q{SELECT count(*) FROM evtstore_internal.message}), sql(q{SELECT count(*) FROM evtstore.events WHERE stream = 'order-live'}),
	'the rule acted upon what was appended, not upon what was imported');

# --- another tenant, whose streams have the same names ---

(my $blue = $page{'From Marten'}[0]) =~ s/\*DEFAULT\*/blue/;
sql("SET evtstore.tenant = 'blue'; $blue");
is(sql(sprintf $compare_marten, 'blue', 'blue'), '', 'marten: a tenant of its own');
is(sql(q{SELECT tenant, imported FROM evtstore.import_status WHERE source = 'marten' ORDER BY tenant}), "|20003\nblue|4000",
	'marten: and its own note of how far it is');

$node->stop;
done_testing();

#
# Runs the import, ending it in the middle in the given ways, then to its end; readers poll and somebody appends meanwhile.
# Where it is ended: at the event of a stream that this test has locked, in the middle of a batch.
#
sub import_with_kills
{
	my ($source, $statement, $total, @gates_and_ways) = @_;
	my $imported = "SELECT coalesce(sum(imported), 0) FROM evtstore.import_status WHERE source = '$source' AND tenant = ''";
	my $before   = 0;

	while (my ($gate, $way) = splice @gates_and_ways, 0, 2)
	{
		my $holder = session($node);
		$holder->query_safe('BEGIN');
		$holder->query_safe("SELECT version FROM evtstore.append_events('$gate', '[]')");

		my ($import, $appender) = start_both($statement);
		my $pid = poll_until(
			"$source to stand before $gate",
			sub {
				poll_readers();
				return sql(q{SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL evtstore.import%' AND wait_event_type = 'Lock'});
			});
		my $there = sql($imported);
		cmp_ok($there, '>', $before, "$source, $way: it came on to $there");
		cmp_ok($there, '<', $total, "$source, $way: it is in the middle");
		$before = $there;
		if ($way eq 'kill -9')
		{
			kill9($pid);
		}
		elsif ($way eq 'crash')
		{
			crash($node);
		}
		else
		{
			sql("SELECT pg_${way}_backend($pid)");
		}
		$import->finish;
		eval { $holder->quit };
		$appender->finish;
		poll_sql($node, 'SELECT true');
		is(sql($imported), $there, "$source, $way: whole batches are there");
		is(sql("SELECT count(*) FROM evtstore.events WHERE stream = '$gate'"), 0, "$source, $way: of the one that ran, nothing");
		poll_readers();
	}

	my ($import, $appender) = start_both($statement);
	poll_readers() while $import->running || $appender->running;
	$_->finish foreach $import, $appender;
	unlike($import->errors, qr/ERROR|FATAL/, "$source: it went on to the end");
	is(sql($imported), $total, "$source: everything was counted once");
	return;
}

sub start_both
{
	my $statement = shift;

	return (
		start_psql($node, small_batches($statement)),
		start_psql($node, "SELECT version FROM evtstore.append('order-live', 'Live', '{}');\n" x 300));
}

sub small_batches
{
	my $statement = shift;

	$statement =~ s/, source => '/, batch => 200, source => '/ or die "no source in $statement";
	return $statement;
}

sub poll_readers
{
	$_->poll foreach @readers;
	return;
}

# the order of the source, given as numbers and ids, is the order of positions
sub is_in_order
{
	my ($source, $query) = @_;

	is(sql(qq{
		SELECT count(*) FROM (SELECT e.position < lag(e.position) OVER (ORDER BY s.n) AS back
			FROM ($query) s JOIN evtstore.events e USING (id)) x WHERE back}), 0, "$source: in the order of the source");
	return;
}

# heading => the sql blocks below it
sub statements_of
{
	my $page = shift;
	my (%found, $heading, $block);

	foreach (split /^/, slurp_file(test_tree() . "/$page"))
	{
		if (defined $block && /^```/)
		{
			push @{ $found{$heading} }, $block;
			undef $block;
		}
		elsif (defined $block)
		{
			$block .= $_;
		}
		elsif (/^## (.*\S)/)
		{
			$heading = $1;
		}
		elsif (/^```sql/)
		{
			$block = '';
		}
	}
	return %found;
}
