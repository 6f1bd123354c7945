# What a crash leaves of a worker's turn with a projection, and of the end of a rebuild: a debugger stops the worker in the middle of it,
# and then it is killed, or the server is stopped at once.  "What a kill leaves" of docs/architecture-projections.md.
#
# Of a turn nothing is there before the commit record, and with it effects and place.  Of the end of a rebuild: before the record the
# projection has its old tables, and the rebuild ends later; with the record the new ones, and no file is left that belongs to nothing.
use strict;
use warnings;

use EvtGdb;
use EvtTest;
use Test::More;
use Time::HiRes qw(time);

my $node = new_node('main', conf => "log_statement = none\nrestart_after_crash = on\nevtstore.rebuild_workers = 1\nevtstore.delivery_workers = 1\nevtstore.poll_interval = 200ms\nautovacuum = off\n");
EvtGdb::require_gdb($node);

sub sql { return $node->safe_psql('postgres', shift) }

sql(q{CREATE TABLE bought (customer text PRIMARY KEY, n int, big text);
	CREATE TABLE line (customer text REFERENCES bought, position bigint PRIMARY KEY);
	ALTER TABLE bought ALTER big SET STORAGE EXTERNAL;
	CREATE INDEX ON bought (n);
	CREATE VIEW summary AS SELECT b.customer, b.n, length(b.big) AS big, count(*) AS lines FROM bought b JOIN line USING (customer) GROUP BY 1, 2, 3;
	CREATE EXTENSION amcheck});
sql(q{SELECT evtstore.append('sale-' || i, 'Bought', jsonb_build_object('customer', 'c' || i % 10)) FROM generate_series(1, 100) i});

sub create
{
	my ($factor) = @_;

	return sql(qq{SELECT evtstore.create_projection('bought', jsonb_build_object('Bought', \$\$
		WITH b AS (INSERT INTO bought AS b VALUES ((\$1).data->>'customer', $factor, repeat('x', 5000 + $factor)) ON CONFLICT (customer) DO UPDATE SET n = b.n + $factor, big = EXCLUDED.big)
		INSERT INTO line VALUES ((\$1).data->>'customer', (\$1).position)\$\$))});
}

sub contents { return sql(q{SELECT string_agg(format('%s %s %s %s', customer, n, big, lines), ', ' ORDER BY customer) FROM summary}) }

# all customers have been ten times: what one version makes of it
sub made_by
{
	my ($factor) = @_;

	return join ', ', map { sprintf 'c%d %d %d 10', $_, 10 * $factor, 5000 + $factor } 0 .. 9;
}

sub stray_files
{
	sql('CHECKPOINT');
	return sql(q{SELECT string_agg(f, ' ') FROM pg_database d, pg_ls_dir('base/' || d.oid) f
		WHERE d.datname = 'postgres' AND f ~ '^[0-9]+$' AND NOT EXISTS (SELECT FROM pg_class c WHERE pg_relation_filenode(c.oid) = f::oid)});
}

sub is_sound
{
	my ($at) = @_;

	is(sql(q{SELECT count(bt_index_check(i.indexrelid, true)) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname IN ('bought', 'line')}), 3, "$at: indexes are sound");
	is(sql(q{SELECT count(*) FROM verify_heapam('bought', check_toast => true)}), 0, "$at: the table and its toast table are sound");
	return is(stray_files(), '', "$at: no file is left over");
}

my $factor = 1;
create($factor);
sql(q{CALL evtstore.wait_for('bought', evtstore.head_position(), '60s')});
is(contents(), made_by($factor), 'the first version');

my $turn = 0;
foreach my $place ('es_table_swap', 'after es_table_swap', 'after es_table_swap_index', 'es_shadow_drop', 'es_table_swap_name_toast', 'after es_subscription_take_place',
	'after es_definition_replace', 'XactLogCommitRecord', 'TransactionIdCommitTree')
{
	my ($after, $function) = $place =~ /^(after )?(\w+)$/;
	my $how  = $turn++ % 2 ? 'stop' : 'kill';
	my $at   = "$place, $how";
	# who reads the table keeps the worker from the end
	my $lock = session($node);

	$lock->query_safe('BEGIN; SELECT count(*) FROM bought');
	create($factor + 1);
	poll_until('the rebuild to be level', sub { sql(q{SELECT rebuild_progress >= 1 FROM evtstore.projection_status}) eq 't' });
	my $gdb = EvtGdb->attach(worker_pid($node, 'rebuild'), $function, after => $after);
	$lock->query_safe('COMMIT');
	$lock->quit;
	$gdb->wait_until_stopped;
	if ($how eq 'kill')
	{
		$gdb->kill;
		poll_sql($node, 'SELECT true');
	}
	else
	{
		$gdb->stop_server($node);
		$node->append_conf('postgresql.conf', 'evtstore.rebuild_workers = 0');
		$node->start;
	}
	my $has = contents();
	ok($has eq made_by($factor) || $how eq 'kill' && $has eq made_by($factor + 1), "$at: the old version is there") if $function ne 'TransactionIdCommitTree';
	is($has, made_by($factor + 1), "$at: the new version is there") if $function eq 'TransactionIdCommitTree';
	if ($how eq 'stop')
	{
		is_sound("$at, before it goes on");
		$node->append_conf('postgresql.conf', 'evtstore.rebuild_workers = 1');
		$node->reload;
	}
	poll_until('the rebuild to end', sub { sql(q{SELECT rebuild_progress IS NULL FROM evtstore.projection_status}) eq 't' });
	$factor++;
	is(contents(), made_by($factor), "$at: in the end the new version is there");
	is_sound($at);
}

