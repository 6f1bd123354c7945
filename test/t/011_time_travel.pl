# The past does not change: what position_at, read_stream and state_of said of a moment they say again, whoever is in flight
# then, after a crash, on a standby, after its promotion, after a dump and restore, and after the ledger was trimmed.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{EVTSTORE_SEED} // time ^ $$;
srand $seed;
note "EVTSTORE_SEED=$seed";

my $conf    = "log_statement = none\nevtstore.poll_interval = 200ms\n";
my $primary = new_node('primary', conf => $conf, init => { allows_streaming => 1 });
$primary->safe_psql('postgres', q{
	CREATE TABLE compared (before boolean, after boolean);
	CREATE TABLE asked (n serial PRIMARY KEY, at timestamptz, answer bigint, a jsonb, b jsonb, events text);
	SELECT evtstore.create_reducer('merged', 'evtstore.merge_data', options => '{"snapshot_every": 7}');
	CREATE FUNCTION counted(state jsonb, e evtstore.event) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		RETURN jsonb_build_object('n', (state->>'n')::int + 1, 'last', e.version, 'sum', (state->>'sum')::numeric + (e.data->>'v')::numeric);
	END $$;
	SELECT evtstore.create_reducer('counted', 'public.counted', '{"n": 0, "sum": 0}', '{"snapshot_every": 5}');
	CREATE FUNCTION events_at(stream text, at timestamptz) RETURNS text LANGUAGE sql AS $$
		SELECT string_agg(version || '=' || data, ' ' ORDER BY version) FROM evtstore.read_stream(stream, as_of => at) $$;
	-- folded by hand over the view, up to a position
	CREATE FUNCTION naive(stream_name text, up_to bigint) RETURNS jsonb LANGUAGE plpgsql AS $$
	DECLARE
		e record; state jsonb := '{}'; seen boolean := false;
	BEGIN
		FOR e IN SELECT v.* FROM evtstore.events v WHERE v.stream = stream_name AND v.position <= up_to ORDER BY v.version LOOP
			state := state || e.data;
			seen := true;
		END LOOP;
		RETURN CASE WHEN seen THEN state END;
	END $$;
});
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "primary_conninfo = '" . $primary->connstr . "'\n");
$standby->start;

sub sql { return $primary->safe_psql('postgres', shift) }

# what is wrong with the answers of a node
sub changed
{
	my ($node, $database) = @_;
	return $node->safe_psql($database // 'postgres', q{
		SELECT coalesce(string_agg(format('%s: %s, was %s', n, position, answer), '; '), '') FROM (
			SELECT n, answer, evtstore.position_at(at) AS position, a, evtstore.state_of('s-1', 'merged', at) AS a2,
			       b, evtstore.state_of('s-2', 'counted', at) AS b2, events, events_at('s-1', at) AS events2 FROM asked) x
		WHERE (position, a2, b2, events2) IS DISTINCT FROM (answer, a, b, events)});
}

# Until the standby has all that was asked for, and a row of the ledger that covers it.
sub ledger_there
{
	$primary->wait_for_catchup($standby, 'replay');
	return poll_sql($standby, 'SELECT max(position) >= (SELECT max(answer) FROM asked) FROM evtstore_internal.head');
}

# what states of the past are not what one folds by hand
sub wrong_states
{
	return sql(q{
		SELECT coalesce(string_agg(n::text, ' '), '') FROM asked WHERE a IS DISTINCT FROM naive('s-1', answer)
		    OR (b->>'n')::int IS DISTINCT FROM (SELECT nullif(count(*), 0)::int FROM evtstore.events WHERE stream = 's-2' AND position <= answer)});
}

# --- some sessions, in any order: transactions that overlap, savepoints, rollbacks; and one that asks ---

my @session = map { { psql => session($primary), open => 0, wrote => {} } } 1 .. 3;
my %busy;    # stream to the session that holds its lock
my $value = 0;

