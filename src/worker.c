/*
 * worker.c
 *		The main loop of a delivery worker.
 *
 * Dynamic background workers, evtstore.delivery_workers per database, started by the scheduler, connected as the
 * bootstrap superuser.  Each serves every queue and subscription whose endpoint is a function of the database, every async projection
 * and every async rule, round-robin, one batch a turn (deliver.c, projection_work.c, rule_work.c), so a long queue does not starve the
 * others, and a slow function keeps one worker busy while the others go on.  Other endpoints are the relay's (relay.c).
 *
 * When a pass finds nothing the worker says that it is idle, looks once more, and sleeps on its latch (wakeup.c has the
 * argument why no message is missed), evtstore.poll_interval at most.  Asleep it has no transaction and no snapshot.
 *
 * An error of one queue, subscription, projection or rule rolls back that batch, is logged, and keeps this worker off it for 1 s, 2 s, … 60 s;
 * the others are served meanwhile.  An error outside of any counts for all of them.
 *
 * The worker ends by itself when it is told to (registry.c), when evtstore.enabled is off, the extension gone, the
 * database found to be a copy, or when there has been nothing to serve for a while.  What it held when it was killed
 * comes back with the recovery of leases by the next scheduler, or when the lease ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "crash_mark.h"
#include "deliver.h"
#include "guc.h"
#include "identity.h"
#include "process.h"
#include "projection.h"
#include "push.h"
#include "registry.h"
#include "rule.h"
#include "saga.h"
#include "subscription.h"
#include "subscription_source.h"
#include "waiter.h"
#include "wakeup.h"
#include "worker.h"

/* a worker without anything to serve ends after this time */
#define LONELY_TIME (10 * USECS_PER_SEC)
#define MAX_BACKOFF (60 * USECS_PER_SEC)
/* how often the scheduler is asked to look when the next message becomes ready */
#define NUDGE_INTERVAL (100 * 1000) /* µs */

/* how a push, a projection or a rule fares in this worker; outlives a reload of the definitions */
typedef struct Turn
{
	const EsPush *push; /* in the definitions' context; NULL: a projection, a rule or a reactor */
	const char *kind;	/* of these three, which */
	EsTurnResult (*work)(int32 id, int *events);
	const char *name;
	int32 id;
	bool had_work; /* in the last pass */
	int events;		 /* of a projection or a rule: of the next turn */
	TimestampTz due; /* of events: when one that failed is due again; DT_NOEND: none */
	int failures;  /* in a row */
	TimestampTz not_before;
} Turn;

typedef struct Worker
{
	MemoryContext iteration;   /* emptied after each pass */
	MemoryContext definitions; /* pushes, projections, rules and turns, emptied when the catalog changed */
	EsWaitFor wait_for;		   /* the events and ids of subscriptions, projections and rules */
	uint64 generation;		   /* of the catalog, when they were read; 0: never */
	Turn *turns;
	int nturns;
	bool done;				   /* nothing is to be done here any more */
	TimestampTz lonely_since;  /* 0: there is something to serve */
	bool nudge_owed;
	TimestampTz next_nudge;
	Turn general; /* errors outside of any turn */
} Worker;

static bool may_go_on(Worker *worker);
static void refresh(Worker *worker);
static void read_definitions(Worker *worker);
static Turn *add_turn(Worker *worker, const char *name, int32 id, const Turn *before, int nbefore);
static void add_subscriptions(Worker *worker, const EsSubscription *all, int n, const Turn *before, int nbefore);
static bool definitions_changed(const Worker *worker);
static int serve(Worker *worker, bool only_busy);
static int take_turn(Worker *worker, Turn *turn);
static void wait_for(Worker *worker, int32 id, uint64 categories);
static void failed(Worker *worker, Turn *turn);
static void nap(Worker *worker);
static void doze(Worker *worker);
static void stop_waiting(int code, Datum arg);
static void nudge(Worker *worker);
static long nap_ms(const Worker *worker);

