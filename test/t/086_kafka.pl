# Kafka: what its transport does with a cluster whose brokers go, come, refuse and are slow; alone and below a store.
#
# First without a database, through test/transport/driver.c.  The cluster is librdkafka's mock behind test/transport/kafka_numbers.c,
# which minds the numbers of idempotent producers as the brokers of Kafka do: nothing comes after a gap, and what is sent again because
# its answer is missing is known again.
use strict;
use warnings;

use Cwd qw(abs_path);
use EvtChildren qw(start_child finish_children);
use EvtKafka;
use EvtKafkaWire;
use EvtTest;
use EvtTransport;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $library = transport_library('kafka');
plan skip_all => 'evtstore_kafka is not built' unless $library;
my $kafka   = start_kafka(3) or BAIL_OUT('the cluster does not build: see log/build_mock_kafka.log and log/build_kafka_numbers.log');
my $scratch = abs_path($PostgreSQL::Test::Utils::tmp_check);
# Kafka's codes
my ($UNKNOWN_TOPIC, $NOT_LEADER, $TIMED_OUT, $TOO_LARGE, $INVALID_TOPIC, $NOT_ENOUGH_REPLICAS, $FORBIDDEN) = (3, 6, 7, 10, 17, 19, 29);
my ($GAP, $OLD_EPOCH, $INVALID_RECORD) = (45, 47, 87);
my $PRODUCE = 0;
# librdkafka's: the connection is closed, and nothing done
my $CLOSED = -195;
# as librdkafka has it by default
my @several = ('--client', 'max.in.flight=5');

sub topic
{
	my ($topic, $partitions) = @_;

	$kafka->order("topic $topic $partitions");
	return ('--topic', $topic);
}


sub numbers
{
	return map { $_->{value} =~ /"n": ?(\d+)/ ? $1 : die "not understood: $_->{value}\n" } $kafka->read(@_);
}

# how many a run has delivered
sub delivered_so_far
{
	my $run = shift;
	return 0 unless -e $run->{out};
	my ($n) = slurp_file($run->{out}) =~ /.*^at (\d+)$/ms;
	return $n // 0;
}

# what a run prints until there is a line for its first message
sub first_outcome
{
	my $run = start_drive($library, @_, '--timeout', 3000, '--deadline', 60000);

	poll_until('an outcome', sub { -e $run->{out} && slurp_file($run->{out}) =~ /^(?:1 outcome|delivered)=.*\n/m });
	end_process($run->{pid});
	return slurp_file($run->{out});
}

