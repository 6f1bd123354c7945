CREATE OR REPLACE FUNCTION evtstore.start_saga(
    name text, input jsonb DEFAULT '{}', business_key text DEFAULT NULL, idempotency_key text DEFAULT NULL, version int DEFAULT NULL,
    start_at timestamptz DEFAULT NULL)
RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_start_saga';
COMMENT ON FUNCTION evtstore.start_saga IS
'Starts an instance of a saga and returns its id. It runs in this transaction until it waits for somebody: its sql: steps are done, its first commands are
visible when this commits. business_key: one open instance of the saga may have it, and it is found by it. idempotency_key: a second start with it
returns the first one''s id and starts nothing. version: NULL for the newest. start_at: it begins then. Errors: ST008, 23505 the business key''s
instance is open (its id in DETAIL).';

CREATE OR REPLACE FUNCTION evtstore.reply(receipt text, output jsonb DEFAULT 'null')
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_reply';
COMMENT ON FUNCTION evtstore.reply IS
'The answer of a worker to a command of a saga: it is done, with that output. What follows in the saga is done in this transaction, or by a worker where
somebody else is at the saga. ''accepted'', ''duplicate'' (it was known to be done), or ''late'' (it was given up meanwhile: the step is known to be done now,
and undone where the saga is). Never ST007. Errors: 22023 the receipt is of a message that is no command, 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.fail(
    receipt text, error text, cause text DEFAULT NULL, retryable boolean DEFAULT true, retry_after interval DEFAULT NULL)
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_fail';
COMMENT ON FUNCTION evtstore.fail IS
'The answer of a worker to a command of a saga: it failed. error is the name that Retry and Catch match; cause is for people. retryable false: not again, whatever Retry
says; retry_after: not before. Result and errors as of reply.';

