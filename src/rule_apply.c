/*
 * rule_apply.c
 *		Rules as each backend caches them, and doing what they say: a message, a call.
 *
 * Runs in the appender's backend for sync rules, in workers for async ones.  The cache is built from the latest snapshot when the
 * first look finds it stale: a rule applies to every append that begins after its commit.  One that is given up lives to the end of
 * the transaction, because somebody further up the stack may be in the middle of it: a trigger on messages, or a function, can append.
 * Holds no lock but those of who sends; a crash leaves nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "arg.h"
#include "catalog.h"
#include "cause.h"
#include "compat.h"
#include "definition.h"
#include "event.h"
#include "evtstore.h"
#include "rule_apply.h"

#define DELIVERY_NATTS 15

typedef struct Cache
{
	MemoryContext context;
	uint64		generation;
	List	   *rules;
	List	   *sync[ES_RULE_TARGETS];
	struct Cache *retired;		/* next in the list of those given up */
} Cache;

/* of one queue */
typedef struct Batch
{
	int32		queue_id;
	char	   *queue;
	EsMessage  *messages;
	int			n;
	int			size;
} Batch;

/* for what is said of an error */
typedef struct Place
{
	const EsRule *rule;
	const EsEvent *event;
} Place;

/* what a function is called with */
typedef struct Call
{
	EsRule	   *rule;
	const EsEvent *event;
	Datum		argument;
} Call;

static Cache *cache = NULL;
static Cache *retired = NULL;

static void refresh(void);
static EsRule *load(const EsDefinition *definition);
static void free_cache(Cache *old);
static void xact_callback(XactEvent event, void *arg);
static void begin_place(ErrorContextCallback *context, Place *place, const EsRule *rule, const EsEvent *event);
static void end_place(const ErrorContextCallback *context);
static void describe_place(void *arg);
static void shape(const EsRule *rule, const EsEvent *event, Datum *body, Datum *headers);
static void keep(Datum *value, Datum own);
static Batch *find_batch(EsSending *sending, const char *queue);
static EsMessage *next_message(Batch *batch);
static int	compare_batches(const ListCell *a, const ListCell *b);
static Datum text_of(const EsTemplate *template, const EsEvent *event, const char *what);
static void fill_numbers(const EsRule *rule, const EsEvent *event, EsMessage *message);
static Datum delivery_of(const EsRule *rule, const EsEvent *event, int attempt);
static EsCauseFacts tell_cause(const void *arg);
static void call(void *arg);

void
es_rule_apply_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

List *
es_rules(void)
{
	if (cache == NULL || cache->generation != es_catalog_generation())
		refresh();
	return cache->rules;
}

List *
es_rules_sync(EsRuleTarget kind)
{
	(void) es_rules();
	return cache->sync[kind];
}

EsRule *
es_rule_by_id(int32 id)
{
	ListCell   *lc;

	foreach(lc, es_rules())
		if (((EsRule *) lfirst(lc))->id == id)
			return lfirst(lc);
	return NULL;
}

const EsRule *
es_rule_with_endpoint(int32 id)
{
	const EsRule *rule = es_rule_by_id(id);

	return rule != NULL && rule->kind == ES_RULE_ENDPOINT ? rule : NULL;
}

bool
es_rule_is_computed(const EsRule *rule)
{
	return rule->constant == NULL;
}

char *
es_rule_endpoint(const EsRule *rule, const EsEvent *event)
{
	char	   *name = es_template_text(rule->target, event);

	return name != NULL ? name : pstrdup("");
}

void
es_rule_shape(const EsRule *rule, const EsEvent *event, Datum *body, Datum *headers)
{
	ErrorContextCallback context;
	Place		place;

	begin_place(&context, &place, rule, event);
	shape(rule, event, body, headers);
	end_place(&context);
}

void
es_sending_add(EsSending *sending, const EsRule *rule, const EsEvent *event, const char *tenant)
{
	ErrorContextCallback context;
	Place		place;
	EsMessage	message = {0};
	Batch	   *batch;
	MemoryContext old_context;
	const char *queue;

	if (sending->scratch == NULL)
		sending->scratch = AllocSetContextCreate(CurrentMemoryContext, "evtstore transform", ALLOCSET_DEFAULT_SIZES);
	begin_place(&context, &place, rule, event);
	old_context = MemoryContextSwitchTo(sending->scratch);
	queue = rule->constant != NULL ? rule->constant : es_rule_endpoint(rule, event);
	es_rule_fill_message(rule, event, &message);
	MemoryContextSwitchTo(old_context);
	keep(&message.body, event->data);
	keep(&message.headers, event->metadata);
	keep(&message.key, event->stream);
	keep(&message.dedup_id, (Datum) 0);
	message.tenant = tenant;
	batch = find_batch(sending, queue);
	*next_message(batch) = message;
	MemoryContextReset(sending->scratch);
	end_place(&context);
}

