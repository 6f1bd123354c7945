# What becomes of an endpoint that fails, and of its neighbours: breaker, Retry-After, 410 Gone, limits, order, dead letters, outages,
# commands on the database while a receiver hangs, copies, replays, rules with an endpoint for each customer.
#
# EVTSTORE_EVENTS: how many wait in the outage.
use strict;
use warnings;

use EvtReceiver;
use EvtTest;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $waiting  = $ENV{EVTSTORE_EVENTS} || 3000;
# no lease runs out here: whatever was held is given back
my $node     = new_node('main', conf => "evtstore.worker_lease = '1h'\nevtstore.poll_interval = '1s'\n");
my $receiver = EvtReceiver->new;
# tried again at once, and as good as for ever
my $retry = '"retry": {"initial": "20ms", "max_delay": "20ms", "jitter": 0, "max_attempts": %d}';

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

#
# An endpoint /NAME of the receiver, and a subscription of that name to that category.  url, options (of the endpoint), attempts, arguments
# (of create_subscription), database.
#
sub make_outbox
{
	my ($name, %option) = @_;
	my $url     = $option{url} // $receiver->url("/$name");
	my $options = sprintf "{$retry}", $option{attempts} // 1000;
	my $more    = $option{arguments} ? ", $option{arguments}" : '';

	sql(qq(SELECT evtstore.create_endpoint('$name', '$url', '{@{[ $option{options} // '' ]}}');
		SELECT evtstore.create_subscription('$name', '{"categories": ["@{[ $option{category} // $name ]}"]}', endpoint => '$name', options => '$options'$more)),
		$option{database});
	return;
}

# n events for each of some streams; the number of an event in its stream is its n
sub append
{
	my ($category, $streams, $n, $database) = @_;

	return sql(qq[DO \$\$ BEGIN
		FOR n IN 1 .. $n LOOP
			FOR s IN 1 .. $streams LOOP
				PERFORM evtstore.append('$category-' || s, 'Made', jsonb_build_object('n', coalesce(evtstore.stream_version('$category-' || s), 0) + 1));
			END LOOP;
		END LOOP;
	END \$\$], $database);
}

sub status
{
	my ($name, $what, $database) = @_;
	return sql("SELECT $what FROM evtstore.endpoint_status WHERE name = '$name'", $database);
}

sub wait_status
{
	my ($name, $what, $expected, $database) = @_;
	return poll_sql($node, "SELECT $what FROM evtstore.endpoint_status WHERE name = '$name'", $expected, $database);
}

# nothing of it is on its way, or waits for what failed; for when everything has arrived
sub wait_settled
{
	my ($name, $database) = @_;
	return poll_sql($node, "SELECT in_flight + blocked + retrying + waiting FROM evtstore.subscription_status WHERE name = '$name'", '0', $database);
}

# events that failed and are not done, of a subscription
sub failed_events
{
	my $name = shift;
	return sql("SELECT count(*) FROM evtstore_internal.failed_event f JOIN evtstore_internal.definition d ON d.id = f.subscription_id WHERE d.name = '$name'");
}

sub drop_outbox
{
	my $name = shift;
	$receiver->clear("/$name");
	return sql("SELECT evtstore.drop_subscription('$name'); SELECT evtstore.drop_endpoint('$name')");
}

# "key n" of requests
sub events_of
{
	return map { "$_->{key} $_->{n}" } @_;
}

sub unique
{
	my %seen;
	return grep { !$seen{$_}++ } @_;
}

