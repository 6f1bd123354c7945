-- Everything that an administrator defines: queues, endpoints, rules, projections.  One table, one life cycle
-- (definition.c): create with an equal definition is a no-op, with another one an error that names the difference.
-- Roles and functions are stored by name, because reg* columns stop pg_upgrade and do not survive a restore.
CREATE SEQUENCE evtstore_internal.definition_id_seq AS int;

CREATE TABLE evtstore_internal.definition (
    id int PRIMARY KEY,
    kind text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    owner text NOT NULL,
    search_path text NOT NULL,
    spec jsonb NOT NULL,
    state text NOT NULL DEFAULT 'active',
    grants jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    UNIQUE (namespace, name)
);
COMMENT ON TABLE evtstore_internal.definition IS 'queues, endpoints, rules and projections by name';
COMMENT ON COLUMN evtstore_internal.definition.namespace IS
    'queues, subscriptions and projections share one namespace of names (''feed''); other kinds have their own';
COMMENT ON COLUMN evtstore_internal.definition.grants IS 'who may use it besides the writers: {"role": ["send", "consume"]}';
COMMENT ON COLUMN evtstore_internal.definition.search_path IS 'the search_path of the creator, pinned for its handlers';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.definition_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.definition', '');
