# Input that takes big values or other encodings: texts of hundreds of megabytes, databases of other encodings than UTF-8, bytes that
# are no text.  Each is correct or a clean error; a transaction goes on after ROLLBACK TO, and the store is whole.
use strict;
use warnings;

use EvtFeed;
use EvtTest;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main', conf => "log_statement = none\nlog_min_error_statement = panic\nmax_wal_size = 4GB\nmax_prepared_transactions = 2\n");

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# --- big values ---

# near the limit of jsonb, 256 MB; more than 1 GB cannot come in one call
is(sql(q{SELECT version FROM evtstore.append('big-1', 'T', to_jsonb(repeat('x', 200000000)))}), 1, 'a text of 200 MB is appended');
is(sql(q{SELECT octet_length((evtstore.read_stream('big-1')).data::text)}), 200_000_002, 'and read');
is(sqlstate($node, q{SELECT evtstore.append_events('big-1', (SELECT jsonb_agg(jsonb_build_object('type', 'T', 'data', repeat('y', 30000000))) FROM generate_series(1, 10)))}),
	'54000', 'a batch of 300 MB cannot be written down');
is(sql(q{SELECT evtstore.stream_version('big-1')}), 1, 'and leaves nothing');

my $out = sql(q{
	BEGIN;
	SELECT version FROM evtstore.append('kept-1', 'T', '1');
	SAVEPOINT s;
	\set ON_ERROR_STOP 0
	SELECT evtstore.append('big-2', 'T', to_jsonb(repeat('x', 300000000)));
	\echo :LAST_ERROR_SQLSTATE
	ROLLBACK TO s;
	SELECT evtstore.append_events('big-2', jsonb_build_array(jsonb_build_object('type', 'T', 'data', 1), repeat('x', 10000000)));
	\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
	ROLLBACK TO s;
	SELECT evtstore.append('big-2', 'T', '1', metadata => to_jsonb(repeat('x', 10000000)));
	\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE
	ROLLBACK TO s;
	SELECT evtstore.append('big-2', repeat('x', 10000000), '1');
	\echo :LAST_ERROR_SQLSTATE
	ROLLBACK TO s;
	SELECT evtstore.append(repeat('x', 10000000), 'T', '1');
	\echo :LAST_ERROR_SQLSTATE
	ROLLBACK TO s;
	SELECT version FROM evtstore.append('kept-1', 'T', '2');
	COMMIT;
});
is($out, join("\n",
		1, '54000',
		'22023 element 2 of events must be an object, not a value of 10000012 bytes',
		'22023 metadata must be a JSON object, not a value of 10000012 bytes',
		'22023', '22023', 2),
	'what is too big is refused, the transaction goes on');

# several thousand streams in one call, and 50,000 events
is(sql(q{SELECT count(*), max(version) FROM evtstore.append_streams((SELECT jsonb_agg(jsonb_build_object('stream', 'many-' || i, 'expected_version', 0,
	'events', jsonb_build_array(jsonb_build_object('type', 'T', 'data', i)))) FROM generate_series(1, 5000) i))}), '5000|1', '5,000 streams in one call');
is(sql(q{SELECT version FROM evtstore.append_events('many-1', (SELECT jsonb_agg(jsonb_build_object('type', 'T', 'data', i)) FROM generate_series(1, 50000) i))}),
	50001, '50,000 events in one call');
is(store_faults($node), '', 'the store is whole');

# --- two-phase commit ---

is(sqlstate($node, q{BEGIN; SELECT evtstore.append('p-1', 'T', '1'); PREPARE TRANSACTION 'p'}), '0A000', 'a transaction that appended cannot be prepared');
is(sqlstate($node, q{BEGIN; SELECT evtstore.append_if('[]', '{"items": [{"types": ["X"]}]}'); PREPARE TRANSACTION 'p'}), '0A000',
	'one with a condition without tags neither');
is(sql(q{SELECT count(*) FROM pg_prepared_xacts}), 0, 'none is left behind');
sql(q{BEGIN; SELECT evtstore.stream_version('p-1'); SAVEPOINT s; SELECT evtstore.append('p-1', 'T', '1'); ROLLBACK TO s; CREATE TABLE prepared (); PREPARE TRANSACTION 'p'});
is(sql(q{SELECT version FROM evtstore.append('p-1', 'T', '1', 0)}), 1, 'one whose appends were rolled back holds nobody');
is(sql(q{SELECT count(*) FROM evtstore.read_category('p')}), 1, 'and no reader');
sql(q{COMMIT PREPARED 'p'});

# --- bytes that are no text ---

