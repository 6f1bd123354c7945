# Deletions, truncations and policies in copies of the store: dump and restore, a standby, and its promotion.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', conf => "log_statement = none\nevtstore.poll_interval = 50ms\nmax_connections = 30\n",
	init => { allows_streaming => 1 });
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_conninfo = '" . $primary->connstr . "'\n");
$standby->start;

sub sql
{
	my ($node, $sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# --- a store with every state, partly scavenged ---

sql($primary, q{
	SELECT count(*) FROM unnest(ARRAY['soft-1', 'soft-2', 'hard-1', 'hard-2', 'cut-1', 'back-1', 'few-1', 'few-2', 'all-1']) s, generate_series(1, 4) n,
		evtstore.append(s, 'T', to_jsonb(n));
	SELECT evtstore.delete_stream('soft-1'), evtstore.delete_stream('hard-1', hard => true), evtstore.delete_stream('back-1');
	SELECT evtstore.append('back-1', 'T', '2');
	SELECT evtstore.scavenge();
	SELECT evtstore.delete_stream('soft-2'), evtstore.delete_stream('hard-2', hard => true), evtstore.truncate_stream('cut-1', 3);
	SELECT evtstore.delete_stream('hard-3', hard => true);
	SELECT evtstore.set_category_policy('few', '{"max_count": 2}'), evtstore.set_stream_policy('few-1', '{"max_count": 3, "max_age": "1 day"}');
	SET evtstore.tenant = 'acme';
	SELECT evtstore.append('soft-1', 'T', '1');
	SELECT evtstore.set_stream_policy('soft-1', '{"truncate_before": 2}');
});
my %facts = (
	streams  => q{SELECT s.tenant, s.stream, s.version, s.status, s.truncate_before FROM evtstore.streams s ORDER BY 1, 2},
	seen     => q{SELECT s.stream, evtstore.stream_version(s.stream), (SELECT string_agg(r.version::text, ' ' ORDER BY r.version)
		FROM evtstore.read_stream(s.stream) r) FROM evtstore.streams s WHERE tenant = '' ORDER BY 1},
	acme     => q{SET evtstore.tenant = 'acme'; SELECT evtstore.stream_version('soft-1'), (SELECT count(*) FROM evtstore.read_stream('soft-1'))},
	policies => 'SELECT * FROM evtstore.policies ORDER BY 1, 2, 3',
	states   => 'SELECT * FROM evtstore_internal.stream_state ORDER BY 1',
	events   => 'SELECT count(*), max(position) FROM evtstore.events');
my %before = map { $_ => sql($primary, $facts{$_}) } keys %facts;
is($before{seen}, join("\n", 'all-1|4|1 2 3 4', 'back-1|5|5', 'cut-1|4|3 4', 'few-1|4|2 3 4', 'few-2|4|3 4',
	'hard-1|0|', 'hard-2|0|', 'hard-3|0|', 'soft-1|0|', 'soft-2|0|'), 'what its readers see');
is($before{acme}, '1|0', 'and those of a tenant');

sub is_same
{
	my ($what, $node, $database) = @_;
	foreach my $fact (sort keys %facts)
	{
		is(sql($node, $facts{$fact}, $database), $before{$fact}, "$what: same $fact");
	}
	return;
}

# What holds after the copy can be written to.
sub goes_on
{
	my ($what, $node, $database) = @_;

	foreach my $hard (qw(hard-1 hard-2 hard-3))
	{
		is(sqlstate($node, "SELECT evtstore.append('$hard', 'T', '1')", $database), 'ST002', "$what: $hard stays deleted");
	}
	is(sqlstate($node, q{SELECT evtstore.append('soft-1', 'T', '1', require => 'exists')}, $database), 'ST001', "$what: soft-1 does not exist");
	is(sql($node, q{SELECT version FROM evtstore.append('soft-1', 'T', '1', require => 'deleted')}, $database), 5, "$what: it comes back");
	is(sql($node, q{SELECT version FROM evtstore.append('soft-2', 'T', '1', expected_version => 0)}, $database), 5, "$what: so does soft-2");
	is(sql($node, q{SELECT version FROM evtstore.append('cut-1', 'T', '1', expected_version => 4)}, $database), 5, "$what: cut-1 goes on");
	is(sql($node, q{SELECT count(*) = (SELECT count(*) FROM evtstore.events) FROM evtstore.read_all()}, $database), 't', "$what: the feed is complete");
	return;
}

# --- standby ---

$primary->wait_for_catchup($standby, 'replay');
is_same('standby', $standby);
is(sqlstate($standby, $_), '25006', "refused on a standby: $_")
  foreach q{SELECT evtstore.delete_stream('all-1')}, q{SELECT evtstore.truncate_stream('all-1', 2)},
  q{SELECT evtstore.set_stream_policy('all-1', '{}')}, q{SELECT evtstore.set_category_policy('all', '{}')}, 'SELECT evtstore.scavenge()';

# --- dump and restore ---

my $dir = PostgreSQL::Test::Utils::tempdir;
$primary->command_ok([ 'pg_dump', '-d', $primary->connstr('postgres'), '-f', "$dir/dump.sql" ], 'dump');
sql($primary, 'CREATE DATABASE restored');
$primary->append_conf('postgresql.conf', "evtstore.janitor_interval = 50ms\n");
$primary->reload;
$primary->command_ok([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $primary->connstr('restored'), '-f', "$dir/dump.sql" ], 'restore');
# the scheduler of the copy is there, and lets it alone as long as nobody uses it
worker_pid($primary, 'scheduler', 'restored');
is_same('restored', $primary, 'restored');
goes_on('restored', $primary, 'restored');
poll_sql($primary, q{SELECT count(*) FROM evtstore.events e JOIN evtstore.streams s USING (tenant, stream)
	WHERE e.version < s.truncate_before OR (stream = 'few-2' AND e.version < 3)}, 0, 'restored');
is(sql($primary, q{SELECT string_agg(version::text, ' ' ORDER BY version) FROM evtstore.events WHERE stream = 'all-1'}, 'restored'), '1 2 3 4',
	'restored: when it is used the janitor removes what is gone, and nothing else');

# --- promotion ---

$primary->stop('immediate');
$standby->append_conf('postgresql.conf', "evtstore.janitor_interval = 50ms\n");
$standby->reload;
$standby->promote;
poll_sql($standby, 'SELECT NOT pg_is_in_recovery()');
goes_on('promoted', $standby);
poll_sql($standby, q{SELECT count(*) FROM evtstore.events e JOIN evtstore.streams s USING (tenant, stream)
	WHERE e.version < s.truncate_before OR (stream = 'few-2' AND e.version < 3)}, 0);
pass('promoted: the janitor works');

done_testing();
