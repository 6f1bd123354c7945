/*
 * projection.c
 *		Read models kept by SQL handlers: sync projections, in the append's transaction.
 *
 * Runs in the appender's backend, as the projection's owner under the search_path of its creator.  Each backend caches
 * the definitions with the plans of their handlers; the cache is built when the first append finds it stale, from the
 * latest snapshot, because an append must know each projection that is committed by then, even if its own transaction
 * began earlier.  A cache given up while handlers further up the stack use it lives to the end of the transaction.
 *
 * create_projection writes the definition, locks the event table against writers (ShareRowExclusiveLock) and applies
 * the history, all in its own transaction: every event is either in that history, or appended by a transaction that
 * waits for the lock and then reads the invalidation.  None is missed, none applied twice.  An equal definition that
 * exists takes no lock on the table.  A crash takes the definition and its effects together.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "append.h"
#include "arg.h"
#include "catalog.h"
#include "compat.h"
#include "definition.h"
#include "error.h"
#include "event.h"
#include "evtstore.h"
#include "filter.h"
#include "identity.h"
#include "lock.h"
#include "options.h"
#include "projection.h"
#include "read.h"
#include "spi.h"

PG_FUNCTION_INFO_V1(evtstore_create_projection);
PG_FUNCTION_INFO_V1(evtstore_drop_projection);

/* one handler: SQL with $1 of type evtstore.event; a function is called by such a statement too */
typedef struct Handler
{
	char	   *type;			/* NULL: every type without a handler of its own */
	char	   *sql;
	SPIPlanPtr	plan;			/* saved; NULL before first use */
	struct Projection *projection;
	struct Handler *next;
} Handler;

typedef struct Projection
{
	char	   *name;
	char	   *owner;
	char	   *search_path;
	EsFilter   *filter;
	Handler    *handlers;
} Projection;

typedef struct Cache
{
	MemoryContext context;
	uint64		generation;
	List	   *projections;	/* sync ones, in order of creation */
	struct Cache *retired;		/* next in the list of those given up */
} Cache;

static Cache *cache = NULL;
static Cache *retired = NULL;

static void on_append(const EsAppendPart *parts, int nparts, int nevents);
static void apply(Projection *projection, EsStream *stream, EsEvent *events, Datum *datums, int n);
static Handler *find_handler(Projection *projection, const EsEvent *event);
static void run_handler(Handler *handler, EsEvent *event, Datum *datum);
static void refresh_cache(void);
static Projection *load_projection(const EsDefinition *definition);
static Handler *load_handlers(Projection *projection, Jsonb *handlers);
static char *handler_sql(JsonbValue *value);
static void free_cache(Cache *old);
static void xact_callback(XactEvent event, void *arg);
static Jsonb *build_spec(FunctionCallInfo fcinfo);
static void check_handlers(Jsonb *handlers);
static char *handler_fault(JsonbValue *value);
static void apply_history(const char *name);
static void describe_place(void *arg);

void
es_projection_init(void)
{
	es_append_register_hook(on_append);
	RegisterXactCallback(xact_callback, NULL);
}

/* evtstore.create_projection(name, handlers, mode, filter, tables, options) */
Datum
evtstore_create_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);
	Jsonb	   *spec = build_spec(fcinfo);
	int32		id;

	es_catalog_require_writable("create_projection");
	check_handlers(es_options_object(spec, "handlers"));
	if (es_definition_create("projection", name, spec, &id))
	{
		es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, CurTransactionResourceOwner);
		es_identity_establish();
		apply_history(name);
	}
	PG_RETURN_VOID();
}

/* evtstore.drop_projection(name) */
Datum
evtstore_drop_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_arg_name(fcinfo, 0, "name", ES_MAX_NAME_BYTES);

	es_catalog_require_writable("drop_projection");
	es_definition_drop("projection", name);
	PG_RETURN_VOID();
}

