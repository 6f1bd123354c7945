--
-- Bad and extreme input of "Append and read": NULL, empty, too long, numbers and texts at the limits of their types.  Each is a clean
-- error or correct; nothing is half done, and the transaction can go on after it.  What takes big values or other encodings is in
-- 061_bad_input.pl.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- SQLSTATE and message, without details; never more than a screen
CREATE FUNCTION outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE command INTO result;
    RETURN 'fine: ' || left(coalesce(result, '(nothing)'), 80);
EXCEPTION WHEN OTHERS THEN
    IF length(SQLERRM) > 400 THEN
        RETURN SQLSTATE || format(' with %s characters', length(SQLERRM));
    END IF;
    RETURN SQLSTATE || ' ' || replace(SQLERRM, repeat('x', 100), '<100 x>');
END $$;

SELECT version FROM evtstore.append('kept-1', 'T', '1', tags => '{t}', id => '00000000-0000-7000-8000-000000000001');

--
-- NULL in every argument
--
SELECT outcome(format('SELECT version FROM evtstore.%s', call)), call FROM (VALUES
    ($$append(NULL, 'T', '1')$$), ($$append('s-1', NULL, '1')$$), ($$append('s-1', 'T', NULL)$$),
    ($$append('s-1', 'T', '1', NULL, NULL, NULL, NULL, NULL, NULL, NULL)$$),
    ($$append_events(NULL, '[]')$$), ($$append_events('s-1', NULL)$$), ($$append_events('s-1', '[]', NULL, NULL)$$),
    ($$append_events('s-1', 'null')$$), ($$append_events('s-1', '[null]')$$),
    ($$append_streams(NULL)$$), ($$append_streams('null')$$), ($$append_streams('[null]')$$),
    ($$append_streams('[{"stream": null, "events": []}]')$$), ($$append_streams('[{"stream": "s-1", "events": null}]')$$),
    ($$append_streams('[{"stream": "s-1", "events": [null]}]')$$),
    ($$append_streams('[{"stream": "s-1", "events": [], "expected_version": null, "require": null}]')$$),
    ($$append_if(NULL, '{}')$$), ($$append_if('[]', NULL)$$), ($$append_if('[]', 'null')$$), ($$append_if('[]', '{"items": null}')$$),
    ($$append_if('[]', '{"items": [null]}')$$), ($$append_if('[]', '{"items": [{"types": null, "tags": ["n"]}]}')$$),
    ($$append_if('[]', '{"items": [{"tags": [null]}]}')$$), ($$append_if('[]', '{"items": [{"tags": ["n"]}]}', NULL, NULL)$$),
    ($$read_stream(NULL)$$), ($$read_stream('kept-1', NULL, NULL, NULL)$$), ($$read_category(NULL)$$), ($$read_category('kept', NULL, NULL, NULL)$$),
    ($$read_all(NULL, NULL, NULL)$$), ($$read_query(NULL)$$), ($$read_query('null')$$), ($$read_query('{}', NULL, NULL, NULL)$$),
    ($$get_event(NULL)$$), ($$stream_version(NULL) v(version)$$)) v (call);
CALL evtstore.wait_for_head(NULL);
CALL evtstore.wait_for_head(1, NULL);

--
-- fields of events in JSON: every type of value in every field
--
SELECT field, value, outcome(format('SELECT version FROM evtstore.append_events(%L, %L)', 'f-1',
    jsonb_build_array('{"type": "T", "data": 1}'::jsonb || jsonb_build_object(field, value::jsonb))))
FROM unnest('{type,data,metadata,tags,id,schema_version,occurred_at,other}'::text[]) field,
     unnest(ARRAY['null', 'true', '1', '"x"', '""', '[]', '{}', '[[]]', '["a", 1]']) value;

-- numbers, where a number is wanted; none is rounded into another one
SELECT value, outcome(format('SELECT schema_version FROM evtstore.append_events(%L, %L), evtstore.read_stream(%L, version - 1)', 'n-1',
    format('[{"type": "T", "data": 1, "schema_version": %s}]', value), 'n-1'))
FROM unnest('{1,1.0,2147483647,2147483648,0,-1,1.5,0.9999,1e3,1e-3,1e400,-1e400,9223372036854775808}'::text[]) value;
SELECT value, outcome(format('SELECT version FROM evtstore.append_streams(%L)', format('[{"stream": "n-2", "events": [], "expected_version": %s}]', value)))
FROM unnest('{0,0.0,1,-1,0.5,9223372036854775807,9223372036854775808,1e400,-1e400,"\"0\"",true}'::text[]) value;
SELECT outcome(format('SELECT version FROM evtstore.append_events(%L, %L)', 'n-3', format('[{"type": "T", "data": 1, "schema_version": 1%s}]', repeat('0', 100000))));
SELECT outcome(format('SELECT version FROM evtstore.append_streams(%L)', format('[{"stream": "n-2", "events": [], "expected_version": 1%s}]', repeat('0', 100000))));

