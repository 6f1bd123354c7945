# A million events: SQL over the views walks indexes, the read functions stop where the caller does, and an idle poll costs what
# it costs in a store of a thousand (feed case 27), of a subscription and of a queue too.  Plans and buffers are looked at, not times.
use strict;
use warnings;

use EvtTest;
use JSON::PP;
use Test::More;

my $EVENTS  = 1_000_000;
my $STREAMS = 20_000;

my $node = new_node('main', conf => "autovacuum = off\nshared_buffers = 512MB\nmax_wal_size = 4GB\njit = off\n");

sub sql { return $node->safe_psql('postgres', shift) }

#
# The store, filled past the feed: append makes one stream for each category and tenant, whose hashes the rest copies.  Every
# tenth stream is one of acme's.  Stream 12345 is the only one of category rare, 10 events have type Rare, and 200 type Some.
#
sub fill
{
	my ($database, $events, $streams) = @_;

	$node->safe_psql(
		$database, qq{
		SET synchronous_commit = off;
		SELECT count(*) FROM generate_series(0, 19) n, evtstore.append('c' || n || '-seed', 'Seed', '{}');
		SELECT count(*) FROM evtstore.append('rare-seed', 'Seed', '{}');
		SET evtstore.tenant = 'acme';
		SELECT count(*) FROM generate_series(0, 19) n, evtstore.append('c' || n || '-seed', 'Seed', '{}');
		RESET evtstore.tenant;
		CREATE TEMP TABLE seed AS
			SELECT s.tenant, s.category, e.category_hash FROM evtstore_internal.event e JOIN evtstore_internal.stream s ON s.id = e.stream_id;
		CREATE TEMP TABLE made AS
			SELECT 100 + n AS id, CASE WHEN n % 10 = 0 THEN 'acme' ELSE '' END AS tenant,
				   CASE WHEN n = 12345 THEN 'rare' ELSE 'c' || n / 10 % 20 END AS category, n
			FROM generate_series(1, $streams) n;
		INSERT INTO evtstore_internal.stream (id, created_at, tenant, name, category)
			SELECT id, now(), tenant, category || '-' || n, category FROM made;
		ANALYZE made;
		INSERT INTO evtstore_internal.event (position, stream_id, version, category_hash, schema_version, id, occurred_at,
			recorded_at, tenant, type, tags, data, metadata)
			SELECT 100 + p, m.id, (p - 1) / $streams + 1, s.category_hash, 1, lpad(to_hex(p), 32, '0')::uuid, now(), now(), m.tenant,
				   CASE WHEN p % ($events / 10) = 7 THEN 'Rare' WHEN p % 4999 = 10 THEN 'Some' ELSE 'T' || p % 50 END, '{}', jsonb_build_object('n', p), '{}'
			FROM generate_series(1, $events) p
			JOIN made m ON m.n = (p - 1) % $streams + 1 JOIN seed s ON s.tenant = m.tenant AND s.category = m.category
			ORDER BY p;
		-- what finds the events of the tenant; of a type of theirs nothing is asked
		INSERT INTO evtstore_internal.event_tag (tag_hash, position, pair_hash)
			SELECT (SELECT tag_hash FROM evtstore_internal.event_tag LIMIT 1), position, 0 FROM evtstore_internal.event e
			WHERE tenant = 'acme' AND NOT EXISTS (SELECT FROM evtstore_internal.event_tag t WHERE t.position = e.position);
		SELECT setval('evtstore_internal.position_seq', $events + 100), setval('evtstore_internal.stream_id_seq', $streams + 100);
		SELECT count(*) FROM evtstore.append('c1-last', 'Last', '{}');
	});
	$node->safe_psql($database, 'VACUUM (ANALYZE) evtstore_internal.event, evtstore_internal.event_tag, evtstore_internal.stream');
	return;
}

