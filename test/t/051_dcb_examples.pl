#
# The decisions of docs/dcb.md under fire: its own functions, taken from the page, raced by many who retry as the page says.
#
#	courses		40 students want 4 courses of 10 seats each, and may have 3: all seats are taken, none twice
#	invoices	16 clerks issue numbers, and roll some back: no gap, no double, in the order of their positions
#	usernames	16 racers for each of 20 names, then for those that were closed, some long ago and some just now
#	orders		each form is sent by 8 at once: one order
#
# Then the retry itself: an event that the head has not reached refuses, and who waits for the head gets through.
#
use strict;
use warnings;

use EvtTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main',
	conf => "log_statement = none\nmax_connections = 100\nsynchronous_commit = off\ndeadlock_timeout = 100ms\n");

sub sql { return $node->safe_psql('postgres', shift) }

my @functions = slurp_file(test_tree() . '/docs/dcb.md') =~ /^```sql\n(CREATE (?:SCHEMA|FUNCTION|PROCEDURE) .*?)^```$/gms;
is(scalar(map { /^CREATE (?:FUNCTION|PROCEDURE) (\S+?)\(/mg } @functions), 6, 'the functions of the page');
sql($_) foreach @functions;

# What became of each try; an error that is neither the rule's nor a lost race is a failure of the test.
sql(q{
	CREATE TABLE school.outcome (what text, who int, result text);
	CREATE PROCEDURE school.try(who int, what text, decision text) LANGUAGE plpgsql AS $$
	DECLARE
		reason jsonb;
		message text;
	BEGIN
		FOR attempt IN 1 .. 500 LOOP
			reason := NULL;
			BEGIN
				EXECUTE decision;
				message := 'done';
			EXCEPTION
				WHEN SQLSTATE 'ST003' THEN
					GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
				WHEN raise_exception THEN
					message := SQLERRM;
			END;
			IF reason IS NULL THEN
				INSERT INTO school.outcome VALUES (what, who, message);
				COMMIT;
				RETURN;
			END IF;
			COMMIT;
			CALL evtstore.wait_for_head((reason->>'position')::bigint, '60s');
		END LOOP;
		RAISE EXCEPTION 'racer % of % never got an answer', who, what USING ERRCODE = 'P0009';
	END $$;
});

# Runs "CALL PROCEDURE(number of the racer)" in so many sessions at once.
sub race
{
	my ($name, $racers, $call) = @_;
	my $script = $node->basedir . '/race.sql';
	my ($stdout, $stderr);

	open my $out, '>', $script or die "$script: $!";
	print $out "$call;\n";
	close $out;
	my $ok = run_log(
		[ $node->installed_command('pgbench'), '-n', '-c', $racers, '-j', 2, '-t', 1, '-f', $script, '-h', $node->host, '-p',
			$node->port, '-U', 'postgres', 'postgres' ],
		'>', \$stdout, '2>', \$stderr);
	ok($ok && $stderr !~ /ERROR/, "$name: every racer got an answer") or diag $stderr;
	return;
}

# --- courses ---

sql(q{
	SELECT evtstore.append('course-' || n, 'CourseDefined', '{"seats": 10}', tags => ARRAY['course:' || n]) FROM generate_series(1, 4) n;
	CREATE PROCEDURE school.student(me int) LANGUAGE plpgsql AS $$
	DECLARE
		course int;
	BEGIN
		FOREACH course IN ARRAY ARRAY(SELECT n FROM generate_series(1, 4) n ORDER BY random()) LOOP
			CALL school.try(me, 'course ' || course, format('SELECT school.subscribe(%L, %L)', me, course));
		END LOOP;
	END $$;
});
race('courses', 40, 'CALL school.student(:client_id)');
my $subscribed = q{(SELECT substr(tags[1], 9) AS student, substr(tags[2], 8) AS course FROM evtstore.events WHERE type = 'StudentSubscribed') s};
is(sql("SELECT string_agg(course || ':' || n, ' ' ORDER BY course) FROM (SELECT course, count(*) AS n FROM $subscribed GROUP BY 1) c"),
	'1:10 2:10 3:10 4:10', 'courses: each has exactly ten students');
is(sql("SELECT count(*) FROM (SELECT student FROM $subscribed GROUP BY 1 HAVING count(*) > 3) x"), '0', 'no student has more than three');
is(sql("SELECT count(*) FROM (SELECT FROM $subscribed GROUP BY student, course HAVING count(*) > 1) x"), '0', 'none has one twice');
is(sql(q{SELECT count(*) FROM school.outcome WHERE what LIKE 'course%' AND result = 'done'}), '40', 'who was told so is in');
is(sql(q{SELECT count(*) FROM school.outcome WHERE what LIKE 'course%'}), '160', 'everybody was told about each course');

# --- invoices ---

my ($CLERKS, $EACH) = (16, 20);
sql(qq{
	CREATE PROCEDURE school.clerk(me int) LANGUAGE plpgsql AS \$\$
	BEGIN
		FOR i IN 1 .. $EACH LOOP
			CALL school.try(me, 'invoice', 'SELECT school.issue_invoice(''r'', 1)' ||
				-- now and then the number was issued and the transaction fails after it
				CASE WHEN i % 5 = 0 THEN \$q\$; DO 'BEGIN RAISE EXCEPTION ''thought better of it''; END'\$q\$ ELSE '' END);
		END LOOP;
	END \$\$;
});
race('invoices', $CLERKS, 'CALL school.clerk(:client_id)');
my $issued = $CLERKS * $EACH * 4 / 5;
my $invoices = q{(SELECT position, (data->>'number')::int AS number FROM evtstore.events WHERE type = 'InvoiceIssued') i};
is(sql("SELECT count(*) || ' ' || count(DISTINCT number) || ' ' || min(number) || ' ' || max(number) FROM $invoices"),
	"$issued $issued 1 $issued", 'invoices: no gap and no double');
is(sql("SELECT count(*) FROM (SELECT number, row_number() OVER (ORDER BY position) AS n FROM $invoices) x WHERE number <> n"),
	'0', 'in the order of their positions');
is(sql(q{SELECT count(*) FROM school.outcome WHERE what = 'invoice' AND result = 'thought better of it'}),
	$CLERKS * $EACH / 5, 'some were rolled back');

# --- usernames ---

sql(q{
	CREATE PROCEDURE school.newcomer(me int, attempt text) LANGUAGE plpgsql AS $$
	BEGIN
		FOR n IN 1 .. 20 LOOP
			CALL school.try(me, attempt, format('SELECT school.register(%L, %L)', attempt || me || '-' || n, 'name' || n));
		END LOOP;
	END $$;
});
my $registered = q{(SELECT tags[1] AS name, count(*) AS n FROM evtstore.events WHERE type = 'AccountRegistered' GROUP BY 1) r};
race('usernames', 16, q{CALL school.newcomer(:client_id, 'first')});
is(sql("SELECT count(*) || ' ' || max(n) FROM $registered"), '20 1', 'usernames: each name has one account');
is(sql(q{SELECT count(DISTINCT result) || ' ' || count(*) FROM school.outcome WHERE what = 'first' AND result LIKE 'username % is taken'}),
	'20 300', 'the others were told that it is taken');
# the first ten were closed four days ago, five of the rest just now
sql(q{SELECT evtstore.append('account-' || n, 'AccountClosed', '{}', tags => ARRAY['username:name' || n],
	occurred_at => now() - CASE WHEN n <= 10 THEN interval '4 days' ELSE interval '0' END) FROM generate_series(1, 15) n});
race('usernames again', 16, q{CALL school.newcomer(:client_id, 'second')});
is(sql("SELECT string_agg(n::text, ' ' ORDER BY substr(name, 14)::int) FROM $registered"),
	join(' ', (2) x 10, (1) x 10), 'what was released long ago has one new account, the others none');
is(sql(q{SELECT string_agg(format('%s %s', result, n), ', ' ORDER BY result COLLATE "C") FROM (
	SELECT regexp_replace(result, 'name\d+', 'NAME') AS result, count(*) AS n FROM school.outcome WHERE what = 'second' GROUP BY 1) r}),
	'done 10, username NAME is not free yet 80, username NAME is taken 230', 'and everybody was told why');

# --- one order for each form ---

sql(q{
	CREATE PROCEDURE school.send_forms(me int) LANGUAGE plpgsql AS $$
	DECLARE
		form text;
	BEGIN
		FOR n IN 1 .. 50 LOOP
			form := 'form:' || n;
			BEGIN
				PERFORM evtstore.append_if(
					jsonb_build_array(jsonb_build_object('type', 'FormSent', 'data', me, 'tags', jsonb_build_array('order:' || me || '-' || n, form))),
					jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', jsonb_build_array(form)))));
				INSERT INTO school.outcome VALUES ('form', me, 'done');
			EXCEPTION WHEN SQLSTATE 'ST003' THEN
				INSERT INTO school.outcome VALUES ('form', me, 'sent before');
			END;
			COMMIT;
		END LOOP;
	END $$;
});
race('orders', 8, 'CALL school.send_forms(:client_id)');
is(sql(q{SELECT count(*) || ' ' || count(DISTINCT tags[2]) FROM evtstore.events WHERE type = 'FormSent'}), '50 50', 'orders: one for each form');
is(sql(q{SELECT string_agg(format('%s %s', result, n), ', ' ORDER BY result) FROM (
	SELECT result, count(*) AS n FROM school.outcome WHERE what = 'form' GROUP BY 1) r}), 'done 50, sent before 350', 'and each knows');

# --- what the page says of the retry: a bystander holds the head ---

my $bystander = session($node);
$bystander->query_safe('BEGIN');
$bystander->query_safe(q{SELECT evtstore.append('elsewhere-1', 'T', '1')});
sql(q{SELECT evtstore.append('course-x', 'CourseDefined', '{"seats": 10}', tags => '{course:x}')});
my $subscribe = q{SELECT school.subscribe('me', 'x')};
is(sqlstate($node, $subscribe), 'P0001', 'the course is not to be read yet');
is(
	sqlstate($node, q{SELECT evtstore.append_if('[{"type": "T", "data": 1}]', '{"items": [{"tags": ["course:x"]}]}', evtstore.head_position())}),
	'ST003', 'but refuses, again and again');
my $retrying = session($node);
my $waits    = $retrying->query_safe('SELECT pg_backend_pid()');
# whoever read a course that has no seats defined would give up: this one decides by the condition alone
$retrying->query_until(qr/begun/, q{\echo begun} . "\n"
	  . q{CALL school.until_decided($$SELECT evtstore.append_if('[{"type": "Decided", "data": 1}]', '{"items": [{"tags": ["course:x"]}]}', evtstore.head_position())$$);}
	  . "\n");
poll_sql($node, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $waits AND state = 'active' AND wait_event_type = 'Extension'", 'Extension');
is(sql(q{SELECT count(*) FROM evtstore.events WHERE type = 'Decided'}), '0', 'who retries as the page says sleeps until it is decided');
$bystander->query_safe('COMMIT');
$retrying->query_safe('SELECT 1');
is(sql(q{SELECT count(*) FROM evtstore.events WHERE type = 'Decided'}), '1', 'and then gets through');
is(sqlstate($node, $subscribe), '00000', 'as does everybody');
$_->quit foreach $bystander, $retrying;

$node->stop;
done_testing();
