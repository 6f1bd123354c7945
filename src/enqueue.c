/*
 * enqueue.c
 *		Putting messages into queues: locks, rows, and what the commit tells those who receive.
 *
 * Runs in backends: for send and its like (send.c), for rules inside an append, for redriven and dead letters.
 *
 * Locks, held to the end of the transaction: the queue's (queue.c), and for a message with a key the key's, taken
 * before the message's id is allocated.  The next sender of that key gets it when this one is committed and visible, or
 * gone. So within a key the order of ids is the order of commits, and who sees a message of a key sees every older one
 * that is not settled: claim.c builds on this.  A key is one of a queue and a tenant.  An id for deduplication has a lock of the
 * same kind: who gets it sees whether a sender before him was the first.
 *
 * The lock table of the server is small, so a transaction that sends to very many keys takes one lock in place of
 * theirs: the queue's, in a mode that no other sender of keyed messages shares.
 *
 * Rows are transactional: a crash leaves what was committed.  At commit, while these locks are held, the callback tells who
 * receives (queue_state.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "async_commit.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "error.h"
#include "lock.h"
#include "message_id.h"
#include "queue.h"
#include "table.h"
#include "waiter.h"
#include "wakeup.h"

/* a transaction that locks more keys than this takes the queue's lock in their place */
#define MAX_KEY_LOCKS 256

/* so many messages of a transaction are told to who receives one by one; of more only where they begin */
#define MAX_SENT 4096

/* seeds of hashes that are locked: they are of one lock space, and only wait for each other more than they need */
#define DEDUP_SEED UINT64CONST(0x9e3779b97f4a7c15)

/* values of fair_by are spread over so many shares of a tenant */
#define FAIR_SHARES 64

/* what this transaction sent, oldest first; in TopTransactionContext.  What a rolled-back savepoint sent is not found */
typedef struct Sent
{
	EsSlotKey	queue;
	EsReady		ready;			/* with an invalid tid: from there on */
} Sent;

static Sent *sent = NULL;
static int	nsent = 0;
static int	sent_size = 0;
static bool my_async = false;	/* counted as an asynchronous commit in flight */

/* how many key locks this transaction took; a rolled-back savepoint leaves it too high, which only takes fewer locks */
static int	key_locks = 0;

/* what the messages of one call share */
typedef struct Sending
{
	EsTable    *table;
	int32		queue_id;
	EsPlaceholder *fair_by;		/* NULL: fair to tenants only */
	Datum		no_headers;
	TimestampTz now;
	const char *tenant;			/* of the message before */
	Datum		tenant_text;
} Sending;

static void lock_for_sending(const EsQueue *queue, const EsMessage *messages, int n);
static uint64 key_hash(int32 queue_id, const char *tenant, Datum key);
static uint64 hash_text(Datum value, uint64 seed);
static int	unique_hashes(uint64 *hashes, int n);
static int	compare_hashes(const void *a, const void *b);
static void give_id(int32 queue_id, EsMessage *message, TimestampTz now, int64 dedup_window);
static bool is_duplicate(int32 queue_id, EsMessage *message, TimestampTz now);
static void remember_dedup(int32 queue_id, const EsMessage *message, TimestampTz until);
static int64 share_of(const EsMessage *message, uint64 tenant_hash, const EsPlaceholder *fair_by);
static int	insert_messages(Sending *sending, const EsMessage *messages, int n);
static void insert_message(Sending *sending, const EsMessage *message, EsReady *ready);
static void note_sent(const EsSlotKey *queue, const EsReady *ready);
static void announce_sent(void);
static void xact_callback(XactEvent event, void *arg);

