
=head1 NAME

EvtChildren - processes of a test that work at the same time and end by themselves

=head1 SYNOPSIS

	use EvtChildren qw(start_child finish_children);

	start_child("writer $_", do { my $n = $_; sub { write_as($n) } }) foreach 1 .. 3;
	is(finish_children('writer', 90), '', 'all writers came to their end');

What is left of them ends with the test.

=cut

package EvtChildren;

use strict;
use warnings;

use EvtTest;
use Exporter qw(import);
use POSIX ();
use PostgreSQL::Test::Utils;

our @EXPORT_OK = qw(start_child finish_children);

my @children;
my $main = $$;

# what a child said when it died; out of the way of the results: tmp_check is kept when the test fails
sub died
{
	return "$PostgreSQL::Test::Utils::tmp_check/died";
}

END
{
	my $status = $?;
	kill 'KILL', map { $_->[1] } grep { $main == $$ && $_->[1] } @children;
	$? = $status;
}

# start_child(name, code): in a process of its own
sub start_child
{
	my ($name, $run) = @_;
	my $pid = fork;

	die "fork: $!" unless defined $pid;
	if (!$pid)
	{
		my $ok = eval { $run->(); 1 };
		append_to_file(died(), "$name: $@") unless $ok;
		# nothing of what the test's process owns ends with us
		POSIX::_exit($ok ? 0 : 1);
	}
	push @children, [ $name, $pid ];
	return;
}

# finish_children(kind, seconds): when all those whose names begin so have ended, or the time is up: who failed, and how
sub finish_children
{
	my ($kind, $deadline) = @_;
	my @failed;

	foreach my $child (grep { $_->[0] =~ /^$kind/ } @children)
	{
		my ($name, $pid) = @$child;
		my $gone = eval { poll_until("the end of $name", sub { waitpid($pid, POSIX::WNOHANG()) == $pid }, $deadline); 1 };
		$child->[1] = undef if $gone;
		next if $gone && $? == 0;
		push @failed, $gone ? (-e died() ? slurp_file(died()) : "$name: $?") : "$name hangs";
		kill 'KILL', $pid unless $gone;
	}
	return "@failed";
}

1;
