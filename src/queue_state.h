/*
 * queue_state.h
 *		What of each queue is ready and who holds what: shared memory.
 */
#ifndef ES_QUEUE_STATE_H
#define ES_QUEUE_STATE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"

#include "async_commit.h"
#include "definition_slot.h"

/* after so many losses in a row a message is handed out alone */
#define ES_MESSAGE_MAX_LOST 2

typedef struct EsQueueState EsQueueState;

/* a place in the order of an index: what is before it is known here, what follows is to be read */
typedef struct EsMark
{
	int64 major; /* rank, or time */
	int64 id;
} EsMark;

#define ES_MARK_BEGIN ((EsMark) {PG_INT64_MIN, PG_INT64_MIN})
#define ES_MARK_END ((EsMark) {PG_INT64_MAX, PG_INT64_MAX})

/* the two ways through the messages of a channel */
typedef enum EsQueueWalk
{
	ES_WALK_ORDER, /* by rank: what is ready */
	ES_WALK_TIME   /* by deliver_at: what becomes ready */
} EsQueueWalk;

#define ES_QUEUE_WALKS 2

/* a message as its row has it */
typedef struct EsReady
{
	int64 id;
	int64 share;
	uint64 tenant_hash;
	uint64 key_hash; /* 0: no key */
	TimestampTz deliver_at; /* 0: at once */
	int32 rank;
	ItemPointerData tid; /* invalid: it stands for all from its place on */
} EsReady;

/* one that was taken; a copy */
typedef struct EsHold
{
	int32 entry;
	int32 channel;
	int64 id;
	int64 share;
	uint64 key_hash;
	uint64 epoch;
	int32 rank;
	int lost;	 /* times in a row that it came back unsettled */
	bool rolled_back; /* the last time by a rollback */
	bool is_key; /* not a message: a key of which the one with this id was settled */
	ItemPointerData tid;
} EsHold;

/* how a claim takes */
typedef struct EsTake
{
	int want;
	TimestampTz now;
	TimestampTz until;
	uint64 consumer; /* hash of the name; 0: none */
	int max_in_flight; /* of the queue; 0: any */
	double rate;		 /* messages a second; 0: any */
	int taken;			 /* by this claim before */
	bool ignore_due;	 /* what is due was read as far as there is room */
} EsTake;

/* what there is to do before more can be taken */
typedef struct EsTaken
{
	int n;
	bool walk[ES_QUEUE_WALKS];
	bool is_last; /* no more in this claim */
} EsTaken;

extern EsQueueState *es_queue_state_open(int32 queue_id);
/* NULL where nobody has received since the start of the server */
extern EsQueueState *es_queue_state_find(int32 queue_id);
/* the same at the end of a transaction, when no catalog can be read: raises no error */
extern EsQueueState *es_queue_state_of(const EsSlotKey *key);
/* of who sends: what was committed asynchronously is flushed before it is handed out */
extern EsAsyncCommits *es_queue_async_commits(void);

/* which shares there are has to be read from the table: afterwards _found with what this returned in *wanted */
extern bool es_queue_state_must_look(EsQueueState *state, uint64 *wanted);
extern void es_queue_state_found(EsQueueState *state, uint64 wanted);
/* false: there is no room */
extern bool es_queue_state_add_share(EsQueueState *state, int64 share, uint64 tenant_hash);

/*
 * Is there something to take for that tenant (0: any), as far as is known?  True may be wrong where rows have to be read first, false
 * is right, but for *due: then it may be different by time; DT_NOEND: not by time alone.  take: now, max_in_flight, rate.
 */
extern bool es_queue_has_work(EsQueueState *state, uint64 tenant_hash, const EsTake *take, TimestampTz *due);

/* for who tells others */
typedef struct EsQueueNews
{
	bool is_ready;		/* as es_queue_has_work */
	bool has_no_room;	/* there is something, but no room for it */
	bool became_due;	/* the time of something has come since */
	uint64 came;		/* another number than the last time: more was made ready since */
	TimestampTz due;	/* then it may be different by time, also where is_ready; DT_NOEND: not by time alone */
} EsQueueNews;

/* what there is to take for whoever it is; leases that are over are ended.  since: the time of the last look */
extern EsQueueNews es_queue_news(EsQueueState *state, const EsTake *take, TimestampTz since);

