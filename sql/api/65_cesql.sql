CREATE OR REPLACE FUNCTION evtstore_internal.cesql_evaluate(expression text, event jsonb) RETURNS jsonb
LANGUAGE C STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'evtstore_cesql_evaluate';
COMMENT ON FUNCTION evtstore_internal.cesql_evaluate IS
'an expression of CESQL against a CloudEvent in JSON: {"result","error"}, for test/cesql_conformance; 22023 where it cannot be parsed';
