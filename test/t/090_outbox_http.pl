# The outbox over HTTP: a subscription with an endpoint, several appenders, and a receiver that keeps what it got.  Without a kill each
# event arrives once; with the receiver, the relay and the server killed nothing is lost, and the order of each key holds.
#
# EVTSTORE_EVENTS: how many events; EVTSTORE_SECONDS: for how long things are killed.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtDisturb;
use EvtReceiver;
use EvtTest;
use EvtWire;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $KEYS      = 100;
my $APPENDERS = 4;

my ($seed, $seconds) = EvtDisturb::choices(7);
my $events = $ENV{EVTSTORE_EVENTS} || 2000;
# no lease runs out here: whatever was held is given back
my $node   = new_node('main', conf => "restart_after_crash = on\nevtstore.worker_lease = '1h'\nevtstore.poll_interval = '1s'\n");
my $dir    = PostgreSQL::Test::Utils::tempdir('certificate');

sub sql
{
	return $node->safe_psql('postgres', shift);
}

# A certificate for 127.0.0.1 that is its own authority.
sub make_certificate
{
	system_or_bail(
		qw(openssl req -x509 -newkey rsa:2048 -nodes -batch -days 2 -subj /CN=receiver -addext subjectAltName=IP:127.0.0.1),
		'-keyout', "$dir/key.pem", '-out', "$dir/cert.pem");
	return (cert => "$dir/cert.pem", key => "$dir/key.pem");
}

#
# An appender: its share of the events, spread over the keys, five keys in a transaction.  The number n of an event is its place in its
# stream: the expected version sees to that, whoever else appends there, and whatever was lost on the way back.
#
sub run_appender
{
	my ($category, $share, $pause) = @_;
	my $client = EvtClient->new($node, 'outbox appender');

	while ($share > 0)
	{
		my $streams = join ', ', map { sprintf "'%s-%02d'", $category, rand $KEYS } 1 .. 5;
		my $rows = $client->do("SELECT evtstore.append(s, 'Placed', jsonb_build_object('n', v + 1), expected_version => v)"
			  . " FROM (SELECT s, coalesce(evtstore.stream_version(s), 0) AS v FROM (SELECT DISTINCT unnest(ARRAY[$streams]) ORDER BY 1) d(s)) x",
			ST001 => 1) // next;
		$share -= @$rows;
		select undef, undef, undef, $pause && rand 2 * $pause;    # sleep: so that the appends last as long as what disturbs them
	}
	return;
}

# they take that many seconds, or what they need
sub start_appenders
{
	my ($category, $count, $time) = @_;
	my $share = $count / $APPENDERS;

	foreach my $n (1 .. $APPENDERS)
	{
		start_child("$category appender $n", sub { srand $seed * 100 + $n; run_appender($category, $share, $time * 5 / $share) });
	}
	return;
}

# what is in the store: "key n" => 1
sub appended
{
	my $category = shift;
	return map { $_ => 1 } split /\n/, sql("SELECT stream || ' ' || version FROM evtstore.events WHERE category = '$category'");
}

# Everything arrived, and nothing else.
sub check_all
{
	my ($category, @accepted) = @_;
	my %appended = appended($category);
	my %seen;

	$seen{"$_->{key} $_->{n}"}++ foreach @accepted;
	is(scalar(grep { !$seen{$_} } keys %appended), 0, scalar(keys %appended) . ' events: nothing is lost');
	is(scalar(grep { !$appended{$_} } keys %seen), 0, 'and nothing came that is not in the store');
	my %ids;
	$ids{"$_->{key} $_->{n}"}{ $_->{id} } = 1 foreach @accepted;
	is(scalar(grep { keys %$_ > 1 } values %ids), 0, 'what comes again has the same id');
	return scalar @accepted - keys %seen;
}

# Everything that is in the store arrived, and nothing of it is on its way, or waits for what failed.
sub wait_settled
{
	my ($name, $category, $receiver, $patience) = @_;
	my $count = sql("SELECT count(*) FROM evtstore.events WHERE category = '$category'");

	poll_until(
		"$count events of $category",
		sub {
			my %seen = map { $_->{id} => 1 } $receiver->accepted;
			return keys %seen >= $count;
		},
		$patience);
	return poll_sql($node, "SELECT in_flight + blocked + retrying + waiting FROM evtstore.subscription_status WHERE name = '$name'", '0');
}

