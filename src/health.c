/*
 * health.c
 *		evtstore.health() and the rows of evtstore.workers.
 *
 * Runs in backends; reads copies of the worker registry, the identity row and the floors.  Writes nothing.  Each
 * check is one row: what was looked at, whether it is well, what was found, and what to do about it.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "endpoint_state.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "identity.h"
#include "registry.h"

/* an appender this old deserves a look, ms */
#define OLD_APPENDER 60000

PG_FUNCTION_INFO_V1(evtstore_health);
PG_FUNCTION_INFO_V1(evtstore_worker_slots);

static void add_check(ReturnSetInfo *rsinfo, const char *name, bool ok, const char *detail, const char *hint);
static void check_workers(ReturnSetInfo *rsinfo);
static char *why_no_scheduler(const EsDatabaseRow *database, bool known, const char **hint);
static void check_worker_slots(ReturnSetInfo *rsinfo);
static int count_background_workers(void);
static void check_enabled(ReturnSetInfo *rsinfo);
static void check_delivery(ReturnSetInfo *rsinfo);
static void check_endpoints(ReturnSetInfo *rsinfo);
static const char *what_ails(const EsDefinition *endpoint, EsEndpointView *view);
static void check_appender(ReturnSetInfo *rsinfo);

/* evtstore.health() */
Datum
evtstore_health(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	add_check(rsinfo, "preloaded", true, psprintf("evtstore %s is in shared_preload_libraries", ES_VERSION), NULL);
	if (RecoveryInProgress())
		add_check(rsinfo, "workers", true, "this server is a standby: workers start when it is promoted", NULL);
	else
	{
		check_workers(rsinfo);
		check_worker_slots(rsinfo);
		check_enabled(rsinfo);
	}
	check_delivery(rsinfo);
	if (!RecoveryInProgress())
	{
		check_endpoints(rsinfo);
		check_appender(rsinfo);
	}
	return (Datum) 0;
}

