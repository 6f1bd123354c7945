/*
 * condition_flight.c
 *		Append conditions without tags, and the types of the appends in flight.
 *
 * Runs in the appender's backend.  docs/architecture-conditions.md has the argument; the short form:
 *
 * A condition without tags (by type only, or everything) locks its types, counts itself in conditions_in_flight, and then
 * waits for every transaction in flight that announced one of its types.  An append announces its types in its backend's
 * slot, passes a barrier and looks at the count: where it is not zero, it takes the announcement back, and its caller locks
 * the types instead.
 *
 * Shared: one slot for each backend, written by it alone, and one counter.  Slots are emptied and the count is lowered
 * in the transaction's callbacks, when its events are visible or gone and its locks not yet released.  A process that
 * dies by FATAL does so in the abort of its transaction; one that is killed takes the whole shared memory with it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lmgr.h"
#include "storage/proc.h"

#include "compat.h"
#include "condition_flight.h"
#include "shmem.h"

/* a transaction that announces more types than this announces all */
#define MAX_ANNOUNCED 12

/* every_type of a slot */
#define NONE 0
#define TENTATIVE 1
#define CONFIRMED 2

/* what one backend's transaction announced */
typedef struct Slot
{
	/* entries to look at; those from confirmed on may be taken back in a moment */
	pg_atomic_uint32 announced;
	pg_atomic_uint32 confirmed;
	/* changes with the transaction, and when something is taken back: what is below was written for this one */
	pg_atomic_uint32 transaction;
	pg_atomic_uint32 every_type;	/* CONFIRMED: more than fit */
	Oid			database;
	VirtualTransactionId vxid;
	EsConditionKind kinds[MAX_ANNOUNCED];
	char		pad[PG_CACHE_LINE_SIZE];
} Slot;

typedef struct FlightShared
{
	pg_atomic_uint32 conditions_in_flight;	/* without tags, of all databases */
	pg_atomic_uint32 slots_used;	/* no backend above this number ever announced */
	int			nslots;			/* immutable */
	char		pad[PG_CACHE_LINE_SIZE];
	Slot		slots[FLEXIBLE_ARRAY_MEMBER];
} FlightShared;

static void *flight_area = NULL;

/* of this transaction: nesting level of each announced type, level at which it counts in conditions_in_flight */
static int	announced_level[MAX_ANNOUNCED];
static int	every_type_level = 0;
static int	counted_level = 0;

static Size flight_size(void);
static void flight_init(void *area);
static FlightShared *shared(void);
static Slot *my_slot(void);
static bool is_announced(Slot *slot, EsConditionKind kind);
static void announce(Slot *slot, EsConditionKind kind);
static void begin_slot(Slot *slot);
static void count_condition(void);
static bool find_conflict(Slot *slot, const EsConditionKinds *forbidden, VirtualTransactionId *vxid);
static bool concerns(const EsConditionKinds *forbidden, EsConditionKind kind);
static void forget_from(int level);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

