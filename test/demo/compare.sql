-- Compares what came out with what went in.  Prints rows of kind (check, figure), name, value, ok.
-- psql variables: record, the file that the receiver wrote; authority, who filled demo.dpkg.
\set ON_ERROR_STOP on
SET client_min_messages = warning;

-- a quote and a delimiter that no JSON holds: COPY takes whole lines
TRUNCATE demo.received RESTART IDENTITY;
COPY demo.received (line) FROM :'record' WITH (FORMAT csv, QUOTE E'\x01', DELIMITER E'\x02');
ANALYZE demo.received;
ANALYZE demo.log_line;

CREATE TEMP TABLE event AS
    SELECT * FROM evtstore.events;
CREATE UNIQUE INDEX ON event (id);
ANALYZE event;

-- when each event came first
CREATE TEMP TABLE arrival AS
    SELECT DISTINCT ON (id) id, n, to_timestamp((line->>'received_at')::numeric) AS received_at
    FROM demo.received
    ORDER BY id, n;
CREATE UNIQUE INDEX ON arrival (id);
ANALYZE arrival;

CREATE TEMP TABLE result (n int GENERATED ALWAYS AS IDENTITY, kind text, name text, value text, ok boolean);

-- in: the log is in the store
INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'in: each line of the log is one event, with its content and time',
       format('%s lines, %s missing or different', count(*), count(*) FILTER (WHERE NOT same)), bool_and(same)
FROM (SELECT (l.stream, l.type, l.occurred_at, l.data)
             IS NOT DISTINCT FROM (e.stream, e.type, e.occurred_at, e.data) AS same
      FROM demo.log_line l
      LEFT JOIN event e USING (id)) x;

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'in: streams keep the order of the log, versions have no gap',
       format('%s streams, %s wrong', count(*), count(*) FILTER (WHERE NOT fits)), bool_and(fits)
FROM (SELECT min(version) = 1 AND max(version) = count(*) AND coalesce(bool_and(in_order), true) AS fits
      FROM (SELECT e.stream, e.version,
                   CASE WHEN l.n IS NOT NULL
                        THEN e.version > lag(e.version) OVER (PARTITION BY e.stream, l.n IS NULL ORDER BY l.n)
                   END AS in_order
            FROM event e
            LEFT JOIN demo.log_line l USING (id)) x
      GROUP BY stream) y;

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'in: nothing else but what the rival and the count appended',
       format('%s events: %s of the log, %s of the rival, %s counted', count(*), count(l.n),
              count(*) FILTER (WHERE e.type = 'PackageReviewed'), count(*) FILTER (WHERE e.type = 'PackageCounted')),
       count(*) = count(l.n) + count(*) FILTER (WHERE e.type IN ('PackageReviewed', 'PackageCounted'))
FROM event e
LEFT JOIN demo.log_line l USING (id);

-- the read model; an upgrade of a package that the log says nothing of before has no row to count in
CREATE TEMP TABLE replayed AS
    SELECT package, arch, last.version, last.status, last.occurred_at AS since, last.stream_version,
           coalesce(u.upgrades, 0) AS upgrades
    FROM (SELECT DISTINCT ON (1, 2)
                 data->>'package' AS package, coalesce(data->>'arch', '') AS arch, data->>'version' AS version,
                 data->>'status' AS status, occurred_at, version AS stream_version
          FROM event
          WHERE type = 'StatusChanged'
          ORDER BY 1, 2, event.version DESC) last
    LEFT JOIN (SELECT package, arch, count(*)::int AS upgrades
               FROM (SELECT data->>'package' AS package, coalesce(data->>'arch', '') AS arch, type, version,
                            min(version) FILTER (WHERE type = 'StatusChanged')
                                OVER (PARTITION BY stream, coalesce(data->>'arch', '')) AS first_status
                     FROM event) x
               WHERE type = 'UpgradeBegun' AND version > first_status
               GROUP BY package, arch) u USING (package, arch);

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'read model: it is what its events say',
       format('%s packages, %s different', count(*), count(*) FILTER (WHERE NOT same)), coalesce(bool_and(same), false)
FROM (SELECT (p.version, p.status, p.since, p.stream_version, p.upgrades)
             IS NOT DISTINCT FROM (r.version, r.status, r.since, r.stream_version, r.upgrades) AS same
      FROM public.package_status p
      FULL JOIN replayed r USING (package, arch)) x;

