/*
 * shadow.c
 *		Tables made like others, empty, that take their place later (table_swap.c).
 *
 * Runs in the backend of who begins a rebuild and in the worker that ends it.  A shadow has the columns of its table under the
 * same numbers, dropped ones included, so that a plan for the one fits the other; its constraints, indexes and triggers; and the
 * same owner and grants, but where policies say who sees which rows.  It lies in a schema of its own, whose names everybody may look up,
 * as foreign keys do it as the owner.  Shadows are the user's data as far as a dump is concerned, and go with the extension.
 *
 * A foreign key to or from a table that is no part of it would check that one's rows against a shadow, or leave them unchecked: such
 * tables are refused.
 *
 * The statements that make one are generated from the catalogs, and run as the table's owner, because index expressions are
 * his code.  He may create in the schema only within this transaction; two that give and take this privilege wait
 * for each other (ES_LOCK_SHADOW).  The same statements, with another name, are the fingerprint of what the table was
 * then, and of what the shadow must be still.  Everything is transactional.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "lock.h"
#include "shadow.h"
#include "spi.h"

/* of a table's name in that of its shadow */
#define NAME_BYTES 30

/*
 * how a shadow is made; $1 the table, $2 the shadow's name, $3 what the names of its indexes begin with, $4 and $5 tables and
 * their shadows, $6 the schema.  Foreign keys come last, when all shadows are there
 */
static EsPlan statements_plan = {
	.sql =
	"WITH t AS (SELECT c.*, c.oid::regclass::text AS name FROM pg_class c WHERE c.oid = $1),"
	" a AS (SELECT a.*, y.typcollation, y.typstorage, pg_get_expr(d.adbin, d.adrelid) AS expression"
	"   FROM pg_attribute a LEFT JOIN pg_type y ON y.oid = a.atttypid"
	"   LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated <> ''"
	"   WHERE a.attrelid = $1 AND a.attnum > 0),"
	" k AS (SELECT k.*, pg_get_constraintdef(k.oid) AS text FROM pg_constraint k WHERE k.conrelid = $1),"
	" i AS (SELECT ic.relname, ic.reltablespace, ic.reloptions, pg_get_indexdef(x.indexrelid) AS text, k.text AS constraint_text,"
	"     format('%I', $3 || row_number() OVER by_text) AS name, row_number() OVER by_text AS n"
	"   FROM pg_index x JOIN pg_class ic ON ic.oid = x.indexrelid CROSS JOIN t"
	"   LEFT JOIN k ON k.conindid = x.indexrelid AND k.contype IN ('p', 'u', 'x') WHERE x.indrelid = $1 AND x.indisvalid"
	"   WINDOW by_text AS (ORDER BY replace(pg_get_indexdef(x.indexrelid), format(' INDEX %I ON %s USING ', ic.relname, t.name), ''), k.text, ic.relname))"
	" SELECT statement, step = 9 FROM ("
	"  SELECT 1 AS step, 0::bigint AS n, format('CREATE %sTABLE %s (%s) USING heap%s%s',"
	"    CASE t.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, $2,"
	"    (SELECT string_agg(CASE WHEN a.attisdropped THEN format('%I int', '.evtstore.dropped.' || a.attnum) ELSE"
	"       format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))"
	"       || CASE WHEN a.attcollation <> a.typcollation THEN format(' COLLATE %s', a.attcollation::regcollation) ELSE '' END"
	"       || CASE a.attgenerated WHEN 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', a.expression)"
	"            WHEN 'v' THEN format(' GENERATED ALWAYS AS (%s) VIRTUAL', a.expression) ELSE '' END"
	"       || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END END, ', ' ORDER BY a.attnum) FROM a),"
	"    ' WITH (' || (SELECT string_agg(o.name, ', ') FROM (SELECT unnest(t.reloptions) AS name UNION ALL"
	"       SELECT 'toast.' || unnest(w.reloptions) FROM pg_class w WHERE w.oid = t.reltoastrelid) o) || ')',"
	"    (SELECT format(' TABLESPACE %I', s.spcname) FROM pg_tablespace s WHERE s.oid = t.reltablespace)) AS statement FROM t"
	" UNION ALL SELECT 2, a.attnum, format('ALTER TABLE %s DROP COLUMN %I', $2, '.evtstore.dropped.' || a.attnum) FROM a WHERE a.attisdropped"
	" UNION ALL SELECT 3, a.attnum, format('ALTER TABLE %s ALTER COLUMN %I SET STORAGE %s', $2, a.attname,"
	"    CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END)"
	"    FROM a WHERE NOT a.attisdropped AND a.attstorage <> a.typstorage"
	" UNION ALL SELECT 4, a.attnum, format('ALTER TABLE %s ALTER COLUMN %I SET COMPRESSION %s', $2, a.attname,"
	"    CASE a.attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END) FROM a WHERE NOT a.attisdropped AND a.attcompression <> ''"
	" UNION ALL SELECT 5, row_number() OVER (ORDER BY k.conname), format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, k.conname, k.text) FROM k WHERE k.contype = 'c'"
	" UNION ALL SELECT 6, 3 * i.n, format('SET LOCAL default_tablespace = %L',"
	"    coalesce((SELECT s.spcname FROM pg_tablespace s WHERE s.oid = i.reltablespace), '')) FROM i"
	" UNION ALL SELECT 6, 3 * i.n + 1, coalesce(format('ALTER TABLE %s ADD CONSTRAINT %s ', $2, i.name) || i.constraint_text,"
	"    replace(i.text, format(' INDEX %I ON %s USING ', i.relname, t.name), format(' INDEX %s ON %s USING ', i.name, $2))) FROM i, t"
	" UNION ALL SELECT 6, 3 * i.n + 2, format('ALTER INDEX %I.%s SET (%s)', $6, i.name, array_to_string(i.reloptions, ', '))"
	"    FROM i WHERE i.constraint_text IS NOT NULL AND i.reloptions IS NOT NULL"
	" UNION ALL SELECT 7, row_number() OVER (ORDER BY g.tgname), replace(pg_get_triggerdef(g.oid), format(' ON %s ', t.name), format(' ON %s ', $2))"
	"    FROM pg_trigger g, t WHERE g.tgrelid = $1 AND NOT g.tgisinternal"
	" UNION ALL SELECT 8, row_number() OVER (ORDER BY g.tgname), format('ALTER TABLE %s %s TRIGGER %I', $2,"
	"    CASE g.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, g.tgname)"
	"    FROM pg_trigger g WHERE g.tgrelid = $1 AND NOT g.tgisinternal AND g.tgenabled <> 'O'"
	" UNION ALL SELECT 9, row_number() OVER (ORDER BY k.conname), format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, k.conname,"
	"    replace(k.text, format(' REFERENCES %s(', k.confrelid::regclass), format(' REFERENCES %s(', ($5::text[])[array_position($4::oid[], k.confrelid)])))"
	"    FROM k WHERE k.contype = 'f') s ORDER BY step, n",
	.nargs = 6,
	.args = {OIDOID, TEXTOID, TEXTOID, OIDARRAYOID, TEXTARRAYOID, TEXTOID},
};

