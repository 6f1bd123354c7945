CREATE OR REPLACE FUNCTION evtstore.saga_at(id uuid, at timestamptz)
RETURNS TABLE (seq int, kind text, state text, status text, attempt int, undoes int, error text, cause text, reason text, recorded_at timestamptz)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_saga_at';
COMMENT ON FUNCTION evtstore.saga_at IS
'A saga as it was at a past moment, from its events up to position_at(at): the saga itself in the row with seq 0 and kind ''saga'', and a row for each of the steps that had
begun, as saga_steps showed them. recorded_at: when it came to be so. No rows: it had not started. Errors: ST008, ST012 its definition has "Events": false, or its
events are gone, 22023 a moment to come.';

CREATE OR REPLACE FUNCTION evtstore.sagas_at(at timestamptz)
RETURNS TABLE (id uuid, name text, version int, business_key text, status text, error text, reason text, recorded_at timestamptz, tenant text)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_sagas_at';
COMMENT ON FUNCTION evtstore.sagas_at IS
'All sagas that had started by a past moment, as they were then; without those whose definition has "Events": false. Reads the stream of every saga. Errors: 22023 a moment to come.';

CREATE OR REPLACE FUNCTION evtstore.explain_saga(id uuid)
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_explain_saga';
COMMENT ON FUNCTION evtstore.explain_saga IS
'A saga''s definition as explain_definition draws it, with what became of each state: its colour, the attempt, of a Map how many items are done. Errors: ST008.';

CREATE OR REPLACE FUNCTION evtstore.why_saga(id uuid)
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_why_saga';
COMMENT ON FUNCTION evtstore.why_saga IS
'Where a saga is, what it waits for and since when, what happens next and when; of one that is stuck why, what is undone and what is left, and SQL that puts it right. For people:
the text is no interface. Errors: ST008.';

CREATE OR REPLACE VIEW evtstore.saga_stats AS
    SELECT d.name, i.version, i.running, i.compensating, i.paused, i.stuck, i.succeeded, i.compensated, i.failed, i.cancelled,
           i.ended - i.succeeded AS not_succeeded, round((i.ended - i.succeeded)::numeric / nullif(i.ended, 0), 4) AS failure_rate,
           i.p50, i.p95, coalesce(t.retries, 0) AS retries, coalesce(t.undos, 0) AS undos
    FROM (
        SELECT s.definition_id, s.version,
               count(*) FILTER (WHERE s.status = 'running') AS running, count(*) FILTER (WHERE s.status = 'compensating') AS compensating,
               count(*) FILTER (WHERE s.status = 'paused') AS paused, count(*) FILTER (WHERE s.status = 'stuck') AS stuck,
               count(*) FILTER (WHERE s.status = 'succeeded') AS succeeded, count(*) FILTER (WHERE s.status = 'compensated') AS compensated,
               count(*) FILTER (WHERE s.status = 'failed') AS failed, count(*) FILTER (WHERE s.status = 'cancelled') AS cancelled,
               count(s.ended_at) AS ended,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY s.ended_at - s.started_at) AS p50,
               percentile_cont(0.95) WITHIN GROUP (ORDER BY s.ended_at - s.started_at) AS p95
        FROM evtstore_internal.saga s
        WHERE (SELECT evtstore_internal.tenant()) IN ('', s.tenant)
        GROUP BY s.definition_id, s.version) i
    -- left out where nobody asks for its columns
    LEFT JOIN (
        SELECT s.definition_id, s.version, count(*) FILTER (WHERE t.attempt > 1 AND t.undoes = 0) AS retries,
               count(*) FILTER (WHERE t.kind = 'undo' AND t.status = 'done') AS undos
        FROM evtstore_internal.saga s
        JOIN evtstore_internal.saga_step t ON t.saga_id = s.id
        WHERE (t.attempt > 1 OR t.undoes > 0) AND (SELECT evtstore_internal.tenant()) IN ('', s.tenant)
        GROUP BY s.definition_id, s.version) t ON t.definition_id = i.definition_id AND t.version = i.version
    LEFT JOIN evtstore_internal.definition d ON d.id = i.definition_id;
COMMENT ON VIEW evtstore.saga_stats IS
    'one row per version of a saga that has instances: how many are in each status, the share of the ended ones that did not succeed, how long the ended ones took, attempts after the first,
undos that were done. Reads all instances';

CREATE OR REPLACE VIEW evtstore.saga_state_stats AS
    SELECT d.name, i.version, i.state, i.attempts, i.waiting, i.done, i.failed, i.unknown, i.withdrawn, i.undone, i.skipped, i.retries, i.undos,
           round((i.failed + i.unknown)::numeric / nullif(i.tried, 0), 4) AS failure_rate, i.p50, i.p95
    FROM (
        SELECT s.definition_id, s.version, t.state, count(*) FILTER (WHERE t.undoes = 0) AS attempts,
               count(*) FILTER (WHERE t.status IN ('waiting', 'pending') AND t.undoes = 0) AS waiting,
               count(*) FILTER (WHERE t.status = 'done' AND t.undoes = 0) AS done, count(*) FILTER (WHERE t.status = 'failed' AND t.undoes = 0) AS failed,
               count(*) FILTER (WHERE t.status = 'unknown' AND t.undoes = 0) AS unknown, count(*) FILTER (WHERE t.status = 'withdrawn' AND t.undoes = 0) AS withdrawn,
               count(*) FILTER (WHERE t.status = 'undone' AND t.undoes = 0) AS undone, count(*) FILTER (WHERE t.status = 'skipped' AND t.undoes = 0) AS skipped,
               count(*) FILTER (WHERE t.attempt > 1 AND t.undoes = 0) AS retries, count(*) FILTER (WHERE t.kind = 'undo' AND t.status = 'done') AS undos,
               count(*) FILTER (WHERE t.status IN ('done', 'undone', 'failed', 'unknown') AND t.undoes = 0) AS tried,
               percentile_cont(0.5) WITHIN GROUP (ORDER BY t.ended_at - t.started_at) FILTER (WHERE t.status IN ('done', 'undone') AND t.undoes = 0) AS p50,
               percentile_cont(0.95) WITHIN GROUP (ORDER BY t.ended_at - t.started_at) FILTER (WHERE t.status IN ('done', 'undone') AND t.undoes = 0) AS p95
        FROM evtstore_internal.saga s
        JOIN evtstore_internal.saga_step t ON t.saga_id = s.id
        WHERE t.kind NOT IN ('branch', 'stop', 'start') AND (SELECT evtstore_internal.tenant()) IN ('', s.tenant)
        GROUP BY s.definition_id, s.version, t.state) i
    LEFT JOIN evtstore_internal.definition d ON d.id = i.definition_id;
COMMENT ON VIEW evtstore.saga_state_stats IS
    'one row per state of a version of a saga that instances have entered: its attempts by status, those after the first, undos that were done, the share of the ended attempts that failed or of
which nobody knows, how long it takes to be done. Reads all steps of all instances';
