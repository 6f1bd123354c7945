/*
 * queue_entry.c
 *		What of queues is in shared memory: its parts, entries, channels and heaps.
 *
 * Runs in the backends of senders and consumers and in workers, on behalf of queue_state.c, which has the locks and the rules:
 * what is a queue's is under its LWLock, held by the caller; the lists of what is free are under a spinlock, taken last; slots
 * are under another LWLock.  Nothing here waits or raises an error under them.  A crash makes all of it anew.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "guc.h"
#include "lock.h"
#include "queue_effect.h"
#include "queue_entry.h"
#include "shmem.h"

#define STATE_LOCKS 16
/* the lock of the slots */
#define SLOTS_LOCK (&locks[STATE_LOCKS].lock)

/* keys whose last settled message is remembered, for each of the locks */
#define KEY_FLOORS 4096

/* the parts of the area, all immutable */
EsSlots *es_queue_slots = NULL;
EsQueueState *es_queue_states = NULL;
static Pool *pool = NULL;
Entry *es_queue_entries = NULL;
Channel *es_queue_channel_array = NULL;
static int32 *buckets = NULL;
static KeyFloor *key_floors = NULL;
static int	nentries = 0;
int es_queue_nbuckets = 0;
static LWLockPadded *locks = NULL;

static char *area = NULL;

static int lock_number(EsQueueState *state);
static void find_parts(void);
static Size lay_out(char *begin);
static Size area_size(void);
static int max_channels(void);
static void clear_state(EsQueueState *state);
static void area_init(void *ptr);
static void begin_state(int slot, void *arg);
static void end_state(int slot);
static int32 *bucket_of(EsQueueState *state, int64 id);
static Entry *new_entry(void);
static void es_entry_unlink(Entry *entry);
static pairingheap *ready_heap(Channel *channel);
static int compare_places(const pairingheap_node *a, const pairingheap_node *b, void *arg);
static int compare_leases(const pairingheap_node *a, const pairingheap_node *b, void *arg);

void
es_queue_state_init(void)
{
	static const EsShmemPart part = {
		.name = "queues",
		.size = area_size,
		.init = area_init,
		.area = (void **) &area,
		.nlocks = STATE_LOCKS + 1,
		.locks = &locks,
	};

	es_shmem_register(&part);
	es_queue_effect_init();
}

EsQueueState *
es_queue_state_open(int32 queue_id)
{
	int			slot;

	find_parts();
	slot = es_slots_take(es_queue_slots, SLOTS_LOCK, "queue", ES_LOCK_QUEUE, queue_id, begin_state, NULL);
	if (slot < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("%d queues of this server are in use", es_queue_slots->nslots),
				 errhint("Raise evtstore.max_queues and restart the server.")));
	return &es_queue_states[slot];
}

EsQueueState *
es_queue_state_find(int32 queue_id)
{
	int			slot;

	find_parts();
	slot = es_slots_find(es_queue_slots, SLOTS_LOCK, queue_id);
	return slot < 0 ? NULL : &es_queue_states[slot];
}

EsQueueState *
es_queue_state_of(const EsSlotKey *key)
{
	int			slot;

	find_parts();
	slot = es_slots_find_key(es_queue_slots, SLOTS_LOCK, key);
	return slot < 0 ? NULL : &es_queue_states[slot];
}

EsAsyncCommits *
es_queue_async_commits(void)
{
	find_parts();
	return &pool->async;
}

TimestampTz
es_queue_remembers_since(void)
{
	return pool->since;
}

void
es_queue_state_forget_databases(List *existing)
{
	find_parts();
	es_slots_forget_databases(es_queue_slots, SLOTS_LOCK, existing, end_state);
}

void
es_queue_state_forget_store(Oid definition)
{
	EsSlotKey  *keys;
	int			n;

	find_parts();
	keys = es_slots_lock_store(es_queue_slots, SLOTS_LOCK, ES_LOCK_QUEUE, definition, &n);
	for (int i = 0; i < n; i++)
		es_queue_effect_add(ES_EFFECT_FORGET, es_queue_state_of(&keys[i]), NULL)->key = keys[i];
	pfree(keys);
}

int32
es_queue_state_id(EsQueueState *state)
{
	return es_queue_slots->keys[state - es_queue_states].id;
}

LWLock *
es_state_lock(EsQueueState *state)
{
	return &locks[lock_number(state)].lock;
}

static int
max_channels(void)
{
	return es_guc_max_queues * 64;
}

static int
lock_number(EsQueueState *state)
{
	return (state - es_queue_states) % STATE_LOCKS;
}

