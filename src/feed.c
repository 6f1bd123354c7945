/*
 * feed.c
 *		The exact feed: floors of appenders in flight, and the stable head.
 *
 * Positions come from a sequence before commit, so a reader may see 12 while 11 is still uncommitted.  Each appending
 * transaction therefore publishes a floor (all positions of mine are above it) before its first allocation, and takes
 * it back when it is over; a reader reads no further than the smallest floor.  docs/architecture.md proves the order of
 * each step; the short form:
 *
 *	writer	bits of categories, floor := last allocated, [barrier], clock, nextval, last allocated := max(., position)
 *			... commit record, leaving the proc array, and only then: floor taken back, waiters woken
 *	reader	last allocated, [barrier], floors, head := min, raised into a shared maximum, and only then: snapshot
 *
 * Runs in every process that appends or reads.  Shared: one Floor per backend, which it alone writes, and the entry of
 * the store (feed_store.c), whose numbers are atomics; what is shown to readers is flushed first (feed_durable.c).  A
 * backend that dies by FATAL takes its floor back in the abort of its transaction; one that is killed takes the whole
 * shared memory with it, and every transaction in flight, so an empty array is the truth.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "feed.h"
#include "feed_store.h"
#include "lock.h"
#include "shmem.h"
#include "spi.h"
#include "waiter.h"

/* what one backend publishes; a cache line of its own */
typedef union Floor
{
	struct
	{
		pg_atomic_uint64 floor; /* position + 1; 0: no floor */
		pg_atomic_uint64 categories;
		pg_atomic_uint32 store; /* index of its EsStoreEntry; written before floor */
		int			pid;		/* the rest is for people to read */
		TimestampTz since;
	};
	char		pad[PG_CACHE_LINE_SIZE];
} Floor;

typedef struct FloorsShared
{
	pg_atomic_uint32 floors_used;	/* no backend above this number ever published a floor */
	int			nfloors;			/* immutable */
} FloorsShared;

static void *floors_area = NULL;

/* this transaction's floor: 0 none, else the nesting level that published it */
static int	my_level = 0;
static uint64 my_floor = 0;
/* the entry that it is for */
static EsStoreEntry *my_store = NULL;
/* counted as an asynchronous commit in flight */
static bool my_async = false;

static Size floors_size(void);
static void init_floors(void *area);
static FloorsShared *shared(void);
static Floor *floors(void);
static TimestampTz now_at(EsStoreEntry *store);
static bool has_floors(EsStoreEntry *store);
static uint64 compute_head(EsStoreEntry *store, uint64 categories);
static bool share_head(EsStoreEntry *store, uint64 categories, uint64 *head);
static pg_atomic_uint64 *category_maximum(EsStoreEntry *store, uint64 categories);
static void publish_floor(EsStoreEntry *store, uint64 category_bits);
static void clear_floor(void);
static void refuse_position(int64 position, uint64 decided) es_noreturn;
static void stop_waiting(int code, Datum arg);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);
static void exit_callback(int code, Datum arg);

static EsPlan ledger_plan = {
	.sql = "SELECT position FROM evtstore_internal.head ORDER BY position DESC LIMIT 1",
};

