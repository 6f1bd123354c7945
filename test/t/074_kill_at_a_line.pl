# What a crash leaves of queues and subscriptions, at the lines where it matters: a debugger stops a backend in the middle of a
# send, a settlement or a change of lanes, and then it is killed, or the server is stopped at once.  Feed case 21, and the
# sections "What a kill leaves" of docs/architecture-subscriptions.md and "A kill at each line" of docs/architecture-queues.md.
#
# Before the commit record nothing of it is there, and the same call works afterwards; with the record all of it is, though nobody
# was told in shared memory.
use strict;
use warnings;

use EvtGdb;
use EvtTest;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nrestart_after_crash = on\nevtstore.enabled = off\n");
EvtGdb::require_gdb($node);

sub sql { return $node->safe_psql('postgres', shift) }

# where the commit record is not written yet; and where it is on disk and nobody was told
my ($RECORD, $TELL) = qw(XactLogCommitRecord ProcArrayEndTransaction);

# cut(how, place, statements): the last statement comes to the place and no further; how: "kill" or "stop"; place: a function, or
# "after" one
sub cut { return EvtGdb::cut($node, @_) }

# each place, with a kill and with a stop by turns
my $turn = 0;
sub how { return $turn++ % 2 ? 'stop' : 'kill' }

# --- a message with a dedup_id: its row of message_dedup, its own row, the commit ---

sql(q{SELECT evtstore.create_queue('mail')});
my $send = q{SELECT evtstore.send('mail', '1', dedup_id => 'd')};
my $known = q{SELECT (SELECT count(*) FROM evtstore_internal.message_dedup) || ' known, ' || (SELECT count(*) FROM evtstore_internal.message) || ' there'};

# the message's table is opened when its dedup_id is written
foreach my $place ('es_table_open', 'es_table_end', $RECORD)
{
	my $at = cut(how(), $place, $send);

	is(sql($known), '0 known, 0 there', "$at: not known and not there");
	is(sql(q{SELECT count(*) FROM evtstore.receive('mail')}), 0, "$at: nothing comes of it");
}
my $id = sql($send);
is(sql($known), '1 known, 1 there', 'sent again it is there');
is(sql($send), $id, 'and known');
is(sql(q{SELECT string_agg(message_id || ': ' || evtstore.ack(receipt), ' ') FROM evtstore.receive('mail', max_count => 10)}), "$id: 1", 'once');
sql(q{UPDATE evtstore_internal.message_dedup SET expires_at = '-infinity'});
my $at = cut(how(), $TELL, $send);
is(sql($known), '1 known, 1 there', "$at: there");
$id = sql($send);
is(sql(q{SELECT string_agg(message_id || ': ' || evtstore.ack(receipt), ' ') FROM evtstore.receive('mail', max_count => 10)}), "$id: 1",
	"$at: who sends it again is told its id, and it comes once");

# --- the acknowledgement of a message: its row, the commit, what consumers are told ---

sql(q{SELECT evtstore.send_batch('mail', '{1,2}', ARRAY['k', 'k'])});
my $ack = q{SELECT body, attempt, evtstore.ack(receipt) FROM evtstore.receive('mail', max_count => 10)};
foreach my $place ('after es_table_delete', $RECORD)
{
	my $at = cut(how(), $place, 'CREATE TEMP TABLE r AS SELECT receipt FROM evtstore.receive($$mail$$)', 'SELECT evtstore.ack(receipt) FROM r');

	is(sql(q{SELECT string_agg(format('%s %s', body, attempt), ', ') FROM evtstore.receive('mail', max_count => 10, lease => '1ms')}), '1 1',
		"$at: the message comes again, and the next one of its key does not pass it");
}
$at = cut(how(), $TELL, 'CREATE TEMP TABLE r AS SELECT receipt FROM evtstore.receive($$mail$$)', 'SELECT evtstore.ack(receipt) FROM r');
is(sql($ack), '2|1|1', "$at: it is settled, and the next one of its key comes");
is(sql($ack), '', "$at: nothing else does");

