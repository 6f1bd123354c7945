# The workers of docs/samples do what docs/workers.md says of them: a process that is killed in the middle of a transaction, a
# connection that breaks there or while it sleeps, and an entry that nobody can handle cost nothing but time.  In the end each
# message and event has had its effect once, in the order of its key, but for the ones that fail, which are dead letters; and
# SIGTERM ends a worker at once, with 0.
#
# Each language has a database of its own.  Python and Node are connected through PgBouncer in transaction mode.  What is
# missing on this machine is skipped, see test/setup/packages.
use strict;
use warnings;

use EvtSamples;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# within this time a worker that was told to has ended; its wait_for_work would last for half a minute
my $PROMPT = 10;
# Entries of each kind that nobody can handle.  Others of their keys come right behind them, in one batch.  The first one has
# three attempts, the second one a single one.
my @POISON = (3, 62, 73);
my $fine   = sprintf q{i <> ALL ('{%s}')}, join ',', @POISON;

sub fine { return grep { my $i = $_; !grep { $_ == $i } @POISON } $_[0] .. $_[1] }

my @languages = sample_languages(qw(receive poll));
my @here = grep { !$_->{missing} } @languages;

my $node = new_node('main', conf => "log_statement = none\nmax_connections = 60\nevtstore.enabled = off\n");
my $pool = start_pgbouncer($node, 'shop_worker');

# --- what the workers work on ---

# the page's SQL; a role belongs to the whole server
my ($setup) = slurp_file(test_tree() . '/docs/workers.md') =~ /^```sql\n(.*?)^```/ms;
my $role = $setup =~ s/^(CREATE ROLE .*;)\n//m ? $1 : die "docs/workers.md makes no role\n";

sub in
{
	my ($language, $sql) = @_;
	return $node->safe_psql($language->{name}, $sql);
}

# numbered messages and events from one number to another, of four keys and streams
sub produce
{
	my ($from, $to) = @_;

	foreach my $language (@here)
	{
		in($language, qq{
			SELECT evtstore.send('mail', jsonb_strip_nulls(jsonb_build_object('subject', i::text, 'to', CASE WHEN $fine THEN 'k' || i % 4 END)),
				key => 'k' || i % 4) FROM generate_series($from, $to) i;
			SELECT evtstore.append('order-' || i % 4, 'Placed', jsonb_strip_nulls(jsonb_build_object('total', CASE WHEN $fine THEN i END)))
				FROM generate_series($from, $to) i});
	}
	return;
}

sub wait_in
{
	my ($language, $condition) = @_;
	return poll_sql($node, "SELECT $condition", 't', $language->{name});
}

# all up to this number have had their effect, once or more often
sub wait_for_effects
{
	my $to = shift;
	my $n  = () = fine(1, $to);

	foreach my $language (@here)
	{
		wait_in($language, "count(DISTINCT subject) = $n FROM sent_mail");
		wait_in($language, "count(DISTINCT total) = $n FROM order_log");
	}
	return;
}

my $workers = q{FROM pg_stat_activity WHERE datname = current_database() AND usename = 'shop_worker'};
my $asleep  = "$workers AND query LIKE 'CALL%wait_for_work%' AND wait_event_type = 'Extension'";
my $blocked = "$workers AND wait_event_type = 'Lock'";

sub start_workers
{
	my ($language, @arguments) = @_;

	start_sample(
		$language, $_, "$language->{name}_$_",
		server    => $language->{pooled} && $pool ? $pool : $node,
		user      => 'shop_worker',
		env       => { CONSUMER => "$language->{name}-1" },
		arguments => \@arguments)
	  foreach qw(receive poll);
	return;
}

# Runs code for each language while its two workers stand in the middle of a transaction: at the lock of a table that they
# want to write to, with something handed out and nothing acknowledged; or of one that the commit wants to read.
my %LOCK = (effect => 'sent_mail, order_log IN SHARE MODE', commit => 'gate IN ACCESS EXCLUSIVE MODE');

sub in_the_middle
{
	my ($where, $from, $to, $do) = @_;
	my %lock = map { $_->{name} => session($node, $_->{name}) } @here;

	$_->query_safe("BEGIN; LOCK TABLE $LOCK{$where}") foreach values %lock;
	produce($from, $to);
	wait_in($_, "count(*) = 2 $blocked") foreach @here;
	$do->($_) foreach @here;
	foreach (values %lock)
	{
		$_->query_safe('COMMIT');
		$_->quit;
	}
	wait_for_effects($to);
	return;
}

$node->safe_psql('postgres', $role);
foreach (@here)
{
	$node->safe_psql('postgres', "CREATE DATABASE $_->{name}");
	in($_, "CREATE EXTENSION evtstore; $setup");
	in($_, q{
		CREATE TABLE gate ();
		CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM FROM public.gate; RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON sent_mail DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_gate();
		CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON order_log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_gate()});
}
start_workers($_) foreach @here;

produce(1, 20);
wait_for_effects(20);

sub kill_workers
{
	my $language = shift;
	my @names = map { "$language->{name}_$_" } qw(receive poll);

	kill 'KILL', -pid_of($_) foreach @names;
	end_of($_) foreach @names;
	start_workers($language);
	return;
}