#
# The plan of a statement that has run, seen the second time: the first one fills the caches of the session.
#
sub plan_of
{
	my ($sql, %option) = @_;
	my $explain = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) $sql;\n";
	my $out     = $node->safe_psql(
		$option{database} // 'postgres',
		"SET evtstore.tenant = '" . ($option{tenant} // '') . "';\n" . ($option{before} // '') . $explain . $explain);
	my @plans = JSON::PP->new->incr_parse($out);

	return $plans[-1][0]{Plan};
}

sub buffers
{
	my $plan = shift;
	return $plan->{'Shared Hit Blocks'} + $plan->{'Shared Read Blocks'};
}

# Every node, in one line each: its type, and the index, relation or provider.
sub nodes
{
	my $plan = shift;

	return (
		join(' ', grep { defined } @$plan{ 'Node Type', 'Custom Plan Provider', 'Index Name', 'Relation Name' }),
		map { nodes($_) } @{ $plan->{Plans} // [] });
}

sub check
{
	my ($name, $sql, $wanted, $max_buffers, %option) = @_;
	my $plan  = plan_of($sql, %option);
	my @nodes = nodes($plan);
	my @missing = grep { my $want = $_; !grep { /\b$want\b/ } @nodes } @$wanted;
	my @whole   = grep { /^Seq Scan event/ || /^Seq Scan/ && !$option{hashes} || /^Sort/ && !$option{sorts} } @nodes;

	ok(!@missing && !@whole && buffers($plan) <= $max_buffers, $name)
	  or diag(join("\n", buffers($plan) . " buffers, at most $max_buffers wanted; not used: @missing", @nodes));
	is($plan->{'Actual Rows'}, $option{rows}, "$name: rows") if defined $option{rows};
	return $plan;
}

fill('postgres', $EVENTS, $STREAMS);
$node->safe_psql('postgres', 'CREATE DATABASE small');
$node->safe_psql('small', 'CREATE EXTENSION evtstore');
fill('small', 1000, 20);
is(sql('SELECT evtstore.head_position()'), $EVENTS + 101, 'the head is past what was filled in');

# --- the views ---

foreach my $tenant ('', 'acme')
{
	my $stream = $tenant eq '' ? 'c10-101' : 'c1-10';    # one that is this tenant's
	my $where  = $tenant eq '' ? '' : ' (acme)';
	my $id     = $tenant eq '' ? '00000000-0000-0000-0000-0000000f1b32' : '00000000-0000-0000-0000-00000000000a';
	my %events = (
		'a page of positions' => [ 'position > 500000 AND position <= 500100', 'event_pkey', 500 ],
		'one position'        => [ 'position = 500010', 'event_pkey', 12 ],
		'an id'               => [ "id = '$id'", 'event_id_key', 12, 1 ],
		'a stream'            => [ "stream = '$stream'", 'event_stream_version_key', 130, 50 ],
		'a stream from a version' => [ "stream = '$stream' AND version > 45", 'event_stream_version_key', 30, 5 ],
		'one version of a stream' => [ "stream = '$stream' AND version = 7", 'event_stream_version_key', 14, 1 ],
		'a rare type'             => [ "type = 'Rare'", 'event_type_idx', 60 ],
		'a type in a range'       => [ "type = 'Some' AND position BETWEEN 500000 AND 900000", 'event_type_idx', 500 ],
	);
	foreach my $name (sort keys %events)
	{
		my ($condition, $index, $max, $rows) = @{ $events{$name} };
		check("events by $name$where", "SELECT * FROM evtstore.events WHERE $condition", [$index], $max,
			tenant => $tenant, rows => $rows);
	}
	check("newest events$where", 'SELECT * FROM evtstore.events ORDER BY position DESC LIMIT 10', ['event_pkey'], 80,
		tenant => $tenant, rows => 10);
	check("newest events of a type$where", "SELECT * FROM evtstore.events WHERE type = 'Some' ORDER BY position DESC LIMIT 10",
		['event_type_idx'], 500, tenant => $tenant, rows => 10);
	# the planner does not know that a name is of one stream only, and sorts; what costs no more in a long stream is read_stream
	check("newest event of a stream$where",
		"SELECT * FROM evtstore.events WHERE stream = '$stream' ORDER BY version DESC LIMIT 1", ['event_stream_version_key'],
		130, tenant => $tenant, rows => 1, sorts => 1);
	check("newest events of a category$where",
		"SELECT * FROM evtstore.events WHERE category = 'c1' ORDER BY position DESC LIMIT 10", ['event_pkey'], 60000,
		tenant => $tenant, rows => 10);
	check("how many events a stream has$where", "SELECT count(*) FROM evtstore.events WHERE stream = '$stream'",
		['event_stream_version_key'], 130, tenant => $tenant, rows => 1);
	check("a page of events after a position$where",
		'SELECT * FROM evtstore.events WHERE position > 700000 ORDER BY position LIMIT 100', ['event_pkey'], 1600,
		tenant => $tenant, rows => 100);
	check("a stream's row$where", "SELECT * FROM evtstore.streams WHERE stream = '$stream'",
		[ 'stream_name_tenant_key', 'event_stream_version_key' ],
		14, tenant => $tenant, rows => 1);
	check("some streams$where", 'SELECT * FROM evtstore.streams ORDER BY stream LIMIT 10', ['stream_name_tenant_key'],
		200, tenant => $tenant, rows => 10);

	# generic plans: no constant is known.  A type is expected to have so many events that hashing all streams is cheaper
	my %prepared = (
		'(text) AS SELECT * FROM evtstore.events WHERE stream = $1'  => [ "('$stream')", 'event_stream_version_key', 130, 50 ],
		'(uuid) AS SELECT * FROM evtstore.events WHERE id = $1'      => [ "('$id')", 'event_id_key', 12, 1 ],
		'(bigint) AS SELECT * FROM evtstore.events WHERE position > $1 ORDER BY position LIMIT 10' =>
		  [ '(500000)', 'event_pkey', 200, 10 ],
		'(text, bigint) AS SELECT * FROM evtstore.events WHERE stream = $1 AND version = $2' =>
		  [ "('$stream', 7)", 'event_stream_version_key', 14, 1 ],
		'(text) AS SELECT * FROM evtstore.events WHERE type = $1' => [ "('Some')", 'event_type_idx', 1000, undef, 1 ],
		'(text) AS SELECT * FROM evtstore.streams WHERE stream = $1' => [ "('$stream')", 'stream_name_tenant_key', 14, 1 ],
	);
	foreach my $statement (sort keys %prepared)
	{
		my ($arguments, $index, $max, $rows, $hashes) = @{ $prepared{$statement} };
		check("prepared$where: $statement", "EXECUTE p$arguments", [$index], $max,
			tenant => $tenant,
			rows   => $rows,
			hashes => $hashes,
			before => "SET plan_cache_mode = force_generic_plan; PREPARE p$statement;\n");
	}
}
check('a rare category', q{SELECT * FROM evtstore.events WHERE category = 'rare'},
	[ 'stream_category_idx', 'event_stream_version_key' ], 130, rows => 51);
check('streams of a rare category', q{SELECT * FROM evtstore.streams WHERE category = 'rare'},
	['stream_category_idx'], 20, rows => 2);

# --- the read functions: what is not asked for is not read ---

foreach my $tenant ('', 'acme')
{
	my $where = $tenant eq '' ? '' : ' (acme)';
	my %reads = (
		"read_all() LIMIT 10"                                              => 300,
		"read_all(500000) LIMIT 10"                                        => 300,
		"read_all(500000, 10)"                                             => 300,
		"read_all(backwards => true) LIMIT 10"                             => 300,
		"read_all(500000) ORDER BY position LIMIT 10"                      => 300,
		"read_all(backwards => true) ORDER BY position DESC LIMIT 10"      => 300,
		"read_category('c3') LIMIT 10"                                     => 60,
		"read_category('c3', 500000) LIMIT 10"                             => 60,
		"read_category('c3', backwards => true) ORDER BY 1 DESC LIMIT 10"  => 60,
	);
	check("evtstore.$_$where", "SELECT * FROM evtstore.$_", ['EvtstoreRead'], $reads{$_}, tenant => $tenant, rows => 10)
	  foreach sort keys %reads;
	check("a cursor's first rows$where", "SELECT evtstore.read_all() LIMIT 10", ['ProjectSet'], 300, tenant => $tenant, rows => 10);
}
check('a stream', q{SELECT * FROM evtstore.read_stream('c10-101')}, ['EvtstoreRead'], 70, rows => 50);
check('the end of a stream', q{SELECT * FROM evtstore.read_stream('c10-101', backwards => true) LIMIT 1}, ['EvtstoreRead'],
	14, rows => 1);
check('prepared read_all', 'EXECUTE p(500000, 10)', ['EvtstoreRead'], 60,
	rows   => 10,
	before => "SET plan_cache_mode = force_generic_plan; PREPARE p(bigint, bigint) AS SELECT * FROM evtstore.read_all(\$1, \$2);\n");

# --- case 27: a poll that finds nothing, in both stores ---

foreach my $read ("SELECT * FROM evtstore.read_all(%s)", "SELECT * FROM evtstore.read_category('c1', %s)",
	"SELECT * FROM evtstore.read_stream('c1-last', 1)", "SELECT evtstore.read_all(%s)")
{
	my %cost;

	foreach my $database (qw(postgres small))
	{
		my $head = $node->safe_psql($database, 'SELECT evtstore.head_position()');
		my $plan = plan_of(sprintf($read, $head), database => $database);

		is($plan->{'Actual Rows'}, 0, "$read: nothing new in $database");
		$cost{$database} = buffers($plan);
	}
	# the index is a level or two higher, and that is all
	cmp_ok($cost{postgres}, '<=', $cost{small} + 2, "$read: an idle poll costs the same ($cost{small}, $cost{postgres})");
	# of a stream, its state and two policies are looked for as well
	cmp_ok($cost{postgres}, '<=', $read =~ /read_stream/ ? 14 : 6, "$read: and that is a walk down an index");
}

# the same for a subscription that has handed out all there is, with every kind of filter, and old checkpoints that nobody removed
my %filters = (
	every    => '{}',
	category => '{"categories": ["c1"]}',
	several  => '{"categories": ["c1", "c2", "rare"], "types": ["T1"]}',
	types    => '{"types": ["Rare", "Last"]}',
	tags     => '{"tags": ["none"]}',
	streams  => '{"streams": ["c1-last", "c10-101"]}',
	query    => '{"items": [{"types": ["T1"]}, {"tags": ["none"], "types": ["Rare"]}]}');
foreach my $name (sort keys %filters)
{
	my %cost;

	foreach my $database (qw(postgres small))
	{
		my $old = $database eq 'postgres' ? 5000 : 5;
		# behind the head, from where the last event of the filter was settled: what follows is passed over once
		$node->safe_psql($database, qq{
			SELECT evtstore.create_subscription('$name', '$filters{$name}', lanes => 2, start_position => evtstore.head_position() - 500);
			SELECT evtstore.ack(ARRAY(SELECT receipt FROM evtstore.poll('$name', 'c', 1000)));
			INSERT INTO evtstore_internal.checkpoint SELECT subscription_id, lane, -n, 0, '{}'
				FROM (SELECT DISTINCT subscription_id, lane FROM evtstore_internal.checkpoint) c, generate_series(1, $old) n
				WHERE subscription_id = (SELECT id FROM evtstore_internal.definition WHERE name = '$name');
			ANALYZE evtstore_internal.checkpoint;});
		# the second look: the first one settles what it passed over
		my $plan = plan_of("SELECT * FROM evtstore.poll('$name', 'c')", database => $database);

		is($plan->{'Actual Rows'}, 0, "poll $name: nothing new in $database");
		$cost{$database} = buffers($plan);
	}
	cmp_ok($cost{postgres}, '<=', $cost{small} + 10, "poll $name: an idle poll costs the same ($cost{small}, $cost{postgres})");
	cmp_ok($cost{postgres}, '<=', 20, "poll $name: and that is some walks down indexes");
}

# a queue with much that is delayed and in flight
{
	my %cost;

	foreach my $database (qw(postgres small))
	{
		my ($delayed, $in_flight) = $database eq 'postgres' ? (50_000, 5000) : (50, 5);
		$node->safe_psql($database, qq{
			SELECT evtstore.create_queue('idle');
			SELECT cardinality(evtstore.send_batch('idle', array_fill('1'::jsonb, ARRAY[$delayed]), delay => '1 hour'));
			SELECT cardinality(evtstore.send_batch('idle', array_fill('1'::jsonb, ARRAY[$in_flight])));
			DO \$\$ BEGIN WHILE EXISTS (SELECT FROM evtstore.receive('idle', 'busy', 1000, '1 hour')) LOOP NULL; END LOOP; END \$\$;});
		my $plan = plan_of(q{SELECT * FROM evtstore.receive('idle', 'c')}, database => $database);

		is($plan->{'Actual Rows'}, 0, "receive: nothing ready in $database");
		$cost{$database} = buffers($plan);
	}
	cmp_ok($cost{postgres}, '<=', $cost{small} + 2, "receive: an idle one costs the same ($cost{small}, $cost{postgres})");
	cmp_ok($cost{postgres}, '<=', 10, 'receive: and next to nothing');
}

done_testing();