void
es_worker_main(Datum arg)
{
	Worker		worker = {0};

	es_process_begin(ES_WORKER_DELIVERY);
	es_wakeup_attach();
	es_process_keep_memory();
	es_crash_mark_begin();
	worker.iteration = AllocSetContextCreate(TopMemoryContext, "evtstore delivery", ALLOCSET_DEFAULT_SIZES);
	/* what may have changed since the scheduler asked for this worker */
	worker.done = !es_guc_enabled;
	worker.definitions = AllocSetContextCreate(TopMemoryContext, "evtstore delivery queues", ALLOCSET_DEFAULT_SIZES);

	while (may_go_on(&worker))
	{
		es_registry_set_state(ES_STATE_BUSY);
		refresh(&worker);
		if (serve(&worker, false) > 0)
		{
			/* until nothing is left; a queue that was empty is looked at again before the nap */
			while (may_go_on(&worker) && serve(&worker, true) > 0)
				refresh(&worker);
			worker.nudge_owed = true;
		}
		nap(&worker);
	}
	proc_exit(0);
}

static bool
may_go_on(Worker *worker)
{
	CHECK_FOR_INTERRUPTS();
	if (es_process_reload() && !es_guc_enabled)
		worker->done = true;
	return !worker->done && !es_process_stop && !es_registry_told_to_leave();
}

