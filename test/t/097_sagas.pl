# Sagas under everything at once: random definitions, started by several clients; workers that answer, fail, nack, reject, are never heard
# of again, answer late, twice or what they did not say at first; operators that cancel and retry; a clock that leaps; while sessions and
# delivery workers are terminated and killed, and the whole server crashes.
#
# Participants write what they did into a table, in the transaction that answers; functions of sql: steps in that of the saga.  So at the end that
# table and the rows of steps say the same: what a succeeded saga did is there once, what one that was compensated did is undone
# once, the last to end first; nothing is undone behind a pivot.  Everything comes to an end when participants no longer fail,
# and leaves no message, no timer and no business key.
#
# EVTSTORE_SECONDS: how long, without start and check; twenty by default.  EVTSTORE_SEED: for the same choices again, as far as
# the scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtClient;
use EvtDisturb;
use EvtTest;
use JSON::PP qw(encode_json);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $PATIENCE    = 180;
my $DEFINITIONS = 14;
my $MAX_OPEN    = 40;
my $dir         = $PostgreSQL::Test::Utils::tmp_check;
my @queues      = qw(steady fickle);

my ($seed, $seconds) = EvtDisturb::choices(20);

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 50', 'deadlock_timeout = 30ms', 'restart_after_crash = on', 'evtstore.delivery_workers = 2',
	'max_worker_processes = 16', 'evtstore.poll_interval = 200ms', '');

sub sql { return $node->safe_psql('postgres', shift) }

# what fickle has given up fails its step
sql(q{SELECT evtstore.create_queue('steady', '{"retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0}}');
	SELECT evtstore.create_queue('fickle', '{"retry": {"max_attempts": 3, "initial": "20ms", "multiplier": 1, "jitter": 0}}')});

# --- participants ---

