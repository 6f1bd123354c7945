--
-- Async projections: workers apply, wait_for() waits for them; batch handlers, lanes, failures, pause, alter, switch.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE TABLE applied (n bigserial, stream text, version bigint, data jsonb, UNIQUE (stream, version));
CREATE TABLE total (stream text PRIMARY KEY, n bigint, sum numeric);
CREATE SCHEMA shop;
CREATE FUNCTION shop.add_up(events evtstore.event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.total SELECT stream, count(*), sum((data->>'v')::numeric) FROM unnest(events) GROUP BY stream
    ON CONFLICT (stream) DO UPDATE SET n = total.n + EXCLUDED.n, sum = total.sum + EXCLUDED.sum $$;
-- sizes of the batches, and what was in them
CREATE TABLE batch (id serial, versions text);
CREATE FUNCTION shop.note(events evtstore.event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO public.batch (versions) SELECT string_agg(type || version, ' ' ORDER BY n) FROM unnest(events) WITH ORDINALITY AS e(a, b, c, version, d, type, f, g, h, i, j, k, n) $$;
CREATE FUNCTION state(projection text) RETURNS TABLE (mode text, state text, "position" bigint, last_error text, failed text) LANGUAGE sql AS $$
    SELECT s.mode, s.state, s."position", s.last_error,
           (SELECT e.stream || '@' || e.version FROM evtstore.read_all() e WHERE e.id = s.failed_event)
    FROM evtstore.projection_status s WHERE s.name = projection $$;

-- events from before it are applied, too
SELECT version FROM evtstore.append_events('order-1', '[{"type": "Placed", "data": {"v": 1}}, {"type": "Paid", "data": {"v": 2}}]');
SELECT evtstore.create_projection('log', '{"Placed": "INSERT INTO applied (stream, version, data) SELECT ($1).stream, ($1).version, ($1).data"}');
SELECT evtstore.create_projection('totals', '{"*": {"batch": "shop.add_up"}}', 'async');
CALL evtstore.wait_for('log', 2);
CALL evtstore.wait_for('totals', 2);
SELECT stream, version, data FROM applied;
SELECT * FROM total;
-- the same once more is nothing, another definition is refused
SELECT evtstore.create_projection('log', '{"Placed": "INSERT INTO applied (stream, version, data) SELECT ($1).stream, ($1).version, ($1).data"}', options => '{"lanes": 1}');
SELECT fails($$SELECT evtstore.create_projection('log', '{"Placed": "SELECT 1"}')$$);
-- what comes
SELECT version FROM evtstore.append_events('order-2', '[{"type": "Placed", "data": {"v": 10}}, {"type": "Paid", "data": {"v": 20}}, {"type": "Placed", "data": {"v": 30}}]');
CALL evtstore.wait_for('log', 5);
CALL evtstore.wait_for('totals', 5);
SELECT stream, version, data FROM applied ORDER BY n;
SELECT * FROM total ORDER BY stream;
SELECT * FROM state('totals');

--
-- neighbours go to a batch handler together, and everything in order
--
SELECT evtstore.create_projection('batches', '{"A": {"batch": "shop.note"}, "B": "INSERT INTO batch (versions) VALUES (''B'' || ($1).version)"}', filter => '{"categories": ["mixed"]}');
SELECT evtstore.pause_projection('batches');
SELECT state FROM state('batches');
SELECT version FROM evtstore.append_events('mixed-1', '[{"type": "A", "data": 1}, {"type": "A", "data": 1}, {"type": "B", "data": 1}, {"type": "C", "data": 1}, {"type": "A", "data": 1}]');
SELECT fails($$CALL evtstore.wait_for('batches', 10)$$) ~ 'transaction block' AS in_a_block;
CALL evtstore.wait_for('batches', 10);
SELECT evtstore.resume_projection('batches');
CALL evtstore.wait_for('batches', 10);
SELECT versions FROM batch ORDER BY id;

--
-- wait_for: positions that the filter does not select count as passed; what is not there is waited for
--
CALL evtstore.wait_for('log', 10);
CALL evtstore.wait_for('log', 11, '100ms');
CALL evtstore.wait_for('nobody', 1);
CALL evtstore.wait_for('log', NULL);
CALL evtstore.wait_for('log', 1, '-1s');
SELECT evtstore.create_subscription('sub', lanes => 3);
CALL evtstore.wait_for('sub', 10, '50ms');
SELECT evtstore.ack(array_agg(receipt)) FROM evtstore.poll('sub', max_count => 100) WHERE position <> 7;
CALL evtstore.wait_for('sub', 6);
CALL evtstore.wait_for('sub', 10, '50ms');
SELECT evtstore.drop_subscription('sub');

--
-- an event that fails: its key waits, others go on; the error is told
--
SELECT evtstore.create_projection('fussy', '{"Try": "INSERT INTO applied (stream, version, data) SELECT ($1).stream, ($1).version, to_jsonb(1 / (($1).data->>''v'')::int)"}',
    options => '{"retry": {"max_attempts": 1}}');
-- in one transaction: a worker gets all of them together
BEGIN;
SELECT version FROM evtstore.append_events('try-1', '[{"type": "Try", "data": {"v": 1}}, {"type": "Try", "data": {"v": 0}}, {"type": "Try", "data": {"v": 1}}]');
SELECT version FROM evtstore.append_events('try-2', '[{"type": "Try", "data": {"v": 1}}]');
COMMIT;
CALL evtstore.wait_for('fussy', 11);
CALL evtstore.wait_for('fussy', 14);
SELECT stream, version FROM applied WHERE stream LIKE 'try%' ORDER BY n;
SELECT state, last_error, failed FROM state('fussy');
SELECT name, key, state FROM evtstore.blocked_keys;
SELECT kind, name, key, cause FROM evtstore.stuck;
SELECT evtstore.skip_event('fussy', id, 'a test') FROM evtstore.read_stream('try-1') WHERE version = 2;
CALL evtstore.wait_for('fussy', 14);
SELECT stream, version FROM applied WHERE stream LIKE 'try%' ORDER BY n;
SELECT state, last_error, failed FROM state('fussy');
SELECT kind, cause, last_error FROM evtstore.dead_letters;

--
-- nobody else consumes its events
--
SELECT fails($$SELECT evtstore.poll('log')$$);
SELECT fails($$SELECT evtstore.seek('log', 0)$$);
SELECT fails($$SELECT evtstore.alter_subscription('log', '{"lanes": 2}')$$);
SELECT fails($$SELECT evtstore.drop_subscription('log')$$);
SELECT count(*) FROM evtstore.subscription_status;

--
-- alter
--
SELECT evtstore.alter_projection('log', '{"lanes": 4, "on_failure": "dead_letter"}');
SELECT version FROM generate_series(3, 4) n, evtstore.append_events('order-' || n, '[{"type": "Placed", "data": {"v": 1}}]');
CALL evtstore.wait_for('log', 16);
SELECT stream, version FROM applied WHERE stream IN ('order-3', 'order-4') ORDER BY stream;
SELECT fails($$SELECT evtstore.alter_projection('log', '{"handlers": {}}')$$);
SELECT fails($$SELECT evtstore.alter_projection('log', '{"lanes": 0}')$$);
SELECT fails($$SELECT evtstore.alter_projection('nobody', '{"lanes": 1}')$$);

--
-- switch
--
SELECT evtstore.switch_projection('totals', 'sync');
SELECT mode, state FROM state('totals');
BEGIN;
SELECT version FROM evtstore.append('order-5', 'Paid', '{"v": 7}');
SELECT * FROM total WHERE stream = 'order-5';
ROLLBACK;
SELECT version FROM evtstore.append('order-5', 'Paid', '{"v": 8}');
SELECT * FROM total WHERE stream = 'order-5';
-- once more is nothing
SELECT evtstore.switch_projection('totals', 'sync');
SELECT evtstore.switch_projection('totals', 'async');
SELECT version FROM evtstore.append('order-5', 'Paid', '{"v": 9}');
CALL evtstore.wait_for('totals', evtstore.head_position());
SELECT * FROM total WHERE stream = 'order-5';
SELECT (SELECT sum(sum) FROM total) = sum((data->>'v')::int) AS all_of_it FROM evtstore.read_all() WHERE jsonb_typeof(data) = 'object';
SELECT fails($$SELECT evtstore.switch_projection('totals', 'later')$$);
SELECT fails($$SELECT evtstore.switch_projection('nobody', 'sync')$$);
-- dead letters would be forgotten
SELECT fails($$SELECT evtstore.switch_projection('fussy', 'sync')$$);
SELECT evtstore.discard(id, 'a test') FROM evtstore.dead_letters WHERE name = 'fussy';
SELECT evtstore.switch_projection('fussy', 'sync');
SELECT fails($$SELECT evtstore.append('try-3', 'Try', '{"v": 0}')$$);
SELECT fails($$SELECT evtstore.pause_projection('fussy')$$);
SELECT fails($$SELECT evtstore.pause('fussy')$$);
SELECT fails($$SELECT evtstore.alter_projection('fussy', '{"lanes": 2}')$$);
-- its own events would be missed
BEGIN;
SELECT version FROM evtstore.append('order-6', 'Paid', '{"v": 1}');
SAVEPOINT s;
SELECT fails($$SELECT evtstore.switch_projection('totals', 'sync')$$);
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fails($$SELECT evtstore.switch_projection('totals', 'sync')$$);
ROLLBACK;

--
-- definitions
--
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": {"batch": "shop.missing"}}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": {"batch": "shop.note", "fn": "shop.note"}}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', options => '{"lanes": 0}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', options => '{"key": "${nothing}"}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', options => '{"on_failure": "cry"}')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"T": "SELECT 1"}', options => '{"retry": {"max_attempts": -1}}')$$);
SELECT evtstore.drop_projection('log'), evtstore.drop_projection('totals'), evtstore.drop_projection('batches'), evtstore.drop_projection('fussy');
SELECT fails($$SELECT evtstore.drop_projection('log')$$);
SELECT count(*) FROM evtstore_internal.checkpoint;
SELECT count(*) FROM evtstore_internal.lane_generation;

