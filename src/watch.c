/*
 * watch.c
 *		The processes of each database that are told of whatever makes work.
 *
 * These are the scheduler, which sends NOTIFY for those who asked for it (notifier.c), and the relay (relay.c).  Sessions that sleep in wait_for_work
 * are waiter.c's matter: of those as many are woken as there are messages, and this one always, in addition.
 *
 * Nothing is lost.  What is told stays in the slot until the watcher takes it, however long it does something else or rests:
 *
 *		watcher: takes what it was told (exchange, a full barrier); looks for work with a new snapshot
 *		who tells: the work can be seen; barrier; is its bit in the slot?  If not, puts it there and sets the latch
 *
 * Whoever finds his bit there was before the exchange, so that the look that follows shows his work.  So of a burst of commits one writes
 * and sets the latch, and the others read.
 *
 * Slots are taken and given back under the part's lock; who tells reads them without it, up to the highest that was ever taken.  At worst
 * he sets the latch of a process that took over the proc number, which every latch loop survives.  A crash makes the area anew: the
 * next scheduler looks at everything.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"

#include "compat.h"
#include "shmem.h"
#include "watch.h"

typedef struct WatchSlot
{
	pg_atomic_uint32 database;	/* InvalidOid: free; written last on attach, first on detach */
	int			procno;
	pg_atomic_uint64 wanted_ids;
	pg_atomic_uint64 wanted_categories;
	pg_atomic_uint64 ids;
	pg_atomic_uint64 looks;
	pg_atomic_uint64 categories;
} WatchSlot;

typedef struct WatchArea
{
	int			nslots;			/* immutable */
	pg_atomic_uint32 used;		/* slots that may be taken are before this one */
	WatchSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} WatchArea;

static WatchArea *area = NULL;
static LWLockPadded *locks = NULL;
#define SLOTS_LOCK (&locks[0].lock)

static WatchSlot *my_slot = NULL;
static bool ignore_own = false;

static Size area_size(void);
static void area_init(void *ptr);
static void attach(void);
static void detach(int code, Datum arg);
static WatchSlot *next_slot(int *i);
static bool add(pg_atomic_uint64 *word, uint64 bits);

static const EsShmemPart part = {
	.name = "watch",
	.size = area_size,
	.init = area_init,
	.area = (void **) &area,
	.nlocks = 1,
	.locks = &locks,
};

void
es_watch_init(void)
{
	es_shmem_register(&part);
}

uint64
es_watch_bit(int32 id)
{
	return UINT64CONST(1) << ((uint32) id % 64);
}

void
es_watch_ignore_own(void)
{
	ignore_own = true;
}

void
es_watch_want(uint64 ids, uint64 categories)
{
	if (my_slot == NULL && ids == 0)
		return;
	if (my_slot == NULL)
		attach();
	pg_atomic_write_u64(&my_slot->wanted_ids, ids);
	pg_atomic_write_u64(&my_slot->wanted_categories, categories);
	pg_memory_barrier();
}

EsWatch
es_watch_take(void)
{
	EsWatch		told = {0};

	if (my_slot == NULL)
		return told;
	told.ids = pg_atomic_exchange_u64(&my_slot->ids, 0);
	told.looks = pg_atomic_exchange_u64(&my_slot->looks, 0);
	told.categories = pg_atomic_exchange_u64(&my_slot->categories, 0);
	return told;
}

bool
es_watch_is_told(void)
{
	return my_slot != NULL && (pg_atomic_read_u64(&my_slot->ids) != 0 || pg_atomic_read_u64(&my_slot->looks) != 0 ||
							   pg_atomic_read_u64(&my_slot->categories) != 0);
}

