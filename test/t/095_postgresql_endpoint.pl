# Delivery to another database with evtstore: by the transport alone (test/transport/driver.c), and by a store.
#
# What arrives, what comes of each refusal, who is never dialled, TLS, what one bad or slow message does to its neighbours; then
# servers that are stopped hard while twenty thousand messages of a hundred keys are on their way: nothing is lost, nothing is there
# twice, and the order of each key is kept.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtTest;
use EvtTransport;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# servers that are ended must come back by themselves
my $conf = "restart_after_crash = on\nlog_statement = none\nevtstore.poll_interval = 200ms\nmax_connections = 40\n";

my $library = transport_library('postgresql');
plan skip_all => 'evtstore_postgresql is not built' unless $library;

# loopback has more than one address, so these two listen on TCP; the receiver has its own rules who may come
my $there = new_node('there', conf => $conf, start => 0);
my $port  = $there->port;
$there->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\n");
append_to_file($there->data_dir . '/pg_hba.conf', '');
write_hba("host all all 127.0.0.1/32 trust\n");
$there->start;
$there->safe_psql('postgres', 'CREATE EXTENSION evtstore; CREATE DATABASE bare');

my $plain = "postgresql://postgres\@127.0.0.1:$port/postgres?sslmode=disable";

sub write_hba
{
	my $rules = shift;
	open my $file, '>', $there->data_dir . '/pg_hba.conf' or die "pg_hba.conf: $!";
	print $file "local all all trust\n$rules";
	close $file;
	return;
}

sub there
{
	my ($sql, $database) = @_;
	return $there->safe_psql($database // 'postgres', $sql);
}

# everything that the driver sends with that many keys, once, in the order of each key: else what is wrong
sub faults
{
	my ($from, $count) = @_;
	return there(<<"END");
SELECT string_agg(fault, ', ') FROM (
    SELECT count(*) || ' lost' AS fault FROM generate_series($from, $from + $count - 1) i
    WHERE NOT EXISTS (SELECT FROM evtstore.events WHERE type = 'Driven' AND data = to_jsonb(i)) HAVING count(*) > 0
    UNION ALL
    SELECT data::text || ' twice' FROM evtstore.events WHERE type = 'Driven' GROUP BY data HAVING count(*) > 1
    UNION ALL
    SELECT data || ' after ' || before FROM (SELECT data::int, lag(data::int) OVER (PARTITION BY stream ORDER BY version) AS before
        FROM evtstore.events WHERE type = 'Driven') e WHERE data < before) f
END
}

# until nobody is there but who asks: sessions of a driver that has ended are gone
sub forget
{
	poll_sql($there, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'evtstore:%'});
	there('SET evtstore.allow_drop = on; DROP EXTENSION evtstore CASCADE; CREATE EXTENSION evtstore');
	return;
}

subtest 'what arrives' => sub {
	my ($status, $out) = drive($library, $plain, '--count', 25, '--keys', 5);
	is($status, 0, 'delivered') or diag $out;
	is(faults(1, 25), '', 'all of it, once, in order');
	is(there(q{SELECT to_jsonb(e) - '{position,recorded_at,occurred_at}'::text[] FROM evtstore.events e WHERE data = '7'}),
		'{"id": "00000000-0000-4000-8000-000000000007", "data": 7, "tags": [], "type": "Driven", "stream": "k2", "tenant": "", "version": 2, '
		  . '"category": "k2", "metadata": {"origin": {"source": "driver", "position": "7"}}, "schema_version": 1}',
		'an event is that event');
	($status, $out) = drive($library, $plain, '--count', 30, '--keys', 5);
	like($out, qr/^delivered=30 repeated=0 rejected=0 unavailable=0 left=0/m, 'again, and five more: delivered');
	is(faults(1, 30), '', 'what was there is there once');

	there(q{SELECT evtstore.create_queue('work')});
	($status) = drive($library, $plain, '--count', 30, '--keys', 5, '--topic', 'queue:work');
	($status) = drive($library, $plain, '--count', 30, '--keys', 5, '--topic', 'queue:work') if $status == 0;
	is($status, 0, 'to a queue, twice: delivered');
	is(there(q{SELECT count(*), min(key), count(DISTINCT body) FROM evtstore_internal.message}), '30|k0|30', 'they are in the queue, once');
	($status) = drive($library, $plain, '--from', 100, '--topic', 'stream:all');
	is(there(q{SELECT stream FROM evtstore.events WHERE data = '100'}), 'all', 'to one stream');
	($status) = drive($library, "postgres://postgres\@localhost:$port/postgres?sslmode=disable&application_name=a%20b&target_session_attrs=any",
		'--from', 101, '--allow', '127.0.0.1');
	is($status, 0, 'a name, of which one address is acceptable; parameters');
};

