--
-- Steps of sagas that events answer: ReplyEvents, FailEvents, Correlate, Correlation. Workers bring what an append leaves.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
\pset tuples_only on

CREATE FUNCTION arrivals() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id
    WHERE d.name = 'evtstore:sagas' AND NOT m.body ? 'timer' $$;
CREATE FUNCTION waiting() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s seq %s %s %s%s', type, seq, path, value, CASE WHEN fails THEN ' fails' END) FROM evtstore_internal.saga_correlation ORDER BY saga_id, first_seq, type $$;
CREATE FUNCTION steps(id uuid) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT format('%s %s %s %s %s', t.seq, t.kind, t.state, t.status, t.error) FROM evtstore.saga_steps t WHERE t.saga_id = id ORDER BY t.seq $$;
CREATE FUNCTION note(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 $$;

-- what a definition has to say
CREATE FUNCTION faults(saga text, definition text DEFAULT '"Saga": {"Correlation": "$.data.order"},', resource text DEFAULT 'queue:pay') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT path || ' ' || fault FROM evtstore.check_saga(format('{"StartAt": "A", %s "States": {"A": {"Type": "Task", "Resource": "%s", "End": true, "Saga": %s}}}',
        definition, resource, saga)::json) $$;
SELECT faults('{"FailEvents": ["No"]}', '');
SELECT faults('{"ReplyEvents": ["Yes"], "FailEvents": ["No", "Yes"], "Correlate": "$.order"}');
SELECT faults('{"FailEvents": ["No"], "Correlate": "$.order"}', resource => 'sql:a.b');
SELECT faults('{"FailEvents": [""], "Correlate": "$.order"}');
SELECT faults('{"FailEvents": ["No"], "Correlate": "$.order"}');

SELECT evtstore.create_queue('pay'), evtstore.create_queue('refund');
SELECT evtstore.define_saga('order', '{"StartAt": "Charge", "Saga": {"Correlation": "$.data.order"}, "States": {
    "Charge": {"Type": "Task", "Resource": "queue:pay", "Parameters": {"amount.$": "$.amount"}, "TimeoutSeconds": 600, "ResultPath": "$.paid", "Next": "Which",
        "Retry": [{"ErrorEquals": ["PaymentBusy", "States.Timeout"], "MaxAttempts": 2, "IntervalSeconds": 0.01}],
        "Catch": [{"ErrorEquals": ["PaymentRefused"], "ResultPath": "$.why", "Next": "Refused"}],
        "Saga": {"Undo": "queue:refund", "ReplyEvents": ["PaymentReceived", "PaymentPartly"], "FailEvents": ["PaymentRefused", "PaymentBusy"], "Correlate": "$.order"}},
    "Which": {"Type": "Choice", "Choices": [{"Variable": "$.paid.type", "StringEquals": "PaymentPartly", "Next": "Remind"}], "Default": "Ship"},
    "Remind": {"Type": "Pass", "Result": "remind", "End": true},
    "Refused": {"Type": "Pass", "End": true},
    "Ship": {"Type": "Task", "Resource": "sql:public.note", "End": true}}}');

\echo -- an event answers, whoever appends it; its command goes
SELECT version FROM evtstore.append('payment-1', 'PaymentReceived', '{"order": 7, "too": "early"}');
SELECT evtstore.start_saga('order', '{"order": 7, "amount": 12}') AS id \gset
SELECT evtstore.start_saga('order', '{"order": 8, "amount": 13}') AS other \gset
SELECT waiting();
BEGIN;
SELECT count(*) FROM evtstore.append('payment-2', 'PaymentReceived', '{"order": 7, "by": "nobody"}');
ROLLBACK;
SELECT arrivals();
-- others, in that or another respect
SELECT count(*) FROM evtstore.append_events('payment-3', '[{"type": "PaymentSeen", "data": {"order": 7}}, {"type": "PaymentReceived", "data": {"order": "7"}},
    {"type": "PaymentReceived", "data": {"order": 9}}, {"type": "PaymentReceived", "data": {}}, {"type": "PaymentReceived", "data": {"order": null}}, {"type": "PaymentReceived", "data": 7}]');
