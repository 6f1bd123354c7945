/*
 * queue_state.c
 *		What of each queue is ready and who holds what.
 *
 * Runs in the backends of senders and consumers and in workers.  docs/architecture-queues.md has the argument.
 *
 * Shared: a slot for each queue in use; for each share of it (a tenant, or what else it is fair to) a channel, with the marks up
 * to which its messages are known here, a heap of those that are ready and a heap of leases; and one pool of entries for
 * messages that are ready, held, or of a key that was settled.  A queue and all that is its own is under one of a few
 * LWLocks; the lists of free entries and channels under a spinlock, taken last; the slots under another LWLock, taken before a queue's.
 *
 * Nothing is waited for and no table is read under a lock of these.  A message is changed only by who took it until his
 * transaction is over, then by whoever has its receipt, one transaction at a time (settler), or by who finds its lease over.
 *
 * A crash makes all of it anew, empty: every message that is in the table is ready, and no receipt holds.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/pairingheap.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "queue_effect.h"
#include "queue_entry.h"

static bool has_something(Channel *channel, TimestampTz now);
static TimestampTz next_due(Channel *channel);
static TimestampTz lease_end(Channel *channel);
static void read_again(EsQueueState *state);
static int take_room(EsQueueState *state, const EsTake *take);
static void announce(EsQueueState *state, const EsReady *ready);
static void expire(EsQueueState *state, Channel *channel, TimestampTz now);

bool
es_queue_state_must_look(EsQueueState *state, uint64 *wanted)
{
	bool		result;

	LWLockAcquire(es_state_lock(state), LW_SHARED);
	*wanted = state->wanted;
	result = state->wanted != state->found;
	LWLockRelease(es_state_lock(state));
	return result;
}

void
es_queue_state_found(EsQueueState *state, uint64 wanted)
{
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	state->found = Max(state->found, wanted);
	LWLockRelease(es_state_lock(state));
}

bool
es_queue_state_add_share(EsQueueState *state, int64 share, uint64 tenant_hash)
{
	int32		channel;

	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	channel = es_channel_find(state, share);
	if (channel == ES_NONE)
		channel = es_channel_add(state, share, tenant_hash);
	LWLockRelease(es_state_lock(state));
	return channel != ES_NONE;
}

bool
es_queue_has_work(EsQueueState *state, uint64 tenant_hash, const EsTake *take, TimestampTz *due)
{
	bool		found = false;

	*due = DT_NOEND;
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	if (state->wanted != state->found)
		found = true;
	for (int32 c = state->first_channel; c != ES_NONE && !found; c = es_queue_channel_array[c].next)
	{
		Channel    *channel = &es_queue_channel_array[c];

		if (tenant_hash != 0 && channel->tenant_hash != tenant_hash)
			continue;
		found = has_something(channel, take->now);
		*due = Min(*due, next_due(channel));
	}
	if (found && take_room(state, take) == 0)
	{
		/* the next token, or the end of a lease makes room; else somebody settles */
		found = false;
		*due = DT_NOEND;
		if (take->rate > 0 && state->rate.tokens < 1)
			*due = es_rate_next(&state->rate, take->rate, take->now);
		else
			for (int32 c = state->first_channel; c != ES_NONE; c = es_queue_channel_array[c].next)
				*due = Min(*due, lease_end(&es_queue_channel_array[c]));
	}
	LWLockRelease(es_state_lock(state));
	return found;
}

