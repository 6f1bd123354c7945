-- Endpoints: definition, change, removal, and each way to get it wrong.  What workers do with them: test/t/030_http.pl.
CREATE FUNCTION pg_temp.attempt(statement text)
RETURNS TABLE (state text, message text, detail text, hint text)
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    state := 'ok';
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT;
    RETURN NEXT;
END
$$;
CREATE VIEW endpoints AS
    SELECT name, owner, state, spec FROM evtstore_internal.definition WHERE kind = 'endpoint' ORDER BY name;
CREATE SCHEMA shop;
CREATE FUNCTION shop.on_message(evtstore.delivery) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION shop.on_text(text) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION shop."On Message"(evtstore.delivery) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE PROCEDURE shop.do_message(evtstore.delivery) LANGUAGE sql AS 'SELECT';
\x on

-- the kinds of endpoints, with all options
SELECT evtstore.create_endpoint('inside', 'sql:shop.on_message');
SELECT evtstore.create_endpoint('quoted', 'sql:shop."On Message"');
SELECT evtstore.create_endpoint('plain', 'http://127.0.0.1:8080/hook');
SELECT evtstore.create_endpoint('six', 'http://[::1]:8080/hook?a=b');
SELECT evtstore.create_endpoint('full', 'https://example.com/hook', options => '{"format": "structured",
    "headers": {"Authorization": "Bearer abc", "X-Empty": ""}, "timeout": "100ms", "max_in_flight": 10000,
    "source": "https://example.com/shop?x=%20", "key": "${data.customerId}", "rate": 0.5,
    "breaker": {"failures": 3, "open_for": "1s", "max_open_for": "1min"}}');
SELECT evtstore.create_endpoint('scheme', 'HTTPS://Example.com');
SELECT * FROM endpoints;

-- equal: nothing happens; other: refused, with the difference
SELECT evtstore.create_endpoint('plain', 'http://127.0.0.1:8080/hook', '{}');
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('plain', 'http://127.0.0.1:8081/hook')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('plain', 'http://127.0.0.1:8080/hook', '{"timeout": "1s"}')$$);

-- a queue may have the name of an endpoint
SELECT evtstore.create_queue('plain');
SELECT evtstore.drop_queue('plain');

-- changes: one option, the url, back to the default
SELECT evtstore.alter_endpoint('plain', '{"timeout": "2s", "headers": {"X-Shop": "1"}}');
SELECT spec FROM endpoints WHERE name = 'plain';
SELECT evtstore.alter_endpoint('plain', '{"timeout": null, "headers": null, "url": "https://example.com/"}');
SELECT spec FROM endpoints WHERE name = 'plain';
SELECT evtstore.alter_endpoint('plain', '{}');
SELECT spec FROM endpoints WHERE name = 'plain';
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('plain', '{"url": null}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('plain', '{"colour": null}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('plain', '{"colour": 1}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('plain', '{"url": 1}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('plain', '{"format": "xml"}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('plain', '[]')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('plain', NULL)$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('nobody', '{}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint(NULL, '{}')$$);
SELECT spec FROM endpoints WHERE name = 'plain';

-- names
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint(NULL, 'https://example.com/')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('', 'https://example.com/')$$);
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.create_endpoint(repeat('x', 256), 'https://example.com/')$$);

-- urls
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', NULL)$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', '')$$);
\x off
SELECT u.url, a.state, a.message
FROM unnest(ARRAY['example.com', 'ftp://example.com/', 'file:///etc/passwd', 'unix:///tmp/x', 'kafka://example.com:9092', '://x',
    'http:example.com', 'http://', 'https:///path', 'http://user@example.com/', 'http://user:pw@example.com/', 'http://:pw@example.com/',
    'https://exa mple.com/', E'https://example.com/\nHost: x', 'https://exämple.com/', 'https://example.com:99999/',
    'https://[::1/', ' https://example.com/', 'SQL:shop.on_message']) WITH ORDINALITY AS u (url, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.create_endpoint(%L, %L)', 'x', u.url)) AS a
ORDER BY u.n;
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'https://example.com/' || repeat('x', 2048))$$);
\x on

-- functions
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'sql:on_message')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'sql:shop.nothing')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'sql:shop.on_text')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'sql:shop.do_message')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'sql:nowhere.on_message')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'sql:')$$);