subtest 'the breaker' => sub {
	make_outbox('broken', options => '"max_in_flight": 8, "breaker": {"failures": 3, "open_for": "0.2s", "max_open_for": "0.2s"}');
	$receiver->set('/broken', status => 500, delay_ms => 20);
	append('broken', 50, 1);
	wait_status('broken', 'breaker', 'open');
	is(failed_events('broken'), 3, 'opens after three failures in a row, which cost an attempt');
	$receiver->reset('/broken');
	poll_until('four probes', sub { ($receiver->stats('/broken'))[0] >= 4 });
	is(($receiver->stats('/broken'))[2], 1, 'then one probe at a time');
	is(failed_events('broken'), 3, 'which cost none');
	my @probes = events_of($receiver->requests('/broken'));
	is(scalar(unique(@probes[ -3 .. -1 ])), 3, 'each of another event');
	is(sql(q{SELECT sum(attempt), count(*) FROM evtstore.blocked_keys WHERE name = 'broken'}), '3|3', 'three events wait for their second attempt');
	isnt(status('broken', 'breaker'), 'closed', 'endpoint_status says so');
	like(slurp_file($node->logfile), qr/endpoint "broken" is left alone after 3 failures/, 'and the log');

	$receiver->clear('/broken');
	is(out_of_order($receiver->wait_count('/broken', 50)), '', 'one probe that is answered closes it');
	wait_settled('broken');
	is(scalar(my @all = $receiver->accepted('/broken')), 50, 'each event arrived once');
	is(status('broken', 'breaker'), 'closed', 'closed');

	# a person closes it sooner
	sql(q{SELECT evtstore.alter_endpoint('broken', '{"breaker": {"failures": 1, "open_for": "1 hour"}}')});
	$receiver->set('/broken', status => 500, first => 1);
	append('broken', 1, 1);
	wait_status('broken', 'breaker', 'open');
	append('broken', 1, 1);
	sql(q{SELECT evtstore.reset_breaker('broken')});
	is(out_of_order($receiver->wait_count('/broken', 52)), '', 'reset_breaker() closes it at once');
	drop_outbox('broken');
};

subtest 'Retry-After' => sub {
	foreach my $status (429, 503)
	{
		my $name = "later$status";
		$receiver->set("/$name", status => $status, retry_after => 2, first => 1);
		make_outbox($name, options => '"max_in_flight": 1');
		append($name, 5, 2);
		is(out_of_order($receiver->wait_count("/$name", 10)), '', "$status: all arrive");
		is(scalar(my @all = $receiver->requests("/$name")), 11, 'with one request more');
		cmp_ok(sql("SELECT extract(epoch FROM (array_agg(started_at ORDER BY started_at))[2] - min(started_at + took)) FROM evtstore.endpoint_attempts WHERE endpoint = '$name'"),
			'>=', 1.99, 'none before its time');
		is(sql("SELECT max(attempt) FROM evtstore.endpoint_attempts WHERE endpoint = '$name'"), 1, 'and no attempt was spent');
		drop_outbox($name);
	}
};

subtest '410 Gone' => sub {
	make_outbox('gone', options => '"max_in_flight": 1');
	make_outbox('marker');
	$receiver->set('/gone', status => 410);
	append('gone', 5, 2);
	wait_status('gone', 'state', 'disabled');
	is(($receiver->stats('/gone'))[0], 1, 'one answer disables it');
	like(slurp_file($node->logfile), qr/endpoint "gone" is disabled/, 'and the log says so');
	$node->restart;
	is(status('gone', 'state'), 'disabled', 'also after a restart');
	append('gone', 5, 1);
	append('marker', 1, 1);
	$receiver->wait_count('/marker', 1);
	is(($receiver->stats('/gone'))[0], 1, 'nothing is sent while others are delivered to');
	is(failed_events('gone'), 0, 'no attempt was spent');
	$receiver->clear('/gone');
	sql(q{SELECT evtstore.reset_breaker('gone')});
	is(out_of_order($receiver->wait_count('/gone', 15)), '', 'reset_breaker() enables it: all arrive, in order');
	wait_settled('gone');
	is(scalar(my @all = $receiver->accepted('/gone')), 15, 'once each');
	drop_outbox($_) foreach qw(gone marker);
};

