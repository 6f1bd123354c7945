/*
 * registry.c
 *		The worker registry in shared memory: slots and the life of a worker.
 *
 * Three tables under one LWLock (registry_area.h).
 *
 *		slots		one per worker of ours; there are max_worker_processes, which is the most the server can run
 *		databases	one per database that could have workers: what is known of it, when the next scheduler may start
 *		forbids		one per backend: the database in which that backend wants no worker right now
 *
 * Who writes what.  The launcher fills databases from pg_database and reserves slots for schedulers; a scheduler
 * reserves slots for the delivery workers of its database; a worker takes the slot that was reserved for it, writes
 * its own state there and frees it when it exits; backends write forbids and what they want looked at again.  The
 * lock is held for a walk over small arrays, never across I/O, waiting, or the start of a process.
 *
 * A slot is freed by an on_shmem_exit callback that is registered before the worker connects: the server runs such
 * callbacks in reverse order, so a free slot means that the worker has left the proc array, which is what those wait
 * for who want nobody connected.  A worker that is killed does not free it, but then the postmaster makes all of shared
 * memory anew.  A reservation whose process never came up is freed after RESERVATION_TIME; should the process come up
 * later still, it finds another generation in the slot and goes away without connecting.
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "registry.h"
#include "registry_area.h"
#include "shmem.h"

/* databases without the extension are remembered too, so that they are looked at once; room for them */
#define ABSENT_DATABASES 1000
/* a process that has not come up after this time never will */
#define RESERVATION_TIME (30 * USECS_PER_SEC)
/* how long there must be no worker slot to be worth a word, and how often to try until then and afterwards */
#define SHORTAGE_TIME (5 * USECS_PER_SEC)
#define RETRY_SOON (200 * 1000)
#define RETRY_LATER (5 * USECS_PER_SEC)

/* what is handed to a new process */
typedef struct StartMessage
{
	Oid database;
	uint32 generation;
} StartMessage;

StaticAssertDecl(sizeof(StartMessage) <= BGW_EXTRALEN, "a start message must fit into bgw_extra");

/* the launcher is registered by itself */
static const char *const main_functions[] = {
	[ES_WORKER_SCHEDULER] = "es_scheduler_main",
	[ES_WORKER_DELIVERY] = "es_worker_main",
	[ES_WORKER_REBUILD] = "es_rebuilder_main",
	[ES_WORKER_RELAY] = "es_relay_main",
};

EsRegistry *es_registry = NULL;
LWLockPadded *es_registry_locks = NULL;

static int my_slot = -1;

static Size registry_size(void);
static void registry_area_init(void *area);
static int reserve(EsWorkerKind kind, Oid database, uint32 *generation);
static void detach(int code, Datum arg);
static void wake_scheduler(Oid database);

static const EsShmemPart part = {
	.name = "registry",
	.size = registry_size,
	.init = registry_area_init,
	.area = (void **) &es_registry,
	.nlocks = 1,
	.locks = &es_registry_locks,
};

void
es_registry_init(void)
{
	es_shmem_register(&part);
}

const char *
es_registry_kind_name(EsWorkerKind kind)
{
	switch (kind)
	{
		case ES_WORKER_LAUNCHER:
			return "evtstore launcher";
		case ES_WORKER_SCHEDULER:
			return "evtstore scheduler";
		case ES_WORKER_DELIVERY:
			return "evtstore delivery worker";
		case ES_WORKER_REBUILD:
			return "evtstore rebuild worker";
		case ES_WORKER_RELAY:
			return "evtstore relay worker";
	}
	return "evtstore";
}

bool
es_registry_start(EsWorkerKind kind, Oid database)
{
	StartMessage message;
	BackgroundWorker worker;
	int			slot;
	bool		started;

	message.database = database;
	slot = reserve(kind, database, &message.generation);
	if (slot < 0)
		return false;

	MemSet(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	/* the registry decides about restarts: the server's own would outlive DROP DATABASE and double after a crash */
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "evtstore", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, main_functions[kind], BGW_MAXLEN);
	strlcpy(worker.bgw_type, es_registry_kind_name(kind), BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", es_registry_kind_name(kind), database);
	worker.bgw_main_arg = Int32GetDatum(slot);
	memcpy(worker.bgw_extra, &message, sizeof(message));
	worker.bgw_notify_pid = MyProcPid;
	started = RegisterDynamicBackgroundWorker(&worker, NULL);

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	if (started)
		es_registry->exhausted = 0;
	else
	{
		if (es_registry_slots()[slot].generation == message.generation)
			es_registry_slots()[slot].state = ES_STATE_FREE;
		if (es_registry->exhausted == 0)
			es_registry->exhausted = GetCurrentTimestamp();
	}
	LWLockRelease(ES_REGISTRY_LOCK);
	return started;
}

void
es_registry_expire(TimestampTz now)
{
	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state == ES_STATE_STARTING && slot->pid == 0 && now - slot->since > RESERVATION_TIME)
			slot->state = ES_STATE_FREE;
	}
	LWLockRelease(ES_REGISTRY_LOCK);
}