-- options
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'https://example.com/', NULL)$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'https://example.com/', '[]')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'https://example.com/', '{"tiemout": "1s"}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'https://example.com/', '{"url": "https://example.com/"}')$$);
\x off
SELECT o.options, a.state, a.message, a.hint
FROM unnest(ARRAY['{"format": "debezium"}', '{"format": "xml"}', '{"format": 1}', '{"timeout": "99ms"}', '{"timeout": "301s"}', '{"timeout": 10}',
    '{"timeout": "-1s"}', '{"max_in_flight": 0}', '{"max_in_flight": 10001}', '{"max_in_flight": 1.5}', '{"source": ""}',
    '{"source": "a b"}', '{"source": "\u00e4"}', '{"source": null}', '{"headers": []}',
    '{"topic": "orders"}', '{"key": ""}', '{"key": "${data}"}', '{"key": "${stream.x}"}', '{"key": "${nothing}"}', '{"key": "a-${stream"}', '{"key": "${}"}',
    '{"rate": 0}', '{"rate": "1"}', '{"breaker": {"failures": 0}}', '{"breaker": {"open_for": "1ms"}}', '{"breaker": {"colour": 1}}',
    '{"breaker": {"open_for": "2s", "max_open_for": "1s"}}', '{"breaker": 5}', '{"tls": {"verify": "no"}}', '{"tls": {"server_name": "x"}}',
    '{"tls": {"ca_file": ""}}', '{"tls": {"key": "x"}}', '{"client": {"proxy": ["x"]}}', '{"client": {"proxy": null}}', '{"client": {"": "x"}}',
    '{"client": {"colour": 1}}', '{"client": {"http_version": 3}}', '{"client": []}']) WITH ORDINALITY AS o (options, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.create_endpoint(%L, %L, %L)', 'x', 'https://example.com/', o.options)) AS a
ORDER BY o.n;
SELECT h.headers, a.state, a.message
FROM unnest(ARRAY['{"Host": "x"}', '{"HOST": "x"}', '{"Content-Length": "1"}', '{"content-type": "text/plain"}',
    '{"Transfer-Encoding": "chunked"}', '{"Connection": "close"}', '{"Upgrade": "h2c"}', '{"ce-id": "1"}', '{"CE-Foo": "1"}',
    '{"Idempotency-Key": "1"}', '{"evtstore-attempt": "1"}', '{"Evtstore-Replay": "1"}', '{"webhook-signature": "v1,x"}', '{"ce_id": "1"}', '{"X Y": "1"}', '{"X:": "1"}', '{"": "1"}', '{"X\r\nHost": "1"}',
    '{"X-\u00e4": "1"}', '{"X": "a\r\nHost: b"}', '{"X": "a\nb"}', '{"X": "a\u007f"}', '{"X": "\u00e4"}', '{"X": 1}', '{"X": null}',
    '{"X": ["a"]}', '{"X": {"a": "b"}}']) WITH ORDINALITY AS h (headers, n)
CROSS JOIN LATERAL pg_temp.attempt(
    format('SELECT evtstore.create_endpoint(%L, %L, %L)', 'x', 'https://example.com/', '{"headers": ' || h.headers || '}')) AS a
ORDER BY h.n;
SELECT state, message FROM pg_temp.attempt(format('SELECT evtstore.create_endpoint(%L, %L, %L)', 'x', 'https://example.com/',
    jsonb_build_object('headers', jsonb_build_object('X', repeat('x', 4097)))));
SELECT count(*) AS none_was_made FROM endpoints WHERE name = 'x';
\x on

-- which format goes over what; what needs a topic
\x off
SELECT u.url, string_agg(f.format, ' ' ORDER BY f.n) FILTER (WHERE a.state = 'ok') AS taken,
    string_agg(DISTINCT a.state, ' ') FILTER (WHERE a.state <> 'ok') AS else_state
FROM unnest(ARRAY['https://example.com/', 'kafka://example.com:9092', 'nats://example.com:4222', 'amqp://example.com/', 'postgresql://example.com/db',
    'sql:shop.on_message']) WITH ORDINALITY AS u (url, n)
CROSS JOIN unnest(ARRAY['binary', 'structured', 'batched', 'debezium', 'plain']) WITH ORDINALITY AS f (format, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.create_endpoint(%L, %L, %L)', 'format ' || u.n || f.format, u.url,
    jsonb_build_object('format', f.format) || CASE WHEN u.url ~ '^(kafka|nats|amqp)' THEN '{"topic": "orders.${category}"}' ELSE '{}'::jsonb END)) AS a
GROUP BY u.n, u.url ORDER BY u.n;
SELECT evtstore.drop_endpoint(name) IS NOT NULL AS dropped FROM endpoints WHERE name LIKE 'format %';
SELECT u.url, a.*
FROM unnest(ARRAY['kafka://example.com:9092', 'nats://example.com:4222', 'amqp://example.com/']) WITH ORDINALITY AS u (url, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.create_endpoint(%L, %L)', 'x', u.url)) AS a
ORDER BY u.n;
SELECT t.topic, a.*
FROM unnest(ARRAY['', 'a.${category', '${nothing}', '${data}']) WITH ORDINALITY AS t (topic, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.create_endpoint(%L, %L, %L)', 'x', 'kafka://example.com:9092',
    jsonb_build_object('topic', t.topic))) AS a
ORDER BY t.n;

