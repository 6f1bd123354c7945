=head1 NAME

EvtSagaActors - who works on sagas in 097_sagas.pl: participants, those who start, answer, signal, operate and run what is pending

=head1 SYNOPSIS

	use EvtSagaActors;

	$node->safe_psql('postgres', EvtSagaActors::participants());
	my $actors = EvtSagaActors->new(node => $node, disturb => $disturb, seed => $seed, gen => $gen, names => [ 'd1', 'd2' ], queues => [ 'steady', 'fickle' ],
		folder => $dir, max_open => 40);

	# each in a process of its own; they end when the disturbance is over, workers when the folder has a file "stop"
	start_child('starter 1', sub { $actors->start_sagas(1) });
	start_child('worker 1',  sub { $actors->work(1) });
	start_child('signaller', sub { $actors->signal(1) });
	start_child('operator',  sub { $actors->operate(1) });
	start_child('runner',    sub { $actors->run(1) });

With a file "calm" in the folder, and calm in table weather, nobody fails any more.

Participants write what they did into a table, in the transaction that answers; functions of sql: steps in that of the saga.  A person who says that a step was
done, or undone, has seen to it.  So what the table has, and what the rows of steps say, is the same.

=cut

package EvtSagaActors;

use strict;
use warnings;

use EvtClient;
use JSON::PP ();
use Time::HiRes qw(time);

my $json = JSON::PP->new->canonical;
my %gone = (55000 => 1, ST008 => 1);

sub new
{
	my ($class, %option) = @_;
	return bless {%option}, $class;
}

sub one_of { return $_[ rand @_ ] }

# sleep: until there may be something to do
sub rest { return select undef, undef, undef, shift }

sub is_calm { return -e "$_[0]{folder}/calm" }

sub client
{
	my ($self, $name, $salt) = @_;
	srand $self->{seed} * 10000 + $salt;
	return EvtClient->new($self->{node}, "saga $name");
}

#
# effect: what was done and undone.  n is the order; key: of the entry into a state, the same over attempts; saga, state and path: of the entry as well.
# answer: what the saga said to it; alone: the transaction answered no other saga, so it had the lock.
#
my $TABLES = q{
	CREATE TABLE weather AS SELECT false AS calm;
	CREATE TABLE state (saga text, state text, resource text, class text, undo text, scope text, lock text, answers text, PRIMARY KEY (saga, state));
	CREATE TABLE started (id uuid PRIMARY KEY, name text, business_key text, tenant text, start_key text, UNIQUE (name, tenant, start_key));
	CREATE TABLE effect (n bigserial, key text, saga uuid, state text, path text, way text, undo_key text DEFAULT '', times int DEFAULT 1,
		PRIMARY KEY (key, way, undo_key));
	CREATE INDEX ON effect (saga, state, path);
	CREATE TABLE answer (n bigserial, message_id bigint, success boolean, told text, alone boolean);
	CREATE TABLE cancelled (n bigserial, saga uuid, compensate boolean, at timestamptz);
	CREATE TABLE signalled (n bigint PRIMARY KEY, saga uuid, name text, dedup_id text);
	CREATE TABLE unlocked (saga uuid, state text, path text);
	CREATE TABLE operated (n bigserial, saga uuid, verb text, state text);
};

