CREATE OR REPLACE FUNCTION evtstore.pause_saga(id uuid)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_pause_saga';
COMMENT ON FUNCTION evtstore.pause_saga IS
'A saga rests: no step, command, retry or undo begins. Answers to what it has sent are accepted and held, signals wait, times are looked at when it is resumed.
Errors: ST008, 55000 it has ended or is paused, 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore.resume_saga(id uuid)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resume_saga';
COMMENT ON FUNCTION evtstore.resume_saga IS
'Ends a pause: what came meanwhile is taken in the order in which it came, then what is due. Errors: ST008, 55000 it is not paused, 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore.redrive_saga(id uuid)
RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_redrive_saga';
COMMENT ON FUNCTION evtstore.redrive_saga IS
'A saga that failed, was compensated or cancelled runs again; returns the id of the instance that does. Where nothing was undone it is the same one: it goes on where it stopped, with the
keys that its steps had, and keeps what is done. Where it was undone another one begins in its place, with the same input, version and business key. Errors: ST008, 23505 the business
key''s instance is open, 55000 it is open, succeeded or was redriven, would fail at once, or left something that was not undone; 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore.migrate_saga(id uuid, version int, map jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_migrate_saga';
COMMENT ON FUNCTION evtstore.migrate_saga IS
'An open saga goes on by another version of its definition. map: {"Old": "New"}, names of states that are others there. Errors: ST008 unknown saga or version, 22023 map names states
that are not there, 55000 it has ended, or what it waits for, is stuck at or may have to undo has no state of its kind there (all of it in DETAIL), 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore.cancel_saga_where(predicate text, max_count int, compensate boolean DEFAULT true)
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_cancel_saga_where';
COMMENT ON FUNCTION evtstore.cancel_saga_where IS
'cancel_saga for those that are open and for which the predicate, a condition on the columns of evtstore.sagas, holds; at most max_count, in order of id. Each is told: ''done'', ''busy''
(another transaction is at it, for which this one does not wait), ''refused'' and why. The predicate is asked with the caller''s rights and writes nothing. Errors: 22023, 42601,
25006 the predicate writes, 25001.';

CREATE OR REPLACE FUNCTION evtstore.pause_saga_where(predicate text, max_count int)
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_pause_saga_where';
COMMENT ON FUNCTION evtstore.pause_saga_where IS 'pause_saga for those that are running, compensating or stuck; as cancel_saga_where.';

CREATE OR REPLACE FUNCTION evtstore.resume_saga_where(predicate text, max_count int)
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resume_saga_where';
COMMENT ON FUNCTION evtstore.resume_saga_where IS 'resume_saga for those that are paused; as cancel_saga_where.';

CREATE OR REPLACE FUNCTION evtstore.retry_saga_where(predicate text, max_count int)
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_retry_saga_where';
COMMENT ON FUNCTION evtstore.retry_saga_where IS 'retry_saga for those that are stuck; as cancel_saga_where.';

CREATE OR REPLACE FUNCTION evtstore.redrive_saga_where(predicate text, max_count int)
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_redrive_saga_where';
COMMENT ON FUNCTION evtstore.redrive_saga_where IS
'redrive_saga for those that failed, were compensated or cancelled, and were not redriven; as cancel_saga_where. sagas.redriven_as says what began in their place.';

CREATE OR REPLACE FUNCTION evtstore.skip_step_where(predicate text, max_count int, state text, output jsonb)
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_skip_step_where';
COMMENT ON FUNCTION evtstore.skip_step_where IS 'skip_step for those that are running or stuck; as cancel_saga_where.';

CREATE OR REPLACE FUNCTION evtstore.resolve_step_where(predicate text, max_count int, state text, outcome text, output jsonb DEFAULT 'null')
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resolve_step_where';
COMMENT ON FUNCTION evtstore.resolve_step_where IS 'resolve_step for those that are running or stuck; as cancel_saga_where.';

CREATE OR REPLACE FUNCTION evtstore.migrate_saga_where(predicate text, max_count int, version int, map jsonb DEFAULT '{}')
RETURNS TABLE (id uuid, result text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_migrate_saga_where';
COMMENT ON FUNCTION evtstore.migrate_saga_where IS 'migrate_saga for those that are open and of another version; as cancel_saga_where.';