void
es_watch_tell(int32 id, uint64 categories)
{
	WatchSlot  *slot;

	for (int i = 0; (slot = next_slot(&i)) != NULL;)
	{
		/* a negative id calls those who wait for what is settled, which is no work (subscription_settled.c) */
		uint64		ids = id <= 0 ? 0 : es_watch_bit(id) & pg_atomic_read_u64(&slot->wanted_ids);
		uint64		events = categories & pg_atomic_read_u64(&slot->wanted_categories);

		/* both, whatever comes of the first */
		bool		ids_are_new = add(&slot->ids, ids);
		bool		events_are_new = add(&slot->categories, events);

		if (ids_are_new || events_are_new)
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
	}
}

void
es_watch_tell_look(int32 id)
{
	WatchSlot  *slot;

	for (int i = 0; (slot = next_slot(&i)) != NULL;)
		if (add(&slot->looks, es_watch_bit(id) & pg_atomic_read_u64(&slot->wanted_ids)))
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
}

void
es_watch_rouse(void)
{
	WatchSlot  *slot;

	for (int i = 0; (slot = next_slot(&i)) != NULL;)
		if (slot != my_slot)
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
}

static Size
area_size(void)
{
	/* every watcher is a background worker, so there cannot be more */
	return add_size(offsetof(WatchArea, slots), mul_size(sizeof(WatchSlot), max_worker_processes));
}

static void
area_init(void *ptr)
{
	WatchArea  *a = ptr;

	a->nslots = max_worker_processes;
	pg_atomic_init_u32(&a->used, 0);
	for (int i = 0; i < a->nslots; i++)
	{
		WatchSlot  *slot = &a->slots[i];

		pg_atomic_init_u32(&slot->database, InvalidOid);
		pg_atomic_init_u64(&slot->wanted_ids, 0);
		pg_atomic_init_u64(&slot->wanted_categories, 0);
		pg_atomic_init_u64(&slot->ids, 0);
		pg_atomic_init_u64(&slot->looks, 0);
		pg_atomic_init_u64(&slot->categories, 0);
	}
}

static void
attach(void)
{
	LWLockAcquire(SLOTS_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < area->nslots && my_slot == NULL; i++)
	{
		WatchSlot  *slot = &area->slots[i];

		if (pg_atomic_read_u32(&slot->database) != InvalidOid)
			continue;
		slot->procno = es_my_procno();
		pg_atomic_write_u64(&slot->wanted_ids, 0);
		pg_atomic_write_u64(&slot->wanted_categories, 0);
		pg_write_barrier();
		pg_atomic_write_u32(&slot->database, MyDatabaseId);
		if (pg_atomic_read_u32(&area->used) < i + 1)
			pg_atomic_write_u32(&area->used, i + 1);
		my_slot = slot;
	}
	LWLockRelease(SLOTS_LOCK);
	if (my_slot == NULL)
		elog(ERROR, "more evtstore watchers than max_worker_processes");
	on_shmem_exit(detach, (Datum) 0);
}

static void
detach(int code, Datum arg)
{
	WatchSlot  *slot = my_slot;

	my_slot = NULL;
	LWLockAcquire(SLOTS_LOCK, LW_EXCLUSIVE);
	pg_atomic_write_u32(&slot->database, InvalidOid);
	LWLockRelease(SLOTS_LOCK);
}

/* the next one of this database from *i on; NULL: there is none */
static WatchSlot *
next_slot(int *i)
{
	int			used = OidIsValid(MyDatabaseId) ? pg_atomic_read_u32(&area->used) : 0;

	while (*i < used)
	{
		WatchSlot  *slot = &area->slots[(*i)++];

		if (pg_atomic_read_u32(&slot->database) == MyDatabaseId && !(ignore_own && slot == my_slot))
		{
			pg_read_barrier();
			return slot;
		}
	}
	return NULL;
}

/* false: they are there already, and not taken yet */
static bool
add(pg_atomic_uint64 *word, uint64 bits)
{
	if ((bits & ~pg_atomic_read_u64(word)) == 0)
		return false;
	return (bits & ~pg_atomic_fetch_or_u64(word, bits)) != 0;
}
