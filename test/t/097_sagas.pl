# Sagas under everything at once: random definitions, started by several clients; workers that answer, fail, nack, reject, are never heard
# of again, answer late, twice or what they did not say at first; signals early, late, twice or never; operators that cancel, retry, pause, skip and put right; a clock that
# leaps; while sessions and delivery workers are terminated and killed, and the whole server crashes.
#
# EvtSagaGen.pm makes definitions, EvtSagaActors.pm has participants and people, EvtSagaCheck.pm what has to be true.  So at the end what a succeeded
# saga did is there once, what one that was compensated did is undone once, the last to end first; nothing is undone behind a pivot.  Everything comes to an end when
# participants no longer fail, and leaves no message, no timer and no business key.
#
# EVTSTORE_SECONDS: how long, without start and check; twenty by default.  EVTSTORE_SEED: for the same choices again, as far as
# the scheduling of processes allows that.
use strict;
use warnings;

use EvtChildren qw(start_child finish_children);
use EvtDisturb;
use EvtSagaActors;
use EvtSagaCheck;
use EvtSagaGen;
use EvtTest;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $PATIENCE    = 180;
my $DEFINITIONS = 14;
my $MAX_OPEN    = 40;
my $dir         = $PostgreSQL::Test::Utils::tmp_check;
my @queues      = qw(steady fickle);
my $json        = JSON::PP->new->canonical;

my ($seed, $seconds) = EvtDisturb::choices(20);

my $node = new_node(
	'main',
	conf => join "\n", 'log_statement = none', 'max_connections = 50', 'deadlock_timeout = 30ms', 'restart_after_crash = on', 'evtstore.delivery_workers = 2',
	'max_worker_processes = 16', 'evtstore.poll_interval = 200ms', '');

sub sql { return $node->safe_psql('postgres', shift) }

# what fickle has given up fails its step
sql(q{SELECT evtstore.create_queue('steady', '{"retry": {"max_attempts": 0, "initial": "20ms", "multiplier": 1, "jitter": 0}}');
	SELECT evtstore.create_queue('fickle', '{"retry": {"max_attempts": 3, "initial": "20ms", "multiplier": 1, "jitter": 0}}')});
sql(EvtSagaActors::participants());

# --- definitions ---

# can this engine run it?  A definition that is started, and leaves nothing
sub can_run
{
	my $state = shift;
	my $definition = qq({"StartAt": "A", "States": {"A": $state}});

	return sqlstate($node, qq(BEGIN; SELECT evtstore.define_saga('probed', '[{"do": "sql:public.work"}]'); SELECT evtstore.define_saga('probe', '$definition');
		SELECT evtstore.start_saga('probe'); ROLLBACK)) ne '0A000';
}

sub define
{
	my ($name, $definition, @facts) = @_;
	my $text = $json->encode($definition) =~ s/'/''/gr;
	sql("SELECT evtstore.define_saga('$name', '$text'); INSERT INTO state VALUES " . join ', ', map { my $f = $_; "('$name', " . join(', ', map { "'$_'" } @$f) . ')' } @facts);
	return;
}

my %can = (
	child => can_run('{"Type": "Task", "Resource": "saga:probed", "End": true}'),
	scope => can_run('{"Type": "Parallel", "Branches": [{"StartAt": "B", "States": {"B": {"Type": "Succeed"}}}], "Saga": {"Scope": true}, "End": true}'));
my %children;
my $gen = EvtSagaGen->new(queues => \@queues, can => \%can, children => \%children);
if ($can{child})
{
	# grandchildren first: whom a definition names is there.  By the class of who starts them; behind a pivot only those that succeed
	foreach my $class (qw(compensatable pivot retriable))
	{
		foreach my $name ("grandchild-$class", "child-$class")
		{
			define($name, $gen->make($name, child => 1, size => 3, pivot => $class eq 'pivot' ? 1 : 0, sure => $class eq 'retriable'));
			push @{ $children{$class} }, $name;
		}
	}
}
my @names = map { "d$_" } 1 .. $DEFINITIONS;
define($_, $gen->make($_)) foreach @names;

# --- what goes wrong ---

