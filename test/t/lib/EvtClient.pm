=head1 NAME

EvtClient - a client's connection that is made again when it is lost

=head1 SYNOPSIS

	my $client = EvtClient->new($node, 'the name of the application');
	my $rows = $client->do('SELECT ...', ST007 => 1) // next;

What may happen to a statement while sessions are terminated and servers crash is not worth a word; what must not is fatal.

=cut

package EvtClient;

use strict;
use warnings;

use EvtWire;

sub new
{
	my ($class, $node, $application) = @_;
	return bless { node => $node, application => $application }, $class;
}

# the rows; undef where it failed, by an end of the session, a deadlock or an SQLSTATE that the caller expects: then the
# transaction is over
sub do
{
	my ($self, $sql, %allowed) = @_;

	$self->{wire} = EvtWire->new($self->{node}, 'postgres', $self->{application}) until $self->{wire} && $self->{wire}{socket};
	my $answer = $self->{wire}->query($sql);
	return $answer->{rows} if !defined $answer->{sqlstate} && !$answer->{lost};
	my $state = $answer->{sqlstate} // '';
	die "$state $answer->{message}\n$sql\n" unless $answer->{lost} || $state =~ /^(?:57P0[123]|57014|40P01|40001)$/ || $allowed{$state};
	$self->{wire}->query('ROLLBACK') unless $answer->{lost};
	return undef;
}

1;
