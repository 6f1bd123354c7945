
=head1 NAME

EvtTest - what the TAP tests of evtstore share, on top of PostgreSQL::Test::Cluster

=head1 SYNOPSIS

	use EvtTest;
	use Test::More;

	my $node = new_node('main');                    # preloaded, started, CREATE EXTENSION in database postgres
	$node->safe_psql('postgres', q{SELECT evtstore.append('cart-1', 'Opened', '{}')});

	is(sqlstate($node, q{SELECT evtstore.append('cart-1', 'Opened', '{}', expected_version => 7)}), 'ST001', 'conflict');

	my $receiver = start_receiver();                # an HTTP receiver in a process of its own
	my $url      = $receiver->url('/orders');
	poll_until('the delivery', sub { $receiver->count >= 1 });
	kill9(worker_pid($node, 'delivery'));
	crash($node);                                   # every process gone at once, as by a power cut; then started again

	my $session = session($node);                   # a psql that stays open: transactions that overlap
	$session->query_safe('BEGIN');

Whatever is waited for is polled, with a deadline; nothing here sleeps for a time.  Servers and receivers end with the test.

=cut

package EvtTest;

use strict;
use warnings;

use Carp qw(croak);
use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

our @EXPORT = qw(new_node session sqlstate poll_until poll_sql worker_pid kill9 crash start_receiver test_tree);

# The superuser of every cluster, whatever the name of the user who runs the test.
$ENV{PGUSER} = 'postgres';

my $tree = abs_path(dirname(__FILE__) . '/../../..');

# The folder of the checkout.
sub test_tree
{
	return $tree;
}

