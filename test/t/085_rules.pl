# Rules under everything at once: appenders that roll back, use savepoints and overlap, while sessions and workers are terminated and killed, the
# server crashes, rules are paused, changed and resumed, and a queue that events are meant for is missing for a while.
#
# In the end every event that a rule selects has exactly one message, or one effect of the function, and those of a stream are in order,
# whether the rule is a sync or an async one; what was rolled back has none.  The message is the one that the transform says.
#
# EVTSTORE_SECONDS: how long, without start and check; twenty by default.  EVTSTORE_SEED: for the same choices again, as far as the
# scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtDisturb;
use EvtTest;
use Test::More;

my $PATIENCE = 120;
my ($seed, $seconds) = EvtDisturb::choices(20);

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 40', 'deadlock_timeout = 30ms', 'restart_after_crash = on', 'evtstore.delivery_workers = 3',
	'max_worker_processes = 16', 'evtstore.poll_interval = 200ms', '');

sub sql { return $node->safe_psql('postgres', shift) }

# what a rule selects, and the queues that it sends to
my %rules = (
	'sync'         => { types => [qw(A B)], queues => ['sync'] },
	'async'        => { types => [qw(A B)], queues => ['async'] },
	'sync parts'   => { types => ['C'], queues => [ 'part-0', 'part-1' ] },
	'async parts'  => { types => [qw(A C)], queues => [ 'late-0', 'late-1', 'late-2' ] },
	'shared sync'  => { types => ['A'], queues => ['shared'] },
	'shared async' => { types => ['B'], queues => ['shared'] });

sql(join ';', map { "SELECT evtstore.create_queue('$_')" } qw(sync async part-0 part-1 late-0 late-1 shared));
sql(q{CREATE TABLE noted (n bigserial, rule text, position bigint, stream text, version bigint, PRIMARY KEY (rule, position));
	CREATE FUNCTION note_sync(d evtstore.delivery) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO public.noted (rule, position, stream, version) VALUES ('note sync', d.position, d.stream, d.version) $$;
	CREATE FUNCTION note_async(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.noted (rule, position, stream, version) VALUES ('note async', d.position, d.stream, d.version);
		IF random() < 0.01 THEN RAISE 'a bad moment'; END IF;
	END $$;
	SELECT evtstore.create_rule('sync', '{"types": ["A", "B"]}', 'queue:sync', '{"body": {"v": "${data.v}", "at": "${stream}/${version}"}}');
	SELECT evtstore.create_rule('async', '{"types": ["A", "B"]}', 'queue:async', '{"body": {"v": "${data.v}", "at": "${stream}/${version}"}}', 'async');
	SELECT evtstore.create_rule('sync parts', '{"types": ["C"]}', 'queue:part-${data.p}');
	SELECT evtstore.create_rule('async parts', '{"types": ["A", "C"]}', 'queue:late-${data.l}', mode => 'async');
	SELECT evtstore.create_rule('shared sync', '{"types": ["A"]}', 'queue:shared');
	SELECT evtstore.create_rule('shared async', '{"types": ["B"]}', 'queue:shared', mode => 'async');
	SELECT evtstore.create_rule('note sync', '{"types": ["B"]}', 'sql:public.note_sync');
	SELECT evtstore.create_rule('note async', '{"types": ["B"]}', 'sql:public.note_async', mode => 'async')});
# what fails is tried again until it does not: create_rule has no option for that
sql(q{UPDATE evtstore_internal.definition SET spec = spec || '{"retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0}}'
		WHERE kind = 'rule' AND spec->>'mode' = 'async';
	SELECT evtstore.alter_rule(name, '{}') FROM evtstore.rule_status});

my @asynchronous = ('async', 'async parts', 'shared async', 'note async');
my $disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	clients => ['rule appender'],
	ways    => {
		pause     => sub { return operate(qw(pause resume)) },
		alter     => sub { return defined $disturb::it->ask(q{SELECT evtstore.alter_rule('async', '{"filter": {"types": ["B", "A"]}}')}) },
	},
	every => { terminate => 0.7, kill => 8, crash => 8, worker => 5, end => 2, pause => 1, alter => 1 });
$disturb::it = $disturb;

# each of them on all rules: what was paused before a crash is resumed by the next one
sub operate
{
	my ($first, $second) = @_;
	my $done = 0;

	foreach my $verb ($first, $second)
	{
		$done += defined $disturb->ask("SELECT evtstore.$verb('rule:$_')") foreach @asynchronous;
	}
	return $done;
}

