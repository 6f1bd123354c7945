/*
 * projection_swap.c
 *		A rebuild ends: its tables and its handlers take the place of the old ones.
 *
 * Runs in rebuild workers.  docs/architecture-projections.md has the argument, with the steps E1 to E8.  One transaction does it
 * all; every lock of it is waited for a moment only, because others queue up behind who waits.
 *
 * Locks, in this order: the projection's name, its subscription and the rebuild's, exclusive; the event table against writers where
 * either is sync; tables, shadows and their indexes, AccessExclusive.  A crash before the commit leaves the rebuild as it was.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "attempt.h"
#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "feed.h"
#include "lock.h"
#include "options.h"
#include "projection.h"
#include "projection_rebuild.h"
#include "redirect.h"
#include "shadow.h"
#include "spi.h"
#include "subscription.h"
#include "table_swap.h"
#include "wakeup.h"

#define LOCK_TIMEOUT "200ms"
/* of a lock that autovacuum has, or that is part of a circle: it is we who find that, and soon */
#define DEADLOCK_TIMEOUT "50ms"
/* from E2 to the commit.  Who waits for us, and for whom we wait, looks for a deadlock after 1 s, unless somebody made that shorter */
#define MAX_TIME 800 /* ms */

/* whether it is level */
typedef struct Level
{
	int32		id;
	int64		up_to;
	bool		is_level;
} Level;

/* a time-out of the server's, with a handler of ours: no setting of a handler reaches it */
static TimeoutId limit_id;
static volatile sig_atomic_t limit_came = false;
/* E3: an error is an event's */
static bool in_handlers = false;

static bool is_level(int32 id, int64 up_to);
static void look_level(void *arg);
static bool has_older(EsRebuildOlder *older);
static void limit_over(void);
static void end_limit(void);
static void add_heirs(EsRebuildOlder *older);
static bool is_among(const VirtualTransactionId *vxid, const VirtualTransactionId *vxids, int n);
static VirtualTransactionId *snapshots(TransactionId up_to, int *n);
static EsRebuildEnd swap(const EsRebuild *rebuild);
static bool catch_up(const EsDefinition *projection, const EsDefinition *mine);
static void exchange_tables(List *shadows);
static void lock_in_order(List *shadows);
static int	compare_oids(const ListCell *a, const ListCell *b);
static void lock_indexes(const EsShadow *shadow);
static void exchange_table(const EsShadow *shadow);
static void replace(const EsDefinition *projection, const EsDefinition *mine);
static bool is_sync(const EsDefinition *definition);
static void analyze(List *shadows);

EsRebuildEnd
es_rebuild_end(const EsRebuild *rebuild, int64 up_to, EsRebuildOlder *older)
{
	if (!is_level(rebuild->id, up_to))
		return ES_REBUILD_BEHIND;
	if (!rebuild->is_in_place && has_older(older))
		return ES_REBUILD_WAITS;
	return swap(rebuild);
}

void
es_rebuild_end_init(void)
{
	limit_id = RegisterTimeout(USER_TIMEOUT, limit_over);
}

