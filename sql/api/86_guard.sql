-- Statement triggers stop even pg_write_all_data; TRUNCATE, UPDATE and DELETE only, so that nothing fires on a restore.
CREATE OR REPLACE FUNCTION evtstore_internal.guard_immutable()
RETURNS trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_guard_immutable';
COMMENT ON FUNCTION evtstore_internal.guard_immutable IS 'refuses UPDATE, DELETE and TRUNCATE of events below superuser';

CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.event
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.stream
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
