/*
 * table_swap.c
 *		Two tables that are made alike exchange their files, as in CLUSTER.
 *
 * Runs in the worker that ends a rebuild.  A row of pg_class says where the rows of a table or index are; two such rows exchange
 * that, and what goes with the file: its size, the freeze limits, the toast table.  Whoever opened the table before has a
 * lock on it; who opens it later reads the invalidation first.
 *
 * That the two are alike is the caller's business (shadow.c): a file is read as pg_attribute and pg_index of its new owner say.
 * Neither file may be new in this transaction, whose WAL might not have been written (wal_level = minimal).
 *
 * Locks: both tables, AccessExclusive, held by the caller.  Everything is transactional: a crash leaves both as they were, or
 * exchanged.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "commands/tablecmds.h"
#include "storage/predicate.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "table_swap.h"

#define EXCHANGE(type, a, b) \
	do { \
		type es_exchanged = (a); \
		(a) = (b); \
		(b) = es_exchanged; \
	} while (0)

static void check_old(Oid relid);
static void exchange_rows(Oid a, Oid b);
static void exchange_toast(Oid a, Oid toast_a, Oid b, Oid toast_b);
static void belong(Oid toast, Oid table);

void
es_table_swap(Oid a, Oid b)
{
	Relation	rel_a = table_open(a, NoLock);
	Relation	rel_b = table_open(b, NoLock);
	Oid			toast_a = rel_a->rd_rel->reltoastrelid;
	Oid			toast_b = rel_b->rd_rel->reltoastrelid;

	/* rows that serializable transactions have read are others from now on */
	TransferPredicateLocksToHeapRelation(rel_a);
	TransferPredicateLocksToHeapRelation(rel_b);
	CheckTableNotInUse(rel_a, "rebuild_projection");
	CheckTableNotInUse(rel_b, "rebuild_projection");
	table_close(rel_a, NoLock);
	table_close(rel_b, NoLock);
	exchange_rows(a, b);
	exchange_toast(a, toast_a, b, toast_b);
	CommandCounterIncrement();
}

void
es_table_swap_index(Oid a, Oid b)
{
	Relation	rel_a = index_open(a, NoLock);
	Relation	rel_b = index_open(b, NoLock);

	TransferPredicateLocksToHeapRelation(rel_a);
	TransferPredicateLocksToHeapRelation(rel_b);
	index_close(rel_a, NoLock);
	index_close(rel_b, NoLock);
	exchange_rows(a, b);
	CommandCounterIncrement();
}

void
es_table_swap_name_toast(Oid table)
{
	Relation	rel = table_open(table, NoLock);
	Oid			toast = rel->rd_rel->reltoastrelid;
	char		name[NAMEDATALEN];

	table_close(rel, NoLock);
	if (!OidIsValid(toast))
		return;
	snprintf(name, sizeof(name), "pg_toast_%u", table);
	RenameRelationInternal(toast, name, true, false);
	CommandCounterIncrement();
	snprintf(name, sizeof(name), "pg_toast_%u_index", table);
	RenameRelationInternal(toast_get_valid_index(toast, AccessExclusiveLock), name, true, true);
	CommandCounterIncrement();
}

static void
exchange_rows(Oid a, Oid b)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	tuple_a = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(a));
	HeapTuple	tuple_b = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(b));
	Form_pg_class form_a;
	Form_pg_class form_b;

	check_old(a);
	check_old(b);
	if (!HeapTupleIsValid(tuple_a) || !HeapTupleIsValid(tuple_b))
		elog(ERROR, "cache lookup failed for relation %u or %u", a, b);
	form_a = (Form_pg_class) GETSTRUCT(tuple_a);
	form_b = (Form_pg_class) GETSTRUCT(tuple_b);
	if (form_a->relam != form_b->relam || form_a->relkind != form_b->relkind || form_a->relpersistence != form_b->relpersistence)
		elog(ERROR, "relations \"%s\" and \"%s\" are not alike", NameStr(form_a->relname), NameStr(form_b->relname));

	EXCHANGE(Oid, form_a->relfilenode, form_b->relfilenode);
	EXCHANGE(Oid, form_a->reltablespace, form_b->reltablespace);
	EXCHANGE(Oid, form_a->reltoastrelid, form_b->reltoastrelid);
	EXCHANGE(int32, form_a->relpages, form_b->relpages);
	EXCHANGE(float4, form_a->reltuples, form_b->reltuples);
	EXCHANGE(int32, form_a->relallvisible, form_b->relallvisible);
	es_exchange_all_frozen(form_a, form_b);
	EXCHANGE(TransactionId, form_a->relfrozenxid, form_b->relfrozenxid);
	EXCHANGE(MultiXactId, form_a->relminmxid, form_b->relminmxid);

	CatalogTupleUpdate(pg_class, &tuple_a->t_self, tuple_a);
	CatalogTupleUpdate(pg_class, &tuple_b->t_self, tuple_b);
	heap_freetuple(tuple_a);
	heap_freetuple(tuple_b);
	table_close(pg_class, RowExclusiveLock);

	/* both are rebuilt by the invalidation to come; the second one must not find its file open as the first one's */
	es_close_smgr(a);
	es_close_smgr(b);
}

static void
check_old(Oid relid)
{
	Relation	rel = relation_open(relid, NoLock);
	bool		is_new = es_relation_has_new_file(rel);

	relation_close(rel, NoLock);
	if (is_new)
		elog(ERROR, "the file of relation %u is new in this transaction", relid);
}

/* each toast table depends on its table, and on nothing else */
static void
exchange_toast(Oid a, Oid toast_a, Oid b, Oid toast_b)
{
	if (OidIsValid(toast_a) && deleteDependencyRecordsFor(RelationRelationId, toast_a, false) != 1)
		elog(ERROR, "toast table %u has not just one dependency", toast_a);
	if (OidIsValid(toast_b) && deleteDependencyRecordsFor(RelationRelationId, toast_b, false) != 1)
		elog(ERROR, "toast table %u has not just one dependency", toast_b);
	belong(toast_a, b);
	belong(toast_b, a);
}

static void
belong(Oid toast, Oid table)
{
	ObjectAddress object;
	ObjectAddress owner;

	if (!OidIsValid(toast))
		return;
	ObjectAddressSet(object, RelationRelationId, toast);
	ObjectAddressSet(owner, RelationRelationId, table);
	recordDependencyOn(&object, &owner, DEPENDENCY_INTERNAL);
}