/* what others may do with the table, they may do with the shadow: handlers may run as them */
static EsPlan grants_plan = {
	.sql = "SELECT format('GRANT %s%s ON %s TO %s', e.privilege_type, g.columns, $2, CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', r.rolname) END)"
	" FROM (SELECT c.relacl AS acl, '' AS columns FROM pg_class c WHERE c.oid = $1"
	"   UNION ALL SELECT a.attacl, format(' (%I)', a.attname) FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped) g"
	" CROSS JOIN LATERAL aclexplode(g.acl) e LEFT JOIN pg_roles r ON r.oid = e.grantee"
	" WHERE e.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')"
	/* a policy would be missing */
	"   AND NOT (SELECT relrowsecurity FROM pg_class WHERE oid = $1)"
	"   AND e.grantee <> (SELECT relowner FROM pg_class WHERE oid = $1) AND (e.grantee = 0 OR r.oid IS NOT NULL)",
	.nargs = 2,
	.args = {OIDOID, TEXTOID},
};

static EsPlan revokes_plan = {
	.sql = "SELECT DISTINCT format('REVOKE ALL ON %s FROM %s', $2, CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', r.rolname) END)"
	" FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) e LEFT JOIN pg_roles r ON r.oid = e.grantee"
	" WHERE c.oid = $1 AND e.grantee <> c.relowner AND (e.grantee = 0 OR r.oid IS NOT NULL)",
	.nargs = 2,
	.args = {OIDOID, TEXTOID},
};

