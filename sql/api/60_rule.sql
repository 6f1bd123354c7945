CREATE OR REPLACE FUNCTION evtstore.create_rule(
    name text, filter jsonb, target text, transform jsonb DEFAULT NULL, mode text DEFAULT 'sync')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_rule';
COMMENT ON FUNCTION evtstore.create_rule IS
'Events that match the filter go to the target. filter: {"categories","types","tags","streams"}, each an array, {"pattern"} and {"expression"},
all given ones must match; {} is every event. target: ''queue:NAME'', which may be computed (''queue:region-${data.region}''), or
''sql:schema.function'', which takes an evtstore.delivery and runs as who creates the rule, or ''saga:NAME'': an instance is started, once for each event, with the body as its input. transform: {"body","headers","key","delay","priority",
"dedup_id"}, of a function only the first two, each JSON with placeholders such as ${data.total}; what is left out is the event''s: its data, its
metadata, its stream as the key. mode ''sync'': in the append''s transaction, able to refuse it; ''async'': by workers, each event exactly once, from
the rule''s creation on. Errors: ST008, ST009, 42710, 42883, 42501.';

CREATE OR REPLACE FUNCTION evtstore.alter_rule(name text, changes jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_alter_rule';
COMMENT ON FUNCTION evtstore.alter_rule IS
'Changes "filter", "target" or "transform" of a rule (null: none), for appends that begin after the commit, or for what workers take after it. Errors:
ST008, ST009, 22023, 42501 a function that another''s rule would run.';

CREATE OR REPLACE FUNCTION evtstore.drop_rule(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_rule';
COMMENT ON FUNCTION evtstore.drop_rule IS
'Forgets a rule, its place and what failed; messages that it sent stay. Waits for the worker that is at an async one. Errors: ST008, 25001 an async
one in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.test_rule(name text, event jsonb)
RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_test_rule';
COMMENT ON FUNCTION evtstore.test_rule IS
'What a rule would make of an event, as append_events takes it, with its "stream": {"matches","target","body","headers","key"}, null where it does not
match, and what of delay, priority and dedup_id the transform has. Sends nothing and calls nothing. Also takes to_jsonb() of an event that was read. Errors: ST008, and those that the rule would raise.';

CREATE OR REPLACE VIEW evtstore.rule_status AS
    SELECT d.name, d.spec->>'mode' AS mode, d.spec->>'target' AS target,
           CASE WHEN s.blocked > 0 AND s.state = 'active' THEN 'failed' ELSE d.state END AS state,
           CASE WHEN s.id IS NULL THEN evtstore.head_position() ELSE s.reached END AS "position",
           coalesce(s.lag_events, 0) AS lag_events, coalesce(s.lag_seconds, 0) AS lag_seconds, f.last_error, f.event_id AS failed_event
    FROM evtstore_internal.definition d
    LEFT JOIN evtstore_internal.subscription_status s ON s.id = d.id
    -- the oldest that it did not do
    LEFT JOIN LATERAL (
        SELECT u."position", u.last_error, u.event_id
        FROM (
            (SELECT e."position", e.last_error, v.id AS event_id
             FROM evtstore_internal.failed_event e
             LEFT JOIN evtstore_internal.event v ON v."position" = e."position"
             WHERE e.subscription_id = d.id AND e.last_error IS NOT NULL
             ORDER BY e."position" LIMIT 1)
            UNION ALL
            (SELECT t."position", t.last_error, t.event_id
             FROM evtstore_internal.dead_letter t
             WHERE t.source_id = d.id AND t.kind = 'subscription'
             ORDER BY t.id LIMIT 1)) u
        ORDER BY u."position" LIMIT 1) f ON true
    WHERE d.kind = 'rule';
COMMENT ON VIEW evtstore.rule_status IS
    'one row per rule: state (active, paused, or failed: an event blocks its key), position (everything at or below is done, or failed), lag_events and
lag_seconds (as in subscription_status), last_error and failed_event (of the oldest event that failed). A sync rule is never behind';