/* in one piece, where it is not the event's own: jsonb that was just made lies in a buffer that is larger */
static void
keep(Datum *value, Datum own)
{
	if (*value != own && *value != (Datum) 0)
		*value = PointerGetDatum(PG_DETOAST_DATUM_COPY(*value));
}

void
es_sending_end(EsSending *sending)
{
	ListCell   *lc;

	list_sort(sending->batches, compare_batches);
	foreach(lc, sending->batches)
	{
		Batch	   *batch = lfirst(lc);

		es_queue_send(es_queue_get(batch->queue), batch->messages, batch->n);
		pfree(batch->messages);
	}
	sending->batches = NIL;
	if (sending->scratch != NULL)
		MemoryContextDelete(sending->scratch);
	sending->scratch = NULL;
}

/* ST008 where there is no such queue */
static Batch *
find_batch(EsSending *sending, const char *queue)
{
	Batch	   *batch;
	ListCell   *lc;

	foreach(lc, sending->batches)
		if (strcmp(((Batch *) lfirst(lc))->queue, queue) == 0)
			return lfirst(lc);
	batch = palloc0(sizeof(Batch));
	batch->queue_id = es_queue_get(queue)->id;
	batch->queue = pstrdup(queue);
	sending->batches = lappend(sending->batches, batch);
	return batch;
}

static EsMessage *
next_message(Batch *batch)
{
	if (batch->n == batch->size)
	{
		batch->size = Max(8, batch->size * 2);
		batch->messages = batch->messages == NULL ? palloc(batch->size * sizeof(EsMessage)) :
			repalloc_huge(batch->messages, (Size) batch->size * sizeof(EsMessage));
	}
	return &batch->messages[batch->n++];
}

static int
compare_batches(const ListCell *a, const ListCell *b)
{
	int32		x = ((const Batch *) lfirst(a))->queue_id;
	int32		y = ((const Batch *) lfirst(b))->queue_id;

	return x < y ? -1 : x > y;
}

void
es_rule_fill_message(const EsRule *rule, const EsEvent *event, EsMessage *message)
{
	const EsTransform *transform = &rule->transform;

	shape(rule, event, &message->body, &message->headers);
	message->key = transform->key == NULL ? event->stream : text_of(transform->key, event, "key");
	if (transform->dedup_id != NULL)
		message->dedup_id = text_of(transform->dedup_id, event, "dedup_id");
	if (transform->delay != NULL || transform->priority != NULL)
		fill_numbers(rule, event, message);
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
shape(const EsRule *rule, const EsEvent *event, Datum *body, Datum *headers)
{
	Jsonb	   *object;

	*body = rule->transform.body == NULL ? event->data : JsonbPGetDatum(es_template_jsonb(rule->transform.body, event));
	*headers = event->metadata;
	if (rule->transform.headers == NULL)
		return;
	object = es_template_jsonb(rule->transform.headers, event);
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object, not %s", es_options_shown(object)),
				 errhint("The placeholder that stands for them has to be one in each event that the filter selects.")));
	*headers = JsonbPGetDatum(object);
}

/* 0: null */
static Datum
text_of(const EsTemplate *template, const EsEvent *event, const char *what)
{
	char	   *value = es_template_text(template, event);

	if (value == NULL)
		return (Datum) 0;
	es_arg_check_name(value, what, ES_MAX_KEY_BYTES);
	return CStringGetTextDatum(value);
}

/* as send_messages reads them; null is the default */
static void
fill_numbers(const EsRule *rule, const EsEvent *event, EsMessage *message)
{
	const EsTemplate *templates[] = {rule->transform.delay, rule->transform.priority};
	JsonbParseState *state = NULL;
	JsonbValue	key = {.type = jbvString};
	JsonbValue	value;
	Jsonb	   *options;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < lengthof(templates); i++)
	{
		if (templates[i] == NULL)
			continue;
		es_template_value(templates[i], event, &value);
		if (value.type == jbvNull)
			continue;
		key.val.string.val = unconstify(char *, es_rule_number_options[i].name);
		key.val.string.len = strlen(es_rule_number_options[i].name);
		(void) pushJsonbValue(&state, WJB_KEY, &key);
		(void) pushJsonbValue(&state, WJB_VALUE, &value);
	}
	options = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	es_options_check(options, es_rule_number_options, "what the transform made");
	message->delay_ms = es_options_interval_ms(options, "delay", 0);
	message->priority = es_options_int(options, "priority", 0);
}

