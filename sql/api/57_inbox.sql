CREATE OR REPLACE FUNCTION evtstore.once(consumer text, message_id text)
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_once';
COMMENT ON FUNCTION evtstore.once(text, text) IS
'The inbox: true the first time that the consumer asks for this id, in the caller''s transaction; false after that one has committed. A second
caller waits for the first. Kept for evtstore.inbox_retention. A uuid as text is that uuid. Errors: 22004, 22023, 40001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.once(consumer text, message_id uuid)
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_once_uuid';
COMMENT ON FUNCTION evtstore.once(text, uuid) IS 'As evtstore.once(text, text), for an id such as that of an event.';

CREATE OR REPLACE FUNCTION evtstore.accept_events(source text, events jsonb, target text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_accept_events';
COMMENT ON FUNCTION evtstore.accept_events IS
'What another database delivers (postgresql://), in order; the inbox knows what came already, by source, target and id. events: array of
{"id","type","data","stream"?,"metadata"?,"tags"?,"schema_version"?,"occurred_at"?,"source"?,"position"?,"key"?}. target: ''queue:NAME'', ''stream:NAME'';
NULL: the stream of the same name. Returns how many were new. Errors: ST002, ST004 other content with a known id, ST008, 22004, 22023.';

CREATE OR REPLACE FUNCTION evtstore_internal.trim_inbox(max_count int)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_trim_inbox';
COMMENT ON FUNCTION evtstore_internal.trim_inbox IS
    'deletes ids older than evtstore.inbox_retention, the oldest first, at most so many; the janitor does';
