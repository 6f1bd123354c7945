/*
 * request.c
 *		What sessions ask of the workers.
 *
 * Runs in backends.  Requests to look again are collected by the transaction and sent when it has committed, so that
 * the launcher never looks too early; a rollback forgets them.  PREPARE TRANSACTION is refused where a request
 * concerns this database, because no session of ours is there when it commits.
 *
 * A request to keep out of a database takes effect at once, and ends with the transaction, the session, or before.
 * The order is: say so in the registry, then signal, then wait.  A worker that attaches does so under the registry's
 * lock, so it either was there to be signalled or sees that it is not wanted and ends before it connects.  The caller
 * takes its lock on the database only afterwards: no worker can wait for that lock while we wait for the worker.
 *
 * State is the backend's own.  A killed backend takes shared memory with it, and with it what it had forbidden.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "registry.h"
#include "request.h"

/* how long a command waits for our workers, which give up what they do after a third of it (process.c) */
#define PATIENCE (10 * USECS_PER_SEC)
#define STEP 1000 /* ms */
#define MAX_LOOKS 16

/* of the current transaction */
static Oid	looks[MAX_LOOKS];
static int	nlooks = 0;
static bool look_at_all = false;
static bool databases_changed = false;
static Oid	forbidden = InvalidOid;

static void at_transaction_end(XactEvent event, void *arg);
static void send_looks(void);
static void refuse_prepare(void);
static void forget(void);
static void allow_at_exit(int code, Datum arg);

void
es_request_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}

void
es_request_look(Oid database)
{
	for (int i = 0; i < nlooks; i++)
	{
		if (looks[i] == database)
			return;
	}
	if (OidIsValid(database) && nlooks < MAX_LOOKS)
		looks[nlooks++] = database;
	else
		look_at_all = true;
}

void
es_request_rescan(void)
{
	databases_changed = true;
}

void
es_request_forbid(Oid database)
{
	static bool exit_registered = false;
	TimestampTz give_up = GetCurrentTimestamp() + PATIENCE;

	if (!exit_registered)
		before_shmem_exit(allow_at_exit, (Datum) 0);
	exit_registered = true;

	es_request_allow(forbidden);
	forbidden = database;
	es_registry_set_forbidden(database);

	/* if they do not go in time, the caller's command says in the server's own words that somebody is connected */
	while (es_registry_stop_workers(database) && GetCurrentTimestamp() < give_up)
		(void) es_registry_wait_for_end(STEP);
	ConditionVariableCancelSleep();
}

void
es_request_allow(Oid database)
{
	if (!OidIsValid(database) || forbidden != database)
		return;
	forbidden = InvalidOid;
	es_registry_clear_forbidden(database);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			send_looks();
			forget();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget();
			break;
		case XACT_EVENT_PRE_PREPARE:
			refuse_prepare();
			break;
		default:
			break;
	}
}

static void
send_looks(void)
{
	if (nlooks > 0 || look_at_all || databases_changed)
		es_registry_look_at(looks, nlooks, look_at_all, databases_changed);
}

static void
refuse_prepare(void)
{
	for (int i = 0; i < nlooks; i++)
	{
		if (looks[i] == MyDatabaseId)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot prepare a transaction that changed evtstore or settings of this database"),
					 errhint("Use COMMIT: that is when the workers are told.")));
	}
}

static void
forget(void)
{
	nlooks = 0;
	look_at_all = false;
	databases_changed = false;
	es_request_allow(forbidden);
}

static void
allow_at_exit(int code, Datum arg)
{
	es_request_allow(forbidden);
}
