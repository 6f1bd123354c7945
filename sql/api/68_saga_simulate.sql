CREATE OR REPLACE FUNCTION evtstore.simulate_saga(name text, input jsonb, script jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_simulate_saga';
COMMENT ON FUNCTION evtstore.simulate_saga IS
'Runs an instance of a saga to its end in this call, with answers from the script and a clock that leaps to what is due next, and undoes all of it; returns what happened: status,
output, error, steps, commands, undone, duration (s). script: {"STATE": answer, "STATE.undo": answer}; an answer is {"output": ...}, {"error": "NAME", "cause", "retryable"}, of a signal
{"signal": ...}, each with "after" (s); "timeout"; or a list, one for each time that is asked, the last for all that follow. Commands of which it says nothing succeed; sql: and event:
steps are really done, and undone. Errors: ST008, 22023 the script does not fit the definition.';
