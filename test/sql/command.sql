--
-- Idempotent commands: begin_command, finish_command, what is kept and for how long.  What waits for whom is in the
-- isolation spec command.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'

-- the first one is first, does its work and leaves the result; whoever asks again gets it
BEGIN;
SELECT * FROM evtstore.begin_command('orders', 'k1');
SELECT version FROM evtstore.append('order-1', 'Placed', '1');
SELECT evtstore.finish_command('orders', 'k1', '{"order": 1}');
COMMIT;
SELECT * FROM evtstore.begin_command('orders', 'k1');
SELECT (evtstore.begin_command(key => 'k1', scope => 'orders')).*;
-- scope and key are two things
SELECT first FROM evtstore.begin_command('other', 'k1');
SELECT first FROM evtstore.begin_command('orders', 'k');
SELECT first FROM evtstore.begin_command('order', 'sk1');

-- any JSON value is a result, JSON null too
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'null');
SELECT evtstore.finish_command('s', 'null', 'null');
SELECT first FROM evtstore.begin_command('s', 'big');
SELECT evtstore.finish_command('s', 'big', to_jsonb(repeat('x', 100000)));
SELECT first FROM evtstore.begin_command('s', 'number');
SELECT evtstore.finish_command('s', 'number', '9007199254740993.10');
COMMIT;
SELECT * FROM evtstore.begin_command('s', 'null');
SELECT first, length(result #>> '{}') FROM evtstore.begin_command('s', 'big');
SELECT * FROM evtstore.begin_command('s', 'number');

-- who forgets to finish, or rolls back, leaves nothing
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'forgotten');
COMMIT;
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'forgotten');
SELECT evtstore.finish_command('s', 'forgotten', '1');
ROLLBACK;
SELECT * FROM evtstore.begin_command('s', 'forgotten');

--
-- fingerprints: another one is refused; where one of the two callers gives none there is nothing to compare
--
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'f', 'abc');
SELECT evtstore.finish_command('s', 'f', '1');
SELECT first FROM evtstore.begin_command('s', 'g');
SELECT evtstore.finish_command('s', 'g', '2');
COMMIT;
SELECT * FROM evtstore.begin_command('s', 'f', 'abc');
SELECT * FROM evtstore.begin_command('s', 'f');
SELECT * FROM evtstore.begin_command('s', 'g', 'abc');
SELECT fails($$SELECT * FROM evtstore.begin_command('s', 'f', 'ab"c')$$);

--
-- within one transaction
--
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'twice');
SELECT fails($$SELECT * FROM evtstore.begin_command('s', 'twice')$$);
SELECT evtstore.finish_command('s', 'twice', '1');
-- after the finish it is a caller like others
SELECT * FROM evtstore.begin_command('s', 'twice');
SELECT fails($$SELECT evtstore.finish_command('s', 'twice', '2')$$);
COMMIT;
SELECT fails($$SELECT evtstore.finish_command('s', 'never', '1')$$);
SELECT first FROM evtstore.begin_command('s', 'earlier');
SELECT fails($$SELECT evtstore.finish_command('s', 'earlier', '1')$$);
-- who was given a result has nothing to finish
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'twice');
SELECT fails($$SELECT evtstore.finish_command('s', 'twice', '2')$$);
COMMIT;

-- savepoints: what was begun in one goes with it, and so does what was finished in it
BEGIN;
SAVEPOINT a;
SELECT first FROM evtstore.begin_command('s', 'save');
ROLLBACK TO a;
SELECT fails($$SELECT evtstore.finish_command('s', 'save', '1')$$);
SELECT first FROM evtstore.begin_command('s', 'save');
SAVEPOINT b;
SELECT evtstore.finish_command('s', 'save', '"undone"');
ROLLBACK TO b;
SAVEPOINT c;
SAVEPOINT d;
SELECT evtstore.finish_command('s', 'save', '"undone too"');
RELEASE d;
ROLLBACK TO c;
SAVEPOINT e;
SELECT first FROM evtstore.begin_command('s', 'released');
RELEASE e;
SAVEPOINT f;
ROLLBACK TO f;
SELECT evtstore.finish_command('s', 'released', '"kept"');
SELECT evtstore.finish_command('s', 'save', '"kept"');
COMMIT;
SELECT * FROM evtstore.begin_command('s', 'save');
SELECT * FROM evtstore.begin_command('s', 'released');

--
-- tenants: each has commands of its own, and what was begun for one is not finished for another
--
SET evtstore.tenant = 'acme';
BEGIN;
SELECT first FROM evtstore.begin_command('orders', 'k1');
SET LOCAL evtstore.tenant = 'other';
SELECT fails($$SELECT evtstore.finish_command('orders', 'k1', '1')$$);
SET LOCAL evtstore.tenant = 'acme';
SELECT evtstore.finish_command('orders', 'k1', '"acme"');
COMMIT;
SELECT * FROM evtstore.begin_command('orders', 'k1');
SET evtstore.tenant = 'other';
SELECT * FROM evtstore.begin_command('orders', 'k1');
RESET evtstore.tenant;
SELECT * FROM evtstore.begin_command('orders', 'k1');