# weather: when it is calm nobody fails any more.  effect: n is the order; key: of the entry into a state, the same over attempts.
# answer: what the saga said to it; alone: the transaction answered no other saga, so it had the lock.
sql(q{
	CREATE TABLE weather AS SELECT false AS calm;
	CREATE TABLE state (saga text, state text, resource text, class text, undo text, PRIMARY KEY (saga, state));
	CREATE TABLE started (id uuid PRIMARY KEY, name text, business_key text, tenant text, start_key text, UNIQUE (name, tenant, start_key));
	CREATE TABLE effect (n bigserial, key text, saga uuid, state text, way text, undo_key text DEFAULT '', times int DEFAULT 1,
		PRIMARY KEY (key, way, undo_key));
	CREATE TABLE answer (n bigserial, message_id bigint, success boolean, told text, alone boolean);
	CREATE TABLE cancelled (n bigserial, saga uuid, compensate boolean, at timestamptz);

	CREATE FUNCTION bad_luck(share float8) RETURNS boolean LANGUAGE sql AS $$ SELECT NOT calm AND random() < share FROM public.weather $$;
	CREATE FUNCTION note(key text, saga uuid, state text, way text, undo_key text) RETURNS void LANGUAGE sql AS $$
		INSERT INTO public.effect AS e (key, saga, state, way, undo_key) VALUES (key, saga, state, way, undo_key)
			ON CONFLICT ON CONSTRAINT effect_pkey DO UPDATE SET times = e.times + 1 $$;

	CREATE FUNCTION work(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.note('sql ' || (i->>'saga') || '/' || (i->>'state'), (i->>'saga')::uuid, i->>'state', 'do', '');
		IF public.bad_luck(0.12) THEN RAISE division_by_zero; END IF;
		IF public.bad_luck(0.05) THEN RAISE 'a bad day'; END IF;
		RETURN jsonb_build_object('did', i->'state');
	END $$;
	CREATE FUNCTION unwork(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.note(key, (i->'input'->>'saga')::uuid, i->'input'->>'state', 'undo', 'sql')
			FROM (SELECT coalesce((SELECT e.key FROM public.effect e WHERE e.saga = (i->'input'->>'saga')::uuid AND e.state = i->'input'->>'state' AND e.way = 'do'),
				'unknown ' || (i->'input'->>'saga') || '/' || (i->'input'->>'state')) AS key) k;
		IF public.bad_luck(0.15) THEN RAISE 'no way back'; END IF;
		RETURN NULL;
	END $$;

	-- who is told to undo what has not come yet refuses it when it comes
	CREATE FUNCTION take_part(h jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE
		entry text := coalesce(h->>'forward_key', h->>'idempotency_key');
		id uuid := (h->>'saga_id')::uuid;
	BEGIN
		PERFORM pg_advisory_xact_lock(hashtextextended(entry, 0));
		IF (h->>'undo')::boolean THEN
			PERFORM public.note(entry, id, h->>'state', 'undo', h->>'idempotency_key');
			RETURN true;
		END IF;
		IF EXISTS (SELECT FROM public.effect e WHERE e.saga = id AND e.state = h->>'state' AND e.way = 'undo') THEN
			RETURN false;
		END IF;
		PERFORM public.note(entry, id, h->>'state', 'do', '');
		RETURN true;
	END $$;
	CREATE FUNCTION respond(receipt text, id bigint, h jsonb, how text, alone boolean) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		told text;
	BEGIN
		IF how = 'success' AND NOT public.take_part(h) THEN
			how := 'final';
		END IF;
		told := CASE how WHEN 'success' THEN evtstore.reply(receipt, jsonb_build_object('did', h->'state'))
			WHEN 'fail' THEN evtstore.fail(receipt, 'Busy', 'a bad day')
			WHEN 'later' THEN evtstore.fail(receipt, 'Busy', retry_after => '1s')
			WHEN 'final' THEN evtstore.fail(receipt, 'Broken', 'for good', retryable => false) END;
		INSERT INTO public.answer (message_id, success, told, alone) VALUES (id, how = 'success', told, alone);
		RETURN told;
	END $$;
	CREATE FUNCTION cancel(id uuid, compensate boolean) RETURNS void LANGUAGE sql AS $$
		SELECT evtstore.cancel_saga(id, compensate);
		INSERT INTO public.cancelled (saga, compensate, at) VALUES (id, compensate, clock_timestamp()) $$});

# --- definitions ---

sub one_of { return $_[ rand @_ ] }

# a Task; in compensatable ones and pivots failures may be caught, and the saga goes on
sub task
{
	my ($name, $class, $next) = @_;
	my $on_queue = rand() < 0.65;
	my $undo     = $class eq 'compensatable' ? one_of('sql:public.unwork', 'queue:' . one_of(@queues), 'queue:' . one_of(@queues), 'none') : undef;
	my %saga     = (Class => $class);
	my %task     = (
		Type       => 'Task',
		Resource   => $on_queue ? 'queue:' . one_of(@queues) : 'sql:public.work',
		Parameters => { 'saga.$' => '$$.Execution.Id', state => $name },
		ResultPath => one_of(undef, '$.' . $name),
		Saga       => \%saga);

	$task{TimeoutSeconds} = 1 + int rand 4 if $on_queue;
	$task{Retry} = [ { ErrorEquals => [ one_of('States.ALL', 'Busy', 'States.Timeout', 'division_by_zero') ], IntervalSeconds => 1, MaxAttempts => 1 + int rand 2 } ]
	  if rand() < ($class eq 'compensatable' ? 0.4 : 0.7);
	$task{Catch} = [ { ErrorEquals => [ one_of('States.ALL', 'Broken', 'States.Timeout') ], ResultPath => '$.error', Next => $next } ]
	  if defined $next && $class eq 'compensatable' && rand() < 0.2;
	if (defined $undo)
	{
		$saga{Undo} = $undo;
		if ($undo ne 'none')
		{
			$saga{UndoTimeoutSeconds} = 1 + int rand 3 if $undo =~ /queue/;
			$saga{UndoRetry}   = [ { ErrorEquals => ['States.ALL'], IntervalSeconds => 1, MaxAttempts => int rand 3 } ] if rand() < 0.6;
			$saga{UndoUnknown} = JSON::PP::false if rand() < 0.15;
		}
	}
	return \%task;
}

# side by side; what fails in one ends the other
sub parallel
{
	my (%tasks) = @_;

	foreach my $task (values %tasks)
	{
		delete $task->{Catch};
		$task->{End} = JSON::PP::true;
	}
	return { Type => 'Parallel', ResultPath => undef, Branches => [ map { { StartAt => $_, States => { $_ => $tasks{$_} } } } sort keys %tasks ] };
}

sub define
{
	my $number = shift;
	my $n      = 2 + int rand 5;
	my $pivot  = rand() < 0.75 ? int rand $n : $n;
	my (%states, @fill);
	my $last = $pivot == $n && rand() < 0.25 ? 'Lost' : 'Won';

	foreach my $i (reverse 0 .. $n - 1)
	{
		my $next = $i == $n - 1 ? $last : "S" . ($i + 1);
		my $class = $i < $pivot ? 'compensatable' : $i == $pivot ? 'pivot' : 'retriable';

		# a Wait or a Choice in between; what a Choice leaves out is not the pivot
		my $way = rand;
		if ($way < 0.15)
		{
			$states{"W$i"} = { Type => 'Wait', Seconds => int rand 3, Next => $next };
			$next = "W$i";
		}
		elsif ($way < 0.3 && $i < $n - 2 && $i + 1 != $pivot)
		{
			$states{"C$i"} = { Type => 'Choice', Choices => [ { Variable => '$.luck', NumericGreaterThan => 0.5, Next => $next } ], Default => 'S' . ($i + 2) };
			$next = "C$i";
		}
		my %tasks = map { $_ => task($_, $class, $next) } $class eq 'compensatable' && rand() < 0.25 ? ("S${i}A", "S${i}B") : "S$i";
		push @fill, map { "('d$number', '$_', '$tasks{$_}{Resource}', '$class', '" . ($tasks{$_}{Saga}{Undo} // 'none') . q{')} } sort keys %tasks;
		$states{"S$i"} = $tasks{"S$i"} // parallel(%tasks);
		$states{"S$i"}{Next} = $next;
	}
	$states{$last} = $last eq 'Won' ? { Type => 'Succeed' } : { Type => 'Fail', Error => 'Lost' };
	my %saga = (
		OnFail           => rand() < 0.1 ? 'stop'     : 'compensate',
		OnCompensateFail => rand() < 0.1 ? 'continue' : 'stuck');
	my %definition = (StartAt => 'S0', States => \%states, Saga => \%saga);
	$definition{TimeoutSeconds} = 5 + int rand 10 if rand() < 0.2;
	push @fill, "('d$number', '', '$saga{OnFail}', '$saga{OnCompensateFail}', '')";
	my $json = JSON::PP->new->canonical->encode(\%definition) =~ s/'/''/gr;
	sql("SELECT evtstore.define_saga('d$number', '$json'); INSERT INTO state VALUES " . join ', ', @fill);
	return;
}

define($_) foreach 1 .. $DEFINITIONS;

# --- what goes wrong ---

my $disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	clients => [ 'saga starter', 'saga worker', 'saga operator' ],
	ways    => { leap => sub { return leap(1 + int rand 3) } },
	every => { terminate => 0.9, kill => 6, crash => 7, worker => 6, end => 3, leap => 3 });

my $ahead = 0;

# seconds; for workers and sessions alike
sub leap
{
	$ahead += shift;
	$node->append_conf('postgresql.conf', "evtstore.clock_offset = '${ahead}s'\n");
	return defined $disturb->ask('SELECT pg_reload_conf()');
}

# --- who works ---

sub run_starter
{
	my $number = shift;
	my $client = EvtClient->new($node, 'saga starter');

	srand $seed * 100 + $number;
	until ($disturb->is_over)
	{
		my $open = $client->do('SELECT count(*) FROM evtstore_internal.saga WHERE ended_at IS NULL') // next;
		if ($open->[0][0] >= $MAX_OPEN)
		{
			# sleep: until others have ended
			select undef, undef, undef, 0.05;
			next;
		}
		next unless $client->do('BEGIN' . (rand() < 0.2 ? ' ISOLATION LEVEL REPEATABLE READ' : ''));
		my $alive = 1;
		foreach (1 .. 1 + int rand 3)
		{
			my $name   = 'd' . (1 + int rand $DEFINITIONS);
			my $tenant = rand() < 0.2 ? 'acme' : '';
			my $key    = rand() < 0.3 ? q{'} . $number . int(rand 4) . q{'} : 'NULL';
			# the same one again, now and then
			my $once  = rand() < 0.2 ? sprintf q{'%d-%d'}, $number, rand 1000 : 'NULL';
			my $at    = rand() < 0.1 ? q{clock_timestamp() + '} . int(rand 2000) . q{ms'} : 'NULL';
			my $input = encode_json({ luck => rand });

			$alive &&= $client->do("SET LOCAL evtstore.tenant = '$tenant'");
			$alive &&= $client->do("INSERT INTO started SELECT id, '$name', $key, '$tenant', $once
				FROM evtstore.start_saga('$name', '$input', $key, $once, start_at => $at) id ON CONFLICT (id) DO NOTHING", 23505 => 1);
			last unless $alive;
		}
		$client->do(rand() < 0.1 ? 'ROLLBACK' : 'COMMIT') if $alive;
	}
	return;
}

sub respond
{
	my ($client, $command, $how, $alone) = @_;
	my ($receipt, $id, $headers) = @$command;

	return $client->do("SELECT respond('$receipt', $id, '$headers', '$how', $alone)");
}

# answers of one transaction
sub answer
{
	my ($client, $calm, @pairs) = @_;
	my $alone = @pairs > 1 ? 'false' : 'true';

	$client->do('BEGIN') // return;
	foreach my $pair (@pairs)
	{
		my ($command, $how) = @$pair;
		respond($client, $command, $how, $alone) // return;
		# the same once more
		respond($client, $command, $how, $alone) // return if !$calm && rand() < 0.05;
	}
	$client->do(!$calm && rand() < 0.1 ? 'ROLLBACK' : 'COMMIT') // return;
	return 1;
}

sub run_worker
{
	my $number = shift;
	my $client = EvtClient->new($node, 'saga worker');
	my @later;    # what is answered at another time

	srand $seed * 1000 + $number;
	until (-e "$dir/stop")
	{
		my $calm  = -e "$dir/calm";
		my $queue = one_of(@queues);
		my $lease = $calm ? '60s' : one_of(qw(300ms 1s 5s));
		my $rows  = $client->do("SELECT receipt, message_id, replace(headers::text, '''', '''''') FROM evtstore.receive('$queue', 'w$number', " . (1 + int rand 4) . ", '$lease')") // next;
		my @now;

		foreach my $command (@$rows)
		{
			my $way = $calm ? 1 : rand;
			my ($receipt) = @$command;

			if ($way < 0.05)    { }                                                  # not heard of again
			elsif ($way < 0.15) { push @later, [ time + rand 4, $command ] }
			elsif ($way < 0.20) { $client->do("SELECT evtstore.nack('$receipt', 'not now', '0')", ST007 => 1) }
			elsif ($way < 0.22) { $client->do("SELECT evtstore.reject('$receipt', 'never')", ST007 => 1) }
			elsif ($way < 0.23) { $client->do("SELECT evtstore.ack('$receipt')", ST007 => 1, 22023 => 1) }
			else                { push @now, [ $command, $way < 0.36 ? one_of(qw(fail fail later final)) : 'success' ] }
		}
		# several sagas in one transaction, or one by one
		foreach my $pairs (rand() < 0.3 ? \@now : map { [$_] } @now)
		{
			next unless @$pairs;
			my $done = answer($client, $calm, @$pairs);
			# again, and not always what was said at first
			push @later, map { [ time + rand 3, $_->[0] ] } grep { rand() < 0.1 } @$pairs if $done && !$calm;
		}
		my @due = grep { $calm || $_->[0] <= time } @later;
		@later = grep { my $l = $_; !grep { $_ == $l } @due } @later;
		answer($client, $calm, [ $_->[1], rand() < 0.75 ? 'success' : 'final' ]) foreach @due;
		# sleep: until there may be something
		select undef, undef, undef, 0.03 unless @$rows;
	}
	return;
}

sub run_operator
{
	my $client = EvtClient->new($node, 'saga operator');
	my %no     = (55000 => 1, ST008 => 1);

	srand $seed * 10000;
	until ($disturb->is_over)
	{
		my $rows = $client->do('SELECT id, status FROM evtstore.sagas WHERE ended_at IS NULL ORDER BY random() LIMIT 1') // next;
		foreach my $row (@$rows)
		{
			my ($id, $status) = @$row;
			if    ($status eq 'stuck' && rand() < 0.7) { $client->do("SELECT evtstore.retry_saga('$id')", %no) }
			elsif (rand() < 0.3)                      { $client->do("SELECT cancel('$id', " . (rand() < 0.75 ? 'true' : 'false') . ')', %no) }
		}
		# sleep: operators are slow
		select undef, undef, undef, 0.1;
	}
	return;
}

start_child("starter $_", do { my $n = $_; sub { run_starter($n) } }) foreach 1 .. 3;
start_child("worker $_",  do { my $n = $_; sub { run_worker($n) } }) foreach 1 .. 4;
start_child('operator', \&run_operator);
$disturb->run;
is(finish_children('starter',  $PATIENCE), '', 'all starters came to their end');
is(finish_children('operator', $PATIENCE), '', 'so did the operator');

# --- everything comes to rest ---

my $storm = $disturb->ask(q{SELECT count(*) || ' (' || count(*) FILTER (WHERE status = 'stuck') || ' stuck)' FROM evtstore.sagas WHERE ended_at IS NULL}) // '?';
poll_until('the weather', sub { $disturb->ask('UPDATE weather SET calm = true RETURNING true') });
append_to_file("$dir/calm", '');

# what nothing will wake: it waits for no message, no timer, no person
my $FORGOTTEN = q{SELECT string_agg(format('%s %s %s', s.id, s.name, s.status), ', ') FROM evtstore.sagas s
	WHERE s.status IN ('running', 'compensating') AND NOT EXISTS (SELECT FROM evtstore_internal.message m
		WHERE m.event_id = s.id OR m.body->>'saga' = s.id::text)};
my $forgotten = '';
my %refused;
my $rest = eval {
	poll_until(
		'all sagas',
		sub {
			# one by one: none of them hides another
			foreach my $id (split /\n/, sql(q{SELECT id FROM evtstore.stuck_sagas}))
			{
				my ($out, $err) = ('', '');
				$node->psql('postgres', "SELECT evtstore.retry_saga('$id')", stdout => \$out, stderr => \$err);
				$refused{$err =~ s/\n.*//sr} = $id if $err ne '' && $err !~ /is not stuck/;
			}
			return 1 if sql('SELECT NOT EXISTS (SELECT FROM evtstore.sagas WHERE ended_at IS NULL) AND NOT EXISTS (SELECT FROM evtstore_internal.message)') eq 't';
			$forgotten = sql($FORGOTTEN);
			return 1 if $forgotten ne '';
			leap(5) if sql(q{SELECT NOT EXISTS (SELECT FROM evtstore_internal.in_flight()) AND coalesce(sum(ready), 0) = 0 FROM evtstore.queue_status}) eq 't';
			return 0;
		},
		$PATIENCE);
	1;
};
ok($rest, 'every saga came to its end');
is(join("\n", map { "$refused{$_}: $_" } sort keys %refused), '', 'what was stuck could be tried again');
is($forgotten, '', 'none is left that nothing will wake');
append_to_file("$dir/stop", '');
is(finish_children('worker', $PATIENCE), '', 'all workers came to their end');

# --- what is true of it ---

my %faults = (
	'every start is there, and nothing else' => q{SELECT id FROM started FULL JOIN evtstore_internal.saga USING (id) WHERE started.id IS NULL OR saga.id IS NULL},
	'all have ended, and say when' => q{SELECT id, status, ended_at FROM evtstore.sagas WHERE status IN ('running', 'compensating', 'stuck') OR ended_at IS NULL},
	'what is done has its effect' => q{SELECT * FROM step WHERE kind = 'task' AND status = 'done'
		AND NOT EXISTS (SELECT FROM effect e WHERE (e.saga, e.state, e.way) = (step.saga_id, step.state, 'do'))},
	'what has an effect is known to be done' => q{SELECT * FROM effect e WHERE way = 'do' AND NOT EXISTS (SELECT FROM step WHERE (saga_id, step.state) = (e.saga, e.state)
		AND kind = 'task' AND (status IN ('done', 'undone') OR step.error = 'evtstore.UndoFailed'))},
	'nothing is done twice' => q{SELECT saga_id, state FROM step WHERE kind = 'task' AND status IN ('done', 'undone') GROUP BY 1, 2
		HAVING count(DISTINCT first_seq) > 1 OR count(*) FILTER (WHERE status = 'done') > 1},
	'each entry into a state has one key' => q{SELECT saga, state FROM effect WHERE way = 'do' GROUP BY 1, 2 HAVING count(*) > 1},
	'functions have effect once' => q{SELECT * FROM effect WHERE (key LIKE 'sql %' AND way = 'do' OR undo_key = 'sql') AND times > 1},
	'nothing is undone twice' => q{SELECT saga, state FROM effect WHERE way = 'undo' GROUP BY 1, 2 HAVING count(*) > 1},
	'nothing is undone in a saga that succeeded' => q{SELECT * FROM effect JOIN evtstore.sagas ON id = saga WHERE way = 'undo' AND status = 'succeeded'},
	'what failed is undone' => q{SELECT e.saga, e.state FROM effect e JOIN evtstore.sagas s ON s.id = e.saga JOIN state ON (state.saga, state.state) = (s.name, e.state)
		JOIN state d ON (d.saga, d.state) = (s.name, '')
		WHERE way = 'do' AND s.status IN ('compensated', 'cancelled', 'failed') AND state.undo <> 'none' AND (s.status <> 'failed' OR d.resource <> 'stop')
			AND NOT EXISTS (SELECT FROM cancelled c WHERE c.saga = e.saga AND NOT c.compensate)
			AND NOT EXISTS (SELECT FROM effect u WHERE (u.saga, u.state, u.way) = (e.saga, e.state, 'undo'))
			AND NOT EXISTS (SELECT FROM step WHERE (saga_id, step.state) = (e.saga, e.state) AND step.error = 'evtstore.UndoFailed')},
	'what is undone says so' => q{SELECT e.* FROM effect e WHERE way = 'undo' AND NOT EXISTS (SELECT FROM step WHERE (saga_id, step.state) = (e.saga, e.state)
		AND (status = 'undone' OR step.error = 'evtstore.UndoFailed'))
		AND NOT EXISTS (SELECT FROM cancelled c WHERE c.saga = e.saga AND NOT c.compensate)},
	'nothing is undone where a failure stops' => q{SELECT e.* FROM effect e JOIN evtstore.sagas s ON s.id = e.saga JOIN state d ON (d.saga, d.state) = (s.name, '')
		WHERE way = 'undo' AND d.resource = 'stop' AND NOT EXISTS (SELECT FROM cancelled c WHERE c.saga = e.saga)},
	# whose participant did not say first that it had failed, nor the queue for him
	'nothing is undone where a pivot is done' => q{SELECT u.saga_id, u.state FROM step u JOIN pivot p USING (saga_id) WHERE u.kind = 'undo' AND NOT p.was_failed},
	'nothing begins to be undone when somebody cancelled without' => q{SELECT c.saga, u.state FROM cancelled c JOIN step u ON u.saga_id = c.saga
		WHERE NOT c.compensate AND u.kind = 'undo' AND u.started_at > c.at},
	# x was to be undone after y, but for a y that was known to be done only when the undo of x had begun, or whose undo was given up
	# and succeeded after all
	'what ended last is undone first' => q{SELECT x.saga_id, x.state AS first, y.state AS and_then FROM undone x JOIN undone y ON y.saga_id = x.saga_id
		WHERE x.ended < y.ended AND x.undo_began > y.ended_at AND (x.undo_ended < y.undo_ended OR x.n < y.n) AND y.error IS DISTINCT FROM 'evtstore.UndoFailed'},
	'no step of an ended saga waits' => q{SELECT * FROM step JOIN evtstore.sagas ON sagas.id = saga_id WHERE sagas.ended_at IS NOT NULL AND step.status = 'waiting'},
	'its last event says how it ended' => q{SELECT s.id, s.status, e.data->>'status' AS said, e.type FROM evtstore.sagas s LEFT JOIN LATERAL (
		SELECT data, type FROM evtstore.events WHERE stream = 'saga-' || s.id AND tenant = s.tenant ORDER BY version DESC LIMIT 1) e ON true
		WHERE e.data->>'status' IS DISTINCT FROM s.status},
	'the last event that is no mere move is of its type' => q{SELECT s.id, s.status, e.type FROM evtstore.sagas s LEFT JOIN LATERAL (
		SELECT type FROM evtstore.events WHERE stream = 'saga-' || s.id AND tenant = s.tenant AND type <> 'SagaMoved' ORDER BY version DESC LIMIT 1) e ON true
		WHERE s.ended_at IS NOT NULL AND e.type <> 'Saga' || initcap(s.status)},
	'its events tell what became of each step' => q{SELECT t.saga_id, t.seq, t.status, e.status AS said FROM step t LEFT JOIN (
		SELECT DISTINCT ON (stream, seq) stream, (p->>'seq')::int AS seq, p->>'status' AS status FROM evtstore.events e, jsonb_array_elements(e.data->'steps') p
		WHERE category = 'saga' ORDER BY stream, seq, version DESC) e ON (e.stream, e.seq) = ('saga-' || t.saga_id, t.seq)
		WHERE e.status IS DISTINCT FROM t.status},
	'keys of ended sagas are free' => q{SELECT k.* FROM evtstore_internal.saga_key k JOIN evtstore.sagas ON id = saga_id WHERE kind = 'business' AND ended_at IS NOT NULL},
	'one saga for each start key' => q{SELECT name, tenant, start_key FROM started WHERE start_key IS NOT NULL GROUP BY 1, 2, 3 HAVING count(*) > 1},
	'no message and no timer is left' => q{SELECT m.id, d.name FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id},
	# an answer that was left for a busy saga may be worth less when it is brought
	'accepted answers are in their steps' => q{SELECT a.*, t.status FROM answer a LEFT JOIN step t USING (message_id) WHERE told = 'accepted'
		AND NOT coalesce(CASE WHEN success THEN t.status IN ('done', 'undone') ELSE t.status IN ('failed', 'done', 'undone') END OR t.error = 'evtstore.UndoFailed', false)
		AND (alone OR NOT EXISTS (SELECT FROM evtstore_internal.saga_answer r WHERE (r.saga_id, r.seq) = (t.saga_id, t.seq)))},
	'answers that changed nothing are written down' => q{SELECT t.saga_id, t.seq, a.* FROM (SELECT message_id, count(*) AS n FROM answer WHERE told IN ('late', 'duplicate') AND alone GROUP BY 1) a
		LEFT JOIN step t USING (message_id) WHERE n > (SELECT count(*) FROM evtstore_internal.saga_answer r WHERE (r.saga_id, r.seq) = (t.saga_id, t.seq))},
);
sql(q{CREATE VIEW step AS SELECT t.*, s.definition_id FROM evtstore_internal.saga_step t JOIN evtstore_internal.saga s ON s.id = saga_id;
	CREATE VIEW undone AS SELECT t.saga_id, t.state, t.ended, t.ended_at, t.error, u.ended AS undo_ended, b.started_at AS undo_began, e.n
		FROM step t JOIN step u ON u.saga_id = t.saga_id AND u.undoes = t.seq AND u.status = 'done'
		JOIN step b ON b.saga_id = t.saga_id AND b.seq = u.first_seq
		JOIN effect e ON (e.saga, e.state, e.way) = (t.saga_id, t.state, 'undo')
		WHERE t.status = 'undone';
	CREATE VIEW pivot AS SELECT t.saga_id, t.ended_at, EXISTS (SELECT FROM evtstore.events e, jsonb_array_elements(e.data->'steps') p
			WHERE e.stream = 'saga-' || t.saga_id AND p->>'state' = t.state AND p->>'status' = 'failed') AS was_failed
		FROM step t JOIN evtstore.sagas s ON s.id = t.saga_id JOIN state d ON (d.saga, d.state) = (s.name, t.state)
		WHERE t.kind = 'task' AND t.status = 'done' AND d.class = 'pivot'});
foreach my $what (sort keys %faults)
{
	is(sql("SELECT count(*) || coalesce(': ' || left(string_agg(f::text, E'\\n'), 2000), '') FROM (SELECT * FROM ($faults{$what}) f LIMIT 8) f"), 0, $what);
}
is(sql(q{SELECT count(evtstore.start_saga(name, '{"luck": 0.1}', business_key, start_at => 'infinity')) FROM (SELECT DISTINCT name, business_key FROM started WHERE business_key IS NOT NULL) k}),
	sql('SELECT count(DISTINCT (name, business_key)) FROM started WHERE business_key IS NOT NULL'), 'all business keys can be used again');

# --- was it worth it? ---

my $count = sql(q{SELECT count(*) FROM started});
diag "$count sagas: ", sql(q{SELECT string_agg(status || ' ' || n, ', ') FROM (SELECT status, count(*) AS n FROM evtstore.sagas WHERE id IN (SELECT id FROM started) GROUP BY 1) s}), "; open when the storm was over: $storm";
diag 'answers: ', sql(q{SELECT string_agg(format('%s %s%s', told, n, CASE WHEN NOT alone THEN ' with others' END), ', ') FROM (SELECT told, alone, count(*) AS n FROM answer GROUP BY 1, 2) s}),
  '; steps: ', sql(q{SELECT string_agg(format('%s %s %s', kind, status, n), ', ') FROM (SELECT kind, status, count(*) AS n FROM step GROUP BY 1, 2 ORDER BY 1, 2) s});
diag 'pivots done that had been said to have failed, and what came before them undone: ', sql(q{SELECT count(DISTINCT saga_id) FROM pivot JOIN undone USING (saga_id)});
diag $disturb->summary;
$disturb->check;
foreach my $status (qw(succeeded compensated failed cancelled))
{
	cmp_ok(sql("SELECT count(*) FROM evtstore.sagas WHERE status = '$status'"), '>', 0, "some are $status");
}
foreach my $told (qw(late duplicate))
{
	cmp_ok(sql("SELECT count(*) FROM answer WHERE told = '$told'"), '>', 0, "some answers are $told");
}
done_testing();
