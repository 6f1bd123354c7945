/*
 * queue_walk.h
 *		Reading the rows of a queue for what is ready.
 */
#ifndef ES_QUEUE_WALK_H
#define ES_QUEUE_WALK_H

#include "executor/tuptable.h"
#include "utils/snapshot.h"

#include "queue_state.h"

/* reads on where the channel's mark is; false: there is no room for what it found */
extern bool es_queue_walk(EsQueueState *state, int32 queue_id, int32 channel, int64 share, EsQueueWalk which, TimestampTz now, int want);
/* makes a channel of each share that has rows; false: there is no room for all */
extern bool es_queue_find_shares(EsQueueState *state, int32 queue_id);
/* the row in the slot, or false where the snapshot does not show it */
extern bool es_queue_fetch(int32 queue_id, const EsHold *hold, Snapshot snapshot, TupleTableSlot *slot);
extern EsReady *es_queue_read_row(TupleTableSlot *slot, EsReady *ready);
/* the first message of a key with an id above that; false: there is none */
extern bool es_queue_first_of_key(int32 queue_id, uint64 key_hash, int64 above, Snapshot snapshot, EsReady *ready);

#endif