/* by what follows the names in their definitions, and by the kind of constraint; those that are equal in all are as good as each other */
static EsPlan indexes_plan = {
	.sql =
	"WITH i AS (SELECT x.indrelid, x.indexrelid, d.text, row_number() OVER (PARTITION BY x.indrelid, d.text ORDER BY x.indexrelid) AS n"
	"   FROM pg_index x JOIN pg_class ic ON ic.oid = x.indexrelid"
	"   LEFT JOIN pg_constraint k ON k.conindid = x.indexrelid AND k.conrelid = x.indrelid AND k.contype IN ('p', 'u', 'x')"
	"   CROSS JOIN LATERAL (SELECT concat_ws('|', replace(pg_get_indexdef(x.indexrelid), format(' INDEX %I ON %s USING ', ic.relname, x.indrelid::regclass), ' INDEX '),"
	"     pg_get_constraintdef(k.oid)) AS text) d"
	"   WHERE x.indrelid IN ($1, $2) AND x.indisvalid)"
	" SELECT a.indexrelid, b.indexrelid FROM (SELECT * FROM i WHERE indrelid = $1) a FULL JOIN (SELECT * FROM i WHERE indrelid = $2) b USING (text, n) ORDER BY 1",
	.nargs = 2,
	.args = {OIDOID, OIDOID},
};

/* why it cannot have one: what goes on in other tables would look at the shadow, too, or must hear of the exchange; NULL: it can */
static EsPlan obstacle_plan = {
	.sql =
	"SELECT coalesce("
	"  (SELECT format('Its foreign key \"%s\" refers to table %s, which is no table of the projection.', k.conname, k.confrelid::regclass)"
	"   FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = $1 AND k.confrelid <> ALL ($2) LIMIT 1),"
	"  (SELECT format('Table %s refers to it with the foreign key \"%s\", and is no table of the projection.', k.conrelid::regclass, k.conname)"
	"   FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid = $1 AND k.conrelid <> ALL ($2) LIMIT 1),"
	"  (SELECT format('Its index \"%s\" has an access method that is none of the server''s own.', i.relname)"
	"   FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = $1 AND i.relam >= 16384 LIMIT 1),"
	"  (SELECT format('Its index \"%s\" is not valid, or is being built.', i.relname)"
	"   FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = $1 AND NOT (x.indisvalid AND x.indislive) LIMIT 1),"
	"  (SELECT format('It is in publication \"%s\", whose subscribers would not hear of the exchange.', p.pubname)"
	"   FROM pg_publication_tables p JOIN pg_class c ON c.relname = p.tablename JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = p.schemaname"
	"   WHERE c.oid = $1 LIMIT 1))",
	.nargs = 2,
	.args = {OIDOID, OIDARRAYOID},
};

static EsPlan digest_plan = {
	.sql = "SELECT encode(sha256(convert_to(array_to_string($1, E'\\n'), 'UTF8')), 'hex')",
	.nargs = 1,
	.args = {TEXTARRAYOID},
};

static void check_kind(Oid table);
static List *make(List *shadows, Datum tables, Datum names);
static int	pin_settings(void);
static void describe_table(void *arg);
static void run_as_owner(const EsShadow *shadow, List *statements);
static void privilege(const char *format, const char *role);
static void statements(const EsShadow *shadow, Datum tables, Datum names, List **own, List **references);
static List *privileges(EsPlan *plan, Oid table, const char *shadow);
static char *fingerprint(Oid table, Datum tables, Datum names);
static Oid	owner_of(Oid table);
static void refuse_obstacles(List *tables);
static void refuse(Oid table, const char *why) es_noreturn;
static Datum names_of(List *shadows);
static Datum oid_array(List *oids);
static Datum text_array(List *strings);
static Oid	resolve(const char *name);
static void go_with_extension(Oid table);

List *
es_shadow_make(List *tables, const char *prefix)
{
	List	   *shadows = NIL;
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, tables)
	{
		EsShadow   *shadow = palloc0(sizeof(EsShadow));
		Oid			table = lfirst_oid(lc);
		char	   *name;

		LockRelationOid(table, AccessShareLock);
		check_kind(table);
		name = get_rel_name(table);
		name[pg_mbcliplen(name, strlen(name), NAME_BYTES)] = '\0';
		name = psprintf("%s%d_%s", prefix, list_length(shadows) + 1, name);
		shadow->table = es_shadow_table_name(table);
		shadow->shadow = quote_qualified_identifier(ES_SHADOW_SCHEMA, name);
		shadow->table_oid = table;
		shadows = lappend(shadows, shadow);
		names = lappend(names, shadow->shadow);
	}
	refuse_obstacles(tables);
	return make(shadows, oid_array(tables), text_array(names));
}

