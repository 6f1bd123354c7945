/*
 * waiter.c
 *		Sessions that sleep until there is work, and who wakes them.
 *
 * Runs in consumers' backends, which sleep in wait_for_work (wait.c), and in every process that makes work: the callbacks at the
 * end of its transaction wake, after the work became visible, and where it is one of definitions after caches were told.  Nobody who sleeps costs anybody anything but the look at one
 * counter; NOTIFY would cost a lock that all commits of the cluster share.
 *
 * No wake-up is lost.  Waiter and waker each write, pass a full barrier, then read what the other wrote:
 *
 *		waiter: idle := 1; barrier; look for work (new snapshot, or the LWLock of the queue); none: sleep on the latch
 *		waker:  the work can be seen; barrier; idle = 1 and it waits for this?  then idle := 0, set the latch
 *
 * A waker takes the flag with an exchange, so that a burst of messages wakes different sessions and not one again and
 * again.  A session that was chosen since its last look and goes away chooses another.  One whose client was told and never comes
 * to receive leaves the message to the others: they look by themselves every evtstore.poll_interval.
 *
 * Slots are taken and given back under the part's lock; wakers read them without it, up to the highest that is taken.  At worst
 * they set the latch of a process that took over the proc number, which every latch loop survives.  A backend that is killed takes
 * the whole area with it; one that exits gives its slot back on the way.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/resowner.h"

#include "compat.h"
#include "shmem.h"
#include "waiter.h"
#include "watch.h"

typedef struct WaiterSlot
{
	pg_atomic_uint32 database;	/* InvalidOid: free; written last on begin, first on end */
	pg_atomic_uint32 idle;		/* 1: sleeps or is about to; whoever turns it to 0 sets the latch */
	pg_atomic_uint64 categories;
	pg_atomic_uint32 ids[ES_WAITER_MAX_NAMES];	/* 0: none */
	int			procno;
} WaiterSlot;

typedef struct WaiterArea
{
	int			nslots;			/* immutable */
	pg_atomic_uint32 used;		/* slots that may be taken are before this one */
	WaiterSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} WaiterArea;

static WaiterArea *area = NULL;
static LWLockPadded *locks = NULL;
#define SLOTS_LOCK (&locks[0].lock)

static WaiterSlot *my_slot = NULL;

/* of this transaction; what does not fit is found by who looks by himself */
static struct
{
	int32		id;
	int			n;
}			wake_at_commit[ES_WAITER_MAX_NAMES];
static int	nwake_at_commit = 0;
static uint64 more_at_commit = 0;	/* bits of watch.c: of those that found no room there */
static bool is_committed = false;	/* that transaction, a moment ago */

static Size area_size(void);
static void area_init(void *ptr);
static void choose(int32 id, uint64 categories, int n);
static bool waits_for(WaiterSlot *slot, int32 id, uint64 categories);
static void xact_callback(XactEvent event, void *arg);
static void release_callback(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg);

static const EsShmemPart part = {
	.name = "waiters",
	.size = area_size,
	.init = area_init,
	.area = (void **) &area,
	.nlocks = 1,
	.locks = &locks,
};

void
es_waiter_init(void)
{
	es_shmem_register(&part);
	RegisterXactCallback(xact_callback, NULL);
	RegisterResourceReleaseCallback(release_callback, NULL);
}

void
es_waiter_begin(const EsWaitFor *wait_for)
{
	int			i = 0;

	Assert(my_slot == NULL);
	LWLockAcquire(SLOTS_LOCK, LW_EXCLUSIVE);
	/* there are as many as there can be processes */
	while (i < area->nslots && pg_atomic_read_u32(&area->slots[i].database) != InvalidOid)
		i++;
	if (i < area->nslots)
	{
		my_slot = &area->slots[i];
		my_slot->procno = es_my_procno();
		pg_atomic_write_u64(&my_slot->categories, wait_for->categories);
		for (int k = 0; k < ES_WAITER_MAX_NAMES; k++)
			pg_atomic_write_u32(&my_slot->ids[k], k < wait_for->n ? wait_for->ids[k] : 0);
		pg_atomic_write_u32(&my_slot->idle, 1);
		pg_write_barrier();
		pg_atomic_write_u32(&my_slot->database, MyDatabaseId);
		if (pg_atomic_read_u32(&area->used) < i + 1)
			pg_atomic_write_u32(&area->used, i + 1);
	}
	LWLockRelease(SLOTS_LOCK);
	if (my_slot == NULL)
		elog(ERROR, "more evtstore waiters than processes");
	pg_memory_barrier();
}

bool
es_waiter_sleep(long timeout_ms)
{
	static uint32 wait_event = 0;
	bool		was_woken;

	if (wait_event == 0)
		wait_event = es_wait_event("EvtstoreWork");
	if (pg_atomic_read_u32(&my_slot->idle) == 1)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms, wait_event);
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
	/* before the next look for work */
	was_woken = pg_atomic_exchange_u32(&my_slot->idle, 1) == 0;
	pg_memory_barrier();
	return was_woken;
}

