/*
 * condition.c
 *		Append conditions: no event that matches a query may exist, and none may come before the append commits.
 *
 * Runs in the appender's backend.  docs/architecture.md has the argument; the short form:
 *
 * Conditions with tags.  A matching event carries every tag of the item.  So a writer of an event locks each of its tags,
 * alone and with its type, in a mode that writers share (RowExclusive); a condition locks one tag of each item, the first, with
 * each type of the item or alone, in a mode that conditions share (Share).  The two modes exclude each other; who does both
 * takes the mode that excludes all (ShareRowExclusive).  All keys of a call are taken in one order.
 *
 * Conditions without tags (by type only, or everything) could match the events of any append, and ordinary appends shall
 * not take a lock for them.  Such a condition locks its types, counts itself in conditions_in_flight, and then waits for
 * every transaction in flight that announced one of its types.  An append announces its types in its backend's slot, passes
 * a barrier and looks at the count: where it is not zero, it takes the announcement back and locks its types instead.
 *
 * Big batches lock every tag of the tenant at once (ES_LOCK_ALL_TAGS), which conditions with tags share, and where need be
 * every type (ES_LOCK_ALL_TYPES), which those without share.
 *
 * Shared: one slot for each backend, written by it alone, and one counter.  Slots are emptied and the count is lowered
 * in the transaction's callbacks, when its events are visible or gone and its locks not yet released.  A process that
 * dies by FATAL does so in the abort of its transaction; one that is killed takes the whole shared memory with it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "condition.h"
#include "error.h"
#include "event.h"
#include "feed.h"
#include "lock.h"
#include "search.h"
#include "shmem.h"
#include "table.h"
#include "tag.h"

/* a transaction that announces more types than this announces all */
#define MAX_ANNOUNCED 12

/* tags that one transaction locks one by one; more: all of them at once */
#define MAX_TAG_LOCKS 256

/* every_type of a slot */
#define NONE 0
#define TENTATIVE 1
#define CONFIRMED 2

#define WRITES RowExclusiveLock
#define FORBIDS ShareLock
#define WRITES_AND_FORBIDS ShareRowExclusiveLock

/* a type of a tenant, by hash */
typedef struct Kind
{
	uint32		tenant;
	uint32		type;
} Kind;

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
	Kind		kinds[MAX_ANNOUNCED];
	char		pad[PG_CACHE_LINE_SIZE];
} Slot;

typedef struct ConditionShared
{
	pg_atomic_uint32 conditions_in_flight;	/* without tags, of all databases */
	pg_atomic_uint32 slots_used;	/* no backend above this number ever announced */
	int			nslots;			/* immutable */
	char		pad[PG_CACHE_LINE_SIZE];
	Slot		slots[FLEXIBLE_ARRAY_MEMBER];
} ConditionShared;

/* what to lock, and how */
typedef struct Key
{
	EsLockSpace space;
	uint64		hash;
	LOCKMODE	mode;
} Key;

typedef struct KeyList
{
	Key		   *keys;
	int			n;
	int			size;
} KeyList;

/* a condition as far as it has no tags: which types no event may have */
typedef struct Broad
{
	bool		any;
	bool		every_type;
	Kind	   *kinds;
	int			nkinds;
} Broad;

static void *condition_area = NULL;

/* of this transaction: nesting level of each announced type, tags locked, level at which it counts in conditions_in_flight */
static int	announced_level[MAX_ANNOUNCED];
static int	every_type_level = 0;
static int	tags_locked = 0;
static int	tags_forbidden = 0;		/* of these, by conditions */
static int	counted_level = 0;

static Size condition_size(void);
static void condition_init(void *area);
static ConditionShared *shared(void);
static Slot *my_slot(void);
static void add_key(KeyList *list, EsLockSpace space, uint64 hash, LOCKMODE mode);
static void add_written_tags(KeyList *list, const EsEvent *events, int n);
static void add_written_types(KeyList *list, const char *tenant, const EsEvent *events, int n);
static void add_condition(KeyList *list, Broad *broad, const char *tenant, const EsQuery *query);
static void add_item(KeyList *list, Broad *broad, const char *tenant, const EsQueryItem *item);
static void merge_keys(KeyList *list);
static void escalate(KeyList *list, const char *tenant);
static void take_locks(const KeyList *list);
static int	compare_keys(const void *a, const void *b);
static Kind kind_of(const char *tenant, const char *type, int len);
static Kind event_kind(const char *tenant, const EsEvent *event);
static uint64 kind_hash(Kind kind);
static bool is_announced(Slot *slot, Kind kind);
static void announce(Slot *slot, Kind kind);
static void begin_slot(Slot *slot);
static void count_condition(void);
static void wait_for_announced(const Broad *broad);
static bool find_conflict(Slot *slot, const Broad *broad, VirtualTransactionId *vxid);
static bool concerns(const Broad *broad, Kind kind);
static void refuse_match(TupleTableSlot *event) es_noreturn;
static void forget_from(int level);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