-- numbers in data: jsonb knows neither NaN nor infinity; digits are kept, all of them
SELECT outcome($$SELECT version FROM evtstore.append('d-1', 'T', 'NaN')$$), outcome($$SELECT version FROM evtstore.append('d-1', 'T', '{"n": Infinity}')$$);
SELECT data FROM evtstore.append('d-1', 'T', to_jsonb('NaN'::numeric)) a, evtstore.read_stream('d-1', a.version - 1);
SELECT data FROM evtstore.append('d-1', 'T', to_jsonb('-Infinity'::float8)) a, evtstore.read_stream('d-1', a.version - 1);
SELECT data FROM evtstore.append('d-1', 'T', '[9007199254740993, 1e-30, 1.50, -0]') a, evtstore.read_stream('d-1', a.version - 1);
SELECT data = (repeat('9', 100000) || '.' || repeat('8', 16000))::jsonb AS same, length(data::text)
FROM evtstore.append('d-1', 'T', (repeat('9', 100000) || '.' || repeat('8', 16000))::jsonb) a, evtstore.read_stream('d-1', a.version - 1);
SELECT outcome(format('SELECT version FROM evtstore.append(%L, %L, %L)', 'd-1', 'T', repeat('9', 131073)));
-- idempotency compares values, not spellings
SELECT duplicate FROM evtstore.append('d-2', 'T', '{"a": 1.0, "b": 2}', id => '00000000-0000-7000-8000-000000000002');
SELECT duplicate FROM evtstore.append('d-2', 'T', '{"b": 2, "a": 1}', id => '00000000-0000-7000-8000-000000000002');

-- texts: NUL does not exist, escapes of it neither; other control characters do
SELECT outcome($$SELECT version FROM evtstore.append('e-1', 'T', '"\u0000"')$$);
SELECT outcome($$SELECT version FROM evtstore.append('e-1', 'T', '{"\u0000": 1}')$$);
SELECT outcome($$SELECT version FROM evtstore.append_events('e-1', '[{"type": "T\u0000", "data": 1}]')$$);
SELECT outcome($$SELECT version FROM evtstore.append('e-1', 'T', '"\ud800"')$$);
SELECT e.data, e.stream, e.type, e.tags FROM evtstore.append(E'e\x01-\x02', E'T\x03', '"\\u0000 \u0001 \uffff \ud83d\ude00"', tags => ARRAY[E'\x04', E'\n"{},\\']) a,
    evtstore.read_stream(E'e\x01-\x02', a.version - 1) e;