bool
es_registry_attach(EsWorkerKind kind, Oid *database)
{
	StartMessage message = {InvalidOid, 0};
	int			index;
	EsRegistrySlot *slot;
	bool		mine = true;

	if (kind == ES_WORKER_LAUNCHER)
	{
		index = reserve(kind, InvalidOid, &message.generation);
		if (index < 0)
			elog(ERROR, "no slot for the evtstore launcher");
	}
	else
	{
		index = DatumGetInt32(MyBgworkerEntry->bgw_main_arg);
		memcpy(&message, MyBgworkerEntry->bgw_extra, sizeof(message));
	}
	slot = &es_registry_slots()[index];

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	if (slot->state != ES_STATE_STARTING || slot->pid != 0 || slot->generation != message.generation)
		mine = false;
	else if (OidIsValid(message.database) && es_registry_is_forbidden(message.database))
	{
		slot->state = ES_STATE_FREE;
		mine = false;
	}
	else
	{
		EsRegistryDatabase *db = es_registry_find_database(message.database);

		slot->pid = MyProcPid;
		slot->procno = es_my_procno();
		slot->since = GetCurrentTimestamp();
		slot->look = OidIsValid(message.database) && db != NULL ? db->look : 0;
		if (kind == ES_WORKER_LAUNCHER)
			es_registry->launcher_procno = slot->procno;
		my_slot = index;
	}
	LWLockRelease(ES_REGISTRY_LOCK);

	if (mine)
		on_shmem_exit(detach, (Datum) 0);
	if (database != NULL)
		*database = message.database;
	return mine;
}

bool
es_registry_told_to_leave(void)
{
	return my_slot >= 0 && pg_atomic_read_u32(&es_registry_slots()[my_slot].leave) != 0;
}

void
es_registry_set_state(EsWorkerState state)
{
	if (es_registry_slots()[my_slot].state == state)
		return;
	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	es_registry_slots()[my_slot].state = state;
	LWLockRelease(ES_REGISTRY_LOCK);
}

int
es_registry_slot(void)
{
	return my_slot;
}

void
es_registry_count(int deliveries, int failures)
{
	EsRegistrySlot *slot = &es_registry_slots()[my_slot];

	if (deliveries > 0)
		pg_atomic_fetch_add_u64(&slot->deliveries, deliveries);
	if (failures > 0)
		pg_atomic_fetch_add_u64(&slot->failures, failures);
}

int
es_registry_missing_workers(EsWorkerKind kind, int wanted, TimestampTz *next)
{
	EsRegistryDatabase *db;
	int			have = 0;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state == ES_STATE_FREE || slot->kind != kind || slot->database != MyDatabaseId)
			continue;
		if (++have > wanted && pg_atomic_exchange_u32(&slot->leave, 1) == 0 && slot->pid != 0)
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
	}
	db = es_registry_find_database(MyDatabaseId);
	*next = db != NULL ? es_registry_pace(db, kind)->next_start : 0;
	LWLockRelease(ES_REGISTRY_LOCK);
	return Max(wanted - have, 0);
}

int
es_registry_workers(EsWorkerRow **rows)
{
	int			n = 0;

	*rows = palloc0(sizeof(EsWorkerRow) * es_registry->nslots);
	LWLockAcquire(ES_REGISTRY_LOCK, LW_SHARED);
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];
		EsWorkerRow *row = &(*rows)[n];

		if (slot->state == ES_STATE_FREE)
			continue;
		row->slot = i;
		row->kind = slot->kind;
		row->state = slot->state;
		row->leaving = pg_atomic_read_u32(&slot->leave) != 0;
		row->database = slot->database;
		row->pid = slot->pid;
		row->since = slot->since;
		row->deliveries = pg_atomic_read_u64(&slot->deliveries);
		row->failures = pg_atomic_read_u64(&slot->failures);
		n++;
	}
	LWLockRelease(ES_REGISTRY_LOCK);
	return n;
}

bool
es_registry_exhausted(void)
{
	TimestampTz since = es_registry->exhausted;

	return since != 0 && GetCurrentTimestamp() - since >= SHORTAGE_TIME;
}

TimestampTz
es_registry_retry_start(TimestampTz now)
{
	return now + (es_registry_exhausted() ? RETRY_LATER : RETRY_SOON);
}

bool
es_registry_wait_for_end(long ms)
{
	return ConditionVariableTimedSleep(&es_registry->gone, ms, PG_WAIT_EXTENSION);
}

bool
es_registry_stop_workers(Oid database)
{
	bool		any = false;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_SHARED);
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state == ES_STATE_FREE || slot->database != database || slot->pid == 0 || slot->pid == MyProcPid)
			continue;
		if (slot->kind == ES_WORKER_LAUNCHER)
			continue;
		any = true;
		/* the slot is freed before the process is gone, so the pid cannot be somebody else's */
		(void) kill(slot->pid, SIGTERM);
	}
	LWLockRelease(ES_REGISTRY_LOCK);
	return any;
}

/* ---- the area ---- */

EsRegistrySlot *
es_registry_slots(void)
{
	return (EsRegistrySlot *) ((char *) es_registry + MAXALIGN(sizeof(EsRegistry)));
}

