/*
 * condition.c
 *		Append conditions: no event that matches a query may exist, and none may come before the append commits.
 *
 * Runs in the appender's backend.  docs/architecture-conditions.md has the argument; the short form:
 *
 * Conditions with tags.  A matching event carries every tag of the item.  So a writer of an event locks each of its tags,
 * alone and with its type, in a mode that writers share (RowExclusive); a condition locks one tag of each item, the first, with
 * each type of the item or alone, in a mode that conditions share (Share).  The two modes exclude each other; who does both
 * takes the mode that excludes all (ShareRowExclusive).  All keys of a call are taken in one order.
 *
 * Conditions without tags (by type only, or everything) could match the events of any append, and ordinary appends shall
 * not take a lock for them: condition_flight.c.  Where the two meet, they lock types as tags are locked.
 *
 * Big batches lock every tag of the tenant at once (ES_LOCK_ALL_TAGS), which conditions with tags share, and where need be
 * every type (ES_LOCK_ALL_TYPES), which those without share.
 *
 * Locks go with the transaction; nothing here is shared, a crash leaves nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "condition.h"
#include "condition_flight.h"
#include "error.h"
#include "event.h"
#include "feed.h"
#include "lock.h"
#include "search.h"
#include "table.h"
#include "tag.h"

/* tags that one transaction locks one by one; more: all of them at once */
#define MAX_TAG_LOCKS 256

#define WRITES RowExclusiveLock
#define FORBIDS ShareLock
#define WRITES_AND_FORBIDS ShareRowExclusiveLock

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

/* of this transaction */
static int	tags_locked = 0;
static int	tags_forbidden = 0;		/* of these, by conditions */

static void add_key(KeyList *list, EsLockSpace space, uint64 hash, LOCKMODE mode);
static void add_written_tags(KeyList *list, const EsEvent *events, int n);
static void add_written_types(KeyList *list, const char *tenant, const EsEvent *events, int n);
static void add_condition(KeyList *list, EsConditionKinds *broad, const char *tenant, const EsQuery *query);
static void add_item(KeyList *list, EsConditionKinds *broad, const char *tenant, const EsQueryItem *item);
static void merge_keys(KeyList *list);
static void escalate(KeyList *list, const char *tenant);
static void take_locks(const KeyList *list);
static int	compare_keys(const void *a, const void *b);
static void refuse_match(TupleTableSlot *event) es_noreturn;
static void xact_callback(XactEvent event, void *arg);

void
es_condition_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	es_condition_flight_init();
}

bool
es_condition_lock(const char *tenant, const EsEvent *events, int n, const EsQuery *query)
{
	KeyList		list = {0};
	EsConditionKinds broad = {0};

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
		add_key(&list, ES_LOCK_ALL_TYPES, es_condition_kind_hash(es_condition_kind(tenant, "", 0)), FORBIDS);
	}
	merge_keys(&list);
	take_locks(&list);
	pfree(list.keys);
	if (broad.any)
		es_condition_wait_for_announced(&broad);
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

void
es_condition_announce(const char *tenant, const EsEvent *events, int n)
{
	KeyList		list = {0};

	if (es_condition_try_announce(tenant, events, n))
		return;
	add_written_types(&list, tenant, events, n);
	merge_keys(&list);
	take_locks(&list);
	pfree(list.keys);
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
	EsConditionKind previous = {0};

	for (int i = 0; i < n; i++)
	{
		EsConditionKind kind = es_condition_event_kind(tenant, &events[i]);

		if (i > 0 && kind.type == previous.type)
			continue;
		previous = kind;
		add_key(&types, ES_LOCK_TYPE, es_condition_kind_hash(kind), WRITES);
	}
	if (n == 0)
		return;
	merge_keys(&types);
	if (types.n > MAX_TAG_LOCKS)
		add_key(list, ES_LOCK_ALL_TYPES, es_condition_kind_hash(es_condition_kind(tenant, "", 0)), WRITES);
	else
		for (int i = 0; i < types.n; i++)
			add_key(list, types.keys[i].space, types.keys[i].hash, types.keys[i].mode);
	pfree(types.keys);
	add_key(list, ES_LOCK_TYPE, es_condition_kind_hash(es_condition_kind(tenant, "", 0)), WRITES);
}

/* a condition with very many items, or after very many others, is taken for one on everything */
static void
add_condition(KeyList *list, EsConditionKinds *broad, const char *tenant, const EsQuery *query)
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
		broad->kinds = palloc(sizeof(EsConditionKind));
		broad->kinds[0] = es_condition_kind(tenant, "", 0);
		broad->nkinds = 1;
		add_key(list, ES_LOCK_TYPE, es_condition_kind_hash(broad->kinds[0]), FORBIDS);
	}
	else if (any_tag)
		add_key(list, ES_LOCK_ALL_TAGS, es_tag_tenant_hash(tenant), FORBIDS);
}

static void
add_item(KeyList *list, EsConditionKinds *broad, const char *tenant, const EsQueryItem *item)
{
	uint64		tag;

	if (item->ntags == 0)
	{
		broad->any = true;
		broad->kinds = broad->kinds == NULL ? palloc(item->ntypes * sizeof(EsConditionKind)) :
			repalloc(broad->kinds, (broad->nkinds + item->ntypes) * sizeof(EsConditionKind));
		for (int t = 0; t < item->ntypes; t++)
		{
			EsConditionKind kind = es_condition_kind(tenant, item->types[t], strlen(item->types[t]));

			broad->kinds[broad->nkinds++] = kind;
			add_key(list, ES_LOCK_TYPE, es_condition_kind_hash(kind), FORBIDS);
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

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		tags_locked = tags_forbidden = 0;
}
