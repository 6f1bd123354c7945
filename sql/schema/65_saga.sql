-- What sagas are defined as.  A name's row in definition says which of its versions is the active one, which new instances take; a version is
-- never changed, because instances go on with the one that they began with (saga_version.c).
CREATE TABLE evtstore_internal.saga_version (
    definition_id int,
    version int CHECK (version > 0),
    spec jsonb NOT NULL,
    hash bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (definition_id, version)
);
COMMENT ON TABLE evtstore_internal.saga_version IS 'the versions of definitions of sagas, in States Language';
COMMENT ON COLUMN evtstore_internal.saga_version.definition_id IS 'definition.id of kind ''saga''';
COMMENT ON COLUMN evtstore_internal.saga_version.hash IS 'SHA-256 of the spec''s text: the same content is the same version';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.saga_version', '');