static void
check_kind(Oid table)
{
	Relation	rel = relation_open(table, AccessShareLock);

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		refuse(table, "It is not an ordinary table.");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		refuse(table, "It is a temporary or unlogged table.");
	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		refuse(table, "It has another access method than heap.");
	if (rel->rd_rel->relispartition || rel->rd_rel->relhassubclass || has_superclass(table))
		refuse(table, "It inherits from another table, or another one from it.");
	relation_close(rel, NoLock);
}

char *
es_shadow_table_name(Oid table)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), get_rel_name(table));
}

void
es_shadow_resolve(List *shadows)
{
	ListCell   *lc;

	foreach(lc, shadows)
	{
		EsShadow   *shadow = lfirst(lc);

		shadow->table_oid = resolve(shadow->table);
		shadow->shadow_oid = resolve(shadow->shadow);
	}
}

void
es_shadow_check(List *shadows)
{
	int			settings = pin_settings();
	ListCell   *lc;
	List	   *tables = NIL;
	List	   *copies = NIL;

	foreach(lc, shadows)
	{
		EsShadow   *shadow = lfirst(lc);

		check_kind(shadow->table_oid);
		tables = lappend_oid(tables, shadow->table_oid);
		copies = lappend_oid(copies, shadow->shadow_oid);
	}
	foreach(lc, shadows)
	{
		EsShadow   *shadow = lfirst(lc);

		/* the shadow, too: it is its owner's, and a file of another shape must not come under this table */
		if (owner_of(shadow->table_oid) != owner_of(shadow->shadow_oid) ||
			strcmp(fingerprint(shadow->table_oid, oid_array(tables), names_of(shadows)), shadow->fingerprint) != 0 ||
			strcmp(fingerprint(shadow->shadow_oid, oid_array(copies), names_of(shadows)), shadow->fingerprint) != 0)
			ereport(ERROR,
					(errcode(ES_ERRCODE_INVALID_DEFINITION),
					 errmsg("table %s was altered while it was rebuilt", shadow->table),
					 errdetail("What was built has its former owner, columns, constraints, indexes or triggers."),
					 errhint("Cancel the rebuild with evtstore.cancel_rebuild(), and begin it again.")));
	}
	refuse_obstacles(tables);
	AtEOXact_GUC(false, settings);
}

void
es_shadow_check_columns(Oid table, Oid shadow)
{
	Relation	a = relation_open(table, NoLock);
	Relation	b = relation_open(shadow, NoLock);
	TupleDesc	desc_a = RelationGetDescr(a);
	TupleDesc	desc_b = RelationGetDescr(b);
	bool		same = desc_a->natts == desc_b->natts;

	for (int i = 0; i < desc_a->natts && same; i++)
	{
		Form_pg_attribute x = TupleDescAttr(desc_a, i);
		Form_pg_attribute y = TupleDescAttr(desc_b, i);

		same = x->attisdropped == y->attisdropped &&
			(x->attisdropped || (x->atttypid == y->atttypid && x->atttypmod == y->atttypmod && x->attcollation == y->attcollation));
	}
	relation_close(a, NoLock);
	relation_close(b, NoLock);
	if (!same)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("table %s was altered while it was rebuilt", es_shadow_table_name(table)),
				 errdetail("What is built has its former columns."),
				 errhint("Cancel the rebuild with evtstore.cancel_rebuild(), and begin it again.")));
}

EsIndexPair *
es_shadow_indexes(const EsShadow *shadow, bool all, int *n)
{
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[2] = {ObjectIdGetDatum(shadow->table_oid), ObjectIdGetDatum(shadow->shadow_oid)};
	EsIndexPair *pairs;
	uint64		rows;
	bool		is_alone = false;

	*n = 0;
	es_spi_begin(&state);
	rows = es_spi_run_latest(&indexes_plan, values, NULL);
	pairs = MemoryContextAlloc(caller, Max(rows, 1) * sizeof(EsIndexPair));
	for (uint64 i = 0; i < rows; i++)
	{
		bool		isnull[2];

		pairs[*n].index = DatumGetObjectId(es_spi_value(i, 0, &isnull[0]));
		pairs[*n].shadow = DatumGetObjectId(es_spi_value(i, 1, &isnull[1]));
		if (isnull[0] || isnull[1])
			is_alone = true;
		else
			(*n)++;
	}
	es_spi_end(&state);
	if (all && is_alone)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("table %s and its shadow %s have other indexes", shadow->table, shadow->shadow),
				 errhint("Cancel the rebuild with evtstore.cancel_rebuild(), and begin it again.")));
	return pairs;
}

