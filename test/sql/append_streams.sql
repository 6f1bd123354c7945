--
-- append_streams: several streams at once, each with its expectation, all or nothing.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE FUNCTION part(stream text, expected bigint, VARIADIC data int[] DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('stream', stream, 'expected_version', expected, 'events',
        coalesce((SELECT jsonb_agg(jsonb_build_object('type', 'T', 'data', d, 'id', format('00000000-0000-7000-8000-%s', lpad(d::text, 12, '0'))) ORDER BY o)
                  FROM unnest(data) WITH ORDINALITY u(d, o) WHERE d > 0), '[]')) $$;
CREATE FUNCTION try(VARIADIC parts jsonb[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    details text;
BEGIN
    RETURN (SELECT string_agg(format('%s:%s-%s@%s-%s%s', stream, first_version, version, first_position, position, CASE WHEN duplicate THEN ' again' END), ', ' ORDER BY o)
            FROM ROWS FROM (evtstore.append_streams(to_jsonb(parts))) WITH ORDINALITY r(stream, first_version, version, first_position, position, duplicate, o));
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS details = PG_EXCEPTION_DETAIL;
    RETURN SQLSTATE || ' ' || details;
END $$;

SELECT * FROM evtstore.append_streams('[
    {"stream": "order-1", "expected_version": 0, "events": [{"type": "OrderPlaced", "data": {"total": 30}}, {"type": "OrderPaid", "data": {}}]},
    {"stream": "stock-7", "events": [{"type": "Reserved", "data": {}, "tags": ["sku:7"]}]},
    {"stream": "customer-3", "expected_version": 0, "events": []}]');
SELECT position, stream, version, type, tags FROM evtstore.read_all();
SELECT stream, version FROM evtstore.streams ORDER BY 1;

-- any of them can refuse all
SELECT try(part('a-1', 0, 101), part('order-1', 1, 102), part('b-1', 0, 103)), try(part('a-1', 0, 101), part('order-1', 1)), try(part('a-1', 3), part('a-2', 0, 104));
SELECT fails($$SELECT evtstore.append_streams('[{"stream": "a-1", "events": [{"type": "T", "data": 1}]}, {"stream": "a-2", "events": [], "require": "exists"}]')$$);
SELECT fails($$SELECT evtstore.append_streams('[{"stream": "a-1", "events": [{"type": "T", "data": 1}]}, {"stream": "order-1", "events": [], "require": "deleted"}]')$$);
SELECT count(*) FROM evtstore.streams;

-- a stream twice: the second part finds what the first one left, and positions follow the parts
SELECT try(part('a-1', 0, 1, 2), part('b-1', 0, 3), part('a-1', 2, 4), part('b-1', 1), part('a-1', 3, 5)) AS interleaved;
SELECT position, stream, version, data FROM evtstore.read_all() WHERE stream IN ('a-1', 'b-1');
SELECT try(part('a-1', 4, 6), part('a-1', 4, 7));

-- the same again: by event id, whatever only was to be checked
SELECT try(part('a-1', 0, 1, 2), part('b-1', 0, 3), part('a-1', 2, 4), part('b-1', 1), part('a-1', 3, 5)) AS identical;
SELECT try(part('a-1', 0, 1, 2), part('b-1', 0, 3)) AS beginning, try(part('b-1', 0, 3), part('a-1', 0, 1)) AS other_order, try(part('a-1', 0, 1), part('order-1', 7)) AS checked_otherwise;
SELECT try(part('a-1', 0, 1), part('b-1', 1, 30)) AS one_is_new, try(part('a-1', 0, 1), part('b-1', 1, 3)) AS expected_elsewhere, try(part('a-1', NULL, 2, 1)) AS backwards;
SELECT try(part('a-1', NULL, 3)) AS of_another_stream, try(part('a-1', 4, 50), part('b-1', 1, 50)) AS twice_in_one_call;
-- partly known is a conflict even where one part has no ids at all
SELECT fails($$SELECT evtstore.append_streams(jsonb_build_array(part('a-1', 0, 1), '{"stream": "b-1", "events": [{"type": "T", "data": 1}]}'::jsonb))$$);

-- nothing at all; only checks
SELECT count(*) FROM evtstore.append_streams('[]');
SELECT * FROM evtstore.append_streams('[{"stream": "a-1", "events": [], "expected_version": 4}, {"stream": "new-1", "events": [], "expected_version": null, "require": null}]');
SELECT count(*) FROM evtstore.streams WHERE stream = 'new-1';

-- handlers run once everything is written, part by part
CREATE TABLE seen (n serial, stream text, version bigint, others bigint);
SELECT evtstore.create_projection('seen', mode => 'sync', filter => '{"categories": ["p"]}',
    handlers => '{"*": "INSERT INTO seen (stream, version, others) SELECT ($1).stream, ($1).version, count(*) FROM evtstore.events WHERE stream LIKE ''p-%''"}');
SELECT try(part('p-1', 0, 200, 201), part('p-2', 0, 202), part('p-3', 0));
SELECT * FROM seen ORDER BY n;

-- tenants
SET evtstore.tenant = 'acme';
SELECT try(part('a-1', 0, 1), part('order-1', 0, 2));
RESET evtstore.tenant;
-- a version that must be named
SET evtstore.require_expected_version = on;
SELECT fails($$SELECT evtstore.append_streams('[{"stream": "a-1", "events": []}]')$$), try(part('a-1', 4));
RESET evtstore.require_expected_version;

--
-- bad input: nothing is done
--
SELECT fails(format($$SELECT evtstore.append_streams(%s)$$, arguments)) AS error, arguments
FROM (VALUES ('NULL'), ($$'{}'$$), ($$'3'$$), ($$'null'$$), ($$'[1]'$$), ($$'[{}]'$$), ($$'[{"stream": "a-1"}]'$$), ($$'[{"events": []}]'$$), ($$'[{"stream": "", "events": []}]'$$),
             ($$'[{"stream": 7, "events": []}]'$$), ($$'[{"stream": null, "events": []}]'$$), ($$'[{"stream": "a-1", "events": {}}]'$$), ($$'[{"stream": "a-1", "events": null}]'$$),
             ($$'[{"stream": "a-1", "events": [{"type": "T"}]}]'$$), ($$'[{"stream": "z-1", "events": [{"type": "T", "data": 1}]}, {"stream": "a-1", "events": [], "expected": 1}]'$$),
             ($$'[{"stream": "a-1", "events": [], "expected_version": -1}]'$$), ($$'[{"stream": "a-1", "events": [], "expected_version": 1.5}]'$$),
             ($$'[{"stream": "a-1", "events": [], "expected_version": "1"}]'$$), ($$'[{"stream": "a-1", "events": [], "expected_version": 9223372036854775808}]'$$),
             ($$'[{"stream": "a-1", "events": [], "require": "gone"}]'$$)) v (arguments);
SELECT count(*) FROM evtstore.streams WHERE stream = 'z-1';
