/*
 * compat.h
 *		What differs between PostgreSQL 15 and 19.  The only file that may test PG_VERSION_NUM (test/lint checks it).
 */
#ifndef ES_COMPAT_H
#define ES_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "evtstore needs PostgreSQL 15 or later"
#endif

#include "storage/proc.h"
#include "utils/rel.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 17 lets ask for a stronger lock in the same call (0cecc908e) */
#if PG_VERSION_NUM >= 170000
#define es_lock_held_by_me(tag, mode) LockHeldByMe((tag), (mode), false)
#else
#define es_lock_held_by_me(tag, mode) LockHeldByMe((tag), (mode))
#endif

/* 16 renamed relfilenode to relfilenumber (b0a55e432) */
#if PG_VERSION_NUM >= 160000
#define es_rel_filenumber(rel) ((Oid) (rel)->rd_locator.relNumber)
#else
#define es_rel_filenumber(rel) ((rel)->rd_node.relNode)
#endif

/* 16 renamed that too; a file that is new in this transaction */
#if PG_VERSION_NUM >= 160000
#define es_relation_has_new_file(rel) \
	((rel)->rd_createSubid != InvalidSubTransactionId || (rel)->rd_newRelfilelocatorSubid != InvalidSubTransactionId)
#else
#define es_relation_has_new_file(rel) \
	((rel)->rd_createSubid != InvalidSubTransactionId || (rel)->rd_newRelfilenodeSubid != InvalidSubTransactionId)
#endif

/* 17 gave the relations of smgr a life of their own (21d9c3ee4): nothing of it dangles */
#if PG_VERSION_NUM >= 170000
#define es_close_smgr(oid) ((void) 0)
#else
#define es_close_smgr(oid) RelationCloseSmgrByOid(oid)
#endif

/* 18 counts frozen pages (99f8f3fbb); form_a and form_b of pg_class, before they are exchanged otherwise */
#if PG_VERSION_NUM >= 180000
#define es_exchange_all_frozen(a, b) \
	do { \
		int32 es_frozen = (a)->relallfrozen; \
		(a)->relallfrozen = (b)->relallfrozen; \
		(b)->relallfrozen = es_frozen; \
	} while (0)
#else
#define es_exchange_all_frozen(a, b) ((void) 0)
#endif

/* 16 took permissions out of the range table (a61b1f748): what a query may do with a table is found by the table there, too */
#if PG_VERSION_NUM >= 160000
#define ES_HAVE_PERMISSION_INFOS
#endif

/* 17 split the process number from PGPROC (024c52117) */
#if PG_VERSION_NUM >= 170000
#define es_my_procno() MyProcNumber
#else
#define es_my_procno() (MyProc->pgprocno)
#endif
/* 17 put what the transaction is called into a struct (ab355e3a8) */
#if PG_VERSION_NUM >= 170000
#define es_my_lxid() (MyProc->vxid.lxid)
#else
#define es_my_lxid() (MyProc->lxid)
#endif
#define es_proc_by_number(n) (&ProcGlobal->allProcs[(n)])

/* 16 lets actions of the JSON parser end it, 17 lets its lexer be on the stack */
#include "utils/jsonfuncs.h"
#if PG_VERSION_NUM >= 160000
typedef JsonParseErrorType EsJsonResult;
#define ES_JSON_GO_ON() return JSON_SUCCESS
#else
typedef void EsJsonResult;
#define ES_JSON_GO_ON() return
#endif
#if PG_VERSION_NUM >= 170000
#define es_make_json_lexer(json) makeJsonLexContext(NULL, (json), true)
#else
#define es_make_json_lexer(json) makeJsonLexContext((json), true)
#endif

/* 17 added custom wait events (c9af05465) */
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#define es_wait_event(name) WaitEventExtensionNew(name)
#else
#include "utils/wait_event.h"
#define es_wait_event(name) PG_WAIT_EXTENSION
#endif

/* 17 gives wait event sets to a resource owner (50c67c201) */
#include "storage/latch.h"
#include "utils/memutils.h"
#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif
static inline WaitEventSet *
es_create_wait_event_set(int n)
{
#if PG_VERSION_NUM >= 170000
	return CreateWaitEventSet(NULL, n);
#else
	return CreateWaitEventSet(TopMemoryContext, n);
#endif
}