SELECT count(*) FROM evtstore.read_category(E'e\x01');
SELECT count(*) FROM evtstore.read_query(jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', ARRAY[E'T\x03'], 'tags', ARRAY[E'\n"{},\\']))));
SELECT outcome($$SELECT version FROM evtstore.append(convert_from('\xff', 'UTF8'), 'T', '1')$$);
SELECT outcome($$SELECT version FROM evtstore.append('e-1', E'\xc3', '1')$$);
SELECT outcome($$SELECT set_config('evtstore.tenant', E'\xff', false)$$);

--
-- too long, and at the limit: with text that does not compress, in every index
--
CREATE FUNCTION noise(n int, salt text) RETURNS text LANGUAGE sql AS $$
    SELECT left(string_agg(translate(encode(sha256((salt || i)::bytea), 'base64'), E'\n-', ''), ''), n) FROM generate_series(1, n / 40 + 1) i $$;
SELECT outcome(format('SELECT 1 FROM evtstore.%s', call)), left(call, 40) AS call FROM (
    SELECT format(call, repeat('x', 10000)) FROM unnest(ARRAY[
        $$append('%s', 'T', '1')$$, $$append('s-1', '%s', '1')$$, $$append('s-1', 'T', '1', tags => '{%s}')$$,
        $$append('s-1', 'T', '1', require => '%s')$$, $$append('s-1', 'T', '1', metadata => '"%s"')$$,
        $$append_events('%s', '[]')$$, $$append_events('s-1', '"%s"')$$, $$append_events('s-1', '["%s"]')$$, $$append_events('s-1', '[{"%s": 1}]')$$,
        $$append_events('s-1', '[{"type": "%s", "data": 1}]')$$, $$append_events('s-1', '[{"type": "T", "data": 1, "tags": ["%s"]}]')$$,
        $$append_events('s-1', '[{"type": "T", "data": 1, "tags": "%s"}]')$$, $$append_events('s-1', '[{"type": "T", "data": 1, "metadata": "%s"}]')$$,
        $$append_events('s-1', '[{"type": "T", "data": 1, "schema_version": "%s"}]')$$, $$append_streams('[{"stream": "%s", "events": []}]')$$,
        $$append_streams('[{"stream": "s-1", "events": [], "require": "%s"}]')$$, $$append_streams('[{"stream": "s-1", "events": [], "%s": 1}]')$$,
        $$append_streams('"%s"')$$, $$append_streams('["%s"]')$$, $$append_if('[]', '{}', stream => '%s')$$, $$append_if('[]', '{"%s": []}')$$,
        $$append_if('[]', '{"items": [{"types": ["%s"]}]}')$$, $$append_if('[]', '"%s"')$$, $$read_stream('%s')$$, $$read_category('%s')$$,
        $$read_query('{"items": [{"tags": ["%s"]}]}')$$, $$read_query('["%s"]')$$, $$stream_version('%s')$$]) call) v (call);
SET evtstore.tenant = 'xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx xxxxxxxxx';
SELECT set_config('evtstore.tenant', noise(255, 'tenant'), false) <> '' AS tenant_at_the_limit;
SELECT version FROM evtstore.append(noise(1024, 'stream'), noise(512, 'type'), '1', tags => ARRAY(SELECT noise(512, 'tag' || i) FROM generate_series(1, 100) i));
SELECT stream = noise(1024, 'stream') AS stream, type = noise(512, 'type') AS type, tags[7] = noise(512, 'tag7') AS tag, array_length(tags, 1)
FROM evtstore.read_query(jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', ARRAY[noise(512, 'type')], 'tags', ARRAY[noise(512, 'tag7'), noise(512, 'tag100')]))));
SELECT count(*) FROM evtstore.read_category(noise(1024, 'stream'));
RESET evtstore.tenant;
-- what is shown of a value that is too long is cut between two characters
SELECT length(outcome(format('SELECT 1 FROM evtstore.append_events(%L, %L)', 's-1', jsonb_build_array(repeat('ü', 1000))))) AS length;
-- (psql would leave half a character out)
SELECT shown, octet_length(shown) FROM fails(format('SELECT evtstore.stream_version(%L)', 'x' || repeat('ü', 600))) shown;
SELECT octet_length(outcome(format('SELECT 1 FROM evtstore.append_events(%L, %L)', 's-1', jsonb_build_array('x' || repeat('ü', 1000))))) AS octets;

-- a query of very many lists is refused before it takes the server's memory; how many are taken is in append_if
SELECT outcome(format('SELECT count(*) FROM evtstore.read_query(%L)', jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', (SELECT jsonb_agg('t' || i) FROM generate_series(1, 100000) i))))));
SELECT outcome(format('SELECT count(*) FROM evtstore.read_query(%L)', jsonb_build_object('items', (SELECT jsonb_agg(jsonb_build_object('tags', ARRAY['t' || i])) FROM generate_series(1, 5001) i))));
SELECT outcome(format('SELECT 1 FROM evtstore.append_if(%L, %L)', '[]', jsonb_build_object('items', jsonb_build_array(jsonb_build_object('types', (SELECT jsonb_agg('a' || i) FROM generate_series(1, 80) i), 'tags', (SELECT jsonb_agg('t' || i) FROM generate_series(1, 80) i))))));

--
-- bigint at its ends
--
SELECT outcome(format('SELECT count(*) FROM evtstore.%s', call)), call FROM (VALUES
    ($$read_stream('kept-1', 9223372036854775807)$$), ($$read_stream('kept-1', 9223372036854775807, backwards => true)$$), ($$read_stream('kept-1', -1)$$),
    ($$read_stream('kept-1', max_count => 9223372036854775807)$$), ($$read_stream('kept-1', max_count => 0)$$), ($$read_stream('kept-1', max_count => -1)$$),
    ($$read_category('kept', 9223372036854775807)$$), ($$read_category('kept', 9223372036854775807, backwards => true)$$), ($$read_category('kept', -9223372036854775808)$$),
    ($$read_all(9223372036854775807)$$), ($$read_all(9223372036854775806)$$), ($$read_all(0, backwards => true)$$), ($$read_all(max_count => 0)$$),
    ($$read_query('{}', 9223372036854775807)$$), ($$read_query('{}', 9223372036854775806)$$), ($$read_query('{}', 0, backwards => true)$$),
    ($$read_query('{"items": [{"tags": ["t"]}]}', 9223372036854775807, backwards => true)$$), ($$read_query('{"items": [{"tags": ["t"]}]}', 9223372036854775807)$$),
    ($$read_query('{}', max_count => -9223372036854775808)$$),
    ($$append('kept-1', 'T', '1', 9223372036854775807)$$), ($$append('kept-1', 'T', '1', schema_version => 2147483647)$$),
    ($$append('kept-1', 'T', '1', schema_version => -2147483648)$$), ($$append_if('[]', '{}', 9223372036854775807)$$), ($$append_if('[]', '{}', -1)$$)) v (call);
-- times at theirs
SELECT outcome(format('SELECT occurred_at FROM evtstore.append(%L, %L, %L, occurred_at => %L), evtstore.read_stream(%L, version - 1)', 'o-1', 'T', '1', at, 'o-1')), at
FROM unnest('{infinity,-infinity,"4713-01-01 00:00:00+00 BC","294276-12-31 23:59:59.999999+00",294277-01-01,never}'::text[]) at;
SELECT outcome(format('SELECT occurred_at FROM evtstore.append_events(%L, %L), evtstore.read_stream(%L, version - 1)', 'o-1', format('[{"type": "T", "data": 1, "occurred_at": %s}]', at), 'o-1')), at
FROM unnest('{"\"infinity\"","\"2024-02-30T00:00:00Z\"","\"2024-02-29T00:00:00.1234567Z\"","\"\"",1}'::text[]) at;
-- arrays of tags of unusual shapes
SELECT outcome(format('SELECT tags FROM evtstore.append(%L, %L, %L, tags => %s), evtstore.read_stream(%L, version - 1)', 'a-1', 'T', '1', tags, 'a-1')), tags
FROM unnest(ARRAY[$$'{}'$$, $$'{{a,b},{c,d}}'$$, $$'[0:1]={a,b}'$$, $$'{a,a,a}'$$, $$'{NULL}'$$, $$'{NULL,a}'$$, $$'{""}'$$, $$'{" "}'$$,
    $$array_fill('x'::text, '{3}')$$, $$array_fill(NULL::text, '{3}')$$]) tags;

--
-- values that come out of a table: compressed, out of line, with short headers
--
CREATE TABLE source (stream text, type text, data jsonb, metadata jsonb, tags text[], big jsonb);
INSERT INTO source SELECT 'src-' || repeat('s', 1000), repeat('t', 500), to_jsonb(noise(20000, 'd')), jsonb_build_object('m', noise(20000, 'm')),
    ARRAY(SELECT noise(500, 'g' || i) FROM generate_series(1, 50) i), jsonb_build_array(jsonb_build_object('type', 'T', 'data', noise(30000, 'b')));
SELECT a.version, e.data = s.data AND e.metadata = s.metadata AND e.tags = s.tags AND e.type = s.type AS same
FROM source s, evtstore.append(s.stream, s.type, s.data, 0, s.metadata, s.tags) a, evtstore.read_stream(s.stream) e;
SELECT b.version, c.version FROM source s, evtstore.append_events(s.stream, s.big) b, evtstore.append_if(s.big, '{"items": [{"tags": ["none"]}]}', stream => s.stream) c;

--
-- a refusal undoes all of its own and nothing else; the transaction goes on after ROLLBACK TO
--
BEGIN;
SELECT version FROM evtstore.append('tx-1', 'T', '1');
SAVEPOINT s;
SELECT evtstore.append_streams('[{"stream": "tx-1", "events": [{"type": "T", "data": 2}]}, {"stream": "tx-2", "events": [{"type": "T", "data": 1, "tags": [""]}]}]');
SELECT 1;
ROLLBACK TO s;
SELECT evtstore.append_events('tx-1', '[{"type": "T", "data": 2}, {"type": "T", "data": 3, "id": "x"}]');
ROLLBACK TO s;
SELECT version FROM evtstore.append_streams('[{"stream": "tx-1", "events": [{"type": "T", "data": 2}], "expected_version": 1}, {"stream": "tx-2", "events": [], "expected_version": 0}]');
COMMIT;
SELECT version, data FROM evtstore.read_stream('tx-1');
SELECT count(*) FROM evtstore.streams WHERE stream IN ('s-1', 'n-3', 'tx-2');
