--
-- Content patterns of filters: what matches, what is refused, and that subscriptions, rules and projections all take them.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset null '(null)'

CREATE TABLE seen (n serial, what text, id int);

-- does the pattern select an event with these data and metadata?  A rule asks, in the append
CREATE FUNCTION selects(pattern jsonb, data jsonb, metadata jsonb DEFAULT '{}') RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    result boolean;
BEGIN
    PERFORM evtstore.create_queue('q');
    PERFORM evtstore.create_rule('r', jsonb_build_object('pattern', pattern), 'queue:q');
    PERFORM evtstore.append('x-1', 'T', data, metadata => metadata);
    SELECT ready > 0 INTO result FROM evtstore.queue_status WHERE name = 'q';
    PERFORM evtstore.drop_rule('r');
    PERFORM evtstore.drop_queue('q');
    RETURN result;
END $$;
-- pattern for "data", and documents that match and that do not
CREATE FUNCTION check_pattern(pattern jsonb, matching jsonb[], others jsonb[]) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT 'does not match ' || d::text FROM unnest(matching) d WHERE NOT selects(jsonb_build_object('data', pattern), d)
    UNION ALL SELECT 'matches ' || d::text FROM unnest(others) d WHERE selects(jsonb_build_object('data', pattern), d) $$;

\echo exact values
SELECT check_pattern('{"a": ["x"]}', '{"{\"a\": \"x\"}","{\"a\": \"x\", \"b\": 1}","{\"a\": [\"y\", \"x\"]}","{\"a\": [[\"y\"], [\"x\"]]}"}',
    '{"{\"a\": \"X\"}","{\"a\": \"xx\"}","{\"a\": null}","{\"a\": {\"x\": \"x\"}}","{\"b\": \"x\"}","{}","[]","\"x\"","{\"a\": []}","{\"a\": \"\"}"}');
SELECT check_pattern('{"a": ["x", 1, true, null]}', ARRAY['{"a": "x"}', '{"a": 1}', '{"a": 1.0}', '{"a": true}', '{"a": null}', '{"a": [false, null]}']::jsonb[],
    ARRAY['{"a": "1"}', '{"a": 2}', '{"a": false}', '{"a": "true"}', '{}', '{"a": [[]]}']::jsonb[]);
SELECT check_pattern('{"a": [9007199254740993]}', ARRAY['{"a": 9007199254740993}']::jsonb[], ARRAY['{"a": 9007199254740992}', '{"a": 9007199254740994}']::jsonb[]);
SELECT check_pattern('["x"]', ARRAY['"x"', '["x"]', '["y", "x"]']::jsonb[], ARRAY['"y"', '{"x": "x"}', 'null', '[]']::jsonb[]);
SELECT check_pattern('[{"numeric": [">", 5]}]', ARRAY['6', '[1, 7]']::jsonb[], ARRAY['5', '"6"', 'null']::jsonb[]);

\echo fields: all of them, at any depth; in arrays of objects within one element
SELECT check_pattern('{"a": {"b": {"c": [1]}}, "d": [2]}', ARRAY['{"a": {"b": {"c": 1}}, "d": 2}', '{"a": [{"b": 0}, {"b": [{"c": 3}, {"c": 1}]}], "d": 2}']::jsonb[],
    ARRAY['{"a": {"b": {"c": 1}}}', '{"a": {"b": {"c": 2}}, "d": 2}', '{"a": {"b": 1}, "d": 2}', '{"a.b.c": 1, "d": 2}']::jsonb[]);
SELECT check_pattern('{"lines": {"sku": ["A"], "n": [{"numeric": [">", 1]}]}}', ARRAY['{"lines": [{"sku": "A", "n": 1}, {"sku": "A", "n": 2}]}']::jsonb[],
    ARRAY['{"lines": [{"sku": "A", "n": 1}, {"sku": "B", "n": 2}]}', '{"lines": []}', '{"lines": ["A", 2]}']::jsonb[]);

