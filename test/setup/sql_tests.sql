-- What the SQL tests share; test/setup/fresh_database loads it into each test's database.

-- runs a statement that must fail and shows how
CREATE FUNCTION fails(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text; context text;
BEGIN
    EXECUTE command;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
    RETURN concat_ws(E'\n    ', state || ' ' || message, 'DETAIL ' || nullif(detail, ''), 'HINT ' || nullif(hint, ''),
                     'CONTEXT ' || (regexp_match(context, '(?:projection|reducer|rule) "[^\n]*'))[1]);
END $$;

-- workers are at it: until it is so
CREATE PROCEDURE eventually(condition text) LANGUAGE plpgsql AS $$
DECLARE
    is_so boolean; deadline timestamptz := clock_timestamp() + '60 s';
BEGIN
    LOOP
        EXECUTE 'SELECT ' || condition INTO is_so;
        EXIT WHEN is_so;
        IF clock_timestamp() > deadline THEN RAISE EXCEPTION 'not in time: %', condition; END IF;
        COMMIT;
        -- sleep: between two looks
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;
