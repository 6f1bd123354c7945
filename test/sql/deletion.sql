--
-- delete_stream and truncate_stream: what readers see, how versions go on, what appends may expect, every bad input.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET client_min_messages = warning;

-- what the readers of a stream see: its version, and the versions of its events
CREATE FUNCTION seen(stream text) RETURNS text LANGUAGE sql AS $$
    SELECT format('version %s: %s', evtstore.stream_version(stream),
                  coalesce((SELECT string_agg(version::text, ' ' ORDER BY version) FROM evtstore.read_stream(stream)), 'no event'))
$$;
CREATE FUNCTION add(stream text, n int) RETURNS bigint LANGUAGE sql AS $$
    SELECT version FROM evtstore.append_events(stream, (SELECT jsonb_agg('{"type": "T", "data": 1}'::jsonb) FROM generate_series(1, n)))
$$;
CREATE VIEW states AS
    SELECT s.name, t.status, t.truncate_before FROM evtstore_internal.stream_state t
    LEFT JOIN evtstore_internal.stream s ON s.id = t.stream_id ORDER BY t.position;

--
-- soft delete
--
SELECT add('cart-1', 3);
SELECT evtstore.delete_stream('cart-1');
SELECT seen('cart-1');
SELECT count(*) AS backwards FROM evtstore.read_stream('cart-1', backwards => true);
SELECT count(*) AS behind FROM evtstore.read_stream('cart-1', 2);
SELECT stream, version, status, truncate_before FROM evtstore.streams;
-- until they are scavenged the others show its events: the feed, the category, get_event, the view
SELECT (SELECT count(*) FROM evtstore.read_all()) AS feed, (SELECT count(*) FROM evtstore.read_category('cart')) AS category,
       (SELECT count(*) FROM evtstore.events) AS view,
       (SELECT count(*) FROM evtstore.events e, evtstore.get_event(e.id) g WHERE g.version IS NOT NULL) AS by_id;
-- a second time: nothing to do, no row
SELECT evtstore.delete_stream('cart-1');
SELECT evtstore.delete_stream('cart-1', expected_version => 0);
SELECT evtstore.delete_stream('cart-1', expected_version => 3);
SELECT fails($$SELECT evtstore.delete_stream('cart-1', expected_version => 2)$$);
SELECT * FROM states;

-- what may be expected of it
SELECT fails($$SELECT evtstore.append('cart-1', 'T', '1', expected_version => 2)$$);
SELECT fails($$SELECT evtstore.append('cart-1', 'T', '1', expected_version => 4)$$);
SELECT fails($$SELECT evtstore.append('cart-1', 'T', '1', require => 'exists')$$);
SELECT fails($$SELECT evtstore.append('cart-1', 'T', '1', expected_version => 2, require => 'deleted')$$);
-- only looked at: it stays deleted
SELECT first_version, version FROM evtstore.append_events('cart-1', '[]', require => 'deleted');
SELECT first_version, version FROM evtstore.append_events('cart-1', '[]', expected_version => 0);
SELECT fails($$SELECT evtstore.append_events('cart-1', '[]', require => 'exists')$$);
SELECT seen('cart-1');

-- undeleted by an append; the versions go on, what was there stays gone
SELECT first_version, version FROM evtstore.append('cart-1', 'Reopened', '1', require => 'deleted');
SELECT seen('cart-1');
SELECT fails($$SELECT evtstore.append('cart-1', 'T', '1', require => 'deleted')$$);
SELECT fails($$SELECT evtstore.append('cart-1', 'T', '1', expected_version => 0)$$);
SELECT version FROM evtstore.append('cart-1', 'T', '1', expected_version => 4, require => 'exists');
-- by 0, by the version, by neither
SELECT evtstore.delete_stream('cart-1', expected_version => 5);
SELECT version FROM evtstore.append('cart-1', 'T', '1', expected_version => 0);
SELECT evtstore.delete_stream('cart-1');
SELECT version FROM evtstore.append('cart-1', 'T', '1', expected_version => 6);
SELECT evtstore.delete_stream('cart-1');
SELECT version FROM evtstore.append('cart-1', 'T', '1');
SELECT seen('cart-1');
SELECT stream, version, status, truncate_before FROM evtstore.streams;
SELECT * FROM states;

