/*
 * queue.c
 *		Queues: definition and lock of a queue.
 *
 * Runs in backends and, for look-ups, in workers.  send.c puts messages in, claim.c hands them out, settle.c takes them
 * back.
 *
 * A queue is a definition (definition.c) and the rows with its id.  Who sends, claims or settles holds the queue's
 * lock, shared, to the end of the transaction, and its drop holds it exclusively: no message and no dead letter can
 * appear in a queue that is gone.  Rows are
 * transactional: a crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition_cache.h"
#include "error.h"
#include "evtstore.h"
#include "guc.h"
#include "identity.h"
#include "lock.h"
#include "options.h"
#include "queue.h"
#include "waiter.h"
#include "wakeup.h"

/* how long a dedup_id is remembered where the queue does not say */
#define DEFAULT_DEDUP_WINDOW_MS INT64CONST(86400000)
#define MAX_DEDUP_SECONDS (366.0 * 24 * 3600)

static const EsOption queue_options[] = {
	{"dead_letter_queue", ES_OPTION_STRING},
	{"dedup_window", ES_OPTION_INTERVAL, 1, MAX_DEDUP_SECONDS},
	{"endpoint", ES_OPTION_STRING},
	{"fair_by", ES_OPTION_STRING},
	{"max_in_flight", ES_OPTION_INT, 1, 1000000000},
	{"notify", ES_OPTION_STRING},
	{"rate", ES_OPTION_NUMBER, 0.001, 1000000000},
	{"retry", ES_OPTION_OBJECT},
	{NULL}
};

/* it is for workers, who are woken for a queue that has an endpoint; tried again for ever, because nothing of it can be done without */
#define SAGAS_SPEC "{\"endpoint\": \"" ES_QUEUE_SAGAS "\", \"retry\": {\"max_attempts\": 0, \"initial\": \"100ms\", \"max_delay\": \"60000ms\"}}"

static EsPlan delete_messages_plan = {
	.sql = "DELETE FROM evtstore_internal.message WHERE queue_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan delete_dedup_plan = {
	.sql = "DELETE FROM evtstore_internal.message_dedup WHERE queue_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan delete_dead_letters_plan = {
	.sql = "DELETE FROM evtstore_internal.dead_letter WHERE source_id = $1 AND kind = 'queue'",
	.nargs = 1,
	.args = {INT4OID},
};

static void make_reserved(const char *name, Jsonb *spec);
static void fill_queue(void *entry, const EsDefinition *definition);
static EsQueue *copy_queue(const EsQueue *queue);
static Jsonb *canonical_spec(Jsonb *options);
static void append_name(StringInfo buf, Jsonb *options, const char *key, int max_bytes);
static void append_key(StringInfo buf, const char *key);
static Jsonb *changed_options(Jsonb *spec, Jsonb *changes);
static EsPlaceholder *parse_fair_by(const char *text);
static void require_targets(const char *name, Jsonb *spec);
static void refuse_circle(const char *name, const char *target);
static void refuse_if_targeted(const char *name);

static EsDefinitionCache cache = {
	.kind = "queue",
	.size = sizeof(EsQueue),
	.fill = fill_queue,
};

PG_FUNCTION_INFO_V1(evtstore_create_queue);
PG_FUNCTION_INFO_V1(evtstore_alter_queue);
PG_FUNCTION_INFO_V1(evtstore_drop_queue);

/* create_queue(name text, options jsonb) -> void; evtstore_admin */
Datum
evtstore_create_queue(PG_FUNCTION_ARGS)
{
	char	   *name;
	Jsonb	   *spec;
	int32		id;

	es_catalog_require_writable("create_queue");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_queue_refuse_reserved(name);
	es_arg_required(fcinfo, 1, "options");
	spec = canonical_spec(PG_GETARG_JSONB_P(1));
	require_targets(name, spec);
	es_identity_establish();
	(void) es_definition_create("queue", name, spec, &id);
	/* the scheduler has to know what to watch */
	if (es_options_has(spec, "notify"))
		es_wakeup_at_commit(0);
	PG_RETURN_VOID();
}

