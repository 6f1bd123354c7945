--
-- What the isolation specs of feed, append, projection and subscription share, because a spec cannot include another file: readers that
-- remember their last position and poll, and the check that nobody lost an event, got one twice or out of order.
-- test/setup/fresh_database loads it into the database of every isolation spec; specs begin with CALL t.reset().
--
CREATE SCHEMA t;

-- 'all' and 'late' (who polls rarely) read_all; 'one' the same, an event at a time; 'a' and 'b' read_category
CREATE TABLE t.reader (name text PRIMARY KEY, at bigint);
CREATE TABLE t.seen (n serial, reader text, id uuid, stream text, version bigint, position bigint, shown boolean DEFAULT false);

CREATE PROCEDURE t.reset() LANGUAGE plpgsql SET client_min_messages = warning AS $$
BEGIN
    TRUNCATE evtstore_internal.event, evtstore_internal.event_tag, evtstore_internal.stream, evtstore_internal.stream_state,
        evtstore_internal.policy, t.reader, t.seen;
    DROP TABLE IF EXISTS t.other, t.head, t.projected;
    PERFORM evtstore.drop_projection(name) FROM evtstore.projection_status;
    PERFORM evtstore.drop_subscription(name) FROM evtstore.subscription_status;
    INSERT INTO t.reader SELECT name, evtstore.head_position() FROM unnest(ARRAY['all', 'late', 'one', 'a', 'b']) name;
END $$;

-- one poll: what was given, kept in t.seen
CREATE FUNCTION t.poll(reader_name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    e evtstore.event; r t.reader; given text[] := '{}'; more boolean;
BEGIN
    SELECT * INTO STRICT r FROM t.reader WHERE name = reader_name FOR UPDATE;
    LOOP
        more := false;
        FOR e IN EXECUTE CASE r.name WHEN 'one' THEN 'SELECT * FROM evtstore.read_all($1, 1)'
                                     WHEN 'a' THEN 'SELECT * FROM evtstore.read_category(''a'', $1)'
                                     WHEN 'b' THEN 'SELECT * FROM evtstore.read_category(''b'', $1)'
                                     ELSE 'SELECT * FROM evtstore.read_all($1)' END USING r.at LOOP
            given := given || format('%s/%s', e.stream, e.version);
            INSERT INTO t.seen (reader, id, stream, version) VALUES (r.name, e.id, e.stream, e.version);
            r.at := e.position;
            more := r.name = 'one';
        END LOOP;
        EXIT WHEN NOT more;
    END LOOP;
    UPDATE t.reader SET at = r.at WHERE name = r.name;
    RETURN array_to_string(given, ' ');
END $$;

-- what a reader, or a subscription of that name, is about
CREATE FUNCTION t.selects(reader text, stream text, type text, tags text[]) RETURNS boolean LANGUAGE sql AS $$
    SELECT coalesce(CASE split_part(reader, ' ', 1)
        WHEN 'a' THEN stream LIKE 'a-%'
        WHEN 'b' THEN stream LIKE 'b-%'
        WHEN 'types' THEN type = 'T'
        WHEN 'tags' THEN tags @> '{t}'
        WHEN 'streams' THEN stream IN ('a-1', 'a-3', 'b-3')
        WHEN 'narrow' THEN stream LIKE 'b-%' AND type = 'T'
        WHEN 'query' THEN type = 'T' AND tags @> '{t}' OR tags @> '{u}'
        ELSE true END, false)
$$;

-- what went wrong, for whom; no row when all is over and everybody has polled
CREATE FUNCTION t.faults() RETURNS TABLE (reader text, fault text, what text) LANGUAGE sql AS $$
    SELECT r.name, 'lost', format('%s/%s', e.stream, e.version)
    FROM t.reader r, evtstore.events e
    WHERE t.selects(r.name, e.stream, e.type, e.tags)
      AND NOT EXISTS (SELECT FROM t.seen s WHERE s.reader = r.name AND s.id = e.id)
    UNION ALL
    SELECT s.reader, 'not selected', format('%s/%s', e.stream, e.version)
    FROM t.seen s JOIN evtstore.events e USING (id) WHERE NOT t.selects(s.reader, e.stream, e.type, e.tags)
    UNION ALL
    SELECT s.reader, 'twice', format('%s/%s', s.stream, s.version)
    FROM t.seen s GROUP BY s.reader, s.id, s.stream, s.version HAVING count(*) > 1
    UNION ALL
    SELECT s.reader, 'taken back', format('%s/%s', s.stream, s.version)
    FROM t.seen s WHERE NOT EXISTS (SELECT FROM evtstore.events e WHERE e.id = s.id)
    UNION ALL
    SELECT s.reader, 'order', format('%s/%s after %s', s.stream, s.version, s.before)
    FROM (SELECT *, lag(version) OVER (PARTITION BY seen.reader, stream ORDER BY n) AS before FROM t.seen) s
    WHERE s.before > s.version
    ORDER BY 1, 2, 3
$$;

-- Subscriptions in place of the readers, after t.reset(): for each kind of filter one that c1 consumes alone, and one whose
-- name ends in ' 2' that c1 and c2 share; 'late' is for who comes when all is over.  With two consumers each has a lane.
CREATE PROCEDURE t.subscribe() LANGUAGE plpgsql AS $$
DECLARE
    filters jsonb := '{"every": {}, "a": {"categories": ["a"]}, "types": {"types": ["T"]}, "tags": {"tags": ["t"]},
        "streams": {"streams": ["a-1", "a-3", "b-3"]}, "narrow": {"categories": ["b"], "types": ["T"]},
        "query": {"items": [{"types": ["T"], "tags": ["t"]}, {"tags": ["u"]}]}}';
