-- Statement triggers stop even pg_write_all_data: the store's own functions run as the owner, who passes.  On a restore,
-- which only a superuser can do, they fire once for each COPY and do nothing.
CREATE OR REPLACE FUNCTION evtstore_internal.guard_immutable()
RETURNS trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_guard_immutable';
COMMENT ON FUNCTION evtstore_internal.guard_immutable IS
    'refuses every direct write below superuser: of events, because it would go round the feed; of definitions, because they run as their owner';

CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.event
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.event_tag
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.stream
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.stream_state
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.policy
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.definition
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.closing
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.snapshot
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
CREATE OR REPLACE TRIGGER guard_immutable
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON evtstore_internal.identity
    FOR EACH STATEMENT EXECUTE FUNCTION evtstore_internal.guard_immutable();