subtest 'what is refused' => sub {
	# outcome of the first try, what it says, url and arguments
	my $refused = sub {
		my ($what, $outcome, $says, @arguments) = @_;
		my (undef, $out) = drive($library, @arguments, '--deadline', 500, '--from', 201);
		like($out, qr/^201 outcome=$outcome status=0 retry_after=-1 .*$says/m, $what);
	};
	my $body = sub {
		my $more = shift;
		return ('--body', qq({"id": "00000000-0000-4000-8000-000000000001", "stream": "k1", "type": "Driven", "source": "driver"$more}));
	};

	there(q{CREATE ROLE poor LOGIN; CREATE ROLE writer LOGIN IN ROLE evtstore_writer; ALTER ROLE writer SET password_encryption = 'scram-sha-256';
		ALTER ROLE writer PASSWORD 'se:cret'});
	$refused->('the same id, other content', 2, 'ST004: event id .* exists with other content', $plain, $body->(', "data": 2'));
	$refused->('no event', 2, '22004: element 1 of events has no "data"', $plain, $body->(''));
	$refused->('no JSON', 2, '22P02: ', $plain, '--body', '{');
	$refused->('no target', 2, '22023: unknown target "work"', $plain, '--topic', 'work');
	$refused->('an unknown queue is retried', 1, 'ST008: queue "none" does not exist', $plain, '--topic', 'queue:none');
	there(q{SELECT evtstore.delete_stream('k9', hard => true) FROM evtstore.append('k9', 'T', '1')});
	$refused->('a stream that was deleted for ever', 2, 'ST002: ', $plain, '--body',
		'{"id": "00000000-0000-4000-8000-0000000000ff", "stream": "k9", "type": "T", "data": 1, "source": "driver"}');

	(my $to = $plain) =~ s{/postgres\?}{/bare?};
	$refused->('no evtstore there', 3, '3F000: schema "evtstore" does not exist', $to);
	($to = $plain) =~ s{/postgres\?}{/nowhere?};
	$refused->('no such database', 3, 'database "nowhere" does not exist', $to);
	($to = $plain) =~ s/postgres\@/poor\@/;
	$refused->('no right', 3, '42501: permission denied for schema evtstore', $to);
	$refused->('nobody listens', 3, 'refused', 'postgresql://postgres@127.0.0.1:1/postgres?sslmode=disable');

	write_hba("host all writer 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n");
	$there->reload;
	($to = $plain) =~ s/postgres\@/writer\@/;
	(my $nobody = $plain) =~ s/postgres\@//;
	poll_until('the rules', sub { (drive($library, $to, '--deadline', 200))[1] =~ /no password supplied/ });
	$refused->('no password', 3, 'no password supplied', $to);
	$refused->('a wrong password', 3, 'password authentication failed for user "writer"', $to, '--secret', 'sasl=other');
	foreach my $case ([ $to, 'sasl=se:cret' ], [ $to, 'sasl=writer:se:cret' ], [ $nobody, 'basic=writer:se:cret' ])
	{
		my ($status, $out) = drive($library, $case->[0], '--secret', $case->[1], '--from', 202, '--deadline', 3000);
		is($status, 0, "the right one, as $case->[1]") or diag $out;
	}
	my (undef, $out) = drive($library, $nobody);
	like($out, qr/^refused: neither the url nor a secret/, 'no user at all');

	foreach my $case (
		[ '/postgres', 'no host' ],
		[ '%2Ftmp/postgres', 'no host' ],
		[ 'a:b@h/d', 'a password' ],
		[ 'h/d?password=x', 'a password' ],
		[ 'h', 'no database' ],
		[ 'h/', 'no database' ],
		[ 'h/a/b', 'no name' ],
		[ 'h/a%00b', 'no name' ],
		[ 'h/%zz', 'no name' ],
		[ 'h,i/d', 'one name' ],
		[ 'h:99999/d', 'port' ],
		[ 'h:/d', 'port' ],
		[ '[::1/d', 'brackets' ],
		[ 'h/d#x', 'fragment' ],
		[ 'h/d?host=/tmp', 'parameter that is not' ],
		[ 'h/d?service=x', 'parameter that is not' ],
		[ 'h/d?passfile=/etc/passwd', 'parameter that is not' ],
		[ 'h/d?sslrootcert=/etc/passwd', 'parameter that is not' ],
		[ 'h/d?sslmode=prefer', 'sslmode' ],
		[ 'h/d?sslmode=require', 'sslmode' ],
		[ 'h/d?sslmode=disable&sslmode=verify-full', 'twice' ],
		[ 'h/d?connect_timeout=0', 'connect_timeout' ],
		[ 'h/d?target_session_attrs=standby', 'target_session_attrs' ])
	{
		my ($status, $said) = drive($library, "postgresql://$case->[0]");
		like($said, qr/^url: .*\Q$case->[1]\E/, $case->[0]);
	}
	(undef, $out) = drive($library, 'postgresql://a@h/d?sslmode=verify-ca');
	like($out, qr/^refused: sslmode=verify-ca/, 'verify-ca without an authority of one\'s own');
	(undef, $out) = drive($library, 'postgresql://a@h/d', '--client', 'passfile=/x');
	like($out, qr/^refused: unknown client setting "passfile"/, 'an unknown client setting');
};

