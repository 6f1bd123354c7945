-- The three roles and the two schemas.  Roles belong to the cluster, not to the extension: they are made when missing
-- and never dropped, because another database of the cluster may use them.
DO $roles$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['evtstore_reader', 'evtstore_writer', 'evtstore_admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;           -- another database of the cluster installs at the same moment
            END;
        END IF;
    END LOOP;
    IF NOT pg_catalog.pg_has_role('evtstore_admin', 'evtstore_reader', 'MEMBER') THEN
        GRANT evtstore_reader TO evtstore_admin;
    END IF;
    IF NOT pg_catalog.pg_has_role('evtstore_admin', 'evtstore_writer', 'MEMBER') THEN
        GRANT evtstore_writer TO evtstore_admin;
    END IF;
END
$roles$;

CREATE SCHEMA evtstore;
COMMENT ON SCHEMA evtstore IS 'evtstore: the public functions, views and types';
CREATE SCHEMA evtstore_internal;
CREATE SCHEMA evtstore_rebuild;
COMMENT ON SCHEMA evtstore_rebuild IS 'evtstore: tables of projections that are being rebuilt, until they take the place of the old ones';
-- foreign keys look the names up as the owner of the table; what is in a table is granted by the table
GRANT USAGE ON SCHEMA evtstore_rebuild TO PUBLIC;
COMMENT ON SCHEMA evtstore_internal IS 'evtstore: tables and helpers; not an interface, granted to nobody';
GRANT USAGE ON SCHEMA evtstore TO evtstore_reader, evtstore_writer, evtstore_admin;