/* reads the definitions again where they changed */
static void
refresh(Worker *worker)
{
	MemoryContextSwitchTo(worker->iteration);
	if (worker->general.not_before > GetCurrentTimestamp())
		return;
	PG_TRY();
	{
		/* starting a transaction reads invalidation messages, so the generation is up to date */
		es_process_start_transaction("looking for work");
		if (!es_catalog_installed())
			worker->done = true;
		else if (worker->generation != es_catalog_generation())
			read_definitions(worker);
		es_process_commit();
		worker->general.failures = 0;
	}
	PG_CATCH();
	{
		worker->generation = 0;
		worker->nturns = 0;
		failed(worker, &worker->general);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(worker->iteration);
	MemoryContextReset(worker->iteration);
}

static void
read_definitions(Worker *worker)
{
	uint64		generation = es_catalog_generation();
	Turn	   *before = NULL;
	int			nbefore = worker->nturns;
	int			nsubscriptions;
	const EsSubscription *subscriptions;
	List	   *pushes;
	ListCell   *lc;
	MemoryContext old;

	if (es_identity_check(NULL) != ES_IDENTITY_HERE)
	{
		worker->done = true;
		return;
	}
	if (nbefore > 0)
	{
		before = palloc(sizeof(Turn) * nbefore);
		memcpy(before, worker->turns, sizeof(Turn) * nbefore);
	}

	worker->nturns = 0;
	MemoryContextReset(worker->definitions);
	old = MemoryContextSwitchTo(worker->definitions);
	worker->wait_for = (EsWaitFor) {0};
	pushes = es_push_list(ES_PUSH_INSIDE);
	subscriptions = es_subscription_all(&nsubscriptions);
	worker->turns = palloc0(sizeof(Turn) * Max(list_length(pushes) + nsubscriptions, 1));
	foreach(lc, pushes)
	{
		const EsPush *push = lfirst(lc);

		add_turn(worker, push->name, push->id, before, nbefore)->push = push;
		if (!push->is_queue)
			wait_for(worker, push->id, push->categories);
	}
	add_subscriptions(worker, subscriptions, nsubscriptions, before, nbefore);
	MemoryContextSwitchTo(old);

	if (worker->nturns > 0)
		worker->lonely_since = 0;
	else if (worker->lonely_since == 0)
		worker->lonely_since = GetCurrentTimestamp();
	worker->generation = generation;
}

static Turn *
add_turn(Worker *worker, const char *name, int32 id, const Turn *before, int nbefore)
{
	Turn	   *turn = &worker->turns[worker->nturns++];

	turn->name = name;
	turn->id = id;
	turn->events = ES_TURN_FIRST_EVENTS;
	turn->due = DT_NOEND;
	for (int i = 0; i < nbefore; i++)
	{
		if (before[i].id != id)
			continue;
		turn->failures = before[i].failures;
		turn->not_before = before[i].not_before;
		turn->events = before[i].events;
	}
	return turn;
}

/* in the definitions' context */
static void
add_subscriptions(Worker *worker, const EsSubscription *all, int n, const Turn *before, int nbefore)
{
	for (int i = 0; i < n; i++)
	{
		Turn	   *turn;
		EsWork		work;

		if (!ES_WORKER_SERVES(&all[i]))
			continue;
		turn = add_turn(worker, pstrdup(all[i].definition.name), all[i].definition.id, before, nbefore);
		work = es_worker_work_of(&all[i]);
		turn->kind = work.kind;
		turn->work = work.work;
		wait_for(worker, all[i].definition.id, es_subscription_categories(&all[i]));
	}
}

static void
wait_for(Worker *worker, int32 id, uint64 categories)
{
	worker->wait_for.categories |= categories;
	/* those beyond are found at the next poll, when something else than an event makes work for them */
	if (worker->wait_for.n < ES_WAITER_MAX_NAMES)
		worker->wait_for.ids[worker->wait_for.n++] = id;
}

static bool
definitions_changed(const Worker *worker)
{
	return worker->generation != es_catalog_generation() && worker->general.not_before <= GetCurrentTimestamp();
}

/* one turn for each (or those that had work in the last pass); returns how many messages and events were handled */
static int
serve(Worker *worker, bool only_busy)
{
	int			handled = 0;

	for (int i = 0; i < worker->nturns && may_go_on(worker); i++)
	{
		Turn	   *turn = &worker->turns[i];
		int			n;

		if (only_busy && !turn->had_work)
			continue;
		if (turn->not_before > GetCurrentTimestamp())
			continue;
		n = take_turn(worker, turn);
		turn->had_work = n > 0;
		handled += n;
	}
	return handled;
}

static int
take_turn(Worker *worker, Turn *turn)
{
	volatile int handled = 0;
	EsTurnResult result;

	MemoryContextSwitchTo(worker->iteration);
	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		es_process_show(turn->name);
		es_crash_mark_set(turn->id);
		result = es_worker_turn(&(EsWork) {.push = turn->push, .id = turn->id, .work = turn->work}, &(EsBatch) {es_registry_slot(), INT_MAX, &es_process_stop},
								&turn->events);
		turn->due = result.due;
		handled = result.handled;
		if (turn->push == NULL)
			es_registry_count(result.handled - result.failed, result.failed);
		else if (!turn->push->is_for_sagas)
			es_registry_count(result.delivered, result.failed);
		pgstat_report_stat(false);
		turn->failures = 0;
	}
	PG_CATCH();
	{
		failed(worker, turn);
	}
	PG_END_TRY();
	es_crash_mark_set(0);
	MemoryContextSwitchTo(worker->iteration);
	MemoryContextReset(worker->iteration);
	return handled;
}

EsWork
es_worker_work_of(const EsSubscription *subscription)
{
	EsWork		work = {.id = subscription->definition.id, .kind = "projection", .work = es_projection_work};

	if (subscription->is_rule)
	{
		work.kind = "rule";
		work.work = es_rule_work;
	}
	else if (subscription->is_reactor)
	{
		work.kind = "reactor";
		work.work = es_reactor_work;
	}
	return work;
}

EsTurnResult
es_worker_turn(const EsWork *work, const EsBatch *batch, int *events)
{
	if (work->push == NULL)
	{
		*events = Min(*events, batch->max_count);
		return work->work(work->id, events);
	}
	if (work->push->is_for_sagas)
		return es_saga_work(batch->slot, batch->max_count);
	return es_deliver(work->push, batch);
}

