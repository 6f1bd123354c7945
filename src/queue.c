/*
 * queue.c
 *		Queues: definition, the cache of definitions, the lock of a queue.
 *
 * Runs in backends and, for look-ups, in workers.  send.c puts messages in, claim.c hands them out, settle.c takes them
 * back.
 *
 * A queue is a definition (definition.c) and the rows with its id.  Who sends, claims or settles holds the queue's
 * lock, shared, to the end of the transaction, and its drop holds it exclusively: no message and no dead letter can
 * appear in a queue that is gone.  The cache is this backend's own and rebuilt when a definition changed.  Rows are
 * transactional: a crash leaves what was committed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "evtstore.h"
#include "guc.h"
#include "identity.h"
#include "lock.h"
#include "options.h"
#include "queue.h"

/* the retry policy where a queue says nothing */
#define DEFAULT_MAX_ATTEMPTS 10
#define DEFAULT_INITIAL_MS 1000
#define DEFAULT_MULTIPLIER 2.0
#define DEFAULT_MAX_DELAY_MS (10 * 60 * 1000)
#define DEFAULT_JITTER 0.5

#define MAX_RETRY_SECONDS (365.0 * 24 * 3600)

static const EsOption queue_options[] = {
	{"endpoint", ES_OPTION_STRING},
	{"retry", ES_OPTION_OBJECT},
	{NULL}
};

static const EsOption retry_options[] = {
	{"max_attempts", ES_OPTION_INT, 0, 100000},
	{"initial", ES_OPTION_INTERVAL, 0, MAX_RETRY_SECONDS},
	{"multiplier", ES_OPTION_NUMBER, 1, 1000},
	{"max_delay", ES_OPTION_INTERVAL, 0, MAX_RETRY_SECONDS},
	{"jitter", ES_OPTION_NUMBER, 0, 1},
	{NULL}
};

static EsPlan delete_messages_plan = {
	.sql = "DELETE FROM evtstore_internal.message WHERE queue_id = $1",
	.nargs = 1,
	.args = {INT4OID},
};

static EsPlan delete_dead_letters_plan = {
	.sql = "DELETE FROM evtstore_internal.dead_letter WHERE source_id = $1 AND kind = 'queue'",
	.nargs = 1,
	.args = {INT4OID},
};

/* every queue, in order of id; rebuilt when the definitions changed */
static MemoryContext cache_context = NULL;
static EsQueue *cache = NULL;
static int	cache_size = 0;
static uint64 cache_generation = 0;

static void refresh_cache(void);
static void fill_queue(EsQueue *queue, const EsDefinition *definition);
static const EsQueue *find_by_name(const char *name);
static const EsQueue *find_by_id(int32 id);
static EsQueue *copy_queue(const EsQueue *queue);
static Jsonb *canonical_spec(Jsonb *options);
static void append_retry(StringInfo buf, Jsonb *retry);
static void append_key(StringInfo buf, const char *key);
static Jsonb *changed_options(Jsonb *spec, Jsonb *changes);
static void check_keys(Jsonb *changes, const EsOption *allowed, const char *what);
static Jsonb *make_empty_object(void);
static void require_endpoint(Jsonb *spec);
static void refuse_if_targeted(const char *name);

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
	es_arg_required(fcinfo, 1, "options");
	spec = canonical_spec(PG_GETARG_JSONB_P(1));
	require_endpoint(spec);
	es_identity_establish();
	(void) es_definition_create("queue", name, spec, &id);
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
	es_arg_required(fcinfo, 1, "changes");
	changes = PG_GETARG_JSONB_P(1);
	es_definition_lock("queue", name);
	spec = canonical_spec(changed_options(es_definition_get("queue", name)->spec, changes));
	require_endpoint(spec);
	es_definition_alter("queue", name, spec);
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
	es_spi_run(&delete_dead_letters_plan, values, NULL, false, 0);
	es_spi_end(&state);
	(void) es_definition_drop("queue", name);
	PG_RETURN_VOID();
}

const EsQueue *
es_queue_get(const char *name)
{
	const EsQueue *queue = find_by_name(name);

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

	refresh_cache();
	for (int i = 0; i < cache_size; i++)
		if (cache[i].endpoint != NULL)
			result = lappend(result, copy_queue(&cache[i]));
	return result;
}

const EsQueue *
es_queue_lock(int32 id, LOCKMODE mode)
{
	/* who waited for a drop must hear of it: invalidation messages are not read by taking this kind of lock */
	if (es_lock_mode(ES_LOCK_QUEUE, id, mode))
		AcceptInvalidationMessages();
	return find_by_id(id);
}