--
-- a projection is the store's: it has the events of every tenant, in either mode, whatever its filter
--
CREATE TABLE seen (projection text, tenant text, stream text, type text);
SELECT evtstore.create_projection(name, jsonb_build_object(type, format('INSERT INTO seen SELECT %L, ($1).tenant, ($1).stream, ($1).type', name)), mode, filter)
FROM (VALUES ('by type', 'Paid', 'async', '{}'::jsonb), ('by category', '*', 'async', '{"categories": ["shop"]}'), ('by tag', '*', 'async', '{"tags": ["x"]}'),
    ('by query', '*', 'async', '{"items": [{"types": ["Paid"], "tags": ["x"]}]}'), ('at once', '*', 'sync', '{"categories": ["shop"], "tags": ["x"]}')) p (name, type, mode, filter);
SET evtstore.tenant = 'acme';
SELECT version FROM evtstore.append('shop-1', 'Paid', '{"v": 1}', tags => '{x}');
SET evtstore.tenant = 'globex';
SELECT version FROM evtstore.append('shop-1', 'Paid', '{"v": 1}', tags => '{x}');
SELECT version FROM evtstore.append('other-1', 'Paid', '{"v": 1}');
RESET evtstore.tenant;
SELECT version FROM evtstore.append('shop-1', 'Other', '{"v": 1}');
CALL evtstore.wait_for('by type', evtstore.head_position());
CALL evtstore.wait_for('by category', evtstore.head_position());
CALL evtstore.wait_for('by tag', evtstore.head_position());
CALL evtstore.wait_for('by query', evtstore.head_position());
SELECT projection, string_agg(concat_ws('/', nullif(tenant, ''), stream, type), ' ' ORDER BY tenant, stream, type) FROM seen WHERE stream LIKE 'shop%' OR stream = 'other-1'
GROUP BY projection ORDER BY projection;