/* in PG_CATCH */
static void
failed(Worker *worker, Turn *turn)
{
	ErrorData  *error = es_process_recover(worker->iteration);
	TimestampTz backoff = USECS_PER_SEC;

	for (int i = 0; i < turn->failures && backoff < MAX_BACKOFF; i++)
		backoff *= 2;
	turn->failures++;
	turn->due = DT_NOEND;
	turn->not_before = GetCurrentTimestamp() + Min(backoff, MAX_BACKOFF);
	es_registry_count(0, 1);

	/* what goes wrong because we are to go anyway is nobody's concern */
	if (es_process_stop || es_registry_told_to_leave())
		return;
	es_process_log_error(error, turn->name != NULL
						 ? turn->push == NULL ? psprintf("%s \"%s\" in database \"%s\" failed", turn->kind, turn->name, es_process_database())
						 : psprintf(turn->push->is_queue ? "delivery of queue \"%s\" in database \"%s\" failed"
									: "delivery of subscription \"%s\" in database \"%s\" failed", turn->name, es_process_database())
						 : psprintf("delivery worker of database \"%s\" failed", es_process_database()));
}

/* with a projection, a rule or a subscription it waits for events, too, like a consumer in wait_for_work */
static void
nap(Worker *worker)
{
	if (worker->wait_for.categories == 0)
	{
		doze(worker);
		return;
	}
	es_waiter_begin(&worker->wait_for);
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, (Datum) 0);
	{
		doze(worker);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, (Datum) 0);
	es_waiter_end();
}

static void
stop_waiting(int code, Datum arg)
{
	es_waiter_end();
}

static void
doze(Worker *worker)
{
	es_wakeup_idle();
	if (worker->nturns == 0)
		refresh(worker);
	/* a new queue may have come with its first message: the turns' transactions have read that */
	if (serve(worker, false) > 0 || definitions_changed(worker))
	{
		es_wakeup_busy();
		worker->nudge_owed = true;
		return;
	}
	if (worker->lonely_since != 0 && GetCurrentTimestamp() - worker->lonely_since >= LONELY_TIME)
	{
		worker->done = true;
		return;
	}
	es_registry_set_state(ES_STATE_IDLE);
	nudge(worker);
	/* an empty turn after a wake-up may mean a message with a delay: the scheduler should know its time */
	if (!may_go_on(worker))
		return;
	/* a turn that waited for a lock may have eaten the latch of who chose us meanwhile */
	if (es_waiter_is_chosen() || !es_wakeup_is_idle() || es_process_sleep(nap_ms(worker)))
		worker->nudge_owed = true;
	es_wakeup_busy();
}

/* the scheduler knows when messages become ready by time: what we did may have changed that */
static void
nudge(Worker *worker)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!worker->nudge_owed || now < worker->next_nudge)
		return;
	es_wakeup_now(0);
	worker->nudge_owed = false;
	worker->next_nudge = now + NUDGE_INTERVAL;
}

/* until the poll, the nudge that is owed, or the end of a backoff */
static long
nap_ms(const Worker *worker)
{
	TimestampTz now = GetCurrentTimestamp();
	long		ms = es_guc_poll_interval;

	if (worker->nudge_owed)
		ms = Min(ms, es_process_ms_until(now, worker->next_nudge));
	if (worker->general.not_before > now)
		ms = Min(ms, es_process_ms_until(now, worker->general.not_before));
	for (int i = 0; i < worker->nturns; i++)
	{
		if (worker->turns[i].not_before > now)
			ms = Min(ms, es_process_ms_until(now, worker->turns[i].not_before));
		if (worker->turns[i].due != DT_NOEND)
			ms = Min(ms, es_process_ms_until(es_clock_now(), worker->turns[i].due));
	}
	return ms;
}
