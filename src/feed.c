/*
 * feed.c
 *		The exact feed: floors of appenders in flight, and the stable head.
 *
 * Positions come from a sequence before commit, so a reader may see 12 while 11 is still uncommitted.  Each appending
 * transaction therefore publishes a floor (all positions of mine are above it) before its first allocation, and takes
 * it back when it is over; a reader reads no further than the smallest floor.  docs/architecture.md proves the order of
 * each step; the short form:
 *
 *	writer	bits of categories, floor := last allocated, [barrier], nextval, last allocated := max(., position)
 *			... commit record, leaving the proc array, and only then: floor taken back, waiters woken
 *	reader	last allocated, [barrier], floors, head := min, raised into a shared maximum, and only then: snapshot
 *
 * Runs in every process that appends or reads.  Shared: one StoreEntry per database and one Floor per backend.  A
 * floor is written by its backend alone; the entry's numbers are atomics; the lock protects which store an entry is
 * for, the leap of its sequence, and heads against being raised by somebody who speaks of another store.  A backend
 * that dies by FATAL takes its floor back in the abort of its transaction; one that is killed takes the whole shared
 * memory with it, and every transaction in flight, so an empty array is the truth.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "error.h"
#include "feed.h"
#include "guc.h"
#include "shmem.h"
#include "spi.h"

#define CATEGORY_BITS 64

/* at least so many positions are skipped after an unclean start */
#define MIN_LEAP INT64CONST(1000000)

/* one event store; the numbers are about one incarnation of its sequence */
typedef struct StoreEntry
{
	/* under the lock, exclusive; Oid 0: free */
	Oid			database;
	Oid			sequence;
	Oid			filenumber;

	/* changes with the three above; a cached pointer is good while its number is equal; 0: none, or it changes now */
	pg_atomic_uint32 incarnation;
	/* under the lock, exclusive: the incarnation whose database the launcher did not find last time */
	uint32		missed;
	/* 1: the server did not come up cleanly and no position was allocated since; under the lock to clear */
	pg_atomic_uint32 needs_leap;
	/* 1: nobody allocated since the entry was made, so the sequence itself is asked: a restore may have set it */
	pg_atomic_uint32 untouched;

	/* highest position known to be allocated; raised after each allocation */
	pg_atomic_uint64 last_allocated;
	/*
	 * Highest head that anybody computed, for all readers and for readers of one category bit.  Readers raise these, and
	 * last_allocated, under the lock, shared, so that nobody raises with what he knows of an earlier incarnation.
	 */
	pg_atomic_uint64 head;
	pg_atomic_uint64 category_head[CATEGORY_BITS];

	/* end of the newest commit record of an asynchronous commit, and how many of these are on their way */
	pg_atomic_uint64 async_commit_lsn;
	pg_atomic_uint32 async_in_flight;

	/* who waits for the head to move */
	pg_atomic_uint32 waiters;
	ConditionVariable moved;
} StoreEntry;

/* what one backend publishes; a cache line of its own */
typedef union Floor
{
	struct
	{
		pg_atomic_uint64 floor; /* position + 1; 0: no floor */
		pg_atomic_uint64 categories;
		pg_atomic_uint32 store; /* index of its StoreEntry; written before floor */
		int			pid;		/* the rest is for people to read */
		TimestampTz since;
	};
	char		pad[PG_CACHE_LINE_SIZE];
} Floor;

typedef struct FeedShared
{
	pg_atomic_uint32 floors_used;	/* no backend above this number ever published a floor */
	uint32		next_incarnation;	/* under the lock */
	int			nfloors;			/* immutable */
	int			nstores;			/* immutable */
} FeedShared;

static void *feed_area = NULL;
static LWLockPadded *feed_locks = NULL;

/* this backend's store, good while the incarnation and the catalog's generation are unchanged */
static StoreEntry *my_store = NULL;
static uint32 my_incarnation = 0;
static uint64 my_generation = 0;

/* this transaction's floor: 0 none, else the nesting level that published it */
static int	my_level = 0;
static uint64 my_floor = 0;
static bool my_async = false;

