/*
 * projection_tables.c
 *		Which tables a projection keeps: those that it declares, and those that its SQL statements write.
 *
 * Runs in the backend of who defines or rebuilds one.  What a function writes nobody knows before it runs; that is why they
 * can be declared, and why redirect.c looks at what is written in a rebuild.  Keeps nothing.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "error.h"
#include "options.h"
#include "projection_apply.h"
#include "projection_tables.h"
#include "shadow.h"
#include "spi.h"

static List *declared(Jsonb *spec);
static List *written(Jsonb *handlers);
static bool collect(Node *node, void *tables);

char *
es_projection_tables_json(Datum names)
{
	StringInfoData json;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(names), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	initStringInfo(&json);
	for (int i = 0; i < n; i++)
	{
		Oid			table;
		char		kind;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("tables must not contain NULL"),
					 errhint("Write {shop.orders, shop.order_lines}.")));
		table = RangeVarGetRelid(makeRangeVarFromNameList(textToQualifiedNameList(DatumGetTextPP(elements[i]))), NoLock, false);
		kind = get_rel_relkind(table);
		if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s\" is not a table", TextDatumGetCString(elements[i])),
					 errhint("Declare the tables that the handlers write.")));
		appendStringInfoString(&json, i == 0 ? "[" : ", ");
		escape_json(&json, es_shadow_table_name(table));
	}
	appendStringInfoString(&json, n == 0 ? "[]" : "]");
	return json.data;
}

List *
es_projection_tables(Jsonb *spec, const char *owner, const char *search_path)
{
	List	   *tables = declared(spec);
	EsSpiState	state;

	es_spi_become(&state, owner, search_path);
	tables = list_concat_unique_oid(tables, written(es_options_object(spec, "handlers")));
	es_spi_unbecome(&state);
	return tables;
}

static List *
declared(Jsonb *spec)
{
	List	   *tables = NIL;
	ListCell   *lc;

	foreach(lc, es_options_strings(spec, "tables"))
	{
		Oid			table = RangeVarGetRelid(makeRangeVarFromNameList(es_qualified_name(lfirst(lc))), NoLock, true);

		if (!OidIsValid(table))
			ereport(ERROR,
					(errcode(ES_ERRCODE_INVALID_DEFINITION),
					 errmsg("table %s of the projection does not exist", (char *) lfirst(lc)),
					 errhint("Create it, or create the projection again with the tables that it has now.")));
		tables = list_append_unique_oid(tables, table);
	}
	return tables;
}

static List *
written(Jsonb *handlers)
{
	JsonbIterator *it = JsonbIteratorInit(&handlers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	List	   *tables = NIL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		bool		is_batch;
		char	   *sql;
		Oid			type;
		SPIPlanPtr	plan;

		if (token != WJB_VALUE || v.type != jbvString)
			continue;
		sql = es_projection_handler_sql(&v, &is_batch);
		type = es_projection_handler_type(is_batch);
		plan = es_spi_prepare_foreign(sql, 1, &type);
		(void) collect((Node *) es_spi_plan_queries(plan), &tables);
		es_spi_free_plan(plan);
	}
	return tables;
}

/* also what is in WITH */
static bool
collect(Node *node, void *tables)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (query->resultRelation > 0)
		{
			RangeTblEntry *rte = rt_fetch(query->resultRelation, query->rtable);

			if (rte->relkind == RELKIND_RELATION || rte->relkind == RELKIND_PARTITIONED_TABLE)
				*(List **) tables = list_append_unique_oid(*(List **) tables, rte->relid);
		}
		return query_tree_walker(query, collect, tables, 0);
	}
	return expression_tree_walker(node, collect, tables);
}
