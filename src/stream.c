/*
 * stream.c
 *		The identity of streams: name, category, id, lock; and what this transaction knows of their versions.
 *
 * Runs in backends and workers.  A stream is locked by the hash of its tenant and name, whether it exists or not, to
 * the end of the transaction: who holds the lock is the only one that can create it or give out its versions, and sees
 * what every earlier holder did (locks are released after the commit is visible).  Streams whose hashes collide share
 * a lock, which costs a wait and nothing else.
 *
 * Each backend memoises streams by name.  The memo is started over when the tables change under us, when it has grown too
 * big at the end of a transaction, and when a transaction or savepoint in which a stream was made is rolled back.  Callers keep pointers into it for
 * the length of a call that may itself run SQL, so a memo that was given up is freed only when the transaction ends.
 * Versions are remembered while the transaction holds the lock and no savepoint was rolled back since.  Nothing is
 * shared, a crash leaves nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "index_scan.h"
#include "lock.h"
#include "stream.h"
#include "table.h"

/* names kept after a transaction; a backend that touches more starts over */
#define MEMO_MAX 20000

typedef struct MemoStream
{
	EsStream	stream;			/* MUST BE FIRST: callers hold pointers to it */
	struct MemoStream *next;	/* another name with the same hash */
	int64		version;		/* good while version_epoch is the present one */
	uint64		version_epoch;
} MemoStream;

typedef struct MemoEntry
{
	uint64		hash;			/* key: tenant and name */
	MemoStream *first;
} MemoEntry;

static MemoryContext memo_context = NULL;
static MemoryContext retired_context = NULL;	/* parent of memos given up in this transaction */
static HTAB *by_hash = NULL;
static uint64 memo_generation = 0;
static uint64 version_epoch = 1;
static bool made_any = false;	/* this transaction made a stream */
static int	streams_locked = 0;	/* by this transaction, at least; savepoints that were rolled back count too */
static bool every_stream_locked = false;	/* by this transaction: lock_every_stream() */

static int	max_stream_locks(void);
static void lock_every_stream(void);
static void prepare_memo(void);
static void retire_memo(void);
static MemoStream *find_memo(uint64 hash, const char *tenant, const char *name);
static MemoStream *add_memo(uint64 hash, const char *tenant, const char *name);
static int64 look_up_id(const char *tenant, const char *name);
static int64 look_up_version(int64 stream_id, int64 from);
static void xact_callback(XactEvent event, void *arg);
static void subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg);

void
es_stream_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

uint64
es_stream_hash(const char *tenant, const char *name, int len)
{
	uint64		h = UINT64CONST(14695981039346656037);

	for (const char *p = tenant; *p; p++)
		h = (h ^ (unsigned char) *p) * UINT64CONST(1099511628211);
	h *= UINT64CONST(1099511628211);	/* a zero byte between the two */
	return es_hash_continue(h, name, len);
}

uint64
es_hash_continue(uint64 hash, const char *bytes, int len)
{
	uint64		h = hash;

	for (int i = 0; i < len; i++)
		h = (h ^ (unsigned char) bytes[i]) * UINT64CONST(1099511628211);
	h ^= h >> 33;
	h *= UINT64CONST(0xff51afd7ed558ccd);
	h ^= h >> 33;
	return h;
}