/* alter_queue(name text, changes jsonb) -> void; evtstore_admin */
Datum
evtstore_alter_queue(PG_FUNCTION_ARGS)
{
	char	   *name;
	Jsonb	   *changes;
	Jsonb	   *spec;

	es_catalog_require_writable("alter_queue");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_queue_refuse_reserved(name);
	es_arg_required(fcinfo, 1, "changes");
	changes = PG_GETARG_JSONB_P(1);
	es_definition_lock("queue", name);
	spec = canonical_spec(changed_options(es_definition_get("queue", name)->spec, changes));
	require_targets(name, spec);
	es_definition_alter("queue", name, spec);
	if (es_options_has(spec, "notify"))
		es_wakeup_at_commit(0);
	/* there may be room now */
	es_waiter_wake_at_commit(es_definition_get("queue", name)->id, INT_MAX);
	PG_RETURN_VOID();
}

/*
 * drop_queue(name text) -> void; evtstore_admin.  Waits for the transactions that use the queue.  Everything of the
 * queue goes with it, also what a snapshot of the past would not show: hence READ COMMITTED only.
 */
Datum
evtstore_drop_queue(PG_FUNCTION_ARGS)
{
	char	   *name;
	EsDefinition *definition;
	EsSpiState	state;
	Datum		values[1];

	es_catalog_require_writable("drop_queue");
	name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	es_queue_refuse_reserved(name);
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a queue cannot be dropped in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	es_definition_lock("queue", name);
	definition = es_definition_get("queue", name);
	refuse_if_targeted(name);
	(void) es_lock_mode(ES_LOCK_QUEUE, definition->id, AccessExclusiveLock);

	values[0] = Int32GetDatum(definition->id);
	es_queue_spi_begin(&state);
	es_spi_run(&delete_messages_plan, values, NULL, false, 0);
	es_spi_run(&delete_dedup_plan, values, NULL, false, 0);
	es_spi_run(&delete_dead_letters_plan, values, NULL, false, 0);
	es_spi_end(&state);
	es_queue_state_forget(definition->id);
	(void) es_definition_drop("queue", name);
	PG_RETURN_VOID();
}

void
es_queue_make_sagas(void)
{
	make_reserved(ES_QUEUE_SAGAS, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(SAGAS_SPEC))));
}

static void
make_reserved(const char *name, Jsonb *spec)
{
	if (es_definition_cache_by_name(&cache, name) != NULL)
		return;
	es_definition_lock("queue", name);
	if (es_definition_find("queue", name) == NULL)
		(void) es_definition_create_as("queue", name, GetUserNameFromId(es_catalog()->owner, false), "pg_catalog", spec);
}

char *
es_queue_of_endpoint(const char *endpoint)
{
	return psprintf("%s%s", ES_QUEUE_ENDPOINT_PREFIX, endpoint);
}

void
es_queue_make_of_endpoint(const char *endpoint)
{
	StringInfoData name;

	initStringInfo(&name);
	escape_json(&name, endpoint);
	make_reserved(es_queue_of_endpoint(endpoint), es_options_of("endpoint", DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(name.data)))));
}

void
es_queue_refuse_reserved(const char *name)
{
	if (strncmp(name, ES_QUEUE_WORKER_PREFIX, strlen(ES_QUEUE_WORKER_PREFIX)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("queue \"%s\" is evtstore's own", name),
				 errhint("Names that begin with \"%s\" are reserved; what sagas do is in the view evtstore.sagas.", ES_QUEUE_WORKER_PREFIX)));
}

const EsQueue *
es_queue_find(const char *name)
{
	return es_definition_cache_by_name(&cache, name);
}

const EsQueue *
es_queue_get(const char *name)
{
	const EsQueue *queue = es_queue_find(name);

	if (queue == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("queue \"%s\" does not exist", name),
				 errhint("Create it with evtstore.create_queue().")));
	return queue;
}

List *
es_queue_list_pushed(void)
{
	List	   *result = NIL;
	int			n;
	const EsQueue *queues = es_definition_cache_all(&cache, &n);

	for (int i = 0; i < n; i++)
		if (queues[i].endpoint != NULL && !queues[i].is_paused)
			result = lappend(result, copy_queue(&queues[i]));
	return result;
}

List *
es_queue_list_notifying(void)
{
	List	   *result = NIL;
	int			n;
	const EsQueue *queues = es_definition_cache_all(&cache, &n);

	for (int i = 0; i < n; i++)
		if (queues[i].notify != NULL)
			result = lappend(result, copy_queue(&queues[i]));
	return result;
}