-- what was never there
SELECT evtstore.delete_stream('cart-none');
SELECT evtstore.delete_stream('cart-none', expected_version => 0);
SELECT fails($$SELECT evtstore.delete_stream('cart-none', expected_version => 1)$$);
SELECT fails($$SELECT evtstore.append('cart-none', 'T', '1', require => 'deleted')$$);
SELECT fails($$SELECT evtstore.append('cart-none', 'T', '1', require => 'exists')$$);
SELECT seen('cart-none');

-- the version that is expected
SELECT add('cart-2', 2);
SELECT fails($$SELECT evtstore.delete_stream('cart-2', expected_version => 0)$$);
SELECT fails($$SELECT evtstore.delete_stream('cart-2', expected_version => 1)$$);
SELECT fails($$SELECT evtstore.delete_stream('cart-2', expected_version => 3)$$);
SELECT evtstore.delete_stream('cart-2', expected_version => 2);
SELECT seen('cart-2');

--
-- for ever
--
SELECT add('cart-3', 2);
SELECT evtstore.delete_stream('cart-3', hard => true, expected_version => 2);
SELECT seen('cart-3');
SELECT fails($$SELECT evtstore.append('cart-3', 'T', '1')$$);
SELECT fails($$SELECT evtstore.append('cart-3', 'T', '1', expected_version => 2)$$);
SELECT fails($$SELECT evtstore.append('cart-3', 'T', '1', require => 'deleted')$$);
SELECT fails($$SELECT evtstore.append_events('cart-3', '[]')$$);
SELECT fails($$SELECT evtstore.delete_stream('cart-3')$$);
SELECT fails($$SELECT evtstore.delete_stream('cart-3', hard => true, expected_version => 7)$$);
SELECT fails($$SELECT evtstore.truncate_stream('cart-3', 1)$$);
-- one that is deleted, one that was never there
SELECT evtstore.delete_stream('cart-2', hard => true);
SELECT fails($$SELECT evtstore.append('cart-2', 'T', '1')$$);
SELECT fails($$SELECT evtstore.delete_stream('cart-closed', hard => true, expected_version => 1)$$);
SELECT evtstore.delete_stream('cart-closed', hard => true, expected_version => 0);
SELECT fails($$SELECT evtstore.append('cart-closed', 'T', '1')$$);
SELECT seen('cart-closed');
SELECT stream, version, status, truncate_before FROM evtstore.streams ORDER BY stream;
-- the DETAIL is JSON whatever the name
SELECT evtstore.delete_stream(E'q"\\-1', hard => true);
SELECT fails($$SELECT evtstore.append(E'q"\\-1', 'T', '1')$$);

--
-- truncation
--
SELECT add('log-1', 5);
SELECT evtstore.truncate_stream('log-1', 3);
SELECT seen('log-1');
SELECT string_agg(version::text, ' ') AS after_3 FROM evtstore.read_stream('log-1', 3);
SELECT string_agg(version::text, ' ') AS after_1 FROM evtstore.read_stream('log-1', 1, 2);
SELECT string_agg(version::text, ' ') AS backwards FROM evtstore.read_stream('log-1', backwards => true);
SELECT string_agg(version::text, ' ') AS below_4 FROM evtstore.read_stream('log-1', 4, backwards => true);
-- lower or equal: no change, no row
SELECT evtstore.truncate_stream('log-1', 2);
SELECT evtstore.truncate_stream('log-1', 3);
SELECT evtstore.truncate_stream('log-1', 1);
SELECT evtstore.truncate_stream('log-1', 0);
SELECT * FROM states WHERE name = 'log-1';
-- it is there, however much is gone
SELECT evtstore.truncate_stream('log-1', 6);
SELECT seen('log-1');
SELECT fails($$SELECT evtstore.append('log-1', 'T', '1', expected_version => 0)$$);
SELECT fails($$SELECT evtstore.append('log-1', 'T', '1', require => 'deleted')$$);
SELECT version FROM evtstore.append('log-1', 'T', '1', expected_version => 5, require => 'exists');
SELECT seen('log-1');
-- above the end
SELECT fails($$SELECT evtstore.truncate_stream('log-1', 8)$$);
SELECT fails($$SELECT evtstore.truncate_stream('log-none', 2)$$);
SELECT evtstore.truncate_stream('log-none', 1);
-- of a deleted one nothing is left to cut, and it stays deleted
SELECT evtstore.delete_stream('log-1');
SELECT evtstore.truncate_stream('log-1', 7);
SELECT fails($$SELECT evtstore.truncate_stream('log-1', 8)$$);
SELECT version FROM evtstore.append('log-1', 'T', '1', require => 'deleted');
SELECT seen('log-1');
SELECT * FROM states WHERE name = 'log-1';