sub step
{
	my $s = $session[ rand @session ];
	my $n = rand;

	if ($n < 0.15 && !$s->{open})
	{
		$s->{psql}->query_safe(rand() < 0.2 ? 'BEGIN ISOLATION LEVEL REPEATABLE READ' : 'BEGIN');
		$s->{open} = 1;
	}
	elsif ($n < 0.3 && $s->{open})
	{
		$s->{psql}->query_safe(rand() < 0.3 ? 'ROLLBACK' : 'COMMIT');
		delete $busy{$_} foreach keys %{ $s->{wrote} };
		@$s{qw(open wrote)} = (0, {});
	}
	elsif ($n < 0.65)
	{
		my $stream = 's-' . (1 + int rand 3);
		return if $busy{$stream} && $busy{$stream} != $s;
		$value++;
		my $key    = chr(97 + rand 5);
		my $append = "SELECT FROM evtstore.append('$stream', 'T', '{\"v\": $value, \"$key\": $value}')";
		# a savepoint's append is rolled back, and the stream's lock with it
		$append = "SAVEPOINT p; $append; ROLLBACK TO p; $append" if $s->{open} && rand() < 0.2;
		$s->{psql}->query_safe($append);
		$s->{wrote}{$stream} = $busy{$stream} = $s if $s->{open};
	}
	elsif ($n < 0.7)
	{
		sql('SELECT evtstore_internal.ledger_trim(3)');
	}
	else
	{
		# now, or between two moments that were asked for already
		my $at = rand() < 0.6 ? 'clock_timestamp()'
		  : q{coalesce((SELECT a.at + random() * (clock_timestamp() - a.at) FROM asked a ORDER BY random() LIMIT 1), clock_timestamp())};
		my $ask = "INSERT INTO asked (at, answer, a, b, events) SELECT at, evtstore.position_at(at), evtstore.state_of('s-1', 'merged', at),
			evtstore.state_of('s-2', 'counted', at), events_at('s-1', at) FROM (SELECT $at AS at OFFSET 0) x";
		# who asks may be in the middle of something, and what he was told counts though he is rolled back
		my $who = $session[ rand @session ];
		$who->{open} && rand() < 0.3
		  ? $who->{psql}->query_safe('SAVEPOINT q; SELECT count(*) FROM (SELECT evtstore.position_at(clock_timestamp())) x; ROLLBACK TO q')
		  : sql($ask);
	}
	return;
}

for my $round (1 .. 4)
{
	step() foreach 1 .. 60;
	is(changed($primary), '', "round $round: every answer stands");
}
is(wrong_states(), '', 'states are what folding by hand comes to');
cmp_ok(sql('SELECT count(*) FROM asked'), '>', 20, 'there were answers');

# --- the standby says the same of what is settled, and its own past does not change ---

ledger_there();
is(changed($standby), '', 'a standby says the same');
$_->{psql}->query_safe('ROLLBACK') foreach grep { $_->{open} } @session;
$_->{psql}->quit foreach @session;
is(changed($primary), '', 'every answer stands when nobody is in flight');

# a moment that the ledger of the standby does not cover: never more than the primary says later
my $slow = session($primary);
$slow->query_safe('BEGIN');
$slow->query_safe(q{SELECT FROM evtstore.append('s-1', 'T', '{"v": 1}')});
sql(q{SELECT FROM evtstore.append('s-2', 'T', '{"v": 2}')});
$primary->wait_for_catchup($standby, 'replay');
my ($at, $clamped) = split /\|/, $standby->safe_psql('postgres', 'SELECT at, evtstore.position_at(at) FROM (SELECT clock_timestamp() AS at OFFSET 0) x');
cmp_ok($clamped, '<=', sql("SELECT evtstore.position_at('$at')"), 'a standby says no more than the primary does');
$slow->query_safe('COMMIT');
$slow->quit;

# --- a busy store: what was committed before the clock was read belongs to the moment, what came after does not ---

my @children = map { my $c = $_; start_psql($primary, qq{
	DO \$\$ BEGIN FOR i IN 1 .. 12000 LOOP
		PERFORM evtstore.append('w-$c', 'T', '1');
		IF i % 100 = 0 THEN ROLLBACK; ELSIF i % 20 = 0 THEN COMMIT; END IF;
	END LOOP; END \$\$; }) } 1 .. 2;
my $asker = start_psql($primary, q{
	DO $$ DECLARE own bigint; later bigint; t timestamptz; answer bigint; BEGIN FOR i IN 1 .. 200 LOOP
		SELECT position INTO own FROM evtstore.append('own', 'T', '1'); COMMIT;
		t := clock_timestamp();
		IF i % 2 = 0 THEN
			answer := evtstore.position_at(t); COMMIT;
		END IF;
		SELECT position INTO later FROM evtstore.append('own', 'T', '2'); COMMIT;
		answer := coalesce(answer, evtstore.position_at(t)); COMMIT;
		INSERT INTO asked (at, answer, a, b, events) VALUES
			(t, answer, evtstore.state_of('s-1', 'merged', t), evtstore.state_of('s-2', 'counted', t), events_at('s-1', t));
		INSERT INTO compared VALUES (answer >= own, answer < later);
		answer := NULL; COMMIT;
	END LOOP; END $$; });