static Size feed_size(void);
static void feed_init(void *area);
static FeedShared *shared(void);
static Floor *floors(void);
static StoreEntry *stores(void);
static StoreEntry *attach_store(void);
static void make_entry(Oid sequence);
static StoreEntry *find_entry(Oid database);
static Oid	filenumber_of(Oid sequence, LOCKMODE mode);
static void fill_entry(StoreEntry *entry, Oid sequence, Oid filenumber, uint64 last);
static uint64 compute_head(StoreEntry *store, uint64 categories);
static bool share_head(StoreEntry *store, uint64 categories, uint64 *head);
static bool raise_shared(StoreEntry *store, pg_atomic_uint64 *maximum, uint64 value);
static pg_atomic_uint64 *category_maximum(StoreEntry *store, uint64 categories);
static uint64 read_last_allocated(void);
static uint64 read_sequence(void);
static uint64 highest_position_in_table(void);
static void leap(StoreEntry *store, Oid sequence);
static void publish_floor(StoreEntry *store, uint64 category_bit);
static void clear_floor(void);
static void refuse_position(int64 position, uint64 decided) es_noreturn;
static void raise_to(pg_atomic_uint64 *maximum, uint64 value);
static void make_durable(StoreEntry *store);
static XLogRecPtr end_of_wal(void);
static void stop_waiting(int code, Datum arg);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);
static void exit_callback(int code, Datum arg);

static EsPlan sequence_plan = {
	.sql = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM evtstore_internal.position_seq",
};

static EsPlan ledger_plan = {
	.sql = "SELECT position FROM evtstore_internal.head ORDER BY position DESC LIMIT 1",
};

void
es_feed_init(void)
{
	static const EsShmemPart part = {
		.name = "feed",
		.size = feed_size,
		.init = feed_init,
		.area = &feed_area,
		.nlocks = 1,
		.locks = &feed_locks,
	};

	es_shmem_register(&part);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

uint64
es_feed_category_bit(int32 category_hash)
{
	return UINT64CONST(1) << ((uint32) category_hash % CATEGORY_BITS);
}

void
es_feed_allocate(int n, int32 category_hash, int64 *positions)
{
	Oid			sequence = es_catalog()->position_seq;
	StoreEntry *store;
	uint64		decided;

	/*
	 * The lock that nextval takes, before looking at which incarnation of the sequence this is: from here to the end
	 * of the transaction nobody can restart or replace it.
	 */
	if (my_level == 0)
		LockRelationOid(sequence, RowExclusiveLock);
	store = attach_store();
	if (pg_atomic_read_u32(&store->needs_leap) != 0)
		leap(store, sequence);
	publish_floor(store, es_feed_category_bit(category_hash));

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
	raise_to(&store->last_allocated, positions[n - 1]);
	if (pg_atomic_read_u32(&store->untouched) != 0)
		pg_atomic_write_u32(&store->untouched, 0);
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
		/* the ledger's row may have been committed asynchronously too; what a standby shows is on the primary's disk */
		if (!RecoveryInProgress())
			make_durable(attach_store());
		return head;
	}
	for (;;)
	{
		head = es_feed_head(categories);
		PushActiveSnapshot(GetTransactionSnapshot());
		/* a head says nothing about a snapshot of another incarnation */
		if (pg_atomic_read_u32(&my_store->incarnation) == my_incarnation)
			break;
		PopActiveSnapshot();
	}
	make_durable(my_store);
	return head;
}

void
es_feed_begin_stream_read(void)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!RecoveryInProgress())
		make_durable(attach_store());
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
		StoreEntry *store = attach_store();
		uint64		head;

		if (pg_atomic_read_u32(&store->untouched) != 0 &&
			!raise_shared(store, &store->last_allocated, read_sequence()))
			continue;
		head = compute_head(store, categories);
		if (share_head(store, categories, &head))
			return head;
	}
}