void
es_feed_init(void)
{
	static const EsShmemPart part = {
		.name = "floors",
		.size = floors_size,
		.init = init_floors,
		.area = &floors_area,
	};

	es_shmem_register(&part);
	es_feed_store_init();
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

uint64
es_feed_category_bit(int32 category_hash)
{
	return UINT64CONST(1) << ((uint32) category_hash % ES_FEED_CATEGORY_BITS);
}

TimestampTz
es_feed_allocate(int n, uint64 category_bits, int64 *positions)
{
	Oid			sequence = es_catalog()->position_seq;
	EsStoreEntry *store;
	uint64		decided;
	TimestampTz recorded;

	/*
	 * The lock that nextval takes, before looking at which incarnation of the sequence this is: from here to the end
	 * of the transaction nobody can restart or replace it.
	 */
	if (my_level == 0)
		es_lock_relation(sequence, RowExclusiveLock, CurTransactionResourceOwner);
	store = es_feed_attach();
	if (pg_atomic_read_u32(&store->needs_leap) != 0)
		es_feed_leap(store, sequence);
	publish_floor(store, category_bits);
	recorded = now_at(store);
	es_feed_raise(&store->last_recorded, recorded);

	/*
	 * Read again now that the floor is up.  A reader that read last_allocated before us got no more than this, one that
	 * reads it later sees our floor: no head can pass a position above it, whatever anybody does to the sequence.
	 */
	decided = Max(my_floor, pg_atomic_read_u64(&store->last_allocated));
	for (int i = 0; i < n; i++)
	{
		positions[i] = nextval_internal(sequence, false);
		/* the proof needs a sequence that only grows; whoever set it back gets an error, not a feed with holes */
		if (positions[i] <= 0 || (uint64) positions[i] <= decided)
			refuse_position(positions[i], decided);
		decided = positions[i];
	}
	es_feed_raise(&store->last_allocated, positions[n - 1]);
	if (pg_atomic_read_u32(&store->untouched) != 0)
		pg_atomic_write_u32(&store->untouched, 0);
	return recorded;
}

bool
es_feed_has_own_floor(void)
{
	return my_level > 0;
}

int64
es_feed_last_allocated(void)
{
	EsStoreEntry *store = es_feed_attach();

	/* after an unclean start the sequence may be behind what was handed out, until it leaps */
	if (pg_atomic_read_u32(&store->needs_leap) != 0)
		return PG_INT64_MAX;
	return (int64) Max(pg_atomic_read_u64(&store->last_allocated),
					   pg_atomic_read_u32(&store->untouched) != 0 ? es_feed_read_sequence() : 0);
}

int64
es_feed_last_position(void)
{
	Oid			sequence = es_catalog()->position_seq;
	EsStoreEntry *store;

	es_lock_relation(sequence, RowExclusiveLock, CurTransactionResourceOwner);
	store = es_feed_attach();
	if (pg_atomic_read_u32(&store->needs_leap) != 0)
		es_feed_leap(store, sequence);
	return es_feed_last_allocated();
}

int64
es_feed_begin_read(uint64 categories)
{
	int64		head;

	if (es_feed_uses_ledger())
	{
		EsSpiState	state;

		es_spi_begin(&state);
		head = es_spi_run(&ledger_plan, NULL, NULL, true, 1) > 0 ? es_spi_int64(0, 0) : 0;
		es_spi_end(&state);
		PushActiveSnapshot(GetTransactionSnapshot());
		/* the ledger's row may have been committed asynchronously too */
		es_feed_flush_shown();
		return head;
	}
	for (;;)
	{
		head = es_feed_head(categories);
		PushActiveSnapshot(GetTransactionSnapshot());
		/* a head says nothing about a snapshot of another incarnation */
		if (es_feed_is_attached())
			break;
		PopActiveSnapshot();
	}
	es_async_make_durable(&es_feed_attach()->async);
	return head;
}

void
es_feed_begin_stream_read(void)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	es_feed_flush_shown();
}

void
es_feed_end_read(void)
{
	PopActiveSnapshot();
}

int64
es_feed_open_read(uint64 categories, Snapshot *snapshot)
{
	int64		head = es_feed_begin_read(categories);

	*snapshot = RegisterSnapshot(GetActiveSnapshot());
	es_feed_end_read();
	return head;
}

Snapshot
es_feed_open_stream_read(void)
{
	Snapshot	snapshot;

	es_feed_begin_stream_read();
	snapshot = RegisterSnapshot(GetActiveSnapshot());
	es_feed_end_read();
	return snapshot;
}

void
es_feed_close_read(Snapshot snapshot)
{
	UnregisterSnapshot(snapshot);
}

