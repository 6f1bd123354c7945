/*
 * failed_read.c
 *		What stands aside of a subscription, for those who look for work: what is due, and which keys wait.
 *
 * Runs in consumers' backends.  Reads evtstore_internal.failed_event and dead_key by index, under the snapshot of who polls or
 * looks.  However many keys are blocked or wait for their time: only what is due is read, and a key is looked up when an event
 * of it is met, once in a poll.  Where nothing of the subscription stands aside, that is known after one look.
 *
 * Locks: none; who polls holds those of the lanes, so nobody changes what is in them.  A crash leaves nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "failed_read.h"
#include "index_scan.h"
#include "stream.h"

/* columns of evtstore_internal.failed_event, from 1 */
enum
{
	COLUMN_SUBSCRIPTION = 1,
	COLUMN_POSITION,
	COLUMN_EPOCH,
	COLUMN_NEXT_ATTEMPT_AT,
	COLUMN_FAILED_AT,
	COLUMN_ATTEMPT,
	COLUMN_STATE,
	COLUMN_KEY,
	COLUMN_TENANT,
	COLUMN_FIRST_ERROR
};

/* what is known of a key, or of the first one with that hash */
typedef struct KnownKey
{
	uint64		hash;			/* must be first */
	char	   *tenant;
	char	   *key;
	bool		waits;
} KnownKey;

struct EsFailedReader
{
	MemoryContext context;
	int32		subscription;
	EsIndexScan due;
	EsIndexScan keys;			/* of what stands aside */
	EsIndexScan dead;			/* keys that were given up; where has_dead */
	bool		has_dead;
	bool		is_probed;
	bool		any_aside;		/* these two: once probed */
	bool		any_dead;
	HTAB	   *known;			/* KnownKey; NULL: none */
};

static bool has_rows(EsIndexScan *scan, int32 subscription);
static bool look_up(EsFailedReader *reader, const char *tenant, const char *key);
static KnownKey *know(EsFailedReader *reader, const char *tenant, const char *key, bool *is_new);
static bool is_of(const KnownKey *known, const char *tenant, const char *key);

EsFailedReader *
es_failed_reader_open(const EsSubscription *subscription, Snapshot snapshot)
{
	EsFailedReader *reader = palloc0(sizeof(EsFailedReader));

	reader->context = CurrentMemoryContext;
	reader->subscription = subscription->definition.id;
	reader->has_dead = subscription->on_failure == ES_FAILURE_DEAD_LETTER_KEY;
	es_index_scan_open(&reader->due, es_catalog()->failed_event, es_catalog()->failed_event_due, snapshot);
	es_index_scan_open(&reader->keys, es_catalog()->failed_event, es_catalog()->failed_event_key, snapshot);
	if (reader->has_dead)
		es_index_scan_open(&reader->dead, es_catalog()->dead_key, es_catalog()->dead_key_pkey, snapshot);
	return reader;
}

void
es_failed_reader_close(EsFailedReader *reader)
{
	es_index_scan_close(&reader->due);
	es_index_scan_close(&reader->keys);
	if (reader->has_dead)
		es_index_scan_close(&reader->dead);
}

void
es_failed_reader_begin_due(EsFailedReader *reader, TimestampTz now)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(reader->subscription));
	ScanKeyInit(&keys[1], 2, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE, TimestampTzGetDatum(now));
	es_index_scan_start(&reader->due, keys, 2);
}

EsFailedEvent *
es_failed_reader_next_due(EsFailedReader *reader)
{
	TupleTableSlot *slot = reader->due.slot;
	EsFailedEvent *event;
	bool		isnull;
	Datum		value;

	CHECK_FOR_INTERRUPTS();
	if (!es_index_scan_next(&reader->due, ForwardScanDirection))
		return NULL;
	event = palloc0(sizeof(EsFailedEvent));
	event->position = DatumGetInt64(slot_getattr(slot, COLUMN_POSITION, &isnull));
	event->attempt = DatumGetInt32(slot_getattr(slot, COLUMN_ATTEMPT, &isnull));
	value = slot_getattr(slot, COLUMN_EPOCH, &isnull);
	event->epoch = isnull ? 0 : (uint64) DatumGetInt64(value);
	value = slot_getattr(slot, COLUMN_KEY, &isnull);
	event->key = isnull ? NULL : TextDatumGetCString(value);
	event->tenant = TextDatumGetCString(slot_getattr(slot, COLUMN_TENANT, &isnull));
	(void) slot_getattr(slot, COLUMN_FIRST_ERROR, &isnull);
	event->has_failed = !isnull;
	return event;
}

