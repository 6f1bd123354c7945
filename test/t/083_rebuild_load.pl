# Rebuilds of a sync and of an async projection, again and again, while appenders append and readers read their tables: plainly, in
# functions, by prepared statements, through a view, in transactions.
#
# No statement fails.  What a reader sees of a table never goes back, to the old rows, to a part of them or to none; where the snapshot
# is taken before the table is locked (REPEATABLE READ, and EXECUTE in SQL), it may go back by what came while the rebuild ended, and
# no farther.  No lock that holds up readers or appenders is held by a rebuild worker for a second, by samples of pg_locks.  In the end
# the tables are the fold of the events, and a rebuild of the store at rest makes the same of them.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtTest;
use EvtWire;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $EVENTS   = 30_000;
my $RATE     = 250;    # appends a second of each appender
my $SECONDS  = 6;      # so long at least rebuilds are begun
my $PATIENCE = 60;
my $HELD     = 1;      # seconds that a lock may be held

my $node = new_node('main', conf => "log_statement = none\nmax_connections = 40\nevtstore.poll_interval = 200ms\nmax_worker_processes = 16\n");
my $stop = "$PostgreSQL::Test::Utils::tmp_check/stop";
my $figures = "$PostgreSQL::Test::Utils::tmp_check/figures";

sub sql { return $node->safe_psql('postgres', shift) }

# --- the store ---

sql(qq{
	CREATE TABLE stock (stream text PRIMARY KEY, n bigint NOT NULL, pieces bigint, version bigint);
	CREATE TABLE sales (product int PRIMARY KEY, n bigint NOT NULL, pieces bigint);
	CREATE TABLE fresh (position bigint PRIMARY KEY);
	CREATE INDEX ON stock (pieces);
	CREATE INDEX ON sales (pieces);
	CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql AS \$\$ BEGIN RETURN (SELECT sum(n) FROM stock); END \$\$;
	CREATE VIEW much AS SELECT product, n, pieces FROM sales WHERE pieces > 0;
	CREATE FUNCTION add_sales(events evtstore.event[]) RETURNS void LANGUAGE sql AS \$\$
		INSERT INTO public.sales AS s SELECT (data->>'product')::int, count(*), sum((data->>'pieces')::int) FROM unnest(events) GROUP BY 1
		ON CONFLICT (product) DO UPDATE SET n = s.n + EXCLUDED.n, pieces = s.pieces + EXCLUDED.pieces \$\$;
	DO \$\$ BEGIN FOR i IN 1 .. $EVENTS / 20 LOOP
		PERFORM evtstore.append_events('item-' || i % 1000, (SELECT jsonb_agg(jsonb_build_object('type', 'Sold',
			'data', jsonb_build_object('product', (i * 7 + k) % 500, 'pieces', k % 5 + 1))) FROM generate_series(1, 20) k));
		COMMIT; END LOOP; END \$\$});
sql(q{SELECT evtstore.create_projection('stock', '{"Sold": "INSERT INTO stock AS s VALUES (($1).stream, 1, (($1).data->>''pieces'')::int, ($1).version) ON CONFLICT (stream) DO UPDATE'
	' SET n = s.n + 1, pieces = s.pieces + EXCLUDED.pieces, version = EXCLUDED.version"}', 'sync')});
sql(q{SELECT evtstore.create_projection('fresh', '{"Sold": "INSERT INTO fresh VALUES (($1).position)"}', 'sync', filter => '{"categories": ["fresh"]}')});
sql(q{SELECT evtstore.create_projection('sales', '{"Sold": {"batch": "public.add_sales"}}', tables => '{sales}')});
sql("CALL evtstore.wait_for('sales', " . sql('SELECT evtstore.head_position()') . ", '${PATIENCE}s')");

# --- who works meanwhile ---

# how many statements a child has had answered, and the longest of them
my ($answered, $longest) = (0, 0);

# the rows; undef where it is refused with the SQLSTATE that is allowed.  Another failure ends the child, and the test
sub ask
{
	my ($wire, $statement, $allowed) = @_;
	my $started = time;
	my $answer  = $wire->query($statement);
	my $took    = time - $started;
	my $state   = $answer->{lost} ? 'no answer' : $answer->{sqlstate};

	die sprintf "%s %s\n%s\n", $state, $answer->{message} // '', $statement if defined $state && $state ne ($allowed // '');
	$answered++;
	$longest = $took if $took > $longest;
	return defined $state ? undef : $answer->{rows};
}

