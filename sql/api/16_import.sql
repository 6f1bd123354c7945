CREATE OR REPLACE PROCEDURE evtstore.import_events(query text, batch int DEFAULT 10000, source text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'evtstore_import_events';
COMMENT ON PROCEDURE evtstore.import_events IS
'Imports history: the query returns the columns stream, type, data, position and optionally version, id, metadata, tags, schema_version,
occurred_at. Commits after each batch; called again with the same source it goes on behind the last event that is here. Errors: 22023 and
42804 columns, gaps in versions, repeated positions; 22004 missing values; ST004 id with other content; 25001 inside a transaction block.';
