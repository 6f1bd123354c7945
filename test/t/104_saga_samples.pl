# The workers of docs/samples that take part in sagas do what docs/saga-workers.md says of them. Some hundred orders: pieces are reserved, a card
# is charged, which is the pivot, a parcel is booked; some is sold out, some cards have no credit, a carrier is busy for a while, some orders are
# cancelled. Workers are killed and their connections broken in the middle of a transaction, at its commit, and, where their effects
# are in a database of their own, between its commit and the answer. In the end every saga has succeeded, was compensated or has done nothing, and the
# participants' own tables say that each effect happened once, and was undone once where the saga was compensated.
#
# Each language has a database of its own, and one for participants that have their own. Python and Node are connected through PgBouncer in
# transaction mode. What is missing on this machine is skipped, see test/setup/packages.
use strict;
use warnings;

use EvtSamples;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# within this time a worker that was told to has ended; its wait_for_work would last for half a minute
my $PROMPT = 10;
my $STOCK  = 100_000;

my @languages = sample_languages('saga');
my @here      = grep { !$_->{missing} } @languages;
my $node      = new_node(
	'main',
	extension => 0,
	conf      => "log_statement = none\nmax_connections = 100\nevtstore.delivery_workers = 2\nmax_worker_processes = 32\nevtstore.poll_interval = 200ms\n");
my $pool = start_pgbouncer($node, 'order_worker');

# --- what the workers work on ---

# The page's SQL; a role belongs to the whole server. What a worker does not answer is unknown after seconds, and retries do not grow rare.
my ($tables, $definitions) = slurp_file(test_tree() . '/docs/saga-workers.md') =~ /^```sql\n(.*?)^```/msg;
my $role = $tables =~ s/^(CREATE ROLE .*;)\n//m ? $1 : die "docs/saga-workers.md makes no role\n";
$definitions =~ s/TimeoutSeconds": 30/TimeoutSeconds": 4/g == 4 && $definitions =~ s/MaxDelaySeconds": 60/MaxDelaySeconds": 3/g == 3
  or die "docs/saga-workers.md: other times than those that are shortened here\n";

sub in
{
	my ($database, $sql) = @_;
	return $node->safe_psql(ref $database ? $database->{name} : $database, $sql);
}

sub wait_in
{
	my ($database, $condition) = @_;
	return poll_sql($node, "SELECT $condition", 't', ref $database ? $database->{name} : $database);
}

# where its participants have their tables
sub own { return "$_[0]{name}_own" }

my $workers = q{FROM pg_stat_activity WHERE datname = current_database() AND usename = 'order_worker'};
my $asleep  = "$workers AND query LIKE 'CALL%wait_for_work%' AND wait_event_type = 'Extension'";
my $blocked = "$workers AND wait_event_type = 'Lock'";

sub start_worker
{
	my ($language, $number, @arguments) = @_;
	my $server = $language->{pooled} && $pool ? $pool : $node;
	my ($host, $port) = ref $server eq 'HASH' ? @$server{qw(host port)} : ($server->host, $server->port);

	return start_sample(
		$language, 'saga', "$language->{name}_$number",
		server    => $server,
		user      => 'order_worker',
		env       => { PARTICIPANT => "postgres:///" . own($language) . "?host=$host&port=$port&user=order_worker" },
		arguments => \@arguments);
}

sub kill_worker
{
	my ($language, $number, @arguments) = @_;
	my $name = "$language->{name}_$number";

	kill 'KILL', -pid_of($name);
	end_of($name);
	return start_worker($language, $number, @arguments);
}

# Orders from one number to another, in one transaction each. Of every seven one has a card without credit, of every nine one is sold out, and
# of every five one has a busy carrier.
sub order
{
	my ($language, $from, $to) = @_;

	in($language, qq{
		DO \$\$ BEGIN
			FOR i IN $from .. $to LOOP
				PERFORM evtstore.start_saga('order', jsonb_build_object('order', 'o' || i, 'pieces', 1 + i % 3, 'sku', CASE WHEN i % 9 = 4 THEN 'gone' ELSE 'common' END,
					'card', CASE WHEN i % 7 = 3 THEN 'empty' ELSE 'full' END, 'amount', i + 0.5, 'carrier', CASE WHEN i % 5 = 2 THEN 'slow' ELSE 'fast' END),
					business_key => 'o' || i);
				COMMIT;
			END LOOP;
		END \$\$});
	return;
}