bool
es_feed_uses_ledger(void)
{
	return RecoveryInProgress() || IsolationUsesXactSnapshot();
}

int64
es_feed_head(uint64 categories)
{
	for (;;)
	{
		EsStoreEntry *store = es_feed_attach();
		uint64		head;

		if (pg_atomic_read_u32(&store->untouched) != 0 &&
			!es_feed_raise_shared(store, &store->last_allocated, es_feed_read_sequence()))
			continue;
		head = compute_head(store, categories);
		if (share_head(store, categories, &head))
			return head;
	}
}

/*
 * Between two equal looks at last_allocated there was no floor: whoever published one before has cleared it, and what he
 * allocated is below.  Whoever publishes one after the look reads last_recorded behind it, so he sees ours: on both
 * sides is a full barrier between the write and the read.
 */
bool
es_feed_settle(TimestampTz at, int64 *head)
{
	EsStoreEntry *store;
	uint64		last;

	for (int i = 0; i < 3; i++)
	{
		*head = es_feed_head(ES_FEED_ALL_CATEGORIES);
		store = es_feed_attach();
		es_feed_raise(&store->last_recorded, (uint64) at + 1);
		pg_memory_barrier();
		last = pg_atomic_read_u64(&store->last_allocated);
		pg_memory_barrier();
		if (has_floors(store))
			return false;
		pg_memory_barrier();
		if (last == pg_atomic_read_u64(&store->last_allocated) && share_head(store, ES_FEED_ALL_CATEGORIES, &last))
		{
			*head = last;
			return true;
		}
	}
	return false;
}

void
es_feed_give_time(long grace_ms)
{
	int64		up_to = pg_atomic_read_u64(&es_feed_attach()->last_allocated);
	int			pid;
	long		left;

	if (my_level > 0)
		return;
	left = grace_ms - es_feed_oldest_appender(&pid);
	if (left > 0)
		(void) es_feed_wait(up_to, left);
}

TimestampTz
es_feed_now(void)
{
	return now_at(es_feed_attach());
}

static TimestampTz
now_at(EsStoreEntry *store)
{
	TimestampTz last = (TimestampTz) pg_atomic_read_u64(&store->last_recorded);

	return Max(GetCurrentTimestamp(), last);
}

void
es_feed_flush_shown(void)
{
	if (!RecoveryInProgress())
		es_async_make_durable(&es_feed_attach()->async);
}

static bool
has_floors(EsStoreEntry *store)
{
	uint32		store_index = es_feed_store_index(store);
	uint32		used = pg_atomic_read_u32(&shared()->floors_used);

	for (uint32 i = 0; i < used; i++)
	{
		if (pg_atomic_read_u64(&floors()[i].floor) == 0)
			continue;
		pg_read_barrier();
		if (pg_atomic_read_u32(&floors()[i].store) == store_index)
			return true;
	}
	return false;
}

static uint64
compute_head(EsStoreEntry *store, uint64 categories)
{
	uint32		store_index = es_feed_store_index(store);
	Floor	   *floor = floors();
	uint64		head = pg_atomic_read_u64(&store->last_allocated);
	uint32		used;

	/*
	 * Whoever allocated what last_allocated covers published its floor before: seen below unless taken back.  A full
	 * barrier pairs with the one of publish_floor on machines where writes reach processors in different order.
	 */
	pg_memory_barrier();
	used = pg_atomic_read_u32(&shared()->floors_used);
	for (uint32 i = 0; i < used; i++, floor++)
	{
		uint64		published = pg_atomic_read_u64(&floor->floor);

		if (published == 0)
			continue;
		pg_read_barrier();
		if (pg_atomic_read_u32(&floor->store) != store_index)
			continue;
		/* events without a stream have no bit, and readers of all categories see them */
		if (categories != ES_FEED_ALL_CATEGORIES && (pg_atomic_read_u64(&floor->categories) & categories) == 0)
			continue;
		head = Min(head, published - 1);
	}
	return head;
}

