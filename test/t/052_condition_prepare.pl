#
# Append conditions and PREPARE TRANSACTION (feed case 13).  A transaction that appended is refused by the feed; one that only
# asked a condition has appended nothing, and is refused where appends would have to look for it in flight: a broad condition.
# Whatever is refused is gone at once: nothing waits for it, and the count of conditions in flight is back at zero.
#
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nmax_prepared_transactions = 8\n");

my %query = (
	'by tag'          => q{{"items": [{"tags": ["x"]}]}},
	'by type and tag' => q{{"items": [{"types": ["T"], "tags": ["x"]}]}},
	'by type'         => q{{"items": [{"types": ["T"]}]}},
	'on everything'   => '{}');
my $EVENT = q{[{"type": "T", "data": 1, "tags": ["x"]}]};
my $LATER = q{[{"type": "T", "data": 2, "tags": ["x"]}]};

sub sql { return $node->safe_psql('postgres', shift) }

# sqlstate and message of the PREPARE of a transaction that did this
sub prepare
{
	my $work = shift;
	my ($out, $err) = ('', '');

	$node->psql('postgres', "BEGIN; $work; PREPARE TRANSACTION 'p'", stdout => \$out, stderr => \$err,
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	return $err =~ /ERROR:  (\w{5}): ([^\n]*)/ ? ($1, $2) : ('00000', $err);
}

# an ordinary append of the type and the tag goes through at once, and is taken back: the count of broad conditions is zero,
# or it would have to lock its type
sub nobody_waits
{
	my $what = shift;

	is(
		sqlstate($node, "SET lock_timeout = '2s'; BEGIN; SELECT evtstore.append('s-1', 'T', '1', tags => '{x}'); "
			  . "DO \$\$ BEGIN IF EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' "
			  . "AND objsubid IN (SELECT objsubid FROM type_lock)) THEN RAISE 'a type is locked'; END IF; END \$\$; ROLLBACK"),
		'00000', "$what: nobody waits for it, nobody looks for it");
	return;
}

# how the lock of a type shows in pg_locks: what a broad condition of nothing but a type takes beyond the table's
sql('CREATE TABLE type_lock AS SELECT NULL::smallint AS objsubid LIMIT 0');
sql(qq{BEGIN; SELECT evtstore.append_if('[]', '$query{'by type'}');
	INSERT INTO type_lock SELECT DISTINCT objsubid FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'; COMMIT});
is(sql('SELECT count(*) FROM type_lock'), 2, 'the locks of a type, and of all types, are known');

foreach my $name (sort keys %query)
{
	my ($state, $message) = prepare("SELECT evtstore.append_if('$EVENT', '$query{$name}')");
	is($state, '0A000', "$name, with an event: refused");
	nobody_waits($name);
	($state, $message) = prepare("SAVEPOINT s; SELECT evtstore.append_if('$EVENT', '$query{$name}'); RELEASE s");
	is($state, '0A000', "$name, in a savepoint: refused");
	nobody_waits("$name, in a savepoint");
}

foreach my $name ('by type', 'on everything')
{
	my ($state, $message) = prepare("SELECT evtstore.append_if('[]', '$query{$name}')");
	is($state, '0A000', "$name, without an event: refused");
	like($message, qr/cannot PREPARE a transaction that has an append condition without tags/, "$name: it says why");
	nobody_waits("$name, without an event");
	($state, $message) = prepare("SAVEPOINT s; SELECT evtstore.append_if('[]', '$query{$name}'); ROLLBACK TO s");
	is("$state $message", '00000 ', "$name, in a savepoint that was rolled back: prepared");
	nobody_waits("$name, rolled back");
	sql(q{ROLLBACK PREPARED 'p'});
}
is(sql('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left prepared');

# A condition with tags that wrote nothing may be prepared: its locks go over to the prepared transaction, and hold, also over
# a crash, which the lock of an append meets as any other.
my ($state, $message) = prepare("SELECT evtstore.append_if('[]', '$query{'by tag'}')");
is("$state $message", '00000 ', 'a condition with tags and without events can be prepared');
foreach my $when ('prepared', 'prepared, after a crash')
{
	crash($node) if $when =~ /crash/;
	is(sqlstate($node, q{SET lock_timeout = '100ms'; SELECT evtstore.append('s-1', 'T', '1', tags => '{x}')}), '55P03',
		"$when: an append of the tag waits for it");
	is(sqlstate($node, q{SET lock_timeout = '2s'; SELECT evtstore.append('s-1', 'T', '1', tags => '{y}')}), '00000',
		"$when: one of another tag does not");
}
sql(q{COMMIT PREPARED 'p'});
is(sqlstate($node, "SELECT evtstore.append_if('$LATER', '$query{'by tag'}')"), '00000', 'committed: the tag is free');

# a transaction that was refused after it was waited for lets the waiter go on, as a rollback does
my $holder = session($node);
my $waiter = session($node);
my $pid    = $waiter->query_safe('SELECT pg_backend_pid()');
$holder->query_safe(qq{BEGIN; SELECT evtstore.append_if('[]', '{"items": [{"types": ["W"]}]}')});
$waiter->query_until(qr/begun/, "\\echo begun\nSELECT evtstore.append('w-1', 'W', '1');\n");
poll_sql($node, "SELECT count(*) FROM pg_locks WHERE pid = $pid AND NOT granted", '1');
$holder->query(q{PREPARE TRANSACTION 'p'});
like($holder->{stderr}, qr/cannot PREPARE/, 'the holder is refused');
$waiter->query_safe('SELECT 1');
is(sql(q{SELECT evtstore.stream_version('w-1')}), 1, 'and the append that waited for it goes on');
$_->quit foreach $holder, $waiter;

$node->stop;
done_testing();