# what an order comes to if it is not cancelled; one that is sold out was not charged
sub fate { return $_[0] % 9 == 4 ? 'SoldOut' : $_[0] % 7 == 3 ? 'Declined' : '' }

$node->safe_psql('postgres', $role);
foreach my $language (@here)
{
	foreach my $database ($language->{name}, own($language))
	{
		$node->safe_psql('postgres', "CREATE DATABASE $database");
		in($database, "CREATE EXTENSION evtstore; $tables");
		in($database, qq{
			INSERT INTO stock VALUES ('common', $STOCK), ('gone', 0);
			INSERT INTO card VALUES ('full', $STOCK), ('empty', 0);
			INSERT INTO carrier VALUES ('fast', false), ('slow', true);
			CREATE TABLE gate ();
			CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM FROM public.gate; RETURN NULL; END';
			CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON payment DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_gate()});
	}
	in($language, $definitions);
	# it has no sagas, and needs no workers
	$node->safe_psql('postgres', "ALTER DATABASE " . own($language) . " SET evtstore.enabled = off");
}

# Runs code for each language while its worker stands still for somebody's lock: at its effect, at the commit, at the answer. Where: the database
# of the effect.
my %LOCK = (effect => 'stock IN SHARE MODE', commit => 'gate IN ACCESS EXCLUSIVE MODE', answer => 'evtstore_internal.saga IN EXCLUSIVE MODE');

sub in_the_middle
{
	my ($what, $where, $from, $to, $do) = @_;
	my @locks;

	push @locks, lock_table($where->($_), $what eq 'answer' ? 'effect' : $what) foreach @here;
	order($_, $from, $to) foreach @here;
	wait_in($where->($_), "count(*) > 0 $blocked") foreach @here;
	# nobody can order where nobody can answer
	if ($what eq 'answer')
	{
		my @answers = map { lock_table($_->{name}, 'answer') } @here;

		unlock($_) foreach @locks;
		@locks = @answers;
		wait_in($_, "count(*) > 0 $blocked AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'evtstore_internal.saga'::regclass)") foreach @here;
	}
	$do->($_) foreach @here;
	unlock($_) foreach @locks;
	return;
}

sub lock_table
{
	my ($database, $what) = @_;
	my $session = session($node, $database);

	$session->query_safe("BEGIN; LOCK TABLE $LOCK{$what}");
	return $session;
}

sub unlock
{
	my $session = shift;

	$session->query_safe('COMMIT');
	$session->quit;
	return;
}

sub here { return $_[0]{name} }

sub terminate
{
	my $language = shift;

	foreach my $database ($language->{name}, own($language))
	{
		in($database, "SELECT count(pg_terminate_backend(pid)) $workers");
	}
	return;
}

my $open = '(SELECT count(*) FROM evtstore.sagas WHERE ended_at IS NULL)';

