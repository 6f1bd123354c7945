# Sagas without workers: run_pending alone brings a hundred of them with timers, time-outs, a Map and compensation to their end, whoever calls it,
# beside whom; what somebody has is passed over; and a hundred thousand that sleep cost nothing while nothing is due.
use strict;
use warnings;

use EvtTest;
use Test::More;

my $N       = 100;
my $SLEEPER = 100_000;

my $node = new_node('main', conf => "evtstore.enabled = off\n");

sub sql { return $node->safe_psql('postgres', shift) }

# calls it as often as it takes, each in a transaction; returns how many things were done
sub run_all
{
	my ($offset, $max_count) = @_;
	my $limit = defined $max_count ? $max_count : 'NULL';
	my $done  = 0;

	while (1)
	{
		my $n = sql("SET evtstore.clock_offset = '${offset}s'; SELECT evtstore.run_pending($limit)");
		$done += $n;
		return $done if $n == 0;
	}
}

is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('evtstore scheduler', 'evtstore delivery worker')}), '0', 'there are no workers');

sql(q{
	CREATE SCHEMA shop;
	CREATE TABLE shop.effect (what text, n int, item int);
	CREATE FUNCTION shop.book(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO shop.effect VALUES ('book', (i->>'n')::int) RETURNING '{"ok": 1}'::jsonb $$;
	CREATE FUNCTION shop.unbook(i jsonb) RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO shop.effect VALUES ('unbook', (i->'input'->>'n')::int) RETURNING '{"ok": 1}'::jsonb $$;
	CREATE FUNCTION shop.item(i jsonb) RETURNS jsonb LANGUAGE sql AS
		$$ INSERT INTO shop.effect VALUES ('item', (i->>'n')::int, (i->>'item')::int) RETURNING '{"ok": 1}'::jsonb $$;
	CREATE FUNCTION shop.unitem(i jsonb) RETURNS jsonb LANGUAGE sql AS
		$$ INSERT INTO shop.effect VALUES ('unitem', (i->'input'->>'n')::int, (i->'input'->>'item')::int) RETURNING '{"ok": 1}'::jsonb $$;
	SELECT evtstore.create_queue('nobody');
	SELECT evtstore.define_saga('order', '{"StartAt": "Cool", "States": {
		"Cool": {"Type": "Wait", "SecondsPath": "$.wait", "Next": "Book"},
		"Book": {"Type": "Task", "Resource": "sql:shop.book", "ResultPath": null, "Saga": {"Undo": "sql:shop.unbook"}, "Next": "Ask"},
		"Ask": {"Type": "Task", "Resource": "queue:nobody", "TimeoutSeconds": 60, "ResultPath": null, "Saga": {"Undo": "none"},
			"Retry": [{"ErrorEquals": ["States.Timeout"], "IntervalSeconds": 10, "MaxAttempts": 1}],
			"Catch": [{"ErrorEquals": ["States.Timeout"], "ResultPath": null, "Next": "Each"}], "Next": "Each"},
		"Each": {"Type": "Map", "ItemsPath": "$.items", "ItemSelector": {"n.$": "$.n", "item.$": "$$.Map.Item.Value"}, "MaxConcurrency": 2, "ResultPath": null, "Next": "Odd",
			"ItemProcessor": {"StartAt": "Rest", "States": {"Rest": {"Type": "Wait", "Seconds": 30, "Next": "Item"},
				"Item": {"Type": "Task", "Resource": "sql:shop.item", "Saga": {"Undo": "sql:shop.unitem"}, "End": true}}}},
		"Odd": {"Type": "Choice", "Choices": [{"Variable": "$.odd", "NumericEquals": 1, "Next": "Broken"}], "Default": "Fine"},
		"Broken": {"Type": "Fail", "Error": "Odd"},
		"Fine": {"Type": "Succeed"}}}')});
sql(qq{SELECT evtstore.start_saga('order', jsonb_build_object('n', n, 'odd', n % 2, 'wait', 600 + n, 'items', jsonb_build_array(1, 2, 3))) FROM generate_series(1, $N) n});

# --- from the start to the end, in small and in large calls ---

is(run_all(0), 0, 'nothing is due at first');
is(sql("SELECT count(*) FROM shop.effect"), '0', 'and nothing was done');
for (my $offset = 590; $offset <= 590 + 120 + 200 + 100; $offset += 20)
{
	run_all($offset, $offset % 40 == 0 ? 7 : undef);
}
is(sql("SELECT status, count(*) FROM evtstore.sagas GROUP BY 1 ORDER BY 1"), join("\n", 'compensated|' . $N / 2, 'succeeded|' . $N / 2), 'all came to their end');
is(sql("SELECT what, count(*), count(DISTINCT (n, item)) FROM shop.effect GROUP BY 1 ORDER BY 1"),
	join("\n", "book|$N|$N", 'item|' . 3 * $N . '|' . 3 * $N, 'unbook|' . $N / 2 . '|' . $N / 2, 'unitem|' . 3 * $N / 2 . '|' . 3 * $N / 2), 'everything once, and undone once');
is(sql("SELECT count(*) FROM evtstore_internal.message"), '0', 'no timer and no command is left');
is(run_all(100_000), 0, 'and nothing to do');

# --- two at a time, and what somebody has ---

sql(qq{SELECT evtstore.start_saga('order', jsonb_build_object('n', 1000 + n, 'odd', 0, 'wait', 0, 'items', '[]'::jsonb)) FROM generate_series(1, 10) n});
my $first  = session($node);
my $second = session($node);
# who waited for a lock would fail
$_->query_safe("SET evtstore.clock_offset = '2s'; SET lock_timeout = '20s'; SET deadlock_timeout = '100ms'") foreach $first, $second;
$first->query_safe('BEGIN');
is($first->query_safe('SELECT evtstore.run_pending(4)'), '4', 'one takes four');
is($second->query_safe('SELECT evtstore.run_pending()'), '6', 'another one the rest, and does not wait');
is($second->query_safe('SELECT evtstore.run_pending()'), '0', 'nothing is left for a third');
$first->query_safe('ROLLBACK');
is($second->query_safe('SELECT evtstore.run_pending()'), '4', 'what was rolled back is there again, at once');
is(sql("SELECT count(*), count(DISTINCT n) FROM shop.effect WHERE what = 'book' AND n > 1000"), '10|10', 'each once');

my $id = sql("SELECT evtstore.start_saga('order', '{\"n\": 2000, \"odd\": 0, \"wait\": 0, \"items\": []}')");
$first->query_safe('BEGIN');
# to lock it: nobody waits for that signal
$first->query_safe("SELECT evtstore.signal_saga('$id', 'whatever', '1')");
is($second->query_safe('SELECT evtstore.run_pending()'), '0', 'a saga that somebody has is passed over');
is(sql("SELECT count(*) FROM shop.effect WHERE n = 2000"), '0', 'and nothing happened to it');
$first->query_safe('COMMIT');
poll_until('what came for it comes again', sub { $second->query_safe('SELECT evtstore.run_pending()') == 1 });
is(sql("SELECT count(*) FROM shop.effect WHERE n = 2000"), '1', 'then it goes on');
$_->quit foreach $first, $second;

# --- those that sleep cost nothing ---

sql(q{SELECT evtstore.define_saga('sleep', '{"StartAt": "S", "Saga": {"Events": false}, "States": {"S": {"Type": "Wait", "Seconds": 864000, "Next": "T"}, "T": {"Type": "Succeed"}}}')});
sql("SELECT count(evtstore.start_saga('sleep')) FROM generate_series(1, $SLEEPER / 10)") foreach 1 .. 10;
is(sql("SELECT count(*) FROM evtstore_internal.message WHERE deliver_at > now()") >= $SLEEPER, 1, 'so many sleep');

# rows of ours that n calls read, by index or not
sub rows_read
{
	my $n = shift;
	my $read = q{SELECT (SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE schemaname = 'evtstore_internal' AND relname IN ('message', 'saga', 'saga_step'))
		+ (SELECT sum(seq_tup_read) FROM pg_stat_all_tables WHERE schemaname = 'evtstore_internal' AND relname IN ('message', 'saga', 'saga_step'));};
	my @lines = split /\n/, sql("SET stats_fetch_consistency = none; SELECT pg_stat_force_next_flush(); $read "
		  . 'SELECT evtstore.run_pending(); ' x $n . "SELECT pg_stat_force_next_flush(); $read");
	my @numbers = grep { /\S/ } @lines;

	is(join(',', @numbers[1 .. $n]), join(',', (0) x $n), "$n calls do nothing");
	return $numbers[-1] - $numbers[0];
}

# the first one of a server reads what there is; nobody need again
run_all(0);
cmp_ok(rows_read(20), '<=', 20, 'they read no sleeping saga');
# one that is due is found among them
sql("SELECT evtstore.start_saga('order', '{\"n\": 3000, \"odd\": 0, \"wait\": 0, \"items\": []}')");
is(run_all(2), 1, 'one that is due is found');
cmp_ok(rows_read(20), '<=', 20, 'and then none is read again');

$node->stop;
done_testing();