static EsPlan known_plan = {
	.sql = "SELECT message_id FROM evtstore_internal.message_dedup"
	" WHERE queue_id = $1 AND tenant = $2 AND dedup_id = $3 AND expires_at > $4",
	.nargs = 4,
	.args = {INT4OID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
};

/* under the lock of its hash: what is there is over, or not visible to the snapshot of this transaction, which is 40001 */
static EsPlan remember_plan = {
	.sql = "INSERT INTO evtstore_internal.message_dedup (queue_id, tenant, dedup_id, message_id, expires_at) VALUES ($1, $2, $3, $4, $5)"
	" ON CONFLICT (queue_id, tenant, dedup_id) DO UPDATE SET message_id = EXCLUDED.message_id, expires_at = EXCLUDED.expires_at",
	.nargs = 5,
	.args = {INT4OID, TEXTOID, TEXTOID, INT8OID, TIMESTAMPTZOID},
};

/* one that is sent anew meanwhile is remembered from then on: it is looked at again, and not waited for */
static EsPlan trim_plan = {
	.sql = "DELETE FROM evtstore_internal.message_dedup WHERE expires_at <= $1 AND (queue_id, tenant, dedup_id) IN"
	" (SELECT queue_id, tenant, dedup_id FROM evtstore_internal.message_dedup WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2"
	" FOR UPDATE SKIP LOCKED)",
	.nargs = 2,
	.args = {TIMESTAMPTZOID, INT8OID},
};

void
es_queue_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

void
es_queue_send(const EsQueue *queue, EsMessage *messages, int n)
{
	Sending		sending = {.queue_id = queue->id};
	bool		pushed = queue->endpoint != NULL;
	int64		dedup_window = queue->dedup_window;
	int			nnew = 0;

	if (n == 0)
		return;
	if ((queue->is_for_sagas && !messages[0].is_arrival) || (queue->is_for_steps && !messages[0].is_command))
		es_queue_refuse_reserved(queue->name);
	sending.fair_by = queue->fair_by == NULL ? NULL : es_placeholder_copy(queue->fair_by);
	for (int i = 0; i < n; i++)
		if (messages[i].tenant == NULL)
			messages[i].tenant = es_queue_tenant();
	lock_for_sending(queue, messages, n);	/* the cache, and with it *queue, may be another after this */

	sending.now = es_clock_now();
	/* before the table is open: it asks another one */
	for (int i = 0; i < n; i++)
		give_id(sending.queue_id, &messages[i], sending.now, dedup_window);
	sending.table = es_table_open(ES_TABLE_MESSAGE, es_catalog()->message);
	sending.no_headers = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	es_table_begin(sending.table);
	for (int i = 0; i < n; i += ES_TABLE_MAX_ROWS)
		nnew += insert_messages(&sending, messages + i, Min(n - i, ES_TABLE_MAX_ROWS));
	es_table_end(sending.table);
	CommandCounterIncrement();
	if (pushed && nnew > 0)
		es_wakeup_at_commit(nnew);
}

void
es_queue_fill_message(EsMessage *message, const Datum *columns, const bool *nulls)
{
	memset(message, 0, sizeof(EsMessage));
	message->tenant = TextDatumGetCString(columns[ES_LETTER_TENANT]);
	message->body = columns[ES_LETTER_BODY];
	message->headers = columns[ES_LETTER_HEADERS];
	message->key = nulls[ES_LETTER_KEY] ? (Datum) 0 : columns[ES_LETTER_KEY];
	message->priority = DatumGetInt32(columns[ES_LETTER_PRIORITY]);
	if (nulls[ES_LETTER_TYPE])
	{
		message->is_command = !nulls[ES_LETTER_EVENT_ID];
		if (message->is_command)
		{
			message->event_id = *DatumGetUUIDP(columns[ES_LETTER_EVENT_ID]);
			message->position = DatumGetInt64(columns[ES_LETTER_POSITION]);
			message->version = DatumGetInt64(columns[ES_LETTER_VERSION]);
		}
		return;
	}
	message->type = columns[ES_LETTER_TYPE];
	message->tags = columns[ES_LETTER_TAGS];
	message->position = DatumGetInt64(columns[ES_LETTER_POSITION]);
	message->schema_version = DatumGetInt32(columns[ES_LETTER_SCHEMA_VERSION]);
	message->event_id = *DatumGetUUIDP(columns[ES_LETTER_EVENT_ID]);
	message->occurred_at = DatumGetTimestampTz(columns[ES_LETTER_OCCURRED_AT]);
	message->recorded_at = DatumGetTimestampTz(columns[ES_LETTER_RECORDED_AT]);
	if (nulls[ES_LETTER_STREAM])
		return;
	message->stream = columns[ES_LETTER_STREAM];
	message->version = DatumGetInt64(columns[ES_LETTER_VERSION]);
}

int64
es_queue_trim_dedup(int limit)
{
	Datum		values[2] = {TimestampTzGetDatum(es_clock_now()), Int64GetDatum(limit)};
	EsSpiState	state;
	int64		n;

	es_queue_spi_begin(&state);
	n = es_spi_run(&trim_plan, values, NULL, false, 0);
	es_spi_end(&state);
	return n;
}

TimestampTz
es_queue_deadline(TimestampTz now, int64 ms, const char *arg)
{
	if (ms > (END_TIMESTAMP - 1 - now) / 1000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long: it would end after the last timestamp", arg),
				 errhint("Give a shorter interval.")));
	return now + ms * 1000;
}