# A run while something is done to the brokers, again and again each time that some more is delivered, and before the last ones are begun.
# What may be there twice is what has come back as something of which nobody knows whether it arrived.
sub disturbed
{
	my ($what, $topic, $count, $disturb, @arguments) = @_;
	my $until = "$scratch/$topic.until";
	my $allow = sub {
		append_to_file("$until.new", shift);
		rename "$until.new", $until or die "$until: $!";
	};
	$allow->(3000);
	my $run = start_drive($library, $kafka->{url}, topic($topic, 12), '--count', $count, '--keys', 100, '--in-flight', 500, '--progress', 500,
		'--rate', 8000, '--deadline', 90000, '--until', $until, @arguments);
	my $times = 0;
	my $seen  = 0;

	while ($seen + 3000 < $count)
	{
		$seen = poll_until("$what: more than $seen", sub { my $n = delivered_so_far($run); $n >= $seen + 1500 ? $n : 0 }, 60);
		$allow->($seen + 3000);
		$disturb->($run, $times++);
	}
	$allow->($count);
	is(finish_drive($run), 0, "$what: the end is reached") or diag(slurp_file($run->{out}) =~ /(.*)\z/s);
	cmp_ok($times, '>=', 3, "$what: three times or more");
	my $out = slurp_file($run->{out});
	unlike($out, qr/^disordered=/m, "$what: outcomes in the order of each key");
	my %rejected = map { $_ => 1 } $out =~ /^(\d+) outcome=2 /mg;
	my %unknown  = map { $_ => 1 } $out =~ /^(\d+) outcome=1 /mg;
	my ($faults, @twice) = faults([ numbers($topic, 12), keys %rejected ], 1, $count, 100);
	is($faults, '', "$what: nothing lost, the order of each key") unless %rejected;
	is(join(' ', grep { !/lost/ } split /, /, $faults =~ s/\d+ after \d+//gr), '', "$what: nothing lost") if %rejected;
	is(join(' ', grep { !$unknown{$_} } @twice), '', "$what: nothing twice" . (%unknown ? ', but what nobody knew of' : ''));
	return ($out, \%rejected);
}

subtest 'what arrives' => sub {
	my ($status) = drive($library, $kafka->{url}, topic('plain', 1), '--count', 2);
	is($status, 0, 'delivered');
	my @got = $kafka->read('plain', 1);
	is(scalar @got, 2, 'both are there');
	is_deeply(
		$got[0],
		{
			partition => 0,
			offset    => 0,
			key       => 'k1',
			value     => '{"n": 1}',
			headers   => {
				'content-type' => 'application/json',
				'ce-id'        => '00000000-0000-4000-8000-000000000001',
				'ce-type'      => 'Driven',
				'ce-sequence'  => '1'
			}
		},
		'key, body, headers, and Content-Type as Kafka has it');
	($status) = drive($library, "kafka://127.0.0.1:1,$kafka->{servers}", '--topic', 'plain', '--from', 3);
	is($status, 0, 'a list of brokers: the next one when one is not there');

	# as Kafka's own clients choose: murmur2 of the key
	drive($library, $kafka->{url}, topic('spread', 12), '--count', 10);
	is(join(' ', map { "$_->{key}:$_->{partition}" } sort { $a->{key} cmp $b->{key} } $kafka->read('spread', 12)),
		'k0:5 k1:5 k2:9 k3:4 k4:4 k5:0 k6:1 k7:4 k8:2 k9:8', 'the partitions of keys');
};

subtest 'what is refused before anything is sent' => sub {
	my $refused = sub {
		my ($what, $says, @arguments) = @_;
		my ($status, $out) = drive($library, $kafka->{url}, '--topic', 'plain', '--deadline', 2000, @arguments);
		like($out, qr/^$says/, $what);
	};
	$refused->("setting $_->[0]", qq(refused: client setting "\Q$_->[0]\E" is not yours to set: $_->[1]), '--client', "$_->[0]=1")
	  foreach ['bootstrap.servers', 'the url'], ['message.timeout.ms', q(the endpoint's "timeout")], ['acks', 'an event is delivered'],
	  ['retries', 'what librdkafka gives up'], ['enable.gapless.guarantee', 'it follows'], ['sasl.password', 'evtstore.set_endpoint_secret'],
	  ['ssl.key.pem', 'evtstore.set_endpoint_secret'], ['plugin.library.paths', 'a plugin'], ['dr_msg_cb', 'it is for programs'],
	  ['ut_handle_ProduceResponse', 'it is for programs'], ['test.mock.num.brokers', 'the url'];
	$refused->('an unknown setting', 'refused: client setting "nonsense": No such configuration property', '--client', 'nonsense=1');
	$refused->('a value that is none', 'refused: client setting "linger.ms": Invalid value', '--client', 'linger.ms=x');
	$refused->('TLS without the scheme', 'refused: security.protocol "ssl" is not for kafka://', '--client', 'security.protocol=ssl');
	$refused->('settings that do not fit', 'refused: `max.in.flight`', '--client', 'max.in.flight=10');
	$refused->('the random partitioner', 'refused: the partitioner "random"', '--client', 'partitioner=random');
	$refused->('half a secret', 'refused: the secret of kind sasl is', '--secret', 'sasl=shop');
	foreach ([ 'kafka://', 'without a host' ], [ 'kafka://h', 'needs its port' ], [ 'kafka://h:0', 'needs its port' ], [ 'kafka://u:p@h:1', 'set_endpoint_secret' ],
		[ 'kafka://h:1/t', 'is an option' ], [ 'kafka://h:1,', 'without a host' ], [ 'kafka://h:1;i:2', 'separated by commas' ], [ 'kafka://[::1:9', 'without a host' ])
	{
		my ($url, $says) = @$_;
		my (undef, $out) = drive($library, $url, '--deadline', 100);
		like($out, qr/^url: .*$says/, "url $url");
	}
	$refused->('no name for a topic', '1 outcome=2 status=0 .*no name for a topic of Kafka .*: a b', '--topic', 'a b');
	my (undef, $out) = drive($library, $kafka->{url}, '--deadline', 1000);
	like($out, qr/^1 outcome=2 status=0 .*the endpoint has no topic/, 'no topic');
};

subtest 'who is never dialled' => sub {
	my $out = first_outcome($kafka->{url}, topic('forbidden', 1), '--allow', '10.0.0.0/8');
	like($out, qr/^1 outcome=3 .*without TLS only addresses of evtstore.allowed_networks are talked to, and 127\.0\.0\.1:\d+ has none/, 'without TLS: what is not listed');
	$out = first_outcome($kafka->{url} =~ s/kafka/kafkas/r, '--topic', 'forbidden', '--allow', '');
	like($out, qr/^1 outcome=3 .*127\.0\.0\.1:\d+ has a loopback, private or special address/, 'with TLS: loopback that is not listed');
	is_deeply([ $kafka->read('forbidden', 1) ], [], 'nothing arrived');

	# the cluster names its brokers; ours is the url's, which is another address of this machine
	my $servers = $kafka->{servers} =~ s/127\.0\.0\.1/127.0.0.2/gr;
	SKIP:
	{
		skip 'the mock does not listen on 127.0.0.2', 1 unless IO::Socket::INET->new(PeerAddr => (split /,/, $servers)[0]);
		(undef, $out) = drive($library, "kafka://$servers", '--topic', 'forbidden', '--allow', '127.0.0.2/32', '--timeout', 1500, '--deadline', 3000);
		like($out, qr/^1 outcome=3 .*and 127\.0\.0\.1:\d+ has none/, 'a broker that the cluster named');
	}
};

subtest 'too large' => sub {
	my @large = ('--body', 'x' x 5000);
	my ($status, $out) = drive($library, $kafka->{url}, topic('large', 1), @large, '--count', 3, '--keys', 1, '--client', 'message.max.bytes=4000');
	like($out, qr/^1 outcome=2 status=$TOO_LARGE .*too large.*^2 outcome=3 .*an earlier one of its key failed/ms, 'for the client: at once, and none of its key passes');
	like($out, qr/rejected=3 .*left=0/, 'none of them ever goes');
	is(scalar($kafka->read('large', 1)), 0, 'nothing arrived');

	# for the broker: it refuses a batch of 20, then the one that it is told to
	$kafka->order("errors $PRODUCE 1 $TOO_LARGE");
	($status, $out) = drive($library, $kafka->{url}, '--topic', 'large', '--count', 20, '--client', 'linger.ms=200');
	is($status, 0, 'a batch is refused, but no message of it');
	like($out, qr/^delivered=20 repeated=0 rejected=0 unavailable=0/, 'they go one by one');
	is(join(' ', sort { $a <=> $b } numbers('large', 1)), join(' ', 1 .. 20), 'once each');
	$kafka->order("errors $PRODUCE 2 $INVALID_RECORD");
	($status, $out) = drive($library, $kafka->{url}, '--topic', 'large', '--from', 21, '--count', 20, '--client', 'linger.ms=200');
	like($out, qr/^21 outcome=2 status=$INVALID_RECORD .*\n(?:31 outcome=3 .*an earlier one of its key failed\n)?delivered=19 .*rejected=1 .*left=0/,
		'one that is refused alone is rejected, and the others go');
};

subtest 'topics that are not there' => sub {
	$kafka->order("refuse gone $UNKNOWN_TOPIC");
	like(first_outcome($kafka->{url}, '--topic', 'gone'), qr/^1 outcome=1 status=[03] .*[Uu]nknown topic/m, 'unknown');
	$kafka->order("refuse odd $INVALID_TOPIC");
	like(first_outcome($kafka->{url}, '--topic', 'odd'), qr/^1 outcome=1 status=(?:0|$INVALID_TOPIC) .*topic/m, 'invalid for the broker');
	topic('denied', 1);
	$kafka->order("errors $PRODUCE 1 $FORBIDDEN");
	like((drive($library, $kafka->{url}, '--topic', 'denied'))[1], qr/^1 outcome=1 status=$FORBIDDEN .*authorization failed: denied\n.*left=0/ms, 'not for us, and then it is');
};

sub times_said
{
	my ($run, $what) = @_;

	return scalar(() = slurp_file($run->{out}) =~ /$what/g);
}

# has it no message left that anything could happen to?
sub is_through
{
	my $run = shift;

	return slurp_file($run->{out}) =~ /^delivered=/m;
}

# what the rest of this file believes
subtest 'a cluster that minds numbers' => sub {
	topic('counted', 1);
	$kafka->order('leader counted 0 1');
	my @ports = $kafka->{servers} =~ /:(\d+)/g;
	my %wire  = map { $_ => EvtKafkaWire->new($ports[ $_ - 1 ]) } 1, 2;
	my $n     = 0;
	# the answer, as "CODE OFFSET", or "closed"
	my $says = sub {
		my ($broker, $epoch, $number, $count, %other) = @_;
		my @answer = $wire{$broker}->produce(topic => 'counted', producer => 7000, epoch => $epoch, number => $number,
			values => [ map { '{"n": ' . ++$n . '}' } 1 .. $count ], %other);
		return "@answer" || 'closed';
	};
	my $again = sub { my $broker = shift; $wire{$broker} = EvtKafkaWire->new($ports[ $broker - 1 ]) };

	is($says->(1, 0, 0, 2), '0 0',      'from 0 on');
	is($says->(1, 0, 2, 1), '0 2',      'the next one');
	is($says->(1, 0, 4, 1), "$GAP -1",  'not after a gap');
	is($says->(1, 0, 2, 1), '0 2',      'known again');
	is($says->(1, 0, 0, 2), '0 0',      'also the one before');
	is($says->(1, 0, 0, 1), "$GAP -1",  'but not a part of it');
	is($says->(2, 0, 4, 1), "$NOT_LEADER -1", 'by its leader only');
	is($says->(1, 1, 3, 1), "$GAP -1",  'a new epoch begins with 0');
	is($says->(1, 1, 0, 1), '0 3',      'so');
	is($says->(1, 0, 3, 1), "$OLD_EPOCH -1", 'an old epoch is over');
	is(join(' ', map { $says->(1, 1, $_, 1) } 1 .. 5), '0 4 0 5 0 6 0 7 0 8', 'one after the other');
	is($says->(1, 1, 1, 1), '0 4',      'the last five are known');
	is($says->(1, 1, 0, 1), "$GAP -1",  'and no more');

	$kafka->order("errors $PRODUCE 1 $NOT_ENOUGH_REPLICAS");
	is($says->(1, 1, 6, 1), "$NOT_ENOUGH_REPLICAS -1", 'what was refused');
	is($says->(1, 1, 7, 1), "$GAP -1",  'is missing');
	is($says->(1, 1, 6, 1), '0 9',      'until it comes');
	is($says->(1, 0, 2147483646, 2, producer => 8000), '0 10', 'whoever is not known: with any number');
	is($says->(1, 0, 0, 1, producer => 8000), '0 12', 'from the highest to 0');

	$kafka->order("errors $PRODUCE 1 $CLOSED");
	is($says->(1, 1, 7, 1), 'closed', 'no answer, and not done');
	$again->(1);
	is($says->(1, 1, 8, 1), "$GAP -1", 'it is missing');
	is($says->(1, 1, 7, 1), '0 13',    'until it comes');
	$kafka->order("late $PRODUCE 1 60000");
	$wire{1}->begin(topic => 'counted', producer => 7000, epoch => 1, number => 8, values => ['{"n": 0}']);
	poll_until('it is done', sub { scalar(my @got = $kafka->read('counted', 1)) == 15 });
	$kafka->order($_) foreach 'down 1', 'up 1';
	is(scalar(my @none = $wire{1}->finish), 0, 'no answer, and done');
	$again->(1);
	is($says->(1, 1, 9, 1), '0 15', 'the next one');
	is($says->(1, 1, 8, 1), '0 14', 'known again');
	is(scalar(my @all = $kafka->read('counted', 1)), 16, 'none of these is there twice');
};

subtest 'brokers that go and come' => sub {
	my $again = $kafka->decided('again');
	my ($out) = disturbed(
		'one after the other', 'away', 20000,
		sub {
			my ($run, $i) = @_;
			my $broker = $i % 3 + 1;
			my $before = -1;
			$kafka->order("down $broker");
			# the others go on until all that may be on its way waits for this one
			poll_until('a standstill', sub { my $n = delivered_so_far($run); my $still = $n == $before; $before = $n; $still });
			$kafka->order("up $broker");
		});
	unlike($out, qr/outcome=/, 'one after the other: nobody hears of it');

	$kafka->each('rtt', 20);
	($out) = disturbed(
		'slow ones whose connections break',
		'broken', 15000,
		sub {
			my ($run, $i) = @_;
			$kafka->order("$_ " . ($i % 3 + 1)) foreach qw(down up);
		});
	$kafka->each('rtt', 0);
	unlike($out, qr/outcome=/, 'slow ones whose connections break: nobody hears of it');
	cmp_ok($kafka->decided('again'), '>', $again, 'slow ones whose connections break: some had arrived, and were known again');

	($out) = disturbed(
		'all at once, for longer than a message has', 'dark', 15000,
		sub {
			my $run = shift;
			$kafka->each('down');
			my $before = times_said($run, qr/outcome=3/);
			poll_until('a timeout', sub { times_said($run, qr/outcome=3/) > $before || is_through($run) });
			$kafka->each('up');
		},
		'--timeout', 1000, '--rate', 4000);
	like($out, qr/outcome=3 .*no answer within 1000 ms: /, 'all at once: what was not sent was not to blame');

	($out) = disturbed(
		'silent', 'silent', 15000,
		sub {
			my $run = shift;
			$kafka->order('rtt 2 60000');
			my $before = times_said($run, qr/no answer within/);
			poll_until('a timeout', sub { times_said($run, qr/no answer within/) > $before || is_through($run) });
			# ends the connections, too, that have answers waiting
			$kafka->order($_) foreach 'rtt 2 0', 'down 2', 'up 2';
		},
		'--timeout', 1000, '--rate', 4000);
	like($out, qr/outcome=1 .*no answer within 1000 ms/, 'silent: of what was sent nobody knows');
};

subtest 'leaders that change' => sub {
	# each partition's, to another broker
	my $change = sub {
		my ($what, $topic, @arguments) = @_;
		my ($out)  = disturbed(
			$what, $topic, 15000,
			sub {
				my ($run, $i) = @_;
				$kafka->order("leader $topic $_ " . (($_ + $i) % 3 + 1)) foreach 0 .. 11;
			},
			@arguments);
		unlike($out, qr/outcome=/, "$what: nobody hears of it");
	};
	my $gaps = $kafka->decided('gap');

	$change->('at once',            'led');
	$change->('several requests',   'led_several', @several);
	$kafka->each('rtt', 10);
	$change->('slowly',             'led_slowly', '--rate', 3000);
	$change->('several slow requests', 'led_slowly_several', '--rate', 3000, @several);
	$kafka->each('rtt', 0);
	# of the several ones, now and then: it may be that all of a partition's are refused for their leader
	note($kafka->decided('gap') - $gaps . ' requests were refused because they came behind a gap');
};

# Brokers take any number of a producer that they know nothing of in a partition: behind a first request that was refused they would take
# the second one, were it on its way.
subtest 'leaders that change when a producer is new' => sub {
	foreach my $i (1 .. 3)
	{
		my @new = topic("new$i", 12);
		$kafka->each('rtt', 100);
		$kafka->order("errors $PRODUCE 12 $_") foreach $NOT_LEADER, $NOT_ENOUGH_REPLICAS;
		my ($status) = drive($library, $kafka->{url}, @new, '--count', 300, '--keys', 100, '--in-flight', 500, '--rate', 200, '--deadline', 40000);
		is($status, 0, "$i: the end is reached");
		$kafka->each('rtt', 0);
		my ($faults, @twice) = faults([ numbers("new$i", 12) ], 1, 300, 100);
		is($faults,  '', "$i: nothing lost, the order of each key");
		is("@twice", '', "$i: nothing twice");
	}
};

subtest 'requests that are refused' => sub {
	my ($out) = disturbed('for now', 'busy', 15000, sub { $kafka->order("errors $PRODUCE 3 $NOT_LEADER"); $kafka->order("errors $PRODUCE 2 $TIMED_OUT") });
	unlike($out, qr/outcome=/, 'for now: nobody hears of it');
	$kafka->order("forget $PRODUCE");

	($out) = disturbed('for good', 'closed', 15000, sub { $kafka->order("errors $PRODUCE 1 $FORBIDDEN") });
	like($out, qr/outcome=1 status=$FORBIDDEN .*authorization failed: closed/, 'for good: the refused ones say so');
	unlike($out, qr/outcome=1 status=0/, 'for good: only they are repeated');
	$kafka->order("forget $PRODUCE");

	($out, my $rejected) = disturbed('for what they are', 'picky', 15000, sub { $kafka->order("errors $PRODUCE 2 $TOO_LARGE") });
	cmp_ok(scalar(keys %$rejected), '<=', 2 * (() = $out =~ /outcome=2/g), 'for what they are: few are rejected');
	$kafka->order("forget $PRODUCE");
};

subtest 'without idempotence, as for old brokers' => sub {
	disturbed(
		'refused', 'old', 10000,
		sub { $kafka->order("errors $PRODUCE 1 $FORBIDDEN"); $kafka->order("errors $PRODUCE 2 $NOT_LEADER") },
		'--client', 'enable.idempotence=false');
	$kafka->order("forget $PRODUCE");
};

subtest 'a key in several topics' => sub {
	foreach my $i (0 .. 2)
	{
		topic("many$i", 1);
		$kafka->order("leader many$i 0 " . ($i + 1));
	}
	$kafka->order('rtt 1 100');
	my ($status, $out) = drive($library, $kafka->{url}, '--topic', 'many', '--topics', 3, '--count', 60, '--keys', 10, '--in-flight', 60);
	is($status, 0, 'delivered');
	unlike($out, qr/^disordered=/m, 'each after the one before it of its key, also where one of the brokers is slow');
	$kafka->each('rtt', 0);
	my @numbers = map { numbers("many$_", 1) } 0 .. 2;
	is(scalar(@numbers), 60, 'once each');
};

subtest 'TLS' => sub {
	plan skip_all => 'no openssl' if system('openssl version >/dev/null 2>&1');
	my $pki = "$scratch/kafka_pki";
	my $log = abs_path($PostgreSQL::Test::Utils::log_path) . '/kafka_openssl.log';
	mkdir $pki or die "$pki: $!";
	my $make = sub {
		my ($name, @extra) = @_;
		system(qq(cd $pki && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout $name.key -out $name.crt )
			  . qq(-subj /CN=$name @extra >>$log 2>&1)) == 0
		  or die "openssl: see log/kafka_openssl.log";
	};
	$make->('ca');
	$make->('server', '-addext subjectAltName=DNS:localhost -CA ca.crt -CAkey ca.key -addext basicConstraints=CA:FALSE');
	$make->('client', '-CA ca.crt -CAkey ca.key -addext basicConstraints=CA:FALSE');
	# no broker: how far the handshake goes is all that is wanted
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $peer = start_process('kafka_tls_peer', 'openssl', 's_server', '-accept', "127.0.0.1:$port", '-cert', "$pki/server.crt", '-key', "$pki/server.key",
		'-CAfile', "$pki/ca.crt", '-verify', 1, '-quiet', '-rev');
	poll_until('the peer', sub { listens($port) });
	my $to = sub {
		my ($host, @arguments) = @_;
		my (undef, $out) = drive($library, "kafkas://$host:$port", '--topic', 'plain', '--timeout', 1000, '--deadline', 1500, @arguments);
		return $out;
	};
	like($to->('localhost'), qr/^1 outcome=3 .*certificate/, 'an authority that the system does not know');
	like($to->('127.0.0.1', '--tls-ca', "$pki/ca.crt"), qr/^1 outcome=3 .*(?:certificate|mismatch)/, 'another name');
	unlike($to->('localhost', '--tls-ca', "$pki/ca.crt"), qr/certificate/, 'the right one');
	unlike($to->('127.0.0.1', '--no-verify'), qr/certificate/, 'anybody, where a superuser says so');
	my $said = "$PostgreSQL::Test::Utils::log_path/kafka_tls_peer.log";
	unlike(slurp_file($said), qr/CN ?= ?client/, 'no certificate of ours so far');
	$to->('localhost', '--tls-ca', "$pki/ca.crt", '--secret', 'tls=' . slurp_file("$pki/client.key") . slurp_file("$pki/client.crt"));
	like(slurp_file($said), qr/CN ?= ?client/, 'with ours');
	like($to->('localhost', '--tls-ca', "$scratch/none.crt"), qr/^refused: ssl\.ca\.location failed/, 'a file that is not there');
	end_process($peer);
};

# Ends must come soon, and never by a signal: a worker that crashes restarts the whole server.
subtest 'the end of the process' => sub {
	# takes connections and says nothing
	my $silent = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "listen: $!";
	my @ends   = topic('ends', 12);

	foreach my $how ([], ['--abrupt'])
	{
		my $end = sub {
			my ($what, @arguments) = @_;
			my $begin = time;
			my ($status, $out) = drive($library, @arguments, @ends, @$how);
			cmp_ok($status, '<', 2, "$what @$how: no signal, no fault") or diag($out);
			cmp_ok(time - $begin, '<', 4, "$what @$how: soon");
		};
		$end->('a broker that says nothing', 'kafka://127.0.0.1:' . $silent->sockport, '--deadline', 300);
		$end->('a name that nobody knows', 'kafka://nowhere.invalid:9092', '--deadline', 300);
		$end->('at once', $kafka->{url}, '--deadline', 0);
		$end->('in full flight', $kafka->{url}, '--count', 200_000, '--keys', 1000, '--in-flight', 1000, '--deadline', 300);
		$kafka->each('rtt', 60000);
		$end->('in flight to slow brokers', $kafka->{url}, '--count', 20000, '--keys', 4000, '--in-flight', 4000, '--body', 'z' x 1000, '--deadline', 500);
		$kafka->each('rtt',  0);
		$kafka->each('down');
		$kafka->each('up');
	}
};

# The whole way: appended by several at once, sent by the relay, taken by the cluster, while each of them is killed.
subtest 'below a store' => sub {
	my $node  = new_node('store', conf => "restart_after_crash = on\nlog_statement = none\n");
	my $retry = q{options => '{"retry": {"initial": "50ms", "max_delay": "500ms", "max_attempts": 0}}'};
	my $quick = '"timeout": "2s", "max_in_flight": 500, "breaker": {"open_for": "100ms", "max_open_for": "500ms"}';
	# their endpoint's topic has their category
	my $make = sub {
		my ($category, $options) = @_;
		topic("orders.$category", 12);
		$node->safe_psql('postgres',
			qq(SELECT evtstore.create_endpoint('$category', '$kafka->{url}', '{"topic": "orders.\${category}", $quick $options}');)
			  . qq(SELECT evtstore.create_subscription('$category', '{"categories": ["$category"]}', '$category', $retry)));
	};
	# events 1 to n by several writers, each with keys of its own.  A reply may be lost with the server: the same ids again are the same events
	my $append = sub {
		my ($category, $n, $writers) = @_;
		foreach my $writer (0 .. $writers - 1)
		{
			start_child(
				"appender $category $writer",
				sub {
					for (my $from = 1; $from <= $n; $from += 500)
					{
						my $sql = sprintf q{SELECT count(*) FROM generate_series(%d, %d) n, evtstore.append('%s-' || n %% 100, 'T',}
						  . q{ jsonb_build_object('n', n), id => md5('%s' || n)::uuid) WHERE n %% 100 %% %d = %d},
						  $from, $from + 499, $category, $category, $writers, $writer;
						poll_until("$from", sub { my $out; my $s = eval { $node->psql('postgres', $sql, stdout => \$out) }; defined $s && $s == 0 });
					}
				});
		}
	};
	# how many are settled; 0: the server is not there now
	my $settled = sub {
		my $category = shift;
		my $out      = '';
		eval {
			$node->psql(
				'postgres',
				"SELECT (SELECT count(*) FROM evtstore.events WHERE category = '$category') - lag_events"
				  . " FROM evtstore.subscription_status WHERE name = '$category'",
				stdout => \$out);
		};
		return $out =~ /^(\d+)$/ ? $1 : 0;
	};
	my $judge = sub {
		my ($category, $n) = @_;
		is(finish_children("appender $category", 120), '', 'all were appended');
		poll_until('all settled', sub { $settled->($category) == $n });
		return faults([ numbers("orders.$category", 12) ], 1, $n, 100);
	};

	$make->('cart', '');
	$append->('cart', 5000, 2);
	while ((my $n = $settled->('cart')) < 4000)
	{
		$kafka->order("errors $PRODUCE 3 $NOT_LEADER");
		poll_until("more than $n", sub { $settled->('cart') > $n });
	}
	my ($faults, @twice) = $judge->('cart', 5000);
	is($faults, '', 'nobody killed: nothing lost, the order of each key');
	is("@twice", '', 'nobody killed: nothing twice, though requests were refused now and then');
	$kafka->order("forget $PRODUCE");

	# slowly, so that events do not run out before everybody has been killed
	$make->('shop', ', "rate": 200');
	$append->('shop', 20000, 4);
	my $seen  = 0;
	# brokers are back when something has failed
	my $away = sub {
		my @brokers = @_;
		my $before  = $node->safe_psql('postgres', q{SELECT failed FROM evtstore.endpoint_status WHERE name = 'shop'});
		$kafka->order("down $_") foreach @brokers;
		poll_sql($node, qq{SELECT failed > $before FROM evtstore.endpoint_status WHERE name = 'shop'});
		$kafka->order("up $_") foreach @brokers;
	};
	my @how = (
		broker => sub { $away->(1) },
		relay  => sub { kill9(worker_pid($node, 'relay')); poll_sql($node, 'SELECT true') },
		all    => sub { $away->(1 .. 3) },
		server => sub { crash($node) });
	foreach (1 .. @how)
	{
		# not what is settled: after a crash that lags behind, and events run out
		$seen = poll_until("more than $seen", sub { my $n = () = numbers('orders.shop', 12); $n > $seen ? $n : 0 });
		my ($name, $disturb) = splice @how, 0, 2;
		push @how, $name, $disturb;
		$disturb->();
	}
	cmp_ok($seen, '<', 20000, 'all of them twice, while events were on their way');
	$node->safe_psql('postgres', q(SELECT evtstore.alter_endpoint('shop', '{"rate": null}')));
	($faults, @twice) = $judge->('shop', 20000);
	is($faults, '', 'nothing lost, the order of each key');
	note(scalar(@twice) . ' are there twice');
	$node->stop;
};

done_testing();
