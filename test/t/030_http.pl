# Delivery to endpoints: what an HTTP receiver gets, what comes of each answer it can give, what the relay
# holds while it waits, and functions inside the database.  What is never dialled is in 091_ssrf.pl.
use strict;
use warnings;

use EvtTest;
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Utils;
use IO::Socket::INET;
use POSIX ();
use Test::More;

my $node     = new_node('main');
my $receiver = start_receiver();
# quick enough for a test, with the attempts that it wants
my $retry = '"retry": {"initial": "20ms", "max_delay": "20ms", "jitter": 0, "max_attempts": %d}';

sub sql
{
	return $node->safe_psql('postgres', shift);
}

# An endpoint and a queue of that name; options and max_attempts for them.
sub make_queue
{
	my ($name, $url, $options, $max_attempts) = @_;

	$options //= '{}';
	sql("SELECT evtstore.create_endpoint('$name', '$url', '$options')");
	return make_queue_only($name, $max_attempts // 3);
}

sub make_queue_only
{
	my ($name, $max_attempts) = @_;
	my $policy = sprintf $retry, $max_attempts;

	return sql(qq(SELECT evtstore.create_queue('$name', '{"endpoint": "$name", $policy}')));
}

sub send_message
{
	my ($queue, $body, $arguments) = @_;
	$body      //= '{}';
	$arguments //= '';
	return sql("SELECT evtstore.send('$queue', '$body' $arguments)");
}

# What the receiver accepted on that path.
sub accepted
{
	my ($path, $from) = @_;
	return grep { $_->{path} eq $path } ($from // $receiver)->requests;
}

sub wait_accepted
{
	my ($path, $n, $from) = @_;
	poll_until("$n requests to $path", sub { accepted($path, $from) >= $n });
	return accepted($path, $from);
}

# One dead letter as (attempts, first error, last error).
sub wait_dead
{
	my $queue = shift;
	poll_sql($node, "SELECT count(*) FROM evtstore.dead_letters WHERE name = '$queue'", '1');
	return split /\|/, sql(
		"SELECT attempts, first_error, last_error FROM evtstore.dead_letters WHERE name = '$queue'");
}

sub wait_empty
{
	my $queue = shift;
	return poll_sql($node, "SELECT ready + delayed + in_flight = 0 FROM evtstore.queue_status WHERE name = '$queue'");
}

subtest 'an event in binary mode' => sub {
	make_queue('binary', $receiver->url('/binary'), '{"headers": {"X-Shop": "a \"b\"", "X-Empty": ""}}');
	sql(q{SELECT evtstore.create_rule('binary', '{"categories": ["order"]}', 'queue:binary')});
	sql(q{SELECT evtstore.append('order-1 ü "x"%', 'Placed', '{"n": 9007199254740993, "t": "\n"}',
		metadata => '{"correlation_id": "c\r\nX-Evil: 1", "causation_id": "7", "traceparent": "00-ab-cd-1", "n": 1}',
		occurred_at => '2001-02-03 04:05:06.5+02')});
	my ($got) = wait_accepted('/binary', 1);
	my $event = sql(q{SELECT to_json(e) FROM evtstore.events e WHERE type = 'Placed'});
	my ($id, $position) = @{ decode_json($event) }{qw(id position)};
	my $h = $got->{headers};

	is($got->{method},             'POST',               'POST');
	is($h->{'content-type'},       'application/json',   'Content-Type is that of the data');
	is($h->{'ce-specversion'},     '1.0',                'specversion');
	is($h->{'ce-id'},              $id,                  'id is the id of the event');
	is($h->{'idempotency-key'},    $id,                  'Idempotency-Key too');
	is($h->{'ce-source'},          '/evtstore/postgres', 'source by default');
	is($h->{'ce-type'},            'Placed',             'type');
	is($h->{'ce-subject'},         'order-1%20%C3%BC%20%22x%22%25', 'subject is the stream, percent-encoded');
	is($h->{'ce-partitionkey'},    $h->{'ce-subject'},   'partitionkey too');
	is($h->{'ce-sequence'},        sprintf('%019d', $position), 'sequence is the position, 19 digits');
	is($h->{'ce-streamversion'},   '1',                  'streamversion');
	is($h->{'ce-schemaversion'},   '1',                  'schemaversion');
	is($h->{'ce-correlationid'},   'c%0D%0AX-Evil:%201', 'correlationid, and no header made of it');
	ok(!exists $h->{'x-evil'}, 'no header was smuggled in');
	is($h->{'ce-causationid'},     '7',                  'causationid');
	is($h->{'ce-traceparent'},     '00-ab-cd-1',         'traceparent');
	is($h->{'ce-time'},            '2001-02-03T02:05:06.500000Z', 'time is when it happened, RFC 3339 in UTC');
	like($h->{'ce-recordedtime'}, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/, 'recordedtime when it was recorded');
	is($h->{'evtstore-attempt'},   '1',                  'number of the attempt');
	is($h->{'x-shop'},             'a "b"',              'a header of the endpoint');
	is($h->{'x-empty'},            '',                   'an empty one');
	ok(!grep(/^ce-(?:data|n$|attempt)/, keys %$h), 'no other attributes');
	like(slurp_file($receiver->{record}), qr/"n": ?9007199254740993/, 'big numbers arrive as they are');
	is($got->{body}{t}, "\n", 'escapes too');
	wait_empty('binary');
	is(scalar(accepted('/binary')), 1, 'delivered once');
};

subtest 'structured mode' => sub {
	make_queue('structured', $receiver->url('/structured'),
		'{"format": "structured", "source": "https://shop.example/x"}');
	sql(q{SELECT evtstore.create_rule('structured', '{"categories": ["cart"]}', 'queue:structured')});
	sql(
		q{SELECT evtstore.append('cart-ü', 'Opened', '{"n": 9007199254740993, "t": "a\u0041\"\\\\"}',
		metadata => '{"correlation_id": "c"}')});
	my ($got) = wait_accepted('/structured', 1);
	my $ce = $got->{body};

	is($got->{headers}{'content-type'}, 'application/cloudevents+json; charset=utf-8', 'Content-Type');
	ok(!grep(/^ce-/, keys %{ $got->{headers} }), 'no attributes in headers');
	is_deeply(
		[ sort keys %$ce ],
		[ qw(correlationid data datacontenttype id partitionkey recordedtime schemaversion sequence source specversion
			  streamversion subject time type) ],
		'the attributes');
	is($ce->{subject}, "cart-\x{fc}", 'text is UTF-8');
	is($ce->{source},  'https://shop.example/x', 'source of the endpoint');
	is($ce->{data}{t}, 'aA"\\', 'data');
	like(slurp_file($receiver->{record}), qr/"data":\{[^}]*"n": ?9007199254740993/, 'big numbers arrive as they are');
	is($ce->{id}, $got->{headers}{'idempotency-key'}, 'Idempotency-Key');
};

subtest 'messages that carry no event' => sub {
	make_queue('plain ü', $receiver->url('/plain'));
	my $id = send_message('plain ü', 'null', q{, key => 'k', headers => '{"type": "Cmd", "correlation_id": 1}'});
	my ($got) = wait_accepted('/plain', 1);

	is($got->{ce}{id},           "plain \x{fc}-$id", 'id is queue and number');
	is($got->{headers}{'ce-source'}, '/evtstore/postgres/queues/plain%2520%25C3%25BC', 'source names the queue');
	is($got->{ce}{type},         'Cmd',          'type of the headers');
	is($got->{ce}{partitionkey}, 'k',            'partitionkey is the key');
	is($got->{body},             undef,          'a body of null');
	ok(!exists $got->{ce}{$_}, "no $_") foreach qw(subject sequence streamversion correlationid);
	send_message('plain ü');
	(undef, $got) = wait_accepted('/plain', 2);
	is($got->{ce}{type}, 'message', 'type by default');
};

subtest 'failures that pass' => sub {
	make_queue('flaky', $receiver->url('/flaky?fail_first=2'));
	send_message('flaky');
	my ($got) = wait_accepted('/flaky', 1);
	is($got->{headers}{'evtstore-attempt'}, '1', 'what is not there for a while (503) costs no attempt');
	wait_empty('flaky');
	is(sql(q{SELECT string_agg(outcome || ' ' || status, ', ' ORDER BY started_at) FROM evtstore.endpoint_attempts WHERE endpoint = 'flaky'}),
		'unavailable 503, unavailable 503, delivered 204', 'endpoint_attempts has them all');

	make_queue('later', $receiver->url('/later?status=503&retry_after=3600'));
	send_message('later');
	poll_sql($node, q{SELECT next_attempt_at - now() BETWEEN '50 min' AND '60 min' FROM evtstore.endpoint_status WHERE name = 'later'});
	is(sql(q{SELECT last_error, failed FROM evtstore.endpoint_status WHERE name = 'later'}), 'HTTP 503|1', 'Retry-After is obeyed');
	is(sql(q{SELECT in_flight FROM evtstore.queue_status WHERE name = 'later'}), '1', 'and the message waits with the relay');
};

subtest 'failures that last' => sub {
	my %expected = (
		'status=500'                  => [ 2, qr/^HTTP 500$/ ],
		'status=408'                  => [ 2, qr/^HTTP 408$/ ],
		'status=500&body_bytes=10'    => [ 2, qr/^HTTP 500: xxxxxxxxxx$/ ],
		'status=500&body_bytes=65537' => [ 2, qr/^the response is larger than 65536 bytes$/ ],
		'status=500&body_bytes=60000' => [ 2, qr/^HTTP 500: x{200}$/ ],
		'drop'                        => [ 2, qr/^no answer: / ],
		'delay_ms=60000'              => [ 2, qr/^no answer: .*timed out/i ],
		# the endpoint is wrong, which somebody may put right
		'status=401'                      => [ 2, qr/^HTTP 401$/ ],
		'status=403'                      => [ 2, qr/^HTTP 403$/ ],
		'status=404'                      => [ 2, qr/^HTTP 404$/ ],
		'status=302&location=/elsewhere'  => [ 2, qr/^HTTP 302: redirects are not followed$/ ],
		'status=307&location=/elsewhere'  => [ 2, qr/^HTTP 307: redirects are not followed$/ ],
		# the message is: no second attempt
		'status=400' => [ 1, qr/^HTTP 400$/ ],
		'status=413' => [ 1, qr/^HTTP 413$/ ],
		'status=415' => [ 1, qr/^HTTP 415$/ ],
		'status=422' => [ 1, qr/^HTTP 422$/ ]);
	my $n = 0;
	my %queue;

	foreach my $query (sort keys %expected)
	{
		$queue{$query} = 'failing' . ++$n;
		make_queue($queue{$query}, $receiver->url("/failing?$query"), '{"timeout": "1s"}', 2);
		send_message($queue{$query});
	}
	foreach my $query (sort keys %expected)
	{
		my ($attempts, $first, $last) = wait_dead($queue{$query});
		is($attempts, $expected{$query}[0], "$query: attempts");
		like($last, $expected{$query}[1], "$query: error");
	}
	is(scalar(accepted('/elsewhere')), 0, 'no redirect was followed');
	is(sql(q{SELECT sum(ready + delayed + in_flight) FROM evtstore.queue_status WHERE name LIKE 'failing%'}),
		'0', 'nothing of it is left in the queues');
};

subtest 'a body of the other side is shown as printable text' => sub {
	my $port = free_port_server("HTTP/1.1 400 Bad\r\nContent-Length: 13\r\n\r\na\x00\xff\x1b[31m\r\n\tb!");
	make_queue('binary body', "http://127.0.0.1:$port/");
	send_message('binary body');
	is((wait_dead('binary body'))[2], 'HTTP 400: a???[31m b!', 'other bytes are replaced');
};

subtest 'nobody is there' => sub {
	my $gone = start_receiver();
	$gone->stop;
	my %expected = (
		$gone->url('/nobody')              => qr/^no answer: .*connect/i,
		$receiver->url('/busy?status=429') => qr/^HTTP 429$/,
		$receiver->url('/busy?status=502') => qr/^HTTP 502$/,
		$receiver->url('/busy?status=503') => qr/^HTTP 503$/);
	my $n = 0;
	my %queue;

	foreach my $url (sort keys %expected)
	{
		$queue{$url} = 'nobody' . ++$n;
		make_queue($queue{$url}, $url, '{}', 1);
		send_message($queue{$url});
	}
	foreach my $url (sort keys %expected)
	{
		poll_sql($node, "SELECT failed > 1 FROM evtstore.endpoint_status WHERE name = '$queue{$url}'");
		like(sql("SELECT last_error FROM evtstore.endpoint_status WHERE name = '$queue{$url}'"), $expected{$url}, "$url: is tried again");
		is(sql("SELECT string_agg(DISTINCT outcome || attempt, ',') FROM evtstore.endpoint_attempts WHERE endpoint = '$queue{$url}'"),
			'unavailable1', 'and costs no attempt');
	}
	is(sql(q{SELECT count(*) FROM evtstore.dead_letters WHERE name LIKE 'nobody%'}), '0', 'nothing is given up');
	$gone->start;
	is(scalar(wait_accepted('/nobody', 1, $gone)), 1, 'when somebody is there it arrives');
	sql("SELECT evtstore.drop_queue('$_'); SELECT evtstore.drop_endpoint('$_')") foreach values %queue;
};

subtest 'while a receiver takes its time' => sub {
	my $slow = start_receiver(args => [ '--delay-ms', 100000 ]);
	make_queue('slow', $slow->url('/slow'), '{"timeout": "200s"}', 100000);
	my $id = send_message('slow');
	wait_accepted('/slow', 1, $slow);

	my $worker = q{FROM pg_stat_activity WHERE backend_type = 'evtstore relay worker' AND datname = 'postgres'};
	poll_sql($node, "SELECT state $worker", 'idle');
	is(sql("SELECT xact_start IS NULL, backend_xid IS NULL, backend_xmin IS NULL $worker"),
		't|t|t', 'no transaction, no snapshot');
	poll_sql($node, "SELECT wait_event_type $worker", 'Extension');
	is( sql("SELECT count(*) FROM pg_locks WHERE pid IN (SELECT pid $worker)"),
		'0', 'no lock');
	is(sql(q{SELECT in_flight FROM evtstore.queue_status WHERE name = 'slow'}), '1', 'only a lease');
	is( sql(
			q{SELECT lease_until - now() > '3 min' FROM evtstore_internal.in_flight() WHERE message_id = } . $id),
		't', 'longer than the time-out');

	# DROP DATABASE waits until every process has answered a barrier
	sql('CREATE DATABASE other');
	sql('DROP DATABASE other');
	is(sql("SELECT count(*) $worker"), '1', 'DROP DATABASE of another database did not have to wait for the answer');

	# the receiver dies with the request in hand
	$slow->kill9;
	$slow->{args} = [];
	poll_sql($node,
		q{SELECT m.history->0->>'error' LIKE 'no answer: %' FROM evtstore_internal.message m WHERE id = } . $id);
	$slow->start;
	my ($first, $second) = wait_accepted('/slow', 2, $slow);
	is($second->{ce}{id}, $first->{ce}{id}, 'and gets it again when it is back, under the same id');
	cmp_ok($second->{headers}{'evtstore-attempt'}, '>', 1, 'as another attempt');
	wait_empty('slow');
};

subtest 'a stop with a request on its way' => sub {
	my $slow = start_receiver(args => [ '--delay-ms', 100000 ]);
	make_queue('stopped', $slow->url('/stopped'), '{"timeout": "200s"}');
	send_message('stopped');
	wait_accepted('/stopped', 1, $slow);
	$node->stop('fast');
	$slow->stop;
	$slow->{args} = [];
	$slow->start;
	$node->start;
	my ($first, $second) = wait_accepted('/stopped', 2, $slow);
	is($second->{ce}{id}, $first->{ce}{id}, 'delivered after the start');
	is($second->{headers}{'evtstore-attempt'}, '1', 'it was given back: no attempt was spent, no lease waited for');
	unlike(slurp_file($node->logfile), qr/terminating background worker "evtstore delivery/,
		'the worker was not torn out of it');
	wait_empty('stopped');
};

subtest 'order is kept per key, whatever fails' => sub {
	my $moody = start_receiver(args => [ '--fail-every', 3 ]);
	make_queue('ordered', $moody->url('/ordered'), '{}', 100);
	sql(q{SELECT evtstore.create_rule('ordered', '{"categories": ["ship"]}', 'queue:ordered')});
	sql(
		q{SELECT evtstore.append('ship-' || s, 'Moved', to_jsonb(n))
		FROM generate_series(1, 20) n, generate_series(1, 4) s});
	my @got = wait_accepted('/ordered', 80, $moody);
	wait_empty('ordered');
	my %last;

	foreach my $request (@got)
	{
		my ($stream, $version) = @{ $request->{ce} }{qw(subject streamversion)};
		push @{ $last{$stream} }, $version;
	}
	is_deeply([ map { "@{ $last{$_} }" } sort keys %last ], [ map { join ' ', 1 .. 20 } 1 .. 4 ],
		'each stream in order, each event once');
};

subtest 'many at once, over few connections' => sub {
	make_queue('many', $receiver->url('/many'), '{"max_in_flight": 8}');
	sql(q{SELECT evtstore.send_batch('many', array_agg(to_jsonb(n))) FROM generate_series(1, 500) n});
	wait_accepted('/many', 500);
	wait_empty('many');
	my %seen;
	$seen{ $_->{body} }++ foreach accepted('/many');
	is(scalar(keys %seen), 500, 'all arrived');
	is((grep { $_ != 1 } values %seen), 0, 'each once');
};

subtest 'functions inside the database' => sub {
	sql(q{
		CREATE ROLE shop IN ROLE evtstore_admin;
		CREATE SCHEMA shop AUTHORIZATION shop;
		CREATE TABLE shop.effect (who text, path text, body jsonb, key text);
		ALTER TABLE shop.effect OWNER TO shop;
		CREATE FUNCTION shop.apply(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $f$
		BEGIN
			INSERT INTO effect VALUES (current_user, current_setting('search_path'), d.body, d.key);
			IF d.body->>'do' = 'fail' THEN
				RAISE EXCEPTION USING errcode = '22012', message = 'no such thing';
			ELSIF d.body->>'do' = 'loop' THEN
				LOOP
					PERFORM pg_catalog.random();
				END LOOP;
			ELSIF d.body->>'do' = 'escape' THEN
				RESET ROLE;
			ELSIF d.body->>'do' = 'slow' THEN
				PERFORM pg_catalog.pg_advisory_xact_lock(1);
			END IF;
		END $f$;
		SET ROLE shop;
		SET search_path = shop, pg_catalog;
		SELECT evtstore.create_endpoint('inside', 'sql:shop.apply', '{"timeout": "300ms"}');
	});
	make_queue_only('inside', 2);
	send_message('inside', '{"n": 1}', q{, key => 'k'});
	wait_empty('inside');
	is(sql('SELECT * FROM shop.effect'), 'shop|shop, pg_catalog, pg_temp|{"n": 1}|k',
		'runs as its owner under the search_path of its creation');

	# neighbours of a failing one are not touched by it
	sql(q{TRUNCATE shop.effect;
		SELECT evtstore.send_batch('inside',
			array_agg(jsonb_build_object('n', n, 'do', CASE n WHEN 5 THEN 'fail' ELSE '' END)))
		FROM generate_series(1, 10) n});
	my ($attempts, $first, $last) = wait_dead('inside');
	is("$attempts $last", '2 22012: no such thing', 'the error is kept with its SQLSTATE');
	wait_empty('inside');
	is(sql('SELECT count(*), sum((body->>\'n\')::int) FROM shop.effect'), '9|50',
		'the others took effect once, the failing one left nothing');

	my %expected = (
		loop   => qr/^57014: the function ran longer than the endpoint's timeout$/,
		slow   => qr/^57014: the function ran longer than the endpoint's timeout$/,
		escape => qr/^42501: cannot set parameter "role" within security-/);
	my $lock = session($node);
	$lock->query_safe('SELECT pg_advisory_lock(1)');
	foreach my $what (sort keys %expected)
	{
		sql('TRUNCATE shop.effect; DELETE FROM evtstore_internal.dead_letter');
		send_message('inside', qq({"do": "$what"}));
		like((wait_dead('inside'))[2], $expected{$what}, $what);
	}
	$lock->quit;

	# permission is asked for each time, and a function may go and come back
	sql(q{DELETE FROM evtstore_internal.dead_letter;
		REVOKE EXECUTE ON FUNCTION shop.apply FROM PUBLIC, shop;});
	send_message('inside');
	like((wait_dead('inside'))[2], qr/^42501: permission denied for function apply$/, 'EXECUTE was revoked');
	sql(q{DELETE FROM evtstore_internal.dead_letter; DROP FUNCTION shop.apply});
	send_message('inside');
	like((wait_dead('inside'))[2], qr/^42883: function shop\.apply\(evtstore\.delivery\) does not exist$/,
		'the function is gone');
	sql(q{DELETE FROM evtstore_internal.dead_letter; TRUNCATE shop.effect;
		CREATE FUNCTION shop.apply(evtstore.delivery) RETURNS int LANGUAGE sql
		AS $$INSERT INTO shop.effect (who) VALUES ('new') RETURNING 1$$});
	send_message('inside');
	wait_empty('inside');
	is(sql('SELECT who FROM shop.effect'), 'new', 'the new one is called');
};

subtest 'effect and acknowledgement are one' => sub {
	sql(q{
		CREATE TABLE counted (n int PRIMARY KEY);
		CREATE FUNCTION count_it(d evtstore.delivery) RETURNS void LANGUAGE sql
		AS $$INSERT INTO public.counted VALUES ((d.body)::int)$$;
		SELECT evtstore.create_endpoint('counting', 'sql:public.count_it')});
	make_queue_only('counting', 50);
	# the primary key refuses a second effect, so one that came twice would end as a dead letter or stay
	sql(q{SELECT evtstore.send_batch('counting', array_agg(to_jsonb(n))) FROM generate_series(1, 3000) n});
	poll_sql($node, 'SELECT count(*) > 0 FROM counted');
	crash($node);
	wait_empty('counting');
	is(sql('SELECT count(*), sum(n) FROM counted'), '3000|4501500', 'each once, with a crash in the middle');
	is(sql(q{SELECT count(*) FROM evtstore.dead_letters WHERE name = 'counting'}), '0', 'none failed');
};

# A server in a process of its own that gives every connection the same answer; returns its port.
sub free_port_server
{
	my $answer   = shift;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die "listen: $!";
	my $pid      = fork // die "fork: $!";

	if (!$pid)
	{
		while (my $client = $listener->accept)
		{
			sysread $client, my $request, 65536;
			syswrite $client, $answer;
			close $client;
		}
		POSIX::_exit(0);
	}
	push @main::children, $pid;
	return $listener->sockport;
}

END
{
	my $status = $?;
	kill 'KILL', @main::children;
	$? = $status;
}

$node->stop;
done_testing();
