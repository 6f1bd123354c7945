--
-- What a rule makes of an event: placeholders, computed targets, keys; functions; test_rule.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
\pset tuples_only on

CREATE FUNCTION example() RETURNS jsonb LANGUAGE sql RETURN '{"stream": "order-1", "position": "12", "version": 3, "type": "OrderPlaced", "id": "00000000-0000-7000-8000-000000000001",
    "schema_version": 2, "tags": ["a", "b c"], "occurred_at": "2026-01-02 03:04:05.678901+00", "recorded_at": "2026-01-02 03:04:06+00", "metadata": {"m": {"n": 1}, "correlation_id": "c-1"},
    "data": {"big": 9007199254740993, "exact": 0.10, "huge": 1e400, "tiny": 1e-30, "negative": -0.0, "text": "é \"quoted\" \\ \t", "empty": "", "yes": true, "no": false, "null": null, "list": [1, [2, 3], {"x": "y"}],
             "object": {"a": {"b": "deep"}, "": "nameless"}, "q": "orders"}}'::jsonb;
SELECT evtstore.create_queue('orders'), evtstore.create_queue('other'), evtstore.create_queue('third');
SELECT evtstore.create_rule('r', '{}', 'queue:orders');
-- what the body of a rule becomes
CREATE FUNCTION made(body jsonb, event jsonb DEFAULT example()) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM evtstore.alter_rule('r', jsonb_build_object('transform', jsonb_build_object('body', body)));
    RETURN evtstore.test_rule('r', event)->'body';
END $$;

-- without a transform: the event as it is
SELECT evtstore.test_rule('r', example()) = jsonb_build_object('matches', true, 'target', 'queue:orders', 'body', example()->'data', 'headers', example()->'metadata', 'key', 'order-1');

-- every placeholder, alone: its type is kept
SELECT p, made(to_jsonb('${' || p || '}')) FROM unnest(ARRAY['stream', 'category', 'type', 'id', 'position', 'version', 'schema_version', 'tags', 'tenant', 'occurred_at',
    'recorded_at', 'metadata', 'metadata.m', 'metadata.m.n', 'metadata.correlation_id', 'metadata.nothing', 'data.big', 'data.exact', 'data.huge', 'data.tiny', 'data.negative',
    'data.text', 'data.empty', 'data.yes', 'data.no', 'data.null', 'data.list', 'data.list.0', 'data.list.1.1', 'data.list.2.x', 'data.list.-1', 'data.list.3', 'data.list.-4', 'data.list.x', 'data.list.9999999999999999999',
    'data.object', 'data.object.a.b', 'data.object.a.b.c', 'data.text.0', 'data.big.x', 'data.nothing', 'data.nothing.below']) p;
SELECT made('"${data}"')::jsonb = example()->'data';
-- and inside a longer string: its text
SELECT p, made(to_jsonb('<${' || p || '}>')) FROM unnest(ARRAY['stream', 'category', 'type', 'id', 'position', 'version', 'schema_version', 'tags', 'tenant', 'occurred_at',
    'recorded_at', 'metadata', 'metadata.m.n', 'data.big', 'data.exact', 'data.huge', 'data.negative', 'data.text', 'data.empty', 'data.yes', 'data.no', 'data.null', 'data.list', 'data.nothing']) p;
