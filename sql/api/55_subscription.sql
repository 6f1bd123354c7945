CREATE OR REPLACE FUNCTION evtstore.create_subscription(
    name text, filter jsonb DEFAULT '{}', endpoint text DEFAULT NULL, start_at text DEFAULT 'beginning',
    start_position bigint DEFAULT NULL, start_time timestamptz DEFAULT NULL, lanes int DEFAULT 8,
    on_failure text DEFAULT 'block', options jsonb DEFAULT '{}')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_create_subscription';
COMMENT ON FUNCTION evtstore.create_subscription IS
'Defines a cursor over the events that the filter selects: {"categories","types","tags","streams","pattern","expression"} or a query {"items"}; {} is every event.
It begins at the ''beginning'', at the ''end'' (what is committed from now on), with the event at start_position, or after start_time. Up to
lanes consumers work at a time. on_failure, when the retry policy is spent: ''block'' (the key waits), ''dead_letter'', or ''dead_letter_key'' (its later events
follow, until one is redriven). options: {"key":
"${stream}" or "${data.field}", "retry", "max_in_flight" (of a lane), "rate" (events a second),
"notify" (channel on which listeners are told that there is something)}. Errors: 42710 another definition of that name, 22023, 22004.';

CREATE OR REPLACE FUNCTION evtstore.alter_subscription(name text, changes jsonb)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_alter_subscription';
COMMENT ON FUNCTION evtstore.alter_subscription IS
'Changes "filter", "lanes", "on_failure", "retry", "max_in_flight", "rate" or "notify" of a subscription; a null is the default again. For what is polled
after the commit. Another number of lanes takes nothing from who has it, and keeps the order of each key. Errors: ST008, 22023, 25001 lanes
in REPEATABLE READ, 53400 too many lanes of former changes are not emptied yet.';

