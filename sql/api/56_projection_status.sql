CREATE OR REPLACE VIEW evtstore.projection_status AS
    SELECT d.name, d.spec->>'mode' AS mode, CASE WHEN s.blocked > 0 AND s.state = 'active' THEN 'failed' ELSE d.state END AS state,
           CASE WHEN s.id IS NULL THEN evtstore.head_position() ELSE s.reached END AS "position",
           coalesce(s.lag_events, 0) AS lag_events, coalesce(s.lag_seconds, 0) AS lag_seconds,
           coalesce(r.error, f.last_error) AS last_error, f.event_id AS failed_event, r.progress AS rebuild_progress, r.eta AS rebuild_eta
    FROM evtstore_internal.definition d
    LEFT JOIN evtstore_internal.subscription_status s ON s.id = d.id
    LEFT JOIN LATERAL (
        SELECT b.id, b.spec->'rebuild'->>'error' AS error, p.progress,
               (clock_timestamp() - b.created_at) * ((1 - p.progress) / nullif(p.progress, 0)) AS eta
        FROM evtstore_internal.definition b
        JOIN evtstore_internal.subscription_status u ON u.id = b.id
        CROSS JOIN LATERAL (SELECT least(coalesce(u.reached::float8 / nullif(evtstore.head_position(), 0), 1), 1) AS progress) p
        WHERE b.kind = 'rebuild' AND b.name = d.name) r ON true
    -- the oldest that was not applied
    LEFT JOIN LATERAL (
        SELECT u."position", u.last_error, u.event_id
        FROM (
            (SELECT e."position", e.last_error, v.id AS event_id
             FROM evtstore_internal.failed_event e
             LEFT JOIN evtstore_internal.event v ON v."position" = e."position"
             WHERE e.subscription_id IN (d.id, r.id) AND e.last_error IS NOT NULL
             ORDER BY e."position" LIMIT 1)
            UNION ALL
            (SELECT t."position", t.last_error, t.event_id
             FROM evtstore_internal.dead_letter t
             WHERE t.source_id IN (d.id, r.id) AND t.kind = 'subscription'
             ORDER BY t.id LIMIT 1)) u
        ORDER BY u."position" LIMIT 1) f ON true
    WHERE d.kind = 'projection';
COMMENT ON VIEW evtstore.projection_status IS
    'one row per projection: state (active, paused, rebuilding: in place, or failed: an event that was not applied blocks its key), position
(everything at or below is applied, or failed), lag_events and lag_seconds (as in subscription_status), last_error and failed_event (of the oldest
event that was not applied, also by its rebuild; or why the rebuild cannot go on), rebuild_progress (0 to 1; NULL: there is no rebuild) and
rebuild_eta (when it goes on as fast as up to now). A sync projection is never behind: its effects commit with the events';

CREATE OR REPLACE PROCEDURE evtstore.wait_for(name text, up_to bigint, timeout interval DEFAULT '5s')
LANGUAGE C AS 'MODULE_PATHNAME', 'evtstore_wait_for';
COMMENT ON PROCEDURE evtstore.wait_for IS
'Sleeps until a projection has applied, or the consumers of a subscription have settled, all that was appended up to a position: read your own
writes. Positions that the filter does not select count as passed. Holds no snapshot and no lock meanwhile. Errors: ST011 not within timeout; ST008; 55000
inside a transaction block, or at once where it is paused, or an event up to there failed and waits for a person.';
