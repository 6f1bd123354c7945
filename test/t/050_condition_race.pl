# Append conditions under fire: sixteen racers for each condition, who come one shortly after the other, a thousand conditions of
# each kind.  Exactly one wins; plain appends of the same tag or type that take part come before no winner; nobody deadlocks.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($RACERS, $ROUNDS) = (16, 1000);
my $node = new_node('main', conf => "log_statement = none\nmax_connections = 60\nsynchronous_commit = off\ndeadlock_timeout = 100ms\nmax_locks_per_transaction = 24\n");

sub sql { return $node->safe_psql('postgres', shift) }

sql(q{
	CREATE SCHEMA race;
	CREATE SEQUENCE race.ticket;
	-- one racer: the condition of its round, or with plain => true now and then an append without any.  Waits a little, by working.
	CREATE FUNCTION race.run(kind text, racers int, plain boolean) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		n bigint := nextval('race.ticket') - 1;
		round bigint := n / racers;
		name text := kind || '-' || round;
		type text := CASE WHEN kind IN ('type', 'all') THEN name ELSE 'Raced' END;
		tags text[] := CASE WHEN kind IN ('type', 'all') THEN '{}'::text[] ELSE ARRAY[name, 'common'] END;
		query jsonb := CASE kind
			WHEN 'tag' THEN jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', jsonb_build_array(name))))
			WHEN 'pair' THEN jsonb_build_object('items', jsonb_build_array(
				jsonb_build_object('types', jsonb_build_array('Raced', 'Other'), 'tags', jsonb_build_array('common', name)),
				jsonb_build_object('types', jsonb_build_array('Other'))))
			WHEN 'type' THEN jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', jsonb_build_array(name))))
			ELSE '{}' END;
	BEGIN
		PERFORM count(*) FROM generate_series(1, (random() * 2000)::int);
		IF plain AND n % 5 = 2 THEN
			PERFORM evtstore.append('plain-' || n % 7, type, '"plain"', tags => tags);
			RETURN;
		END IF;
		PERFORM evtstore.append_if(
			jsonb_build_array(jsonb_build_object('type', type, 'data', 'raced', 'tags', tags)), query);
	EXCEPTION WHEN SQLSTATE 'ST003' THEN
		NULL;
	END $$;
});

foreach my $kind (qw(tag pair type))
{
	foreach my $plain (0, 1)
	{
		my $name   = "$kind, " . ($plain ? 'plain appends among them' : 'conditions only');
		my $rounds = $plain ? $ROUNDS / 4 : $ROUNDS;
		my $script = $node->basedir . '/race.sql';

		sql(q{TRUNCATE evtstore_internal.event, evtstore_internal.event_tag, evtstore_internal.stream; ALTER SEQUENCE race.ticket RESTART});
		open my $out, '>', $script or die "$script: $!";
		printf $out "SELECT race.run('%s', %d, %s);\n", $kind, $RACERS, $plain ? 'true' : 'false';
		close $out;
		my ($stdout, $stderr);
		my $ok = run_log(
			[ $node->installed_command('pgbench'), '-n', '-M', 'prepared', '-c', $RACERS, '-j', 2, '-t', $rounds, '-f', $script,
				'-h', $node->host, '-p', $node->port, '-U', 'postgres', 'postgres' ],
			'>', \$stdout, '2>', \$stderr);
		ok($ok && $stderr !~ /ERROR/, "$name: no racer failed but by its condition") or diag $stderr;

		my $winners = q{SELECT coalesce(tags[1], type) AS round, count(*) FILTER (WHERE data = '"raced"') AS winners,
			min(position) FILTER (WHERE data = '"raced"') AS won, min(position) FILTER (WHERE data = '"plain"') AS plain
			FROM evtstore.events GROUP BY 1};
		is(sql("SELECT count(*) FROM ($winners) r WHERE winners > 1"), '0', "$name: no condition is won twice");
		is(sql("SELECT count(*) FROM ($winners) r WHERE winners + (plain IS NOT NULL)::int = 0"), '0', "$name: somebody wins each");
		is(sql("SELECT count(*) FROM ($winners) r"), $rounds, "$name: $rounds rounds") unless $plain;
		is(sql("SELECT count(*) FROM ($winners) r WHERE plain < won"), '0', "$name: nobody wins above a plain append") if $plain;
	}
}

# a batch of very many tags takes one lock for them all: conditions on one of them wait for it
my $import = session($node);
$import->query_safe('BEGIN');
$import->query_safe(q{SELECT count(*) FROM evtstore.append_events('import-1', (SELECT jsonb_agg(jsonb_build_object(
	'type', 'Imported', 'data', i, 'tags', jsonb_build_array('import-' || i))) FROM generate_series(1, 100000) i))});