--
-- time: a result is kept for evtstore.command_retention; then the command is new, whether the row is trimmed or not
--
SHOW evtstore.command_retention;
SET evtstore.clock_offset = '167h';
SELECT * FROM evtstore.begin_command('s', 'f', 'abc');
SET evtstore.clock_offset = '7d';
BEGIN;
SELECT * FROM evtstore.begin_command('s', 'f', 'another');
SELECT evtstore.finish_command('s', 'f', '"second"');
COMMIT;
SELECT * FROM evtstore.begin_command('s', 'f', 'another');
SELECT count(*) FROM evtstore_internal.command WHERE key = 'f';
SET evtstore.command_retention = '30d';
-- both are kept now: the newest counts
SELECT * FROM evtstore.begin_command('s', 'f', 'another');
SELECT evtstore_internal.trim_commands(100);
RESET evtstore.command_retention;
-- trimmed in small batches, the oldest first, and nothing that is kept
SELECT count(*) AS rows, count(*) FILTER (WHERE finished_at > evtstore_internal.clock() - interval '7d') AS kept FROM evtstore_internal.command;
SELECT evtstore_internal.trim_commands(2);
SELECT string_agg(key, ' ' ORDER BY finished_at, key) AS left FROM evtstore_internal.command WHERE key IN ('k1', 'null', 'f');
SELECT evtstore_internal.trim_commands(100);
SELECT tenant, scope, key, result FROM evtstore_internal.command;
SELECT evtstore_internal.trim_commands(100);
SELECT * FROM evtstore.begin_command('s', 'f', 'another');
RESET evtstore.clock_offset;

--
-- bad arguments
--
SELECT fails($$SELECT * FROM evtstore.begin_command(NULL, 'k')$$);
SELECT fails($$SELECT * FROM evtstore.begin_command('', 'k')$$);
SELECT fails($$SELECT * FROM evtstore.begin_command('s', NULL)$$);
SELECT fails($$SELECT * FROM evtstore.begin_command('s', '')$$);
SELECT fails($$SELECT * FROM evtstore.begin_command('s', 'k', '')$$);
SELECT left(fails($$SELECT * FROM evtstore.begin_command(repeat('s', 256), 'k')$$), 60);
SELECT left(fails($$SELECT * FROM evtstore.begin_command('s', repeat('k', 1025))$$), 60);
SELECT left(fails($$SELECT * FROM evtstore.begin_command('s', 'k', repeat('f', 1025))$$), 60);
SELECT fails($$SELECT evtstore.finish_command(NULL, 'k', '1')$$);
SELECT fails($$SELECT evtstore.finish_command('s', NULL, '1')$$);
SELECT fails($$SELECT evtstore.finish_command('s', 'k', NULL)$$);
SELECT fails($$SELECT evtstore_internal.trim_commands(NULL)$$);
-- the longest names fit
BEGIN;
SET LOCAL evtstore.tenant = 'x';
SELECT set_config('evtstore.tenant', repeat('t', 255), true) IS NOT NULL;
SELECT first FROM evtstore.begin_command(repeat('s', 255), repeat(md5('k'), 32), repeat('f', 1024));
SELECT evtstore.finish_command(repeat('s', 255), repeat(md5('k'), 32), '1');
ROLLBACK;
-- a transaction that cannot write cannot finish, so it is told at once
BEGIN READ ONLY;
SELECT fails($$SELECT * FROM evtstore.begin_command('s', 'k')$$);
SELECT fails($$SELECT evtstore.finish_command('s', 'k', '1')$$);
ROLLBACK;

-- the commit of a result is synchronous, whatever the setting: its transaction is flushed when COMMIT returns
SET synchronous_commit = off;
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'durable');
SELECT evtstore.finish_command('s', 'durable', '1');
SELECT pg_current_wal_insert_lsn() AS inserted \gset
COMMIT;
SELECT pg_current_wal_flush_lsn() > :'inserted' AS flushed;
RESET synchronous_commit;

-- roles
CREATE ROLE command_writer IN ROLE evtstore_writer;
CREATE ROLE command_reader IN ROLE evtstore_reader;
SET ROLE command_writer;
BEGIN;
SELECT first FROM evtstore.begin_command('s', 'role');
SELECT evtstore.finish_command('s', 'role', '1');
COMMIT;
SELECT fails($$SELECT evtstore_internal.trim_commands(1)$$);
SET ROLE command_reader;
SELECT fails($$SELECT * FROM evtstore.begin_command('s', 'k')$$);
SELECT fails($$SELECT evtstore.finish_command('s', 'k', '1')$$);
RESET ROLE;
DROP ROLE command_writer, command_reader;