# Where: the database of the effects. Of a card that is declined while nobody knows what became of an earlier attempt a person has to say
# whether it was charged: he looks, and refuses it where it was not.
sub resolve
{
	my ($language, $where) = @_;

	foreach (split /\n/, in($language, q{SELECT t.saga_id, t.saga_id || '/' || t.seq FROM evtstore.stuck_sagas s JOIN evtstore.saga_steps t ON t.saga_id = s.id
			WHERE s.reason = 'pivot_unknown' AND t.state = 'Charge' AND t.attempt = 1}))
	{
		my ($id, $key) = split /\|/;
		my $guard = in($where, "BEGIN; SELECT decision FROM evtstore.guard_step('$key', 'undo') \\gset\nSELECT :'decision' = 'empty' AS refused \\gset
			\\if :refused\nCOMMIT;\n\\else\nROLLBACK;\n\\endif\nSELECT :'decision'");

		# its answer may come meanwhile
		$node->psql($language->{name}, sprintf q{SELECT evtstore.resolve_step('%s', 'Charge', '%s')}, $id, $guard eq 'empty' ? 'failed' : 'done');
	}
	return;
}

sub wait_for_the_end
{
	my $where = shift;

	foreach my $language (@here)
	{
		next if eval { poll_until('all sagas', sub { resolve($language, $where->($language)); in($language, "SELECT $open") == 0 }) };
		diag in($language, 'SELECT business_key, status, states, waiting_for, next_due, reason FROM evtstore.sagas WHERE ended_at IS NULL');
		die "$language->{name}: sagas that do not end: $@";
	}
	return;
}

# --- effects in the saga's database ---

start_worker($_, 1) foreach @here;
order($_, 1, 40) foreach @here;
wait_in($_, q{count(*) > 5 FROM evtstore.sagas WHERE status = 'succeeded'}) foreach @here;

in_the_middle('effect', \&here, 41, 60, sub { kill_worker($_[0], 1) });
in_the_middle('commit', \&here, 61, 70, sub { kill_worker($_[0], 1) });
in_the_middle('answer', \&here, 71, 80, sub { kill_worker($_[0], 1) });
in_the_middle('effect', \&here, 81, 90, sub { in($_[0], "SELECT count(pg_terminate_backend(pid)) $blocked") });
wait_in($_, "count(*) = 1 $asleep") foreach @here;
terminate($_) foreach @here;

# Orders that are cancelled while one worker is at them: another is given the undo of what the first has not committed, and waits for it.
in_the_middle(
	'effect',
	\&here, 91, 100,
	sub {
		my $language = shift;

		in($language, q{SELECT evtstore.cancel_saga(id) FROM evtstore.sagas WHERE ended_at IS NULL AND states = '{Reserve}' AND substr(business_key, 2)::int > 90});
		start_worker($language, 2);
		wait_in($language, "count(*) > 1 $blocked");
	});

# the carrier is busy no longer, and who waits for a parcel gets it
wait_in($_, q{count(*) > 0 FROM evtstore.saga_steps WHERE state = 'Ship' AND error = 'Busy'}) foreach @here;
in($_, 'UPDATE carrier SET busy = false') foreach @here;
wait_for_the_end(\&here);

# A worker that hangs: the order is cancelled, its undo finds nothing to undo, and what the worker does when it goes on is refused.
foreach my $language (@here)
{
	stop_worker($language, $_) foreach 1, 2;
	order($language, 101, 101);
	in($language, q{CREATE TABLE hung AS SELECT receipt, headers->>'idempotency_key' AS key FROM evtstore.receive('inventory.reserve');
		SELECT evtstore.cancel_saga(id) FROM evtstore.sagas WHERE business_key = 'o101'});
	start_worker($language, 1);
}
wait_for_the_end(\&here);
foreach my $language (@here)
{
	is(in($language, q{SELECT decision FROM hung, evtstore.guard_step(key, 'do')}), 'rejected', "$language->{name}: what is late is refused");
	is(in($language, q{SELECT evtstore.fail(receipt, 'Rejected', retryable => false) FROM hung}), 'late', "$language->{name}: and told so late");
}

SKIP:
{
	my ($clients) = run_command([ 'psql', '-XAt', '-h', $pool->{host}, '-p', $pool->{port}, '-U', 'postgres', '-c', 'SHOW CLIENTS', 'pgbouncer' ])
	  if $pool;

	skip 'no pgbouncer', 1 unless $pool;
	is_deeply([ sort map { (split /\|/)[2] } grep { /\|order_worker\|/ } map { "|$_" =~ s/^\|//r } split /\n/, $clients ],
		[ sort map { $_->{name} } grep { $_->{pooled} } @here ],
		'Python and Node work through PgBouncer');
}

# what each order came to, by the saga, and by its participants in that database
sub check
{
	my ($language, $where, $from, $to, $what) = @_;
	my $name  = "$language->{name}, $what";
	my %sagas = map { my ($key, @rest) = split /\|/, $_, -1; ($key => \@rest) } split /\n/,
	  in($language, "SELECT business_key, status, coalesce(error, '') FROM evtstore.sagas WHERE substr(business_key, 2)::int BETWEEN $from AND $to");
	my %did = map { my ($order, $did) = split /\|/; ($order => $did) } split /\n/, in($where, q{
		SELECT order_id, string_agg(what || ' ' || n, ', ' ORDER BY what) FROM (
			SELECT order_id, 'reserved' AS what, count(*) AS n FROM reservation GROUP BY 1
			UNION ALL SELECT order_id, 'released', count(*) FROM released JOIN reservation ON reservation_id = id GROUP BY 1
			UNION ALL SELECT order_id, 'paid', count(*) FROM payment GROUP BY 1
			UNION ALL SELECT order_id, 'shipped', count(*) FROM shipment GROUP BY 1) t GROUP BY 1});
	my (@wrong, %count);

	foreach my $i ($from .. $to)
	{
		my ($status, $error) = @{ $sagas{"o$i"} // [ 'missing', '' ] };
		my $did = $did{"o$i"} // '';
		my $is_right = $status eq 'succeeded' ? $did eq 'paid 1, reserved 1, shipped 1' && fate($i) eq ''
		  : $status eq 'compensated' && $error eq 'Declined' ? $did eq 'released 1, reserved 1' && fate($i) eq 'Declined'
		  # a person found that an attempt of which nobody knew had not charged it
		  : $status eq 'compensated' && $error eq 'States.TaskFailed' ? $did eq 'released 1, reserved 1' && fate($i) eq 'Declined'
		  # failed: nothing was done that is to be undone; compensated: of an attempt before nobody knew
		  : $status =~ /^(?:failed|compensated)$/ && $error eq 'SoldOut' ? $did eq '' && fate($i) eq 'SoldOut'
		  : $status eq 'failed' && $error eq 'States.Timeout' ? $did eq ''
		  # nobody knew in time whether it was reserved, or somebody cancelled it
		  : $status eq 'compensated' && $error eq 'States.Timeout' || $status eq 'cancelled' ? $did =~ /^(?:|released 1, reserved 1)$/
		  :                                                                                     0;

		push @wrong, "o$i $status $error: $did" unless $is_right;
		$count{$status}++;
	}
	is_deeply(\@wrong, [], "$name: each effect happened once, and was undone once where the saga was compensated");
	cmp_ok($count{$_} // 0, '>', ($to - $from) / 20, "$name: sagas $_") foreach qw(succeeded compensated failed);
	is(in($where, qq{SELECT free + (SELECT sum(pieces) FROM reservation) - (SELECT sum(r.pieces) FROM released JOIN reservation r ON r.id = reservation_id)
			FROM stock WHERE sku = 'common'}), $STOCK, "$name: pieces are where they should be");
	is(in($where, q{SELECT credit + (SELECT sum(amount) FROM payment) FROM card WHERE number = 'full'}), "$STOCK.0", "$name: and money");
	is(in($language, 'SELECT sum(ready + delayed + in_flight) FROM evtstore.queue_status'), 0, "$name: the queues are empty");
	# what is refused elsewhere is by chance
	like(in($where, 'SELECT string_agg(DISTINCT state, $$ $$ ORDER BY state) FROM evtstore_internal.guarded_step'),
		$what eq 'here' ? qr/^done refused undone$/ : qr/^done (?:refused )?undone$/, "$name: the guard saw it all");
	return;
}

sub stop_worker
{
	my ($language, $number) = @_;
	my $name  = "$language->{name}_$number";
	my $since = time;

	kill 'TERM', pid_of($name);
	is(end_of($name), 0, "$name: SIGTERM ends it with 0");
	cmp_ok(time - $since, '<', $PROMPT, "$name: at once");
	return;
}

check($_, $_->{name}, 1, 101, 'here') foreach @here;

foreach my $language (@here)
{
	wait_in($language, "count(*) = 1 $asleep");
	stop_worker($language, 1);
	ok(eval { poll_until('nobody asleep', sub { in($language, "SELECT count(*) $asleep") == 0 }, $PROMPT) }, "$language->{name}: no session sleeps on");
}

# --- effects in a database of the participants' own ---

start_worker($_, 1, 'elsewhere') foreach @here;
order($_, 201, 230) foreach @here;
wait_in(own($_), 'count(*) > 5 FROM shipment') foreach @here;
in_the_middle('effect', \&own, 231, 240, sub { kill_worker($_[0], 1, 'elsewhere') });
in_the_middle('commit', \&own, 241, 250, sub { kill_worker($_[0], 1, 'elsewhere') });
# the effect is committed there, and not answered here: a second time it is a duplicate, with its output
in_the_middle('answer', \&own, 251, 260, sub { kill_worker($_[0], 1, 'elsewhere') });
in_the_middle('effect', \&own, 261, 270, \&terminate);
in(own($_), 'UPDATE carrier SET busy = false') foreach @here;
wait_for_the_end(\&own);
check($_, own($_), 201, 270, 'elsewhere') foreach @here;
foreach my $language (@here)
{
	wait_in($language, "count(*) = 1 $asleep");
	stop_worker($language, 1);
	unlike(slurp_file(sample_log("$language->{name}_$_")), qr/prepared|Traceback|SyntaxError|ReferenceError|TypeError|panic|malformed/, "$language->{name}_$_: met no error but what was done to it")
	  foreach 1, 2;
}

foreach my $language (@languages)
{
	SKIP: { skip "$language->{name}: $language->{missing}", 1 if $language->{missing} }
}

stop_pgbouncer();
$node->stop;
done_testing();