--
-- what a handler appends is of the tenant of its event; a tenant may wait for a projection
--
CREATE FUNCTION shop.answer_all(events evtstore.event[]) RETURNS void LANGUAGE sql AS $$
    SELECT evtstore.append('answer-1', 'AnswerAll', to_jsonb(array_agg(data ORDER BY n))) FROM unnest(events) WITH ORDINALITY AS e(a, b, c, d, f, g, h, data, i, j, k, l, n) $$;
SELECT evtstore.create_projection('answers', '{"Ask": "SELECT evtstore.append(''answer-1'', ''Answer'', ($1).data)", "AskAll": {"batch": "shop.answer_all"}}');
SELECT evtstore.pause_projection('answers');
SELECT version FROM evtstore.append_events('ask-1', '[{"type": "Ask", "data": 1}, {"type": "AskAll", "data": 2}]');
SET evtstore.tenant = 'acme';
SELECT version FROM evtstore.append_events('ask-1', '[{"type": "AskAll", "data": 3}, {"type": "AskAll", "data": 4}, {"type": "Ask", "data": 5}]');
SELECT evtstore.resume_projection('answers');
CALL evtstore.wait_for('answers', evtstore.head_position());
SELECT type, data FROM evtstore.read_stream('answer-1');
RESET evtstore.tenant;
SELECT tenant, type, data FROM evtstore.events WHERE stream = 'answer-1' ORDER BY position;

