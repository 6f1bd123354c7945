# Many append at once, in every way there is, while readers of every kind follow and consumers work through subscriptions: nothing
# lost, nothing twice, order kept per stream, and when it is over nothing is held back.  Feed cases 1 to 6, 9 and 20, all at once and as fast as they go: what
# takes two processors within a few instructions of each other shows here or nowhere.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main',
	conf => "log_statement = none\nmax_connections = 60\nsynchronous_commit = off\nautovacuum = off\n");

sub sql { return $node->safe_psql('postgres', shift) }

sql(q{
	CREATE SCHEMA storm;
	CREATE UNLOGGED TABLE storm.seen (reader text, n bigint, id uuid, position bigint, stream text, version bigint);
	CREATE TABLE storm.phase (over boolean);
	INSERT INTO storm.phase VALUES (false);

	-- Reads page after page and remembers its position, each poll in a transaction of its own, until the appenders are gone
	-- and there is nothing more.  page: how many at a time, NULL all there are
	CREATE PROCEDURE storm.follow(reader text, category text, page int) LANGUAGE plpgsql AS $$
	DECLARE
		e evtstore.event; at bigint := 0; n bigint := 0; before bigint; was_over boolean;
	BEGIN
		LOOP
			SELECT over INTO was_over FROM storm.phase;
			before := n;
			FOR e IN EXECUTE CASE WHEN category IS NULL THEN 'SELECT * FROM evtstore.read_all($1, $2)'
							 ELSE format('SELECT * FROM evtstore.read_category(%L, $1, $2)', category) END USING at, page LOOP
				n := n + 1;
				at := e.position;
				INSERT INTO storm.seen VALUES (reader, n, e.id, e.position, e.stream, e.version);
			END LOOP;
			COMMIT;
			EXIT WHEN was_over AND n = before;
		END LOOP;
	END $$;

	-- The same for one of the consumers of a subscription; what it saw and the acknowledgement are one transaction
	CREATE SEQUENCE storm.n;
	CREATE PROCEDURE storm.consume(subscription text, consumer text, page int) LANGUAGE plpgsql AS $$
	DECLARE
		d evtstore.delivery; receipts text[]; was_over boolean;
	BEGIN
		LOOP
			SELECT over INTO was_over FROM storm.phase;
			receipts := '{}';
			FOR d IN SELECT * FROM evtstore.poll(subscription, consumer, page) LOOP
				receipts := receipts || d.receipt;
				INSERT INTO storm.seen VALUES (subscription, nextval('storm.n'), d.event_id, d.position, d.stream, d.version);
			END LOOP;
			PERFORM evtstore.ack(receipts);
			COMMIT;
			EXIT WHEN was_over AND receipts = '{}';
		END LOOP;
		PERFORM evtstore.leave(subscription, consumer);
	END $$;
	SELECT evtstore.create_subscription('sub every', lanes => 4);
	SELECT evtstore.create_subscription('sub b', '{"categories": ["b"]}', lanes => 2);
	SELECT evtstore.create_subscription('sub query', '{"items": [{"types": ["T", "None"]}]}', lanes => 2);

	CREATE FUNCTION storm.faults(reader text, category text) RETURNS text LANGUAGE sql AS $$
		SELECT coalesce(string_agg(fault, '; '), '') FROM (
			SELECT format('lost %s/%s at %s', e.stream, e.version, e.position) AS fault
			FROM evtstore.events e LEFT JOIN storm.seen s ON s.id = e.id AND s.reader = $1
			WHERE s.id IS NULL AND ($2 IS NULL OR e.stream LIKE $2 || '-%')
			UNION ALL
			SELECT format('taken back %s/%s', s.stream, s.version) FROM storm.seen s LEFT JOIN evtstore.events e USING (id)
			WHERE s.reader = $1 AND e.id IS NULL
			UNION ALL
			SELECT format('twice %s/%s', stream, version) FROM storm.seen WHERE reader = $1 GROUP BY stream, version HAVING count(*) > 1
			UNION ALL
			SELECT format('order %s/%s', stream, version) FROM (
				SELECT *, lag(version, 1, 0::bigint) OVER (PARTITION BY stream ORDER BY n) AS previous,
					   lag(position, 1, 0::bigint) OVER (ORDER BY n) AS previous_position FROM storm.seen WHERE reader = $1) s
			-- consumers that share a subscription keep the order of each stream
			WHERE version <> previous + 1 OR position <= previous_position AND $1 NOT LIKE 'sub %'
			LIMIT 10) f
	$$;
});

# --- appenders: pgbench scripts, with weights ---

my %scripts = (
	# one event, some hundred streams in three categories
	'single@6' => q{
		\set s random(1, 40)
		SELECT FROM evtstore.append((ARRAY['a-', 'b-', 'c-'])[:s % 3 + 1] || :s, 'T', '1');
	},
	# case 5: optimistic concurrency on few streams; losers roll back
	'occ@4' => q{
		\set s random(1, 3)
		SELECT evtstore.stream_version('a-hot' || :s) AS version \gset
		BEGIN;
		SELECT FROM evtstore.append('b-' || :client_id || 'x', 'T', '1');
		SELECT storm.try('a-hot' || :s, :version) AS won \gset
		\if :won
			COMMIT;
		\else
			ROLLBACK;
		\endif
	},
	# case 4: rollbacks, of transactions and of savepoints (case 6)
	'rollback@3' => q{
		\set s random(1, 40)
		BEGIN;
		SELECT FROM evtstore.append_events('b-' || :client_id, '[{"type": "T", "data": 1}, {"type": "T", "data": 2}]');
		ROLLBACK;
	},
	'savepoint@3' => q{
		BEGIN;
		SAVEPOINT x;
		SELECT FROM evtstore.append('a-sp' || :client_id, 'T', '1');
		ROLLBACK TO x;
		SAVEPOINT y;
		SELECT FROM evtstore.append('b-sp' || :client_id, 'T', '1');
		RELEASE y;
		SAVEPOINT z;
		SELECT FROM evtstore.append('b-sp' || :client_id, 'T', '1');
		ROLLBACK TO z;
		COMMIT;
	},
	# cases 2 and 3: several categories and many events in one transaction, which takes its time; a synchronous commit
	'slow@2' => q{
		BEGIN;
		SET LOCAL synchronous_commit = on;
		SELECT FROM evtstore.append('a-slow' || :client_id, 'T', '1');
		SELECT count(*) FROM generate_series(1, 3000);
		SELECT FROM evtstore.append('b-slow' || :client_id, 'T', '1');
		SELECT count(*) FROM generate_series(1, 3000);
		SELECT FROM evtstore.append_events('c-slow' || :client_id, '[{"type": "T", "data": 1}, {"type": "T", "data": 2}, {"type": "T", "data": 3}]');
		COMMIT;
	});