my $disturb = EvtDisturb->new(
	node    => $node,
	seconds => $seconds,
	clients => [ 'saga starter', 'saga worker', 'saga signaller', 'saga operator', 'saga runner' ],
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

my $actors = EvtSagaActors->new(node => $node, disturb => $disturb, seed => $seed, gen => $gen, names => \@names, queues => \@queues, folder => $dir, max_open => $MAX_OPEN);

start_child("starter $_", do { my $n = $_; sub { $actors->start_sagas($n) } }) foreach 1 .. 3;
start_child("worker $_",  do { my $n = $_; sub { $actors->work($n) } }) foreach 1 .. 4;
start_child('signaller', sub { $actors->signal(1) });
start_child('operator',  sub { $actors->operate(1) });
start_child('runner',    sub { $actors->run(1) });
$disturb->run;
is(finish_children('starter',   $PATIENCE), '', 'all starters came to their end');
is(finish_children('signaller', $PATIENCE), '', 'so did the signaller');
is(finish_children('operator',  $PATIENCE), '', 'so did the operator');
is(finish_children('runner',    $PATIENCE), '', 'and who ran what was pending');

# --- everything comes to rest ---

my $storm = $disturb->ask(q{SELECT count(*) || ' (' || count(*) FILTER (WHERE status = 'stuck') || ' stuck)' FROM evtstore.sagas WHERE ended_at IS NULL}) // '?';
poll_until('the weather', sub { $disturb->ask('UPDATE weather SET calm = true RETURNING true') });
append_to_file("$dir/calm", '');

# what nothing will wake: it waits for no message, no timer, no child, no person
my $FORGOTTEN = q{SELECT string_agg(format('%s %s %s', s.id, s.name, s.status), ', ') FROM evtstore.sagas s
	WHERE s.status IN ('running', 'compensating') AND NOT EXISTS (SELECT FROM evtstore_internal.message m WHERE m.event_id = s.id OR m.body->>'saga' = s.id::text)
		AND NOT EXISTS (SELECT FROM evtstore_internal.saga_step t WHERE t.saga_id = s.id AND t.status = 'waiting' AND t.kind = 'signal')};
$FORGOTTEN .= ' AND NOT EXISTS (SELECT FROM evtstore_internal.saga c WHERE c.parent_id = s.id AND c.ended_at IS NULL)' if $can{child};
# or somebody else, who has its lock
$FORGOTTEN .= ' AND NOT EXISTS (SELECT FROM evtstore_internal.saga_lock w JOIN evtstore_internal.saga_lock h USING (tenant, resource)
	WHERE w.saga_id = s.id AND w.held_since IS NULL AND h.saga_id <> s.id AND h.held_since IS NOT NULL)';
my $forgotten = '';
my %refused;

# a statement for each of them, one by one: none of them hides another
sub each_of
{
	my ($which, $statement, $expected) = @_;
	foreach my $row (split /\n/, sql($which))
	{
		my ($id, @more) = split /\|/, $row;
		my ($out, $err) = ('', '');
		$node->psql('postgres', sprintf($statement, $id, @more), stdout => \$out, stderr => \$err);
		$refused{ $err =~ s/\n.*//sr } = $id if $err ne '' && $err !~ $expected;
	}
	return;
}

my $number = 100_000_000;
my $rest = eval {
	poll_until(
		'all sagas',
		sub {
			each_of(q{SELECT id FROM evtstore.sagas WHERE status = 'paused'}, q{SELECT evtstore.resume_saga('%s')}, qr/is not paused/);
			each_of(q{SELECT id FROM evtstore.stuck_sagas}, q{SELECT evtstore.retry_saga('%s')}, qr/is not stuck|which says itself what becomes of it/);
			# each that waits: in a Map of many they would be over before all had theirs
			each_of(q{SELECT t.saga_id, substr(d.resource, 8), row_number() OVER () + } . ($number += 1000) . q{ FROM evtstore_internal.saga_step t JOIN evtstore.sagas s ON s.id = t.saga_id JOIN state d ON (d.saga, d.state) = (s.name, t.state)
				WHERE t.kind = 'signal' AND t.status = 'waiting'}, q{SELECT evtstore.signal_saga('%s', '%s', '{"n": %s}')}, qr/has ended/);
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
is(join("\n", map { "$refused{$_}: $_" } sort keys %refused), '', 'what was stuck could be tried again, and what waited be told');
is($forgotten, '', 'none is left that nothing will wake');
append_to_file("$dir/stop", '');
is(finish_children('worker', $PATIENCE), '', 'all workers came to their end');

# --- what is true of it ---

my $check = EvtSagaCheck->new(can => \%can);
$check->all(\&sql);
is(sql(q{SELECT count(evtstore.start_saga(name, '{"luck": 0.1, "items": [], "at": {"path": "", "n": 0}}', business_key, start_at => 'infinity'))
	FROM (SELECT DISTINCT name, business_key FROM started WHERE business_key IS NOT NULL) k}),
	sql('SELECT count(DISTINCT (name, business_key)) FROM started WHERE business_key IS NOT NULL'), 'all business keys can be used again');

# --- was it worth it? ---

diag "open when the storm was over: $storm";
diag $_ foreach $check->summary(\&sql);
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
foreach my $kind (qw(parallel map signal wait child))
{
	cmp_ok(sql("SELECT count(*) FROM step WHERE kind = '$kind' AND status = 'done'"), '>', 0, "some are done of kind $kind");
}
cmp_ok(sql(q{SELECT count(*) FROM happened WHERE key = 'event' AND way = 'do'}), '>', 0, 'some effects are events');
cmp_ok(sql(q{SELECT count(*) FROM operated WHERE verb <> 'pause'}), '>', 0, 'some steps were put right by a person');
cmp_ok(sql(q{SELECT count(*) FROM step WHERE resource IS NOT NULL}), '>', 0, 'some steps had to have a lock');
cmp_ok(sql(q{SELECT count(*) FROM operated WHERE verb = 'pause'}), '>', 0, 'some sagas were paused');
done_testing();
