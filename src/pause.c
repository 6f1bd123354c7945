/*
 * pause.c
 *		Pausing and resuming what hands something out: queues and subscriptions.
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
#include "queue.h"
#include "subscription.h"
#include "waiter.h"
#include "wakeup.h"

static const char *kind_of(const char *name);

PG_FUNCTION_INFO_V1(evtstore_pause);
PG_FUNCTION_INFO_V1(evtstore_resume);

/* pause(name text) -> void; evtstore_admin */
Datum
evtstore_pause(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);

	es_catalog_require_writable("pause");
	es_definition_set_state(kind_of(name), name, ES_DEFINITION_PAUSED);
	PG_RETURN_VOID();
}

/* resume(name text) -> void; evtstore_admin */
Datum
evtstore_resume(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	const char *kind;

	es_catalog_require_writable("resume");
	kind = kind_of(name);
	es_definition_set_state(kind, name, ES_DEFINITION_ACTIVE);
	/* workers may find something to deliver, consumers something to receive */
	es_wakeup_at_commit(1);
	es_waiter_wake_at_commit(es_definition_get(kind, name)->id, INT_MAX);
	PG_RETURN_VOID();
}

/* ST008 where it is neither */
static const char *
kind_of(const char *name)
{
	if (es_definition_find("queue", name) != NULL)
		return "queue";
	if (es_definition_find("subscription", name) != NULL)
		return es_subscription_get(name) != NULL ? "subscription" : NULL;
	ereport(ERROR,
			(errcode(ES_ERRCODE_NOT_FOUND),
			 errmsg("there is no queue or subscription \"%s\"", name),
			 errhint("evtstore.queue_status and evtstore.subscription_status list them.")));
}