subtest '410 Gone while somebody has the endpoint' => sub {
	my $session = session($node);

	make_outbox('held', options => '"max_in_flight": 1');
	append('held', 1, 1);
	$receiver->wait_count('/held', 1);
	# as who alters it, and takes his time
	$session->query_safe(q{BEGIN; SELECT 1 FROM evtstore_internal.definition WHERE kind = 'endpoint' AND name = 'held' FOR UPDATE});
	$receiver->set('/held', status => 410);
	append('held', 2, 1);
	poll_until('the answer', sub { ($receiver->stats('/held'))[0] == 2 });
	make_outbox('fresh');
	append('fresh', 5, 2);
	is(out_of_order($receiver->wait_count('/fresh', 10)), '', 'others are delivered to, also new ones');
	is(status('held', 'state'), 'active', 'it is not disabled yet');
	is(($receiver->stats('/held'))[0], 2, 'and gets nothing');
	$session->query_safe('COMMIT');
	wait_status('held', 'state', 'disabled');
	is(($receiver->stats('/held'))[0], 2, 'then it is, without another request');

	# who resets it has the last word
	$receiver->clear('/held');
	sql(q{SELECT evtstore.reset_breaker('held')});
	$receiver->wait_count('/held', 3);
	wait_settled('held');
	$session->query_safe(q{BEGIN; SELECT 1 FROM evtstore_internal.definition WHERE kind = 'endpoint' AND name = 'held' FOR UPDATE});
	$receiver->set('/held', status => 410, first => 1);
	append('held', 1, 1);
	wait_status('held', 'last_error', 'HTTP 410');
	poll_until('the answer', sub { (grep { $_->{status} == 410 } $receiver->requests('/held')) == 2 });
	sql(q{SELECT evtstore.reset_breaker('held')});
	is(scalar($receiver->wait_count('/held', 4)), 4, 'reset_breaker() before it is disabled: it is tried again');
	$session->query_safe('COMMIT');
	append('held', 1, 1);
	$receiver->wait_count('/held', 5);
	wait_settled('held');
	is(status('held', 'state'), 'active', 'and not disabled by what it said before');

	# the answer to what was sent before comes after that
	my $log = -s $node->logfile;
	$receiver->set('/held', status => 410, delay_ms => 1000, first => 1);
	append('held', 1, 1);
	poll_until('the request', sub { ($receiver->stats('/held'))[1] == 1 });
	sql(q{SELECT evtstore.reset_breaker('held')});
	is(scalar($receiver->wait_count('/held', 6)), 6, 'nor by the answer to what was sent before');
	wait_settled('held');
	unlike(slurp_file($node->logfile, $log), qr/endpoint "held" is disabled/, 'not for a moment');
	$session->quit;
	drop_outbox($_) foreach qw(held fresh);
};

subtest 'endpoints that hang or are down do not slow another' => sub {
	my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die "listen: $!";
	my $down   = $nobody->sockport;

	close $nobody;
	$receiver->set('/hangs', hang => 1);
	make_outbox('hangs', category => 'shared', options => '"max_in_flight": 4, "timeout": "300s"');
	make_outbox('down', category => 'shared', url => "http://127.0.0.1:$down/", options => '"breaker": {"open_for": "0.1s", "max_open_for": "0.1s"}');
	append('shared', 20, 5);
	poll_until('requests that hang', sub { ($receiver->stats('/hangs'))[1] == 4 });
	wait_status('down', 'failed > 2');
	make_outbox('well', category => 'shared');
	append('shared', 20, 20);
	is(out_of_order($receiver->wait_count('/well', 500)), '', 'the one that is well gets everything');
	wait_settled('well');
	is(scalar(my @all = $receiver->accepted('/well')), 500, 'once');
	is(join(' ', ($receiver->stats('/hangs'))[ 0 .. 2 ]), '4 4 4', 'while the other hangs as it did, with max_in_flight requests');
	is(failed_events('down'), 0, 'and that which is down has cost no attempt');
	# what it does for the other endpoints takes moments; a transaction around requests would last as long as they do
	poll_sql($node, q{SELECT xact_start IS NULL AND backend_xmin IS NULL AND backend_xid IS NULL FROM pg_stat_activity WHERE backend_type = 'evtstore relay worker'});
	ok(1, 'the relay holds no snapshot meanwhile');

	my $since = time;
	$node->stop('fast');
	cmp_ok(time - $since, '<=', 5, 'a fast stop does not wait for who hangs');
	$node->start;
	poll_until('requests that hang again', sub { ($receiver->stats('/hangs'))[0] >= 8 && ($receiver->stats('/hangs'))[1] == 4 });
	is(sql(q{SELECT max(attempt) FROM evtstore.endpoint_attempts WHERE endpoint = 'hangs'}), '', 'none of them came back');

	# it is changed while requests are out
	is(sqlstate($node, q{SELECT evtstore.alter_subscription('hangs', '{"lanes": 3}')}), '00000', 'alter_subscription');
	is(sqlstate($node, q{SELECT evtstore.alter_endpoint('hangs', '{"max_in_flight": 6}')}), '00000', 'alter_endpoint');
	$receiver->clear('/hangs');
	is(out_of_order($receiver->wait_count('/hangs', 500)), '', 'all arrive, in the order of each key');
	wait_settled('hangs');
	sql(q{SELECT evtstore.seek('hangs', 0)});
	poll_until('all of them again', sub { (my @all = $receiver->accepted('/hangs')) >= 1000 });
	wait_settled('hangs');
	is(out_of_order($receiver->requests('/hangs')), '', 'after seek() once more, in order');

	$receiver->set('/hangs', hang => 1);
	append('shared', 20, 1);
	poll_until('requests that hang', sub { ($receiver->stats('/hangs'))[1] == 6 });
	sql(q{SELECT evtstore.seek('hangs', 0)});
	is(sqlstate($node, q{SELECT evtstore.drop_subscription('hangs')}), '00000', 'seek() and drop_subscription() while requests hang');
	is(sqlstate($node, q{SELECT evtstore.drop_endpoint('hangs')}), '00000', 'and drop_endpoint()');
	poll_until('nothing to hang there', sub { $receiver->clear('/hangs'); ($receiver->stats('/hangs'))[1] == 0 });
	append('shared', 1, 1);
	wait_settled('well');
	drop_outbox($_) foreach qw(well down);
};

