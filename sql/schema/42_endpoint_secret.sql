-- What endpoints sign and log in with (endpoint_secret.c).  No view shows it.  Row security without a policy keeps the rows from members of
-- pg_read_all_data, too; the owner of the table does not mind it.
CREATE TABLE evtstore_internal.endpoint_secret (
    endpoint_id int NOT NULL,
    kind text COLLATE "C" NOT NULL,
    number int NOT NULL,
    secret text NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz,
    PRIMARY KEY (endpoint_id, kind, number)
);
COMMENT ON TABLE evtstore_internal.endpoint_secret IS 'secrets of endpoints, the highest number of a kind is the newest; not in dumps';
COMMENT ON COLUMN evtstore_internal.endpoint_secret.until IS 'it holds no longer; NULL: it is the newest';
ALTER TABLE evtstore_internal.endpoint_secret ENABLE ROW LEVEL SECURITY;

-- That there is one goes into dumps: a restored endpoint waits for it, and delivers nothing unsigned meanwhile.
CREATE TABLE evtstore_internal.endpoint_secret_kind (
    endpoint_id int NOT NULL,
    kind text COLLATE "C" NOT NULL,
    PRIMARY KEY (endpoint_id, kind)
);
COMMENT ON TABLE evtstore_internal.endpoint_secret_kind IS 'which kinds of secrets an endpoint was given';

SELECT pg_catalog.pg_extension_config_dump('evtstore_internal.endpoint_secret_kind', '');