BEGIN
    DELETE FROM t.reader;
    INSERT INTO t.reader (name) SELECT name || suffix FROM jsonb_object_keys(filters) name, unnest(ARRAY['', ' 2']) suffix UNION ALL SELECT 'late';
    PERFORM evtstore.create_subscription(name, coalesce(filters->split_part(name, ' ', 1), '{}'), start_at => 'end', lanes => 2,
        options => '{"retry": {"max_attempts": 0, "initial": "0", "jitter": 0}}') FROM t.reader;
    FOR i IN 1..2 LOOP
        CALL t.consume('c1');
        CALL t.consume('c2');
    END LOOP;
END $$;

-- polls the subscriptions of that consumer and settles what they give, in one transaction
CREATE PROCEDURE t.consume(consumer text, max_count int DEFAULT 100) LANGUAGE plpgsql AS $$
DECLARE
    r t.reader; d evtstore.delivery; receipts text[] := '{}';
BEGIN
    FOR r IN SELECT * FROM t.reader
             WHERE CASE consumer WHEN 'c1' THEN name <> 'late' WHEN 'c2' THEN name LIKE '% 2' ELSE name = 'late' END ORDER BY name LOOP
        FOR d IN SELECT * FROM evtstore.poll(r.name, consumer, max_count, '1 hour') LOOP
            INSERT INTO t.seen (reader, id, stream, version, position) VALUES (r.name, d.event_id, d.stream, d.version, d.position);
            receipts := receipts || d.receipt;
        END LOOP;
    END LOOP;
    PERFORM evtstore.ack(receipts);
END $$;

-- what the subscriptions gave since the last look, in order of position
CREATE FUNCTION t.given(OUT "every" text, OUT a text, OUT types text, OUT tags text, OUT streams text, OUT narrow text, OUT query text)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT t.given_by('every'), t.given_by('a'), t.given_by('types'), t.given_by('tags'), t.given_by('streams'), t.given_by('narrow'), t.given_by('query')
    INTO "every", a, types, tags, streams, narrow, query;
    UPDATE t.seen SET shown = true WHERE NOT shown;
END $$;