-- what sql: endpoints have no use for
SELECT o.options, a.state, a.message, a.hint
FROM unnest(ARRAY['{"format": "plain"}', '{"topic": "x"}', '{"tls": {}}', '{"client": {}}']) WITH ORDINALITY AS o (options, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.create_endpoint(%L, %L, %L)', 'x', 'sql:shop.on_message', o.options)) AS a
ORDER BY o.n;

-- settings of the client library and of TLS are a superuser's, and so is their way to another url
CREATE ROLE regress_evtstore_admin IN ROLE evtstore_admin;
SELECT evtstore.create_endpoint('proxied', 'https://example.com/hook',
    '{"client": {"proxy": "http://proxy:3128", "http_version": 1.1}, "tls": {"verify": false, "ca_file": "/etc/ca.pem"}}');
SET ROLE regress_evtstore_admin;
SELECT s.statement, a.*
FROM unnest(ARRAY[$$create_endpoint('x', 'https://example.com/', '{"client": {}}')$$, $$create_endpoint('x', 'https://example.com/', '{"tls": {}}')$$,
    $$alter_endpoint('proxied', '{"client": null}')$$, $$alter_endpoint('proxied', '{"tls": {"verify": true}}')$$,
    $$alter_endpoint('proxied', '{"url": "https://example.com/other"}')$$, $$alter_endpoint('proxied', '{"url": "https://example.com/hook", "timeout": "3s"}')$$])
    WITH ORDINALITY AS s (statement, n)
CROSS JOIN LATERAL pg_temp.attempt('SELECT evtstore.' || s.statement) AS a
ORDER BY s.n;
RESET ROLE;
SELECT evtstore.alter_endpoint('proxied', '{"url": "https://example.com/other", "tls": null}');
SELECT spec FROM endpoints WHERE name = 'proxied';
SELECT evtstore.drop_endpoint('proxied');
\x on

-- a queue names it: neither goes without the other knowing
SELECT * FROM pg_temp.attempt($$SELECT evtstore.create_queue('orders', '{"endpoint": "nobody"}')$$);
SELECT evtstore.create_queue('orders', '{"endpoint": "inside"}');
SELECT * FROM pg_temp.attempt($$SELECT evtstore.drop_endpoint('inside')$$);
SELECT evtstore.alter_queue('orders', '{"endpoint": null}');
SELECT evtstore.drop_endpoint('inside');
SELECT * FROM pg_temp.attempt($$SELECT evtstore.drop_endpoint('inside')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.drop_endpoint(NULL)$$);
SELECT evtstore.drop_queue('orders');

-- a function runs as who made the endpoint: who may not execute it cannot, and nobody names one for somebody else
CREATE ROLE regress_evtstore_writer IN ROLE evtstore_writer;
REVOKE EXECUTE ON FUNCTION shop.on_message FROM PUBLIC;
GRANT USAGE ON SCHEMA shop TO regress_evtstore_admin;
SET ROLE regress_evtstore_admin;
SELECT state, message, detail, hint FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'sql:shop.on_message')$$);
SELECT evtstore.create_endpoint('theirs', 'https://example.com/');
SELECT evtstore.alter_endpoint('theirs', '{"url": "sql:shop.\"On Message\""}');
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('quoted', '{"timeout": "1s"}')$$);
SELECT * FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('full', '{"url": "sql:shop.\"On Message\""}')$$);
SELECT evtstore.alter_endpoint('full', '{"timeout": "1s"}');
SET ROLE regress_evtstore_writer;
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.create_endpoint('x', 'https://example.com/')$$);
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.alter_endpoint('full', '{}')$$);
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.drop_endpoint('full')$$);
RESET ROLE;
SELECT name, owner FROM endpoints WHERE owner = 'regress_evtstore_admin';

-- a read-only transaction defines nothing
BEGIN READ ONLY;
SELECT evtstore.create_endpoint('x', 'https://example.com/');
ROLLBACK;

-- nor does one that rolls back
BEGIN;
SELECT evtstore.create_endpoint('x', 'https://example.com/');
ROLLBACK;
SELECT count(*) AS none_was_made FROM endpoints WHERE name = 'x';

-- the list of networks that workers may talk to
\x off
\set VERBOSITY default
SET evtstore.allowed_networks = '127.0.0.0/8, ::1/128';
SET evtstore.allowed_networks = '10.1.2.3';
SET evtstore.allowed_networks = '';
SET evtstore.allowed_networks = 'localhost';
SET evtstore.allowed_networks = '10.0.0.0/33';
SET evtstore.allowed_networks = '10.0.0.0/8,,';
SET evtstore.allowed_networks = '::/129';
RESET evtstore.allowed_networks;
SET ROLE regress_evtstore_admin;
SET evtstore.allowed_networks = '0.0.0.0/0';
RESET ROLE;

SELECT evtstore.drop_endpoint(name) FROM endpoints;
DROP ROLE regress_evtstore_writer;
DROP OWNED BY regress_evtstore_admin;
DROP ROLE regress_evtstore_admin;
