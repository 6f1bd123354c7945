--
-- The guard of who takes part in sagas: guard_step and guard_output, in every order of do and undo. Who waits for whom is in the isolation
-- spec participant; workers that use it are in 104_saga_samples.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET evtstore.test_mode = on;

-- done once; who asks again is told what came of it
BEGIN;
SELECT * FROM evtstore.guard_step('s/1', 'do');
SELECT evtstore.guard_output('s/1', '{"id": "r-1"}');
COMMIT;
SELECT * FROM evtstore.guard_step('s/1', 'do');
SELECT (evtstore.guard_step(direction => 'do', idempotency_key => 's/1')).*;
-- its undo gets that, too, and is done once
BEGIN;
SELECT * FROM evtstore.guard_step('s/1', 'undo');
SELECT evtstore.guard_output('s/1', '{"back": true}');
COMMIT;
SELECT * FROM evtstore.guard_step('s/1', 'undo');
-- what was undone is not done again
SELECT * FROM evtstore.guard_step('s/1', 'do');
SELECT * FROM evtstore.guard_step('s/1', 'undo');

-- the undo first: there is nothing to undo, however often it asks, and the do is refused for ever
SELECT * FROM evtstore.guard_step('s/2', 'undo');
SELECT * FROM evtstore.guard_step('s/2', 'undo');
SELECT * FROM evtstore.guard_step('s/2', 'do');
SELECT * FROM evtstore.guard_step('s/2', 'do');
SELECT * FROM evtstore.guard_step('s/2', 'undo');

-- without an output; JSON null is one
SELECT * FROM evtstore.guard_step('s/3', 'do');
SELECT * FROM evtstore.guard_step('s/3', 'do');
SELECT * FROM evtstore.guard_step('s/3', 'undo');
SELECT * FROM evtstore.guard_step('s/3', 'undo');
BEGIN;
SELECT * FROM evtstore.guard_step('s/4', 'do');
SELECT evtstore.guard_output('s/4', 'null');
COMMIT;
SELECT * FROM evtstore.guard_step('s/4', 'do');
-- a large one
BEGIN;
SELECT decision FROM evtstore.guard_step('s/5', 'do');
SELECT evtstore.guard_output('s/5', to_jsonb(repeat('x', 1000000)));
COMMIT;
SELECT decision, length(output #>> '{}') FROM evtstore.guard_step('s/5', 'undo');

-- do and undo in one transaction; each output is that of its direction
BEGIN;
SELECT * FROM evtstore.guard_step('s/6', 'do');
SELECT evtstore.guard_output('s/6', '1');
SELECT evtstore.guard_output('s/6', '2');
SELECT * FROM evtstore.guard_step('s/6', 'do');
SELECT * FROM evtstore.guard_step('s/6', 'undo');
SELECT evtstore.guard_output('s/6', '3');
SELECT * FROM evtstore.guard_step('s/6', 'undo');
COMMIT;
-- in one statement
SELECT d, g.* FROM unnest('{do,do,undo,undo,do}'::text[]) d, evtstore.guard_step('s/7', d) g;

-- a rollback leaves nothing, nor does one to a savepoint
BEGIN;
SELECT * FROM evtstore.guard_step('s/8', 'do');
ROLLBACK;
BEGIN;
SAVEPOINT one;
SELECT * FROM evtstore.guard_step('s/8', 'do');
SELECT evtstore.guard_output('s/8', '1');
ROLLBACK TO one;
SELECT fails($$SELECT evtstore.guard_output('s/8', '2')$$);
SELECT * FROM evtstore.guard_step('s/8', 'undo');
ROLLBACK TO one;
SELECT * FROM evtstore.guard_step('s/8', 'do');
SAVEPOINT two;
SELECT * FROM evtstore.guard_step('s/8', 'undo');
ROLLBACK TO two;
SAVEPOINT three;
SELECT evtstore.guard_output('s/8', '4');
RELEASE three;
COMMIT;
SELECT * FROM evtstore.guard_step('s/8', 'do');

-- only who was told to run keeps an output, and nothing else is written over
SELECT fails($$SELECT evtstore.guard_output('s/8', '5')$$);
SELECT fails($$SELECT evtstore.guard_output('never', '5')$$);
BEGIN;
SELECT * FROM evtstore.guard_step('s/8', 'do');
SELECT fails($$SELECT evtstore.guard_output('s/8', '5')$$);
SELECT * FROM evtstore.guard_step('s/9', 'undo');
SELECT fails($$SELECT evtstore.guard_output('s/9', '5')$$);
COMMIT;
SELECT * FROM evtstore.guard_step('s/8', 'do');

-- tenants have keys of their own
SET evtstore.tenant = 'a';
SELECT * FROM evtstore.guard_step('s/1', 'do');
BEGIN;
SELECT * FROM evtstore.guard_step('s/10', 'do');
SET evtstore.tenant = 'b';
SELECT fails($$SELECT evtstore.guard_output('s/10', '1')$$);
SELECT * FROM evtstore.guard_step('s/10', 'undo');
ROLLBACK;
RESET evtstore.tenant;

-- keys are compared exactly
SELECT * FROM evtstore.guard_step('S/1', 'do');
SELECT * FROM evtstore.guard_step('s/1 ', 'do');

-- bad input
SELECT fails($$SELECT evtstore.guard_step(NULL, 'do')$$);
SELECT fails($$SELECT evtstore.guard_step('', 'do')$$);
SELECT fails($$SELECT evtstore.guard_step(repeat('k', 2000), 'do')$$);
SELECT fails($$SELECT evtstore.guard_step('k', NULL)$$);
SELECT fails($$SELECT evtstore.guard_step('k', 'Do')$$);
SELECT fails($$SELECT evtstore.guard_output('k', NULL)$$);
BEGIN READ ONLY;
SELECT fails($$SELECT evtstore.guard_step('k', 'do')$$);
ROLLBACK;

-- REPEATABLE READ: its own is seen, what others did since is 40001 (spec)
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM evtstore.guard_step('s/11', 'do');
SELECT evtstore.guard_output('s/11', '1');
SELECT * FROM evtstore.guard_step('s/11', 'do');
SELECT * FROM evtstore.guard_step('s/11', 'undo');
SELECT * FROM evtstore.guard_step('s/1', 'do');
COMMIT;

-- kept for evtstore.guard_retention since it was changed last; whoever has one of them is not waited for
SELECT count(*) AS kept FROM evtstore_internal.guarded_step;
SELECT evtstore_internal.trim_guarded_steps(100);
SHOW evtstore.guard_retention;
SET evtstore.guard_retention = '10d';
SET evtstore.clock_offset = '6d';
SELECT * FROM evtstore.guard_step('s/4', 'undo');
SELECT * FROM evtstore.guard_step('s/8', 'do');
SET evtstore.clock_offset = '11d';
SELECT evtstore_internal.trim_guarded_steps(3), evtstore_internal.trim_guarded_steps(100) AS rest;
SELECT key, state FROM evtstore_internal.guarded_step;
SET evtstore.guard_retention = '4d';
SELECT evtstore_internal.trim_guarded_steps(100);
SELECT fails($$SELECT evtstore_internal.trim_guarded_steps(NULL)$$);
