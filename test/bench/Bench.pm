package Bench;

#
# Bench.pm: what the benchmarks share: a private cluster with fsync on, psql, pgbench, medians, the verdict.
#
# The server is that of PG_CONFIG, or of the pg_config in the path, with evtstore installed into it.  As root everything
# runs as postgres.  The cluster lies in a scratch folder (BENCH_PARENT=/var/tmp for another disk), speaks on a socket
# in there only, and is gone at the end, however that comes.
#
use strict;
use warnings;

use File::Temp ();
use POSIX      ();
use Time::HiRes qw(time);

my ($bin, $scratch, $stop_on_exit, $huge_pages_held);
my @clusters;
my $missed = 0;

# start(setting => value, ...): a new cluster with the extension in database bench; ends with the process
sub start
{
	my (%settings) = @_;
	my $config = $ENV{PG_CONFIG} || 'pg_config';

	$bin = qx("$config" --bindir);
	die "$config does not answer: say PG_CONFIG=/path/to/pg_config\n" if $? != 0;
	chomp $bin;
	if ($> == 0)
	{
		reserve_huge_pages($settings{shared_buffers} // '');
		leave_root();
	}
	delete @ENV{ grep { /^PG/ } keys %ENV };
	$ENV{LC_ALL} = 'C.UTF-8';
	umask 077;

	$scratch = File::Temp::tempdir('evtstore-bench.XXXXXX', DIR => $ENV{BENCH_PARENT} || '/tmp', CLEANUP => 1);
	chdir $scratch or die "$scratch: $!\n";
	@ENV{qw(HOME PGHOST PGPORT PGUSER PGDATABASE)} = ($scratch, $scratch, 5432, 'bench', 'bench');
	$SIG{$_} = sub { exit 130 }
	  foreach qw(INT TERM HUP);

	$stop_on_exit = $$;
	cluster($ENV{PGPORT}, %settings);
	printf "PostgreSQL %s, %s, fsync on, %s, data in %s\n\n", sql('SHOW server_version'), cores(), pages(), $scratch;
	return;
}

# cluster(port, setting => value, ...): one more, for who speaks to that port (local $ENV{PGPORT}); start() makes the first
sub cluster
{
	my ($port, %settings) = @_;
	my $data = "$scratch/data.$port";

	local $ENV{PGPORT} = $port;
	run("$bin/initdb", '-D', $data, qw(-A trust -U bench -E UTF8 --locale=C -N));
	# no autovacuum and no checkpoint in the middle: they would hit one side of a comparison and not the other
	%settings = (
		port                     => $port,
		listen_addresses         => '',
		unix_socket_directories  => $scratch,
		shared_preload_libraries => 'evtstore',
		fsync                    => 'on',
		shared_buffers           => '256MB',
		max_wal_size             => '16GB',
		checkpoint_timeout       => '1h',
		autovacuum               => 'off',
		%settings);
	open my $conf, '>>', "$data/postgresql.conf" or die "postgresql.conf: $!\n";
	print $conf map { "$_ = '$settings{$_}'\n" } sort keys %settings;
	close $conf or die "postgresql.conf: $!\n";
	push @clusters, $data;
	run("$bin/pg_ctl", qw(-w -s -D), $data, '-l', "$scratch/server.$port.log", 'start');
	run("$bin/createdb", '--maintenance-db=postgres', 'bench');
	sql('CREATE EXTENSION evtstore');
	return;
}

#
# A process that stays root gives them back, when its end of the pipe says that everybody else is gone.
#
sub reserve_huge_pages
{
	my $buffers = shift;
	my ($gigabytes) = $buffers =~ /^(\d+)GB$/ or return;
	my $before = huge_pages('Total') // return;
	# a tenth more: what is shared besides the buffers
	my $missing = int($gigabytes * 1024 * 1.1 / 2) + 64 - huge_pages('Free');

	return if $missing <= 0;
	set_huge_pages($before + $missing);
	pipe my $wait, my $held or die "pipe: $!\n";
	my $pid = fork // die "fork: $!\n";
	if (!$pid)
	{
		close $held;
		close STDOUT;
		POSIX::setsid();
		sysread $wait, my $nothing, 1;
		set_huge_pages($before);
		POSIX::_exit(0);
	}
	close $wait;
	# open as long as this process lives: what it executes does not get it, and the server is stopped before it ends
	$huge_pages_held = $held;
	return;
}

# of /proc/meminfo; undef where the kernel knows none
sub huge_pages
{
	my $which = shift;

	open my $in, '<', '/proc/meminfo' or return;
	my ($line) = grep { /^HugePages_$which:/ } <$in>;
	return defined $line && $line =~ /(\d+)/ ? $1 : undef;
}

# where the kernel refuses, the run goes on without, and says so
sub set_huge_pages
{
	my $n = shift;

	open my $out, '>', '/proc/sys/vm/nr_hugepages' or return;
	print $out $n;
	close $out;
	return;
}

# what the server got
sub pages
{
	my $total = huge_pages('Total') // 0;

	return $total > 0 && huge_pages('Free') < $total ? 'huge pages' : 'small pages';
}

# postgres may be unable to read the checkout: everything of ours is loaded by now
sub leave_root
{
	my (undef, undef, $uid, $gid) = getpwnam('postgres') or die "as root this needs a user postgres\n";

	$) = "$gid $gid";
	POSIX::setgid($gid) or die "setgid: $!\n";
	POSIX::setuid($uid) or die "setuid: $!\n";
	return;
}