--
-- what a handler appends is caused by its event; what never ends is refused
--
SELECT evtstore.create_projection('reply', '{"Question": "SELECT evtstore.append(''reply-1'', ''Reply'', ''1'', metadata => ''{\"by\": \"reply\"}'')",
    "Reply": "SELECT evtstore.append(''thanks-1'', ''Thanks'', ''1'')"}');
SET evtstore.causation_id = 'somebody';
SELECT version FROM evtstore.append('question-1', 'Question', '1', id => '00000000-0000-4000-8000-00000000000a');
SELECT version FROM evtstore.append('question-2', 'Question', '1', id => '00000000-0000-4000-8000-00000000000b', metadata => '{"correlation_id": "talk"}');
RESET evtstore.causation_id;
CALL evtstore.wait_for('reply', evtstore.head_position());
CALL evtstore.wait_for('reply', evtstore.head_position());
SELECT e.type, CASE WHEN c.type IS NULL THEN e.metadata->>'causation_id' ELSE c.type END AS caused_by, e.metadata->'causation_depth' AS depth,
       CASE WHEN e.metadata->>'correlation_id' LIKE '0%a' THEN 'the first question' ELSE e.metadata->>'correlation_id' END AS correlation, e.metadata->>'by' AS by
FROM evtstore.events e LEFT JOIN evtstore.events c ON c.id::text = e.metadata->>'causation_id'
WHERE e.stream ~ '^(question|reply|thanks)' ORDER BY e.stream, e.version;
CREATE FUNCTION shop.echo(events evtstore.event[]) RETURNS void LANGUAGE sql AS $$ SELECT evtstore.append('echo-2', 'Batch', '1') $$;
SELECT evtstore.create_projection('echo', '{"Echo": "SELECT evtstore.append(''echo-1'', ''Echo'', ''1'')", "Batch": {"batch": "shop.echo"}}', options => '{"retry": {"max_attempts": 1}}');
SELECT version FROM evtstore.append('echo-1', 'Echo', '1');
SELECT version FROM evtstore.append('echo-2', 'Batch', '1');
DO $$ BEGIN
    FOR i IN 1 .. 6000 LOOP
        EXIT WHEN (SELECT count(*) FROM evtstore.blocked_keys WHERE name = 'echo' AND state = 'blocked') = 2;
        PERFORM pg_sleep(0.01);    -- sleep: between two looks
    END LOOP;
END $$;
SELECT key, error FROM evtstore.blocked_keys WHERE name = 'echo' ORDER BY key;
SELECT stream, count(*), max((metadata->>'causation_depth')::int) AS deepest FROM evtstore.events WHERE stream LIKE 'echo%' GROUP BY stream ORDER BY stream;
-- sync, too, and a handler cannot begin anew
SELECT evtstore.drop_projection('echo');
SELECT evtstore.create_projection('sync echo', '{"Loud": "SELECT evtstore.append(''loud-1'', ''Loud'', ''1'', metadata => ''{\"causation_depth\": 0}'')"}', 'sync');
SELECT regexp_replace(fails($$SELECT evtstore.append('loud-1', 'Loud', '1')$$), E'\n *CONTEXT.*', '');
SELECT evtstore.stream_version('loud-1');

