--
-- The public surface, one line for each object: a change of it shows here, and is reviewed as such.
--
\set QUIET on
\pset format unaligned
\pset tuples_only on
\pset null '-'
-- functions and procedures
SELECT CASE p.prokind WHEN 'p' THEN 'procedure ' ELSE 'function ' END || p.proname || '(' || pg_get_function_arguments(p.oid) || ')' ||
       coalesce(' -> ' || pg_get_function_result(p.oid), '') ||
       CASE p.provolatile WHEN 'v' THEN '' ELSE ' NOT VOLATILE' END || CASE p.proparallel WHEN 'u' THEN '' ELSE ' PARALLEL' END ||
       CASE WHEN p.prosecdef THEN ' SECURITY DEFINER' ELSE '' END || CASE WHEN p.proisstrict THEN ' STRICT' ELSE '' END
FROM pg_proc p WHERE p.pronamespace = 'evtstore'::regnamespace
ORDER BY p.proname, pg_get_function_arguments(p.oid);
-- views
SELECT 'view ' || c.relname || '(' || string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) || ')'
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'evtstore'::regnamespace AND c.relkind = 'v' GROUP BY c.relname ORDER BY c.relname;
-- types
SELECT 'type ' || c.relname || '(' || string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) || ')'
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'evtstore'::regnamespace AND c.relkind = 'c' GROUP BY c.relname ORDER BY c.relname;
-- anything else in the schema
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = 'evtstore'::regnamespace AND d.deptype = 'n'
  AND d.classid <> 'pg_proc'::regclass
  AND NOT (d.classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = d.objid) IN ('v', 'c'))
  AND NOT (d.classid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_type t LEFT JOIN pg_type e ON e.oid = t.typelem
                                                      WHERE t.oid = d.objid AND (t.typrelid <> 0 OR e.typrelid <> 0)))
ORDER BY 1;
-- everything has a comment
SELECT 'no comment: ' || pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d
WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'evtstore') AND d.deptype = 'e'
  AND (d.classid = 'pg_proc'::regclass OR d.classid = 'pg_namespace'::regclass
       OR (d.classid = 'pg_class'::regclass AND (SELECT relkind FROM pg_class WHERE oid = d.objid) IN ('v', 'r'))
       OR (d.classid = 'pg_type'::regclass AND (SELECT c.relkind FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid WHERE t.oid = d.objid) = 'c'))
  AND obj_description(d.objid, d.classid::regclass::name) IS NULL
  AND NOT (d.classid = 'pg_type'::regclass AND obj_description((SELECT typrelid FROM pg_type WHERE oid = d.objid), 'pg_class') IS NOT NULL)
ORDER BY 1;
-- settings
SELECT 'setting ' || name || ' ' || vartype || ' ' || context || ' ' || boot_val FROM pg_settings WHERE name LIKE 'evtstore.%' ORDER BY name;
-- every table has a primary key, and is dumped, as are sequences
SELECT 'no primary key: ' || c.relname FROM pg_class c
WHERE c.relnamespace = 'evtstore_internal'::regnamespace AND c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);
SELECT 'not dumped: ' || c.relname FROM pg_class c
WHERE c.relnamespace = 'evtstore_internal'::regnamespace AND c.relkind IN ('r', 'S')
  AND NOT EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'evtstore' AND c.oid = ANY (e.extconfig))
ORDER BY c.relname;
-- no column that would stop pg_upgrade
SELECT 'reg* column: ' || a.attrelid::regclass || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace IN ('evtstore'::regnamespace, 'evtstore_internal'::regnamespace) AND c.relkind IN ('r', 'c') AND a.atttypid::regtype::text LIKE 'reg%';
