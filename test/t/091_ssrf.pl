# What is never dialled: an endpoint's url is what somebody wrote who may not go everywhere where the database server may.  The server has
# a name service and an internet of its own (test/transport/net_shim.c), which keep what was dialled, so that nothing leaves the machine.
use strict;
use warnings;

use EvtReceiver;
use EvtTest;
use EvtTransport;
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use Test::More;

my $SPECIAL = 'the host has a loopback, private or special address that evtstore.allowed_networks does not have';
my $PLAIN   = 'http:// goes only to addresses of evtstore.allowed_networks, and the host has none of them';

my $dir      = PostgreSQL::Test::Utils::tempdir('names');
my $dialled  = "$dir/dialled";
my $shim     = build_tool('net_shim', '-shared', '-fPIC', '-ldl') // die "test/transport/net_shim.c does not build: see log/build_net_shim.log\n";
my $receiver = EvtReceiver->new;
my $port     = $receiver->{port};
my $proxy    = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5, Blocking => 0) or die "listen: $!";
my $node     = new_node('main', start => 0, conf => "evtstore.allowed_networks = ''\n");

append_to_file("$dir/names", <<'EOS');
inside.example 127.0.0.1
metadata.example 169.254.169.254
inside6.example ::1
mixed.example 8.8.8.8,127.0.0.1
rebound.example 8.8.8.8 127.0.0.1
mapped.example ::ffff:10.0.0.1
outside.example 8.8.4.4
EOS
{
	my $other = 'http://127.0.0.1:' . $proxy->sockport;
	local %ENV = (
		%ENV,
		LD_PRELOAD       => $shim,
		EVTSTORE_NAMES   => "$dir/names",
		EVTSTORE_DIALLED => $dialled,
		map { $_ => $other } qw(http_proxy https_proxy all_proxy HTTPS_PROXY ALL_PROXY));
	$node->start;
}
$node->safe_psql('postgres', 'CREATE EXTENSION evtstore');

sub sql
{
	return $node->safe_psql('postgres', shift);
}

# what was dialled since the last look
sub dialled
{
	my $text = -e $dialled ? slurp_file($dialled) : '';
	unlink $dialled;
	return join ' ', split /\n/, $text;
}