-- A package's log is complete when it begins with an installation from nothing.  One that changed its architecture
-- leaves its old name behind without a word in the log.
CREATE TEMP TABLE package AS
    SELECT p.package, p.arch, p.version, p.status,
           d.version AS dpkg_version, coalesce(d.status, 'not-installed') AS dpkg_status,
           CASE WHEN p.arch = '' THEN 'no architecture in the log'
                WHEN NOT (f.type = 'InstallBegun' AND f.data->>'from' IS NULL) THEN 'installed before the log begins'
                WHEN d.package IS NULL AND EXISTS (SELECT FROM demo.dpkg o WHERE o.package = p.package)
                    THEN 'changed its architecture'
           END AS excluded
    FROM public.package_status p
    JOIN (SELECT DISTINCT ON (1, 2) data->>'package' AS package, coalesce(data->>'arch', '') AS arch, type, data
          FROM demo.log_line
          ORDER BY 1, 2, n) f USING (package, arch)
    LEFT JOIN demo.dpkg d ON d.package = p.package AND d.arch = p.arch;
ALTER TABLE package ADD agrees boolean;
UPDATE package SET agrees = status = dpkg_status AND (status = 'not-installed' OR version = dpkg_version);

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'read model: it agrees with ' || :'authority',
       format('%s packages compared, %s different', count(*), count(*) FILTER (WHERE NOT agrees)),
       coalesce(bool_and(agrees), false)
FROM package
WHERE excluded IS NULL;

INSERT INTO result (kind, name, value)
SELECT 'figure', '  not compared: ' || excluded, format('%s (%s agree)', count(*), count(*) FILTER (WHERE agrees))
FROM package
WHERE excluded IS NOT NULL
GROUP BY excluded;

INSERT INTO result (kind, name, value)
SELECT 'figure', '  not compared: not in the log', count(*)::text
FROM demo.dpkg d
WHERE NOT EXISTS (SELECT FROM public.package_status p WHERE p.package = d.package AND p.arch = d.arch)
HAVING count(*) > 0;

-- out: the receiver's record is the store
INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'out: nothing is lost, the receiver has every event',
       format('%s events, %s missing', count(*), count(*) FILTER (WHERE a.id IS NULL)), bool_and(a.id IS NOT NULL)
FROM event e
LEFT JOIN arrival a USING (id);

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'out: all that it got is in the store, each time with this content',
       format('%s requests, %s unknown or different', count(*), count(*) FILTER (WHERE NOT same)), bool_and(same)
FROM (SELECT (r.stream, r.version, r.line->'ce'->>'type', r.line->'body', r.line->'ce'->>'sequence')
             IS NOT DISTINCT FROM (e.stream, e.version, e.type, e.data, lpad(e.position::text, 19, '0')) AS same
      FROM demo.received r
      LEFT JOIN event e USING (id)) x;

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'out: the order of each stream is kept',
       format('%s events, %s before their predecessor', count(*), count(*) FILTER (WHERE NOT in_order)),
       bool_and(in_order)
FROM (SELECT row_number() OVER (PARTITION BY e.stream ORDER BY a.n) = e.version AS in_order
      FROM arrival a
      JOIN event e USING (id)) x;

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'out: no message was given up', format('%s dead letters', count(*)), count(*) = 0
FROM evtstore.dead_letters;

INSERT INTO result (kind, name, value, ok)
SELECT 'check', 'the store is well',
       coalesce(string_agg(check_name || ': ' || detail, '; ') FILTER (WHERE NOT ok), 'evtstore.health()'),
       bool_and(ok)
FROM evtstore.health();

-- figures
INSERT INTO result (kind, name, value)
SELECT 'figure', 'events', count(*)::text FROM event;

INSERT INTO result (kind, name, value)
SELECT 'figure', 'delivered', count(*)::text FROM arrival;

INSERT INTO result (kind, name, value)
SELECT 'figure', 'delivered more than once',
       format('%s, of them %s after a later event of their stream', count(*), count(*) FILTER (WHERE late))
FROM (SELECT r.version < max(r.version) OVER (PARTITION BY r.stream ORDER BY r.n) AS late, r.n, a.n AS first_n
      FROM demo.received r
      JOIN arrival a USING (id)) x
WHERE n > first_n;

INSERT INTO result (kind, name, value)
SELECT 'figure', 'append to receiver, ' || part,
       format('p50 %s ms, p99 %s ms', round(p50::numeric, 1), round(p99::numeric, 1))
FROM (SELECT part, percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS p50,
             percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) AS p99
      FROM (SELECT extract(epoch FROM a.received_at - e.recorded_at) * 1000 AS ms,
                   CASE WHEN e.type = 'PackageCounted' THEN 'steady load, all up' ELSE 'import and outages' END AS part
            FROM event e
            JOIN arrival a USING (id)) x
      GROUP BY part) y
ORDER BY part;

SELECT kind, name, value, coalesce(ok, true) FROM result ORDER BY n;
