package Writer;

#
# Writer.pm: the processes that append: importers of the log, and a rival who writes to the same streams.
#
# Each is a process with a session of its own.  It reads commands from one pipe and reports to another, one short line
# each, so that reports of several writers do not mix:
#
#	parent -> writer	N		append up to your Nth event; the end of the pipe: that was all
#	writer -> parent	NAME ready | done N | conflict | duplicate | reconnect | failed TEXT
#
# A writer appends under optimistic concurrency: it names the version that it knows.  Where somebody else was faster
# (ST001) it reads the version and tries again.  Where the answer was lost with the session it tries again with the same
# event id and the same expectation, and is told "duplicate" if the first attempt had been committed.
#
use strict;
use warnings;

use POSIX ();
use Time::HiRes qw(time sleep);

use DpkgLog;
use Session;

my $PATIENCE = 120;    # seconds that a writer waits for the server to come back

# The life of a writer's process, which does the work and ends.
sub main
{
	my ($self, $work) = @_;

	bless $self, __PACKAGE__;
	$SIG{$_} = 'DEFAULT'
	  foreach qw(INT TERM HUP);
	my $ok = eval { $self->connect_again; $self->report('ready'); $work->($self); 1 };
	$self->report('failed ' . $@ =~ s/\s+/ /gr) unless $ok;
	$self->{session}->close if $self->{session};
	# nothing of the parent's is to run here: no END, no destructors
	POSIX::_exit($ok ? 0 : 1);
}

# the work of an importer: its events in order
sub import_events
{
	my ($self, $events) = @_;

	return $self->work(sub { $self->append($events->[ $_[0] ]) });
}

# the work of the rival: events of its own, in the streams in which something happens just now
sub disturb
{
	my $self = shift;

	return $self->work(
		sub {
			my $stream = $self->recent_stream;

			# read, decide, write: whoever writes in between makes it a conflict
			$self->{version}{$stream} = $self->stream_version($stream);
			$self->append(
				{
					stream => $stream,
					type   => 'PackageReviewed',
					id     => DpkgLog::event_id('rival', $_[0]),
					data   => '{"by": "rival"}'
				});
		});
}

# the work of who counts the packages: one event after the other at a steady rate, whose time is what we want to know
sub append_steadily
{
	my ($self, $events, $rate) = @_;
	my $started;

	return $self->work(
		sub {
			my $n     = shift;
			my $event = $events->[$n];

			$self->{version}{ $event->{stream} } = $self->stream_version($event->{stream});
			$started //= time;
			# sleep: the pace, nothing is waited for
			my $wait = $started + $n / $rate - time;
			sleep $wait if $wait > 0;
			$self->append($event);
		});
}

# calls the function with 0, 1, 2 ... as far as the parent says
sub work
{
	my ($self, $one) = @_;
	my $done = 0;

	while (defined(my $limit = readline $self->{commands}))
	{
		while ($done < $limit)
		{
			$one->($done);
			$self->report('done ' . ++$done);
		}
	}
	return;
}

# appends one event, whatever it takes
sub append
{
	my ($self, $event) = @_;
	my $stream = $event->{stream};

	while (1)
	{
		my $expected = $self->{version}{$stream} // 0;
		my ($state, $message, @rows) = $self->{session}->query(
			sprintf 'SELECT version, duplicate FROM evtstore.append(%s, %s, %s, expected_version => %d, id => %s, '
			  . 'occurred_at => %s)',
			(map { Session::literal($_) } $stream, @$event{qw(type data)}),
			$expected, map { Session::literal($_) } @$event{qw(id occurred_at)});

		if (!defined $state)
		{
			# was it committed?  The same attempt again gives the answer
			$self->connect_again;
			$self->report('reconnect');
		}
		elsif ($state eq '00000')
		{
			$self->{version}{$stream} = $rows[0][0];
			$self->report('duplicate') if $rows[0][1] eq 't';
			return;
		}
		elsif ($state eq 'ST001')
		{
			$self->report('conflict');
			$self->{version}{$stream} = $self->stream_version($stream);
		}
		else
		{
			die "append to $stream: $state $message\n";
		}
	}
}

sub stream_version
{
	my ($self, $stream) = @_;

	return $self->rows('SELECT evtstore.stream_version(' . Session::literal($stream) . ')')->[0][0];
}

sub recent_stream
{
	my $self = shift;
	my $rows = $self->rows("SELECT stream FROM evtstore.read_category('package', max_count => 8, backwards => true)");

	die "no stream to write to\n" unless @$rows;
	return $rows->[ rand @$rows ][0];
}

# of a query that may be repeated
sub rows
{
	my ($self, $sql) = @_;

	while (1)
	{
		my ($state, $message, @rows) = $self->{session}->query($sql);

		return \@rows if defined $state && $state eq '00000';
		die "$sql: $state $message\n" if defined $state;
		$self->connect_again;
		$self->report('reconnect');
	}
}

sub connect_again
{
	my $self     = shift;
	my $deadline = time + $PATIENCE;

	until ($self->{session} = Session->connect_now($self->{options}, $self->{log}))
	{
		die "no connection within $PATIENCE s\n" if time > $deadline;
		sleep 0.05;
	}
	return;
}

sub report
{
	my ($self, $what) = @_;

	syswrite $self->{reports}, "$self->{name} $what\n";
	return;
}

1;