EsQueueNews
es_queue_news(EsQueueState *state, const EsTake *take, TimestampTz since)
{
	EsQueueNews news = {.due = DT_NOEND};

	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	news.is_ready = state->wanted != state->found;
	for (int32 c = state->first_channel; c != ES_NONE; c = es_queue_channel_array[c].next)
	{
		Channel    *channel = &es_queue_channel_array[c];

		expire(state, channel, take->now);
		news.is_ready |= has_something(channel, take->now);
		news.became_due |= channel->next_due > since && channel->next_due <= take->now;
		if (channel->next_due > take->now)
			news.due = Min(news.due, channel->next_due);
		news.due = Min(news.due, lease_end(channel));
	}
	if (news.is_ready && take_room(state, take) == 0)
	{
		news.is_ready = false;
		news.has_no_room = true;
		/* what becomes due changes nothing then; who settles, or a lease that ends, makes room */
		if (take->rate > 0 && state->rate.tokens < 1)
			news.due = es_rate_next(&state->rate, take->rate, take->now);
	}
	news.came = state->came;
	LWLockRelease(es_state_lock(state));
	return news;
}

int
es_queue_held(EsQueueState *state, int64 id, TimestampTz now)
{
	Entry	   *entry;
	int			lost;

	LWLockAcquire(es_state_lock(state), LW_SHARED);
	entry = es_entry_find(state, id);
	lost = entry != NULL && entry->state == ENTRY_HELD && entry->until > now ? entry->hold.lost : -1;
	LWLockRelease(es_state_lock(state));
	return lost;
}

TimestampTz
es_queue_alive(EsQueueState *state, int64 id, TimestampTz now)
{
	Entry	   *entry;
	TimestampTz alive = 0;

	LWLockAcquire(es_state_lock(state), LW_SHARED);
	entry = es_entry_find(state, id);
	/* also behind the end of the lease, until somebody else has it or it was given back */
	if (entry != NULL && TransactionIdIsValid(entry->settler))
		alive = now;
	else if (entry != NULL && (entry->state == ENTRY_HELD || entry->hold.epoch != 0))
		alive = entry->alive;
	LWLockRelease(es_state_lock(state));
	return alive;
}

int32 *
es_queue_channels(EsQueueState *state, uint64 tenant_hash, TimestampTz now, int *n)
{
	int			size = 16;
	int			first;
	int32	   *result = palloc(size * sizeof(int32));
	int32	   *turned;
	int			count;

	for (;;)
	{
		count = 0;
		LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
		for (int32 c = state->first_channel; c != ES_NONE; c = es_queue_channel_array[c].next)
			if ((tenant_hash == 0 || es_queue_channel_array[c].tenant_hash == tenant_hash) &&
				has_something(&es_queue_channel_array[c], now))
			{
				if (count < size)
					result[count] = c;
				count++;
			}
		first = count > 0 ? state->turn++ % count : 0;
		LWLockRelease(es_state_lock(state));
		if (count <= size)
			break;
		size = count * 2;
		result = repalloc(result, size * sizeof(int32));
	}
	*n = count;
	if (first == 0)
		return result;
	turned = palloc(count * sizeof(int32));
	for (int i = 0; i < count; i++)
		turned[i] = result[(first + i) % count];
	return turned;
}

/* immutable while the queue is there */
int64
es_channel_share(int32 channel)
{
	return es_queue_channel_array[channel].share;
}

EsTaken
es_channel_take(EsQueueState *state, int32 number, const EsTake *take, EsHold *holds)
{
	Channel    *channel = &es_queue_channel_array[number];
	EsTaken		taken = {0};
	int			room;

	es_queue_effects_reserve(take->want);
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	expire(state, channel, take->now);
	taken.walk[ES_WALK_TIME] = !take->ignore_due && channel->next_due <= take->now;
	room = take_room(state, take);
	while (!taken.walk[ES_WALK_TIME] && taken.n < take->want)
	{
		Entry	   *entry = pairingheap_is_empty(&channel->ready) ? NULL : ENTRY_OF_NODE(pairingheap_first(&channel->ready));

		if (entry == NULL || !es_mark_is_before(es_hold_place(&entry->hold), channel->walks[ES_WALK_ORDER].mark))
		{
			taken.walk[ES_WALK_ORDER] = es_mark_is_before(channel->walks[ES_WALK_ORDER].mark, ES_MARK_END);
			break;
		}
		/* what is not a message needs no room */
		if (room == 0 && !entry->hold.is_key)
		{
			taken.is_last = true;
			break;
		}
		if (entry->hold.lost >= ES_MESSAGE_MAX_LOST && take->taken + taken.n > 0)
		{
			taken.is_last = true;
			break;
		}
		es_entry_hold(state, entry, take);
		holds[taken.n++] = entry->hold;
		(void) es_queue_effect_add(ES_EFFECT_TAKEN, state, &entry->hold);
		if (!entry->hold.is_key)
			room--;
		if (!entry->hold.is_key && take->rate > 0)
			es_rate_spend(&state->rate, 1);
		if (entry->hold.lost >= ES_MESSAGE_MAX_LOST)
		{
			taken.is_last = true;
			break;
		}
	}
	LWLockRelease(es_state_lock(state));
	return taken;
}