# --- the projection's own worker, which has looked up its handlers when they are replaced ---

my $lock = session($node);
$lock->query_safe('BEGIN; SELECT count(*) FROM bought');
create($factor + 1);
poll_until('the rebuild to be level', sub { sql(q{SELECT rebuild_progress >= 1 FROM evtstore.projection_status}) eq 't' });
# one worker, so that it is the one that stops
is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore delivery%'}), 1, 'one delivery worker');
my $gdb = EvtGdb->attach(worker_pid($node, 'delivery'), 'es_projection_by_id', after => 1);
sql(q{SELECT evtstore.append('sale-1', 'Bought', '{"customer": "c1"}')});
$gdb->wait_until_stopped;
$lock->query_safe('COMMIT');
$lock->quit;
# if the end did not wait for the worker, it would be over now
my $deadline = time + 2;
while (time < $deadline && sql(q{SELECT rebuild_progress IS NULL FROM evtstore.projection_status}) eq 'f')
{
	select undef, undef, undef, 0.05;    # sleep: between two looks
}
$gdb->let_go;
poll_until('the rebuild to end', sub { sql(q{SELECT rebuild_progress IS NULL FROM evtstore.projection_status}) eq 't' });
$factor++;
sql(q{CALL evtstore.wait_for('bought', evtstore.head_position(), '60s')});
is(sql(q{SELECT n FROM summary WHERE customer = 'c1'}), 11 * $factor, 'no event is applied by the old handlers to the new table');

# --- a turn: effects, acknowledgement, commit ---

# the only projection: after a crash positions leap, and another one would write that it has passed them
sql(q{SELECT evtstore.drop_projection('bought');
	CREATE TABLE noted (n serial, position bigint);
	SELECT evtstore.create_projection('noted', '{"Noted": "INSERT INTO noted (position) VALUES (($1).position)"}')});
my $noted = q{SELECT count(*), count(DISTINCT position) FROM noted};
my $events = 0;
foreach my $place ('es_apply_end', 'es_subscription_settle', 'after es_checkpoint_write', 'XactLogCommitRecord')
{
	my ($after, $function) = $place =~ /^(after )?(\w+)$/;
	my $how = $turn++ % 2 ? 'stop' : 'kill';
	my $at  = "$place, $how";

	poll_until('a worker that is idle', sub { sql(q{SELECT count(*) FROM evtstore.workers WHERE kind LIKE '%delivery%' AND state = 'idle'}) == 1 });
	my $gdb = EvtGdb->attach(worker_pid($node, 'delivery'), $function, after => $after);
	sql(q{SELECT evtstore.append_events('note-1', '[{"type": "Noted", "data": 1}, {"type": "Noted", "data": 2}]')});
	$gdb->wait_until_stopped;
	if ($how eq 'kill')
	{
		$gdb->kill;
		poll_sql($node, 'SELECT true');
	}
	else
	{
		$gdb->stop_server($node);
		$node->append_conf('postgresql.conf', 'evtstore.delivery_workers = 0');
		$node->start;
		is(sql($noted), "$events|$events", "$at: nothing of the turn is there");
		$node->append_conf('postgresql.conf', 'evtstore.delivery_workers = 1');
		$node->restart;
	}
	$events += 2;
	sql(q{CALL evtstore.wait_for('noted', evtstore.head_position(), '60s')});
	is(sql($noted), "$events|$events", "$at: in the end each event once");
}
# with the record
{
	my $at = 'TransactionIdCommitTree, stop';

	poll_until('a worker that is idle', sub { sql(q{SELECT count(*) FROM evtstore.workers WHERE kind LIKE '%delivery%' AND state = 'idle'}) == 1 });
	my $gdb = EvtGdb->attach(worker_pid($node, 'delivery'), 'TransactionIdCommitTree');
	sql(q{SELECT evtstore.append('note-1', 'Noted', '3')});
	$gdb->wait_until_stopped;
	$gdb->stop_server($node);
	$node->append_conf('postgresql.conf', 'evtstore.delivery_workers = 0');
	$node->start;
	$events++;
	is(sql($noted), "$events|$events", "$at: all of the turn is there");
	$node->append_conf('postgresql.conf', 'evtstore.delivery_workers = 1');
	$node->restart;
	sql(q{CALL evtstore.wait_for('noted', evtstore.head_position(), '60s')});
	is(sql($noted), "$events|$events", "$at: and comes once");
	sql(q{SELECT evtstore.drop_projection('noted')});
}

done_testing();
