# What receivers make of messages: each kind that goes out is read by the SDK of CloudEvents for Node, and signatures are verified by the library
# of Standard Webhooks.  In every attribute are characters that a careless encoding breaks.
use strict;
use warnings;
use utf8;

use EvtRabbit;
use EvtTest;
use EvtTransport;
use IPC::Open2;
use JSON::PP qw(decode_json encode_json);
use MIME::Base64 qw(decode_base64 encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $modules = '/var/cache/evtstore-validators/node_modules';
my $script  = test_tree() . '/test/t/lib/validator.js';

$ENV{NODE_PATH} = $modules;
plan skip_all => "no node, or no cloudevents and standardwebhooks in $modules (test/setup/validators)"
  if system('sh', '-c', q{exec node -e "require('cloudevents'); require('standardwebhooks')" >/dev/null 2>&1}) != 0;

my $node     = new_node('main', conf => "log_statement = none\nmax_worker_processes = 24\nevtstore.janitor_interval = 100ms\n");
my $receiver = start_receiver(command => sub { ('node', $script, @_) });

sub sql
{
	my ($statement, $database) = @_;
	utf8::encode($statement);
	my $out = $node->safe_psql($database // 'postgres', $statement);
	utf8::decode($out);
	return $out;
}

sub sent
{
	my ($path) = @_;
	return grep { $_->{path} eq $path } $receiver->requests;
}

sub wait_sent
{
	my ($path, $n) = @_;
	poll_until("$n events at $path", sub { events_of(sent($path)) >= $n });
	return sent($path);
}

sub events_of { return map { @{ $_->{events} // [] } } @_ }

sub secret { return 'whsec_' . encode_base64($_[0] x 32, '') }

# --- events that are hard to say ---

my @hard = ('ü "quoted" 100% %41 💥', q{a'b\\c;d,e:f/?#[]@!$&()*+=}, "Ω≈ç√ ~\x{2028}{}<>|^`", '%', '"', '€', "\x{10FFFD}");
my $n    = 0;

foreach my $text (@hard)
{
	my $literal = $text =~ s/'/''/gr;
	my $json    = JSON::PP->new->encode(
		{ correlation_id => "$text\r\nX-Evil: 1", causation_id => $text, traceparent => "\t$text", tracestate => $text, other => $text }) =~ s/'/''/gr;

	$n++;
	sql(qq{SELECT evtstore.append('order-$literal', 'T$literal', jsonb_build_object('text', '$literal', 'n', $n), metadata => '$json')});
}
# those that came as CloudEvents, with what only they have
my @foreign = (
	{ type => 'xml',   datacontenttype => 'text/xml; charset=utf-8', data => "<a>ü 💥</a>" },
	{ type => 'bytes', datacontenttype => 'image/png', data_base64 => encode_base64("\x89PNG\r\n\0\xff", '') },
	{ type => 'ext',   ext => "ü\n\"%\t💥", number => 7, yes => JSON::PP::true, dataschema => 'https://example.com/a?b=%20', data => [ 1, 'ü' ] },
	{ type => 'time',  time => '2018-04-05T17:31:00.5+02:00', sequence => 'mine', data => undef });
foreach my $event (@foreign)
{
	my %event = (specversion => '1.0', id => "$event->{type} ü%\"💥", source => 'https://other.example/%C3%BC?x=1', subject => "order-$event->{type}", %$event);
	my $json  = JSON::PP->new->encode(\%event) =~ s/'/''/gr;

	sql(qq{SELECT evtstore.append_cloudevent('$json')});
	$n++;
}

# what the store says of them, by subject; as the SDK would say it: times are of milliseconds, and have one zone
my %expected = map { my $event = JSON::PP->new->decode($_); ($event->{subject} => $event) }
  split /\n/, sql(q{SELECT evtstore.to_cloudevent(e) FROM evtstore.read_all() e});
is(scalar(keys %expected), $n, 'events to send');

# headers know strings only, and JSON knows what is true
sub plain_of
{
	my ($event) = @_;
	my %plain = map { my $value = $event->{$_}; ($_ => JSON::PP::is_bool($value) ? ($value ? 'true' : 'false') : "$value") }
	  grep { !/^(?:data|data_base64|time)$/ } keys %$event;
	return \%plain;
}

sub same_events
{
	my ($what, @events) = @_;
	my %got = map { ($_->{subject} => $_) } @events;

	is(scalar(keys %got), $n, "$what: all of them");
	foreach my $subject (sort keys %expected)
	{
		my ($event, $wanted) = ($got{$subject}, $expected{$subject});
		my $shown = $subject =~ s/([^ -~])/sprintf '\\x{%x}', ord $1/ger;

		next unless ok($event, "$what: $shown");
		is_deeply(plain_of($event), plain_of($wanted), "$what: attributes of $shown");
		if (exists $wanted->{data_base64})
		{
			is($event->{data_base64}, $wanted->{data_base64}, "$what: bytes of $shown");
		}
		else
		{
			# the SDK leaves a body that is null as it is
			is_deeply($event->{data} // 'null', $wanted->{data} // 'null', "$what: data of $shown");
		}
		like($event->{time}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/, "$what: time of $shown");
		# of those with a zone the SDK has made UTC
		next if $wanted->{time} =~ /[+]/;
		is(substr($event->{time}, 0, 19), substr($wanted->{time}, 0, 19), "$what: the same time");
	}
	return;
}

foreach my $format (qw(binary structured batched))
{
	subtest "HTTP, $format" => sub {
		my $url = $receiver->url("/$format");

		sql(qq{SELECT evtstore.create_endpoint('$format', '$url', '{"format": "$format", "headers": {"X-Shop": "1"}}')});
		sql(qq{SELECT evtstore.create_subscription('$format', endpoint => '$format')});
		my @requests = wait_sent("/$format", $n);

		is(join('', map { $_->{error} // '' } @requests), '', 'the SDK takes all of them');
		same_events($format, events_of(@requests));
		ok(!grep({ $_->{headers}{'x-evil'} } @requests), 'no header was smuggled in');
		is(scalar(grep { $_->{headers}{'x-shop'} eq '1' && $_->{headers}{'evtstore-attempt'} eq '1' && $_->{headers}{'idempotency-key'} } @requests),
			scalar(@requests), 'the other headers');
		is(scalar(grep { $_->{headers}{'evtstore-replay'} } @requests), 0, 'none is a replay');
	};
}

subtest 'HTTP, plain' => sub {
	my $url = $receiver->url('/plain?plain=1');

	sql(qq{SELECT evtstore.create_endpoint('plain', '$url', '{"format": "plain"}')});
	sql(q{SELECT evtstore.create_subscription('plain', endpoint => 'plain')});
	poll_until('all of them', sub { sent('/plain') >= $n });
	my @requests = sent('/plain');
	my %by_type  = map { ($_->{headers}{'content-type'} => $_) } @requests;

	is(scalar(grep { my $r = $_; grep { /^ce-/ } keys %{ $r->{headers} } } @requests), 0, 'no attributes');
	is(decode_base64($by_type{'image/png'}{body}), "\x89PNG\r\n\0\xff", 'bytes are bytes');
	my $xml = decode_base64($by_type{'text/xml; charset=utf-8'}{body});
	utf8::decode($xml);
	is($xml, '<a>ü 💥</a>', 'text is text');
	my ($first) = grep { decode_base64($_->{body}) =~ /"n": ?1\b/ } @requests;
	is(decode_json(decode_base64($first->{body}))->{text}, $hard[0], 'JSON is JSON');
	is($first->{headers}{'idempotency-key'}, sql(q{SELECT id FROM evtstore.events WHERE data ->> 'n' = '1'}), 'Idempotency-Key is the id');
};

# --- signatures ---

sub set_secret
{
	my ($letter, $keep_old, $database) = @_;
	my $secret = secret($letter);
	return sql("SELECT evtstore.set_endpoint_secret('signed', '$secret', keep_old => '$keep_old')", $database);
}

# the number of the event, what the verifiers of a and b said of it
sub verified
{
	my ($number) = @_;
	poll_until("event $number", sub { grep { grep { $_->{subject} eq "signed-$number" } events_of($_) } sent('/signed') });
	my ($request) = grep { grep { $_->{subject} eq "signed-$number" } events_of($_) } sent('/signed');
	return ($request, map { $_ eq '1' ? 'yes' : 'no' } @{ $request->{verified} });
}

subtest 'signatures' => sub {
	my $url = $receiver->url('/signed?secret=' . join '&secret=', map { secret($_) =~ s/=/%3D/gr =~ s/[+]/%2B/gr } qw(a b));

	sql(qq{SELECT evtstore.create_endpoint('signed', '$url')});
	sql(q{SELECT evtstore.create_subscription('signed', '{"categories": ["signed"]}', endpoint => 'signed')});
	sql(q{SELECT evtstore.append('signed-1', 'T', '{"a": "ü"}')});
	my ($request, @said) = verified(1);
	is("@said", 'no no', 'without a secret none');
	ok(!exists $request->{headers}{'webhook-signature'}, 'nor headers of one');

	set_secret('a', '24h');
	sql(q{SELECT evtstore.append('signed-2', 'T', '{"a": "ü"}')});
	($request, @said) = verified(2);
	is("@said", 'yes no', 'with one it is that one');
	is($request->{headers}{'webhook-id'}, $request->{events}[0]{id}, 'webhook-id is the id of the event');

	set_secret('b', '24h');
	sql(q{SELECT evtstore.append('signed-3', 'T', '{}')});
	($request, @said) = verified(3);
	is("@said", 'yes yes', 'the one before signs, too');

	set_secret('b', '0');
	sql(q{SELECT evtstore.append('signed-4', 'T', '{}')});
	($request, @said) = verified(4);
	is("@said", 'no yes', 'until it holds no longer');

	sql(q{SELECT evtstore.alter_endpoint('signed', '{"format": "batched"}')});
	sql(q{SELECT evtstore.append('signed-5', 'T', '{}')});
	($request, @said) = verified(5);
	is("@said", 'no yes', 'a batch is signed, too');
};

subtest 'an old secret ends by time' => sub {
	sql('ALTER SYSTEM SET evtstore.test_mode = on');
	$node->restart;
	set_secret('a', '1h');
	sql(q{SELECT evtstore.append('signed-6', 'T', '{}')});
	my ($request, @said) = verified(6);
	is("@said", 'yes yes', 'before');
	sql(q{ALTER SYSTEM SET evtstore.clock_offset = '2h'});
	$node->reload;
	poll_sql($node, q{SELECT current_setting('evtstore.clock_offset')}, '2h');
	my $number = 6;
	# workers read the setting a moment later
	poll_until(
		'the end of the old one',
		sub {
			$number++;
			sql(qq{SELECT evtstore.append('signed-$number', 'T', '{}')});
			($request, @said) = verified($number);
			return "@said" eq 'yes no';
		});
	is("@said", 'yes no', 'after');
	poll_sql($node, q{SELECT count(*) FROM evtstore_internal.endpoint_secret}, '1');
	pass('and is removed');
};

subtest 'secrets are in no log and no dump' => sub {
	my $dump = "$PostgreSQL::Test::Utils::tmp_check/dump.sql";
	my ($out, $err);

	$node->psql('postgres', "SELECT evtstore.set_endpoint_secret('signed', 'whsec_TOPSECRET')", stderr => \$err);
	like($err, qr/is not acceptable/, 'a malformed one');
	$node->psql('postgres', "SELECT evtstore.set_endpoint_secret('nowhere', 'whsec_TOPSECRET')", stderr => \$err);
	my $log = slurp_file($node->logfile);
	like($log, qr/endpoint "nowhere" does not exist/, 'the log has the errors');
	unlike($log, qr/TOPSECRET/, 'but no secret');

	$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'a dump');
	ok(index(join("\n", grep { !/\/signed\?secret=/ } split /\n/, slurp_file($dump)), secret('a')) < 0, 'has none');
	sql('CREATE DATABASE copy');
	$node->command_ok([ 'psql', '-qXf', $dump, $node->connstr('copy') ], 'restored');
	is(sql('SELECT count(*) FROM evtstore_internal.endpoint_secret', 'copy'), '0', 'the copy has none');
	sql('SELECT evtstore.resume_delivery()', 'copy');
	sql(q{SELECT evtstore.append('signed-copy', 'T', '{}')}, 'copy');
	poll_until('the complaint', sub { slurp_file($node->logfile) =~ /"signed": its secret of kind "signing" is not in this database/ });
	is(scalar(grep { $_->{subject} eq 'signed-copy' } events_of(sent('/signed'))), 0, 'and sends nothing unsigned');
	set_secret('b', '0', 'copy');
	my ($request, @said) = verified('copy');
	is("@said", 'no yes', 'until it is set again');
};

# --- brokers ---

# NAME=VALUE as a hash
sub headers_of
{
	my %headers;

	foreach my $header (@_)
	{
		my ($name, $value) = split /=/, $header, 2;
		die "header $name twice\n" if exists $headers{$name};
		$headers{$name} = $value;
	}
	return \%headers;
}

# What the SDK reads of all that the function finds at a broker: records as validator.js wants them.
sub check_broker
{
	my ($kind, $format, $read) = @_;
	my $file    = "$PostgreSQL::Test::Utils::tmp_check/records.json";
	my @records = poll_until("all in $format of $kind", sub { my @found = $read->(); @found >= $n ? \@found : undef })->@*;

	is(scalar(@records), $n, "$kind $format: each once");
	open my $out, '>', $file or die "$file: $!";
	print $out encode_json($_), "\n" foreach @records;
	close $out;
	my @events = map { decode_json($_) } split /\n/, qx(node $script --$kind <$file);
	is(join('', map { $_->{error} // '' } @events), '', 'the SDK takes all of them');
	same_events("$kind $format", @events);
	my @names = map { map { lc } keys %{ $_->{headers} } } @records;
	is(scalar(grep { $_ eq 'evtstore-attempt' } @names), $n, 'the other headers');
	ok(!grep({ $_ eq 'x-evil' } @names), 'no header was smuggled in');
	return;
}

# the topic's ${format} becomes that
sub send_to
{
	my ($kind, $url, $topic) = @_;

	foreach my $format (qw(binary structured))
	{
		my $to = $topic =~ s/\$\{format\}/$format/r;
		sql(qq{SELECT evtstore.create_endpoint('$kind $format', '$url', '{"format": "$format", "topic": "$to"}')});
		sql(qq{SELECT evtstore.create_subscription('$kind $format', '{"categories": ["order"]}', endpoint => '$kind $format')});
	}
	return;
}

subtest 'NATS' => sub {
	my ($server) = grep { -x $_ } map { "$_/nats-server" } split(/:/, $ENV{PATH}), '/usr/sbin';
	plan skip_all => 'no nats-server' unless $server;
	plan skip_all => 'evtstore_nats is not built' unless transport_library('nats');
	my $tool = build_tool('nats_tool', '-lnats');
	plan skip_all => 'no client library of NATS to read with' unless $tool;

	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $url  = "nats://127.0.0.1:$port";
	my $pid  = start_process('nats', $server, '-a', '127.0.0.1', '-p', $port, '-js', '-sd', PostgreSQL::Test::Utils::tempdir('nats'));
	# JetStream is ready a moment after the port is
	foreach my $format (qw(binary structured))
	{
		poll_until("stream $format", sub { system_log($tool, 'make', $url, $format, "ce.$format") == 0 });
	}
	send_to('nats', $url, 'ce.${format}');
	foreach my $format (qw(binary structured))
	{
		check_broker(
			'nats', $format,
			sub {
				my ($out, $err) = run_command([ $tool, 'hexdump', $url, $format ]);
				die "nats_tool: $err\n" if $err ne '';
				return map { my (undef, undef, $value, @headers) = split /\t/; { value => $value, headers => headers_of(@headers) } } split /\n/, $out;
			});
	}
	end_process($pid);
};

subtest 'RabbitMQ' => sub {
	plan skip_all => 'RabbitMQ is not installed' unless EvtRabbit::available();
	plan skip_all => 'evtstore_amqp is not built' unless transport_library('amqp');

	my $rabbit = EvtRabbit->new(queues => { binary => [], structured => [] });
	send_to('amqp', $rabbit->url, '/${format}');
	foreach my $format (qw(binary structured))
	{
		my @found;
		check_broker(
			'amqp', $format,
			sub {
				push @found, map { { value => $_->{body}, headers => $_->{headers}, contentType => unpack('H*', $_->{content_type}) } }
				  $rabbit->drain($format, '/', 'hex');
				return @found;
			});
	}
	$rabbit->end;
};

SKIP:
{
	my $tool = build_tool('mock_kafka', '-lrdkafka');

	skip 'no transport for Kafka, or no librdkafka', 1 unless $tool && transport_library('kafka');
	subtest 'Kafka' => sub {
		my ($from, $to);
		my $pid = open2($from, $to, $tool, 1);
		my ($brokers) = <$from> =~ /^brokers (\S+)/;
		my %topic = (binary => 'binary.order', structured => 'structured.order', debezium => 'outbox.event.order', plain => 'plain.order');
		my $ask = sub {
			my @lines;
			print $to "$_[0]\n";
			while (my $line = <$from>)
			{
				chomp $line;
				return @lines if $line eq 'ok';
				die "$_[0]: $line\n" if $line =~ /^fault/;
				push @lines, $line;
			}
			die "the mock has ended\n";
		};
		# by subject where it is said, else in order
		my $records = sub {
			return map {
				my (undef, undef, $key, $value, @headers) = split / /, $_;
				{ key => $key, value => $value, headers => headers_of(@headers) }
			} $ask->("hexdump $topic{$_[0]} 4");
		};

		foreach my $format (sort keys %topic)
		{
			my $template = $topic{$format} =~ s/order/\${category}/r;
			$ask->("topic $topic{$format} 4");
			sql(qq{SELECT evtstore.create_endpoint('kafka $format', 'kafka://$brokers', '{"format": "$format", "topic": "$template"}')});
			sql(qq{SELECT evtstore.create_subscription('kafka $format', '{"categories": ["order"]}', endpoint => 'kafka $format')});
		}
		check_broker('kafka', $_, sub { $records->($_) }) foreach qw(binary structured);
		poll_until('all for the outbox', sub { $ask->('hexdump outbox.event.order 4') >= $n });
		my ($record) = grep { pack('H*', $_->{value}) =~ /"n": ?1\b/ } $records->('debezium');
		my $event = $expected{"order-$hard[0]"};
		my ($key, $id, $type) = map { my $text = pack('H*', $_ // ''); utf8::decode($text); $text } $record->{key}, @{ $record->{headers} }{qw(id eventType)};
		is($key,  $hard[0],       'debezium: the key is the id of the aggregate');
		is($id,   $event->{id},   'id');
		is($type, $event->{type}, 'eventType');
		is(join(' ', sort keys %{ $record->{headers} }), 'eventType id', 'and no other header');
		is_deeply(decode_json(pack('H*', $record->{value})), $event->{data}, 'the payload as it is');
		poll_until('all as they are', sub { $ask->('hexdump plain.order 4') >= $n });
		close $to;
		waitpid $pid, 0;
	};
}

done_testing();
