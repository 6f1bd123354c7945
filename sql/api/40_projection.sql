CREATE OR REPLACE FUNCTION evtstore.create_projection(
    name text, handlers jsonb, mode text DEFAULT 'async', filter jsonb DEFAULT '{}', tables text[] DEFAULT '{}', options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_projection';
COMMENT ON FUNCTION evtstore.create_projection IS
'Defines a read model. handlers: {"Type": "one SQL statement with $1 of type evtstore.event" | {"fn": "schema.function"}}, "*" for every
other type. mode ''sync'': a projection trigger, in the append''s transaction, able to refuse it; events that exist already are applied
first. mode ''async'' is not in this version (0A000). Errors: ST009 invalid handler, 42710 another definition of that name.';

CREATE OR REPLACE FUNCTION evtstore.drop_projection(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_projection';
COMMENT ON FUNCTION evtstore.drop_projection IS 'Forgets a projection; its tables stay. Errors: ST008.';

CREATE OR REPLACE VIEW evtstore.projection_status AS
    SELECT d.name, d.spec->>'mode' AS mode, d.state,
           evtstore.head_position() AS "position", 0::bigint AS lag_events, 0::double precision AS lag_seconds,
           NULL::text AS last_error, NULL::uuid AS failed_event, NULL::double precision AS rebuild_progress, NULL::interval AS rebuild_eta
    FROM evtstore_internal.definition d
    WHERE d.kind = 'projection';
COMMENT ON VIEW evtstore.projection_status IS
    'one row per projection; a sync projection is never behind: its effects commit with the events';