foreach my $scheme ('http', 'https')
{
	my $receiver = EvtReceiver->new($scheme eq 'https' ? make_certificate() : ());
	my $url      = $receiver->url('/calm');
	my $options  = $scheme eq 'https' ? qq({"tls": {"ca_file": "$dir/cert.pem"}, "max_in_flight": 16}) : '{"max_in_flight": 16}';

	sql("SELECT evtstore.create_endpoint('$scheme', '$url', '$options');
		SELECT evtstore.create_subscription('calm $scheme', '{\"categories\": [\"$scheme\"]}', endpoint => '$scheme')");
	start_appenders($scheme, $events, 0);
	is(finish_children("$scheme appender", 300), '', "$scheme: all appenders came to their end");
	wait_settled("calm $scheme", $scheme, $receiver, 300);
	my @requests = $receiver->requests;
	is(check_all($scheme, @requests), 0, "$scheme: each exactly once");
	is(out_of_order(@requests), '', 'in the order of each key');
	my %connections = map { $_->{connection} => 1 } @requests;
	cmp_ok(scalar keys %connections, '<=', 16, 'over no more connections than requests in flight: they are kept');
	is(scalar(grep { $_->{under_way} > 16 } @requests), 0, 'and never more than max_in_flight');
	is(sql("SELECT delivered >= $events AND failed = 0 AND in_flight = 0 AND breaker = 'closed' AND latency_p50 <= latency_p99 FROM evtstore.endpoint_status WHERE name = '$scheme'"),
		't', 'as endpoint_status says');
	sql("SELECT evtstore.drop_subscription('calm $scheme'); SELECT evtstore.drop_endpoint('$scheme')");
	$receiver->end;
}

# --- everybody is killed ---

my $receiver = EvtReceiver->new;
my $url      = $receiver->url('/rough');

# after a start it has no rules: some requests fail, some get no answer, some a late one
sub misbehave
{
	$receiver->set('/rough', every => 89, status => 500);
	$receiver->set('/rough', every => 97, close => 1);
	$receiver->set('/rough', every => 53, delay_ms => 150);
	$receiver->set('/rough', every => 211, hang => 1);
	return;
}

sub a_relay
{
	my $disturb = shift;
	return $disturb->ask(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'evtstore relay worker'});
}

misbehave();
sql(qq[SELECT evtstore.create_endpoint('rough', '$url', '{"max_in_flight": 32, "timeout": "1s", "breaker": {"failures": 5, "open_for": "0.1s", "max_open_for": "0.5s"}}');
	SELECT evtstore.create_subscription('rough', '{"categories": ["rough"]}', endpoint => 'rough', lanes => 16,
		options => '{"retry": {"initial": "20ms", "max_delay": "200ms", "max_attempts": 100000}}')]);

my $disturb;
$disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	ways    => {
		receiver => sub { $receiver->end('KILL'); $receiver->start; misbehave(); 1 },
		relay_killed => sub {
			my $pid = a_relay($disturb) // return 0;
			return 0 unless kill 'KILL', $pid;
			poll_until('the server after the relay was killed', sub { defined $disturb->ask('SELECT 1') });
			return 1;
		},
		relay_terminated => sub { my $pid = a_relay($disturb) // return 0; return defined $disturb->ask("SELECT pg_terminate_backend($pid)") },
		reload => sub { $node->reload; 1 },
		pause => sub { return defined $disturb->ask(q{SELECT evtstore.pause('rough')}) && poll_until('resume', sub { defined $disturb->ask(q{SELECT evtstore.resume('rough')}) }) },
		alter => sub { return defined $disturb->ask(sprintf q{SELECT evtstore.alter_endpoint('rough', '{"max_in_flight": %d}')}, 8 + rand 32) },
		lanes => sub { return defined $disturb->ask(sprintf q{SELECT evtstore.alter_subscription('rough', '{"lanes": %d}')}, 2 + rand 14) },
	},
	every => { receiver => 1.5, relay_killed => 5, relay_terminated => 2, crash => 6, reload => 1, pause => 2, alter => 2, lanes => 3 });

start_appenders('rough', $events, $seconds);
$disturb->run;
is(finish_children('rough', 300), '', 'all appenders came to their end');
$receiver->clear('/rough');
wait_settled('rough', 'rough', $receiver, 300);
diag $disturb->summary;
$disturb->check;
my @requests = $receiver->requests('/rough');
my $again    = check_all('rough', grep { $_->{status} =~ /^2/ } @requests);
diag scalar(@requests) . " requests; $again events came again";
is(out_of_order(@requests), '', 'the order of each key, whoever was killed');
is(scalar(grep { $_->{under_way} > 40 } @requests), 0, 'never more than max_in_flight');
is(sql('SELECT count(*) FROM evtstore.dead_letters'), 0, 'and nothing was given up');

$node->stop;
done_testing();