static uint64
compute_head(StoreEntry *store, uint64 categories)
{
	uint32		store_index = store - stores();
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
		if ((pg_atomic_read_u64(&floor->categories) & categories) == 0)
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
share_head(StoreEntry *store, uint64 categories, uint64 *head)
{
	pg_atomic_uint64 *maximum = category_maximum(store, categories);

	if (maximum != NULL && pg_atomic_read_u64(maximum) < *head && !raise_shared(store, maximum, *head))
		return false;
	if (maximum != NULL)
		*head = Max(*head, pg_atomic_read_u64(maximum));
	*head = Max(*head, pg_atomic_read_u64(&store->head));

	/* fill_entry takes the number away before it changes anything: all that was read is of our incarnation */
	pg_read_barrier();
	return pg_atomic_read_u32(&store->incarnation) == my_incarnation;
}

/* raises what readers share, unless the entry is of another incarnation by now; fill_entry waits for the lock */
static bool
raise_shared(StoreEntry *store, pg_atomic_uint64 *maximum, uint64 value)
{
	bool		same;

	LWLockAcquire(&feed_locks[0].lock, LW_SHARED);
	same = pg_atomic_read_u32(&store->incarnation) == my_incarnation;
	if (same)
		raise_to(maximum, value);
	LWLockRelease(&feed_locks[0].lock);
	return same;
}

/* where readers of these categories share their maximum; NULL: readers of several, not all, share none */
static pg_atomic_uint64 *
category_maximum(StoreEntry *store, uint64 categories)
{
	if (categories == ES_FEED_ALL_CATEGORIES)
		return &store->head;
	return pg_popcount64(categories) == 1 ? &store->category_head[pg_rightmost_one_pos64(categories)] : NULL;
}

bool
es_feed_wait(int64 up_to, long timeout_ms)
{
	StoreEntry *store = attach_store();
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
	StoreEntry *store = (StoreEntry *) DatumGetPointer(arg);

	pg_atomic_fetch_sub_u32(&store->waiters, 1);
}

EsFloor *
es_feed_floors(int *count)
{
	uint32		store_index = attach_store() - stores();
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

/*
 * A database that is missing twice in a row is gone.  One that is missing once may be younger than the list, and have
 * appenders in flight; its entry is older than the next list.
 */
void
es_feed_forget_databases(List *existing)
{
	LWLockAcquire(&feed_locks[0].lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared()->nstores; i++)
	{
		StoreEntry *entry = &stores()[i];

		if (!OidIsValid(entry->database) || list_member_oid(existing, entry->database))
			entry->missed = 0;
		else if (entry->missed != pg_atomic_read_u32(&entry->incarnation))
			entry->missed = pg_atomic_read_u32(&entry->incarnation);
		else
		{
			entry->database = InvalidOid;
			pg_atomic_write_u32(&entry->incarnation, 0);
		}
	}
	LWLockRelease(&feed_locks[0].lock);
}

static Size
feed_size(void)
{
	Size		size = MAXALIGN(sizeof(FeedShared)) + PG_CACHE_LINE_SIZE;

	size = add_size(size, mul_size(MaxBackends + NUM_AUXILIARY_PROCS, sizeof(Floor)));
	return add_size(size, mul_size(es_guc_max_databases, sizeof(StoreEntry)));
}

static void
feed_init(void *area)
{
	FeedShared *feed = area;

	pg_atomic_init_u32(&feed->floors_used, 0);
	feed->next_incarnation = 1;
	feed->nfloors = MaxBackends + NUM_AUXILIARY_PROCS;
	feed->nstores = es_guc_max_databases;
	for (int i = 0; i < feed->nfloors; i++)
	{
		pg_atomic_init_u64(&floors()[i].floor, 0);
		pg_atomic_init_u64(&floors()[i].categories, 0);
		pg_atomic_init_u32(&floors()[i].store, 0);
	}
	for (int i = 0; i < feed->nstores; i++)
	{
		StoreEntry *entry = &stores()[i];

		pg_atomic_init_u32(&entry->incarnation, 0);
		pg_atomic_init_u32(&entry->needs_leap, 0);
		pg_atomic_init_u32(&entry->untouched, 0);
		pg_atomic_init_u64(&entry->last_allocated, 0);
		pg_atomic_init_u64(&entry->head, 0);
		for (int b = 0; b < CATEGORY_BITS; b++)
			pg_atomic_init_u64(&entry->category_head[b], 0);
		pg_atomic_init_u64(&entry->async_commit_lsn, 0);
		pg_atomic_init_u32(&entry->async_in_flight, 0);
		pg_atomic_init_u32(&entry->waiters, 0);
		ConditionVariableInit(&entry->moved);
	}
}

static FeedShared *
shared(void)
{
	return (FeedShared *) feed_area;
}

static Floor *
floors(void)
{
	return (Floor *) TYPEALIGN(PG_CACHE_LINE_SIZE, (char *) feed_area + sizeof(FeedShared));
}

static StoreEntry *
stores(void)
{
	return (StoreEntry *) (floors() + shared()->nfloors);
}

/*
 * The entry of this database's store, made on first use after the server started or after the sequence was replaced.
 *
 * What a reader sees here of the sequence may be replaced the moment after; then the incarnation is another, and he
 * comes again.
 */
static StoreEntry *
attach_store(void)
{
	Oid			sequence;
	Oid			filenumber;
	StoreEntry *entry;

	if (my_store != NULL && my_generation == es_catalog_generation() &&
		pg_atomic_read_u32(&my_store->incarnation) == my_incarnation)
		return my_store;

	for (;;)
	{
		sequence = es_catalog()->position_seq;
		filenumber = filenumber_of(sequence, AccessShareLock);
		LWLockAcquire(&feed_locks[0].lock, LW_SHARED);
		entry = find_entry(MyDatabaseId);
		if (entry != NULL && entry->sequence == sequence && entry->filenumber == filenumber)
			break;
		LWLockRelease(&feed_locks[0].lock);
		make_entry(sequence);
	}
	my_store = entry;
	my_incarnation = pg_atomic_read_u32(&entry->incarnation);
	my_generation = es_catalog_generation();
	LWLockRelease(&feed_locks[0].lock);
	return my_store;
}

/*
 * Under the lock of nextval, which conflicts with that of whoever replaces the sequence: what is seen of it is committed
 * or our own, and no floor of an earlier incarnation is in flight, but our own.  An allocation attaches first, so while
 * the entry does not name the present incarnation nobody has allocated from it, and what read_last_allocated() finds
 * still holds under the feed's lock.
 */
static void
make_entry(Oid sequence)
{
	Oid			filenumber = filenumber_of(sequence, RowExclusiveLock);
	uint64		last = read_last_allocated();
	StoreEntry *entry;

	LWLockAcquire(&feed_locks[0].lock, LW_EXCLUSIVE);
	entry = find_entry(MyDatabaseId);
	if (entry == NULL)
		entry = find_entry(InvalidOid);
	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("more than %d databases of this cluster use evtstore", es_guc_max_databases),
				 errhint("Raise evtstore.max_databases and restart the server.")));
	if (entry->database != MyDatabaseId || entry->sequence != sequence || entry->filenumber != filenumber)
		fill_entry(entry, sequence, filenumber, last);
	LWLockRelease(&feed_locks[0].lock);
	UnlockRelationOid(sequence, RowExclusiveLock);
}