/*
 * Takes the locks that the header of this file describes; ST008 when the queue was dropped meanwhile.  Key locks are
 * taken in order of their hash, so that two batches cannot wait for each other.
 */
static void
lock_for_sending(const EsQueue *queue, const EsMessage *messages, int n)
{
	int32		id = queue->id;
	char	   *name = pstrdup(queue->name);
	uint64	   *hashes = MemoryContextAllocExtended(CurrentMemoryContext, 2 * n * sizeof(uint64), MCXT_ALLOC_HUGE);
	int			nkeys = 0;
	LOCKMODE	mode;

	for (int i = 0; i < n; i++)
	{
		if (messages[i].key != (Datum) 0)
			hashes[nkeys++] = key_hash(id, messages[i].tenant, messages[i].key);
		if (messages[i].dedup_id != (Datum) 0)
			hashes[nkeys++] = key_hash(id, messages[i].tenant, messages[i].dedup_id) ^ DEDUP_SEED;
	}
	nkeys = unique_hashes(hashes, nkeys);

	if (nkeys == 0)
		mode = AccessShareLock;
	else if (key_locks + nkeys <= MAX_KEY_LOCKS)
		mode = RowExclusiveLock;
	else
	{
		mode = ShareRowExclusiveLock;
		nkeys = 0;
	}
	if (es_queue_lock(id, mode) == NULL)
		ereport(ERROR,
				(errcode(ES_ERRCODE_NOT_FOUND),
				 errmsg("queue \"%s\" does not exist", name),
				 errdetail("It was dropped a moment ago."),
				 errhint("Create it with evtstore.create_queue().")));
	for (int i = 0; i < nkeys; i++)
		if (es_lock_mode(ES_LOCK_KEY, hashes[i], ExclusiveLock))
			key_locks++;
	pfree(hashes);
	pfree(name);
}

/* messages of two keys of one hash only wait for each other more than they need; it is stored */
static uint64
key_hash(int32 queue_id, const char *tenant, Datum key)
{
	uint64		seed = hash_bytes_extended((const unsigned char *) tenant, strlen(tenant), queue_id);
	uint64		hash = hash_text(key, seed);

	return hash == 0 ? 1 : hash;	/* 0 is no key */
}

static uint64
hash_text(Datum value, uint64 seed)
{
	text	   *t = DatumGetTextPP(value);

	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(t), VARSIZE_ANY_EXHDR(t), seed);
}

static int
unique_hashes(uint64 *hashes, int n)
{
	int			kept = 0;

	if (n > 1)
		qsort(hashes, n, sizeof(uint64), compare_hashes);
	for (int i = 0; i < n; i++)
		if (i == 0 || hashes[i] != hashes[kept - 1])
			hashes[kept++] = hashes[i];
	return kept;
}