bool
es_channel_walk_begin(EsQueueState *state, int32 number, EsQueueWalk which, EsMark *from)
{
	Walk	   *walk = &es_queue_channel_array[number].walks[which];
	bool		result;

	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	/* an error ended a walk before this one */
	if (walk->walking && es_mark_is_before(walk->late, walk->mark))
		walk->mark = walk->late;
	*from = walk->mark;
	result = es_mark_is_before(walk->mark, ES_MARK_END);
	walk->walking = result;
	walk->late = ES_MARK_END;
	LWLockRelease(es_state_lock(state));
	return result;
}

bool
es_channel_walk_end(EsQueueState *state, int32 number, EsQueueWalk which, const EsReady *found, int n, EsMark upto,
					TimestampTz next_due)
{
	Channel    *channel = &es_queue_channel_array[number];
	Walk	   *walk = &channel->walks[which];
	bool		result = true;

	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
		if (es_entry_find(state, found[i].id) == NULL && es_entry_add_ready(state, number, &found[i]) == NULL)
		{
			result = i > 0;
			/* no room: from here on it is read again */
			upto = which == ES_WALK_ORDER ? (EsMark) {found[i].rank, found[i].id} : (EsMark) {found[i].deliver_at, found[i].id};
			next_due = upto.major;
			break;
		}
	walk->mark = es_mark_is_before(walk->late, upto) ? walk->late : upto;
	walk->walking = false;
	if (which == ES_WALK_TIME)
	{
		channel->next_due = Min(next_due, walk->late.major);
		/* who found them may leave some of them to others, who cannot tell by next_due any more that they came */
		state->came += n > 0;
	}
	LWLockRelease(es_state_lock(state));
	return result;
}

void
es_queue_announce(EsQueueState *state, const EsReady *ready)
{
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	announce(state, ready);
	LWLockRelease(es_state_lock(state));
}

bool
es_queue_take_own(EsQueueState *state, const EsReady *ready, const EsTake *take, EsHold *hold)
{
	Entry	   *entry;
	int32		channel;

	es_queue_effects_reserve(1);
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	channel = es_channel_find(state, ready->share);
	if (channel == ES_NONE)
		channel = es_channel_add(state, ready->share, ready->tenant_hash);
	entry = es_entry_find(state, ready->id);
	if (entry == NULL && channel != ES_NONE && take_room(state, take) > 0)
		entry = es_entry_add_ready(state, channel, ready);
	else if (entry != NULL && (entry->state != ENTRY_READY || take_room(state, take) == 0))
		entry = NULL;
	if (entry != NULL)
	{
		es_entry_hold(state, entry, take);
		*hold = entry->hold;
		if (take->rate > 0)
			es_rate_spend(&state->rate, 1);
		(void) es_queue_effect_add(ES_EFFECT_TAKEN, state, hold);
	}
	LWLockRelease(es_state_lock(state));
	return entry != NULL;
}

void
es_queue_drop(EsQueueState *state, const EsHold *hold)
{
	Entry	   *entry;

	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	entry = es_entry_of(hold);
	if (entry != NULL)
		es_entry_free(state, entry);
	/* it did not go out */
	if (!hold->is_key)
		es_rate_spend(&state->rate, -1);
	LWLockRelease(es_state_lock(state));
}

