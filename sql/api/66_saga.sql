CREATE OR REPLACE FUNCTION evtstore.define_saga(name text, definition jsonb)
RETURNS int
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_define_saga';
COMMENT ON FUNCTION evtstore.define_saga IS
'A version of a saga, as Amazon States Language with JSONPath and the key "Saga", or as a list of steps ([{"do": "queue:a", "undo": "queue:a_undo"}, ...]);
returns its number. New instances take the version that was defined last; those there are keep theirs. What equals an older version makes that one the
active one again. Functions (sql:schema.function, jsonb to jsonb) run as who defined the first version. All faults are told at once, in DETAIL; a NOTICE names
Tasks that say nothing of an undo. Errors: ST009, 42501 a saga of another role.';

CREATE OR REPLACE FUNCTION evtstore.drop_saga(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_saga';
COMMENT ON FUNCTION evtstore.drop_saga IS
'Forgets a saga with all its versions. Errors: ST008, 42501 a saga of another role.';

CREATE OR REPLACE FUNCTION evtstore.check_saga(definition json)
RETURNS TABLE (path text, fault text)
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'evtstore_check_saga';
COMMENT ON FUNCTION evtstore.check_saga IS
'What is wrong with a definition of a saga, a fault a row; no rows: nothing, as far as that can be known without the queues and functions that it names.
Also finds fields that are there twice.';

CREATE OR REPLACE FUNCTION evtstore.explain_definition(name text, version int DEFAULT NULL)
RETURNS text
LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_explain_definition';
COMMENT ON FUNCTION evtstore.explain_definition IS
'A version of a saga, by default the active one, as a Mermaid flowchart: Choice states are diamonds, Parallel and Map states subgraphs, a pivot is a
hexagon, an undo hangs on a dashed edge. Errors: ST008.';
