CREATE OR REPLACE FUNCTION evtstore.begin_command(scope text, key text, fingerprint text DEFAULT NULL)
RETURNS TABLE (first boolean, result jsonb) ROWS 1
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_begin_command';
COMMENT ON FUNCTION evtstore.begin_command IS
'Begins an idempotent command: first is true where nobody has finished it, else result is what was kept. A second caller waits for the
first to the end of its transaction. Errors: ST004 finished with another fingerprint, 55000 begun by this transaction already.';

CREATE OR REPLACE FUNCTION evtstore.finish_command(scope text, key text, result jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_finish_command';
COMMENT ON FUNCTION evtstore.finish_command IS
'Keeps the result of a command that this transaction has begun; it commits with the transaction, and later callers of begin_command get
it for evtstore.command_retention. Errors: 55000 not begun by this transaction, or finished already.';

CREATE OR REPLACE FUNCTION evtstore_internal.trim_commands(max_count int)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_trim_commands';
COMMENT ON FUNCTION evtstore_internal.trim_commands IS
    'deletes results of commands older than evtstore.command_retention, the oldest first, at most so many; the janitor does';