cmp_ok($import->query_safe('SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()'), '<', 50, '100,000 tags are locked by a few locks');
my $waiter = session($node);
my $pid    = $waiter->query_safe('SELECT pg_backend_pid()');
my $query  = q{'{"items": [{"tags": ["import-77777"]}]}'};
$waiter->query_until(qr/begun/, "\\echo begun\nSELECT evtstore.append_if('[{\"type\": \"T\", \"data\": 1}]', $query);\n");
poll_sql($node, "SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted", '1');
pass('the condition waits for the import');
is(sqlstate($node, q{SET lock_timeout = 1; SELECT evtstore.append('other-1', 'T', '1', tags => '{import-77777}')}), '00000',
	'a plain append with one of the tags does not');
$import->query_safe('COMMIT');
$waiter->query('SELECT 1');
like($waiter->{stderr}, qr/an event that must not exist does: "Imported"/, 'and then finds what it imported');

# many streams at once, by many, each call in an order of its own, beside senders of the same keys: nobody deadlocks, and the
# messages of a stream stand in order of its versions
sql(q{
	SELECT evtstore.create_queue('sent');
	SELECT evtstore.create_rule('sent', '{"types": ["Many"]}', 'queue:sent');
	-- appends to n streams of the same pool, in random order; with n above the pool: to new ones
	CREATE FUNCTION race.many(n int, pool int) RETURNS void LANGUAGE sql AS $$
		SELECT evtstore.append_streams((SELECT jsonb_agg(jsonb_build_object('stream', 'many-' || i, 'events',
			jsonb_build_array(jsonb_build_object('type', 'Many', 'data', i)))) FROM (
				SELECT CASE WHEN n > pool THEN nextval('race.ticket') ELSE i END AS i FROM generate_series(1, greatest(n, pool)) i ORDER BY random() LIMIT n) s)) $$;
	CREATE FUNCTION race.send(n int) RETURNS void LANGUAGE sql AS $$
		SELECT evtstore.send_batch('sent', array_agg('{}'::jsonb), array_agg('many-' || i)) FROM (SELECT i FROM generate_series(1, n) i ORDER BY random()) s $$;
});
sub run_clients
{
	my ($name, $transactions, %scripts) = @_;
	my @files;

	foreach my $file (sort keys %scripts)
	{
		open my $out, '>', $node->basedir . "/$file.sql" or die "$file: $!";
		print $out "$scripts{$file}\n";
		close $out;
		push @files, '-f', $node->basedir . "/$file.sql";
	}
	my ($stdout, $stderr);
	my $ok = run_log(
		[ $node->installed_command('pgbench'), '-n', '-c', 6, '-j', 2, '-t', $transactions, @files,
			'-h', $node->host, '-p', $node->port, '-U', 'postgres', 'postgres' ],
		'>', \$stdout, '2>', \$stderr);
	ok($ok && $stderr !~ /ERROR/, $name) or diag $stderr;
	return;
}
run_clients('appends to very many new streams, each of which keeps all others out, end one after the other', 4,
	new => 'SELECT race.many(900, 0);');
run_clients('appends to many streams with a rule, in any order, beside senders of their keys', 10,
	old => 'SELECT race.many(300, 300);', send => 'SELECT race.send(40);');
is(sql(q{SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY key ORDER BY id) AS before
		FROM evtstore_internal.message WHERE version IS NOT NULL) m WHERE version <> before + 1}), '0', 'messages of a stream are in order of its versions');

# in one transaction: conditions of very many tags, ids and types; the lock table has room for all of it
is(sqlstate($node, q{DO $$ BEGIN FOR i IN 1 .. 3000 LOOP
	PERFORM evtstore.append_if(jsonb_build_array(jsonb_build_object('type', 'T', 'data', i, 'id', gen_random_uuid(), 'tags', jsonb_build_array('t-' || i))),
		jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', jsonb_build_array('t-' || i)))));
	END LOOP; END $$}), '00000', 'conditions on 3000 tags in one transaction');
my $broad = session($node);
$broad->query_safe('BEGIN');
$broad->query_safe(q{SELECT evtstore.append_if('[]', '{"items": [{"types": ["Nobody"]}]}')});
is(sqlstate($node, q{SET lock_timeout = '5s'; SELECT evtstore.append_events('types-1', (SELECT jsonb_agg(jsonb_build_object('type', 'T' || i, 'data', i)) FROM generate_series(1, 200) i))}),
	'00000', 'an append of 200 other types does not wait for a condition on one');
is(sqlstate($node, q{SET lock_timeout = '500ms'; SELECT evtstore.append_events('types-1', (SELECT jsonb_agg(jsonb_build_object('type', 'T' || i, 'data', i)) FROM generate_series(1, 20000) i))}),
	'55P03', 'one of 20,000 takes a lock for all types, and waits');
$broad->query_safe('COMMIT');
is(sqlstate($node, q{SELECT evtstore.append_events('types-1', (SELECT jsonb_agg(jsonb_build_object('type', 'T' || i, 'data', i)) FROM generate_series(1, 20000) i))}),
	'00000', 'once it is over it goes on');

done_testing();