const EsQueue *
es_queue_lock(int32 id, LOCKMODE mode)
{
	/* who waited for a drop must hear of it: invalidation messages are not read by taking this kind of lock */
	if (es_lock_mode(ES_LOCK_QUEUE, id, mode))
		AcceptInvalidationMessages();
	return es_definition_cache_by_id(&cache, id);
}

const char *
es_queue_tenant(void)
{
	return es_guc_tenant != NULL ? es_guc_tenant : "";
}

Datum
es_queue_id_array(const int64 *ids, int n)
{
	ArrayBuildState *array = initArrayResult(INT8OID, CurrentMemoryContext, false);

	for (int i = 0; i < n; i++)
		array = accumArrayResult(array, Int64GetDatum(ids[i]), false, INT8OID, CurrentMemoryContext);
	return makeArrayResult(array, CurrentMemoryContext);
}

/*
 * A plan that is made while the table is small and kept while it grows must not read it from end to end.
 */
void
es_queue_spi_begin(EsSpiState *state)
{
	es_spi_begin(state);
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
fill_queue(void *entry, const EsDefinition *definition)
{
	EsQueue    *queue = entry;

	queue->endpoint = es_options_string(definition->spec, "endpoint", NULL);
	queue->is_for_sagas = strcmp(definition->name, ES_QUEUE_SAGAS) == 0;
	queue->is_for_steps = strncmp(definition->name, ES_QUEUE_ENDPOINT_PREFIX, strlen(ES_QUEUE_ENDPOINT_PREFIX)) == 0;
	queue->is_paused = strcmp(definition->state, ES_DEFINITION_ACTIVE) != 0;
	queue->max_in_flight = es_options_int(definition->spec, "max_in_flight", 0);
	queue->rate = es_options_number(definition->spec, "rate", 0);
	queue->dedup_window = es_options_interval_ms(definition->spec, "dedup_window", DEFAULT_DEDUP_WINDOW_MS);
	queue->dead_letter_queue = es_options_string(definition->spec, "dead_letter_queue", NULL);
	queue->notify = es_options_string(definition->spec, "notify", NULL);
	if (es_options_has(definition->spec, "fair_by"))
		queue->fair_by = parse_fair_by(es_options_string(definition->spec, "fair_by", NULL));
	queue->use = es_use_read(definition->grants);
	queue->retry = es_retry_read(es_options_object(definition->spec, "retry"));
}

static EsQueue *
copy_queue(const EsQueue *queue)
{
	EsQueue    *copy = palloc(sizeof(EsQueue));

	*copy = *queue;
	copy->name = pstrdup(queue->name);
	if (queue->endpoint != NULL)
		copy->endpoint = pstrdup(queue->endpoint);
	if (queue->notify != NULL)
		copy->notify = pstrdup(queue->notify);
	return copy;
}

/*
 * Checks the options and writes them in one form: intervals in milliseconds, so that "1s" equals "1000ms".  What is not
 * given stays absent and follows the defaults of the version that runs.
 */
static Jsonb *
canonical_spec(Jsonb *options)
{
	StringInfoData buf;
	Jsonb	   *retry;

	es_options_check(options, queue_options, "queue options");
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	append_name(&buf, options, "dead_letter_queue", ES_MAX_NAME_BYTES);
	if (es_options_has(options, "dedup_window"))
	{
		append_key(&buf, "dedup_window");
		appendStringInfo(&buf, "\"%lldms\"", (long long) es_options_interval_ms(options, "dedup_window", 0));
	}
	append_name(&buf, options, "endpoint", ES_MAX_NAME_BYTES);
	if (es_options_has(options, "fair_by"))
	{
		char	   *fair_by = es_options_string(options, "fair_by", NULL);

		(void) parse_fair_by(fair_by);
		append_key(&buf, "fair_by");
		escape_json(&buf, fair_by);
	}
	if (es_options_has(options, "max_in_flight"))
	{
		append_key(&buf, "max_in_flight");
		appendStringInfo(&buf, "%d", es_options_int(options, "max_in_flight", 0));
	}
	append_name(&buf, options, "notify", NAMEDATALEN - 1);
	if (es_options_has(options, "rate"))
	{
		append_key(&buf, "rate");
		appendStringInfoString(&buf, DatumGetCString(DirectFunctionCall1(float8out, Float8GetDatum(es_options_number(options, "rate", 0)))));
	}
	retry = es_options_object(options, "retry");
	if (retry != NULL)
	{
		es_retry_check(retry);
		append_key(&buf, "retry");
		es_retry_append(&buf, retry);
	}
	appendStringInfoChar(&buf, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

static void
append_name(StringInfo buf, Jsonb *options, const char *key, int max_bytes)
{
	char	   *name = es_options_string(options, key, NULL);

	if (name == NULL)
		return;
	es_arg_check_name(name, key, max_bytes);
	append_key(buf, key);
	escape_json(buf, name);
}

static void
append_key(StringInfo buf, const char *key)
{
	if (buf->data[buf->len - 1] != '{')
		appendStringInfoString(buf, ", ");
	appendStringInfo(buf, "\"%s\": ", key);
}

/* the options after changes; a null takes one away, in the retry policy too */
static Jsonb *
changed_options(Jsonb *spec, Jsonb *changes)
{
	Jsonb	   *changed;
	StringInfoData buf;

	es_options_check_changes(changes, queue_options, "changes of a queue");
	changed = es_options_merge(spec, changes);
	if (!es_options_has(changes, "retry") || !es_options_has(changed, "retry"))
		return changed;
	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"retry\": ");
	es_retry_append(&buf, es_retry_change(es_options_object(spec, "retry"), es_options_object(changes, "retry")));
	appendStringInfoChar(&buf, '}');
	return es_options_merge(changed, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data))));
}

