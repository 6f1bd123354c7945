# Delivery to a real RabbitMQ, by the transport alone (test/transport/driver.c) and by the relay: what arrives, what comes of each
# way that the broker can refuse, and that nothing is lost, nor out of the order of its key, whoever is killed.
use strict;
use warnings;

use EvtRabbit;
use EvtTest;
use EvtTransport qw(transport_library start_drive finish_drive);
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'RabbitMQ is not installed' unless EvtRabbit::available();
my $library = transport_library('amqp');
plan skip_all => 'evtstore_amqp is not built' unless $library;

my $node   = new_node('main', conf => "restart_after_crash = on\nlog_statement = none\n");
my $rabbit = EvtRabbit->new(
	vhosts    => ['shop'],
	exchanges => { orders => 'topic' },
	queues    => { all => [ orders => 'order.#' ], wide => [ 'amq.topic' => 'wide.#' ], direct => [], idle => [] },
	users     => { shop => 'its:password', idle => 'idle', map { $_ => $_ } qw(plain secure huge) },
	conf      => "max_message_size = 10000000\n",
	tls       => 1);
my $url = $rabbit->url;
# a user of its own, whose lines in the log are its own; it takes its five seconds while others do something
my $idle = start_drive($library, $url, '--count', 2, '--keys', 1, '--topic', '/idle', '--client', 'heartbeat=1', '--gap', 5000, '--secret', 'sasl=idle:idle');

sub sql { return $node->safe_psql('postgres', shift) }

# What the driver printed in the end: the last line as a hash, and the lines for messages.
sub result_of
{
	my $run    = shift;
	my $status = finish_drive($run);
	my @lines  = split /\n/, slurp_file($run->{out});
	my $last   = pop @lines // '';

	diag("the driver was ended by a signal: $status") if $status > 255;
	return ($last =~ /^delivered=/ ? { $last =~ /(\w+)=(\d+)/g } : { said => $last }, @lines);
}

sub drive { return result_of(start_drive($library, @_)) }

# All of { what => [ where, options ] } side by side, since most of them wait: { what => what is said of the first message }.
sub drive_all
{
	my %to  = @_;
	my %run = map { $_ => start_drive($library, @{ $to{$_} }) } sort keys %to;
	my %said;

	foreach my $what (sort keys %run)
	{
		my ($result, @lines) = result_of($run{$what});
		$said{$what} = $lines[0] // $result->{said} // "delivered=$result->{delivered}";
	}
	return %said;
}

# The number of a message in what the driver sent.
sub number { return $_[0]{body} =~ /"n": ?(\d+)/ ? $1 : die "body $_[0]{body}" }

# Each of 1 .. count at least once, and the first times in order, key by key.
sub check_all
{
	my ($what, $count, $nkeys, $max_again, @messages) = @_;
	my (%seen, %last, @disorder);

	foreach my $message (@messages)
	{
		my $n   = number($message);
		my $key = $n % $nkeys;

		next if $seen{$n}++;
		push @disorder, "$n after $last{$key}" if defined $last{$key} && $n < $last{$key};
		$last{$key} = $n;
	}
	is(scalar(grep { !$seen{$_} } 1 .. $count), 0, "$what: nothing is lost");
	is(scalar(keys %seen), $count, "$what: and nothing else came");
	is("@disorder", '', "$what: in the order of each key");
	cmp_ok(@messages - $count, '<=', $max_again, "$what: " . (@messages - $count) . ' came again, of what was in flight');
	return;
}

