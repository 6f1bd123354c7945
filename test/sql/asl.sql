--
-- What states of sagas do with their input: paths, functions, payloads, choices, results, errors.  All by test_state.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset null '(null)'

-- the state's answer; or what is wrong with it
CREATE FUNCTION try(state jsonb, input jsonb, options jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    RETURN evtstore.test_state(CASE WHEN state->>'Type' IN ('Choice', 'Succeed', 'Fail') OR state ? 'Next' THEN state ELSE state || '{"End": true}' END, input, options);
EXCEPTION WHEN SQLSTATE 'ST009' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN jsonb_build_object('fault', detail);
END $$;
CREATE FUNCTION said(answer jsonb, result jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN answer ? 'fault' THEN 'FAULT ' || (answer->>'fault') WHEN answer->>'status' = 'FAILED' THEN concat('!', answer->>'error', ' ', answer->>'cause')
        ELSE coalesce(result::text, '(null)') END $$;
-- what an expression gives, for an input that has one of each
CREATE FUNCTION document() RETURNS jsonb LANGUAGE sql AS $$
    SELECT '{"s": "text", "n": 7, "d": 1.50, "t": true, "z": null, "o": {"x": {"y": [10, 20, 30]}}, "l": [5, 3, 5.0, "5", null, [1], {"a": 1}], "e": [], "eo": {},
        "a b": {"c.d": 1}, "h-y": 2, "größe": 3, "&": 4, "q''s": 5, "w": "a,b;c", "j": "{\"a\": [1, 2.50]}", "at": "2026-03-14T01:59:00Z", "neg": -3, "half": 2.5, "big": 3000000000,
        "store": {"book": [{"price": 8.95, "author": "N", "isbn": null}, {"price": 12.99, "author": "E", "tags": ["x"]}, {"price": 22, "author": "T", "isbn": "1"}], "bicycle": {"price": 19.95, "color": "red"}}}'::jsonb $$;
CREATE FUNCTION e(expression text, input jsonb DEFAULT document()) RETURNS text LANGUAGE sql AS $$
    SELECT replace(said(r, r->'output'->'v'), '$.Parameters[''v.$'']: ', '')
    FROM try(jsonb_build_object('Type', 'Pass', 'Parameters', jsonb_build_object('v.$', expression)), input, '{"context": {"Execution": {"Id": "x1"}, "l": [1, 2]}}') r $$;
CREATE FUNCTION all_of(VARIADIC expressions text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT left(x, 300) || '  ->  ' || e(x) FROM unnest(expressions) WITH ORDINALITY u (x, i) ORDER BY i $$;

\echo paths: fields, quoted ones, escapes
SELECT all_of('$.s', '$.n', '$.d', '$.t', '$.z', '$.o', '$.o.x.y', '$["s"]', '$[''a b'']', '$[''a b''][''c.d'']', '$[''a b''].c\.d', '$.a\ b', '$.h-y', '$.größe', '$.&', '$["q''s"]', $$$['q\'s']$$, '$.[''s'']', '$[ ''s'' ]');
SELECT all_of('$.missing', '$.s.x', '$.l.a', '$.z.x', '$.o.missing.y', '$$.missing', '$$.Execution.Id', '$$', '$$.l[1]', '$.S');
SELECT e('$', '1'), e('$', '[1, 2]'), e('$[1]', '[1, 2]'), e('$', 'null'), e('$.x', '"x"'), e('$[0]', '"x"'), e('$[0]', '{"0": 1}');
\echo indexes, unions, slices
SELECT all_of('$.l[0]', '$.l[6].a', '$.l[-1]', '$.l[-7]', '$.l[7]', '$.l[-8]', '$.e[0]', '$.o[0]', '$.l[0,1]', '$.l[0, -1,99]', '$.l[5][0]', '$[''s'',''n'']', '$[''n'',"missing",''s'']', '$.o.x.y[ 1 ]');
SELECT all_of('$.o.x.y[1:]', '$.o.x.y[:2]', '$.o.x.y[:]', '$.o.x.y[1:2]', '$.o.x.y[-2:]', '$.o.x.y[:-1]', '$.o.x.y[-99:99]', '$.o.x.y[2:1]', '$.o.x.y[-1:-3]', '$.o[0:1]', '$.e[0:1]', '$.o.x.y[0:1][0]');
\echo wildcards and all that is below
SELECT all_of('$.e[*]', '$.eo.*', '$.o.*', '$.o[*]', '$.o.x.y[*]', '$.s[*]', '$.store.book[*].author', '$.store.book[*].isbn', '$.store..price', '$..price', '$..book[0].author', '$..book[-1:].author', '$..nothing', '$..[''color'']', '$..y[0]', '$.store..*', '$.o..*', '$.o..[*]', '$.*.x');
\echo filters
SELECT all_of('$.store.book[?(@.price < 10)].author', '$.store.book[?(@.price<=12.99)].author', '$.store.book[?(@.price > 10 && @.price < 20)].author', '$.store.book[?(@.author == ''T'' || @.author == "N")].price', '$.store.book[?(!(@.author == ''T''))].price',
    '$.store.book[?(@.isbn)].author', '$.store.book[?(!@.isbn)].author', '$.store.book[?(@.isbn == null)].author', '$.store.book[?(@.isbn != null)].author', '$.store.book[?(@.tags[0] == ''x'')].author', '$.store.book[?(@[''author''] != ''T'')].price', '$.store.book[?(@.price == 22.0)].author',
    '$.store.book[?(@.price == "22")].author', '$.store.book[?(@.author > 5)].author', '$.store.book[?(@.author >= ''N'')].author', '$.store.book[?( @.price >= $.n && ( @.price < 9 || @.price > 20 ) )].author');
SELECT all_of('$..[?(@.price > 19)].price', '$..book[?(@.price > 19)].author', '$.l[?(@ == 5)]', '$.l[?(@ > 4)]', '$.l[?(@.a)]', '$.l[?(@ == null)]', '$.o[?(@.x)]', '$.o[?(@.z)]', '$.l[?(@ != 5)]', '$.e[?(@.x)]', '$.s[?(@.x)]', '$.o.x.y[?(@ >= -5 && !(@ == 20))]', '$.l[?(true == true)]', '$.store.book[?(@.tags == $.store.book[1].tags)].author', '$.store.book[?(@.price < 10 || @.price > 20 && @.author == "N")].author');
\echo what is no path
SELECT all_of('$.', '$..', '$.a.', '$.a..', '$.a b', '$ .a', '$a', '$states.input', '$$x', '$.[', '$.a[', '$.a[]', '$.a[1', '$.a[1 2]', '$.a[x]', '$.a[''x', '$.a[''x''', '$.a[''x'',]', '$.a[1,]', '$.a[-]', '$.a[99999999999]', '$.a[0:4:2]', '$.a[1:x]', '$.a[0,1:2]', '$.a(1)', '$.a.length()', '$.a[(@.length-1)]', '$.a"b', '$.a,b', '$.@', '$.a?', '$[*', '$.**', '$***', '', ' $.a', '$.a ', 'a', '@.a', '.a', '5');
SELECT all_of('$.a[?]', '$.a[?()]', '$.a[?(@.x]', '$.a[?(@.x)', '$.a[?(@.x ==)]', '$.a[?(@.x = 1)]', '$.a[?(@.x == )]', '$.a[?(@.x == y)]', '$.a[?(@.x =~ /a/)]', '$.a[?(@.x in [1])]', '$.a[?(1)]', '$.a[?(''x'')]', '$.a[?(@.x == 1 &&)]', '$.a[?(@.x == 1 & @.y)]', '$.a[?(@..x)]', '$.a[?(@[*] == 1)]', '$.a[?(@.x == ''y)]', '$.a[?@.x]', '$.a[?(!)]', '$.a[?(@.x == 1e5)]', '$.a[?(@.x == 1.)]', '$.a[?(@.x == -)]');
SELECT left(e('$' || repeat('.a', 251)), 20), right(e('$' || repeat('.a', 251)), 60);
SELECT right(e('$' || repeat('.a', 249)), 25), right(e('$[?' || repeat('(', 101) || '@' || repeat(')', 101) || ']'), 60), e('$[?' || repeat('(', 50) || '@' || repeat(')', 50) || ']', '[1]');
SELECT right(e('$[?(' || repeat('@.x||', 1000) || '@.x)]'), 60), e('$[?(' || repeat('@.x||', 998) || '@.y)]', '[{"y": 1}]'), right(e('$[?(' || repeat('!', 200) || '@)]'), 40);

\echo functions: arguments
SELECT all_of('States.Array()', 'States.Array(1)', 'States.Array( 1 , -2.50,1e2 , ''x'',true,false , null, $.n,$[''a b''], $.l[?(@.a == 1 && @ != '')'')], States.Array($$.Execution.Id) )', 'States.Array('''')', $$States.Array('it\'s \{\} \\')$$, 'States.Array(''ä€'')', 'States.Array ($.n)', 'States.Array($.missing)', 'States.Array($.missing[*])', 'States.Array(''{'', ''}'')');
SELECT all_of('States.Nothing()', 'States.array()', 'Array(1)', 'States.UUID', 'States.Array(', 'States.Array(1', 'States.Array(1,', 'States.Array(1,)', 'States.Array(,)', 'States.Array(1 2)', 'States.Array(''x)', $$States.Array('\x')$$, $$States.Array('\')$$, 'States.Array(x)', 'States.Array(truex)', 'States.Array(1.)', 'States.Array(-)', 'States.Array(1e)', 'States.Array(1e9999)', 'States.Array(1x)', 'States.Array("x")', 'States.Array($.a[)', 'States.Array($)x', 'States.Array($.a$)', 'States.Array({})', 'States.Array(States.Nothing())', 'MyFunction($.a)');
SELECT all_of('States.UUID(1)', 'States.ArrayLength()', 'States.ArrayLength(1, 2)', 'States.MathRandom(1)', 'States.MathRandom(1, 2, 3, 4)', 'States.Format()', 'States.Hash(1)');
SELECT e(repeat('States.Array(', 10) || '1' || repeat(')', 10)), e(repeat('States.Array(', 11) || '1' || repeat(')', 11)), e('States.Array(' || repeat('1,', 999) || '1)') = '[' || repeat('1, ', 999) || '1]', e('States.ArrayLength(States.Array(' || repeat('States.Array(),', 19) || '1))');
\echo Format
SELECT all_of('States.Format(''Hello, {}: {} of {}'', $.s, $.n, $.d)', 'States.Format(''{}{}'', $.z, $.t)', 'States.Format(''{} {}'', $.o, $.e)', 'States.Format(''nothing'')', 'States.Format('''')', $$States.Format('\{\} {} \\ \'', 1)$$, $$States.Format('\\{}', 1)$$, 'States.Format(''{ } {x} }{'')', 'States.Format(''{{}}'', 1)', 'States.Format($.s)', 'States.Format(States.Format(''\{\} {}'', ''x''), 5)');
SELECT all_of('States.Format(''{}'')', 'States.Format(''x'', 1)', 'States.Format(''{}'', 1, 2)', 'States.Format($.s, 1)', 'States.Format($.n)', 'States.Format(5)', 'States.Format(''{}'', $.missing)');
SELECT e('States.Format($.t, $.v)', '{"t": "\\{} is {}", "v": 1}'), e('States.Format($.t, $.v, 2)', '{"t": "\\{} is {}", "v": 1}'), e('States.Format($.t, $.v)', '{"t": "it''s {", "v": 1}');
\echo StringToJson and JsonToString
SELECT all_of('States.StringToJson($.j)', 'States.StringToJson(''5.10'')', 'States.StringToJson('' null '')', 'States.StringToJson(''"x"'')', 'States.StringToJson(''[]'')', 'States.JsonToString($.o)', 'States.JsonToString($.s)', 'States.JsonToString($.d)', 'States.JsonToString($.z)', 'States.StringToJson(States.JsonToString($.l))');
SELECT all_of('States.StringToJson('''')', 'States.StringToJson(''x'')', 'States.StringToJson(''\{'')', 'States.StringToJson(''[1,]'')', 'States.StringToJson(''1 2'')', 'States.StringToJson(''01'')', 'States.StringToJson($.n)', 'States.StringToJson($.z)', 'States.StringToJson(''1e999999'')', 'States.StringToJson(''[1e-999999]'')', 'States.StringToJson(''NaN'')', $$States.StringToJson('"a')$$, $$States.StringToJson('"\\u0000"')$$, $$States.StringToJson('"\\ud800"')$$, $$States.StringToJson('"\\ud83d\\ude00"')$$, $$States.StringToJson('"a\\')$$, $$States.StringToJson('"\\')$$);
SELECT right(e('States.StringToJson($)', to_jsonb(repeat('[', 100000))), 40), right(e('States.StringToJson($)', to_jsonb(repeat('9', 100000))), 40), right(e('States.StringToJson($)', to_jsonb(repeat('{"a":', 100000))), 40), length(e('States.StringToJson($)', to_jsonb(repeat('[', 1000) || repeat(']', 1000))));
\echo arrays
SELECT all_of('States.ArrayPartition($.l, 3)', 'States.ArrayPartition($.l, 7)', 'States.ArrayPartition($.l, 100)', 'States.ArrayPartition($.e, 2)', 'States.ArrayPartition($.o.x.y, 1)', 'States.ArrayPartition($.o.x.y, 1.6)', 'States.ArrayPartition($.l, 2147483647)', 'States.ArrayPartition($.l, 0)', 'States.ArrayPartition($.l, -1)', 'States.ArrayPartition($.l, ''2'')', 'States.ArrayPartition($.o, 2)', 'States.ArrayPartition($.l, 3000000000)');
SELECT all_of('States.ArrayContains($.l, 5)', 'States.ArrayContains($.l, 5.00)', 'States.ArrayContains($.l, ''5'')', 'States.ArrayContains($.l, null)', 'States.ArrayContains($.l, States.Array(1))', 'States.ArrayContains($.l, 6)', 'States.ArrayContains($.l, States.StringToJson(''\{"a":1.0\}''))', 'States.ArrayContains($.e, null)', 'States.ArrayContains($.l, true)', 'States.ArrayContains($.s, 1)');
SELECT all_of('States.ArrayRange(1, 9, 2)', 'States.ArrayRange(1, 10, 2)', 'States.ArrayRange(0, 0, 1)', 'States.ArrayRange(0, 0, -1)', 'States.ArrayRange(5, 1, -2)', 'States.ArrayRange(5, 1, 1)', 'States.ArrayRange(1, 5, -1)', 'States.ArrayRange(-2, 2, 1)', 'States.ArrayRange(1, 3.4, 0.6)', 'States.ArrayRange(1, 5, 0)', 'States.ArrayRange(1, 5, 0.4)', 'States.ArrayRange(''1'', 5, 1)', 'States.ArrayRange(1, null, 1)', 'States.ArrayRange($.s, 5, 1)', 'States.ArrayRange(1, $.z, 1)', 'States.ArrayRange(1, 5, $.e)', 'States.ArrayRange(1, 1001, 1)', 'States.ArrayRange(-2147483648, 2147483647, 1)', 'States.ArrayRange(2147483647, 2147483647, 2147483647)', 'States.ArrayRange(1, 3, $.big)', 'States.ArrayRange(2147483646, 2147483647, 1)');
SELECT e('States.ArrayLength(States.ArrayRange(1, 1000, 1))'), e('States.ArrayLength(States.ArrayRange(-2147483648, 2147483647, 5000000))');
SELECT all_of('States.ArrayGetItem($.l, 0)', 'States.ArrayGetItem($.l, 6)', 'States.ArrayGetItem($.l, 4)', 'States.ArrayGetItem($.l, 0.6)', 'States.ArrayGetItem($.l, 7)', 'States.ArrayGetItem($.l, -1)', 'States.ArrayGetItem($.e, 0)', 'States.ArrayGetItem($.o, 0)', 'States.ArrayGetItem($.l, ''0'')');
SELECT all_of('States.ArrayLength($.l)', 'States.ArrayLength($.e)', 'States.ArrayLength($.o)', 'States.ArrayLength($.z)', 'States.ArrayLength($.store.book[*])', 'States.ArrayUnique($.l)', 'States.ArrayUnique($.e)', 'States.ArrayUnique(States.Array(3, 1, 3, ''a'', 1.0, ''a'', null, null, true, $.o, $.o, States.Array(), States.Array(), false))', 'States.ArrayUnique($.s)');
\echo encodings and hashes
SELECT all_of('States.Base64Encode(''Data to encode'')', 'States.Base64Encode('''')', 'States.Base64Encode(''ä€'')', 'States.Base64Decode(''RGF0YSB0byBlbmNvZGU='')', 'States.Base64Decode('''')', 'States.Base64Decode(States.Base64Encode(''ä€''))', 'States.Base64Encode($.n)', 'States.Base64Decode($.n)', 'States.Base64Decode(''!'')', 'States.Base64Decode(''QQ'')', 'States.Base64Decode(''/w=='')', 'States.Base64Decode(''AA=='')');
SELECT e('States.ArrayLength(States.StringSplit(States.Base64Encode($), ''x''))', to_jsonb(repeat('ä', 10000))) IS NOT NULL, e('States.Base64Encode($)', to_jsonb(repeat('ä', 10001))), e('States.Base64Decode($)', to_jsonb(repeat('QUFB', 2501))), length(e('States.Base64Decode($)', to_jsonb(repeat('QUFB', 2500))));
SELECT all_of('States.Hash(''input data'', ''MD5'')', 'States.Hash(''input data'', ''SHA-1'')', 'States.Hash(''input data'', ''SHA-256'')', 'States.Hash(''input data'', ''SHA-384'')', 'States.Hash(''input data'', ''SHA-512'')', 'States.Hash('''', ''MD5'')', 'States.Hash(''x'', ''sha-1'')', 'States.Hash(''x'', ''SHA-224'')', 'States.Hash(''x'', $.n)');
SELECT e('States.Hash($, ''MD5'')', '{"a": 1}') = to_jsonb(md5('{"a": 1}'))::text, e('States.Hash($, ''SHA-256'')', '"ä"') = to_jsonb(encode(sha256(convert_to('ä', 'UTF8')), 'hex'))::text, e('States.Hash($, ''MD5'')', to_jsonb(repeat('ä', 10000))) = to_jsonb(md5(repeat('ä', 10000)))::text, e('States.Hash($, ''MD5'')', to_jsonb(repeat('ä', 10001)));
\echo objects, numbers, strings
SELECT all_of('States.JsonMerge($.o, $.eo, false)', 'States.JsonMerge(States.StringToJson(''\{"a": 1, "b": \{"x": 1\}\}''), States.StringToJson(''\{"b": \{"y": 2\}, "c": 3\}''), false)', 'States.JsonMerge($.o, $.eo, true)', 'States.JsonMerge($.o, $.eo, 0)', 'States.JsonMerge($.o, $.l, false)', 'States.JsonMerge($.s, $.o, false)', 'States.JsonMerge($.eo, $.z, false)');
SELECT all_of('States.MathAdd(1, 2)', 'States.MathAdd($.n, $.neg)', 'States.MathAdd(1.4, 1.4)', 'States.MathAdd($.half, -0.5)', 'States.MathAdd(2147483647, 1)', 'States.MathAdd(2147483647, 2147483647)', 'States.MathAdd($.big, 1)', 'States.MathAdd(1, ''2'')', 'States.MathAdd(null, 2)', 'States.MathAdd(1, $.s)', 'States.MathAdd($.z, 2)', 'States.MathAdd(-2147483648, -2147483648)');
SELECT all_of('States.MathRandom(1, 2)', 'States.MathRandom(-1, 0, 5)', 'States.MathRandom(2, 2)', 'States.MathRandom(3, 2)', 'States.MathRandom(''1'', 2)', 'States.MathRandom(1, 2, ''x'')', 'States.MathRandom($.t, 2)', 'States.MathRandom(1, 2, $.s)', 'States.MathRandom(1, $.big)');
SELECT min(r), max(r), count(DISTINCT r) FROM (SELECT e('States.MathRandom(1, 4)')::int AS r FROM generate_series(1, 300)) x;
SELECT count(DISTINCT e('States.MathRandom(1, 1000000, 42)')), e('States.MathRandom(1, 1000000, 42)') <> e('States.MathRandom(1, 1000000, 43)'), e('States.MathRandom(-2147483648, 2147483647, 1)')::bigint BETWEEN -2147483648 AND 2147483646 FROM generate_series(1, 5);
SELECT all_of('States.StringSplit($.w, '','')', 'States.StringSplit($.w, '',;'')', 'States.StringSplit($.w, ''x'')', 'States.StringSplit('',,a,,b,'', '','')', 'States.StringSplit('''', '','')', 'States.StringSplit('','', '','')', 'States.StringSplit(''This.is+a,test=string'', ''.+,='')', 'States.StringSplit(''aäbÄc€'', ''ä€'')', 'States.StringSplit($.w, '''')', 'States.StringSplit($.n, '','')', 'States.StringSplit($.w, 1)', 'States.StringSplit(''1\{2\}3'', ''\{\}'')');
SELECT e('States.UUID()') ~ '^"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"$', e('States.UUID()') <> e('States.UUID()');
SELECT e('States.Format(''{}-{}'', States.ArrayGetItem(States.StringSplit($.w, '',;''), States.MathAdd(States.ArrayLength($.o.x.y), -2)), States.JsonToString(States.Array($.d)))');

\echo payloads
CREATE FUNCTION payload(template jsonb, input jsonb DEFAULT document()) RETURNS text LANGUAGE sql AS $$
    SELECT said(r, r->'output') FROM try(jsonb_build_object('Type', 'Pass', 'Parameters', template), input, '{"context": {"Execution": {"Id": "x1"}}}') r $$;
SELECT payload(p) FROM (VALUES ('{}'::jsonb), ('{"a": 1, "b": {"c": [1.50, null, "$.s"]}}'), ('{"a.$": "$.s", "b": {"c.$": "$$.Execution.Id", "d": {"e.$": "States.Array($.n)"}}, "f": "$.s"}'),
    ('{"l": [{"a.$": "$.n"}, [{"b.$": "$.d"}], "c.$", 5]}'), ('{"a.$": "$"}'), ('{"a.b.$": "$.n", "$": 1, "x$": 2, "y.$z": 3}'), ('{"a.$": "$.missing"}'), ('{"a.$": "States.ArrayLength($.n)"}'), ('{"a": {"b": [1, {"c.$": "$.missing"}]}}'),
    ('{"a.$": 5, "b.$": {"c": 1}, "d.$": "x", "e": {"f.$": "$."}, "g": [{"h.$": null}]}'), ('{"a": 1, "a.$": "$.n"}'), ('{"o": {"a": {}, "a.$": "$.n", "b.$": "$.s", "c": 1}}'), ('{".$": "$.n"}'), ('{"a": {"b": {".$": "$.s"}}}')) v (p);

\echo paths of a state itself
CREATE FUNCTION pass(fields jsonb, input jsonb DEFAULT '{"a": {"b": 1}, "l": [1, 2], "n": null}') RETURNS text LANGUAGE sql AS $$
    SELECT said(r, jsonb_build_array(r->'input', r->'output')) FROM try('{"Type": "Pass"}' || fields, input) r $$;
SELECT f, pass(f) FROM (VALUES ('{}'::jsonb), ('{"InputPath": "$.a"}'), ('{"InputPath": "$"}'), ('{"InputPath": null}'), ('{"InputPath": "$.missing"}'), ('{"InputPath": "$.l[*]"}'), ('{"InputPath": "$.n"}'),
    ('{"InputPath": "$.a", "Parameters": {"v.$": "$.b"}}'), ('{"OutputPath": "$.a"}'), ('{"OutputPath": null}'), ('{"OutputPath": "$.missing"}'), ('{"OutputPath": "$.l[1]"}'),
    ('{"Result": {"r": 1.0}}'), ('{"Result": null}'), ('{"Result": 5, "ResultPath": "$.r"}'), ('{"Result": 5, "ResultPath": null}'), ('{"Result": 5, "ResultPath": "$"}'), ('{"Result": {"x": 1}, "ResultPath": "$.r", "OutputPath": "$.r.x"}'),
    ('{"InputPath": "$.a", "ResultPath": "$.r"}'), ('{"Result": 5, "ResultPath": "$.r", "OutputPath": "$.missing"}')) v (f);
\echo where a result is put
SELECT p, i, said(r, r->'output') FROM (VALUES ('$.a', '{}'::jsonb), ('$.a', '{"a": {"b": 1}}'), ('$.a.c', '{"a": {"b": 1}}'), ('$.a.b.c.d', '{}'), ('$[''x y''].z', '{"k": 1}'), ('$.a[0]', '{"a": [1, 2]}'), ('$.a[1].b', '{"a": [1, {"b": 2, "c": 3}]}'), ('$.a[-1]', '{"a": [1, 2]}'), ('$[0]', '[1, 2]'),
    ('$.a[2]', '{"a": [1, 2]}'), ('$.a[-3]', '{"a": [1, 2]}'), ('$.a[0]', '{}'), ('$.a.b', '{"a": 1}'), ('$.a.b', '{"a": null}'), ('$.a.b', '{"a": [1]}'), ('$.a[0]', '{"a": {"b": 1}}'), ('$.a', '[1]'), ('$.a', '5'), ('$.a', 'null'), ('$[0]', '{}'), ('$[0]', '5'), ('$', '5'),
    ('$.*', '{}'), ('$..a', '{}'), ('$.a[*]', '{}'), ('$.a[0:1]', '{}'), ('$.a[0,1]', '{}'), ('$[''a'',''b'']', '{}'), ('$.a[?(@.b)]', '{}'), ('$$.a', '{}'), ('a', '{}'), ('States.UUID()', '{}')) v (p, i),
    LATERAL try(jsonb_build_object('Type', 'Pass', 'Result', '{"new": 1}'::jsonb, 'ResultPath', p), i) r;
\echo a task: its result and what it selects of it
CREATE FUNCTION task(fields jsonb, options jsonb, input jsonb DEFAULT '{"a": 1, "t": 30, "s": "x"}') RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN r ? 'fault' THEN said(r, NULL) ELSE jsonb_strip_nulls(r)::text END FROM try('{"Type": "Task", "Resource": "queue:q"}' || fields, input, options) r $$;
SELECT task(f, o) FROM (VALUES ('{}'::jsonb, '{"result": {"r": 1}}'::jsonb), ('{"Next": "Then"}', '{"result": null}'), ('{"ResultSelector": {"v.$": "$.r", "id.$": "$$.id"}, "ResultPath": "$.out"}', '{"result": {"r": 1}, "context": {"id": 7}}'),
    ('{"ResultSelector": {"v.$": "$.r"}, "ResultPath": null}', '{"result": {"r": 1}}'), ('{"ResultSelector": {"v.$": "$.missing"}}', '{"result": {"r": 1}}'), ('{"InputPath": "$.missing"}', '{"result": 1}'), ('{"Parameters": {"x.$": "$.missing"}, "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}]}', '{"result": 1}'),
    ('{"TimeoutSecondsPath": "$.t", "HeartbeatSecondsPath": "$.a"}', '{"result": 1}'), ('{"TimeoutSecondsPath": "$.s"}', '{"result": 1}'), ('{"TimeoutSecondsPath": "$.missing"}', '{"result": 1}')) v (f, o);

\echo errors: which retrier, which catcher
SELECT e || ' by ' || array_to_string(p, ', ') || ': ' || (try(jsonb_build_object('Type', 'Task', 'Resource', 'queue:q', 'Catch', jsonb_build_array(jsonb_build_object('ErrorEquals', p, 'Next', 'X'))), '{}', jsonb_build_object('error', e))->>'status') FROM (VALUES
    ('Mine', ARRAY['Mine']), ('Mine', ARRAY['Other', 'Mine']), ('Mine', ARRAY['mine']), ('Mine', ARRAY['Min']), ('Mine', ARRAY['States.ALL']), ('Mine', ARRAY['States.TaskFailed']), ('Mine', ARRAY['States.Timeout']),
    ('States.Timeout', ARRAY['States.Timeout']), ('States.Timeout', ARRAY['States.TaskFailed']), ('States.Timeout', ARRAY['States.ALL']), ('States.Timeout', ARRAY['States.HeartbeatTimeout']),
    ('States.HeartbeatTimeout', ARRAY['States.Timeout']), ('States.HeartbeatTimeout', ARRAY['States.HeartbeatTimeout']), ('States.HeartbeatTimeout', ARRAY['States.TaskFailed']),
    ('States.Runtime', ARRAY['States.ALL']), ('States.Runtime', ARRAY['States.TaskFailed']), ('States.Runtime', ARRAY['States.Runtime']), ('States.DataLimitExceeded', ARRAY['States.ALL']), ('States.DataLimitExceeded', ARRAY['States.TaskFailed']), ('States.DataLimitExceeded', ARRAY['States.DataLimitExceeded']),
    ('States.Permissions', ARRAY['States.TaskFailed']), ('States.BranchFailed', ARRAY['States.ALL']),
    ('23505 unique_violation', ARRAY['23505']), ('23505 unique_violation', ARRAY['unique_violation']), ('23505 unique_violation', ARRAY['23505 unique_violation']), ('23505 unique_violation', ARRAY['2350']), ('23505 unique_violation', ARRAY['violation']), ('23505 unique_violation', ARRAY['States.TaskFailed']), ('', ARRAY['States.ALL']), ('', ARRAY['x'])) v (e, p);
\echo what a catcher hands on
SELECT jsonb_strip_nulls(try(jsonb_build_object('Type', 'Task', 'Resource', 'queue:q', 'Catch', jsonb_build_array('{"ErrorEquals": ["A"], "Next": "ForA"}'::jsonb, '{"ErrorEquals": ["States.ALL"], "Next": "ForAll"}' || f)), i, o)) FROM (VALUES
    ('{}'::jsonb, '{"a": 1}'::jsonb, '{"error": "A", "cause": "why"}'::jsonb), ('{}', '{"a": 1}', '{"error": "B"}'), ('{"ResultPath": "$.error"}', '{"a": 1}', '{"error": "B", "cause": "why"}'), ('{"ResultPath": null}', '{"a": 1}', '{"error": "B"}'), ('{"ResultPath": "$.a.b"}', '{"a": 1}', '{"error": "B"}'), ('{"ResultPath": "$"}', '5', '{"error": "B"}')) v (f, i, o);
\echo retries: how long until which
SELECT r::text || ' ' || n || ': ' || coalesce(t->>'retry_after', t->>'status') FROM (VALUES ('{}'::jsonb, '{0,1,2,3}'::int[]), ('{"MaxAttempts": 0}', '{0}'), ('{"IntervalSeconds": 3, "MaxAttempts": 10, "BackoffRate": 1.5}', '{0,1,2,9,10}'), ('{"IntervalSeconds": 3, "MaxAttempts": 99, "MaxDelaySeconds": 10}', '{0,1,2,50}'),
    ('{"IntervalSeconds": 1, "MaxAttempts": 5, "BackoffRate": 1}', '{0,4,5}'), ('{"MaxAttempts": 100000, "BackoffRate": 10}', '{5,8,99999}'), ('{"MaxAttempts": "unlimited", "MaxDelaySeconds": 60}', '{0,5,6,1000000000}')) v (r, ns), unnest(ns) n,
    LATERAL try(jsonb_build_object('Type', 'Task', 'Resource', 'queue:q', 'Retry', jsonb_build_array('{"ErrorEquals": ["A"]}' || r)), '{}', jsonb_build_object('error', 'A', 'retries', n)) t;
SELECT min(d) >= 0, max(d) <= 8, min(d) < 2, max(d) > 6, count(DISTINCT d) > 50 FROM (SELECT (try('{"Type": "Task", "Resource": "queue:q", "Retry": [{"ErrorEquals": ["A"], "IntervalSeconds": 4, "MaxAttempts": 9, "JitterStrategy": "FULL"}]}', '{}', '{"error": "A", "retries": 1}')->>'retry_after')::float8 AS d FROM generate_series(1, 100)) x;
\echo a retrier before a catcher; the catcher when it is spent; the first retrier that matches
SELECT try(s, '{}', o || '{"error": "A"}') - '{input,output,cause}'::text[] FROM (SELECT '{"Type": "Task", "Resource": "queue:q", "Retry": [{"ErrorEquals": ["B"], "MaxAttempts": 0}, {"ErrorEquals": ["A"], "MaxAttempts": 1}, {"ErrorEquals": ["States.ALL"]}], "Catch": [{"ErrorEquals": ["States.ALL"], "Next": "C"}]}'::jsonb) x (s), (VALUES ('{}'::jsonb), ('{"retries": 1}')) v (o);

\echo choices
CREATE FUNCTION chooses(rule jsonb, input jsonb DEFAULT document()) RETURNS text LANGUAGE sql AS $$
    SELECT replace(said(r, r->'next'), '$.Choices[0]', '$') FROM try(jsonb_build_object('Type', 'Choice', 'Choices', jsonb_build_array(rule || '{"Next": "Yes"}'), 'Default', 'No'), input, '{"context": {"s": "text"}}') r $$;
CREATE FUNCTION compare(variable text, VARIADIC comparisons text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT variable || ' ' || c || '  ->  ' || chooses(jsonb_build_object('Variable', variable) || ('{' || c || '}')::jsonb) FROM unnest(comparisons) WITH ORDINALITY u (c, i) ORDER BY i $$;
SELECT compare('$.s', '"StringEquals": "text"', '"StringEquals": "tex"', '"StringLessThan": "texu"', '"StringLessThan": "text"', '"StringGreaterThan": "tex"', '"StringGreaterThan": "text"', '"StringLessThanEquals": "text"', '"StringLessThanEquals": "tex"', '"StringGreaterThanEquals": "text"', '"StringGreaterThanEquals": "u"',
    '"StringEqualsPath": "$.s"', '"StringEqualsPath": "$.w"', '"StringEqualsPath": "$$.s"', '"StringEqualsPath": "$.n"', '"StringLessThanPath": "$.w"', '"StringGreaterThanPath": "$.w"', '"StringLessThanEqualsPath": "$.s"', '"StringGreaterThanEqualsPath": "$.s"', '"StringEqualsPath": "$.missing"', '"NumericEquals": 7', '"BooleanEquals": true', '"TimestampEquals": "2026-03-14T01:59:00Z"');
SELECT compare('$.n', '"NumericEquals": 7.0', '"NumericEquals": 7.5', '"NumericLessThan": 7.01', '"NumericLessThan": 7', '"NumericGreaterThan": -7', '"NumericGreaterThan": 7', '"NumericLessThanEquals": 7', '"NumericLessThanEquals": 6.99', '"NumericGreaterThanEquals": 7', '"NumericGreaterThanEquals": 8',
    '"NumericEqualsPath": "$.n"', '"NumericEqualsPath": "$.d"', '"NumericLessThanPath": "$.d"', '"NumericGreaterThanPath": "$.d"', '"NumericLessThanEqualsPath": "$.big"', '"NumericGreaterThanEqualsPath": "$.big"', '"NumericEqualsPath": "$.s"', '"StringEquals": "7"', '"StringMatches": "7"');
SELECT chooses('{"Variable": "$.x", "NumericEquals": 9007199254740993}', '{"x": 9007199254740992}'), chooses('{"Variable": "$.x", "NumericEquals": 9007199254740993}', '{"x": 9007199254740993}'), chooses('{"Variable": "$.x", "NumericLessThan": 0.3}', '{"x": 0.29999999999999999999999}');
SELECT compare('$.t', '"BooleanEquals": true', '"BooleanEquals": false', '"BooleanEqualsPath": "$.t"', '"BooleanEqualsPath": "$.s"', '"BooleanLessThan": true', '"StringEquals": "true"');
SELECT compare('$.at', '"TimestampEquals": "2026-03-14T01:59:00Z"', '"TimestampEquals": "2026-03-14T03:59:00+02:00"', '"TimestampEquals": "2026-03-13T20:29:00.000-05:30"', '"TimestampEquals": "2026-03-14T01:59:00.000000001Z"', '"TimestampLessThan": "2026-03-14T01:59:00.000000001Z"', '"TimestampLessThan": "2026-03-14T01:59:00Z"', '"TimestampGreaterThan": "2026-03-14T01:58:59.999999999Z"', '"TimestampGreaterThan": "2026-03-15T00:00:00Z"', '"TimestampLessThanEquals": "2026-03-14T01:59:00Z"', '"TimestampGreaterThanEquals": "2026-03-14T01:59:00Z"', '"TimestampGreaterThanEquals": "9999-12-31T23:59:59Z"', '"TimestampGreaterThan": "0000-01-01T00:00:00Z"',
    '"TimestampEqualsPath": "$.at"', '"TimestampLessThanPath": "$.at"', '"TimestampGreaterThanPath": "$.at"', '"TimestampLessThanEqualsPath": "$.at"', '"TimestampGreaterThanEqualsPath": "$.at"', '"TimestampEqualsPath": "$.s"', '"TimestampEqualsPath": "$.n"', '"StringEquals": "2026-03-14T01:59:00Z"');
\echo what is a timestamp
SELECT t || ' ' || chooses('{"Variable": "$", "IsTimestamp": true}', to_jsonb(t)) FROM unnest('{2026-03-14T01:59:00Z,2024-02-29T00:00:00Z,2025-02-29T00:00:00Z,1900-02-29T00:00:00Z,2000-02-29T00:00:00Z,2026-04-31T00:00:00Z,2026-13-01T00:00:00Z,2026-00-01T00:00:00Z,2026-01-00T00:00:00Z,2026-01-01T24:00:00Z,2026-01-01T23:60:00Z,2026-01-01T23:59:60Z,2026-01-01T00:00:00z,2026-01-01t00:00:00Z,2026-01-01 00:00:00Z,2026-01-01T00:00:00,2026-01-01T00:00Z,2026-01-01,2026-01-01T00:00:00.Z,2026-01-01T00:00:00.1234567890123Z,2026-01-01T00:00:00+01:00,2026-01-01T00:00:00-23:59,2026-01-01T00:00:00+24:00,2026-01-01T00:00:00+0100,2026-01-01T00:00:00+01,2026-01-01T00:00:00Zx,2026-1-1T0:0:0Z,026-01-01T00:00:00Z,12026-01-01T00:00:00Z,2026-01-01T00:00:00+-1:00,"",T}'::text[]) t;
\echo StringMatches
SELECT i || ' ' || p || ' ' || chooses(jsonb_build_object('Variable', '$', 'StringMatches', p), to_jsonb(i)) FROM (VALUES ('log-1.txt', 'log-*.txt'), ('log-1.txt', 'log-*'), ('log-1.txt', '*'), ('', '*'), ('', ''), ('a', ''), ('log-1.txt', '*.txt'), ('log-1.tx', '*.txt'), ('abcabd', '*abd'), ('abcabd', 'a*b*d'), ('abcabd', 'a*c*c'), ('ab', 'a**b'), ('a*b', 'a\*b'), ('axb', 'a\*b'), ('a\b', 'a\\b'), ('a\b', 'a\b'), ('a\xb', 'a\\*b'), ('äöü', 'ä*ü'), ('a?c', 'a?c'), ('abc', 'a?c'), ('ABC', 'abc'), ('a\', 'a\'), ('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab', '*a*a*a*a*a*a*a*a*a*a*c')) v (i, p);
\echo types
SELECT compare(v, '"IsNull": true', '"IsString": true', '"IsNumeric": true', '"IsBoolean": true', '"IsTimestamp": true', '"IsPresent": true', '"IsNull": false', '"IsPresent": false') FROM unnest('{$.z,$.s,$.n,$.t,$.at,$.o}'::text[]) v;
SELECT compare('$.missing', '"IsPresent": true', '"IsPresent": false', '"IsNull": true', '"IsNull": false', '"IsString": false', '"StringEquals": "x"', '"NumericLessThanPath": "$.n"', '"StringMatches": "*"');
\echo And, Or, Not: what stands behind is looked at where it matters
SELECT chooses(r) FROM (VALUES ('{"And": [{"Variable": "$.n", "NumericEquals": 7}, {"Variable": "$.t", "BooleanEquals": true}]}'::jsonb), ('{"And": [{"Variable": "$.n", "NumericEquals": 7}, {"Variable": "$.t", "BooleanEquals": false}]}'), ('{"Or": [{"Variable": "$.n", "NumericEquals": 8}, {"Variable": "$.t", "BooleanEquals": true}]}'), ('{"Or": [{"Variable": "$.n", "NumericEquals": 8}]}'),
    ('{"Not": {"Variable": "$.n", "NumericEquals": 7}}'), ('{"Not": {"Variable": "$.n", "StringEquals": "7"}}'), ('{"Not": {"Not": {"Or": [{"And": [{"Variable": "$.n", "IsPresent": true}]}]}}}'), ('{"And": [{"Variable": "$.missing", "IsPresent": true}, {"Variable": "$.missing", "NumericEquals": 1}]}'), ('{"Or": [{"Variable": "$.n", "IsPresent": true}, {"Variable": "$.missing", "NumericEquals": 1}]}'), ('{"And": [{"Variable": "$.missing", "NumericEquals": 1}, {"Variable": "$.n", "IsPresent": false}]}'), ('{"Not": {"Variable": "$.missing", "NumericEquals": 1}}')) v (r);
\echo the first that holds; none, without a Default
SELECT jsonb_strip_nulls(try('{"Type": "Choice", "InputPath": "$.o", "OutputPath": "$.k", "Choices": [{"Variable": "$.k", "NumericEquals": 1, "Next": "One"}, {"Variable": "$.k", "NumericLessThan": 3, "Next": "Few", "Comment": "and one"}, {"Variable": "$.k", "IsString": true, "Next": "One"}]}', i)) FROM (VALUES ('{"o": {"k": 1}}'::jsonb), ('{"o": {"k": 2}}'), ('{"o": {"k": "x"}}'), ('{"o": {"k": 3}}'), ('{"o": {}}')) v (i);
\echo what is no rule
SELECT chooses(r) FROM (VALUES ('{}'::jsonb), ('{"Variable": "$.n"}'), ('{"NumericEquals": 1}'), ('{"Variable": "$.n", "NumericEquals": 1, "IsNull": true}'), ('{"Variable": "$.n", "Equals": 1}'), ('{"Variable": "$.n", "NumericEqual": 1}'), ('{"Variable": "$.n", "NumericEqualsPaths": "$.n"}'), ('{"Variable": "$.n", "StringMatchesPath": "$.n"}'), ('{"Variable": "$.n", "NumericEquals": "1"}'), ('{"Variable": "$.n", "StringEquals": 1}'), ('{"Variable": "$.n", "BooleanEquals": "true"}'), ('{"Variable": "$.n", "TimestampEquals": "2026-03-14"}'), ('{"Variable": "$.n", "TimestampLessThan": 5}'), ('{"Variable": "$.n", "IsNull": "true"}'), ('{"Variable": "$.n", "StringMatches": 5}'), ('{"Variable": "$.n", "NumericEqualsPath": 5}'), ('{"Variable": "n", "IsNull": true}'), ('{"Variable": 5, "IsNull": true}'), ('{"Variable": "$.", "NumericEquals": "x"}'),
    ('{"And": []}'), ('{"And": {}}'), ('{"Or": [5]}'), ('{"Not": []}'), ('{"Not": {"Variable": "$.n"}}'), ('{"And": [{"Variable": "$.n", "IsNull": true, "Next": "X"}]}'), ('{"Variable": "$.n", "And": [{"Variable": "$.n", "IsNull": true}]}'), ('{"Condition": "{% $n = 1 %}"}'), ('{"Assign": {}, "Variable": "$.n", "IsNull": true}'), ('{"Equals": 1, "NumericEquals": 1}'), ('{"Variable": "$.n", "IsNull": true, "Comment": 5}'), ('{"And": [{"Or": [{"Not": {"Variable": "$.n", "NumericEquals": true}}]}]}')) v (r);
SELECT said(try(s, '{}'), NULL) FROM (VALUES ('{"Type": "Choice", "Choices": []}'::jsonb), ('{"Type": "Choice", "Choices": {}}'), ('{"Type": "Choice", "Choices": [5, {"Variable": "$", "IsNull": true}, {"Variable": "$", "IsNull": true, "Next": 5}], "Default": "D"}')) v (s);

\echo the other states
SELECT jsonb_strip_nulls(try(s, '{"a": {"b": 1}, "s": "x", "n": 5, "neg": -1, "at": "2026-03-14T01:59:00Z", "l": [1, {"k": 2}]}', o)) - 'input' FROM (VALUES ('{"Type": "Succeed"}'::jsonb, '{}'::jsonb), ('{"Type": "Succeed", "InputPath": "$.a", "OutputPath": "$.b"}', '{}'), ('{"Type": "Fail"}', '{}'), ('{"Type": "Fail", "Error": "E", "Cause": "why"}', '{}'), ('{"Type": "Fail", "ErrorPath": "$.s", "CausePath": "States.Format(''{}!'', $.n)"}', '{}'), ('{"Type": "Fail", "ErrorPath": "$.n"}', '{}'), ('{"Type": "Fail", "Error": "E", "CausePath": "$.missing"}', '{}'),
    ('{"Type": "Wait", "Seconds": 10}', '{}'), ('{"Type": "Wait", "SecondsPath": "$.n", "OutputPath": "$.a"}', '{}'), ('{"Type": "Wait", "SecondsPath": "$.s"}', '{}'), ('{"Type": "Wait", "SecondsPath": "$.neg"}', '{}'), ('{"Type": "Wait", "SecondsPath": "$.missing"}', '{}'), ('{"Type": "Wait", "Timestamp": "2026-03-14T01:59:00Z"}', '{}'), ('{"Type": "Wait", "TimestampPath": "$.at"}', '{}'), ('{"Type": "Wait", "TimestampPath": "$.s"}', '{}'), ('{"Type": "Wait", "TimestampPath": "$.n"}', '{}'),
    ('{"Type": "Parallel", "Branches": [{"StartAt": "A", "States": {"A": {"Type": "Pass", "End": true}}}], "ResultPath": "$.r", "OutputPath": "$.r"}', '{"result": [1]}'), ('{"Type": "Parallel", "Branches": [{"StartAt": "A", "States": {"A": {"Type": "Pass", "End": true}}}], "Catch": [{"ErrorEquals": ["States.BranchFailed"], "Next": "C"}]}', '{"error": "States.BranchFailed"}')) v (s, o);
SELECT left(try('{"Type": "Wait", "SecondsPath": "$"}', '1e400')->>'cause', 10), right(try('{"Type": "Wait", "SecondsPath": "$"}', '1e400')->>'cause', 24);
SELECT jsonb_strip_nulls(try('{"Type": "Map", "ItemProcessor": {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": true}}}, "ResultPath": null}' || f, '{"l": [1, {"k": 2}], "s": "x", "n": 2}', '{"result": [], "context": {"id": 9}}')) - 'output' FROM (VALUES ('{"ItemsPath": "$.l"}'::jsonb), ('{"ItemsPath": "$.l", "ItemSelector": {"i.$": "$$.Map.Item.Index", "v.$": "$$.Map.Item.Value", "s.$": "$.s", "id.$": "$$.id"}}'), ('{"InputPath": "$.l"}'), ('{"ItemsPath": "$.s"}'), ('{"ItemsPath": "$.missing"}'), ('{}'), ('{"ItemsPath": "$.l", "ItemSelector": {"x.$": "$.missing"}}'), ('{"ItemsPath": "$.l", "MaxConcurrencyPath": "$.s"}')) v (f);

\echo arguments of test_state
SELECT evtstore.test_state('{"Type": "Pass", "Next": "State"}');
SELECT evtstore.test_state('5');
SELECT evtstore.test_state(NULL);
SELECT evtstore.test_state('{"Type": "Pass", "End": true}', NULL);
SELECT evtstore.test_state('{"Type": "Pass", "End": true}', '{}', '[]');
SELECT evtstore.test_state('{"Type": "Pass", "End": true}', '{}', '{"results": 1}');
SELECT evtstore.test_state('{"Type": "Pass", "End": true}', '{}', '{"result": 1}');
SELECT evtstore.test_state('{"Type": "Pass", "End": true}', '{}', '{"cause": "x"}');
SELECT evtstore.test_state('{"Type": "Task", "Resource": "queue:q", "End": true}');
SELECT evtstore.test_state('{"Type": "Task", "Resource": "queue:q", "End": true}', '{}', '{"result": 1, "error": "x"}');
SELECT evtstore.test_state('{"Type": "Task", "Resource": "queue:q", "Ends": true, "Retry": [{"ErrorEquals": []}]}', '{}', '{"result": 1}');

-- a path or a function of random pieces is a value, a failure or a fault: never an error of the server, nor the end of it
SELECT setseed(0.5);
CREATE FUNCTION of_pieces(n int, VARIADIC pieces text[]) RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT string_agg(pieces[1 + floor(random() * cardinality(pieces))::int], '') FROM generate_series(1, n) $$;
SELECT count(*) > 0 AS tried, count(*) FILTER (WHERE r IS NULL) AS without_answer FROM (
    SELECT e(CASE WHEN i % 2 = 0 THEN '$' || of_pieces(1 + i % 9, '.a', '.l', '..', '[0]', '[*]', '[-1]', '[0:2]', '[?(@.a', '== 1)', ')]', '@', '$', '''x''', '[''s'']', '[', ']', '(', ')', '!', '&&', '||', '\', '"', ',', ':', '*', 'ä', ' ', '.o.x.y', '<')
        ELSE 'States.' || of_pieces(2 + i % 12, 'Format(', 'Array(', 'ArrayRange(', 'StringToJson(', 'Hash(', 'ArrayUnique(', 'ArrayPartition(', 'StringSplit(', 'States.', '''{}''', '''x''', '1', '-5', '1e3', '$.l', '$.s', '$.n', '$', ',', ',', ')', ')', ')', ' ', '''', '\', 'null', 'true', '$.o[?(@.x)]') END) AS r
    FROM generate_series(1, 6000) i) x;