/* keeps the lock where it is not AccessShareLock */
static Oid
filenumber_of(Oid sequence, LOCKMODE mode)
{
	Relation	rel = relation_open(sequence, mode);
	Oid			filenumber = es_rel_filenumber(rel);

	relation_close(rel, mode == AccessShareLock ? mode : NoLock);
	return filenumber;
}

/* Locks: the feed's, held */
static StoreEntry *
find_entry(Oid database)
{
	for (int i = 0; i < shared()->nstores; i++)
		if (stores()[i].database == database)
			return &stores()[i];
	return NULL;
}

/* Locks: the feed's, held exclusive */
static void
fill_entry(StoreEntry *entry, Oid sequence, Oid filenumber, uint64 last)
{
	pg_atomic_write_u32(&entry->incarnation, 0);
	pg_write_barrier();
	entry->database = MyDatabaseId;
	entry->sequence = sequence;
	entry->filenumber = filenumber;
	entry->missed = 0;
	pg_atomic_write_u64(&entry->last_allocated, last);
	pg_atomic_write_u64(&entry->head, 0);
	for (int b = 0; b < CATEGORY_BITS; b++)
		pg_atomic_write_u64(&entry->category_head[b], 0);
	pg_atomic_write_u32(&entry->needs_leap, es_shmem_clean_start() ? 0 : 1);
	pg_atomic_write_u32(&entry->untouched, 1);
	pg_write_barrier();
	pg_atomic_write_u32(&entry->incarnation, shared()->next_incarnation++);
}

/* the table is asked too: a sequence that somebody set back must not make positions below existing events look new */
static uint64
read_last_allocated(void)
{
	return Max(read_sequence(), highest_position_in_table());
}

/*
 * What the sequence handed out last: once per start, and for readers until the first allocation, because a restore that
 * runs meanwhile ends with setval.  Whatever it says was allocated by somebody whose floor was up before, so it is as
 * good as last_allocated, only dearer.  is_called matters: in a fresh sequence, and after the setval that
 * a dump ends with, last_value is the next position, not the last.
 */
static uint64
read_sequence(void)
{
	EsSpiState	state;
	uint64		last;

	es_spi_begin(&state);
	es_spi_run(&sequence_plan, NULL, NULL, true, 1);
	last = es_spi_int64(0, 0);
	es_spi_end(&state);
	return last;
}