void
es_queue_did_not_go_out(EsQueueState *state)
{
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	es_rate_spend(&state->rate, -1);
	LWLockRelease(es_state_lock(state));
}

int64
es_queue_key_floor(EsQueueState *state, uint64 key_hash)
{
	KeyFloor   *floor = es_key_floor_of(state, key_hash);
	int64		result;

	LWLockAcquire(es_state_lock(state), LW_SHARED);
	result = floor->key_hash == key_hash && floor->slot == state - es_queue_states ? floor->id : 0;
	LWLockRelease(es_state_lock(state));
	return result;
}

const char *
es_queue_hold(EsQueueState *state, int64 id, uint64 epoch, uint64 tenant_hash, EsHold *hold, bool *is_busy)
{
	TransactionId me = GetTopTransactionId();

	es_queue_effects_reserve(1);
	for (;;)
	{
		const char *stale = NULL;
		TransactionId other = InvalidTransactionId;
		Entry	   *entry;

		LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
		entry = es_entry_find(state, id);
		if (entry == NULL || (tenant_hash != 0 && es_queue_channel_array[entry->hold.channel].tenant_hash != tenant_hash))
			stale = "settled";
		else if (entry->hold.epoch != epoch)
			stale = "claimed_again";
		else if (entry->settler == me)
			stale = "settled";
		else if (TransactionIdIsValid(entry->settler))
			other = entry->settler;
		else
		{
			es_entry_hold_again(state, entry);
			entry->settler = me;
			*hold = entry->hold;
			(void) es_queue_effect_add(ES_EFFECT_SETTLED, state, hold);
		}
		LWLockRelease(es_state_lock(state));
		if (!TransactionIdIsValid(other))
			return stale;
		if (is_busy != NULL)
		{
			*is_busy = true;
			return NULL;
		}
		XactLockTableWait(other, NULL, NULL, XLTW_None);
	}
}

bool
es_queue_hold_idle(EsQueueState *state, int64 id, EsHold *hold)
{
	TransactionId me = GetTopTransactionId();
	Entry	   *entry;
	bool		result;

	es_queue_effects_reserve(1);
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	entry = es_entry_find(state, id);
	result = entry != NULL && entry->state == ENTRY_HELD && !entry->untaken && !TransactionIdIsValid(entry->settler);
	if (result)
	{
		es_entry_hold_again(state, entry);
		entry->settler = me;
		*hold = entry->hold;
		(void) es_queue_effect_add(ES_EFFECT_SETTLED, state, hold);
	}
	LWLockRelease(es_state_lock(state));
	return result;
}

bool
es_queue_is_others(EsQueueState *state, int64 id)
{
	TransactionId me = GetTopTransactionIdIfAny();
	Entry	   *entry;
	bool		result;

	LWLockAcquire(es_state_lock(state), LW_SHARED);
	entry = es_entry_find(state, id);
	result = entry != NULL && (!TransactionIdIsValid(entry->settler) || entry->settler != me);
	LWLockRelease(es_state_lock(state));
	return result;
}

void
es_queue_read_again(EsQueueState *state)
{
	(void) es_queue_effect_add(ES_EFFECT_READ_AGAIN, state, NULL);
}

void
es_queue_gone(const EsHold *hold)
{
	es_queue_effect_settle(hold, ES_EFFECT_GONE);
}

void
es_queue_again(const EsHold *hold, const ItemPointerData *tid, TimestampTz deliver_at)
{
	EsQueueEffect *effect = es_queue_effect_settle(hold, ES_EFFECT_AGAIN);

	effect->hold.tid = *tid;
	effect->deliver_at = deliver_at;
}

void
es_queue_given_back(const EsHold *hold)
{
	es_queue_effect_settle(hold, ES_EFFECT_GIVEN_BACK);
}