/*
 * Raises the shared maximum to *head and *head to the maximum: a writer that was preempted between reading and
 * publishing lowers what we computed, not what was true.  False where the entry is of another incarnation by now.
 */
static bool
share_head(EsStoreEntry *store, uint64 categories, uint64 *head)
{
	pg_atomic_uint64 *maximum = category_maximum(store, categories);

	if (maximum != NULL && pg_atomic_read_u64(maximum) < *head && !es_feed_raise_shared(store, maximum, *head))
		return false;
	if (maximum != NULL)
		*head = Max(*head, pg_atomic_read_u64(maximum));
	*head = Max(*head, pg_atomic_read_u64(&store->head));

	/* fill_entry takes the number away before it changes anything: all that was read is of our incarnation */
	pg_read_barrier();
	return es_feed_is_attached();
}

/* where readers of these categories share their maximum; NULL: readers of several, not all, share none */
static pg_atomic_uint64 *
category_maximum(EsStoreEntry *store, uint64 categories)
{
	if (categories == ES_FEED_ALL_CATEGORIES)
		return &store->head;
	return pg_popcount64(categories) == 1 ? &store->category_head[pg_rightmost_one_pos64(categories)] : NULL;
}

bool
es_feed_wait(int64 up_to, long timeout_ms)
{
	EsStoreEntry *store = es_feed_attach();
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	static uint32 wait_event = 0;
	bool		reached;

	if (wait_event == 0)
		wait_event = es_wait_event("EvtstoreHead");
	pg_atomic_fetch_add_u32(&store->waiters, 1);
	/* a terminated backend leaves by FATAL, which no PG_FINALLY sees */
	PG_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(store));
	{
		ConditionVariablePrepareToSleep(&store->moved);
		while (!(reached = es_feed_head(ES_FEED_ALL_CATEGORIES) >= up_to))
		{
			long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);

			if (left <= 0)
				break;
			ConditionVariableTimedSleep(&store->moved, left, wait_event);
		}
		ConditionVariableCancelSleep();
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop_waiting, PointerGetDatum(store));
	stop_waiting(0, PointerGetDatum(store));
	return reached;
}

static void
stop_waiting(int code, Datum arg)
{
	EsStoreEntry *store = (EsStoreEntry *) DatumGetPointer(arg);

	pg_atomic_fetch_sub_u32(&store->waiters, 1);
}

EsFloor *
es_feed_floors(int *count)
{
	uint32		store_index = es_feed_store_index(es_feed_attach());
	uint32		used = pg_atomic_read_u32(&shared()->floors_used);
	EsFloor    *result = palloc0(sizeof(EsFloor) * Max(used, 1));

	*count = 0;
	for (uint32 i = 0; i < used; i++)
	{
		Floor	   *floor = &floors()[i];
		uint64		published = pg_atomic_read_u64(&floor->floor);

		if (published == 0 || pg_atomic_read_u32(&floor->store) != store_index)
			continue;
		result[*count].pid = floor->pid;
		result[*count].floor = published - 1;
		result[*count].since = floor->since;
		(*count)++;
	}
	return result;
}

int64
es_feed_oldest_appender(int *pid)
{
	int			count;
	EsFloor    *all = es_feed_floors(&count);
	int64		oldest = 0;
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < count; i++)
	{
		int64		age = (now - all[i].since) / 1000;

		if (age > oldest)
		{
			oldest = age;
			*pid = all[i].pid;
		}
	}
	return oldest;
}

static Size
floors_size(void)
{
	return add_size(MAXALIGN(sizeof(FloorsShared)) + PG_CACHE_LINE_SIZE,
					mul_size(MaxBackends + NUM_AUXILIARY_PROCS, sizeof(Floor)));
}

