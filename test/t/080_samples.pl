# The workers of docs/samples do what docs/workers.md says of them: a process that is killed in the middle of a transaction, a
# connection that breaks there or while it sleeps, and an entry that nobody can handle cost nothing but time.  In the end each
# message and event has had its effect once, in the order of its key, but for the ones that fail, which are dead letters; and
# SIGTERM ends a worker at once, with 0.
#
# Each language has a database of its own.  Python and Node are connected through PgBouncer in transaction mode.  What is
# missing on this machine is skipped, see test/setup/packages.
use strict;
use warnings;

use EvtTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $samples   = test_tree() . '/docs/samples';
my $libraries = '/var/cache/evtstore-clients/usr/share';
my $built     = PostgreSQL::Test::Utils::tempdir;
# within this time a worker that was told to has ended; its wait_for_work would last for half a minute
my $PROMPT = 10;
# Entries of each kind that nobody can handle.  Others of their keys come right behind them, in one batch.  The first one has
# three attempts, the second one a single one.
my @POISON = (3, 62, 73);
my $fine   = sprintf q{i <> ALL ('{%s}')}, join ',', @POISON;

sub fine { return grep { my $i = $_; !grep { $_ == $i } @POISON } $_[0] .. $_[1] }

$ENV{PATH} .= ':/usr/sbin';
$ENV{NODE_PATH} = "$libraries/nodejs";

# whether there is such a command and it ends with 0
sub succeeds
{
	my @command = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/samples_tools.log";

	return system('sh', '-c', 'out=$1; shift; "$@" >>"$out" 2>&1 </dev/null', 'sh', $log, @command) == 0;
}

sub builds
{
	local %ENV = (%ENV, GO111MODULE => 'off', GOPATH => "$libraries/gocode", GOCACHE => "$built/cache", GOFLAGS => '');

	return 'no go-12 (package gccgo-12)' unless succeeds('go-12', 'version');
	return "no pgx in $libraries"        unless -d "$libraries/gocode";
	foreach (qw(receive poll))
	{
		ok(succeeds('go-12', 'build', '-o', "$built/$_", "$samples/$_.go"), "$_.go compiles") or return 'it does not compile';
	}
	return '';
}

# name, how a sample is started, whether through PgBouncer; why not
my $python = '/usr/bin/python3';
my @languages = (
	{
		name    => 'python',
		pooled  => 1,
		command => sub { ($python, "$samples/$_[0].py") },
		missing => succeeds($python, '-c', 'import psycopg.rows') ? '' : 'no psycopg (package python3-psycopg)'
	},
	{
		name    => 'node',
		pooled  => 1,
		command => sub { ('node', "$samples/$_[0].js") },
		missing => succeeds('node', '-e', q{require('pg')}) ? '' : "no node, or no pg in $libraries"
	},
	{ name => 'go',    command => sub { ("$built/$_[0]") },     missing => builds() },
	{ name => 'shell', command => sub { ("$samples/$_[0].sh") }, missing => '' });
my @here = grep { !$_->{missing} } @languages;

my $node = new_node('main', conf => "log_statement = none\nmax_connections = 60\nevtstore.enabled = off\n");

# --- processes ---

my %pid;
my $main = $$;

END
{
	my $status = $?;
	kill 'KILL', map { -$_ } values %pid if defined $main && $$ == $main;
	$? = $status;
}

# in a process group of its own
sub start_process
{
	my ($name, $out, @command) = @_;
	my $pid = fork;

	die "fork: $!" unless defined $pid;
	if (!$pid)
	{
		setpgrp 0, 0;
		open STDIN,  '<',  '/dev/null' or POSIX::_exit(126);
		open STDOUT, '>>', $out        or POSIX::_exit(126);
		open STDERR, '>>', "$PostgreSQL::Test::Utils::log_path/samples_$name.log" or POSIX::_exit(126);
		exec @command or POSIX::_exit(127);
	}
	$pid{$name} = $pid;
	return;
}

# how a process ended that was told to, or has been killed
sub end_of
{
	my $name = shift;

	poll_until("the end of $name", sub { waitpid($pid{$name}, POSIX::WNOHANG()) == $pid{$name} });
	# what the shell left behind
	kill 'KILL', -delete $pid{$name};
	return $?;
}

# --- PgBouncer ---

my %pool = (host => PostgreSQL::Test::Utils::tempdir_short, port => PostgreSQL::Test::Cluster::get_free_port());
my $pooled = succeeds('pgbouncer', '--version');

sub start_pgbouncer
{
	my ($host, $port) = ($node->host, $node->port);
	my $file = "$PostgreSQL::Test::Utils::tmp_check/pgbouncer.ini";

	append_to_file("$file.users", qq{"shop_worker" ""\n"postgres" ""\n});
	append_to_file($file, <<"END");
[databases]
* = host=$host port=$port
[pgbouncer]
pool_mode = transaction
auth_type = trust
auth_file = $file.users
admin_users = postgres
unix_socket_dir = $pool{host}
listen_port = $pool{port}
default_pool_size = 10
END
	start_process('pgbouncer', '/dev/null', 'pgbouncer', $file);
	poll_until('PgBouncer', sub { -S "$pool{host}/.s.PGSQL.$pool{port}" });
	return;
}

