# Ids of messages come out of blocks in shared memory: they grow over all sessions, and within a key in the order of commits,
# whoever finds the block used up; each database has its own; a crash loses the block, and no id is given twice.
use strict;
use warnings;

use EvtTest;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nevtstore.enabled = off\n");

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]) }

sql(q{SELECT evtstore.create_queue('work')});
is(sql(q{SELECT evtstore.send('work', '1'), evtstore.send('work', '2')}), '1|2', 'the first ids');
sql('CREATE DATABASE other');
sql(q{CREATE EXTENSION evtstore; SELECT evtstore.create_queue('work')}, 'other');
is(sql(q{SELECT evtstore.send('work', '1')}, 'other'), 1, 'another database has its own');
cmp_ok(my $id = sql(q{SELECT evtstore.send('work', '3')}), '>', 2, 'and takes none of this one');

# in turns, over the ends of blocks
my @sessions = map { session($node) } 1 .. 3;
my @ids = map { $sessions[ $_ % 3 ]->query_safe(q{SELECT max(id) FROM unnest(evtstore.send_batch('work', array_fill('1'::jsonb, ARRAY[300]))) id}) } 1 .. 12;
is("@ids", join(' ', map { $id + 300 * $_ } 1 .. 12), 'sessions take turns within and over blocks, and lose none');
$_->quit foreach @sessions;

# at once: the log is written under the lock of the key
sql('CREATE TABLE gave (n bigserial, key text, id bigint)');
my $script = $node->basedir . '/keys.sql';
open my $out, '>', $script or die "$script: $!";
print $out <<'SQL';
\set k random(1, 3)
BEGIN;
SELECT evtstore.send('work', '1', key => :k::text) AS id \gset
INSERT INTO gave (key, id) VALUES (:k, :id);
INSERT INTO gave (key, id) SELECT 'none', unnest(evtstore.send_batch('work', array_fill('1'::jsonb, ARRAY[50])));
COMMIT;
SQL
close $out;
$node->command_ok([ 'pgbench', '-n', '-c', 6, '-t', 100, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ], 'senders at once');
is(sql('SELECT count(*), count(DISTINCT id) FROM gave'), '30600|30600', 'no id twice');
is(sql(q{SELECT count(*) FROM (SELECT id < lag(id) OVER (PARTITION BY key ORDER BY n) AS back FROM gave WHERE key <> 'none') g WHERE back}),
	0, 'within a key ids grow in the order of its lock');

my $last = sql('SELECT max(id) FROM gave');
$node->stop('immediate');
$node->start;
cmp_ok(sql(q{SELECT evtstore.send('work', '1')}), '>', $last, 'after a crash they go on behind all that were given');
sql(q{DROP EXTENSION evtstore CASCADE; CREATE EXTENSION evtstore; SELECT evtstore.create_queue('work')});
is(sql(q{SELECT evtstore.send('work', '1')}), 1, 'a new store begins anew');

done_testing();
