--
-- Many commands that are not wanted any more are taken back at once, wherever they are: in two queues, one of which is fair by a value, so that its
-- messages have many places; of a tenant, too.  What somebody has, or had, is unknown.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
CREATE TABLE public.held (saga_id text, receipt text);
CREATE FUNCTION public.wide(n int) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('n', jsonb_agg(jsonb_build_object('i', i, 'even', i % 2 = 0))) FROM generate_series(1, n) i $$;
CREATE FUNCTION public.ended(business_key text) RETURNS text LANGUAGE sql AS $$
	SELECT s.status || ': ' || string_agg(format('%s %s %s', t.n, t.kind, t.status), ', ' ORDER BY t.kind, t.status) FROM evtstore.sagas s,
		LATERAL (SELECT kind, status, count(*) AS n FROM evtstore.saga_steps WHERE saga_id = s.id GROUP BY kind, status) t
	WHERE s.business_key = ended.business_key GROUP BY s.status $$;
SELECT evtstore.create_queue('plain'), evtstore.create_queue('fair', '{"fair_by": "${body.i}"}');
SELECT evtstore.define_saga('wide', '{"StartAt": "M", "States": {"M": {"Type": "Map", "ItemsPath": "$.n", "End": true, "ItemProcessor": {"StartAt": "C", "States": {
	"C": {"Type": "Choice", "Choices": [{"Variable": "$.even", "BooleanEquals": true, "Next": "P"}], "Default": "F"},
	"P": {"Type": "Task", "Resource": "queue:plain", "End": true, "Saga": {"Undo": "none"}},
	"F": {"Type": "Task", "Resource": "queue:fair", "End": true, "Saga": {"Undo": "none"}}}}}}}');

-- nobody had any of 300
SELECT evtstore.start_saga('wide', public.wide(300), 'all') IS NOT NULL;
SELECT count(DISTINCT share) > 30, count(*) FROM evtstore_internal.message m JOIN evtstore_internal.definition d ON d.id = m.queue_id WHERE d.name = 'fair';
SELECT evtstore.cancel_saga(id, false) FROM evtstore.sagas WHERE business_key = 'all';
SELECT public.ended('all');
SELECT count(*) FROM evtstore_internal.message;
SELECT evtstore.receive('plain'), evtstore.receive('fair');

-- ten of each are held, five of each have failed once, five of each were given back without an attempt, one is done
SELECT evtstore.start_saga('wide', public.wide(300), 'some') IS NOT NULL;
SELECT count(receipt) FROM evtstore.receive('plain', max_count => 10);
SELECT count(receipt) FROM evtstore.receive('fair', max_count => 10);
SELECT count(*) FROM evtstore.settle((SELECT jsonb_agg(jsonb_build_object('receipt', receipt, 'do', 'nack')) FROM evtstore.receive('plain', max_count => 5)));
SELECT count(*) FROM evtstore.settle((SELECT jsonb_agg(jsonb_build_object('receipt', receipt, 'do', 'nack')) FROM evtstore.receive('fair', max_count => 5)));
SELECT evtstore.release(array_agg(receipt)) FROM evtstore.receive('plain', max_count => 5);
SELECT evtstore.release(array_agg(receipt)) FROM evtstore.receive('fair', max_count => 5);
SELECT evtstore.reply(receipt) FROM evtstore.receive('plain');
SELECT evtstore.cancel_saga(id, false) FROM evtstore.sagas WHERE business_key = 'some';
SELECT public.ended('some');
SELECT count(*) FROM evtstore_internal.message;

-- one of them fails, which ends the others; of a tenant, by who is none
SET evtstore.tenant = 'north';
SELECT evtstore.start_saga('wide', public.wide(300), 'fails') IS NOT NULL;
RESET evtstore.tenant;
SELECT evtstore.start_saga('wide', public.wide(10), 'other') IS NOT NULL;
INSERT INTO public.held SELECT headers->>'saga_id', receipt FROM evtstore.receive('plain', max_count => 20);
SELECT evtstore.fail(max(receipt), 'Broken', retryable => false) FROM public.held h JOIN evtstore.sagas s ON s.id = h.saga_id::uuid AND s.business_key = 'fails';
SELECT public.ended('fails');
SELECT public.ended('other');
SELECT count(*) FROM evtstore_internal.message WHERE event_id IS NOT NULL;

-- what a rollback leaves is as it was, and can be had
SELECT evtstore.start_saga('wide', public.wide(20), 'back') IS NOT NULL;
BEGIN;
SELECT evtstore.cancel_saga(id, false) FROM evtstore.sagas WHERE business_key = 'back';
SELECT public.ended('back');
ROLLBACK;
SELECT public.ended('back');
SELECT count(*) FROM (SELECT evtstore.reply(receipt) FROM evtstore.receive('fair', max_count => 100) WHERE headers->>'saga_id' = (SELECT id::text FROM evtstore.sagas WHERE business_key = 'back')) r;
DROP FUNCTION public.wide, public.ended;
DROP TABLE public.held;
