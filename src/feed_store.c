/*
 * feed_store.c
 *		The shared entries of stores: which sequence the numbers of the feed are about, and where it stood.
 *
 * Runs in every process that appends or reads; the launcher forgets entries of databases that are gone.  Shared: one
 * entry per database.  Its numbers are atomics, raised only; the lock protects which store an entry is for, the leap of
 * its sequence, and numbers against being raised by somebody who speaks of another store.  Who waits for the head, and
 * what floors mean for it, is in feed.c.
 *
 * A crash leaves nothing: the entries are made anew, and the first allocation leaps over what may have been handed out
 * and lost.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "feed.h"
#include "feed_store.h"
#include "guc.h"
#include "shmem.h"
#include "spi.h"

/* at least so many positions are skipped after an unclean start */
#define MIN_LEAP INT64CONST(1000000)

typedef struct StoresShared
{
	uint32		next_incarnation;	/* under the lock */
	int			nstores;			/* immutable */
} StoresShared;

static void *stores_area = NULL;
static LWLockPadded *feed_locks = NULL;

#define FEED_LOCK (&feed_locks[0].lock)

/* this backend's store, good while the incarnation and the catalog's generation are unchanged */
static EsStoreEntry *my_store = NULL;
static uint32 my_incarnation = 0;
static uint64 my_generation = 0;

static Size stores_size(void);
static void init_stores(void *area);
static StoresShared *shared(void);
static EsStoreEntry *stores(void);
static void make_entry(Oid sequence);
static EsStoreEntry *find_entry(Oid database);
static Oid	filenumber_of(Oid sequence, LOCKMODE mode);
static void fill_entry(EsStoreEntry *entry, Oid sequence, Oid filenumber, uint64 last, TimestampTz recorded);
static uint64 read_last_allocated(TimestampTz *recorded);
static uint64 highest_position_in_table(TimestampTz *recorded);
static TimestampTz newest_in_ledger(void);

static EsPlan sequence_plan = {
	.sql = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM evtstore_internal.position_seq",
};

static EsPlan newest_plan = {
	.sql = "SELECT greatest((SELECT max(recorded_at) FROM evtstore_internal.head),"
	" (SELECT max(recorded_at) FROM evtstore_internal.closing))",
};

void
es_feed_store_init(void)
{
	static const EsShmemPart part = {
		.name = "feed",
		.size = stores_size,
		.init = init_stores,
		.area = &stores_area,
		.nlocks = 1,
		.locks = &feed_locks,
	};

	es_shmem_register(&part);
}

/*
 * What a reader sees here of the sequence may be replaced the moment after; then the incarnation is another, and he
 * comes again.
 */
EsStoreEntry *
es_feed_attach(void)
{
	Oid			sequence;
	Oid			filenumber;
	EsStoreEntry *entry;

	if (my_store != NULL && my_generation == es_catalog_generation() && es_feed_is_attached())
		return my_store;

	for (;;)
	{
		sequence = es_catalog()->position_seq;
		filenumber = filenumber_of(sequence, AccessShareLock);
		LWLockAcquire(FEED_LOCK, LW_SHARED);
		entry = find_entry(MyDatabaseId);
		if (entry != NULL && entry->sequence == sequence && entry->filenumber == filenumber)
			break;
		LWLockRelease(FEED_LOCK);
		make_entry(sequence);
	}
	my_store = entry;
	my_incarnation = pg_atomic_read_u32(&entry->incarnation);
	my_generation = es_catalog_generation();
	LWLockRelease(FEED_LOCK);
	return my_store;
}

bool
es_feed_is_attached(void)
{
	return pg_atomic_read_u32(&my_store->incarnation) == my_incarnation;
}

uint32
es_feed_store_index(const EsStoreEntry *store)
{
	return store - stores();
}

void
es_feed_raise(pg_atomic_uint64 *maximum, uint64 value)
{
	uint64		current = pg_atomic_read_u64(maximum);

	while (current < value && !pg_atomic_compare_exchange_u64(maximum, &current, value))
		;
}

/* fill_entry waits for the lock */
bool
es_feed_raise_shared(EsStoreEntry *store, pg_atomic_uint64 *maximum, uint64 value)
{
	bool		same;

	LWLockAcquire(FEED_LOCK, LW_SHARED);
	same = pg_atomic_read_u32(&store->incarnation) == my_incarnation;
	if (same)
		es_feed_raise(maximum, value);
	LWLockRelease(FEED_LOCK);
	return same;
}

/*
 * What the sequence handed out last: once per start, and for readers until the first allocation, because a restore that
 * runs meanwhile ends with setval.  Whatever it says was allocated by somebody whose floor was up before, so it is as
 * good as last_allocated, only dearer.  is_called matters: in a fresh sequence, and after the setval that
 * a dump ends with, last_value is the next position, not the last.
 */
uint64
es_feed_read_sequence(void)
{
	EsSpiState	state;
	uint64		last;

	es_spi_begin(&state);
	es_spi_run(&sequence_plan, NULL, NULL, true, 1);
	last = es_spi_int64(0, 0);
	es_spi_end(&state);
	return last;
}

/*
 * After an unclean start the sequence may be behind what was handed out: its WAL record may have been lost with an
 * asynchronous or aborted append.  What can be lost is what fits into the WAL buffers and, where the machine went down,
 * into one WAL segment: each is flushed when it is full.  A position takes more than 64 bytes of WAL.  The leap is
 * longer, and flushed before anybody gets a position above it.
 */
