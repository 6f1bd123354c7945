-- What folds over streams came to at a version.  kind 1 is a reducer's (state_of keeps them by policy), kind 0 an
-- application's (save_snapshot).  A reducer's counts only with the fingerprint of the reducer as it is now.
CREATE TABLE evtstore_internal.snapshot (
    stream_id bigint NOT NULL,
    version bigint NOT NULL,
    fingerprint bigint NOT NULL,
    saved_at timestamptz NOT NULL,
    kind int NOT NULL,
    name text COLLATE "C" NOT NULL,
    state jsonb NOT NULL,
    PRIMARY KEY (stream_id, kind, name, version)
);
COMMENT ON TABLE evtstore_internal.snapshot IS 'states of streams at a version; no answer depends on them while the events are there';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.snapshot', '');
