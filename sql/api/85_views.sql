CREATE OR REPLACE VIEW evtstore.events AS
    SELECT e."position", e.tenant, s.name AS stream, e.version, e.id, e.type, e.schema_version, e.data, e.metadata, e.tags,
           e.occurred_at, e.recorded_at, s.category
    FROM evtstore_internal.event e
    LEFT JOIN evtstore_internal.stream s ON s.id = e.stream_id
    WHERE (SELECT evtstore_internal.tenant()) IN ('', e.tenant);
COMMENT ON VIEW evtstore.events IS
    'every committed event, raw, for ad-hoc SQL; not a feed: a position may still appear below one that you saw (use read_all). Events of
deleted streams are shown until they are scavenged';

CREATE OR REPLACE VIEW evtstore.streams AS
    SELECT s.tenant, s.name AS stream, s.category, greatest(v.version, st.truncate_before - 1) AS version, s.created_at,
           v.recorded_at AS last_recorded_at, coalesce(st.status, 'live') AS status, coalesce(st.truncate_before, 1) AS truncate_before
    FROM evtstore_internal.stream s
    LEFT JOIN LATERAL (
        SELECT e.version, e.recorded_at FROM evtstore_internal.event e
        WHERE e.stream_id = s.id ORDER BY e.version DESC LIMIT 1) v ON true
    LEFT JOIN LATERAL (
        SELECT t.status, t.truncate_before FROM evtstore_internal.stream_state t
        WHERE t.stream_id = s.id ORDER BY t."position" DESC LIMIT 1) st ON true
    WHERE (SELECT evtstore_internal.tenant()) IN ('', s.tenant);
COMMENT ON VIEW evtstore.streams IS
    'one row per stream with its version and status (live, deleted, tombstoned); deleted ones are listed, their versions go on';

CREATE OR REPLACE VIEW evtstore.import_status AS
    SELECT i.tenant, i.source, i."position", i.imported, i.skipped, i.started_at, i.updated_at
    FROM evtstore_internal.import i
    WHERE (SELECT evtstore_internal.tenant()) IN ('', i.tenant);
COMMENT ON VIEW evtstore.import_status IS
    'how far each source was imported: the position, in the source, of its last event that is here, and how many came and were skipped';