static int
compare_hashes(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Locks: as lock_for_sending took them */
static void
give_id(int32 queue_id, EsMessage *message, TimestampTz now, int64 dedup_window)
{
	if (message->dedup_id != (Datum) 0 && is_duplicate(queue_id, message, now))
		return;
	message->id = es_message_id_next();
	if (message->dedup_id != (Datum) 0)
		remember_dedup(queue_id, message, es_queue_deadline(now, dedup_window, "dedup_window"));
}

/* it was sent before: then the message gets the id of the first one.  Locks: that of the id's hash, or all of the queue */
static bool
is_duplicate(int32 queue_id, EsMessage *message, TimestampTz now)
{
	Datum		values[4] = {Int32GetDatum(queue_id), CStringGetTextDatum(message->tenant), message->dedup_id, TimestampTzGetDatum(now)};
	EsSpiState	state;

	es_queue_spi_begin(&state);
	message->is_duplicate = es_spi_run(&known_plan, values, NULL, false, 1) > 0;
	if (message->is_duplicate)
		message->id = es_spi_int64(0, 0);
	es_spi_end(&state);
	return message->is_duplicate;
}

static void
remember_dedup(int32 queue_id, const EsMessage *message, TimestampTz until)
{
	Datum		values[5] = {Int32GetDatum(queue_id), CStringGetTextDatum(message->tenant), message->dedup_id,
		Int64GetDatum(message->id), TimestampTzGetDatum(until)};
	EsSpiState	state;

	es_queue_spi_begin(&state);
	es_spi_run(&remember_plan, values, NULL, false, 0);
	es_spi_end(&state);
}

/* of the tenant; where the queue is fair by a value, one of FAIR_SHARES of his.  It is stored */
static int64
share_of(const EsMessage *message, uint64 tenant_hash, const EsPlaceholder *fair_by)
{
	char	   *value = NULL;

	if (fair_by == NULL)
		return (int64) tenant_hash;
	if (fair_by->root == ES_FAIR_BY_KEY)
		value = message->key == (Datum) 0 ? NULL : TextDatumGetCString(message->key);
	else if (fair_by->root == ES_FAIR_BY_BODY)
		value = es_placeholder_text(fair_by, message->body);
	else if (message->headers != (Datum) 0)
		value = es_placeholder_text(fair_by, message->headers);
	if (value == NULL)
		return (int64) tenant_hash;
	return (int64) hash_combine64(tenant_hash, 1 + hash_bytes_extended((const unsigned char *) value, strlen(value), 0) % FAIR_SHARES);
}

/*
 * At most ES_TABLE_MAX_ROWS, which is how many were not duplicates.  Locks: the queue's, and where there are keys, the keys'
 */
static int
insert_messages(Sending *sending, const EsMessage *messages, int n)
{
	EsSlotKey	slot_key = es_slot_key(sending->queue_id);
	EsReady		ready[ES_TABLE_MAX_ROWS];
	int			nready = 0;

	for (int i = 0; i < n; i++)
		if (!messages[i].is_duplicate)
			insert_message(sending, &messages[i], &ready[nready++]);
	/* now it is known where they are */
	es_table_write(sending->table);
	for (int i = 0; i < nready; i++)
		note_sent(&slot_key, &ready[i]);
	return nready;
}

static void
insert_message(Sending *sending, const EsMessage *message, EsReady *ready)
{
	Datum		values[ES_MESSAGE_COLUMNS];
	bool		nulls[ES_MESSAGE_COLUMNS];

	if (message->tenant != sending->tenant)
		sending->tenant_text = CStringGetTextDatum(sending->tenant = message->tenant);
	*ready = (EsReady) {.id = message->id, .rank = -message->priority};
	ready->tenant_hash = es_queue_tenant_hash(message->tenant, strlen(message->tenant));
	ready->share = share_of(message, ready->tenant_hash, sending->fair_by);
	if (message->delay_ms > 0)
		ready->deliver_at = es_queue_deadline(sending->now, message->delay_ms, "delay");
	else if (message->deliver_at > sending->now)
		ready->deliver_at = message->deliver_at;
	if (message->key != (Datum) 0)
		ready->key_hash = key_hash(sending->queue_id, message->tenant, message->key);
#define SET(column, datum) (values[(column) - 1] = (datum), nulls[(column) - 1] = false)
	memset(nulls, true, sizeof(nulls));
	memset(values, 0, sizeof(values));
	SET(ES_MESSAGE_ID, Int64GetDatum(ready->id));
	SET(ES_MESSAGE_SHARE, Int64GetDatum(ready->share));
	SET(ES_MESSAGE_ENQUEUED_AT, TimestampTzGetDatum(sending->now));
	if (ready->deliver_at != 0)
		SET(ES_MESSAGE_DELIVER_AT, TimestampTzGetDatum(ready->deliver_at));
	SET(ES_MESSAGE_QUEUE_ID, Int32GetDatum(sending->queue_id));
	SET(ES_MESSAGE_RANK, Int32GetDatum(ready->rank));
	SET(ES_MESSAGE_ATTEMPT, Int32GetDatum(0));
	if (message->expires_ms > 0)
		SET(ES_MESSAGE_EXPIRES_AT, TimestampTzGetDatum(es_queue_deadline(sending->now, message->expires_ms, "expires_in")));
	SET(ES_MESSAGE_TENANT, sending->tenant_text);
	if (message->key != (Datum) 0)
	{
		SET(ES_MESSAGE_KEY, message->key);
		SET(ES_MESSAGE_KEY_HASH, Int64GetDatum((int64) ready->key_hash));
	}
	SET(ES_MESSAGE_BODY, message->body);
	SET(ES_MESSAGE_HEADERS, message->headers != (Datum) 0 ? message->headers : sending->no_headers);
	if (message->type != (Datum) 0)
	{
		SET(ES_MESSAGE_POSITION, Int64GetDatum(message->position));
		SET(ES_MESSAGE_OCCURRED_AT, TimestampTzGetDatum(message->occurred_at));
		SET(ES_MESSAGE_RECORDED_AT, TimestampTzGetDatum(message->recorded_at));
		SET(ES_MESSAGE_SCHEMA_VERSION, Int32GetDatum(message->schema_version));
		SET(ES_MESSAGE_EVENT_ID, UUIDPGetDatum(&message->event_id));
		SET(ES_MESSAGE_TYPE, message->type);
		SET(ES_MESSAGE_TAGS, message->tags);
	}
	else if (message->is_command)
	{
		SET(ES_MESSAGE_EVENT_ID, UUIDPGetDatum(&message->event_id));
		SET(ES_MESSAGE_POSITION, Int64GetDatum(message->position));
		SET(ES_MESSAGE_VERSION, Int64GetDatum(message->version));
	}
	if (message->stream != (Datum) 0)
	{
		SET(ES_MESSAGE_STREAM, message->stream);
		SET(ES_MESSAGE_VERSION, Int64GetDatum(message->version));
	}
#undef SET
	es_table_add(sending->table, values, nulls, &ready->tid);
}

/* for the commit, which tells who receives */
static void
note_sent(const EsSlotKey *queue, const EsReady *ready)
{
	Sent	   *last = NULL;

	for (int i = nsent - 1; i >= MAX_SENT && last == NULL; i--)
		if (sent[i].queue.id == queue->id && sent[i].ready.share == ready->share &&
			(sent[i].ready.deliver_at != 0) == (ready->deliver_at != 0))
			last = &sent[i];
	if (last != NULL)
	{
		last->ready.rank = Min(last->ready.rank, ready->rank);
		last->ready.deliver_at = Min(last->ready.deliver_at, ready->deliver_at);
		return;
	}
	if (nsent == sent_size)
	{
		int			size = Max(16, sent_size * 2);

		sent = sent == NULL ? MemoryContextAlloc(TopTransactionContext, size * sizeof(Sent)) : repalloc(sent, size * sizeof(Sent));
		sent_size = size;
	}
	last = &sent[nsent++];
	last->queue = *queue;
	last->ready = *ready;
	if (nsent > MAX_SENT)
		ItemPointerSetInvalid(&last->ready.tid);
}

int
es_queue_sent_here(int32 queue_id, EsReady **ready)
{
	int			n = 0;

	*ready = palloc(Max(nsent, 1) * sizeof(EsReady));
	for (int i = 0; i < Min(nsent, MAX_SENT); i++)
		if (sent[i].queue.id == queue_id)
			(*ready)[n++] = sent[i].ready;
	return n;
}

uint64
es_queue_tenant_hash(const char *tenant, int len)
{
	uint64		hash = len == 0 ? 0 : hash_bytes_extended((const unsigned char *) tenant, len, 0);

	return len > 0 && hash == 0 ? 1 : hash;
}

static void
xact_callback(XactEvent event, void *arg)
{
	EsAsyncCommits *commits = nsent > 0 ? es_queue_async_commits() : NULL;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (nsent > 0)
				es_async_before_commit(commits, &my_async);
			return;
		case XACT_EVENT_PRE_PREPARE:
			if (nsent > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that sent messages"),
						 errdetail("Who receives is told by the transaction that sent, when it commits."),
						 errhint("Commit it in one phase.")));
			return;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
			if (nsent > 0)
			{
				es_async_after_end(commits, &my_async, event == XACT_EVENT_COMMIT);
				if (event == XACT_EVENT_COMMIT)
					announce_sent();
			}
			break;
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	key_locks = 0;
	sent = NULL;
	nsent = sent_size = 0;
}

/* the rows are visible to everybody by now, and the locks of their keys still held */
static void
announce_sent(void)
{
	EsQueueState *state = NULL;
	int			first = 0;

	for (int i = 0; i < nsent; i++)
	{
		if (i == 0 || sent[i].queue.id != sent[i - 1].queue.id)
		{
			state = es_queue_state_of(&sent[i].queue);
			first = i;
		}
		if (state != NULL)
			es_queue_announce(state, &sent[i].ready);
		/* also where nobody has received yet: somebody may wait already */
		if (i == nsent - 1 || sent[i + 1].queue.id != sent[i].queue.id)
			es_waiter_wake(sent[i].queue.id, i - first + 1);
	}
}