/* in a signal handler */
static void
limit_over(void)
{
	limit_came = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/* it may have come a moment ago, and then nobody is to be cancelled by it */
static void
end_limit(void)
{
	disable_timeout(limit_id, false);
	if (limit_came)
		QueryCancelPending = false;
}

bool
es_rebuild_may_retry(int sqlerrcode)
{
	bool		came = limit_came;

	end_limit();
	limit_came = false;
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED || (came && sqlerrcode == ERRCODE_QUERY_CANCELED);
}

static bool
is_level(int32 id, int64 up_to)
{
	Level		level = {.id = id, .up_to = up_to};

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	/* what failed and waits for a person is an error there; here it is an event that is left */
	(void) es_attempt(look_level, &level);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return level.is_level;
}

bool
es_rebuild_cannot_go_on(int sqlerrcode)
{
	bool		is_event = in_handlers;

	in_handlers = false;
	return sqlerrcode == ES_ERRCODE_INVALID_DEFINITION && !is_event;
}

static void
look_level(void *arg)
{
	Level	   *level = arg;

	level->is_level = es_subscription_is_settled(level->id, level->up_to);
}

/*
 * E1.  A snapshot that is taken after the listing has every turn up to the moment when the rebuild was level.  Who was seen without
 * one takes a later one next.  But while one of the listed is there, another may take over his; he is not told from those whose
 * snapshots are new, and as old as his by their xmin, so all of them are waited for.
 */
static bool
has_older(EsRebuildOlder *older)
{
	VirtualTransactionId *now;
	int			nnow;
	int			before;
	int			left = 0;

	/* one of our own, so that snapshots that are new have a later xmin, unless a transaction that writes is older */
	if (!older->is_listed)
	{
		StartTransactionCommand();
		older->xid = GetTopTransactionId();
		CommitTransactionCommand();
	}
	now = snapshots(InvalidTransactionId, &nnow);
	if (!older->is_listed)
	{
		older->vxids = MemoryContextAlloc(TopMemoryContext, MaxBackends * sizeof(VirtualTransactionId));
		memcpy(older->vxids, now, nnow * sizeof(VirtualTransactionId));
		older->n = nnow;
		older->is_listed = true;
	}
	before = older->n;
	for (int i = 0; i < before; i++)
		if (is_among(&older->vxids[i], now, nnow))
			older->vxids[left++] = older->vxids[i];
	older->n = left;
	pfree(now);
	/* after the look: whose snapshot is taken over later still is there now */
	if (before > 0)
		add_heirs(older);
	return older->n > 0;
}

static void
add_heirs(EsRebuildOlder *older)
{
	int			n;
	VirtualTransactionId *heirs = snapshots(older->xid, &n);

	for (int i = 0; i < n; i++)
		if (older->n < MaxBackends && !is_among(&heirs[i], older->vxids, older->n))
			older->vxids[older->n++] = heirs[i];
	pfree(heirs);
}

static bool
is_among(const VirtualTransactionId *vxid, const VirtualTransactionId *vxids, int n)
{
	for (int i = 0; i < n; i++)
		if (VirtualTransactionIdEquals(*vxid, vxids[i]))
			return true;
	return false;
}

/* who has one whose xmin is not above that; vacuum reads no rows of others by its snapshot */
static VirtualTransactionId *
snapshots(TransactionId up_to, int *n)
{
	return GetCurrentVirtualXIDs(up_to, true, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, n);
}

static EsRebuildEnd
swap(const EsRebuild *rebuild)
{
	EsDefinition *projection;
	EsDefinition *mine;
	List	   *shadows = NIL;
	bool		done = false;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) set_config_option("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	(void) set_config_option("deadlock_timeout", DEADLOCK_TIMEOUT, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	limit_came = in_handlers = false;
	enable_timeout_after(limit_id, MAX_TIME);
	es_definition_lock("projection", rebuild->name);
	AcceptInvalidationMessages();
	projection = es_definition_find("projection", rebuild->name);
	mine = es_rebuild_find(rebuild->name);
	if (projection == NULL || mine == NULL || mine->id != rebuild->id)
	{
		end_limit();
		PopActiveSnapshot();
		CommitTransactionCommand();
		return ES_REBUILD_OVER;
	}
	if (catch_up(projection, mine))
	{
		es_redirect_pause();
		if (!rebuild->is_in_place)
		{
			shadows = es_rebuild_read(mine)->shadows;
			exchange_tables(shadows);
		}
		replace(projection, mine);
		done = true;
	}
	end_limit();
	PopActiveSnapshot();
	CommitTransactionCommand();
	if (!done)
		return ES_REBUILD_BEHIND;
	analyze(rebuild->shadows);
	return ES_REBUILD_OVER;
}

/* E2 and E3; false where something failed meanwhile */
static bool
catch_up(const EsDefinition *projection, const EsDefinition *mine)
{
	bool		is_locked = is_sync(projection) || is_sync(mine);
	int64		up_to;

	if (!is_sync(projection))
		(void) es_subscription_lock(projection->id, AccessExclusiveLock);
	(void) es_subscription_lock(mine->id, AccessExclusiveLock);
	if (is_locked)
		es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, CurTransactionResourceOwner);
	/* all that the old worker can have applied; or all that there is, as nobody appends */
	up_to = is_locked ? es_feed_last_position() : es_feed_head(ES_FEED_ALL_CATEGORIES);
	in_handlers = true;
	es_projection_catch_up(mine->id, true, false);
	in_handlers = false;
	return es_subscription_is_settled(mine->id, up_to);
}

