-- What consumers took already (inbox.c).
CREATE TABLE evtstore_internal.inbox (
    received_at timestamptz NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    consumer text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, consumer, message_id)
);
COMMENT ON TABLE evtstore_internal.inbox IS 'ids that evtstore.once() has met, kept for evtstore.inbox_retention';
CREATE INDEX inbox_received_at_idx ON evtstore_internal.inbox (received_at);

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.inbox', '');