void
es_shadow_drop(List *shadows)
{
	EsSpiState	state;
	StringInfoData sql;
	ListCell   *lc;

	if (shadows == NIL)
		return;
	initStringInfo(&sql);
	/* together: they may refer to each other */
	foreach(lc, shadows)
		appendStringInfo(&sql, "%s %s", sql.len == 0 ? "DROP TABLE IF EXISTS" : ",", ((EsShadow *) lfirst(lc))->shadow);
	/* somebody may have made a view of one */
	appendStringInfoString(&sql, " CASCADE");
	es_spi_begin(&state);
	es_spi_execute(sql.data);
	es_spi_end(&state);
}

static List *
make(List *shadows, Datum tables, Datum names)
{
	Datum		table_names = names_of(shadows);
	int			settings = pin_settings();
	ErrorContextCallback context = {.previous = error_context_stack, .callback = describe_table};
	List	   *references = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	es_lock(ES_LOCK_SHADOW, 0);
	foreach(lc, shadows)
	{
		EsShadow   *shadow = lfirst(lc);
		List	   *own;
		List	   *later;

		context.arg = shadow;
		error_context_stack = &context;
		statements(shadow, tables, names, &own, &later);
		references = lappend(references, later);
		run_as_owner(shadow, own);
		shadow->shadow_oid = resolve(shadow->shadow);
		/* what default privileges gave */
		run_as_owner(shadow, privileges(&revokes_plan, shadow->shadow_oid, shadow->shadow));
		run_as_owner(shadow, privileges(&grants_plan, shadow->table_oid, shadow->shadow));
		shadow->fingerprint = fingerprint(shadow->table_oid, tables, table_names);
		go_with_extension(shadow->shadow_oid);
	}
	forboth(lc, shadows, lc2, references)
		run_as_owner(lfirst(lc), lfirst(lc2));
	error_context_stack = context.previous;
	AtEOXact_GUC(false, settings);
	return shadows;
}

static void
describe_table(void *arg)
{
	errcontext("making a table like %s", ((const EsShadow *) arg)->table);
}

/* what the text of a definition depends on, and what it makes; to be undone with AtEOXact_GUC(false, ) */
static int
pin_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			pinned[] = {
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
		{"xmloption", "content"},
		{"quote_all_identifiers", "off"},
		{"default_tablespace", ""},
	};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(pinned); i++)
		(void) set_config_option(pinned[i].name, pinned[i].value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/* Locks: ES_LOCK_SHADOW, held */
static void
run_as_owner(const EsShadow *shadow, List *statements)
{
	char	   *owner = GetUserNameFromId(owner_of(shadow->table_oid), false);
	bool		may_create = es_may_create_in(get_namespace_oid(ES_SHADOW_SCHEMA, false), owner_of(shadow->table_oid));
	EsSpiState	state;
	ListCell   *lc;

	if (statements == NIL)
		return;
	if (!may_create)
		privilege("GRANT CREATE ON SCHEMA " ES_SHADOW_SCHEMA " TO %s", owner);
	es_spi_become(&state, owner, "pg_catalog");
	foreach(lc, statements)
	{
		SPIPlanPtr	plan = es_spi_prepare_foreign(lfirst(lc), 0, NULL);

		es_spi_run_foreign(plan, NULL, lfirst(lc));
		es_spi_free_plan(plan);
	}
	es_spi_unbecome(&state);
	if (!may_create)
		privilege("REVOKE CREATE ON SCHEMA " ES_SHADOW_SCHEMA " FROM %s", owner);
}

static void
privilege(const char *format, const char *role)
{
	EsSpiState	state;
	char	   *sql = psprintf(format, quote_identifier(role));

	es_spi_begin(&state);
	es_spi_execute(sql);
	es_spi_end(&state);
}

/* in order: its own, and those that refer to others */
static void
statements(const EsShadow *shadow, Datum tables, Datum names, List **own, List **references)
{
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;
	List	   *parts = es_qualified_name(shadow->shadow);
	Datum		values[6] = {ObjectIdGetDatum(shadow->table_oid), CStringGetTextDatum(shadow->shadow),
	CStringGetTextDatum(psprintf("%s_", strVal(llast(parts)))), tables, names, CStringGetTextDatum(strVal(linitial(parts)))};
	uint64		n;

	*own = *references = NIL;
	es_spi_begin(&state);
	n = es_spi_run_latest(&statements_plan, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		bool		refers = DatumGetBool(es_spi_value(i, 1, &isnull));
		MemoryContext spi = MemoryContextSwitchTo(caller);

		if (refers)
			*references = lappend(*references, es_spi_text(i, 0));
		else
			*own = lappend(*own, es_spi_text(i, 0));
		MemoryContextSwitchTo(spi);
	}
	es_spi_end(&state);
}

/* the statements of a plan */
static List *
privileges(EsPlan *plan, Oid table, const char *shadow)
{
	MemoryContext caller = CurrentMemoryContext;
	EsSpiState	state;
	Datum		values[2] = {ObjectIdGetDatum(table), CStringGetTextDatum(shadow)};
	List	   *result = NIL;
	uint64		n;

	es_spi_begin(&state);
	n = es_spi_run_latest(plan, values, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);

		result = lappend(result, es_spi_text(i, 0));
		MemoryContextSwitchTo(spi);
	}
	es_spi_end(&state);
	return result;
}

