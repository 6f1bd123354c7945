# A rule with an endpoint for each customer: one of them that hangs, is slow, or answers late with an error does not hold up the others,
# and gets its own events in order, each once.
#
# EVTSTORE_EVENTS: streams of the one that hangs; more than a rule's window.
use strict;
use warnings;

use EvtReceiver;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $streams   = $ENV{EVTSTORE_EVENTS} || 1500;
my $customers = 50;
# far more than the others take, less than any time-out here and than what they would wait for
my $PATIENCE = 12;
my $node     = new_node('main', conf => "evtstore.worker_lease = '1h'\nevtstore.poll_interval = '1s'\n");
my $receiver = EvtReceiver->new;
my %sent;

sub sql { return $node->safe_psql('postgres', shift) }

# n events for each of some streams of customers from to
sub append
{
	my ($from, $to, $streams, $n) = @_;

	$sent{$_} += $streams * $n foreach $from .. $to;
	return sql(qq[DO \$\$ BEGIN
		FOR n IN 1 .. $n LOOP
			FOR c IN $from .. $to LOOP
				FOR s IN 1 .. $streams LOOP
					PERFORM evtstore.append('sale-' || c || '-' || s, 'Sold',
						jsonb_build_object('n', coalesce(evtstore.stream_version('sale-' || c || '-' || s), 0) + 1, 'customer', c));
				END LOOP;
			END LOOP;
		END LOOP;
	END \$\$]);
}

# all of theirs, but for who is named
sub others_get_theirs
{
	my ($what, @without) = @_;
	my %is_out = map { $_ => 1 } @without;
	my @them = grep { !$is_out{$_} } 1 .. $customers;
	my $missing = sub {
		my %got;
		$got{ $_->{path} }++ foreach $receiver->accepted;
		return grep { ($got{"/customer-$_"} // 0) < ($sent{$_} // 0) } @them;
	};

	poll_until("events of the others, $what", sub { !$missing->() }, $PATIENCE);
	is(join(' ', $missing->()), '', "the others get theirs, $what");
	is(join('', map { out_of_order($receiver->requests("/customer-$_")) } @them), '', 'in order');
	return;
}

# each event once, also of who made trouble
sub arrived_once
{
	my ($customer, $what) = @_;
	my %times;

	poll_until("events of customer $customer", sub { (my @all = $receiver->accepted("/customer-$customer")) >= $sent{$customer} }, 120);
	poll_sql($node, "SELECT count(*) FROM evtstore_internal.failed_event WHERE key LIKE 'sale-$customer-%'", '0');
	$times{ $_->{id} }++ foreach $receiver->requests("/customer-$customer");
	is(scalar(keys %times), $sent{$customer}, "$what: all arrive");
	is(scalar(grep { $_ > 1 } values %times), 0, 'none of them twice');
	is(out_of_order($receiver->requests("/customer-$customer")), '', 'in order');
	return;
}

sub set_endpoint
{
	my ($customer, $options) = @_;
	return sql(qq{SELECT evtstore.alter_endpoint('customer-$customer', '{$options}')});
}

sql(join ';', map { sprintf q{SELECT evtstore.create_endpoint('customer-%d', '%s', '{"timeout": "300s"}')}, $_, $receiver->url("/customer-$_") } 1 .. $customers);
sql(q{SELECT evtstore.create_rule('customers', '{"categories": ["sale"]}', 'endpoint:customer-${data.customer}', '{"body": {"n": "${data.n}", "of": "${stream}"}}')});

subtest 'one hangs' => sub {
	$receiver->set('/customer-7', hang => 1);
	append(7, 7, $streams, 1);
	append(1, $customers, 5, 4);
	others_get_theirs('which came behind more than a window of its events', 7);
	is(join(' ', ($receiver->stats('/customer-7'))[ 0 .. 2 ]), '64 64 64', 'while as many requests hang as it may have');
	append(1, $customers, 5, 4);
	others_get_theirs('while it hangs', 7);
	is(sql(q{SELECT max(attempt) FROM evtstore_internal.failed_event WHERE state <> 'waiting' AND epoch IS NULL}), 0, 'what is put off has cost no attempt');

	# its successor begins anew
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'evtstore relay worker'});
	append(1, $customers, 5, 1);
	others_get_theirs('when the relay has ended', 7);
	poll_until('requests that hang again', sub { ($receiver->stats('/customer-7'))[0] > 64 });
	ok(1, 'what was out goes out once more, long before its time-out');

	$receiver->clear('/customer-7');
	poll_until('events of customer 7', sub { my %seen = map { $_->{id} => 1 } $receiver->accepted('/customer-7'); keys %seen == $sent{7} }, 120);
	is(out_of_order($receiver->accepted('/customer-7')), '', 'then it gets all of its own, in order');
	poll_sql($node, 'SELECT count(*) FROM evtstore_internal.failed_event', '0');
	is(sql('SELECT count(*) FROM evtstore.dead_letters'), 0, 'nothing is left or given up');
};

