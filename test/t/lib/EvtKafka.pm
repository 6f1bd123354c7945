
=head1 NAME

EvtKafka - a Kafka cluster for tests: librdkafka's mock (test/transport/mock_kafka.c), and before it what it lacks
(test/transport/kafka_numbers.c), each in a process of its own

=head1 SYNOPSIS

	use EvtKafka;

	my $kafka = start_kafka(3) or plan skip_all => 'no librdkafka';
	$kafka->order('topic orders 12');
	drive($library, $kafka->{url}, '--topic', 'orders');
	$kafka->order('down 1');
	my @messages = $kafka->read('orders', 12);    # {partition, offset, key, value, headers => {...}}, in the order of each partition
	my ($faults, @twice) = faults([ map { n_of($_) } @messages ], 1, 20000, 100);
	my $n        = $kafka->decided('gap');        # batches that were refused because something was missing before them

The url leads through kafka_numbers, which minds the numbers of idempotent producers as real brokers do; $kafka->{servers} are its ports.
The mock itself takes what comes behind a gap, and has twice what is sent twice.  It keeps 5 MB for each partition; a topic of which
something is gone cannot be read.

=cut

package EvtKafka;

use strict;
use warnings;

use EvtTest;
use EvtTransport;
use Exporter qw(import);
use IPC::Open2 qw(open2);
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(start_kafka faults);

my @all;
my $main = $$;

# undef: it does not build
sub start_kafka
{
	my $brokers = shift;
	my $program = build_tool('mock_kafka', '-lrdkafka') or return;
	my $front   = build_tool('kafka_numbers', '-lpthread') or return;
	my $self    = bless { brokers => $brokers, log => "$PostgreSQL::Test::Utils::log_path/kafka_numbers_" . @all . '.log' }, __PACKAGE__;

	$self->{pid} = open2($self->{from}, $self->{to}, $program, $brokers);
	$self->{to}->autoflush(1);
	my $line = readline $self->{from};
	my ($mock) = $line =~ /^brokers (\S+)$/ or die "mock_kafka: $line";
	unlink $self->{log};
	start_process([ $self->{log} ], $front, $mock);
	$self->{servers} = poll_until('the ports of kafka_numbers',
		sub { -e $self->{log} && slurp_file($self->{log}) =~ /^brokers (\S+)\n/ ? $1 : undef });
	$self->{url}     = "kafka://$self->{servers}";
	push @all, $self;
	return $self;
}

# what it says before its ok
sub order
{
	my ($self, $command) = @_;
	my @lines;

	print { $self->{to} } "$command\n";
	while (my $line = readline $self->{from})
	{
		chomp $line;
		return @lines if $line eq 'ok';
		die "mock_kafka: $command: $1\n" if $line =~ /^fault (.*)/;
		push @lines, $line;
	}
	die "mock_kafka is gone: $command\n";
}

# each broker
sub each
{
	my ($self, $command, @arguments) = @_;

	$self->order(join ' ', $command, $_, @arguments) foreach 1 .. $self->{brokers};
	return;
}

sub read
{
	my ($self, $topic, $partitions) = @_;
	my @messages;

	foreach ($self->order("dump $topic $partitions"))
	{
		my ($partition, $offset, $key, $value, $headers) = /^(\d+) (\d+) (\S*) (.*?)((?: [\w-]+=\S*)*)$/ or die "not understood: $_\n";

		push @messages,
		  { partition => $partition, offset => $offset, key => $key, value => $value, headers => { $headers =~ /([\w-]+)=(\S*)/g } };
	}
	return @messages;
}

# how many batches kafka_numbers has decided upon so: gap, again, old
sub decided
{
	my ($self, $how) = @_;

	return scalar(() = slurp_file($self->{log}) =~ /^$how /mg);
}

# what it has of a topic is to be each of the numbers from one on, in the order of each key (number modulo nkeys) when that comes for the
# first time; and what it has more than once
sub faults
{
	my ($numbers, $from, $count, $nkeys) = @_;
	my (%seen, %last, @faults);
	my @twice;

	foreach my $n (@$numbers)
	{
		if ($seen{$n}++)
		{
			push @twice, $n;
			next;
		}
		push @faults, "$n after " . $last{ $n % $nkeys } if ($last{ $n % $nkeys } // 0) > $n;
		$last{ $n % $nkeys } = $n;
	}
	push @faults, "$_ lost" foreach grep { !$seen{$_} } $from .. $from + $count - 1;
	push @faults, 'strangers' if keys %seen > $count;
	@faults = (@faults[ 0 .. 4 ], scalar(@faults) . ' in all') if @faults > 5;
	return (join(', ', @faults), @twice);
}

END
{
	my $status = $?;
	foreach my $kafka ($$ == $main ? @all : ())
	{
		kill 'KILL', $kafka->{pid};
		waitpid $kafka->{pid}, 0;
	}
	$? = $status;
}

1;