CREATE OR REPLACE FUNCTION evtstore.drop_subscription(name text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_drop_subscription';
COMMENT ON FUNCTION evtstore.drop_subscription IS
'Forgets a subscription, what failed in it and its dead letters; receipts of its events are stale. Waits for transactions that use it.
Errors: ST008, 25001 in REPEATABLE READ.';

CREATE OR REPLACE FUNCTION evtstore.seek(subscription text, to_position bigint DEFAULT NULL, to_time timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_seek';
COMMENT ON FUNCTION evtstore.seek IS
'Sets a subscription elsewhere: the event at to_position is the next one (0: the beginning), or the first one recorded after to_time. What
is handed out becomes stale; what failed at or above comes again by itself, what failed below stays. Errors: ST008, 22023, 25001.';

CREATE OR REPLACE FUNCTION evtstore.poll(
    subscription text, consumer text DEFAULT NULL, max_count int DEFAULT 100, lease interval DEFAULT '30s')
RETURNS SETOF evtstore.delivery
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_poll';
COMMENT ON FUNCTION evtstore.poll IS
'The next events of a subscription, at most max_count, in order of position, for the time of the lease: from the lanes that the consumer
holds and those that it can have; a lane has one consumer at a time. What is not settled by the end of the lease is handed out again. The
receipt settles an event: ack, nack, reject, release, extend. Without a consumer''s name a lane is held until its last event is settled. A
rollback gives everything back, and counts as an attempt. Errors: ST008, 22023, 25001 in REPEATABLE READ, 53400.';

CREATE OR REPLACE FUNCTION evtstore.leave(subscription text, consumer text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_leave';
COMMENT ON FUNCTION evtstore.leave IS
'A consumer ends: its lanes are free at once, whatever becomes of the transaction, and what it did not settle is handed out again. Waits for
transactions that settle in them. Errors: ST008.';

CREATE OR REPLACE FUNCTION evtstore_internal.lane_status()
RETURNS TABLE (subscription_id int, lane int, consumer text, lease_until timestamptz, fetched bigint, in_flight int, is_held boolean)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_lane_status';
COMMENT ON FUNCTION evtstore_internal.lane_status IS 'the lanes of the subscriptions that are in use, from shared memory';

CREATE OR REPLACE FUNCTION evtstore_internal.consumer_status()
RETURNS TABLE (subscription_id int, consumer text, last_seen timestamptz)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_consumer_status';
COMMENT ON FUNCTION evtstore_internal.consumer_status IS 'the consumers that gave a name, from shared memory';

CREATE OR REPLACE FUNCTION evtstore_internal.unsettled(subscription_id int, look_at int)
RETURNS TABLE (events bigint, oldest timestamptz)
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_unsettled';
COMMENT ON FUNCTION evtstore_internal.unsettled IS 'of the next look_at events of a subscription, from the lowest checkpoint on: those that it selects and that are not settled';

CREATE OR REPLACE VIEW evtstore_internal.subscription_status AS
    SELECT d.id, d.kind, d.name, d.state, l.lanes, c."position", c.reached, a.lag_events, a.lag_seconds, s.in_flight, f.blocked, f.retrying, f.waiting, x.dead, c.closing AS closing_lanes
    FROM evtstore_internal.definition d
    CROSS JOIN (SELECT evtstore.head_position() AS head) h
    CROSS JOIN LATERAL (SELECT (d.spec->>'lanes')::int AS lanes) l
    CROSS JOIN LATERAL (
        SELECT min(k."position") FILTER (WHERE k."position" < coalesce(k.ends_at, 9223372036854775807)) AS "position",
               min(k.reached) FILTER (WHERE k."position" < coalesce(k.ends_at, 9223372036854775807)) AS reached,
               count(*) FILTER (WHERE k."position" < k.ends_at) AS closing
        FROM (
            SELECT coalesce(own."position", b."position") AS "position",
                   greatest(coalesce(own."position", b."position"), t.fetched) AS reached,
                   g.ends[1 + n % nullif(pg_catalog.cardinality(g.ends), 0)] AS ends_at
            FROM evtstore_internal.lane_generation g
            CROSS JOIN LATERAL pg_catalog.generate_series(0, g.lanes - 1) n
            LEFT JOIN LATERAL (
                SELECT k."position" FROM evtstore_internal.checkpoint k
                WHERE k.subscription_id = g.subscription_id AND k.lane = g.first_lane + n ORDER BY k.seq DESC LIMIT 1) own ON true
            CROSS JOIN LATERAL (
                SELECT k."position" FROM evtstore_internal.checkpoint k
                WHERE k.subscription_id = g.subscription_id AND k.lane = -1 ORDER BY k.seq DESC LIMIT 1) b
            -- what a lane that has nothing out passed over is done with, too
            LEFT JOIN evtstore_internal.lane_status() t
                ON t.subscription_id = g.subscription_id AND t.lane = g.first_lane + n AND t.is_held AND t.in_flight = 0
            WHERE g.subscription_id = d.id) k) c
    -- near the head it is counted; further behind it is a number of positions: nobody waits for a count of millions
    CROSS JOIN LATERAL (
        SELECT coalesce(u.events, greatest(h.head - c.reached, 0)) AS lag_events,
               coalesce(greatest(extract(epoch FROM evtstore_internal.clock() - CASE WHEN u.events IS NOT NULL THEN u.oldest ELSE e.recorded_at END), 0)::float8, 0) AS lag_seconds
        FROM (SELECT) one
        LEFT JOIN LATERAL evtstore_internal.unsettled(CASE WHEN h.head - c.reached BETWEEN 1 AND 1000 THEN d.id END, 1000) u ON true
        LEFT JOIN LATERAL (
            SELECT e.recorded_at FROM evtstore_internal.event e
            WHERE h.head - c.reached > 1000 AND e."position" > c.reached AND e."position" <= h.head ORDER BY e."position" LIMIT 1) e ON true) a
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(t.in_flight), 0) AS in_flight FROM evtstore_internal.lane_status() t
        WHERE t.subscription_id = d.id) s
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE e.state = 'blocked') AS blocked, count(*) FILTER (WHERE e.state = 'retry') AS retrying,
               count(*) FILTER (WHERE e.state = 'waiting') AS waiting
        FROM evtstore_internal.failed_event e WHERE e.subscription_id = d.id) f
    CROSS JOIN LATERAL (
        SELECT count(*) AS dead FROM evtstore_internal.dead_letter t WHERE t.source_id = d.id AND t.kind = 'subscription') x
    WHERE (d.kind IN ('subscription', 'rebuild', 'reactor') OR (d.kind IN ('projection', 'rule') AND d.spec->>'mode' = 'async'))
      AND (SELECT evtstore_internal.tenant()) IN ('', coalesce(d.spec->>'tenant', ''));