\echo prefix, suffix, without case
SELECT check_pattern('{"a": [{"prefix": "ab"}]}', ARRAY['{"a": "ab"}', '{"a": "abc"}']::jsonb[], ARRAY['{"a": "a"}', '{"a": "Abc"}', '{"a": "cab"}', '{"a": 1}', '{"a": null}']::jsonb[]);
SELECT check_pattern('{"a": [{"suffix": ".png"}]}', ARRAY['{"a": ".png"}', '{"a": "ü.png"}']::jsonb[], ARRAY['{"a": "png"}', '{"a": ".PNG"}', '{"a": ".png "}']::jsonb[]);
SELECT check_pattern('{"a": [{"prefix": ""}]}', ARRAY['{"a": ""}', '{"a": "x"}']::jsonb[], ARRAY['{"a": 1}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"equals-ignore-case": "Gold"}]}', ARRAY['{"a": "gold"}', '{"a": "GOLD"}', '{"a": ["x", "gOLD"]}']::jsonb[],
    ARRAY['{"a": "golden"}', '{"a": "gol"}', '{"a": 1}', '{"a": true}']::jsonb[]);

\echo numbers
SELECT check_pattern('{"a": [{"numeric": [">", 0, "<=", 100]}]}', ARRAY['{"a": 0.0000000000000000000000000001}', '{"a": 100}', '{"a": 100.00}', '{"a": [-1, 50]}']::jsonb[],
    ARRAY['{"a": 0}', '{"a": 100.0000000000000000000000000001}', '{"a": "50"}', '{"a": true}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"numeric": ["=", 1.5]}]}', ARRAY['{"a": 1.50}']::jsonb[], ARRAY['{"a": 1.49}', '{"a": 2}']::jsonb[]);
SELECT check_pattern('{"a": [{"numeric": [">=", 1e300]}]}', ARRAY['{"a": 1e300}', '{"a": 1e301}']::jsonb[], ARRAY['{"a": 9e299}']::jsonb[]);
SELECT check_pattern('{"a": [{"numeric": ["<", 0]}, {"numeric": [">", 10]}]}', ARRAY['{"a": -1}', '{"a": 11}']::jsonb[], ARRAY['{"a": 0}', '{"a": 10}']::jsonb[]);

\echo there or not
SELECT check_pattern('{"a": [{"exists": true}]}', ARRAY['{"a": null}', '{"a": 1}', '{"a": [[1]]}']::jsonb[], ARRAY['{}', '{"b": 1}', '1', '[]', '{"a": {}}', '{"a": []}']::jsonb[]);
SELECT check_pattern('{"a": [{"exists": false}]}', ARRAY['{}', '{"b": 1}', '1', '[]', '{"a": {}}', '{"a": []}']::jsonb[], ARRAY['{"a": null}', '{"a": [[1]]}']::jsonb[]);
SELECT check_pattern('{"a": [{"exists": false}, 1]}', ARRAY['{}', '{"a": 1}']::jsonb[], ARRAY['{"a": 2}']::jsonb[]);
SELECT check_pattern('{"a": {"b": [{"exists": false}]}}', ARRAY['{}', '{"a": 1}', '{"a": {}}', '{"a": []}', '{"a": [{"c": 1}, {}]}']::jsonb[], ARRAY['{"a": {"b": null}}', '{"a": [{"b": 1}, {}]}']::jsonb[]);

\echo anything but
SELECT check_pattern('{"a": [{"anything-but": "x"}]}', ARRAY['{"a": "y"}', '{"a": 1}', '{"a": null}', '{"a": ["x", "y"]}']::jsonb[], ARRAY['{"a": "x"}', '{"a": ["x"]}', '{}', '{"a": {}}', '{"a": []}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": ["x", 1]}]}', ARRAY['{"a": "y"}', '{"a": 2}']::jsonb[], ARRAY['{"a": "x"}', '{"a": 1.0}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"prefix": "x"}}]}', ARRAY['{"a": "y"}', '{"a": 2}']::jsonb[], ARRAY['{"a": "xy"}', '{}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"suffix": "x"}}]}', ARRAY['{"a": "y"}']::jsonb[], ARRAY['{"a": "yx"}']::jsonb[]);
SELECT check_pattern('{"a": [{"anything-but": {"equals-ignore-case": "x"}}]}', ARRAY['{"a": "y"}']::jsonb[], ARRAY['{"a": "X"}']::jsonb[]);

\echo or
SELECT check_pattern('{"c": [1], "$or": [{"a": ["x"]}, {"b": {"c": [{"numeric": [">", 5]}]}}]}', ARRAY['{"a": "x", "c": 1}', '{"b": {"c": 6}, "c": 1}']::jsonb[],
    ARRAY['{"a": "x"}', '{"a": "y", "c": 1}', '{"c": 1}', '{"b": {"c": 5}, "c": 1}']::jsonb[]);
SELECT check_pattern('{"$or": [{"a": [1]}, {"$or": [{"b": [2]}, {"c": [3]}]}]}', ARRAY['{"a": 1}', '{"b": 2}', '{"c": 3}']::jsonb[], ARRAY['{"a": 2}', '{}']::jsonb[]);
SELECT selects('{"$or": [{"data": {"a": [1]}}, {"metadata": {"m": ["x"]}}]}', '{"a": 1}'), selects('{"$or": [{"data": {"a": [1]}}, {"metadata": {"m": ["x"]}}]}', '{"a": 2}', '{"m": "x"}'),
    selects('{"$or": [{"data": {"a": [1]}}, {"metadata": {"m": ["x"]}}]}', '{"a": 2}', '{"m": "y"}');
SELECT selects('{"data": {"a": [1]}, "metadata": {"m": ["x"]}}', '{"a": 1}', '{"m": "x"}'), selects('{"data": {"a": [1]}, "metadata": {"m": ["x"]}}', '{"a": 1}');

\echo keys with whatever in them
SELECT check_pattern('{"": [1], "a b": [2], "ü\"x": ["ß"]}', ARRAY['{"": 1, "a b": 2, "ü\"x": "ß"}']::jsonb[], ARRAY['{"": 1, "a b": 2, "ü\"x": "s"}']::jsonb[]);

\echo what is refused
CREATE FUNCTION refused(pattern text) RETURNS text LANGUAGE sql AS $$
    SELECT fails(format('SELECT evtstore.create_subscription(''s'', jsonb_build_object(''pattern'', %L::jsonb))', pattern)) $$;
SELECT refused('[]');
SELECT refused('{}');
SELECT refused('{"data": {}}');
SELECT refused('{"type": ["x"]}');
SELECT refused('{"data": {"a": "x"}}');
SELECT refused('{"data": {"a": {"b": 5}}}');
SELECT refused('{"data": {"a": []}}');
SELECT refused('{"data": {"a": [["x"]]}}');
SELECT refused('{"data": {"a": [{}]}}');
SELECT refused('{"data": {"a": [{"prefix": "a", "suffix": "b"}]}}');
SELECT refused('{"data": {"a": [{"regex": "x"}]}}');
SELECT refused('{"data": {"a": [{"prefix": 1}]}}');
SELECT refused('{"data": {"a": {"b": [{"suffix": null}]}}}');
SELECT refused('{"data": {"a": [{"equals-ignore-case": ["x"]}]}}');
SELECT refused('{"data": {"a": [{"exists": "yes"}]}}');
SELECT refused('{"data": {"a": [{"numeric": 5}]}}');
SELECT refused('{"data": {"a": [{"numeric": []}]}}');
SELECT refused('{"data": {"a": [{"numeric": [">"]}]}}');
SELECT refused('{"data": {"a": [{"numeric": ["<>", 5]}]}}');
SELECT refused('{"data": {"a": [{"numeric": [">", "5"]}]}}');
SELECT refused('{"data": {"a": [{"numeric": [">", 1, "<", 2, "=", 3]}]}}');
SELECT refused('{"data": {"a": [{"anything-but": []}]}}');
SELECT refused('{"data": {"a": [{"anything-but": {"exists": true}}]}}');
SELECT refused('{"data": {"a": [{"anything-but": {"anything-but": 1}}]}}');
SELECT refused('{"$or": {}}');
SELECT refused('{"data": {"$or": []}}');
SELECT refused('{"data": {"$or": [1, 2]}}');
SELECT refused('{"data": {"$or": [{}, {"a": [1]}]}}');
SELECT refused('{"$or": [{"stream": ["x"]}, {"data": [1]}]}');
SELECT refused(repeat('{"data":', 10000) || '1' || repeat('}', 10000)) ~ '^(22023|54001)';
SELECT fails($$SELECT evtstore.create_subscription('s', '{"pattern": ["x"]}')$$);
SELECT fails($$SELECT evtstore.create_subscription('s', '{"items": [], "pattern": {"data": ["x"]}}')$$);

\echo subscriptions, with other parts of a filter; data that is toasted
SELECT FROM evtstore.create_subscription('paid', '{"categories": ["order"], "types": ["Changed"], "pattern": {"data": {"total": [{"numeric": [">", 100]}],
    "status": ["paid", "shipped"], "address": {"country": ["DE"]}}}}', lanes => 1);
SELECT count(*) FROM (VALUES ('order-1', 'Changed', '{"n": 1, "total": 101, "status": "paid", "address": {"country": "DE"}}'),
        ('order-1', 'Changed', '{"n": 2, "total": 100, "status": "paid", "address": {"country": "DE"}}'),
        ('order-1', 'Changed', '{"n": 3, "total": 101, "status": "open", "address": {"country": "DE"}}'),
        ('order-1', 'Changed', '{"n": 4, "total": 101, "status": "paid", "address": {"country": "FR"}}'),
        ('order-1', 'Made', '{"n": 5, "total": 101, "status": "paid", "address": {"country": "DE"}}'),
        ('cart-1', 'Changed', '{"n": 6, "total": 101, "status": "paid", "address": {"country": "DE"}}'),
        ('order-2', 'Changed', '{"n": 7, "total": 1000, "status": "shipped", "address": {"country": "DE"}, "pad": "' ||
            (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i) || '"}'),
        ('order-1', 'Changed', '{"n": 8, "total": 102, "status": "paid", "address": {"country": "DE"}}')) v (stream, type, data),
    evtstore.append(v.stream, v.type, v.data::jsonb);
CREATE TABLE got AS SELECT * FROM evtstore.poll('paid', 'c');
SELECT body->'n' FROM got ORDER BY position;
-- one that fails withdraws the later one of its key that the pattern selects
SELECT FROM evtstore.nack((SELECT receipt FROM got WHERE body->'n' = '1'), 'no', '0');
SELECT evtstore.ack(receipt) FROM got WHERE body->'n' = '7';
SELECT retrying, waiting FROM evtstore.subscription_status;
SELECT body->'n', evtstore.ack(receipt) FROM evtstore.poll('paid', 'c');
SELECT body->'n', evtstore.ack(receipt) FROM evtstore.poll('paid', 'c');
-- another pattern
SELECT FROM evtstore.alter_subscription('paid', '{"filter": {"pattern": {"data": {"n": [{"numeric": ["=", 9]}]}}}}');
SELECT count(*) FROM generate_series(9, 10) n, evtstore.append('cart-1', 'Changed', jsonb_build_object('n', n));
SELECT body->'n', evtstore.ack(receipt) FROM evtstore.poll('paid', 'c');
SELECT fails($$SELECT evtstore.alter_subscription('paid', '{"filter": {"pattern": {"data": {"n": 9}}}}')$$);

\echo projections
SELECT FROM evtstore.create_projection('p', '{"*": "INSERT INTO seen (what, id) VALUES (($1).type, (($1).data->>''n'')::int)"}', 'sync', '{"pattern": {"data": {"n": [{"numeric": [">", 20, "<", 30]}]}}}');
SELECT count(*) FROM generate_series(19, 31) n, evtstore.append('p-1', 'T', jsonb_build_object('n', n));
SELECT min(id), max(id), count(*) FROM seen;