/* 18 gave ExecutorStart-time tuple descriptors compact attributes; the plain accessor is there in all (5983a4cff) */
#define es_attr(tupdesc, i) TupleDescAttr((tupdesc), (i))

/* 16 added onlySummarizing to ExecInsertIndexTuples (19d8e2308) */
#include "executor/executor.h"
static inline List *
es_exec_insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false);
#else
	return ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL);
#endif
}

/* 17 lets an index keep state over the inserts of one command (c1ec02be1) */
#include "access/genam.h"
#if PG_VERSION_NUM >= 170000
#define es_index_insert_cleanup(index, info) index_insert_cleanup((index), (info))
#else
#define es_index_insert_cleanup(index, info) ((void) 0)
#endif

/* 16 added soft errors to name parsing (858e776c8) */
#include "utils/regproc.h"
#if PG_VERSION_NUM >= 160000
#define es_qualified_name(name) stringToQualifiedNameList((name), NULL)
#else
#define es_qualified_name(name) stringToQualifiedNameList(name)
#endif

/* 18 lets EXPLAIN count index searches (0fbceae84) */
#if PG_VERSION_NUM >= 180000
#define es_index_beginscan(heap, index, snapshot, nkeys) index_beginscan((heap), (index), (snapshot), NULL, (nkeys), 0)
#else
#define es_index_beginscan(heap, index, snapshot, nkeys) index_beginscan((heap), (index), (snapshot), (nkeys), 0)
#endif

/* 17 lets the caller give a lexer of JSON its memory (1c99cde2f) */
#if PG_VERSION_NUM >= 170000
#define es_json_lexer(text, len) makeJsonLexContextCstringLen(NULL, (text), (len), GetDatabaseEncoding(), true)
#else
#define es_json_lexer(text, len) makeJsonLexContextCstringLen((text), (len), GetDatabaseEncoding(), true)
#endif

/* 16 made one function of the permission checks (c727f511b) */
#include "catalog/pg_proc.h"
#include "utils/acl.h"
#if PG_VERSION_NUM >= 160000
#define es_may_execute(fn, role) (object_aclcheck(ProcedureRelationId, (fn), (role), ACL_EXECUTE) == ACLCHECK_OK)
#else
#define es_may_execute(fn, role) (pg_proc_aclcheck((fn), (role), ACL_EXECUTE) == ACLCHECK_OK)
#endif

/* 16 made one function of the ownership checks (afbfc0298) */
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_extension.h"
#if PG_VERSION_NUM >= 160000
#define es_owns_database(database, role) object_ownercheck(DatabaseRelationId, (database), (role))
#define es_owns_extension(extension, role) object_ownercheck(ExtensionRelationId, (extension), (role))
#define es_owns_table(table, role) object_ownercheck(RelationRelationId, (table), (role))
#define es_may_create_in(schema, role) (object_aclcheck(NamespaceRelationId, (schema), (role), ACL_CREATE) == ACLCHECK_OK)
#else
#define es_owns_database(database, role) pg_database_ownercheck((database), (role))
#define es_owns_extension(extension, role) pg_extension_ownercheck((extension), (role))
#define es_owns_table(table, role) pg_class_ownercheck((table), (role))
#define es_may_create_in(schema, role) (pg_namespace_aclcheck((schema), (role), ACL_CREATE) == ACLCHECK_OK)
#endif

/* 16 took the outer joins that may null it out of the arguments (2489d76c4) */
#include "optimizer/paths.h"
#if PG_VERSION_NUM >= 160000
#define es_build_expression_pathkey(root, expr, operator, rel) build_expression_pathkey((root), (expr), (operator), (rel), false)
#else
#define es_build_expression_pathkey(root, expr, operator, rel) \
	build_expression_pathkey((root), (expr), NULL, (operator), (rel), false)
#endif

/* 18 moved the output functions of EXPLAIN into a header of their own */
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif

/* 18 replaced pg_attribute_noreturn() by a prefix (pg_noreturn); this suffix is good in all */
#define es_noreturn __attribute__((noreturn))

/* of libpq/libpq.h, which wants the headers of all that the server was built with; false: the client is gone */
extern bool pq_check_connection(void);

#endif
