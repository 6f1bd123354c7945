package Crew;

#
# Crew.pm: the parent's side of the writers (Writer.pm): starts them, lets them go on, counts what they report.
#
use strict;
use warnings;

use IO::Handle;
use IO::Select;
use Time::HiRes qw(time);

use Writer;

# new(\@psql_options, $log, $patience): $patience is how long any wait may take, in seconds
sub new
{
	my ($class, $options, $log, $patience) = @_;
	my $self = bless {
		options  => $options,
		log      => $log,
		patience => $patience,
		writers  => {},
		count    => {},
		buffer   => ''
	}, $class;

	pipe $self->{reports}, $self->{reports_in} or die "pipe: $!\n";
	return $self;
}

# a writer with so many events to append; the function is called in its process, with the Writer
sub start
{
	my ($self, $name, $events, $work) = @_;
	my @others = map { $_->{commands} } values %{ $self->{writers} };

	pipe my $commands, my $commands_in or die "pipe: $!\n";
	my $pid = fork;
	die "fork: $!\n" unless defined $pid;
	if (!$pid)
	{
		# a pipe ends when nobody holds its other end: so let go of those of the writers before us too
		close $_ foreach $commands_in, $self->{reports}, @others;
		Writer::main(
			{
				name     => $name,
				options  => $self->{options},
				log      => $self->{log},
				commands => $commands,
				reports  => $self->{reports_in}
			},
			$work);
	}
	close $commands;
	$commands_in->autoflush(1);
	$self->{writers}{$name} = { pid => $pid, commands => $commands_in, events => $events, limit => 0, done => 0 };
	return;
}

sub names
{
	my ($self, $pattern) = @_;

	return grep { /$pattern/ } sort keys %{ $self->{writers} };
}

# lets a writer go on, up to its Nth event
sub let
{
	my ($self, $name, $limit) = @_;
	my $writer = $self->{writers}{$name};

	return if $limit <= $writer->{limit};
	$writer->{limit} = $limit;
	print { $writer->{commands} } "$limit\n" or die "$name is gone\n";
	return;
}

# events that the named writers appended, may append by now, have in all
sub done  { my ($self, @names) = @_; return $self->total('done',   @names) }
sub limit { my ($self, @names) = @_; return $self->total('limit',  @names) }
sub all   { my ($self, @names) = @_; return $self->total('events', @names) }

sub total
{
	my ($self, $what, @names) = @_;
	my $total = 0;

	$total += $self->{writers}{$_}{$what} foreach @names;
	return $total;
}

# how often all of them reported a conflict, a duplicate, a reconnect
sub count
{
	my ($self, $what) = @_;

	return $self->{count}{$what} // 0;
}

#
# Takes reports until the condition holds; it is asked after each portion of reports, and now and then.
#
sub wait_until
{
	my ($self, $what, $condition) = @_;
	my $deadline = time + $self->{patience};
	my $select   = IO::Select->new($self->{reports});

	until ($condition->())
	{
		die "$what: not within $self->{patience} s\n" if time > $deadline;
		$self->take_reports if $select->can_read(0.02);
	}
	return;
}

sub take_reports
{
	my $self = shift;

	sysread $self->{reports}, $self->{buffer}, 65536, length $self->{buffer} or die "reports of the writers: $!\n";
	while ($self->{buffer} =~ s/^(\S+) (\w+) ?(.*)\n//)
	{
		my ($name, $report, $rest) = ($1, $2, $3);

		die "$name failed: $rest\n" if $report eq 'failed';
		$self->{count}{$report}++;
		$self->{writers}{$name}{done} = $rest if $report eq 'done';
	}
	return;
}

# ends the writers, whatever they do
sub end
{
	my $self = shift;

	foreach my $writer (values %{ $self->{writers} })
	{
		close $writer->{commands};
		kill 'KILL', $writer->{pid};
		waitpid $writer->{pid}, 0;
	}
	$self->{writers} = {};
	return;
}

1;
