/*
 * subscription_settled.c
 *		wait_for(): until everything up to a position is settled by a subscription, or applied by a projection.
 *
 * Runs in backends, outside of a transaction block; read your own writes.  Between two looks the transaction is ended, so who
 * sleeps holds no snapshot and no lock.  A look is exact: the head has passed the position, and of the events up to there that
 * the filter selects each is covered by the checkpoint of its lane and none stands aside.  So what the filter does not
 * select counts as passed, whatever was written down of it.
 *
 * Woken as who waits for work (waiter.c): by appenders that end, and by the commit of who settles, who calls for the id's
 * negative.  Nothing is written; a crash leaves nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "arg.h"
#include "catalog.h"
#include "checkpoint.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "event.h"
#include "evtstore.h"
#include "feed.h"
#include "guc.h"
#include "lane_layout.h"
#include "options.h"
#include "read.h"
#include "spi.h"
#include "subscription.h"
#include "subscription_settle.h"
#include "subscription_source.h"
#include "waiter.h"

typedef struct Settled
{
	char	   *name;
	int32		id;
	int64		up_to;
	int64		timeout_ms;
	TimestampTz deadline;
	EsWaitFor	wait_for;
	MemoryContext context;		/* of a look */
} Settled;

/* a look, in its reader's open */
typedef struct Look
{
	const EsSubscription *subscription;
	int64		up_to;
	int64		head;
	EsCheckpoint *checkpoints[ES_LANE_SLOTS];	/* see es_lane_place */
} Look;

static EsPlan aside_plan = {
	.sql = "SELECT position, state, last_error FROM evtstore_internal.failed_event WHERE subscription_id = $1 AND position <= $2"
	" ORDER BY state <> 'blocked', position LIMIT 1",
	.nargs = 2,
	.args = {INT4OID, INT8OID},
};

static bool is_sync_projection(const char *name);
static void refuse_block(FunctionCallInfo fcinfo);
static void wait_loop(Settled *settled);
static bool look(const Settled *settled);
static bool stands_aside(const Settled *settled);
static bool all_covered(const EsSubscription *subscription, int64 up_to);
static void open_look(EsReader *reader, void *arg);
static void refuse_changed(const char *name) es_noreturn;
static void refuse_timeout(const Settled *settled);
static void stop_waiting(int code, Datum arg);

PG_FUNCTION_INFO_V1(evtstore_wait_for);

/* CALL wait_for(name text, up_to bigint, timeout interval); evtstore_reader */
Datum
evtstore_wait_for(PG_FUNCTION_ARGS)
{
	Settled		settled = {0};

	settled.name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_arg_required(fcinfo, 1, "up_to");
	settled.up_to = PG_GETARG_INT64(1);
	settled.timeout_ms = Min(es_arg_interval(fcinfo, 2, "timeout") / 1000, INT_MAX);
	PreventCommandDuringRecovery("wait_for");
	refuse_block(fcinfo);
	settled.name = MemoryContextStrdup(PortalContext, settled.name);
	if (is_sync_projection(settled.name))
		settled.wait_for.categories = ES_FEED_ALL_CATEGORIES;
	else
	{
		const EsSubscription *subscription = es_subscription_get(settled.name);

		settled.id = subscription->definition.id;
		settled.wait_for = (EsWaitFor) {.n = 1, .ids = {-settled.id}, .categories = es_subscription_categories(subscription)};
	}
	settled.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), settled.timeout_ms);
	settled.context = AllocSetContextCreate(PortalContext, "evtstore wait", ALLOCSET_DEFAULT_SIZES);

	es_waiter_begin(&settled.wait_for);
	/* a terminated backend leaves by FATAL, which no PG_FINALLY sees */
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, (Datum) 0);
	{
		wait_loop(&settled);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, (Datum) 0);
	es_waiter_end();
	MemoryContextDelete(settled.context);
	PG_RETURN_VOID();
}