subtest 'max_in_flight and rate' => sub {
	$receiver->set('/few', delay_ms => 20);
	make_outbox('few', options => '"max_in_flight": 5');
	append('few', 40, 3);
	is(out_of_order($receiver->wait_count('/few', 120)), '', 'all arrive');
	is(($receiver->stats('/few'))[2], 5, 'five at a time, no more and no less');
	drop_outbox('few');

	make_outbox('rated', options => '"rate": 20');
	my $since = time;
	append('rated', 30, 2);
	is(out_of_order($receiver->wait_count('/rated', 60)), '', 'all arrive');
	# a second's worth may go at once
	cmp_ok(time - $since, '>=', 2, 'no faster than the rate');
	drop_outbox('rated');
};

subtest 'a slow key' => sub {
	$receiver->set('/slow', key => 'slow-1', delay_ms => 100);
	append('slow', 40, 10);
	make_outbox('slow', arguments => 'lanes => 16');
	my @got = $receiver->wait_count('/slow', 400);
	is(out_of_order(@got), '', 'order of each key');
	my ($last) = grep { $got[$_]{key} eq 'slow-1' && $got[$_]{n} == 9 } 0 .. $#got;
	# keys of its lane may have to wait
	cmp_ok($last, '>', 300, 'others overtake it');
	wait_settled('slow');
	drop_outbox('slow');
};

