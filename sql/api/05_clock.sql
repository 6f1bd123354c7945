CREATE OR REPLACE FUNCTION evtstore_internal.clock()
RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_clock';
COMMENT ON FUNCTION evtstore_internal.clock IS 'the clock of leases, delays and retries: the real one, moved by evtstore.clock_offset in test mode';

CREATE OR REPLACE FUNCTION evtstore_internal.tenant()
RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'evtstore_tenant';
COMMENT ON FUNCTION evtstore_internal.tenant IS
    'evtstore.tenant, as a function of the library, so that the views say ST010 where it is not preloaded';