# psql with settings of the start packet, which no encoding is checked for before it comes to ours
sub with_options
{
	my ($options, $sql, $database) = @_;
	my ($stdout, $stderr) = ('', '');

	local $ENV{PGOPTIONS} = $options;
	# by -c: it may end before it reads its input
	IPC::Run::run([ 'psql', '-XAtq', '-d', $node->connstr($database // 'postgres'), '-c', $sql ],
		'<', '/dev/null', '>', \$stdout, '2>', \$stderr);
	chomp $stdout;
	return $stderr =~ /((?:FATAL|ERROR):.*)/ ? $1 : $stdout;
}

foreach my $setting (qw(tenant actor correlation_id causation_id traceparent))
{
	like(with_options("-c evtstore.$setting=a\xffb", q{SELECT 1}), qr/FATAL:  invalid value for parameter "evtstore\.$setting"/,
		"evtstore.$setting takes no bytes that are no text");
	is(with_options("-c evtstore.$setting=\xc3\xa4", "SELECT current_setting('evtstore.$setting') = U&'\\00e4'"), 't', 'but text');
}
is(sqlstate($node, qq{SELECT evtstore.append('a\xff-1', 'T', '1')}), '22021', 'a name neither');
is(sqlstate($node, qq{SELECT evtstore.append('a-1', 'T', '"\xff"')}), '22021', 'nor data');
is(sqlstate($node, qq{SET client_encoding = 'LATIN1'; SELECT evtstore.append('\xe4-1', 'T', '"\xe4"')}), '00000', 'in the encoding of the client they are');
is(sql(q{SELECT stream, version FROM evtstore.read_stream(U&'\00e4-1') WHERE data = to_jsonb(U&'\00e4'::text)}), "\xc3\xa4-1|1", 'and are the same text in another one');
is(sqlstate($node, qq{SET client_encoding = 'LATIN1'; SELECT * FROM evtstore.append(U&'\\20ac-1', 'T', '1')}), '22P05', 'what a client cannot be shown is refused');
is(sql(q{SELECT evtstore.stream_version(U&'\20ac-1')}), 0, 'and not written');
my $copied = PostgreSQL::Test::Utils::tempdir . '/copied';
append_to_file($copied, "fine\nbad \xff\n");
is(sqlstate($node, qq{CREATE TABLE names (name text); COPY names FROM '$copied'}), '22021', 'COPY lets none in');

# --- databases of other encodings ---

sql(q{CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'});
sql(q{CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'});
foreach my $database (qw(latin1 ascii))
{
	my $client = "SET client_encoding = '" . ($database eq 'ascii' ? 'SQL_ASCII' : 'LATIN1') . "';";

	sql('CREATE EXTENSION evtstore', $database);
	is(sql(qq{$client SELECT version FROM evtstore.append('\xe4-1', '\xf6', '{"\xe4": "\xfc"}', tags => '{\xdf}')}, $database), 1, "$database: its text is appended");
	is(sql(qq{$client SELECT stream, type, data, tags FROM evtstore.read_category('\xe4')}, $database), "\xe4-1|\xf6|{\"\xe4\": \"\xfc\"}|{\xdf}", "$database: and read");
	is(sql(qq{$client SELECT count(*) FROM evtstore.read_query('{"items": [{"types": ["\xf6"], "tags": ["\xdf"]}]}')}, $database), 1, "$database: also by query");
	# the server's words differ
	like(sqlstate($node, q{SELECT evtstore.append('e-1', 'T', '"\u20ac"')}, $database), qr/^(?:22P05|0A000)$/, "$database: what it does not have is refused");
	like(sqlstate($node, q{SELECT evtstore.append_events('e-1', '[{"type": "\u20ac", "data": 1}]')}, $database), qr/^(?:22P05|0A000)$/, "$database: in names too");
	is(sqlstate($node, qq{$client SELECT evtstore.append(repeat('\xe4', 2000), 'T', '1')}, $database), '22023', "$database: names that are too long");
	is(sql(q{SELECT count(*) FROM evtstore.events}, $database), 1, "$database: nothing more was written");
	sql(qq{$client SELECT FROM evtstore.create_subscription('s', '{"pattern": {"data": {"\xe4": [{"suffix": {"equals-ignore-case": "X\xfc"}}, {"wildcard": "\xdf*\xdf"}]}}}')}, $database);
	sql(qq{$client SELECT evtstore.append('p-1', 'T', jsonb_build_object('\xe4', v)) FROM unnest('{ax\xfc,aX\xfc,aX\xdc,\xdf\xfc\xdf,\xdf}'::text[]) v}, $database);
	is(sql(qq{$client SELECT string_agg(body->>'\xe4', ' ' ORDER BY position) FROM evtstore.poll('s', 'c')}, $database), "ax\xfc aX\xfc \xdf\xfc\xdf", "$database: patterns compare bytes, and know the case of ASCII");
	is(with_options("-c evtstore.tenant=a\xffb", q{SELECT length(current_setting('evtstore.tenant'))}, $database), 3, "$database: its own bytes are a tenant");
}

done_testing();