-- by one consumer and by two: the same, or both
CREATE FUNCTION t.given_by(name text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN one IS NOT DISTINCT FROM two THEN one ELSE format('one: %s; two: %s', one, two) END
    FROM (SELECT string_agg(event, ' ' ORDER BY position) FILTER (WHERE reader = name) AS one,
                 string_agg(event, ' ' ORDER BY position) FILTER (WHERE reader = name || ' 2') AS two
          FROM (SELECT *, coalesce(stream || '/' || version, 'no stream') AS event FROM t.seen WHERE NOT shown) s) g
$$;

-- the version, or how the append failed
CREATE FUNCTION t.try_append(stream text, expected bigint DEFAULT NULL, id uuid DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; detail text;
BEGIN
    RETURN (evtstore.append(stream, 'T', '{}', expected_version => expected, id => id)).version;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
    RETURN state || CASE WHEN state = 'ST001' THEN ' ' || detail ELSE '' END;
END $$;

-- one event for each of 'stream=expected', none with '!'; the versions, or how the append failed
CREATE FUNCTION t.try_append_streams(parts text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; detail text;
BEGIN
    RETURN (SELECT string_agg(format('%s/%s', r.stream, r.version), ' ') FROM evtstore.append_streams((
        SELECT jsonb_agg(jsonb_build_object('stream', split_part(p, '=', 1), 'expected_version', rtrim(split_part(p, '=', 2), '!')::int,
                'events', CASE WHEN p LIKE '%!' THEN '[]'::jsonb ELSE jsonb_build_array(jsonb_build_object('type', 'T', 'data', 1)) END))
        FROM unnest(string_to_array(parts, ' ')) p)) r);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
    RETURN state || CASE WHEN state = 'ST001' THEN ' ' || detail ELSE '' END;
END $$;

-- the first call appends, the second one fails
CREATE FUNCTION t.append_if_or_fail(i int, query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    item jsonb := jsonb_build_object('types', to_jsonb(array_remove(ARRAY[split_part(query, '/', 1)], '')), 'tags', to_jsonb(array_remove(ARRAY[split_part(query, '/', 2)], '')));
BEGIN
    RETURN (SELECT position FROM evtstore.append_if(
        jsonb_build_array(jsonb_build_object('type', 'A', 'data', i, 'tags', jsonb_build_array('x'))), jsonb_build_object('items', jsonb_build_array(item))));
END $$;
CREATE FUNCTION t.append_or_fail(i int) RETURNS bigint LANGUAGE sql AS $$
    SELECT version FROM evtstore.append('a-1', 'T', '1', expected_version => 0, tags => ARRAY['no-' || i]) $$;

-- events n to m with ids of their own, as an append of that kind; what was answered
CREATE FUNCTION t.retry(kind text, n int, m int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    events jsonb := (SELECT jsonb_agg(jsonb_build_object('type', 'T', 'data', i, 'tags', jsonb_build_array('x'),
                            'id', format('00000000-0000-7000-8000-%s', lpad(i::text, 12, '0'))) ORDER BY i) FROM generate_series(n, m) i);
    own jsonb := jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', jsonb_build_array('x'))));
    other jsonb := jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', jsonb_build_array('y'))));
    rows evtstore.append_result[];
BEGIN
    CASE kind
        WHEN 'streams' THEN
            rows := ARRAY(SELECT r FROM evtstore.append_streams((SELECT jsonb_agg(jsonb_build_object('stream', 'a-' || i, 'expected_version', 0,
                'events', jsonb_build_array(e))) FROM jsonb_array_elements(events) WITH ORDINALITY j(e, i))) r);
        WHEN 'if' THEN rows := ARRAY(SELECT r FROM evtstore.append_if(events, own) r);
        WHEN 'if free' THEN rows := ARRAY(SELECT r FROM evtstore.append_if(events, other) r);
        WHEN 'if stream' THEN rows := ARRAY(SELECT r FROM evtstore.append_if(events, own, stream => 'a-1') r);
    END CASE;
    RETURN (SELECT string_agg(format('%s/%s%s', r.stream, r.version, CASE WHEN r.duplicate THEN ' again' ELSE ' written' END), ', ') FROM unnest(rows) r);
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

-- one event without a stream, unless another matches.  tags: 'x,y'; query: items as 'type/tag', 'type/', '/tag', '*' for {}
CREATE FUNCTION t.try_append_if(type text, tags text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    items jsonb;
BEGIN
    SELECT jsonb_agg(jsonb_build_object('types', jsonb_build_array(nullif(split_part(i, '/', 1), '')),
                                                          'tags', jsonb_build_array(nullif(split_part(i, '/', 2), ''))))
    INTO items FROM unnest(string_to_array(query, ' ')) i;
    items := replace(items::text, '[null]', '[]');
    PERFORM evtstore.append_if(
        jsonb_build_array(jsonb_build_object('type', type, 'data', jsonb_build_object(), 'tags', to_jsonb(string_to_array(tags, ',')))),
        CASE query WHEN '*' THEN jsonb_build_object() ELSE jsonb_build_object('items', items) END);
    RETURN 'appended';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

-- what a statement returns, or the error that it ends with
CREATE FUNCTION t.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text; state text; detail text;
BEGIN
    EXECUTE command INTO result;
    RETURN result;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' ', state, detail);
END $$;

-- does what the HINT of a failing append says
CREATE FUNCTION t.follow_hint(stream text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    PERFORM evtstore.append(stream, 'T', '{}');
    RETURN 'appended';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    EXECUTE (regexp_match(hint, 'SELECT[^;]*'))[1];
    RETURN 'repaired';
END $$;