#
# A started cluster with the library preloaded and the settings of test/evtstore.conf; then those of conf => '...'.
# extension => 0 leaves out CREATE EXTENSION, start => 0 the start (and so the extension); what is in init => {...} goes to
# PostgreSQL::Test::Cluster's init.
#
sub new_node
{
	my ($name, %option) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	my %init = %{ $option{init} // {} };
	$node->init(%init, extra => [ '-U', $ENV{PGUSER}, @{ $init{extra} // [] } ]);
	$node->append_conf('postgresql.conf', slurp_file("$tree/test/evtstore.conf"));
	# receivers of tests listen on loopback
	$node->append_conf('postgresql.conf', "evtstore.allowed_networks = '127.0.0.0/8'\n");
	$node->append_conf('postgresql.conf', $option{conf}) if defined $option{conf};
	return $node if exists $option{start} && !$option{start};
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION evtstore') unless exists $option{extension} && !$option{extension};
	return $node;
}

# A psql that stays open (PostgreSQL::Test::BackgroundPsql); goes on after errors.
sub session
{
	my ($node, $database) = @_;
	return $node->background_psql($database // 'postgres', on_error_stop => 0);
}

# The SQLSTATE that a statement ends with; '00000' when it succeeds.
sub sqlstate
{
	my ($node, $sql, $database) = @_;
	my ($out, $err) = ('', '');

	$node->psql(
		$database // 'postgres', $sql,
		stdout        => \$out,
		stderr        => \$err,
		on_error_stop => 1,
		extra_params  => [ '-v', 'VERBOSITY=sqlstate' ]);
	return $err =~ /^(?:psql:\S+ )?(?:ERROR|FATAL):  (\w{5})$/m ? $1 : $err eq '' ? '00000' : "not understood: $err";
}

# Until the function returns something true, which is returned; dies with what was waited for when the deadline passes.
sub poll_until
{
	my ($what, $condition, $seconds) = @_;
	my $deadline = time + ($seconds // $PostgreSQL::Test::Utils::timeout_default);

	while (1)
	{
		my $result = $condition->();
		return $result if $result;
		croak "timed out waiting for $what" if time > $deadline;
		select undef, undef, undef, 0.05;    # sleep: between two looks
	}
}

# Until the query returns 't' (or the given text).
sub poll_sql
{
	my ($node, $sql, $expected, $database) = @_;

	$expected //= 't';
	return poll_until(
		"\"$expected\" from $sql",
		sub {
			my $out = '';
			# a psql that cannot connect may be gone before it is given the query, and IPC::Run dies of that
			my $status = eval { $node->psql($database // 'postgres', $sql, stdout => \$out) };
			return defined $status && $status == 0 && $out eq $expected;
		});
}

# The process number of a running worker: launcher, scheduler or delivery.  Waits until there is one.
sub worker_pid
{
	my ($node, $kind, $database) = @_;

	return poll_until(
		"a $kind worker",
		sub {
			return $node->safe_psql($database // 'postgres',
				"SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'evtstore $kind%'"
				  . " AND (datname IS NULL OR datname = current_database()) ORDER BY pid LIMIT 1");
		});
}

# Ends a process without a chance to clean up, and waits until it is gone.
sub kill9
{
	my $pid = shift;

	kill 'KILL', $pid or croak "no process $pid to kill";
	poll_until("the end of process $pid", sub { !kill 0, $pid });
	return;
}

# The server goes down without a checkpoint, as in a crash, and comes up again with recovery.
sub crash
{
	my $node = shift;

	$node->stop('immediate');
	$node->start;
	return;
}

#
# An HTTP receiver (test/demo/receiver.pl) in a process of its own; args => [...] are its options.  What it accepted is in
# its record, one line of JSON per request.  command => sub { ... } makes another program's command of port file and record.
#
my @receivers;

sub start_receiver
{
	my (%option) = @_;
	my $self = bless {
		record => "$PostgreSQL::Test::Utils::tmp_check/receiver_" . scalar(@receivers) . '.jsonl',
		args   => $option{args} // [],
		command => $option{command},
	  },
	  'EvtTest::Receiver';

	push @receivers, $self;
	$self->start;
	return $self;
}

END
{
	my $status = $?;
	$_->stop foreach @receivers;
	$? = $status;
}

package EvtTest::Receiver;

use strict;
use warnings;

use JSON::PP qw(decode_json);
use POSIX ();
use PostgreSQL::Test::Utils;

# Starts it; again after stop, on the port it had.
sub start
{
	my $self      = shift;
	my $port_file = "$self->{record}.port";

	unlink $port_file;
	my $pid = fork;
	die "fork: $!" unless defined $pid;
	if (!$pid)
	{
		open STDIN, '<', '/dev/null' or die;
		open STDOUT, '>>', "$PostgreSQL::Test::Utils::log_path/receiver.log" or die;
		open STDERR, '>&', \*STDOUT or die;
		exec $self->{command}->($port_file, $self->{record}) or POSIX::_exit(127) if $self->{command};
		exec $^X, "$tree/test/demo/receiver.pl", '--record', $self->{record}, '--port-file', $port_file,
		  '--port', $self->{port} // 0, @{ $self->{args} }
		  or POSIX::_exit(127);
	}
	$self->{pid}  = $pid;
	$self->{port} = EvtTest::poll_until(
		'the receiver to listen',
		sub {
			return 0 unless -s $port_file;
			my ($port) = slurp_file($port_file) =~ /^(\d+)$/m;
			return $port;
		},
		30);
	return;
}

# Ends it; with kill9, at once.
sub stop
{
	my ($self, $signal) = @_;

	return unless $self->{pid};
	kill $signal // 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

sub kill9
{
	my $self = shift;
	return $self->stop('KILL');
}

sub url
{
	my ($self, $path) = @_;
	return "http://127.0.0.1:$self->{port}" . ($path // '/');
}

# What it accepted so far, decoded, in order; a line that is being written is left for the next look.
sub requests
{
	my $self = shift;

	return () unless -s $self->{record};
	return map { decode_json($_) } slurp_file($self->{record}) =~ /^(.+)\n/mg;
}

sub count
{
	my $self = shift;
	return scalar(my @all = $self->requests);
}

1;
