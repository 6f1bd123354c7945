/*
 * projection_apply.c
 *		Projections as a backend caches them, and running their handlers.
 *
 * Runs in appenders' backends for sync projections, in workers for async ones, as the projection's owner under the
 * search_path of its creator.  The cache has the definitions with the plans of their handlers; it is built when the first
 * look finds it stale, from the latest snapshot, because an append must know each projection that is committed by then, even
 * if its own transaction began earlier.  A cache given up while handlers further up the stack use it lives to the end of
 * the transaction.  Holds no lock; a crash leaves nothing of it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "catalog.h"
#include "cause.h"
#include "compat.h"
#include "event.h"
#include "guc.h"
#include "options.h"
#include "projection_apply.h"
#include "spi.h"

/* so many events at most go to a batch handler at once, where the projection comes from its history */
#define MAX_PENDING 10000

typedef struct Cache
{
	MemoryContext context;
	uint64		generation;
	List	   *projections;	/* in order of creation */
	struct Cache *retired;		/* next in the list of those given up */
} Cache;

static Cache *cache = NULL;
static Cache *retired = NULL;

static void refresh(void);
static EsProjection *load(const EsDefinition *definition);
static EsHandler *load_handlers(EsProjection *projection, Jsonb *handlers);
static void run(EsHandler *handler, Datum argument, const Datum *rows, int n, int64 first, int64 last, const char *type);
static void run_pending(EsApply *apply);
static Datum array_of(Datum *rows, int n, MemoryContext context);
static void describe_place(void *arg);
static void free_cache(Cache *old);
static void xact_callback(XactEvent event, void *arg);

void
es_projection_apply_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

List *
es_projections(void)
{
	if (cache == NULL || cache->generation != es_catalog_generation())
		refresh();
	return cache->projections;
}

EsProjection *
es_projection_by_id(int32 id)
{
	ListCell   *lc;

	foreach(lc, es_projections())
		if (((EsProjection *) lfirst(lc))->id == id)
			return lfirst(lc);
	return NULL;
}

EsHandler *
es_projection_handler(EsProjection *projection, Datum type)
{
	struct varlena *wanted = (struct varlena *) DatumGetPointer(type);
	EsHandler  *any = NULL;

	for (EsHandler *h = projection->handlers; h != NULL; h = h->next)
	{
		if (h->type == NULL)
			any = h;
		else if (strlen(h->type) == VARSIZE_ANY_EXHDR(wanted) && memcmp(h->type, VARDATA_ANY(wanted), strlen(h->type)) == 0)
			return h;
	}
	return any;
}

char *
es_projection_handler_sql(JsonbValue *value, bool *is_batch)
{
	Jsonb	   *object;
	char	   *fn;

	*is_batch = false;
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	object = JsonbValueToJsonb(value);
	fn = es_options_string(object, "fn", NULL);
	*is_batch = fn == NULL;
	if (*is_batch)
		fn = es_options_string(object, "batch", NULL);
	return psprintf("SELECT %s($1)", NameListToQuotedString(es_qualified_name(fn)));
}

Oid
es_projection_handler_type(bool is_batch)
{
	return is_batch ? get_array_type(es_catalog()->event_type) : es_catalog()->event_type;
}

void
es_apply_begin(EsApply *apply, EsProjection *projection)
{
	memset(apply, 0, sizeof(EsApply));
	apply->projection = projection;
	apply->context = AllocSetContextCreate(CurrentMemoryContext, "evtstore projected events", ALLOCSET_DEFAULT_SIZES);
}

