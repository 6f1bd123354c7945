-- What participants of sagas did and undid (participant.c): one row for each key, whose state its unique key decides.
CREATE TABLE evtstore_internal.guarded_step (
    changed_at timestamptz NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('done', 'undone', 'refused')),
    output jsonb,
    undo_output jsonb,
    PRIMARY KEY (tenant, key)
);
COMMENT ON TABLE evtstore_internal.guarded_step IS 'steps that evtstore.guard_step() has met, kept for evtstore.guard_retention';
COMMENT ON COLUMN evtstore_internal.guarded_step.state IS 'done; undone: it was done before; refused: its undo came first, it is never to be done';
CREATE INDEX guarded_step_changed_at_idx ON evtstore_internal.guarded_step (changed_at);

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.guarded_step', '');
