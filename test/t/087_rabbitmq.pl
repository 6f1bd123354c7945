# Delivery to a real RabbitMQ, by the transport alone (test/transport/driver.c) and by the relay: what arrives, what comes of each
# way that the broker can refuse, and that nothing is lost, nor out of the order of its key, whoever is killed.
use strict;
use warnings;

use EvtRabbit;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'RabbitMQ is not installed' unless EvtRabbit::available();

my $node   = new_node('main', conf => "restart_after_crash = on\nlog_statement = none\n");
my $rabbit = EvtRabbit->new(
	vhosts    => ['shop'],
	exchanges => { orders => 'topic' },
	queues    => { all => [ orders => 'order.#' ], wide => [ 'amq.topic' => 'wide.#' ], direct => [] },
	users     => { shop => 'its:password', idle => 'idle' },
	conf      => "max_message_size = 50000\n",
	tls       => 1);
my $url     = $rabbit->url;
my $library = $node->config_data('--pkglibdir') . '/evtstore_amqp.so';
my $driver  = build_driver();

sub sql { return $node->safe_psql('postgres', shift) }

sub build_driver
{
	my $program = PostgreSQL::Test::Utils::tempdir('driver') . '/driver';
	my $tree    = test_tree();
	my ($port)  = grep { -e } map { $node->config_data($_) . '/libpgport.a' } qw(--libdir --pkglibdir);

	system_or_bail(
		$ENV{CC} // 'cc', '-rdynamic', '-D_GNU_SOURCE', '-I' . $node->config_data('--includedir-server'),
		"$tree/test/transport/driver.c", "$tree/src/transport/address.c", '-o', $program,
		map({ "-Wl,-u,pg_$_" } qw(snprintf vsnprintf strerror strerror_r)), $port, qw(-ldl -lm -lpthread));
	return $program;
}

# What the driver prints: lines for messages, and the last one as a hash.
sub drive
{
	my ($to, @options) = @_;
	my ($out, $err) = run_command([ $driver, $library, $to, @options ]);
	my @lines = split /\n/, $out;
	my $last  = @lines ? pop @lines : '';

	diag $err if $err ne '';
	return ($last =~ /^delivered=/ ? { $last =~ /(\w+)=(\d+)/g } : { said => $last }, @lines);
}

# In the background; its output is in a file.
sub drive_in_background
{
	my ($to, @options) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir('driven') . '/out';
	my $run  = IPC::Run::start([ $driver, $library, $to, @options ], '<', \undef, '>', $file, '2>&1');

	return { run => $run, file => $file };
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
	my ($result, @lines) = drive($url, '--count', 30, '--keys', 30, '--topic', 'orders/nowhere', '--deadline', 90);
	is($result->{repeated}, 30, 'unroutable: to be tried again');
	like($lines[0], qr/^\d+ outcome=1 status=312 .*312 NO_ROUTE/, 'with the broker\'s reason');

	($result, @lines) = drive($url, '--count', 30, '--keys', 30, '--topic', 'missing/x', '--deadline', 90);
	is($result->{unavailable}, 30, 'no such exchange: no fault of the messages');
	like($lines[29], qr/status=404 .*NOT_FOUND - no exchange 'missing'/, 'with the reason');

	($result, @lines) = drive($url, '--topic', '/direct', '--body', 'x' x 50001);
	is($result->{rejected}, 1, 'too large: never again');
	like($lines[0], qr/status=406 .*message size 50001 is larger/, 'with the reason');
	is((drive($url, '--count', 5, '--topic', '/direct'))[0]{delivered}, 5, 'others go');

	($result, @lines) = drive($url, '--topic', 'orders/' . 'x' x 256);
	is($result->{rejected}, 1, 'a routing key that is too long');
	like($lines[0], qr/routing key is longer than 255 bytes/, 'with the reason');
	($result, @lines) = drive($url, '--deadline', 50);
	like($lines[0], qr/outcome=3 .*no "topic"/, 'no topic');
	$rabbit->drain('direct');
};

