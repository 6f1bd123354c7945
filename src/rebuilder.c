/*
 * rebuilder.c
 *		The main loop of a rebuild worker.
 *
 * Dynamic background workers, evtstore.rebuild_workers per database at most, and no more than rebuilds have lanes, started by the scheduler
 * as long as there is a rebuild, connected as the bootstrap superuser.  Each takes turns with every rebuild (projection_work.c), and ends
 * one that has applied everything (projection_swap.c).  They do nothing else, because what handlers name here is redirected
 * (redirect.c) and what they append or send is left out: no plan and no setting of this process may be met by a live
 * projection.  Live ones have their own workers, which a rebuild does not slow down.
 *
 * An error that is no event's rolls back the turn, is logged, and keeps this worker off that rebuild for 1 s, 2 s, … 60 s; where the
 * rebuild cannot go on (ST009: its tables are not what they were) that is written down, and a person cancels it.  A lock that
 * was not to be had is no error: again after 0.1 s, 0.2 s, … 10 s.
 *
 * Holds nothing between two turns; a crash leaves what was committed.
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
#include "cause.h"
#include "compat.h"
#include "crash_mark.h"
#include "error.h"
#include "feed.h"
#include "guc.h"
#include "identity.h"
#include "process.h"
#include "projection.h"
#include "projection_rebuild.h"
#include "rebuilder.h"
#include "redirect.h"
#include "registry.h"

#define MAX_BACKOFF (60 * USECS_PER_SEC)
#define FIRST_RETRY (100 * 1000) /* µs, of a lock */
#define LAST_RETRY (10 * USECS_PER_SEC)
#define SAID_WAITS 7 /* after 13 s */
#define SAID_OLDER (10 * USECS_PER_SEC)
/* nobody wakes a rebuild worker: while one is not level it has work */
#define NAP 50 /* ms */

/* a rebuild as this worker knows it; outlives a reload of the definitions */
typedef struct Turn
{
	EsRebuild *rebuild; /* in the definitions' context */
	int32 id;
	int events;	  /* of the next turn */
	int failures; /* in a row */
	int waits;	  /* for locks, in a row */
	TimestampTz not_before;
	EsRebuildOlder older;
	TimestampTz level_since; /* waits for older snapshots since then; 0: not yet */
	bool said;
} Turn;

typedef struct Rebuilder
{
	MemoryContext iteration;   /* emptied after each turn */
	MemoryContext definitions; /* emptied when the catalog changed */
	uint64 generation;		   /* of the catalog, when they were read; 0: never */
	Turn *turns;
	int nturns;
	bool done;
} Rebuilder;

static bool may_go_on(Rebuilder *rebuilder);
static void refresh(Rebuilder *rebuilder);
static void read_rebuilds(Rebuilder *rebuilder);
static bool take_turn(Rebuilder *rebuilder, Turn *turn);
static bool work(Turn *turn);
static void say_waits(Turn *turn);
static void failed(Rebuilder *rebuilder, Turn *turn);
static bool still_there(const Turn *turn);
static TimestampTz backoff(TimestampTz first, TimestampTz last, int times);
static void write_down(const Turn *turn, const char *error);

void
es_rebuilder_main(Datum arg)
{
	Rebuilder	rebuilder = {0};

	es_process_begin(ES_WORKER_REBUILD);
	es_process_keep_memory();
	es_crash_mark_begin();
	es_cause_set_replay();
	es_redirect_init();
	es_rebuild_end_init();
	rebuilder.iteration = AllocSetContextCreate(TopMemoryContext, "evtstore rebuild", ALLOCSET_DEFAULT_SIZES);
	rebuilder.definitions = AllocSetContextCreate(TopMemoryContext, "evtstore rebuilds", ALLOCSET_DEFAULT_SIZES);
	rebuilder.done = !es_guc_enabled;

	while (may_go_on(&rebuilder))
	{
		bool		worked = false;

		es_registry_set_state(ES_STATE_BUSY);
		refresh(&rebuilder);
		for (int i = 0; i < rebuilder.nturns && may_go_on(&rebuilder); i++)
			if (rebuilder.turns[i].not_before <= GetCurrentTimestamp())
				worked |= take_turn(&rebuilder, &rebuilder.turns[i]);
		if (worked)
			continue;
		es_registry_set_state(ES_STATE_IDLE);
		(void) es_process_sleep(NAP);
	}
	proc_exit(0);
}

static bool
may_go_on(Rebuilder *rebuilder)
{
	CHECK_FOR_INTERRUPTS();
	if (es_process_reload() && !es_guc_enabled)
		rebuilder->done = true;
	return !rebuilder->done && !es_process_stop && !es_registry_told_to_leave();
}

/* reads the definitions again where they changed; an error there ends the process, and the scheduler starts the next one later */
static void
refresh(Rebuilder *rebuilder)
{
	MemoryContextSwitchTo(rebuilder->iteration);
	es_redirect_pause();
	es_process_start_transaction("looking for rebuilds");
	if (!es_catalog_installed() || es_identity_check(NULL) != ES_IDENTITY_HERE)
		rebuilder->done = true;
	else if (rebuilder->generation != es_catalog_generation())
		read_rebuilds(rebuilder);
	es_process_commit();
	MemoryContextSwitchTo(rebuilder->iteration);
	MemoryContextReset(rebuilder->iteration);
}

