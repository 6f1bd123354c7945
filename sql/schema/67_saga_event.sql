-- Steps of sagas that an event may answer (saga_event.c): a row for each of its types, from the beginning of the first attempt until the step is
-- done or the instance has ended. An append looks here for those that its event is meant for, and locks nothing.
CREATE TABLE evtstore_internal.saga_correlation (
    saga_id uuid,
    first_seq int,
    parent int NOT NULL,
    seq int NOT NULL,
    fails boolean NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    type text COLLATE "C",
    path text COLLATE "C" NOT NULL,
    value jsonb NOT NULL,
    PRIMARY KEY (saga_id, first_seq, type)
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE evtstore_internal.saga_correlation IS 'steps of sagas that events of a type answer';
COMMENT ON COLUMN evtstore_internal.saga_correlation.first_seq IS 'seq of the first attempt';
COMMENT ON COLUMN evtstore_internal.saga_correlation.seq IS 'of the last attempt, which the event is taken to answer';
COMMENT ON COLUMN evtstore_internal.saga_correlation.fails IS 'an event of that type says that it failed';
COMMENT ON COLUMN evtstore_internal.saga_correlation.path IS 'where in an event the value is: Correlation of the definition';
COMMENT ON COLUMN evtstore_internal.saga_correlation.value IS 'what Correlate was when the step began';
-- values of any length, and 1 is 1.0
CREATE INDEX saga_correlation_value_idx ON evtstore_internal.saga_correlation (type, path, tenant, pg_catalog.jsonb_hash_extended(value, 0));

-- which types any version of a definition names is read anew after each change of definitions
CREATE INDEX saga_version_correlation_idx ON evtstore_internal.saga_version (definition_id, version)
    WHERE spec->'Saga' ? 'Correlation';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga_correlation', '');