COMMENT ON VIEW evtstore_internal.subscription_status IS 'subscriptions, and async projections, rebuilds and async rules, which have one of their id';

CREATE OR REPLACE VIEW evtstore.subscription_status AS
    SELECT name, state, lanes, "position", lag_events, lag_seconds, in_flight, blocked, retrying, waiting, dead, closing_lanes
    FROM evtstore_internal.subscription_status
    WHERE kind = 'subscription';
COMMENT ON VIEW evtstore.subscription_status IS
    'one row per subscription: position (everything at or below is settled in each lane, or failed),
lag_events (events to come, exactly where they are within 1000 positions of the head; else the positions up to there, those that the filter does not
select and gaps too, but what lanes passed over), lag_seconds (the age of the first of them), in_flight (handed out and not
settled), blocked, retrying and waiting (events that failed, and those behind them), dead (given up), closing_lanes (of a former number
of lanes, with events to settle before those that come after them are handed out)';

CREATE OR REPLACE FUNCTION evtstore.hot_keys(subscription text, max_count int DEFAULT 10, look_at int DEFAULT 10000)
RETURNS TABLE (key text, unsettled bigint, in_flight bigint, aside bigint, oldest timestamptz)
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'evtstore_hot_keys';
COMMENT ON FUNCTION evtstore.hot_keys IS
'The keys of a subscription that have most events to come, the hottest first: of the next look_at events those not settled, how many of them
are in_flight, how many stand aside because one failed, and when the oldest to come was recorded. Errors: ST008, 22023, 22004.';

CREATE OR REPLACE VIEW evtstore.consumers AS
    SELECT d.name, c.consumer, count(t.lane) AS lanes, c.last_seen, coalesce(sum(t.in_flight), 0) AS in_flight
    FROM evtstore_internal.consumer_status() c
    JOIN evtstore_internal.definition d ON d.id = c.subscription_id
    LEFT JOIN evtstore_internal.lane_status() t ON t.subscription_id = c.subscription_id AND t.consumer = c.consumer AND t.is_held
    WHERE (SELECT evtstore_internal.tenant()) IN ('', coalesce(d.spec->>'tenant', ''))
    GROUP BY d.name, c.consumer, c.last_seen;
COMMENT ON VIEW evtstore.consumers IS 'the consumers of subscriptions that gave a name, and the lanes that they hold';

CREATE OR REPLACE VIEW evtstore.blocked_keys AS
    SELECT d.name, f.key, f.failed_at AS since, f.attempt, f.next_attempt_at AS next_attempt, f.last_error AS error, f.state,
           f."position", CASE d.kind WHEN 'rebuild' THEN 'projection' ELSE d.kind END AS kind
    FROM evtstore_internal.failed_event f
    JOIN evtstore_internal.definition d ON d.id = f.subscription_id
    WHERE f.state <> 'waiting'
      AND (SELECT evtstore_internal.tenant()) IN ('', coalesce(d.spec->>'tenant', ''))
    UNION ALL
    SELECT d.name, k.key, k.since, NULL, NULL, k.error, 'dead', NULL,
           CASE d.kind WHEN 'rebuild' THEN 'projection' ELSE d.kind END
    FROM evtstore_internal.dead_key k
    JOIN evtstore_internal.definition d ON d.id = k.subscription_id
    WHERE (SELECT evtstore_internal.tenant()) IN ('', coalesce(d.spec->>'tenant', ''));
COMMENT ON VIEW evtstore.blocked_keys IS
    'the event that each waiting key waits for: state retry (again at next_attempt) or blocked (a person decides); dead: the key was given
up, and its events go to the dead letters; kind: of what: subscription, projection or rule';