void
es_condition_init(void)
{
	static const EsShmemPart part = {
		.name = "conditions",
		.size = condition_size,
		.init = condition_init,
		.area = &condition_area,
	};

	es_shmem_register(&part);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

bool
es_condition_lock(const char *tenant, const EsEvent *events, int n, const EsQuery *query)
{
	KeyList		list = {0};
	Broad		broad = {0};

	add_written_tags(&list, events, n);
	if (query != NULL)
		add_condition(&list, &broad, tenant, query);
	if (list.n == 0)
		return false;
	merge_keys(&list);
	if (tags_locked + list.n > MAX_TAG_LOCKS)
		escalate(&list, tenant);
	if (broad.any)
	{
		add_written_types(&list, tenant, events, n);
		add_key(&list, ES_LOCK_ALL_TYPES, kind_hash(kind_of(tenant, "", 0)), FORBIDS);
	}
	merge_keys(&list);
	take_locks(&list);
	pfree(list.keys);
	if (broad.any)
	{
		count_condition();
		wait_for_announced(&broad);
	}
	return broad.any;
}

/*
 * Under the locks no other transaction has a matching event in flight, so what is committed now, and what is our own, is
 * all there is, whatever snapshot the transaction has.
 */
void
es_condition_check(const char *tenant, const EsQuery *query, int64 after)
{
	EsSearch   *search = es_search_open(query, tenant, after + 1, PG_INT64_MAX, false, SnapshotSelf);
	TupleTableSlot *slot = es_table_scan_slot(es_table_open(ES_TABLE_EVENT, es_catalog()->event));

	if (es_search_next(search, slot))
	{
		/* who is told of an event may rely on it, also if it was committed asynchronously: as after a read */
		es_feed_begin_stream_read();
		es_feed_end_read();
		refuse_match(slot);
	}
	ExecClearTuple(slot);
	es_search_close(search);
}

/*
 * The announcement is up before the count is read; a condition is counted before it reads announcements.  So at least one
 * of the two sees the other.  Nothing between announcing and confirming can wait or fail: a condition that meets what is
 * not confirmed looks again.
 */
void
es_condition_announce(const char *tenant, const EsEvent *events, int n)
{
	Slot	   *slot = my_slot();
	uint32		confirmed = pg_atomic_read_u32(&slot->confirmed);
	uint32		every_type = pg_atomic_read_u32(&slot->every_type);
	KeyList		list = {0};

	for (int i = 0; i < n; i++)
	{
		Kind		kind = event_kind(tenant, &events[i]);

		if (!is_announced(slot, kind))
			announce(slot, kind);
	}
	if (pg_atomic_read_u32(&slot->announced) == confirmed && pg_atomic_read_u32(&slot->every_type) == every_type)
		return;
	pg_memory_barrier();
	if (pg_atomic_read_u32(&shared()->conditions_in_flight) == 0)
	{
		pg_atomic_write_u32(&slot->confirmed, pg_atomic_read_u32(&slot->announced));
		if (pg_atomic_read_u32(&slot->every_type) == TENTATIVE)
			pg_atomic_write_u32(&slot->every_type, CONFIRMED);
		return;
	}

	pg_atomic_write_u32(&slot->announced, confirmed);
	pg_atomic_write_u32(&slot->every_type, every_type);
	add_written_types(&list, tenant, events, n);
	merge_keys(&list);
	take_locks(&list);
	pfree(list.keys);
}

static Size
condition_size(void)
{
	return add_size(offsetof(ConditionShared, slots), mul_size(MaxBackends + NUM_AUXILIARY_PROCS, sizeof(Slot)));
}

static void
condition_init(void *area)
{
	ConditionShared *conditions = area;

	pg_atomic_init_u32(&conditions->conditions_in_flight, 0);
	pg_atomic_init_u32(&conditions->slots_used, 0);
	conditions->nslots = MaxBackends + NUM_AUXILIARY_PROCS;
	for (int i = 0; i < conditions->nslots; i++)
	{
		Slot	   *slot = &conditions->slots[i];

		pg_atomic_init_u32(&slot->announced, 0);
		pg_atomic_init_u32(&slot->confirmed, 0);
		pg_atomic_init_u32(&slot->transaction, 0);
		pg_atomic_init_u32(&slot->every_type, NONE);
	}
}

static ConditionShared *
shared(void)
{
	return (ConditionShared *) condition_area;
}

static Slot *
my_slot(void)
{
	return &shared()->slots[es_my_procno()];
}

/* ---- what to lock ---- */

static void
add_key(KeyList *list, EsLockSpace space, uint64 hash, LOCKMODE mode)
{
	if (list->n == list->size)
	{
		list->size = Max(list->size * 2, 16);
		list->keys = list->keys == NULL ? palloc(list->size * sizeof(Key)) :
			repalloc_huge(list->keys, list->size * sizeof(Key));
	}
	list->keys[list->n++] = (Key) {space, hash, mode};
}

static void
add_written_tags(KeyList *list, const EsEvent *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		struct varlena *type = (struct varlena *) DatumGetPointer(events[i].type);

		for (int t = 0; t < events[i].ntags; t++)
		{
			uint64		tag = events[i].tag_hashes[t];

			add_key(list, ES_LOCK_TAG, tag, WRITES);
			add_key(list, ES_LOCK_TAG, es_tag_pair_hash(tag, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)), WRITES);
		}
		/* an import of very many events: what repeats is thrown out now and then */
		if (list->n >= 4096 && list->n == list->size)
			merge_keys(list);
	}
}