EsRegistryDatabase *
es_registry_databases(void)
{
	Size		behind = MAXALIGN(sizeof(EsRegistrySlot) * es_registry->nslots);

	return (EsRegistryDatabase *) ((char *) es_registry_slots() + behind);
}

Oid *
es_registry_forbids(void)
{
	Size		behind = MAXALIGN(sizeof(EsRegistryDatabase) * es_registry->ndatabases);

	return (Oid *) ((char *) es_registry_databases() + behind);
}

void
es_registry_ask_to_leave(Oid database)
{
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state == ES_STATE_FREE || slot->database != database || slot->kind == ES_WORKER_LAUNCHER)
			continue;
		pg_atomic_write_u32(&slot->leave, 1);
		if (slot->pid != 0)
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
	}
}

void
es_registry_wake_launcher(void)
{
	if (es_registry->launcher_procno >= 0)
		SetLatch(&es_proc_by_number(es_registry->launcher_procno)->procLatch);
}

static Size
registry_size(void)
{
	Size		size = MAXALIGN(sizeof(EsRegistry));

	size = add_size(size, MAXALIGN(mul_size(sizeof(EsRegistrySlot), max_worker_processes)));
	size = add_size(size, MAXALIGN(mul_size(sizeof(EsRegistryDatabase), es_guc_max_databases + ABSENT_DATABASES)));
	/* only sessions and workers of ours run commands; their proc numbers are below MaxBackends */
	return add_size(size, MAXALIGN(mul_size(sizeof(Oid), MaxBackends)));
}

static void
registry_area_init(void *area)
{
	EsRegistry *r = area;

	r->nslots = max_worker_processes;
	r->ndatabases = es_guc_max_databases + ABSENT_DATABASES;
	r->nforbids = MaxBackends;
	r->launcher_procno = -1;
	r->rescan = true;
	ConditionVariableInit(&r->gone);
	for (int i = 0; i < r->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		pg_atomic_init_u32(&slot->leave, 0);
		pg_atomic_init_u64(&slot->deliveries, 0);
		pg_atomic_init_u64(&slot->failures, 0);
	}
}

/* Locks: none; takes the registry's */
static int
reserve(EsWorkerKind kind, Oid database, uint32 *generation)
{
	int			found = -1;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	/*
	 * Who is asked to leave starts nobody: all of its database were asked at that moment, under this lock, and a worker
	 * that came later would have been missed.
	 */
	for (int i = 0; i < es_registry->nslots && found < 0 && !es_registry_told_to_leave(); i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state != ES_STATE_FREE)
			continue;
		slot->state = ES_STATE_STARTING;
		slot->kind = kind;
		slot->database = database;
		slot->pid = 0;
		slot->since = GetCurrentTimestamp();
		*generation = ++slot->generation;
		pg_atomic_write_u32(&slot->leave, 0);
		pg_atomic_write_u64(&slot->deliveries, 0);
		pg_atomic_write_u64(&slot->failures, 0);
		found = i;
	}
	LWLockRelease(ES_REGISTRY_LOCK);
	return found;
}

/* on_shmem_exit: this process is out of the proc array already.  Locks: none; takes the registry's */
static void
detach(int code, Datum arg)
{
	EsRegistrySlot *slot = &es_registry_slots()[my_slot];
	EsRegistryDatabase *db;

	LWLockAcquire(ES_REGISTRY_LOCK, LW_EXCLUSIVE);
	db = OidIsValid(slot->database) ? es_registry_find_database(slot->database) : NULL;
	switch (slot->kind)
	{
		case ES_WORKER_LAUNCHER:
			es_registry->launcher_procno = -1;
			break;
		case ES_WORKER_SCHEDULER:
			if (db != NULL)
				es_registry_note_end(&db->scheduler, slot, code != 0);
			/* somebody wanted a look that this one did not take */
			if (db != NULL && code == 0 && db->look != slot->look)
				db->scheduler.next_start = 0;
			/* perhaps the database is gone */
			if (code != 0)
				es_registry->rescan = true;
			break;
		case ES_WORKER_DELIVERY:
		case ES_WORKER_REBUILD:
		case ES_WORKER_RELAY:
			if (db != NULL)
				es_registry_note_end(es_registry_pace(db, slot->kind), slot, code != 0);
			break;
	}
	slot->state = ES_STATE_FREE;
	slot->pid = 0;
	if (slot->kind == ES_WORKER_SCHEDULER)
		es_registry_wake_launcher();
	else if (slot->kind != ES_WORKER_LAUNCHER)
		wake_scheduler(slot->database);
	LWLockRelease(ES_REGISTRY_LOCK);

	ConditionVariableBroadcast(&es_registry->gone);
}

static void
wake_scheduler(Oid database)
{
	for (int i = 0; i < es_registry->nslots; i++)
	{
		EsRegistrySlot *slot = &es_registry_slots()[i];

		if (slot->state != ES_STATE_FREE && slot->kind == ES_WORKER_SCHEDULER && slot->database == database &&
			slot->pid != 0)
			SetLatch(&es_proc_by_number(slot->procno)->procLatch);
	}
}
