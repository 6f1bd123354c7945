/*
 * notifier.c
 *		NOTIFY for queues and subscriptions that have a channel.
 *
 * A part of the scheduler's pass, which comes ten times a second at most: that is what makes one NOTIFY of many sends.  Whoever makes
 * work sets a bit in shared memory (watch.c), and the scheduler's latch where it was not set.  A turn takes the bits, looks at what they
 * stand for in one transaction, and notifies of all that is ready in another one.  So no transaction of an application has a
 * NOTIFY in it, under whose lock all commits of the cluster queue up; and that of ours, which needs no flush, holds it for
 * some microseconds.
 *
 * A listener is told once of what is there, and again when something comes: an event above those looked at, a message made
 * ready (counted by the queue), a time that has come, a lease that ended, or whatever es_waiter_wake is called for.  docs/architecture-workers.md
 * says why nothing is missed.
 *
 * What it looks at is locked only if that needs no waiting: a session that drops a subscription and sits there must not hold up the
 * scheduler.  Nor must one that holds the lock of NOTIFY: it is waited for a second, and tried again later.
 *
 * What it knows is the process's own.  Killed, or after an error, the next one has nothing to go by and notifies of whatever is there.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "guc.h"
#include "lock.h"
#include "notifier.h"
#include "process.h"
#include "queue.h"
#include "registry.h"
#include "spi.h"
#include "subscription.h"
#include "subscription_look.h"
#include "subscription_source.h"
#include "watch.h"

/* how long the lock that all NOTIFYs share is waited for */
#define LOCK_TIMEOUT "1s"
#define MAX_BACKOFF (60 * USECS_PER_SEC)

/* a queue or subscription that has a channel; all times by es_clock_now() */
typedef struct Watched
{
	int32		id;
	bool		is_queue;
	char	   *name;
	char	   *channel;
	uint64		categories;		/* of a subscription */
	bool		is_new;			/* nothing is known: whatever is there is news */
	bool		is_owed;		/* found, and not notified of yet */
	TimestampTz looked_at;
	TimestampTz due;			/* something may be ready then; DT_NOEND: nothing by time */
	int64		head;			/* of a subscription: events up to here were looked at */
	uint64		came;			/* of a queue: as it was when listeners were told */
	bool		has_state;		/* of a queue: somebody has received, so that came counts */
	bool		had_no_room;	/* of a queue: there was something, which could not be had */
} Watched;

static MemoryContext definitions = NULL;	/* of what follows */
static Watched *watched = NULL;
static int	nwatched = 0;
static uint64 generation = 0;	/* of the catalog, when they were read; 0: never */

static TimestampTz last_poll = 0;	/* what nobody tells of is looked at every poll_interval */
static int	failures = 0;		/* in a row */
static TimestampTz not_before = 0;	/* after a failure */

static void read_definitions(void);
static void add(const Watched *before, int nbefore, const Watched *entry);
static void look_at_all(const EsWatch *told, bool is_poll);
static void look(Watched *entry, const EsWatch *told, TimestampTz now);
static bool look_into_queue(Watched *entry, bool is_told, bool is_to_look, TimestampTz now);
static bool look_into_table(Watched *entry, TimestampTz now);
static bool look_into_subscription(Watched *entry, bool is_told, bool has_events, TimestampTz now);
static void notify(void);
static void failed(MemoryContext context);
static TimestampTz next_due(void);

/* of the first thousand: more of them that are not due yet are not walked over, and whoever receives finds out */
#define TABLE_LOOK 1000
static EsPlan table_plan = {
	.sql = "SELECT COALESCE(pg_catalog.bool_or(deliver_at IS NULL OR deliver_at <= $2), false) OR pg_catalog.count(*) >= $3,"
	" pg_catalog.min(deliver_at) FILTER (WHERE deliver_at > $2)"
	" FROM (SELECT deliver_at FROM evtstore_internal.message WHERE queue_id = $1 LIMIT $3) m",
	.nargs = 3,
	.args = {INT4OID, TIMESTAMPTZOID, INT8OID},
};