/*
 * And that there is an event at all, for conditions on everything.  Very many types are locked as one, which conditions
 * without tags share.
 */
static void
add_written_types(KeyList *list, const char *tenant, const EsEvent *events, int n)
{
	KeyList		types = {0};
	Kind		previous = {0};

	for (int i = 0; i < n; i++)
	{
		Kind		kind = event_kind(tenant, &events[i]);

		if (i > 0 && kind.type == previous.type)
			continue;
		previous = kind;
		add_key(&types, ES_LOCK_TYPE, kind_hash(kind), WRITES);
	}
	if (n == 0)
		return;
	merge_keys(&types);
	if (types.n > MAX_TAG_LOCKS)
		add_key(list, ES_LOCK_ALL_TYPES, kind_hash(kind_of(tenant, "", 0)), WRITES);
	else
		for (int i = 0; i < types.n; i++)
			add_key(list, types.keys[i].space, types.keys[i].hash, types.keys[i].mode);
	pfree(types.keys);
	add_key(list, ES_LOCK_TYPE, kind_hash(kind_of(tenant, "", 0)), WRITES);
}

/* a condition with very many items, or after very many others, is taken for one on everything */
static void
add_condition(KeyList *list, Broad *broad, const char *tenant, const EsQuery *query)
{
	int			before = list->n;
	bool		any_tag = false;

	for (int i = 0; i < query->nitems; i++)
	{
		add_item(list, broad, tenant, &query->items[i]);
		any_tag |= query->items[i].ntags > 0;
	}
	if (query->nitems == 0 || tags_forbidden + list->n - before > MAX_TAG_LOCKS)
	{
		list->n = before;
		broad->any = broad->every_type = true;
		broad->kinds = palloc(sizeof(Kind));
		broad->kinds[0] = kind_of(tenant, "", 0);
		broad->nkinds = 1;
		add_key(list, ES_LOCK_TYPE, kind_hash(broad->kinds[0]), FORBIDS);
	}
	else if (any_tag)
		add_key(list, ES_LOCK_ALL_TAGS, es_tag_tenant_hash(tenant), FORBIDS);
}

static void
add_item(KeyList *list, Broad *broad, const char *tenant, const EsQueryItem *item)
{
	uint64		tag;

	if (item->ntags == 0)
	{
		broad->any = true;
		broad->kinds = broad->kinds == NULL ? palloc(item->ntypes * sizeof(Kind)) :
			repalloc(broad->kinds, (broad->nkinds + item->ntypes) * sizeof(Kind));
		for (int t = 0; t < item->ntypes; t++)
		{
			Kind		kind = kind_of(tenant, item->types[t], strlen(item->types[t]));

			broad->kinds[broad->nkinds++] = kind;
			add_key(list, ES_LOCK_TYPE, kind_hash(kind), FORBIDS);
		}
		return;
	}
	tag = es_tag_hash(tenant, item->tags[0], strlen(item->tags[0]));
	if (item->ntypes == 0)
		add_key(list, ES_LOCK_TAG, tag, FORBIDS);
	for (int t = 0; t < item->ntypes; t++)
		add_key(list, ES_LOCK_TAG, es_tag_pair_hash(tag, item->types[t], strlen(item->types[t])), FORBIDS);
}