bool
es_queue_extend_lease(EsQueueState *state, int64 id, uint64 epoch, uint64 tenant_hash, TimestampTz now, TimestampTz until)
{
	Entry	   *entry;
	bool		result;

	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	entry = es_entry_find(state, id);
	result = entry != NULL && entry->hold.epoch == epoch &&
		(tenant_hash == 0 || es_queue_channel_array[entry->hold.channel].tenant_hash == tenant_hash);
	if (result)
	{
		bool		in_heap = entry->state == ENTRY_READY || (!entry->untaken && !TransactionIdIsValid(entry->settler));

		es_entry_hold_again(state, entry);
		entry->until = until;
		entry->alive = now;
		if (in_heap)
			pairingheap_add(es_channel_leases(&es_queue_channel_array[entry->hold.channel]), &entry->node);
	}
	LWLockRelease(es_state_lock(state));
	return result;
}

int
es_queue_evict(EsQueueState *state, uint64 consumer, bool is_lost)
{
	int32	   *first = es_state_buckets(state);
	int			n = 0;

	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	for (int b = 0; b < es_queue_nbuckets; b++)
		for (int32 e = first[b]; e != ES_NONE; e = es_queue_entries[e].next)
		{
			Entry	   *entry = &es_queue_entries[e];

			if (entry->state != ENTRY_HELD || entry->untaken || TransactionIdIsValid(entry->settler) ||
				entry->consumer != consumer || entry->slot != state - es_queue_states)
				continue;
			es_entry_make_ready(state, entry, is_lost);
			n++;
		}
	LWLockRelease(es_state_lock(state));
	return n;
}

EsHold *
es_queue_settled_here(EsQueueState *state, int *n)
{
	int			neffects;
	const EsQueueEffect *effects = es_queue_effects(&neffects);
	EsHold	   *holds = palloc(Max(neffects, 1) * sizeof(EsHold));

	*n = 0;
	for (int i = 0; i < neffects; i++)
		if (effects[i].kind == ES_EFFECT_GONE && effects[i].state == state && effects[i].hold.key_hash != 0)
			holds[(*n)++] = effects[i].hold;
	return holds;
}

void
es_queue_state_forget(int32 queue_id)
{
	EsQueueState *state = es_queue_state_find(queue_id);

	if (state != NULL)
		es_queue_effect_add(ES_EFFECT_FORGET, state, NULL)->key = es_slot_key(queue_id);
}

TimestampTz
es_queue_state_next_due(EsQueueState *state)
{
	TimestampTz next = DT_NOEND;

	LWLockAcquire(es_state_lock(state), LW_SHARED);
	for (int32 c = state->first_channel; c != ES_NONE; c = es_queue_channel_array[c].next)
		next = Min(next, next_due(&es_queue_channel_array[c]));
	LWLockRelease(es_state_lock(state));
	/* something has to be read to know: now */
	return TIMESTAMP_IS_NOEND(next) ? 0 : Max(next, 1);
}

EsHold *
es_queue_in_flight(EsQueueState *state, TimestampTz **until, int *n)
{
	int32	   *first = es_state_buckets(state);
	int			size;
	EsHold	   *holds;
	TimestampTz *ends;

	LWLockAcquire(es_state_lock(state), LW_SHARED);
	size = state->in_flight;
	LWLockRelease(es_state_lock(state));
	size = size + size / 8 + 64;	/* some are taken before we look again; what does not fit is left out */
	holds = MemoryContextAllocExtended(CurrentMemoryContext, size * sizeof(EsHold), MCXT_ALLOC_HUGE);
	ends = MemoryContextAllocExtended(CurrentMemoryContext, size * sizeof(TimestampTz), MCXT_ALLOC_HUGE);
	*n = 0;
	LWLockAcquire(es_state_lock(state), LW_SHARED);
	for (int b = 0; b < es_queue_nbuckets && *n < size; b++)
		for (int32 e = first[b]; e != ES_NONE && *n < size; e = es_queue_entries[e].next)
		{
			const Entry *entry = &es_queue_entries[e];

			if (entry->state == ENTRY_HELD && entry->slot == state - es_queue_states && !entry->hold.is_key)
			{
				holds[*n] = entry->hold;
				ends[(*n)++] = entry->until;
			}
		}
	LWLockRelease(es_state_lock(state));
	if (until != NULL)
		*until = ends;
	return holds;
}

