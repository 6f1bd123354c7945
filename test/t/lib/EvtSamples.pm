
=head1 NAME

EvtSamples - the languages of docs/samples, and processes of the workers that a test starts, kills and stops

=head1 SYNOPSIS

	use EvtSamples;

	my @languages = sample_languages(qw(receive poll));     # {name, pooled, command, missing}; what is missing says why
	my $pool      = start_pgbouncer($node, 'shop_worker');  # in transaction mode; undef where there is none
	start_sample($languages[0], 'receive', 'python_receive', server => $pool, user => 'shop_worker', env => {...}, arguments => ['elsewhere']);
	kill 'KILL', -pid_of('python_receive');                 # each in a process group of its own
	my $status = end_of('python_receive');
	stop_pgbouncer();

What is left of them ends with the test.

=cut

package EvtSamples;

use strict;
use warnings;

use EvtTest;
use Exporter qw(import);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(sample_languages start_sample start_process pid_of end_of start_pgbouncer stop_pgbouncer sample_out sample_log);

my $samples   = test_tree() . '/docs/samples';
my $libraries = '/var/cache/evtstore-clients/usr/share';

$ENV{PATH} .= ':/usr/sbin';
$ENV{NODE_PATH} = "$libraries/nodejs";

my %pid;
my $main = $$;
my $built;

# the folder of what is built and printed; the library knows where only when the test runs
sub built { return $built //= PostgreSQL::Test::Utils::tempdir }

END
{
	my $status = $?;
	kill 'KILL', map { -$_ } values %pid if defined $main && $$ == $main;
	$? = $status;
}

# whether there is such a command and it ends with 0
sub succeeds
{
	my @command = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/samples_tools.log";

	return system('sh', '-c', 'out=$1; shift; "$@" >>"$out" 2>&1 </dev/null', 'sh', $log, @command) == 0;
}

sub builds
{
	my $to = built();

	local %ENV = (%ENV, GO111MODULE => 'off', GOPATH => "$libraries/gocode", GOCACHE => "$to/cache", GOFLAGS => '');

	return 'no go-12 (package gccgo-12)' unless succeeds('go-12', 'version');
	return "no pgx in $libraries"        unless -d "$libraries/gocode";
	foreach (@_)
	{
		ok(succeeds('go-12', 'build', '-o', "$to/$_", "$samples/$_.go"), "$_.go compiles") or return 'it does not compile';
	}
	return '';
}

# Python and Node are connected through PgBouncer
sub sample_languages
{
	my @names  = @_;
	my $python = '/usr/bin/python3';

	return (
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
		{ name => 'go',    command => sub { (built() . "/$_[0]") },      missing => builds(@names) },
		{ name => 'shell', command => sub { ("$samples/$_[0].sh") }, missing => '' });
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
		open STDERR, '>>', sample_log($name) or POSIX::_exit(126);
		exec @command or POSIX::_exit(127);
	}
	$pid{$name} = $pid;
	return;
}

# server: whose host and port it connects to, a node or what start_pgbouncer returned
sub start_sample
{
	my ($language, $sample, $name, %option) = @_;
	my ($server, $is_node) = ($option{server}, ref $option{server} ne 'HASH');

	local %ENV = (
		%ENV,
		PGHOST     => $is_node ? $server->host : $server->{host},
		PGPORT     => $is_node ? $server->port : $server->{port},
		PGUSER     => $option{user},
		PGDATABASE => $option{database} // $language->{name},
		%{ $option{env} // {} });
	return start_process($name, sample_out($name), $language->{command}->($sample), @{ $option{arguments} // [] });
}

sub sample_out { return built() . "/$_[0].out" }
sub sample_log { return "$PostgreSQL::Test::Utils::log_path/samples_$_[0].log" }
sub pid_of     { return $pid{ $_[0] } }

# how a process ended that was told to, or has been killed
sub end_of
{
	my $name = shift;

	poll_until("the end of $name", sub { waitpid($pid{$name}, POSIX::WNOHANG()) == $pid{$name} });
	# what the shell left behind
	kill 'KILL', -delete $pid{$name};
	return $?;
}

# in transaction mode, for any database of the node; its host and port, undef where there is no PgBouncer
sub start_pgbouncer
{
	my ($node, $user) = @_;
	my ($host, $port) = ($node->host, $node->port);
	my %pool = (host => PostgreSQL::Test::Utils::tempdir_short, port => PostgreSQL::Test::Cluster::get_free_port());
	my $file = "$PostgreSQL::Test::Utils::tmp_check/pgbouncer.ini";

	return undef unless succeeds('pgbouncer', '--version');
	append_to_file("$file.users", qq{"$user" ""\n"postgres" ""\n});
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
	return \%pool;
}

sub stop_pgbouncer
{
	kill 'TERM', delete $pid{pgbouncer} if defined $pid{pgbouncer};
	return;
}

1;
