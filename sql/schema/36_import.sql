-- How far each source was imported (import.c): moved in the transaction of each batch.
CREATE TABLE evtstore_internal.import (
    tenant text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    first_version smallint,
    imported bigint NOT NULL,
    skipped bigint NOT NULL,
    started_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, source)
);
COMMENT ON TABLE evtstore_internal.import IS 'one row per imported source: the position, in the source, of its last event that is here';
COMMENT ON COLUMN evtstore_internal.import.first_version IS
    'what the source calls the first version of a stream, 0 or 1; NULL: it told no version yet';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.import', '');
