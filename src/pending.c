/*
 * pending.c
 *		run_pending(): what delivery workers would do now, done by a client.
 *
 * Runs in the backend of who calls it, in his transaction.  A turn is what it is in a worker (worker.c): the same functions, in savepoints, as their
 * owners, with the same policy for what fails.  Each turn is in a savepoint, too: where a worker would log an error of the
 * turn and go on with the others, this warns and does.
 *
 * Locks: those of the turns, to the end of the caller's transaction: queues and subscriptions shared, lanes, instances of sagas.  Nobody is waited for: what a
 * worker or another call is at is passed over.  A rollback undoes all of it and gives back what was taken, counted as an attempt;
 * a crash forgets who had what.
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "attempt.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "identity.h"
#include "push.h"
#include "registry.h"
#include "subscription_source.h"
#include "worker.h"

/* something that has turns in this call */
typedef struct Turn
{
	EsWork		work;
	const char *name;
	int			events;			/* of the next turn */
	bool		is_over;		/* it had nothing, or nothing came of it */
	bool		is_broken;		/* it could not be taken: not again in this call */
} Turn;

/* a turn in its savepoint */
typedef struct Attempt
{
	Turn	   *turn;
	int			max_count;
	EsTurnResult result;
} Attempt;

static void refuse_where_it_cannot_run(void);
static int64 run_all(int64 max_count);
static List *list_turns(void);
static void add_turn(List **turns, EsWork work, const char *name);
static int64 take_turn(Turn *turn, int64 max_count);
static void take(void *arg);
static void be_nobody(void);

/* one call is in the middle of it */
static bool is_running = false;

PG_FUNCTION_INFO_V1(evtstore_run_pending);

/* run_pending(max_count int) -> bigint; evtstore_admin */
Datum
evtstore_run_pending(PG_FUNCTION_ARGS)
{
	int64		max_count = PG_ARGISNULL(0) ? PG_INT64_MAX : PG_GETARG_INT32(0);
	int64		done = 0;
	int			guc_level;

	es_catalog_require_writable("run_pending");
	if (max_count < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count is out of range: %lld", (long long) max_count),
				 errhint("It is at least 1; leave it out for everything that there is.")));
	refuse_where_it_cannot_run();
	guc_level = NewGUCNestLevel();
	be_nobody();
	is_running = true;
	PG_TRY();
	{
		done = run_all(max_count);
	}
	PG_FINALLY();
	{
		is_running = false;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, guc_level);
	PG_RETURN_INT64(done);
}

static void
refuse_where_it_cannot_run(void)
{
	char	   *detail;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("run_pending cannot be called in a REPEATABLE READ or SERIALIZABLE transaction"),
				 errdetail("Its snapshot does not show what others did since it began."),
				 errhint("Use READ COMMITTED, the default isolation level.")));
	/* memory of a turn is one per process */
	if (is_running || es_registry_slot() >= 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run_pending cannot be called by what is run as pending work"),
				 errhint("Call it from a client, or from a job.")));
	if (es_identity_check(&detail) == ES_IDENTITY_ELSEWHERE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database is a copy, in which nothing is delivered"),
				 errdetail_internal("%s", detail),
				 errhint("If this is the one to deliver now, run: SELECT evtstore.resume_delivery();")));
}

/*
 * As a worker does: of every tenant, and what is appended and sent is not caused by what the caller is at.  For what is called here
 */
static void
be_nobody(void)
{
	static const char *const settings[] = {"evtstore.tenant", "evtstore.correlation_id", "evtstore.causation_id", "evtstore.traceparent", "evtstore.actor"};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i], "", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Pass after pass, until one finds nothing: what is sent in one is there for the next.  Events that are appended in this transaction are not: they can be
 * delivered when it has committed.
 */
static int64
run_all(int64 max_count)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evtstore pending", ALLOCSET_DEFAULT_SIZES);
	MemoryContext scratch = AllocSetContextCreate(context, "evtstore pending turn", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	List	   *turns = list_turns();
	int64		done = 0;
	int64		before;
	ListCell   *lc;

	MemoryContextSwitchTo(scratch);
	do
	{
		before = done;
		foreach(lc, turns)
		{
			Turn	   *turn = lfirst(lc);

			/* until it is empty; in the next pass it is looked at again, for others may have sent to it */
			for (turn->is_over = turn->is_broken; !turn->is_over && done < max_count;)
			{
				done += take_turn(turn, max_count - done);
				MemoryContextReset(scratch);
			}
		}
	} while (done > before && done < max_count);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return done;
}

/* projections and rules first: what rules send is there for queues, and what those answer for sagas */
static List *
list_turns(void)
{
	List	   *turns = NIL;
	List	   *pushes;
	int			n;
	const EsSubscription *all;
	ListCell   *lc;

	if (es_identity_check(NULL) != ES_IDENTITY_HERE)
		return NIL;
	pushes = es_push_list(ES_PUSH_INSIDE);
	all = es_subscription_all(&n);
	for (int i = 0; i < n; i++)
		if (ES_WORKER_SERVES(&all[i]))
			add_turn(&turns, es_worker_work_of(&all[i]), pstrdup(all[i].definition.name));
	for (int of_sagas = 0; of_sagas < 2; of_sagas++)
		foreach(lc, pushes)
		{
			const EsPush *push = lfirst(lc);

			if (push->is_for_sagas == (of_sagas == 1))
				add_turn(&turns, (EsWork) {.push = push, .id = push->id}, push->name);
		}
	return turns;
}

static void
add_turn(List **turns, EsWork work, const char *name)
{
	Turn	   *turn = palloc0(sizeof(Turn));

	turn->work = work;
	turn->name = name;
	turn->events = ES_TURN_FIRST_EVENTS;
	*turns = lappend(*turns, turn);
}

/* returns how many things were done, failed attempts among them, but none that somebody else is at */
static int64
take_turn(Turn *turn, int64 max_count)
{
	Attempt		attempt = {.turn = turn, .max_count = Min(max_count, PG_INT32_MAX)};
	const EsPush *push = turn->work.push;
	char	   *error;

	CHECK_FOR_INTERRUPTS();
	error = es_attempt(take, &attempt);
	if (error != NULL)
	{
		ereport(WARNING,
				(errmsg("%s \"%s\" was not served: %s", push == NULL ? turn->work.kind :
						push->is_queue ? "queue" : "subscription", turn->name, error)));
		turn->is_over = turn->is_broken = true;
		return 0;
	}
	/* where all failed they might again, without end; nothing, and something at once, is a part of a long way to what is next */
	turn->is_over = attempt.result.handled == attempt.result.failed && (attempt.result.handled > 0 || attempt.result.due > es_clock_now());
	return attempt.result.delivered + (push != NULL && push->is_for_sagas ? 0 : attempt.result.failed);
}

static void
take(void *arg)
{
	Attempt    *attempt = arg;

	attempt->result = es_worker_turn(&attempt->turn->work, &(EsBatch) {-1, attempt->max_count, NULL}, &attempt->turn->events);
}