/* sorts, and makes one of those that are equal */
static void
merge_keys(KeyList *list)
{
	int			kept = 0;

	qsort(list->keys, list->n, sizeof(Key), compare_keys);
	for (int i = 1; i < list->n; i++)
	{
		Key		   *last = &list->keys[kept];

		if (compare_keys(last, &list->keys[i]) != 0)
			list->keys[++kept] = list->keys[i];
		else if (last->mode != list->keys[i].mode)
			last->mode = WRITES_AND_FORBIDS;
	}
	list->n = Min(list->n, kept + 1);
}

/* one lock in place of those of the tags that are written; conditions share it the other way round */
static void
escalate(KeyList *list, const char *tenant)
{
	int			kept = 0;

	for (int i = 0; i < list->n; i++)
	{
		Key			key = list->keys[i];

		if (key.space == ES_LOCK_TAG && key.mode == WRITES)
			continue;
		if (key.space == ES_LOCK_TAG)
			key.mode = FORBIDS;
		list->keys[kept++] = key;
	}
	list->n = kept;
	add_key(list, ES_LOCK_ALL_TAGS, es_tag_tenant_hash(tenant), WRITES);
}

static void
take_locks(const KeyList *list)
{
	for (int i = 0; i < list->n; i++)
	{
		const Key  *key = &list->keys[i];

		if (es_lock_mode(key->space, key->hash, key->mode) && key->space == ES_LOCK_TAG)
		{
			tags_locked++;
			tags_forbidden += key->mode != WRITES;
		}
	}
}

static int
compare_keys(const void *a, const void *b)
{
	const Key  *x = a;
	const Key  *y = b;

	if (x->space != y->space)
		return x->space < y->space ? -1 : 1;
	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

/* no type is empty: the empty one stands for every type */
static Kind
kind_of(const char *tenant, const char *type, int len)
{
	uint64		tenant_hash = es_stream_hash(tenant, "", 0);

	return (Kind) {(uint32) (tenant_hash >> 32), (uint32) (es_hash_continue(tenant_hash, type, len) >> 32)};
}

static Kind
event_kind(const char *tenant, const EsEvent *event)
{
	struct varlena *type = (struct varlena *) DatumGetPointer(event->type);

	return kind_of(tenant, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
}

static uint64
kind_hash(Kind kind)
{
	return (uint64) kind.tenant << 32 | kind.type;
}

/* ---- conditions without tags and the appends in flight ---- */

static bool
is_announced(Slot *slot, Kind kind)
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
announce(Slot *slot, Kind kind)
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

/* an atomic addition is a full barrier: see es_condition_announce */
static void
count_condition(void)
{
	if (counted_level > 0)
		return;
	counted_level = GetCurrentTransactionNestLevel();
	pg_atomic_fetch_add_u32(&shared()->conditions_in_flight, 1);
}

/*
 * Whoever comes later takes locks that exclude ours.  Waiting for a transaction is waiting for its lock, so that the server
 * finds deadlocks; its slot is empty before the lock is released.
 */
static void
wait_for_announced(const Broad *broad)
{
	uint32		used = pg_atomic_read_u32(&shared()->slots_used);

	for (uint32 i = 0; i < used; i++)
	{
		VirtualTransactionId vxid;

		while (i != es_my_procno() && find_conflict(&shared()->slots[i], broad, &vxid))
			(void) VirtualXactLock(vxid, true);
	}
}

/* does that backend's transaction, in flight, have events that this condition forbids? */
static bool
find_conflict(Slot *slot, const Broad *broad, VirtualTransactionId *vxid)
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
			if (concerns(broad, slot->kinds[i]))
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
concerns(const Broad *broad, Kind kind)
{
	for (int i = 0; i < broad->nkinds; i++)
		if (broad->kinds[i].tenant == kind.tenant && (broad->every_type || broad->kinds[i].type == kind.type))
			return true;
	return false;
}

static void
refuse_match(TupleTableSlot *event)
{
	bool		isnull;
	int64		position = DatumGetInt64(slot_getattr(event, ES_EVENT_POSITION + 1, &isnull));
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, slot_getattr(event, ES_EVENT_ID + 1, &isnull)));
	char	   *type = TextDatumGetCString(slot_getattr(event, ES_EVENT_TYPE + 1, &isnull));

	ereport(ERROR,
			(errcode(ES_ERRCODE_APPEND_CONDITION_FAILED),
			 errmsg("an event that must not exist does: \"%s\" at position " INT64_FORMAT, type, position),
			 errdetail("{\"position\":\"" INT64_FORMAT "\",\"id\":\"%s\"}", position, id),
			 errhint("Take the head, read what the query selects, decide again, and retry with that head as after.")));
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
			if (tags_locked > 0 || counted_level > 0 || pg_atomic_read_u32(&my_slot()->announced) > 0)
				forget_from(1);
			tags_locked = tags_forbidden = 0;
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