subtest 'what arrives' => sub {
	my ($result) = drive($url, '--count', 3, '--topic', 'orders/order.placed.now');
	is($result->{delivered}, 3, 'delivered');
	my @got = $rabbit->drain('all');
	is(scalar(@got), 3, 'three came');
	is_deeply(
		$got[0],
		{
			id           => '00000000-0000-4000-8000-000000000001',
			exchange     => 'orders',
			routing_key  => 'order.placed.now',
			content_type => 'application/json',
			mode         => 2,
			app_id       => 'evtstore',
			body         => '{"n": 1}',
			headers      => { 'ce-id' => '00000000-0000-4000-8000-000000000001', 'ce-type' => 'Driven', 'ce-sequence' => 1 },
		},
		'persistent, with id, headers and body');
	is((drive($url, '--topic', 'wide.x'))[0]{delivered}, 1, 'without an exchange');
	is(($rabbit->drain('wide'))[0]{exchange}, 'amq.topic', 'it is amq.topic');
	is((drive($url, '--topic', '/direct'))[0]{delivered}, 1, 'without its name');
	is(($rabbit->drain('direct'))[0]{routing_key}, 'direct', 'the queue is named');
	is((drive("$url/%2f", '--topic', '/direct', '--secret', 'basic=guest:guest'))[0]{delivered}, 1, 'a virtual host and a password');
	is((drive($url, '--topic', '/direct', '--body', 'x' x 49999))[0]{delivered}, 1, 'a long body');
	is(length(($rabbit->drain('direct'))[1]{body}), 49999, 'is whole');
};

subtest 'what the broker does not take' => sub {
	my ($result, @lines) = drive($url, '--count', 30, '--keys', 30, '--topic', 'orders/nowhere', '--once');
	is($result->{repeated}, 30, 'unroutable: to be tried again');
	like($lines[0], qr/^\d+ outcome=1 status=312 .*312 NO_ROUTE/, 'with the broker\'s reason');

	($result, @lines) = drive($url, '--count', 30, '--keys', 30, '--topic', 'missing/x', '--once');
	is($result->{unavailable}, 30, 'no such exchange: no fault of the messages');
	like($lines[29], qr/status=404 .*NOT_FOUND - no exchange 'missing'/, 'with the reason');

	($result, @lines) = drive($url, '--topic', '/direct', '--count', 2, '--rest-size', 10_000_001);
	is($result->{rejected}, 1, 'too large: never again');
	like("@lines", qr/2 outcome=2 status=406 .*message size 10000001 is larger/, 'with the reason');
	is((drive($url, '--count', 5, '--topic', '/direct'))[0]{delivered}, 5, 'others go');

	($result, @lines) = drive($url, '--topic', 'orders/' . 'x' x 256);
	is($result->{rejected}, 1, 'a routing key that is too long');
	like($lines[0], qr/routing key is longer than 255 bytes/, 'with the reason');
	($result, @lines) = drive($url, '--once');
	like($lines[0], qr/outcome=3 .*no "topic"/, 'no topic');
	$rabbit->drain('direct');
};

subtest 'who is not let in, or does not go there' => sub {
	my %to = (
		password => [ $url, '--secret', 'sasl=guest:wrong' ],
		vhost    => ["$url/nowhere"],
		network  => [ $url, '--allow', '10.0.0.0/8' ],
		nobody   => [ 'amqp://localhost:1' ],
		host     => [ 'amqp://nowhere.invalid' ]);
	my %said = drive_all(map { $_ => [ @{ $to{$_} }, '--topic', '/direct', '--timeout', 1500, '--once' ] } keys %to);

	like($said{password}, qr/outcome=3 status=403 .*ACCESS_REFUSED/, 'a wrong password');
	like($said{vhost}, qr/outcome=3 status=530 .*vhost nowhere not found/, 'no such virtual host');
	like($said{network}, qr/outcome=3 .*only addresses of evtstore.allowed_networks/, 'an address that is not listed');
	like($said{nobody}, qr/outcome=3 .*not connected: could not connect: connection refused/, 'nobody listens');
	like($said{host}, qr/outcome=3 .*the host has no address/, 'no such host');

	my %refused = (
		'amqp://u:p@localhost'  => qr/user or a password/,
		'amqp://'               => qr/no host/,
		'amqp://:5672'          => qr/no host/,
		'amqp://h:0'            => qr/port/,
		'amqp://h:65536'        => qr/port/,
		'amqp://h:x'            => qr/port/,
		'amqp://[::1'           => qr/brackets/,
		'amqp://h/a/b'          => qr/%2F/,
		'amqp://h/a%2'          => qr/hexadecimal/,
		'amqp://h/a%00'         => qr/control/,
		'amqp://h/a?x=1'        => qr/more than/,
		'amqp://h ost'          => qr/not well-formed/,
		'amqp://h/' . 'x' x 256 => qr/longer than 255/);
	like((drive($_))[0]{said}, $refused{$_}, "no: $_") foreach sort keys %refused;
	like((drive($url, '--secret', 'sasl=guest'))[0]{said},      qr/USER:PASSWORD/, 'a password without a user');
	like((drive($url, '--client', 'exchange=x'))[0]{said},      qr/unknown client setting/, 'a setting that there is not');
	like((drive($url, '--client', 'heartbeat=0'))[0]{said},     qr/from 1 to 600/, 'a heartbeat that is none');
	like((drive('amqps://h', '--secret', 'tls=x'))[0]{said},    qr/not a certificate and its key/, 'a certificate that is none');
	like((drive('amqps://h', '--tls-ca', '/none'))[0]{said},    qr/file of trusted certificates/, 'no such file');
};