static void
on_append(const EsAppendPart *parts, int nparts, int nevents)
{
	Datum	   *datums;
	ListCell   *lc;

	if (cache == NULL || cache->generation != es_catalog_generation())
		refresh_cache();
	if (cache->projections == NIL)
		return;

	/* rows are built when the first handler wants them; projections one after the other, each event in order */
	datums = MemoryContextAllocExtended(CurrentMemoryContext, nevents * sizeof(Datum), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	foreach(lc, cache->projections)
	{
		Datum	   *next = datums;

		for (int p = 0; p < nparts; p++)
		{
			apply(lfirst(lc), parts[p].handle, parts[p].events, next, parts[p].n);
			next += parts[p].n;
		}
	}
	pfree(datums);
}

static void
apply(Projection *projection, EsStream *stream, EsEvent *events, Datum *datums, int n)
{
	EsSpiState	state;
	bool		entered = false;

	for (int i = 0; i < n; i++)
	{
		Handler    *handler = find_handler(projection, &events[i]);

		if (handler == NULL || !es_filter_matches(projection->filter, stream, &events[i]))
			continue;
		if (!entered)
			es_spi_become(&state, projection->owner, projection->search_path);
		entered = true;
		run_handler(handler, &events[i], &datums[i]);
	}
	if (entered)
		es_spi_unbecome(&state);
}

static Handler *
find_handler(Projection *projection, const EsEvent *event)
{
	struct varlena *type = (struct varlena *) DatumGetPointer(event->type);
	Handler    *any = NULL;

	for (Handler *h = projection->handlers; h != NULL; h = h->next)
	{
		if (h->type == NULL)
			any = h;
		else if (strlen(h->type) == VARSIZE_ANY_EXHDR(type) && memcmp(h->type, VARDATA_ANY(type), strlen(h->type)) == 0)
			return h;
	}
	return any;
}

typedef struct Place
{
	Handler    *handler;
	EsEvent    *event;
} Place;

static void
run_handler(Handler *handler, EsEvent *event, Datum *datum)
{
	ErrorContextCallback context;
	Place		place = {handler, event};

	context.callback = describe_place;
	context.arg = &place;
	context.previous = error_context_stack;
	error_context_stack = &context;

	if (handler->plan == NULL)
		handler->plan = es_spi_prepare_foreign(handler->sql, 1, (Oid *) &es_catalog()->event_type);
	if (*datum == (Datum) 0)
		*datum = es_event_datum(event);
	es_spi_run_foreign(handler->plan, datum, handler->sql);

	error_context_stack = context.previous;
}

static void
describe_place(void *arg)
{
	Place	   *place = arg;

	errcontext("projection \"%s\" at position " INT64_FORMAT " of type \"%s\"", place->handler->projection->name,
			   place->event->position, TextDatumGetCString(place->event->type));
}

static void
refresh_cache(void)
{
	uint64		generation = es_catalog_generation();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore projections", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Cache	   *fresh = palloc0(sizeof(Cache));
	ListCell   *lc;

	fresh->context = context;
	fresh->generation = generation;
	foreach(lc, es_definition_list("projection"))
	{
		EsDefinition *definition = lfirst(lc);

		if (strcmp(es_options_string(definition->spec, "mode", "async"), "sync") == 0)
			fresh->projections = lappend(fresh->projections, load_projection(definition));
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

static Projection *
load_projection(const EsDefinition *definition)
{
	Projection *projection = palloc0(sizeof(Projection));

	projection->name = definition->name;
	projection->owner = definition->owner;
	projection->search_path = definition->search_path;
	projection->filter = es_filter_parse(es_options_object(definition->spec, "filter"), "filter");
	projection->handlers = load_handlers(projection, es_options_object(definition->spec, "handlers"));
	return projection;
}

static Handler *
load_handlers(Projection *projection, Jsonb *handlers)
{
	JsonbIterator *it = JsonbIteratorInit(&handlers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	Handler    *list = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			Handler    *handler = palloc0(sizeof(Handler));
			char	   *type = pnstrdup(v.val.string.val, v.val.string.len);

			handler->type = strcmp(type, "*") == 0 ? NULL : type;
			handler->projection = projection;
			handler->next = list;
			list = handler;
		}
		else if (token == WJB_VALUE)
			list->sql = handler_sql(&v);
	}
	return list;
}

/* the statement of a handler that check_handlers accepted */
static char *
handler_sql(JsonbValue *value)
{
	Jsonb	   *object;

	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	object = JsonbValueToJsonb(value);
	return psprintf("SELECT %s($1)", NameListToQuotedString(es_qualified_name(es_options_string(object, "fn", NULL))));
}

static void
free_cache(Cache *old)
{
	ListCell   *lc;

	foreach(lc, old->projections)
		for (Handler *h = ((Projection *) lfirst(lc))->handlers; h != NULL; h = h->next)
			if (h->plan != NULL)
				es_spi_free_plan(h->plan);
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

/* {"handlers", "mode", "filter", "tables", "options"}, every part checked but the handlers' SQL */
static Jsonb *
build_spec(FunctionCallInfo fcinfo)
{
	static const EsOption no_options[] = {{NULL}};
	Jsonb	   *handlers;
	Jsonb	   *filter;
	char	   *mode;
	StringInfoData json;
	Datum		tables;

	es_arg_required(fcinfo, 1, "handlers");
	handlers = PG_GETARG_JSONB_P(1);
	mode = es_arg_name(fcinfo, 2, "mode", 16);
	if (strcmp(mode, "sync") != 0 && strcmp(mode, "async") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown mode \"%s\"", mode),
				 errhint("Known modes: 'sync', 'async'.")));
	if (strcmp(mode, "async") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("mode 'async' is not supported by evtstore %s", ES_VERSION),
				 errhint("Use mode => 'sync'.")));
	es_arg_required(fcinfo, 3, "filter");
	filter = PG_GETARG_JSONB_P(3);
	es_filter_parse(filter, "filter");
	es_arg_required(fcinfo, 4, "tables");
	tables = OidFunctionCall1(F_ARRAY_TO_JSON_ANYARRAY, PG_GETARG_DATUM(4));
	es_arg_required(fcinfo, 5, "options");
	es_options_check(PG_GETARG_JSONB_P(5), no_options, "options");
	if (!JB_ROOT_IS_OBJECT(handlers) || JB_ROOT_COUNT(handlers) == 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("handlers must be a JSON object with at least one event type"),
				 errhint("Write {\"OrderPlaced\": \"INSERT INTO ... VALUES (($1).stream, ...)\"}.")));

	initStringInfo(&json);
	appendStringInfo(&json, "{\"mode\":\"%s\",\"filter\":%s,\"tables\":%s,\"handlers\":", mode, es_options_text(filter),
					 TextDatumGetCString(tables));
	appendStringInfo(&json, "%s}", es_options_text(handlers));
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* every fault is reported, not only the first; each handler is parsed and planned as it will run */
static void
check_handlers(Jsonb *handlers)
{
	JsonbIterator *it = JsonbIteratorInit(&handlers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;
	StringInfoData faults;

	initStringInfo(&faults);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE)
		{
			char	   *fault = handler_fault(&v);

			if (fault != NULL)
				appendStringInfo(&faults, "%shandlers.%s: %s", faults.len > 0 ? "; " : "", key, fault);
		}
	}
	if (faults.len > 0)
		ereport(ERROR,
				(errcode(ES_ERRCODE_INVALID_DEFINITION),
				 errmsg("the projection has invalid handlers"),
				 errdetail("%s", faults.data),
				 errhint("A handler is one SQL statement with $1 of type evtstore.event, or {\"fn\": \"schema.function\"}.")));
}