/* E4 to E6 */
static void
exchange_tables(List *shadows)
{
	ListCell   *lc;

	es_shadow_resolve(shadows);
	lock_in_order(shadows);
	es_shadow_check(shadows);
	/* all of them before any file is exchanged */
	foreach(lc, shadows)
		lock_indexes(lfirst(lc));
	foreach(lc, shadows)
		exchange_table(lfirst(lc));
	es_shadow_drop(shadows);
	CommandCounterIncrement();
	foreach(lc, shadows)
		es_table_swap_name_toast(((EsShadow *) lfirst(lc))->table_oid);
}

static void
lock_in_order(List *shadows)
{
	List	   *oids = NIL;
	ListCell   *lc;

	foreach(lc, shadows)
	{
		oids = lappend_oid(oids, ((EsShadow *) lfirst(lc))->table_oid);
		oids = lappend_oid(oids, ((EsShadow *) lfirst(lc))->shadow_oid);
	}
	list_sort(oids, compare_oids);
	foreach(lc, oids)
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	/* one was dropped, or renamed, before the lock was there */
	es_shadow_resolve(shadows);
	foreach(lc, shadows)
		if (!list_member_oid(oids, ((EsShadow *) lfirst(lc))->table_oid) || !list_member_oid(oids, ((EsShadow *) lfirst(lc))->shadow_oid))
			ereport(ERROR,
					(errcode(ES_ERRCODE_INVALID_DEFINITION),
					 errmsg("table %s is another one than when it was locked", ((EsShadow *) lfirst(lc))->table)));
}

static int
compare_oids(const ListCell *a, const ListCell *b)
{
	return lfirst_oid(a) < lfirst_oid(b) ? -1 : lfirst_oid(a) > lfirst_oid(b);
}

static void
lock_indexes(const EsShadow *shadow)
{
	int			n;
	EsIndexPair *pairs = es_shadow_indexes(shadow, true, &n);

	for (int i = 0; i < n; i++)
	{
		LockRelationOid(pairs[i].index, AccessExclusiveLock);
		LockRelationOid(pairs[i].shadow, AccessExclusiveLock);
	}
}

static void
exchange_table(const EsShadow *shadow)
{
	int			n;
	EsIndexPair *pairs = es_shadow_indexes(shadow, true, &n);

	es_table_swap(shadow->table_oid, shadow->shadow_oid);
	for (int i = 0; i < n; i++)
		es_table_swap_index(pairs[i].index, pairs[i].shadow);
}

/* E7 */
static void
replace(const EsDefinition *projection, const EsDefinition *mine)
{
	if (is_sync(mine))
	{
		es_subscription_end(mine->id);
		if (!is_sync(projection))
			es_subscription_end(projection->id);
	}
	else
		es_subscription_take_place(projection->id, mine->id);
	es_definition_replace(projection, mine->owner, mine->search_path, es_rebuild_spec(mine));
	if (strcmp(projection->state, ES_DEFINITION_REBUILDING) == 0)
		es_definition_set_state("projection", projection->name, ES_DEFINITION_ACTIVE);
	(void) es_definition_drop("rebuild", mine->name);
	es_wakeup_at_commit(1);
	/* the scheduler has fewer workers to look after, or more */
	es_wakeup_at_commit(0);
}

static bool
is_sync(const EsDefinition *definition)
{
	return strcmp(es_options_string(definition->spec, "mode", ""), "sync") == 0;
}

/* the planner knows the old rows; where this fails autovacuum comes to it later */
static void
analyze(List *shadows)
{
	EsSpiState	state;
	StringInfoData sql;
	ListCell   *lc;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	initStringInfo(&sql);
	foreach(lc, shadows)
		appendStringInfo(&sql, "%s %s", sql.len == 0 ? "ANALYZE" : ",", ((EsShadow *) lfirst(lc))->table);
	es_spi_begin(&state);
	es_spi_execute(sql.data);
	es_spi_end(&state);
	PopActiveSnapshot();
	CommitTransactionCommand();
}