subtest 'who is never dialled' => sub {
	# listens where none of these may come
	my $trap = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die "listen: $!";
	my $at   = $trap->sockport;

	foreach my $case (
		[ 'loopback, that is not listed', "127.0.0.1:$at/d", 'that evtstore.allowed_networks does not have', '' ],
		[ 'by name',                      "localhost:$at/d", 'that evtstore.allowed_networks does not have', '' ],
		[ 'mapped',               "[::ffff:127.0.0.1]:$at/d", 'that evtstore.allowed_networks does not have', '' ],
		[ 'in another notation',          "2130706433:$at/d", 'that evtstore.allowed_networks does not have', '' ],
		[ 'in plain text',   "127.0.0.1:$at/d?sslmode=disable", 'sslmode=disable goes only to addresses of', '10.0.0.0/8' ],
		[ 'in plain text, though it is none of the special ones', "192.0.32.8:$at/d?sslmode=disable", 'sslmode=disable goes only', '10.0.0.0/8' ])
	{
		my ($what, $to, $says, $networks) = @$case;
		my (undef, $out) = drive($library, "postgresql://a\@$to", '--allow', $networks, '--deadline', 300);
		like($out, qr/^1 outcome=3 .*\Q$says\E/m, $what);
	}
	$trap->blocking(0);
	ok(!$trap->accept, 'nobody came');

	# the home of who runs this has a password and a certificate for everybody: they are not for endpoints
	local $ENV{HOME}       = PostgreSQL::Test::Utils::tempdir('home');
	local $ENV{PGPASSWORD} = 'se:cret';
	local $ENV{PGSERVICE}  = 'elsewhere';
	append_to_file("$ENV{HOME}/.pgpass", "*:*:*:*:se:cret\n");
	chmod 0600, "$ENV{HOME}/.pgpass";
	(my $to = $plain) =~ s/postgres\@/writer\@/;
	my (undef, $out) = drive($library, $to, '--deadline', 300);
	like($out, qr/^1 outcome=3 .*no password supplied/m, 'a password file and a variable are not looked at');
};