/* NULL where the handler is good; its plan is thrown away with the subtransaction that made it */
static char *
handler_fault(JsonbValue *value)
{
	static const EsOption allowed[] = {{"fn", ES_OPTION_STRING}, {NULL}};
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	char	   *volatile fault = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		char	   *sql;
		SPIPlanPtr	plan;

		if (value->type != jbvString)
		{
			Jsonb	   *object = JsonbValueToJsonb(value);

			es_options_check(object, allowed, "handler");
			if (!es_options_has(object, "fn"))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("\"fn\" is missing")));
			(void) es_definition_function(es_options_string(object, "fn", NULL), es_catalog()->event_type);
		}
		sql = handler_sql(value);
		plan = es_spi_prepare_foreign(sql, 1, (Oid *) &es_catalog()->event_type);
		if (!es_spi_plan_is_single(plan))
			fault = pstrdup("more than one statement");
		es_spi_free_plan(plan);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		/* who catches it rolls back one subtransaction, its own: ours must be gone */
		if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(edata);
		MemoryContextSwitchTo(caller);
		fault = psprintf("%s", edata->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return fault;
}

static void
apply_event(EsEvent *event, void *arg)
{
	Datum		datum = (Datum) 0;
	EsStream	stream = *es_stream_none();

	if (DatumGetPointer(event->stream) != NULL)
		stream.name = TextDatumGetCString(event->stream);
	stream.tenant = TextDatumGetCString(event->tenant);
	apply(arg, &stream, event, &datum, 1);
}

/* Locks: the event table against writers, held */
static void
apply_history(const char *name)
{
	ListCell   *lc;

	refresh_cache();
	foreach(lc, cache->projections)
	{
		Projection *projection = lfirst(lc);

		if (strcmp(projection->name, name) == 0)
			es_read_history(apply_event, projection);
	}
}
