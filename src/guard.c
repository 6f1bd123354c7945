/*
 * guard.c
 *		Hooks and triggers that protect the store and keep the workers out of the way.
 *
 * Runs in every backend.
 *
 * Commands that fail while anybody is connected to a database (DROP DATABASE, CREATE DATABASE ... TEMPLATE, ALTER
 * DATABASE RENAME and SET TABLESPACE) find no worker of ours: before the command takes its lock on the database the
 * workers are stopped and kept out to the end of the transaction (es_request_forbid).  So are they for DROP EXTENSION
 * and ALTER EXTENSION, whose locks they would wait for or deadlock with.  Only who may run the command can stop the
 * workers by it; the server checks again and properly.
 *
 * The launcher is told, at commit, of every change that decides whether a database has workers: of the extension, of
 * databases, of settings of databases and of the role that workers run as.
 *
 * The scheduler is told of the first append, deletion or truncation (note_use).
 *
 * Events are immutable and are not dropped by accident: a statement trigger refuses direct writes below superuser,
 * and dropping the table (DROP EXTENSION, DROP OWNED, DROP SCHEMA ... CASCADE) is refused while it holds events and
 * evtstore.allow_drop is off.  What shared memory has of the queues and subscriptions of a store that is dropped goes with the commit.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "append.h"
#include "catalog.h"
#include "compat.h"
#include "evtstore.h"
#include "guard.h"
#include "guc.h"
#include "lane.h"
#include "queue_state.h"
#include "registry.h"
#include "request.h"
#include "stream_state.h"

PG_FUNCTION_INFO_V1(evtstore_guard_immutable);

static ProcessUtility_hook_type previous_utility = NULL;
static object_access_hook_type previous_object_access = NULL;

static void note_append(const EsAppendPart *parts, int nparts, int nevents);
static void note_use(void);
static void guard_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
						  ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *qc);
static pg_noinline Oid database_to_empty(Node *stmt, bool top_level);
static const char *string_option(List *options, const char *name);
static Oid own_database(const char *name, bool may_be_current);
static bool may_create_databases(void);
static Oid own_extension(const char *name);
static Oid dropped_extension(DropStmt *stmt);
static void guard_object(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg);
static void settings_changed(Oid database, Oid role);
static bool is_our_extension(Oid extension);
static void relation_dropped(Oid relid);
static void refuse_drop_of_events(Oid relid);
static bool holds_rows(Oid relid);

void
es_guard_init(void)
{
	es_request_init();
	es_append_register_hook(note_append);
	es_stream_state_on_write(note_use);
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = guard_utility;
	previous_object_access = object_access_hook;
	object_access_hook = guard_object;
}

/* trigger on each statement that writes: even pg_write_all_data has to stop here */
Datum
evtstore_guard_immutable(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("guard_immutable must be called as a trigger")));
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("table \"%s\" is written by the functions of evtstore only",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Events are immutable, and definitions run as their owner."),
				 errhint("Call evtstore.append() or the create, alter and drop functions.")));
	PG_RETURN_POINTER(NULL);
}

/* ---- appends ---- */

/*
 * Tells the scheduler, once per session, that this store is in use.  Until somebody appends, deletes or defines something it
 * could be in the middle of a restore, where a row of the scheduler's would collide with the one that is about to be
 * copied.
 */
static void
note_append(const EsAppendPart *parts, int nparts, int nevents)
{
	note_use();
}

static void
note_use(void)
{
	static Oid	noted = InvalidOid;
	Oid			extension = es_catalog()->extension;

	if (noted != extension && es_registry_note_append(extension))
		noted = extension;
}

/* ---- commands ---- */

static void
guard_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
			  ParamListInfo params, QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *qc)
{
	volatile ProcessUtility_hook_type next = previous_utility ? previous_utility : standard_ProcessUtility;
	bool		top_level = context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock();
	volatile Oid database = database_to_empty(pstmt->utilityStmt, top_level);

	if (!OidIsValid(database))
	{
		next(pstmt, query, read_only_tree, context, params, environment, dest, qc);
		return;
	}
	PG_TRY();
	{
		es_request_forbid(database);
		next(pstmt, query, read_only_tree, context, params, environment, dest, qc);
	}
	PG_CATCH();
	{
		/* the transaction may live on after a savepoint; where the command passed, its end allows again */
		es_request_allow(database);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/* the database in which this command wants nobody, when the current user may run it; else InvalidOid */
static pg_noinline Oid
database_to_empty(Node *stmt, bool top_level)
{
	const char *name;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return top_level ? own_database(((DropdbStmt *) stmt)->dbname, false) : InvalidOid;
		case T_CreatedbStmt:
			name = string_option(((CreatedbStmt *) stmt)->options, "template");
			return top_level && name != NULL && may_create_databases() ? own_database(name, true) : InvalidOid;
		case T_AlterDatabaseStmt:
			if (!top_level || string_option(((AlterDatabaseStmt *) stmt)->options, "tablespace") == NULL)
				return InvalidOid;
			return own_database(((AlterDatabaseStmt *) stmt)->dbname, false);
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType != OBJECT_DATABASE || !may_create_databases())
				return InvalidOid;
			return own_database(((RenameStmt *) stmt)->subname, false);
		case T_DropStmt:
			return dropped_extension((DropStmt *) stmt);
		case T_AlterExtensionStmt:
			return own_extension(((AlterExtensionStmt *) stmt)->extname);
		default:
			return InvalidOid;
	}
}

