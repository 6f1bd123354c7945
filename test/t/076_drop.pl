#
# What is dropped in a transaction that is not over yet.  Shared memory has slots for queues and subscriptions, and where these are
# short those of dropped ones are taken: but not before the drop is committed, or a rollback would find that what others hold was
# forgotten, and handed out twice.  When it is committed they are free for every database.
#
use strict;
use warnings;

use EvtTest;
use Test::More;

my $node = new_node(
	'main',
	conf => "log_statement = none\nevtstore.max_queues = 3\nevtstore.max_subscriptions = 3\n"
	  . "evtstore.max_messages_in_flight = 100\n");

sub sql
{
	my ($query, $database) = @_;

	return $node->safe_psql($database // 'postgres', "SET client_min_messages = warning; SET evtstore.allow_drop = on; $query");
}

my $USE_QUEUES = q{SELECT evtstore.create_queue('n' || i) FROM generate_series(1, 3) i;
	SELECT FROM generate_series(1, 3) i, evtstore.receive('n' || i)};
my $USE_SUBSCRIPTIONS = q{SELECT evtstore.create_subscription('m' || i) FROM generate_series(1, 3) i;
	SELECT FROM generate_series(1, 3) i, evtstore.poll('m' || i)};

# --- rolled back: what others hold is theirs ---

sql(q{CREATE TABLE held (receipt text);
	SELECT evtstore.create_queue('q'); SELECT evtstore.create_subscription('s', lanes => 1);
	SELECT evtstore.send('q', '1'); SELECT evtstore.append('a-1', 'Made', '1');
	INSERT INTO held SELECT receipt FROM evtstore.receive('q') UNION ALL SELECT receipt FROM evtstore.poll('s')});
is(sql('SELECT count(*) FROM held'), 2, 'a message and an event are held');

my %dropped = (
	'a queue'                          => "SELECT evtstore.drop_queue('q'); $USE_QUEUES",
	'a subscription'                   => "SELECT evtstore.drop_subscription('s'); $USE_SUBSCRIPTIONS",
	'the store, with its queues'       => "DROP EXTENSION evtstore; CREATE EXTENSION evtstore; $USE_QUEUES",
	'the store, with its subscriptions' => "DROP EXTENSION evtstore; CREATE EXTENSION evtstore; $USE_SUBSCRIPTIONS");

foreach my $what (sort keys %dropped)
{
	is(sqlstate($node, "SET client_min_messages = warning; BEGIN; SET LOCAL evtstore.allow_drop = on; $dropped{$what}; ROLLBACK"),
		'53400', "$what: its slot is not free before the commit");
	is(sql(q{SELECT count(*) FROM evtstore.receive('q')}), 0, "$what: its message is held, after the rollback");
	is(sql(q{SELECT count(*) FROM evtstore.poll('s')}),    0, "$what: its event too");
}
is(sql('SELECT evtstore.ack(array_agg(receipt)) FROM held'), 2, 'and the receipts are good');

# --- committed: all of it is free ---

sql(q{CREATE DATABASE other});
sql('CREATE EXTENSION evtstore', 'other');
sql(q{SELECT evtstore.create_queue('r'); SELECT evtstore.send_batch('q', array_agg(to_jsonb(i))) FROM generate_series(1, 9000) i;
	SELECT FROM evtstore.receive('r'); SELECT evtstore.create_subscription(n) FROM unnest(ARRAY['t', 'u']) n;
	SELECT FROM unnest(ARRAY['t', 'u']) n, evtstore.poll(n)});
sql(q{SELECT FROM generate_series(1, 9) i, evtstore.receive('q', 'c' || i, 1000)});
is(sqlstate($node, q{SELECT evtstore.receive('q')}), '53400', 'there is no room for one message more');
sql('DROP EXTENSION evtstore');
is(sqlstate($node, "SET client_min_messages = warning; $USE_QUEUES; $USE_SUBSCRIPTIONS", 'other'),
	'00000', 'every slot of a dropped store is free for another');
sql(q{SELECT evtstore.send('n1', '1')}, 'other');
is(sql(q{SELECT body FROM evtstore.receive('n1')}, 'other'), 1, 'and so is the room of its messages');

$node->stop;
done_testing();