subtest 'TLS' => sub {
	my $dir = $there->data_dir;
	plan skip_all => 'no openssl' if system('sh', '-c', 'openssl version >/dev/null 2>&1') != 0;
	my $make = sub {
		my ($name, $subject, @more) = @_;
		system_or_bail('sh', '-c', 'log=$1; shift; exec "$@" >"$log" 2>&1', 'sh', "$PostgreSQL::Test::Utils::log_path/openssl.log", 'openssl', 'req',
			'-new', '-x509', '-days', '30', '-nodes', '-newkey', 'rsa:2048', '-subj', "/CN=$subject", '-keyout', "$dir/$name.key", '-out',
			"$dir/$name.crt", @more);
		chmod 0600, "$dir/$name.key";
	};
	$make->('server', 'localhost', '-addext', 'subjectAltName=DNS:localhost');
	$make->('client', 'writer');
	$there->append_conf('postgresql.conf', "ssl = on\nssl_ca_file = 'client.crt'\n");
	write_hba("hostssl all writer 127.0.0.1/32 cert\nhost all all 127.0.0.1/32 trust\n");
	$there->restart;
	my $to = "postgresql://postgres\@localhost:$port/postgres";

	my ($status, $out) = drive($library, $to, '--tls-ca', "$dir/server.crt", '--from', 301);
	is($status, 0, 'verified') or diag $out;
	(undef, $out) = drive($library, $to, '--deadline', 300, '--from', 302);
	like($out, qr/^302 outcome=3 .*certificate/m, 'nobody knows the authority');
	(undef, $out) = drive($library, "postgresql://postgres\@127.0.0.1:$port/postgres", '--tls-ca', "$dir/server.crt", '--deadline', 300, '--from', 302);
	like($out, qr/^302 outcome=3 .*server certificate for "localhost".* does not match host name "127.0.0.1"/m, 'it is somebody else');
	($status) = drive($library, "postgresql://postgres\@127.0.0.1:$port/postgres?sslmode=verify-ca", '--tls-ca', "$dir/server.crt", '--from', 302);
	is($status, 0, 'verify-ca: whoever has a certificate of this authority');
	($status) = drive($library, "postgresql://postgres\@127.0.0.1:$port/postgres", '--no-verify', '--from', 303);
	is($status, 0, 'a superuser says not to verify');
	(my $as_writer = $to) =~ s/postgres\@/writer\@/;
	my $pem = slurp_file("$dir/client.crt") . slurp_file("$dir/client.key");
	($status, $out) = drive($library, $as_writer, '--tls-ca', "$dir/server.crt", '--secret', "tls=$pem", '--from', 304);
	is($status, 0, 'with a certificate of our own') or diag $out;
	(undef, $out) = drive($library, $as_writer, '--tls-ca', "$dir/server.crt", '--deadline', 300, '--from', 305);
	like($out, qr/^305 outcome=3 .*requires a valid client certificate/m, 'without one');
	is(there(q{SELECT count(*) FROM evtstore.events WHERE data::text BETWEEN '301' AND '305'}), '4', 'four arrived');
	write_hba("host all all 127.0.0.1/32 trust\n");
	$there->restart;
};