poll_until('the children', sub { return !grep { $_->running } @children, $asker });
$_->finish foreach @children, $asker;
is(sql('SELECT count(*), count(*) FILTER (WHERE NOT after) FROM compared'), '200|0', 'within a second, a moment has nothing that came after');
# on a machine that is busy with other things a transaction may take longer than an appender in flight is given
my $without = sql('SELECT count(*) FILTER (WHERE NOT before) FROM compared');
note "$without of 200 moments are closed below what was committed before them";
cmp_ok($without, '<=', 20, 'and among others what was committed before');
is(changed($primary), '', 'every answer stands');
sql('SELECT evtstore_internal.ledger_trim(100000)');
is(changed($primary), '', 'without what was trimmed of the ledger too');

# --- a crash with an appender in flight whose events were left out ---

$slow = session($primary);
$slow->query_safe('BEGIN');
$slow->query_safe(q{SELECT FROM evtstore.append('s-1', 'T', '{"v": 3, "x": 3}')});
sql(q{SET synchronous_commit = off; SELECT FROM evtstore.append('s-2', 'T', '{"v": 4}')});
my $answered = sql(q{INSERT INTO asked (at, answer, a, b, events) SELECT at, evtstore.position_at(at), evtstore.state_of('s-1', 'merged', at),
	evtstore.state_of('s-2', 'counted', at), events_at('s-1', at) FROM (SELECT clock_timestamp() AS at OFFSET 0) x RETURNING answer});
cmp_ok($answered, '<', last_position($primary), 'what is above an appender in flight is left out');
crash($primary);
eval { $slow->quit };
is(changed($primary), '', 'after a crash every answer stands');
sql(q{SELECT FROM evtstore.append('s-1', 'T', '{"v": 5}')});
is(changed($primary), '', 'and when the feed goes on');

# --- an answer is on disk before it is told, whatever becomes of the transaction ---

$slow = session($primary);
$slow->query_safe('BEGIN');
$slow->query_safe(q{SELECT FROM evtstore.append('s-1', 'T', '{"v": 6}')});
sql(q{SELECT FROM evtstore.append('s-2', 'T', '{"v": 7}')});
my $teller = session($primary);
$teller->query_safe('BEGIN');
my $told = $teller->query_safe('SELECT at, evtstore.position_at(at) FROM (SELECT clock_timestamp() AS at OFFSET 0) x');
crash($primary);
eval { $_->quit } foreach $slow, $teller;
($at, $answered) = split /\|/, $told;
is(sql("SELECT evtstore.position_at('$at')"), $answered, 'told by a transaction that the crash took, it stands');
cmp_ok($answered, '<', last_position($primary), 'though all that is there now is decided');

# --- a dump, restored ---

my $other = new_node('other', conf => $conf, extension => 0);
my $dump  = PostgreSQL::Test::Utils::tempdir . '/dump.sql';
$primary->command_ok([ 'pg_dump', '-d', $primary->connstr('postgres'), '-f', $dump ], 'dump');
$other->safe_psql('postgres', 'CREATE DATABASE restored');
$other->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $other->connstr('restored'), '-f', $dump ], 'restore');
is(changed($other, 'restored'), '', 'a restored store says the same');
is($other->safe_psql('restored', "SELECT evtstore.position_at('$at')"), $answered, 'of that moment too');
$other->safe_psql('restored', q{SELECT FROM evtstore.append('s-1', 'T', '{"v": 8}')});
is(changed($other, 'restored'), '', 'and goes on');

# --- promotion ---

ledger_there();
is(changed($standby), '', 'the standby says the same after all that');
$primary->stop('immediate');
$standby->promote;
poll_sql($standby, 'SELECT NOT pg_is_in_recovery()');
is(changed($standby), '', 'promoted, it says the same');
$standby->safe_psql('postgres', q{SELECT FROM evtstore.append('s-1', 'T', '{"v": 9}')});
is(changed($standby), '', 'and goes on');
is(store_faults($standby), '', 'the store is whole');

done_testing();