CREATE OR REPLACE FUNCTION evtstore.signal_saga(id uuid, name text, payload jsonb, dedup_id text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_signal_saga';
COMMENT ON FUNCTION evtstore.signal_saga IS
'Tells a saga something by name: a Task with the Resource signal:NAME is done with the payload, now or when the saga comes to it. A second signal with the same
dedup_id does nothing. Errors: ST008, 55000 the saga has ended, 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.signal_saga_by_key(saga text, business_key text, name text, payload jsonb, dedup_id text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_signal_saga_by_key';
COMMENT ON FUNCTION evtstore.signal_saga_by_key IS
'signal_saga for the open instance with that business key. Errors: ST008 none is open, those of signal_saga.';

CREATE OR REPLACE FUNCTION evtstore.cancel_saga(id uuid, compensate boolean DEFAULT true)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_cancel_saga';
COMMENT ON FUNCTION evtstore.cancel_saga IS
'Ends a saga: with compensation what it did is undone first. Its commands that nobody has are taken back. Errors: ST008, 55000 it has ended or is
behind its pivot, 55P03 this transaction has changed another saga and may not wait, 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.retry_saga(id uuid)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_retry_saga';
COMMENT ON FUNCTION evtstore.retry_saga IS
'A saga that is stuck tries again what it is stuck at, with the same idempotency key and all its retries. Errors: ST008, 55000 it is not stuck, 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore.skip_step(id uuid, state text, output jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_skip_step';
COMMENT ON FUNCTION evtstore.skip_step IS
'The step that a saga waits for, or is stuck at, counts as done with that output, and there is nothing to undo of it. Errors: ST008, 55000 it is not there, 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore.resolve_step(id uuid, state text, outcome text, output jsonb DEFAULT 'null')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_resolve_step';
COMMENT ON FUNCTION evtstore.resolve_step IS
'A person has found out what became of the step that a saga waits for, or is stuck at: ''done'', with that output, or ''failed'', which is not tried again. Errors: ST008,
22023 another outcome, 55000 it is not there, 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore.mark_undone(id uuid, seq bigint, note text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_mark_undone';
COMMENT ON FUNCTION evtstore.mark_undone IS
'A person has undone a step (seq as in saga_steps) of a saga that compensates or is stuck at it; note says how. Errors: ST008, 55000 it is not to be undone, 55P03, 25001.';

CREATE OR REPLACE FUNCTION evtstore_internal.trim_sagas(max_count int)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_trim_sagas';
COMMENT ON FUNCTION evtstore_internal.trim_sagas IS
    'deletes sagas that ended longer ago than evtstore.saga_retention, the first to end first, about so many rows; the janitor does';

CREATE OR REPLACE VIEW evtstore.sagas AS
    SELECT s.id, d.name, s.version, s.business_key, s.status, w.states, w.waiting_for, w.next_due, s.started_at, s.ended_at, s.error, s.cause,
           s.reason, s.input, s.output, s.tenant, s.parent_id, s.redriven_as
    FROM evtstore_internal.saga s
    LEFT JOIN evtstore_internal.definition d ON d.id = s.definition_id
    LEFT JOIN LATERAL (
        SELECT pg_catalog.array_agg(t.state ORDER BY t.seq) AS states, pg_catalog.min(t.due) AS next_due,
               pg_catalog.string_agg(CASE WHEN EXISTS (SELECT FROM evtstore_internal.saga_lock l WHERE l.saga_id = t.saga_id AND l.seq = t.seq) THEN 'lock ' || t.resource
                   WHEN t.message_id IS NOT NULL THEN 'an answer to message ' || t.message_id || ' of queue ' || coalesce(q.name, '?')
                   WHEN t.kind = 'start' THEN 'its beginning' WHEN t.kind = 'signal' THEN 'a signal'
                   WHEN c.id IS NOT NULL THEN 'saga ' || c.id
                   WHEN t.kind IN ('parallel', 'map') THEN NULL ELSE 'a time' END, ', ' ORDER BY t.seq) AS waiting_for
        FROM evtstore_internal.saga_step t
        LEFT JOIN evtstore_internal.definition q ON q.id = t.queue_id
        LEFT JOIN evtstore_internal.saga c ON c.parent_id = s.id AND c.parent_seq = t.seq AND coalesce(c.parent_parent, 0) = t.parent
        WHERE t.saga_id = s.id AND t.status = 'waiting' AND t.kind <> 'branch' AND s.ended_at IS NULL) w ON true
    WHERE (SELECT evtstore_internal.tenant()) IN ('', s.tenant);
COMMENT ON VIEW evtstore.sagas IS
    'one row per instance of a saga: status (running, compensating, paused, stuck | succeeded, compensated, failed, cancelled), the states that it waits in and for
what, when the next of them is due; of one that failed its error';

CREATE OR REPLACE VIEW evtstore.saga_steps AS
    SELECT t.saga_id, t.seq, t.state, t.kind, t.status, t.attempt, t.undoes, t.error, t.cause, coalesce(t.sent, t.input) AS input, t.output,
           t.message_id, q.name AS queue, t.due, t.started_at, t.ended_at, t.via
    FROM evtstore_internal.saga_step t
    JOIN evtstore_internal.saga s ON s.id = t.saga_id
    LEFT JOIN evtstore_internal.definition q ON q.id = t.queue_id
    WHERE t.kind <> 'stop' AND (SELECT evtstore_internal.tenant()) IN ('', s.tenant);
COMMENT ON VIEW evtstore.saga_steps IS
    'what sagas did and wait for: a row for each attempt at a step (waiting, pending, done, failed, unknown, withdrawn, undoing, undone, skipped), and for each undo';

CREATE OR REPLACE VIEW evtstore.saga_locks AS
    SELECT l.resource, l.saga_id, d.name, s.business_key, t.state, l.held_since IS NULL AS waiting, coalesce(l.held_since, l.since) AS since,
           (SELECT pg_catalog.count(*) FROM evtstore_internal.saga_lock b
            WHERE b.tenant = l.tenant AND b.resource = l.resource AND b.number > l.number) AS behind, l.tenant
    FROM evtstore_internal.saga_lock l
    JOIN evtstore_internal.saga s ON s.id = l.saga_id
    LEFT JOIN evtstore_internal.definition d ON d.id = s.definition_id
    LEFT JOIN evtstore_internal.saga_step t ON t.saga_id = l.saga_id AND t.parent = l.parent AND t.seq = l.seq
    WHERE (SELECT evtstore_internal.tenant()) IN ('', s.tenant);
COMMENT ON VIEW evtstore.saga_locks IS
    'semantic locks (Lock) of sagas: who has what and since when, and who waits for it, in which state; behind: how many wait behind him';

CREATE OR REPLACE VIEW evtstore.stuck_sagas AS
    SELECT s.id, s.name, s.version, s.business_key, s.reason, s.error, s.cause, s.started_at,
           pg_catalog.format('SELECT evtstore.retry_saga(%L)', s.id) AS fix
    FROM evtstore.sagas s
    WHERE s.status = 'stuck';
COMMENT ON VIEW evtstore.stuck_sagas IS
    'sagas that wait for a person, and why: failed_after_pivot, pivot_unknown, undo_failed, scope_undo_failed, reactor_failed; fix is SQL that lets one try again';