SELECT arrivals(), states FROM evtstore.sagas WHERE id = :'id';
SELECT version FROM evtstore.append('payment-4', 'PaymentReceived', '{"order": 7.0, "by": "card"}', metadata => '{"m": 1}');
CALL eventually('(SELECT status FROM evtstore.sagas WHERE id = ''' || :'id' || ''') = ''succeeded''');
SELECT output #- '{paid,id}' #- '{paid,position}' #- '{paid,metadata}', jsonb_object_keys(output->'paid') FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT ready, in_flight FROM evtstore.queue_status WHERE name = 'pay';
SELECT waiting();
-- again: nobody waits for it
SELECT version FROM evtstore.append('payment-4', 'PaymentReceived', '{"order": 7}');
SELECT arrivals(), count(*) FROM evtstore_internal.saga_answer;

\echo -- the command may be acknowledged before; then only the event is waited for
SELECT receipt FROM evtstore.receive('pay') \gset
SELECT evtstore.ack(:'receipt');
SELECT states, waiting_for IS NOT NULL FROM evtstore.sagas WHERE id = :'other';
SELECT version FROM evtstore.append('payment-5', 'PaymentPartly', '{"order": 8}');
CALL eventually('(SELECT status FROM evtstore.sagas WHERE id = ''' || :'other' || ''') = ''succeeded''');
SELECT output FROM evtstore.sagas WHERE id = :'other';

\echo -- events say that it failed: Retry and Catch have the type
SELECT evtstore.start_saga('order', '{"order": 10, "amount": 1}') AS id \gset
SELECT version FROM evtstore.append('payment-6', 'PaymentBusy', '{"order": 10}');
CALL eventually('(SELECT count(*) FROM evtstore.saga_steps WHERE saga_id = ''' || :'id' || ''') = 2');
SELECT waiting();
SELECT version FROM evtstore.append('payment-7', 'PaymentRefused', '{"order": 10, "code": 4}');
CALL eventually('(SELECT status FROM evtstore.sagas WHERE id = ''' || :'id' || ''') = ''succeeded''');
SELECT output FROM evtstore.sagas WHERE id = :'id';
SELECT steps(:'id');
SELECT waiting();

\echo -- started, answered and answered again in one transaction
BEGIN;
SELECT evtstore.start_saga('order', '{"order": 11, "amount": 1}') AS id \gset
SELECT count(*) FROM evtstore.append_events('payment-8', '[{"type": "PaymentReceived", "data": {"order": 11, "n": 1}}, {"type": "PaymentReceived", "data": {"order": 11, "n": 2}}]');
COMMIT;
CALL eventually('arrivals() = 0');
SELECT output->'data'->'n', output->'paid'->'data'->'n', status FROM evtstore.sagas WHERE id = :'id';
SELECT seq, outcome, output->'data'->'n' FROM evtstore_internal.saga_answer WHERE saga_id = :'id';
-- by a person, and by a reply: the row goes in any way
SELECT evtstore.start_saga('order', '{"order": 12, "amount": 1}') AS id \gset
SELECT evtstore.skip_step(:'id', 'Charge', '{"type": "skipped"}');
SELECT evtstore.start_saga('order', '{"order": 12, "amount": 1}') AS id \gset
SELECT count(evtstore.reply(receipt, '{"type": "replied"}')) FROM evtstore.receive('pay', max_count => 10);
SELECT evtstore.start_saga('order', '{"order": 12, "amount": 1}') AS id \gset
SELECT evtstore.cancel_saga(:'id');
SELECT status, count(*) FROM evtstore.sagas WHERE input->'order' = '12' GROUP BY status ORDER BY status;
SELECT waiting();

\echo -- late: nobody knows of the step, until its event comes; it is undone
SELECT evtstore.define_saga('late', '{"StartAt": "Charge", "Saga": {"Correlation": "$.stream"}, "States": {
    "Charge": {"Type": "Task", "Resource": "queue:pay", "TimeoutSeconds": 600, "Next": "Never",
        "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Wait"}],
        "Saga": {"Undo": "queue:refund", "UndoUnknown": false, "ReplyEvents": ["PaymentReceived"], "Correlate": "States.Format(''payment-{}'', $.order)"}},
    "Wait": {"Type": "Task", "Resource": "signal:go", "Next": "Never"},
    "Never": {"Type": "Fail", "Error": "No"}}}');