subtest 'one bad message' => sub {
	forget();
	# 250 is an event already, with other content
	there(q{SELECT evtstore.append('k50', 'Driven', '-1', id => '00000000-0000-4000-8000-0000000000fa')});
	my ($status, $out) = drive($library, $plain, '--count', 500, '--keys', 50, '--in-flight', 500);
	is($status, 0, 'all are settled');
	like($out, qr/^delivered=499 repeated=0 rejected=1 unavailable=\d+ left=0/m, 'one of a batch is rejected, all others arrive');
	like($out, qr/^250 outcome=2 .*ST004/m, 'that one');
	my @held = $out =~ /^(\d+) outcome=3 /mg;
	is_deeply([ grep { $_ % 50 != 0 || $_ < 250 } @held ], [], 'only those behind it, of its key, had to wait');
	is(there(q{SELECT count(*) FROM evtstore.events WHERE data <> '-1' AND data <> '250'}), '499', 'the others are there');
	is(there(q{SELECT string_agg(data::text, ' ' ORDER BY version) FROM evtstore.events WHERE stream = 'k0'}),
		join(' ', map { 50 * $_ } 1 .. 4, 6 .. 10), 'in order');
};

subtest 'a stream that somebody holds' => sub {
	forget();
	my $holder = session($there);
	$holder->query_safe(q{BEGIN; SELECT evtstore.append('k7', 'Other', '1')});
	my $run = start_drive($library, $plain, '--count', 100, '--keys', 10, '--timeout', 500, '--in-flight', 100, '--deadline', 60000);
	poll_until('one that is repeated', sub { -e $run->{out} && slurp_file($run->{out}) =~ /^\d+ outcome=1 .*57014/m });
	$holder->query_safe('COMMIT');
	$holder->quit;
	is(finish_drive($run), 0, 'all arrive when he lets go');
	is(faults(1, 100), '', 'once, in order');
	my @charged = slurp_file($run->{out}) =~ /^(\d+) outcome=1 /mg;
	is_deeply([ grep { $_ % 10 != 7 } @charged ], [], 'attempts were spent by messages of that stream only');
};

subtest 'a server that is stopped hard' => sub {
	forget();
	my $count = 20000;
	my $run   = start_drive($library, $plain, '--count', $count, '--keys', 100, '--in-flight', 40, '--rate', 4000, '--quiet', '--deadline', 150000);
	my $cut   = 0;

	foreach my $share (1 .. 5)
	{
		poll_sql($there, "SELECT count(*) >= $share * $count / 8 FROM evtstore.events");
		$cut++ if there("SELECT count(*) < $count FROM evtstore.events") eq 't';
		crash($there);
	}
	is($cut, 5, 'each time there was something on its way');
	is(finish_drive($run), 0, 'all are delivered');
	my $out = slurp_file($run->{out});
	like($out, qr/^delivered=$count .*left=0/m, 'as the driver knows');
	diag $out =~ /^(delivered=.*)/m;
	is(faults(1, $count), '', 'nothing is lost, nothing is there twice, the order of each key is kept');
};