# functions, and what participants do with a command
my $WORK = q{
	CREATE FUNCTION bad_luck(share float8) RETURNS boolean LANGUAGE sql AS $$ SELECT NOT calm AND random() < share FROM public.weather $$;
	-- of many items each is a little more reliable
	CREATE FUNCTION share_at(path text, share float8) RETURNS float8 LANGUAGE sql AS $$
		SELECT share / (1 + 2 * (length(path) - length(replace(path, '/', '')))) $$;
	CREATE FUNCTION path_of(input jsonb) RETURNS text LANGUAGE sql AS $$
		SELECT coalesce(input->>'path', input->'data'->>'path', input->'input'->>'path', input->'input'->'data'->>'path') $$;
	CREATE FUNCTION alone_at(saga uuid, state text, path text) RETURNS void LANGUAGE sql AS $$
		SELECT pg_advisory_xact_lock(hashtextextended(saga || '/' || state || path, 0)) $$;
	CREATE FUNCTION note(key text, saga uuid, state text, path text, way text, undo_key text) RETURNS void LANGUAGE sql AS $$
		INSERT INTO public.effect AS e (key, saga, state, path, way, undo_key) VALUES (key, saga, state, path, way, undo_key)
			ON CONFLICT ON CONSTRAINT effect_pkey DO UPDATE SET times = e.times + 1 $$;
	-- whose step waits for that message, or is at work, and does not have its lock
	CREATE FUNCTION note_lock(id uuid, s text, p text, message bigint) RETURNS void LANGUAGE sql AS $$
		INSERT INTO public.unlocked SELECT g.id, s, p FROM evtstore_internal.saga g JOIN evtstore_internal.definition d ON d.id = g.definition_id
			JOIN public.state f ON (f.saga, f.state) = (d.name, s) WHERE g.id = note_lock.id AND f.lock <> ''
			AND (message IS NULL OR EXISTS (SELECT FROM evtstore_internal.saga_step t WHERE t.message_id = message AND t.status = 'waiting' AND t.kind = 'task'))
			AND NOT EXISTS (SELECT FROM evtstore_internal.saga_lock l WHERE l.saga_id = note_lock.id AND l.resource = f.lock AND l.held_since IS NOT NULL) $$;
	CREATE FUNCTION is_undone(id uuid, s text, p text) RETURNS boolean LANGUAGE sql AS $$
		SELECT EXISTS (SELECT FROM public.effect e WHERE (e.saga, e.state, e.path) = (id, s, p) AND e.way = 'undo') $$;

	CREATE FUNCTION work(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.note('sql ' || (i->>'saga') || '/' || (i->>'state') || (i->>'path'), (i->>'saga')::uuid, i->>'state', i->>'path', 'do', '');
		PERFORM public.note_lock((i->>'saga')::uuid, i->>'state', i->>'path', NULL);
		IF public.bad_luck(public.share_at(i->>'path', 0.12)) THEN RAISE division_by_zero; END IF;
		IF public.bad_luck(public.share_at(i->>'path', 0.05)) THEN RAISE 'a bad day'; END IF;
		RETURN jsonb_build_object('did', i->'state');
	END $$;
	CREATE FUNCTION unwork(i jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
	DECLARE
		id uuid := i->'input'->>'saga';
		name text := i->'input'->>'state';
		at text := i->'input'->>'path';
		entry text;
	BEGIN
		PERFORM public.alone_at(id, name, at);
		SELECT key INTO entry FROM public.effect e WHERE (e.saga, e.state, e.path, e.way) = (id, name, at, 'do');
		PERFORM public.note(coalesce(entry, format('unknown %s/%s%s', id, name, at)), id, name, at, 'undo', 'sql');
		IF public.bad_luck(public.share_at(at, 0.15)) THEN RAISE 'no way back'; END IF;
		RETURN NULL;
	END $$;

	-- who is told to undo what has not come yet refuses it when it comes
	CREATE FUNCTION take_part(h jsonb, body jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
	DECLARE
		entry text := coalesce(h->>'forward_key', h->>'idempotency_key');
		id uuid := h->>'saga_id';
		name text := h->>'state';
		at text := public.path_of(body);
	BEGIN
		PERFORM public.alone_at(id, name, at);
		IF (h->>'undo')::boolean THEN
			-- or finds that a person has been there
			IF NOT EXISTS (SELECT FROM public.effect e WHERE (e.saga, e.state, e.path, e.undo_key) = (id, name, at, 'person')) THEN
				PERFORM public.note(entry, id, name, at, 'undo', h->>'idempotency_key');
			END IF;
			RETURN true;
		END IF;
		IF public.is_undone(id, name, at) THEN
			RETURN false;
		END IF;
		PERFORM public.note(entry, id, name, at, 'do', '');
		RETURN true;
	END $$;
	CREATE FUNCTION respond(receipt text, id bigint, h jsonb, body jsonb, how text, alone boolean) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE
		told text;
	BEGIN
		PERFORM public.note_lock((h->>'saga_id')::uuid, h->>'state', public.path_of(body), id);
		IF how = 'success' AND NOT public.take_part(h, body) THEN
			how := 'final';
		END IF;
		told := CASE how WHEN 'success' THEN evtstore.reply(receipt, jsonb_build_object('did', h->'state'))
			WHEN 'fail' THEN evtstore.fail(receipt, 'Busy', 'a bad day')
			WHEN 'later' THEN evtstore.fail(receipt, 'Busy', retry_after => '1s')
			WHEN 'final' THEN evtstore.fail(receipt, 'Broken', 'for good', retryable => false) END;
		INSERT INTO public.answer (message_id, success, told, alone) VALUES (id, how = 'success', told, alone);
		RETURN told;
	END $$;
};

# What people do.  They look at what an instance waits for with its lock, as who says that a step was done, or undone, has to have seen to it.
my $PEOPLE = q{
	CREATE FUNCTION signal(id uuid, number bigint, name text, dedup text) RETURNS void LANGUAGE sql AS $$
		SELECT evtstore.signal_saga(id, name, jsonb_build_object('n', number), dedup);
		INSERT INTO public.signalled VALUES (number, id, name, dedup) $$;
	CREATE FUNCTION cancel(id uuid, compensate boolean) RETURNS void LANGUAGE sql AS $$
		SELECT evtstore.cancel_saga(id, compensate);
		INSERT INTO public.cancelled (saga, compensate, at) VALUES (id, compensate, clock_timestamp()) $$;
	CREATE FUNCTION pause(id uuid) RETURNS void LANGUAGE sql AS $$
		SELECT evtstore.pause_saga(id);
		INSERT INTO public.operated (saga, verb) VALUES (id, 'pause') $$;
	CREATE FUNCTION entry_key(t evtstore_internal.saga_step) RETURNS text LANGUAGE sql AS $$
		SELECT CASE WHEN t.queue_id IS NULL THEN 'sql ' || t.saga_id || '/' || t.state || public.path_of(t.sent) ELSE t.saga_id || '/' || t.first_seq END $$;

	-- the step that skip_step and resolve_step take for that state; none: the saga is elsewhere
	CREATE FUNCTION step_at(s evtstore_internal.saga, name text) RETURNS evtstore_internal.saga_step LANGUAGE plpgsql AS $$
	DECLARE
		t evtstore_internal.saga_step;
		stop evtstore_internal.saga_step;
	BEGIN
		IF s.status = 'running' OR (s.status = 'stuck' AND s.reason IN ('scope_undo_failed', 'failed_after_pivot')) THEN
			SELECT * INTO t FROM evtstore_internal.saga_step w WHERE w.saga_id = s.id AND w.status = 'waiting' AND w.state = name AND w.kind IN ('task', 'signal', 'wait', 'child')
				ORDER BY w.seq DESC LIMIT 1;
		END IF;
		IF t.seq IS NULL AND s.status = 'stuck' THEN
			SELECT * INTO stop FROM evtstore_internal.saga_step w WHERE w.saga_id = s.id AND w.kind = 'stop' AND w.status = 'failed' AND w.state = name ORDER BY w.seq DESC LIMIT 1;
			SELECT * INTO t FROM evtstore_internal.saga_step w WHERE w.saga_id = s.id AND w.parent = stop.parent AND w.seq < stop.seq AND w.state = name
				AND w.kind NOT IN ('start', 'undo', 'stop', 'branch') ORDER BY w.seq DESC LIMIT 1;
		END IF;
		RETURN t;
	END $$;
	CREATE FUNCTION put_right(id uuid, verb text, name text) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		s evtstore_internal.saga;
		t evtstore_internal.saga_step;
	BEGIN
		SELECT * INTO s FROM evtstore_internal.saga g WHERE g.id = put_right.id FOR NO KEY UPDATE;
		t := public.step_at(s, name);
		-- who had to have a lock first has begun nothing
		IF verb = 'done' AND t.resource IS NOT NULL AND t.message_id IS NULL THEN RETURN; END IF;
		-- Parallels and Maps are retried; a child that is there says itself what becomes of it; what is told by an event cannot be done by hand
		IF t.seq IS NULL OR t.kind IN ('parallel', 'map') OR (t.kind = 'child' AND verb = 'done') THEN RETURN; END IF;
		IF verb = 'done' AND t.kind = 'task' AND (SELECT resource FROM public.state d JOIN evtstore.sagas g ON g.name = d.saga WHERE g.id = s.id AND d.state = t.state) LIKE 'event:%' THEN
			RETURN;
		END IF;
		IF verb = 'done' AND t.kind = 'task' THEN
			PERFORM public.alone_at(s.id, name, public.path_of(t.sent));
			IF public.is_undone(s.id, name, public.path_of(t.sent)) THEN RETURN; END IF;
			IF NOT EXISTS (SELECT FROM public.effect e WHERE e.key = public.entry_key(t) AND e.way = 'do') THEN
				PERFORM public.note(public.entry_key(t), s.id, name, public.path_of(t.sent), 'do', '');
			END IF;
		END IF;
		IF verb = 'skip' THEN
			PERFORM evtstore.skip_step(s.id, name, '"skipped"');
		ELSE
			PERFORM evtstore.resolve_step(s.id, name, verb, '"resolved"');
		END IF;
		INSERT INTO public.operated (saga, verb, state) VALUES (s.id, verb, name);
	END $$;
	CREATE FUNCTION undo_by_hand(id uuid) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		s evtstore_internal.saga;
		t evtstore_internal.saga_step;
		entry text;
		at text;
	BEGIN
		SELECT * INTO s FROM evtstore_internal.saga g WHERE g.id = undo_by_hand.id FOR NO KEY UPDATE;
		SELECT w.* INTO t FROM evtstore_internal.saga_step w WHERE w.saga_id = s.id AND w.kind = 'task' AND w.status IN ('done', 'unknown') ORDER BY random() LIMIT 1;
		IF t.seq IS NULL OR (SELECT undo IN ('none', 'event:Undid') FROM public.state d JOIN evtstore.sagas g ON g.name = d.saga WHERE g.id = s.id AND d.state = t.state) THEN
			RETURN;
		END IF;
		at := public.path_of(t.sent);
		PERFORM public.alone_at(s.id, t.state, at);
		SELECT e.key INTO entry FROM public.effect e WHERE (e.saga, e.state, e.path, e.way) = (s.id, t.state, at, 'do');
		-- the saga first: it knows whether there is anything to undo
		PERFORM evtstore.mark_undone(s.id, t.seq, 'by hand');
		IF NOT public.is_undone(s.id, t.state, at) THEN
			PERFORM public.note(coalesce(entry, public.entry_key(t)), s.id, t.state, at, 'undo', 'person');
		END IF;
		INSERT INTO public.operated (saga, verb, state) VALUES (s.id, 'undone', t.state);
	END $$;
};

sub participants { return $TABLES . $WORK . $PEOPLE }

# --- who starts them ---

sub start_sagas
{
	my ($self, $number) = @_;
	my $client = $self->client('starter', 100 + $number);

	until ($self->{disturb}->is_over)
	{
		my $open = $client->do('SELECT count(*) FROM evtstore_internal.saga WHERE ended_at IS NULL') // next;
		if ($open->[0][0] >= $self->{max_open})
		{
			rest(0.05);
			next;
		}
		next unless $client->do('BEGIN' . (rand() < 0.2 ? ' ISOLATION LEVEL REPEATABLE READ' : ''));
		my $alive = 1;
		foreach (1 .. 1 + int rand 3)
		{
			$alive &&= $self->start_one($client, $number);
			last unless $alive;
		}
		$client->do(rand() < 0.1 ? 'ROLLBACK' : 'COMMIT') if $alive;
	}
	return;
}

sub start_one
{
	my ($self, $client, $number) = @_;
	my $name   = one_of(@{ $self->{names} });
	my $tenant = rand() < 0.2 ? 'acme' : '';
	my $key    = rand() < 0.3 ? q{'} . $number . int(rand 4) . q{'} : 'NULL';
	# the same one again, now and then
	my $once  = rand() < 0.2 ? sprintf q{'%d-%d'}, $number, rand 1000 : 'NULL';
	my $at    = rand() < 0.1 ? q{clock_timestamp() + '} . int(rand 2000) . q{ms'} : 'NULL';
	my $input = $json->encode($self->{gen}->input);

	return $client->do("SET LOCAL evtstore.tenant = '$tenant'")
	  && $client->do("INSERT INTO started SELECT id, '$name', $key, '$tenant', $once
		FROM evtstore.start_saga('$name', '$input', $key, $once, start_at => $at) id ON CONFLICT (id) DO NOTHING", 23505 => 1);
}

# --- who answers ---

sub work
{
	my ($self, $number) = @_;
	my $client = $self->client('worker', 200 + $number);
	my @later;    # what is answered at another time

	until (-e "$self->{folder}/stop")
	{
		my $calm  = $self->is_calm;
		my $queue = one_of(@{ $self->{queues} });
		my $lease = $calm ? '60s' : one_of(qw(300ms 1s 5s));
		my $rows  = $client->do("SELECT receipt, message_id, replace(headers::text, '''', ''''''), body FROM evtstore.receive('$queue', 'w$number', " . (1 + int rand 8) . ", '$lease')") // next;
		my @now;

		foreach my $command (@$rows)
		{
			my $way = $calm ? 1 : $self->luck_of($command);
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
			my $done = $self->answer($client, @$pairs);
			# again, and not always what was said at first
			push @later, map { [ time + rand 3, $_->[0] ] } grep { rand() < 0.1 } @$pairs if $done && !$calm;
		}
		my @due = grep { $calm || $_->[0] <= time } @later;
		@later = grep { my $l = $_; !grep { $_ == $l } @due } @later;
		$self->answer($client, [ $_->[1], rand() < 0.75 ? 'success' : 'final' ]) foreach @due;
		rest(0.03) unless @$rows;
	}
	return;
}

# of many items each is a little more reliable
sub luck_of
{
	my ($self, $command) = @_;
	my ($path) = $command->[3] =~ /"path": "([^"]*)"/;
	my $depth = ($path // '') =~ tr{/}{};

	return rand() < 1 / (1 + 1.5 * $depth) ? rand : 1;
}

# answers of one transaction
sub answer
{
	my ($self, $client, @pairs) = @_;
	my $alone = @pairs > 1 ? 'false' : 'true';
	my $calm = $self->is_calm;

	$client->do('BEGIN') // return;
	foreach my $pair (@pairs)
	{
		my ($command, $how) = @$pair;
		my ($receipt, $id, $headers, $body) = @$command;
		# the same once more, now and then
		foreach (1 .. 1 + (!$calm && rand() < 0.05))
		{
			$client->do("SELECT respond('$receipt', $id, '$headers', '$body', '$how', $alone)") // return;
		}
	}
	$client->do(!$calm && rand() < 0.1 ? 'ROLLBACK' : 'COMMIT') // return;
	return 1;
}

# --- who signals ---

# each signal has a number that is in its payload; with a dedup_id it may come again
sub signal
{
	my ($self, $number) = @_;
	my $client = $self->client('signaller', 300 + $number);
	my $n = 1_000_000 * $number;

	until ($self->{disturb}->is_over)
	{
		# one that waits for it, or any: then it is early, or in vain
		my $rows = $client->do(rand() < 0.6
			? q{SELECT t.saga_id, substr(d.resource, 8) FROM evtstore_internal.saga_step t JOIN evtstore.sagas s ON s.id = t.saga_id JOIN state d ON (d.saga, d.state) = (s.name, t.state)
				WHERE t.kind = 'signal' AND t.status = 'waiting' AND s.ended_at IS NULL ORDER BY random() LIMIT 1}
			: q{SELECT id, (ARRAY['go', 'stop', 'turn'])[1 + random() * 2] FROM evtstore.sagas WHERE ended_at IS NULL ORDER BY random() LIMIT 1}) // next;
		foreach my $row (@$rows)
		{
			my ($id, $name) = @$row;
			my $dedup = rand() < 0.4 ? "'$n'" : 'NULL';
			foreach (1 .. 1 + ($dedup ne 'NULL'))
			{
				$client->do('BEGIN') // last;
				# two of them: the second one waits for no instance
				my $sent = $client->do("SELECT signal('$id', " . ++$n . ", '$name', $dedup)", %gone);
				$sent &&= $client->do("SELECT signal(id, " . ++$n . ", 'go', NULL) FROM (SELECT id FROM evtstore.sagas WHERE ended_at IS NULL ORDER BY random() LIMIT 1) s", %gone) if rand() < 0.1;
				$client->do(rand() < 0.1 ? 'ROLLBACK' : 'COMMIT') if $sent;
			}
		}
		rest(0.02);
	}
	return;
}

# --- who does what workers would do ---

sub run
{
	my ($self, $number) = @_;
	my $client = $self->client('runner', 500 + $number);

	until ($self->{disturb}->is_over)
	{
		$client->do('SELECT evtstore.run_pending(' . (1 + int rand 10) . ')');
		rest(0.2);
	}
	return;
}

# --- who operates ---

sub operate
{
	my ($self, $number) = @_;
	my $client = $self->client('operator', 400 + $number);

	until ($self->{disturb}->is_over)
	{
		my $rows = $client->do('SELECT s.id, s.status, t.state FROM evtstore.sagas s LEFT JOIN evtstore_internal.saga_step t
			ON t.saga_id = s.id AND (t.status = \'waiting\' AND t.kind IN (\'task\', \'signal\', \'child\') OR t.kind = \'stop\' AND t.status = \'failed\')
			WHERE s.ended_at IS NULL ORDER BY random() LIMIT 1') // next;
		foreach my $row (@$rows)
		{
			my ($id, $status, $state) = @$row;
			my $way = rand;

			if    ($status eq 'paused')              { $client->do("SELECT evtstore.resume_saga('$id')", %gone) if rand() < 0.5; next if $way < 0.8 }
			elsif (rand() < 0.08)                    { $client->do("SELECT pause('$id')", %gone); next }
			if    ($status eq 'stuck' && $way < 0.5) { $client->do("SELECT evtstore.retry_saga('$id')", %gone) }
			elsif ($way < 0.6)                       { $client->do("SELECT cancel('$id', " . (rand() < 0.75 ? 'true' : 'false') . ')', %gone) if rand() < 0.3 }
			elsif ($way < 0.75)                      { $client->do("SELECT undo_by_hand('$id')", %gone) }
			elsif (defined $state)                   { $client->do("SELECT put_right('$id', '" . one_of(qw(skip done done failed)) . "', '$state')", %gone) }
		}
		# operators are slow
		rest(0.1);
	}
	return;
}

1;