static char *
fingerprint(Oid table, Datum tables, Datum names)
{
	EsShadow	nameless = {.table_oid = table, .shadow = "shadow.shadow"};
	EsSpiState	state;
	List	   *own;
	List	   *references;
	Datum		values[1];
	MemoryContext caller = CurrentMemoryContext;
	char	   *result;

	statements(&nameless, tables, names, &own, &references);
	values[0] = text_array(list_concat(own, references));
	es_spi_begin(&state);
	es_spi_run_latest(&digest_plan, values, NULL);
	result = MemoryContextStrdup(caller, es_spi_text(0, 0));
	es_spi_end(&state);
	return result;
}

static Oid
owner_of(Oid table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", table);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
refuse_obstacles(List *tables)
{
	ListCell   *lc;
	MemoryContext caller = CurrentMemoryContext;

	foreach(lc, tables)
	{
		EsSpiState	state;
		Datum		values[2] = {ObjectIdGetDatum(lfirst_oid(lc)), oid_array(tables)};
		char	   *obstacle = NULL;

		es_spi_begin(&state);
		if (es_spi_run_latest(&obstacle_plan, values, NULL) > 0 && es_spi_text(0, 0) != NULL)
			obstacle = MemoryContextStrdup(caller, es_spi_text(0, 0));
		es_spi_end(&state);
		if (obstacle != NULL)
			refuse(lfirst_oid(lc), obstacle);
	}
}

static void
refuse(Oid table, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("table %s cannot be rebuilt beside itself", es_shadow_table_name(table)),
			 errdetail("%s", why),
			 errhint("Rebuild it in place: evtstore.rebuild_projection(name, '{\"in_place\": true}').")));
}

/* of the tables */
static Datum
names_of(List *shadows)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, shadows)
		names = lappend(names, ((EsShadow *) lfirst(lc))->table);
	return text_array(names);
}

static Datum
oid_array(List *oids)
{
	Datum	   *elements = palloc(Max(list_length(oids), 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, oids)
		elements[n++] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(elements, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

static Datum
text_array(List *strings)
{
	Datum	   *elements = palloc(Max(list_length(strings), 1) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, strings)
		elements[n++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}

static Oid
resolve(const char *name)
{
	Oid			oid = RangeVarGetRelid(makeRangeVarFromNameList(es_qualified_name(name)), NoLock, true);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("table %s of the rebuild is gone", name),
				 errhint("Cancel the rebuild with evtstore.cancel_rebuild(), and begin it again.")));
	return oid;
}

/* it is no part of the extension, or a dump would leave it out, but DROP EXTENSION drops it */
static void
go_with_extension(Oid table)
{
	ObjectAddress object;
	ObjectAddress extension;

	ObjectAddressSet(object, RelationRelationId, table);
	ObjectAddressSet(extension, ExtensionRelationId, es_catalog()->extension);
	recordDependencyOn(&object, &extension, DEPENDENCY_AUTO);
}