static void
stop_waiting(int code, Datum arg)
{
	es_waiter_end();
}

/* its effects commit with the events: it has what the head has passed */
static bool
is_sync_projection(const char *name)
{
	EsDefinition *definition = es_definition_find("projection", name);

	if (definition != NULL && strcmp(definition->state, ES_DEFINITION_REBUILDING) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is being rebuilt in place", name),
				 errhint("evtstore.projection_status shows how far it is.")));
	if (definition != NULL && strcmp(es_options_string(definition->spec, "mode", ""), "sync") == 0)
		return true;
	if (definition == NULL && es_subscription_find(name) == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("there is no projection or subscription \"%s\"", name),
				 errhint("evtstore.projection_status and evtstore.subscription_status list them.")));
	return false;
}

static void
refuse_block(FunctionCallInfo fcinfo)
{
	CallContext *context = (CallContext *) fcinfo->context;

	if (context != NULL && IsA(context, CallContext) && !context->atomic)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("wait_for cannot wait inside a transaction block"),
			 errdetail("What this transaction appended is for nobody to apply before it is committed."),
			 errhint("Commit, then CALL it outside of a transaction.")));
}

static void
wait_loop(Settled *settled)
{
	for (;;)
	{
		MemoryContext old_context;
		bool		found;
		long		left;

		MemoryContextReset(settled->context);
		es_spi_ensure_snapshot();
		old_context = MemoryContextSwitchTo(settled->context);
		found = look(settled);
		MemoryContextSwitchTo(old_context);
		/* nothing of the look is held while this sleeps, and the next one sees what was committed */
		es_spi_drop_snapshots();
		if (found)
			return;
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), settled->deadline);
		if (left <= 0)
			refuse_timeout(settled);
		(void) es_waiter_sleep(Min(left, es_guc_poll_interval));
	}
}

static bool
look(const Settled *settled)
{
	const EsSubscription *subscription;
	bool		covered;

	if (settled->id == 0)
	{
		/* the head first: a projection that is sync after that was so when it was appended to */
		bool		passed = es_feed_head(ES_FEED_ALL_CATEGORIES) >= settled->up_to;

		if (!is_sync_projection(settled->name))
			refuse_changed(settled->name);
		return passed;
	}
	subscription = es_subscription_lock(settled->id, AccessShareLock);
	if (subscription == NULL)
		refuse_changed(settled->name);
	covered = all_covered(subscription, settled->up_to);
	/* after that: what failed meanwhile is covered, and aside */
	if (stands_aside(settled))
		return false;
	if (covered)
		return true;
	subscription = es_subscription_lock(settled->id, AccessShareLock);
	if (subscription == NULL)
		refuse_changed(settled->name);
	if (subscription->is_paused)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" is paused, and has not come to position " INT64_FORMAT, settled->name, settled->up_to),
				 errhint("Resume it with evtstore.resume().")));
	return false;
}

static void
refuse_changed(const char *name)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_NOT_FOUND),
			 errmsg("\"%s\" was dropped, or switched to the other mode", name),
			 errhint("Call it again.")));
}

bool
es_subscription_is_settled(int32 id, int64 up_to)
{
	Settled		settled = {.name = "", .id = id, .up_to = up_to};
	const EsSubscription *subscription = es_subscription_lock(id, AccessShareLock);

	return subscription != NULL && all_covered(subscription, up_to) && !stands_aside(&settled);
}

bool
es_subscription_is_done(int32 id, int64 up_to)
{
	Datum		values[2] = {Int32GetDatum(id), Int64GetDatum(up_to)};
	const EsSubscription *subscription = es_subscription_lock(id, AccessShareLock);
	EsSpiState	state;
	bool		found;

	if (subscription == NULL || !all_covered(subscription, up_to))
		return false;
	es_spi_begin(&state);
	found = es_spi_run_latest(&aside_plan, values, NULL) > 0;
	es_spi_end(&state);
	return !found;
}