subtest 'an event that the receiver never takes' => sub {
	my %after = (
		# what arrives of its key, and what is left
		block           => [ '1 2', q{0 blocked} ],
		dead_letter     => [ '1 2 4 5', q{1 dead} ],
		dead_letter_key => [ '1 2', q{3 dead} ]);

	foreach my $how (sort keys %after)
	{
		foreach my $status (422, 500)
		{
			my $name = "$how$status";
			$receiver->set("/$name", key => "$name-1", n => 3, status => $status);
			make_outbox($name, attempts => 3, arguments => "on_failure => '$how'", options => '"breaker": {"failures": 1000}');
			append($name, 4, 5);
			if ($how eq 'block')
			{
				poll_sql($node, "SELECT state, key FROM evtstore.blocked_keys WHERE name = '$name'", "blocked|$name-1");
			}
			else
			{
				poll_sql($node, "SELECT count(*) FROM evtstore.dead_letters WHERE name = '$name'", $after{$how}[1] =~ s/\D//gr);
			}
			poll_until('the others', sub { (grep { $_->{key} ne "$name-1" } $receiver->accepted("/$name")) == 15 });
			poll_sql($node, "SELECT in_flight FROM evtstore.subscription_status WHERE name = '$name'", '0');
			my @requests = $receiver->requests("/$name");
			is(join(' ', map { $_->{n} } grep { $_->{key} eq "$name-1" && $_->{status} == 204 } @requests), $after{$how}[0], "$how, $status: what arrives of its key");
			is(join(' ', map { $_->{attempt} } grep { $_->{status} == $status } @requests), $status == 422 ? '1' : '1 2 3', 'attempts of the one');
			is(scalar(grep { $_->{key} ne "$name-1" } @requests), 15, 'all of the others, once');
			if ($how ne 'dead_letter')
			{
				$receiver->clear("/$name");
				sql($how eq 'block' ? "SELECT evtstore.unblock_key('$name', '$name-1')" : "SELECT evtstore.redrive('$name')");
				poll_until('the rest of the key', sub { (grep { $_->{key} eq "$name-1" } $receiver->accepted("/$name")) == 5 });
				is(join(' ', map { $_->{n} } grep { $_->{key} eq "$name-1" } $receiver->accepted("/$name")), '1 2 3 4 5', 'a person sets it going again, in order');
			}
			wait_settled($name) if $how eq 'block';
			drop_outbox($name);
		}
	}
};

subtest 'an outage' => sub {
	my $other = EvtReceiver->new;
	$other->end('KILL');
	make_outbox('outage', url => $other->url('/outage'), options => '"breaker": {"failures": 5, "open_for": "0.1s", "max_open_for": "0.3s"}');
	append('outage', 100, $waiting / 100);
	wait_status('outage', q{failed >= 10 AND breaker <> 'closed'});
	is(failed_events('outage'), 0, 'costs no attempts');
	cmp_ok(sql(q{SELECT in_flight FROM evtstore.subscription_status WHERE name = 'outage'}), '<=', 200, 'few events are held, the rest is in the feed');
	$other->start;
	is(out_of_order($other->wait_count('/outage', $waiting, 300)), '', 'when it is over all arrive in the order of each key');
	wait_settled('outage');
	my @got = $other->requests('/outage');
	is(scalar(@got), $waiting, 'once each');
	is(scalar(grep { $_->{attempt} != 1 } @got), 0, 'at the first attempt');
	drop_outbox('outage');
	$other->end;
};

subtest 'commands on a database while requests hang' => sub {
	sql('CREATE DATABASE shop');
	sql('CREATE EXTENSION evtstore', 'shop');
	$receiver->set('/shop', hang => 1);
	make_outbox('shop', options => '"max_in_flight": 3, "timeout": "300s"', database => 'shop');
	append('shop', 10, 2, 'shop');
	my $hang = sub { poll_until('requests that hang', sub { ($receiver->stats('/shop'))[1] == 3 }) };

	$hang->();
	is(sqlstate($node, 'CREATE DATABASE copy TEMPLATE shop'), '00000', 'CREATE DATABASE ... TEMPLATE');
	$hang->();
	ok(1, 'the relay comes back');
	is(sqlstate($node, 'ALTER DATABASE shop RENAME TO store'), '00000', 'ALTER DATABASE ... RENAME');
	$hang->();
	$node->wait_for_log(qr/nothing is delivered from database "copy"/);
	$receiver->clear('/shop');
	is(out_of_order($receiver->wait_count('/shop', 20)), '', 'the original delivers, in order');
	wait_settled('shop', 'store');
	append('shop', 10, 1, 'copy');
	append('shop', 10, 1, 'store');
	$receiver->wait_count('/shop', 30);
	wait_settled('shop', 'store');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'copy' AND backend_type = 'evtstore relay worker'}), 0, 'the copy has no relay');
	is(scalar(unique(map { $_->{id} } $receiver->accepted('/shop'))), 30, 'and delivered nothing');
	sql('SELECT evtstore.resume_delivery()', 'copy');
	poll_until('events of the copy', sub { unique(map { $_->{id} } $receiver->accepted('/shop')) == 40 });
	ok(1, 'until resume_delivery()');
	wait_settled('shop', 'copy');

	$receiver->set('/shop', hang => 1);
	append('shop', 10, 1, 'store');
	$hang->();
	is(sqlstate($node, 'DROP DATABASE store'), '00000', 'DROP DATABASE');
	poll_until('the end of its requests', sub { ($receiver->stats('/shop'))[1] == 0 });
	append('shop', 10, 1, 'copy');
	$hang->();
	is(sqlstate($node, 'BEGIN; SET LOCAL evtstore.allow_drop = on; DROP EXTENSION evtstore CASCADE; COMMIT', 'copy'), '00000', 'DROP EXTENSION');
	poll_until('the end of its requests', sub { ($receiver->stats('/shop'))[1] == 0 });
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'copy' AND backend_type LIKE 'evtstore relay%'}), 0, 'nobody is left there');
	is(sqlstate($node, 'DROP DATABASE copy'), '00000', 'DROP DATABASE');
	$receiver->clear('/shop');
};