/* the last row of the primary key, committed or in flight; a position that was rolled back is nobody's */
static uint64
highest_position_in_table(void)
{
	Relation	rel = table_open(es_catalog()->event, AccessShareLock);
	Relation	index = index_open(es_catalog()->event_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	IndexScanDesc scan;
	uint64		highest = 0;
	bool		isnull;

	InitDirtySnapshot(dirty);
	scan = es_index_beginscan(rel, index, &dirty, 0);
	index_rescan(scan, NULL, 0, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
		highest = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return highest;
}

/*
 * After an unclean start the sequence may be behind what was handed out: its WAL record may have been lost with an
 * asynchronous or aborted append.  What can be lost is what fits into the WAL buffers and, where the machine went down,
 * into one WAL segment: each is flushed when it is full.  A position takes more than 64 bytes of WAL.  The leap is
 * longer, and flushed before anybody gets a position above it.
 */
static void
leap(StoreEntry *store, Oid sequence)
{
	int64		distance = Max(MIN_LEAP, ((int64) XLOGbuffers * XLOG_BLCKSZ + wal_segment_size) / 64);

	LWLockAcquire(&feed_locks[0].lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&store->needs_leap) != 0)
	{
		int64		target = Max(nextval_internal(sequence, false), (int64) pg_atomic_read_u64(&store->last_allocated));
		Oid			userid;
		int			sec_context;

		target += distance;
		GetUserIdAndSecContext(&userid, &sec_context);
		SetUserIdAndSecContext(es_catalog()->owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(sequence), Int64GetDatum(target));
		SetUserIdAndSecContext(userid, sec_context);
		XLogFlush(XactLastRecEnd);
		raise_to(&store->last_allocated, target);
		pg_atomic_write_u32(&store->needs_leap, 0);
	}
	LWLockRelease(&feed_locks[0].lock);
}

static void
publish_floor(StoreEntry *store, uint64 category_bit)
{
	static bool registered = false;
	Floor	   *floor = &floors()[es_my_procno()];
	uint64		bits;

	if (my_level > 0)
	{
		bits = pg_atomic_read_u64(&floor->categories);
		if ((bits & category_bit) == 0)
		{
			pg_atomic_write_u64(&floor->categories, bits | category_bit);
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
	floor->since = GetCurrentTransactionStartTimestamp();
	pg_atomic_write_u64(&floor->categories, category_bit);
	pg_atomic_write_u32(&floor->store, store - stores());
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
	if (my_level == 0)
		return;
	my_level = 0;
	pg_memory_barrier();
	pg_atomic_write_u64(&floors()[es_my_procno()].floor, 0);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&my_store->waiters) > 0)
		ConditionVariableBroadcast(&my_store->moved);
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
raise_to(pg_atomic_uint64 *maximum, uint64 value)
{
	uint64		current = pg_atomic_read_u64(maximum);

	while (current < value && !pg_atomic_compare_exchange_u64(maximum, &current, value))
		;
}

/*
 * What leaves the database must survive a crash.  A synchronous commit is on disk before it is visible.  For the
 * others: one that the snapshot shows either has raised async_commit_lsn, or counts as in flight still; so the count is
 * read first.  Called with the snapshot taken.
 */
static void
make_durable(StoreEntry *store)
{
	XLogRecPtr	upto;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&store->async_in_flight) > 0)
		upto = end_of_wal();
	else
	{
		pg_read_barrier();
		upto = pg_atomic_read_u64(&store->async_commit_lsn);
	}
	if (upto != InvalidXLogRecPtr)
		XLogFlush(upto);
}

/*
 * The end of what was inserted into WAL.  Where that is the end of a page, the insert position is behind the header of
 * the next page, which is not there yet: flushing up to it would be an error.
 */
static XLogRecPtr
end_of_wal(void)
{
	XLogRecPtr	ptr = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(ptr, wal_segment_size) == SizeOfXLogLongPHD)
		return ptr - SizeOfXLogLongPHD;
	if (ptr % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return ptr - SizeOfXLogShortPHD;
	return ptr;
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
			if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF && !my_async)
			{
				pg_atomic_fetch_add_u32(&my_store->async_in_flight, 1);
				my_async = true;
			}
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			if (my_async)
			{
				if (event == XACT_EVENT_COMMIT)
					raise_to(&my_store->async_commit_lsn, XactLastCommitEnd);
				my_async = false;
				pg_atomic_fetch_sub_u32(&my_store->async_in_flight, 1);
			}
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