bool
es_queue_effect_commit(const EsQueueEffect *effect)
{
	EsQueueState *state = effect->state;
	Entry	   *entry;
	bool		wake = effect->kind != ES_EFFECT_TAKEN && effect->kind != ES_EFFECT_SETTLED;

	if (effect->kind == ES_EFFECT_FORGET)
	{
		es_state_forget_key(&effect->key);
		return true;
	}
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	if (effect->kind == ES_EFFECT_READ_AGAIN)
		read_again(state);
	else if ((entry = es_entry_of(&effect->hold)) != NULL)
		switch (effect->kind)
		{
			case ES_EFFECT_TAKEN:
				entry->untaken = false;
				if (!TransactionIdIsValid(entry->settler))
					pairingheap_add(es_channel_leases(&es_queue_channel_array[entry->hold.channel]), &entry->node);
				break;
			case ES_EFFECT_SETTLED:
				entry->settler = InvalidTransactionId;
				if (entry->untaken)
					break;
				pairingheap_add(es_channel_leases(&es_queue_channel_array[entry->hold.channel]), &entry->node);
				break;
			case ES_EFFECT_GONE:
				if (entry->hold.key_hash != 0)
					es_entry_add_key(state, &entry->hold);
				else if ((wake = state->is_limited))
					state->came++;
				es_entry_free(state, entry);
				break;
			case ES_EFFECT_AGAIN:
				if (effect->deliver_at != 0)
				{
					EsReady		ready = {
						.id = entry->hold.id, .share = entry->hold.share, .rank = entry->hold.rank,
						.key_hash = entry->hold.key_hash, .deliver_at = effect->deliver_at, .tid = effect->hold.tid};

					es_entry_free(state, entry);
					announce(state, &ready);
					break;
				}
				entry->hold.tid = effect->hold.tid;
				entry->hold.lost = 0;
				es_entry_make_ready(state, entry, false);
				break;
			case ES_EFFECT_GIVEN_BACK:
				es_entry_make_ready(state, entry, false);
				break;
			case ES_EFFECT_READ_AGAIN:
			case ES_EFFECT_FORGET:
				break;
		}
	LWLockRelease(es_state_lock(state));
	return wake;
}

/* in the reverse order of what was done */
bool
es_queue_effect_abort(const EsQueueEffect *effect)
{
	EsQueueState *state = effect->state;
	Entry	   *entry;

	if (effect->kind == ES_EFFECT_FORGET || effect->kind == ES_EFFECT_READ_AGAIN)
		return false;
	LWLockAcquire(es_state_lock(state), LW_EXCLUSIVE);
	entry = es_entry_of(&effect->hold);
	if (entry != NULL && effect->kind == ES_EFFECT_TAKEN)
	{
		es_entry_make_ready(state, entry, true);
		entry->hold.rolled_back = true;
	}
	else if (entry != NULL)
	{
		entry->settler = InvalidTransactionId;
		if (!entry->untaken)
			pairingheap_add(es_channel_leases(&es_queue_channel_array[entry->hold.channel]), &entry->node);
	}
	LWLockRelease(es_state_lock(state));
	return effect->kind == ES_EFFECT_TAKEN;
}

/* may there be something to take, or to read?  Locks: the queue's */
static bool
has_something(Channel *channel, TimestampTz now)
{
	return !pairingheap_is_empty(&channel->ready) || es_mark_is_before(channel->walks[ES_WALK_ORDER].mark, ES_MARK_END) ||
		next_due(channel) <= now;
}

/* a delay or a lease that is over next; DT_NOEND: none.  Locks: the queue's */
static TimestampTz
next_due(Channel *channel)
{
	return Min(channel->next_due, lease_end(channel));
}