SELECT evtstore.start_saga('late', '{"order": 20}') AS id \gset
SELECT count(*) FROM evtstore.receive('pay', lease => '1 d');
SELECT evtstore.resolve_step(:'id', 'Charge', 'failed');
SELECT status FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.start_saga('late', '{"order": 21}') AS id \gset
SELECT count(*) FROM evtstore.receive('pay', lease => '1 d');
-- its time is over
ALTER SYSTEM SET evtstore.clock_offset = '2 h';
SELECT pg_reload_conf();
CALL eventually('(SELECT states FROM evtstore.sagas WHERE id = ''' || :'id' || ''') = ''{Wait}''');
SELECT steps(:'id');
SELECT waiting();
SELECT version FROM evtstore.append('payment-21', 'PaymentReceived', '{}');
CALL eventually('(SELECT count(*) FROM evtstore_internal.saga_answer WHERE saga_id = ''' || :'id' || ''') = 1');
SELECT outcome, output->'stream' FROM evtstore_internal.saga_answer WHERE saga_id = :'id';
SELECT steps(:'id');
SELECT waiting();
SELECT evtstore.signal_saga(:'id', 'go', '1');
SELECT steps(:'id');
SELECT count(evtstore.reply(receipt)) FROM evtstore.receive('refund', max_count => 10);
SELECT status FROM evtstore.sagas WHERE id = :'id';

\echo -- what cannot be correlated fails
SELECT evtstore.start_saga('order', '{"amount": 1}') AS id \gset
SELECT status, error, cause FROM evtstore.sagas WHERE id = :'id';
SELECT evtstore.start_saga('order', '{"order": null, "amount": 1}') AS id \gset
SELECT status, error, cause FROM evtstore.sagas WHERE id = :'id';
SELECT waiting();

\echo -- of another tenant
SELECT evtstore.start_saga('order', '{"order": 30, "amount": 1}') AS id \gset
SET evtstore.tenant = 'a';
SELECT version FROM evtstore.append('payment-30', 'PaymentReceived', '{"order": 30}');
RESET evtstore.tenant;
CALL eventually('arrivals() = 0');
SELECT states FROM evtstore.sagas WHERE id = :'id';
-- an earlier version's instances are answered as it says
SELECT evtstore.define_saga('order', '{"StartAt": "Charge", "Saga": {"Correlation": "$.metadata.order"}, "States": {
    "Charge": {"Type": "Task", "Resource": "queue:pay", "End": true, "Saga": {"Undo": "none", "ReplyEvents": ["PaymentReceived"], "Correlate": "$.order"}}}}');
SELECT evtstore.start_saga('order', '{"order": 30}') AS id2 \gset
SELECT version FROM evtstore.append('payment-31', 'PaymentReceived', '{"order": 30}', metadata => '{"order": 31}');
CALL eventually('(SELECT status FROM evtstore.sagas WHERE id = ''' || :'id' || ''') = ''succeeded''');
SELECT states FROM evtstore.sagas WHERE id = :'id2';
-- one event for many
SELECT count(evtstore.start_saga('order', '{"order": 32}')) FROM generate_series(1, 50);
SELECT version FROM evtstore.append('payment-32', 'PaymentReceived', '{}', metadata => '{"order": 32}');
CALL eventually('arrivals() = 0');
SELECT status, count(*) FROM evtstore.sagas WHERE input->'order' = '32' GROUP BY status;
SELECT count(*) FROM evtstore.append('payment-33', 'PaymentReceived', '{}', metadata => '{"order": 30}');
CALL eventually('(SELECT status FROM evtstore.sagas WHERE id = ''' || :'id2' || ''') = ''succeeded''');
SELECT waiting();
ALTER SYSTEM RESET evtstore.clock_offset;
SELECT pg_reload_conf();