subtest 'who is not let in, or does not go there' => sub {
	my ($result, @lines) = drive($url, '--topic', '/direct', '--secret', 'sasl=guest:wrong', '--deadline', 90);
	like($lines[0], qr/outcome=3 status=403 .*ACCESS_REFUSED/, 'a wrong password, before the deadline');
	($result, @lines) = drive("$url/nowhere", '--topic', '/direct', '--deadline', 90);
	like($lines[0], qr/outcome=3 status=530 .*vhost nowhere not found/, 'no such virtual host');
	($result, @lines) = drive($url, '--topic', '/direct', '--allow', '10.0.0.0/8', '--timeout', 100, '--deadline', 250);
	like($lines[0], qr/outcome=3 .*only addresses of evtstore.allowed_networks/, 'an address that is not listed');
	($result, @lines) = drive('amqp://localhost:1', '--topic', '/direct', '--timeout', 300, '--deadline', 450);
	like($lines[0], qr/outcome=3 .*not connected: could not connect: connection refused/, 'nobody listens');
	($result, @lines) = drive('amqp://nowhere.invalid', '--topic', '/direct', '--timeout', 100, '--deadline', 3000);
	like($lines[0], qr/outcome=3 .*the host has no address/, 'no such host');

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
	my $dir = $rabbit->{dir};
	my @to  = ($rabbit->tls_url, '--topic', '/direct', '--timeout', 2000, '--deadline', 2500);
	my ($result, @lines) = drive(@to, '--count', 2000, '--keys', 100, '--tls-ca', $rabbit->ca_file, '--deadline', 30000);

	is($result->{delivered}, 2000, 'with the authority that signed it');
	check_all('TLS', 2000, 100, 0, $rabbit->drain('direct'));
	# the system's do not know it either
	(undef, @lines) = drive(@to);
	like($lines[0], qr/outcome=3 .*the certificate is not accepted: /, 'without it');
	(undef, @lines) = drive(@to, '--tls-ca', "$dir/other.pem");
	like($lines[0], qr/outcome=3 .*the certificate is not accepted: /, 'with another');
	$to[0] = $rabbit->tls_url('127.0.0.1');
	(undef, @lines) = drive(@to, '--tls-ca', $rabbit->ca_file);
	like($lines[0], qr/outcome=3 .*the certificate is not accepted: IP address mismatch/, 'of another name');
	is((drive(@to, '--no-verify'))[0]{delivered}, 1, 'unless nobody looks');
	$to[0] = $rabbit->tls_url;
	(undef, @lines) = drive(@to, '--tls-ca', $rabbit->ca_file, '--allow', '10.0.0.0/8');
	like($lines[0], qr/outcome=3 .*loopback, private or special/, 'loopback that is not listed');
	is((drive(@to, '--tls-ca', $rabbit->ca_file, '--secret', 'tls=' . slurp_file("$dir/client.pem") . slurp_file("$dir/client.key")))[0]{delivered}, 1, 'a certificate of one\'s own');
	$rabbit->drain('direct');
};

subtest 'a broker that is low on memory' => sub {
	$rabbit->ctl('set_vm_memory_high_watermark', '0');
	my ($result, @lines) = drive($url, '--count', 3, '--keys', 3, '--topic', '/direct', '--timeout', 1500, '--deadline', 2000);
	is($result->{delivered} + $result->{repeated} + $result->{rejected}, 0, 'costs no message an attempt');
	is($result->{unavailable}, 3, 'all come back');
	like($lines[0], qr/takes no messages now: low on memory/, 'with the reason');
	# what the socket does not take as a whole
	($result, @lines) = drive($url, '--count', 400, '--keys', 400, '--topic', '/direct', '--body', 'x' x 49000, '--in-flight', 400,
		'--timeout', 1500, '--deadline', 2500);
	# of what was on its way when the broker said so nobody knows
	is($result->{delivered} + $result->{rejected}, 0, 'nor are many that are large taken or refused');

	my $run = drive_in_background($url, '--count', 50, '--keys', 50, '--topic', '/direct');
	$rabbit->ctl('set_vm_memory_high_watermark', '0.4');
	$run->{run}->finish;
	like(slurp_file($run->{file}), qr/delivered=50 .*left=0/, 'they go when there is memory');
	$rabbit->drain('direct');
};

subtest 'a broker that is silent, and one that nobody talks to' => sub {
	my $run = drive_in_background($url, '--count', 2000, '--keys', 100, '--topic', '/direct', '--client', 'heartbeat=1', '--timeout',
		20000, '--progress', 500, '--gap', 100);

	poll_until('some of it to be delivered', sub { slurp_file($run->{file}) =~ /^at 500$/m });
	$rabbit->signal('STOP');
	poll_until('the connection to be given up', sub { slurp_file($run->{file}) =~ /outcome=1 .*lost before.*no heartbeat/ }, 15);
	$rabbit->signal('CONT');
	$run->{run}->finish;
	like(slurp_file($run->{file}), qr/^delivered=2000 .*rejected=0 .*left=0/m, 'heartbeats show that it is silent');
	check_all('silent', 2000, 100, 100, $rabbit->drain('direct'));

	# a user of its own, whose lines in the log are its own
	is((drive($url, '--count', 2, '--keys', 1, '--topic', '/direct', '--client', 'heartbeat=1', '--gap', 5000, '--secret',
			'sasl=idle:idle'))[0]{delivered}, 2, 'five idle seconds');
	is($rabbit->count_in_log("user 'idle' authenticated"), 1, 'one connection');
	is($rabbit->count_in_log('missed heartbeats from client'), 0, 'heartbeats kept it');
	$rabbit->drain('direct');
};

subtest 'a broker that is killed and started again, twice' => sub {
	my $run = drive_in_background($url, '--count', 20000, '--keys', 100, '--topic', 'orders/order.x', '--deadline', 120000,
		'--timeout', 20000, '--progress', 1000);

	foreach my $at (3000, 9000)
	{
		poll_until('some of it to be delivered', sub { slurp_file($run->{file}) =~ /^at $at$/m });
		$rabbit->kill9;
		$rabbit->start;
	}
	$run->{run}->finish;
	my ($last) = slurp_file($run->{file}) =~ /^(delivered=.*)$/m;
	like($last, qr/delivered=20000 .*rejected=0 .*left=0/, $last);
	check_all('killed', 20000, 100, 2 * 64, $rabbit->drain('all'));
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