/* Locks: the queue's */
static void
clear_state(EsQueueState *state)
{
	int			slot = state - es_queue_states;

	for (int b = 0; b < es_queue_nbuckets; b++)
		for (int32 e = es_state_buckets(state)[b], next; e != ES_NONE; e = next)
		{
			next = es_queue_entries[e].next;
			if (es_queue_entries[e].slot == slot)
				es_entry_free(state, &es_queue_entries[e]);
		}
	while (state->first_channel != ES_NONE)
	{
		int32		c = state->first_channel;

		state->first_channel = es_queue_channel_array[c].next;
		SpinLockAcquire(&pool->mutex);
		es_queue_channel_array[c].next = pool->free_channel;
		pool->free_channel = c;
		SpinLockRelease(&pool->mutex);
	}
	memset(state, 0, sizeof(EsQueueState));
	state->first_channel = ES_NONE;
	state->wanted = 1;
	for (int i = 0; i < KEY_FLOORS; i++)
		key_floors[lock_number(state) * KEY_FLOORS + i] = (KeyFloor) {0};
}

int32
es_channel_find(EsQueueState *state, int64 share)
{
	for (int32 c = state->first_channel; c != ES_NONE; c = es_queue_channel_array[c].next)
		if (es_queue_channel_array[c].share == share)
			return c;
	return ES_NONE;
}

/* NONE: no room */
int32
es_channel_add(EsQueueState *state, int64 share, uint64 tenant_hash)
{
	int32		number;
	Channel    *channel;

	SpinLockAcquire(&pool->mutex);
	number = pool->free_channel;
	if (number != ES_NONE)
		pool->free_channel = es_queue_channel_array[number].next;
	SpinLockRelease(&pool->mutex);
	if (number == ES_NONE)
		return ES_NONE;
	channel = &es_queue_channel_array[number];
	memset(channel, 0, sizeof(Channel));
	channel->share = share;
	channel->tenant_hash = tenant_hash;
	for (int w = 0; w < ES_QUEUE_WALKS; w++)
		channel->walks[w] = (Walk) {.mark = ES_MARK_BEGIN, .late = ES_MARK_END};
	channel->next_due = DT_NOBEGIN;
	channel->next = state->first_channel;
	state->first_channel = number;
	return number;
}

Entry *
es_entry_find(EsQueueState *state, int64 id)
{
	for (int32 e = *bucket_of(state, id); e != ES_NONE; e = es_queue_entries[e].next)
		if (es_queue_entries[e].hold.id == id && es_queue_entries[e].slot == state - es_queue_states && !es_queue_entries[e].hold.is_key)
			return &es_queue_entries[e];
	return NULL;
}

void
es_entry_free(EsQueueState *state, Entry *entry)
{
	int32		number = entry - es_queue_entries;
	int32	   *link = bucket_of(state, entry->hold.id);

	es_entry_unlink(entry);
	if (entry->state == ENTRY_HELD && !entry->hold.is_key)
		state->in_flight--;
	while (*link != number)
		link = &es_queue_entries[*link].next;
	*link = entry->next;
	entry->state = ENTRY_FREE;
	entry->settler = InvalidTransactionId;
	SpinLockAcquire(&pool->mutex);
	entry->next = pool->free_entry;
	pool->free_entry = number;
	pool->nfree++;
	SpinLockRelease(&pool->mutex);
}

/* NULL: the hold is over */
Entry *
es_entry_of(const EsHold *hold)
{
	Entry	   *entry = &es_queue_entries[hold->entry];

	return entry->state != ENTRY_FREE && entry->hold.id == hold->id && entry->hold.epoch == hold->epoch ? entry : NULL;
}

/* NULL: no room */
Entry *
es_entry_add_ready(EsQueueState *state, int32 number, const EsReady *ready)
{
	Channel    *channel = &es_queue_channel_array[number];
	Entry	   *entry = new_entry();
	int32	   *bucket;

	if (entry == NULL)
		return NULL;
	entry->slot = state - es_queue_states;
	entry->hold.channel = number;
	entry->hold.id = ready->id;
	entry->hold.share = ready->share;
	entry->hold.key_hash = ready->key_hash;
	entry->hold.rank = ready->rank;
	entry->hold.tid = ready->tid;
	bucket = bucket_of(state, ready->id);
	entry->next = *bucket;
	*bucket = entry->hold.entry;
	entry->state = ENTRY_READY;
	channel->nready++;
	pairingheap_add(ready_heap(channel), &entry->node);
	return entry;
}

