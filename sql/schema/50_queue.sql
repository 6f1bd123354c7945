-- Messages of all queues (queue.c, claim.c, settle.c).  No indexed column changes when a message is claimed, so claims
-- are HOT updates; fillfactor leaves them room.  Tenant and key are compared byte by byte: no locale's update can
-- reorder their index.
CREATE SEQUENCE evtstore_internal.message_id_seq AS bigint CACHE 1;
CREATE SEQUENCE evtstore_internal.dead_letter_id_seq AS bigint CACHE 1;

CREATE TABLE evtstore_internal.message (
    id bigint PRIMARY KEY,
    position bigint,
    version bigint,
    enqueued_at timestamptz NOT NULL,
    deliver_at timestamptz,
    lease_until timestamptz,
    occurred_at timestamptz,
    recorded_at timestamptz,
    queue_id int NOT NULL,
    priority int NOT NULL DEFAULT 0,
    attempt int NOT NULL DEFAULT 0,
    epoch int NOT NULL DEFAULT 0,
    schema_version int,
    event_id uuid,
    tenant text COLLATE "C" NOT NULL DEFAULT '',
    key text COLLATE "C",
    consumer text,
    stream text,
    type text,
    tags text[],
    body jsonb NOT NULL,
    headers jsonb NOT NULL,
    first_error text,
    history jsonb
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE evtstore_internal.message IS 'messages waiting or in flight; deleted when acknowledged';
COMMENT ON COLUMN evtstore_internal.message.deliver_at IS 'not before this time (delay, retry backoff); NULL: at once';
COMMENT ON COLUMN evtstore_internal.message.lease_until IS 'in flight until then; NULL: nobody holds it';
COMMENT ON COLUMN evtstore_internal.message.epoch IS 'fencing: raised by each claim; a receipt names the epoch it was given at';
COMMENT ON COLUMN evtstore_internal.message.history IS 'failed attempts, the last 20: [{"attempt","at","error"}]; NULL: none';
CREATE INDEX message_queue_idx ON evtstore_internal.message (queue_id, priority DESC, id);
CREATE INDEX message_key_idx ON evtstore_internal.message (queue_id, tenant, key, id) WHERE key IS NOT NULL;
CREATE INDEX message_due_idx ON evtstore_internal.message (queue_id, deliver_at) WHERE deliver_at IS NOT NULL;

CREATE TABLE evtstore_internal.dead_letter (
    id bigint PRIMARY KEY,
    message_id bigint,
    position bigint,
    version bigint,
    enqueued_at timestamptz,
    failed_at timestamptz NOT NULL,
    occurred_at timestamptz,
    recorded_at timestamptz,
    source_id int NOT NULL,
    priority int NOT NULL DEFAULT 0,
    attempt int NOT NULL,
    schema_version int,
    event_id uuid,
    tenant text NOT NULL DEFAULT '',
    kind text NOT NULL,
    cause text NOT NULL,
    key text,
    stream text,
    type text,
    tags text[],
    body jsonb NOT NULL,
    headers jsonb NOT NULL,
    first_error text,
    last_error text,
    history jsonb NOT NULL DEFAULT '[]'
);
COMMENT ON TABLE evtstore_internal.dead_letter IS 'messages and events given up after their retry policy ended';
COMMENT ON COLUMN evtstore_internal.dead_letter.cause IS 'attempts spent, rejected, lease expired';
CREATE INDEX dead_letter_source_idx ON evtstore_internal.dead_letter (source_id, id);
CREATE INDEX dead_letter_message_idx ON evtstore_internal.dead_letter (message_id);

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.message_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.dead_letter_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.message', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.dead_letter', '');
