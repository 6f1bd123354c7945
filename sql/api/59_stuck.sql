CREATE OR REPLACE VIEW evtstore.stuck AS
    SELECT b.kind, b.name, b.key, b.since, coalesce(b.error, 'failed') AS cause, e.id::text AS blocked_by,
           CASE WHEN b.key IS NULL
                THEN format('SELECT evtstore.skip_event(%L, %L, %L)', CASE WHEN b.kind IN ('rule', 'reactor') THEN b.kind || ':' ELSE '' END || b.name, e.id, 'reason')
                ELSE format('SELECT evtstore.unblock_key(%L, %L)', CASE WHEN b.kind IN ('rule', 'reactor') THEN b.kind || ':' ELSE '' END || b.name, b.key) END AS fix
    FROM evtstore.blocked_keys b
    LEFT JOIN evtstore_internal.event e ON e."position" = b."position"
    WHERE b.state IN ('blocked', 'dead')
    UNION ALL
    SELECT l.kind, l.name, NULL, min(l.failed_at), format('%s dead letters: %s', count(*), l.cause), NULL,
           format('SELECT evtstore.redrive(%L)', CASE WHEN l.kind IN ('rule', 'reactor') THEN l.kind || ':' ELSE '' END || l.name)
    FROM evtstore.dead_letters l
    GROUP BY l.kind, l.name, l.cause
    UNION ALL
    SELECT d.kind, d.name, NULL, NULL, CASE d.state WHEN 'paused' THEN 'paused' ELSE 'quarantined: its handlers made workers crash' END, NULL, format('SELECT evtstore.resume(%L)', CASE WHEN d.kind IN ('rule', 'reactor') THEN d.kind || ':' ELSE '' END || d.name)
    FROM evtstore_internal.definition d
    WHERE d.kind IN ('queue', 'subscription', 'projection', 'rule', 'reactor') AND d.state IN ('paused', 'quarantined')
      AND (SELECT evtstore_internal.tenant()) IN ('', coalesce(d.spec->>'tenant', ''))
    UNION ALL
    SELECT 'projection', d.name, NULL, NULL, coalesce(d.spec->'rebuild'->>'error', 'quarantined: its handlers made workers crash'), NULL,
           CASE WHEN (d.spec->'rebuild'->>'in_place')::boolean
                THEN format('SELECT evtstore.rebuild_projection(%L, ''{"in_place": true}'')', d.name)
                ELSE format('SELECT evtstore.cancel_rebuild(%L)', d.name) END
    FROM evtstore_internal.definition d
    WHERE d.kind = 'rebuild' AND d.state = 'failed'
      AND (SELECT evtstore_internal.tenant()) IN ('', coalesce(d.spec->>'tenant', ''))
    UNION ALL
    SELECT 'endpoint', d.name, NULL, NULL, 'disabled: it answered that it is gone', NULL, format('SELECT evtstore.reset_breaker(%L)', d.name)
    FROM evtstore_internal.definition d
    WHERE d.kind = 'endpoint' AND d.state <> 'active' AND (SELECT evtstore_internal.tenant()) = ''
    UNION ALL
    SELECT 'saga', d.name, s.id::text, stopped.at, format('%s: %s', s.reason, coalesce(s.error, '?')), NULL, format('SELECT evtstore.retry_saga(%L)', s.id)
    FROM evtstore_internal.saga s
    JOIN evtstore_internal.definition d ON d.id = s.definition_id
    LEFT JOIN LATERAL (SELECT max(t.ended_at) AS at FROM evtstore_internal.saga_step t WHERE t.saga_id = s.id) stopped ON true
    WHERE s.status = 'stuck' AND (SELECT evtstore_internal.tenant()) IN ('', s.tenant)
    UNION ALL
    SELECT 'feed', 'head', NULL, w.xact_start, 'an appending transaction is open', format('pid %s', w.pid),
           format('SELECT pg_terminate_backend(%s)', w.pid)
    FROM evtstore.why_behind() w
    WHERE (SELECT evtstore_internal.tenant()) = '' AND w.xact_start < clock_timestamp() - interval '1 minute';
COMMENT ON VIEW evtstore.stuck IS
    'everything that waits for a person: keys that are blocked, dead letters, what is paused, rebuilds that cannot go on, sagas that are stuck, appending transactions that hold the head back
for more than a minute; fix: SQL to run, once the cause is gone';
