/*
 * subscription_operate.c
 *		What a person does about a subscription that is stuck: unblock a key, skip an event, evict a consumer.
 *
 * Runs in backends, in the caller's transaction, but for the eviction, which is at once.  Locks: the subscription's,
 * shared; those of the key's lanes, waited for, so that nobody hands out or settles there at the same time.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "dead_key.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "failed_event.h"
#include "guc.h"
#include "lane.h"
#include "queue.h"
#include "spi.h"
#include "subscription.h"
#include "waiter.h"

/* position 0: a key that was given up */
static EsPlan front_plan = {
	.sql = "(SELECT position, tenant, key FROM evtstore_internal.failed_event"
	" WHERE subscription_id = $1 AND key = $2 AND ($3 = '' OR tenant = $3) AND state <> 'waiting' ORDER BY position LIMIT 1)"
	" UNION ALL (SELECT 0, tenant, key FROM evtstore_internal.dead_key"
	" WHERE subscription_id = $1 AND key = $2 AND ($3 = '' OR tenant = $3) LIMIT 1)",
	.nargs = 3,
	.args = {INT4OID, TEXTOID, TEXTOID},
};

static EsPlan position_plan = {
	.sql = "SELECT e.position, f.tenant, f.key FROM evtstore_internal.event e"
	" JOIN evtstore_internal.failed_event f ON f.subscription_id = $1 AND f.position = e.position WHERE e.id = $2 AND ($3 = '' OR e.tenant = $3)",
	.nargs = 3,
	.args = {INT4OID, UUIDOID, TEXTOID},
};

static const EsSubscription *get_subscription(FunctionCallInfo fcinfo);
static const EsSubscription *find_aside(FunctionCallInfo fcinfo, EsPlan *plan, Datum what, int64 *position, char **tenant);
static bool is_aside(EsPlan *plan, const EsSubscription *subscription, Datum what, int64 *position, char **tenant);

PG_FUNCTION_INFO_V1(evtstore_unblock_key);
PG_FUNCTION_INFO_V1(evtstore_skip_event);
PG_FUNCTION_INFO_V1(evtstore_evict_consumer);

/* unblock_key(name text, key text) -> void; evtstore_admin */
Datum
evtstore_unblock_key(PG_FUNCTION_ARGS)
{
	const EsSubscription *subscription;
	char	   *key;
	char	   *tenant;
	int64		position;

	es_catalog_require_writable("unblock_key");
	key = es_arg_name(fcinfo, 1, "key", ES_MAX_KEY_BYTES);
	subscription = find_aside(fcinfo, &front_plan, CStringGetTextDatum(key), &position, &tenant);
	if (position < 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("no event of key \"%s\" is set aside in subscription \"%s\"", key, subscription->definition.name),
				 errhint("evtstore.blocked_keys lists the keys that wait.")));
	if (position == 0)
		(void) es_dead_key_remove(subscription->definition.id, tenant, key);
	else
		es_failed_event_unblock(subscription, position);
	es_waiter_wake_at_commit(subscription->definition.id, INT_MAX);
	/* who waits for it to come to a position, too */
	es_waiter_wake_at_commit(-subscription->definition.id, INT_MAX);
	PG_RETURN_VOID();
}

/* skip_event(subscription text, event_id uuid, reason text) -> void; evtstore_admin */
Datum
evtstore_skip_event(PG_FUNCTION_ARGS)
{
	const EsSubscription *subscription;
	char	   *reason;
	char	   *tenant;
	int64		position;

	es_catalog_require_writable("skip_event");
	es_arg_required(fcinfo, 1, "event_id");
	reason = es_arg_name(fcinfo, 2, "reason", ES_MAX_KEY_BYTES);
	subscription = find_aside(fcinfo, &position_plan, PG_GETARG_DATUM(1), &position, &tenant);
	if (position < 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("event %s is not set aside in subscription \"%s\"",
						DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(1))), subscription->definition.name),
				 errdetail("Only events that failed, and those that wait behind one, can be skipped."),
				 errhint("evtstore.blocked_keys lists the events in front of their keys.")));
	es_failed_event_skip(subscription, position, reason);
	es_waiter_wake_at_commit(subscription->definition.id, INT_MAX);
	/* who waits for it to come to a position, too */
	es_waiter_wake_at_commit(-subscription->definition.id, INT_MAX);
	PG_RETURN_VOID();
}

