/*
 * rule.c
 *		Which events go to which queue: sync rules, in the append's transaction.
 *
 * Runs in the appender's backend.  Each backend caches the rules; the cache is built from the latest snapshot when an
 * append finds it stale, and the one given up lives to the end of the transaction.  A rule applies to every append that begins after its commit.  The message and the event
 * commit together or not at all; the stream is the message's key, so that a stream's messages go out in order: the
 * stream's lock is held, which makes the order of ids the order of commits.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "append.h"
#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "filter.h"
#include "identity.h"
#include "options.h"
#include "queue.h"
#include "rule.h"

#define QUEUE_PREFIX "queue:"

PG_FUNCTION_INFO_V1(evtstore_create_rule);
PG_FUNCTION_INFO_V1(evtstore_alter_rule);
PG_FUNCTION_INFO_V1(evtstore_drop_rule);

/* a queue and the filters of all rules that send to it */
typedef struct Target
{
	char	   *queue;
	List	   *filters;		/* EsFilter, in order of the rules' creation */
} Target;

static MemoryContext cache_context = NULL;
static MemoryContext retired_context = NULL;	/* parent of caches given up in this transaction */
static List *targets = NIL;
static uint64 cache_generation = 0;

static void on_append(const EsAppendPart *parts, int nparts, int nevents);
static void send_matching(Target *target, const EsAppendPart *parts, int nparts, int nevents);
static void fill_message(EsMessage *message, const EsEvent *event);
static void xact_callback(XactEvent event, void *arg);
static Target *find_target(List *list, const char *queue);
static void refresh_cache(void);
static Jsonb *build_spec(Jsonb *filter, const char *target);
static const char *target_queue(const char *target);

void
es_rule_init(void)
{
	es_append_register_hook(on_append);
	RegisterXactCallback(xact_callback, NULL);
}

/* evtstore.create_rule(name, filter, target, transform, mode) */
Datum
evtstore_create_rule(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	Jsonb	   *filter;
	char	   *target;
	char	   *mode;
	int32		id;

	es_catalog_require_writable("create_rule");
	es_arg_required(fcinfo, 1, "filter");
	filter = PG_GETARG_JSONB_P(1);
	target = es_arg_name(fcinfo, 2, "target", ES_MAX_NAME_BYTES + 64);
	if (!PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("transform is not supported by evtstore %s", ES_VERSION),
				 errhint("Leave it NULL: the message carries the event as it is.")));
	mode = es_arg_name(fcinfo, 4, "mode", 16);
	if (strcmp(mode, "sync") != 0)
		ereport(ERROR,
				(errcode(strcmp(mode, "async") == 0 ? ERRCODE_FEATURE_NOT_SUPPORTED : ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mode \"%s\" is not supported by evtstore %s", mode, ES_VERSION),
				 errhint("Use mode => 'sync'.")));

	if (es_definition_create("rule", name, build_spec(filter, target), &id))
		es_identity_establish();
	PG_RETURN_VOID();
}

/* evtstore.alter_rule(name, changes) */
Datum
evtstore_alter_rule(PG_FUNCTION_ARGS)
{
	static const EsOption allowed[] = {
		{"filter", ES_OPTION_OBJECT},
		{"target", ES_OPTION_STRING},
		{NULL}
	};
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	Jsonb	   *spec;

	es_catalog_require_writable("alter_rule");
	es_arg_required(fcinfo, 1, "changes");
	es_options_check(PG_GETARG_JSONB_P(1), allowed, "changes");
	es_definition_lock("rule", name);
	spec = es_options_merge(es_definition_get("rule", name)->spec, PG_GETARG_JSONB_P(1));
	es_definition_alter("rule", name, build_spec(es_options_object(spec, "filter"), es_options_string(spec, "target", "")));
	PG_RETURN_VOID();
}

/* evtstore.drop_rule(name) */
Datum
evtstore_drop_rule(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);

	es_catalog_require_writable("drop_rule");
	es_definition_drop("rule", name);
	PG_RETURN_VOID();
}

static void
on_append(const EsAppendPart *parts, int nparts, int nevents)
{
	ListCell   *lc;

	/* what is imported was acted upon where it happened */
	if (es_append_is_history())
		return;
	if (cache_generation != es_catalog_generation())
		refresh_cache();
	foreach(lc, targets)
		send_matching(lfirst(lc), parts, nparts, nevents);
}