const char *
es_queue_tenant(void)
{
	return es_guc_tenant != NULL ? es_guc_tenant : "";
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

/*
 * Looks at the generation before it reads: a change while it reads makes the next call read again.  Built aside and put
 * in place when complete, so that an error leaves the old one.
 */
static void
refresh_cache(void)
{
	uint64		generation = es_catalog_generation();
	MemoryContext context;
	MemoryContext old_context;
	EsQueue    *queues;
	List	   *definitions;
	ListCell   *lc;
	int			n = 0;

	if (cache_context != NULL && cache_generation == generation)
		return;
	definitions = es_definition_list("queue");
	context = AllocSetContextCreate(CurrentMemoryContext, "evtstore queues", ALLOCSET_SMALL_SIZES);
	old_context = MemoryContextSwitchTo(context);
	queues = palloc0(Max(list_length(definitions), 1) * sizeof(EsQueue));
	foreach(lc, definitions)
		fill_queue(&queues[n++], lfirst(lc));
	MemoryContextSwitchTo(old_context);

	MemoryContextSetParent(context, CacheMemoryContext);
	if (cache_context != NULL)
		MemoryContextDelete(cache_context);
	cache_context = context;
	cache = queues;
	cache_size = n;
	cache_generation = generation;
}

static void
fill_queue(EsQueue *queue, const EsDefinition *definition)
{
	Jsonb	   *retry = es_options_object(definition->spec, "retry");

	if (retry == NULL)
		retry = make_empty_object();
	queue->id = definition->id;
	queue->name = pstrdup(definition->name);
	queue->endpoint = es_options_string(definition->spec, "endpoint", NULL);
	queue->retry.max_attempts = es_options_int(retry, "max_attempts", DEFAULT_MAX_ATTEMPTS);
	queue->retry.initial = es_options_interval_ms(retry, "initial", DEFAULT_INITIAL_MS);
	queue->retry.multiplier = es_options_number(retry, "multiplier", DEFAULT_MULTIPLIER);
	queue->retry.max_delay = es_options_interval_ms(retry, "max_delay", DEFAULT_MAX_DELAY_MS);
	queue->retry.jitter = es_options_number(retry, "jitter", DEFAULT_JITTER);
}

static const EsQueue *
find_by_name(const char *name)
{
	refresh_cache();
	for (int i = 0; i < cache_size; i++)
		if (strcmp(cache[i].name, name) == 0)
			return &cache[i];
	return NULL;
}

static const EsQueue *
find_by_id(int32 id)
{
	int			low = 0;
	int			high;

	refresh_cache();
	high = cache_size;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (cache[middle].id == id)
			return &cache[middle];
		if (cache[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

static EsQueue *
copy_queue(const EsQueue *queue)
{
	EsQueue    *copy = palloc(sizeof(EsQueue));

	*copy = *queue;
	copy->name = pstrdup(queue->name);
	if (queue->endpoint != NULL)
		copy->endpoint = pstrdup(queue->endpoint);
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
	char	   *endpoint;
	Jsonb	   *retry;

	es_options_check(options, queue_options, "queue options");
	endpoint = es_options_string(options, "endpoint", NULL);
	retry = es_options_object(options, "retry");

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	if (endpoint != NULL)
	{
		es_arg_check_name(endpoint, "endpoint", ES_MAX_NAME_BYTES);
		append_key(&buf, "endpoint");
		escape_json(&buf, endpoint);
	}
	if (retry != NULL)
	{
		es_options_check(retry, retry_options, "retry");
		append_key(&buf, "retry");
		append_retry(&buf, retry);
	}
	appendStringInfoChar(&buf, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

static void
append_retry(StringInfo buf, Jsonb *retry)
{
	appendStringInfoChar(buf, '{');
	for (const EsOption *option = retry_options; option->name != NULL; option++)
	{
		if (!es_options_has(retry, option->name))
			continue;
		append_key(buf, option->name);
		if (option->type == ES_OPTION_INTERVAL)
			appendStringInfo(buf, "\"%lldms\"", (long long) es_options_interval_ms(retry, option->name, 0));
		else if (option->type == ES_OPTION_INT)
			appendStringInfo(buf, "%d", es_options_int(retry, option->name, 0));
		else
			appendStringInfo(buf, "%.15g", es_options_number(retry, option->name, 0));
	}
	appendStringInfoChar(buf, '}');
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
	Jsonb	   *old_retry;
	Jsonb	   *retry;
	StringInfoData buf;

	check_keys(changes, queue_options, "changes of a queue");
	changed = es_options_merge(spec, changes);
	es_options_check(changed, queue_options, "queue options");
	if (!es_options_has(changes, "retry") || !es_options_has(changed, "retry"))
		return changed;

	retry = es_options_object(changes, "retry");
	check_keys(retry, retry_options, "retry");
	old_retry = es_options_object(spec, "retry");
	retry = es_options_merge(old_retry != NULL ? old_retry : make_empty_object(), retry);
	es_options_check(retry, retry_options, "retry");
	initStringInfo(&buf);
	appendStringInfoString(&buf, "{\"retry\": ");
	append_retry(&buf, retry);
	appendStringInfoChar(&buf, '}');
	return es_options_merge(changed, DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data))));
}

/* es_options_check sees only what is left after the merge; a null for an unknown key would pass it */
static void
check_keys(Jsonb *changes, const EsOption *allowed, const char *what)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	if (!JB_ROOT_IS_OBJECT(changes))
		es_options_check(changes, allowed, what);	/* says so */
	it = JsonbIteratorInit(&changes->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		const EsOption *option = allowed;
		char	   *key;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(v.val.string.val, v.val.string.len);
		while (option->name != NULL && strcmp(option->name, key) != 0)
			option++;
		if (option->name == NULL)
			es_options_check(changes, allowed, what);	/* names the first unknown key and those that are known */
	}
}

static Jsonb *
make_empty_object(void)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
}

/* the endpoint's name stays locked, so that it cannot be dropped before this transaction ends */
static void
require_endpoint(Jsonb *spec)
{
	char	   *endpoint = es_options_string(spec, "endpoint", NULL);

	if (endpoint == NULL)
		return;
	es_definition_lock("endpoint", endpoint);
	(void) es_definition_get("endpoint", endpoint);
}

/* Locks: the queue's name; create_rule takes it too */
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
}