sub cores
{
	open my $in, '<', '/proc/cpuinfo' or return '? cores';
	my $n = grep { /^processor\s*:/ } <$in>;
	return $n == 1 ? '1 core' : "$n cores";
}

END
{
	if (defined $stop_on_exit && $stop_on_exit == $$)
	{
		my $status = $?;

		system "$bin/pg_ctl", qw(-s -m immediate -D), $_, 'stop' foreach @clusters;
		chdir '/';
		$? = $status;
	}
}

# ends the script when the command fails; its output is shown only then
sub run
{
	my (@command) = @_;
	my $pid = open my $out, '-|';

	die "fork: $!\n" unless defined $pid;
	if (!$pid)
	{
		open STDIN,  '<',  '/dev/null' or die;
		open STDERR, '>&', \*STDOUT    or die;
		exec @command or die "$command[0]: $!\n";
	}
	my $text = do { local $/; <$out> } // '';
	close $out;
	die "$text\n$command[0] failed\n" if $? != 0;
	return $text;
}

# the result of the last statement, without its line break
sub sql
{
	my (@statements) = @_;
	my $text = run("$bin/psql", qw(-X -q -A -t -v ON_ERROR_STOP=1), map { ('-c', $_) } @statements);

	chomp $text;
	return $text;
}

# a file in the scratch folder; its name
sub file
{
	my ($name, $text) = @_;

	open my $out, '>', "$scratch/$name" or die "$name: $!\n";
	print $out $text;
	close $out or die "$name: $!\n";
	return "$scratch/$name";
}

# the head of a script for pgbench: what each session does before the clock runs
sub once
{
	my (@statements) = @_;

	return "\\if :once\n" . join('', map { "$_;\n" } @statements) . "\\set once 0\n\\endif\n";
}

# pgbench(options): transactions a second, without the time that once() took
sub pgbench
{
	my (@options) = @_;
	my $text = run("$bin/pgbench", '-n', '-r', '-D', 'once=1', @options);

	die "$text\npgbench lost transactions\n" if $text =~ /number of failed transactions: [1-9]/;
	$text =~ /^tps = ([\d.]+)/m or die "$text\npgbench says no tps\n";
	my $tps = $1;
	my ($once) = $text =~ /\\if :once\n(.*)\\endif$/ms or return $tps;
	my ($transactions) = $text =~ /^number of transactions actually processed: (\d+)/m or die "$text\npgbench says no transactions\n";
	my $milliseconds = 0;

	$milliseconds += $_ foreach $once =~ /^\s*([\d.]+)/mg;
	return $transactions / ($transactions / $tps - $milliseconds / 1000);
}

# pgbench(options) in the background; its process number, to be waited for
sub background
{
	my (@options) = @_;
	my $pid = fork;

	die "fork: $!\n" unless defined $pid;
	if (!$pid)
	{
		open STDIN,  '<', '/dev/null' or die;
		open STDOUT, '>', '/dev/null' or die;
		open STDERR, '>&', \*STDOUT  or die;
		undef $stop_on_exit;
		exec "$bin/pgbench", '-n', @options or POSIX::_exit(127);
	}
	return $pid;
}

# polls until the statement answers t
sub until_true
{
	my ($statement) = @_;
	my $deadline = time + 60;

	until (sql($statement) eq 't')
	{
		die "not true within a minute: $statement\n" if time > $deadline;
	}
	return;
}

# user and system time of a process; schedstat counts nanoseconds, where it is there
sub cpu_ms
{
	my $pid = shift;

	if (open my $in, '<', "/proc/$pid/schedstat")
	{
		return (split ' ', <$in>)[0] / 1e6;
	}
	open my $in, '<', "/proc/$pid/stat" or die "process $pid is gone\n";
	my @field = split ' ', <$in> =~ s/^.*\)//r;
	return ($field[11] + $field[12]) * 1000 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	my $middle = int(@sorted / 2);

	return @sorted % 2 ? $sorted[$middle] : ($sorted[ $middle - 1 ] + $sorted[$middle]) / 2;
}

# percentile([values], 0.99)
sub percentile
{
	my ($values, $fraction) = @_;
	my @sorted = sort { $a <=> $b } @$values;
	my $index  = POSIX::ceil($fraction * @sorted) - 1;

	return $sorted[ $index < 0 ? 0 : $index ];
}

# verdict(ok, text): one target, met or missed
sub verdict
{
	my ($ok, $text) = @_;

	$missed++ unless $ok;
	printf "  %-6s %s\n", $ok ? 'met' : 'MISSED', $text;
	return;
}

# the exit status: a missed target is a failure
sub status
{
	return $missed ? 1 : 0;
}

1;
