--
-- Names of streams, categories and types: what is a category, bytes and not letters, names that look alike.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- the category is the text before the first '-'; without one, the whole name; it may be empty
CREATE TABLE names (n serial, name text);
INSERT INTO names (name) VALUES ('order-1'), ('order'), ('order-1-2'), ('order-'), ('orders-1'), ('Order-1'), ('-1'), ('-'), ('--'),
    (' order-1'), ('order -1'), ('order-1 '), ('Bestellung-ß-1'), ('größe-1'), ('größe'), ('😀-1'), (E'tab\t-1'), (E'line\n-1'),
    ('quote''"\-1'), ('%-1'), ('_-1'), ('123'), ('0-1'),
    -- the same letter, composed and not: other bytes, another name
    (E'\u00e9t\u00e9-1'), (E'e\u0301te\u0301-1');
SELECT count(*) FROM names, evtstore.append(name, 'T', to_jsonb(n), 0);
SELECT name, category, version FROM evtstore.streams JOIN names ON name = stream ORDER BY n;
SELECT count(*) AS streams, sum((SELECT count(*) FROM evtstore.read_stream(name))) AS events,
       bool_and((SELECT data = to_jsonb(n) FROM evtstore.read_stream(name))) AS own_ones
FROM names;
SELECT category, count(*) AS streams, (SELECT array_agg(e.stream ORDER BY e."position") FROM evtstore.read_category(category) e) AS read
FROM evtstore.streams WHERE category <> '' GROUP BY category ORDER BY category COLLATE "C";
-- streams whose name begins with '-' have an empty category, which no read names
SELECT fails($$SELECT evtstore.read_category('')$$);
SELECT fails($$SELECT evtstore.read_category('order-1')$$);
SELECT fails($$SELECT evtstore.read_category('-')$$);
SELECT count(*) FROM evtstore.read_category('orde');
SELECT count(*) FROM evtstore.read_category('order%');

-- a name is 1024 bytes, and as much of it may be the category; names that differ in the last byte only
SELECT version FROM evtstore.append(repeat('c', 1024), 'T', '1', 0);
SELECT version FROM evtstore.append(repeat('c', 1023) || 'd', 'T', '2', 0);
SELECT version FROM evtstore.append(repeat('ü', 511) || '-1', 'T', '3', 0);
SELECT count(*), min(data::text) FROM evtstore.read_category(repeat('c', 1024));
SELECT count(*), min(data::text) FROM evtstore.read_category(repeat('c', 1023) || 'd');
SELECT count(*), min(data::text) FROM evtstore.read_category(repeat('ü', 511));

-- many streams in one session: more than a backend remembers, each with its own versions
DO $$
BEGIN
    FOR n IN 1..25000 LOOP
        PERFORM evtstore.append('many-' || n, 'T', to_jsonb(n), 0);
        -- a transaction holds a lock for each of its streams
        IF n % 1000 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$;
SELECT count(*), sum(version) FROM generate_series(1, 25000, 50) n, evtstore.append('many-' || n, 'T', to_jsonb(n), 1);
SELECT version, count(*) FROM evtstore.streams WHERE category = 'many' GROUP BY version ORDER BY version;
SELECT count(*) FROM evtstore.read_category('many') WHERE stream <> 'many-' || (data #>> '{}');
SELECT count(*) FROM evtstore.read_category('many') WHERE version = 2;

-- streams that lie side by side in the table, with ids that a session cannot remember side by side: each has its own name
DO $$
BEGIN
    FOR n IN 1..40 LOOP
        PERFORM setval('evtstore_internal.stream_id_seq', last_value + 16382) FROM evtstore_internal.stream_id_seq;
        PERFORM evtstore.append('far-' || n || '-' || letter, 'T', to_jsonb('far-' || n || '-' || letter), 0)
        FROM unnest('{a,b}'::text[]) letter;
    END LOOP;
END $$;
\connect
SELECT count(*), count(*) FILTER (WHERE stream = data #>> '{}') AS own_ones FROM evtstore.read_category('far');
SELECT count(*), count(*) FILTER (WHERE stream = data #>> '{}') AS own_ones FROM evtstore.read_category('far', backwards => true);

-- tenants have categories of their own
SET evtstore.tenant = 'ü''"';
SELECT * FROM evtstore.read_category('order');
SELECT tenant, stream, version FROM evtstore.append('order-1', 'T', '"of a tenant"', 0), current_setting('evtstore.tenant') AS tenant;
SELECT tenant, stream, data FROM evtstore.read_category('order');
SET evtstore.tenant = 'ü';
SELECT tenant, stream, data FROM evtstore.read_category('order');
RESET evtstore.tenant;
SELECT count(*) FROM evtstore.read_category('order');
