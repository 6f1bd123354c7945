/*
 * projection_work.c
 *		Async projections: what a worker does with one.
 *
 * Runs in delivery workers.  An async projection has a subscription of its name (subscription.c), which knows its place, its lanes
 * and what failed; a turn (subscription_turn.c) applies what it gets in one transaction with the acknowledgement.  So tables and place
 * commit together: every event is applied exactly once, whatever is killed when.  docs/architecture-projections.md has the argument.
 *
 * Locks: those of the poll, to the end of the transaction; then whatever the handlers take.  Nothing is kept between two turns; a
 * crash leaves what was committed.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "compat.h"
#include "event.h"
#include "projection.h"
#include "projection_apply.h"
#include "subscription.h"
#include "subscription_turn.h"

typedef struct WorkItem
{
	EsTurnEvent event;			/* must be first */
	EsHandler  *handler;		/* NULL: nothing is done for it */
	Datum		row;
	Datum		type;
} WorkItem;

static void *find(int32 id);
static Size put(EsTurn *turn, EsReader *reader, EsTurnEvent *event);
static void apply(EsTurn *turn, EsTurnEvent *const *events, int n);

static const EsTurnUser user = {
	.kind = "projection",
	.event_size = sizeof(WorkItem),
	.find = find,
	.put = put,
	.apply = apply,
};

bool
es_projection_has_work(void)
{
	int			n;
	const EsSubscription *all = es_subscription_all(&n);

	for (int i = 0; i < n; i++)
		if (all[i].is_projection && !all[i].is_rebuild && !all[i].is_paused)
			return true;
	return false;
}

EsTurnResult
es_projection_work(int32 id, int *events)
{
	return es_turn_take(&user, id, events);
}

void
es_projection_catch_up(int32 id, bool check, bool to_end)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore projection catching up", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EsTurn		turn = {.user = &user, .id = id, .context = context, .check = check};
	int			n;
	bool		is_full;

	do
	{
		CHECK_FOR_INTERRUPTS();
		turn.target = es_projection_by_id(id);
		n = es_turn_poll(&turn, ES_MAX_POLL);
		es_turn_apply(&turn);
		es_turn_acknowledge(&turn);
		CommandCounterIncrement();
		is_full = n == ES_MAX_POLL || turn.bytes >= ES_TURN_MAX_BYTES;
		MemoryContextReset(context);
	} while (to_end ? n > 0 || turn.has_more : is_full || turn.has_more);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

static void *
find(int32 id)
{
	EsProjection *projection = es_projection_by_id(id);

	return projection != NULL && !projection->is_sync ? projection : NULL;
}

static Size
put(EsTurn *turn, EsReader *reader, EsTurnEvent *event)
{
	WorkItem   *item = (WorkItem *) event;
	bool		isnull;
	Datum		type = es_reader_value(reader, ES_EVENT_ROW_TYPE, &isnull);

	item->handler = es_projection_handler(turn->target, type);
	if (item->handler == NULL)
		return 0;
	item->row = es_reader_value(reader, 0, &isnull);
	/* for the error of that event; a batch has none of its own */
	if (!item->handler->is_batch)
		item->type = PointerGetDatum(PG_DETOAST_DATUM_COPY(type));
	return VARSIZE_ANY(DatumGetPointer(item->row));
}

static void
apply(EsTurn *turn, EsTurnEvent *const *events, int n)
{
	EsApply		state;

	es_apply_begin(&state, turn->target);
	for (int i = 0; i < n; i++)
	{
		const WorkItem *item = (const WorkItem *) events[i];

		if (item->handler != NULL)
			es_apply_add(&state, &(EsApplied) {item->handler, item->row, item->event.receipt.position, item->type, item->event.tenant});
	}
	es_apply_end(&state, turn->check);
}
