# What a crash leaves of the store, whoever dies when: appends that were acknowledged, whole transactions, versions
# without gaps.  Feed case 21 for appenders and the postmaster.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "restart_after_crash = on\nlog_statement = none\n");

sub sql { return $node->safe_psql('postgres', shift) }

# Every event has its row in the projection and its message, each once; nothing else has.
my $setup = q{
	CREATE TABLE projected (id uuid, stream text, version bigint);
	SELECT evtstore.create_projection('p', '{"*": "INSERT INTO projected VALUES (($1).id, ($1).stream, ($1).version)"}',
		'sync');
	SELECT evtstore.create_queue('q');
	SELECT evtstore.create_rule('r', '{}', 'queue:q');
	CREATE FUNCTION torn() RETURNS text LANGUAGE sql AS $$
		SELECT coalesce(string_agg(format('%s/%s: %s rows, %s messages', e.stream, e.version, p.n, m.n), '; '), '')
		FROM evtstore.events e
		CROSS JOIN LATERAL (SELECT count(*) AS n FROM projected p WHERE p.id = e.id) p
		CROSS JOIN LATERAL (SELECT count(*) AS n FROM evtstore_internal.message m WHERE m.event_id = e.id) m
		WHERE p.n <> 1 OR m.n <> 1
	$$;
};
sql($setup);

sub is_whole
{
	my $what = shift;

	is(store_faults($node), '', "$what: versions without gaps, ids once");
	is(sql('SELECT torn()'), '', "$what: projection and queue hold what the store holds");
	is(sql('SELECT (SELECT count(*) FROM projected) = (SELECT count(*) FROM evtstore.events)'), 't',
		"$what: and nothing else");
	return;
}

# --- an appender is killed in the middle of its transaction ---

sql(q{SELECT evtstore.append('a-1', 'T', '"before"')});
my $s1  = session($node);
my $pid = $s1->query_safe('SELECT pg_backend_pid()');
$s1->query_safe('BEGIN');
$s1->query_safe(q{SELECT evtstore.append('a-1', 'T', '"never"'), evtstore.append('new-1', 'T', '"never"')});
sql(q{SELECT evtstore.append('b-1', 'T', '"other"')});
my $last = last_position($node);
kill9($pid);
poll_sql($node, 'SELECT true');
is(sql(q{SELECT string_agg(data #>> '{}', ' ' ORDER BY position) FROM evtstore.read_all()}), 'before other',
	'what it appended is gone');
is(sql(q{SELECT count(*) FROM evtstore.why_behind()}), 0, 'and holds nobody');
is(sql(q{SELECT version FROM evtstore.append('a-1', 'T', '"after"', expected_version => 1)}), 2,
	'the stream goes on where it was');
is(sql(q{SELECT version FROM evtstore.append('new-1', 'T', '1', expected_version => 0)}), 1,
	'a stream that never was is new');
is(sql("SELECT count(*) FROM evtstore.read_all($last)"), 2, 'at positions that nobody had');
is_whole('appender killed');
eval { $s1->quit };

# --- it is ended in an orderly way: no crash, its floor goes with it ---

$s1 = session($node);
$pid = $s1->query_safe('SELECT pg_backend_pid()');
$s1->query_safe('BEGIN');
$s1->query_safe(q{SELECT evtstore.append('a-1', 'T', '"never"')});
my $before = sql(q{SELECT position FROM evtstore.append('b-1', 'T', '"held"')});
cmp_ok(sql('SELECT evtstore.head_position()'), '<', $before, 'an appender holds the head');
sql("SELECT pg_terminate_backend($pid)");
poll_sql($node, "SELECT evtstore.head_position() = $before");
ok(1, 'one that is terminated does not');
is_whole('appender terminated');
eval { $s1->quit };

# --- the server goes down while many append ---

# Each child appends to streams of its own, to one that all share, in transactions of several appends and in savepoints.
sub start_appenders
{
	my ($round) = @_;
	my @children;

	foreach my $child (1 .. 4)
	{
		my $own    = "own$child-$round";
		my $select = 'SELECT stream, version, position FROM';
		my $two    = q{'[{"type": "T", "data": 1}, {"type": "T", "data": 2}]'};
		my $script = '';

		foreach my $n (1 .. 4000)
		{
			my @statements = (
				"$select evtstore.append('$own', 'T', '$n');",
				"$select evtstore.append('shared-1', 'T', '$n');",
				"BEGIN; $select evtstore.append_events('$own', $two);"
				  . " $select evtstore.append('two-$child', 'T', '$n'); COMMIT;",
				"BEGIN; SAVEPOINT a; SELECT FROM evtstore.append('$own', 'T', '$n'); ROLLBACK TO a;"
				  . " $select evtstore.append('shared-1', 'T', '$n'); COMMIT;");

			# of what is printed in a transaction only what "done" follows is acknowledged
			$script .= "$statements[$n % 4]\n\\echo done\n";
		}
		push @children, start_psql($node, $script);
	}
	return @children;
}

# What a child knows to be committed.
sub acknowledged
{
	my @lines = @_;
	my @acknowledged;
	my @open;

	foreach my $line (@lines)
	{
		if ($line eq 'done')
		{
			push @acknowledged, splice @open;
		}
		else
		{
			push @open, $line;
		}
	}
	return @acknowledged;
}

foreach my $way ('immediate stop', 'postmaster killed', 'backend killed')
{
	my @children = start_appenders($way =~ s/ .*//r);
	my $seen     = sql('SELECT count(*) FROM evtstore.events');

	# in the middle of it
	poll_until('400 more events', sub { sql('SELECT count(*) FROM evtstore.events') > $seen + 400 });
	if ($way eq 'immediate stop')
	{
		$node->stop('immediate');
		$_->finish foreach @children;
		$node->start;
	}
	elsif ($way eq 'postmaster killed')
	{
		my @backends = split /\n/, sql(q{SELECT pid FROM pg_stat_activity});
		$node->kill9;
		$_->finish foreach @children;
		# what the postmaster left behind notices and goes
		foreach my $backend (@backends)
		{
			poll_until("the end of backend $backend", sub { !kill 0, $backend });
		}
		$node->start;
	}
	else
	{
		kill9(sql(q{SELECT pid FROM pg_stat_activity WHERE query LIKE '%evtstore.append%' AND pid <> pg_backend_pid()
					AND backend_type = 'client backend' LIMIT 1}));
		$_->finish foreach @children;
		poll_sql($node, 'SELECT true');
	}

	my %stored = map { $_ => 1 } split /\n/, sql('SELECT stream, version, position FROM evtstore.events');
	my @acknowledged = map { acknowledged($_->lines) } @children;
	cmp_ok(scalar @acknowledged, '>', 100, "$way: appends were acknowledged before");
	my @lost = grep { !$stored{$_} } @acknowledged;
	is("@lost[0 .. ($#lost > 4 ? 4 : $#lost)]", '', "$way: all of them are there");
	is_whole($way);

	my ($highest) = sort { $b <=> $a } map { (split /\|/)[2] } grep { /\|/ } map { $_->lines } @children;
	cmp_ok(sql(q{SELECT position FROM evtstore.append('after-1', 'T', '1')}), '>', $highest,
		"$way: positions go on above all that were seen");
	is(sql('SELECT evtstore.head_position() = last_value FROM evtstore_internal.position_seq'), 't',
		"$way: nobody holds the head");
}

done_testing();