subtest 'replay' => sub {
	make_outbox('again');
	append('again', 5, 6);
	append('other', 5, 6);
	$receiver->wait_count('/again', 30);
	wait_settled('again');
	my $from = sql(q{SELECT position FROM evtstore.events WHERE category = 'again' AND version = 3 ORDER BY position LIMIT 1});
	is(sql(qq{SELECT evtstore.replay('again', '{"categories": ["again"]}', from_position => $from)}), 20, 'replay() says how many');
	poll_sql($node, q{SELECT count(*) FROM evtstore.subscription_status WHERE name LIKE 'again replay%'}, '0');
	my @got = $receiver->accepted('/again');
	is(scalar(@got), 50, 'all of them came, and it ended by itself');
	is(scalar(grep { $_->{replay} eq '' } @got[ 0 .. 29 ]), 30, 'what goes there anyway is no replay');
	is(join(',', unique(map { $_->{replay} } @got[ 30 .. 49 ])), 'true', 'and the others say that they are one');
	is(scalar(unique(map { $_->{id} } @got)), 30, 'under the ids that they had');
	my %of;
	push @{ $of{ $_->{key} } }, $_->{n} foreach @got[ 30 .. 49 ];
	is(join('|', unique(map { "@$_" } values %of)), '3 4 5 6', 'in order');

	my $since = time;
	is(sql(q{SELECT evtstore.replay('again', '{"categories": ["again"]}', rate => 10)}), 30, 'with a rate');
	append('again', 5, 1);
	poll_until('new events', sub { (grep { $_->{n} == 7 } $receiver->accepted('/again')) == 5 });
	poll_sql($node, q{SELECT count(*) FROM evtstore.subscription_status WHERE name LIKE 'again replay%'}, '0');
	cmp_ok(time - $since, '>=', 2, 'no faster');
	is(scalar(my @all = $receiver->accepted('/again')), 85, 'and new events once beside it');
	drop_outbox('again');
};

subtest 'an endpoint for each customer' => sub {
	$receiver->set('/customer-2', status => 503);
	sql(join ';', map { sprintf q{SELECT evtstore.create_endpoint('customer-%d', '%s', '{"breaker": {"failures": 3, "open_for": "0.2s", "max_open_for": "0.2s"}}')},
			$_, $receiver->url("/customer-$_") } 1 .. 3);
	sql(q{SELECT evtstore.create_rule('customers', '{"categories": ["sale"]}', 'endpoint:customer-${data.customer}',
		'{"body": {"n": "${data.n}", "of": "${stream}"}}')});
	sql(q{SELECT count(*) FROM generate_series(1, 10) n CROSS JOIN generate_series(1, 5) s CROSS JOIN generate_series(1, 3) c
		CROSS JOIN LATERAL evtstore.append('sale-' || c || '-' || s, 'Sold', jsonb_build_object('n', n, 'customer', c))});
	foreach my $customer (1, 3)
	{
		my @got = $receiver->wait_count("/customer-$customer", 50);
		is(out_of_order(@got), '', "customer $customer gets his, in order, while another is down");
		is(scalar(grep { $_->{key} !~ /^sale-$customer-/ } @got), 0, 'and nothing else');
	}
	is(scalar(my @none = $receiver->accepted('/customer-2')), 0, 'who is down gets nothing');
	$receiver->clear('/customer-2');
	is(out_of_order($receiver->wait_count('/customer-2', 50)), '', 'and all of it, in order, when he is back');
	is(sql(q{SELECT state FROM evtstore.rule_status WHERE name = 'customers'}), 'active', 'no stream is blocked');
	is(sql(q{SELECT count(*) FROM evtstore.dead_letters WHERE name = 'customers'}), 0, 'nothing was given up');

	# who is not there at all: the error is the event's, and the stream waits
	sql(q{SELECT evtstore.append('sale-9-1', 'Sold', '{"n": 1, "customer": 9}')});
	sql(q{SELECT evtstore.append('sale-1-1', 'Sold', '{"n": 11, "customer": 1}')});
	$receiver->wait_count('/customer-1', 51);
	poll_sql($node, q{SELECT key, error FROM evtstore.blocked_keys WHERE name = 'customers'}, 'sale-9-1|endpoint "customer-9" does not exist');
	sql(sprintf q{SELECT evtstore.create_endpoint('customer-9', '%s')}, $receiver->url('/customer-9'));
	is(scalar($receiver->wait_count('/customer-9', 1)), 1, 'an endpoint that comes later gets what waits for it');
	sql(q{SELECT evtstore.drop_rule('customers')});
};

$node->stop;
done_testing();
