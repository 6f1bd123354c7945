-- Results of idempotent commands (command.c).  Insert only: a result that has expired stays beside its successor until
-- it is trimmed, so that no isolation level can make the two collide.
CREATE TABLE evtstore_internal.command (
    finished_at timestamptz NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint text,
    result jsonb NOT NULL,
    PRIMARY KEY (tenant, scope, key, finished_at)
);
COMMENT ON TABLE evtstore_internal.command IS
    'results of finished commands, kept for evtstore.command_retention; the lock of the command makes the newest the only one in force';
CREATE INDEX command_finished_at_idx ON evtstore_internal.command (finished_at);

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.command', '');
