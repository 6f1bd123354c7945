# Steps of sagas that an endpoint takes: done when it has, failed when it refuses or the retry policy is spent, unknown when the time is over while
# something is out; undone through an endpoint, too.  The receiver is told whose step it is, with the same id over all attempts.
use strict;
use warnings;

use EvtTest;
use JSON::PP qw(decode_json);
use Test::More;

my $node = new_node('main', conf => "evtstore.poll_interval = '50ms'\nrestart_after_crash = on\n");
my $receiver = start_receiver(args => ['--record-all']);

sub sql { return $node->safe_psql('postgres', shift) }

sub fails { return ($node->psql('postgres', shift))[2] }

# path => what is asked of the receiver there
my %endpoint = (taken => '?status=202', told => '?status=200', refused => '?status=422', broken => '?status=500', slow => '?status=200&delay_ms=2500', flaky => '?fail_first=2');
sql("SELECT evtstore.create_endpoint('$_', '" . $receiver->url("/$_$endpoint{$_}") . "')") foreach sort keys %endpoint;
sql(q{CREATE TABLE called (what jsonb, headers jsonb);
	CREATE FUNCTION here(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO public.called VALUES (d.body, d.headers);
		IF d.body->>'bad' IS NOT NULL THEN RAISE 'reject: no'; END IF;
	END $$;
	SELECT evtstore.create_endpoint('here', 'sql:public.here');
	CREATE VIEW steps AS SELECT s.business_key, s.status AS saga, string_agg(concat_ws(' ', CASE WHEN t.undoes > 0 THEN 'undo' END, t.state, t.attempt, t.status, t.error), ', ' ORDER BY t.seq) AS steps
		FROM evtstore.sagas s JOIN evtstore.saga_steps t ON t.saga_id = s.id GROUP BY s.id, s.business_key, s.status;
	CREATE FUNCTION one(endpoint text, more jsonb DEFAULT '{}', saga jsonb DEFAULT '{"Undo": "none"}') RETURNS jsonb LANGUAGE sql AS $$
		SELECT jsonb_build_object('StartAt', 'A', 'States', jsonb_build_object('A', jsonb_build_object('Type', 'Task', 'Resource', 'endpoint:' || endpoint, 'End', true, 'Saga', saga) || more)) $$});

sub steps { return sql("SELECT steps FROM steps WHERE business_key = '$_[0]'") }

sub ended { return poll_sql($node, "SELECT ended_at IS NOT NULL FROM evtstore.sagas WHERE business_key = '$_[0]'") }

sub begin { return sql("SELECT evtstore.define_saga('$_[0]', $_[1]); SELECT evtstore.start_saga('$_[0]', '" . ($_[2] // '{"n": 1}') . "', business_key => '$_[0]')") }

# --- taken ---

begin('take', q{one('taken')});
ended('take');
is(steps('take'), 'A 1 done', 'what was taken is done');
is(sql(q{SELECT output FROM evtstore.sagas WHERE business_key = 'take'}), '{"status": 202}', 'with what is known of the answer');
my ($got) = grep { $_->{path} =~ m{^/taken} } $receiver->requests;
my $id = sql(q{SELECT id FROM evtstore.sagas WHERE business_key = 'take'});
is_deeply($got->{body}, { n => 1 }, 'the step\'s input is the body');
is($got->{ce}{id}, "$id/1", 'the id is the key of the step');
is($got->{headers}{'idempotency-key'}, "$id/1", 'in both places');
is($got->{ce}{type}, 'take.A', 'the type names saga and state');
like($got->{ce}{source}, qr{/sagas/take$}, 'and the source the saga');
is(join(' ', map { $got->{headers}{"evtstore-saga$_"} } '', qw(-id -state -attempt -undo)), "take $id A 1 false", 'headers say whose it is');
ok(defined $got->{headers}{'evtstore-saga-deadline'}, 'and until when');

# --- refused, given up ---

sql(q{SELECT evtstore.define_saga('refuse', '{"StartAt": "A", "States": {
	"A": {"Type": "Task", "Resource": "endpoint:refused", "Saga": {"Undo": "none"}, "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 0.01}],
		"Catch": [{"ErrorEquals": ["evtstore.EndpointRefused"], "Next": "B"}], "End": true},
	"B": {"Type": "Pass", "End": true}}}'); SELECT evtstore.start_saga('refuse', business_key => 'refuse')});
ended('refuse');
is(steps('refuse'), 'A 1 failed evtstore.EndpointRefused', 'what is refused is not tried again, and can be caught');
like(sql(q{SELECT output->>'Cause' FROM evtstore.sagas WHERE business_key = 'refuse'}), qr/^HTTP 422/, 'with what was answered');
begin('flaky', q{one('flaky')});
ended('flaky');
is(steps('flaky'), 'A 1 done', 'the retry policy of the delivery is not that of the step');

# --- undone ---

sql(q{SELECT evtstore.define_saga('undo', '{"StartAt": "A", "States": {
	"A": {"Type": "Task", "Resource": "endpoint:told", "Saga": {"Undo": "endpoint:taken", "UndoInput": {"was.$": "$.output.status"}}, "Next": "B"},
	"B": {"Type": "Fail", "Error": "Enough"}}}'); SELECT evtstore.start_saga('undo', business_key => 'undo')});
ended('undo');
is(steps('undo'), 'A 1 undone, undo A 1 done', 'an undo goes to an endpoint');
($got) = grep { $_->{path} =~ m{^/taken} && $_->{ce}{type} eq 'undo.A.undo' } $receiver->requests;
is_deeply($got->{body}, { was => 200 }, 'with its own input');
is(join(' ', map { $got->{headers}{"evtstore-saga-$_"} } qw(undo forward)), 'true done', 'and says what it undoes');
like($got->{headers}{'evtstore-saga-forward-key'}, qr{/1$}, 'by its key');

# --- the time of the step ---

begin('late', q{one('slow', '{"TimeoutSeconds": 0.7}')});
ended('late');
like(steps('late'), qr/^A 1 unknown States.Timeout/, 'what is out when the time is over may have arrived');
poll_sql($node, q{SELECT steps LIKE 'A 1 done%' FROM steps WHERE business_key = 'late'});
pass('and the answer that comes later is known');
is(sql(q{SELECT outcome FROM evtstore_internal.saga_answer WHERE saga_id = (SELECT id FROM evtstore.sagas WHERE business_key = 'late')}), 'late', 'as a late one');

# --- taken away by who idles in his transaction ---

my %idle = map { $_ => session($node) } qw(commit rollback);
sql(q{SELECT evtstore.define_saga('idle', one('slow'))});
sql("SELECT evtstore.start_saga('idle', '{}', business_key => '$_')") foreach sort keys %idle;
poll_sql($node, q{SELECT in_flight = 2 FROM evtstore.queue_status WHERE name = 'evtstore:endpoint:slow'});
foreach my $how (sort keys %idle)
{
	$idle{$how}->query_safe('BEGIN');
	$idle{$how}->query_safe("SELECT evtstore.cancel_saga(id, false) FROM evtstore.sagas WHERE business_key = '$how'");
}
poll_sql($node, q{SELECT count(*) = 2 FROM evtstore_internal.message m JOIN evtstore.sagas s ON m.body->>'saga' = s.id::text
	WHERE s.name = 'idle' AND m.body->'success' = 'true'});
begin('beside', q{one('told')});
ended('beside');
is(steps('beside'), 'A 1 done', 'the relay waits for nobody who takes away what it has delivered');
$idle{$_}->query_safe($_) foreach sort keys %idle;
poll_sql($node, q{SELECT steps = 'A 1 done' FROM steps WHERE business_key = 'commit'});
is(sql(q{SELECT saga FROM steps WHERE business_key = 'commit'}), 'cancelled', 'what was delivered is known to be done');
ended('rollback');
is(sql(q{SELECT status, output FROM evtstore.sagas WHERE business_key = 'rollback'}), 'succeeded|{"status": 200}', 'and answers where nobody took it away');
poll_sql($node, q{SELECT in_flight = 0 AND ready = 0 FROM evtstore.queue_status WHERE name = 'evtstore:endpoint:slow'});
$_->quit foreach values %idle;

# --- a function of this database ---

begin('inside', q{one('here')}, '{"n": 2}');
ended('inside');
is(steps('inside'), 'A 1 done', 'an endpoint may be a function');
is(sql(q{SELECT what->>'n' || ' ' || (headers->>'saga') FROM called}), '2 inside', 'which gets the command');

# --- an endpoint that is away ---

my $url = $receiver->url('/away?status=200');
sql(qq{SELECT evtstore.create_endpoint('away', '$url')});
$receiver->stop;
begin('away', q{one('away')});
like(sql(q{SELECT waiting_for FROM evtstore.sagas WHERE business_key = 'away'}), qr/of queue evtstore:endpoint:away$/, 'the view says what it waits for');
like(fails(q{SELECT evtstore.drop_endpoint('away')}), qr/steps of sagas wait for endpoint "away"/, 'the endpoint stays while steps wait for it');
$node->stop('immediate');
$node->start;
$receiver->start;
ended('away');
is(steps('away'), 'A 1 done', 'an outage, and a crash of the server, are waited for');

# --- what is nobody's ---

like(fails(q{SELECT evtstore.send('evtstore:endpoint:taken', '{}')}), qr/is evtstore's own/, 'nobody else sends there');
like(fails(q{SELECT evtstore.receive('evtstore:endpoint:taken')}), qr/is evtstore's own/, 'or receives');
sql(q{SELECT evtstore.drop_endpoint('away')});
sql(q{SELECT evtstore.start_saga('away', business_key => 'gone')});
is(steps('gone'), 'A 1 failed States.TaskFailed', 'a step whose endpoint was dropped fails');
is(sql(q{SELECT cause FROM evtstore.sagas WHERE business_key = 'gone'}), 'endpoint "away" does not exist', 'and says so');
is(sql(q{SELECT count(*) FROM evtstore_internal.message}), 0, 'no message and no timer is left');

done_testing();