/*
 * Queue by queue, each event in order: two rules to one queue must not send a stream's events past each other.  All in one
 * go, so that keys are locked in one order whatever the order of the parts.  An event that two of them select is sent
 * twice.
 */
static void
send_matching(Target *target, const EsAppendPart *parts, int nparts, int nevents)
{
	EsMessage  *messages = NULL;
	int			count = 0;

	for (int p = 0; p < nparts; p++)
		for (int i = 0; i < parts[p].n; i++)
		{
			ListCell   *lc;

			foreach(lc, target->filters)
			{
				if (!es_filter_matches(lfirst(lc), parts[p].handle, &parts[p].events[i]))
					continue;
				if (messages == NULL)
					messages = MemoryContextAllocExtended(CurrentMemoryContext,
														  (Size) nevents * list_length(target->filters) * sizeof(EsMessage),
														  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
				fill_message(&messages[count++], &parts[p].events[i]);
			}
		}
	if (count > 0)
	{
		es_queue_send(es_queue_get(target->queue), messages, count);
		pfree(messages);
	}
}

static void
fill_message(EsMessage *message, const EsEvent *event)
{
	message->body = event->data;
	message->headers = event->metadata;
	message->key = event->stream;
	message->stream = event->stream;
	message->type = event->type;
	message->tags = event->tags;
	message->position = event->position;
	message->version = event->version;
	message->schema_version = event->schema_version;
	message->event_id = event->id;
	message->occurred_at = event->occurred_at;
	message->recorded_at = event->recorded_at;
}

static void
refresh_cache(void)
{
	uint64		generation = es_catalog_generation();
	MemoryContext fresh = AllocSetContextCreate(CurrentMemoryContext, "evtstore rules", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(fresh);
	List	   *loaded = NIL;
	ListCell   *lc;

	foreach(lc, es_definition_list("rule"))
	{
		EsDefinition *definition = lfirst(lc);
		const char *queue = target_queue(es_options_string(definition->spec, "target", ""));
		Target	   *target = find_target(loaded, queue);

		if (target == NULL)
		{
			target = palloc0(sizeof(Target));
			target->queue = pstrdup(queue);
			loaded = lappend(loaded, target);
		}
		target->filters = lappend(target->filters,
								  es_filter_parse(es_options_object(definition->spec, "filter"), "filter"));
	}
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(fresh, CacheMemoryContext);
	/* an append further up the stack may be in the middle of the old one: a trigger on messages can append */
	if (cache_context != NULL)
	{
		if (retired_context == NULL)
			retired_context = AllocSetContextCreate(TopMemoryContext, "evtstore retired rules", ALLOCSET_SMALL_SIZES);
		MemoryContextSetParent(cache_context, retired_context);
	}
	cache_context = fresh;
	targets = loaded;
	cache_generation = generation;
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (retired_context == NULL || (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	MemoryContextDelete(retired_context);
	retired_context = NULL;
}

static Target *
find_target(List *list, const char *queue)
{
	ListCell   *lc;

	foreach(lc, list)
		if (strcmp(((Target *) lfirst(lc))->queue, queue) == 0)
			return lfirst(lc);
	return NULL;
}

/* checks both parts; the queue stays locked against drop_queue until the rule is committed */
static Jsonb *
build_spec(Jsonb *filter, const char *target)
{
	StringInfoData json;

	es_filter_parse(filter, "filter");
	es_definition_lock("queue", target_queue(target));
	es_definition_get("queue", target_queue(target));
	initStringInfo(&json);
	appendStringInfo(&json, "{\"mode\":\"sync\",\"filter\":%s,\"target\":", es_options_text(filter));
	escape_json(&json, target);
	appendStringInfoChar(&json, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* the name behind queue: */
static const char *
target_queue(const char *target)
{
	if (strncmp(target, QUEUE_PREFIX, strlen(QUEUE_PREFIX)) != 0 || target[strlen(QUEUE_PREFIX)] == '\0')
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("unknown target \"%s\"", target),
				 errdetail("target: evtstore %s knows queues only.", ES_VERSION),
				 errhint("Write 'queue:NAME'.")));
	return target + strlen(QUEUE_PREFIX);
}