static EsPlaceholder *
parse_fair_by(const char *text)
{
	static const EsPlaceholderRoot roots[] = {
		[ES_FAIR_BY_KEY] = {"key", false},
		[ES_FAIR_BY_BODY] = {"body", true},
		[ES_FAIR_BY_HEADERS] = {"headers", true},
		{NULL}
	};

	return es_placeholder_parse(text, "fair_by", roots, "It is ${key}, or a field such as ${body.customerId} or ${headers.region}.");
}

/* their names stay locked, so that none can be dropped before this transaction ends */
static void
require_targets(const char *name, Jsonb *spec)
{
	char	   *endpoint = es_options_string(spec, "endpoint", NULL);
	char	   *target = es_options_string(spec, "dead_letter_queue", NULL);

	if (endpoint != NULL)
	{
		es_definition_lock("endpoint", endpoint);
		(void) es_definition_get("endpoint", endpoint);
	}
	if (target != NULL)
	{
		es_queue_refuse_reserved(target);
		es_definition_lock("queue", target);
		/* two changes at a time could close a circle that neither sees */
		es_definition_lock("dead letter queues", "all");
		refuse_circle(name, target);
	}
}

/* what nobody can work off would go round for ever */
static void
refuse_circle(const char *name, const char *target)
{
	for (char *next = pstrdup(target); next != NULL;)
	{
		if (strcmp(next, name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("dead_letter_queue \"%s\" of queue \"%s\" leads back to it", target, name),
					 errhint("Name a queue whose own dead letters stay, or go elsewhere.")));
		next = es_options_string(es_definition_get("queue", next)->spec, "dead_letter_queue", NULL);
	}
}

/* Locks: the queue's name; create_rule, and who makes it a dead letter queue, take it too */
static void
refuse_if_targeted(const char *name)
{
	char	   *target = psprintf("queue:%s", name);
	ListCell   *lc;

	foreach(lc, es_definition_list("rule"))
	{
		EsDefinition *rule = lfirst(lc);
		char	   *rule_target = es_options_string(rule->spec, "target", "");

		if (strcmp(rule_target, target) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("queue \"%s\" cannot be dropped: rule \"%s\" sends to it", name, rule->name),
					 errhint("Drop the rule first with evtstore.drop_rule().")));
	}
	foreach(lc, es_definition_list("queue"))
	{
		EsDefinition *queue = lfirst(lc);

		if (strcmp(es_options_string(queue->spec, "dead_letter_queue", ""), name) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("queue \"%s\" cannot be dropped: it takes the dead letters of queue \"%s\"", name, queue->name),
					 errhint("Give that one another with evtstore.alter_queue(), or drop it first.")));
	}
}