/* NULL when it is not given */
static const char *
string_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

static Oid
own_database(const char *name, bool may_be_current)
{
	Oid			database = get_database_oid(name, true);

	if (!OidIsValid(database) || !es_owns_database(database, GetUserId()))
		return InvalidOid;
	return database != MyDatabaseId || may_be_current ? database : InvalidOid;
}

static bool
may_create_databases(void)
{
	HeapTuple	tuple;
	bool		may;

	if (superuser())
		return true;
	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	if (!HeapTupleIsValid(tuple))
		return false;
	may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
	ReleaseSysCache(tuple);
	return may;
}

/* this database, when the name is that of our extension and the current user owns it */
static Oid
own_extension(const char *name)
{
	Oid			extension;

	if (strcmp(name, "evtstore") != 0)
		return InvalidOid;
	extension = get_extension_oid(name, true);
	return OidIsValid(extension) && es_owns_extension(extension, GetUserId()) ? MyDatabaseId : InvalidOid;
}

static Oid
dropped_extension(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_EXTENSION)
		return InvalidOid;
	foreach(lc, stmt->objects)
	{
		Oid			database = own_extension(strVal(lfirst(lc)));

		if (OidIsValid(database))
			return database;
	}
	return InvalidOid;
}

/* ---- objects ---- */

static void
guard_object(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (previous_object_access)
		previous_object_access(access, class_id, object_id, sub_id, arg);
	if (access != OAT_POST_CREATE && access != OAT_POST_ALTER && access != OAT_DROP)
		return;

	switch (class_id)
	{
		case RelationRelationId:
			if (access == OAT_DROP && sub_id == 0)
				relation_dropped(object_id);
			break;
		case ExtensionRelationId:
			if (is_our_extension(object_id))
				es_request_look(MyDatabaseId);
			break;
		case DatabaseRelationId:
			es_request_rescan();
			break;
		case DbRoleSettingRelationId:
			if (access == OAT_POST_ALTER)
				settings_changed(object_id, ((ObjectAccessPostAlter *) arg)->auxiliary_id);
			break;
		default:
			break;
	}
}

/* settings of other roles do not reach the workers; InvalidOid: all databases, all roles */
static void
settings_changed(Oid database, Oid role)
{
	if (!OidIsValid(role) || role == BOOTSTRAP_SUPERUSERID)
		es_request_look(database);
}

/* sees the row that this command has just written */
static bool
is_our_extension(Oid extension)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		ours = false;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		ours = strcmp(NameStr(((Form_pg_extension) GETSTRUCT(tuple))->extname), "evtstore") == 0;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return ours;
}

/* every relation that is dropped comes by here: look at the name first */
static void
relation_dropped(Oid relid)
{
	char	   *name = get_rel_name(relid);
	char	   *schema;

	if (name == NULL || (strcmp(name, "event") != 0 && strcmp(name, "definition") != 0))
		return;
	schema = get_namespace_name(get_rel_namespace(relid));
	if (schema == NULL || strcmp(schema, ES_SCHEMA_INTERNAL) != 0 || get_rel_relkind(relid) != RELKIND_RELATION)
		return;
	if (strcmp(name, "event") == 0)
		refuse_drop_of_events(relid);
	else
	{
		es_queue_state_forget_store(relid);
		es_lanes_forget_store(relid);
	}
}

static void
refuse_drop_of_events(Oid relid)
{
	if (!es_guc_allow_drop && holds_rows(relid))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop extension evtstore because the store holds events"),
				 errdetail("Dropping table %s.event would destroy them.", ES_SCHEMA_INTERNAL),
				 errhint("If they may go: SET evtstore.allow_drop = on; and run the command again.")));
}

/* by a plain scan: the indexes of a table are dropped before the table */
static bool
holds_rows(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		found = table_scan_getnextslot(scan, ForwardScanDirection, slot);

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}