sql(q{
	CREATE FUNCTION storm.try(stream text, expected bigint) RETURNS boolean LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM evtstore.append(stream, 'T', '1', expected_version => expected);
		RETURN true;
	EXCEPTION WHEN SQLSTATE 'ST001' THEN
		RETURN false;
	END $$});

my $dir = PostgreSQL::Test::Utils::tempdir;
my @files;
foreach my $script (sort keys %scripts)
{
	my ($name, $weight) = split /@/, $script;
	open my $file, '>', "$dir/$name.sql" or die "$dir/$name.sql: $!";
	print $file $scripts{$script} =~ s/^\s+//mgr;
	close $file;
	push @files, '-f', "$dir/$name.sql\@$weight";
}

my %readers = (
	all          => [ undef, undef ],
	paged        => [ undef, 10 ],
	'category a' => [ 'a', undef ],
	'category b' => [ 'b', 20 ],
	import       => [ 'import', 500 ]);
my @following = map {
	my ($category, $page) = @{ $readers{$_} };
	start_psql($node, sprintf("CALL storm.follow('%s', %s, %s);\n", $_, defined $category ? "'$category'" : 'NULL',
		$page // 'NULL'))
} sort keys %readers;

my %consumers = ('sub every' => [ undef, 'c1', 'c2' ], 'sub b' => [ 'b', 'c1', 'c2' ], 'sub query' => [ undef, 'c1' ]);
my @consuming = map {
	my $subscription = $_;
	map { start_psql($node, "CALL storm.consume('$subscription', '$_', 200);\n") } @{ $consumers{$subscription} }[ 1 .. $#{ $consumers{$subscription} } ]
} sort keys %consumers;

# cases 9 and 20: an import in batches, and by single appends in one long transaction
my @imports = (
	start_psql($node,
		qq{SELECT FROM evtstore.append_events('import-1', (SELECT jsonb_agg('{"type": "T", "data": 1}'::jsonb) FROM generate_series(1, 1000)));\n} x 5),
	start_psql($node,
		"BEGIN;\nSELECT count(*) FROM generate_series(1, 2000) n, evtstore.append('import-' || 2 + n % 50, 'T', '1');\nCOMMIT;\n" x 2),
	# losers whose transaction fails as a whole
	start_psql($node,
		"SELECT FROM evtstore.append('a-hot1', 'T', '1', expected_version => evtstore.stream_version('a-hot1'));\n" x 2000,
		options => '-c client_min_messages=fatal'));

my ($out, $err) = ('', '');
ok( IPC::Run::run([ 'pgbench', '-n', '-c', 6, '-j', 2, '-T', 5, @files, '-h', $node->host, '-p', $node->port,
	'postgres' ], '>', \$out, '2>', \$err),
	'appenders appended') or diag $err;
$_->finish foreach @imports;
sql('UPDATE storm.phase SET over = true');
$_->finish foreach @following, @consuming;

# --- what came of it ---

# autovacuum is off, and without statistics the comparisons take minutes
sql('ANALYZE storm.seen, evtstore_internal.event, evtstore_internal.stream');

my $events = sql('SELECT count(*) FROM evtstore.events');
note "$events events, $out";
cmp_ok($events, '>', 10_000, 'there was a storm');
cmp_ok(last_position($node) - $events, '>', 100, 'with rollbacks in it');
cmp_ok(sql(q{SELECT count(*) FROM evtstore.streams WHERE stream ~ '^a-hot'}), '==', 3, 'and races');
is(store_faults($node), '', 'the store is whole');
foreach my $i (0 .. $#following)
{
	my $name     = (sort keys %readers)[$i];
	my $category = $readers{$name}[0];

	is($following[$i]->errors, '', "reader $name read to the end");
	is(sql(sprintf "SELECT storm.faults('%s', %s)", $name, defined $category ? "'$category'" : 'NULL'), '', "reader $name: nothing lost, nothing twice, in order");
}
is(join('', map { $_->errors } @consuming), '', 'consumers came to the end');
foreach my $subscription (sort keys %consumers)
{
	my $category = $consumers{$subscription}[0];

	# what is in a lane that one gave up for another one who had ended
	sql("CALL storm.consume('$subscription', 'late', 200)");
	is(sql(sprintf "SELECT storm.faults('%s', %s)", $subscription, defined $category ? "'$category'" : 'NULL'), '', "subscription $subscription: nothing lost, nothing twice, in order");
}
is(sql('SELECT evtstore.head_position() = last_value FROM evtstore_internal.position_seq'), 't', 'no hole is waited for');
is(sql('SELECT count(*) FROM evtstore.why_behind()'), 0, 'nobody holds the head');

done_testing();
