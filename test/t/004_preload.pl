# Without shared_preload_libraries there is one clear error, ST010, whose HINT is the line to add; nothing works by half.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', start => 0);
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->start;

my $hint = qr/^HINT:  .*: shared_preload_libraries = 'evtstore'$/m;

sub refused
{
	my ($sql, $what) = @_;
	my ($out, $err) = ('', '');

	is(sqlstate($node, $sql), 'ST010', "$what: ST010");
	$node->psql('postgres', $sql, stdout => \$out, stderr => \$err);
	like($err, $hint, "$what: the hint is the line to add");
	return;
}

refused('CREATE EXTENSION evtstore', 'CREATE EXTENSION');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_extension WHERE extname = 'evtstore'}), 0,
	'nothing is left behind');
is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'evtstore%'}), 0,
	'no schema either');
refused(q{LOAD 'evtstore'}, 'LOAD');

# --- the line is added ---

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'evtstore'\n");
$node->restart;
$node->safe_psql('postgres', 'CREATE EXTENSION evtstore');
$node->safe_psql('postgres', q{SELECT evtstore.append('a-1', 'T', '1')});

# --- and taken away again: every entry point ---

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
my %arguments = (
	'text'        => q{'a'},
	'jsonb'       => q{'{}'},
	'json'        => q{'{}'},
	'jsonb[]'     => q{'{}'},
	'text[]'      => q{'{}'::text[]},
	'uuid'        => q{'00000000-0000-7000-8000-000000000001'},
	'bigint'      => 1,
	'integer'     => 1,
	'boolean'     => 'false',
	'name'        => q{'a'::name},
	'interval'    => q{'1s'::interval},
	'timestamp with time zone' => 'now()',
	'evtstore.event' => q{ROW(1, '', 's', 1, gen_random_uuid(), 'T', 1, '{}', '{}', '{}', now(), now())::evtstore.event});
my @functions = split /\n/, $node->safe_psql(
	'postgres', q{
	SELECT p.prokind::text || '|' || p.proname || '|' || coalesce(string_agg(format_type(a.type, NULL),
		',' ORDER BY a.n), '')
	FROM pg_proc p LEFT JOIN LATERAL unnest(p.proargtypes) WITH ORDINALITY a(type, n) ON true
	WHERE p.pronamespace = 'evtstore'::regnamespace GROUP BY p.oid ORDER BY p.proname});
cmp_ok(scalar @functions, '>', 20, 'there are functions to try');
my @works;
foreach my $function (@functions)
{
	my ($kind, $name, $types) = split /\|/, $function, -1;
	my $call = "evtstore.$name(" . join(', ', map { $arguments{$_} . ($_ eq 'text' ? '::text' : '') } split /,/, $types)
		. ')';
	my $state = sqlstate($node, ($kind eq 'p' ? 'CALL ' : 'SELECT ') . $call);

	push @works, "$call: $state" if $state ne 'ST010';
}
is(join("\n", @works), '', 'every function ends with ST010');
my @views = split /\n/, $node->safe_psql('postgres',
	q{SELECT relname FROM pg_class WHERE relnamespace = 'evtstore'::regnamespace AND relkind = 'v' ORDER BY relname});
@works = grep { sqlstate($node, "SELECT * FROM evtstore.$_") ne 'ST010' } @views;
is("@works", '', 'every view ends with ST010');
refused(q{SELECT evtstore.append('a-1', 'T', '1')}, 'append');
refused('DELETE FROM evtstore_internal.event', 'DELETE of events');

# nothing happened to the store meanwhile
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'evtstore'\n");
$node->restart;
is($node->safe_psql('postgres', 'SELECT stream, version FROM evtstore.read_all()'), 'a-1|1', 'the store is as it was');
is($node->safe_psql('postgres', q{SELECT version FROM evtstore.append('a-1', 'T', '2', expected_version => 1)}), 2,
	'and goes on');

done_testing();