/* evict_consumer(name text, consumer text) -> void; evtstore_admin.  At once, whatever becomes of the transaction */
Datum
evtstore_evict_consumer(PG_FUNCTION_ARGS)
{
	const EsSubscription *subscription;
	char	   *name;
	char	   *consumer;

	es_catalog_require_writable("evict_consumer");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	consumer = es_arg_name(fcinfo, 1, "consumer", ES_MAX_NAME_BYTES);
	if (es_definition_find("queue", name) != NULL)
	{
		if (es_queue_evict_consumer(name, consumer) == 0)
			ereport(ERROR,
					(errcode(ES_ERRCODE_NOT_FOUND),
					 errmsg("consumer \"%s\" holds no message of queue \"%s\"", consumer, name),
					 errhint("The name is the one that it gives to evtstore.receive().")));
		PG_RETURN_VOID();
	}
	subscription = get_subscription(fcinfo);
	if (!es_subscription_end_consumer(subscription->definition.id, consumer))
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("subscription \"%s\" has no consumer \"%s\"", subscription->definition.name, consumer),
				 errhint("evtstore.consumers lists those that gave a name.")));
	PG_RETURN_VOID();
}

/* argument 0, locked against being dropped */
static const EsSubscription *
get_subscription(FunctionCallInfo fcinfo)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	const EsSubscription *subscription = es_subscription_lock(es_subscription_get(name)->definition.id, AccessShareLock);

	/* dropped a moment ago: says so */
	return subscription != NULL ? subscription : es_subscription_get(name);
}

/*
 * What stands aside in the subscription of argument 0; or, where that is a projection, in its rebuild, which has failures of its own.
 * *position -1: in neither
 */
static const EsSubscription *
find_aside(FunctionCallInfo fcinfo, EsPlan *plan, Datum what, int64 *position, char **tenant)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	EsDefinition *rebuild = es_definition_find("rebuild", name);
	const EsSubscription *subscription = NULL;

	if (rebuild == NULL || es_subscription_find(name) != NULL)
	{
		subscription = get_subscription(fcinfo);
		if (is_aside(plan, subscription, what, position, tenant))
			return subscription;
	}
	if (rebuild != NULL && es_subscription_lock(rebuild->id, AccessShareLock) != NULL)
	{
		subscription = es_subscription_lock(rebuild->id, AccessShareLock);
		if (is_aside(plan, subscription, what, position, tenant))
			return subscription;
	}
	*position = -1;
	return subscription != NULL ? subscription : get_subscription(fcinfo);
}

/* and locks its key */
static bool
is_aside(EsPlan *plan, const EsSubscription *subscription, Datum what, int64 *position, char **tenant)
{
	EsSpiState	state;
	Datum		values[3];
	bool		found;
	uint32		hash = 0;
	MemoryContext caller = CurrentMemoryContext;

	values[0] = Int32GetDatum(subscription->definition.id);
	values[1] = what;
	values[2] = CStringGetTextDatum(es_guc_tenant);
	es_queue_spi_begin(&state);
	found = es_spi_run(plan, values, NULL, true, 1) > 0;
	if (found)
	{
		*position = es_spi_int64(0, 0);
		*tenant = MemoryContextStrdup(caller, es_spi_text(0, 1));
		hash = es_subscription_hash(es_spi_text(0, 1), es_spi_text(0, 2), *position);
	}
	es_spi_end(&state);
	if (found)
		es_subscription_lock_keys(subscription, &hash, 1);
	return found;
}