bool
es_waiter_is_chosen(void)
{
	return my_slot != NULL && pg_atomic_read_u32(&my_slot->idle) == 0;
}

/* who was chosen since his last look passes it on, also where that look found something else */
void
es_waiter_end(void)
{
	WaiterSlot *slot = my_slot;
	bool		chosen;
	int32		ids[ES_WAITER_MAX_NAMES];

	if (slot == NULL)
		return;
	my_slot = NULL;
	for (int k = 0; k < ES_WAITER_MAX_NAMES; k++)
		ids[k] = pg_atomic_read_u32(&slot->ids[k]);
	LWLockAcquire(SLOTS_LOCK, LW_EXCLUSIVE);
	chosen = pg_atomic_exchange_u32(&slot->idle, 0) == 0;
	pg_atomic_write_u32(&slot->database, InvalidOid);
	if (pg_atomic_read_u32(&area->used) == (uint32) (slot - area->slots) + 1)
		pg_atomic_write_u32(&area->used, slot - area->slots);
	LWLockRelease(SLOTS_LOCK);
	pg_memory_barrier();
	for (int k = 0; k < ES_WAITER_MAX_NAMES && chosen; k++)
		if (ids[k] != 0)
			choose(ids[k], 0, 1);
}

void
es_waiter_wake(int32 id, int n)
{
	pg_memory_barrier();
	es_watch_tell_look(id);
	choose(id, 0, n);
}

void
es_waiter_wake_categories(uint64 categories)
{
	pg_memory_barrier();
	es_watch_tell(0, categories);
	choose(0, categories, INT_MAX);
}

void
es_waiter_wake_at_commit(int32 id, int n)
{
	int			i = 0;

	while (i < nwake_at_commit && wake_at_commit[i].id != id)
		i++;
	if (i == ES_WAITER_MAX_NAMES)
	{
		more_at_commit |= es_watch_bit(id);
		return;
	}
	if (i == nwake_at_commit)
	{
		wake_at_commit[i].id = id;
		wake_at_commit[i].n = 0;
		nwake_at_commit++;
	}
	wake_at_commit[i].n = n > INT_MAX - wake_at_commit[i].n ? INT_MAX : wake_at_commit[i].n + n;
}

static Size
area_size(void)
{
	return add_size(offsetof(WaiterArea, slots), mul_size(sizeof(WaiterSlot), MaxBackends));
}

static void
area_init(void *ptr)
{
	WaiterArea *a = ptr;

	a->nslots = MaxBackends;
	pg_atomic_init_u32(&a->used, 0);
	for (int i = 0; i < a->nslots; i++)
	{
		pg_atomic_init_u32(&a->slots[i].database, InvalidOid);
		pg_atomic_init_u32(&a->slots[i].idle, 0);
		pg_atomic_init_u64(&a->slots[i].categories, 0);
		for (int k = 0; k < ES_WAITER_MAX_NAMES; k++)
			pg_atomic_init_u32(&a->slots[i].ids[k], 0);
	}
}

/* after a barrier, which pairs with those of the waiter: the work is visible before the flags are read */
static void
choose(int32 id, uint64 categories, int n)
{
	int			used = pg_atomic_read_u32(&area->used);

	for (int i = 0; i < used && n > 0; i++)
	{
		WaiterSlot *slot = &area->slots[i];

		if (pg_atomic_read_u32(&slot->idle) != 1 || pg_atomic_read_u32(&slot->database) != MyDatabaseId)
			continue;
		pg_read_barrier();
		if (waits_for(slot, id, categories) && pg_atomic_exchange_u32(&slot->idle, 0) == 1)
		{
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
			n--;
		}
	}
}

static bool
waits_for(WaiterSlot *slot, int32 id, uint64 categories)
{
	uint32		known;

	if ((pg_atomic_read_u64(&slot->categories) & categories) != 0)
		return true;
	for (int k = 0; id != 0 && k < ES_WAITER_MAX_NAMES && (known = pg_atomic_read_u32(&slot->ids[k])) != 0; k++)
		if (known == (uint32) id)
			return true;
	return false;
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		return;
	is_committed = event == XACT_EVENT_COMMIT;
	if (is_committed)
		return;
	nwake_at_commit = 0;
	more_at_commit = 0;
}

/*
 * Not in the callback of the commit: caches of others are told after it, and who is woken before that looks at a definition as it was,
 * and sleeps again.  By now the locks are given back too, so that he can have what he was woken for.
 */
static void
release_callback(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	int			n = nwake_at_commit;

	if (n == 0 || !is_committed || !is_top_level || phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;
	nwake_at_commit = 0;
	pg_memory_barrier();
	for (int i = 0; i < n; i++)
	{
		es_watch_tell(wake_at_commit[i].id, 0);
		choose(wake_at_commit[i].id, 0, wake_at_commit[i].n);
	}
	/* any id with that bit will do */
	for (int32 id = 64; id < 128 && more_at_commit != 0; id++)
		if ((more_at_commit & es_watch_bit(id)) != 0)
			es_watch_tell(id, 0);
	more_at_commit = 0;
}
