--
-- Expressions of CESQL: values, operators, functions, errors, what is refused; the attributes of events; filters that have one.
-- test/cesql_conformance runs the cases of the specification, too.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset null '(null)'

CREATE TABLE seen (n serial, what text, id int);

-- result and error of an expression, for an event that has one attribute of each type
CREATE FUNCTION e(expression text) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', r->>'result', CASE jsonb_typeof(r->'result') WHEN 'string' THEN '(string)' END, '!' || (r->>'error'))
    FROM evtstore_internal.cesql_evaluate(expression, '{"specversion": "1.0", "id": "i1", "source": "/s", "type": "order.Placed", "n": 7, "yes": true,
        "big": 3000000000, "frac": 1.5, "neg": "-7", "text": "abc", "null": null, "object": {"a": 1}, "data": {"n": 1}, "uni": "h\u00e4\u00df\u20ac"}') r $$;
-- each of them in a line
CREATE FUNCTION all_of(VARIADIC expressions text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT x || '  ->  ' || e(x) FROM unnest(expressions) WITH ORDINALITY u (x, i) ORDER BY i $$;

\echo literals
SELECT all_of('1', '-1', '+1', '007', '2147483647', '-2147483648', 'TRUE', 'fAlSe', '''abc''', '"abc"', '''''', '""');
SELECT all_of($$'it\'s "so"'$$, $$"it's \"so\""$$, $$'a\"b\\c\d'$$, $$"a\'b"$$, $$'äöü€'$$, E'\t\n (\r 1\n)');

\echo attributes, by type; their names in any case; what is none
SELECT all_of('n', 'yes', 'big', 'frac', 'neg', 'text', 'TYPE', 'uni', 'missing', '"null"', 'null', 'object', 'data', 'EXISTS n', 'EXISTS N', 'exists missing', 'EXISTS null', 'NOT EXISTS data');

\echo comparisons: the right side says the type; order is that of numbers
SELECT all_of('1 = 1', '1 = 2', '1 != 2', '1 <> 1', 'TRUE = TRUE', 'TRUE != FALSE', '''a'' = ''a''', '''a'' = ''A''', '''a'' <> ''b''');
SELECT all_of('''7'' = n', 'n = ''7''', 'n = ''07''', '''07'' = n', 'yes = ''true''', 'yes = ''TRUE''', '''TRUE'' = yes', 'yes = 1', '1 = yes', '7 = yes', 'text = n', 'text != n', 'n = text');
SELECT all_of('1 < 2', '2 < 2', '2 <= 2', '3 <= 2', '3 > 2', '2 > 2', '2 >= 2', '1 >= 2', '''9'' < ''10''', 'neg < 0', 'FALSE < TRUE', 'text < 1', '1 < text', 'big > 1', 'big = ''3000000000''');

\echo logic: one precedence, from left to right; the right side only where it matters
SELECT all_of('TRUE AND TRUE', 'TRUE AND FALSE', 'FALSE OR TRUE', 'FALSE OR FALSE', 'TRUE XOR FALSE', 'TRUE XOR TRUE', 'FALSE XOR FALSE', 'NOT TRUE', 'not not true', 'NOT n', 'NOT 0', 'NOT text', 'n AND yes');
SELECT all_of('TRUE OR TRUE AND FALSE', 'TRUE OR (TRUE AND FALSE)', 'FALSE AND FALSE OR TRUE', 'TRUE XOR TRUE OR TRUE', 'NOT FALSE OR TRUE', 'NOT (FALSE OR TRUE)');
SELECT all_of('FALSE AND missing', 'TRUE OR missing', 'TRUE AND missing', 'FALSE OR missing', 'missing AND FALSE', 'missing OR TRUE', 'TRUE XOR missing', 'FALSE AND 1 / 0 = 0', 'TRUE AND 1 / 0 = 0', 'NOT missing', 'NOT (missing = 1)');

\echo arithmetic
SELECT all_of('1 + 2 * 3', '(1 + 2) * 3', '10 - 4 - 3', '2 * 3 % 4', '7 / 2', '-7 / 2', '7 / -2', '7 % 3', '-7 % 3', '7 % -3', '4-1', '4 -1', '4 - -1', '4+1', '- 5', '--5', '-(-5)', '-n', '-yes', '-neg', '-text', 'n * 2', '1 + TRUE', '''5'' + ''3''', '''5'' + text');
SELECT all_of('1 + 1 < 3', '1 < 2 = TRUE', '2 * 3 = 6 AND 1 + 1 = 2', '1 = 1 = 1');
SELECT all_of('1 / 0', '1 % 0', 'missing / 0', '1 / missing', '-missing', '1 + (missing)', '2147483647 + 1', '-2147483648 - 1', '65536 * 65536', '-(-2147483648)', '-2147483648 / -1', '-2147483648 % -1', '-2147483648 + 1', '46340 * 46340', '-65536 * 32768');

\echo LIKE
SELECT all_of('''abc'' LIKE ''abc''', '''abc'' LIKE ''ABC''', '''abc'' LIKE ''a%''', '''abc'' LIKE ''%c''', '''abc'' LIKE ''%b%''', '''abc'' LIKE ''a_c''', '''abc'' LIKE ''____''', '''abc'' LIKE ''___''', '''abc'' LIKE ''%''', ''''' LIKE ''%''', ''''' LIKE ''''', ''''' LIKE ''_''', '''abc'' LIKE ''''');
SELECT all_of('''aXbXc'' LIKE ''a%b%c''', '''abab'' LIKE ''%ab''', '''aab'' LIKE ''%ab''', '''ababac'' LIKE ''%aba_''', '''abc'' LIKE ''%%%''', '''abc'' LIKE ''%d''', '''abc'' NOT LIKE ''a%''', '''abc'' not like ''b%''', 'n LIKE ''7''', 'yes LIKE ''t%e''', 'missing LIKE ''%''', 'missing NOT LIKE ''%''');
SELECT all_of($$'a%c' LIKE 'a\%c'$$, $$'abc' LIKE 'a\%c'$$, $$'a_c' LIKE 'a\_c'$$, $$'abc' LIKE 'a\_c'$$, $$'a\c' LIKE 'a\c'$$, $$'a\bc' LIKE 'a\%c'$$, $$'it\'s' LIKE '%\'s'$$, $$uni LIKE 'h_ß_'$$, $$uni LIKE 'h_____'$$, $$uni LIKE '%€'$$);
SELECT all_of('NOT text LIKE ''abc''', 'NOT (text LIKE ''abc'')', '-1 LIKE ''-1''', '1 + 1 LIKE ''1''', 'text LIKE ''a%'' = TRUE', 'text LIKE ''a%'' LIKE ''tr%''', 'text LIKE ''a%'' IN (TRUE)');

\echo IN: the left side says the type
SELECT all_of('1 IN (1)', '1 IN (2, 3)', '1 NOT IN (2, 3)', '1 NOT IN (1)', 'text IN (''x'', ''abc'')', '1 IN (''1'', ''2'')', '''1'' IN (2, 1)', 'TRUE IN (''false'', ''true'')', '''TRUE'' IN (TRUE)', 'n IN (3 + 4)', 'text IN (type, text)', '1 IN (''x'', 1)', '1 IN (1, ''x'')');
SELECT all_of('missing IN (1)', 'missing NOT IN (1)', '1 IN (missing)', '1 IN (1, missing)', '1 NOT IN (2, missing)', '1 IN (1) = TRUE', '2 * 3 IN (3)', 'NOT n IN (7)');

\echo functions
SELECT all_of('ABS(-5)', 'abs(5)', 'ABS(''-5'')', 'ABS(-2147483648)', 'ABS(text)', 'ABS(missing)', 'LENGTH(''abc'')', 'LENGTH('''')', 'LENGTH(uni)', 'LENGTH(TRUE)', 'LENGTH(-12)', 'LENGTH(missing)');
SELECT all_of('CONCAT()', 'CONCAT(''a'')', 'CONCAT(''a'', 1, TRUE, text)', 'CONCAT(''a'', missing)', 'CONCAT_WS('','')', 'CONCAT_WS('','', ''a'')', 'CONCAT_WS('', '', ''a'', '''', 2)', 'concat_ws(1, 2, 3)', 'CONCAT_WS(missing, ''a'')');
SELECT all_of('LOWER(''AbC'')', 'UPPER(''AbC'')', 'UPPER(yes)', 'LOWER(missing)', $$CONCAT('[', TRIM('  a b  '), ']')$$, E'CONCAT(\'[\', TRIM(\'\t\n a\'), \']\')', $$CONCAT('[', TRIM('   '), ']')$$, $$TRIM('')$$, U&'CONCAT(''['', TRIM(''\00a0\2003\3000a\00a0b\2029''), '']'')', U&'LENGTH(TRIM(''\200b''))', 'TRIM(12)', 'TRIM(missing)');
SELECT all_of('LEFT(''abc'', 2)', 'LEFT(''abc'', 0)', 'LEFT(''abc'', 9)', 'LEFT(''abc'', -1)', 'LEFT(uni, 3)', 'RIGHT(''abc'', 2)', 'RIGHT(''abc'', 0)', 'RIGHT(''abc'', 9)', 'RIGHT(''abc'', -1)', 'RIGHT(uni, 2)', 'LEFT(12345, ''2'')', 'LEFT(text, text)', 'LEFT(missing, 1)', 'RIGHT(text, missing)');
SELECT all_of('SUBSTRING(''abcdef'', 1)', 'SUBSTRING(''abcdef'', 6)', 'SUBSTRING(''abcdef'', 7)', 'SUBSTRING(''abcdef'', 0)', 'SUBSTRING(''abcdef'', -6)', 'SUBSTRING(''abcdef'', -7)', 'SUBSTRING(''abcdef'', 2, 3)', 'SUBSTRING(''abcdef'', -3, 2)', 'SUBSTRING(''abcdef'', 5, 9)', 'SUBSTRING(''abcdef'', 5, 2147483647)', 'SUBSTRING(''abcdef'', 2, 0)', 'SUBSTRING(''abcdef'', 2, -1)', 'SUBSTRING(''abcdef'', 0, 3)', 'SUBSTRING(uni, 2, 2)', 'SUBSTRING(uni, -2)', 'SUBSTRING('''', 1)', 'SUBSTRING(missing, 1)');
SELECT all_of('INT(''12'')', 'INT(''+12'')', 'INT(''-12'')', 'INT('''')', 'INT(''-'')', 'INT('' 1'')', 'INT(''1x'')', 'INT(''2147483647'')', 'INT(''2147483648'')', 'INT(''-2147483648'')', 'INT(''-2147483649'')', 'INT(''99999999999999999999999'')', 'INT(''000000000000000000012'')', 'INT(TRUE)', 'INT(FALSE)', 'INT(5)', 'INT(big)', 'INT(frac)', 'INT(missing)');
SELECT all_of('BOOL(''TRUE'')', 'BOOL(''false'')', 'BOOL(''yes'')', 'BOOL('''')', 'BOOL(0)', 'BOOL(-1)', 'BOOL(FALSE)', 'BOOL(missing)', 'STRING(12)', 'STRING(-2147483648)', 'STRING(TRUE)', 'STRING(FALSE)', 'STRING(''x'')', 'STRING(missing)');
SELECT all_of('IS_INT(''12'')', 'IS_INT(''x'')', 'IS_INT(TRUE)', 'IS_INT(5)', 'is_int(big)', 'IS_INT(missing)', 'IS_BOOL(''True'')', 'IS_BOOL(''x'')', 'IS_BOOL(5)', 'IS_BOOL(missing)');
SELECT all_of('FOO(1)', 'ABS()', 'ABS(1, 2)', 'CONCAT_WS()', 'SUBSTRING(text)', 'SUBSTRING(text, 1, 2, 3)', 'FOO(missing)', 'ABS(FOO(1))', 'TRUE OR FOO()', 'LEFT (text, 1)');
-- much text from little of it is an error of the function, not of the append
SELECT r->>'error', length(r->>'result') FROM (SELECT 'CONCAT(' || string_agg('big', ',') || ')' AS x FROM generate_series(1, 17)) u,
    evtstore_internal.cesql_evaluate(x, jsonb_build_object('big', repeat('x', 1048576))) r;

\echo what cannot be parsed
CREATE FUNCTION refused(VARIADIC expressions text[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT x || E'\n    ' || fails(format('SELECT evtstore_internal.cesql_evaluate(%L, ''{}'')', x)) FROM unnest(expressions) WITH ORDINALITY u (x, i) ORDER BY i $$;
SELECT refused('', '   ', '1 +', '* 1', '+ 1', '(1', '1)', '1 2', 'a b', '1 = = 2', 'ABC(', 'ABS(1', 'ABS(1 2)', 'ABS(1,)', 'ABS(,1)', '()', '''abc', '"abc''', '''abc\''', '''it''''s''');
SELECT refused('x LIKE 123', 'x LIKE y', 'x NOT', 'x NOT = 1', 'x NOT LIKE', 'x IN 1', 'x IN ()', 'x IN (1', 'x IN (1,)', 'EXISTS', 'EXISTS ''x''', 'EXISTS (x)', 'EXISTS 5', 'NOT', 'AND', 'TRUE AND', 'correlation_id = 1', 'EXISTS causation_id', 'f1(2)', '_f(1)', '1(2)');
SELECT refused('2147483648', '-2147483649', '99999999999999999999', '-(2147483648)', '- 2147483648', 'a ! b', 'a == b', 'data.total > 100', 'ä = 1', 'x = äöü', '''ä'' = €', '1; 2', 'a || b', 'a = [1]', 'a & b', $$'a' = 'b' 'c'$$);
SELECT fails(format('SELECT evtstore_internal.cesql_evaluate(%L, ''{}'')', repeat('x', 16385)));
SELECT e(repeat(' ', 16383) || '1');
-- depth: of what is in parentheses, before a value, in functions, and of chains
SELECT e(repeat('(', 1000) || '1' || repeat(')', 1000)), e(repeat('NOT ', 998) || 'TRUE'), e('1' || repeat('+1', 999));
SELECT left(fails(format('SELECT evtstore_internal.cesql_evaluate(%L, ''{}'')', x)), 90) FROM (VALUES (repeat('(', 1001) || '1' || repeat(')', 1001)), (repeat('(', 16000)), (repeat('-', 16000)),
    (repeat('NOT ', 4000) || 'TRUE'), (repeat('ABS(', 4000)), (repeat('1 IN (', 2500)), ('1' || repeat('+1', 1000)), ('1' || repeat(' IN (1)', 1000)), ('1' || repeat(' LIKE ''1''', 1000))) v (x);

\echo attributes of events
-- does the expression select an event?  A rule asks, in the append
CREATE FUNCTION selects(expression text, stream text DEFAULT 'order-1', type text DEFAULT 'Placed', metadata jsonb DEFAULT '{}') RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    result boolean;
BEGIN
    PERFORM evtstore.create_queue('q');
    PERFORM evtstore.create_rule('r', jsonb_build_object('expression', expression), 'queue:q');
    PERFORM evtstore.append(stream, type, '{"a": 1}', metadata => metadata, id => gen_random_uuid(), occurred_at => '2024-02-29 23:59:58.5+01', schema_version => 3);
    SELECT ready > 0 INTO result FROM evtstore.queue_status WHERE name = 'q';
    PERFORM evtstore.drop_rule('r');
    PERFORM evtstore.drop_queue('q');
    RETURN result;
END $$;
SELECT x, selects(x) FROM unnest(ARRAY['type = ''Placed''', 'type LIKE ''P%''', 'type = ''placed''', 'subject = ''order-1''', 'subject LIKE ''order-%''', 'partitionkey = subject',
    'time = ''2024-02-29T22:59:58.500000Z''', 'time LIKE ''2024-%''', 'recordedtime LIKE ''20__-__-__T__:__:__.______Z''', 'LENGTH(id) = 36', 'LENGTH(sequence) = 19 AND INT(sequence) > 0',
    'schemaversion = 3', 'schemaversion < 4', 'streamversion > 5', 'specversion = ''1.0''', 'datacontenttype = ''application/json''', 'source LIKE ''/evtstore/%''', 'EXISTS source', 'EXISTS correlationid',
    'EXISTS data', 'EXISTS tenant', 'correlationid = ''c''', 'NOT EXISTS correlationid', 'correlationid != ''c''', 'NOT EXISTS correlationid OR correlationid != ''c''', 'BOOL(streamversion)', 'NOT type', 'TRUE']) WITH ORDINALITY u (x, i) ORDER BY i;
SELECT x, selects(x, metadata => '{"correlation_id": "c", "causation_id": "k", "tracestate": "", "traceparent": 5, "other": "o"}') FROM unnest(ARRAY['correlationid = ''c''', 'causationid IN (''x'', ''k'')',
    'EXISTS tracestate', 'EXISTS traceparent', 'EXISTS other', 'correlationid = ''c'' AND missing = 1', 'correlationid = ''c'' OR missing = 1', 'missing = 1 OR correlationid = ''c''']) WITH ORDINALITY u (x, i) ORDER BY i;
-- an error is not a failure of the append
SELECT x, selects(x) FROM unnest(ARRAY['1 / 0 = 0', '1 / 0 != 0', 'INT(type) = 0', 'type > 5', 'LEFT(type, -1) = ''Placed''', 'ABS(-2147483648) > 0']) WITH ORDINALITY u (x, i) ORDER BY i;
-- an event without a stream has no subject
SELECT evtstore.create_queue('q');
SELECT evtstore.create_rule('with', '{"expression": "EXISTS subject OR EXISTS partitionkey OR EXISTS streamversion"}', 'queue:q');
SELECT count(*) FROM evtstore.append_if('[{"type": "T", "data": {}, "tags": ["a"]}]', '{"items": [{"tags": ["none"]}]}');
SELECT ready FROM evtstore.queue_status;
SELECT evtstore.alter_rule('with', '{"filter": {"expression": "NOT EXISTS subject AND type = ''T''"}}');
SELECT count(*) FROM evtstore.append_if('[{"type": "T", "data": {}, "tags": ["a"]}, {"type": "U", "data": {}, "tags": ["a"]}]', '{"items": [{"tags": ["none"]}]}');
SELECT ready FROM evtstore.queue_status;
SELECT evtstore.drop_rule('with');

\echo what a filter refuses
SELECT x || E'\n    ' || fails(format('SELECT evtstore.create_subscription(''s'', %L)', x)) FROM unnest(ARRAY['{"expression": "data.total > 100"}', '{"expression": ""}', '{"expression": 5}', '{"expression": null}',
    '{"expression": "type"}', '{"expression": "''x''"}', '{"expression": "1 + 1"}', '{"expression": "LOWER(type)"}', '{"expression": "FOO(type) = 1"}', '{"expression": "TRUE OR LEFT(type) = 1"}',
    '{"expression": "type = ''Plac\u00e9'' AND )"}', '{"items": [], "expression": "TRUE"}']) x;
SELECT fails($$SELECT evtstore.create_rule('r', '{"expression": "type ="}', 'queue:q')$$);
SELECT fails($$SELECT evtstore.create_projection('p', '{"*": "SELECT 1"}', 'sync', '{"expression": "type ="}')$$);

\echo subscriptions, with other parts of a filter
SELECT FROM evtstore.create_subscription('paid', '{"categories": ["order"], "pattern": {"data": {"n": [{"numeric": ["<", 7]}]}},
    "expression": "type = ''Changed'' AND (correlationid LIKE ''eu-%'' OR subject = ''order-9'')"}', lanes => 1);
SELECT count(*) FROM (VALUES ('order-1', 'Changed', 1, 'eu-1'), ('order-1', 'Changed', 2, 'us-1'), ('order-1', 'Made', 3, 'eu-1'), ('cart-1', 'Changed', 4, 'eu-1'), ('order-9', 'Changed', 5, 'x'),
        ('order-9', 'Changed', 6, NULL), ('order-1', 'Changed', 7, 'eu-1'), ('order-1', 'Changed', 0, repeat('eu-', 5000))) v (stream, type, n, correlation),
    evtstore.append(v.stream, v.type, jsonb_build_object('n', v.n), metadata => jsonb_strip_nulls(jsonb_build_object('correlation_id', v.correlation)));
-- 6 is not there: a missing attribute is an error, and ends the evaluation
SELECT body->'n', evtstore.ack(receipt) FROM evtstore.poll('paid', 'c');
SELECT body->'n', evtstore.ack(receipt) FROM evtstore.poll('paid', 'c');
-- an expression alone, and events without a stream
SELECT FROM evtstore.create_subscription('loose', '{"expression": "NOT EXISTS subject"}', lanes => 1);
SELECT type, stream, evtstore.ack(receipt) FROM evtstore.poll('loose', 'c');
SELECT FROM evtstore.alter_subscription('paid', '{"filter": {"expression": "streamversion = 2 AND subject LIKE ''n-%'' AND INT(sequence) > 1 AND EXISTS recordedtime AND LENGTH(id) = 36 AND schemaversion = 1"}}');
SELECT count(*) FROM generate_series(1, 6) n, evtstore.append('n-' || n % 3, 'T', jsonb_build_object('n', n));
SELECT stream, version, body->'n', evtstore.ack(receipt) FROM evtstore.poll('paid', 'c') ORDER BY position;

\echo projections
SELECT FROM evtstore.create_projection('p', '{"*": "INSERT INTO seen (what, id) VALUES (($1).type, (($1).data->>''n'')::int)"}', 'sync', '{"expression": "type IN (''A'', ''B'') AND streamversion % 2 = 0"}');
SELECT count(*) FROM generate_series(1, 12) n, evtstore.append('p-1', chr(64 + n % 4), jsonb_build_object('n', n));
SELECT what, id FROM seen ORDER BY n;
-- one that comes later, and reads what is there; AND is about all before it, so events without a stream need a correlation, too
SELECT FROM evtstore.create_projection('late', '{"*": "INSERT INTO seen (what, id) VALUES (($1).stream, (($1).data->>''n'')::int)"}', 'sync', '{"expression": "NOT EXISTS subject OR subject LIKE ''order-%'' AND EXISTS correlationid"}');
SELECT what, id FROM seen WHERE what IS NULL OR what LIKE 'order-%' ORDER BY n;
-- and a worker's
SELECT FROM evtstore.create_projection('worker', '{"T": "INSERT INTO seen (what, id) VALUES (($1).stream, (($1).data->>''n'')::int)"}', 'async', '{"expression": "subject LIKE ''n-%'' AND streamversion = 1"}');
SELECT evtstore.head_position() AS head \gset
CALL evtstore.wait_for('worker', :head);
SELECT what, id FROM seen WHERE what LIKE 'n-%' ORDER BY n;
