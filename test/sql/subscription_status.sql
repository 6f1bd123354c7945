--
-- What is seen of subscriptions: how far they are behind, and which keys most of what is to come belongs to.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET evtstore.test_mode = on;

CREATE VIEW lag AS SELECT lag_events, lag_seconds > 0 AS is_late, in_flight FROM evtstore.subscription_status WHERE name = 's';
SELECT evtstore.create_subscription('s', '{"categories": ["a", "b"]}', lanes => 4, options => '{"retry": {"initial": "1 hour"}}');
SELECT * FROM lag;
SELECT * FROM evtstore.hot_keys('s');

-- a-1 has four, b-1 three, a-2 two, a-3 one, and nobody has asked for them
SELECT count(*) FROM (VALUES ('a-1', 4), ('b-1', 3), ('a-2', 2), ('a-3', 1)) v (stream, n), generate_series(1, n) i, evtstore.append(stream, 'T', to_jsonb(i));
SELECT lag_events >= 10 AS behind, is_late FROM lag;
SELECT key, unsettled, in_flight, aside FROM evtstore.hot_keys('s');
SELECT key, unsettled FROM evtstore.hot_keys('s', 2);
-- of the next three events
SELECT key, unsettled FROM evtstore.hot_keys('s', look_at => 3);
SELECT h.oldest = e.recorded_at FROM evtstore.hot_keys('s', 1) h JOIN evtstore.events e ON e.stream = h.key AND e.version = 1;

-- out, settled, failed
CREATE TABLE got AS SELECT * FROM evtstore.poll('s', 'c');
SELECT key, unsettled, in_flight, aside FROM evtstore.hot_keys('s');
SELECT evtstore.ack(receipt) FROM got WHERE stream = 'a-1' AND version <= 3 ORDER BY position;
SELECT evtstore.nack(receipt, 'no') FROM got WHERE stream = 'b-1' AND version = 1;
SELECT key, unsettled, in_flight, aside, oldest IS NULL AS is_aside FROM evtstore.hot_keys('s');
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE stream <> 'b-1' AND (stream, version) NOT IN (SELECT 'a-1', generate_series(1, 3));
SELECT key, unsettled, in_flight, aside FROM evtstore.hot_keys('s');

-- what is settled is no lag, nor is what the filter does not select; far from the head positions count until somebody has passed over them
SELECT count(*) FROM evtstore.poll('s', 'c');
SELECT * FROM lag;
SELECT count(*) FROM generate_series(1, 20) n, evtstore.append('other-1', 'T', to_jsonb(n));
SELECT * FROM lag;
SELECT count(*) FROM generate_series(1, 1000) n, evtstore.append('other-1', 'T', to_jsonb(n));
SELECT lag_events >= 1020 AS behind, is_late FROM lag;
SELECT key, unsettled FROM evtstore.hot_keys('s') WHERE unsettled > 0;
SELECT count(*) FROM evtstore.poll('s', 'c');
SELECT * FROM lag;
SET evtstore.clock_offset = 100;
SELECT count(*) FROM evtstore.append('a-9', 'T', '1');
SET evtstore.clock_offset = 200;
SELECT lag_seconds >= 100 FROM evtstore.subscription_status;
RESET evtstore.clock_offset;

-- of lanes that nobody keeps: that some were settled last before others were is no lag
SELECT evtstore.leave('s', 'c');
SELECT count(*) FROM generate_series(1, 9) n, evtstore.append('a-' || n, 'T', '1');
SELECT * FROM lag;
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s');
SELECT lag_events, in_flight FROM lag;
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE stream <> 'a-5';
SELECT lag_events, in_flight FROM lag;
SELECT evtstore.ack(array_agg(receipt)) FROM got WHERE stream = 'a-5';
SELECT * FROM lag;

SELECT count(*) FROM evtstore.append('a-9', 'T', '1');

-- while the lanes change: the old ones hold what is theirs, the new ones what comes behind it
TRUNCATE got;
INSERT INTO got SELECT * FROM evtstore.poll('s', 'c');
SELECT evtstore.alter_subscription('s', '{"lanes": 3}');
SELECT count(*) FROM generate_series(1, 2) n, evtstore.append('a-9', 'T', to_jsonb(n));
SELECT key, unsettled, in_flight FROM evtstore.hot_keys('s') WHERE unsettled > 0;
SELECT evtstore.ack(receipt) FROM got;
SELECT evtstore.ack(receipt) FROM evtstore.poll('s', 'c');
SELECT count(*) FROM evtstore.poll('s', 'c');
SELECT key FROM evtstore.hot_keys('s') WHERE unsettled > 0;
SELECT * FROM lag;

-- what is refused
SELECT fails($$SELECT evtstore.hot_keys('nobody')$$);
SELECT fails($$SELECT evtstore.hot_keys('s', 0)$$);
SELECT fails($$SELECT evtstore.hot_keys('s', look_at => 0)$$);
SELECT fails($$SELECT evtstore.hot_keys('s', look_at => 1000001)$$);
SELECT fails($$SELECT evtstore.hot_keys('s', NULL)$$);