--
-- bad input
--
SELECT fails($$SELECT evtstore.delete_stream(NULL)$$);
SELECT fails($$SELECT evtstore.delete_stream('')$$);
SELECT fails($$SELECT evtstore.delete_stream(repeat('s', 1025))$$);
SELECT fails($$SELECT evtstore.delete_stream('s-1', expected_version => -1)$$);
SELECT evtstore.delete_stream('s-1', hard => NULL);
SELECT fails($$SELECT evtstore.truncate_stream(NULL, 1)$$);
SELECT fails($$SELECT evtstore.truncate_stream('', 1)$$);
SELECT fails($$SELECT evtstore.truncate_stream('s-1', NULL)$$);
SELECT fails($$SELECT evtstore.truncate_stream('s-1', -1)$$);
BEGIN READ ONLY;
SELECT fails($$SELECT evtstore.delete_stream('s-1')$$);
SELECT fails($$SELECT evtstore.truncate_stream('s-1', 1)$$);
COMMIT;

--
-- savepoints and rollbacks: what is taken back was never so
--
SELECT add('sp-1', 2);
BEGIN;
SAVEPOINT a;
SELECT evtstore.delete_stream('sp-1');
SELECT seen('sp-1');
-- the undeletion is taken back first, then the deletion
SAVEPOINT b;
SELECT version FROM evtstore.append('sp-1', 'T', '1', require => 'deleted');
SELECT seen('sp-1');
ROLLBACK TO b;
SELECT seen('sp-1');
SELECT fails($$SELECT evtstore.append('sp-1', 'T', '1', require => 'exists')$$);
ROLLBACK TO a;
SELECT seen('sp-1');
SELECT fails($$SELECT evtstore.append('sp-1', 'T', '1', require => 'deleted')$$);
SELECT version FROM evtstore.append('sp-1', 'T', '1', expected_version => 2, require => 'exists');
COMMIT;
SELECT seen('sp-1');
BEGIN;
SELECT evtstore.delete_stream('sp-1', hard => true);
SELECT fails($$SELECT evtstore.append('sp-1', 'T', '1')$$);
ROLLBACK;
SELECT version FROM evtstore.append('sp-1', 'T', '1');
-- all in one transaction
BEGIN;
SELECT evtstore.truncate_stream('sp-1', 3);
SELECT evtstore.delete_stream('sp-1');
SELECT version FROM evtstore.append('sp-1', 'T', '1');
SELECT evtstore.truncate_stream('sp-1', 6);
SELECT version FROM evtstore.append('sp-1', 'T', '1');
SELECT seen('sp-1');
COMMIT;
SELECT seen('sp-1');
SELECT * FROM states WHERE name = 'sp-1';
-- an exception block is a savepoint
DO $$
BEGIN
    PERFORM evtstore.delete_stream('sp-1');
    RAISE EXCEPTION 'no';
EXCEPTION WHEN raise_exception THEN
    PERFORM evtstore.append('sp-1', 'T', '1', require => 'exists');
END $$;
SELECT seen('sp-1');

--
-- the position of a deletion is one of the store: it comes between those of the events, and the feed passes over it
--
SELECT bool_and(t.position > e.last AND t.position < e.next) AS between, count(*)
FROM evtstore_internal.stream_state t
JOIN evtstore_internal.stream s ON s.id = t.stream_id AND s.name = 'cart-1',
LATERAL (SELECT max(position) FILTER (WHERE position < t.position) AS last, min(position) FILTER (WHERE position > t.position) AS next
         FROM evtstore.events) e;
