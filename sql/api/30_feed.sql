CREATE OR REPLACE FUNCTION evtstore.head_position()
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_head_position';
COMMENT ON FUNCTION evtstore.head_position IS
'The stable head: every position at or below it is decided (committed and visible, or gone for ever). Under REPEATABLE READ and on
a standby: the newest head of the ledger that the snapshot sees.';

CREATE OR REPLACE FUNCTION evtstore.position_at(at timestamptz)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_position_at';
COMMENT ON FUNCTION evtstore.position_at IS
'The position up to which events belong to a past moment: the same answer for ever. In a READ ONLY transaction and on a standby, for
a moment that is not settled yet: what is known to belong to it so far. Errors: 22023 a moment to come.';

CREATE OR REPLACE FUNCTION evtstore_internal.ledger_trim(max_rows bigint)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_ledger_trim';
COMMENT ON FUNCTION evtstore_internal.ledger_trim IS
    'deletes rows of the ledger that no answer of position_at depends on, up to max_rows of each table; returns how many';

CREATE OR REPLACE FUNCTION evtstore_internal.floors()
RETURNS TABLE (pid int, floor bigint)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_floors';
COMMENT ON FUNCTION evtstore_internal.floors IS 'appenders in flight in this store: process and floor (every position of its own is above)';

CREATE OR REPLACE FUNCTION evtstore.why_behind()
RETURNS TABLE (pid int, usename text, application_name text, xact_start timestamptz, floor bigint, state text, query text,
               wait_event_type text, wait_event text)
LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.pid, a.usename::text, a.application_name, a.xact_start, f.floor, a.state,
           CASE WHEN pg_has_role(session_user, 'pg_read_all_stats', 'MEMBER')
                  OR pg_has_role(session_user, 'evtstore_admin', 'MEMBER') THEN a.query END,
           a.wait_event_type, a.wait_event
    FROM evtstore_internal.floors() f
    LEFT JOIN pg_stat_activity a ON a.pid = f.pid
    ORDER BY f.floor, f.pid
$$;
COMMENT ON FUNCTION evtstore.why_behind IS
'Who holds the head back: the appending transactions in flight, the one that holds it most first. The query is shown to members of
pg_read_all_stats and evtstore_admin.';

CREATE OR REPLACE PROCEDURE evtstore.wait_for_head(up_to bigint, timeout interval DEFAULT '5s')
LANGUAGE C AS 'MODULE_PATHNAME', 'evtstore_wait_for_head';
COMMENT ON PROCEDURE evtstore.wait_for_head IS
'Sleeps until the head has reached a position. Holds no snapshot while it sleeps. Errors: ST011 when the time is up, 25001 inside a
transaction block.';