int
es_hash_compare(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

int32
es_stream_category_hash(const char *tenant, const char *category, int len)
{
	return (int32) (es_stream_hash(tenant, category, len) >> 32);
}

int
es_stream_category_len(const char *name, int len)
{
	const char *dash = memchr(name, '-', len);

	return dash == NULL ? len : dash - name;
}

EsStream *
es_stream_find(const char *tenant, const char *name)
{
	uint64		hash = es_stream_hash(tenant, name, strlen(name));
	MemoStream *memo;

	prepare_memo();
	memo = find_memo(hash, tenant, name);
	if (memo == NULL)
		memo = add_memo(hash, tenant, name);
	if (memo->stream.id == 0)
		memo->stream.id = look_up_id(tenant, name);
	return &memo->stream;
}

/*
 * Before the table is opened, so that two calls for very many streams do not both hold the weaker lock when they want the
 * stronger one.  Two transactions that have appended already still can; the server ends one.
 */
void
es_stream_expect(int n)
{
	if (!every_stream_locked && streams_locked + n > max_stream_locks())
		lock_every_stream();
}

/*
 * In ascending order of their hashes: two calls never wait for each other, whatever order they name their streams in.
 * Where a transaction would hold so many that the server's lock table is in danger, it locks the table against every
 * other appender instead, once and for all.
 */
void
es_stream_lock(const char *tenant, const char *const *names, int n)
{
	uint64		single;
	uint64	   *hashes = n == 1 ? &single : palloc(n * sizeof(uint64));

	if (every_stream_locked)
		return;
	for (int i = 0; i < n; i++)
		hashes[i] = es_stream_hash(tenant, names[i], strlen(names[i]));
	if (n > 1)
		qsort(hashes, n, sizeof(uint64), es_hash_compare);
	es_stream_expect(n);
	for (int i = 0; i < n && !every_stream_locked; i++)
		streams_locked += es_lock_mode(ES_LOCK_STREAM, hashes[i], ExclusiveLock);
	if (n > 1)
		pfree(hashes);
}

static int
max_stream_locks(void)
{
	return Max(max_locks_per_xact * MaxBackends / 8, 64);
}

/* for the whole transaction, as the table's own lock is, whatever savepoint asks for it */
static void
lock_every_stream(void)
{
	es_lock_relation(es_catalog()->event, ShareRowExclusiveLock, TopTransactionResourceOwner);
	every_stream_locked = true;
}

EsStream *
es_stream_none(void)
{
	static char empty[] = "";
	static EsStream none = {.name = empty, .tenant = empty};

	return &none;
}

void
es_stream_create(EsStream *stream)
{
	EsTable    *table = es_table_open(ES_TABLE_STREAM, es_catalog()->stream);
	int			category_len = es_stream_category_len(stream->name, strlen(stream->name));
	Datum		values[ES_STREAM_NATTS];
	bool		nulls[ES_STREAM_NATTS] = {0};

	made_any = true;
	stream->id = nextval_internal(es_catalog()->stream_id_seq, false);
	values[ES_STREAM_ID] = Int64GetDatum(stream->id);
	values[ES_STREAM_CREATED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[ES_STREAM_TENANT] = CStringGetTextDatum(stream->tenant);
	values[ES_STREAM_NAME] = CStringGetTextDatum(stream->name);
	values[ES_STREAM_CATEGORY] = PointerGetDatum(cstring_to_text_with_len(stream->name, category_len));
	es_table_begin(table);
	es_table_insert(table, values, nulls);
	es_table_end(table);
}

int64
es_stream_current_version(EsStream *stream)
{
	MemoStream *memo = (MemoStream *) stream;

	if (stream->id == 0)
		return 0;
	if (memo->version_epoch != version_epoch)
	{
		/* what an earlier transaction left is where the search begins, if it is still there */
		int64		version = memo->version > 0 ? look_up_version(stream->id, memo->version) : 0;

		if (version == 0)
			version = look_up_version(stream->id, 1);
		/* the last events may be gone, their versions are not given out again */
		es_stream_set_version(stream, Max(version, es_stream_state(stream).truncate_before - 1));
	}
	return memo->version;
}

void
es_stream_set_version(EsStream *stream, int64 version)
{
	MemoStream *memo = (MemoStream *) stream;

	memo->version = version;
	memo->version_epoch = version_epoch;
}

static void
prepare_memo(void)
{
	HASHCTL		ctl;

	if (memo_context != NULL && memo_generation != es_catalog_generation())
		retire_memo();
	if (memo_context != NULL)
		return;
	memo_context = AllocSetContextCreate(TopMemoryContext, "evtstore streams", ALLOCSET_DEFAULT_SIZES);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(uint64);
	ctl.entrysize = sizeof(MemoEntry);
	ctl.hcxt = memo_context;
	by_hash = hash_create("evtstore streams by name", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	memo_generation = es_catalog_generation();
}

/* freed when the transaction ends: callers up the stack may hold pointers into it */
static void
retire_memo(void)
{
	if (memo_context == NULL)
		return;
	if (retired_context == NULL)
		retired_context = AllocSetContextCreate(TopMemoryContext, "evtstore retired streams", ALLOCSET_SMALL_SIZES);
	MemoryContextSetParent(memo_context, retired_context);
	memo_context = NULL;
	by_hash = NULL;
}

static MemoStream *
find_memo(uint64 hash, const char *tenant, const char *name)
{
	MemoEntry  *entry = hash_search(by_hash, &hash, HASH_FIND, NULL);

	if (entry == NULL)
		return NULL;
	for (MemoStream *m = entry->first; m != NULL; m = m->next)
		if (strcmp(m->stream.name, name) == 0 && strcmp(m->stream.tenant, tenant) == 0)
			return m;
	return NULL;
}

static MemoStream *
add_memo(uint64 hash, const char *tenant, const char *name)
{
	MemoStream *memo = MemoryContextAllocZero(memo_context, sizeof(MemoStream));
	MemoEntry  *entry;
	bool		found;

	memo->stream.hash = hash;
	memo->stream.category_hash = es_stream_category_hash(tenant, name, es_stream_category_len(name, strlen(name)));
	memo->stream.name = MemoryContextStrdup(memo_context, name);
	memo->stream.tenant = MemoryContextStrdup(memo_context, tenant);
	entry = hash_search(by_hash, &hash, HASH_ENTER, &found);
	memo->next = found ? entry->first : NULL;
	entry->first = memo;
	return memo;
}

/* committed, or made by this transaction: what SnapshotSelf sees; 0 where there is none */
static int64
look_up_id(const char *tenant, const char *name)
{
	EsIndexScan scan;
	ScanKeyData keys[2];
	int64		id = 0;
	bool		isnull;

	ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(name));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ,
						   CStringGetTextDatum(tenant));
	es_index_scan_open(&scan, es_catalog()->stream, es_catalog()->stream_name, SnapshotSelf);
	es_index_scan_start(&scan, keys, 2);
	if (es_index_scan_next(&scan, ForwardScanDirection))
		id = DatumGetInt64(slot_getattr(scan.slot, ES_STREAM_ID + 1, &isnull));
	es_index_scan_close(&scan);
	return id;
}

/*
 * The newest version at or above from that is committed or our own; 0 where there is none.  Under the stream's lock no
 * other transaction has one in flight, so this is the version, whatever snapshot the transaction has.  A scan takes in
 * all entries of a leaf page that fit its keys before it returns the first: a good from leaves it a handful.
 */
static int64
look_up_version(int64 stream_id, int64 from)
{
	EsTable    *table = es_table_open(ES_TABLE_EVENT, es_catalog()->event);
	Relation	index = es_table_index(table, es_catalog()->event_stream_version);
	TupleTableSlot *slot = es_table_scan_slot(table);
	ScanKeyData keys[2];
	IndexScanDesc scan;
	int64		version = 0;
	bool		isnull;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_id));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	scan = es_index_beginscan(es_table_relation(table), index, SnapshotSelf, 2);
	index_rescan(scan, keys, 2, NULL, 0);
	if (index_getnext_slot(scan, BackwardScanDirection, slot))
		version = DatumGetInt64(slot_getattr(slot, 3, &isnull));
	index_endscan(scan);
	ExecClearTuple(slot);
	return version;
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	version_epoch++;
	streams_locked = 0;
	every_stream_locked = false;
	if ((event != XACT_EVENT_COMMIT && made_any) ||
		(memo_context != NULL && hash_get_num_entries(by_hash) >= MEMO_MAX))
		retire_memo();
	made_any = false;
	if (retired_context != NULL)
	{
		MemoryContextDelete(retired_context);
		retired_context = NULL;
	}
}

/* locks taken in the savepoint are gone, and with them what we know of versions; so are streams made in it */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	version_epoch++;
	if (made_any)
		retire_memo();
}
