
=head1 NAME

EvtWire - a client of the server that can lose its connection at any byte

=head1 SYNOPSIS

	my $wire   = EvtWire->new($node, 'postgres', 'my test') or die;    # undef: the server is not there
	my $answer = $wire->query('SELECT 1');
	# { tag => 'SELECT 1', rows => [ [1] ] }, or { sqlstate => '22012', detail => ..., message => ... }, or
	# { lost => 1, sqlstate => '57P01' or undef }: nobody knows what became of the statement

	$wire->put('COMMIT');        # sent, not waited for
	$wire->cancel;               # as psql does on Ctrl-C
	$answer = $wire->take;
	$wire->close;                # without a word

The simple protocol over the server's socket, for tests that have to know which answer came and which did not; psql
does not tell, and cannot leave between a statement and its answer.

=cut

package EvtWire;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;

# no statement of a test takes longer; what does hangs
my $PATIENCE = 60;

sub new
{
	my ($class, $node, $database, $application) = @_;
	my $path   = $node->host . '/.s.PGSQL.' . $node->port;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or return undef;
	my $self   = bless { socket => $socket, path => $path, buffer => '' }, $class;
	my %start  = (user => $ENV{PGUSER}, database => $database, application_name => $application);

	local $SIG{PIPE} = 'IGNORE';
	my $body = pack('N', 196608) . join('', map { "$_\0$start{$_}\0" } sort keys %start) . "\0";
	syswrite $socket, pack('N', 4 + length $body) . $body;
	my $answer = $self->take;
	return $answer->{lost} || defined $answer->{sqlstate} ? undef : $self;
}

sub query
{
	my ($self, $sql) = @_;
	$self->put($sql);
	return $self->take;
}

sub put
{
	my ($self, $sql) = @_;
	my $packet = 'Q' . pack('N', 5 + length $sql) . "$sql\0";

	local $SIG{PIPE} = 'IGNORE';
	# where the connection is gone take() says so
	while ($self->{socket} && length $packet)
	{
		my $n = syswrite $self->{socket}, $packet;
		return unless defined $n;
		substr($packet, 0, $n) = '';
	}
	return;
}

# The answer to one statement.
sub take
{
	my $self   = shift;
	my $answer = { rows => [] };

	while (defined(my $message = $self->read_message))
	{
		my ($type, $body) = @$message;

		if ($type eq 'D')
		{
			my ($n, @row) = (unpack 'n', $body);
			my $at = 2;
			foreach (1 .. $n)
			{
				my $length = unpack 'l>', substr $body, $at, 4;
				push @row, $length < 0 ? undef : substr $body, $at + 4, $length;
				$at += 4 + ($length < 0 ? 0 : $length);
			}
			push @{ $answer->{rows} }, \@row;
		}
		elsif ($type eq 'C') { $answer->{tag} = $body =~ s/\0\z//r }
		elsif ($type eq 'A') { $self->{notices}++ }
		elsif ($type eq 'K') { @$self{qw(pid key)} = unpack 'NN', $body }
		elsif ($type eq 'E')
		{
			my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;
			@$answer{qw(severity sqlstate message detail)} = @field{qw(V C M D)};
		}
		elsif ($type eq 'Z')
		{
			$self->{status} = $body;
			return $answer;
		}
	}
	$self->close;
	return { lost => 1, sqlstate => $answer->{sqlstate}, message => $answer->{message} };
}

# Did something of the answer come within so many seconds?
sub ready
{
	my ($self, $seconds) = @_;
	return 1 unless $self->{socket};
	return length $self->{buffer} || IO::Select->new($self->{socket})->can_read($seconds);
}

sub cancel
{
	my $self   = shift;
	my $socket = IO::Socket::UNIX->new(Peer => $self->{path}) or return;

	local $SIG{PIPE} = 'IGNORE';
	syswrite $socket, pack 'NNNN', 16, 80877102, $self->{pid}, $self->{key};
	# closed by the server when the signal is sent
	sysread $socket, my $nothing, 1;
	close $socket;
	return;
}

sub close
{
	my $self = shift;
	close $self->{socket} if $self->{socket};
	delete $self->{socket};
	$self->{buffer} = '';
	return;
}

# [ type, body ]; undef when the connection is gone
sub read_message
{
	my $self = shift;

	while (1)
	{
		if (length $self->{buffer} >= 5)
		{
			my ($type, $length) = unpack 'a1N', $self->{buffer};
			if (length $self->{buffer} > $length)
			{
				my $body = substr $self->{buffer}, 5, $length - 4;
				substr($self->{buffer}, 0, $length + 1) = '';
				return [ $type, $body ];
			}
		}
		return undef unless $self->{socket};
		my $answered;
		# a child that ends in the meantime interrupts the waiting, where the server's test library has a handler for that
		do { $! = 0; $answered = IO::Select->new($self->{socket})->can_read($PATIENCE) } until $answered || !$!{EINTR};
		die "the server has not answered for $PATIENCE seconds\n" unless $answered;
		my $n = sysread $self->{socket}, $self->{buffer}, 65536, length $self->{buffer};
		return undef unless $n;
	}
}

1;
