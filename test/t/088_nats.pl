# NATS JetStream: what its transport does with a real server, alone and below a store.
#
# First without a database, through test/transport/driver.c: what arrives, what comes of each refusal, who is never dialled, TLS, and
# servers that are killed, frozen, or no servers at all.  What is in a stream is read by test/transport/nats_tool.c, which is
# written with another implementation of the protocol.
use strict;
use warnings;

use Cwd qw(abs_path);
use EvtChildren qw(start_child finish_children);
use EvtNkey;
use EvtTest;
use EvtTransport;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my ($server) = grep { -x $_ } map { "$_/nats-server" } split(/:/, $ENV{PATH}), '/usr/sbin';
plan skip_all => 'no nats-server' unless $server;
my $library = transport_library('nats');
plan skip_all => 'evtstore_nats is not built' unless $library;
my $tool = build_tool('nats_tool', '-lnats');
plan skip_all => 'no client library of NATS to read with' unless $tool;

my $scratch = abs_path($PostgreSQL::Test::Utils::tmp_check);
my @kept;
my @topic   = ('--topic', 'orders.a');

# A server: NAME.conf is its configuration, where it listens and keeps streams (or what is said in place of that) comes first.
my %servers;

sub start_nats
{
	my ($name, $config, $jetstream) = @_;
	my $nats = $servers{$name} //= { name => $name, port => PostgreSQL::Test::Cluster::get_free_port() };

	$nats->{url} = "nats://127.0.0.1:$nats->{port}";
	if (defined $config)
	{
		open my $file, '>', "$scratch/$name.conf" or die "$name.conf: $!";
		print $file "listen: 127.0.0.1:$nats->{port}\n", $jetstream // qq(jetstream { store_dir: "$scratch/$name.js" }\n), $config;
		close $file;
	}
	$nats->{pid} = start_process("nats_$name", $server, '-c', "$scratch/$name.conf");
	poll_until("nats-server $name", sub { listens($nats->{port}) });
	return $nats;
}

