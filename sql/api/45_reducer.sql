CREATE OR REPLACE FUNCTION evtstore.create_reducer(name text, fn text, initial jsonb DEFAULT '{}', options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_reducer';
COMMENT ON FUNCTION evtstore.create_reducer IS
'Defines a fold over the events of a stream. fn: ''schema.function'' taking the state (jsonb) and an evtstore.event, returning the next state;
''evtstore.merge_data'' and ''evtstore.merge_patch'' are built in. options: {"snapshot_every": events}. Errors: 42710 another definition of
that name, 42883 no such function, 42804 it does not return jsonb, 22023.';

CREATE OR REPLACE FUNCTION evtstore.alter_reducer(name text, changes jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_alter_reducer';
COMMENT ON FUNCTION evtstore.alter_reducer IS
'Changes "fn", "initial" or "snapshot_every" of a reducer; a null stands for the default. Snapshots made before are not used again after a
change of the fold. Errors: ST008, 22023, 42883, 42804.';

CREATE OR REPLACE FUNCTION evtstore.drop_reducer(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_reducer';
COMMENT ON FUNCTION evtstore.drop_reducer IS 'Forgets a reducer and its snapshots. Errors: ST008.';

CREATE OR REPLACE FUNCTION evtstore.state_of(
    stream text, reducer text, as_of timestamptz DEFAULT NULL, as_of_version bigint DEFAULT NULL)
RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_state_of';
COMMENT ON FUNCTION evtstore.state_of IS
'The state of a stream: its events folded by the reducer, the caller''s own uncommitted ones included. as_of: the events up to
position_at(as_of), so the answer never changes; as_of_version: the first so many. NULL for an unknown stream, and for one that had no
event then. Errors: ST008 unknown reducer, ST012 events that it needs are gone, 22023 the future; and what the reducer raises.';

CREATE OR REPLACE FUNCTION evtstore.merge_data(state jsonb, event evtstore.event)
RETURNS jsonb
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'evtstore_merge_data';
COMMENT ON FUNCTION evtstore.merge_data IS 'state || data: the built-in reducer for events that carry what changed. state_of runs it without SQL.';

CREATE OR REPLACE FUNCTION evtstore.merge_patch(state jsonb, event evtstore.event)
RETURNS jsonb
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'evtstore_merge_patch';
COMMENT ON FUNCTION evtstore.merge_patch IS
'As evtstore.merge_data, but into nested objects, and a null removes its key (JSON Merge Patch, RFC 7396). state_of runs it without SQL.';

CREATE OR REPLACE FUNCTION evtstore.save_snapshot(stream text, name text, version bigint, state jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_save_snapshot';
COMMENT ON FUNCTION evtstore.save_snapshot IS
'Keeps what an application folded itself: its state of a stream at a version, under a name of its own. The same version again replaces it.
Errors: 22023 the stream has no such version.';

CREATE OR REPLACE FUNCTION evtstore.load_snapshot(stream text, name text, max_version bigint DEFAULT NULL)
RETURNS TABLE (version bigint, state jsonb)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_load_snapshot';
COMMENT ON FUNCTION evtstore.load_snapshot IS
'The newest snapshot of that name that an application saved, at or below max_version where that is given; no row where there is none.';
