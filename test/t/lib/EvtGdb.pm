
=head1 NAME

EvtGdb - stops a server process between two lines, with a debugger

=head1 SYNOPSIS

	use EvtGdb;

	EvtGdb::require_gdb($node);                       # skips the test where there is none, or none that may attach

	my $gdb = EvtGdb->attach($pid, 'es_queue_drop');  # stops at the function; dies where there is none of that name
	my $gdb = EvtGdb->attach($pid, 'es_dead_key_add', after => 1);  # where it has returned to who called it
	$wire->put('SELECT ...');                         # what brings the process there
	$gdb->wait_until_stopped;
	...                                               # what others do meanwhile; then one of
	$gdb->let_go;                                     # it goes on, and is not stopped again
	$gdb->kill;                                       # kill -9 where it stands
	$gdb->stop_server($node);                         # immediate stop of the server: not a step further either

	# all of it: the last of the statements comes to the place, or to where that has returned, and is killed, or the server stopped
	my $at = EvtGdb::cut($node, 'kill', 'after es_dead_key_add', 'BEGIN', 'SELECT ...');
	my $at = EvtGdb::cut_process($node, $pid, 'stop', 'es_queue_drop', sub { ... });    # a process that the function brings there

A place is whatever gdb's break takes, of ours or of the server's.  Functions that others call are better than lines, which an
optimizer moves.

=cut

package EvtGdb;

use strict;
use warnings;

use EvtTest;
use EvtWire;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

# of the libraries only ours is looked at: a server has fifty
my @gdb = ('gdb', '-q', '-nx', '-iex', 'set auto-solib-add off');

# what servers tell each other by signals is nothing to stop at
my $SETTINGS = join "\n", 'set pagination off', 'set confirm off', 'set breakpoint pending off',
  'sharedlibrary evtstore', 'handle SIGINT SIGUSR1 SIGUSR2 SIGURG SIGALRM SIGHUP SIGTERM SIGQUIT SIGPIPE nostop noprint pass', '';

my @attached;

# whatever becomes of the test, no process stays stopped
END
{
	my $status = $?;
	$_->{run}->kill_kill foreach grep { $_->{run} } @attached;
	$? = $status;
}

# Looks whether a child of ours can be stopped at all: there may be no gdb, or nobody may trace here.
sub require_gdb
{
	my $node = shift;
	# IPC::Run dies where there is no such program
	plan skip_all => 'no gdb'
	  unless eval { IPC::Run::run([ 'gdb', '--version' ], '<', '/dev/null', '>', \my $version, '2>', '/dev/null') };
	IPC::Run::run([ @gdb, '--batch', '-p', $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'") ],
		'<', '/dev/null', '&>', \my $said);
	plan skip_all => 'gdb cannot stop a server process here' if $said =~ /ptrace: Operation not permitted|Could not attach/;
	return;
}

# cut(node, how, place, statements): says where it was, for the names of tests
sub cut
{
	my ($node, $how, $place, @statements) = @_;
	my $wire = EvtWire->new($node, 'postgres', 'cut') or die "no connection\n";
	my $last = pop @statements;

	foreach my $statement (@statements)
	{
		my $answer = $wire->query($statement);
		die "$answer->{message}: $statement\n" if defined $answer->{sqlstate} || $answer->{lost};
	}
	my $at = cut_process($node, $wire->{pid}, $how, $place, sub { $wire->put($last) });
	ok($wire->take->{lost}, "$at: no answer");
	$wire->close;
	return $at;
}

# cut_process(node, pid, how, place, code); the server is there again when it returns
sub cut_process
{
	my ($node, $pid, $how, $place, $bring) = @_;
	my ($after, $function) = $place =~ /^(after )?(\w+)$/;
	my $gdb = EvtGdb->attach($pid, $function, after => $after);

	$bring->();
	$gdb->wait_until_stopped;
	if ($how eq 'kill')
	{
		$gdb->kill;
		poll_sql($node, 'SELECT true');
	}
	else
	{
		$gdb->stop_server($node);
		$node->start;
	}
	return "$place, $how";
}

# attach(pid, place, after => 1)
sub attach
{
	my ($class, $pid, $place, %option) = @_;
	my $self = bless { pid => $pid, place => $place, in => '', out => '' }, $class;

	$self->{run} = IPC::Run::start([ @gdb, '-p', $pid ], '<', \$self->{in}, '&>', \$self->{out});
	push @attached, $self;
	$self->say($SETTINGS . "break $place\necho armed\\n\n");
	$self->read_until(qr/armed\n/);
	die "gdb does not stop at $place: $self->{out}\n" unless $self->{out} =~ /Breakpoint 1 at /;
	# finish: to the end of the function, and then of nothing else
	$self->say("continue\n" . ($option{after} ? "delete\nfinish\n" : "delete\n") . "echo stopped\\n\n");
	return $self;
}

sub wait_until_stopped
{
	my $self = shift;

	$self->read_until(qr/stopped\n/);
	die "it did not stop at $self->{place}: $self->{out}\n" unless $self->{out} =~ /Breakpoint 1, /;
	return;
}

sub let_go
{
	my $self = shift;

	$self->say("detach\nquit\n");
	return $self->end;
}

# kill -9 of the process where it stands
sub kill
{
	my $self = shift;

	CORE::kill 'KILL', $self->{pid} or die "no process $self->{pid} to kill\n";
	# the server hears of it when nobody traces it any more; then it takes nobody in before it has recovered
	$self->{run}->signal('KILL');
	$self->end;
	poll_until("the end of process $self->{pid}", sub { !CORE::kill 0, $self->{pid} });
	return;
}

# an immediate stop of the server.  The process has the signal to end before it goes on
sub stop_server
{
	my ($self, $node) = @_;
	# sleep: gdb can only wait in a shell, which nobody else would end.  SIGQUIT is the third bit
	$self->say("shell timeout 60 sh -c \"until grep -qE '^ShdPnd:.*[4567cdef]\$' /proc/$self->{pid}/status; do sleep 0.02; done\"\ndetach\nquit\n");
	$node->stop('immediate');
	return $self->end;
}

sub end
{
	my $self = shift;

	$self->pump_until('ends', sub { !$self->{run}->pumpable });
	$self->{run}->finish;
	delete $self->{run};
	return;
}

sub say
{
	my ($self, $commands) = @_;

	$self->{in} .= $commands;
	$self->pump_until('reads', sub { !length $self->{in} });
	return;
}

sub read_until
{
	my ($self, $what) = @_;
	return $self->pump_until("says $what", sub { $self->{out} =~ $what });
}

sub pump_until
{
	my ($self, $what, $condition) = @_;
	my $done = eval {
		poll_until(
			$what,
			sub {
				$self->{run}->pump_nb if $self->{run}->pumpable;
				$condition->() || !$self->{run}->pumpable;
			});
	};

	die "waited in vain until gdb $what at $self->{place}: $self->{out}\n" unless $done && $condition->();
	return;
}

1;