static void
read_rebuilds(Rebuilder *rebuilder)
{
	uint64		generation = es_catalog_generation();
	int			nbefore = rebuilder->nturns;
	Turn	   *before = palloc(Max(nbefore, 1) * sizeof(Turn));
	MemoryContext old;
	List	   *rebuilds;
	ListCell   *lc;

	memcpy(before, rebuilder->turns, nbefore * sizeof(Turn));
	rebuilder->nturns = 0;
	MemoryContextReset(rebuilder->definitions);
	old = MemoryContextSwitchTo(rebuilder->definitions);
	rebuilds = es_rebuild_list();
	rebuilder->turns = palloc0(Max(list_length(rebuilds), 1) * sizeof(Turn));
	foreach(lc, rebuilds)
	{
		EsRebuild  *rebuild = lfirst(lc);
		Turn	   *turn = &rebuilder->turns[rebuilder->nturns];

		if (rebuild->is_failed)
			continue;
		*turn = (Turn) {.id = rebuild->id, .events = ES_TURN_FIRST_EVENTS};
		for (int i = 0; i < nbefore; i++)
			if (before[i].id == rebuild->id)
				*turn = before[i];
		turn->rebuild = rebuild;
		rebuilder->nturns++;
	}
	MemoryContextSwitchTo(old);
	rebuilder->done = rebuilder->nturns == 0;
	rebuilder->generation = generation;
}

/* was there anything to do? */
static bool
take_turn(Rebuilder *rebuilder, Turn *turn)
{
	volatile bool worked = false;

	MemoryContextSwitchTo(rebuilder->iteration);
	PG_TRY();
	{
		es_process_show(turn->rebuild->name);
		es_crash_mark_set(turn->id);
		worked = work(turn);
		pgstat_report_stat(false);
		turn->failures = 0;
	}
	PG_CATCH();
	{
		failed(rebuilder, turn);
	}
	PG_END_TRY();
	es_crash_mark_set(0);
	es_redirect_pause();
	MemoryContextSwitchTo(rebuilder->iteration);
	MemoryContextReset(rebuilder->iteration);
	return worked;
}

/* what is appended meanwhile is for the next turn, so that there is an end */
static bool
work(Turn *turn)
{
	int			events = turn->events;
	EsTurnResult result;
	int64		head;

	es_process_start_transaction("rebuilding");
	es_rebuild_use(turn->rebuild);
	head = es_feed_head(ES_FEED_ALL_CATEGORIES);
	es_process_commit();
	result = es_projection_work(turn->id, &turn->events);
	es_registry_count(result.handled - result.failed, result.failed);
	/* more to come */
	if (result.handled == events)
		return true;
	switch (es_rebuild_end(turn->rebuild, head, &turn->older))
	{
		case ES_REBUILD_OVER:
			return true;
		case ES_REBUILD_WAITS:
			say_waits(turn);
			break;
		case ES_REBUILD_BEHIND:
			break;
	}
	return result.handled > 0;
}

/* once, after a while: a report or a dump may take its time */
static void
say_waits(Turn *turn)
{
	TimestampTz now = GetCurrentTimestamp();

	if (turn->level_since == 0)
		turn->level_since = now;
	if (turn->said || now - turn->level_since < SAID_OLDER)
		return;
	turn->said = true;
	ereport(LOG,
			(errmsg("the end of the rebuild of projection \"%s\" in database \"%s\" waits for %d older snapshots", turn->rebuild->name,
					es_process_database(), turn->older.n),
			 errhint("They are those of pg_stat_activity with a backend_xmin and the oldest xact_start.")));
}

/* in PG_CATCH */
static void
failed(Rebuilder *rebuilder, Turn *turn)
{
	ErrorData  *error = es_process_recover(rebuilder->iteration);
	bool		cannot_go_on = es_rebuild_cannot_go_on(error->sqlerrcode);

	es_redirect_pause();
	if (es_rebuild_may_retry(error->sqlerrcode))
	{
		turn->not_before = GetCurrentTimestamp() + backoff(FIRST_RETRY, LAST_RETRY, turn->waits++);
		if (turn->waits == SAID_WAITS)
			es_process_log_error(error, psprintf("the end of the rebuild of projection \"%s\" in database \"%s\" waits for others", turn->rebuild->name,
												 es_process_database()));
		return;
	}
	turn->not_before = GetCurrentTimestamp() + backoff(USECS_PER_SEC, MAX_BACKOFF, turn->failures++);
	es_registry_count(0, 1);
	/* another worker may have ended it meanwhile, or somebody cancelled it */
	if (es_process_stop || es_registry_told_to_leave() || !still_there(turn))
		return;
	es_process_log_error(error, psprintf("rebuilding projection \"%s\" in database \"%s\" failed", turn->rebuild->name, es_process_database()));
	if (cannot_go_on)
		write_down(turn, error->message);
}

static bool
still_there(const Turn *turn)
{
	bool		exists;

	es_process_start_transaction("looking for a rebuild");
	exists = es_rebuild_exists(turn->rebuild);
	es_process_commit();
	return exists;
}

/* twice as long each time */
static TimestampTz
backoff(TimestampTz first, TimestampTz last, int times)
{
	TimestampTz interval = first;

	for (int i = 0; i < times && interval < last; i++)
		interval *= 2;
	return Min(interval, last);
}

/* an error here ends the process */
static void
write_down(const Turn *turn, const char *error)
{
	es_process_start_transaction("giving up a rebuild");
	es_rebuild_fail(turn->rebuild, error);
	es_process_commit();
}