# --- what the workers work on ---

# the page's SQL; a role belongs to the whole server
my ($setup) = slurp_file(test_tree() . '/docs/workers.md') =~ /^```sql\n(.*?)^```/ms;
my $role = $setup =~ s/^(CREATE ROLE .*;)\n//m ? $1 : die "docs/workers.md makes no role\n";

sub in
{
	my ($language, $sql) = @_;
	return $node->safe_psql($language->{name}, $sql);
}

# numbered messages and events from one number to another, of four keys and streams
sub produce
{
	my ($from, $to) = @_;

	foreach my $language (@here)
	{
		in($language, qq{
			SELECT evtstore.send('mail', jsonb_strip_nulls(jsonb_build_object('subject', i::text, 'to', CASE WHEN $fine THEN 'k' || i % 4 END)),
				key => 'k' || i % 4) FROM generate_series($from, $to) i;
			SELECT evtstore.append('order-' || i % 4, 'Placed', jsonb_strip_nulls(jsonb_build_object('total', CASE WHEN $fine THEN i END)))
				FROM generate_series($from, $to) i});
	}
	return;
}

sub wait_in
{
	my ($language, $condition) = @_;
	return poll_sql($node, "SELECT $condition", 't', $language->{name});
}

# all up to this number have had their effect, once or more often
sub wait_for_effects
{
	my $to = shift;
	my $n  = () = fine(1, $to);

	foreach my $language (@here)
	{
		wait_in($language, "count(DISTINCT subject) = $n FROM sent_mail");
		wait_in($language, "count(DISTINCT total) = $n FROM order_log");
	}
	return;
}

my $workers = q{FROM pg_stat_activity WHERE datname = current_database() AND usename = 'shop_worker'};
my $asleep  = "$workers AND query LIKE 'CALL%wait_for_work%' AND wait_event_type = 'Extension'";
my $blocked = "$workers AND wait_event_type = 'Lock'";

sub start_workers
{
	my ($language, @arguments) = @_;
	my $server = $language->{pooled} && $pooled ? \%pool : { host => $node->host, port => $node->port };

	local %ENV = (
		%ENV,
		PGHOST     => $server->{host},
		PGPORT     => $server->{port},
		PGUSER     => 'shop_worker',
		PGDATABASE => $language->{name},
		CONSUMER   => "$language->{name}-1");
	start_process("$language->{name}_$_", "$built/$language->{name}_$_.out", $language->{command}->($_), @arguments) foreach qw(receive poll);
	return;
}

# Runs code for each language while its two workers stand in the middle of a transaction: at the lock of a table that they
# want to write to, with something handed out and nothing acknowledged; or of one that the commit wants to read.
my %LOCK = (effect => 'sent_mail, order_log IN SHARE MODE', commit => 'gate IN ACCESS EXCLUSIVE MODE');

sub in_the_middle
{
	my ($where, $from, $to, $do) = @_;
	my %lock = map { $_->{name} => session($node, $_->{name}) } @here;

	$_->query_safe("BEGIN; LOCK TABLE $LOCK{$where}") foreach values %lock;
	produce($from, $to);
	wait_in($_, "count(*) = 2 $blocked") foreach @here;
	$do->($_) foreach @here;
	foreach (values %lock)
	{
		$_->query_safe('COMMIT');
		$_->quit;
	}
	wait_for_effects($to);
	return;
}

$node->safe_psql('postgres', $role);
foreach (@here)
{
	$node->safe_psql('postgres', "CREATE DATABASE $_->{name}");
	in($_, "CREATE EXTENSION evtstore; $setup");
	in($_, q{
		CREATE TABLE gate ();
		CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM FROM public.gate; RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON sent_mail DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_gate();
		CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON order_log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_gate()});
}
start_pgbouncer() if $pooled;
start_workers($_) foreach @here;

produce(1, 20);
wait_for_effects(20);

sub kill_workers
{
	my $language = shift;
	my @names = map { "$language->{name}_$_" } qw(receive poll);

	kill 'KILL', -$pid{$_} foreach @names;
	end_of($_) foreach @names;
	start_workers($language);
	return;
}

# workers are killed; at the commit, its outcome is known to the server only
in_the_middle('effect', 21, 40, \&kill_workers);
in_the_middle('commit', 41, 50, \&kill_workers);

