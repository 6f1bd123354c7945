# A copy of a store delivers to nobody until it is told to: file copies, templates, dumps.  A promoted standby is no copy.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', init => { allows_streaming => 1 });

sub got
{
	my ($node, $database) = @_;
	return $node->safe_psql($database // 'postgres', 'SELECT count(*) FROM shop.got');
}

sub wait_got
{
	my ($node, $n, $database) = @_;
	return poll_sql($node, 'SELECT count(*) FROM shop.got', $n, $database);
}

sub delivery_check
{
	my ($node, $database) = @_;
	return $node->safe_psql($database // 'postgres', q{SELECT ok, hint FROM evtstore.health() WHERE check_name = 'delivery'});
}

# Its scheduler has looked, three times, and no delivery worker came; what waits still waits.
sub delivers_nothing
{
	my ($node, $database) = @_;
	my $log = "nothing is delivered from database \"" . ($database // 'postgres') . '"';

	$node->wait_for_log(qr/\Q$log\E/);
	poll_until('three looks of the scheduler', looks($node, $database, 3));
	is($node->safe_psql($database // 'postgres',
			q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore delivery%' AND datname = current_database()}),
		0, 'no delivery worker');
	is($node->safe_psql($database // 'postgres', 'SELECT sum(ready) FROM evtstore.queue_status'), 3, 'what is sent waits');
	like(delivery_check($node, $database), qr/^f\|.*resume_delivery/, 'health() says what to do');
	return;
}

# A condition for poll_until: the scheduler came out of its sleep n times since now.
sub looks
{
	my ($node, $database, $n) = @_;
	my $seen = '';

	return sub {
		my $now = $node->safe_psql($database // 'postgres',
			q{SELECT query_start FROM pg_stat_activity WHERE backend_type = 'evtstore scheduler' AND datname = current_database()});
		return 0 if $now eq '' || $now eq $seen;
		$seen = $now;
		return --$n <= 0;
	};
}

sub send_three
{
	my ($node, $database) = @_;
	return $node->safe_psql($database // 'postgres', q{SELECT evtstore.send('orders', jsonb_build_object('n', n)) FROM generate_series(1, 3) n});
}

is(delivery_check($primary), 't|', 'a store without definitions has nothing to deliver');
is($primary->safe_psql('postgres', 'SELECT count(*) FROM evtstore_internal.identity'), 0, 'and names no place');
$primary->safe_psql('postgres', <<'EOS');
	CREATE SCHEMA shop;
	CREATE TABLE shop.got (at timestamptz DEFAULT clock_timestamp(), d jsonb);
	CREATE FUNCTION shop.take(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ INSERT INTO shop.got (d) VALUES (d.body) $$;
	SELECT evtstore.create_endpoint('shop', 'sql:shop.take');
	SELECT evtstore.create_queue('orders', '{"endpoint": "shop"}');
	SELECT evtstore.append('cart-1', 'Opened', '{}') FROM generate_series(1, 5);
EOS
send_three($primary);
wait_got($primary, 3);
poll_sql($primary, 'SELECT max(position) = evtstore.head_position() FROM evtstore_internal.head');
is(delivery_check($primary), 't|', 'the original delivers');
my $position = $primary->safe_psql('postgres', 'SELECT evtstore.head_position()');

# --- a template ---

$primary->safe_psql('postgres', 'CREATE DATABASE original');
$primary->safe_psql('postgres', 'CREATE DATABASE twin TEMPLATE postgres');
send_three($primary, 'twin');
delivers_nothing($primary, 'twin');
is(got($primary, 'twin'), 3, 'a template copy delivered nothing');
$primary->safe_psql('twin', 'SELECT evtstore.resume_delivery()');
wait_got($primary, 6, 'twin');
ok(1, 'resume_delivery() goes on');
is(delivery_check($primary, 'twin'), 't|', 'and health() is content');
send_three($primary);
wait_got($primary, 6);
ok(1, 'the original goes on as well');

# --- dump and restore ---

$primary->safe_psql('postgres', q{ALTER DATABASE postgres SET evtstore.enabled = off});
poll_sql($primary, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^evtstore (delivery|scheduler)' AND datname = current_database()}, '0');
send_three($primary);
my $dump = "$PostgreSQL::Test::Utils::tmp_check/store.dump";
$primary->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $primary->connstr('postgres') ], 'pg_dump');
# as pg_upgrade and careful people do: nothing but the store itself
my $other = new_node('other', extension => 0, conf => "evtstore.poll_interval = '20ms'\n");
$other->command_ok([ 'pg_restore', '--exit-on-error', '-d', $other->connstr('postgres'), $dump ],
	'pg_restore, with a scheduler that looks fifty times a second meanwhile');
delivers_nothing($other);
is(got($other), 6, 'the restore delivered nothing');
is($other->safe_psql('postgres', q{SELECT evtstore.stream_version('cart-1'), count(*), max(position) <= evtstore.head_position()
	FROM evtstore.read_all()}), '5|5|t', 'the events are there, and the head covers them');
cmp_ok($other->safe_psql('postgres', q{SELECT position FROM evtstore.append('cart-1', 'Closed', '{}', expected_version => 5)}),
	'>', $position, 'appends go on above them');
$other->safe_psql('postgres', 'SELECT evtstore.resume_delivery()');
wait_got($other, 9);
ok(1, 'resume_delivery() goes on');

# into a database of the same cluster
$primary->command_ok([ 'pg_restore', '--exit-on-error', '-d', $primary->connstr('original'), $dump ], 'pg_restore beside the original');
delivers_nothing($primary, 'original');
$primary->safe_psql('postgres', 'DROP DATABASE original');
$primary->safe_psql('postgres', 'DROP DATABASE twin');
$primary->safe_psql('postgres', q{ALTER DATABASE postgres RESET evtstore.enabled});
wait_got($primary, 9);
$other->stop;

# --- a standby, promoted ---

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore%'}), 0,
	'nothing of ours runs on a standby');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM evtstore.health() WHERE NOT ok}), 0, 'health() of a standby');
$primary->safe_psql('postgres', q{SELECT evtstore.send('orders', jsonb_build_object('n', n), delay => '1 hour') FROM generate_series(1, 3) n});
$primary->wait_for_catchup($standby, 'replay');

# --- a file copy, beside the original ---

$primary->stop;
my $backup = $primary->backup_fs_cold('cold');
my $files  = PostgreSQL::Test::Cluster->new('files');
$files->init_from_backup($primary, 'cold');
$files->append_conf('postgresql.conf', "evtstore.clock_offset = 7200\n");
$files->start;
delivers_nothing($files);
is(got($files), 9, 'a file copy delivered nothing');
$files->safe_psql('postgres', 'SELECT evtstore.resume_delivery()');
wait_got($files, 12);
ok(1, 'resume_delivery() goes on');
$files->stop;

$standby->append_conf('postgresql.conf', "evtstore.clock_offset = 7200\n");
$standby->reload;
$standby->promote;
wait_got($standby, 12);
ok(1, 'a promoted standby delivers by itself');
is(delivery_check($standby), 't|', 'and is content');
like(slurp_file($standby->logfile), qr/this server was promoted: the event store delivers from/, 'the log says so');
$standby->restart;
send_three($standby);
poll_sql($standby, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evtstore delivery%'}, '2');
ok(1, 'also after a restart');
$standby->stop;

# moved: the same files at another place are not known to be the only ones
$primary->start;
is(delivery_check($primary), 't|', 'the original, started again where it was, delivers');
$primary->stop;

done_testing();