void
es_apply_add(EsApply *apply, const EsApplied *event)
{
	EsHandler  *handler = event->handler;

	if (!apply->entered)
		es_spi_become(&apply->state, apply->projection->owner, apply->projection->search_path);
	apply->entered = true;
	if (apply->pending != NULL &&
		(apply->pending != handler || apply->n == MAX_PENDING || strcmp(event->tenant, es_guc_tenant) != 0))
		run_pending(apply);
	/* what the handler appends is the tenant's; undone with the rest when we are ourselves again */
	if (strcmp(event->tenant, es_guc_tenant) != 0)
		(void) set_config_option("evtstore.tenant", event->tenant, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	if (!handler->is_batch)
	{
		run(handler, event->row, &event->row, 1, event->position, event->position, TextDatumGetCString(event->type));
		MemoryContextReset(apply->context);
		return;
	}
	if (apply->n == apply->size)
	{
		apply->size = Max(64, apply->size * 2);
		apply->rows = apply->rows == NULL ? MemoryContextAlloc(MemoryContextGetParent(apply->context), apply->size * sizeof(Datum)) :
			repalloc(apply->rows, apply->size * sizeof(Datum));
	}
	if (apply->n == 0)
		apply->first = event->position;
	apply->pending = handler;
	apply->last = event->position;
	apply->rows[apply->n++] = event->row;
}

void
es_apply_end(EsApply *apply, bool check)
{
	if (apply->pending != NULL)
		run_pending(apply);
	if (apply->entered && check)
		es_spi_check_constraints();
	if (apply->entered)
		es_spi_unbecome(&apply->state);
	if (apply->rows != NULL)
		pfree(apply->rows);
	MemoryContextDelete(apply->context);
}

static void
run_pending(EsApply *apply)
{
	EsHandler  *handler = apply->pending;
	Datum		array = array_of(apply->rows, apply->n, apply->context);

	run(handler, array, apply->rows, apply->n, apply->first, apply->last, NULL);
	apply->pending = NULL;
	apply->n = 0;
	MemoryContextReset(apply->context);
}

/*
 * An array that points to the rows, without a copy of them; who needs it in one piece flattens it.  Read only: a handler that
 * changes its argument gets a copy, because the rows are still needed (tell_cause).
 */
static Datum
array_of(Datum *rows, int n, MemoryContext context)
{
	ExpandedArrayHeader *array = construct_empty_expanded_array(es_catalog()->event_type, context, NULL);
	int		   *bounds = MemoryContextAlloc(context, 2 * sizeof(int));

	bounds[0] = n;
	bounds[1] = 1;
	array->ndims = 1;
	array->dims = &bounds[0];
	array->lbound = &bounds[1];
	array->dvalues = rows;
	array->dvalueslen = n;
	array->nelems = n;
	array->fvalue = NULL;
	array->fstartptr = NULL;
	array->fendptr = NULL;
	return EOHPGetRODatum(&array->hdr);
}

typedef struct Place
{
	const EsHandler *handler;
	int64		first;
	int64		last;
	const char *type;			/* NULL: of several events */
} Place;

/* what handlers run for: one event, or a batch */
typedef struct Run
{
	EsHandler  *handler;
	Datum		argument;
	const Datum *rows;
	int			n;
} Run;

/* of a batch nobody knows which of its events is the cause */
static EsCauseFacts
tell_cause(const void *arg)
{
	const Run  *run = arg;
	EsCauseFacts facts = {0};

	for (int i = 0; i < run->n; i++)
	{
		HeapTupleHeader row = DatumGetHeapTupleHeader(run->rows[i]);
		bool		isnull;
		Datum		id = GetAttributeByNum(row, ES_EVENT_ROW_ID, &isnull);
		EsCauseFacts own = es_cause_facts_of(DatumGetJsonbP(GetAttributeByNum(row, ES_EVENT_ROW_METADATA, &isnull)));

		facts.depth = Max(facts.depth, own.depth);
		if (run->n > 1)
			continue;
		facts.id = DatumGetCString(DirectFunctionCall1(uuid_out, id));
		facts.correlation_id = own.correlation_id;
	}
	return facts;
}

static void
call(void *arg)
{
	Run		   *run = arg;

	es_spi_run_foreign(run->handler->plan, &run->argument, run->handler->sql);
}

static void
run(EsHandler *handler, Datum argument, const Datum *rows, int n, int64 first, int64 last, const char *type)
{
	ErrorContextCallback context;
	Place		place = {handler, first, last, type};
	Run			what = {handler, argument, rows, n};
	Oid			argtype;

	context.callback = describe_place;
	context.arg = &place;
	context.previous = error_context_stack;
	error_context_stack = &context;

	if (handler->plan == NULL)
	{
		argtype = es_projection_handler_type(handler->is_batch);
		handler->plan = handler->is_batch ? es_spi_prepare_foreign_generic(handler->sql, 1, &argtype) :
			es_spi_prepare_foreign(handler->sql, 1, &argtype);
	}
	es_cause_run(&(EsCause) {tell_cause, &what}, call, &what);

	error_context_stack = context.previous;
}

static void
describe_place(void *arg)
{
	const Place *place = arg;
	const char *name = place->handler->projection->name;

	if (place->type != NULL)
		errcontext("projection \"%s\" at position " INT64_FORMAT " of type \"%s\"", name, place->first, place->type);
	else
		errcontext("projection \"%s\" at positions " INT64_FORMAT " to " INT64_FORMAT, name, place->first, place->last);
}

static void
refresh(void)
{
	uint64		generation = es_catalog_generation();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore projections", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Cache	   *fresh = palloc0(sizeof(Cache));
	ListCell   *lc;

	fresh->context = context;
	fresh->generation = generation;
	foreach(lc, list_concat(es_definition_list("projection"), es_definition_list("rebuild")))
		fresh->projections = lappend(fresh->projections, load(lfirst(lc)));
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);

	if (cache != NULL)
	{
		cache->retired = retired;
		retired = cache;
	}
	cache = fresh;
}

static EsProjection *
load(const EsDefinition *definition)
{
	EsProjection *projection = palloc0(sizeof(EsProjection));

	projection->id = definition->id;
	projection->name = definition->name;
	projection->owner = definition->owner;
	projection->search_path = definition->search_path;
	projection->unseen_in = definition->is_unseen ? es_my_lxid() : InvalidLocalTransactionId;
	projection->is_rebuild = strcmp(definition->kind, "rebuild") == 0;
	projection->is_sync = !projection->is_rebuild && strcmp(definition->state, ES_DEFINITION_REBUILDING) != 0 &&
		strcmp(es_options_string(definition->spec, "mode", "async"), "sync") == 0;
	projection->filter = es_filter_parse(es_options_object(definition->spec, "filter"), "filter");
	projection->handlers = load_handlers(projection, es_options_object(definition->spec, "handlers"));
	return projection;
}

static EsHandler *
load_handlers(EsProjection *projection, Jsonb *handlers)
{
	JsonbIterator *it = JsonbIteratorInit(&handlers->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	EsHandler  *list = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			EsHandler  *handler = palloc0(sizeof(EsHandler));
			char	   *type = pnstrdup(v.val.string.val, v.val.string.len);

			handler->type = strcmp(type, "*") == 0 ? NULL : type;
			handler->projection = projection;
			handler->next = list;
			list = handler;
		}
		else if (token == WJB_VALUE)
			list->sql = es_projection_handler_sql(&v, &list->is_batch);
	}
	return list;
}

static void
free_cache(Cache *old)
{
	ListCell   *lc;

	foreach(lc, old->projections)
		for (EsHandler *h = ((EsProjection *) lfirst(lc))->handlers; h != NULL; h = h->next)
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
