/*
 * queue.h
 *		Queues: definition, sending, claiming, settling.
 */
#ifndef ES_QUEUE_H
#define ES_QUEUE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "placeholder.h"
#include "queue_command.h"
#include "queue_state.h"
#include "retry.h"
#include "spi.h"
#include "use.h"

typedef struct EsQueue
{
	int32 id;
	char *name;
	char *endpoint; /* NULL: pulled by consumers */
	bool is_paused;
	bool is_for_sagas; /* ES_QUEUE_SAGAS */
	bool is_for_steps; /* steps of sagas that an endpoint takes */
	int max_in_flight; /* 0: any */
	double rate;	   /* messages a second; 0: any */
	int64 dedup_window; /* ms that a dedup_id is remembered */
	EsPlaceholder *fair_by; /* root: EsFairBy; NULL: tenants only */
	char *dead_letter_queue; /* NULL: the view dead_letters */
	char *notify; /* channel on which listeners are told of work; NULL: none */
	EsUse use;
	EsRetry retry;
} EsQueue;

/* what of a message a queue is fair by */
typedef enum EsFairBy
{
	ES_FAIR_BY_KEY,
	ES_FAIR_BY_BODY,
	ES_FAIR_BY_HEADERS
} EsFairBy;

/* the queue by name, from the backend's cache; ST008 when unknown.  Valid until the next catalog generation */
extern const EsQueue *es_queue_get(const char *name);
/* the same; NULL when unknown */
extern const EsQueue *es_queue_find(const char *name);
/* queues with an endpoint that are not paused, in order of id; list of EsQueue *, palloc'd in the current context */
extern List *es_queue_list_pushed(void);
/* the same, of those that have a channel of NOTIFY, paused or not */
extern List *es_queue_list_notifying(void);

/* one message to send; text and jsonb as datums, 0 where a field is missing */
typedef struct EsMessage
{
	Datum body;	   /* jsonb */
	Datum headers; /* jsonb */
	Datum key;	   /* text or 0 */
	Datum dedup_id; /* text or 0 */
	int32 priority;
	int64 delay_ms;
	TimestampTz deliver_at; /* where there is no delay; 0: at once */
	int64 expires_ms;		/* 0: never */
	const char *tenant;		/* NULL: the session's */
	/* filled by es_queue_send: its id, or that of the first one with its dedup_id */
	int64 id;
	bool is_duplicate;
	/* of a saga: its id is event_id, its step's parent and seq are position and version, and the message carries no event */
	bool is_command;
	bool is_arrival; /* for ES_QUEUE_SAGAS, which takes no others */
	/* where the message carries an event; type is 0 otherwise, and stream where the event has none */
	Datum stream;
	Datum type;
	Datum tags;
	int64 position;
	int64 version;
	int32 schema_version;
	pg_uuid_t event_id;
	TimestampTz occurred_at;
	TimestampTz recorded_at;
} EsMessage;

/*
 * Inserts messages, in order, and asks for a wake-up at commit; fills their ids.  Keyed messages take their
 * key's lock to the end of the transaction, in order of key, so that a key's order is the order of commits.
 */
extern void es_queue_send(const EsQueue *queue, EsMessage *messages, int n);
/* janitor: forgets at most limit dedup_ids whose window is over; returns how many */
extern int64 es_queue_trim_dedup(int limit);

/* what of a message that was given up makes a message again; SQL that selects it is in this order */
enum
{
	ES_LETTER_POSITION,
	ES_LETTER_VERSION,
	ES_LETTER_SCHEMA_VERSION,
	ES_LETTER_PRIORITY,
	ES_LETTER_EVENT_ID,
	ES_LETTER_OCCURRED_AT,
	ES_LETTER_RECORDED_AT,
	ES_LETTER_TENANT,
	ES_LETTER_KEY,
	ES_LETTER_STREAM,
	ES_LETTER_TYPE,
	ES_LETTER_TAGS,
	ES_LETTER_BODY,
	ES_LETTER_HEADERS,
	ES_LETTER_COLUMNS
};

/* the datums are not copied */
extern void es_queue_fill_message(EsMessage *message, const Datum *columns, const bool *nulls);