--
-- on_failure dead_letter: what follows in the same batch goes on
--
SELECT evtstore.create_projection('lenient', '{"Fallible": "INSERT INTO applied (stream, version, data) SELECT ($1).stream, ($1).version, to_jsonb(1 / (($1).data->>''v'')::int)"}',
    options => '{"on_failure": "dead_letter", "retry": {"max_attempts": 1}}');
SELECT version FROM evtstore.append_events('fallible-1', '[{"type": "Fallible", "data": {"v": 1}}, {"type": "Fallible", "data": {"v": 0}}, {"type": "Fallible", "data": {"v": 1}}, {"type": "Fallible", "data": {"v": 1}}]');
CALL evtstore.wait_for('lenient', evtstore.head_position());
SELECT stream, version FROM applied WHERE stream = 'fallible-1' ORDER BY n;
SELECT kind, cause, last_error FROM evtstore.dead_letters WHERE name = 'lenient';
-- a type that is named twice comes once
SELECT evtstore.create_projection('twice', '{"*": "INSERT INTO applied (stream, version, data) SELECT ''twice-'' || ($1).stream, ($1).version, ($1).data"}', filter => '{"types": ["Fallible", "Fallible"]}');
CALL evtstore.wait_for('twice', evtstore.head_position());
SELECT stream, version FROM applied WHERE stream LIKE 'twice%' ORDER BY n;
SELECT evtstore.drop_projection('twice');
-- nor where it is applied here
BEGIN;
SELECT evtstore.create_projection('twice', '{"*": "INSERT INTO applied (stream, version, data) SELECT ''again-'' || ($1).stream, ($1).version, ($1).data"}', filter => '{"types": ["Fallible", "Fallible"]}');
SELECT evtstore.switch_projection('twice', 'sync');
COMMIT;
SELECT stream, version FROM applied WHERE stream LIKE 'again%' ORDER BY n;

--
-- a new sync projection: what its handlers append while its history is applied comes once, and in its turn
--
SELECT version FROM evtstore.append_events('chain-1', '[{"type": "Link", "data": 2}, {"type": "Link", "data": 0}]');
CREATE FUNCTION shop.link(e evtstore.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.applied (stream, version, data) VALUES ('link of ' || e.stream, e.version, e.data);
    IF e.data::int > 0 THEN
        PERFORM evtstore.append('chain-1', 'Link', to_jsonb(e.data::int - 1));
    END IF;
END $$;
SELECT evtstore.create_projection('chain', '{"Link": {"fn": "shop.link"}}', 'sync');
SELECT version, data FROM applied WHERE stream = 'link of chain-1' ORDER BY n;
SELECT version FROM evtstore.append('chain-1', 'Link', '1');
SELECT version, data FROM applied WHERE stream = 'link of chain-1' ORDER BY n;

--
-- a batch handler may do with its array what it likes; whatever becomes of it, its events are the cause of what it appends
--
CREATE TABLE kept (events evtstore.event[]);
CREATE FUNCTION shop.rough(events evtstore.event[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    e evtstore.event;
    walked text := '';
BEGIN
    INSERT INTO public.kept VALUES (events);
    FOREACH e IN ARRAY events LOOP
        walked := walked || (e.data->>'v');
    END LOOP;
    FOR i IN 2 .. cardinality(events) LOOP
        events[i].data := jsonb_build_object('v', events[i - 1].data->'v');
    END LOOP;
    events[1] := NULL;
    PERFORM evtstore.append('rough-1', 'Done', jsonb_build_object('walked', walked, 'changed', (SELECT jsonb_agg(data->'v') FROM unnest(events))));
END $$;
SELECT evtstore.create_projection('rough', '{"Rough": {"batch": "shop.rough"}}');
SELECT evtstore.pause_projection('rough');
SELECT version FROM evtstore.append_events('rough-1', '[{"type": "Rough", "data": {"v": 1}}, {"type": "Rough", "data": {"v": 2}, "metadata": {"causation_depth": 4}}, {"type": "Rough", "data": {"v": 3}}]');
SELECT evtstore.resume_projection('rough');
CALL evtstore.wait_for('rough', evtstore.head_position());
SELECT data, metadata FROM evtstore.read_stream('rough-1') WHERE type = 'Done';
SELECT array_length(events, 1) AS n, e.version, e.data FROM kept, unnest(events) e ORDER BY e.version;
