
=head1 NAME

EvtDisturb - what goes wrong in a checker while its clients work: ended sessions, killed backends, a server that crashes

=head1 SYNOPSIS

	use EvtDisturb;

	my ($seed, $seconds) = EvtDisturb::choices(20);      # first of all: twenty seconds by default
	my $node = new_node(...);                            # restart_after_crash = on; what the clients use
	my $disturb = EvtDisturb->new(
		node    => $node,
		seconds => $seconds,                             # from now on
		clients => [ 'my sender', 'my consumer' ],       # application names (EvtClient): whose sessions are ended
		every   => { terminate => 0.7, kill => 6, crash => 7 });    # seconds from one to the next, on average

	# children that work until $disturb->is_over, or until the checker has seen that all is done
	start_child("sender $_", do { my $n = $_; sub { srand $seed * 100 + $n; send_messages() until $disturb->is_over } }) foreach 1 .. 3;
	$disturb->run(sub { ... });                          # the function is called all the while; without one it only disturbs
	is(finish_children('sender', 90), '', 'all senders came to their end');
	...                                                  # what was done is what there is
	diag $disturb->summary;
	$disturb->check;                                     # tests that each of them happened

What clients do and write down, and what has to be true of it, is the checker's; 071_queues.pl is the shortest one.

Two more ways are for who has delivery workers: "worker" kills one, "end" terminates one.

Ways of the checker's own: ways => { lanes => sub { ... } }, with their time in every; the function says whether it happened.

EVTSTORE_SECONDS says for how long, EVTSTORE_SEED which choices: the same again, as far as the scheduling of processes allows that.

=cut

package EvtDisturb;

use strict;
use warnings;

use EvtTest;
use EvtWire;
use Test::More;
use Time::HiRes qw(time);

# The seed and how many seconds; they are printed, and rand() begins with the seed.
sub choices
{
	my $seconds = $ENV{EVTSTORE_SECONDS} || shift;
	my $seed    = $ENV{EVTSTORE_SEED}    || 1 + time % 1_000_000;

	diag "EVTSTORE_SEED=$seed EVTSTORE_SECONDS=$seconds";
	srand $seed;
	return ($seed, $seconds);
}

sub new
{
	my ($class, %option) = @_;
	my $self = bless { %option, started => time, happened => {} }, $class;

	$self->{ways} = {
		terminate => sub { $self->terminate },
		kill      => sub { $self->kill_backend },
		crash     => sub { crash($self->{node}); 1 },
		worker    => sub { $self->kill_worker },
		end       => sub { $self->end_worker },
		%{ $option{ways} // {} } };
	return $self;
}

# is the time over?  Also for children that were started after new
sub is_over
{
	my $self = shift;
	return time >= $self->{started} + $self->{seconds};
}

# Until the time is over: each way when it is due, and the function all the while.
sub run
{
	my ($self, $meanwhile) = @_;
	my ($every, $seconds) = @$self{qw(every seconds)};
	my %next = map { $_ => $self->{started} + rand(2 * $every->{$_}) } sort keys %$every;

	# even the shortest run has one of each
	$next{$_} = $self->{started} + $seconds * (0.2 + rand 0.5) foreach grep { $every->{$_} > $seconds / 3 } sort keys %$every;
	until ($self->is_over)
	{
		foreach my $way (grep { time > $next{$_} } sort keys %$every)
		{
			$next{$way} = time + rand 2 * $every->{$way};
			$self->{happened}{$way}++ if $self->{ways}{$way}->();
		}
		$meanwhile->() if $meanwhile;
		select undef, undef, undef, 0.02;    # sleep: until the next of them is due
	}
	return;
}

# The first column of the first row of a statement, from a session that is not disturbed; undef: there is none, or no server.
sub ask
{
	my ($self, $statement) = @_;
	my $wire = EvtWire->new($self->{node}, 'postgres', 'disturb') or return undef;
	my $answer = $wire->query($statement);

	$wire->close;
	return $answer->{rows} && @{ $answer->{rows} } ? $answer->{rows}[0][0] : undef;
}

# a process of one of the clients
sub a_backend
{
	my $self = shift;
	my $names = join ', ', map { "'$_'" } @{ $self->{clients} };
	my @pids = split /,/, $self->ask("SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_activity WHERE application_name IN ($names)") // '';

	return $pids[ rand @pids ];
}

sub terminate
{
	my $self = shift;
	my $pid = $self->a_backend // return 0;

	return defined $self->ask("SELECT pg_terminate_backend($pid)");
}

sub kill_backend
{
	my $self = shift;
	my $pid = $self->a_backend // return 0;

	return 0 unless kill 'KILL', $pid;
	poll_until('the server after a backend was killed', sub { defined $self->ask('SELECT 1') });
	return 1;
}

# a delivery worker that is killed, and the server with it; and one that is told to end
sub kill_worker
{
	my $self = shift;
	return $self->of_worker(sub { kill 'KILL', shift });
}

sub end_worker
{
	my $self = shift;
	return $self->of_worker(sub { defined $self->ask("SELECT pg_terminate_backend($_[0])") });
}

sub of_worker
{
	my ($self, $what) = @_;
	my @pids = split /,/, $self->ask(q{SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE backend_type LIKE 'evtstore delivery%'}) // '';

	return 0 unless @pids && $what->($pids[ rand @pids ]);
	poll_until('the server after that', sub { defined $self->ask('SELECT 1') });
	return 1;
}

# how often each happened
sub summary
{
	my $self = shift;
	return join ' ', map { "$_: $self->{happened}{$_}" } sort keys %{ $self->{happened} };
}

# Was it worth it?  A test for each way
sub check
{
	my $self = shift;

	cmp_ok($self->{happened}{$_} // 0, '>', 0, "there was: $_") foreach sort keys %{ $self->{every} };
	return;
}

1;