/* DT_NOEND: there is none.  Locks: the queue's */
static TimestampTz
lease_end(Channel *channel)
{
	return pairingheap_is_empty(&channel->leases) ? DT_NOEND : ENTRY_OF_NODE(pairingheap_first(&channel->leases))->until;
}

/*
 * Whatever a deleted row held up has to be found anew, and what is ready may be gone.  An entry that somebody lost stays: it knows how
 * often, or has a receipt that holds until it is taken.  Locks: the queue's
 */
static void
read_again(EsQueueState *state)
{
	int32	   *first = es_state_buckets(state);

	for (int b = 0; b < es_queue_nbuckets; b++)
		for (int32 e = first[b], next; e != ES_NONE; e = next)
		{
			Entry	   *entry = &es_queue_entries[e];

			next = entry->next;
			if (entry->state == ENTRY_READY && entry->slot == state - es_queue_states && entry->hold.lost == 0 && entry->hold.epoch == 0)
				es_entry_free(state, entry);
		}
	for (int32 c = state->first_channel; c != ES_NONE; c = es_queue_channel_array[c].next)
	{
		Channel    *channel = &es_queue_channel_array[c];

		for (int w = 0; w < ES_QUEUE_WALKS; w++)
			es_walk_lower(&channel->walks[w], ES_MARK_BEGIN);
		channel->next_due = DT_NOBEGIN;
	}
	state->wanted++;
	state->came++;
}

/* how many may be taken now */
static int
take_room(EsQueueState *state, const EsTake *take)
{
	int			room = take->want;

	state->is_limited = take->max_in_flight > 0;
	if (take->max_in_flight > 0)
	{
		/* leases that are over use nothing up, whoever reads their share */
		for (int32 c = state->first_channel; c != ES_NONE && take->max_in_flight - state->in_flight < room; c = es_queue_channel_array[c].next)
			expire(state, &es_queue_channel_array[c], take->now);
		room = Min(room, take->max_in_flight - state->in_flight);
	}
	if (take->rate > 0)
		room = Min(room, es_rate_room(&state->rate, take->rate, take->now));
	return Max(room, 0);
}

/* Locks: the queue's */
static void
announce(EsQueueState *state, const EsReady *ready)
{
	int32		number = es_channel_find(state, ready->share);
	Channel    *channel;
	Walk	   *walk;
	EsMark		mark;

	if (number == ES_NONE)
		number = es_channel_add(state, ready->share, ready->tenant_hash);
	/* also what was due before its transaction came to its end */
	if (ready->deliver_at == 0 || ready->deliver_at <= es_clock_now())
		state->came++;
	if (number == ES_NONE)
	{
		state->wanted++;
		return;
	}
	channel = &es_queue_channel_array[number];
	if (ready->deliver_at != 0)
	{
		walk = &channel->walks[ES_WALK_TIME];
		es_walk_lower(walk, (EsMark) {ready->deliver_at, ready->id});
		channel->next_due = Min(channel->next_due, ready->deliver_at);
		return;
	}
	walk = &channel->walks[ES_WALK_ORDER];
	mark = (EsMark) {ready->rank, ready->id};
	if (!walk->walking && !es_mark_is_before(mark, walk->mark))
		return;
	if (!ItemPointerIsValid(&ready->tid) ||
		(es_entry_find(state, ready->id) == NULL &&
		 (channel->nready >= ES_MAX_READY || !es_queue_has_room() || es_entry_add_ready(state, number, ready) == NULL)))
		es_walk_lower(walk, mark);
}

/* their receipts hold until somebody takes them */
static void
expire(EsQueueState *state, Channel *channel, TimestampTz now)
{
	while (!pairingheap_is_empty(&channel->leases))
	{
		Entry	   *entry = ENTRY_OF_NODE(pairingheap_first(&channel->leases));
		uint64		epoch = entry->hold.epoch;

		if (entry->until > now)
			break;
		es_entry_make_ready(state, entry, true);
		entry->hold.epoch = epoch;
	}
}

