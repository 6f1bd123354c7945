/*
 * queue_entry.h
 *		Between queue_state.c and queue_entry.c only: what of queues is in shared memory, and its parts.
 */
#ifndef ES_QUEUE_ENTRY_H
#define ES_QUEUE_ENTRY_H

#include "lib/pairingheap.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "queue_state.h"
#include "rate.h"

/* messages of one channel that are kept as ready; the others are read when it is their turn */
#define ES_MAX_READY 8192

#define ES_NONE (-1)

typedef enum EntryState
{
	ENTRY_FREE,
	ENTRY_READY,				/* in the channel's heap */
	ENTRY_HELD					/* in the channel's heap of leases, unless a transaction is at it */
} EntryState;

typedef struct Entry
{
	EsHold		hold;			/* entry, channel: where it is; epoch 0: nobody's receipt */
	int32		slot;			/* of its queue */
	int32		next;			/* in its bucket, or in the list of free ones */
	uint8		state;
	bool		untaken;		/* held by a transaction that has not ended: no receipt is out */
	TransactionId settler;		/* the transaction that settles it */
	TimestampTz until;
	TimestampTz alive;			/* held, or its receipt still holds: when who has it was heard of last */
	uint64		consumer;
	pairingheap_node node;
} Entry;

typedef struct Walk
{
	EsMark		mark;
	EsMark		late;			/* what committed while somebody walks begins here */
	bool		walking;
} Walk;

typedef struct Channel
{
	int32		next;			/* of the queue, or in the list of free ones */
	int64		share;
	uint64		tenant_hash;
	Walk		walks[ES_QUEUE_WALKS];
	TimestampTz next_due;
	int			nready;
	pairingheap ready;
	pairingheap leases;
} Channel;

typedef struct KeyFloor
{
	uint64		key_hash;
	int64		id;
	int32		slot;			/* of the queue: ids and hashes are a database's */
} KeyFloor;

struct EsQueueState
{
	int32		first_channel;
	uint32		turn;
	uint64		wanted;			/* counts reasons to look for shares */
	uint64		found;
	uint64		came;			/* counts what was made ready, or room for: news to who was told of what was there before */
	int			in_flight;
	bool		is_limited;		/* the last claim knew a max_in_flight: what is settled makes room */
	EsRate		rate;
};

typedef struct Pool
{
	slock_t		mutex;
	int32		free_entry;
	int			nfree;			/* entries */
	int32		free_channel;
	pg_atomic_uint64 last_epoch;
	TimestampTz since;			/* when this memory was made */
	EsAsyncCommits async;
} Pool;

/* immutable, set by find_parts() */
extern EsSlots *es_queue_slots;
extern EsQueueState *es_queue_states;
extern Entry *es_queue_entries;
extern Channel *es_queue_channel_array;
extern int es_queue_nbuckets;

#define ENTRY_OF_NODE(n) pairingheap_container(Entry, node, n)
#define ENTRY_OF_NODE_CONST(n) pairingheap_const_container(Entry, node, n)

/* all but the first under the queue's LWLock */
extern LWLock *es_state_lock(EsQueueState *state);
extern int32 *es_state_buckets(EsQueueState *state);
extern int32 es_channel_find(EsQueueState *state, int64 share);
extern int32 es_channel_add(EsQueueState *state, int64 share, uint64 tenant_hash);
extern Entry *es_entry_find(EsQueueState *state, int64 id);
extern void es_entry_free(EsQueueState *state, Entry *entry);
extern Entry *es_entry_of(const EsHold *hold);
extern Entry *es_entry_add_ready(EsQueueState *state, int32 number, const EsReady *ready);
extern void es_entry_make_ready(EsQueueState *state, Entry *entry, bool is_lost);
extern void es_entry_hold(EsQueueState *state, Entry *entry, const EsTake *take);
extern void es_entry_hold_again(EsQueueState *state, Entry *entry);
extern void es_entry_add_key(EsQueueState *state, const EsHold *hold);
extern KeyFloor *es_key_floor_of(EsQueueState *state, uint64 key_hash);
extern pairingheap *es_channel_leases(Channel *channel);
extern bool es_mark_is_before(EsMark a, EsMark b);
extern EsMark es_hold_place(const EsHold *hold);
extern void es_walk_lower(Walk *walk, EsMark mark);

/* Locks: none */
extern void es_state_forget_key(const EsSlotKey *key);

#endif
