/*
 * scheduler.c
 *		The scheduler of one database: delivery workers, what becomes ready by time, the ledger of heads, and
 *		turns of the janitor.
 *
 * One dynamic background worker per database with the extension, started by the launcher as the bootstrap superuser.
 * First it looks: where the extension is absent or switched off it reports that and ends.  Then, where this database is
 * the place that delivers (identity.c), it gives back the leases of workers that did not survive the last server, and
 * only then starts delivery workers, as long as there is an async projection or rule or something for a function of the database, a relay, as long
 * as there is something to send, and rebuild workers, as long as there is a rebuild.  In a copy it starts none.
 *
 * It sleeps on its latch, evtstore.poll_interval at most, and works at most ten times a second.  The latch is set by
 * delivery workers (they may have given messages a time), by senders that found no worker, by workers that end, and by
 * whoever makes work that listeners are to be told of (notifier.c).  A pass over an idle store writes nothing and reads
 * next to nothing; the ledger gets a row at most once a second and only when the head moved, and not while the store could
 * be in the middle of a restore (in_use); nor does the janitor then get a turn.
 *
 * Holds no lock and no transaction while it sleeps.  It keeps nothing of its own: after an error it exits with 1, the
 * launcher starts the next one, and delivery workers go on meanwhile.  Killed, it takes the server through crash
 * recovery like any backend; leases went with shared memory.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "crash_mark.h"
#include "definition.h"
#include "feed.h"
#include "guc.h"
#include "identity.h"
#include "janitor.h"
#include "ledger.h"
#include "notifier.h"
#include "process.h"
#include "projection.h"
#include "projection_rebuild.h"
#include "push.h"
#include "queue.h"
#include "registry.h"
#include "rule.h"
#include "saga.h"
#include "scheduler.h"
#include "wakeup.h"
#include "watch.h"

/*
 * Also what makes one NOTIFY of many sends: long enough for a thousand a second to cost ten small transactions, and shorter than what
 * a person notices.
 */
#define MIN_PASS_INTERVAL (100 * 1000) /* µs */
#define LEDGER_INTERVAL USECS_PER_SEC

/* what the scheduler knows of its database */
typedef struct Store
{
	uint64 generation; /* of the catalog, when identity and queues were read; 0: never */
	Oid extension;
	EsIdentity identity;
	bool has_inside;  /* something for delivery workers: functions of the database */
	bool has_outside; /* something for a relay */
	bool has_queues;  /* with an endpoint of either kind */
	bool has_turns; /* async projections or rules */
	TimestampTz next_due;	 /* by es_clock_now(); 0: no message waits for time */
	TimestampTz next_notify; /* the same for what listeners are told of */
	TimestampTz next_ledger; /* not before then */
	TimestampTz next_janitor; /* the next turn; 0: not in this store yet */
	int rebuild_lanes;		 /* of the rebuilds that can go on: so many workers have something to do */
	TimestampTz next_start;	 /* of workers that are missing; 0: none is */
} Store;

/* starting workers of a kind */
typedef struct Start
{
	EsWorkerKind kind;
	TimestampTz not_before; /* after a shortage of slots */
	bool said;
} Start;

static void pass(Store *store, MemoryContext context);
static void look(Store *store);
static void quarantine(void);
static void say_copy(const char *detail);
static bool in_use(const Store *store);
static void look_at_time(Store *store);
static void start_workers(Store *store);
static void start(Store *store, Start *start, int wanted);
static void leave(EsDatabaseState state);

void
es_scheduler_main(Datum arg)
{
	MemoryContext context;
	Store		store = {0};
	TimestampTz last_pass = 0;
	TimestampTz next_pass = 0;

	es_process_begin(ES_WORKER_SCHEDULER);
	es_wakeup_attach_scheduler();
	context = AllocSetContextCreate(TopMemoryContext, "evtstore scheduler", ALLOCSET_DEFAULT_SIZES);

	while (!es_process_stop && !es_registry_told_to_leave())
	{
		TimestampTz now = GetCurrentTimestamp();
		bool		woken;

		(void) es_process_reload();
		if (store.next_due != 0 && es_clock_now() >= store.next_due)
		{
			/* how many are due is not known; idle workers find out faster than a count */
			es_wakeup_now(Max(es_guc_delivery_workers, 1));
			store.next_due = 0;
			next_pass = Min(next_pass, last_pass + MIN_PASS_INTERVAL);
		}
		if (store.next_notify != 0 && es_clock_now() >= store.next_notify)
		{
			store.next_notify = 0;
			next_pass = Min(next_pass, last_pass + MIN_PASS_INTERVAL);
		}
		if (now >= next_pass)
		{
			MemoryContextSwitchTo(context);
			es_registry_set_state(ES_STATE_BUSY);
			pass(&store, context);
			es_registry_set_state(ES_STATE_IDLE);
			MemoryContextSwitchTo(context);
			MemoryContextReset(context);
			now = last_pass = GetCurrentTimestamp();
			next_pass = now + (TimestampTz) es_guc_poll_interval * 1000;
			if (store.next_start != 0)
				next_pass = Min(next_pass, store.next_start);
			if (store.next_janitor != 0)
				next_pass = Min(next_pass, Max(store.next_janitor, last_pass + MIN_PASS_INTERVAL));
		}

		woken = es_process_sleep(Min(es_process_ms_until(now, next_pass),
									 Min(es_process_ms_until(es_clock_now(), store.next_due),
										 es_process_ms_until(es_clock_now(), store.next_notify))));
		if (woken)
			next_pass = Min(next_pass, last_pass + MIN_PASS_INTERVAL);
	}
	proc_exit(0);
}

