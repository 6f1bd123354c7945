-- The demo's store: a read model, an endpoint, a queue, a rule; and tables to compare with at the end.
-- psql variables: url (of the receiver), log and dpkg (files to load).
\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE EXTENSION evtstore;

-- who imports: may append and read, and has no right on any table
CREATE ROLE importer LOGIN IN ROLE evtstore_writer, evtstore_reader;

-- what dpkg-query would say, kept by the appends themselves
CREATE TABLE public.package_status (
    package text,
    arch text,
    version text,
    status text NOT NULL,
    since timestamptz NOT NULL,
    upgrades int NOT NULL DEFAULT 0,
    stream_version bigint NOT NULL,
    PRIMARY KEY (package, arch)
);

CREATE FUNCTION public.count_upgrade(e evtstore.event) RETURNS void
LANGUAGE sql AS $$
    UPDATE public.package_status SET upgrades = upgrades + 1
    WHERE package = e.data->>'package' AND arch = coalesce(e.data->>'arch', '')
$$;

SELECT evtstore.create_projection('package_status', jsonb_build_object(
    'StatusChanged', $$
        INSERT INTO public.package_status AS p (package, arch, version, status, since, stream_version)
        VALUES (($1).data->>'package', coalesce(($1).data->>'arch', ''), ($1).data->>'version', ($1).data->>'status',
                ($1).occurred_at, ($1).version)
        ON CONFLICT (package, arch) DO UPDATE
        SET version = excluded.version, status = excluded.status, since = excluded.since,
            stream_version = excluded.stream_version
    $$,
    'UpgradeBegun', jsonb_build_object('fn', 'public.count_upgrade')), mode => 'sync') \g /dev/null

-- out: rule -> queue -> worker -> receiver; patient enough for a receiver that is away for minutes
SELECT evtstore.create_endpoint('receiver', :'url', '{"timeout": "5s", "max_in_flight": 32}') \g /dev/null
SELECT evtstore.create_queue('packages', '{"endpoint": "receiver",
    "retry": {"max_attempts": 1000, "initial": "100ms", "multiplier": 2, "max_delay": "1s", "jitter": 0.2}}')
\g /dev/null
SELECT evtstore.create_rule('packages', '{"categories": ["package"]}', 'queue:packages') \g /dev/null

-- what there is to import, and what the machine itself says about its packages
CREATE SCHEMA demo;
CREATE TABLE demo.log_line (n int PRIMARY KEY, stream text, type text, id uuid, occurred_at timestamptz, data jsonb);
CREATE TABLE demo.dpkg (package text, arch text, version text, status text, PRIMARY KEY (package, arch));
-- what the receiver recorded, one line a request; filled in at the end
CREATE TABLE demo.received (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    line jsonb NOT NULL,
    id uuid GENERATED ALWAYS AS ((line->'ce'->>'id')::uuid) STORED,
    stream text GENERATED ALWAYS AS (line->'ce'->>'subject') STORED,
    version bigint GENERATED ALWAYS AS ((line->'ce'->>'streamversion')::bigint) STORED
);
CREATE INDEX ON demo.received (id);

COPY demo.log_line FROM :'log';
COPY demo.dpkg FROM :'dpkg';