-- several in one, and in what is nested; what is no placeholder stays
SELECT made('{"a": ["${data.big}", {"b": "${stream}/${version}", "c": [1.50, null, true, "plain", {"d": {}}]}], "${type}": "a key is a key", "z": "$ { } $x {data} ${data.q}}", "e": [], "o": {}}');
SELECT made('["${data.big}"]'), made('[["${data.list}"]]'), made('17'), made('null'), made('"text"'), made('true'), made('[]'), made('{}'), made('""');
-- $${ is ${
SELECT made('"$${data.big}"'), made('"$$${data.big}"'), made('"a $${x} ${data.q} $${"'), made('"$$"'), made('"$"'), made('["$${"]'), made('"$$$${x}"');
-- data need be no object
SELECT made('{"all": "${data}", "a": "${data.a}", "0": "${data.0}"}', event) FROM unnest(ARRAY['{"type": "T", "data": 5}', '{"type": "T", "data": null}', '{"type": "T", "data": "s"}', '{"type": "T", "data": [7]}', '{"type": "T", "data": {}}']::jsonb[]) event;
-- an event that was not appended yet has no position and no version; one without a stream none at all
SELECT made('["${stream}", "${category}", "${version}", "${position}", "${id}", "${tags}", "${schema_version}", "${tenant}", "${metadata}", "<${stream}>"]', '{"type": "T", "data": 1}');
SELECT made('["${stream}", "${category}", "${version}"]', '{"stream": "plain", "type": "T", "data": 1}');
-- a deep one
SELECT length(made((repeat('[', 200) || '"${data.q}"' || repeat(']', 200))::jsonb));

--
-- headers, key, delay, priority, dedup_id
--
SELECT evtstore.alter_rule('r', '{"transform": {"headers": {"n": "${data.big}", "h": "v"}, "key": "k-${data.q}", "delay": "90 minutes", "priority": 7, "dedup_id": "${id}"}}');
SELECT jsonb_pretty(evtstore.test_rule('r', example()) - 'body');
SELECT evtstore.alter_rule('r', '{"transform": {"headers": "${metadata.m}", "key": "${data.big}", "delay": "${data.delay}", "priority": "${data.list.0}", "dedup_id": "${data.nothing}"}}');
SELECT evtstore.test_rule('r', example()) - 'body';
SELECT evtstore.test_rule('r', jsonb_set(example(), '{data,delay}', '"1 day"')) -> 'delay';
SELECT evtstore.alter_rule('r', '{"transform": {"key": null, "headers": {}}}');
SELECT evtstore.test_rule('r', example()) - 'body';
-- what the event does not have, the event is told of
CREATE FUNCTION refused(transform jsonb, event jsonb DEFAULT example()) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM evtstore.alter_rule('r', jsonb_build_object('transform', transform));
    RETURN fails(format('SELECT evtstore.test_rule(''r'', %L)', event));
END $$;
SELECT refused('{"headers": "${data.big}"}');
SELECT refused('{"headers": "${data.nothing}"}');
SELECT refused('{"key": "${data.empty}"}');
SELECT refused('{"key": "${data.k}"}', jsonb_build_object('type', 'T', 'data', jsonb_build_object('k', repeat('x', 1025)))) ~ '^22023 .*key';
SELECT refused('{"priority": "${data.exact}"}');
SELECT refused('{"priority": "${data.text}"}');
SELECT refused('{"delay": "${data.big}"}');
SELECT refused('{"delay": "-${data.list.0} s"}');
-- no match: no parts
SELECT evtstore.alter_rule('r', '{"filter": {"types": ["Other"]}, "transform": {"delay": "1 s", "priority": 1, "dedup_id": "x"}}');
SELECT evtstore.test_rule('r', example());
SELECT evtstore.alter_rule('r', '{"filter": {"categories": ["order"], "tags": ["b c"]}, "transform": null}');
SELECT evtstore.test_rule('r', example()) -> 'matches', evtstore.test_rule('r', example() - 'stream') -> 'matches', evtstore.test_rule('r', jsonb_set(example(), '{tags}', '[]')) -> 'matches';
-- an event that was read
SELECT version FROM evtstore.append('order-7', 'OrderPlaced', '{"n": 1e400}', tags => '{b c}');
SELECT evtstore.test_rule('r', to_jsonb(e))->'body' = e.data FROM evtstore.read_stream('order-7') e;
SELECT fails($$SELECT evtstore.test_rule('unknown', '{}')$$);
SELECT fails($$SELECT evtstore.test_rule(NULL, '{}')$$);
SELECT fails($$SELECT evtstore.test_rule('r', NULL)$$);
SELECT fails($$SELECT evtstore.test_rule('r', '[]')$$);
SELECT fails($$SELECT evtstore.test_rule('r', '{"type": "T"}')$$);
SELECT fails($$SELECT evtstore.test_rule('r', '{"type": "T", "data": 1, "stream": 5}')$$);
SELECT fails($$SELECT evtstore.test_rule('r', '{"type": "T", "data": 1, "position": {}}')$$);
SELECT fails($$SELECT evtstore.test_rule('r', '{"type": "T", "data": 1, "colour": "red"}')$$);
SELECT count(*) FROM evtstore.receive('orders', max_count => 10);

--
-- what is wrong with a definition is told at once, all of it
--
SELECT fails(format('SELECT evtstore.create_rule(''bad'', ''{}'', ''queue:orders'', %L)', t)) FROM unnest(ARRAY['[]', '"x"', '{"bodies": 1, "headers": [], "key": 5, "delay": {}, "priority": [], "dedup_id": true}',
    '{"body": {"a": ["${nothing}", {"b": "${data"}], "c": "${stream.x} ${data.}"}}', '{"body": "${}"}', '{"body": "${ data.x}"}', '{"body": "${data..x}"}', '{"body": "${.data}"}', '{"body": "${type.x}"}',
    '{"headers": "x ${data}"}', '{"headers": "$${data}"}', '{"key": "${date.x}"}', '{"delay": "soon"}', '{"delay": "-1 s"}', '{"delay": 5}', '{"priority": "1"}', '{"priority": 1.5}', '{"priority": 99999999999}']) t;
SELECT fails($$SELECT evtstore.create_rule('bad', '{}', 'queue:${nothing}', '{"body": "${nothing}"}')$$);
SELECT fails($$SELECT evtstore.create_rule('bad', '{}', 'queue:${data', NULL)$$);
SELECT fails($$SELECT evtstore.create_rule('bad', '{}', 'saga:ship')$$);
SELECT fails($$SELECT evtstore.create_rule('bad', '{}', 'endpoint:unknown')$$);
SELECT evtstore.create_endpoint('there', 'https://example.com/');
-- what is said of the mode changes nothing: an endpoint is delivered to from the feed
BEGIN;
SELECT evtstore.create_rule('fixed', '{}', 'endpoint:there'), evtstore.create_rule('computed', '{}', 'endpoint:customer-${data.c}', mode => 'async');
SELECT name, mode, target FROM evtstore.rule_status WHERE target LIKE 'endpoint:%' ORDER BY name;
ROLLBACK;
SELECT fails($$SELECT evtstore.create_rule('bad', '{}', 'endpoint:there', '{"key": "x"}')$$);
SELECT fails($$SELECT evtstore.alter_rule('r', '{"target": "endpoint:there"}')$$);
SELECT fails($$SELECT evtstore.alter_rule('r', '{"transform": {"x": 1}}')$$);
SELECT fails($$SELECT evtstore.alter_rule('r', '{"filter": null}')$$);
SELECT fails($$SELECT evtstore.alter_rule('r', '{"target": null}')$$);
-- equal is nothing, another transform is another rule
SELECT evtstore.create_rule('same', '{}', 'queue:third', '{"body": {"n": 1.50}}');
SELECT evtstore.create_rule('same', '{}', 'queue:third', '{"body": {"n": 1.5}}', 'sync');
SELECT fails($$SELECT evtstore.create_rule('same', '{}', 'queue:third', '{"body": {"n": 2}}')$$);
SELECT fails($$SELECT evtstore.create_rule('same', '{}', 'queue:third', '{"body": {"n": 1.5}}', 'async')$$);
SELECT evtstore.drop_rule('same'), evtstore.drop_rule('r');

--
-- in the append: the message is what test_rule shows, and it still tells of its event
--
SELECT evtstore.create_rule('priced', '{"types": ["Priced"]}', 'queue:orders',
    '{"body": {"price": "${data.price}", "of": "${stream}"}, "headers": {"pos": "${position}", "v": "${version}"}, "key": "${data.customer}", "priority": "${data.urgency}", "dedup_id": "p-${data.n}"}');
SELECT version FROM evtstore.append_events('order-2', '[{"type": "Priced", "data": {"price": 0.10, "customer": "c1", "n": 1}}, {"type": "Priced", "data": {"price": 9007199254740993, "customer": "c2", "urgency": 5, "n": 2}},
    {"type": "Priced", "data": {"price": 1e400, "customer": null, "n": 3}}, {"type": "Priced", "data": {"price": 7, "customer": "c1", "n": 1}}]');
SELECT key, left(body::text, 40), headers = jsonb_build_object('pos', "position"::text, 'v', version), stream, version, type FROM evtstore.receive('orders', max_count => 10);
-- without a stream: no key either
SELECT evtstore.create_rule('plain', '{"types": ["Plain"]}', 'queue:third', '{"body": ["${stream}", "${version}"]}');
SELECT version FROM evtstore.append_if('[{"type": "Plain", "data": 1}]', '{"items": [{"types": ["None"]}]}');
SELECT key, body, stream, version FROM evtstore.receive('third');
-- what is delayed is not there yet
SELECT evtstore.create_rule('later', '{"types": ["Later"]}', 'queue:other', '{"delay": "${data}"}');
SELECT version FROM evtstore.append_events('order-3', '[{"type": "Later", "data": "1 day"}, {"type": "Later", "data": null}]');
SELECT name, ready, delayed FROM evtstore.queue_status WHERE name = 'other';
-- the append is refused, and the rule named
SELECT fails($$SELECT evtstore.append('order-3', 'Later', '"whenever"')$$);
SELECT evtstore.stream_version('order-3');

--
-- a computed queue
--
SELECT evtstore.create_queue('region-eu'), evtstore.create_queue('region-us');
SELECT evtstore.create_rule('region', '{"types": ["Sold"]}', 'queue:region-${data.region}', '{"body": "${data.n}"}'), evtstore.create_rule('any', '{"types": ["Sold", "Named"]}', 'queue:${data.q}');
SELECT evtstore.test_rule('region', '{"type": "Sold", "data": {"region": "mars"}}') ->> 'target', evtstore.test_rule('region', '{"type": "Sold", "data": {}}') ->> 'target';
SELECT version FROM evtstore.append_events('sale-1', '[{"type": "Sold", "data": {"region": "us", "n": 1, "q": "region-eu"}}, {"type": "Sold", "data": {"region": "eu", "n": 2, "q": "region-eu"}}, {"type": "Named", "data": {"q": "region-us", "n": 3}}]');
-- in the order of the stream, whichever rule
CREATE FUNCTION take(queue text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    d evtstore.delivery; result text[] := '{}';
BEGIN
    LOOP
        SELECT * INTO d FROM evtstore.receive(queue);
        EXIT WHEN d.receipt IS NULL;
        result := result || format('%s %s', d.version, d.body);
        PERFORM evtstore.ack(d.receipt);
    END LOOP;
    RETURN result;
END $$;
SELECT take('region-eu'), take('region-us');
SELECT fails($$SELECT evtstore.append('sale-1', 'Sold', '{"region": "mars", "q": "region-eu"}')$$);
SELECT fails($$SELECT evtstore.append('sale-1', 'Named', '{}')$$);
SELECT evtstore.stream_version('sale-1'), take('region-eu'), take('region-us');
-- nothing names it, so it can go
SELECT evtstore.drop_queue('region-us');
SELECT fails($$SELECT evtstore.append('sale-1', 'Sold', '{"region": "us", "q": "region-eu"}')$$);
SELECT evtstore.drop_rule('region'), evtstore.drop_rule('any');

--
-- functions: as the rule's owner, under his search_path, in the append's transaction
--
CREATE ROLE rule_owner;
GRANT evtstore_admin TO rule_owner;
CREATE ROLE rule_appender;
GRANT evtstore_writer TO rule_appender;
CREATE SCHEMA shop;
CREATE TABLE shop.call (n serial, who text, path text, d evtstore.delivery, correlation text);
CREATE FUNCTION shop.note(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF d.body->>'fail' IS NOT NULL THEN RAISE EXCEPTION 'no: %', d.body->>'fail' USING ERRCODE = 'EV001'; END IF;
    INSERT INTO call (who, path, d) VALUES (current_user, current_setting('search_path'), d);
    -- caused by the event
    IF d.body->>'again' IS NOT NULL THEN PERFORM evtstore.append(d.stream, 'Again', jsonb_build_object('n', d.version)); END IF;
END $$;
CREATE PROCEDURE shop.wrong(d evtstore.delivery) LANGUAGE sql AS 'SELECT 1';
GRANT USAGE ON SCHEMA shop TO rule_owner;
GRANT INSERT ON shop.call TO rule_owner;
GRANT USAGE ON SEQUENCE shop.call_n_seq TO rule_owner;
REVOKE EXECUTE ON FUNCTION shop.note FROM PUBLIC;
SET ROLE rule_owner;
SET search_path = shop;
SELECT public.fails($$SELECT evtstore.create_rule('noted', '{}', 'sql:shop.note')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION shop.note TO rule_owner;
SET ROLE rule_owner;
SELECT evtstore.create_rule('noted', '{"types": ["Noted", "Again"]}', 'sql:shop.note', '{"body": {"of": "${data}", "fail": "${data.fail}", "again": "${data.again}"}, "headers": {"position": "${position}"}}');
RESET search_path;
RESET ROLE;
SELECT fails($$SELECT evtstore.create_rule('f', '{}', 'sql:note')$$);
SELECT fails($$SELECT evtstore.create_rule('f', '{}', 'sql:shop.missing')$$);
SELECT fails($$SELECT evtstore.create_rule('f', '{}', 'sql:shop.wrong')$$);
SELECT fails($$SELECT evtstore.create_rule('f', '{}', 'sql:shop.${data.fn}')$$);
SELECT fails($$SELECT evtstore.create_rule('f', '{}', 'sql:shop.note', '{"key": "x", "priority": 1}')$$);
SET ROLE rule_appender;
SELECT version FROM evtstore.append_events('note-1', '[{"type": "Other", "data": 1}, {"type": "Noted", "data": {"n": 0.10}}]');
SELECT fails($$SELECT evtstore.append_events('note-1', '[{"type": "Noted", "data": 1}, {"type": "Noted", "data": {"fail": "because"}}]')$$);
SELECT current_user, current_setting('search_path') ~ 'shop';
RESET ROLE;
SELECT who, path, (d).receipt, (d).attempt, (d).key, (d).message_id, (d).body, (d).headers ->> 'position' = (d)."position"::text, (d).stream, (d).version, (d).type, (d).schema_version, (d).tags, (d).event_id = e.id, (d).recorded_at = e.recorded_at
FROM shop.call JOIN evtstore.events e ON e."position" = (call.d)."position" ORDER BY n;
-- what it appends goes through the rules too, and is known to be caused by the event
SELECT version FROM evtstore.append('note-2', 'Noted', '{"again": 1}');
SELECT e.version, e.type, e.data, e.metadata ->> 'causation_id' = before.id::text, e.metadata -> 'causation_depth' FROM evtstore.read_stream('note-2') e LEFT JOIN evtstore.read_stream('note-2') before ON before.version = e.version - 1;
SELECT (d).version, (d).type FROM shop.call WHERE (d).stream = 'note-2' ORDER BY n;
-- a projection has what the function's event did before the function is called
CREATE TABLE seen (position bigint);
SELECT evtstore.create_projection('seen', '{"Looked": "INSERT INTO seen VALUES (($1).position)"}', 'sync');
CREATE FUNCTION shop.look(d evtstore.delivery) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.seen WHERE position = d.position) THEN RAISE EXCEPTION 'not seen yet'; END IF;
END $$;
SELECT evtstore.create_rule('look', '{"types": ["Looked"]}', 'sql:shop.look');
SELECT version FROM evtstore.append('look-1', 'Looked', '1');
-- only who could run it as the owner may name it
CREATE ROLE rule_stranger;
GRANT evtstore_admin TO rule_stranger;
SET ROLE rule_stranger;
SELECT fails($$SELECT evtstore.alter_rule('noted', '{"filter": {}}')$$);
RESET ROLE;
SELECT evtstore.alter_rule('noted', '{"filter": {"types": ["Quiet"]}}');
SELECT version FROM evtstore.append('note-3', 'Noted', '1');
SELECT count(*) FROM shop.call WHERE (d).stream = 'note-3';
-- no right any more, no append
SELECT evtstore.alter_rule('noted', '{"filter": {"types": ["Noted"]}}');
REVOKE EXECUTE ON FUNCTION shop.note FROM rule_owner;
SELECT fails($$SELECT evtstore.append('note-3', 'Noted', '1')$$);
-- a function may drop its rule while it runs
CREATE FUNCTION shop.once(d evtstore.delivery) RETURNS void LANGUAGE sql AS $$ SELECT evtstore.drop_rule('once'); INSERT INTO shop.call (d) VALUES (d) $$;
SELECT evtstore.create_rule('once', '{"types": ["Once"]}', 'sql:shop.once');
SELECT version FROM evtstore.append('once-1', 'Once', '1');
SELECT version FROM evtstore.append('once-1', 'Once', '2');
SELECT (d).version FROM shop.call WHERE (d).stream = 'once-1';
-- an import is history: nothing is called or sent
SELECT evtstore.create_rule('imported', '{"types": ["Imported"]}', 'sql:shop.look'), evtstore.create_rule('imported too', '{"types": ["Imported"]}', 'queue:${data}');
CALL evtstore.import_events($$SELECT 1::bigint AS position, 'imported-1' AS stream, 'Imported' AS type, '1'::jsonb AS data$$);
SELECT evtstore.stream_version('imported-1');

--
-- an endpoint: checked, and computed, for who delivers to it
--
UPDATE evtstore_internal.definition SET spec = spec || '{"target": "endpoint:customer-${data.c}", "mode": "async", "transform": {"body": ["${data.c}"], "headers": {"h": "${type}"}}}' WHERE kind = 'rule' AND name = 'look';
\c
\set QUIET on
\pset format unaligned
\pset tuples_only on
SELECT evtstore.test_rule('look', '{"type": "Looked", "data": {"c": 9007199254740993}, "stream": "s"}');

SELECT evtstore.drop_rule(name) FROM evtstore.rule_status;
DROP SCHEMA shop CASCADE;
DROP ROLE rule_owner, rule_appender, rule_stranger;
