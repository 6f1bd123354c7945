-- Messages of all queues (send.c, claim.c, settle.c).  A claim writes nothing here: who holds what is in shared memory
-- (queue_state.c), and an acknowledgement deletes the row.  share keeps the messages of tenants, and of whatever else a
-- queue is fair to, apart.  One index serves order and look-up; those of keys and of times have only the rows that need them.
-- in blocks (message_id.c)
CREATE SEQUENCE evtstore_internal.message_id_seq AS bigint INCREMENT BY 1024 CACHE 1;
CREATE SEQUENCE evtstore_internal.dead_letter_id_seq AS bigint CACHE 1;

CREATE TABLE evtstore_internal.message (
    id bigint NOT NULL,
    share bigint NOT NULL,
    key_hash bigint,
    position bigint,
    version bigint,
    enqueued_at timestamptz NOT NULL,
    deliver_at timestamptz,
    expires_at timestamptz,
    occurred_at timestamptz,
    recorded_at timestamptz,
    queue_id int NOT NULL,
    rank int NOT NULL DEFAULT 0,
    attempt int NOT NULL DEFAULT 0,
    schema_version int,
    event_id uuid,
    tenant text COLLATE "C" NOT NULL DEFAULT '',
    key text COLLATE "C",
    stream text,
    type text,
    tags text[],
    body jsonb NOT NULL,
    headers jsonb NOT NULL,
    first_error text,
    history jsonb,
    PRIMARY KEY (queue_id, share, rank, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE evtstore_internal.message IS 'messages waiting or in flight; deleted when acknowledged';
COMMENT ON COLUMN evtstore_internal.message.share IS 'hash of the tenant and of the value that the queue is fair by; 0: neither';
COMMENT ON COLUMN evtstore_internal.message.key_hash IS 'hash of tenant and key: messages that share it go out one at a time; NULL: no key';
COMMENT ON COLUMN evtstore_internal.message.rank IS 'minus the priority, so that the index is in the order of delivery';
COMMENT ON COLUMN evtstore_internal.message.deliver_at IS 'not before this time (delay, retry backoff); NULL: at once';
COMMENT ON COLUMN evtstore_internal.message.expires_at IS 'to the dead letters instead of to a consumer after this time; NULL: never';
COMMENT ON COLUMN evtstore_internal.message.attempt IS 'failed attempts; those lost by rollback or lease are counted in shared memory until the next failure';
COMMENT ON COLUMN evtstore_internal.message.history IS 'failed attempts, the last 20: [{"attempt","at","error"}]; NULL: none';
CREATE INDEX message_key_idx ON evtstore_internal.message (queue_id, key_hash, id) WHERE key_hash IS NOT NULL;
CREATE INDEX message_due_idx ON evtstore_internal.message (queue_id, share, deliver_at, id) WHERE deliver_at IS NOT NULL;

-- Ids of messages that were sent in the last time, where the sender gave one (enqueue.c); the janitor removes those that are over.
CREATE TABLE evtstore_internal.message_dedup (
    queue_id int,
    message_id bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    tenant text COLLATE "C",
    dedup_id text COLLATE "C",
    PRIMARY KEY (queue_id, tenant, dedup_id)
);
COMMENT ON TABLE evtstore_internal.message_dedup IS 'ids that senders gave messages, so that a message that is sent again is known';
COMMENT ON COLUMN evtstore_internal.message_dedup.expires_at IS 'end of the dedup_window of its queue, as it was when the message was sent';
CREATE INDEX message_dedup_expires_idx ON evtstore_internal.message_dedup (expires_at);

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
COMMENT ON COLUMN evtstore_internal.dead_letter.cause IS
    'attempts spent, too old, given up (what the retry policy ends by), rejected, rolled back, lease expired, expired, skipped, key given up';
CREATE INDEX dead_letter_source_idx ON evtstore_internal.dead_letter (source_id, id);
CREATE INDEX dead_letter_message_idx ON evtstore_internal.dead_letter (message_id);

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.message_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.dead_letter_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.message', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.message_dedup', '');
SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.dead_letter', '');