TimestampTz
es_notifier_turn(MemoryContext context)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		is_poll = now >= last_poll + (TimestampTz) es_guc_poll_interval * 1000;
	bool		is_changed = generation != es_catalog_generation();

	if (now < not_before || (nwatched == 0 && !is_changed))
		return next_due();
	PG_TRY();
	{
		EsWatch		told = {0};

		if (is_changed)
		{
			es_process_start_transaction("reading what to notify of");
			read_definitions();
			es_process_commit();
		}
		MemoryContextSwitchTo(context);
		told = es_watch_take();
		if (is_poll)
			last_poll = now;
		look_at_all(&told, is_poll);
		notify();
		failures = 0;
	}
	PG_CATCH();
	{
		failed(context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return next_due();
}

/* what is known of those that stay is kept; what is new is looked at after the commits that make work have been asked to tell */
static void
read_definitions(void)
{
	uint64		read_at = es_catalog_generation();
	MemoryContext old_definitions = definitions;
	Watched    *before = watched;
	int			nbefore = nwatched;
	int			nsubscriptions;
	const EsSubscription *subscriptions;
	List	   *queues = es_queue_list_notifying();
	ListCell   *lc;
	uint64		ids = 0;
	uint64		categories = 0;
	MemoryContext old;

	subscriptions = es_subscription_all(&nsubscriptions);
	definitions = AllocSetContextCreate(TopMemoryContext, "evtstore notifier", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(definitions);
	watched = palloc((list_length(queues) + nsubscriptions + 1) * sizeof(Watched));
	nwatched = 0;
	foreach(lc, queues)
	{
		const EsQueue *queue = lfirst(lc);

		add(before, nbefore, &(Watched) {.id = queue->id, .is_queue = true, .name = queue->name, .channel = queue->notify});
	}
	for (int i = 0; i < nsubscriptions; i++)
		if (subscriptions[i].notify != NULL)
			add(before, nbefore, &(Watched) {
				.id = subscriptions[i].definition.id, .name = subscriptions[i].definition.name, .channel = subscriptions[i].notify,
				.categories = es_subscription_categories(&subscriptions[i])});
	MemoryContextSwitchTo(old);
	if (old_definitions != NULL)
		MemoryContextDelete(old_definitions);
	for (int i = 0; i < nwatched; i++)
	{
		ids |= es_watch_bit(watched[i].id);
		categories |= watched[i].categories;
	}
	es_watch_want(ids, categories);
	generation = read_at;
}

static void
add(const Watched *before, int nbefore, const Watched *entry)
{
	Watched    *added = &watched[nwatched++];

	*added = *entry;
	added->name = pstrdup(entry->name);
	added->channel = pstrdup(entry->channel);
	added->is_new = true;
	added->due = DT_NOEND;
	for (int i = 0; i < nbefore; i++)
	{
		if (before[i].id != entry->id)
			continue;
		added->is_new = before[i].is_new;
		added->is_owed = before[i].is_owed;
		added->looked_at = before[i].looked_at;
		added->due = before[i].due;
		added->head = before[i].head;
		added->came = before[i].came;
		added->has_state = before[i].has_state;
		added->had_no_room = before[i].had_no_room;
	}
}

/* in a transaction of its own: while NOTIFY waits for its lock nothing of this is held */
static void
look_at_all(const EsWatch *told, bool is_poll)
{
	TimestampTz now = es_clock_now();
	bool		any = is_poll || told->ids != 0 || told->looks != 0 || told->categories != 0;

	for (int i = 0; i < nwatched && !any; i++)
		any = watched[i].is_new || watched[i].due <= now;
	if (!any || nwatched == 0)
		return;
	es_process_start_transaction("looking for work to notify of");
	for (int i = 0; i < nwatched; i++)
		if (is_poll || watched[i].is_new || watched[i].due <= now || (watched[i].categories & told->categories) != 0 ||
			(es_watch_bit(watched[i].id) & (told->ids | told->looks)) != 0)
			look(&watched[i], told, now);
	es_process_commit();
}

static void
look(Watched *entry, const EsWatch *told, TimestampTz now)
{
	bool		is_told = entry->is_new || (es_watch_bit(entry->id) & told->ids) != 0;
	bool		is_to_look = (es_watch_bit(entry->id) & told->looks) != 0;
	bool		has_events = (entry->categories & told->categories) != 0;
	bool		is_ready;

	/* who holds it says so when he commits; if he does not, it is seen a while later */
	if (es_lock_acquire(entry->is_queue ? ES_LOCK_QUEUE : ES_LOCK_SUBSCRIPTION, entry->id, AccessShareLock, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		entry->is_new |= is_told || is_to_look || has_events || entry->due <= now;
		entry->due = now + (TimestampTz) es_guc_poll_interval * 1000;
		return;
	}
	AcceptInvalidationMessages();
	if (entry->is_queue)
		is_ready = look_into_queue(entry, is_told, is_to_look, now);
	else
		is_ready = look_into_subscription(entry, is_told || is_to_look, has_events, now);
	entry->is_owed |= is_ready;
	entry->is_new = false;
	entry->looked_at = now;
}

/* is there something that listeners were not told of? */
static bool
look_into_queue(Watched *entry, bool is_told, bool is_to_look, TimestampTz now)
{
	const EsQueue *queue = es_queue_lock(entry->id, AccessShareLock);
	EsQueueState *state = queue == NULL || queue->is_paused ? NULL : es_queue_state_find(entry->id);
	EsTake		take = {.want = 1, .now = now};
	EsQueueNews news;
	bool		is_due = entry->due <= now;

	entry->due = is_due ? DT_NOEND : entry->due;
	if (queue == NULL || queue->is_paused)
		return false;
	/* nobody has received since the start of the server */
	if (state == NULL)
	{
		entry->has_state = false;
		return (is_told || is_to_look || is_due) && look_into_table(entry, now);
	}
	/* what came before that was not counted */
	is_told |= !entry->has_state;
	entry->has_state = true;
	take.max_in_flight = queue->max_in_flight;
	take.rate = queue->rate;
	news = es_queue_news(state, &take, entry->looked_at);
	entry->due = news.due;
	if (!news.is_ready)
	{
		entry->had_no_room |= news.has_no_room;
		return false;
	}
	is_told |= news.came != entry->came || news.became_due || entry->had_no_room;
	entry->came = news.came;
	entry->had_no_room = false;
	return is_told;
}

static bool
look_into_table(Watched *entry, TimestampTz now)
{
	Datum		values[] = {Int32GetDatum(entry->id), TimestampTzGetDatum(now), Int64GetDatum(TABLE_LOOK)};
	EsSpiState	state;
	bool		is_ready;
	bool		isnull;
	Datum		due;

	es_queue_spi_begin(&state);
	es_spi_run(&table_plan, values, NULL, true, 1);
	is_ready = DatumGetBool(es_spi_value(0, 0, &isnull));
	due = es_spi_value(0, 1, &isnull);
	entry->due = isnull ? DT_NOEND : DatumGetTimestampTz(due);
	es_spi_end(&state);
	return is_ready;
}

/*
 * Of events that were looked at before nothing is said again, but where something has happened to those: then from the
 * checkpoints on.
 */
static bool
look_into_subscription(Watched *entry, bool is_told, bool has_events, TimestampTz now)
{
	const EsSubscription *subscription = es_subscription_lock(entry->id, AccessShareLock);
	EsSubscriptionNews news;
	bool		is_due = entry->due <= now;

	if (subscription == NULL || subscription->is_paused)
	{
		entry->due = DT_NOEND;
		return false;
	}
	news = es_subscription_leases(subscription, entry->looked_at, now);
	is_told |= is_due || news.lease_ended;
	if (is_told || has_events)
	{
		es_subscription_news(subscription, is_told ? 0 : entry->head, now, &news);
		entry->due = news.due;
		entry->head = Max(entry->head, news.head);
	}
	else
		entry->due = Min(entry->due, news.due);
	return news.is_ready;
}

/*
 * One transaction for all.  Its commit need not be durable, since no notification outlives the server: so neither a flush
 * nor a standby is waited for under the lock.
 */
static void
notify(void)
{
	bool		any = false;

	for (int i = 0; i < nwatched; i++)
		any |= watched[i].is_owed;
	if (!any)
		return;
	es_process_start_transaction("notifying");
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	for (int i = 0; i < nwatched; i++)
		if (watched[i].is_owed)
			Async_Notify(watched[i].channel, watched[i].name);
	es_process_commit();
	for (int i = 0; i < nwatched; i++)
		watched[i].is_owed = false;
}

/* in PG_CATCH.  What was found may be known or not: all is looked at anew */
static void
failed(MemoryContext context)
{
	ErrorData  *error = es_process_recover(context);
	TimestampTz backoff = USECS_PER_SEC;

	for (int i = 0; i < failures && backoff < MAX_BACKOFF; i++)
		backoff *= 2;
	failures++;
	not_before = GetCurrentTimestamp() + Min(backoff, MAX_BACKOFF);
	for (int i = 0; i < nwatched; i++)
		watched[i].is_new = true;
	es_registry_count(0, 1);
	if (!es_process_stop && !es_registry_told_to_leave())
		es_process_log_error(error, psprintf("notifying listeners in database \"%s\" failed", es_process_database()));
}

static TimestampTz
next_due(void)
{
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < nwatched; i++)
		next = Min(next, watched[i].due);
	if (not_before > GetCurrentTimestamp())
		next = es_clock_now() + (not_before - GetCurrentTimestamp());
	return next == DT_NOEND ? 0 : next;
}