# workers are killed; at the commit, its outcome is known to the server only
in_the_middle('effect', 21, 40, \&kill_workers);
in_the_middle('commit', 41, 50, \&kill_workers);

# sessions of the server are terminated in the middle, and ones that sleep
in_the_middle('effect', 51, 60, sub { is(in($_[0], "SELECT count(pg_terminate_backend(pid)) $blocked"), 2, "$_[0]{name}: two sessions are terminated") });
wait_in($_, "count(*) = 2 $asleep") foreach @here;
is(in($_, "SELECT count(pg_terminate_backend(pid)) $asleep"), 2, "$_->{name}: two more") foreach @here;

# where the first failure makes a dead letter, those behind it do not wait for the end of a lease
in($_, q{SELECT evtstore.alter_subscription('orders', '{"retry": {"max_attempts": 1}}')}) foreach @here;
my $since = time;
produce(61, 70);
wait_for_effects(70);
cmp_ok(time - $since, '<', 20, 'those behind a dead letter come at once');

foreach my $language (@languages)
{
	my $name = $language->{name};
	SKIP:
	{
		skip "$name: $language->{missing}", 1 if $language->{missing};

		my $effects = q{string_agg(%s::text, ' ' ORDER BY %1$s::int) FROM %s};
		my $all     = join ' ', fine(1, 70);
		my $orderly = 'SELECT count(*) FROM (SELECT %s::int < lag(%1$s::int) OVER (PARTITION BY %s ORDER BY n) AS before FROM %s) e WHERE before';

		is(in($language, 'SELECT ' . sprintf $effects, 'subject', 'sent_mail'), $all, "$name: each message has its effect once");
		is(in($language, 'SELECT ' . sprintf $effects, 'total',   'order_log'), $all, "$name: each event has its effect once");
		is(in($language, sprintf $orderly, 'subject', 'recipient', 'sent_mail'), 0, "$name: messages in the order of their key");
		is(in($language, sprintf $orderly, 'total',   'stream',    'order_log'), 0, "$name: events in the order of their stream");
		is(in($language, q{SELECT string_agg(concat_ws(' ', name, attempts, cause, key, body->>'subject', version), ', ' ORDER BY name, id) FROM evtstore.dead_letters}),
			'mail 3 attempts spent k3 3, mail 3 attempts spent k2 62, orders 3 attempts spent order-3 1, orders 1 attempts spent order-2 16',
			"$name: what nobody can handle is a dead letter");
		is(in($language, q{SELECT ready + delayed + in_flight FROM evtstore.queue_status}), 0, "$name: the queue is empty");
		unlike(slurp_file(sample_log("${name}_$_")), qr/prepared|stale|ST007|transaction|Traceback/,
			"$name: $_ met no error but what was done to it")
		  foreach qw(receive poll);
	}
}

sub stop_workers
{
	my $what = shift;

	foreach my $language (@here)
	{
		wait_in($language, "count(*) = 2 $asleep");
		foreach my $name (map { "$language->{name}_$_" } qw(receive poll))
		{
			my $since = time;

			kill 'TERM', pid_of($name);
			is(end_of($name), 0, "$name: SIGTERM ends it with 0$what");
			cmp_ok(time - $since, '<', $PROMPT, "$name: at once$what");
		}
		ok(eval { poll_until('nobody asleep', sub { in($language, "SELECT count(*) $asleep") == 0 }, $PROMPT) },
			"$language->{name}: no session sleeps on$what");
		is(in($language, 'SELECT count(*) FROM evtstore.consumers'), 0, "$language->{name}: nobody holds a lane$what");
	}
	return;
}

SKIP:
{
	my ($clients) = run_command([ 'psql', '-XAt', '-h', $pool->{host}, '-p', $pool->{port}, '-U', 'postgres', '-c', 'SHOW CLIENTS', 'pgbouncer' ])
	  if $pool;
	my @pooled = grep { $_->{pooled} } @here;

	skip 'no pgbouncer', 1 unless $pool;
	is_deeply([ sort map { (split /\|/)[2] } grep { /\|shop_worker\|/ } map { "|$_" =~ s/^\|//r } split /\n/, $clients ],
		[ sort map { ($_->{name}) x 2 } @pooled ],
		'Python and Node work through PgBouncer');
}
stop_workers('');

# effects elsewhere: what a worker prints, and here nobody dies
start_workers($_, 'elsewhere') foreach @here;
produce(71, 80);
foreach my $language (@here)
{
	foreach my $kind (qw(receive poll))
	{
		my $name = "$language->{name}_$kind";
		my @told;

		eval { poll_until($name, sub { (@told = slurp_file(sample_out($name)) =~ /^\S+ (\S+)$/mg) >= 9 }) };
		is_deeply([ sort @told ], [ sort map { $kind eq 'poll' ? $_ : 'k' . $_ % 4 } fine(71, 80) ], "$name: effects elsewhere");
	}
	wait_in($language, 'count(*) = 6 FROM evtstore.dead_letters');
	wait_in($language, 'ready + delayed + in_flight = 0 FROM evtstore.queue_status');
}
stop_workers(', elsewhere');

stop_pgbouncer();
$node->stop;
done_testing();