/* a claimed message, all palloc'd in the context of the call */
typedef struct EsDelivery
{
	char *receipt;
	int32 attempt;
	char *key; /* NULL: none */
	int64 message_id;
	Jsonb *body;
	Jsonb *headers;
	TimestampTz enqueued_at;
	/* the event, where the message carries one: has_event */
	bool has_event;
	int64 position;
	int64 version;
	int32 schema_version;
	char *stream; /* NULL: the event has none, nor a version */
	char *type;
	pg_uuid_t event_id;
	Datum tags; /* text[] or 0 */
	TimestampTz occurred_at;
	TimestampTz recorded_at;
} EsDelivery;

/* claims up to max_count; list of EsDelivery *.  Forces a synchronous commit: what leaves the database is durable */
extern List *es_queue_claim(const EsQueue *queue, const char *consumer, int max_count, int64 lease_ms);
/* an evtstore.delivery datum */
extern Datum es_queue_delivery_datum(const EsDelivery *delivery);

typedef enum EsSettle
{
	ES_SETTLE_ACK,
	ES_SETTLE_NACK,
	ES_SETTLE_REJECT,
	ES_SETTLE_RELEASE,
	ES_SETTLE_GIVE_UP /* as a nack that the retry policy ends with: a subscription's key may block */
} EsSettle;

/*
 * Settles one receipt.  delay_ms < 0: by the retry policy.  Returns false when the receipt is stale; a malformed one is
 * 22023.  Wakes workers at commit where it makes something ready.
 */
extern bool es_queue_settle(const char *receipt, EsSettle how, const char *reason, int64 delay_ms);
/*
 * Acknowledges what was delivered, a message or a command, whose saga is told.  status: of the answer, 0: none; body: of it, or NULL.  is_outside: it
 * cannot be taken back, so the saga is told also where the receipt is stale
 */
extern bool es_queue_settle_delivered(const char *receipt, int status, Jsonb *body, bool is_outside);

/* what a message's receipt says */
typedef struct EsMessageReceipt
{
	const char *text;
	int32 queue_id;
	int64 message_id;
	uint64 epoch;
	const char *stale; /* once settled: why it does not hold; NULL: it does */
	bool is_busy;	   /* not settled: another transaction is at it, and waiting was not asked for */
} EsMessageReceipt;

/* false: malformed */
extern bool es_queue_parse_receipt(const char *text, EsMessageReceipt *receipt);
/* for qsort: in the order that they are settled in */
extern int es_queue_compare_receipts(const void *a, const void *b);
/*
 * Settles n receipts in that order, each once, and sets stale.  All or nothing is up to the caller: if one is stale he
 * raises an error.  reason may be NULL; delay_ms < 0: by the retry policy.
 */
extern void es_queue_settle_receipts(EsMessageReceipt *receipts, int n, EsSettle how, const char *reason, int64 delay_ms);
/* as much of it as is kept */
extern char *es_queue_clip_reason(const char *reason);
/* the lease ends then; sets stale */
extern void es_queue_extend(EsMessageReceipt *receipt, int64 lease_ms);

/* when the next message of a pushed queue becomes ready by time (delay, backoff, lease end); 0: none waits for time */
extern TimestampTz es_queue_next_due(void);
/* gives back what the consumer holds, at once, and counts it as lost; returns how many */
extern int es_queue_evict_consumer(const char *queue, const char *consumer);
/* the same for a worker that is no more, or begins anew: what it held is as it was before it claimed it */
extern void es_queue_end_worker(int32 id, const char *consumer);
/* the consumer name of a worker of this incarnation */
extern char *es_queue_worker_consumer(int slot);

extern void es_queue_init(void);

/* the queue of what is left for sagas (saga_arrival.c); workers serve it, and nobody else sends to it or receives from it */
#define ES_QUEUE_SAGAS "evtstore:sagas"
/* makes it where there is none */
extern void es_queue_make_sagas(void);
/* the queue of what steps of sagas send to an endpoint: one for each endpoint that a saga names, and nobody else's */
#define ES_QUEUE_ENDPOINT_PREFIX "evtstore:endpoint:"
/* palloc'd */
extern char *es_queue_of_endpoint(const char *endpoint);
/* makes it where there is none */
extern void es_queue_make_of_endpoint(const char *endpoint);
/* 42501: it is one of these */
extern void es_queue_refuse_reserved(const char *name);

/*
 * Between queue.c, send.c, enqueue.c, claim.c and settle.c only
 */