subtest 'TLS' => sub {
	my $dir  = $rabbit->{dir};
	my $to   = $rabbit->tls_url;
	my @ca   = ('--tls-ca', $rabbit->ca_file);
	my $many = start_drive($library, $to, '--topic', '/direct', @ca, '--count', 2000, '--keys', 100);
	my %to   = (
		unknown  => [$to],
		other    => [ $to, '--tls-ca', "$dir/other.pem" ],
		name     => [ $rabbit->tls_url('127.0.0.1'), @ca ],
		anybody  => [ $rabbit->tls_url('127.0.0.1'), @ca, '--no-verify' ],
		loopback => [ $to, @ca, '--allow', '10.0.0.0/8' ],
		own      => [ $to, @ca, '--secret', 'tls=' . slurp_file("$dir/client.pem") . slurp_file("$dir/client.key") ]);
	my %said = drive_all(map { $_ => [ @{ $to{$_} }, '--topic', 'wide.x', '--timeout', 2000, '--once' ] } keys %to);

	is((result_of($many))[0]{delivered}, 2000, 'with the authority that signed it');
	# the system's do not know it either
	like($said{unknown}, qr/outcome=3 .*the certificate is not accepted: /, 'without it');
	like($said{other}, qr/outcome=3 .*the certificate is not accepted: /, 'with another');
	like($said{name}, qr/outcome=3 .*the certificate is not accepted: IP address mismatch/, 'of another name');
	is($said{anybody}, 'delivered=1', 'unless nobody looks');
	like($said{loopback}, qr/outcome=3 .*loopback, private or special/, 'loopback that is not listed');
	is($said{own}, 'delivered=1', 'a certificate of one\'s own');
	check_all('TLS', 2000, 100, 0, $rabbit->drain('direct'));
	is(scalar(my @wide = $rabbit->drain('wide')), 2, 'these two are there, too');
};

