--
-- position_at and read_stream(as_of): what belongs to a past moment, within a second, in one transaction, and for ever.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

CREATE TABLE moment (name text PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), answer bigint);

SELECT evtstore.position_at(clock_timestamp()) AS nothing_yet;
INSERT INTO moment (name) VALUES ('before');
SELECT position FROM evtstore.append('a-1', 'T', '1');
INSERT INTO moment (name) VALUES ('one');
SELECT position FROM evtstore.append('a-1', 'T', '2');
-- a gap: nobody's position
BEGIN;
SELECT position FROM evtstore.append('a-2', 'T', '0');
ROLLBACK;
INSERT INTO moment (name) VALUES ('two');
SELECT position FROM evtstore.append_events('a-2', '[{"type":"T","data":3},{"type":"T","data":4}]');
SELECT position FROM evtstore.append('a-1', 'T', '5');
INSERT INTO moment (name) VALUES ('six');

UPDATE moment SET answer = evtstore.position_at(at);
SELECT name, answer FROM moment ORDER BY at;
-- again, later: more events, another transaction, no ledger
SELECT position FROM evtstore.append('a-1', 'T', '6');
SELECT name, answer = evtstore.position_at(at) AS same FROM moment ORDER BY at;
DELETE FROM evtstore_internal.head;
SELECT name, answer = evtstore.position_at(at) AS same FROM moment ORDER BY at;
-- before there were clocks
SELECT evtstore.position_at('-infinity'), evtstore.position_at('1900-01-01'), evtstore.position_at('2001-01-01');
-- nothing that is decided needs a row
SELECT count(*) FROM evtstore_internal.closing;

--
-- read_stream(as_of)
--
SELECT m.name, (SELECT string_agg(version || ':' || data, ' ' ORDER BY version) FROM evtstore.read_stream('a-1', as_of => m.at)) AS forwards,
       (SELECT string_agg(version || ':' || data, ' ') FROM evtstore.read_stream('a-1', backwards => true, as_of => m.at)) AS backwards,
       (SELECT string_agg(version || ':' || data, ' ') FROM evtstore.read_stream('a-1', 1, as_of => m.at)) AS after_1,
       (SELECT string_agg(version || ':' || data, ' ') FROM evtstore.read_stream('a-1', 3, 1, true, m.at)) AS one_below_3
FROM moment m ORDER BY m.at;
SELECT count(*) FROM evtstore.read_stream('never', as_of => (SELECT at FROM moment WHERE name = 'six'));

--
-- in a transaction with events of its own: they are decided by its end, so they belong to no moment before it
--
BEGIN;
SELECT version FROM evtstore.append('b-1', 'T', '1');
INSERT INTO moment (name, answer) VALUES ('own', 0);
UPDATE moment SET answer = evtstore.position_at(at) WHERE name = 'own';
SELECT version FROM evtstore.append('b-1', 'T', '2');
SELECT count(*) AS all, (SELECT count(*) FROM evtstore.read_stream('b-1', as_of => (SELECT at FROM moment WHERE name = 'own'))) AS of_the_past
FROM evtstore.read_stream('b-1');
COMMIT;
SELECT answer, evtstore.position_at(at) = answer AS same FROM moment WHERE name = 'own';
SELECT count(*) AS closings FROM evtstore_internal.closing;
-- the answer stands though the transaction that got it did not
BEGIN;
SELECT version FROM evtstore.append('b-2', 'T', '1');
SELECT evtstore.position_at(clock_timestamp()) AS answer, clock_timestamp() AS at \gset
ROLLBACK;
SELECT version FROM evtstore.append('b-2', 'T', '1');
SELECT count(*) AS closings FROM evtstore_internal.closing;
-- so does what a savepoint asked
BEGIN;
SELECT version FROM evtstore.append('b-2', 'T', '2');
SAVEPOINT s;
SELECT clock_timestamp() AS at \gset
SELECT evtstore.position_at(:'at') AS answer \gset
ROLLBACK TO s;
COMMIT;
SELECT :answer = evtstore.position_at(:'at') AS same, (SELECT max(position) FROM evtstore.events) > :answer AS event_is_above;
-- of several with one position the last says it all
BEGIN;
SELECT version FROM evtstore.append('b-3', 'T', '1');
SELECT count(DISTINCT evtstore.position_at(clock_timestamp())) AS answers FROM generate_series(1, 5);
COMMIT;
SELECT count(*) AS closings FROM evtstore_internal.closing;
-- where nothing may be written, the answer is what is known so far
BEGIN;
SELECT version FROM evtstore.append('b-2', 'T', '3');
SELECT count(*) AS closings FROM evtstore_internal.closing \gset
SET TRANSACTION READ ONLY;
SELECT evtstore.position_at(clock_timestamp()) < (SELECT max(position) FROM evtstore.events) AS clamped,
       (SELECT count(*) FROM evtstore_internal.closing) = :closings AS nothing_written;
