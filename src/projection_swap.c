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
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

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

/* shorter than deadlock_timeout, so that it is we who give way */
#define LOCK_TIMEOUT "200ms"

/* who had a snapshot when this rebuild had applied everything for the first time in this process */
static int32 level_id = 0; /* 0: none */
static VirtualTransactionId *older = NULL;
static int nolder = 0;

/* whether it is level */
typedef struct Level
{
	int32		id;
	bool		is_level;
} Level;

static bool is_level(int32 id);
static void look_level(void *arg);
static bool older_snapshots(int32 id);
static VirtualTransactionId *snapshots(int *n);
static EsRebuildEnd swap(const EsRebuild *rebuild);
static bool catch_up(const EsDefinition *projection, const EsDefinition *mine);
static void exchange_tables(List *shadows);
static void lock_in_order(List *shadows);
static int	compare_oids(const ListCell *a, const ListCell *b);
static void exchange_table(EsShadow *shadow);
static void replace(const EsDefinition *projection, const EsDefinition *mine);
static bool is_sync(const EsDefinition *definition);
static void analyze(List *shadows);

EsRebuildEnd
es_rebuild_end(const EsRebuild *rebuild)
{
	EsRebuildEnd end;

	if (!is_level(rebuild->id))
		return ES_REBUILD_BEHIND;
	if (!rebuild->is_in_place && older_snapshots(rebuild->id))
		return ES_REBUILD_WAITS;
	end = swap(rebuild);
	if (end == ES_REBUILD_OVER)
		level_id = 0;
	return end;
}

static bool
is_level(int32 id)
{
	Level		level = {.id = id};

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	/* what failed and waits for a person is an error there; here it is an event that is left */
	(void) es_attempt(look_level, &level);
	PopActiveSnapshot();
	CommitTransactionCommand();
	return level.is_level;
}

static void
look_level(void *arg)
{
	Level	   *level = arg;

	level->is_level = es_subscription_is_settled(level->id, es_feed_head(ES_FEED_ALL_CATEGORIES));
}

/*
 * E1.  A snapshot that is taken after the listing has every turn up to the moment when the rebuild was level.  Who was seen without
 * one takes a later one next.
 */
static bool
older_snapshots(int32 id)
{
	VirtualTransactionId *now;
	int			nnow;
	int			left = 0;

	now = snapshots(&nnow);
	if (level_id != id)
	{
		if (older != NULL)
			pfree(older);
		older = MemoryContextAlloc(TopMemoryContext, Max(nnow, 1) * sizeof(VirtualTransactionId));
		memcpy(older, now, nnow * sizeof(VirtualTransactionId));
		nolder = nnow;
		level_id = id;
	}
	for (int i = 0; i < nolder; i++)
	{
		bool		found = false;

		for (int j = 0; j < nnow && !found; j++)
			found = VirtualTransactionIdEquals(older[i], now[j]);
		if (found)
			older[left++] = older[i];
	}
	nolder = left;
	pfree(now);
	return nolder > 0;
}

/* vacuum reads no rows of others by its snapshot */
static VirtualTransactionId *
snapshots(int *n)
{
	return GetCurrentVirtualXIDs(InvalidTransactionId, true, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, n);
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
	es_definition_lock("projection", rebuild->name);
	AcceptInvalidationMessages();
	projection = es_definition_find("projection", rebuild->name);
	mine = es_rebuild_find(rebuild->name);
	if (projection == NULL || mine == NULL || mine->id != rebuild->id)
	{
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
	up_to = is_locked ? es_feed_last_allocated() : es_feed_head(ES_FEED_ALL_CATEGORIES);
	es_projection_catch_up(mine->id, true);
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
exchange_table(EsShadow *shadow)
{
	int			n;
	EsIndexPair *pairs = es_shadow_indexes(shadow, &n);

	es_table_swap(shadow->table_oid, shadow->shadow_oid);
	for (int i = 0; i < n; i++)
	{
		LockRelationOid(pairs[i].index, AccessExclusiveLock);
		LockRelationOid(pairs[i].shadow, AccessExclusiveLock);
		es_table_swap_index(pairs[i].index, pairs[i].shadow);
	}
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
