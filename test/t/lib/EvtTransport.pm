
=head1 NAME

EvtTransport - what the tests of transports share: programs of test/transport, built and run, and processes that end with the test

=head1 SYNOPSIS

	use EvtTransport;

	my $library = transport_library('nats');        # as it is installed; undef: it was not built
	my $tool    = build_tool('nats_tool', '-lnats') or plan skip_all => 'no cnats';
	my ($status, $out) = drive($library, 'nats://127.0.0.1:4222', '--count', 5);
	my $run = start_drive($library, $url, '--count', 20000);    # in the background; $run->{out} is the file that it writes to
	is(finish_drive($run), 0, 'all delivered');

	my $pid = start_process('log name', 'nats-server', '-p', $port);
	end_process($pid);                              # or end_process($pid, 'KILL')

=cut

package EvtTransport;

use strict;
use warnings;

use EvtTest;
use Exporter qw(import);
use POSIX ();
use PostgreSQL::Test::Utils;

our @EXPORT = qw(transport_library build_tool drive start_drive finish_drive start_process end_process listens);

my $main = $$;
my %running;
my $runs = 0;
my $driver;

# where PostgreSQL::Test puts them is out of the way of results
sub built
{
	my $name = shift;
	return "$PostgreSQL::Test::Utils::tmp_check/$name";
}

sub config
{
	my $what = shift;
	chomp(my $out = qx(pg_config --$what));
	return $out;
}

sub transport_library
{
	my $name    = shift;
	my $library = config('pkglibdir') . "/evtstore_$name.so";
	return -e $library ? $library : undef;
}

# Debian keeps the server's static libraries apart
sub libpgport
{
	my ($found) = grep { -e $_ } map { config($_) . '/libpgport.a' } qw(pkglibdir libdir);
	return $found // die "no libpgport.a\n";
}

sub compile
{
	my ($name, @rest) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/build_$name.log";

	return system('sh', '-c', 'out=$1; shift; exec cc -g -O1 -Wall -D_GNU_SOURCE -o "$@" >"$out" 2>&1', 'sh', $log, built($name), @rest) == 0;
}

# test/transport/NAME.c, linked with what is said; undef when that is not to be had
sub build_tool
{
	my ($name, @libraries) = @_;
	return compile($name, test_tree() . "/test/transport/$name.c", @libraries) ? built($name) : undef;
}

# test/transport/driver.c; what the libraries want of the server's port library goes into it
sub driver
{
	return $driver if $driver;
	my $tree = test_tree();

	compile('driver', '-rdynamic', '-I' . config('includedir-server'), "$tree/test/transport/driver.c", "$tree/src/transport/address.c",
		(map { "-Wl,-u,$_" } qw(pg_snprintf pg_vsnprintf pg_sprintf pg_strerror pg_strerror_r)),
		libpgport(), '-ldl', '-lm', '-lpthread')
	  or die "the driver does not build: see log/build_driver.log\n";
	return $driver = built('driver');
}

sub start_drive
{
	my @arguments = @_;
	my $out       = built('drive_' . ++$runs . '.out');
	my $program   = driver();
	# there before the driver is, for who looks at once
	append_to_file($out, '');
	my $pid = start_process([ $out, 1 ], $program, @arguments);

	return { pid => $pid, out => $out };
}

# its exit status; 256 and more: it was ended by a signal
sub finish_drive
{
	my $run = shift;

	waitpid $run->{pid}, 0;
	my $status = $?;
	delete $running{ $run->{pid} };
	return $status & 127 ? 256 + ($status & 127) : $status >> 8;
}

# exit status and what was printed
sub drive
{
	my $run    = start_drive(@_);
	my $status = finish_drive($run);
	return ($status, slurp_file($run->{out}));
}

# a program in the background; its output goes to log/NAME.log
sub start_process
{
	my ($name, @command) = @_;
	my $out = ref $name ? $name->[0] : "$PostgreSQL::Test::Utils::log_path/$name.log";
	my $pid = fork;

	die "fork: $!" unless defined $pid;
	if (!$pid)
	{
		open STDIN, '<', '/dev/null' or POSIX::_exit(126);
		open STDOUT, ref $name ? '>' : '>>', $out or POSIX::_exit(126);
		open STDERR, '>&', \*STDOUT or POSIX::_exit(126);
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	$running{$pid} = 1;
	return $pid;
}

sub end_process
{
	my ($pid, $signal) = @_;

	return unless delete $running{$pid};
	kill $signal // 'TERM', $pid;
	kill 'CONT', $pid;
	waitpid $pid, 0;
	return $?;
}

# does anybody listen there?
sub listens
{
	my $port = shift;
	require IO::Socket::INET;
	return defined IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 1);
}

END
{
	my $status = $?;
	if ($$ == $main)
	{
		end_process($_, 'KILL') foreach keys %running;
	}
	$? = $status;
}

1;
