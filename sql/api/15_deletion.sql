CREATE OR REPLACE FUNCTION evtstore.delete_stream(stream text, hard boolean DEFAULT false, expected_version bigint DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_delete_stream';
COMMENT ON FUNCTION evtstore.delete_stream IS
'Deletes a stream: it has no events for its readers, and its versions go on where they were when somebody appends, which undeletes it.
hard: for ever, the name cannot be used again. Errors: ST001 wrong version, ST002 deleted for ever, 22023.';

CREATE OR REPLACE FUNCTION evtstore.truncate_stream(stream text, before_version bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_truncate_stream';
COMMENT ON FUNCTION evtstore.truncate_stream IS
'Events of the stream below before_version are gone for its readers. At most the version of the stream plus 1, which keeps none; lower
than an earlier truncation changes nothing. Errors: ST002 deleted for ever, 22023 above the end.';

CREATE OR REPLACE FUNCTION evtstore.set_stream_policy(stream text, policy jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_set_stream_policy';
COMMENT ON FUNCTION evtstore.set_stream_policy IS
'What the stream keeps: {"max_age": "30 days", "max_count": 100, "truncate_before": version}; replaces its earlier policy, {} removes it. A
key that it lacks is taken from the policy of the category. Errors: 22023.';

CREATE OR REPLACE FUNCTION evtstore.set_category_policy(category text, policy jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_set_category_policy';
COMMENT ON FUNCTION evtstore.set_category_policy IS
'What each stream of the category keeps, keys as in set_stream_policy; a stream''s own policy wins, key by key. Errors: 22023.';

CREATE OR REPLACE FUNCTION evtstore.scavenge(max_count int DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_scavenge';
COMMENT ON FUNCTION evtstore.scavenge IS
'Removes now, in this transaction, the events that deletion, truncation and policies took from readers of streams; at most max_count. The
scheduler does the same in the background. Returns how many were removed. Errors: 22023.';

CREATE OR REPLACE VIEW evtstore.policies AS
    SELECT p.tenant, p.kind, p.name, pg_catalog.justify_hours(p.max_age_ms * interval '1 ms') AS max_age, p.max_count, p.truncate_before, p.recorded_at
    FROM evtstore_internal.policy p
    WHERE (SELECT evtstore_internal.tenant()) IN ('', p.tenant);
COMMENT ON VIEW evtstore.policies IS 'what streams and the streams of categories keep; NULL: no limit';