sub run_appender
{
	my $number = shift;
	my $client = EvtClient->new($node, 'rule appender');

	srand $seed * 100 + $number;
	until ($disturb->is_over)
	{
		next unless $client->do('BEGIN');
		my $alive = 1;
		foreach (1 .. 1 + int rand 3)
		{
			my $savepoint = rand() < 0.2;
			my $stream    = 's-' . int rand 12;
			my $events    = join ',',
			  map { sprintf '{"type": "%s", "data": {"v": %d, "p": %d, "l": %d}}', (qw(A B C D))[ rand 4 ], rand 100, rand 2, rand 3 } 1 .. 1 + rand 4;

			$alive &&= $client->do('SAVEPOINT s') if $savepoint;
			$alive &&= $client->do("SELECT * FROM evtstore.append_events('$stream', '[$events]')");
			$alive &&= $client->do('ROLLBACK TO s') if $savepoint && rand() < 0.5;
			# sleep: an appender that takes its time, so that others overtake it
			$alive &&= $client->do('SELECT pg_sleep(' . rand(0.02) . ')') if rand() < 0.2;
			last unless $alive;
		}
		$client->do(rand() < 0.2 ? 'ROLLBACK' : 'COMMIT') if $alive;
	}
	return;
}

start_child("appender $_", do { my $n = $_; sub { run_appender($n) } }) foreach 1 .. 3;
$disturb->run;
is(finish_children('appender', 90), '', 'all appenders came to their end');

# --- what is missing comes ---

poll_until('the server', sub { defined $disturb->ask('SELECT 1') });
cmp_ok(sql(q{SELECT count(*) FROM evtstore.blocked_keys WHERE kind = 'rule' AND name = 'async parts' AND error ~ 'late-2'}), '>', 0, 'events wait for a queue that is not there');
sql(q{SELECT evtstore.create_queue('late-2')});
sql("SELECT evtstore.resume('rule:$_')") foreach @asynchronous;
sql("CALL evtstore.wait_for('rule:$_', evtstore.head_position(), '${PATIENCE}s')") foreach @asynchronous;

# --- every event once, in order ---

my $events = sql('SELECT count(*) FROM evtstore.events');
cmp_ok($events, '>', 100, 'there were events');
sql(q{CREATE VIEW sent AS SELECT m.id, d.name AS queue, m.position, m.stream, m.version, m.key, m.type, m.body
	FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id});

sub faults
{
	my ($effects, $types) = @_;
	my $list = join ', ', map { "'$_'" } @$types;

	return (
		sql(qq{SELECT count(*) FROM (SELECT position FROM evtstore.events WHERE type IN ($list)) e
			FULL JOIN (SELECT position, count(*) AS n FROM $effects x WHERE type IN ($list) GROUP BY position) x USING (position)
			WHERE e.position IS NULL OR x.n IS DISTINCT FROM 1}),
		sql(qq{SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY stream ORDER BY id) AS before FROM $effects x) x WHERE before >= version}));
}

foreach my $rule (sort keys %rules)
{
	my ($types, $queues) = @{ $rules{$rule} }{qw(types queues)};
	my $list = join ', ', map { "'$_'" } @$queues;
	my ($not_once, $unordered) = faults("(SELECT * FROM sent WHERE queue IN ($list))", $types);

	is($not_once, 0, "$rule: each event has one message");
	is(sql(qq{SELECT count(*) FROM sent WHERE queue IN ($list) AND key IS DISTINCT FROM stream}), 0, "$rule: its key is the stream");
	next if $rule =~ /shared/;
	is(sql(qq{SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY queue, stream ORDER BY id) AS before FROM sent WHERE queue IN ($list)) x WHERE before >= version}),
		0, "$rule: in the order of the stream, queue by queue");
}
is(sql(q{SELECT count(*) FROM sent JOIN evtstore.events e USING (position) WHERE queue IN ('sync', 'async')
	AND body IS DISTINCT FROM jsonb_build_object('v', e.data->'v', 'at', e.stream || '/' || e.version)}), 0, 'bodies are what the transform says');
is(sql(q{SELECT count(*) FROM sent JOIN evtstore.events e USING (position) WHERE queue LIKE 'part-%' AND queue <> 'part-' || (e.data->>'p')
	OR queue LIKE 'late-%' AND queue <> 'late-' || (e.data->>'l')}), 0, 'they are in the queues that their events name');
foreach my $rule ('note sync', 'note async')
{
	my ($not_once, $unordered) = faults("(SELECT n AS id, 'B' AS type, position, stream, version FROM noted WHERE rule = '$rule')", ['B']);

	is($not_once, 0, "$rule: the function had each event once");
	is($unordered, 0, "$rule: in the order of the stream");
}
is(sql('SELECT count(*) FROM evtstore.dead_letters'), 0, 'nothing was given up');
diag "$events events; " . $disturb->summary;
$disturb->check;
done_testing();
