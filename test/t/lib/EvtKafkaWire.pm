
=head1 NAME

EvtKafkaWire - a producer that says what it is told to, with whatever numbers, over Kafka's protocol

=head1 SYNOPSIS

	use EvtKafkaWire;

	my $wire = EvtKafkaWire->new($port);                    # of a broker
	my ($code, $offset) = $wire->produce(topic => 't', producer => 7000, epoch => 0, number => 0, values => [ 'a', 'b' ]);
	$wire->produce(...) or die 'the connection has ended before an answer';

Partition 0.  The records have no keys, no headers, and no valid checksum: for the mock, which does not look at it.

=cut

package EvtKafkaWire;

use strict;
use warnings;

use IO::Socket::INET;

sub new
{
	my ($class, $port) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 10) or die "port $port: $!";

	return bless { socket => $socket, requests => 0 }, $class;
}

# of a number that is not negative, as records have them
sub varint
{
	my $zigzag = 2 * shift;
	my $bytes  = '';

	while ($zigzag > 127)
	{
		$bytes .= chr($zigzag & 127 | 128);
		$zigzag >>= 7;
	}
	return $bytes . chr $zigzag;
}

sub string
{
	my $text = shift;
	return pack('n/a*', $text);
}

# a batch of format 2; lengths count what follows them
sub batch
{
	my ($producer, $epoch, $number, @values) = @_;
	my $records = '';

	foreach my $i (0 .. $#values)
	{
		# attributes, milliseconds since the first, place, no key, value, no headers
		my $record = "\0" . varint(0) . varint($i) . chr(1) . varint(length $values[$i]) . $values[$i] . varint(0);
		$records .= varint(length $record) . $record;
	}
	my $rest = pack('N c N n N q> q> q> s> l> N', 0, 2, 0, 0, $#values, 0, 0, $producer, $epoch, $number, scalar @values) . $records;
	return pack('q> N', 0, length $rest) . $rest;
}

sub read_bytes
{
	my ($self, $n) = @_;
	my $bytes = '';

	while (length $bytes < $n)
	{
		sysread($self->{socket}, $bytes, $n - length $bytes, length $bytes) or return;
	}
	return $bytes;
}

# code and offset; nothing: the connection has ended
sub produce
{
	my ($self, %o) = @_;

	$self->begin(%o);
	return $self->finish;
}

sub begin
{
	my ($self, %o) = @_;
	my $batch   = batch($o{producer}, $o{epoch}, $o{number}, @{ $o{values} });
	my $request = pack('n n N', 0, 7, ++$self->{requests}) . string('wire') . pack('n n N N', 0xffff, 0xffff, 10000, 1)
	  . string($o{topic}) . pack('N N N/a*', 1, 0, $batch);

	print { $self->{socket} } pack('N/a*', $request);
	$self->{socket}->flush;
	return;
}

sub finish
{
	my $self   = shift;
	my $size   = $self->read_bytes(4) // return;
	my $answer = $self->read_bytes(unpack 'N', $size) // return;

	# correlation, one topic and its name, one partition and its number
	my (undef, undef, undef, undef, undef, $code, $offset) = unpack 'N N n/a* N N s> q>', $answer;
	return ($code, $offset);
}

1;