# --- events ---

sql(q{CREATE TABLE receipt (receipt text, body jsonb)});
sql(q{CREATE FUNCTION take(name text, consumer text, max_count int DEFAULT 100) RETURNS text LANGUAGE sql AS $$
	TRUNCATE receipt;
	INSERT INTO receipt SELECT receipt, body FROM evtstore.poll(name, consumer, max_count, '1h');
	SELECT string_agg(body::text, ' ' ORDER BY body) FROM receipt $$});

# all that a subscription has in tables
sub rows_of
{
	my ($name) = @_;
	return sql(qq{
		WITH s AS (SELECT id, spec FROM evtstore_internal.definition WHERE name = '$name'),
			t(t, r) AS (SELECT 'definition', spec::text FROM s UNION ALL
				SELECT 'generation', g::text FROM s JOIN evtstore_internal.lane_generation g ON subscription_id = s.id UNION ALL
				SELECT 'checkpoint', c::text FROM s JOIN evtstore_internal.checkpoint c ON subscription_id = s.id UNION ALL
				SELECT 'failed', f::text FROM s JOIN evtstore_internal.failed_event f ON subscription_id = s.id UNION ALL
				SELECT 'dead key', d::text FROM s JOIN evtstore_internal.dead_key d ON subscription_id = s.id UNION ALL
				SELECT 'dead letter', l::text FROM s JOIN evtstore_internal.dead_letter l ON source_id = s.id AND kind = 'subscription')
		SELECT string_agg(t || ' ' || r, E'\n' ORDER BY t, r) FROM t});
}

# --- a key that is given up: the row of dead_key, the commit ---

sql(q{SELECT evtstore.create_subscription('keys', '{"categories": ["a"]}', lanes => 2, on_failure => 'dead_letter_key', options => '{"retry": {"max_attempts": 1}}')});
sql(join ';', map { my $e = $_; map { "SELECT FROM evtstore.append('a-$_', 'T', '$_$e')" } 1, 2 } 1 .. 3);
my $before = rows_of('keys');
my $reject = q{SELECT evtstore.nack(receipt, 'no') FROM receipt WHERE body = '11'};
foreach my $place ('after es_dead_key_add', $RECORD)
{
	is(sql(q{SELECT take('keys', 'c')}), '11 12 13 21 22 23', 'events of two keys');
	my $at = cut(how(), $place, $reject);

	is(rows_of('keys'), $before, "$at: the key is not dead, and there is no dead letter");
}
is(sql(q{SELECT take('keys', 'c')}), '11 12 13 21 22 23', 'its events come again');
$at = cut(how(), $TELL, $reject);
is(sql(q{SELECT string_agg(key || ' ' || state, ', ') FROM evtstore.blocked_keys}), 'a-1 dead', "$at: the key is dead");
is(sql(q{SELECT string_agg(format('%s %s', body, cause), ', ' ORDER BY id) FROM evtstore.dead_letters WHERE name = 'keys'}),
	'11 attempts spent, 12 key given up, 13 key given up', "$at: its events are dead letters");
is(sql(q{SELECT take('keys', 'c')}), '21 22 23', "$at: those of the other key come again");
is(sql(q{SELECT sum(evtstore.ack(receipt)) FROM receipt}), 3, 'and are settled');
is(sql(q{SELECT take('keys', 'c')}), '', 'that is all');

# --- an acknowledgement of events: the row of checkpoint, the commit, what pollers are told ---