# The whole way: appended and sent here, delivered by the relay, accepted there, and all of it delivered back, while each of them is killed.
subtest 'from store to store' => sub {
	my $events   = 20000;
	my $messages = 2000;
	my $batch    = 250;
	my $retry    = '"retry": {"initial": "50ms", "max_delay": "500ms", "max_attempts": 0}';
	my $breaker  = '"timeout": "3s", "breaker": {"open_for": "100ms", "max_open_for": "500ms"}';
	my $here     = new_node('here', conf => $conf, start => 0);

	$here->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\n");
	$here->start;
	$here->safe_psql('postgres', 'CREATE EXTENSION evtstore');
	forget();
	(my $back = $plain) =~ s/:$port/':' . $here->port/e;
	there(qq{SELECT evtstore.create_queue('work'), evtstore.create_endpoint('back', '$back', '{"source": "/there", $breaker}')});
	there(qq{SELECT evtstore.create_subscription('all back', endpoint => 'back', options => '{$retry}')});
	$here->safe_psql('postgres', $_) foreach (
		qq{SELECT evtstore.create_endpoint('there', '$plain', '{"source": "/here", $breaker}')},
		qq{SELECT evtstore.create_endpoint('work', '$plain', '{"source": "/here", "topic": "queue:work", $breaker}')},
		qq{SELECT evtstore.create_subscription('all', endpoint => 'there', options => '{$retry}')},
		qq{SELECT evtstore.create_queue('jobs', '{"endpoint": "work", "dedup_window": "1h", $retry}')});

	# a reply may be lost with the server: the same ids again are the same events, and the same messages
	my $until_done = sub {
		my $sql = shift;
		poll_until($sql, sub { my $out; my $s = eval { $here->psql('postgres', $sql, stdout => \$out) }; defined $s && $s == 0 });
	};
	start_child(
		'appender',
		sub {
			foreach my $b (0 .. $events / $batch - 1)
			{
				$until_done->(sprintf q{SELECT count(*) FROM generate_series(%d, %d) n, evtstore.append('k' || n %% 100, 'Driven', to_jsonb(n),}
				  . q{ id => ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid)}, $b * $batch + 1, ($b + 1) * $batch);
			}
		});
	start_child(
		'sender',
		sub {
			foreach my $b (0 .. $messages / 25 - 1)
			{
				$until_done->(sprintf q{SELECT evtstore.send('jobs', to_jsonb(n), key => 'k' || n %% 10, dedup_id => n::text)}
				  . q{ FROM generate_series(%d, %d) n}, $b * 25 + 1, ($b + 1) * 25);
			}
		});

	my @how = (
		'relay here'  => sub { kill9(worker_pid($here, 'relay')); poll_sql($here, 'SELECT true') },
		'there'       => sub { crash($there) },
		'relay there' => sub { kill9(worker_pid($there, 'relay')); poll_sql($there, 'SELECT true') },
		'here'        => sub { crash($here) },
		'session'     => sub {
			my $pid = poll_until('a delivery', sub { there(q{SELECT pid FROM pg_stat_activity WHERE application_name = 'evtstore:there'}) });
			there("SELECT pg_terminate_backend($pid)");
		});
	my (%disturbed, $seen);
	while (1)
	{
		my $now = poll_until('more over there',
			sub { my $n = there('SELECT count(*) FROM evtstore.events'); $n >= $events || $n > ($seen // 0) + 800 ? $n : 0 });
		last if $now >= $events;
		my ($name, $disturb) = splice @how, 0, 2;
		push @how, $name, $disturb;
		$disturb->();
		$disturbed{$name}++;
		$seen = $now;
	}
	is(finish_children('appender', 60), '', 'all were appended');
	is(finish_children('sender', 60), '', 'all were sent');
	cmp_ok($disturbed{$_} // 0, '>=', 2, "while this was killed twice or more: $_") foreach sort map { $how[ 2 * $_ ] } 0 .. 4;
	poll_sql($here, q{SELECT ready + delayed + in_flight = 0 FROM evtstore.queue_status WHERE name = 'jobs'});
	poll_sql($there, q{SELECT count(*) FROM evtstore_internal.inbox}, $events + $messages);
	# all of it came back
	poll_sql($here, q{SELECT count(*) FROM evtstore_internal.inbox}, $events);
	is(faults(1, $events), '', 'events: nothing lost, nothing twice, the order of each key');
	is(there(q{SELECT DISTINCT metadata->'origin'->>'source' FROM evtstore.events}), '/here', 'they know where they come from');
	is($here->safe_psql('postgres', q{SELECT count(*), bool_or(metadata ? 'origin') FROM evtstore.events}), "$events|f",
		'what came back is what was here');
	is( there(
			q{SELECT count(*), count(DISTINCT body), bool_or(wrong) FROM (SELECT body, body::int < lag(body::int) OVER (PARTITION BY key ORDER BY id) AS wrong
			FROM evtstore_internal.message) m}),
		"$messages|$messages|f",
		'messages: nothing lost, nothing twice, the order of each key');
	is( $here->safe_psql('postgres', q{SELECT count(*) FROM evtstore.dead_letters}) . there(q{SELECT count(*) FROM evtstore.dead_letters}),
		'00', 'nothing was given up');
	$here->stop;
};

done_testing();
