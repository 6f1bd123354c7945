CREATE OR REPLACE FUNCTION evtstore_internal.clock()
RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_clock';
COMMENT ON FUNCTION evtstore_internal.clock IS 'the clock of leases, delays and retries: the real one, moved by evtstore.clock_offset in test mode';