/* the channels of a tenant (0: of all) that may have something, those whose turn it is first; palloc'd */
extern int32 *es_queue_channels(EsQueueState *state, uint64 tenant_hash, TimestampTz now, int *n);
/* how many times the message was lost since its last failure; -1: nobody holds it */
extern int es_queue_held(EsQueueState *state, int64 id, TimestampTz now);

/* when who has the message was heard of last: now, if he is settling it.  0: nobody has it, as far as is known */
extern TimestampTz es_queue_alive(EsQueueState *state, int64 id, TimestampTz now);

/* at least half of the entries are free: some may be taken along for who comes next */
extern bool es_queue_has_room(void);
extern int64 es_channel_share(int32 channel);
/* until the end of this (sub)transaction at least nobody else gets what is taken */
extern EsTaken es_channel_take(EsQueueState *state, int32 channel, const EsTake *take, EsHold *holds);
/* Locks: ES_LOCK_WALK of the channel.  false: there is nothing to walk */
extern bool es_channel_walk_begin(EsQueueState *state, int32 channel, EsQueueWalk which, EsMark *from);
/* false: nothing came of it, for want of room.  next_due: for ES_WALK_TIME, the time of the first row that is not due yet, or DT_NOEND */
extern bool es_channel_walk_end(EsQueueState *state, int32 channel, EsQueueWalk which, const EsReady *found, int n, EsMark upto,
								TimestampTz next_due);
/* a committed row that may be new to us.  Raises no error */
extern void es_queue_announce(EsQueueState *state, const EsReady *ready);
/* takes a message that only this transaction can see yet; false: it is known already, or there is no room */
extern bool es_queue_take_own(EsQueueState *state, const EsReady *ready, const EsTake *take, EsHold *hold);
/* what was taken is no message any more, or not ready */
extern void es_queue_drop(EsQueueState *state, const EsHold *hold);
/* the same for the rate alone: it was settled where it was taken */
extern void es_queue_did_not_go_out(EsQueueState *state);
/* every message of that key up to the one with this id is settled */
extern int64 es_queue_key_floor(EsQueueState *state, uint64 key_hash);

/*
 * The hold that a receipt names, for settling it, which waits for a transaction that does the same; with is_busy it does not wait, but sets
 * that, and nothing is held.  tenant_hash 0: any.  NULL, or why the receipt does not hold.
 */
extern const char *es_queue_hold(EsQueueState *state, int64 id, uint64 epoch, uint64 tenant_hash, EsHold *hold, bool *is_busy);
/* the same for whoever has it, if no transaction is at it; it may be taken away from him.  Waits for nobody; false: not held */
extern bool es_queue_hold_idle(EsQueueState *state, int64 id, EsHold *hold);
/* is it known here, and not being settled by this transaction? */
extern bool es_queue_is_others(EsQueueState *state, int64 id);
/* with the commit of this transaction everything is read again: rows were deleted past us */
extern void es_queue_read_again(EsQueueState *state);
/* what becomes of it when this transaction has committed */
extern void es_queue_gone(const EsHold *hold);
/* its row is where tid is by now, with its attempts counted; 0: at once */
extern void es_queue_again(const EsHold *hold, const ItemPointerData *tid, TimestampTz deliver_at);
extern void es_queue_given_back(const EsHold *hold);
/* at once; false: stale */
extern bool es_queue_extend_lease(EsQueueState *state, int64 id, uint64 epoch, uint64 tenant_hash, TimestampTz now, TimestampTz until);
/* gives back what a consumer holds; returns how many */
extern int es_queue_evict(EsQueueState *state, uint64 consumer, bool is_lost);
/* keys of what this transaction settled; for taking what follows in it.  palloc'd */
extern EsHold *es_queue_settled_here(EsQueueState *state, int *n);

/* with the commit of this transaction, which drops the queue */
extern void es_queue_state_forget(int32 queue_id);
/* the same for all queues of a store, which has that table of definitions; one that somebody uses right now keeps its slot until they are short */
extern void es_queue_state_forget_store(Oid definition);
extern void es_queue_state_forget_databases(List *existing);

/* of messages that were sent before nobody knows who has had them */
extern TimestampTz es_queue_remembers_since(void);

/* when the next lease ends or the next delay is over; 0: none */
extern TimestampTz es_queue_state_next_due(EsQueueState *state);

/* copies of what somebody holds, with the end of his lease where until is not NULL; palloc'd */
extern EsHold *es_queue_in_flight(EsQueueState *state, TimestampTz **until, int *n);

extern void es_queue_state_init(void);

#endif