sub stop_nats
{
	my ($nats, $signal) = @_;

	end_process(delete $nats->{pid}, $signal // 'TERM');
	return;
}

# the tool against a server; user:password@ for one that asks for it
sub tool
{
	my ($nats, $command, @arguments) = @_;
	my $url = $nats->{url};
	my ($out, $err);

	$url =~ s{//}{//$nats->{user}@} if $nats->{user};
	my $ok = IPC::Run::run([ $tool, $command, $url, @arguments ], '>', \$out, '2>', \$err);
	die "nats_tool $command: $err" unless $ok;
	return $out;
}

# JetStream is ready a moment after the port is
sub make_stream
{
	my ($nats, @arguments) = @_;
	return poll_until("stream $arguments[0]", sub { eval { tool($nats, 'make', @arguments); 1 } });
}

# the outcomes of a stream's dump, as faults: everything once, in the order of each key, with the id that belongs to it
sub faults
{
	my ($dump, $from, $count, $nkeys) = @_;
	my (%seen, %last, @faults);

	foreach my $line (split /\n/, $dump)
	{
		my ($n)  = $line =~ /"n": (\d+)/ or die "not understood: $line";
		my ($id) = $line =~ /\tNats-Msg-Id=00000000-0000-4000-8000-([0-9a-f]{12})/;

		push @faults, "$n twice" if $seen{$n}++;
		push @faults, "$n after " . $last{ $n % $nkeys } if ($last{ $n % $nkeys } // 0) > $n;
		push @faults, "$n has another id" if hex($id // 0) != $n;
		$last{ $n % $nkeys } = $n;
	}
	push @faults, "$_ lost" foreach grep { !$seen{$_} } $from .. $from + $count - 1;
	push @faults, 'strangers' if keys %seen > $count;
	return join ', ', @faults > 5 ? (@faults[ 0 .. 4 ], scalar(@faults) . ' in all') : @faults;
}

my $nats = start_nats('main', "max_payload: 65536\n");

subtest 'what arrives' => sub {
	make_stream($nats, 'PLAIN', 'orders.>');
	my ($status, $out) = drive($library, $nats->{url}, @topic, '--count', 2);
	is($status, 0, 'delivered');
	is(tool($nats, 'count', 'PLAIN'), "2\n", 'both are in the stream');
	my ($first) = split /\n/, tool($nats, 'dump', 'PLAIN');
	my ($sequence, $subject, $body, @headers) = split /\t/, $first;
	my %header = map { split /=/, $_, 2 } @headers;

	is($subject, 'orders.a',  'the subject is the topic');
	is($body,    '{"n": 1}',  'the body');
	is_deeply(
		\%header,
		{
			'Nats-Msg-Id'  => '00000000-0000-4000-8000-000000000001',
			'Content-Type' => 'application/json',
			'ce-id'        => '00000000-0000-4000-8000-000000000001',
			'ce-type'      => 'Driven',
			'ce-sequence'  => '1'
		},
		'headers, and the id for the stream to know repeats by');
	($status) = drive($library, $nats->{url}, @topic, '--count', 3);
	is($status, 0, 'the same once more, and one more: delivered');
	is(tool($nats, 'count', 'PLAIN'), "3\n", 'what the stream had it has once');
	($status) = drive($library, "nats://127.0.0.1:1,localhost:$nats->{port}", @topic, '--from', 4);
	is($status, 0, 'a list of hosts: the next one when one refuses');
};

subtest 'what is refused' => sub {
	# outcome of the first try, what it says, arguments
	my $refused = sub {
		my ($what, $outcome, $says, @arguments) = @_;
		my (undef, $out) = drive($library, @arguments, '--once');
		like($out, qr/^\d+ outcome=$outcome status=$says/, $what);
	};
	my $url = $nats->{url};

	make_stream($nats, 'SMALL', 'small.>', 'max_msg_size=400');
	make_stream($nats, 'FULL', 'full.>', 'max_msgs=2');
	$refused->('no topic', 2, '0 .*the endpoint has no topic', $url);
	$refused->('a subject with an empty part', 2, '0 .*no empty parts', $url, '--topic', 'orders..a');
	$refused->('a subject with a wildcard', 2, '0 .*no spaces', $url, '--topic', 'orders.*');
	$refused->('a subject with a line break', 2, '0 .*no spaces', $url, '--topic', "orders.a\r\nPING");
	$refused->("the server's own subjects", 2, q{0 .*the server's own}, $url, '--topic', '$JS.API.STREAM.DELETE.PLAIN');
	$refused->("another's inbox", 2, q{0 .*the server's own}, $url, '--topic', '_INBOX.x');
	$refused->('no stream', 3, '503 .*no stream takes the subject: nowhere', $url, '--topic', 'nowhere');
	$refused->('too large for the stream', 2, '10054 .*message size exceeds', $url, '--topic', 'small.a', '--body', 'x' x 500);
	$refused->('too large for the server', 2, '0 .*and the server takes 65536', $url, @topic, '--body', 'x' x 65536);
	$refused->('a full stream', 3, '10077 .*maximum messages exceeded', $url, '--topic', 'full.a', '--count', 3, '--keys', 1);
	is(tool($nats, 'count', 'FULL'), "2\n", 'what it had room for is in it');

	my $other = start_process('answer', $tool, 'answer', $url, 'core.>');
	my $said  = "$PostgreSQL::Test::Utils::log_path/answer.log";
	poll_until('who answers', sub { -e $said && slurp_file($said) =~ /ready/ });
	$refused->('an answer that is not of JetStream', 1, q{0 .*the answer is not JetStream's}, $url, '--topic', 'core.a');
	end_process($other);
};

subtest 'who is never dialled' => sub {
	my $dials = sub {
		my (undef, $out) = drive($library, @_, @topic, '--from', 100, '--once');
		return $out;
	};
	like($dials->($nats->{url}, '--allow', ''), qr/outcome=3 .*without TLS only addresses of evtstore.allowed_networks/, 'without TLS: what is not listed');
	like($dials->("tls://localhost:$nats->{port}", '--allow', '10.0.0.0/8'),
		qr/outcome=3 .*loopback, private or special addresses/, 'with TLS: loopback that is not listed');
	is(tool($nats, 'count', 'PLAIN'), "4\n", 'nothing arrived');
};

subtest 'who we are' => sub {
	my $guarded = start_nats('guarded',
		q(authorization { users = [ {user: "shop", password: "se:cret", permissions: {publish: {deny: ["secret.>"]}}},)
		  . q( {user: "deaf", password: "x", permissions: {subscribe: ["mine.>"]}} ] }) . "\n");
	$guarded->{user} = 'shop:se:cret';
	make_stream($guarded, 'GUARDED', '*.>');
	my $as = sub {
		my (undef, $out) = drive($library, $guarded->{url}, '--once', @_);
		return $out;
	};

	like($as->(@topic), qr/outcome=3 .*Authorization Violation/, 'nobody');
	like($as->(@topic, '--secret', 'sasl=shop:wrong'), qr/outcome=3 .*Authorization Violation/, 'a wrong password');
	like($as->(@topic, '--secret', 'sasl=shop:se:cret'), qr/^delivered=1 /, 'the right one');
	like($as->('--topic', 'secret.a', '--secret', 'basic=shop:se:cret'), qr/outcome=1 status=403 .*does not let this user publish to: secret.a/,
		'a subject that is denied');
	like($as->(@topic, '--secret', 'basic=deaf:x'), qr/outcome=3 .*Permissions Violation for Subscription/, 'who may not hear answers');
	like($as->(@topic, '--secret', 'basic=deaf:x', '--client', 'inbox_prefix=mine.inbox', '--from', 2), qr/^delivered=1 /, 'another inbox');
	like($as->(@topic, '--secret', 'sasl=shop'), qr/^refused: the secret of the user is "user:password"/, 'half a secret');
	like($as->(@topic, '--client', 'url=x'), qr/^refused: unknown client setting "url"/, 'an unknown setting');
	stop_nats($guarded);

	$guarded = start_nats('token', qq(authorization { token: "t\\"k" }\n));
	like($as->(@topic, '--secret', 'bearer=t"k'), qr/outcome=3 status=503/, 'a token');
	like($as->(@topic, '--secret', 'bearer=tk'), qr/outcome=3 .*Authorization Violation/, 'a wrong one');
	stop_nats($guarded);
};

subtest 'who we are, by keys' => sub {
	my ($operator, $account, $user, $stranger) = map { EvtNkey->new($scratch, $_) } qw(operator account user user);
	plan skip_all => 'no openssl that makes keys' unless $stranger;
	my $as = sub {
		my ($to, $secret) = @_;
		my (undef, $out) = drive($library, $to->{url}, @topic, '--once', '--secret', "sasl=$secret");
		return $out;
	};

	my $keys = start_nats('keys', qq(authorization { users: [ {nkey: "$user->{public}"} ] }\n));
	like($as->($keys, $user->{seed}), qr/outcome=3 status=503/, 'a key');
	like($as->($keys, $stranger->{seed}), qr/outcome=3 .*Authorization Violation/, 'a wrong one');
	like($as->($keys, $user->{seed} =~ s/^(.{20})(.)/$1 . ($2 eq 'A' ? 'B' : 'A')/er), qr/^refused: the secret of the user/, 'one that was not copied well');
	like($as->($keys, $account->{seed}), qr/^refused: the secret of the user/, 'one that is no user');
	like($as->($nats, $user->{seed}), qr/outcome=3 .*the server wants no key/, 'a key where none is wanted');
	stop_nats($keys);

	my %limits = map { $_ => -1 } qw(subs data payload imports exports conn leaf);
	my $jwt    = $account->jwt($user, { type => 'user', version => 2, pub => {}, sub => {}, subs => -1, data => -1, payload => -1 });
	my $creds  = sub { "-----BEGIN NATS USER JWT-----\n$jwt\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n$_[0]\n------END USER NKEY SEED------\n" };
	my $tokens = start_nats('tokens',
		'operator: ' . $operator->jwt($operator, { type => 'operator', version => 2 }) . "\nresolver: MEMORY\nresolver_preload: { $account->{public}: "
		  . $operator->jwt($account, { type => 'account', version => 2, limits => { %limits, wildcards => JSON::PP::true } }) . " }\n", '');
	like($as->($tokens, $creds->($user->{seed})), qr/outcome=3 status=503/, 'a file of credentials');
	like($as->($tokens, $creds->($stranger->{seed})), qr/outcome=3 .*Authorization Violation/, "with another's key");
	stop_nats($tokens);
};

subtest 'TLS' => sub {
	plan skip_all => 'no openssl' if system('openssl version >/dev/null 2>&1');
	my $pki = "$scratch/pki";
	mkdir $pki or die "$pki: $!";
	my $log = abs_path($PostgreSQL::Test::Utils::log_path) . "/openssl.log";
	my $make = sub {
		my ($name, $subject, @extra) = @_;
		system(qq(cd $pki && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout $name.key -out $name.crt )
			  . qq(-subj /CN=$subject @extra >>$log 2>&1)) == 0
		  or die "openssl: see log/openssl.log";
	};
	$make->('ca', 'ca');
	$make->('stranger', 'stranger');
	$make->('server', 'server', '-addext subjectAltName=DNS:localhost -CA ca.crt -CAkey ca.key -addext basicConstraints=CA:FALSE');
	$make->('elsewhere', 'localhost', '-addext subjectAltName=DNS:elsewhere.example -CA ca.crt -CAkey ca.key -addext basicConstraints=CA:FALSE');
	$make->('client', 'client', '-CA ca.crt -CAkey ca.key -addext basicConstraints=CA:FALSE');
	my $tls = sub {
		my ($name, $extra, $who) = @_;
		$who //= 'server';
		return start_nats($name, qq(tls { cert_file: "$pki/$who.crt", key_file: "$pki/$who.key", ca_file: "$pki/ca.crt", timeout: 5 $extra }\n));
	};
	my $secure = $tls->('tls', '');
	my $mutual = $tls->('mutual', ', verify: true');
	my $other  = $tls->('elsewhere', '', 'elsewhere');
	my $to     = sub {
		my ($host, $nats, @arguments) = @_;
		my (undef, $out) = drive($library, "tls://$host:$nats->{port}", @topic, '--once', @arguments);
		return $out;
	};
	my @ca = ('--tls-ca', "$pki/ca.crt");

	# no stream: an answer is all that is wanted here
	like($to->('localhost', $secure, @ca), qr/outcome=3 status=503/, 'a server that is who it says');
	like($to->('127.0.0.1', $secure, @ca), qr/outcome=3 status=0 .*IP address mismatch/, 'an address that is not in its certificate');
	like($to->('localhost', $other, @ca), qr/outcome=3 status=0 .*hostname mismatch/i, 'a certificate of another name');
	like($to->('localhost', $secure), qr/outcome=3 status=0 .*handshake of TLS failed: .*certificate/, 'an authority that the system does not know');
	like($to->('localhost', $secure, '--tls-ca', "$pki/stranger.crt"), qr/outcome=3 status=0 .*handshake of TLS failed: /, 'the wrong authority');
	like($to->('127.0.0.1', $secure, '--no-verify'), qr/outcome=3 status=503/, 'anybody, where a superuser says so');
	like($to->('localhost', $mutual, @ca), qr/outcome=[13] status=0 .*(?:certificate required|bad certificate)/, 'no certificate, where one is asked for');
	like($to->('localhost', $mutual, @ca, '--secret', 'tls=' . slurp_file("$pki/client.key") . slurp_file("$pki/client.crt")),
		qr/outcome=3 status=503/, 'with one');
	like($to->('localhost', $mutual, @ca, '--secret', 'tls=' . slurp_file("$pki/client.crt")), qr/^refused: the secret "tls"/, 'half of one');
	like((drive($library, $secure->{url}, @topic, '--once'))[1], qr/outcome=3 .*the server wants TLS/, 'plain text to it');
	like($to->('localhost', $nats, @ca), qr/outcome=3 .*the server has no TLS/, 'TLS to one without');

	# a body of many records, and many messages
	my $big = start_nats('tlsbig',
		qq(tls { cert_file: "$pki/server.crt", key_file: "$pki/server.key", timeout: 5 }\n authorization { token: t }\n));
	$big->{url}  = "tls://localhost:$big->{port}";
	my ($status, $out) = drive($library, $big->{url}, @topic, @ca, '--secret', 'bearer=t', '--body', 'y' x 100_000, '--count', 40, '--once');
	like($out, qr/^1 outcome=3 status=503.*unavailable=40 /s, 'messages of many records') or diag($out);
	($status, $out) = drive($library, $big->{url}, @topic, @ca, '--secret', 'bearer=t', '--body', 'y' x 100_000, '--client', 'name=' . 'n' x 200,
		'--once');
	like($out, qr/^1 outcome=3 status=503/, 'a long name of the connection');
	stop_nats($_) foreach $secure, $mutual, $other, $big;
};

# bytes that a server has not read yet
sub unread
{
	my $port  = sprintf '%04X', shift;
	my $bytes = 0;

	foreach (split /\n/, slurp_file('/proc/net/tcp'))
	{
		$bytes += hex $1 if /^\s*\d+: [0-9A-F]{8}:$port [0-9A-F:]+ 01 [0-9A-F]{8}:([0-9A-F]{8}) /;
	}
	return $bytes;
}

# Until what was sent to it has come as far as its socket.
sub wait_for_unread
{
	my $nats = shift;
	return poll_until('messages on their way', sub { unread($nats->{port}) > 1000 });
}

subtest 'killed and started again' => sub {
	make_stream($nats, 'KILLED', 'killed.>');
	my $run = start_drive($library, $nats->{url}, '--topic', 'killed.a', '--count', 20000, '--keys', 100, '--in-flight', 500, '--rate', 6000,
		'--deadline', 60000);
	my $seen = 0;

	foreach my $kill (1 .. 4)
	{
		# it has taken some more
		$seen = poll_until('more in the stream', sub { my $n = eval { tool($nats, 'count', 'KILLED') } // 0; $n > $seen + 1500 ? $n : 0 });
		# every other time with messages on their way that it has not read
		if ($kill % 2 == 0)
		{
			kill 'STOP', $nats->{pid};
			wait_for_unread($nats);
		}
		stop_nats($nats, 'KILL');
		start_nats('main');
	}
	is(finish_drive($run), 0, 'all were delivered, while the server was killed four times');
	like(slurp_file($run->{out}), qr/outcome=1 .*the connection ended before the acknowledgement/, 'with messages in flight');
	is(faults(tool($nats, 'dump', 'KILLED'), 1, 20000, 100), '', 'nothing lost, nothing twice, the order of each key');
};

subtest 'frozen' => sub {
	make_stream($nats, 'FROZEN', 'frozen.>');
	my $run = start_drive($library, $nats->{url}, '--topic', 'frozen.a', '--count', 8000, '--keys', 100, '--in-flight', 500, '--rate', 4000,
		'--timeout', 700, '--deadline', 60000);
	poll_until('some', sub { tool($nats, 'count', 'FROZEN') > 500 });
	kill 'STOP', $nats->{pid};
	poll_until('timeouts', sub { slurp_file($run->{out}) =~ /outcome=1 .*no acknowledgement in time/ });
	kill 'CONT', $nats->{pid};
	is(finish_drive($run), 0, 'all were delivered in the end');
	is(faults(tool($nats, 'dump', 'FROZEN'), 1, 8000, 100), '', 'what it had taken unseen it has once');
};

# Something that listens and then does as it is told.
sub start_fake
{
	my $act    = shift;
	my $socket = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "listen: $!";
	my $pid    = fork;

	die "fork: $!" unless defined $pid;
	if (!$pid)
	{
		local $SIG{ALRM} = 'DEFAULT';
		alarm 120;
		while (my $client = $socket->accept) { $act->($client) }
		POSIX::_exit(0);
	}
	return ($pid, $socket->sockport, $socket);
}

subtest 'no servers of NATS' => sub {
	my $info = 'INFO {"server_id":"x","headers":true,"max_payload":1048576}' . "\r\n";
	my %said = (
		'of HTTP'                => [ "HTTP/1.1 400 Bad Request\r\n\r\n", qr/did not begin with INFO/ ],
		'that closes'            => [ '', qr/the server closed the connection/ ],
		'of another kind'        => [ "\0\1\2\3\n", qr/did not begin with INFO/ ],
		'with half an INFO'      => [ "INFO {\"max_payload\": \r\n", qr/no max_payload/ ],
		'without an end of line' => [ 'x' x 300_000, qr/a line without an end/ ],
		'that is old'            => [ "INFO {\"max_payload\":1000}\r\n", qr/takes no headers/ ],
		'with an answer too big' => [ "${info}MSG a 1 99999999999\r\n", qr/an answer without a size, or too large/ ],
		'with no size'           => [ "${info}HMSG a 1 12\r\n", qr/an answer without a size, or too large/ ],
		'with sizes that cross'  => [ "${info}HMSG a 1 20 10\r\n", qr/an answer without a size, or too large/ ],
		'with unknown words'     => [ "${info}HELLO\r\n", qr/an unknown line/ ]);

	foreach my $kind (sort keys %said)
	{
		my ($text, $says) = @{ $said{$kind} };
		# what it is told it reads away, so that its end is no reset
		my ($pid, $port) = start_fake(sub { my $c = shift; $c->syswrite($text); shutdown $c, 1; 1 while $c->sysread(my $b, 4096) });
		my (undef, $out) = drive($library, "nats://127.0.0.1:$port", @topic, '--once');
		like($out, qr/outcome=3 .*$says/, "one $kind");
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	# what is said before TLS is nobody's: with an answer slipped in behind it, it is no TLS
	my $slipped = qq(INFO {"headers":true,"max_payload":1048576,"tls_required":true}\r\nPONG\r\n);
	my ($pid, $port) = start_fake(sub { my $c = shift; $c->syswrite($slipped); shutdown $c, 1; 1 while $c->sysread(my $b, 4096) });
	like((drive($library, "tls://localhost:$port", @topic, '--once'))[1], qr/outcome=3 .*the handshake of TLS failed: wrong version number/,
		'words in front of TLS are not listened to');
	kill 'KILL', $pid;
	waitpid $pid, 0;
};

# A server that answers the first try of a message when it sees the second: that says nothing of the second.
subtest 'a late answer' => sub {
	my ($pid, $port) = start_fake(
		sub {
			my ($c, $bytes, @answers) = (shift, '');
			$c->syswrite(qq(INFO {"headers":true,"max_payload":1048576}\r\n));
			while ($c->sysread($bytes, 4096, length $bytes))
			{
				$c->syswrite("PONG\r\n") while $bytes =~ s/^PING\r\n//m;
				while ($bytes =~ s/^HPUB \S+ (\S+) [^\n]*\n//m)
				{
					push @answers, $1;
					# not silent, or the connection would be given up; then the first of two, then each
					my $to = @answers == 2 ? $answers[0] : @answers > 2 ? $answers[-1] : undef;
					$c->syswrite("PING\r\n");
					$c->syswrite(qq(MSG $to 1 22\r\n{"stream":"S","seq":1}\r\n)) if $to;
				}
			}
		});
	my ($status, $out) = drive($library, "nats://127.0.0.1:$port", @topic, '--timeout', 300, '--deadline', 5000);
	like($out, qr/^(?:1 outcome=1 .*no acknowledgement in time.*\n){2}delivered=1 repeated=2 /, 'it is not taken for an answer to the second try');
	kill 'KILL', $pid;
	waitpid $pid, 0;
};

# An address from which nothing comes: nobody accepts, and what nobody accepts fills the backlog.
sub start_hole
{
	my ($pid, $port, $socket) = start_fake(sub { });

	kill 'STOP', $pid;
	return ($pid, $port, $socket, map { IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Blocking => 0) } 1 .. 12);
}

# Ends must come soon, and never by a signal: a worker that crashes restarts the whole server.
subtest 'the end of the process' => sub {
	my ($silent, $port)  = start_fake(sub { push @kept, @_ });
	my ($full, $hole, @held) = start_hole();
	make_stream($nats, 'ENDS', 'ends.>');

	foreach my $how ([], ['--abrupt'])
	{
		my $end = sub {
			my ($what, @arguments) = @_;
			my $begin = time;
			my ($status, $out) = drive($library, @arguments, @$how);
			cmp_ok($status, '<', 2, "$what @$how: no signal, no fault") or diag($out);
			cmp_ok(time - $begin, '<', 4, "$what @$how: soon");
		};
		$end->('connecting to where nobody answers', "nats://127.0.0.1:$hole", @topic, '--deadline', 300);
		$end->('greeted by nobody', "nats://127.0.0.1:$port", @topic, '--deadline', 300);
		$end->('in TLS with nobody', "tls://127.0.0.1:$port", @topic, '--deadline', 300);
		$end->('at once', $nats->{url}, '--topic', 'ends.a', '--deadline', 0);
		$end->('in full flight', $nats->{url}, '--topic', 'ends.a', '--count', 200_000, '--keys', 1000, '--in-flight', 1000, '--deadline', 300);
		kill 'STOP', $nats->{pid};
		$end->('in flight to a frozen server', $nats->{url}, '--topic', 'ends.a', '--count', 20000, '--body', 'z' x 5000, '--in-flight', 4000,
			'--keys', 4000, '--deadline', 300);
		kill 'CONT', $nats->{pid};
	}
	foreach my $pid ($silent, $full)
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
};

# whoever reads the file has the old text or the new one
sub rename_over
{
	my ($file, $text) = @_;

	append_to_file("$file.new", $text);
	rename "$file.new", $file or die "$file: $!";
	return;
}

#
# The whole way: appended, sent by the relay, kept by JetStream, while each of them is killed: twice while it works, and twice with messages on
# their way to a server that does not read them.  What is killed next is a matter of what has arrived, and events are appended meanwhile.
#
subtest 'below a store' => sub {
	my $node   = new_node('store', conf => "restart_after_crash = on\n");
	my @kinds  = qw(nats relay server);
	# five batches each time, in two rounds, frozen or not
	my $batch  = 340;
	my $events = 5 * $batch * 2 * 2 * @kinds;
	my $options = '{"topic": "shop.${category}.${type}", "timeout": "2s", "max_in_flight": 500,'
	  . ' "breaker": {"open_for": "100ms", "max_open_for": "500ms"}}';

	make_stream($nats, 'STORE', 'shop.order.>');
	$node->safe_psql('postgres', "SELECT evtstore.create_endpoint('n', '$nats->{url}', '$options')");
	$node->safe_psql('postgres', q{SELECT evtstore.create_subscription('out', '{"categories": ["order"]}', 'n',}
		  . q{ options => '{"retry": {"initial": "50ms", "max_delay": "500ms", "max_attempts": 0}}')});
	my $gate = PostgreSQL::Test::Utils::tempdir() . '/batches';
	append_to_file($gate, 0);
	start_child(
		'appender',
		sub {
			# a reply may be lost with the server: the same ids again are the same events
			foreach my $b (0 .. $events / $batch - 1)
			{
				poll_until("leave for batch $b", sub { slurp_file($gate) > $b });
				my $sql = sprintf q{SELECT count(*) FROM generate_series(%d, %d) n,}
				  . q{ evtstore.append('order-' || n %% 100, 'T' || n %% 3, jsonb_build_object('n', n),}
				  . q{ id => ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid)},
				  $b * $batch + 1, ($b + 1) * $batch;
				poll_until("batch $b", sub { my $out; my $s = eval { $node->psql('postgres', $sql, stdout => \$out) }; defined $s && $s == 0 });
			}
		});
	my $released = 0;
	my $release  = sub { rename_over($gate, $released += shift) };
	my $taken    = 0;
	my $take     = sub {
		my $least = shift;
		$taken = poll_until("$least in the stream", sub { my $n = eval { tool($nats, 'count', 'STORE') } // 0; $n >= $least ? $n : 0 });
	};
	my %kill = (
		nats => sub {
			stop_nats($nats, 'KILL');
			poll_sql($node, q{SELECT lag_events > 0 FROM evtstore.subscription_status WHERE name = 'out'});
			start_nats('main');
		},
		relay => sub { kill9(worker_pid($node, 'relay')); poll_sql($node, 'SELECT true') },
		server => sub { crash($node) });
	my %killed;
	foreach my $step (map { my $name = $_; ([ $name, 0 ], [ $name, 1 ]) } @kinds, @kinds)
	{
		my ($name, $frozen) = @$step;

		$release->(2);
		# where all has arrived, there is a connection, and nothing on its way
		$take->($frozen ? $released * $batch : $taken + 1);
		kill 'STOP', $nats->{pid} if $frozen;
		$release->(3);
		wait_for_unread($nats) if $frozen;
		$kill{$name}->();
		kill 'CONT', $nats->{pid};
		$killed{"$name $frozen"}++;
	}
	is_deeply(\%killed, { map { ("$_ 0" => 2, "$_ 1" => 2) } @kinds }, 'each was killed twice while it worked, and twice with messages on their way');
	is(finish_children('appender', 60), '', 'all were appended');
	poll_sql($node, q{SELECT lag_events = 0 FROM evtstore.subscription_status WHERE name = 'out'});
	my $dump = tool($nats, 'dump', 'STORE');
	is(faults($dump, 1, $events, 100), '', 'nothing lost, nothing twice, the order of each key');
	is(scalar(grep { !m{^\d+\tshop\.order\.T[012]\t} } split /\n/, $dump), 0, 'each under its subject');

	# a relay that ends while it connects, and while it has messages out, takes nobody with it
	my ($full, $hole, @held) = start_hole();
	$node->safe_psql('postgres', "SELECT evtstore.create_endpoint('hole', 'nats://127.0.0.1:$hole', '$options')");
	$node->safe_psql('postgres', q{SELECT evtstore.create_subscription('hole', '{"categories": ["order"]}', 'hole')});
	my $slow = $options =~ s/\{/{"rate": 400, /r;
	$node->safe_psql('postgres', "SELECT evtstore.create_endpoint('n2', '$nats->{url}', '$slow')");
	$node->safe_psql('postgres', q{SELECT evtstore.create_subscription('n2', '{"categories": ["order"]}', 'n2')});
	poll_sql($node, q{SELECT delivered > 0 FROM evtstore.endpoint_status WHERE name = 'n2'});
	kill 'STOP', $nats->{pid};
	wait_for_unread($nats);
	my $relay = worker_pid($node, 'relay');
	my $begin = time;
	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($relay)"), 't', 'told to end');
	poll_until('its end', sub { !kill 0, $relay });
	cmp_ok(time - $begin, '<', 6, 'it ends soon');
	isnt(worker_pid($node, 'relay'), $relay, 'and has a successor');
	$begin = time;
	$node->stop;
	cmp_ok(time - $begin, '<', 10, 'the server ends soon, too');
	unlike(slurp_file($node->logfile) =~ s/.*\Qpg_terminate_backend($relay)\E//sr, qr/terminated by signal|exited with exit code [^01]/, 'without a crash');
	kill 'CONT', $nats->{pid};
	kill 'KILL', $full;
	waitpid $full, 0;
};

stop_nats($nats);
done_testing();
