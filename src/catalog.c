/*
 * catalog.c
 *		Object ids of our own tables and types, cached per backend.
 *
 * Runs in every process with a database.  The cache is dropped when an invalidation names one of our relations, or any
 * namespace or extension change that could mean DROP, CREATE or ALTER EXTENSION; nothing is shared, a crash leaves
 * nothing.  Invalidation messages are read when locks are taken and transactions start, so a cache is looked at after
 * the lock that makes it matter.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/parallel.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "cause.h"
#include "compat.h"
#include "evtstore.h"

static EsCatalog catalog;
static bool catalog_valid = false;
static uint64 generation = 1;

static void load_catalog(void);
static void check_version(Oid extension);
static Oid find_relation(const char *name, Oid schema);
static Oid find_type(const char *name, Oid schema);
static void relation_changed(Datum arg, Oid relid);
static void namespace_changed(Datum arg, int cacheid, uint32 hashvalue);

void
es_catalog_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, namespace_changed, (Datum) 0);
}

const EsCatalog *
es_catalog(void)
{
	if (!catalog_valid)
		load_catalog();
	return &catalog;
}

bool
es_catalog_installed(void)
{
	return catalog_valid || OidIsValid(get_extension_oid("evtstore", true));
}

uint64
es_catalog_generation(void)
{
	return generation;
}

void
es_catalog_definitions_changed(void)
{
	CacheInvalidateRelcacheByRelid(es_catalog()->definition);
	generation++;
}

void
es_catalog_require_writable(const char *what)
{
	if (es_cause_is_replay())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot be called by a handler while its projection is rebuilt", what),
				 errdetail("The events were handled before; what has effects elsewhere would have them again."),
				 errhint("Append an event, or send a message: both are left out in a rebuild.")));
	es_catalog_require_writable_or_replay(what);
}

void
es_catalog_require_writable_or_replay(const char *what)
{
	PreventCommandIfReadOnly(what);
	PreventCommandIfParallelMode(what);
	PreventCommandDuringRecovery(what);
}

static void
load_catalog(void)
{
	Oid			extension = get_extension_oid("evtstore", true);
	Oid			schema;
	Oid			internal;
	HeapTuple	tuple;
	EsCatalog	c = {0};

	if (!OidIsValid(extension))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"evtstore\" is not installed in database \"%s\"", get_database_name(MyDatabaseId)),
				 errhint("Run: CREATE EXTENSION evtstore;")));
	check_version(extension);
	schema = get_namespace_oid(ES_SCHEMA, false);
	internal = get_namespace_oid(ES_SCHEMA_INTERNAL, false);

	c.extension = extension;
	c.event = find_relation("event", internal);
	c.event_pkey = find_relation("event_pkey", internal);
	c.event_stream_version = find_relation("event_stream_version_key", internal);
	c.event_id = find_relation("event_id_key", internal);
	c.event_category = find_relation("event_category_idx", internal);
	c.event_type_idx = find_relation("event_type_idx", internal);
	c.event_tag = find_relation("event_tag", internal);
	c.event_tag_pkey = find_relation("event_tag_pkey", internal);
	c.event_tag_pair = find_relation("event_tag_pair_idx", internal);
	c.stream = find_relation("stream", internal);
	c.stream_pkey = find_relation("stream_pkey", internal);
	c.stream_name = find_relation("stream_name_tenant_key", internal);
	c.stream_state = find_relation("stream_state", internal);
	c.stream_state_stream = find_relation("stream_state_stream_idx", internal);
	c.policy = find_relation("policy", internal);
	c.policy_pkey = find_relation("policy_pkey", internal);
	c.head = find_relation("head", internal);
	c.head_pkey = find_relation("head_pkey", internal);
	c.closing = find_relation("closing", internal);
	c.definition = find_relation("definition", internal);
	c.message = find_relation("message", internal);
	c.message_pkey = find_relation("message_pkey", internal);
	c.message_key = find_relation("message_key_idx", internal);
	c.message_due = find_relation("message_due_idx", internal);
	c.checkpoint = find_relation("checkpoint", internal);
	c.checkpoint_pkey = find_relation("checkpoint_pkey", internal);
	c.failed_event = find_relation("failed_event", internal);
	c.failed_event_due = find_relation("failed_event_due_idx", internal);
	c.failed_event_key = find_relation("failed_event_key_idx", internal);
	c.dead_key = find_relation("dead_key", internal);
	c.dead_key_pkey = find_relation("dead_key_pkey", internal);
	c.position_seq = find_relation("position_seq", internal);
	c.stream_id_seq = find_relation("stream_id_seq", internal);
	c.message_id_seq = find_relation("message_id_seq", internal);
	c.event_type = find_type("event", schema);
	c.delivery_type = find_type("delivery", schema);
	c.append_result_type = find_type("append_result", schema);

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(c.event));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", c.event);
	c.owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	catalog = c;
	catalog_valid = true;
}

/* the C code and the SQL objects must be of one version: between them are only names and numbers */
static void
check_version(Oid extension)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *installed = NULL;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);

		if (!isnull)
			installed = TextDatumGetCString(version);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (installed == NULL || strcmp(installed, ES_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library evtstore %s does not fit extension version %s", ES_VERSION, installed ? installed : "(none)"),
				 errhint("Run: ALTER EXTENSION evtstore UPDATE; and restart the server if the library was replaced.")));
}

static Oid
find_relation(const char *name, Oid schema)
{
	Oid			oid = get_relname_relid(name, schema);

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation %s.%s is missing", ES_SCHEMA_INTERNAL, name),
				 errhint("The extension evtstore is damaged: restore it from a backup.")));
	return oid;
}

static Oid
find_type(const char *name, Oid schema)
{
	Oid			oid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(name), ObjectIdGetDatum(schema));

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type %s.%s is missing", ES_SCHEMA, name),
				 errhint("The extension evtstore is damaged: restore it from a backup.")));
	return oid;
}

/* may run outside a transaction: only forgets */
static void
relation_changed(Datum arg, Oid relid)
{
	if (!catalog_valid)
	{
		if (relid == InvalidOid)
			generation++;
		return;
	}
	if (relid == InvalidOid || relid == catalog.definition || relid == catalog.event || relid == catalog.stream ||
		relid == catalog.event_tag || relid == catalog.message || relid == catalog.checkpoint || relid == catalog.failed_event ||
		relid == catalog.dead_key ||
		relid == catalog.stream_state || relid == catalog.policy || relid == catalog.head || relid == catalog.closing ||
		relid == catalog.position_seq)
	{
		/* object ids stay good while only definitions change */
		if (relid != catalog.definition)
			catalog_valid = false;
		generation++;
	}
}

static void
namespace_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	catalog_valid = false;
	generation++;
}
