/*
 * launcher.c
 *		The launcher finds the databases of the cluster and keeps one scheduler in each that has the extension.
 *
 * One static background worker, registered when the library is preloaded, started when recovery is over: so never on
 * a standby, at once after a promotion, and not at all under pg_upgrade.  It connects to no database; it reads
 * pg_database. Any error ends it with exit code 1, and the postmaster starts it again a second later; all that it
 * knows is in the registry (registry.c), so nothing is lost and nothing is started twice.
 *
 * It sleeps until somebody sets its latch: a scheduler that ended, a session that committed CREATE, ALTER or DROP of
 * a database or of the extension, SIGHUP.  A slow rescan is the safety net.  A database in which the extension is
 * absent or switched off costs one short session, once: its scheduler reports and ends, and is not started again
 * until told.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "endpoint_state.h"
#include "feed.h"
#include "guc.h"
#include "lane.h"
#include "launcher.h"
#include "process.h"
#include "queue_state.h"
#include "registry.h"

#define RESCAN_INTERVAL (5 * 60 * USECS_PER_SEC)

/* minor releases before August 2023 did not mark databases whose DROP was interrupted */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB -2
#endif

static void rescan(void);
static List *find_databases(List **oids);
static TimestampTz start_schedulers(void);
static void say_exhausted(void);

void
es_launcher_register(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return;
	MemSet(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_library_name, "evtstore", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "es_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, es_registry_kind_name(ES_WORKER_LAUNCHER), BGW_MAXLEN);
	strlcpy(worker.bgw_type, es_registry_kind_name(ES_WORKER_LAUNCHER), BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

void
es_launcher_main(Datum arg)
{
	MemoryContext context;
	TimestampTz next_scan = 0;

	es_process_begin(ES_WORKER_LAUNCHER);
	context = AllocSetContextCreate(TopMemoryContext, "evtstore launcher", ALLOCSET_DEFAULT_SIZES);

	while (!es_process_stop)
	{
		TimestampTz next_start;
		TimestampTz now;

		MemoryContextSwitchTo(context);
		if (es_process_reload())
			es_registry_settings_changed();
		if (es_registry_take_rescan() || GetCurrentTimestamp() >= next_scan)
		{
			rescan();
			next_scan = GetCurrentTimestamp() + RESCAN_INTERVAL;
		}
		es_registry_expire(GetCurrentTimestamp());
		next_start = start_schedulers();
		MemoryContextReset(context);

		now = GetCurrentTimestamp();
		es_process_sleep(Min(es_process_ms_until(now, next_scan), es_process_ms_until(now, next_start)));
	}
	proc_exit(1);
}

static void
rescan(void)
{
	static bool said_full = false;
	List	   *oids = NIL;
	List	   *found = find_databases(&oids);

	es_registry_set_databases(found);
	es_feed_forget_databases(oids);
	es_lanes_forget_databases(oids);
	es_queue_state_forget_databases(oids);
	es_endpoint_state_forget_databases(oids);
	if (es_registry_full() && !said_full)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("some databases get no evtstore workers: there are more than the shared tables hold"),
				 errhint("Raise evtstore.max_databases, now %d, and restart the server.", es_guc_max_databases)));
	said_full = es_registry_full();
}

/* list of EsFoundDatabase * in the current context; *oids are those of all databases */
static List *
find_databases(List **oids)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *found = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	es_process_start_transaction("reading pg_database");
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old = MemoryContextSwitchTo(context);
		EsFoundDatabase *database = palloc(sizeof(EsFoundDatabase));

		database->oid = form->oid;
		database->eligible = form->datallowconn && !form->datistemplate &&
			form->datconnlimit != DATCONNLIMIT_INVALID_DB;
		found = lappend(found, database);
		*oids = lappend_oid(*oids, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	es_process_commit();
	MemoryContextSwitchTo(context);
	return found;
}

/* starts what is due; returns when to look again by time, 0: not by time */
static TimestampTz
start_schedulers(void)
{
	TimestampTz next;
	Oid			database;

	while (OidIsValid(database = es_registry_scheduler_due(GetCurrentTimestamp(), &next)))
	{
		if (!es_registry_start(ES_WORKER_SCHEDULER, database))
		{
			say_exhausted();
			return es_registry_retry_start(GetCurrentTimestamp());
		}
	}
	return next;
}

/* once per shortage, not once per try */
static void
say_exhausted(void)
{
	static bool said = false;

	if (es_registry_exhausted() && !said)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no worker slot is left for an evtstore scheduler"),
				 errhint("Raise max_worker_processes, now %d, and restart the server.", max_worker_processes)));
	said = es_registry_exhausted();
}