void
es_feed_leap(EsStoreEntry *store, Oid sequence)
{
	int64		distance = Max(MIN_LEAP, ((int64) XLOGbuffers * XLOG_BLCKSZ + wal_segment_size) / 64);

	LWLockAcquire(FEED_LOCK, LW_EXCLUSIVE);
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
		es_feed_raise(&store->last_allocated, target);
		pg_atomic_write_u32(&store->needs_leap, 0);
	}
	LWLockRelease(FEED_LOCK);
}

/*
 * A database that is missing twice in a row is gone.  One that is missing once may be younger than the list, and have
 * appenders in flight; its entry is older than the next list.
 */
void
es_feed_forget_databases(List *existing)
{
	LWLockAcquire(FEED_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < shared()->nstores; i++)
	{
		EsStoreEntry *entry = &stores()[i];

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
	LWLockRelease(FEED_LOCK);
}

static Size
stores_size(void)
{
	return add_size(MAXALIGN(sizeof(StoresShared)), mul_size(es_guc_max_databases, sizeof(EsStoreEntry)));
}

static void
init_stores(void *area)
{
	shared()->next_incarnation = 1;
	shared()->nstores = es_guc_max_databases;
	for (int i = 0; i < shared()->nstores; i++)
	{
		EsStoreEntry *entry = &stores()[i];

		pg_atomic_init_u32(&entry->incarnation, 0);
		pg_atomic_init_u32(&entry->needs_leap, 0);
		pg_atomic_init_u32(&entry->untouched, 0);
		pg_atomic_init_u64(&entry->last_recorded, 0);
		pg_atomic_init_u64(&entry->last_allocated, 0);
		pg_atomic_init_u64(&entry->head, 0);
		for (int b = 0; b < ES_FEED_CATEGORY_BITS; b++)
			pg_atomic_init_u64(&entry->category_head[b], 0);
		es_async_init(&entry->async);
		pg_atomic_init_u32(&entry->waiters, 0);
		ConditionVariableInit(&entry->moved);
	}
}

static StoresShared *
shared(void)
{
	return (StoresShared *) stores_area;
}

static EsStoreEntry *
stores(void)
{
	return (EsStoreEntry *) ((char *) stores_area + MAXALIGN(sizeof(StoresShared)));
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
	TimestampTz recorded;
	uint64		last = read_last_allocated(&recorded);
	EsStoreEntry *entry;

	LWLockAcquire(FEED_LOCK, LW_EXCLUSIVE);
	entry = find_entry(MyDatabaseId);
	if (entry == NULL)
		entry = find_entry(InvalidOid);
	if (entry == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("more than %d databases of this cluster use evtstore", es_guc_max_databases),
				 errhint("Raise evtstore.max_databases and restart the server.")));
	if (entry->database != MyDatabaseId || entry->sequence != sequence || entry->filenumber != filenumber)
		fill_entry(entry, sequence, filenumber, last, recorded);
	LWLockRelease(FEED_LOCK);
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
static EsStoreEntry *
find_entry(Oid database)
{
	for (int i = 0; i < shared()->nstores; i++)
		if (stores()[i].database == database)
			return &stores()[i];
	return NULL;
}

/* Locks: the feed's, held exclusive */
static void
fill_entry(EsStoreEntry *entry, Oid sequence, Oid filenumber, uint64 last, TimestampTz recorded)
{
	pg_atomic_write_u32(&entry->incarnation, 0);
	pg_write_barrier();
	entry->database = MyDatabaseId;
	entry->sequence = sequence;
	entry->filenumber = filenumber;
	entry->missed = 0;
	pg_atomic_write_u64(&entry->last_allocated, last);
	es_feed_raise(&entry->last_recorded, (uint64) Max(recorded, 0));
	pg_atomic_write_u64(&entry->head, 0);
	for (int b = 0; b < ES_FEED_CATEGORY_BITS; b++)
		pg_atomic_write_u64(&entry->category_head[b], 0);
	pg_atomic_write_u32(&entry->needs_leap, es_shmem_clean_start() ? 0 : 1);
	pg_atomic_write_u32(&entry->untouched, 1);
	pg_write_barrier();
	pg_atomic_write_u32(&entry->incarnation, shared()->next_incarnation++);
}

/*
 * The table is asked too: a sequence that somebody set back must not make positions below existing events look new.
 * *recorded: the newest moment that the store knows of; a clock set back while the server was down must not repeat it.
 */
static uint64
read_last_allocated(TimestampTz *recorded)
{
	uint64		in_table = highest_position_in_table(recorded);

	*recorded = Max(*recorded, newest_in_ledger());
	return Max(es_feed_read_sequence(), in_table);
}

static TimestampTz
newest_in_ledger(void)
{
	EsSpiState	state;
	TimestampTz newest;

	es_spi_begin(&state);
	es_spi_run(&newest_plan, NULL, NULL, true, 1);
	newest = es_spi_int64(0, 0);
	es_spi_end(&state);
	return newest;
}

/* the last row of the primary key, committed or in flight; a position that was rolled back is nobody's */
static uint64
highest_position_in_table(TimestampTz *recorded)
{
	Relation	rel = table_open(es_catalog()->event, AccessShareLock);
	Relation	index = index_open(es_catalog()->event_pkey, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	IndexScanDesc scan;
	uint64		highest = 0;
	bool		isnull;

	*recorded = 0;
	InitDirtySnapshot(dirty);
	scan = es_index_beginscan(rel, index, &dirty, 0);
	index_rescan(scan, NULL, 0, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		highest = DatumGetInt64(slot_getattr(slot, 1, &isnull));
		*recorded = DatumGetTimestampTz(slot_getattr(slot, 8, &isnull));
	}
	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return highest;
}
