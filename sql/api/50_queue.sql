CREATE OR REPLACE FUNCTION evtstore.create_queue(name text, options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_queue';
COMMENT ON FUNCTION evtstore.create_queue IS
'Defines a queue. options: {"retry": {"max_attempts","max_age","initial","multiplier","max_delay","jitter","schedule":["1s","10s"],
"retry_on":["text in an error"],"give_up_on"}, "dead_letter_queue": queue that takes what is given up, "dedup_window": how long a
dedup_id is remembered (a day), "endpoint": name of an endpoint that workers deliver to, "fair_by": "${key}", "${body.a.b}" or
"${headers.a}", whose values take turns, as tenants do, "max_in_flight": messages that all consumers together may hold, "rate": messages
that go out in a second, "notify": channel on which listeners are told that there is something}. Errors: 42710 another definition of that name, ST008 unknown endpoint or queue, 22023 unknown option, or dead
letters would go round.';

CREATE OR REPLACE FUNCTION evtstore.alter_queue(name text, changes jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_alter_queue';
COMMENT ON FUNCTION evtstore.alter_queue IS 'Changes options of a queue; a null removes one, in the retry policy too. Errors: ST008, 22023.';

CREATE OR REPLACE FUNCTION evtstore.drop_queue(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_queue';
COMMENT ON FUNCTION evtstore.drop_queue IS
'Drops a queue with its messages and dead letters. Errors: ST008 unknown, 2BP01 a rule still sends to it, or another queue its dead letters.';

CREATE OR REPLACE FUNCTION evtstore.send(
    queue text, body jsonb, key text DEFAULT NULL, headers jsonb DEFAULT '{}', delay interval DEFAULT '0', priority int DEFAULT 0,
    dedup_id text DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, expires_in interval DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_send';
COMMENT ON FUNCTION evtstore.send IS
'Puts a message into a queue, in the caller''s transaction; returns its id. Messages with the same key go out one at a time, in the
order in which their senders commit; senders of one key wait for each other. dedup_id: sent again within the queue''s dedup_window it is
not sent, and the id is that of the first one; concurrent senders of it wait for each other. delay or deliver_at: not before then.
expires_in: after that a dead letter instead of a delivery. Errors: ST008 unknown queue, 22004/22023 bad input, 40001 a dedup_id in
REPEATABLE READ that somebody sent meanwhile.';

CREATE OR REPLACE FUNCTION evtstore.send_batch(
    queue text, bodies jsonb[], keys text[] DEFAULT NULL, headers jsonb[] DEFAULT NULL, delay interval DEFAULT '0', priority int DEFAULT 0)
RETURNS bigint[]
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_send_batch';
COMMENT ON FUNCTION evtstore.send_batch IS 'As evtstore.send for many bodies; keys and headers are as long as bodies, or NULL.';

CREATE OR REPLACE FUNCTION evtstore.send_messages(queue text, messages jsonb)
RETURNS TABLE (message_id bigint, duplicate boolean)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_send_messages';
COMMENT ON FUNCTION evtstore.send_messages IS
'As evtstore.send for an array of {"body","key","headers","delay","priority","dedup_id","deliver_at","expires_in"}, all but body optional;
a row for each, in their order. Errors: as evtstore.send, 22023 an unknown key; then none is sent.';

CREATE OR REPLACE FUNCTION evtstore.receive(
    queue text, consumer text DEFAULT NULL, max_count int DEFAULT 1, lease interval DEFAULT '30s')
RETURNS SETOF evtstore.delivery
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_receive';
COMMENT ON FUNCTION evtstore.receive IS
'Takes up to max_count messages for the time of the lease; consumers never wait for each other. Priority first, then order of
sending; never two of one key; tenants take turns. The receipt settles the message: ack, nack, reject, release, extend. A rollback gives it
back and counts as an attempt; so does the end of the lease. After two of these in a row a message is handed out alone; in its last
attempt it goes to the dead letters. Errors: ST008, 22023, 25001 in REPEATABLE READ, 53400 evtstore.max_messages_in_flight is reached.';

CREATE OR REPLACE FUNCTION evtstore.ack(receipt text)
RETURNS int
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_ack';
COMMENT ON FUNCTION evtstore.ack(text) IS
'Done: the message is deleted. An array literal is taken as text[]. Returns the number of messages. Errors: ST007 stale receipt.';

CREATE OR REPLACE FUNCTION evtstore.ack(receipts text[])
RETURNS int
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_ack_many';
COMMENT ON FUNCTION evtstore.ack(text[]) IS 'Done, all or nothing. Returns the number of messages. Errors: ST007 lists the stale receipts.';

CREATE OR REPLACE FUNCTION evtstore.nack(receipt text, reason text DEFAULT NULL, delay interval DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_nack';
COMMENT ON FUNCTION evtstore.nack IS
'Failed: again later, after the given delay or by the queue''s retry policy; to the dead letters when its attempts are spent, which
frees its key for the next message. Errors: ST007, 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.reject(receipt text, reason text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_reject';
COMMENT ON FUNCTION evtstore.reject IS 'Failed for good: to the dead letters now, which frees its key. Errors: ST007, 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.release(receipts text[])
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_release';
COMMENT ON FUNCTION evtstore.release IS 'Given back unworked: available at once, no attempt spent. All or nothing. Errors: ST007.';

CREATE OR REPLACE FUNCTION evtstore.extend(receipt text, lease interval)
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_extend';
COMMENT ON FUNCTION evtstore.extend IS 'Heartbeat: the lease ends this long from now. false: stop, cancellation is wanted. Errors: ST007.';

CREATE OR REPLACE FUNCTION evtstore.settle(results jsonb)
RETURNS TABLE (receipt text, outcome text, reason text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_settle';
COMMENT ON FUNCTION evtstore.settle IS
'Settles a batch with a result for each: array of {"receipt","do":"ack|nack|reject|release","reason","delay"}; commands of sagas are answered with
"do":"reply" and "output", or "fail" and "error", "cause", "retryable", "retry_after". A row for each, in their
order: outcome accepted, or stale with the reason (settled, claimed_again, lease_expired, key_blocked); a stale one holds up no other.
Errors: 22023 a malformed result, then nothing is settled; 25001 in REPEATABLE READ for all but ack.';

CREATE OR REPLACE FUNCTION evtstore.purge_queue(name text)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_purge_queue';
COMMENT ON FUNCTION evtstore.purge_queue IS
'Deletes the messages of a queue, also those that somebody holds: his receipts are stale then. Its dead letters stay. Returns how many.
With a tenant set, that tenant''s. Errors: ST008, 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.message_status(queue text, message_id bigint)
RETURNS TABLE (state text, attempt int, last_error text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_message_status';
COMMENT ON FUNCTION evtstore.message_status IS
'What became of a message: ready, delayed (delay or retry backoff), waiting (for an older one of its key), in_flight, dead; no row: it
was acknowledged, or never was. attempt counts the one that is under way. Errors: ST008 unknown queue.';

CREATE OR REPLACE FUNCTION evtstore_internal.in_flight()
RETURNS TABLE (queue_id int, message_id bigint, lease_until timestamptz, lost int)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_in_flight';
COMMENT ON FUNCTION evtstore_internal.in_flight IS 'messages that somebody holds, from shared memory';

CREATE OR REPLACE VIEW evtstore.queue_status AS
    WITH held AS MATERIALIZED (SELECT f.queue_id, f.message_id FROM evtstore_internal.in_flight() f)
    SELECT d.name, d.state, m.ready, m.delayed, m.in_flight, l.dead, now.at - m.oldest AS oldest_age,
           d.spec->>'endpoint' AS endpoint
    FROM (SELECT evtstore_internal.clock() AS at) now
    CROSS JOIN evtstore_internal.definition d
    CROSS JOIN LATERAL (
        SELECT count(f.message_id) AS in_flight,
               count(*) FILTER (WHERE f.message_id IS NULL AND m.deliver_at > now.at) AS delayed,
               count(*) FILTER (WHERE f.message_id IS NULL AND (m.deliver_at > now.at) IS NOT TRUE) AS ready,
               min(m.enqueued_at) AS oldest
        FROM evtstore_internal.message m
        LEFT JOIN held f ON f.queue_id = m.queue_id AND f.message_id = m.id
        WHERE m.queue_id = d.id
          AND (SELECT evtstore_internal.tenant()) IN ('', m.tenant)) m
    CROSS JOIN LATERAL (
        SELECT count(*) AS dead
        FROM evtstore_internal.dead_letter l
        WHERE l.source_id = d.id
          AND (SELECT evtstore_internal.tenant()) IN ('', l.tenant)) l
    WHERE d.kind = 'queue';
COMMENT ON VIEW evtstore.queue_status IS
    'messages per queue: ready (those that wait for an older one of their key included), delayed (delay or retry backoff), in_flight
(leased), dead; age of the oldest one not dead';

CREATE OR REPLACE VIEW evtstore.dead_letters AS
    SELECT l.id, coalesce(d.kind, l.kind) AS kind, d.name, l.key, l.event_id, l.message_id, l.type, l.attempt AS attempts, l.first_error, l.last_error,
           l.failed_at, l.history, l.body, l.headers, l.stream, l.version, l.position, l.cause
    FROM evtstore_internal.dead_letter l
    LEFT JOIN evtstore_internal.definition d ON d.id = l.source_id
    WHERE (SELECT evtstore_internal.tenant()) IN ('', l.tenant);
COMMENT ON VIEW evtstore.dead_letters IS 'what was given up after its retry policy ended; cause: attempts spent, too old, given up, rejected, rolled back,
lease expired, expired (messages), skipped, key given up (events)';
