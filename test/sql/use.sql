--
-- grant_use: roles that may use single queues and subscriptions, and nothing else.
--
\set QUIET on
\pset format unaligned
\pset null '(null)'
SET client_min_messages = warning;

CREATE ROLE regress_shop LOGIN;
CREATE ROLE regress_clerk LOGIN;
CREATE ROLE regress_clerks;
CREATE ROLE regress_reader LOGIN;
GRANT regress_clerks TO regress_clerk;
GRANT evtstore_reader TO regress_reader;

SELECT evtstore.create_queue('mail'), evtstore.create_queue('bills'), evtstore.create_subscription('orders', lanes => 1);
CREATE TABLE noted (what text PRIMARY KEY, receipt text);
GRANT SELECT, INSERT ON noted TO PUBLIC;
GRANT EXECUTE ON FUNCTION fails(text) TO PUBLIC;
CREATE FUNCTION refused(query text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(fails(query), '[qs]\d+\.[\d.]+', 'RECEIPT', 'g') $$;
SELECT version FROM evtstore.append('order-1', 'Placed', '1');
INSERT INTO noted SELECT 'bill', receipt FROM evtstore.send('bills', '1') s, LATERAL evtstore.receive('bills') WHERE s > 0;
INSERT INTO noted SELECT 'order', receipt FROM evtstore.poll('orders');

-- nobody, and a reader: nothing
SET ROLE regress_shop;
SELECT refused($$SELECT evtstore.send('mail', '1')$$);
RESET ROLE;
SET ROLE regress_reader;
SELECT refused($$SELECT evtstore.send('mail', '1')$$);
SELECT refused(format($$SELECT evtstore.ack(%L)$$, receipt)) FROM noted;
SELECT refused($$SELECT * FROM evtstore.poll('orders')$$);
RESET ROLE;

SELECT evtstore.grant_use('queue', 'mail', 'regress_shop', 'send');
SELECT evtstore.grant_use('queue', 'mail', 'regress_shop', 'send');
SELECT evtstore.grant_use('queue', 'mail', 'regress_clerks', 'consume');
SELECT name, grants FROM evtstore_internal.definition ORDER BY name;

-- who may send may send there and does not receive
SET ROLE regress_shop;
SELECT evtstore.send('mail', '"a"') > 0 AS sent, evtstore.send_batch('mail', '{1}') <> '{}' AS sent_too;
SELECT count(*) FROM evtstore.send_messages('mail', '[{"body": 1}]');
SELECT refused($$SELECT evtstore.send('bills', '1')$$);
SELECT refused($$SELECT * FROM evtstore.receive('mail')$$);
SELECT refused($$SELECT * FROM evtstore.queue_status$$);
SELECT refused($$SELECT version FROM evtstore.append('order-1', 'Placed', '1')$$);
RESET ROLE;

-- who may consume, by a role that he is a member of
SET ROLE regress_clerk;
INSERT INTO noted SELECT 'mail', receipt FROM evtstore.receive('mail');
SELECT evtstore.extend(receipt, '1min') FROM noted WHERE what = 'mail';
SELECT evtstore.ack(receipt) FROM noted WHERE what = 'mail';
SELECT count(evtstore.release(ARRAY[receipt])) FROM evtstore.receive('mail');
SELECT outcome FROM evtstore.settle((SELECT jsonb_build_array(jsonb_build_object('receipt', receipt, 'do', 'ack')) FROM evtstore.receive('mail')));
SELECT refused($$SELECT evtstore.send('mail', '1')$$);
SELECT refused($$SELECT * FROM evtstore.receive('bills')$$);
SELECT refused($$CALL evtstore.wait_for_work('{bills}', '1s')$$);
-- what another one works on is not his, whatever receipt he knows
SELECT refused(format($$SELECT evtstore.ack(%L)$$, receipt)) FROM noted WHERE what <> 'mail' ORDER BY what;
SELECT refused(format($$SELECT evtstore.nack(%L)$$, receipt)) FROM noted WHERE what <> 'mail' ORDER BY what;
SELECT refused(format($$SELECT evtstore.extend(%L, '1s')$$, receipt)) FROM noted WHERE what <> 'mail' ORDER BY what;
SELECT refused(format($$SELECT evtstore.release(ARRAY[%L])$$, receipt)) FROM noted WHERE what <> 'mail' ORDER BY what;
SELECT refused(format($$SELECT * FROM evtstore.settle('[{"receipt": "%s", "do": "ack"}]')$$, receipt)) FROM noted WHERE what <> 'mail' ORDER BY what;
SELECT refused($$SELECT * FROM evtstore.poll('orders')$$);
SELECT refused($$SELECT evtstore.leave('orders', 'c')$$);
SELECT refused($$SELECT evtstore.grant_use('queue', 'bills', 'regress_clerk', 'consume')$$);
RESET ROLE;

SELECT evtstore.grant_use('subscription', 'orders', 'regress_clerk', 'consume');
SET ROLE regress_clerk;
SELECT evtstore.ack(receipt) FROM noted WHERE what = 'order';
SELECT count(*) FROM evtstore.poll('orders', 'c');
SELECT evtstore.leave('orders', 'c');
RESET ROLE;

-- an alter leaves it, a revoke ends it, and the functions go with the last one
SELECT evtstore.alter_queue('mail', '{"rate": 1000}');
SELECT evtstore.revoke_use('queue', 'mail', 'regress_clerks', 'consume');
SELECT evtstore.revoke_use('queue', 'mail', 'regress_clerks', 'consume');
SET ROLE regress_clerk;
SELECT refused($$SELECT * FROM evtstore.receive('mail')$$);
RESET ROLE;
SELECT evtstore.revoke_use('subscription', 'orders', 'regress_clerk', 'consume');
SET ROLE regress_clerk;
SELECT refused($$SELECT * FROM evtstore.receive('mail')$$);
RESET ROLE;
SELECT name, grants FROM evtstore_internal.definition ORDER BY name;
SELECT refused($$SELECT evtstore.grant_use('stream', 'mail', 'regress_clerk', 'consume')$$);
SELECT refused($$SELECT evtstore.grant_use('queue', 'none', 'regress_clerk', 'consume')$$);
SELECT refused($$SELECT evtstore.grant_use('queue', 'orders', 'regress_clerk', 'consume')$$);
SELECT refused($$SELECT evtstore.grant_use('queue', 'mail', 'regress_none', 'consume')$$);
SELECT refused($$SELECT evtstore.grant_use('queue', 'mail', 'regress_clerk', 'receive')$$);
SELECT refused($$SELECT evtstore.grant_use('subscription', 'orders', 'regress_clerk', 'send')$$);
SELECT refused($$SELECT evtstore.grant_use('queue', 'mail', NULL, 'send')$$);

SELECT evtstore.drop_queue('mail'), evtstore.drop_queue('bills'), evtstore.drop_subscription('orders');
DROP TABLE noted;
DROP FUNCTION refused;
DROP OWNED BY regress_shop, regress_clerk, regress_clerks, regress_reader;
DROP ROLE regress_shop, regress_clerk, regress_clerks, regress_reader;
