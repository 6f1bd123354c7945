
=head1 NAME

EvtReceiver - test/transport/receiver.c, built and run: the other side of HTTP endpoints

=head1 SYNOPSIS

	use EvtReceiver;

	my $receiver = EvtReceiver->new;                        # on loopback; EvtReceiver->new(cert => ..., key => ...) over TLS
	my $url      = $receiver->url('/orders');
	$receiver->set('/orders', status => 503, retry_after => 2, first => 3);      # the head of receiver.c has all of it
	$receiver->clear('/orders');                            # answers with 204 again, what hangs, too
	my ($requests, $in_flight, $most, $connections) = $receiver->stats('/orders');
	my @got = $receiver->requests('/orders');               # hashes: path status id key sequence n attempt replay connection under_way
	$receiver->wait_count('/orders', 20);                   # answered with 2xx
	$receiver->end('KILL');
	$receiver->start;                                       # on the ports that it had, with the record that it had, and no rules

	is(out_of_order(@got), '', 'order of each key');

=cut

package EvtReceiver;

use strict;
use warnings;

use EvtTest;
use EvtTransport;
use Exporter qw(import);
use IO::Socket::INET;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(out_of_order);

my $receivers = 0;
my $program;

sub new
{
	my ($class, %option) = @_;
	my $self = bless {
		%option,
		record => "$PostgreSQL::Test::Utils::tmp_check/got_" . ++$receivers,
		scheme => $option{cert} ? 'https' : 'http',
	}, $class;

	$program //= build_tool('receiver', '-lssl', '-lcrypto') // die "test/transport/receiver.c does not build: see log/build_receiver.log\n";
	$self->start;
	return $self;
}

sub start
{
	my $self = shift;
	my $file = "$self->{record}.port";

	unlink $file;
	$self->{pid} = start_process(
		'receiver', $program, '--record', $self->{record}, '--port-file', $file, '--port', $self->{port} // 0, '--control-port', $self->{control} // 0,
		$self->{cert} ? ('--cert', $self->{cert}, '--key', $self->{key}) : ());
	@$self{qw(port control)} = @{ poll_until('the receiver to listen', sub { -s $file && [ slurp_file($file) =~ /^(\d+) (\d+)\n/ ] }, 30) };
	return;
}

sub end
{
	my ($self, $signal) = @_;
	end_process(delete $self->{pid}, $signal) if $self->{pid};
	return;
}

sub url
{
	my ($self, $path, $host) = @_;
	return "$self->{scheme}://" . ($host // '127.0.0.1') . ":$self->{port}$path";
}

sub tell
{
	my ($self, @words) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{control}) or die "the receiver does not listen: $!\n";

	syswrite $socket, "@words\n";
	my $answer = <$socket>;
	die "the receiver does not answer: @words\n" unless defined $answer;
	die "the receiver did not understand: @words\n" if $answer =~ /^not/;
	return $answer;
}

sub set
{
	my ($self, $path, @rule) = @_;
	my @words;

	while (my ($name, $value) = splice @rule, 0, 2)
	{
		push @words, "$name=$value";
	}
	return $self->tell('set', $path, @words);
}

sub clear { return $_[0]->tell('clear', $_[1]) }
sub reset { return $_[0]->tell('reset', $_[1]) }
sub stats { return split ' ', $_[0]->tell('stats', $_[1]) }

# in the order in which they arrived; a line that is being written is left for the next look
sub requests
{
	my ($self, $path) = @_;
	my @names = qw(path status id key sequence n attempt replay connection under_way);
	my @requests;

	return () unless -s $self->{record};
	foreach my $line (slurp_file($self->{record}) =~ /^(.+)\n/mg)
	{
		my %request;
		@request{@names} = split /\t/, $line, -1;
		push @requests, \%request if !defined $path || $request{path} eq $path;
	}
	return @requests;
}

# those that were answered with success
sub accepted
{
	my ($self, $path) = @_;
	return grep { $_->{status} =~ /^2/ } $self->requests($path);
}

sub wait_count
{
	my ($self, $path, $n, $seconds) = @_;
	poll_until("$n requests to $path", sub { (my @all = $self->accepted($path)) >= $n }, $seconds);
	return $self->accepted($path);
}

#
# What is not in the order of its key; '' when all is.  The contract is at least once: an event that was sent, and is not settled when the
# relay ends, comes again, and with it those of its key that follow it.  So after n of a key that was accepted comes n + 1, or one that was
# there before; after n that was not accepted, n or one before it.  Never one that skips another.  n begins at 1 for each key and goes up by 1.
#
sub out_of_order
{
	my (%last, @wrong);

	foreach my $request (@_)
	{
		my ($key, $n, $status) = @$request{qw(key n status)};
		my $last = $last{$key} // 0;

		push @wrong, "$key: $n after $last" if $n > $last + 1;
		$last{$key} = $status =~ /^2/ ? $n : $n - 1;
	}
	return join '; ', @wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ];
}

1;
