# Commands that the server refuses while anybody is connected to a database find no worker of ours, in a database whose
# workers are busy; afterwards the workers are back, or gone for good with the database.
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', extension => 0, conf => "max_prepared_transactions = 2\n");

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# Processes of ours in a database, as pid lists; database by oid, because names change here.
sub workers_of
{
	my ($oid, $kind) = @_;
	return sql("SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity WHERE datid = $oid"
		  . " AND backend_type LIKE 'evtstore " . ($kind // '%') . "'");
}

sub oid_of
{
	my $name = shift;
	return sql("SELECT oid FROM pg_database WHERE datname = '$name'");
}

sub wait_busy
{
	my $database = shift;
	my $oid      = oid_of($database);
	poll_until("workers in $database", sub { return split(/,/, workers_of($oid)) == 3 });
	poll_sql($node, 'SELECT count(*) > 20 FROM shop.got', 't', $database);
	return $oid;
}

# A database with a store whose workers never run dry: each message delivered sends the next two until there are enough.
sub make_busy
{
	my $database = shift;

	sql("CREATE DATABASE $database");
	sql(<<'EOS', $database);
		CREATE EXTENSION evtstore;
		CREATE SCHEMA shop;
		CREATE TABLE shop.got (at timestamptz DEFAULT clock_timestamp(), n int);
		CREATE FUNCTION shop.take(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO shop.got (n) VALUES ((d.body->>'n')::int);
			PERFORM evtstore.send('orders', d.body);
		END $$;
		SELECT evtstore.create_endpoint('shop', 'sql:shop.take');
		SELECT evtstore.create_queue('orders', '{"endpoint": "shop"}');
		SELECT evtstore.send('orders', jsonb_build_object('n', n)) FROM generate_series(1, 20) n;
EOS
	return wait_busy($database);
}

# Delivery goes on: more is delivered than now.
sub goes_on
{
	my $database = shift;
	my $now      = sql('SELECT count(*) FROM shop.got', $database);
	poll_sql($node, "SELECT count(*) > $now FROM shop.got", 't', $database);
	return 1;
}

# The statement passes, the first time it is tried, on a database whose workers are busy.
sub passes
{
	my ($statement, $what) = @_;
	return is(sqlstate($node, $statement), '00000', $what // $statement);
}

# --- RENAME, SET TABLESPACE, TEMPLATE ---

my $shop = make_busy('shop');
passes('ALTER DATABASE shop RENAME TO store');
ok(goes_on('store'), 'delivery goes on under the new name');
wait_busy('store');
like(sql("SELECT string_agg(application_name, ',') FROM pg_stat_activity WHERE datid = $shop AND backend_type LIKE 'evtstore delivery%'"),
	qr{ store/}, 'which the workers show');

my $folder = PostgreSQL::Test::Utils::tempdir();
sql("CREATE TABLESPACE elsewhere LOCATION '$folder'");
passes('ALTER DATABASE store SET TABLESPACE elsewhere');
ok(goes_on('store'), 'delivery goes on in the new place');
wait_busy('store');
passes('ALTER DATABASE store SET TABLESPACE pg_default');
wait_busy('store');

passes('CREATE DATABASE copy TEMPLATE store');
ok(goes_on('store'), 'delivery goes on in the template');
my $copy = oid_of('copy');
poll_until('a scheduler in the copy', sub { workers_of($copy, 'scheduler') });
is(workers_of($copy, 'delivery%'), '', 'the copy has a scheduler, but no delivery worker');
is(sql(q{SELECT ok FROM evtstore.health() WHERE check_name = 'delivery'}, 'copy'), 'f', 'health() of the copy says so');
passes('CREATE DATABASE copy_file TEMPLATE store STRATEGY file_copy');

my $delivered = sql('SELECT count(*) FROM shop.got', 'copy');
goes_on('store');
is(sql('SELECT count(*) FROM shop.got', 'copy'), $delivered, 'and delivers nothing');
sql('SELECT evtstore.resume_delivery()', 'copy');
ok(goes_on('copy'), 'until resume_delivery()');
# copying a template while another session does the same
my $session = session($node);
$session->query_until(qr/begun/, "\\echo begun\nCREATE DATABASE copy2 TEMPLATE store;\n");
passes('CREATE DATABASE copy3 TEMPLATE store', 'two copies at a time');
$session->quit;
ok(goes_on('store'), 'delivery goes on');

# --- commands that fail, or are not allowed ---

wait_busy('store');
is(sqlstate($node, 'ALTER DATABASE store RENAME TO copy'), '42P04', 'RENAME to a name that is taken');
ok(goes_on('store'), 'a command that failed: the workers are back');
is(sqlstate($node, q{DO $$ BEGIN ALTER DATABASE store RENAME TO copy; EXCEPTION WHEN duplicate_database THEN NULL; END $$}),
	'00000', 'the same, caught');
is(sqlstate($node, 'BEGIN; ALTER DATABASE store RENAME TO other; ROLLBACK'), '00000', 'RENAME rolled back');
ok(goes_on('store'), 'the workers are back');
wait_busy('store');

sql('CREATE ROLE stranger LOGIN CREATEDB');
my $before = workers_of($shop);
foreach my $statement (
	'DROP DATABASE store',
	'CREATE DATABASE mine TEMPLATE store',
	'ALTER DATABASE store RENAME TO mine',
	'ALTER DATABASE store SET TABLESPACE elsewhere')
{
	my ($out, $err) = ('', '');
	$node->psql('postgres', $statement, stderr => \$err, extra_params => [ '-U', 'stranger', '-v', 'VERBOSITY=sqlstate' ]);
	like($err, qr/42501/, "a stranger's $statement is refused");
}
is(workers_of($shop), $before, 'and stops nobody');
is(sqlstate($node, 'BEGIN; DROP DATABASE store'), '25001', 'DROP DATABASE in a transaction block is refused');
is(workers_of($shop), $before, 'and stops nobody');

# somebody else is connected: the server waits for some seconds, with our workers kept out; then the session is ended
my $other   = session($node, 'store');
my $dropper = session($node);
$dropper->query_until(qr/begun/, "\\echo begun\nDROP DATABASE store;\n");
poll_until('our workers to be gone', sub { workers_of($shop) eq '' });
is($other->query_safe(q{SELECT count(*) FROM evtstore.health() WHERE check_name = 'workers' AND detail ~ 'wants nobody connected'}),
	1, 'health() says who keeps them out');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DROP DATABASE store%' AND pid <> pg_backend_pid()});
ok(goes_on('store'), 'the session that wanted nobody was terminated: the workers are back');
$other->quit;
eval { $dropper->quit };

# --- settings of a database ---

passes('ALTER DATABASE store IS_TEMPLATE true');
poll_until('the workers to leave a template', sub { workers_of($shop) eq '' });
ok(1, 'a database that becomes a template loses its workers');
passes('ALTER DATABASE store IS_TEMPLATE false');
wait_busy('store');
ok(1, 'and gets them back');
sql("ALTER DATABASE store SET default_transaction_read_only = on; ALTER DATABASE store SET default_transaction_isolation = serializable;"
	  . " ALTER DATABASE store SET evtstore.tenant = 'someone'; ALTER DATABASE store SET lock_timeout = 1");
ok(goes_on('store'), 'settings of the database that would stop a worker do not reach it');
sql('ALTER DATABASE store RESET ALL');
is(sqlstate($node, q{BEGIN; ALTER DATABASE postgres SET work_mem = '4MB'; PREPARE TRANSACTION 'p'}), '0A000',
	'a prepared transaction that concerns the workers is refused');
is(sqlstate($node, q{BEGIN; CREATE TABLE unrelated (); PREPARE TRANSACTION 'p'}), '00000', 'another is not');
sql(q{ROLLBACK PREPARED 'p'});

# --- DROP DATABASE ---

my $log = -s $node->logfile;
passes("DROP DATABASE $_", "DROP DATABASE $_, busy") foreach qw(store copy);
passes('DROP DATABASE copy_file WITH (FORCE)');
passes("DROP DATABASE $_") foreach qw(copy2 copy3);
is(sql('SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND datid NOT IN (SELECT oid FROM pg_database)'), 0, 'nobody is left');

# a database of the same name later: nothing of the old one is remembered
make_busy('store');
ok(1, 'a database of the same name starts anew');
passes('DROP DATABASE store');

# the launcher has looked since; a scheduler for what is gone would have failed aloud
my $launcher = worker_pid($node, 'launcher');
sql("CREATE DATABASE probe");
poll_sql($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evtstore scheduler'", '0');
unlike(slurp_file($node->logfile, $log), qr/FATAL:  database .* does not exist/, 'no worker was started for a database that is gone');
is(worker_pid($node, 'launcher'), $launcher, 'the launcher is the one it was');

$node->stop;
done_testing();