static void
pass(Store *store, MemoryContext context)
{
	look(store);
	store->next_notify = store->identity == ES_IDENTITY_HERE ? es_notifier_turn(context) : 0;
	look_at_time(store);
	start_workers(store);
	store->next_janitor = in_use(store) ? es_janitor_turn(context) : 0;
}

/* is there something to do here?  Does not return where there is not */
static void
look(Store *store)
{
	bool		installed;
	char	   *detail = NULL;

	/* starting a transaction reads invalidation messages, so the generation is up to date */
	es_process_start_transaction("looking at the store");
	installed = es_catalog_installed();
	/* a restore brings its row without telling anybody */
	if (installed && es_guc_enabled &&
		(store->generation != es_catalog_generation() || store->identity == ES_IDENTITY_NONE))
	{
		EsIdentity	before = store->identity;
		bool		first = store->generation == 0;

		store->generation = es_catalog_generation();
		store->extension = es_catalog()->extension;
		if (first)
			es_identity_follow_promotion();
		store->identity = es_identity_check(&detail);
		if (first && store->identity == ES_IDENTITY_HERE)
			quarantine();
		store->has_queues = es_queue_list_pushed() != NIL;
		store->has_inside = es_push_has(ES_PUSH_INSIDE);
		store->has_outside = es_push_has(ES_PUSH_OUTSIDE);
		store->has_turns = es_projection_has_work() || es_rule_has_work() || es_reactor_has_work();
		store->rebuild_lanes = es_rebuild_lanes();
		/* who sleeps until he is told of work does not hear of a new definition */
		es_watch_rouse();
		if (store->identity == ES_IDENTITY_ELSEWHERE && before != ES_IDENTITY_ELSEWHERE)
			say_copy(detail);
	}
	es_process_commit();

	if (!installed)
		leave(ES_DATABASE_ABSENT);
	if (!es_guc_enabled)
		leave(ES_DATABASE_DISABLED);
	es_registry_report(ES_DATABASE_RUNNING);
}

/* whoever took the server down three times is not run again before somebody has looked at it */
static void
quarantine(void)
{
	ListCell   *lc;

	foreach(lc, es_crash_marks_take())
	{
		char	   *kind;
		char	   *name;

		if (es_definition_quarantine(lfirst_int(lc), &kind, &name))
			ereport(WARNING,
					(errcode(ERRCODE_CRASH_SHUTDOWN),
					 errmsg("%s \"%s\" is quarantined: its handlers made a worker crash %d times", kind, name, ES_CRASH_MARK_LIMIT),
					 errhint("Once they are mended: SELECT evtstore.resume(%s);", quote_literal_cstr(name))));
	}
}

static void
say_copy(const char *detail)
{
	ereport(LOG,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("nothing is delivered from database \"%s\": its event store is a copy", es_process_database()),
			 errdetail_internal("%s", detail),
			 errhint("If this is the one to deliver now, run: SELECT evtstore.resume_delivery();")));
}

/*
 * Only then the feed is looked at, the ledger written and anything removed: a store that nobody has used since the server came up may
 * be in the middle of a restore, which has copied events, and not yet the rows and numbers that go with them.
 */
static bool
in_use(const Store *store)
{
	return store->identity == ES_IDENTITY_HERE || es_registry_appended(store->extension);
}

/* the ledger, and when the next message becomes ready */
static void
look_at_time(Store *store)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		ledger = now >= store->next_ledger && in_use(store);
	bool		due = store->identity == ES_IDENTITY_HERE && store->has_queues;

	store->next_due = 0;
	if (!ledger && !due)
		return;
	es_process_start_transaction("looking at the clock");
	if (ledger)
	{
		if (es_ledger_record())
			store->next_ledger = now + LEDGER_INTERVAL;
	}
	if (due)
		store->next_due = es_queue_next_due();
	es_process_commit();
	if (store->next_due != 0 && store->next_due <= es_clock_now())
	{
		/* due already, and not fetched: once now, again at the poll */
		es_wakeup_now(Max(es_guc_delivery_workers, 1));
		store->next_due = 0;
	}
}

/* workers end by themselves when nothing is left to serve, a while later */
static void
start_workers(Store *store)
{
	static Start delivery = {ES_WORKER_DELIVERY};
	static Start rebuild = {ES_WORKER_REBUILD};
	static Start relay = {ES_WORKER_RELAY};
	bool		here = store->identity == ES_IDENTITY_HERE;

	store->next_start = 0;
	if (!here || store->has_inside || store->has_turns)
		start(store, &delivery, here ? es_guc_delivery_workers : 0);
	if (!here || store->has_outside)
		start(store, &relay, here ? 1 : 0);
	start(store, &rebuild, here ? Min(es_guc_rebuild_workers, store->rebuild_lanes) : 0);
}

static void
start(Store *store, Start *start, int wanted)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next;
	int			missing = es_registry_missing_workers(start->kind, wanted, &next);

	next = Max(next, start->not_before);
	while (missing > 0 && now >= next && es_registry_start(start->kind, MyDatabaseId))
		missing--;
	if (missing > 0 && now >= next)
		next = start->not_before = es_registry_retry_start(now);
	if (missing > 0)
		store->next_start = store->next_start == 0 ? next : Min(store->next_start, next);
	if (missing > 0 && es_registry_exhausted() && !start->said)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no worker slot is left for %d of %d %ss of database \"%s\"",
						missing, wanted, es_registry_kind_name(start->kind), es_process_database()),
				 errhint("Raise max_worker_processes, now %d, and restart the server.", max_worker_processes)));
	start->said = missing > 0 && es_registry_exhausted();
}

static void
leave(EsDatabaseState state)
{
	es_registry_report(state);
	proc_exit(0);
}
