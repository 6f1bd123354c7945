CREATE OR REPLACE FUNCTION evtstore.health()
RETURNS TABLE (check_name text, ok boolean, detail text, hint text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_health';
COMMENT ON FUNCTION evtstore.health IS
'One row per check: workers running, worker slots left, this place is the one that delivers, no endpoint fails, no old appender holds the head.';

CREATE OR REPLACE FUNCTION evtstore_internal.worker_slots()
RETURNS TABLE (pid int, kind text, database_oid oid, state text, started_at timestamptz, deliveries bigint, failures bigint)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_worker_slots';
COMMENT ON FUNCTION evtstore_internal.worker_slots IS 'the worker registry in shared memory';

CREATE OR REPLACE VIEW evtstore.workers AS
    SELECT w.pid, w.kind, w.state, w.started_at, w.deliveries, w.failures
    FROM evtstore_internal.worker_slots() w
    JOIN pg_catalog.pg_database db ON db.oid = w.database_oid AND db.datname = pg_catalog.current_database();
COMMENT ON VIEW evtstore.workers IS 'background workers of this database';