/* it is nobody's */
void
es_entry_make_ready(EsQueueState *state, Entry *entry, bool is_lost)
{
	Channel    *channel = &es_queue_channel_array[entry->hold.channel];

	es_entry_unlink(entry);
	if (entry->state == ENTRY_HELD && !entry->hold.is_key)
		state->in_flight--;
	if (is_lost)
		entry->hold.lost = Min(entry->hold.lost + 1, INT_MAX - 1);
	entry->hold.epoch = 0;
	entry->hold.rolled_back = false;
	entry->untaken = false;
	entry->settler = InvalidTransactionId;
	entry->state = ENTRY_READY;
	state->came++;
	channel->nready++;
	pairingheap_add(ready_heap(channel), &entry->node);
}

/* one that is ready */
void
es_entry_hold(EsQueueState *state, Entry *entry, const EsTake *take)
{
	es_entry_unlink(entry);
	entry->state = ENTRY_HELD;
	entry->untaken = true;
	entry->until = take->until;
	entry->alive = take->now;
	entry->consumer = take->consumer;
	entry->hold.epoch = pg_atomic_add_fetch_u64(&pool->last_epoch, 1);
	if (!entry->hold.is_key)
		state->in_flight++;
}

/* out of its heap, by who has its receipt: also one whose lease was over and that nobody took */
void
es_entry_hold_again(EsQueueState *state, Entry *entry)
{
	es_entry_unlink(entry);
	if (entry->state == ENTRY_READY)
	{
		/* nor was it lost */
		entry->hold.lost--;
		state->in_flight++;
	}
	entry->state = ENTRY_HELD;
}

/* whoever takes next looks for the next message of the key */
void
es_entry_add_key(EsQueueState *state, const EsHold *hold)
{
	KeyFloor   *floor = es_key_floor_of(state, hold->key_hash);
	Channel    *channel = &es_queue_channel_array[hold->channel];
	Entry	   *entry;
	int32	   *bucket;

	if (floor->key_hash != hold->key_hash || floor->slot != state - es_queue_states || floor->id < hold->id)
		*floor = (KeyFloor) {hold->key_hash, hold->id, state - es_queue_states};
	state->came++;
	entry = new_entry();
	if (entry == NULL)
	{
		es_walk_lower(&channel->walks[ES_WALK_ORDER], ES_MARK_BEGIN);
		return;
	}
	entry->slot = state - es_queue_states;
	entry->hold.channel = hold->channel;
	entry->hold.id = hold->id;
	entry->hold.share = hold->share;
	entry->hold.key_hash = hold->key_hash;
	entry->hold.is_key = true;
	bucket = bucket_of(state, hold->id);
	entry->next = *bucket;
	*bucket = entry->hold.entry;
	entry->state = ENTRY_READY;
	channel->nready++;
	pairingheap_add(ready_heap(channel), &entry->node);
}

KeyFloor *
es_key_floor_of(EsQueueState *state, uint64 key_hash)
{
	return &key_floors[lock_number(state) * KEY_FLOORS + (key_hash + (state - es_queue_states)) % KEY_FLOORS];
}

pairingheap *
es_channel_leases(Channel *channel)
{
	channel->leases.ph_compare = compare_leases;
	return &channel->leases;
}

bool
es_mark_is_before(EsMark a, EsMark b)
{
	return a.major != b.major ? a.major < b.major : a.id < b.id;
}

/* keys first: they only show what is ready */
EsMark
es_hold_place(const EsHold *hold)
{
	return hold->is_key ? ES_MARK_BEGIN : (EsMark) {hold->rank, hold->id};
}

/* from there on it is to be read again */
void
es_walk_lower(Walk *walk, EsMark mark)
{
	if (walk->walking && es_mark_is_before(mark, walk->late))
		walk->late = mark;
	if (es_mark_is_before(mark, walk->mark))
		walk->mark = mark;
}

static void
find_parts(void)
{
	if (es_queue_slots == NULL)
		(void) lay_out(area);
}

/* one part behind the other; the size of all */
static Size
lay_out(char *begin)
{
	Size		size = 0;

	/* what is taken was ready first: room for that beside what is in flight */
	nentries = es_guc_max_messages_in_flight + es_guc_max_messages_in_flight / 2 + ES_MAX_READY;
	for (es_queue_nbuckets = 1024; es_queue_nbuckets < nentries / 4; es_queue_nbuckets *= 2)
		;
#define PART(var, wanted) ((var) = begin == NULL ? NULL : (void *) (begin + size), size = add_size(size, MAXALIGN(wanted)))
	PART(pool, sizeof(Pool));
	PART(es_queue_states, mul_size(es_guc_max_queues, sizeof(EsQueueState)));
	PART(es_queue_entries, mul_size(nentries, sizeof(Entry)));
	PART(es_queue_channel_array, mul_size(max_channels(), sizeof(Channel)));
	PART(buckets, mul_size(mul_size(STATE_LOCKS, es_queue_nbuckets), sizeof(int32)));
	PART(key_floors, STATE_LOCKS * KEY_FLOORS * sizeof(KeyFloor));
	PART(es_queue_slots, es_slots_size(es_guc_max_queues));
#undef PART
	return size;
}