# Bytes on their way from a driver: those that its sockets have not got rid of, and those that the other side has not read.
sub on_its_way
{
	my $run   = shift;
	my %mine  = map { (readlink($_) // '') =~ /^socket:\[(\d+)\]/ ? ($1 => 1) : () } glob "/proc/$run->{pid}/fd/*";
	my @all   = map { [/^\s*\d+: \w{8}:(\w{4}) \w{8}:(\w{4}) 01 (\w{8}):(\w{8}) \S+ +\S+ +\d+ +\d+ +(\d+)/] } split /\n/, slurp_file('/proc/net/tcp');
	my $bytes = 0;

	foreach my $mine (grep { @$_ && $mine{ $_->[4] } } @all)
	{
		$bytes += hex $mine->[2];
		$bytes += hex $_->[3] foreach grep { @$_ && $_->[0] eq $mine->[1] && $_->[1] eq $mine->[0] } @all;
	}
	return $bytes;
}

# Has a driver nothing to do but to wait?  One that waits for its turn does not.
sub is_waiting
{
	my $run = shift;
	return !grep { slurp_file($_) !~ /^\d+ \(.*\) S / } glob "/proc/$run->{pid}/task/*/stat";
}

#
# A broker with an alarm reads a connection up to its next message, says connection.blocked and reads no more.  What was begun by then
# lies in its socket, and is published when the alarm is over, though nobody waits for it any more: nobody can know when, so that is
# in doubt, and it is published once more.  Nothing else is: not what the link had queued, nor what it was given later.  And it is
# one connection all the time, since each further one would have some of the messages, too.
#
# So that there is much of each kind, the broker is stopped while the sockets are filled; and there is one message that they never have as a
# whole.
#
subtest 'a broker that is low on memory' => sub {
	my $size   = 49000;
	my $gate   = PostgreSQL::Test::Utils::tempdir('alarm') . '/gate';
	# where they go, the number of the first, how many more, and how large those are.  No heartbeat wakes a link while it is full
	my %about = (
		plain  => [ $url, 1, 300, $size ],
		secure => [ $rabbit->tls_url, 1001, 300, $size, '--tls-ca', $rabbit->ca_file ],
		huge   => [ $url, 2001, 3, 9_000_000 ]);
	my %run;

	foreach my $name (sort keys %about)
	{
		my ($to, $first, $more, $bytes, @options) = @{ $about{$name} };
		$run{$name} = start_drive($library, $to, '--secret', "sasl=$name:$name", '--from', $first, '--count', 1 + $more, '--keys', 1 + $more,
			'--in-flight', 1 + $more, '--topic', '/direct', '--rest-size', $bytes, '--gate', $gate, '--progress', 1, '--timeout', 5000,
			'--next-timeout', 60000, '--deadline', 60000, '--client', 'heartbeat=600', @options);
	}
	poll_until("the first one, $_", sub { slurp_file($run{$_}{out}) =~ /^at 1$/m }) foreach sort keys %run;
	$rabbit->ctl('set_vm_memory_high_watermark', '0');
	$rabbit->signal('STOP');
	append_to_file($gate, 'open');
	my (%begun, @looks);
	poll_until(
		'the sockets to be full',
		sub {
			%begun = map { $_ => on_its_way($run{$_}) } keys %run;
			push @looks, join ' ', map { "$_ $begun{$_}" } sort keys %begun;
			return !(grep { $_ < 1_000_000 } values %begun) && !(grep { !is_waiting($_) } values %run) && @looks > 1 && $looks[-2] eq $looks[-1];
		});
	$rabbit->signal('CONT');
	my ($small, @small) = drive($url, '--count', 3, '--keys', 3, '--topic', 'wide.x', '--timeout', 1500, '--once');
	is($small->{unavailable}, 3, 'of a new connection all come back');
	is(scalar(grep { /takes no messages now: low on memory/ } @small), 3, 'with the reason');
	poll_until(
		'an outcome of each',
		sub {
			my %one = map { /^(\d+) outcome=/ ? ($1 => 1) : () } map { split /\n/, slurp_file($_->{out}) } values %run;
			return keys %one == 300 + 300 + 3;
		});
	$rabbit->ctl('set_vm_memory_high_watermark', '0.4');

	my (%expected, %doubtful);
	foreach my $name (sort keys %run)
	{
		my ($result, @lines) = result_of($run{$name});
		my (undef, $first, $more) = @{ $about{$name} };

		is("@$result{qw(delivered unavailable left)}", 1 + $more . " $more 0", "$name: it costs no message an attempt, and all go when there is memory");
		is(scalar(grep { /takes no messages now: low on memory/ } @lines), $more, "$name: they waited for that");
		my @doubtful = map { /^(\d+) .*the broker did not confirm/ ? $1 : () } @lines;
		$doubtful{$name} = @doubtful;
		$expected{$_}++ foreach @doubtful, $first .. $first + $more;
		is($rabbit->count_in_log("user '$name' authenticated"), 1, "$name: one connection");
	}
	cmp_ok($doubtful{plain}, '>=', 1, "plain: $doubtful{plain} were begun");
	cmp_ok($doubtful{plain}, '<=', int($begun{plain} / $size) + 1, 'which are those in the socket, and none behind them');
	# here the broker reads ahead of what it decrypts, as much as it likes before it says that it is blocked: up to all of them
	cmp_ok($doubtful{secure}, '>=', 1, "secure: $doubtful{secure} were begun");
	is($doubtful{huge}, 1, 'huge: the one of which there was a part');
	my %came;
	$came{ hex substr $_->{id}, -12 }++ foreach $rabbit->drain('direct');
	is_deeply(\%came, \%expected, 'nothing is lost, and twice are those that were begun');
};

subtest 'a broker that is silent, and one that nobody talks to' => sub {
	my $run = start_drive($library, $url, '--count', 2000, '--keys', 100, '--topic', '/direct', '--client', 'heartbeat=1', '--timeout',
		20000, '--progress', 500, '--gap', 100);

	poll_until('some of it to be delivered', sub { slurp_file($run->{out}) =~ /^at 500$/m });
	$rabbit->signal('STOP');
	poll_until('the connection to be given up', sub { slurp_file($run->{out}) =~ /outcome=1 .*lost before.*no heartbeat/ }, 15);
	$rabbit->signal('CONT');
	finish_drive($run);
	like(slurp_file($run->{out}), qr/^delivered=2000 .*rejected=0 .*left=0/m, 'heartbeats show that it is silent');
	check_all('silent', 2000, 100, 100, $rabbit->drain('direct'));

	is((result_of($idle))[0]{delivered}, 2, 'five idle seconds');
	is($rabbit->count_in_log("user 'idle' authenticated"), 1, 'one connection');
	is($rabbit->count_in_log('missed heartbeats from client'), 0, 'heartbeats kept it');
};

subtest 'a broker that is killed and started again, twice' => sub {
	my $run = start_drive($library, $url, '--count', 12000, '--keys', 100, '--topic', 'orders/order.x', '--deadline', 120000,
		'--timeout', 20000, '--progress', 1000);

	foreach my $at (2000, 6000)
	{
		poll_until('some of it to be delivered', sub { slurp_file($run->{out}) =~ /^at $at$/m });
		$rabbit->kill9;
		$rabbit->start;
	}
	finish_drive($run);
	my ($last) = slurp_file($run->{out}) =~ /^(delivered=.*)$/m;
	like($last, qr/delivered=12000 .*rejected=0 .*left=0/, $last);
	check_all('killed', 12000, 100, 2 * 64, $rabbit->drain('all'));
};

subtest 'the relay, while broker, relay and server are killed' => sub {
	my $total = 0;
	# 5000 events of 100 streams, in one transaction
	my $append = sub {
		sql("SELECT count(*) FROM generate_series($total + 1, $total + 5000) i,
			LATERAL evtstore.append('order-' || i % 100, 'Placed', jsonb_build_object('n', i))");
		$total += 5000;
	};
	my $in_the_middle = sub {
		poll_until('the relay to be in the middle of it',
			sub { sql(q{SELECT lag_events BETWEEN 500 AND 4500 FROM evtstore.subscription_status}) eq 't' });
	};

	sql(qq(SELECT evtstore.create_endpoint('r', '$url', '{"topic": "orders/order.\${type}", "max_in_flight": 100}')));
	sql(q(SELECT evtstore.set_endpoint_secret('r', 'shop:its:password', 'sasl')));
	sql(q(SELECT evtstore.create_subscription('s', '{}', 'r')));
	$append->();
	$in_the_middle->();
	$rabbit->kill9;
	$append->();
	$rabbit->start;

	$append->();
	$in_the_middle->();
	kill9(worker_pid($node, 'relay'));
	poll_sql($node, 'SELECT true');

	$append->();
	$in_the_middle->();
	crash($node);
	# of those before there may be too few left
	$append->();
	$in_the_middle->();
	$rabbit->kill9;
	$rabbit->start;

	poll_sql($node, q{SELECT lag_events + in_flight + blocked + retrying + waiting FROM evtstore.subscription_status}, '0');
	is(sql('SELECT sum(dead) FROM evtstore.subscription_status'), '0', 'nothing was given up');
	my @messages = $rabbit->drain('all');
	check_all('relay', $total, 100, 2000, @messages);
	is(scalar(grep { $_->{headers}{'cloudEvents:subject'} ne 'order-' . number($_) % 100 } @messages), 0, 'the stream is with each');
	cmp_ok($rabbit->count_in_log("user 'shop' authenticated"), '>', 0, 'the password was used');
	is($messages[0]{headers}{'cloudEvents:type'},  'Placed',       'and the type');
	is($messages[0]{routing_key},                  'order.Placed', 'which the topic was made of');
	is($messages[0]{content_type},                 'application/json', 'Content-Type is a property');
	is($messages[0]{id}, $messages[0]{headers}{'cloudEvents:id'}, 'the id too');
};

done_testing();