void
es_condition_flight_init(void)
{
	static const EsShmemPart part = {
		.name = "conditions",
		.size = flight_size,
		.init = flight_init,
		.area = &flight_area,
	};

	es_shmem_register(&part);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/*
 * The announcement is up before the count is read; a condition is counted before it reads announcements.  So at least one
 * of the two sees the other.  Nothing between announcing and confirming can wait or fail: a condition that meets what is
 * not confirmed looks again.
 */
bool
es_condition_try_announce(const char *tenant, const EsEvent *events, int n)
{
	Slot	   *slot = my_slot();
	uint32		confirmed = pg_atomic_read_u32(&slot->confirmed);
	uint32		every_type = pg_atomic_read_u32(&slot->every_type);

	for (int i = 0; i < n; i++)
	{
		EsConditionKind kind = es_condition_event_kind(tenant, &events[i]);

		if (!is_announced(slot, kind))
			announce(slot, kind);
	}
	if (pg_atomic_read_u32(&slot->announced) == confirmed && pg_atomic_read_u32(&slot->every_type) == every_type)
		return true;
	pg_memory_barrier();
	if (pg_atomic_read_u32(&shared()->conditions_in_flight) == 0)
	{
		pg_atomic_write_u32(&slot->confirmed, pg_atomic_read_u32(&slot->announced));
		if (pg_atomic_read_u32(&slot->every_type) == TENTATIVE)
			pg_atomic_write_u32(&slot->every_type, CONFIRMED);
		return true;
	}

	pg_atomic_write_u32(&slot->announced, confirmed);
	pg_atomic_write_u32(&slot->every_type, every_type);
	return false;
}

/*
 * Whoever comes later takes locks that exclude ours.  Waiting for a transaction is waiting for its lock, so that the server
 * finds deadlocks; its slot is empty before the lock is released.
 */
void
es_condition_wait_for_announced(const EsConditionKinds *forbidden)
{
	uint32		used;

	count_condition();
	used = pg_atomic_read_u32(&shared()->slots_used);
	for (uint32 i = 0; i < used; i++)
	{
		VirtualTransactionId vxid;

		while (i != es_my_procno() && find_conflict(&shared()->slots[i], forbidden, &vxid))
			(void) VirtualXactLock(vxid, true);
	}
}

EsConditionKind
es_condition_kind(const char *tenant, const char *type, int len)
{
	uint64		tenant_hash = es_stream_hash(tenant, "", 0);

	return (EsConditionKind) {(uint32) (tenant_hash >> 32), (uint32) (es_hash_continue(tenant_hash, type, len) >> 32)};
}

EsConditionKind
es_condition_event_kind(const char *tenant, const EsEvent *event)
{
	struct varlena *type = (struct varlena *) DatumGetPointer(event->type);

	return es_condition_kind(tenant, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
}

uint64
es_condition_kind_hash(EsConditionKind kind)
{
	return (uint64) kind.tenant << 32 | kind.type;
}

static Size
flight_size(void)
{
	return add_size(offsetof(FlightShared, slots), mul_size(MaxBackends + NUM_AUXILIARY_PROCS, sizeof(Slot)));
}

static void
flight_init(void *area)
{
	FlightShared *flight = area;

	pg_atomic_init_u32(&flight->conditions_in_flight, 0);
	pg_atomic_init_u32(&flight->slots_used, 0);
	flight->nslots = MaxBackends + NUM_AUXILIARY_PROCS;
	for (int i = 0; i < flight->nslots; i++)
	{
		Slot	   *slot = &flight->slots[i];

		pg_atomic_init_u32(&slot->announced, 0);
		pg_atomic_init_u32(&slot->confirmed, 0);
		pg_atomic_init_u32(&slot->transaction, 0);
		pg_atomic_init_u32(&slot->every_type, NONE);
	}
}

static FlightShared *
shared(void)
{
	return (FlightShared *) flight_area;
}

static Slot *
my_slot(void)
{
	return &shared()->slots[es_my_procno()];
}

static bool
is_announced(Slot *slot, EsConditionKind kind)
{
	uint32		n = pg_atomic_read_u32(&slot->announced);

	if (pg_atomic_read_u32(&slot->every_type) != NONE)
		return true;
	for (uint32 i = 0; i < n; i++)
		if (slot->kinds[i].tenant == kind.tenant && slot->kinds[i].type == kind.type)
			return true;
	return false;
}

static void
announce(Slot *slot, EsConditionKind kind)
{
	uint32		n = pg_atomic_read_u32(&slot->announced);

	if (n == 0)
		begin_slot(slot);
	if (n == MAX_ANNOUNCED)
	{
		every_type_level = GetCurrentTransactionNestLevel();
		pg_atomic_write_u32(&slot->every_type, TENTATIVE);
		return;
	}
	slot->kinds[n] = kind;
	announced_level[n] = GetCurrentTransactionNestLevel();
	pg_write_barrier();
	pg_atomic_write_u32(&slot->announced, n + 1);
}

/* the number of the transaction is written before what is about it: see find_conflict */
static void
begin_slot(Slot *slot)
{
	static bool registered = false;

	if (!registered)
	{
		uint32		used = pg_atomic_read_u32(&shared()->slots_used);
		uint32		mine = es_my_procno() + 1;

		while (used < mine && !pg_atomic_compare_exchange_u32(&shared()->slots_used, &used, mine))
			;
		registered = true;
	}
	pg_atomic_write_u32(&slot->transaction, pg_atomic_read_u32(&slot->transaction) + 1);
	pg_write_barrier();
	slot->database = MyDatabaseId;
	GET_VXID_FROM_PGPROC(slot->vxid, *MyProc);
	pg_write_barrier();
}

/* an atomic addition is a full barrier: see es_condition_try_announce */
static void
count_condition(void)
{
	if (counted_level > 0)
		return;
	counted_level = GetCurrentTransactionNestLevel();
	pg_atomic_fetch_add_u32(&shared()->conditions_in_flight, 1);
}

/* does that backend's transaction, in flight, have events that this condition forbids? */
static bool
find_conflict(Slot *slot, const EsConditionKinds *forbidden, VirtualTransactionId *vxid)
{
	for (;;)
	{
		uint32		transaction = pg_atomic_read_u32(&slot->transaction);
		uint32		announced;
		uint32		confirmed;
		uint32		every_type;
		bool		found = false;
		bool		unsure = false;

		CHECK_FOR_INTERRUPTS();
		pg_read_barrier();
		announced = pg_atomic_read_u32(&slot->announced);
		pg_read_barrier();
		every_type = pg_atomic_read_u32(&slot->every_type);
		confirmed = pg_atomic_read_u32(&slot->confirmed);
		pg_read_barrier();
		for (uint32 i = 0; i < announced; i++)
			if (concerns(forbidden, slot->kinds[i]))
			{
				found |= i < confirmed;
				unsure |= i >= confirmed;
			}
		found |= every_type == CONFIRMED;
		unsure |= every_type == TENTATIVE;
		found &= slot->database == MyDatabaseId;
		unsure &= slot->database == MyDatabaseId;
		*vxid = slot->vxid;
		pg_read_barrier();
		if (pg_atomic_read_u32(&slot->transaction) != transaction)
			continue;
		if (found || !unsure)
			return found;
		/* it confirms or takes back within a few instructions, unless it was preempted */
		pg_usleep(10);
	}
}

static bool
concerns(const EsConditionKinds *forbidden, EsConditionKind kind)
{
	for (int i = 0; i < forbidden->nkinds; i++)
		if (forbidden->kinds[i].tenant == kind.tenant && (forbidden->every_type || forbidden->kinds[i].type == kind.type))
			return true;
	return false;
}

/* ---- the end of transactions and savepoints ---- */

/* what the savepoints of this level and above did is gone */
static void
forget_from(int level)
{
	Slot	   *slot = my_slot();
	uint32		n = pg_atomic_read_u32(&slot->confirmed);

	while (n > 0 && announced_level[n - 1] >= level)
		n--;
	/* what is dropped may be written over: who reads meanwhile shall begin anew */
	if (n < pg_atomic_read_u32(&slot->confirmed))
		pg_atomic_write_u32(&slot->transaction, pg_atomic_read_u32(&slot->transaction) + 1);
	pg_memory_barrier();
	pg_atomic_write_u32(&slot->announced, n);
	pg_atomic_write_u32(&slot->confirmed, n);
	if (every_type_level >= level)
	{
		every_type_level = 0;
		pg_atomic_write_u32(&slot->every_type, NONE);
	}
	if (counted_level >= level)
	{
		counted_level = 0;
		pg_atomic_fetch_sub_u32(&shared()->conditions_in_flight, 1);
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:
			if (counted_level > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has an append condition without tags"),
						 errdetail("Appends look for such conditions of transactions in flight only."),
						 errhint("Commit it in one phase.")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			if (counted_level > 0 || pg_atomic_read_u32(&my_slot()->announced) > 0)
				forget_from(1);
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_from(level);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (uint32 i = 0; i < pg_atomic_read_u32(&my_slot()->confirmed); i++)
			announced_level[i] = Min(announced_level[i], level - 1);
		every_type_level = Min(every_type_level, level - 1);
		counted_level = Min(counted_level, level - 1);
	}
}