static void
init_floors(void *area)
{
	pg_atomic_init_u32(&shared()->floors_used, 0);
	shared()->nfloors = MaxBackends + NUM_AUXILIARY_PROCS;
	for (int i = 0; i < shared()->nfloors; i++)
	{
		pg_atomic_init_u64(&floors()[i].floor, 0);
		pg_atomic_init_u64(&floors()[i].categories, 0);
		pg_atomic_init_u32(&floors()[i].store, 0);
	}
}

static FloorsShared *
shared(void)
{
	return (FloorsShared *) floors_area;
}

static Floor *
floors(void)
{
	return (Floor *) TYPEALIGN(PG_CACHE_LINE_SIZE, (char *) floors_area + sizeof(FloorsShared));
}

static void
publish_floor(EsStoreEntry *store, uint64 category_bits)
{
	static bool registered = false;
	Floor	   *floor = &floors()[es_my_procno()];
	uint64		bits;

	if (my_level > 0)
	{
		bits = pg_atomic_read_u64(&floor->categories);
		if ((bits & category_bits) != category_bits)
		{
			pg_atomic_write_u64(&floor->categories, bits | category_bits);
			pg_memory_barrier();
		}
		return;
	}

	if (!registered)
	{
		uint32		used = pg_atomic_read_u32(&shared()->floors_used);
		uint32		mine = es_my_procno() + 1;

		while (used < mine && !pg_atomic_compare_exchange_u32(&shared()->floors_used, &used, mine))
			;
		floor->pid = MyProcPid;
		on_shmem_exit(exit_callback, (Datum) 0);
		registered = true;
	}
	my_level = GetCurrentTransactionNestLevel();
	my_store = store;
	floor->since = GetCurrentTransactionStartTimestamp();
	pg_atomic_write_u64(&floor->categories, category_bits);
	pg_atomic_write_u32(&floor->store, es_feed_store_index(store));
	pg_write_barrier();
	my_floor = pg_atomic_read_u64(&store->last_allocated);
	pg_atomic_write_u64(&floor->floor, my_floor + 1);
	/* visible to all before nextval can give us a position */
	pg_memory_barrier();
}

/* this transaction's events are decided: visible, or gone */
static void
clear_floor(void)
{
	uint64		categories;

	if (my_level == 0)
		return;
	my_level = 0;
	categories = pg_atomic_read_u64(&floors()[es_my_procno()].categories);
	pg_memory_barrier();
	pg_atomic_write_u64(&floors()[es_my_procno()].floor, 0);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&my_store->waiters) > 0)
		ConditionVariableBroadcast(&my_store->moved);
	es_waiter_wake_categories(categories);
}

static void
refuse_position(int64 position, uint64 decided)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("sequence evtstore_internal.position_seq went back to " INT64_FORMAT, position),
			 errdetail("Positions up to " UINT64_FORMAT " are given out already.", decided),
			 errhint("Set it above them: SELECT setval('evtstore_internal.position_seq', " UINT64_FORMAT ");",
					 decided + 1)));
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (my_level == 0)
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has appended events"),
					 errdetail("A prepared transaction could hold the head back for ever."),
					 errhint("Commit it in one phase, or append in a transaction of its own.")));
			break;
		case XACT_EVENT_PRE_COMMIT:
			es_async_before_commit(&my_store->async, &my_async);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			es_async_after_end(&my_store->async, &my_async, event == XACT_EVENT_COMMIT);
			clear_floor();
			break;
		default:
			break;
	}
}

/* events of a savepoint that is rolled back are gone: if the floor was published in it, nobody waits for it longer */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level;

	if (my_level == 0)
		return;
	level = GetCurrentTransactionNestLevel();
	if (event == SUBXACT_EVENT_ABORT_SUB && my_level >= level)
		clear_floor();
	else if (event == SUBXACT_EVENT_COMMIT_SUB && my_level >= level)
		my_level = level - 1;
}

static void
exit_callback(int code, Datum arg)
{
	clear_floor();
}