# sessions of the server are terminated in the middle, and ones that sleep
in_the_middle('effect', 51, 60, sub { is(in($_[0], "SELECT count(pg_terminate_backend(pid)) $blocked"), 2, "$_[0]{name}: two sessions are terminated") });
wait_in($_, "count(*) = 2 $asleep") foreach @here;
is(in($_, "SELECT count(pg_terminate_backend(pid)) $asleep"), 2, "$_->{name}: two more") foreach @here;

# where the first failure makes a dead letter, those behind it do not wait for the end of a lease
in($_, q{SELECT evtstore.alter_subscription('orders', '{"retry": {"max_attempts": 1}}')}) foreach @here;
my $since = time;
produce(61, 70);
wait_for_effects(70);
cmp_ok(time - $since, '<', 20, 'those behind a dead letter come at once');

foreach my $language (@languages)
{
	my $name = $language->{name};
	SKIP:
	{
		skip "$name: $language->{missing}", 1 if $language->{missing};

		my $effects = q{string_agg(%s::text, ' ' ORDER BY %1$s::int) FROM %s};
		my $all     = join ' ', fine(1, 70);
		my $orderly = 'SELECT count(*) FROM (SELECT %s::int < lag(%1$s::int) OVER (PARTITION BY %s ORDER BY n) AS before FROM %s) e WHERE before';

		is(in($language, 'SELECT ' . sprintf $effects, 'subject', 'sent_mail'), $all, "$name: each message has its effect once");
		is(in($language, 'SELECT ' . sprintf $effects, 'total',   'order_log'), $all, "$name: each event has its effect once");
		is(in($language, sprintf $orderly, 'subject', 'recipient', 'sent_mail'), 0, "$name: messages in the order of their key");
		is(in($language, sprintf $orderly, 'total',   'stream',    'order_log'), 0, "$name: events in the order of their stream");
		is(in($language, q{SELECT string_agg(concat_ws(' ', name, attempts, cause, key, body->>'subject', version), ', ' ORDER BY name, id) FROM evtstore.dead_letters}),
			'mail 3 attempts spent k3 3, mail 3 attempts spent k2 62, orders 3 attempts spent order-3 1, orders 1 attempts spent order-2 16',
			"$name: what nobody can handle is a dead letter");
		is(in($language, q{SELECT ready + delayed + in_flight FROM evtstore.queue_status}), 0, "$name: the queue is empty");
		unlike(slurp_file("$PostgreSQL::Test::Utils::log_path/samples_${name}_$_.log"), qr/prepared|stale|ST007|transaction|Traceback/,
			"$name: $_ met no error but what was done to it")
		  foreach qw(receive poll);
	}
}

sub stop_workers
{
	my $what = shift;

	foreach my $language (@here)
	{
		wait_in($language, "count(*) = 2 $asleep");
		foreach my $name (map { "$language->{name}_$_" } qw(receive poll))
		{
			my $since = time;

			kill 'TERM', $pid{$name};
			is(end_of($name), 0, "$name: SIGTERM ends it with 0$what");
			cmp_ok(time - $since, '<', $PROMPT, "$name: at once$what");
		}
		ok(eval { poll_until('nobody asleep', sub { in($language, "SELECT count(*) $asleep") == 0 }, $PROMPT) },
			"$language->{name}: no session sleeps on$what");
		is(in($language, 'SELECT count(*) FROM evtstore.consumers'), 0, "$language->{name}: nobody holds a lane$what");
	}
	return;
}

SKIP:
{
	my ($clients) = run_command([ 'psql', '-XAt', '-h', $pool{host}, '-p', $pool{port}, '-U', 'postgres', '-c', 'SHOW CLIENTS', 'pgbouncer' ])
	  if $pooled;
	my @pooled = grep { $_->{pooled} } @here;

	skip 'no pgbouncer', 1 unless $pooled;
	is_deeply([ sort map { (split /\|/)[2] } grep { /\|shop_worker\|/ } map { "|$_" =~ s/^\|//r } split /\n/, $clients ],
		[ sort map { ($_->{name}) x 2 } @pooled ],
		'Python and Node work through PgBouncer');
}
stop_workers('');

# effects elsewhere: what a worker prints, and here nobody dies
start_workers($_, 'elsewhere') foreach @here;
produce(71, 80);
foreach my $language (@here)
{
	foreach my $kind (qw(receive poll))
	{
		my $name = "$language->{name}_$kind";
		my @told;

		eval { poll_until($name, sub { (@told = slurp_file("$built/$name.out") =~ /^\S+ (\S+)$/mg) >= 9 }) };
		is_deeply([ sort @told ], [ sort map { $kind eq 'poll' ? $_ : 'k' . $_ % 4 } fine(71, 80) ], "$name: effects elsewhere");
	}
	wait_in($language, 'count(*) = 6 FROM evtstore.dead_letters');
	wait_in($language, 'ready + delayed + in_flight = 0 FROM evtstore.queue_status');
}
stop_workers(', elsewhere');

kill 'TERM', delete $pid{pgbouncer} if $pooled;
$node->stop;
done_testing();