sub start
{
	my ($name, $run) = @_;

	start_child(
		$name,
		sub {
			my $wire = EvtWire->new($node, 'postgres', $name) or die "no connection\n";
			srand 1;
			my $more = $run->($wire) // '';
			append_to_file($figures, sprintf "%s: %d statements, the longest took %.0f ms%s\n", $name, $answered, 1000 * $longest, $more);
		});
	return;
}

sub append_all_the_while
{
	my $wire = shift;
	my $due  = time;

	until (-e $stop)
	{
		ask($wire, sprintf q{SELECT evtstore.append('%s-%d', 'Sold', '{"product": %d, "pieces": %d}')}, (qw(item fresh))[ rand 2 ], rand 1100, rand 510, 1 + rand 5);
		$due += 1 / $RATE;
		# sleep: until the next one is due
		select undef, undef, undef, $due - time if $due > time;
	}
	return;
}

# a reader's rounds of statements; what the first of them that has rows says must not become less, or with least => ... less than that
sub read_all_the_while
{
	my ($wire, $option, @round) = @_;
	my $before = $option->{least} // 0;

	ask($wire, $_) foreach @{ $option->{prepare} // [] };
	until (-e $stop)
	{
		my ($n) = map { $_->[0][0] } grep { @$_ } map { ask($wire, $_) } @round;
		die "$n, after $before\n" if $n < $before;
		$before = $n unless $option->{least};
		select undef, undef, undef, 0.01;    # sleep: so that others get to work, too
	}
	return;
}

# a small one, again and again: it is the end of a rebuild that matters
sub rebuild_all_the_while
{
	my $wire = shift;
	my $n    = 0;

	until (-e $stop)
	{
		$n++ if ask($wire, q{SELECT evtstore.rebuild_projection('fresh')}, '55000');
		select undef, undef, undef, 0.05;    # sleep: until that one may have ended
	}
	return ", $n rebuilds";
}

# AccessExclusive on the tables, ShareRowExclusive on the event table: by a rebuild worker, in one transaction.  One that is just giving
# its locks back has no number any more, and is left out
sub sample_locks
{
	my $wire = shift;
	my $held = q{SELECT concat_ws(' ', l.virtualtransaction, l.relation::regclass, l.mode) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.granted AND l.virtualtransaction !~ '/0$' AND a.backend_type = 'evtstore rebuild worker' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND (l.relation, l.mode) IN (('stock'::regclass, 'AccessExclusiveLock'), ('sales'::regclass, 'AccessExclusiveLock'),
			('evtstore_internal.event'::regclass, 'ShareRowExclusiveLock'))};
	my (%first, $most, $by);

	$most = 0;
	until (-e $stop)
	{
		my $started = time;

		foreach my $row (@{ ask($wire, $held) })
		{
			$first{ $row->[0] } //= time;
			($most, $by) = ($started - $first{ $row->[0] }, $row->[0]) if $started - $first{ $row->[0] } >= $most;
		}
		select undef, undef, undef, 0.005;    # sleep: between two looks
	}
	die sprintf "%.1f s: %s\n", $most, $by if $most > $HELD;
	return sprintf ', saw %d locks, the longest for %.0f ms', scalar(keys %first), 1000 * $most;
}

start("appender $_", \&append_all_the_while) foreach 1 .. 2;
start('rebuilder', \&rebuild_all_the_while);
my %reader = (
	plain        => [ {}, 'SELECT pieces FROM sales WHERE product = 7', 'SELECT sum(n) FROM sales', 'SELECT count(*) FROM stock WHERE pieces > 100' ],
	view         => [ {}, 'SELECT sum(n) FROM much', 'SELECT count(*) FROM much JOIN stock ON stock.n = much.n' ],
	function     => [ {}, 'SELECT total()', 'SELECT sum(n) FROM sales' ],
	transactions => [ {}, 'BEGIN', 'SELECT sum(n) FROM stock', 'SELECT count(*) FROM much', 'SELECT sum(n) FROM sales', 'COMMIT' ],
	prepared     => [
		{
			least   => $EVENTS,
			prepare => [ 'PREPARE total AS SELECT sum(n) FROM stock', 'PREPARE one (text) AS SELECT pieces FROM stock WHERE stream = $1', 'SET plan_cache_mode = force_generic_plan' ]
		},
		'EXECUTE total', q{EXECUTE one ('item-3')}, q{EXECUTE one ('item-77')} ],
	snapshots => [ { least => $EVENTS }, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT sum(n) FROM stock', 'SELECT count(*) FROM sales', 'COMMIT' ]);
start("reader, $_", do { my $reader = $reader{$_}; sub { read_all_the_while(shift, @$reader) } }) foreach sort keys %reader;
start('sampler', \&sample_locks);

# --- rebuilds ---

sub rebuild
{
	my @names = @_;
	my $names = join ', ', map { "'$_'" } @names;

	sql("SELECT evtstore.rebuild_projection('$_')") foreach @names;
	poll_until('the rebuilds to end', sub { sql("SELECT count(*) FROM evtstore.projection_status WHERE rebuild_progress IS NOT NULL AND name IN ($names)") == 0 }, $PATIENCE);
	return;
}

sub events { return sql('SELECT count(*) FROM evtstore.events') }

poll_until('the appenders', sub { events() > $EVENTS + 20 });
my $files   = q{SELECT string_agg(pg_relation_filenode(c)::text, ' ') FROM unnest('{stock,sales}'::regclass[]) c};
my $file    = sql($files);
my $events  = events();
my $until   = time + $SECONDS;
my ($n, $longest_rebuild) = (0, 0);
do
{
	my $started = time;

	rebuild(qw(stock sales));
	$n++;
	$longest_rebuild = time - $started if time - $started > $longest_rebuild;
} until time > $until;
cmp_ok(events(), '>', $events, 'events were appended meanwhile');
isnt(sql($files), $file, 'the tables were exchanged');
append_to_file($stop, '');
is(finish_children('appender', $PATIENCE), '', 'no append failed');
is(finish_children('rebuilder', $PATIENCE), '', 'no rebuild was refused for another reason than one under way');
is(finish_children('reader',   $PATIENCE), '', 'no statement of a reader failed, and none saw less than before');
is(finish_children('sampler',  $PATIENCE), '', 'no lock was held for long');
unlike(slurp_file($node->logfile), qr/rebuilding projection .* failed/, 'no rebuild failed, nor did it seem so to a worker that came late');

# --- the results ---

poll_until('the last rebuild to end', sub { sql(q{SELECT count(*) FROM evtstore.projection_status WHERE rebuild_progress IS NOT NULL}) == 0 }, $PATIENCE);
sql("CALL evtstore.wait_for('sales', " . sql('SELECT evtstore.head_position()') . ", '${PATIENCE}s')");
my %result = map { $_ => "SELECT md5(string_agg(t::text, ',' ORDER BY t)) FROM $_ t" } qw(fresh stock sales);
my %wanted = (
	fresh => q{SELECT position FROM evtstore.events WHERE stream LIKE 'fresh-%'},
	stock => q{SELECT stream, count(*), sum((data->>'pieces')::int)::bigint, max(version) FROM evtstore.events GROUP BY stream},
	sales => q{SELECT (data->>'product')::int, count(*), sum((data->>'pieces')::int)::bigint FROM evtstore.events GROUP BY 1});
my %is = map { $_ => sql($result{$_}) } sort keys %result;
is(sql("SELECT count(*) FROM ((TABLE $_ EXCEPT $wanted{$_}) UNION ALL ($wanted{$_} EXCEPT TABLE $_)) d"), 0, "$_ is the fold of the events") foreach sort keys %result;
rebuild(sort keys %result);
is(sql($result{$_}), $is{$_}, "$_ is the same after a rebuild of the store at rest") foreach sort keys %result;

diag sprintf '%d events, %d of them meanwhile; %d times the large ones were rebuilt, in %.1f s at most', events(), events() - $events, $n, $longest_rebuild;
diag slurp_file($figures) =~ s/\n\z//r;
my @busy = slurp_file($figures) =~ /: (\d+) statements/g;
is(scalar(@busy), 10, 'everybody worked to the end');
cmp_ok($_, '>', 20, 'and had something to do') foreach @busy;
done_testing();
