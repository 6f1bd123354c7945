/*
 * projection_sync.c
 *		Sync projections: handlers in the append's transaction, and what a new one gets of the events before it.
 *
 * Runs in the appender's backend, and in that of who creates a projection or switches one.  docs/architecture-projections.md has
 * the argument why no event is missed or doubled.  Locks: for the history the event table against writers, but only for its
 * last events.  A crash takes events and effects together.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "append.h"
#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "lock.h"
#include "projection_apply.h"
#include "read.h"

typedef struct History
{
	EsApply		apply;
	int64		last;			/* position of the last event that was read; 0: none */
} History;

/* the projection whose history is applied right now, which comes to what is appended meanwhile in its turn; 0: none */
static int32 catching_up = 0;

static void on_append(const EsAppendPart *parts, int nparts, int nevents);
static void apply_parts(EsProjection *projection, const EsAppendPart *parts, int nparts, Datum *datums);
static void refuse_unseen(const EsProjection *projection) es_noreturn;
static void apply_event(EsEvent *event, void *arg);
static void apply_all(EsProjection *projection);

void
es_projection_sync_init(void)
{
	es_append_register_hook(on_append);
}

/* rows are built when the first handler wants them; projections one after the other, each event in order */
static void
on_append(const EsAppendPart *parts, int nparts, int nevents)
{
	Datum	   *datums = NULL;
	ListCell   *lc;

	foreach(lc, es_projections())
	{
		EsProjection *projection = lfirst(lc);

		if (!projection->is_sync || projection->id == catching_up)
			continue;
		if (projection->unseen_in == es_my_lxid())
			refuse_unseen(projection);
		if (datums == NULL)
			datums = MemoryContextAllocExtended(CurrentMemoryContext, nevents * sizeof(Datum), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
		apply_parts(projection, parts, nparts, datums);
	}
	if (datums != NULL)
		pfree(datums);
}

/*
 * Its tables may hold effects that this transaction does not see, of events that it does: a handler would write what nobody corrects
 * later.
 */
static void
refuse_unseen(const EsProjection *projection)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("projection \"%s\" was created, switched or rebuilt after this transaction began", projection->name),
			 errhint("Run the whole transaction again.")));
}

static void
apply_parts(EsProjection *projection, const EsAppendPart *parts, int nparts, Datum *datums)
{
	EsApply		apply;
	bool		begun = false;
	int			next = 0;

	for (int p = 0; p < nparts; p++)
		for (int i = 0; i < parts[p].n; i++, next++)
		{
			EsEvent    *event = &parts[p].events[i];
			EsHandler  *handler = es_projection_handler(projection, event->type);

			if (handler == NULL || !es_filter_matches(projection->filter, parts[p].handle, event))
				continue;
			if (!begun)
				es_apply_begin(&apply, projection);
			begun = true;
			if (datums[next] == (Datum) 0)
				datums[next] = es_event_datum(event);
			es_apply_add(&apply, &(EsApplied) {handler, datums[next], event->position, event->type, TextDatumGetCString(event->tenant)});
		}
	if (begun)
		es_apply_end(&apply, false);
}

static void
apply_event(EsEvent *event, void *arg)
{
	History    *history = arg;
	EsApply    *apply = &history->apply;
	EsProjection *projection = apply->projection;
	EsHandler  *handler = es_projection_handler(projection, event->type);
	EsStream	stream = *es_stream_none();
	MemoryContext old_context;
	Datum		row;

	history->last = event->position;
	if (DatumGetPointer(event->stream) != NULL)
		stream.name = TextDatumGetCString(event->stream);
	stream.tenant = TextDatumGetCString(event->tenant);
	if (handler == NULL || !es_filter_matches(projection->filter, &stream, event))
		return;
	old_context = MemoryContextSwitchTo(apply->context);
	row = es_event_datum(event);
	MemoryContextSwitchTo(old_context);
	es_apply_add(apply, &(EsApplied) {handler, row, event->position, event->type, stream.tenant});
}

void
es_projection_apply_history(const char *name)
{
	ListCell   *lc;

	foreach(lc, es_projections())
	{
		EsProjection *projection = lfirst(lc);

		if (projection->is_rebuild || strcmp(projection->name, name) != 0)
			continue;
		/* by id: a handler that changes a definition has the cache built anew */
		catching_up = projection->id;
		PG_TRY();
		{
			apply_all(projection);
		}
		PG_FINALLY();
		{
			catching_up = 0;
		}
		PG_END_TRY();
		return;
	}
}

static void
apply_all(EsProjection *projection)
{
	History		history = {0};
	int64		after;

	es_apply_begin(&history.apply, projection);
	after = es_read_history_to_head(apply_event, &history);
	es_apply_end(&history.apply, false);
	es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, CurTransactionResourceOwner);
	/* what its handlers append comes in another round, behind what was there */
	do
	{
		history.last = 0;
		es_apply_begin(&history.apply, projection);
		es_read_history(after, apply_event, &history);
		es_apply_end(&history.apply, false);
		after = Max(after, history.last);
	} while (history.last != 0);
}