/* one that failed, or waits behind one that did; nobody waits for one that waits for a person */
static bool
stands_aside(const Settled *settled)
{
	Datum		values[2] = {Int32GetDatum(settled->id), Int64GetDatum(settled->up_to)};
	EsSpiState	state;
	bool		found;
	int64		position = 0;
	char	   *error = NULL;
	bool		is_blocked = false;
	MemoryContext caller = CurrentMemoryContext;

	es_spi_begin(&state);
	found = es_spi_run_latest(&aside_plan, values, NULL) > 0;
	if (found)
	{
		char	   *text = es_spi_text(0, 2);

		position = es_spi_int64(0, 0);
		is_blocked = strcmp(es_spi_text(0, 1), "blocked") == 0;
		error = text == NULL ? NULL : MemoryContextStrdup(caller, text);
	}
	es_spi_end(&state);
	if (is_blocked)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" failed at position " INT64_FORMAT, settled->name, position),
				 errdetail("%s", error == NULL ? "Its attempts are spent." : error),
				 errhint("evtstore.stuck has the SQL that helps.")));
	return found;
}

static bool
all_covered(const EsSubscription *subscription, int64 up_to)
{
	Look	   *look = palloc0(sizeof(Look));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore look", ALLOCSET_DEFAULT_SIZES);
	EsReader   *reader;
	bool		covered;

	look->subscription = subscription;
	look->up_to = up_to;
	reader = es_reader_open_with(open_look, look, CurrentMemoryContext);
	covered = look->head >= up_to;
	while (covered)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		TupleTableSlot *slot;
		bool		isnull;

		MemoryContextReset(context);
		slot = es_reader_next(reader);
		if (slot != NULL && es_subscription_selects(subscription, reader, slot))
		{
			int64		position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
			char	   *tenant = TextDatumGetCString(slot_getattr(slot, ES_EVENT_TENANT + 1, &isnull));
			int			lane = es_subscription_lane(subscription, tenant, es_subscription_key_of(subscription, reader), position);

			covered = es_checkpoint_covers(look->checkpoints[es_lane_place(lane)], position);
		}
		MemoryContextSwitchTo(old);
		if (slot == NULL)
			break;
	}
	es_reader_close(reader);
	MemoryContextDelete(context);
	return covered;
}

/* the checkpoints of all lanes that there are, and the events above the lowest of them */
static void
open_look(EsReader *reader, void *arg)
{
	Look	   *look = arg;
	const EsLaneLayout *layout = look->subscription->layout;
	const EsLaneGeneration *newest = es_lane_layout_newest(layout);
	EsCheckpoints *checkpoints;
	int64		from = PG_INT64_MAX;

	look->head = es_reader_begin_feed(reader, es_subscription_categories(look->subscription));
	es_reader_set_tenant(reader, look->subscription->tenant);
	checkpoints = es_checkpoints_open(look->subscription->definition.id, es_reader_snapshot(reader));
	for (int number = layout->generations[0].first; number < newest->first + newest->lanes; number++)
	{
		EsCheckpoint *checkpoint = es_checkpoints_read(checkpoints, number);

		look->checkpoints[es_lane_place(number)] = checkpoint;
		/* one that is over has nothing above its end */
		if (checkpoint->position < es_lane_layout_end(layout, number))
			from = Min(from, checkpoint->position);
	}
	es_checkpoints_close(checkpoints);
	if (from < Min(look->up_to, look->head))
		es_subscription_set_source(reader, look->subscription, from, Min(look->up_to, look->head));
}

static void
refuse_timeout(const Settled *settled)
{
	ereport(ERROR,
			(errcode(ES_ERRCODE_WAIT_TIMEOUT),
			 errmsg("\"%s\" did not come to position " INT64_FORMAT " in " INT64_FORMAT " ms", settled->name, settled->up_to,
					settled->timeout_ms),
			 errhint("evtstore.projection_status and evtstore.subscription_status show how far it is, evtstore.why_behind() what holds the head.")));
}
