/*
 * wakeup.c
 *		From a commit to a sleeping worker through shared memory.
 *
 * Backends that make work call es_wakeup_at_commit; a callback that the server runs after the transaction left the proc
 * array (so the work is visible), sent its invalidations and gave its locks back sets the latches of as many idle delivery workers of the database.
 * NOTIFY would do the same under a lock that all commits of the cluster share.
 *
 * No wake-up is lost.  Worker and committer each write, pass a full barrier, then read what the other wrote:
 *
 *		worker: idle := 1; barrier; look for work (new snapshot); none: sleep on the latch
 *		committer: commit becomes visible; barrier; idle = 1?  then idle := 0, set the latch
 *
 * Either the committer sees idle = 1 and sets the latch, which a later sleep finds set, or the worker's look comes
 * after the commit became visible and finds the work.  The committer takes the flag with an exchange, so that a burst
 * of commits wakes different workers, and nobody pays for the latch of a worker that is awake already.
 *
 * Slots are taken and given back under the part's lock; committers read them without it.  At worst they set the latch
 * of a process that took over the proc number, which every latch loop survives.  A crash makes the area anew.  PREPARE
 * TRANSACTION forgets its request: the fallback poll (evtstore.poll_interval) finds what COMMIT PREPARED made visible.
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
#include "wakeup.h"

typedef struct WakeSlot
{
	pg_atomic_uint32 database; /* InvalidOid: free; written last on attach, first on detach */
	pg_atomic_uint32 idle;	   /* 1: sleeps or is about to; whoever turns it to 0 sets the latch */
	int procno;
	bool scheduler;
} WakeSlot;

typedef struct WakeArea
{
	int nslots; /* immutable */
	WakeSlot slots[FLEXIBLE_ARRAY_MEMBER];
} WakeArea;

static WakeArea *area = NULL;
static LWLockPadded *locks = NULL;

static WakeSlot *my_slot = NULL;

/* of the current transaction */
static int requested = 0;
static bool requested_look = false;

static Size area_size(void);
static void area_init(void *ptr);
static void attach(bool scheduler);
static void detach(int code, Datum arg);
static void wake(int messages, bool look);
static void at_transaction_end(XactEvent event, void *arg);
static void at_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg);

static const EsShmemPart part = {
	.name = "wakeup",
	.size = area_size,
	.init = area_init,
	.area = (void **) &area,
	.nlocks = 1,
	.locks = &locks,
};

void
es_wakeup_init(void)
{
	es_shmem_register(&part);
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterResourceReleaseCallback(at_release, NULL);
}

void
es_wakeup_at_commit(int messages)
{
	if (messages <= 0)
		requested_look = true;
	else
		requested = Min(requested, INT_MAX - messages) + messages;
}

void
es_wakeup_now(int messages)
{
	wake(messages, messages <= 0);
}

void
es_wakeup_attach(void)
{
	attach(false);
}

void
es_wakeup_attach_scheduler(void)
{
	attach(true);
}

void
es_wakeup_idle(void)
{
	pg_atomic_write_u32(&my_slot->idle, 1);
	pg_memory_barrier();
}

void
es_wakeup_busy(void)
{
	pg_atomic_write_u32(&my_slot->idle, 0);
}

bool
es_wakeup_is_idle(void)
{
	return pg_atomic_read_u32(&my_slot->idle) == 1;
}

static Size
area_size(void)
{
	/* every worker is a background worker, so there cannot be more */
	return add_size(offsetof(WakeArea, slots), mul_size(sizeof(WakeSlot), max_worker_processes));
}

static void
area_init(void *ptr)
{
	WakeArea   *a = ptr;

	a->nslots = max_worker_processes;
	for (int i = 0; i < a->nslots; i++)
	{
		pg_atomic_init_u32(&a->slots[i].database, InvalidOid);
		pg_atomic_init_u32(&a->slots[i].idle, 0);
	}
}

static void
attach(bool scheduler)
{
	Assert(my_slot == NULL && OidIsValid(MyDatabaseId));

	LWLockAcquire(&locks[0].lock, LW_EXCLUSIVE);
	for (int i = 0; i < area->nslots && my_slot == NULL; i++)
	{
		WakeSlot   *slot = &area->slots[i];

		if (pg_atomic_read_u32(&slot->database) != InvalidOid)
			continue;
		slot->procno = es_my_procno();
		slot->scheduler = scheduler;
		pg_atomic_write_u32(&slot->idle, 0);
		pg_write_barrier();
		pg_atomic_write_u32(&slot->database, MyDatabaseId);
		my_slot = slot;
	}
	LWLockRelease(&locks[0].lock);

	if (my_slot == NULL)
		elog(ERROR, "more evtstore workers than max_worker_processes");
	on_shmem_exit(detach, (Datum) 0);
}

/* whoever goes away may have been chosen for a wake-up a moment ago: pass it on */
static void
detach(int code, Datum arg)
{
	WakeSlot   *slot = my_slot;

	my_slot = NULL;
	LWLockAcquire(&locks[0].lock, LW_EXCLUSIVE);
	pg_atomic_write_u32(&slot->database, InvalidOid);
	LWLockRelease(&locks[0].lock);
	if (!slot->scheduler)
		wake(1, false);
}

/* must not raise errors: runs in the commit callback and on exit */
static void
wake(int messages, bool look)
{
	PGPROC	   *scheduler = NULL;
	int			workers = 0;

	if (!OidIsValid(MyDatabaseId))
		return;
	/* pairs with the barrier of es_wakeup_idle: the commit is visible before the flags are read */
	pg_memory_barrier();
	for (int i = 0; i < area->nslots; i++)
	{
		WakeSlot   *slot = &area->slots[i];

		if (pg_atomic_read_u32(&slot->database) != MyDatabaseId)
			continue;
		pg_read_barrier();
		if (slot->scheduler)
		{
			scheduler = es_proc_by_number(slot->procno);
			continue;
		}
		workers++;
		if (messages > 0 && pg_atomic_read_u32(&slot->idle) == 1 && pg_atomic_exchange_u32(&slot->idle, 0) == 1)
		{
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
			messages--;
		}
	}
	if (scheduler != NULL && (look || (messages > 0 && workers == 0)))
		SetLatch(&scheduler->procLatch);
}

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	requested = 0;
	requested_look = false;
}

/* after locks, and with them what this transaction made of definitions, were told to all: who is woken looks at those, too */
static void
at_release(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	int			messages = requested;
	bool		look = requested_look;

	if ((messages == 0 && !look) || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	requested = 0;
	requested_look = false;
	if (!is_commit)
		return;
	if (messages > 0)
		wake(messages, false);
	if (look)
		wake(0, true);
}