subtest 'one answers very late' => sub {
	# longer than a crash may cost: its event is due while it is out, and another stream of the endpoint goes on
	$receiver->set('/customer-12', key => 'sale-12-1', delay_ms => 13_000, first => 1);
	$receiver->set('/customer-12', key => 'sale-12-2', delay_ms => 200);
	append(12, 12, 1, 1);
	poll_until('a request that hangs', sub { ($receiver->stats('/customer-12'))[1] == 1 });
	append(12, 12, 2, 70);
	arrived_once(12, 'what is due while it is out');
};

subtest 'one takes its time' => sub {
	# longer than a lane waits
	$receiver->set('/customer-8', delay_ms => 900);
	append(8, 8, 20, 3);
	append(1, $customers, 5, 4);
	others_get_theirs('while it answers late', 8);
	arrived_once(8, 'one that answers late');
	$receiver->clear('/customer-8');

	# one message at a time, and the others' lanes are full of what waits for it
	$receiver->set('/customer-9', delay_ms => 200);
	set_endpoint(9, '"max_in_flight": 1');
	append(9, 9, 60, 1);
	append(1, $customers, 5, 4);
	others_get_theirs('while it is slower than its events come', 9);
	arrived_once(9, 'a slow one');
	$receiver->clear('/customer-9');

	# what is behind it in its stream holds the lane, too
	$receiver->set('/customer-10', key => 'sale-10-1', delay_ms => 250);
	append(10, 10, 1, 70);
	append(1, $customers, 5, 4);
	others_get_theirs('while one of its streams takes long', 10);
	arrived_once(10, 'a long stream');
	$receiver->clear('/customer-10');
};

subtest 'an answer that comes late' => sub {
	$receiver->set('/customer-11', key => 'sale-11-1', delay_ms => 900, status => 422);
	$receiver->set('/customer-11', key => 'sale-11-2', delay_ms => 900, status => 500, first => 1);
	append(11, 11, 3, 2);
	append(1, $customers, 1, 2);
	others_get_theirs('while it does not', 11);
	poll_sql($node, q{SELECT state, attempt, error ~ '422' FROM evtstore.blocked_keys WHERE name = 'customers' AND key = 'sale-11-1'}, 'blocked|1|t');
	my @of = grep { $_->{key} eq 'sale-11-1' } $receiver->requests('/customer-11');
	is(scalar(grep { $_->{status} == 422 } @of), 1, 'is an answer: what is refused is not sent again');
	poll_until('the stream that failed once', sub { (grep { $_->{key} eq 'sale-11-2' } $receiver->accepted('/customer-11')) >= 1 });
	is(join(' ', map { "$_->{status}/$_->{attempt}" } grep { $_->{key} eq 'sale-11-2' && $_->{status} == 500 } $receiver->requests('/customer-11')), '500/1', 'and what fails spends an attempt');
	$receiver->clear('/customer-11');
	sql(q{SELECT evtstore.unblock_key('rule:customers', 'sale-11-1')});
	poll_until('all of customer 11', sub { my %seen = map { $_->{id} => 1 } $receiver->accepted('/customer-11'); keys %seen == $sent{11} }, 60);
	is(out_of_order($receiver->requests('/customer-11')), '', 'in order');
};

$node->stop;
done_testing();