void
es_rule_call(EsRule *rule, const EsEvent *event, int attempt, MemoryContext scratch)
{
	ErrorContextCallback context;
	Place		place;
	Call		what = {rule, event};
	Oid			type = es_catalog()->delivery_type;
	MemoryContext old_context = MemoryContextSwitchTo(scratch);

	begin_place(&context, &place, rule, event);
	if (rule->plan == NULL)
		rule->plan = es_spi_prepare_foreign(rule->sql, 1, &type);
	what.argument = delivery_of(rule, event, attempt);
	es_cause_run(&(EsCause) {tell_cause, event}, call, &what);
	end_place(&context);
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(scratch);
}

static void
call(void *arg)
{
	Call	   *what = arg;

	es_spi_run_foreign(what->rule->plan, &what->argument, what->rule->sql);
}

static EsCauseFacts
tell_cause(const void *arg)
{
	const EsEvent *event = arg;
	EsCauseFacts facts = es_cause_facts_of(DatumGetJsonbP(event->metadata));

	facts.id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id)));
	return facts;
}

/* an evtstore.delivery without a receipt: the effect is the acknowledgement */
static Datum
delivery_of(const EsRule *rule, const EsEvent *event, int attempt)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(es_catalog()->delivery_type, -1);
	bool		has_stream = DatumGetPointer(event->stream) != NULL;
	Datum		values[DELIVERY_NATTS] = {0};
	bool		nulls[DELIVERY_NATTS] = {0};
	HeapTuple	tuple;

	Assert(desc->natts == DELIVERY_NATTS);
	nulls[0] = nulls[3] = true;
	nulls[2] = nulls[8] = nulls[9] = !has_stream;
	values[1] = Int32GetDatum(attempt);
	values[2] = values[8] = event->stream;
	shape(rule, event, &values[4], &values[5]);
	values[6] = values[14] = TimestampTzGetDatum(event->recorded_at);
	values[7] = Int64GetDatum(event->position);
	values[9] = Int64GetDatum(event->version);
	values[10] = UUIDPGetDatum(&event->id);
	values[11] = event->type;
	values[12] = Int32GetDatum(event->schema_version);
	values[13] = event->tags;
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

static void
begin_place(ErrorContextCallback *context, Place *place, const EsRule *rule, const EsEvent *event)
{
	*place = (Place) {rule, event};
	context->callback = describe_place;
	context->arg = place;
	context->previous = error_context_stack;
	error_context_stack = context;
}

static void
end_place(const ErrorContextCallback *context)
{
	error_context_stack = context->previous;
}

static void
describe_place(void *arg)
{
	const Place *place = arg;

	errcontext("rule \"%s\" at position " INT64_FORMAT " of type \"%s\"", place->rule->name, place->event->position,
			   TextDatumGetCString(place->event->type));
}

static void
refresh(void)
{
	uint64		generation = es_catalog_generation();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore rules", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Cache	   *fresh = palloc0(sizeof(Cache));
	ListCell   *lc;

	fresh->context = context;
	fresh->generation = generation;
	foreach(lc, es_definition_list("rule"))
	{
		EsRule	   *rule = load(lfirst(lc));

		fresh->rules = lappend(fresh->rules, rule);
		if (!rule->is_async)
			fresh->sync[rule->kind] = lappend(fresh->sync[rule->kind], rule);
	}
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);

	if (cache != NULL)
	{
		cache->retired = retired;
		retired = cache;
	}
	cache = fresh;
}

static EsRule *
load(const EsDefinition *definition)
{
	EsRule	   *rule = palloc0(sizeof(EsRule));

	rule->id = definition->id;
	rule->name = definition->name;
	rule->owner = definition->owner;
	rule->search_path = definition->search_path;
	rule->is_async = strcmp(es_options_string(definition->spec, "mode", ""), "async") == 0;
	rule->filter = es_filter_parse(es_options_object(definition->spec, "filter"), "filter");
	es_rule_compile(rule, es_options_string(definition->spec, "target", ""), es_options_object(definition->spec, "transform"));
	if (rule->kind == ES_RULE_FUNCTION)
		rule->sql = psprintf("SELECT %s($1)", NameListToQuotedString(es_qualified_name(rule->constant)));
	/* once for each event, however often that is tried */
	else if (rule->kind == ES_RULE_SAGA)
		rule->sql = psprintf("SELECT evtstore.start_saga(%s, ($1).body, idempotency_key => 'rule:%d:' OPERATOR(pg_catalog.||) ($1).event_id::pg_catalog.text)",
							 quote_literal_cstr(rule->constant), rule->id);
	return rule;
}

static void
free_cache(Cache *old)
{
	ListCell   *lc;

	foreach(lc, old->rules)
		if (((EsRule *) lfirst(lc))->plan != NULL)
			es_spi_free_plan(((EsRule *) lfirst(lc))->plan);
	MemoryContextDelete(old->context);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	while (retired != NULL)
	{
		Cache	   *old = retired;

		retired = old->retired;
		free_cache(old);
	}
}
