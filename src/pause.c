/*
 * pause.c
 *		Pausing and resuming what hands something out: queues, subscriptions, async projections and rules.
 *
 * Runs in backends.  The state is the definition's (definition.c) and transactional.  What is handed out already can be
 * settled; what is claimed or polled after the commit of a pause is nothing.
 */
#include "postgres.h"

#include "fmgr.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "options.h"
#include "queue.h"
#include "subscription.h"
#include "waiter.h"
#include "wakeup.h"

static void set_paused(const char *kind, const char *name, bool paused);
static const char *kind_of(const char **name);
static void require_async(const char *kind, const char *name);

PG_FUNCTION_INFO_V1(evtstore_pause);
PG_FUNCTION_INFO_V1(evtstore_resume);
PG_FUNCTION_INFO_V1(evtstore_pause_projection);
PG_FUNCTION_INFO_V1(evtstore_resume_projection);

/* pause(name text) -> void; evtstore_admin */
Datum
evtstore_pause(PG_FUNCTION_ARGS)
{
	const char *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	const char *kind;

	es_catalog_require_writable("pause");
	es_queue_refuse_reserved(name);
	kind = kind_of(&name);
	set_paused(kind, name, true);
	PG_RETURN_VOID();
}

/* resume(name text) -> void; evtstore_admin */
Datum
evtstore_resume(PG_FUNCTION_ARGS)
{
	const char *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	const char *kind;

	es_catalog_require_writable("resume");
	kind = kind_of(&name);
	set_paused(kind, name, false);
	PG_RETURN_VOID();
}

/* pause_projection(name text) -> void; evtstore_admin */
Datum
evtstore_pause_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);

	es_catalog_require_writable("pause_projection");
	require_async("projection", name);
	set_paused("projection", name, true);
	PG_RETURN_VOID();
}

/* resume_projection(name text) -> void; evtstore_admin */
Datum
evtstore_resume_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);

	es_catalog_require_writable("resume_projection");
	require_async("projection", name);
	set_paused("projection", name, false);
	PG_RETURN_VOID();
}

static void
set_paused(const char *kind, const char *name, bool paused)
{
	es_definition_lock(kind, name);
	if (strcmp(es_definition_get(kind, name)->state, ES_DEFINITION_REBUILDING) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is being rebuilt in place", name),
				 errhint("evtstore.projection_status shows how far it is.")));
	es_definition_set_state(kind, name, paused ? ES_DEFINITION_PAUSED : ES_DEFINITION_ACTIVE);
	/* who waits for it to come to a position hears of a pause, too */
	es_waiter_wake_at_commit(-es_definition_get(kind, name)->id, INT_MAX);
	if (paused)
		return;
	/* workers may find something to deliver, consumers something to receive */
	es_wakeup_at_commit(1);
	es_waiter_wake_at_commit(es_definition_get(kind, name)->id, INT_MAX);
}

/* an append cannot leave out what it does, and come back to it */
static void
require_async(const char *kind, const char *name)
{
	bool		is_projection = strcmp(kind, "projection") == 0;

	es_definition_lock(kind, name);
	if (strcmp(es_options_string(es_definition_get(kind, name)->spec, "mode", ""), "sync") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s \"%s\" is a sync one", kind, name),
				 errdetail("What is appended while it pauses would never reach it."),
				 is_projection ? errhint("Switch it to 'async' first, with evtstore.switch_projection().") :
				 errhint("Drop it, and create it again when it is to go on.")));
}

/* ST008 where it is none of them; the name is the definition's then */
static const char *
kind_of(const char **name)
{
	if (es_definition_find("queue", *name) != NULL)
		return "queue";
	if (es_definition_find("subscription", *name) != NULL)
		return es_subscription_get(*name) != NULL ? "subscription" : NULL;
	if (es_definition_find("projection", *name) != NULL)
	{
		require_async("projection", *name);
		return "projection";
	}
	if (es_definition_find("rule", es_subscription_rule_name(*name)) != NULL)
	{
		*name = es_subscription_rule_name(*name);
		require_async("rule", *name);
		return "rule";
	}
	if (es_definition_find("reactor", es_subscription_reactor_name(*name)) != NULL)
	{
		*name = es_subscription_reactor_name(*name);
		return "reactor";
	}
	ereport(ERROR,
			(errcode(ES_ERRCODE_NOT_FOUND),
			 errmsg("there is no queue or subscription \"%s\"", *name),
			 errhint("evtstore.queue_status and evtstore.subscription_status list them.")));
}
