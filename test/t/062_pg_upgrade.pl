# pg_upgrade: the files of a store move to another cluster, with the same events, tags and versions; the feed goes on above all
# positions that were given out, conditions know the old events, and no handler runs nor is anything delivered on the way.
# Feed case 22.  From one server to the same: what is tested is what our objects do in it, and that is the same between two.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = "log_statement = none\n";
my $old  = new_node('old', conf => $conf);
my $new  = new_node('new', conf => $conf, start => 0);

sub sql
{
	my ($node, $sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sql($old, q{
	CREATE TABLE fired (what text);
	CREATE FUNCTION deliver(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ INSERT INTO fired (what) VALUES ('delivered') $$;
	CREATE TABLE seen (position bigint);
	SELECT evtstore.create_projection('seen', '{"*": "INSERT INTO seen VALUES (($1).position)"}', 'sync');
	SELECT evtstore.create_endpoint('e', 'sql:public.deliver');
	SELECT evtstore.create_queue('kept');
	SELECT evtstore.create_rule('kept', '{"categories": ["a"]}', 'queue:kept');
	CREATE TABLE settled (position bigint PRIMARY KEY);
	CREATE FUNCTION consume(max_count int) RETURNS bigint LANGUAGE sql AS $$
		WITH d AS MATERIALIZED (SELECT * FROM evtstore.poll('follow', 'c', max_count)), s AS (INSERT INTO settled SELECT position FROM d)
		SELECT count(evtstore.ack(receipt)) FROM d $$;
	SELECT evtstore.create_subscription('follow', '{"items": [{"types": ["T1"]}, {"tags": ["free"]}]}', lanes => 3);
	SELECT count(*) FROM generate_series(1, 300) n, evtstore.append('a-' || n % 7, 'T' || n % 3, jsonb_build_object('n', n), tags => ARRAY['t' || n % 5]);
	SELECT count(*) FROM evtstore.append_if('[{"type": "Free", "data": 1, "tags": ["free"], "id": "00000000-0000-7000-8000-000000000001"}]', '{"items": [{"tags": ["free"]}]}');
	SELECT consume(40);
	BEGIN; SELECT FROM evtstore.append_events('a-1', (SELECT jsonb_agg('{"type": "T", "data": 1}'::jsonb) FROM generate_series(1, 100))); ROLLBACK;
	SET evtstore.tenant = 'acme';
	SELECT FROM evtstore.append('a-1', 'T', '1', tags => '{free}');
});
# numbers of transactions of the old cluster are kept by pg_upgrade; some more, so that the two differ
sql($old, 'DO $$ BEGIN FOR n IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');

my %facts = (
	events   => q{SELECT md5(string_agg(e::text, E'\n' ORDER BY position)) FROM evtstore.events e},
	postings => q{SELECT count(*), md5(string_agg(t::text, E'\n' ORDER BY tag_hash, position)) FROM evtstore_internal.event_tag t},
	streams  => q{SELECT md5(string_agg(s::text, E'\n' ORDER BY tenant, stream)) FROM evtstore.streams s},
	category => q{SELECT count(*), max(position) FROM evtstore.read_category('a')},
	all      => q{SELECT count(*), max(position) FROM evtstore.read_all()},
	tag      => q{SELECT count(*), max(position) FROM evtstore.read_query('{"items": [{"types": ["T1"], "tags": ["t2"]}]}')},
	seen     => 'SELECT count(*), max(position) FROM seen',
	consumed => 'SELECT position, (SELECT count(*) FROM settled) FROM evtstore.subscription_status',
	queues   => 'SELECT name, ready, dead FROM evtstore.queue_status ORDER BY name',
	fired    => 'SELECT count(*) FROM fired');
my %before = map { $_ => sql($old, $facts{$_}) } keys %facts;
like($before{all}, qr/^302\|/, 'the old store has its events');
my $last = last_position($old);
my $oid  = sql($old, q{SELECT oid FROM pg_database WHERE datname = 'postgres'});
$old->stop;

# it leaves a script in the folder where it runs
chdir PostgreSQL::Test::Utils::tempdir;
my $bindir = $old->config_data('--bindir');
my @command = (
	$new->installed_command('pg_upgrade'), '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bindir, '-B', $bindir,
	'-s', $new->host, '-p', $old->port, '-P', $new->port, '-U', 'postgres');
command_ok([ @command, '--check' ], 'pg_upgrade finds nothing in the way');
command_ok([@command], 'and upgrades');
$new->start;

foreach my $fact (sort keys %facts)
{
	is(sql($new, $facts{$fact}), $before{$fact}, "the same: $fact");
}
is(store_faults($new), '', 'the store is whole');
cmp_ok(sql($new, 'SELECT evtstore.head_position()'), '>=', (split /\|/, $before{all})[1], 'the head covers it');
my $slow = session($new);
$slow->query_safe('BEGIN');
cmp_ok($slow->query_safe(q{SELECT position FROM evtstore.append('a-1', 'T', '"slow"', 43)}), '>', $last, 'positions go on above the last');
sql($new, q{SELECT FROM evtstore.append('b-1', 'T', '"fast"', 0)});
is(sql($new, "SELECT count(*) FROM evtstore.read_all($last)"), 0, 'the feed waits for the first append');
$slow->query_safe('COMMIT');
$slow->quit;
is(sql($new, qq{SELECT string_agg(data #>> '{}', ' ' ORDER BY position) FROM evtstore.read_all($last)}), 'slow fast', 'and gives both');
is(sqlstate($new, q{SELECT evtstore.append_if('[{"type": "T", "data": 1}]', '{"items": [{"types": ["Free"], "tags": ["free"]}]}')}), 'ST003', 'conditions know the old events');
is(sqlstate($new, q{SELECT evtstore.append_if('[{"type": "T", "data": 1}]', '{"items": [{"types": ["Free"], "tags": ["t1"]}]}')}), '00000', 'and only those that match');
is(sql($new, q{SELECT duplicate FROM evtstore.append_if('[{"type": "Free", "data": 1, "tags": ["free"], "id": "00000000-0000-7000-8000-000000000001"}]', '{}')}), 't', 'ids are known');
is(sql($new, 'SELECT consume(1000), count(*) FROM settled'), '61|40', 'a subscription goes on from its checkpoints');
is(sql($new, 'SELECT consume(1000), count(*) FROM settled'), '0|101', 'each event once');
is(sql($new, 'SELECT count(*) FROM fired'), 0, 'nothing was delivered');
is(store_faults($new), '', 'the store is whole afterwards');

done_testing();