SELECT count(*) = (SELECT count(*) FROM evtstore.events) AS complete,
       evtstore.head_position() = (SELECT last_value FROM evtstore_internal.position_seq) AS head_passes
FROM evtstore.read_all();

--
-- a retry: known while the events are there, whatever was deleted
--
SELECT version, duplicate FROM evtstore.append('retry-1', 'T', '1', 0, id => '00000000-0000-7000-8000-000000000001');
SELECT version, duplicate FROM evtstore.append('retry-1', 'T', '2', 1, id => '00000000-0000-7000-8000-000000000002');
SELECT evtstore.delete_stream('retry-1');
SELECT version, duplicate FROM evtstore.append('retry-1', 'T', '1', 0, id => '00000000-0000-7000-8000-000000000001');
SELECT seen('retry-1');
-- known no longer when they are scavenged: by its expectation it is a conflict, or a new event
SELECT evtstore.scavenge() > 0 AS scavenged;
SELECT fails($$SELECT evtstore.append('retry-1', 'T', '2', 1, id => '00000000-0000-7000-8000-000000000002')$$);
SELECT version, duplicate FROM evtstore.append('retry-1', 'T', '1', 0, id => '00000000-0000-7000-8000-000000000001');
SELECT seen('retry-1');

--
-- tenants: each has its own stream
--
SET evtstore.tenant = 'acme';
SELECT add('cart-9', 2);
SET evtstore.tenant = 'other';
SELECT add('cart-9', 1);
SELECT evtstore.delete_stream('cart-9', hard => true);
SELECT seen('cart-9');
SELECT stream, version, status FROM evtstore.streams;
SET evtstore.tenant = 'acme';
SELECT seen('cart-9');
SELECT version FROM evtstore.append('cart-9', 'T', '1', 2);
SELECT stream, version, status FROM evtstore.streams;
RESET evtstore.tenant;

--
-- nobody writes to the tables below superuser
--
CREATE ROLE regress_deletion;
GRANT pg_write_all_data, pg_read_all_data TO regress_deletion;
SET ROLE regress_deletion;
SELECT fails($$INSERT INTO evtstore_internal.stream_state VALUES (1, 1, 1, now(), 'live')$$);
SELECT fails($$DELETE FROM evtstore_internal.stream_state$$);
SELECT fails($$UPDATE evtstore_internal.policy SET max_count = 1$$);
SELECT fails($$SELECT evtstore.delete_stream('cart-1')$$);
RESET ROLE;
DROP ROLE regress_deletion;

--
-- several streams in one append: each by its own state; a part that undeletes is seen by the next one
--
SELECT add('m-1', 2), add('m-2', 2), add('m-3', 2);
SELECT evtstore.delete_stream('m-1'), evtstore.delete_stream('m-2', hard => true);
SELECT fails($$SELECT evtstore.append_streams('[{"stream": "m-3", "events": [{"type": "T", "data": 1}]}, {"stream": "m-2", "events": []}]')$$);
SELECT fails($$SELECT evtstore.append_streams('[{"stream": "m-1", "events": [{"type": "T", "data": 1}], "require": "deleted"},
    {"stream": "m-3", "events": [], "require": "deleted"}]')$$);
SELECT seen('m-1'), seen('m-3');
SELECT fails($$SELECT evtstore.append_streams('[{"stream": "m-1", "events": [{"type": "T", "data": 1}], "require": "deleted"},
    {"stream": "m-1", "events": [{"type": "T", "data": 1}], "require": "deleted"}]')$$);
SELECT stream, first_version, version FROM evtstore.append_streams('[{"stream": "m-1", "events": [], "require": "deleted"},
    {"stream": "m-1", "events": [{"type": "T", "data": 1}], "expected_version": 0},
    {"stream": "m-3", "events": [{"type": "T", "data": 1}], "require": "exists"},
    {"stream": "m-1", "events": [{"type": "T", "data": 1}], "require": "exists", "expected_version": 3}]');
SELECT seen('m-1'), seen('m-3');
SELECT * FROM states WHERE name = 'm-1';
