# What a read takes does not grow with what it reads: the memory of the backend stays where it is, no temporary file is written,
# and a LIMIT, an error or a cursor left open leaves nothing behind.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $EVENTS  = 400_000;
my $STREAMS = 30_000;    # more than the backend remembers

# the number of event p's stream: far from the one before, and in the second half of the store next to it
my $SCATTERED = $STREAMS * 7;
my $NUMBER    = "(CASE WHEN p < $SCATTERED THEN p * 7919 ELSE p END % $STREAMS + 1)";

my $node = new_node('main', conf => "autovacuum = off\nmax_wal_size = 4GB\njit = off\nlog_temp_files = 0\nwork_mem = '1MB'\nshared_buffers = 64MB\n");

sub sql { return $node->safe_psql('postgres', shift) }

sql(qq{
	SET synchronous_commit = off;
	SET work_mem = '128MB';
	SELECT count(*) FROM evtstore.append('c-seed', 'Seed', '{}');
	INSERT INTO evtstore_internal.stream (id, created_at, tenant, name, category)
		SELECT 100 + n, now(), '', 'c-' || n, 'c' FROM generate_series(1, $STREAMS) n;
	INSERT INTO evtstore_internal.event (position, stream_id, version, category_hash, schema_version, id, occurred_at,
		recorded_at, tenant, type, tags, data, metadata)
		SELECT 100 + p, 100 + $NUMBER, p / $STREAMS + 1, (SELECT category_hash FROM evtstore_internal.event), 1,
			   lpad(to_hex(p), 32, '0')::uuid, now(), now(), '', 'T', '{}', jsonb_build_object('n', p, 'pad', repeat('x', 200)), '{}'
		FROM generate_series(1::bigint, $EVENTS) p;
	SELECT setval('evtstore_internal.position_seq', $EVENTS + 100), setval('evtstore_internal.stream_id_seq', $STREAMS + 100);
	SELECT count(*) FROM evtstore.append('c-last', 'Last', '{}');
});
sql('ANALYZE evtstore_internal.event, evtstore_internal.stream');
my $all = $EVENTS + 2;

# anonymous memory of a session's process, in kB: what it allocated, without the shared buffers that it touched
sub memory
{
	my $session = shift;
	my $pid     = $session->query_safe('SELECT pg_backend_pid()');
	my ($kb)    = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m;
	return $kb;
}

# what the server says of its own, in kB
sub contexts
{
	my $session = shift;
	return $session->query_safe('SELECT sum(total_bytes) / 1024 FROM pg_backend_memory_contexts');
}

my $session = session($node);

# what is read once fills the caches of the backend
is($session->query_safe('SELECT count(*) FROM evtstore.read_all(max_count => 100000)'), 100000, 'a first read');
my $memory   = memory($session);
my $contexts = contexts($session);

my %reads = (
	'count over read_all'         => ['SELECT count(*) FROM evtstore.read_all()', $all],
	'count over read_category'    => [q{SELECT count(*) FROM evtstore.read_category('c')}, $all],
	'names of streams'            => [
		qq{SELECT count(*) FILTER (WHERE stream = 'c-' || $NUMBER) FROM evtstore.read_all(), CAST(data ->> 'n' AS bigint) p}, $EVENTS ],
	'names of streams, backwards' => [
		qq{SELECT count(*) FILTER (WHERE stream = 'c-' || $NUMBER)
			FROM evtstore.read_all(backwards => true), CAST(data ->> 'n' AS bigint) p}, $EVENTS ],
	'whole rows'                  => ['SELECT count(r) FROM evtstore.read_all() r', $all],
	'data looked into'            => [q{SELECT sum((data ->> 'n' IS NOT NULL)::int) FROM evtstore.read_all(backwards => true)}, $EVENTS],
	'a row per call'              => ['SELECT count(*) FROM (SELECT evtstore.read_all()) r', $all],
	'an inner side walked again'  => [
		q{SELECT count(*) FROM generate_series(1, 3) n, LATERAL (SELECT position FROM evtstore.read_all(n * 100000)) r},
		$EVENTS * 3 - 600000 + 303 ],
);
foreach my $name (sort keys %reads)
{
	my ($query, $result) = @{ $reads{$name} };
	is($session->query_safe($query), $result, $name);
	cmp_ok(memory($session), '<=', $memory + 6000, "$name: memory stays where it is");
}

# a cursor, looked at in the middle and near the end
$session->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT position, stream, data FROM evtstore.read_all()');
foreach my $step (1 .. 3)
{
	$session->query_safe('MOVE 130000 FROM c');
	cmp_ok(contexts($session), '<=', $contexts + 4000, "cursor after step $step: memory contexts");
	cmp_ok(memory($session), '<=', $memory + 6000, "cursor after step $step: memory of the process");
}
$session->query_safe('COMMIT');
$session->query_safe(q{
	DO $$
	DECLARE
		r record;
		n int := 0;
	BEGIN
		FOR r IN SELECT * FROM evtstore.read_all() LOOP
			n := n + 1;
		END LOOP;
		ASSERT n = } . $all . q{;
	END $$});
cmp_ok(memory($session), '<=', $memory + 6000, 'a PL/pgSQL loop: memory stays where it is');
$session->quit;

my $temporary = 'SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()';
is(sql($temporary), 0, 'no temporary file');
unlike(slurp_file($node->logfile), qr/temporary file/, 'none in the log either');

# the other way, so that the two above are known to see: WITH ORDINALITY has the executor keep all rows
sql('SELECT count(*) FROM evtstore.read_all(max_count => 100000) WITH ORDINALITY');
cmp_ok(poll_until('the statistics', sub { sql($temporary) }), '>', 0, 'where all rows are kept it is seen');

# nothing left behind: no warning of a leak in the log
sql('SELECT * FROM evtstore.read_all() LIMIT 1; SELECT evtstore.read_all() LIMIT 1; SELECT * FROM evtstore.read_category($$c$$, 5) LIMIT 3');
is(sqlstate($node, 'SELECT 1 / (position - 5000) FROM evtstore.read_all()'), '22012', 'an error in the middle');
sql('BEGIN; DECLARE c CURSOR FOR SELECT * FROM evtstore.read_all(); MOVE 5 FROM c; SAVEPOINT s; MOVE 5 FROM c;
	DECLARE d CURSOR FOR SELECT * FROM evtstore.read_all(); MOVE 5 FROM d; ROLLBACK TO s; MOVE 5 FROM c; COMMIT');
unlike(slurp_file($node->logfile), qr/leak/, 'nothing leaks');

done_testing();