COMMIT;
SELECT evtstore.position_at(clock_timestamp()) = evtstore.head_position() AS settled;

--
-- REPEATABLE READ: the past does not depend on who looks, nor do events that came after the snapshot fall out of it
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) > 0 AS snapshot_taken FROM evtstore.events;
SELECT (SELECT answer FROM moment WHERE name = 'six') = evtstore.position_at((SELECT at FROM moment WHERE name = 'six')) AS same,
       (SELECT count(*) FROM evtstore.read_stream('a-1', as_of => (SELECT at FROM moment WHERE name = 'six')));
COMMIT;

--
-- trimming changes no answer
--
INSERT INTO evtstore_internal.head SELECT position, max(recorded_at) OVER (ORDER BY position) FROM evtstore_internal.event ON CONFLICT DO NOTHING;
UPDATE moment SET answer = evtstore.position_at(at);
SELECT count(*) > 10 AS many FROM evtstore_internal.head;
SELECT count(*) AS closings FROM evtstore_internal.closing;
SELECT evtstore_internal.ledger_trim(2);
-- the scheduler may add one meanwhile
SELECT evtstore_internal.ledger_trim(1000) > 0 AS trimmed, evtstore_internal.ledger_trim(1000) <= 1 AS again;
SELECT count(*) <= 2 AS few, max(position) >= (SELECT max(position) FROM evtstore_internal.event) AS with_the_newest FROM evtstore_internal.head;
SELECT name, answer = evtstore.position_at(at) AS same FROM moment ORDER BY at;
-- what an answer depends on stays: the moment ended below events that were recorded before it
SELECT count(*) > 1 AS closings_stay FROM evtstore_internal.closing;
SELECT :answer = evtstore.position_at(:'at') AS same;

--
-- errors
--
SELECT regexp_replace(fails($$SELECT evtstore.position_at(now() + interval '1 hour')$$), 'future: [^\n]*', 'future: ...');
SELECT regexp_replace(fails($$SELECT evtstore.read_stream('a-1', as_of => 'infinity')$$), 'future: [^\n]*', 'future: ...');
SELECT fails($$SELECT evtstore.position_at(NULL)$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT fails($$SELECT evtstore_internal.ledger_trim(10)$$);
COMMIT;

--
-- where the beginning of a stream is gone
--
SELECT clock_timestamp() AS late \gset
DELETE FROM evtstore_internal.event WHERE position IN (SELECT position FROM evtstore.read_stream('a-1') WHERE version <= 2);
SELECT fails(format('SELECT * FROM evtstore.read_stream(%L, as_of => %L)', 'a-1', :'late'));
SELECT fails(format('SELECT * FROM evtstore.read_stream(%L, 1, as_of => %L)', 'a-1', :'late'));
SELECT version FROM evtstore.read_stream('a-1', 2, as_of => :'late');
SELECT version FROM evtstore.read_stream('a-1', max_count => 2, backwards => true, as_of => :'late');
SELECT left(fails(format('SELECT * FROM evtstore.read_stream(%L, max_count => 3, backwards => true, as_of => %L)', 'a-1', :'late')), 5);
-- nothing tells which version it was
SELECT left(fails(format('SELECT * FROM evtstore.read_stream(%L, as_of => %L)', 'a-1', (SELECT at FROM moment WHERE name = 'one'))), 5);
-- but before it was made there was none
SELECT count(*) FROM evtstore.read_stream('a-1', as_of => (SELECT at FROM moment WHERE name = 'before'));