/* before the area is there, at each start of the server and again after a crash */
static Size
area_size(void)
{
	return lay_out(NULL);
}

static void
area_init(void *ptr)
{
	(void) lay_out(ptr);
	SpinLockInit(&pool->mutex);
	/* another one than before the crash, so that no receipt from then fits */
	pg_atomic_init_u64(&pool->last_epoch, es_shmem_incarnation() >> 2);
	/* by the clock that messages are enqueued by */
	pool->since = es_clock_now();
	es_async_init(&pool->async);
	pool->free_entry = pool->free_channel = 0;
	pool->nfree = nentries;
	for (int i = 0; i < nentries; i++)
		es_queue_entries[i].next = i + 1 < nentries ? i + 1 : ES_NONE;
	for (int i = 0; i < max_channels(); i++)
		es_queue_channel_array[i].next = i + 1 < max_channels() ? i + 1 : ES_NONE;
	for (int i = 0; i < STATE_LOCKS * es_queue_nbuckets; i++)
		buckets[i] = ES_NONE;
	for (int i = 0; i < es_guc_max_queues; i++)
		es_queue_states[i].first_channel = ES_NONE;
	es_queue_slots->nslots = es_guc_max_queues;
}

/* Locks: SLOTS_LOCK, under which this is the only other LWLock that is taken, and never the other way round */
static void
begin_state(int slot, void *arg)
{
	LWLockAcquire(es_state_lock(&es_queue_states[slot]), LW_EXCLUSIVE);
	clear_state(&es_queue_states[slot]);
	LWLockRelease(es_state_lock(&es_queue_states[slot]));
}

static int32 *
bucket_of(EsQueueState *state, int64 id)
{
	uint64		hash = ((uint64) id + ((uint64) (state - es_queue_states) << 40)) * UINT64CONST(0x9E3779B97F4A7C15);

	return &buckets[lock_number(state) * es_queue_nbuckets + (int) ((hash >> 32) & (es_queue_nbuckets - 1))];
}

/* NULL: no room */
static Entry *
new_entry(void)
{
	int32		number;

	SpinLockAcquire(&pool->mutex);
	number = pool->free_entry;
	if (number != ES_NONE)
	{
		pool->free_entry = es_queue_entries[number].next;
		pool->nfree--;
	}
	SpinLockRelease(&pool->mutex);
	if (number == ES_NONE)
		return NULL;
	memset(&es_queue_entries[number], 0, sizeof(Entry));
	es_queue_entries[number].hold.entry = number;
	return &es_queue_entries[number];
}

/* out of the heap that it is in */
static void
es_entry_unlink(Entry *entry)
{
	Channel    *channel = &es_queue_channel_array[entry->hold.channel];

	if (entry->state == ENTRY_READY)
	{
		pairingheap_remove(ready_heap(channel), &entry->node);
		channel->nready--;
	}
	else if (!entry->untaken && !TransactionIdIsValid(entry->settler))
		pairingheap_remove(es_channel_leases(channel), &entry->node);
}

/*
 * The server's heap keeps the address of its comparison beside it: of this process, which need not be that of another.
 */
static pairingheap *
ready_heap(Channel *channel)
{
	channel->ready.ph_compare = compare_places;
	return &channel->ready;
}

/* the greatest is first */
static int
compare_places(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	EsMark		x = es_hold_place(&ENTRY_OF_NODE_CONST(a)->hold);
	EsMark		y = es_hold_place(&ENTRY_OF_NODE_CONST(b)->hold);

	return es_mark_is_before(x, y) ? 1 : es_mark_is_before(y, x) ? -1 : 0;
}

static int
compare_leases(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz x = ENTRY_OF_NODE_CONST(a)->until;
	TimestampTz y = ENTRY_OF_NODE_CONST(b)->until;

	return x < y ? 1 : x > y ? -1 : 0;
}

int32 *
es_state_buckets(EsQueueState *state)
{
	return &buckets[lock_number(state) * es_queue_nbuckets];
}

void
es_state_forget_key(const EsSlotKey *key)
{
	es_slots_forget(es_queue_slots, SLOTS_LOCK, key, end_state);
}

/* a glance: somebody may take the last one meanwhile */
bool
es_queue_has_room(void)
{
	return ((volatile Pool *) pool)->nfree > nentries / 2;
}

/* Locks: SLOTS_LOCK */
static void
end_state(int slot)
{
	begin_state(slot, NULL);
}