# What comes of an event of test_endpoint; times => how often, from one session: the last one.
sub try_url
{
	my ($url, %option) = @_;
	my $options = $option{options} // '{}';

	# nothing of it stays
	my $all     = sql("BEGIN; SELECT evtstore.create_endpoint('tried', '$url', '$options'); "
		  . join(' ', ("SELECT evtstore.test_endpoint('tried');") x ($option{times} // 1)) . ' ROLLBACK');
	my @answers = $all =~ /^(\{.+)$/mg;
	return decode_json($answers[-1]);
}

# refused before anything is dialled
sub is_refused
{
	my ($url, $why, $what) = @_;
	my $answer = try_url($url);

	is("$answer->{outcome}: " . ($answer->{error} // '') . '; dialled: ' . dialled(), "unavailable: $why; dialled: ", $what // $url);
	return;
}

sub set_networks
{
	my $networks = shift;
	sql("ALTER SYSTEM SET evtstore.allowed_networks = '$networks'");
	$node->reload;
	poll_sql($node, 'SHOW evtstore.allowed_networks', $networks);
	return;
}

subtest 'special addresses, however they are written' => sub {
	my %special = (
		'loopback'          => [qw(127.0.0.1 127.8.9.10 localhost [::1] [0:0:0:0:0:0:0:1] 127.1)],
		'decimal, octal and hexadecimal' => [qw(2130706433 0x7f.1 0x7f000001 017700000001 0177.0.0.1 0)],
		'link-local'        => [qw(169.254.169.254 169.254.0.1 [fe80::1])],
		'private'           => [qw(10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 [fc00::1] [fd00:ec2::254])],
		'carriers'          => [qw(100.64.0.1 100.127.255.255)],
		'IPv4-mapped'       => [qw([::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:a9fe:a9fe] [::ffff:192.168.1.1])],
		'IPv4-compatible'   => [qw([::127.0.0.1])],
		'NAT64'             => [qw([64:ff9b::7f00:1] [64:ff9b::10.0.0.1] [64:ff9b:1::1])],
		'6to4, Teredo'      => [qw([2002:7f00:1::] [2002:a00:1::1] [2001::1])],
		'unspecified'       => [qw(0.0.0.0 0.1.2.3 [::])],
		'multicast'         => [qw(224.0.0.1 239.255.255.255 [ff02::1])],
		'broadcast, reserved' => [qw(255.255.255.255 240.0.0.1)],
		'documentation, benchmarks' => [qw(192.0.2.1 198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255 [2001:db8::1])],
		'a name of one'     => [qw(inside.example inside6.example metadata.example mapped.example)]);

	foreach my $class (sort keys %special)
	{
		is_refused("https://$_:$port/", $SPECIAL, "$class: $_") foreach @{ $special{$class} };
	}
	is_refused("http://$_:$port/", $PLAIN, "without TLS: $_") foreach qw(127.0.0.1 [::1] inside.example 10.0.0.1 8.8.8.8 outside.example);
};

subtest 'public addresses are dialled' => sub {
	my @public = qw(8.8.8.8 172.15.255.255 172.32.0.0 100.63.255.255 100.128.0.0 11.0.0.0 9.255.255.255 169.253.255.255 169.255.0.0 192.167.255.255
	  192.169.0.0 126.255.255.255 128.0.0.1 223.255.255.255 1.0.0.0 198.17.255.255 198.20.0.0 2606:4700::1 64:ff9b::808:808 ::ffff:8.8.8.8);

	foreach my $address (@public)
	{
		my $answer = try_url('https://' . ($address =~ /:/ ? "[$address]" : $address) . '/');
		like("$answer->{outcome}: $answer->{error}", qr/^unavailable: no answer: .*connect/i, $address);
		# that one is written so by the system
		is(dialled(), $address eq '64:ff9b::808:808' ? '64:ff9b::808:808' : $address, 'and nothing else, whatever http_proxy says');
	}
	is($proxy->accept, undef, 'the proxy of the environment got nothing');
};

subtest 'names' => sub {
	my $answer = try_url('https://mixed.example/');
	is(dialled(), '8.8.8.8', 'of a public and a loopback address only the public one is dialled');
	is($answer->{outcome}, 'unavailable', 'and that is that');

	try_url('https://rebound.example/');
	is(dialled(), '8.8.8.8', 'a name with a public address');
	is_refused('https://rebound.example/', $SPECIAL, 'which has a loopback address at the next look');
	unlink "$dir/names.rebound.example";
	$answer = try_url('https://rebound.example/', times => 2);
	is("$answer->{error}; dialled: " . dialled(), "$SPECIAL; dialled: 8.8.8.8", 'also within one process');
};

subtest 'the relay asks, too' => sub {
	unlink "$dir/names.rebound.example";
	sql(q{SELECT evtstore.create_endpoint('inside', 'https://inside.example/');
		SELECT evtstore.create_endpoint('rebound', 'https://rebound.example/');
		SELECT evtstore.create_queue('inside', '{"endpoint": "inside", "retry": {"max_attempts": 1}}');
		SELECT evtstore.create_queue('rebound', '{"endpoint": "rebound", "retry": {"max_attempts": 1}}');
		SELECT evtstore.send('inside', '{}'), evtstore.send('rebound', '{}')});
	poll_sql($node, q{SELECT last_error FROM evtstore.endpoint_status WHERE name = 'inside'}, $SPECIAL);
	poll_sql($node, q{SELECT last_error ~ '^no answer' FROM evtstore.endpoint_status WHERE name = 'rebound'});
	# another relay looks the name up again
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'evtstore relay worker'});
	poll_sql($node, q{SELECT last_error FROM evtstore.endpoint_status WHERE name = 'rebound'}, $SPECIAL);
	like(dialled(), qr/^8\.8\.8\.8(?: 8\.8\.8\.8)*$/, 'loopback was never dialled');
	is(sql(q{SELECT sum(in_flight + ready), sum(dead) FROM evtstore.queue_status}), '2|0', 'and the messages wait');
	sql(qq{SELECT evtstore.drop_queue('$_'); SELECT evtstore.drop_endpoint('$_')}) foreach qw(inside rebound);
	dialled();
};

subtest 'allowed networks are exactly those that are listed' => sub {
	set_networks('127.0.0.1/32, 10.9.0.0/16, fd00::/64');
	is(try_url("http://127.0.0.1:$port/listed")->{outcome}, 'delivered', 'a listed one');
	is(try_url("http://$_:$port/listed")->{outcome}, 'delivered', "as $_") foreach qw(2130706433 [::ffff:127.0.0.1] localhost inside.example);
	is(scalar(my @all = $receiver->accepted('/listed')), 5, 'got by the receiver, not by the proxy of the environment');
	dialled();
	is_refused("http://$_:$port/",  $PLAIN,   "$_ is not") foreach qw(127.0.0.2 [::1] 10.10.0.1 8.8.8.8);
	is_refused("https://$_:$port/", $SPECIAL, "$_ is not, with TLS") foreach qw(127.0.0.2 [::1] 10.8.255.255 10.10.0.0 [fd00:0:0:1::1]);
	foreach my $address (qw(10.9.0.0 10.9.255.255 fd00::1))
	{
		try_url('https://' . ($address =~ /:/ ? "[$address]" : $address) . '/');
		is(dialled(), $address, "$address is");
	}
};

subtest 'redirects' => sub {
	foreach my $status (301, 302, 303, 307, 308)
	{
		$receiver->set("/moved$status", status => $status, location => "http://127.0.0.1:$port/inner");
		my $answer = try_url("http://127.0.0.1:$port/moved$status");
		is("$answer->{outcome} $answer->{status} $answer->{error}", "failed $status HTTP $status: redirects are not followed", $status);
	}
	is(scalar(my @inner = $receiver->requests('/inner')), 0, 'nobody went there, though the address is allowed');
	dialled();
};

# its own authority, for an address
sub make_certificate
{
	my ($name, $address) = @_;
	system_or_bail(
		qw(openssl req -x509 -newkey rsa:2048 -nodes -batch -days 2), '-subj', "/CN=$name", '-addext', "subjectAltName=IP:$address",
		'-keyout', "$dir/$name.key", '-out', "$dir/$name.pem");
	return (cert => "$dir/$name.pem", key => "$dir/$name.key");
}

subtest 'certificates' => sub {
	my $right = EvtReceiver->new(make_certificate('right', '127.0.0.1'));
	my $wrong = EvtReceiver->new(make_certificate('wrong', '127.0.0.9'));
	my $tls   = sub { return qq({"tls": {"ca_file": "$dir/$_[0].pem"}}) };
	my $refused = qr/certificate|SSL|TLS/i;

	my $answer = try_url($right->url('/x'));
	is($answer->{outcome}, 'unavailable', 'an authority that is not known');
	like($answer->{error}, $refused, 'is refused');
	is(try_url($right->url('/x'), options => $tls->('right'))->{outcome}, 'delivered', 'a known one');
	$answer = try_url($wrong->url('/x'), options => $tls->('wrong'));
	is($answer->{outcome}, 'unavailable', 'a certificate for somebody else');
	like($answer->{error}, $refused, 'is refused');
	$answer = try_url($right->url('/x'), options => $tls->('wrong'));
	is($answer->{outcome}, 'unavailable', 'a certificate by somebody else');
	is(scalar(my @wrong = $wrong->requests), 0, 'nothing was sent to who could not say who he is');
	is(scalar(my @right = $right->requests), 1, 'nor without a check');
	is(try_url($wrong->url('/x'), options => '{"tls": {"verify": false}}')->{outcome}, 'delivered', 'a superuser may want no check');
	$_->end foreach $right, $wrong;
};

subtest 'a connection does not outlive the permission that it was made under' => sub {
	sql(qq{SELECT evtstore.create_endpoint('kept', 'http://127.0.0.1:$port/kept');
		SELECT evtstore.create_subscription('kept', '{"categories": ["kept"]}', endpoint => 'kept');
		SELECT evtstore.append('kept-1', 'Made', '{"n": 1}')});
	$receiver->wait_count('/kept', 1);
	is(($receiver->stats('/kept'))[3], 1, 'a connection stays open');
	set_networks('10.0.0.0/8');
	poll_until('the end of the connection', sub { ($receiver->stats('/kept'))[3] == 0 });
	ok(1, 'until the network is not allowed any more');
	dialled();
	sql(q{SELECT evtstore.append('kept-1', 'Made', '{"n": 2}')});
	poll_sql($node, q{SELECT last_error FROM evtstore.endpoint_status WHERE name = 'kept'}, $PLAIN);
	is(dialled(), '', 'then nothing is dialled');
	set_networks('127.0.0.1/32');
	$receiver->wait_count('/kept', 2);
	ok(1, 'and it goes on when it is allowed again');
};

is($proxy->accept, undef, 'the proxy of the environment never got anything');
$node->stop;
done_testing();