/* evtstore_internal.worker_slots() */
Datum
evtstore_worker_slots(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {
		[ES_STATE_FREE] = "free",
		[ES_STATE_STARTING] = "starting",
		[ES_STATE_IDLE] = "idle",
		[ES_STATE_BUSY] = "busy",
	};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsWorkerRow *rows;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	n = es_registry_workers(&rows);
	for (int i = 0; i < n; i++)
	{
		Datum		values[7];
		bool		nulls[7] = {false};

		values[0] = Int32GetDatum(rows[i].pid);
		nulls[0] = rows[i].pid == 0;
		values[1] = CStringGetTextDatum(es_registry_kind_name(rows[i].kind));
		values[2] = ObjectIdGetDatum(rows[i].database);
		values[3] = CStringGetTextDatum(rows[i].leaving ? "leaving" : states[rows[i].state]);
		values[4] = TimestampTzGetDatum(rows[i].since);
		values[5] = Int64GetDatum(rows[i].deliveries);
		values[6] = Int64GetDatum(rows[i].failures);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static void
add_check(ReturnSetInfo *rsinfo, const char *name, bool ok, const char *detail, const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = CStringGetTextDatum(name);
	values[1] = BoolGetDatum(ok);
	values[2] = CStringGetTextDatum(detail);
	nulls[3] = hint == NULL;
	if (hint != NULL)
		values[3] = CStringGetTextDatum(hint);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
check_workers(ReturnSetInfo *rsinfo)
{
	EsWorkerRow *rows;
	int			n = es_registry_workers(&rows);
	bool		launcher = false;
	bool		scheduler = false;
	int			delivery = 0;
	EsDatabaseRow database;
	bool		known = es_registry_database(MyDatabaseId, &database);
	const char *hint = NULL;

	for (int i = 0; i < n; i++)
	{
		if (rows[i].pid == 0)
			continue;
		launcher |= rows[i].kind == ES_WORKER_LAUNCHER;
		scheduler |= rows[i].kind == ES_WORKER_SCHEDULER && rows[i].database == MyDatabaseId;
		delivery += rows[i].kind == ES_WORKER_DELIVERY && rows[i].database == MyDatabaseId;
	}

	if (!launcher)
		add_check(rsinfo, "workers", false, "the launcher is not running",
				  IsBinaryUpgrade ? NULL : "It is started again within a second; if not, look into the server's log.");
	else if (scheduler)
		add_check(rsinfo, "workers", true,
				  psprintf("launcher, scheduler and %d delivery workers of at most %d run", delivery,
						   es_guc_delivery_workers), NULL);
	else
	{
		char	   *why = why_no_scheduler(&database, known, &hint);

		add_check(rsinfo, "workers", database.state == ES_DATABASE_DISABLED,
				  psprintf("no scheduler runs in this database: %s", why), hint);
	}
}

static char *
why_no_scheduler(const EsDatabaseRow *database, bool known, const char **hint)
{
	if (!known && es_registry_full())
	{
		*hint = psprintf("Raise evtstore.max_databases, now %d, and restart the server.", es_guc_max_databases);
		return "there are more databases than the shared tables hold";
	}
	if (!known)
	{
		*hint = "Templates, and databases that take no connections, have no workers.";
		return "the launcher does not look after it";
	}
	if (database->forbidden_by != 0)
		return psprintf("process %d runs a command that wants nobody connected", database->forbidden_by);
	if (database->state == ES_DATABASE_DISABLED)
		return "evtstore.enabled is off";
	if (database->failures > 0)
	{
		*hint = "Look into the server's log for what ended it.";
		return psprintf("it failed %d times in a row, the next starts at %s", database->failures,
						timestamptz_to_str(database->next_start));
	}
	if (es_registry_exhausted())
	{
		*hint = psprintf("Raise max_worker_processes, now %d, and restart the server.", max_worker_processes);
		return "the server has no worker slot left";
	}
	return "it is about to start";
}

static void
check_worker_slots(ReturnSetInfo *rsinfo)
{
	int			used = count_background_workers();
	bool		ok = !es_registry_exhausted() && used < max_worker_processes;

	add_check(rsinfo, "worker_slots", ok,
			  psprintf("%d of %d worker processes of the server are in use", used, max_worker_processes),
			  ok ? NULL : psprintf("Raise max_worker_processes: evtstore takes 1, and %d for each database with it; "
								   "parallel queries and other extensions share the rest.",
								   2 + es_guc_delivery_workers + es_guc_rebuild_workers));
}

static int
count_background_workers(void)
{
	int			count = 0;

	for (uint32 i = 0; i < ProcGlobal->allProcCount; i++)
	{
		int			pid = es_proc_by_number(i)->pid;

		if (pid != 0 && GetBackgroundWorkerTypeByPid(pid) != NULL)
			count++;
	}
	return count;
}

static void
check_enabled(ReturnSetInfo *rsinfo)
{
	EsDatabaseRow database;
	bool		off;

	(void) es_registry_database(MyDatabaseId, &database);
	off = database.state == ES_DATABASE_DISABLED;
	add_check(rsinfo, "enabled", !off, off ? "evtstore.enabled is off" : "evtstore.enabled is on",
			  off ? psprintf("ALTER DATABASE %s SET evtstore.enabled = on;",
							 quote_identifier(get_database_name(MyDatabaseId))) : NULL);
}

static void
check_delivery(ReturnSetInfo *rsinfo)
{
	char	   *detail = NULL;

	switch (es_identity_check(&detail))
	{
		case ES_IDENTITY_NONE:
			add_check(rsinfo, "delivery", true, "nothing is defined here yet", NULL);
			break;
		case ES_IDENTITY_HERE:
			add_check(rsinfo, "delivery", true, "this store is the one that delivers", NULL);
			break;
		case ES_IDENTITY_ELSEWHERE:
			add_check(rsinfo, "delivery", RecoveryInProgress(),
					  psprintf("this is a copy of a store and delivers nothing. %s", detail),
					  RecoveryInProgress() ? "A promoted standby delivers." :
					  "If this is the one to deliver now: SELECT evtstore.resume_delivery();");
			break;
	}
}

static void
check_endpoints(ReturnSetInfo *rsinfo)
{
	List	   *endpoints = es_definition_list("endpoint");
	EsEndpointView *view = palloc(sizeof(EsEndpointView));
	StringInfoData names;
	int			n = 0;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, endpoints)
	{
		EsDefinition *endpoint = lfirst(lc);
		const char *ailment = what_ails(endpoint, view);

		if (ailment != NULL)
			appendStringInfo(&names, "%s%s (%s)", n++ > 0 ? ", " : "", endpoint->name, ailment);
	}
	if (n == 0)
		add_check(rsinfo, "endpoints", true, psprintf("%d are defined, and none is known to fail", list_length(endpoints)), NULL);
	else
		add_check(rsinfo, "endpoints", false, psprintf("%d of %d take nothing: %s", n, list_length(endpoints), names.data),
				  "SELECT * FROM evtstore.endpoint_status;");
}

/* NULL: nothing, as far as the relay knows */
static const char *
what_ails(const EsDefinition *endpoint, EsEndpointView *view)
{
	if (strcmp(endpoint->state, ES_DEFINITION_ACTIVE) != 0)
		return "disabled";
	if (!es_endpoint_state_look(endpoint->id, view))
		return NULL;
	return view->fault[0] != '\0' ? "fault" : view->breaker != ES_BREAKER_CLOSED ? "breaker open" : NULL;
}

static void
check_appender(ReturnSetInfo *rsinfo)
{
	int			pid = 0;
	int64		age = 0;

	/* where nobody appended yet the feed is left alone: a restore may be under way (scheduler.c) */
	if (es_registry_appended(es_catalog()->extension))
		age = es_feed_oldest_appender(&pid);

	if (age >= OLD_APPENDER)
		add_check(rsinfo, "appender", false,
				  psprintf("process %d holds the head: it appended events in a transaction that is " INT64_FORMAT
						   " s old", pid, age / 1000),
				  "SELECT * FROM evtstore.why_behind();");
	else
		add_check(rsinfo, "appender", true, "no old transaction holds the head", NULL);
}
