--
-- Sagas that ended long ago go, with all that is of them; never one that is open, nor a child before its parent.  What is said late to one that is
-- gone is late.  And the time of a command whose state does not say.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION public.left_over(OUT sagas bigint, OUT steps bigint, OUT keys bigint, OUT signals bigint, OUT answers bigint) LANGUAGE sql AS $$
	SELECT (SELECT count(*) FROM evtstore_internal.saga), (SELECT count(*) FROM evtstore_internal.saga_step), (SELECT count(*) FROM evtstore_internal.saga_key),
		(SELECT count(*) FROM evtstore_internal.saga_signal), (SELECT count(*) FROM evtstore_internal.saga_answer) $$;
CREATE FUNCTION public.there() RETURNS text LANGUAGE sql AS $$ SELECT string_agg(coalesce(business_key, 'child') || ' ' || status, ', ' ORDER BY business_key) FROM evtstore.sagas $$;
SELECT evtstore.create_queue('kept'), evtstore.create_queue('plain');
SELECT evtstore.define_saga('kept', '{"StartAt": "S", "States": {
	"S": {"Type": "Task", "Resource": "signal:go", "Next": "T", "Saga": {"Undo": "none"}},
	"T": {"Type": "Task", "Resource": "queue:kept", "End": true, "Saga": {"Undo": "none"}}}}') > 0;
SELECT evtstore.define_saga('leaf', '{"StartAt": "P", "States": {"P": {"Type": "Pass", "End": true}}}') > 0;
SELECT evtstore.define_saga('outer', '{"StartAt": "C", "States": {
	"C": {"Type": "Task", "Resource": "saga:leaf", "Next": "S", "Saga": {"Undo": "none"}},
	"S": {"Type": "Task", "Resource": "signal:never", "End": true, "Saga": {"Undo": "none"}}}}') > 0;
SELECT evtstore.start_saga('outer', business_key => 'k6') IS NOT NULL;
SELECT count(evtstore.start_saga('kept', business_key => 'k' || i, idempotency_key => 's' || i)) FROM generate_series(1, 5) i;
SELECT evtstore.signal_saga(id, 'go', '1', dedup_id => 'd') FROM evtstore.sagas WHERE business_key IN ('k1', 'k2', 'k3', 'k4');
CREATE TABLE public.held AS SELECT s.business_key AS key, s.id, r.receipt FROM evtstore.receive('kept', max_count => 4) r JOIN evtstore.sagas s ON s.id = (r.headers->>'saga_id')::uuid;
SELECT evtstore.reply(receipt) FROM public.held WHERE key = 'k1';
SELECT evtstore.reply(receipt) FROM public.held WHERE key = 'k1';
SELECT evtstore.fail(receipt, 'Broken', retryable => false) FROM public.held WHERE key = 'k2';
SELECT evtstore.cancel_saga(id, false) FROM public.held WHERE key = 'k3';
SELECT public.there();
SELECT * FROM public.left_over();

-- not before their time, nor for ever
SET evtstore.saga_retention = '10d';
SET evtstore.clock_offset = '9d';
SELECT evtstore_internal.trim_sagas(1000);
SET evtstore.clock_offset = '11d';
SET evtstore.saga_retention = -1;
SELECT evtstore_internal.trim_sagas(1000);
SET evtstore.saga_retention = '10d';
-- an instance goes whole, the first to end first
SELECT evtstore_internal.trim_sagas(1);
SELECT public.there();
SELECT * FROM public.left_over();
-- all that may go, and then nothing more
SELECT evtstore_internal.trim_sagas(1000);
SELECT evtstore_internal.trim_sagas(1000);
SELECT public.there();
SELECT * FROM public.left_over();

-- late to what is gone, by the receipt of who had it, or who answered before; an ordinary message is none of this
SELECT evtstore.reply(receipt) FROM public.held WHERE key IN ('k1', 'k2', 'k3');
SELECT evtstore.fail(receipt, 'Broken') FROM public.held WHERE key = 'k3';
SELECT * FROM public.left_over();
SELECT evtstore.send('plain', '1') > 0;
SELECT receipt FROM evtstore.receive('plain') \gset
SELECT evtstore.nack(:'receipt', delay => '1h');
\set VERBOSITY sqlstate
SELECT evtstore.reply(:'receipt');
SELECT evtstore.signal_saga(id, 'go', '2') FROM public.held WHERE key = 'k1';
SET evtstore.saga_retention = -2;
\set VERBOSITY default
-- one that is open is answered as ever; the stream of one that is gone is there, and its key is free
RESET evtstore.clock_offset;
SELECT evtstore.reply(receipt) FROM public.held WHERE key = 'k4';
SELECT count(*) FROM public.held h, evtstore.read_stream('saga-' || h.id) e WHERE h.key = 'k1';
SELECT evtstore.start_saga('kept', business_key => 'k7', idempotency_key => 's1') NOT IN (SELECT id FROM public.held);

-- a child stays while its parent is there
SELECT evtstore.cancel_saga(id, false) FROM evtstore.sagas WHERE business_key = 'k6';
SET evtstore.clock_offset = '11d';
SELECT evtstore_internal.trim_sagas(1000);
SELECT public.there();
SELECT evtstore_internal.trim_sagas(1000);
SELECT public.there();
RESET evtstore.clock_offset;

-- the time of a command whose state says none
SET evtstore.saga_step_timeout = '2h';
SELECT evtstore.signal_saga_by_key('kept', 'k7', 'go', '1');
SELECT round(extract(epoch FROM due - t.started_at) / 60) FROM evtstore_internal.saga_step t JOIN evtstore_internal.saga s ON s.id = t.saga_id WHERE business_key = 'k7' AND t.state = 'T';
DROP FUNCTION public.left_over, public.there;
DROP TABLE public.held;
