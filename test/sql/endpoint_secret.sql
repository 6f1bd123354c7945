-- Secrets of endpoints: what is taken, who may set and who can read them, what holds how long, and what takes them away.
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
CREATE FUNCTION pg_temp.whsec(letter text, bytes int = 32)
RETURNS text LANGUAGE sql AS $$SELECT 'whsec_' || replace(encode(repeat(letter, bytes)::bytea, 'base64'), E'\n', '')$$;
-- what there is: the letter that the bytes of a signing secret are, and how long it holds
CREATE FUNCTION secrets(OUT name text, OUT kind text, OUT number int, OUT secret text, OUT held interval)
RETURNS SETOF record LANGUAGE sql AS $$
    SELECT d.name, s.kind, s.number,
        CASE s.kind WHEN 'signing' THEN left(convert_from(decode(substr(s.secret, 7), 'base64'), 'UTF8'), 1) ELSE s.secret END,
        date_trunc('minute', s.until - evtstore_internal.clock() + interval '30 seconds')
    FROM evtstore_internal.endpoint_secret s JOIN evtstore_internal.definition d ON d.id = s.endpoint_id
    ORDER BY d.name, s.kind, s.number
$$;
SELECT evtstore.create_endpoint('hook', 'https://example.com/hook');
CREATE SCHEMA shop;
CREATE FUNCTION shop.on_message(evtstore.delivery) RETURNS void LANGUAGE sql AS 'SELECT';
SELECT evtstore.create_endpoint('inside', 'sql:shop.on_message');

-- one signing secret after the other: those before hold on for as long as is said, never longer than before
SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('a'));
SELECT * FROM secrets();
SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('b'), keep_old => '2 hours');
SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('c', 24));
SELECT * FROM secrets();
-- the same again changes nothing; one of before becomes the newest
SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('c', 24));
SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('a'), keep_old => '1 hour');
SELECT * FROM secrets();
SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('d', 64), keep_old => '0');
SELECT * FROM secrets();

-- ten at a time
DO $$BEGIN FOR i IN 1 .. 9 LOOP PERFORM evtstore.set_endpoint_secret('hook', pg_temp.whsec(i::text)); END LOOP; END$$;
SELECT state, message, hint FROM pg_temp.attempt($$SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('x'))$$);
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('x'), keep_old => '0')$$);
SELECT * FROM secrets();

-- of the other kinds the newest only
SELECT evtstore.set_endpoint_secret('hook', 'shop:p:w', 'basic');
SELECT evtstore.set_endpoint_secret('hook', 'shop:other', kind => 'basic');
SELECT evtstore.set_endpoint_secret('hook', 'ey.token', 'bearer');
SELECT evtstore.set_endpoint_secret('hook', E'-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n', 'tls');
SELECT * FROM secrets();

-- what is not taken, and never echoed
\x on
SELECT s.call, a.*
FROM unnest(ARRAY[$$'hook', 'whsec_'$$, $$'hook', ''$$, $$'hook', 'SECRET'$$, $$'hook', pg_temp.whsec('a', 23)$$, $$'hook', pg_temp.whsec('a', 65)$$,
    $$'hook', 'whsec_SECRET!SECRET!SECRET!SECRET!SECRET!SECRET!'$$, $$'hook', 'SECRET', 'basic'$$, $$'hook', E'SECRET:\nX', 'basic'$$,
    $$'hook', E'SEC\tRET', 'bearer'$$, $$'hook', repeat('SECRET', 700), 'bearer'$$, $$'hook', 'SECRET', 'tls'$$, $$'hook', 'SECRET', 'sasl'$$,
    $$'hook', 'SECRET', 'password'$$, $$'hook', 'SECRET', NULL$$, $$'hook', 'SECRET', 'bearer', NULL$$, $$'hook', 'SECRET', 'bearer', '-1s'$$,
    $$'hook', 'SECRET', 'bearer', '400 days'$$, $$'inside', 'SECRET', 'bearer'$$, $$'nobody', 'SECRET'$$, $$NULL, 'SECRET'$$]) WITH ORDINALITY AS s (call, n)
CROSS JOIN LATERAL pg_temp.attempt('SELECT evtstore.set_endpoint_secret(' || s.call || ')') AS a
ORDER BY s.n;
\x off

-- NULL removes a kind; another may be missing
SELECT evtstore.set_endpoint_secret('hook', NULL, 'basic');
SELECT evtstore.set_endpoint_secret('hook', NULL, 'basic');
SELECT evtstore.set_endpoint_secret('hook', NULL);
SELECT name, kind FROM secrets();
SELECT kind FROM evtstore_internal.endpoint_secret_kind ORDER BY kind;

-- who sets them cannot read them, nor have them sent to where he can
CREATE ROLE regress_evtstore_admin IN ROLE evtstore_admin, pg_read_all_data;
CREATE ROLE regress_evtstore_writer IN ROLE evtstore_writer;
SET ROLE regress_evtstore_admin;
SELECT evtstore.set_endpoint_secret('hook', 'ey.other', 'bearer');
SELECT count(*) AS readable FROM evtstore_internal.endpoint_secret;
SELECT u.url, a.*
FROM unnest(ARRAY['https://evil.example/hook', 'http://example.com/hook', 'https://example.com:444/hook', 'https://example.com.evil.example/',
    'https://example.com/elsewhere?x=1', 'HTTPS://EXAMPLE.com/hook', 'https://example.com']) WITH ORDINALITY AS u (url, n)
CROSS JOIN LATERAL pg_temp.attempt(format('SELECT evtstore.alter_endpoint(%L, %L)', 'hook', jsonb_build_object('url', u.url))) AS a
ORDER BY u.n;
SELECT evtstore.set_endpoint_secret('hook', NULL, 'bearer');
SELECT evtstore.set_endpoint_secret('hook', NULL, 'tls');
SELECT evtstore.set_endpoint_secret('hook', pg_temp.whsec('s'));
SELECT evtstore.alter_endpoint('hook', '{"url": "https://example.org/"}');
SET ROLE regress_evtstore_writer;
SELECT state, message FROM pg_temp.attempt($$SELECT evtstore.set_endpoint_secret('hook', 'ey.other', 'bearer')$$);
RESET ROLE;

-- rolled back: nothing; dropped: gone, and an endpoint of the same name has none
BEGIN;
SELECT evtstore.set_endpoint_secret('hook', 'ey.third', 'bearer');
ROLLBACK;
SELECT name, kind, secret FROM secrets();
SELECT evtstore.drop_endpoint('hook');
SELECT evtstore.create_endpoint('hook', 'https://example.com/hook');
SELECT count(*) FROM evtstore_internal.endpoint_secret;
SELECT count(*) FROM evtstore_internal.endpoint_secret_kind;

DROP OWNED BY regress_evtstore_admin;
DROP ROLE regress_evtstore_admin;
DROP ROLE regress_evtstore_writer;