/* columns of evtstore_internal.message, in order */
enum
{
	ES_MESSAGE_ID = 1,
	ES_MESSAGE_SHARE,
	ES_MESSAGE_KEY_HASH,
	ES_MESSAGE_POSITION,
	ES_MESSAGE_VERSION,
	ES_MESSAGE_ENQUEUED_AT,
	ES_MESSAGE_DELIVER_AT,
	ES_MESSAGE_EXPIRES_AT,
	ES_MESSAGE_OCCURRED_AT,
	ES_MESSAGE_RECORDED_AT,
	ES_MESSAGE_QUEUE_ID,
	ES_MESSAGE_RANK,
	ES_MESSAGE_ATTEMPT,
	ES_MESSAGE_SCHEMA_VERSION,
	ES_MESSAGE_EVENT_ID,
	ES_MESSAGE_TENANT,
	ES_MESSAGE_KEY,
	ES_MESSAGE_STREAM,
	ES_MESSAGE_TYPE,
	ES_MESSAGE_TAGS,
	ES_MESSAGE_BODY,
	ES_MESSAGE_HEADERS,
	ES_MESSAGE_FIRST_ERROR,
	ES_MESSAGE_HISTORY,
	ES_MESSAGE_COLUMNS = ES_MESSAGE_HISTORY
};

/* consumers whose name begins so are workers */
#define ES_QUEUE_WORKER_PREFIX "evtstore:"

/* SQL: the history with one more failed attempt, the last 20 kept; attempt, at and error are SQL expressions */
#define ES_QUEUE_HISTORY(attempt, at, error) \
	"(CASE WHEN pg_catalog.jsonb_array_length(history) >= 20 THEN history - 0 ELSE COALESCE(history, '[]') END" \
	" || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(" \
	"'attempt', " attempt ", 'at', " at ", 'error', " error ")))"

/*
 * SQL: the shares and ranks that a queue, $1, has messages of, from one to the next, for who looks for a message by its id: there is no index
 * by id alone, which every send would pay for
 */
#define ES_QUEUE_PLACES \
	"WITH RECURSIVE place AS (" \
	" (SELECT share, rank FROM evtstore_internal.message WHERE queue_id = $1 ORDER BY share, rank LIMIT 1)" \
	" UNION ALL" \
	" SELECT next.share, next.rank FROM place CROSS JOIN LATERAL (SELECT m.share, m.rank FROM evtstore_internal.message m" \
	" WHERE m.queue_id = $1 AND (m.share, m.rank) > (place.share, place.rank) ORDER BY m.share, m.rank LIMIT 1) next)"

/*
 * Locks the queue to the end of the transaction and returns it as it is then; NULL when it was dropped.  Modes:
 * AccessShareLock for who uses it, RowExclusiveLock for who sends keyed messages under locks of their keys,
 * ShareRowExclusiveLock for who sends so many that one lock stands for all keys, AccessExclusiveLock for its drop.
 */
extern const EsQueue *es_queue_lock(int32 id, LOCKMODE mode);
/* the tenant that this session is confined to, '' for none */
extern const char *es_queue_tenant(void);
/* now + ms; 22023 naming the argument where no timestamp is that late */
extern TimestampTz es_queue_deadline(TimestampTz now, int64 ms, const char *arg);
/* es_spi_begin, and plans that stay right however much the table grows under them */
extern void es_queue_spi_begin(EsSpiState *state);
/*
 * Moves a message that is held to the dead letters, or to the queue that its queue has for them, with so many attempts.  false: somebody
 * else has deleted it.  Inside es_queue_spi_begin
 */
extern bool es_queue_dead_letter(int32 queue_id, const EsHold *hold, int attempt, const char *cause, const char *error, TimestampTz now);
/* 0: no tenant */
extern uint64 es_queue_tenant_hash(const char *tenant, int len);
/* puts what this transaction sent to the queue and that may be taken in it at the end of the array; returns how many */
extern int es_queue_sent_here(int32 queue_id, EsReady **ready);
/* deletes the row of a hold; false: there is none.  In settle.c */
extern bool es_queue_delete_row(int32 queue_id, const EsHold *hold, EsCommand *command);
/* bigint[] */
extern Datum es_queue_id_array(const int64 *ids, int n);
extern char *es_queue_receipt(int32 queue_id, int64 message_id, uint64 epoch);

#endif
