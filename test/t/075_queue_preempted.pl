# A receiver is stopped between taking a message and letting it go again, because it cannot have it yet; what makes it ready happens
# meanwhile, and whoever announces it finds it known and says nothing.  So the receiver has to look once more when he has let it go:
# docs/architecture-queues.md, "No message is lost" and "Order of a key".
#
# And one who waits for work is woken when the queue is resumed, not before he can see that it is; and ids grow, though a block of them
# comes late.
use strict;
use warnings;

use EvtGdb;
use EvtTest;
use EvtWire;
use Test::More;

# Nobody looks by himself.  A timer that was set wakes who sleeps even where it is over: that of the login, and that of counters which
# a statement left behind, ten seconds after it
my $node = new_node('main', conf => "log_statement = none\nevtstore.enabled = off\nevtstore.poll_interval = 1h\nauthentication_timeout = 10min\n");
EvtGdb::require_gdb($node);

sub sql { return $node->safe_psql('postgres', shift) }
sub client { return EvtWire->new($node, 'postgres', shift) // die "no connection\n" }

# the rows of a statement, as text
sub ask
{
	my ($client, $statement) = @_;

	$client->put($statement);
	return answer($client);
}

sub answer
{
	my $answer = shift->take;

	die $answer->{message} . "\n" if defined $answer->{sqlstate};
	return join ', ', map { join ' ', @$_ } @{ $answer->{rows} };
}

my ($sender, $stopped, $other) = map { client($_) } qw(sender stopped other);
my $receive = q{SELECT body FROM evtstore.receive('q', max_count => 10)};

# --- a message of a sender who made it known by receiving, and commits while somebody else has it ---

sql(q{SELECT evtstore.create_queue('q')});
ask($sender, $_) foreach 'BEGIN', q{SELECT evtstore.send_batch('q', '{1,2}')};
is(ask($sender, q{SELECT body FROM evtstore.receive('q')}), '1', 'a sender receives what it sent itself');
# it has read the queue to the end by that: no walk of others finds what nobody announces

my $gdb = EvtGdb->attach($stopped->{pid}, 'es_queue_drop');
$stopped->put($receive);
$gdb->wait_until_stopped;
ask($sender, 'COMMIT');
is(ask($other, $receive), '', 'the other message is not there for anybody while somebody has it in his hand');
$gdb->let_go;
is(answer($stopped), '2', 'who has it sees that it can be had by now');
is(ask($other, q{SELECT ready || ' ' || in_flight FROM evtstore.queue_status}), '0 2', 'no third message, and none is lost');

# --- the next message of a key, while the one before it is settled and somebody else follows the key ---

sql(q{SELECT evtstore.drop_queue('q')});
sql(q{SELECT evtstore.create_queue('q')});
# so that it has been read to the end
is(ask($stopped, $receive), '', 'nothing is there');
sql(q{SELECT evtstore.send_batch('q', '{1,2}', ARRAY['k', 'k'])});
my $receipt = ask($sender, q{SELECT receipt FROM evtstore.receive('q')});

$gdb = EvtGdb->attach($stopped->{pid}, 'es_queue_drop');
$stopped->put($receive);
$gdb->wait_until_stopped;
is(ask($sender, "SELECT evtstore.ack('$receipt')"), '1', 'the first of a key is settled');
is(ask($other, $receive), '', 'the next one is not there for anybody while somebody has it in his hand');
$gdb->let_go;
is(answer($stopped), '2', 'who has it sees that it can be had by now');
is(ask($other, q{SELECT ready || ' ' || in_flight FROM evtstore.queue_status}), '0 1', 'that is all');

# --- a waiter is woken when he can see why ---

sql(q{SELECT evtstore.drop_queue('q')});
sql(q{SELECT evtstore.create_queue('q')});
is(ask($stopped, $receive), '', 'nothing is there');
sql(q{SELECT evtstore.pause('q')});
sql(q{SELECT evtstore.send('q', '1')});
# a new session, so that nothing is left behind by an earlier statement
my $waiter = client('waiter');
$waiter->put(q{CALL evtstore.wait_for_work('{q}', '1h')});
my $asleep = q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event_type = 'Extension'};
poll_sql($node, $asleep);

# where caches are told, after the commit
$gdb = EvtGdb->attach($stopped->{pid}, 'AtEOXact_Inval');
$stopped->put(q{SELECT evtstore.resume('q')});
$gdb->wait_until_stopped;
# who is woken here sees a queue that is paused, and sleeps again
poll_sql($node, $asleep);
$gdb->let_go;
is(answer($stopped), '', 'resumed');
my $is_woken = $waiter->ready($PostgreSQL::Test::Utils::timeout_default);
ok($is_woken, 'who waits is woken');
is(answer($waiter), '', 'without an error') if $is_woken;
is(ask($other, $receive), '1', 'there is something to receive');

# --- a sender has fetched a block of ids and not put it there yet; others fetch one behind it, and take from that ---

sub send_one { return ask(shift, q{SELECT evtstore.send('q', '1')}) }

my $id = send_one($sender);
# to the end of the block
ask($sender, qq{SELECT count(*) FROM (SELECT evtstore.send('q', '1') FROM generate_series(1, 1024 - $id % 1024)) s});
$gdb = EvtGdb->attach($stopped->{pid}, 'nextval_internal', after => 1);
$stopped->put(q{SELECT evtstore.send('q', '1')});
$gdb->wait_until_stopped;
my $before = send_one($sender);
$gdb->let_go;
cmp_ok(my $its = answer($stopped), '>', $before, 'who was stopped with an older block takes from the newer one');
cmp_ok(send_one($other), '>', $its, 'and has put his over nobody\'s');

done_testing();
