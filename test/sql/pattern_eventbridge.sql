--
-- Content patterns against what Amazon EventBridge documents of its event patterns: each operator with what it matches, what it does
-- not, a field that is missing, null, other types, arrays, and text beyond ASCII; $or; what is refused.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset null '(null)'

CREATE TABLE checked (n int);
SELECT FROM evtstore.create_queue('q');
-- which of these data the pattern selects.  A rule asks, in the append
CREATE FUNCTION selected(pattern jsonb, data jsonb[]) RETURNS boolean[] LANGUAGE plpgsql AS $$
DECLARE
    result boolean[];
    d jsonb;
    before bigint := (SELECT ready FROM evtstore.queue_status WHERE name = 'q');
    after bigint;
BEGIN
    PERFORM evtstore.create_rule('r', jsonb_build_object('pattern', pattern), 'queue:q');
    FOREACH d IN ARRAY data LOOP
        PERFORM evtstore.append('x-1', 'T', d);
        SELECT ready INTO after FROM evtstore.queue_status WHERE name = 'q';
        result := result || (after > before);
        before := after;
    END LOOP;
    PERFORM evtstore.drop_rule('r');
    INSERT INTO checked SELECT cardinality(data);
    RETURN result;
END $$;
-- says nothing where the pattern, which is one of "data", matches the first documents and none of the others
CREATE FUNCTION check_pattern(pattern jsonb, matching jsonb[], others jsonb[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT CASE WHEN is_selected THEN 'matches ' ELSE 'does not match ' END || data
    FROM unnest(matching || others, selected(jsonb_build_object('data', pattern), matching || others)) WITH ORDINALITY AS u (data, is_selected, n)
    WHERE is_selected <> (n <= cardinality(matching)) ORDER BY n $$;
-- the same for the matchers of field a, given its values; and what has no such field, or no value in it, does not match
CREATE FUNCTION check_field(matchers jsonb, matching jsonb[], others jsonb[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT check_pattern(jsonb_build_object('a', matchers),
        (SELECT array_agg(jsonb_build_object('a', v) ORDER BY n) FROM unnest(matching) WITH ORDINALITY u (v, n)) ||
        (SELECT array_agg(jsonb_build_object('a', jsonb_build_array('[]'::jsonb, v, true)) ORDER BY n) FROM unnest(matching) WITH ORDINALITY u (v, n)),
        (SELECT array_agg(jsonb_build_object('a', v) ORDER BY n) FROM unnest(others) WITH ORDINALITY u (v, n)) ||
        ARRAY['{}', '{"b": 1}', '{"a": []}', '{"a": [[], {}]}', '{"a": {}}', '{"a": {"a": "x"}}', '{"A": "x"}', '[]', '"a"', '7', 'null']::jsonb[]) $$;

\echo exact
SELECT check_field('["paid"]', '{"\"paid\""}', ARRAY['"Paid"', '"paid "', '""', 'null', '1', 'true', '["open", "PAID"]']::jsonb[]);
SELECT check_field('["open", "paid"]', '{"\"paid\"", "\"open\"", "[\"x\", \"open\"]"}', ARRAY['"x"', 'null']::jsonb[]);
SELECT check_field('[""]', '{"\"\""}', ARRAY['" "', 'null', '0', 'false']::jsonb[]);
SELECT check_field('[null]', '{null}'::jsonb[] || 'null'::jsonb || '[1, null]'::jsonb, ARRAY['"null"', '""', '0', 'false']::jsonb[]);
SELECT check_field('[300]', ARRAY['300', '300.0', '3.0e2']::jsonb[], ARRAY['"300"', '300.0000000000000000000001', 'null', '-300']::jsonb[]);
SELECT check_pattern('{"a": [true]}', ARRAY['{"a": true}', '{"a": [false, true]}']::jsonb[], ARRAY['{"a": false}', '{"a": "true"}', '{"a": 1}', '{"a": null}', '{}', '{"a": []}']::jsonb[]);
SELECT check_field('["straße", "日本"]', ARRAY['"straße"', '"日本"']::jsonb[], ARRAY['"strasse"', '"STRASSE"', '"日"', '"stra\u00dfe "']::jsonb[]);

\echo prefix
SELECT check_field('[{"prefix": "us-"}]', ARRAY['"us-"', '"us-east-1"', '["eu-1", "us-1"]']::jsonb[], ARRAY['"US-1"', '"us"', '"eu-us-"', '""', 'null', '1', 'true', '["eu-1"]']::jsonb[]);
SELECT check_field('[{"prefix": ""}]', ARRAY['""', '"x"']::jsonb[], ARRAY['null', '1', 'false']::jsonb[]);
SELECT check_field('[{"prefix": "日本"}]', ARRAY['"日本"', '"日本語"']::jsonb[], ARRAY['"日"', '"本日"']::jsonb[]);
SELECT check_field('[{"prefix": {"equals-ignore-case": "EventB"}}]', ARRAY['"eventb"', '"EVENTBRIDGE"', '"eVeNtBridge"', '["x", "EVENTB"]']::jsonb[],
    ARRAY['"event"', '"aeventb"', '""', 'null', '1', 'true']::jsonb[]);
SELECT check_field('[{"prefix": {"equals-ignore-case": "ÄΣж"}}]', ARRAY['"äσЖx"', '"ÄΣЖ"']::jsonb[], ARRAY['"aσЖ"', '"äσ"', '"äσЗ"']::jsonb[]);

\echo suffix
SELECT check_field('[{"suffix": ".png"}]', ARRAY['".png"', '"a.png"', '["a.gif", "a.png"]']::jsonb[], ARRAY['".PNG"', '"png"', '".png "', '""', 'null', '1', 'false', '["a.gif"]']::jsonb[]);
SELECT check_field('[{"suffix": ""}]', ARRAY['""', '"x"']::jsonb[], ARRAY['null', '1', 'false']::jsonb[]);
SELECT check_field('[{"suffix": "本語"}]', ARRAY['"本語"', '"日本語"']::jsonb[], ARRAY['"語"', '"語本"']::jsonb[]);
SELECT check_field('[{"suffix": {"equals-ignore-case": "tBridge"}}]', ARRAY['"tbridge"', '"EVENTBRIDGE"', '["x", "eventBRIDGE"]']::jsonb[],
    ARRAY['"bridge"', '"tbridges"', '""', 'null', '1', 'false']::jsonb[]);
SELECT check_field('[{"suffix": {"equals-ignore-case": "éЖ"}}]', ARRAY['"Éж"', '"xÉЖ"']::jsonb[], ARRAY['"eЖ"', '"ж"', '"éЖx"']::jsonb[]);

\echo without case: each character is itself, its lower or its upper case, which may be of another length
SELECT check_field('[{"equals-ignore-case": "Gold"}]', ARRAY['"gold"', '"GOLD"', '["x", "gOLD"]']::jsonb[], ARRAY['"golden"', '"gol"', '"marigold"', '""', 'null', '1', 'true']::jsonb[]);
SELECT check_field('[{"equals-ignore-case": ""}]', ARRAY['""']::jsonb[], ARRAY['"x"', 'null', '1']::jsonb[]);
SELECT check_field('[{"equals-ignore-case": "Ünïcode ﬁ ß 日 Σ"}]', ARRAY['"üNÏCODE ﬁ ß 日 σ"', '"ÜNÏCODE ﬁ ß 日 Σ"']::jsonb[], ARRAY['"Unicode ﬁ ß 日 σ"', '"Ünïcode fi ß 日 σ"', '"Ünïcode ﬁ ß 日"']::jsonb[]);
SELECT check_field('[{"equals-ignore-case": "Ⱥx"}]', ARRAY['"ⱥX"', '"ȺX"']::jsonb[], ARRAY['"ax"', '"ⱥ"', '"ⱥxx"']::jsonb[]);
SELECT check_field('[{"suffix": {"equals-ignore-case": "Ⱥⱥ"}}]', ARRAY['"ⱥȺ"', '"xⱥⱥ"', '"ȺȺ"']::jsonb[], ARRAY['"Ⱥ"', '"ȺȺx"']::jsonb[]);

\echo wildcard
SELECT check_field('[{"wildcard": "dir/*.png"}]', ARRAY['"dir/.png"', '"dir/a/b.png"', '"dir/.png.png"', '["x", "dir/a.png"]']::jsonb[],
    ARRAY['"dir/a.PNG"', '"dir.png"', '"a/dir/a.png"', '"dir/a.pngx"', '""', 'null', '1', 'true']::jsonb[]);
SELECT check_field('[{"wildcard": "*"}]', ARRAY['""', '"x"', '"*"']::jsonb[], ARRAY['null', '1', 'false']::jsonb[]);
SELECT check_field('[{"wildcard": ""}]', ARRAY['""']::jsonb[], ARRAY['"x"', 'null', '1', 'false']::jsonb[]);
SELECT check_field('[{"wildcard": "plain"}]', ARRAY['"plain"']::jsonb[], ARRAY['"plain "', '"plai"', '"xplain"', '""']::jsonb[]);
SELECT check_field('[{"wildcard": "ab*ba"}]', ARRAY['"abba"', '"abxba"', '"ababa ba"']::jsonb[], ARRAY['"aba"', '"ab"', '"abab"']::jsonb[]);
SELECT check_field('[{"wildcard": "*a*b*"}]', ARRAY['"ab"', '"xaxbx"', '"baab"']::jsonb[], ARRAY['"ba"', '"a"', '""']::jsonb[]);
SELECT check_field('[{"wildcard": "a*bc*bc"}]', ARRAY['"abcbc"', '"axbcxbc"']::jsonb[], ARRAY['"abc"', '"abcxb"', '"abcb"']::jsonb[]);
SELECT check_field('[{"wildcard": "*aab*"}]', ARRAY['"aab"', '"aaab"', '"aaaab "']::jsonb[], ARRAY['"aba"', '"aaa"']::jsonb[]);
SELECT check_field('[{"wildcard": "*aab*aabaaab*"}]', ARRAY['"aaabaabaabaaab"', '"aabaabaaab"']::jsonb[], ARRAY['"aabaaab"', '"aabaabaab"']::jsonb[]);
SELECT check_field(jsonb_build_array(jsonb_build_object('wildcard', '\**\\')), ARRAY[to_jsonb('*\'::text), to_jsonb('*x*\'::text)], ARRAY[to_jsonb('x\'::text), to_jsonb('*'::text), to_jsonb('\*\'::text), to_jsonb('\'::text)]);
SELECT check_field(jsonb_build_array(jsonb_build_object('wildcard', 'a\*b')), ARRAY['"a*b"']::jsonb[], ARRAY['"ab"', '"axb"', to_jsonb('a\*b'::text)]::jsonb[]);
SELECT check_field('[{"wildcard": "日*語*é"}]', ARRAY['"日語é"', '"日本語caf é"']::jsonb[], ARRAY['"日本é"', '"日語e"', '"本語é"']::jsonb[]);

\echo numeric: exact
SELECT check_field('[{"numeric": ["=", 301.8]}]', ARRAY['301.8', '3.018e2', '[1, 301.80]']::jsonb[], ARRAY['301', '301.80000000000000000001', '"301.8"', 'null', 'false']::jsonb[]);
SELECT check_field('[{"numeric": ["<", 10]}]', ARRAY['9.999999999999999999999', '-1e300']::jsonb[], ARRAY['10', '11', '"9"', 'null']::jsonb[]);
SELECT check_field('[{"numeric": ["<=", 10]}]', ARRAY['10', '10.0', '-5']::jsonb[], ARRAY['10.0000000000000000000001', '"10"', 'null']::jsonb[]);
SELECT check_field('[{"numeric": [">", 10]}]', ARRAY['10.0000000000000000000001', '1e300']::jsonb[], ARRAY['10', '-11', '"11"', 'true']::jsonb[]);
SELECT check_field('[{"numeric": [">=", 10]}]', ARRAY['10', '1e1', '11']::jsonb[], ARRAY['9.9999999999999999999', '"10"', 'null']::jsonb[]);
SELECT check_field('[{"numeric": [">", 0, "<=", 5]}]', ARRAY['5', '0.1', '[9, 3]']::jsonb[], ARRAY['0', '5.1', '[-1, 9]', '"3"', 'null', 'true', '""']::jsonb[]);
SELECT check_field('[{"numeric": ["<=", 5, ">=", 5]}]', ARRAY['5', '5.0']::jsonb[], ARRAY['4', '6']::jsonb[]);
SELECT check_field('[{"numeric": [">=", -9e99, "<", 123456789012345678901234567890]}]', ARRAY['-9e99', '123456789012345678901234567889']::jsonb[], ARRAY['-9.1e99', '123456789012345678901234567890']::jsonb[]);

\echo cidr
SELECT check_field('[{"cidr": "10.0.0.0/24"}]', ARRAY['"10.0.0.0"', '"10.0.0.255"', '["11.0.0.1", "10.0.0.7"]']::jsonb[],
    ARRAY['"10.0.1.0"', '"9.255.255.255"', '"10.0.0.256"', '"10.0.0"', '"10.0.0.1/32"', '" 10.0.0.1"', '"10.0.0.1 "', '"10.0.0.x"', '"a00::"', '"::ffff:10.0.0.1"', '""', 'null', '10', 'true']::jsonb[]);
SELECT check_field('[{"cidr": "10.0.0.77/30"}]', ARRAY['"10.0.0.76"', '"10.0.0.79"']::jsonb[], ARRAY['"10.0.0.75"', '"10.0.0.80"']::jsonb[]);
SELECT check_field('[{"cidr": "0.0.0.0/0"}]', ARRAY['"1.2.3.4"', '"255.255.255.255"']::jsonb[], ARRAY['"::1"', '"1.2.3"', to_jsonb(repeat('1', 1000))]::jsonb[]);
SELECT check_field('[{"cidr": "10.1.2.3/32"}]', ARRAY['"10.1.2.3"']::jsonb[], ARRAY['"10.1.2.2"', '"11.1.2.3"']::jsonb[]);
SELECT check_field('[{"cidr": "2001:db8::/33"}]', ARRAY['"2001:db8::1"', '"2001:DB8:7fff:ffff:ffff:ffff:ffff:ffff"', '"2001:0db8:0:0::"']::jsonb[],
    ARRAY['"2001:db8:8000::"', '"2001:db9::"', '"32.1.13.184"', '"2001:db8::1%eth0"', '"2001:db8:::1"', '"2001:db8::1::"', 'null']::jsonb[]);
SELECT check_field('[{"cidr": "::/0"}]', ARRAY['"::"', '"ffff::ffff"']::jsonb[], ARRAY['"1.2.3.4"', '""']::jsonb[]);
SELECT check_field('[{"cidr": "fe80::1/128"}]', ARRAY['"fe80::1"', '"FE80:0::0:1"']::jsonb[], ARRAY['"fe80::2"']::jsonb[]);

\echo exists: of values, at the ends of a document
SELECT check_field('[{"exists": true}]', ARRAY['null', '""', '0', 'false', '"x"', '[[{}, 1]]']::jsonb[], ARRAY['{"b": 1}', '[{"b": 1}]', '[[]]']::jsonb[]);
SELECT check_pattern('{"a": [{"exists": false}]}', ARRAY['{}', '{"b": 1}', '{"a": {}}', '{"a": {"a": 1}}', '{"a": []}', '{"a": [{}, []]}', '{"a": [{"a": 1}]}', '[]', '[{"b": 1}]', '7', 'null']::jsonb[],
    ARRAY['{"a": null}', '{"a": ""}', '{"a": 0}', '{"a": [1]}', '{"a": [[], [{}, null]]}', '[{"a": 1}]']::jsonb[]);
SELECT check_pattern('{"a": [{"exists": false}, "x"]}', ARRAY['{}', '{"a": {}}', '{"a": "x"}', '{"a": ["y", "x"]}']::jsonb[], ARRAY['{"a": null}', '{"a": "y"}', '{"a": ["y"]}']::jsonb[]);
SELECT check_pattern('{"a": [{"exists": true}, "x"]}', ARRAY['{"a": null}', '{"a": 1}']::jsonb[], ARRAY['{}', '{"a": {}}']::jsonb[]);

\echo anything-but
SELECT check_field('[{"anything-but": "x"}]', ARRAY['"X"', '""', '1', 'null', 'false', '["x", "y"]']::jsonb[], '{}');
SELECT check_pattern('{"a": [{"anything-but": "x"}]}', ARRAY['{"a": ["x", null]}']::jsonb[], ARRAY['{"a": "x"}', '{"a": ["x"]}', '{"a": ["x", ["x"]]}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": 123}]}', ARRAY['{"a": 123.1}', '{"a": "123"}', '{"a": null}', '{"a": [123, 1]}']::jsonb[], ARRAY['{"a": 123}', '{"a": 1.23e2}', '{"a": [123]}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": ["x", "é"]}]}', ARRAY['{"a": "y"}', '{"a": "É"}', '{"a": 1}', '{"a": null}', '{"a": ["x", "y"]}']::jsonb[], ARRAY['{"a": "x"}', '{"a": "é"}', '{"a": ["x", "é"]}', '{}', '{"a": {}}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": [100, 200]}]}', ARRAY['{"a": 300}', '{"a": "100"}', '{"a": null}']::jsonb[], ARRAY['{"a": 100}', '{"a": 200.0}', '{"a": [100, 200]}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": [null, true, "x", 1]}]}', ARRAY['{"a": false}', '{"a": 2}']::jsonb[], ARRAY['{"a": null}', '{"a": true}', '{"a": "x"}', '{"a": 1}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"prefix": "us-"}}]}', ARRAY['{"a": "eu-1"}', '{"a": "US-1"}', '{"a": ""}', '{"a": 1}', '{"a": null}', '{"a": ["us-1", "eu-1"]}']::jsonb[], ARRAY['{"a": "us-1"}', '{"a": ["us-1"]}', '{}', '{"a": []}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"prefix": ["us-", "日"]}}]}', ARRAY['{"a": "eu-1"}', '{"a": "本日"}', '{"a": null}']::jsonb[], ARRAY['{"a": "us-1"}', '{"a": "日本"}', '{"a": ["us-1", "日"]}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"suffix": ".png"}}]}', ARRAY['{"a": "a.gif"}', '{"a": "a.PNG"}', '{"a": 1}', '{"a": null}']::jsonb[], ARRAY['{"a": "a.png"}', '{"a": [".png"]}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"suffix": [".png", "語"]}}]}', ARRAY['{"a": "a.gif"}', '{"a": null}']::jsonb[], ARRAY['{"a": "a.png"}', '{"a": "日本語"}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"equals-ignore-case": "Stopped"}}]}', ARRAY['{"a": "started"}', '{"a": 1}', '{"a": null}']::jsonb[], ARRAY['{"a": "stopped"}', '{"a": "STOPPED"}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"equals-ignore-case": ["stopped", "ÜBER"]}}]}', ARRAY['{"a": "started"}', '{"a": ["stopped", "x"]}']::jsonb[], ARRAY['{"a": "STOPPED"}', '{"a": "über"}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"wildcard": "*/lib/*"}}]}', ARRAY['{"a": "/bin/x"}', '{"a": "lib/x"}', '{"a": 1}', '{"a": null}']::jsonb[], ARRAY['{"a": "/lib/x"}', '{"a": ["/lib/"]}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"wildcard": ["*.jar", "日*"]}}]}', ARRAY['{"a": "x.class"}', '{"a": ""}']::jsonb[], ARRAY['{"a": "x.jar"}', '{"a": "日本"}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"equals-ignore-case": ""}}, {"anything-but": {"wildcard": ""}}]}', ARRAY['{"a": "x"}', '{"a": 1}']::jsonb[], ARRAY['{"a": ""}', '{}']::jsonb[]);

\echo fields and arrays: what an object says holds in one element, however deep the arrays
SELECT check_pattern('{"e": {"first": ["Anna"], "last": ["Smith"]}}',
    ARRAY['{"e": [{"first": "Jo", "last": "Doe"}, {"first": "Anna", "last": "Smith"}]}', '{"e": [[{"first": "Jo"}], [[{"first": "Anna", "last": ["Jones", "Smith"]}]]]}', '[{"e": {"first": "Anna", "last": "Smith"}}]']::jsonb[],
    ARRAY['{"e": [{"first": "Anna", "last": "Jones"}, {"first": "Jo", "last": "Smith"}]}', '{"e": [[{"first": "Anna"}, {"last": "Smith"}]]}', '[{"e": {"first": "Anna"}}, {"e": {"last": "Smith"}}]', '{"e": []}', '{"e": null}', '{"e.first": "Anna", "e.last": "Smith"}', '{}']::jsonb[]);
\echo an absence: in the element where the rest is found, else in all
SELECT check_pattern('{"e": {"x": [{"exists": false}]}}', ARRAY['{}', '{"e": 1}', '{"e": []}', '{"e": [1]}', '{"e": [{}, {"y": 1}]}', '{"e": [[{}], 1]}']::jsonb[],
    ARRAY['{"e": {"x": 1}}', '{"e": [{}, {"x": 1}]}', '{"e": [{"x": null}, {}]}', '{"e": [[{"x": 1}], {}]}', '{"e": [{}, 1, [[{"x": 1}]]]}']::jsonb[]);
SELECT check_pattern('{"e": {"x": [{"exists": false}], "y": [1]}}', ARRAY['{"e": [{"x": 1, "y": 1}, {"y": 1}]}', '{"e": {"y": 1}}']::jsonb[],
    ARRAY['{"e": [{"x": 1, "y": 1}]}', '{"e": [{"x": 1, "y": 1}, {"y": 2}]}', '{"e": [{}]}', '{}']::jsonb[]);
SELECT check_pattern('{"e": {"f": {"x": [{"exists": false}]}, "y": [1]}}', ARRAY['{"e": [{"f": [{"x": 1}]}, {"y": 1, "f": [{"z": 1}, {}]}]}']::jsonb[],
    ARRAY['{"e": [{"f": [{"x": 1}, {}], "y": 1}, {"y": 2}]}']::jsonb[]);
SELECT check_pattern('{"e": {"x": [{"exists": false}, 1]}}', ARRAY['{"e": [{}, {"x": 1}]}', '{"e": [{}, {}]}']::jsonb[], ARRAY['{"e": [{}, {"x": 2}]}']::jsonb[]);

\echo $or: at any level, with other fields, in itself
SELECT check_pattern('{"s": ["c"], "$or": [{"m": ["cpu", "mem"]}, {"n": ["ec2"]}]}', ARRAY['{"s": "c", "m": "mem"}', '{"s": "c", "n": "ec2"}', '{"s": ["b", "c"], "m": ["x", "cpu"], "n": null}']::jsonb[],
    ARRAY['{"s": "c"}', '{"m": "cpu"}', '{"s": "c", "m": null}', '{"s": "b", "n": "ec2"}', '{"s": "c", "m": 1, "n": "s3"}', '{"$or": [{"m": "cpu"}], "s": "c"}']::jsonb[]);
SELECT check_pattern('{"s": ["c"], "$or": [{"m": ["cpu"]}, {"t": ["T"], "n": ["ec2"], "$or": [{"i": [1]}, {"j": [2]}]}, {"o": ["S"]}]}',
    ARRAY['{"s": "c", "m": "cpu"}', '{"s": "c", "t": "T", "n": "ec2", "i": 1}', '{"s": "c", "t": "T", "n": "ec2", "j": 2}', '{"s": "c", "o": "S"}']::jsonb[],
    ARRAY['{"s": "c", "t": "T", "n": "ec2"}', '{"s": "c", "t": "T", "i": 1}', '{"s": "c", "j": 2}', '{"s": "c"}', '{"t": "T", "n": "ec2", "i": 1}']::jsonb[]);
SELECT check_pattern('{"$or": [{"m": [1]}, {"n": [1]}], "d": {"$or": [{"x": [{"prefix": "é"}]}, {"y": [{"exists": false}]}]}}',
    ARRAY['{"m": 1, "d": {"x": "éa", "y": 1}}', '{"n": 1}', '{"n": 1, "d": {"y": {}}}', '{"n": 1, "d": [{"y": 1}, {"y": 2, "x": "é"}]}']::jsonb[],
    ARRAY['{"d": {"x": "é"}}', '{"m": 1, "d": {"y": 1}}', '{"m": 1, "d": {"y": null, "x": null}}', '{"m": 1, "d": [{}, {"y": 1}]}']::jsonb[]);
\echo $or and arrays: one element for all that is said about it, in whatever part
SELECT check_pattern('{"e": {"x": [1]}, "$or": [{"e": {"y": [1]}}, {"e": {"y": [2]}, "z": [3]}]}', ARRAY['{"e": [{"x": 1}, {"x": 1, "y": 1}]}', '{"e": [{"x": 1, "y": 2}], "z": 3}']::jsonb[],
    ARRAY['{"e": [{"x": 1}, {"y": 1}]}', '{"e": [{"x": 1, "y": 2}]}', '{"e": [{"x": 1}, {"y": 2}], "z": 3}']::jsonb[]);
SELECT check_pattern('{"$or": [{"e": {"x": [1]}}, {"a": [1]}], "f": {"$or": [{"x": [1]}, {"y": [1]}], "g": {"x": [1], "$or": [{"y": [1]}, {"z": [1]}]}}}',
    ARRAY['{"a": 1, "f": [{"x": 1, "g": [{"x": 1}, {"x": 1, "z": 1}]}]}']::jsonb[], ARRAY['{"a": 1, "f": [{"x": 1, "g": [{"x": 1}, {"z": 1}]}]}', '{"a": 1, "f": [{"x": 1}, {"g": {"x": 1, "z": 1}}]}']::jsonb[]);
SELECT check_pattern('{"$or": [{"e": {"x": [1]}}, {"a": [1]}, {"$or": [{"e": {"x": [2]}}, {"a": [2]}]}], "$ or": ["k"]}', ARRAY['{"$ or": "k", "e": {"x": 2}}', '{"$ or": "k", "a": 2}']::jsonb[], ARRAY['{"$ or": "k"}', '{"a": 2}']::jsonb[]);
SELECT check_pattern('{"d": {"$or": [{"e": {"x": [1]}}, {"e": {"x": [2]}, "a": [1]}], "e": {"$or": [{"y": [1]}, {"z": [{"exists": false}]}]}}}',
    ARRAY['{"d": {"e": [{"x": 1, "y": 1, "z": 1}]}}', '{"d": {"e": [{"x": 2}, {"z": 1}], "a": 1}}']::jsonb[], ARRAY['{"d": {"e": [{"x": 1, "z": 1}, {"y": 1}]}}', '{"d": {"e": [{"x": 2}, {"z": 1}]}}']::jsonb[]);
SELECT check_pattern('{"e": {"$or": [{"a": [{"exists": false}]}, {"b": [{"exists": false}]}]}}', ARRAY['{"e": [{"a": 1}, {"a": 2}]}', '{"e": [{"b": 1}]}', '{}']::jsonb[], ARRAY['{"e": [{"a": 1}, {"b": 1}]}', '{"e": [{"a": 1, "b": 1}]}']::jsonb[]);
SELECT check_pattern('{"d": {"e": {"c": [{"exists": false}], "$or": [{"x": [1]}, {"$or": [{"a": [{"exists": false}]}, {"b": [{"exists": false}]}]}]}}}',
    ARRAY['{"d": [{"e": {"a": 1}}, {"e": [{"a": 2}, {}]}]}', '{"d": [{"e": {"b": 1}}]}', '{"d": {"e": [{"a": 1, "b": 1}, {"x": 1, "a": 1}]}}']::jsonb[],
    ARRAY['{"d": [{"e": {"a": 1}}, {"e": {"b": 1}}]}', '{"d": {"e": [{"a": 1, "c": 1}]}}']::jsonb[]);
-- two $or of one object, which comes of what stands beside a third
SELECT check_pattern('{"d": {"$or": [{"e": {"x": [1]}}, {"e": {"x": [2]}}]}, "$or": [{"d": {"$or": [{"e": {"y": [1]}}, {"e": {"y": [2]}}]}}, {"z": [1]}]}',
    ARRAY['{"d": {"e": [{"x": 1}, {"x": 2, "y": 1}]}}', '{"d": {"e": {"x": 1}}, "z": 1}']::jsonb[], ARRAY['{"d": {"e": [{"x": 1}, {"y": 1}]}}', '{"d": {"e": [{"x": 2}, {"x": 3, "y": 2}]}}', '{"d": {"e": {"y": 1}}, "z": 1}']::jsonb[]);
-- what is there says more than what is not
SELECT check_pattern('{"e": {"$or": [{"a": [{"exists": false}]}, {"b": [1]}]}}', ARRAY['{"e": [{"b": 1}, {"a": 1, "b": 2}]}', '{"e": [{"b": 2}, {}]}', '{"e": [{"a": 1, "b": 1}]}']::jsonb[], ARRAY['{"e": [{"b": 2}, {"a": 1, "b": 2}]}']::jsonb[]);
-- the same field twice: both hold, by different elements if need be
SELECT check_pattern('{"a": [1, 2], "$or": [{"a": [{"numeric": [">", 1]}]}, {"b": [1]}]}', ARRAY['{"a": 2}', '{"a": [1, 5]}', '{"a": 1, "b": 1}']::jsonb[], ARRAY['{"a": 1}', '{"a": 3}', '{"b": 1}']::jsonb[]);

\echo the examples of the documentation, for an event like theirs: a table of what each field is asked
CREATE TABLE example (n serial, pattern jsonb, expected boolean);
INSERT INTO example (pattern, expected) VALUES
    ('{"kind": ["state changed"], "resources": ["arn:i-1"], "detail": {"state": ["initializing", "running"]}}', true),
    ('{"kind": ["state changed"], "detail": {"state": ["terminated"]}}', false), ('{"Location": ["New York"], "Day": ["Monday"]}', true),
    ('{"Location": ["New York"], "Day": ["Tuesday"]}', false), ('{"time": [{"prefix": "2017-10-02"}]}', true), ('{"time": [{"prefix": "2017-10-03"}]}', false),
    ('{"service": [{"prefix": {"equals-ignore-case": "EventB"}}]}', true), ('{"service": [{"suffix": {"equals-ignore-case": "TBridge"}}]}', true),
    ('{"service": [{"prefix": "EventB"}]}', false), ('{"FileName": [{"suffix": ".png"}]}', true), ('{"FileName": [{"suffix": ".jpg"}]}', false),
    ('{"kind": [{"equals-ignore-case": "STATE Changed"}]}', true), ('{"detail": {"state": [{"anything-but": "initializing"}]}}', true),
    ('{"detail": {"state": [{"anything-but": "running"}]}}', false), ('{"detail": {"x-limit": [{"anything-but": 123}]}}', true),
    ('{"detail": {"state": [{"anything-but": ["stopped", "overloaded"]}]}}', true), ('{"detail": {"x-limit": [{"anything-but": [100, 200, 301.8]}]}}', false),
    ('{"detail": {"state": [{"anything-but": {"prefix": "init"}}]}}', true), ('{"detail": {"state": [{"anything-but": {"prefix": ["init", "run"]}}]}}', false),
    ('{"FileName": [{"anything-but": {"suffix": ".txt"}}]}', true), ('{"FileName": [{"anything-but": {"suffix": [".txt", ".png"]}}]}', false),
    ('{"detail": {"state": [{"anything-but": {"equals-ignore-case": "Running"}}]}}', false), ('{"detail": {"state": [{"anything-but": {"equals-ignore-case": ["initializing", "stopped"]}}]}}', true),
    ('{"FilePath": [{"anything-but": {"wildcard": "*/lib/*"}}]}', false), ('{"FilePath": [{"anything-but": {"wildcard": ["*/bin/*.jar", "*.class"]}}]}', true),
    ('{"detail": {"c-count": [{"numeric": [">", 0, "<=", 5]}], "d-count": [{"numeric": ["<", 10]}], "x-limit": [{"numeric": ["=", 3.018e2]}]}}', true),
    ('{"detail": {"c-count": [{"numeric": [">", 5, "<=", 10]}]}}', false), ('{"Price": [{"numeric": ["=", 100]}]}', true),
    ('{"Price": [{"numeric": [">", 10, "<=", 20]}]}', false), ('{"detail": {"source-ip": [{"cidr": "10.0.0.0/24"}]}}', true),
    ('{"detail": {"source-ip": [{"cidr": "10.0.1.0/24"}]}}', false), ('{"detail": {"state": [{"exists": true}]}}', true), ('{"detail": {"q": [{"exists": false}]}}', true),
    ('{"detail": {"state": [{"exists": false}]}}', false), ('{"ProductName": [{"exists": true}]}', false), ('{"ProductName": [{"exists": false}]}', true),
    ('{"detail": [{"exists": true}]}', false), ('{"detail": [{"exists": false}]}', true), ('{"UserID": [null]}', true), ('{"LastName": [""]}', true), ('{"UserID": [""]}', false),
    ('{"LastName": [null]}', false), ('{"PaymentType": ["Credit", "Debit"]}', true), ('{"$or": [{"Location": ["Boston"]}, {"Day": ["Monday"]}]}', true),
    ('{"$or": [{"Location": ["Boston"]}, {"Day": ["Friday"]}]}', false),
    ('{"detail": {"$or": [{"c-count": [{"numeric": [">", 10]}]}, {"d-count": [{"numeric": ["<", 2]}]}, {"x-limit": [{"numeric": ["=", 3.018e2]}]}]}}', true),
    ('{"FilePath": [{"wildcard": "dir/*.png"}]}', false), ('{"FilePath": [{"wildcard": "/usr/*/x.jar"}]}', true), ('{"FilePath": [{"wildcard": "*/lib/*/x.jar"}]}', false),
    ('{"resources": ["arn:i-9", "arn:i-2"]}', true), ('{"resources": ["arn:i-9"]}', false), ('{"employees": {"firstName": ["Anna"]}}', true),
    ('{"employees": {"firstName": ["Anna"], "lastName": ["Jones"]}}', false), ('{"employees": {"firstName": ["Anna"], "lastName": ["Smith"]}}', true),
    ('{"time": [{"prefix": "2017-10-02"}], "detail": {"state": [{"anything-but": "initializing"}], "c-count": [{"numeric": [">", 0, "<=", 5]}], "x-limit": [{"anything-but": [100, 200, 300]}],
        "source-ip": [{"cidr": "10.0.0.0/8"}]}}', true);
SELECT 'wrong: ' || pattern::text FROM example WHERE expected <> (selected(jsonb_build_object('data', pattern), ARRAY['{"kind": "state changed", "time": "2017-10-02T16:24:49Z", "resources": ["arn:i-1", "arn:i-2"],
    "Location": "New York", "Day": "Monday", "service": "EVENTBRIDGE", "FileName": "a.png", "FilePath": "/usr/lib/x.jar", "Price": 100, "UserID": null, "LastName": "", "PaymentType": "Debit",
    "employees": [{"firstName": "Jo", "lastName": "Doe"}, {"firstName": "Anna", "lastName": "Smith"}, {"firstName": "Peter", "lastName": "Jones"}],
    "detail": {"state": "running", "c-count": 5, "d-count": 3, "x-limit": 301.8, "source-ip": "10.0.0.33"}}'::jsonb]))[1] ORDER BY n;
SELECT sum(n) AS documents, count(*) AS patterns FROM checked;

\echo a wildcard costs no more than two comparisons for each byte of the text, whatever repeats itself
CREATE FUNCTION steps(pattern text, value text) RETURNS bigint LANGUAGE c STRICT AS '$libdir/evtstore', 'evtstore_wildcard_steps';
SELECT what, steps > 0 AS compared, steps <= 2 * length(value) AS linear FROM (VALUES ('one piece', '*' || repeat('a', 1000) || 'b*', repeat('a', 100000)),
        ('many pieces', repeat('*a', 1000) || '*b*', repeat('a', 100000)), ('long pieces', repeat('*' || repeat('a', 99) || 'b', 100) || '*', repeat('a', 100000)),
        ('borders', '*' || repeat('aab', 300) || 'aac*', repeat('aab', 30000)), ('all found', '*' || repeat('ab*', 1000), repeat('ab', 50000))) v (what, pattern, value),
    steps(pattern, value);

\echo what is refused
CREATE FUNCTION refused(pattern jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT fails(format('SELECT evtstore.create_subscription(''s'', jsonb_build_object(''pattern'', %L::jsonb))', pattern)) $$;
SELECT refused(jsonb_build_object('data', jsonb_build_object('a', jsonb_build_array(matcher)))) FROM unnest(ARRAY[
    '{"prefix": 1}', '{"prefix": ["a"]}', '{"prefix": {}}', '{"prefix": {"equals-ignore-case": 1}}', '{"prefix": {"equals-ignore-case": ["a"]}}', '{"prefix": {"wildcard": "a"}}',
    '{"prefix": {"equals-ignore-case": "a", "suffix": "b"}}', '{"suffix": null}', '{"suffix": {"prefix": "a"}}', '{"suffix": {"equals-ignore-case": null}}',
    '{"equals-ignore-case": 1}', '{"equals-ignore-case": {"prefix": "a"}}', '{"wildcard": 1}', '{"wildcard": ["*"]}', '{"wildcard": {"equals-ignore-case": "*"}}',
    '{"wildcard": "a**b"}', '{"wildcard": "**"}', '{"wildcard": "a\\b"}', '{"wildcard": "a\\"}', '{"wildcard": "*\\\\\\"}',
    '{"cidr": 10}', '{"cidr": ""}', '{"cidr": "10.0.0.0"}', '{"cidr": "10.0.0.0/"}', '{"cidr": "/24"}', '{"cidr": "10.0.0.0/33"}', '{"cidr": "10.0.0.0/-1"}', '{"cidr": "10.0.0.0/+1"}',
    '{"cidr": "10.0.0.0/1x"}', '{"cidr": "10.0.0.0/8/8"}', '{"cidr": "10.0.0/24"}', '{"cidr": "10.0.0.256/24"}', '{"cidr": "::/129"}', '{"cidr": "::/4294967296"}', '{"cidr": "host/8"}', '{"cidr": ["10.0.0.0/8"]}',
    '{"numeric": ">"}', '{"numeric": [1, ">"]}', '{"numeric": ["!=", 1]}', '{"numeric": [">", null]}', '{"numeric": [">", 1, "<"]}', '{"numeric": [">", 5, "<", 5]}', '{"numeric": [">=", 5, "<", 5]}',
    '{"numeric": ["<=", 1, ">", 1]}', '{"numeric": ["=", 1, "=", 2]}', '{"numeric": ["=", 1, ">", 2]}', '{"exists": 1}', '{"exists": null}', '{"exists": [true]}',
    '{"anything-but": {}}', '{"anything-but": []}', '{"anything-but": [["x"]]}', '{"anything-but": [{"prefix": "a"}]}', '{"anything-but": {"prefix": "a", "suffix": "b"}}', '{"anything-but": {"prefix": []}}',
    '{"anything-but": {"prefix": ""}}', '{"anything-but": {"suffix": ["a", ""]}}', '{"anything-but": {"prefix": {"equals-ignore-case": "a"}}}', '{"anything-but": {"suffix": 1}}',
    '{"anything-but": {"equals-ignore-case": ["a", null]}}', '{"anything-but": {"wildcard": "a**"}}', '{"anything-but": {"wildcard": ["a", 1]}}', '{"anything-but": {"numeric": ["=", 1]}}',
    '{"anything-but": {"cidr": "10.0.0.0/8"}}', '{"anything-but": {"exists": true}}', '{"regex": "a"}', '{}']::jsonb[]) WITH ORDINALITY m (matcher, n) ORDER BY n;
SELECT refused(pattern) FROM unnest(ARRAY['{"data": {"$or": {"a": [1]}}}', '{"data": {"$or": [{"a": [1]}]}}', '{"data": {"$or": [{"a": [1]}, {}]}}', '{"data": {"$or": [{"a": [1]}, ["b"]]}}',
    '{"data": {"a": {"$or": [{"prefix": ["a"]}, {"suffix": ["b"]}]}}}', '{"data": {"$or": [{"a": {"numeric": [">", 5]}}, {"b": [1]}]}}', '{"$or": [{"data": {"cidr": ["x"]}}, {"data": ["x"]}]}',
    '{"$or": [{"data": {"exists": [true]}}, {"data": ["x"]}]}', '{"$or": [{"data": {"anything-but": [true]}}, {"data": ["x"]}]}', '{"$or": [{"data": ["x"]}, {"type": ["x"]}]}']::jsonb[]) WITH ORDINALITY p (pattern, n) ORDER BY n;
-- a field outside of "$or" may have such a name
SELECT check_pattern('{"prefix": [1], "$or": [{"a": [1]}, {"b": [1]}]}', ARRAY['{"prefix": 1, "b": 1}']::jsonb[], ARRAY['{"b": 1}']::jsonb[]);

\echo a thousand combinations, and one more
CREATE FUNCTION alternatives(field text, n int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_agg(jsonb_build_object(field, jsonb_build_array(i)) ORDER BY i) FROM generate_series(1, n) i $$;
SELECT check_pattern(jsonb_build_object('$or', alternatives('a', 10), 'b', jsonb_build_object('$or', alternatives('c', 10)), 'd', jsonb_build_object('$or', alternatives('a', 10))),
    ARRAY['{"a": 10, "b": {"c": 10}, "d": {"a": 10}}']::jsonb[], ARRAY['{"a": 10, "b": {"c": 10}, "d": {"a": 11}}']::jsonb[]);
SELECT check_pattern(jsonb_build_object('e', jsonb_build_object('$or', alternatives('a', 32)), '$or', (SELECT jsonb_agg(jsonb_build_object('e', v)) FROM jsonb_array_elements(alternatives('b', 31)) v)),
    ARRAY['{"e": [{"a": 32, "b": 31}]}']::jsonb[], ARRAY['{"e": [{"a": 32}, {"b": 31}]}', '{"e": [{"a": 33, "b": 31}]}']::jsonb[]);
SELECT refused(jsonb_build_object('data', jsonb_build_object('$or', alternatives('a', 1001))));
SELECT refused(jsonb_build_object('data', jsonb_build_object('$or', alternatives('a', 11), 'b', jsonb_build_object('$or', alternatives('c', 91)))));
SELECT refused(jsonb_build_object('data', jsonb_build_object('$or', alternatives('a', 500) || jsonb_build_object('$or', alternatives('b', 501)))));
SELECT check_pattern(jsonb_build_object('$or', alternatives('a', 500) || jsonb_build_object('$or', alternatives('b', 500))), ARRAY['{"b": 500}']::jsonb[], ARRAY['{"b": 501}']::jsonb[]);
-- what is nested costs no more than its size: twice as much at each of these levels would never end
SELECT check_pattern((repeat('{"a": {"$or": [{"b": [1]}, {"c": ', 200) || '{"d": [1]}' || repeat('}]}}', 200))::jsonb, ARRAY[(repeat('{"a": {"c": ', 200) || '{"d": 1}' || repeat('}}', 200))::jsonb,
    (repeat('{"a": {"c": ', 199) || '{"a": {"b": 1}}' || repeat('}}', 199))::jsonb],
    ARRAY[(repeat('{"a": {"c": ', 200) || '{"a": {"b": 1}}' || repeat('}}', 200))::jsonb, (repeat('{"a": {"c": ', 200) || '{"d": 2}' || repeat('}}', 200))::jsonb]);
SELECT check_pattern((repeat('{"a": {"$or": [{"b": [{"exists": false}]}, {"c": ', 200) || '{"d": [1]}' || repeat('}]}}', 200))::jsonb, ARRAY['{"a": {"c": 1}}', '{"a": {"b": 1, "c": 1}}', (repeat('{"a": {"b": 1, "c": ', 200) || '{"d": 1}' || repeat('}}', 200))::jsonb]::jsonb[],
    ARRAY[(repeat('{"a": {"b": 1, "c": ', 200) || '{"d": 2}' || repeat('}}', 200))::jsonb]);
SELECT check_pattern((repeat('{"a": {"$or": [{"b": [{"exists": false}]}, {"c": [{"exists": false}]}], "e": ', 9) || '{"d": [{"exists": false}]}' || repeat('}}', 9))::jsonb, ARRAY['{"a": {"e": {"a": {"b": 1}}}}', '{}']::jsonb[],
    ARRAY['{"a": {"e": {"a": {"b": 1, "c": 1}}}}', '{"a": [{"e": {"a": {"b": 1}}}, {"e": {"a": {"c": 1}}}]}']::jsonb[]);
