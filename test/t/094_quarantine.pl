#
# A handler that makes its worker crash takes the server with it, and would again after each recovery.  The third time within an hour it is
# quarantined, and nobody else is: not a projection that runs beside it, and not one whose worker somebody kills.
#
use strict;
use warnings;

use EvtTest;
use EvtTransport;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nrestart_after_crash = on\nevtstore.poll_interval = 200ms\n");
my $library = PostgreSQL::Test::Utils::tempdir() . '/crasher.so';
chomp(my $include = qx(pg_config --includedir-server));
system('cc', '-O0', '-fPIC', '-shared', "-I$include", '-o', $library, 'test/transport/crasher.c') == 0 or die 'could not build the crasher';

# while the server is in recovery nobody gets in
sub ask
{
	my ($query) = @_;
	my ($out, $err) = ('', '');
	# a psql that cannot connect may be gone before it is given the query, and IPC::Run dies of that
	my $status = eval { $node->psql('postgres', $query, stdout => \$out, stderr => \$err) };

	return defined $status && $status == 0 ? $out : undef;
}

sub wait_until
{
	my ($query, $wanted, $what) = @_;
	my $found;

	eval {
		poll_until($what, sub { $found = ask($query); return defined $found && $found eq $wanted; }, 120);
	};
	return is($found, $wanted, $what);
}

$node->safe_psql('postgres', qq{
	CREATE FUNCTION crash() RETURNS void LANGUAGE c AS '$library', 'crash';
	CREATE FUNCTION overflow() RETURNS int LANGUAGE c AS '$library', 'overflow';
	CREATE FUNCTION overflow_for(d evtstore.delivery) RETURNS void LANGUAGE sql AS 'SELECT overflow()';
	CREATE TABLE seen (n int);
	SELECT evtstore.create_projection('good', '{"Made": "INSERT INTO seen VALUES ((\$1).version)"}')});

# --- a projection ---
$node->safe_psql('postgres', q{
	SELECT evtstore.create_projection('bad', '{"Made": "SELECT crash()"}');
	SELECT evtstore.append('a-1', 'Made', '1')});
wait_until(q{SELECT state FROM evtstore.projection_status WHERE name = 'bad'}, 'quarantined', 'a projection that crashes is quarantined');
my $crashes = () = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /was terminated by signal 11/g;
is($crashes, 3, 'after three crashes');
wait_until('SELECT count(*) FROM seen', 1, 'the one beside it goes on');
is(ask(q{SELECT state FROM evtstore.projection_status WHERE name = 'good'}), 'active', 'and is not blamed');
is(ask(q{SELECT cause || ': ' || fix FROM evtstore.stuck WHERE name = 'bad'}),
	q{quarantined: its handlers made workers crash: SELECT evtstore.resume('bad')}, 'stuck says what to do');
like(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/projection "bad" is quarantined: its handlers made a worker crash 3 times/, 'so does the log');

# --- mended, it goes on ---
$node->safe_psql('postgres', q{CREATE OR REPLACE FUNCTION crash() RETURNS void LANGUAGE sql AS 'INSERT INTO seen VALUES (100)';
	SELECT evtstore.resume('bad')});
wait_until('SELECT count(*) FROM seen WHERE n = 100', 1, 'mended and resumed it applies the event, once');

# --- the function of an endpoint, without a stack to write the mark from ---
$node->safe_psql('postgres', q{
	SELECT evtstore.create_endpoint('deep', 'sql:public.overflow_for');
	SELECT evtstore.create_subscription('deep', endpoint => 'deep')});
wait_until(q{SELECT state FROM evtstore.subscription_status WHERE name = 'deep'}, 'quarantined', 'a stack without end is one, too');

# --- killed from outside ---
$node->safe_psql('postgres', q{
	CREATE TABLE slowly (n int);
	-- sleep: long enough to be found and killed in
	CREATE FUNCTION slow() RETURNS void LANGUAGE sql AS 'INSERT INTO slowly VALUES (1); SELECT pg_sleep(0.5)';
	SELECT evtstore.create_projection('slow', '{"Slow": "SELECT slow()"}');
	SELECT evtstore.append('s-1', 'Slow', '1')});
my $OWED = q{(SELECT count(*) FROM evtstore.events WHERE type = 'Slow') - (SELECT count(*) FROM slowly)};
for my $i (1 .. 4)
{
	my $pid;

	poll_until(
		'a worker in the handler',
		sub {
			$pid = ask(q{SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_type LIKE 'evtstore delivery%' LIMIT 1});
			# the event may be through: another one
			ask(qq{SELECT evtstore.append('s-1', 'Slow', '1') WHERE $OWED = 0}) if !$pid;
			return $pid;
		},
		60);
	kill 'KILL', $pid or die 'no worker to kill';
	poll_until('the server', sub { return defined ask('SELECT 1'); }, 60);
}
wait_until("SELECT $OWED", '0', 'a worker that was killed four times goes on');
is(ask(q{SELECT state FROM evtstore.projection_status WHERE name = 'slow'}), 'active', 'and nobody is blamed');

$node->stop;
done_testing();
