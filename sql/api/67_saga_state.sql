CREATE OR REPLACE FUNCTION evtstore.test_state(state jsonb, input jsonb DEFAULT '{}', options jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'evtstore_test_state';
COMMENT ON FUNCTION evtstore.test_state IS
'What one state of a saga would do with an input, without an instance: {"status","input","output","next","error","cause","retry_after"}, of a Map "items", of a Wait "seconds" or "timestamp".
status: SUCCEEDED, FAILED, RETRY, CAUGHT. Options: "result" of a Task, Parallel or Map, or its "error" and "cause"; "context"; "retries" so far. Writes and calls nothing.
Errors: ST009 the state is invalid, 22023, 22004.';
