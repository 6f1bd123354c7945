CREATE OR REPLACE FUNCTION evtstore.guard_step(idempotency_key text, direction text)
RETURNS TABLE (decision text, output jsonb) ROWS 1
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_guard_step';
COMMENT ON FUNCTION evtstore.guard_step IS
'What a worker of a saga asks before it does (direction ''do'', the command''s idempotency_key) or undoes something (''undo'', its forward_key), in the transaction
of the effect. run: go on, an undo with the output of what it undoes; duplicate: it is done, with its output; rejected: a do whose undo came before: never; empty: an undo of what
was not done: nothing to do, and a later do is rejected. A second caller waits for the first. Kept for evtstore.guard_retention. Errors: 22004, 22023, 40001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.guard_output(idempotency_key text, output jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_guard_output';
COMMENT ON FUNCTION evtstore.guard_output IS
'Keeps what came of a step that guard_step told this transaction to run, for who asks again, and for the undo. Errors: 22004, 22023, 55000 it was not told so.';

CREATE OR REPLACE FUNCTION evtstore_internal.trim_guarded_steps(max_count int)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_trim_guarded_steps';
COMMENT ON FUNCTION evtstore_internal.trim_guarded_steps IS
    'deletes steps that guard_step has met and that are older than evtstore.guard_retention, the oldest first, at most so many; the janitor does';