sql(q{CREATE TABLE effect (body jsonb)});
sql(q{SELECT evtstore.create_subscription('acks', '{"categories": ["a"]}', lanes => 1)});
$before = rows_of('acks');
my $effect = q{WITH e AS (INSERT INTO effect SELECT body FROM receipt) SELECT sum(evtstore.ack(receipt)) FROM receipt};
foreach my $place ('after es_checkpoint_write', $RECORD)
{
	is(sql(q{SELECT take('acks', 'c', 2)}), '11 21', 'two events');
	my $at = cut(how(), $place, $effect);

	is(rows_of('acks'), $before, "$at: nothing is settled");
	is(sql('SELECT count(*) FROM effect'), 0, "$at: and has an effect");
}
is(sql(q{SELECT take('acks', 'other', 2)}), '11 21', 'they come again, to whoever polls');
$at = cut(how(), $TELL, $effect);
is(sql(q{SELECT string_agg(body::text, ' ') FROM effect}), '11 21', "$at: they are settled, with their effect");
is(sql(q{SELECT take('acks', 'third', 3)}), '12 13 22', "$at: the lane is free, and those that follow come");
is(sql(q{SELECT sum(evtstore.ack(receipt)) FROM receipt}), 3, 'and are settled');

# --- another number of lanes: the row of lane_generation, those of checkpoint, the commit ---

my $n = 0;

# two events for each of six keys: 1010 and 1011 are the first ones of key 1
sub append_round
{
	$n++;
	sql(join ';', map { my $e = 10 * $n + $_; map { "SELECT FROM evtstore.append('l-$_', 'T', '" . (1000 * $_ + $e) . q{')} } 1 .. 6 } 0, 1);
	return;
}

# Two consumers take all there is, until there is nothing.  The effects of each key in order, key by key
sub follow
{
	my ($name) = @_;
	my $idle = 0;

	while ($idle < 2)
	{
		my $got = 0;
		foreach my $consumer (qw(x y))
		{
			sql("SELECT take('$name', '$consumer', 5)");
			$got += sql(qq{WITH e AS (INSERT INTO effect SELECT body FROM receipt ORDER BY body) SELECT count(evtstore.ack(receipt)) FROM receipt});
		}
		$idle = $got ? 0 : $idle + 1;
	}
	return;
}

sub effects { return sql(q{SELECT string_agg(s, E'\n' ORDER BY s) FROM (SELECT string_agg(body::text, ' ' ORDER BY n) AS s FROM effect GROUP BY body::int / 1000) k}) }

sub expected
{
	return join "\n", map { my $s = $_; join ' ', map { (1000 * $s + 10 * $_, 1000 * $s + 10 * $_ + 1) } 1 .. $n } 1 .. 6;
}

sql(q{TRUNCATE effect; ALTER TABLE effect ADD n bigserial});
sql(q{SELECT evtstore.create_subscription('lanes', '{"categories": ["l"]}', lanes => 2)});
sub lanes { return sql(q{SELECT lanes FROM evtstore.subscription_status WHERE name = 'lanes'}) }
foreach my $to (4, 3)
{
	my $was = lanes();

	foreach my $place ('es_checkpoint_write', $RECORD, $TELL)
	{
		# of some lanes a part is settled and a part is with a consumer
		append_round();
		sql(q{SELECT take('lanes', 'x', 4)});
		sql(q{WITH e AS (INSERT INTO effect SELECT body FROM receipt WHERE body::int % 2 = 0 ORDER BY body) SELECT count(evtstore.ack(receipt)) FROM receipt WHERE body::int % 2 = 0});
		my $before = rows_of('lanes');
		my $at = cut(how(), $place, qq{SELECT evtstore.alter_subscription('lanes', '{"lanes": $to}')});

		if ($place eq $TELL)
		{
			is(lanes(), $to, "$at: $to lanes");
		}
		else
		{
			is(rows_of('lanes'), $before, "$at: $was lanes as before");
		}
		append_round();
		follow('lanes');
		is(effects(), expected(), "$at: nothing is lost, nothing came twice, each key in order");
	}
}
# what is changed later is no different from what no crash was in
sql(q{SELECT take('lanes', 'x', 5)});
sql(q{SELECT evtstore.alter_subscription('lanes', '{"lanes": 5}')});
append_round();
follow('lanes');
is(effects(), expected(), 'a later change works');
is(lanes(), 5, 'five lanes');

done_testing();