TimestampTz
es_failed_reader_due_after(EsFailedReader *reader, TimestampTz now)
{
	ScanKeyData keys[2];
	bool		isnull;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(reader->subscription));
	ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_TIMESTAMPTZ_GT, TimestampTzGetDatum(now));
	es_index_scan_start(&reader->due, keys, 2);
	if (!es_index_scan_next(&reader->due, ForwardScanDirection))
		return DT_NOEND;
	return DatumGetTimestampTz(slot_getattr(reader->due.slot, COLUMN_NEXT_ATTEMPT_AT, &isnull));
}

bool
es_failed_reader_key_waits(EsFailedReader *reader, const char *tenant, const char *key)
{
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	bool		waits = false;

	if (!reader->is_probed)
	{
		reader->any_aside = has_rows(&reader->keys, reader->subscription);
		reader->any_dead = reader->has_dead && has_rows(&reader->dead, reader->subscription);
		reader->is_probed = true;
	}
	if (reader->any_aside || reader->any_dead || reader->known != NULL)
	{
		bool		is_new;
		KnownKey   *known = know(reader, tenant, key, &is_new);

		if (is_new)
			known->waits = look_up(reader, tenant, key);
		waits = is_of(known, tenant, key) || known->waits ? known->waits : look_up(reader, tenant, key);
	}
	MemoryContextSwitchTo(old);
	return waits;
}

/* two keys of one hash only wait for each other more than they need */
void
es_failed_reader_set_key(EsFailedReader *reader, const char *tenant, const char *key, bool waits)
{
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	bool		is_new;
	KnownKey   *known = know(reader, tenant, key, &is_new);

	if (waits || is_of(known, tenant, key))
		known->waits = waits;
	MemoryContextSwitchTo(old);
}

static bool
has_rows(EsIndexScan *scan, int32 subscription)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(subscription));
	es_index_scan_start(scan, &key, 1);
	return es_index_scan_next(scan, ForwardScanDirection);
}

static bool
look_up(EsFailedReader *reader, const char *tenant, const char *key)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(reader->subscription));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(tenant));
	ScanKeyEntryInitialize(&keys[2], 0, 3, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID, F_TEXTEQ, CStringGetTextDatum(key));
	if (reader->any_aside)
	{
		es_index_scan_start(&reader->keys, keys, 3);
		if (es_index_scan_next(&reader->keys, ForwardScanDirection))
			return true;
	}
	if (!reader->any_dead)
		return false;
	es_index_scan_start(&reader->dead, keys, 3);
	return es_index_scan_next(&reader->dead, ForwardScanDirection);
}

static KnownKey *
know(EsFailedReader *reader, const char *tenant, const char *key, bool *is_new)
{
	uint64		hash = es_stream_hash(tenant, key, strlen(key));
	KnownKey   *known;
	bool		found;

	if (reader->known == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(uint64), .entrysize = sizeof(KnownKey), .hcxt = reader->context};

		reader->known = hash_create("evtstore waiting keys", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	known = hash_search(reader->known, &hash, HASH_ENTER, &found);
	*is_new = !found;
	if (!found)
	{
		known->tenant = pstrdup(tenant);
		known->key = pstrdup(key);
		known->waits = false;
	}
	return known;
}

static bool
is_of(const KnownKey *known, const char *tenant, const char *key)
{
	return strcmp(known->key, key) == 0 && strcmp(known->tenant, tenant) == 0;
}

/* events one by one, by the primary key */
typedef struct Positions
{
	EsIndexScan scan;
	const int64 *positions;
	int			n;
	int			next;
} Positions;

static bool
next_event(EsReader *reader, void *state, TupleTableSlot *slot)
{
	Positions  *list = state;

	while (list->next < list->n)
	{
		ScanKeyData key;

		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(list->positions[list->next++]));
		es_index_scan_start(&list->scan, &key, 1);
		if (index_getnext_slot(list->scan.scan, ForwardScanDirection, slot))
			return true;
	}
	return false;
}

static void
restart(void *state)
{
	((Positions *) state)->next = 0;
}

static void
close_positions(void *state)
{
	es_index_scan_close(&((Positions *) state)->scan);
}

static const EsReadSource positions_source = {
	.next = next_event,
	.restart = restart,
	.close = close_positions,
};

static void
open_positions(EsReader *reader, void *arg)
{
	Positions  *list = palloc(sizeof(Positions));

	*list = *(const Positions *) arg;
	/* they were handed out before, so they are decided, whatever the head of all categories is */
	es_reader_begin_latest(reader);
	es_index_scan_open(&list->scan, es_catalog()->event, es_catalog()->event_pkey, es_reader_snapshot(reader));
	es_reader_set_source(reader, &positions_source, list);
}

EsReader *
es_failed_reader_events(const int64 *positions, int n)
{
	Positions	list = {.positions = positions, .n = n};

	return es_reader_open_with(open_positions, &list, CurrentMemoryContext);
}
